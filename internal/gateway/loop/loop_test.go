package loop_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signalbox/internal/gateway/loop"
)

const patience = 30 * time.Second

// transports are the implementations that the contract is tested on.
var transports = []struct {
	name  string
	tls   bool
	serve func(*loop.Group, context.Context, net.Listener, loop.Handler) error
}{
	{"loop", false, (*loop.Group).Serve},
	{"plain", false, (*loop.Group).ServePlain},
	{"tls", true, func(g *loop.Group, ctx context.Context, ln net.Listener, h loop.Handler) error {
		conf, err := certificate()
		if err != nil {
			return err
		}
		return g.ServeTLS(ctx, ln, conf, h)
	}},
}

var certificate = sync.OnceValues(func() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, err
})

// side is a running group and how to reach it.
type side struct {
	t     *testing.T
	group *loop.Group
	addr  string
	tls   bool
	mu    sync.Mutex
	conns []net.Conn
}

func (s *side) dial(t testing.TB) net.Conn {
	t.Helper()
	raw, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	nc := raw
	if s.tls {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
	}
	s.mu.Lock()
	s.conns = append(s.conns, raw)
	s.mu.Unlock()
	t.Cleanup(func() { raw.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return nc
}

// each runs the test on every transport with a handler.
func each(t *testing.T, cfg loop.Config, h func(*side) loop.Handler, test func(*side)) {
	t.Helper()
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			g, err := loop.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			s := &side{t: t, group: g, addr: ln.Addr().String(), tls: tr.tls}
			handler := h(s)
			go func() { served <- tr.serve(g, t.Context(), ln, handler) }()
			test(s)
			if cfg.CloseTimeout == 0 {
				for _, nc := range s.conns {
					nc.Close()
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := g.Close(ctx); err != nil {
				t.Errorf("Close: %v", err)
			}
			if err := <-served; err != nil {
				t.Errorf("Serve: %v", err)
			}
			if s := g.Stats(); s.Open.Load() != 0 || s.Lingering.Load() != 0 || s.Paused.Load() != 0 {
				t.Errorf("open %d, lingering %d, paused %d after Close, want 0", s.Open.Load(), s.Lingering.Load(), s.Paused.Load())
			}
		})
	}
}

// probe is a stream made of functions; it checks the contract's order of calls.
type probe struct {
	t      testing.TB
	conn   *loop.Conn
	data   func(p *probe, b []byte) (int, time.Duration)
	stop   func(p *probe)
	inside atomic.Bool
	ticks  chan time.Time
	closed chan error
}

func (p *probe) enter() func() {
	if !p.inside.CompareAndSwap(false, true) {
		p.t.Error("two methods of a stream at the same time")
	}
	select {
	case err := <-p.closed:
		p.t.Errorf("call after Closed(%v)", err)
	default:
	}
	return func() { p.inside.Store(false) }
}

func (p *probe) Data(b []byte) (int, time.Duration) {
	defer p.enter()()
	return p.data(p, b)
}

func (p *probe) Tick(now time.Time) {
	defer p.enter()()
	select {
	case p.ticks <- now:
	default:
	}
}

func (p *probe) Stop() {
	defer p.enter()()
	if p.stop != nil {
		p.stop(p)
		return
	}
	p.conn.Close(nil, nil)
}

func (p *probe) Closed(err error) {
	defer p.enter()()
	if err == nil {
		p.t.Error("Closed(nil)")
	}
	p.closed <- err
}

// ended returns what Closed was given.
func (p *probe) ended() error {
	p.t.Helper()
	select {
	case err := <-p.closed:
		return err
	case <-time.After(patience):
		p.t.Fatal("Closed was not called")
		return nil
	}
}

// handler makes probes.
type handler struct {
	t      testing.TB
	limit  int
	refuse atomic.Bool
	data   func(p *probe, b []byte) (int, time.Duration)
	stop   func(p *probe)
	probes chan *probe
}

func newHandler(t testing.TB, data func(p *probe, b []byte) (int, time.Duration)) *handler {
	t.Helper()
	return &handler{t: t, limit: 1 << 20, data: data, probes: make(chan *probe, 100)}
}

func (h *handler) PendingLimit() int { return h.limit }

func (h *handler) Open(c *loop.Conn, remote netip.AddrPort) (loop.Stream, error) {
	if h.refuse.Load() {
		return nil, errors.New("refused")
	}
	if !remote.Addr().IsLoopback() || remote.Port() == 0 || remote != c.Remote() {
		h.t.Errorf("remote address %v, Conn.Remote %v", remote, c.Remote())
	}
	p := &probe{t: h.t, conn: c, data: h.data, stop: h.stop, ticks: make(chan time.Time, 1), closed: make(chan error, 2)}
	h.probes <- p
	return p, nil
}

func (h *handler) next() *probe {
	h.t.Helper()
	select {
	case p := <-h.probes:
		return p
	case <-time.After(patience):
		h.t.Fatal("no connection was opened")
		return nil
	}
}

func echo(p *probe, b []byte) (int, time.Duration) {
	if err := p.conn.Write(b); err != nil {
		p.t.Errorf("Write: %v", err)
	}
	return len(b), 0
}

func swallow(_ *probe, b []byte) (int, time.Duration) { return len(b), 0 }

func TestEcho(t *testing.T) {
	var h *handler
	each(t, loop.Config{OutboxBytes: 4 << 20}, func(s *side) loop.Handler { h = newHandler(s.t, echo); return h }, func(s *side) {
		t := s.t
		nc := s.dial(t)
		sent := make([]byte, 3<<20)
		rand.Read(sent)
		go nc.Write(sent)
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(nc, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("echo differs, error %v", err)
		}
		nc.Close()
		if err := h.next().ended(); !errors.Is(err, io.EOF) {
			t.Errorf("Closed(%v), want EOF", err)
		}
		if n := s.group.Stats().BytesIn.Load(); n != int64(len(sent)) {
			t.Errorf("BytesIn = %d, want %d", n, len(sent))
		}
	})
}

// TestKept checks that unconsumed bytes come again in front, however many, and in spite of pauses.
func TestKept(t *testing.T) {
	const record = 1000
	for _, c := range []struct {
		name  string
		need  int // bytes consumed at once
		pause time.Duration
	}{{"small", 7, 0}, {"large", 300_000, 0}, {"paused", 20_000, time.Millisecond}} {
		t.Run(c.name, func(t *testing.T) {
			var got bytes.Buffer
			var paused bool
			all := make(chan struct{})
			const total = 210_000 * 10
			data := func(_ *probe, b []byte) (int, time.Duration) {
				if len(b) < c.need {
					return 0, 0
				}
				if c.pause > 0 && !paused {
					paused = true
					return 0, c.pause
				}
				paused = false
				got.Write(b[:c.need])
				if got.Len() == total {
					close(all)
				}
				return c.need, c.pause
			}
			each(t, loop.Config{}, func(s *side) loop.Handler {
				got.Reset()
				all = make(chan struct{})
				return newHandler(s.t, func(p *probe, b []byte) (int, time.Duration) {
					used := 0
					for {
						n, wait := data(p, b[used:])
						used += n
						if n == 0 || wait > 0 {
							return used, wait
						}
					}
				})
			}, func(s *side) {
				t := s.t
				nc := s.dial(t)
				sent := make([]byte, total)
				rand.Read(sent)
				for i := 0; i < total; i += record {
					if _, err := nc.Write(sent[i : i+record]); err != nil {
						t.Fatal(err)
					}
				}
				select {
				case <-all:
				case <-time.After(patience):
					t.Fatal("not all bytes came")
				}
				if !bytes.Equal(got.Bytes(), sent) {
					t.Error("bytes differ")
				}
				if c.pause > 0 && s.group.Stats().Pauses.Load() == 0 {
					t.Error("no pause was counted")
				}
			})
		})
	}
}

func TestPauseStopsReading(t *testing.T) {
	each(t, loop.Config{}, func(s *side) loop.Handler {
		return newHandler(s.t, func(*probe, []byte) (int, time.Duration) { return 0, time.Hour })
	}, func(s *side) {
		t := s.t
		nc := s.dial(t)
		nc.Write([]byte("x"))
		await(t, "it is paused", func() bool { return s.group.Stats().Paused.Load() == 1 })
		// Far more than all buffers hold: writing must block.
		nc.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		if n, err := nc.Write(make([]byte, 64<<20)); err == nil {
			t.Errorf("a paused connection took %d bytes", n)
		}
		if n := s.group.Stats().BytesIn.Load(); n > 128<<10 {
			t.Errorf("%d bytes were read from a paused connection", n)
		}
		if n := s.group.Stats().Paused.Load(); n != 1 {
			t.Errorf("Paused = %d, want 1", n)
		}
	})
}

func TestSlowReader(t *testing.T) {
	var h *handler
	each(t, loop.Config{}, func(s *side) loop.Handler { h = newHandler(s.t, swallow); return h }, func(s *side) {
		t := s.t
		nc := s.dial(t)
		nc.Write([]byte("x"))
		p := h.next()
		var err error
		block := make([]byte, 16<<10)
		for range 10_000 {
			if err = p.conn.Write(block); err != nil {
				break
			}
		}
		if !errors.Is(err, loop.ErrSlow) {
			t.Fatalf("Write = %v, want ErrSlow", err)
		}
		if err := p.ended(); !errors.Is(err, loop.ErrSlow) {
			t.Errorf("Closed(%v), want ErrSlow", err)
		}
		if err := p.conn.Write(block); !errors.Is(err, loop.ErrSlow) {
			t.Errorf("Write afterwards = %v, want ErrSlow", err)
		}
		if n := s.group.Stats().SlowReader.Load(); n != 1 {
			t.Errorf("SlowReader = %d, want 1", n)
		}
	})
}

// TestCloseDeliversLastBytes checks that what was written before Close arrives although the peer goes on sending.
func TestCloseDeliversLastBytes(t *testing.T) {
	var h *handler
	each(t, loop.Config{OutboxBytes: 1 << 20}, func(s *side) loop.Handler {
		h = newHandler(s.t, func(p *probe, b []byte) (int, time.Duration) {
			p.conn.Write(make([]byte, 900<<10))
			p.conn.Close([]byte("last"), errors.New("enough"))
			return 0, 0
		})
		return h
	}, func(s *side) {
		t := s.t
		nc := s.dial(t)
		if _, err := nc.Write(make([]byte, 200_000)); err != nil {
			t.Fatal(err)
		}
		if err := h.next().ended(); err.Error() != "enough" {
			t.Errorf("Closed(%v), want the reason given", err)
		}
		got, err := io.ReadAll(nc)
		if err != nil || len(got) != 900<<10+4 || !bytes.HasSuffix(got, []byte("last")) {
			t.Errorf("received %d bytes, error %v", len(got), err)
		}
	})
}

func TestCloseWaitsAtMostCloseTimeout(t *testing.T) {
	var h *handler
	each(t, loop.Config{CloseTimeout: 50 * time.Millisecond}, func(s *side) loop.Handler {
		h = newHandler(s.t, swallow)
		return h
	}, func(s *side) {
		t := s.t
		nc := s.dial(t)
		nc.Write([]byte("x"))
		p := h.next()
		p.conn.Close(nil, nil)
		if err := p.ended(); !errors.Is(err, loop.ErrClosed) {
			t.Errorf("Closed(%v), want ErrClosed", err)
		}
		// each then checks that Close of the group finds no lingering connection
	})
}

// TestStopWaitsASecondForPeers closes a group whose peers leave their sockets open.
func TestStopWaitsASecondForPeers(t *testing.T) {
	for _, before := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed before the stop %t", before), func(t *testing.T) {
			var h *handler
			var began time.Time
			each(t, loop.Config{CloseTimeout: patience}, func(s *side) loop.Handler {
				h = newHandler(s.t, swallow)
				return h
			}, func(s *side) {
				s.dial(s.t).Write([]byte("x"))
				if p := h.next(); before {
					p.conn.Close(nil, nil)
					p.ended()
				}
				began = time.Now()
				s.t.Cleanup(func() {
					if took := time.Since(began); took > patience/2 {
						s.t.Errorf("it took %v", took)
					}
				})
			})
		})
	}
}

func TestAbortAndRefuse(t *testing.T) {
	var h *handler
	each(t, loop.Config{}, func(s *side) loop.Handler { h = newHandler(s.t, swallow); return h }, func(s *side) {
		t := s.t
		nc := s.dial(t)
		nc.Write([]byte("x"))
		p, reason := h.next(), errors.New("reason")
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() { p.conn.Abort(reason); p.conn.Close([]byte("no"), nil) })
		}
		group.Wait()
		if err := p.ended(); !errors.Is(err, reason) {
			t.Errorf("Closed(%v), want the reason given", err)
		}
		if n, err := nc.Read(make([]byte, 10)); err == nil {
			t.Errorf("read %d bytes after Abort", n)
		}
		h.refuse.Store(true)
		nc = s.dial(t)
		nc.Write([]byte("x"))
		if n, err := nc.Read(make([]byte, 10)); err == nil {
			t.Errorf("read %d bytes after a refusal", n)
		}
		if n := s.group.Stats().Refused.Load(); n != 1 {
			t.Errorf("Refused = %d, want 1", n)
		}
	})
}

func TestPendingLimit(t *testing.T) {
	var h *handler
	each(t, loop.Config{}, func(s *side) loop.Handler {
		h = newHandler(s.t, func(*probe, []byte) (int, time.Duration) { return 0, 0 })
		h.limit = 10_000
		return h
	}, func(s *side) {
		t := s.t
		nc := s.dial(t)
		go nc.Write(make([]byte, 200_000))
		if err := h.next().ended(); !errors.Is(err, loop.ErrPending) {
			t.Errorf("Closed(%v), want ErrPending", err)
		}
	})
}

func TestTickAndStop(t *testing.T) {
	var h *handler
	each(t, loop.Config{}, func(s *side) loop.Handler {
		h = newHandler(s.t, swallow)
		h.stop = func(p *probe) { p.conn.Close([]byte("bye"), nil) }
		return h
	}, func(s *side) {
		t := s.t
		nc := s.dial(t)
		nc.Write([]byte("x"))
		p := h.next()
		for range 2 {
			select {
			case <-p.ticks:
			case <-time.After(patience):
				t.Fatal("no tick")
			}
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			s.group.Close(ctx)
		}()
		if got, err := io.ReadAll(nc); err != nil || string(got) != "bye" {
			t.Errorf("read %q, %v at the stop", got, err)
		}
		nc.Close()
		if err := p.ended(); !errors.Is(err, loop.ErrClosed) {
			t.Errorf("Closed(%v), want ErrClosed", err)
		}
	})
}

// TestKill checks that Close cuts what does not end when its context does.
func TestKill(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			g, err := loop.New(loop.Config{})
			if err != nil {
				t.Fatal(err)
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			h := newHandler(t, swallow)
			h.stop = func(*probe) {}
			go tr.serve(g, t.Context(), ln, h)
			nc := (&side{addr: ln.Addr().String(), tls: tr.tls}).dial(t)
			nc.Write([]byte("x"))
			p := h.next()
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if err := g.Close(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Close = %v, want the context's error", err)
			}
			if err := p.ended(); !errors.Is(err, loop.ErrStopped) {
				t.Errorf("Closed(%v), want ErrStopped", err)
			}
			if err := g.Serve(t.Context(), ln, h); !errors.Is(err, loop.ErrStopped) {
				t.Errorf("Serve after Close = %v, want ErrStopped", err)
			}
		})
	}
}

// TestConcurrentWrites checks that writes of many goroutines, also during stream methods, arrive whole.
func TestConcurrentWrites(t *testing.T) {
	const writers, each1, size = 8, 200, 32
	var h *handler
	each(t, loop.Config{OutboxBytes: 1 << 20}, func(s *side) loop.Handler { h = newHandler(s.t, echo); return h }, func(s *side) {
		t := s.t
		nc := s.dial(t)
		nc.Write(bytes.Repeat([]byte{255}, size))
		p := h.next()
		var group sync.WaitGroup
		for w := range writers {
			group.Go(func() {
				for range each1 {
					if err := p.conn.Write(bytes.Repeat([]byte{byte(w)}, size)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		go func() {
			for range each1 {
				nc.Write(bytes.Repeat([]byte{255}, size))
			}
		}()
		counts := map[byte]int{}
		block := make([]byte, size)
		for range writers*each1 + each1 + 1 {
			if _, err := io.ReadFull(nc, block); err != nil {
				t.Fatal(err)
			}
			if block[0] != 255 && !bytes.Equal(block, bytes.Repeat(block[:1], size)) {
				t.Fatalf("torn write: %v", block)
			}
			counts[block[0]]++
		}
		group.Wait()
		for w := range writers {
			if counts[byte(w)] != each1 {
				t.Errorf("writer %d: %d blocks, want %d", w, counts[byte(w)], each1)
			}
		}
	})
}

// TestChurn opens and closes many connections while others write to them.
func TestChurn(t *testing.T) {
	var h *handler
	each(t, loop.Config{Loops: 2}, func(s *side) loop.Handler {
		h = newHandler(s.t, func(p *probe, b []byte) (int, time.Duration) {
			p.conn.Write(b)
			return len(b), 0
		})
		h.probes = make(chan *probe, 1000)
		return h
	}, func(s *side) {
		t := s.t
		var clients, writers sync.WaitGroup
		const total = 200
		writers.Go(func() {
			for range total {
				p := h.next()
				writers.Go(func() {
					for p.conn.Write([]byte("y")) == nil {
						p.conn.Abort(nil)
					}
					p.ended()
				})
			}
		})
		for range 4 {
			clients.Go(func() {
				for range total / 4 {
					nc := s.dial(t)
					nc.Write([]byte("x"))
					nc.Read(make([]byte, 1))
					nc.Close()
				}
			})
		}
		clients.Wait()
		writers.Wait()
	})
}
