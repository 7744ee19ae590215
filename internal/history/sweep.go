package history

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/history/chunk"
)

// A sweep gives the entries of many devices in one order: that of the log, or of time. It
// goes on by slices of that order: it reads what the chunks have of a slice and sorts it, and
// hands it out while the next slice is read. It keeps of each chunk how far it has read, as
// long as there is room, and the chunk itself; so memory is bounded, and most chunks are read
// once.

// sweepLimits bounds what a sweep has in memory.
type sweepLimits struct {
	// bytes and entries bound a slice, of which there are two: it is made narrower when it has
	// more. entries is at most 1 << indexBits.
	bytes, entries int64
	// cursors and chunks bound the bytes of what is kept between slices: of how far chunks were
	// read, and what exceeds it begins anew in each slice; and of the chunks themselves, and what
	// exceeds it is read again from the database then.
	cursors, chunks int64
}

func usualSweep() sweepLimits {
	return sweepLimits{bytes: 16 << 20, entries: sliceEntries, cursors: 48 << 20, chunks: 24 << 20}
}

const (
	// sliceLeast is how many entries a slice ends to have; it ends to have slicePerOpen for each
	// open chunk, up to half of what is allowed.
	sliceLeast   = 1 << 15
	slicePerOpen = 16
	// sliceEntries is how many entries a slice may have at most.
	sliceEntries = 1 << indexBits
	// indexBits are the low bits of a sorting key, which say where its entry is.
	indexBits = 18
	// widest is the widest slice, so that its order fits the rest of a sorting key.
	widest = 1 << (63 - indexBits)
	// sweepWorkers is how many goroutines read a slice at most.
	sweepWorkers = 4
)

// spanName is where the most positions between the ends of a chunk are kept: how far before a
// position a chunk can begin that reaches it.
const spanName = "history_span"

// span is a chunk, or a run in memory, as a sweep sees it: its place in the order.
type span struct {
	id     int64 // of the chunk
	run    *chunk.Run
	device signalbox.DeviceID
	k0, k1 int64
	until  signalbox.Position // messages from there on are in memory too, or too new; 0: none
}

// ScanQuery chooses telemetry of many devices.
type ScanQuery struct {
	// Devices are those whose telemetry is wanted; nil: all.
	Devices []signalbox.DeviceID
	// From ≤ time < To, of the history time. Zero: unbounded.
	From, To time.Time
}

// times gives the first and the last time of the query, Unix µs.
func (q *ScanQuery) times() (low, high int64, err error) {
	low, high = math.MinInt64, math.MaxInt64
	if !q.From.IsZero() {
		low = q.From.UnixMicro()
	}
	if !q.To.IsZero() {
		high = q.To.UnixMicro() - 1
	}
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		err = badRange(q.From, q.To)
	}
	return low, high, err
}

// ScanTime calls yield for the telemetry that q chooses, ordered by time and, within equal
// times, by position: what was committed when it began. The entry and its body are lent for
// the call; others may have the same body, so it is not to be changed. Memory is bounded
// whatever is chosen, but for what has the same time to the microsecond.
func (l *Log) ScanTime(ctx context.Context, q ScanQuery, yield func(*signalbox.Entry) error) error {
	lo, hi, err := q.times()
	if err != nil {
		return err
	}
	end := l.Committed()
	if end == 0 || lo > hi { // nothing yet, or no microsecond lies between
		return ctx.Err()
	}
	if l.gone.Load() {
		return l.away(nil)
	}
	if err := l.sealed.wait(ctx, end); err != nil {
		return err
	}
	s := l.newSweep(chunk.ByTime, yield)
	s.end = end
	s.takeMemory(q.Devices, lo, hi)
	s.heads = func(ctx context.Context, from int64) ([]span, error) { return s.byTime(ctx, q.Devices, from, hi) }
	return s.run(ctx, lo, hi)
}

// sweepLog gives the entries from lo to hi out of chunks, in log order. Entries that retention
// has dropped are missing.
func (l *Log) sweepLog(ctx context.Context, lo, hi signalbox.Position, yield func(*signalbox.Entry) error) error {
	s := l.newSweep(chunk.ByPosition, yield)
	s.heads = func(ctx context.Context, from int64) ([]span, error) {
		l.mu.Lock()
		reach := l.span
		l.mu.Unlock()
		return s.spans(ctx, l.byPosition, max(from-reach, 0), int64(hi), from)
	}
	return s.run(ctx, int64(lo), int64(hi))
}

// sweep is one under way.
type sweep struct {
	l     *Log
	by    chunk.By
	yield func(*signalbox.Entry) error
	// heads gives all chunks that have something at from or behind.
	heads func(ctx context.Context, from int64) ([]span, error)
	want  chunk.Want
	last  int64              // the end of the last slice
	end   signalbox.Position // entries behind it are too new; 0: none are

	inMemory []span
	firsts   map[signalbox.DeviceID]signalbox.Position // from which on devices are in memory

	open    []*stretch // what the slice has reached
	workers []worker
	cursors cursors
	limits  sweepLimits
}

func (l *Log) newSweep(by chunk.By, yield func(*signalbox.Entry) error) *sweep {
	return &sweep{
		l: l, by: by, yield: yield, firsts: map[signalbox.DeviceID]signalbox.Position{},
		want:    chunk.Want{Before: math.MaxUint64, From: math.MinInt64, To: math.MaxInt64},
		workers: make([]worker, min(runtime.GOMAXPROCS(0), sweepWorkers)),
		cursors: cursors{spare: &l.cursors},
		limits:  l.sweeps,
	}
}

// takeMemory notes what is in memory with messages from low to high.
func (s *sweep) takeMemory(devices []signalbox.DeviceID, low, high int64) {
	s.l.seal.tails.each(devices, func(device signalbox.DeviceID, m memory) {
		s.firsts[device] = m.first
		for _, c := range m.spans(device, low, high) {
			if c.until = 0; s.end != 0 && c.run.Last() > s.end {
				c.until = s.end + 1
			}
			if s.by == chunk.ByPosition {
				c.k0, c.k1 = int64(c.run.First()), int64(c.run.Last())
			}
			s.inMemory = append(s.inMemory, c)
		}
	})
}

// chosenAtOnce is the most devices whose chunks are looked for one by one.
const chosenAtOnce = 256

// byTime finds what has messages from low to high.
func (s *sweep) byTime(ctx context.Context, devices []signalbox.DeviceID, low, high int64) (found []span, err error) {
	if devices == nil || len(devices) > chosenAtOnce {
		if found, err = s.spans(ctx, s.l.byTime, high, low); err != nil {
			return nil, err
		}
		return s.andMemory(only(found, devices), low), nil
	}
	for _, d := range devices {
		more, err := s.spans(ctx, s.l.byDeviceTime, int64(d), high, low)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return s.andMemory(found, low), nil
}

// only leaves the spans of those devices, of all when they are nil.
func only(found []span, devices []signalbox.DeviceID) []span {
	if devices == nil {
		return found
	}
	wanted := make(map[signalbox.DeviceID]bool, len(devices))
	for _, d := range devices {
		wanted[d] = true
	}
	return slices.DeleteFunc(found, func(c span) bool { return !wanted[c.device] })
}

// andMemory adds what is in memory and reaches to from or behind.
func (s *sweep) andMemory(found []span, from int64) []span {
	for _, m := range s.inMemory {
		if m.k1 >= from {
			found = append(found, m)
		}
	}
	return found
}

// spans reads heads of chunks, but for those that are in memory too: number, device, both
// keys, and the smallest position.
func (s *sweep) spans(ctx context.Context, stmt *sql.Stmt, args ...any) ([]span, error) {
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	var found []span
	for rows.Next() {
		var device, p0 int64
		var c span
		if err := rows.Scan(&c.id, &device, &c.k0, &c.k1, &p0); err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		c.device = signalbox.DeviceID(device)
		if c.until = s.firsts[c.device]; s.end != 0 && (c.until == 0 || c.until > s.end) {
			c.until = s.end + 1
		}
		if c.until != 0 && signalbox.Position(p0) >= c.until {
			continue
		}
		found = append(found, c)
	}
	return found, rows.Err()
}

// run hands out everything from lo to hi.
func (s *sweep) run(ctx context.Context, lo, hi int64) error {
	ctx, cancel := context.WithCancel(ctx)
	s.last = hi
	full, empty := make(chan *slice), make(chan *slice, 2)
	one, two := s.l.slice(len(s.workers), s.limits), s.l.slice(len(s.workers), s.limits)
	defer func() { s.l.keep(one, two) }()
	empty <- one
	empty <- two
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	var failed error
	reader.Go(func() {
		defer close(full)
		failed = s.read(ctx, lo, hi, empty, full)
	})
	for next := range full {
		if err := next.handOut(ctx, s.yield); err != nil {
			return err
		}
		empty <- next
	}
	return failed
}

// read reads everything from lo to hi, slice by slice.
func (s *sweep) read(ctx context.Context, lo, hi int64, empty <-chan *slice, full chan<- *slice) error {
	var ahead []span // by k0
	var next *slice
	again := true
	for width := int64(0); ; {
		if again {
			var err error
			if ahead, err = s.heads(ctx, lo); err != nil {
				return err
			}
			slices.SortFunc(ahead, func(a, b span) int { return cmp.Compare(a.k0, b.k0) })
			again = false
			if width == 0 {
				width = firstWidth(ahead, lo, hi)
			}
			ahead = s.reopen(ahead)
		}
		if len(s.open) == 0 {
			if len(ahead) == 0 || ahead[0].k0 > hi {
				return nil
			}
			lo = max(lo, ahead[0].k0) // there is nothing before
		}
		end := hi
		if width <= hi-lo || hi-lo < 0 { // the difference may be too large for a number
			end = lo + width - 1
		}
		for len(ahead) > 0 && ahead[0].k0 <= end {
			s.open = append(s.open, &stretch{span: ahead[0]})
			ahead = ahead[1:]
		}
		if next == nil {
			select {
			case next = <-empty:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		next.lo, next.hi = lo, end
		switch err := s.fill(ctx, next); {
		case errors.Is(err, errMoved): // chunks were merged; they are elsewhere now
			again = true
			s.takeBack()
			continue
		case err != nil:
			return err
		case !next.fits():
			width = max((end-lo)/8, 1)
			s.takeBack()
			continue
		}
		next.sort(s.by)
		width = next.widthAfter(width, len(s.open))
		lo = end + 1
		s.taken(lo)
		select {
		case full <- next:
			next = nil
		case <-ctx.Done():
			return ctx.Err()
		}
		if end == hi {
			return nil
		}
	}
}
