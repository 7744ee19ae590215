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
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/history/chunk"
)

// A sweep gives the entries of many devices in one order: that of the log, or of time. It
// goes on by slices of that order, so that its memory is bounded: it reads what the chunks
// have of a slice, sorts it and hands it out. A chunk is read once for each slice it reaches.

const (
	// sliceBytes and sliceEntries bound a slice: it is made narrower when it has more.
	sliceBytes   = 24 << 20
	sliceEntries = 1 << indexBits
	// indexBits are the low bits of a sorting key, which say where its entry is.
	indexBits = 19
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
	until  signalbox.Position // messages from there on are in memory too; 0: none
}

// ScanQuery chooses telemetry of many devices.
type ScanQuery struct {
	// Devices are those whose telemetry is wanted; nil: all.
	Devices []signalbox.DeviceID
	// From ≤ time < To, of the history time. Zero: unbounded.
	From, To time.Time
}

// ScanTime calls yield for the telemetry that q chooses, ordered by time and, within equal
// times, by position; it sees what was committed when it began. The entry and its body are
// lent for the call. Memory is bounded whatever is chosen.
func (l *Log) ScanTime(ctx context.Context, q ScanQuery, yield func(*signalbox.Entry) error) error {
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		return badRange(q.From, q.To)
	}
	lo, hi := int64(math.MinInt64), int64(math.MaxInt64)
	if !q.From.IsZero() {
		lo = q.From.UnixMicro()
	}
	if !q.To.IsZero() {
		hi = q.To.UnixMicro() - 1
	}
	if err := l.sealed.wait(ctx, l.Committed()); err != nil {
		return err
	}
	var inMemory []span
	firsts := map[signalbox.DeviceID]signalbox.Position{} // from which on devices are in memory
	l.seal.tails.each(q.Devices, func(device signalbox.DeviceID, m memory) {
		firsts[device] = m.first
		inMemory = append(inMemory, m.spans(device, lo, hi)...)
	})
	s := sweep{l: l, yield: yield, key: func(p signalbox.Position, t int64) int64 { return t }}
	s.heads = func(ctx context.Context, from int64) ([]span, error) {
		found, err := l.chunksByTime(ctx, q.Devices, from, hi, firsts)
		if err != nil {
			return nil, err
		}
		for _, m := range inMemory {
			if m.k1 >= from {
				found = append(found, m)
			}
		}
		return found, nil
	}
	return s.run(ctx, lo, hi)
}

// sweepLog gives the entries from lo to hi out of chunks, in log order. Entries that retention
// has dropped are missing.
func (l *Log) sweepLog(ctx context.Context, lo, hi signalbox.Position, yield func(*signalbox.Entry) error) error {
	s := sweep{l: l, yield: yield, key: func(p signalbox.Position, t int64) int64 { return int64(p) }}
	s.heads = func(ctx context.Context, from int64) ([]span, error) {
		l.mu.Lock()
		reach := l.span
		l.mu.Unlock()
		return l.spans(ctx, nil, l.byPosition, max(from-reach, 0), int64(hi), from)
	}
	return s.run(ctx, int64(lo), int64(hi))
}

// chunksByTime finds the chunks with messages from low to high, but for those that are in
// memory too.
func (l *Log) chunksByTime(ctx context.Context, devices []signalbox.DeviceID, low, high int64, firsts map[signalbox.DeviceID]signalbox.Position) (found []span, err error) {
	if devices == nil {
		found, err = l.spans(ctx, firsts, l.byTime, high, low)
	}
	for _, d := range devices {
		var more []span
		if more, err = l.spans(ctx, firsts, l.byDeviceTime, int64(d), high, low); err != nil {
			break
		}
		found = append(found, more...)
	}
	return found, err
}

// spans reads heads of chunks: number, device, both keys, and the smallest position.
func (l *Log) spans(ctx context.Context, firsts map[signalbox.DeviceID]signalbox.Position, stmt *sql.Stmt, args ...any) ([]span, error) {
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	var found []span
	for rows.Next() {
		var device, p0 int64
		var s span
		if err := rows.Scan(&s.id, &device, &s.k0, &s.k1, &p0); err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		s.device = signalbox.DeviceID(device)
		if s.until = firsts[s.device]; s.until != 0 && signalbox.Position(p0) >= s.until {
			continue
		}
		found = append(found, s)
	}
	return found, rows.Err()
}

// sweep is one under way.
type sweep struct {
	l     *Log
	yield func(*signalbox.Entry) error
	key   func(p signalbox.Position, t int64) int64
	// heads gives all chunks that have something at from or behind.
	heads func(ctx context.Context, from int64) ([]span, error)

	workers    []worker
	keys, swap []uint64
	size       atomic.Int64 // of the slice, in bytes
	count      atomic.Int64 // of its entries
}

// worker reads a part of a slice.
type worker struct {
	r      chunk.Reader
	packed []byte
	places []place
	bodies []byte
	err    error
}

// place is an entry in a slice.
type place struct {
	device         signalbox.DeviceID
	position       signalbox.Position
	received, time int64
	from, end      int // of the worker's bodies
}

// run hands out everything from lo to hi.
func (s *sweep) run(ctx context.Context, lo, hi int64) error {
	s.workers = make([]worker, min(runtime.GOMAXPROCS(0), sweepWorkers))
	var ahead, open []span // by k0; those that the slice has reached
	again := true
	for width := int64(0); ; {
		if again {
			var err error
			if ahead, err = s.heads(ctx, lo); err != nil {
				return err
			}
			slices.SortFunc(ahead, func(a, b span) int { return cmp.Compare(a.k0, b.k0) })
			open, again = open[:0], false
			if width == 0 {
				width = firstWidth(ahead, lo, hi)
			}
		}
		if len(open) == 0 {
			if len(ahead) == 0 || ahead[0].k0 > hi {
				return nil
			}
			lo = max(lo, ahead[0].k0) // there is nothing before
		}
		end := hi
		if width < hi-lo || hi-lo < 0 { // the difference may be too large for a number
			end = lo + width - 1
		}
		for len(ahead) > 0 && ahead[0].k0 <= end {
			open = append(open, ahead[0])
			ahead = ahead[1:]
		}
		fits, err := s.fill(ctx, open, lo, end)
		switch {
		case errors.Is(err, errMoved): // chunks were merged; they are elsewhere now
			again = true
			continue
		case err != nil:
			return err
		case !fits && width > 1:
			width = max(width/4, 1)
			continue
		}
		if err := s.handOut(ctx, lo, end); err != nil {
			return err
		}
		if end == hi {
			return nil
		}
		lo = end + 1
		open = slices.DeleteFunc(open, func(c span) bool { return c.k1 < lo })
		if s.size.Load() < sliceBytes/3 && s.count.Load() < sliceEntries/3 {
			width = min(2*width, widest)
		}
	}
}

// firstWidth guesses how wide a slice may be, from how many chunks there are, which are in
// order: each slice reads all that it reaches, so a few narrow ones would cost more than all.
func firstWidth(ahead []span, lo, hi int64) int64 {
	const narrowest = 1 << 16
	if len(ahead) == 0 {
		return narrowest
	}
	last := ahead[0].k1
	for _, s := range ahead {
		last = max(last, s.k1)
	}
	parts := int64(len(ahead))*chunkRows/(sliceEntries/4) + 1
	return min(max((min(last, hi)-max(lo, ahead[0].k0))/parts, narrowest), widest)
}

// fill reads what the open chunks have from lo to hi. It reports false when that is too much.
func (s *sweep) fill(ctx context.Context, open []span, lo, hi int64) (fits bool, err error) {
	s.size.Store(0)
	s.count.Store(0)
	var group sync.WaitGroup
	n := min(len(s.workers), len(open))
	for i := range s.workers {
		s.workers[i].places, s.workers[i].bodies, s.workers[i].err = s.workers[i].places[:0], s.workers[i].bodies[:0], nil
	}
	for i := range n {
		group.Go(func() {
			w := &s.workers[i]
			for k := i; k < len(open) && w.err == nil && s.fits(lo, hi); k += n {
				if c := &open[k]; c.k1 >= lo {
					w.err = s.read(ctx, w, c, lo, hi)
				}
			}
		})
	}
	group.Wait()
	for i := range n {
		err = errors.Join(err, s.workers[i].err)
	}
	return s.fits(lo, hi), err
}

// fits says whether the slice is not too large, or cannot be narrower.
func (s *sweep) fits(lo, hi int64) bool {
	return lo == hi || s.count.Load() < sliceEntries && s.size.Load() < sliceBytes
}

// read takes what c has from lo to hi.
func (s *sweep) read(ctx context.Context, w *worker, c *span, lo, hi int64) error {
	size, count := len(w.bodies), len(w.places)
	defer func() {
		s.size.Add(int64(len(w.bodies) - size))
		s.count.Add(int64(len(w.places) - count))
	}()
	if c.run != nil {
		within := func(p signalbox.Position, t int64) bool { k := s.key(p, t); return k >= lo && k <= hi }
		c.run.EachOf(s.l.shapes, within, func(_ int, row *chunk.Row) bool {
			from := len(w.bodies)
			w.bodies = append(w.bodies, row.Body...)
			w.places = append(w.places, place{c.device, row.Position, row.Received, row.Time, from, len(w.bodies)})
			return true
		})
		return nil
	}
	there, err := w.load(ctx, s.l, c)
	if err != nil || !there {
		return err
	}
	for i, t := range w.r.Times() {
		p := w.r.Position(i)
		if k := s.key(p, t); k < lo || k > hi || c.until != 0 && p >= c.until {
			continue
		}
		from := len(w.bodies)
		w.bodies = w.r.AppendBody(w.bodies, i)
		w.places = append(w.places, place{c.device, p, w.r.Received(i), t, from, len(w.bodies)})
	}
	return nil
}

// load reads a chunk. It is not there if it is broken; if it is gone, that is errMoved.
func (w *worker) load(ctx context.Context, l *Log, c *span) (there bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	rows, err := l.body.QueryContext(ctx, c.id)
	if err != nil {
		return false, fmt.Errorf("read history: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	if !rows.Next() {
		return false, cmp.Or(rows.Err(), errMoved)
	}
	var packed sql.RawBytes
	if err := rows.Scan(&packed); err != nil {
		return false, fmt.Errorf("read history: %w", err)
	}
	w.packed = append(w.packed[:0], packed...)
	if err := w.r.Load(l.shapes, w.packed); err != nil {
		l.broken(c.id, c.device, err)
		return false, nil
	}
	return true, rows.Err()
}

// handOut sorts the slice and gives its entries to yield.
func (s *sweep) handOut(ctx context.Context, lo, hi int64) error {
	s.keys = s.keys[:0]
	bits := indexBits
	if lo == hi {
		bits = 63 // all keys are 0, and there may be any number of them
	}
	starts := make([]int, len(s.workers)+1)
	most := uint64(0)
	for i := range s.workers {
		w := &s.workers[i]
		for k := range w.places {
			p := &w.places[k]
			key := uint64(s.key(p.position, p.time) - lo)
			most = max(most, key)
			s.keys = append(s.keys, key<<bits|uint64(starts[i]+k))
		}
		starts[i+1] = starts[i] + len(w.places)
	}
	if lo < hi {
		s.sort(most)
	}
	at := func(key uint64) (*worker, *place) {
		n, i := int(key&(1<<bits-1)), 0
		for n >= starts[i+1] {
			i++
		}
		return &s.workers[i], &s.workers[i].places[n-starts[i]]
	}
	var e signalbox.Entry
	for i := 0; i < len(s.keys); i++ {
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		// Messages of one time are in the order of their positions.
		j := i + 1
		for j < len(s.keys) && s.keys[j]>>bits == s.keys[i]>>bits {
			j++
		}
		if j-i > 1 {
			slices.SortFunc(s.keys[i:j], func(a, b uint64) int {
				_, x := at(a)
				_, y := at(b)
				return cmp.Compare(x.position, y.position)
			})
		}
		for ; i < j; i++ {
			w, p := at(s.keys[i])
			e = signalbox.Entry{
				Position: p.position, Device: p.device, Kind: signalbox.EntryTelemetry, ReceivedMicros: p.received, TimeMicros: p.time, Body: w.bodies[p.from:p.end],
			}
			if p.device == eventDevice {
				var err error
				if e.Kind, e.Device, e.Body, err = event(e.Body); err != nil {
					return err
				}
			}
			if err := s.yield(&e); err != nil {
				return err
			}
		}
		i--
	}
	return nil
}

const digitBits = 11

// sort sorts the keys by what stands above indexBits, of which most is the largest: by digits,
// the lowest first. That takes a few nanoseconds a key, where comparing takes sixty.
func (s *sweep) sort(most uint64) {
	s.swap = slices.Grow(s.swap[:0], len(s.keys))[:len(s.keys)]
	for shift := indexBits; most>>(shift-indexBits) > 0; shift += digitBits {
		var starts [1 << digitBits]int
		for _, k := range s.keys {
			starts[k>>shift&(1<<digitBits-1)]++
		}
		sum := 0
		for i, n := range starts {
			starts[i] = sum
			sum += n
		}
		for _, k := range s.keys {
			d := k >> shift & (1<<digitBits - 1)
			s.swap[starts[d]] = k
			starts[d]++
		}
		s.keys, s.swap = s.swap, s.keys
	}
}
