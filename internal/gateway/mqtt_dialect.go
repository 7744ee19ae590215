package gateway

import (
	"errors"
	"time"

	"signalbox"
	"signalbox/internal/broker"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/mapped"
)

// A device with a connection of its own may speak the dialect of another platform (package
// mapped), whose topics name no device. What is published there is for the hub alone: others
// who subscribe to such topics are other devices.

// dialectRoot is the tree of the dialect's topics. They mean another device to each who speaks the
// dialect, so that nothing there is ever passed on: nobody but devices on connections of their own
// may publish there, and nobody else gets anything.
const dialectRoot = "v1/devices/me"

// reserved reports whether a topic is in the dialect's tree.
func (m *MQTT) reserved(topic []byte) bool {
	const n = len(dialectRoot)
	return m.cfg.Dialect != nil && len(topic) >= n && string(topic[:n]) == dialectRoot && (len(topic) == n || topic[n] == '/')
}

// dialectRequest is a topic on which the dialect's commands come.
const dialectRequest = "v1/devices/me/rpc/request/1"

// foreign reports whether the topic is one of the dialect's.
func (m *MQTT) foreign(topic []byte) bool {
	return m.reserved(topic) && m.cfg.Dialect.MayPublish(string(topic))
}

// hearsDialect reports whether the device has subscribed to the dialect's commands.
func (c *mqttConn) hearsDialect() bool {
	if c.door.cfg.Dialect == nil {
		return false
	}
	if _, ok := c.broker.Granted(dialectRequest); !ok {
		return false
	}
	if x := c.more(); x.talk == nil {
		x.talk = c.door.conversation(c.device.ID)
	}
	return true
}

// conversation gives a device's, over all its connections: it may answer on another one than it
// was asked on. Its numbers go on after a restart of the hub, so that an old answer is none to a
// new command.
func (m *MQTT) conversation(id signalbox.DeviceID) mapped.Conversation {
	if talk, ok := m.talks.Load(id); ok {
		return talk.(mapped.Conversation) //nolint:forcetypeassert // nothing else is stored
	}
	talk, _ := m.talks.LoadOrStore(id, m.cfg.Dialect.Converse(int(time.Now().Unix())))
	return talk.(mapped.Conversation) //nolint:forcetypeassert // nothing else is stored
}

// Once implements session.Onceler: the numbers of the dialect mean nothing to a device that has
// started again, so that it gets no command twice.
func (c *mqttConn) Once() bool { return c.is(mqttByDialect) }

// deliverDialect hands over a command in the dialect's words.
func (c *mqttConn) deliverDialect(cmd *signalbox.Command) error {
	topic, payload, err := c.extra.talk.Command(cmd)
	if err != nil {
		return err
	}
	qos, ok := c.broker.Granted(topic)
	if !ok {
		return errNotSubscribed
	}
	return c.broker.Command(topic, payload, min(qos, 1))
}

// takeForeign takes a message on a topic of the dialect: telemetry, of which there may be
// several messages in one payload, or the answer to a command.
func (c *mqttConn) takeForeign(t *broker.Taking) broker.Verdict {
	topic := string(t.Message.Topic)
	messages, ok, err := c.door.cfg.Dialect.Telemetry(nil, topic, t.Message.Payload)
	switch {
	case err != nil:
		c.wrong(t, "invalid_telemetry", err.Error(), 0)
		return broker.Refused
	case !ok:
		return c.answerForeign(t, topic)
	}
	x := c.more()
	for ; x.taken < len(messages); x.taken++ { // those before that came already, when the log was full
		if x.taken > x.paid {
			if !c.pays() {
				return broker.Later
			}
			x.paid = x.taken
		}
		m := ingest.Message{Body: messages[x.taken].Body, TimeMicros: messages[x.taken].TimeMicros, Awaited: t.Message.QoS > 0}
		if x.taken == len(messages)-1 {
			m.Also = t.Also
		}
		settles, verdict := c.door.g.Ingest.Telemetry(c.device, c.session.ID, &m)
		switch verdict {
		case ingest.Stored: // never a Duplicate, which would not have Also: these have no numbers
			t.Position = settles
		case ingest.Full:
			c.door.g.stats.Pushback.Add(1)
			return broker.Later
		case ingest.Stale:
			c.End("replaced")
			return broker.Stop
		default:
			c.End("shutdown")
			return broker.Stop
		}
	}
	x.taken, x.paid = 0, 0
	return broker.Taken
}

// answerForeign takes the answer to a command; one to nothing that was asked is passed over.
func (c *mqttConn) answerForeign(t *broker.Taking, topic string) broker.Verdict {
	if t.Also != nil { // first: with it refused, nothing may have happened
		switch err := c.door.parts.Log.Append(t.Also, history.Acked); {
		case errors.Is(err, history.ErrFull):
			return broker.Later
		case err != nil:
			return broker.Stop
		}
	}
	if talk, ok := c.door.talks.Load(c.device.ID); ok {
		if a, ok := talk.(mapped.Conversation).Answer(topic, t.Message.Payload); ok { //nolint:forcetypeassert // nothing else is stored
			c.door.g.Commands.Result(&c.session, a.ID, a.OK, a.Value, a.Error)
		}
	}
	t.Position = c.door.parts.Log.Head()
	return broker.Taken
}
