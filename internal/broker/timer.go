package broker

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"signalbox/internal/broker/durable"
	"signalbox/internal/history"
	"signalbox/internal/wire/packet"
)

// timer knows when sessions expire and when wills are to be published: one heap, so that a
// session that waits for years costs no timer.
type timer struct {
	mu    sync.Mutex
	queue dueHeap
	wills []pendingWill // that could not be published because the log was full
	wake  chan struct{}
}

// pendingWill is a will to be published, and the session whose end is recorded after that, so
// that a kill in between publishes it twice rather than never.
type pendingWill struct {
	will  *durable.Will
	owner string
	ends  durable.SessionID // 0 for none
}

// sweepEvery is how often retained messages are looked at for their expiry.
const sweepEvery = time.Minute

// set puts the session into the heap for the next thing that will happen to it. It needs the
// client's lock.
func (t *timer) set(c *client) {
	k := c.kept
	due := k.endAt
	if k.wait && (due.IsZero() || k.willAt.Before(due)) {
		due = k.willAt
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k.due = due
	switch {
	case due.IsZero():
		if k.place >= 0 {
			heap.Remove(&t.queue, k.place)
		}
		return
	case k.place >= 0:
		heap.Fix(&t.queue, k.place)
	default:
		heap.Push(&t.queue, c)
	}
	if t.queue[0] == c {
		nudge(t.wake)
	}
}

// forget takes the session out. It needs the client's lock.
func (t *timer) forget(c *client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.kept.place >= 0 {
		heap.Remove(&t.queue, c.kept.place)
	}
}

// next takes out a session whose time has come, or says how long to wait.
func (t *timer) next(now time.Time) (c *client, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait = sweepEvery
	if len(t.wills) > 0 {
		wait = 100 * time.Millisecond
	}
	if len(t.queue) == 0 {
		return nil, wait
	}
	if left := t.queue[0].kept.due.Sub(now); left > 0 {
		return nil, min(wait, left)
	}
	c, _ = heap.Pop(&t.queue).(*client)
	return c, 0
}

// dueHeap is a heap of sessions, the next one first.
type dueHeap []*client

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].kept.due.Before(h[j].kept.due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].kept.place, h[j].kept.place = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	c, ok := x.(*client)
	if ok {
		c.kept.place = len(*h)
		*h = append(*h, c)
	}
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	old := *h
	last := len(old) - 1
	c := old[last]
	old[last] = nil
	*h = old[:last]
	c.kept.place = -1
	return c
}

func (b *Broker) runTimer(ctx context.Context) {
	swept := time.Now()
	for {
		now := time.Now()
		if now.Sub(swept) >= sweepEvery {
			swept = now
			b.sweepRetained(now)
		}
		b.pendingWills()
		b.tellCrowd(now)
		for {
			c, wait := b.timer.next(now)
			if c != nil {
				b.expire(c, now)
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-b.timer.wake:
			case <-time.After(wait):
			}
			break
		}
	}
}

// expire publishes the session's will if its delay is over, and ends the session if that is.
func (b *Broker) expire(c *client, now time.Time) {
	b.road.Lock()
	c.mu.Lock()
	k := c.kept
	if c.conn != nil || c.dead {
		c.mu.Unlock()
		b.road.Unlock()
		return
	}
	ends := !k.endAt.IsZero() && !k.endAt.After(now)
	var will *durable.Will
	if k.wait && (ends || !k.willAt.After(now)) { // [MQTT-3.1.2-8]
		will, k.will, k.wait = k.will, nil, false
	}
	if !ends {
		b.timer.set(c)
	}
	gen, id := c.gen.Load(), k.id
	c.mu.Unlock()
	if ends {
		b.remove(c)
		b.stats.SessionsExpired.Add(1)
	}
	b.road.Unlock()
	if ends {
		b.leaveWith(pendingWill{will, c.owner(), id})
		return
	}
	if will == nil {
		return
	}
	b.publishWill(will, c.owner())
	if id == 0 {
		return
	}
	b.road.Lock()
	defer b.road.Unlock()
	b.owe(func() bool {
		if c.gen.Load() != gen {
			return true
		}
		_, err := b.record(b.keeper.SetWill(id, nil), history.Soon)
		return err == nil || !isFull(err)
	})
}

// publishWill publishes the will of a session whose connection has ended (3.1.2.5), now or
// when the log has room. It takes road.
func (b *Broker) publishWill(w *durable.Will, owner string) {
	b.leaveWith(pendingWill{will: w, owner: owner})
}

// leaveWith publishes a will, if there is one, and records the end of its session. It takes road.
func (b *Broker) leaveWith(p pendingWill) {
	if !b.tryPending(p) {
		b.timer.mu.Lock()
		b.timer.wills = append(b.timer.wills, p)
		b.timer.mu.Unlock()
		nudge(b.timer.wake)
	}
}

func (b *Broker) tryPending(p pendingWill) bool {
	if p.will != nil && !b.tryWill(p.will, p.owner) {
		return false
	}
	if p.ends != 0 {
		b.road.Lock()
		defer b.road.Unlock()
		b.owe(func() bool {
			_, err := b.record(b.keeper.End(p.ends), history.Soon)
			return err == nil || !isFull(err)
		})
	}
	return true
}

func (b *Broker) tryWill(w *durable.Will, owner string) bool {
	m := w.Message
	p := packet.Packet{Type: packet.PUBLISH, Topic: []byte(m.Topic), Payload: m.Payload, QoS: m.QoS, Retain: m.Retain}
	if err := p.Properties.DecodeForwarded(m.Properties); err != nil {
		return true // cannot be: it was encoded here
	}
	if !m.ExpiresAt.IsZero() {
		m.ExpiresAt = time.Now().Add(m.ExpiresAt.Sub(time.Unix(0, 0)))
	}
	r := b.begin()
	defer b.finish(r)
	r.taking.Owner, r.taking.Message = owner, &p
	err := b.publish(r, &m)
	if isFull(err) {
		return false
	}
	if err == nil {
		b.stats.Wills.Add(1)
	}
	return true
}

// pendingWills tries again what the log had no room for.
func (b *Broker) pendingWills() {
	b.timer.mu.Lock()
	list := b.timer.wills
	b.timer.wills = nil
	b.timer.mu.Unlock()
	for i, p := range list {
		if !b.tryPending(p) {
			b.timer.mu.Lock()
			b.timer.wills = append(list[i:len(list):len(list)], b.timer.wills...)
			b.timer.mu.Unlock()
			return
		}
	}
}
