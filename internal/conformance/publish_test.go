package conformance_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"signalbox/internal/wire/packet"
)

// publishChecks are about PUBLISH from clients (3.3).
func publishChecks() []check {
	return []check{
		{"QoS 0 as it stands on the wire", "2.3.1-5 4.3.1-1 3.3.1-2", "2.2.1-2 4.3.1-1 3.3.1-2 2.2.2-1", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 2)
			from.publish(topic, "plain", 0)
			c.message(topic, "plain", 0)
			if want := frame(0x30, str(topic), c.none(), []byte("plain")); !bytes.Equal(c.raw, want) {
				t.Errorf("the message is % x, want % x", c.raw, want)
			}
		}},
		{"answers by QoS", "3.3.4-1 2.3.1-6 4.3.2-2 4.3.3-2", "3.3.4-1 2.2.1-5 4.3.2-4 4.3.3-8 4.3.3-11 3.4.2-1 3.5.2-1 3.7.2-1", func(t trial, v packet.Version) {
			topic := unique()
			c := login(t, v)
			c.publish(topic, "0", 0)
			c.ping() // nothing came for QoS 0
			for _, id := range []uint16{1, 7, 255, 256, 65535} {
				for qos := range uint8(2) {
					c.next = id - 1
					c.publish(topic, "x", qos+1)
				}
			}
		}},
		{"DUP with QoS 0", "3.3.1-2", "3.3.1-2", func(t trial, v packet.Version) {
			c := login(t, v)
			c.send(frame(0x38, str(unique()), c.none(), []byte("x")))
			c.ended(packet.MalformedPacket, packet.ProtocolError)
		}},
		{"DUP is not handed on", "3.3.1-3", "3.3.1-3", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 2)
			for qos := uint8(1); qos < 3; qos++ {
				from.publish(topic, "again", qos, func(p *packet.Packet) { p.Dup = true })
				if p := c.take(topic, "again", qos); p.Dup {
					t.Errorf("QoS %d comes with the publisher's DUP", qos)
				}
			}
		}},
		{"QoS 3", "3.3.1-4", "3.3.1-4", func(t trial, v packet.Version) {
			c := login(t, v)
			c.send(frame(0x36, str(unique()), num(1), c.none(), []byte("x")))
			c.ended(packet.MalformedPacket)
		}},
		{"topic first and UTF-8", "3.3.2-1", "3.3.2-1", func(t trial, v packet.Version) {
			for _, topic := range []string{"a\xff", "\xed\xa0\x80", "\xc0\xaf"} {
				c := login(t, v)
				c.send(frame(0x30, str(topic), c.none(), []byte("x")))
				c.ended(packet.MalformedPacket, packet.TopicNameInvalid, packet.ProtocolError)
			}
			c := login(t, v)
			c.send(frame(0x30, num(50), []byte("short")))
			c.ended(packet.MalformedPacket)
		}},
		{"wildcard in a topic name", "3.3.2-2 4.7.1-1", "3.3.2-2 4.7.0-1", func(t trial, v packet.Version) {
			for _, topic := range []string{"#", "+", "a/#", "a/+/b", "a+", "a#b"} {
				c := login(t, v)
				c.send(packet.AppendPublish(nil, v, message(topic, "x", 0)))
				c.ended(packet.MalformedPacket, packet.TopicNameInvalid, packet.ProtocolError)
			}
		}},
		{"empty message", "3.3.4-1", "3.3.4-1", func(t trial, v packet.Version) {
			topic := unique()
			c := login(t, v)
			c.subscribe(topic, 2)
			for qos := range uint8(3) {
				c.publish(topic, "", qos)
				c.take(topic, "", qos)
			}
		}},
		{"not authorised", "3.3.5-2", "4.13.1-1 3.4.2-1", func(t trial, v packet.Version) {
			var name string
			c := login(t, v, asDevice(t, &name))
			p := message("signalbox/somebody-else/telemetry", "1", 1)
			p.ID = 9
			c.send(packet.AppendPublish(nil, v, p))
			p, err := c.try(patience)
			switch {
			case err != nil && isTimeout(err):
				t.Fatal(err)
			case p == nil, p.Type == packet.DISCONNECT && p.Reason == packet.NotAuthorized:
			case p.Type != packet.PUBACK || p.ID != 9:
				t.Errorf("a publish without right is answered with % x", c.raw)
			case v == packet.V5 && p.Reason != packet.NotAuthorized && p.Reason != packet.TopicNameInvalid:
				t.Errorf("a publish without right is answered with reason %v", p.Reason)
			}
		}},
	}
}

// fill sets what a server hands on as it is.
func fill(p *packet.Properties) {
	for _, id := range []packet.Property{packet.PayloadFormat, packet.ContentType, packet.ResponseTopic, packet.CorrelationData, packet.UserProperty} {
		p.Set(id)
	}
	p.PayloadFormat, p.ContentType, p.ResponseTopic = 1, []byte("text/plain; charset=utf-8 ü"), []byte("answer/here/ü")
	p.CorrelationData = []byte{0, 1, 0xFF, 0xC0, 0}
	p.User = user("b", "2", "a", "1", "b", "3", "", "", "b", "2", "ключ", "值")
}

func expectFilled(t testing.TB, got *packet.Packet) {
	t.Helper()
	var want packet.Properties
	fill(&want)
	p := &got.Properties
	if !p.Has(packet.PayloadFormat) || p.PayloadFormat != 1 {
		t.Error("the payload format indicator has changed")
	}
	for what, both := range map[string][2][]byte{
		"content type": {p.ContentType, want.ContentType}, "response topic": {p.ResponseTopic, want.ResponseTopic},
		"correlation data": {p.CorrelationData, want.CorrelationData}, "user properties": {p.User, want.User},
	} {
		if !bytes.Equal(both[0], both[1]) {
			t.Errorf("the %s are %q, want %q", what, both[0], both[1])
		}
	}
}

// forwardChecks are about what a server hands on with a message (3.3.2.3).
func forwardChecks() []check {
	return []check{
		{"properties handed on", "", "3.3.2-4 3.3.2-15 3.3.2-16 3.3.2-17 3.3.2-18 3.3.2-20", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 2)
			for qos := range uint8(3) {
				from.publish(topic, "text", qos, func(p *packet.Packet) { fill(&p.Properties) })
				expectFilled(t, c.take(topic, "text", qos))
			}
			from.publish(topic, "\xff", 1)
			if p := c.take(topic, "\xff", 1); p.Properties.Has(packet.PayloadFormat) || !p.Properties.None() {
				t.Error("a message without properties has got some")
			}
			from.publish(topic, "kept", 1, retained, func(p *packet.Packet) { fill(&p.Properties) })
			c.take(topic, "kept", 1)
			late := login(t, v)
			late.subscribe(topic, 1)
			expectFilled(t, late.take(topic, "kept", 1))
			from.publish(topic, "", 1, retained)
		}},
		{"properties handed on by a session that was away", "", "3.3.2-4 3.3.2-15 3.3.2-16 3.3.2-17 3.3.2-18 3.3.2-20", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 2)
			c.leave()
			from.publish(topic, "text", 2, func(p *packet.Packet) { fill(&p.Properties) })
			expectFilled(t, login(t, v, named(c.id), lasting).take(topic, "text", 2))
		}},
		{"5.0 to 3.1.1 and back", "3.3.2-3", "3.3.2-3", func(t trial, v packet.Version) {
			topic := unique()
			other := packet.V311 + packet.V5 - v
			c, from := login(t, v), login(t, other)
			c.subscribe(topic+"/+", 2)
			from.publish(topic+"/x", "over", 2, func(p *packet.Packet) { fill(&p.Properties) })
			c.take(topic+"/x", "over", 2)
		}},
		{"request and response", "", "3.3.2-15 3.3.2-16", func(t trial, v packet.Version) {
			ask, answer := unique(), unique()
			server, c := login(t, v), login(t, v)
			server.subscribe(ask, 1)
			c.subscribe(answer, 1)
			c.publish(ask, "how much?", 1, func(p *packet.Packet) {
				p.Properties.Set(packet.ResponseTopic)
				p.Properties.Set(packet.CorrelationData)
				p.Properties.ResponseTopic, p.Properties.CorrelationData = []byte(answer), []byte{0, 42}
			})
			q := server.take(ask, "how much?", 1)
			server.publish(string(q.Properties.ResponseTopic), "much", 1, func(p *packet.Packet) {
				p.Properties.Set(packet.CorrelationData)
				p.Properties.CorrelationData = q.Properties.CorrelationData
			})
			if a := c.take(answer, "much", 1); !bytes.Equal(a.Properties.CorrelationData, []byte{0, 42}) {
				t.Errorf("the answer's correlation data are % x", a.Properties.CorrelationData)
			}
		}},
		{"wrong properties of PUBLISH", "", "3.3.2-8 3.3.2-13 3.3.2-14 3.3.2-19 3.3.4-6 4.13.1-1", func(t trial, v packet.Version) {
			for name, tt := range map[string]struct {
				properties []byte
				reasons    []packet.Reason
			}{
				"topic alias 0":              {[]byte{0x23, 0, 0}, []packet.Reason{packet.TopicAliasInvalid, packet.ProtocolError}},
				"response topic not UTF-8":   {append([]byte{0x08}, str("\xff")...), []packet.Reason{packet.MalformedPacket}},
				"response topic with +":      {append([]byte{0x08}, str("a/+")...), []packet.Reason{packet.ProtocolError, packet.MalformedPacket, packet.TopicNameInvalid}},
				"response topic with #":      {append([]byte{0x08}, str("#")...), []packet.Reason{packet.ProtocolError, packet.MalformedPacket, packet.TopicNameInvalid}},
				"content type not UTF-8":     {append([]byte{0x03}, str("\xc0\x80")...), []packet.Reason{packet.MalformedPacket}},
				"subscription identifier":    {[]byte{0x0B, 1}, []packet.Reason{packet.ProtocolError}},
				"payload format 2":           {[]byte{0x01, 2}, []packet.Reason{packet.ProtocolError, packet.MalformedPacket}},
				"message expiry twice":       {[]byte{0x02, 0, 0, 0, 9, 0x02, 0, 0, 0, 9}, []packet.Reason{packet.ProtocolError}},
				"property of another packet": {[]byte{0x21, 0, 9}, []packet.Reason{packet.ProtocolError, packet.MalformedPacket}},
			} {
				t.Run(name, func(t *testing.T) {
					c := login(t, v)
					c.send(frame(0x30, str(unique()), varint(len(tt.properties)), tt.properties, []byte("x")))
					c.ended(tt.reasons...)
				})
			}
		}},
	}
}

// aliased gives a message an alias.
func aliased(alias uint16) func(*packet.Packet) {
	return func(p *packet.Packet) {
		p.Properties.Set(packet.TopicAlias)
		p.Properties.TopicAlias = alias
	}
}

// aliasChecks are about topic aliases (3.3.2.3.4).
func aliasChecks() []check {
	return []check{
		{"topic alias of the client", "", "3.3.2-12", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			most := from.connack.Properties.TopicAliasMaximum
			if most == 0 {
				t.Fatal("the server takes no topic aliases")
			}
			c.subscribe(topic+"/#", 1)
			for i, alias := range []uint16{1, most, most/2 + 1} {
				name := fmt.Sprint(topic, "/", i)
				for j, payload := range []string{"set", "used", "used at 0"} {
					given, qos := name, uint8(1)
					if j > 0 {
						given = ""
					}
					if j == 2 {
						qos = 0
					}
					from.publish(given, payload, qos, aliased(alias))
					if p := c.take(name, payload, qos); p.Properties.Has(packet.TopicAlias) {
						t.Error("the publisher's alias is handed on")
					}
				}
			}
			from.publish(topic+"/other", "moved", 1, aliased(1))
			c.take(topic+"/other", "moved", 1)
			from.publish("", "here", 1, aliased(1))
			c.take(topic+"/other", "here", 1)
		}},
		{"topic aliases end with the connection", "", "3.3.2-7", func(t trial, v packet.Version) {
			topic := unique()
			c := login(t, v, lasting)
			c.publish(topic, "set", 1, aliased(1))
			c.leave()
			back := login(t, v, named(c.id), lasting)
			back.send(packet.AppendPublish(nil, v, message("", "?", 0, aliased(1))))
			back.ended(packet.TopicAliasInvalid, packet.ProtocolError)
		}},
		{"topic alias beyond the maximum", "", "3.3.2-9 3.2.2-17", func(t trial, v packet.Version) {
			c := login(t, v)
			most := c.connack.Properties.TopicAliasMaximum
			if most == 65535 {
				return
			}
			c.send(packet.AppendPublish(nil, v, message(unique(), "?", 0, aliased(most+1))))
			c.ended(packet.TopicAliasInvalid)
		}},
		{"empty topic without alias", "", "4.7.3-1 3.3.2-1", func(t trial, v packet.Version) {
			c := login(t, v)
			c.send(frame(0x30, str(""), []byte{0}, []byte("x")))
			c.ended(packet.ProtocolError, packet.TopicNameInvalid, packet.MalformedPacket)
		}},
		{"topic aliases of the server", "", "3.1.2-26 3.1.2-27 3.3.2-11", func(t trial, v packet.Version) {
			for _, most := range []uint16{0, 1, 3} {
				topic := unique()
				c := login(t, v, func(_ *packet.Connect, p *packet.Properties) {
					p.Set(packet.TopicAliasMaximum)
					p.TopicAliasMaximum = most
				})
				c.subscribe(topic+"/#", 0)
				known := map[uint16]string{}
				for i := range 24 {
					name := fmt.Sprint(topic, "/", i%6)
					c.publish(name, "x", 0)
					p := c.want(packet.PUBLISH)
					got := string(p.Topic)
					if alias := p.Properties.TopicAlias; p.Properties.Has(packet.TopicAlias) {
						if alias == 0 || alias > most {
							t.Fatalf("the server uses alias %d, the maximum is %d", alias, most)
						}
						if got != "" {
							known[alias] = got
						}
						got = known[alias]
					}
					if got != name {
						t.Fatalf("message %d is on %q, want %q", i, got, name)
					}
				}
			}
		}},
	}
}

// lasts gives a message an expiry.
func lasts(seconds uint32) func(*packet.Packet) {
	return func(p *packet.Packet) {
		p.Properties.Set(packet.MessageExpiry)
		p.Properties.MessageExpiry = seconds
	}
}

// expiryChecks are about the message expiry interval (3.3.2.3.3).
func expiryChecks() []check {
	return []check{
		{"expired messages are not delivered", "", "3.3.2-5 4.3.3-13", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 2)
			c.leave()
			from.publish(topic, "short", 1, lasts(1))
			from.publish(topic, "short", 2, lasts(1)) // completes its flow although it expires
			from.publish(topic, "long", 1, lasts(600))
			from.publish(topic, "kept", 1, lasts(1), retained)
			wait(2200 * time.Millisecond)
			back := login(t, v, named(c.id), lasting)
			back.take(topic, "long", 1)
			back.nothing(from, 1)
			late := login(t, v)
			late.subscribe(topic, 1)
			late.nothing(from, 1)
		}},
		{"what is left of the expiry", "", "3.3.2-6", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 1)
			from.publish(topic, "now", 1, lasts(100))
			if p := c.take(topic, "now", 1); p.Properties.MessageExpiry > 100 || p.Properties.MessageExpiry < 70 {
				t.Errorf("a message of 100 s comes with %d s", p.Properties.MessageExpiry)
			}
			c.leave()
			from.publish(topic, "later", 1, lasts(100))
			from.publish(topic, "for good", 1)
			wait(2100 * time.Millisecond)
			back := login(t, v, named(c.id), lasting)
			if p := back.take(topic, "later", 1); p.Properties.MessageExpiry > 98 || p.Properties.MessageExpiry < 60 {
				t.Errorf("a message of 100 s comes after 2 s with %d s", p.Properties.MessageExpiry)
			}
			if p := back.take(topic, "for good", 1); p.Properties.Has(packet.MessageExpiry) {
				t.Error("a message without expiry has got one")
			}
		}},
		{"a message that was sent does not expire", "", "4.3.3-7", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 2)
			from.publish(topic, "sent", 2, lasts(4))
			p := c.message(topic, "sent", 2)
			wait(5 * time.Second)
			c.settle(p) // the flow goes on
		}},
	}
}

// retainedChecks are about retained messages (3.3.1.3, 3.8.3.1).
func retainedChecks() []check {
	return []check{
		{"retained message", "3.3.1-5 3.3.1-6 3.3.1-7 3.3.1-8", "3.3.1-5 3.3.1-9", func(t trial, v packet.Version) {
			topic := unique()
			from := login(t, v)
			for qos := range uint8(3) {
				text := fmt.Sprint("QoS ", qos)
				from.publish(topic+"/a", "older", qos, retained)
				from.publish(topic+"/a", text, qos, retained)
				from.ping() // QoS 0 is not answered
				for _, filter := range []string{topic + "/a", topic + "/#", topic + "/+"} {
					c := login(t, v)
					c.subscribe(filter, 2)
					if p := c.take(topic+"/a", text, qos); !p.Retain || p.Dup {
						t.Errorf("to a new subscription it comes with RETAIN %t, DUP %t", p.Retain, p.Dup)
					}
					c.nothing(from, 1)
				}
			}
		}},
		{"retained message removed", "3.3.1-10 3.3.1-11", "3.3.1-6 3.3.1-7", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 1)
			from.publish(topic, "there", 1, retained)
			c.take(topic, "there", 1)
			from.publish(topic, "", 1, retained)
			c.take(topic, "", 1)
			late := login(t, v)
			late.subscribe(topic, 1)
			late.nothing(from, 1)
		}},
		{"a message that is not retained", "3.3.1-12", "3.3.1-8", func(t trial, v packet.Version) {
			topic := unique()
			from := login(t, v)
			from.publish(topic, "fleeting", 1)
			one := login(t, v)
			one.subscribe(topic, 1)
			one.nothing(from, 1)
			from.publish(topic, "kept", 1, retained)
			one.take(topic, "kept", 1)
			from.publish(topic, "fleeting", 1)
			one.take(topic, "fleeting", 1)
			from.publish(topic, "", 1)
			one.take(topic, "", 1)
			two := login(t, v)
			two.subscribe(topic, 1)
			two.take(topic, "kept", 1)
		}},
		{"RETAIN to those who have subscribed", "3.3.1-9", "3.3.1-12", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 2)
			for qos := range uint8(3) {
				from.publish(topic, "kept", qos, retained)
				if p := c.take(topic, "kept", qos); p.Retain {
					t.Errorf("QoS %d comes with RETAIN", qos)
				}
			}
		}},
		{"retain as published", "", "3.3.1-13", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 1, func(f *packet.Filter, _ *packet.Properties) { f.RetainAsPublished = true })
			from.publish(topic, "kept", 1, retained)
			if p := c.take(topic, "kept", 1); !p.Retain {
				t.Error("it comes without RETAIN")
			}
			from.publish(topic, "fleeting", 1)
			if p := c.take(topic, "fleeting", 1); p.Retain {
				t.Error("it comes with RETAIN")
			}
		}},
		{"retain handling", "", "3.3.1-9 3.3.1-10 3.3.1-11", func(t trial, v packet.Version) {
			topic := unique()
			from := login(t, v)
			from.publish(topic, "kept", 1, retained)
			handling := func(h packet.RetainHandling) func(*packet.Filter, *packet.Properties) {
				return func(f *packet.Filter, _ *packet.Properties) { f.Handling = h }
			}
			c := login(t, v)
			for range 2 {
				c.subscribe(topic, 1, handling(packet.RetainSend))
				c.take(topic, "kept", 1)
			}
			c.subscribe(topic, 1, handling(packet.RetainSendIfNew))
			c.nothing(from, 1)
			c.unsubscribe(topic)
			c.subscribe(topic, 1, handling(packet.RetainSendIfNew))
			c.take(topic, "kept", 1)
			c.unsubscribe(topic)
			c.subscribe(topic, 1, handling(packet.RetainNever))
			c.nothing(from, 1)
			bad := login(t, v)
			bad.send(frame(0x82, num(1), []byte{0}, str(topic), []byte{0x30}))
			bad.ended(packet.ProtocolError, packet.MalformedPacket)
		}},
		{"many retained messages", "3.3.1-6", "3.3.1-9", func(t trial, v packet.Version) {
			topic := unique()
			from := login(t, v)
			for i := range 150 {
				from.publish(fmt.Sprintf("%s/%d/x", topic, i), fmt.Sprint(i), 1, retained)
			}
			c := login(t, v)
			c.subscribe(topic+"/+/x", 1)
			seen := map[string]bool{}
			for range 150 {
				p := c.want(packet.PUBLISH)
				c.settle(p)
				seen[string(p.Topic)] = true
			}
			if len(seen) != 150 {
				t.Errorf("%d of 150 retained messages came", len(seen))
			}
			c.nothing(from, 1)
		}},
		{"retained messages outlive sessions", "3.1.2-7", "3.3.1-5", func(t trial, v packet.Version) {
			topic := strings.ToUpper(unique()) + "/kept"
			from := login(t, v, lasting)
			from.publish(topic, "kept", 1, retained)
			from.leave()
			login(t, v, named(from.id)).leave() // ends the session
			c := login(t, v)
			c.subscribe(topic, 1)
			c.take(topic, "kept", 1)
		}},
	}
}
