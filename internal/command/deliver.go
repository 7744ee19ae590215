package command

import (
	"context"
	"errors"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/session"
)

// outbox is the queue of commands to hand to connections, in log order. One goroutine
// takes from it what is committed.
type outbox struct {
	mu    sync.Mutex
	queue []outgoing
	head  int
	wake  chan struct{}
}

type outgoing struct {
	pos signalbox.Position // must be on disk first
	e   *entry             // nil: s may have room again for what is held
	s   *session.Session
}

// push adds to the queue. The caller holds mu.
func (o *outbox) push(item outgoing) {
	if o.head > 1024 && o.head > len(o.queue)/2 {
		n := copy(o.queue, o.queue[o.head:])
		clear(o.queue[n:])
		o.queue, o.head = o.queue[:n], 0
	}
	o.queue = append(o.queue, item)
}

// take moves up to cap(into) items that are committed out of the queue.
func (o *outbox) take(into []outgoing, committed signalbox.Position) []outgoing {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(into) < cap(into) && o.head < len(o.queue) && o.queue[o.head].pos <= committed {
		into = append(into, o.queue[o.head])
		o.queue[o.head] = outgoing{}
		o.head++
	}
	if o.head == len(o.queue) {
		o.queue, o.head = o.queue[:0], 0
		if cap(o.queue) > 4096 {
			o.queue = nil // a rush is over
		}
	}
	return into
}

func (r *Road) runOutbox(ctx context.Context) {
	for {
		r.dispatch()
		select {
		case <-ctx.Done():
			return
		case <-r.out.wake:
		}
	}
}

// dispatch hands over all that is committed.
func (r *Road) dispatch() {
	batch := make([]outgoing, 0, 64)
	for {
		batch = r.out.take(batch[:0], r.log.Committed())
		if len(batch) == 0 {
			return
		}
		for i := range batch {
			r.hand(batch[i])
			batch[i] = outgoing{}
		}
	}
}

// hand gives one command to its connection, if both are still what they were.
func (r *Road) hand(item outgoing) {
	if item.e == nil {
		r.resume(item.s)
		return
	}
	r.give(item.e, item.s, false)
}

// give hands e to s, or holds it back behind what is held already. again says that it was held,
// as the first. It reports whether s has room for more.
func (r *Road) give(e *entry, s *session.Session, again bool) (room bool) {
	sh := r.shard(s.Device)
	sh.mu.Lock()
	if e.gone && !again || e.c.State != signalbox.CommandSent || e.session != s.ID || e.handed || e.lapsed {
		sh.mu.Unlock()
		return true
	}
	if !e.c.ExpiresAt.IsZero() && !e.c.ExpiresAt.After(time.Now()) {
		// The commit took longer than the command was worth.
		if !e.written {
			e.unsend()
			r.end(sh.lane(s.Device), e, signalbox.CommandExpired, history.Soon)
			sh.tidy(s.Device)
		}
		sh.mu.Unlock()
		return true
	}
	if r.sessions.Get(s.Device) != s {
		sh.mu.Unlock()
		r.stats.missed.Add(1)
		return true
	}
	if l := sh.lanes[s.Device]; !again && l != nil && l.busy == s.ID {
		r.holdBack(l, e, s, false)
		sh.mu.Unlock()
		return false
	}
	before, online := e.written, sh.online
	e.handed, e.written = true, true
	c := e.c
	sh.mu.Unlock()

	err := s.Conn.Deliver(&c)
	if errors.Is(err, session.ErrBusy) {
		r.noRoom(e, s, before, online)
		return false
	}
	if err != nil {
		r.missed(e, s, before, err)
		r.stats.missed.Add(1)
		r.logger.Debug("a command could not be handed to its connection", "command_id", c.ID, "device", c.Device, "err", err)
	}
	return true
}

// missed notes that nothing went out. Version 1: it stays at sent, as marked. Version 2: the
// next connection gets it, and so does this one if it only does not listen at present.
func (r *Road) missed(e *entry, s *session.Session, before bool, err error) {
	sh := r.shard(s.Device)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e.session != s.ID {
		return
	}
	e.written = before
	if !errors.Is(err, session.ErrNotListening) {
		return
	}
	e.missed = true
	if l := sh.lanes[s.Device]; l != nil && r.listening(s.Device) == s { // it listened again before this was noted
		r.kick(l, s.Device)
	}
}

// listening gives the device's session if commands can be delivered to it, else nil. One that
// is there and does not listen (session.Listener) counts as away.
func (r *Road) listening(id signalbox.DeviceID) *session.Session {
	if s := r.sessions.Get(id); s != nil && s.Listening() {
		return s
	}
	return nil
}

// Online tells the road that s was attached, has begun to listen, or has room again after
// session.ErrBusy: what waits for the device is sent, in order.
func (r *Road) Online(s *session.Session) {
	sh := r.shard(s.Device)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.online++
	if l := sh.lanes[s.Device]; l != nil {
		r.kick(l, s.Device)
	}
}

// kicks is the queue of devices whose lane is to be looked at, each at most once.
type kicks struct {
	mu    sync.Mutex
	queue []signalbox.DeviceID
	wake  chan struct{}
}

// kick has the lane flushed from a goroutine that holds nobody's lock. The caller holds
// the shard.
func (r *Road) kick(l *lane, id signalbox.DeviceID) {
	if l.kicked || len(l.waiting)+len(l.open)+len(l.held) == 0 {
		return
	}
	l.kicked = true
	r.kicks.mu.Lock()
	r.kicks.queue = append(r.kicks.queue, id)
	r.kicks.mu.Unlock()
	signal(r.kicks.wake)
}

func (r *Road) runKicks(ctx context.Context) {
	var batch []signalbox.DeviceID
	for {
		r.kicks.mu.Lock()
		batch, r.kicks.queue = r.kicks.queue, batch[:0]
		r.kicks.mu.Unlock()
		for _, id := range batch {
			r.flushDevice(id)
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-r.kicks.wake:
		}
	}
}

func (r *Road) flushDevice(id signalbox.DeviceID) {
	object := r.devices.LatestObject(id)
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	l := sh.lanes[id]
	if l == nil {
		return
	}
	l.kicked = false
	if s := r.listening(id); s != nil {
		r.flush(l, s, object)
	}
	sh.tidy(id)
}

// flush sends what the lane holds to s: first the unacknowledged, then the queued. It
// reports whether nothing is left waiting. The caller holds the shard.
func (r *Road) flush(l *lane, s *session.Session, object []byte) bool {
	t := time.Now()
	live := func(e *entry) bool { return e.c.ExpiresAt.IsZero() || e.c.ExpiresAt.After(t) }
	r.unblock(l, s)
	if s.Speaks().Answers() {
		resent, once := false, s.Once()
		r.out.mu.Lock()
		for _, e := range l.open {
			if e.c.State != signalbox.CommandSent || e.session >= s.ID && !e.missed || e.lapsed || !live(e) || e.written && (once || e.once) {
				continue
			}
			e.session, e.handed, e.missed, e.once = s.ID, false, false, once
			r.out.push(outgoing{e.sentPos, e, s})
			resent = true
		}
		r.out.mu.Unlock()
		if resent {
			signal(r.out.wake)
		}
	}
	for len(l.waiting) > 0 {
		e := l.waiting[0]
		if !live(e) {
			r.end(l, e, signalbox.CommandExpired, history.Soon)
			continue
		}
		if err := s.Fits(&e.c); err != nil {
			e.c.Error = clip(err.Error())
			r.end(l, e, signalbox.CommandFailed, history.Soon)
			continue
		}
		if e.unsaved || r.send(l, e, s, object, history.Now, nil) != nil {
			r.clock.set(e, t.Add(retryEvery))
			return false
		}
		l.waiting = without(l.waiting, e)
	}
	return true
}

// send marks e as sent to s and queues it for the moment the mark is on disk. On an error
// nothing has changed. The caller holds the shard; replaced as for write.
func (r *Road) send(l *lane, e *entry, s *session.Session, object []byte, u history.Urgency, replaced []*entry) error {
	c := e.c
	c.State = signalbox.CommandSent
	c.SentAt = notBefore(now(), c.CreatedAt)
	c.Protocol = s.Speaks()
	c.Already = c.Value != nil && object != nil && shows(object, c.Name, *c.Value)
	watch := r.worthWatching(&c)
	older := l.watched(c.Name)
	var also []*entry
	if older != nil && !keepsActive(&older.c, false) {
		also = append(also, older) // its row, if it says active, must not for longer than this is new
	}

	// Held around Append, so that the queue is in the order of the log.
	r.out.mu.Lock()
	pos, err := r.write(u, e, &c, replaced, also)
	if err == nil {
		r.out.push(outgoing{pos, e, s})
	}
	r.out.mu.Unlock()
	if err != nil {
		return err
	}
	if r.log.Committed() >= pos {
		signal(r.out.wake) // it was quicker than the push
	}

	// Not e.c = c: what never changes is read without the lock.
	e.c.State, e.c.SentAt, e.c.Protocol, e.c.Already = c.State, c.SentAt, c.Protocol, c.Already
	e.session, e.handed, e.missed, e.once, e.sentPos = s.ID, false, false, s.Once(), pos
	if older != nil {
		r.unwatch(l, older)
		r.arm(older)
	}
	if watch {
		r.watch(l, e)
	}
	if c.Protocol.Answers() {
		l.open = append(l.open, e)
	}
	r.stats.state(signalbox.CommandSent)
	r.saved(e, pos)
	r.arm(e)
	return nil
}
