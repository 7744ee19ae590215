package broker

import (
	"slices"
	"time"

	"signalbox/internal/broker/durable"
	"signalbox/internal/history"
	"signalbox/internal/wire/packet"
)

// pause is how long a connection is not read from when the log is full or its client has too
// much unacknowledged.
const pause = 2 * time.Millisecond

func takenOver() Outcome {
	return Outcome{Close: true, Reason: packet.SessionTakenOver, Words: "Another connection has taken over this session."}
}

// Resolve puts the topic of a PUBLISH in the place of its alias (5.0, 3.3.2.3.4). It may be
// called again for a packet that had to wait, and comes before Publish and Refuse.
func (s *Session) Resolve(p *packet.Packet) Outcome {
	if !p.Properties.Has(packet.TopicAlias) {
		if len(p.Topic) == 0 {
			return Outcome{Close: true, Reason: packet.ProtocolError, Words: "A PUBLISH has neither a topic name nor a topic alias."} // 3.3.2.1
		}
		return Outcome{}
	}
	n := int(p.Properties.TopicAlias)
	if n == 0 || n > s.c.b.cfg.TopicAliases { // [MQTT-3.3.2-9]
		return Outcome{Close: true, Reason: packet.TopicAliasInvalid, Words: "The topic alias is larger than the server's maximum."}
	}
	if s.aliases == nil {
		list := make([]alias, 0, 1)
		s.aliases = &list
	}
	list := *s.aliases
	if len(p.Topic) == 0 {
		if n > len(list) || list[n-1] == nil {
			return Outcome{Close: true, Reason: packet.ProtocolError, Words: "The topic alias stands for no topic yet."}
		}
		p.Topic = list[n-1]
		return Outcome{}
	}
	for len(list) < n {
		list = append(list, nil)
	}
	if string(list[n-1]) != string(p.Topic) {
		list[n-1] = slices.Clone(p.Topic)
	}
	*s.aliases = list
	return Outcome{}
}

// Publish takes a PUBLISH that Resolve has seen: gives it to the Taker, keeps it where it has
// to be kept, routes it, and sees to its acknowledgement after the commit.
func (s *Session) Publish(p *packet.Packet) Outcome { return s.publish(p, false) }

// Consume is Publish for a message that is for the Taker alone: no subscriber gets it.
func (s *Session) Consume(p *packet.Packet) Outcome { return s.publish(p, true) }

func (s *Session) publish(p *packet.Packet, quiet bool) Outcome {
	c := s.c
	b := c.b
	if c.gen.Load() != s.gen {
		return takenOver()
	}
	if len(p.Topic) == 0 || p.Topic[0] == '$' { // 4.7.2: topics of the server's own
		return s.Refuse(p, packet.NotAuthorized, "topics that begin with $ are the server's own")
	}
	if p.Properties.Has(packet.PayloadFormat) && packet.CheckPayload(&p.Properties, p.Payload) != nil { // 3.3.2.3.2
		return s.Refuse(p, packet.PayloadFormatInvalid, "the payload is not the UTF-8 that its payload format indicator says")
	}
	if p.QoS > 0 {
		if known, outcome := s.admit(p); known {
			return outcome
		}
	}
	r := b.begin()
	defer b.finish(r)
	r.from, r.taking.Owner, r.taking.Peer, r.taking.Message, r.taking.Quiet = c, c.owner(), s.peer, p, quiet
	r.topic, r.payload, r.qos, r.retain = view(p.Topic), p.Payload, p.QoS, p.Retain
	if p.Properties.Has(packet.MessageExpiry) {
		r.hasExpiry, r.expiry = true, p.Properties.MessageExpiry
	}
	r.properties = &p.Properties
	if r.keep = p.Retain && s.mayRetain(r); p.Retain && !r.keep {
		b.stats.RetainedRefused.Add(1)
		if s.version == packet.V5 && p.QoS > 0 && !s.is(traitVolatile) {
			return s.Refuse(p, packet.QuotaExceeded, "no more can be retained, in all or of this client")
		}
	}
	if p.QoS == 2 && c.onDisk.Load() {
		r.packetID = p.ID
	}
	switch verdict := b.take(r); verdict {
	case Taken, Pass, Duplicate:
		b.index.locks[c.serial%stripes].received.Add(1)
		if verdict == Duplicate {
			b.stats.Duplicates.Add(1)
		}
		if p.QoS > 0 {
			s.accepted(p, r)
		}
		return Outcome{}
	case Later:
		b.stats.Waited.Add(1)
		return Outcome{Wait: pause}
	case Refused:
		return s.Refuse(p, max(r.taking.Reason, packet.UnspecifiedError), r.taking.Words)
	default:
		return Outcome{Close: true, Reason: packet.ServerShuttingDown, Words: "The server takes nothing from this connection any more."}
	}
}

// mayRetain reports whether a message that asks for it is to be retained.
func (s *Session) mayRetain(r *routing) bool {
	if s.is(traitVolatile) {
		return false
	}
	if len(r.payload) == 0 {
		return true
	}
	r.encodeProperties()
	return s.c.b.retained.room(s.c.b, s.c.owner(), r.topic, int64(len(r.topic)+len(r.payload)+len(r.forwarded)+messageHead))
}

// admit looks whether a publish with quality of service 1 or 2 came before or has to wait;
// then it is known, and the outcome says what to do.
func (s *Session) admit(p *packet.Packet) (known bool, _ Outcome) {
	c := s.c
	b := c.b
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != s {
		return true, takenOver()
	}
	in := c.inbound()
	switch {
	case p.QoS == 1 && p.Dup && slices.Contains(in.first, p.ID):
		b.stats.Duplicates.Add(1)
		s.answer(ack{kind: packet.PUBACK, id: p.ID, settles: in.last, again: true})
		return true, Outcome{}
	case p.QoS == 2 && in.exact.has(p.ID): // until PUBREL it is the same message [MQTT-4.3.3-9, 10]
		b.stats.Duplicates.Add(1)
		s.answer(ack{kind: packet.PUBREC, id: p.ID, settles: in.last, again: true})
		return true, Outcome{}
	case in.open < int(b.cfg.ReceiveMaximum):
		return false, Outcome{}
	case s.version == packet.V5: // 3.3.4
		b.stats.OverReceiveMaximum.Add(1)
		return true, Outcome{Close: true, Reason: packet.ReceiveMaximumExceeded, Words: "More messages are unacknowledged than the server's receive maximum."}
	default:
		b.stats.Waited.Add(1)
		return true, Outcome{Wait: pause}
	}
}

// accepted sees to the acknowledgement of what was taken.
func (s *Session) accepted(p *packet.Packet, r *routing) {
	c := s.c
	kind := packet.PUBACK
	c.mu.Lock()
	in := c.inbound()
	in.last = max(in.last, r.position)
	if p.QoS == 2 {
		kind = packet.PUBREC
		in.exact.add(p.ID)
	} else {
		in.first = append(in.first, p.ID)
	}
	in.open++
	s.answer(ack{kind: kind, id: p.ID, settles: r.position})
	c.mu.Unlock()
}

// Refuse answers a PUBLISH that is not taken: 5.0 clients get the reason, which has to be
// one of PUBACK (3.4.2.1), and the words, if they want them and there is room; 3.1.1 has no way to
// tell [MQTT-3.3.5-2].
func (s *Session) Refuse(p *packet.Packet, reason packet.Reason, words string) Outcome {
	s.c.b.stats.Refused.Add(1)
	if p.QoS == 0 {
		return Outcome{}
	}
	kind := packet.PUBACK
	if p.QoS == 2 {
		kind = packet.PUBREC // ends the flow: no PUBREL follows (4.3.3)
	}
	if s.version != packet.V5 {
		reason = packet.Success
	}
	s.failed(ack{kind: kind, id: p.ID, reason: reason}, words)
	return Outcome{}
}

// noSuchID are the words for a packet identifier that has no message.
const noSuchID = "no message has this packet identifier"

// release takes PUBREL: the identifier may be used again, once that is on disk.
func (s *Session) release(id uint16) Outcome {
	c := s.c
	b := c.b
	forget := func() bool {
		in := c.in
		if in == nil || !in.exact.has(id) {
			return false
		}
		in.exact.remove(id)
		return true
	}
	if !c.onDisk.Load() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.conn != s {
			return takenOver()
		}
		if forget() {
			s.answer(ack{kind: packet.PUBCOMP, id: id})
		} else {
			s.failed(ack{kind: packet.PUBCOMP, id: id, reason: packet.PacketIDNotFound}, noSuchID)
		}
		return Outcome{}
	}
	b.road.Lock()
	defer b.road.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != s {
		return takenOver()
	}
	if c.in == nil || !c.in.exact.has(id) {
		s.failed(ack{kind: packet.PUBCOMP, id: id, reason: packet.PacketIDNotFound}, noSuchID)
		return Outcome{}
	}
	p, err := b.record(b.keeper.Forget(c.kept.id, id), history.Acked)
	if err != nil {
		return b.later(err)
	}
	forget()
	s.answer(ack{kind: packet.PUBCOMP, id: id, settles: p})
	return Outcome{}
}

// later is the outcome of a record that could not be appended.
func (b *Broker) later(err error) Outcome {
	if isFull(err) {
		b.stats.Waited.Add(1)
		return Outcome{Wait: pause}
	}
	return Outcome{Close: true, Reason: packet.ServerShuttingDown, Words: "The server is stopping."}
}

// Ping answers PINGREQ (3.12.4).
func (s *Session) Ping() {
	if !s.ready.Load() { // not before CONNACK
		s.answer(ack{kind: packet.PINGRESP, again: true})
		return
	}
	var b [2]byte
	_ = s.peer.Write(packet.AppendPing(b[:0], packet.PINGRESP))
}

// Tick may be called now and then: it looks after messages that wait for the connection.
func (s *Session) Tick(time.Time) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == s && c.out != nil {
		c.wake(c.out)
	}
}

// forwarded gives the message as it is kept. It copies what it needs.
func (r *routing) message() *durable.Message {
	if r.kept != nil {
		return r.kept
	}
	r.encodeProperties()
	buf := make([]byte, 0, len(r.topic)+len(r.payload)+len(r.forwarded))
	buf = append(buf, r.topic...)
	buf = append(buf, r.payload...)
	buf = append(buf, r.forwarded...)
	t, p := len(r.topic), len(r.topic)+len(r.payload)
	m := &durable.Message{Topic: view(buf[:t:t]), Payload: buf[t:p:p], Properties: buf[p:], QoS: r.qos, Retain: r.retain}
	if r.hasExpiry {
		m.ExpiresAt = time.Now().Add(time.Duration(r.expiry) * time.Second)
	}
	if r.from != nil {
		m.From = r.from.key
	}
	r.kept = m
	return m
}
