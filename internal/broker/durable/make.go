package durable

import (
	"encoding/binary"
	"time"

	"signalbox"
)

// A record is the body of a log entry: version (byte), kind (byte), and by kind:
//
//	publish      flags (byte: 1 retain, 2 session and packet identifier follow), [session, packet identifier],
//	             count of targets, of each session, number and options; then the message
//	begin        session, expiry, sent, head and will as bytes, then subscriptions
//	close        session, at, expiry, sent, flags (byte: 1 keep the will)
//	end          session
//	subscribe    session, then subscriptions
//	unsubscribe  session, then filters
//	acked        session, acked, sent, done and released as runs
//	forget       session, packet identifier
//	will         session, then the will, nothing for none
//	received     session, packet identifier
//	retract      count, and of each queue session and number
//	given        session
const recordVersion = 1

// The kinds of record. The numbers are written to disk: never renumber.
const (
	kindPublish byte = iota + 1
	kindBegin
	kindClose
	kindEnd
	kindSubscribe
	kindUnsubscribe
	kindAcked
	kindForget
	kindWill
	kindReceived
	kindRetract
	kindGiven
)

const (
	publishRetain = 1
	publishPacket = 2
	closeKeepWill = 1
	// keepRecord is how many bytes of a record are kept for the next one.
	keepRecord = 64 << 10
	// keepTargets is how many targets there is room kept for.
	keepTargets = 1024
)

// record begins a record about a session; 0 for one that is about none.
func (k *Keeper) record(kind byte, session SessionID) *Record {
	r, ok := k.records.Get().(*Record)
	if !ok {
		r = new(Record)
	}
	b := r.Entry.Body[:0]
	b = append(b, recordVersion, kind)
	if session != 0 {
		b = binary.AppendUvarint(b, uint64(session))
	}
	r.Entry = signalbox.Entry{Kind: signalbox.EntryBroker, Body: b}
	r.relieves = false
	k.open.Add(1)
	return r
}

// Publish makes the record of a message: it goes into the queues of targets and, with retain,
// becomes the retained message of its topic, or ends that if its payload is empty. packetID,
// unless it is 0, is the identifier with which session sent it with quality of service 2: it is
// in Session.Received from then on. Session 0 is none. m is not kept.
func (k *Keeper) Publish(m *Message, targets []Target, retain bool, session SessionID, packetID uint16) *Record {
	r := k.record(kindPublish, 0)
	flags := byte(0)
	if retain {
		flags |= publishRetain
	}
	if session != 0 && packetID != 0 {
		flags |= publishPacket
	}
	b := r.Entry.Body
	b = append(b, flags)
	if flags&publishPacket != 0 {
		b = binary.AppendUvarint(b, uint64(session))
		b = binary.AppendUvarint(b, uint64(packetID))
	}
	b = binary.AppendUvarint(b, uint64(len(targets)))
	for i := range targets {
		b = binary.AppendUvarint(b, uint64(targets[i].Session))
		b = binary.AppendUvarint(b, targets[i].N)
		b = appendOptions(b, &targets[i])
	}
	r.Entry.Body = appendMessage(b, m)
	return r
}

// Begin makes the record of a connection of the session s.ID, which begins with it or is
// resumed. Owner, ClientID, Volatile, Expiry, Sent and Will replace what the session had; s is
// connected from then on. Subscriptions are added to those it has. Everything else of a new
// session is empty, and of one that is resumed stays as it is.
func (k *Keeper) Begin(s *Session) *Record {
	r := k.record(kindBegin, s.ID)
	b := binary.AppendVarint(r.Entry.Body, expiryMs(s.Expiry))
	b = binary.AppendUvarint(b, s.Sent)
	b = appendBytes(b, appendHead(nil, s))
	b = appendBytes(b, appendWill(nil, s.Will))
	r.Entry.Body = appendSubs(b, s.Subscriptions)
	return r
}

// Close makes the record of the end of a session's connection: it was closed at that time, and
// outlives it by expiry (negative: for ever). Session.Sent is sent from then on. Without
// keepWill its will is dropped.
func (k *Keeper) Close(id SessionID, at time.Time, expiry time.Duration, sent uint64, keepWill bool) *Record {
	r := k.record(kindClose, id)
	b := binary.AppendVarint(r.Entry.Body, at.UnixMilli())
	b = binary.AppendVarint(b, expiryMs(expiry))
	b = binary.AppendUvarint(b, sent)
	flags := byte(0)
	if keepWill {
		flags = closeKeepWill
	}
	b = append(b, flags)
	r.Entry.Body = b
	r.relieves = true
	return r
}

// End makes the record of a session's end: all that it has goes, its will and queue included.
func (k *Keeper) End(id SessionID) *Record {
	r := k.record(kindEnd, id)
	r.relieves = true
	return r
}

// Subscribe makes the record of subscriptions; one with a filter that the session has replaces
// that.
func (k *Keeper) Subscribe(id SessionID, subs []Subscription) *Record {
	r := k.record(kindSubscribe, id)
	r.Entry.Body = appendSubs(r.Entry.Body, subs)
	return r
}

// Unsubscribe makes the record of subscriptions that are gone.
func (k *Keeper) Unsubscribe(id SessionID, filters []string) *Record {
	r := k.record(kindUnsubscribe, id)
	r.Entry.Body = appendFilters(r.Entry.Body, filters)
	r.relieves = true
	return r
}

// Acked makes the record of how far the client is with its queue: the messages below acked are
// done, and those of done; those of released it has received (PUBREC) and not completed; sent
// is Session.Sent. All four replace what was; acked never decreases. done and released are in
// ascending order.
func (k *Keeper) Acked(id SessionID, acked, sent uint64, done, released []uint64) *Record {
	r := k.record(kindAcked, id)
	b := binary.AppendUvarint(r.Entry.Body, acked)
	b = binary.AppendUvarint(b, sent)
	b = appendNumbers(b, acked, done)
	r.Entry.Body = appendNumbers(b, acked, released)
	r.relieves = true
	return r
}

// Received makes the record of a packet identifier that came with quality of service 2, without a
// message: it is in Session.Received from then on.
func (k *Keeper) Received(id SessionID, packetID uint16) *Record {
	r := k.record(kindReceived, id)
	r.Entry.Body = binary.AppendUvarint(r.Entry.Body, uint64(packetID))
	return r
}

// Retract makes the record that takes the newest message out of queues again: those that a
// Publish, whose record is the one before, put it into. Its numbers are the next ones then. See
// DoneBoth.
func (k *Keeper) Retract(targets []Target) *Record {
	r := k.record(kindRetract, 0)
	b := binary.AppendUvarint(r.Entry.Body, uint64(len(targets)))
	for i := range targets {
		b = binary.AppendUvarint(b, uint64(targets[i].Session))
		b = binary.AppendUvarint(b, targets[i].N)
	}
	r.Entry.Body = b
	r.relieves = true
	return r
}

// Given makes the record that none of a session's subscriptions is owed retained messages any more:
// Session.Given is empty from then on.
func (k *Keeper) Given(id SessionID) *Record {
	r := k.record(kindGiven, id)
	r.relieves = true
	return r
}

// Forget makes the record of a packet identifier that the publisher has released (PUBREL).
func (k *Keeper) Forget(id SessionID, packetID uint16) *Record {
	r := k.record(kindForget, id)
	r.Entry.Body = binary.AppendUvarint(r.Entry.Body, uint64(packetID))
	r.relieves = true
	return r
}

// SetWill makes the record of a session's will; nil: it has none any more.
func (k *Keeper) SetWill(id SessionID, w *Will) *Record {
	r := k.record(kindWill, id)
	r.Entry.Body = appendWill(r.Entry.Body, w)
	r.relieves = w == nil
	return r
}

func expiryMs(d time.Duration) int64 {
	if d < 0 {
		return -1
	}
	return d.Milliseconds()
}

func expiryOf(ms int64) time.Duration {
	if ms < 0 {
		return -1
	}
	return time.Duration(ms) * time.Millisecond
}
