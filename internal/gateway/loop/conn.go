package loop

import (
	"net/netip"
	"sync"
)

// Conn is one connection. Its methods may be called from any goroutine and never block.
type Conn struct {
	mu     sync.Mutex
	own    owner   // who moves this connection's bytes
	src    *source // the listener it came from
	stream Stream  // nil before Open and after Closed; touched only where the stream's methods run
	err    *error  // why the connection ended, nil before; guarded by mu, set once
	out    *buffer // bytes to be sent, nil if none; guarded by mu
	kept   *buffer // bytes the stream has not consumed, nil if none; touched only where the stream's methods run
	addr   netip.Addr

	fd       int32  // the socket, -1 when closed; written under mu by the loop alone
	slot     uint32 // place in the owner's table
	gen      uint32 // which use of that place this is
	heap     int32  // place in the loop's queue of deadlines, -1 if none
	phase    phase  // guarded by mu
	interest uint8  // what epoll reports, guarded by mu
	corked   bool   // a stream method runs: writes are collected; guarded by mu
	posted   bool   // stands in the loop's inbox; guarded by mu
	paused   bool   // Data asked to wait; written under mu by the loop alone
	slow     bool   // has been paused and not caught up since: read little
	eof      bool   // the peer has shut its sending side
	shut     bool   // our sending side is shut
	lingers  bool   // closed by this side, waits for the peer's end
	hurried  bool   // lingers no longer than stopLinger
	port     uint16 // the peer's, at addr

	discarded uint32 // bytes read and forgotten while lingering
}

// phase is where a connection stands in its life.
type phase uint8

const (
	phaseOpen    phase = iota
	phaseClosing       // this side closed: what is queued goes out, then the peer's end is awaited
	phaseDead          // to be cut
	phaseGone          // the socket is closed
)

// owner moves the bytes of connections. All methods are called with the connection's lock held.
type owner interface {
	// send sends what goes out without blocking.
	send(c *Conn, b []byte) (int, error)
	// arm arranges that c.out is sent when the socket takes more.
	arm(c *Conn)
	// wake arranges that the phase is looked at soon.
	wake(c *Conn)
}

// source is one listener as its connections see it.
type source struct {
	group   *Group
	handler Handler
	pending int // Handler.PendingLimit
}

// Remote returns the peer's address; a 4-in-6 address is given as IPv4.
func (c *Conn) Remote() netip.AddrPort { return netip.AddrPortFrom(c.addr, c.port) }

// Write sends b, or queues what the socket does not take at once. b is not kept. It returns ErrSlow if the outbox is
// full, which also cuts the connection, and the reason of the end if the connection has ended.
func (c *Conn) Write(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != phaseOpen {
		return c.reason()
	}
	return c.put(b, c.src.group.cfg.OutboxBytes)
}

// Queued returns how many bytes wait to be sent, those collected during the present stream method included.
func (c *Conn) Queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.len()
}

// Close ends the stream with reason (nil means ErrClosed), sends final after what is queued, then shuts the sending
// side and waits for the peer's end; all this in the background and for at most Config.CloseTimeout. final is not kept,
// may be nil and is taken even if the outbox is full. Close does nothing if the connection has ended.
func (c *Conn) Close(final []byte, reason error) {
	if reason == nil {
		reason = ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != phaseOpen {
		return
	}
	if len(final) > 0 && c.put(final, c.out.len()+len(final)) != nil {
		return
	}
	c.end(phaseClosing, reason)
}

// Abort cuts the connection at once with reason (nil means ErrClosed); what is queued is lost. After Close it ends the
// wait for the peer, and the reason stays that of Close.
func (c *Conn) Abort(reason error) {
	if reason == nil {
		reason = ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(phaseDead, reason)
}

// end moves the connection on to phase p. The lock is held.
func (c *Conn) end(p phase, reason error) {
	if c.advance(p, reason) && !c.corked {
		c.own.wake(c)
	}
}

// advance is end for the owner itself, who looks at the phase next. The lock is held.
func (c *Conn) advance(p phase, reason error) bool {
	if c.phase >= p {
		return false
	}
	c.phase = p
	if c.err == nil {
		kept := reason // taken here, so that only the first reason needs memory of its own
		c.err = &kept
	}
	return true
}

// reason is why the connection ended, nil before. The lock is held.
func (c *Conn) reason() error {
	if c.err == nil {
		return nil
	}
	return *c.err
}

// put sends or queues b, keeping at most limit bytes queued. The lock is held.
func (c *Conn) put(b []byte, limit int) error {
	if c.corked && c.out.len()+len(b) > limit {
		if err := c.flush(); err != nil {
			return err
		}
	}
	if c.out == nil && (!c.corked || len(b) > limit) {
		n, err := c.own.send(c, b)
		if err != nil {
			c.end(phaseDead, err)
			return err
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
	}
	if c.out.len()+len(b) > limit {
		c.src.group.stats.SlowReader.Add(1)
		c.end(phaseDead, ErrSlow)
		return ErrSlow
	}
	if c.out == nil {
		c.out = c.src.group.buffer()
	}
	c.out = c.src.group.room(c.out, len(b))
	c.out.add(b)
	if !c.corked {
		c.own.arm(c)
	}
	return nil
}

// flush sends what is queued as far as the socket takes it. The lock is held.
func (c *Conn) flush() error {
	if c.out == nil {
		return nil
	}
	n, err := c.own.send(c, c.out.bytes())
	if err != nil {
		c.end(phaseDead, err)
		return err
	}
	if c.out.drop(n); c.out.len() == 0 {
		c.src.group.release(c.out)
		c.out = nil
	} else {
		c.own.arm(c)
	}
	return nil
}

// enter begins a stream method: what is written is collected until leave.
func (c *Conn) enter() {
	c.mu.Lock()
	c.corked = true
	c.mu.Unlock()
}

// leave ends a stream method and reports whether the connection is still open.
func (c *Conn) leave() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != phaseDead {
		_ = c.flush() // an error has moved the phase on
	}
	c.corked = false
	return c.phase == phaseOpen
}

// free gives the connection's buffers back. The lock is held; the phase is phaseGone.
func (c *Conn) free() {
	if c.out != nil {
		c.src.group.release(c.out)
		c.out = nil
	}
	if c.kept != nil {
		c.src.group.release(c.kept)
		c.kept = nil
	}
}
