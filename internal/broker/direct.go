package broker

import "signalbox/internal/wire/packet"

const (
	// directFirst is the first size of a buffer of messages with quality of service 0.
	directFirst = 512
	// directBurst bounds that buffer, in bytes, while the connection takes what it is given: a
	// sender comes to it within a part of a millisecond, which is time for many messages.
	directBurst = 1 << 20
)

// directLimit bounds the buffer while the connection does not.
func (b *Broker) directLimit() int { return b.cfg.OutboxBytes / 2 }

// direct is what a sender is to write to the connection: messages with quality of service 0,
// encoded.
type direct struct {
	buf     []byte
	from    int  // buf[:from] are written
	stalled bool // the connection did not take them when a sender came last
}

func (d *direct) waiting() int { return len(d.buf) - d.from }

// takesDirect reports whether n bytes more may wait.
func (c *client) takesDirect(d *direct, n int) bool {
	waiting := d.waiting()
	if waiting == 0 {
		return true
	}
	if d.stalled || c.b.stats.DirectBytes.Load() > c.b.cfg.MemoryBytes/4 {
		return waiting+n <= c.b.directLimit()
	}
	return waiting+n <= directBurst
}

// addDirect appends a packet.
func (c *client) addDirect(d *direct, frame []byte) {
	if d.waiting() == 0 {
		d.buf, d.from = d.buf[:0], 0
	}
	before := cap(d.buf)
	if before == 0 && len(frame) <= directFirst {
		d.buf = make([]byte, 0, directFirst)
	}
	d.buf = append(d.buf, frame...)
	c.b.stats.DirectBytes.Add(int64(cap(d.buf) - before))
}

// moveDirect appends whole packets to buf, which may become as long as space, but stops
// before more than share of them, if the first is not more.
func (c *client) moveDirect(d *direct, buf []byte, share, space int) []byte {
	rest := d.buf[d.from:]
	n := len(rest)
	if n == 0 {
		return buf
	}
	if space -= len(buf); n > min(share, space) {
		n = 0
		for n < len(rest) {
			size, ok, err := packet.Size(rest[n:])
			if err != nil || !ok || n+size > space || n > 0 && n+size > share {
				break
			}
			n += size
		}
	}
	buf = append(buf, rest[:n]...)
	if d.from += n; d.waiting() > 0 {
		return buf
	}
	// Only what is busy keeps its memory.
	if size := cap(d.buf); size <= 4*directFirst || size > 8<<10 {
		c.dropDirect(d)
	}
	return buf
}

// dropDirect forgets all that waits.
func (c *client) dropDirect(d *direct) {
	c.b.stats.DirectBytes.Add(int64(-cap(d.buf)))
	*d = direct{stalled: d.stalled}
}
