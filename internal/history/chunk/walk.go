package chunk

import (
	"slices"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// What a body may be to have a shape. Beyond it is kept as it came.
const (
	// MaxShaped is the longest body, in bytes, that is taken apart.
	MaxShaped = 64 << 10
	// MaxLeaves is how many values that are no objects a shape may have.
	MaxLeaves = 256

	maxNest    = 32       // levels of objects, and of anything inside of an array
	maxNodes   = 1024     // leaves and objects
	maxLiteral = 8 << 10  // bytes of a shape besides its leaves
	maxPaths   = 32 << 10 // bytes of all paths of a shape
)

// span is where a leaf stands in a body.
type span struct{ from, to int }

// node is a value that a path names: a leaf, or an object with the place of its text.
type node struct {
	path string
	leaf int // −1: an object
	// an object begins at byte fromOff of literal fromSeg and ends before byte toOff of toSeg
	fromSeg, fromOff, toSeg, toOff int
}

// walker takes a JSON object (RFC 8259) apart.
type walker struct {
	b      []byte
	i      int
	leaves []span

	named  bool // also fill nodes
	nodes  []node
	prefix []byte
	paths  int // bytes of all paths

	cells []cell // for those who take a walker from the pool
}

// walk reports whether b is an object within the limits, and fills leaves; and nodes,
// when they are wanted.
func (w *walker) walk(b []byte, named bool) bool {
	w.b, w.i, w.leaves, w.named = b, 0, w.leaves[:0], named
	w.nodes, w.prefix, w.paths = nil, w.prefix[:0], 0
	if len(b) > MaxShaped {
		return false
	}
	w.space()
	if !w.at('{') || !w.object(1, false) {
		return false
	}
	w.space()
	if w.i != len(b) {
		return false
	}
	literal := len(b)
	for _, l := range w.leaves {
		literal -= l.to - l.from
	}
	return literal <= maxLiteral
}

func (w *walker) at(c byte) bool { return w.i < len(w.b) && w.b[w.i] == c }

func (w *walker) space() {
	for w.i < len(w.b) {
		switch w.b[w.i] {
		case ' ', '\t', '\n', '\r':
			w.i++
		default:
			return
		}
	}
}

// object reads from «{» behind «}». One inside of an array, where level counts from the leaf,
// is a part of that leaf.
func (w *walker) object(level int, inside bool) bool {
	if level > maxNest {
		return false
	}
	w.i++
	w.space()
	if w.at('}') {
		w.i++
		return true
	}
	for {
		from := w.i
		if !w.text() {
			return false
		}
		to := w.i
		w.space()
		if !w.at(':') {
			return false
		}
		w.i++
		w.space()
		if inside && !w.value(level) || !inside && !w.member(w.b[from:to], level) {
			return false
		}
		w.space()
		if w.at('}') {
			w.i++
			return true
		}
		if !w.at(',') {
			return false
		}
		w.i++
		w.space()
	}
}

// member reads the value behind a key and notes it.
func (w *walker) member(key []byte, level int) bool {
	outer := len(w.prefix)
	if w.named {
		if !utf8.Valid(key) {
			return false
		}
		if slices.Contains(key, '\\') {
			w.prefix = append(w.prefix, gjson.ParseBytes(key).Str...)
		} else {
			w.prefix = append(w.prefix, key[1:len(key)-1]...)
		}
		w.paths += len(w.prefix)
		if len(w.nodes) >= maxNodes || w.paths > maxPaths {
			return false
		}
		w.nodes = append(w.nodes, node{path: string(w.prefix), leaf: len(w.leaves)})
	}
	mine := len(w.nodes) - 1
	if w.at('{') {
		seg, off := w.place()
		if w.named {
			w.prefix = append(w.prefix, '.')
		}
		if !w.object(level+1, false) {
			return false
		}
		if w.named {
			n := &w.nodes[mine]
			n.leaf, n.fromSeg, n.fromOff = -1, seg, off
			n.toSeg, n.toOff = w.place()
		}
	} else {
		if len(w.leaves) >= MaxLeaves {
			return false
		}
		from := w.i
		if !w.value(0) {
			return false
		}
		w.leaves = append(w.leaves, span{from, w.i})
	}
	w.prefix = w.prefix[:outer]
	return true
}

// place gives where the walker stands, as the number of a literal and the offset in it.
func (w *walker) place() (seg, off int) {
	if n := len(w.leaves); n > 0 {
		return n, w.i - w.leaves[n-1].to
	}
	return 0, w.i
}

// array reads from «[» behind «]»; level counts from the leaf.
func (w *walker) array(level int) bool {
	if level > maxNest {
		return false
	}
	w.i++
	w.space()
	if w.at(']') {
		w.i++
		return true
	}
	for {
		if !w.value(level) {
			return false
		}
		w.space()
		if w.at(']') {
			w.i++
			return true
		}
		if !w.at(',') {
			return false
		}
		w.i++
		w.space()
	}
}

// value reads any value, level levels deep in a leaf; the objects of arrays are not told apart.
func (w *walker) value(level int) bool {
	if w.i >= len(w.b) {
		return false
	}
	switch w.b[w.i] {
	case '"':
		return w.text()
	case '[':
		return w.array(level + 1)
	case '{':
		return w.object(level+1, true)
	}
	_, n := scanToken(w.b[w.i:])
	w.i += n
	return n > 0
}

func (w *walker) text() bool {
	n := scanString(w.b[w.i:])
	w.i += n
	return n > 0
}

// scanString reads a JSON string at the beginning of b: n is its length with the quotes,
// 0 when there is none.
func scanString(b []byte) (n int) {
	if len(b) == 0 || b[0] != '"' {
		return 0
	}
	for i := 1; i < len(b); i++ {
		c := b[i]
		if c == '"' {
			return i + 1
		}
		if c < 0x20 {
			return 0
		}
		if c != '\\' {
			continue
		}
		i++
		if i >= len(b) {
			return 0
		}
		switch b[i] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		case 'u':
			for range 4 {
				i++
				if i >= len(b) || !isHex(b[i]) {
					return 0
				}
			}
		default:
			return 0
		}
	}
	return 0
}

func isHex(c byte) bool {
	return c-'0' <= 9 || c|0x20-'a' <= 5
}
