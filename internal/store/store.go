package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"signalbox"
)

// Config says where the database is and how it may use the machine.
type Config struct {
	// Dir is the data directory; without a URL the database is Dir/signalbox.db.
	Dir string
	// URL is the address of a database on a server, see CheckURL; empty for SQLite in Dir.
	URL string
	// Password is that of the URL's user, where the URL holds none.
	Password string
	// CacheBytes is SQLite's page cache a connection (default 64 MiB for the writer).
	CacheBytes int
	// CheckpointBytes is the size of SQLite's write-ahead file from which its pages are moved
	// into the database in the background (default 16 MiB).
	CheckpointBytes int64
	// MaxValue is the size of the largest value that will be stored, in bytes (default
	// 15 MiB). A server that would not take it is refused.
	MaxValue int
	// Readers is how many reads may run at once (default 4).
	Readers int
	// ConnectTimeout bounds the making of a connection to a server, and beyond that the wait
	// for another hub to let go of the database (default 5 s).
	ConnectTimeout time.Duration
	// Timeout is the silence after which a server counts as gone in the middle of a
	// statement (default 30 s).
	Timeout time.Duration
	Logger  *slog.Logger
}

// Store is the open database. All methods may be called from any goroutine.
type Store struct {
	cfg    Config
	engine engine
	where  string
	read   *sql.DB
	scan   *sql.DB // for reading whole tables, each page once: no cache to speak of, closed after use

	mu    sync.Mutex           // held for the length of a write transaction
	write *sql.Conn            // nil while a server is away
	stmts map[string]*sql.Stmt // of write; only constant texts, so it stays small

	stop context.CancelFunc
	done sync.WaitGroup
}

// An engine is what one kind of database does in its own way. Store.mu is held around
// begin, commit and rollback, which are not given a context that ends.
type engine interface {
	// open makes Store.read, scan and write, and brings the tables to this version.
	open(ctx context.Context) error
	close() error
	// begin, commit and rollback bracket a transaction of Store.write. After an error of begin
	// or commit there is no transaction any more.
	begin(ctx context.Context) error
	commit(ctx context.Context) error
	rollback(ctx context.Context)
	// statement gives the context for a statement of a transaction whose caller's is ctx.
	statement(ctx context.Context) (context.Context, error)
	// explain makes a sentence of an error where it can.
	explain(err error) error
	// run does what goes on in the background until ctx ends.
	run(ctx context.Context)
}

// newStore makes a store that is not open, with the defaults of cfg.
func newStore(cfg Config) *Store {
	if cfg.CacheBytes <= 0 {
		cfg.CacheBytes = 64 << 20
	}
	if cfg.CheckpointBytes <= 0 {
		cfg.CheckpointBytes = 16 << 20
	}
	if cfg.Readers <= 0 {
		cfg.Readers = 4
	}
	if cfg.MaxValue <= 0 {
		cfg.MaxValue = 15 << 20
	}
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = 5 * time.Second
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Store{cfg: cfg, stmts: map[string]*sql.Stmt{}}
}

// Open opens the database, makes what is missing in it, and brings its tables to this
// version. A database of a newer version, or one that another hub has open, is refused with
// KindConflict; what cannot be used or reached gives KindUnavailable, a wrong URL
// KindInvalid.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := newStore(cfg)
	if cfg.URL == "" {
		s.engine = newLite(s)
	} else {
		e, err := newServer(s)
		if err != nil {
			return nil, err
		}
		s.engine = e
	}
	if err := s.engine.open(ctx); err != nil {
		return nil, errors.Join(err, s.closeAll())
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.done.Go(func() { s.engine.run(background) })
	return s, nil
}

// Close ends background work and closes the database; SQLite's write-ahead file is moved
// into it before.
func (s *Store) Close() error {
	s.stop()
	s.done.Wait()
	return s.closeAll()
}

func (s *Store) closeAll() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, db := range []*sql.DB{s.read, s.scan} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	errs = append(errs, s.closeWriter(), s.engine.close())
	return errors.Join(errs...)
}

// closeWriter gives the writer's connection back. The caller holds mu.
func (s *Store) closeWriter() error {
	var errs []error
	for _, stmt := range s.stmts {
		errs = append(errs, stmt.Close())
	}
	clear(s.stmts)
	if s.write != nil {
		errs = append(errs, s.write.Close())
		s.write = nil
	}
	return errors.Join(errs...)
}

// Path is SQLite's database file, empty for a database on a server.
func (s *Store) Path() string {
	if e, ok := s.engine.(*lite); ok {
		return e.path
	}
	return ""
}

// Where says what kind of database this is and where, without the password.
func (s *Store) Where() string { return s.where }

// Reader is the pool for reading. A query sees what was committed before it began. Its text
// is of the common SQL (see the package), too.
func (s *Store) Reader() *sql.DB { return s.read }

// each calls row for every row that a query finds; it reads and must not keep them. what
// names them in errors.
func (s *Store) each(ctx context.Context, what, query string, row func(rows *sql.Rows) error) (err error) {
	rows, err := s.scan.QueryContext(ctx, query)
	if err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return wrap("read "+what, rows.Err())
}

// Shrink gives back the memory of page caches. It is worth while after a large transaction
// or a long read, whose pages are not needed again soon. With a server there are none.
func (s *Store) Shrink(ctx context.Context) error {
	if e, ok := s.engine.(*lite); ok {
		return e.shrink(ctx)
	}
	return nil
}

// Trim gives back the memory of the page cache of writing alone, which costs readers nothing.
func (s *Store) Trim(ctx context.Context) error {
	if e, ok := s.engine.(*lite); ok {
		return e.trim(ctx)
	}
	return nil
}

// Tx is one write transaction.
type Tx struct {
	store  *Store
	failed error // the first fault of a statement, after which nothing is committed
	then   []func()
}

// Then has f called when the transaction is on disk: before Update returns nil, or, after an
// UnknownOutcome, as soon as it is known to be stored; in any case before the next
// transaction begins, and never for one that is not stored. So what is kept in memory of the
// database changes in f, and Settle says that it is up to date. f must be short and must not
// use the store, whose transactions wait for it. Several are called in order; nil is none.
func (tx *Tx) Then(f func()) {
	if f != nil {
		tx.then = append(tx.then, f)
	}
}

// Update runs fn in one write transaction and returns when it is on disk; on any error
// nothing of it is, but see UnknownOutcome. Transactions run one after another: fn must be
// short and must not call Update. A transaction of which one statement failed is not
// committed, whatever fn returns. A full disk, a server that is away, a database that
// cannot be written give KindUnavailable.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Begin and end are not to be interrupted half-way: only fn sees ctx.
	calm := context.WithoutCancel(ctx)
	if err := s.engine.begin(calm); err != nil {
		return s.explain(err)
	}
	open := true
	defer func() {
		if open { // also when fn panics, or the next transaction could not begin
			s.engine.rollback(calm)
		}
	}()
	tx := &Tx{store: s}
	err := fn(tx)
	if err == nil {
		err = tx.failed
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return s.explainIn(ctx, err)
	}
	open = false
	err = s.engine.commit(calm)
	if unknown, ok := errors.AsType[*UnknownOutcome](err); ok {
		unknown.then = tx.then
	} else if err == nil {
		for _, f := range tx.then {
			f()
		}
	}
	return s.explain(err)
}

// Exec runs one statement of the transaction, in the common SQL. query must be a constant,
// because it is prepared once and kept; what varies belongs in args.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (res sql.Result, err error) {
	err = tx.run(ctx, query, func(ctx context.Context, stmt *sql.Stmt) (err error) {
		res, err = stmt.ExecContext(ctx, args...)
		return err
	})
	return res, err
}

// QueryRow reads one row inside the transaction; query as for Exec. Without a row the error
// is sql.ErrNoRows.
func (tx *Tx) QueryRow(ctx context.Context, query string, args []any, dest ...any) error {
	return tx.run(ctx, query, func(ctx context.Context, stmt *sql.Stmt) error {
		return stmt.QueryRowContext(ctx, args...).Scan(dest...)
	})
}

func (tx *Tx) run(ctx context.Context, query string, do func(context.Context, *sql.Stmt) error) error {
	s := tx.store
	ctx, err := s.engine.statement(ctx)
	if err == nil {
		var stmt *sql.Stmt
		if stmt, err = s.prepare(ctx, query); err == nil {
			err = do(ctx, stmt)
		}
	}
	err = s.explain(err)
	if err != nil && tx.failed == nil && !errors.Is(err, sql.ErrNoRows) {
		tx.failed = err
	}
	return err
}

// prepare makes a statement of the writer. The caller holds mu.
func (s *Store) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt, ok := s.stmts[query]; ok {
		return stmt, nil
	}
	if s.write == nil {
		return nil, sql.ErrConnDone
	}
	stmt, err := s.write.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	s.stmts[query] = stmt
	return stmt, nil
}

// explain turns what a database says into a sentence.
func (s *Store) explain(err error) error {
	if _, ok := errors.AsType[*signalbox.Error](err); ok || err == nil {
		return err
	}
	return s.engine.explain(err)
}

// explainIn is explain for what was done in a caller's context.
func (s *Store) explainIn(ctx context.Context, err error) error {
	if _, ok := s.engine.(*server); ok {
		if late := late(ctx, err); late != nil {
			return late
		}
	}
	return s.explain(err)
}

// duplicate is the error of a row whose key is there already.
func duplicate(err error) error {
	return signalbox.Wrap(signalbox.KindConflict, "duplicate", err, "a row with that key is stored already")
}

// ms and fromMs convert the database's milliseconds; 0 is the zero time.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMs(v int64) time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.UnixMilli(v).UTC()
}
