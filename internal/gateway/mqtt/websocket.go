package mqtt

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Subprotocol is the WebSocket subprotocol of MQTT (6.0.0-3).
const Subprotocol = "mqtt"

const (
	// socketBuffer is what is read from a WebSocket, or from the server, at a time, in bytes.
	socketBuffer = 4 << 10
	// sendTimeout is for a client that does not read: with it the loop's outbox fills up, and the
	// client is cut.
	sendTimeout = time.Minute
)

// WebSocketConfig says who may upgrade.
type WebSocketConfig struct {
	// Admits tells whether a request with this Origin header may connect; nil: any. Is it refused and
	// the port's own origin (host and port of the request's Host header, whatever a proxy's headers
	// say), it may connect as a Guest: programs say that which have to say something. Whoever
	// resolves a name of his own to this port has a page that says so, too.
	Admits func(origin string) bool
	// Refused, if not nil, is told of requests that were refused because of their origin.
	Refused func(origin string)
	// Address is the client's address, for back-off and limits; nil: the peer's.
	Address func(r *http.Request) netip.Addr
}

// WebSocket carries MQTT over WebSocket (6.0.0): it answers upgrade requests, as an
// http.Handler, and gives the connections to whoever accepts, as a net.Listener, for
// loop.Group.ServePlain. Packets may lie in any number of binary frames (6.0.0-2); a text frame
// closes the connection (6.0.0-1). Guests come to a listener of their own.
//
// A connection lives in the server's hijacked one until it is closed; it counts where that
// does. Close ends accepting: requests are answered with 503 from then on, and connections that
// nobody has accepted are closed.
type WebSocket struct {
	*listener // of all but guests

	cfg    WebSocketConfig
	server *Server
	guests *listener
}

// NewWebSocket makes the handler of s's WebSocket connections.
func NewWebSocket(s *Server, cfg WebSocketConfig) *WebSocket {
	return &WebSocket{cfg: cfg, server: s, listener: newListener(), guests: newListener()}
}

// ServeHTTP implements http.Handler. It returns when the connection has ended.
func (w *WebSocket) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	select {
	case <-w.closed:
		http.Error(rw, "MQTT is not served at present.", http.StatusServiceUnavailable)
		return
	default:
	}
	to := w.listener
	if origin := strings.Join(r.Header.Values("Origin"), " "); w.cfg.Admits != nil && !w.cfg.Admits(origin) {
		if !sameOrigin(origin, r.Host) {
			if w.cfg.Refused != nil {
				w.cfg.Refused(origin)
			}
			http.Error(rw, "Pages of this origin may not connect here; the setting devices.origins admits them.", http.StatusForbidden)
			return
		}
		to = w.guests
	}
	remote := addressOf(r)
	if w.cfg.Address != nil {
		if a := w.cfg.Address(r); a.IsValid() {
			remote = netip.AddrPortFrom(a, remote.Port())
		}
	}
	ws, err := websocket.Accept(rw, r, &websocket.AcceptOptions{
		Subprotocols: []string{Subprotocol}, InsecureSkipVerify: true, // the origin was looked at above
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return // it has been answered
	}
	if ws.Subprotocol() != Subprotocol { // 6.0.0-3, 6.0.0-4
		_ = ws.Close(websocket.StatusProtocolError, "the subprotocol mqtt is needed")
		return
	}
	ws.SetReadLimit(-1) // of a message, which is not held: packets have limits of their own
	w.server.stats.WebSockets.Add(1)
	here, there := net.Pipe()
	select {
	case to.queue <- &socket{Conn: there, remote: net.TCPAddrFromAddrPort(remote)}:
	case <-to.closed:
		_ = there.Close()
	}
	carry(ws, here)
}

// carry moves bytes between a WebSocket and the loop until either ends.
func carry(ws *websocket.Conn, here net.Conn) {
	ctx, cancel := context.WithCancel(context.Background()) // the request's ends with the hijack
	defer cancel()
	var work sync.WaitGroup
	work.Go(func() {
		receive(ctx, ws, here)
		_ = here.Close() // the loop reads the end
	})
	// What the loop writes, to the end: net.Pipe holds nothing back.
	buf := make([]byte, socketBuffer)
	for {
		n, err := here.Read(buf)
		if n > 0 && write(ctx, ws, buf[:n]) != nil {
			break
		}
		if err != nil {
			break
		}
	}
	_ = here.Close()
	_ = ws.Close(websocket.StatusNormalClosure, "") // with its own deadline; an error means that the client is gone
	cancel()
	work.Wait()
}

func write(ctx context.Context, ws *websocket.Conn, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return ws.Write(ctx, websocket.MessageBinary, b)
}

// receive hands on what comes from the client until it ends.
func receive(ctx context.Context, ws *websocket.Conn, to io.Writer) {
	buf := make([]byte, socketBuffer)
	for {
		kind, message, err := ws.Reader(ctx)
		if err != nil {
			return
		}
		if kind != websocket.MessageBinary { // 6.0.0-1
			_ = ws.Close(websocket.StatusUnsupportedData, "MQTT needs binary frames")
			return
		}
		if _, err := io.CopyBuffer(onlyWriter{to}, message, buf); err != nil {
			return
		}
	}
}

// onlyWriter hides a writer's other methods, so that io.CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// socket is the loop's end of a WebSocket connection.
type socket struct {
	net.Conn
	remote net.Addr
}

// RemoteAddr is the client's, which a pipe does not know.
func (s *socket) RemoteAddr() net.Addr { return s.remote }

// sameOrigin reports whether an Origin (RFC 6454, section 6.1) is that of the request's Host
// header: the same host and port, and nothing else. The scheme may be either, as a proxy may
// speak TLS for this port; Eclipse's Python client says https whatever it speaks.
func sameOrigin(origin, host string) bool {
	for scheme, port := range map[string]string{"http://": ":80", "https://": ":443"} {
		if host != "" && strings.EqualFold(strings.TrimSuffix(origin, port), scheme+strings.TrimSuffix(host, port)) {
			return true
		}
	}
	return false
}

func addressOf(r *http.Request) netip.AddrPort {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// errListenerClosed is what Accept gives after Close.
var errListenerClosed = errors.Join(errors.New("MQTT over WebSocket is served no more"), net.ErrClosed)

// Guests gives the listener of the guests, for Server.Guests. It is closed by itself.
func (w *WebSocket) Guests() net.Listener { return w.guests }

// listener is a net.Listener of connections that come by HTTP.
type listener struct {
	queue  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newListener() *listener {
	return &listener{queue: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, errListenerClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener; the address is that of the HTTP port.
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }
