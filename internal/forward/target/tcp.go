package target

import (
	"context"
	"log/slog"
	"time"

	"signalbox"
	"signalbox/internal/forward"
)

// tcpTarget connects to a receiver and sends it lines.
//
// Without acknowledgements a line counts as received when the receiver's system has acknowledged it
// and settleAfter has passed: after a broken connection what was written within that time is sent
// again. This covers what lay in the receiver's buffers, as long as its program reads them within
// settleAfter; a receiver that is killed with older data unread loses that. With spec.Ack the
// receiver says what it has, and nothing is lost.
type tcpTarget struct {
	guard   *guard
	address string
	config  peerConfig
}

func newTCP(spec *forward.Spec, g *guard, _ *slog.Logger) (forward.Target, error) {
	address, err := hostPort(spec)
	if err != nil {
		return nil, err
	}
	return &tcpTarget{guard: g, address: address, config: configOf(spec)}, nil
}

func configOf(spec *forward.Spec) peerConfig {
	return peerConfig{timeout: timeoutOf(spec), settleAfter: settleAfter, closeWait: closeWait, ack: spec.Ack}
}

// Open implements forward.Target.
func (t *tcpTarget) Open(ctx context.Context, settled func(signalbox.Position)) (forward.Sink, error) {
	conn, err := t.guard.DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, err
	}
	p, err := newPeer(conn, t.config, 0, settled)
	if err != nil {
		conn.Close() //nolint:errcheck // never used
		return nil, err
	}
	return &tcpSink{peer: p}, nil
}

// Close implements forward.Target: nothing is kept between connections.
func (t *tcpTarget) Close() error { return nil }

type tcpSink struct {
	*peer

	memory []byte // of the block that is written
}

// Send implements forward.Sink.
func (s *tcpSink) Send(ctx context.Context, batch []forward.Message) error {
	for done := 0; done < len(batch); {
		b := makeBlock(s.memory[:0], batch[done:], s.config.ack)
		before := s.given()
		err := s.write(ctx, &b)
		if err != nil && s.given() == before {
			return unsent(batch, done, err)
		}
		done += b.messages
		if err != nil {
			return unsent(batch, done, err)
		}
		s.memory = b.lines
	}
	if cap(s.memory) > 4*blockSize { // one long message does not hold the memory for ever
		s.memory = nil
	}
	return nil
}

// Flush implements forward.Sink. Without acknowledgements that takes settleAfter; Close is faster
// with a receiver that closes too.
func (s *tcpSink) Flush(ctx context.Context) error { return s.flush(ctx) }

// Close implements forward.Sink.
func (s *tcpSink) Close() error {
	s.close()
	return nil
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
