package broker

import (
	"context"
	"sync"
	"time"

	"signalbox/internal/history"
)

// flusher records what clients have acknowledged, of many messages at once, reads queues from
// the disk, and writes what could not be recorded because the log was full.
type flusher struct {
	mu     sync.Mutex
	list   []*client
	loads  []*client
	again  []*client     // that could not be read
	soon   bool          // somebody waits for PUBREL
	owed   []func() bool // guarded by road
	wake   chan struct{}
	loader chan struct{}
}

const (
	// flushEvery is how long an acknowledgement of a subscriber waits at most for its record.
	flushEvery = 100 * time.Millisecond
	// readTimeout bounds one reading of a queue.
	readTimeout = 10 * time.Second
)

// add puts a session on the list. It needs the client's lock.
func (f *flusher) add(c *client, o *outbound, soon bool) {
	if o.flushes && !soon {
		return
	}
	f.mu.Lock()
	if !o.flushes {
		o.flushes = true
		f.list = append(f.list, c)
	}
	wake := soon && !f.soon
	f.soon = f.soon || soon
	f.mu.Unlock()
	if wake {
		nudge(f.wake)
	}
}

func (f *flusher) load(c *client) {
	f.mu.Lock()
	f.loads = append(f.loads, c)
	f.mu.Unlock()
	nudge(f.loader)
}

// owe runs f, which needs road and says whether it is done, now or later, in order.
func (b *Broker) owe(f func() bool) {
	if b.flush.owed == nil && f() {
		return
	}
	b.flush.owed = append(b.flush.owed, f)
}

func (b *Broker) runFlush(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			b.flushAll()
			return
		case <-tick.C:
		case <-b.flush.wake:
		}
		b.flushAll()
	}
}

func (b *Broker) flushAll() {
	f := &b.flush
	b.road.Lock()
	n := 0
	for n < len(f.owed) && f.owed[n]() {
		n++
	}
	f.owed = append([]func() bool(nil), f.owed[n:]...)
	b.road.Unlock()

	f.mu.Lock()
	list, again := f.list, f.again
	f.list, f.again, f.soon = nil, nil, false
	f.mu.Unlock()
	for _, c := range list {
		b.flushOne(c)
	}
	for _, c := range again {
		b.mark(c)
	}
}

// flushOne records the state of one session's queue.
func (b *Broker) flushOne(c *client) {
	b.road.Lock()
	defer b.road.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.out
	if o == nil || c.dead {
		return
	}
	o.flushes = false
	if o.unsaved {
		b.save(c, o)
	}
}

// save records how far the client is with its queue. It needs road and the client's lock.
func (b *Broker) save(c *client, o *outbound) {
	acked, done, released := o.acked()
	sent := o.sent()
	if c.conn != nil {
		sent += o.mark.next(sent, uint64(c.conn.window))
	}
	p, err := b.record(b.keeper.Acked(c.kept.id, acked, sent, done, released), history.Acked)
	if err != nil {
		b.flush.add(c, o, false) // with the next
		return
	}
	o.unsaved = false
	o.mark.recorded(o.sent(), sent, p)
	c.released(o, p)
}

// runLoads reads queues whose window in memory is empty.
func (b *Broker) runLoads(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.flush.loader:
		}
		for ctx.Err() == nil {
			f := &b.flush
			f.mu.Lock()
			if len(f.loads) == 0 {
				f.loads = nil
				f.mu.Unlock()
				break
			}
			c := f.loads[0]
			f.loads[0] = nil
			f.loads = f.loads[1:]
			f.mu.Unlock()
			b.loadOne(ctx, c)
		}
	}
}

// loadOne reads the next messages of a session's queue into memory.
func (b *Broker) loadOne(ctx context.Context, c *client) {
	c.mu.Lock()
	o, s := c.out, c.conn
	if o == nil || s == nil || c.dead || o.end() == o.next {
		if o != nil {
			o.loading = false
		}
		c.mu.Unlock()
		return
	}
	from, to, id := o.end(), o.next, c.kept.id
	c.mu.Unlock()

	// What is released has no text any more; it may stand in front of what has.
	limited, cancel := context.WithTimeout(ctx, readTimeout)
	items, err := b.keeper.Read(limited, id, from, b.cfg.WindowMessages, int(b.cfg.WindowBytes))
	cancel()

	c.mu.Lock()
	defer c.mu.Unlock()
	o.loading = false
	if c.out != o || c.dead {
		return
	}
	if err != nil {
		if ctx.Err() == nil {
			b.cfg.Logger.Warn("the queue of a session could not be read; it is tried again", "owner", c.owner(), "err", err)
			b.flush.mu.Lock()
			b.flush.again = append(b.flush.again, c)
			b.flush.mu.Unlock()
		}
		return
	}
	if c.conn == nil || o.end() != from { // another connection; it asks for itself
		b.mark(c)
		return
	}
	for i := range items {
		it := &items[i]
		if it.N >= to || it.N < o.end() {
			continue
		}
		c.fill(o, it.N)
		if o.early[it.N] != stateWaiting {
			c.fill(o, it.N+1)
			continue
		}
		entry := item{m: it.Message, qos: it.Target.QoS, retain: it.Target.Retain, settles: o.queued} // its own is not later
		if len(it.IDs) > 0 {
			entry.id, entry.more = it.IDs[0], it.IDs[1:]
		}
		o.push(entry)
	}
	if len(items) == 0 {
		c.fill(o, to)
	}
	c.trim(o)
	b.mark(c)
}

// fill puts what is known of the messages up to n, but not n, into memory: they are done or
// released. Others should have been on the disk.
func (c *client) fill(o *outbound, n uint64) {
	for o.end() < n {
		at := o.end()
		s, known := o.early[at]
		delete(o.early, at)
		switch {
		case !known:
			c.b.stats.Lost.Add(1)
			s = stateDone
			o.unsaved = true
		case s == stateReceived:
			o.unsaved = true
		}
		o.push(item{state: s, qos: 2, settles: o.saved})
	}
	if len(o.early) == 0 {
		o.early = nil
	}
}
