package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/wire/packet"
)

// sender writes to the connections of its share of the sessions.
type sender struct {
	b     *Broker
	mu    sync.Mutex
	list  []*client
	wake  chan struct{}
	soon  chan struct{}
	later []*client // whose connections are full; its own
	buf   []byte
	f     frame
}

const (
	// writeBytes is about how much is written in one piece.
	writeBytes = 32 << 10
	// lookAgain is when connections that were full are looked at again.
	lookAgain = 5 * time.Millisecond
	// collect is how long a session waits that is to be looked at soon.
	collect = time.Millisecond
)

// The bits of client.marked. With the first or second the session is on its sender's list, with
// the third on that of full connections, which is for the sender alone to set and take back.
const (
	markedSoon uint32 = 1 << iota
	markedNow
	markedLater

	listed = markedSoon | markedNow
)

// mark has a sender look at the session. It may be called with locks.
func (b *Broker) mark(c *client) {
	was := c.marked.Or(markedNow)
	if was&markedNow != 0 {
		return
	}
	s := b.sender(c)
	if was&listed == 0 {
		s.add(c)
	}
	nudge(s.wake)
}

// markSoon has a sender look at the session within a moment, and on the way if it comes by. It
// may be called with locks.
func (b *Broker) markSoon(c *client) {
	if c.marked.Load()&listed != 0 || c.marked.Or(markedSoon)&listed != 0 {
		return
	}
	s := b.sender(c)
	s.add(c)
	nudge(s.soon)
}

func (b *Broker) sender(c *client) *sender { return b.senders[int(c.serial)%len(b.senders)] }

func (s *sender) add(c *client) {
	s.mu.Lock()
	s.list = append(s.list, c)
	s.mu.Unlock()
}

func (s *sender) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var list []*client
	var looked time.Time // when the full ones were looked at
	collecting := false
	for {
		if len(s.later) > 0 && !collecting {
			timer.Reset(lookAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.soon:
			if !collecting {
				collecting = true
				timer.Reset(collect)
			}
			continue
		case <-s.wake:
		case <-timer.C:
		}
		collecting = false
		s.mu.Lock()
		list, s.list = s.list, list[:0]
		s.mu.Unlock()
		for _, c := range list {
			c.marked.And(^listed)
			s.pump(c)
		}
		clear(list)
		if len(s.later) == 0 {
			continue
		}
		if now := time.Now(); now.Sub(looked) >= collect {
			looked = now
			s.lookAtFull()
		}
	}
}

// lookAtFull pumps the sessions whose connections were full: often enough that none of them waits
// when it need not, and not at each turn, so that those that never read cost the others nothing.
func (s *sender) lookAtFull() {
	full := len(s.later)
	for _, c := range s.later[:full] {
		c.marked.And(^markedLater)
		s.pump(c)
	}
	s.later = slices.Delete(s.later, 0, full)
}

// putOff has a session whose connection is full looked at later.
func (s *sender) putOff(c *client) {
	if c.marked.Or(markedLater)&markedLater == 0 {
		s.later = append(s.later, c)
	}
}

// pump writes what a session has for its connection, one piece; if there is more the session
// is marked again, so that others have their turn.
func (s *sender) pump(c *client) {
	b := s.b
	c.mu.Lock()
	conn, o := c.conn, c.out
	if conn == nil || o == nil || !conn.ready.Load() {
		c.mu.Unlock()
		return
	}
	queued := conn.peer.Queued()
	space := b.cfg.OutboxBytes - queued
	o.direct.stalled = queued > b.cfg.OutboxBytes/4
	if o.direct.stalled {
		c.mu.Unlock()
		s.putOff(c)
		return
	}
	buf := s.commands(c, conn, o, s.buf[:0], space)
	share := space
	if o.cursor < o.end() {
		share /= 2
	}
	buf = c.moveDirect(&o.direct, buf, share, space)
	buf, more, wait := s.queue(c, conn, o, buf, space)
	wait = wait || len(buf) == 0 && (o.direct.waiting() > 0 || len(o.commands) > 0 && o.inflight < conn.windowOf(o))
	more = more || len(buf) > 0 && o.direct.waiting() > 0
	more = more || len(buf) > 0 && len(o.commands) > 0 && o.inflight < conn.windowOf(o)
	if !o.loading && o.end() < o.next && o.end()-o.cursor < uint64(max(1, b.cfg.WindowMessages/2)) { //nolint:gosec // not negative
		o.loading = true
		b.flush.load(c)
	}
	if o.unsaved && c.onDisk.Load() {
		b.flush.add(c, o, false)
	}
	jobs := len(o.jobs) > 0
	roomy := o.refusedOne && o.commandRoom(b)
	if roomy {
		o.refusedOne = false
	}
	c.mu.Unlock()
	s.write(conn, buf)
	if roomy {
		if r, ok := conn.peer.(Roomy); ok {
			r.CommandRoom()
		}
	}
	if jobs {
		again, later := b.give(c)
		more, wait = more || again, wait || later
	}
	switch {
	case more && !wait:
		b.mark(c)
	case wait:
		s.putOff(c)
	}
}

func (s *sender) write(conn *Session, buf []byte) {
	if len(buf) > 0 {
		_ = conn.peer.Write(buf) // a connection that is gone comes again
	}
	if cap(buf) <= 4*writeBytes {
		s.buf = buf[:0]
	}
}

// queue encodes messages of the queue, as many as the client's window and the connection
// take. More says that there are others for this window, wait that the connection has to take
// what it has before the next one.
func (s *sender) queue(c *client, conn *Session, o *outbound, buf []byte, space int) (_ []byte, more, wait bool) {
	now := time.Time{}
	committed := signalbox.Position(0)
	window := conn.windowOf(o)
	most := len(buf) + writeBytes
	onDisk := c.onDisk.Load()
	if onDisk && o.cursor < o.end() {
		c.moveMark(o, window-o.inflight)
	}
	for o.cursor < o.end() {
		if len(buf) >= most {
			return buf, true, false
		}
		n := o.cursor
		i := o.at(n)
		switch {
		case i.state == stateDone:
			o.cursor++
			continue
		case i.state == stateReceived: // its PUBREL comes with the record
			o.cursor++
			o.inflight++
			continue
		case i.settles > committed && (i.qos == 2 || i.state == stateReleased) && !c.mayLeave(conn, o, i.settles, &committed):
			return buf, false, false // woken by the commit
		case i.state == stateReleased: // [MQTT-4.4.0-1]
			buf = packet.AppendAck(buf, conn.version, packet.PUBREL, packetID(n), packet.Success, nil)
			o.cursor++
			o.inflight++
			continue
		case o.inflight >= window || n-o.head >= maxSpan:
			return buf, false, false
		case onDisk && n >= o.mark.safe && !c.safe(o, n):
			return buf, false, true // until the mark is on disk
		}
		if now.IsZero() && !i.m.ExpiresAt.IsZero() {
			now = time.Now()
		}
		f := &s.f
		*f = frame{qos: i.qos, dup: n < o.resend, retain: i.retain, id: packetID(n), first: i.id, more: i.more}
		alive := f.message(i.m, now)
		size := f.size(conn.version)
		switch {
		case o.revoked != nil && o.withdrawn(n, i.m):
			c.b.stats.Withdrawn.Add(1)
		case !alive && !f.dup: // [MQTT-3.3.2-5]
			c.b.stats.Expired.Add(1)
		case conn.tooLarge(size): // [MQTT-3.1.2-25]
			c.b.stats.TooLarge.Add(1)
		case len(buf)+size > space:
			return buf, len(buf) > 0, len(buf) == 0
		default:
			buf = f.append(buf, conn.version)
			i.state = stateSent
			o.inflight++
			o.cursor++
			c.b.stats.Delivered.Add(1)
			if f.dup {
				c.b.stats.Resent.Add(1)
			}
			continue
		}
		// Dropped: as if it were acknowledged.
		o.cursor++
		c.done(o, n)
	}
	return buf, false, false
}

// mayLeave reports whether p is on disk, and has the sender woken when it will be. A message with
// quality of service 2 that is sent before could leave its packet identifier with the client for
// another one: a kill takes back its number.
func (c *client) mayLeave(conn *Session, o *outbound, p signalbox.Position, committed *signalbox.Position) bool {
	if *committed = c.b.acks.position(); p <= *committed {
		return true
	}
	if !o.awaits {
		o.awaits = true
		conn.answer(ack{kind: wakes, settles: p, again: true})
	}
	return false
}

// commands encodes commands that waited for room in the client's window.
func (s *sender) commands(c *client, conn *Session, o *outbound, buf []byte, space int) []byte {
	for len(o.commands) > 0 && o.inflight < conn.windowOf(o) && len(o.commandIDs) < idCommands {
		f := o.commands[0].frame(1, 1)
		if len(buf)+f.size(conn.version) > space {
			break
		}
		buf = c.encodeCommand(conn, o, &o.commands[0], buf)
		o.commands[0] = command{}
		o.commands = o.commands[1:]
	}
	if len(o.commands) == 0 {
		o.commands = nil
	}
	return buf
}

// commandRoom reports whether at most half of what may wait for the client does.
func (o *outbound) commandRoom(b *Broker) bool {
	return len(o.commands) <= maxCommands/2 && len(o.commandIDs) < idCommands && o.direct.waiting() <= b.directLimit()/2
}
