package chunk_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"signalbox"
	"signalbox/internal/history/chunk"
)

func TestOddBodies(t *testing.T) {
	for i, body := range oddBodies() {
		for _, n := range []int{1, 2, 3, 5, 70} {
			rng := rand.New(rand.NewPCG(uint64(i), uint64(n)))
			bodies := make([][]byte, n)
			for j := range bodies {
				bodies[j] = []byte(body)
			}
			s := chunk.NewShapes(10)
			rows := rowsFor(rng, bodies)
			checkChunk(t, s, chunkOf(t, s, rows), sorted(rows))
		}
	}
}

// TestMixedBodies puts all kinds of body into one chunk, in any order.
func TestMixedBodies(t *testing.T) {
	odd := oddBodies()
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 4))
		var bodies [][]byte
		box, sensor := box(seed), sensor(seed)
		for range 1 + rng.IntN(300) {
			switch rng.IntN(4) {
			case 0:
				bodies = append(bodies, []byte(odd[rng.IntN(len(odd))]))
			case 1:
				bodies = append(bodies, box(0))
			case 2:
				bodies = append(bodies, sensor(len(bodies)))
			case 3:
				bodies = append(bodies, fmt.Appendf(nil, `{"a":%s,"b.c":{"d":%v}}`, []string{"1", "1.5", `"1.25"`, "null", `"x"`, "[1]", "true", "1e3"}[rng.IntN(8)], rng.Float64()))
			}
		}
		s := chunk.NewShapes(10)
		rows := rowsFor(rng, bodies)
		checkChunk(t, s, chunkOf(t, s, rows), sorted(rows))
	}
}

func TestColumns(t *testing.T) {
	for name, value := range columnCases() {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{2, 3, 4, 17, 63, 64, 200, 1500} {
				rng := rand.New(rand.NewPCG(uint64(n), 5))
				bodies := make([][]byte, n)
				for i := range bodies {
					bodies[i] = fmt.Appendf(nil, `{"before":"x","v":{"w":%s}}`, value(rng, i))
				}
				s := chunk.NewShapes(10)
				rows := rowsFor(rng, bodies)
				checkChunk(t, s, chunkOf(t, s, rows), sorted(rows))
			}
		})
	}
}

// TestTable holds chunks that were merged, with each other and with runs, to their rows.
func TestTable(t *testing.T) {
	odd := slices.DeleteFunc(oddBodies(), func(body string) bool { return len(body) > 10_000 })
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 6))
		makers := []func(int) []byte{box(seed), sensor(seed), func(i int) []byte { return []byte(odd[i%len(odd)]) }}
		bodies := make([][]byte, 300)
		for i := range bodies {
			bodies[i] = makers[rng.IntN(len(makers))](i)
		}
		s := chunk.NewShapes(5)
		rows := rowsFor(rng, bodies)
		var pieces, merged chunk.Table
		for at := 0; at < len(rows); {
			n := min(1+rng.IntN(100), len(rows)-at)
			run := runOf(t, s, rows[at:at+n])
			if rng.IntN(2) == 0 {
				if err := merged.AddRun(s, run); err != nil {
					t.Fatal(err)
				}
			} else {
				pieces.Reset()
				if err := pieces.AddRun(s, run); err != nil {
					t.Fatal(err)
				}
				pieces.Sort()
				blob, err := pieces.Encode(nil, 0, n)
				if err != nil {
					t.Fatal(err)
				}
				if err := merged.AddChunk(s, blob); err != nil {
					t.Fatal(err)
				}
			}
			at += n
		}
		merged.Sort()
		rows = sorted(rows)
		for i := range rows {
			if p, received, time := merged.At(i); p != rows[i].Position || received != rows[i].Received || time != rows[i].Time {
				t.Fatalf("row %d is at %d, %d, %d; want %+v", i, p, received, time, rows[i])
			}
		}
		// In two chunks, and some bytes before them.
		prefix := []byte("before")
		half := rng.IntN(len(rows)-1) + 1
		for _, cut := range [][2]int{{0, half}, {half, len(rows)}, {0, len(rows)}} {
			blob, err := merged.Encode(prefix, cut[0], cut[1])
			if err != nil {
				t.Fatal(err)
			}
			checkChunk(t, s, blob[len(prefix):], rows[cut[0]:cut[1]])
		}
	}
}

func TestPartition(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 7))
	bodies := make([][]byte, 200)
	maker := box(1)
	for i := range bodies {
		bodies[i] = maker(i)
	}
	s := chunk.NewShapes(5)
	rows := rowsFor(rng, bodies)
	var table chunk.Table
	if err := table.AddRun(s, runOf(t, s, rows)); err != nil {
		t.Fatal(err)
	}
	bound := rows[100].Time
	n := table.Partition(func(time int64) bool { return time < bound })
	var want []chunk.Row
	for _, late := range []bool{false, true} {
		for i := range rows {
			if (rows[i].Time < bound) == late {
				want = append(want, rows[i])
			}
		}
		if !late && n != len(want) {
			t.Errorf("%d rows come first, want %d", n, len(want))
		}
	}
	for i := range want {
		if p, _, _ := table.At(i); p != want[i].Position {
			t.Fatalf("row %d is at %d, want %d", i, p, want[i].Position)
		}
	}
}

// TestRunReset uses a run's memory again.
func TestRunReset(t *testing.T) {
	s := chunk.NewShapes(10)
	var run chunk.Run
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 8))
		maker := []func(int) []byte{box(seed), sensor(seed)}[seed%2]
		bodies := make([][]byte, 50)
		for i := range bodies {
			bodies[i] = maker(i)
		}
		rows := rowsFor(rng, bodies)
		for i := range rows {
			run.Append(s, &rows[i])
		}
		checkRun(t, s, &run, rows)
		if run.Size() > 50*40 {
			t.Errorf("50 rows take %d bytes", run.Size())
		}
		run.Reset()
		if run.Len() != 0 || run.First() != 0 || run.Last() != 0 {
			t.Errorf("the run is not empty: %d rows, %d…%d", run.Len(), run.First(), run.Last())
		}
		checkRun(t, s, &run, nil)
	}
}

// TestBrokenChunk turns each bit of a chunk.
func TestBrokenChunk(t *testing.T) {
	s := chunk.NewShapes(10)
	blob := chunkOf(t, s, rowsOf(1, 3, 100, box(1)))
	for i := range len(blob) * 8 {
		bad := slices.Clone(blob)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := chunk.Open(bad); !errors.Is(err, chunk.ErrBroken) {
			t.Fatalf("bit %d turned: %v", i, err)
		}
	}
	for n := range blob {
		if _, err := chunk.Open(blob[:n]); !errors.Is(err, chunk.ErrBroken) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	var r chunk.Reader
	if err := r.Load(chunk.NewShapes(10), blob); !errors.Is(err, chunk.ErrBroken) {
		t.Errorf("without its shapes: %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		body   string
		rows   int // with a number before the body, unless it is an object
		lo, hi int
		want   error // nil: any
		ok     bool
	}{
		{"most rows", `{"a":1}`, chunk.MaxRows, 0, chunk.MaxRows, nil, true},
		{"too many rows", `{"a":1}`, chunk.MaxRows + 1, 0, chunk.MaxRows + 1, chunk.ErrTooLarge, false},
		{"too many values", wide(256), 16_385, 0, 16_385, chunk.ErrTooLarge, false},
		{"most values", wide(256), 16_385, 1, 16_385, nil, true},
		{"too many bytes", strings.Repeat("no object", 1<<20), 8, 0, 8, chunk.ErrTooLarge, false},
		{"no rows", `{"a":1}`, 6, 5, 5, nil, false},
		{"before the first", `{"a":1}`, 6, -1, 5, nil, false},
		{"behind the last", `{"a":1}`, 6, 0, 7, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := chunk.NewShapes(10)
			var table chunk.Table
			var run chunk.Run
			body := func(i int) []byte {
				if tt.body[0] != '{' {
					return fmt.Append(nil, i, tt.body)
				}
				return []byte(tt.body)
			}
			for i := range tt.rows {
				run.Append(s, &chunk.Row{Position: signalbox.Position(i + 1), Received: int64(i), Time: int64(i), Body: body(i)})
			}
			if err := table.AddRun(s, &run); err != nil {
				t.Fatal(err)
			}
			blob, err := table.Encode(nil, tt.lo, tt.hi)
			if (err == nil) != tt.ok || tt.want != nil && !errors.Is(err, tt.want) || err != nil && len(blob) > 0 {
				t.Fatalf("%d bytes, %v", len(blob), err)
			}
			if !tt.ok {
				return
			}
			var r chunk.Reader
			if err := r.Load(s, blob); err != nil {
				t.Fatal(err)
			}
			for _, i := range []int{0, r.Len() / 2, r.Len() - 1} {
				if got, want := r.AppendBody(nil, i), body(tt.lo+i); !bytes.Equal(got, want) {
					t.Errorf("row %d has a body of %d bytes, want %d", i, len(got), len(want))
				}
			}
		})
	}
}
