package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"signalbox"
)

const (
	// pageBytes is SQLite's default page size.
	pageBytes = 4096
	// readerCache and scanCache are page caches of a connection, in bytes. SQLite's memory is
	// mapped in blocks, which one page in use keeps: what a scan has read once stays.
	readerCache = 4 << 20
	scanCache   = 256 << 10
	// busyWait is how long a connection waits for a lock of another process, such as a tool
	// that looks at the database; within this one nobody waits for SQLite's locks.
	busyWait = 10 * time.Second
)

//go:embed migrations/*.sql
var migrations embed.FS

// Config says where the database is and how it may use the machine.
type Config struct {
	// Dir is the data directory; the database is Dir/signalbox.db.
	Dir string
	// CacheBytes is SQLite's page cache a connection (default 64 MiB for the writer).
	CacheBytes int
	// CheckpointBytes is the size of the write-ahead file from which its pages are moved
	// into the database in the background (default 16 MiB).
	CheckpointBytes int64
	// Readers is how many reads may run at once (default 4).
	Readers int
	Logger  *slog.Logger
}

// Store is the open database. All methods may be called from any goroutine.
type Store struct {
	cfg  Config
	path string
	db   *sql.DB // for writing: one connection, lent to write for good
	read *sql.DB
	scan *sql.DB // for reading whole tables, each page once: no cache to speak of, closed after use
	// checkpointer is a connection of its own, so that moving pages does not stop the writer.
	checkpointer *sql.DB
	mu           sync.Mutex // held for the length of a write transaction
	write        *sql.Conn
	stmts        map[string]*sql.Stmt // of write; only constant texts, so it stays small

	written atomic.Bool // something was committed since the checkpointer last looked
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// Open opens the database in cfg.Dir, makes it if it is missing, and brings its
// tables to this version. A database of a newer version is refused with
// KindConflict, a directory that cannot be used with KindUnavailable.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.CacheBytes <= 0 {
		cfg.CacheBytes = 64 << 20
	}
	if cfg.CheckpointBytes <= 0 {
		cfg.CheckpointBytes = 16 << 20
	}
	if cfg.Readers <= 0 {
		cfg.Readers = 4
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{cfg: cfg, path: filepath.Join(cfg.Dir, "signalbox.db"), stmts: map[string]*sql.Stmt{}}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.closeDatabases())
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.done.Go(func() { s.runCheckpoints(background) })
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	// The file is made by us and not by SQLite, so that it is private from the first byte.
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the database %s cannot be opened for writing (%s)", s.path, cause(err))
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", s.path, err)
	}
	if s.db, err = sql.Open("sqlite", s.dsn(s.cfg.CacheBytes, busyWait, "auto_vacuum(incremental)", "journal_mode(wal)", "synchronous(full)")); err != nil {
		return fmt.Errorf("open %s: %w", s.path, err)
	}
	s.db.SetMaxOpenConns(1)
	if s.read, err = sql.Open("sqlite", s.dsn(readerCache, busyWait, "query_only(1)")); err != nil {
		return fmt.Errorf("open %s: %w", s.path, err)
	}
	if s.scan, err = sql.Open("sqlite", s.dsn(scanCache, busyWait, "query_only(1)")); err != nil {
		return fmt.Errorf("open %s: %w", s.path, err)
	}
	s.scan.SetMaxOpenConns(s.cfg.Readers)
	s.scan.SetMaxIdleConns(0)
	s.read.SetMaxOpenConns(s.cfg.Readers)
	s.read.SetMaxIdleConns(s.cfg.Readers)
	if s.checkpointer, err = sql.Open("sqlite", s.dsn(1<<20, restartWait, "synchronous(full)")); err != nil {
		return fmt.Errorf("open %s: %w", s.path, err)
	}
	s.checkpointer.SetMaxOpenConns(1)
	if err := s.db.PingContext(ctx); err != nil {
		return signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the database %s cannot be used (%s)", s.path, cause(err))
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if s.write, err = s.db.Conn(ctx); err != nil {
		return fmt.Errorf("open %s: %w", s.path, err)
	}
	if err := s.checkpointer.PingContext(ctx); err != nil {
		return fmt.Errorf("open %s: %w", s.path, err)
	}
	return nil
}

// dsn builds the connection string. What is a property of the file, auto_vacuum and
// journal_mode, is set by the writer alone: each is a write transaction, for which a reader
// that connects later would wait its turn. auto_vacuum comes first, because it can only be
// chosen while the file is empty.
func (s *Store) dsn(cache int, wait time.Duration, pragmas ...string) string {
	pragmas = append([]string{
		fmt.Sprintf("busy_timeout(%d)", wait.Milliseconds()), "wal_autocheckpoint(0)", "foreign_keys(1)", fmt.Sprintf("cache_size(-%d)", cache>>10),
	}, pragmas...)
	return "file:" + (&url.URL{Path: s.path}).EscapedPath() + "?_pragma=" + strings.Join(pragmas, "&_pragma=")
}

func (s *Store) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("embedded migrations: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the database %s cannot be read (%s)", s.path, cause(err))
	}
	sources := p.ListSources()
	if newest := sources[len(sources)-1].Version; have > newest {
		return signalbox.Errorf(signalbox.KindConflict, "database_newer",
			"the database %s is of version %d, made by a newer Signalbox; this one knows versions up to %d", s.path, have, newest)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("bring %s to the newest version: %w", s.path, err)
	}
	return nil
}

// Close ends background work, moves the write-ahead file into the database and closes it.
func (s *Store) Close() error {
	s.stop()
	s.done.Wait()
	return s.closeDatabases()
}

func (s *Store) closeDatabases() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, db := range []*sql.DB{s.read, s.scan, s.checkpointer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	for _, stmt := range s.stmts {
		errs = append(errs, stmt.Close())
	}
	if s.write != nil {
		errs = append(errs, s.write.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	return errors.Join(errs...)
}

// Path is the database file.
func (s *Store) Path() string { return s.path }

// Reader is the pool for reading. A query sees what was committed before it began.
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
// or a long read, whose pages are not needed again soon.
func (s *Store) Shrink(ctx context.Context) error {
	s.read.SetMaxIdleConns(0) // closes the connections that wait, and their caches with them
	s.read.SetMaxIdleConns(s.cfg.Readers)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.write.ExecContext(ctx, "PRAGMA shrink_memory")
	return wrap("shrink the page cache", err)
}

// Tx is one write transaction.
type Tx struct{ store *Store }

// Update runs fn in one write transaction and returns when it is on disk; on any error
// nothing of it is. Transactions run one after another: fn must be short and must not
// call Update. A full disk or a database that cannot be written gives KindUnavailable.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Begin and end are not to be interrupted half-way: only fn sees ctx.
	calm := context.WithoutCancel(ctx)
	tx := &Tx{store: s}
	if _, err := tx.Exec(calm, "BEGIN IMMEDIATE"); err != nil {
		return s.explain(err)
	}
	committed := false
	defer func() {
		if !committed {
			// Also when fn panics, or the next transaction could not begin. SQLite may have rolled
			// back by itself (a full disk); then this says so, and the first error is the one that tells.
			_, _ = tx.Exec(calm, "ROLLBACK")
		}
	}()
	err := fn(tx)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		_, err = tx.Exec(calm, "COMMIT")
	}
	if err != nil {
		return s.explain(err)
	}
	committed = true
	s.written.Store(true)
	return nil
}

// Exec runs one statement of the transaction. query must be a constant, because it is
// prepared once and kept; what varies belongs in args.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	stmt, err := tx.prepare(ctx, query) //nolint:sqlclosecheck // kept; closeDatabases closes it
	if err != nil {
		return nil, tx.store.explain(err)
	}
	res, err := stmt.ExecContext(ctx, args...)
	return res, tx.store.explain(err)
}

// QueryRow reads one row inside the transaction; query as for Exec.
func (tx *Tx) QueryRow(ctx context.Context, query string, args []any, dest ...any) error {
	stmt, err := tx.prepare(ctx, query) //nolint:sqlclosecheck // kept; closeDatabases closes it
	if err != nil {
		return tx.store.explain(err)
	}
	return tx.store.explain(stmt.QueryRowContext(ctx, args...).Scan(dest...))
}

func (tx *Tx) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt, ok := tx.store.stmts[query]; ok {
		return stmt, nil
	}
	stmt, err := tx.store.write.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	tx.store.stmts[query] = stmt
	return stmt, nil
}

// explain turns what SQLite says about a disk or file into a sentence.
func (s *Store) explain(err error) error {
	if _, ok := errors.AsType[*signalbox.Error](err); ok || err == nil {
		return err
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_FULL:
			return signalbox.Wrap(signalbox.KindUnavailable, "disk_full", err, "the disk that holds %s is full", s.cfg.Dir)
		case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			return signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", err, "the database cannot be written now")
		case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_MISUSE:
			return err // what was asked for is wrong, and stays so
		default: // no memory, a broken file…: not the fault of what was asked for
			return signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", err, "the database does not work now")
		}
	}
	return err
}

// cause gives the innermost sentence of a file error: «permission denied» rather than
// the whole chain.
func cause(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

const (
	// checkpointEvery is how often the size of the write-ahead file is looked at.
	checkpointEvery = 200 * time.Millisecond
	// restartAt, times Config.CheckpointBytes, is the size from which the file is begun anew
	// by force, and restartWait how long writers wait for readers then.
	restartAt   = 4
	restartWait = 100 * time.Millisecond
)

// runCheckpoints moves the write-ahead file into the database when it has grown: first
// beside the writer, which is the long part, then once more while no one writes, which
// is short and lets SQLite start the file from its beginning. Readers that follow each other
// without a gap can prevent that for ever; then writers stand back for a moment, so that
// new readers leave the file alone and the old ones end. A reader that takes longer than
// that moment makes the file grow to double the size before it is tried again.
func (s *Store) runCheckpoints(ctx context.Context) {
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	force := restartAt * s.cfg.CheckpointBytes
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !s.written.Swap(false) {
			continue
		}
		at, err := s.checkpoint(ctx, "PRAGMA wal_checkpoint(NOOP)")
		if err == nil && at.size-at.moved >= s.cfg.CheckpointBytes {
			force, err = s.moveWAL(ctx, force)
		}
		if err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("the write-ahead file could not be moved into the database", "err", err)
		}
	}
}

// moveWAL does the checkpoint. force is the size of the write-ahead file from which readers
// are waited for; it returns the one to use next time.
func (s *Store) moveWAL(ctx context.Context, force int64) (int64, error) {
	if _, err := s.checkpoint(ctx, "PRAGMA wal_checkpoint(PASSIVE)"); err != nil {
		return force, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at, err := s.checkpoint(ctx, "PRAGMA wal_checkpoint(PASSIVE)")
	if err != nil || at.size < force {
		return force, err
	}
	if at, err = s.checkpoint(ctx, "PRAGMA wal_checkpoint(RESTART)"); err == nil && at.busy {
		return 2 * at.size, nil
	}
	return restartAt * s.cfg.CheckpointBytes, err
}

// walState is how the write-ahead file stands after a checkpoint statement.
type walState struct {
	size, moved int64 // bytes: all, and those that are in the database
	busy        bool  // a RESTART could not be completed
}

func (s *Store) checkpoint(ctx context.Context, pragma string) (walState, error) {
	var busy, log, moved int64
	err := s.checkpointer.QueryRowContext(ctx, pragma).Scan(&busy, &log, &moved)
	return walState{size: max(log, 0) * pageBytes, moved: max(moved, 0) * pageBytes, busy: busy != 0}, err
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
