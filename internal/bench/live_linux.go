package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"signalbox"
	"signalbox/internal/sim"
)

const (
	liveFanout  = "fanout"
	liveLatency = "latency"
	liveForward = "forward"

	liveDevices = 10_000
	// fanoutViewers see everything; so do latencyViewers, beside whom stalledViewers never read.
	fanoutViewers, latencyViewers, stalledViewers = 100, 10, 10
	// crowd is how many times as much is offered to find the most that is delivered: so many messages a second of each
	// device, in one write, so that taking them in costs less.
	crowd = 20
	// recordBytes is how much of a stream the plain loop of writes gets.
	recordBytes = 4 << 20
	// settleBefore is how long a load runs before it counts, stallBefore the same for stalled viewers to be stalled:
	// until then what they get fills the system's buffers and their queues. Both are at most two loads.
	settleBefore, stallBefore = 2 * time.Second, 6 * time.Second
)

// livePatience is how long a measurement goes on in which nothing has come.
const livePatience = 30 * time.Second

func (b *bencher) settleBefore() time.Duration { return min(settleBefore, 2*b.Duration) }

// runLive measures those who watch and those to whom entries are forwarded.
func runLive(ctx context.Context, b *bencher) error {
	n, err := b.howMany(liveDevices)
	if err != nil {
		return err
	}
	for _, part := range b.Variants {
		switch part {
		case liveFanout:
			err = b.liveFanout(ctx, n)
		case liveLatency:
			err = b.liveLatency(ctx, n)
		case liveForward:
			err = b.liveForward(ctx)
		}
		if err != nil {
			return fmt.Errorf("live, %s: %w", part, err)
		}
	}
	return nil
}

// liveHub is a hub with connected devices.
type liveHub struct {
	*hub
	swarm *sim.Swarm
	token string
}

// startLive starts a hub and connects n devices to it.
func (b *bencher) startLive(ctx context.Context, n int, scope string, seq bool, settings ...string) (l *liveHub, err error) {
	h, err := b.startHub(ctx, settings...)
	if err != nil {
		return nil, err
	}
	l = &liveHub{hub: h}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.stop())
		}
	}()
	if l.token, err = h.api.makeToken(ctx, scope); err != nil {
		return l, err
	}
	credentials, err := h.addDevices(ctx, n)
	if err != nil {
		return l, err
	}
	l.swarm, err = sim.NewSwarm(sim.SwarmConfig{Addr: h.address(), Credentials: credentials, Protocol: signalbox.ProtocolV2, Workers: b.Workers, Seq: seq, Stamp: true})
	if err != nil {
		return l, err
	}
	_, err = l.swarm.Connect(ctx)
	return l, err
}

func (l *liveHub) stop() error {
	if l.swarm != nil {
		l.swarm.Close()
	}
	return l.hub.stop()
}

// during runs load and, after settle, measure beside it.
func during(ctx context.Context, settle time.Duration, load func(ctx context.Context) error, measure func() ([]Value, error)) ([]Value, error) {
	loading, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- load(loading) }()
	select {
	case err := <-ended:
		return nil, errors.Join(errors.New("the load ended early"), err)
	case <-time.After(settle):
	}
	values, err := measure()
	if err != nil {
		cancel()
		return nil, errors.Join(err, <-ended)
	}
	return values, <-ended
}

// pauseFor waits for d, and then, up to livePatience, until something has come.
func pauseFor(d time.Duration, something func() bool) {
	start := time.Now()
	time.Sleep(d)
	for !something() && time.Since(start) < d+livePatience {
		time.Sleep(5 * time.Millisecond)
	}
}

// deliveries measures for d what viewers get from a process.
func (v *viewers) deliveries(pid int, d time.Duration) ([]Value, error) {
	cpu, err := cpuSeconds(pid)
	if err != nil {
		return nil, err
	}
	writes, err := writeCalls(pid)
	if err != nil {
		return nil, err
	}
	frames, size, missed := v.sum()
	start := time.Now()
	pauseFor(d, func() bool {
		now, _, _ := v.sum()
		return now > frames
	})
	took := time.Since(start).Seconds()
	framesAfter, sizeAfter, missedAfter := v.sum()
	cpuAfter, err := cpuSeconds(pid)
	if err != nil {
		return nil, err
	}
	writesAfter, err := writeCalls(pid)
	if err != nil {
		return nil, err
	}
	delivered := float64(framesAfter - frames)
	if delivered == 0 {
		return nil, errors.New("nothing was delivered")
	}
	bytes := float64(sizeAfter - size)
	return []Value{
		{"delivered", "/s", delivered / took},
		{"missed", "/s", float64(missedAfter-missed) / took},
		{"sent", "MB/s", bytes / took / 1e6},
		{"event", "B", bytes / delivered},
		{"CPU", "cores", (cpuAfter - cpu) / took},
		{"per core", "/s", delivered / (cpuAfter - cpu)},
		{"write", "B", bytes / max(writesAfter-writes, 1)},
	}, nil
}

// liveFanout measures how many events are delivered, beside a plain loop of writes.
func (b *bencher) liveFanout(ctx context.Context, n int) error {
	const hubRow, fullRow, plainRow, blockRow = "fanout hub", "fanout hub, more offered", "fanout plain, a write a message", "fanout plain, in writes as large as the hub's"
	runs := map[string][][]Value{}
	for run := range b.Runs {
		b.Logger.Info("measuring deliveries", "run", run+1, "devices", n, "viewers", fanoutViewers)
		l, err := b.startLive(ctx, n, "read", false)
		if err != nil {
			return err
		}
		record := make([]byte, 0, recordBytes)
		block := 0
		for _, offered := range []struct {
			row   string
			rate  float64
			bunch int
		}{{hubRow, float64(n), 1}, {fullRow, crowd * float64(n), crowd}} {
			values, err := b.fanout(ctx, l, sim.Load{Rate: offered.rate, Bunch: offered.bunch}, &record)
			if err != nil {
				return errors.Join(err, l.stop())
			}
			runs[offered.row] = append(runs[offered.row], values)
			block = int(values[len(values)-1].Value)
		}
		if err := l.stop(); err != nil {
			return err
		}
		for row, size := range map[string]int{plainRow: 0, blockRow: block} {
			values, err := b.plainLoop(ctx, record, size)
			if err != nil {
				return err
			}
			runs[row] = append(runs[row], values)
		}
	}
	r := b.report
	for _, row := range []string{hubRow, fullRow, plainRow, blockRow} {
		r.add(row, runs[row]...)
	}
	most := max(r.get(hubRow, "delivered"), r.get(fullRow, "delivered"))
	if full := r.get(fullRow, "delivered"); full > 0.95*float64(crowd*n*fanoutViewers) {
		r.note("fanout: all that so few devices offer was delivered, so the most is not known, nor compared with the plain loop.")
	} else {
		r.goal("fanout: most delivered against the plain loop, a write a message", 100*most/r.get(plainRow, "delivered"), 50, true, "%")
		r.goal("fanout: most delivered against the plain loop in writes as large", 100*most/r.get(blockRow, "delivered"), 50, true, "%")
	}
	r.note("fanout: %d devices, one message a second each, then %d, to %d viewers over WebSocket that see everything: %s deliveries/s offered, then %s. per core: deliveries a second of the process's CPU time. "+
		"plain: a process that writes the same frames, taken from the hub's stream, to as many sockets, read by the same readers. write: bytes a system call to write, those of the database included.",
		n, crowd, fanoutViewers, format(float64(n*fanoutViewers)), format(float64(crowd*n*fanoutViewers)))
	return nil
}

// fanout measures one load; the first viewer's frames go into record until it is full.
func (b *bencher) fanout(ctx context.Context, l *liveHub, load sim.Load, record *[]byte) ([]Value, error) {
	v, err := watch(ctx, l.addrs.HTTP, l.token, fanoutViewers, nil)
	if err != nil {
		return nil, err
	}
	v.list[0].record = (*record)[:0]
	v.read(0)
	settle := b.settleBefore()
	values, err := during(ctx, settle, func(ctx context.Context) error {
		load.Duration = settle + b.Duration + time.Second
		_, err := l.swarm.Send(ctx, load)
		return err
	}, func() ([]Value, error) { return v.deliveries(l.process(), b.Duration) })
	err = errors.Join(err, v.close())
	*record = v.list[0].record
	return values, err
}

// plainLoop measures the plain loop of writes.
func (b *bencher) plainLoop(ctx context.Context, frames []byte, block int) (values []Value, err error) {
	file := filepath.Join(os.TempDir(), "signalbox-bench-frames-"+strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(file, frames, 0o600); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(file)) }()
	program, err := b.program()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, outR.Close()) }()
	c, err := startChild(program, []string{
		"bench", "live-writer", "--file", file, "--sockets", strconv.Itoa(fanoutViewers), "--block", strconv.Itoa(block), "--for", (b.settleBefore() + b.Duration + livePatience).String(),
	}, nil, nil, outW)
	if err := errors.Join(err, outW.Close()); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := outR.SetReadDeadline(time.Now().Add(startPatience)); err != nil {
		return nil, err
	}
	address, err := bufio.NewReader(outR).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the writer did not start: %w; it said: %s", err, c.said)
	}
	v := &viewers{}
	for range fanoutViewers {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimSpace(address))
		if err != nil {
			return nil, errors.Join(err, v.close())
		}
		v.list = append(v.list, &viewer{conn: conn})
	}
	v.read(0)
	time.Sleep(b.settleBefore())
	values, err = v.deliveries(c.pid(), b.Duration)
	return values, errors.Join(err, v.close())
}

// liveLatency measures how long a message takes from the device to the viewers, with stalled viewers beside them and
// without, in turn.
func (b *bencher) liveLatency(ctx context.Context, n int) (err error) {
	const alone, beside = "latency", "latency, stalled viewers beside"
	l, err := b.startLive(ctx, n, "read", true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	runs := map[string][][]Value{}
	for run := range b.Runs {
		b.Logger.Info("measuring latency", "run", run+1, "devices", n, "viewers", latencyViewers)
		for row, stalled := range map[string]int{alone: 0, beside: stalledViewers} {
			values, err := b.latency(ctx, l, float64(n), stalled)
			if err != nil {
				return err
			}
			runs[row] = append(runs[row], values)
		}
	}
	r := b.report
	r.add(alone, runs[alone]...)
	r.add(beside, runs[beside]...)
	r.goal("latency: device to viewer, p99", r.get(alone, "p99"), 10, false, "ms")
	for _, what := range []string{"p99", "saved p99"} {
		if b.Runs == 1 {
			r.note("latency: one run has no spread: what stalled viewers change is not judged.")
			break
		}
		var all []float64
		for _, values := range runs[alone] {
			i := slices.IndexFunc(values, func(v Value) bool { return v.Name == what })
			all = append(all, values[i].Value)
		}
		grown := r.get(beside, what) - r.get(alone, what)
		r.goal(fmt.Sprintf("latency: %s with %d stalled viewers is larger by (limit: the spread of the runs without them)", what, stalledViewers), grown, slices.Max(all)-slices.Min(all), false, "ms")
	}
	r.note("latency: %s messages/s from %d devices to %d viewers that see everything, from when a message was written to when a viewer has read it; "+
		"saved: from when a device had written a message to when it was told that it is on disk. Stalled viewers never read, and have stalled when it begins to count; missed is what those that read missed.", format(float64(n)), n, latencyViewers)
	return nil
}

func (b *bencher) latency(ctx context.Context, l *liveHub, rate float64, stalled int) ([]Value, error) {
	var took sim.Histogram
	v, err := watch(ctx, l.addrs.HTTP, l.token, stalled+latencyViewers, &took)
	if err != nil {
		return nil, err
	}
	v.read(stalled)
	settle := min(stallBefore, 2*b.Duration)
	values, err := during(ctx, settle, func(ctx context.Context) error {
		_, err := l.swarm.Send(ctx, sim.Load{Duration: settle + b.Duration, Rate: rate})
		return err
	}, func() ([]Value, error) { return b.latencies(l, v, &took) })
	return values, errors.Join(err, v.close())
}

// latencies looks for most of the load's duration at how long messages take.
func (b *bencher) latencies(l *liveHub, v *viewers, took *sim.Histogram) ([]Value, error) {
	cpu, err := usedCPU(l)
	if err != nil {
		return nil, err
	}
	_, _, missed := v.sum()
	l.swarm.SavedAfter.Reset()
	took.Reset()
	start := time.Now()
	pauseFor(b.Duration*9/10, func() bool { return took.Count() > 0 })
	elapsed := time.Since(start).Seconds()
	cpuAfter, err := usedCPU(l)
	if err != nil {
		return nil, err
	}
	_, _, missedAfter := v.sum()
	return []Value{
		{"measured", "", float64(took.Count())},
		{"missed", "", float64(missedAfter - missed)},
		{"p50", "ms", ms(took.Quantile(0.5))},
		{"p90", "ms", ms(took.Quantile(0.9))},
		{"p99", "ms", ms(took.Quantile(0.99))},
		{"p99.9", "ms", ms(took.Quantile(0.999))},
		{"max", "ms", ms(took.Max())},
		{"saved p50", "ms", ms(l.swarm.SavedAfter.Quantile(0.5))},
		{"saved p99", "ms", ms(l.swarm.SavedAfter.Quantile(0.99))},
		{"CPU", "cores", (cpuAfter - cpu) / elapsed},
	}, nil
}
