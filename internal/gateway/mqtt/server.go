package mqtt

import (
	"cmp"
	"errors"
	"net/netip"
	"sync"
	"time"

	"signalbox/internal/gateway/loop"
	"signalbox/internal/wire/packet"
)

// Server makes MQTT connections of byte streams; it is a loop.Handler.
type Server struct {
	cfg     Config
	handler Handler
	stats   Stats
	start   time.Time // connections count time from here
	packets sync.Pool // of *packet.Packet
}

// NewServer returns a server whose connections h serves.
func NewServer(cfg Config, h Handler) *Server {
	cfg.ConnectBytes = cmp.Or(max(cfg.ConnectBytes, 0), DefaultConnectBytes)
	cfg.MaxPacket = cmp.Or(max(cfg.MaxPacket, 0), DefaultMaxPacket)
	cfg.MaxPacket = min(max(cfg.MaxPacket, LeastMaxPacket), MostMaxPacket)
	cfg.ConnectTimeout = cmp.Or(max(cfg.ConnectTimeout, 0), DefaultConnectTimeout)
	return &Server{cfg: cfg, handler: h, start: time.Now(), packets: sync.Pool{New: func() any { return new(packet.Packet) }}}
}

// Stats returns the server's counters.
func (s *Server) Stats() *Stats { return &s.stats }

// PendingLimit implements loop.Handler.
func (s *Server) PendingLimit() int { return max(s.cfg.ConnectBytes, s.cfg.MaxPacket) }

// Open implements loop.Handler.
func (s *Server) Open(c *loop.Conn, remote netip.AddrPort) (loop.Stream, error) {
	if s.cfg.Gate != nil {
		if err := s.cfg.Gate.Enter(remote); err != nil {
			return nil, err
		}
	}
	return &stream{Conn{conn: c, server: s, seen: s.milliseconds(time.Now())}}, nil
}

// Guests is s for the connections of WebSocket.Guests.
func (s *Server) Guests() loop.Handler { return guestServer{s} }

type guestServer struct{ *Server }

// Open implements loop.Handler.
func (g guestServer) Open(c *loop.Conn, remote netip.AddrPort) (loop.Stream, error) {
	opened, err := g.Server.Open(c, remote)
	if s, ok := opened.(*stream); ok {
		s.flags.Or(flagGuest)
	}
	return opened, err
}

// milliseconds is t since the server's start; it wraps after 49 days, only differences count.
func (s *Server) milliseconds(t time.Time) uint32 {
	return uint32(t.Sub(s.start).Milliseconds()) //nolint:gosec // meant to wrap
}

// stream is a Conn as the loop sees it.
type stream struct{ Conn }

// Data implements loop.Stream.
func (c *stream) Data(b []byte) (n int, wait time.Duration) {
	if c.is(flagEnded) {
		return len(b), 0
	}
	p, _ := c.server.packets.Get().(*packet.Packet)
	defer c.server.packets.Put(p)
	taken := int64(0)
	for n < len(b) {
		size := c.cut(b[n:])
		if size == 0 {
			break
		}
		if wait = c.take(b[n:n+size], p); wait > 0 {
			break
		}
		n += size
		taken++
		if c.is(flagEnded) {
			n = len(b)
			break
		}
	}
	if taken > 0 {
		c.server.stats.Packets.Add(taken)
	}
	if c.is(flagEnded) { // it was refused, or somebody else ended it meanwhile
		return len(b), 0
	}
	return n, wait
}

// cut gives the length of the whole packet that b begins with, 0 if more bytes are needed or
// the connection was ended.
func (c *stream) cut(b []byte) int {
	if c.endpoint == nil && b[0] != byte(packet.CONNECT)<<4 { // 3.1.0-1, and the reserved flags: 2.2.2-2
		c.refuse(&c.server.stats.NoConnect, ErrNoConnect)
		return 0
	}
	total, ok, err := packet.Size(b)
	if err != nil {
		c.violation(err)
		return 0
	}
	limit := c.server.cfg.ConnectBytes
	if c.is(flagAdmitted) {
		limit = c.server.cfg.MaxPacket
	}
	switch {
	case !ok:
		return 0
	case total > limit: // 5.0, 3.2.2.3.6
		c.server.stats.TooLarge.Add(1)
		c.end(&Ended{Reason: packet.PacketTooLarge, Words: "the packet is larger than the server takes", Violation: true})
		return 0
	case total > len(b):
		return 0
	}
	return total
}

// take decodes a packet and hands it over.
func (c *stream) take(b []byte, p *packet.Packet) (wait time.Duration) {
	c.heard = true
	if err := p.Decode(b, c.version); err != nil {
		if c.endpoint == nil {
			c.refuseConnect(p.Connect.Version, err)
		} else {
			c.violation(err)
		}
		return 0
	}
	if err := p.FromClient(); err != nil { // what only a server may send: 2.1.2
		c.violation(err)
		return 0
	}
	switch p.Type {
	case packet.CONNECT:
		if c.endpoint == nil {
			c.connect(p)
		} else if !c.waits { // one that waits comes again
			c.wrong("a second CONNECT") // 3.1.0-2
			return 0
		}
	case packet.AUTH:
		c.wrong("AUTH, although the CONNECT named no authentication method") // 5.0, 4.12.0-6
		return 0
	default:
	}
	wait = c.endpoint.Receive(p)
	c.waits = wait > 0
	if p.Type == packet.DISCONNECT && wait <= 0 { // 3.14.4-3; 3.1.1: 3.14.4-1
		c.flags.Or(flagEnded)
		c.conn.Close(nil, &PeerClose{Reason: p.Reason})
	}
	return wait
}

// connect gives the connection its endpoint.
func (c *stream) connect(p *packet.Packet) {
	c.version = p.Connect.Version
	c.terse = p.Properties.Has(packet.MaximumPacketSize) && p.Properties.MaximumPacketSize < terseBytes
	c.endpoint = c.server.handler.Endpoint(&c.Conn)
	c.server.stats.Connects.Add(1)
	c.server.stats.Open.Add(1)
}

// refuseConnect ends a connection whose CONNECT is wrong. One of a version that is not known
// is told so in the words of the version that it can be expected to understand (3.1.2-2).
func (c *stream) refuseConnect(level packet.Version, err error) {
	c.server.stats.NoConnect.Add(1)
	c.flags.Or(flagEnded)
	wrong, ok := errors.AsType[*packet.Error](err)
	if !ok {
		c.conn.Close(nil, ErrNoConnect)
		return
	}
	why := &Ended{Reason: wrong.Reason, Words: wrong.Text, Violation: true}
	var answer []byte
	switch {
	case level == 0 && wrong.Reason != packet.UnsupportedVersion: // it was not read
	case level >= packet.V5 && !bridges(level):
		answer = packet.AppendConnack(nil, packet.V5, false, wrong.Reason, nil)
	case returnCode(wrong.Reason) != 0:
		answer = packet.AppendConnack(nil, packet.V311, false, returnCode(wrong.Reason), nil)
	}
	c.conn.Close(answer, why)
}

// bridges reports whether a protocol level is that of a bridge: 3 or 4 with the highest bit set, by
// which Mosquitto's ask first whether the server knows bridges. They understand 3.1.1, and go on
// without the bit when it says that the level is not served.
func bridges(level packet.Version) bool { return level == 0x83 || level == 0x84 }

// refuse cuts a connection that has no endpoint, without a word.
func (c *stream) refuse(count interface{ Add(n int64) int64 }, why error) {
	count.Add(1)
	c.flags.Or(flagEnded)
	c.conn.Close(nil, why)
}

// wrong ends the connection because of a protocol error.
func (c *stream) wrong(words string) {
	c.violation(&packet.Error{Reason: packet.ProtocolError, Text: words})
}

// violation ends the connection because of what err says (4.13.1).
func (c *stream) violation(err error) {
	c.server.stats.Malformed.Add(1)
	why := &Ended{Reason: packet.MalformedPacket, Words: "the packet is malformed", Violation: true}
	if wrong, ok := errors.AsType[*packet.Error](err); ok {
		why.Reason, why.Words = wrong.Reason, wrong.Text
	}
	c.end(why)
}

// Tick implements loop.Stream.
func (c *stream) Tick(now time.Time) {
	t := c.server.milliseconds(now)
	if c.endpoint == nil {
		if time.Duration(t-c.seen)*time.Millisecond > c.server.cfg.ConnectTimeout && !c.is(flagEnded) {
			c.refuse(&c.server.stats.ConnectTimeouts, ErrConnectTimeout)
		}
		return
	}
	if c.heard || c.waits {
		c.heard, c.seen = false, t
	}
	limit := uint32(c.keepAlive) * 1500 // 3.1.2-22
	if limit > 0 && t-c.seen > limit && !c.is(flagEnded) {
		c.server.stats.KeepAliveTimeouts.Add(1)
		c.flags.Or(flagEnded)
		c.conn.Close(c.farewell(&Ended{Reason: packet.KeepAliveTimeout}), ErrKeepAlive)
		return
	}
	c.endpoint.Tick(now)
}

// Stop implements loop.Stream.
func (c *stream) Stop() {
	if c.endpoint == nil {
		c.flags.Or(flagEnded)
		c.conn.Close(nil, loop.ErrStopped)
		return
	}
	c.End(packet.ServerShuttingDown, "the hub stops")
}

// Closed implements loop.Stream.
func (c *stream) Closed(err error) {
	c.flags.Or(flagEnded)
	if c.endpoint != nil {
		c.server.stats.Open.Add(-1)
		c.endpoint.Closed(err)
	}
	if gate := c.server.cfg.Gate; gate != nil {
		gate.Leave(c.conn.Remote())
	}
}
