package chunk_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"signalbox/internal/history/chunk"
)

// TestCursor holds what cursors give, in steps of any width, to the rows themselves.
func TestCursor(t *testing.T) {
	for _, g := range []struct {
		name string
		rows func(rng *rand.Rand) []chunk.Row
	}{
		{"box", func(*rand.Rand) []chunk.Row { return rowsOf(1, 50, 700, box(1)) }},
		{"sensor", func(*rand.Rand) []chunk.Row { return rowsOf(1, 50, 1024, sensor(1)) }},
		{"mixed", func(rng *rand.Rand) []chunk.Row {
			one, two := box(2), sensor(2)
			return rowsOf(1, 10, 600, func(i int) []byte {
				switch rng.IntN(7) {
				case 0:
					return []byte("no JSON")
				case 1, 2:
					return one(i)
				}
				return two(i)
			})
		}},
		{"odd", func(rng *rand.Rand) []chunk.Row {
			var bodies [][]byte
			for range 3 {
				for _, b := range oddBodies() {
					bodies = append(bodies, []byte(b))
				}
			}
			return rowsFor(rng, bodies)
		}},
		{"one", func(*rand.Rand) []chunk.Row { return rowsOf(1, 1, 1, box(1)) }},
		{"out of order", func(rng *rand.Rand) []chunk.Row {
			rows := rowsOf(1, 50, 500, sensor(3))
			for i := range rows {
				rows[i].Time -= rng.Int64N(20_000_000)
			}
			return rows
		}},
		{"same time", func(*rand.Rand) []chunk.Row {
			rows := rowsOf(1, 5, 400, box(3))
			for i := range rows {
				rows[i].Time = rows[i/50*50].Time
			}
			return rows
		}},
	} {
		t.Run(g.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			rows := g.rows(rng)
			s := chunk.NewShapes(100)
			runOf(t, s, rows) // makes the shapes known
			run := runOf(t, s, rows)
			blob := chunkOf(t, s, rows)
			view := run.View()
			byTime := slices.Clone(rows)
			slices.SortStableFunc(byTime, func(a, b chunk.Row) int { return int(a.Time - b.Time) })
			for range 20 {
				checkCursor(t, s, nil, blob, byTime, chunk.ByTime, rng)
				checkCursor(t, s, nil, blob, rows, chunk.ByPosition, rng)
				checkCursor(t, s, &view, nil, rows, chunk.ByPosition, rng)
				if run.InOrder() {
					checkCursor(t, s, &view, nil, rows, chunk.ByTime, rng)
				}
			}
			checkRunRead(t, s, &view, byTime)
		})
	}
}

func checkCursor(t *testing.T, s *chunk.Shapes, run *chunk.Run, blob []byte, rows []chunk.Row, by chunk.By, rng *rand.Rand) {
	t.Helper()
	var c chunk.Cursor
	load := func() {
		if run != nil {
			c.LoadRun(s, run, by)
		} else if err := c.Load(s, blob, by); err != nil {
			t.Fatal(err)
		}
	}
	load()
	if !c.InOrder() {
		if by == chunk.ByPosition && !slices.IsSortedFunc(rows, func(a, b chunk.Row) int { return int(a.Time - b.Time) }) {
			return
		}
		t.Fatal("the rows are said to be out of order")
	}
	key := func(i int) int64 {
		if by == chunk.ByTime {
			return rows[i].Time
		}
		return int64(rows[i].Position)
	}
	var b chunk.Batch
	at := 0
	if rng.IntN(2) == 0 { // begin in the middle
		at = rng.IntN(len(rows))
		if rng.IntN(2) == 0 {
			c.Pass(&b, at)
		} else {
			c.PassBelow(&b, key(at))
			for at > 0 && key(at-1) == key(at) {
				at--
			}
		}
	}
	want := chunk.Want{Before: math.MaxUint64, From: math.MinInt64, To: math.MaxInt64, Bytes: math.MaxInt}
	for at < len(rows) {
		if c.Row() != at {
			t.Fatalf("the cursor stands at row %d, want %d", c.Row(), at)
		}
		n := at
		want.UpTo = key(min(at+rng.IntN(400), len(rows)-1))
		b.Reset()
		c.Read(&b, 7, &want)
		if rng.IntN(5) == 0 { // again, from the beginning
			load()
			c.Pass(&b, at)
			b.Reset()
			c.Read(&b, 7, &want)
		}
		for n < len(rows) && key(n) <= want.UpTo {
			n++
		}
		if len(b.Rows) != n-at || c.Err() != nil {
			t.Fatalf("from row %d the cursor gave %d rows (%v), want %d", at, len(b.Rows), c.Err(), n-at)
		}
		for i, r := range b.Rows {
			got := chunk.Row{Position: r.Position, Received: r.Received, Time: r.Time, Body: b.Bodies[r.From : r.From+int(r.Len)]}
			if !sameRow(&got, &rows[at+i]) || r.Owner != 7 {
				t.Fatalf("row %d is %+v %q\nwant %+v %q", at+i, got, got.Body, rows[at+i], rows[at+i].Body)
			}
		}
		at = n
	}
	if c.Row() != len(rows) || c.Len() != len(rows) {
		t.Fatalf("at the end the cursor stands at row %d of %d, want %d", c.Row(), c.Len(), len(rows))
	}
}

// checkRunRead holds a Reader of a run to the rows, which are sorted.
func checkRunRead(t *testing.T, s *chunk.Shapes, run *chunk.Run, rows []chunk.Row) {
	t.Helper()
	var r chunk.Reader
	for range 2 {
		if err := r.LoadRun(s, run); err != nil {
			t.Fatal(err)
		}
		if r.Len() != len(rows) || len(r.Times()) != len(rows) {
			t.Fatalf("the run has %d rows and %d times, want %d", r.Len(), len(r.Times()), len(rows))
		}
		for i := range rows {
			got := chunk.Row{Position: r.Position(i), Received: r.Received(i), Time: r.Times()[i], Imported: r.Imported(i), Body: r.AppendBody(nil, i)}
			if !sameRow(&got, &rows[i]) {
				t.Fatalf("row %d of the run is %+v %q\nwant %+v %q", i, got, got.Body, rows[i], rows[i].Body)
			}
		}
	}
}

// TestCursorWants passes over the rows that are not wanted.
func TestCursorWants(t *testing.T) {
	rows := rowsOf(1, 50, 700, box(1))
	s := chunk.NewShapes(100)
	runOf(t, s, rows)
	run, blob := runOf(t, s, rows), chunkOf(t, s, rows)
	w := chunk.Want{UpTo: math.MaxInt64, Before: rows[600].Position, From: rows[100].Time, To: rows[500].Time, Bytes: math.MaxInt}
	for _, load := range []func(c *chunk.Cursor) error{
		func(c *chunk.Cursor) error { return c.Load(s, blob, chunk.ByTime) },
		func(c *chunk.Cursor) error { c.LoadRun(s, run, chunk.ByTime); return nil },
	} {
		var c chunk.Cursor
		if err := load(&c); err != nil {
			t.Fatal(err)
		}
		var b chunk.Batch
		c.Read(&b, 0, &w)
		if len(b.Rows) != 401 || b.Rows[0].Position != rows[100].Position {
			t.Fatalf("%d rows from position %d on, want 401 from %d on", len(b.Rows), b.Rows[0].Position, rows[100].Position)
		}
		for i, r := range b.Rows {
			if body := b.Bodies[r.From : r.From+int(r.Len)]; string(body) != string(rows[100+i].Body) {
				t.Fatalf("row %d is %s, want %s", i, body, rows[100+i].Body)
			}
		}
		if c.Row() != len(rows) {
			t.Errorf("the cursor stands at row %d, want %d", c.Row(), len(rows))
		}
	}
}

// TestRunView holds a view to what it was made of while the run grows.
func TestRunView(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	var bodies [][]byte
	one, two := box(2), sensor(2)
	for i := range 400 {
		switch rng.IntN(9) {
		case 0:
			bodies = append(bodies, []byte(oddBodies()[rng.IntN(40)]))
		case 1, 2:
			bodies = append(bodies, one(i))
		default:
			bodies = append(bodies, two(i))
		}
	}
	rows := rowsFor(rng, bodies)
	s := chunk.NewShapes(100)
	var run chunk.Run
	var views []chunk.Run
	for i := range rows {
		run.Append(s, &rows[i])
		views = append(views, run.View())
	}
	for i := range views {
		checkRun(t, s, &views[i], rows[:i+1])
	}
	checkRun(t, s, &run, rows)
}
