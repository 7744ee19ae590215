package target

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/forward"
)

// listenSink sends to all receivers of a listenTarget that are connected. It is broken when the last
// one has left, or one of which the others were not given all that it lacks.
type listenSink struct {
	target  *listenTarget
	settled func(signalbox.Position)
	closing chan struct{}
	running sync.WaitGroup // a keeper for each receiver
	once    sync.Once

	telling sync.Mutex // around calls of settled, so that they come in order; taken before mu

	course    // broken when no receiver is left that makes up for the others
	receivers []*receiver
	offered   signalbox.Position // the last that Send was given
	told      signalbox.Position // the last that settled was told
	closed    bool
}

func newListenSink(t *listenTarget, settled func(signalbox.Position)) *listenSink {
	return &listenSink{
		target: t, settled: settled, closing: make(chan struct{}), course: newCourse(),
	}
}

// join makes a receiver of conn, or says why it cannot be one; over: of this sink, which is at its
// end, but perhaps of the next.
func (s *listenSink) join(conn net.Conn) (over bool, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed || s.err != nil:
		return true, ""
	case len(s.receivers) == maxReceivers:
		return false, "there are as many receivers as one forwarder may have"
	}
	r := &receiver{
		limit: s.target.buffer, has: s.offered, since: s.offered,
		work: make(chan struct{}, 1), room: make(chan struct{}, 1), wrote: make(chan struct{}),
	}
	p, err := newPeer(conn, s.target.config, s.offered, func(position signalbox.Position) { s.arrived(r, position) })
	if err != nil {
		return false, err.Error()
	}
	r.peer = p
	s.receivers = append(s.receivers, r)
	s.running.Go(func() { s.keep(r) })
	return false, ""
}

// keep runs a receiver until it leaves or the sink is closed.
func (s *listenSink) keep(r *receiver) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.running.Go(func() { r.send(ctx) })
	select {
	case <-r.broken:
	case <-s.closing:
		r.finish()
		patience := time.AfterFunc(s.target.config.closeWait, cancel)
		<-r.wrote
		patience.Stop()
	}
	err := r.Err()
	cancel()
	r.close()
	if err == nil {
		return
	}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.receivers = slices.DeleteFunc(s.receivers, func(other *receiver) bool { return other == r })
		if !s.covers(r.has) {
			s.fails(err) //nolint:errcheck // told to the sender
		}
	}
	s.mu.Unlock()
	if !closed {
		s.target.tellLeft(r.conn.RemoteAddr(), err)
		s.tell()
	}
}

// covers says whether the receivers that are there make up for one that has left and has everything
// up to position: at least one was given all that comes behind it. Else they came when that was under
// way, and are perhaps the one that has left. The caller holds mu.
func (s *listenSink) covers(position signalbox.Position) bool {
	if len(s.receivers) > 0 && position >= s.offered {
		return true
	}
	return slices.ContainsFunc(s.receivers, func(r *receiver) bool { return r.since <= position })
}

// connected are the receivers at present.
func (s *listenSink) connected() []*receiver {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.receivers)
}

// arrived notes what a receiver has.
func (s *listenSink) arrived(r *receiver, position signalbox.Position) {
	s.mu.Lock()
	r.has = position
	s.mu.Unlock()
	s.tell()
}

// tell says what all receivers that are connected have.
func (s *listenSink) tell() {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.mu.Lock()
	least := s.told
	if len(s.receivers) > 0 && s.err == nil {
		least = s.offered
		for _, r := range s.receivers {
			least = min(least, r.has)
		}
	}
	news := least > s.told
	if news {
		s.told = least
		s.wake()
	}
	s.mu.Unlock()
	if news {
		s.settled(least)
	}
}

// Send implements forward.Sink. It waits while a receiver's buffer is full, for each block no longer
// than the forwarder's timeout: then that receiver is cut.
func (s *listenSink) Send(ctx context.Context, batch []forward.Message) error {
	for done := 0; done < len(batch); {
		b := makeBlock(nil, batch[done:], s.target.config.ack)
		s.mu.Lock()
		if err := s.err; err != nil {
			s.mu.Unlock()
			return unsent(batch, done, err)
		}
		done += b.messages
		s.offered = b.last
		all := slices.Clone(s.receivers)
		s.mu.Unlock()
		full := slices.DeleteFunc(all, func(r *receiver) bool { return r.put(&b) })
		if len(full) == 0 {
			continue
		}
		patience := time.NewTimer(s.target.config.timeout)
		for _, r := range full {
			if err := r.putWhenRoom(ctx, &b, patience); err != nil {
				patience.Stop()
				return unsent(batch, done, err)
			}
		}
		patience.Stop()
	}
	return s.Err()
}

// Flush implements forward.Sink.
func (s *listenSink) Flush(ctx context.Context) error {
	return s.await(ctx, func() bool { return s.told >= s.offered })
}

// Close implements forward.Sink.
func (s *listenSink) Close() error {
	s.once.Do(func() {
		s.target.end(s)
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		close(s.closing)
		s.running.Wait()
	})
	return nil
}

// A receiver is a peer with a buffer of its own, and a goroutine which writes what is in it.
type receiver struct {
	*peer

	limit int
	// has is the position up to which the receiver has everything, since that behind which it was
	// given what came; guarded by the sink.
	has, since signalbox.Position

	work  chan struct{} // holds a token when there is something to write, or no more will come
	room  chan struct{} // holds a token when there is more room
	wrote chan struct{} // closed when the writer has ended

	mu     sync.Mutex
	queue  []*block
	queued int // bytes
	last   bool
}

// put adds a block to the buffer; false: there is no room.
func (r *receiver) put(b *block) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queued > 0 && r.queued+b.size() > r.limit {
		return false
	}
	r.queue, r.queued = append(r.queue, b), r.queued+b.size()
	signal(r.work)
	return true
}

// putWhenRoom adds a block as soon as there is room, and cuts the receiver when patience ends before.
func (r *receiver) putWhenRoom(ctx context.Context, b *block, patience *time.Timer) error {
	for !r.put(b) {
		select {
		case <-r.room:
		case <-r.broken:
			return nil // the others go on
		case <-patience.C:
			patience.Reset(0)                                                    // for the next one, who had as long
			r.fail(fmt.Errorf("%w: its buffer of %d bytes has been full for %s", //nolint:errcheck // told by the keeper
				errTakesNothing, r.limit, r.config.timeout))
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// send writes what is put, until a write fails or all is written that will ever come.
func (r *receiver) send(ctx context.Context) {
	defer close(r.wrote)
	for {
		b := r.next(ctx)
		if b == nil || r.write(ctx, b) != nil {
			return
		}
	}
}

// next waits for a block; nil: none will come.
func (r *receiver) next(ctx context.Context) *block {
	for {
		r.mu.Lock()
		if len(r.queue) > 0 {
			b := r.queue[0]
			r.queue[0] = nil
			r.queue, r.queued = r.queue[1:], r.queued-b.size()
			r.mu.Unlock()
			signal(r.room)
			return b
		}
		last := r.last
		r.mu.Unlock()
		if last {
			return nil
		}
		select {
		case <-r.work:
		case <-r.broken:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// finish says that no more will be put.
func (r *receiver) finish() {
	r.mu.Lock()
	r.last = true
	r.mu.Unlock()
	signal(r.work)
}

// signal leaves a token, unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
