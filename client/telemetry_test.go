package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/client"
	"signalbox/internal/app"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

var noon = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)

// newPast serves a hub whose boxes a and b have a history: a message a second each, for 3,000
// seconds and 10.
func newPast(t *testing.T) *client.Hub {
	t.Helper()
	cfg := app.DefaultConfig()
	cfg.Data = filepath.Join(t.TempDir(), "data")
	logger := slog.New(slog.DiscardHandler)
	open := func() *app.App {
		hub, err := app.Open(t.Context(), app.Options{Config: cfg, Logger: logger, Version: "test"})
		must(t, err)
		return hub
	}
	serve := func(hub *app.App) (*client.Hub, func()) {
		srv := httptest.NewServer(hub.LocalAPI())
		h, err := client.New(srv.URL, client.WithHTTPClient(srv.Client()))
		must(t, err)
		return h, func() {
			srv.CloseClientConnections()
			srv.Close()
			must(t, hub.Close())
		}
	}
	h, end := serve(open())
	_, err := h.ImportDevices(t.Context(), client.CSV, strings.NewReader("a,box\nb,station\n"))
	must(t, err)
	end()
	fill(t, cfg.Data)
	h, end = serve(open())
	t.Cleanup(end)
	return h
}

func fill(t *testing.T, dir string) {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	st, err := store.Open(t.Context(), store.Config{Dir: dir, Logger: logger})
	must(t, err)
	log, err := history.Open(t.Context(), history.Config{Logger: logger}, st)
	must(t, err)
	must(t, log.Restore(t.Context(), 0, func(*signalbox.Entry) error { return nil }))
	put := func(device signalbox.DeviceID, i int, object string) {
		e := signalbox.Entry{Device: device, Kind: signalbox.EntryTelemetry, TimeMicros: noon.Add(time.Duration(i) * time.Second).UnixMicro(), Body: []byte(object)}
		must(t, log.Append(&e, history.Soon))
	}
	for i := range 3000 {
		put(1, i, fmt.Sprintf(`{"n":%d,"x":{"y":"%d °C"}}`, i, i%30))
		if i < 10 {
			put(2, i, fmt.Sprintf(`{"n":%d,"huge":1e999,"long":%q}`, -i, strings.Repeat("x", 60_000)))
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx, time.Second) }()
	must(t, log.Wait(t.Context(), log.Head()))
	stop()
	must(t, <-ended)
	must(t, st.Close())
}

func TestTelemetryQuestions(t *testing.T) {
	h := newPast(t)
	ctx := t.Context()
	m, ok, err := h.TelemetryAt(ctx, "a", noon.Add(1500*time.Millisecond))
	must(t, err)
	if !ok || !m.Time.Equal(noon.Add(time.Second)) || string(m.Object) != `{"n":1,"x":{"y":"1 °C"}}` || m.Position == 0 {
		t.Errorf("as of: %v %s", m.Time, m.Object)
	}
	m, ok, err = h.TelemetryAt(ctx, "a", noon.Add(time.Hour), "x.y", "n")
	must(t, err)
	if !ok || string(m.Object) != `{"x.y":"29 °C","n":2999}` {
		t.Errorf("as of, fields: %s", m.Object)
	}
	for _, at := range []time.Time{{}, time.Unix(0, 0)} {
		if _, ok, err = h.TelemetryAt(ctx, "a", at); ok || err != nil {
			t.Errorf("as of %v: %v %v", at, ok, err)
		}
	}
	_, _, err = h.TelemetryAt(ctx, "nobody", noon)
	wantCode(t, err, signalbox.KindNotFound, "device_not_found")
	_, _, err = h.TelemetryAt(ctx, "a", noon, "m")
	wantCode(t, err, signalbox.KindInvalid, "unknown_field")

	page, err := h.TelemetryFromRow(ctx, "a", 2000, 3, "n")
	must(t, err)
	if len(page.Items) != 3 || string(page.Items[0].Object) != `{"n":2000}` || page.Next == "" {
		t.Errorf("rows %+v", page)
	}
	want := 2003
	for m, err := range h.AllTelemetry(ctx, "a", client.TelemetryQuery{OldestFirst: true, Cursor: page.Next, Limit: 400, Fields: []string{"n"}}) {
		must(t, err)
		if string(m.Object) != fmt.Sprintf(`{"n":%d}`, want) {
			t.Fatalf("%s where %d is due", m.Object, want)
		}
		want++
	}
	if want != 3000 {
		t.Errorf("the walk ended at %d", want)
	}
	if page, err = h.TelemetryFromRow(ctx, "a", 3000, 0); err != nil || len(page.Items) != 0 || page.Next != "" {
		t.Errorf("behind the last: %+v, %v", page, err)
	}
	_, err = h.TelemetryFromRow(ctx, "a", -1, 0)
	wantCode(t, err, signalbox.KindInvalid, "invalid_request")

	b, err := h.Buckets(ctx, "a", client.BucketQuery{Fields: []string{"n", "x.y"}, N: 3, From: noon, To: noon.Add(3000 * time.Second)})
	must(t, err)
	if b.Width() != 1000*time.Second || !b.From.Equal(noon) || len(b.Series) != 2 || b.Series[1].Field != "x.y" || len(b.Series[1].Buckets) != 0 || len(b.Series[0].Buckets) != 3 {
		t.Fatalf("buckets %+v", b)
	}
	if k := b.Series[0].Buckets[1]; !k.Start.Equal(noon.Add(1000*time.Second)) || k.Count != 1000 || *k.Min != 1000 || *k.Max != 1999 || *k.Avg != 1499.5 || *k.Last != 1999 {
		t.Errorf("bucket %+v", k)
	}
	if b, err = h.Buckets(ctx, "b", client.BucketQuery{Fields: []string{"huge"}, N: 1}); err != nil || len(b.Series[0].Buckets) != 1 || b.Series[0].Buckets[0].Count != 10 || b.Series[0].Buckets[0].Max != nil {
		t.Errorf("huge numbers: %+v, %v", b, err)
	}
	_, err = h.Buckets(ctx, "a", client.BucketQuery{N: 3})
	wantCode(t, err, signalbox.KindInvalid, "fields_needed")
}

func TestScanTelemetry(t *testing.T) {
	h := newPast(t)
	ctx := t.Context()
	scan := func(q client.ScanQuery) (n int, devices map[string]int) {
		t.Helper()
		devices = map[string]int{}
		var last client.DeviceTelemetry
		for m, err := range h.ScanTelemetry(ctx, q) {
			must(t, err)
			if m.Time.Before(last.Time) || m.Time.Equal(last.Time) && m.Position <= last.Position || len(m.Object) == 0 {
				t.Fatalf("%v comes after %v", m, last)
			}
			last = m
			devices[m.Device]++
			n++
		}
		return n, devices
	}
	if n, devices := scan(client.ScanQuery{}); n != 3010 || devices["a"] != 3000 || devices["b"] != 10 {
		t.Errorf("all: %d %v", n, devices)
	}
	if n, devices := scan(client.ScanQuery{Types: []string{"station"}}); n != 10 || devices["b"] != 10 {
		t.Errorf("a type: %d %v", n, devices)
	}
	if n, _ := scan(client.ScanQuery{Devices: []string{"a"}, From: noon.Add(time.Minute), To: noon.Add(2 * time.Minute), Fields: []string{"n"}, Limit: 50}); n != 50 {
		t.Errorf("narrowed down: %d", n)
	}
	for _, err := range h.ScanTelemetry(ctx, client.ScanQuery{Devices: []string{"nobody"}}) {
		wantCode(t, err, signalbox.KindNotFound, "device_not_found")
	}
	for range h.ScanTelemetry(ctx, client.ScanQuery{}) {
		break // nothing is left running: the hub closes
	}
	var out bytes.Buffer
	must(t, h.CopyTelemetry(ctx, client.ScanQuery{Devices: []string{"a", "b"}, Fields: []string{"n"}, Limit: 3}, client.CSV, &out))
	if lines := strings.Split(out.String(), "\n"); len(lines) != 5 || lines[0] != "time,received,device,position,n" || !strings.HasPrefix(lines[1], "2024-05-01T12:00:00.000Z,") {
		t.Errorf("%s", out.String())
	}
	out.Reset()
	must(t, h.CopyTelemetry(ctx, client.ScanQuery{Limit: 2}, client.NDJSON, &out))
	if strings.Count(out.String(), "\n") != 2 || !strings.HasPrefix(out.String(), `{"device":"a",`) {
		t.Errorf("%s", out.String())
	}
	wantCode(t, h.CopyTelemetry(ctx, client.ScanQuery{}, "text/plain", &out), signalbox.KindInvalid, "invalid_format")
	full := errors.New("the disk is full")
	if err := h.CopyTelemetry(ctx, client.ScanQuery{}, client.CSV, failing{full}); !errors.Is(err, full) {
		t.Errorf("a writer that failed: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestScanBrokenOff: what was broken off is an error, wherever it was.
func TestScanBrokenOff(t *testing.T) {
	line := `{"device":"a","position":1,"time":"2024-05-01T12:00:00.000Z","received":"2024-05-01T12:00:00.000Z","object":{}}` + "\n"
	for _, tt := range []struct {
		name, body string
		abort      bool
		messages   int
		code       string
	}{
		{"whole", line + line, false, 2, ""},
		{"between messages", line, true, 1, "unreachable"},
		{"in a message", line + line[:20], true, 1, "unreachable"},
		{"a message without its end", line + line[:20], false, 1, "unreachable"},
		{"something else", line + "<html>\n", false, 1, "not_signalbox"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, tt.body)
				_ = http.NewResponseController(w).Flush()
				if tt.abort {
					panic(http.ErrAbortHandler)
				}
			}))
			defer srv.Close()
			h, err := client.New(srv.URL)
			must(t, err)
			n, code := 0, ""
			for _, err := range h.ScanTelemetry(t.Context(), client.ScanQuery{}) {
				if err != nil {
					code = signalbox.CodeOf(err)
				} else {
					n++
				}
			}
			if n != tt.messages || code != tt.code {
				t.Errorf("%d messages and then %q", n, code)
			}
		})
	}
}
