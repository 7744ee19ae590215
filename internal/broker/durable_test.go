package broker_test

import (
	"fmt"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/broker"
	"signalbox/internal/history"
	"signalbox/internal/wire/packet"
)

func TestQueueOfAnOfflineSubscriberSurvives(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		for _, pause := range []time.Duration{0, 500 * time.Millisecond} { // before and after the tables have it
			t.Run(fmt.Sprintf("v%d after %v", v, pause), func(t *testing.T) {
				dir := t.TempDir()
				as := func(h *broker.Hello) {
					if h.Connect.Version = v; v == packet.V5 {
						expiry(1000)(h)
					}
				}
				h := disk(t, dir, broker.Config{WindowMessages: 20}, nil)
				c := h.connect(t, "sub", as, resume)
				c.subscribeAs(t, 0, filter("q/#", 2))
				c.Closed(false, nil, time.Now())
				from := h.connect(t, "from")
				const many = 200
				for i := range many {
					from.publish(t, "q/x", fmt.Sprint(i), uint8(1+i%2), uint16(i+1))
					if i%2 == 0 {
						from.want(t, packet.PUBACK)
					} else {
						from.want(t, packet.PUBREC)
						from.ack(packet.PUBREL, uint16(i+1))
						from.want(t, packet.PUBCOMP)
					}
				}
				select {
				case <-time.After(pause):
				case <-t.Context().Done():
				}
				h.kill()

				h = disk(t, dir, broker.Config{WindowMessages: 20}, nil)
				if n := h.Stats().QueuedMessages.Load(); n != many {
					t.Errorf("%d messages are queued", n)
				}
				c = h.connect(t, "sub", as, resume)
				if !c.connack.SessionPresent {
					t.Fatal("the session is gone")
				}
				for seen := 0; seen < many; {
					switch g := c.next(t); g.Type {
					case packet.PUBLISH:
						if g.payload != fmt.Sprint(seen) || g.QoS != uint8(1+seen%2) {
							t.Fatalf("got %s with QoS %d, want %d", g.payload, g.QoS, seen)
						}
						seen++
						if g.QoS == 1 {
							c.ack(packet.PUBACK, g.ID)
						} else {
							c.ack(packet.PUBREC, g.ID)
						}
					case packet.PUBREL:
						c.ack(packet.PUBCOMP, g.ID)
					default:
						t.Fatalf("type %d", g.Type)
					}
				}
				eventually(t, "the queue is empty", func() bool {
					c.mu.Lock()
					list := c.list
					c.list = nil
					c.mu.Unlock()
					for i := range list {
						c.ack(packet.PUBCOMP, list[i].ID)
					}
					return h.Stats().QueuedMessages.Load() == 0
				})
				if n := h.Stats().Lost.Load(); n != 0 {
					t.Errorf("%d were lost", n)
				}
			})
		}
	}
}

// TestExactlyOnceOverARestart stops the hub at each step of both handshakes.
func TestExactlyOnceOverARestart(t *testing.T) {
	for step := range 5 {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			dir := t.TempDir()
			h := disk(t, dir, broker.Config{}, nil)
			sub, pub := h.connect(t, "sub", expiry(1000)), h.connect(t, "pub", expiry(1000))
			restart := func() {
				h.kill()
				h = disk(t, dir, broker.Config{}, nil)
				sub, pub = h.connect(t, "sub", resume, expiry(1000)), h.connect(t, "pub", resume, expiry(1000))
				if !sub.connack.SessionPresent || !pub.connack.SessionPresent {
					t.Fatal("a session is gone")
				}
			}
			sub.subscribe(t, filter("x", 2))
			pub.publish(t, "x", "once", 2, 5)
			pub.want(t, packet.PUBREC)
			if step == 0 {
				restart()
				pub.publish(t, "x", "once", 2, 5, dup) // the client did not see the PUBREC
				pub.want(t, packet.PUBREC)
			}
			g := sub.want(t, packet.PUBLISH)
			id := g.ID
			if step == 1 {
				restart()
				if g = sub.want(t, packet.PUBLISH); g.ID != id || !g.Dup || g.payload != "once" {
					t.Fatalf("sent again: %+v", g)
				}
			}
			sub.ack(packet.PUBREC, id)
			if g := sub.want(t, packet.PUBREL); g.ID != id {
				t.Fatalf("PUBREL %d", g.ID)
			}
			if step == 2 {
				restart()
				if g := sub.want(t, packet.PUBREL); g.ID != id { // [MQTT-4.4.0-1]
					t.Fatalf("PUBREL %d", g.ID)
				}
			}
			sub.ack(packet.PUBCOMP, id)
			pub.ack(packet.PUBREL, 5)
			if g := pub.want(t, packet.PUBCOMP); g.Reason != 0 {
				t.Fatalf("PUBCOMP %#x", g.Reason)
			}
			if step == 3 {
				eventually(t, "recorded", func() bool { return h.Stats().QueuedMessages.Load() == 0 })
				restart()
				pub.ack(packet.PUBREL, 5) // the client did not see the PUBCOMP
				if g := pub.want(t, packet.PUBCOMP); g.Reason != packet.PacketIDNotFound {
					t.Fatalf("PUBCOMP %#x", g.Reason)
				}
			}
			pub.publish(t, "x", "next", 2, 5)
			pub.want(t, packet.PUBREC)
			for {
				g := sub.next(t)
				if g.Type == packet.PUBREL { // that PUBCOMP was not recorded yet
					sub.ack(packet.PUBCOMP, g.ID)
					continue
				}
				if g.payload != "next" {
					t.Fatalf("got %+v", g)
				}
				break
			}
			sub.none(t)
		})
	}
}

func TestStateSurvives(t *testing.T) {
	dir := t.TempDir()
	h := disk(t, dir, broker.Config{}, nil)
	c := h.connect(t, "c", expiry(1000), will("w", "gone", 1, 0))
	c.subscribeAs(t, 9, packet.Filter{Text: []byte("a/+"), QoS: 1, RetainAsPublished: true}, filter("$share/g/s", 1), filter("out", 1))
	c.Unsubscribe(&packet.Packet{Type: packet.UNSUBSCRIBE, ID: 1, Filters: []packet.Filter{filter("out", 0)}})
	c.want(t, packet.UNSUBACK)
	v := h.connect(t, "volatile", will("w", "also", 1, 0))
	_ = v
	watch := h.connect(t, "watch", expiry(1000))
	watch.subscribe(t, filter("w", 1))
	from := h.connect(t, "from")
	from.publish(t, "r", "kept", 0, 0, retain)
	from.publish(t, "r2", "kept", 1, 1, retain)
	from.want(t, packet.PUBACK)
	from.publish(t, "r2", "", 1, 2, retain)
	from.want(t, packet.PUBACK)
	h.kill()

	h = disk(t, dir, broker.Config{}, nil)
	if n := h.Stats().Retained.Load(); n != 1 {
		t.Errorf("%d retained", n)
	}
	if n := h.Stats().Subscriptions.Load(); n != 3 {
		t.Errorf("%d subscriptions", n)
	}
	watch = h.connect(t, "watch", resume, expiry(1000))
	said := map[string]bool{}
	for range 2 { // the hub's end was theirs
		g := watch.want(t, packet.PUBLISH)
		said[g.payload] = true
		watch.ack(packet.PUBACK, g.ID)
	}
	if !said["gone"] || !said["also"] {
		t.Errorf("wills: %v", said)
	}
	c = h.connect(t, "c", resume, expiry(1000))
	from = h.connect(t, "from")
	from.publish(t, "a/1", "x", 1, 1, retain)
	if g := c.want(t, packet.PUBLISH); !g.Retain || g.Properties.SubscriptionID != 9 {
		t.Errorf("%+v", g)
	}
	from.publish(t, "s", "shared", 1, 2)
	if g := c.want(t, packet.PUBLISH); g.payload != "shared" {
		t.Errorf("%+v", g)
	}
	if h.connect(t, "volatile", resume).connack.SessionPresent {
		t.Error("a volatile session survived")
	}
	c.subscribe(t, filter("r", 1))
	if g := c.want(t, packet.PUBLISH); g.payload != "kept" || !g.Retain {
		t.Errorf("%+v", g)
	}
}

// logTaker keeps each message of telemetry/… in the log.
type logTaker struct{ log *history.Log }

func (l logTaker) Take(t *broker.Taking) broker.Verdict {
	if len(t.Message.Topic) < 10 || string(t.Message.Topic[:10]) != "telemetry/" {
		return broker.Pass
	}
	e := signalbox.Entry{Kind: signalbox.EntryTelemetry, Device: 1, Body: t.Message.Payload}
	if l.log.Append(&e, history.Acked) != nil {
		return broker.Later
	}
	t.Position = e.Position
	if t.Also != nil {
		if l.log.Append(t.Also, history.Acked) != nil {
			return broker.Later
		}
		t.Position = t.Also.Position
	}
	return broker.Taken
}

func TestAcknowledgedAfterTheCommit(t *testing.T) {
	h := disk(t, t.TempDir(), broker.Config{}, func(l *history.Log) broker.Taker { return logTaker{l} })
	c, sub := h.connect(t, "c"), h.connect(t, "sub")
	sub.subscribe(t, filter("telemetry/+", 1))
	before := h.log.Committed()
	for i := range 200 {
		c.publish(t, "telemetry/d", fmt.Sprintf(`{"n":%d}`, i), 1, uint16(i+1))
	}
	for i := range 200 { // in order [MQTT-4.6.0-2]
		if g := c.want(t, packet.PUBACK); g.ID != uint16(i+1) {
			t.Fatalf("PUBACK %d is the %dth", g.ID, i+1)
		}
		if h.log.Committed() < before+signalbox.Position(i+1) {
			t.Fatalf("PUBACK %d came before the commit", i+1)
		}
		g := sub.want(t, packet.PUBLISH)
		sub.ack(packet.PUBACK, g.ID)
	}
}

// judge is a Taker that says what it is told to, and keeps what it takes.
type judge struct {
	log     *history.Log
	verdict broker.Verdict
	quiet   bool
	took    []string
}

func (j *judge) Take(t *broker.Taking) broker.Verdict {
	t.Quiet, t.Reason = t.Quiet || j.quiet, packet.PayloadFormatInvalid
	j.took = append(j.took, string(t.Message.Payload))
	if j.verdict == broker.Taken {
		e := signalbox.Entry{Kind: signalbox.EntryTelemetry, Device: 1, Body: []byte(`{}`)}
		if j.log.Append(&e, history.Acked) != nil || t.Also != nil && j.log.Append(t.Also, history.Acked) != nil {
			return broker.Stop
		}
		t.Position = e.Position
	}
	return j.verdict
}

func TestVerdicts(t *testing.T) {
	for _, tc := range []struct {
		name    string
		verdict broker.Verdict
		quiet   bool
		gets    bool
		want    func(o broker.Outcome) bool
		reason  packet.Reason // of PUBACK
		acked   bool
	}{
		{"taken", broker.Taken, false, true, nothing, 0, true},
		{"taken for nobody else", broker.Taken, true, false, nothing, 0, true},
		{"pass", broker.Pass, false, true, nothing, 0, true},
		{"duplicate", broker.Duplicate, false, false, nothing, 0, true},
		{"later", broker.Later, false, false, func(o broker.Outcome) bool { return o.Wait > 0 && !o.Close }, 0, false},
		{"refused", broker.Refused, false, false, nothing, packet.PayloadFormatInvalid, true},
		{"stop", broker.Stop, false, false, func(o broker.Outcome) bool { return o.Close }, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			j := &judge{verdict: broker.Pass}
			taker := func(l *history.Log) broker.Taker { j.log = l; return j }
			h := disk(t, dir, broker.Config{}, taker)
			there, away, from := h.connect(t, "there"), h.connect(t, "away", expiry(1000)), h.connect(t, "from")
			there.subscribe(t, filter("x", 1))
			away.subscribe(t, filter("x", 1))
			away.Closed(true, nil, time.Now())

			j.verdict, j.quiet = tc.verdict, tc.quiet
			o := from.Publish(&packet.Packet{Type: packet.PUBLISH, Topic: []byte("x"), Payload: []byte("judged"), QoS: 1, ID: 3})
			if !tc.want(o) {
				t.Errorf("outcome %+v", o)
			}
			if tc.acked {
				if g := from.want(t, packet.PUBACK); g.Reason != tc.reason || g.ID != 3 {
					t.Errorf("PUBACK %d %#x", g.ID, g.Reason)
				}
			}
			j.verdict, j.quiet = broker.Pass, false
			from.publish(t, "x", "after", 1, 4)
			from.want(t, packet.PUBACK)
			want := []string{"after"}
			if tc.gets {
				want = []string{"judged", "after"}
			}
			h.connect(t, "nobody")
			for _, payload := range want {
				if g := there.want(t, packet.PUBLISH); g.payload != payload {
					t.Errorf("one who was there got %q, want %q", g.payload, payload)
				}
			}
			h.kill()
			h = disk(t, dir, broker.Config{}, taker)
			away = h.connect(t, "away", resume, expiry(1000))
			for _, payload := range want {
				g := away.want(t, packet.PUBLISH)
				if g.payload != payload {
					t.Errorf("one who was away got %q, want %q", g.payload, payload)
				}
				away.ack(packet.PUBACK, g.ID)
			}
			eventually(t, "the queue is empty", func() bool { return h.Stats().QueuedMessages.Load() == 0 })
			if n := h.Stats().Lost.Load(); n != 0 {
				t.Errorf("%d were lost", n)
			}
		})
	}
}

func nothing(o broker.Outcome) bool { return o == broker.Outcome{} }

// TestConsume publishes what is for the Taker alone, as commands and their answers are.
func TestConsume(t *testing.T) {
	for _, verdict := range []broker.Verdict{broker.Taken, broker.Pass} {
		for qos := range uint8(3) {
			t.Run(fmt.Sprintf("verdict %d, QoS %d", verdict, qos), func(t *testing.T) {
				dir := t.TempDir()
				j := &judge{verdict: verdict}
				h := disk(t, dir, broker.Config{}, func(l *history.Log) broker.Taker { j.log = l; return j })
				there, away, from := h.connect(t, "there"), h.connect(t, "away", expiry(1000)), h.connect(t, "from", expiry(1000))
				there.subscribe(t, filter("x", 2))
				away.subscribe(t, filter("x", 2))
				away.Closed(true, nil, time.Now())
				before := h.Stats().Received.Load()
				p := packet.Packet{Type: packet.PUBLISH, Topic: []byte("x"), Payload: []byte("taken"), QoS: qos, ID: 3}
				if o := from.Consume(&p); o != (broker.Outcome{}) {
					t.Fatalf("%+v", o)
				}
				switch qos {
				case 1:
					from.want(t, packet.PUBACK)
				case 2:
					from.want(t, packet.PUBREC)
					if o := from.Consume(&p); o != (broker.Outcome{}) { // the same again [MQTT-4.3.3-10]
						t.Fatalf("%+v", o)
					}
					from.want(t, packet.PUBREC)
					from.ack(packet.PUBREL, 3)
					from.want(t, packet.PUBCOMP)
				}
				if got := j.took; len(got) != 1 || got[0] != "taken" {
					t.Errorf("the Taker got %q", got)
				}
				if n := h.Stats().Received.Load() - before; n != 1 {
					t.Errorf("%d were counted", n)
				}
				j.verdict = broker.Pass
				from.publish(t, "x", "after", 1, 4)
				from.want(t, packet.PUBACK)
				if g := there.want(t, packet.PUBLISH); g.payload != "after" {
					t.Errorf("a subscriber got %q", g.payload)
				}
				h.kill()
				h = disk(t, dir, broker.Config{}, nil)
				away = h.connect(t, "away", resume, expiry(1000))
				if g := away.want(t, packet.PUBLISH); g.payload != "after" {
					t.Errorf("one who was away got %q", g.payload)
				}
			})
		}
	}
}
