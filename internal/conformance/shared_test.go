package conformance_test

import (
	"fmt"

	"signalbox/internal/wire/packet"
)

// sharedChecks are about shared subscriptions (4.8.2).
func sharedChecks() []check {
	return []check{
		{"each message to one of the group", "", "4.8.2-1 3.3.2-3", func(t trial, v packet.Version) {
			const n = 40
			topic := unique()
			from, other := login(t, v), login(t, v)
			group := []*client{login(t, v), login(t, v), login(t, v)}
			for _, c := range group {
				c.subscribe("$share/g/"+topic+"/#", 1)
				c.subscribe(topic+"-end", 1)
			}
			other.subscribe("$share/h/"+topic+"/+", 1)
			for i := range n {
				from.publish(topic+"/x", fmt.Sprint(i), 1)
			}
			from.publish(topic+"-end", "end", 1)
			seen := map[string]int{}
			for i, c := range group {
				got := 0
				for {
					p := c.want(packet.PUBLISH)
					c.settle(p)
					if string(p.Payload) == "end" {
						break
					}
					seen[string(p.Payload)]++
					got++
				}
				if got == 0 {
					t.Errorf("member %d of the group got nothing", i)
				}
			}
			for i := range n {
				if seen[fmt.Sprint(i)] != 1 {
					t.Errorf("message %d came %d times", i, seen[fmt.Sprint(i)])
				}
				other.take(topic+"/x", fmt.Sprint(i), 1) // the other group has all
			}
		}},
		{"wrong shared filters", "", "4.8.2-1 4.8.2-2", func(t trial, v packet.Version) {
			for _, filter := range []string{"$share//a", "$share/g", "$share/g/", "$share/g+/a", "$share/#/a", "$share/+/a", "$share/", "$share/g/a/#/b"} {
				c := login(t, v)
				c.send(frame(0x82, num(1), []byte{0}, str(filter), []byte{0}))
				p, err := c.try(patience)
				told := err == nil && (p.Type == packet.SUBACK && p.Reasons[0] >= 0x80 || p.Type == packet.DISCONNECT && p.Reason >= 0x80)
				if !told {
					t.Errorf("filter %q was answered with % x, %v", filter, c.raw, err)
				}
			}
		}},
		{"granted QoS of a shared subscription", "", "4.8.2-3", func(t trial, v packet.Version) {
			from := login(t, v)
			for granted := range uint8(3) {
				topic := unique()
				c := login(t, v)
				c.subscribe("$share/g/"+topic, granted)
				from.publish(topic, "x", 2)
				c.take(topic, "x", min(2, granted))
			}
		}},
		{"a QoS 2 delivery stays with its client", "", "4.8.2-4 4.8.2-5", func(t trial, v packet.Version) {
			topic := unique()
			one, from := login(t, v, lasting), login(t, v)
			one.subscribe("$share/g/"+topic, 2)
			from.publish(topic, "mine", 2)
			p := one.message(topic, "mine", 2)
			two := login(t, v)
			two.subscribe("$share/g/"+topic, 2)
			one.leave()
			two.nothing(from, 2)
			back := login(t, v, named(one.id), lasting)
			again := back.message(topic, "mine", 2)
			if again.ID != p.ID || !again.Dup {
				t.Errorf("it comes again with identifier %d, DUP %t", again.ID, again.Dup)
			}
			back.ack(packet.PUBREC, again.ID)
			back.acked(packet.PUBREL, again.ID)
			back.leave()
			login(t, v, named(one.id)).leave() // ends the session
			two.nothing(from, 2)
		}},
		{"refused by one, offered to none", "", "4.8.2-6", func(t trial, v packet.Version) {
			topic := unique()
			from := login(t, v)
			group := []*client{login(t, v), login(t, v)}
			for _, c := range group {
				c.subscribe("$share/g/"+topic, 1)
				c.subscribe(topic+"-end", 1)
			}
			from.publish(topic, "bad", 1)
			from.publish(topic+"-end", "end", 1)
			came := 0
			for _, c := range group {
				for {
					p := c.want(packet.PUBLISH)
					if string(p.Payload) == "end" {
						c.settle(p)
						break
					}
					came++
					c.send(packet.AppendAck(nil, v, packet.PUBACK, p.ID, packet.UnspecifiedError, nil))
				}
			}
			for _, c := range group {
				c.nothing(from, 1)
			}
			if came != 1 {
				t.Errorf("the message came %d times", came)
			}
		}},
		{"no retained messages for a shared subscription", "", "3.3.1-9", func(t trial, v packet.Version) {
			topic := unique()
			c, from := login(t, v), login(t, v)
			from.publish(topic, "kept", 1, retained)
			c.subscribe("$share/g/"+topic, 1)
			c.nothing(from, 1)
		}},
	}
}
