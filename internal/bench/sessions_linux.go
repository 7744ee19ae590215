package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/sim"
	"signalbox/internal/store"
)

const (
	manySessions = 1_000_000
	// sessionsAtOnce is how many devices are added in one transaction.
	sessionsAtOnce = 20_000
	// sessionTelemetry and sessionCommands are the light traffic, per second.
	sessionTelemetry = 5000
	sessionCommands  = 500
	// forcedCycles is how many garbage collections are asked for, besides those that come by themselves.
	forcedCycles = 5
	// logGrace is how long the log may take to end.
	logGrace = 30 * time.Second
)

// runSessions builds what a hub keeps of a device above the transport, a million times, in this process.
func runSessions(ctx context.Context, b *bencher) (err error) {
	n := b.Connections
	if n <= 0 {
		n = manySessions
	}
	b.report.Runs = 1
	dir, err := os.MkdirTemp(b.Dir, "signalbox-bench-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	st, err := store.Open(ctx, store.Config{Dir: dir, Logger: b.Logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	log, err := history.Open(ctx, history.Config{Logger: b.Logger}, st)
	if err != nil {
		return err
	}
	writing, stop := context.WithCancel(ctx)
	written := make(chan error, 1)
	go func() { written <- log.Run(writing, logGrace) }()
	defer func() {
		stop()
		err = errors.Join(err, <-written)
	}()
	w := &world{log: log, devices: registry.New(st, b.Logger), sessions: session.New()}
	w.road = ingest.New(ingest.Config{Logger: b.Logger}, log, w.devices, w.sessions, noCommands{})

	empty := memoryNow()
	began := time.Now()
	if err := w.fill(ctx, n); err != nil {
		return err
	}
	filled := time.Since(began)
	full := memoryNow()
	each := func(before, after uint64) float64 { return (float64(after) - float64(before)) / float64(n) }
	b.report.add("memory", []Value{
		{"sessions", "", float64(n)},
		{"made in", "s", filled.Seconds()},
		{"Go heap", "B each", each(empty.heap, full.heap)},
		{"resident", "B each", each(empty.resident, full.resident)},
		{"objects", "each", each(empty.objects, full.objects)},
	})
	b.report.goal("session, device, state and outbox", b.report.get("memory", "Go heap"), 1024, false, "B")

	for _, part := range []struct {
		name   string
		forced int
	}{{"by itself", 0}, {"asked for", forcedCycles}} {
		values, err := w.traffic(ctx, b.Duration, part.forced)
		if err != nil {
			return err
		}
		b.report.add("collection "+part.name, values)
	}
	b.report.note("%d telemetry messages/s with a state of 150 bytes and %d commands/s to random devices while the garbage collector is watched; "+
		"asked for: %d whole collections in that time. Resident memory includes the database's page cache.", sessionTelemetry, sessionCommands, forcedCycles)
	return nil
}

// world is a hub without doors.
type world struct {
	log      *history.Log
	devices  *registry.Registry
	sessions *session.Table
	road     *ingest.Road
	all      []line
}

// line stands for a connection: what the gateway keeps of one above the transport, and an outbox.
type line struct {
	mu      sync.Mutex
	device  *registry.Device
	session session.Session
	address netip.Addr
	_       [5]int64 // power-up, seq and a budget of messages
	outbox  []byte   // nil when empty, as in the transport
}

// Deliver implements session.Conn.
func (l *line) Deliver(c *signalbox.Command) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outbox = fmt.Appendf(l.outbox, `{"type":"command","id":%q,"command":%q}`, c.ID, c.Name)
	return nil
}

// End implements session.Conn.
func (l *line) End(string) {}

// flush empties the outbox, as a socket does.
func (l *line) flush() {
	l.mu.Lock()
	l.outbox = nil
	l.mu.Unlock()
}

// noCommands watches nothing.
type noCommands struct{}

// Watching implements ingest.Observer.
func (noCommands) Watching(signalbox.DeviceID) bool { return false }

// Telemetry implements ingest.Observer.
func (noCommands) Telemetry(*signalbox.Entry) {}

// fill adds n devices, logs each in and gives it a state.
func (w *world) fill(ctx context.Context, n int) error {
	w.all = make([]line, n)
	for from := 0; from < n; from += sessionsAtOnce {
		list := make([]registry.NewDevice, min(sessionsAtOnce, n-from))
		for i := range list {
			list[i] = registry.NewDevice{Name: "device-" + strconv.Itoa(from+i), Type: "box"}
		}
		out, err := w.devices.AddAll(ctx, list, nil)
		if err != nil {
			return err
		}
		for i, o := range out {
			if o.Err != nil {
				return o.Err
			}
			if err := w.connect(ctx, from+i, o.Device); err != nil {
				return err
			}
		}
	}
	return w.log.Wait(ctx, w.log.Head())
}

func (w *world) connect(ctx context.Context, i int, d *registry.Device) error {
	l := &w.all[i]
	l.device, l.address = d, sim.Source(i%10_000)
	l.session = session.Session{ID: w.sessions.NextID(), Device: d.ID, Protocol: signalbox.ProtocolV2, Conn: l}
	for {
		if _, v := w.road.Connect(d, &l.session, l.address); v == ingest.Stored {
			break
		} else if v != ingest.Full {
			return fmt.Errorf("a session could not be made: verdict %d", v)
		}
		if err := w.log.Wait(ctx, w.log.Head()); err != nil {
			return err
		}
	}
	return w.report(ctx, l, 1)
}

// report sends one message of telemetry, 150 bytes long.
func (w *world) report(ctx context.Context, l *line, n int) error {
	body := fmt.Appendf(make([]byte, 0, 150), `{"type":"telemetry","status":"работает","servo1":%d,"servo2":90,"button1":"released","button2":"pressed","temperature":23.5,"n":%11d`, n%180, n)
	body = append(body, '}')
	for {
		_, v := w.road.Telemetry(l.device, l.session.ID, &ingest.Message{Body: body})
		switch v {
		case ingest.Stored:
			return nil
		case ingest.Full:
			if err := w.log.Wait(ctx, w.log.Head()); err != nil {
				return err
			}
		default:
			return fmt.Errorf("a message was not taken: verdict %d", v)
		}
	}
}

// traffic runs light traffic for d and watches the garbage collector, asking for forced collections on the way.
func (w *world) traffic(ctx context.Context, d time.Duration, forced int) ([]Value, error) {
	before := collectorNow()
	rng := rand.New(rand.NewPCG(1, 2))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	collecting := make(chan time.Duration, 1)
	go func() { collecting <- collectEvery(ctx, forced, d) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var late sim.Histogram
	for start := time.Now(); time.Since(start) < d; {
		var due time.Time
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case due = <-tick.C:
		}
		for range sessionTelemetry / 100 {
			if err := w.report(ctx, &w.all[rng.IntN(len(w.all))], rng.IntN(1e6)); err != nil {
				return nil, err
			}
		}
		for range sessionCommands / 100 {
			l := &w.all[rng.IntN(len(w.all))]
			if err := w.sessions.Get(l.session.Device).Conn.Deliver(&signalbox.Command{ID: "0123456789ABCDEFGHJKMNPQRS", Name: "servo1"}); err != nil {
				return nil, err
			}
			l.flush()
		}
		late.Record(time.Since(due))
	}
	cancel()
	longest := <-collecting
	after := collectorNow()
	cycles := after.cycles - before.cycles
	p99, most := after.pausesSince(before)
	return []Value{
		{"seconds", "s", d.Seconds()},
		{"collections", "", float64(cycles)},
		{"longest", "ms", ms(longest)},
		{"pause p99", "ms", p99 * 1e3},
		{"pause max", "ms", most * 1e3},
		{"CPU of collecting", "%", 100 * (after.collecting - before.collecting) / max(after.total-before.total, 1e-9)},
		{"tick p99", "ms", ms(late.Quantile(0.99))},
		{"tick max", "ms", ms(late.Max())},
	}, nil
}

// collectEvery asks for n collections spread over d, and gives the time of the longest.
func collectEvery(ctx context.Context, n int, d time.Duration) (longest time.Duration) {
	if n == 0 {
		return 0
	}
	tick := time.NewTicker(d / time.Duration(n+1))
	defer tick.Stop()
	for range n {
		select {
		case <-ctx.Done():
			return longest
		case <-tick.C:
		}
		start := time.Now()
		runtime.GC()
		longest = max(longest, time.Since(start))
	}
	return longest
}

// memory is what this process uses after a garbage collection, in bytes, and how many objects.
type memory struct{ heap, objects, resident uint64 }

func memoryNow() memory {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	resident, err := residentBytes(os.Getpid())
	if err != nil {
		resident = 0 // then the column says nothing; the heap is what counts
	}
	return memory{heap: m.HeapAlloc + m.StackInuse, objects: m.HeapObjects, resident: uint64(resident)}
}

// collector is what the garbage collector has done since the start.
type collector struct {
	cycles            uint64
	collecting, total float64 // CPU seconds
	pauses            metrics.Float64Histogram
}

func collectorNow() collector {
	s := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(s)
	h := s[3].Value.Float64Histogram()
	return collector{
		cycles: s[0].Value.Uint64(), collecting: s[1].Value.Float64(), total: s[2].Value.Float64(),
		pauses: metrics.Float64Histogram{Counts: append([]uint64(nil), h.Counts...), Buckets: h.Buckets},
	}
}

// pausesSince gives the 99th percentile and the maximum of the pauses since before, in seconds: upper ends of buckets.
func (c *collector) pausesSince(before collector) (p99, most float64) {
	total := uint64(0)
	for i, n := range c.pauses.Counts {
		total += n - before.pauses.Counts[i]
	}
	seen := uint64(0)
	for i, n := range c.pauses.Counts {
		count := n - before.pauses.Counts[i]
		if count == 0 {
			continue
		}
		seen += count
		most = c.pauses.Buckets[i+1]
		if p99 == 0 && float64(seen) >= 0.99*float64(total) {
			p99 = most
		}
	}
	return p99, most
}
