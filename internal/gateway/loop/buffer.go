package loop

// smallBuffer is the largest capacity, in bytes, of the buffers kept for any use; a connection that waits with a few
// bytes must not hold a large one. Larger ones of exactly Config.OutboxBytes are kept for sending alone.
const smallBuffer = 4 << 10

// buffer is a queue of bytes. A nil buffer is empty.
type buffer struct {
	b   []byte
	off int // bytes before it are consumed
}

func (q *buffer) len() int {
	if q == nil {
		return 0
	}
	return len(q.b) - q.off
}

func (q *buffer) bytes() []byte {
	if q == nil {
		return nil
	}
	return q.b[q.off:]
}

// add appends p, first moving the content to the front if that saves growing.
func (q *buffer) add(p []byte) {
	if q.off > 0 && len(q.b)+len(p) > cap(q.b) {
		q.b = q.b[:copy(q.b, q.b[q.off:])]
		q.off = 0
	}
	q.b = append(q.b, p...)
}

// drop consumes n bytes.
func (q *buffer) drop(n int) {
	if q.off += n; q.off == len(q.b) {
		q.b, q.off = q.b[:0], 0
	}
}

// set replaces the content by p, which may lie within it.
func (q *buffer) set(p []byte) {
	q.b, q.off = append(q.b[:0], p...), 0
}

// buffer returns an empty small buffer.
func (g *Group) buffer() *buffer {
	if q, ok := g.small.Get().(*buffer); ok {
		return q
	}
	return &buffer{}
}

// room returns q, or a large buffer with its content if n more bytes make q leave the small ones.
func (g *Group) room(q *buffer, n int) *buffer {
	if q.len()+n <= max(smallBuffer, cap(q.b)) {
		return q
	}
	large, ok := g.large.Get().(*buffer)
	if !ok {
		large = &buffer{b: make([]byte, 0, g.cfg.OutboxBytes)}
	}
	large.set(q.bytes())
	g.release(q)
	return large
}

// release takes a buffer back.
func (g *Group) release(q *buffer) {
	q.b, q.off = q.b[:0], 0
	switch c := cap(q.b); {
	case c <= smallBuffer:
		g.small.Put(q)
	case c == g.cfg.OutboxBytes:
		g.large.Put(q)
	}
}

// keep stores rest, the bytes a stream did not consume, of the bytes presented to it. They may lie in c.kept.
func (c *Conn) keep(rest []byte) {
	switch {
	case len(rest) == 0:
		if c.kept != nil {
			c.src.group.release(c.kept)
			c.kept = nil
		}
	case c.kept == nil:
		c.kept = c.src.group.buffer()
		c.kept.set(rest)
	case len(rest) <= c.kept.len() && &rest[len(rest)-1] == &c.kept.b[len(c.kept.b)-1]:
		c.kept.off = len(c.kept.b) - len(rest) // they are the end of c.kept
	default:
		c.kept.set(rest)
	}
}
