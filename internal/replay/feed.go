package replay

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

const (
	// queueBatches is how many batches lie between history and the sink, batchEvents and
	// batchBytes how large one is at most; a longer message is a batch by itself.
	queueBatches = 8
	batchEvents  = 1024
	batchBytes   = 256 << 10
	// parkAfter is how long a reader waits for room in its queue, or reads at a stretch when
	// others wait for their turn, before it lets go of history; it reads on when half of the
	// queue is empty. parkSoon is the first of these when others wait, or begin to.
	parkAfter = time.Second
	parkSoon  = 50 * time.Millisecond
)

// errPark ends a scan that is to go on later.
var errPark = errors.New("the reader lets go of history for a while")

// batch is some events in a row.
type batch struct {
	events []Event
	ends   []int // of the events' objects in bytes
	bytes  []byte
}

// seal gives the events their objects, now that bytes does not move any more.
func (b *batch) seal() {
	from := 0
	for i, end := range b.ends {
		b.events[i].Object = b.bytes[from:end:end]
		from = end
	}
}

// feed reads history ahead of a sink, in a goroutine of its own.
type feed struct {
	m       *Manager
	options *Options
	until   signalbox.Position
	place   place
	end     int64 // of the range, µs
	wanted  map[signalbox.DeviceID]string

	out    chan *batch // closed at the end; then err is set
	free   chan *batch
	taken  chan struct{} // nudged when a batch was taken
	err    error
	cancel context.CancelFunc
}

// open begins to read at a place; close ends it.
func (m *Manager) open(ctx context.Context, r *replay, from place) *feed {
	ctx, cancel := context.WithCancel(ctx)
	f := &feed{
		m: m, options: &r.options, until: r.until, place: from, end: math.MaxInt64, wanted: map[signalbox.DeviceID]string{},
		out: make(chan *batch, queueBatches), free: make(chan *batch, queueBatches), taken: make(chan struct{}, 1), cancel: cancel,
	}
	if !r.options.To.IsZero() {
		f.end = r.options.To.UnixMicro()
	}
	go func() {
		defer close(f.out)
		f.err = f.run(ctx)
	}()
	return f
}

// close waits until the reader has ended.
func (f *feed) close() {
	f.cancel()
	for range f.out { // what is left is not wanted
	}
}

// used gives a batch back.
func (f *feed) used(b *batch) {
	select {
	case f.free <- b:
	default:
	}
}

// run reads until the end, in as many turns as it takes.
func (f *feed) run(ctx context.Context) error {
	b := f.fresh()
	for {
		if err := f.acquire(ctx); err != nil {
			return err
		}
		err := f.scan(ctx, &b)
		<-f.m.slots
		switch {
		case err == nil:
			return f.send(ctx, b)
		case !errors.Is(err, errPark):
			return err
		}
		if err := f.send(ctx, b); err != nil {
			return err
		}
		b = f.fresh()
		for len(f.out) > queueBatches/2 {
			select {
			case <-f.taken:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// acquire waits for a turn to read.
func (f *feed) acquire(ctx context.Context) error {
	select {
	case f.m.slots <- struct{}{}:
		return nil
	default:
	}
	f.m.waiting.Add(1)
	defer f.m.waiting.Add(-1)
	select {
	case f.m.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *feed) send(ctx context.Context, b *batch) error {
	if len(b.events) == 0 {
		return nil
	}
	b.seal()
	select {
	case f.out <- b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *feed) fresh() *batch {
	select {
	case b := <-f.free:
		clear(b.events)
		b.events, b.ends, b.bytes = b.events[:0], b.ends[:0], b.bytes[:0]
		return b
	default:
		return new(batch)
	}
}

// scan reads from f.place on. With errPark there is a batch left to send.
func (f *feed) scan(ctx context.Context, current **batch) error {
	q := history.RangeQuery{
		ScanQuery: history.ScanQuery{Devices: f.options.Devices, From: f.options.From, To: f.options.To},
		After:     f.place.after, Until: f.until,
	}
	began := time.Now()
	return f.m.cfg.History.ScanRange(ctx, q, func(e *signalbox.Entry) error {
		b := *current
		if len(b.events) > 0 && (len(b.events) == batchEvents || len(b.bytes)+len(e.Body) > batchBytes) {
			if err := f.offer(ctx, b, began); err != nil {
				return err // f.place is before e: it is read again
			}
			b = f.fresh()
			*current = b
		}
		f.add(b, e)
		return nil
	})
}

// offer puts a full batch into the queue, or says that it is time to let go.
func (f *feed) offer(ctx context.Context, b *batch, began time.Time) error {
	if f.m.waiting.Load() > 0 && time.Since(began) > parkAfter {
		return errPark
	}
	b.seal()
	select {
	case f.out <- b:
		return nil
	default:
	}
	full := time.Now()
	look := time.NewTicker(parkSoon)
	defer look.Stop()
	for {
		select {
		case f.out <- b:
			return nil
		case <-look.C:
			if f.m.waiting.Load() > 0 || time.Since(full) >= parkAfter {
				return errPark
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// add takes up an entry, if it is to be played.
func (f *feed) add(b *batch, e *signalbox.Entry) {
	p := &f.place
	p.after = e.Position
	name, known := f.wanted[e.Device]
	if !known {
		name = f.m.cfg.NameOf(e.Device)
		f.wanted[e.Device] = name
	}
	if name == "" {
		return
	}
	at := e.TimeMicros
	if f.options.Pace == PaceReceived && e.ReceivedMicros < f.end {
		at = e.ReceivedMicros
	}
	p.clock = max(p.clock, at)
	if p.clock < p.seek || e.Position <= p.skip {
		return
	}
	b.events = append(b.events, Event{Position: e.Position, Device: name, TimeMicros: e.TimeMicros, ReceivedMicros: e.ReceivedMicros, moment: p.clock})
	b.bytes = append(b.bytes, e.Body...)
	b.ends = append(b.ends, len(b.bytes))
}

// due is how many of the events, which are in the order of their moments, come at or before
// a moment.
func due(events []Event, moment int64) int {
	n, _ := slices.BinarySearchFunc(events, moment, func(e Event, m int64) int {
		if e.moment <= m {
			return -1
		}
		return 1
	})
	return n
}
