package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"signalbox"
	"signalbox/internal/history/chunk"
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

// Change is something more to write in a commit's transaction. It may run more than once
// (a commit that failed is tried again) and must be free of side effects.
type Change func(ctx context.Context, tx *store.Tx) error

// Appender is the writing side of the log, as the roads use it.
type Appender interface {
	// Append gives e the next position and keeps a copy of its body; e.Position and
	// e.ReceivedMicros are set, e.TimeMicros where it is 0 or later than that. ErrFull when too
	// much waits already.
	Append(e *signalbox.Entry, u Urgency) error
	// AppendBoth is Append for two entries that get neighbouring positions, a's before b's, and
	// are on disk together: after a crash both are there, or none is. On an error neither was
	// taken. b may be nil.
	AppendBoth(a, b *signalbox.Entry, u Urgency) error
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
	// MaxPending bounds what waits for a commit, and what waits for the sealer after that, in
	// bytes (default 16 MiB each).
	MaxPending int
	// TailBytes, TailEntries and TailRows bound what is in the log and in no chunk yet: the
	// memory it takes (default 64 MiB), how far back the oldest entry lies (default 4 Mi
	// entries, which a start reads again), and in how many rows (default 16 Ki).
	TailBytes, TailEntries, TailRows int
	// Cold is how long a device is silent until what it has in no chunk is made into one, so
	// that it takes no memory (default 10 minutes).
	Cold time.Duration
	// Shapes is how many forms of messages are known at most (default 65,536); messages of
	// further forms are kept as they are, which takes more room.
	Shapes int
	// Spool is a directory on the local disk where the log goes on while the database server is
	// away, up to SpoolBytes (default 1 GiB); empty: it waits.
	Spool      string
	SpoolBytes int64
	// Announce hears each entry in log order before it is on disk. It is called with the log
	// locked: it must not block and must copy what it keeps. May be nil.
	Announce func(e *signalbox.Entry)
	Logger   *slog.Logger
}

// Log is the intake log and the chunks behind it. Make it with Open, then Restore it, then
// run Run.
type Log struct {
	cfg Config
	st  *store.Store
	enc *zstd.Encoder
	dec *zstd.Decoder

	// statements of the pool for reading; they end with the store
	end, mainDown, mainUp, late, rankFirst, rankLast, rankDown, rankNext, byPosition, byTime, byDeviceTime, body, bodies, newest, heads, sizes, oldest, rowsUp, byPositionAll, byPositionSome *sql.Stmt

	mu      sync.Mutex
	rows    []*batch // the last one is being filled
	fed     []*batch // committed, for the sealer
	pending int      // bytes in rows
	lag     int      // bytes in fed
	due     time.Time
	next    signalbox.Position
	micros  int64
	closed  bool
	units   []*unit              // for the next commits
	waiting int                  // bytes in units
	drop    signalbox.Position   // rows that end before it are no longer needed
	marks   []mark               // oldest first
	span    int64                // the most positions between the ends of a chunk
	noted   int64                // span as the database has it
	kept    []signalbox.Position // the rows that the log consists of, by their first position
	holds   []*Hold

	dropping sync.Mutex                    // one of those who drop chunks at a time
	unmissed func(signalbox.DeviceID) bool // nil: every device is missed

	free, readers, cursors, slices, sinces sync.Pool // of *batch (emptied), *chunk.Reader, *chunk.Cursor, *slice, *sinceBuf

	epochs    []epoch // the oldest first; it does not change after Open
	unwritten string  // of the epochs, to be stored with the next commit; the committing goroutine's own

	ready []prepared // the committing goroutine's own

	spool *spool // nil: none; the committing goroutine's own, like doubt
	doubt *doubt
	gone  atomic.Bool               // the server was away when last looked for
	began atomic.Pointer[time.Time] // of the commit under way

	shapes  *chunk.Shapes
	seal    sealer
	tidy    tidier
	sealing chan struct{} // wakes the sealer
	drained chan struct{} // wakes it when units went to disk

	wake      chan struct{}
	committed progress
	sealed    progress // what the sealer has taken up: readers wait for it
	onCommit  []func(signalbox.Position)
	rides     []func() (Change, func(error))
	failure   atomic.Pointer[error]
	sweeps    sweepLimits
	stats     Stats
}

// Stats counts what the log did since it was opened.
type Stats struct {
	Entries, Telemetry, Commits, Rows, Faults, Refused, RawBytes, StoredBytes atomic.Int64
	Chunks, ChunkMessages, ChunkBytes, LateMessages                           atomic.Int64 // written
	Runs, RunBytes                                                            atomic.Int64 // gauges: what is in no chunk yet
	Spooled                                                                   atomic.Int64 // gauge: bytes on the local disk alone
	Unspooled                                                                 atomic.Int64 // rows that went from there into the database
	Merges, Dropped, Broken                                                   atomic.Int64 // chunks that could not be read
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
		cfg.MaxPending = 16 << 20
	}
	for _, d := range []struct {
		value *int
		to    int
	}{{&cfg.TailBytes, 64 << 20}, {&cfg.TailEntries, 4 << 20}, {&cfg.TailRows, 16 << 10}, {&cfg.Shapes, 1 << 16}} {
		if *d.value <= 0 {
			*d.value = d.to
		}
	}
	if cfg.Cold <= 0 {
		cfg.Cold = 10 * time.Minute
	}
	if cfg.SpoolBytes <= 0 {
		cfg.SpoolBytes = 1 << 30
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
	l := &Log{
		cfg: cfg, st: st, enc: enc, dec: dec, wake: make(chan struct{}, 1), sealing: make(chan struct{}, 1), drained: make(chan struct{}, 1),
		shapes: chunk.NewShapes(cfg.Shapes), marks: []mark{{}}, sweeps: usualSweep(),
	}
	l.seal.l, l.seal.shapes = l, l.shapes
	l.tidy.l, l.tidy.queue = l, make(chan signalbox.DeviceID, mergeQueue)
	l.committed.ended, l.sealed.ended = make(chan struct{}), make(chan struct{})
	if err := l.load(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// load reads what the database has.
func (l *Log) load(ctx context.Context) error {
	const (
		whole = `SELECT id, t0, t1, p0, p1, n, base, 0, body FROM chunk WHERE device = ? AND `
		head  = `SELECT id, t0, t1, p0, p1, n, base, 0, NULL FROM chunk WHERE device = ? AND `
	)
	r := l.st.Reader()
	for _, p := range []struct {
		to   **sql.Stmt
		text string
	}{
		{&l.end, `SELECT t1, base + n FROM chunk WHERE device = ? AND late = 0 ORDER BY t0 DESC, p0 DESC LIMIT 1`},
		{&l.mainDown, whole + `late = 0 AND t0 <= ? AND (t0 < ? OR p0 < ?) ORDER BY t0 DESC, p0 DESC LIMIT ?`},
		{&l.mainUp, whole + `late = 0 AND t0 >= ? AND (t0 > ? OR p0 > ?) ORDER BY t0, p0 LIMIT ?`},
		{&l.late, whole + `late = 1 AND t0 <= ? AND t1 >= ? AND id > ? ORDER BY id LIMIT ?`},
		{&l.newest, whole + `late = 0 ORDER BY t0 DESC, p0 DESC LIMIT ?`},
		{&l.heads, `SELECT id, device, t1 FROM chunk`},
		{&l.oldest, `SELECT device, MIN(t0) FROM chunk GROUP BY device`},
		{&l.sizes, `SELECT id, LENGTH(body) FROM chunk WHERE device = ? ORDER BY t1 DESC, id DESC`},
		{&l.byPosition, `SELECT id, device, p0, p1, p0 FROM chunk WHERE p0 >= ? AND p0 <= ? AND p1 >= ?`},
		{&l.byTime, `SELECT id, device, t0, t1, p0 FROM chunk WHERE t0 <= ? AND t1 >= ? AND device > 0`},
		{&l.byDeviceTime, `SELECT id, device, t0, t1, p0 FROM chunk WHERE device = ? AND t0 <= ? AND t1 >= ?`},
		{&l.body, `SELECT id, body FROM chunk WHERE id = ?`},
		{&l.bodies, bodiesText()},
		{&l.rowsUp, `SELECT id, n, received_us, body FROM intake WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?`},
		{&l.byPositionAll, byPositionAllText},
		{&l.byPositionSome, byPositionSomeText()},
		{&l.rankFirst, head + `late = 0 ORDER BY t0, p0 LIMIT 1`},
		{&l.rankLast, head + `late = 0 AND p1 < ? ORDER BY t0 DESC, p0 DESC LIMIT 1`},
		{&l.rankDown, head + `late = 0 AND t0 <= ? ORDER BY t0 DESC, p0 DESC LIMIT 1`},
		{&l.rankNext, head + `late = 0 AND t0 >= ? AND (t0 > ? OR p0 > ?) ORDER BY t0, p0 LIMIT 1`},
	} {
		var err error
		if *p.to, err = r.PrepareContext(ctx, p.text); err != nil { //nolint:sqlclosecheck // they end with the store
			return fmt.Errorf("prepare to read history: %w", err)
		}
	}
	if l.cfg.Spool != "" {
		var err error
		if l.spool, err = openSpool(l.cfg.Spool, l.cfg.SpoolBytes); err != nil {
			return err
		}
		if err := l.unspool(ctx, func(packedRow) error { return nil }); err != nil {
			return err
		}
	}
	var end, micros int64
	err := r.QueryRowContext(ctx, `SELECT COALESCE(MAX(id + n), 1), COALESCE(MAX(received_last_us), 0) FROM (SELECT id, n, received_last_us FROM intake ORDER BY id DESC LIMIT 1) AS last`).Scan(&end, &micros)
	if err != nil {
		return fmt.Errorf("read the end of the intake log: %w", err)
	}
	l.next, l.micros = signalbox.Position(end), micros
	l.committed.reach(signalbox.Position(end - 1))
	if err := l.openEpoch(ctx); err != nil {
		return err
	}
	var newest int64
	if err := r.QueryRowContext(ctx, `SELECT COALESCE(MAX(id), 0) FROM chunk`).Scan(&newest); err != nil {
		return fmt.Errorf("read the newest chunk: %w", err)
	}
	l.seal.next.Store(newest)
	text, err := l.st.Meta(ctx, spanName)
	if err != nil {
		return err
	}
	if text != "" {
		if l.span, err = strconv.ParseInt(text, 10, 64); err != nil {
			return fmt.Errorf("the stored %s %q is no number: %w", spanName, text, err)
		}
		l.noted = l.span
	}
	if _, err := l.dropped(ctx); err != nil {
		return err
	}
	shapes, err := r.QueryContext(ctx, `SELECT id, body FROM shape ORDER BY id`)
	if err != nil {
		return fmt.Errorf("read the forms of messages: %w", err)
	}
	defer func() { _ = shapes.Close() }() // Err tells of faults
	for shapes.Next() {
		var (
			id   int64
			text []byte
		)
		if err := shapes.Scan(&id, &text); err != nil {
			return fmt.Errorf("read the forms of messages: %w", err)
		}
		if err := l.shapes.Load(chunk.ShapeID(id), text); err != nil {
			return fmt.Errorf("the form %d of messages: %w", id, err)
		}
	}
	return shapes.Err()
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
func (l *Log) Append(e *signalbox.Entry, u Urgency) error { return l.AppendBoth(e, nil, u) }

// AppendBoth implements Appender. Both entries are in one row, which is in one transaction or in
// one record of the spool.
func (l *Log) AppendBoth(a, b *signalbox.Entry, u Urgency) error {
	size := len(a.Body) + entryHead
	if b != nil {
		size += len(b.Body) + entryHead
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errStopping()
	}
	if l.pending > 0 && l.pending+size > l.cfg.MaxPending || l.lag > l.cfg.MaxPending {
		l.stats.Refused.Add(1)
		return ErrFull
	}
	now := time.Now()
	l.micros = max(l.micros, now.UnixMicro())
	row := l.filling()
	before := len(row.buf)
	l.place(row, a)
	if b != nil {
		l.place(row, b)
	}
	l.pending += len(row.buf) - before
	wait := l.cfg.MaxWait
	switch {
	case u == Now, len(row.buf) >= l.cfg.RowBytes:
		wait = 0
	case u == Acked:
		wait = l.cfg.AckWait
	}
	if due := now.Add(wait); l.due.IsZero() || due.Before(l.due) {
		l.due = due
		nudge(l.wake)
	}
	return nil
}

// place gives e its position and its place in the row, and announces it. The caller holds mu.
func (l *Log) place(row *batch, e *signalbox.Entry) {
	e.Position, e.ReceivedMicros = l.next, l.micros
	if e.TimeMicros == 0 || e.TimeMicros > e.ReceivedMicros {
		e.TimeMicros = e.ReceivedMicros
	}
	l.next++
	if e.Kind.IsTelemetry() {
		row.telemetry++
	}
	row.add(e)
	if l.cfg.Announce != nil && e.Kind != signalbox.EntryImported && e.Kind != signalbox.EntryBroker {
		l.cfg.Announce(e)
	}
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
	b.first = l.next
	l.rows = append(l.rows, b)
	return b
}

// Committed implements Appender.
func (l *Log) Committed() signalbox.Position { return l.committed.now() }

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

// Busy says for how long the commit under way has been going on, 0 without one: a database
// that is slow shows here before anything fails.
func (l *Log) Busy() time.Duration {
	if began := l.began.Load(); began != nil {
		return time.Since(*began)
	}
	return 0
}

// Wait implements Appender.
func (l *Log) Wait(ctx context.Context, p signalbox.Position) error { return l.committed.wait(ctx, p) }

func errStopping() error {
	return signalbox.Errorf(signalbox.KindUnavailable, "stopping", "the hub is stopping")
}
