package broker

import (
	"strings"

	"signalbox/internal/broker/durable"
	"signalbox/internal/history"
)

// RetainedBy gives the owner of a topic's retained message: of the client whose it is, as
// Hello.Owner named it, or Message.From of a message of the hub's own. Not ok: there is none.
func (b *Broker) RetainedBy(topic string) (owner string, ok bool) {
	m := b.retained.get(topic)
	if m == nil {
		return "", false
	}
	return ownerOf(m), true
}

// ownerOf gives the owner of a message's publisher.
func ownerOf(m *durable.Message) string {
	owner, _, _ := strings.Cut(m.From, "\x00")
	return owner
}

// ClearRetained takes away the retained messages of all topics that begin with prefix, as if
// each had been published empty, but no subscriber is told. Those that are retained meanwhile
// stay. It works in portions, so that others have their turn, and when the log is full the rest is
// done when it has room; until then what is not cleared is still there, also after a restart. Like
// Publish, do not call it with a lock held that the Taker needs.
func (b *Broker) ClearRetained(prefix string) {
	r := &b.retained
	b.road.Lock()
	mark := r.last
	b.road.Unlock()
	if trunk(prefix) != prefix { // all that begin with it have the same trunk
		b.clearPart(r.part(prefix), prefix, mark)
		return
	}
	for i := range r.parts {
		b.clearPart(&r.parts[i], prefix, mark)
	}
}

func (b *Broker) clearPart(p *part, prefix string, mark uint64) {
	var found []*durable.Message
	for at, rest := 0, 1; rest > 0; {
		found = found[:0]
		p.mu.RLock()
		end := min(at+portionLooks, len(p.list))
		for ; at < end; at++ {
			if e := p.list[at]; e.m != nil && e.n <= mark && strings.HasPrefix(e.m.Topic, prefix) {
				found = append(found, e.m)
			}
		}
		rest = len(p.list) - at
		p.mu.RUnlock()
		b.clearAll(found)
	}
}

// clearAll forgets messages which are still what their topics have.
func (b *Broker) clearAll(list []*durable.Message) {
	for len(list) > 0 {
		n := min(len(list), portionGives)
		some := append([]*durable.Message(nil), list[:n]...)
		list = list[n:]
		b.road.Lock()
		b.owe(func() bool {
			for len(some) > 0 {
				if !b.clear(some[0]) {
					return false
				}
				some = some[1:]
			}
			return true
		})
		b.road.Unlock()
	}
}

// clear forgets m unless its topic has another message by now; false when the log is full. It
// needs road.
func (b *Broker) clear(m *durable.Message) bool {
	if b.retained.get(m.Topic) != m {
		return true
	}
	none := &durable.Message{Topic: m.Topic, Retain: true}
	if b.keeper != nil {
		if _, err := b.record(b.keeper.Publish(none, nil, true, 0, 0), history.Soon); err != nil {
			return !isFull(err)
		}
	}
	b.retained.set(b, none)
	return true
}
