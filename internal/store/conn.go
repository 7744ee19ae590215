package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
)

// maxTexts bounds how many translated statements a connector remembers. Statements are
// constants, so it is never reached; somebody who puts values into them should not eat memory.
const maxTexts = 1024

// A connector makes connections to a server which take the common SQL and whose errors are
// explained. It stands between database/sql and the driver, so that whoever has a sql.DB of
// this package need not know which database it is.
type connector struct {
	driver.Connector
	timeout time.Duration // for one connection to be ready
	// setup is run on each new connection; optional may fail, on servers that do not know it.
	setup, optional []string
	// asIs keeps truths what they are, for goose's own table.
	asIs      bool
	translate func(query string) string
	explain   func(err error) error
	// unreachable is explain for an attempt to connect.
	unreachable func(err error) error
	// simple runs one or more statements without values, without preparing them; alive says
	// whether a connection can still be used.
	simple func(ctx context.Context, c driverConn, query string) (rows int64, err error)
	alive  func(c driverConn) bool

	texts sync.Map // common text to translated text
	count atomic.Int32
}

// Connect implements driver.Connector.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, errSilent)
	defer cancel()
	inner, err := c.Connector.Connect(ctx)
	if err != nil {
		if late := late(ctx, err); late != nil {
			return nil, late
		}
		return nil, c.unreachable(err)
	}
	full, ok := inner.(driverConn)
	if !ok {
		return nil, errors.Join(errors.New("the driver lacks what this package needs"), inner.Close())
	}
	for i, list := range [][]string{c.setup, c.optional} {
		for _, query := range list {
			if _, err := full.ExecContext(ctx, query, nil); err != nil && i == 0 {
				return nil, errors.Join(c.explain(err), inner.Close())
			}
		}
	}
	return &conn{driverConn: full, c: c}, nil
}

// text gives a statement as the server wants it.
func (c *connector) text(query string) string {
	if known, ok := c.texts.Load(query); ok {
		if text, ok := known.(string); ok {
			return text
		}
	}
	text := c.translate(query)
	if c.count.Load() < maxTexts {
		c.count.Add(1)
		c.texts.Store(query, text)
	}
	return text
}

// errSilent is the cause of the end of this package's own deadlines, by which a server that is
// silent is known; any other deadline is the caller's.
var errSilent = errors.New("the database server is silent")

// late explains an error that there is because the caller's deadline ended, nil for others. Its
// kind is that of a server that is away: another attempt may work.
func late(ctx context.Context, err error) error {
	if _, told := errors.AsType[*signalbox.Error](err); told || !timedOut(err) {
		return nil
	}
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(context.Cause(ctx), errSilent) {
		return nil
	}
	return signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", errors.Join(ctx.Err(), err), "the time that was given for asking the database ended before its answer")
}

// fault explains an error, but for those by which database/sql knows what to do next.
func (c *connector) fault(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, driver.ErrBadConn) || errors.Is(err, driver.ErrSkip) {
		return err
	}
	if late := late(ctx, err); late != nil {
		return late
	}
	return c.explain(err)
}

// driverConn is what both drivers' connections can do.
type driverConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
}

// conn is one connection to a server.
type conn struct {
	driverConn
	c *connector
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	inner, err := c.driverConn.PrepareContext(ctx, c.c.text(query))
	if err != nil {
		return nil, c.c.fault(ctx, err)
	}
	full, ok := inner.(driverStmt)
	if !ok {
		return nil, errors.Join(errors.New("the driver lacks what this package needs"), inner.Close())
	}
	return &stmt{full, c.c}, nil
}

// ExecContext implements driver.ExecerContext.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	res, err := c.driverConn.ExecContext(ctx, c.c.text(query), args)
	return res, c.c.fault(ctx, err)
}

// QueryContext implements driver.QueryerContext.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	res, err := c.driverConn.QueryContext(ctx, c.c.text(query), args)
	if err != nil {
		return nil, c.c.fault(ctx, err)
	}
	return &rows{res, func(err error) error { return c.c.fault(ctx, err) }}, nil
}

// CheckNamedValue implements driver.NamedValueChecker: all databases get the values that
// SQLite gets. A truth is 1 or 0; nil bytes are NULL.
func (c *conn) CheckNamedValue(v *driver.NamedValue) error {
	value, err := driver.DefaultParameterConverter.ConvertValue(v.Value)
	if err != nil {
		return err
	}
	switch x := value.(type) {
	case bool:
		if c.c.asIs {
			break
		}
		value = int64(0)
		if x {
			value = int64(1)
		}
	case []byte:
		if x == nil {
			value = nil
		}
	}
	v.Value = value
	return nil
}

// IsValid implements driver.Validator.
func (c *conn) IsValid() bool { return c.c.alive(c.driverConn) }

type driverStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type stmt struct {
	driverStmt
	c *connector
}

// ExecContext implements driver.StmtExecContext.
func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	res, err := s.driverStmt.ExecContext(ctx, args)
	return res, s.c.fault(ctx, err)
}

// QueryContext implements driver.StmtQueryContext.
func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	res, err := s.driverStmt.QueryContext(ctx, args)
	if err != nil {
		return nil, s.c.fault(ctx, err)
	}
	return &rows{res, func(err error) error { return s.c.fault(ctx, err) }}, nil
}

type rows struct {
	driver.Rows
	fault func(error) error
}

// Next implements driver.Rows.
func (r *rows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	if err == io.EOF { //nolint:errorlint // this very value ends the rows
		return err
	}
	return r.fault(err)
}

// ColumnTypeScanType implements driver.RowsColumnTypeScanType.
func (r *rows) ColumnTypeScanType(index int) reflect.Type {
	if t, ok := r.Rows.(driver.RowsColumnTypeScanType); ok {
		return t.ColumnTypeScanType(index)
	}
	return reflect.TypeFor[any]()
}
