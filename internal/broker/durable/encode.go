package durable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The formats of this file are on disk: in entries of the log, and in the tables
// broker_session (head, will, subs, state), broker_queue and broker_retained. Numbers are
// uvarints, those that may be negative zigzag varints, and bytes have their length before
// them, unless it says otherwise; times are Unix ms and durations ms.

// errBroken is wrapped by every error about something that does not decode.
var errBroken = errors.New("a record of the MQTT broker is broken")

// errUnplaced is about a record that was never appended to the log.
var errUnplaced = errors.New("it has no position in the log: it was not appended")

// The flags of a message.
const (
	messageQoS    = 0x03
	messageRetain = 1 << (iota + 1)
	messageExpires
	messageFrom
	messageProperties
)

// appendMessage encodes m: flags (byte), [expires], [from], topic, [properties], and the
// payload up to the end.
func appendMessage(b []byte, m *Message) []byte {
	flags := m.QoS & messageQoS
	if m.Retain {
		flags |= messageRetain
	}
	if !m.ExpiresAt.IsZero() {
		flags |= messageExpires
	}
	if m.From != "" {
		flags |= messageFrom
	}
	if len(m.Properties) > 0 {
		flags |= messageProperties
	}
	b = append(b, flags)
	if flags&messageExpires != 0 {
		b = binary.AppendVarint(b, m.ExpiresAt.UnixMilli())
	}
	if flags&messageFrom != 0 {
		b = appendBytes(b, m.From)
	}
	b = appendBytes(b, m.Topic)
	if flags&messageProperties != 0 {
		b = appendBytes(b, m.Properties)
	}
	return append(b, m.Payload...)
}

// decodeMessage reads a whole message; payload and properties are parts of b.
func decodeMessage(b []byte) (*Message, error) {
	d := reader{buf: b}
	flags := d.byte()
	m := &Message{QoS: flags & messageQoS, Retain: flags&messageRetain != 0}
	if flags&messageExpires != 0 {
		m.ExpiresAt = time.UnixMilli(d.varint()).UTC()
	}
	if flags&messageFrom != 0 {
		m.From = string(d.bytes())
	}
	m.Topic = string(d.bytes())
	if flags&messageProperties != 0 {
		m.Properties = d.bytes()
	}
	m.Payload = d.rest()
	if d.failed || m.QoS > 2 || m.Topic == "" {
		return nil, fmt.Errorf("%w: a message of %d bytes", errBroken, len(b))
	}
	return m, nil
}

// messageTopic reads the topic alone, and whether there is a payload. The topic is a part of b.
func messageTopic(b []byte) (topic []byte, payload bool, err error) {
	d := reader{buf: b}
	flags := d.byte()
	if flags&messageExpires != 0 {
		d.varint()
	}
	if flags&messageFrom != 0 {
		d.bytes()
	}
	name := d.bytes()
	if flags&messageProperties != 0 {
		d.bytes()
	}
	if d.failed || len(name) == 0 || flags&messageQoS > 2 {
		return nil, false, fmt.Errorf("%w: a message of %d bytes", errBroken, len(b))
	}
	return name, len(d.buf) > 0, nil
}

// The flags of what a queue's message has besides the message.
const (
	targetQoS    = 0x03
	targetRetain = 1 << (iota + 1)
	targetIDs
	targetGiven
)

// appendOptions encodes all of t but its session and number: flags (byte), [count and
// subscription identifiers].
func appendOptions(b []byte, t *Target) []byte {
	flags := t.QoS & targetQoS
	if t.Retain {
		flags |= targetRetain
	}
	if len(t.IDs) > 0 {
		flags |= targetIDs
	}
	if t.Given {
		flags |= targetGiven
	}
	b = append(b, flags)
	if len(t.IDs) > 0 {
		b = binary.AppendUvarint(b, uint64(len(t.IDs)))
		for _, id := range t.IDs {
			b = binary.AppendUvarint(b, uint64(id))
		}
	}
	return b
}

func (d *reader) options(t *Target) {
	flags := d.byte()
	t.QoS, t.Retain, t.Given, t.IDs = flags&targetQoS, flags&targetRetain != 0, flags&targetGiven != 0, nil
	if flags&targetIDs != 0 {
		t.IDs = make([]uint32, d.count(1))
		for i := range t.IDs {
			t.IDs[i] = uint32(d.uvarint(1<<32 - 1))
		}
	}
}

// The flags of a subscription: QoS and the options of 5.0, 3.8.3.1, at their places in a
// SUBSCRIBE, and whether there is an identifier.
const (
	subQoS               = 0x03
	subNoLocal           = 1 << 2
	subRetainAsPublished = 1 << 3
	subHandling          = 4 // shifted by that
	subID                = 1 << 6
	subGiving            = 1 << 7
)

// appendSubs encodes subscriptions one after another: filter, flags (byte), [identifier].
func appendSubs(b []byte, subs []Subscription) []byte {
	for i := range subs {
		s := &subs[i]
		b = appendBytes(b, s.Filter)
		flags := s.QoS&subQoS | s.Handling&3<<subHandling
		if s.NoLocal {
			flags |= subNoLocal
		}
		if s.RetainAsPublished {
			flags |= subRetainAsPublished
		}
		if s.ID != 0 {
			flags |= subID
		}
		if s.Giving {
			flags |= subGiving
		}
		if b = append(b, flags); s.ID != 0 {
			b = binary.AppendUvarint(b, uint64(s.ID))
		}
	}
	return b
}

// decodeSubs reads subscriptions up to the end of b and adds them to have; one with a filter
// that is there replaces it.
func decodeSubs(have []Subscription, b []byte) ([]Subscription, error) {
	d := reader{buf: b}
	fresh := len(have) == 0
	for len(d.buf) > 0 {
		s := Subscription{Filter: string(d.bytes())}
		flags := d.byte()
		s.QoS, s.Handling = flags&subQoS, flags>>subHandling&3
		s.NoLocal, s.RetainAsPublished, s.Giving = flags&subNoLocal != 0, flags&subRetainAsPublished != 0, flags&subGiving != 0
		if flags&subID != 0 {
			s.ID = uint32(d.uvarint(1<<32 - 1))
		}
		if d.failed {
			return nil, fmt.Errorf("%w: subscriptions of %d bytes", errBroken, len(b))
		}
		i := -1
		if !fresh {
			i = slices.IndexFunc(have, func(h Subscription) bool { return h.Filter == s.Filter })
		}
		if i < 0 {
			have = append(have, s)
		} else {
			have[i] = s
		}
	}
	return have, nil
}

// appendFilters encodes filters one after another.
func appendFilters(b []byte, filters []string) []byte {
	for _, f := range filters {
		b = appendBytes(b, f)
	}
	return b
}

// dropFilters takes the subscriptions away whose filters b has.
func dropFilters(have []Subscription, b []byte) ([]Subscription, error) {
	d := reader{buf: b}
	gone := map[string]bool{}
	for len(d.buf) > 0 {
		gone[string(d.bytes())] = true
	}
	if d.failed {
		return nil, fmt.Errorf("%w: filters of %d bytes", errBroken, len(b))
	}
	return slices.DeleteFunc(have, func(s Subscription) bool { return gone[s.Filter] }), nil
}

// appendWill encodes w: delay, message. Nothing is none.
func appendWill(b []byte, w *Will) []byte {
	if w == nil {
		return b
	}
	b = binary.AppendVarint(b, w.Delay.Milliseconds())
	return appendMessage(b, &w.Message)
}

func decodeWill(b []byte) (*Will, error) {
	if len(b) == 0 {
		return nil, nil //nolint:nilnil // no bytes are no will
	}
	d := reader{buf: b}
	delay := d.varint()
	m, err := decodeMessage(d.rest())
	if err != nil {
		return nil, err
	}
	return &Will{Message: *m, Delay: time.Duration(delay) * time.Millisecond}, nil
}

// appendHead encodes whose session it is: volatile (byte), owner, client identifier.
func appendHead(b []byte, s *Session) []byte {
	volatile := byte(0)
	if s.Volatile {
		volatile = 1
	}
	b = append(b, volatile)
	b = appendBytes(b, s.Owner)
	return appendBytes(b, s.ClientID)
}

func decodeHead(s *Session, b []byte) error {
	d := reader{buf: b}
	s.Volatile = d.byte() != 0
	s.Owner, s.ClientID = string(d.bytes()), string(d.bytes())
	if d.failed {
		return fmt.Errorf("%w: the head of session %d", errBroken, s.ID)
	}
	return nil
}

// appendState encodes what the column state has: closed at (0: connected), expiry, acked, next,
// sent, done and released as runs from acked on, count and identifiers of received, count and hashes
// (8 bytes each) of given.
func appendState(b []byte, s *session) []byte {
	b = binary.AppendVarint(b, s.closedAt)
	b = binary.AppendVarint(b, s.expiry)
	b = binary.AppendUvarint(b, s.acked)
	b = binary.AppendUvarint(b, s.next)
	b = binary.AppendUvarint(b, s.sent)
	w := s.w
	if w == nil {
		w = &work{}
	}
	b = appendNumbers(b, s.acked, w.done)
	b = appendNumbers(b, s.acked, w.released)
	b = binary.AppendUvarint(b, uint64(len(w.received)))
	for _, id := range w.received {
		b = binary.AppendUvarint(b, uint64(id))
	}
	b = binary.AppendUvarint(b, uint64(len(w.given)))
	for _, hash := range w.given {
		b = binary.BigEndian.AppendUint64(b, hash)
	}
	return b
}

func decodeState(s *session, b []byte) error {
	d := reader{buf: b}
	s.closedAt, s.expiry = d.varint(), d.varint()
	s.acked, s.next, s.sent = d.uvarint(maxNumber), d.uvarint(maxNumber), d.uvarint(maxNumber)
	done, released := d.numbers(s.acked), d.numbers(s.acked)
	received := make([]uint16, d.count(1))
	for i := range received {
		received[i] = uint16(d.uvarint(1<<16 - 1))
	}
	given := make([]uint64, d.count(8))
	for i := range given {
		given[i] = binary.BigEndian.Uint64(d.buf)
		d.buf = d.buf[8:]
	}
	if d.failed {
		return fmt.Errorf("%w: the state of session %d", errBroken, s.id)
	}
	if len(done)+len(released)+len(received)+len(given) > 0 {
		w := s.work()
		w.done, w.released, w.received, w.given = done, released, received, given
	}
	s.next = max(s.next, s.acked, beyond(done), beyond(released))
	return nil
}

// maxNumber is the largest number of a message, and of a session.
const maxNumber = 1<<63 - 1

// maxNumbers bounds how many numbers runs stand for. Queues have fewer: what is done or released
// lies within a client's window.
const maxNumbers = 1 << 20

// appendNumbers encodes those of the ascending numbers that are not below base, as runs: their
// count, and of each how far it begins behind the one before (the first: behind base), and its
// length less 1.
func appendNumbers(b []byte, base uint64, numbers []uint64) []byte {
	first, _ := slices.BinarySearch(numbers, base)
	numbers = numbers[first:]
	numbers = numbers[:min(len(numbers), maxNumbers)]
	runs := uint64(0)
	for i, v := range numbers {
		if i == 0 || v != numbers[i-1]+1 {
			runs++
		}
	}
	b = binary.AppendUvarint(b, runs)
	for i := 0; i < len(numbers); {
		from := i
		for i++; i < len(numbers) && numbers[i] == numbers[i-1]+1; i++ {
		}
		b = binary.AppendUvarint(b, numbers[from]-base)
		b = binary.AppendUvarint(b, uint64(i-from-1))
		base = numbers[i-1] + 1
	}
	return b
}

// numbers gives them in ascending order, each once.
func (d *reader) numbers(base uint64) (numbers []uint64) {
	runs := d.count(2)
	for range runs {
		from := base + d.uvarint(maxNumber-1-base)
		length := 1 + d.uvarint(maxNumbers)
		if d.failed || uint64(len(numbers))+length > maxNumbers || from+length > maxNumber {
			d.fail()
			return nil
		}
		for n := from; n < from+length; n++ {
			numbers = append(numbers, n)
		}
		base = from + length
	}
	return numbers
}

func appendBytes[T string | []byte](b []byte, v T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// reader reads what was encoded; after a fault it gives zeros or nothing and failed is set.
type reader struct {
	buf    []byte
	failed bool
}

func (d *reader) fail() { d.failed, d.buf = true, nil }

func (d *reader) byte() byte {
	if len(d.buf) == 0 {
		d.fail()
		return 0
	}
	v := d.buf[0]
	d.buf = d.buf[1:]
	return v
}

func (d *reader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.buf)
	if n <= 0 || v > limit {
		d.fail()
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *reader) varint() int64 {
	v, n := binary.Varint(d.buf)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

// count reads how many things follow, of at least size bytes each.
func (d *reader) count(size int) int {
	n := d.uvarint(uint64(len(d.buf)))
	if int(n) > len(d.buf)/size {
		d.fail()
		return 0
	}
	return int(n)
}

// bytes reads bytes with their length before them; they are a part of the buffer, nil for none.
func (d *reader) bytes() []byte {
	n := d.uvarint(uint64(len(d.buf)))
	if n > uint64(len(d.buf)) {
		d.fail()
	}
	if n == 0 || d.failed {
		return nil
	}
	v := d.buf[:n:n]
	d.buf = d.buf[n:]
	return v
}

// rest gives what is left, nil for nothing.
func (d *reader) rest() []byte {
	if len(d.buf) == 0 {
		return nil
	}
	v := slices.Clip(d.buf)
	d.buf = nil
	return v
}
