package packet

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// refused is a packet that must not be accepted: the statement it breaks, and the reason.
type refused struct {
	name   string
	v      Version
	b      []byte
	reason Reason
}

// connect is a CONNECT with some flags and what comes after the keep alive.
func connect(level, flags int, rest ...any) []byte {
	return pkt(0x10, append([]any{text("MQTT"), level, flags, 0, 10}, rest...)...)
}

const (
	bad   = MalformedPacket
	wrong = ProtocolError
)

func refusedHeaders() []refused {
	rows := []refused{
		{"2.1.2: type 0", V311, raw(0x00, 0), bad},
		{"2.1.2: type 15 in 3.1.1", V311, raw(0xF0, 0), bad},
		{"2.1.4: nothing at all", V5, nil, bad},
		{"2.1.4: one byte", V5, raw(0xC0), bad},
		{"2.1.4: a length of five bytes", V5, raw(0xC0, 0x80, 0x80, 0x80, 0x80, 0x00), bad},
		{"2.1.4: a length without its end", V5, raw(0xC0, 0x80), bad},
		{"2.1.4: less than the length says", V5, raw(0x40, 3, 0, 1), bad},
		{"2.1.4: more than the length says", V311, raw(0xC0, 0, 0), bad},
		{"[MQTT-1.5.5-1]: a length that is too long", V5, raw(0xC0, 0x80, 0x00), bad},
		{"[MQTT-1.5.5-1]: of a CONNECT", 0, raw(0x10, 0x8E, 0x00, text("MQTT"), 5, 2, 0, 10, 0, text("x")), bad},
		{"[MQTT-3.3.1-4]: both QoS bits", V311, pkt(0x36, text("a"), 0, 1), bad},
		{"[MQTT-3.3.1-2]: DUP with QoS 0", V5, pkt(0x38, text("a"), 0), bad},
		{"3.12.1: PINGREQ with a body", V311, raw(0xC0, 1, 0), bad},
		{"3.13.1: PINGRESP with a body", V5, raw(0xD0, 1, 0), bad},
	}
	need := map[Type]byte{PUBREL: 2, SUBSCRIBE: 2, UNSUBSCRIBE: 2}
	for _, g := range goldens() {
		typ := Type(g.want[0] >> 4)
		for flags := range byte(16) {
			if typ == PUBLISH || flags == need[typ] {
				continue
			}
			b := bytes.Clone(g.want)
			b[0] = b[0]&0xF0 | flags
			rows = append(rows, refused{"[MQTT-2.1.3-1]: flags of " + g.name, g.v, b, bad})
		}
	}
	return rows
}

func refusedConnect() []refused {
	return []refused{
		{"[MQTT-3.1.2-1]: another protocol name", 0, pkt(0x10, text("HTTP"), 5, 2, 0, 0, 0, text("x")), wrong},
		{"[MQTT-3.1.2-1]: the name in lower case", 0, pkt(0x10, text("mqtt"), 4, 2, 0, 0, text("x")), wrong},
		{"[MQTT-3.1.2-2]: MQTT 3.1", 0, pkt(0x10, text("MQIsdp"), 3, 2, 0, 0, text("x")), UnsupportedVersion},
		{"[MQTT-3.1.2-2]: the old name with a new level", 0, pkt(0x10, text("MQIsdp"), 4, 2, 0, 0, text("x")), UnsupportedVersion},
		{"[MQTT-3.1.2-2]: level 3", 0, connect(3, 2, text("x")), UnsupportedVersion},
		{"[MQTT-3.1.2-2]: level 6", 0, connect(6, 2, 0, text("x")), UnsupportedVersion},
		{"[MQTT-3.1.2-2]: a bridge's level", 0, connect(0x84, 2, text("x")), UnsupportedVersion},
		{"3.1.2.2: no level", 0, pkt(0x10, text("MQTT")), bad},
		{"[MQTT-3.1.2-3]: the reserved flag, 3.1.1", 0, connect(4, 3, text("x")), bad},
		{"[MQTT-3.1.2-3]: the reserved flag, 5.0", 0, connect(5, 3, 0, text("x")), bad},
		{"[MQTT-3.1.2-12]: will QoS 3 (3.1.1: MQTT-3.1.2-14)", 0, connect(4, 0x1E, text("x"), text("w"), text("")), bad},
		{"[MQTT-3.1.2-12]: will QoS 3, 5.0", 0, connect(5, 0x1E, 0, text("x"), 0, text("w"), text("")), bad},
		{"[MQTT-3.1.2-11]: will QoS without a will (3.1.1: MQTT-3.1.2-13)", 0, connect(4, 0x0A, text("x")), bad},
		{"[MQTT-3.1.2-11]: will QoS without a will, 5.0", 0, connect(5, 0x12, 0, text("x")), bad},
		{"[MQTT-3.1.2-13]: will retain without a will (3.1.1: MQTT-3.1.2-15)", 0, connect(4, 0x22, text("x")), bad},
		{"[MQTT-3.1.2-13]: will retain without a will, 5.0", 0, connect(5, 0x22, 0, text("x")), bad},
		{"[MQTT-3.1.2-22] of 3.1.1: a password without a user name", 0, connect(4, 0x42, text("x"), text("p")), bad},
		{"[MQTT-3.1.2-9]: the will is missing", 0, connect(4, 0x06, text("x")), bad},
		{"[MQTT-3.1.2-9]: the will's payload is missing", 0, connect(4, 0x06, text("x"), text("w")), bad},
		{"[MQTT-3.1.2-16]: a user name without its flag", 0, connect(4, 0x02, text("x"), text("u")), bad},
		{"[MQTT-3.1.2-17]: the user name is missing", 0, connect(4, 0x82, text("x")), bad},
		{"[MQTT-3.1.2-18]: a password without its flag", 0, connect(4, 0x82, text("x"), text("u"), text("p")), bad},
		{"[MQTT-3.1.2-19]: the password is missing", 0, connect(4, 0xC2, text("x"), text("u")), bad},
		{"[MQTT-3.1.3-3]: no client identifier", 0, connect(4, 0x02), bad},
		{"[MQTT-3.1.3-4]: a client identifier that is no UTF-8", 0, connect(4, 0x02, text("\xC3")), bad},
		{"[MQTT-3.1.3-7] of 3.1.1: no identifier and a session to keep", 0, connect(4, 0x00, text("")), ClientIDNotValid},
		{"[MQTT-3.1.3-11]: a will topic that is no UTF-8", 0, connect(5, 0x06, 0, text("x"), 0, text("\xFF"), text("")), bad},
		{"[MQTT-4.7.0-1]: a will topic with a wildcard", 0, connect(5, 0x06, 0, text("x"), 0, text("a/#"), text("")), TopicNameInvalid},
		{"[MQTT-4.7.3-1]: an empty will topic", 0, connect(4, 0x06, text("x"), text(""), text("")), TopicNameInvalid},
		{"[MQTT-3.1.3-12]: a user name that is no UTF-8 (3.1.1: MQTT-3.1.3-11)", 0, connect(4, 0x82, text("x"), text("\xED\xA0\x80")), bad},
		{"[MQTT-3.1.4-1]: bytes after the end", 0, connect(5, 0x02, 0, text("x"), 0), bad},
		{"3.1.2.11.10: authentication data without a method", 0, connect(5, 0x02, props(AuthData, text("d")), text("x")), wrong},
		{"3.1.2.11.3: receive maximum 0", 0, connect(5, 0x02, props(ReceiveMaximum, 0, 0), text("x")), wrong},
		{"3.1.2.11.4: maximum packet size 0", 0, connect(5, 0x02, props(MaximumPacketSize, 0, 0, 0, 0), text("x")), wrong},
		{"3.1.2.11.6: request response information 2", 0, connect(5, 0x02, props(RequestResponse, 2), text("x")), wrong},
		{"3.1.2.11.7: request problem information 2", 0, connect(5, 0x02, props(RequestProblem, 2), text("x")), wrong},
		{"3.1.3.2: the will's properties are missing", 0, connect(5, 0x06, 0, text("x"), text("w"), text("")), bad},
	}
}

func refusedConnack() []refused {
	return []refused{
		{"[MQTT-3.2.2-1]: a reserved flag", V5, raw(0x20, 3, 2, 0, 0), bad},
		{"[MQTT-3.2.2-1]: a reserved flag, 3.1.1", V311, raw(0x20, 2, 0x80, 0), bad},
		{"[MQTT-3.2.2-6]: a session and a refusal", V5, raw(0x20, 3, 1, 0x87, 0), wrong},
		{"[MQTT-3.2.2-4] of 3.1.1: a session and a refusal", V311, raw(0x20, 2, 1, 5), wrong},
		{"3.2.2.3.1: no property length", V5, raw(0x20, 2, 0, 0), bad},
		{"3.1.1: properties", V311, raw(0x20, 3, 0, 0, 0), bad},
		{"3.2.2.3.4: maximum QoS 2", V5, pkt(0x20, 0, 0, props(MaximumQoS, 2)), wrong},
		{"3.2.2.3.5: retain available 2", V5, pkt(0x20, 0, 0, props(RetainAvailable, 2)), wrong},
		{"3.2.2.3.11: wildcards available 2", V5, pkt(0x20, 0, 0, props(WildcardAvailable, 2)), wrong},
		{"3.2.2.3.12: identifiers available 2", V5, pkt(0x20, 0, 0, props(SubscriptionIDsAllowed, 2)), wrong},
		{"3.2.2.3.13: shared available 2", V5, pkt(0x20, 0, 0, props(SharedAvailable, 2)), wrong},
	}
}

func refusedPublish() []refused {
	return []refused{
		{"[MQTT-3.3.2-1]: no topic", V311, pkt(0x30), bad},
		{"[MQTT-3.3.2-1]: a topic longer than the packet", V311, pkt(0x30, 0, 3, "ab"), bad},
		{"[MQTT-4.7.3-1]: an empty topic in 3.1.1", V311, pkt(0x30, text(""), "x"), TopicNameInvalid},
		{"3.3.2.1: an empty topic and no alias", V5, pkt(0x30, text(""), 0, "x"), wrong},
		{"[MQTT-3.3.2-2]: a topic with #", V311, pkt(0x30, text("a/#")), TopicNameInvalid},
		{"[MQTT-3.3.2-2]: a topic with +", V5, pkt(0x30, text("sensors/+/climate"), 0), TopicNameInvalid},
		{"[MQTT-1.5.4-1]: a topic that is no UTF-8", V311, pkt(0x30, text("a\xC0\xAF")), bad},
		{"[MQTT-1.5.4-1]: a surrogate", V5, pkt(0x30, text("a/\xED\xA0\x80"), 0), bad},
		{"[MQTT-1.5.4-2]: U+0000", V311, pkt(0x30, text("a\x00b")), bad},
		{"[MQTT-2.2.1-3]: identifier 0", V311, pkt(0x32, text("a"), 0, 0), wrong},
		{"2.2.1: no identifier", V311, pkt(0x34, text("a"), 1), bad},
		{"[MQTT-3.3.2-8]: topic alias 0", V5, pkt(0x30, text("a"), props(TopicAlias, 0, 0)), TopicAliasInvalid},
		{"3.3.2.3.2: payload format 2", V5, pkt(0x30, text("a"), props(PayloadFormat, 2)), wrong},
		{"[MQTT-3.3.2-13]: a response topic that is no UTF-8", V5, pkt(0x30, text("a"), props(ResponseTopic, text("\xFF"))), bad},
		{"[MQTT-3.3.2-14]: a response topic with a wildcard", V5, pkt(0x30, text("a"), props(ResponseTopic, text("r/+"))), TopicNameInvalid},
		{"[MQTT-4.7.3-1]: an empty response topic", V5, pkt(0x30, text("a"), props(ResponseTopic, text(""))), TopicNameInvalid},
		{"[MQTT-3.3.2-19]: a content type that is no UTF-8", V5, pkt(0x30, text("a"), props(ContentType, text("\xFF"))), bad},
		{"3.3.2.3.8: subscription identifier 0", V5, pkt(0x30, text("a"), props(SubscriptionID, 0)), wrong},
		{"[MQTT-1.5.5-1]: a subscription identifier that is too long", V5, pkt(0x30, text("a"), props(SubscriptionID, 0x81, 0x00)), bad},
		{"1.5.5: a subscription identifier of five bytes", V5, pkt(0x30, text("a"), props(SubscriptionID, 0x80, 0x80, 0x80, 0x80, 1)), bad},
		{"[MQTT-1.5.7-1]: a user property's name that is no UTF-8", V5, pkt(0x30, text("a"), props(UserProperty, text("\xFF"), text(""))), bad},
		{"[MQTT-1.5.7-1]: a user property's value with U+0000", V5, pkt(0x30, text("a"), props(UserProperty, text("k"), text("\x00"))), bad},
		{"2.2.2.1: no property length", V5, pkt(0x30, text("a")), bad},
		{"2.2.2.1: a property length over the end", V5, pkt(0x30, text("a"), 3, TopicAlias, 0), bad},
		{"[MQTT-1.5.5-1]: a property length that is too long", V5, pkt(0x30, text("a"), 0x80, 0x00), bad},
		{"1.5.5: a property length of five bytes", V5, pkt(0x30, text("a"), 0xFF, 0xFF, 0xFF, 0xFF, 1), bad},
		{"2.2.2.2: a value that is longer than the properties", V5, pkt(0x30, text("a"), props(MessageExpiry, 0, 0, 0), 9), bad},
		{"2.2.2.2: a string that is longer than the properties", V5, pkt(0x30, text("a"), props(ContentType, 0, 9, "x"), "12345678"), bad},
		{"2.2.2.2: an identifier of two bytes", V5, pkt(0x30, text("a"), props(0x81, 0x00, 1)), bad},
	}
}

func refusedAcks() []refused {
	var rows []refused
	for _, first := range []int{0x40, 0x50, 0x62, 0x70} {
		name := Type(first >> 4).String()
		rows = append(rows,
			refused{"2.2.1: no identifier: " + name, V311, pkt(first, 1), bad},
			refused{"[MQTT-2.2.1-5]: identifier 0: " + name, V5, pkt(first, 0, 0), wrong},
			refused{"3.1.1: a reason: " + name, V311, pkt(first, 0, 1, 0), bad},
			refused{"5.0: bytes after the properties: " + name, V5, pkt(first, 0, 1, 0, 0, 0), bad},
			refused{"5.0: a property that is cut: " + name, V5, pkt(first, 0, 1, 0, props(ReasonString, 0)), bad},
		)
	}
	return rows
}

func refusedSubscribe() []refused {
	sub := func(v Version, parts ...any) []byte {
		head := []any{0, 1}
		if v == V5 {
			head = []any{0, 1, 0}
		}
		return pkt(0x82, append(head, parts...)...)
	}
	return []refused{
		{"[MQTT-3.8.3-2]: SUBSCRIBE without filters (3.1.1: MQTT-3.8.3-3)", V311, sub(V311), wrong},
		{"[MQTT-3.8.3-2]: SUBSCRIBE without filters, 5.0", V5, sub(V5), wrong},
		{"[MQTT-3.10.3-2]: UNSUBSCRIBE without filters", V311, pkt(0xA2, 0, 1), wrong},
		{"[MQTT-3.10.3-2]: UNSUBSCRIBE without filters, 5.0", V5, pkt(0xA2, 0, 1, 0), wrong},
		{"[MQTT-2.2.1-3]: SUBSCRIBE with identifier 0", V311, pkt(0x82, 0, 0, text("a"), 0), wrong},
		{"[MQTT-2.2.1-3]: UNSUBSCRIBE with identifier 0", V5, pkt(0xA2, 0, 0, 0, text("a")), wrong},
		{"[MQTT-3.8.3-1]: a filter that is no UTF-8", V311, sub(V311, text("\xFF"), 0), bad},
		{"[MQTT-3.10.3-1]: a filter that is no UTF-8", V311, pkt(0xA2, 0, 1, text("a\x00")), bad},
		{"[MQTT-4.7.3-1]: an empty filter", V311, sub(V311, text(""), 0), TopicFilterInvalid},
		{"[MQTT-4.7.1-1]: # in the middle (3.1.1: MQTT-4.7.1-2)", V5, sub(V5, text("a/#/b"), 0), TopicFilterInvalid},
		{"[MQTT-4.7.1-2]: + in a word (3.1.1: MQTT-4.7.1-3)", V5, sub(V5, text("a+/b"), 0), TopicFilterInvalid},
		{"3.8.3: a filter without options", V311, sub(V311, text("a")), bad},
		{"3.8.3.1: QoS 3", V5, sub(V5, text("a"), 3), wrong},
		{"3.8.3.1: QoS 3, 3.1.1", V311, sub(V311, text("a"), 3), wrong},
		{"[MQTT-3-8.3-4] of 3.1.1: a reserved bit", V311, sub(V311, text("a"), 4), bad},
		{"[MQTT-3.8.3-5]: bit 6", V5, sub(V5, text("a"), 0x40), bad},
		{"[MQTT-3.8.3-5]: bit 7", V5, sub(V5, text("a"), 0x80), bad},
		{"3.8.3.1: retain handling 3", V5, sub(V5, text("a"), 0x30), wrong},
		{"[MQTT-3.8.3-4]: no local, shared", V5, sub(V5, text("$share/g/a"), 0x04), wrong},
		{"[MQTT-4.8.2-1]: an empty share name", V5, sub(V5, text("$share//a"), 0), TopicFilterInvalid},
		{"[MQTT-4.8.2-2]: a share name with a wildcard", V5, sub(V5, text("$share/+/a"), 0), TopicFilterInvalid},
		{"[MQTT-4.8.2-2]: no filter after the share name", V5, sub(V5, text("$share/g"), 0), TopicFilterInvalid},
		{"[MQTT-4.8.2-2]: an empty filter after the share name", V5, sub(V5, text("$share/g/"), 0), TopicFilterInvalid},
		{"[MQTT-4.8.2-2]: UNSUBSCRIBE", V5, pkt(0xA2, 0, 1, 0, text("$share/g")), TopicFilterInvalid},
		{"the second filter counts as well", V311, sub(V311, text("a"), 0, text("b"), 3), wrong},
		{"3.8.2.1.2: subscription identifier 0", V5, pkt(0x82, 0, 1, props(SubscriptionID, 0), text("a"), 0), wrong},
		{"3.8.2.1.2: two subscription identifiers", V5, pkt(0x82, 0, 1, props(SubscriptionID, 1, SubscriptionID, 2), text("a"), 0), wrong},
		{"[MQTT-3.9.3-1]: SUBACK without reasons", V311, pkt(0x90, 0, 1), wrong},
		{"[MQTT-3.9.3-1]: SUBACK without reasons, 5.0", V5, pkt(0x90, 0, 1, 0), wrong},
		{"[MQTT-3.11.3-1]: UNSUBACK without reasons", V5, pkt(0xB0, 0, 1, 0), wrong},
		{"3.11.3 of 3.1.1: UNSUBACK with a payload", V311, pkt(0xB0, 0, 1, 0), bad},
		{"[MQTT-2.2.1-6]: SUBACK with identifier 0", V311, pkt(0x90, 0, 0, 0), wrong},
	}
}

func refusedRest() []refused {
	return []refused{
		{"3.1.1: DISCONNECT with a body", V311, raw(0xE0, 1, 0), bad},
		{"5.0: DISCONNECT with bytes after its end", V5, raw(0xE0, 3, 0, 0, 0), bad},
		{"3.15.2.2.2: AUTH without a method", V5, raw(0xF0, 2, 0x18, 0), wrong},
		{"3.15.2.2.1: AUTH without a property length", V5, raw(0xF0, 1, 0x18), bad},
		{"5.0: AUTH with bytes after its end", V5, pkt(0xF0, 0x18, props(AuthMethod, text("m")), 0), bad},
	}
}

func TestRefused(t *testing.T) {
	for _, rows := range [][]refused{
		refusedHeaders(), refusedConnect(), refusedConnack(), refusedPublish(), refusedAcks(), refusedSubscribe(), refusedRest(),
	} {
		for _, r := range rows {
			t.Run(r.name, func(t *testing.T) {
				var p Packet
				err := p.Decode(r.b, r.v)
				e, ok := errors.AsType[*Error](err)
				switch {
				case err == nil:
					t.Fatalf("% x is accepted", r.b)
				case !ok:
					t.Fatalf("the error is a %T", err)
				case e.Reason != r.reason:
					t.Errorf("%v: the reason is %v, want %v", err, e.Reason, r.reason)
				case e.Section == "" || e.Text == "" || strings.Contains(err.Error(), "%!"):
					t.Errorf("the error is incomplete: %+v", e)
				}
				// the row is named after the statement that the error tells, if it tells one
				if strings.HasPrefix(e.Section, "MQTT-") && strings.HasPrefix(r.name, "[MQTT-") &&
					e.Section[:8] != strings.TrimPrefix(r.name, "[")[:8] && !strings.HasPrefix(e.Section, "MQTT-4.7") &&
					!strings.HasPrefix(r.name, "[MQTT-2.1.3") && !strings.HasPrefix(e.Section, "MQTT-1.5") {
					t.Errorf("the error names %s", e.Section)
				}
			})
		}
	}
}

// TestUnsupportedVersion: the level can be read after the error, so that the server can answer.
func TestUnsupportedVersion(t *testing.T) {
	for _, r := range []struct {
		name string
		b    []byte
		want Version
	}{
		{"level 6", connect(6, 2, text("x")), 6},
		{"MQTT 3.1", pkt(0x10, text("MQIsdp"), 3, 2, 0, 0, text("x")), 3},
		{"no MQTT", pkt(0x10, text("HTTP"), 5, 2, 0, 0, text("x")), 0},
		{"a bad 5.0", connect(5, 3, 0, text("x")), V5},
		{"a bad 3.1.1", connect(4, 0, text("")), V311},
		{"a bad length", raw(0x10, 0x8E, 0x00, text("MQTT"), 5, 2, 0, 10, 0, text("x")), V5},
	} {
		p := Packet{Connect: Connect{Version: 77}}
		if err := p.Decode(r.b, V311); err == nil {
			t.Errorf("%s is accepted", r.name)
		}
		if p.Connect.Version != r.want {
			t.Errorf("%s: version %d, want %d", r.name, p.Connect.Version, r.want)
		}
	}
}

// TestAccepted: what looks odd and is right.
func TestAccepted(t *testing.T) {
	for _, r := range []struct {
		name string
		v    Version
		b    []byte
	}{
		{"3.1.1 does not forbid a Remaining Length that is too long", V311, raw(0xC0, 0x80, 0x00)},
		{"nor in a CONNECT", 0, raw(0x10, 0x8D, 0x00, text("MQTT"), 4, 2, 0, 10, text("x"))},
		{"3.4.2.1: a reason with an empty property length", V5, pkt(0x40, 0, 1, 0, 0)},
		{"3.14.2.2.1: a reason with an empty property length", V5, pkt(0xE0, 0, 0)},
		{"3.1.1: $share is a word like others", V311, pkt(0x82, 0, 1, text("$share/g"), 0)},
		{"$share alone is a word like others", V5, pkt(0x82, 0, 1, 0, text("$share"), 4)},
		{"$shared too", V5, pkt(0x82, 0, 1, 0, text("$shared//a"), 4)},
		{"4.7.1.1: slashes alone", V311, pkt(0x30, text("///"))},
		{"5.0: no client identifier, no clean start [MQTT-3.1.3-6]", 0, connect(5, 0, 0, text(""))},
		{"1.5.4: a control character", V311, pkt(0x30, text("a\x01\x7F"))},
		{"1.5.4: a code point beyond the BMP", V311, pkt(0x30, text("\U0001F321"))},
		{"3.3.2.3.8: a subscription identifier, from a server", V5, pkt(0x30, text("a"), props(SubscriptionID, 1))},
		{"3.1.2.11.2: zeros", 0, connect(5, 2, props(SessionExpiry, 0, 0, 0, 0, TopicAliasMaximum, 0, 0), text("x"))},
		{"a topic of 65,535 bytes", V311, pkt(0x30, text(strings.Repeat("t", 65535)))},
	} {
		t.Run(r.name, func(t *testing.T) {
			var p Packet
			if err := p.Decode(r.b, r.v); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestSides: what only one side may send.
func TestSides(t *testing.T) {
	for _, r := range []struct {
		name           string
		v              Version
		b              []byte
		client, server bool
	}{
		{"CONNECT", V5, connect(5, 2, 0, text("x")), true, false},
		{"CONNACK", V5, raw(0x20, 3, 0, 0, 0), false, true},
		{"PUBLISH", V5, pkt(0x30, text("a"), 0), true, true},
		{"[MQTT-3.3.4-6]: PUBLISH with a subscription identifier", V5, pkt(0x30, text("a"), props(SubscriptionID, 1)), false, true},
		{"PUBACK", V311, pkt(0x40, 0, 1), true, true},
		{"PUBREC", V311, pkt(0x50, 0, 1), true, true},
		{"PUBREL", V311, pkt(0x62, 0, 1), true, true},
		{"PUBCOMP", V311, pkt(0x70, 0, 1), true, true},
		{"SUBSCRIBE", V311, pkt(0x82, 0, 1, text("a"), 0), true, false},
		{"SUBACK", V311, pkt(0x90, 0, 1, 0), false, true},
		{"UNSUBSCRIBE", V311, pkt(0xA2, 0, 1, text("a")), true, false},
		{"UNSUBACK", V311, pkt(0xB0, 0, 1), false, true},
		{"PINGREQ", V311, raw(0xC0, 0), true, false},
		{"PINGRESP", V311, raw(0xD0, 0), false, true},
		{"3.14 of 3.1.1: DISCONNECT", V311, raw(0xE0, 0), true, false},
		{"DISCONNECT", V5, raw(0xE0, 0), true, true},
		{"DISCONNECT with will", V5, raw(0xE0, 1, 0x04), true, false},
		{"DISCONNECT, session taken over", V5, raw(0xE0, 1, 0x8E), false, true},
		{"[MQTT-3.14.2-2]: DISCONNECT with a session expiry", V5, pkt(0xE0, 0, props(SessionExpiry, 0, 0, 0, 1)), true, false},
		{"3.14.2.2.5: DISCONNECT with a server reference", V5, pkt(0xE0, 0, props(ServerReference, text("s"))), false, true},
		{"AUTH, success", V5, raw(0xF0, 0), false, true},
		{"AUTH, go on", V5, pkt(0xF0, 0x18, props(AuthMethod, text("m"))), true, true},
		{"AUTH, again", V5, pkt(0xF0, 0x19, props(AuthMethod, text("m"))), true, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			var p Packet
			if err := p.Decode(r.b, r.v); err != nil {
				t.Fatal(err)
			}
			if err := p.FromClient(); (err == nil) != r.client {
				t.Errorf("from a client: %v", err)
			}
			if err := p.FromServer(r.v); (err == nil) != r.server {
				t.Errorf("from a server: %v", err)
			}
		})
	}
}
