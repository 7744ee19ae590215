package command

import (
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
)

// inBubble runs f with a fake clock.
func inBubble(t *testing.T, cfg Config, f func(g *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(newRig(t, cfg)) })
}

// after lets the fake clock run, and then everyone finish what became due.
func (g *rig) after(d time.Duration) {
	g.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	g.durable()
}

func (g *rig) wantState(id string, want signalbox.CommandState) signalbox.Command {
	g.t.Helper()
	c := g.get(id)
	if c.State != want {
		g.t.Errorf("state %s; want %s", c.State, want)
	}
	return c
}

func TestQueuedExpires(t *testing.T) {
	inBubble(t, Config{}, func(g *rig) {
		t := g.t
		c := g.submit(signalbox.CommandRequest{Name: "x", TTL: time.Minute})
		g.after(59 * time.Second)
		g.wantState(c.ID, signalbox.CommandQueued)
		g.after(time.Second)
		if got := g.wantState(c.ID, signalbox.CommandExpired); !got.EndedAt.Equal(c.ExpiresAt) {
			t.Errorf("ended at %s; want %s", got.EndedAt, c.ExpiresAt)
		}
		_, conn := g.connect("esp01", signalbox.ProtocolV1)
		g.after(time.Second)
		if got := conn.names(); len(got) != 0 {
			t.Errorf("delivered %v", got)
		}
	})
}

func TestTimeout(t *testing.T) {
	for _, acked := range []bool{false, true} {
		inBubble(t, Config{DefaultTimeout: 10 * time.Second}, func(g *rig) {
			t := g.t
			s, conn := g.connect("esp01", signalbox.ProtocolV2)
			c := g.submit(signalbox.CommandRequest{Name: "x"})
			conn.next(t)
			if acked {
				g.road.Ack(s, c.ID)
			}
			g.after(9 * time.Second)
			if got := g.get(c.ID); got.State.Ended() {
				t.Errorf("%+v", got)
			}
			g.after(time.Second)
			if got := g.wantState(c.ID, signalbox.CommandTimedOut); got.EndedAt.Sub(got.SentAt) != 10*time.Second {
				t.Errorf("ended %s after sending", got.EndedAt.Sub(got.SentAt))
			}
			// It left memory long ago: found in the store.
			g.after(time.Hour)
			if n := g.road.Stats().Held; n != 0 {
				t.Errorf("%d commands in memory", n)
			}
			g.road.Result(s, c.ID, true, nil, "")
			g.road.Result(s, c.ID, false, nil, "second")
			g.after(time.Second)
			g.wantState(c.ID, signalbox.CommandSucceeded)
			if st := g.road.Stats(); st.Late != 1 || st.Ignored != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestVersion1NeverTimesOut(t *testing.T) {
	inBubble(t, Config{ConfirmWindow: time.Minute}, func(g *rig) {
		t := g.t
		_, conn := g.connect("esp01", signalbox.ProtocolV1)
		c := g.submit(signalbox.CommandRequest{Name: "x", Value: new("1"), TTL: time.Second})
		conn.next(t)
		g.after(59 * time.Second)
		if !g.road.Watching(1) {
			t.Error("no longer watched")
		}
		g.after(10 * time.Second)
		if st := g.road.Stats(); g.road.Watching(1) || st.Held != 0 || st.Watching != 0 {
			t.Errorf("after the window: %+v", st)
		}
		g.wantState(c.ID, signalbox.CommandSent)
		for range g.activeRows() {
			t.Error("its row is still active")
		}
	})
}

func (g *rig) activeRows() (ids []string) {
	g.t.Helper()
	err := g.store.ActiveCommands(g.t.Context(), func(c *signalbox.Command) error {
		ids = append(ids, c.ID)
		return nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return ids
}

func TestTimeoutRunsWhileTheHubIsDown(t *testing.T) {
	inBubble(t, Config{DefaultTimeout: time.Minute}, func(g *rig) {
		t := g.t
		_, conn := g.connect("esp01", signalbox.ProtocolV2)
		long := g.submit(signalbox.CommandRequest{Name: "long", Timeout: 2 * time.Minute})
		short := g.submit(signalbox.CommandRequest{Name: "short"})
		waiting := g.submit(signalbox.CommandRequest{Device: "esp02", Name: "waiting", TTL: time.Minute})
		conn.next(t)
		conn.next(t)
		g.end()
		time.Sleep(90 * time.Second)
		g.start()
		synctest.Wait()
		g.wantState(short.ID, signalbox.CommandTimedOut)
		g.wantState(waiting.ID, signalbox.CommandExpired)
		g.wantState(long.ID, signalbox.CommandSent)
		_, conn = g.connect("esp01", signalbox.ProtocolV2)
		g.after(29 * time.Second)
		if got := conn.names(); len(got) != 1 || got[0] != "long" {
			t.Errorf("delivered %v", got)
		}
		g.after(time.Second)
		g.wantState(long.ID, signalbox.CommandTimedOut)
	})
}

func TestExpiryOfSentCommand(t *testing.T) {
	tests := []struct {
		name      string
		connected bool // when it expires
		at        time.Duration
		want      signalbox.CommandState
		again     bool // written again on a connection after that
	}{
		{"away before", false, 4 * time.Second, signalbox.CommandSent, true},
		{"away after", false, 6 * time.Second, signalbox.CommandExpired, false},
		{"connected after", true, 6 * time.Second, signalbox.CommandSent, false},
		{"connected at the timeout", true, 10 * time.Second, signalbox.CommandTimedOut, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, Config{DefaultTimeout: 10 * time.Second}, func(g *rig) {
				t := g.t
				s, conn := g.connect("esp01", signalbox.ProtocolV2)
				c := g.submit(signalbox.CommandRequest{Name: "x", TTL: 5 * time.Second})
				conn.next(t)
				if !tt.connected {
					g.sessions.Detach(s)
				}
				g.after(tt.at)
				g.wantState(c.ID, tt.want)
				s, conn = g.connect("esp01", signalbox.ProtocolV2)
				g.after(time.Second)
				if again := len(conn.names()) > 0; again != tt.again {
					t.Errorf("written again: %v; want %v", again, tt.again)
				}
				g.road.Result(s, c.ID, true, nil, "") // the device did it all the same
				g.after(time.Second)
				g.wantState(c.ID, signalbox.CommandSucceeded)
			})
		})
	}
}

func TestSlowCommitDoesNotDeliverTheExpired(t *testing.T) {
	inBubble(t, Config{}, func(g *rig) {
		t := g.t
		_, conn := g.connect("esp01", signalbox.ProtocolV1)
		g.log.hold(true)
		submitted := make(chan signalbox.Command)
		go func() {
			c, err := g.road.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "x", Value: new("1"), TTL: time.Second})
			if err != nil {
				t.Error(err)
			}
			submitted <- c
		}()
		time.Sleep(2 * time.Second)
		g.log.hold(false)
		c := <-submitted
		synctest.Wait()
		if got := g.wantState(c.ID, signalbox.CommandExpired); !got.SentAt.IsZero() {
			t.Error("it says that it was sent")
		}
		if got := conn.names(); len(got) != 0 {
			t.Errorf("delivered %v", got)
		}
	})
}

func TestPruning(t *testing.T) {
	inBubble(t, Config{Keep: 24 * time.Hour, PruneEvery: time.Hour}, func(g *rig) {
		t := g.t
		ended := g.submit(signalbox.CommandRequest{Name: "x", TTL: time.Second})
		waiting := g.submit(signalbox.CommandRequest{Name: "y", TTL: 48 * time.Hour})
		g.after(26 * time.Hour)
		if _, err := g.road.Get(t.Context(), ended.ID); signalbox.CodeOf(err) != "command_not_found" {
			t.Errorf("still there: %v", err)
		}
		g.wantState(waiting.ID, signalbox.CommandQueued)
		if n := g.road.Stats().Pruned; n != 1 {
			t.Errorf("%d pruned", n)
		}
	})
}
