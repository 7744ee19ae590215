package wire

import (
	"bytes"
	"errors"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// What can be wrong with a frame.
var (
	// ErrNotObject says that a frame is no JSON object (RFC 8259).
	ErrNotObject = errors.New("the frame is no JSON object")
	// ErrTooDeep and ErrTooManyKeys say that an object is over a limit of Limits.
	ErrTooDeep     = errors.New("the object is nested too deeply")
	ErrTooManyKeys = errors.New("the object has too many keys")
)

// Limits bound an object; zero values take the defaults, which are also what telemetry is
// configured with when nothing is said.
type Limits struct {
	// Depth is how many levels of objects and arrays may stand inside each other (default 16).
	Depth int
	// Keys is how many keys all objects of a frame may have together (default 256).
	Keys int
}

// Default limits of an object.
const (
	DefaultDepth = 16
	DefaultKeys  = 256
	// maxDepth is how deep the scanner follows.
	maxDepth = 64
)

// Frame is what a device's frame says under the keys that the hub knows: each the raw JSON
// value inside the scanned bytes, nil when absent. Of duplicate keys the last counts.
type Frame struct {
	Type, Name, Password, Version, Boot []byte
	Seq, TS                             []byte
	ID, OK, Value, Error                []byte
}

// set keeps value under key, where the frame knows it.
func (f *Frame) set(key, value []byte) {
	switch string(key) {
	case "type":
		f.Type = value
	case "seq":
		f.Seq = value
	case "ts":
		f.TS = value
	case "name":
		f.Name = value
	case "password":
		f.Password = value
	case "v":
		f.Version = value
	case "boot":
		f.Boot = value
	case "id":
		f.ID = value
	case "ok":
		f.OK = value
	case "value":
		f.Value = value
	case "error":
		f.Error = value
	}
}

// Scan checks in one pass that b is a JSON object within the limits, and fills f. b must be
// valid UTF-8. It does not allocate, unless a key is written with escapes. An object over a
// limit is checked to its end all the same, and f is filled; only beyond 64 levels the scan
// ends there with ErrTooDeep.
func Scan(b []byte, limits Limits, f *Frame) error {
	s := scanner{b: b, keys: limits.Keys, depth: limits.Depth}
	if s.keys <= 0 {
		s.keys = DefaultKeys
	}
	if s.depth <= 0 {
		s.depth = DefaultDepth
	}
	s.depth = min(s.depth, maxDepth)
	s.space()
	ok := s.at('{') && s.object(f, 1)
	s.space()
	switch {
	case s.lost:
		return ErrTooDeep
	case !ok || s.i != len(b):
		return ErrNotObject
	case s.deep:
		return ErrTooDeep
	case s.keys < 0:
		return ErrTooManyKeys
	}
	return nil
}

type scanner struct {
	b     []byte
	i     int
	keys  int // left
	depth int
	deep  bool // a level over the limit was there
	lost  bool // and one over maxDepth, where the scan ended
}

func (s *scanner) at(c byte) bool { return s.i < len(s.b) && s.b[s.i] == c }

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// object reads from «{» behind «}»; f is nil for inner objects.
func (s *scanner) object(f *Frame, level int) bool {
	if !s.enter(level) {
		return false
	}
	if s.ends('}') {
		return true
	}
	for {
		start := s.i
		plain, ok := s.text()
		if !ok {
			return false
		}
		key := s.b[start+1 : s.i-1]
		s.keys--
		s.space()
		if !s.at(':') {
			return false
		}
		s.i++
		s.space()
		at := s.i
		if !s.value(level) {
			return false
		}
		if f != nil {
			if !plain {
				key = []byte(gjson.ParseBytes(s.b[start : start+len(key)+2]).Str)
			}
			f.set(key, s.b[at:s.i])
		}
		if !s.more() {
			return s.ends('}')
		}
	}
}

// array reads from «[» behind «]».
func (s *scanner) array(level int) bool {
	if !s.enter(level) {
		return false
	}
	if s.ends(']') {
		return true
	}
	for s.value(level) {
		if !s.more() {
			return s.ends(']')
		}
	}
	return false
}

// enter reads the bracket that begins a level; it reports false when the scan cannot go
// deeper.
func (s *scanner) enter(level int) bool {
	s.deep = s.deep || level > s.depth
	s.lost = s.lost || level > maxDepth
	s.i++
	s.space()
	return !s.lost
}

// more reads a comma, if one stands behind a member.
func (s *scanner) more() bool {
	s.space()
	if !s.at(',') {
		return false
	}
	s.i++
	s.space()
	return true
}

// ends reads the bracket that ends a level, if it stands here.
func (s *scanner) ends(bracket byte) bool {
	if !s.at(bracket) {
		return false
	}
	s.i++
	return true
}

func (s *scanner) value(level int) bool {
	if s.i >= len(s.b) {
		return false
	}
	switch c := s.b[s.i]; {
	case c == '"':
		_, ok := s.text()
		return ok
	case c == '{':
		return s.object(nil, level+1)
	case c == '[':
		return s.array(level + 1)
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	default:
		return false
	}
}

func (s *scanner) word(w string) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	return true
}

// text reads a string; plain says that it holds no escape.
func (s *scanner) text() (plain, ok bool) {
	if !s.at('"') {
		return false, false
	}
	plain = true
	for s.i++; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return plain, true
		case c == '\\':
			plain = false
			if !s.escape() {
				return false, false
			}
		case c < 0x20:
			return false, false
		}
	}
	return false, false
}

// escape reads what follows a backslash and stops on its last byte.
func (s *scanner) escape() bool {
	s.i++
	if s.i >= len(s.b) {
		return false
	}
	switch s.b[s.i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		for range 4 {
			s.i++
			if s.i >= len(s.b) || !isHex(s.b[s.i]) {
				return false
			}
		}
		return true
	default:
		return false
	}
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// number reads a number (RFC 8259 section 6).
func (s *scanner) number() bool {
	if s.at('-') {
		s.i++
	}
	if s.at('0') {
		s.i++
	} else if !s.digits() {
		return false
	}
	if s.at('.') {
		s.i++
		if !s.digits() {
			return false
		}
	}
	if s.at('e') || s.at('E') {
		s.i++
		if s.at('+') || s.at('-') {
			s.i++
		}
		return s.digits()
	}
	return true
}

func (s *scanner) digits() bool {
	start := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > start
}

// Text gives the text of a raw JSON string; ok is false when raw is something else, or
// nothing. It allocates only when the string holds an escape.
func Text(raw []byte) (text []byte, ok bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return nil, false
	}
	inner := raw[1 : len(raw)-1]
	if bytes.IndexByte(inner, '\\') >= 0 {
		return []byte(gjson.ParseBytes(raw).Str), true
	}
	return inner, true
}

// Is reports whether raw is the JSON string word, which needs no escapes.
func Is(raw []byte, word string) bool {
	text, ok := Text(raw)
	return ok && string(text) == word
}

// Uint reads a raw JSON integer of at most 2^63−1; ok is false when raw is none.
func Uint(raw []byte) (v uint64, ok bool) {
	if len(raw) == 0 || len(raw) > 19 {
		return 0, false
	}
	for _, c := range raw {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + uint64(c-'0')
	}
	return v, v <= 1<<63-1
}

// Time reads a device's time stamp: a JSON number of Unix milliseconds, or a string in
// RFC 3339. It gives Unix microseconds.
func Time(raw []byte) (micros int64, ok bool) {
	if len(raw) == 0 {
		return 0, false
	}
	if raw[0] == '"' {
		text, _ := Text(raw)
		t, err := time.Parse(time.RFC3339Nano, string(text))
		return t.UnixMicro(), err == nil
	}
	if v, ok := Uint(raw); ok {
		return int64(v) * 1000, v < 1<<52
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f < 0 || f > 1<<52 {
		return 0, false
	}
	return int64(f * 1000), true
}

// ValidText reports whether b is UTF-8, as every frame has to be.
func ValidText(b []byte) bool { return utf8.Valid(b) }
