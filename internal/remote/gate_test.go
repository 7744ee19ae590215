package remote

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// gate stands before a broker, and lets nobody through while it is shut.
type gate struct {
	address string
	broker  string

	mu     sync.Mutex
	closed bool
	inside map[net.Conn]struct{}
}

func newGate(t *testing.T, broker string) *gate {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	g := &gate{address: l.Addr().String(), broker: broker, inside: map[net.Conn]struct{}{}}
	var relays sync.WaitGroup
	relays.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			relays.Go(func() { g.relay(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		g.shut()
		relays.Wait()
	})
	return g
}

// relay carries what is said between a client and the broker until one of them, or the gate, ends it.
func (g *gate) relay(client net.Conn) {
	defer func() { _ = client.Close() }()
	broker, err := net.DialTimeout("tcp", g.broker, wait)
	if err != nil {
		return
	}
	defer func() { _ = broker.Close() }()
	if !g.enter(client) {
		return
	}
	defer g.leave(client)
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(client, broker)
		_ = client.Close()
	})
	_, _ = io.Copy(broker, client)
	_ = broker.Close()
	back.Wait()
}

func (g *gate) enter(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.inside[c] = struct{}{}
	}
	return !g.closed
}

func (g *gate) leave(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.inside, c)
}

// shut ends the connections there are, and those that come.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for c := range g.inside {
		_ = c.SetDeadline(time.Unix(1, 0)) // the relay closes it
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = false
}
