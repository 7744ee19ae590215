package session

import (
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
)

// Conn is what a transport lends the hub of one device's connection. Its methods never
// block.
type Conn interface {
	// Deliver encodes c in the device's protocol and hands it to the connection. An error
	// means that nothing of it was handed over.
	Deliver(c *signalbox.Command) error
	// End closes the connection; reason is one of those of signalbox.PresenceChange.
	End(reason string)
}

// Session is one authenticated connection of a device. It does not change once attached.
type Session struct {
	// ID is the fencing number: of two sessions of a device the larger is the newer.
	ID       uint64
	Device   signalbox.DeviceID
	Protocol signalbox.Protocol
	Conn     Conn
}

const shards = 64

// Table holds the live sessions.
type Table struct {
	next   atomic.Uint64
	count  atomic.Int64
	shards [shards]shard
}

type shard struct {
	mu   sync.RWMutex
	live map[signalbox.DeviceID]*Session
}

// New makes an empty table. Fencing numbers begin at the present Unix microsecond, so
// that they grow across restarts as long as fewer than a million devices a second log in.
func New() *Table {
	t := &Table{}
	t.next.Store(uint64(time.Now().UnixMicro()))
	for i := range t.shards {
		t.shards[i].live = make(map[signalbox.DeviceID]*Session)
	}
	return t
}

// NextID gives a new fencing number.
func (t *Table) NextID() uint64 { return t.next.Add(1) }

func (t *Table) shard(d signalbox.DeviceID) *shard { return &t.shards[d%shards] }

// Attach makes s the device's session and returns the one it replaces, nil without one.
// A session that is older than the present one is not taken: then ok is false.
func (t *Table) Attach(s *Session) (replaced *Session, ok bool) {
	sh := t.shard(s.Device)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	old := sh.live[s.Device]
	if old != nil && old.ID > s.ID {
		return nil, false
	}
	sh.live[s.Device] = s
	if old == nil {
		t.count.Add(1)
	}
	return old, true
}

// Detach removes s and reports whether it still was the device's session.
func (t *Table) Detach(s *Session) bool {
	sh := t.shard(s.Device)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.live[s.Device] != s {
		return false
	}
	delete(sh.live, s.Device)
	t.count.Add(-1)
	return true
}

// Get finds the device's session, nil when it is offline.
func (t *Table) Get(d signalbox.DeviceID) *Session {
	sh := t.shard(d)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.live[d]
}

// Len is the number of live sessions.
func (t *Table) Len() int { return int(t.count.Load()) }

// All gives the sessions that are live at about now, in no order.
func (t *Table) All() []*Session {
	all := make([]*Session, 0, t.Len())
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.RLock()
		for _, s := range sh.live {
			all = append(all, s)
		}
		sh.mu.RUnlock()
	}
	return all
}
