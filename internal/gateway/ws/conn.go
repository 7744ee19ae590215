package ws

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Conn is one WebSocket connection as its endpoint sees it. Its methods may be called from any goroutine, unless noted,
// and never block.
type Conn struct {
	conn     link
	server   *Server
	endpoint Endpoint // nil before the upgrade
	joined   *joined  // the fragmented message being received, nil if none
	owed     *[]byte  // payload of the latest ping not answered yet, nil if none
	seen     time.Duration
	limit    int32       // of a message's bytes
	pings    int32       // sent since seen
	ended    atomic.Bool // nothing more is received
	heard    bool        // something was received since the last tick
	waits    bool        // the endpoint asked to wait
}

// link is what a Conn needs of a loop.Conn, whose methods these are.
type link interface {
	Write(b []byte) error
	Close(final []byte, reason error)
	Abort(reason error)
	Queued() int
	Remote() netip.AddrPort
}

// RemoteAddr returns the peer's address; a 4-in-6 address is given as IPv4.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.conn.Remote() }

// Send sends payload, which must be UTF-8, as one text message in one frame. It is not kept. The error is
// loop.ErrSlow if the peer reads too slowly (the connection is then cut), or the reason of the connection's end.
func (c *Conn) Send(payload []byte) error { return c.write(opText, payload) }

// SendClose closes the connection with a close frame after what is queued; the endpoint's Closed gets a *Closing. What
// the peer still sends is discarded. It does nothing if the connection has ended. ErrReason is the only error.
func (c *Conn) SendClose(code uint16, reason string) error {
	if !validCode(code) || len(reason) > maxControl-2 || !utf8.ValidString(reason) {
		return ErrReason
	}
	c.close(code, reason, &Closing{Code: code, Reason: reason})
	return nil
}

// Abort cuts the connection without a close frame; the endpoint's Closed gets reason (nil means loop.ErrClosed).
func (c *Conn) Abort(reason error) {
	c.ended.Store(true)
	c.conn.Abort(reason)
}

// Queued returns how many bytes wait to be sent.
func (c *Conn) Queued() int { return c.conn.Queued() }

// SetMessageLimit bounds, in bytes, the messages received from now on; it is at least 1 and at most
// Config.MessageBytes. It may be called only from within the endpoint's methods.
func (c *Conn) SetMessageLimit(bytes int) {
	c.limit = int32(min(max(bytes, 1), c.server.cfg.MessageBytes)) //nolint:gosec // NewServer bounds MessageBytes
}

// HandOver makes to the connection's endpoint: its Opened is called at once, then it gets all that comes. The former
// endpoint is called no more, not even its Closed. It may be called only from within the endpoint's Receive, which may
// give the message to the new endpoint's Receive and return what that returned.
func (c *Conn) HandOver(to Endpoint) {
	c.endpoint = to
	to.Opened(c)
}

// write sends one frame (RFC 6455 section 5.2; a server does not mask).
func (c *Conn) write(op byte, payload []byte) error {
	buf, ok := c.server.frames.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	b := (*buf)[:0]
	b = append(b, finBit|op)
	switch n := len(payload); {
	case n <= maxControl:
		b = append(b, byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, length16), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, length64), uint64(n))
	}
	b = append(b, payload...)
	err := c.conn.Write(b)
	if cap(b) <= pooledFrame {
		*buf = b
		c.server.frames.Put(buf)
	}
	return err
}

// close sends a close frame with a code, none if it is CodeNoStatus, and ends the connection with err.
func (c *Conn) close(code uint16, reason string, err error) {
	c.ended.Store(true)
	b := make([]byte, 2, 4+len(reason))
	b[0] = finBit | opClose
	if code != CodeNoStatus {
		b = append(binary.BigEndian.AppendUint16(b, code), reason...)
	}
	b[1] = byte(len(b) - 2)
	c.conn.Close(b, err)
}

// pongBacklog is how many bytes may wait to be sent before pongs are held back.
const pongBacklog = 4 << 10

// pong answers a ping. While the peer does not read, only the latest is kept for later (RFC 6455 section 5.5.3).
func (c *Conn) pong(payload []byte) {
	if c.conn.Queued() > pongBacklog {
		if c.owed == nil {
			c.owed = new([]byte)
		}
		*c.owed = append((*c.owed)[:0], payload...)
		c.server.stats.PongsHeldBack.Add(1)
		return
	}
	c.owed = nil
	_ = c.write(opPong, payload) // an error means that the connection has ended
}

// repay answers the ping that was held back, if the peer reads again.
func (c *Conn) repay() {
	if c.conn.Queued() <= pongBacklog {
		c.pong(*c.owed)
	}
}

// fail closes because the peer broke the protocol or a limit.
func (c *Conn) fail(v *Violation) {
	if v.Code == CodeTooBig {
		c.server.stats.TooBig.Add(1)
	} else {
		c.server.stats.Violations.Add(1)
	}
	c.close(v.Code, v.Reason, v)
}

// validCode reports whether a close frame may carry the code (RFC 6455 section 7.4 and the IANA registry).
func validCode(code uint16) bool {
	return code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999
}
