package sim

import (
	"errors"
	"fmt"
	"time"
)

// writesPerStep bounds how long a worker sends before it looks for events.
const writesPerStep = 64

// pingsAround is how many pings go among the writes of one round over all connections.
const pingsAround = 16

// sending is a Load under way on one worker.
type sending struct {
	l      Load
	start  time.Time
	next   int   // in peers
	writes int64 // done
	every  int64 // writes between pings
	window int64
	acked  bool    // QoS 1: PUBACKs bound what is under way, not pings
	left   []int64 // by slot: how many a connection has still to send; QoS 1 with Load.Messages
	pings  []mark  // not all answered, in the order of sending
	rate   float64

	messages, bytes int64
	took            time.Duration
	over            bool
	unfinished      int64 // messages still to be sent where a number was asked for
	waiting         int   // for pongs at the end
}

// mark is a ping among the messages.
type mark struct {
	at       time.Time
	write    int64 // the number of the write it went with
	slot     int32 // of its peer
	answered bool
}

func newSending(w *worker, l Load, start time.Time) *sending {
	n := int64(len(w.peers))
	s := &sending{l: l, start: start, every: max(1, n/pingsAround), window: max(1, int64(l.Window*float64(n)))}
	s.rate = l.Rate * float64(n) / float64(len(w.s.cfg.Credentials))
	s.unfinished = int64(l.Messages) * n
	s.acked = w.s.cfg.QoS > 0
	if s.acked && l.Messages > 0 {
		s.left = make([]int64, n)
		for i := range s.left {
			s.left[i] = int64(l.Messages)
		}
	}
	return s
}

// room is how many messages p may send in one write, 0 if it has to wait.
func (s *sending) room(p *peer) int64 {
	if !s.acked {
		return int64(s.l.Bunch)
	}
	free := int64(s.l.Unacked) - int64(p.n-p.saved)
	switch {
	case free <= 0:
		return 0
	case s.l.Rate > 0:
		free = min(free, int64(s.l.Bunch))
	case 2*free < int64(s.l.Unacked):
		return 0
	}
	if s.left != nil {
		free = min(free, s.left[p.slot])
	}
	return free
}

func (s *sending) step(w *worker) (int, bool, error) {
	if s.over {
		return -1, s.waiting == 0, nil
	}
	now := time.Now()
	if s.l.Duration > 0 && s.writes > 0 && now.Sub(s.start) >= s.l.Duration || s.l.Messages > 0 && s.unfinished <= 0 {
		s.finish(w, now)
		return 0, false, nil
	}
	for range writesPerStep {
		if wait := s.early(now); wait != 0 {
			return wait, false, nil
		}
		p, n := s.pick(w)
		if p == nil {
			if w.s.ready.Load() == 0 {
				s.finish(w, now)
				if s.l.Tolerate {
					return 0, false, nil
				}
				return 0, true, errors.New("no connection is ready")
			}
			return 1, false, nil // all wait for their sockets
		}
		s.send(w, p, n, now)
		if s.l.Messages > 0 && s.unfinished <= 0 {
			break
		}
	}
	return 0, false, nil
}

// early says how many ms to wait before the next write, 0 if it is due.
func (s *sending) early(now time.Time) int {
	if s.l.Rate > 0 {
		due := time.Duration(float64(s.messages) / s.rate * float64(time.Second))
		if ahead := due - now.Sub(s.start); ahead > 0 {
			return int(min(ahead, 20*time.Millisecond)/time.Millisecond) + 1
		}
		return 0
	}
	for len(s.pings) > 0 && s.pings[0].answered {
		s.pings = s.pings[1:]
	}
	if len(s.pings) > 0 && s.writes-s.pings[0].write >= s.window {
		return 20
	}
	return 0
}

// pick gives the next connection that can send, and how many messages; nil if none can.
func (s *sending) pick(w *worker) (*peer, int64) {
	for range w.peers {
		p := &w.peers[s.next]
		if s.next++; s.next == len(w.peers) {
			s.next = 0
		}
		if p.state == ready && len(p.out) == 0 {
			if n := s.room(p); n > 0 {
				return p, n
			}
		}
	}
	return nil, 0
}

func (s *sending) send(w *worker, p *peer, n int64, now time.Time) {
	b := w.out[:0]
	for range n {
		b = w.appendMessage(b, p)
	}
	if s.left != nil {
		s.left[p.slot] -= n
	}
	s.messages += n
	s.unfinished -= n
	s.bytes += int64(len(b))
	w.s.messages.Add(n)
	if s.writes%s.every == 0 {
		if s.l.Rate == 0 {
			now = time.Now()
		}
		if s.l.Rate == 0 && !s.acked {
			b = w.appendPing(b, p, uint64(s.writes))
			s.pings = append(s.pings, mark{at: now, write: s.writes, slot: p.slot})
		}
		if (w.s.cfg.Seq || s.acked) && p.mark == 0 {
			p.mark, p.at = p.n, now.UnixNano()
		}
	}
	s.writes++
	w.out = b
	w.write(p, b)
}

// finish sends the pings that tell when all has arrived; with QoS 1 the last PUBACK tells.
func (s *sending) finish(w *worker, now time.Time) {
	s.over = true
	s.took = now.Sub(s.start)
	for i := range w.peers {
		p := &w.peers[i]
		if p.state != ready || s.acked && p.n == p.saved {
			continue
		}
		s.waiting++
		p.owes = true
		if !s.acked {
			w.out = w.appendPing(w.out[:0], p, barrierToken)
			w.write(p, w.out)
		}
	}
}

func (s *sending) pong(w *worker, p *peer, token uint64) {
	if token == barrierToken {
		s.settle(p)
		return
	}
	for i := range s.pings {
		if m := &s.pings[i]; m.write == int64(token) {
			m.answered = true
			w.s.RTT.Record(time.Since(m.at))
			return
		}
	}
}

func (s *sending) changed(_ *worker, p *peer) error {
	if p.state == ready {
		return nil
	}
	for i := range s.pings {
		if s.pings[i].slot == p.slot {
			s.pings[i].answered = true
		}
	}
	s.settle(p)
	if !s.l.Tolerate {
		return fmt.Errorf("a connection was lost while sending message %d of its device", p.n)
	}
	return nil
}

// settle notes that p owes no pong any more.
func (s *sending) settle(p *peer) {
	if p.owes {
		p.owes = false
		s.waiting--
	}
}
