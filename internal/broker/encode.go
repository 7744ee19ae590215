package broker

import (
	"encoding/binary"
	"math/bits"
	"time"
	"unsafe"

	"signalbox/internal/broker/durable"
	"signalbox/internal/wire/packet"
)

// frame is a message on its way to one subscriber or several of a kind. Properties are
// passed on as they are kept: encoded, so that they are not taken apart for each subscriber.
type frame struct {
	topic      string
	payload    []byte
	properties []byte
	qos        uint8
	dup        bool
	retain     bool
	id         uint16
	hasExpiry  bool
	expiry     uint32 // seconds
	first      uint32 // subscription identifiers
	more       []uint32
}

// ids sets the subscription identifiers.
func (f *frame) ids(first uint32, more []uint32) { f.first, f.more = first, more }

// message makes f one of m as it is at now; false when it has expired (5.0, 3.3.2.3.3).
func (f *frame) message(m *durable.Message, now time.Time) bool {
	f.topic, f.payload, f.properties = m.Topic, m.Payload, m.Properties
	f.hasExpiry = false
	if m.ExpiresAt.IsZero() {
		return true
	}
	left := m.ExpiresAt.Sub(now)
	f.hasExpiry, f.expiry = true, uint32(max(0, (left+time.Second-1)/time.Second)) //nolint:gosec // it came as 32 bits
	return left > 0
}

// sizes gives the lengths of the properties, of what follows the fixed header, and of all.
func (f *frame) sizes(v packet.Version) (properties, remaining, total int) {
	remaining = 2 + len(f.topic) + len(f.payload)
	if f.qos > 0 {
		remaining += 2
	}
	if v == packet.V5 {
		properties = len(f.properties)
		if f.hasExpiry {
			properties += 5
		}
		if f.first != 0 {
			properties += 1 + varintLen(int(f.first))
		}
		for _, id := range f.more {
			properties += 1 + varintLen(int(id))
		}
		remaining += varintLen(properties) + properties
	}
	return properties, remaining, 1 + varintLen(remaining) + remaining
}

// size is the length of the whole packet.
func (f *frame) size(v packet.Version) int {
	_, _, n := f.sizes(v)
	return n
}

// append encodes a PUBLISH (3.3).
func (f *frame) append(b []byte, v packet.Version) []byte {
	properties, remaining, _ := f.sizes(v)
	head := byte(packet.PUBLISH)<<4 | f.qos<<1
	if f.dup {
		head |= 8
	}
	if f.retain {
		head |= 1
	}
	b = append(b, head)
	b = appendVarint(b, remaining)
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.topic))) //nolint:gosec // topics are checked when they come
	b = append(b, f.topic...)
	if f.qos > 0 {
		b = binary.BigEndian.AppendUint16(b, f.id)
	}
	if v == packet.V5 {
		b = appendVarint(b, properties)
		if f.hasExpiry {
			b = append(b, byte(packet.MessageExpiry))
			b = binary.BigEndian.AppendUint32(b, f.expiry)
		}
		if f.first != 0 {
			b = appendVarint(append(b, byte(packet.SubscriptionID)), int(f.first))
		}
		for _, id := range f.more {
			b = appendVarint(append(b, byte(packet.SubscriptionID)), int(id))
		}
		b = append(b, f.properties...)
	}
	return append(b, f.payload...)
}

// varintLen is the length of a variable byte integer (1.5.5).
func varintLen(n int) int { return max(1, (bits.Len(uint(n))+6)/7) } //nolint:gosec // never negative

func appendVarint(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

// view looks at bytes as a string; it is valid as long as they are and do not change.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// weight is about what a message takes in a queue.
func weight(m *durable.Message) int64 {
	return int64(len(m.Topic) + len(m.Payload) + len(m.Properties) + messageHead)
}

// keptWeight is the weight of a message that is retained, 0 of one that takes away what was.
func keptWeight(m *durable.Message) int64 {
	if len(m.Payload) == 0 {
		return 0
	}
	return weight(m)
}

const messageHead = 64
