package plain

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

// Log is what the table is made from. history.Log is one.
type Log interface {
	// Scan calls yield for every entry from position from on that is still kept, in log order.
	Scan(ctx context.Context, from signalbox.Position, yield func(*signalbox.Entry) error) error
	// Committed is the position up to which everything is on disk.
	Committed() signalbox.Position
	// OnCommit registers f to be called after each commit.
	OnCommit(f func(signalbox.Position))
	// Err is why commits fail at present, nil when they do not.
	Err() error
}

// Config tunes the table. Zero values take the defaults.
type Config struct {
	// Known says whether a device is there still; those of others become no rows. nil: all are.
	Known func(signalbox.DeviceID) bool
	// Devices gives those that are there, in any order; it need not know those that came a moment
	// ago. With it Retain need not look for them in the table. nil: it does.
	Devices func() []signalbox.DeviceID
	// Every is the least time from one look at the log to the next (default 500 ms).
	Every time.Duration
	// Rows and Bytes bound one transaction (default 4,096 rows and 1 MiB of payload with
	// SQLite, where the log waits for it, 8,192 and 4 MiB with servers).
	Rows, Bytes int
	// LookAgain is how often it looks whether the table is there still when nothing else would
	// tell (default a minute).
	LookAgain time.Duration
	Logger    *slog.Logger
}

// Stats counts what was done since the start.
type Stats struct {
	Rows, Transactions atomic.Int64 // written
	Skipped            atomic.Int64 // messages that no database takes
	Faults             atomic.Int64 // times it had to begin again
	Deleted            atomic.Int64 // rows that retention deleted one by one
	Days               atomic.Int64 // partitions that retention dropped
}

const (
	// retryFirst and retryMost pace the attempts after a fault.
	retryFirst = 500 * time.Millisecond
	retryMost  = 15 * time.Second
	// lookAgain is the default of Config.LookAgain, and how long no partitions are made ahead after
	// that was not possible.
	lookAgain = time.Minute
	// farBehind is from how many entries on the filling is told of, and tellEvery how often.
	farBehind = 100_000
	tellEvery = 10 * time.Second
	// positionEvery is after how many entries that are no telemetry the position is stored.
	positionEvery = 1 << 16
)

// Table is the plain table. Make it with Open, then run Run.
type Table struct {
	cfg   Config
	st    *store.Store
	side  *store.Side
	log   Log
	wake  chan struct{}
	stats Stats

	through atomic.Uint64 // all up to here is in the table, or is no row
	missing atomic.Bool   // somebody found no table; Run is to look
	inserts []insert      // Run's own

	mu     sync.Mutex // for what changes the table's parts, and for writing rows into them
	layout layout
	opened bool
	// aheadAgain is until when no partitions are made ahead, because that was not possible.
	aheadAgain time.Time
	floor      day
	stored     signalbox.Position // what table meta has for through
	prepared   int                // how often Run found or made the table; what follows is since then
	tidied     map[signalbox.DeviceID]time.Time
	gone       map[signalbox.DeviceID]bool // removed devices of which there are no rows any more
}

// Open prepares the table in st for what log has. Nothing is done before Run.
func Open(cfg Config, st *store.Store, log Log) (*Table, error) {
	if cfg.Every <= 0 {
		cfg.Every = 500 * time.Millisecond
	}
	rows, bytes := 8192, 4<<20
	if st.Dialect() == store.SQLite {
		rows, bytes = 4096, 1<<20
	}
	if cfg.Rows <= 0 {
		cfg.Rows = rows
	}
	if cfg.Bytes <= 0 {
		cfg.Bytes = bytes
	}
	if cfg.LookAgain <= 0 {
		cfg.LookAgain = lookAgain
	}
	if cfg.Devices == nil {
		cfg.Devices = func() []signalbox.DeviceID { return nil }
	}
	if cfg.Known == nil {
		cfg.Known = func(signalbox.DeviceID) bool { return true }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	side, err := st.Side()
	if err != nil {
		return nil, err
	}
	t := &Table{
		cfg: cfg, st: st, side: side, log: log, wake: make(chan struct{}, 1), inserts: newInserts(),
		tidied: map[signalbox.DeviceID]time.Time{}, gone: map[signalbox.DeviceID]bool{},
	}
	t.layout = newLayout(t)
	log.OnCommit(func(signalbox.Position) { t.look() })
	return t, nil
}

// look wakes Run.
func (t *Table) look() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Close gives the table's session back.
func (t *Table) Close() error { return t.side.Close() }

// Stats gives the live counters.
func (t *Table) Stats() *Stats { return &t.stats }

// Through is the position up to which the table is complete, 0 before it was first looked at.
func (t *Table) Through() signalbox.Position { return signalbox.Position(t.through.Load()) }

// Behind is how many entries of the log were not looked at yet.
func (t *Table) Behind() int64 {
	committed := t.log.Committed()
	return max(0, int64(committed)-int64(min(t.Through(), committed)))
}

// Run keeps the table up to date until ctx ends. After a fault it begins again where the
// table is.
func (t *Table) Run(ctx context.Context) error {
	told, wait := "", retryFirst
	for {
		before := t.Through()
		err := t.follow(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // whatever it was, it was told to end
		}
		t.stats.Faults.Add(1)
		if t.Through() > before {
			told, wait = "", retryFirst
		}
		if text := err.Error(); text != told {
			told = text
			t.cfg.Logger.Warn("the plain table cannot be written; it is tried again", "through", t.Through(), "behind", t.Behind(), "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, retryMost)
	}
}

// follow does it until something fails.
func (t *Table) follow(ctx context.Context) error {
	if err := t.prepare(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for looked := time.Now(); ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if t.log.Err() == nil && (t.missing.Swap(false) || time.Since(looked) >= t.cfg.LookAgain) {
			looked = time.Now()
			if there, err := t.there(ctx); err != nil {
				return err
			} else if !there {
				return errMissing
			}
		}
		t.ahead(ctx)
		if err := t.catchUp(ctx); err != nil {
			return err
		}
		timer.Reset(t.cfg.Every)
		if t.Behind() > 0 {
			continue
		}
		// Whatever comes is written a moment after what came before.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			timer.Reset(t.cfg.LookAgain)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.wake:
			timer.Reset(0)
		case <-timer.C:
			timer.Reset(0)
		}
	}
}

// errMissing says that the table was dropped.
var errMissing = errors.New("the table " + store.PlainTable + " is not there any more")

// catchUp writes what is committed now.
func (t *Table) catchUp(ctx context.Context) error {
	// In this order: what was committed before the log was found to be well is in the database, and
	// Scan gives all of it that is kept.
	committed := t.log.Committed()
	if t.log.Err() != nil {
		return nil //nolint:nilerr // the log tells of it, and is not in the database as a whole meanwhile
	}
	fill := filling{t: t, from: t.Through(), began: time.Now(), rows: t.stats.Rows.Load()}
	fill.begin()
	b := batch{days: map[day]bool{}}
	err := t.log.Scan(ctx, t.Through()+1, func(e *signalbox.Entry) error {
		b.through = e.Position
		if e.Kind.IsTelemetry() && t.cfg.Known(e.Device) {
			if !takeable(e.Body) {
				t.skip(e.Device, e.Position, errors.New("it is no JSON in UTF-8"))
			} else {
				b.add(e)
			}
		}
		if len(b.rows) < t.cfg.Rows && b.bytes < t.cfg.Bytes && b.through < t.stored+positionEvery {
			return nil
		}
		if err := t.flush(ctx, &b); err != nil {
			return err
		}
		fill.tell()
		return nil
	})
	if err == nil && len(b.rows) > 0 {
		err = t.flush(ctx, &b)
	}
	if err == nil {
		t.through.Store(max(t.through.Load(), uint64(b.through), uint64(committed)))
		fill.end()
	}
	return err
}

// skip leaves a message out.
func (t *Table) skip(device signalbox.DeviceID, p signalbox.Position, why error) {
	t.stats.Skipped.Add(1)
	t.cfg.Logger.Error("a message is left out of the plain table, because the database does not take it", "device_id", device, "position", p, "err", why)
}

// filling tells of a table that is far behind.
type filling struct {
	t     *Table
	from  signalbox.Position
	began time.Time
	last  time.Time
	rows  int64
	told  bool
}

func (f *filling) begin() {
	if f.t.Behind() < farBehind {
		return
	}
	f.told, f.last = true, f.began
	f.t.cfg.Logger.Info("the plain table is being filled", "from", f.from, "to", f.t.log.Committed())
}

func (f *filling) tell() {
	if !f.told || time.Since(f.last) < tellEvery {
		return
	}
	f.last = time.Now()
	f.t.cfg.Logger.Info("the plain table is being filled", "through", f.t.Through(), "to", f.t.log.Committed(), "rows", f.t.stats.Rows.Load()-f.rows)
}

func (f *filling) end() {
	if f.told {
		f.t.cfg.Logger.Info("the plain table was filled", "through", f.t.Through(), "rows", f.t.stats.Rows.Load()-f.rows, "took", time.Since(f.began).Round(time.Millisecond))
	}
}
