package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/sim"
)

// askEvery is how often the API is asked during a storm.
const askEvery = 50 * time.Millisecond

// runReconnect measures how long all devices need to be online again after they dropped at once.
func runReconnect(ctx context.Context, b *bencher) (err error) {
	n, err := b.howMany(manyConnections)
	if err != nil {
		return err
	}
	h, err := b.startHub(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	credentials, err := h.addDevices(ctx, n)
	if err != nil {
		return err
	}
	s, err := sim.NewSwarm(sim.SwarmConfig{Addr: h.address(), Credentials: credentials, Protocol: signalbox.ProtocolV2, Workers: b.Workers, InFlight: 1024})
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Connect(ctx); err != nil {
		return err
	}
	runs := map[string][][]Value{}
	for run := range b.Runs {
		for _, v := range b.Variants {
			b.Logger.Info("measuring a reconnect storm", "run", run+1, "variant", v, "devices", n)
			values, err := b.storm(ctx, h, s, v == "reset", n)
			if err != nil {
				return fmt.Errorf("reconnect, %s: %w", v, err)
			}
			runs[v] = append(runs[v], values)
		}
	}
	for _, v := range b.Variants {
		b.report.add(v, runs[v]...)
		b.report.goal(v+": all online again", b.report.get(v, "all online"), 3, false, "s")
		b.report.goal(v+": API requests that failed meanwhile", b.report.get(v, "API failed"), 0, false, "")
	}
	b.report.note("%d devices drop at once (reset: RST, close: FIN) and return at once, 1,024 handshakes at a time; the API is asked every %v meanwhile.", n, askEvery)
	return nil
}

func (b *bencher) storm(ctx context.Context, h *hub, s *sim.Swarm, reset bool, n int) ([]Value, error) {
	cpu, err := usedCPU(h)
	if err != nil {
		return nil, err
	}
	before := s.Stats().Failures
	asker := startAsker(ctx, h.api)
	defer asker.stop()
	start := time.Now()
	if err := s.Drop(ctx, reset); err != nil {
		return nil, err
	}
	if _, err := s.Connect(ctx); err != nil {
		return nil, err
	}
	took := time.Since(start)
	if err := b.online(ctx, h, n); err != nil {
		return nil, err
	}
	asker.stop()
	cpuAfter, err := usedCPU(h)
	if err != nil {
		return nil, err
	}
	return []Value{
		{"all online", "s", took.Seconds()},
		{"rate", "/s", float64(n) / took.Seconds()},
		{"refused", "", float64(s.Stats().Failures - before)},
		{"CPU", "s/1M", (cpuAfter - cpu) * 1e6 / float64(n)},
		{"API asked", "", float64(asker.took.Count())},
		{"API failed", "", float64(asker.failed)},
		{"API p50", "ms", ms(asker.took.Quantile(0.5))},
		{"API p99", "ms", ms(asker.took.Quantile(0.99))},
	}, nil
}

// asker asks the API on a fixed schedule.
type asker struct {
	cancel context.CancelFunc
	asking sync.WaitGroup
	took   sim.Histogram
	failed int64 // read after stop
}

func startAsker(ctx context.Context, a *api) *asker {
	ctx, cancel := context.WithCancel(ctx)
	q := &asker{cancel: cancel}
	q.asking.Go(func() {
		tick := time.NewTicker(askEvery)
		defer tick.Stop()
		for {
			var due time.Time
			select {
			case <-ctx.Done():
				return
			case due = <-tick.C:
			}
			// A request under way when the storm ends is answered first.
			_, err := a.do(context.WithoutCancel(ctx), http.MethodGet, "/api/v1/devices?limit=1", nil)
			q.took.Record(time.Since(due))
			if err != nil {
				q.failed++
			}
		}
	})
	return q
}

// stop ends the asking and waits for it; it may be called twice.
func (q *asker) stop() {
	q.cancel()
	q.asking.Wait()
}
