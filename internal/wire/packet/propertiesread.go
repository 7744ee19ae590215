package packet

import "encoding/binary"

// Which properties a packet may have, a bit for each identifier (table 2-4 of 5.0, and the
// section of each packet).
const (
	inConnect = 1<<SessionExpiry | 1<<ReceiveMaximum | 1<<MaximumPacketSize | 1<<TopicAliasMaximum |
		1<<RequestResponse | 1<<RequestProblem | 1<<UserProperty | 1<<AuthMethod | 1<<AuthData // 3.1.2.11
	inWill = 1<<WillDelay | 1<<PayloadFormat | 1<<MessageExpiry | 1<<ContentType | 1<<ResponseTopic |
		1<<CorrelationData | 1<<UserProperty // 3.1.3.2
	inConnack = 1<<SessionExpiry | 1<<ReceiveMaximum | 1<<MaximumQoS | 1<<RetainAvailable | 1<<MaximumPacketSize |
		1<<AssignedClientID | 1<<TopicAliasMaximum | 1<<ReasonString | 1<<UserProperty | 1<<WildcardAvailable |
		1<<SubscriptionIDsAllowed | 1<<SharedAvailable | 1<<ServerKeepAlive | 1<<ResponseInformation |
		1<<ServerReference | 1<<AuthMethod | 1<<AuthData // 3.2.2.3
	inPublish = 1<<PayloadFormat | 1<<MessageExpiry | 1<<TopicAlias | 1<<ResponseTopic | 1<<CorrelationData |
		1<<UserProperty | 1<<SubscriptionID | 1<<ContentType // 3.3.2.3
	inAck         = 1<<ReasonString | 1<<UserProperty                                                           // 3.4 to 3.7, 3.9, 3.11
	inSubscribe   = 1<<SubscriptionID | 1<<UserProperty                                                         // 3.8.2.1
	inUnsubscribe = 1 << UserProperty                                                                           // 3.10.2.1
	inDisconnect  = 1<<SessionExpiry | 1<<ReasonString | 1<<UserProperty | 1<<ServerReference                   // 3.14.2.2
	inAuth        = 1<<AuthMethod | 1<<AuthData | 1<<ReasonString | 1<<UserProperty                             // 3.15.2.2
	inForwarded   = 1<<PayloadFormat | 1<<ContentType | 1<<ResponseTopic | 1<<CorrelationData | 1<<UserProperty // 3.3.2.3
)

// reset makes p have none. Members keep what they hold, but those that others add to.
func (p *Properties) reset() {
	if p.present == 0 {
		return
	}
	p.present, p.User, p.MoreSubscriptionIDs = 0, nil, p.MoreSubscriptionIDs[:0]
}

// take reads a property length and the properties from b, and gives what comes after. kind is
// the packet, for errors; allowed is what it may have.
func (p *Properties) take(b []byte, allowed uint64, kind Type) (rest []byte, err error) {
	n, k, minimal := varint(b)
	switch {
	case k == 0:
		return nil, short("the property length")
	case k < 0 || !minimal:
		return nil, malformed("MQTT-1.5.5-1", "the property length is not written with the fewest bytes")
	case n > len(b)-k:
		return nil, malformed("2.2.2.1", "the property length says %d bytes, the packet has %d left", n, len(b)-k)
	case n == 0:
		p.reset()
		return b[k:], nil
	}
	return b[k+n:], p.read(b[k:k+n], allowed, kind)
}

// read reads properties that fill b. A property that the packet may not have is malformed, one
// that is there twice is a protocol error (2.2.2.2); user properties may be there many times,
// and so may the subscription identifiers of a PUBLISH (3.3.2.3.7, 3.3.2.3.8).
func (p *Properties) read(b []byte, allowed uint64, kind Type) error {
	p.reset()
	all, start, end := b, 0, 0 // all[start:end] are the user properties, unless end is -1
	for len(b) > 0 {
		id := Property(b[0])
		if id >= 64 || allowed&(1<<id) == 0 {
			return malformed("2.2.2.2", "a %s may not have the %s", kind, id)
		}
		if p.Has(id) && id != UserProperty && (id != SubscriptionID || kind != PUBLISH) {
			return violation("2.2.2.2", "a %s has the %s twice", kind, id)
		}
		size, err := p.value(id, b[1:])
		if err != nil {
			return err
		}
		size++
		if id == UserProperty {
			switch at := len(all) - len(b); {
			case !p.Has(UserProperty):
				start, end = at, at+size
				p.User = all[start:end:end]
			case at == end:
				end = at + size
				p.User = all[start:end:end]
			default:
				if end >= 0 {
					p.User = append(make([]byte, 0, len(p.User)+len(b)), p.User...)
					end = -1
				}
				p.User = append(p.User, b[:size]...)
			}
		}
		p.Set(id)
		b = b[size:]
	}
	return nil
}

// value reads the value of one property and gives its length. Of a user property it only
// checks the two strings.
func (p *Properties) value(id Property, b []byte) (size int, err error) {
	switch id {
	case PayloadFormat, RequestProblem, RequestResponse, MaximumQoS, RetainAvailable, WildcardAvailable,
		SubscriptionIDsAllowed, SharedAvailable:
		if len(b) < 1 {
			return 0, short(id.String())
		}
		if b[0] > 1 { // 3.1.2.11.6, 3.1.2.11.7, 3.2.2.3.4, 3.2.2.3.5, 3.2.2.3.11 to 13
			return 0, violation(id.section(), "the %s is %d; 0 and 1 are allowed", id, b[0])
		}
		*p.octet(id) = b[0]
		return 1, nil
	case ServerKeepAlive, ReceiveMaximum, TopicAliasMaximum, TopicAlias:
		if len(b) < 2 {
			return 0, short(id.String())
		}
		v := binary.BigEndian.Uint16(b)
		if v == 0 && id == ReceiveMaximum { // 3.1.2.11.3
			return 0, violation(id.section(), "the receive maximum is 0; 1 to 65,535 are allowed")
		}
		if v == 0 && id == TopicAlias {
			return 0, fault(TopicAliasInvalid, id.section(), "the topic alias is 0; 1 to 65,535 are allowed")
		}
		*p.short(id) = v
		return 2, nil
	case MessageExpiry, SessionExpiry, WillDelay, MaximumPacketSize:
		if len(b) < 4 {
			return 0, short(id.String())
		}
		v := binary.BigEndian.Uint32(b)
		if v == 0 && id == MaximumPacketSize { // 3.1.2.11.4
			return 0, violation(id.section(), "the maximum packet size is 0; it must be at least 1")
		}
		*p.long(id) = v
		return 4, nil
	case SubscriptionID:
		return p.subscriptionID(b)
	case CorrelationData, AuthData:
		v, _, ok := cut(b)
		if !ok {
			return 0, short(id.String())
		}
		*p.bytes(id) = v
		return 2 + len(v), nil
	case UserProperty:
		return userPair(b)
	default:
		return p.text(id, b)
	}
}

// text reads a property that is a UTF-8 Encoded String.
func (p *Properties) text(id Property, b []byte) (size int, err error) {
	v, _, ok := cut(b)
	if !ok {
		return 0, short(id.String())
	}
	if id == ResponseTopic { // 3.3.2.3.5, [MQTT-3.3.2-13], [MQTT-3.3.2-14]
		if err := checkTopic(v, "response topic"); err != nil {
			return 0, err
		}
	} else if !ValidText(v) {
		return 0, textError(id.String())
	}
	*p.bytes(id) = v
	return 2 + len(v), nil
}

func (p *Properties) subscriptionID(b []byte) (size int, err error) {
	v, k, minimal := varint(b)
	switch {
	case k == 0:
		return 0, short("the subscription identifier")
	case k < 0 || !minimal:
		return 0, malformed("MQTT-1.5.5-1", "the subscription identifier is not written with the fewest bytes")
	case v == 0: // 3.8.2.1.2
		return 0, violation("3.8.2.1.2", "the subscription identifier is 0; 1 to 268,435,455 are allowed")
	case p.Has(SubscriptionID):
		p.MoreSubscriptionIDs = append(p.MoreSubscriptionIDs, uint32(v))
	default:
		p.SubscriptionID = uint32(v)
	}
	return k, nil
}

// userPair checks a UTF-8 String Pair (1.5.7, [MQTT-1.5.7-1]).
func userPair(b []byte) (size int, err error) {
	key, rest, ok := cut(b)
	if !ok {
		return 0, short("the name of a user property")
	}
	value, _, ok := cut(rest)
	if !ok {
		return 0, short("the value of a user property")
	}
	if !ValidText(key) || !ValidText(value) {
		return 0, malformed("MQTT-1.5.7-1", "a user property is not well-formed UTF-8 without U+0000")
	}
	return 4 + len(key) + len(value), nil
}

// cut takes two bytes of length and so many bytes from the front of b (1.5.4, 1.5.6).
func cut(b []byte) (value, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := 2 + (int(b[0])<<8 | int(b[1]))
	if len(b) < n {
		return nil, nil, false
	}
	return b[2:n], b[n:], true
}

// EachUser calls f with the name and the value of each user property in order [MQTT-3.3.2-18]
// until f returns false.
func (p *Properties) EachUser(f func(key, value []byte) bool) {
	if !p.Has(UserProperty) {
		return
	}
	for b := p.User; len(b) > 0; {
		key, rest, ok := cut(b[1:])
		if !ok {
			return
		}
		value, rest, ok := cut(rest)
		if !ok || !f(key, value) {
			return
		}
		b = rest
	}
}

// DecodeForwarded reads what [AppendForwarded] wrote. What p says are slices of b.
func (p *Properties) DecodeForwarded(b []byte) error { return p.read(b, inForwarded, PUBLISH) }

// octet, short, long and bytes give the member of a property.
func (p *Properties) octet(id Property) *uint8 {
	switch id {
	case PayloadFormat:
		return &p.PayloadFormat
	case RequestProblem:
		return &p.RequestProblem
	case RequestResponse:
		return &p.RequestResponse
	case MaximumQoS:
		return &p.MaximumQoS
	case RetainAvailable:
		return &p.RetainAvailable
	case WildcardAvailable:
		return &p.WildcardAvailable
	case SubscriptionIDsAllowed:
		return &p.SubscriptionIDsOK
	default:
		return &p.SharedAvailable
	}
}

func (p *Properties) short(id Property) *uint16 {
	switch id {
	case ServerKeepAlive:
		return &p.ServerKeepAlive
	case ReceiveMaximum:
		return &p.ReceiveMaximum
	case TopicAliasMaximum:
		return &p.TopicAliasMaximum
	default:
		return &p.TopicAlias
	}
}

func (p *Properties) long(id Property) *uint32 {
	switch id {
	case MessageExpiry:
		return &p.MessageExpiry
	case SessionExpiry:
		return &p.SessionExpiry
	case WillDelay:
		return &p.WillDelay
	default:
		return &p.MaximumPacketSize
	}
}

func (p *Properties) bytes(id Property) *[]byte {
	switch id {
	case ContentType:
		return &p.ContentType
	case ResponseTopic:
		return &p.ResponseTopic
	case CorrelationData:
		return &p.CorrelationData
	case AssignedClientID:
		return &p.AssignedClientID
	case AuthMethod:
		return &p.AuthMethod
	case AuthData:
		return &p.AuthData
	case ResponseInformation:
		return &p.ResponseInformation
	case ServerReference:
		return &p.ServerReference
	default:
		return &p.ReasonString
	}
}
