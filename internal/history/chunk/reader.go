package chunk

import (
	"fmt"
	"slices"

	"signalbox"
)

// Reader reads chunks, one after another, with the same memory. It is for one goroutine; what
// it gives out is lent until the next Load. The zero value is ready.
type Reader struct {
	layout
	times []int64
	which []int64  // the part of each row, where there are several
	rank  []uint32 // and its place in it

	rowsRead               bool
	lags, positions, marks []int64 // no lags: all are 0; no marks: no row was imported

	cols    []columns // of the parts
	slab    []cell
	one     columnReader
	run     runReader // and what LoadRun makes of one
	rows    []tableRow
	cells   []cell
	scratch cellScratch
	text    []byte
	err     error
}

type columns struct {
	read bool // all of them
	list []column
}

type column struct {
	read  bool
	same  bool
	cells []cell // counting from the payload; one only where all are the same
}

func (c *column) at(j int) cell {
	if c.same {
		j = 0
	}
	return c.cells[j]
}

// Load checks and decompresses a chunk. s has to hold its shapes. Without success the reader
// is empty.
func (r *Reader) Load(s *Shapes, blob []byte) error {
	r.empty()
	err := r.load(s, blob)
	if err == nil {
		if !r.readRows() {
			err = fmt.Errorf("%w: the times of a chunk of %d rows do not decode", ErrBroken, r.head.N)
		} else {
			err = r.counted()
		}
	}
	if err != nil {
		r.head = Head{}
		r.times = r.times[:0]
		return err
	}
	r.addColumns()
	return nil
}

// LoadRun makes the reader read a run, which was filled with s, as if it were a chunk of its
// rows. Head().Raw is 0.
func (r *Reader) LoadRun(s *Shapes, run *Run) error {
	r.empty()
	r.head, r.parts = Head{}, r.parts[:0]
	d := &r.run
	d.open(s, run)
	r.payload = append(r.payload[:0], d.rows...)
	r.rows, r.cells = r.rows[:0], r.cells[:0]
	var last *shape
	at := 0 // its part
	for d.next() {
		sh := d.sh
		row := tableRow{d.position, d.received, d.time, uint32(len(r.cells)), 0}
		if sh == nil {
			sh = s.raw
			r.cells = append(r.cells, refCell(d.raw.from, d.raw.to-d.raw.from))
		} else {
			r.cells = append(r.cells, d.cells...)
		}
		if sh != last {
			last, at = sh, r.partOf(sh)
		}
		r.parts[at].n++
		row.shape = shapeOf(uint32(at), d.imported)
		r.rows = append(r.rows, row)
	}
	if d.err != nil {
		r.parts = r.parts[:0]
		return d.err
	}
	if !run.InOrder() {
		slices.SortFunc(r.rows, compareRows)
	}
	r.addColumns()
	r.spread()
	return nil
}

// partOf gives the number of the part of a shape, which it makes when it is new.
func (r *Reader) partOf(sh *shape) int {
	for i := range r.parts {
		if r.parts[i].sh == sh {
			return i
		}
	}
	r.addPart(sh)
	return len(r.parts) - 1
}

// spread makes columns of the rows and cells of a run.
func (r *Reader) spread() {
	if len(r.rows) == 0 {
		return
	}
	for i := range r.parts {
		p, c := &r.parts[i], &r.cols[i]
		c.read = true
		for slot := range c.list {
			c.list[slot] = column{read: true, cells: r.room(p.n)}
		}
		p.n = 0
	}
	r.rowsRead = true
	r.lags, r.positions, r.marks = r.lags[:0], r.positions[:0], r.marks[:0]
	var kinds shapeMark
	r.head = Head{N: len(r.rows), T0: r.rows[0].time, T1: r.rows[len(r.rows)-1].time, P0: r.rows[0].position, P1: r.rows[0].position}
	for i := range r.rows {
		r.head.P0, r.head.P1 = min(r.head.P0, r.rows[i].position), max(r.head.P1, r.rows[i].position)
		kinds |= r.rows[i].shape
	}
	for i := range r.rows {
		row := &r.rows[i]
		at := row.shape.index()
		p, list := &r.parts[at], r.cols[at].list
		for slot := range list {
			list[slot].cells[p.n] = r.cells[int(row.cell)+slot]
		}
		if len(r.parts) > 1 {
			r.which, r.rank = append(r.which, int64(at)), append(r.rank, uint32(p.n))
		}
		p.n++
		r.times = append(r.times, row.time)
		r.lags = append(r.lags, row.received-row.time)
		r.positions = append(r.positions, int64(row.position-r.head.P0))
		if kinds.imported() {
			r.marks = append(r.marks, markOf(row.shape.imported()))
		}
	}
}

// empty prepares the memory for a chunk.
func (r *Reader) empty() {
	if cap(r.slab) > keepBytes/8 {
		r.slab = nil
	}
	if cap(r.payload) > keepBytes {
		r.payload = nil
	}
	if cap(r.cells) > keepBytes/8 {
		r.cells = nil
	}
	r.err, r.rowsRead = nil, false
	r.slab, r.text = r.slab[:0], r.text[:0]
	r.times, r.which, r.rank = r.times[:0], r.which[:0], r.rank[:0]
}

// addColumns makes room for the columns of the parts, of which none is decoded.
func (r *Reader) addColumns() {
	r.cols = slices.Grow(r.cols[:0], len(r.parts))[:len(r.parts)]
	for i := range r.parts {
		n := r.parts[i].sh.slots()
		r.cols[i] = columns{list: slices.Grow(r.cols[i].list[:0], n)[:n]}
		clear(r.cols[i].list)
	}
}

// readRows reads the times, and of which part each row is; false when they are broken.
func (r *Reader) readRows() (ok bool) {
	n := r.head.N
	if len(r.parts) > 1 {
		if r.which, ok = readInts(r.payload[r.whichSpan.from:r.whichSpan.to], n, r.which); !ok {
			return false
		}
		for _, w := range r.which {
			if w < 0 || w >= int64(len(r.parts)) {
				return false
			}
			p := &r.parts[w]
			r.rank = append(r.rank, uint32(p.n))
			p.n++
		}
	}
	if r.times, ok = readInts(r.payload[r.timeSpan.from:r.timeSpan.to], n, r.times); !ok {
		return false
	}
	before := r.head.T0
	for i := range r.times {
		r.times[i] += r.head.T0
		if r.times[i] < before {
			return false
		}
		before = r.times[i]
	}
	return before == r.head.T1 && r.times[0] == r.head.T0
}

// rowsOnce decodes positions, lags and marks when they are first asked for.
func (r *Reader) rowsOnce() {
	if r.rowsRead {
		return
	}
	r.rowsRead = true
	var okLag, okPos bool
	okMark := true
	r.marks = r.marks[:0]
	if r.lagSpan.from == r.lagSpan.to {
		r.lags, okLag = r.lags[:0], true
	} else {
		r.lags, okLag = readInts(r.payload[r.lagSpan.from:r.lagSpan.to], r.head.N, r.lags[:0])
	}
	r.positions, okPos = readInts(r.payload[r.posSpan.from:r.posSpan.to], r.head.N, r.positions[:0])
	if r.markSpan.to > 0 {
		r.marks, okMark = readInts(r.payload[r.markSpan.from:r.markSpan.to], r.head.N, r.marks)
		okMark = okMark && areMarks(r.marks)
	}
	if !okLag || !okPos || !okMark {
		r.fail("positions, times of receipt or marks")
		r.lags, r.marks = r.lags[:0], r.marks[:0]
		r.positions = slices.Grow(r.positions[:0], r.head.N)[:r.head.N]
		clear(r.positions)
	}
}

func (r *Reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: the %s of a chunk of %d rows do not decode", ErrBroken, what, r.head.N)
	}
}

// Err says what was found wrong since Load, in what is decoded only when it is asked for:
// Position, Received, Imported, AppendBody and Field give nothing for it. It wraps ErrBroken.
func (r *Reader) Err() error { return r.err }

// Len gives the number of rows.
func (r *Reader) Len() int { return r.head.N }

// Head gives what the chunk says of itself.
func (r *Reader) Head() Head { return r.head }

// Times gives the times of all rows, ascending, Unix µs.
func (r *Reader) Times() []int64 { return r.times }

// Position gives the position of row i.
func (r *Reader) Position(i int) signalbox.Position {
	r.rowsOnce()
	return r.head.P0 + signalbox.Position(r.positions[i])
}

// Received gives when row i was received, Unix µs.
func (r *Reader) Received(i int) int64 {
	r.rowsOnce()
	if len(r.lags) == 0 {
		return r.times[i]
	}
	return r.times[i] + r.lags[i]
}

// Imported says whether row i was imported. In chunks that were made before there was version 2
// no row is known to be.
func (r *Reader) Imported(i int) bool {
	r.rowsOnce()
	return len(r.marks) > 0 && r.marks[i] != 0
}

// place gives the number of the part of row i, and its place in it.
func (r *Reader) place(i int) (part, j int) {
	if len(r.parts) == 1 {
		return 0, i
	}
	return int(r.which[i]), int(r.rank[i])
}

// AppendBody appends the body of row i, exactly as it was; nothing when it does not decode
// (see Err).
func (r *Reader) AppendBody(dst []byte, i int) []byte {
	part, j := r.place(i)
	cols := r.decodePart(part)
	if r.err != nil {
		return dst
	}
	segs := r.parts[part].sh.segs
	for slot := range cols {
		dst = append(dst, segs[slot]...)
		dst = appendCell(dst, r.payload, cols[slot].at(j))
	}
	return append(dst, segs[len(segs)-1]...)
}

// decodePart decodes all columns of a part.
func (r *Reader) decodePart(part int) []column {
	c := &r.cols[part]
	if !c.read {
		c.read = true
		for slot := range c.list {
			r.column(part, slot)
		}
	}
	return c.list
}

// column decodes a column, once. One that is broken holds nothing, and Err says so.
func (r *Reader) column(part, slot int) *column {
	c := &r.cols[part].list[slot]
	if c.read {
		return c
	}
	c.read = true
	p := &r.parts[part]
	ok := r.one.open(r.payload, p.data[slot], p.n)
	if ok && r.one.kind != colConst {
		c.cells = r.room(p.n)
		ok = r.one.read(r.payload, c.cells, &r.scratch)
	} else if c.same, c.cells = true, r.room(1); ok {
		c.cells[0] = r.one.one
	}
	if !ok {
		c.same, c.cells = true, r.room(1)
		c.cells[0] = tagUnset
		r.fail("values")
	}
	return c
}

// room gives memory for n cells; those given before keep theirs.
func (r *Reader) room(n int) []cell {
	if cap(r.slab)-len(r.slab) < n {
		r.slab = make([]cell, 0, max(n, 2*cap(r.slab), 4096))
	}
	from := len(r.slab)
	r.slab = r.slab[:from+n]
	return r.slab[from : from+n : from+n]
}
