package mapped

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"signalbox/internal/wire"

	"signalbox"
)

// maxWildcards bounds the wildcards of a filter.
const maxWildcards = 16

// captures are what the wildcards of a filter stand for in a topic: from and to.
type captures struct {
	n  int
	at [maxWildcards][2]int
}

// of gives the text of wildcard n, counted from 1.
func (c *captures) of(topic string, n int) string { return topic[c.at[n-1][0]:c.at[n-1][1]] }

// pattern is a text with {1}, {2}… in it.
type pattern struct {
	text  string // as it was written
	parts []patternPart
}

// patternPart is a piece of text, or a wildcard where n is not 0.
type patternPart struct {
	text string
	n    int
}

// parsePattern reads text, which may name wildcards up to count. what names it in errors.
func parsePattern(what, text string, count int) (*pattern, error) {
	p := &pattern{text: text}
	for rest := text; rest != ""; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			p.parts = append(p.parts, patternPart{text: rest})
			break
		}
		inner, after, ok := strings.Cut(rest[open+1:], "}")
		n, err := strconv.Atoi(inner)
		switch {
		case !ok || err != nil || n < 1:
			return nil, invalid("the %s %q holds a brace that begins no wildcard's number; allowed are {1}, {2} and so on", what, text)
		case n > count:
			return nil, invalid("the %s %q names wildcard {%d}, but its filter has %d", what, text, n, count)
		}
		if open > 0 {
			p.parts = append(p.parts, patternPart{text: rest[:open]})
		}
		p.parts = append(p.parts, patternPart{n: n})
		rest = after
	}
	return p, nil
}

// fixed reports whether the text names no wildcard.
func (p *pattern) fixed() bool {
	for _, part := range p.parts {
		if part.n != 0 {
			return false
		}
	}
	return true
}

// names reports whether wildcard n is in the text.
func (p *pattern) names(n int) bool {
	for _, part := range p.parts {
		if part.n == n {
			return true
		}
	}
	return false
}

// append appends the text for a topic.
func (p *pattern) append(b []byte, topic string, c *captures) []byte {
	for _, part := range p.parts {
		if part.n != 0 {
			b = append(b, c.of(topic, part.n)...)
		} else {
			b = append(b, part.text...)
		}
	}
	return b
}

// invert gives what each wildcard stands for where the text is name, if that is certain: there
// is one wildcard in it.
func (p *pattern) invert(name string) (n int, capture string, ok bool) {
	before, after := "", ""
	for _, part := range p.parts {
		switch {
		case part.n == 0 && n == 0:
			before += part.text
		case part.n == 0:
			after += part.text
		case n != 0:
			return 0, "", false
		default:
			n = part.n
		}
	}
	if n == 0 || len(name) <= len(before)+len(after) || !strings.HasPrefix(name, before) || !strings.HasSuffix(name, after) {
		return 0, "", false
	}
	return n, name[len(before) : len(name)-len(after)], true
}

// fieldPattern is a field's name, with the JSON of it where that is always the same.
type fieldPattern struct {
	pattern
	ready []byte
}

func newFieldPattern(text string, count int) (*fieldPattern, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	if !utf8.ValidString(text) || len(text) > maxField {
		return nil, invalid("the field %.40q is not valid UTF-8 or has more than %d bytes", text, maxField)
	}
	p, err := parsePattern("field", text, count)
	if err == nil {
		err = signalbox.CheckField("field", text)
	}
	if err != nil {
		return nil, invalid("%s", err)
	}
	f := &fieldPattern{pattern: *p}
	if p.fixed() {
		f.ready = append(wire.AppendString([]byte{'{'}, text), ':')
	}
	return f, nil
}

// appendKey appends the beginning of an object: its brace, its key and the colon.
func (f *fieldPattern) appendKey(b []byte, topic string, c *captures) ([]byte, error) {
	if f.ready != nil {
		return append(b, f.ready...), nil
	}
	var room [maxField]byte
	key := f.append(room[:0], topic, c)
	if len(key) == 0 || len(key) > maxField || !utf8.Valid(key) {
		return b, errField
	}
	return append(wire.AppendString(append(b, '{'), key), ':'), nil
}

func invalid(format string, args ...any) error {
	return signalbox.Errorf(signalbox.KindInvalid, "invalid_mapping", format, args...)
}
