package mapped

import (
	"time"

	"signalbox"
	"signalbox/internal/registry"
)

// Link is the broker that a message came from, and by which commands go back. Publish never
// blocks; an error means that nothing went out. Links are compared with ==: pointers as a rule.
type Link interface {
	Publish(topic string, payload []byte, qos uint8, retain bool) error
}

// Absent is a Link that may be away for a while, when nothing can be published. Up never blocks and
// takes no lock. When it is back, Map.Returned is called.
type Absent interface {
	Up() bool
}

// up reports whether commands can go out by l.
func up(l Link) bool {
	a, ok := l.(Absent)
	return !ok || a.Up()
}

// Expirer is a Link whose broker forgets a message that nobody has fetched in time.
type Expirer interface {
	// PublishUntil is Publish of a message that is forgotten at until; the zero time is never.
	PublishUntil(topic string, payload []byte, qos uint8, retain bool, until time.Time) error
}

// Budget bounds the messages of devices. Its method never blocks.
type Budget interface {
	// Pays takes a message out of the device's budget, or reports false.
	Pays(d *registry.Device) bool
}

// Verdict is what became of a message.
type Verdict uint8

// The verdicts.
const (
	// None: no mapping has the topic, or it is one of the format none.
	None Verdict = iota
	// Taken: kept, at Taking.Position.
	Taken
	// Dropped: a mapping has it, but there is nothing to keep: the payload is not what the
	// format says, the device is unknown, pending or disabled, or it is a word of presence or a
	// retained message that tells nothing new. Counted.
	Dropped
	// Later: the log is full; present it again.
	Later
	// Stopping: the hub takes nothing any more.
	Stopping
)

// Taking is a message to be taken.
type Taking struct {
	// Topic is valid during the call as Payload is.
	Topic   string
	Payload []byte
	// Link may be nil: then commands go where they went before.
	Link Link
	// Retained messages are the past: they tell the state of a device that has none yet, and
	// presence, but nothing new. It is not the RETAIN flag of what a client publishes just now.
	Retained bool
	// Unordered says that messages of one device may come in another order than it sent them: its
	// numbers (seq) are not compared then.
	Unordered bool
	// Awaited says that somebody waits for the commit: its urgency.
	Awaited bool
	// Budget is asked first whether the device can pay for the message; nil: it need not. With no
	// the verdict is Later.
	Budget Budget
	// Also is an entry to append in the same commit, behind the telemetry's; nil for none. It
	// is appended with Taken alone.
	Also *signalbox.Entry
	// Position is what has to be on disk before the message may be acknowledged. It is that of
	// Also where there is one. With Dropped it is that of a message which this one repeats, else 0.
	Position signalbox.Position
}
