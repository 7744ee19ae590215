package command

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// shardCount divides devices, and command IDs, among locks.
const shardCount = 64

// A shard holds the lanes of some devices. Its lock is held for memory work and for
// log.Append only. The locks of index, clock, outbox, kicks and, inside the outbox's, of
// image are taken inside it, never around it.
type shard struct {
	mu    sync.Mutex
	lanes map[signalbox.DeviceID]*lane
	// keys finds commands in memory by idempotency key; reserved holds the keys being
	// looked up or submitted, each with a channel that is closed when that is done.
	keys     map[keyRef]*entry
	reserved map[keyRef]chan struct{}
	online   uint64 // calls of Online, so that none is missed
}

type keyRef struct {
	device signalbox.DeviceID
	key    string
}

func (sh *shard) init() {
	sh.lanes = make(map[signalbox.DeviceID]*lane)
	sh.keys = make(map[keyRef]*entry)
	sh.reserved = make(map[keyRef]chan struct{})
}

func (r *Road) shard(id signalbox.DeviceID) *shard { return &r.shards[id%shardCount] }

// A lane is what goes on with one device. A device without commands has none.
type lane struct {
	waiting []*entry // queued, in order of submission
	open    []*entry // version 2: sent or delivered, in order of submission
	watch   []*entry // await confirmation, oldest first; of each name at most one
	held    []*entry // marked as sent on the session busy, which had no room, in order
	busy    uint64   // fencing number of the session that had no room; 0 while nothing is held
	kicked  bool     // in the queue of kicks
}

func (sh *shard) lane(id signalbox.DeviceID) *lane {
	l := sh.lanes[id]
	if l == nil {
		l = &lane{}
		sh.lanes[id] = l
	}
	return l
}

// tidy forgets the lane if it is empty.
func (sh *shard) tidy(id signalbox.DeviceID) {
	if l := sh.lanes[id]; l != nil && len(l.waiting)+len(l.open)+len(l.watch)+len(l.held) == 0 && !l.kicked {
		delete(sh.lanes, id)
	}
}

// An entry is a command in memory. All but the fields of the clock belong to the lock of
// its device's shard; what a command is (ID, To, Name, Value) never changes and may be read
// without.
type entry struct {
	c signalbox.Command // as of the latest change

	pos     signalbox.Position // of the latest change
	sentPos signalbox.Position // of the change to sent; 0 when that was in an earlier life
	done    chan struct{}      // closed when the command settles; nil until someone waits

	session uint64 // fencing number of the session it is meant for
	handed  bool   // Deliver was called for that session
	written bool   // Deliver may have put it on some wire, now or in an earlier life
	missed  bool   // it was not, for want of a listener: that session may have it all the same
	held    bool   // in lane.held
	once    bool   // it went out without an ID to be recognised by: not written twice
	lapsed  bool   // ExpiresAt passed while the device had it: not written again
	watched bool   // in lane.watch
	stored  bool   // the row says active
	queued  bool   // in the queue of rows to write; the image's
	unsaved bool   // the latest change is not in the log yet
	counted bool   // in Road.active
	gone    bool   // no longer in memory

	withdrawn bool   // canceled because the request that made it did not wait for the commit
	key       string // of a withdrawn one: its idempotency key, until the log knows

	idle time.Time // since when nothing can happen to it any more; zero while something can

	owed int // writes of the row that are under way or queued; the image's

	due  int64 // Unix µs; the clock's
	slot int   // place in the clock's heap plus one; the clock's
}

// index finds entries by command ID.
type index struct {
	seed   maphash.Seed
	shards [shardCount]struct {
		mu   sync.RWMutex
		byID map[string]*entry
	}
}

func (x *index) init() {
	x.seed = maphash.MakeSeed()
	for i := range x.shards {
		x.shards[i].byID = make(map[string]*entry)
	}
}

func (x *index) get(id string) *entry {
	sh := &x.shards[maphash.String(x.seed, id)%shardCount]
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.byID[id]
}

func (x *index) set(id string, e *entry) {
	sh := &x.shards[maphash.String(x.seed, id)%shardCount]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e == nil {
		delete(sh.byID, id)
		return
	}
	sh.byID[id] = e
}

// admit makes e known. The caller holds sh.
func (r *Road) admit(sh *shard, e *entry) {
	r.index.set(e.c.ID, e)
	if e.c.IdempotencyKey != "" {
		sh.keys[keyRef{e.c.To, e.c.IdempotencyKey}] = e
	}
	r.held.Add(1)
	r.count(e)
}

// evict forgets e; its row in the store, which is up to date, tells the rest. The caller
// holds sh.
func (r *Road) evict(sh *shard, e *entry) {
	e.gone = true
	r.index.set(e.c.ID, nil)
	ref := keyRef{e.c.To, e.c.IdempotencyKey}
	if sh.keys[ref] == e {
		delete(sh.keys, ref)
	}
	r.held.Add(-1)
	sh.tidy(e.c.To)
}

// count keeps the gauge of unsettled commands.
func (r *Road) count(e *entry) {
	if unsettled := !e.gone && !e.c.Settled(); unsettled != e.counted {
		e.counted = unsettled
		if unsettled {
			r.active.Add(1)
		} else {
			r.active.Add(-1)
		}
	}
}

// keepsActive reports whether the row must say active: something can still happen to the
// command that has to survive a restart.
func keepsActive(c *signalbox.Command, watched bool) bool {
	if c.State == signalbox.CommandSent && !c.Protocol.Answers() {
		return watched
	}
	return !c.State.Ended()
}

// A record is the body of a log entry: the command after a change.
type record struct {
	signalbox.Command
	// Replaces are the IDs of queued commands that this one, which is new, canceled. Their
	// own entries follow, but may not make it into the same commit.
	Replaces []string `json:"replaces,omitempty"`
}

// write appends one log entry: c is the command e after the change. It cancels the queued
// commands replaced; rows of others that follow from it are in also. The caller holds the
// shard.
func (r *Road) write(u history.Urgency, e *entry, c *signalbox.Command, replaced, also []*entry) (signalbox.Position, error) {
	rec := record{Command: *c}
	for _, old := range replaced {
		rec.Replaces = append(rec.Replaces, old.c.ID)
	}
	body, err := json.Marshal(&rec)
	if err != nil {
		return 0, fmt.Errorf("encode command: %w", err)
	}
	entry := signalbox.Entry{Device: c.To, Kind: signalbox.EntryCommand, Body: body}
	if err := r.image.append(r.log, &entry, u, e, slices.Concat(replaced, also)); err != nil {
		return 0, err
	}
	return entry.Position, nil
}

// save records e as it is now. When the log refuses, the change stays in memory and is
// tried again until it is taken; until then nobody is told that the command has settled.
// The caller holds the shard.
func (r *Road) save(e *entry, u history.Urgency) {
	if e.done != nil && e.c.Settled() {
		u = history.Now
	}
	pos, err := r.write(u, e, &e.c, nil, nil)
	if err != nil {
		if !e.unsaved {
			r.logger.Warn("a change of a command waits for the log", "command_id", e.c.ID, "state", string(e.c.State), "err", err)
		}
		e.unsaved = true
	} else {
		r.saved(e, pos)
	}
	r.arm(e)
}

// saved notes that e's present state has its place in the log. The caller holds the shard.
func (r *Road) saved(e *entry, pos signalbox.Position) {
	e.pos, e.unsaved = pos, false
	if e.key != "" {
		delete(r.shard(e.c.To).keys, keyRef{e.c.To, e.key})
		e.key = ""
	}
	if e.c.Settled() && e.done != nil {
		close(e.done)
		e.done = nil
	}
	r.count(e)
}

// end takes e to one of the final states. The caller holds the shard.
func (r *Road) end(l *lane, e *entry, state signalbox.CommandState, u history.Urgency) {
	e.c.State = state
	e.c.EndedAt = notBefore(notBefore(notBefore(now(), e.c.CreatedAt), e.c.SentAt), e.c.DeliveredAt)
	if e.c.DeliveredAt.IsZero() && (state == signalbox.CommandSucceeded || state == signalbox.CommandFailed) {
		e.c.DeliveredAt = e.c.EndedAt // who has a result has had the command
	}
	l.waiting = without(l.waiting, e)
	l.open = without(l.open, e)
	l.release(e)
	if state == signalbox.CommandFailed || state == signalbox.CommandCanceled || e.c.SentAt.IsZero() {
		r.unwatch(l, e)
	}
	r.stats.state(state)
	r.save(e, u)
}

// unsend makes a command that was marked but never written look like what it is.
func (e *entry) unsend() {
	e.c.SentAt, e.c.Protocol, e.c.Already = time.Time{}, signalbox.ProtocolNone, false
}

func without(list []*entry, e *entry) []*entry {
	if i := slices.Index(list, e); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}
