package broker_test

import (
	"fmt"
	"testing"
	"time"

	"signalbox/internal/broker"
	"signalbox/internal/wire/packet"
)

// TestDuplicatesAfterAKill publishes ten messages to a subscriber who may have three unacknowledged, ends the
// hub by a kill, and looks which of them are marked as duplicates (3.3.1.1): those that may
// have been sent.
func TestDuplicatesAfterAKill(t *testing.T) {
	const many = 10
	lasting := expiry(1000)
	for _, tc := range []struct {
		name string
		// meet has the subscriber meet the messages that send publishes.
		meet func(t *testing.T, h *hub, sub *client, send func())
		acks int // of those that came first
		dups int // of the rest
	}{
		{"never sent", func(t *testing.T, _ *hub, sub *client, send func()) {
			t.Helper()
			sub.Closed(true, nil, time.Now())
			send()
		}, 0, 0},
		{"sent before the kill", func(t *testing.T, _ *hub, sub *client, send func()) {
			t.Helper()
			send()
			get(t, sub, 3)
		}, 0, 3},
		{"sent to a connection that ended", func(t *testing.T, _ *hub, sub *client, send func()) {
			t.Helper()
			send()
			get(t, sub, 3)
			sub.Closed(false, nil, time.Now())
		}, 0, 3},
		{"acknowledged before the connection ended", func(t *testing.T, _ *hub, sub *client, send func()) {
			t.Helper()
			send()
			for _, g := range get(t, sub, 3) {
				sub.ack(packet.PUBACK, g.ID)
			}
			get(t, sub, 3)
			sub.Closed(false, nil, time.Now())
		}, 3, 3},
		{"acknowledged before a takeover", func(t *testing.T, h *hub, sub *client, send func()) {
			t.Helper()
			send()
			for _, g := range get(t, sub, 3) {
				sub.ack(packet.PUBACK, g.ID)
			}
			get(t, sub, 3)
			sub = h.connect(t, "sub", resume, lasting, window(3))
			get(t, sub, 3)
		}, 3, 6}, // the three that came twice, and as many that may have been sent
		{"queued after the connection ended", func(t *testing.T, h *hub, sub *client, send func()) {
			t.Helper()
			from := h.connect(t, "early")
			from.publish(t, "q", "early", 1, 1)
			from.want(t, packet.PUBACK)
			for _, g := range get(t, sub, 1) {
				sub.ack(packet.PUBACK, g.ID)
			}
			sub.Closed(true, nil, time.Now())
			send()
		}, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			h := disk(t, dir, broker.Config{}, nil)
			sub := h.connect(t, "sub", lasting, window(3))
			sub.subscribe(t, filter("q", 1))
			tc.meet(t, h, sub, func() {
				from := h.connect(t, "from")
				for i := range many {
					from.publish(t, "q", fmt.Sprint(i), 1, uint16(i+1))
					from.want(t, packet.PUBACK)
				}
			})
			h.kill()
			h = disk(t, dir, broker.Config{}, nil)
			h.kill() // what was never sent does not become a duplicate by that
			h = disk(t, dir, broker.Config{}, nil)
			sub = h.connect(t, "sub", resume, lasting)
			for i, g := range get(t, sub, many-tc.acks) {
				if want := fmt.Sprint(tc.acks + i); g.payload != want || g.Dup != (i < tc.dups) {
					t.Errorf("message %d is %q, a duplicate: %t; want %q, %t", i, g.payload, g.Dup, want, i < tc.dups)
				}
			}
			sub.none(t)
		})
	}
}

// get waits for some messages.
func get(t *testing.T, c *client, n int) (list []got) {
	t.Helper()
	for range n {
		list = append(list, c.want(t, packet.PUBLISH))
	}
	return list
}

// TestMarkKeepsUp has a subscriber with the smallest window take many messages, each sent after
// the one before is acknowledged, and looks that a kill loses none and sends few again.
func TestMarkKeepsUp(t *testing.T) {
	const many = 400
	dir := t.TempDir()
	h := disk(t, dir, broker.Config{}, nil)
	sub := h.connect(t, "sub", expiry(1000), window(1))
	sub.subscribe(t, filter("q", 1))
	from := h.connect(t, "from")
	for i := range many {
		from.publish(t, "q", fmt.Sprint(i), 1, uint16(i%200+1))
		from.want(t, packet.PUBACK)
	}
	for i := range many / 2 {
		g := sub.want(t, packet.PUBLISH)
		if g.payload != fmt.Sprint(i) || g.Dup {
			t.Fatalf("message %d is %q, a duplicate: %t", i, g.payload, g.Dup)
		}
		sub.ack(packet.PUBACK, g.ID)
	}
	sub.want(t, packet.PUBLISH)
	h.kill()
	h = disk(t, dir, broker.Config{}, nil)
	sub = h.connect(t, "sub", resume, expiry(1000))
	list := []got{sub.want(t, packet.PUBLISH)}
	var first int
	if _, err := fmt.Sscan(list[0].payload, &first); err != nil || first > many/2 {
		t.Fatalf("the first one is %q: %v", list[0].payload, err)
	}
	list = append(list, get(t, sub, many-first-1)...)
	for i, g := range list {
		if g.payload != fmt.Sprint(first+i) {
			t.Fatalf("message %d is %q", first+i, g.payload)
		}
		if first+i <= many/2 && !g.Dup {
			t.Errorf("message %d is sent again and not marked", first+i)
		}
		if i > 0 && g.Dup && !list[i-1].Dup {
			t.Errorf("message %d is marked and the one before is not", first+i)
		}
	}
	if list[len(list)-1].Dup {
		t.Error("the last message was never sent and is marked")
	}
}
