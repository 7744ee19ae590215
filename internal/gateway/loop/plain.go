package loop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// plainBuffer is the read buffer, in bytes, of an idle connection with a goroutine.
const plainBuffer = 4 << 10

// plain holds the connections that have a goroutine each.
type plain struct {
	group *Group

	shakes shakes

	mu      sync.Mutex
	table   table
	state   plainState
	ticking bool
}

type plainState uint8

const (
	plainRuns plainState = iota
	plainStops
	plainKills
)

func (p *plain) start(g *Group) {
	p.group = g
	p.shakes.init(g.cfg.Handshakes)
}

// serve accepts connections until ctx ends. Without conf there is no TLS.
func (p *plain) serve(ctx context.Context, ln net.Listener, conf *tls.Config, src *source) error {
	defer func() { _ = ln.Close() }()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for failures := 0; ; {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			failures = 0
			p.group.stats.Accepted.Add(1)
			if pc := p.open(nc, conf, src); pc != nil {
				p.group.work.Go(func() { p.begin(pc) })
			}
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("the listener %s failed: %w", ln.Addr(), err)
		default:
			failures++
			if !p.group.backOff(ctx, failures, err) {
				return nil
			}
		}
	}
}

// open asks the handler for a stream, before anything is spent on the connection; it gives nil when there is none.
func (p *plain) open(nc net.Conn, conf *tls.Config, src *source) *plainConn {
	if p.group.full(0) {
		p.group.stats.Refused.Add(1)
		_ = nc.Close()
		return nil
	}
	pc := &plainConn{group: p.group, raw: nc, nc: nc, woken: make(chan struct{})}
	remote := addrOf(nc)
	c := &pc.conn
	*c = Conn{own: pc, src: src, fd: -1, heap: -1, corked: true, addr: remote.Addr(), port: remote.Port()}
	if conf != nil {
		pc.tls = tls.Server(nc, conf)
		pc.nc = pc.tls
		pc.shaking.Store(true)
		_ = nc.SetDeadline(time.Now().Add(p.group.cfg.HandshakeTimeout))
	}
	p.mu.Lock()
	if p.state != plainRuns {
		p.mu.Unlock()
		_ = nc.Close()
		return nil
	}
	p.table.add(c)
	if !p.ticking {
		p.ticking = true
		p.group.work.Go(p.tick)
	}
	p.mu.Unlock()

	pc.turn.Lock()
	stream, err := src.handler.Open(c, remote)
	if err != nil || stream == nil {
		p.group.stats.Refused.Add(1)
		c.mu.Lock()
		c.advance(phaseGone, ErrClosed)
		c.mu.Unlock()
		_ = nc.Close()
		pc.leave()
		pc.turn.Unlock()
		p.forget(c)
		return nil
	}
	c.stream = stream
	p.group.stats.Open.Add(1)
	pc.leave() // begin finds out if it is not open any more
	pc.turn.Unlock()
	return pc
}

// begin does the handshake in a goroutine that then ends, so that its large stack is given back.
func (p *plain) begin(pc *plainConn) {
	if pc.tls != nil {
		if err := p.handshake(pc); err != nil {
			pc.conn.mu.Lock()
			pc.conn.advance(phaseDead, err)
			pc.conn.mu.Unlock()
		}
	}
	p.group.work.Go(func() { p.run(pc) })
}

// handshake does the TLS handshake when it is its turn.
func (p *plain) handshake(pc *plainConn) error {
	c, stats := &pc.conn, &p.group.stats
	end, err := p.shakes.begin(c.addr, pc.woken, p.group.cfg.HandshakeTimeout)
	if err == nil {
		stats.Handshakes.Add(1)
		if err = pc.tls.HandshakeContext(context.Background()); err != nil {
			err = fmt.Errorf("the TLS handshake failed: %w", err)
		}
		stats.Handshakes.Add(-1)
		end()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.phase != phaseOpen: // this side ended it, and the deadline is what ends reading
	case errors.Is(err, ErrBusy):
		stats.TLSBusy.Add(1)
	case err != nil:
		stats.TLSErrors.Add(1)
	default:
		_ = pc.raw.SetDeadline(time.Time{})
	}
	pc.shaking.Store(err != nil)
	return err
}

// run serves one connection.
func (p *plain) run(pc *plainConn) {
	c := &pc.conn
	c.mu.Lock()
	open := c.phase == phaseOpen
	c.mu.Unlock()
	if open {
		pc.read()
	}
	pc.finish()
	p.forget(c)
}

func (p *plain) forget(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.table.remove(c)
}

// tick calls the streams' Tick while there are connections.
func (p *plain) tick() {
	t := time.NewTicker(TickInterval / sweepSteps)
	defer t.Stop()
	var portion []*Conn
	for now := range t.C {
		p.mu.Lock()
		if p.table.live == 0 {
			p.ticking = false
			p.mu.Unlock()
			return
		}
		portion = append(portion[:0], p.table.due(now)...)
		p.mu.Unlock()
		for _, c := range portion {
			if c != nil {
				c.own.(*plainConn).call(false, func(s Stream) { s.Tick(now) })
			}
		}
		clear(portion)
	}
}

func (p *plain) stopping() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state != plainRuns
}

func (p *plain) stop() { p.ask(plainStops) }
func (p *plain) kill() { p.ask(plainKills) }

func (p *plain) ask(s plainState) {
	p.mu.Lock()
	p.state = s
	var all []*Conn
	for _, c := range p.table.slots {
		if c != nil {
			all = append(all, c)
		}
	}
	p.mu.Unlock()
	for _, c := range all {
		if pc := c.own.(*plainConn); s == plainKills || pc.shaking.Load() {
			c.Abort(ErrStopped)
		} else {
			pc.call(true, Stream.Stop)
			pc.hurry(c)
		}
	}
}

func addrOf(nc net.Conn) netip.AddrPort {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// plainConn is a connection with a goroutine that reads, and one that writes while there is something to write.
type plainConn struct {
	conn    Conn
	group   *Group
	raw     net.Conn       // the accepted connection
	nc      net.Conn       // raw, or TLS over it
	tls     *tls.Conn      // nc, if it is that
	shaking atomic.Bool    // the TLS handshake is not over
	turn    sync.Mutex     // held while a stream method runs
	writing sync.WaitGroup // the writer
	writes  bool           // there is a writer; guarded by conn.mu
	woken   chan struct{}  // closed when the phase is no longer open
	wakes   sync.Once
}

// hurry has a connection that lingers already, and has only the peer's end to wait for, end soon.
func (pc *plainConn) hurry(c *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == phaseClosing && c.out == nil {
		_ = pc.raw.SetReadDeadline(time.Now().Add(min(pc.group.cfg.CloseTimeout, stopLinger)))
	}
}

// call runs a stream method if none runs, or, if it waits, when none runs.
func (pc *plainConn) call(waits bool, method func(Stream)) {
	if waits {
		pc.turn.Lock()
	} else if !pc.turn.TryLock() {
		return
	}
	defer pc.turn.Unlock()
	if s := pc.conn.stream; s != nil {
		pc.conn.enter()
		method(s)
		pc.leave()
	}
}

// leave ends a stream method and reports whether the connection is still open.
func (pc *plainConn) leave() bool {
	open := pc.conn.leave()
	if !open {
		pc.conn.mu.Lock()
		pc.wake(&pc.conn)
		pc.conn.mu.Unlock()
	}
	return open
}

// read hands over received bytes until the connection is no longer open.
func (pc *plainConn) read() {
	c, limit := &pc.conn, pc.conn.src.pending+plainBuffer
	buf := make([]byte, plainBuffer)
	from, to := 0, 0
	for {
		if from == to {
			from, to = 0, 0
			if len(buf) > plainBuffer {
				buf = make([]byte, plainBuffer)
			}
		}
		if to == len(buf) {
			to = copy(buf, buf[from:to])
			from = 0
			if to == len(buf) {
				buf = append(buf, make([]byte, min(len(buf), limit-len(buf)))...)
			}
		}
		n, err := pc.nc.Read(buf[to:])
		pc.group.stats.BytesIn.Add(int64(n))
		to += n
		for n > 0 && from < to {
			used, wait, open := pc.deliver(buf[from:to])
			from += used
			if !open {
				return
			}
			if wait <= 0 {
				break
			}
			if !pc.pause(wait) {
				return
			}
		}
		if err != nil {
			c.mu.Lock()
			switch {
			case c.phase != phaseOpen: // this side closed, which ended the read
			case errors.Is(err, io.EOF):
				c.eof = true
				c.advance(phaseClosing, io.EOF)
			default:
				c.advance(phaseDead, err)
			}
			c.mu.Unlock()
			return
		}
	}
}

// deliver calls Data.
func (pc *plainConn) deliver(b []byte) (n int, wait time.Duration, open bool) {
	c := &pc.conn
	pc.turn.Lock()
	defer pc.turn.Unlock()
	c.enter()
	n, wait = c.stream.Data(b)
	if n < 0 || n > len(b) {
		n = len(b)
		c.Abort(errConsumed)
	}
	if wait <= 0 && len(b)-n > c.src.pending {
		pc.group.stats.PendingFull.Add(1)
		c.Abort(ErrPending)
	}
	return n, wait, pc.leave()
}

// pause waits and reports whether the connection is still open.
func (pc *plainConn) pause(wait time.Duration) bool {
	pc.group.stats.Pauses.Add(1)
	pc.group.stats.Paused.Add(1)
	defer pc.group.stats.Paused.Add(-1)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-pc.woken:
		return false
	}
}

// finish ends the stream, sends what is queued, and waits for the peer's end.
func (pc *plainConn) finish() {
	c, stats := &pc.conn, &pc.group.stats
	pc.turn.Lock()
	stream := c.stream
	c.stream = nil
	pc.turn.Unlock()
	c.mu.Lock()
	err := c.reason()
	c.mu.Unlock()
	stats.Open.Add(-1)
	stream.Closed(err)

	until := time.Now().Add(pc.group.cfg.CloseTimeout)
	_ = pc.raw.SetDeadline(until)
	stats.Lingering.Add(1)
	defer stats.Lingering.Add(-1)
	c.mu.Lock()
	if c.phase == phaseClosing && c.out != nil {
		pc.arm(c)
	}
	c.mu.Unlock()
	pc.writing.Wait()
	c.mu.Lock()
	lingers := c.phase == phaseClosing
	c.mu.Unlock()
	if lingers {
		if pc.tls != nil {
			_ = pc.tls.CloseWrite()
		}
		half, ok := pc.raw.(interface{ CloseWrite() error })
		if ok && half.CloseWrite() == nil && !c.eof {
			if soon := time.Now().Add(stopLinger); pc.group.plain.stopping() && soon.Before(until) {
				until = soon
			}
			_ = pc.raw.SetDeadline(until) // CloseWrite of TLS sets its own
			_, _ = io.CopyN(io.Discard, pc.raw, lingerBytes)
		}
	}
	c.mu.Lock()
	c.phase = phaseGone
	c.free()
	c.mu.Unlock()
	_ = pc.raw.Close()
}

// send implements owner: writing might block, so that it is left to the writer.
func (pc *plainConn) send(*Conn, []byte) (int, error) { return 0, nil }

// arm implements owner.
func (pc *plainConn) arm(*Conn) {
	if !pc.writes {
		pc.writes = true
		pc.writing.Add(1)
		pc.group.work.Go(pc.write)
	}
}

// wake implements owner.
func (pc *plainConn) wake(c *Conn) {
	pc.wakes.Do(func() { close(pc.woken) })
	if c.phase >= phaseDead {
		_ = pc.raw.Close()
	} else {
		_ = pc.raw.SetReadDeadline(time.Unix(1, 0)) // ends the read
	}
}

// write sends what is queued and ends when nothing is.
func (pc *plainConn) write() {
	defer pc.writing.Done()
	c := &pc.conn
	chunk := make([]byte, 0, plainBuffer)
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.out != nil && c.phase < phaseDead {
		b := c.out.bytes()
		chunk = append(chunk[:0], b[:min(len(b), cap(chunk))]...)
		c.mu.Unlock()
		n, err := pc.nc.Write(chunk)
		pc.group.stats.BytesOut.Add(int64(n))
		c.mu.Lock()
		if err != nil {
			c.end(phaseDead, err)
			break
		}
		if c.out.drop(n); c.out.len() == 0 {
			c.src.group.release(c.out)
			c.out = nil
		}
	}
	pc.writes = false
}
