package command

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/session"
)

// narrow is a connection with room for so many commands.
type narrow struct {
	*testConn
	room chan struct{}
	once bool
}

func (c *narrow) Deliver(cmd *signalbox.Command) error {
	select {
	case <-c.room:
		return c.testConn.Deliver(cmd)
	default:
		return session.ErrBusy
	}
}

func (c *narrow) Once() bool { return c.once }

func (g *rig) narrow(p signalbox.Protocol, room int) (*session.Session, *narrow) {
	g.t.Helper()
	conn := &narrow{testConn: newConn(), room: make(chan struct{}, 1000)}
	for range room {
		conn.room <- struct{}{}
	}
	id, _ := g.devices.Find("esp01")
	s := &session.Session{ID: g.sessions.NextID(), Device: id, Protocol: p, Conn: conn}
	g.sessions.Attach(s)
	g.road.Online(s)
	return s, conn
}

// TestNarrowConnections: what a connection has no room for goes out on it when it has, all of it,
// once, and in order with what comes meanwhile.
func TestNarrowConnections(t *testing.T) {
	for name, p := range map[string]signalbox.Protocol{"answers": signalbox.ProtocolMQTT, "cannot answer": signalbox.ProtocolMapped} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, Config{MaxActivePerDevice: 1000})
			const waiting, later = 300, 50
			for i := range waiting {
				g.submit(signalbox.CommandRequest{Name: fmt.Sprint(i), TTL: time.Hour})
			}
			s, conn := g.narrow(p, 2)
			var work sync.WaitGroup
			work.Go(func() {
				for i := range later {
					g.submit(signalbox.CommandRequest{Name: fmt.Sprint(waiting + i), TTL: time.Hour})
				}
			})
			for i := range waiting + later {
				if got := conn.next(t); got.Name != fmt.Sprint(i) {
					t.Fatalf("command %s came in place of %d", got.Name, i)
				}
				conn.room <- struct{}{}
				g.road.Online(s)
			}
			work.Wait()
			if n := len(conn.names()); n != waiting+later {
				t.Errorf("%d commands went out", n)
			}
		})
	}
}

// TestNarrowConnectionEnds: what was held back for a connection that ended goes to the next one
// with what had gone out and was not acknowledged, in order.
func TestNarrowConnectionEnds(t *testing.T) {
	g := newRig(t, Config{})
	for i := range 5 {
		g.submit(signalbox.CommandRequest{Name: fmt.Sprint(i), TTL: time.Hour})
	}
	_, conn := g.narrow(signalbox.ProtocolMQTT, 2)
	conn.next(t)
	conn.next(t)
	_, second := g.narrow(signalbox.ProtocolMQTT, 10)
	for i := range 5 {
		if got := second.next(t); got.Name != fmt.Sprint(i) {
			t.Fatalf("command %s came in place of %d", got.Name, i)
		}
	}
}

// TestHeldCommandsExpire: what never went out is expired when its time is over.
func TestHeldCommandsExpire(t *testing.T) {
	for name, p := range map[string]signalbox.Protocol{"answers": signalbox.ProtocolMQTT, "cannot answer": signalbox.ProtocolMapped} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{}, func(g *rig) {
				s, conn := g.narrow(p, 0)
				c := g.submit(signalbox.CommandRequest{Name: "x", TTL: 3 * time.Second})
				time.Sleep(5 * time.Second)
				if got := g.get(c.ID); got.State != signalbox.CommandExpired || !got.SentAt.IsZero() {
					t.Errorf("it is %+v", got)
				}
				conn.room <- struct{}{}
				g.road.Online(s)
				time.Sleep(time.Second)
				if n := len(conn.names()); n != 0 {
					t.Errorf("%d commands went out", n)
				}
			})
		})
	}
}

// TestOnceConnections: without an ID to be recognised by, nothing is written twice; results count.
func TestOnceConnections(t *testing.T) {
	g := newRig(t, Config{})
	_, first := g.narrow(signalbox.ProtocolMQTT, 1)
	first.once = true
	lost := g.submit(signalbox.CommandRequest{Name: "lost", TTL: time.Hour})
	first.next(t)
	held := g.submit(signalbox.CommandRequest{Name: "held", TTL: time.Hour})
	s, second := g.narrow(signalbox.ProtocolMQTT, 10)
	if got := second.next(t); got.ID != held.ID {
		t.Errorf("command %s came on the second connection", got.Name)
	}
	g.road.Result(s, lost.ID, true, nil, "")
	g.await(lost.ID, signalbox.CommandSucceeded)
	if n := len(second.names()); n != 1 {
		t.Errorf("%d commands went out on the second connection", n)
	}
}
