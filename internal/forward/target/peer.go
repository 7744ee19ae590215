package target

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"signalbox"
)

const (
	// settleAfter is how long ago a line must have been written over TCP to count as received when
	// the receiver answers nothing: time for its program to read what its system has.
	settleAfter = 5 * time.Second
	// closeWait is how long each step of a Close waits for a receiver's last word.
	closeWait = time.Second
	// blockSize is how much is written at a time, about; one long message may make more.
	blockSize = 64 << 10
	// maxAckLine bounds what a receiver may send as one line of acknowledgement, in bytes.
	maxAckLine = 128
	// maxEpochs is how many epochs of cursors are remembered for acknowledgements.
	maxEpochs = 64
)

// errTakesNothing ends a connection whose receiver does not read.
var errTakesNothing = errors.New("the receiver takes nothing")

// peerConfig is what a peer needs to know.
type peerConfig struct {
	timeout     time.Duration
	settleAfter time.Duration
	closeWait   time.Duration
	ack         bool
}

// A peer is a receiver at the other end of a TCP connection, the same whoever connected. One
// goroutine writes. Two goroutines of its own watch what it sends, and what has arrived there.
type peer struct {
	config peerConfig
	conn   net.Conn
	raw    syscall.RawConn
	// settled is told the position up to which the peer has everything, by one goroutine at a time.
	settled func(signalbox.Position)

	ended   chan struct{} // closed when the reader has ended
	closing chan struct{} // closed when Close has begun
	running sync.WaitGroup
	once    sync.Once

	course
	clean bool // the reader has seen the end of the stream, and not a reset
	// offered is the last position that a write has begun for, written the last that was written
	// whole, arrived what settled was told.
	offered, written, arrived signalbox.Position
	first                     signalbox.Position // that was offered; 0: none yet
	epochs                    []string           // of the cursors offered, the oldest first
	replay                    bool               // lines were among them that a replay plays
	trail                     trail
	bytes                     int64 // written
	acked                     int64 // of those, acknowledged by the peer's system
	ackedAt                   time.Time
}

// newPeer takes over conn and starts to watch it. start is the position up to which the peer is held
// to have everything already.
func newPeer(conn net.Conn, config peerConfig, start signalbox.Position, settled func(signalbox.Position)) (*peer, error) {
	sc, is := conn.(syscall.Conn)
	if !is {
		return nil, fmt.Errorf("a connection of type %T cannot be watched", conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("the connection cannot be watched: %w", err)
	}
	p := &peer{
		config: config, conn: conn, raw: raw, settled: settled,
		offered: start, written: start, arrived: start, ackedAt: time.Now(),
		ended: make(chan struct{}), closing: make(chan struct{}), course: newCourse(),
	}
	p.running.Go(p.read)
	p.running.Go(p.watch)
	return p, nil
}

// write sends a block of lines.
func (p *peer) write(ctx context.Context, b *block) error {
	p.offer(b)
	stop := context.AfterFunc(ctx, func() { p.conn.SetWriteDeadline(time.Unix(1, 0)) }) //nolint:errcheck // the connection is gone then
	defer stop()
	for rest := b.lines; len(rest) > 0; {
		if err := p.conn.SetWriteDeadline(time.Now().Add(p.config.timeout)); err != nil {
			return p.fail(err)
		}
		// Only now: whoever fails the peer, or ends ctx, afterwards takes the deadline back.
		if err := p.Err(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return p.fail(err)
		}
		// Piece by piece, so that look sees that a slow receiver takes something.
		n, err := p.conn.Write(rest[:min(len(rest), blockSize)])
		rest = rest[n:]
		p.mu.Lock()
		p.bytes += int64(n)
		p.mu.Unlock()
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return p.fail(p.writeFault(ctx, err))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.written = b.last
	if !p.config.ack {
		p.trail.add(b.last, p.bytes, time.Now())
	}
	return nil
}

// given is how many bytes the peer's system was given.
func (p *peer) given() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes
}

// offer notes what the peer may acknowledge from now on.
func (p *peer) offer(b *block) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.first == 0 {
		p.first = b.first
	}
	p.offered, p.replay = b.last, p.replay || b.replay
	for _, epoch := range b.epochs {
		if !slices.Contains(p.epochs, epoch) {
			p.epochs = append(p.epochs, epoch)
		}
	}
	if n := len(p.epochs) - maxEpochs; n > 0 {
		p.epochs = slices.Delete(p.epochs, 0, n)
	}
}

func (p *peer) writeFault(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return takesNothing(p.config.timeout)
	}
	return connFault(err)
}

func takesNothing(timeout time.Duration) error {
	return fmt.Errorf("%w: not a byte for %s", errTakesNothing, timeout)
}

// connFault says what became of a connection.
func connFault(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("the receiver closed the connection")
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("the receiver reset the connection: %w", err)
	default:
		return err
	}
}

// read takes what the peer sends: acknowledgements, or what nobody asked for, until the connection
// ends.
func (p *peer) read() {
	defer close(p.ended)
	from := &pacedReader{from: p.conn}
	if p.config.ack {
		lines := bufio.NewReaderSize(from, maxAckLine)
		for {
			line, err := lines.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) {
				p.fail(badAck(line)) //nolint:errcheck // told to the sender
				return
			}
			if err != nil {
				p.ends(err)
				return
			}
			from.took()
			if err := p.acknowledge(bytes.TrimSpace(line)); err != nil {
				p.fail(err) //nolint:errcheck // told to the sender
				return
			}
		}
	}
	dropped := make([]byte, 512)
	for {
		if _, err := from.Read(dropped); err != nil {
			p.ends(err)
			return
		}
	}
}

// ends notes how the peer's stream ended.
func (p *peer) ends(err error) {
	select {
	case <-p.closing: // asked for
		p.mu.Lock()
		p.clean = errors.Is(err, io.EOF) && p.err == nil
		p.mu.Unlock()
	default:
		p.fail(connFault(err)) //nolint:errcheck // told to the sender
	}
}

// acknowledge settles what a line of the peer says it has.
func (p *peer) acknowledge(line []byte) error {
	if len(line) == 0 {
		return nil
	}
	epoch, position, err := parseAck(line)
	if err != nil {
		return err
	}
	p.mu.Lock()
	known := epoch == "" || slices.Contains(p.epochs, epoch)
	sent := p.first > 0 && position <= p.offered
	old, replay := position < p.first, p.replay
	p.mu.Unlock()
	switch {
	case known && sent:
		if !old {
			p.settle(position)
		}
		return nil
	case replay: // it may be that of a line which was played, and says nothing of the others
		return nil
	case !known:
		return fmt.Errorf("the receiver acknowledged %q, which is no cursor of what was sent to it", line)
	default:
		return fmt.Errorf("the receiver acknowledged %q, which was not sent to it yet", line)
	}
}

// settle tells that the peer has all up to position.
func (p *peer) settle(position signalbox.Position) {
	p.mu.Lock()
	if position <= p.arrived {
		p.mu.Unlock()
		return
	}
	p.arrived = position
	p.wake()
	p.mu.Unlock()
	p.settled(position)
}

// watch looks every now and then how much the peer's system has acknowledged.
func (p *peer) watch() {
	ticker := time.NewTicker(max(p.config.settleAfter/20, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-p.broken:
			return
		case <-p.closing:
			return
		case now := <-ticker.C:
			p.look(now)
		}
	}
}

func (p *peer) look(now time.Time) {
	p.mu.Lock()
	acked := p.bytes
	p.mu.Unlock()
	// What is written from here on makes the answer smaller than it is, never larger.
	waiting, err := unacknowledged(p.raw)
	if err != nil {
		return // the reader will tell
	}
	acked -= waiting
	p.mu.Lock()
	if acked > p.acked || waiting == 0 {
		p.acked, p.ackedAt = max(acked, p.acked), now
	}
	stuck := now.Sub(p.ackedAt) >= p.config.timeout
	position, news := p.trail.passed(p.acked, now.Add(-p.config.settleAfter))
	p.mu.Unlock()
	if news {
		p.settle(position)
	}
	if stuck {
		p.fail(takesNothing(p.config.timeout)) //nolint:errcheck // told to the sender
	}
}

// flush waits until the peer has all that was written to it.
func (p *peer) flush(ctx context.Context) error {
	return p.await(ctx, func() bool { return p.arrived >= p.offered })
}

// fail is course.fail, and ends what waits for the connection.
func (p *peer) fail(err error) error {
	err = p.course.fail(err)
	p.conn.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // the connection is gone then
	return err
}

// close ends the connection. A receiver that answers the end of the stream with its own, and not
// with a reset, has read all that was sent; that is settled then, without waiting for settleAfter.
func (p *peer) close() { p.once.Do(p.shut) }

func (p *peer) shut() {
	close(p.closing)
	if p.Err() == nil {
		p.conn.SetWriteDeadline(time.Now().Add(p.config.closeWait)) //nolint:errcheck // closed below in any case
		if half, is := p.conn.(interface{ CloseWrite() error }); is && half.CloseWrite() == nil {
			patience := time.NewTimer(p.config.closeWait)
			select {
			case <-p.ended:
			case <-patience.C:
			}
			patience.Stop()
		}
	} else if t, is := p.conn.(*net.TCPConn); is && errors.Is(p.Err(), errTakesNothing) {
		t.SetLinger(0) //nolint:errcheck // what nobody reads need not stay in the system's memory
	}
	waiting, err := unacknowledged(p.raw)
	p.conn.Close() //nolint:errcheck // nothing is left to lose
	p.running.Wait()
	p.mu.Lock()
	last := p.written
	all := p.clean && err == nil && waiting == 0 && !p.config.ack && p.written == p.offered && last > p.arrived
	p.mu.Unlock()
	if all {
		p.settle(last)
	}
}
