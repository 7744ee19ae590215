package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/sim"
)

const (
	defaultCommandRate = 1000
	defaultBackground  = 5000
	// commandsUnderWay bounds the requests at a time; those that wait count their waiting.
	commandsUnderWay = 256
	// warmUp is how long commands run before they count.
	warmUp = 2 * time.Second
)

// runCommands measures a command's way over the API to the device and its result's way back.
func runCommands(ctx context.Context, b *bencher) (err error) {
	n, err := b.howMany(manyConnections)
	if err != nil {
		return err
	}
	rate, background := b.Rate, b.Background
	if rate <= 0 {
		rate = defaultCommandRate
	}
	if background == 0 {
		background = defaultBackground
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
	s, err := sim.NewSwarm(sim.SwarmConfig{Addr: h.address(), Credentials: credentials, Protocol: signalbox.ProtocolV2, Workers: b.Workers})
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Connect(ctx); err != nil {
		return err
	}
	door := h.api
	if h.child != nil { // over TCP and with a token, as controllers come
		token, err := h.api.makeToken(ctx, "command")
		if err != nil {
			return err
		}
		door = newAPI("http://"+h.addrs.HTTP, token)
	}
	var runs [][]Value
	for run := range b.Runs {
		b.Logger.Info("measuring commands", "run", run+1, "devices", n, "rate", rate)
		values, err := b.commands(ctx, h, s, door, credentials, rate, background)
		if err != nil {
			return err
		}
		runs = append(runs, values)
	}
	b.report.add("commands", runs...)
	b.report.goal("command to result, p99", b.report.get("commands", "p99"), 3, false, "ms")
	b.report.note("%d devices connected, %.0f telemetry messages/s beside; latency from when a command was due until its answer was read.", n, max(background, 0))
	return nil
}

func (b *bencher) commands(ctx context.Context, h *hub, s *sim.Swarm, door *api, credentials []sim.Credential, rate, background float64) ([]Value, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sending := make(chan error, 1)
	go func() {
		if background < 0 {
			sending <- nil
			return
		}
		_, err := s.Send(ctx, sim.Load{Duration: warmUp + b.Duration, Rate: background})
		sending <- err
	}()
	shooter := &shooter{door: door, credentials: credentials}
	err := shooter.shoot(ctx, rate, warmUp, nil)
	cpu, err2 := usedCPU(h)
	var took sim.Histogram
	start := time.Now()
	if err == nil {
		err = shooter.shoot(ctx, rate, b.Duration, &took)
	}
	elapsed := time.Since(start)
	cpuAfter, err3 := usedCPU(h)
	if err != nil {
		cancel()
		b.Logger.Debug("the telemetry beside the commands was ended", "err", <-sending)
		return nil, err
	}
	if err := errors.Join(<-sending, err2, err3); err != nil {
		return nil, err
	}
	count := float64(took.Count())
	return []Value{
		{"rate", "/s", count / elapsed.Seconds()},
		{"commands", "", count},
		{"failed", "", float64(shooter.failed.Load())},
		{"p50", "ms", ms(took.Quantile(0.5))},
		{"p90", "ms", ms(took.Quantile(0.9))},
		{"p99", "ms", ms(took.Quantile(0.99))},
		{"p99.9", "ms", ms(took.Quantile(0.999))},
		{"max", "ms", ms(took.Max())},
		{"CPU of the hub", "%", 100 * (cpuAfter - cpu) / elapsed.Seconds()},
	}, nil
}

// shooter sends commands on a fixed schedule, whatever becomes of those before.
type shooter struct {
	door        *api
	credentials []sim.Credential
	next        int
	failed      atomic.Int64
	firstError  atomic.Pointer[error]
}

// shoot sends for d and waits for the answers; took may be nil.
func (s *shooter) shoot(ctx context.Context, rate float64, d time.Duration, took *sim.Histogram) error {
	runtime.LockOSThread() // this goroutine sleeps in the kernel
	defer runtime.UnlockOSThread()
	due := make(chan shot, commandsUnderWay)
	var shooting sync.WaitGroup
	for range commandsUnderWay {
		shooting.Go(func() {
			for shot := range due {
				s.fire(ctx, shot, took)
			}
		})
	}
	start := time.Now()
	total := int(rate * d.Seconds())
	var err error
	for i := range total {
		at := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if err = preciseSleep(ctx, at); err != nil {
			break
		}
		s.next = (s.next + 7919) % len(s.credentials) // a prime, so that neighbours in time are no neighbours in the list
		due <- shot{at: at, device: s.credentials[s.next].Name}
	}
	close(due)
	shooting.Wait()
	if err != nil {
		return err
	}
	if first := s.firstError.Load(); first != nil && s.failed.Load() > int64(total/100) {
		return fmt.Errorf("%d of %d commands failed; the first: %w", s.failed.Load(), total, *first)
	}
	return nil
}

// shot is one command to be sent.
type shot struct {
	at     time.Time
	device string
}

func (s *shooter) fire(ctx context.Context, shot shot, took *sim.Histogram) {
	err := s.ask(ctx, shot.device)
	if took != nil {
		took.Record(time.Since(shot.at))
	}
	if err != nil {
		s.failed.Add(1)
		s.firstError.CompareAndSwap(nil, &err)
	}
}

func (s *shooter) ask(ctx context.Context, device string) (err error) {
	resp, err := s.door.request(ctx, http.MethodPost, "/api/v1/devices/"+url.PathEscape(device)+"/commands?wait=30s", []byte(`{"command":"servo1","value":"90"}`))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if state := gjson.GetBytes(answer, "state").Str; state != string(signalbox.CommandSucceeded) {
		return fmt.Errorf("the hub answered %s: %s", resp.Status, answer)
	}
	return nil
}
