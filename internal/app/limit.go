package app

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"signalbox/internal/api"
)

// crowdSlack is how many connections beyond its limit an address may have to be told so.
const crowdSlack = 16

// limitedListener accepts as many connections as there are places; the next ones wait in
// the system's queue until one has ended. Of one address it accepts a limited number: those
// beyond it are marked, for refuseCrowd to answer, and those far beyond it are cut.
type limitedListener struct {
	net.Listener
	places     chan struct{}
	perAddress int
	exempt     []netip.Prefix // whose connections are those of many
	refused    atomic.Int64   // connections
	closed     chan struct{}
	once       sync.Once

	mu   sync.Mutex
	here map[netip.Addr]int // connections
}

// newLimitedListener makes one that has no Listener yet.
func newLimitedListener(places, perAddress int, exempt []netip.Prefix) *limitedListener {
	return &limitedListener{
		places: make(chan struct{}, places), perAddress: perAddress, exempt: exempt, closed: make(chan struct{}), here: make(map[netip.Addr]int),
	}
}

// Accept waits for a place, then for a connection.
func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.places
			return nil, err
		}
		address := l.addressOf(c)
		n := l.enter(address)
		if n > l.perAddress {
			l.refused.Add(1)
		}
		if n <= l.perAddress+crowdSlack {
			return &limitedConn{Conn: c, crowd: n > l.perAddress, leave: sync.OnceFunc(func() {
				l.leave(address)
				<-l.places
			})}, nil
		}
		l.leave(address)
		_ = c.Close() // nothing was said
	}
}

// addressOf is what a connection is counted under: its address, or IPv6 network. The zero
// Addr is not counted.
func (l *limitedListener) addressOf(c net.Conn) netip.Addr {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	address := tcp.AddrPort().Addr().Unmap().WithZone("")
	if slices.ContainsFunc(l.exempt, func(p netip.Prefix) bool { return p.Contains(address) }) {
		return netip.Addr{}
	}
	if address.Is6() {
		return netip.PrefixFrom(address, 64).Masked().Addr()
	}
	return address
}

// enter counts a connection and gives how many there are of its address.
func (l *limitedListener) enter(address netip.Addr) int {
	if !address.IsValid() {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.here[address]++
	return l.here[address]
}

func (l *limitedListener) leave(address netip.Addr) {
	if !address.IsValid() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.here[address]--; l.here[address] == 0 {
		delete(l.here, address)
	}
}

// Close ends a waiting Accept as well.
func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	crowd bool // beyond its address's limit
	leave func()
}

// Close closes the connection and frees its place.
func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// crowdKey marks the context of requests on connections beyond their address's limit.
type crowdKey struct{}

// markCrowd is a http.Server.ConnContext.
func markCrowd(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if l, ok := c.(*limitedConn); ok && l.crowd {
		return context.WithValue(ctx, crowdKey{}, true)
	}
	return ctx
}

// refuseCrowd answers requests on marked connections with 429, and has them closed.
func refuseCrowd(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(crowdKey{}) == nil {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Connection", "close")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		_ = json.NewEncoder(w).Encode(api.Problem{ // a client that is gone needs no answer
			Type: "about:blank", Title: http.StatusText(http.StatusTooManyRequests), Status: http.StatusTooManyRequests, Code: "too_many_connections",
			Detail: "your address has as many connections as it may (http.connections_per_address); close some of them, or use them for more than one request",
		})
	})
}
