package storetest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A Proxy stands between a store and its server and breaks connections at chosen moments.
type Proxy struct {
	listener net.Listener
	to       string
	work     sync.WaitGroup
	done     chan struct{} // closed at the end

	mu     sync.Mutex
	open   map[*link]bool
	closed bool // no new connections
	order  *Cut
	cuts   int
	refuse chan struct{} // closed when the next connection is refused
	delay  time.Duration
	// answers counts what came from the server.
	answers int
}

// A Cut orders a Proxy to break the connection that sends Text, once.
type Cut struct {
	// Text is what is waited for, after it was sent Skip times.
	Text string
	Skip int
	// After lets it pass and breaks the connection when the server has answered; otherwise
	// the server does not get it.
	After bool
	// Refuse lets no connection be made from then on until Admit.
	Refuse bool
}

// link is one connection through the proxy.
type link struct {
	client, server net.Conn
	// mute is set when the server's next answer is to be swallowed.
	mute bool
	// orphan is set when the server is not to learn that the client has gone.
	orphan bool
}

func (l *link) close() { _, _ = l.client.Close(), l.server.Close() }

// NewProxy starts a proxy to the server of db, until the test ends.
func NewProxy(tb testing.TB, db *Database) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // ends at once
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{listener: l, to: db.Server.Addr(), open: map[*link]bool{}, done: make(chan struct{})}
	p.work.Go(p.accept)
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
		p.Refuse()
		close(p.done)
		p.work.Wait()
	})
	return p
}

// Addr is the address to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Order orders a cut.
func (p *Proxy) Order(c Cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.order = &c
}

// Cuts is how often a connection was broken as ordered.
func (p *Proxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// Refusals gives a channel that is closed when the next connection is refused.
func (p *Proxy) Refusals() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = make(chan struct{})
	return p.refuse
}

// Answers is how often the server has sent something.
func (p *Proxy) Answers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers
}

// Delay makes the server slow: from now on each of its answers comes that much later.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Admit lets connections be made again, and forgets what was ordered.
func (p *Proxy) Admit() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.order = false, nil
}

// Orphan breaks all connections to clients and keeps those to the server, as when a network
// is cut: the server takes its sessions for alive.
func (p *Proxy) Orphan() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.open {
		l.orphan = true
		_ = l.client.Close()
	}
}

// Refuse breaks all connections and lets none be made.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for l := range p.open {
		l.close()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to) //nolint:noctx // on this machine
		if err != nil {
			_ = client.Close()
			continue
		}
		l := &link{client: client, server: server}
		p.mu.Lock()
		if p.closed {
			l.close()
			if p.refuse != nil {
				close(p.refuse)
				p.refuse = nil
			}
			p.mu.Unlock()
			continue
		}
		p.open[l] = true
		p.mu.Unlock()
		p.work.Go(func() { p.pump(l, client, server, p.request) })
		p.work.Go(func() { p.pump(l, server, client, p.answer) })
	}
}

// pump moves what comes from one side to the other as long as look agrees.
func (p *Proxy) pump(l *link, from io.Reader, to io.Writer, look func(*link, []byte) bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !look(l, buf[:n]) {
			err = errors.New("cut")
		} else if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.orphan && !p.closed {
		return
	}
	l.close()
	delete(p.open, l)
}

// request says whether what a store sends may pass.
func (p *Proxy) request(l *link, b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.order
	if o == nil || !bytes.Contains(b, []byte(o.Text)) {
		return true
	}
	if o.Skip > 0 {
		o.Skip--
		return true
	}
	p.order = nil
	p.closed = o.Refuse
	p.cuts++
	l.mute = o.After
	return o.After
}

// answer says whether what a server sends may pass, in its time.
func (p *Proxy) answer(l *link, _ []byte) bool {
	p.mu.Lock()
	mute, delay := l.mute, p.delay
	p.answers++
	p.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-p.done:
		}
	}
	return !mute
}
