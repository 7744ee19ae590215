package broker

import (
	"strings"
	"sync"
	"sync/atomic"

	"signalbox/internal/wire/packet"
)

// index finds the subscriptions that a topic matches. It is a tree with a node for each
// level of a topic filter (4.7). Publishers read it under one of several locks, so that they
// do not meet each other; whoever changes it takes them all.
type index struct {
	locks [stripes]stripe
	root  node
}

const stripes = 8 // a power of 2

// stripe is a cache line of its own, and counts what its publishers sent.
type stripe struct {
	sync.RWMutex
	received atomic.Int64
	_        [32]byte
}

// node is a level. Memory counts here: there are two or so for each subscription.
type node struct {
	level  string // a part of the filter that made it
	parent *node
	kids   *kids         // nil: none
	subs   *subscription // a list
	shared *groups       // nil: none
}

// kids are what follows a node: a list as long as they are few.
type kids struct {
	few        []*node
	many       map[string]*node
	plus, hash *node // + and #
}

const fewKids = 8

type groups struct{ list []*group }

// group is a shared subscription: one of its members gets each message (5.0, 4.8.2).
type group struct {
	name    string
	members []*subscription
	turn    atomic.Uint32
}

// subscription is one of a session's. All fields are guarded by the index's locks.
type subscription struct {
	c          *client
	filter     string
	node       *node
	group      *group        // nil: not shared
	next, prev *subscription // in the node's list
	sibling    *subscription // in the session's list
	id         uint32        // subscription identifier, 0 for none
	options
}

// options are those of 5.0 (3.8.3.1).
type options struct {
	qos      uint8
	handling packet.RetainHandling
	noLocal  bool
	asIs     bool // retain as published
}

func (x *index) lock() {
	for i := range x.locks {
		x.locks[i].Lock()
	}
}

func (x *index) unlock() {
	for i := range x.locks {
		x.locks[i].Unlock()
	}
}

// at gives the node of a filter and makes it if make is set. It needs the locks.
func (x *index) at(filter string, create bool) *node {
	n := &x.root
	for level := range strings.SplitSeq(filter, "/") {
		next := n.find(level)
		if next == nil {
			if !create {
				return nil
			}
			next = n.add(level)
		}
		n = next
	}
	return n
}

func (n *node) find(level string) *node {
	switch {
	case n.kids == nil:
		return nil
	case level == "+":
		return n.kids.plus
	case level == "#":
		return n.kids.hash
	default:
		return n.kids.find(level)
	}
}

func (k *kids) find(level string) *node {
	if k.many != nil {
		return k.many[level]
	}
	for _, n := range k.few {
		if n.level == level {
			return n
		}
	}
	return nil
}

func (n *node) add(level string) *node {
	if n.kids == nil {
		n.kids = new(kids)
	}
	k, next := n.kids, &node{level: level, parent: n}
	switch {
	case level == "+":
		k.plus = next
	case level == "#":
		k.hash = next
	case k.many != nil:
		k.many[level] = next
	case len(k.few) < fewKids:
		few := make([]*node, len(k.few)+1) // append would take twice as much
		few[copy(few, k.few)] = next
		k.few = few
	default:
		k.many = make(map[string]*node, 2*fewKids)
		for _, n := range k.few {
			k.many[n.level] = n
		}
		k.many[level], k.few = next, nil
	}
	return next
}

// prune takes n out of the tree, and what is above it, as far as nobody needs it.
func (n *node) prune() {
	for n.parent != nil && n.kids == nil && n.subs == nil && n.shared == nil {
		up := n.parent
		k := up.kids
		switch {
		case n.level == "+":
			k.plus = nil
		case n.level == "#":
			k.hash = nil
		case k.many != nil:
			delete(k.many, n.level)
		default:
			for i := range k.few {
				if k.few[i] == n {
					k.few[i] = k.few[len(k.few)-1]
					k.few[len(k.few)-1] = nil
					k.few = k.few[:len(k.few)-1]
					break
				}
			}
		}
		if len(k.few) == 0 && len(k.many) == 0 && k.plus == nil && k.hash == nil {
			up.kids = nil
		}
		n = up
	}
}

// insert puts a new subscription into the tree. It needs the locks.
func (x *index) insert(s *subscription) {
	name, rest, shared := packet.Share(s.filter)
	if !shared {
		n := x.at(s.filter, true)
		s.node = n
		if s.next = n.subs; s.next != nil {
			s.next.prev = s
		}
		n.subs = s
		return
	}
	n := x.at(rest, true)
	s.node = n
	if n.shared == nil {
		n.shared = new(groups)
	}
	for _, g := range n.shared.list {
		if g.name == name {
			s.group = g
		}
	}
	if s.group == nil {
		s.group = &group{name: name}
		n.shared.list = append(n.shared.list, s.group)
	}
	s.group.members = append(s.group.members, s)
}

// remove takes a subscription out of the tree. It needs the locks.
func (x *index) remove(s *subscription) {
	n := s.node
	if g := s.group; g != nil {
		g.members = without(g.members, s)
		if len(g.members) == 0 {
			if n.shared.list = without(n.shared.list, g); len(n.shared.list) == 0 {
				n.shared = nil
			}
		}
		n.prune()
		return
	}
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		n.subs = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	n.prune()
}

// without gives the list without e, in a new array of its size: most lists stay short.
func without[T comparable](list []T, e T) []T {
	left := make([]T, 0, len(list))
	for _, v := range list {
		if v != e {
			left = append(left, v)
		}
	}
	return left
}

// hit is a subscriber of a message: who gets it, and how.
type hit struct {
	c      *client
	qos    uint8
	asIs   bool
	shared bool
	onDisk bool
	id     uint32
	more   []uint32 // further subscription identifiers
}

// found collects hits. Publisher is for «no local».
type found struct {
	hits      []hit
	lists     int // nodes that gave something; with one alone no session is there twice
	shared    bool
	publisher *client
}

// match finds who gets a message of this topic, a session once however many of its
// subscriptions match: with the highest of their qualities of service and all their
// identifiers (3.3.4). Shared subscriptions count each for itself.
func (x *index) match(f *found, topic string, turn uint32) {
	f.hits, f.lists, f.shared = f.hits[:0], 0, false
	l := &x.locks[turn%stripes]
	l.RLock()
	f.walk(&x.root, topic, 0)
	l.RUnlock()
	if f.lists > 1 && len(f.hits) > 1 {
		f.merge()
	}
}

// walk visits each node of the tree that matches topic from at on, at most once each.
func (f *found) walk(n *node, topic string, at int) {
	for {
		k := n.kids
		if at > len(topic) { // all levels are used up
			f.add(n)
			if k != nil && k.hash != nil { // # stands for the parent level too [MQTT-4.7.1-2]
				f.add(k.hash)
			}
			return
		}
		if k == nil {
			return
		}
		end := strings.IndexByte(topic[at:], '/')
		if end < 0 {
			end = len(topic)
		} else {
			end += at
		}
		if at > 0 || topic == "" || topic[0] != '$' { // wildcards do not match $… [MQTT-4.7.2-1]
			if k.hash != nil {
				f.add(k.hash)
			}
			if k.plus != nil {
				f.walk(k.plus, topic, end+1)
			}
		}
		if n = k.find(topic[at:end]); n == nil {
			return
		}
		at = end + 1
	}
}

func (f *found) add(n *node) {
	if n.subs != nil {
		f.lists++
		for s := n.subs; s != nil; s = s.next {
			if s.noLocal && s.c == f.publisher { // [MQTT-3.8.3-3]
				continue
			}
			f.hits = append(f.hits, hit{c: s.c, qos: s.qos, asIs: s.asIs, id: s.id, onDisk: s.c.onDisk.Load()})
		}
	}
	if n.shared != nil {
		f.shared = true
		for _, g := range n.shared.list {
			if s := g.pick(); s != nil {
				f.hits = append(f.hits, hit{c: s.c, qos: s.qos, asIs: s.asIs, id: s.id, shared: true, onDisk: s.c.onDisk.Load()})
			}
		}
	}
}

// pick chooses the member that gets a message: in turn one that is connected and has room
// for it at once, else one that is connected, else one that has a queue.
func (g *group) pick() *subscription {
	n := len(g.members)
	if n == 0 {
		return nil
	}
	first := int(g.turn.Add(1) % uint32(n)) //nolint:gosec // members are few
	var best *subscription
	rank := roomNone
	for i := range n {
		s := g.members[(first+i)%n]
		if r := s.c.room(); r > rank {
			if best, rank = s, r; r == roomNow {
				break
			}
		}
	}
	return best
}

// merge makes one hit of those of one session.
func (f *found) merge() {
	if len(f.hits) <= 16 {
		for i := 0; i < len(f.hits); i++ {
			for j := i + 1; j < len(f.hits); {
				if !f.hits[i].join(&f.hits[j]) {
					j++
					continue
				}
				f.hits[j] = f.hits[len(f.hits)-1]
				f.hits = f.hits[:len(f.hits)-1]
			}
		}
		return
	}
	first := make(map[*client]int, len(f.hits))
	left := f.hits[:0]
	for i := range f.hits {
		h := f.hits[i]
		if !h.shared {
			if at, ok := first[h.c]; ok {
				left[at].join(&h)
				continue
			}
			first[h.c] = len(left)
		}
		left = append(left, h)
	}
	f.hits = left
}

func (h *hit) join(o *hit) bool {
	if h.c != o.c || h.shared || o.shared {
		return false
	}
	h.qos = max(h.qos, o.qos)
	h.asIs = h.asIs || o.asIs
	switch {
	case o.id == 0:
	case h.id == 0:
		h.id = o.id
	default:
		h.more = append(h.more, o.id)
	}
	h.more = append(h.more, o.more...)
	return true
}
