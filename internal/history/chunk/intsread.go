package chunk

import (
	"encoding/binary"
	"slices"
)

// intReader reads a list of whole numbers a few at a time. Its bytes stand in a payload that
// each call is given.
type intReader struct {
	from, to int32 // the packed bits
	n, i     int32 // numbers of the list, and how many were read
	wide     int32 // which of the packed numbers is the next wide one
	left     int32 // wide numbers that are not read yet
	excess   int32 // where the list of the others goes on
	way      uint8
	width    uint8
	zigzag   bool
	base     int64
	over     uint64 // the upper bits of the next wide number
	// first and second are what transform told, then the number read last and the step to it;
	// with a line they stay.
	first, second int64
}

// openInts begins to read the n numbers of a list, which is all that stands at s; ok is false
// when it is broken.
func openInts(payload []byte, s span, n int) (r intReader, ok bool) {
	if n == 0 {
		return r, s.from == s.to
	}
	b := payload[:s.to]
	at := s.from + 2
	if at >= s.to {
		return r, false
	}
	head := b[s.from]
	r = intReader{n: int32(n), to: int32(s.to), way: head & intsWay, width: b[s.from+1], zigzag: head&intsZigzag != 0}
	count := n - r.told()
	for i, v := range [2]*int64{&r.first, &r.second} {
		if r.way == plainInts || i == 1 && r.way == deltaInts {
			break
		}
		u, next := uvarint(b, at)
		if next == 0 {
			return r, false
		}
		*v, at = unzigzag(u), next
	}
	u, at := uvarint(b, at)
	if at == 0 || count < 0 || r.width > wideBits && r.width != 64 || r.way == lineInts && (r.second <= -maxLine || r.second >= maxLine) {
		return r, false
	}
	r.base = unzigzag(u)
	if head&intsExcess != 0 {
		from := at
		if at = skipExcess(b, at, count, int(r.width)); at == 0 {
			return r, false
		}
		left, next := uvarint(b, from)
		r.left, r.excess, r.wide = int32(left)+1, int32(next), -1
		r.nextWide(b)
	}
	r.from = int32(at)
	return r, s.to-at == (count*int(r.width)+7)/8
}

// told is how many numbers stand beside the packed ones.
func (r *intReader) told() int { return min(int(r.way), 2) }

// ahead is how many of these come before the packed ones.
func (r *intReader) ahead() int32 {
	if r.way == lineInts {
		return 1
	}
	return int32(r.way)
}

// nextWide goes on to the next wide number; the list of them was checked.
func (r *intReader) nextWide(payload []byte) {
	if r.left--; r.left == 0 {
		return
	}
	gap, at := uvarint(payload, int(r.excess))
	over, at := uvarint(payload, at)
	r.wide += int32(gap) + 1
	r.over, r.excess = over, int32(at)
}

// read reads the next numbers into all of v; there are so many left.
func (r *intReader) read(payload []byte, v []int64) {
	if len(v) == 0 {
		return
	}
	i, ahead := r.i, r.ahead()
	r.i += int32(len(v))
	rest := v
	if i < ahead {
		rest = v[min(int(ahead-i), len(v)):]
	}
	if r.way == lineInts && r.i == r.n && len(rest) > 0 {
		rest = rest[:len(rest)-1]
	}
	if len(rest) > 0 {
		packed := max(i-ahead, 0)
		unpackBits(rest, payload[r.from:r.to], int(packed), int(r.width))
		for r.left > 0 && r.wide < packed+int32(len(rest)) {
			rest[r.wide-packed] |= int64(r.over << r.width)
			r.nextWide(payload)
		}
		if base := r.base; r.zigzag {
			for k, x := range rest {
				rest[k] = unzigzag(uint64(x)) + base
			}
		} else if r.base != 0 {
			for k := range rest {
				rest[k] += r.base
			}
		}
	}
	r.restore(v, rest, int(i))
}

// restore makes the numbers of v, which begin with number i, from what transform gave; those
// that were packed are rest.
func (r *intReader) restore(v, rest []int64, i int) {
	switch r.way {
	case deltaInts:
		at := r.first
		if i == 0 {
			v[0] = at
		}
		for k, x := range rest {
			at += x
			rest[k] = at
		}
		r.first = at
	case deltaTwo:
		at, step := r.first, r.second
		if i == 0 {
			v[0] = at
		}
		if i <= 1 && i+len(v) > 1 {
			at += step
			v[1-i] = at
		}
		for k, x := range rest {
			step += x
			at += step
			rest[k] = at
		}
		r.first, r.second = at, step
	case lineInts:
		slope := lineSlope(r.second, int(r.n))
		if i == 0 {
			v[0] = r.first
		}
		at := slope * int64(max(i, 1))
		for k := range rest {
			rest[k] += r.first + at>>16
			at += slope
		}
		if r.i == r.n {
			v[len(v)-1] = r.first + r.second
		}
	}
}

// skip passes over n numbers.
func (r *intReader) skip(payload []byte, n int) {
	if r.way == plainInts || r.way == lineInts {
		r.i += int32(n)
		for r.left > 0 && r.wide < r.i-r.ahead() {
			r.nextWide(payload)
		}
		return
	}
	var v [cursorRows]int64
	for n > 0 {
		k := min(n, len(v))
		if !r.sum(payload, k) {
			r.read(payload, v[:k])
		}
		n -= k
	}
}

// sum is read for differences that nobody wants to see, none of which is wide; false when it
// is another case.
func (r *intReader) sum(payload []byte, n int) bool {
	packed := int(r.i) - 1
	last := (packed+n)*int(r.width)>>3 + 8
	if r.way != deltaInts || r.i == 0 || r.width > wideBits || r.left > 0 && int(r.wide) < packed+n || int(r.from)+last > int(r.to) {
		return false
	}
	b := payload[r.from:r.to]
	width, mask := int(r.width), uint64(1)<<r.width-1
	bit := packed * width
	var sum int64
	if r.zigzag {
		for range n {
			sum += unzigzag(binary.LittleEndian.Uint64(b[bit>>3:]) >> (bit & 7) & mask)
			bit += width
		}
	} else {
		for range n {
			sum += int64(binary.LittleEndian.Uint64(b[bit>>3:]) >> (bit & 7) & mask)
			bit += width
		}
	}
	r.i += int32(n)
	r.first += sum + int64(n)*r.base
	return true
}

// readInts appends the n numbers of a list, which b holds and nothing else; ok is false when
// it is broken.
func readInts(b []byte, n int, dst []int64) (out []int64, ok bool) {
	r, ok := openInts(b, span{0, len(b)}, n)
	if !ok {
		return dst, false
	}
	from := len(dst)
	dst = slices.Grow(dst, n)[:from+n]
	r.read(b, dst[from:])
	return dst, true
}

// skipExcess checks the list of wide numbers and gives where it ends, 0 when it is broken.
func skipExcess(b []byte, at, count, width int) int {
	n, at := uvarint(b, at)
	if at == 0 || n > uint64(count) || width >= 64 {
		return 0
	}
	i := uint64(0)
	for range n {
		gap, next := uvarint(b, at)
		if next == 0 || gap >= uint64(count)-i {
			return 0
		}
		i += gap + 1
		_, next = uvarint(b, next)
		if next == 0 {
			return 0
		}
		at = next
	}
	return at
}

// unpackBits reads packed numbers from number start on into all of v.
func unpackBits(v []int64, b []byte, start, width int) {
	switch width {
	case 0:
		clear(v)
		return
	case 64:
		for i := range v {
			v[i] = int64(binary.LittleEndian.Uint64(b[8*(start+i):]))
		}
		return
	}
	mask := uint64(1)<<width - 1
	bit := start * width
	i := 0
	for ; i < len(v) && bit>>3+8 <= len(b); i++ {
		v[i] = int64(binary.LittleEndian.Uint64(b[bit>>3:]) >> (bit & 7) & mask)
		bit += width
	}
	if i == len(v) {
		return
	}
	// The last bytes, as if zeros followed.
	var tail [16]byte
	from := min(bit>>3, len(b))
	copy(tail[:], b[from:])
	for bit -= 8 * from; i < len(v); i++ {
		v[i] = int64(binary.LittleEndian.Uint64(tail[bit>>3:]) >> (bit & 7) & mask)
		bit += width
	}
}
