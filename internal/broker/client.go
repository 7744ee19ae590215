package broker

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/broker/durable"
	"signalbox/internal/wire/packet"
)

// client is what the standards call a session. There are very many that do nothing, so what
// few of them need is behind pointers.
type client struct {
	b  *Broker
	mu sync.Mutex
	// key is the owner and behind it the client identifier; never changes. Of a Single owner's
	// the identifier is not part of it.
	key    string
	conn   *Session // nil: offline
	in     *inbound
	out    *outbound
	kept   *kept
	subs   *subscription // the first of a list; guarded by the index's locks
	next   *client       // of those with the same hash; guarded by Broker.mu
	fellow *client       // of the same owner, if that is not Single; guarded by Broker.mu

	gen    atomic.Uint32 // counts connections; changes with conn
	serial uint32
	batch  int32 // place in the acknowledging goroutine's batch, its own

	ownerLen uint16
	single   bool
	dead     bool          // ended; guarded by mu
	onDisk   atomic.Bool   // what is queued for it is recorded
	marked   atomic.Uint32 // which of its sender's lists it is on: markedSoon, markedNow, markedLater
}

func (c *client) owner() string { return c.key[:c.ownerLen] }

// Session is a session's connection, from CONNECT on until its end. Its methods are called
// by the connection's event loop, one at a time; they never block. After another connection
// has taken the session over they do nothing and ask for the end.
type Session struct {
	c       *client
	peer    Peer
	aliases *[]alias // what the client's topic aliases stand for; nil before the first
	gen     uint32
	largest uint32 // the client's maximum packet size, 0 for none
	window  uint16 // the messages it may have unacknowledged
	version packet.Version
	traits  trait
	ready   atomic.Bool // CONNACK has left
}

type alias []byte

// kept is what sessions have that outlive their connection or have a will. Guarded by
// client.mu, but for place and due, which are the timer's.
type kept struct {
	id     durable.SessionID // 0: not recorded
	expiry time.Duration     // negative: for ever
	will   *durable.Will
	// wait says that will waits for its delay, until willAt; endAt is when the session expires.
	wait          bool
	willAt, endAt time.Time
	due           time.Time
	place         int // in the timer's heap, -1 if not there
}

// inbound is what a session knows of the messages that its client publishes.
type inbound struct {
	open  int                // that count against the receive maximum of this connection
	last  signalbox.Position // the newest of them
	first []uint16           // identifiers of quality of service 1 whose PUBACK has not left, in order
	exact idSet              // identifiers of quality of service 2 that were not released
}

// idSet is a set of packet identifiers: a few in an array, many in a map of bits.
type idSet struct {
	few  []uint16
	many *[1024]uint64
}

const fewIDs = 256

func (s *idSet) has(id uint16) bool {
	if s.many != nil {
		return s.many[id/64]&(1<<(id%64)) != 0
	}
	return slices.Contains(s.few, id)
}

func (s *idSet) add(id uint16) {
	switch {
	case s.many != nil:
		s.many[id/64] |= 1 << (id % 64)
	case len(s.few) < fewIDs:
		s.few = append(s.few, id)
	default:
		s.many = new([1024]uint64)
		for _, v := range s.few {
			s.many[v/64] |= 1 << (v % 64)
		}
		s.few = nil
		s.add(id)
	}
}

func (s *idSet) remove(id uint16) {
	if s.many != nil {
		s.many[id/64] &^= 1 << (id % 64)
		return
	}
	s.few = drop(s.few, id)
}

func (c *client) inbound() *inbound {
	if c.in == nil {
		c.in = new(inbound)
	}
	return c.in
}

func (c *client) outbound() *outbound {
	if c.out == nil {
		c.out = &outbound{head: 1, next: 1, cursor: 1, resend: 1}
		if c.conn != nil {
			c.out.mark = newMark(1, c.conn.window)
		}
	}
	return c.out
}

// room says how well a session can take a message that only one of several gets.
type room uint8

const (
	roomNone   room = iota
	roomOnDisk      // offline, with a queue that has room
	roomQueued      // connected, with a queue that has room
	roomNow         // connected, and its window has room
)

func (c *client) room() room {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return roomNone
	}
	o := c.out
	if o != nil && (o.messages >= int64(c.b.cfg.QueueMessages) || o.bytes >= c.b.cfg.QueueBytes || c.crowded(o)) {
		return roomNone
	}
	switch {
	case c.conn == nil:
		return roomOnDisk
	case o == nil || o.inflight+o.waiting() < c.conn.windowOf(o) && o.direct.waiting() < c.b.directLimit()/2:
		return roomNow
	default:
		return roomQueued
	}
}
