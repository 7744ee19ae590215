package durable

import (
	"time"

	"signalbox"
)

// SessionID names a durable session. It is never used again.
type SessionID uint64

// Subscription is one of a session's, with the options of 5.0 (3.8.3.1).
type Subscription struct {
	Filter                     string
	QoS                        uint8
	NoLocal, RetainAsPublished bool
	Handling                   uint8
	// Giving says that the session has not got all the retained messages of it yet.
	Giving bool
	// ID is the subscription identifier, 0 for none.
	ID uint32
}

// Message is an application message as it is kept: what subscribers get of a publish.
type Message struct {
	Topic   string
	Payload []byte
	// Properties are those that are passed on (3.3.2.3: payload format, content type, response
	// topic, correlation data, user properties), encoded as in a PUBLISH, without the length.
	Properties []byte
	QoS        uint8
	Retain     bool // as published
	// ExpiresAt is when it is worth nothing any more; zero for never.
	ExpiresAt time.Time
	// From is the owner who published it, so that «no local» holds after a restart too.
	From string
}

// Will is a session's last will.
type Will struct {
	Message Message
	Delay   time.Duration
}

// Session is what is kept of one session. Times are kept to the millisecond.
type Session struct {
	ID              SessionID
	Owner, ClientID string
	// Volatile: kept for its will alone; a restart publishes that and forgets the session.
	Volatile bool
	// Expiry is the time it outlives its connection; negative: for ever.
	Expiry time.Duration
	// Connected says that it had a connection at the end of the log. ClosedAt is when the last
	// one ended, zero while connected.
	Connected bool
	ClosedAt  time.Time
	Will      *Will

	Subscriptions []Subscription
	// Received are packet identifiers of messages with quality of service 2 that came and were
	// not released yet.
	Received []uint16
	// Of the queue: messages have the numbers 1, 2, 3…; Next is the number of the next one,
	// all below Acked are done, and so are those of Done, which are not below it. Released are those
	// that the client has received (PUBREC) and not completed (PUBCOMP).
	Acked, Next    uint64
	Done, Released []uint64
	// Given are the topics, by TopicHash, of retained messages with quality of service 2 that the
	// session got while some of its subscriptions were Giving. None comes twice.
	Given []uint64
	// Sent says that messages below it may have been sent to the client, and others were not.
	Sent uint64
	// Bytes is about what waits in the queue, and Messages how many.
	Bytes    int64
	Messages int64
}

// Target is a queue that a message goes into.
type Target struct {
	Session SessionID
	// N is the number it gets there: the session's Next before.
	N uint64
	// QoS is 1 or 2; Retain the flag that the subscriber gets.
	QoS    uint8
	Retain bool
	// Given says that it is a retained message that a subscription was owed: see Session.Given.
	Given bool
	// IDs are subscription identifiers.
	IDs []uint32
}

// Item is a message in a queue.
type Item struct {
	Target
	*Message
}

// Image is what a start finds.
type Image struct {
	Sessions []Session
	Retained []*Message
	// At is when the hub before this one wrote the last thing: its connections ended about
	// then.
	At time.Time
}

// Record is one change on its way to the log. Entry may be appended by others. A record that
// was made is given back by Done or Drop, and not used after that.
type Record struct {
	Entry signalbox.Entry
	// relieves: the record takes something away, so that it is taken when nothing else is.
	relieves bool
}
