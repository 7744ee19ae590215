package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// eachServer runs test for each kind of server.
func eachServer(t *testing.T, test func(t *testing.T, kind storetest.Kind)) {
	t.Helper()
	t.Parallel() // most of these tests wait
	for _, kind := range storetest.Servers() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			test(t, kind)
		})
	}
}

const (
	// patience is how long a test waits for what should happen at once.
	patience = 30 * time.Second
	// giveUp is how long stores wait for what will not happen.
	giveUp = 5 * time.Second
)

// hasty makes a store give up soon.
func hasty(c *store.Config) { c.ConnectTimeout, c.Timeout = giveUp, giveUp }

func patient(c *store.Config) { c.ConnectTimeout, c.Timeout = patience, patience }

// through is for a proxy that says at once when there is no connection.
func through(db *storetest.Database, p *storetest.Proxy) func(*store.Config) {
	return func(c *store.Config) {
		patient(c)
		c.URL = db.URLAt(p)
	}
}

func insert(t *testing.T, st *store.Store, id int) error {
	t.Helper()
	return st.Update(t.Context(), func(tx *store.Tx) error { return insertRow(t.Context(), tx, id, []byte{1}) })
}

func present(t *testing.T, st *store.Store, id int) bool {
	t.Helper()
	var n int
	if err := st.Reader().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM intake WHERE id = ?`, id).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n == 1
}

// TestCommitCutOff breaks the connection right at COMMIT. Whatever is said of it is true.
func TestCommitCutOff(t *testing.T) { eachServer(t, testCommitCutOff) }

func testCommitCutOff(t *testing.T, kind storetest.Kind) {
	t.Helper()
	tests := []struct {
		name    string
		cut     storetest.Cut
		unknown bool // what Update says
		stored  bool
	}{
		{"before, server in reach", storetest.Cut{Text: "COMMIT"}, false, false},
		{"after, server in reach", storetest.Cut{Text: "COMMIT", After: true}, false, true},
		{"before, server away", storetest.Cut{Text: "COMMIT", Refuse: true}, true, false},
		{"after, server away", storetest.Cut{Text: "COMMIT", After: true, Refuse: true}, true, true},
	}
	db := storetest.New(t, kind)
	p := storetest.NewProxy(t, db)
	st := db.Open(t, through(db, p)).Store
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			first, second := 10*i+1, 10*i+2
			if err := insert(t, st, first); err != nil {
				t.Fatal(err)
			}
			p.Order(tt.cut)
			err := insert(t, st, second)
			if p.Cuts() != i+1 {
				t.Fatalf("%d connections were cut, want %d (%v)", p.Cuts(), i+1, err)
			}
			unknown, is := errors.AsType[*store.UnknownOutcome](err)
			if is != tt.unknown || !is && (err == nil) != tt.stored || err != nil && signalbox.KindOf(err) != signalbox.KindUnavailable {
				t.Fatalf("the cut commit gives %v", err)
			}
			if is {
				if _, err := st.Outcome(t.Context(), unknown); signalbox.KindOf(err) != signalbox.KindUnavailable {
					t.Errorf("while the server is away the outcome is %v", err)
				}
				if err := insert(t, st, first+5); signalbox.KindOf(err) != signalbox.KindUnavailable {
					t.Errorf("while the server is away a change gives %v", err)
				}
				p.Admit()
				committed, err := st.Outcome(t.Context(), unknown)
				if err != nil || committed != tt.stored {
					t.Errorf("the outcome is %v, want %v (%v)", committed, tt.stored, err)
				}
				if err := insert(t, st, second+5); err != nil { // what comes later changes nothing about it
					t.Fatal(err)
				}
				if again, err := st.Outcome(t.Context(), unknown); err != nil || again != committed {
					t.Errorf("asked again the outcome is %v, %v", again, err)
				}
			}
			if got := present(t, st, second); got != tt.stored {
				t.Errorf("the row is there: %v, want %v", got, tt.stored)
			}
		})
	}
}

// TestCutAnywhere breaks the connection at each other step of a transaction: it is undone, and
// the next one works.
func TestCutAnywhere(t *testing.T) { eachServer(t, testCutAnywhere) }

func testCutAnywhere(t *testing.T, kind storetest.Kind) {
	t.Helper()
	db := storetest.New(t, kind)
	p := storetest.NewProxy(t, db)
	st := db.Open(t, through(db, p)).Store
	id := 0
	next := func() int { id++; return id }
	if err := insert(t, st, next()); err != nil {
		t.Fatal(err)
	}
	p.Refuse() // while nobody writes
	p.Admit()
	if err := insert(t, st, next()); err != nil {
		t.Errorf("after a break that nobody noticed: %v", err)
	}
	var inside bool
	err := st.Update(t.Context(), func(tx *store.Tx) error {
		if err := insertRow(t.Context(), tx, next(), nil1()); err != nil {
			return err
		}
		p.Refuse()
		inside = true
		return insertRow(t.Context(), tx, next(), nil1())
	})
	if !inside || signalbox.KindOf(err) != signalbox.KindUnavailable || signalbox.CodeOf(err) != "store_unavailable" {
		t.Errorf("a break inside a transaction gives %v", err)
	}
	if err := insert(t, st, next()); signalbox.KindOf(err) != signalbox.KindUnavailable || !strings.Contains(err.Error(), p.Addr()) {
		t.Errorf("a server that is away gives %v", err)
	}
	err = st.Reader().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM intake`).Scan(new(int))
	if signalbox.KindOf(err) != signalbox.KindUnavailable {
		t.Errorf("reading from a server that is away gives %v", err)
	}
	p.Admit()
	if err := insert(t, st, next()); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[int]bool{1: true, 2: true, 3: false, 4: false, 5: false, 6: true} {
		if got := present(t, st, id); got != want {
			t.Errorf("row %d is there: %v, want %v", id, got, want)
		}
	}
}

func nil1() []byte { return []byte{1} }

// TestOrphanSession: a network that was cut leaves a session at the server, with the lock and
// half a transaction. The same store ends it.
func TestOrphanSession(t *testing.T) { eachServer(t, testOrphanSession) }

func testOrphanSession(t *testing.T, kind storetest.Kind) {
	t.Helper()
	db := storetest.New(t, kind)
	p := storetest.NewProxy(t, db)
	st := db.Open(t, through(db, p)).Store
	err := st.Update(t.Context(), func(tx *store.Tx) error {
		if err := insertRow(t.Context(), tx, 1, nil1()); err != nil {
			return err
		}
		p.Orphan()
		return insertRow(t.Context(), tx, 2, nil1())
	})
	if signalbox.KindOf(err) != signalbox.KindUnavailable {
		t.Errorf("a cut network gives %v", err)
	}
	if err := insert(t, st, 1); err != nil {
		t.Errorf("after a cut network: %v", err)
	}
	if present(t, st, 2) {
		t.Error("a half transaction is there")
	}
}

// TestOneHub: a database belongs to one hub, and one that lost it to another stops writing.
func TestOneHub(t *testing.T) { eachServer(t, testOneHub) }

func testOneHub(t *testing.T, kind storetest.Kind) {
	t.Helper()
	db := storetest.New(t, kind)
	p := storetest.NewProxy(t, db)
	first := db.Open(t, through(db, p), hasty).Store
	if err := insert(t, first, 1); err != nil {
		t.Fatal(err)
	}
	cfg := db.Config()
	hasty(&cfg)
	st, err := store.Open(t.Context(), cfg)
	if err == nil {
		t.Fatal("two hubs opened one database", st.Close())
	}
	if signalbox.KindOf(err) != signalbox.KindConflict || signalbox.CodeOf(err) != "store_in_use" || !strings.Contains(err.Error(), "another Signalbox") {
		t.Errorf("a second hub is told %v", err)
	}
	db.Server.NewDatabase(t).Open(t) // another database of the same server is free

	p.Refuse() // the first hub loses its connection, and a second takes over
	second := db.Open(t)
	p.Admit()
	if err := insert(t, first, 2); signalbox.KindOf(err) != signalbox.KindUnavailable || signalbox.CodeOf(err) != "store_in_use" {
		t.Errorf("while another hub has the database a change gives %v", err)
	}
	if err := insert(t, second.Store, 2); err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := insert(t, first, 3); signalbox.KindOf(err) != signalbox.KindUnavailable || signalbox.CodeOf(err) != "store_changed_hands" {
			t.Errorf("after another hub wrote a change gives %v", err)
		}
	}
	if present(t, first, 3) {
		t.Error("the row is there")
	}
}

// TestCalledOff: a caller who gives up in the middle costs the transaction, not the session.
func TestCalledOff(t *testing.T) { eachServer(t, testCalledOff) }

func testCalledOff(t *testing.T, kind storetest.Kind) {
	t.Helper()
	st := storetest.New(t, kind).Open(t).Store
	before := session(t, st, kind)
	ctx, cancel := context.WithCancel(t.Context())
	err := st.Update(ctx, func(tx *store.Tx) error {
		if err := insertRow(ctx, tx, 1, nil1()); err != nil {
			return err
		}
		cancel()
		return insertRow(ctx, tx, 2, nil1())
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a change that was called off gives %v", err)
	}
	if after := session(t, st, kind); after != before {
		t.Errorf("the session %d was replaced by %d", before, after)
	}
	if present(t, st, 1) {
		t.Error("the row is there")
	}
}

func session(t *testing.T, st *store.Store, kind storetest.Kind) (id int64) {
	t.Helper()
	query := map[storetest.Kind]string{storetest.MariaDB: `SELECT CONNECTION_ID()`, storetest.PostgreSQL: `SELECT pg_backend_pid()`}[kind]
	if err := st.Update(t.Context(), func(tx *store.Tx) error { return tx.QueryRow(t.Context(), query, nil, &id) }); err != nil {
		t.Fatal(err)
	}
	return id
}

// TestServerStandsStill: a server that does not answer holds nobody up for longer than was
// configured.
func TestServerStandsStill(t *testing.T) { eachServer(t, testServerStandsStill) }

func testServerStandsStill(t *testing.T, kind storetest.Kind) {
	t.Helper()
	server := storetest.Start(t, kind)
	st := server.NewDatabase(t).Open(t, hasty).Store
	if err := insert(t, st, 1); err != nil {
		t.Fatal(err)
	}
	server.Pause(t)
	began := time.Now()
	err := insert(t, st, 2)
	write := time.Since(began)
	if signalbox.KindOf(err) != signalbox.KindUnavailable {
		t.Errorf("writing gives %v", err)
	}
	began = time.Now()
	err = st.Reader().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM intake`).Scan(new(int))
	read := time.Since(began)
	if signalbox.KindOf(err) != signalbox.KindUnavailable {
		t.Errorf("reading gives %v", err)
	}
	t.Logf("given up after %v writing, %v reading", write, read)
	if write > patience || read > patience {
		t.Error("that took too long")
	}
	server.Continue(t)
	id := 3
	for deadline := time.Now().Add(patience); !settled(t, st, id); id++ {
		if time.Now().After(deadline) {
			t.Fatal("after the server went on nothing can be written")
		}
	}
	if there := rowsThere(t, st); !there[1] || !there[id] || len(there) != 2 {
		t.Error("the rows are not those that were acknowledged")
	}
}

// TestServerRestarts kills a server again and again under writers: all that was acknowledged
// is there, and nothing that was refused.
func TestServerRestarts(t *testing.T) { eachServer(t, testServerRestarts) }

func testServerRestarts(t *testing.T, kind storetest.Kind) {
	t.Helper()
	const rounds, writers = 3, 3
	server := storetest.Start(t, kind)
	var log written
	st := server.NewDatabase(t).Open(t, patient, func(c *store.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }).Store
	stored := make([]map[int]bool, writers)
	var progress [writers]chan bool
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var work sync.WaitGroup
	for w := range writers {
		stored[w] = map[int]bool{}
		progress[w] = make(chan bool, 1)
		work.Go(func() {
			for id := w + 1; ctx.Err() == nil; id += writers {
				stored[w][id] = settled(t, st, id)
				if stored[w][id] {
					select {
					case progress[w] <- true:
					default:
					}
				}
			}
		})
	}
	for range rounds {
		for range 20 {
			<-progress[0]
		}
		server.Kill(t)
		store.Watch(st)
		server.Start(t)
		store.Watch(st)
	}
	<-progress[0]
	<-progress[0]
	stop()
	work.Wait()
	there := rowsThere(t, st)
	acknowledged := 0
	for _, of := range stored {
		for id, want := range of {
			if there[id] != want {
				t.Errorf("row %d is there: %v, said was %v", id, there[id], want)
			}
			if want {
				acknowledged++
			}
		}
	}
	if acknowledged != len(there) {
		t.Errorf("%d rows are there, %d were acknowledged", len(there), acknowledged)
	}
	if n := strings.Count(log.String(), "the database server is away"); n != rounds {
		t.Errorf("the log told %d times of a server that was away %d times:\n%s", n, rounds, log.String())
	}
}

// written is what a logger wrote.
type written struct {
	mu   sync.Mutex
	text strings.Builder
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func rowsThere(t *testing.T, st *store.Store) map[int]bool {
	t.Helper()
	rows, err := st.Reader().QueryContext(t.Context(), `SELECT id FROM intake`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	there := map[int]bool{}
	for rows.Next() {
		var id int
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		there[id] = true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return there
}

// settled writes a row and says whether it is stored, as soon as that is known.
func settled(t *testing.T, st *store.Store, id int) bool {
	t.Helper()
	err := insert(t, st, id)
	unknown, is := errors.AsType[*store.UnknownOutcome](err)
	if !is {
		if err != nil && signalbox.KindOf(err) != signalbox.KindUnavailable {
			t.Errorf("row %d: %v", id, err)
		}
		return err == nil
	}
	for {
		committed, err := st.Outcome(t.Context(), unknown)
		if err == nil {
			return committed
		}
		if signalbox.KindOf(err) != signalbox.KindUnavailable || t.Context().Err() != nil {
			t.Errorf("the outcome of row %d: %v", id, err)
			return false
		}
	}
}

// TestSettings asks the servers themselves.
func TestSettings(t *testing.T) {
	t.Run("MariaDB", func(t *testing.T) {
		st := storetest.New(t, storetest.MariaDB).Open(t).Store
		var mode, zone, collation string
		var auto, readOnly int
		query := `SELECT @@sql_mode, @@time_zone, @@collation_connection, @@autocommit, @@tx_read_only`
		if err := st.Update(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(t.Context(), query, nil, &mode, &zone, &collation, &auto, &readOnly)
		}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(mode, "STRICT_ALL_TABLES") || zone != "+00:00" || collation != "utf8mb4_nopad_bin" || auto != 0 || readOnly != 0 {
			t.Error(mode, zone, collation, auto, readOnly)
		}
		if err := st.Reader().QueryRowContext(t.Context(), query).Scan(&mode, &zone, &collation, &auto, &readOnly); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(mode, "STRICT_ALL_TABLES") || zone != "+00:00" || collation != "utf8mb4_nopad_bin" || auto != 1 || readOnly != 1 {
			t.Error(mode, zone, collation, auto, readOnly)
		}
		var n int
		err := st.Reader().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name <> 'goose_db_version'
			AND (engine <> 'InnoDB' OR table_collation <> 'utf8mb4_nopad_bin')`).Scan(&n)
		if err != nil || n != 0 {
			t.Errorf("%d tables are of another kind, %v", n, err)
		}
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		st := storetest.New(t, storetest.PostgreSQL).Open(t).Store
		var sync, readOnly, zone string
		query := `SELECT current_setting('synchronous_commit'), current_setting('transaction_read_only'), current_setting('timezone')`
		if err := st.Update(t.Context(), func(tx *store.Tx) error { return tx.QueryRow(t.Context(), query, nil, &sync, &readOnly, &zone) }); err != nil {
			t.Fatal(err)
		}
		if sync != "on" || readOnly != "off" || zone != "UTC" {
			t.Error(sync, readOnly, zone)
		}
		if err := st.Reader().QueryRowContext(t.Context(), query).Scan(&sync, &readOnly, &zone); err != nil || readOnly != "on" {
			t.Error(readOnly, err)
		}
		var storage string
		err := st.Reader().QueryRowContext(t.Context(), `SELECT string_agg(attname || '=' || attstorage::text, ' ' ORDER BY attname) FROM pg_attribute
			WHERE attrelid = 'intake'::regclass AND atttypid = 'bytea'::regtype AND NOT attisdropped`).Scan(&storage)
		if err != nil || storage != "body=e" {
			t.Errorf("blobs are stored as %q, %v", storage, err)
		}
	})
}

// TestServersThatAreRefused are set up so that something acknowledged could be lost, or
// something would not work.
func TestServersThatAreRefused(t *testing.T) {
	t.Run("MariaDB", func(t *testing.T) {
		server := storetest.Start(t, storetest.MariaDB, "--innodb-flush-log-at-trx-commit=2", "--max-allowed-packet=16M")
		db := server.NewDatabase(t)
		var log strings.Builder
		db.Open(t, func(c *store.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		if !strings.Contains(log.String(), "innodb_flush_log_at_trx_commit is 2") {
			t.Errorf("the log says %q", log.String())
		}
		cfg := db.Config()
		cfg.MaxValue = 16 << 20
		refuse(t, cfg, signalbox.KindInvalid, "store_server", "max_allowed_packet")
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		server := storetest.Start(t, storetest.PostgreSQL, storetest.Durable(storetest.PostgreSQL)...)
		db := server.NewDatabase(t)
		exec(t, db.SQL(t), `CREATE DATABASE latin ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0`)
		cfg := db.Config()
		cfg.URL = strings.Replace(cfg.URL, "/Hub", "/latin?sslmode=disable#Hub", 1)
		cfg.URL, _, _ = strings.Cut(cfg.URL, "#")
		refuse(t, cfg, signalbox.KindInvalid, "store_server", "encoding LATIN1")
		var log strings.Builder
		careful := func(c *store.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }
		if err := db.Open(t, careful).Close(); err != nil || log.Len() > 0 {
			t.Errorf("the log says %q, %v", log.String(), err)
		}
		server.Stop(t)
		server.Start(t, "-c", "fsync=off")
		db.Open(t, careful)
		if !strings.Contains(log.String(), "fsync is off") {
			t.Errorf("the log says %q", log.String())
		}
	})
}

func exec(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func refuse(t *testing.T, cfg store.Config, kind signalbox.Kind, code, says string) {
	t.Helper()
	st, err := store.Open(t.Context(), cfg)
	if err == nil {
		t.Fatal("opened", st.Close())
	}
	if signalbox.KindOf(err) != kind || signalbox.CodeOf(err) != code || !strings.Contains(err.Error(), says) {
		t.Errorf("kind %d, code %s: %v; want kind %d, code %s and %q", signalbox.KindOf(err), signalbox.CodeOf(err), err, kind, code, says)
	}
	for _, secret := range []string{storetest.Password, url.QueryEscape(storetest.Password), url.PathEscape(storetest.Password), "s3cret"} {
		if strings.Contains(fmt.Sprintf("%v %+v %q", err, err, err), secret) {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

// TestWaysIn: by socket, with the password apart, and all that can be wrong.
func TestWaysIn(t *testing.T) { eachServer(t, testWaysIn) }

func testWaysIn(t *testing.T, kind storetest.Kind) {
	t.Helper()
	db := storetest.New(t, kind)
	with := func(change func(u *url.URL)) store.Config {
		u, err := url.Parse(db.URL())
		if err != nil {
			t.Fatal(err)
		}
		change(u)
		return store.Config{URL: u.String(), ConnectTimeout: patience}
	}
	for name, cfg := range map[string]store.Config{
		"socket": {URL: db.SocketURL()},
		"password apart": func() store.Config {
			cfg := with(func(u *url.URL) { u.User = url.User(storetest.User) })
			cfg.Password = storetest.Password
			return cfg
		}(),
		"other scheme": with(func(u *url.URL) {
			u.Scheme = map[storetest.Kind]string{storetest.MariaDB: "mariadb", storetest.PostgreSQL: "postgresql"}[kind]
		}),
	} {
		st, err := store.Open(t.Context(), cfg)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if where := st.Where(); !strings.Contains(where, string(kind)) || strings.Contains(where, "s3cret") {
			t.Errorf("it is at %q", where)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
	refuse(t, with(func(u *url.URL) { u.User = url.UserPassword(storetest.User, "s3cret-wrong") }), signalbox.KindUnavailable, "store_refused", "does not let signalbox use")
	refuse(t, with(func(u *url.URL) { u.User = url.UserPassword("nobody-here", "s3cret") }), signalbox.KindUnavailable, "store_refused", "does not let nobody-here use")
	refuse(t, with(func(u *url.URL) { u.Path = "/missing" }), signalbox.KindUnavailable, "store_refused", "missing")
	refuse(t, with(func(u *url.URL) { u.Host = "127.0.0.1:1" }), signalbox.KindUnavailable, "store_unavailable", "127.0.0.1:1")
	other := map[storetest.Kind]string{storetest.MariaDB: "postgres", storetest.PostgreSQL: "mysql"}[kind]
	cfg := with(func(u *url.URL) { u.Scheme = other })
	cfg.ConnectTimeout = time.Second // both sides may wait for the other to speak
	refuse(t, cfg, signalbox.KindUnavailable, "store_unavailable", "cannot be reached")
}
