package broker

import (
	"slices"

	"signalbox"
	"signalbox/internal/broker/durable"
	"signalbox/internal/wire/packet"
)

// Packet identifiers of messages in the queue follow from their number; commands, which are in
// no queue, have the identifiers above.
const (
	idQueue    = 61_440
	idCommands = 65_535 - idQueue
)

func packetID(n uint64) uint16 { return uint16(n%idQueue) + 1 } //nolint:gosec // less than 61,441

const (
	// maxInflight bounds Config.Inflight; the numbers between the oldest unacknowledged message
	// and the newest one sent are at most maxSpan, so that identifiers do not meet.
	maxInflight = 4096
	maxSpan     = 4 * maxInflight
	// maxCommands is how many commands wait for room in the client's window.
	maxCommands = 64
	// smallWindow is the window below which a subscriber gets its next message at once.
	smallWindow = 64
)

// outbound is what goes to a session's client. Messages with quality of service 1 and 2 have
// numbers 1, 2, 3…; those from head to end are in items, those from end to next on disk alone.
type outbound struct {
	direct direct

	head, next uint64
	cursor     uint64 // the next to be looked at by the sender; head to end
	resend     uint64 // those before it were sent once
	mark       mark
	items      []item
	start      int // items[start:] are they
	inflight   int // sent, and neither acknowledged nor completed
	held       int64

	messages, bytes int64  // of all that wait
	share           *share // the owner's; nil before the first message
	// early are states of messages that are not in memory: done or released.
	early map[uint64]state

	jobs     []*giving // retained messages to be sent; they stay when the connection ends
	givenTwo bool      // some of quality of service 2 were given for these, and that is on disk

	revoked *revoked // nil: all that waits may be delivered

	commands    []command // that wait
	commandIDs  []uint16  // sent and not acknowledged
	lastCommand uint16
	refusedOne  bool // a command was, for want of room; the connection is to be told of room

	// queued is the position of the newest record of a message in a queue on disk, and saved that
	// of the newest record of its states.
	queued, saved signalbox.Position

	awaits  bool // the sender waits for a commit: the goroutine of acknowledgements wakes it
	unsaved bool // acknowledgements that are not recorded yet
	loading bool // somebody reads the queue from the disk
	flushes bool // is on the flusher's list
}

type item struct {
	m       *durable.Message
	more    []uint32           // further subscription identifiers
	settles signalbox.Position // PUBLISH with quality of service 2, and PUBREL, leave when that is on disk
	id      uint32             // subscription identifier
	state   state
	qos     uint8
	retain  bool
}

type command struct {
	topic   string
	payload []byte
	ids     []uint32
}

// state is where a message in a queue stands.
type state uint8

const (
	stateWaiting  state = iota
	stateSent           // PUBLISH sent
	stateReceived       // PUBREC came, not recorded yet
	stateReleased       // PUBREL sent, or to be sent again
	stateDone           // acknowledged, completed, dropped
)

func (o *outbound) end() uint64       { return o.head + uint64(len(o.items)-o.start) } //nolint:gosec // not negative
func (o *outbound) at(n uint64) *item { return &o.items[o.start+int(n-o.head)] }       //nolint:gosec // within items

// waiting is how many were not sent yet.
func (o *outbound) waiting() int { return int(o.next - o.cursor) } //nolint:gosec // bounded by the queue

// push adds the message with the number end.
func (o *outbound) push(i item) {
	if o.start > 64 && o.start*2 >= len(o.items) {
		n := copy(o.items, o.items[o.start:])
		clear(o.items[n:])
		o.items, o.start = o.items[:n], 0
	}
	if i.m != nil {
		o.held += weight(i.m)
	}
	o.items = append(o.items, i)
}

// done says that the message n is over and what waits is less by it.
func (c *client) done(o *outbound, n uint64) {
	i := o.at(n)
	if i.state == stateDone {
		return
	}
	if i.state != stateWaiting {
		o.inflight--
	}
	c.forgetBody(o, i)
	i.state = stateDone
	o.unsaved = true
	c.trim(o)
}

// forgetBody lets a message go whose text is not needed any more.
func (c *client) forgetBody(o *outbound, i *item) {
	if i.m == nil {
		return
	}
	w := weight(i.m)
	o.held -= w
	c.fewer(o, 1, w)
	i.m, i.more = nil, nil
}

// fewer counts messages that do not wait any more.
func (c *client) fewer(o *outbound, messages, bytes int64) {
	messages, bytes = min(messages, o.messages), min(bytes, o.bytes)
	o.messages -= messages
	o.bytes -= bytes
	c.b.stats.QueuedMessages.Add(-messages)
	c.queued(o, -bytes)
}

// trim moves the head past what is done.
func (c *client) trim(o *outbound) {
	for o.start < len(o.items) && o.items[o.start].state == stateDone {
		o.start++
		o.head++
	}
	o.cursor = max(o.cursor, o.head)
	if o.head == o.next {
		c.fewer(o, o.messages, o.bytes)
	}
	if o.start == len(o.items) {
		o.start = 0
		o.items = o.items[:0]
		if cap(o.items) > 1024 {
			o.items = nil
		}
	}
}

// unload forgets what of the queue is on disk as well. The session is offline.
func (c *client) unload(o *outbound) {
	for n := o.head; n < o.end(); n++ {
		switch i := o.at(n); i.state {
		case stateDone:
			o.remember(n, stateDone)
		case stateReceived, stateReleased:
			o.remember(n, i.state)
		case stateWaiting, stateSent:
		}
	}
	o.items, o.start, o.held, o.cursor = nil, 0, 0, o.head
}

func (o *outbound) remember(n uint64, s state) {
	if o.early == nil {
		o.early = make(map[uint64]state)
	}
	o.early[n] = s
}

// rewind prepares the queue for a new connection: what was sent and not acknowledged is sent
// again, with the identifiers it had [MQTT-4.4.0-1].
func (c *client) rewind(o *outbound) {
	o.resend = o.sent()
	o.cursor = o.head
	o.inflight = 0
	for n := o.head; n < o.end(); n++ {
		if i := o.at(n); i.state == stateSent {
			i.state = stateWaiting
		}
	}
	c.dropDirect(&o.direct)
	o.direct.stalled, o.awaits = false, false
	o.commands, o.commandIDs, o.refusedOne = nil, nil, false
}

// find gives the number of the message with this packet identifier that was sent and is not
// done.
func (o *outbound) find(id uint16) (uint64, bool) {
	if id == 0 || id > idQueue {
		return 0, false
	}
	n := o.head + (uint64(id-1)+idQueue-o.head%idQueue)%idQueue
	if n >= o.cursor || n >= o.end() || o.at(n).state == stateDone || o.at(n).state == stateWaiting {
		return 0, false
	}
	return n, true
}

// acked is what is recorded of a queue: all below it are done, and besides it those of done;
// the released were received by the client.
func (o *outbound) acked() (acked uint64, done, released []uint64) {
	note := func(n uint64, s state) {
		switch s {
		case stateDone:
			done = append(done, n)
		case stateReceived, stateReleased:
			released = append(released, n)
		case stateWaiting, stateSent:
		}
	}
	for n := o.head; n < o.end(); n++ {
		note(n, o.at(n).state)
	}
	for n, s := range o.early {
		note(n, s)
	}
	slices.Sort(done)
	slices.Sort(released)
	return o.head, done, released
}

// Ack takes PUBACK, PUBREC and PUBCOMP of a subscriber, and PUBREL of a publisher.
func (s *Session) Ack(p *packet.Packet) Outcome {
	c := s.c
	if p.Type == packet.PUBREL {
		return s.release(p.ID)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != s {
		return takenOver()
	}
	o := c.out
	if o == nil {
		o = c.outbound()
	}
	n, known := o.find(p.ID)
	switch p.Type {
	case packet.PUBACK:
		if p.ID > idQueue {
			o.commandIDs = drop(o.commandIDs, p.ID)
			c.wake(o)
			break
		}
		if known && o.at(n).qos == 1 && o.at(n).state == stateSent {
			c.done(o, n)
			c.settle(o)
		}
	case packet.PUBREC:
		switch {
		case !known || o.at(n).qos != 2:
			s.failed(ack{kind: packet.PUBREL, id: p.ID, reason: packet.PacketIDNotFound}, noSuchID)
		case p.Reason >= packet.UnspecifiedError: // 4.3.3: the client wants no more of it
			c.done(o, n)
			c.settle(o)
		case o.at(n).state == stateReleased:
			s.answer(ack{kind: packet.PUBREL, id: p.ID, settles: o.at(n).settles})
		case o.at(n).state == stateSent:
			c.received(s, o, n)
		}
	case packet.PUBCOMP:
		if known && o.at(n).state == stateReleased {
			c.done(o, n)
			c.settle(o)
		}
	default:
	}
	return Outcome{}
}

// received goes on after PUBREC: what the client has is not sent again, once that is on disk.
func (c *client) received(s *Session, o *outbound, n uint64) {
	i := o.at(n)
	c.forgetBody(o, i)
	if c.onDisk.Load() {
		i.state, o.unsaved = stateReceived, true
		c.b.flush.add(c, o, true)
		return
	}
	i.state = stateReleased
	s.answer(ack{kind: packet.PUBREL, id: packetID(n)})
}

// settle arranges that acknowledgements are recorded and that what waits is sent.
func (c *client) settle(o *outbound) {
	if c.onDisk.Load() {
		c.b.flush.add(c, o, false)
	} else {
		o.unsaved = false
	}
	c.wake(o)
}

// wake has the sender look at the session when its window has room: at once when half of it
// is free or it is small, else in a moment, so that the messages for many acknowledgements
// leave together.
func (c *client) wake(o *outbound) {
	if o.waiting() == 0 && len(o.commands) == 0 && len(o.jobs) == 0 && !o.refusedOne {
		return
	}
	switch window := c.conn.windowOf(o); {
	case o.inflight >= window:
	case o.inflight <= window/2 || window < smallWindow:
		c.b.mark(c)
	default:
		c.b.markSoon(c)
	}
}

// windowOf is how many messages of the queue may be unacknowledged.
func (s *Session) windowOf(o *outbound) int { return int(s.window) - len(o.commandIDs) }

// drop takes v out of a list that keeps no order.
func drop(list []uint16, v uint16) []uint16 {
	if i := slices.Index(list, v); i >= 0 {
		list[i] = list[len(list)-1]
		list = list[:len(list)-1]
	}
	return list
}

// released says that the records of what was received have the position p: PUBREL may go
// when that is on disk.
func (c *client) released(o *outbound, p signalbox.Position) {
	o.saved = p
	for n := o.head; n < o.end(); n++ {
		if i := o.at(n); i.state == stateReceived {
			i.state, i.settles = stateReleased, p
			if c.conn != nil && c.conn.ready.Load() { // else a sender comes to it, after CONNACK
				c.conn.answer(ack{kind: packet.PUBREL, id: packetID(n), settles: p})
			}
		}
	}
	for n, s := range o.early {
		if s == stateReceived {
			o.early[n] = stateReleased
		}
	}
}
