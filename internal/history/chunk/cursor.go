package chunk

import (
	"fmt"
	"slices"
	"sort"
	"unsafe"

	"signalbox"
)

// By says by what a Cursor goes.
type By uint8

// A Cursor goes by the time of the rows, or by their position.
const (
	ByTime By = iota
	ByPosition
)

// Cursor reads the rows of a chunk or of a run in order, each once, a few at a time, and keeps
// little between. It is for one goroutine. The zero value is ready to load.
type Cursor struct {
	layout
	by   By
	row  int
	pace int // rows that the last call took
	err  error

	which, times, lags, positions, marks intReader

	cols []columnReader // of all parts, one after another

	run   runReader // where runs is not 0
	runs  int       // rows of the run
	ahead bool      // run stands on a row that was not given yet
}

const (
	// cursorRows is how many rows a cursor decodes at once.
	cursorRows = 256
	// keepCursor is how much memory a closed cursor keeps.
	keepCursor = 64 << 10
)

// Load begins to read a chunk. s has to hold its shapes. InOrder tells whether it can be read
// in that order.
func (c *Cursor) Load(s *Shapes, blob []byte, by By) error {
	c.by, c.runs = by, 0
	if err := c.load(s, blob); err != nil {
		return err
	}
	return c.begin()
}

// LoadRun begins to read a run, which must not change meanwhile: see Run.View.
func (c *Cursor) LoadRun(s *Shapes, r *Run, by By) {
	c.by, c.runs = by, r.Len()
	c.run.open(s, r)
	c.row, c.ahead, c.err = 0, false, nil
}

// Close lets go of the chunk or run; the cursor may load another.
func (c *Cursor) Close() {
	if c.runs > 0 {
		c.run = runReader{states: c.run.states[:0]}
	}
	c.head, c.runs, c.row, c.ahead = Head{}, 0, 0, false
	if cap(c.payload) > keepCursor {
		c.payload = nil
	}
}

// begin goes to the first row of a chunk.
func (c *Cursor) begin() error {
	c.row, c.pace, c.err = 0, 0, nil
	n := c.head.N
	var ok [5]bool
	c.which, ok[0] = intReader{}, true
	if len(c.parts) > 1 {
		c.which, ok[0] = openInts(c.payload, c.whichSpan, n)
	}
	c.times, ok[1] = openInts(c.payload, c.timeSpan, n)
	c.lags, ok[2] = intReader{}, true
	if c.lagSpan.from < c.lagSpan.to {
		c.lags, ok[2] = openInts(c.payload, c.lagSpan, n)
	}
	c.positions, ok[3] = openInts(c.payload, c.posSpan, n)
	c.marks, ok[4] = intReader{}, true
	if c.markSpan.to > 0 {
		c.marks, ok[4] = openInts(c.payload, c.markSpan, n)
	}
	if ok != [5]bool{true, true, true, true, true} {
		return c.fail()
	}
	if err := c.count(); err != nil {
		return err
	}
	columns := 0
	for i := range c.parts {
		columns += len(c.parts[i].data)
	}
	c.cols = slices.Grow(c.cols[:0], columns)[:columns]
	at := 0
	for i := range c.parts {
		p := &c.parts[i]
		for slot := range p.data {
			if !c.cols[at].open(c.payload, p.data[slot], p.n) {
				return c.fail()
			}
			at++
		}
	}
	return nil
}

// count finds how many rows the parts have, where there are several.
func (c *Cursor) count() error {
	if len(c.parts) > 1 {
		for i := range c.parts {
			c.parts[i].n = 0
		}
		which := c.which
		var v [cursorRows]int64
		for left := c.head.N; left > 0; {
			some := v[:min(left, len(v))]
			which.read(c.payload, some)
			for _, w := range some {
				if w < 0 || w >= int64(len(c.parts)) {
					return c.fail()
				}
				c.parts[w].n++
			}
			left -= len(some)
		}
	}
	return c.counted()
}

func (c *Cursor) fail() error {
	c.row = c.Len()
	c.err = fmt.Errorf("%w: a chunk of %d rows does not decode", ErrBroken, c.head.N)
	return c.err
}

// InOrder says whether the rows of a chunk stand in the order that was asked for: of positions
// they may not.
func (c *Cursor) InOrder() bool {
	if c.by == ByTime || c.runs > 0 {
		return true
	}
	positions := c.positions
	before := int64(-1)
	var v [cursorRows]int64
	for left := c.head.N; left > 0; {
		some := v[:min(left, len(v))]
		positions.read(c.payload, some)
		for _, p := range some {
			if p < before {
				return false
			}
			before = p
		}
		left -= len(some)
	}
	return true
}

// Len gives the number of all rows.
func (c *Cursor) Len() int {
	if c.runs > 0 {
		return c.runs
	}
	return c.head.N
}

// Row gives how many rows have been passed.
func (c *Cursor) Row() int { return c.row }

// Size gives about how many bytes of memory the cursor holds, those of a run apart.
func (c *Cursor) Size() int {
	n := int(unsafe.Sizeof(*c)) + cap(c.payload) + cap(c.cols)*int(unsafe.Sizeof(columnReader{})+unsafe.Sizeof(span{}))
	for i := range c.cols {
		n += cellBytes * cap(c.cols[i].dict)
	}
	for i := range c.run.states {
		n += cellBytes * cap(c.run.states[i].cells)
	}
	return n
}

// Err says what was found wrong since Load; the rows behind are not given.
func (c *Cursor) Err() error { return c.err }

// keys gives what the cursor goes by.
func (c *Cursor) keys() (r *intReader, base int64) {
	if c.by == ByTime {
		return &c.times, c.head.T0
	}
	return &c.positions, int64(c.head.P0)
}

// Pass passes over the rows before row n. It does not go back.
func (c *Cursor) Pass(b *Batch, n int) {
	if c.runs > 0 {
		for c.row < n && c.next() {
			c.ahead = false
			c.row++
		}
		return
	}
	n = min(n, c.head.N) - c.row
	if n <= 0 {
		return
	}
	c.row += n
	c.times.skip(c.payload, n)
	c.positions.skip(c.payload, n)
	c.passOthers(b, n)
}

// PassBelow passes over the rows whose key is less.
func (c *Cursor) PassBelow(b *Batch, key int64) {
	if c.runs > 0 {
		for c.next() && c.key() < key {
			c.ahead = false
			c.row++
		}
		return
	}
	n := 0
	r, base := c.keys()
	for c.row+n < c.head.N {
		some, all := c.someKeys(b, r, base, key-1, cursorRows, n)
		n += len(some)
		if !all {
			break
		}
	}
	if n == 0 {
		return
	}
	c.row += n
	if c.by == ByTime {
		c.positions.skip(c.payload, n)
	} else {
		c.times.skip(c.payload, n)
	}
	c.passOthers(b, n)
}

// passOthers passes over n rows of all but times and positions.
func (c *Cursor) passOthers(b *Batch, n int) {
	if c.lags.n > 0 {
		c.lags.skip(c.payload, n)
	}
	if c.marks.n > 0 {
		c.marks.skip(c.payload, n)
	}
	if len(c.parts) == 1 {
		c.passCells(b, 0, 0, n)
		return
	}
	for n > 0 {
		some := grown(&b.which, min(n, cursorRows))
		c.which.read(c.payload, some)
		first := 0
		for i := range c.parts {
			count := 0
			for _, w := range some {
				if w == int64(i) {
					count++
				}
			}
			c.passCells(b, i, first, count)
			first += len(c.parts[i].data)
		}
		n -= len(some)
	}
}

func (c *Cursor) passCells(b *Batch, part, first, n int) {
	for i := range c.parts[part].data {
		if !c.cols[first+i].skip(c.payload, n, &b.scratch) {
			_ = c.fail()
		}
	}
}

// someKeys reads up to n further keys, less base, that are not greater than upTo, behind the
// passed rows and some more; all says that there may be others.
func (c *Cursor) someKeys(b *Batch, r *intReader, base, upTo int64, n, more int) (some []int64, all bool) {
	n = min(n, c.head.N-c.row-more)
	some = grown(&b.keys, n)
	before := *r
	r.read(c.payload, some)
	if n == 0 || some[n-1]+base <= upTo {
		return some, true
	}
	n = sort.Search(n, func(i int) bool { return some[i]+base > upTo })
	*r = before
	r.read(c.payload, some[:n])
	return some[:n], false
}

// Read adds the next rows that w wants to a batch, with the number of their owner.
func (c *Cursor) Read(b *Batch, owner uint32, w *Want) {
	if c.runs > 0 {
		c.readRun(b, owner, w)
		return
	}
	from := c.row
	r, base := c.keys()
	for c.row < c.head.N && len(b.Bodies) < w.Bytes {
		most := min(max(c.pace+c.pace/4+8, 32), cursorRows)
		some, all := c.someKeys(b, r, base, w.UpTo, most, 0)
		if len(some) == 0 {
			break
		}
		c.row += len(some)
		c.rows(b, some, owner, w)
		if !all || c.err != nil {
			break
		}
		c.pace = cursorRows
	}
	c.pace = c.row - from
}

// rows adds rows with those keys.
func (c *Cursor) rows(b *Batch, keys []int64, owner uint32, w *Want) {
	n := len(keys)
	times, positions := keys, grown(&b.others, n)
	if c.by == ByTime {
		c.positions.read(c.payload, positions)
	} else {
		times, positions = positions, times
		c.times.read(c.payload, times)
	}
	lags := grown(&b.lags, n)
	if c.lags.n > 0 {
		c.lags.read(c.payload, lags)
	} else {
		clear(lags)
	}
	marks := grown(&b.marks, n)
	if c.marks.n > 0 {
		if c.marks.read(c.payload, marks); !areMarks(marks) {
			_ = c.fail()
		}
	} else {
		clear(marks)
	}
	which := c.columns(b, n)
	if c.err != nil {
		return
	}
	p := 0
	for i := range n {
		if which != nil {
			p = int(which[i])
		}
		part := &b.parts[p]
		j := part.next
		part.next++
		part.dirty = part.dirty || part.changed[j]
		position, t := c.head.P0+signalbox.Position(positions[i]), c.head.T0+times[i]
		if !w.Takes(position, t, marks[i] != 0) {
			continue
		}
		if part.dirty {
			part.dirty = false
			part.from = len(b.Bodies)
			b.Bodies = part.append(b.Bodies, c.parts[p].sh, c.payload, j)
			part.len = uint32(len(b.Bodies) - part.from)
		}
		b.Rows = append(b.Rows, BatchRow{position, t + lags[i], t, part.from, part.len, owner})
	}
}

// columns decodes the columns of n rows, and gives which part each is of: nil if there is one.
func (c *Cursor) columns(b *Batch, n int) (which []int64) {
	b.parts = slices.Grow(b.parts[:0], len(c.parts))[:len(c.parts)]
	clear(b.parts)
	b.parts[0].n = n
	if len(c.parts) > 1 {
		which = grown(&b.which, n)
		c.which.read(c.payload, which)
		b.parts[0].n = 0
		for _, p := range which {
			b.parts[p].n++
		}
	}
	size, first := 0, 0
	for i := range b.parts {
		p := &b.parts[i]
		p.cols = c.cols[first : first+len(c.parts[i].data)]
		first += len(p.cols)
		size += p.n * len(p.cols)
	}
	cells, changed := grown(&b.cells, size), grown(&b.changed, n)
	clear(changed)
	for i := range b.parts {
		p := &b.parts[i]
		p.dirty = true
		p.cells, cells = cells[:p.n*len(p.cols)], cells[p.n*len(p.cols):]
		p.changed, changed = changed[:p.n], changed[p.n:]
		if p.n == 0 {
			continue
		}
		for slot := range p.cols {
			col := &p.cols[slot]
			if col.kind == colConst {
				continue
			}
			mine := p.cells[slot*p.n:][:p.n]
			if !col.read(c.payload, mine, &b.scratch) {
				_ = c.fail()
				return nil
			}
			before := mine[0]
			for j, x := range mine {
				if x != before {
					p.changed[j] = true
					before = x
				}
			}
		}
	}
	return which
}

// next goes to the next row of a run that was not given yet.
func (c *Cursor) next() bool {
	if !c.ahead {
		c.ahead = c.run.next()
		c.err = c.run.err
	}
	return c.ahead
}

// key is that of the row on which a run stands.
func (c *Cursor) key() int64 {
	if c.by == ByTime {
		return c.run.time
	}
	return int64(c.run.position)
}

func (c *Cursor) readRun(b *Batch, owner uint32, w *Want) {
	d := &c.run
	from, dirty := 0, true // the body that was made last
	for len(b.Bodies) < w.Bytes && c.next() && c.key() <= w.UpTo {
		c.ahead = false
		c.row++
		dirty = dirty || !d.same
		if !w.Takes(d.position, d.time, d.imported) {
			continue
		}
		if dirty {
			dirty = false
			from = len(b.Bodies)
			b.Bodies = d.appendBody(b.Bodies)
		}
		b.Rows = append(b.Rows, BatchRow{d.position, d.received, d.time, from, uint32(len(b.Bodies) - from), owner})
	}
}
