package ws

import (
	"bytes"
	"cmp"
	"net/netip"
	"sync"
	"time"

	"signalbox/internal/gateway/loop"
)

// Server makes WebSocket connections of byte streams; it is a loop.Handler.
type Server struct {
	cfg     Config
	handler Handler
	stats   Stats
	start   time.Time // connections count time from here
	frames  sync.Pool // of *[]byte: frames being sent

	requests sync.Pool // of *Request
}

// pooledFrame is the largest capacity, in bytes, of a buffer for sending that is used again.
const pooledFrame = 64 << 10

// NewServer returns a server whose connections h decides on.
func NewServer(cfg Config, h Handler) *Server {
	cfg.HeadBytes = cmp.Or(max(cfg.HeadBytes, 0), DefaultHeadBytes)
	cfg.MessageBytes = min(cmp.Or(max(cfg.MessageBytes, 0), DefaultMessageBytes), MaxMessageBytes)
	cfg.HandshakeTimeout = cmp.Or(max(cfg.HandshakeTimeout, 0), DefaultHandshakeTimeout)
	cfg.PingInterval = cmp.Or(cfg.PingInterval, DefaultPingInterval)
	cfg.PingMisses = cmp.Or(max(cfg.PingMisses, 0), DefaultPingMisses)
	return &Server{cfg: cfg, handler: h, start: time.Now()}
}

// Stats returns the server's counters.
func (s *Server) Stats() *Stats { return &s.stats }

// PendingLimit implements loop.Handler.
func (s *Server) PendingLimit() int { return max(s.cfg.HeadBytes, s.cfg.MessageBytes+maxHeader) }

// Open implements loop.Handler.
func (s *Server) Open(c *loop.Conn, remote netip.AddrPort) (loop.Stream, error) {
	if s.cfg.Gate != nil {
		if err := s.cfg.Gate.Enter(remote); err != nil {
			return nil, err
		}
	}
	return &stream{Conn{conn: c, server: s, limit: int32(s.cfg.MessageBytes), seen: time.Since(s.start)}}, nil
}

// stream is a Conn as the loop sees it.
type stream struct{ Conn }

// Data implements loop.Stream.
func (c *stream) Data(b []byte) (n int, wait time.Duration) {
	c.heard = true
	if c.endpoint == nil {
		if n = c.handshake(b); c.endpoint == nil {
			return n, 0
		}
	}
	m, wait := c.receive(b[n:])
	c.waits = wait > 0
	if c.owed != nil {
		c.repay()
	}
	if c.ended.Load() {
		return len(b), 0
	}
	return n + m, wait
}

// Tick implements loop.Stream.
func (c *stream) Tick(now time.Time) {
	t := now.Sub(c.server.start)
	if c.endpoint == nil {
		if t-c.seen > c.server.cfg.HandshakeTimeout {
			c.server.stats.HandshakeTimeout.Add(1)
			c.Abort(ErrHandshakeTimeout)
		}
		return
	}
	if c.owed != nil {
		c.repay()
	}
	c.keepAlive(t)
	c.endpoint.Tick(&c.Conn, now)
}

// keepAlive pings a silent peer and gives up one that stays silent. t is the time since the server's start.
func (c *stream) keepAlive(t time.Duration) {
	interval, misses := c.server.cfg.PingInterval, c.server.cfg.PingMisses
	if c.heard || c.waits {
		c.heard, c.seen, c.pings = false, t, 0
		return
	}
	// Ticks come a little early or late: the nearest one counts. The first ping goes out up to an eighth early, each
	// connection at its own time, so that a fleet that came at once is not pinged at once for ever.
	early := interval / 8 * (c.seen >> 10 & 63) / 64
	if interval < 0 || t-c.seen+loop.TickInterval/2+early < interval*time.Duration(c.pings+1) {
		return
	}
	if int(c.pings) >= misses {
		c.server.stats.PingTimeouts.Add(1)
		c.Abort(ErrPingTimeout)
		return
	}
	c.pings++
	_ = c.conn.Write([]byte{finBit | opPing, 0}) // an error means that the connection has ended
}

// Stop implements loop.Stream.
func (c *stream) Stop() {
	if c.endpoint == nil {
		c.refuse(&Refusal{Status: 503, Text: "The server stops."}, loop.ErrStopped)
		return
	}
	_ = c.SendClose(CodeGoingAway, "the server stops")
}

// Closed implements loop.Stream.
func (c *stream) Closed(err error) {
	c.ended.Store(true)
	c.joined, c.owed = nil, nil
	if c.endpoint != nil {
		c.server.stats.Open.Add(-1)
		c.endpoint.Closed(&c.Conn, err)
	}
	if gate := c.server.cfg.Gate; gate != nil {
		gate.Leave(c.conn.Remote())
	}
}

// handshake answers the upgrade request when its head is complete and returns how many bytes it took.
func (c *stream) handshake(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	limit := c.server.cfg.HeadBytes
	end := bytes.Index(b[:min(len(b), limit)], []byte("\r\n\r\n"))
	switch {
	case b[0] < 'A' || b[0] > 'z': // TLS or noise: no head will ever be complete
		c.refuse(badRequest("This is not an HTTP request."), errNoUpgrade)
		return len(b)
	case end < 0 && len(b) >= limit:
		c.refuse(&Refusal{Status: 431, Text: "The head of the request is too large."}, errNoUpgrade)
		return len(b)
	case end < 0:
		return 0
	}
	r := c.server.request(c.conn.Remote())
	defer c.server.done(r)
	endpoint, refusal := c.server.upgrade(r, b[:end+4])
	if refusal != nil {
		c.refuse(refusal, errNoUpgrade)
		return len(b)
	}
	c.endpoint = endpoint
	c.server.stats.Upgraded.Add(1)
	c.server.stats.Open.Add(1)
	_ = c.conn.Write(r.answer) // an error means that the connection has ended
	endpoint.Opened(&c.Conn)
	return end + 4
}

// refuse answers a request that is not upgraded, and closes.
func (c *stream) refuse(r *Refusal, reason error) {
	c.server.stats.Refused.Add(1)
	c.ended.Store(true)
	c.conn.Close(r.response(), reason)
}
