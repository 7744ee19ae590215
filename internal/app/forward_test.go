package app

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/forward"
	"signalbox/internal/ingest"
	"signalbox/internal/session"
)

// forwardHub is a hub that can be stopped before its test ends.
type forwardHub struct {
	*App
	t    *testing.T
	stop func()
}

func runForwardHub(t *testing.T, c Config, log *written) *forwardHub {
	t.Helper()
	a, err := Open(t.Context(), Options{Config: c, Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- a.Serve(ctx, func(map[string]string) { close(ready) }) }()
	h := &forwardHub{App: a, t: t}
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		closeApp(t, a)
	})
	t.Cleanup(h.stop)
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatalf("the hub does not serve: %s", log)
	}
	return h
}

// ask asks the API with full authority.
func (h *forwardHub) ask(method, path, body string) (status int, answer string) {
	h.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	h.LocalAPI().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

type silentConn struct{}

func (silentConn) Deliver(*signalbox.Command) error { return nil }
func (silentConn) End(string)                       {}

// report has a device send messages with the numbers from low to high-1, and waits for the disk.
func (h *forwardHub) report(name string, low, high int) {
	h.t.Helper()
	d := h.devices.Find(name)
	if d == nil {
		if status, answer := h.ask(http.MethodPost, "/api/v1/devices", `{"name":"`+name+`","type":"box"}`); status != http.StatusCreated {
			h.t.Fatalf("adding %s gave %d %s", name, status, answer)
		}
		d = h.devices.Find(name)
	}
	s := &session.Session{ID: h.sessions.NextID(), Device: d.ID, Protocol: signalbox.ProtocolV1, Conn: silentConn{}}
	if _, v := h.ingest.Connect(d, s, netip.MustParseAddr("127.0.0.1")); v != ingest.Stored {
		h.t.Fatalf("connect %s: verdict %v", name, v)
	}
	for n := low; n < high; n++ {
		if _, v := h.ingest.Telemetry(d, s.ID, &ingest.Message{Body: fmt.Appendf(nil, `{"type":"telemetry","n":%d}`, n)}); v != ingest.Stored {
			h.t.Fatalf("telemetry %d of %s: verdict %v", n, name, v)
		}
	}
	if err := h.log.Wait(h.t.Context(), h.log.Head()); err != nil {
		h.t.Fatal(err)
	}
}

// wait waits until a forwarder is as is wants it.
func (h *forwardHub) wait(name string, is func(s *forward.Status) bool) {
	h.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := h.forward.manager.Get(name)
		if err == nil && is(&s) {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("the forwarder stands as %+v, %v", s, err)
		}
		<-tick.C
	}
}

// receiver takes lines over TCP; with ack it answers with their cursors.
type receiver struct {
	t       *testing.T
	address string
	ack     bool
	mu      sync.Mutex
	got     []int // the numbers that were new, in their order
	seen    map[int]bool
	again   int // lines that came before
	fresh   chan struct{}
	listen  net.Listener
	conns   []net.Conn
	done    sync.WaitGroup
}

func newReceiver(t *testing.T, ack bool) *receiver {
	t.Helper()
	r := &receiver{t: t, address: lastingAddress(t), ack: ack, seen: map[int]bool{}, fresh: make(chan struct{}, 1)}
	r.open()
	t.Cleanup(r.close)
	return r
}

// lastingAddress gives an address that stays free while nobody listens: its port is below those
// that the system gives to whoever connects.
func lastingAddress(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	for range 100 {
		l, err := config.Listen(t.Context(), "tcp", fmt.Sprint("127.0.0.1:", 10_000+rand.IntN(5_000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

func (r *receiver) open() {
	r.t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(r.t.Context(), "tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.listen = l
	r.done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.conns = append(r.conns, conn)
			r.mu.Unlock()
			r.done.Go(func() { r.take(conn) })
		}
	})
}

func (r *receiver) take(conn net.Conn) {
	defer conn.Close()
	for in := bufio.NewScanner(conn); in.Scan(); {
		var line struct {
			Cursor string
			Object struct{ N int }
		}
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			r.t.Errorf("the line %s: %v", in.Text(), err)
			return
		}
		r.mu.Lock()
		if r.seen[line.Object.N] {
			r.again++
		} else {
			r.seen[line.Object.N] = true
			r.got = append(r.got, line.Object.N)
		}
		r.mu.Unlock()
		select {
		case r.fresh <- struct{}{}:
		default:
		}
		if r.ack {
			if _, err := conn.Write([]byte(line.Cursor + "\n")); err != nil {
				return
			}
		}
	}
}

// close ends the receiver; open begins anew on the same port.
func (r *receiver) close() {
	_ = r.listen.Close()
	r.mu.Lock()
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	r.done.Wait()
}

// wait waits for the numbers 0 to n-1, which came in their order.
func (r *receiver) wait(n int) {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		have := len(r.got)
		r.mu.Unlock()
		if have >= n {
			break
		}
		select {
		case <-r.fresh:
		case <-deadline:
			r.t.Fatalf("%d of %d messages came", have, n)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, number := range r.got {
		if i != number {
			r.t.Fatalf("message %d came in place %d", number, i)
		}
	}
}

func (c *Config) addForwarder(spec forward.Spec) {
	spec.Backoff = forward.Backoff{Min: 20 * time.Millisecond, Max: 200 * time.Millisecond}
	c.Forward.Forwarders = append(c.Forward.Forwarders, ForwarderConfig{Spec: spec})
}

// TestForwardWhole sends on what a device reports, with the receiver and the hub away in turns.
func TestForwardWhole(t *testing.T) {
	for _, ack := range []bool{true, false} {
		t.Run(fmt.Sprintf("ack %t", ack), func(t *testing.T) {
			r := newReceiver(t, ack)
			c := testConfig(t.TempDir())
			c.addForwarder(forward.Spec{Name: "site", To: "tcp://" + r.address, Ack: ack})
			var log written
			h := runForwardHub(t, c, &log)
			h.report("esp01", 0, 100)
			r.wait(100)
			h.stop() // in order

			h = runForwardHub(t, c, &log)
			h.report("esp01", 100, 150)
			r.wait(150)
			if ack {
				h.wait("site", func(s *forward.Status) bool { return s.Behind == 0 })
			}
			r.close() // the receiver is away
			h.report("esp01", 150, 250)
			h.wait("site", func(s *forward.Status) bool { return s.State == forward.StateWaiting && s.Fault != "" })
			if checks := h.forwardChecks(); len(checks) != 1 || !checks[0].OK || !strings.Contains(checks[0].Message, "site") {
				t.Errorf("/readyz says %+v", checks)
			}
			if status, answer := h.ask(http.MethodGet, "/metrics", ""); status != http.StatusOK || !strings.Contains(answer, `signalbox_forward_connected{name="site"} 0`) {
				t.Errorf("/metrics gives %d without the forwarder", status)
			}
			h.stop()

			r.open()
			h = runForwardHub(t, c, &log)
			r.wait(250)
			h.wait("site", func(s *forward.Status) bool { return s.State == forward.StateFlowing })
		})
	}
}

// TestForwardAllow: the API may not send to this machine unless forward.allow lists it.
func TestForwardAllow(t *testing.T) {
	r := newReceiver(t, true)
	var log written
	body := `{"name":"site","to":"tcp://` + r.address + `","ack":true,"backoff":{"min":"20ms"}}`
	c := testConfig(t.TempDir())
	h := runForwardHub(t, c, &log)
	if status, answer := h.ask(http.MethodPost, "/api/v1/forwarders", body); status != http.StatusForbidden || !strings.Contains(answer, "forward.allow") || !strings.Contains(answer, "loopback") {
		t.Fatalf("it gives %d %s", status, answer)
	}
	// A name leads there as well, which is seen when it is dialled.
	_, port, err := net.SplitHostPort(r.address)
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := h.ask(http.MethodPost, "/api/v1/forwarders", `{"name":"name","to":"tcp://localhost:`+port+`"}`); status == http.StatusCreated {
		h.report("esp01", 0, 1)
		h.wait("name", func(s *forward.Status) bool { return strings.Contains(s.Fault, "forward.allow") })
		if status, answer := h.ask(http.MethodDelete, "/api/v1/forwarders/name", ""); status != http.StatusNoContent {
			t.Errorf("removing gives %d %s", status, answer)
		}
	} else if status != http.StatusForbidden {
		t.Errorf("a name gives %d %s", status, answer)
	}
	h.stop()

	c.Forward.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	h = runForwardHub(t, c, &log)
	if status, answer := h.ask(http.MethodPost, "/api/v1/forwarders", body); status != http.StatusCreated {
		t.Fatalf("it gives %d %s", status, answer)
	}
	h.report("esp02", 0, 20)
	r.wait(20)
	h.stop()

	// It is there after a restart, and goes on.
	h = runForwardHub(t, c, &log)
	h.report("esp02", 20, 40)
	r.wait(40)
	h.stop()

	// Without the network in the list it is refused from then on.
	c.Forward.Allow = nil
	h = runForwardHub(t, c, &log)
	h.report("esp02", 40, 41)
	h.wait("site", func(s *forward.Status) bool { return strings.Contains(s.Fault, "forward.allow") })
	if status, answer := h.ask(http.MethodDelete, "/api/v1/forwarders/site", ""); status != http.StatusNoContent {
		t.Errorf("removing gives %d %s", status, answer)
	}
}

// TestForwardOnlyWhileServed: a hub that is open for one command sends nothing.
func TestForwardOnlyWhileServed(t *testing.T) {
	r := newReceiver(t, true)
	var log written
	c := testConfig(t.TempDir())
	c.addForwarder(forward.Spec{Name: "site", To: "tcp://" + r.address, Ack: true})
	a := open(t, c, &log)
	h := &forwardHub{App: a, t: t}
	h.report("esp01", 0, 10)
	if s, err := a.forward.manager.Get("site"); err != nil || s.Sent != 0 || len(r.got) != 0 {
		t.Errorf("a hub without doors has sent: %+v, %v", s, err)
	}
	closeApp(t, a)
	h = runForwardHub(t, c, &log)
	h.report("esp01", 10, 20)
	h.wait("site", func(s *forward.Status) bool { return s.Sent >= 10 })
}

// TestForwardSecrets looks for secrets wherever somebody could find them.
func TestForwardSecrets(t *testing.T) {
	answers := make(chan string, 1000)
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case answers <- r.Header.Get("Authorization") + " " + r.URL.RawQuery:
		default:
		}
		w.WriteHeader(http.StatusGone)
	}))
	t.Cleanup(target.Close)
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("s3cret-of-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadConfig(ConfigSources{File: writeConfig(t, `
forward:
  allow: [127.0.0.0/8]
  forwarders:
    - {name: filed, to: "`+away.URL+`/in?key=s3cret-in-url", bearer: s3cret-of-bearer, secret: s3cret-of-hmac, backoff: {min: 10ms, max: 50ms}}
    - {name: broker, to: "mqtt://127.0.0.1:1", topic: t, username: u, password_file: `+file+`, backoff: {min: 10ms, max: 50ms}}
`)})
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig(dir)
	c.Forward = loaded.Config.Forward
	var log written
	h := runForwardHub(t, c, &log)
	said := &strings.Builder{}
	ask := func(want int, method, path, body string) {
		t.Helper()
		status, answer := h.ask(method, path, body)
		if status != want {
			t.Errorf("%s %s gives %d %s", method, path, status, answer)
		}
		said.WriteString(answer)
	}
	const all = "/api/v1/forwarders"
	ask(http.StatusCreated, http.MethodPost, all, `{"name":"hook","to":"`+target.URL+`/in?key=s3cret-in-url","bearer":"s3cret-of-bearer","secret":"s3cret-of-hmac","backoff":{"min":"10ms"}}`)
	ask(http.StatusCreated, http.MethodPost, all, `{"name":"away","to":"`+away.URL+`/in?key=s3cret-in-url","username":"u","password":"s3cret-of-password","backoff":{"min":"10ms"}}`)
	h.report("esp01", 0, 3)
	h.wait("hook", func(s *forward.Status) bool { return s.Dead == 3 })
	if got := <-answers; got != "Bearer s3cret-of-bearer key=s3cret-in-url" {
		t.Errorf("the receiver got %q", got)
	}
	for _, name := range []string{"filed", "away", "broker"} {
		h.wait(name, func(s *forward.Status) bool { return s.Fault != "" })
	}
	ask(http.StatusOK, http.MethodPatch, all+"/away", `{"parallel":2}`)
	ask(http.StatusForbidden, http.MethodPatch, all+"/away", `{"to":"http://10.0.0.1/?key=s3cret-in-url","password":"s3cret-of-password"}`)
	ask(http.StatusBadRequest, http.MethodPatch, all+"/away", `{"to":"gopher://x/?key=s3cret-in-url"}`)
	ask(http.StatusForbidden, http.MethodPatch, all+"/filed", `{"secret":"s3cret-of-hmac"}`)
	ask(http.StatusForbidden, http.MethodPost, all, `{"name":"x","to":"http://10.0.0.1/?key=s3cret-in-url","bearer":"s3cret-of-bearer"}`)
	ask(http.StatusForbidden, http.MethodPost, all, `{"name":"x","to":"wss://example.org/","tls":{"key":"`+file+`"}}`)
	for _, path := range []string{all, all + "/hook", all + "/away", all + "/filed", all + "/broker", all + "/hook/dead-letters", "/metrics", "/readyz", "/openapi.json", "/api/v1/replays"} {
		ask(http.StatusOK, http.MethodGet, path, "")
	}
	said.WriteString(strings.Join(c.Changed(), "\n"))
	fmt.Fprint(said, log.String())
	h.stop()
	said.WriteString(log.String())
	for line := range strings.SplitSeq(said.String(), "\n") {
		if strings.Contains(line, "s3cret") {
			t.Errorf("a secret is shown: %.600s", line)
		}
	}
	// In the database they are encrypted; the URL is not.
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), "s3cret-of-") {
			t.Errorf("%s holds a secret as it is", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	// They are still there after a restart.
	for len(answers) > 0 {
		<-answers
	}
	h = runForwardHub(t, c, &log)
	h.report("esp01", 3, 4)
	select {
	case got := <-answers:
		if got != "Bearer s3cret-of-bearer key=s3cret-in-url" {
			t.Errorf("after a restart the receiver got %q", got)
		}
	case <-time.After(patience):
		t.Error("after a restart nothing came")
	}
}
