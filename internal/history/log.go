package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"signalbox"
	"signalbox/internal/store"
)

// ErrFull says that too much waits for a commit; the caller pushes back and tries again.
var ErrFull = errors.New("the intake log is full: the disk does not keep up")

// Urgency says how soon an entry's commit should start.
type Urgency uint8

// The urgencies: Soon for entries that nobody waits for (Config.MaxWait), Acked for those a
// device waits for (Config.AckWait), Now for those a person or program waits for.
const (
	Soon Urgency = iota
	Acked
	Now
)

// Change is something more to write in an entry's transaction. It may run more than once
// (a commit that failed is tried again) and must be free of side effects.
type Change func(ctx context.Context, tx *store.Tx) error

// Appender is the writing side of the log, as the roads use it.
type Appender interface {
	// Append gives e the next position and keeps a copy of its body; e.Position and
	// e.ReceivedMicros are set, e.TimeMicros where it is 0 or later than that. change may be nil. ErrFull when too much waits already.
	Append(e *signalbox.Entry, u Urgency, change Change) error
	// Wait returns when everything up to p is on disk, or with ctx's error, or with
	// KindUnavailable when the log ended without it.
	Wait(ctx context.Context, p signalbox.Position) error
	// Committed is the position up to which everything is on disk.
	Committed() signalbox.Position
	// Ride registers f to be asked before each commit for something small to write along with
	// it, without a transaction and an fsync of its own. f must not block; it returns nil for
	// nothing. done is called once, with nil when it is on disk; after an error nothing of it
	// is, and it may be given to a later commit. Register before the log runs.
	Ride(f func() (write Change, done func(error)))
	// OnCommit registers f to be called after each commit with Committed(), in order, from
	// the committing goroutine: it must not block. Register before the log runs.
	OnCommit(f func(signalbox.Position))
	// Err is why commits fail at present, nil when they do not.
	Err() error
}

// Config tunes the log. Zero values take the defaults.
type Config struct {
	// MaxWait is the longest an entry waits for its commit to start (default 50 ms, which is
	// also the most that is allowed); AckWait the same for entries a device waits for
	// (default 2 ms).
	MaxWait, AckWait time.Duration
	// RowBytes is the size, before compression, at which a row is closed (default 256 KiB).
	RowBytes int
	// MaxPending bounds what waits for a commit, in bytes (default 64 MiB).
	MaxPending int
	// Announce hears each entry in log order before it is on disk. It is called with the log
	// locked: it must not block and must copy what it keeps. May be nil.
	Announce func(e *signalbox.Entry)
	Logger   *slog.Logger
}

// Log is the intake log. Make it with Open, then Restore it, then run Run.
type Log struct {
	cfg Config
	st  *store.Store
	enc *zstd.Encoder
	dec *zstd.Decoder

	// head finds the row of a position, body reads a row's entries; they end with the store.
	head, body *sql.Stmt

	mu      sync.Mutex
	rows    []*batch // the last one is being filled
	pending int      // bytes in rows
	due     time.Time
	next    signalbox.Position
	micros  int64
	last    []signalbox.Position // by device: its latest telemetry, or the row that holds it
	waiters []waiter
	closed  bool

	free sync.Pool // of *batch: emptied rows, until a garbage collection

	// ready and links are the committing goroutine's own.
	ready []prepared
	links []link
	ended chan struct{} // closed when Run is over

	wake      chan struct{}
	committed atomic.Uint64
	onCommit  []func(signalbox.Position)
	rides     []func() (Change, func(error))
	failure   atomic.Pointer[error]
	stats     Stats
}

type waiter struct {
	pos  signalbox.Position
	done chan struct{}
}

// Stats counts what the log did since it was opened.
type Stats struct {
	Entries, Telemetry, Commits, Rows, Faults, Refused, RawBytes, StoredBytes atomic.Int64
}

// Open prepares the log over st. Nothing is committed until Run.
func Open(ctx context.Context, cfg Config, st *store.Store) (*Log, error) {
	if cfg.MaxWait <= 0 || cfg.MaxWait > 50*time.Millisecond {
		cfg.MaxWait = 50 * time.Millisecond
	}
	if cfg.AckWait <= 0 || cfg.AckWait > cfg.MaxWait {
		cfg.AckWait = min(2*time.Millisecond, cfg.MaxWait)
	}
	if cfg.RowBytes <= 0 {
		cfg.RowBytes = 256 << 10
	}
	if cfg.MaxPending <= 0 {
		cfg.MaxPending = 64 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	enc, err := newEncoder()
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	dec, err := newDecoder()
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	l := &Log{cfg: cfg, st: st, enc: enc, dec: dec, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	if l.head, err = st.Reader().PrepareContext(ctx, `SELECT id, n, received_us, received_last_us, time_min_us, devices FROM intake WHERE id <= ? ORDER BY id DESC LIMIT 1`); err != nil {
		return nil, fmt.Errorf("prepare to read the intake log: %w", err)
	}
	if l.body, err = st.Reader().PrepareContext(ctx, `SELECT body FROM intake WHERE id = ?`); err != nil {
		return nil, fmt.Errorf("prepare to read the intake log: %w", err)
	}
	var end, micros int64
	err = st.Reader().QueryRowContext(ctx, `SELECT COALESCE(MAX(id + n), 1), COALESCE(MAX(received_last_us), 0) FROM (SELECT id, n, received_last_us FROM intake ORDER BY id DESC LIMIT 1)`).Scan(&end, &micros)
	if err != nil {
		return nil, fmt.Errorf("read the end of the intake log: %w", err)
	}
	l.next, l.micros = signalbox.Position(end), micros
	l.committed.Store(uint64(end - 1))
	return l, nil
}

// Stats gives the live counters.
func (l *Log) Stats() *Stats { return &l.stats }

// Pending is how many bytes wait for a commit.
func (l *Log) Pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pending
}

// Append implements Appender. Safe from any goroutine; does not allocate in the long run.
func (l *Log) Append(e *signalbox.Entry, u Urgency, change Change) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errStopping()
	}
	if l.pending > 0 && l.pending+len(e.Body)+entryHead > l.cfg.MaxPending {
		l.stats.Refused.Add(1)
		return ErrFull
	}
	now := time.Now()
	l.micros = max(l.micros, now.UnixMicro())
	e.Position, e.ReceivedMicros = l.next, l.micros
	if e.TimeMicros == 0 || e.TimeMicros > e.ReceivedMicros {
		e.TimeMicros = e.ReceivedMicros
	}
	l.next++
	b := l.filling()
	if e.Kind == signalbox.EntryTelemetry {
		b.telemetry++
		l.chain(b, e.Device)
	}
	before := len(b.buf)
	b.add(e)
	l.pending += len(b.buf) - before
	if change != nil {
		b.changes = append(b.changes, change)
	}
	if l.cfg.Announce != nil {
		l.cfg.Announce(e)
	}
	wait := l.cfg.MaxWait
	switch {
	case u == Now, len(b.buf) >= l.cfg.RowBytes:
		wait = 0
	case u == Acked:
		wait = l.cfg.AckWait
	}
	if due := now.Add(wait); l.due.IsZero() || due.Before(l.due) {
		l.due = due
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// filling gives the row to add to, a new one when the last is full or being committed.
func (l *Log) filling() *batch {
	size := 4 << 10
	if n := len(l.rows); n > 0 {
		b := l.rows[n-1]
		if !b.committing && len(b.buf) < l.cfg.RowBytes {
			return b
		}
		size = len(b.buf) + 1<<10 // the next is likely to become as large
	}
	b, ok := l.free.Get().(*batch)
	if !ok {
		b = &batch{buf: make([]byte, 0, size)}
	}
	b.first = l.next - 1
	l.rows = append(l.rows, b)
	return b
}

// chain notes the first telemetry of device in b, with where its previous one is.
func (l *Log) chain(b *batch, device signalbox.DeviceID) {
	l.grow(device)
	if prev := l.last[device]; prev < b.first {
		b.devices = append(b.devices, link{device: device, prev: prev})
		l.last[device] = b.first
	}
}

func (l *Log) grow(device signalbox.DeviceID) {
	if int(device) >= len(l.last) {
		l.last = append(l.last, make([]signalbox.Position, int(device)+1-len(l.last)+len(l.last)/4)...)
	}
}

// Committed implements Appender.
func (l *Log) Committed() signalbox.Position { return signalbox.Position(l.committed.Load()) }

// Head is the position of the newest entry, on disk or not.
func (l *Log) Head() signalbox.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next - 1
}

// Newest is the time of receipt of the newest entry, on disk or not; the Unix epoch before
// the first. It lies ahead of the clock when the clock was set back.
func (l *Log) Newest() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.UnixMicro(l.micros)
}

// OnCommit implements Appender.
func (l *Log) OnCommit(f func(signalbox.Position)) { l.onCommit = append(l.onCommit, f) }

// Ride implements Appender.
func (l *Log) Ride(f func() (Change, func(error))) { l.rides = append(l.rides, f) }

// Err implements Appender.
func (l *Log) Err() error {
	if p := l.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// Wait implements Appender.
func (l *Log) Wait(ctx context.Context, p signalbox.Position) error {
	l.mu.Lock()
	if l.Committed() >= p {
		l.mu.Unlock()
		return nil
	}
	w := waiter{pos: p, done: make(chan struct{})}
	l.waiters = append(l.waiters, w)
	l.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-l.ended:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.waiters, func(other waiter) bool { return other.done == w.done })
	if i < 0 {
		return nil // committed in the last moment
	}
	l.waiters = slices.Delete(l.waiters, i, i+1)
	if err := ctx.Err(); err != nil {
		return err
	}
	return errStopping() // Run is over and has not committed p
}

func errStopping() error {
	return signalbox.Errorf(signalbox.KindUnavailable, "stopping", "the hub is stopping")
}
