package broker

import (
	"strconv"
	"unicode/utf8"

	"signalbox/internal/wire/packet"
)

// trait is what is true of a connection, a bit each.
type trait uint8

const (
	// traitVolatile: nothing of what it publishes is retained.
	traitVolatile trait = 1 << iota
	// traitTerse: it wants no reason strings (5.0, 3.1.2.11.7).
	traitTerse
)

// is reports whether a trait is the connection's.
func (s *Session) is(t trait) bool { return s.traits&t != 0 }

// maxWords bounds a reason string in bytes, so that what devices with small buffers get stays
// below 256.
const maxWords = 160

// mostUnsaid is how many acknowledgements may wait for the disk while further failures still get
// words, which take memory until they leave.
const mostUnsaid = 1 << 14

// explains reports whether the client may be told in words why something failed: in 5.0, unless
// it asked for no problem information [MQTT-3.1.2-29].
func (s *Session) explains() bool { return s.version == packet.V5 && !s.is(traitTerse) }

// reasonString gives the properties that have the words as their reason string, none where the words
// are no text that a packet may hold.
func reasonString(words string) (p packet.Properties) {
	if len(words) > maxWords {
		n := maxWords
		for n > 0 && !utf8.RuneStart(words[n]) {
			n--
		}
		words = words[:n]
	}
	if words != "" && packet.ValidText([]byte(words)) {
		p.ReasonString = []byte(words)
		p.Set(packet.ReasonString)
	}
	return p
}

// failed puts the acknowledgement of a failure into the queue, with words where the client wants
// them and takes a packet of that size [MQTT-3.4.2-2] [MQTT-3.5.2-2] [MQTT-3.7.2-2].
func (s *Session) failed(e ack, words string) {
	e.again = true
	if s.explains() && s.c.b.stats.WaitingAcks.Load() < mostUnsaid {
		p := reasonString(words)
		if b := packet.AppendAck(nil, s.version, e.kind, e.id, e.reason, &p); !s.tooLarge(len(b)) {
			e.whole = &whole{packet: b}
		}
	}
	s.answer(e)
}

// suback encodes a SUBACK; refused is the index of the first filter that was refused, -1 for
// none. Words go with that where the client wants them and takes the packet [MQTT-3.9.2-1].
func (s *Session) suback(id uint16, reasons []byte, refused int) []byte {
	if refused >= 0 && s.explains() {
		words := filterWords(packet.Reason(reasons[refused]))
		if len(reasons) > 1 {
			words = "filter " + strconv.Itoa(refused+1) + ": " + words
		}
		p := reasonString(words)
		if b := packet.AppendSuback(nil, s.version, id, reasons, &p); !s.tooLarge(len(b)) {
			return b
		}
	}
	return packet.AppendSuback(nil, s.version, id, reasons, nil)
}

// filterWords says why a filter was refused.
func filterWords(r packet.Reason) string {
	switch r {
	case packet.TopicFilterInvalid:
		return "the topic filter is not valid, too long or too deep"
	case packet.QuotaExceeded:
		return "there are too many topic filters, or they are too long together"
	case packet.NotAuthorized:
		return "this client may not subscribe to the topic filter"
	default:
		return r.String()
	}
}
