package conformance_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"signalbox/internal/wire/packet"
)

// subscribeChecks are about SUBSCRIBE and SUBACK (3.8, 3.9).
func subscribeChecks() []check {
	return []check{
		{"SUBACK", "3.8.4-1 3.8.4-2 2.3.1-7 3.8.4-4 3.8.4-5 3.9.3-1 3.9.3-2", "3.8.4-1 3.8.4-2 2.2.1-6 3.8.4-5 3.8.4-6 3.8.4-7 3.9.3-1 3.9.3-2", func(t trial, v packet.Version) {
			c := login(t, v)
			for _, id := range []uint16{1, 256, 65535} {
				c.next = id - 1
				root := unique()
				var filters []packet.Filter
				for i, qos := range []byte{2, 0, 1, 1, 0, 2} {
					filters = append(filters, packet.Filter{Text: fmt.Append(nil, root, "/", i), QoS: qos})
				}
				if got := c.subscribeAll(filters, nil); !bytes.Equal(got, []byte{2, 0, 1, 1, 0, 2}) {
					t.Errorf("SUBACK says % x", got)
				}
				for i := range filters {
					topic := fmt.Sprint(root, "/", i)
					c.publish(topic, "x", 2)
					c.take(topic, "x", filters[i].QoS)
				}
			}
		}},
		{"a refused filter", "3.8.4-5 3.9.3-2", "3.8.4-6 3.8.4-7 3.9.3-2", func(t trial, v packet.Version) {
			var name string
			topic := unique()
			c := login(t, v, asDevice(t, &name))
			own := "signalbox/" + name + "/command"
			got := c.subscribeAll([]packet.Filter{{Text: []byte(topic), QoS: 1}, {Text: []byte(own), QoS: 1}, {Text: []byte("signalbox/another/#"), QoS: 0}}, nil)
			if got[0] < 0x80 || got[1] != 1 || got[2] < 0x80 {
				t.Errorf("SUBACK says % x, want a failure, QoS 1, a failure", got)
			}
			if v == packet.V311 && (got[0] != 0x80 || got[2] != 0x80) {
				t.Errorf("a 3.1.1 SUBACK fails with % x", got)
			}
			if v == packet.V5 && (got[0] != byte(packet.NotAuthorized) || got[2] != byte(packet.NotAuthorized)) {
				t.Errorf("a 5.0 SUBACK fails with % x", got)
			}
		}},
		{"QoS of a subscription", "3.8.4-6", "3.8.4-8", func(t trial, v packet.Version) {
			from := login(t, v)
			for granted := range uint8(3) {
				topic := unique()
				c := login(t, v)
				c.subscribe(topic, granted)
				for qos := range uint8(3) {
					from.publish(topic, "x", qos)
					c.take(topic, "x", min(qos, granted))
				}
			}
		}},
		{"a subscription replaced", "3.8.4-3", "3.8.4-3 3.8.4-4", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			from.publish(topic, "kept", 2, retained)
			for _, qos := range []uint8{2, 0, 1} {
				c.subscribe(topic, qos)
				c.take(topic, "kept", qos)
				from.publish(topic, "x", 2)
				c.take(topic, "x", qos) // and not twice
			}
			c.nothing(from, 2)
		}},
		{"nothing is lost while a subscription is replaced", "3.8.4-3", "3.8.4-4", func(t trial, v packet.Version) {
			const n = 200
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 1)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := range n {
					p := message(topic, fmt.Sprint(i), 1)
					p.ID = uint16(i + 1)
					if _, err := from.conn.Write(packet.AppendPublish(nil, v, p)); err != nil {
						t.Error(err)
						return
					}
					if p, err := from.try(patience); err != nil || p.Type != packet.PUBACK {
						t.Errorf("no PUBACK: %v", err)
						return
					}
				}
			}()
			for range 20 {
				c.subscribe(topic, 1)
			}
			for i := range n {
				c.take(topic, fmt.Sprint(i), 1)
			}
			<-done
		}},
		{"overlapping subscriptions", "3.3.5-1", "3.3.4-2", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic+"/#", 0)
			c.subscribe(topic+"/+", 2)
			c.subscribe(topic+"/a", 1)
			from.publish(topic+"/a", "x", 2)
			best := uint8(0)
			end := unique()
			c.subscribe(end, 2)
			from.publish(end, "end", 2)
			for {
				p := c.want(packet.PUBLISH)
				c.settle(p)
				if string(p.Payload) == "end" {
					break
				}
				best = max(best, p.QoS)
			}
			if best != 2 {
				t.Errorf("the best copy has QoS %d, want 2", best)
			}
		}},
		{"subscription identifiers", "", "3.3.4-3 3.3.4-4 3.3.4-5", subscriptionIdentifiers},
		{"no local", "", "3.8.3-3", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 1, func(f *packet.Filter, _ *packet.Properties) { f.NoLocal = true })
			c.publish(topic, "mine", 1)
			from.publish(topic, "theirs", 1)
			c.take(topic, "theirs", 1)
			c.leave()
			back := login(t, v, named(c.id), lasting)
			back.publish(topic, "mine", 1)
			from.publish(topic, "theirs", 1)
			back.take(topic, "theirs", 1)
		}},
		{"no local on a shared subscription", "", "3.8.3-4", func(t trial, v packet.Version) {
			c := login(t, v)
			c.send(packet.AppendSubscribe(nil, v, 1, []packet.Filter{{Text: []byte("$share/g/" + unique()), NoLocal: true}}, nil))
			c.ended(packet.ProtocolError)
		}},
		{"no filter", "3.8.3-3", "3.8.3-2", func(t trial, v packet.Version) {
			c := login(t, v)
			c.send(frame(0x82, num(1), c.none()))
			c.ended(packet.ProtocolError, packet.MalformedPacket)
			c = login(t, v)
			c.send(frame(0x82, num(1), c.none(), str(unique()))) // without options
			c.ended(packet.ProtocolError, packet.MalformedPacket)
		}},
		{"options with reserved bits", "3.8.3-4", "3.8.3-5", func(t trial, v packet.Version) {
			options := []byte{3, 0x40, 0x80, 0xC0}
			if v == packet.V311 {
				options = append(options, 4, 8, 0x10, 0x20)
			}
			for _, o := range options {
				c := login(t, v)
				c.send(frame(0x82, num(1), c.none(), str(unique()), []byte{o}))
				c.ended(packet.ProtocolError, packet.MalformedPacket)
			}
		}},
		{"filters are UTF-8", "3.8.3-1 3.10.3-1", "3.8.3-1 3.10.3-1", func(t trial, v packet.Version) {
			for _, filter := range []string{"a/\xff", "\xed\xbf\xbf", "a\x00b"} {
				c := login(t, v)
				c.send(frame(0x82, num(1), c.none(), str(filter), []byte{0}))
				c.ended(packet.MalformedPacket, packet.TopicFilterInvalid, packet.ProtocolError)
				c = login(t, v)
				c.send(frame(0xA2, num(1), c.none(), str(filter)))
				c.ended(packet.MalformedPacket, packet.TopicFilterInvalid, packet.ProtocolError)
			}
		}},
		{"wildcards are supported", "3.8.3-2", "", func(t trial, v packet.Version) {
			topic := unique()
			c := login(t, v)
			c.subscribe(topic+"/+/#", 1)
			c.publish(topic+"/a/b/c", "x", 1)
			c.take(topic+"/a/b/c", "x", 1)
		}},
	}
}

func subscriptionIdentifiers(t trial, v packet.Version) {
	topic := unique()
	c, from := login(t, v, lasting), login(t, v)
	c.subscribe(topic+"/#", 1, subscriptionID(7))
	c.subscribe(topic+"/+", 2, subscriptionID(268435455))
	c.subscribe(topic+"/a", 0)
	get := func(c *client) []uint32 {
		t.Helper()
		var ids []uint32
		for {
			p := c.want(packet.PUBLISH)
			c.settle(p)
			if string(p.Topic) == topic+"/x/end" {
				slices.Sort(ids)
				return ids
			}
			if p.Properties.Has(packet.SubscriptionID) {
				ids = append(append(ids, p.Properties.SubscriptionID), p.Properties.MoreSubscriptionIDs...)
			}
		}
	}
	want := []uint32{7, 268435455}
	from.publish(topic+"/a", "x", 1)
	from.publish(topic+"/x/end", "", 1)
	if got := get(c); !slices.Equal(got, want) {
		t.Errorf("the subscription identifiers are %d, want %d", got, want)
	}
	c.leave()
	from.publish(topic+"/a", "x", 1)
	from.publish(topic+"/x/end", "", 1)
	back := login(t, v, named(c.id), lasting)
	if got := get(back); !slices.Equal(got, want) {
		t.Errorf("for a session that was away the subscription identifiers are %d, want %d", got, want)
	}
	back.subscribe(topic+"/#", 1) // replaced: without
	back.subscribe(topic+"/+", 1, subscriptionID(9))
	from.publish(topic+"/a", "x", 1)
	from.publish(topic+"/x/end", "", 1)
	if got := get(back); !slices.Equal(got, []uint32{9}) {
		t.Errorf("after a replacement the subscription identifiers are %d, want 9", got)
	}
	bad := login(t, v)
	bad.send(frame(0x82, num(1), []byte{2, 0x0B, 0}, str(topic), []byte{0}))
	bad.ended(packet.ProtocolError, packet.MalformedPacket)
}

// unsubscribeChecks are about UNSUBSCRIBE and UNSUBACK (3.10, 3.11).
func unsubscribeChecks() []check {
	return []check{
		{"UNSUBACK", "3.10.4-4 3.10.4-5 3.10.4-6 2.3.1-7", "3.10.4-4 3.10.4-5 3.10.4-6 2.2.1-6 3.11.3-1 3.11.3-2", func(t trial, v packet.Version) {
			topic := unique()
			c := login(t, v)
			c.subscribe(topic+"/1", 1)
			c.subscribe(topic+"/3", 1)
			c.next = 999
			got := c.unsubscribe(topic+"/1", topic+"/2", topic+"/3", topic+"/3")
			if want := []byte{0, 0x11, 0, 0x11}; v == packet.V5 && !bytes.Equal(got, want) {
				t.Errorf("UNSUBACK says % x, want % x", got, want)
			}
			if v == packet.V311 && len(c.raw) != 4 {
				t.Errorf("UNSUBACK is % x", c.raw)
			}
			c.publish(topic+"/1", "x", 1)
			c.publish(topic+"/3", "x", 1)
			c.nothing(c, 1)
		}},
		{"filters are compared character by character", "3.10.4-1", "3.10.4-1", func(t trial, v packet.Version) {
			topic := unique()
			c := login(t, v)
			c.subscribe(topic+"/+", 1)
			c.unsubscribe(topic+"/#", topic+"/a", topic, strings.ToUpper(topic)+"/+", "#", topic+"/+/")
			c.publish(topic+"/a", "x", 1)
			c.take(topic+"/a", "x", 1)
			c.unsubscribe(topic + "/+")
			c.publish(topic+"/a", "x", 1)
			c.nothing(c, 1)
		}},
		{"no new messages after UNSUBACK", "3.10.4-2", "3.10.4-2", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			for qos := range uint8(3) {
				c.subscribe(topic, qos)
				c.unsubscribe(topic)
				from.publish(topic, "x", qos)
				c.nothing(from, qos)
			}
		}},
		{"what was begun is completed", "3.10.4-3", "3.10.4-3", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 2)
			from.publish(topic, "begun", 2)
			p := c.message(topic, "begun", 2)
			c.unsubscribe(topic)
			c.leave()
			back := login(t, v, named(c.id), lasting)
			again := back.message(topic, "begun", 2)
			if again.ID != p.ID || !again.Dup {
				t.Errorf("it comes again with identifier %d, DUP %t", again.ID, again.Dup)
			}
			back.settle(again)
		}},
		{"no filter", "3.10.3-2", "3.10.3-2", func(t trial, v packet.Version) {
			c := login(t, v)
			c.send(frame(0xA2, num(1), c.none()))
			c.ended(packet.ProtocolError, packet.MalformedPacket)
		}},
	}
}
