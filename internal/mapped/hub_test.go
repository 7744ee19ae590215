package mapped_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/mapped"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/store"
)

const patience = 60 * time.Second

// hub is a Map over real parts, but for the command road.
type hub struct {
	log      *history.Log
	devices  *registry.Registry
	sessions *session.Table
	road     *ingest.Road
	commands *commands
	link     *link
	m        *mapped.Map
}

// commands hears which sessions can be commanded.
type commands struct {
	mu      sync.Mutex
	online  []*session.Session
	answers []string
}

func (c *commands) Online(s *session.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.online = append(c.online, s)
}

func (c *commands) Ack(s *session.Session, id string) {
	c.answer(fmt.Sprint("ack ", s.Device, " ", id))
}

func (c *commands) Result(s *session.Session, id string, ok bool, value json.RawMessage, errText string) {
	c.answer(fmt.Sprint("result ", s.Device, " ", id, " ", ok, " ", string(value), " ", errText))
}

func (c *commands) answer(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers = append(c.answers, text)
}

func (c *commands) answered() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.answers)
}

func (*commands) Watching(signalbox.DeviceID) bool { return false }
func (*commands) Telemetry(*signalbox.Entry)       {}

func (c *commands) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.online)
}

// link is a broker that remembers what was published.
type link struct {
	mu   sync.Mutex
	sent []string
	err  error
}

func (l *link) Publish(topic string, payload []byte, qos uint8, retain bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.sent = append(l.sent, topic+" "+string(payload))
	}
	return l.err
}

func (l *link) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.sent, "\n")
}

// open makes a hub whose database is in dir.
func open(tb testing.TB, dir string, cfg mapped.Config) *hub {
	tb.Helper()
	h := openStill(tb, dir, cfg)
	run, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = h.log.Run(run, patience) })
	tb.Cleanup(func() { cancel(); parts.Wait() })
	return h
}

// openStill makes a hub whose log does not run: nothing is committed.
func openStill(tb testing.TB, dir string, cfg mapped.Config) *hub {
	tb.Helper()
	ctx := context.Background()
	st, err := store.Open(ctx, store.Config{Dir: dir})
	if err != nil {
		tb.Fatal(err)
	}
	h := &hub{sessions: session.New(), commands: &commands{}, link: &link{}}
	if h.log, err = history.Open(ctx, history.Config{}, st); err != nil {
		tb.Fatal(err)
	}
	h.devices = registry.New(st, nil)
	if err := h.devices.Load(ctx, h.log); err != nil {
		tb.Fatal(err)
	}
	h.road = ingest.New(ingest.Config{}, h.log, h.devices, h.sessions, h.commands)
	h.road.Begin()
	h.m, err = mapped.New(cfg, mapped.Parts{Devices: h.devices, Sessions: h.sessions, Road: h.road, Commands: h.commands, Log: h.log})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = st.Close() })
	if err := h.m.Prepare(ctx); err != nil {
		tb.Fatal(err)
	}
	return h
}

func (h *hub) run(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.m.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
}

// take presents a message and gives its verdict.
func (h *hub) take(topic, payload string) mapped.Verdict {
	return h.m.Take(&mapped.Taking{Topic: topic, Payload: []byte(payload), Link: h.link})
}

func (h *hub) want(tb testing.TB, topic, payload string, want mapped.Verdict) {
	tb.Helper()
	if got := h.take(topic, payload); got != want {
		tb.Fatalf("%s %q gave the verdict %d, want %d", topic, payload, got, want)
	}
}

func (h *hub) add(tb testing.TB, name string) *registry.Device {
	tb.Helper()
	d, err := h.devices.Add(tb.Context(), registry.NewDevice{Name: name, Type: "box"})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// wantState compares a device's presence and latest telemetry.
func (h *hub) wantState(tb testing.TB, device string, presence signalbox.Presence, telemetry string) {
	tb.Helper()
	d := h.devices.Find(device)
	if d == nil {
		tb.Fatalf("there is no device %q", device)
	}
	if s := d.StateView(); s.Presence != presence || string(s.Telemetry) != telemetry {
		tb.Errorf("%s is %s with %s, want %s with %s", device, s.Presence, s.Telemetry, presence, telemetry)
	}
}

// until waits for something that another goroutine does.
func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			tb.Fatalf("in vain: %s", what)
		}
	}
}

// entries reads the log's entries of a device from the beginning, as kind and body.
func (h *hub) entries(tb testing.TB, device signalbox.DeviceID) (all []string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	if err := h.log.Wait(ctx, h.log.Head()); err != nil {
		tb.Fatal(err)
	}
	err := h.log.Scan(ctx, 0, func(e *signalbox.Entry) error {
		if e.Device != device {
			return nil
		}
		text := e.Kind.String() + " " + string(e.Body)
		if e.Kind == signalbox.EntryPresence {
			var p signalbox.PresenceChange
			if err := json.Unmarshal(e.Body, &p); err != nil {
				return err
			}
			text = strings.TrimSpace(string(p.Presence) + " " + p.Reason)
		}
		all = append(all, text)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

var errAway = errors.New("the broker is away")
