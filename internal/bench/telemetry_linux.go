package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/sim"
)

const (
	// loadDevices is how many devices send in a measurement of telemetry.
	loadDevices = 1000
	// bunch is how many messages the bunched variants put in one write.
	bunch = 32
	// sampledDevices is of how many devices all messages are read back.
	sampledDevices = 25
	// storePatience is how long a hub may take to store what it has read.
	storePatience = 2 * time.Minute
	// storedMetric counts telemetry on disk.
	storedMetric = "signalbox_telemetry_stored_total"
)

// runTelemetry measures durable throughput against the sink's, in turn.
func runTelemetry(ctx context.Context, b *bencher) error {
	n, err := b.howMany(loadDevices)
	if err != nil {
		return err
	}
	runs := map[string][][]Value{}
	for run := range b.Runs {
		for _, v := range b.Variants {
			load := sim.Load{Duration: b.Duration}
			if strings.HasPrefix(v, "bunched") {
				load.Bunch, load.Window = bunch, 1.5
			}
			b.Logger.Info("measuring telemetry", "run", run+1, "variant", v, "connections", n)
			values, err := b.hubTelemetry(ctx, n, load, strings.HasSuffix(v, "-saved"))
			if err != nil {
				return fmt.Errorf("telemetry, %s: %w", v, err)
			}
			runs[v] = append(runs[v], values)
			if strings.HasSuffix(v, "-saved") {
				continue
			}
			if values, err = b.sinkTelemetry(ctx, n, load); err != nil {
				return fmt.Errorf("telemetry, %s, sink: %w", v, err)
			}
			runs[v+" sink"] = append(runs[v+" sink"], values)
		}
	}
	for _, v := range b.Variants {
		b.report.add(v, runs[v]...)
		b.report.add(v+" sink", runs[v+" sink"]...)
	}
	r := b.report
	for variant, share := range map[string]float64{"one": 60, "bunched": 35} {
		if len(runs[variant]) == 0 {
			continue
		}
		r.goal(variant+": rate against the sink's", 100*r.get(variant, "rate")/r.get(variant+" sink", "rate"), share, true, "%")
		if variant == "one" {
			r.goal("one: CPU against the sink's", r.get(variant, "CPU")/r.get(variant+" sink", "CPU"), 2, false, "times")
		}
	}
	r.note("one: one message per write, and pings among them keep the load at less than one message a connection ahead, so that the "+
		"hub finds one per wake-up (reads tells); bunched: %d per write. Rates count what is on disk, until it is there.", bunch)
	r.note("-saved: each message has a seq, so the hub answers saved. Every run: the hub's count of messages on disk is that of the messages sent, "+
		"and all messages of %d devices were read back and compared by number and content.", min(sampledDevices, n))
	return nil
}

func (b *bencher) hubTelemetry(ctx context.Context, n int, load sim.Load, saved bool) (values []Value, err error) {
	// What is looked for is the hub's own limit, not that of a device.
	h, err := b.startHub(ctx, "SIGNALBOX_DEVICES_MESSAGES_PER_SECOND=1000000", "SIGNALBOX_DEVICES_BURST=65535")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	credentials, err := h.addDevices(ctx, n)
	if err != nil {
		return nil, err
	}
	s, err := sim.NewSwarm(sim.SwarmConfig{Addr: h.address(), Credentials: credentials, Protocol: signalbox.ProtocolV2, Workers: b.Workers, Seq: saved})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if _, err := s.Connect(ctx); err != nil {
		return nil, err
	}
	values, err = b.measureLoad(h, s, func() (sim.Sent, error) { return b.storedLoad(ctx, h, s, load) })
	if err != nil {
		return nil, err
	}
	progress, err := s.Progress(ctx)
	if err != nil {
		return nil, err
	}
	return values, checkSample(ctx, h.api, progress, sampledDevices)
}

func (b *bencher) sinkTelemetry(ctx context.Context, n int, load sim.Load) (values []Value, err error) {
	t, err := b.startSink(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	s, err := sim.NewSwarm(sim.SwarmConfig{Addr: t.address(), Credentials: bareCredentials(n), Workers: b.Workers})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if _, err := s.Connect(ctx); err != nil {
		return nil, err
	}
	return b.measureLoad(t, s, func() (sim.Sent, error) { return s.Send(ctx, load) })
}

// measureLoad measures a target while it takes a load.
func (b *bencher) measureLoad(t target, s *sim.Swarm, load func() (sim.Sent, error)) ([]Value, error) {
	reads := func() (float64, error) { return 0, nil }
	if t.process() != 0 {
		reads = func() (float64, error) { return readCalls(t.process()) }
	}
	cpu, err := usedCPU(t)
	if err != nil {
		return nil, err
	}
	callsBefore, err := reads()
	if err != nil {
		return nil, err
	}
	sent, err := load()
	if err != nil {
		return nil, err
	}
	cpuAfter, err := usedCPU(t)
	if err != nil {
		return nil, err
	}
	callsAfter, err := reads()
	if err != nil {
		return nil, err
	}
	count := float64(sent.Messages)
	return []Value{
		{"rate", "msg/s", count / sent.Took.Seconds()},
		{"messages", "", count},
		{"bytes", "/msg", float64(sent.Bytes) / count},
		{"CPU", "s/1M", (cpuAfter - cpu) * 1e6 / count},
		{"reads", "/msg", (callsAfter - callsBefore) / count},
		{"ping p50", "ms", ms(s.RTT.Quantile(0.5))},
		{"ping p99", "ms", ms(s.RTT.Quantile(0.99))},
		{"saved p50", "ms", ms(s.SavedAfter.Quantile(0.5))},
		{"saved p99", "ms", ms(s.SavedAfter.Quantile(0.99))},
	}, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// storedLoad sends a load and waits until all of it is on disk: Sent.Took is until then.
func (b *bencher) storedLoad(ctx context.Context, h *hub, s *sim.Swarm, load sim.Load) (sim.Sent, error) {
	before, err := h.api.metric(ctx, storedMetric)
	if err != nil {
		return sim.Sent{}, err
	}
	start := time.Now()
	sent, err := s.Send(ctx, load)
	if err != nil {
		return sent, err
	}
	want := before + float64(sent.Messages)
	if err := h.awaitMetric(ctx, storedMetric, want, storePatience); err != nil {
		return sent, fmt.Errorf("messages are missing: %w", err)
	}
	sent.Took = time.Since(start)
	have, err := h.api.metric(ctx, storedMetric)
	if err != nil {
		return sent, err
	}
	if have != want {
		return sent, fmt.Errorf("the hub stored %.0f messages of %d: some twice", have-before, sent.Messages)
	}
	return sent, nil
}

// checkSample reads back all messages of some devices, spread over the list, and compares them by number and content.
func checkSample(ctx context.Context, a *api, progress []sim.Progress, sample int) error {
	step := max(1, len(progress)/max(1, sample))
	for i := 0; i < len(progress); i += step {
		if _, err := checkDevice(ctx, a, progress[i].Name, progress[i].Sent, progress[i].Sent); err != nil {
			return err
		}
	}
	return nil
}

// checkDevice compares a device's history with what it sent: each message up to number must is there, none is beyond
// number may, none twice, in order, and each is what was sent. It gives the number of the last one.
func checkDevice(ctx context.Context, a *api, name string, must, may uint64) (last uint64, err error) {
	err = a.telemetry(ctx, name, func(object gjson.Result) error {
		n, sum := sim.Counter(object.Get("n").Uint()), object.Get("sum").Str
		if n != last+1 {
			return fmt.Errorf("after message %d of %s comes number %d", last, name, n)
		}
		if want := sim.Checksum(name, n); sum != want {
			return fmt.Errorf("message %d of %s has the checksum %q instead of %q", n, name, sum, want)
		}
		last = n
		return nil
	})
	if err != nil {
		return last, err
	}
	if last < must || last > may {
		return last, fmt.Errorf("the history of %s ends at message %d; sent were %d, acknowledged %d", name, last, may, must)
	}
	return last, nil
}
