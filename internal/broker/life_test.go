package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"signalbox/internal/broker"
	"signalbox/internal/wire/packet"
)

// inBubble runs a test with a clock of its own on a broker in memory.
func inBubble(t *testing.T, cfg broker.Config, f func(t *testing.T, h *hub)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := memory(t, cfg, nil)
		f(t, h)
		h.kill()
	})
}

func TestWills(t *testing.T) {
	const past = 11 * time.Second // the delay is 10
	for _, tc := range []struct {
		name   string
		wishes []wish
		end    func(t *testing.T, h *hub, c *client)
		wait   time.Duration
		want   bool
	}{
		{"lost", nil, lost, 0, true},
		{"normal disconnect", nil, graceful, past, false}, // [MQTT-3.14.4-3]
		{"delayed, not yet", []wish{will("w", "bye", 1, 10), expiry(60)}, lost, 9 * time.Second, false},
		{"delayed", []wish{will("w", "bye", 1, 10), expiry(60)}, lost, past, true},
		{"delayed beyond the session", []wish{will("w", "bye", 1, 10), expiry(2)}, lost, 3 * time.Second, true}, // [MQTT-3.1.2-8]
		{"delayed, no session", []wish{will("w", "bye", 1, 10)}, lost, 0, true},
		{"back in time", []wish{will("w", "bye", 1, 10), expiry(60)}, func(t *testing.T, h *hub, c *client) { // [MQTT-3.1.3-9]
			t.Helper()
			lost(t, h, c)
			time.Sleep(5 * time.Second)
			h.connect(t, "c", resume, expiry(60))
		}, past, false},
		{"back with a clean start", []wish{will("w", "bye", 1, 10), expiry(60)}, func(t *testing.T, h *hub, c *client) {
			t.Helper()
			lost(t, h, c)
			h.connect(t, "c", expiry(60))
		}, 0, true},
		{"taken over", []wish{expiry(60)}, func(t *testing.T, h *hub, c *client) {
			t.Helper()
			h.connect(t, "c", resume, expiry(60))
			lost(t, h, c)
		}, 0, true},
		{"taken over, delayed", []wish{will("w", "bye", 1, 10), expiry(60)}, func(t *testing.T, h *hub, c *client) {
			t.Helper()
			h.connect(t, "c", resume, expiry(60))
			lost(t, h, c)
		}, past, false},
		{"expiry changed to nothing", []wish{will("w", "bye", 1, 10), expiry(60)}, func(_ *testing.T, _ *hub, c *client) {
			zero := uint32(0)
			c.Closed(false, &zero, time.Now())
		}, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, broker.Config{}, func(t *testing.T, h *hub) {
				t.Helper()
				watch := h.connect(t, "watch")
				watch.subscribe(t, filter("w", 1))
				c := h.connect(t, "c", append([]wish{will("w", "bye", 1, 0)}, tc.wishes...)...)
				tc.end(t, h, c)
				time.Sleep(tc.wait)
				synctest.Wait()
				if !tc.want {
					watch.none(t)
					return
				}
				if g := watch.want(t, packet.PUBLISH); g.payload != "bye" || g.QoS != 1 {
					t.Errorf("got %+v", g)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				watch.none(t)
			})
		})
	}
}

func lost(_ *testing.T, _ *hub, c *client)     { c.Closed(false, nil, time.Now()) }
func graceful(_ *testing.T, _ *hub, c *client) { c.Closed(true, nil, time.Now()) }

func TestSessionExpiry(t *testing.T) {
	seconds := func(n uint32) *uint32 { return &n }
	for _, tc := range []struct {
		name    string
		first   []wish
		expiry  *uint32 // DISCONNECT's
		wait    time.Duration
		again   []wish
		present bool
		told    uint32 // Session Expiry Interval in CONNACK, 0: none
	}{
		{"5.0 without", nil, nil, 0, []wish{resume}, false, 0},
		{"within", []wish{expiry(10)}, nil, 9 * time.Second, []wish{resume}, true, 0},
		{"after", []wish{expiry(10)}, nil, 11 * time.Second, []wish{resume}, false, 0},
		{"clean start", []wish{expiry(10)}, nil, 0, nil, false, 0},
		{"for ever is lowered", []wish{expiry(0xFFFFFFFF)}, nil, 99 * time.Second, []wish{resume}, true, 100},
		{"for ever ends", []wish{expiry(0xFFFFFFFF)}, nil, 101 * time.Second, []wish{resume}, false, 100},
		{"longer at the end", []wish{expiry(10)}, seconds(50), 49 * time.Second, []wish{resume}, true, 0},
		{"nothing at the end", []wish{expiry(10)}, seconds(0), 0, []wish{resume}, false, 0},
		{"not from nothing", nil, seconds(50), 0, []wish{resume}, false, 0}, // 3.14.2.2.2
		{"3.1.1 clean", []wish{v311}, nil, 0, []wish{v311, resume}, false, 0},
		{"3.1.1 kept", []wish{v311, resume}, nil, 50 * time.Second, []wish{v311, resume}, true, 0},
		{"3.1.1 and 5.0", []wish{v311, resume}, nil, 50 * time.Second, []wish{resume}, true, 0},
		{"volatile", []wish{expiry(10), func(h *broker.Hello) { h.Volatile = true }}, nil, 0, []wish{resume}, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, broker.Config{MaxExpiry: 100 * time.Second}, func(t *testing.T, h *hub) {
				t.Helper()
				c := h.connect(t, "c", tc.first...)
				if got := c.connack.Properties.SessionExpiry; c.version == packet.V5 && got != tc.told {
					t.Errorf("CONNACK tells of %d s, want %d", got, tc.told)
				}
				c.subscribe(t, filter("x", 1))
				c.Closed(true, tc.expiry, time.Now())
				time.Sleep(tc.wait)
				synctest.Wait()
				again := h.connect(t, "c", tc.again...)
				if again.connack.SessionPresent != tc.present {
					t.Errorf("session present %v", again.connack.SessionPresent)
				}
				subscriptions := int64(0)
				if tc.present {
					subscriptions = 1
				}
				if n := h.Stats().Subscriptions.Load(); n != subscriptions {
					t.Errorf("%d subscriptions", n)
				}
			})
		})
	}
}

func TestMessageExpiry(t *testing.T) {
	inBubble(t, broker.Config{}, func(t *testing.T, h *hub) {
		t.Helper()
		from := h.connect(t, "from")
		away := h.connect(t, "away", expiry(1000))
		away.subscribe(t, filter("#", 1))
		away.Closed(true, nil, time.Now())
		lives := func(n uint32) func(*packet.Packet) {
			return func(p *packet.Packet) { p.Properties.Set(packet.MessageExpiry); p.Properties.MessageExpiry = n }
		}
		from.publish(t, "a", "short", 1, 1, lives(10))
		from.publish(t, "b", "long", 1, 2, lives(100))
		from.publish(t, "r", "retained", 1, 3, lives(10), retain)
		time.Sleep(30 * time.Second)
		away = h.connect(t, "away", resume, expiry(1000))
		if g := away.want(t, packet.PUBLISH); g.payload != "long" || g.Properties.MessageExpiry != 70 { // [MQTT-3.3.2-6]
			t.Errorf("got %q with %d s left", g.payload, g.Properties.MessageExpiry)
		}
		away.subscribe(t, filter("r", 1))
		synctest.Wait()
		away.none(t) // [MQTT-3.3.2-5]
		time.Sleep(2 * time.Minute)
		if n := h.Stats().Retained.Load(); n != 0 {
			t.Errorf("%d are retained", n)
		}
	})
}

func TestTakeover(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	from := h.connect(t, "from")
	first := h.connect(t, "c", expiry(100))
	first.subscribe(t, filter("#", 2))
	from.publish(t, "a", "1", 1, 1)
	from.publish(t, "a", "2", 2, 2)
	one, two := first.want(t, packet.PUBLISH), first.want(t, packet.PUBLISH)
	first.ack(packet.PUBREC, two.ID)
	first.want(t, packet.PUBREL)

	second := h.connect(t, "c", resume, expiry(100))
	if r, ended := first.endedWith(); !ended || r != packet.SessionTakenOver {
		t.Errorf("the first one: ended %v, %#x", ended, r)
	}
	if !second.connack.SessionPresent {
		t.Error("no session")
	}
	// [MQTT-4.4.0-1]: with the same identifiers
	if g := second.want(t, packet.PUBLISH); g.ID != one.ID || !g.Dup || g.payload != "1" {
		t.Errorf("got %+v", g)
	}
	if g := second.want(t, packet.PUBREL); g.ID != two.ID {
		t.Errorf("got %+v", g)
	}
	if o := first.publish(t, "a", "late", 1, 1); !o.Close || o.Reason != packet.SessionTakenOver {
		t.Errorf("the first one publishes: %+v", o)
	}
	if o := first.ack(packet.PUBACK, one.ID); !o.Close {
		t.Errorf("the first one acknowledges: %+v", o)
	}
	first.Closed(false, nil, time.Now())
	second.ack(packet.PUBACK, one.ID)
	second.ack(packet.PUBCOMP, two.ID)
	from.publish(t, "a", "3", 1, 3)
	if g := second.want(t, packet.PUBLISH); g.payload != "3" || g.Dup {
		t.Errorf("got %+v", g)
	}
	if n := h.Stats().Connected.Load(); n != 2 {
		t.Errorf("%d are connected", n)
	}
}

func TestConnack(t *testing.T) {
	h := memory(t, broker.Config{MaxPacket: 1000}, nil)
	c := h.connect(t, "assigned", func(h *broker.Hello) { h.Assigned, h.HasKeepAlive, h.KeepAlive = true, true, 30 })
	p := &c.connack.Properties
	if p.ReceiveMaximum != 256 || p.MaximumPacketSize != 1000 || p.TopicAliasMaximum != 16 || p.ServerKeepAlive != 30 ||
		!p.Has(packet.ServerKeepAlive) || p.Has(packet.SessionExpiry) || p.Has(packet.MaximumQoS) || !p.Has(packet.AssignedClientID) {
		t.Errorf("%+v", p)
	}
}

func TestOneSessionOfASingleOwner(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	a := h.connect(t, "one", single, expiry(10))
	b := h.connect(t, "other", single, resume, expiry(10))
	if _, ended := a.endedWith(); !ended || !b.connack.SessionPresent {
		t.Error("the owner has two sessions")
	}
	c := h.connect(t, "other", expiry(10)) // of the same owner name, not single: another key
	if _, ended := b.endedWith(); ended {
		t.Error("another session was taken over")
	}
	_ = c
}
