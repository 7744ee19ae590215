package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"signalbox"
	"signalbox/internal/sim"
)

// manyConnections is what a system that allows 20,000 open files a process can hold; spareFiles is what a process
// needs besides connections.
const (
	manyConnections = 18_000
	spareFiles      = 500
)

// howMany gives the number of connections: what was asked for, or otherwise, at most what the system allows.
func (b *bencher) howMany(otherwise int) (int, error) {
	n := b.Connections
	if n <= 0 {
		n = otherwise
	}
	limit, err := openFiles()
	if err != nil {
		return 0, err
	}
	if most := int(limit) - spareFiles; n > most {
		b.report.note("%d connections were asked for; %d open files allow %d.", n, limit, most)
		n = most
	}
	return n, nil
}

// idleMost bounds idleAfter.
const idleMost = 5 * time.Second

// idleAfter is history.cold of the hubs whose memory is measured: long enough to measure before it, too, but for a test,
// which takes the shortest there is.
func (b *bencher) idleAfter() time.Duration { return min(idleMost, max(b.Duration, time.Second)) }

// fleetPrefix makes names that no earlier measurement on the same hub has used.
func fleetPrefix() string { return "bench-" + strconv.FormatInt(time.Now().UnixNano(), 36) }

// runConnections measures how fast connections are made and what an idle one costs.
func runConnections(ctx context.Context, b *bencher) error {
	n, err := b.howMany(manyConnections)
	if err != nil {
		return err
	}
	runs := map[string][][]Value{}
	for run := range b.Runs {
		for _, v := range b.Variants {
			b.Logger.Info("measuring connections", "run", run+1, "variant", v, "connections", n)
			values, err := b.connections(ctx, v, n)
			if err != nil {
				return fmt.Errorf("connections, %s: %w", v, err)
			}
			runs[v] = append(runs[v], values)
		}
	}
	for _, v := range b.Variants {
		b.report.add(v, runs[v]...)
		if v == "sink" {
			continue
		}
		b.report.goal(v+": connections accepted and logged in per second", b.report.get(v, "rate"), 20_000, true, "/s")
		b.report.goal(v+": memory of an idle device", b.report.get(v, "device"), 1000, false, "B")
	}
	b.report.note("Memory is resident memory after a garbage collection. A few devices come, report and go first. device: from a hub "+
		"without devices to the hub, restarted with them, to which all are connected, each with a state (one message stored); "+
		"connection: from that restarted hub before they connect. An idle device has been silent for longer than history.cold, which is "+
		"%v here instead of 10 minutes; just heard: device before that, with its message in memory as well. left: what is still there "+
		"of connection when all have gone, their states and what the burst of them has cost.", b.idleAfter())
	return nil
}

// connections measures one variant once: values rate, took, CPU, bytes.
func (b *bencher) connections(ctx context.Context, variant string, n int) (values []Value, err error) {
	cfg := sim.SwarmConfig{Workers: b.Workers}
	var t target
	var h *hub
	if variant == "sink" {
		t, err = b.startSink(ctx)
		cfg.Credentials = bareCredentials(n)
	} else {
		h, err = b.startHub(ctx, "SIGNALBOX_HISTORY_COLD="+b.idleAfter().String())
		t = h
		cfg.Protocol = signalbox.ProtocolV2
		if variant == "v1" {
			cfg.Protocol = signalbox.ProtocolV1
		}
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	if h != nil {
		if err := b.warm(ctx, h); err != nil {
			return nil, err
		}
	}
	empty, err := idleBytes(ctx, t)
	if err != nil {
		return nil, err
	}
	before := empty
	if h != nil {
		if cfg.Credentials, err = h.addDevices(ctx, n); err != nil {
			return nil, err
		}
		if h.child != nil { // what adding them took is over after a restart
			if err := errors.Join(h.child.stop(), h.start(ctx)); err != nil {
				return nil, err
			}
			if err := b.warm(ctx, h); err != nil {
				return nil, err
			}
		}
		if before, err = idleBytes(ctx, t); err != nil {
			return nil, err
		}
	}
	cfg.Addr = t.address()
	s, err := sim.NewSwarm(cfg)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	cpu, err := usedCPU(t)
	if err != nil {
		return nil, err
	}
	own, err := cpuSeconds(os.Getpid())
	if err != nil {
		return nil, err
	}
	took, err := s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	ownAfter, err := cpuSeconds(os.Getpid())
	if err != nil {
		return nil, err
	}
	cpuAfter, err := usedCPU(t)
	if err != nil {
		return nil, err
	}
	if h != nil {
		if err := b.online(ctx, h, n); err != nil {
			return nil, err
		}
		if _, err := b.storedLoad(ctx, h, s, sim.Load{Messages: 1}); err != nil {
			return nil, err
		}
	}
	fresh, after, left, err := b.rest(ctx, t, h, s)
	if err != nil {
		return nil, err
	}
	return []Value{
		{"connections", "", float64(n)},
		{"rate", "/s", float64(n) / took.Seconds()},
		{"all ready", "s", took.Seconds()},
		{"CPU", "s/1M", (cpuAfter - cpu) * 1e6 / float64(n)},
		{"CPU of the load", "s/1M", (ownAfter - own) * 1e6 / float64(n)},
		{"connection", "B", (after - before) / float64(n)},
		{"device", "B", (after - empty) / float64(n)},
		{"just heard", "B", (fresh - empty) / float64(n)},
		{"left", "B", (left - before) / float64(n)},
		{"failures", "", float64(s.Stats().Failures)},
	}, nil
}

// rest measures the memory while the devices are connected and silent: with their messages just heard, when these are in
// chunks, and when all devices have left. For the sink (h is nil) the first two are the same.
func (b *bencher) rest(ctx context.Context, t target, h *hub, s *sim.Swarm) (fresh, after, left float64, err error) {
	if fresh, err = idleBytes(ctx, t); err != nil {
		return 0, 0, 0, err
	}
	settle := func() (float64, error) {
		if h != nil && h.child != nil {
			if err := b.sealed(ctx, h); err != nil {
				return 0, err
			}
		}
		return idleBytes(ctx, t)
	}
	if after, err = settle(); err != nil {
		return 0, 0, 0, err
	}
	if err := s.Drop(ctx, false); err != nil {
		return 0, 0, 0, err
	}
	left, err = settle()
	return fresh, after, left, err
}

// warm has a few devices come, report and go, so that what a hub needs once (the memory of
// compressors, code that is read from disk when it first runs) is not counted for each
// connection.
func (b *bencher) warm(ctx context.Context, h *hub) error {
	credentials, err := h.addDevices(ctx, 16)
	if err != nil {
		return err
	}
	s, err := sim.NewSwarm(sim.SwarmConfig{Addr: h.address(), Credentials: credentials, Protocol: signalbox.ProtocolV2, Workers: 1})
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Connect(ctx); err != nil {
		return err
	}
	if _, err := b.storedLoad(ctx, h, s, sim.Load{Messages: 64}); err != nil {
		return err
	}
	if err := s.Drop(ctx, false); err != nil || h.child == nil {
		return err
	}
	return b.sealed(ctx, h)
}

// idleBytes is a target's resident memory after a garbage collection; 0 for a hub whose process is not known.
func idleBytes(ctx context.Context, t target) (float64, error) {
	if t.process() == 0 {
		return 0, nil
	}
	for range 2 { // what lies in a sync.Pool survives one collection
		if err := t.collect(ctx); err != nil {
			return 0, err
		}
	}
	return residentBytes(t.process())
}

// usedCPU is the CPU time a target has used; 0 for a hub whose process is not known.
func usedCPU(t target) (float64, error) {
	if t.process() == 0 {
		return 0, nil
	}
	return cpuSeconds(t.process())
}

// onlinePatience is how long a hub may take to show what has happened already.
const onlinePatience = 2 * time.Minute

// online waits until the hub says that at least n devices are online.
func (b *bencher) online(ctx context.Context, h *hub, n int) error {
	return h.awaitMetric(ctx, "signalbox_devices_online", float64(n), onlinePatience)
}

// sealed waits until no message is in memory alone but in a chunk: the devices are idle. Then the hub has some time to give
// back what that took.
func (b *bencher) sealed(ctx context.Context, h *hub) error {
	err := h.awaitMetricThat(ctx, "signalbox_history_runs", "fall to 0", func(have float64) bool { return have == 0 }, onlinePatience)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.idleAfter()):
		return nil
	}
}

// awaitMetric waits until a metric has reached want.
func (h *hub) awaitMetric(ctx context.Context, name string, want float64, patience time.Duration) error {
	return h.awaitMetricThat(ctx, name, fmt.Sprintf("reach %.0f", want), func(have float64) bool { return have >= want }, patience)
}

// awaitMetricThat waits until a metric is as wanted; what says how, as in "it did not …".
func (h *hub) awaitMetricThat(ctx context.Context, name, what string, wanted func(float64) bool, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		have, err := h.api.metric(ctx, name)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil && wanted(have) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is %.0f and did not %s within %v", name, have, what, patience)
		case <-look.C:
		}
	}
}
