package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/api"
)

func TestExport(t *testing.T) {
	h := newHub(t, nil)
	first := h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV1)
	second := h.connect(t, h.add(t, "st01", "station"), signalbox.ProtocolV1)
	first.report(t, `{"type":"telemetry","servo1":15.0,"pos":{"x":1}}`)
	second.report(t, `{"t":1}`)
	first.report(t, `{"servo1":90}`)
	url := v1 + "/export"
	run(t, h, []scenario{
		{name: "NDJSON", method: "GET", url: url, as: "read", status: 200, want: []string{`{"device":"esp01","time":"`, `"object":{"type":"telemetry","servo1":15.0,"pos":{"x":1}}}` + "\n", `"device":"st01"`}, heads: map[string]string{"Content-Type": "application/x-ndjson", "Content-Disposition": `attachment; filename="telemetry.ndjson"`}},
		{name: "CSV", method: "GET", url: url + "?format=csv", as: "read", status: 200, want: []string{"time,received,device,pos.x,servo1,t,type\n", ",esp01,1,15.0,,telemetry\n", ",st01,,,1,\n"}},
		{name: "CSV of a field", method: "GET", url: url + "?format=csv&fields=servo1&device=esp01", as: "read", status: 200, want: []string{"time,received,device,servo1\n", ",esp01,90\n"}, not: []string{"st01"}},
		{name: "Parquet", method: "GET", url: url + "?format=parquet&fields=servo1", as: "read", status: 200, want: []string{"PAR1"}, heads: map[string]string{"Content-Type": "application/vnd.apache.parquet"}},
		{name: "a type", method: "GET", url: url + "?type=station", as: "read", status: 200, want: []string{"st01"}, not: []string{"esp01"}},
		{name: "a time", method: "GET", url: url + "?to=2020-01-01T00:00:00Z", as: "read", status: 200, not: []string{"device"}},
		{name: "nobody", method: "GET", url: url, status: 401},
		{name: "unknown device", method: "GET", url: url + "?device=x", as: "read", status: 404},
		{name: "unknown format", method: "GET", url: url + "?format=xml", as: "read", status: 400, want: []string{"csv, ndjson and parquet"}},
		{name: "bad time", method: "GET", url: url + "?from=x", as: "read", status: 400},
		{name: "fields of objects", method: "GET", url: url + "?fields=x", as: "read", status: 400, want: []string{"ndjson has none"}},
		{name: "unknown parameter", method: "GET", url: url + "?limit=1", as: "read", status: 400, want: []string{"unknown_parameter"}},
	})
}

func TestImportTelemetry(t *testing.T) {
	h := newHub(t, func(c *api.Config) { c.MaxBody, c.MaxImport = 1000, 2000 })
	h.add(t, "esp01", "box")
	url := v1 + "/import/telemetry"
	row := func(device string, n int) string {
		return fmt.Sprintf(`{"device":%q,"time":"2024-01-01T00:00:00Z","object":{"n":%d}}`+"\n", device, n)
	}
	long := strings.Repeat(row("esp01", 7), 500)
	run(t, h, []scenario{
		{name: "import", method: "POST", url: url, as: "admin", status: 200, body: row("esp01", 1) + row("esp01", 1) + row("nobody", 1), want: []string{`"format":"ndjson","read":3,"added":2,"already":0,"refused":1`, `"refusals":[{"line":3,"device":"nobody","reason":"there is no device`}},
		{name: "again", method: "POST", url: url, as: "admin", status: 200, body: row("esp01", 1) + row("esp01", 1), want: []string{`"added":0,"already":2,"refused":0,"refusals":[]`}},
		{name: "in lines", method: "POST", url: url, as: "local", status: 200, body: row("esp01", 1), header: map[string]string{"Accept": "application/x-ndjson"}, want: []string{`{"report":{"format":"ndjson","read":1,"added":0,"already":1`}},
		{name: "make devices", method: "POST", url: url + "?create=true&type=sensor", as: "admin", status: 200, body: row("new1", 1) + row("bad name", 1), want: []string{`"added":1`, `"created":["new1"]`, `"refused":1`}},
		{name: "they are there", method: "GET", url: v1 + "/devices/new1", as: "read", status: 200, want: []string{`"type":"sensor"`, `"presence":"offline"`}},
		{name: "no state changes", method: "GET", url: v1 + "/devices/new1/state", as: "read", status: 200, not: []string{"telemetry"}},
		{name: "history has it", method: "GET", url: v1 + "/devices/new1/telemetry", as: "read", status: 200, want: []string{`"time":"2024-01-01T00:00:00.000Z"`, `"object":{"n":1}`}},
		{name: "CSV of one's own", method: "POST", url: url + "?device=esp01&time_column=at&zone=Asia/Shanghai", as: "admin", status: 200, body: "at,n\n2024-01-01 08:00:00,1\n", want: []string{`"format":"csv"`, `"already":1`, `"zone":"Asia/Shanghai"`}},
		{name: "a long one", method: "POST", url: url, as: "admin", status: 200, body: long, want: []string{`"added":500`}},
		{name: "not allowed", method: "POST", url: url, as: "command", status: 403, body: row("esp01", 2)},
		{name: "nobody", method: "POST", url: url, status: 401, body: row("esp01", 2)},
		{name: "empty", method: "POST", url: url, as: "admin", status: 400, want: []string{"empty_file"}},
		{name: "broken", method: "POST", url: url, as: "admin", status: 400, body: "time,device,n\n2024-01-01,esp01,\"1\n", want: []string{"invalid_file", "line 2", "nothing was imported"}},
		{name: "an unknown zone", method: "POST", url: url + "?zone=Mars", as: "admin", status: 400, body: row("esp01", 2), want: []string{"invalid_zone"}},
		{name: "an unknown device", method: "POST", url: url + "?device=esp09", as: "admin", status: 404, body: row("esp01", 2)},
		{name: "an unknown format", method: "POST", url: url + "?format=xml", as: "admin", status: 400, body: row("esp01", 2)},
		{name: "a type of nothing", method: "POST", url: url + "?type=box", as: "admin", status: 400, body: row("esp01", 2), want: []string{"create=true"}},
		{name: "a bad type", method: "POST", url: url + "?create=true&type=b%20c", as: "admin", status: 400, body: row("esp01", 2)},
	})
	if d := h.devices.Find("new1"); d == nil || d.LatestObject() != nil {
		t.Error("an import changed a device's state")
	}
}

// timed is an answer that knows when reading its request must have ended.
type timed struct {
	*httptest.ResponseRecorder
	until []time.Time
}

// SetReadDeadline is for http.ResponseController.
func (w *timed) SetReadDeadline(at time.Time) error {
	w.until = append(w.until, at)
	return nil
}

// SetWriteDeadline is for http.ResponseController.
func (*timed) SetWriteDeadline(time.Time) error { return nil }

// TestLongAnswers: an answer that takes longer than a request may is not ended by the request's
// time limit.
func TestLongAnswers(t *testing.T) {
	h := newHub(t, func(c *api.Config) {
		c.Backup = func(_ context.Context, w io.Writer, _ bool) (int64, error) {
			n, err := io.WriteString(w, "contents")
			return int64(n), err
		}
	})
	h.add(t, "esp01", "box")
	h.past(t, "esp01", noon, `{"n":1}`)
	for _, tt := range []struct{ method, url, body string }{
		{"GET", "/telemetry", ""},
		{"GET", "/export", ""},
		{"GET", "/backup", ""},
		{"POST", "/import/telemetry", `{"device":"esp01","time":"2024-01-01T00:00:00Z","object":{"n":1}}`},
	} {
		w := &timed{ResponseRecorder: newRecorder()}
		h.handler.ServeHTTP(w, h.request(tt.method, v1+tt.url, tt.body, "admin", nil))
		if n := len(w.until); w.Code != http.StatusOK || n == 0 || !w.until[n-1].IsZero() {
			t.Errorf("%s %s is answered with %d; the time for reading was set to end at %v", tt.method, tt.url, w.Code, w.until)
		}
	}
}

// announcing tells that a body is read.
type announcing struct {
	io.ReadCloser
	tell func()
}

func (a *announcing) Read(b []byte) (int, error) {
	a.tell()
	return a.ReadCloser.Read(b)
}

// TestOneImport: while an import is under way another one is refused, and one that was given
// up makes room.
func TestOneImport(t *testing.T) {
	h := newHub(t, nil)
	h.add(t, "esp01", "box")
	begun := make(chan struct{})
	server := httptest.NewServer(api.Local(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength < 0 { // the long one; its body is read once it is the one import
			r.Body = &announcing{ReadCloser: r.Body, tell: sync.OnceFunc(func() { close(begun) })}
		}
		h.handler.ServeHTTP(w, r)
	})))
	defer server.Close()
	post := func(ctx context.Context, body io.Reader) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+v1+"/import/telemetry", body)
		must(t, err)
		resp, err := server.Client().Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	body, pipe := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := post(ctx, body)
		ended <- err
	}()
	if _, err := io.WriteString(pipe, `{"device":"esp01","time":1704067200000,"object":{"n":1}}`+"\n"); err != nil {
		t.Fatal(err)
	}
	small := func() int {
		status, err := post(context.Background(), strings.NewReader("x\n"))
		must(t, err)
		return status
	}
	awaitStatus := func(want int) {
		t.Helper()
		deadline := time.After(patience)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for small() != want {
			select {
			case <-deadline:
				t.Fatalf("no status %d within %s", want, patience)
			case <-tick.C:
			}
		}
	}
	receive(t, begun)
	if status := small(); status != http.StatusConflict {
		t.Errorf("another import beside it gives %d", status)
	}
	cancel()
	must(t, pipe.CloseWithError(context.Canceled)) // the client waits for its body
	if err := receive(t, ended); err == nil {
		t.Error("the import that was given up ended well")
	}
	awaitStatus(http.StatusBadRequest) // it looks like CSV without columns
	if h.log.Head() != 0 {
		t.Error("something of the import that was given up was imported")
	}
}

// TestExportIsBounded: exports share a bound of memory, and one whose reader has gone makes room.
func TestExportIsBounded(t *testing.T) {
	h := newHub(t, func(cfg *api.Config) { cfg.ReadMemory = api.MinReadMemory })
	h.add(t, "esp01", "box")
	var file strings.Builder
	const rows = 6000
	for i := range rows {
		fmt.Fprintf(&file, `{"device":"esp01","time":%d,"object":{"n":%q}}`+"\n", 1_704_067_200_000+i, strings.Repeat("x", 1000))
	}
	w := h.ask("POST", v1+"/import/telemetry", file.String(), "admin", nil)
	var report struct{ Added int }
	if err := json.Unmarshal(w.Body.Bytes(), &report); err != nil || report.Added != rows {
		t.Fatalf("%d: %v %s", w.Code, err, w.Body)
	}
	// However much the system would hold of an answer: nobody reads the first two to their ends.
	server := h.smallBuffers(t, api.Local(h.handler))
	get := func() *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+v1+"/export", nil)
		must(t, err)
		resp, err := server.Client().Do(req)
		must(t, err)
		return resp
	}
	a, b, c := get(), get(), get()
	if a.StatusCode != http.StatusOK || b.StatusCode != http.StatusOK || c.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("%d, %d, %d", a.StatusCode, b.StatusCode, c.StatusCode)
	}
	must(t, c.Body.Close())
	must(t, a.Body.Close())
	whole, err := io.ReadAll(b.Body)
	must(t, err)
	if n := strings.Count(string(whole), "\n"); n != rows {
		t.Errorf("%d lines", n)
	}
	must(t, b.Body.Close())
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		resp := get()
		must(t, resp.Body.Close())
		if resp.StatusCode == http.StatusOK {
			return
		}
		select {
		case <-deadline:
			t.Fatal("there is no room within", patience)
		case <-tick.C:
		}
	}
}
