package transfer_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
	"signalbox/internal/transfer"
)

// hub is history with devices, in a temporary directory.
type hub struct {
	log   *history.Log
	names []string // device number i+1
}

func newHub(t testing.TB, names ...string) *hub {
	t.Helper()
	ctx := context.Background()
	logger := slog.New(slog.DiscardHandler)
	st, err := store.Open(ctx, store.Config{Dir: t.TempDir(), Logger: logger})
	must(t, err)
	log, err := history.Open(ctx, history.Config{Logger: logger}, st)
	must(t, err)
	must(t, log.Restore(ctx, 0, func(*signalbox.Entry) error { return nil }))
	running, end := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { _ = log.Run(running, 30*time.Second) })
	t.Cleanup(func() {
		end()
		done.Wait()
		must(t, st.Close())
	})
	return &hub{log: log, names: names}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *hub) find(name string) (signalbox.DeviceID, bool) {
	i := slices.Index(h.names, name)
	return signalbox.DeviceID(i + 1), i >= 0
}

func (h *hub) target(t testing.TB) transfer.Target {
	t.Helper()
	return transfer.Target{Archive: h.log, Find: h.find, Dir: t.TempDir()}
}

// keep stores telemetry as a device would have sent it.
func (h *hub) keep(t testing.TB, device string, at int64, object string) {
	t.Helper()
	id, _ := h.find(device)
	must(t, h.log.Append(&signalbox.Entry{Device: id, Kind: signalbox.EntryTelemetry, TimeMicros: at, Body: []byte(object)}, history.Now))
	must(t, h.log.Wait(context.Background(), h.log.Head()))
}

func (h *hub) export(t testing.TB, q transfer.ExportQuery) []byte {
	t.Helper()
	q.Name = func(id signalbox.DeviceID) string { return h.names[id-1] }
	e, err := transfer.Prepare(context.Background(), h.log, q)
	must(t, err)
	var out bytes.Buffer
	must(t, e.Write(context.Background(), &out))
	return out.Bytes()
}

func (h *hub) take(t testing.TB, file []byte, o transfer.ReadOptions) *transfer.Report {
	t.Helper()
	o.Dir = t.TempDir()
	src, err := transfer.Open(bytes.NewReader(file), o)
	must(t, err)
	report, err := transfer.Import(context.Background(), src, h.target(t))
	must(t, err)
	must(t, src.Close())
	if report.Read != report.Added+report.Already+report.Refused {
		t.Errorf("the report does not add up: %+v", report)
	}
	return report
}

// content is all that a hub has, without times of receipt, which an import does not keep.
func (h *hub) content(t testing.TB) string {
	t.Helper()
	return received.ReplaceAllString(string(h.export(t, transfer.ExportQuery{Format: transfer.NDJSON})), "")
}

var received = regexp.MustCompile(`"received":"[^"]*",`) //nolint:gochecknoglobals // a constant

const base = int64(1_700_000_000_000_000)

// filled is a hub whose telemetry has all that is hard to carry.
func filled(t testing.TB) *hub {
	t.Helper()
	h := newHub(t, "esp01", "станция", "env01")
	for i := range int64(300) {
		h.keep(t, "esp01", base+i*1_000_003, fmt.Sprintf(`{"type":"telemetry","status":"работает","servo1":%d,"t":%d.0}`, i%180, i))
	}
	for _, m := range []struct {
		device string
		at     int64
		object string
	}{
		{"станция", base, `{"a":1}`},
		{"станция", base, `{"a":2}`},
		{"станция", base, `{"a":1}`},
		{"станция", base + 1, `{ "a" : 1 }`},
		{"станция", base + 2, "{\n  \"a\": 1\r\n}"},
		{"env01", base, `{"temp":25.80,"deep":{"x":[1,2,{"y":null}],"z":true},"time":"a, \"b\"\n","device":"x","e":1e-7,"s":"90"}`},
		{"env01", base - 5, `{}`},
		{"env01", base - 6, `{"a":1,"a":2,"":"<&>"}`},
	} {
		h.keep(t, m.device, m.at, m.object)
	}
	return h
}

func TestRoundTrip(t *testing.T) {
	from := filled(t)
	want := from.content(t)
	if n := strings.Count(want, "\n"); n != 308 {
		t.Fatalf("%d messages, want 308", n)
	}
	for _, q := range []transfer.ExportQuery{
		{Format: transfer.NDJSON},
		{Format: transfer.Parquet},
		{Format: transfer.Parquet, Fields: []string{"servo1", "t", "temp", "deep.z", "time", "s", "a", "none"}},
	} {
		t.Run(fmt.Sprintf("%s %d", q.Format, len(q.Fields)), func(t *testing.T) {
			file := from.export(t, q)
			to := newHub(t, "env01", "esp01", "станция")
			report := to.take(t, file, transfer.ReadOptions{})
			if report.Added != 308 || report.Refused != 0 {
				t.Fatalf("report %+v", report)
			}
			if got := to.content(t); sorted(got) != sorted(want) || !sameOrder(got, want) {
				t.Errorf("the copy differs:\n%s\nwant\n%s", got, want)
			}
			for _, h := range []*hub{to, from} {
				before := h.log.Head()
				if again := h.take(t, file, transfer.ReadOptions{}); again.Added != 0 || again.Already != 308 || h.log.Head() != before {
					t.Errorf("again: %+v", again)
				}
			}
		})
	}
}

func sorted(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// sameOrder says whether each device has its messages in the same order.
func sameOrder(a, b string) bool {
	of := func(text, device string) (out []string) {
		for line := range strings.Lines(text) {
			if strings.Contains(line, `"device":"`+device+`"`) {
				out = append(out, line)
			}
		}
		return out
	}
	for _, device := range []string{"esp01", "станция", "env01"} {
		if !slices.Equal(of(a, device), of(b, device)) {
			return false
		}
	}
	return true
}

func TestRoundTripCSV(t *testing.T) {
	from := newHub(t, "a", "b")
	from.keep(t, "a", base, `{"x":1.50,"time":"noon","fields.device":3,"ok":true,"text":"a, \"b\"\nc"}`)
	from.keep(t, "b", base+1, `{"y":{"z":-2e3}}`)
	file := from.export(t, transfer.ExportQuery{Format: transfer.CSV})
	head, _, _ := strings.Cut(string(file), "\n")
	if want := "time,received,device,fields.fields.device,ok,text,fields.time,x,y.z"; head != want {
		t.Fatalf("columns %s, want %s", head, want)
	}
	to := newHub(t, "a", "b")
	if r := to.take(t, file, transfer.ReadOptions{}); r.Added != 2 {
		t.Fatalf("report %+v", r)
	}
	want := `{"device":"a","time":"2023-11-14T22:13:20.000000Z","object":{"fields.device":3,"ok":true,"text":"a, \"b\"\nc","time":"noon","x":1.50}}
{"device":"b","time":"2023-11-14T22:13:20.000001Z","object":{"y.z":-2e3}}
`
	if got := to.content(t); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if r := to.take(t, file, transfer.ReadOptions{}); r.Added != 0 || r.Already != 2 {
		t.Errorf("again: %+v", r)
	}
	if again := to.export(t, transfer.ExportQuery{Format: transfer.CSV, Fields: []string{"x", "y.z"}}); !bytes.Contains(again, []byte("1.50")) {
		t.Errorf("chosen fields: %s", again)
	}
}

func TestExportChooses(t *testing.T) {
	h := newHub(t, "a", "b", "c")
	for i, name := range []string{"a", "b", "c", "a", "b", "c"} {
		h.keep(t, name, base+int64(i)*1e6, fmt.Sprintf(`{"n":%d}`, i))
	}
	at := func(i int64) time.Time { return time.UnixMicro(base + i*1e6) }
	tests := []struct {
		name string
		q    transfer.ExportQuery
		want string
	}{
		{"all", transfer.ExportQuery{}, "012345"},
		{"devices", transfer.ExportQuery{Devices: []signalbox.DeviceID{1, 3}}, "0235"},
		{"times", transfer.ExportQuery{From: at(1), To: at(4)}, "123"},
		{"both", transfer.ExportQuery{Devices: []signalbox.DeviceID{2}, From: at(2)}, "4"},
		{"none", transfer.ExportQuery{From: at(9)}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.q.Format = transfer.CSV
			tt.q.Fields = []string{"n"}
			got := ""
			for _, line := range strings.Split(strings.TrimSpace(string(h.export(t, tt.q))), "\n")[1:] {
				got += line[strings.LastIndex(line, ",")+1:]
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestExportRefuses(t *testing.T) {
	h := newHub(t, "a")
	var wide strings.Builder
	for i := range 200 {
		for k := range 6 {
			fmt.Fprintf(&wide, `%s"f%d_%d":1`, map[bool]string{true: "{", false: ","}[k == 0], i, k)
		}
		h.keep(t, "a", base+int64(i), wide.String()+"}")
		wide.Reset()
	}
	tests := []struct {
		name string
		q    transfer.ExportQuery
		want string
	}{
		{"too many columns", transfer.ExportQuery{Format: transfer.CSV}, "more than 1000 different fields"},
		{"no format", transfer.ExportQuery{Format: "xml"}, "allowed are csv, ndjson and parquet"},
		{"fields of objects", transfer.ExportQuery{Format: transfer.NDJSON, Fields: []string{"a"}}, "ndjson has none"},
		{"a field twice", transfer.ExportQuery{Format: transfer.CSV, Fields: []string{"a", "b", "a"}}, `"a" is named twice`},
		{"times", transfer.ExportQuery{Format: transfer.CSV, From: time.Unix(2, 0), To: time.Unix(1, 0)}, "is not before"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.q.Name = func(signalbox.DeviceID) string { return "a" }
			_, err := transfer.Prepare(context.Background(), h.log, tt.q)
			if err == nil || !strings.Contains(err.Error(), tt.want) || signalbox.KindOf(err) != signalbox.KindInvalid {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	if err := tooFewColumns(h); err != nil {
		t.Error(err)
	}
}

// tooFewColumns: what came after the columns were found is not part of the export.
func tooFewColumns(h *hub) error {
	ctx := context.Background()
	e, err := transfer.Prepare(ctx, h.log, transfer.ExportQuery{Format: transfer.CSV, To: time.UnixMicro(base + 1), Name: func(signalbox.DeviceID) string { return "a" }})
	if err != nil {
		return err
	}
	if err := h.log.Append(&signalbox.Entry{Device: 1, Kind: signalbox.EntryTelemetry, TimeMicros: base - 1, Body: []byte(`{"new":1}`)}, history.Now); err != nil {
		return err
	}
	if err := h.log.Wait(ctx, h.log.Head()); err != nil {
		return err
	}
	var out bytes.Buffer
	if err := e.Write(ctx, &out); err != nil {
		return err
	}
	if n := strings.Count(out.String(), "\n"); n != 2 {
		return fmt.Errorf("%d lines, want the head and one: %s", n, out.String())
	}
	return nil
}
