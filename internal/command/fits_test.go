package command

import (
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/session"
)

// choosy is a connection that has no words for the command «odd», and hears at times nothing.
type choosy struct {
	*testConn
	deaf atomic.Bool
}

func (c *choosy) Listening() bool { return !c.deaf.Load() }

func (*choosy) Fits(c *signalbox.Command) error {
	if c.Name == "odd" {
		return signalbox.Errorf(signalbox.KindInvalid, "command_unsuitable", "there is no topic for %q", c.Name)
	}
	return nil
}

func (g *rig) attach(name string, conn session.Conn) *session.Session {
	g.t.Helper()
	id, _ := g.devices.Find(name)
	s := &session.Session{ID: g.sessions.NextID(), Device: id, Protocol: signalbox.ProtocolMapped, Conn: conn}
	g.sessions.Attach(s)
	g.road.Online(s)
	return s
}

// TestUnsuitableCommands: what the connection cannot say is refused at once, or fails when its
// turn comes, and does not hold up what follows.
func TestUnsuitableCommands(t *testing.T) {
	g := newRig(t, Config{})
	odd := signalbox.CommandRequest{Device: "esp01", Name: "odd", TTL: time.Hour}
	waiting := g.submit(odd)
	next := g.submit(signalbox.CommandRequest{Device: "esp01", Name: "even", TTL: time.Hour})
	conn := &choosy{testConn: newConn()}
	g.attach("esp01", conn)
	if failed := g.await(waiting.ID, signalbox.CommandFailed); failed.Error != `there is no topic for "odd"` || !failed.SentAt.IsZero() || failed.EndedAt.IsZero() {
		t.Errorf("the queued one is %+v", failed)
	}
	if got := conn.next(t); got.ID != next.ID {
		t.Errorf("delivered was %s, want %s", got.ID, next.ID)
	}
	for _, ttl := range []time.Duration{0, time.Hour} {
		odd.TTL = ttl
		_, err := g.road.Submit(t.Context(), odd)
		wantCode(t, err, signalbox.KindInvalid, "command_unsuitable")
	}
	last := g.submit(signalbox.CommandRequest{Device: "esp01", Name: "even"})
	if got := conn.next(t); got.ID != last.ID || len(conn.came) != 0 {
		t.Errorf("delivered was %s, want %s alone", got.ID, last.ID)
	}
	list, err := g.road.List(t.Context(), 0, "", 10)
	if err != nil || len(list) != 3 {
		t.Errorf("recorded were %d commands, %v", len(list), err)
	}
	g.restart()
	if failed := g.get(waiting.ID); failed.State != signalbox.CommandFailed || failed.Error == "" {
		t.Errorf("after a restart it is %+v", failed)
	}
}

// TestDeafDevices: a device that is there and hears no commands is one that is away, but for the
// error, until it begins to listen.
func TestDeafDevices(t *testing.T) {
	g := newRig(t, Config{})
	deaf := &choosy{testConn: newConn()}
	deaf.deaf.Store(true)
	s := g.attach("esp01", deaf)
	_, err := g.road.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "x"})
	wantCode(t, err, signalbox.KindConflict, "device_not_listening")
	waiting := g.submit(signalbox.CommandRequest{Device: "esp01", Name: "x", TTL: time.Hour})
	if waiting.State != signalbox.CommandQueued {
		t.Errorf("it is %s", waiting.State)
	}
	deaf.deaf.Store(false)
	g.road.Online(s)
	if got := deaf.next(t); got.ID != waiting.ID {
		t.Errorf("delivered was %s, want %s", got.ID, waiting.ID)
	}
}

// fickle stops listening when the first command comes to it.
type fickle struct {
	*choosy
	tried   chan struct{}
	back    bool // it listens again before anybody notes that
	stopped atomic.Bool
}

func (c *fickle) Deliver(cmd *signalbox.Command) error {
	if c.stopped.CompareAndSwap(false, true) {
		c.deaf.Store(!c.back)
		close(c.tried)
		return session.ErrNotListening
	}
	return c.choosy.Deliver(cmd)
}

// awaitMissed waits until the road knows that a command did not go out.
func awaitMissed(t *testing.T, g *rig) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for g.road.Stats().Missed == 0 {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("no command was missed")
		}
	}
}

// TestStopsListening: what was marked when the device stopped listening goes out on the same
// connection when it listens again, once, and before what came later; unless it cannot answer.
func TestStopsListening(t *testing.T) {
	tests := []struct {
		name     string
		protocol signalbox.Protocol
		back     bool
		want     bool
	}{
		{"answers", signalbox.ProtocolMQTT, false, true},
		{"answers, and listens at once", signalbox.ProtocolMQTT, true, true},
		{"cannot answer", signalbox.ProtocolMapped, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, Config{})
			conn := &fickle{choosy: &choosy{testConn: newConn()}, tried: make(chan struct{}), back: tt.back}
			id, _ := g.devices.Find("esp01")
			s := &session.Session{ID: g.sessions.NextID(), Device: id, Protocol: tt.protocol, Conn: conn}
			g.sessions.Attach(s)
			first := g.submit(signalbox.CommandRequest{Name: "first"})
			<-conn.tried
			awaitMissed(t, g)
			again := func() {
				if got := conn.next(t); got.ID != first.ID {
					t.Errorf("delivered was %s, want the first", got.Name)
				}
			}
			if tt.back {
				again()
			}
			later := g.submit(signalbox.CommandRequest{Name: "later", TTL: time.Hour})
			conn.deaf.Store(false)
			g.road.Online(s)
			if tt.want && !tt.back {
				again()
			}
			if got := conn.next(t); got.ID != later.ID {
				t.Errorf("delivered was %s, want the later one", got.Name)
			}
			g.road.Online(s)
			last := g.submit(signalbox.CommandRequest{Name: "last"})
			if got := conn.next(t); got.ID != last.ID {
				t.Errorf("delivered was %s, want the last one", got.Name)
			}
			if got := g.get(first.ID); got.State != signalbox.CommandSent {
				t.Errorf("the first is %s", got.State)
			}
		})
	}
}
