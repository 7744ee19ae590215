package command

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

// TestRush: when very many rows are behind they are written at once, due or not, until
// fewer are.
func TestRush(t *testing.T) {
	inBubble(t, Config{}, func(g *rig) {
		t := g.t
		c := g.submit(signalbox.CommandRequest{Name: "x", TTL: time.Hour})
		g.durable()
		start, before := time.Now(), g.road.Stats()
		const over = 250
		for range rushAt + over {
			g.road.image.touch(&entry{c: c}) // the same row again: what counts is how many wait
		}
		synctest.Wait()
		st := g.road.Stats()
		if st.Behind >= rushAt || st.Behind < rushAt-mostRows {
			t.Errorf("%d rows are behind; want a few less than %d", st.Behind, rushAt)
		}
		if writes := st.Rushed - before.Rushed; writes < over/mostRows || st.Rows-before.Rows != writes*mostRows {
			t.Errorf("%d writes in a rush, %d rows in all", writes, st.Rows-before.Rows)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("it waited %s", took)
		}
		g.after(time.Minute)
		if last := g.road.Stats(); last.Behind != 0 || last.Rushed != st.Rushed {
			t.Errorf("after the rush: %+v", last)
		}
	})
}

// TestRefusedRow: a row that the database will never take does not hold up the others.
func TestRefusedRow(t *testing.T) {
	g := newRig(t, Config{})
	if err := g.halt(); err != nil { // so that rows are written here alone
		t.Fatal(err)
	}
	g.stop = func() {}
	g.road.stopping.Store(false)
	var logged bytes.Buffer
	g.road.logger = slog.New(slog.NewTextHandler(&logged, nil))
	first := g.submit(signalbox.CommandRequest{Name: "a", TTL: time.Hour})
	bad := g.submit(signalbox.CommandRequest{Name: "b", TTL: time.Hour, IdempotencyKey: "k"})
	last := g.submit(signalbox.CommandRequest{Name: "c", TTL: time.Hour})
	taken := signalbox.Command{ID: "00000000000000000000000000", To: 1, Device: "esp01", Name: "b", IdempotencyKey: "k", State: signalbox.CommandCanceled}
	err := g.store.Store.Update(t.Context(), func(tx *store.Tx) error { return tx.PutCommand(t.Context(), &taken, false) })
	if err != nil {
		t.Fatal(err)
	}
	g.durable()
	for _, c := range []signalbox.Command{first, last} {
		if _, err := g.store.Command(t.Context(), c.ID); err != nil {
			t.Errorf("%s has no row: %v", c.Name, err)
		}
	}
	if _, err := g.store.Command(t.Context(), bad.ID); signalbox.CodeOf(err) != "command_not_found" {
		t.Errorf("the refused row: %v", err)
	}
	if !bytes.Contains(logged.Bytes(), []byte("command_id="+bad.ID)) {
		t.Errorf("nobody is told: %s", logged.Bytes())
	}
	if st := g.road.Stats(); st.Behind != 0 {
		t.Errorf("%+v", st)
	}
}

// TestRowsWaitForAStoreThatFails: rows stay behind, the checkpoint with them, and all is
// made good when the store works again.
func TestRowsWaitForAStoreThatFails(t *testing.T) {
	inBubble(t, Config{}, func(g *rig) {
		t := g.t
		g.durable()
		wantCheckpoint(t, g.store, g.log)
		g.store.breakDown(signalbox.Wrap(signalbox.KindUnavailable, "disk_full", errors.New("no space"), "the disk is full"))
		s, conn := g.connect("esp01", signalbox.ProtocolV2)
		a := g.submit(signalbox.CommandRequest{Name: "a", IdempotencyKey: "k"})
		b := g.submit(signalbox.CommandRequest{Name: "b"})
		conn.next(t)
		conn.next(t)
		g.road.Result(s, a.ID, true, nil, "")
		time.Sleep(time.Minute)
		failed := g.store.breakDown(errors.New("something new"))
		if failed == 0 || failed > 200 {
			t.Errorf("the store was tried %d times in a minute", failed)
		}
		time.Sleep(time.Minute)
		if st := g.road.Stats(); st.Behind != 2 || st.Held != 2 {
			t.Errorf("%+v", st)
		}
		wantCheckpoint(t, g.store, g.log)
		if list, err := g.road.List(t.Context(), 0, "", 10); err != nil || len(list) != 2 || list[1].State != signalbox.CommandSucceeded {
			t.Errorf("list %+v, %v", list, err)
		}
		if again := g.submit(signalbox.CommandRequest{Name: "a", IdempotencyKey: "k"}); again.ID != a.ID {
			t.Errorf("the key gives %+v", again)
		}
		g.store.breakDown(nil)
		time.Sleep(time.Minute)
		for id, want := range map[string]signalbox.CommandState{a.ID: signalbox.CommandSucceeded, b.ID: signalbox.CommandTimedOut} {
			if c, err := g.store.Command(t.Context(), id); err != nil || c.State != want {
				t.Errorf("the row is %+v, %v; want %s", c, err, want)
			}
		}
		wantCheckpoint(t, g.store, g.log)
		if st := g.road.Stats(); st.Behind != 0 || st.Held != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestRowsOfUnknownEnd: rows that are stored although that could not be told are written
// again, and a start in between finds them as the log says.
func TestRowsOfUnknownEnd(t *testing.T) {
	for _, restart := range []bool{false, true} {
		inBubble(t, Config{}, func(g *rig) {
			t := g.t
			g.durable()
			g.store.breakAfter(signalbox.Errorf(signalbox.KindUnavailable, "outcome_unknown", "the connection was lost"))
			s, conn := g.connect("esp01", signalbox.ProtocolV2)
			a := g.submit(signalbox.CommandRequest{Name: "a", IdempotencyKey: "k"})
			conn.next(t)
			time.Sleep(10 * time.Second)
			if c, err := g.store.Command(t.Context(), a.ID); err != nil || c.State != signalbox.CommandSent {
				t.Errorf("the row is %+v, %v", c, err)
			}
			if st := g.road.Stats(); st.Behind != 1 {
				t.Errorf("%+v", st)
			}
			g.road.Result(s, a.ID, true, nil, "")
			b := g.submit(signalbox.CommandRequest{Name: "b", TTL: time.Hour, Device: "esp02"})
			time.Sleep(10 * time.Second)
			g.store.breakDown(nil)
			if restart {
				g.restart()
			} else {
				time.Sleep(10 * time.Second)
			}
			for id, want := range map[string]signalbox.CommandState{a.ID: signalbox.CommandSucceeded, b.ID: signalbox.CommandQueued} {
				if c, err := g.store.Command(t.Context(), id); err != nil || c.State != want {
					t.Errorf("the row is %+v, %v; want %s", c, err, want)
				}
			}
			wantCheckpoint(t, g.store, g.log)
			if st := g.road.Stats(); st.Behind != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestRowsRideAlong: rows that are due go with the commits that happen anyway, a few with
// each, and the checkpoint with them.
func TestRowsRideAlong(t *testing.T) {
	inBubble(t, Config{}, func(g *rig) {
		t := g.t
		g.log.riding.Store(true)
		s, conn := g.connect("esp01", signalbox.ProtocolV2)
		var ids []string
		for range 2 * rideRows {
			c := g.submit(signalbox.CommandRequest{Name: "x"})
			conn.next(t)
			g.road.Result(s, c.ID, true, nil, "")
			ids = append(ids, c.ID)
		}
		time.Sleep(rowDelay + rideWait/2) // due, and not yet worth a transaction of their own
		before := g.store.updates.Load()
		for range 2 {
			if _, err := g.store.Command(t.Context(), ids[len(ids)-1]); err == nil {
				t.Error("the last row was written early")
			}
			g.log.entry(t)
		}
		if n := g.store.updates.Load() - before; n != 0 {
			t.Errorf("%d transactions of their own", n)
		}
		for _, id := range ids {
			if c, err := g.store.Command(t.Context(), id); err != nil || c.State != signalbox.CommandSucceeded {
				t.Errorf("%+v, %v", c, err)
			}
		}
		if st := g.road.Stats(); st.Behind != 0 || st.Rows != 2*rideRows {
			t.Errorf("%+v", st)
		}
		wantCheckpoint(t, g.store, g.log)
	})
}
