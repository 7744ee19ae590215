package chunk

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"signalbox"
)

// Row is one message of a device.
type Row struct {
	Position signalbox.Position
	// Received and Time are Unix µs; Time is not later than Received.
	Received, Time int64
	// Imported says that the message came by an import, and is no news.
	Imported bool
	// Body is the object exactly as the device sent it, or any bytes. It is lent.
	Body []byte
}

// Run gathers the rows of one device in memory, a few bytes each. The zero value is empty
// and ready. It is not for use from several goroutines at once.
type Run struct {
	// buf holds the states, one after another, and behind them the rows. A state is a
	// shape's number and its slots, each in 4 bytes, and then the cell of each slot as it
	// was in the last row of that shape. Cells of tagRef count from the first row.
	buf    []byte
	states uint32 // bytes of the states
	cur    uint32 // where the state of the last row stands
	n      uint32
	count  uint8 // states
	mixed  bool  // the times are in another order than the rows
	// hint is the shape tried first when the run is empty.
	hint     ShapeID
	first    signalbox.Position
	last     signalbox.Position
	received int64
	tmin     int64
	tmax     int64
}

const (
	stateHead = 8
	cellBytes = 8
	// maxStates and maxStateBytes bound what a run keeps of former rows.
	maxStates     = 8
	maxStateBytes = 4 << 10
	// maxRunBytes is where cells end to reach; rows beyond are kept raw.
	maxRunBytes = 1 << 30
	// keepRun is how much memory an emptied run keeps.
	keepRun = 8 << 10

	rowLag      = 1 << 0 // lag follows
	rowShape    = 1 << 1 // the state is another than the last row's: its number follows
	rowSame     = 1 << 2 // every leaf is that of the state; no bits follow
	rowRaw      = 1 << 3 // the body follows as it is
	rowImported = 1 << 4

	// tokens that are no difference to the one before: tag, or rawCode + length, doubled
	codeNull, codeTrue, codeFalse = 0, 1, 2
	codeDecimal                   = 3
	codeRaw                       = codeDecimal + tagQuoted + maxScale + 1
)

// View gives the run as it is now, for reading; further appends leave it alone. It shares the
// memory of the rows.
func (r *Run) View() Run {
	v := *r
	v.buf = slices.Clip(r.buf[r.states:])
	v.states, v.cur, v.count = 0, 0, 0
	return v
}

// Append adds a row. Positions grow strictly from row to row and Received does not
// decrease; the rows come back exactly even if they do not, only larger.
func (r *Run) Append(s *Shapes, row *Row) {
	if !r.appendShaped(s, row) {
		r.appendRaw(row)
	}
	if r.n == 0 {
		r.first, r.tmin, r.tmax = row.Position, row.Time, row.Time
	}
	r.n++
	r.mixed = r.mixed || row.Time < r.tmax
	r.last, r.received = row.Position, row.Received
	r.tmin, r.tmax = min(r.tmin, row.Time), max(r.tmax, row.Time)
}

// appendShaped is Append for a body that has a shape. It changes nothing when it has none.
func (r *Run) appendShaped(s *Shapes, row *Row) bool {
	if len(row.Body) > MaxShaped || len(r.buf) > maxRunBytes {
		return false
	}
	if r.count > 0 {
		// The last row's shape, and then the run's others.
		cur := int(r.cur)
		if r.match(s, s.get(r.stateID(cur)), cur, false, row) {
			return true
		}
		for at := 0; at < int(r.states); at = r.nextState(at) {
			if at != cur && r.match(s, s.get(r.stateID(at)), at, false, row) {
				return true
			}
		}
	} else if sh := s.get(r.hint); r.hint != 0 && sh != nil && len(r.buf) == 0 {
		at := r.addState(sh)
		if r.match(s, sh, at, true, row) {
			return true
		}
		r.buf, r.states, r.count = r.buf[:0], 0, 0
	}
	w := s.walker()
	sh := s.of(w, row.Body)
	s.done(w)
	if sh == nil {
		return false
	}
	if r.count >= maxStates || int(r.states)+stateHead+cellBytes*sh.slots() > maxStateBytes {
		return r.match(s, sh, -1, false, row)
	}
	r.hint = sh.id
	return r.match(s, sh, r.addState(sh), true, row)
}

func (r *Run) stateID(at int) ShapeID {
	return ShapeID(binary.LittleEndian.Uint32(r.buf[at:]))
}

func (r *Run) nextState(at int) int {
	return at + stateHead + cellBytes*int(binary.LittleEndian.Uint32(r.buf[at+4:]))
}

// addState makes room for the state of a shape, behind the others.
func (r *Run) addState(sh *shape) (at int) {
	at = int(r.states)
	size := stateHead + cellBytes*sh.slots()
	if r.n == 0 {
		r.buf = slices.Grow(r.buf[:at], size)[:at+size]
	} else {
		// The rows move, and a View has them where they are.
		buf := make([]byte, len(r.buf)+size, len(r.buf)+size+len(r.buf)/4)
		copy(buf, r.buf[:at])
		copy(buf[at+size:], r.buf[at:])
		r.buf = buf
	}
	state := r.buf[at : at+size]
	binary.LittleEndian.PutUint32(state, uint32(sh.id))
	binary.LittleEndian.PutUint32(state[4:], uint32(sh.slots()))
	for i := stateHead; i < size; i += cellBytes {
		binary.LittleEndian.PutUint64(state[i:], tagUnset)
	}
	r.states += uint32(size)
	r.count++
	return at
}

// stateNumber counts the states before at.
func (r *Run) stateNumber(at int) (n int) {
	for i := 0; i < at; i = r.nextState(i) {
		n++
	}
	return n
}

// head appends what every row begins with: flags, and the differences in position and
// times to the row before.
func (r *Run) head(flags byte, row *Row) {
	lag := uint64(row.Received - row.Time)
	if lag != 0 {
		flags |= rowLag
	}
	if row.Imported {
		flags |= rowImported
	}
	var position signalbox.Position
	var received int64
	if r.n > 0 {
		position, received = r.last, r.received
	}
	buf := r.buf
	buf = append(buf, flags)
	buf = binary.AppendUvarint(buf, uint64(row.Position-position))
	buf = binary.AppendUvarint(buf, uint64(row.Received-received))
	if lag != 0 {
		buf = binary.AppendUvarint(buf, lag)
	}
	r.buf = buf
}

func (r *Run) appendRaw(row *Row) {
	r.head(rowRaw, row)
	r.buf = binary.AppendUvarint(r.buf, uint64(len(row.Body)))
	r.buf = append(r.buf, row.Body...)
}

// match appends the row if its body has the shape sh, whose state stands at state; −1 is for
// a shape without one, and added says that it has just been made. Without success it leaves
// all as it was.
func (r *Run) match(s *Shapes, sh *shape, state int, added bool, row *Row) bool {
	if sh == nil || len(row.Body) < sh.literal {
		return false
	}
	slots := sh.slots()
	var few [32]cell
	cells := few[:]
	if slots > len(few) {
		w := s.walker()
		defer s.done(w)
		w.cells = slices.Grow(w.cells[:0], slots)
		cells = w.cells[:slots]
	}
	mark := len(r.buf)
	flags := byte(0)
	if state < 0 || added || state != int(r.cur) {
		flags = rowShape
	}
	r.head(flags, row)
	switch {
	case state < 0:
		r.buf = binary.AppendUvarint(r.buf, 0)
		r.buf = binary.AppendUvarint(r.buf, uint64(sh.id))
	case added:
		r.buf = binary.AppendUvarint(r.buf, uint64(r.count))
		r.buf = binary.AppendUvarint(r.buf, uint64(sh.id))
	case flags != 0:
		r.buf = binary.AppendUvarint(r.buf, uint64(r.stateNumber(state)+1))
	}
	marks := len(r.buf)
	if state >= 0 {
		for range (slots + 7) / 8 {
			r.buf = append(r.buf, 0)
		}
	}
	changed, ok := r.tokens(sh, state, marks, cells, row.Body)
	if !ok {
		r.buf = r.buf[:mark]
		return false
	}
	if state < 0 {
		return true
	}
	r.cur = uint32(state)
	if !changed {
		r.buf[mark] |= rowSame
		r.buf = r.buf[:marks]
		return true
	}
	at := state + stateHead
	for i := range slots {
		if r.buf[marks+i/8]&(1<<(i%8)) != 0 {
			binary.LittleEndian.PutUint64(r.buf[at+cellBytes*i:], cells[i])
		}
	}
	return true
}

// tokens appends the leaves of a body that differ from the state, and sets their bits. ok is
// false when the body has another shape.
func (r *Run) tokens(sh *shape, state, marks int, cells []cell, b []byte) (changed, ok bool) {
	buf := r.buf
	rows := int(r.states)
	slots := sh.slots()
	for i := range slots {
		seg := sh.segs[i]
		if len(b) < len(seg) || string(b[:len(seg)]) != string(seg) {
			return false, false
		}
		b = b[len(seg):]
		before := cell(tagUnset)
		if state >= 0 {
			before = binary.LittleEndian.Uint64(buf[state+stateHead+cellBytes*i:])
		}
		var old []byte
		if isRef(before) {
			old = refOf(buf[rows:], before)
			// A string or array that begins with a whole one is that one.
			if (old[0] == '"' || old[0] == '[') && len(b) >= len(old) && string(b[:len(old)]) == string(old) {
				b = b[len(old):]
				continue
			}
		}
		c, n := scanToken(b)
		if n == 0 {
			return false, false
		}
		token := b[:n]
		b = b[n:]
		if c == before || isRef(c) && old != nil && string(token) == string(old) {
			continue
		}
		if state >= 0 {
			changed = true
			buf[marks+i/8] |= 1 << (i % 8)
		}
		buf, cells[i] = appendToken(buf, rows, token, c, before)
	}
	r.buf = buf
	return changed, string(b) == string(sh.segs[slots])
}

// appendToken appends a leaf, against the one before; rows is where the offsets of cells
// count from.
func appendToken(buf []byte, rows int, token []byte, c, before cell) ([]byte, cell) {
	switch tag := c & tagMask; tag {
	case tagNull:
		return append(buf, codeNull<<1), c
	case tagTrue:
		return append(buf, codeTrue<<1), c
	case tagFalse:
		return append(buf, codeFalse<<1), c
	case tagRef:
		buf = binary.AppendUvarint(buf, uint64(codeRaw+len(token))<<1)
		c = refCell(len(buf)-rows, len(token))
		return append(buf, token...), c
	default:
		if before&tagMask == tag {
			return binary.AppendUvarint(buf, zigzag(mantissa(c)-mantissa(before))<<1|1), c
		}
		buf = append(buf, byte(codeDecimal+tag)<<1)
		return binary.AppendUvarint(buf, zigzag(mantissa(c))), c
	}
}

// Len gives the number of rows.
func (r *Run) Len() int { return int(r.n) }

// Size gives the bytes of memory the run holds.
func (r *Run) Size() int { return int(unsafe.Sizeof(*r)) + cap(r.buf) }

// First and Last give the positions of the first and last row, 0 without any.
func (r *Run) First() signalbox.Position { return r.first }

// Last gives the position of the last row, 0 without any.
func (r *Run) Last() signalbox.Position { return r.last }

// Received gives when the last row was received, Unix µs; 0 without any.
func (r *Run) Received() int64 { return r.received }

// Times gives the least and the greatest Time of the rows, Unix µs; 0 and 0 without any.
func (r *Run) Times() (least, greatest int64) { return r.tmin, r.tmax }

// InOrder says whether the rows stand in the order of their times.
func (r *Run) InOrder() bool { return !r.mixed }

// Reset empties the run, of which there must be no View. It keeps a few KiB of memory, and which shape came last.
func (r *Run) Reset() {
	buf := r.buf[:0]
	if cap(buf) > keepRun {
		buf = nil
	}
	*r = Run{buf: buf, hint: r.hint}
}
