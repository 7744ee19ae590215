package broker_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/broker"
	"signalbox/internal/broker/durable"
	"signalbox/internal/history"
	"signalbox/internal/store"
	"signalbox/internal/wire/packet"
)

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

// got is a packet that a peer was sent.
type got struct {
	packet.Packet
	topic, payload string
}

// peer is a connection that records and decodes what it is sent.
type peer struct {
	mu      sync.Mutex
	version packet.Version
	list    []got
	queued  int
	fail    string
	ended   *packet.Reason
	wake    chan struct{}
}

func newPeer(v packet.Version) *peer { return &peer{version: v, wake: make(chan struct{}, 1)} }

func (p *peer) Write(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	b = slices.Clone(b)
	if p.queued+len(b) > 64<<10 && p.queued <= 64<<10 { // the default of Config.OutboxBytes
		p.fail = fmt.Sprintf("%d bytes were written at once while %d waited", len(b), p.queued)
	}
	for len(b) > 0 {
		n, ok, err := packet.Size(b)
		if err != nil || !ok || n > len(b) {
			p.fail = fmt.Sprintf("%x is no whole packet: %v", b, err)
			break
		}
		var g got
		if err := g.Decode(b[:n], p.version); err != nil {
			p.fail = fmt.Sprintf("%x: %v", b[:n], err)
		}
		g.topic, g.payload = string(g.Topic), string(g.Payload)
		p.list = append(p.list, g)
		b = b[n:]
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

func (p *peer) Queued() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queued
}

func (p *peer) stall(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queued = n
}

func (p *peer) End(r packet.Reason, _ string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = &r
}

func (p *peer) endedWith() (packet.Reason, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		return 0, false
	}
	return *p.ended, true
}

// next waits for the next packet.
func (p *peer) next(t testing.TB) got {
	t.Helper()
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		if p.fail != "" {
			t.Error(p.fail)
		}
		if len(p.list) > 0 {
			g := p.list[0]
			p.list = p.list[1:]
			p.mu.Unlock()
			return g
		}
		p.mu.Unlock()
		select {
		case <-p.wake:
		case <-timeout:
			t.Fatal("nothing came")
		}
	}
}

// want waits for a packet of this type.
func (p *peer) want(t testing.TB, typ packet.Type) got {
	t.Helper()
	g := p.next(t)
	if g.Type != typ {
		t.Fatalf("got a packet of type %d (topic %q, payload %q, reason %#x), want type %d", g.Type, g.topic, g.payload, g.Reason, typ)
	}
	return g
}

// none holds that nothing has come so far.
func (p *peer) none(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.list {
		t.Errorf("got an unexpected packet of type %d, topic %q, payload %q", p.list[i].Type, p.list[i].topic, p.list[i].payload)
	}
}

// hub is a broker with what it stands on.
type hub struct {
	*broker.Broker
	st     *store.Store
	log    *history.Log
	keeper *durable.Keeper
	kill   func()
}

// memory starts a broker that keeps everything in memory.
func memory(t testing.TB, cfg broker.Config, taker broker.Taker) *hub {
	t.Helper()
	b, err := broker.New(cfg, broker.Parts{Taker: taker})
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{Broker: b}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	h.kill = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(h.kill)
	return h
}

// disk starts a broker on a real log and database in dir. Its kill ends the log first, so
// that nobody can write a farewell.
func disk(t testing.TB, dir string, cfg broker.Config, taker func(*history.Log) broker.Taker) *hub {
	t.Helper()
	h := new(hub)
	var err error
	if h.st, err = store.Open(context.Background(), store.Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if h.log, err = history.Open(t.Context(), history.Config{}, h.st); err != nil {
		t.Fatal(err)
	}
	if err = h.log.Restore(t.Context(), 0, func(*signalbox.Entry) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var image *durable.Image
	if h.keeper, image, err = durable.Open(t.Context(), durable.Config{Delay: 200 * time.Millisecond}, h.log, h.st); err != nil {
		t.Fatal(err)
	}
	parts := broker.Parts{Keeper: h.keeper, Image: image, Log: h.log}
	if taker != nil {
		parts.Taker = taker(h.log)
	}
	if h.Broker, err = broker.New(cfg, parts); err != nil {
		t.Fatal(err)
	}
	var stops []func()
	run := func(f func(context.Context) error) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = f(ctx) }()
		stops = append(stops, func() { cancel(); <-done })
	}
	run(func(ctx context.Context) error { return h.log.Run(ctx, patience) })
	run(h.keeper.Run)
	run(h.Run)
	h.kill = sync.OnceFunc(func() {
		for _, stop := range stops {
			stop()
		}
		_ = h.st.Close()
	})
	t.Cleanup(h.kill)
	return h
}

// client is a client of the broker, which answers nothing by itself.
type client struct {
	*broker.Session
	*peer
	connack got
}

// wish changes a CONNECT.
type wish func(h *broker.Hello)

func v311(h *broker.Hello)   { h.Connect.Version = packet.V311 }
func resume(h *broker.Hello) { h.Connect.Clean = false }
func single(h *broker.Hello) { h.Single = true }

func expiry(seconds uint32) wish {
	return func(h *broker.Hello) {
		h.Properties.Set(packet.SessionExpiry)
		h.Properties.SessionExpiry = seconds
	}
}

func window(n uint16) wish {
	return func(h *broker.Hello) {
		h.Properties.Set(packet.ReceiveMaximum)
		h.Properties.ReceiveMaximum = n
	}
}

func largest(n uint32) wish {
	return func(h *broker.Hello) {
		h.Properties.Set(packet.MaximumPacketSize)
		h.Properties.MaximumPacketSize = n
	}
}

func will(topic, payload string, qos uint8, delay uint32) wish {
	return func(h *broker.Hello) {
		c := h.Connect
		c.HasWill, c.WillTopic, c.WillPayload, c.WillQoS = true, []byte(topic), []byte(payload), qos
		if delay > 0 {
			c.WillProperties.Set(packet.WillDelay)
			c.WillProperties.WillDelay = delay
		}
	}
}

func (h *hub) connect(t testing.TB, id string, wishes ...wish) *client {
	t.Helper()
	hello := broker.Hello{
		Owner: "o", ClientID: id, Connect: &packet.Connect{Version: packet.V5, Clean: true}, Properties: new(packet.Properties),
	}
	for _, w := range wishes {
		w(&hello)
	}
	p := newPeer(hello.Connect.Version)
	if hello.Peer == nil {
		hello.Peer = p
	}
	for {
		s, outcome := h.Connect(&hello)
		if outcome.Wait > 0 {
			continue
		}
		if outcome.Close {
			t.Fatalf("CONNECT of %s: %s", id, outcome.Words)
		}
		switch own := hello.Peer.(type) {
		case roomy:
			p = own.peer
		case *counted:
			p = own.peer
		}
		c := &client{Session: s, peer: p}
		c.connack = p.want(t, packet.CONNACK)
		return c
	}
}

func (c *client) publish(t testing.TB, topic, payload string, qos uint8, id uint16, change ...func(*packet.Packet)) broker.Outcome {
	t.Helper()
	p := packet.Packet{Type: packet.PUBLISH, Topic: []byte(topic), Payload: []byte(payload), QoS: qos, ID: id}
	for _, f := range change {
		f(&p)
	}
	for start := time.Now(); ; {
		if o := c.Resolve(&p); o.Close {
			return o
		}
		o := c.Publish(&p)
		if o.Wait == 0 || time.Since(start) > patience {
			return o
		}
		<-time.After(o.Wait)
	}
}

func (c *client) subscribe(t testing.TB, filters ...packet.Filter) []byte {
	t.Helper()
	return c.subscribeAs(t, 0, filters...)
}

func (c *client) subscribeAs(t testing.TB, id uint32, filters ...packet.Filter) []byte {
	t.Helper()
	p := packet.Packet{Type: packet.SUBSCRIBE, ID: 77, Filters: filters}
	if id > 0 {
		p.Properties.Set(packet.SubscriptionID)
		p.Properties.SubscriptionID = id
	}
	if o := c.Subscribe(&p, nil); o != (broker.Outcome{}) {
		t.Fatalf("SUBSCRIBE: %+v", o)
	}
	return c.want(t, packet.SUBACK).Reasons
}

func (c *client) ack(typ packet.Type, id uint16) broker.Outcome {
	return c.Ack(&packet.Packet{Type: typ, ID: id})
}

func filter(text string, qos uint8) packet.Filter { return packet.Filter{Text: []byte(text), QoS: qos} }

func retain(p *packet.Packet) { p.Retain = true }
func dup(p *packet.Packet)    { p.Dup = true }

// eventually waits until f holds.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for !f() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
