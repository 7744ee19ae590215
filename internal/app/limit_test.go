package app

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

func TestLimitedListener(t *testing.T) {
	var config net.ListenConfig
	inner, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &limitedListener{Listener: inner, places: make(chan struct{}, 1), closed: make(chan struct{})}
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
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
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
	case <-time.After(10 * time.Second):
		t.Fatal("Accept goes on after Close")
	}
}
