package conformance_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"signalbox/internal/wire/packet"
)

// connectChecks are about CONNECT and CONNACK between a client and a server that both do
// right.
func connectChecks() []check {
	return []check{
		{"first packet is CONNECT", "3.1.0-1", "3.1.0-1 3.14.0-1 3.2.0-1", firstPacket},
		{"second CONNECT", "3.1.0-2", "3.1.0-2", func(t trial, v packet.Version) {
			c := login(t, v)
			c.send(c.connect())
			c.ended(packet.ProtocolError)
		}},
		{"CONNACK", "3.1.4-4 3.2.0-1 3.2.2-1", "3.1.4-5 3.2.0-1 3.2.2-1 3.2.2-2 3.2.2-8 2.2.2-1", func(t trial, v packet.Version) {
			c := login(t, v)
			if c.raw[0] != 0x20 || c.raw[2] != 0 || c.raw[3] != 0 {
				t.Errorf("CONNACK is % x", c.raw)
			}
			if v == packet.V311 && len(c.raw) != 4 || v == packet.V5 && len(c.raw) < 5 {
				t.Errorf("CONNACK has %d bytes", len(c.raw))
			}
		}},
		{"one CONNACK", "3.2.0-1", "3.2.0-2", func(t trial, v packet.Version) {
			c := login(t, v)
			for range 3 {
				c.ping() // fails at any other packet
			}
		}},
		{"order of the payload", "3.1.3-1 3.1.3-3 3.1.2-9", "3.1.3-1 3.1.3-3 3.1.2-9", payloadOrder},
		{"client identifiers", "3.1.3-5", "3.1.3-5", func(t trial, v packet.Version) {
			const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
			for _, id := range []string{"0", "Z", letters[:23], letters[23:46], letters[39:]} {
				login(t, v, named(id)).leave()
			}
		}},
		{"empty client identifier", "3.1.3-6", "3.1.3-6 3.1.3-7 3.2.2-16", assigned},
		{"empty client identifier without clean session", "3.1.3-7 3.1.3-8 3.2.2-4 3.2.2-5", "", func(t trial, v packet.Version) {
			c := dial(t, v)
			if ack := c.hello(named(""), dirty); ack.Reason != packet.RefusedClientID || ack.SessionPresent {
				t.Errorf("the return code is %d, session present %t", ack.Reason, ack.SessionPresent)
			}
			c.closed()
		}},
		{"client identifier refused", "3.1.3-9 3.2.2-5", "3.1.3-8 3.2.2-7", func(t trial, v packet.Version) {
			c, want := dial(t, v), packet.RefusedClientID
			if v == packet.V5 {
				want = packet.ClientIDNotValid
			}
			if ack := c.hello(named(strings.Repeat("x", 5000))); ack.Reason != want || ack.SessionPresent {
				t.Errorf("an identifier of 5,000 bytes is answered with %v", ack.Reason)
			}
			c.closed()
		}},
		{"taken over", "3.1.4-2", "3.1.4-3", func(t trial, v packet.Version) {
			older := login(t, v, named("over"+unique()))
			newer := login(t, v, named(older.id))
			older.ended(packet.SessionTakenOver)
			newer.ping()
		}},
		{"what the server can do", "", "3.2.2-9 3.2.2-10 3.2.2-12 3.2.2-13", func(t trial, v packet.Version) {
			c := login(t, v, will(unique()+"/will", "gone", 2, true))
			p := &c.connack.Properties
			for _, id := range []packet.Property{packet.MaximumQoS, packet.RetainAvailable, packet.WildcardAvailable, packet.SubscriptionIDsAllowed, packet.SharedAvailable} {
				if p.Has(id) && p.MaximumQoS+p.RetainAvailable+p.WildcardAvailable+p.SubscriptionIDsOK+p.SharedAvailable == 0 {
					t.Errorf("the server says that it does without property %#02x", byte(id))
				}
			}
			if p.Has(packet.MaximumQoS) {
				t.Error("a server that can do QoS 2 sends no Maximum QoS (3.2.2.3.4)")
			}
			c.subscribe(unique()+"/#", 2)
			c.leave()
		}},
		{"no response information unless asked for", "", "3.1.2-28", func(t trial, v packet.Version) {
			ask := func(n uint8) option {
				return func(_ *packet.Connect, p *packet.Properties) {
					p.Set(packet.RequestResponse)
					p.RequestResponse = n
				}
			}
			if c := login(t, v, ask(0)); c.connack.Properties.Has(packet.ResponseInformation) {
				t.Error("CONNACK has Response Information")
			}
			login(t, v, ask(1)).leave()
		}},
		{"no reason strings unless wanted", "", "3.1.2-29", noProblemInformation},
	}
}

func firstPacket(t trial, v packet.Version) {
	packets := map[string][]byte{
		"PUBLISH": packet.AppendPublish(nil, v, message("a", "b", 0)), "PINGREQ": packet.AppendPing(nil, packet.PINGREQ),
		"SUBSCRIBE":  packet.AppendSubscribe(nil, v, 1, []packet.Filter{{Text: []byte("a")}}, nil),
		"DISCONNECT": packet.AppendDisconnect(nil, v, packet.Success, nil),
		"CONNACK":    packet.AppendConnack(nil, v, false, packet.Success, nil),
		"PUBACK":     packet.AppendAck(nil, v, packet.PUBACK, 1, packet.Success, nil),
	}
	if v == packet.V5 {
		packets["AUTH"] = packet.AppendAuth(nil, packet.ContinueAuthentication, nil)
	}
	for name, b := range packets {
		t.Run(name, func(t *testing.T) {
			c := dial(t, v)
			c.send(b)
			c.closed()
		})
	}
}

// payloadOrder writes the fields by hand, and sees each of them at work.
func payloadOrder(t trial, v packet.Version) {
	hub, id, topic := theHub(t), unique(), unique()+"/will"
	watcher := login(t, v)
	watcher.subscribe(topic, 1)
	c := dial(t, v)
	c.id = id
	c.send(frame(0x10, str("MQTT"), []byte{byte(v), 0b1100_1110}, num(60), c.none(),
		str(id), c.none(), str(topic), str("gone"), str(hub.user), str(hub.password)))
	if ack := c.read(); ack.Type != packet.CONNACK || ack.Reason != packet.Success {
		t.Fatalf("answered with % x", c.raw)
	}
	c.drop()
	watcher.take(topic, "gone", 1)

	missing := dial(t, v)
	missing.refused(frame(0x10, str("MQTT"), []byte{byte(v), 2}, num(60), missing.none()), packet.MalformedPacket, packet.ProtocolError)
	swapped := dial(t, v) // user name and password before the will: the rest is no will
	swapped.refused(frame(0x10, str("MQTT"), []byte{byte(v), 0b1100_1110}, num(60), swapped.none(),
		str(id), str(hub.user), str(hub.password), swapped.none(), str(topic)), packet.MalformedPacket, packet.ProtocolError)
}

func assigned(t trial, v packet.Version) {
	one, two := login(t, v, named("")), login(t, v, named(""))
	one.ping()
	two.ping()
	if v == packet.V311 {
		return
	}
	if one.id == "" || two.id == "" || one.id == two.id {
		t.Fatalf("the assigned client identifiers are %q and %q", one.id, two.id)
	}
	again := login(t, v, named(one.id))
	one.ended(packet.SessionTakenOver)
	again.leave()
	lasts := login(t, v, named(""), lasting)
	if lasts.id == one.id || lasts.id == two.id || lasts.id == "" {
		t.Errorf("the assigned client identifier %q is not new", lasts.id)
	}
	lasts.leave()
	if back := login(t, v, named(lasts.id), lasting); !back.connack.SessionPresent {
		t.Error("the session of an assigned client identifier is not found again")
	}
	if c := login(t, v); c.connack.Properties.Has(packet.AssignedClientID) {
		t.Error("a client with an identifier got another one")
	}
}

func noProblemInformation(t trial, v packet.Version) {
	for _, wanted := range []uint8{0, 1} {
		c := login(t, v, func(_ *packet.Connect, p *packet.Properties) {
			p.Set(packet.RequestProblem)
			p.RequestProblem = wanted
		})
		for i, told := range failures(c) {
			if told && wanted == 0 {
				t.Errorf("answer %d has a reason string or user properties", i)
			}
			if i < reasoned && !told && wanted == 1 { // or there would be nothing to leave out
				t.Errorf("answer %d says nothing of what failed", i)
			}
		}
	}
}

// reasoned is how many of the answers of failures say that something failed.
const reasoned = 6

// failures has the server answer with each packet that may have a reason string but CONNACK and
// DISCONNECT, and gives for each whether it has one, or user properties.
func failures(c *client) (told []bool) {
	c.t.Helper()
	read := func(want packet.Type) {
		c.t.Helper()
		p := c.read()
		if p.Type != want {
			c.t.Fatalf("a %v came, not a %v: % x", p.Type, want, c.raw)
		}
		told = append(told, p.Properties.Has(packet.ReasonString) || p.Properties.Has(packet.UserProperty))
	}
	publish := func(topic string, qos uint8) {
		p := message(topic, "?", qos)
		p.ID = 10 + uint16(qos)
		c.send(packet.AppendPublish(nil, c.v, p))
	}
	deep := []packet.Filter{{Text: []byte(strings.Repeat("a/", 200)), QoS: 1}}
	c.send(packet.AppendSubscribe(nil, c.v, 1, deep, nil))
	read(packet.SUBACK)
	publish("signalbox/nobody/telemetry", 1)
	read(packet.PUBACK)
	publish("signalbox/nobody/telemetry", 2)
	read(packet.PUBREC)
	c.send(packet.AppendAck(nil, c.v, packet.PUBREL, 77, packet.Success, nil))
	read(packet.PUBCOMP)
	c.send(packet.AppendAck(nil, c.v, packet.PUBREC, 78, packet.Success, nil))
	read(packet.PUBREL)
	publish("$SYS/x", 1)
	read(packet.PUBACK)

	c.send(packet.AppendUnsubscribe(nil, c.v, 2, []packet.Filter{{Text: []byte("never")}}, nil)) // 0x11 is no failure
	read(packet.UNSUBACK)
	publish(unique(), 1)
	read(packet.PUBACK)
	return told
}

// refusalChecks are about CONNECTs that are wrong.
func refusalChecks() []check {
	return []check{
		{"protocol name", "3.1.2-1", "3.1.2-1", func(t trial, v packet.Version) {
			for _, name := range []string{"MQTX", "mqtt", "", "MQTT\x00", "MQIsdp", "HTTP/1.1"} {
				c := dial(t, v)
				c.send(frame(0x10, str(name), []byte{byte(v), 2}, num(60), c.none(), str(unique())))
				c.unsupported()
			}
		}},
		{"protocol level", "3.1.2-2", "3.1.2-2", func(t trial, v packet.Version) {
			for _, level := range []byte{0, 3, 6, 0x83, 0x84, 255} {
				c := dial(t, v)
				c.send(frame(0x10, str("MQTT"), []byte{level, 2}, num(60), c.none(), str(unique())))
				if told := c.unsupported(); !told && level&0x7F < 5 {
					t.Errorf("level %d was not answered with CONNACK", level)
				}
			}
		}},
		{"reserved connect flag", "3.1.2-3", "3.1.2-3", func(t trial, v packet.Version) {
			c := dial(t, v)
			c.refused(c.with(1, str(unique())), packet.MalformedPacket, packet.ProtocolError)
		}},
		{"will flags", "3.1.2-11 3.1.2-13 3.1.2-14 3.1.2-15 3.1.2-9", "3.1.2-11 3.1.2-12 3.1.2-13 3.1.2-9", func(t trial, v packet.Version) {
			for _, flags := range []byte{1 << 3, 2 << 3, 1 << 5, 3 << 3} {
				c := dial(t, v)
				c.refused(c.with(flags, str(unique())), packet.MalformedPacket, packet.ProtocolError)
			}
			c := dial(t, v) // QoS 3
			c.refused(c.with(4|3<<3, str(unique()), c.none(), str("a"), str("b")), packet.MalformedPacket, packet.ProtocolError)
			c = dial(t, v) // no will behind the flag
			c.refused(c.with(4, str(unique())), packet.MalformedPacket, packet.ProtocolError)
			c = dial(t, v) // half a will
			c.refused(c.with(4, str(unique()), c.none(), str("a")), packet.MalformedPacket, packet.ProtocolError)
			c = dial(t, v) // a will without its flag
			c.refused(c.with(0, str(unique()), c.none(), str("a"), str("b")), packet.MalformedPacket, packet.ProtocolError)
			for qos := range uint8(3) {
				login(t, v, will(unique(), "gone", qos, false)).leave()
			}
		}},
		{"user name and password flags", "3.1.2-18 3.1.2-19 3.1.2-20 3.1.2-21", "3.1.2-16 3.1.2-17 3.1.2-18 3.1.2-19", func(t trial, v packet.Version) {
			for _, tt := range []struct {
				flags  byte
				fields []string
			}{{0, []string{"user"}}, {0, []string{"user", "word"}}, {0x80, nil}, {0x80, []string{"user", "word"}}, {0xC0, []string{"user"}}, {0xC0, nil}} {
				body := [][]byte{str(unique())}
				for _, f := range tt.fields {
					body = append(body, str(f))
				}
				c := dial(t, v)
				c.refused(c.with(tt.flags, body...), packet.MalformedPacket, packet.ProtocolError)
			}
		}},
		{"password without user name", "3.1.2-22", "", func(t trial, v packet.Version) {
			c := dial(t, v)
			c.refused(c.with(0x40, str(unique()), str("word")))
		}},
		{"malformed CONNECT", "3.1.4-1 4.8.0-1", "3.1.4-1 4.13.1-1", malformedConnect},
		{"bad credentials", "3.2.2-4 3.2.2-5", "3.1.4-2 3.2.2-6 3.2.2-7 3.2.2-8 4.13.2-1", func(t trial, v packet.Version) {
			there := login(t, v, lasting)
			there.leave()
			c := dial(t, v)
			ack := c.hello(named(there.id), lasting, wrongPassword)
			reasons := []packet.Reason{packet.RefusedBadUser, packet.RefusedNotAuthorized}
			if v == packet.V5 {
				reasons = []packet.Reason{packet.BadUserOrPassword, packet.NotAuthorized}
			}
			if !slices.Contains(reasons, ack.Reason) || ack.SessionPresent {
				t.Errorf("the reason is %v, session present %t", ack.Reason, ack.SessionPresent)
			}
			c.closed()
			if back := login(t, v, named(there.id), lasting); !back.connack.SessionPresent {
				t.Error("the refused CONNECT has touched the session")
			}
		}},
		{"nothing is done after a refusal", "3.1.4-5", "3.1.4-6", func(t trial, v packet.Version) {
			topic := unique() + "/t"
			c := dial(t, v)
			c.send(c.connect(wrongPassword), packet.AppendPublish(nil, v, message(topic, "smuggled", 0, retained)))
			if ack := c.read(); ack.Type != packet.CONNACK || ack.Reason == packet.Success {
				t.Fatalf("answered with % x", c.raw)
			}
			c.closed()
			watcher := login(t, v)
			watcher.subscribe(topic, 1)
			watcher.nothing(watcher, 0)
		}},
		{"CONNACK within the client's maximum", "", "3.2.2-19 3.2.2-20 3.1.2-24", func(t trial, v packet.Version) {
			for _, most := range []uint32{6, 12, 24, 64} {
				c := dial(t, v)
				c.send(c.connect(wrongPassword, maximumPacketSize(most)))
				if _, err := c.try(patience); err != nil && c.raw != nil {
					t.Errorf("maximum %d: %v", most, err)
				}
			}
		}},
	}
}

// with builds a CONNECT with these connect flags and clean session.
func (c *client) with(flags byte, payload ...[]byte) []byte {
	return frame(0x10, append([][]byte{str("MQTT"), {byte(c.v), flags | 2}, num(60), c.none()}, payload...)...)
}

// unsupported expects the end, perhaps after a CONNACK that says that the protocol is not
// spoken here, in the words of one of the versions.
func (c *client) unsupported() (told bool) {
	c.t.Helper()
	var got bytes.Buffer
	for buf := make([]byte, 256); ; {
		if err := c.conn.SetReadDeadline(deadline()); err != nil {
			c.t.Fatal(err)
		}
		n, err := c.conn.Read(buf)
		got.Write(buf[:n])
		if isTimeout(err) {
			c.t.Fatal("the server left the connection open")
		}
		if err != nil {
			break
		}
	}
	b := got.Bytes()
	v3 := bytes.Equal(b, []byte{0x20, 2, 0, 1})
	v5 := len(b) >= 5 && b[0] == 0x20 && b[2] == 0 && b[3] == byte(packet.UnsupportedVersion)
	if len(b) > 0 && !v3 && !v5 {
		c.t.Errorf("the server sent % x", b)
	}
	return len(b) > 0
}

func malformedConnect(t trial, v packet.Version) {
	c := dial(t, v)
	whole := frame(0x10, str("MQTT"), []byte{byte(v), 2}, num(60), c.none(), str("id"))
	bad := map[string][]byte{
		"bytes behind the payload": frame(0x10, whole[2:], []byte{0}),
		"identifier cut short":     frame(0x10, whole[2:len(whole)-1]),
		"no payload":               frame(0x10, whole[2:12]),
		"nothing at all":           {0x10, 0},
		"fixed header flags":       append([]byte{0x11}, whole[1:]...),
	}
	if v == packet.V5 {
		c.v = packet.V5
		with := func(properties ...byte) []byte {
			return frame(0x10, str("MQTT"), []byte{5, 2}, num(60), varint(len(properties)), properties, str("id"))
		}
		bad["session expiry twice"] = with(0x11, 0, 0, 0, 1, 0x11, 0, 0, 0, 1)
		bad["receive maximum 0"] = with(0x21, 0, 0)
		bad["maximum packet size 0"] = with(0x27, 0, 0, 0, 0)
		bad["request problem information 2"] = with(0x17, 2)
		bad["request response information 2"] = with(0x19, 2)
		bad["a property of PUBLISH"] = with(0x23, 0, 1)
		bad["an unknown property"] = with(0x7F, 0)
		bad["authentication data without a method"] = with(0x16, 0, 1, 0)
		bad["property length beyond the packet"] = frame(0x10, str("MQTT"), []byte{5, 2}, num(60), []byte{0xFF, 0x7F}, str("id"))
		bad["property cut short"] = with(0x11, 0, 0)
	}
	for name, b := range bad {
		t.Run(name, func(t *testing.T) {
			c := dial(t, v)
			c.refused(b, packet.MalformedPacket, packet.ProtocolError)
		})
	}
}
