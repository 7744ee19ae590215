package broker

import (
	"slices"

	"signalbox/internal/broker/durable"
	"signalbox/internal/wire/packet"
)

// revoked is what of a queue must not be delivered any more.
type revoked struct {
	before     uint64 // messages with a smaller number
	gone, left []string
}

// revoke asks grant about the session's subscriptions and ends those that are not allowed; false
// when the log is full, and nothing happened. It needs road.
func (c *client) revoke(grant Grant) bool {
	b := c.b
	if grant == nil {
		return true
	}
	var gone, left []string
	l := &b.index.locks[c.serial%stripes]
	l.RLock()
	for sub := c.subs; sub != nil; sub = sub.sibling {
		f := packet.Filter{Text: []byte(sub.filter), QoS: sub.qos, NoLocal: sub.noLocal, RetainAsPublished: sub.asIs, Handling: sub.handling}
		if grant(&f) >= packet.UnspecifiedError {
			gone = append(gone, sub.filter)
		} else {
			left = append(left, sub.filter)
		}
	}
	l.RUnlock()
	if len(gone) == 0 {
		return true
	}
	if _, err := c.unsubscribe(gone); err != nil && isFull(err) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.out
	if o == nil {
		return true
	}
	if o.head < o.next {
		r := &revoked{before: o.next, left: plain(left)}
		r.gone = plain(gone)
		if o.revoked != nil {
			r.gone = append(r.gone, o.revoked.gone...)
		}
		o.revoked = r
	}
	return true
}

// plain gives filters without the group of shared ones.
func plain(filters []string) []string {
	for i, f := range filters {
		if _, rest, shared := packet.Share(f); shared {
			filters[i] = rest
		}
	}
	return filters
}

// withdrawn reports whether the message n waits because of subscriptions alone that were not
// allowed any more.
func (o *outbound) withdrawn(n uint64, m *durable.Message) bool {
	r := o.revoked
	if r == nil {
		return false
	}
	if o.head >= r.before {
		o.revoked = nil
		return false
	}
	matches := func(f string) bool { return packet.Match(f, m.Topic) }
	return n < r.before && slices.ContainsFunc(r.gone, matches) && !slices.ContainsFunc(r.left, matches)
}
