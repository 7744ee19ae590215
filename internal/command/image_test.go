package command

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/session"
	"signalbox/internal/store"
)

// A life is a road over the real log, which can be ended like a power cut.
type life struct {
	t        *testing.T
	dir      string
	store    *store.Store
	log      *history.Log
	road     *Road
	sessions *session.Table
	devices  *testDevices
	end      func()
}

func newLife(t *testing.T, dir string) *life {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	st, err := store.Open(context.Background(), store.Config{Dir: dir, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	l := &life{t: t, dir: dir, store: st, sessions: session.New(), devices: newTestDevices("esp01", "esp02")}
	enroll(t, st, l.devices)
	if l.log, err = history.Open(context.Background(), history.Config{Logger: logger}, st); err != nil {
		t.Fatal(err)
	}
	l.road = New(Config{}, l.log, st, l.sessions, l.devices, logger)
	if err := l.road.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	l.wantCheckpoint()
	roadCtx, endRoad := context.WithCancel(context.Background())
	logCtx, endLog := context.WithCancel(context.Background())
	var roadDone, logDone sync.WaitGroup
	roadDone.Go(func() {
		if err := l.road.Run(roadCtx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	logDone.Go(func() {
		if err := l.log.Run(logCtx, patience); err != nil {
			t.Errorf("the log: %v", err)
		}
	})
	l.end = sync.OnceFunc(func() {
		endRoad()
		roadDone.Wait()
		endLog()
		logDone.Wait()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(l.end)
	return l
}

// cut starts the next life over a copy of the database as a power cut now would leave it.
// Rows are not written before.
func (l *life) cut() *life {
	l.t.Helper()
	dir := l.t.TempDir()
	err := l.store.Update(context.Background(), func(*store.Tx) error { // nobody else writes meanwhile
		for _, name := range []string{"signalbox.db", "signalbox.db-wal"} {
			data, err := os.ReadFile(filepath.Join(l.dir, name))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return newLife(l.t, dir)
}

func (l *life) connect(p signalbox.Protocol) (*session.Session, *testConn) {
	l.t.Helper()
	conn := newConn()
	s := &session.Session{ID: l.sessions.NextID(), Device: 1, Protocol: p, Conn: conn}
	if _, ok := l.sessions.Attach(s); !ok {
		l.t.Fatal("the session was not taken")
	}
	l.road.Online(s)
	return s, conn
}

func (l *life) submit(req signalbox.CommandRequest) signalbox.Command {
	l.t.Helper()
	req.Device = "esp01"
	c, err := l.road.Submit(context.Background(), req)
	if err != nil {
		l.t.Fatalf("Submit %s: %v", req.Name, err)
	}
	return c
}

// committed waits until the road's last change is on disk, in the log only.
func (l *life) committed() {
	l.t.Helper()
	if err := l.road.waitLast(context.Background()); err != nil {
		l.t.Fatal(err)
	}
}

// wantCheckpoint holds the checkpoint to its promise: not beyond the log, and every
// command's newest entry up to it is the row, as long as nothing came after.
func (l *life) wantCheckpoint() {
	l.t.Helper()
	wantCheckpoint(l.t, l.store, l.log)
}

func wantCheckpoint(t *testing.T, st Store, log Log) {
	t.Helper()
	text, err := st.Meta(context.Background(), checkpointName)
	if err != nil {
		t.Fatal(err)
	}
	at, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		t.Fatalf("checkpoint %q: %v", text, err)
	}
	if end := log.Committed(); signalbox.Position(at) > end {
		t.Errorf("the checkpoint %d is beyond the log, which ends at %d", at, end)
	}
	states := map[string][]signalbox.Command{}
	atCheckpoint := map[string]int{}
	err = log.Scan(context.Background(), 1, func(e *signalbox.Entry) error {
		if e.Kind != signalbox.EntryCommand {
			return nil
		}
		var c signalbox.Command
		if err := json.Unmarshal(e.Body, &c); err != nil {
			return err
		}
		states[c.ID] = append(states[c.ID], c)
		if e.Position <= signalbox.Position(at) {
			atCheckpoint[c.ID] = len(states[c.ID])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, n := range atCheckpoint {
		row, err := st.Command(context.Background(), id)
		if err != nil {
			t.Errorf("the checkpoint is %d, but there is no row of %s: %v", at, id, err)
			continue
		}
		if !slices.ContainsFunc(states[id][n-1:], func(c signalbox.Command) bool {
			return c.State == row.State && c.ConfirmedAt.Equal(row.ConfirmedAt)
		}) {
			t.Errorf("the row of %s is %s, which is older than the checkpoint", id, row.State)
		}
	}
}

func TestPowerCut(t *testing.T) {
	t.Parallel()
	ack := func(l *life, s *session.Session, id string) { l.road.Ack(s, id) }
	result := func(l *life, s *session.Session, id string) { l.road.Result(s, id, true, json.RawMessage(`7`), "") }
	failed := func(l *life, s *session.Session, id string) { l.road.Result(s, id, false, nil, "no power") }
	await := func(l *life, id string) { // the state in which it ends by itself
		ctx, giveUp := context.WithTimeout(context.Background(), patience)
		defer giveUp()
		if c, err := l.road.Wait(ctx, id); err != nil || !c.Settled() {
			l.t.Errorf("%+v, %v", c, err)
		}
	}
	timedOut := func(l *life, _ *session.Session, id string) { await(l, id) }
	expired := func(l *life, s *session.Session, id string) {
		if s != nil {
			l.sessions.Detach(s) // a device that is connected has been given it
		}
		await(l, id)
	}
	cancel := func(l *life, _ *session.Session, id string) {
		if _, err := l.road.Cancel(context.Background(), id); err != nil {
			l.t.Error(err)
		}
	}
	tests := []struct {
		name     string
		protocol signalbox.Protocol // 0: not connected
		ttl      time.Duration
		timeout  time.Duration // 0: the default
		event    func(l *life, s *session.Session, id string)
		state    signalbox.CommandState
		again    bool // written on the next connection
	}{
		{"queued", 0, time.Hour, 0, nil, signalbox.CommandQueued, true},
		{"canceled", 0, time.Hour, 0, cancel, signalbox.CommandCanceled, false},
		{"expired in the queue", 0, 20 * time.Millisecond, 0, expired, signalbox.CommandExpired, false},
		{"v1 sent", signalbox.ProtocolV1, time.Hour, 0, nil, signalbox.CommandSent, false},
		{"v2 sent", signalbox.ProtocolV2, time.Hour, 0, nil, signalbox.CommandSent, true},
		{"v2 delivered", signalbox.ProtocolV2, time.Hour, 0, ack, signalbox.CommandDelivered, false},
		{"v2 succeeded", signalbox.ProtocolV2, time.Hour, 0, result, signalbox.CommandSucceeded, false},
		{"v2 failed", signalbox.ProtocolV2, time.Hour, 0, failed, signalbox.CommandFailed, false},
		{"v2 expired", signalbox.ProtocolV2, 5 * time.Second, 0, expired, signalbox.CommandExpired, false},
		{"v2 timed out", signalbox.ProtocolV2, time.Hour, 5 * time.Second, timedOut, signalbox.CommandTimedOut, false},
	}
	for _, tt := range tests {
		for _, rows := range []string{"no row", "row of the first state", "all rows"} {
			t.Run(tt.name+", "+rows, func(t *testing.T) {
				t.Parallel()
				l := newLife(t, t.TempDir())
				var (
					s    *session.Session
					conn *testConn
				)
				if tt.protocol != 0 {
					s, conn = l.connect(tt.protocol)
				}
				req := signalbox.CommandRequest{Name: "x", Value: new("1"), TTL: tt.ttl, Timeout: tt.timeout, IdempotencyKey: "k"}
				c := l.submit(req)
				if conn != nil {
					conn.next(t)
				}
				flush := func() {
					if err := l.road.flushRows(context.Background()); err != nil {
						t.Fatal(err)
					}
				}
				if rows == "row of the first state" {
					flush()
				}
				if tt.event != nil {
					tt.event(l, s, c.ID)
				}
				l.committed()
				if rows == "all rows" {
					flush()
				}
				for cut := range 2 { // the second right after the start
					l = l.cut()
					stored, err := l.store.Command(t.Context(), c.ID)
					if err != nil || stored.State != tt.state {
						t.Fatalf("after cut %d the row is %+v, %v; want %s", cut, stored, err, tt.state)
					}
					if again := l.submit(req); again.ID != c.ID || again.State != tt.state || string(again.Result) != string(stored.Result) || again.Error != stored.Error {
						t.Errorf("after cut %d the key gives %+v", cut, again)
					}
				}
				_, conn = l.connect(max(tt.protocol, signalbox.ProtocolV1))
				last := l.submit(signalbox.CommandRequest{Name: "last"})
				first := conn.next(t)
				if again := first.ID == c.ID; again != tt.again || last.ID <= c.ID {
					t.Errorf("first delivered is %s; want the old one: %v", first.Name, tt.again)
				}
				list, err := l.road.List(t.Context(), 0, "", 10)
				if err != nil || len(list) != 2 || list[0].ID != last.ID || list[1].ID != c.ID {
					t.Errorf("list %+v, %v", list, err)
				}
				l.wantCheckpoint()
			})
		}
	}
}

// TestPowerCutBetweenReplacementAndCancellation ends a life when the new command is
// committed and the entries of those that it replaced are not.
func TestPowerCutBetweenReplacementAndCancellation(t *testing.T) {
	for _, stored := range []bool{false, true} {
		t.Run(fmt.Sprint("rows stored ", stored), func(t *testing.T) {
			g := newRig(t, Config{})
			old := g.submit(signalbox.CommandRequest{Name: "servo1", Value: new("1"), TTL: time.Hour})
			other := g.submit(signalbox.CommandRequest{Name: "servo2", Value: new("2"), TTL: time.Hour})
			if stored {
				g.durable()
			}
			g.log.hold(true)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = g.road.Submit(context.Background(), signalbox.CommandRequest{Device: "esp01", Name: "servo1", Value: new("3"), TTL: time.Hour, Replace: true})
			}()
			for g.road.Stats().Submitted < 3 {
				time.Sleep(time.Millisecond)
			}
			g.log.mu.Lock()
			g.log.pending = g.log.pending[:1]
			g.log.mu.Unlock()
			g.log.hold(false)
			<-done
			g.crash()
			g.start()
			if err := g.road.flushRows(t.Context()); err != nil {
				t.Fatal(err)
			}
			c, err := g.store.Command(t.Context(), old.ID)
			if err != nil || c.State != signalbox.CommandCanceled || c.EndedAt.IsZero() {
				t.Errorf("the replaced one is %+v, %v", c, err)
			}
			_, conn := g.connect("esp01", signalbox.ProtocolV1)
			if a, b := conn.next(t), conn.next(t); a.ID != other.ID || *b.Value != "3" {
				t.Errorf("delivered %s and %s", a.Name, b.Name)
			}
		})
	}
}

func TestReadsSeeWhatHasNoRowYet(t *testing.T) {
	inBubble(t, Config{}, func(g *rig) {
		t := g.t
		var want []string
		for i := range 6 {
			req := signalbox.CommandRequest{Device: "esp01", Name: fmt.Sprint("c", i), TTL: time.Hour, IdempotencyKey: fmt.Sprint(i)}
			if i%2 == 1 {
				req.Device = "esp02"
			}
			want = append(want, g.submit(req).ID)
			if i == 2 {
				g.durable()
			}
		}
		if _, err := g.store.Command(t.Context(), want[5]); signalbox.CodeOf(err) != "command_not_found" {
			t.Fatalf("the row is there at once: %v", err)
		}
		slices.Reverse(want)
		if _, err := g.road.Cancel(t.Context(), want[5]); err != nil { // its row says queued
			t.Fatal(err)
		}
		tests := []struct {
			name   string
			device signalbox.DeviceID
			before string
			limit  int
			want   []string
		}{
			{"all", 0, "", 10, want},
			{"first page", 0, "", 2, want[:2]},
			{"across", 0, want[1], 3, want[2:5]},
			{"stored only", 0, want[3], 10, want[4:]},
			{"one device", 1, "", 10, []string{want[1], want[3], want[5]}},
			{"one device, second page", 2, want[2], 10, []string{want[4]}},
		}
		for _, written := range []bool{false, true} {
			for _, tt := range tests {
				list, err := g.road.List(t.Context(), tt.device, tt.before, tt.limit)
				var got []string
				for _, c := range list {
					got = append(got, c.ID)
					if c.ID == want[5] && c.State != signalbox.CommandCanceled {
						t.Errorf("%s: %+v", tt.name, c)
					}
				}
				if err != nil || !slices.Equal(got, tt.want) {
					t.Errorf("%s (rows written: %v): %v, %v; want %v", tt.name, written, got, err, tt.want)
				}
			}
			again := g.submit(signalbox.CommandRequest{Device: "esp02", Name: "c5", TTL: time.Hour, IdempotencyKey: "5"})
			if again.ID != want[0] {
				t.Errorf("the key gives %s; want %s", again.ID, want[0])
			}
			g.after(rowDelay + time.Second)
		}
		if st := g.road.Stats(); st.Behind != 0 || st.Rows != 7 {
			t.Errorf("%+v", st)
		}
	})
}

func TestStatesOfACommandAreOneWrite(t *testing.T) {
	inBubble(t, Config{}, func(g *rig) {
		t := g.t
		s, conn := g.connect("esp01", signalbox.ProtocolV2)
		c := g.submit(signalbox.CommandRequest{Name: "x", Value: new("1")})
		conn.next(t)
		g.road.Ack(s, c.ID)
		g.road.Result(s, c.ID, true, nil, "")
		time.Sleep(2 * rowDelay) // the road itself writes the row, and it leaves memory when it has
		if stored, err := g.store.Command(t.Context(), c.ID); err != nil || stored.State != signalbox.CommandSucceeded {
			t.Errorf("%+v, %v", stored, err)
		}
		if st := g.road.Stats(); st.Rows != 1 || st.Behind != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestRowsAreNeverAheadOfTheLog lets the log hang while rows are due.
func TestRowsAreNeverAheadOfTheLog(t *testing.T) {
	inBubble(t, Config{ConfirmWindow: time.Second}, func(g *rig) {
		t := g.t
		s, conn := g.connect("esp01", signalbox.ProtocolV2)
		c := g.submit(signalbox.CommandRequest{Name: "x"})
		conn.next(t)
		g.durable()
		g.log.hold(true)
		g.road.Result(s, c.ID, true, nil, "")
		time.Sleep(time.Minute)
		if stored, err := g.store.Command(t.Context(), c.ID); err != nil || stored.State != signalbox.CommandSent {
			t.Errorf("%+v, %v", stored, err)
		}
		wantCheckpoint(t, g.store, g.log)
		if got := g.get(c.ID); got.State != signalbox.CommandSucceeded || g.road.Stats().Behind != 1 {
			t.Errorf("it left memory: %+v, %+v", got, g.road.Stats())
		}
		g.log.hold(false)
		time.Sleep(time.Minute)
		wantCheckpoint(t, g.store, g.log)
		if st := g.road.Stats(); st.Behind != 0 || st.Held != 0 {
			t.Errorf("%+v", st)
		}
		g.wantState(c.ID, signalbox.CommandSucceeded)
	})
}

func TestRowsOfARemovedDeviceDoNotComeBack(t *testing.T) {
	l := newLife(t, t.TempDir())
	c := l.submit(signalbox.CommandRequest{Name: "x", TTL: time.Hour})
	l.road.Forget(1)
	err := l.store.Update(t.Context(), func(tx *store.Tx) error { return tx.DeleteDevice(t.Context(), 1) })
	if err != nil {
		t.Fatal(err)
	}
	l.devices.mu.Lock()
	delete(l.devices.ids, "esp01")
	l.devices.mu.Unlock()
	l.committed()
	if list, err := l.road.List(t.Context(), 0, "", 10); err != nil || len(list) != 0 {
		t.Errorf("list %+v, %v", list, err)
	}
	if err := l.road.flushRows(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.store.Command(t.Context(), c.ID); signalbox.CodeOf(err) != "command_not_found" {
		t.Errorf("its row came back: %v", err)
	}
	if st := l.road.Stats(); st.Behind != 0 {
		t.Errorf("%+v", st)
	}
}

func TestPruningLeavesWhatIsBehind(t *testing.T) {
	inBubble(t, Config{Keep: 24 * time.Hour, PruneEvery: 1000 * time.Hour, DefaultTimeout: time.Minute}, func(g *rig) {
		t := g.t
		s, conn := g.connect("esp01", signalbox.ProtocolV2)
		c := g.submit(signalbox.CommandRequest{Name: "x", IdempotencyKey: "k"})
		conn.next(t)
		g.after(48 * time.Hour) // timed out, only in the store
		waiting := g.submit(signalbox.CommandRequest{Device: "esp02", Name: "y", TTL: time.Hour})
		g.road.Result(s, c.ID, true, nil, "") // late
		synctest.Wait()
		g.road.prune(t.Context())
		g.wantState(c.ID, signalbox.CommandSucceeded)
		g.wantState(waiting.ID, signalbox.CommandQueued)
		g.after(time.Minute) // its row was written once more, and goes with the next pruning
		g.road.prune(t.Context())
		if _, err := g.road.Get(t.Context(), c.ID); signalbox.CodeOf(err) != "command_not_found" {
			t.Errorf("still there: %v", err)
		}
		g.wantState(waiting.ID, signalbox.CommandQueued)
	})
}

// TestCleanStopLeavesAnUpToDateTable: nothing is left to replay.
func TestCleanStopLeavesAnUpToDateTable(t *testing.T) {
	l := newLife(t, t.TempDir())
	ids := map[string]bool{}
	for i := range 250 {
		ids[l.submit(signalbox.CommandRequest{Name: fmt.Sprint("c", i), TTL: time.Hour}).ID] = true
	}
	l.end()
	st, err := store.Open(t.Context(), store.Config{Dir: l.dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	log, err := history.Open(t.Context(), history.Config{}, st)
	if err != nil {
		t.Fatal(err)
	}
	wantCheckpoint(t, st, log)
	if at, err := st.Meta(t.Context(), checkpointName); err != nil || at != formatPosition(log.Committed()) {
		t.Errorf("the checkpoint is %s, %v; the log ends at %d", at, err, log.Committed())
	}
	err = st.ActiveCommands(t.Context(), func(c *signalbox.Command) error { delete(ids, c.ID); return nil })
	if err != nil || len(ids) != 0 {
		t.Errorf("%d commands have no row, %v", len(ids), err)
	}
}

// TestCheckpointWhileBusy cuts the power again and again while commands go through all
// their states.
func TestCheckpointWhileBusy(t *testing.T) {
	l := newLife(t, t.TempDir())
	for range 3 {
		s, conn := l.connect(signalbox.ProtocolV2)
		known := map[string]signalbox.CommandState{}
		var flushing sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		flushing.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				<-tick.C
				if _, err := l.road.writeRows(context.Background(), 7, true); err != nil {
					t.Error(err)
				}
			}
		})
		for i := range 100 {
			c := l.submit(signalbox.CommandRequest{Name: fmt.Sprint("c", i), Replace: i%3 == 0, IdempotencyKey: fmt.Sprint(s.ID, i)})
			got := conn.next(t)
			known[c.ID] = signalbox.CommandSent
			if i%4 > 0 {
				l.road.Ack(s, got.ID)
			}
			if i%4 > 1 {
				l.road.Result(s, got.ID, i%2 == 0, nil, "")
				if c, err := l.road.Wait(t.Context(), got.ID); err == nil {
					known[c.ID] = c.State
				}
			}
			if i%10 == 0 {
				l.wantCheckpoint()
			}
		}
		cancel()
		next := l.cut()
		flushing.Wait()
		l = next
		for id, state := range known {
			c, err := l.road.Get(t.Context(), id)
			if err != nil || state.Ended() && c.State != state {
				t.Errorf("%s was %s; now %+v, %v", id, state, c, err)
			}
			if _, err := l.store.Command(t.Context(), id); err != nil {
				t.Errorf("%s has no row: %v", id, err)
			}
		}
		l.road.Forget(1) // so that the lane has room for the next round
	}
}
