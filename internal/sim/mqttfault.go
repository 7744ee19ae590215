package sim

import (
	"strings"

	"signalbox"
)

// malformationsOf are the wrong things to send in a protocol.
func malformationsOf(p signalbox.Protocol) []Malformation {
	if p == signalbox.ProtocolMQTT {
		return MQTTMalformations()
	}
	return Malformations()
}

// MQTTMalformations lists wrong packets for a connection that has had its CONNACK, the same each time. Section numbers
// are those of both standards unless said.
func MQTTMalformations() []Malformation {
	publish := func(head byte, topic, rest string) []byte {
		b := appendRemaining([]byte{head}, 2+len(topic)+len(rest))
		b = append(b, byte(len(topic)>>8), byte(len(topic)))
		return append(append(b, topic...), rest...)
	}
	return []Malformation{
		{Name: "reserved packet type (2.1.2)", Raw: []byte{0x00, 0x00}},
		{Name: "flags of SUBSCRIBE (2.1.3)", Raw: []byte{0x80, 0x06, 0, 1, 0, 1, 'a', 0}},
		{Name: "remaining length of five bytes (2.1.4)", Raw: []byte{0x30, 0xff, 0xff, 0xff, 0xff, 0x01}},
		{Name: "huge declared length", Raw: []byte{0x30, 0xff, 0xff, 0xff, 0x7f}},
		{Name: "second CONNECT (3.1.0)", Raw: []byte{0x10, 0x0d, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 15, 0, 1, 'x'}},
		{Name: "quality of service 3 (3.3.1.2)", Raw: publish(0x36, "a", "\x00\x01x")},
		{Name: "topic longer than the packet (3.3.2.1)", Raw: []byte{0x30, 0x03, 0x00, 0x40, 'a'}},
		{Name: "wildcard in a topic (3.3.2.1)", Raw: publish(0x30, "signalbox/#", "x")},
		{Name: "NUL in a topic (1.5.4)", Raw: publish(0x30, "a\x00b", "x")},
		{Name: "invalid UTF-8 in a topic (1.5.4)", Raw: publish(0x30, "a\xff\xfe", "x")},
		{Name: "empty topic (4.7.3)", Raw: publish(0x30, "", "x")},
		{Name: "packet identifier 0 (2.2.1)", Raw: publish(0x32, "a", "\x00\x00x")},
		{Name: "SUBSCRIBE without a filter (3.8.3)", Raw: []byte{0x82, 0x02, 0, 1}},
		{Name: "empty SUBSCRIBE", Raw: []byte{0x82, 0x00}},
		{Name: "wildcard amid a level (4.7.1)", Raw: []byte{0x82, 0x08, 0, 1, 0, 3, 'a', '#', 'b', 0}},
		{Name: "packet that only a server sends (3.9)", Raw: []byte{0x90, 0x03, 0, 1, 0}},
		{Name: "over-long packet", Raw: publish(0x30, "a", strings.Repeat("y", 2<<20))},
		{Name: "topic of another device", Raw: publish(0x30, "signalbox/somebody-else/telemetry", `{"x":1}`), Tolerated: true},
		{Name: "topic of the server ($)", Raw: publish(0x30, "$SYS/broker/uptime", "1"), Tolerated: true},
		{Name: "very deep topic", Raw: publish(0x30, strings.Repeat("/", 60_000), "x"), Tolerated: true},
		{Name: "PUBREL of nothing (4.3.3)", Raw: []byte{0x62, 0x02, 0, 9}, Tolerated: true},
	}
}

// appendRemaining appends a Remaining Length (2.1.4 of 5.0, 2.2.3 of 3.1.1).
func appendRemaining(b []byte, n int) []byte {
	for ; n > 127; n >>= 7 {
		b = append(b, byte(n&127)|128)
	}
	return append(b, byte(n))
}
