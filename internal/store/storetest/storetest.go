package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"signalbox/internal/store"
)

// Kind is a kind of database.
type Kind string

// The kinds of database.
const (
	SQLite     Kind = "SQLite"
	MariaDB    Kind = "MariaDB"
	PostgreSQL Kind = "PostgreSQL"
)

// Servers are the kinds that run on a server.
func Servers() []Kind { return []Kind{MariaDB, PostgreSQL} }

// Each runs test for each kind, as a subtest with the kind's name, on an empty database.
func Each(t *testing.T, test func(t *testing.T, db *Database)) {
	t.Helper()
	for _, kind := range append([]Kind{SQLite}, Servers()...) {
		t.Run(string(kind), func(t *testing.T) { test(t, New(t, kind)) })
	}
}

// A Database is an empty database for one test.
type Database struct {
	Kind Kind
	// Server is nil for SQLite.
	Server *Server
	name   string
	dir    string
}

// New makes a database, on the test binary's own server for all.
func New(tb testing.TB, kind Kind) *Database {
	tb.Helper()
	if kind == SQLite {
		return &Database{Kind: kind, dir: tb.TempDir()}
	}
	return shared(tb, kind).NewDatabase(tb)
}

// Config says where the database is; it holds nothing else but, for a server, much time to connect.
func (db *Database) Config() store.Config {
	if db.Server == nil {
		return store.Config{Dir: db.dir}
	}
	return store.Config{URL: db.URL(), ConnectTimeout: connectTimeout}
}

// URL is the address of a database on a server.
func (db *Database) URL() string { return db.Server.url(db.name) }

// SocketURL is its address by the Unix socket.
func (db *Database) SocketURL() string { return db.Server.socketURL(db.name) }

// URLAt is the address by way of a Proxy.
func (db *Database) URLAt(p *Proxy) string {
	u, err := url.Parse(db.URL())
	if err != nil {
		return ""
	}
	u.Host = p.Addr()
	return u.String()
}

// Open opens the store, as change wants it, until the test ends or somebody closes it
// before.
func (db *Database) Open(tb testing.TB, change ...func(*store.Config)) *Opened {
	tb.Helper()
	cfg := db.Config()
	for _, f := range change {
		f(&cfg)
	}
	st, err := store.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("open the store: %v", err)
	}
	o := &Opened{Store: st}
	tb.Cleanup(func() {
		if err := o.Close(); err != nil {
			tb.Errorf("close the store: %v", err)
		}
	})
	return o
}

// Opened is a store that may be closed more than once.
type Opened struct {
	*store.Store
	once sync.Once
	err  error
}

// Close closes the store.
func (o *Opened) Close() error {
	o.once.Do(func() { o.err = o.Store.Close() })
	return o.err
}

// SQL opens the database past the store, with its driver's own SQL.
func (db *Database) SQL(tb testing.TB) *sql.DB {
	tb.Helper()
	name, dsn := "sqlite", db.dir+"/signalbox.db"
	if db.Server != nil {
		name, dsn = db.Server.dsn(db.name)
	}
	pool, err := sql.Open(name, dsn)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := pool.Close(); err != nil {
			tb.Error(err)
		}
	})
	return pool
}

// fleet is what a test binary runs: there is one, because servers are shared by its tests.
type fleet struct {
	mu      sync.Mutex
	ready   bool
	root    string
	shared  map[Kind]*Server
	seeds   map[Kind]string // data directories to copy
	running map[*Server]bool
	names   atomic.Int64

	kind  Kind                 // of this run of all tests
	byDir map[string]*Database // of Config
}

var binary = fleet{shared: map[Kind]*Server{}, seeds: map[Kind]string{}, running: map[*Server]bool{}}

// Main runs the tests of a package and stops the servers they started. It gives the status
// to exit with.
func Main(m *testing.M) int {
	binary.ready = true
	return binary.end(m.Run())
}

// MainEach is Main for a package whose tests open their stores with Config: it runs all of
// them once for each kind.
func MainEach(m *testing.M) int {
	binary.ready = true
	status := 0
	for _, kind := range append([]Kind{SQLite}, Servers()...) {
		fmt.Fprintln(os.Stderr, "on", kind)
		binary.kind, binary.byDir = kind, map[string]*Database{}
		status = max(status, m.Run())
	}
	return binary.end(status)
}

// Running is the kind of database of this run of all tests, see MainEach.
func Running() Kind { return binary.kind }

// Config gives the database that belongs to the directory dir, in this run of all tests: with
// SQLite one in it, with the others one that is made when dir is first named.
func Config(tb testing.TB, dir string) store.Config {
	tb.Helper()
	if binary.kind == SQLite {
		return store.Config{Dir: dir}
	}
	if binary.kind == "" {
		tb.Fatal("the package has no func TestMain(m *testing.M) { os.Exit(storetest.MainEach(m)) }")
	}
	binary.mu.Lock()
	db := binary.byDir[dir]
	binary.mu.Unlock()
	if db == nil {
		db = New(tb, binary.kind)
		binary.mu.Lock()
		binary.byDir[dir] = db
		binary.mu.Unlock()
	}
	cfg := db.Config()
	cfg.Dir = dir
	return cfg
}

// end stops what runs and gives the status to exit with.
func (f *fleet) end(status int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for s := range f.running {
		errs = append(errs, s.process.end(), s.claim.Close())
	}
	if f.root != "" {
		errs = append(errs, os.RemoveAll(f.root))
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, "stop the test servers:", err)
		return max(status, 1)
	}
	return status
}

func shared(tb testing.TB, kind Kind) *Server {
	tb.Helper()
	binary.mu.Lock()
	defer binary.mu.Unlock()
	s := binary.shared[kind]
	if s == nil {
		s = binary.start(tb, kind)
		binary.shared[kind] = s
	}
	return s
}

// Start starts a server for this test alone, with more options of its command line.
func Start(tb testing.TB, kind Kind, options ...string) *Server {
	tb.Helper()
	binary.mu.Lock()
	defer binary.mu.Unlock()
	s := binary.start(tb, kind, options...)
	tb.Cleanup(func() {
		binary.mu.Lock()
		delete(binary.running, s)
		binary.mu.Unlock()
		if err := errors.Join(s.process.end(), s.claim.Close(), os.RemoveAll(s.dir)); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// NewDatabase makes an empty database on the server.
func (s *Server) NewDatabase(tb testing.TB) *Database {
	tb.Helper()
	db := &Database{Kind: s.Kind, Server: s, name: fmt.Sprintf("Hub_%d", binary.names.Add(1))}
	s.exec(tb, "CREATE DATABASE "+s.quote(db.name))
	return db
}

// exec runs a statement as the server's owner.
func (s *Server) exec(tb testing.TB, query string) {
	tb.Helper()
	name, dsn := s.dsn(s.home())
	pool, err := sql.Open(name, dsn)
	if err == nil {
		_, err = pool.ExecContext(context.Background(), query)
		err = errors.Join(err, pool.Close())
	}
	if err != nil {
		tb.Fatalf("%s: %s: %v\n%s", s.Kind, query, err, s.log())
	}
}
