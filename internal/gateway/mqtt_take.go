package gateway

import (
	"cmp"
	"errors"

	"signalbox/internal/broker"
	"signalbox/internal/gateway/mqtt"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/mapped"
	"signalbox/internal/registry"
	"signalbox/internal/wire"
	"signalbox/internal/wire/packet"
)

// Take implements broker.Taker: what is telemetry, or the answer to a command, goes to the
// roads; the rest is only routed. The rights were looked at before, but for wills.
func (m *MQTT) Take(t *broker.Taking) broker.Verdict {
	topic := t.Message.Topic
	c := connOf(t.Peer)
	if c == nil {
		return m.takeWill(t)
	}
	if c.device != nil {
		if rest, ok := own(topic, c.device.Name); ok {
			switch string(rest) {
			case topicTelemetry:
				return c.telemetry(t)
			case topicAck, topicResult:
				return c.answer(t, string(rest) == topicResult)
			}
			return broker.Pass
		}
		if m.foreign(topic) {
			return c.takeForeign(t)
		}
	}
	if native(topic) {
		return c.submit(t)
	}
	return m.takeMapped(t, c)
}

// connOf is the door's side of a connection; nil where there is none any more.
func connOf(p broker.Peer) *mqttConn {
	t, ok := p.(*mqtt.Conn)
	if !ok || t == nil {
		return nil
	}
	c, _ := t.Endpoint().(*mqttConn)
	return c
}

// telemetry takes a message on the device's own telemetry topic: a JSON object with the
// reserved keys of version 2, or a bare number.
func (c *mqttConn) telemetry(t *broker.Taking) broker.Verdict {
	m := ingest.Message{Body: t.Message.Payload, Awaited: t.Message.QoS > 0, Also: t.Also}
	if number, ok := wire.BareNumber(m.Body); ok {
		kept := c.door.numberBody(number)
		defer c.door.bodies.Put(kept)
		m.Body = *kept
	} else if ok := c.object(t, &m); !ok {
		return broker.Refused
	}
	mirrored := c.door.mirror.on.Load()
	if mirrored {
		c.set(mqttPublishes)
	}
	settles, verdict := c.door.g.Ingest.Telemetry(c.device, c.session.ID, &m)
	if mirrored {
		c.clear(mqttPublishes)
	}
	switch verdict {
	case ingest.Stored:
		t.Position = settles
		return broker.Taken
	case ingest.Duplicate: // t.Also was not appended
		t.Position = settles
		return broker.Duplicate
	case ingest.Full:
		c.door.g.stats.Pushback.Add(1)
		return broker.Later
	case ingest.Stale:
		c.End("replaced")
	default:
		c.End("shutdown")
	}
	return broker.Stop
}

// numberBody makes {"value":n} of a number; the caller gives it back to m.bodies.
func (m *MQTT) numberBody(number []byte) *[]byte {
	b, _ := m.bodies.Get().(*[]byte)
	*b = wire.AppendNumber((*b)[:0], number)
	return b
}

// object reads the reserved keys of a telemetry object; false: it is refused.
func (c *mqttConn) object(t *broker.Taking, m *ingest.Message) bool {
	g := c.door.g
	says, fault := wire.ReadTelemetry(m.Body, g.cfg.Limits)
	m.TimeMicros = says.TimeMicros
	if says.Seq != 0 {
		// Without a mark of its power-up, the device's numbers mean something within the connection.
		m.Seq, m.Boot = says.Seq, cmp.Or(says.Boot, c.session.ID)
	}
	if fault == nil {
		return true
	}
	switch fault.Code {
	case wire.FaultTooDeep, wire.FaultTooManyKeys:
		g.stats.TooComplex.Add(1)
	case wire.FaultTime:
		g.Ingest.Settle(c.device, c.session.ID, m.Boot, m.Seq)
	case wire.FaultReplayed:
		g.stats.Replayed.Add(1)
	}
	return c.wrong(t, fault.Code, fault.Text, fault.Seq)
}

// wrong refuses a message for what is in it: 5.0 clients are told in the acknowledgement, and
// devices that subscribed to their error topic there. It gives false.
func (c *mqttConn) wrong(t *broker.Taking, code, message string, seq uint64) bool {
	t.Reason, t.Words = packet.PayloadFormatInvalid, message
	c.door.stats.PayloadsRefused.Add(1)
	c.more().refusal = errorFrame(code, message, seq) // published when the broker has let go: see tell
	c.note(refusedPayload, code, t.Message.Topic)
	return false
}

// answer takes the ack or the result of a command.
func (c *mqttConn) answer(t *broker.Taking, result bool) broker.Verdict {
	var f wire.Frame
	id, fault := wire.ReadAnswer(t.Message.Payload, c.door.g.cfg.Limits, &f)
	if fault != nil {
		c.wrong(t, fault.Code, fault.Text, 0)
		return broker.Refused
	}
	if t.Also != nil { // first: with it refused, nothing may have happened
		switch err := c.door.parts.Log.Append(t.Also, history.Acked); {
		case errors.Is(err, history.ErrFull):
			return broker.Later
		case err != nil:
			return broker.Stop
		}
	}
	if result {
		c.door.g.result(&c.session, id, &f)
	} else {
		c.door.g.Commands.Ack(&c.session, id)
	}
	t.Quiet = true
	t.Position = c.door.parts.Log.Head() // the change of the command is at or before it
	return broker.Taken
}

// takeMapped offers a message to the mappings.
func (m *MQTT) takeMapped(t *broker.Taking, budget mapped.Budget) broker.Verdict {
	if m.parts.Mapped == nil {
		return broker.Pass
	}
	taking := mapped.Taking{
		Topic: string(t.Message.Topic), Payload: t.Message.Payload, Link: m, Awaited: t.Message.QoS > 0, Also: t.Also, Budget: budget,
	}
	switch m.parts.Mapped.Take(&taking) {
	case mapped.Taken:
		t.Position = taking.Position
		return broker.Taken
	case mapped.Later:
		return broker.Later
	case mapped.Stopping:
		return broker.Stop
	case mapped.None, mapped.Dropped: // subscribers may want it all the same
	}
	return broker.Pass
}

// takeWill takes the will of a client that is gone, if it still may say that.
func (m *MQTT) takeWill(t *broker.Taking) broker.Verdict {
	topic := t.Message.Topic
	if t.Owner == hubOwner {
		return broker.Pass
	}
	if !m.ownerMayPublish(t.Owner, topic) {
		m.stats.WillsRefused.Add(1)
		t.Reason = packet.NotAuthorized
		return broker.Refused
	}
	d := m.deviceOf(t.Owner)
	if d == nil || !native(topic) {
		return m.takeMapped(t, nil)
	}
	if rest, _ := own(topic, d.Name); string(rest) == topicTelemetry {
		return m.lastWords(d, t)
	}
	return broker.Pass
}

// lastWords takes telemetry that a device left as its will. It counts while the device is
// away: 0 is the session of nobody.
func (m *MQTT) lastWords(d *registry.Device, t *broker.Taking) broker.Verdict {
	message := ingest.Message{Body: t.Message.Payload, Awaited: true, Also: t.Also}
	var f wire.Frame
	number, bare := wire.BareNumber(message.Body)
	switch {
	case bare:
		kept := m.numberBody(number)
		defer m.bodies.Put(kept)
		message.Body = *kept
	case !wire.ValidText(message.Body) || wire.Scan(message.Body, m.g.cfg.Limits, &f) != nil || wire.Replayed(message.Body):
		m.stats.PayloadsRefused.Add(1)
		t.Reason = packet.PayloadFormatInvalid
		return broker.Refused
	}
	settles, verdict := m.g.Ingest.Telemetry(d, 0, &message)
	switch verdict {
	case ingest.Stored:
		t.Position = settles
		return broker.Taken
	case ingest.Duplicate: // t.Also was not appended
		t.Position = settles
		return broker.Duplicate
	case ingest.Full:
		return broker.Later
	case ingest.Stale: // it is back already, and says more itself
		return broker.Pass
	default:
		return broker.Stop
	}
}

// deviceOf finds the device that an owner is; nil when it is none, or removed.
func (m *MQTT) deviceOf(owner string) *registry.Device {
	if id, ok := numberOf(owner); ok {
		return m.g.Devices.Get(id)
	}
	return nil
}
