package command

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/session"
	"signalbox/internal/store"
)

// allowed are the changes of state a command may go through, «» being its first record.
var allowed = map[signalbox.CommandState][]signalbox.CommandState{
	"":                         {signalbox.CommandQueued, signalbox.CommandSent},
	signalbox.CommandQueued:    {signalbox.CommandSent, signalbox.CommandExpired, signalbox.CommandCanceled},
	signalbox.CommandSent:      {signalbox.CommandSent, signalbox.CommandDelivered, signalbox.CommandSucceeded, signalbox.CommandFailed, signalbox.CommandTimedOut, signalbox.CommandExpired, signalbox.CommandCanceled},
	signalbox.CommandDelivered: {signalbox.CommandDelivered, signalbox.CommandSucceeded, signalbox.CommandFailed, signalbox.CommandTimedOut, signalbox.CommandCanceled},
	signalbox.CommandTimedOut:  {signalbox.CommandTimedOut, signalbox.CommandSucceeded, signalbox.CommandFailed},
	signalbox.CommandExpired:   {signalbox.CommandExpired, signalbox.CommandSucceeded, signalbox.CommandFailed},
	signalbox.CommandSucceeded: {signalbox.CommandSucceeded}, // confirmed later
	signalbox.CommandFailed:    {},
	signalbox.CommandCanceled:  {},
}

// checkHistory holds what the log recorded to the state machine.
func checkHistory(t *testing.T, entries []signalbox.Entry) {
	t.Helper()
	now := map[string]signalbox.Command{}
	for _, e := range entries {
		if e.Kind != signalbox.EntryCommand {
			continue
		}
		var c signalbox.Command
		if err := json.Unmarshal(e.Body, &c); err != nil {
			t.Fatal(err)
		}
		old := now[c.ID]
		ok := false
		for _, next := range allowed[old.State] {
			ok = ok || next == c.State
		}
		if !ok {
			t.Errorf("command %s went from %q to %q", c.ID, old.State, c.State)
		}
		if old.State == c.State && old.ConfirmedAt.Equal(c.ConfirmedAt) {
			t.Errorf("command %s: a change from %q that changes nothing", c.ID, c.State)
		}
		if !old.SentAt.IsZero() && !c.SentAt.Equal(old.SentAt) && !c.SentAt.IsZero() {
			t.Errorf("command %s: its first sending moved", c.ID)
		}
		if c.State == signalbox.CommandCanceled && !c.SentAt.IsZero() && !c.Protocol.Answers() {
			t.Errorf("command %s was canceled after it was sent", c.ID)
		}
		now[c.ID] = c
	}
}

// A hammered device connects, answers as it likes, and goes away, over and over.
type hammered struct {
	g    *rig
	name string

	mu    sync.Mutex
	first map[string]bool // IDs that were written to it, ever
	last  string          // the newest ID written for the first time
}

func (h *hammered) run(ctx context.Context) {
	for ctx.Err() == nil {
		protocol := signalbox.Protocol(1 + rand.IntN(2))
		s, conn := h.g.connect(h.name, protocol)
		seen := map[string]bool{}
		for range rand.IntN(60) {
			select {
			case c := <-conn.came:
				h.take(s, &c, seen)
			case <-ctx.Done():
			case <-time.After(time.Duration(rand.IntN(3)) * time.Millisecond):
				h.g.telemetry(h.name, fmt.Sprintf(`{"servo%d":%d}`, rand.IntN(3), rand.IntN(3)))
			}
		}
		h.g.sessions.Detach(s)
		for len(conn.came) > 0 { // written before the end
			c := <-conn.came
			h.take(s, &c, seen)
		}
		if rand.IntN(2) == 0 {
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
		}
	}
}

func (h *hammered) take(s *session.Session, c *signalbox.Command, seen map[string]bool) {
	if seen[c.ID] {
		h.g.t.Errorf("%s was written twice on one connection", c.ID)
	}
	seen[c.ID] = true
	h.mu.Lock()
	if h.first[c.ID] && !s.Protocol.Answers() {
		h.g.t.Errorf("%s was written again to a device that cannot tell", c.ID)
	}
	if !h.first[c.ID] && c.ID < h.last && !s.Protocol.Answers() {
		h.g.t.Errorf("%s was written after %s", c.ID, h.last)
	}
	if !h.first[c.ID] {
		h.last = max(h.last, c.ID)
	}
	h.first[c.ID] = true
	h.mu.Unlock()
	switch rand.IntN(6) {
	case 0:
		h.g.road.Ack(s, c.ID)
	case 1, 2:
		h.g.road.Ack(s, c.ID)
		h.g.road.Result(s, c.ID, rand.IntN(4) > 0, json.RawMessage(`1`), "")
	case 3:
		h.g.road.Result(s, c.ID, true, nil, "")
		h.g.road.Result(s, c.ID, false, nil, "twice")
	}
}

// TestHammer lets devices, commanders and a log that stalls and refuses at each other, over several lives.
func TestHammer(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e"}
	g := newRig(t, Config{DefaultTimeout: 20 * time.Millisecond, ConfirmWindow: 30 * time.Millisecond, MaxActivePerDevice: 64}, names...)
	devices := make([]*hammered, len(names))
	for i, name := range names {
		devices[i] = &hammered{g: g, name: name, first: map[string]bool{}}
	}
	var (
		entries []signalbox.Entry
		taken   sync.Map
	)
	count := func() (n int) {
		taken.Range(func(any, any) bool { n++; return true })
		return n
	}
	for life := range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		var all sync.WaitGroup
		all.Go(func() { // a while, and until something has come of it
			for began := time.Now(); ctx.Err() == nil && (time.Since(began) < 700*time.Millisecond || count() < 10*(life+1)); {
				time.Sleep(10 * time.Millisecond)
			}
			cancel()
		})
		for _, d := range devices {
			all.Go(func() { d.run(ctx) })
		}
		for range 4 {
			all.Go(func() { hammerSubmit(ctx, g, names, &taken) })
		}
		all.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
				g.log.hold(true)
				time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
				g.log.hold(false)
				g.log.fill(true)
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
				g.log.fill(false)
			}
		})
		all.Wait()
		cancel()
		g.log.hold(false)
		if life == 2 {
			for _, id := range []signalbox.DeviceID{1, 2} {
				g.road.Forget(id)
			}
		}
		g.stop()
		g.log.mu.Lock()
		entries = append(entries, g.log.entries...)
		g.log.mu.Unlock()
		g.stop = func() {}
		g.restart()
	}
	checkHistory(t, entries)
	n := 0
	taken.Range(func(id, _ any) bool {
		n++
		g.until(id.(string), "an end", func(c *signalbox.Command) bool { return c.Settled() })
		return true
	})
	if st := g.road.Stats(); st.Active != 0 || n < 10 {
		t.Errorf("%d commands; at the end %+v", n, st)
	}
	g.until(anyOf(&taken), "everything out of memory", func(*signalbox.Command) bool {
		st := g.road.Stats()
		return st.Held == 0 && st.Watching == 0 && len(g.activeRows()) == 0
	})
	for i := range g.road.shards {
		sh := &g.road.shards[i]
		sh.mu.Lock()
		if len(sh.lanes)+len(sh.keys)+len(sh.reserved) != 0 {
			t.Errorf("shard %d still holds %d lanes, %d keys, %d reservations", i, len(sh.lanes), len(sh.keys), len(sh.reserved))
		}
		sh.mu.Unlock()
	}
}

func anyOf(m *sync.Map) (id string) {
	m.Range(func(k, _ any) bool { id, _ = k.(string); return false })
	return id
}

// hammerSubmit asks for commands of all sorts and notes those that were taken.
func hammerSubmit(ctx context.Context, g *rig, names []string, taken *sync.Map) {
	for i := 0; ctx.Err() == nil; i++ {
		req := signalbox.CommandRequest{
			Device: names[rand.IntN(len(names))], Name: fmt.Sprintf("servo%d", rand.IntN(3)), Value: new(fmt.Sprint(rand.IntN(3))),
			TTL: time.Duration(rand.IntN(3)) * 20 * time.Millisecond, Replace: rand.IntN(4) == 0,
		}
		if rand.IntN(4) == 0 {
			req.IdempotencyKey, req.Value = fmt.Sprintf("%s %d", req.Name, rand.IntN(200)), nil
		}
		within := patience
		if rand.IntN(4) == 0 {
			within = time.Millisecond
		}
		if rand.IntN(8) == 0 {
			for _, o := range g.road.SubmitBulk(context.Background(), []signalbox.CommandRequest{req, req, req}) {
				if o.Err == nil {
					taken.Store(o.Command.ID, true)
				}
			}
			continue
		}
		calm, cancel := context.WithTimeout(context.Background(), within)
		c, err := g.road.Submit(calm, req)
		cancel()
		if err != nil {
			if k := signalbox.KindOf(err); k != signalbox.KindConflict && k != signalbox.KindLimited && k != signalbox.KindUnavailable {
				g.t.Errorf("Submit: %v", err)
			}
			continue
		}
		taken.Store(c.ID, true)
		switch rand.IntN(6) {
		case 0:
			_, _ = g.road.Cancel(context.Background(), c.ID)
		case 1:
			short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
			if _, err := g.road.Wait(short, c.ID); err != nil {
				g.t.Errorf("Wait: %v", err)
			}
			cancel()
		}
	}
}

// TestCrash ends a life with commits outstanding: what was acknowledged is there, what was
// written had its mark on disk.
func TestCrash(t *testing.T) { inBubble(t, Config{}, crash) }

func crash(g *rig) {
	t := g.t
	s, conn := g.connect("esp01", signalbox.ProtocolV2)
	kept := g.submit(signalbox.CommandRequest{Name: "kept"})
	conn.next(t)
	g.log.hold(true)
	g.road.Result(s, kept.ID, true, nil, "") // reported, never on disk
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if c, err := g.road.Wait(ctx, kept.ID); err != nil || ctx.Err() == nil {
		t.Errorf("Wait told of %s before it was on disk (%v)", c.State, err)
	}
	g.crash()
	g.start()
	if got := g.get(kept.ID); got.State != signalbox.CommandSent {
		t.Errorf("%+v", got)
	}
	_, conn = g.connect("esp01", signalbox.ProtocolV2)
	if got := conn.next(t); got.ID != kept.ID {
		t.Errorf("delivered %+v", got)
	}
}

// answering is a connection whose device answers at once.
type answering struct {
	road *Road
	s    *session.Session
	came chan string
}

func (a *answering) Deliver(c *signalbox.Command) error { a.came <- c.ID; return nil }
func (a *answering) End(string)                         {}

func (a *answering) run() {
	for id := range a.came {
		a.road.Ack(a.s, id)
		a.road.Result(a.s, id, true, nil, "")
	}
}

// BenchmarkRoundTrip is Submit and Wait with the real log, the device answering at once.
func BenchmarkRoundTrip(b *testing.B) {
	for _, commanders := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("commanders=", commanders), func(b *testing.B) {
			logger := slog.New(slog.DiscardHandler)
			st, err := store.Open(context.Background(), store.Config{Dir: b.TempDir(), Logger: logger})
			if err != nil {
				b.Fatal(err)
			}
			log, err := history.Open(context.Background(), history.Config{Logger: logger}, st)
			if err != nil {
				b.Fatal(err)
			}
			names := make([]string, 1000)
			for i := range names {
				names[i] = fmt.Sprintf("d%04d", i)
			}
			sessions := session.New()
			devices := newTestDevices(names...)
			enroll(b, st, devices)
			road := New(Config{}, log, st, sessions, devices, logger)
			ctx, cancel := context.WithCancel(context.Background())
			logCtx, endLog := context.WithCancel(context.Background())
			var parts sync.WaitGroup
			var logDone sync.WaitGroup
			logDone.Go(func() {
				if err := log.Run(logCtx, 10*time.Second); err != nil {
					b.Error(err)
				}
			})
			parts.Go(func() {
				if err := road.Run(ctx); err != nil {
					b.Error(err)
				}
			})
			var conns []*answering
			for i := range names {
				a := &answering{road: road, came: make(chan string, 64)}
				a.s = &session.Session{ID: sessions.NextID(), Device: signalbox.DeviceID(i + 1), Protocol: signalbox.ProtocolV2, Conn: a}
				sessions.Attach(a.s)
				parts.Go(a.run)
				conns = append(conns, a)
			}
			var n atomic.Int64
			b.ResetTimer()
			var all sync.WaitGroup
			for range commanders {
				all.Go(func() {
					for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
						c, err := road.Submit(context.Background(), signalbox.CommandRequest{Device: names[int(i)%len(names)], Name: "servo1", Value: new("90")})
						if err == nil {
							c, err = road.Wait(context.Background(), c.ID)
						}
						if err != nil || c.State != signalbox.CommandSucceeded {
							b.Errorf("%+v, %v", c, err)
						}
					}
				})
			}
			all.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
			for _, a := range conns {
				close(a.came)
			}
			cancel()
			parts.Wait()
			endLog()
			logDone.Wait()
			if err := st.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}
