package gateway

import (
	"strconv"

	"signalbox"
	"signalbox/internal/wire"
	"signalbox/internal/wire/packet"
)

// The native tree (the topics that the hub gives a meaning): signalbox/<device>/….
const (
	nativePrefix   = wire.NativePrefix
	topicTelemetry = wire.NativeTelemetry
	topicStatus    = wire.NativeStatus
	topicCommand   = wire.NativeCommand
	topicAck       = wire.NativeAck
	topicResult    = wire.NativeResult
	topicError     = wire.NativeError
	// topicPresence is package homeassistant's.
	topicPresence = "presence"
)

// own gives what follows signalbox/<name>/ in a topic or filter; ok is false when it is
// another one. It does not allocate.
func own[T string | []byte](topic T, name string) (rest T, ok bool) {
	const prefix = len(nativePrefix)
	if len(topic) <= prefix+len(name) || topic[prefix+len(name)] != '/' ||
		string(topic[:prefix]) != nativePrefix || string(topic[prefix:prefix+len(name)]) != name {
		return rest, false
	}
	return topic[prefix+len(name)+1:], true
}

// native reports whether a topic is in the native tree.
func native[T string | []byte](topic T) bool {
	return len(topic) >= len(nativePrefix)-1 && string(topic[:len(nativePrefix)-1]) == nativePrefix[:len(nativePrefix)-1] &&
		(len(topic) == len(nativePrefix)-1 || topic[len(nativePrefix)-1] == '/')
}

// mayPublish tells whether the client may publish to the topic.
func (c *mqttConn) mayPublish(topic []byte) bool {
	if c.device != nil {
		return c.door.deviceMayPublish(c.device.Name, topic)
	}
	return c.guestMayPublish(topic, true)
}

// deviceMayPublish: all below its own name but what the hub says there, and what is mapped to it.
func (m *MQTT) deviceMayPublish(name string, topic []byte) bool {
	if rest, ok := own(topic, name); ok {
		switch string(rest) {
		case "", topicCommand, topicError, topicPresence:
			return false
		}
		return true
	}
	switch {
	case len(topic) == 0 || topic[0] == '$' || native(topic):
		return false
	case m.reserved(topic):
		return m.foreign(topic)
	case m.parts.Mapped == nil:
		return false
	}
	return m.parts.Mapped.Allowed(name, string(topic))
}

// guestMayPublish: programs with the right to command everywhere but in the native tree, where
// only commands are taken; anonymous clients where the configuration lets them.
func (c *mqttConn) guestMayPublish(topic []byte, commands bool) bool {
	switch {
	case len(topic) == 0 || topic[0] == '$' || c.door.reserved(topic):
		return false
	case c.guest.scope == "":
		return c.door.anonymousMayPublish(topic)
	case !c.guest.scope.Allows(signalbox.ScopeCommand):
		return false
	case native(topic):
		_, rest, ok := wire.SplitNative(string(topic))
		return commands && ok && rest == topicCommand
	}
	return true
}

func (m *MQTT) anonymousMayPublish(topic []byte) bool {
	if len(topic) == 0 || topic[0] == '$' || native(topic) || m.reserved(topic) {
		return false
	}
	for _, filter := range m.cfg.Anonymous {
		if packet.Match(filter, topic) {
			return true
		}
	}
	return false
}

// mayWill tells whether the client may have a will on the topic. A will is no command: nobody
// could be told what became of it; and no answer to one.
func (c *mqttConn) mayWill(topic []byte) bool {
	if c.device != nil {
		return c.door.deviceMayWill(c.device.Name, topic)
	}
	return c.guestMayPublish(topic, false)
}

func (m *MQTT) deviceMayWill(name string, topic []byte) bool {
	rest, _ := own(topic, name)
	return !m.foreign(topic) && m.deviceMayPublish(name, topic) && string(rest) != topicAck && string(rest) != topicResult
}

// ownerMayPublish is mayPublish for the will of a client that is gone.
func (m *MQTT) ownerMayPublish(owner string, topic []byte) bool {
	switch {
	case owner == "" || len(topic) == 0 || topic[0] == '$' || m.reserved(topic):
		return false
	case owner[0] == 'd':
		d := m.deviceOf(owner)
		return d != nil && !d.Disabled() && m.deviceMayWill(d.Name, topic)
	case owner[0] == 'a':
		return m.anonymousMayPublish(topic)
	default: // of a token; what the broker keeps of it goes when it is revoked
		return !native(topic)
	}
}

// numberOf reads the number in a device's owner.
func numberOf(owner string) (signalbox.DeviceID, bool) {
	if owner == "" || owner[0] != 'd' {
		return 0, false
	}
	n, err := strconv.ParseUint(owner[1:], 10, 32)
	return signalbox.DeviceID(n), err == nil
}

// grant implements broker.Grant: whether the client may subscribe to a filter.
func (c *mqttConn) grant(filter *packet.Filter) packet.Reason {
	if text := string(filter.Text); c.maySubscribe(text) {
		if c.guest != nil {
			_, rest, _ := packet.Share(text)
			c.door.wantMirror(rest)
		}
		return packet.Success
	}
	c.door.stats.SubscriptionsRefused.Add(1)
	return packet.NotAuthorized
}

// maySubscribe: a device within its own name, which the filter has to spell, and to the
// commands that are mapped to it; programs that may read to everything; nobody else.
func (c *mqttConn) maySubscribe(filter string) bool {
	if c.t.Version() == packet.V5 { // 4.8.2; for 3.1.1 it is a filter like any other
		if _, rest, shared := packet.Share(filter); shared {
			filter = rest
		}
	}
	if c.device != nil {
		if rest, ok := own(filter, c.device.Name); ok {
			return rest != ""
		}
		if c.door.cfg.Dialect != nil && c.door.cfg.Dialect.MaySubscribe(filter) {
			return true
		}
		return c.door.parts.Mapped != nil && !native(filter) && c.door.parts.Mapped.Hears(c.device.Name, filter)
	}
	return c.guest.scope.Allows(signalbox.ScopeRead) && !c.door.reserved([]byte(filter))
}
