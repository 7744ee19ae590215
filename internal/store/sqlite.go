package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
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

// lite is the engine of SQLite, in a file of the data directory.
type lite struct {
	s    *Store
	path string
	db   *sql.DB // for writing: one connection, lent to the store for good
	// checkpointer is a connection of its own, so that moving pages does not stop the writer.
	checkpointer *sql.DB
	written      atomic.Bool // something was committed since the checkpointer last looked
}

func newLite(s *Store) *lite {
	e := &lite{s: s, path: filepath.Join(s.cfg.Dir, "signalbox.db")}
	s.where = "SQLite in " + e.path
	return e
}

// makeFile makes the file if there is none: not by SQLite, so that it is private from the
// first byte.
func (e *lite) makeFile() error {
	f, err := os.OpenFile(e.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the database %s cannot be opened for writing (%s)", e.path, cause(err))
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", e.path, err)
	}
	return nil
}

func (e *lite) open(ctx context.Context) error {
	s := e.s
	err := e.makeFile()
	if err != nil {
		return err
	}
	if e.db, err = sql.Open("sqlite", e.dsn(s.cfg.CacheBytes, busyWait, "auto_vacuum(incremental)", "journal_mode(wal)", "synchronous(full)")); err != nil {
		return fmt.Errorf("open %s: %w", e.path, err)
	}
	e.db.SetMaxOpenConns(1)
	if s.read, err = sql.Open("sqlite", e.dsn(readerCache, busyWait, "query_only(1)")); err != nil {
		return fmt.Errorf("open %s: %w", e.path, err)
	}
	if s.scan, err = sql.Open("sqlite", e.dsn(scanCache, busyWait, "query_only(1)")); err != nil {
		return fmt.Errorf("open %s: %w", e.path, err)
	}
	s.scan.SetMaxOpenConns(s.cfg.Readers)
	s.scan.SetMaxIdleConns(0)
	s.read.SetMaxOpenConns(s.cfg.Readers)
	s.read.SetMaxIdleConns(s.cfg.Readers)
	if e.checkpointer, err = sql.Open("sqlite", e.dsn(1<<20, restartWait, "synchronous(full)")); err != nil {
		return fmt.Errorf("open %s: %w", e.path, err)
	}
	e.checkpointer.SetMaxOpenConns(1)
	if err := e.db.PingContext(ctx); err != nil {
		return signalbox.Wrap(signalbox.KindUnavailable, "data_unusable", err, "the database %s cannot be used (%s)", e.path, cause(err))
	}
	if err := migrate(ctx, e.db, goose.DialectSQLite3, sqliteWords(), e.path); err != nil {
		return err
	}
	if s.write, err = e.db.Conn(ctx); err != nil {
		return fmt.Errorf("open %s: %w", e.path, err)
	}
	if err := e.checkpointer.PingContext(ctx); err != nil {
		return fmt.Errorf("open %s: %w", e.path, err)
	}
	return nil
}

// dsn builds the connection string. What is a property of the file, auto_vacuum and
// journal_mode, is set by the writer alone: each is a write transaction, for which a reader
// that connects later would wait its turn. auto_vacuum comes first, because it can only be
// chosen while the file is empty.
func (e *lite) dsn(cache int, wait time.Duration, pragmas ...string) string {
	pragmas = append([]string{
		fmt.Sprintf("busy_timeout(%d)", wait.Milliseconds()), "wal_autocheckpoint(0)", "foreign_keys(1)", fmt.Sprintf("cache_size(-%d)", cache>>10),
	}, pragmas...)
	return "file:" + (&url.URL{Path: e.path}).EscapedPath() + "?_pragma=" + strings.Join(pragmas, "&_pragma=")
}

func (e *lite) close() error {
	var errs []error
	for _, db := range []*sql.DB{e.checkpointer, e.db} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

func (e *lite) begin(ctx context.Context) error {
	return e.do(ctx, "BEGIN IMMEDIATE")
}

func (e *lite) commit(ctx context.Context) error {
	if err := e.do(ctx, "COMMIT"); err != nil {
		e.rollback(ctx) // or the next transaction could not begin
		return err
	}
	e.written.Store(true)
	return nil
}

// rollback ends a transaction. SQLite may have rolled back by itself (a full disk); then this
// says so, and the first error is the one that tells.
func (e *lite) rollback(ctx context.Context) { _ = e.do(ctx, "ROLLBACK") }

func (e *lite) do(ctx context.Context, query string) error {
	stmt, err := e.s.prepare(ctx, query) //nolint:sqlclosecheck // kept; the store closes it
	if err == nil {
		_, err = stmt.ExecContext(ctx)
	}
	return err
}

// statement: SQLite can stop in the middle of a statement, and the transaction goes on.
func (e *lite) statement(ctx context.Context) (context.Context, error) { return ctx, nil }

func (e *lite) shrink(ctx context.Context) error {
	e.s.read.SetMaxIdleConns(0) // closes the connections that wait, and their caches with them
	e.s.read.SetMaxIdleConns(e.s.cfg.Readers)
	return e.trim(ctx)
}

func (e *lite) trim(ctx context.Context) error {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	_, err := e.s.write.ExecContext(ctx, "PRAGMA shrink_memory")
	return wrap("shrink the page cache", err)
}

// explain turns what SQLite says about a disk or file into a sentence.
func (e *lite) explain(err error) error {
	fault, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch fault.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return signalbox.Wrap(signalbox.KindUnavailable, "disk_full", err, "the disk that holds %s is full", filepath.Dir(e.path))
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", err, "the database cannot be written now")
	case sqlite3.SQLITE_CONSTRAINT:
		if c := fault.Code(); c == sqlite3.SQLITE_CONSTRAINT_UNIQUE || c == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY || c == sqlite3.SQLITE_CONSTRAINT_ROWID {
			return duplicate(err)
		}
		return err
	case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_MISUSE:
		return err // what was asked for is wrong, and stays so
	default: // no memory, a broken file…: not the fault of what was asked for
		return signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", err, "the database does not work now")
	}
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

// run moves the write-ahead file into the database when it has grown: first
// beside the writer, which is the long part, then once more while no one writes, which
// is short and lets SQLite start the file from its beginning. Readers that follow each other
// without a gap can prevent that for ever; then writers stand back for a moment, so that
// new readers leave the file alone and the old ones end. A reader that takes longer than
// that moment makes the file grow to double the size before it is tried again.
func (e *lite) run(ctx context.Context) {
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	force := restartAt * e.s.cfg.CheckpointBytes
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !e.written.Swap(false) {
			continue
		}
		at, err := e.checkpoint(ctx, "PRAGMA wal_checkpoint(NOOP)")
		if err == nil && at.size-at.moved >= e.s.cfg.CheckpointBytes {
			force, err = e.moveWAL(ctx, force)
		}
		if err != nil && ctx.Err() == nil {
			e.s.cfg.Logger.Warn("the write-ahead file could not be moved into the database", "err", err)
		}
	}
}

// moveWAL does the checkpoint. force is the size of the write-ahead file from which readers
// are waited for; it returns the one to use next time.
func (e *lite) moveWAL(ctx context.Context, force int64) (int64, error) {
	if _, err := e.checkpoint(ctx, "PRAGMA wal_checkpoint(PASSIVE)"); err != nil {
		return force, err
	}
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	at, err := e.checkpoint(ctx, "PRAGMA wal_checkpoint(PASSIVE)")
	if err != nil || at.size < force {
		return force, err
	}
	if at, err = e.checkpoint(ctx, "PRAGMA wal_checkpoint(RESTART)"); err == nil && at.busy {
		return 2 * at.size, nil
	}
	return restartAt * e.s.cfg.CheckpointBytes, err
}

// walState is how the write-ahead file stands after a checkpoint statement.
type walState struct {
	size, moved int64 // bytes: all, and those that are in the database
	busy        bool  // a RESTART could not be completed
}

func (e *lite) checkpoint(ctx context.Context, pragma string) (walState, error) {
	var busy, log, moved int64
	err := e.checkpointer.QueryRowContext(ctx, pragma).Scan(&busy, &log, &moved)
	return walState{size: max(log, 0) * pageBytes, moved: max(moved, 0) * pageBytes, busy: busy != 0}, err
}
