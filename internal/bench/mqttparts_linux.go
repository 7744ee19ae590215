package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"signalbox"
	"signalbox/internal/sim"
)

// newMQTTSwarm makes clients that are not connected yet.
func (m *mqttRun) newMQTTSwarm(t mqttBroker, list []sim.Credential, qos uint8, subscribe bool) (*sim.Swarm, error) {
	workers := cmp.Or(m.Workers, 1)
	if m.Workers == 0 && len(list) > loadDevices {
		workers = runtime.GOMAXPROCS(0)
	}
	return sim.NewSwarm(sim.SwarmConfig{
		Addr: t.address(), Credentials: list, Protocol: signalbox.ProtocolMQTT, QoS: qos, Subscribe: subscribe, Workers: workers,
		InFlight: max(1, backlog/workers),
	})
}

// backlog is how many connections are being made at the same time: Mosquitto's listener queues 100, and the system has a
// client that finds no place try again only after a second.
const backlog = 96

// warmMQTT has a few clients come, subscribe, publish and go.
func (m *mqttRun) warmMQTT(ctx context.Context, t mqttBroker) error {
	list, err := t.devices(ctx, 16)
	if err != nil {
		return err
	}
	s, err := m.newMQTTSwarm(t, list, 1, true)
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Connect(ctx); err != nil {
		return err
	}
	if _, err := s.Send(ctx, sim.Load{Messages: 64}); err != nil {
		return err
	}
	if err := s.Drop(ctx, false); err != nil {
		return err
	}
	return m.settle(ctx, t)
}

// settle waits until nothing is left to do but to be there.
func (m *mqttRun) settle(ctx context.Context, t mqttBroker) error {
	if h, ok := t.(*mqttHub); ok && m.Duration >= time.Second { // else it is a test
		return m.sealed(ctx, h.hub)
	}
	return nil
}

// idleTime is how long idle CPU is measured.
func (m *mqttRun) idleTime() time.Duration { return min(m.Duration, 5*time.Second) }

// mqttConnections measures n connections, with a QoS 1 subscription each or without.
func (m *mqttRun) mqttConnections(ctx context.Context, t mqttBroker, n int, subscribe bool) ([]Value, error) {
	list, err := t.devices(ctx, n)
	if err != nil {
		return nil, err
	}
	h, ours := t.(*mqttHub)
	if ours { // what adding them took is over after a restart
		if err := t.restart(ctx); err != nil {
			return nil, err
		}
	}
	if err := m.warmMQTT(ctx, t); err != nil {
		return nil, err
	}
	before, err := idleBytes(ctx, t)
	if err != nil {
		return nil, err
	}
	s, err := m.newMQTTSwarm(t, list, 0, subscribe)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	cpu, err := usedCPU(t)
	if err != nil {
		return nil, err
	}
	took, err := s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	cpuAfter, err := usedCPU(t)
	if err != nil {
		return nil, err
	}
	if ours {
		if err := m.online(ctx, h.hub, n); err != nil {
			return nil, err
		}
	}
	if err := m.settle(ctx, t); err != nil {
		return nil, err
	}
	after, err := idleBytes(ctx, t)
	if err != nil {
		return nil, err
	}
	idle, err := m.idleCPU(ctx, t)
	if err != nil {
		return nil, err
	}
	stats := s.Stats()
	if stats.Lost > 0 || stats.Ready != int64(n) {
		return nil, fmt.Errorf("of %d idle connections %d are left; %d were lost", n, stats.Ready, stats.Lost)
	}
	return []Value{
		{"connections", "", float64(n)},
		{"rate", "/s", float64(n) / took.Seconds()},
		{"all ready", "s", took.Seconds()},
		{"CPU", "s/1M", (cpuAfter - cpu) * 1e6 / float64(n)},
		{"connection", "B", (after - before) / float64(n)},
		{"idle CPU", "%", idle},
		{"failures", "", float64(stats.Failures)},
	}, nil
}

// idleCPU is the CPU that a broker uses with nothing to do, as a share of one core.
func (m *mqttRun) idleCPU(ctx context.Context, t mqttBroker) (float64, error) {
	before, err := usedCPU(t)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(m.idleTime()):
	}
	after, err := usedCPU(t)
	return 100 * (after - before) / time.Since(start).Seconds(), err
}

// mqttPublish measures n publishers: QoS 0 until the broker has taken all, on disk if it is a hub, or QoS 1 until all is
// acknowledged.
func (m *mqttRun) mqttPublish(ctx context.Context, t mqttBroker, n int, acked bool, load sim.Load) ([]Value, error) {
	list, err := t.devices(ctx, n)
	if err != nil {
		return nil, err
	}
	qos := uint8(0)
	if acked {
		qos = 1
	}
	s, err := m.newMQTTSwarm(t, list, qos, false)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if _, err := s.Connect(ctx); err != nil {
		return nil, err
	}
	h, ours := t.(*mqttHub)
	cpu, err := usedCPU(t)
	if err != nil {
		return nil, err
	}
	var sent sim.Sent
	switch {
	case ours && acked:
		sent, err = m.ackedLoad(ctx, h.hub, s, load)
	case ours:
		sent, err = m.storedLoad(ctx, h.hub, s, load)
	default:
		sent, err = s.Send(ctx, load)
	}
	if err != nil {
		return nil, err
	}
	cpuAfter, err := usedCPU(t)
	if err != nil {
		return nil, err
	}
	if ours {
		progress, err := s.Progress(ctx)
		if err != nil {
			return nil, err
		}
		if err := checkSample(ctx, h.api, progress, sampledDevices); err != nil {
			return nil, err
		}
	}
	count := float64(sent.Messages)
	latency := &s.RTT
	if acked {
		latency = &s.SavedAfter
	}
	return []Value{
		{"rate", "msg/s", count / sent.Took.Seconds()},
		{"messages", "", count},
		{"bytes", "/msg", float64(sent.Bytes) / count},
		{"CPU", "s/1M", (cpuAfter - cpu) * 1e6 / count},
		{"p50", "ms", ms(latency.Quantile(0.5))},
		{"p99", "ms", ms(latency.Quantile(0.99))},
	}, nil
}

// ackedLoad sends a load with QoS 1: Sent.Took is until the last PUBACK. Then all of it has to be on disk.
func (b *bencher) ackedLoad(ctx context.Context, h *hub, s *sim.Swarm, load sim.Load) (sim.Sent, error) {
	before, err := h.api.metric(ctx, storedMetric)
	if err != nil {
		return sim.Sent{}, err
	}
	sent, err := s.Send(ctx, load)
	if err != nil {
		return sent, err
	}
	have, err := h.api.metric(ctx, storedMetric)
	if err != nil {
		return sent, err
	}
	if have-before != float64(sent.Messages) {
		return sent, fmt.Errorf("the hub acknowledged %d messages and stored %.0f", sent.Messages, have-before)
	}
	return sent, nil
}

// wholePatience is how long a subscriber waits for the next message where none is to be lost.
const wholePatience = time.Minute

// patience is how long one waits where messages may be lost: two seconds, in a short measurement less.
func (m *mqttRun) patience() time.Duration {
	return min(2*time.Second, max(500*time.Millisecond, 5*m.Duration))
}

// everybody is the filter of all native telemetry.
const everybody = "signalbox/+/telemetry"

// awaitDistinct waits until sub has had want different messages, or nothing new has come for as long as patience.
func awaitDistinct(ctx context.Context, sub *sim.Subscriber, want int64, patience time.Duration) (sim.Tally, error) {
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	had, since := int64(-1), time.Now()
	for {
		t := sub.Tally()
		if t.Messages != had {
			had, since = t.Messages, time.Now()
		}
		if t.Distinct >= want || time.Since(since) > patience {
			return t, nil
		}
		select {
		case <-ctx.Done():
			return t, ctx.Err()
		case <-sub.Ended():
			return t, errors.Join(errors.New("the subscriber's connection ended"), sub.Err())
		case <-look.C:
		}
	}
}

// mqttDeliver measures what one subscriber gets of what many publish: rate messages per second, 0 for as fast as it goes.
// The subscriber waits with patience for what it has not had.
func (m *mqttRun) mqttDeliver(ctx context.Context, t mqttBroker, rate float64, patience time.Duration) (values []Value, err error) {
	list, err := t.devices(ctx, m.publishers())
	if err != nil {
		return nil, err
	}
	login, err := t.outsider(ctx)
	if err != nil {
		return nil, err
	}
	s, err := m.newMQTTSwarm(t, list, 1, false)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if _, err := s.Connect(ctx); err != nil {
		return nil, err
	}
	sub, err := sim.NewSubscriber(ctx, sim.SubscriberConfig{Addr: t.address(), Login: login, ClientID: sim.SubscriberID(time.Now()), Filters: []string{everybody}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	cpu, err := usedCPU(t)
	if err != nil {
		return nil, err
	}
	sent, err := s.Send(ctx, sim.Load{Duration: m.Duration, Rate: rate, Unacked: unacked})
	if err != nil {
		return nil, err
	}
	tally, err := awaitDistinct(ctx, sub, sent.Messages, patience)
	if err != nil {
		return nil, err
	}
	cpuAfter, err := usedCPU(t)
	if err != nil {
		return nil, err
	}
	if tally.Wrong > 0 {
		return nil, fmt.Errorf("%d messages are not as they were sent", tally.Wrong)
	}
	took := max(tally.Last.Sub(tally.First).Seconds(), 0.001)
	return []Value{
		{"delivered", "msg/s", float64(tally.Distinct) / took},
		{"published", "msg/s", float64(sent.Messages) / sent.Took.Seconds()},
		{"messages", "", float64(sent.Messages)},
		{"lost", "", float64(sent.Messages - tally.Distinct)},
		{"twice", "", float64(tally.Doubled)},
		{"out of order", "", float64(tally.Disordered)},
		{"CPU", "s/1M", (cpuAfter - cpu) * 1e6 / float64(sent.Messages)},
		{"PUBACK p99", "ms", ms(s.SavedAfter.Quantile(0.99))},
	}, nil
}

// surviveMessages is how many messages a round of kill -9 publishes, surviveSenders by how many.
const (
	surviveMessages = 600
	surviveSenders  = 10
)

// mqttSurvive kills a broker again and again while a persistent subscriber is away, and counts what it gets.
func (m *mqttRun) mqttSurvive(ctx context.Context, t mqttBroker) ([]Value, error) {
	rounds := m.Rounds
	if rounds <= 0 {
		rounds = defaultRounds
	}
	list, err := t.devices(ctx, surviveSenders)
	if err != nil {
		return nil, err
	}
	login, err := t.outsider(ctx)
	if err != nil {
		return nil, err
	}
	if err := t.restart(ctx); err != nil { // the address is kept from here on
		return nil, err
	}
	s, err := m.newMQTTSwarm(t, list, 1, false)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	away := sim.SubscriberConfig{Addr: t.address(), Login: login, ClientID: sim.SubscriberID(time.Now()), Persistent: true}
	var sum mqttSurvived
	for round := range rounds {
		if err := m.mqttSurviveRound(ctx, t, s, away, &sum); err != nil {
			return nil, fmt.Errorf("round %d: %w", round+1, err)
		}
	}
	return []Value{
		{"rounds", "", float64(rounds)},
		{"acknowledged", "", float64(sum.acknowledged)},
		{"there", "", float64(sum.there)},
		{"lost", "", float64(sum.acknowledged - sum.there)},
		{"twice", "", float64(sum.twice)},
		{"sessions kept", "", float64(sum.kept)},
		{"restart", "s", sum.restart.Seconds() / float64(rounds)},
	}, nil
}

// mqttSurvived adds up the rounds.
type mqttSurvived struct {
	acknowledged, there, twice, kept int64
	restart                          time.Duration
}

func (m *mqttRun) mqttSurviveRound(ctx context.Context, t mqttBroker, s *sim.Swarm, away sim.SubscriberConfig, sum *mqttSurvived) error {
	first := away
	first.Filters = []string{everybody}
	sub, err := sim.NewSubscriber(ctx, first)
	if err != nil {
		return err
	}
	if err := sub.Close(); err != nil {
		return err
	}
	if _, err := s.Connect(ctx); err != nil {
		return err
	}
	away.After = uint64(sum.acknowledged) / surviveSenders
	sent, err := s.Send(ctx, sim.Load{Messages: surviveMessages / surviveSenders, Unacked: unacked})
	if err != nil {
		return err
	}
	if err := t.crash(); err != nil {
		return err
	}
	start := time.Now()
	if err := t.restart(ctx); err != nil {
		return err
	}
	sum.restart += time.Since(start)
	if sub, err = sim.NewSubscriber(ctx, away); err != nil {
		return err
	}
	patience := m.patience()
	if _, ours := t.(*mqttHub); ours {
		patience = wholePatience
	}
	tally, err := awaitDistinct(ctx, sub, sent.Messages, patience)
	if err := errors.Join(err, sub.Close()); err != nil {
		return err
	}
	if tally.Wrong > 0 {
		return fmt.Errorf("%d messages are not as they were sent", tally.Wrong)
	}
	sum.acknowledged += sent.Messages
	sum.there += tally.Distinct
	sum.twice += tally.Doubled
	if tally.Present {
		sum.kept++
	}
	return nil
}
