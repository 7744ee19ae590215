package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/bus"
	"signalbox/internal/history"
	"signalbox/internal/live"
	"signalbox/internal/store"
)

// streaming is the far end of a stream of Server-Sent Events.
type streaming struct {
	t     *testing.T
	resp  *http.Response
	lines chan string
}

// listen opens a stream and gives its lines.
func (h *hub) listen(t *testing.T, server *httptest.Server, query string, header ...string) *streaming {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+v1+"/stream?"+query, nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+h.tokens["read"])
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := server.Client().Do(req)
	must(t, err)
	s := &streaming{t: t, resp: resp, lines: make(chan string, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(s.lines)
		for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
			s.lines <- sc.Text()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = resp.Body.Close()
	})
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("the stream is %d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	s.expect("retry: 2000")
	s.expect("")
	return s
}

func (s *streaming) expect(line string) {
	s.t.Helper()
	if got := receive(s.t, s.lines); got != line {
		s.t.Fatalf("the stream says %q, want %q", got, line)
	}
}

// event gives the next event: its id, its name and its data.
func (s *streaming) event() (id, name, data string) {
	s.t.Helper()
	for {
		line := receive(s.t, s.lines)
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data = value
		case "":
			if data != "" {
				return id, name, data
			}
		}
	}
}

// want reads the next event, which must be of the kind and have the parts.
func (s *streaming) want(kind string, parts ...string) (id string) {
	s.t.Helper()
	id, name, data := s.event()
	if name != kind {
		s.t.Errorf("an event %s, want %s: %s", name, kind, data)
	}
	parts = append(parts, `{"kind":"`+kind+`"`)
	if id != "" {
		parts = append(parts, `"cursor":"`+id+`"`)
	}
	for _, p := range parts {
		if !strings.Contains(data, p) {
			s.t.Errorf("the event misses %s: %s", p, data)
		}
	}
	return id
}

func TestStream(t *testing.T) {
	h := newHub(t, nil)
	server := h.serve(t)
	d, other := h.add(t, "esp01", "box"), h.add(t, "esp02", "station")
	all := h.listen(t, server, "snapshot=false")
	boxes := h.listen(t, server, "type=box&kind=telemetry&snapshot=false")
	one := h.listen(t, server, "device=esp02&kind=telemetry&kind=presence&snapshot=false")
	fields := h.listen(t, server, "fields=b,c&snapshot=false&kind=telemetry")
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
		if got := all.resp.Header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	for _, s := range []*streaming{all, boxes, one, fields} {
		s.want("ready")
	}

	b := h.connect(t, d, signalbox.ProtocolV1)
	b.report(t, `{"a": 15.0,  "b":"<>"}`)
	h.connect(t, other, signalbox.ProtocolV1).report(t, `{"c":1}`)
	if w := h.ask("POST", v1+"/devices/esp01/commands", `{"command":"servo1","value":90}`, "command", nil); w.Code != 201 {
		t.Fatal(w.Body)
	}
	all.want("presence", `"device":"esp01"`, `"presence":{"presence":"online"`)
	missed := all.want("telemetry", `"object":{"a":15.0,"b":"<>"}`)
	all.want("presence", `"device":"esp02"`)
	all.want("telemetry", `"object":{"c":1}`)
	all.want("command", `"device":"esp01"`, `"command":{"id":"`, `"value":"90"`, `"state":"sent"`)
	boxes.want("telemetry", `"device":"esp01"`)
	one.want("presence", `"device":"esp02"`)
	one.want("telemetry", `"device":"esp02"`)
	fields.want("telemetry", `"object":{"b":"<>"}`)
	fields.want("telemetry", `"object":{"c":1}`)

	// Who comes back gets what was missed; the header counts before the parameter.
	for _, back := range []*streaming{
		h.listen(t, server, "cursor="+missed), h.listen(t, server, "", "Last-Event-ID", missed), h.listen(t, server, "cursor=nonsense-1", "Last-Event-ID", missed),
	} {
		back.want("presence", `"device":"esp02"`)
		back.want("telemetry", `"object":{"c":1}`)
		back.want("command", `"state":"sent"`)
		back.want("ready")
	}
	first := h.listen(t, server, "")
	for range 2 {
		first.want("state", `"state":{"device":"esp0`)
	}
	first.want("ready", `"devices":2`)

	close(h.stopping)
	for line := range all.lines {
		if line != "" {
			t.Errorf("something came after the end: %s", line)
		}
	}
}

// TestStreamHead holds that a question for the head alone is no viewer.
func TestStreamHead(t *testing.T) {
	h := newHub(t, nil)
	server := httptest.NewServer(h.handler)
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, server.URL+v1+"/stream", nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+h.tokens["read"])
	resp, err := server.Client().Do(req)
	must(t, err)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != http.MethodGet {
		t.Errorf("the answer is %s, allowed %q", resp.Status, resp.Header.Get("Allow"))
	}
}

func TestStreamRefusals(t *testing.T) {
	h := newHub(t, nil)
	h.add(t, "esp01", "box")
	url := v1 + "/stream"
	run(t, h, []scenario{
		{name: "unknown device", method: "GET", url: url + "?device=x", as: "read", status: 404, want: []string{"device_not_found"}},
		{name: "unknown kind", method: "GET", url: url + "?kind=rumour", as: "read", status: 400, want: []string{"allowed are telemetry, presence, command and alert"}},
		{name: "nobody", method: "GET", url: url, status: 401},
		{name: "many devices", method: "GET", url: url + "?device=esp01" + strings.Repeat("&device=esp01", 1000), as: "read", status: 400, want: []string{"invalid_device", "1001 names", "at most 1000"}},
		{name: "many types", method: "GET", url: url + "?type=box" + strings.Repeat("&type=box", 100), as: "read", status: 400, want: []string{"too_many_types", "101 types are named; a viewer may name 100 at most"}},
		{name: "a long type", method: "GET", url: url + "?type=" + strings.Repeat("x", 65), as: "read", status: 400, want: []string{"invalid_name", "65 characters; at most 64"}},
		{name: "too often", method: "GET", url: url + "?every=99ms", as: "read", status: 400, want: []string{"invalid_every", "100ms to 1h"}},
		{name: "too seldom", method: "GET", url: url + "?every=61m", as: "read", status: 400, want: []string{"invalid_every"}},
		{name: "no time", method: "GET", url: url + "?every=soon", as: "read", status: 400, want: []string{"invalid_every"}},
		{name: "no truth", method: "GET", url: url + "?snapshot=maybe", as: "read", status: 400},
		{name: "no every", method: "GET", url: url + "?every=", as: "read", status: 400, want: []string{"every is empty"}},
		{name: "no fields", method: "GET", url: url + "?fields=", as: "read", status: 400, want: []string{"fields is empty"}},
		{name: "no type", method: "GET", url: url + "?type=box&type=", as: "read", status: 400, want: []string{"type is empty"}},
		{name: "no device", method: "GET", url: url + "?device=", as: "read", status: 400, want: []string{"device is empty"}},
		{name: "a path with an empty part", method: "GET", url: url + "?fields=a..b", as: "read", status: 400, want: []string{"invalid_fields", "empty part"}},
		{name: "no truth", method: "GET", url: url + "?snapshot=maybe", as: "read", status: 400, want: []string{"snapshot is \\\"maybe\\\"; allowed are true and false"}},
		{name: "empty field", method: "GET", url: url + "?fields=a,,b", as: "read", status: 400, want: []string{"invalid_fields"}},
		{name: "broken cursor", method: "GET", url: url + "?cursor=7", as: "read", status: 400, want: []string{"invalid_cursor"}},
		{name: "broken Last-Event-ID", method: "GET", url: url, as: "read", header: map[string]string{"Last-Event-ID": "7"}, status: 400, want: []string{"invalid_cursor"}},
		{name: "token in the address", method: "GET", url: url + "?access_token=sbx_abc", status: 400, want: []string{"token_in_address", "Authorization: Bearer"}, not: []string{"sbx_abc"}},
		{name: "the same for a replay", method: "GET", url: v1 + "/stream?token=sbx_abc", as: "read", status: 400, want: []string{"token_in_address"}},
		{name: "wrong method", method: "POST", url: url, as: "read", status: 405},
	})
}

// TestStreamTranscripts holds both transports to what is written down, byte by byte but for times
// and the epoch of cursors.
func TestStreamTranscripts(t *testing.T) {
	h := newHub(t, nil)
	server := h.serve(t)
	d := h.add(t, "esp01", "box")
	b := h.connect(t, d, signalbox.ProtocolV2)
	b.report(t, `{"type":"telemetry","seq":1,"temp":15.0,"имя":"датчик"}`)
	sse, frames := h.listen(t, server, ""), h.socket(t, server, v1+"/stream", nil)
	var lines, texts strings.Builder
	read := func(events int) {
		t.Helper()
		for range events {
			texts.WriteString(frames.text() + "\n")
			for line := "…"; line != ""; {
				line = receive(t, sse.lines)
				lines.WriteString(line + "\n")
			}
		}
	}
	read(2) // the snapshot is made while it is taken
	b.report(t, `{"type":"telemetry","seq":2,"temp":15.5}`)
	if w := h.ask("POST", v1+"/devices/esp01/commands", `{"command":"servo1","value":90}`, "command", nil); w.Code != 201 {
		t.Fatal(w.Body)
	}
	read(2)
	text := "Server-Sent Events\n" + lines.String() + "WebSocket\n" + texts.String()
	for pattern, by := range map[string]string{
		`"(received|time|since|created_at|sent_at|[a-z]+_at)":"[^"]*"`: `"$1":"TIME"`,
		`(id: |"cursor":")[0-9a-z]+-`:                                  `${1}EPOCH-`,
		`"id":"[^"]*"`:                                                 `"id":"ID"`,
	} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, by)
	}
	file := filepath.Join("testdata", "stream.golden")
	if os.Getenv("SIGNALBOX_WRITE_GOLDEN") != "" {
		must(t, os.WriteFile(file, []byte(text), 0o600))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if text != string(want) {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

// TestStreamEndsWithItsCredential: who is revoked hears no more.
func TestStreamEndsWithItsCredential(t *testing.T) {
	h := newHub(t, func(c *api.Config) { api.SetHeartbeat(c, 20*time.Millisecond) })
	server := h.serve(t)
	s, k := h.listen(t, server, "snapshot=false"), h.socket(t, server, v1+"/stream?snapshot=false", nil)
	s.want("ready")
	s.expect(": still here")
	k.text()
	must(t, h.people.RevokeToken(t.Context(), "test-read"))
	if code, reason := k.closed(); code != 1008 || reason != "the credential has ended" {
		t.Errorf("closed with %d %s", code, reason)
	}
	for deadline := time.After(patience); ; {
		select {
		case _, more := <-s.lines:
			if !more {
				if n := h.streams.Dismissed.Load(); n != 2 {
					t.Errorf("%d viewers were dismissed", n)
				}
				return
			}
		case <-deadline:
			t.Fatal("the stream goes on without a credential")
		}
	}
}

// brokenLog is a log that cannot be read.
type brokenLog struct{ *history.Log }

func (brokenLog) Since(context.Context, history.SinceQuery, func(*signalbox.Entry) error) error {
	return errBroken
}

// TestStreamBreaksDown: where the hub is at fault its log says so, on both transports.
func TestStreamBreaksDown(t *testing.T) {
	var log written
	h := newHub(t, func(c *api.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		c.Live = live.New(live.Config{}, live.Parts{Log: brokenLog{c.History.(*history.Log)}, Bus: &bus.Bus{}, Devices: c.Devices, Command: api.CommandEvent})
	})
	server := h.serve(t)
	b := h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV1)
	b.report(t, `{}`)
	after := string(h.log.AppendCursor(nil, 1))
	if code, reason := h.socket(t, server, v1+"/stream?cursor="+after, nil).closed(); code != 1011 || strings.Contains(reason, "disk") {
		t.Errorf("closed with %d %s", code, reason)
	}
	within(t, "the log tells of one", func() bool { return strings.Count(log.String(), "a stream broke down") == 1 })
	s := h.listen(t, server, "cursor="+after)
	for line := range s.lines {
		t.Errorf("something came: %s", line)
	}
	within(t, "the log tells of both", func() bool { return strings.Count(log.String(), `msg="a stream broke down"`) == 2 })
	if !strings.Contains(log.String(), errBroken.Error()) {
		t.Errorf("the log does not say why: %s", log.String())
	}
}

// written is what was written, by whoever it was.
type written struct {
	mu   sync.Mutex
	text strings.Builder
}

func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// TestStreamOverHTTP2 listens over HTTP/2 with TLS.
func TestStreamOverHTTP2(t *testing.T) {
	h := newHub(t, nil)
	server := httptest.NewUnstartedServer(h.handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	s := h.listen(t, server, "snapshot=false")
	if s.resp.ProtoMajor != 2 {
		t.Errorf("it is %s", s.resp.Proto)
	}
	s.want("ready")
	h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV1).report(t, `{"a":1}`)
	s.want("presence")
	s.want("telemetry", `"object":{"a":1}`)
	close(h.stopping)
	for range s.lines {
	}
}

// smallBuffers makes a server whose connections hold little in the system.
func (h *hub) smallBuffers(t *testing.T, handler http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		_ = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
		return ctx
	}
	server.Start()
	t.Cleanup(server.Close)
	return server
}

// TestStreamStuck: a viewer that takes nothing is cut and counted, on both transports, and the
// others do not notice.
func TestStreamStuck(t *testing.T) {
	h := newHub(t, func(c *api.Config) { api.SetWritePatience(c, 1500*time.Millisecond) })
	server := h.smallBuffers(t, h.handler)
	b := h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV1)
	other := h.listen(t, server, "kind=presence")
	for _, upgrade := range []string{"", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		must(t, err)
		defer conn.Close()
		must(t, conn.(*net.TCPConn).SetReadBuffer(4<<10))
		_, err = conn.Write([]byte("GET " + v1 + "/stream HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer " + h.tokens["read"] + "\r\n" + upgrade + "\r\n"))
		must(t, err)
	}
	within(t, "both watch", func() bool { return h.live.Stats().Viewers.Load() == 3 })
	object := `{"text":"` + strings.Repeat("x", 32<<10) + `"}`
	within(t, "both are cut", func() bool {
		b.report(t, object)
		return h.streams.Stuck.Load() == 2
	})
	within(t, "both have left", func() bool { return h.live.Stats().Viewers.Load() == 1 })
	other.want("state")
	other.want("ready")
	h.connect(t, b.device, signalbox.ProtocolV1)
	other.want("presence")
}

// within asks until ok, for a while.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("it did not come true that %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// TestStreamComings has many viewers that come and go.
func TestStreamComings(t *testing.T) {
	h := newHub(t, nil)
	server := h.serve(t)
	b := h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV1)
	done := make(chan error, 16)
	for n := range cap(done) {
		go func() { done <- h.comeAndGo(t.Context(), server, n%2 == 0, 20) }()
	}
	for range cap(done) {
		b.report(t, `{"a":1}`)
		must(t, receive(t, done))
	}
	within(t, "all have left", func() bool { return h.live.Stats().Viewers.Load() == 0 && h.live.Stats().Groups.Load() == 0 })
	h.sockets.Wait()
}

// TestStreamTooMany: one token or user cannot take all places, and is told why; the hub's own
// machine has what is left.
func TestStreamTooMany(t *testing.T) {
	h := newHubFor(t, store.Config{Dir: t.TempDir()}, history.Config{}, live.Config{Viewers: 6, PerUser: 2}, nil)
	server := h.serve(t)
	refused := func(as, code string, words ...string) {
		t.Helper()
		for _, upgrade := range []map[string]string{nil, upgradeHeader()} {
			if upgrade != nil && strings.HasPrefix(as, "cookie:") {
				upgrade["Origin"] = "http://example.com"
			}
			w := h.ask("GET", v1+"/stream", "", as, upgrade)
			if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
				t.Errorf("%s: one too many got %d %s", as, w.Code, w.Body)
			}
			for _, part := range append(words, `"code":"`+code+`"`) {
				if !strings.Contains(w.Body.String(), part) {
					t.Errorf("%s: the refusal misses %s: %s", as, part, w.Body)
				}
			}
		}
	}
	person := h.login(t)
	again := h.login(t)
	for range 2 {
		h.listen(t, server, "kind=alert")
		h.listen(t, server, "kind=alert", "Authorization", "", "Cookie", api.CookieName+"="+person)
	}
	refused("read", "too_many_own_viewers", `the token \"test-read\" watches 2 times already`, "live.viewers_per_user")
	refused("cookie:"+again, "too_many_own_viewers", `the user \"admin\" watches 2 times already`)
	near := httptest.NewServer(api.Local(h.handler))
	t.Cleanup(near.Close)
	for range 2 {
		h.listen(t, near, "kind=alert")
	}
	refused("local", "too_many_viewers", "6 viewers watch already", "live.viewers")
	refused("command", "too_many_viewers")
	if s := h.live.Stats(); s.RefusedPerUser.Load() != 4 || s.Refused.Load() != 4 {
		t.Errorf("%d and %d refusals are counted", s.RefusedPerUser.Load(), s.Refused.Load())
	}
}

// TestStreamDescribed: the description of the API has both transports and all that an event has.
func TestStreamDescribed(t *testing.T) {
	h := newHub(t, func(c *api.Config) { c.PublicDocs = true })
	w := h.ask("GET", "/openapi.json", "", "read", nil)
	var doc struct {
		Paths map[string]struct {
			Get struct {
				Parameters []struct{ Name string }
				Responses  map[string]json.RawMessage
			}
		}
		Components struct{ Schemas map[string]json.RawMessage }
	}
	must(t, json.Unmarshal(w.Body.Bytes(), &doc))
	stream := doc.Paths["/api/v1/stream"].Get
	var names []string
	for _, p := range stream.Parameters {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != "device type kind fields every cursor Last-Event-ID snapshot" {
		t.Errorf("parameters: %s", got)
	}
	for _, status := range []string{"101", "200", "426", "default"} {
		if stream.Responses[status] == nil {
			t.Errorf("no answer %s is described", status)
		}
	}
	for _, member := range []string{"cursor", "state", "missed", "until", "reason", "presence", "command"} {
		if !strings.Contains(string(doc.Components.Schemas["StreamEvent"]), `"`+member+`"`) {
			t.Errorf("%s is not described", member)
		}
	}
}
