package history_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// remote opens a log over a server that the test may stop, with a spool in dir.
func remote(t *testing.T, db *storetest.Database, dir string, spoolBytes int64) (b *bench, end func()) {
	t.Helper()
	cfg := db.Config()
	// A server that stands still takes up to three of these, twice if chunks are merged just then:
	// less than patience.
	cfg.ConnectTimeout, cfg.Timeout = 4*time.Second, 3*time.Second
	st, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	b = &bench{st: st}
	if b.log, err = history.Open(t.Context(), history.Config{Spool: dir, SpoolBytes: spoolBytes, TailEntries: 300, MaxPending: 64 << 10}, st); err != nil {
		t.Fatal(err)
	}
	b.restore(t, 0)
	b.run(t, patience)
	end = sync.OnceFunc(func() {
		if err := b.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		_ = st.Close() // a server that is away cannot be told
	})
	t.Cleanup(end)
	return b, end
}

// until waits for something that happens in the background.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	end := time.After(patience)
	for !done() {
		select {
		case <-look.C:
		case <-end:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// put appends n messages of two devices and waits until they are acknowledged.
func put(t *testing.T, b *bench, from, n int) {
	t.Helper()
	var last signalbox.Position
	for i := from; i < from+n; i++ {
		last = b.append(t, telemetry(signalbox.DeviceID(i%2+1), fmt.Sprintf(`{"n":%d}`, i)), history.Now).Position
	}
	b.wait(t, last)
}

// wantAll checks that each message is there once, in order.
func wantAll(t *testing.T, b *bench, n int) {
	t.Helper()
	for device := range 2 {
		var page []signalbox.Telemetry
		var err error
		until(t, "a question is answered", func() bool { // a server that is slow for a moment is taken for one that is away
			page, err = b.log.Page(t.Context(), history.Query{Device: signalbox.DeviceID(device + 1), Order: history.OldestFirst, Limit: history.MaxPage})
			return signalbox.KindOf(err) != signalbox.KindUnavailable
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(page) != n/2 {
			t.Fatalf("device %d has %d messages, want %d", device+1, len(page), n/2)
		}
		for i, m := range page {
			if want := fmt.Sprintf(`{"n":%d}`, 2*i+device); string(m.Object) != want {
				t.Fatalf("message %d of device %d is %s, want %s", i, device+1, m.Object, want)
			}
		}
	}
}

// TestOutage: the server stops, hangs and comes back; what is acknowledged meanwhile is on
// the local disk, survives a restart, and is in the database in the end.
func TestOutage(t *testing.T) {
	if !onFile() {
		return // once is enough
	}
	for _, kind := range storetest.Servers() {
		t.Run(string(kind), func(t *testing.T) {
			server := storetest.Start(t, kind, storetest.Durable(kind)...)
			db := server.NewDatabase(t)
			dir := t.TempDir()
			b, end := remote(t, db, dir, 0)
			put(t, b, 0, 1000)
			server.Kill(t)
			put(t, b, 1000, 1000)
			if err := b.log.Err(); signalbox.CodeOf(err) != "store_unavailable" || b.log.Stats().Spooled.Load() == 0 {
				t.Errorf("while the server is away: %v, %d bytes", err, b.log.Stats().Spooled.Load())
			}
			if _, err := b.log.Page(t.Context(), history.Query{Device: 1, Limit: 1}); signalbox.KindOf(err) != signalbox.KindUnavailable {
				t.Errorf("a question is answered with %v", err)
			}
			none := func(e *signalbox.Entry) error { return fmt.Errorf("position %d", e.Position) }
			for _, err := range []error{b.log.ScanTime(t.Context(), history.ScanQuery{}, none), b.log.ScanRange(t.Context(), history.RangeQuery{}, none)} {
				if signalbox.KindOf(err) != signalbox.KindUnavailable {
					t.Errorf("a scan ends with %v", err)
				}
			}
			server.Start(t)
			until(t, "all is in the database", func() bool { return b.log.Err() == nil && b.log.Stats().Spooled.Load() == 0 })
			put(t, b, 2000, 100)
			wantAll(t, b, 2100)

			server.Pause(t) // answers no more, and keeps its connections
			put(t, b, 2100, 100)
			server.Continue(t)
			until(t, "all is in the database", func() bool { return b.log.Err() == nil && b.log.Stats().Spooled.Load() == 0 })
			wantAll(t, b, 2200)

			// A hub that ends while the server is away leaves the rest for its next start.
			server.Stop(t)
			put(t, b, 2200, 200)
			end()
			server.Start(t)
			again, _ := remote(t, db, dir, 0)
			wantAll(t, again, 2400)
			put(t, again, 2400, 2)
			wantAll(t, again, 2402)
		})
	}
}

// TestOutageBeyondTheSpool: when the room on the local disk is used up nothing more is
// acknowledged, and nothing is lost.
func TestOutageBeyondTheSpool(t *testing.T) {
	if !onFile() {
		return
	}
	server := storetest.Start(t, storetest.PostgreSQL)
	b, _ := remote(t, server.NewDatabase(t), t.TempDir(), 4<<10)
	put(t, b, 0, 100)
	server.Stop(t)
	n := 100
	for ; n < 100_000; n++ {
		e := telemetry(signalbox.DeviceID(n%2+1), fmt.Sprintf(`{"n":%d}`, n))
		if err := b.log.Append(&e, history.Now); errors.Is(err, history.ErrFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n == 100_000 {
		t.Fatal("it is never full")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := b.log.Wait(ctx, b.log.Head()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the last message is acknowledged: %v", err)
	}
	server.Start(t)
	b.wait(t, b.log.Head())
	until(t, "all is in the database", func() bool { return b.log.Err() == nil && b.log.Stats().Spooled.Load() == 0 })
	if n%2 == 1 {
		e := telemetry(2, fmt.Sprintf(`{"n":%d}`, n))
		until(t, "there is room again", func() bool { return b.log.Append(&e, history.Now) == nil })
		b.wait(t, e.Position)
	}
	wantAll(t, b, int(b.log.Head()))
}
