package chunk

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Summary says what the numbers of a field come to. Without numbers all is 0.
type Summary struct {
	// Count is how many numbers there are; other values do not count.
	Count int
	// Sum is exact, and rounded once, where the numbers are decimals of up to 13 digits or
	// so; otherwise it is that of a Sum.
	Min, Max, Sum float64
	// Last is the number of the last row that has one, and LastTime the time of that row,
	// Unix µs.
	Last     float64
	LastTime int64
}

// Sum adds up numbers and carries what each addition rounds away: the total is nearly always
// the exact one, rounded once, whatever the order. The zero value is 0.
type Sum struct{ sum, rest float64 }

// Add adds a number (Knuth's exact sum of two).
func (s *Sum) Add(x float64) {
	t := s.sum + x
	back := t - s.sum
	s.rest += (s.sum - (t - back)) + (x - back)
	s.sum = t
}

// Total gives the sum; ±Inf beyond the range of float64.
func (s *Sum) Total() float64 {
	if total := s.sum + s.rest; !math.IsNaN(total) {
		return total
	}
	return s.sum
}

const (
	sumFloat    = 31 // the numbers follow as float64, not as decimals of that scale
	sumUnknown  = 30 // nothing follows: there are numbers, but not all are finite
	sumScale    = 31
	sumConst    = 1 << 5 // there is one value only
	sumCount    = 1 << 6 // not every row has a number: their count follows
	sumEarlier  = 1 << 7 // the last row has none: how many rows and µs before it the last one is
	maxSummable = 1 << 46
)

// fieldSum is the summary of one column, as decimals or as floats.
type fieldSum struct {
	count, last int // last: its row
	scale       uint8

	least, most, sum, final     int64
	fleast, fmost, fsum, ffinal float64
}

// summaryWriter gathers the summaries of a shape.
type summaryWriter struct {
	pending []pendingSum
}

type pendingSum struct {
	slot int
	fieldSum
}

// add takes a column; rowAt gives the row of each of its cells.
func (w *summaryWriter) add(slot int, mem []byte, col []cell, rowAt []uint32) {
	if f, ok := sumColumn(mem, col, rowAt); ok {
		w.pending = append(w.pending, pendingSum{slot, f})
	}
}

func isNumberRef(mem []byte, c cell) bool {
	if !isRef(c) {
		return false
	}
	token := refOf(mem, c)
	return len(token) > 0 && (token[0] == '-' || token[0]-'0' <= 9)
}

// sumColumn adds up a column; ok is false when it has no numbers.
func sumColumn(mem []byte, col []cell, rowAt []uint32) (f fieldSum, ok bool) {
	floats := false
	before, number := cell(tagUnset), false
	for i, c := range col {
		if c == before {
			if number {
				f.last = i
				f.count++
			}
			continue
		}
		before = c
		number = isDecimal(c)
		if number {
			f.scale = max(f.scale, scaleOf(c))
		} else if isNumberRef(mem, c) {
			floats, number = true, true
		}
		if number {
			f.last = i
			f.count++
		}
	}
	if f.count == 0 {
		return f, false
	}
	last := f.last
	f.last = int(rowAt[last])
	if floats || !f.addDecimals(col) {
		f.addFloats(mem, col)
		f.ffinal = cellFloat(mem, col[last])
		return f, true
	}
	f.final = mantissa(col[last]) * ipow10(f.scale-scaleOf(col[last]))
	return f, true
}

// addDecimals adds up at one scale; false when the numbers are too large for that.
func (f *fieldSum) addDecimals(col []cell) bool {
	f.least, f.most = math.MaxInt64, math.MinInt64
	for _, c := range col {
		if !isDecimal(c) {
			continue
		}
		m := mantissa(c)
		if s := scaleOf(c); s != f.scale {
			factor := ipow10(f.scale - s)
			if m > maxSummable/factor || m < -maxSummable/factor {
				return false
			}
			m *= factor
		}
		f.least, f.most = min(f.least, m), max(f.most, m)
		f.sum += m
		if m > maxSummable || m < -maxSummable {
			return false
		}
	}
	return true
}

func (f *fieldSum) addFloats(mem []byte, col []cell) {
	var sum Sum
	f.scale = sumFloat
	f.fleast, f.fmost = math.Inf(1), math.Inf(-1)
	for _, c := range col {
		if !isDecimal(c) && !isNumberRef(mem, c) {
			continue
		}
		x := cellFloat(mem, c)
		f.fleast, f.fmost = min(f.fleast, x), max(f.fmost, x)
		sum.Add(x)
	}
	f.fsum = sum.Total()
	if math.IsInf(f.fleast, 0) || math.IsInf(f.fmost, 0) || math.IsInf(f.fsum, 0) {
		f.scale = sumUnknown
	}
}

// cellFloat gives the value of a number.
func cellFloat(mem []byte, c cell) float64 {
	if isRef(c) {
		return parseFloat(refOf(mem, c))
	}
	return decimalFloat(mantissa(c), scaleOf(c))
}

// append writes the summaries of one shape.
func (w *summaryWriter) append(dst []byte, rows []tableRow, head *Head) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(w.pending)))
	behind := 0
	for i := range w.pending {
		f := &w.pending[i]
		dst = binary.AppendUvarint(dst, uint64(f.slot-behind))
		behind = f.slot + 1
		flags := f.scale
		same := f.scale <= maxScale && f.least == f.most || f.scale == sumFloat && f.fleast == f.fmost
		if same {
			flags |= sumConst
		}
		if f.count != head.N {
			flags |= sumCount
		}
		if f.last != head.N-1 {
			flags |= sumEarlier
		}
		dst = append(dst, flags)
		if flags&sumCount != 0 {
			dst = binary.AppendUvarint(dst, uint64(f.count))
		}
		if flags&sumEarlier != 0 {
			dst = binary.AppendUvarint(dst, uint64(head.N-1-f.last))
			dst = binary.AppendUvarint(dst, uint64(head.T1-rows[f.last].time))
		}
		dst = f.appendValues(dst, same)
	}
	return dst
}

func (f *fieldSum) appendValues(dst []byte, same bool) []byte {
	switch f.scale {
	case sumUnknown:
		return dst
	case sumFloat:
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(f.fleast))
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(f.fsum))
		if same {
			return dst
		}
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(f.fmost))
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(f.ffinal))
	}
	dst = binary.AppendVarint(dst, f.least)
	if same {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(f.most-f.least))
	dst = binary.AppendUvarint(dst, uint64(f.sum-int64(f.count)*f.least))
	return binary.AppendUvarint(dst, uint64(f.final-f.least))
}

// storedSum is a summary as it was read.
type storedSum struct {
	Summary
	slot, row int
	known     bool
}

// readSums calls yield for the summaries of one shape, which begin at b[at], and gives where
// they end; 0 when they are broken.
func readSums(b []byte, at int, head *Head, yield func(storedSum)) int {
	n, at := uvarint(b, at)
	if at == 0 || n > uint64(len(b)) {
		return 0
	}
	slot := 0
	for range n {
		gap, next := uvarint(b, at)
		if next == 0 || gap > MaxLeaves || next >= len(b) {
			return 0
		}
		slot += int(gap)
		flags := b[next]
		f := storedSum{slot: slot, row: head.N - 1, known: true}
		f.Count, f.LastTime = head.N, head.T1
		at = next + 1
		slot++
		if flags&sumCount != 0 {
			var count uint64
			if count, at = uvarint(b, at); at == 0 || count > uint64(head.N) {
				return 0
			}
			f.Count = int(count)
		}
		if flags&sumEarlier != 0 {
			var rows, micros uint64
			rows, at = uvarint(b, at)
			if at == 0 || rows >= uint64(head.N) {
				return 0
			}
			if micros, at = uvarint(b, at); at == 0 {
				return 0
			}
			f.row -= int(rows)
			f.LastTime -= int64(micros)
		}
		if at = f.readValues(b, at, flags); at == 0 {
			return 0
		}
		yield(f)
	}
	return at
}

func (f *storedSum) readValues(b []byte, at int, flags byte) int {
	scale, same := flags&sumScale, flags&sumConst != 0
	switch {
	case scale == sumUnknown:
		f.known = false
		return at
	case scale == sumFloat:
		size := 32
		if same {
			size = 16
		}
		if len(b)-at < size {
			return 0
		}
		float := func(i int) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b[at+8*i:])) }
		f.Min, f.Sum = float(0), float(1)
		f.Max, f.Last = f.Min, f.Min
		if !same {
			f.Max, f.Last = float(2), float(3)
		}
		return at + size
	case scale > maxScale:
		return 0
	}
	u, at := uvarint(b, at)
	if at == 0 {
		return 0
	}
	least := unzigzag(u)
	var rise, sum, final uint64
	if !same {
		for _, v := range []*uint64{&rise, &sum, &final} {
			if *v, at = uvarint(b, at); at == 0 {
				return 0
			}
		}
	}
	f.Min = decimalFloat(least, scale)
	f.Max = decimalFloat(least+int64(rise), scale)
	f.Last = decimalFloat(least+int64(final), scale)
	f.Sum = decimalFloat(int64(f.Count)*least+int64(sum), scale)
	return at
}

// Summaries gives the summary of a field from the head of a chunk, without decompressing it.
// ok is false when the chunk keeps none, because it is small, or holds bodies without a
// shape, or numbers beyond the range of float64: then the values have to be read. A field
// that the chunk does not have, or that is no number in it, gives Count 0 and ok.
func Summaries(blob []byte, s *Shapes, path string) (sum Summary, ok bool, err error) {
	h, err := parseHead(blob)
	if err != nil {
		return sum, false, err
	}
	if h.N < summaryRows {
		return sum, false, nil
	}
	at, row, known := 0, -1, true
	rest := h.ids
	for range h.shapes {
		id, next := uvarint(rest, 0)
		rest = rest[next:]
		sh := s.get(ShapeID(min(id, MaxShapes+1)))
		if sh == nil {
			return sum, false, fmt.Errorf("%w: shape %d is not in the table", ErrBroken, id)
		}
		slot := -1
		if n := sh.find(path); n != nil {
			slot = n.leaf
		}
		known = known && id != 0
		at = readSums(h.sums, at, &h.Head, func(f storedSum) {
			if f.slot != slot {
				return
			}
			known = known && f.known
			sum.join(&f, row)
			row = max(row, f.row)
		})
		if at == 0 {
			return sum, false, fmt.Errorf("%w: the summaries of a chunk end early", ErrBroken)
		}
	}
	if !known {
		return Summary{}, false, nil
	}
	return sum, true, nil
}

// join adds the summary of another shape; row is that of the last number so far.
func (s *Summary) join(f *storedSum, row int) {
	if s.Count == 0 {
		*s = f.Summary
		return
	}
	s.Count += f.Count
	s.Min, s.Max = min(s.Min, f.Min), max(s.Max, f.Max)
	s.Sum += f.Sum
	if f.row > row {
		s.Last, s.LastTime = f.Last, f.LastTime
	}
}
