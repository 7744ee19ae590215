package store

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// A columnKind is what the values of a column are, in all databases.
type columnKind string

const (
	intColumn   columnKind = "int"   // 64 bits with a sign
	textColumn  columnKind = "text"  // UTF-8 without NUL
	bytesColumn columnKind = "bytes" // as they are
)

// column is one column of a table; each may be NULL as far as a backup is concerned.
type column struct {
	Name string     `json:"name"`
	Kind columnKind `json:"kind"`
}

// table is one table as migrations have made it.
type table struct {
	name string
	// columns in the order of a backup. The first is the primary key.
	columns []column
	// counted says that the database counts the key up and uses none twice.
	counted bool
	// without names the rows that belong to one database and not to its contents, as SQL.
	without string
}

// The plain table (package plain of history) is made from the log and is no part of a backup,
// nor are the rows of table meta that tell how far it is; a restore removes what is left of it.
const (
	// PlainTable and PlainView are its names.
	PlainTable = "telemetry"
	PlainView  = "telemetry_named"
	// PlainForm and PlainThrough are the names of its rows in table meta.
	PlainForm    = "plain_form"
	PlainThrough = "plain_through"
)

// contents are all tables with all their columns, as the newest migration leaves them, but
// for goose's own. A backup has these: whoever adds a migration adds to this list. A test
// compares it with the databases.
func contents() []table {
	key := func(name string) column { return column{name, intColumn} }
	ints := func(names string) (all []column) {
		for name := range strings.FieldsSeq(names) {
			all = append(all, column{name, intColumn})
		}
		return all
	}
	text := func(name string) column { return column{name, textColumn} }
	blob := func(name string) column { return column{name, bytesColumn} }
	join := func(lists ...[]column) (all []column) {
		for _, list := range lists {
			all = append(all, list...)
		}
		return all
	}
	return []table{
		{name: "meta", columns: []column{text("name"), text("value")}, without: "name NOT IN ('" + markName + "', '" + restoringName + "', '" + PlainForm + "', '" + PlainThrough + "')"},
		{name: "person", counted: true, columns: []column{key("id"), text("name"), text("password_hash"), key("created_ms")}},
		{name: "token", counted: true, columns: join([]column{key("id"), text("name"), blob("hash"), text("scope"), text("created_by")}, ints("created_ms expires_ms used_ms"))},
		{name: "login", columns: join([]column{blob("hash")}, ints("person created_ms expires_ms"))},
		{name: "device", counted: true, columns: []column{
			key("id"), text("name"), text("type"), key("secret_kind"), blob("secret"), key("disabled"), key("created_ms"), key("pending"),
		}},
		{name: "device_state", columns: join(ints("device position received_us time_us boot seq"), []column{blob("body")}, ints("online since_us"), []column{text("address")})},
		{name: "command", columns: []column{text("id"), key("device"), key("active"), text("idempotency_key"), key("created_ms"), blob("body")}},
		{name: "shape", columns: []column{key("id"), blob("body")}},
		{name: "intake", columns: join(ints("id n received_us received_last_us"), []column{blob("body")})},
		{name: "chunk", columns: join(ints("id device late t0 t1 p0 p1 n base"), []column{blob("body")})},
		{name: "broker_session", columns: []column{key("id"), blob("head"), blob("will"), blob("subs"), blob("state")}},
		{name: "broker_queue", columns: join(ints("id session n0 n1 bytes"), []column{blob("body")})},
		{name: "broker_retained", columns: []column{blob("topic"), blob("body")}},
		{name: "forwarder", counted: true, columns: []column{key("id"), text("name"), blob("spec"), blob("secrets"), key("paused"), text("created_by"), key("created_ms")}},
		{name: "forwarder_place", columns: join([]column{text("name")}, ints("settled sent flowing"), []column{blob("counters")})},
		{name: "forwarder_dead", counted: true, columns: join([]column{key("id"), text("name")}, ints("position kind device"), []column{text("device_name")},
			ints("received_us time_us at_us attempts status"), []column{text("reason"), blob("body")})},
	}
}

// newestVersion is the version to which the migrations bring a database.
func newestVersion() (int64, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil || len(names) == 0 {
		return 0, fmt.Errorf("there are no embedded migrations: %w", err)
	}
	var newest int64
	for _, name := range names {
		number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		v, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("the embedded migration %s has no number: %w", name, err)
		}
		newest = max(newest, v)
	}
	return newest, nil
}
