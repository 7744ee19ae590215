package target

import (
	"fmt"
	"strconv"
	"time"

	"github.com/tidwall/gjson"

	"signalbox/internal/forward"
	"signalbox/internal/wire"
)

// What CloudEvents 1.0 are called over HTTP (HTTP protocol binding 1.0, 3.1 and 3.2).
const (
	eventType       = "application/cloudevents+json; charset=utf-8"
	eventTypePrefix = "io.signalbox."
	eventTime       = "2006-01-02T15:04:05.000Z07:00"
)

// An event says of a message what CloudEvents want to know: the attributes, without the data.
// Structured and binary mode are written from it.
type event struct {
	id, source, kind, subject string
	time, received            string
	// sequence is the position, of the same length always, so that texts are ordered as numbers
	// are (documented extension Sequence).
	sequence    string
	redelivered bool
	replay      string
}

func newEvent(m *forward.Message, source string, redelivered bool) event {
	return event{
		id: eventID(m), source: source, kind: eventTypePrefix + m.Kind, subject: m.Name,
		time: eventMoment(m.TimeMicros), received: eventMoment(m.ReceivedMicros),
		sequence: fmt.Sprintf("%020d", uint64(m.Position)), redelivered: redelivered, replay: m.Replay,
	}
}

// eventID is the same for the same entry always, however often it is sent. Played by a replay it
// is another event: a receiver that drops duplicates shall see it.
func eventID(m *forward.Message) string {
	if m.Replay == "" {
		return m.Cursor
	}
	return m.Cursor + "-" + m.Replay
}

func eventMoment(micros int64) string { return time.UnixMicro(micros).UTC().Format(eventTime) }

// structured appends the event with its data in the JSON format (JSON event format 1.0, 3). data
// that is no JSON becomes a text.
func (e *event) structured(b, data []byte) []byte {
	b = append(b, `{"specversion":"1.0"`...)
	text := func(name, value string) {
		if value != "" {
			b = append(append(append(b, `,"`...), name...), `":`...)
			b = wire.AppendString(b, value)
		}
	}
	text("id", e.id)
	text("source", e.source)
	text("type", e.kind)
	text("subject", e.subject)
	text("time", e.time)
	text("received", e.received)
	text("sequence", e.sequence)
	if e.redelivered {
		b = append(b, `,"redelivered":true`...)
	}
	text("replay", e.replay)
	if len(data) == 0 {
		return append(b, '}')
	}
	if gjson.ValidBytes(data) {
		b = append(b, `,"datacontenttype":"application/json","data":`...)
		b = append(b, data...)
	} else {
		b = append(b, `,"datacontenttype":"text/plain","data":`...)
		b = wire.AppendString(b, data)
	}
	return append(b, '}')
}

// binary gives the attributes as headers, beside a body that is the data.
func (e *event) binary(set func(name, value string)) {
	header := func(name, value string) {
		if value != "" {
			set("Ce-"+name, headerText(value))
		}
	}
	header("Specversion", "1.0")
	header("Id", e.id)
	header("Source", e.source)
	header("Type", e.kind)
	header("Subject", e.subject)
	header("Time", e.time)
	header("Received", e.received)
	header("Sequence", e.sequence)
	if e.redelivered {
		header("Redelivered", strconv.FormatBool(true))
	}
	header("Replay", e.replay)
}

// headerText writes an attribute so that a header can hold it: what is not printable ASCII, space,
// quotation mark and percent sign become %XX of their UTF-8 (HTTP protocol binding 1.0, 3.1.3.2).
func headerText(value string) string {
	const hex = "0123456789ABCDEF"
	out := make([]byte, 0, len(value))
	for i := range len(value) {
		if c := value[i]; c > ' ' && c < 0x7f && c != '"' && c != '%' {
			out = append(out, c)
		} else {
			out = append(out, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(out)
}
