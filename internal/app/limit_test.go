package app

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

func TestLimitedListener(t *testing.T) {
	var config net.ListenConfig
	inner, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newLimitedListener(1, 100, nil)
	l.Listener = inner
	accepted := make(chan net.Conn)
	ended := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- c
		}
	}()
	dial := func() {
		t.Helper()
		var d net.Dialer
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := d.DialContext(ctx, "tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	dial()
	first := <-accepted
	dial() // waits in the system's queue
	select {
	case <-accepted:
		t.Fatal("the second connection was accepted while the first was open")
	case <-time.After(50 * time.Millisecond):
	}
	for range 2 { // closing twice frees one place
		_ = first.Close()
	}
	second := <-accepted
	defer second.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Accept goes on after Close")
	}
}

// crowd serves on a listener with a limit of two connections an address.
type crowd struct {
	t       *testing.T
	l       *limitedListener
	address string
}

func newCrowd(t *testing.T, exempt ...netip.Prefix) *crowd {
	t.Helper()
	var config net.ListenConfig
	inner, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newLimitedListener(100, 2, exempt)
	l.Listener = inner
	server := &http.Server{
		Handler:           refuseCrowd(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })),
		ConnContext:       markCrowd,
		ReadHeaderTimeout: patience,
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve ended with %v", err)
		}
		if len(l.here) != 0 || len(l.places) != 0 {
			t.Errorf("%d addresses and %d places are still counted", len(l.here), len(l.places))
		}
	})
	return &crowd{t: t, l: l, address: inner.Addr().String()}
}

// ask opens a connection and gives the status of a request on it, 0 if it was cut.
func (c *crowd) ask(from string) (net.Conn, int) {
	c.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(c.t.Context(), "tcp", c.address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: hub\r\n\r\n"); err != nil {
		return conn, 0
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return conn, 0
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusTooManyRequests {
		var problem struct{ Code string }
		if err := json.NewDecoder(answer.Body).Decode(&problem); err != nil || problem.Code != "too_many_connections" || !answer.Close {
			c.t.Errorf("the refusal has the code %q, %v; it closes: %t", problem.Code, err, answer.Close)
		}
	}
	return conn, answer.StatusCode
}

func (c *crowd) want(from string, want int) net.Conn {
	c.t.Helper()
	conn, got := c.ask(from)
	if got != want {
		c.t.Errorf("a connection from %s is answered with %d, want %d", from, got, want)
	}
	return conn
}

func TestConnectionsOfAnAddress(t *testing.T) {
	c := newCrowd(t)
	first := c.want("127.0.0.1", http.StatusNoContent)
	c.want("127.0.0.1", http.StatusNoContent)
	c.want("127.0.0.1", http.StatusTooManyRequests)
	c.want("127.0.0.2", http.StatusNoContent)
	if n := c.l.refused.Load(); n != 1 {
		t.Errorf("%d refused connections were counted, want 1", n)
	}
	_ = first.Close()
	for deadline := time.Now().Add(patience); ; {
		if _, status := c.ask("127.0.0.1"); status == http.StatusNoContent {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place of a closed connection is not free again")
		}
	}
}

func TestConnectionsFarBeyondTheLimitAreCut(t *testing.T) {
	c := newCrowd(t)
	for range 2 + crowdSlack { // silent ones
		d := net.Dialer{}
		conn, err := d.DialContext(t.Context(), "tcp", c.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	c.want("127.0.0.1", 0)
	c.want("127.0.0.2", http.StatusNoContent)
}

func TestConnectionsOfAProxy(t *testing.T) {
	c := newCrowd(t, netip.MustParsePrefix("127.0.0.3/32"))
	for range 10 {
		c.want("127.0.0.3", http.StatusNoContent)
	}
	if n := c.l.refused.Load(); n != 0 {
		t.Errorf("%d refused connections were counted, want none", n)
	}
}
