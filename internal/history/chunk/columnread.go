package chunk

// decode decodes a column, once. One that is broken holds nothing, and Err says so.
func (r *Reader) decode(c *column) {
	if c.read {
		return
	}
	c.read = true
	if !r.decodeInto(c, c.data) {
		c.same, c.cells = true, append(r.room(1), tagUnset)
		r.fail("values")
	}
}

// room gives memory for n cells, of which none is there yet; the others keep theirs.
func (r *Reader) room(n int) []cell {
	if cap(r.slab)-len(r.slab) < n {
		r.slab = make([]cell, 0, max(n, 2*cap(r.slab), 4096))
	}
	from := len(r.slab)
	r.slab = r.slab[:from+n]
	return r.slab[from : from : from+n]
}

// decodeInto reads c.n cells from the bytes at s.
func (r *Reader) decodeInto(c *column, s span) bool {
	if s.from >= s.to {
		return false
	}
	kind := r.payload[s.from]
	s.from++
	quotes := uint8(0)
	if kind&colQuotes != 0 {
		quotes = tagQuoted
		if k := kind & colKind; k < colFixed || k > colMixed {
			return false
		}
	}
	switch kind &^ colQuotes {
	case colConst:
		if s.to-s.from > maxRef {
			return false
		}
		c.same, c.cells = true, append(r.room(1), cellAt(r.payload, s.from, s.to))
		return true
	case colFixed, colShort0, colShort1, colMixed:
		return r.decodeDecimals(c, s, kind&colKind, quotes)
	case colDict:
		return r.decodeDict(c, s)
	case colTokens:
		return r.decodeTokens(c, s)
	case colSplit:
		return r.decodeSplit(c, s)
	default:
		return false
	}
}

func (r *Reader) decodeDecimals(c *column, s span, kind byte, quotes uint8) bool {
	if s.from >= s.to || r.payload[s.from] > maxScale {
		return false
	}
	scale := r.payload[s.from]
	s.from++
	c.cells = r.room(c.n)
	var ok bool
	if kind == colMixed {
		list, next := r.section(s.from)
		if next == 0 || next > s.to {
			return false
		}
		s.from = next
		// The scales come first, and wait in the cells.
		if r.ints, ok = readInts(r.bytes(list), c.n, r.ints[:0]); !ok {
			return false
		}
		for _, x := range r.ints {
			if x < 0 || x > int64(scale) {
				return false
			}
			c.cells = append(c.cells, cell(x))
		}
	}
	if r.ints, ok = readInts(r.bytes(s), c.n, r.ints[:0]); !ok {
		return false
	}
	switch kind {
	case colFixed:
		for _, m := range r.ints {
			c.cells = append(c.cells, decimalCell(m, scale+quotes))
		}
	case colShort0, colShort1:
		least := uint8(0)
		if kind == colShort1 {
			least = 1
		}
		for _, m := range r.ints {
			own := scale
			for own > least && m%10 == 0 {
				m /= 10
				own--
			}
			c.cells = append(c.cells, decimalCell(m, own+quotes))
		}
	case colMixed:
		for i, m := range r.ints {
			own := uint8(c.cells[i])
			c.cells[i] = decimalCell(m/ipow10(scale-own), own+quotes)
		}
	}
	return true
}

func (r *Reader) decodeDict(c *column, s span) bool {
	n, at := uvarint(r.payload[:s.to], s.from)
	if at == 0 || n < 1 || n > maxDict {
		return false
	}
	var dict [maxDict]cell
	for i := range n {
		length, next := uvarint(r.payload[:s.to], at)
		if next == 0 || length > uint64(s.to-next) || length > maxRef {
			return false
		}
		at = next + int(length)
		dict[i] = cellAt(r.payload, next, at)
	}
	var ok bool
	if r.ints, ok = readInts(r.payload[at:s.to], c.n, r.ints[:0]); !ok {
		return false
	}
	c.cells = r.room(c.n)
	for _, x := range r.ints {
		if uint64(x) >= n {
			return false
		}
		c.cells = append(c.cells, dict[x])
	}
	return true
}

func (r *Reader) decodeTokens(c *column, s span) bool {
	list, at := r.section(s.from)
	if at == 0 || at > s.to {
		return false
	}
	var ok bool
	if r.ints, ok = readInts(r.bytes(list), c.n, r.ints[:0]); !ok {
		return false
	}
	c.cells = r.room(c.n)
	for _, n := range r.ints {
		if n < 0 || n > int64(s.to-at) || n > maxRef {
			return false
		}
		end := at + int(n)
		c.cells = append(c.cells, wordCell(r.payload, at, end))
		at = end
	}
	return at == s.to
}

// wordCell is cellAt for tokens that are hardly ever decimals.
func wordCell(mem []byte, from, to int) cell {
	if n := to - from; n == 4 || n == 5 {
		switch string(mem[from:to]) {
		case "null":
			return tagNull
		case "true":
			return tagTrue
		case "false":
			return tagFalse
		}
	}
	return refCell(from, to-from)
}

func (r *Reader) decodeSplit(c *column, s span) bool {
	list, at := r.section(s.from)
	if at == 0 || at > s.to {
		return false
	}
	var ok bool
	if r.ints, ok = readInts(r.bytes(list), c.n, r.ints[:0]); !ok {
		return false
	}
	// Which is which waits in the cells.
	cells := r.room(c.n)
	others := 0
	for _, x := range r.ints {
		if uint64(x) > 1 {
			return false
		}
		others += int(x)
		cells = append(cells, cell(x))
	}
	first, at := r.section(at)
	if at == 0 || at > s.to || others == 0 || others == c.n {
		return false
	}
	halves := [2]column{{n: c.n - others}, {n: others}}
	for i, part := range []span{first, {at, s.to}} {
		if part.from >= part.to || r.payload[part.from]&colKind == colSplit {
			return false
		}
		if !r.decodeInto(&halves[i], part) {
			return false
		}
	}
	var next [2]int
	for i, x := range cells {
		cells[i] = halves[x].at(next[x])
		next[x]++
	}
	c.cells = cells
	return true
}
