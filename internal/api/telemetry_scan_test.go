package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/history"
)

// endless is a history that never comes to an end by itself.
type endless struct {
	api.History
	device signalbox.DeviceID
	broken int64      // after so many messages it fails; 0: never
	began  chan bool  // hears that a scan began
	ended  chan error // hears why it ended
}

var errBroken = errors.New("the disk is gone")

func (h *endless) ScanTime(ctx context.Context, _ history.ScanQuery, yield func(*signalbox.Entry) error) (err error) {
	h.began <- true
	defer func() { h.ended <- err }()
	body := []byte(`{"temp":21.5,"filler":"` + strings.Repeat("x", 200) + `"}`)
	for i := int64(1); ; i++ {
		if h.broken > 0 && i > h.broken {
			return errBroken
		}
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		e := signalbox.Entry{Position: signalbox.Position(i), Device: h.device, Kind: signalbox.EntryTelemetry, TimeMicros: i, ReceivedMicros: i, Body: body}
		if err := yield(&e); err != nil {
			return err
		}
	}
}

// newEndless serves a hub with such a history; ask sends a request that may be canceled.
func newEndless(t *testing.T) (h *hub, past *endless, ask func(ctx context.Context, query string) *http.Response) {
	t.Helper()
	past = &endless{began: make(chan bool, 16), ended: make(chan error, 16)}
	h = newHub(t, func(c *api.Config) {
		past.History = c.History
		c.History = past
	})
	past.device = h.add(t, "box1", "box").ID
	srv := httptest.NewServer(h.handler)
	t.Cleanup(srv.Close)
	return h, past, func(ctx context.Context, query string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+v1+"/telemetry?"+query, nil)
		must(t, err)
		r.Header.Set("Authorization", "Bearer "+h.tokens[signalbox.ScopeRead])
		resp, err := srv.Client().Do(r)
		must(t, err)
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
}

// TestScanEndsWithItsReader: nobody reads history for a client that has gone, whether there is
// something to send at the time or not.
func TestScanEndsWithItsReader(t *testing.T) {
	h, past, ask := newEndless(t)
	for _, query := range []string{"", "format=csv", "fields=temp"} {
		ctx, cancel := context.WithCancel(t.Context())
		resp := ask(ctx, query)
		if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line == "" {
			t.Fatalf("%q, %v", line, err)
		}
		cancel()
		if err := receive(t, past.ended); err == nil {
			t.Errorf("%s: the scan came to an end", query)
		}
	}
	// Nothing is sent: the answer does not even begin.
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan *httptest.ResponseRecorder, 1)
	drain(past.began)
	go func() {
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, h.request("GET", v1+"/telemetry?fields=none", "", "read", nil).WithContext(ctx))
		answered <- w
	}()
	receive(t, past.began)
	cancel()
	if err := receive(t, past.ended); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if w := receive(t, answered); w.Body.Len() > 0 {
		t.Errorf("it answered %s", w.Body)
	}
}

func drain[T any](c <-chan T) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

// TestScanEndsWithTheHub breaks the answer off where it is.
func TestScanEndsWithTheHub(t *testing.T) {
	h, past, ask := newEndless(t)
	resp := ask(t.Context(), "")
	receive(t, past.began)
	close(h.stopping)
	if _, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the answer ended with %v, as if it were whole", err)
	}
	if err := receive(t, past.ended); err == nil {
		t.Error("the scan came to an end")
	}
}

// TestScanBreaksOff: an answer that could not be finished does not look whole, and one that
// could not begin says why.
func TestScanBreaksOff(t *testing.T) {
	h, past, ask := newEndless(t)
	past.broken = 100_000
	resp := ask(t.Context(), "")
	if _, err := io.Copy(io.Discard, resp.Body); resp.StatusCode != http.StatusOK || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("status %d, and the answer ended with %v, as if it were whole", resp.StatusCode, err)
	}
	receive(t, past.ended)
	past.broken = 1
	if w := h.ask("GET", v1+"/telemetry", "", "read", nil); w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), `"code":"internal"`) {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}

// TestScansAreFew: each takes memory, so there is a limit.
func TestScansAreFew(t *testing.T) {
	h, past, ask := newEndless(t)
	ctx, cancel := context.WithCancel(t.Context())
	for range 3 {
		ask(ctx, "")
		receive(t, past.began)
	}
	w := h.ask("GET", v1+"/telemetry", "", "read", nil)
	if w.Code != http.StatusTooManyRequests || !strings.Contains(w.Body.String(), "too_many_scans") || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// Exports take of the same.
	if e := h.ask("GET", v1+"/export", "", "read", nil); e.Code != http.StatusTooManyRequests || !strings.Contains(e.Body.String(), "too_many_exports") {
		t.Errorf("an export beside them gives %d %s", e.Code, e.Body)
	}
	cancel()
	for range 3 {
		receive(t, past.ended)
	}
	past.broken = 5
	deadline := time.Now().Add(patience)
	for w.Code == http.StatusTooManyRequests && time.Now().Before(deadline) { // they leave a moment later
		w = h.ask("GET", v1+"/telemetry?limit=1", "", "read", nil)
	}
	if w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestScanMemory: a long answer takes no more than a short one.
func TestScanMemory(t *testing.T) {
	_, _, ask := newEndless(t)
	const n = 100_000
	lines := bufio.NewScanner(ask(t.Context(), fmt.Sprint("limit=", n)).Body)
	// What is held is what is there after a collection, at the least of a few: others allocate meanwhile.
	held := func() uint64 {
		least := uint64(math.MaxUint64)
		for range 5 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			least = min(least, m.HeapAlloc)
		}
		return least
	}
	var first, most uint64
	seen := 0
	for lines.Scan() {
		if seen++; seen%20_000 == 0 {
			now := held()
			if first == 0 {
				first = now
			}
			most = max(most, now)
		}
	}
	if err := lines.Err(); err != nil || seen != n {
		t.Errorf("%d lines, %v", seen, err)
	}
	if most > first+8<<20 {
		t.Errorf("memory grew from %d to %d bytes", first, most)
	}
}

// TestScanOrder holds the answer over many devices to the pages of each.
func TestScanOrder(t *testing.T) {
	h := newHub(t, nil)
	type message struct {
		time     string
		position int64
		device   string
	}
	var want []message
	for i := range 12 {
		h.add(t, fmt.Sprint("d", i), []string{"box", "station"}[i%2])
	}
	for i := range 1500 {
		device := fmt.Sprint("d", i*7%12)
		e := signalbox.Entry{
			Device: h.devices.Find(device).ID, Kind: signalbox.EntryTelemetry, Body: fmt.Appendf(nil, `{"n":%d}`, i),
			TimeMicros: noon.Add(time.Duration(i*i%977) * time.Second).UnixMicro(),
		}
		must(t, h.log.Append(&e, history.Soon))
	}
	must(t, h.log.Wait(t.Context(), h.log.Head()))
	read := func(url string) (all []message) {
		w := h.ask("GET", v1+url, "", "read", nil)
		if w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		for line := range strings.Lines(w.Body.String()) {
			m := gjson.Parse(line)
			all = append(all, message{m.Get("time").Str, m.Get("position").Int(), m.Get("device").Str})
		}
		return all
	}
	for i := range 12 {
		name := fmt.Sprint("d", i)
		for _, m := range read("/devices/" + name + "/telemetry?order=asc&limit=10000&format=ndjson") {
			m.device = name
			want = append(want, m)
		}
	}
	slices.SortFunc(want, func(a, b message) int {
		if c := strings.Compare(a.time, b.time); c != 0 {
			return c
		}
		return int(a.position - b.position)
	})
	only := func(keep func(m message) bool) (some []message) {
		for _, m := range want {
			if keep(m) {
				some = append(some, m)
			}
		}
		return some
	}
	for _, tt := range []struct {
		query string
		want  []message
	}{
		{"", want},
		{"limit=100", want[:100]},
		{"type=box", only(func(m message) bool { return (m.device[len(m.device)-1]-'0')%2 == 0 })},
		{"type=box&type=station", want},
		{"device=d3&device=d10&device=d3", only(func(m message) bool { return m.device == "d3" || m.device == "d10" })},
		{"device=d3&device=d10&type=station", only(func(m message) bool { return m.device == "d3" })},
		{"from=2024-05-01T12:05:00Z&to=2024-05-01T12:06:00Z", only(func(m message) bool { return strings.HasPrefix(m.time, "2024-05-01T12:05") })},
	} {
		if have := read("/telemetry?" + tt.query); !slices.Equal(have, tt.want) {
			t.Errorf("%q gave %d messages, and %d are due, or others", tt.query, len(have), len(tt.want))
		}
	}
	// What was removed is out of reach.
	if w := h.ask("DELETE", v1+"/devices/d3", "", "admin", nil); w.Code != http.StatusNoContent {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if have := read("/telemetry"); len(have) != len(want)-125 || slices.ContainsFunc(have, func(m message) bool { return m.device == "d3" || m.device == "" }) {
		t.Errorf("%d messages after one of the devices was removed", len(have))
	}
}
