package packet

import (
	"encoding/binary"
	"math/bits"
)

// AddUser adds a user property after those that are there. Name and value are UTF-8 of at
// most 65,535 bytes; longer ones are left out. What was decoded is not changed.
func (p *Properties) AddUser(key, value string) {
	if len(key) > 65535 || len(value) > 65535 {
		return
	}
	if !p.Has(UserProperty) {
		p.User = nil
		p.Set(UserProperty)
	}
	p.User = append(p.User, byte(UserProperty))
	p.User = appendText(p.User, key)
	p.User = appendText(p.User, value)
}

// AppendForwarded appends the properties of a PUBLISH that a server passes on unchanged
// (3.3.2.3: payload format [MQTT-3.3.2-4], content type [MQTT-3.3.2-20], response topic
// [MQTT-3.3.2-15], correlation data [MQTT-3.3.2-16], user properties in order [MQTT-3.3.2-17]),
// without a length before them; nothing when there are none. Not the message expiry, which a
// server has to count down [MQTT-3.3.2-6], nor what belongs to one connection. p may be nil.
func AppendForwarded(b []byte, p *Properties) []byte {
	if p == nil || p.present&inForwarded == 0 {
		return b
	}
	if p.size(inForwarded) < 0 {
		return b
	}
	return p.append(b, inForwarded)
}

// size is how many bytes the properties in mask take without the length before them, -1 when
// one does not fit the format. p may be nil.
func (p *Properties) size(mask uint64) int {
	if p == nil {
		return 0
	}
	n := 0
	for s := p.present & mask; s != 0; s &= s - 1 {
		switch id := Property(bits.TrailingZeros64(s)); id {
		case PayloadFormat, RequestProblem, RequestResponse, MaximumQoS, RetainAvailable, WildcardAvailable,
			SubscriptionIDsAllowed, SharedAvailable:
			n += 2
		case ServerKeepAlive, ReceiveMaximum, TopicAliasMaximum, TopicAlias:
			n += 3
		case MessageExpiry, SessionExpiry, WillDelay, MaximumPacketSize:
			n += 5
		case SubscriptionID:
			if p.SubscriptionID > MaxRemaining {
				return -1
			}
			n += 1 + varintSize(int(p.SubscriptionID))
			for _, v := range p.MoreSubscriptionIDs {
				if v > MaxRemaining {
					return -1
				}
				n += 1 + varintSize(int(v))
			}
		case UserProperty:
			n += len(p.User)
		default:
			v := len(*p.bytes(id))
			if v > 65535 {
				return -1
			}
			n += 3 + v
		}
	}
	return n
}

// append appends the properties in mask, in the order of their identifiers.
func (p *Properties) append(b []byte, mask uint64) []byte {
	if p == nil {
		return b
	}
	for s := p.present & mask; s != 0; s &= s - 1 {
		id := Property(bits.TrailingZeros64(s))
		switch id {
		case PayloadFormat, RequestProblem, RequestResponse, MaximumQoS, RetainAvailable, WildcardAvailable,
			SubscriptionIDsAllowed, SharedAvailable:
			b = append(b, byte(id), *p.octet(id))
		case ServerKeepAlive, ReceiveMaximum, TopicAliasMaximum, TopicAlias:
			b = binary.BigEndian.AppendUint16(append(b, byte(id)), *p.short(id))
		case MessageExpiry, SessionExpiry, WillDelay, MaximumPacketSize:
			b = binary.BigEndian.AppendUint32(append(b, byte(id)), *p.long(id))
		case SubscriptionID:
			b = appendVarint(append(b, byte(id)), int(p.SubscriptionID))
			for _, v := range p.MoreSubscriptionIDs {
				b = appendVarint(append(b, byte(id)), int(v))
			}
		case UserProperty:
			b = append(b, p.User...)
		default:
			b = appendText(append(b, byte(id)), *p.bytes(id))
		}
	}
	return b
}

// appendText appends two bytes of length and s, which callers know to be short enough.
func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}
