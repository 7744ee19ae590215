package mapped

import (
	"signalbox"
)

// A Message is a payload of a device that speaks another platform's dialect, made telemetry.
type Message struct {
	// Body is the object; it may be part of the payload.
	Body []byte
	// TimeMicros is the device's own time, Unix µs, 0 for none.
	TimeMicros int64
}

// Answer is what a device says of a command.
type Answer struct {
	// ID is the command's.
	ID string
	// OK says that it was done; Value is what the device gave back, any JSON value or nothing.
	OK    bool
	Value []byte
	Error string
}

// Dialect is the MQTT of another platform for devices, spoken by a device on a connection of its
// own, where the topics name no device: they mean the one that logged in.
type Dialect interface {
	// MayPublish and MaySubscribe are the device's rights: whether the topic or filter is one of
	// the dialect's.
	MayPublish(topic string) bool
	MaySubscribe(filter string) bool
	// Telemetry gives the messages that a payload on a topic of telemetry is, appended to into;
	// ok is false for another topic. With an error nothing of the payload is to be kept.
	Telemetry(into []Message, topic string, payload []byte) (messages []Message, ok bool, err error)
	// Converse begins a device's exchange of commands; where they are numbered, the numbers go on
	// after the one given.
	Converse(after int) Conversation
}

// Conversation is one device's commands and answers. Its methods may be called from any
// goroutine.
type Conversation interface {
	// Listens reports whether the filter, which the device has subscribed to, lets it hear
	// commands.
	Listens(filter string) bool
	// Command gives topic and payload of a command; asked again for the same one, as long as there
	// is no answer, the same.
	Command(c *signalbox.Command) (topic string, payload []byte, err error)
	// Answer reads what the device says of a command; ok is false for another topic, and for an
	// answer to nothing that was asked.
	Answer(topic string, payload []byte) (a Answer, ok bool)
}
