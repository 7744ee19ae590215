package forward

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"signalbox"
)

const (
	// windowEntries and windowBytes bound what was sent and is not settled.
	// TCP without acknowledgements settles what was written seconds ago, so much is under way with
	// a fast receiver. None of it is in memory but 4 bytes a message.
	windowEntries = 1 << 22
	windowBytes   = 1 << 30
	// keepQueue is how many of these are kept in memory when fewer are needed.
	keepQueue = 1 << 16
	// openSlack is what Open may take beyond the spec's timeout, for names that have several
	// addresses and for handshakes.
	openSlack = 30 * time.Second
)

// errStuck says that a receiver took messages and never said that it has them.
var errStuck = errors.New("the receiver does not confirm what it was sent")

// stallAfter is how long messages may be on their way, and none of them settled, until that is told.
// TCP without acknowledgements settles within seconds; other transports wait no longer than the
// spec's timeout.
const stallAfter = 30 * time.Second

// judged is the end of a session in which a refusal was judged already.
type judged struct {
	again time.Duration
	err   error
}

// Error implements error.
func (e *judged) Error() string { return e.err.Error() }

// session is the time of one sink. All but take is of the engine's goroutine.
type session struct {
	l    *life
	f    *forwarder
	sink Sink
	feed *feed

	// settled is what the sink reported for messages of the log, played that for those of a job.
	settled, played atomic.Uint64
	playing         atomic.Bool // what the sink reports is of a job
	closed          atomic.Bool
	moved           chan struct{}

	// handed is the last position given to the sink, scanned the one up to which the log was
	// looked at and what is wanted was handed over.
	handed, scanned signalbox.Position
	// queue are the messages on their way from head on, each as how far it is behind the one before;
	// base is where the one before head is. parts are the same in batches, bytes their size.
	queue []uint32
	head  int
	base  signalbox.Position
	parts []part
	bytes int

	// since is when something was settled last, or when the first of the queue was sent; stall
	// fires when that may be too long ago, and stalled says that it is.
	since   time.Time
	stall   *time.Timer
	armed   bool
	stalled bool

	// looks fires while a call to the sink takes long; lag is how old what was handed over last is.
	looks *time.Timer
	lag   time.Duration
}

// part is a batch of messages on their way.
type part struct {
	last signalbox.Position
	size int
}

// left is how many messages are on their way.
func (s *session) left() int { return len(s.queue) - s.head }

// push notes messages that are on their way.
func (s *session) push(msgs []Message) {
	if len(msgs) == 0 {
		return
	}
	if s.left() == 0 {
		s.base, s.since = s.handed, time.Now()
		if !s.armed {
			s.stall.Reset(s.patience())
			s.armed = true
		}
	}
	size := 0
	for i := range msgs {
		m := &msgs[i]
		s.queue = append(s.queue, uint32(m.Position-s.handed)) //nolint:gosec // see give
		s.handed = m.Position
		size += m.size()
	}
	s.scanned = max(s.scanned, s.handed)
	s.parts = append(s.parts, part{s.handed, size})
	s.bytes += size
}

func (m *Message) size() int { return len(m.Body) + len(m.Data) }

// patience is how long nothing may be settled.
func (s *session) patience() time.Duration { return max(stallAfter, 2*s.l.spec.Timeout) }

// pop takes off what is settled up to at, and says how many messages that was.
func (s *session) pop(at signalbox.Position) (n int) {
	for s.head < len(s.queue) && s.base+signalbox.Position(s.queue[s.head]) <= at {
		s.base += signalbox.Position(s.queue[s.head])
		s.head++
		n++
	}
	done := 0
	for done < len(s.parts) && s.parts[done].last <= at {
		s.bytes -= s.parts[done].size
		done++
	}
	s.parts = s.parts[:copy(s.parts, s.parts[done:])]
	switch {
	case s.left() == 0 && cap(s.queue) > keepQueue:
		s.queue, s.head = nil, 0
	case s.left() == 0 || s.head > keepQueue && s.head > len(s.queue)/2:
		s.queue, s.head = s.queue[:copy(s.queue, s.queue[s.head:])], 0
	}
	return n
}

// take hears from the sink, in any of its goroutines.
func (s *session) take(p signalbox.Position) {
	if s.closed.Load() {
		return
	}
	to := &s.settled
	if s.playing.Load() {
		to = &s.played
	}
	for {
		have := to.Load()
		if uint64(p) <= have {
			return
		}
		if to.CompareAndSwap(have, uint64(p)) {
			nudge(s.moved)
			return
		}
	}
}

// open connects.
func (s *session) open(ctx context.Context) error {
	l, f := s.l, s.f
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if schemeOf(l.spec.To).is("tcp-listen") { // Open waits for receivers
		f.well()
		l.away = false
		f.enters(StateListening)
	} else {
		bounded, cancel = context.WithTimeout(ctx, l.spec.Timeout+openSlack)
	}
	defer cancel()
	sink, err := l.target.Open(bounded, s.take)
	if err != nil {
		return err
	}
	s.sink = sink
	if !schemeOf(l.spec.To).is("http", "https") {
		s.connected()
	}
	return nil
}

// connected counts a connection. A webhook has one when the first request goes out on it.
func (s *session) connected() {
	l := s.l
	if l.opened && l.broke {
		s.f.stats.Reconnects.Add(1)
	}
	l.opened, l.broke = true, false
}

// run sends until something goes wrong; without an error the sink is to be opened anew at once.
func (s *session) run(ctx context.Context) error {
	l, f := s.l, s.f
	s.feed = l.begin(ctx, f.place.cursor(), f.mark, f.seq)
	defer func() { s.feed.close() }()
	s.stall = time.NewTimer(s.patience())
	s.stall.Stop()
	defer s.stall.Stop()
	s.looks = time.NewTimer(lookEvery)
	s.looks.Stop()
	s.pace()
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		if f.job != nil {
			if err := s.play(ctx); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b, ok := <-s.feed.out:
			if !ok {
				return fmt.Errorf("the log cannot be read: %w", s.feed.err)
			}
			s.feed.took()
			if err := s.send(ctx, b); err != nil {
				return err
			}
			s.feed.used(b)
		case f.job = <-f.jobs:
		case <-s.sink.Broken():
			if err := s.sink.Err(); err != nil {
				return s.refusal(err)
			}
			return errors.New("the connection to the target ended")
		case <-s.moved:
		case <-tick.C:
			l.tellOften(false)
		case <-s.stall.C:
			s.advance()
			s.checkStall()
		}
		s.advance()
		s.pace()
	}
}

// checkStall tells of a receiver that takes messages and does not say that it has them.
func (s *session) checkStall() {
	s.armed = s.left() > 0
	if !s.armed {
		return
	}
	rest := s.patience() - time.Since(s.since)
	if rest > 0 {
		s.stall.Reset(rest)
		return
	}
	s.stall.Reset(s.patience())
	if !s.stalled {
		s.stalled = true
		s.l.tell(fmt.Errorf("the receiver has not acknowledged anything for %s", s.patience()))
	}
}

// pace notes whether the forwarder keeps up. After a fault it does when something was settled.
func (s *session) pace() {
	end := s.f.m.parts.Log.Committed()
	if s.scanned >= end && s.left() == 0 {
		s.fine() // connected, and nothing waits
	}
	state := StateFlowing
	if end > s.scanned+catchingUp || end > s.scanned && s.lag > lateAfter {
		state = StateCatchingUp
	}
	s.f.goesOn(state)
}

// fine notes that the target does what it should.
func (s *session) fine() {
	if s.f.well() && s.l.away {
		s.l.away = false
		s.l.logger.Info("a forwarder's target takes messages again")
	}
}

// advance moves the place to what is settled.
func (s *session) advance() {
	n := s.pop(min(signalbox.Position(s.settled.Load()), s.handed))
	cursor := s.scanned
	if s.left() > 0 {
		cursor = s.base + signalbox.Position(s.queue[s.head]) - 1
	}
	if n > 0 {
		s.f.stats.Settled.Add(int64(n))
		s.since, s.stalled = time.Now(), false
		s.l.failed = 0
		s.fine()
	}
	if cursor > s.f.place.cursor() {
		s.f.moved(func(now *place) { now.cursor = max(now.cursor, cursor) })
	}
}

// refusal takes it that everything before a refused message is settled.
func (s *session) refusal(err error) error {
	if r, ok := errors.AsType[*Refused](err); ok && !s.playing.Load() && r.Position > 0 && r.Position <= s.f.mark {
		s.take(r.Position - 1)
	}
	return err
}

// flush waits until what was sent is settled.
func (s *session) flush(ctx context.Context) error {
	for s.advance(); s.left() > 0; s.advance() {
		left := s.left()
		bounded, cancel := context.WithTimeout(ctx, 2*s.l.spec.Timeout)
		err := s.refusal(s.during(func() error { return s.sink.Flush(bounded) }, func() {
			s.advance()
			s.pace()
		}))
		late := bounded.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil {
			s.take(s.handed) // so it says
			continue
		}
		if s.advance(); !late || s.left() == left {
			if late {
				err = errStuck
			}
			return err
		}
	}
	return nil
}

// skip counts what was given up.
func (s *session) skip(sk *skip) {
	f := s.f
	n := int64(sk.to - sk.from)
	// What was given up before and is not behind the place yet is met again after a fault.
	if had := &f.gaveUp; had.from <= sk.to && sk.from <= had.to && had.to > 0 {
		n -= int64(min(had.to, sk.to) - max(had.from, sk.from))
		had.from, had.to = min(had.from, sk.from), max(had.to, sk.to)
	} else {
		*had = *sk
	}
	s.scanned = max(s.scanned, sk.to)
	if n > 0 {
		f.stats.Skipped.Add(n)
		f.tellings.skipped.n, f.tellings.why = f.tellings.skipped.n+n, sk.why
		s.l.tellOften(false)
	}
}

// close ends the session: what is settled until the sink is closed counts.
func (s *session) close(ctx context.Context) {
	// To wait for TCP takes longer than to close it.
	if ctx.Err() != nil && s.left() > 0 && (s.l.spec.Ack || !schemeOf(s.l.spec.To).lines()) {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
		_ = s.refusal(s.sink.Flush(last)) // what is not settled is sent again
		cancel()
	}
	if err := s.sink.Close(); err != nil {
		s.l.logger.Debug("a connection was not closed well", "err", Scrub(err.Error(), &s.l.spec))
	}
	s.closed.Store(true)
	s.advance()
	s.f.moved(func(now *place) { now.flowing, now.sent = false, max(now.cursor, s.f.mark) })
}
