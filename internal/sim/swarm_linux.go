package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Swarm holds many connections for measuring. Make it with NewSwarm; Close ends it.
type Swarm struct {
	cfg     SwarmConfig
	addr    unix.SockaddrInet4
	upgrade []byte // the request
	boot    string
	workers []*worker
	running sync.WaitGroup
	stopped atomic.Bool

	// RTT is between a ping among the messages and its pong; SavedAfter between a message and the saved that covers it.
	RTT, SavedAfter Histogram

	ready, failures, lost, messages, saved, commands, refusals atomic.Int64
	lastRefusal                                                atomic.Pointer[string]
}

// NewSwarm checks cfg and starts the workers; nothing is connected yet.
func NewSwarm(cfg SwarmConfig) (*Swarm, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	ap, err := netip.ParseAddrPort(cfg.Addr)
	if err != nil || !ap.Addr().Unmap().Is4() {
		return nil, fmt.Errorf("the address %q is not an IPv4 address and a port", cfg.Addr)
	}
	s := &Swarm{cfg: cfg, upgrade: upgradeRequest(cfg.Addr, "/"), boot: strconv.FormatUint(rand.Uint64(), 36)}
	s.addr = unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().Unmap().As4()}
	for i := range cfg.Workers {
		w, err := newWorker(s, i)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.workers = append(s.workers, w)
		s.running.Go(w.run)
	}
	return s, nil
}

// Connect makes the connections that are not there, and returns how long it took until all were ready: logged in
// (version 2: auth_ok heard; version 1: a ping behind the auth answered; MQTT: CONNACK heard, and SUBACK where it subscribes), or upgraded when there is
// no protocol.
// Refused connections are tried again every 10 ms until ctx ends.
func (s *Swarm) Connect(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	start := time.Now()
	err := s.do(ctx, func(w *worker) job { return newConnecting(w) })
	if err != nil {
		if r := s.lastRefusal.Load(); r != nil {
			err = fmt.Errorf("%w; the hub said %s", err, *r)
		}
		return 0, fmt.Errorf("%d of %d connections are ready: %w", s.ready.Load(), len(s.cfg.Credentials), err)
	}
	return time.Since(start), nil
}

// defaultUnacked is how many messages of a connection wait for their PUBACK.
const defaultUnacked = 16

// connectPatience is how long connecting may take: a hub may refuse some for ever.
const connectPatience = 2 * time.Minute

// Send sends l. Its end is when the hub has answered a ping behind the last message of each connection.
func (s *Swarm) Send(ctx context.Context, l Load) (Sent, error) {
	l.Bunch = orDefault(l.Bunch, 1)
	if l.Duration <= 0 && l.Messages <= 0 {
		return Sent{}, errors.New("a load needs a duration or a number of messages")
	}
	if l.Window <= 0 {
		l.Window = 0.9
	}
	l.Unacked = orDefault(l.Unacked, defaultUnacked)
	start := time.Now()
	parts := make([]*sending, 0, len(s.workers))
	err := s.do(ctx, func(w *worker) job {
		j := newSending(w, l, start)
		parts = append(parts, j)
		return j
	})
	sent := Sent{Took: time.Since(start)}
	for _, p := range parts {
		sent.Messages += p.messages
		sent.Bytes += p.bytes
		sent.Sending = max(sent.Sending, p.took)
	}
	return sent, err
}

// Drop ends all connections at once: with a reset, or by closing.
func (s *Swarm) Drop(ctx context.Context, reset bool) error {
	return s.do(ctx, func(*worker) job { return &dropping{reset: reset} })
}

// Close ends the connections and the workers, and waits for them.
func (s *Swarm) Close() {
	s.stopped.Store(true)
	for _, w := range s.workers {
		w.wake()
	}
	s.running.Wait()
}

// Stats says what the swarm did so far.
func (s *Swarm) Stats() SwarmStats {
	return SwarmStats{
		Ready: s.ready.Load(), Failures: s.failures.Load(), Lost: s.lost.Load(), Messages: s.messages.Load(),
		Saved: s.saved.Load(), Commands: s.commands.Load(), Refusals: s.refusals.Load(),
	}
}

// Progress says how far each device has come. Call it when nothing is being sent.
func (s *Swarm) Progress(ctx context.Context) ([]Progress, error) {
	list := make([]Progress, len(s.cfg.Credentials))
	err := s.do(ctx, func(*worker) job { return &looking{list: list} })
	return list, err
}

// do gives each worker a job and waits for all. When ctx ends, the jobs end.
func (s *Swarm) do(ctx context.Context, begin func(w *worker) job) error {
	if s.stopped.Load() {
		return errors.New("the swarm was closed")
	}
	orders := make([]*order, 0, len(s.workers))
	for _, w := range s.workers {
		orders = append(orders, &order{job: begin(w), done: make(chan error, 1)})
	}
	stop := context.AfterFunc(ctx, func() {
		for i, o := range orders {
			o.canceled.Store(true)
			s.workers[i].wake()
		}
	})
	defer stop()
	for i, o := range orders {
		s.workers[i].orders <- o
		s.workers[i].wake()
	}
	var errs []error
	for _, o := range orders {
		if err := <-o.done; err != nil {
			errs = append(errs, err)
		}
	}
	if ctx.Err() != nil && len(errs) > 0 {
		return ctx.Err()
	}
	return errors.Join(errs...)
}

// order is a job on its way to a worker.
type order struct {
	job      job
	canceled atomic.Bool
	done     chan error
}

// job is what a worker does besides answering; its methods run on the worker.
type job interface {
	// step does some of the work and says how many ms it can wait for events: 0 not at all, -1 for ever.
	step(w *worker) (wait int, done bool, err error)
	pong(w *worker, p *peer, token uint64)
	// changed is told when a peer became ready or was lost.
	changed(w *worker, p *peer) error
}

// dropping ends all connections.
type dropping struct{ reset bool }

func (d *dropping) step(w *worker) (int, bool, error) {
	for i := range w.peers {
		p := &w.peers[i]
		if p.fd < 0 {
			continue
		}
		if d.reset {
			if err := unix.SetsockoptLinger(int(p.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
				return 0, true, fmt.Errorf("make a close a reset: %w", err)
			}
		}
		w.hangUp(p)
	}
	return 0, true, nil
}

func (*dropping) pong(*worker, *peer, uint64)  {}
func (*dropping) changed(*worker, *peer) error { return nil }

// looking collects Progress.
type looking struct{ list []Progress }

func (l *looking) step(w *worker) (int, bool, error) {
	for i := range w.peers {
		p := &w.peers[i]
		l.list[p.index] = Progress{Name: w.s.cfg.Credentials[p.index].Name, Sent: p.n, Saved: p.saved}
	}
	return 0, true, nil
}

func (*looking) pong(*worker, *peer, uint64)  {}
func (*looking) changed(*worker, *peer) error { return nil }

// connecting makes the connections that are missing.
type connecting struct {
	todo     []int32 // indexes of peers, the next one last
	again    []int32 // failed; tried again at retry
	retry    time.Time
	underWay int
	missing  int
}

func newConnecting(w *worker) *connecting {
	return &connecting{todo: make([]int32, 0, len(w.peers)), missing: -1}
}

func (c *connecting) step(w *worker) (int, bool, error) {
	if c.missing < 0 { // the first step: only the worker may look at peers
		for i := range w.peers {
			if w.peers[i].fd < 0 {
				c.todo = append(c.todo, w.peers[i].slot)
			}
		}
		slices.Reverse(c.todo)
		c.missing = len(c.todo)
	}
	if len(c.again) > 0 && !time.Now().Before(c.retry) {
		c.todo, c.again = append(c.todo, c.again...), c.again[:0]
	}
	for len(c.todo) > 0 && c.underWay < w.s.cfg.InFlight {
		i := c.todo[len(c.todo)-1]
		c.todo = c.todo[:len(c.todo)-1]
		c.underWay++
		if err := w.open(&w.peers[i]); err != nil {
			return 0, true, err
		}
	}
	wait := -1
	if len(c.again) > 0 {
		wait = 10
	}
	return wait, c.missing == 0, nil
}

func (*connecting) pong(*worker, *peer, uint64) {}

func (c *connecting) changed(w *worker, p *peer) error {
	if p.state == ready {
		c.underWay--
		c.missing--
		return nil
	}
	if p.was == ready {
		c.missing++
	} else {
		c.underWay--
	}
	if len(c.again) == 0 {
		c.retry = time.Now().Add(10 * time.Millisecond)
	}
	c.again = append(c.again, p.slot)
	return nil
}
