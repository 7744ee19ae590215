package packet

import "encoding/binary"

// Decode reads one whole packet, no more and no less (see [Size]), of a connection with
// version v; the version of a CONNECT is its own, and v does not matter there. Any v but [V5]
// is 3.1.1. The packet's byte slices lie in b. The error is an *[Error]; then p holds nothing of
// use but Type (0 if the fixed header is wrong) and, of a CONNECT, Connect.Version: the protocol
// level it has, which need not be one that this package knows (then Reason is
// UnsupportedVersion), or 0 if that could not be read.
//
// Decode does not know who sent the packet: see [Packet.FromClient] and [Packet.FromServer].
func (p *Packet) Decode(b []byte, v Version) error {
	body, minimal, err := header(b)
	if err != nil {
		p.Type = 0
		return err
	}
	p.Type = Type(b[0] >> 4)
	if !minimal && (v == V5 || p.Type == CONNECT) {
		if err := p.lengthAllowed(body); err != nil {
			return err
		}
	}
	switch p.Type {
	case PUBLISH:
		return p.decodePublish(b[0], body, v)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return p.decodeAck(body, v)
	case CONNECT:
		return p.decodeConnect(body)
	case CONNACK:
		return p.decodeConnack(body, v)
	case SUBSCRIBE:
		return p.decodeSubscribe(body, v)
	case SUBACK, UNSUBACK:
		return p.decodeSuback(body, v)
	case UNSUBSCRIBE:
		return p.decodeUnsubscribe(body, v)
	case PINGREQ, PINGRESP:
		if len(body) != 0 { // 3.12.1, 3.13.1
			return malformed("2.1.4", "a %s has %d bytes after its fixed header; there are none", p.Type, len(body))
		}
		return nil
	case DISCONNECT:
		return p.decodeDisconnect(body, v)
	default:
		return p.decodeAuth(body, v)
	}
}

// lengthAllowed refuses a Remaining Length with more bytes than needed where 5.0 rules
// [MQTT-1.5.5-1]; 3.1.1 does not forbid it.
func (p *Packet) lengthAllowed(body []byte) error {
	if p.Type == CONNECT {
		if len(body) < 7 || body[6] != byte(V5) { // the protocol level, after the name
			return nil
		}
		p.Connect.Version = V5
	}
	return malformed("MQTT-1.5.5-1", "the Remaining Length is not written with the fewest bytes")
}

// decodePublish: 3.3. The flags are checked already.
func (p *Packet) decodePublish(h byte, b []byte, v Version) error {
	p.Dup, p.QoS, p.Retain = h&0x08 != 0, h>>1&3, h&0x01 != 0
	topic, b, ok := cut(b)
	if !ok {
		return short("the topic name")
	}
	// [MQTT-3.3.2-1], [MQTT-3.3.2-2]; in 5.0 an alias may stand for the topic (3.3.2.3.4)
	if !plainTopic(topic) && (len(topic) != 0 || v != V5) {
		if err := checkTopic(topic, "topic name"); err != nil {
			return err
		}
	}
	p.Topic, p.ID = topic, 0
	if p.QoS > 0 {
		var err error
		if b, err = p.identifier(b); err != nil { // [MQTT-2.2.1-3]
			return err
		}
	}
	if v != V5 {
		p.Properties.reset()
		p.Payload = b
		return nil
	}
	b, err := p.Properties.take(b, inPublish, PUBLISH)
	if err != nil {
		return err
	}
	if len(topic) == 0 && !p.Properties.Has(TopicAlias) {
		return violation("3.3.2.1", "the topic name is empty and there is no topic alias")
	}
	p.Payload = b
	return nil
}

// identifier takes the packet identifier from b (2.2.1); it is never 0 [MQTT-2.2.1-3], and so
// neither is that of an answer [MQTT-2.2.1-5], [MQTT-2.2.1-6].
func (p *Packet) identifier(b []byte) ([]byte, error) {
	if len(b) < 2 {
		return nil, short("the packet identifier")
	}
	p.ID = binary.BigEndian.Uint16(b)
	if p.ID == 0 {
		return nil, violation("MQTT-2.2.1-3", "the packet identifier of a %s is 0; 1 to 65,535 are allowed", p.Type)
	}
	return b[2:], nil
}

// decodeAck: 3.4 to 3.7. 5.0 lets Success without properties be left out.
func (p *Packet) decodeAck(b []byte, v Version) error {
	b, err := p.identifier(b)
	if err != nil {
		return err
	}
	p.Reason = Success
	if len(b) == 0 {
		p.Properties.reset()
		return nil
	}
	if v != V5 {
		return trailing(p.Type, b)
	}
	p.Reason = Reason(b[0])
	if !ackReason(p.Type, p.Reason) { // [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1]
		return strangeReason(p.Type, p.Reason)
	}
	return p.lastProperties(b[1:], inAck)
}

// lastProperties reads properties that end the packet and may be left out.
func (p *Packet) lastProperties(b []byte, allowed uint64) error {
	if len(b) == 0 {
		p.Properties.reset()
		return nil
	}
	rest, err := p.Properties.take(b, allowed, p.Type)
	if err != nil {
		return err
	}
	if len(rest) != 0 {
		return trailing(p.Type, rest)
	}
	return nil
}

// decodeConnack: 3.2.
func (p *Packet) decodeConnack(b []byte, v Version) error {
	if len(b) < 2 {
		return short("the CONNACK's flags and reason")
	}
	p.Reason = Reason(b[1])
	if b[0] > 1 {
		return malformed("MQTT-3.2.2-1", "a CONNACK has the flags %#x; 0 and 1 are allowed", b[0])
	}
	p.SessionPresent = b[0] == 1
	if p.SessionPresent && p.Reason != Success { // 3.1.1: [MQTT-3.2.2-4]
		return violation("MQTT-3.2.2-6", "a CONNACK that refuses says that there is a session")
	}
	if !connackReason(v, p.Reason) {
		return strangeReason(p.Type, p.Reason)
	}
	if v != V5 {
		p.Properties.reset()
		if len(b) != 2 {
			return trailing(p.Type, b[2:])
		}
		return nil
	}
	if len(b) == 2 { // only 3.4 to 3.7, 3.14 and 3.15 may leave the length out
		return short("the property length")
	}
	return p.lastProperties(b[2:], inConnack)
}

// decodeDisconnect: 3.14. In 5.0 a reason of 0 without properties may be left out.
func (p *Packet) decodeDisconnect(b []byte, v Version) error {
	p.Reason = Success
	if len(b) == 0 {
		p.Properties.reset()
		return nil
	}
	if v != V5 {
		return trailing(p.Type, b)
	}
	p.Reason = Reason(b[0])
	if !disconnectReason(p.Reason) { // [MQTT-3.14.2-1]
		return strangeReason(p.Type, p.Reason)
	}
	return p.lastProperties(b[1:], inDisconnect)
}

// decodeAuth: 3.15. A reason of 0 without properties may be left out; else there are both.
func (p *Packet) decodeAuth(b []byte, v Version) error {
	if v != V5 { // 3.1.1: 2.2.1
		return malformed("2.1.2", "the packet type 15 is reserved in 3.1.1")
	}
	p.Reason = Success
	if len(b) == 0 {
		p.Properties.reset()
		return nil
	}
	p.Reason = Reason(b[0])
	switch p.Reason {
	case Success, ContinueAuthentication, ReAuthenticate: // [MQTT-3.15.2-1]
	default:
		return strangeReason(p.Type, p.Reason)
	}
	if len(b) == 1 {
		return short("the property length")
	}
	if err := p.lastProperties(b[1:], inAuth); err != nil {
		return err
	}
	if !p.Properties.Has(AuthMethod) { // 3.15.2.2.2
		return violation("3.15.2.2.2", "an AUTH has no authentication method")
	}
	return nil
}

// trailing is the error for bytes after the end of a packet's content.
func trailing(t Type, rest []byte) error {
	return malformed("2.1.4", "a %s has %d bytes after its end", t, len(rest))
}
