package command

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// clock knows when something is due: one heap and one timer for all commands.
type clock struct {
	mu   sync.Mutex
	heap dueHeap
	wake chan struct{}
}

type dueHeap []*entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].slot, h[j].slot = i+1, j+1
}

// Push is heap.Interface's.
func (h *dueHeap) Push(x any) {
	e, _ := x.(*entry)
	*h = append(*h, e)
	e.slot = len(*h)
}

// Pop is heap.Interface's.
func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.slot = 0
	return e
}

// set calls e at t, instead of what was set before; the zero time calls it never.
func (c *clock) set(e *entry, t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.IsZero() {
		if e.slot > 0 {
			heap.Remove(&c.heap, e.slot-1)
		}
		return
	}
	e.due = t.UnixMicro()
	if e.slot > 0 {
		heap.Fix(&c.heap, e.slot-1)
	} else {
		heap.Push(&c.heap, e)
	}
	if c.heap[0] == e {
		signal(c.wake)
	}
}

// take removes up to limit entries that are due, and says how long until the next is.
func (c *clock) take(into []*entry, limit int) (due []*entry, next time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := time.Now().UnixMicro()
	for len(c.heap) > 0 && c.heap[0].due <= t && len(into) < limit {
		e, _ := heap.Pop(&c.heap).(*entry)
		into = append(into, e)
	}
	if len(c.heap) == 0 {
		return into, time.Hour
	}
	// Wall clocks jump: never sleep longer than a minute on a plan made by one.
	return into, min(max(time.Duration(c.heap[0].due-t)*time.Microsecond, 0), time.Minute)
}

func (r *Road) runClock(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var due []*entry
	for {
		var next time.Duration
		due, next = r.clock.take(due[:0], 256)
		for i, e := range due {
			r.ring(e)
			due[i] = nil
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-r.clock.wake:
		case <-timer.C:
		}
	}
}

// saveRest tries the log once more with what it refused.
func (r *Road) saveRest() {
	r.clock.mu.Lock()
	rest := slices.Clone(r.clock.heap)
	r.clock.mu.Unlock()
	for _, e := range rest {
		sh := r.shard(e.c.To)
		sh.mu.Lock()
		if e.unsaved {
			r.save(e, history.Now)
		}
		sh.mu.Unlock()
	}
}

// arm sets the clock for the next thing that can happen to e by itself. The caller holds
// the shard.
func (r *Road) arm(e *entry) {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	switch {
	case e.unsaved:
		sooner(time.Now().Add(retryEvery))
	case e.c.State == signalbox.CommandQueued:
		sooner(e.c.ExpiresAt)
	case e.c.State == signalbox.CommandSent && e.c.Protocol.Answers():
		if !e.lapsed {
			sooner(e.c.ExpiresAt)
		}
		sooner(e.deadline())
	case e.c.State == signalbox.CommandDelivered:
		sooner(e.deadline())
	}
	if e.watched {
		sooner(e.c.SentAt.Add(r.cfg.ConfirmWindow))
	}
	if e.c.Settled() && !e.watched && !e.unsaved {
		if e.idle.IsZero() {
			e.idle = time.Now()
		}
		sooner(e.idle.Add(linger))
	} else {
		e.idle = time.Time{}
	}
	r.clock.set(e, next)
}

// deadline is when the wait for an answer ends.
func (e *entry) deadline() time.Time {
	return e.c.SentAt.Add(time.Duration(e.c.TimeoutMs) * time.Millisecond)
}

// ring does what is due for e.
func (r *Road) ring(e *entry) {
	sh := r.shard(e.c.To)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e.gone {
		return
	}
	t := time.Now()
	over := func(at time.Time) bool { return !at.IsZero() && !at.After(t) }
	l := sh.lane(e.c.To)
	defer sh.tidy(e.c.To)
	if e.watched && over(e.c.SentAt.Add(r.cfg.ConfirmWindow)) {
		r.unwatch(l, e)
	}
	if e.held && !r.holds(l, e, t) {
		return
	}
	switch e.c.State {
	case signalbox.CommandQueued:
		if over(e.c.ExpiresAt) {
			r.end(l, e, signalbox.CommandExpired, history.Soon)
			return
		}
		r.kick(l, e.c.To) // the log refused to mark it as sent; perhaps it takes it now
	case signalbox.CommandSent, signalbox.CommandDelivered:
		if !e.c.Protocol.Answers() {
			break
		}
		// The one that came first decides: both may have passed while the hub was down.
		expiry := e.c.State == signalbox.CommandSent && !e.lapsed && over(e.c.ExpiresAt)
		if expiry && !e.deadline().Before(e.c.ExpiresAt) {
			if r.sessions.Get(e.c.To) == nil {
				if !e.written {
					e.unsend()
				}
				r.end(l, e, signalbox.CommandExpired, history.Soon)
				return
			}
			e.lapsed = true
		}
		if over(e.deadline()) {
			r.end(l, e, signalbox.CommandTimedOut, history.Soon)
			return
		}
	default:
	}
	if e.unsaved {
		r.save(e, history.Soon)
		return
	}
	if e.c.Settled() && !e.watched && over(e.idle.Add(linger)) {
		if e.held {
			r.clock.set(e, t.Add(linger)) // it may go out yet
			return
		}
		owes := r.image.owes(e)
		if !owes && e.stored && !keepsActive(&e.c, false) {
			r.image.touch(e)
			owes = true
		}
		if owes {
			r.clock.set(e, t.Add(rowDelay/2)) // the store does not know it yet
			return
		}
		r.evict(sh, e)
		return
	}
	r.arm(e)
}
