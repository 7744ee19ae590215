package gateway

import (
	"context"
	"sync"

	"signalbox"
)

// acks is the queue of sequence numbers that wait for their commit. It holds messages that
// the log holds uncommitted, and is bounded by it; a repeated message comes in only when
// its first copy is on disk.
type acks struct {
	mu    sync.Mutex
	queue []ack
	done  signalbox.Position
	wake  chan struct{}
}

// ack is one sequence number of a connection and the position that settles it.
type ack struct {
	settles signalbox.Position
	c       *conn
	seq     uint64
}

func (a *acks) init() { a.wake = make(chan struct{}, 1) }

func (a *acks) add(c *conn, settles signalbox.Position, seq uint64) {
	a.mu.Lock()
	a.queue = append(a.queue, ack{settles: settles, c: c, seq: seq})
	settled := settles <= a.done
	a.mu.Unlock()
	if settled { // a repeated message whose commit is over
		a.nudge()
	}
}

// committed hears of each commit from the log.
func (a *acks) committed(p signalbox.Position) {
	a.mu.Lock()
	a.done = p
	waiting := len(a.queue) > 0
	a.mu.Unlock()
	if waiting {
		a.nudge()
	}
}

func (a *acks) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// take moves what is settled into the batch, in order of arrival. Positions arrive almost
// in order; one that is early waits behind its elders for the next commit at most.
func (a *acks) take(batch []ack) []ack {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for n < len(a.queue) && a.queue[n].settles <= a.done {
		n++
	}
	batch = append(batch, a.queue[:n]...)
	left := copy(a.queue, a.queue[n:])
	clear(a.queue[left:])
	a.queue = a.queue[:left]
	return batch
}

func (g *Gateway) runAcks(ctx context.Context) error {
	var (
		batch []ack
		conns []*conn
		frame []byte
	)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.acks.wake:
		}
		batch = g.acks.take(batch[:0])
		conns = conns[:0]
		for _, a := range batch {
			if a.c.saved == 0 {
				conns = append(conns, a.c)
			}
			a.c.saved = max(a.c.saved, a.seq)
		}
		clear(batch)
		for _, c := range conns {
			frame = appendSaved(frame[:0], c.saved)
			c.saved = 0
			g.stats.Saved.Add(1)
			_ = c.ws.Send(frame) // a connection that is gone asks again after its next login
		}
		clear(conns)
	}
}
