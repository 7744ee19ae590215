package conformance_test

import (
	"fmt"
	"strings"
	"time"

	"signalbox/internal/wire/packet"
)

// qosChecks are about the delivery protocols while a connection lasts (4.3, 4.5, 4.6).
func qosChecks() []check {
	return []check{
		{"QoS 0, 1 and 2 through", "4.3.1-1 4.3.2-1 4.3.2-2 4.3.3-1 4.3.3-2 2.3.1-6 4.5.0-1", "4.3.1-1 4.3.2-2 4.3.2-4 4.3.3-2 4.3.3-4 4.3.3-8 4.3.3-11 2.2.1-5 4.5.0-1", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 2)
			for i := range 30 {
				qos, text := uint8(i%3), fmt.Sprint("message ", i)
				from.publish(topic, text, qos)
				if p := c.take(topic, text, qos); p.Dup {
					t.Error("a first delivery has DUP")
				}
			}
		}},
		{"packet identifiers of the server", "2.3.1-4 2.3.1-1 4.3.2-1 4.3.3-1", "2.2.1-4 4.3.2-1 4.3.3-1", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 2)
			used := map[uint16]bool{}
			for i := range 15 {
				from.publish(topic, "x", uint8(1+i%2))
				p := c.message(topic, "x", uint8(1+i%2))
				if used[p.ID] {
					t.Fatalf("identifier %d is used twice", p.ID)
				}
				used[p.ID] = true
			}
		}},
		{"QoS 2 received once", "4.3.3-2", "4.3.3-10 4.3.3-12", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 2)
			send := func(text string, dup bool) {
				p := message(topic, text, 2)
				p.ID, p.Dup = 5, dup
				from.send(packet.AppendPublish(nil, v, p))
				from.acked(packet.PUBREC, 5)
			}
			release := func() {
				from.ack(packet.PUBREL, 5)
				from.acked(packet.PUBCOMP, 5)
			}
			send("once", false)
			send("once", true)
			send("once", true)
			release()
			c.take(topic, "once", 2)
			c.nothing(from, 2)
			send("twice", false) // the identifier is free again
			release()
			c.take(topic, "twice", 2)
			send("thrice", true) // even with DUP
			release()
			c.take(topic, "thrice", 2)
		}},
		{"QoS 2 refused is forgotten", "", "4.3.3-9", func(t trial, v packet.Version) {
			var name string
			c := login(t, v, asDevice(t, &name))
			send := func(topic string) *packet.Packet {
				p := message(topic, `{"temp":1}`, 2)
				p.ID = 5
				c.send(packet.AppendPublish(nil, v, p))
				return c.want(packet.PUBREC)
			}
			if p := send("somebody/else"); p.Reason < 0x80 || p.ID != 5 {
				t.Fatalf("a publish without right is answered with %v", p.Reason)
			}
			if p := send("signalbox/" + name + "/telemetry"); p.Reason >= 0x80 || p.ID != 5 {
				t.Errorf("the identifier of a refused message is refused again: %v", p.Reason)
			}
			c.ack(packet.PUBREL, 5)
			c.acked(packet.PUBCOMP, 5)
		}},
		{"QoS 1 after PUBACK is new", "4.3.2-2", "4.3.2-5", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 1)
			for i := range 3 {
				p := message(topic, fmt.Sprint(i), 1)
				p.ID, p.Dup = 5, i > 0
				from.send(packet.AppendPublish(nil, v, p))
				from.acked(packet.PUBACK, 5)
				c.take(topic, fmt.Sprint(i), 1)
			}
		}},
		{"PUBREL without PUBLISH", "4.3.3-2", "4.3.3-11 3.7.2-1", func(t trial, v packet.Version) {
			c := login(t, v)
			c.ack(packet.PUBREL, 4711)
			p := c.want(packet.PUBCOMP)
			if p.ID != 4711 || v == packet.V5 && p.Reason != packet.PacketIDNotFound {
				t.Errorf("PUBCOMP has identifier %d and reason %v", p.ID, p.Reason)
			}
		}},
		{"PUBREC for a message that is not there", "", "3.6.2-1", func(t trial, v packet.Version) {
			c := login(t, v)
			c.ack(packet.PUBREC, 4711)
			if p := c.want(packet.PUBREL); p.ID != 4711 || p.Reason != packet.PacketIDNotFound {
				t.Errorf("PUBREL has identifier %d and reason %v", p.ID, p.Reason)
			}
			c.ack(packet.PUBACK, 4712) // no answer is defined
			c.ack(packet.PUBCOMP, 4713)
			c.ping()
		}},
		{"PUBREL is unacknowledged until PUBCOMP", "4.3.3-1", "4.3.3-3 4.3.3-5", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 2)
			from.publish(topic, "x", 2)
			p := c.message(topic, "x", 2)
			c.ack(packet.PUBREC, p.ID)
			c.acked(packet.PUBREL, p.ID)
			c.leave()
			back := login(t, v, named(c.id), lasting)
			back.acked(packet.PUBREL, p.ID)
			back.ack(packet.PUBCOMP, p.ID)
			back.ping()
			back.leave()
			last := login(t, v, named(c.id), lasting)
			last.nothing(from, 2)
		}},
		{"order", "4.6.0-2 4.6.0-3 4.6.0-5 4.6.0-6", "4.6.0-2 4.6.0-3 4.6.0-5 4.6.0-6", order},
		{"order of PUBREL", "4.6.0-4", "4.6.0-4", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			c.subscribe(topic, 2)
			var ids []uint16
			for range 8 {
				from.publish(topic, "x", 2)
				ids = append(ids, c.message(topic, "x", 2).ID)
			}
			order := []int{3, 0, 7, 1, 2, 6, 5, 4}
			for _, i := range order {
				c.ack(packet.PUBREC, ids[i])
			}
			for _, i := range order {
				c.acked(packet.PUBREL, ids[i])
			}
		}},
		{"acknowledged with an error", "", "4.4.0-2 4.3.3-4", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 2)
			for qos, typ := range map[uint8]packet.Type{1: packet.PUBACK, 2: packet.PUBREC} {
				from.publish(topic, "x", qos)
				p := c.message(topic, "x", qos)
				c.send(packet.AppendAck(nil, v, typ, p.ID, packet.UnspecifiedError, nil))
				c.ping() // no PUBREL
			}
			c.leave()
			login(t, v, named(c.id), lasting).nothing(from, 1)
		}},
	}
}

// order sends in bursts, one write each, and reads acknowledgements and messages in order.
func order(t trial, v packet.Version) {
	const rounds, n = 10, 30
	topic := unique()
	c, from := login(t, v), login(t, v)
	if most := from.connack.Properties.ReceiveMaximum; v == packet.V5 && most > 0 && most < 2*n {
		t.Fatalf("the server's receive maximum is %d", most)
	}
	for qos := range uint8(3) {
		c.subscribe(fmt.Sprint(topic, "/", qos, "/#"), 2)
	}
	var next [3]int
	for round := range rounds {
		var burst []byte
		for i := range n {
			for qos := range uint8(3) {
				p := message(fmt.Sprint(topic, "/", qos, "/", i%3), fmt.Sprint(round*n+i), qos)
				if qos > 0 {
					p.ID = uint16(i*2) + uint16(qos)
				}
				burst = packet.AppendPublish(burst, v, p)
			}
		}
		from.send(burst)
		acknowledgedInOrder(from, n)
		for next[1]+next[2] < 2*n*(round+1) {
			p := c.want(packet.PUBLISH)
			var i int
			if _, err := fmt.Sscan(string(p.Payload), &i); err != nil {
				t.Fatal(err)
			}
			if p.QoS > 0 && i != next[p.QoS] || p.QoS == 0 && i < next[0] {
				t.Fatalf("QoS %d: message %d came where %d was due", p.QoS, i, next[p.QoS])
			}
			next[p.QoS] = i + 1
			c.settle(p)
		}
	}
}

// acknowledgedInOrder reads the acknowledgements of n messages of QoS 1, with odd identifiers,
// and n of QoS 2, with even ones, and releases the latter.
func acknowledgedInOrder(c *client, n int) {
	c.t.Helper()
	var acks, recs, comps int
	for acks+recs+comps < 3*n {
		p := c.read()
		switch {
		case p.Type == packet.PUBACK && p.ID == uint16(acks*2+1):
			acks++
		case p.Type == packet.PUBREC && p.ID == uint16(recs*2+2):
			recs++
			c.ack(packet.PUBREL, p.ID)
		case p.Type == packet.PUBCOMP && p.ID == uint16(comps*2+2):
			comps++
		default:
			c.t.Fatalf("a packet of type %d with identifier %d came after %d PUBACK, %d PUBREC, %d PUBCOMP", p.Type, p.ID, acks, recs, comps)
		}
	}
}

// resendChecks are about what is sent again to a session that comes back (4.4).
func resendChecks() []check {
	return []check{
		{"sent again with DUP and the same identifier", "3.3.1-1 4.4.0-1 2.3.1-3 2.3.1-4 4.6.0-1 4.3.2-1", "3.3.1-1 4.4.0-1 4.6.0-1 4.3.2-3 4.3.3-3", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 2)
			var sent []*packet.Packet
			for i := range 6 {
				qos := uint8(1 + i%2)
				from.publish(topic, fmt.Sprint(i), qos)
				sent = append(sent, c.message(topic, fmt.Sprint(i), qos))
			}
			c.ping() // nothing is sent again while the connection lasts
			c.leave()
			from.publish(topic, "later", 1)
			back := login(t, v, named(c.id), lasting)
			for i, p := range sent {
				again := back.message(topic, fmt.Sprint(i), p.QoS)
				if !again.Dup || again.ID != p.ID {
					t.Errorf("message %d comes again with DUP %t and identifier %d, it had %d", i, again.Dup, again.ID, p.ID)
				}
			}
			if p := back.message(topic, "later", 1); p.Dup {
				t.Error("a message that was never sent has DUP")
			}
		}},
		{"nothing is sent again in a connection", "4.4.0-1", "4.4.0-1", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 2)
			from.publish(topic, "1", 1)
			from.publish(topic, "2", 2)
			c.message(topic, "1", 1)
			c.message(topic, "2", 2)
			wait(3 * time.Second)
			c.ping()
			if len(c.stash) > 0 {
				t.Error("the server has sent a message again in the same connection")
			}
		}},
		{"after PUBREC no PUBLISH comes again", "4.3.3-1 4.4.0-1", "4.3.3-6 4.4.0-1", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 2)
			var ids []uint16
			for i := range 3 {
				from.publish(topic, fmt.Sprint(i), 2)
				ids = append(ids, c.message(topic, fmt.Sprint(i), 2).ID)
			}
			c.ack(packet.PUBREC, ids[1])
			c.acked(packet.PUBREL, ids[1])
			c.leave()
			back := login(t, v, named(c.id), lasting)
			var published, released []uint16
			for range 3 {
				p := back.read()
				switch p.Type {
				case packet.PUBLISH:
					published = append(published, p.ID)
				case packet.PUBREL:
					released = append(released, p.ID)
				default:
					t.Fatalf("a packet of type %d came", p.Type)
				}
			}
			if fmt.Sprint(published) != fmt.Sprint([]uint16{ids[0], ids[2]}) || fmt.Sprint(released) != fmt.Sprint(ids[1:2]) {
				t.Errorf("published again %d, released again %d of %d", published, released, ids)
			}
		}},
		{"acknowledged is not sent again", "4.3.2-1", "4.3.2-3", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, lasting), login(t, v)
			c.subscribe(topic, 2)
			for i := range 4 {
				from.publish(topic, fmt.Sprint(i), uint8(1+i%2))
				c.take(topic, fmt.Sprint(i), uint8(1+i%2))
			}
			c.ping()
			c.leave()
			login(t, v, named(c.id), lasting).nothing(from, 2)
		}},
		{"QoS 2 of the client across connections", "4.4.0-1 4.3.3-2 4.1.0-1", "4.4.0-1 4.3.3-10", func(t trial, v packet.Version) {
			topic := unique()
			watcher, c := login(t, v), login(t, v, lasting)
			watcher.subscribe(topic, 2)
			p := message(topic, "once", 2)
			p.ID = 77
			c.send(packet.AppendPublish(nil, v, p))
			c.acked(packet.PUBREC, 77)
			c.drop()
			back := login(t, v, named(c.id), lasting)
			p.Dup = true
			back.send(packet.AppendPublish(nil, v, p))
			back.acked(packet.PUBREC, 77)
			back.ack(packet.PUBREL, 77)
			back.acked(packet.PUBCOMP, 77)
			watcher.take(topic, "once", 2)
			watcher.nothing(watcher, 2)
		}},
	}
}

// limitChecks are about receive maximum and maximum packet size (3.1.2.11, 3.2.2.3, 4.9).
func limitChecks() []check {
	return []check{
		{"receive maximum of the client", "", "3.3.4-9 3.3.4-10 4.9.0-1 4.9.0-2 4.9.0-3", func(t trial, v packet.Version) {
			for _, most := range []uint16{1, 2, 5} {
				topic := unique()
				c, from := login(t, v, receiveMaximum(most)), login(t, v)
				c.subscribe(topic, 2)
				for i := range 12 {
					from.publish(topic, fmt.Sprint(i), uint8(1+i%2))
				}
				from.publish(topic, "free", 0)
				c.ping() // other packets are not held up
				var open []*packet.Packet
				for i := range int(most) {
					p := c.message(topic, fmt.Sprint(i), uint8(1+i%2))
					open = append(open, p)
				}
				if p := c.want(packet.PUBLISH); p.QoS != 0 {
					t.Fatalf("with receive maximum %d message %q came with %d open", most, p.Payload, len(open))
				}
				c.unsubscribe(unique())
				if len(c.stash) > 0 {
					t.Fatalf("with receive maximum %d %d messages came too early", most, len(c.stash))
				}
				for i := int(most); i < 12; i++ {
					c.settle(open[0])
					p := c.want(packet.PUBLISH)
					if string(p.Payload) != fmt.Sprint(i) {
						t.Fatalf("got %q, want %d", p.Payload, i)
					}
					open = append(open[1:], p)
					c.ping()
					if len(c.stash) > 0 {
						t.Fatalf("with receive maximum %d more messages came than were settled", most)
					}
				}
			}
		}},
		{"quota returns with an error", "", "3.3.4-9 4.9.0-2", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, receiveMaximum(1)), login(t, v)
			c.subscribe(topic, 2)
			for i := range 4 {
				from.publish(topic, fmt.Sprint(i), uint8(1+i%2))
			}
			for i := range 4 {
				p := c.message(topic, fmt.Sprint(i), uint8(1+i%2))
				typ := packet.PUBACK
				if p.QoS == 2 {
					typ = packet.PUBREC
				}
				c.send(packet.AppendAck(nil, v, typ, p.ID, packet.UnspecifiedError, nil))
			}
			c.ping()
		}},
		{"receive maximum of the server", "", "3.3.4-7 4.9.0-3", ignoreReceiveMaximum},
		{"maximum packet size of the client", "", "3.1.2-24 3.1.2-25", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v, maximumPacketSize(128), lasting), login(t, v)
			c.subscribe(topic, 2)
			large := strings.Repeat("x", 200)
			for qos := range uint8(3) {
				from.publish(topic, large, qos)
				from.publish(topic, "small", qos)
				c.take(topic, "small", qos)
			}
			c.leave()
			from.publish(topic, large, 1)
			from.publish(topic, "small", 1)
			back := login(t, v, maximumPacketSize(128), lasting, named(c.id))
			back.take(topic, "small", 1)
			back.nothing(from, 1)
			from.publish(topic, "x", 1, func(p *packet.Packet) {
				p.Properties.Set(packet.UserProperty)
				p.Properties.User = user("key", large)
			})
			from.publish(topic, "small", 1)
			back.take(topic, "small", 1) // a message is not sent without its user properties
		}},
		{"properties of answers within the client's maximum", "", "3.4.2-2 3.4.2-3 3.5.2-2 3.5.2-3 3.6.2-2 3.6.2-3 3.7.2-2 3.7.2-3 3.9.2-1 3.9.2-2 3.11.2-1 3.11.2-2", func(t trial, v packet.Version) {
			least := uint32(len(login(t, v).raw)) // a CONNACK
			for _, most := range []uint32{least, least + 8, least + 24, 256} {
				for i, told := range failures(login(t, v, maximumPacketSize(most))) { // what it reads is held to that
					if most == 256 && i < reasoned && !told { // or there would be nothing to leave out
						t.Errorf("answer %d says nothing of what failed", i)
					}
				}
			}
		}},
		{"DISCONNECT within the client's maximum", "", "3.14.2-3 3.14.2-4", func(t trial, v packet.Version) {
			least := uint32(len(login(t, v).raw)) // a CONNACK
			for _, most := range []uint32{least, least + 8} {
				c := login(t, v, maximumPacketSize(most))
				c.send([]byte{0, 0})
				c.ended()
			}
		}},
		{"packet larger than the server's maximum", "", "3.2.2-15", func(t trial, v packet.Version) {
			c := login(t, v)
			most := c.connack.Properties.MaximumPacketSize
			if most == 0 {
				t.Fatal("the server names no Maximum Packet Size")
			}
			c.send([]byte{0x30}, varint(int(most)), str(unique()))
			c.ended(packet.PacketTooLarge)
		}},
	}
}

// ignoreReceiveMaximum sends more messages at once than the server wants: it may disconnect
// with 0x93, or read no further for a while; it answers the ones it took and stays alive.
func ignoreReceiveMaximum(t trial, v packet.Version) {
	topic := unique()
	from := login(t, v)
	most := int(from.connack.Properties.ReceiveMaximum)
	if most == 0 || most > 30000 {
		most = 30000
	}
	var burst []byte
	for i := range most + 20 {
		p := message(topic, "x", 2)
		p.ID = uint16(i + 1)
		burst = packet.AppendPublish(burst, v, p)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = from.conn.Write(burst) // the server may close before it has read all
	}()
	next := uint16(1)
	for {
		p, err := from.try(patience)
		if p == nil && !isTimeout(err) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if p.Type == packet.DISCONNECT {
			if p.Reason != packet.ReceiveMaximumExceeded {
				t.Errorf("the server disconnected with reason %v", p.Reason)
			}
			break
		}
		if p.Type != packet.PUBREC || p.ID != next {
			t.Fatalf("a packet of type %d, identifier %d came, want PUBREC of %d", p.Type, p.ID, next)
		}
		if int(next) == most+20 {
			break
		}
		next++
	}
	_ = from.conn.Close()
	<-done
	login(t, v).leave()
}
