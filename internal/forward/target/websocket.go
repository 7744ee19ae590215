package target

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"signalbox"
	"signalbox/internal/forward"
)

const (
	// pingGap is how long frames gather behind which one ping is sent.
	pingGap = 20 * time.Millisecond
	// minWindow to maxWindow bytes may be under way without a pong. It begins small and grows with
	// each quick pong, so that a slow receiver is asked for no more than it can take in time.
	minWindow, maxWindow = 64 << 10, 4 << 20
	// maxFrameBack bounds a message that the receiver sends; it is dropped.
	maxFrameBack = 64 << 10
)

// webSocketTarget connects to a WebSocket server and sends a frame a message: text, or binary when
// it is not valid UTF-8 (RFC 6455, 5.6). What lies before a ping is settled by its pong: a server
// reads frames in their order.
//
// coder/websocket writes each frame by itself, masked as a client must. A message costs both ends
// about 5 µs of a core together, so that 50,000 a second need no frames of our own.
type webSocketTarget struct {
	guard   *guard
	url     string
	tls     *tls.Config
	header  http.Header
	timeout time.Duration       // of what is sent; the guard has that of connecting
	closing time.Duration       // closeWait
	scrub   func(string) string // takes secrets out of what the receiver says
	bounded func(error) error   // bounds what repeats it
}

func newWebSocket(spec *forward.Spec, g *guard, logger *slog.Logger) (forward.Target, error) {
	to, err := url.Parse(spec.To)
	if err != nil {
		return nil, badTarget("the address of the target cannot be read; write ws://host:port/path")
	}
	if to.User != nil || to.Fragment != "" {
		return nil, badTarget("the target %s holds a name, a password or a fragment; leave them out, and give credentials by bearer, or username and password", forward.ShownURL(spec.To))
	}
	secret := *spec
	t := &webSocketTarget{
		guard: g, url: to.String(), timeout: g.timeout, closing: closeWait, header: http.Header{},
		scrub:   func(text string) string { return forward.Scrub(text, &secret) },
		bounded: func(err error) error { return boundedFault(err, &secret) },
	}
	t.header.Set("User-Agent", "signalbox")
	switch {
	case spec.Secrets.Bearer != "":
		t.header.Set("Authorization", "Bearer "+spec.Secrets.Bearer)
	case spec.Username != "":
		request := http.Request{Header: t.header}
		request.SetBasicAuth(spec.Username, spec.Secrets.Password)
	}
	if to.Scheme == "ws" && t.header.Get("Authorization") != "" {
		logger.Warn("the credential goes to the WebSocket server unencrypted; wss:// would protect it", "to", forward.ShownURL(spec.To))
	}
	if to.Scheme == "wss" {
		if t.tls, err = g.tlsConfig(spec, to.Hostname()); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Open implements forward.Target.
func (t *webSocketTarget) Open(ctx context.Context, settled func(signalbox.Position)) (forward.Sink, error) {
	dialling, cancel := context.WithTimeout(ctx, t.guard.timeout)
	defer cancel()
	var raw *pacedConn
	transport := t.guard.transport(t.tls)
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		var err error
		if raw, err = t.guard.dialPaced(ctx, network, address); err != nil {
			return nil, err // and no connection that is one of a kind
		}
		return raw, nil
	}
	defer transport.CloseIdleConnections()
	conn, answer, err := websocket.Dial(dialling, t.url, &websocket.DialOptions{ //nolint:bodyclose // Dial says that nobody needs to
		HTTPClient: &http.Client{Transport: transport, CheckRedirect: refuseRedirect},
		HTTPHeader: t.header,
		OnPingReceived: func(context.Context, []byte) bool {
			raw.paced.took()
			return true
		},
		OnPongReceived: func(context.Context, []byte) { raw.paced.took() },
	})
	if err != nil {
		return nil, t.bounded(handshakeFault(answer, err))
	}
	conn.SetReadLimit(maxFrameBack)
	s := &webSocketSink{
		conn: conn, raw: raw, timeout: t.timeout, closeWait: t.closing, settled: settled, window: minWindow, scrub: t.scrub,
		closing: make(chan struct{}), wrote: make(chan struct{}, 1), hurry: make(chan struct{}, 1), course: newCourse(),
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.running.Go(s.read)
	s.running.Go(s.confirm)
	return s, nil
}

// handshakeFault says why there is no WebSocket.
func handshakeFault(answer *http.Response, err error) error {
	if refused, is := errors.AsType[*signalbox.Error](err); is {
		return refused
	}
	if outer, is := errors.AsType[*url.Error](err); is { // repeats the address, which may hold a secret
		return outer.Err
	}
	if answer != nil && answer.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("the receiver answered %d %s, and opened no WebSocket", answer.StatusCode, http.StatusText(answer.StatusCode))
	}
	return err
}

// Close implements forward.Target: nothing is kept between connections.
func (t *webSocketTarget) Close() error { return nil }

type webSocketSink struct {
	conn      *websocket.Conn
	raw       *pacedConn // below conn, and below TLS
	timeout   time.Duration
	closeWait time.Duration
	settled   func(signalbox.Position)
	scrub     func(string) string
	ctx       context.Context // the sink's life, which no single call spans
	cancel    context.CancelFunc
	closing   chan struct{}
	wrote     chan struct{} // holds a token when frames wait for a pong
	hurry     chan struct{} // holds a token when Send waits for one
	running   sync.WaitGroup
	once      sync.Once

	course
	written, confirmed signalbox.Position
	sent, answered     traffic // what was written, and of that behind which a pong came
	window             int64
}

type traffic struct{ frames, bytes int64 }

// Send implements forward.Sink.
func (s *webSocketSink) Send(ctx context.Context, batch []forward.Message) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(s.timeout, func() { cancel(takesNothing(s.timeout)) })
	defer patience.Stop()
	for i := range batch {
		m := &batch[i]
		s.mu.Lock()
		err, fits := s.err, s.fits(len(m.Body))
		s.mu.Unlock()
		if err == nil && !fits {
			patience.Stop() // confirm has its own
			err = s.waitForWindow(ctx, len(m.Body))
		}
		if err != nil {
			return unsent(batch, i, err)
		}
		kind := websocket.MessageText
		if !utf8.Valid(m.Body) {
			kind = websocket.MessageBinary
		}
		patience.Reset(s.timeout)
		if err := s.conn.Write(ctx, kind, m.Body); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return unsent(batch, i+1, s.fail(s.fault(err)))
		}
		s.mu.Lock()
		s.written = m.Position
		s.sent = traffic{frames: s.sent.frames + 1, bytes: s.sent.bytes + int64(len(m.Body))}
		s.mu.Unlock()
		signal(s.wrote)
	}
	return s.Err()
}

// fits reports whether so many bytes may be sent now. What is longer than the window goes alone. The
// caller holds mu.
func (s *webSocketSink) fits(n int) bool {
	underWay := s.sent.bytes - s.answered.bytes
	return underWay == 0 || underWay+int64(n) <= s.window
}

func (s *webSocketSink) waitForWindow(ctx context.Context, n int) error {
	signal(s.hurry)
	return s.await(ctx, func() bool { return s.fits(n) })
}

// confirm sends a ping behind what was written, one at a time, and settles that by the pong.
func (s *webSocketSink) confirm() {
	gap := time.NewTimer(pingGap)
	defer gap.Stop()
	for {
		select {
		case <-s.wrote:
		case <-s.broken:
			return
		case <-s.closing:
			return
		}
		gap.Reset(pingGap)
		select {
		case <-gap.C:
		case <-s.hurry:
		case <-s.broken:
			return
		case <-s.closing:
			return
		}
		if !s.ping() {
			return
		}
	}
}

// ping sends one and waits for its pong; false: the sink is of no use any more.
func (s *webSocketSink) ping() bool {
	s.mu.Lock()
	position, sent, answered := s.written, s.sent, s.answered
	s.mu.Unlock()
	if sent == answered {
		return true // the last pong was behind these frames already
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	err := s.conn.Ping(ctx)
	// The library waits five seconds for its turn behind a frame that is being written.
	for errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = s.conn.Ping(ctx)
	}
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: it answered no ping within %s", errTakesNothing, s.timeout)
		}
		s.fail(s.fault(err)) //nolint:errcheck // told to the sender
		return false
	}
	took := time.Since(began)
	s.mu.Lock()
	news := position > s.confirmed
	s.confirmed, s.answered = max(s.confirmed, position), sent
	switch {
	case took < s.timeout/8:
		s.window = min(2*s.window, maxWindow)
	case took > s.timeout/2:
		s.window = max(s.window/2, minWindow)
	}
	s.wake()
	s.mu.Unlock()
	if news {
		s.settled(position)
	}
	return true
}

// read drops what the receiver sends, and notices the end.
func (s *webSocketSink) read() {
	for {
		_, r, err := s.conn.Reader(s.ctx)
		s.raw.paced.took()
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		if err != nil {
			s.fail(s.fault(err)) //nolint:errcheck // told to the sender
			return
		}
	}
}

// fault says what became of the connection.
func (s *webSocketSink) fault(err error) error {
	if closed, is := errors.AsType[websocket.CloseError](err); is {
		if closed.Reason == "" {
			return fmt.Errorf("the receiver closed the WebSocket (%d)", closed.Code)
		}
		return fmt.Errorf("the receiver closed the WebSocket (%d, %q)", closed.Code, s.scrub(closed.Reason))
	}
	if errors.Is(err, websocket.ErrMessageTooBig) {
		return fmt.Errorf("the receiver sent a message of more than %d bytes; none is asked for", maxFrameBack)
	}
	if errors.Is(err, net.ErrClosed) { // by the library, when a frame could not be written in time
		return fmt.Errorf("%w: a frame waited too long", errTakesNothing)
	}
	return connFault(err)
}

// Flush implements forward.Sink.
func (s *webSocketSink) Flush(ctx context.Context) error {
	signal(s.hurry)
	return s.await(ctx, func() bool { return s.answered == s.sent })
}

// Close implements forward.Sink. It waits for the last pong, and for the receiver's close frame,
// each no longer than closeWait.
func (s *webSocketSink) Close() error {
	s.once.Do(func() {
		if s.Err() == nil {
			ctx, cancel := context.WithTimeout(s.ctx, s.closeWait)
			s.Flush(ctx) //nolint:errcheck // what is not settled is sent again
			cancel()
		}
		close(s.closing)
		if s.Err() != nil {
			s.conn.CloseNow() //nolint:errcheck // it is broken
		} else {
			patience := time.AfterFunc(s.closeWait, func() { s.raw.Close() }) //nolint:errcheck // so that Close ends
			s.conn.Close(websocket.StatusNormalClosure, "")                   //nolint:errcheck // nothing is left to lose
			patience.Stop()
		}
		s.cancel()
		s.running.Wait()
	})
	return nil
}
