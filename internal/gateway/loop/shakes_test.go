package loop_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"signalbox/internal/gateway/loop"
)

// tlsSide starts a group that serves TLS and echoes.
func tlsSide(t *testing.T, cfg loop.Config) (s *side, h *handler) {
	t.Helper()
	g, err := loop.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	conf, err := certificate()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h = newHandler(t, echo)
	served := make(chan error, 1)
	go func() { served <- g.ServeTLS(context.WithoutCancel(t.Context()), ln, conf, h) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := g.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if n := g.Stats().Handshakes.Load(); n != 0 {
			t.Errorf("%d handshakes are counted after Close", n)
		}
	})
	return &side{t: t, group: g, addr: ln.Addr().String(), tls: true}, h
}

// silent connects from an address and says nothing.
func (s *side) silent(from string) net.Conn {
	s.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	nc, err := d.DialContext(s.t.Context(), "tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return nc
}

func (s *side) echoes(nc net.Conn) {
	s.t.Helper()
	if _, err := nc.Write([]byte("x")); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, make([]byte, 1)); err != nil {
		s.t.Fatal(err)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-end.C:
			t.Fatalf("it did not come true that %s", what)
		case <-tick.C:
		}
	}
}

// TestGateBeforeHandshake refuses a connection without a byte of TLS.
func TestGateBeforeHandshake(t *testing.T) {
	s, h := tlsSide(t, loop.Config{})
	h.refuse.Store(true)
	nc := s.silent("127.0.0.1")
	if n, err := nc.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("a refused connection reads %d bytes, %v", n, err)
	}
	if st := s.group.Stats(); st.Refused.Load() != 1 || st.TLSErrors.Load() != 0 || st.Open.Load() != 0 {
		t.Errorf("refused %d, TLS errors %d, open %d", st.Refused.Load(), st.TLSErrors.Load(), st.Open.Load())
	}
}

// TestStalledHandshakes has an address stall its handshakes while another one connects.
func TestStalledHandshakes(t *testing.T) {
	t.Parallel()
	const (
		places  = 4               // so that one address has one of them, and 17 may wait
		timeout = 5 * time.Second // all are there before the first one is cut
	)
	s, h := tlsSide(t, loop.Config{Handshakes: places, HandshakeTimeout: timeout})
	st := s.group.Stats()
	var stalled []net.Conn
	for range 30 {
		stalled = append(stalled, s.silent("127.0.0.2"))
	}
	await(t, "what is too much was refused", func() bool { return st.TLSBusy.Load() == 30-17 })
	if n := st.Handshakes.Load(); n != 1 {
		t.Errorf("%d handshakes of one address are under way, want 1", n)
	}
	s.echoes(s.dial(t))
	began := time.Now()
	for _, nc := range stalled {
		if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("a stalled connection reads %d bytes, %v", n, err)
		}
	}
	if took := time.Since(began); took > timeout+patience/2 {
		t.Errorf("the stalled handshakes were cut after %s", took)
	}
	await(t, "only the good connection is left", func() bool { return st.Open.Load() == 1 })
	for range 31 {
		if p := h.next(); p.conn.Remote().Addr().String() == "127.0.0.2" {
			p.ended()
		}
	}
	if n := st.TLSErrors.Load() + st.TLSBusy.Load(); n != 30 {
		t.Errorf("%d failed handshakes were counted, want 30", n)
	}
	s.echoes(s.dial(t))
}

// TestNotTLS sends something else.
func TestNotTLS(t *testing.T) {
	s, h := tlsSide(t, loop.Config{})
	nc := s.silent("127.0.0.1")
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: hub\r\n\r\n")
	if n, err := nc.Read(make([]byte, 100)); n != 0 || err == nil {
		t.Errorf("plain bytes were answered with %d bytes, %v", n, err)
	}
	h.next().ended()
	if n := s.group.Stats().TLSErrors.Load(); n != 1 {
		t.Errorf("%d TLS errors were counted, want 1", n)
	}
}

// TestCloseEndsHandshakes closes the group while handshakes stall: nothing waits for them.
func TestCloseEndsHandshakes(t *testing.T) {
	s, h := tlsSide(t, loop.Config{Handshakes: 8, HandshakeTimeout: time.Hour})
	var probes []*probe
	for range 5 {
		s.silent("127.0.0.1")
		probes = append(probes, h.next())
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.group.Close(ctx); err != nil {
		t.Fatal(err)
	}
	for _, p := range probes {
		if err := p.ended(); !errors.Is(err, loop.ErrStopped) {
			t.Errorf("a handshake ended with %v", err)
		}
	}
}

// TestManyHandshakes has more boards connect at once than there are places.
func TestManyHandshakes(t *testing.T) {
	s, _ := tlsSide(t, loop.Config{Handshakes: 8, HandshakeTimeout: patience})
	conns := make(chan error)
	const boards = 30
	for range boards {
		go func() {
			d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}, NetDialer: &net.Dialer{Timeout: patience}}
			nc, err := d.DialContext(t.Context(), "tcp", s.addr)
			if err == nil {
				err = nc.Close()
			}
			conns <- err
		}()
	}
	for range boards {
		if err := <-conns; err != nil {
			t.Error(err)
		}
	}
	if n := s.group.Stats().TLSBusy.Load(); n != 0 {
		t.Errorf("%d were refused", n)
	}
}

// TestMaxSockets opens more connections than there may be; what lingers counts.
func TestMaxSockets(t *testing.T) {
	var h *handler
	each(t, loop.Config{MaxSockets: 3, CloseTimeout: patience}, func(s *side) loop.Handler { h = newHandler(s.t, echo); return h }, func(s *side) {
		first, second, third := s.dial(s.t), s.dial(s.t), s.dial(s.t)
		for _, nc := range []net.Conn{first, second, third} {
			s.echoes(nc)
		}
		h.next().conn.Close(nil, nil) // it lingers until its peer closes
		await(s.t, "a connection lingers", func() bool { return s.group.Stats().Lingering.Load() == 1 })
		if _, err := s.dial(s.t).Write([]byte("x")); err == nil {
			await(s.t, "the fourth is refused", func() bool { return s.group.Stats().Refused.Load() == 1 })
		}
		for _, nc := range s.conns[:3] {
			nc.Close()
		}
		await(s.t, "all have ended", func() bool { return s.group.Stats().Open.Load()+s.group.Stats().Lingering.Load() == 0 })
		last := s.dial(s.t)
		s.echoes(last)
		s.conns[len(s.conns)-1].Close()
	})
}
