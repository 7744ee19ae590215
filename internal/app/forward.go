package app

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/forward"
	"signalbox/internal/forward/target"
	"signalbox/internal/replay"
)

// forwardParts are the forwarders. They run while the hub serves: a hub that is open for one
// command of the command line alone sends nothing to anybody.
type forwardParts struct {
	manager *forward.Manager
	begin   func() // sets them going; once
	end     context.CancelFunc
	done    sync.WaitGroup
}

// openForward makes the forwarders. It runs when the log is open and does not run yet.
func (a *App) openForward(ctx context.Context) error {
	c := &a.cfg.Forward
	instance, err := replay.InstanceID(ctx, a.store)
	if err != nil {
		return err
	}
	file, err := c.specs()
	if err != nil {
		return signalbox.Errorf(signalbox.KindInvalid, "config", "forward.forwarders: %s", err)
	}
	a.forward.manager, err = forward.New(ctx, forward.Config{
		File: file, Allow: c.Allow, Max: c.Max, MaxDeadLetters: c.MaxDeadLetters, Logger: a.logger,
	}, forward.Parts{
		Log: a.log, Devices: a.devices, Store: a.store, Seal: a.keys.Seal, Unseal: a.keys.Unseal, Command: api.CommandEvent,
		Targets: func(spec *forward.Spec, trusted bool, allow []netip.Prefix) (forward.Target, error) {
			return target.New(spec, trusted, allow, "/signalbox/"+instance, a.logger)
		},
	})
	return err
}

// prepareForward lets the forwarders begin when they are told to. ctx outlives the roads.
func (a *App) prepareForward(ctx context.Context) {
	f := &a.forward
	ctx, f.end = context.WithCancel(ctx)
	f.begin = sync.OnceFunc(func() {
		f.done.Go(func() {
			if err := f.manager.Run(ctx); err != nil && ctx.Err() == nil {
				a.logger.Error("a part of the hub ended early", "part", "forwarders", "err", err)
			}
		})
	})
}

// endForward ends the forwarders, whose places in the log are stored then; the log still runs.
func (a *App) endForward() {
	if a.forward.end != nil {
		a.forward.end()
		a.forward.done.Wait()
	}
}

// replayToViewers gives what plays a replay to the original viewers.
func (a *App) replayToViewers() (replay.Sink, error) {
	if !a.viewers.On() {
		return nil, signalbox.Errorf(signalbox.KindConflict, "viewers_off", "there are no original viewers to play to; compat.viewers.device and compat.viewers.field switch them on")
	}
	return a.viewers.ReplaySink(), nil
}

// forwardChecks tell which targets are away. That is no reason for the hub not to be ready.
func (a *App) forwardChecks() []api.Check {
	list := a.forward.manager.List()
	if len(list) == 0 {
		return nil
	}
	var away []string
	paused, behind := 0, int64(0)
	for i := range list {
		s := &list[i]
		behind = max(behind, s.Behind)
		switch s.State {
		case forward.StateWaiting:
			away = append(away, s.Spec.Name) // anybody may read this: what is wrong tells of addresses
		case forward.StatePaused:
			paused++
		default:
		}
	}
	check := api.Check{Name: "forwarders", OK: true, Message: "all targets are there"}
	if len(away) > 0 {
		const most = 8
		more := ""
		if n := len(away) - most; n > 0 {
			away, more = away[:most], " and "+strconv.Itoa(n)+" more"
		}
		check.Message = "degraded: targets are away: " + strings.Join(away, ", ") + more + "; what they miss waits, up to " + strconv.FormatInt(behind, 10) + " entries"
	}
	if paused > 0 {
		check.Message += "; paused: " + strconv.Itoa(paused)
	}
	return []api.Check{check}
}

// forwardCollector gives the metrics of the forwarders, each with the label name.
type forwardCollector struct {
	manager *forward.Manager
	all     []forwardMetric
}

type forwardMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(s *forward.Status) float64
	live func(s *forward.Stats) float64 // instead of read
}

func newForwardCollector(m *forward.Manager) *forwardCollector {
	c := &forwardCollector{manager: m}
	add := func(kind prometheus.ValueType, name, help string, read func(s *forward.Status) float64) {
		if kind == prometheus.CounterValue {
			name += "_total"
		}
		c.all = append(c.all, forwardMetric{desc: prometheus.NewDesc("signalbox_forward_"+name, help, []string{"name"}, nil), kind: kind, read: read})
	}
	count := func(name, help string, live func(s *forward.Stats) float64) {
		add(prometheus.CounterValue, name, help, nil)
		c.all[len(c.all)-1].live = live
	}
	is := func(states ...forward.State) func(s *forward.Status) float64 {
		return func(s *forward.Status) float64 {
			if slices.Contains(states, s.State) {
				return 1
			}
			return 0
		}
	}
	add(prometheus.GaugeValue, "connected", "1 while the target is there, or is listened for.", is(forward.StateFlowing, forward.StateCatchingUp, forward.StateListening))
	add(prometheus.GaugeValue, "paused", "1 while the forwarder is paused.", is(forward.StatePaused))
	add(prometheus.GaugeValue, "behind_entries", "Entries of the log that the receiver does not have yet.", func(s *forward.Status) float64 { return float64(s.Behind) })
	add(prometheus.GaugeValue, "dead_letters", "Messages that the receiver refused for good, and that are kept.", func(s *forward.Status) float64 { return float64(s.Dead) })
	add(prometheus.GaugeValue, "receivers", "Computers connected to a listening forwarder.", func(s *forward.Status) float64 { return float64(len(s.Receivers)) })
	add(prometheus.CounterValue, "sent", "Messages that may have left the hub.", func(s *forward.Status) float64 { return float64(s.Sent) })
	add(prometheus.CounterValue, "settled", "Messages that the receiver has.", func(s *forward.Status) float64 { return float64(s.Settled) })
	add(prometheus.CounterValue, "redelivered", "Messages that were sent again.", func(s *forward.Status) float64 { return float64(s.Redelivered) })
	add(prometheus.CounterValue, "failed", "Datagrams that could not be sent.", func(s *forward.Status) float64 { return float64(s.Failed) })
	add(prometheus.CounterValue, "skipped", "Entries given up by the limits of the queue.", func(s *forward.Status) float64 { return float64(s.Skipped) })
	add(prometheus.CounterValue, "gaps", "How often retention had dropped something before it was read.", func(s *forward.Status) float64 { return float64(s.Gaps) })
	add(prometheus.CounterValue, "reconnects", "Connections made after the first.", func(s *forward.Status) float64 { return float64(s.Reconnects) })
	count("bytes", "Bytes of these messages.", func(s *forward.Stats) float64 { return float64(s.Bytes.Load()) })
	count("replayed", "Messages that replays played into the forwarder.", func(s *forward.Stats) float64 { return float64(s.Replayed.Load()) })
	count("resent", "Dead letters that were sent again.", func(s *forward.Stats) float64 { return float64(s.Resent.Load()) })
	count("dead_letters_made", "Messages that became dead letters.", func(s *forward.Stats) float64 { return float64(s.Buried.Load()) })
	count("dead_letters_dropped", "Dead letters that had to go for newer ones.", func(s *forward.Stats) float64 { return float64(s.DeadDropped.Load()) })
	return c
}

// Describe implements prometheus.Collector.
func (c *forwardCollector) Describe(to chan<- *prometheus.Desc) {
	for _, m := range c.all {
		to <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *forwardCollector) Collect(to chan<- prometheus.Metric) {
	list := c.manager.List()
	for i := range list {
		stats, err := c.manager.Stats(list[i].Spec.Name)
		if err != nil {
			continue // it was removed a moment ago
		}
		for _, m := range c.all {
			var value float64
			if m.live != nil {
				value = m.live(stats)
			} else {
				value = m.read(&list[i])
			}
			to <- prometheus.MustNewConstMetric(m.desc, m.kind, value, list[i].Spec.Name)
		}
	}
}
