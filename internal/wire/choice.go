package wire

import (
	"bytes"
	"strings"

	"github.com/tidwall/gjson"
)

// Choice takes chosen fields out of objects. It keeps what it found in the last object: each
// goroutine needs its own.
type Choice struct {
	fields []string
	names  [][]byte // as JSON, with the colon
	tails  [][]byte
	values []gjson.Result // of the last object; those it does not have do not exist
}

// NewChoice chooses fields by their dotted paths, as Field knows them; none: whole objects.
func NewChoice(fields []string) *Choice {
	c := &Choice{fields: fields, values: make([]gjson.Result, len(fields))}
	for _, f := range fields {
		c.names = append(c.names, append(AppendString(nil, f), ':'))
		c.tails = append(c.tails, FieldTail(f))
	}
	return c
}

// Fields are the fields chosen.
func (c *Choice) Fields() []string { return c.fields }

// Values are those of the fields in the object that was looked at last, in the order of
// Fields. A field that it did not have does not exist. They are part of that object's memory
// and of the Choice's.
func (c *Choice) Values() []gjson.Result { return c.values }

// Look finds the values of the fields in an object, which must be valid JSON, and says whether
// there is any.
func (c *Choice) Look(object []byte) (some bool) {
	escaped := HasEscape(object)
	var whole gjson.Result
	for i, f := range c.fields {
		c.values[i] = gjson.Result{}
		if !escaped && !bytes.Contains(object, c.tails[i]) {
			continue
		}
		if whole.Raw == "" {
			whole = gjson.ParseBytes(object)
		}
		if v, ok := Field(whole, f); ok {
			c.values[i], some = v, true
		}
	}
	return some
}

// AppendTo appends an object of what the last object has of the fields, under the paths that
// were chosen and in their order.
func (c *Choice) AppendTo(dst []byte) []byte {
	dst = append(dst, '{')
	first := true
	for i, v := range c.values {
		if !v.Exists() {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(dst, c.names[i]...), v.Raw...)
	}
	return append(dst, '}')
}

// Of gives the object with only the fields chosen; fields that it does not have are absent.
func (c *Choice) Of(object []byte) []byte {
	if len(c.fields) == 0 {
		return object
	}
	c.Look(object)
	return c.AppendTo(nil)
}

// FieldTail is what the text of every object that has the field has in it, if nothing in that
// text is escaped.
func FieldTail(field string) []byte { return []byte(field[strings.LastIndexByte(field, '.')+1:]) }

// HasEscape says that a key of the object may be spelt in another way than it reads.
func HasEscape(object []byte) bool { return bytes.IndexByte(object, '\\') >= 0 }
