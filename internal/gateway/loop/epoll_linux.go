package loop

import (
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	eventsPerWait = 256
	wakeSlot      = -1 // the slot of the loop's own event
)

// Bits of Conn.interest.
const (
	wantRead  = unix.EPOLLIN
	wantWrite = unix.EPOLLOUT
)

// eloop is one epoll loop: a goroutine that owns its connections.
type eloop struct {
	group  *Group
	file   *os.File        // the epoll descriptor, known to Go's own poller so that waiting takes no thread
	raw    syscall.RawConn // of file
	epoll  int
	wakeup int // an eventfd
	events []unix.EpollEvent
	buf    []byte // smallBuffer bytes of room for kept ones, then Config.ReadBuffer

	table  table
	timers deadlines
	paused int
	until  time.Time // the read deadline set on file
	state  loopState

	mu    sync.Mutex
	inbox []*Conn    // whose phase changed
	fresh []accepted // to be opened
	asked loopState
	woken bool // the eventfd is set
	ended bool // run is over, the descriptors are closed

	inboxSpare []*Conn
	freshSpare []accepted
}

type loopState uint8

const (
	loopRuns  loopState = iota
	loopStops           // streams are asked to end, the loop ends with the last connection
	loopKills           // connections are cut
)

func newLoop(g *Group) (*eloop, error) {
	l := &eloop{
		group: g, epoll: -1, wakeup: -1,
		events: make([]unix.EpollEvent, eventsPerWait),
		buf:    make([]byte, smallBuffer+g.cfg.ReadBuffer),
	}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("an epoll descriptor cannot be made: %w", err)
	}
	if err = unix.SetNonblock(l.epoll, true); err == nil {
		l.wakeup, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.wakeup, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeSlot})
	}
	l.file = os.NewFile(uintptr(l.epoll), "epoll")
	if err == nil {
		l.raw, err = l.file.SyscallConn()
	}
	if err == nil {
		err = l.file.SetReadDeadline(time.Time{})
	}
	if err != nil {
		l.release()
		return nil, fmt.Errorf("an epoll loop cannot be set up: %w", err)
	}
	return l, nil
}

func (l *eloop) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	_ = l.file.Close()
	if l.wakeup >= 0 {
		_ = unix.Close(l.wakeup)
	}
}

// run serves until the loop was asked to stop and its last connection has ended.
func (l *eloop) run() {
	defer l.release()
	for {
		n := l.wait()
		for i := range l.events[:n] {
			l.event(&l.events[i])
		}
		l.receive()
		now := time.Now()
		for c := l.timers.pop(now); c != nil; c = l.timers.pop(now) {
			l.expire(c)
		}
		for _, c := range l.table.due(now) {
			if c != nil && c.stream != nil {
				c.enter()
				c.stream.Tick(now)
				l.leave(c)
			}
		}
		if l.state != loopRuns && l.table.live == 0 {
			return
		}
	}
}

// wait fills l.events; without any it parks the goroutine until there are, or something is due.
func (l *eloop) wait() int {
	if n := l.poll(l.epoll); n > 0 {
		return n
	}
	var until time.Time
	if l.table.live > 0 {
		until = l.table.next
	}
	if len(l.timers) > 0 && (until.IsZero() || l.timers[0].at.Before(until)) {
		until = l.timers[0].at
	}
	if !until.Equal(l.until) {
		l.until = until
		_ = l.file.SetReadDeadline(until)
	}
	n := 0
	// The only error is that the deadline has passed.
	_ = l.raw.Read(func(fd uintptr) bool {
		n = l.poll(int(fd))
		return n > 0
	})
	return n
}

func (l *eloop) poll(fd int) int {
	n, err := unix.EpollWait(fd, l.events, 0)
	if err != nil {
		return 0
	}
	return n
}

func (l *eloop) event(ev *unix.EpollEvent) {
	if ev.Fd == wakeSlot {
		var b [8]byte
		_, _ = unix.Read(l.wakeup, b[:])
		return
	}
	c := l.table.get(uint32(ev.Fd), uint32(ev.Pad))
	if c == nil {
		return
	}
	c.mu.Lock()
	if c.out != nil {
		_ = c.flush()
	}
	l.setInterest(c)
	ended := c.phase != phaseOpen
	reading := c.interest&wantRead != 0
	c.mu.Unlock()
	switch {
	case ended:
		l.settle(c)
		if reading && ev.Events&^unix.EPOLLOUT != 0 && c.fd >= 0 {
			l.discard(c)
		}
	case reading && ev.Events&^unix.EPOLLOUT != 0:
		l.read(c)
	}
}

// receive takes what other goroutines left for the loop.
func (l *eloop) receive() {
	l.mu.Lock()
	inbox, fresh, asked := l.inbox, l.fresh, l.asked
	l.inbox, l.fresh, l.woken = l.inboxSpare[:0], l.freshSpare[:0], false
	l.mu.Unlock()
	for i := range fresh {
		l.open(&fresh[i])
	}
	for _, c := range inbox {
		c.mu.Lock()
		c.posted = false
		c.mu.Unlock()
		l.settle(c)
	}
	clear(inbox)
	clear(fresh)
	l.inboxSpare, l.freshSpare = inbox, fresh
	if asked == l.state {
		return
	}
	l.state = asked
	for _, c := range l.table.slots {
		switch {
		case c == nil:
		case asked == loopKills:
			l.finish(c, phaseDead, ErrStopped)
		case c.stream != nil:
			c.enter()
			c.stream.Stop()
			l.leave(c)
		default:
			l.settle(c)
		}
	}
}

// open makes a connection of an accepted socket.
func (l *eloop) open(a *accepted) {
	g := l.group
	if l.state != loopRuns {
		_ = unix.Close(a.fd)
		return
	}
	c := &Conn{own: l, src: a.src, addr: a.remote.Addr(), port: a.remote.Port(), fd: int32(a.fd), heap: -1, corked: true}
	l.table.add(c)
	stream, err := a.src.handler.Open(c, a.remote)
	if err != nil || stream == nil {
		g.stats.Refused.Add(1)
		l.finish(c, phaseDead, ErrClosed)
		return
	}
	c.stream = stream
	g.stats.Open.Add(1)
	if l.leave(c) {
		l.read(c) // often the first bytes have come already
	}
}

// leave ends a stream method and does what it asked for.
func (l *eloop) leave(c *Conn) bool {
	open := c.leave()
	if open {
		c.mu.Lock()
		l.setInterest(c)
		open = c.phase == phaseOpen
		c.mu.Unlock()
	}
	if !open {
		l.settle(c)
	}
	return open
}

// read reads once and hands the bytes over.
func (l *eloop) read(c *Conn) {
	limit := l.group.cfg.ReadBuffer
	if c.slow || l.paused >= manyPaused {
		limit = min(limit, smallRead)
	}
	n, err := unix.Read(int(c.fd), l.buf[smallBuffer:smallBuffer+limit])
	switch {
	case n > 0:
	case err == unix.EAGAIN || err == unix.EINTR:
		return
	case err != nil:
		l.finish(c, phaseDead, os.NewSyscallError("read", err))
		return
	default:
		c.eof = true
		l.finish(c, phaseClosing, io.EOF)
		return
	}
	l.group.stats.BytesIn.Add(int64(n))
	kept := c.kept.len()
	if kept > smallBuffer {
		c.kept.add(l.buf[smallBuffer : smallBuffer+n])
		l.deliver(c, c.kept.bytes())
		return
	}
	from := smallBuffer - kept
	copy(l.buf[from:], c.kept.bytes())
	l.deliver(c, l.buf[from:smallBuffer+n])
}

// deliver hands b, the kept bytes and those after them, to the stream and keeps what it leaves.
func (l *eloop) deliver(c *Conn, b []byte) {
	c.enter()
	n, wait := c.stream.Data(b)
	if n < 0 || n > len(b) {
		n = len(b)
		c.Abort(errConsumed)
	}
	rest := b[n:]
	c.keep(rest)
	if wait <= 0 && len(rest) > c.src.pending {
		l.group.stats.PendingFull.Add(1)
		c.Abort(ErrPending)
	}
	if wait > 0 {
		l.pause(c, wait)
	} else if len(rest) == 0 {
		c.slow = false
	}
	l.leave(c)
}

// pause stops reading for the time wait.
func (l *eloop) pause(c *Conn, wait time.Duration) {
	l.group.stats.Pauses.Add(1)
	l.group.stats.Paused.Add(1)
	l.paused++
	c.mu.Lock()
	c.paused, c.slow = true, true
	c.mu.Unlock()
	l.timers.set(c, time.Now().Add(wait))
}

// unpause ends a pause without looking at the stream.
func (l *eloop) unpause(c *Conn) {
	if c.paused {
		l.group.stats.Paused.Add(-1)
		l.paused--
		c.mu.Lock()
		c.paused = false
		c.mu.Unlock()
	}
}

// expire is called when a connection's deadline has come: the end of a pause, or of lingering.
func (l *eloop) expire(c *Conn) {
	if c.stream == nil {
		l.finish(c, phaseDead, nil)
		return
	}
	l.unpause(c)
	if c.kept.len() > 0 {
		l.deliver(c, c.kept.bytes())
		return
	}
	c.slow = false
	c.mu.Lock()
	l.setInterest(c)
	c.mu.Unlock()
}

// finish moves the connection on to phase p and does what that asks for.
func (l *eloop) finish(c *Conn, p phase, reason error) {
	c.mu.Lock()
	c.advance(p, reason)
	c.mu.Unlock()
	l.settle(c)
}

// settle does what the phase of a connection asks for, once it is no longer open.
func (l *eloop) settle(c *Conn) {
	c.mu.Lock()
	ph, err := c.phase, c.reason()
	c.mu.Unlock()
	if ph == phaseOpen || ph == phaseGone {
		return
	}
	if stream := c.stream; stream != nil {
		l.unpause(c)
		l.timers.remove(c)
		c.stream = nil
		l.group.stats.Open.Add(-1)
		stream.Closed(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == phaseClosing && c.out == nil {
		if c.eof {
			c.phase = phaseDead
		} else if !c.shut {
			c.shut = true
			if unix.Shutdown(int(c.fd), unix.SHUT_WR) != nil {
				c.phase = phaseDead
			}
		}
	}
	if c.phase == phaseDead {
		l.drop(c)
		return
	}
	if !c.lingers {
		c.lingers = true
		l.group.stats.Lingering.Add(1)
		l.timers.set(c, time.Now().Add(l.group.cfg.CloseTimeout))
	}
	if c.shut && l.state != loopRuns && !c.hurried {
		c.hurried = true
		l.timers.set(c, time.Now().Add(min(l.group.cfg.CloseTimeout, stopLinger)))
	}
	l.setInterest(c)
}

// discard reads and forgets what the peer of a closing connection still sends.
func (l *eloop) discard(c *Conn) {
	n, err := unix.Read(int(c.fd), l.buf)
	c.mu.Lock()
	switch {
	case n > 0:
		if c.discarded += uint32(n); c.discarded > lingerBytes {
			c.phase = phaseDead
		}
	case err == unix.EAGAIN || err == unix.EINTR:
	case err == nil:
		c.eof = true
	default:
		c.phase = phaseDead
	}
	c.mu.Unlock()
	l.settle(c)
}

// drop closes the socket. The connection's lock is held.
func (l *eloop) drop(c *Conn) {
	c.phase = phaseGone
	l.timers.remove(c)
	if c.lingers {
		l.group.stats.Lingering.Add(-1)
	}
	_ = unix.Close(int(c.fd)) // leaves epoll with it: descriptors of sockets are never duplicated here
	c.fd, c.interest = -1, 0
	c.free()
	l.table.remove(c)
}

// setInterest tells epoll what to report. The connection's lock is held.
func (l *eloop) setInterest(c *Conn) {
	var want uint8
	if !c.paused && !c.eof {
		want = wantRead
	}
	if c.out != nil && !c.corked {
		want |= wantWrite
	}
	if want == c.interest || c.phase == phaseGone {
		return
	}
	op := unix.EPOLL_CTL_MOD
	if c.interest == 0 {
		op = unix.EPOLL_CTL_ADD
	} else if want == 0 {
		op = unix.EPOLL_CTL_DEL // interest in nothing would still report hang-ups, again and again
	}
	ev := unix.EpollEvent{Events: uint32(want), Fd: int32(c.slot), Pad: int32(c.gen)}
	if err := unix.EpollCtl(l.epoll, op, int(c.fd), &ev); err != nil {
		c.end(phaseDead, os.NewSyscallError("epoll_ctl", err))
		return
	}
	c.interest = want
}

// send implements owner. A socket that takes nothing any more swallows what is written: what the peer has sent before
// is still read, and reading then tells the end.
func (l *eloop) send(c *Conn, b []byte) (int, error) {
	n, err := unix.Write(int(c.fd), b)
	switch {
	case n >= 0:
		l.group.stats.BytesOut.Add(int64(n))
		return n, nil
	case err == unix.EAGAIN || err == unix.EINTR:
		return 0, nil
	default:
		return len(b), nil
	}
}

// arm implements owner.
func (l *eloop) arm(c *Conn) { l.setInterest(c) }

// wake implements owner.
func (l *eloop) wake(c *Conn) {
	if c.posted {
		return
	}
	c.posted = true
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inbox = append(l.inbox, c)
	l.signal()
}

// signal makes the loop look into its inbox. l.mu is held.
func (l *eloop) signal() {
	if !l.woken && !l.ended {
		l.woken = true
		_, _ = unix.Write(l.wakeup, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// hand gives accepted sockets to the loop and returns how many of them it took: none if it has enough to open, or has
// stopped.
func (l *eloop) hand(batch []accepted) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked != loopRuns {
		return 0
	}
	n := min(len(batch), max(freshLimit-len(l.fresh), 0))
	if n > 0 {
		l.fresh = append(l.fresh, batch[:n]...)
		l.signal()
	}
	return n
}

// ask moves the loop on to state s.
func (l *eloop) ask(s loopState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked < s {
		l.asked = s
		l.signal()
	}
}
