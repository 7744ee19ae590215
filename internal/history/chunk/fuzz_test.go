package chunk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"signalbox"
	"signalbox/internal/history/chunk"
)

// FuzzRun gives any bodies, separated by a byte 1, through a run and a chunk.
func FuzzRun(f *testing.F) {
	for _, body := range oddBodies() {
		if len(body) < 1000 {
			f.Add([]byte(body+"\x01"+body+"\x01"+body), uint64(1))
		}
	}
	f.Add([]byte("{\"a\":1}\x01{\"a\":2}\x01{\"b\":1}\x01{\"b\":\"2\"}\x01{\"a\":null}\x01{\"b\":[1]}"), uint64(2))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		bodies := bytes.Split(text, []byte{1})
		if len(bodies) > 200 {
			return
		}
		bodies = append(bodies, bodies...)
		s := chunk.NewShapes(4)
		rows := rowsFor(rand.New(rand.NewPCG(seed, 10)), bodies)
		blob := chunkOf(t, s, rows)
		rows = sorted(rows)
		checkChunk(t, s, blob, rows)
		var again chunk.Table
		if err := again.AddChunk(s, blob); err != nil {
			t.Fatal(err)
		}
		blob, err := again.Encode(nil, 0, again.Len())
		if err != nil {
			t.Fatal(err)
		}
		checkChunk(t, s, blob, rows)
	})
}

// FuzzLoad reads any bytes as a chunk, with a checksum that fits.
func FuzzLoad(f *testing.F) {
	s := chunk.NewShapes(10)
	for seed, maker := range []func(int) []byte{box(1), sensor(1), func(i int) []byte { return []byte(oddBodies()[i]) }} {
		f.Add(chunkOf(f, s, rowsOf(uint64(seed), 2, 5, maker)))
		rows := rowsOf(uint64(seed), 2, 70-10*seed/2, maker)
		f.Add(chunkOf(f, s, rows))
		for i := range rows {
			rows[i].Imported = i%3 > 0
		}
		f.Add(chunkOf(f, s, rows))
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		blob = slices.Clone(blob)
		if len(blob) > 5 {
			table := crc32.MakeTable(crc32.Castagnoli)
			binary.LittleEndian.PutUint32(blob[1:], crc32.Update(crc32.Update(0, table, blob[:1]), table, blob[5:]))
		}
		head, err := chunk.Open(blob)
		if err != nil && !errors.Is(err, chunk.ErrBroken) {
			t.Fatal(err)
		}
		var r chunk.Reader
		if r.Load(s, blob) != nil {
			return
		}
		if r.Len() != head.N {
			t.Fatalf("%d rows, the head says %d", r.Len(), head.N)
		}
		fields, _ := chunk.Fields(s, blob)
		for _, name := range append(fields, "temp") {
			if values := r.Field(name, nil); len(values) != r.Len() {
				t.Fatalf("%d values of %d rows", len(values), r.Len())
			}
			chunk.Summaries(blob, s, name)
		}
		var body []byte
		for i := range min(r.Len(), 100) {
			body = r.AppendBody(body[:0], i)
			_, _, _ = r.Position(i), r.Received(i), r.Imported(i)
		}
		fuzzCursor(t, s, blob, &r)
		var table chunk.Table
		if table.AddChunk(s, blob) == nil {
			table.Sort()
			if _, err := table.Encode(nil, 0, table.Len()); err != nil && !errors.Is(err, chunk.ErrTooLarge) {
				t.Fatal(err)
			}
		}
	})
}

// fuzzCursor goes through a chunk that r has loaded, and holds what it gives to r.
func fuzzCursor(t *testing.T, s *chunk.Shapes, blob []byte, r *chunk.Reader) {
	t.Helper()
	for _, by := range []chunk.By{chunk.ByTime, chunk.ByPosition} {
		var c chunk.Cursor
		if c.Load(s, blob, by) != nil || !c.InOrder() {
			continue
		}
		var b chunk.Batch
		w := chunk.Want{Before: math.MaxUint64, From: math.MinInt64, To: math.MaxInt64, Bytes: 1 << 20}
		w.Live = by == chunk.ByPosition
		c.Pass(&b, r.Len()/3)
		for c.Row() < c.Len() && len(b.Bodies) < w.Bytes && c.Err() == nil {
			from, at := len(b.Rows), c.Row()
			w.UpTo = r.Times()[at]
			if by == chunk.ByPosition {
				w.UpTo = int64(r.Position(at))
			}
			c.Read(&b, 0, &w)
			if c.Err() != nil {
				break
			}
			var taken []int
			for i := at; i < c.Row(); i++ {
				if !w.Live || !r.Imported(i) {
					taken = append(taken, i)
				}
			}
			if c.Row() == at || len(taken) != len(b.Rows)-from {
				t.Fatalf("from row %d the cursor went to row %d with %d rows, want %d", at, c.Row(), len(b.Rows)-from, len(taken))
			}
			for k, row := range b.Rows[from:] {
				if want := r.AppendBody(nil, taken[k]); r.Err() == nil && string(b.Bodies[row.From:row.From+int(row.Len)]) != string(want) {
					t.Fatalf("row %d of the cursor is not that of the reader, %q", taken[k], want)
				}
			}
		}
	}
}

// FuzzShapeLoad reads any bytes as a shape. What is taken is given back.
func FuzzShapeLoad(f *testing.F) {
	s := chunk.NewShapes(100)
	for _, body := range oddBodies() {
		var run chunk.Run
		for i := range 2 {
			run.Append(s, &chunk.Row{Position: signalbox.Position(i + 1), Body: []byte(body)})
		}
	}
	for _, stored := range s.Fresh() {
		f.Add(stored.Text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := chunk.NewShapes(10)
		if s.Load(1, text) != nil {
			return
		}
		s.Restore([]chunk.StoredShape{{ID: 1}})
		if list := s.Fresh(); len(list) != 1 || list[0].ID != 1 {
			t.Fatalf("%q gives %v", text, list)
		} else if err := chunk.NewShapes(10).Load(2, list[0].Text); err != nil {
			t.Fatalf("%q gives %q: %v", text, list[0].Text, err)
		}
	})
}
