package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Dialect is the kind of SQL a database speaks where the common SQL does not reach.
type Dialect string

// The dialects.
const (
	SQLite     Dialect = "SQLite"
	MariaDB    Dialect = "MariaDB"
	PostgreSQL Dialect = "PostgreSQL"
)

// Dialect says which kind of SQL this database speaks.
func (s *Store) Dialect() Dialect {
	switch e, ok := s.engine.(*server); {
	case !ok:
		return SQLite
	case e.to.postgres():
		return PostgreSQL
	default:
		return MariaDB
	}
}

// A Side is a second way to write, for tables that one part alone writes and can make anew:
// what people's own tools may lock, or be long at. With a server it is a session of its own,
// so that the writer, and with it the log, never waits for such a table; it does not hold the
// lock on the database, and whoever writes by it proves by what it finds that nobody else did.
// With SQLite it is the writer, because there is one in any case.
//
// Its methods may be called from any goroutine; transactions run one at a time.
type Side struct {
	s         *Store
	db        *sql.DB // nil with SQLite
	isolation sql.IsolationLevel
}

// SideTx is one transaction of a Side. Statements are of the common SQL, and constant.
type SideTx interface {
	// Exec runs one statement.
	Exec(ctx context.Context, query string, args ...any) (sql.Result, error)
	// QueryRow reads one row; without one the error is sql.ErrNoRows.
	QueryRow(ctx context.Context, query string, args []any, dest ...any) error
}

const (
	// sidePatience is how long a Side waits for locks of others before it gives up: as long as
	// others wait behind it, too, where it wants a table for itself.
	sidePatience = 3 * time.Second
	// sideIdle is how long its session is kept without use.
	sideIdle = 30 * time.Second
)

// Side makes one. It connects when it is first used. Close it before the Store.
func (s *Store) Side() (*Side, error) {
	e, ok := s.engine.(*server)
	if !ok {
		return &Side{s: s}, nil
	}
	c, err := e.d.connector(true)
	if err != nil {
		return nil, err
	}
	seconds := int(sidePatience / time.Second)
	isolation := sql.LevelDefault
	if e.to.postgres() {
		isolation = sql.LevelReadCommitted // whatever the default: it must not make the writer fail
		c.setup = append(c.setup, fmt.Sprintf("SET lock_timeout = '%ds'", seconds))
	} else {
		c.setup = append(c.setup, fmt.Sprintf("SET SESSION lock_wait_timeout = %d, innodb_lock_wait_timeout = %d", seconds, seconds))
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(1)
	db.SetConnMaxIdleTime(sideIdle)
	return &Side{s: s, db: db, isolation: isolation}, nil
}

// Close ends the session.
func (d *Side) Close() error {
	if d.db == nil {
		return nil
	}
	return d.db.Close()
}

// Update runs fn in a transaction and returns when it is on disk. On an error nothing of it
// is, unless the connection was lost while it was being committed: then it may be.
func (d *Side) Update(ctx context.Context, fn func(tx SideTx) error) error {
	if d.db == nil {
		return d.s.Update(ctx, func(tx *Tx) error { return fn(tx) })
	}
	tx, err := d.db.BeginTx(ctx, &sql.TxOptions{Isolation: d.isolation})
	if err != nil {
		return d.s.explainIn(ctx, err)
	}
	defer tx.Rollback() // after a commit it does nothing
	if err := fn(sideTx{d.s, tx}); err != nil {
		return d.s.explainIn(ctx, err)
	}
	return d.s.explainIn(ctx, tx.Commit())
}

// Define runs a statement that makes or changes a table, by itself, in the database's own SQL.
// It gives up, with KindUnavailable, when others keep the table locked for three seconds.
func (d *Side) Define(ctx context.Context, query string) error {
	if d.db == nil {
		return d.s.Update(ctx, func(tx *Tx) error {
			_, err := tx.Exec(ctx, query)
			return err
		})
	}
	_, err := d.db.ExecContext(ctx, query)
	return d.s.explainIn(ctx, err)
}

// sideTx is a transaction with a server.
type sideTx struct {
	s  *Store
	tx *sql.Tx
}

// Exec implements SideTx.
func (t sideTx) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	res, err := t.tx.ExecContext(ctx, query, args...)
	return res, t.s.explainIn(ctx, err)
}

// QueryRow implements SideTx.
func (t sideTx) QueryRow(ctx context.Context, query string, args []any, dest ...any) error {
	return t.s.explainIn(ctx, t.tx.QueryRowContext(ctx, query, args...).Scan(dest...))
}
