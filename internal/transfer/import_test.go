package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/transfer"
)

func line(device string, at int64, object string) string {
	return fmt.Sprintf(`{"device":%q,"time":%q,"object":%s}`+"\n", device, time.UnixMicro(at).UTC().Format("2006-01-02T15:04:05.000000Z"), object)
}

// TestOccurrences: of equal messages the n-th of the file is compared with the n-th there.
func TestOccurrences(t *testing.T) {
	x, y := line("a", base, `{"x":1}`), line("a", base, `{"y":1}`)
	late, early := line("a", base+5e6, `{"x":1}`), line("a", base-5e6, `{"x":1}`)
	other := line("b", base, `{"x":1}`)
	steps := []struct {
		file           string
		added, already int64
	}{
		{x, 1, 0},
		{x, 0, 1},
		{x + x, 1, 1},
		{x + x, 0, 2},
		{x + y + x, 1, 2},
		{late + x + early + x + y + other, 3, 3},
		{other + y + late + x + x + early, 0, 6},
		{x + late + x + late + x + early + early, 3, 4},
		{strings.Replace(x, `{"x":1}`, `{"x": 1}`, 1), 1, 0}, // other bytes
		{x, 0, 1},
	}
	h := newHub(t, "a", "b")
	for i, s := range steps {
		r := h.take(t, []byte(s.file), transfer.ReadOptions{})
		if r.Added != s.added || r.Already != s.already {
			t.Errorf("step %d: added %d, already %d; want %d, %d", i, r.Added, r.Already, s.added, s.already)
		}
	}
}

// TestImportBesideLive: messages of devices count as those of an import do.
func TestImportBesideLive(t *testing.T) {
	h := newHub(t, "a")
	h.keep(t, "a", base, `{"x":1}`)
	h.keep(t, "a", base, `{"x":1}`)
	x := line("a", base, `{"x":1}`)
	if r := h.take(t, []byte(x+x+x), transfer.ReadOptions{}); r.Added != 1 || r.Already != 2 {
		t.Errorf("report %+v", r)
	}
}

// TestImportMany: whatever the order of a file and however it is cut into parts, each message
// ends up once for each time it is in the file, and history's pages are met at any border.
func TestImportMany(t *testing.T) {
	const n = 6000
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test
	lines := make([]string, n)
	for i := range lines {
		// Few times and few values: many are equal, and more of one time than a page has.
		lines[i] = line([]string{"a", "b"}[rnd.IntN(2)], base+int64(rnd.IntN(3))*1e6, fmt.Sprintf(`{"v":%d}`, rnd.IntN(40)))
		if i%3 == 0 {
			lines[i] = line("a", base+int64(i)*1000, `{"v":1}`)
		}
	}
	h := newHub(t, "a", "b")
	file := func(lines []string) []byte { return []byte(strings.Join(lines, "")) }
	// A part is there already, as after an import that was killed.
	if r := h.take(t, file(lines[n/3:n/2]), transfer.ReadOptions{}); r.Added != n/2-n/3 {
		t.Fatalf("the first part: %+v", r)
	}
	if r := h.take(t, file(lines), transfer.ReadOptions{}); r.Added != n-(n/2-n/3) {
		t.Fatalf("the whole: %+v", r)
	}
	rnd.Shuffle(n, func(i, k int) { lines[i], lines[k] = lines[k], lines[i] })
	if r := h.take(t, file(lines), transfer.ReadOptions{}); r.Added != 0 || r.Already != n {
		t.Fatalf("again: %+v", r)
	}
	if got := sorted(h.content(t)); got != sorted(strings.Join(lines, "")) {
		t.Error("history is not what the file was")
	}
}

func TestImportRefusesRows(t *testing.T) {
	h := newHub(t, "a")
	future := line("a", time.Now().Add(time.Hour).UnixMicro(), `{"x":1}`)
	tests := []struct {
		name, row, want string
	}{
		{"no JSON", "x\n", "no JSON object"},
		{"half", `{"device":"a",` + "\n", "no JSON object"},
		{"no device", `{"time":"2024-01-01T00:00:00Z","object":{}}` + "\n", "no device"},
		{"no time", `{"device":"a","object":{}}` + "\n", "no time"},
		{"bad time", `{"device":"a","time":"noon","object":{}}` + "\n", `"noon" is no time`},
		{"seconds", `{"device":"a","time":1700000000,"object":{}}` + "\n", "Unix milliseconds"},
		{"no object", `{"device":"a","time":1700000000000}` + "\n", "no object"},
		{"a list", `{"device":"a","time":1700000000000,"object":[1]}` + "\n", "no telemetry"},
		{"a raw text", `{"device":"a","time":1700000000000,"raw":"hm"}` + "\n", "no telemetry"},
		{"more", `{"device":"a","time":1700000000000,"objekt":{}}` + "\n", `no member "objekt"`},
		{"future", future, "future of the hub's clock"},
		{"past", line("a", -1, `{}`), "before 1970"},
		{"epoch", line("a", 0, `{}`), "before 1970"},
		{"unknown", line("nobody", base, `{}`), `no device "nobody"`},
		{"replayed", line("a", base, `{"x":1,"replay":{"id":"1","hub":"other"}}`), "played from the past"},
		{"replayed, as the command line prints it", `{"kind":"telemetry","device":"a","time":1700000000000,"object":{},"replay":{"id":"1","hub":"other"}}` + "\n", "played from the past"},
		{"bad bytes", "{\"device\":\"a\",\"time\":1700000000000,\"object\":{\"x\":\"\xff\"}}\n", "UTF-8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			good := line("a", base, `{"x":1}`)
			r := h.take(t, []byte(good+"\n"+tt.row+good), transfer.ReadOptions{Format: transfer.NDJSON})
			if r.Refused != 1 || r.Read != 3 || r.Refusals[0].Line != 3 || !strings.Contains(r.Refusals[0].Reason, tt.want) {
				t.Errorf("report %+v, want %q in line 3", r, tt.want)
			}
		})
	}
}

// TestImportTakesOtherReplays: what only looks like the mark is a device's own.
func TestImportTakesOtherReplays(t *testing.T) {
	h := newHub(t, "a")
	file := line("a", base, `{"replay":true}`) + line("a", base+1, `{"replay":{"n":1}}`) + line("a", base+2, `{"in":{"replay":{"hub":"x"}}}`)
	if r := h.take(t, []byte(file), transfer.ReadOptions{}); r.Added != 3 || r.Refused != 0 {
		t.Errorf("report %+v", r)
	}
	csv := "time,device,x,replay.hub\n2024-01-01T00:00:00Z,a,1,other\n2024-01-01T00:00:01Z,a,1,\n"
	r := h.take(t, []byte(csv), transfer.ReadOptions{})
	if r.Added != 1 || r.Refused != 1 || r.Refusals[0].Line != 2 || !strings.Contains(r.Refusals[0].Reason, "played from the past") {
		t.Errorf("of a table with the mark in a column: %+v", r)
	}
}

func TestImportBoundsRefusals(t *testing.T) {
	h := newHub(t, "a")
	r := h.take(t, []byte(strings.Repeat("x\n", 2500)), transfer.ReadOptions{Format: transfer.NDJSON})
	if r.Refused != 2500 || len(r.Refusals) != 1000 {
		t.Errorf("refused %d, listed %d", r.Refused, len(r.Refusals))
	}
}

func TestImportCreates(t *testing.T) {
	h := newHub(t, "a")
	file := line("new1", base, `{}`) + line("a", base, `{}`) + line("bad name", base, `{}`) + line("new2", base, `{}`) + line("new1", base, `{}`)
	src, err := transfer.Open(strings.NewReader(file), transfer.ReadOptions{})
	must(t, err)
	to := h.target(t)
	to.Check = func(name string) error { return signalbox.CheckName("device name", name) }
	to.Create = func(_ context.Context, names []string) error {
		h.names = append(h.names, names...)
		return nil
	}
	r, err := transfer.Import(context.Background(), src, to)
	must(t, err)
	if r.Added != 4 || r.Refused != 1 || !slices.Equal(r.Created, []string{"new1", "new2"}) || r.Refusals[0].Line != 3 {
		t.Errorf("report %+v", r)
	}
}

// TestNothingHalf: a file that cannot be read to its end changes nothing.
func TestNothingHalf(t *testing.T) {
	good := line("a", base, `{"x":1}`)
	h := newHub(t, "a")
	parquet := filled(t).export(t, transfer.ExportQuery{Format: transfer.Parquet})
	tests := []struct {
		name string
		file string
		o    transfer.ReadOptions
		want string
	}{
		{"empty", "", transfer.ReadOptions{}, "empty"},
		{"UTF-16", "\xff\xfea\x00", transfer.ReadOptions{}, "UTF-16"},
		{"binary", "abc\x00def", transfer.ReadOptions{}, "neither text nor Parquet"},
		{"no columns", "a,b\n1,2\n", transfer.ReadOptions{}, `line 1: there is no column "time"`},
		{"no device", "time,b\n1,2\n", transfer.ReadOptions{}, `line 1: there is no column "device"`},
		{"no fields", "time,device\n", transfer.ReadOptions{}, "no columns of fields"},
		{"a column twice", "time,device,b,b\n", transfer.ReadOptions{}, `"b" is there twice`},
		{"a quote", "time,device,b\n2024-01-01,a,1\n2024-01-01,a,\"1\n", transfer.ReadOptions{}, "line 3: this is not CSV"},
		{"a long quote", "time,device,b\n2024-01-01,a,\"" + strings.Repeat("x", 34<<20), transfer.ReadOptions{}, "is a quote missing?"},
		{"broken Parquet", string(parquet[:len(parquet)/2]), transfer.ReadOptions{}, "the Parquet file is broken"},
		{"a format", good, transfer.ReadOptions{Format: "xml"}, "allowed are csv"},
		{"a dump without a device", "-- MySQL dump\n", transfer.ReadOptions{}, "names no devices"},
		{"a dump without the table", "-- MySQL dump\nCREATE TABLE `other` (`a` int);\n", transfer.ReadOptions{Device: "a"}, "no rows of a table temp; it holds other"},
		{"half a dump", "INSERT INTO `temp` VALUES ('2023-07-10 12:00:00',25.8),('2023", transfer.ReadOptions{Device: "a"}, "line 1: the dump ends in the middle"},
		{"half a gzip", string(gzipped(t, strings.Repeat(good, 100))[:60]), transfer.ReadOptions{}, "the file ends in the middle"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Dir = t.TempDir()
			src, err := transfer.Open(strings.NewReader(tt.file), tt.o)
			if err == nil {
				_, err = transfer.Import(context.Background(), src, h.target(t))
				err = errors.Join(err, src.Close())
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if h.log.Head() != 0 {
				t.Error("something was imported")
			}
		})
	}
}

// fullLog refuses now and then, as a log does whose disk does not keep up.
type fullLog struct {
	*history.Log
	n int
}

func (f *fullLog) Append(e *signalbox.Entry, u history.Urgency) error {
	if f.n++; f.n%100 == 0 {
		return history.ErrFull
	}
	return f.Log.Append(e, u)
}

func (f *fullLog) Wait(ctx context.Context, p signalbox.Position) error {
	return f.Log.Wait(ctx, min(p, f.Head()))
}

func TestImportWaitsForTheLog(t *testing.T) {
	h := newHub(t, "a")
	var file strings.Builder
	for i := range int64(1000) {
		file.WriteString(line("a", base+i, `{"x":1}`))
	}
	src, err := transfer.Open(strings.NewReader(file.String()), transfer.ReadOptions{})
	must(t, err)
	to := h.target(t)
	to.Archive = &fullLog{Log: h.log}
	r, err := transfer.Import(context.Background(), src, to)
	must(t, err)
	if r.Added != 1000 || h.log.Committed() != 1000 {
		t.Errorf("report %+v, committed %d", r, h.log.Committed())
	}
}

func TestImportStops(t *testing.T) {
	h := newHub(t, "a")
	ctx, cancel := context.WithCancel(context.Background())
	endless := io.MultiReader(strings.NewReader("time,device,x\n"), &repeat{text: []byte("2024-01-01T00:00:00Z,a,1\n"), after: 20_000, then: cancel})
	src, err := transfer.Open(endless, transfer.ReadOptions{})
	must(t, err)
	if _, err := transfer.Import(ctx, src, h.target(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// repeat gives a text without end.
type repeat struct {
	text  []byte
	after int
	then  func()
}

func (r *repeat) Read(p []byte) (int, error) {
	if r.after--; r.after == 0 {
		r.then()
	}
	return copy(p, r.text), nil
}

func TestImportCompressed(t *testing.T) {
	h := newHub(t, "a")
	if r := h.take(t, gzipped(t, line("a", base, `{"x":1}`)), transfer.ReadOptions{}); r.Added != 1 {
		t.Errorf("report %+v", r)
	}
	from := filled(t)
	file := gzipped(t, string(from.export(t, transfer.ExportQuery{Format: transfer.Parquet})))
	if r := from.take(t, file, transfer.ReadOptions{}); r.Already != 308 {
		t.Errorf("report %+v", r)
	}
}

func TestTelemetry(t *testing.T) {
	tests := []struct {
		name, head string
		o          transfer.ReadOptions
		want       bool
	}{
		{"NDJSON", line("a", base, `{}`), transfer.ReadOptions{}, true},
		{"NDJSON of one device", `{"position":1,"time":"2024-01-01T00:00:00Z","received":"","object":{}}`, transfer.ReadOptions{}, true},
		{"devices", `{"name":"a","type":"box","password":"1234"}` + "\n", transfer.ReadOptions{}, false},
		{"data.json", `{"users":[],"devices":[]}`, transfer.ReadOptions{}, false},
		{"a list", `[{"name":"a"}]`, transfer.ReadOptions{}, false},
		{"CSV", "time,received,device,x\n", transfer.ReadOptions{}, true},
		{"CSV with a mark", "\xef\xbb\xbfTime;Device;x\r\n", transfer.ReadOptions{}, true},
		{"CSV of devices", "name,type,password\n", transfer.ReadOptions{}, false},
		{"CSV of one device", "date,x\n", transfer.ReadOptions{TimeColumn: "date", Device: "a"}, true},
		{"dump", "-- MariaDB dump 10.19\n", transfer.ReadOptions{}, true},
		{"sandboxed dump", "/*M!999999\\- enable the sandbox mode */ \n", transfer.ReadOptions{}, true},
		{"Parquet", "PAR1\x15\x00", transfer.ReadOptions{}, true},
		{"empty", "", transfer.ReadOptions{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := transfer.Telemetry([]byte(tt.head), tt.o); got != tt.want {
				t.Errorf("got %v", got)
			}
			if got := transfer.Telemetry(gzipped(t, tt.head), tt.o); got != tt.want {
				t.Errorf("compressed: got %v", got)
			}
		})
	}
}
