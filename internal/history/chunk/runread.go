package chunk

import (
	"fmt"

	"signalbox"
)

// runReader decodes the rows of a run one after another.
type runReader struct {
	s      *Shapes
	rows   []byte
	at     int
	states []runState
	cur    int
	loose  runState // of rows without a state

	position       signalbox.Position
	received, time int64
	imported       bool
	sh             *shape // nil: raw
	last           *runState
	same           bool   // the row's body is that of the one before
	cells          []cell // of the row, counting from rows; lent until the next one
	raw            span   // the body of a raw row, in rows
	err            error
}

type runState struct {
	sh    *shape
	cells []cell
}

func (d *runReader) open(s *Shapes, r *Run) {
	d.s, d.rows, d.at, d.cur, d.err = s, r.buf[r.states:], 0, 0, nil
	d.states, d.last, d.same = d.states[:0], nil, false
	d.position, d.received = 0, 0
}

// state gives room for a further state, with its former memory.
func (d *runReader) state() *runState {
	if len(d.states) < cap(d.states) {
		d.states = d.states[:len(d.states)+1]
	} else {
		d.states = append(d.states, runState{})
	}
	return &d.states[len(d.states)-1]
}

func (st *runState) begin(sh *shape) {
	st.sh = sh
	st.cells = st.cells[:0]
	for range sh.slots() {
		st.cells = append(st.cells, tagUnset)
	}
}

func (d *runReader) uvarint() uint64 {
	v, next := uvarint(d.rows, d.at)
	if next == 0 {
		d.fail("it ends early")
		return 0
	}
	d.at = next
	return v
}

func (d *runReader) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: a run at byte %d: %s", ErrBroken, d.at, what)
	}
}

// next decodes a row; false at the end, or when err is set.
func (d *runReader) next() bool {
	if d.err != nil || d.at >= len(d.rows) {
		return false
	}
	flags := d.rows[d.at]
	d.at++
	d.same, d.imported = false, flags&rowImported != 0
	d.position += signalbox.Position(d.uvarint())
	d.received += int64(d.uvarint())
	d.time = d.received
	if flags&rowLag != 0 {
		d.time -= int64(d.uvarint())
	}
	if flags&rowRaw != 0 {
		n := d.uvarint()
		if n > uint64(len(d.rows)-d.at) {
			d.fail("a body ends early")
			return false
		}
		d.sh, d.last, d.raw = nil, nil, span{d.at, d.at + int(n)}
		d.at += int(n)
		return d.err == nil
	}
	st := d.choose(flags)
	if st == nil {
		return false
	}
	d.sh, d.cells = st.sh, st.cells
	switch {
	case flags&rowSame != 0:
		d.same = st == d.last
	case st == &d.loose:
		for i := range st.cells {
			st.cells[i] = d.token(tagUnset)
		}
	default:
		marks := d.at
		d.at += (len(st.cells) + 7) / 8
		if d.at > len(d.rows) {
			d.fail("it ends early")
			return false
		}
		for i := range st.cells {
			if d.rows[marks+i/8]&(1<<(i%8)) != 0 {
				st.cells[i] = d.token(st.cells[i])
			}
		}
	}
	d.last = st
	return d.err == nil
}

// choose gives the state of a row.
func (d *runReader) choose(flags byte) *runState {
	if flags&rowShape == 0 {
		if d.cur >= len(d.states) {
			d.fail("a row has no shape")
			return nil
		}
		return &d.states[d.cur]
	}
	number := d.uvarint()
	if number > 0 && number <= uint64(len(d.states)) {
		d.cur = int(number) - 1
		return &d.states[d.cur]
	}
	sh := d.s.get(ShapeID(min(d.uvarint(), MaxShapes+1)))
	if sh == nil || number > uint64(len(d.states))+1 {
		d.fail("a row has a shape that is not in the table")
		return nil
	}
	st := &d.loose
	if number > 0 {
		d.cur = len(d.states)
		st = d.state()
	}
	st.begin(sh)
	return st
}

func (d *runReader) token(before cell) cell {
	u := d.uvarint()
	if u&1 != 0 {
		return decimalCell(mantissa(before)+unzigzag(u>>1), uint8(before&tagMask))
	}
	switch code := u >> 1; {
	case code == codeNull:
		return tagNull
	case code == codeTrue:
		return tagTrue
	case code == codeFalse:
		return tagFalse
	case code < codeRaw:
		return decimalCell(unzigzag(d.uvarint()), uint8(code-codeDecimal))
	default:
		n := code - codeRaw
		if n > uint64(len(d.rows)-d.at) || n > maxRef {
			d.fail("a token ends early")
			return tagUnset
		}
		c := refCell(d.at, int(n))
		d.at += int(n)
		return c
	}
}

// appendBody appends the body of the row.
func (d *runReader) appendBody(dst []byte) []byte {
	if d.sh == nil {
		return append(dst, d.rows[d.raw.from:d.raw.to]...)
	}
	for i, c := range d.cells {
		dst = appendCell(append(dst, d.sh.segs[i]...), d.rows, c)
	}
	return append(dst, d.sh.segs[len(d.cells)]...)
}

// Each calls f for each row in the order in which they were appended, with the body rebuilt,
// until f returns false. The row is lent for the call. s is what the rows were appended
// with.
func (r *Run) Each(s *Shapes, f func(i int, row *Row) bool) { r.EachOf(s, nil, f) }

// EachOf is Each for the rows that want chooses; the bodies of the others are not rebuilt.
func (r *Run) EachOf(s *Shapes, want func(p signalbox.Position, time int64, imported bool) bool, f func(i int, row *Row) bool) {
	var d runReader
	d.open(s, r)
	var row Row
	for i := 0; d.next(); i++ {
		if want != nil && !want(d.position, d.time, d.imported) {
			continue
		}
		row.Position, row.Received, row.Time = d.position, d.received, d.time
		row.Imported = d.imported
		row.Body = d.appendBody(row.Body[:0])
		if !f(i, &row) {
			return
		}
	}
}
