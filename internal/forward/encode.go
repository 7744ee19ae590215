package forward

import (
	"bytes"
	"slices"
	"strconv"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/replay"
	"signalbox/internal/wire"
)

// viewerLayout is the time of the original live viewers' frame, server-local (PROTOCOLS, B2).
const viewerLayout = "2006-01-02 15:04:05"

// encoder turns entries into messages as a Spec wants them. It is used by one goroutine.
type encoder struct {
	format   string
	scheme   scheme
	template *Template
	topic    *Template
	fixed    string // the topic, if it is the same for all
	field    string
	fields   []string
	keys     [][]byte // of fields, with quotes and colon
	sequence bool
	run      string // the mark of this run, for sequence
	// cursor appends an entry's cursor. Each epoch of the log has its own.
	cursor func(dst []byte, p signalbox.Position) []byte
	// command shows a command's body as the API does; nil: as it is.
	command func(body []byte) (device string, object []byte, err error)
	stamps  stamps
	local   stampLocal
	object  []byte // scratch
	replay  replay.Mark
}

// newEncoder compiles what a checked spec says.
func newEncoder(spec *Spec, cursor func(dst []byte, p signalbox.Position) []byte, run string) (*encoder, error) {
	d := spec.Defaulted()
	e := &encoder{format: d.Format, scheme: schemeOf(d.To), field: d.Field, fields: d.Fields, sequence: d.Sequence, run: run, cursor: cursor}
	for _, f := range d.Fields {
		e.keys = append(e.keys, append(wire.AppendString(nil, f), ':'))
	}
	var err error
	if d.Format == FormatTemplate {
		if e.template, err = CompileTemplate(d.Template); err != nil {
			return nil, err
		}
	}
	if d.Topic != "" {
		if e.topic, err = CompileTopic(d.Topic); err != nil {
			return nil, err
		}
		e.fixed, _ = e.topic.constant()
	}
	return e, nil
}

// carriesMark says whether a receiver can tell what a replay plays.
func (e *encoder) carriesMark() bool {
	return e.format == FormatJSON || e.format == FormatTemplate && e.template.has(pieceReplay)
}

// span is where a text is in the memory of a batch.
type span struct{ from, to int }

// draft is a message whose texts may still move.
type draft struct {
	body, data, cursor span
	// reason says why it cannot be sent: it becomes a dead letter.
	reason string
}

// batch is some messages in a row, and their memory.
type batch struct {
	msgs   []Message
	drafts []draft
	buf    []byte
	text   []byte // of cursors
	// scanned is the position up to which the log was looked at when the batch was full; seq the
	// last number given.
	scanned signalbox.Position
	seq     uint64
	// skips are positions that were given up.
	skips []skip
	// gap is where history had not everything any more; to is 0 without one.
	gap skip
}

// skip is a range of positions from < p ≤ to.
type skip struct {
	from, to signalbox.Position
	why      string
}

func (b *batch) reset() {
	clear(b.msgs)
	b.msgs, b.drafts, b.buf, b.text, b.scanned, b.skips, b.gap = b.msgs[:0], b.drafts[:0], b.buf[:0], b.text[:0], 0, b.skips[:0], skip{}
}

// seal gives the messages their texts, now that these do not move any more.
func (b *batch) seal() {
	text := string(b.text)
	for i := range b.drafts {
		d, m := &b.drafts[i], &b.msgs[i]
		m.Body = b.buf[d.body.from:d.body.to:d.body.to]
		if d.data.to > d.data.from {
			m.Data = b.buf[d.data.from:d.data.to:d.data.to]
		}
		m.Cursor = text[d.cursor.from:d.cursor.to]
	}
}

// add encodes an entry of a device of type typ. msg has everything but Cursor, Body, Data and
// Topic. It reports false when the entry is left out.
func (e *encoder) add(b *batch, msg Message, kind signalbox.EntryKind, typ string, body []byte) bool {
	var parsed gjson.Result
	if kind.IsTelemetry() && (len(e.fields) > 0 || e.format == FormatViewer) || e.needsFields() {
		parsed = gjson.ParseBytes(body)
	}
	object, ok := e.objectOf(kind, body, parsed)
	if !ok {
		return false
	}
	b.msgs = append(b.msgs, msg)
	m := &b.msgs[len(b.msgs)-1]
	from := len(b.buf)
	d := draft{cursor: span{from: len(b.text)}}
	b.text = e.cursor(b.text, m.Position)
	d.cursor.to = len(b.text)
	cursor := b.text[d.cursor.from:]
	switch e.format {
	case FormatViewer:
		if b.buf, ok = e.appendViewer(b.buf, m, parsed); !ok {
			b.msgs, b.text = b.msgs[:len(b.msgs)-1], b.text[:d.cursor.from]
			return false
		}
	case FormatTemplate:
		b.buf = e.fill(b.buf, e.template, m, typ, object, parsed, cursor, &d)
	default:
		if e.sequence {
			b.seq++
		}
		b.buf, d.data = e.appendLine(b.buf, m, kind, object, cursor, b.seq)
	}
	d.body = span{from, len(b.buf)}
	if e.format == FormatTemplate && e.scheme.lines() {
		oneLine(b.buf[from:])
	}
	if e.topic != nil {
		e.addTopic(b, m, typ, object, parsed, cursor, &d)
	}
	b.drafts = append(b.drafts, d)
	return true
}

func (e *encoder) addTopic(b *batch, m *Message, typ string, object []byte, parsed gjson.Result, cursor []byte, d *draft) {
	if m.Topic = e.fixed; m.Topic != "" {
		return
	}
	at := len(b.buf)
	b.buf = e.fill(b.buf, e.topic, m, typ, object, parsed, cursor, d)
	m.Topic = string(b.buf[at:])
	b.buf = b.buf[:at]
	if len(m.Topic) > maxTopicLen && d.reason == "" {
		d.reason = "the topic is longer than MQTT allows"
	}
}

func (e *encoder) needsFields() bool {
	return e.template != nil && e.template.fields || e.topic != nil && e.topic.fields
}

// fill renders a template.
func (e *encoder) fill(dst []byte, t *Template, m *Message, typ string, object []byte, parsed gjson.Result, cursor []byte, d *draft) []byte {
	if t.has(pieceCursor) {
		m.Cursor = string(cursor)
	}
	v := values{m: m, typ: typ, object: object, parsed: parsed, stamps: &e.stamps}
	dst, reason := t.append(dst, &v)
	if reason != "" {
		d.reason = reason
	}
	return dst
}

// objectOf gives an entry's JSON object in one line. It reports false when the entry has nothing
// of what was chosen.
func (e *encoder) objectOf(kind signalbox.EntryKind, body []byte, parsed gjson.Result) ([]byte, bool) {
	switch {
	case kind == signalbox.EntryCommand && e.command != nil:
		if _, object, err := e.command(body); err == nil {
			body = object
		}
	case kind.IsTelemetry() && len(e.fields) > 0:
		b := e.object[:0]
		b = append(b, '{')
		for i, f := range e.fields {
			v, ok := wire.Field(parsed, f)
			if !ok {
				continue
			}
			if len(b) > 1 {
				b = append(b, ',')
			}
			b = append(append(b, e.keys[i]...), v.Raw...)
		}
		if len(b) == 1 {
			return nil, false
		}
		b = append(b, '}')
		e.object, body = b, b
	}
	if bytes.IndexByte(body, '\n') < 0 && bytes.IndexByte(body, '\r') < 0 {
		return body, true
	}
	// A text of JSON cannot hold these (RFC 8259, section 7): they are insignificant white space.
	e.object = append(e.object[:0], body...)
	oneLine(e.object)
	return e.object, true
}

// oneLine makes blanks of line breaks.
func oneLine(text []byte) {
	for i, c := range text {
		if c == '\n' || c == '\r' {
			text[i] = ' '
		}
	}
}

// appendLine writes the JSON of a message, the same as the live stream's events.
func (e *encoder) appendLine(b []byte, m *Message, kind signalbox.EntryKind, object, cursor []byte, seq uint64) (out []byte, data span) {
	b = wire.AppendString(append(b, `{"device":`...), m.Name)
	b = append(append(append(b, `,"kind":"`...), m.Kind...), `","position":`...)
	b = strconv.AppendUint(b, uint64(m.Position), 10)
	b = append(append(append(b, `,"cursor":"`...), cursor...), `","received":"`...)
	b = e.stamps.received.append(b, m.ReceivedMicros)
	b = e.stamps.time.append(append(b, `","time":"`...), m.TimeMicros)
	switch kind {
	case signalbox.EntryPresence:
		b = append(b, `","presence":`...)
	case signalbox.EntryCommand:
		b = append(b, `","command":`...)
	default:
		b = append(b, `","object":`...)
	}
	data.from = len(b)
	b = append(b, object...)
	data.to = len(b)
	if m.Redelivered {
		b = append(b, `,"redelivered":true`...)
	}
	if m.Replay != "" {
		b = wire.AppendString(append(b, `,"`+wire.ReplayMember+`":{"id":`...), e.replay.ID)
		b = append(wire.AppendString(append(b, `,"hub":`...), e.replay.Hub), '}')
	}
	if e.sequence {
		b = strconv.AppendUint(append(b, `,"seq":`...), seq, 10)
		b = append(append(append(b, `,"run":"`...), e.run...), '"')
	}
	return append(b, '}'), data
}

// appendViewer writes the frame of the original live viewers, or reports that the message has no
// such field.
func (e *encoder) appendViewer(b []byte, m *Message, parsed gjson.Result) ([]byte, bool) {
	v, ok := wire.Field(parsed, e.field)
	if !ok || v.Type == gjson.Null {
		return b, false
	}
	b = append(b, `{"state": "OK", "type": "new_data", "response": {"time": "`...)
	b = e.local.append(b, m.TimeMicros)
	b = append(b, `", "temp": `...)
	b = wire.AppendPyString(b, wire.Spelled(v))
	return append(b, `}}`...), true
}

// stampLocal writes server-local times; it keeps the text of the last second.
type stampLocal struct {
	second int64
	text   []byte
}

func (s *stampLocal) append(dst []byte, micros int64) []byte {
	t := time.UnixMicro(micros)
	if second := t.Unix(); s.text == nil || second != s.second {
		s.second, s.text = second, t.Local().AppendFormat(s.text[:0], viewerLayout)
	}
	return append(dst, s.text...)
}

// asRedelivered gives the JSON line of a dead letter the mark that it may have been sent before.
func asRedelivered(format string, body []byte) []byte {
	const mark = `,"redelivered":true`
	if format != FormatJSON || len(body) < 2 || body[len(body)-1] != '}' || bytes.HasSuffix(body, []byte(mark+"}")) {
		return body
	}
	return append(append(slices.Clone(body[:len(body)-1]), mark...), '}')
}
