package target

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/forward"
)

const (
	// maxReceivers is how many computers one listening forwarder serves at a time.
	maxReceivers = 64
	// receiverBuffer is how much is kept for a receiver that is slower than what comes, in bytes.
	receiverBuffer = 4 << 20
)

// listenTarget accepts connections, and sends lines to each receiver that is connected.
//
// With one receiver at a time it promises what tcpTarget does: while nobody is connected nothing is
// consumed, and the next receiver gets what the last one is not known to have. With several, each
// line goes to those connected at that moment, and counts as received when all of them have it. One
// that goes away while others stay has missed what they got meanwhile; when they came after what it
// lacks, it may be one of them that came back: all are sent away then, and the next sink begins again
// with that. One that makes no room for
// another block in its buffer within spec.Timeout is cut, so that it holds up the others no longer.
type listenTarget struct {
	address string
	allow   []netip.Prefix
	trusted bool // the configuration file set the target
	config  peerConfig
	buffer  int
	logger  *slog.Logger

	running sync.WaitGroup
	arrival chan struct{} // holds a token when somebody may be waiting
	done    chan struct{} // closed by Close

	mu       sync.Mutex
	listener net.Listener
	waiting  []net.Conn  // connected while no sink is open, the oldest first
	sink     *listenSink // open at present
	closed   bool
	refused  tale
	left     tale
	starved  tale
}

func newListen(spec *forward.Spec, g *guard, logger *slog.Logger) (forward.Target, error) {
	address, err := hostPort(spec)
	if err != nil {
		return nil, err
	}
	t := &listenTarget{
		address: address, allow: slices.Clone(spec.Allow), trusted: g.trusted, config: configOf(spec), buffer: receiverBuffer,
		logger: logger, arrival: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if err := g.permitListen("tcp-listen://"+address, t.allow); err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(address) // put together by hostPort
	own, err := netip.ParseAddr(host)
	if host == "" {
		own, err = netip.IPv6Unspecified(), nil
	}
	if err != nil {
		return t, nil //nolint:nilerr // a name: checked when it is known to what it leads
	}
	if err := t.checkOwn(own); err != nil {
		return nil, err
	}
	return t, nil
}

// checkOwn refuses to listen to the network when nobody from there may connect.
func (t *listenTarget) checkOwn(own netip.Addr) error {
	// Who sets it through the API shall not even open a port at which nobody is let in.
	open := len(t.allow) > 0 && (t.trusted || !allOf(t.allow, isLoopback))
	if open || own.Unmap().IsLoopback() {
		return nil
	}
	return signalbox.Wrap(signalbox.KindInvalid, "invalid_target", forward.ErrTarget,
		"tcp-listen://%s is open to the network; list in allow the networks whose computers may connect, or listen on 127.0.0.1", t.address)
}

func allOf(list []netip.Prefix, is func(netip.Prefix) bool) bool {
	return !slices.ContainsFunc(list, func(p netip.Prefix) bool { return !is(p) })
}

// admits reports whether a computer may connect.
func (t *listenTarget) admits(from netip.Addr) bool {
	from = from.WithZone("").Unmap()
	if len(t.allow) == 0 {
		return from.IsLoopback()
	}
	return slices.ContainsFunc(t.allow, func(p netip.Prefix) bool { return p.Contains(from) })
}

// Open implements forward.Target. It waits, without another limit than ctx, until a receiver is
// connected; the listener stays when it has returned.
func (t *listenTarget) Open(ctx context.Context, settled func(signalbox.Position)) (forward.Sink, error) {
	if err := t.listen(ctx); err != nil {
		return nil, err
	}
	for {
		if s := t.begin(settled); s != nil {
			return s, nil
		}
		select {
		case <-t.arrival:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (t *listenTarget) listen(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return net.ErrClosed
	}
	if t.listener != nil {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", t.address)
	if err != nil {
		return fmt.Errorf("the forwarder cannot listen on %s: %w", t.address, err)
	}
	if err := t.checkOwn(addressOf(listener.Addr())); err != nil {
		listener.Close() //nolint:errcheck // nothing was accepted
		return err
	}
	t.listener = listener
	t.running.Go(func() { t.accept(listener) })
	return nil
}

// addressOf is a TCP address without its port.
func addressOf(a net.Addr) netip.Addr {
	if tcp, is := a.(*net.TCPAddr); is {
		return tcp.AddrPort().Addr()
	}
	return netip.Addr{}
}

func (t *listenTarget) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no file descriptors, perhaps: later there may be some
			t.tellStarved(err)
			pause := time.NewTimer(100 * time.Millisecond)
			select {
			case <-t.done:
			case <-pause.C:
			}
			pause.Stop()
			continue
		}
		if why := t.take(conn); why != "" {
			conn.Close() //nolint:errcheck // it is not wanted
			t.tellRefused(conn.RemoteAddr(), why)
		}
	}
}

// take lets a receiver in, or says why not.
func (t *listenTarget) take(conn net.Conn) (why string) {
	if !t.admits(addressOf(conn.RemoteAddr())) {
		return "its address is not among those allowed"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return "the forwarder has ended"
	}
	if t.sink != nil {
		if over, why := t.sink.join(conn); !over {
			return why
		}
	}
	if len(t.waiting) == maxReceivers { // the oldest may be long gone
		t.waiting[0].Close() //nolint:errcheck // nothing was sent
		t.waiting = t.waiting[1:]
	}
	t.waiting = append(t.waiting, conn)
	signal(t.arrival)
	return ""
}

// tale is a thing that happens again and again: it is told at most every ten seconds, with how often.
// The caller holds the lock.
type tale struct {
	times  int
	toldAt time.Time
}

func (t *tale) happens() (times int, tell bool) {
	t.times++
	if !t.toldAt.IsZero() && time.Since(t.toldAt) < 10*time.Second {
		return 0, false
	}
	times = t.times
	t.times, t.toldAt = 0, time.Now()
	return times, true
}

// tellRefused tells of a computer that was not let in.
func (t *listenTarget) tellRefused(from net.Addr, why string) {
	t.mu.Lock()
	count, tell := t.refused.happens()
	t.mu.Unlock()
	if tell {
		t.logger.Warn("a receiver was refused", "address", from.String(), "reason", why, "times", count)
	}
}

// tellLeft tells of a receiver that has gone.
func (t *listenTarget) tellLeft(from net.Addr, why error) {
	t.mu.Lock()
	count, tell := t.left.happens()
	t.mu.Unlock()
	if tell {
		t.logger.Info("a receiver has left", "address", from.String(), "reason", why, "times", count)
	}
}

// tellStarved tells that nobody can be accepted.
func (t *listenTarget) tellStarved(why error) {
	t.mu.Lock()
	count, tell := t.starved.happens()
	t.mu.Unlock()
	if tell {
		t.logger.Warn("a receiver cannot be accepted", "reason", why, "times", count)
	}
}

// begin opens a sink when somebody is there.
func (t *listenTarget) begin(settled func(signalbox.Position)) *listenSink {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		return nil
	}
	s := newListenSink(t, settled)
	for _, conn := range t.waiting {
		if _, why := s.join(conn); why != "" {
			conn.Close() //nolint:errcheck // it is of no use
		}
	}
	t.waiting = nil
	if len(s.connected()) == 0 {
		return nil
	}
	t.sink = s
	return s
}

// end takes the sink out; who connects from now on waits for the next.
func (t *listenTarget) end(s *listenSink) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sink == s {
		t.sink = nil
	}
}

// Receivers are the addresses of the computers connected at present. Anyone may ask.
func (t *listenTarget) Receivers() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]string, 0, len(t.waiting))
	for _, conn := range t.waiting {
		list = append(list, conn.RemoteAddr().String())
	}
	if t.sink != nil {
		for _, r := range t.sink.connected() {
			list = append(list, r.conn.RemoteAddr().String())
		}
	}
	return list
}

// Close implements forward.Target. The sink must be closed before.
func (t *listenTarget) Close() error {
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		close(t.done)
	}
	listener, waiting := t.listener, t.waiting
	t.listener, t.waiting = nil, nil
	t.mu.Unlock()
	for _, conn := range waiting {
		conn.Close() //nolint:errcheck // nothing was sent
	}
	var err error
	if listener != nil {
		err = listener.Close()
	}
	t.running.Wait()
	return err
}
