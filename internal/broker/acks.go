package broker

import (
	"context"
	"math"
	"sync"

	"signalbox"
	"signalbox/internal/wire/packet"
)

// acks is the queue of what may leave only after a commit, and of what has to keep its order
// with that. It holds what the log holds uncommitted, and is bounded by it and by the
// receive maximum of each connection.
type acks struct {
	mu    sync.Mutex
	queue []ack
	done  signalbox.Position
	wake  chan struct{}
}

// ack is one acknowledgement to a connection, and the position that settles it.
type ack struct {
	settles signalbox.Position // 0: as soon as it is its turn
	c       *client
	whole   *whole // a packet of another kind instead, nil for none
	gen     uint32
	next    int32 // of the same session in a batch, -1 at the end
	id      uint16
	kind    packet.Type
	reason  packet.Reason
	again   bool // of a duplicate or of what was refused: is on no account
}

// wakes is the kind of what is no packet: the sender waits for the position.
const wakes = packet.Type(0)

// whole is an encoded packet, and what begins when it has left.
type whole struct {
	packet []byte
	jobs   []*giving
}

func (a *acks) init() { a.wake = make(chan struct{}, 1) }

// answer puts an acknowledgement for this connection into the queue.
func (s *Session) answer(e ack) {
	e.c, e.gen = s.c, s.gen
	a := &s.c.b.acks
	a.mu.Lock()
	a.queue = append(a.queue, e)
	first := e.settles <= a.done
	a.mu.Unlock()
	if first {
		nudge(a.wake)
	}
}

// committed hears of each commit from the log.
func (a *acks) committed(p signalbox.Position) {
	a.mu.Lock()
	a.done = max(a.done, p)
	waiting := len(a.queue) > 0
	a.mu.Unlock()
	if waiting {
		nudge(a.wake)
	}
}

// settled reports whether p is on disk.
func (a *acks) settled(p signalbox.Position) bool {
	return p <= a.position()
}

// position is up to where the log is on disk.
func (a *acks) position() signalbox.Position {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.done
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take moves what is settled into the batch, in order of arrival, so that acknowledgements of
// a connection keep theirs [MQTT-4.6.0-2]. Positions arrive almost in order; one that is early
// waits behind its elders for the next commit at most.
func (a *acks) take(batch []ack) (_ []ack, left int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for n < len(a.queue) && a.queue[n].settles <= a.done {
		n++
	}
	batch = append(batch, a.queue[:n]...)
	left = copy(a.queue, a.queue[n:])
	clear(a.queue[left:])
	a.queue = a.queue[:left]
	if left == 0 && cap(a.queue) > 1<<16 {
		a.queue = nil
	}
	return batch, left
}

// heads are the ends of one session's chain within a batch.
type heads struct{ first, last int32 }

func (b *Broker) runAcks(ctx context.Context) {
	var (
		batch  []ack
		chains []heads
		out    []byte
		left   int
	)
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.acks.wake:
		}
		batch, left = b.acks.take(batch[:0])
		b.stats.WaitingAcks.Store(int64(left))
		chains = append(chains[:0], heads{}) // 0 means none
		for i := range batch {
			e := &batch[i]
			at := int32(i) //nolint:gosec // a batch is bounded by the log
			e.next = -1
			if e.c.batch == 0 {
				e.c.batch = int32(len(chains)) //nolint:gosec // fewer than the batch
				chains = append(chains, heads{at, at})
				continue
			}
			h := &chains[e.c.batch]
			batch[h.last].next, h.last = at, at
		}
		for _, h := range chains[1:] {
			batch[h.first].c.batch = 0
			out = b.acknowledge(batch, h.first, out[:0])
		}
		clear(batch)
		if cap(batch) > 1<<16 {
			batch = nil
		}
	}
}

// acknowledge writes what one session gets out of a batch.
func (b *Broker) acknowledge(batch []ack, first int32, out []byte) []byte {
	c := batch[first].c
	admitted, begins, woken := false, false, false
	c.mu.Lock()
	s, in := c.conn, c.in
	for i := first; i >= 0; i = batch[i].next {
		e := &batch[i]
		live := s != nil && s.gen == e.gen
		if e.whole != nil && len(e.whole.jobs) > 0 && !c.dead && (live || c.kept != nil) {
			o := c.outbound()
			o.jobs = append(o.jobs, e.whole.jobs...)
			begins = begins || live
		}
		if in != nil && !e.again && e.whole == nil {
			in.retire(e, live, s)
		}
		if !live {
			continue
		}
		switch {
		case e.kind == wakes && e.whole == nil:
			woken = true
			if c.out != nil {
				c.out.awaits = false
			}
		case e.whole != nil:
			out = append(out, e.whole.packet...)
			admitted = admitted || packet.Type(out[len(out)-len(e.whole.packet)]>>4) == packet.CONNACK
		case e.kind == packet.PINGRESP:
			out = packet.AppendPing(out, packet.PINGRESP)
		default:
			out = packet.AppendAck(out, s.version, e.kind, e.id, e.reason, nil)
		}
	}
	c.mu.Unlock()
	if len(out) > 0 {
		_ = s.peer.Write(out) // a connection that is gone comes again
	}
	if admitted {
		s.ready.Store(true)
	}
	if admitted || begins || woken {
		b.mark(c)
	}
	return out
}

// retire takes what is acknowledged off the account, before the client can know.
func (in *inbound) retire(e *ack, live bool, s *Session) {
	ends := false
	switch e.kind {
	case packet.PUBACK:
		ends = true
		if n := len(in.first); n > 0 {
			copy(in.first, in.first[1:])
			in.first = in.first[:n-1]
		}
	case packet.PUBREC:
		// 4.9: a 5.0 client's quota comes back with PUBCOMP. A 3.1.1 client's publishes may
		// stand in the stream before its PUBREL: waiting for that would be waiting for ever.
		ends = live && s.version != packet.V5
	case packet.PUBCOMP:
		ends = live && s.version == packet.V5 && e.reason == packet.Success
	default:
	}
	if ends && live && in.open > 0 {
		in.open--
	}
}

// everything is beyond each position.
const everything = signalbox.Position(math.MaxUint64)
