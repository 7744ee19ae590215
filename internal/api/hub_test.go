package api_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/auth"
	"signalbox/internal/bus"
	"signalbox/internal/command"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/live"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/store"
)

// hub is a hub without doors for devices: real parts over a database in a temporary
// directory, and the API.
type hub struct {
	handler  http.Handler
	gate     *api.Gate
	people   *auth.People
	keys     *auth.Keys
	devices  *registry.Registry
	sessions *session.Table
	commands *command.Road
	ingest   *ingest.Road
	log      *history.Log
	live     *live.Hub
	streams  api.StreamStats
	sockets  sync.WaitGroup
	stopping chan struct{}
	// tokens by scope
	tokens map[signalbox.Scope]string
}

const adminPassword = "correct horse"

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

// newHub starts a hub; change may alter the API's configuration.
func newHub(t testing.TB, change func(*api.Config)) *hub {
	t.Helper()
	return newHubOn(t, store.Config{Dir: t.TempDir()}, history.Config{}, change)
}

// newHubOn is newHub on a database, with a log of one's own.
func newHubOn(t testing.TB, where store.Config, past history.Config, change func(*api.Config)) *hub {
	t.Helper()
	return newHubFor(t, where, past, live.Config{Viewers: 1000, PerUser: 1000}, change)
}

// newHubFor is newHubOn with limits for viewers.
func newHubFor(t testing.TB, where store.Config, past history.Config, viewers live.Config, change func(*api.Config)) *hub {
	t.Helper()
	ctx := context.Background()
	logger := slog.New(slog.DiscardHandler)
	where.Logger = logger
	st, err := store.Open(ctx, where)
	must(t, err)
	h := &hub{sessions: session.New(), stopping: make(chan struct{}), tokens: map[signalbox.Scope]string{}}
	h.keys, err = auth.OpenKeys(filepath.Join(t.TempDir(), "secret.key"))
	must(t, err)
	events := &bus.Bus{}
	past.Announce, past.Logger = events.Publish, logger
	h.log, err = history.Open(ctx, past, st)
	must(t, err)
	h.devices = registry.New(st, logger)
	must(t, h.devices.Load(ctx, h.log))
	h.people, err = auth.NewPeople(ctx, auth.PeopleConfig{
		Store: st, Passwords: auth.NewPasswords(4, 0), Logger: logger,
		Backoff: auth.NewBackoff(auth.BackoffConfig{Base: time.Hour, Max: time.Hour}), // no test is so slow that a wait is over
	})
	must(t, err)
	h.commands = command.New(command.Config{}, h.log, st, h.sessions, directory{h.devices}, logger)
	must(t, h.commands.Load(ctx))
	h.ingest = ingest.New(ingest.Config{Logger: logger}, h.log, h.devices, h.sessions, h.commands)

	viewers.Logger = logger
	h.live = live.New(viewers, live.Parts{Log: h.log, Bus: events, Devices: h.devices, Command: api.CommandEvent})

	logCtx, endLog := context.WithCancel(ctx)
	roadCtx, endRoad := context.WithCancel(ctx)
	var logDone, roadDone sync.WaitGroup
	logDone.Go(func() { _ = h.log.Run(logCtx, patience) })
	roadDone.Go(func() { _ = h.commands.Run(roadCtx) })
	roadDone.Go(func() { _ = h.live.Run(roadCtx) })
	t.Cleanup(func() {
		endRoad()
		roadDone.Wait()
		endLog()
		logDone.Wait()
		must(t, st.Close())
	})

	_, err = h.people.AddUser(ctx, "admin", adminPassword)
	must(t, err)
	for _, scope := range []signalbox.Scope{signalbox.ScopeRead, signalbox.ScopeCommand, signalbox.ScopeAdmin} {
		secret, _, err := h.people.CreateToken(ctx, "test-"+string(scope), scope, time.Time{}, "test")
		must(t, err)
		h.tokens[scope] = secret
	}
	h.gate = api.NewGate(h.people, []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")})
	cfg := api.Config{
		Gate: h.gate, People: h.people, Keys: h.keys, Devices: h.devices, Sessions: h.sessions, Live: h.live, Sockets: &h.sockets, Streams: &h.streams, History: h.log, Archive: h.log,
		Commands: h.commands, Gatherer: prometheus.NewRegistry(), Version: "test", Stopping: h.stopping, Logger: logger,
	}
	// Whoever reads a stream hears what the test makes happen, at its own pace.
	api.SetHeartbeat(&cfg, time.Hour)
	api.SetSilence(&cfg, time.Hour)
	api.SetHaste(&cfg, patience)
	if change != nil {
		change(&cfg)
	}
	h.handler = api.New(cfg)
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type directory struct{ devices *registry.Registry }

func (d directory) Find(name string) (signalbox.DeviceID, bool) {
	if v := d.devices.Find(name); v != nil {
		return v.ID, true
	}
	return 0, false
}

func (d directory) NameOf(id signalbox.DeviceID) string {
	if v := d.devices.Get(id); v != nil {
		return v.Name
	}
	return ""
}

func (d directory) Disabled(id signalbox.DeviceID) bool {
	v := d.devices.Get(id)
	return v == nil || v.Disabled()
}

func (d directory) LatestObject(id signalbox.DeviceID) []byte {
	if v := d.devices.Get(id); v != nil {
		return v.LatestObject()
	}
	return nil
}

// board is a connected device.
type board struct {
	hub       *hub
	device    *registry.Device
	session   *session.Session
	delivered chan signalbox.Command
	ended     chan string
}

func (b *board) Deliver(c *signalbox.Command) error {
	b.delivered <- *c
	return nil
}

func (b *board) End(reason string) { b.ended <- reason }

func (h *hub) add(t testing.TB, name, kind string) *registry.Device {
	t.Helper()
	sum, err := h.keys.HashChosen("1234")
	must(t, err)
	d, err := h.devices.Add(context.Background(), registry.NewDevice{Name: name, Type: kind, Secret: store.Secret{Kind: auth.SecretChosen, Sum: sum}})
	must(t, err)
	return d
}

// connect brings a device online.
func (h *hub) connect(t testing.TB, d *registry.Device, p signalbox.Protocol) *board {
	t.Helper()
	b := &board{hub: h, device: d, delivered: make(chan signalbox.Command, 16), ended: make(chan string, 4)}
	b.session = &session.Session{ID: h.sessions.NextID(), Device: d.ID, Protocol: p, Conn: b}
	if _, v := h.ingest.Connect(d, b.session, netip.MustParseAddr("127.0.0.1")); v != ingest.Stored {
		t.Fatalf("connect %s: verdict %v", d.Name, v)
	}
	h.commands.Online(b.session)
	return b
}

func (b *board) report(t testing.TB, object string) {
	t.Helper()
	if _, v := b.hub.ingest.Telemetry(b.device, b.session.ID, &ingest.Message{Body: []byte(object)}); v != ingest.Stored {
		t.Fatalf("telemetry: verdict %v", v)
	}
	must(t, b.hub.log.Wait(context.Background(), b.hub.log.Head()))
}

// receive waits for what a board or a test was promised.
func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came within", patience)
		panic("unreachable")
	}
}

// as names the credential of a request: "", a scope, "local", or a cookie «cookie:…».
func (h *hub) request(method, url, body, as string, header map[string]string) *http.Request {
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, url, in)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if secret, ok := strings.CutPrefix(as, "cookie:"); ok {
		r.AddCookie(&http.Cookie{Name: api.CookieName, Value: secret})
	} else if token, ok := h.tokens[signalbox.Scope(as)]; ok {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for k, v := range header {
		if k == "RemoteAddr" {
			r.RemoteAddr = v
			continue
		}
		if k == "Host" {
			r.Host = v
			continue
		}
		r.Header.Set(k, v)
	}
	return r
}

func (h *hub) ask(method, url, body, as string, header map[string]string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	handler := h.handler
	if as == "local" {
		handler = api.Local(handler)
	}
	handler.ServeHTTP(w, h.request(method, url, body, as, header))
	return w
}
