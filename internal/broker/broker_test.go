package broker_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox/internal/broker"
	"signalbox/internal/wire/packet"
)

func TestQualitiesOfService(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		for pub := range uint8(3) {
			for sub := range uint8(3) {
				t.Run(fmt.Sprintf("v%d from %d to %d", v, pub, sub), func(t *testing.T) {
					h := memory(t, broker.Config{}, nil)
					as := func(h *broker.Hello) { h.Connect.Version = v }
					from, to := h.connect(t, "from", as), h.connect(t, "to", as)
					if r := to.subscribe(t, filter("a/+", sub)); r[0] != sub {
						t.Fatalf("granted %d", r[0])
					}
					if o := from.publish(t, "a/b", "hello", pub, 9); o != (broker.Outcome{}) {
						t.Fatalf("%+v", o)
					}
					switch pub {
					case 1:
						if g := from.want(t, packet.PUBACK); g.ID != 9 || g.Reason != 0 {
							t.Errorf("PUBACK %d %#x", g.ID, g.Reason)
						}
					case 2:
						if g := from.want(t, packet.PUBREC); g.ID != 9 || g.Reason != 0 {
							t.Errorf("PUBREC %d %#x", g.ID, g.Reason)
						}
						from.publish(t, "a/b", "hello", pub, 9, dup) // again: the same message
						from.want(t, packet.PUBREC)
						from.ack(packet.PUBREL, 9)
						from.want(t, packet.PUBCOMP)
						from.ack(packet.PUBREL, 9)
						if g := from.want(t, packet.PUBCOMP); v == packet.V5 && g.Reason != packet.PacketIDNotFound {
							t.Errorf("PUBCOMP of an unknown identifier: %#x", g.Reason)
						}
					}
					g := to.want(t, packet.PUBLISH)
					if g.topic != "a/b" || g.payload != "hello" || g.QoS != min(pub, sub) || g.Dup || g.Retain {
						t.Errorf("got %+v", g)
					}
					switch g.QoS {
					case 1:
						to.ack(packet.PUBACK, g.ID)
					case 2:
						to.ack(packet.PUBREC, g.ID)
						if r := to.want(t, packet.PUBREL); r.ID != g.ID {
							t.Errorf("PUBREL %d for %d", r.ID, g.ID)
						}
						to.ack(packet.PUBCOMP, g.ID)
						to.ack(packet.PUBREC, g.ID)
						if r := to.want(t, packet.PUBREL); v == packet.V5 && r.Reason != packet.PacketIDNotFound {
							t.Errorf("PUBREL of an unknown identifier: %#x", r.Reason)
						}
					}
					from.Ping()
					from.want(t, packet.PINGRESP)
					to.none(t)
					if n := h.Stats().QueuedMessages.Load(); n != 0 {
						t.Errorf("%d messages are still queued", n)
					}
				})
			}
		}
	}
}

func TestOverlappingSubscriptionsGiveOneMessage(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	from, to := h.connect(t, "from"), h.connect(t, "to")
	to.subscribeAs(t, 5, filter("a/#", 0))
	to.subscribeAs(t, 6, filter("a/b", 1))
	to.subscribeAs(t, 7, filter("+/b", 0))
	from.publish(t, "a/b", "x", 2, 1)
	g := to.want(t, packet.PUBLISH)
	ids := map[uint32]bool{g.Properties.SubscriptionID: true}
	for _, id := range g.Properties.MoreSubscriptionIDs {
		ids[id] = true
	}
	if g.QoS != 1 || len(ids) != 3 || !ids[5] || !ids[6] || !ids[7] {
		t.Errorf("QoS %d, identifiers %v", g.QoS, ids)
	}
	from.want(t, packet.PUBREC)
	to.none(t)
}

func TestOptionsOfSubscriptions(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	c := h.connect(t, "c")
	other := h.connect(t, "other")
	c.subscribe(t, packet.Filter{Text: []byte("own/#"), QoS: 1, NoLocal: true})
	c.publish(t, "own/x", "mine", 1, 1)
	c.want(t, packet.PUBACK)
	c.none(t) // [MQTT-3.8.3-3]
	other.publish(t, "own/x", "theirs", 1, 1)
	if g := c.want(t, packet.PUBLISH); g.payload != "theirs" {
		t.Errorf("got %q", g.payload)
	}
	for _, asIs := range []bool{false, true} {
		c.subscribe(t, packet.Filter{Text: []byte("r/#"), QoS: 0, RetainAsPublished: asIs, Handling: packet.RetainNever})
		other.publish(t, "r/x", "r", 0, 0, retain)
		if g := c.want(t, packet.PUBLISH); g.Retain != asIs {
			t.Errorf("retain as published %v: %v", asIs, g.Retain)
		}
	}
	p := packet.Packet{Type: packet.SUBSCRIBE, ID: 1, Filters: []packet.Filter{{Text: []byte("$share/g/x"), NoLocal: true}}}
	if o := c.Subscribe(&p, nil); !o.Close || o.Reason != packet.ProtocolError {
		t.Errorf("shared and no local: %+v", o)
	}
}

func TestUnsubscribe(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	c := h.connect(t, "c")
	c.subscribe(t, filter("a", 0), filter("b/#", 1), filter("$share/g/c", 0))
	if n := h.Stats().Subscriptions.Load(); n != 3 {
		t.Fatalf("%d subscriptions", n)
	}
	c.Unsubscribe(&packet.Packet{Type: packet.UNSUBSCRIBE, ID: 3, Filters: []packet.Filter{filter("a", 0), filter("nothing", 0), filter("$share/g/c", 0)}})
	g := c.want(t, packet.UNSUBACK)
	if string(g.Reasons) != "\x00\x11\x00" {
		t.Errorf("reasons %x", g.Reasons)
	}
	c.publish(t, "a", "x", 0, 0)
	c.publish(t, "c", "x", 0, 0)
	c.publish(t, "b/1", "y", 0, 0)
	if g := c.want(t, packet.PUBLISH); g.topic != "b/1" {
		t.Errorf("got %s", g.topic)
	}
}

func TestRetainedMessages(t *testing.T) {
	h := memory(t, broker.Config{MaxRetained: 12}, nil) // a quarter for one owner
	from := h.connect(t, "from")
	for i, topic := range []string{"r/a/1", "r/a/2", "s"} {
		from.publish(t, topic, "v"+topic, 1, uint16(i+1), retain)
		if g := from.want(t, packet.PUBACK); g.Reason != 0 {
			t.Fatalf("%s: %#x", topic, g.Reason)
		}
	}
	from.publish(t, "too/many", "x", 1, 9, retain)
	if g := from.want(t, packet.PUBACK); g.Reason != packet.QuotaExceeded {
		t.Errorf("a topic too many: %#x", g.Reason)
	}
	for _, tc := range []struct {
		filter string
		want   string
	}{
		{"r/a/1", "r/a/1"}, {"r/a/+", "r/a/1 r/a/2"}, {"#", "r/a/1 r/a/2 s"}, {"r/#", "r/a/1 r/a/2"}, {"s/#", "s"}, {"+", "s"}, {"$share/g/#", ""}, {"r/a/1/#", "r/a/1"}, {"x", ""},
	} {
		t.Run(tc.filter, func(t *testing.T) {
			c := h.connect(t, "c")
			c.subscribe(t, filter(tc.filter, 1))
			seen := map[string]bool{}
			want := strings.Fields(tc.want)
			for range want {
				g := c.want(t, packet.PUBLISH)
				seen[g.topic] = g.Retain && g.payload == "v"+g.topic && g.QoS == 1
				c.ack(packet.PUBACK, g.ID)
			}
			for _, topic := range want {
				if !seen[topic] {
					t.Errorf("%s did not come as it should", topic)
				}
			}
			c.Ping()
			c.want(t, packet.PINGRESP)
			c.none(t)
		})
	}
	c := h.connect(t, "c")
	c.subscribe(t, packet.Filter{Text: []byte("s"), Handling: packet.RetainSendIfNew})
	c.want(t, packet.PUBLISH)
	c.subscribe(t, packet.Filter{Text: []byte("s"), Handling: packet.RetainSendIfNew})
	c.subscribe(t, packet.Filter{Text: []byte("s"), Handling: packet.RetainNever})
	from.publish(t, "s", "", 0, 0, retain) // [MQTT-3.3.1-6]
	if g := c.want(t, packet.PUBLISH); g.payload != "" {
		t.Errorf("got %q", g.payload)
	}
	if n := h.Stats().Retained.Load(); n != 2 {
		t.Errorf("%d are retained", n)
	}
	from.publish(t, "too/many", "x", 1, 9, retain)
	if g := from.want(t, packet.PUBACK); g.Reason != 0 {
		t.Errorf("with room again: %#x", g.Reason)
	}
}

func TestManyRetainedMessagesComeInPortions(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	from, c := h.connect(t, "from"), h.connect(t, "c")
	const many = 3000
	for i := range many {
		from.publish(t, fmt.Sprintf("r/%d/%d", i%7, i), "x", uint8(i%2), uint16(i+1), retain)
		if i%2 == 1 {
			from.want(t, packet.PUBACK)
		}
	}
	c.subscribe(t, filter("r/#", 1))
	seen := map[string]bool{}
	for len(seen) < many {
		g := c.want(t, packet.PUBLISH)
		if seen[g.topic] {
			t.Fatalf("%s came twice", g.topic)
		}
		seen[g.topic] = true
		if g.QoS > 0 {
			c.ack(packet.PUBACK, g.ID)
		}
	}
}

func TestSharedSubscriptions(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	from := h.connect(t, "from")
	members := make([]*client, 3)
	for i := range members {
		members[i] = h.connect(t, fmt.Sprint(i), expiry(100))
		members[i].subscribe(t, filter("$share/g/a/+", 1))
	}
	plain := h.connect(t, "plain")
	plain.subscribe(t, filter("a/#", 0))
	counts := make([]int, 3)
	send := func(n int) {
		t.Helper()
		for i := range n {
			from.publish(t, "a/b", fmt.Sprint(i), 1, uint16(i+1))
			from.want(t, packet.PUBACK)
			plain.want(t, packet.PUBLISH)
		}
		got := 0
		eventually(t, "all came", func() bool {
			for i, m := range members {
				m.mu.Lock()
				list := m.list
				m.list = nil
				m.mu.Unlock()
				for j := range list {
					counts[i]++
					got++
					m.ack(packet.PUBACK, list[j].ID)
				}
			}
			return got == n
		})
	}
	send(300)
	for i, n := range counts {
		if n < 20 {
			t.Errorf("member %d got %d of 300", i, n)
		}
	}
	members[0].Closed(true, nil, time.Now())
	clear(counts)
	send(20)
	if counts[0] != 0 {
		t.Errorf("one that is away got %d while others were connected", counts[0])
	}
	members[1].Closed(true, nil, time.Now())
	members[2].Closed(true, nil, time.Now())
	from.publish(t, "a/b", "kept", 1, 1)
	from.want(t, packet.PUBACK)
	total := 0
	for i := range members {
		c := h.connect(t, fmt.Sprint(i), resume, expiry(100))
		if !c.connack.SessionPresent {
			t.Errorf("member %d has no session", i)
		}
		c.Ping()
		for c.next(t).Type == packet.PUBLISH {
			total++
		}
		c.mu.Lock()
		total += len(c.list)
		c.mu.Unlock()
	}
	eventually(t, "the message waits in one queue", func() bool { return h.Stats().QueuedMessages.Load() == 1 })
}

func TestTopicAliases(t *testing.T) {
	h := memory(t, broker.Config{TopicAliases: 2}, nil)
	c, to := h.connect(t, "c"), h.connect(t, "to")
	if c.connack.Properties.TopicAliasMaximum != 2 {
		t.Errorf("CONNACK tells of %d", c.connack.Properties.TopicAliasMaximum)
	}
	to.subscribe(t, filter("#", 0))
	alias := func(n uint16) func(*packet.Packet) {
		return func(p *packet.Packet) { p.Properties.Set(packet.TopicAlias); p.Properties.TopicAlias = n }
	}
	for _, tc := range []struct {
		topic  string
		alias  uint16
		want   string
		reason packet.Reason
	}{
		{"x", 1, "x", 0},
		{"", 1, "x", 0},
		{"y", 2, "y", 0},
		{"", 2, "y", 0},
		{"z", 1, "z", 0},
		{"", 1, "z", 0},
		{"x", 3, "", packet.TopicAliasInvalid},
		{"x", 0, "", packet.TopicAliasInvalid},
	} {
		o := c.publish(t, tc.topic, "p", 0, 0, alias(tc.alias))
		if o.Reason != tc.reason || o.Close != (tc.reason != 0) {
			t.Errorf("%+v: %+v", tc, o)
		}
		if tc.want != "" {
			if g := to.want(t, packet.PUBLISH); g.topic != tc.want || g.Properties.Has(packet.TopicAlias) {
				t.Errorf("%+v: came as %q", tc, g.topic)
			}
		}
	}
	if o := c.publish(t, "", "p", 0, 0); !o.Close || o.Reason != packet.ProtocolError {
		t.Errorf("no topic and no alias: %+v", o)
	}
}

func TestReceiveMaximum(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		t.Run(fmt.Sprint(v), func(t *testing.T) {
			h := disk(t, t.TempDir(), broker.Config{ReceiveMaximum: 2}, nil)
			c := h.connect(t, "c", func(h *broker.Hello) { h.Connect.Version = v })
			for i := range 2 {
				p := packet.Packet{Type: packet.PUBLISH, Topic: []byte("a"), QoS: 2, ID: uint16(i + 1)}
				if o := c.Publish(&p); o != (broker.Outcome{}) {
					t.Fatalf("%+v", o)
				}
			}
			if v == packet.V5 { // until PUBCOMP
				c.want(t, packet.PUBREC)
				c.want(t, packet.PUBREC)
				p := packet.Packet{Type: packet.PUBLISH, Topic: []byte("a"), QoS: 1, ID: 7}
				if o := c.Publish(&p); !o.Close || o.Reason != packet.ReceiveMaximumExceeded {
					t.Errorf("one too many: %+v", o)
				}
				c.ack(packet.PUBREL, 1)
				c.want(t, packet.PUBCOMP)
			}
			if o := c.publish(t, "a", "", 1, 7); o != (broker.Outcome{}) {
				t.Errorf("%+v", o)
			}
		})
	}
}

func TestSubscribersWindowAndOrder(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	from, to := h.connect(t, "from"), h.connect(t, "to", window(3))
	to.subscribe(t, filter("#", 2))
	for i := range 50 {
		from.publish(t, "a", fmt.Sprint(i), uint8(1+i%2), uint16(i+1))
	}
	seen, open := 0, 0
	for seen < 50 {
		g := to.next(t)
		switch g.Type {
		case packet.PUBLISH:
			if open++; open > 3 {
				t.Fatalf("%d are unacknowledged, the receive maximum is 3", open)
			}
			if g.payload != fmt.Sprint(seen) {
				t.Fatalf("got %s after %d", g.payload, seen)
			}
			seen++
			if g.QoS == 1 {
				open--
				to.ack(packet.PUBACK, g.ID)
			} else {
				to.ack(packet.PUBREC, g.ID)
			}
		case packet.PUBREL:
			open--
			to.ack(packet.PUBCOMP, g.ID)
		default:
			t.Fatalf("type %d", g.Type)
		}
	}
}

func TestWhatDoesNotFitIsDroppedAndCounted(t *testing.T) {
	h := memory(t, broker.Config{QueueMessages: 5}, nil)
	from := h.connect(t, "from")
	small := h.connect(t, "small", largest(40))
	small.subscribe(t, filter("a", 1))
	from.publish(t, "a", strings.Repeat("x", 50), 1, 1) // [MQTT-3.1.2-25]
	from.publish(t, "a", strings.Repeat("x", 50), 0, 0)
	from.publish(t, "a", "short", 1, 2)
	if g := small.want(t, packet.PUBLISH); g.payload != "short" {
		t.Errorf("got %q", g.payload)
	}
	if n := h.Stats().TooLarge.Load(); n != 2 {
		t.Errorf("%d too large", n)
	}
	away := h.connect(t, "away", expiry(100))
	away.subscribe(t, filter("b", 1))
	away.Closed(true, nil, time.Now())
	for i := range 8 {
		from.publish(t, "b", fmt.Sprint(i), 1, uint16(i+10))
	}
	if n := h.Stats().QueueFull.Load(); n != 3 {
		t.Errorf("%d beyond the queue", n)
	}
	away = h.connect(t, "away", resume, expiry(100))
	for i := range 5 {
		if g := away.want(t, packet.PUBLISH); g.payload != fmt.Sprint(i) {
			t.Errorf("got %s, want %d", g.payload, i)
		}
	}
	slow := h.connect(t, "slow")
	slow.subscribe(t, filter("c", 0))
	slow.stall(1 << 20)
	for range 3000 {
		from.publish(t, "c", strings.Repeat("y", 100), 0, 0)
	}
	if n := h.Stats().SlowReader.Load(); n == 0 {
		t.Error("no message for a connection that takes nothing was dropped")
	}
	slow.none(t)
	slow.stall(0)
	slow.want(t, packet.PUBLISH)
}

func TestNoWriteOverfillsTheOutbox(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	from, to := h.connect(t, "from"), h.connect(t, "to")
	to.subscribe(t, filter("#", 1))
	to.stall(15 << 10) // less than a quarter
	for i, n := range []int{20_000, 40_000, 60_000, 10, 10_000, 30_000, 70_000, 65_000, 5} {
		for qos := range uint8(2) {
			from.publish(t, "a", strings.Repeat("x", n), qos, uint16(i+1))
		}
	}
	to.want(t, packet.PUBLISH)
	to.stall(0)
	for queued := int64(8); queued > 0; queued = h.Stats().QueuedMessages.Load() {
		if g, ok := to.poll(5 * time.Millisecond); ok && g.QoS == 1 {
			to.ack(packet.PUBACK, g.ID)
		}
	}
	if n := h.Stats().TooLarge.Load(); n != 2 {
		t.Errorf("%d were too large", n)
	}
	to.none(t)
}

func TestTopicsOfTheServer(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	c, all := h.connect(t, "c"), h.connect(t, "all")
	all.subscribe(t, filter("#", 0), filter("+/x", 0), filter("$SYS/#", 0))
	c.publish(t, "$SYS/x", "no", 1, 1)
	if g := c.want(t, packet.PUBACK); g.Reason != packet.NotAuthorized {
		t.Errorf("reason %#x", g.Reason)
	}
	all.none(t)
}

func TestRefuse(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	for _, tc := range []struct {
		v    packet.Version
		qos  uint8
		want packet.Reason
	}{{packet.V5, 1, packet.NotAuthorized}, {packet.V5, 2, packet.NotAuthorized}, {packet.V311, 1, 0}, {packet.V311, 2, 0}} {
		c := h.connect(t, "c", func(h *broker.Hello) { h.Connect.Version = tc.v })
		c.Refuse(&packet.Packet{Type: packet.PUBLISH, QoS: tc.qos, ID: 4}, packet.NotAuthorized, "")
		if g := c.next(t); g.Reason != tc.want || g.ID != 4 || g.Type != packet.PUBACK+packet.Type(tc.qos-1) {
			t.Errorf("%+v: type %d, reason %#x", tc, g.Type, g.Reason)
		}
	}
}

func TestCommands(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	c := h.connect(t, "c", window(2))
	if _, ok := c.Granted("signalbox/d/command"); ok {
		t.Error("granted without a subscription")
	}
	c.subscribeAs(t, 8, filter("signalbox/d/#", 1))
	if qos, ok := c.Granted("signalbox/d/command"); !ok || qos != 1 {
		t.Errorf("granted %d, %v", qos, ok)
	}
	for i := range 3 {
		if err := c.Command("signalbox/d/command", fmt.Append(nil, i), 1); err != nil {
			t.Fatal(err)
		}
	}
	first, second := c.want(t, packet.PUBLISH), c.want(t, packet.PUBLISH)
	if first.ID == second.ID || first.ID <= 61440 || first.Properties.SubscriptionID != 8 || first.payload != "0" {
		t.Errorf("%+v, %+v", first, second)
	}
	c.none(t)
	c.ack(packet.PUBACK, second.ID)
	if g := c.want(t, packet.PUBLISH); g.payload != "2" {
		t.Errorf("got %s", g.payload)
	}
	var err error
	for range 100 {
		if err = c.Command("signalbox/d/command", nil, 1); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("there is no end to commands that wait")
	}
	if err := c.Command("signalbox/d/command", nil, 0); err != nil {
		t.Error(err)
	}
	c.Closed(true, nil, time.Now())
	if err := c.Command("signalbox/d/command", nil, 0); err == nil {
		t.Error("a connection that has ended took a command")
	}
}

func TestForgetAndRevoke(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	a, b, d := h.connect(t, "a", expiry(50)), h.connect(t, "b", expiry(50)), h.connect(t, "d", single, func(h *broker.Hello) { h.Owner = "d1" })
	for _, c := range []*client{a, b, d} {
		c.subscribe(t, filter("x", 0), filter("y", 0))
	}
	h.Revoke("o", func(f *packet.Filter) packet.Reason {
		if string(f.Text) == "x" {
			return packet.NotAuthorized
		}
		return packet.Success
	})
	if n := h.Stats().Subscriptions.Load(); n != 4 {
		t.Errorf("%d subscriptions", n)
	}
	b.Closed(false, nil, time.Now())
	h.Forget("o")
	if r, ended := a.endedWith(); !ended || r != packet.NotAuthorized {
		t.Errorf("ended %v with %#x", ended, r)
	}
	if o := a.publish(t, "x", "", 0, 0); !o.Close {
		t.Error("one that was forgotten publishes")
	}
	if h.connect(t, "b", resume, expiry(50)).connack.SessionPresent {
		t.Error("one that was forgotten has a session")
	}
	h.Forget("d1")
	if _, ended := d.endedWith(); !ended {
		t.Error("the device's connection goes on")
	}
	s := h.Stats()
	if s.Connected.Load() != 1 || s.Offline.Load() != 0 || s.Durable.Load() != 1 || s.Subscriptions.Load() != 0 {
		t.Errorf("connected %d, offline %d, durable %d, subscriptions %d", s.Connected.Load(), s.Offline.Load(), s.Durable.Load(), s.Subscriptions.Load())
	}
}

func TestWindowGoesOnAtOnce(t *testing.T) {
	for _, wide := range []int{1, 2, 5, 63, 64, 300} {
		t.Run(fmt.Sprint(wide), func(t *testing.T) {
			h := memory(t, broker.Config{}, nil)
			c, from := h.connect(t, "c", window(uint16(wide))), h.connect(t, "from")
			c.subscribe(t, filter("x", 1))
			for i := range wide + 2 {
				from.publish(t, "x", fmt.Sprint(i), 1, uint16(i+1))
				from.want(t, packet.PUBACK)
			}
			first := c.want(t, packet.PUBLISH)
			for range wide - 1 {
				c.want(t, packet.PUBLISH)
			}
			c.none(t)
			c.ack(packet.PUBACK, first.ID)
			if g := c.want(t, packet.PUBLISH); g.payload != fmt.Sprint(wide) {
				t.Errorf("got %q", g.payload)
			}
			c.none(t)
		})
	}
}

func TestPayloadFormat(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	c, from := h.connect(t, "c"), h.connect(t, "from")
	c.subscribe(t, filter("x", 0))
	text := func(p *packet.Packet) {
		p.Properties.Set(packet.PayloadFormat)
		p.Properties.PayloadFormat = 1
	}
	from.publish(t, "x", "\xff", 0, 0, text)
	from.publish(t, "x", "\xff", 1, 1, text)
	if g := from.want(t, packet.PUBACK); g.Reason != packet.PayloadFormatInvalid {
		t.Errorf("PUBACK says %#x", g.Reason)
	}
	from.publish(t, "x", "\xff", 2, 2, text)
	if g := from.want(t, packet.PUBREC); g.Reason != packet.PayloadFormatInvalid {
		t.Errorf("PUBREC says %#x", g.Reason)
	}
	from.publish(t, "x", "\xfe", 0, 0)
	if g := c.want(t, packet.PUBLISH); g.payload != "\xfe" {
		t.Errorf("got %q", g.payload)
	}
	from.publish(t, "x", "é", 0, 0, text)
	if g := c.want(t, packet.PUBLISH); g.payload != "é" || g.Properties.PayloadFormat != 1 {
		t.Errorf("got %q", g.payload)
	}
	hello := broker.Hello{Owner: "o", ClientID: "w", Peer: newPeer(packet.V5), Connect: &packet.Connect{Version: packet.V5, Clean: true}, Properties: new(packet.Properties)}
	will("x", "\xff", 0, 0)(&hello)
	hello.Connect.WillProperties.Set(packet.PayloadFormat)
	hello.Connect.WillProperties.PayloadFormat = 1
	if _, o := h.Connect(&hello); !o.Close || o.Reason != packet.PayloadFormatInvalid {
		t.Errorf("a will that is no text: %+v", o)
	}
}

func TestUnsubscribeTwice(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	c := h.connect(t, "c")
	c.subscribe(t, filter("x", 0))
	c.Unsubscribe(&packet.Packet{Type: packet.UNSUBSCRIBE, ID: 1, Filters: []packet.Filter{filter("x", 0), filter("x", 0)}})
	if g := c.want(t, packet.UNSUBACK); !slices.Equal(g.Reasons, []byte{0, byte(packet.NoSubscriptionExisted)}) {
		t.Errorf("UNSUBACK says % x", g.Reasons)
	}
}
