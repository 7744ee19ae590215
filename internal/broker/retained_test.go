package broker_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"signalbox/internal/broker"
	"signalbox/internal/wire/packet"
)

// TestRetainedMessageMeetsSubscription publishes to a topic while it is subscribed to: the
// subscriber hears of the change once, live or as what is retained, and of what was before not
// after it (3.3.1.3).
func TestRetainedMessageMeetsSubscription(t *testing.T) {
	for _, hub := range []struct {
		name   string
		start  func(t *testing.T) *hub
		rounds int
	}{
		{"memory", func(t *testing.T) *hub { t.Helper(); return memory(t, broker.Config{}, nil) }, 300},
		{"disk", func(t *testing.T) *hub { t.Helper(); return disk(t, t.TempDir(), broker.Config{}, nil) }, 60},
	} {
		for _, tc := range []struct {
			name, before, after string
			filter              string
			qos                 uint8
			allowed             [][]string // what the subscriber may see
		}{
			{"new, 0", "", "new", "%s", 0, [][]string{{"new"}}},
			{"new, 1", "", "new", "+/%s", 1, [][]string{{"new"}}},
			{"replaced, 0", "old", "new", "#", 0, [][]string{{"new"}, {"old", "new"}}},
			{"replaced, 1", "old", "new", "+/%s", 1, [][]string{{"new"}, {"old", "new"}}},
			{"removed, 1", "old", "", "+/%s", 1, [][]string{{}, {""}, {"old", ""}}},
		} {
			t.Run(hub.name+"/"+tc.name, func(t *testing.T) {
				h := hub.start(t)
				from := h.connect(t, "from")
				from.publish(t, "end", "end", 1, 1, retain)
				from.want(t, packet.PUBACK)
				for i := range hub.rounds {
					topic := fmt.Sprintf("r/%d", i)
					if tc.before != "" {
						from.publish(t, topic, tc.before, 1, 2, retain)
						from.want(t, packet.PUBACK)
					}
					text := tc.filter
					switch text {
					case "%s":
						text = topic
					case "+/%s":
						text = fmt.Sprintf("+/%d", i)
					}
					c := h.connect(t, "c", expiry(uint32(i%2)*1000))
					var both sync.WaitGroup
					both.Go(func() { from.publish(t, topic, tc.after, 1, 3, retain) })
					both.Go(func() {
						c.Subscribe(&packet.Packet{Type: packet.SUBSCRIBE, ID: 7, Filters: []packet.Filter{filter(text, tc.qos)}}, nil)
					})
					both.Wait()
					from.want(t, packet.PUBACK)
					// The retained messages of one subscription come after those of another.
					c.Subscribe(&packet.Packet{Type: packet.SUBSCRIBE, ID: 8, Filters: []packet.Filter{filter("end", 1)}}, nil)
					got := []string{}
					for {
						g := c.next(t)
						if g.Type == packet.PUBLISH && g.QoS > 0 {
							c.ack(packet.PUBACK, g.ID)
						}
						if g.Type == packet.PUBLISH && g.topic == topic {
							got = append(got, g.payload)
						}
						if g.topic == "end" && (text != "#" || g.QoS == 1) {
							break
						}
					}
					if !slices.ContainsFunc(tc.allowed, func(w []string) bool { return slices.Equal(w, got) }) {
						t.Fatalf("round %d: the subscriber got %q, want one of %q", i, got, tc.allowed)
					}
				}
			})
		}
	}
}

// TestRetainedMessagesThatMove subscribes while retained messages come and go: those that stay
// come once each.
func TestRetainedMessagesThatMove(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	from := h.connect(t, "from")
	const many = 2000
	for i := range many {
		from.publish(t, fmt.Sprintf("r/r/%d", i), "here", 0, 0, retain)
	}
	from.publish(t, "end", "end", 0, 0, retain)
	c := h.connect(t, "c")
	var both sync.WaitGroup
	both.Go(func() {
		for i := range many {
			if i%3 == 0 {
				from.publish(t, fmt.Sprintf("r/r/%d", i), "", 0, 0, retain)
				from.publish(t, fmt.Sprintf("r/r/%d", many+i), "late", 0, 0, retain)
			}
		}
	})
	both.Go(func() {
		for id, text := range []string{"r/#", "end"} {
			f := filter(text, 0)
			f.RetainAsPublished = id == 1
			c.Subscribe(&packet.Packet{Type: packet.SUBSCRIBE, ID: uint16(id + 1), Filters: []packet.Filter{f}}, nil)
		}
	})
	seen := map[string]int{}
	for {
		g := c.next(t)
		if g.topic == "end" {
			break
		}
		if g.Type == packet.PUBLISH && g.Retain {
			seen[g.topic]++
		}
	}
	both.Wait()
	for i := range many {
		topic := fmt.Sprintf("r/r/%d", i)
		if n := seen[topic]; n > 1 || n == 0 && i%3 != 0 {
			t.Errorf("%s came %d times", topic, n)
		}
	}
}
