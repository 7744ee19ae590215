package api_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/api"
)

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

func TestTelemetry(t *testing.T) {
	h := newHub(t, nil)
	b := h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV1)
	b.report(t, `{"type":"telemetry","status":"работает","servo1":15.0,"pos":{"x":1,"y":"a,b"},"l":[1,2]}`)
	b.report(t, `{"type":"telemetry","servo1":90,"<k>":"\"q\"","pos":{"x":2},"null":null}`)
	b.report(t, `{"servo1":1e400}`)
	url := v1 + "/devices/esp01/telemetry"
	run(t, h, []scenario{
		{name: "newest first", method: "GET", url: url, as: "read", status: 200, want: []string{`"object":{"type":"telemetry","status":"работает","servo1":15.0,"pos":{"x":1,"y":"a,b"},"l":[1,2]}}]`, `{"servo1":1e400}`, `"<k>"`}, not: []string{`"next"`}},
		{name: "a page", method: "GET", url: url + "?limit=2", as: "read", status: 200, want: []string{`1e400`, `"next":"`}, not: []string{"работает"}},
		{name: "oldest first", method: "GET", url: url + "?limit=1&order=asc", as: "read", status: 200, want: []string{"работает"}, not: []string{"1e400"}},
		{name: "fields", method: "GET", url: url + "?fields=servo1,pos.x", as: "read", status: 200, want: []string{`"object":{"servo1":15.0,"pos.x":1}`, `"object":{"servo1":90,"pos.x":2}`, `"object":{"servo1":1e400}`}, not: []string{"status\":\"раб"}},
		{name: "NDJSON", method: "GET", url: url + "?format=ndjson&limit=1", as: "read", status: 200, want: []string{`"object":{"servo1":1e400}}` + "\n"}, heads: map[string]string{"Content-Type": "application/x-ndjson"}},
		{name: "CSV", method: "GET", url: url + "?format=csv&order=asc", as: "read", status: 200, want: []string{"time,received,position,<k>,l,null,pos.x,pos.y,servo1,status,type\n", `,"[1,2]",,1,"a,b",15.0,работает,telemetry` + "\n", `,"""q""",,,2,,90,,telemetry`}, heads: map[string]string{"Content-Type": "text/csv; charset=utf-8"}},
		{name: "CSV of a field", method: "GET", url: url + "?format=csv&fields=servo1", as: "read", status: 200, want: []string{"time,received,position,servo1\n"}},
		{name: "in the future", method: "GET", url: url + "?from=2999-01-01T00:00:00Z", as: "read", status: 200, want: []string{`"items":[]`}},
		{name: "in the past", method: "GET", url: url + "?to=1000", as: "read", status: 200, want: []string{`"items":[]`}},
		{name: "bad from", method: "GET", url: url + "?from=yesterday", as: "read", status: 400, want: []string{"invalid_from", "RFC 3339"}},
		{name: "from after to", method: "GET", url: url + "?from=2024-01-02T00:00:00Z&to=2024-01-01T00:00:00Z", as: "read", status: 400, want: []string{"invalid_range"}},
		{name: "limit", method: "GET", url: url + "?limit=10001", as: "read", status: 400},
		{name: "order", method: "GET", url: url + "?order=up", as: "read", status: 400},
		{name: "broken cursor", method: "GET", url: url + "?cursor=abc", as: "read", status: 400, want: []string{"invalid_cursor"}},
		{name: "unknown device", method: "GET", url: v1 + "/devices/x/telemetry", as: "read", status: 404},
		{name: "state", method: "GET", url: v1 + "/devices/esp01/state", as: "read", status: 200, want: []string{`"telemetry":{"servo1":1e400}`, `"status":"unknown"`}},
	})

	var seen []string
	cursor := ""
	for {
		w := h.ask("GET", url+"?limit=1&cursor="+cursor, "", "read", nil)
		var page struct {
			Items []struct{ Object json.RawMessage }
			Next  string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatal(err)
		}
		for _, i := range page.Items {
			seen = append(seen, string(i.Object))
		}
		if cursor = page.Next; cursor == "" {
			break
		}
		if w := h.ask("GET", url+"?order=asc&cursor="+cursor, "", "read", nil); w.Code != http.StatusBadRequest {
			t.Errorf("a cursor of the other order gave %d", w.Code)
		}
	}
	if len(seen) != 3 || seen[0] != `{"servo1":1e400}` {
		t.Errorf("paging gave %q", seen)
	}
}

// sent is a command in an answer.
type sent struct {
	ID, State, Device string
	Value             *string
	Settled           bool
	Result            json.RawMessage
}

func decode(t *testing.T, w *httptest.ResponseRecorder) (c sent) {
	t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return c
}

func TestCommands(t *testing.T) {
	h := newHub(t, nil)
	old := h.connect(t, h.add(t, "old", "box"), signalbox.ProtocolV1)
	board := h.connect(t, h.add(t, "new", "box"), signalbox.ProtocolV2)
	h.add(t, "away", "station")
	url := func(device string) string { return v1 + "/devices/" + device + "/commands" }

	for _, tt := range []struct{ value, want string }{{`"90"`, "90"}, {`90`, "90"}, {`1.50`, "1.50"}, {`1e3`, "1e3"}, {`true`, "true"}, {`""`, ""}} {
		w := h.ask("POST", url("old"), `{"command":"servo1","value":`+tt.value+`}`, "command", nil)
		if got := receive(t, old.delivered); w.Code != 201 || got.Value == nil || *got.Value != tt.want {
			t.Errorf("value %s: %d, delivered %v", tt.value, w.Code, got.Value)
		}
	}
	for _, body := range []string{`{"command":"restart"}`, `{"command":"restart","value":null}`} {
		w := h.ask("POST", url("old")+"?wait=5s", body, "command", nil)
		if got := receive(t, old.delivered); w.Code != 201 || got.Value != nil || !decode(t, w).Settled {
			t.Errorf("%s: %d %s, delivered %v", body, w.Code, w.Body, got.Value)
		}
	}

	answered := make(chan *httptest.ResponseRecorder, 1)
	go func() {
		answered <- h.ask("POST", url("new")+"?wait=30s", `{"command":"servo1","value":1}`, "command", nil)
	}()
	c := receive(t, board.delivered)
	h.commands.Ack(board.session, c.ID)
	h.commands.Result(board.session, c.ID, true, json.RawMessage(`{"angle":1}`), "")
	if w := receive(t, answered); w.Code != 201 || decode(t, w).State != "succeeded" || string(decode(t, w).Result) != `{"angle":1}` {
		t.Errorf("the result came as %d %s", w.Code, w.Body)
	}
	if w := h.ask("POST", url("new")+"?wait=20ms", `{"command":"slow"}`, "command", nil); w.Code != 202 || decode(t, w).State != "sent" {
		t.Errorf("a wait that is over gave %d %s", w.Code, w.Body)
	}

	key := map[string]string{"Idempotency-Key": "k1"}
	first := h.ask("POST", url("away"), `{"command":"servo1","value":1,"ttl":"1h"}`, "command", key)
	again := first
	for range 10_000 { // two requests of one millisecond are not told apart
		if again = h.ask("POST", url("away"), `{"command":"servo1","value":1,"ttl":"1h"}`, "command", key); again.Code != 201 {
			break
		}
	}
	if first.Code != 201 || again.Code != 200 || decode(t, first).ID != decode(t, again).ID {
		t.Errorf("the same key gave %d %s and %d %s", first.Code, first.Body, again.Code, again.Body)
	}
	id := decode(t, first).ID
	run(t, h, []scenario{
		{name: "key for something else", method: "POST", url: url("away"), body: `{"command":"servo2","ttl":"1h"}`, as: "command", header: key, status: 409, want: []string{"idempotency_mismatch"}},
		{name: "two keys", method: "POST", url: url("away"), body: `{"command":"servo2","idempotency_key":"k2"}`, as: "command", header: key, status: 400},
		{name: "offline", method: "POST", url: url("away"), body: `{"command":"servo1"}`, as: "command", status: 409, want: []string{"device_offline"}},
		{name: "unknown device", method: "POST", url: url("x"), body: `{"command":"servo1"}`, as: "command", status: 404, want: []string{"device_not_found"}},
		{name: "no name", method: "POST", url: url("away"), body: `{"value":"1"}`, as: "command", status: 400},
		{name: "an object as value", method: "POST", url: url("away"), body: `{"command":"x","value":{"a":1}}`, as: "command", status: 400, want: []string{"object or array"}},
		{name: "a bad ttl", method: "POST", url: url("away"), body: `{"command":"x","ttl":"soon"}`, as: "command", status: 400, want: []string{"soon"}},
		{name: "a ttl too long", method: "POST", url: url("away"), body: `{"command":"x","ttl":"31d"}`, as: "command", status: 400},
		{name: "a wait too long", method: "POST", url: url("old") + "?wait=61s", body: `{"command":"x"}`, as: "command", status: 400, want: []string{"invalid_wait"}},
		{name: "show", method: "GET", url: v1 + "/commands/" + id, as: "read", status: 200, want: []string{`"state":"queued"`, `"created_by":"test-command"`, `"expires_at":"`}},
		{name: "show and wait", method: "GET", url: v1 + "/commands/" + id + "?wait=10ms", as: "read", status: 200, want: []string{`"state":"queued"`}},
		{name: "show unknown", method: "GET", url: v1 + "/commands/00000000000000000000000000", as: "read", status: 404, want: []string{"command_not_found"}},
		{name: "cancel", method: "DELETE", url: v1 + "/commands/" + id, as: "command", status: 200, want: []string{`"state":"canceled"`}},
		{name: "cancel again", method: "DELETE", url: v1 + "/commands/" + id, as: "command", status: 409, want: []string{"already_ended"}},
		{name: "list of a device", method: "GET", url: url("away"), as: "read", status: 200, want: []string{id}, not: []string{`"next"`, "restart"}},
		{name: "list of all", method: "GET", url: v1 + "/commands?limit=2", as: "read", status: 200, want: []string{`"next":"`}},
		{name: "broken cursor", method: "GET", url: v1 + "/commands?cursor=%25", as: "read", status: 400, want: []string{"invalid_cursor"}},
		{name: "cursor of a device list", method: "GET", url: v1 + "/commands?cursor=ZGVzcDAx", as: "read", status: 400, want: []string{"invalid_cursor"}},
		{
			name: "bulk by name", method: "POST", url: v1 + "/commands", body: `{"command":"blink","value":2,"devices":["old","away","nobody"]}`, as: "command", status: 200,
			want: []string{`"accepted":1,"refused":2`, `{"device":"old","command":{"id":"`, `{"device":"away","code":"device_offline"`, `{"device":"nobody","code":"device_not_found"`},
		},
		{name: "bulk by type", method: "POST", url: v1 + "/commands", body: `{"command":"blink","type":"box"}`, as: "command", status: 200, want: []string{`"accepted":2,"refused":0`}},
		{name: "bulk to none", method: "POST", url: v1 + "/commands", body: `{"command":"blink"}`, as: "command", status: 400, want: []string{"invalid_devices"}},
		{name: "bulk to both", method: "POST", url: v1 + "/commands", body: `{"command":"blink","type":"box","devices":["old"]}`, as: "command", status: 400, want: []string{"invalid_devices"}},
	})
}

// TestBulkIsBounded: who may send commands cannot take the hub's memory with one of them.
func TestBulkIsBounded(t *testing.T) {
	h := newHub(t, func(c *api.Config) { c.MaxBody, c.MaxImport = 1000, 1<<20 })
	url := v1 + "/commands"
	names := func(n int) string { return `{"command":"x","devices":["a"` + strings.Repeat(`,"a"`, n-1) + `]}` }
	run(t, h, []scenario{
		{name: "longer than other bodies", method: "POST", url: url, body: names(1000), as: "command", status: 200, want: []string{`"refused":1000`}},
		{name: "too many devices", method: "POST", url: url, body: names(100_001), as: "command", status: 413, want: []string{"bulk_too_large", "100001 commands in one request; at most 100000"}, not: []string{"entries"}},
		{name: "too long", method: "POST", url: url, body: names(300_000), as: "command", status: 413, want: []string{"too_large", "1048576 bytes"}},
	})
	h = newHub(t, nil)
	r := h.request("POST", url, "{}", "command", nil)
	r.ContentLength = 16<<20 + 1
	w := newRecorder()
	if h.handler.ServeHTTP(w, r); w.Code != 413 || !strings.Contains(w.Body.String(), "16777216 bytes") {
		t.Errorf("more than 16 MiB: %d %s", w.Code, w.Body)
	}
}

func TestWaitEndsWithTheHub(t *testing.T) {
	h := newHub(t, nil)
	b := h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV2)
	answered := make(chan *httptest.ResponseRecorder, 1)
	go func() {
		answered <- h.ask("POST", v1+"/devices/esp01/commands?wait=60s", `{"command":"slow"}`, "command", nil)
	}()
	receive(t, b.delivered)
	close(h.stopping)
	if w := receive(t, answered); w.Code != http.StatusAccepted {
		t.Errorf("the wait ended with %d %s", w.Code, w.Body)
	}
}

// TestWaitOutlivesTheBodysDeadline: the time for sending a request is not the time for
// waiting on its answer.
func TestWaitOutlivesTheBodysDeadline(t *testing.T) {
	h := newHub(t, func(c *api.Config) { api.SetBodyPatience(c, 500*time.Millisecond) })
	h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV2)
	srv := httptest.NewServer(h.handler)
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+v1+"/devices/esp01/commands?wait=1s", strings.NewReader(`{"command":"slow"}`))
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+h.tokens["command"])
	start := time.Now()
	resp, err := srv.Client().Do(req)
	must(t, err)
	defer resp.Body.Close()
	if took := time.Since(start); resp.StatusCode != http.StatusAccepted || took < time.Second {
		t.Errorf("the wait ended with %d after %s", resp.StatusCode, took)
	}
}
