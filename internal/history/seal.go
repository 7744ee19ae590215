package history

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/history/chunk"
)

const (
	// chunkRows and chunkBytes are when a run is cut: its messages, and the memory it takes.
	chunkRows  = 1024
	chunkBytes = 64 << 10
	// smallRows is a chunk that is worth merging with its neighbours.
	smallRows = 128
	// orderSlack is how much of order may be out of date.
	orderSlack = 1024
	// unitBytes bounds what is cut and waits for the disk.
	unitBytes = 32 << 20
	// coldShare is in how many steps all devices are looked at for silence, within Config.Cold,
	// and coldCuts how many runs are cut in one of them.
	coldShare = 64
	coldCuts  = 512
	// eventDevice has the entries that are no telemetry, of all devices.
	eventDevice signalbox.DeviceID = 0
)

// sealer takes committed entries out of the log's rows into runs, and cuts these into
// chunks. All its methods but those of tails are for one goroutine at a time: Restore's,
// then that of run.
type sealer struct {
	l       *Log
	shapes  *chunk.Shapes
	tails   tails
	table   chunk.Table
	body    []byte // of an event, with its head
	scratch []byte

	order   []started    // runs by age; some are cut meanwhile
	head    int          // of order
	live    int          // runs that are not empty
	chilled int          // runs cut for silence since the database's memory was given back
	look    int          // the page whose devices are looked at next for silence
	bytes   int          // memory of all runs
	rows    uint64       // of the log, since the start
	next    atomic.Int64 // number of the newest chunk
	through signalbox.Position
}

// mark says that the chunks before number chunk have nothing behind position at.
type mark struct {
	at    signalbox.Position
	chunk int64
}

const (
	// markName is where the number is kept of the first chunk that may have messages that are
	// in the log as well.
	markName = "history_mark"
	// markEvery is how many entries lie between two marks.
	markEvery = 1 << 16
)

// run takes up what is committed until ctx ends.
func (s *sealer) run(ctx context.Context) {
	l := s.l
	cold := time.NewTicker(max(l.cfg.Cold/coldShare, time.Millisecond))
	defer cold.Stop()
	for {
		var fed []*batch
		wake := l.sealing
		l.mu.Lock()
		if l.waiting > unitBytes {
			wake = l.drained // cutting more would only fill memory
		} else {
			fed, l.fed = l.fed, nil
		}
		l.mu.Unlock()
		for _, b := range fed {
			s.take(ctx, b)
		}
		if len(fed) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case now := <-cold.C:
			s.try(s.chill(ctx, now))
		}
	}
}

// chill cuts the runs of devices that have long been silent, so that these need no memory. It
// looks at a part of all devices.
func (s *sealer) chill(ctx context.Context, now time.Time) error {
	if s.l.gone.Load() {
		return nil // nothing can be stored, or looked up
	}
	s.tails.mu.RLock()
	pages := s.tails.pages
	s.tails.mu.RUnlock()
	silent := now.Add(-s.l.cfg.Cold).UnixMicro()
	cuts := 0
	for range (len(pages) + coldShare - 1) / coldShare {
		if s.look++; s.look >= len(pages) {
			s.look = 0
		}
		p := pages[s.look]
		if p == nil {
			continue
		}
		for i := range p.tails {
			p.mu.Lock()
			d := p.tails[i]
			p.mu.Unlock()
			if d == nil || d.run.Len() == 0 || d.run.Received() > silent {
				continue
			}
			device := signalbox.DeviceID(s.look*tailsPerPage + i)
			if err := s.cut(ctx, device, p, d, true); err != nil {
				return err
			}
			cuts++
		}
		if cuts >= coldCuts {
			break
		}
	}
	if cuts > 0 {
		s.reached(ctx, s.through) // the log may be needed no longer
	}
	// The page cache that many cold devices leave behind is not needed again soon.
	if s.chilled += cuts; s.chilled < coldCuts {
		return nil
	}
	if cuts > 0 {
		return s.l.st.Trim(ctx)
	}
	s.chilled = 0
	return s.l.st.Shrink(ctx)
}

// take takes up a row of the log.
func (s *sealer) take(ctx context.Context, b *batch) {
	l := s.l
	err := decode(b.first, b.received, b.buf, func(e *signalbox.Entry) bool {
		s.try(s.feed(ctx, e))
		return true
	})
	s.try(err)
	s.rows++
	s.reached(ctx, b.first+signalbox.Position(b.n)-1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lag -= len(b.buf)
	*b = batch{buf: b.buf[:0]}
	l.free.Put(b)
}

// reached ends the taking up of a row that ends at p.
func (s *sealer) reached(ctx context.Context, p signalbox.Position) {
	s.through = p
	s.try(s.age(ctx))
	drop := s.floor()
	for _, hold := range s.l.holds {
		drop = min(drop, hold.first())
	}
	s.l.stats.RunBytes.Store(int64(s.bytes))
	s.l.stats.Runs.Store(int64(s.live)) // who sees no runs sees no bytes either
	s.l.mu.Lock()
	s.l.drop = drop
	if p >= s.l.marks[len(s.l.marks)-1].at+markEvery {
		s.l.marks = append(s.l.marks, mark{p, s.next.Load() + 1})
	}
	s.l.mu.Unlock()
	s.l.sealed.reach(p)
}

// try reports a fault. What could not be cut stays in memory and in the log, and is tried
// again with its device's next message.
func (s *sealer) try(err error) {
	if err == nil {
		return
	}
	s.l.stats.Faults.Add(1)
	s.l.cfg.Logger.Error("telemetry could not be sealed; it stays in the log", "err", err)
}

// feed takes up one entry. Those of the broker stay in the log, and leave with its rows.
func (s *sealer) feed(ctx context.Context, e *signalbox.Entry) error {
	if e.Kind == signalbox.EntryBroker {
		return nil
	}
	row := chunk.Row{Position: e.Position, Received: e.ReceivedMicros, Time: e.TimeMicros, Imported: e.Kind == signalbox.EntryImported, Body: e.Body}
	device := e.Device
	if !e.Kind.IsTelemetry() {
		s.body = append(s.body[:0], byte(e.Kind))
		s.body = append(binary.AppendUvarint(s.body, uint64(e.Device)), e.Body...)
		row.Body, device = s.body, eventDevice
	}
	p := s.tails.page(device, true)
	p.mu.Lock()
	d := p.tails[device%tailsPerPage]
	if d == nil {
		d = newTail()
		p.tails[device%tailsPerPage] = d
	}
	before := d.run.Size()
	if d.run.Len() == 0 {
		before = 0
		s.live++
		s.order = append(s.order, started{device: device, first: e.Position, row: s.rows})
	}
	d.run.Append(s.shapes, &row)
	n, size := d.run.Len(), d.run.Size()
	p.mu.Unlock()
	s.bytes += size - before
	if n >= chunkRows || size >= chunkBytes {
		return s.cut(ctx, device, p, d, false)
	}
	return nil
}

// age cuts runs that have waited long enough: the log is kept for the oldest.
func (s *sealer) age(ctx context.Context) error {
	for s.head < len(s.order) {
		o := s.order[s.head]
		if p, d := s.pending(o); d != nil {
			if s.bytes <= s.l.cfg.TailBytes && s.through-o.first < signalbox.Position(s.l.cfg.TailEntries) && s.rows-o.row < uint64(s.l.cfg.TailRows) {
				break
			}
			if err := s.cut(ctx, o.device, p, d, false); err != nil {
				return err
			}
		}
		s.head++
	}
	s.tidyOrder()
	return nil
}

// tidyOrder takes out of order what is passed, or was cut long before its turn.
func (s *sealer) tidyOrder() {
	switch rest := len(s.order) - s.head; {
	case rest > 2*s.live+orderSlack:
		s.order = slices.DeleteFunc(s.order[s.head:], func(o started) bool { _, d := s.pending(o); return d == nil })
	case s.head > len(s.order)/2:
		s.order = s.order[:copy(s.order, s.order[s.head:])]
	default:
		return
	}
	s.head = 0
	if cap(s.order) > 4*len(s.order)+orderSlack {
		s.order = slices.Clone(s.order)
	}
}

// pending gives the tail with the run that o is about, nil when that was cut.
func (s *sealer) pending(o started) (*tailPage, *tail) {
	p := s.tails.page(o.device, false)
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.tails[o.device%tailsPerPage]; d != nil && d.run.Len() > 0 && d.run.First() == o.first {
		return p, d
	}
	return nil, nil
}

// floor is the first position that some run needs the log for.
func (s *sealer) floor() signalbox.Position {
	if s.head < len(s.order) {
		return s.order[s.head].first
	}
	return s.through + 1
}

// cut makes the run of a device's tail, which is on page p, into chunks that wait for the disk.
// cold: the tail is not needed after that.
func (s *sealer) cut(ctx context.Context, device signalbox.DeviceID, p *tailPage, d *tail, cold bool) error {
	if d.main.count < 0 {
		if err := s.lookUp(ctx, device, &d.main); err != nil {
			return err
		}
	}
	s.table.Reset()
	if err := s.table.AddRun(s.shapes, &d.run); err != nil {
		return fmt.Errorf("device %d: %w", device, err)
	}
	s.table.Sort()
	n := s.table.Len()
	onTime := s.table.Partition(func(t int64) bool { return d.main.count > 0 && t < d.main.high })
	u := &unit{device: device, cold: cold, first: d.run.First(), last: d.run.Last(), run: d.run}
	for _, part := range []struct {
		lo, hi int
		late   bool
	}{{0, onTime, false}, {onTime, n, true}} {
		if part.lo == part.hi {
			continue
		}
		var err error
		if s.scratch, err = s.table.Encode(s.scratch[:0], part.lo, part.hi); err != nil {
			return fmt.Errorf("device %d: %w", device, err)
		}
		c := newChunk{id: s.next.Add(1), late: part.late, blob: append([]byte(nil), s.scratch...)}
		if c.head, err = chunk.Open(c.blob); err != nil {
			return fmt.Errorf("device %d: %w", device, err)
		}
		if !c.late {
			c.base = d.main.count
			d.main.count += int64(c.head.N)
			d.main.high = c.head.T1
		}
		u.chunks = append(u.chunks, c)
		u.bytes += len(c.blob) + 64
	}
	small := &p.small[device%tailsPerPage]
	if n >= smallRows {
		*small = 0
	} else if *small < math.MaxUint8 {
		*small++
	}
	if *small >= mergeAt {
		select {
		case s.l.tidy.queue <- device:
			*small = 0
		default:
		}
	}
	s.bytes -= d.run.Size()
	s.live--
	p.mu.Lock()
	if d.units == nil {
		d.units = new([]*unit)
	}
	*d.units = append(*d.units, u)
	d.run = chunk.Run{}
	p.mu.Unlock()
	s.l.offer(u)
	return nil
}

// stored forgets units that are on disk. Any goroutine may call it.
func (s *sealer) stored(units []*unit) {
	for _, u := range units {
		p := s.tails.page(u.device, false)
		p.mu.Lock()
		d := p.tails[u.device%tailsPerPage]
		if *d.units = slices.DeleteFunc(*d.units, func(have *unit) bool { return have == u }); len(*d.units) == 0 {
			d.units = nil
			if u.cold && d.run.Len() == 0 {
				p.tails[u.device%tailsPerPage] = nil
			}
		}
		p.mu.Unlock()
	}
}

// lookUp reads where a device's main sequence ends.
func (s *sealer) lookUp(ctx context.Context, device signalbox.DeviceID, m *mainEnd) error {
	var end mainEnd
	err := s.l.end.QueryRowContext(ctx, int64(device)).Scan(&end.high, &end.count)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read the end of a device's history: %w", err)
	}
	*m = end
	return nil
}

// offer hands a unit to the next commits.
func (l *Log) offer(u *unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.units = append(l.units, u)
	l.waiting += u.bytes
	if l.due.IsZero() {
		l.due = time.Now().Add(l.cfg.MaxWait)
		nudge(l.wake)
	}
}

// event splits the body of an event into what it was made of.
func event(body []byte) (kind signalbox.EntryKind, device signalbox.DeviceID, rest []byte, err error) {
	if len(body) < 2 {
		return 0, 0, nil, fmt.Errorf("%w: an event of %d bytes", errBroken, len(body))
	}
	v, n := binary.Uvarint(body[1:])
	if n <= 0 || v > 1<<32-1 {
		return 0, 0, nil, fmt.Errorf("%w: an event without a device", errBroken)
	}
	return signalbox.EntryKind(body[0]), signalbox.DeviceID(v), body[1+n:], nil
}
