package chunk

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"

	"signalbox"
)

// Table holds rows in columns while a chunk is built of them. Its memory is reused after
// Reset. It is for one goroutine. The zero value is empty and ready.
type Table struct {
	rows   []tableRow
	cells  []cell // of all rows; those of tagRef count from the arena
	arena  []byte
	shapes []*shape
	index  map[ShapeID]uint32 // into shapes

	run    runReader
	reader Reader
	enc    *zstd.Encoder
	build  builder
}

type tableRow struct {
	position       signalbox.Position
	received, time int64
	cell           uint32 // the first of its cells
	shape          shapeMark
}

// shapeMark is an index into shapes, and whether the row was imported. A field of its own would
// make rows, which are sorted, longer by a quarter.
type shapeMark uint32

const importedMark shapeMark = 1 << 31

func shapeOf(index uint32, imported bool) shapeMark {
	if imported {
		return shapeMark(index) | importedMark
	}
	return shapeMark(index)
}

func (s shapeMark) index() uint32  { return uint32(s &^ importedMark) }
func (s shapeMark) imported() bool { return s&importedMark != 0 }

const (
	// maxArena bounds what one table may hold, in bytes and in cells.
	maxArena = 1 << 30
	// keepBytes is how much memory of a kind is kept for the next chunk.
	keepBytes = 16 << 20
)

// Reset empties the table.
func (t *Table) Reset() {
	if cap(t.arena) > keepBytes {
		t.arena = nil
	}
	if cap(t.cells) > keepBytes/8 {
		t.cells = nil
	}
	t.rows, t.cells, t.arena, t.shapes = t.rows[:0], t.cells[:0], t.arena[:0], t.shapes[:0]
	clear(t.index)
}

// Len gives the number of rows.
func (t *Table) Len() int { return len(t.rows) }

// At gives a row's position and times, Unix µs.
func (t *Table) At(i int) (p signalbox.Position, received, time int64) {
	r := &t.rows[i]
	return r.position, r.received, r.time
}

// Sort orders the rows by time and, where that is equal, position.
func (t *Table) Sort() {
	if !slices.IsSortedFunc(t.rows, compareRows) {
		slices.SortFunc(t.rows, compareRows)
	}
}

func compareRows(a, b tableRow) int {
	if c := cmp.Compare(a.time, b.time); c != 0 {
		return c
	}
	return cmp.Compare(a.position, b.position)
}

// Partition puts the rows for which late is false first, and the others behind them, both
// in the order they had. It returns how many come first.
func (t *Table) Partition(late func(time int64) bool) int {
	n := 0
	var behind []tableRow
	for _, r := range t.rows {
		if late(r.time) {
			behind = append(behind, r)
		} else {
			t.rows[n] = r
			n++
		}
	}
	copy(t.rows[n:], behind)
	return n
}

// shapeIndex gives where a shape stands in t.shapes.
func (t *Table) shapeIndex(sh *shape) uint32 {
	if i, ok := t.index[sh.id]; ok {
		return i
	}
	if t.index == nil {
		t.index = make(map[ShapeID]uint32)
	}
	i := uint32(len(t.shapes))
	t.shapes = append(t.shapes, sh)
	t.index[sh.id] = i
	return i
}

// room says whether n more bytes of tokens and some cells may come.
func (t *Table) room(n int) error {
	if len(t.arena)+n > maxArena || len(t.cells) > maxArena {
		return fmt.Errorf("%w: a table holds at most %d bytes of tokens", ErrTooLarge, maxArena)
	}
	return nil
}

// AddRun adds the rows of a run, which was filled with s. With an error, which can only come
// from a wrong s or from too many bytes, the table is as it was.
func (t *Table) AddRun(s *Shapes, r *Run) error {
	d := &t.run
	d.open(s, r)
	if err := t.room(len(d.rows)); err != nil {
		return err
	}
	rows, cells, arena := len(t.rows), len(t.cells), len(t.arena)
	t.arena = append(t.arena, d.rows...)
	var last *shape
	var index uint32
	for d.next() {
		at := len(t.cells)
		sh := d.sh
		if sh == nil {
			if d.raw.to-d.raw.from > maxRef {
				d.err = fmt.Errorf("%w: a body has %d bytes, at most %d are allowed", ErrTooLarge, d.raw.to-d.raw.from, maxRef)
				break
			}
			sh = t.addRaw(s, span{d.raw.from + arena, d.raw.to + arena})
		} else {
			for _, c := range d.cells {
				t.cells = append(t.cells, rebase(c, arena))
			}
		}
		if sh != last {
			last, index = sh, t.shapeIndex(sh)
		}
		t.rows = append(t.rows, tableRow{d.position, d.received, d.time, uint32(at), shapeOf(index, d.imported)})
	}
	if d.err != nil {
		t.rows, t.cells, t.arena = t.rows[:rows], t.cells[:cells], t.arena[:arena]
		return d.err
	}
	return nil
}

// addRaw adds the cells of a body in the arena that was kept raw. Its shape may be known by
// now: the first body of each shape is kept raw.
func (t *Table) addRaw(s *Shapes, body span) *shape {
	w := s.walker()
	defer s.done(w)
	if sh := s.known(w, t.arena[body.from:body.to]); sh != nil {
		for _, l := range w.leaves {
			t.cells = append(t.cells, cellAt(t.arena, body.from+l.from, body.from+l.to))
		}
		return sh
	}
	t.cells = append(t.cells, refCell(body.from, body.to-body.from))
	return s.raw
}

// AddChunk adds the rows of a chunk. With an error, which wraps ErrBroken when the chunk does
// not decode, the table is as it was.
func (t *Table) AddChunk(s *Shapes, blob []byte) error {
	r := &t.reader
	if err := r.Load(s, blob); err != nil {
		return err
	}
	if err := t.room(len(r.payload)); err != nil {
		return err
	}
	if r.rowsOnce(); r.err != nil {
		return r.err
	}
	for i := range r.parts {
		r.decodePart(i)
	}
	if r.err != nil {
		return r.err
	}
	arena := len(t.arena)
	t.arena = append(t.arena, r.payload...)
	for i := range r.head.N {
		part, j := r.place(i)
		at := len(t.cells)
		sh, cols := r.parts[part].sh, r.cols[part].list
		if sh.id == 0 {
			sh = t.addRaw(s, t.bodySpan(cols[0].at(j), arena))
		} else {
			for slot := range cols {
				t.cells = append(t.cells, rebase(cols[slot].at(j), arena))
			}
		}
		t.rows = append(t.rows, tableRow{r.Position(i), r.Received(i), r.times[i], uint32(at), shapeOf(t.shapeIndex(sh), r.Imported(i))})
	}
	return nil
}

// bodySpan gives where the body of a raw row stands in the arena; base is where the payload
// of its chunk begins there.
func (t *Table) bodySpan(c cell, base int) span {
	if isRef(c) {
		from := base + int(c>>offBits)
		return span{from, from + cellLen(c)}
	}
	// A body that is a single number or word.
	from := len(t.arena)
	t.arena = appendCell(t.arena, nil, c)
	return span{from, len(t.arena)}
}
