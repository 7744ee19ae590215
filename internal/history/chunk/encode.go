package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/klauspost/compress/zstd"
)

const (
	// MaxRows is the most rows a chunk may have.
	MaxRows = 65_535

	// version is that of most chunks; versionMarks of those that say of each row whether it was
	// imported, which some were.
	version      = 1
	versionMarks = 2
	// maxPayload bounds the columns of a chunk before compression, in bytes.
	maxPayload = 64 << 20
	// maxValues bounds rows times leaves of a chunk.
	maxValues = 4 << 20
	// maxColumns bounds the columns of all its shapes.
	maxColumns = 1 << 17
	// summaryRows is from how many rows on a chunk has summaries: below, reading the values
	// costs less than a head that is a fifth of the chunk.
	summaryRows = 64
	// compressFrom is the payload, in bytes, from which on compression is tried.
	compressFrom = 64
	// windowBytes is how far back the compression looks.
	windowBytes = 256 << 10

	crcAt, crcEnd = 1, 5
	methodStored  = 0
	methodZstd    = 1
)

var (
	// ErrBroken is wrapped by every error about bytes that do not decode.
	ErrBroken = errors.New("the stored history is broken")
	// ErrTooLarge is wrapped when rows are too many or too long for one chunk; fewer may do.
	ErrTooLarge = errors.New("the rows do not fit one chunk")
)

// builder holds the memory of Encode.
type builder struct {
	payload []byte
	part    []byte
	ints    []int64
	col     []cell
	count   []int32  // rows of each shape of the table
	local   []int32  // a shape's number in the chunk, −1 without rows
	used    []uint32 // the shapes of the chunk
	starts  []uint32 // each row's first cell, by shape
	rowAt   []uint32 // each row's number, by shape
	summary []byte
	marks   bool // some rows were imported
	packer  intPacker
	columns columnWriter
}

// Encode appends rows lo ≤ i < hi as a chunk. They have to be sorted by (time, position). It
// gives an error that wraps ErrTooLarge for more than MaxRows, or rows that are too long
// together.
func (t *Table) Encode(dst []byte, lo, hi int) ([]byte, error) {
	if lo < 0 || hi > len(t.rows) || lo >= hi {
		return dst, fmt.Errorf("no chunk holds rows %d to %d of %d", lo, hi, len(t.rows))
	}
	rows := t.rows[lo:hi]
	if len(rows) > MaxRows {
		return dst, fmt.Errorf("%w: %d rows, at most %d are allowed", ErrTooLarge, len(rows), MaxRows)
	}
	b := &t.build
	b.payload, b.summary = b.payload[:0], b.summary[:0]
	head := Head{N: len(rows), T0: rows[0].time, T1: rows[len(rows)-1].time, P0: math.MaxUint64}
	var kinds shapeMark
	for i := range rows {
		if i > 0 && compareRows(rows[i-1], rows[i]) > 0 {
			return dst, errors.New("the rows of a chunk have to be sorted by time and position")
		}
		head.P0, head.P1 = min(head.P0, rows[i].position), max(head.P1, rows[i].position)
		kinds |= rows[i].shape
	}
	b.marks = kinds.imported()
	if values, columns := t.group(rows); values > maxValues || columns > maxColumns {
		return dst, fmt.Errorf("%w: %d values in %d columns, at most %d and %d are allowed", ErrTooLarge, values, columns, maxValues, maxColumns)
	}
	t.rowColumns(rows, &head)
	raw, err := t.shapeColumns(rows, &head)
	if err != nil {
		return dst, err
	}
	head.Raw = raw
	return t.seal(dst, &head)
}

// group orders the rows by shape, and counts their values and columns.
func (t *Table) group(rows []tableRow) (values, columns int) {
	b := &t.build
	b.count, b.local = b.count[:0], b.local[:0]
	for range t.shapes {
		b.count, b.local = append(b.count, 0), append(b.local, -1)
	}
	b.used = b.used[:0]
	for i := range rows {
		sh := rows[i].shape.index()
		if b.count[sh] == 0 {
			b.local[sh] = int32(len(b.used))
			b.used = append(b.used, sh)
		}
		b.count[sh]++
	}
	b.starts, b.rowAt = b.starts[:0], b.rowAt[:0]
	if len(b.used) == 1 {
		for i := range rows {
			b.starts, b.rowAt = append(b.starts, rows[i].cell), append(b.rowAt, uint32(i))
		}
		columns = t.shapes[b.used[0]].slots()
		return len(rows) * columns, columns
	}
	at := int32(0)
	for _, sh := range b.used {
		n := b.count[sh]
		values += int(n) * t.shapes[sh].slots()
		columns += t.shapes[sh].slots()
		b.count[sh] = at
		at += n
	}
	for range rows {
		b.starts, b.rowAt = append(b.starts, 0), append(b.rowAt, 0)
	}
	for i := range rows {
		at := &b.count[rows[i].shape.index()]
		b.starts[*at], b.rowAt[*at] = rows[i].cell, uint32(i)
		*at++
	}
	// Each count is now where its shape ends.
	before := int32(0)
	for _, sh := range b.used {
		b.count[sh], before = b.count[sh]-before, b.count[sh]
	}
	return values, columns
}

// section appends a part of the payload with its length before it.
func (b *builder) section(part []byte) {
	b.payload = binary.AppendUvarint(b.payload, uint64(len(part)))
	b.payload = append(b.payload, part...)
}

// rowColumns writes what each row has whatever its shape.
func (t *Table) rowColumns(rows []tableRow, head *Head) {
	b := &t.build
	if len(b.used) > 1 {
		b.ints = b.ints[:0]
		for i := range rows {
			b.ints = append(b.ints, int64(b.local[rows[i].shape.index()]))
		}
		b.part = b.packer.append(b.part[:0], b.ints)
		b.section(b.part)
	}
	b.ints = b.ints[:0]
	for i := range rows {
		b.ints = append(b.ints, rows[i].time-head.T0)
	}
	b.part = b.packer.append(b.part[:0], b.ints)
	b.section(b.part)

	b.ints = b.ints[:0]
	lags := int64(0)
	for i := range rows {
		lag := rows[i].received - rows[i].time
		lags |= lag
		b.ints = append(b.ints, lag)
	}
	b.part = b.part[:0]
	if lags != 0 {
		b.part = b.packer.append(b.part, b.ints)
	}
	b.section(b.part)

	b.ints = b.ints[:0]
	for i := range rows {
		b.ints = append(b.ints, int64(rows[i].position-head.P0))
	}
	b.part = b.packer.append(b.part[:0], b.ints)
	b.section(b.part)
	if !b.marks {
		return
	}
	b.ints = b.ints[:0]
	for i := range rows {
		b.ints = append(b.ints, markOf(rows[i].shape.imported()))
	}
	b.part = b.packer.append(b.part[:0], b.ints)
	b.section(b.part)
}

// markOf is how a chunk says whether a row was imported.
func markOf(imported bool) int64 {
	if imported {
		return 1
	}
	return 0
}

// areMarks says whether all numbers are ones that markOf gives.
func areMarks(v []int64) bool {
	all := int64(0)
	for _, x := range v {
		all |= x
	}
	return all&^1 == 0
}

// shapeColumns writes the leaves, and the summaries; raw is the length of all bodies.
func (t *Table) shapeColumns(rows []tableRow, head *Head) (raw int, err error) {
	b := &t.build
	at := 0
	for _, sh := range b.used {
		n := int(b.count[sh])
		starts, rowAt := b.starts[at:at+n], b.rowAt[at:at+n]
		at += n
		shape := t.shapes[sh]
		raw += n * shape.literal
		var sums summaryWriter
		for slot := range shape.slots() {
			b.col = b.col[:0]
			for _, start := range starts {
				b.col = append(b.col, t.cells[int(start)+slot])
			}
			raw += lengths(b.col)
			b.part = b.columns.append(b.part[:0], t.arena, b.col)
			b.section(b.part)
			if len(b.payload) > maxPayload {
				return 0, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, len(b.payload), maxPayload)
			}
			if len(rows) >= summaryRows && shape.id != 0 {
				sums.add(slot, t.arena, b.col, rowAt)
			}
		}
		if len(rows) >= summaryRows {
			b.summary = sums.append(b.summary, rows, head)
		}
	}
	return raw, nil
}

// lengths adds up the lengths of tokens.
func lengths(col []cell) (n int) {
	before, last := cell(tagUnset), 0
	for _, c := range col {
		if c != before {
			before, last = c, cellLen(c)
		}
		n += last
	}
	return n
}

// seal writes the head and the payload, compressed when that is smaller.
func (t *Table) seal(dst []byte, head *Head) ([]byte, error) {
	b := &t.build
	start := len(dst)
	v := byte(version)
	if b.marks {
		v = versionMarks
	}
	dst = append(dst, v, 0, 0, 0, 0)
	dst = binary.AppendUvarint(dst, uint64(head.N))
	dst = binary.AppendVarint(dst, head.T0)
	dst = binary.AppendUvarint(dst, uint64(head.T1-head.T0))
	dst = binary.AppendUvarint(dst, uint64(head.P0))
	dst = binary.AppendUvarint(dst, uint64(head.P1-head.P0))
	dst = binary.AppendUvarint(dst, uint64(head.Raw))
	dst = binary.AppendUvarint(dst, uint64(len(b.used)))
	for _, sh := range b.used {
		dst = binary.AppendUvarint(dst, uint64(t.shapes[sh].id))
	}
	if head.N >= summaryRows {
		dst = binary.AppendUvarint(dst, uint64(len(b.summary)))
		dst = append(dst, b.summary...)
	}
	if packed, ok := t.compress(); ok {
		dst = append(dst, methodZstd)
		dst = binary.AppendUvarint(dst, uint64(len(b.payload)))
		dst = append(dst, packed...)
	} else {
		dst = append(dst, methodStored)
		dst = append(dst, b.payload...)
	}
	binary.LittleEndian.PutUint32(dst[start+crcAt:], checksum(dst[start:]))
	return dst, nil
}

// compress gives the payload compressed, when that is worth it.
func (t *Table) compress() (packed []byte, ok bool) {
	b := &t.build
	if len(b.payload) < compressFrom {
		return nil, false
	}
	if t.enc == nil {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithWindowSize(windowBytes), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, false // the chunk is larger, and as good
		}
		t.enc = enc
	}
	b.part = t.enc.EncodeAll(b.payload, b.part[:0])
	return b.part, len(b.part)+3 < len(b.payload)
}

// checksum is CRC-32C of a chunk without the four bytes where it stands.
func checksum(blob []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(0, table, blob[:crcAt]), table, blob[crcEnd:])
}
