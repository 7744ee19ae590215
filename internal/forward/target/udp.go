package target

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"signalbox"
	"signalbox/internal/forward"
)

const (
	// maxDatagram is the largest datagram that IPv4 can carry: 65,535 bytes without the headers of
	// IP and UDP (RFC 791, RFC 768).
	maxDatagram = 65507
	// datagramSettles is how long after a datagram was sent it counts as gone, if nobody reports
	// meanwhile that no one is there.
	datagramSettles = time.Second
)

// udpTarget sends a datagram a message. What the network loses on the way is lost. What cannot be
// sent, because it is larger than a datagram or than the path takes, is counted and left out. When
// the receiver's computer reports that nobody listens (ICMP, ECONNREFUSED) the sink is broken, and
// what was sent within the last second is sent again later.
type udpTarget struct {
	guard   *guard
	address string
	timeout time.Duration
	settles time.Duration
	logger  *slog.Logger
	failed  atomic.Int64
}

func newUDP(spec *forward.Spec, g *guard, logger *slog.Logger) (forward.Target, error) {
	address, err := hostPort(spec)
	if err != nil {
		return nil, err
	}
	return &udpTarget{guard: g, address: address, timeout: timeoutOf(spec), settles: datagramSettles, logger: logger}, nil
}

// Failed is how many messages could not be sent since the target was made. Anyone may ask.
func (t *udpTarget) Failed() int64 { return t.failed.Load() }

// Open implements forward.Target.
func (t *udpTarget) Open(ctx context.Context, settled func(signalbox.Position)) (forward.Sink, error) {
	conn, err := t.guard.DialContext(ctx, "udp", t.address)
	if err != nil {
		return nil, err
	}
	s := &udpSink{
		target: t, conn: conn, settled: settled, closing: make(chan struct{}), course: newCourse(),
	}
	s.running.Go(s.read)
	s.running.Go(s.watch)
	return s, nil
}

// Close implements forward.Target: nothing is kept between sinks.
func (t *udpTarget) Close() error { return nil }

type udpSink struct {
	target  *udpTarget
	conn    net.Conn
	settled func(signalbox.Position)
	closing chan struct{}
	running sync.WaitGroup
	once    sync.Once

	course
	trail        trail
	sent, passed signalbox.Position
}

// Send implements forward.Sink.
func (s *udpSink) Send(ctx context.Context, batch []forward.Message) error {
	err := s.conn.SetWriteDeadline(time.Now().Add(s.target.timeout))
	if err == nil {
		err = s.Err()
	}
	if err != nil && len(batch) > 0 {
		return unsent(batch, 0, s.fail(err))
	}
	stop := context.AfterFunc(ctx, func() { s.conn.SetWriteDeadline(time.Unix(1, 0)) }) //nolint:errcheck // the socket is gone then
	defer stop()
	for i := range batch {
		if i%256 == 0 {
			if err := ctx.Err(); err != nil {
				return unsent(batch, i, err)
			}
		}
		if err := s.datagram(ctx, &batch[i]); err != nil {
			if cause := ctx.Err(); cause != nil {
				err = cause
			}
			return unsent(batch, i, s.fail(err))
		}
	}
	if len(batch) > 0 {
		s.mu.Lock()
		s.sent = batch[len(batch)-1].Position
		s.trail.add(s.sent, 0, time.Now())
		s.mu.Unlock()
	}
	return s.Err()
}

// datagram sends one. A full queue of the system is waited for.
func (s *udpSink) datagram(ctx context.Context, m *forward.Message) error {
	if len(m.Body) > maxDatagram {
		s.tooLarge(m)
		return nil
	}
	again := true
	var began time.Time // of waiting for the system
	for {
		_, err := s.conn.Write(m.Body)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EMSGSIZE):
			if !again {
				s.tooLarge(m)
				return nil
			}
			again = false // it may be a router's answer to an earlier one
		case errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
			if began.IsZero() {
				began = time.Now()
			}
			if time.Since(began) > s.target.timeout {
				return fmt.Errorf("the system takes no datagrams for %s: %w", s.target.timeout, err)
			}
			if err := wait(ctx, time.Millisecond); err != nil {
				return err
			}
		default:
			return datagramFault(err)
		}
	}
}

// tooLarge counts a message that fits into no datagram, and says so for the first, and then for
// ever fewer of them.
func (s *udpSink) tooLarge(m *forward.Message) {
	n := s.target.failed.Add(1)
	if n&(n-1) == 0 {
		s.target.logger.Warn("a message is larger than a datagram may be",
			"bytes", len(m.Body), "position", uint64(m.Position), "failed", n)
	}
}

func datagramFault(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("nobody listens for datagrams there: %w", err)
	}
	return err
}

// read waits for what the network reports about datagrams sent, and drops what comes back.
func (s *udpSink) read() {
	dropped := make([]byte, 1)
	for {
		if _, err := s.conn.Read(dropped); err != nil && !errors.Is(err, syscall.EMSGSIZE) {
			select {
			case <-s.closing:
			default:
				s.fail(datagramFault(err)) //nolint:errcheck // told to the sender
			}
			return
		}
	}
}

// watch settles what was sent long enough ago.
func (s *udpSink) watch() {
	ticker := time.NewTicker(max(s.target.settles/10, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-s.broken:
			return
		case <-s.closing:
			return
		case now := <-ticker.C:
			s.settle(now.Add(-s.target.settles))
		}
	}
}

func (s *udpSink) settle(before time.Time) {
	s.mu.Lock()
	position, news := s.trail.passed(0, before)
	news = news && s.err == nil && position > s.passed
	if news {
		s.passed = position
		s.wake()
	}
	s.mu.Unlock()
	if news {
		s.settled(position)
	}
}

// Flush implements forward.Sink; it takes datagramSettles.
func (s *udpSink) Flush(ctx context.Context) error {
	return s.await(ctx, func() bool { return s.passed >= s.sent })
}

// Close implements forward.Sink. It does not wait for datagramSettles.
func (s *udpSink) Close() error {
	s.once.Do(func() {
		close(s.closing)
		s.conn.Close() //nolint:errcheck // nothing is left to lose
		s.running.Wait()
	})
	return nil
}
