package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/sim"
)

const (
	surviveDevices     = 200
	defaultRounds      = 20
	defaultSurviveRate = 20_000
)

// runSurvive kills the hub again and again in the middle of telemetry. After each restart, everything that was called
// saved has to be in the history once and as it was sent; the devices then send again what was not saved.
func runSurvive(ctx context.Context, b *bencher) (err error) {
	if b.URL != "" {
		return errors.New("survive kills the hub, so it starts one of its own: leave out the URL")
	}
	n, err := b.howMany(surviveDevices)
	if err != nil {
		return err
	}
	rounds, rate := b.Rounds, b.Rate
	if rounds <= 0 {
		rounds = defaultRounds
	}
	b.report.Runs = rounds
	if slices.Contains(b.Variants, "history") {
		if err := b.surviveHistory(ctx, rounds); err != nil {
			return err
		}
	}
	if !slices.Contains(b.Variants, "telemetry") {
		b.report.goal("acknowledged messages lost or doubled", 0, 0, false, "")
		return nil
	}
	if rate <= 0 {
		rate = defaultSurviveRate
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
	// The killed hub's address is taken again, so that devices find it.
	h.addrs.fixed = h.addrs.Devices
	s, err := sim.NewSwarm(sim.SwarmConfig{Addr: h.address(), Credentials: credentials, Protocol: signalbox.ProtocolV2, Workers: b.Workers, Seq: true})
	if err != nil {
		return err
	}
	defer s.Close()
	var sum surviveSum
	for round := range rounds {
		b.Logger.Info("a round of survive", "round", round+1)
		if err := b.surviveRound(ctx, h, s, rate, &sum); err != nil {
			return fmt.Errorf("survive, round %d: %w", round+1, err)
		}
	}
	if _, err := s.Connect(ctx); err != nil {
		return err
	}
	progress, err := s.Progress(ctx)
	if err != nil {
		return err
	}
	stored := uint64(0)
	for _, p := range progress {
		stored += p.Saved
	}
	b.report.add("kill -9", []Value{
		{"rounds", "", float64(rounds)},
		{"sent", "", float64(s.Stats().Messages)},
		{"stored", "", float64(stored)},
		{"lost after saved", "", 0},
		{"twice", "", 0},
		{"restart", "s", sum.restart.Seconds() / float64(rounds)},
		{"stored beyond saved", "", float64(sum.beyond)},
	})
	b.report.goal("acknowledged messages lost or doubled", 0, 0, false, "")
	b.report.note("%d devices, %.0f messages/s; after each kill all messages of all devices were read back and compared. The first fault ends the measurement with an error.", n, rate)
	return nil
}

// surviveSum adds up the rounds.
type surviveSum struct {
	restart time.Duration
	beyond  uint64 // messages found that the killed hub had not called saved yet
}

// surviveRound: connect, send, kill at a random moment, restart, compare.
func (b *bencher) surviveRound(ctx context.Context, h *hub, s *sim.Swarm, rate float64, sum *surviveSum) error {
	if _, err := s.Connect(ctx); err != nil {
		return err
	}
	wait := 200*time.Millisecond + rand.N(min(b.Duration, 2*time.Second))
	sending := make(chan error, 1)
	go func() { // the kill ends it
		_, err := s.Send(ctx, sim.Load{Duration: wait + storePatience, Rate: rate, Tolerate: true})
		sending <- err
	}()
	moment := time.NewTimer(wait)
	defer moment.Stop()
	select {
	case <-moment.C:
	case err := <-sending:
		return errors.Join(errors.New("sending ended before the kill"), err)
	}
	if err := h.child.kill(); err != nil {
		return err
	}
	if err := <-sending; err != nil {
		return err
	}
	start := time.Now()
	if err := h.start(ctx); err != nil {
		return err
	}
	sum.restart += time.Since(start)
	progress, err := s.Progress(ctx)
	if err != nil {
		return err
	}
	for _, p := range progress {
		found, err := checkDevice(ctx, h.api, p.Name, p.Saved, p.Sent)
		if err != nil {
			return err
		}
		sum.beyond += found - p.Saved
	}
	return nil
}
