package bus

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"signalbox"
)

// Bus is the fan-out. The zero Bus is ready.
type Bus struct {
	listening atomic.Int32
	mu        sync.Mutex
	subs      []*Subscription
}

// maxQueued bounds the bodies that wait for one subscriber, in bytes.
const maxQueued = 4 << 20

// Filter says which entries a subscriber wants; it is called by the publisher and must be
// quick. nil wants all.
type Filter func(e *signalbox.Entry) bool

// Subscription is one listener's queue. Its methods are for one goroutine.
type Subscription struct {
	bus    *Bus
	want   Filter
	size   int
	mu     sync.Mutex
	queue  []signalbox.Entry
	bytes  int // of the bodies in queue
	missed int64
	ready  chan struct{}
}

// Subscribe begins to queue entries that want accepts, at most size of them.
func (b *Bus) Subscribe(size int, want Filter) *Subscription {
	s := &Subscription{bus: b, want: want, size: max(size, 1), ready: make(chan struct{}, 1)}
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
	var kept signalbox.Entry
	for _, s := range b.subs {
		if s.want != nil && !s.want(e) {
			continue
		}
		if kept.Position == 0 {
			kept = *e
			kept.Body = slices.Clone(e.Body)
		}
		s.offer(&kept)
	}
}

func (s *Subscription) offer(e *signalbox.Entry) {
	s.mu.Lock()
	if len(s.queue) < s.size && s.bytes+len(e.Body) <= maxQueued {
		s.queue = append(s.queue, *e)
		s.bytes += len(e.Body)
	} else {
		s.missed++
	}
	s.mu.Unlock()
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Next waits for entries and appends them to buf; missed is how many were not queued
// since the last call. It ends with ctx's error.
func (s *Subscription) Next(ctx context.Context, buf []signalbox.Entry) (entries []signalbox.Entry, missed int64, err error) {
	for {
		s.mu.Lock()
		if len(s.queue) > 0 || s.missed > 0 {
			buf = append(buf, s.queue...)
			clear(s.queue)
			s.queue, s.bytes = s.queue[:0], 0
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

// Close ends the subscription.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	if i := slices.Index(s.bus.subs, s); i >= 0 {
		s.bus.subs = slices.Delete(s.bus.subs, i, i+1)
		s.bus.listening.Add(-1)
	}
}
