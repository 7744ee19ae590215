package remote

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/mapped"
	"signalbox/internal/remote/mosquittotest"
	"signalbox/internal/store"
)

// wait bounds everything that a test waits for.
const wait = time.Minute

// versions are those with a library each.
func versions() []Version { return []Version{V5, V311} }

// eventually waits until ok says so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-poll.C:
		case <-deadline.C:
			t.Fatalf("after %s still not: %s", wait, what)
		}
	}
}

// hub is a link with a real log, and a taker that keeps what it gets as telemetry of device 1.
type hub struct {
	t      *testing.T
	log    *history.Log
	link   *Link
	logged *lockedBuffer

	mu       sync.Mutex
	got      []string // "topic payload", in order
	retained int
	answer   mapped.Verdict // instead of taking; Taken: take
	asked    int
	afresh   int

	leave   func() // ends the link
	stopLog func()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newHub makes a hub whose log does not run and whose link is not joined.
func newHub(t *testing.T, cfg Config) *hub {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	log, err := history.Open(t.Context(), history.Config{}, st)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Restore(t.Context(), 0, func(*signalbox.Entry) error { return nil }); err != nil {
		t.Fatal(err)
	}
	h := &hub{t: t, log: log, answer: mapped.Taken, logged: &lockedBuffer{}, leave: func() {}, stopLog: func() {}}
	logger := slog.New(slog.NewTextHandler(h.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.link, err = New(cfg, Parts{Taker: h, Log: log, Identity: "test", Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.leave()
		h.stopLog()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the link logged:\n%s", h.logged)
		}
	})
	return h
}

// run lets the log commit.
func (h *hub) run() *hub {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.log.Run(ctx, time.Second); err != nil {
			h.t.Error(err)
		}
	}()
	h.stopLog = func() { cancel(); <-done }
	return h
}

// join lets the link run.
func (h *hub) join() *hub {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.link.Run(ctx); err != nil {
			h.t.Error(err)
		}
	}()
	h.leave = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(wait):
			h.t.Error("the link does not end")
		}
	}
	return h
}

// joined waits for the connection and its subscriptions.
func (h *hub) joined(b *mosquittotest.Broker, subscriptions int) *hub {
	h.t.Helper()
	eventually(h.t, "joined", func() bool { return h.link.Status().Connected })
	eventually(h.t, "subscribed", func() bool {
		return bytes.Count([]byte(b.Log()), []byte("Sending SUBACK to "+h.link.cfg.ClientID)) >= subscriptions
	})
	return h
}

// Take implements Taker.
func (h *hub) Take(t *mapped.Taking) mapped.Verdict {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	if h.answer != mapped.Taken {
		return h.answer
	}
	e := signalbox.Entry{Device: 1, Kind: signalbox.EntryTelemetry, Body: []byte(`{"temp":"` + string(t.Payload) + `"}`)}
	if err := h.log.Append(&e, history.Acked); err != nil {
		if errors.Is(err, history.ErrFull) {
			return mapped.Later
		}
		return mapped.Stopping
	}
	t.Position = e.Position
	h.got = append(h.got, t.Topic+" "+string(t.Payload))
	if t.Retained {
		h.retained++
	}
	return mapped.Taken
}

// Returned implements Taker.
func (h *hub) Returned(mapped.Link, bool) {}

// Afresh implements Taker.
func (h *hub) Afresh() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.afresh++
}

func (h *hub) answers(v mapped.Verdict) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = v
}

func (h *hub) messages() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got)
}

// has waits until as many messages were taken, and gives them.
func (h *hub) has(n int) []string {
	h.t.Helper()
	eventually(h.t, "the messages are taken", func() bool { return len(h.messages()) >= n })
	return h.messages()
}

// acked waits until as many acknowledgements were given.
func (h *hub) acked(n int64) {
	h.t.Helper()
	eventually(h.t, "the messages are acknowledged", func() bool { return h.link.stats.Acked.Load() >= n })
}

// config is that of a link to b.
func config(b *mosquittotest.Broker, v Version) Config {
	return Config{
		Name: "site", URL: "mqtt://" + b.Address, Version: v, QoS: 1, KeepAlive: time.Minute,
		BackoffMin: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond,
		Topics: []mapped.Mapping{{Filter: "Environ/Temperature", Device: "env01", Field: "temp", Format: mapped.FormatNumber}},
	}
}

// outsider is a client of the broker that has nothing to do with the hub.
type outsider struct {
	t *testing.T
	mqtt.Client
}

func newOutsider(t *testing.T, b *mosquittotest.Broker, user, password string) *outsider {
	t.Helper()
	o := mqtt.NewClientOptions().AddBroker("tcp://" + b.Address).SetUsername(user).SetPassword(password).SetAutoReconnect(false)
	c := &outsider{t: t, Client: mqtt.NewClient(o)}
	c.done(c.Connect())
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func (c *outsider) done(token mqtt.Token) {
	c.t.Helper()
	if !token.WaitTimeout(wait) {
		c.t.Fatal("the broker does not answer")
	}
	if err := token.Error(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *outsider) publish(topic, payload string, qos byte) {
	c.t.Helper()
	c.done(c.Publish(topic, qos, false, payload))
}

// hear gives what is published to a filter.
func (c *outsider) hear(filter string) <-chan string {
	c.t.Helper()
	heard := make(chan string, 100)
	c.done(c.Subscribe(filter, 1, func(_ mqtt.Client, m mqtt.Message) { heard <- m.Topic() + " " + string(m.Payload()) }))
	return heard
}

func next(t *testing.T, from <-chan string) string {
	t.Helper()
	select {
	case s := <-from:
		return s
	case <-time.After(wait):
		t.Fatal("nothing came")
		return ""
	}
}
