package cli

import (
	"context"
	"strings"
	"testing"
	"time"
)

// received is when an event came.
func received(t *testing.T, event map[string]any) time.Time {
	t.Helper()
	text, _ := event["received"].(string)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatalf("%v in %v", err, event)
	}
	return at
}

func TestReplay(t *testing.T) {
	s := newStation(t)
	ctx, stop := context.WithCancel(t.Context())
	out := &watchedWriter{text: "Ctrl-C", told: make(chan struct{})}
	ended := make(chan int, 1)
	go func() {
		ended <- Run(ctx, []string{"serve", "--data", s.dir, "--http", "127.0.0.1:0", "--devices", "127.0.0.1:0", "--mqtt", "off"}, strings.NewReader(""), out, &watchedWriter{told: make(chan struct{})}, nil)
	}()
	select {
	case <-out.told:
	case <-time.After(patience):
		t.Fatal("the hub did not start")
	}
	s.simulate([]string{"sim-box-1", "sim-box-2"}, 10, "--boxes", "2").want(t, ExitOK)
	// A command is on disk when it is answered, and so is what was reported before.
	s.run("send", "sim-box-1", "servo1", "90", "--ttl", "1h").want(t, ExitOK)
	play := func(args ...string) []string {
		t.Helper()
		r := s.run(append([]string{"replay", "--json"}, args...)...).want(t, ExitOK)
		return strings.Split(strings.TrimSpace(r.out), "\n")
	}
	all := play("--speed", "max")
	if len(all) < 10 {
		t.Fatalf("%d messages: %v", len(all), all)
	}
	first := decode[map[string]any](t, result{out: all[0]})
	mark, ok := first["replay"].(map[string]any)
	if !ok || mark["id"] == "" || mark["hub"] == "" || first["kind"] != "telemetry" || first["object"] == nil {
		t.Errorf("message %v", first)
	}
	// At the speed at which it came, it takes as long at least.
	last := decode[map[string]any](t, result{out: all[len(all)-1]})
	came := received(t, last).Sub(received(t, first))
	began := time.Now()
	if n := len(play()); n != len(all) {
		t.Errorf("at once there are %d messages, at their pace %d", len(all), n)
	}
	if took := time.Since(began); came <= 0 || took < came*9/10 {
		t.Errorf("%s of history took %s", came, took)
	}
	if n := len(play("sim-box-1", "--speed", "1000x")); n == 0 || n >= len(all) {
		t.Errorf("of one box there are %d messages of %d", n, len(all))
	}
	s.run("replay", "--type", "box", "--speed", "max", "--shift").want(t, ExitOK, "sim-box-2", "servo1=90", "The replay has ended")
	s.run("replay", "--to", "2001-01-01").want(t, ExitOK, "no telemetry")
	s.run("replay", "nobody").want(t, ExitNotFound, "nobody")
	s.run("replay", "--type", "rocket").want(t, ExitNotFound, "rocket")
	for _, args := range [][]string{{"--speed", "fast"}, {"--speed", "0"}, {"--speed", "-1"}, {"--speed", "NaN"}, {"--from", "soon"}, {"--from", "1h", "--to", "2h"}, {"--pace", "slow"}, {""}} {
		s.run(append([]string{"replay"}, args...)...).want(t, ExitUsage)
	}

	// One that is interrupted makes room for others.
	short, interrupt := context.WithCancel(t.Context())
	said := &watchedWriter{text: "sim-box", told: make(chan struct{})}
	left := make(chan int, 1)
	go func() {
		left <- Run(short, []string{"replay", "--data", s.dir, "--speed", "0.001"}, strings.NewReader(""), said, &watchedWriter{told: make(chan struct{})}, nil)
	}()
	select {
	case <-said.told:
	case <-time.After(patience):
		t.Error("nothing was played")
	}
	interrupt()
	if code := <-left; code != ExitInterrupted {
		t.Errorf("an interrupted replay ends with %d", code)
	}
	stop()
	<-ended

	// Without a hub the command plays by itself.
	if n := len(play("--speed", "max")); n != len(all) {
		t.Errorf("without a hub there are %d messages of %d", n, len(all))
	}
}
