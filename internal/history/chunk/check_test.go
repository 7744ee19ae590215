package chunk_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/tidwall/gjson"

	"signalbox/internal/history/chunk"
	"signalbox/internal/wire"
)

func sameRow(a, b *chunk.Row) bool {
	return a.Position == b.Position && a.Received == b.Received && a.Time == b.Time && a.Imported == b.Imported && bytes.Equal(a.Body, b.Body)
}

// runOf fills a run and holds it to the rows.
func runOf(tb testing.TB, s *chunk.Shapes, rows []chunk.Row) *chunk.Run {
	tb.Helper()
	r := new(chunk.Run)
	for i := range rows {
		r.Append(s, &rows[i])
	}
	checkRun(tb, s, r, rows)
	return r
}

func checkRun(tb testing.TB, s *chunk.Shapes, r *chunk.Run, rows []chunk.Row) {
	tb.Helper()
	if r.Len() != len(rows) {
		tb.Fatalf("the run has %d rows, want %d", r.Len(), len(rows))
	}
	n := 0
	r.Each(s, func(i int, row *chunk.Row) bool {
		if !sameRow(row, &rows[i]) {
			tb.Fatalf("row %d of the run is %+v %s\nwant %+v %s", i, row, row.Body, rows[i], rows[i].Body)
		}
		n++
		return true
	})
	if n != len(rows) {
		tb.Fatalf("the run gave %d rows, want %d", n, len(rows))
	}
	if len(rows) == 0 {
		return
	}
	least, most := rows[0].Time, rows[0].Time
	for i := range rows {
		least, most = min(least, rows[i].Time), max(most, rows[i].Time)
	}
	if a, b := r.Times(); a != least || b != most || r.First() != rows[0].Position || r.Last() != rows[len(rows)-1].Position {
		tb.Fatalf("the run says times %d…%d, positions %d…%d", a, b, r.First(), r.Last())
	}
}

// checkChunk holds a chunk to the rows, which are sorted.
func checkChunk(tb testing.TB, s *chunk.Shapes, blob []byte, rows []chunk.Row) {
	tb.Helper()
	head, err := chunk.Open(blob)
	if err != nil {
		tb.Fatal(err)
	}
	want := chunk.Head{N: len(rows), T0: rows[0].Time, T1: rows[len(rows)-1].Time, P0: math.MaxUint64}
	for i := range rows {
		want.P0, want.P1 = min(want.P0, rows[i].Position), max(want.P1, rows[i].Position)
		want.Raw += len(rows[i].Body)
	}
	if head != want {
		tb.Fatalf("the head is %+v, want %+v", head, want)
	}
	var r chunk.Reader
	if err := r.Load(s, blob); err != nil {
		tb.Fatal(err)
	}
	if r.Len() != len(rows) || len(r.Times()) != len(rows) {
		tb.Fatalf("the chunk has %d rows and %d times, want %d", r.Len(), len(r.Times()), len(rows))
	}
	for i := range rows {
		got := chunk.Row{Position: r.Position(i), Received: r.Received(i), Time: r.Times()[i], Imported: r.Imported(i), Body: r.AppendBody(nil, i)}
		if !sameRow(&got, &rows[i]) {
			tb.Fatalf("row %d of the chunk is %+v %q\nwant %+v %q", i, got, got.Body, rows[i], rows[i].Body)
		}
	}
	if r.Err() != nil {
		tb.Fatal(r.Err())
	}
	checkFields(tb, s, blob, rows)
}

// checkFields holds the fields of a chunk to what package wire finds in the bodies.
func checkFields(tb testing.TB, s *chunk.Shapes, blob []byte, rows []chunk.Row) {
	tb.Helper()
	want := map[string]bool{}
	objects := map[string]bool{}
	whole := make([]gjson.Result, len(rows)) // of rows that are objects
	for i := range rows {
		if !isObject(rows[i].Body) {
			continue
		}
		whole[i] = gjson.ParseBytes(rows[i].Body)
		wire.Flatten(whole[i], func(name string, _ gjson.Result) bool {
			want[name] = true
			for j := range len(name) {
				if name[j] == '.' {
					objects[name[:j]] = true
				}
			}
			return true
		})
	}
	list, err := chunk.Fields(s, blob)
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range list {
		if !want[name] {
			tb.Errorf("the chunk has a field %q too many", name)
		}
	}
	if len(list) != len(want) {
		tb.Errorf("the chunk has fields %q, want %d", list, len(want))
	}
	list = append(list, "nothing", "")
	for name := range objects {
		list = append(list, name)
	}
	var r chunk.Reader
	if err := r.Load(s, blob); err != nil {
		tb.Fatal(err)
	}
	for k, name := range list {
		if k > 20 {
			break
		}
		values := r.Field(name, nil)
		if len(values) != len(rows) {
			tb.Fatalf("field %q has %d values, want %d", name, len(values), len(rows))
		}
		for i := range rows {
			checkValue(tb, name, whole[i], &values[i])
		}
		checkSummary(tb, s, blob, name, rows, values)
	}
}

func isObject(body []byte) bool {
	var f wire.Frame
	return wire.Scan(body, wire.Limits{Depth: 64, Keys: 1 << 30}, &f) == nil
}

func checkValue(tb testing.TB, name string, object gjson.Result, got *chunk.Value) {
	tb.Helper()
	want, ok := wire.Field(object, name)
	kind := chunk.Missing
	if ok {
		switch want.Type {
		case gjson.Null:
			kind = chunk.Null
		case gjson.False:
			kind = chunk.False
		case gjson.True:
			kind = chunk.True
		case gjson.Number:
			kind = chunk.Number
		case gjson.String:
			kind = chunk.String
		case gjson.JSON:
			kind = chunk.Array
			if want.IsObject() {
				kind = chunk.Object
			}
		}
	}
	if got.Kind != kind || string(got.Raw) != want.Raw || kind == chunk.Number && got.Number != want.Num {
		tb.Fatalf("field %q of %s is %d %v %q, want %d %v %q", name, object.Raw, got.Kind, got.Number, got.Raw, kind, want.Num, want.Raw)
	}
}

func checkSummary(tb testing.TB, s *chunk.Shapes, blob []byte, name string, rows []chunk.Row, values []chunk.Value) {
	tb.Helper()
	got, ok, err := chunk.Summaries(blob, s, name)
	if err != nil {
		tb.Fatal(err)
	}
	if !ok {
		return
	}
	want := chunk.Summary{Min: math.Inf(1), Max: math.Inf(-1)}
	size := 0.0
	for i, v := range values {
		if v.Kind == chunk.Number {
			want.Count++
			want.Min, want.Max = min(want.Min, v.Number), max(want.Max, v.Number)
			want.Sum += v.Number
			size += math.Abs(v.Number)
			want.Last, want.LastTime = v.Number, rows[i].Time
		}
	}
	if want.Count == 0 {
		want.Min, want.Max = 0, 0
	}
	if math.Abs(got.Sum-want.Sum) <= 1e-12*size {
		want.Sum = got.Sum
	}
	if got != want {
		tb.Fatalf("the summary of %q is %+v, want %+v", name, got, want)
	}
}

// chunkOf makes one chunk of rows by way of a run.
func chunkOf(tb testing.TB, s *chunk.Shapes, rows []chunk.Row) []byte {
	tb.Helper()
	var t chunk.Table
	if err := t.AddRun(s, runOf(tb, s, rows)); err != nil {
		tb.Fatal(err)
	}
	t.Sort()
	blob, err := t.Encode(nil, 0, t.Len())
	if err != nil {
		tb.Fatal(err)
	}
	return blob
}
