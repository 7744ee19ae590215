package broker

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"signalbox/internal/broker/durable"
	"signalbox/internal/history"
	"signalbox/internal/wire/packet"
)

// Broker is the core. Make it with New, then run Run; publishing and connecting may begin
// before that, but nothing leaves.
//
// Locks, in the order in which they are taken: road, mu, index.locks, client.mu, and then
// those that are held for a moment and take no other: acks.mu, sender.mu, flusher.mu,
// timer.mu, a part of retained (which takes shares.mu), shares.mu, the Keeper's, a Peer's. The Taker is asked with road or
// nothing held.
type Broker struct {
	cfg    Config
	keeper *durable.Keeper // nil: none
	taker  Taker
	stats  Stats

	// road orders what is recorded: memory changes in the order of the log.
	road sync.Mutex

	mu      sync.Mutex
	clients map[uint64]*client // by hash of key, a chain each
	owners  map[string]*client // of owners that are not Single, a chain each
	seed    maphash.Seed
	serials atomic.Uint32

	index    index
	retained retained
	shares   shares
	acks     acks
	flush    flusher
	timer    timer
	senders  []*sender
	routings sync.Pool // of *routing
	wills    []pendingWill
}

// New makes a broker of what the Keeper found.
func New(cfg Config, p Parts) (*Broker, error) {
	cfg.fill()
	b := &Broker{
		cfg: cfg, keeper: p.Keeper, taker: p.Taker,
		clients: make(map[uint64]*client), owners: make(map[string]*client), seed: maphash.MakeSeed(),
	}
	if p.Keeper != nil && (p.Image == nil || p.Log == nil) {
		return nil, errors.New("a broker with a keeper needs its image and the log")
	}
	b.stats.Received.of = &b.index
	b.retained.seed = maphash.MakeSeed()
	b.acks.init()
	b.flush.wake, b.flush.loader = make(chan struct{}, 1), make(chan struct{}, 1)
	b.timer.wake = make(chan struct{}, 1)
	for range cfg.Senders {
		b.senders = append(b.senders, &sender{b: b, wake: make(chan struct{}, 1), soon: make(chan struct{}, 1)})
	}
	if p.Log == nil {
		b.acks.done = everything
	} else {
		b.acks.done = p.Log.Committed()
		p.Log.OnCommit(b.acks.committed)
	}
	if p.Keeper != nil {
		b.restore(p.Image)
	}
	return b, nil
}

// Stats gives the live counters.
func (b *Broker) Stats() *Stats { return &b.stats }

// Run writes to connections, acknowledges, and ends what is over, until ctx ends. It runs
// once. Connections stay open: ending them is the gateway's.
func (b *Broker) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, w := range b.wills { // of connections that ended with the hub before this one
		b.leaveWith(w)
	}
	b.wills = nil
	for _, s := range b.senders {
		all.Go(func() { s.run(ctx) })
	}
	all.Go(func() { b.runAcks(ctx) })
	all.Go(func() { b.runTimer(ctx) })
	if b.keeper != nil {
		all.Go(func() { b.runFlush(ctx) })
		all.Go(func() { b.runLoads(ctx) })
	}
	all.Wait()
	return nil
}

// restore makes sessions and retained messages of what was found at the start. Connections
// that were there at the end of the hub before this one end now, as far as expiry and wills go:
// nothing tells when that was, and the clients could not come while there was no hub.
func (b *Broker) restore(image *durable.Image) {
	b.road.Lock()
	defer b.road.Unlock()
	now := time.Now()
	for _, m := range image.Retained {
		b.retained.set(b, m)
	}
	for i := range image.Sessions {
		b.restoreSession(&image.Sessions[i], now)
	}
}

func (b *Broker) restoreSession(s *durable.Session, now time.Time) {
	if s.Volatile || s.Expiry == 0 {
		b.wills = append(b.wills, pendingWill{s.Will, s.Owner, s.ID})
		return
	}
	key := s.Owner
	if s.ClientID != "" {
		key += "\x00" + s.ClientID
	}
	c := &client{b: b, key: key, ownerLen: uint16(len(s.Owner)), single: s.ClientID == "", serial: b.serials.Add(1)} //nolint:gosec // owners are short
	c.kept = &kept{id: s.ID, expiry: s.Expiry, place: -1}
	c.onDisk.Store(true)
	hash := maphash.String(b.seed, key)
	c.next = b.clients[hash]
	b.clients[hash] = c
	if !c.single {
		c.fellow = b.owners[c.owner()]
		b.owners[c.owner()] = c
	}
	b.keeps(c, 1)
	b.stats.Offline.Add(1)
	var jobs []*giving
	b.index.lock()
	for i := range s.Subscriptions {
		sub := &s.Subscriptions[i]
		made, _ := c.subscribe(&wanted{sub.Filter, options{qos: sub.QoS, handling: packet.RetainHandling(sub.Handling), noLocal: sub.NoLocal, asIs: sub.RetainAsPublished}}, sub.ID)
		if sub.Giving {
			jobs = append(jobs, b.retained.giving(made))
		}
	}
	b.index.unlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	if len(jobs) > 0 {
		o := c.outbound()
		o.jobs, o.givenTwo = jobs, len(s.Given) > 0
		given := make(map[uint64]bool, len(s.Given))
		for _, topic := range s.Given {
			given[topic] = true
		}
		for _, g := range jobs {
			g.given = given
		}
	}
	if len(s.Received) > 0 {
		for _, id := range s.Received {
			c.inbound().exact.add(id)
		}
	}
	if s.Next > 1 || s.Acked > 0 {
		o := c.outbound()
		o.head = max(1, s.Acked)
		o.next = max(o.head, s.Next)
		o.cursor = o.head
		o.resend = min(o.next, max(o.head, s.Sent)) // [MQTT-3.3.1-1]
		for _, n := range s.Done {
			o.remember(n, stateDone)
		}
		for _, n := range s.Released {
			o.remember(n, stateReleased)
		}
		o.messages, o.bytes = s.Messages, s.Bytes
		b.stats.QueuedMessages.Add(o.messages)
		c.queued(o, o.bytes)
	}
	if s.ClosedAt.IsZero() {
		b.rest(c, s.Will, now)
		return
	}
	k := c.kept
	k.endAt = s.ClosedAt.Add(k.expiry)
	if s.Will != nil {
		k.will, k.wait, k.willAt = s.Will, true, s.ClosedAt.Add(s.Will.Delay)
	}
	b.timer.set(c)
}

// Forget ends all sessions of an owner who is no more: connections are closed (0x87), wills
// are not published, queues are dropped. Like Publish, do not call it with a lock held that the
// Taker needs.
func (b *Broker) Forget(owner string) {
	b.road.Lock()
	defer b.road.Unlock()
	for _, c := range b.sessionsOf(owner) {
		c.mu.Lock()
		conn := c.conn
		c.mu.Unlock()
		b.owe(func() bool {
			_, done := b.recordEnd(c, history.Soon)
			return done
		})
		b.remove(c)
		if conn != nil {
			b.stats.Connected.Add(-1)
			conn.peer.End(packet.NotAuthorized, "The credentials of this connection are not valid any more.")
		}
	}
}

// Revoke asks grant about all subscriptions of an owner whose rights have changed, and ends
// those that are not allowed any more; what waits because of them alone is dropped. Like Publish, do not call it with a lock held that the
// Taker needs; grant must not call the broker.
func (b *Broker) Revoke(owner string, grant Grant) {
	b.road.Lock()
	defer b.road.Unlock()
	for _, c := range b.sessionsOf(owner) {
		b.owe(func() bool { return c.revoke(grant) })
	}
}

// sessionsOf gives all sessions of an owner.
func (b *Broker) sessionsOf(owner string) (list []*client) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := b.clients[maphash.String(b.seed, owner)]; c != nil; c = c.next {
		if c.key == owner {
			list = append(list, c)
		}
	}
	for c := b.owners[owner]; c != nil; c = c.fellow {
		list = append(list, c)
	}
	return list
}
