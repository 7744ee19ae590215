package chunk

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// The ways in which a list of whole numbers is made small before its bits are packed.
const (
	plainInts = 0 // as they are
	deltaInts = 1 // differences
	deltaTwo  = 2 // differences of differences
	lineInts  = 3 // distances from the straight line between the first and the last
	intsWay   = 3

	intsZigzag = 1 << 2 // the numbers lie on both sides of the base
	intsExcess = 1 << 3 // some are wider than the others: a list of them comes first

	// maxLine bounds the rise of a line, so that it can be reckoned in 64 bits.
	maxLine = 1 << 46
	// wideBits: numbers of more bits take whole words.
	wideBits = 56
)

// intPacker writes lists of whole numbers; its memory is reused.
type intPacker struct {
	work, best []int64
}

// packing is how the numbers behind a way's first ones are packed.
type packing struct {
	base   int64
	zigzag bool
	width  int // bits
	cost   int // bits, about
}

// append appends the numbers of v, whose count the reader has to know.
func (p *intPacker) append(dst []byte, v []int64) []byte {
	if len(v) == 0 {
		return dst
	}
	way, how := p.choose(v)
	head := byte(way)
	if how.zigzag {
		head |= intsZigzag
	}
	packed := p.best
	excess := 0
	if how.width < 64 {
		for _, x := range packed {
			if how.offset(x)>>how.width != 0 {
				excess++
			}
		}
	}
	if excess > 0 {
		head |= intsExcess
	}
	dst = append(dst, head, byte(how.width))
	switch way {
	case deltaInts:
		dst = binary.AppendVarint(dst, v[0])
	case deltaTwo:
		dst = binary.AppendVarint(dst, v[0])
		dst = binary.AppendVarint(dst, v[1]-v[0])
	case lineInts:
		dst = binary.AppendVarint(dst, v[0])
		dst = binary.AppendVarint(dst, v[len(v)-1]-v[0])
	}
	dst = binary.AppendVarint(dst, how.base)
	if excess > 0 {
		dst = binary.AppendUvarint(dst, uint64(excess))
		last := -1
		for i, x := range packed {
			if over := how.offset(x) >> how.width; over != 0 {
				dst = binary.AppendUvarint(dst, uint64(i-last-1))
				dst = binary.AppendUvarint(dst, over)
				last = i
			}
		}
	}
	return packBits(dst, packed, &how)
}

// offset gives a number as it is packed.
func (p *packing) offset(x int64) uint64 {
	if p.zigzag {
		return zigzag(x - p.base)
	}
	return uint64(x - p.base)
}

func packBits(dst []byte, v []int64, how *packing) []byte {
	width := how.width
	if width == 0 {
		return dst
	}
	if width > wideBits {
		for _, x := range v {
			dst = binary.LittleEndian.AppendUint64(dst, how.offset(x))
		}
		return dst
	}
	mask := uint64(1)<<width - 1
	var acc uint64
	fill := 0
	for _, x := range v {
		u := how.offset(x) & mask
		acc |= u << fill
		fill += width
		if fill >= 64 {
			dst = binary.LittleEndian.AppendUint64(dst, acc)
			fill -= 64
			acc = u >> (width - fill)
		}
	}
	for ; fill > 0; fill -= 8 {
		dst = append(dst, byte(acc))
		acc >>= 8
	}
	return dst
}

// choose finds the smallest way and leaves in p.best what is to be packed.
func (p *intPacker) choose(v []int64) (way int, how packing) {
	p.best = append(p.best[:0], v...)
	how = weigh(p.best)
	if how.cost == 0 || len(v) < 4 {
		return plainInts, how
	}
	for other := deltaInts; other <= lineInts; other++ {
		if other == lineInts && !lineFits(v) {
			continue
		}
		p.work = transform(p.work[:0], v, other)
		try := weigh(p.work)
		try.cost += 16 * min(other, 2) // about what its first numbers take
		if try.cost < how.cost {
			way, how = other, try
			p.work, p.best = p.best, p.work
		}
		if how.cost <= 32 {
			break
		}
	}
	return way, how
}

func lineFits(v []int64) bool {
	rise := v[len(v)-1] - v[0]
	return len(v) <= MaxRows && -maxLine < rise && rise < maxLine
}

func transform(dst, v []int64, way int) []int64 {
	switch way {
	case deltaInts:
		before := v[0]
		for _, x := range v[1:] {
			dst = append(dst, x-before)
			before = x
		}
	case deltaTwo:
		before, step := v[1], v[1]-v[0]
		for _, x := range v[2:] {
			dst = append(dst, x-before-step)
			before, step = x, x-before
		}
	case lineInts:
		slope := lineSlope(v[len(v)-1]-v[0], len(v))
		at := slope
		for _, x := range v[1 : len(v)-1] {
			dst = append(dst, x-v[0]-at>>16)
			at += slope
		}
	}
	return dst
}

// lineSlope is the rise from one number to the next, in 1/65536.
func lineSlope(rise int64, n int) int64 { return rise << 16 / int64(n-1) }

// weigh finds the best packing of numbers.
func weigh(v []int64) packing {
	var sample [15]int64
	few := sample[:0]
	for i := range min(len(v), cap(few)) {
		few = append(few, v[i*len(v)/min(len(v), cap(few))])
	}
	slices.Sort(few)
	center := few[len(few)/2]

	var widths [65]int
	least, most := v[0], v[0]
	for _, x := range v {
		widths[bits.Len64(zigzag(x-center))]++
		least, most = min(least, x), max(most, x)
	}
	width := bits.Len64(uint64(most - least))
	if width > wideBits {
		width = 64
	}
	flat := packing{base: least, width: width, cost: width * len(v)}
	// Both sides of the center, and those out of the way apart: their distance to the one
	// before and what they have above the width. Only widths that some number has serve.
	var have [65]int
	n := 0
	for w, count := range widths {
		if count > 0 {
			have[n] = w
			n++
		}
	}
	spread := packing{base: center, zigzag: true, cost: flat.cost}
	for i, w := range have[:n] {
		cost := w * len(v)
		for _, over := range have[i+1 : n] {
			cost += widths[over] * (8 + (over-w+6)/7*8)
		}
		if cost < spread.cost && w <= wideBits {
			spread.width, spread.cost = w, cost
		}
	}
	if spread.cost < flat.cost {
		return spread
	}
	return flat
}
