package packet

import "fmt"

// Error says what is wrong with a packet, a topic name or a topic filter. [Packet.Decode],
// [Size], [CheckTopic], [CheckFilter] and the other checks return it as *Error.
type Error struct {
	// Reason is what 5.0 wants a DISCONNECT, or the CONNACK to a bad CONNECT, to say.
	Reason Reason
	// Section is the statement or the section that the packet breaks, of 5.0 where both
	// standards have it: "MQTT-3.3.1-4", "3.8.3.1".
	Section string
	// Text is the sentence without the section: what was wrong, what is allowed.
	Text string
}

// Error gives the sentence and the section.
func (e *Error) Error() string { return e.Text + " [" + e.Section + "]" }

// malformed is an [Error] for bytes that are no packet of the standard.
func malformed(section, format string, a ...any) error {
	return fault(MalformedPacket, section, format, a...)
}

// violation is an [Error] for a packet that can be read and must not be sent.
func violation(section, format string, a ...any) error {
	return fault(ProtocolError, section, format, a...)
}

func fault(r Reason, section, format string, a ...any) error {
	return &Error{Reason: r, Section: section, Text: fmt.Sprintf(format, a...)}
}

// short is the error for a packet that ends inside what.
func short(what string) error {
	return malformed("2.1.4", "the packet ends inside %s", what)
}

// clip makes a text from the wire fit for an error: a copy, not too long.
func clip(b []byte) string {
	const most = 80
	if len(b) > most {
		return string(b[:most]) + "…"
	}
	return string(b)
}
