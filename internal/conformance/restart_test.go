package conformance_test

import (
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"signalbox/internal/wire/packet"
)

// TestRestart ends the hub, in order and by a kill, and starts it again on its data: what
// the standards call session state is there (3.1.2.4, 4.1), and so is all that it has
// acknowledged.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		for _, end := range []string{"stopped", "killed"} {
			t.Run(v.name+"/"+end, func(t *testing.T) {
				t.Parallel()
				r := &restarted{t: t, v: v.version, dir: filepath.Join(t.TempDir(), "data"), killed: end == "killed"}
				r.start()
				before := r.before()
				r.end()
				r.start()
				r.after(before)
				r.end()
			})
		}
	}
}

type restarted struct {
	t      *testing.T
	v      packet.Version
	dir    string
	killed bool
	hub    *hub
	// clients are those of the hub that runs.
	clients []*client
}

func (r *restarted) start() {
	r.t.Helper()
	h, err := start(r.dir, inChild)
	if err != nil {
		r.t.Fatal(err)
	}
	r.hub = h
	r.t.Cleanup(func() { _ = h.kill() })
}

func (r *restarted) end() {
	r.t.Helper()
	end := r.hub.stop
	if r.killed {
		end = r.hub.kill
	}
	var readers sync.WaitGroup
	for _, c := range r.clients {
		readers.Go(func() { r.farewell(c) })
	}
	r.clients = nil
	if err := end(); err != nil {
		r.t.Fatal(err)
	}
	readers.Wait()
}

// farewell reads to the end and closes, as a client does: an orderly stop tells 5.0 clients
// why.
func (r *restarted) farewell(c *client) {
	told := false
	for {
		p, err := c.try(2 * patience)
		if err != nil {
			break
		}
		if p.Type == packet.DISCONNECT {
			told = p.Reason == packet.ServerShuttingDown
		}
	}
	_ = c.conn.Close()
	if want := !r.killed && r.v == packet.V5 && !c.left; told != want {
		r.t.Errorf("a client was told that the server shuts down: %t, want %t", told, want)
	}
}

func (r *restarted) login(options ...option) *client {
	r.t.Helper()
	conn, err := net.DialTimeout("tcp", r.hub.tcp, patience)
	if err != nil {
		r.t.Fatal(err)
	}
	token := func(c *packet.Connect, _ *packet.Properties) {
		c.User, c.Password = []byte(r.hub.user), []byte(r.hub.password)
	}
	c := loginOn(newClient(r.t, r.v, conn), append([]option{token}, options...)...)
	r.clients = append(r.clients, c)
	return c
}

// left is what a client remembers across the restart.
type left struct {
	away, brief, sender string
	sent, received      uint16
	willing             *client
}

func (r *restarted) before() left {
	r.t.Helper()
	away, from, brief, sender := r.login(lasting), r.login(), r.login(), r.login(lasting)
	away.subscribe("r/#", 2, subscriptionID(7))
	away.subscribe("local/#", 1, func(f *packet.Filter, _ *packet.Properties) { f.NoLocal = true })
	away.subscribe("dropped", 1)
	away.unsubscribe("dropped")
	brief.subscribe("r/#", 1)

	from.publish("r/sent", "sent", 1)
	sent := away.message("r/sent", "sent", 1)
	from.publish("r/received", "received", 2)
	received := away.message("r/received", "received", 2)
	away.ack(packet.PUBREC, received.ID)
	away.acked(packet.PUBREL, received.ID)
	from.publish("r/done", "done", 1)
	away.take("r/done", "done", 1)
	away.leave()

	half := message("r/half", "half", 2)
	half.ID = 77
	sender.send(packet.AppendPublish(nil, r.v, half))
	sender.acked(packet.PUBREC, 77)
	for i := range 20 {
		from.publish("r/queue", fmt.Sprint(i), uint8(1+i%2), func(p *packet.Packet) { fill(&p.Properties) })
	}
	from.publish("dropped", "no", 1)
	from.publish("kept/one", "older", 1, retained)
	from.publish("kept/one", "kept", 1, retained)
	from.publish("kept/two", "gone", 1, retained)
	from.publish("kept/two", "", 1, retained)
	willing := r.login(lasting, will("r/will", "gone", 1, false))
	return left{away: away.id, brief: brief.id, sender: sender.id, sent: sent.ID, received: received.ID, willing: willing}
}

func (r *restarted) after(l left) {
	t := r.t
	t.Helper()
	if r.login(named(l.brief), dirty).connack.SessionPresent {
		t.Error("a session that ended with its connection is present")
	}
	sender := r.login(named(l.sender), lasting)
	if !sender.connack.SessionPresent {
		t.Error("the sender's session is not present")
	}
	half := message("r/half", "half", 2)
	half.ID, half.Dup = 77, true
	sender.send(packet.AppendPublish(nil, r.v, half))
	sender.acked(packet.PUBREC, 77)
	sender.ack(packet.PUBREL, 77)
	sender.acked(packet.PUBCOMP, 77)

	away := r.login(named(l.away), lasting)
	if !away.connack.SessionPresent {
		t.Fatal("the session is not present")
	}
	again := map[string]int{}
	next, open, ended := 0, 0, false // open: QoS 2 that is not yet released
	from := r.login()
	from.publish("r/end", "end", 1)
	for !ended || open > 0 {
		p := away.read()
		switch name := string(p.Topic); {
		case p.Type == packet.PUBREL && p.ID == l.received:
			away.ack(packet.PUBCOMP, p.ID)
			again["PUBREL"]++
			continue
		case p.Type == packet.PUBREL:
			away.ack(packet.PUBCOMP, p.ID)
			open--
			continue
		case p.Type != packet.PUBLISH:
			t.Fatalf("a packet of type %d came", p.Type)
		case name == "r/sent" && (!p.Dup || p.ID != l.sent):
			t.Errorf("the unacknowledged message has DUP %t, identifier %d, want %d", p.Dup, p.ID, l.sent)
		case name == "r/queue":
			if string(p.Payload) != fmt.Sprint(next) || p.QoS != uint8(1+next%2) {
				t.Fatalf("queued message %q with QoS %d came where %d was due", p.Payload, p.QoS, next)
			}
			next++
			if r.v == packet.V5 {
				expectFilled(t, p)
			}
		case name == "r/end":
			ended = true
		}
		again[string(p.Topic)]++
		if r.v == packet.V5 && p.Properties.SubscriptionID != 7 {
			t.Errorf("the message on %s has subscription identifier %d", p.Topic, p.Properties.SubscriptionID)
		}
		if p.QoS == 1 {
			away.ack(packet.PUBACK, p.ID)
		} else {
			away.ack(packet.PUBREC, p.ID)
			open++
		}
	}
	if next != 20 || again["r/half"] != 1 || again["r/sent"] != 1 || again["PUBREL"] != 1 || again["r/received"] != 0 || again["dropped"] != 0 {
		t.Errorf("after the restart came %v, %d of the queue", again, next)
	}
	if again["r/done"] > 0 && !r.killed {
		t.Error("a message that was acknowledged came again after an orderly stop")
	}
	if again["r/will"] != 1 {
		t.Errorf("the will of a client that was cut off by the restart came %d times", again["r/will"])
	}
	late := r.login()
	late.subscribe("kept/#", 1)
	if p := late.take("kept/one", "kept", 1); !p.Retain {
		t.Error("the retained message comes without its flag")
	}
	late.nothing(from, 1)
	if r.v == packet.V5 {
		away.publish("local/x", "mine", 1)
		away.nothing(from, 1)
	}
}
