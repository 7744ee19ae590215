package durable

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"signalbox"
)

// apply takes up the record at position p of the log. The caller holds mu. What a start reads
// again goes the same way: a record that the tables show already changes nothing in the end,
// because all that follow it are applied as well.
func (k *Keeper) apply(p signalbox.Position, body []byte) error {
	d := reader{buf: body}
	version, kind := d.byte(), d.byte()
	if d.failed || version != recordVersion || kind < kindPublish || kind > kindGiven {
		return fmt.Errorf("%w: version %d, kind %d, %d bytes", errBroken, version, kind, len(body))
	}
	switch kind {
	case kindPublish:
		return k.applyPublish(p, &d)
	case kindRetract:
		return k.applyRetract(p, &d)
	}
	id := d.uvarint(maxNumber)
	if d.failed || id == 0 {
		return fmt.Errorf("%w: a record without a session", errBroken)
	}
	k.maxID = max(k.maxID, id)
	k.last = p
	s := k.sessions[SessionID(id)]
	if kind == kindBegin {
		return k.applyBegin(p, SessionID(id), s, &d)
	}
	if s == nil {
		if kind == kindEnd { // of a session whose row is deleted already
			k.drops[SessionID(id)] = maxNumber
		}
		return nil
	}
	k.applyTo(s, kind, &d)
	if d.failed {
		return fmt.Errorf("%w: kind %d of session %d", errBroken, kind, id)
	}
	k.touch(s, p)
	return nil
}

// applyTo takes up a record about a session that is there.
func (k *Keeper) applyTo(s *session, kind byte, d *reader) {
	w := s.work()
	switch kind {
	case kindClose:
		at, expiry, sent, flags := d.varint(), d.varint(), d.uvarint(maxNumber), d.byte()
		s.closedAt, s.expiry, s.sent = max(at, 1), expiry, sent
		w.state = true
		if flags&closeKeepWill == 0 {
			k.setWill(w, nil)
		}
	case kindEnd:
		k.end(s)
	case kindSubscribe, kindUnsubscribe:
		k.change(w, kind, d.rest())
	case kindAcked:
		acked, sent := d.uvarint(maxNumber), d.uvarint(maxNumber)
		done, released := d.numbers(acked), d.numbers(acked)
		if !d.failed {
			s.sent, w.state = sent, true
		}
		if !d.failed && acked >= s.acked {
			k.acked(s, acked, done, released)
		}
	case kindForget:
		id := uint16(d.uvarint(1<<16 - 1))
		w.state = true
		w.received = slices.DeleteFunc(w.received, func(have uint16) bool { return have == id })
	case kindReceived:
		if id := uint16(d.uvarint(1<<16 - 1)); !d.failed && id != 0 {
			w.receive(id)
		}
	case kindGiven:
		w.given, w.state = nil, true
	case kindWill:
		k.setWill(w, d.rest())
	}
}

// TopicHash is a number that stands for a topic, the same in each life of the hub (FNV-1a).
func TopicHash[T string | []byte](topic T) uint64 {
	hash := uint64(14695981039346656037)
	for i := range len(topic) {
		hash = (hash ^ uint64(topic[i])) * 1099511628211
	}
	return hash
}

func (w *work) receive(id uint16) {
	if !slices.Contains(w.received, id) {
		w.received = append(w.received, id)
	}
	w.state = true
}

// applyRetract takes a message out of queues whose newest it is.
func (k *Keeper) applyRetract(p signalbox.Position, d *reader) error {
	n := d.count(2)
	for range n {
		id, number := d.uvarint(maxNumber), d.uvarint(maxNumber-1)
		s := k.sessions[SessionID(id)]
		if d.failed || s == nil {
			continue
		}
		w := s.work()
		if last := len(w.items) - 1; last >= 0 && w.items[last].n == number && number > w.taken {
			k.letGoLast(w)
		}
		if s.next == number+1 {
			s.next = max(number, s.acked)
		}
		w.state = true
		k.touch(s, p)
	}
	k.last = p
	if d.failed {
		return fmt.Errorf("%w: what is taken out of queues", errBroken)
	}
	return nil
}

func (k *Keeper) letGoLast(w *work) {
	last := len(w.items) - 1
	k.release(w.items[last].m)
	k.pending -= itemCost
	w.items[last] = item{}
	w.items = w.items[:last]
}

func (k *Keeper) applyPublish(p signalbox.Position, d *reader) error {
	flags := d.byte()
	var session, packet uint64
	if flags&publishPacket != 0 {
		session, packet = d.uvarint(maxNumber), d.uvarint(1<<16-1)
	}
	n := d.count(3) // session, number and flags take a byte each at least
	k.targets = slices.Grow(k.targets[:0], n)[:n]
	targets := k.targets
	for i := range targets {
		t := &targets[i]
		t.Session, t.N = SessionID(d.uvarint(maxNumber)), d.uvarint(maxNumber-1)
		d.options(t)
	}
	if d.failed {
		return fmt.Errorf("%w: a message without its targets", errBroken)
	}
	body := d.rest()
	topic, payload, err := messageTopic(body)
	if err != nil {
		return err
	}
	k.last = p
	m := new(stored)
	for i := range targets {
		if s := k.sessions[targets[i].Session]; s != nil {
			k.enqueue(p, s, &targets[i], m, body)
			if targets[i].Given && targets[i].QoS == 2 {
				s.w.given = append(s.w.given, TopicHash(topic))
			}
		}
	}
	if s := k.sessions[SessionID(session)]; s != nil && packet != 0 {
		s.work().receive(uint16(packet))
		k.touch(s, p)
	}
	if flags&publishRetain != 0 {
		k.retain(p, string(topic), payload, m, body)
	}
	if cap(targets) > keepTargets {
		k.targets = nil
	}
	return nil
}

// enqueue puts a message into a queue, unless it is acknowledged or in the table.
func (k *Keeper) enqueue(p signalbox.Position, s *session, t *Target, m *stored, body []byte) {
	w := s.work()
	s.next = max(s.next, t.N+1)
	w.state = true
	k.touch(s, p)
	if t.N < s.acked || t.N <= w.stored || len(w.items) > 0 && w.items[len(w.items)-1].n >= t.N {
		return
	}
	if _, done := slices.BinarySearch(w.done, t.N); done {
		return
	}
	k.refer(m, body)
	k.pending += itemCost
	w.items = append(w.items, item{n: t.N, m: m, options: options{ids: t.IDs, qos: t.QoS, retain: t.Retain}})
}

// refer says that one more needs m, whose bytes these are.
func (k *Keeper) refer(m *stored, body []byte) {
	if m.body == nil {
		m.body = slices.Clone(body)
		k.pending += int64(len(body)) + messageCost
	}
	m.refs++
}

// release says that one less needs m.
func (k *Keeper) release(m *stored) {
	if m == nil {
		return
	}
	if m.refs--; m.refs == 0 {
		k.pending -= int64(len(m.body)) + messageCost
	}
}

// retain makes a message the retained one of its topic.
func (k *Keeper) retain(p signalbox.Position, topic string, payload bool, m *stored, body []byte) {
	r := k.retained[topic]
	if r == nil {
		r = &retained{topic: topic}
		k.retained[topic] = r
		k.pending += int64(len(topic)) + workCost
	}
	k.release(r.m)
	if r.m = nil; payload {
		k.refer(m, body)
		r.m = m
	}
	if !r.queued {
		r.queued = true
		k.owe(debt{r: r, since: p})
	}
}

func (k *Keeper) applyBegin(p signalbox.Position, id SessionID, s *session, d *reader) error {
	expiry, sent := d.varint(), d.uvarint(maxNumber)
	head, will, subs := d.bytes(), d.bytes(), d.rest()
	if d.failed {
		return fmt.Errorf("%w: the beginning of session %d", errBroken, id)
	}
	if s == nil {
		s = &session{id: id, acked: 1, next: 1}
		s.work().fresh = true
		k.sessions[id] = s
	}
	w := s.work()
	s.closedAt, s.expiry, s.sent = 0, expiry, sent
	k.resize(w, int64(len(head)-len(w.head)))
	w.head, w.begun, w.state = slices.Clone(head), true, true
	k.setWill(w, will)
	if len(subs) > 0 {
		k.change(w, kindSubscribe, subs)
	}
	k.touch(s, p)
	return nil
}

func (k *Keeper) setWill(w *work, will []byte) {
	k.resize(w, int64(len(will)-len(w.will)))
	w.will, w.willed, w.state = slices.Clone(will), true, true
}

func (k *Keeper) change(w *work, kind byte, body []byte) {
	k.resize(w, int64(len(body))+messageCost)
	w.subs = append(w.subs, change{kind, slices.Clone(body)})
}

// resize counts what a session has besides its queue.
func (k *Keeper) resize(w *work, by int64) {
	w.size += by
	k.pending += by
}

// acked takes the messages away that are done.
func (k *Keeper) acked(s *session, acked uint64, done, released []uint64) {
	w := s.w
	s.acked, w.done, w.released, w.state = acked, done, released, true
	s.next = max(s.next, acked, beyond(done), beyond(released))
	// Both parts are at the beginning, and what stays does not move.
	i, _ := slices.BinarySearchFunc(w.items, acked, item.compare)
	w.items = k.letGo(w.items, i, func(*item) bool { return true })
	if len(done) > 0 {
		i, _ = slices.BinarySearchFunc(w.items, done[len(done)-1]+1, item.compare)
		w.items = k.letGo(w.items, i, func(it *item) bool { _, gone := slices.BinarySearch(done, it.n); return gone })
	}
}

// beyond is the number after the last of an ascending list, 0 without one.
func beyond(numbers []uint64) uint64 {
	if len(numbers) == 0 {
		return 0
	}
	return numbers[len(numbers)-1] + 1
}

func (it item) compare(n uint64) int { return cmp.Compare(it.n, n) }

// letGo takes those of the first n items away that gone chooses.
func (k *Keeper) letGo(items []item, n int, gone func(*item) bool) []item {
	stay := n
	for i := n - 1; i >= 0; i-- {
		if gone(&items[i]) {
			k.release(items[i].m)
			k.pending -= itemCost
			continue
		}
		stay--
		items[stay] = items[i]
	}
	clear(items[:stay])
	if items = items[stay:]; len(items) == 0 {
		return nil
	}
	return items
}

// end takes a session away; its row is deleted later, and the rows of its queue after that.
func (k *Keeper) end(s *session) {
	w := s.w
	for i := range w.items {
		k.release(w.items[i].m)
		k.pending -= itemCost
	}
	k.resize(w, -w.size)
	w.items, w.subs, w.head, w.will = nil, nil, nil, nil
	w.ended = true
	delete(k.sessions, s.id)
}

// work gives what the session has that is not at rest, made when there is none.
func (s *session) work() *work {
	if s.w == nil {
		s.w = new(work)
	}
	return s.w
}

// touch says that the session's row is behind since p.
func (k *Keeper) touch(s *session, p signalbox.Position) {
	if w := s.work(); !w.queued {
		w.queued = true
		k.pending += workCost
		k.owe(debt{s: s, since: p})
	}
}

func (k *Keeper) owe(d debt) {
	if k.head > 1024 && k.head > len(k.queue)/2 {
		n := copy(k.queue, k.queue[k.head:])
		clear(k.queue[n:])
		k.queue, k.head = k.queue[:n], 0
	}
	d.due = time.Now().Add(k.cfg.Delay)
	k.queue = append(k.queue, d)
}
