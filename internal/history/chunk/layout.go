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
	marks   bool // the columns say which rows were imported
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

// TellsImported says whether a chunk that begins with these bytes tells which rows were imported:
// some were.
func TellsImported(begin []byte) bool { return len(begin) > 0 && begin[0] == versionMarks }

func parseHead(blob []byte) (h fullHead, err error) {
	broken := func(format string, args ...any) (fullHead, error) {
		return fullHead{}, fmt.Errorf("%w: a chunk of %d bytes "+format, append([]any{ErrBroken, len(blob)}, args...)...)
	}
	if len(blob) < crcEnd {
		return broken("is too short")
	}
	if blob[0] != version && blob[0] != versionMarks {
		return broken("has version %d; this program knows %d and %d", blob[0], version, versionMarks)
	}
	h.marks = blob[0] == versionMarks
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

// layout is a chunk, decompressed, and where everything is in it.
type layout struct {
	head    Head
	payload []byte
	parts   []part
	// which part each row is of, where there are several; their times and more. markSpan is the
	// zero one where the columns do not say which rows were imported.
	whichSpan, timeSpan, lagSpan, posSpan, markSpan span
}

// part is the rows of one shape.
type part struct {
	sh   *shape
	n    int
	data []span // of the columns, in the payload
}

// load checks and decompresses a chunk. s has to hold its shapes. The parts do not know their
// rows where there are several.
func (l *layout) load(s *Shapes, blob []byte) error {
	if cap(l.payload) > keepBytes {
		l.payload = nil
	}
	l.head, l.parts = Head{}, l.parts[:0]
	h, err := parseHead(blob)
	if err != nil {
		return err
	}
	if err := l.inflate(s, &h); err != nil {
		return err
	}
	if err := l.addParts(s, &h); err != nil {
		return err
	}
	at := 0
	if h.shapes > 1 {
		l.whichSpan, at = section(l.payload, at)
	} else {
		l.parts[0].n = h.N
	}
	ends := func() error { return fmt.Errorf("%w: a chunk of %d rows ends inside of a column", ErrBroken, h.N) }
	if at == 0 && h.shapes > 1 {
		return ends()
	}
	l.markSpan = span{}
	all := [...]*span{&l.timeSpan, &l.lagSpan, &l.posSpan, &l.markSpan}
	sections := all[:3]
	if h.marks {
		sections = all[:]
	}
	for _, s := range sections {
		if *s, at = section(l.payload, at); at == 0 {
			return ends()
		}
	}
	for i := range l.parts {
		p := &l.parts[i]
		for slot := range p.data {
			if p.data[slot], at = section(l.payload, at); at == 0 {
				return ends()
			}
		}
	}
	if at != len(l.payload) {
		return fmt.Errorf("%w: a chunk of %d rows is longer than its columns", ErrBroken, h.N)
	}
	l.head = h.Head
	return nil
}

// counted checks how many rows the parts have.
func (l *layout) counted() error {
	values := 0
	for i := range l.parts {
		p := &l.parts[i]
		values += p.n * len(p.data)
		if p.n == 0 || values > maxValues {
			return fmt.Errorf("%w: a chunk of %d rows has a shape without rows, or too many values", ErrBroken, l.head.N)
		}
	}
	return nil
}

// addParts makes a part of each shape of the chunk.
func (l *layout) addParts(s *Shapes, h *fullHead) error {
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
		l.addPart(sh)
	}
	return nil
}

func (l *layout) addPart(sh *shape) {
	if len(l.parts) < cap(l.parts) {
		l.parts = l.parts[:len(l.parts)+1]
	} else {
		l.parts = append(l.parts, part{})
	}
	p := &l.parts[len(l.parts)-1]
	p.sh, p.n = sh, 0
	p.data = slices.Grow(p.data[:0], sh.slots())[:sh.slots()]
}

// inflate fills the payload.
func (l *layout) inflate(s *Shapes, h *fullHead) error {
	if h.method == methodStored {
		if len(h.payload) > maxPayload {
			return fmt.Errorf("%w: a chunk has %d bytes of columns; %d are allowed", ErrBroken, len(h.payload), maxPayload)
		}
		l.payload = append(l.payload[:0], h.payload...)
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
	l.payload = slices.Grow(l.payload[:0], int(size))
	l.payload, err = dec.DecodeAll(h.payload[at:], l.payload[:0:size])
	if err != nil {
		return fmt.Errorf("%w: a chunk of %d rows does not decompress: %w", ErrBroken, h.N, err)
	}
	if len(l.payload) != int(size) {
		return fmt.Errorf("%w: a chunk of %d rows has %d bytes of columns and should have %d", ErrBroken, h.N, len(l.payload), size)
	}
	return nil
}

// section reads a length and gives the bytes behind it, and where they end; 0 when they do not.
func section(payload []byte, at int) (span, int) {
	n, next := uvarint(payload, at)
	if next == 0 || n > uint64(len(payload)-next) {
		return span{}, 0
	}
	return span{next, next + int(n)}, next + int(n)
}
