package history_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store/storetest"
)

// announced collects what a log announces; the log's lock guards it while the log runs.
type announced struct {
	mu      sync.Mutex
	entries []signalbox.Entry
}

func (a *announced) hear(e *signalbox.Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kept := *e
	kept.Body = slices.Clone(e.Body)
	a.entries = append(a.entries, kept)
}

// choose gives what a query should give of all that was announced.
func (a *announced) choose(q history.SinceQuery) (list []signalbox.Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.entries {
		if e.Position > q.After && e.Position <= q.Until && (q.Devices == nil || slices.Contains(q.Devices, e.Device)) && (q.Events || e.Kind.IsTelemetry()) {
			list = append(list, e)
		}
	}
	return list
}

var errEnough = errors.New("enough")

// since collects up to limit entries.
func since(ctx context.Context, b *bench, q history.SinceQuery, limit int) (got []signalbox.Entry, err error) {
	err = b.log.Since(ctx, q, func(e *signalbox.Entry) error {
		kept := *e
		kept.Body = slices.Clone(e.Body)
		if got = append(got, kept); len(got) == limit {
			return errEnough
		}
		return nil
	})
	return got, err
}

// wantSame compares but for the boot marks, which chunks do not keep.
func wantSame(t *testing.T, q history.SinceQuery, got, want []signalbox.Entry) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		g, w := got[i], want[i]
		g.Boot, g.Seq, w.Boot, w.Seq = 0, 0, 0, 0
		if !sameEntry(&g, &w) {
			t.Fatalf("%+v: entry %d is %+v, want %+v", q, i, g, w)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%+v: %d entries, want %d", q, len(got), len(want))
	}
}

// anything makes a random entry of some kind.
func anything(rng *rand.Rand, devices, n int) signalbox.Entry {
	e := telemetry(signalbox.DeviceID(rng.IntN(devices)+1), fmt.Sprintf(`{"n":%d,"t":%d.5}`, n, rng.IntN(100)))
	switch rng.IntN(20) {
	case 0:
		e.Kind = signalbox.EntryPresence
	case 1:
		e.Kind = signalbox.EntryCommand
	case 2:
		e.Kind = signalbox.EntryImported
	case 3, 4:
		e = brokerEntry("\x01record")
	case 5:
		e.TimeMicros = time.Now().UnixMicro() - rng.Int64N(1e9)
	case 6:
		e.Boot, e.Seq = rng.Uint64(), uint64(n+1)
	}
	return e
}

// write appends n random entries and waits for a commit now and then.
func write(ctx context.Context, b *bench, rng *rand.Rand, devices, n int) error {
	for i := 0; i < n; {
		e := anything(rng, devices, i)
		u := history.Soon
		if rng.IntN(50) == 0 {
			u = history.Now
		}
		if err := b.log.Append(&e, u); errors.Is(err, history.ErrFull) {
			runtime.Gosched()
			continue
		} else if err != nil {
			return err
		}
		if i++; rng.IntN(200) == 0 {
			if err := b.log.Wait(ctx, e.Position); err != nil {
				return err
			}
		}
	}
	return b.log.Wait(ctx, b.log.Head())
}

// someDevices chooses devices in ascending order; sometimes all.
func someDevices(rng *rand.Rand, devices int) []signalbox.DeviceID {
	if rng.IntN(4) == 0 {
		return nil
	}
	chosen := []signalbox.DeviceID{}
	odds := []int{2, devices}[rng.IntN(2)]
	for d := range devices {
		if rng.IntN(odds) == 0 {
			chosen = append(chosen, signalbox.DeviceID(d+1))
		}
	}
	return chosen
}

// TestSince compares answers with what was announced, of a log that is partly in rows and
// partly in chunks, before and after a start.
func TestSince(t *testing.T) {
	const devices = 40
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(5, 1))
	var model announced
	cfg := history.Config{RowBytes: 2 << 10, TailEntries: 800, Announce: model.hear}
	b := start(t, dir, cfg)
	for round := range 3 {
		if err := write(t.Context(), b, rng, devices, 2000); err != nil {
			t.Fatal(err)
		}
		queries := 60
		if round == 2 { // slices are narrow, and nothing is kept between them
			b.log.LimitSweeps(1<<20, 100, 0, 0)
			queries = 10
		}
		until(t, "some entries are in chunks alone", func() bool {
			if err := write(t.Context(), b, rng, devices, 100); err != nil {
				t.Fatal(err)
			}
			return b.log.Kept() < int(b.log.Committed())
		})
		end := b.log.Committed()
		for range queries {
			q := history.SinceQuery{Until: end - signalbox.Position(rng.IntN(int(end))), Devices: someDevices(rng, devices), Events: rng.IntN(2) == 0}
			q.After = signalbox.Position(rng.IntN(int(q.Until) + 1))
			if rng.IntN(2) == 0 {
				q.After = end - min(end, signalbox.Position(rng.IntN(1500)))
				q.Until = min(end, q.After+signalbox.Position(rng.IntN(500)))
			}
			want := model.choose(q)
			got, err := since(t.Context(), b, q, -1)
			if err != nil {
				t.Fatalf("%+v: %v", q, err)
			}
			wantSame(t, q, got, want)
			if len(want) > 0 { // it can be stopped anywhere
				n := rng.IntN(len(want)) + 1
				first, err := since(t.Context(), b, q, n)
				if !errors.Is(err, errEnough) || len(first) != n {
					t.Fatalf("%d of %d entries, %v", len(first), n, err)
				}
				on := q
				on.After = first[n-1].Position
				rest, err := since(t.Context(), b, on, -1)
				if err != nil {
					t.Fatal(err)
				}
				wantSame(t, q, append(first, rest...), want)
			}
		}
		b = b.reopen(t, dir, cfg, b.log.Committed())
	}
}

// TestSinceBounds holds what is committed as the end, and that nothing is given behind it.
func TestSinceBounds(t *testing.T) {
	b := start(t, t.TempDir(), history.Config{})
	for range 10 {
		b.append(t, telemetry(3, `{}`), history.Now)
	}
	b.wait(t, 10)
	for _, tc := range []struct {
		name string
		q    history.SinceQuery
		want int
	}{
		{"all", history.SinceQuery{}, 10},
		{"beyond the end", history.SinceQuery{Until: 1000}, 10},
		{"some", history.SinceQuery{After: 3, Until: 5}, 2},
		{"none", history.SinceQuery{After: 10}, 0},
		{"after the end", history.SinceQuery{After: 1000}, 0},
		{"the wrong way round", history.SinceQuery{After: 5, Until: 3}, 0},
		{"another device", history.SinceQuery{Devices: []signalbox.DeviceID{1, 2, 4}}, 0},
		{"the device", history.SinceQuery{Devices: []signalbox.DeviceID{1, 3, 4}}, 10},
		{"no device", history.SinceQuery{Devices: []signalbox.DeviceID{}, Events: true}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := since(t.Context(), b, tc.q, -1); err != nil || len(got) != tc.want {
				t.Errorf("%d entries, %v; want %d", len(got), err, tc.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := since(ctx, b, history.SinceQuery{}, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

// TestSinceFollows lets followers of several kinds read behind a writer, while rows become
// chunks and chunks are merged: each gets everything it chose, once and in order.
func TestSinceFollows(t *testing.T) {
	const devices, n = 20, 12_000
	var model announced
	b := open(t, t.TempDir(), history.Config{RowBytes: 2 << 10, TailEntries: 300, Announce: model.hear})
	wake := make([]chan struct{}, 4)
	for i := range wake {
		wake[i] = make(chan struct{}, 1)
	}
	b.log.OnCommit(func(signalbox.Position) {
		for _, c := range wake {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	})
	b.run(t, patience)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	done := make(chan struct{})
	var group sync.WaitGroup
	got := make([][]signalbox.Entry, len(wake))
	queries := []history.SinceQuery{{Events: true}, {Devices: []signalbox.DeviceID{3, 7}}, {Devices: []signalbox.DeviceID{5}, Events: true}, {}}
	for i, q := range queries {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(6, uint64(i)))
			for finished := false; ; {
				upTo := b.log.Committed()
				q.Until = upTo
				list, err := since(ctx, b, q, rng.IntN(400)+1)
				got[i] = append(got[i], list...)
				switch {
				case errors.Is(err, errEnough):
					q.After = list[len(list)-1].Position
					continue
				case err != nil:
					t.Errorf("follower %d behind %d: %v", i, q.After, err)
					return
				}
				q.After = upTo
				if finished {
					return
				}
				if i == 3 { // one that comes rarely
					select {
					case <-done:
						finished = true
						continue
					case <-time.After(30 * time.Millisecond):
						continue
					}
				}
				select {
				case <-wake[i]:
				case <-done:
					finished = true
				}
			}
		})
	}
	err := write(ctx, b, rand.New(rand.NewPCG(6, 9)), devices, n)
	close(done)
	group.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for i, q := range queries {
		q.Until = n
		want := model.choose(q)
		wantSame(t, q, got[i], want)
	}
	if b.log.Kept() == n {
		t.Error("no row became a chunk")
	}
}

// TestSinceInAnOutage: while the server is away it says so, and afterwards nothing is missing.
func TestSinceInAnOutage(t *testing.T) {
	if !onFile() {
		return // once is enough
	}
	for _, kind := range storetest.Servers() {
		t.Run(string(kind), func(t *testing.T) {
			server := storetest.Start(t, kind, storetest.Durable(kind)...)
			db, dir := server.NewDatabase(t), t.TempDir()
			b, end := remote(t, db, dir, 0)
			put(t, b, 0, 500)
			got, err := since(t.Context(), b, history.SinceQuery{}, -1)
			if err != nil || len(got) != 500 {
				t.Fatalf("%d entries, %v", len(got), err)
			}
			last := got[len(got)-1].Position
			server.Stop(t)
			put(t, b, 500, 500)
			if more, err := since(t.Context(), b, history.SinceQuery{After: last}, -1); signalbox.KindOf(err) != signalbox.KindUnavailable || len(more) > 0 {
				t.Errorf("while the server is away: %d entries, %v", len(more), err)
			}
			if more, err := since(t.Context(), b, history.SinceQuery{After: b.log.Committed()}, -1); err != nil || len(more) > 0 {
				t.Errorf("behind the end: %d entries, %v", len(more), err)
			}
			server.Start(t)
			until(t, "all was given", func() bool {
				more, err := since(t.Context(), b, history.SinceQuery{After: last}, -1)
				got = append(got, more...)
				if len(more) > 0 {
					last = more[len(more)-1].Position
				}
				return err == nil && last == 1000
			})
			for i, e := range got {
				if e.Position != signalbox.Position(i+1) || string(e.Body) != fmt.Sprintf(`{"n":%d}`, i) {
					t.Fatalf("entry %d is %d %s", i, e.Position, e.Body)
				}
			}
			// What is on the local disk alone when the hub ends is of its epoch at the next start.
			server.Stop(t)
			put(t, b, 1000, 10)
			cursor := b.log.Cursor(1010)
			end()
			server.Start(t)
			again, _ := remote(t, db, dir, 0)
			wantPlace(t, again, cursor, history.Place{Position: 1010})
			if more, err := since(t.Context(), again, history.SinceQuery{After: last}, -1); err != nil || len(more) != 10 {
				t.Errorf("%d entries, %v", len(more), err)
			}
		})
	}
}

// BenchmarkSince asks, as a forwarder does, for what came with the last commit, behind a log of
// a million entries; and for one device of 1,000 in all that is in chunks.
func BenchmarkSince(b *testing.B) {
	const devices, n = 1000, 1_000_000
	l := start(b, b.TempDir(), history.Config{TailEntries: 200_000})
	for i := range n {
		e := telemetry(signalbox.DeviceID(i%devices+1), fmt.Sprintf(`{"temp":%d.5,"hum":%d}`, i%40, i%100))
		for errors.Is(l.log.Append(&e, history.Soon), history.ErrFull) {
			runtime.Gosched()
		}
	}
	l.wait(b, l.log.Head())
	run := func(name string, q func() history.SinceQuery, want int) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				got := 0
				if err := l.log.Since(b.Context(), q(), func(*signalbox.Entry) error { got++; return nil }); err != nil || got != want {
					b.Fatal(got, err)
				}
			}
		})
	}
	for _, m := range []int{1, 50, 1000} {
		for range m {
			l.append(b, telemetry(5, `{"temp":7.5,"hum":50}`), history.Soon)
		}
		l.wait(b, l.log.Head())
		run(fmt.Sprintf("last %d", m), func() history.SinceQuery { return history.SinceQuery{After: l.log.Committed() - signalbox.Position(m)} }, m)
	}
	run("nothing new", func() history.SinceQuery { return history.SinceQuery{After: l.log.Committed()} }, 0)
	run("one device of the last 50", func() history.SinceQuery {
		return history.SinceQuery{After: l.log.Committed() - 50, Devices: []signalbox.DeviceID{6}}
	}, 0)
	run("one device of all", func() history.SinceQuery { return history.SinceQuery{Until: n / 2, Devices: []signalbox.DeviceID{6}} }, n/2/devices)
	run("all of 500,000", func() history.SinceQuery { return history.SinceQuery{Until: n / 2} }, n/2)
	run("50 in chunks", func() history.SinceQuery { return history.SinceQuery{After: 1000, Until: 1050} }, 50)
}
