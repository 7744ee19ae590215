package loop

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"
)

// Group serves connections. It is safe for concurrent use.
type Group struct {
	cfg   Config
	stats Stats
	small sync.Pool // of *buffer
	large sync.Pool // of *buffer
	loops loops     // the epoll loops, where there are any
	plain plain     // connections with a goroutine each

	work    sync.WaitGroup  // loops, calls of Serve, connections and their writers
	running context.Context // ends when Close begins
	cancel  context.CancelFunc

	mu     sync.Mutex
	closed bool
	done   chan struct{} // closed when all goroutines have ended
}

// New starts the loops of a group. The owner calls Close in the end.
func New(cfg Config) (*Group, error) {
	if cfg.Loops <= 0 {
		cfg.Loops = min(runtime.GOMAXPROCS(0), runtime.NumCPU())
	}
	if cfg.ReadBuffer <= 0 {
		cfg.ReadBuffer = DefaultReadBuffer
	}
	if cfg.OutboxBytes <= 0 {
		cfg.OutboxBytes = DefaultOutboxBytes
	}
	if cfg.CloseTimeout <= 0 {
		cfg.CloseTimeout = DefaultCloseTimeout
	}
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if cfg.Handshakes <= 0 {
		cfg.Handshakes = DefaultHandshakes
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Group{cfg: cfg, done: make(chan struct{})}
	g.running, g.cancel = context.WithCancel(context.Background())
	if err := g.loops.start(g); err != nil {
		g.cancel()
		return nil, err
	}
	g.plain.start(g)
	return g, nil
}

// Stats returns the group's counters.
func (g *Group) Stats() *Stats { return &g.stats }

// Serve accepts connections from ln and serves them until ctx ends or Close is called; it then closes ln and returns
// nil. Connections already accepted go on. It takes ln over: to stop, end ctx; closing ln alone is not enough. After
// Close it returns ErrStopped.
func (g *Group) Serve(ctx context.Context, ln net.Listener, h Handler) error {
	src := &source{group: g, handler: h, pending: h.PendingLimit()}
	return g.serving(ctx, ln, func(ctx context.Context) error {
		if tcp, ok := ln.(*net.TCPListener); ok && g.loops.ready() {
			return g.loops.serve(ctx, tcp, src)
		}
		return g.plain.serve(ctx, ln, nil, src)
	})
}

// ServeTLS is Serve for TLS connections: each has a goroutine of its own.
func (g *Group) ServeTLS(ctx context.Context, ln net.Listener, conf *tls.Config, h Handler) error {
	src := &source{group: g, handler: h, pending: h.PendingLimit()}
	return g.serving(ctx, ln, func(ctx context.Context) error {
		return g.plain.serve(ctx, ln, conf, src)
	})
}

// ServePlain is Serve with a goroutine for each connection on every system, as for listeners that are not TCP.
func (g *Group) ServePlain(ctx context.Context, ln net.Listener, h Handler) error {
	src := &source{group: g, handler: h, pending: h.PendingLimit()}
	return g.serving(ctx, ln, func(ctx context.Context) error {
		return g.plain.serve(ctx, ln, nil, src)
	})
}

// serving runs accept with a context that also ends when the group closes.
func (g *Group) serving(ctx context.Context, ln net.Listener, accept func(context.Context) error) error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		_ = ln.Close()
		return ErrStopped
	}
	g.work.Add(1)
	g.mu.Unlock()
	defer g.work.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.running, cancel)()
	return accept(ctx)
}

// Close stops accepting, calls Stop of every stream, waits until all connections have ended, and returns when all
// goroutines of the group have. When ctx ends first, the remaining connections are cut with ErrStopped and its error is
// returned. It may be called again, and waits again.
func (g *Group) Close(ctx context.Context) error {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	g.mu.Unlock()
	if first {
		g.cancel()
		g.loops.stop()
		g.plain.stop()
		go func() {
			g.work.Wait()
			close(g.done)
		}()
	}
	select {
	case <-g.done:
		return nil
	case <-ctx.Done():
	}
	g.loops.kill()
	g.plain.kill()
	<-g.done
	return ctx.Err()
}

// full reports whether one more socket, besides extra ones that are not counted yet, would be too many.
func (g *Group) full(extra int) bool {
	return g.cfg.MaxSockets > 0 && g.stats.Open.Load()+g.stats.Lingering.Load()+int64(extra) >= int64(g.cfg.MaxSockets)
}

// backOff waits after a failed accept, longer each time, and reports whether to go on.
func (g *Group) backOff(ctx context.Context, failures int, err error) bool {
	g.stats.AcceptErrors.Add(1)
	if failures == 1 {
		g.cfg.Logger.Warn("accepting connections failed, going on after a pause", "error", err)
	}
	t := time.NewTimer(min(time.Duration(failures)*5*time.Millisecond, 100*time.Millisecond))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errConsumed is the fault of a stream whose Data reports an impossible number.
var errConsumed = errors.New("the stream consumed more bytes than it was given")
