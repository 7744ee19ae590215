package bus

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"signalbox"
)

// Bus is the fan-out. The zero Bus is ready.
type Bus struct {
	listening atomic.Int32
	mu        sync.Mutex
	subs      []*Subscription
}

// defaultBytes is Options.Bytes where that says nothing.
const defaultBytes = 4 << 20

// EntryBytes is what an entry takes of Options.Bytes besides its body.
const EntryBytes = int(unsafe.Sizeof(signalbox.Entry{}))

// Filter says which entries a subscriber wants. It is called by the publisher, on the road of
// the devices: it takes no lock, allocates nothing and keeps nothing of e.
type Filter func(e *signalbox.Entry) bool

// Options say what a subscriber wants, and how much may wait for it.
type Options struct {
	// Entries bounds the entries that wait; 0: Bytes alone does.
	Entries int
	// Bytes bounds the memory of what waits, bodies and EntryBytes for each (default 4 MiB). One
	// entry may wait however large it is.
	Bytes int
	// Want chooses; nil wants all.
	Want Filter
}

// Subscription is one listener's queue. Its methods are for one goroutine.
type Subscription struct {
	bus   *Bus
	opts  Options
	ready chan struct{}

	mu     sync.Mutex
	queue  []signalbox.Entry
	bytes  int // of queue
	missed int64

	lent int // entries that the last Next gave; the listener's own
}

// spareEntries is how many entries' room is kept for later however few there are.
const spareEntries = 4096

// Subscribe begins to queue entries as o says.
func (b *Bus) Subscribe(o Options) *Subscription {
	if o.Bytes <= 0 {
		o.Bytes = defaultBytes
	}
	s := &Subscription{bus: b, opts: o, ready: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs = append(b.subs, s)
	b.listening.Add(1)
	return s
}

// Publish queues e for all who want it. It copies what it keeps.
func (b *Bus) Publish(e *signalbox.Entry) {
	if b.listening.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var body []byte // copied once, when the first has room for it
	for _, s := range b.subs {
		if s.opts.Want == nil || s.opts.Want(e) {
			body = s.offer(e, body)
		}
	}
}

// offer queues e with the copy of its body, which it makes where there is none yet, or counts
// it. It gives the copy.
func (s *Subscription) offer(e *signalbox.Entry, body []byte) []byte {
	size := len(e.Body) + EntryBytes
	s.mu.Lock()
	sleeping := len(s.queue) == 0 && s.missed == 0
	fits := s.bytes+size <= s.opts.Bytes && (s.opts.Entries <= 0 || len(s.queue) < s.opts.Entries)
	if s.missed == 0 && (fits || len(s.queue) == 0) { // behind a gap nothing is queued until it was told
		if body == nil {
			body = slices.Clone(e.Body)
		}
		s.queue = append(s.queue, *e)
		s.queue[len(s.queue)-1].Body = body
		s.bytes += size
	} else {
		s.missed++
	}
	s.mu.Unlock()
	if sleeping {
		select {
		case s.ready <- struct{}{}:
		default:
		}
	}
	return body
}

// Next waits for entries and appends them to buf, whose memory it takes over; missed is how
// many were not queued since the last call: they came behind these entries, and before all
// that a later call gives. It ends with ctx's error. Bodies are shared with other subscribers
// and must not be changed.
func (s *Subscription) Next(ctx context.Context, buf []signalbox.Entry) (entries []signalbox.Entry, missed int64, err error) {
	if len(buf) == 0 {
		if cap(buf) > spareEntries && s.lent < cap(buf)/8 {
			buf = nil // it was needed once
		}
		clear(buf[:min(s.lent, cap(buf))]) // now, not while the publisher waits
	}
	for {
		s.mu.Lock()
		if len(s.queue) > 0 || s.missed > 0 {
			if len(buf) == 0 { // the publisher, which may be waiting, need not wait for a copy
				buf, s.queue = s.queue, buf
			} else {
				buf = append(buf, s.queue...)
				clear(s.queue)
				s.queue = s.queue[:0]
			}
			s.bytes, s.lent = 0, len(buf)
			missed, s.missed = s.missed, 0
			s.mu.Unlock()
			return buf, missed, nil
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return buf, 0, ctx.Err()
		case <-s.ready:
		}
	}
}

// Close ends the subscription: when it returns its filter is not called any more.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	if i := slices.Index(s.bus.subs, s); i >= 0 {
		s.bus.subs = slices.Delete(s.bus.subs, i, i+1)
		s.bus.listening.Add(-1)
	}
}
