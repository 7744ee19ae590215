package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/replay"
)

// newReplayHub is a hub that plays replays, with the devices esp01 and esp02 of type box and
// env01 of type sensor, each with n messages.
func newReplayHub(t *testing.T, n int) *hub {
	t.Helper()
	var manager *replay.Manager
	h := newHub(t, func(c *api.Config) {
		manager = replay.New(replay.Config{History: c.History.(replay.History), NameOf: directory{c.Devices}.NameOf, Hub: "hub1", Max: 4})
		c.Replays = manager
	})
	var boards []*board
	for name, kind := range map[string]string{"esp01": "box", "esp02": "box", "env01": "sensor"} {
		boards = append(boards, h.connect(t, h.add(t, name, kind), signalbox.ProtocolV1))
	}
	for i := range n {
		for _, b := range boards {
			b.report(t, fmt.Sprintf(`{"type":"telemetry","n":%d,"status":"<работает>"}`, i))
		}
	}
	return h
}

func (h *hub) startReplay(t *testing.T, body string) string {
	t.Helper()
	w := h.ask(http.MethodPost, "/api/v1/replays", body, "read", nil)
	var made struct{ ID, State string }
	if w.Code != http.StatusCreated || json.Unmarshal(w.Body.Bytes(), &made) != nil || made.State != "waiting" {
		t.Fatalf("starting %s gives %d %s", body, w.Code, w.Body)
	}
	if want := "/api/v1/replays/" + made.ID; w.Header().Get("Location") != want {
		t.Errorf("it is at %q, want %q", w.Header().Get("Location"), want)
	}
	return made.ID
}

// viewing reads a replay's stream over a real connection.
type viewing struct {
	t     *testing.T
	lines *bufio.Scanner
	stop  func()
}

func (h *hub) view(t *testing.T, server *httptest.Server, id, last string) *viewing {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/v1/replays/"+id+"/stream", nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+h.tokens["read"])
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	resp, err := server.Client().Do(r)
	must(t, err)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("the stream begins with %d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	v := &viewing{t: t, lines: bufio.NewScanner(resp.Body)}
	v.stop = func() {
		cancel()
		_ = resp.Body.Close()
	}
	t.Cleanup(v.stop)
	return v
}

// next gives the next event: its id and name, and its data.
func (v *viewing) next() (id, name string, data map[string]any) {
	v.t.Helper()
	for v.lines.Scan() {
		key, value, _ := strings.Cut(v.lines.Text(), ": ")
		switch key {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			must(v.t, json.Unmarshal([]byte(value), &data))
		case "":
			if data != nil {
				return id, name, data
			}
		}
	}
	v.t.Fatalf("the stream ended: %v", v.lines.Err())
	return "", "", nil
}

func (h *hub) serve(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(h.handler)
	t.Cleanup(server.Close)
	return server
}

func TestReplayStream(t *testing.T) {
	h := newReplayHub(t, 10)
	before := h.log.Head()
	play := func(body string) string {
		w := h.ask(http.MethodGet, "/api/v1/replays/"+h.startReplay(t, body)+"/stream", "", "read", nil)
		if w.Code != http.StatusOK {
			t.Fatalf("the stream gives %d %s", w.Code, w.Body)
		}
		return w.Body.String()
	}
	first := play(`{"speed":0}`)
	if n := strings.Count(first, "event: telemetry\n"); n != 30 {
		t.Errorf("%d messages are played, want 30: %s", n, first)
	}
	for _, want := range []string{"retry: 2000\n\nevent: replay\ndata: {\"kind\":\"replay\",\"state\":\"playing\",", `"hub":"hub1"`, `"reason":"done","sent":30,`, `"object":{"type":"telemetry","n":0,"status":"<работает>"}`, "id: 0-"} {
		if !strings.Contains(first, want) {
			t.Errorf("%q is not in %s", want, first)
		}
	}
	// Played again it is the same to the byte, but for the ID, which is as long.
	second := play(`{"speed":0}`)
	if strip(t, first) != strip(t, second) || len(first) != len(second) {
		t.Errorf("two replays differ:\n%s\n%s", first, second)
	}
	if n := strings.Count(play(`{"speed":1000000,"types":["box"]}`), "event: telemetry\n"); n != 20 {
		t.Errorf("%d messages of boxes are played, want 20", n)
	}
	if n := strings.Count(play(`{"speed":0,"types":["box"],"devices":["esp01","env01","esp01"]}`), `"device":"esp01"`); n != 10 {
		t.Errorf("%d messages of esp01 are played, want 10", n)
	}
	if got := play(`{"speed":0,"to":"2001-01-01T00:00:00Z"}`); strings.Contains(got, "telemetry") {
		t.Errorf("before the first message there was %s", got)
	}
	if after := h.log.Head(); after != before {
		t.Errorf("replays added %d entries to the log", after-before)
	}
}

// strip takes the IDs of replays out of a stream.
func strip(t *testing.T, stream string) string {
	t.Helper()
	_, rest, ok := strings.Cut(stream, `"replay":{"id":"`)
	id, _, more := strings.Cut(rest, `"`)
	if !ok || !more || id == "" {
		t.Fatalf("there is no mark in %s", stream)
	}
	for line := range strings.Lines(stream) {
		if strings.HasPrefix(line, "data: ") && !strings.Contains(line, `"replay":{"id":"`+id+`","hub":"hub1"}`) {
			t.Errorf("an event is not marked: %s", line)
		}
	}
	return strings.ReplaceAll(stream, id, "")
}

func TestReplayControl(t *testing.T) {
	h := newReplayHub(t, 5)
	server := h.serve(t)
	id := h.startReplay(t, `{"speed":0,"paused":true}`)
	url := "/api/v1/replays/" + id
	v := h.view(t, server, id, "")
	if _, name, data := v.next(); name != "replay" || data["state"] != "paused" {
		t.Fatalf("it begins with %s %v", name, data)
	}
	if w := h.ask(http.MethodPatch, url, `{"paused":false,"speed":0.001}`, "read", nil); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"state":"playing"`) {
		t.Fatalf("going on gives %d %s", w.Code, w.Body)
	}
	v.next()
	lastID, name, data := v.next()
	if name != "telemetry" || data["object"].(map[string]any)["n"] != 0.0 {
		t.Fatalf("it goes on with %s %v", name, data)
	}
	v.stop()

	// The next viewer goes on behind the first message, though there may have been more on the way.
	again := h.view(t, server, id, lastID)
	again.next()
	if w := h.ask(http.MethodPatch, url, `{"speed":0}`, "admin", nil); w.Code != http.StatusOK {
		t.Fatalf("another speed gives %d %s", w.Code, w.Body)
	}
	got := 0
	for {
		id, name, data := again.next()
		if name == "replay" {
			if data["state"] != "ended" || data["reason"] != "done" {
				t.Errorf("it ends with %v", data)
			}
			break
		}
		if got++; id == lastID {
			t.Errorf("the message %s came twice", id)
		}
	}
	if got != 14 {
		t.Errorf("behind the first message there came %d, want 14", got)
	}
	if w := h.ask(http.MethodGet, url, "", "read", nil); !strings.Contains(w.Body.String(), `"reason":"done"`) || !strings.Contains(w.Body.String(), `"created_by":"test-read"`) {
		t.Errorf("in the end it is %s", w.Body)
	}
	if w := h.ask(http.MethodGet, "/api/v1/replays", "", "read", nil); !strings.Contains(w.Body.String(), id) {
		t.Errorf("the list is %s", w.Body)
	}
	if w := h.ask(http.MethodDelete, url, "", "read", nil); w.Code != http.StatusNoContent {
		t.Errorf("taking it off the list gives %d %s", w.Code, w.Body)
	}
	if w := h.ask(http.MethodGet, url, "", "read", nil); w.Code != http.StatusNotFound {
		t.Errorf("then it is %d %s", w.Code, w.Body)
	}
}

func TestReplaySeekAndStop(t *testing.T) {
	h := newReplayHub(t, 0)
	for i := range 3 { // nobody waits for the second
		h.past(t, "esp01", noon.Add(time.Duration(i)*time.Hour), fmt.Sprintf(`{"n":%d}`, i))
	}
	server := h.serve(t)
	id := h.startReplay(t, `{"speed":0.001,"devices":["esp01"],"times":"shifted","pace":"time"}`)
	v := h.view(t, server, id, "")
	v.next()
	if _, _, data := v.next(); time.Since(stamp(t, data["time"])).Abs() > time.Hour {
		t.Errorf("the shifted time is %v", data["time"])
	}
	if w := h.ask(http.MethodPatch, "/api/v1/replays/"+id, `{"seek":"2001-01-01T00:00:00Z"}`, "read", nil); w.Code != http.StatusOK {
		t.Fatalf("moving gives %d %s", w.Code, w.Body)
	}
	if _, name, data := v.next(); name != "replay" || data["seeks"] != 1.0 {
		t.Errorf("after it was moved comes %s %v", name, data)
	}
	if id, _, data := v.next(); !strings.HasPrefix(id, "1-") || data["object"].(map[string]any)["n"] != 0.0 {
		t.Errorf("it goes on with %s %v", id, data)
	}
	if w := h.ask(http.MethodDelete, "/api/v1/replays/"+id, "", "read", nil); w.Code != http.StatusNoContent {
		t.Fatalf("stopping gives %d %s", w.Code, w.Body)
	}
	if _, name, data := v.next(); name != "replay" || data["reason"] != "stopped" {
		t.Errorf("it ends with %s %v", name, data)
	}
	if v.lines.Scan() && v.lines.Text() != "" || v.lines.Scan() {
		t.Errorf("behind the end comes %q", v.lines.Text())
	}
}

func stamp(t *testing.T, v any) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, v.(string))
	must(t, err)
	return at
}

func TestReplayRefuses(t *testing.T) {
	h := newReplayHub(t, 1)
	id := h.startReplay(t, `{}`)
	mine := h.ask(http.MethodPost, "/api/v1/replays", `{}`, "admin", nil)
	var other struct{ ID string }
	must(t, json.Unmarshal(mine.Body.Bytes(), &other))
	tests := []struct {
		name, method, url, body, as string
		header                      map[string]string
		status                      int
		want                        string
	}{
		{"nobody", http.MethodPost, "", `{}`, "", nil, 401, "unauthorized"},
		{"unknown device", http.MethodPost, "", `{"devices":["nobody"]}`, "read", nil, 404, "device_not_found"},
		{"unknown type", http.MethodPost, "", `{"types":["rocket"]}`, "read", nil, 404, "rocket"},
		{"no device of the type", http.MethodPost, "", `{"devices":["esp01"],"types":["sensor"]}`, "read", nil, 404, "no_devices"},
		{"from after to", http.MethodPost, "", `{"from":"2024-01-02T00:00:00Z","to":"2024-01-01T00:00:00Z"}`, "read", nil, 400, "is not before"},
		{"from in the future", http.MethodPost, "", `{"from":"2999-01-02T00:00:00Z"}`, "read", nil, 400, "is not before"},
		{"broken time", http.MethodPost, "", `{"from":"yesterday"}`, "read", nil, 400, "RFC 3339"},
		{"negative speed", http.MethodPost, "", `{"speed":-1}`, "read", nil, 400, "invalid_speed"},
		{"absurd speed", http.MethodPost, "", `{"speed":1e300}`, "read", nil, 400, "invalid_speed"},
		{"unknown times", http.MethodPost, "", `{"times":"other"}`, "read", nil, 400, "shifted"},
		{"unknown member", http.MethodPost, "", `{"spede":1}`, "read", nil, 400, "spede"},
		{"unknown replay", http.MethodGet, "/nothing", "", "read", nil, 404, "replay_not_found"},
		{"unknown stream", http.MethodGet, "/nothing/stream", "", "read", nil, 404, "replay_not_found"},
		{"broken event id", http.MethodGet, "/" + id + "/stream", "", "read", map[string]string{"Last-Event-ID": "abc"}, 400, "invalid_last_event_id"},
		{"bad change", http.MethodPatch, "/" + id, `{"speed":-2}`, "read", nil, 400, "invalid_speed"},
		{"bad seek", http.MethodPatch, "/" + id, `{"seek":"soon"}`, "read", nil, 400, "RFC 3339"},
		{"another's change", http.MethodPatch, "/" + other.ID, `{"paused":true}`, "read", nil, 403, "forbidden"},
		{"another's end", http.MethodDelete, "/" + other.ID, "", "command", nil, 403, "forbidden"},
		{"another's stream", http.MethodGet, "/" + other.ID + "/stream", "", "read", nil, 403, "forbidden"},
		{"the third", http.MethodPost, "", `{}`, "admin", nil, 201, "waiting"},
		{"the fourth", http.MethodPost, "", `{}`, "admin", nil, 201, "waiting"},
		{"one too many", http.MethodPost, "", `{}`, "admin", nil, 429, "too_many_replays"},
	}
	for _, tt := range tests {
		w := h.ask(tt.method, "/api/v1/replays"+tt.url, tt.body, tt.as, tt.header)
		if w.Code != tt.status || !bytes.Contains(w.Body.Bytes(), []byte(tt.want)) {
			t.Errorf("%s: %d %s, want %d with %q", tt.name, w.Code, w.Body, tt.status, tt.want)
		}
	}
}

// TestReplayEndsWithTheHub has a paused replay under a hub that stops.
func TestReplayEndsWithTheHub(t *testing.T) {
	h := newReplayHub(t, 1)
	v := h.view(t, h.serve(t), h.startReplay(t, `{"paused":true}`), "")
	v.next()
	close(h.stopping)
	for v.lines.Scan() {
		if text := v.lines.Text(); text != "" {
			t.Errorf("a hub that stops says %q", text)
		}
	}
}
