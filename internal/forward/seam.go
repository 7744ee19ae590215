package forward

import (
	"context"
	"errors"
	"time"

	"signalbox"
)

// Message is one entry, encoded for a target.
type Message struct {
	Position signalbox.Position
	Device   signalbox.DeviceID
	// Name is the device's, Kind the entry's word, Cursor its place for others (history.Log.Cursor).
	Name, Kind, Cursor string
	ReceivedMicros     int64
	TimeMicros         int64
	// Body is what goes out: a JSON line without its line break, what a template gives, or the B2
	// frame.
	Body []byte
	// Data is the entry's JSON object alone: telemetry (its Fields only, if Spec names some), a
	// presence or a command as the stream shows it. A webhook with the format json makes a
	// CloudEvent of it; empty: of Body.
	Data []byte
	// Topic is what Spec.Topic gives for this message (MQTT alone). A target refuses one that
	// cannot be published to.
	Topic string
	// Redelivered says that the message may have been sent before.
	Redelivered bool
	// Replay is the id of the replay that it is played by; empty: it has just happened.
	Replay string
}

// Target is where a forwarder sends to. Its methods are called by one goroutine at a time. It may also have
// Receivers() []string, who is connected at present, and Failed() int64, how many messages could
// not be sent; these are called from any goroutine.
type Target interface {
	// Open connects. settled is to be called, from any goroutine, with the position up to which
	// the receiver has all that was sent through the Sink, whenever that moves on. It must not
	// block, and must not be called any more when the Sink's Close has returned.
	Open(ctx context.Context, settled func(signalbox.Position)) (Sink, error)
	// Close ends what the target keeps between connections: a listener, idle connections.
	Close() error
}

// Sink is an open way to a target; it is used by one goroutine at a time, and what it reports while
// it has a batch in hand counts at once.
type Sink interface {
	// Send hands over messages in their order, and returns when the transport has taken them all.
	// Their memory is lent for the call. An error means that the sink is of no use any more:
	// whoever sends closes it, waits and opens another, which gets again what was not settled. A
	// *Refused names a message that the receiver does not want; everything before it is settled, and
	// if it says Usable the sink goes on. An *Unsent around the error tells what cannot have left.
	// Positions grow within a batch and from batch to batch. What a replay plays, and dead letters
	// that are sent again, go their own ways: over TCP, UDP and WebSocket they have the position of
	// what was sent before them; over HTTP and MQTT their own, and come when everything else is
	// settled, as does what follows them.
	Send(ctx context.Context, batch []Message) error
	// Flush waits until all that was sent is settled, or ctx ends.
	Flush(ctx context.Context) error
	// Broken is closed when the sink notices by itself that it is of no use any more; nil if it
	// cannot. Err tells why.
	Broken() <-chan struct{}
	Err() error
	// Close lets go of the connection and waits for the sink's goroutines.
	Close() error
}

// Refused is the error of a Sink when a receiver answered that it does not take one message,
// and may never.
type Refused struct {
	Position signalbox.Position
	// Reason is what the receiver answered, in words; Status its number, if it has one.
	Reason string
	Status int
	// Permanent says that trying again is of no use.
	Permanent bool
	// After is how long the receiver wants to be left alone; 0: it did not say.
	After time.Duration
	// Usable says, of what Send returned, that the sink goes on: nothing is under way, and it may be
	// given what follows the message, or the message again. What it was given behind the message may
	// have arrived or not, and is to come again.
	Usable bool
}

// Error implements error.
func (e *Refused) Error() string { return e.Reason }

// Unsent is the error of a Send that knows that not all it was given can have left: of the batch,
// nothing at or behind From was begun. It is Err in all other respects; a message that Err, a
// *Refused, names counts as begun.
type Unsent struct {
	From signalbox.Position
	Err  error
}

// Error implements error.
func (e *Unsent) Error() string { return e.Err.Error() }

// Unwrap gives what went wrong.
func (e *Unsent) Unwrap() error { return e.Err }

// ErrTarget is the error of those who have to do with the target's address: it is not allowed,
// or does not exist. It is told to whoever set the forwarder.
var ErrTarget = errors.New("the target cannot be used")
