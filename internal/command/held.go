package command

import (
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/session"
)

// A connection that has no room (session.ErrBusy) holds up what is marked as sent on it: the
// refused command and all that follow it wait in lane.held, until Online says that there is room.
// Only the goroutine of the outbox adds to it and hands over from it, so that the order stays.

// noRoom notes that s had no room for e. online is shard.online as it was before.
func (r *Road) noRoom(e *entry, s *session.Session, before bool, online uint64) {
	sh := r.shard(s.Device)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e.session != s.ID {
		return
	}
	e.written, e.handed = before, false
	l := sh.lane(s.Device)
	if e.c.State == signalbox.CommandSent {
		r.holdBack(l, e, s, true)
	}
	if sh.online != online {
		r.kick(l, s.Device) // there was room again before this was noted
	}
	sh.tidy(s.Device)
}

// holdBack keeps e for when s has room. The caller holds the shard.
func (r *Road) holdBack(l *lane, e *entry, s *session.Session, first bool) {
	if l.busy != s.ID {
		l.unhold()
		l.busy = s.ID
	}
	switch {
	case first:
		l.held = slices.Insert(l.held, 0, e)
	case !e.c.Protocol.Answers() && len(l.held) >= r.cfg.MaxActivePerDevice: // those that answer are bounded anyway
		r.stats.missed.Add(1)
		return
	default:
		l.held = append(l.held, e)
	}
	e.held = true
}

// release takes e out of what is held.
func (l *lane) release(e *entry) {
	if !e.held {
		return
	}
	e.held = false
	if l.held = without(l.held, e); len(l.held) == 0 {
		l.held, l.busy = nil, 0
	}
}

// unhold forgets what is held: the connection it was for is gone.
func (l *lane) unhold() {
	for _, e := range l.held {
		e.held = false
	}
	l.held, l.busy = nil, 0
}

// unblock has what is held handed over behind what the outbox has, which is held too when its
// turn comes; for a newer session than that it was held for, it is forgotten. The caller holds the
// shard.
func (r *Road) unblock(l *lane, s *session.Session) {
	switch l.busy {
	case 0:
	case s.ID:
		r.out.mu.Lock()
		r.out.push(outgoing{s: s})
		r.out.mu.Unlock()
		signal(r.out.wake)
	default:
		l.unhold()
	}
}

// resume hands over what is held for s, as long as s has room.
func (r *Road) resume(s *session.Session) {
	sh := r.shard(s.Device)
	for {
		sh.mu.Lock()
		l := sh.lanes[s.Device]
		if l == nil || l.busy != s.ID {
			sh.mu.Unlock()
			return
		}
		e := l.held[0]
		l.release(e)
		sh.tidy(s.Device)
		sh.mu.Unlock()
		if !r.give(e, s, true) {
			return
		}
	}
}

// holds tells whether ring has to go on with e, which is held: not if it has expired unwritten.
// What can go out no more is held no longer. The caller holds the shard.
func (r *Road) holds(l *lane, e *entry, t time.Time) bool {
	if !e.c.ExpiresAt.IsZero() && !e.c.ExpiresAt.After(t) && !e.written {
		e.unsend()
		r.end(l, e, signalbox.CommandExpired, history.Soon)
		return false
	}
	if s := r.sessions.Get(e.c.To); s == nil || s.ID != e.session || !e.deadline().After(t) {
		l.release(e)
	}
	return true
}
