package mapped

import (
	"strings"
)

// nativeRoot is the first level of the topics that are the hub's own.
const nativeRoot = "signalbox"

// index finds the rule of a topic: the first of those whose filter matches it. Filters without
// wildcards are in a map, the others in a tree of levels.
type index struct {
	exact map[string]*rule
	tree  node
}

// node is one level of the filters with wildcards. Of each kind there is one rule at most,
// because no filter is there twice.
type node struct {
	children map[string]*node
	plus     *node
	here     *rule // a filter ends here
	hash     *rule // one ends here with /#
}

func (x *index) add(r *rule) {
	if r.wildcards == 0 {
		if x.exact == nil {
			x.exact = make(map[string]*rule)
		}
		x.exact[r.Filter] = r
		return
	}
	n := &x.tree
	for level := range strings.SplitSeq(r.Filter, "/") {
		switch level {
		case "#":
			n.hash = r
			return
		case "+":
			if n.plus == nil {
				n.plus = new(node)
			}
			n = n.plus
		default:
			next := n.children[level]
			if next == nil {
				if n.children == nil {
					n.children = make(map[string]*node)
				}
				next = new(node)
				n.children[level] = next
			}
			n = next
		}
	}
	n.here = r
}

// find gives the rule of a topic and what its wildcards stand for, nil without one. It does not
// allocate.
func (x *index) find(topic string, c *captures) *rule {
	s := search{topic: topic, best: x.exact[topic]}
	first, _, _ := strings.Cut(topic, "/")
	// 5.0, 4.7.2: leading wildcards match no topic that begins with $; nor do they here with
	// those of the hub [MQTT-4.7.2-1].
	s.walk(&x.tree, 0, topic != "" && topic[0] != '$' && first != nativeRoot)
	*c = s.found
	return s.best
}

// search is one walk through the tree. Each node is visited once at most.
type search struct {
	topic string
	best  *rule
	now   captures
	found captures // by value: a pointer would have the caller's captures on the heap
}

// walk looks at the filters below n, of whose topics the part before at is matched.
func (s *search) walk(n *node, at int, wild bool) {
	if wild && n.hash != nil {
		s.push(min(at, len(s.topic)), len(s.topic))
		s.meet(n.hash)
		s.now.n--
	}
	if at > len(s.topic) {
		if n.here != nil {
			s.meet(n.here)
		}
		return
	}
	end := len(s.topic)
	if i := strings.IndexByte(s.topic[at:], '/'); i >= 0 {
		end = at + i
	}
	if next := n.children[s.topic[at:end]]; next != nil {
		s.walk(next, end+1, true)
	}
	if wild && n.plus != nil {
		s.push(at, end)
		s.walk(n.plus, end+1, true)
		s.now.n--
	}
}

// push notes what one more wildcard stands for.
func (s *search) push(from, to int) {
	s.now.at[s.now.n] = [2]int{from, to}
	s.now.n++
}

// meet takes r if it stands before the best in the list.
func (s *search) meet(r *rule) {
	if s.best == nil || r.order < s.best.order {
		s.best = r
		s.found = s.now
	}
}
