package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"

	"signalbox"
)

const (
	// watchEvery is how often the writer's connection is tried while nobody writes. It keeps
	// the session and with it the lock, and notices early that a server went away.
	watchEvery = 10 * time.Second
	// sessionIdle is the silence after which a server may end the writer's session, so that
	// a hub whose machine vanished does not hold the lock for long.
	sessionIdle = 60 * time.Second
	// idleReader is how long a connection for reading is kept without use.
	idleReader = time.Minute
	// lockPoll is how often a lock that another session holds is asked for.
	lockPoll = 50 * time.Millisecond
	// askFor is how long a commit whose connection broke asks the server for its outcome (see
	// server.askFor), every askPause, before the outcome is told as unknown. Others wait meanwhile.
	askFor   = time.Second
	askPause = 100 * time.Millisecond
	// markName is the row of table meta that each transaction of the writer changes.
	markName = "writer"
)

// A dialect is what MariaDB and PostgreSQL do differently.
type dialect interface {
	// connector opens sessions: the writer's, or those of readers, which cannot write.
	connector(write bool) (*connector, error)
	// check looks at the server before anything is done to it. It refuses one that cannot be
	// used and gives a sentence for each setting by which acknowledged changes could be lost.
	check(ctx context.Context, db *sql.DB) (version string, warnings []string, err error)
	// migrations gives the words for them, after what they need is there.
	migrations(ctx context.Context, db *sql.DB) (goose.Dialect, words, error)
	// begin begins a transaction on the writer's connection and sets the mark in it, from what
	// it was. It says false when the mark was another.
	begin(ctx context.Context, from, to string) (bool, error)
	// lock takes the database for the session c, or says false when another session has it;
	// an earlier session of the same Store is ended first.
	lock(ctx context.Context, c *sql.Conn) (bool, error)
	// explain makes a sentence of an error of the server, or gives nil.
	explain(err error) error
}

// server is the engine of a database on a server.
//
// The writer's session holds a lock on the whole database, so there is one writer; it is
// kept for the life of the Store and made anew when it is lost. Each transaction changes a
// mark, from what the previous one made it to this Store's token and a number that grows.
// So another hub that has used the database is noticed, even where the lock did not keep it
// out: what this process has in memory is out of date then, for good. And after a lost
// connection the mark tells whether the transaction that was being committed is stored,
// because the lock is only had when its session has ended.
type server struct {
	s       *Store
	d       dialect
	to      target
	askFor  time.Duration
	db      *sql.DB // of the writer: one connection, lent to the store
	token   string
	seq     int64 // of the latest transaction that was begun
	last    int64 // of the latest that was committed
	unknown *UnknownOutcome
	gone    error // why this Store cannot write any more
	told    bool  // the log knows that the server is away
}

func newServer(s *Store) (*server, error) {
	to, err := parseTarget(s.cfg.URL)
	if err != nil {
		return nil, err
	}
	if to.password == "" {
		to.password = s.cfg.Password
	}
	e := &server{s: s, to: to, askFor: askFor, token: rand.Text()}
	if to.postgres() {
		e.d = &postgres{e}
	} else {
		e.d = &maria{e}
	}
	s.where = to.String()
	return e, nil
}

func (e *server) open(ctx context.Context) error {
	s := e.s
	write, err := e.d.connector(true)
	if err != nil {
		return err
	}
	read, err := e.d.connector(false)
	if err != nil {
		return err
	}
	e.db = sql.OpenDB(write)
	for _, pool := range []**sql.DB{&s.read, &s.scan} {
		*pool = sql.OpenDB(read)
		(*pool).SetMaxOpenConns(s.cfg.Readers)
		(*pool).SetConnMaxIdleTime(idleReader)
	}
	s.read.SetMaxIdleConns(s.cfg.Readers)
	s.scan.SetMaxIdleConns(1)

	version, warnings, err := e.check(ctx)
	if err != nil {
		return s.explain(err)
	}
	s.where = version + ", " + e.to.String()
	for _, warning := range warnings {
		s.cfg.Logger.Warn("the database server can lose what was acknowledged", "store", s.where, "why", warning)
	}
	c, err := e.session(ctx)
	if err != nil {
		return err
	}
	s.write = c
	if err := e.prepareTables(ctx); err != nil {
		return err
	}
	if _, err := e.simple(ctx, "BEGIN"); err != nil {
		return err
	}
	_, err = c.ExecContext(ctx, `INSERT INTO meta (name, value) VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, markName, e.mark(0))
	if err == nil {
		_, err = e.simple(ctx, "COMMIT")
	}
	return s.explain(err)
}

// check looks at the server through a session in which nothing is set yet.
func (e *server) check(ctx context.Context) (version string, warnings []string, err error) {
	c, err := e.d.connector(false)
	if err != nil {
		return "", nil, err
	}
	c.setup, c.optional = nil, nil
	db := sql.OpenDB(c)
	version, warnings, err = e.d.check(ctx, db)
	return version, warnings, errors.Join(err, db.Close())
}

// prepareTables brings the tables to this version, while the writer's session has the lock.
func (e *server) prepareTables(ctx context.Context) error {
	c, err := e.d.connector(true)
	if err != nil {
		return err
	}
	c.asIs = true
	db := sql.OpenDB(c)
	name, w, err := e.d.migrations(ctx, db)
	if err == nil {
		err = migrate(ctx, db, name, w, e.to.String())
	}
	return errors.Join(e.s.explain(err), db.Close())
}

func (e *server) close() error {
	if e.db == nil {
		return nil
	}
	return e.db.Close()
}

// mark is what transaction seq writes.
func (e *server) mark(seq int64) string { return fmt.Sprintf("%s %d", e.token, seq) }

// session opens a session that has the lock.
func (e *server) session(ctx context.Context) (*sql.Conn, error) {
	c, err := e.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(e.s.cfg.ConnectTimeout)
	for {
		got, err := e.d.lock(ctx, c)
		if got {
			return c, nil
		}
		if err == nil && time.Now().After(until) {
			err = signalbox.Errorf(signalbox.KindConflict, "store_in_use",
				"the database %s is in use by another Signalbox; a database belongs to one hub at a time", e.to.String())
		}
		if err == nil {
			err = pause(ctx, lockPoll)
		}
		if err != nil {
			return nil, errors.Join(err, discard(c))
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// discard closes a connection for good, so that its session ends.
func discard(c *sql.Conn) error {
	if err := c.Raw(func(any) error { return driver.ErrBadConn }); err != nil && !errors.Is(err, driver.ErrBadConn) && !errors.Is(err, sql.ErrConnDone) {
		return err
	}
	return nil
}

// connect makes the writer's session if there is none. The caller holds Store.mu.
func (e *server) connect(ctx context.Context) error {
	if e.gone != nil {
		return e.gone
	}
	if e.s.write != nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*e.s.cfg.ConnectTimeout, errSilent)
	defer cancel()
	c, err := e.session(ctx)
	if err != nil {
		if signalbox.CodeOf(err) == "store_in_use" { // not the fault of what was asked for
			err = signalbox.Wrap(signalbox.KindUnavailable, "store_in_use", err, "the database cannot be written now")
		}
		return err
	}
	if err := e.settle(ctx, c); err != nil {
		return errors.Join(err, discard(c))
	}
	e.s.write = c
	if e.told {
		e.told = false
		e.s.cfg.Logger.Info("the database server is back", "store", e.s.where)
	}
	return nil
}

// settle reads the mark in a new session.
func (e *server) settle(ctx context.Context, c *sql.Conn) error {
	if _, err := e.simpleOn(ctx, c, "BEGIN"); err != nil {
		return err
	}
	var mark string
	err := c.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = ?`, markName).Scan(&mark)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if _, err := e.simpleOn(ctx, c, "ROLLBACK"); err != nil {
		return err
	}
	u := e.unknown
	switch {
	case u != nil && mark == e.mark(u.seq):
		e.last = u.seq
		u.committed = true
		for _, f := range u.then {
			f()
		}
	case mark == e.mark(e.last):
	default:
		return e.lose()
	}
	if u != nil {
		u.known, e.unknown = true, nil
	}
	return nil
}

// lose stops this Store's writing for good.
func (e *server) lose() error {
	e.gone = signalbox.Errorf(signalbox.KindUnavailable, "store_changed_hands",
		"the database %s was written by another Signalbox, or set back to an older state; this hub must be started anew", e.to.String())
	return e.gone
}

// drop gives up the writer's session.
func (e *server) drop() {
	if e.s.write == nil {
		return
	}
	_ = discard(e.s.write) // it is of no use any more
	_ = e.s.closeWriter()
}

func (e *server) begin(ctx context.Context) error {
	for again := false; ; again = true {
		if err := e.connect(ctx); err != nil {
			return err
		}
		ours, err := e.d.begin(ctx, e.mark(e.last), e.mark(e.seq+1))
		if err == nil && ours {
			e.seq++
			return nil
		}
		if err == nil {
			e.drop()
			return e.lose()
		}
		lost := !e.alive()
		e.drop() // a session that cannot begin may have more wrong with it
		if again || !lost {
			return err
		}
	}
}

func (e *server) commit(ctx context.Context) error {
	_, err := e.simple(ctx, "COMMIT")
	if err == nil {
		e.last = e.seq
		return nil
	}
	// Whatever it says, the mark tells.
	u := &UnknownOutcome{seq: e.seq, cause: err}
	e.unknown = u
	e.drop()
	until := time.Now().Add(e.askFor)
	for {
		again := e.connect(ctx)
		if u.known {
			break
		}
		if again == nil || e.gone != nil || time.Now().Add(askPause).After(until) || pause(ctx, askPause) != nil {
			return u
		}
	}
	if u.committed {
		return nil
	}
	return e.s.explain(err)
}

func (e *server) rollback(ctx context.Context) {
	if !e.alive() {
		e.drop()
		return
	}
	if _, err := e.simple(ctx, "ROLLBACK"); err != nil {
		e.drop()
	}
}

// statement: a driver breaks the connection when a context ends, and with it goes the lock.
// A statement of the writer is short, and the silence that it may take is bounded.
func (e *server) statement(ctx context.Context) (context.Context, error) {
	err := ctx.Err()
	if late := late(ctx, err); late != nil {
		err = late
	}
	return context.WithoutCancel(ctx), err
}

// simple runs one statement without values on the writer's connection and gives the number
// of rows it changed.
func (e *server) simple(ctx context.Context, query string) (int64, error) {
	if e.s.write == nil {
		return 0, sql.ErrConnDone
	}
	return e.simpleOn(ctx, e.s.write, query)
}

func (e *server) simpleOn(ctx context.Context, c *sql.Conn, query string) (rows int64, err error) {
	err = c.Raw(func(inner any) error {
		c, ok := inner.(*conn)
		if !ok {
			return errors.New("the connection is of another driver")
		}
		rows, err = c.c.simple(ctx, c.driverConn, query)
		return c.c.fault(ctx, err)
	})
	return rows, err
}

// alive says whether the writer's connection can be used.
func (e *server) alive() bool {
	return e.s.write != nil && e.s.write.Raw(func(inner any) error {
		if c, ok := inner.(*conn); !ok || !c.IsValid() {
			return sql.ErrConnDone
		}
		return nil
	}) == nil
}

// run keeps the writer's session alive and brings it back.
func (e *server) run(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !e.s.mu.TryLock() {
			continue // somebody writes
		}
		e.watch(ctx)
		e.s.mu.Unlock()
	}
}

func (e *server) watch(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.s.cfg.ConnectTimeout, errSilent)
	defer cancel()
	if e.s.write != nil && e.s.write.PingContext(ctx) != nil {
		e.drop()
	}
	if err := e.connect(ctx); err != nil && !e.told && !errors.Is(err, context.Canceled) {
		e.told = true
		e.s.cfg.Logger.Error("the database server is away", "store", e.s.where, "err", e.s.explain(err))
	}
}

// explain makes a sentence of what a driver or the network says.
func (e *server) explain(err error) error {
	if _, ok := errors.AsType[*signalbox.Error](err); ok || err == nil {
		return err
	}
	if told := e.d.explain(err); told != nil {
		return told
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if why := distrust(err); why != "" {
		return signalbox.Wrap(signalbox.KindUnavailable, "store_certificate", err, "the certificate of the database server at %s is not trusted (%s); %s=FILE in the store's address names the authority",
			e.to.address, why, map[bool]string{true: "sslrootcert", false: "ca"}[e.to.postgres()])
	}
	if e.isAway(err) {
		return signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", err, "the database server at %s cannot be reached (%s)", e.to.address, reason(err))
	}
	return err
}

// unreachable explains why there is no connection: whatever it is, another attempt may work.
func (e *server) unreachable(err error) error {
	err = e.explain(err)
	if signalbox.KindOf(err) == signalbox.KindInternal && !errors.Is(err, context.Canceled) {
		err = signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", err, "the database server at %s cannot be reached (it does not answer like one)", e.to.address)
	}
	return err
}

func (e *server) isAway(err error) bool {
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return isEOF(err)
}

func timedOut(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// reason says in two words why a server cannot be reached.
func reason(err error) string {
	if timedOut(err) {
		return "no answer in time"
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return e.Err
	}
	return "the connection was lost"
}
