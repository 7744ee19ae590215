package broker

import "strings"

// Interested reports whether any session has a subscription that could get messages of a
// topic that filter matches. filter may have the wildcard +; it costs a look at each
// subscription's first differing level. It may be called from any goroutine.
func (b *Broker) Interested(filter string) bool { return b.index.overlaps(filter) }

// overlaps reports whether some subscription and filter have a topic in common.
func (x *index) overlaps(filter string) bool {
	l := &x.locks[0]
	l.RLock()
	defer l.RUnlock()
	return x.root.overlaps(filter, 0)
}

func (n *node) overlaps(filter string, at int) bool {
	k := n.kids
	if at > len(filter) {
		return n.subs != nil || n.shared != nil || k != nil && k.hash != nil
	}
	if k == nil {
		return false
	}
	if k.hash != nil {
		return true
	}
	end := len(filter)
	if i := strings.IndexByte(filter[at:], '/'); i >= 0 {
		end = at + i
	}
	if k.plus != nil && k.plus.overlaps(filter, end+1) {
		return true
	}
	level := filter[at:end]
	if level != "+" {
		next := k.find(level)
		return next != nil && next.overlaps(filter, end+1)
	}
	for _, next := range k.few {
		if next.overlaps(filter, end+1) {
			return true
		}
	}
	for _, next := range k.many {
		if next.overlaps(filter, end+1) {
			return true
		}
	}
	return false
}
