package plain_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history/plain"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

const aDay = 24 * time.Hour

// parts gives the rows of each partition, by a name that is the same for both servers.
func parts(t *testing.T, db *storetest.Database) map[string]int {
	t.Helper()
	sql := db.SQL(t)
	query := `SELECT PARTITION_NAME FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'telemetry'`
	if db.Kind == storetest.PostgreSQL {
		query = `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'telemetry'::regclass`
	}
	found, err := sql.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	all := map[string]int{}
	for found.Next() {
		var name string
		if err := found.Scan(&name); err != nil {
			t.Fatal(err)
		}
		all[name] = 0
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	short := map[string]int{}
	for name := range all {
		from := "telemetry PARTITION (" + name + ")"
		if db.Kind == storetest.PostgreSQL {
			from = name
		}
		var n int
		if err := sql.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM `+from).Scan(&n); err != nil {
			t.Fatal(err)
		}
		short[strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(name, "telemetry_"), "p_"), "p")] = n
	}
	return short
}

func nameOf(at time.Time) string { return at.UTC().Format("20060102") }

// TestDays: each day has its partition, those of late and imported messages too; what is older than a year has one for all.
func TestDays(t *testing.T) { storetest.Each(t, testDays) }

func testDays(t *testing.T, db *storetest.Database) {
	t.Helper()
	h := start(t, db, quick())
	now := time.Now()
	var all []want
	wanted := map[string]int{}
	add := func(at time.Time, n int) {
		at = at.UTC().Truncate(aDay)
		for i := range n { // the first and the last moment of the day
			micros := at.Add(time.Duration(i%2) * (aDay - time.Microsecond)).UnixMicro()
			all = append(all, h.put(t, signalbox.EntryImported, signalbox.DeviceID(i%3+1), micros, fmt.Sprintf(`{"n":%d}`, len(all))))
		}
		if at.Before(now.AddDate(0, 0, -366)) {
			wanted["old"] += n
		} else {
			wanted[nameOf(at)] += n
		}
	}
	step := func() {
		h.caughtUp(t)
		same(t, "rows", rows(t, db), all)
	}
	add(now.Add(-aDay), 4)
	step()
	add(now.Add(-100*aDay), 4)
	step()
	add(now.Add(-50*aDay), 4) // between others
	add(now.Add(-300*aDay), 4)
	step()
	h.stop(t)
	h = start(t, db, quick())
	add(now.Add(-365*aDay), 4)
	add(now.Add(-3650*aDay), 4)
	add(time.Unix(0, 0).Add(aDay), 4)
	add(now.Add(-301*aDay), 4)
	step()
	if db.Kind == storetest.SQLite {
		return
	}
	got := parts(t, db)
	for d := range 3 {
		if _, ok := got[nameOf(now.AddDate(0, 0, d))]; !ok {
			t.Errorf("there is no partition for %s", nameOf(now.AddDate(0, 0, d)))
		}
	}
	maps.DeleteFunc(got, func(_ string, n int) bool { return n == 0 })
	if !maps.Equal(got, wanted) {
		t.Errorf("partitions have %v, want %v", got, wanted)
	}
}

// rules are what Retain is told.
type rules map[signalbox.DeviceID]time.Time

func (r rules) before(d signalbox.DeviceID) time.Time { return r[d] }

// TestRetain drops whole days where all devices let it, and rows of others.
func TestRetain(t *testing.T) { storetest.Each(t, testRetain) }

func testRetain(t *testing.T, db *storetest.Database) {
	t.Helper()
	var removed atomic.Bool // device 4
	cfg := quick()
	cfg.Known = func(d signalbox.DeviceID) bool { return d != 4 || !removed.Load() }
	h := start(t, db, cfg)
	split := db.Kind != storetest.SQLite
	today := time.Now().UTC().Truncate(aDay)
	var all []want
	for _, back := range []int{0, 1, 5, 6, 7, 8, 40, 120, 1000} {
		for i := range 12 {
			at := today.Add(-time.Duration(back)*aDay + time.Duration(min(i, back*12))*time.Hour)
			for d := range 4 {
				all = append(all, h.put(t, signalbox.EntryImported, signalbox.DeviceID(d+1), min(at.UnixMicro(), time.Now().UnixMicro()), fmt.Sprintf(`{"n":%d}`, len(all))))
			}
		}
	}
	h.caughtUp(t)
	retain := func(r rules) plain.Dropped {
		t.Helper()
		was := len(rows(t, db))
		got, err := h.table.Retain(t.Context(), r.before)
		if err != nil {
			t.Fatal(err)
		}
		all = slices.DeleteFunc(all, func(w want) bool {
			limit := r[w.device]
			if split && allSame(r) { // whole days
				limit = limit.Truncate(aDay)
			}
			return !limit.IsZero() && w.micros < limit.UnixMicro()
		})
		left := rows(t, db)
		same(t, fmt.Sprint(r), left, all)
		if !split && int(got.Rows) != was-len(left) {
			t.Errorf("it says that %d rows went; %d did", got.Rows, was-len(left))
		}
		return got
	}
	if got := retain(rules{}); got != (plain.Dropped{}) {
		t.Errorf("without a rule %+v went", got)
	}
	// Older than what has days of its own: row by row everywhere.
	at := today.AddDate(0, 0, -999)
	if got := retain(rules{1: at, 2: at, 3: at, 4: at}); got != (plain.Dropped{Rows: 48}) {
		t.Errorf("of the oldest %+v went", got)
	}
	// All but a device.
	at = today.AddDate(0, 0, -100)
	if got := retain(rules{1: at, 2: at, 4: at.Add(7 * time.Hour)}); got != (plain.Dropped{Rows: 36}) {
		t.Errorf("of three devices %+v went", got)
	}
	at = today.AddDate(0, 0, -6).Add(150 * time.Minute)
	got := retain(rules{1: at, 2: at, 3: at, 4: at})
	if want := (plain.Dropped{Rows: 36 + 12 + 36 + 12}); !split && got.Rows == 0 || split && (got.Rows != 0 || got.Days < 4) {
		t.Errorf("of all devices %+v went, want %+v or days", got, want)
	}
	if got, err := h.table.Retain(t.Context(), rules{1: at, 2: at, 3: at, 4: at}.before); err != nil || got != (plain.Dropped{}) {
		t.Errorf("again %+v went, %v", got, err)
	}
	// What comes late has its place again.
	for _, back := range []int{8, 130, 1001, 7, 6} {
		all = append(all, h.put(t, signalbox.EntryImported, 2, today.AddDate(0, 0, -back).UnixMicro(), `{"late":1}`))
	}
	h.caughtUp(t)
	same(t, "late", rows(t, db), all)
	at = at.AddDate(0, 0, 1)
	retain(rules{1: at, 2: at, 3: at, 4: at})
	// A device that is removed.
	removed.Store(true)
	retain(rules{4: time.Now()})
	h.put(t, signalbox.EntryTelemetry, 4, 0, `{"removed":1}`)
	h.caughtUp(t)
	same(t, "removed", rows(t, db), all)
	if split {
		got := parts(t, db)
		if got["later"] != 0 || got["gap"] != 0 {
			t.Errorf("partitions have %v", got)
		}
		if _, ok := got[nameOf(today.AddDate(0, 0, -8))]; ok {
			t.Errorf("the partition of %s is there still", nameOf(today.AddDate(0, 0, -8)))
		}
	}
}

func allSame(r rules) bool {
	for _, at := range r {
		if len(r) < 4 || !at.Equal(r[1]) || at.Before(time.Now().AddDate(-1, 0, 0)) {
			return false
		}
	}
	return true
}

// TestRetainMany deletes more of a device than goes into one transaction, equal times among it.
func TestRetainMany(t *testing.T) { storetest.Each(t, testRetainMany) }

func testRetainMany(t *testing.T, db *storetest.Database) {
	t.Helper()
	h := start(t, db, quick())
	at := time.Now().Add(-10 * aDay)
	var kept []want
	for i := range 9000 {
		micros := at.Add(time.Duration(i/5000) * time.Microsecond).UnixMicro() // many of one time
		h.put(t, signalbox.EntryImported, 1, micros, `{"go":1}`)
		if i%100 == 0 {
			kept = append(kept, h.put(t, signalbox.EntryImported, 2, micros, `{"stay":1}`), h.put(t, signalbox.EntryTelemetry, 1, 0, `{"stay":2}`))
		}
	}
	h.caughtUp(t)
	got, err := h.table.Retain(t.Context(), rules{1: time.Now().Add(-aDay)}.before)
	if err != nil || got != (plain.Dropped{Rows: 9000}) {
		t.Errorf("%+v went, %v", got, err)
	}
	same(t, "the rest", rows(t, db), kept)
}

// TestLocked: a table that somebody keeps locked holds up neither the log nor the rows for longer than that.
func TestLocked(t *testing.T) {
	for _, kind := range storetest.Servers() {
		t.Run(string(kind), func(t *testing.T) {
			db := storetest.New(t, kind)
			h := start(t, db, quick())
			all := []want{h.put(t, signalbox.EntryTelemetry, 1, 0, `{"n":0}`)}
			h.caughtUp(t)
			conn, err := db.SQL(t).Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			lock, unlock := []string{"LOCK TABLES telemetry WRITE"}, "UNLOCK TABLES"
			if kind == storetest.PostgreSQL {
				lock, unlock = []string{"BEGIN", "LOCK TABLE telemetry IN ACCESS EXCLUSIVE MODE"}, "COMMIT"
			}
			for _, query := range lock {
				if _, err := conn.ExecContext(t.Context(), query); err != nil {
					t.Fatal(err)
				}
			}
			quickest := patience
			for i := range 20 {
				all = append(all, h.put(t, signalbox.EntryTelemetry, 1, 0, fmt.Sprintf(`{"n":%d}`, i+1)))
				began := time.Now()
				h.committed(t)
				quickest = min(quickest, time.Since(began))
			}
			if quickest > 2*time.Second { // who waits for the table gives up after three
				t.Errorf("the log took %v and longer each time", quickest)
			}
			until(t, func() string {
				if h.table.Stats().Faults.Load() > 0 {
					return ""
				}
				return "the lock is not noticed"
			})
			if _, err := conn.ExecContext(t.Context(), unlock); err != nil {
				t.Fatal(err)
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			h.caughtUp(t)
			same(t, "afterwards", rows(t, db), all)
		})
	}
}

// TestLongReader: a query that takes long does not keep messages of other days out of the table. In MariaDB they have no
// partition of their own until it has ended.
func TestLongReader(t *testing.T) {
	for _, kind := range storetest.Servers() {
		t.Run(string(kind), func(t *testing.T) {
			db := storetest.New(t, kind)
			now := time.Now() // one day for all: midnight may pass meanwhile
			ago := func(days int) time.Time { return now.AddDate(0, 0, -days) }
			h := start(t, db, quick())
			var all []want
			old := func(back int) {
				all = append(all, h.put(t, signalbox.EntryImported, 1, ago(back).UnixMicro(), fmt.Sprintf(`{"n":%d}`, len(all))))
				h.caughtUp(t)
				same(t, fmt.Sprint(back, " days ago"), rows(t, db), all)
			}
			old(0)
			reader, err := db.SQL(t).BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var n int
			if err := reader.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM telemetry`).Scan(&n); err != nil || n != 1 {
				t.Fatal(n, err)
			}
			old(100)
			old(10)
			where := map[string]int{"gap": 2}
			if kind == storetest.PostgreSQL {
				where = map[string]int{nameOf(ago(100)): 1, nameOf(ago(10)): 1}
			}
			if err := reader.Rollback(); err != nil {
				t.Fatal(err)
			}
			for name, n := range where {
				if got := parts(t, db); got[name] != n {
					t.Errorf("while somebody reads, %s has %d rows of %v, want %d", name, got[name], got, n)
				}
			}
			h.stop(t)
			h = start(t, db, quick())
			old(101)
			for _, back := range []int{100, 101, 10, 0} {
				if got := parts(t, db); got[nameOf(ago(back))] != 1 || got["gap"] != 0 {
					t.Errorf("then partitions have %v", got)
				}
			}
		})
	}
}

// TestAway stops and kills the server under a table that is being filled.
func TestAway(t *testing.T) {
	for _, kind := range storetest.Servers() {
		t.Run(string(kind), func(t *testing.T) {
			server := storetest.Start(t, kind)
			db := server.NewDatabase(t)
			h := start(t, db, &plain.Config{Every: time.Millisecond, Rows: 50}, func(c *store.Config) { c.ConnectTimeout, c.Timeout = patience, patience })
			var all []want
			for round := range 2 {
				for range 3000 {
					all = append(all, h.put(t, signalbox.EntryTelemetry, signalbox.DeviceID(len(all)%5+1), 0, fmt.Sprintf(`{"n":%d}`, len(all))))
				}
				until(t, func() string { // a table that is being filled, not one that is being made
					if h.table.Through() > 0 {
						return ""
					}
					return "no table is made: " + h.said.String()
				})
				if round == 0 {
					server.Kill(t)
				} else {
					server.Stop(t)
				}
				until(t, func() string {
					if h.table.Stats().Faults.Load() > int64(round) || h.table.Behind() == 0 {
						return ""
					}
					return "nobody notices"
				})
				server.Start(t)
				h.caughtUp(t)
				same(t, "afterwards", rows(t, db), all)
			}
		})
	}
}

// TestBackup: the table is in no backup; restored into the next kind of database it is made anew there.
func TestBackup(t *testing.T) {
	kinds := append([]storetest.Kind{storetest.SQLite}, storetest.Servers()...)
	for i, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			h := start(t, storetest.New(t, kind), quick())
			var all []want
			for i := range 3000 {
				all = append(all, h.put(t, signalbox.EntryTelemetry, signalbox.DeviceID(i%5+1), time.Now().Add(-time.Duration(i)*time.Hour).UnixMicro(), fmt.Sprintf(`{"n":%d}`, i)))
			}
			h.caughtUp(t)
			var file strings.Builder
			report, err := h.st.Backup(context.Background(), &file, store.BackupOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, table := range report.Tables {
				if table.Name == store.PlainTable {
					t.Errorf("the backup has the plain table, with %d rows", table.Rows)
				}
			}
			to := storetest.New(t, kinds[(i+1)%len(kinds)])
			// What is left there of an earlier try is no hindrance.
			other := start(t, to, quick())
			until(t, func() string {
				if strings.Contains(other.said.String(), "was made") {
					return ""
				}
				return "no table is made"
			})
			other.stop(t)
			if _, err := to.SQL(t).ExecContext(t.Context(), `DELETE FROM intake`); err != nil {
				t.Fatal(err)
			}
			if _, err := store.Restore(t.Context(), to.Config(), strings.NewReader(file.String()), store.RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			again := start(t, to, quick())
			again.caughtUp(t)
			same(t, "restored", rows(t, to), all)
		})
	}
}
