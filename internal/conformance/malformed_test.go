package conformance_test

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"signalbox/internal/wire/packet"
)

func deadline() time.Time { return time.Now().Add(patience) }

func isTimeout(err error) bool {
	var wait net.Error
	return errors.As(err, &wait) && wait.Timeout()
}

// malformedChecks are about packets that no client may send (2, 4.8, 4.13).
func malformedChecks() []check {
	return []check{
		{"flags of the fixed header", "2.2.2-1 2.2.2-2 3.6.1-1 3.8.1-1 3.10.1-1 3.14.1-1", "2.1.3-1 3.6.1-1 3.8.1-1 3.10.1-1 3.14.1-1 3.15.1-1", func(t trial, v packet.Version) {
			for typ, right := range map[byte]byte{4: 0, 5: 0, 6: 2, 7: 0, 8: 2, 10: 2, 12: 0, 14: 0, 15: 0} {
				if typ == 15 && v == packet.V311 {
					continue
				}
				for flags := range byte(16) {
					if flags == right {
						continue
					}
					var body []byte
					switch typ {
					case 4, 5, 6, 7:
						body = num(1)
					case 8:
						body = append(append(num(1), none(v)...), append(str("a"), 0)...)
					case 10:
						body = append(append(num(1), none(v)...), str("a")...)
					}
					c := login(t, v)
					c.send(frame(typ<<4|flags, body))
					if typ == 15 {
						c.ended(packet.MalformedPacket, packet.ProtocolError)
					} else {
						c.ended(packet.MalformedPacket)
					}
				}
			}
		}},
		{"packet identifier 0", "2.3.1-1", "2.2.1-3", func(t trial, v packet.Version) {
			for name, b := range map[string][]byte{
				"PUBLISH 1":   frame(0x32, str("a"), num(0), none(v)),
				"PUBLISH 2":   frame(0x34, str("a"), num(0), none(v)),
				"SUBSCRIBE":   frame(0x82, num(0), none(v), str("a"), []byte{0}),
				"UNSUBSCRIBE": frame(0xA2, num(0), none(v), str("a")),
			} {
				t.Run(name, func(t *testing.T) {
					c := login(t, v)
					c.send(b)
					c.ended(packet.MalformedPacket, packet.ProtocolError)
				})
			}
		}},
		{"types that no client sends", "2.2.2-2 4.8.0-1", "2.1.3-1 4.13.1-1", func(t trial, v packet.Version) {
			packets := [][]byte{
				{0, 0},
				{0x0F, 0},
				{0xD0, 0},
				packet.AppendConnack(nil, v, false, packet.Success, nil),
				packet.AppendSuback(nil, v, 1, []byte{0}, nil),
				packet.AppendUnsuback(nil, v, 1, []byte{0}, nil),
			}
			if v == packet.V311 {
				packets = append(packets, []byte{0xF0, 0})
			}
			for _, b := range packets {
				c := login(t, v)
				c.send(b)
				c.ended(packet.MalformedPacket, packet.ProtocolError)
			}
		}},
		{"lengths", "4.8.0-1", "1.5.5-1 4.13.1-1 3.14.2-1", func(t trial, v packet.Version) {
			bad := map[string][]byte{
				"remaining length of five bytes": {0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01},
				"PINGREQ with a body":            {0xC0, 1, 0},
				"PUBACK without identifier":      {0x40, 0},
				"PUBACK with one byte":           {0x40, 1, 0},
				"SUBSCRIBE without identifier":   {0x82, 1, 0},
				"filter cut short":               frame(0x82, num(1), none(v), num(9), []byte("a")),
				"topic longer than the packet":   frame(0x30, num(0xFFFF), []byte("a")),
				"PUBLISH without identifier":     frame(0x32, str("a")),
				"empty PUBLISH":                  {0x30, 0},
			}
			if v == packet.V311 {
				bad["PUBACK with a byte too many"] = []byte{0x40, 3, 0, 1, 0}
				bad["DISCONNECT with a body"] = []byte{0xE0, 1, 0}
			} else {
				bad["property length of five bytes"] = frame(0x30, str("a"), []byte{0xFF, 0xFF, 0xFF, 0xFF, 0x01})
				bad["property length beyond the packet"] = frame(0x30, str("a"), []byte{9, 1, 1})
				bad["property cut short"] = frame(0x30, str("a"), []byte{2, 0x02, 0})
				bad["bytes behind the properties of PUBACK"] = frame(0x40, num(1), []byte{0, 0, 7})
				bad["unknown property"] = frame(0x30, str("a"), []byte{2, 0x7E, 0})
				bad["reason of another packet"] = frame(0x40, num(1), []byte{0x8E})
				bad["subscription identifier of five bytes"] = frame(0x82, num(1), []byte{6, 0x0B, 0xFF, 0xFF, 0xFF, 0xFF, 1}, str("a"), []byte{0})
			}
			for name, b := range bad {
				t.Run(name, func(t *testing.T) {
					c := login(t, v)
					c.send(b)
					c.ended(packet.MalformedPacket, packet.ProtocolError, packet.PacketTooLarge)
				})
			}
		}},
		{"packets in pieces and several at once", "4.6.0-2", "4.2-1", func(t trial, v packet.Version) {
			topic := unique()
			c := login(t, v)
			c.subscribe(topic, 1)
			var b []byte
			for i := range 3 {
				p := message(topic, fmt.Sprint(i), 1)
				p.ID = uint16(100 + i)
				b = packet.AppendPublish(b, v, p)
			}
			for i := range b {
				c.send(b[i : i+1])
			}
			for i := range 3 {
				c.acked(packet.PUBACK, uint16(100+i))
			}
			for i := range 3 {
				c.take(topic, fmt.Sprint(i), 1)
			}
			c.send(b, b, b)
			for range 9 {
				c.want(packet.PUBACK)
			}
		}},
		{"after an error nothing more is done", "4.8.0-1", "4.13.1-1 4.13.2-1 3.14.4-1 3.14.4-2", func(t trial, v packet.Version) {
			topic := unique()
			watcher, c := login(t, v), login(t, v)
			watcher.subscribe(topic, 0)
			c.send([]byte{0, 0}, packet.AppendPublish(nil, v, message(topic, "late", 0)))
			for {
				if p, err := c.try(patience); err != nil {
					if isTimeout(err) {
						t.Fatal("the connection is open")
					}
					break
				} else if p.Type != packet.DISCONNECT || p.Reason < 0x80 {
					t.Fatalf("the server sent a packet of type %d, reason %v", p.Type, p.Reason)
				}
			}
			watcher.nothing(watcher, 0)
		}},
	}
}

func none(v packet.Version) []byte { return (&client{v: v}).none() }

// textChecks are about UTF-8 encoded strings (1.5.3 of 3.1.1, 1.5.4 of 5.0).
func textChecks() []check {
	return []check{
		{"ill-formed UTF-8", "1.5.3-1 1.5.3-2 3.1.3-4 3.1.3-10 3.1.3-11", "1.5.4-1 1.5.4-2 3.1.3-4 3.1.3-11 3.1.3-12", func(t trial, v packet.Version) {
			for _, bad := range []string{"\xff", "a\x80", "\xc3", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x80\x80\xaf", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "a\x00b"} {
				c := dial(t, v)
				c.refused(c.with(0, str(bad)), packet.MalformedPacket, packet.ClientIDNotValid, packet.ProtocolError)
				c = dial(t, v)
				c.refused(c.with(4, str(unique()), c.none(), str(bad), str("x")), packet.MalformedPacket, packet.TopicNameInvalid, packet.ProtocolError)
				c = dial(t, v)
				c.refused(c.with(0xC0, str(unique()), str(bad), str("x")), packet.MalformedPacket, packet.BadUserOrPassword, packet.ProtocolError)
				c = login(t, v)
				c.send(frame(0x30, str(bad), c.none(), []byte("x")))
				c.ended(packet.MalformedPacket, packet.TopicNameInvalid, packet.ProtocolError)
			}
		}},
		{"ill-formed user property", "", "1.5.7-1", func(t trial, v packet.Version) {
			for _, properties := range [][]byte{user("\xff", "x"), user("x", "\xed\xa0\x80"), user("a\x00", "x"), user("x", "\x00")} {
				c := login(t, v)
				c.send(frame(0x30, str(unique()), varint(len(properties)), properties, []byte("x")))
				c.ended(packet.MalformedPacket, packet.ProtocolError)
				c = dial(t, v)
				c.refused(frame(0x10, str("MQTT"), []byte{5, 2}, num(60), varint(len(properties)), properties, str(unique())), packet.MalformedPacket, packet.ProtocolError)
			}
		}},
		{"byte order mark", "1.5.3-3", "1.5.4-3", func(t trial, v packet.Version) {
			const mark = "\xef\xbb\xbf"
			topic := mark + unique() + mark
			c := login(t, v)
			c.subscribe(topic, 1)
			c.subscribe(topic[3:len(topic)-3], 1)
			c.publish(topic, mark+"x", 1)
			c.take(topic, mark+"x", 1)
			c.nothing(c, 1)
		}},
		{"text of all scripts", "1.5.3-1", "1.5.4-1", func(t trial, v packet.Version) {
			topic := unique() + "/Ж/温度/ü/\U0001F321/\uFFFD/a b"
			c := login(t, v, named(unique()+"温度ü"))
			c.subscribe(topic, 2)
			c.publish(topic, "x", 2)
			c.take(topic, "x", 2)
		}},
	}
}

// disconnectChecks are about DISCONNECT (3.14).
func disconnectChecks() []check {
	return []check{
		{"DISCONNECT closes", "3.14.4-1", "3.14.4-2", func(t trial, v packet.Version) {
			c := login(t, v)
			c.send(packet.AppendDisconnect(nil, v, packet.Success, nil))
			c.closed()
		}},
		{"nothing is done after DISCONNECT", "3.14.4-2", "3.14.4-1", func(t trial, v packet.Version) {
			topic := unique()
			watcher, c := login(t, v), login(t, v)
			watcher.subscribe(topic, 0)
			c.send(packet.AppendDisconnect(nil, v, packet.Success, nil), packet.AppendPublish(nil, v, message(topic, "late", 0)))
			c.closed()
			watcher.nothing(watcher, 0)
		}},
		{"DISCONNECT of the client", "", "3.14.2-1 3.14.4-3", func(t trial, v packet.Version) {
			for _, b := range [][]byte{{0xE0, 0}, {0xE0, 1, 0}, {0xE0, 2, 0, 0}, {0xE0, 1, 0x80}, {0xE0, 1, 0x93}} {
				c := login(t, v)
				c.send(b)
				c.closed()
			}
			c := login(t, v) // a reason that only servers have
			c.send([]byte{0xE0, 1, 0x01})
			c.ended(packet.MalformedPacket, packet.ProtocolError)
		}},
		{"no session expiry from the server", "", "3.14.2-2", func(t trial, v packet.Version) {
			older := login(t, v, lasting)
			newer := login(t, v, named(older.id), lasting)
			older.ended(packet.SessionTakenOver) // and every DISCONNECT is checked for it
			newer.send([]byte{0, 0})
			newer.ended(packet.MalformedPacket, packet.ProtocolError)
		}},
	}
}

// authChecks are about enhanced authentication, which the server refuses (3.15, 4.12).
func authChecks() []check {
	method := func(_ *packet.Connect, p *packet.Properties) {
		p.Set(packet.AuthMethod)
		p.AuthMethod = []byte("SCRAM-SHA-256")
	}
	return []check{
		{"authentication method", "", "4.12.0-1 4.12.0-4", func(t trial, v packet.Version) {
			c := dial(t, v)
			if ack := c.hello(method); ack.Reason != packet.BadAuthMethod && ack.Reason != packet.NotAuthorized {
				t.Errorf("the reason is %v", ack.Reason)
			}
			c.closed()
		}},
		{"no AUTH from the server", "", "4.12.0-6", func(t trial, v packet.Version) {
			c := login(t, v) // every packet is checked for it
			if c.connack.Properties.Has(packet.AuthMethod) || c.connack.Properties.Has(packet.AuthData) {
				t.Error("CONNACK has an authentication method")
			}
		}},
		{"AUTH without a method", "", "4.12.0-7 4.12.1-2", func(t trial, v packet.Version) {
			var p packet.Properties
			method(nil, &p)
			for _, b := range [][]byte{{0xF0, 0}, packet.AppendAuth(nil, packet.ReAuthenticate, &p), packet.AppendAuth(nil, packet.ContinueAuthentication, &p)} {
				c := login(t, v)
				c.send(b)
				c.ended(packet.ProtocolError, packet.MalformedPacket, packet.BadAuthMethod)
			}
		}},
	}
}
