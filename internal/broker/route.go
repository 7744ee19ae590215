package broker

import (
	"errors"
	"time"

	"signalbox"
	"signalbox/internal/broker/durable"
	"signalbox/internal/history"
	"signalbox/internal/wire/packet"
)

// routing is one message on its way through the broker. They are used again.
type routing struct {
	found
	taking  Taking
	from    *client // nil: the hub itself, or the will of a session that is gone
	untaken bool    // not for the Taker
	mine    bool    // not over what another owner has retained

	topic      string // valid during the call, like payload and properties
	payload    []byte
	properties *packet.Properties // nil: forwarded has them already
	forwarded  []byte
	encoded    bool // forwarded is properties
	qos        uint8
	retain     bool // as published
	keep       bool // as a retained message
	hasExpiry  bool
	expiry     uint32
	packetID   uint16 // to be recorded, 0 for none

	kept     *durable.Message
	targets  []durable.Target
	takers   []*hit // the hits of targets
	position signalbox.Position

	frames [4][]byte // encoded for quality of service 0, by version and retain flag
	buffer [4][]byte // their memory
}

func (b *Broker) begin() *routing {
	r, ok := b.routings.Get().(*routing)
	if !ok {
		r = new(routing)
	}
	return r
}

// keepFrame is how many bytes of a routing's buffers are kept for the next message.
const keepFrame = 64 << 10

func (b *Broker) finish(r *routing) {
	if len(r.hits) == 0 && r.kept == nil { // nobody got it: most of what devices send
		r.taking = Taking{}
		r.from, r.publisher, r.untaken, r.mine, r.topic, r.payload, r.properties, r.encoded = nil, nil, false, false, "", nil, nil, false
		r.retain, r.keep, r.hasExpiry, r.packetID, r.position = false, false, false, 0, 0
		b.routings.Put(r)
		return
	}
	hits, targets, takers, forwarded, buffer := r.hits, r.targets, r.takers, r.forwarded, r.buffer
	clear(hits)
	clear(targets)
	clear(takers)
	for i := range buffer {
		if cap(buffer[i]) > keepFrame {
			buffer[i] = nil
		}
	}
	if cap(hits) > 4096 || cap(forwarded) > keepFrame {
		hits, targets, takers, forwarded = nil, nil, nil, nil
	}
	*r = routing{buffer: buffer}
	r.hits, r.targets, r.takers, r.forwarded = hits[:0], targets[:0], takers[:0], forwarded[:0]
	b.routings.Put(r)
}

// take gives a message to the Taker and to those who get it. Position is set when it was
// taken and has to be on disk before it may be acknowledged.
//
// What goes into queues on disk, or is retained, has a record, which must be appended in
// the order in which memory changes: under road. What nobody records does not meet there.
func (b *Broker) take(r *routing) Verdict {
	r.publisher = r.from
	if !r.keep {
		if r.mine && b.others(r.kept) {
			return Refused
		}
		b.match(r)
		if !b.records(r) {
			verdict := b.ask(r, nil)
			if verdict == Taken || verdict == Pass {
				b.deliver(r, verdict)
			}
			return verdict
		}
	}
	b.road.Lock()
	defer b.road.Unlock()
	if r.mine && b.others(r.kept) { // what is retained changes under road alone
		return Refused
	}
	if r.keep { // a subscription is made before it, or finds it retained: not both, and not neither
		b.match(r)
	}
	if b.keeper == nil { // retained, in memory alone
		verdict := b.ask(r, nil)
		if verdict == Taken || verdict == Pass {
			b.retained.set(b, r.message())
			b.deliver(r, verdict)
		}
		return verdict
	}
	return b.takeRecorded(r)
}

// match finds who gets the message.
func (b *Broker) match(r *routing) {
	if r.taking.Quiet { // Consume
		r.hits, r.lists, r.shared = r.hits[:0], 0, false
		return
	}
	var turn uint32
	if r.from != nil {
		turn = r.from.serial
	}
	b.index.match(&r.found, r.topic, turn)
}

// records says that a message that is not retained has a record all the same.
func (b *Broker) records(r *routing) bool {
	if b.keeper == nil {
		return false
	}
	if r.packetID != 0 {
		return true
	}
	if r.qos == 0 {
		return false
	}
	for i := range r.hits {
		if h := &r.hits[i]; h.onDisk && h.qos > 0 {
			return true
		}
	}
	return false
}

// takeRecorded takes a message with a record. It needs road.
func (b *Broker) takeRecorded(r *routing) Verdict {
	m := r.message()
	b.aim(r)
	if len(r.targets) == 0 && !r.keep && r.packetID == 0 { // all queues were full
		verdict := b.ask(r, nil)
		if verdict == Taken || verdict == Pass {
			b.deliver(r, verdict)
		}
		return verdict
	}
	if b.keeper.Full() { // the Taker would append what the Keeper cannot take up
		return Later
	}
	var session durable.SessionID
	if r.packetID != 0 {
		session = r.from.kept.id
	}
	rec := b.keeper.Publish(m, r.targets, r.keep, session, r.packetID)
	verdict := b.ask(r, &rec.Entry)
	switch verdict {
	case Taken:
		r.position = max(r.position, rec.Entry.Position)
		if b.taken(r, rec) { // no queue has it
			clear(r.targets)
			r.targets = r.targets[:0]
		}
	case Duplicate:
		b.keeper.Drop(rec)
		return b.again(r, session)
	case Pass:
		urgency := history.Acked
		if r.qos == 0 {
			urgency = history.Soon
		}
		p, err := b.record(rec, urgency)
		if err != nil {
			if isFull(err) {
				return Later
			}
			return Stop
		}
		r.position = max(r.position, p)
	default:
		b.keeper.Drop(rec)
		return verdict
	}
	if r.keep {
		b.retained.set(b, m)
	}
	for i := range r.targets {
		r.takers[i].c.enqueueRecorded(&r.targets[i], r.takers[i], m, r.position)
	}
	b.deliver(r, verdict)
	return verdict
}

// taken gives the Keeper the record of a message that the Taker has taken. It reports whether no
// queue gets the message: the Taker keeps it to itself, so that its numbers are given back. It
// needs road.
func (b *Broker) taken(r *routing, rec *durable.Record) (unsent bool) {
	if rec.Entry.Position == 0 { // a fault of the Taker, which the Keeper tells of
		b.keeper.Done(rec)
		return true
	}
	if !r.taking.Quiet || len(r.targets) == 0 {
		b.keeper.Done(rec)
		return false
	}
	back := b.keeper.Retract(r.targets)
	if err := b.keeper.Append(back, history.Acked); err != nil { // subscribers get it rather than that numbers are lost
		b.keeper.Drop(back)
		b.keeper.Done(rec)
		return false
	}
	r.position = max(r.position, back.Entry.Position)
	b.keeper.DoneBoth(rec, back)
	return true
}

// again is about a message that the Taker had before: nothing comes of it but that its packet
// identifier is taken. It needs road.
func (b *Broker) again(r *routing, session durable.SessionID) Verdict {
	if r.packetID == 0 {
		return Duplicate
	}
	p, err := b.record(b.keeper.Received(session, r.packetID), history.Acked)
	switch {
	case err == nil:
		r.position = max(r.position, p)
		return Duplicate
	case isFull(err):
		return Later
	default:
		return Stop
	}
}

// ask asks the Taker.
func (b *Broker) ask(r *routing, also *signalbox.Entry) Verdict {
	if b.taker == nil || r.untaken {
		return Pass
	}
	r.taking.Also = also
	verdict := b.taker.Take(&r.taking)
	r.taking.Also = nil
	if verdict == Taken || verdict == Duplicate {
		r.position = r.taking.Position
	}
	return verdict
}

// aim finds the numbers that the message gets in queues on disk. It needs road, so that they
// stay free.
func (b *Broker) aim(r *routing) {
	r.targets, r.takers = r.targets[:0], r.takers[:0]
	for i := range r.hits {
		h := &r.hits[i]
		qos := min(r.qos, h.qos)
		if !h.onDisk || qos == 0 {
			continue
		}
		c := h.c
		c.mu.Lock()
		if c.dead || !c.fits(weight(r.kept)) {
			c.mu.Unlock()
			continue
		}
		n := c.outbound().next
		id := c.kept.id
		c.mu.Unlock()
		if r.shared { // it may be there by a shared subscription as well
			for j := range r.targets {
				if r.targets[j].Session == id {
					n++
				}
			}
		}
		r.targets = append(r.targets, durable.Target{Session: id, N: n, QoS: qos, Retain: r.retain && h.asIs, IDs: h.ids()})
		r.takers = append(r.takers, h)
	}
}

func (h *hit) ids() []uint32 {
	if h.id == 0 {
		return nil
	}
	return append([]uint32{h.id}, h.more...)
}

// fits reports whether the queue has room, and counts what is dropped for want of it.
func (c *client) fits(bytes int64) bool {
	b := c.b
	if o := c.out; o != nil && (o.messages >= int64(b.cfg.QueueMessages) || o.bytes+bytes > b.cfg.QueueBytes && o.messages > 0) || !c.fitsShares(bytes) {
		b.stats.QueueFull.Add(1)
		return false
	}
	return true
}

func (c *client) more(o *outbound, bytes int64) {
	o.messages++
	o.bytes += bytes
	c.b.stats.QueuedMessages.Add(1)
	c.queued(o, bytes)
}

// queued counts bytes that wait, or with less than 0 do not any more.
func (c *client) queued(o *outbound, bytes int64) {
	if bytes == 0 {
		return
	}
	kind := c.queueKind()
	c.share(o).queued[kind].Add(bytes)
	c.b.shares.queued[kind].Add(bytes)
	c.b.stats.QueuedBytes.Add(bytes)
}

// enqueueRecorded puts a message into the queue that is there on disk already. A window of
// it is in memory while the session is connected. Its record has a position up to p.
func (c *client) enqueueRecorded(t *durable.Target, h *hit, m *durable.Message, p signalbox.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.outbound()
	o.next, o.queued = t.N+1, p
	next := t.N == o.end() && c.conn != nil
	c.more(o, weight(m))
	if !next || len(o.items)-o.start >= c.b.cfg.WindowMessages || o.held > c.b.cfg.WindowBytes {
		if c.conn != nil {
			c.wake(o)
		}
		return
	}
	o.push(item{m: m, id: h.id, more: h.more, qos: t.QoS, retain: t.Retain, settles: p})
	c.ready(o)
}

// enqueue puts a message into a queue in memory.
func (c *client) enqueue(h *hit, m *durable.Message, qos uint8, retain bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || !c.fits(weight(m)) {
		return
	}
	o := c.outbound()
	o.next++
	c.more(o, weight(m))
	o.push(item{m: m, id: h.id, more: h.more, qos: qos, retain: retain})
	c.ready(o)
}

// ready has a sender look at the queue if something may be sent.
func (c *client) ready(o *outbound) {
	if s := c.conn; s != nil && o.inflight < s.windowOf(o) && s.ready.Load() {
		c.b.mark(c)
	}
}

// deliver gives the message to those whose queue is in memory, or who get it with quality of
// service 0.
func (b *Broker) deliver(r *routing, verdict Verdict) {
	if r.taking.Quiet {
		return
	}
	for i := range r.hits {
		h := &r.hits[i]
		qos, retain := min(r.qos, h.qos), r.retain && h.asIs // [MQTT-3.3.1-12, 13]
		switch {
		case qos == 0:
			b.direct(r, h, retain)
		case !h.onDisk || b.keeper == nil:
			h.c.enqueue(h, r.message(), qos, retain)
		}
	}
}

// direct hands a message with quality of service 0 to a connection. It is encoded once for
// all who get it alike.
func (b *Broker) direct(r *routing, h *hit, retain bool) {
	c := h.c
	if c.gen.Load() == 0 {
		return // never connected since the start
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.conn
	if s == nil { // 4.3.1: at most once; nobody waits
		return
	}
	alike, version := h.id == 0, 0
	if s.version == packet.V5 {
		version = 2
	}
	if retain {
		version++
	}
	b0 := r.frames[version]
	if b0 == nil || !alike {
		r.encodeProperties()
		f := frame{topic: r.topic, payload: r.payload, properties: r.forwarded, retain: retain, hasExpiry: r.hasExpiry, expiry: r.expiry}
		if alike {
			r.buffer[version] = f.append(r.buffer[version][:0], s.version)
			b0 = r.buffer[version]
			r.frames[version] = b0
		} else {
			f.ids(h.id, h.more)
			b0 = f.append(nil, s.version)
		}
	}
	c.hand(s, b0)
}

// hand gives a sender an encoded packet for the connection, if it takes it.
func (c *client) hand(s *Session, frame []byte) {
	b := c.b
	o := c.outbound()
	switch {
	case s.tooLarge(len(frame)):
		b.stats.TooLarge.Add(1)
		return
	case !c.takesDirect(&o.direct, len(frame)):
		b.stats.SlowReader.Add(1)
		return
	}
	c.addDirect(&o.direct, frame)
	b.stats.Delivered.Add(1)
	if s.ready.Load() {
		b.mark(c)
	}
}

// tooLarge says that a packet of n bytes cannot be given to the client [MQTT-3.1.2-24, 25].
func (s *Session) tooLarge(n int) bool {
	return s.largest > 0 && n > int(s.largest) || n > s.c.b.cfg.OutboxBytes
}

func (r *routing) encodeProperties() {
	if !r.encoded {
		r.encoded, r.forwarded = true, r.forwarded[:0]
		if r.properties != nil && !r.properties.None() {
			r.forwarded = packet.AppendForwarded(r.forwarded, r.properties)
		}
	}
}

// record appends a record and says Done, or drops it. It needs road. Without a Keeper nothing
// is recorded.
func (b *Broker) record(rec *durable.Record, urgency history.Urgency) (signalbox.Position, error) {
	if err := b.keeper.Append(rec, urgency); err != nil {
		b.keeper.Drop(rec)
		return 0, err
	}
	p := rec.Entry.Position
	b.keeper.Done(rec)
	return p, nil
}

func isFull(err error) bool { return errors.Is(err, history.ErrFull) }

// Publish sends a message of the hub's own: it is not shown to the Taker, may go to topics
// that begin with $, and is retained if its Retain says so. It never blocks. The error is
// history.ErrFull when nothing happened because the log is full. Do not call it with a lock
// held that the Taker needs. m is kept.
func (b *Broker) Publish(m *durable.Message) error {
	if m.From == "" {
		m.From = HubOwner
	}
	r := b.begin()
	defer b.finish(r)
	r.untaken = true
	return b.publish(r, m)
}

// ErrOthers says that a topic's retained message is another owner's.
var ErrOthers = errors.New("the retained message of the topic is another owner's")

// PublishOwn is Publish for a retained message that is not to take the place of another owner's: then
// nothing happens, and the error is ErrOthers. Nothing that clients publish at the same time comes in
// between. Where there is no room to retain it, it is passed on all the same.
func (b *Broker) PublishOwn(m *durable.Message) error {
	if m.From == "" {
		m.From = HubOwner
	}
	r := b.begin()
	defer b.finish(r)
	r.untaken, r.mine = true, true
	return b.publish(r, m)
}

// others reports whether what is retained on m's topic is another owner's than m.
func (b *Broker) others(m *durable.Message) bool {
	owner, ok := b.RetainedBy(m.Topic)
	return ok && owner != ownerOf(m)
}

func (b *Broker) publish(r *routing, m *durable.Message) error {
	r.kept, r.topic, r.payload, r.qos, r.retain, r.keep = m, m.Topic, m.Payload, m.QoS, m.Retain, m.Retain
	r.forwarded, r.encoded = append(r.forwarded[:0], m.Properties...), true
	if !m.ExpiresAt.IsZero() {
		f := frame{}
		f.message(m, time.Now())
		r.hasExpiry, r.expiry = true, f.expiry
	}
	owner := ownerOf(m)
	if r.untaken {
		owner = HubOwner
	}
	if r.keep && !b.retained.room(b, owner, m.Topic, keptWeight(m)) {
		b.stats.RetainedRefused.Add(1)
		r.keep = false
	}
	switch b.take(r) {
	case Refused:
		if r.mine {
			return ErrOthers
		}
		return nil
	case Later:
		return history.ErrFull
	case Stop:
		return signalbox.Errorf(signalbox.KindUnavailable, "stopping", "the hub is stopping")
	default:
		return nil
	}
}
