package chunk

import (
	"fmt"

	"github.com/tidwall/gjson"

	"signalbox/internal/wire"
)

// ValueKind is what a value of JSON is.
type ValueKind uint8

// The kinds of value. Missing is a row without such a field.
const (
	Missing ValueKind = iota
	Null
	False
	True
	Number
	String
	Array
	Object
)

// Value is a field of a row.
type Value struct {
	Kind ValueKind
	// Number is the value of a number; ±Inf when it is beyond the range of float64.
	Number float64
	// Raw is the JSON text exactly as the device wrote it, nil for Missing. It is lent until
	// the reader's next Load.
	Raw []byte
}

// Field appends the values of a field, one for each row. path names it as in package wire:
// keys joined with dots; of several fields of that name in one object the last counts. Only
// the columns of that field are decoded.
func (r *Reader) Field(path string, dst []Value) []Value {
	if len(r.parts) == 1 {
		n := r.parts[0].sh.find(path)
		if n != nil && n.leaf >= 0 {
			return r.values(dst, r.column(0, n.leaf))
		}
	}
	nodes := make([]*node, len(r.parts))
	for i := range r.parts {
		sh := r.parts[i].sh
		nodes[i] = sh.find(path)
		switch {
		case nodes[i] != nil && nodes[i].leaf >= 0:
			r.column(i, nodes[i].leaf)
		case nodes[i] != nil || sh.id == 0:
			r.decodePart(i)
		}
	}
	for i := range r.head.N {
		part, j := r.place(i)
		cols := r.cols[part].list
		switch n := nodes[part]; {
		case r.parts[part].sh.id == 0:
			dst = append(dst, r.rawField(cols[0].at(j), path))
		case n == nil:
			dst = append(dst, Value{})
		case n.leaf >= 0:
			dst = append(dst, r.value(cols[n.leaf].at(j)))
		default:
			dst = append(dst, r.object(r.parts[part].sh, cols, n, j))
		}
	}
	return dst
}

// values appends the values of a whole column, which is of all rows.
func (r *Reader) values(dst []Value, c *column) []Value {
	if c.same {
		v := r.value(c.cells[0])
		for range r.head.N {
			dst = append(dst, v)
		}
		return dst
	}
	before := cell(tagUnset)
	var v Value
	for _, x := range c.cells {
		if x != before {
			v = r.value(x)
			before = x
		}
		dst = append(dst, v)
	}
	return dst
}

func (r *Reader) value(c cell) Value {
	switch c & tagMask {
	case tagUnset:
		return Value{}
	case tagRef:
		return textValue(refOf(r.payload, c))
	}
	from := len(r.text)
	r.text = appendCell(r.text, r.payload, c)
	raw := r.text[from:len(r.text):len(r.text)]
	switch tag := c & tagMask; {
	case tag == tagNull:
		return Value{Kind: Null, Raw: raw}
	case tag == tagTrue:
		return Value{Kind: True, Raw: raw}
	case tag == tagFalse:
		return Value{Kind: False, Raw: raw}
	case tag >= tagQuoted:
		return Value{Kind: String, Raw: raw}
	default:
		return Value{Kind: Number, Number: decimalFloat(mantissa(c), uint8(tag)), Raw: raw}
	}
}

// textValue gives the value of a JSON text.
func textValue(raw []byte) Value {
	if len(raw) == 0 {
		return Value{}
	}
	switch raw[0] {
	case '"':
		return Value{Kind: String, Raw: raw}
	case '[':
		return Value{Kind: Array, Raw: raw}
	case '{':
		return Value{Kind: Object, Raw: raw}
	case 'n':
		return Value{Kind: Null, Raw: raw}
	case 't':
		return Value{Kind: True, Raw: raw}
	case 'f':
		return Value{Kind: False, Raw: raw}
	default:
		return Value{Kind: Number, Number: parseFloat(raw), Raw: raw}
	}
}

// object gives the text of an object of a row.
func (r *Reader) object(sh *shape, cols []column, n *node, j int) Value {
	if r.err != nil {
		return Value{}
	}
	from := len(r.text)
	at := n.fromOff
	for seg := n.fromSeg; seg < n.toSeg; seg++ {
		r.text = append(r.text, sh.segs[seg][at:]...)
		r.text = appendCell(r.text, r.payload, cols[seg].at(j))
		at = 0
	}
	r.text = append(r.text, sh.segs[n.toSeg][at:n.toOff]...)
	return Value{Kind: Object, Raw: r.text[from:len(r.text):len(r.text)]}
}

// rawField finds a field in a body that has no shape.
func (r *Reader) rawField(c cell, path string) Value {
	body := r.rawBody(c)
	if body == nil {
		return Value{}
	}
	found, ok := wire.Field(gjson.ParseBytes(body), path)
	if !ok {
		return Value{}
	}
	from := len(r.text)
	r.text = append(r.text, found.Raw...)
	return textValue(r.text[from:len(r.text):len(r.text)])
}

// rawBody gives a body that has no shape, nil when it is no JSON object.
func (r *Reader) rawBody(c cell) []byte {
	if !isRef(c) {
		return nil
	}
	body := refOf(r.payload, c)
	if !isObject(body) {
		return nil
	}
	return body
}

// scanDepth is how deep package wire looks; no shape is deeper.
const scanDepth = 2 * maxNest

// isObject says whether fields can be found in a body.
func isObject(body []byte) bool {
	var f wire.Frame
	return wire.Scan(body, wire.Limits{Depth: scanDepth, Keys: 1 << 30}, &f) == nil
}

// Fields gives the dotted paths of all values of a chunk that are no objects, in the order in
// which they first appear, by shape. A chunk with bodies that have no shape is decompressed
// for it.
func Fields(s *Shapes, blob []byte) ([]string, error) {
	h, err := parseHead(blob)
	if err != nil {
		return nil, err
	}
	var list []string
	have := map[string]bool{}
	add := func(path string) {
		if !have[path] {
			have[path] = true
			list = append(list, path)
		}
	}
	raw := false
	rest := h.ids
	for range h.shapes {
		id, next := uvarint(rest, 0)
		rest = rest[next:]
		sh := s.get(ShapeID(min(id, MaxShapes+1)))
		if sh == nil {
			return nil, fmt.Errorf("%w: shape %d is not in the table", ErrBroken, id)
		}
		raw = raw || id == 0
		for i := range sh.nodes {
			if sh.nodes[i].leaf >= 0 {
				add(sh.nodes[i].path)
			}
		}
	}
	if !raw {
		return list, nil
	}
	var r Reader
	if err := r.Load(s, blob); err != nil {
		return nil, err
	}
	for i := range r.parts {
		p := &r.parts[i]
		if p.sh.id != 0 {
			continue
		}
		cols := r.decodePart(i)
		for j := range p.n {
			if body := r.rawBody(cols[0].at(j)); body != nil {
				wire.Flatten(gjson.ParseBytes(body), func(name string, _ gjson.Result) bool {
					add(name)
					return true
				})
			}
		}
	}
	return list, r.err
}
