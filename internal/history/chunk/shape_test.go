package chunk_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"signalbox"
	"signalbox/internal/history/chunk"
)

func TestShapes(t *testing.T) {
	s := chunk.NewShapes(100)
	var run chunk.Run
	for i, body := range []string{`{"a":1}`, `{"a":2}`, `{"b":1}`, `{"b":[2]}`, `{"b":"3"}`, `{"never again":1}`} {
		run.Append(s, &chunk.Row{Position: signalbox.Position(i + 1), Body: []byte(body)})
	}
	fresh := s.Fresh()
	if len(fresh) != 2 || s.Len() != 2 || fresh[0].ID != 1 || fresh[1].ID != 2 {
		t.Fatalf("fresh are %v of %d, want 1 and 2", fresh, s.Len())
	}
	if more := s.Fresh(); more != nil {
		t.Errorf("once more fresh are %v", more)
	}
	s.Restore(fresh)
	again := s.Fresh()
	if len(again) != 2 || again[0].ID != 1 || !bytes.Equal(again[0].Text, fresh[0].Text) {
		t.Errorf("restored are %v", again)
	}

	other := chunk.NewShapes(1)
	for _, f := range []chunk.StoredShape{{ID: 7, Text: fresh[0].Text}, {ID: 3, Text: fresh[1].Text}, {ID: 7, Text: fresh[0].Text}} {
		if err := other.Load(f.ID, f.Text); err != nil {
			t.Fatal(err)
		}
	}
	if other.Len() != 2 || other.Fresh() != nil {
		t.Errorf("%d shapes were loaded, some fresh", other.Len())
	}
	for _, f := range []chunk.StoredShape{
		{ID: 0, Text: fresh[0].Text},
		{ID: chunk.MaxShapes + 1, Text: fresh[0].Text},
		{ID: 7, Text: fresh[1].Text},
		{ID: 8, Text: nil},
		{ID: 8, Text: append(slices.Clone(fresh[0].Text), 0)},
		{ID: 8, Text: fresh[0].Text[:3]},
		{ID: 8, Text: []byte("\x01\x00\x031")},
		{ID: 8, Text: []byte("\x01\x01\x05{\"a\":\x04,2}x")},
		{ID: 8, Text: []byte("\x01\x01\x06{\"a\":1\x01}")},
		{ID: 8, Text: []byte("\x01\x02\x05{\"a\":\x00\x01}")},
	} {
		if err := other.Load(f.ID, f.Text); !errors.Is(err, chunk.ErrBroken) {
			t.Errorf("shape %d %q: %v", f.ID, f.Text, err)
		}
	}
}

// TestShapesLimit sends keys that never come again, and more shapes than the table takes.
func TestShapesLimit(t *testing.T) {
	s := chunk.NewShapes(10)
	rng := rand.New(rand.NewPCG(1, 9))
	var bodies [][]byte
	for i := range 300 {
		bodies = append(bodies, fmt.Appendf(nil, `{"t%d":%d}`, i, i))
	}
	rows := rowsFor(rng, bodies)
	checkChunk(t, s, chunkOf(t, s, rows), sorted(rows))
	if s.Len() != 0 {
		t.Errorf("%d shapes were taken in that were seen once", s.Len())
	}
	bodies = append(bodies, bodies...)
	slices.SortFunc(bodies, bytes.Compare)
	rows = rowsFor(rng, bodies)
	checkChunk(t, s, chunkOf(t, s, rows), sorted(rows))
	if s.Len() != 10 || s.Refused() < 290 {
		t.Errorf("%d shapes were taken in and %d bodies refused, want 10 and 290", s.Len(), s.Refused())
	}
}

// TestShapesConcurrent fills runs from several goroutines, with shapes that are new to all of
// them, while another one takes what is fresh.
func TestShapesConcurrent(t *testing.T) {
	s := chunk.NewShapes(300)
	var group sync.WaitGroup
	runs := make([]chunk.Run, 4)
	rows := make([][]chunk.Row, len(runs))
	for g := range runs {
		var bodies [][]byte
		rng := rand.New(rand.NewPCG(uint64(g), 12))
		for range 2000 {
			bodies = append(bodies, fmt.Appendf(nil, `{"k%d":%d}`, rng.IntN(250), rng.IntN(100)))
		}
		rows[g] = rowsFor(rng, bodies)
		group.Go(func() {
			for i := range rows[g] {
				runs[g].Append(s, &rows[g][i])
			}
		})
	}
	stored := map[chunk.ShapeID]bool{}
	store := func() {
		for _, f := range s.Fresh() {
			if stored[f.ID] {
				t.Errorf("shape %d was fresh twice", f.ID)
			}
			stored[f.ID] = true
		}
	}
	store()
	group.Wait()
	store()
	if len(stored) != 250 || s.Len() != 250 {
		t.Errorf("%d shapes were fresh and %d are there, want 250", len(stored), s.Len())
	}
	for g := range runs {
		checkRun(t, s, &runs[g], rows[g])
	}
}
