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

	"signalbox/internal/history/chunk"
)

// marked gives rows of which those are imported ones that mark says.
func marked(n int, mark func(i int) bool) []chunk.Row {
	rows := rowsOf(1, 20, n, box(1))
	for i := range rows {
		rows[i].Imported = mark(i)
	}
	return rows
}

// TestImportedVersion: a chunk in which nothing was imported is in version 1, and as long as it
// was before there was another; the marks of the others take little.
func TestImportedVersion(t *testing.T) {
	plain := chunkOf(t, chunk.NewShapes(10), marked(1000, func(int) bool { return false }))
	for _, tt := range []struct {
		name    string
		mark    func(i int) bool
		version byte
		most    int // bytes more than without
	}{
		{"none", func(int) bool { return false }, 1, 0},
		{"all", func(int) bool { return true }, 2, 8},
		{"one", func(i int) bool { return i == 500 }, 2, 16},
		{"the last", func(i int) bool { return i == 999 }, 2, 16},
		{"every other", func(i int) bool { return i%2 == 0 }, 2, 1000/8 + 16},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := chunk.NewShapes(10)
			rows := marked(1000, tt.mark)
			blob := chunkOf(t, s, rows)
			if more := len(blob) - len(plain); blob[0] != tt.version || more > tt.most {
				t.Errorf("version %d, %d bytes more; want version %d and at most %d", blob[0], more, tt.version, tt.most)
			}
			checkChunk(t, s, blob, rows)
		})
	}
}

// TestImportedMerge: chunks of both versions make one, which keeps the marks; a part without any
// is in version 1 again.
func TestImportedMerge(t *testing.T) {
	s := chunk.NewShapes(10)
	rows := marked(300, func(i int) bool { return i >= 200 && i%3 > 0 })
	var table chunk.Table
	for at := 0; at < len(rows); at += 50 {
		if err := table.AddChunk(s, chunkOf(t, s, rows[at:at+50])); err != nil {
			t.Fatal(err)
		}
	}
	for _, part := range []struct {
		lo, hi  int
		version byte
	}{{0, 300, 2}, {0, 200, 1}, {0, 201, 2}, {299, 300, 2}} {
		blob, err := table.Encode(nil, part.lo, part.hi)
		if err != nil {
			t.Fatal(err)
		}
		if blob[0] != part.version {
			t.Errorf("rows %d to %d are in version %d, want %d", part.lo, part.hi, blob[0], part.version)
		}
		checkChunk(t, s, blob, rows[part.lo:part.hi])
	}
}

// TestLive holds cursors that want what was not imported, in steps of any width, to the rows.
func TestLive(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 12))
		rows := rowsOf(seed, 30, 1+rng.IntN(1200), []func(int) []byte{box(seed), sensor(seed)}[seed%2])
		markSome(rng, rows)
		s := chunk.NewShapes(10)
		runOf(t, s, rows) // makes the shapes known
		run, blob := runOf(t, s, rows), chunkOf(t, s, rows)
		for _, by := range []chunk.By{chunk.ByTime, chunk.ByPosition} {
			for _, load := range []func(c *chunk.Cursor) error{
				func(c *chunk.Cursor) error { return c.Load(s, blob, by) },
				func(c *chunk.Cursor) error { c.LoadRun(s, run, by); return nil },
			} {
				var c chunk.Cursor
				if err := load(&c); err != nil {
					t.Fatal(err)
				}
				var b chunk.Batch
				at := rng.IntN(len(rows))
				c.Pass(&b, at)
				want := slices.Clone(rows[at:])
				w := chunk.Want{Before: math.MaxUint64, From: math.MinInt64, To: math.MaxInt64, Bytes: math.MaxInt}
				for at < len(rows) {
					at = min(at+1+rng.IntN(300), len(rows))
					if w.UpTo = rows[at-1].Time; by == chunk.ByPosition {
						w.UpTo = int64(rows[at-1].Position)
					}
					w.Live = true
					c.Read(&b, 0, &w)
				}
				want = slices.DeleteFunc(want, func(r chunk.Row) bool { return r.Imported })
				if c.Err() != nil || c.Row() != len(rows) || len(b.Rows) != len(want) {
					t.Fatalf("seed %d: %d rows up to row %d, %v; want %d of %d", seed, len(b.Rows), c.Row(), c.Err(), len(want), len(rows))
				}
				for i, r := range b.Rows {
					if r.Position != want[i].Position || r.Time != want[i].Time || !bytes.Equal(b.Bodies[r.From:r.From+int(r.Len)], want[i].Body) {
						t.Fatalf("seed %d: row %d is %+v, want %+v", seed, i, r, want[i])
					}
				}
			}
		}
	}
}

// TestBrokenMarks: marks that are none, and columns that are read as the other version, are found
// to be broken.
func TestBrokenMarks(t *testing.T) {
	s := chunk.NewShapes(10)
	rows := marked(2, func(int) bool { return true })
	whole := chunkOf(t, s, rows)
	plain := chunkOf(t, s, marked(2, func(int) bool { return false }))
	marks := []byte{3, 0, 0, 2} // a section of 3 bytes: plain numbers of no bits above 1
	if bytes.Count(whole, marks) != 1 {
		t.Fatalf("% x has not the marks as they are expected", whole)
	}
	for _, tt := range []struct {
		name string
		blob []byte
	}{
		{"as it is", whole},
		{"a mark of 2", bytes.Replace(whole, marks, []byte{3, 0, 0, 4}, 1)},
		{"a mark below 0", bytes.Replace(whole, marks, []byte{3, 0, 0, 1}, 1)},
		{"bits that are not there", bytes.Replace(whole, marks, []byte{3, 0, 1, 0}, 1)},
		{"an empty section", bytes.Replace(whole, marks, []byte{0}, 1)},
		{"no section", bytes.Replace(whole, marks, nil, 1)},
		{"no marks in version 2", append([]byte{2}, plain[1:]...)},
		{"marks in version 1", append([]byte{1}, whole[1:]...)},
		{"version 0", append([]byte{0}, whole[1:]...)},
		{"version 3", append([]byte{3}, whole[1:]...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			blob := slices.Clone(tt.blob)
			table := crc32.MakeTable(crc32.Castagnoli)
			binary.LittleEndian.PutUint32(blob[1:], crc32.Update(crc32.Update(0, table, blob[:1]), table, blob[5:]))
			broken := func(what string, err error) {
				t.Helper()
				if good := bytes.Equal(blob, whole); good && err != nil || !good && !errors.Is(err, chunk.ErrBroken) {
					t.Errorf("%s: %v", what, err)
				}
			}
			var r chunk.Reader
			err := r.Load(s, blob)
			if err == nil {
				r.Imported(0)
				r.AppendBody(nil, 0)
				err = r.Err()
			}
			broken("the reader", err)
			var c chunk.Cursor
			if err = c.Load(s, blob, chunk.ByTime); err == nil {
				var b chunk.Batch
				c.Read(&b, 0, &chunk.Want{UpTo: math.MaxInt64, Before: math.MaxUint64, From: math.MinInt64, To: math.MaxInt64, Bytes: math.MaxInt})
				err = c.Err()
			}
			broken("the cursor", err)
			var again chunk.Table
			broken("the table", again.AddChunk(s, blob))
		})
	}
}
