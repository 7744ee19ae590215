package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"signalbox"
)

const (
	// postgresOldest is the oldest PostgreSQL this package is tried on.
	postgresOldest = 15
	// postgresLock is the number of the advisory lock: «SIGNALBX». Such locks are the database's.
	postgresLock = 0x5349474E_414C4258
	// systemRoots stands for the authorities that this machine trusts, in place of a file.
	systemRoots = "system"
)

// postgres is the dialect of PostgreSQL.
type postgres struct{ e *server }

func (d *postgres) connector(write bool) (*connector, error) {
	to, own := &d.e.to, &d.e.s.cfg
	// Said anew from its parts: an option that is not among ours must not reach the driver.
	u := url.URL{Scheme: "postgres", User: url.UserPassword(to.user, to.password), Path: "/" + to.database}
	if to.password == "" {
		u.User = url.User(to.user) // the driver may find one, in ~/.pgpass
	}
	query := url.Values{}
	for name, value := range to.options {
		query.Set(name, value)
	}
	if to.network == "unix" {
		query.Set("port", to.port)
	} else {
		u.Host = to.address
	}
	file := to.options["sslrootcert"]
	if file != "" && file != systemRoots {
		if _, err := authorities(file); err != nil {
			return nil, err
		}
	}
	if query.Get("sslmode") == "" {
		query.Set("sslmode", "prefer")
		if file != "" {
			query.Set("sslmode", "verify-full")
		} else if to.near() {
			query.Set("sslmode", "disable")
		}
	}
	u.RawQuery = query.Encode()
	cfg, err := pgx.ParseConfig(u.String())
	if err != nil {
		if fault, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
			err = fault.Unwrap() // the whole would hold the URL
		}
		return nil, badURL("the store's address cannot be used: %v", err)
	}
	cfg.ConnectTimeout = own.ConnectTimeout
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &patient{Conn: c, silence: own.Timeout}, nil
	}
	cfg.RuntimeParams["application_name"] = d.name()
	cfg.RuntimeParams["timezone"] = "UTC"
	cfg.RuntimeParams["lock_timeout"] = millis(own.Timeout)
	cfg.RuntimeParams["tcp_keepalives_idle"] = "15"
	cfg.RuntimeParams["tcp_keepalives_interval"] = "5"
	cfg.RuntimeParams["tcp_keepalives_count"] = "3"
	var setup []string
	if write {
		cfg.RuntimeParams["idle_session_timeout"] = millis(sessionIdle)
		cfg.RuntimeParams["idle_in_transaction_session_timeout"] = millis(sessionIdle)
		setup = []string{"SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"}
	} else {
		cfg.RuntimeParams["default_transaction_read_only"] = "on"
	}
	return &connector{
		Connector: stdlib.GetConnector(*cfg), timeout: own.ConnectTimeout, translate: numbered, explain: d.e.explain, unreachable: d.e.unreachable,
		simple: simplePostgres, setup: setup,
		alive: func(c driverConn) bool {
			pg, ok := c.(*stdlib.Conn)
			return !ok || !pg.Conn().IsClosed()
		},
		// A server that knows how stops working for a client that has gone.
		optional: []string{"SET client_connection_check_interval = '2s'"},
	}, nil
}

// name is that of this Store's sessions.
func (d *postgres) name() string { return "signalbox " + d.e.token }

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func simplePostgres(ctx context.Context, c driverConn, query string) (int64, error) {
	pg, ok := c.(*stdlib.Conn)
	if !ok {
		return 0, errors.New("the connection is of another driver")
	}
	results, err := pg.Conn().PgConn().Exec(ctx, query).ReadAll()
	if err != nil || len(results) == 0 {
		return 0, err
	}
	tag := results[len(results)-1].CommandTag
	if query == "COMMIT" && tag.String() != query {
		return 0, errors.New("the server rolled the transaction back")
	}
	return tag.RowsAffected(), nil
}

func (d *postgres) check(ctx context.Context, db *sql.DB) (version string, warnings []string, err error) {
	var (
		number                    int
		encoding, fsync, fullPage string
		standby                   bool
	)
	err = db.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int, split_part(current_setting('server_version'), ' ', 1), current_setting('server_encoding'),
		current_setting('fsync'), current_setting('full_page_writes'), pg_is_in_recovery()`).Scan(&number, &version, &encoding, &fsync, &fullPage, &standby)
	switch {
	case err != nil:
		return "", nil, err
	case number < postgresOldest*10000:
		return "", nil, signalbox.Errorf(signalbox.KindInvalid, "store_server", "the server at %s is PostgreSQL %s; %d or later is needed", d.e.to.address, version, postgresOldest)
	case encoding != "UTF8":
		return "", nil, signalbox.Errorf(signalbox.KindInvalid, "store_server", "the database %s has the encoding %s; one of UTF8 is needed", d.e.to.String(), encoding)
	case standby:
		return "", nil, signalbox.Errorf(signalbox.KindUnavailable, "store_unavailable", "the server at %s is a standby, which takes no changes", d.e.to.address)
	}
	for name, value := range map[string]string{"fsync": fsync, "full_page_writes": fullPage} {
		if value != "on" {
			warnings = append(warnings, fmt.Sprintf("%s is %s; it must be on", name, value))
		}
	}
	return "PostgreSQL " + version, warnings, nil
}

// migrations makes goose's own table, as for MariaDB: goose would try for seconds.
func (d *postgres) migrations(ctx context.Context, db *sql.DB) (goose.Dialect, words, error) {
	err := makeVersions(ctx, db, `id INTEGER GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, version_id BIGINT NOT NULL, is_applied BOOLEAN NOT NULL,
		tstamp TIMESTAMP NOT NULL DEFAULT now()`)
	const name = `TEXT COLLATE "C"`
	return goose.DialectPostgres, words{
		ID: "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY", Int: "BIGINT", Name: name, Text: name, Hash: "BYTEA", Blob: "BYTEA",
		Partial: true, External: true,
	}, err
}

func (d *postgres) begin(ctx context.Context, from, to string) (bool, error) {
	// All are this program's own words, without quotes in them.
	n, err := d.e.simple(ctx, "BEGIN; UPDATE meta SET value = '"+to+"' WHERE name = '"+markName+"' AND value = '"+from+"'")
	return n == 1, err
}

func (d *postgres) lock(ctx context.Context, c *sql.Conn) (got bool, err error) {
	if err := c.QueryRowContext(ctx, `SELECT pg_try_advisory_lock(?)`, int64(postgresLock)).Scan(&got); got || err != nil {
		return got, err
	}
	_, err = c.ExecContext(ctx, `SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND (l.classid::bigint << 32 | l.objid::bigint) = ? AND a.application_name = ? AND l.pid <> pg_backend_pid()`, int64(postgresLock), d.name())
	return false, err
}

func (d *postgres) explain(err error) error {
	if errors.Is(err, pgconn.ErrConnClosed) {
		return signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", err, "the database server at %s cannot be reached (the connection was lost)", d.e.to.address)
	}
	fault, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		if strings.Contains(err.Error(), "server refused TLS connection") { // it has no type
			return noTLS(err, d.e.to)
		}
		return nil
	}
	switch fault.Code {
	case "23505": // unique violation
		return duplicate(err)
	case "53100":
		return signalbox.Wrap(signalbox.KindUnavailable, "disk_full", err, "the disk of the database server at %s is full", d.e.to.address)
	case "42501", "3D000":
		return refused(err, d.e.to)
	case "54000", "54001": // a limit of the program, such as of the size or the depth of a value
		return tooLarge(err)
	case "55P03", "25006": // a lock, read only
		return d.unavailable(err)
	}
	switch fault.Code[:2] {
	case "22": // what is wrong with a value
		return valueRefused(err)
	case "28": // who one is
		return refused(err, d.e.to)
	case "08", "40", "53", "57", "58", "XX": // connection, rollback, resources, operator, system, broken
		return d.unavailable(err)
	default:
		return err // what was asked for is wrong, and stays so
	}
}

func (d *postgres) unavailable(err error) error {
	return signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", err, "the database server at %s cannot do it now", d.e.to.address)
}

// patient is a connection to a server that may be silent for so long and no longer, unless
// its user sets a deadline.
type patient struct {
	net.Conn
	silence time.Duration
	mu      sync.Mutex
	set     bool // there is a deadline of the user's
}

// SetDeadline implements net.Conn.
func (p *patient) SetDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set = !t.IsZero()
	return p.Conn.SetDeadline(t)
}

// Read implements net.Conn.
func (p *patient) Read(b []byte) (int, error) {
	if err := p.wait(p.Conn.SetReadDeadline); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}

// Write implements net.Conn.
func (p *patient) Write(b []byte) (int, error) {
	if err := p.wait(p.Conn.SetWriteDeadline); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

func (p *patient) wait(deadline func(time.Time) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.set {
		return nil
	}
	return deadline(time.Now().Add(p.silence))
}
