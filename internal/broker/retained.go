package broker

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"signalbox/internal/broker/durable"
	"signalbox/internal/history"
	"signalbox/internal/wire/packet"
)

// retained are the retained messages (3.3.1.3). A topic is found in the part that the first
// two levels of it lead to, so that a subscription to one device's topics looks at one part
// alone; other wildcards look through all, a portion at a time.
type retained struct {
	seed  maphash.Seed
	last  uint64 // the number of the one that was kept last; guarded by road
	parts [parts]part
}

const parts = 256

type part struct {
	mu    sync.RWMutex
	place map[string]int // in list
	// list has holes, whose places are in free: what is kept stays where it is, so that nobody who
	// looks through it in portions sees it twice, or not at all.
	list []numbered
	free []int
}

// numbered is a retained message, or a hole. They are numbered in the order in which they were
// kept: with its number at the time of subscribing a session knows which ones were there then.
type numbered struct {
	m *durable.Message
	n uint64
}

// trunk is the first two levels of a topic, or all of a shorter one.
func trunk(topic string) string {
	first := strings.IndexByte(topic, '/')
	if first < 0 {
		return topic
	}
	second := strings.IndexByte(topic[first+1:], '/')
	if second < 0 {
		return topic
	}
	return topic[:first+1+second]
}

func (r *retained) part(topic string) *part {
	return &r.parts[maphash.String(r.seed, trunk(topic))%parts]
}

// get gives the message of a topic, nil for none.
func (r *retained) get(topic string) *durable.Message { return r.find(topic).m }

func (r *retained) find(topic string) numbered {
	p := r.part(topic)
	p.mu.RLock()
	defer p.mu.RUnlock()
	if i, ok := p.place[topic]; ok {
		return p.list[i]
	}
	return numbered{}
}

// room reports whether an owner may have a message retained; bytes is its weight, 0 that of one
// which takes away what its topic has. What is there may be replaced by what is not more, whatever
// the bounds are.
func (r *retained) room(b *Broker, owner, topic string, bytes int64) bool {
	if bytes == 0 {
		return true
	}
	n, more := int64(1), bytes // what all have more by it
	own, ownMore := n, more
	if old := r.get(topic); old != nil {
		n, more = 0, bytes-weight(old)
		if ownerOf(old) == owner {
			own, ownMore = n, more
		}
	}
	fits := func(have, more, limit int64) bool { return more <= 0 || have+more <= limit }
	topics, size := int64(b.cfg.MaxRetained), b.cfg.RetainedBytes
	all, allBytes := b.stats.Retained.Load(), b.stats.RetainedBytes.Load()
	if !fits(all, n, topics) || !fits(allBytes, more, size) {
		return false
	}
	if owner == HubOwner {
		return true
	}
	_, _, hub, hubBytes := b.shares.look(HubOwner)
	_, _, has, hasBytes := b.shares.look(owner)
	return fits(all-hub, n, topics-topics/hubPart) && fits(allBytes-hubBytes, more, size-size/hubPart) &&
		fits(has, own, max(1, topics/ownerPart)) && fits(hasBytes, ownMore, size/ownerPart)
}

// count counts a retained message, or with n below 0 that it is none any more.
func (r *retained) count(b *Broker, m *durable.Message, n int64) {
	bytes := n * weight(m)
	b.stats.Retained.Add(n)
	b.stats.RetainedBytes.Add(bytes)
	b.shares.change(ownerOf(m), func(s *share) {
		s.retained += n
		s.retainedBytes += bytes
	})
}

// set keeps m, or with an empty payload forgets what its topic had [MQTT-3.3.1-6, 7]. It needs
// road.
func (r *retained) set(b *Broker, m *durable.Message) {
	p := r.part(m.Topic)
	r.last++
	p.mu.Lock()
	defer p.mu.Unlock()
	i, ok := p.place[m.Topic]
	if ok {
		defer r.count(b, p.list[i].m, -1) // after the new one, so that the owner's share stays
	}
	switch {
	case len(m.Payload) == 0:
		if ok {
			p.list[i] = numbered{}
			p.free = append(p.free, i)
			delete(p.place, m.Topic)
		}
		if len(p.place) == 0 {
			p.place, p.list, p.free = nil, nil, nil
		}
		return
	case ok:
		delete(p.place, m.Topic) // the key is part of the old message
	case len(p.free) > 0:
		i = p.free[len(p.free)-1]
		p.free = p.free[:len(p.free)-1]
	default:
		if p.place == nil {
			p.place = make(map[string]int)
		}
		i = len(p.list)
		p.list = append(p.list, numbered{})
	}
	p.list[i] = numbered{m, r.last}
	p.place[m.Topic] = i
	r.count(b, m, 1)
}

// giving sends a session the retained messages of a new subscription, in portions: those that
// were there when it was made. Of what comes, changes a topic or takes its message away later
// the session hears as of any new message.
type giving struct {
	mark    uint64 // the last one kept when the subscription was made
	filter  string
	noLocal bool
	qos     uint8
	id      uint32
	exact   bool // the filter has no wildcard
	one     bool // one part has all that match
	part    int
	at      int                // parts[part].list[at:] are still to be looked at
	list    []*durable.Message // found and not sent yet
	over    bool               // nothing more to be found
	// given are the topics that the hub before this one gave with quality of service 2, by
	// durable.TopicHash; nil for none.
	given map[uint64]bool
}

// giving needs road.
func (r *retained) giving(s *subscription) *giving {
	t := trunk(s.filter)
	g := &giving{
		mark: r.last, filter: s.filter, noLocal: s.noLocal, qos: s.qos, id: s.id,
		exact: !strings.ContainsAny(s.filter, "+#"), one: !strings.ContainsAny(t, "+#"),
	}
	if g.one {
		g.part = int(maphash.String(r.seed, t) % parts) //nolint:gosec // less than parts
	}
	return g
}

const (
	portionLooks = 512
	portionGives = 64
)

// portion finds some of the messages.
func (g *giving) portion(r *retained, key string, now time.Time) {
	if g.exact {
		if e := r.find(g.filter); g.wants(e, key, now) {
			g.list = append(g.list, e.m)
		}
		g.over = true
		return
	}
	for looks := 0; looks < portionLooks && len(g.list) < portionGives; looks++ {
		p := &r.parts[g.part]
		p.mu.RLock()
		for ; g.at < len(p.list) && looks < portionLooks && len(g.list) < portionGives; looks++ {
			if e := p.list[g.at]; g.wants(e, key, now) && packet.Match(g.filter, e.m.Topic) {
				g.list = append(g.list, e.m)
			}
			g.at++
		}
		rest := len(p.list) - g.at
		p.mu.RUnlock()
		if rest > 0 {
			return
		}
		g.at = 0
		if g.part++; g.one || g.part == parts {
			g.over = true
			return
		}
	}
}

func (g *giving) wants(e numbered, key string, now time.Time) bool {
	m := e.m
	return m != nil && e.n <= g.mark && (m.ExpiresAt.IsZero() || m.ExpiresAt.After(now)) && (!g.noLocal || m.From != key)
}

// give sends one portion of what a session is to get, and reports whether to go on at once or
// later. The session's sender calls it, without locks.
func (b *Broker) give(c *client) (again, later bool) {
	c.mu.Lock()
	s, o := c.conn, c.out
	if s == nil || o == nil || len(o.jobs) == 0 {
		c.mu.Unlock()
		return false, false
	}
	if o.waiting() >= portionGives || o.direct.waiting() > b.directLimit()/4 {
		c.mu.Unlock()
		return false, true
	}
	g := o.jobs[0]
	c.mu.Unlock()
	if !c.has(&b.index, g.filter) { // it ended meanwhile
		g.list, g.over = nil, true
	} else if len(g.list) == 0 {
		g.portion(&b.retained, c.key, time.Now())
	}
	for len(g.list) > 0 && b.giveOne(c, s, g, g.list[0]) {
		g.list[0] = nil
		g.list = g.list[1:]
	}
	if len(g.list) > 0 {
		return false, true
	}
	g.list = nil
	if g.over && !b.given(c, o, g) {
		return false, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(o.jobs) > 0, false
}

// given ends a giving, on disk as well; false when it has to be tried again later.
func (b *Broker) given(c *client, o *outbound, g *giving) bool {
	b.road.Lock()
	defer b.road.Unlock()
	sub := b.stored(c, g.filter)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || len(o.jobs) == 0 || o.jobs[0] != g {
		return true
	}
	rest := o.jobs[1:]
	if b.keeper != nil && c.onDisk.Load() {
		if len(sub) > 0 && !slices.ContainsFunc(rest, func(other *giving) bool { return other.filter == g.filter }) {
			if _, err := b.record(b.keeper.Subscribe(c.kept.id, sub), history.Soon); isFull(err) {
				return false
			}
		}
		if len(rest) == 0 && o.givenTwo {
			if _, err := b.record(b.keeper.Given(c.kept.id), history.Soon); isFull(err) {
				return false
			}
			o.givenTwo = false
		}
	}
	o.jobs = append(o.jobs[:0:0], rest...)
	return true
}

// stored gives a session's subscription, if it has that, as one that is owed nothing.
func (b *Broker) stored(c *client, filter string) []durable.Subscription {
	l := &b.index.locks[c.serial%stripes]
	l.RLock()
	defer l.RUnlock()
	s := c.find(filter)
	if s == nil {
		return nil
	}
	return []durable.Subscription{{Filter: s.filter, QoS: s.qos, NoLocal: s.noLocal, RetainAsPublished: s.asIs, Handling: uint8(s.handling), ID: s.id}}
}

// giveOne sends one retained message, if it still is that; false when it has to be tried again
// later. With road nothing can take its place before it is in the queue, so that it cannot come
// behind what does.
func (b *Broker) giveOne(c *client, s *Session, g *giving, m *durable.Message) bool {
	qos := min(m.QoS, g.qos)
	h := hit{c: c, qos: qos, id: g.id}
	b.road.Lock()
	defer b.road.Unlock()
	if b.retained.get(m.Topic) != m {
		return true
	}
	switch {
	case qos == 0:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.conn != s {
			return false // the next one gets it
		}
		f := frame{retain: true} // [MQTT-3.3.1-8]
		f.message(m, time.Now())
		f.ids(g.id, nil)
		size := f.size(s.version)
		if waiting := c.outbound().direct.waiting(); waiting > 0 && waiting+size > b.directLimit()/2 {
			return false
		}
		c.hand(s, f.append(nil, s.version))
		return true
	case b.keeper == nil || !c.onDisk.Load():
		c.enqueue(&h, m, qos, true)
		return true
	}
	c.mu.Lock()
	o := c.outbound()
	if c.conn != s {
		c.mu.Unlock()
		return false // the next one gets it
	}
	if qos == 2 && g.given[durable.TopicHash(m.Topic)] || !c.fits(weight(m)) {
		c.mu.Unlock()
		return true
	}
	o.givenTwo = o.givenTwo || qos == 2
	t := durable.Target{Session: c.kept.id, N: o.next, QoS: qos, Retain: true, Given: true, IDs: h.ids()}
	c.mu.Unlock()
	urgency := history.Soon
	if qos == 2 { // its PUBLISH waits for the commit
		urgency = history.Acked
	}
	p, err := b.record(b.keeper.Publish(m, []durable.Target{t}, false, 0, 0), urgency)
	if err != nil {
		return !isFull(err)
	}
	c.enqueueRecorded(&t, &h, m, p)
	return true
}

// sweepRetained forgets messages that have expired (3.3.2.3.3).
func (b *Broker) sweepRetained(now time.Time) {
	var old []*durable.Message
	for i := range b.retained.parts {
		p := &b.retained.parts[i]
		old = old[:0]
		p.mu.RLock()
		for _, e := range p.list {
			if m := e.m; m != nil && !m.ExpiresAt.IsZero() && !m.ExpiresAt.After(now) {
				old = append(old, m)
			}
		}
		p.mu.RUnlock()
		for _, m := range old {
			if !b.unretain(m) {
				return // with the next sweep
			}
		}
	}
}

// unretain forgets m unless its topic has another message by now; false when the log is full.
func (b *Broker) unretain(m *durable.Message) bool {
	b.road.Lock()
	defer b.road.Unlock()
	if b.retained.get(m.Topic) != m {
		return true
	}
	if !b.clear(m) {
		return false
	}
	b.stats.RetainedExpired.Add(1)
	return true
}
