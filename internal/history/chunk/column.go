package chunk

import (
	"encoding/binary"
	"math/bits"
)

// The kinds of column, in the low bits of its first byte.
const (
	colConst  = 0 // the same token in every row: it follows
	colFixed  = 1 // decimals of one scale
	colShort0 = 2 // decimals without zeros at the end
	colShort1 = 3 // the same, with at least one digit behind the point
	colMixed  = 4 // decimals of several scales: a list of scales first
	colDict   = 5 // few tokens: they, and a number for each row
	colTokens = 6 // the length of each token, then all tokens
	colSplit  = 7 // decimals and others: which is which, the decimals, the others

	colKind   = 15
	colQuotes = 16 // the decimals stand in double quotes

	// maxDict is how many tokens a dictionary may have.
	maxDict = 256
	// maxNormal bounds a decimal brought to the scale of its column.
	maxNormal = 1 << 62
)

// columnWriter writes columns; its memory is reused.
type columnWriter struct {
	packer intPacker
	ints   []int64
	more   []int64
	part   []byte

	dict  []cell
	table []uint32 // generation and index into dict, by hash
	gen   uint32

	one, two []cell // the halves of a split column
}

// traits is what a first look at a column tells.
type traits struct {
	same                  bool
	plain, quoted, others int
	least, most           uint8 // scales of the decimals
}

func look(col []cell) traits {
	t := traits{same: true, least: maxScale}
	for i, c := range col {
		if i > 0 && c != col[0] {
			t.same = false
		}
		switch {
		case isDecimal(c):
			t.plain++
		case isQuoted(c):
			t.quoted++
		default:
			t.others++
			continue
		}
		s := scaleOf(c)
		t.least, t.most = min(t.least, s), max(t.most, s)
	}
	return t
}

// append appends a column; mem is where the bytes of its cells stand. The reader has to know
// how many rows it has, at least one.
func (w *columnWriter) append(dst, mem []byte, col []cell) []byte {
	t := look(col)
	if t.same {
		return appendCell(append(dst, colConst), mem, col[0])
	}
	decimals := t.plain + t.quoted
	switch {
	case t.plain == len(col), t.quoted == len(col):
		if out, ok := w.decimals(dst, mem, col, &t); ok {
			return out
		}
		return w.tokens(dst, mem, col)
	case decimals == 0:
		return w.tokens(dst, mem, col)
	}
	if out, ok := w.dictionary(dst, mem, col, 16); ok {
		return out
	}
	if max(t.plain, t.quoted) < len(col)/4 {
		return w.tokens(dst, mem, col)
	}
	return w.split(dst, mem, col, t.quoted > t.plain)
}

// decimals writes numbers that are all quoted, or all not. ok is false when their digits and
// scales are too far apart.
func (w *columnWriter) decimals(dst, mem []byte, col []cell, t *traits) (out []byte, ok bool) {
	kind := byte(colFixed)
	w.ints = w.ints[:0]
	if t.least == t.most {
		for _, c := range col {
			w.ints = append(w.ints, mantissa(c))
		}
	} else if kind, ok = w.normalize(col, t); !ok {
		return dst, false
	}
	start := len(dst)
	if t.quoted > 0 {
		kind |= colQuotes
	}
	dst = append(dst, kind, t.most)
	if kind&colKind == colMixed {
		w.part = w.packer.append(w.part[:0], w.more)
		dst = binary.AppendUvarint(dst, uint64(len(w.part)))
		dst = append(dst, w.part...)
	}
	before := len(dst)
	dst = w.packer.append(dst, w.ints)
	if n := len(dst) - before; n*8 > 4*len(col) && len(col) >= 16 {
		if few, ok := w.dictionary(w.part[:0], mem, col, 16); ok {
			w.part = few
			if len(few) < len(dst)-start {
				return append(dst[:start], few...), true
			}
		}
	}
	return dst, true
}

// normalize fills w.ints with the decimals at the largest scale, and w.more with their
// scales when these do not follow from the digits.
func (w *columnWriter) normalize(col []cell, t *traits) (kind byte, ok bool) {
	short0, short1 := true, true
	w.more = w.more[:0]
	for _, c := range col {
		m, s := mantissa(c), scaleOf(c)
		trailing := m%10 == 0
		short0 = short0 && (s == 0 || !trailing)
		short1 = short1 && (s == 1 || s > 1 && !trailing)
		factor := ipow10(t.most - s)
		if m > maxNormal/factor || m < -maxNormal/factor {
			return 0, false
		}
		w.ints = append(w.ints, m*factor)
		w.more = append(w.more, int64(s))
	}
	switch {
	case short0:
		return colShort0, true
	case short1:
		return colShort1, true
	default:
		return colMixed, true
	}
}

// tokens writes anything: as a dictionary where that serves, or one token after another.
func (w *columnWriter) tokens(dst, mem []byte, col []cell) []byte {
	if out, ok := w.dictionary(dst, mem, col, maxDict); ok {
		return out
	}
	w.ints = w.ints[:0]
	for _, c := range col {
		w.ints = append(w.ints, int64(cellLen(c)))
	}
	dst = append(dst, colTokens)
	w.part = w.packer.append(w.part[:0], w.ints)
	dst = binary.AppendUvarint(dst, uint64(len(w.part)))
	dst = append(dst, w.part...)
	for _, c := range col {
		dst = appendCell(dst, mem, c)
	}
	return dst
}

// dictionary writes a column of at most limit different tokens; ok is false when it has more,
// or nearly as many as rows.
func (w *columnWriter) dictionary(dst, mem []byte, col []cell, limit int) (out []byte, ok bool) {
	w.dict, w.more = w.dict[:0], w.more[:0]
	w.gen++
	if w.gen >= 1<<16 || w.table == nil {
		w.table, w.gen = make([]uint32, 1024), 1
	}
	limit = min(limit, max(4, len(col)/2))
	last, at := cell(tagUnset), 0
	for _, c := range col {
		if c != last {
			last, at = c, w.entry(mem, c)
			if len(w.dict) > limit {
				return dst, false
			}
		}
		w.more = append(w.more, int64(at))
	}
	if len(w.dict) == 1 {
		return appendCell(append(dst, colConst), mem, w.dict[0]), true
	}
	dst = append(dst, colDict)
	dst = binary.AppendUvarint(dst, uint64(len(w.dict)))
	for _, c := range w.dict {
		dst = binary.AppendUvarint(dst, uint64(cellLen(c)))
		dst = appendCell(dst, mem, c)
	}
	return w.packer.append(dst, w.more), true
}

// entry gives the place of a token in the dictionary, which it joins when it is new.
func (w *columnWriter) entry(mem []byte, c cell) int {
	if !isRef(c) {
		mask := uint64(len(w.table) - 1)
		for i := c * hashFactor >> 40 & mask; ; i = (i + 1) & mask {
			switch e := w.table[i]; {
			case e>>16 != w.gen:
				w.table[i] = w.gen<<16 | uint32(len(w.dict))
				w.dict = append(w.dict, c)
				return len(w.dict) - 1
			case w.dict[e&0xffff] == c:
				return int(e & 0xffff)
			}
		}
	}
	token := refOf(mem, c)
	mask := uint64(len(w.table) - 1)
	for i := hashToken(token) & mask; ; i = (i + 1) & mask {
		switch e := w.table[i]; {
		case e>>16 != w.gen:
			w.table[i] = w.gen<<16 | uint32(len(w.dict))
			w.dict = append(w.dict, c)
			return len(w.dict) - 1
		case isRef(w.dict[e&0xffff]) && string(refOf(mem, w.dict[e&0xffff])) == string(token):
			return int(e & 0xffff)
		}
	}
}

// hashToken is a hash of the beginning, the end and the length.
func hashToken(b []byte) uint64 {
	h := uint64(len(b)) * hashFactor
	if len(b) >= 8 {
		h ^= binary.LittleEndian.Uint64(b) * hashFactor
		h = bits.RotateLeft64(h, 29) ^ binary.LittleEndian.Uint64(b[len(b)-8:])
	} else {
		for _, c := range b {
			h = h<<8 ^ uint64(c)
		}
	}
	h *= hashFactor
	return h >> 40
}

// split writes decimals and other tokens apart.
func (w *columnWriter) split(dst, mem []byte, col []cell, quoted bool) []byte {
	w.one, w.two, w.ints = w.one[:0], w.two[:0], w.ints[:0]
	for _, c := range col {
		if quoted && isQuoted(c) || !quoted && isDecimal(c) {
			w.one = append(w.one, c)
			w.ints = append(w.ints, 0)
		} else {
			w.two = append(w.two, c)
			w.ints = append(w.ints, 1)
		}
	}
	dst = append(dst, colSplit)
	w.part = w.packer.append(w.part[:0], w.ints)
	dst = binary.AppendUvarint(dst, uint64(len(w.part)))
	dst = append(dst, w.part...)

	var decimals []byte
	if t := look(w.one); t.same {
		decimals = appendCell([]byte{colConst}, mem, w.one[0])
	} else if out, ok := w.decimals(nil, mem, w.one, &t); ok {
		decimals = out
	} else {
		decimals = w.tokens(nil, mem, w.one)
	}
	dst = binary.AppendUvarint(dst, uint64(len(decimals)))
	dst = append(dst, decimals...)
	if t := look(w.two); t.same {
		return appendCell(append(dst, colConst), mem, w.two[0])
	}
	return w.tokens(dst, mem, w.two)
}
