package wire

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"signalbox"
)

// AppendPyString appends s to dst as Python's json.dumps writes a string by default: in
// double quotes, ASCII only, everything else as lower-case \uxxxx (surrogate pairs beyond
// U+FFFF), and only «"», «\» and control characters escaped besides. A byte that is not
// UTF-8 becomes \ufffd.
func AppendPyString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			dst = appendPyASCII(dst, c)
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		dst = appendPyRune(dst, r)
	}
	return append(dst, '"')
}

func appendPyRune(dst []byte, r rune) []byte {
	if r < 0x10000 {
		return appendPyEscape(dst, uint16(r))
	}
	hi, lo := utf16.EncodeRune(r)
	return appendPyEscape(appendPyEscape(dst, uint16(hi)), uint16(lo))
}

// appendPyASCII appends one character below 0x80 as it stands inside a string.
func appendPyASCII(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	}
	if c < ' ' || c == 0x7f {
		return appendPyEscape(dst, uint16(c))
	}
	return append(dst, c)
}

const hexDigits = "0123456789abcdef"

func appendPyEscape(dst []byte, v uint16) []byte {
	return append(dst, '\\', 'u', hexDigits[v>>12], hexDigits[v>>8&15], hexDigits[v>>4&15], hexDigits[v&15])
}

// MaxPyDepth is the deepest nesting that AppendPyJSON takes, in objects and arrays.
const MaxPyDepth = 10_000

// AppendPyJSON appends the JSON document raw to dst as Python prints it after reading it,
// in the form of Flask's jsonify but without its newline: json.dumps(json.loads(raw),
// sort_keys=True, separators=(",", ":")). That is: keys sorted by code point at every
// level, of duplicate keys the last, strings as AppendPyString writes them (half a
// surrogate pair stays what it is), whole numbers digit by digit, others by repr (1e+16,
// 1e-05, 0.1, Infinity beyond the range of float64).
//
// It gives KindInvalid, and dst as it was, for what is not JSON or nested deeper than
// MaxPyDepth.
func AppendPyJSON(dst, raw []byte) ([]byte, error) {
	if !gjson.ValidBytes(raw) {
		return dst, signalbox.Errorf(signalbox.KindInvalid, "invalid_json", "the document is not valid JSON")
	}
	p := pyPrinter{in: raw}
	start := len(dst)
	p.space()
	out := p.value(dst, 0)
	if p.tooDeep {
		return dst[:start], signalbox.Errorf(signalbox.KindInvalid, "too_deep", "the document is nested deeper than %d levels", MaxPyDepth)
	}
	return out, nil
}

// pyPrinter walks a document that is known to be valid JSON.
type pyPrinter struct {
	in      []byte
	at      int
	tooDeep bool
	scratch []byte
}

func (p *pyPrinter) peek() byte {
	if p.at < len(p.in) {
		return p.in[p.at]
	}
	return 0
}

func (p *pyPrinter) space() {
	for p.at < len(p.in) {
		switch p.in[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *pyPrinter) value(dst []byte, depth int) []byte {
	if depth > MaxPyDepth {
		p.tooDeep = true
		p.at = len(p.in)
		return dst
	}
	switch c := p.peek(); c {
	case '{':
		return p.object(dst, depth)
	case '[':
		return p.array(dst, depth)
	case '"':
		return appendPyPoints(dst, p.text(nil))
	case 't', 'f', 'n':
		start := p.at
		for p.at < len(p.in) && 'a' <= p.in[p.at] && p.in[p.at] <= 'z' {
			p.at++
		}
		return append(dst, p.in[start:p.at]...)
	default:
		start := p.at
		for p.at < len(p.in) && isNumberByte(p.in[p.at]) {
			p.at++
		}
		return appendPyNumber(dst, p.in[start:p.at])
	}
}

func isNumberByte(c byte) bool {
	return '0' <= c && c <= '9' || c == '+' || c == '-' || c == '.' || c == 'e' || c == 'E'
}

func (p *pyPrinter) array(dst []byte, depth int) []byte {
	p.at++ // [
	dst = append(dst, '[')
	for first := true; ; first = false {
		p.space()
		if p.at >= len(p.in) {
			return dst
		}
		if p.peek() == ']' {
			p.at++
			return append(dst, ']')
		}
		if !first {
			p.at++ // ,
			p.space()
			dst = append(dst, ',')
		}
		dst = p.value(dst, depth+1)
	}
}

// member is one member of an object: its key as appendPoint writes it, and where it
// stands printed, as "key":value.
type member struct {
	key        []byte
	start, end int
}

func (p *pyPrinter) object(dst []byte, depth int) []byte {
	p.at++ // {
	dst = append(dst, '{')
	begin := len(dst)
	var members []member
	sorted := true
	for first := true; ; first = false {
		p.space()
		if p.at >= len(p.in) {
			return dst
		}
		if p.peek() == '}' {
			p.at++
			break
		}
		if !first {
			p.at++ // ,
			p.space()
		}
		m := member{key: p.text(nil)}
		p.space()
		p.at++ // :
		p.space()
		if n := len(members); n > 0 {
			sorted = sorted && bytes.Compare(members[n-1].key, m.key) < 0
			dst = append(dst, ',')
		}
		m.start = len(dst)
		dst = append(appendPyPoints(dst, m.key), ':')
		dst = p.value(dst, depth+1)
		m.end = len(dst)
		members = append(members, m)
	}
	if !sorted {
		dst = p.sort(dst, begin, members)
	}
	return append(dst, '}')
}

// sort puts the members printed from begin on in order of their keys, the last of equal
// ones only.
func (p *pyPrinter) sort(dst []byte, begin int, members []member) []byte {
	slices.SortStableFunc(members, func(a, b member) int { return bytes.Compare(a.key, b.key) })
	p.scratch = append(p.scratch[:0], dst[begin:]...)
	dst = dst[:begin]
	for i, m := range members {
		if i+1 < len(members) && bytes.Equal(m.key, members[i+1].key) {
			continue
		}
		if len(dst) > begin {
			dst = append(dst, ',')
		}
		dst = append(dst, p.scratch[m.start-begin:m.end-begin]...)
	}
	return dst
}

// text reads a string and appends its code points to dst as appendPoint writes them, so
// that the order of bytes is the order of code points.
func (p *pyPrinter) text(dst []byte) []byte {
	p.at++ // "
	for p.at < len(p.in) {
		c := p.in[p.at]
		switch {
		case c == '"':
			p.at++
			return dst
		case c == '\\':
			dst = p.escape(dst)
		case c < utf8.RuneSelf:
			dst = append(dst, c)
			p.at++
		default:
			r, n := utf8.DecodeRune(p.in[p.at:])
			dst = utf8.AppendRune(dst, r)
			p.at += n
		}
	}
	return dst
}

func (p *pyPrinter) escape(dst []byte) []byte {
	c := p.in[p.at+1]
	if c != 'u' {
		p.at += 2
		if i := bytes.IndexByte([]byte("bfnrt"), c); i >= 0 {
			c = "\b\f\n\r\t"[i]
		}
		return append(dst, c)
	}
	r := p.hex4()
	if 0xd800 <= r && r < 0xdc00 && p.at+6 <= len(p.in) && p.in[p.at] == '\\' && p.in[p.at+1] == 'u' {
		back := p.at
		if pair := utf16.DecodeRune(r, p.hex4()); pair != utf8.RuneError {
			return utf8.AppendRune(dst, pair)
		}
		p.at = back
	}
	return appendPoint(dst, r)
}

// hex4 reads one \uxxxx.
func (p *pyPrinter) hex4() rune {
	var r rune
	for _, c := range p.in[p.at+2 : p.at+6] {
		switch {
		case c <= '9':
			c -= '0'
		case c <= 'F':
			c -= 'A' - 10
		default:
			c -= 'a' - 10
		}
		r = r<<4 | rune(c)
	}
	p.at += 6
	return r
}

// appendPoint is utf8.AppendRune that also takes half a surrogate pair, in the three
// bytes that UTF-8 would give it.
func appendPoint(dst []byte, r rune) []byte {
	if 0xd800 <= r && r < 0xe000 {
		return append(dst, 0xe0|byte(r>>12), 0x80|byte(r>>6&0x3f), 0x80|byte(r&0x3f))
	}
	return utf8.AppendRune(dst, r)
}

// appendPyPoints is AppendPyString for what appendPoint wrote.
func appendPyPoints(dst, points []byte) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(points); {
		c := points[i]
		if c < utf8.RuneSelf {
			dst = appendPyASCII(dst, c)
			i++
			continue
		}
		if c == 0xed && points[i+1] >= 0xa0 {
			dst = appendPyEscape(dst, 0xd000|uint16(points[i+1]&0x3f)<<6|uint16(points[i+2]&0x3f))
			i += 3
			continue
		}
		r, n := utf8.DecodeRune(points[i:])
		i += n
		dst = appendPyRune(dst, r)
	}
	return append(dst, '"')
}

func appendPyNumber(dst, text []byte) []byte {
	if !bytes.ContainsAny(text, ".eE") {
		if string(text) == "-0" {
			return append(dst, '0')
		}
		return append(dst, text...)
	}
	f, _ := strconv.ParseFloat(string(text), 64) // beyond the range it gives ±Inf, as Python does
	return AppendPyFloat(dst, f)
}

// AppendPyFloat appends f as json.dumps does: Python's repr, the shortest digits that give
// f back, with an exponent below 1e-4 and from 1e16 on; NaN, Infinity and -Infinity.
func AppendPyFloat(dst []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, "NaN"...)
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...)
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.AppendFloat(dst, f, 'e', -1, 64)
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
	if bytes.IndexByte(dst[start:], '.') < 0 {
		dst = append(dst, '.', '0')
	}
	return dst
}
