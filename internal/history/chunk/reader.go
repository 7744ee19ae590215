package chunk

import (
	"encoding/binary"
	"fmt"
	"slices"

	"signalbox"
)

// Head is what a chunk says of itself.
type Head struct {
	// N is the number of rows, 1 to MaxRows.
	N int
	// T0 and T1 are the least and the greatest time, Unix µs.
	T0, T1 int64
	// P0 and P1 are the least and the greatest position.
	P0, P1 signalbox.Position
	// Raw is the length of all bodies together, in bytes.
	Raw int
}

// fullHead is a head with the places of what follows.
type fullHead struct {
	Head
	shapes  int
	ids     []byte // their numbers
	sums    []byte
	method  byte
	payload []byte
}

// Open checks a chunk's version and checksum and reads its head. It decompresses nothing. The
// error wraps ErrBroken and says what is wrong.
func Open(blob []byte) (Head, error) {
	h, err := parseHead(blob)
	return h.Head, err
}

func parseHead(blob []byte) (h fullHead, err error) {
	broken := func(format string, args ...any) (fullHead, error) {
		return fullHead{}, fmt.Errorf("%w: a chunk of %d bytes "+format, append([]any{ErrBroken, len(blob)}, args...)...)
	}
	if len(blob) < crcEnd {
		return broken("is too short")
	}
	if blob[0] != version {
		return broken("has version %d; this program knows %d", blob[0], version)
	}
	if got, want := checksum(blob), binary.LittleEndian.Uint32(blob[crcAt:]); got != want {
		return broken("has the checksum %08x and should have %08x", got, want)
	}
	at := crcEnd
	var v [7]uint64
	for i := range v {
		if v[i], at = uvarint(blob, at); at == 0 {
			return broken("ends inside of its head")
		}
	}
	if v[0] < 1 || v[0] > MaxRows || v[2] > 1<<62 || v[5] > 1<<40 || v[6] < 1 || v[6] > v[0] {
		return broken("has an impossible head")
	}
	h.N, h.T0, h.P0, h.Raw, h.shapes = int(v[0]), unzigzag(v[1]), signalbox.Position(v[3]), int(v[5]), int(v[6])
	h.T1, h.P1 = h.T0+int64(v[2]), h.P0+signalbox.Position(v[4])
	if h.T1 < h.T0 || h.P1 < h.P0 {
		return broken("has an impossible head")
	}
	from := at
	for range h.shapes {
		if _, at = uvarint(blob, at); at == 0 {
			return broken("ends inside of its list of shapes")
		}
	}
	h.ids = blob[from:at]
	if h.N >= summaryRows {
		n, next := uvarint(blob, at)
		if next == 0 || n > uint64(len(blob)-next) {
			return broken("ends inside of its summaries")
		}
		at = next + int(n)
		h.sums = blob[next:at]
	}
	if at >= len(blob) || blob[at] > methodZstd {
		return broken("does not say how it is compressed")
	}
	h.method, h.payload = blob[at], blob[at+1:]
	return h, nil
}

// Reader reads chunks, one after another, with the same memory. It is for one goroutine; what
// it gives out is lent until the next Load. The zero value is ready.
type Reader struct {
	head    Head
	payload []byte
	parts   []part
	times   []int64
	which   []int64  // the part of each row, where there are several
	rank    []uint32 // and its place in it

	lagSpan, posSpan span
	rowsRead         bool
	lags, positions  []int64

	slab []cell
	ints []int64
	text []byte
	err  error
}

// part is the rows of one shape.
type part struct {
	sh   *shape
	n    int
	cols []column
	read bool
}

type column struct {
	data  span // in the payload
	n     int
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
	if cap(r.payload) > keepBytes {
		r.payload = nil
	}
	if cap(r.slab) > keepBytes/8 {
		r.slab = nil
	}
	r.head, r.err = Head{}, nil
	r.parts, r.slab, r.text = r.parts[:0], r.slab[:0], r.text[:0]
	r.times, r.which, r.rank = r.times[:0], r.which[:0], r.rank[:0]
	r.rowsRead = false
	h, err := parseHead(blob)
	if err != nil {
		return err
	}
	if err := r.inflate(s, &h); err != nil {
		return err
	}
	if err := r.addParts(s, &h); err != nil {
		return err
	}
	at := r.readRows(&h)
	if at == 0 {
		return fmt.Errorf("%w: the times of a chunk of %d rows do not decode", ErrBroken, h.N)
	}
	values := 0
	for i := range r.parts {
		p := &r.parts[i]
		values += p.n * len(p.cols)
		if p.n == 0 || values > maxValues {
			return fmt.Errorf("%w: a chunk of %d rows has a shape without rows, or too many values", ErrBroken, h.N)
		}
		for slot := range p.cols {
			var sec span
			if sec, at = r.section(at); at == 0 {
				return fmt.Errorf("%w: a chunk of %d rows ends inside of a column", ErrBroken, h.N)
			}
			p.cols[slot] = column{data: sec, n: p.n}
		}
	}
	if at != len(r.payload) {
		return fmt.Errorf("%w: a chunk of %d rows is longer than its columns", ErrBroken, h.N)
	}
	r.head = h.Head
	return nil
}

// addParts makes a part of each shape of the chunk.
func (r *Reader) addParts(s *Shapes, h *fullHead) error {
	columns := 0
	rest := h.ids
	for range h.shapes {
		id, next := uvarint(rest, 0)
		rest = rest[next:]
		sh := s.get(ShapeID(min(id, MaxShapes+1)))
		if sh == nil {
			return fmt.Errorf("%w: shape %d is not in the table", ErrBroken, id)
		}
		if columns += sh.slots(); columns > maxColumns {
			return fmt.Errorf("%w: a chunk of %d rows has more than %d columns", ErrBroken, h.N, maxColumns)
		}
		r.addPart(sh)
	}
	return nil
}

func (r *Reader) addPart(sh *shape) {
	if len(r.parts) < cap(r.parts) {
		r.parts = r.parts[:len(r.parts)+1]
	} else {
		r.parts = append(r.parts, part{})
	}
	p := &r.parts[len(r.parts)-1]
	p.sh, p.n, p.read = sh, 0, false
	p.cols = slices.Grow(p.cols[:0], sh.slots())[:sh.slots()]
}

// inflate fills the payload.
func (r *Reader) inflate(s *Shapes, h *fullHead) error {
	if h.method == methodStored {
		if len(h.payload) > maxPayload {
			return fmt.Errorf("%w: a chunk has %d bytes of columns; %d are allowed", ErrBroken, len(h.payload), maxPayload)
		}
		r.payload = append(r.payload[:0], h.payload...)
		return nil
	}
	size, at := uvarint(h.payload, 0)
	if at == 0 || size > maxPayload {
		return fmt.Errorf("%w: a chunk has %d bytes of columns; %d are allowed", ErrBroken, size, maxPayload)
	}
	dec, err := s.decoder()
	if err != nil {
		return err
	}
	r.payload = slices.Grow(r.payload[:0], int(size))
	r.payload, err = dec.DecodeAll(h.payload[at:], r.payload[:0:size])
	if err != nil {
		return fmt.Errorf("%w: a chunk of %d rows does not decompress: %w", ErrBroken, h.N, err)
	}
	if len(r.payload) != int(size) {
		return fmt.Errorf("%w: a chunk of %d rows has %d bytes of columns and should have %d", ErrBroken, h.N, len(r.payload), size)
	}
	return nil
}

// section reads a length and gives the bytes behind it, and where they end; 0 when they do not.
func (r *Reader) section(at int) (span, int) {
	n, next := uvarint(r.payload, at)
	if next == 0 || n > uint64(len(r.payload)-next) {
		return span{}, 0
	}
	return span{next, next + int(n)}, next + int(n)
}

func (r *Reader) bytes(s span) []byte { return r.payload[s.from:s.to] }

// readRows reads what each row has whatever its shape, and gives where that ends; 0 when it
// is broken.
func (r *Reader) readRows(h *fullHead) (at int) {
	var sec span
	if h.shapes == 1 {
		r.parts[0].n = h.N
	} else {
		if sec, at = r.section(0); at == 0 {
			return 0
		}
		var ok bool
		if r.which, ok = readInts(r.bytes(sec), h.N, r.which); !ok {
			return 0
		}
		for _, w := range r.which {
			if w < 0 || w >= int64(len(r.parts)) {
				return 0
			}
			p := &r.parts[w]
			r.rank = append(r.rank, uint32(p.n))
			p.n++
		}
	}
	if sec, at = r.section(at); at == 0 {
		return 0
	}
	var ok bool
	if r.times, ok = readInts(r.bytes(sec), h.N, r.times); !ok {
		return 0
	}
	before := h.T0
	for i := range r.times {
		r.times[i] += h.T0
		if r.times[i] < before {
			return 0
		}
		before = r.times[i]
	}
	if before != h.T1 || r.times[0] != h.T0 {
		return 0
	}
	if r.lagSpan, at = r.section(at); at == 0 {
		return 0
	}
	r.posSpan, at = r.section(at)
	return at
}

// rowsOnce decodes positions and lags when they are first asked for.
func (r *Reader) rowsOnce() {
	if r.rowsRead {
		return
	}
	r.rowsRead = true
	var okLag, okPos bool
	if r.lagSpan.from == r.lagSpan.to {
		r.lags, okLag = r.lags[:0], true
	} else {
		r.lags, okLag = readInts(r.bytes(r.lagSpan), r.head.N, r.lags[:0])
	}
	r.positions, okPos = readInts(r.bytes(r.posSpan), r.head.N, r.positions[:0])
	if !okLag || !okPos {
		r.fail("positions and times of receipt")
		r.lags = r.lags[:0]
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
// Position, Received, AppendBody and Field give nothing for it. It wraps ErrBroken.
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

// place gives the part of row i and its place in it.
func (r *Reader) place(i int) (p *part, j int) {
	if len(r.parts) == 1 {
		return &r.parts[0], i
	}
	return &r.parts[r.which[i]], int(r.rank[i])
}

// AppendBody appends the body of row i, exactly as it was; nothing when it does not decode
// (see Err).
func (r *Reader) AppendBody(dst []byte, i int) []byte {
	p, j := r.place(i)
	if !p.read {
		r.decodePart(p)
	}
	if r.err != nil {
		return dst
	}
	for slot := range p.cols {
		dst = append(dst, p.sh.segs[slot]...)
		dst = appendCell(dst, r.payload, p.cols[slot].at(j))
	}
	return append(dst, p.sh.segs[len(p.cols)]...)
}

func (r *Reader) decodePart(p *part) {
	if p.read {
		return
	}
	p.read = true
	for slot := range p.cols {
		r.decode(&p.cols[slot])
	}
}
