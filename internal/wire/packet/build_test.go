package packet

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// raw joins bytes: a number is one byte, a string stands as it is, a slice too.
func raw(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = append(b, byte(p))
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		case Property:
			b = append(b, byte(p))
		case Reason:
			b = append(b, byte(p))
		}
	}
	return b
}

// text is a string with two bytes of length before it.
func text(s string) []byte { return raw(len(s)>>8, len(s), s) }

// props is a property length with what follows.
func props(parts ...any) []byte {
	b := raw(parts...)
	return append(appendVarint(nil, len(b)), b...)
}

// pkt is a packet with its first byte and the right Remaining Length.
func pkt(first int, parts ...any) []byte {
	b := raw(parts...)
	return append(appendVarint([]byte{byte(first)}, len(b)), b...)
}

// encode writes a decoded packet with the function for its type.
func encode(p *Packet, v Version) []byte {
	switch p.Type {
	case CONNECT:
		return AppendConnect(nil, &p.Connect, &p.Properties)
	case CONNACK:
		return AppendConnack(nil, v, p.SessionPresent, p.Reason, &p.Properties)
	case PUBLISH:
		return AppendPublish(nil, v, p)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return AppendAck(nil, v, p.Type, p.ID, p.Reason, &p.Properties)
	case SUBSCRIBE:
		return AppendSubscribe(nil, v, p.ID, p.Filters, &p.Properties)
	case SUBACK:
		return AppendSuback(nil, v, p.ID, p.Reasons, &p.Properties)
	case UNSUBSCRIBE:
		return AppendUnsubscribe(nil, v, p.ID, p.Filters, &p.Properties)
	case UNSUBACK:
		return AppendUnsuback(nil, v, p.ID, p.Reasons, &p.Properties)
	case PINGREQ, PINGRESP:
		return AppendPing(nil, p.Type)
	case DISCONNECT:
		return AppendDisconnect(nil, v, p.Reason, &p.Properties)
	default:
		return AppendAuth(nil, p.Reason, &p.Properties)
	}
}

// plain is what a packet says, without what its Type does not use, comparable with DeepEqual.
func plain(p *Packet) Packet {
	q := Packet{Type: p.Type}
	switch p.Type {
	case CONNECT:
		q.Connect = p.Connect
		q.Connect.WillProperties = plainProperties(&p.Connect.WillProperties)
	case CONNACK:
		q.SessionPresent, q.Reason = p.SessionPresent, p.Reason
	case PUBLISH:
		q.Dup, q.QoS, q.Retain, q.ID, q.Topic, q.Payload = p.Dup, p.QoS, p.Retain, p.ID, p.Topic, p.Payload
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		q.ID, q.Reason = p.ID, p.Reason
	case SUBSCRIBE, UNSUBSCRIBE:
		q.ID, q.Filters = p.ID, p.Filters
	case SUBACK, UNSUBACK:
		q.ID, q.Reasons = p.ID, p.Reasons
	case DISCONNECT, AUTH:
		q.Reason = p.Reason
	default:
		return q
	}
	q.Properties = plainProperties(&p.Properties)
	return q
}

func plainProperties(p *Properties) Properties {
	q := Properties{present: p.present}
	for id := Property(1); id <= SharedAvailable; id++ {
		if !p.Has(id) {
			continue
		}
		switch id {
		case PayloadFormat, RequestProblem, RequestResponse, MaximumQoS, RetainAvailable, WildcardAvailable, SubscriptionIDsAllowed, SharedAvailable:
			*q.octet(id) = *p.octet(id)
		case ServerKeepAlive, ReceiveMaximum, TopicAliasMaximum, TopicAlias:
			*q.short(id) = *p.short(id)
		case MessageExpiry, SessionExpiry, WillDelay, MaximumPacketSize:
			*q.long(id) = *p.long(id)
		case SubscriptionID:
			q.SubscriptionID, q.MoreSubscriptionIDs = p.SubscriptionID, append(q.MoreSubscriptionIDs, p.MoreSubscriptionIDs...)
		case UserProperty:
			p.EachUser(func(key, value []byte) bool { q.AddUser(string(key), string(value)); return true })
			if !bytes.Equal(p.User, q.User) {
				q.User = nil // EachUser gave something else than there is
			}
		default:
			*q.bytes(id) = *p.bytes(id)
		}
	}
	return q
}

// checkSame encodes a decoded packet, decodes that, and wants the same again.
func checkSame(t *testing.T, p *Packet, v Version) {
	t.Helper()
	b := encode(p, v)
	var q Packet
	if err := q.Decode(b, v); err != nil {
		t.Fatalf("what a decoded %s encodes to does not decode: %v\n% x", p.Type, err, b)
	}
	if was, is := plain(p), plain(&q); !reflect.DeepEqual(was, is) {
		t.Fatalf("decoded, encoded and decoded, a %s differs:\n%+v\n%+v", p.Type, was, is)
	}
	if p.Type == PUBLISH && PublishSize(v, p) != len(b) {
		t.Fatalf("PublishSize is %d, the packet has %d bytes", PublishSize(v, p), len(b))
	}
	if size, ok, err := Size(b); size != len(b) || !ok || err != nil {
		t.Fatalf("Size is %d %v %v, the packet has %d bytes", size, ok, err, len(b))
	}
}

// with makes properties: f sets members and marks them.
func with(f func(p *Properties)) *Properties {
	p := &Properties{}
	f(p)
	return p
}

// users are user properties, names and values in turn.
func users(pairs ...string) *Properties {
	p := &Properties{}
	for i := 0; i < len(pairs); i += 2 {
		p.AddUser(pairs[i], pairs[i+1])
	}
	return p
}

// golden are packets of both versions with the bytes that they must have, and what encodes them.
type golden struct {
	name string
	v    Version
	want []byte
	made []byte
}

func goldens() []golden {
	var all []golden
	for _, g := range [][]golden{goldenConnect(), goldenConnack(), goldenPublish(), goldenAcks(), goldenSubscribe(), goldenRest()} {
		all = append(all, g...)
	}
	return all
}

func goldenConnect() []golden {
	will := Connect{
		Version: V5, KeepAlive: 0x1234, ClientID: []byte("id"), HasUser: true, User: []byte("u"), HasPassword: true,
		Password: []byte{0, 0xFF}, HasWill: true, WillRetain: true, WillQoS: 2, WillTopic: []byte("w/t"), WillPayload: []byte{0, 1},
		WillProperties: *with(func(p *Properties) {
			p.PayloadFormat, p.MessageExpiry, p.WillDelay = 1, 7, 5
			p.ContentType, p.ResponseTopic, p.CorrelationData = []byte("ct"), []byte("re"), []byte{9}
			for _, id := range []Property{PayloadFormat, MessageExpiry, WillDelay, ContentType, ResponseTopic, CorrelationData} {
				p.Set(id)
			}
			p.AddUser("k", "v")
		}),
	}
	old := will
	old.Version = V311
	all := with(func(p *Properties) {
		p.SessionExpiry, p.ReceiveMaximum, p.MaximumPacketSize, p.TopicAliasMaximum = 0xFFFFFFFF, 20, 1000, 3
		p.RequestResponse, p.RequestProblem, p.AuthMethod, p.AuthData = 1, 0, []byte("SCRAM"), []byte{0xFE}
		for _, id := range []Property{
			SessionExpiry, ReceiveMaximum, MaximumPacketSize, TopicAliasMaximum, RequestResponse, RequestProblem, AuthMethod, AuthData,
		} {
			p.Set(id)
		}
		p.AddUser("a", "")
		p.AddUser("a", "b")
	})
	return []golden{
		{"3.1.1: the shortest: [MQTT-3.1.2-1], [MQTT-3.1.3-3]", V311, pkt(0x10, text("MQTT"), 4, 0x02, 0, 60, text("")), AppendConnect(nil, &Connect{Version: V311, Clean: true, KeepAlive: 60}, nil)},
		{"5.0: the shortest", V5, pkt(0x10, text("MQTT"), 5, 0x00, 0, 0, 0, text("x")), AppendConnect(nil, &Connect{Version: V5, ClientID: []byte("x")}, nil)},
		{
			"3.1.1: all there is, in this order: [MQTT-3.1.3-1]", V311,
			pkt(0x10, text("MQTT"), 4, 0xF4, 0x12, 0x34, text("id"), text("w/t"), text("\x00\x01"), text("u"), text("\x00\xFF")),
			AppendConnect(nil, &old, all), // properties are left out
		},
		{
			"5.0: all there is", V5,
			pkt(0x10, text("MQTT"), 5, 0xF4, 0x12, 0x34,
				props(SessionExpiry, "\xFF\xFF\xFF\xFF", AuthMethod, text("SCRAM"), AuthData, text("\xFE"), RequestProblem, 0,
					RequestResponse, 1, ReceiveMaximum, 0, 20, TopicAliasMaximum, 0, 3, UserProperty, text("a"), text(""),
					UserProperty, text("a"), text("b"), MaximumPacketSize, 0, 0, 0x03, 0xE8),
				text("id"),
				props(PayloadFormat, 1, MessageExpiry, 0, 0, 0, 7, ContentType, text("ct"), ResponseTopic, text("re"),
					CorrelationData, text("\x09"), WillDelay, 0, 0, 0, 5, UserProperty, text("k"), text("v")),
				text("w/t"), text("\x00\x01"), text("u"), text("\x00\xFF")),
			AppendConnect(nil, &will, all),
		},
		{
			"5.0: a password without a user name (3.1.2.9)", V5, pkt(0x10, text("MQTT"), 5, 0x42, 0, 0, 0, text("x"), text("pw")),
			AppendConnect(nil, &Connect{Version: V5, Clean: true, ClientID: []byte("x"), HasPassword: true, Password: []byte("pw")}, nil),
		},
		{
			"user name and password there and empty: [MQTT-3.1.2-17], [MQTT-3.1.2-19]", V311, pkt(0x10, text("MQTT"), 4, 0xC2, 0, 0, text("x"), text(""), text("")),
			AppendConnect(nil, &Connect{Version: V311, Clean: true, ClientID: []byte("x"), HasUser: true, HasPassword: true}, nil),
		},
		{
			"an empty will: [MQTT-3.1.2-9]", V311, pkt(0x10, text("MQTT"), 4, 0x06, 0, 0, text("x"), text("w"), text("")),
			AppendConnect(nil, &Connect{Version: V311, Clean: true, ClientID: []byte("x"), HasWill: true, WillTopic: []byte("w")}, nil),
		},
	}
}

func goldenConnack() []golden {
	all := with(func(p *Properties) {
		p.SessionExpiry, p.ReceiveMaximum, p.MaximumQoS, p.RetainAvailable, p.MaximumPacketSize = 1, 2, 1, 1, 3
		p.AssignedClientID, p.TopicAliasMaximum, p.ReasonString = []byte("id"), 4, []byte("why")
		p.WildcardAvailable, p.SubscriptionIDsOK, p.SharedAvailable, p.ServerKeepAlive = 1, 1, 0, 30
		p.ResponseInformation, p.ServerReference, p.AuthMethod, p.AuthData = []byte("ri"), []byte("sr"), []byte("m"), []byte("d")
		for _, id := range []Property{
			SessionExpiry, ReceiveMaximum, MaximumQoS, RetainAvailable, MaximumPacketSize, AssignedClientID, TopicAliasMaximum, ReasonString,
			WildcardAvailable, SubscriptionIDsAllowed, SharedAvailable, ServerKeepAlive, ResponseInformation, ServerReference, AuthMethod, AuthData,
		} {
			p.Set(id)
		}
		p.AddUser("k", "v")
	})
	return []golden{
		{"3.1.1: accepted", V311, raw(0x20, 2, 0, 0), AppendConnack(nil, V311, false, Success, all)},
		{"3.1.1: accepted, with a session: [MQTT-3.2.2-2]", V311, raw(0x20, 2, 1, 0), AppendConnack(nil, V311, true, Success, nil)},
		{"3.1.1: refused, level not served: [MQTT-3.1.2-2]", V311, raw(0x20, 2, 0, 1), AppendConnack(nil, V311, false, RefusedVersion, nil)},
		{"5.0: accepted", V5, raw(0x20, 3, 1, 0, 0), AppendConnack(nil, V5, true, Success, nil)},
		{"5.0: refused, level not served: [MQTT-3.1.2-2]", V5, raw(0x20, 3, 0, 0x84, 0), AppendConnack(nil, V5, false, UnsupportedVersion, nil)},
		{
			"5.0: all properties", V5,
			pkt(0x20, 0, 0, props(SessionExpiry, 0, 0, 0, 1, AssignedClientID, text("id"), ServerKeepAlive, 0, 30, AuthMethod, text("m"),
				AuthData, text("d"), ResponseInformation, text("ri"), ServerReference, text("sr"), ReasonString, text("why"),
				ReceiveMaximum, 0, 2, TopicAliasMaximum, 0, 4, MaximumQoS, 1, RetainAvailable, 1, UserProperty, text("k"), text("v"),
				MaximumPacketSize, 0, 0, 0, 3, WildcardAvailable, 1, SubscriptionIDsAllowed, 1, SharedAvailable, 0)),
			AppendConnack(nil, V5, false, Success, all),
		},
	}
}

func goldenPublish() []golden {
	all := Packet{Topic: []byte("a/b"), QoS: 1, ID: 0x0102, Payload: []byte("x"), Properties: *with(func(p *Properties) {
		p.PayloadFormat, p.MessageExpiry, p.TopicAlias, p.SubscriptionID = 1, 256, 258, 127
		p.MoreSubscriptionIDs = []uint32{128, MaxRemaining}
		p.ResponseTopic, p.CorrelationData, p.ContentType = []byte("r"), []byte{}, []byte("text/plain")
		for _, id := range []Property{PayloadFormat, MessageExpiry, TopicAlias, SubscriptionID, ResponseTopic, CorrelationData, ContentType} {
			p.Set(id)
		}
		p.AddUser("k", "1")
		p.AddUser("k", "2")
	})}
	alias := Packet{Payload: []byte("x"), Properties: *with(func(p *Properties) { p.TopicAlias = 1; p.Set(TopicAlias) })}
	long := Packet{Topic: []byte("t"), Payload: bytes.Repeat([]byte("x"), 125)}
	return []golden{
		{"3.1.1: QoS 0 has no identifier: [MQTT-2.2.1-2], [MQTT-3.3.2-1]", V311, pkt(0x30, text("a/b"), "hi"), AppendPublish(nil, V311, &Packet{Topic: []byte("a/b"), ID: 9, Payload: []byte("hi")})},
		{"3.1.1: QoS 1, again: [MQTT-3.3.1-1]", V311, pkt(0x3A, text("a/b"), 0, 9, "hi"), AppendPublish(nil, V311, &Packet{Topic: []byte("a/b"), QoS: 1, Dup: true, ID: 9, Payload: []byte("hi")})},
		{"3.1.1: QoS 2, retained, no payload", V311, pkt(0x35, text("a/b"), 0xFF, 0xFF), AppendPublish(nil, V311, &Packet{Topic: []byte("a/b"), QoS: 2, Retain: true, ID: 65535})},
		{"5.0: QoS 0", V5, pkt(0x30, text("a/b"), 0, "hi"), AppendPublish(nil, V5, &Packet{Topic: []byte("a/b"), Payload: []byte("hi")})},
		{"5.0: QoS 2", V5, pkt(0x34, text("a/b"), 0, 1, 0, "hi"), AppendPublish(nil, V5, &Packet{Topic: []byte("a/b"), QoS: 2, ID: 1, Payload: []byte("hi")})},
		{"5.0: an alias instead of a topic (3.3.2.3.4)", V5, pkt(0x30, text(""), props(TopicAlias, 0, 1), "x"), AppendPublish(nil, V5, &alias)},
		{
			"5.0: all properties, user properties in order: [MQTT-3.3.2-18]", V5,
			pkt(0x32, text("a/b"), 1, 2, props(PayloadFormat, 1, MessageExpiry, 0, 0, 1, 0, ContentType, text("text/plain"), ResponseTopic, text("r"),
				CorrelationData, text(""), SubscriptionID, 0x7F, SubscriptionID, 0x80, 0x01, SubscriptionID, 0xFF, 0xFF, 0xFF, 0x7F,
				TopicAlias, 1, 2, UserProperty, text("k"), text("1"), UserProperty, text("k"), text("2")), "x"),
			AppendPublish(nil, V5, &all),
		},
		{"a Remaining Length of 128 has two bytes (1.5.5)", V311, raw(0x30, 0x80, 0x01, text("t"), bytes.Repeat([]byte("x"), 125)), AppendPublish(nil, V311, &long)},
		{"U+FEFF is a character like others: [MQTT-1.5.4-3]", V311, pkt(0x30, text("\uFEFFa")), AppendPublish(nil, V311, &Packet{Topic: []byte("\uFEFFa")})},
	}
}

func goldenAcks() []golden {
	var all []golden
	for _, t := range []struct {
		t     Type
		first int
	}{{PUBACK, 0x40}, {PUBREC, 0x50}, {PUBREL, 0x62}, {PUBCOMP, 0x70}} {
		bad := PacketIDNotFound
		if t.t == PUBACK || t.t == PUBREC {
			bad = QuotaExceeded
		}
		why := with(func(p *Properties) { p.ReasonString = []byte("why"); p.Set(ReasonString); p.AddUser("k", "v") })
		all = append(
			all,
			golden{"3.1.1: " + t.t.String(), V311, raw(t.first, 2, 1, 2), AppendAck(nil, V311, t.t, 0x0102, bad, why)},
			golden{"5.0: success is left out: " + t.t.String(), V5, raw(t.first, 2, 1, 2), AppendAck(nil, V5, t.t, 0x0102, Success, nil)},
			golden{"5.0: no properties are left out: " + t.t.String(), V5, raw(t.first, 3, 1, 2, bad), AppendAck(nil, V5, t.t, 0x0102, bad, &Properties{})},
			golden{
				"5.0: properties: " + t.t.String(), V5, pkt(t.first, 1, 2, bad, props(ReasonString, text("why"), UserProperty, text("k"), text("v"))),
				AppendAck(nil, V5, t.t, 0x0102, bad, why),
			},
			golden{
				"5.0: success with properties: " + t.t.String(), V5, pkt(t.first, 1, 2, 0, props(UserProperty, text("k"), text("v"))),
				AppendAck(nil, V5, t.t, 0x0102, Success, users("k", "v")),
			},
		)
	}
	return all
}

func goldenSubscribe() []golden {
	filters := []Filter{
		{Text: []byte("a/+/#"), QoS: 1, NoLocal: true, RetainAsPublished: true, Handling: RetainNever},
		{Text: []byte("$share/g/#"), QoS: 2, Handling: RetainSendIfNew},
	}
	id := with(func(p *Properties) { p.SubscriptionID = 200; p.Set(SubscriptionID); p.AddUser("k", "v") })
	why := with(func(p *Properties) { p.ReasonString = []byte("why"); p.Set(ReasonString) })
	return []golden{
		{"3.1.1: SUBSCRIBE has QoS alone", V311, pkt(0x82, 0, 1, text("a/+/#"), 1, text("$share/g/#"), 2), AppendSubscribe(nil, V311, 1, filters, id)},
		{"5.0: SUBSCRIBE", V5, pkt(0x82, 0, 1, 0, text("a/+/#"), 0x2D, text("$share/g/#"), 0x12), AppendSubscribe(nil, V5, 1, filters, nil)},
		{"5.0: SUBSCRIBE with properties", V5, pkt(0x82, 0, 1, props(SubscriptionID, 0xC8, 0x01, UserProperty, text("k"), text("v")), text("a/+/#"), 0x2D), AppendSubscribe(nil, V5, 1, filters[:1], id)},
		{"3.1.1: UNSUBSCRIBE", V311, pkt(0xA2, 0, 1, text("a/+/#"), text("$share/g/#")), AppendUnsubscribe(nil, V311, 1, filters, nil)},
		{"5.0: UNSUBSCRIBE", V5, pkt(0xA2, 0, 1, props(UserProperty, text("k"), text("v")), text("a/+/#")), AppendUnsubscribe(nil, V5, 1, filters[:1], users("k", "v"))},
		{"3.1.1: SUBACK knows one failure", V311, pkt(0x90, 0, 1, 0, 1, 2, 0x80), AppendSuback(nil, V311, 1, []byte{0, 1, 2, 0x97}, nil)},
		{"5.0: SUBACK", V5, pkt(0x90, 0, 1, props(ReasonString, text("why")), 0, 1, 2, 0x97), AppendSuback(nil, V5, 1, []byte{0, 1, 2, 0x97}, why)},
		{"3.1.1: UNSUBACK has no payload (3.11.3)", V311, pkt(0xB0, 0, 1), AppendUnsuback(nil, V311, 1, []byte{0, 0x11}, nil)},
		{"5.0: UNSUBACK", V5, pkt(0xB0, 0, 1, 0, 0, 0x11), AppendUnsuback(nil, V5, 1, []byte{0, 0x11}, nil)},
	}
}

func goldenRest() []golden {
	client := with(func(p *Properties) { p.SessionExpiry = 9; p.Set(SessionExpiry) })
	gone := with(func(p *Properties) {
		p.ReasonString, p.ServerReference = []byte("r"), []byte("s")
		p.Set(ReasonString)
		p.Set(ServerReference)
	})
	auth := with(func(p *Properties) {
		p.AuthMethod, p.AuthData = []byte("m"), []byte{1, 2}
		p.Set(AuthMethod)
		p.Set(AuthData)
	})
	return []golden{
		{"PINGREQ (3.12)", V311, raw(0xC0, 0), AppendPing(nil, PINGREQ)},
		{"PINGRESP (3.13)", V5, raw(0xD0, 0), AppendPing(nil, PINGRESP)},
		{"3.1.1: DISCONNECT", V311, raw(0xE0, 0), AppendDisconnect(nil, V311, ServerBusy, gone)},
		{"5.0: DISCONNECT, normal, is empty (3.14.2.1)", V5, raw(0xE0, 0), AppendDisconnect(nil, V5, Success, nil)},
		{"5.0: DISCONNECT with a reason (3.14.2.2.1)", V5, raw(0xE0, 1, 0x04), AppendDisconnect(nil, V5, DisconnectWithWill, nil)},
		{
			"5.0: DISCONNECT of a server", V5, pkt(0xE0, 0x9D, props(ServerReference, text("s"), ReasonString, text("r"))),
			AppendDisconnect(nil, V5, ServerMoved, gone),
		},
		{"5.0: DISCONNECT of a client", V5, pkt(0xE0, 0, props(SessionExpiry, 0, 0, 0, 9)), AppendDisconnect(nil, V5, Success, client)},
		{"5.0: AUTH, success, is empty (3.15.2.1)", V5, raw(0xF0, 0), AppendAuth(nil, Success, nil)},
		{"5.0: AUTH", V5, pkt(0xF0, 0x18, props(AuthMethod, text("m"), AuthData, text("\x01\x02"))), AppendAuth(nil, ContinueAuthentication, auth)},
	}
}

func TestGolden(t *testing.T) {
	for _, g := range goldens() {
		t.Run(g.name, func(t *testing.T) {
			if !bytes.Equal(g.made, g.want) {
				t.Fatalf("encoded\n% x, want\n% x", g.made, g.want)
			}
			total, ok, err := Size(g.want)
			if total != len(g.want) || !ok || err != nil {
				t.Fatalf("Size: %d %v %v, want %d", total, ok, err, len(g.want))
			}
			var p Packet
			if err := p.Decode(g.want, g.v); err != nil {
				t.Fatalf("Decode: %v", err)
			}
			if again := encode(&p, g.v); !bytes.Equal(again, g.want) {
				t.Fatalf("decoded and encoded\n% x, want\n% x", again, g.want)
			}
			if p.Type == PUBLISH && PublishSize(g.v, &p) != len(g.want) {
				t.Fatalf("PublishSize: %d, want %d", PublishSize(g.v, &p), len(g.want))
			}
		})
	}
}

// TestReuse decodes every packet into one Packet after every other one: nothing of the earlier
// packet may shine through.
func TestReuse(t *testing.T) {
	all := goldens()
	var p Packet
	for _, a := range all {
		for _, b := range all {
			if err := p.Decode(a.want, a.v); err != nil {
				t.Fatalf("%s: %v", a.name, err)
			}
			if err := p.Decode(b.want, b.v); err != nil {
				t.Fatalf("%s after %s: %v", b.name, a.name, err)
			}
			if again := encode(&p, b.v); !bytes.Equal(again, b.want) {
				t.Fatalf("%s after %s:\n% x, want\n% x", b.name, a.name, again, b.want)
			}
		}
	}
}

// TestCut cuts every packet short everywhere, with a Remaining Length that fits: either it is
// refused or it is a packet that encodes to itself. And a byte more than there should be is
// refused, but for the packets that end with a list or a payload.
func TestCut(t *testing.T) {
	for _, g := range goldens() {
		_, k, _ := varint(g.want[1:])
		body := g.want[1+k:]
		var p Packet
		for n := range body {
			b := pkt(int(g.want[0]), body[:n])
			if err := p.Decode(b, g.v); err != nil {
				if e, ok := errors.AsType[*Error](err); !ok || e.Text == "" || e.Section == "" || e.Reason < 0x80 {
					t.Errorf("%s cut to %d bytes: the error %#v", g.name, n, err)
				}
				continue
			}
			checkSame(t, &p, g.v)
		}
		err := p.Decode(pkt(int(g.want[0]), body, 0xFF), g.v)
		if p.Type != PUBLISH && err == nil {
			t.Errorf("%s with a byte more is accepted", g.name)
		}
		for n := range g.want { // the length says more than there is
			if err := p.Decode(g.want[:n], g.v); err == nil {
				t.Errorf("the first %d bytes of %s are accepted", n, g.name)
			}
		}
	}
}
