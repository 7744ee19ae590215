package replay

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// openLog gives a running log in a database.
func openLog(t *testing.T, where store.Config, cfg history.Config) *history.Log {
	t.Helper()
	where.Logger = slog.New(slog.DiscardHandler)
	st, err := store.Open(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	log, err := history.Open(t.Context(), cfg, st)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Restore(t.Context(), 0, func(*signalbox.Entry) error { return nil }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var work sync.WaitGroup
	work.Go(func() {
		if err := log.Run(ctx, 30*time.Second); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		work.Wait()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
}

// fill appends n messages of some devices, a tenth of them late.
func fill(t *testing.T, log *history.Log, devices, n int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	var e signalbox.Entry
	for range n {
		e = signalbox.Entry{
			Device: signalbox.DeviceID(rng.IntN(devices) + 1), Kind: signalbox.EntryTelemetry,
			Body: fmt.Appendf(nil, `{"type":"telemetry","status":"работает","servo1":%d,"servo2":90,"temperature":%.1f}`, rng.IntN(180), 20+rng.Float64()),
		}
		if rng.IntN(10) == 0 {
			e.TimeMicros = time.Now().UnixMicro() - rng.Int64N(3_000_000)
		}
		for log.Append(&e, history.Soon) != nil {
			if err := log.Wait(t.Context(), log.Head()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := log.Wait(t.Context(), log.Head()); err != nil {
		t.Fatal(err)
	}
}

// TestSameFromTheEngine plays from a log that goes on being written and sealed meanwhile, on
// each kind of database.
func TestSameFromTheEngine(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *storetest.Database) {
		t.Helper()
		sameFromTheEngine(t, openLog(t, db.Config(), history.Config{TailEntries: 5000}))
	})
}

func sameFromTheEngine(t *testing.T, log *history.Log) {
	t.Helper()
	fill(t, log, 20, 20_000)
	m := manager(log)
	o := Options{To: time.Now(), Devices: []signalbox.DeviceID{1, 2, 3, 4, 5, 6, 7}}
	made := start(t, m, o) // before there was more
	first := newSink()
	play(t, m, o, first)
	fill(t, log, 20, 10_000)
	second := newSink()
	if err := m.Play(t.Context(), made.ID, second, Resume{}, idle); err != nil {
		t.Fatal(err)
	}
	if first.text.Len() == 0 || first.text.String() != second.text.String() {
		t.Errorf("the first replay has %d messages, the second %d", len(first.events), len(second.events))
	}
	last := signalbox.Position(0)
	for _, e := range first.events {
		if e.Position <= last {
			t.Fatalf("position %d comes behind %d", e.Position, last)
		}
		last = e.Position
	}
}

// heap is what is in use, after all that is not was taken away.
func heap() uint64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// counter is a sink that only counts, and looks at memory now and then.
type counter struct {
	sink
	n    int
	most uint64
}

func (c *counter) Deliver(_ context.Context, _ *Status, events []Event) error {
	before := c.n
	c.n += len(events)
	if before/20_000 != c.n/20_000 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		c.most = max(c.most, m.HeapAlloc)
	}
	return nil
}

// TestMemoryIsBounded plays a range that is larger than what it may take.
func TestMemoryIsBounded(t *testing.T) {
	const n, allowed = 100_000, 200 << 20
	log := openLog(t, store.Config{Dir: t.TempDir()}, history.Config{TailBytes: 4 << 20})
	fill(t, log, 500, n)
	m := manager(log)
	m.cfg.NameOf = func(id signalbox.DeviceID) string { return fmt.Sprintf("d%d", id) }
	before := heap()
	var all sync.WaitGroup
	sinks := make([]counter, 2)
	for i := range sinks {
		made := start(t, m, Options{})
		all.Go(func() {
			if err := m.Play(t.Context(), made.ID, &sinks[i], Resume{}, idle); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i := range sinks {
		if sinks[i].n != n {
			t.Errorf("replay %d played %d messages, want %d", i, sinks[i].n, n)
		}
		if sinks[i].most > before+allowed {
			t.Errorf("replay %d took %d MiB", i, (sinks[i].most-before)>>20)
		}
		t.Logf("replay %d: at most %d MiB above %d MiB", i, (max(sinks[i].most, before)-before)>>20, before>>20)
	}
}
