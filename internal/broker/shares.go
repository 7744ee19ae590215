package broker

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What all owners share is bounded, and of each bound one owner may use a part, so that none
// can use up what the others need: see Config.
const (
	// ownerPart: one by ownerPart of what all may use is the most that one owner may.
	ownerPart = 4
	// hubPart: one by hubPart of what may be retained is for the hub's own messages.
	hubPart = 8
	// alwaysQueued is what may wait for each session however much waits for others, in bytes.
	alwaysQueued = 64 << 10
	// crowdedFor is for how long it is told that a bound was reached, and how often it is logged.
	crowdedFor = time.Minute
)

// HubOwner is the owner of what the hub itself publishes (Message.From); no client may have it.
const HubOwner = "hub"

// The kinds of queues: on disk, or in memory alone.
const (
	queueDisk = iota
	queueMemory
	queueKinds
)

// share is what one owner uses. It is there while it is not zero, or a session points to it.
type share struct {
	owner string
	users int // sessions that point to it
	// queued are the bytes that wait for its sessions, by kind of queue.
	queued [queueKinds]atomic.Int64
	// What only owners with several sessions are counted for: sessions that outlive their
	// connection, bytes of filters.
	sessions, filters int64
	// Its retained messages.
	retained, retainedBytes int64
}

// shares are the shares of all owners that have one.
type shares struct {
	mu      sync.Mutex
	byOwner map[string]*share
	queued  [queueKinds]atomic.Int64 // of all

	crowded atomic.Pointer[Crowd] // the last time that a bound was reached
	told    time.Time             // the timer's: when it was logged
}

// change changes an owner's share.
func (s *shares) change(owner string, f func(*share)) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.byOwner[owner]
	if o == nil {
		owner = strings.Clone(owner) // it may be part of something larger
		o = &share{owner: owner}
		if s.byOwner == nil {
			s.byOwner = make(map[string]*share)
		}
		s.byOwner[owner] = o
	}
	f(o)
	if o.users == 0 && o.sessions == 0 && o.filters == 0 && o.retained == 0 {
		delete(s.byOwner, owner)
		if len(s.byOwner) == 0 {
			s.byOwner = nil // a map does not shrink
		}
	}
	return o
}

// look gives an owner's share, but for what waits.
func (s *shares) look(owner string) (sessions, filters, retained, retainedBytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.byOwner[owner]; o != nil {
		return o.sessions, o.filters, o.retained, o.retainedBytes
	}
	return 0, 0, 0, 0
}

// most is the owner with the most of a kind of queue.
func (s *shares) most(kind int) (owner string, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for o := range maps.Values(s.byOwner) {
		if n := o.queued[kind].Load(); n > bytes {
			owner, bytes = o.owner, n
		}
	}
	return owner, bytes
}

// Crowd says that what waits for subscribers has reached a bound.
type Crowd struct {
	// Owner is the one for whom nothing more is queued or, with All, the one with the most of
	// what waits for all.
	Owner string
	All   bool
	// Disk says that it is about queues on disk, else it is about those in memory.
	Disk bool
	// Queued and Limit are in bytes, of the owner or of all.
	Queued, Limit int64
	At            time.Time
}

// Crowded tells whether messages were dropped within the last minute because all sessions
// together, or those of one owner, have as much waiting as they may.
func (b *Broker) Crowded() (Crowd, bool) {
	c := b.shares.crowded.Load()
	if c == nil || time.Since(c.At) > crowdedFor {
		return Crowd{}, false
	}
	if c.All {
		kind := queueMemory
		if c.Disk {
			kind = queueDisk
		}
		full := *c
		full.Owner, _ = b.shares.most(kind)
		return full, true
	}
	return *c, true
}

// limit is what may wait in queues of a kind, in bytes.
func (b *Broker) limit(kind int) int64 {
	if kind == queueDisk {
		return b.cfg.TotalBytes
	}
	return b.cfg.MemoryBytes
}

func (c *client) queueKind() int {
	if c.onDisk.Load() {
		return queueDisk
	}
	return queueMemory
}

// share gives the share of the session's owner. It needs the client's lock.
func (c *client) share(o *outbound) *share {
	if o.share == nil {
		o.share = c.b.shares.change(c.owner(), func(s *share) { s.users++ })
	}
	return o.share
}

// unshare says that the queue is no more. It needs the client's lock, and nothing may wait.
func (c *client) unshare(o *outbound) {
	if o.share != nil {
		o.share = nil
		c.b.shares.change(c.owner(), func(s *share) { s.users-- })
	}
}

// fitsShares reports whether bytes more may wait as far as others are concerned. It needs the
// client's lock.
func (c *client) fitsShares(bytes int64) bool {
	b := c.b
	var messages, waiting int64
	if o := c.out; o != nil {
		messages, waiting = o.messages, o.bytes
	}
	if waiting+bytes <= alwaysQueued || messages == 0 && c.conn != nil {
		return true
	}
	kind := c.queueKind()
	limit, all := b.limit(kind), b.shares.queued[kind].Load()
	if all+bytes > limit {
		b.crowd(Crowd{All: true, Disk: kind == queueDisk, Queued: all, Limit: limit})
		return false
	}
	if own := c.share(c.outbound()).queued[kind].Load(); own+bytes > limit/ownerPart {
		b.crowd(Crowd{Owner: c.owner(), Disk: kind == queueDisk, Queued: own, Limit: limit / ownerPart})
		return false
	}
	return true
}

// crowded reports whether hardly anything more may wait for the session, because of others. It
// needs the client's lock.
func (c *client) crowded(o *outbound) bool {
	if o.bytes < alwaysQueued {
		return false
	}
	kind := c.queueKind()
	limit := c.b.limit(kind)
	return c.b.shares.queued[kind].Load() >= limit || c.share(o).queued[kind].Load() >= limit/ownerPart
}

// crowd notes that a bound was reached.
func (b *Broker) crowd(c Crowd) {
	c.At = time.Now()
	old := b.shares.crowded.Load()
	if old != nil && c.At.Sub(old.At) < time.Second {
		return // it is known
	}
	if b.shares.crowded.CompareAndSwap(old, &c) && (old == nil || c.At.Sub(old.At) > crowdedFor) {
		nudge(b.timer.wake)
	}
}

// tellCrowd logs that a bound was reached, at most once a minute. The timer calls it.
func (b *Broker) tellCrowd(now time.Time) {
	c, ok := b.Crowded()
	if !ok || now.Sub(b.shares.told) < crowdedFor {
		return
	}
	b.shares.told = now
	owner := c.Owner
	if b.cfg.Name != nil {
		owner = b.cfg.Name(owner)
	}
	setting := "mqtt.limits.queues_bytes"
	if !c.Disk {
		setting = ""
	}
	attrs := []any{"owner", owner, "queued_bytes", c.Queued, "limit_bytes", c.Limit, "on_disk", c.Disk, "setting", setting}
	if c.All {
		b.cfg.Logger.Warn("as many messages wait for all sessions as may; further ones are dropped where 64 KiB wait: see to the owner with the most, or let more wait", attrs...)
		return
	}
	b.cfg.Logger.Warn("as many messages wait for one owner's sessions as may; further ones are dropped for them: have its clients come and take them, or remove what it does not need", attrs...)
}

// keeps counts a session that outlives its connection, or not any more.
func (b *Broker) keeps(c *client, n int64) {
	b.stats.Durable.Add(n)
	if !c.single {
		b.shares.change(c.owner(), func(s *share) { s.sessions += n })
	}
}

// filtered counts the bytes of filters that the session has subscribed to.
func (b *Broker) filtered(c *client, bytes int) {
	if !c.single && bytes != 0 {
		b.shares.change(c.owner(), func(s *share) { s.filters += int64(bytes) })
	}
}

// mayKeep reports whether an owner may have one session more that outlives its connection.
func (b *Broker) mayKeep(owner string, single bool) bool {
	if b.stats.Durable.Load() >= int64(b.cfg.MaxSessions) {
		return false
	}
	if single {
		return true
	}
	sessions, _, _, _ := b.shares.look(owner)
	return sessions < int64(b.cfg.OwnerSessions)
}
