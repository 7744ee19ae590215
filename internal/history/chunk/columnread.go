package chunk

// columnReader reads a column a few cells at a time. Its bytes stand in a payload that each
// call is given. After a call that returned false it is of no use.
type columnReader struct {
	kind    uint8
	scale   uint8
	quotes  uint8
	one     cell   // const
	dict    []cell // dict; its memory is used again
	ints    intReader
	second  intReader // of mixed, the scales; of split, which half
	at, end int       // of tokens: where the next one stands
	halves  *[2]columnReader
}

// open begins to read the column of n cells that stands at s.
func (c *columnReader) open(payload []byte, s span, n int) bool {
	if s.from >= s.to {
		return false
	}
	kind := payload[s.from]
	s.from++
	c.kind, c.quotes = kind&^colQuotes, 0
	if kind&colQuotes != 0 {
		c.quotes = tagQuoted
		if c.kind < colFixed || c.kind > colMixed {
			return false
		}
	}
	var ok bool
	switch c.kind {
	case colConst:
		c.one = cellAt(payload, s.from, s.to)
		return s.to-s.from <= maxRef
	case colFixed, colShort0, colShort1, colMixed:
		if s.from >= s.to || payload[s.from] > maxScale {
			return false
		}
		c.scale = payload[s.from]
		s.from++
		if c.kind == colMixed {
			if c.second, s.from, ok = openList(payload, s, n); !ok {
				return false
			}
		}
		c.ints, ok = openInts(payload, s, n)
		return ok
	case colDict:
		if s.from = c.openDict(payload[:s.to], s.from); s.from == 0 {
			return false
		}
		c.ints, ok = openInts(payload, s, n)
		return ok
	case colTokens:
		c.ints, c.at, ok = openList(payload, s, n)
		c.end = s.to
		return ok
	case colSplit:
		return c.openSplit(payload, s, n)
	default:
		return false
	}
}

// openList begins to read a section with a list of n numbers at the beginning of s, and gives
// where it ends.
func openList(payload []byte, s span, n int) (r intReader, end int, ok bool) {
	list, end := section(payload[:s.to], s.from)
	if end == 0 {
		return r, 0, false
	}
	r, ok = openInts(payload, list, n)
	return r, end, ok
}

// openDict reads the tokens of a dictionary, and gives where they end, 0 when they are broken.
func (c *columnReader) openDict(payload []byte, at int) int {
	n, at := uvarint(payload, at)
	if at == 0 || n < 1 || n > maxDict {
		return 0
	}
	c.dict = c.dict[:0]
	for range n {
		length, next := uvarint(payload, at)
		if next == 0 || length > uint64(len(payload)-next) || length > maxRef {
			return 0
		}
		at = next + int(length)
		c.dict = append(c.dict, cellAt(payload, next, at))
	}
	return at
}

func (c *columnReader) openSplit(payload []byte, s span, n int) bool {
	var at int
	var ok bool
	if c.second, at, ok = openList(payload, s, n); !ok {
		return false
	}
	// How long the halves are is told by what is in which.
	which, others := c.second, 0
	var v [256]int64
	for left := n; left > 0; {
		some := v[:min(left, len(v))]
		which.read(payload, some)
		for _, x := range some {
			if uint64(x) > 1 {
				return false
			}
			others += int(x)
		}
		left -= len(some)
	}
	first, at := section(payload[:s.to], at)
	if at == 0 || others == 0 || others == n {
		return false
	}
	if c.halves == nil {
		c.halves = new([2]columnReader)
	}
	for i, half := range [2]span{first, {at, s.to}} {
		if half.from >= half.to || payload[half.from]&colKind == colSplit {
			return false
		}
		if !c.halves[i].open(payload, half, [2]int{n - others, others}[i]) {
			return false
		}
	}
	return true
}

// cellScratch is memory for reading columns.
type cellScratch struct {
	ints    []int64
	which   []int64
	cells   []cell
	skipped []cell
}

// grown gives n items of some memory, which it makes larger where needed.
func grown[T any](mem *[]T, n int) []T {
	if cap(*mem) < n {
		*mem = make([]T, n)
	}
	return (*mem)[:n]
}

// read reads the next cells into all of dst; there are so many left. False says that the
// column is broken.
func (c *columnReader) read(payload []byte, dst []cell, x *cellScratch) bool {
	switch c.kind {
	case colConst:
		for i := range dst {
			dst[i] = c.one
		}
		return true
	case colSplit:
		return c.readSplit(payload, dst, x)
	}
	ints := grown(&x.ints, len(dst))
	switch c.kind {
	case colMixed:
		// The scales come first, and wait in the cells.
		c.second.read(payload, ints)
		for i, own := range ints {
			if own < 0 || own > int64(c.scale) {
				return false
			}
			dst[i] = cell(own)
		}
		c.ints.read(payload, ints)
		for i, m := range ints {
			own := uint8(dst[i])
			dst[i] = decimalCell(m/ipow10(c.scale-own), own+c.quotes)
		}
		return true
	case colTokens:
		c.ints.read(payload, ints)
		return c.tokens(payload, dst, ints)
	}
	c.ints.read(payload, ints)
	switch c.kind {
	case colFixed:
		for i, m := range ints {
			dst[i] = decimalCell(m, c.scale+c.quotes)
		}
	case colShort0, colShort1:
		least := c.kind - colShort0
		for i, m := range ints {
			own := c.scale
			for own > least && m%10 == 0 {
				m /= 10
				own--
			}
			dst[i] = decimalCell(m, own+c.quotes)
		}
	case colDict:
		for i, k := range ints {
			if uint64(k) >= uint64(len(c.dict)) {
				return false
			}
			dst[i] = c.dict[k]
		}
	}
	return true
}

func (c *columnReader) tokens(payload []byte, dst []cell, lengths []int64) bool {
	for i, n := range lengths {
		if n < 0 || n > int64(c.end-c.at) || n > maxRef {
			return false
		}
		dst[i] = wordCell(payload, c.at, c.at+int(n))
		c.at += int(n)
	}
	return c.ints.i < c.ints.n || c.at == c.end
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

func (c *columnReader) readSplit(payload []byte, dst []cell, x *cellScratch) bool {
	which := grown(&x.which, len(dst))
	c.second.read(payload, which)
	others := 0
	for _, k := range which {
		others += int(k)
	}
	cells := grown(&x.cells, len(dst))
	halves := [2][]cell{cells[:len(dst)-others], cells[len(dst)-others:]}
	for i := range halves {
		if !c.halves[i].read(payload, halves[i], x) {
			return false
		}
	}
	for i, k := range which {
		dst[i] = halves[k][0]
		halves[k] = halves[k][1:]
	}
	return true
}

// skip passes over n cells.
func (c *columnReader) skip(payload []byte, n int, x *cellScratch) bool {
	switch c.kind {
	case colConst:
	case colMixed:
		c.second.skip(payload, n)
		c.ints.skip(payload, n)
	case colTokens, colSplit:
		for n > 0 {
			some := min(n, cursorRows)
			if !c.read(payload, grown(&x.skipped, some), x) {
				return false
			}
			n -= some
		}
	default:
		c.ints.skip(payload, n)
	}
	return true
}
