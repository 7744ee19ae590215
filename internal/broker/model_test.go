package broker_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox/internal/broker"
	"signalbox/internal/wire/packet"
)

// poll gives the next packet, or false if there is none within the time.
func (p *peer) poll(wait time.Duration) (got, bool) {
	timeout := time.After(wait)
	for {
		p.mu.Lock()
		if len(p.list) > 0 {
			g := p.list[0]
			p.list = p.list[1:]
			p.mu.Unlock()
			return g, true
		}
		p.mu.Unlock()
		select {
		case <-p.wake:
		case <-timeout:
			return got{}, false
		}
	}
}

// publisher is a client that keeps its promises: what is not acknowledged is sent again.
type publisher struct {
	name  string
	rnd   *rand.Rand
	next  int
	upTo  int
	open  []flight // in the order in which they were sent
	ids   uint16
	topic func(n int) string
}

type flight struct {
	n        int
	id       uint16
	qos      uint8
	released bool
}

// run publishes until all is acknowledged, or until stop for a publisher whose hub ends.
func (p *publisher) run(t *testing.T, h *hub, stop <-chan struct{}) {
	t.Helper()
	for {
		c := h.connect(t, p.name, resume, expiry(1000))
		for _, f := range p.open {
			if f.released {
				c.ack(packet.PUBREL, f.id)
			} else {
				c.publish(t, p.topic(f.n), fmt.Sprintf("%s:%d", p.name, f.n), f.qos, f.id, dup)
			}
		}
		ended := p.talk(t, c, stop)
		c.Closed(p.rnd.IntN(2) == 0, nil, time.Now())
		if ended {
			return
		}
	}
}

// talk goes on until something is to end: the work (true), the hub (true), the connection.
func (p *publisher) talk(t *testing.T, c *client, stop <-chan struct{}) bool {
	t.Helper()
	life := 1 + p.rnd.IntN(150)
	for {
		select {
		case <-stop:
			return true
		default:
		}
		if p.next == p.upTo && len(p.open) == 0 {
			return true
		}
		for len(p.open) < 10 && p.next < p.upTo {
			p.ids = p.ids%1000 + 1
			f := flight{n: p.next, id: p.ids, qos: uint8(1 + p.next%2)}
			p.next++
			p.open = append(p.open, f)
			if o := c.publish(t, p.topic(f.n), fmt.Sprintf("%s:%d", p.name, f.n), f.qos, f.id); o.Close {
				t.Errorf("%s: %s", p.name, o.Words)
				return true
			}
			if life--; life == 0 {
				return false
			}
		}
		g, ok := c.poll(5 * time.Millisecond)
		if !ok {
			continue
		}
		for i := range p.open {
			if f := &p.open[i]; f.id == g.ID {
				switch g.Type {
				case packet.PUBREC:
					f.released = true
					c.ack(packet.PUBREL, f.id)
				case packet.PUBACK, packet.PUBCOMP:
					p.open = append(p.open[:i:i], p.open[i+1:]...)
				default:
				}
				break
			}
		}
	}
}

// subscriber is a client that loses its connection now and then, and its packets with it.
type subscriber struct {
	name    string
	rnd     *rand.Rand
	filters []packet.Filter
	holds   map[uint16]bool // identifiers of quality of service 2 not released
	seen    map[string]int  // how often each payload came
	last    map[string]int  // the newest of each publisher and quality of service
	total   int
}

func (s *subscriber) run(t *testing.T, h *hub, stop <-chan struct{}) {
	t.Helper()
	for {
		c := h.connect(t, s.name, resume, expiry(1000))
		if len(s.filters) > 0 && !c.connack.SessionPresent {
			c.subscribe(t, s.filters...)
		}
		life := 1 + s.rnd.IntN(400)
		for ; life > 0; life-- {
			select {
			case <-stop:
				c.Closed(false, nil, time.Now())
				return
			default:
			}
			if g, ok := c.poll(5 * time.Millisecond); ok {
				s.take(t, c, &g)
			}
		}
		c.Closed(s.rnd.IntN(2) == 0, nil, time.Now())
	}
}

func (s *subscriber) take(t *testing.T, c *client, g *got) {
	t.Helper()
	switch g.Type {
	case packet.PUBREL:
		delete(s.holds, g.ID)
		c.ack(packet.PUBCOMP, g.ID)
		return
	case packet.PUBLISH:
	default:
		return
	}
	if g.QoS == 2 {
		c.ack(packet.PUBREC, g.ID)
		if s.holds[g.ID] {
			return
		}
		s.holds[g.ID] = true
	} else {
		c.ack(packet.PUBACK, g.ID)
	}
	s.seen[g.payload]++
	if s.seen[g.payload] > 1 {
		if g.QoS == 2 {
			t.Errorf("%s: %s came %d times with QoS 2", s.name, g.payload, s.seen[g.payload])
		}
		return
	}
	s.total++
	from, number, _ := strings.Cut(g.payload, ":")
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Errorf("%s: payload %q", s.name, g.payload)
	}
	key := fmt.Sprint(from, " ", n%2)
	if last, ok := s.last[key]; ok && last > n {
		t.Errorf("%s: %s came after %d", s.name, g.payload, last)
	}
	s.last[key] = n
}

// TestAgainstTheModel has publishers and subscribers come and go, and the hub twice: each
// message reaches each subscriber, in order, and with quality of service 2 once.
func TestAgainstTheModel(t *testing.T) {
	const (
		publishers, subscribers, each = 4, 4, 600
		seed                          = 11
	)
	dir := t.TempDir()
	topic := func(n int) string { return fmt.Sprintf("t/%d/%d", n%2, n%3) }
	pubs := make([]*publisher, publishers)
	for i := range pubs {
		pubs[i] = &publisher{name: fmt.Sprint("p", i), rnd: rand.New(rand.NewPCG(seed, uint64(i))), upTo: each, topic: topic}
	}
	subs := make([]*subscriber, subscribers)
	sets := [][]packet.Filter{{filter("t/#", 2)}, {filter("t/0/+", 2), filter("t/+/1", 2)}, {filter("t/1/2", 1)}, {filter("#", 2), filter("t/0/0", 1), filter("+/1/#", 2)}}
	for i := range subs {
		subs[i] = &subscriber{name: fmt.Sprint("s", i), rnd: rand.New(rand.NewPCG(seed, uint64(100+i))), filters: sets[i], holds: map[uint16]bool{}, seen: map[string]int{}, last: map[string]int{}}
	}
	want := make([]int, subscribers)
	for i := range subs {
		for n := range each {
			for _, f := range subs[i].filters {
				if packet.Match(string(f.Text), topic(n)) {
					want[i] += publishers
					break
				}
			}
		}
	}
	cfg := broker.Config{WindowMessages: 16, Inflight: 8}
	// First all subscribe, so that nobody misses anything.
	h := disk(t, dir, cfg, nil)
	for _, s := range subs {
		c := h.connect(t, s.name, resume, expiry(1000))
		c.subscribe(t, s.filters...)
		c.Closed(true, nil, time.Now())
	}
	for round := range 3 {
		var publishing, all sync.WaitGroup
		stop, over := make(chan struct{}), make(chan struct{})
		for _, p := range pubs {
			p.upTo = each * (round + 1) / 3
			publishing.Go(func() { p.run(t, h, stop) })
		}
		for _, s := range subs {
			all.Go(func() { s.run(t, h, over) })
		}
		if round < 2 { // in the midst of it
			select {
			case <-time.After(150 * time.Millisecond):
			case <-t.Context().Done():
			}
			close(stop)
		}
		publishing.Wait()
		if round == 2 {
			for left := h.Stats().QueuedMessages.Load(); left > 0; { // however long that takes
				was := left
				eventually(t, "the queues get shorter", func() bool {
					left = h.Stats().QueuedMessages.Load()
					return left < was
				})
			}
		}
		close(over)
		all.Wait()
		if round == 2 {
			break
		}
		h.kill()
		h = disk(t, dir, cfg, nil)
	}
	for i, s := range subs {
		if s.total != want[i] {
			t.Errorf("%s got %d messages, want %d", s.name, s.total, want[i])
		}
	}
	if n := h.Stats().Lost.Load(); n != 0 {
		t.Errorf("%d were lost", n)
	}
}
