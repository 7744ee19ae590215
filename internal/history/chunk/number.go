package chunk

import (
	"encoding/binary"
	"math"
	"strconv"
)

// A cell is one token of JSON in eight bytes. Its low six bits are the tag:
//
//	0…18   a decimal number with that many digits behind the point; above the tag is the
//	       mantissa, signed
//	19…37  the same in double quotes, with tag−19 digits behind the point
//	59     nothing yet
//	60…62  null, true, false
//	63     the bytes of the token stand elsewhere: 27 bits of length, then 31 bits of offset
type cell = uint64

const (
	tagBits   = 6
	tagMask   = 1<<tagBits - 1
	tagQuoted = 19
	tagUnset  = 59
	tagNull   = 60
	tagTrue   = 61
	tagFalse  = 62
	tagRef    = 63

	// maxScale is how many digits may stand behind the point of a decimal, and the largest
	// tag of an unquoted one.
	maxScale = 18
	// maxMantissa bounds a decimal's digits, so that they fit beside the tag.
	maxMantissa = 1e17

	lenBits = 27
	maxRef  = 1<<lenBits - 1 // the longest token of a cell, bytes
	offBits = tagBits + lenBits
)

func refCell(offset, length int) cell {
	return uint64(offset)<<offBits | uint64(length)<<tagBits | tagRef
}

func decimalCell(mantissa int64, tag uint8) cell { return uint64(mantissa)<<tagBits | uint64(tag) }

func isRef(c cell) bool { return c&tagMask == tagRef }

// isDecimal says that c is a number; isQuoted that it is one in double quotes.
func isDecimal(c cell) bool { return c&tagMask <= maxScale }
func isQuoted(c cell) bool  { return c&tagMask-tagQuoted <= maxScale }

func mantissa(c cell) int64 { return int64(c) >> tagBits }

// scaleOf gives the digits behind the point of a decimal, quoted or not.
func scaleOf(c cell) uint8 {
	tag := uint8(c & tagMask)
	if tag >= tagQuoted {
		tag -= tagQuoted
	}
	return tag
}

// refOf gives the bytes of a cell with tagRef; mem is where they stand.
func refOf(mem []byte, c cell) []byte {
	off, n := int(c>>offBits), int(c>>tagBits&maxRef)
	return mem[off : off+n : off+n]
}

// rebase moves a cell to bytes that stand by base further up.
func rebase(c cell, base int) cell {
	if isRef(c) {
		return c + uint64(base)<<offBits
	}
	return c
}

// scanNumber reads a JSON number at the beginning of b (RFC 8259 section 6): n is its
// length, 0 when there is none. canonical says that mantissa and scale give its spelling
// back; otherwise they mean nothing.
func scanNumber(b []byte) (m int64, scale uint8, n int, canonical bool) {
	i := 0
	if i < len(b) && b[i] == '-' {
		i++
	}
	first := i
	var u uint64
	for i < len(b) && b[i]-'0' <= 9 {
		u = u*10 + uint64(b[i]-'0')
		i++
	}
	digits := i - first
	if digits == 0 || digits > 1 && b[first] == '0' {
		return 0, 0, 0, false
	}
	point := i
	if i < len(b) && b[i] == '.' {
		for i++; i < len(b) && b[i]-'0' <= 9; i++ {
			u = u*10 + uint64(b[i]-'0')
		}
		if i == point+1 {
			return 0, 0, 0, false
		}
		point++
	}
	places := i - point
	digits += places
	canonical = digits <= maxScale && u < maxMantissa
	if i < len(b) && b[i]|0x20 == 'e' {
		canonical = false
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		from := i
		for i < len(b) && b[i]-'0' <= 9 {
			i++
		}
		if i == from {
			return 0, 0, 0, false
		}
	}
	if first > 0 {
		return -int64(u), uint8(places), i, canonical && u != 0
	}
	return int64(u), uint8(places), i, canonical
}

// appendDecimal appends a decimal as scanNumber reads it.
func appendDecimal(dst []byte, m int64, scale uint8) []byte {
	if scale == 0 {
		return strconv.AppendInt(dst, m, 10)
	}
	var text [24]byte
	u := uint64(m)
	if m < 0 {
		u = -u
	}
	at := len(text)
	for range scale {
		at--
		text[at] = byte('0' + u%10)
		u /= 10
	}
	at--
	text[at] = '.'
	for {
		at--
		text[at] = byte('0' + u%10)
		u /= 10
		if u == 0 {
			break
		}
	}
	if m < 0 {
		at--
		text[at] = '-'
	}
	return append(dst, text[at:]...)
}

// appendCell appends the token of a cell; mem is where the bytes of those with tagRef stand.
func appendCell(dst, mem []byte, c cell) []byte {
	switch tag := c & tagMask; {
	case tag == tagRef:
		return append(dst, refOf(mem, c)...)
	case tag <= maxScale:
		return appendDecimal(dst, mantissa(c), uint8(tag))
	case tag <= tagQuoted+maxScale:
		dst = appendDecimal(append(dst, '"'), mantissa(c), uint8(tag-tagQuoted))
		return append(dst, '"')
	case tag == tagNull:
		return append(dst, "null"...)
	case tag == tagTrue:
		return append(dst, "true"...)
	case tag == tagFalse:
		return append(dst, "false"...)
	default:
		return dst
	}
}

// cellLen gives how many bytes appendCell appends.
func cellLen(c cell) int {
	tag := c & tagMask
	quotes := 0
	switch tag {
	case tagRef:
		return int(c >> tagBits & maxRef)
	case tagNull, tagTrue:
		return 4
	case tagFalse:
		return 5
	case tagUnset:
		return 0
	}
	if tag >= tagQuoted {
		tag -= tagQuoted
		quotes = 2
	}
	m := mantissa(c)
	n := quotes
	u := uint64(m)
	if m < 0 {
		n++
		u = -u
	}
	digits := 1
	for p := uint64(10); digits < 20 && u >= p; p *= 10 {
		digits++
	}
	if tag > 0 {
		return n + max(digits, int(tag)+1) + 1
	}
	return n + digits
}

// scanToken reads the leaf at the beginning of b: n is its length, 0 when there is none.
// c is its cell, or tagRef alone where the bytes themselves have to be kept.
func scanToken(b []byte) (c cell, n int) {
	if len(b) == 0 {
		return 0, 0
	}
	switch first := b[0]; {
	case first == '"':
		if len(b) > 1 && (b[1]-'0' <= 9 || b[1] == '-') {
			m, scale, n, canonical := scanNumber(b[1:])
			if canonical && len(b) > n+1 && b[n+1] == '"' {
				return decimalCell(m, scale+tagQuoted), n + 2
			}
		}
		return tagRef, scanString(b)
	case first-'0' <= 9 || first == '-':
		m, scale, n, canonical := scanNumber(b)
		if canonical {
			return decimalCell(m, scale), n
		}
		return tagRef, n
	case first == '[':
		w := walker{b: b}
		if w.array(1) {
			return tagRef, w.i
		}
		return 0, 0
	case first == 'n' && len(b) >= 4 && string(b[:4]) == "null":
		return tagNull, 4
	case first == 't' && len(b) >= 4 && string(b[:4]) == "true":
		return tagTrue, 4
	case first == 'f' && len(b) >= 5 && string(b[:5]) == "false":
		return tagFalse, 5
	}
	return 0, 0
}

// cellAt gives the cell of the token mem[from:to], which is a whole one.
func cellAt(mem []byte, from, to int) cell {
	c, n := scanToken(mem[from:to])
	if n != to-from || n == 0 || isRef(c) {
		return refCell(from, to-from)
	}
	return c
}

// pow10 gives 10 to the power of n, 0 ≤ n ≤ 22, exactly.
func pow10(n uint8) float64 {
	return [...]float64{
		1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
	}[n]
}

// ipow10 gives 10 to the power of n, 0 ≤ n ≤ 18.
func ipow10(n uint8) int64 {
	return [...]int64{
		1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
	}[n]
}

// decimalFloat gives the float64 nearest to a decimal. Both are exact below 2^53, so one
// division rounds right.
func decimalFloat(m int64, scale uint8) float64 {
	if -1<<53 < m && m < 1<<53 {
		if scale == 0 {
			return float64(m)
		}
		return float64(m) / pow10(scale)
	}
	var text [32]byte
	f, err := strconv.ParseFloat(string(appendDecimal(text[:0], m, scale)), 64)
	if err != nil {
		return math.NaN() // no decimal is beyond the range
	}
	return f
}

// parseFloat gives the float64 nearest to a JSON number: ±Inf beyond the range.
func parseFloat(token []byte) float64 {
	f, _ := strconv.ParseFloat(string(token), 64) // the error says that it is beyond the range
	return f
}

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// uvarint reads an unsigned varint behind b[at]: next is where it ends, 0 when it does not.
func uvarint(b []byte, at int) (v uint64, next int) {
	if uint(at) >= uint(len(b)) {
		return 0, 0
	}
	if c := b[at]; c < 0x80 {
		return uint64(c), at + 1
	}
	v, n := binary.Uvarint(b[at:])
	if n <= 0 {
		return 0, 0
	}
	return v, at + n
}
