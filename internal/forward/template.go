package forward

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/wire"
)

// Template is a text with placeholders in braces, compiled once:
//
//	{device} {type} {kind}            the device's name and type, the entry's kind
//	{received} {time}                 RFC 3339 in UTC, with ms
//	{received_ms} {time_ms}           Unix ms
//	{position} {cursor}               the entry's place in the log
//	{object}                          the entry's JSON object
//	{field.NAME}                      a field of it by its name or dotted path, as it was spelt, texts
//	                                  without their quotes; nothing without that field
//	{field.NAME.json}                 the same as JSON; null without that field
//	{redelivered}                     true or false: it may have been sent before
//	{replay}                          the id of the replay that plays it, or nothing
//
// {{ and }} are braces. Where a line break ends a message (tcp, tcp-listen), those in what is put in
// become blanks; {field.NAME.json} keeps them. A topic has only those of the first row, {position}, {cursor}, {field.NAME}
// and {replay}; what is put into it may not be empty nor hold /, +, # or NUL.
//
// A Template may be used from any goroutine.
type Template struct {
	pieces []piece
	topic  bool
	fields bool // there are pieces of fields
}

type pieceKind uint8

const (
	pieceText pieceKind = iota
	pieceDevice
	pieceType
	pieceKindName
	pieceReceived
	pieceTime
	pieceReceivedMs
	pieceTimeMs
	piecePosition
	pieceCursor
	pieceObject
	pieceField
	pieceFieldJSON
	pieceRedelivered
	pieceReplay
)

// piece is a part of a template: a text, or a placeholder. text is the text, or a field's path.
type piece struct {
	kind pieceKind
	text string
}

const (
	// maxTemplate and maxTopic bound the texts of templates, in bytes.
	maxTemplate = 64 << 10
	maxTopic    = 1024
	// maxTopicLen is the longest topic there is, in bytes (MQTT 5.0, section 1.5.4).
	maxTopicLen = 65535

	allowedInText  = "{device}, {type}, {kind}, {received}, {time}, {received_ms}, {time_ms}, {position}, {cursor}, {object}, {field.NAME}, {field.NAME.json}, {redelivered}, {replay}, and {{ or }} for a brace"
	allowedInTopic = "{device}, {type}, {kind}, {position}, {cursor}, {field.NAME}, {replay}, and {{ or }} for a brace"
)

// placeholder gives the kind of a word in braces, pieceText for none.
func placeholder(word string) pieceKind {
	switch word {
	case "device":
		return pieceDevice
	case "type":
		return pieceType
	case "kind":
		return pieceKindName
	case "received":
		return pieceReceived
	case "time":
		return pieceTime
	case "received_ms":
		return pieceReceivedMs
	case "time_ms":
		return pieceTimeMs
	case "position":
		return piecePosition
	case "cursor":
		return pieceCursor
	case "object":
		return pieceObject
	case "redelivered":
		return pieceRedelivered
	case "replay":
		return pieceReplay
	default:
		return pieceText
	}
}

// CompileTemplate reads a template of bodies, CompileTopic one of MQTT topics. Errors are of
// KindInvalid and name what is allowed.
func CompileTemplate(text string) (*Template, error) {
	if text == "" || len(text) > maxTemplate {
		return nil, badTemplate("the template has %d bytes; it needs 1 to %d", len(text), maxTemplate)
	}
	return (&Template{}).compile(text)
}

// CompileTopic reads a template of an MQTT topic (MQTT 5.0, section 4.7).
func CompileTopic(text string) (*Template, error) {
	t := &Template{topic: true}
	switch {
	case text == "" || len(text) > maxTopic:
		return nil, badTemplate("the topic has %d bytes; it needs 1 to %d", len(text), maxTopic)
	case strings.ContainsAny(text, "+#\x00"):
		return nil, badTemplate("the topic %q holds «+», «#» or NUL, which no topic that is published to may", text)
	case text[0] == '$':
		return nil, badTemplate("the topic %q begins with «$», which is the broker's own", text)
	case !wire.ValidText([]byte(text)):
		return nil, badTemplate("the topic is not valid UTF-8")
	}
	return t.compile(text)
}

func badTemplate(format string, args ...any) error {
	return signalbox.Errorf(signalbox.KindInvalid, "invalid_template", format, args...)
}

func (t *Template) compile(text string) (*Template, error) {
	var plain strings.Builder
	flush := func() {
		if plain.Len() > 0 {
			t.pieces = append(t.pieces, piece{pieceText, plain.String()})
			plain.Reset()
		}
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c != '{' && c != '}':
			plain.WriteByte(c)
		case i+1 < len(text) && text[i+1] == c:
			plain.WriteByte(c)
			i++
		case c == '}':
			return nil, badTemplate("there is a «}» without its «{» at byte %d; write «}}» for the sign itself", i)
		default:
			word, _, closed := strings.Cut(text[i+1:], "}")
			if !closed {
				return nil, badTemplate("the «{» at byte %d is not closed; write «{{» for the sign itself", i)
			}
			p, err := t.piece(word)
			if err != nil {
				return nil, err
			}
			flush()
			t.pieces = append(t.pieces, p)
			i += len(word) + 1
		}
	}
	flush()
	return t, nil
}

// piece reads what stands between braces.
func (t *Template) piece(word string) (piece, error) {
	allowed := allowedInText
	if t.topic {
		allowed = allowedInTopic
	}
	p := piece{kind: placeholder(word)}
	if name, ok := strings.CutPrefix(word, "field."); ok && name != "" {
		p = piece{pieceField, name}
		if path, ok := strings.CutSuffix(name, ".json"); ok && path != "" {
			p = piece{pieceFieldJSON, path}
		}
		if err := signalbox.CheckField("field", p.text); err != nil {
			return p, badTemplate("{%s} is no placeholder: %s", word, err)
		}
		t.fields = true
	}
	bad := p.kind == pieceText
	if t.topic {
		switch p.kind {
		case pieceReceived, pieceTime, pieceReceivedMs, pieceTimeMs, pieceObject, pieceFieldJSON, pieceRedelivered:
			bad = true
		default:
		}
	}
	if bad {
		return p, badTemplate("{%s} is no placeholder here; allowed are %s", word, allowed)
	}
	return p, nil
}

// has says whether a placeholder is in the template.
func (t *Template) has(kind pieceKind) bool {
	for _, p := range t.pieces {
		if p.kind == kind {
			return true
		}
	}
	return false
}

// constant gives the text of a template without placeholders.
func (t *Template) constant() (string, bool) {
	if len(t.pieces) == 1 && t.pieces[0].kind == pieceText {
		return t.pieces[0].text, true
	}
	return "", false
}

// holdsBreak says whether the template's own text has line breaks.
func (t *Template) holdsBreak() bool {
	for _, p := range t.pieces {
		if p.kind == pieceText && strings.ContainsAny(p.text, "\r\n") {
			return true
		}
	}
	return false
}

// values are what a template is filled with.
type values struct {
	m      *Message
	typ    string
	object []byte
	parsed gjson.Result // of object, when fields are needed
	stamps *stamps
}

// maxFilled bounds what a template gives, in bytes, so that one which names a large object many times
// does not take the hub's memory.
const maxFilled = 4 << 20

// append renders the template. reason says, if it is not empty, why what it gives cannot be used;
// of what became too large nothing is given.
func (t *Template) append(dst []byte, v *values) (out []byte, reason string) {
	begin := len(dst)
	for i := range t.pieces {
		p := &t.pieces[i]
		from := len(dst)
		dst = p.append(dst, v)
		if len(dst)-begin > maxFilled {
			return dst[:begin], "what the template gives is larger than " + strconv.Itoa(maxFilled>>20) + " MiB"
		}
		if t.topic && p.kind != pieceText {
			if reason := unfit(p, dst[from:]); reason != "" {
				return dst, reason
			}
		}
	}
	return dst, ""
}

// unfit says why a text cannot be a part of a topic.
func unfit(p *piece, text []byte) string {
	name := "a placeholder"
	switch p.kind {
	case pieceField:
		name = "{field." + p.text + "}"
	case pieceDevice:
		name = "{device}"
	case pieceType:
		name = "{type}"
	default:
	}
	switch {
	case len(text) == 0 && p.kind != pieceReplay:
		return "the topic needs " + name + ", which the message does not have"
	case bytes.ContainsAny(text, "/+#\x00"):
		return "what " + name + " puts into the topic holds «/», «+», «#» or NUL: " + strconv.Quote(string(text[:min(len(text), 100)]))
	case len(text) > maxTopic:
		return "what " + name + " puts into the topic is too long"
	}
	return ""
}

func (p *piece) append(dst []byte, v *values) []byte {
	switch p.kind {
	case pieceText:
		return append(dst, p.text...)
	case pieceDevice:
		return append(dst, v.m.Name...)
	case pieceType:
		return append(dst, v.typ...)
	case pieceKindName:
		return append(dst, v.m.Kind...)
	case pieceReceived:
		return v.stamps.received.append(dst, v.m.ReceivedMicros)
	case pieceTime:
		return v.stamps.time.append(dst, v.m.TimeMicros)
	case pieceReceivedMs:
		return strconv.AppendInt(dst, v.m.ReceivedMicros/1000, 10)
	case pieceTimeMs:
		return strconv.AppendInt(dst, v.m.TimeMicros/1000, 10)
	case piecePosition:
		return strconv.AppendUint(dst, uint64(v.m.Position), 10)
	case pieceCursor:
		return append(dst, v.m.Cursor...)
	case pieceObject:
		return append(dst, v.object...)
	case pieceField:
		if f, ok := wire.Field(v.parsed, p.text); ok {
			return append(dst, wire.Spelled(f)...)
		}
		return dst
	case pieceFieldJSON:
		if f, ok := wire.Field(v.parsed, p.text); ok {
			return append(dst, f.Raw...)
		}
		return append(dst, "null"...)
	case pieceRedelivered:
		return strconv.AppendBool(dst, v.m.Redelivered)
	case pieceReplay:
		return append(dst, v.m.Replay...)
	default:
		return dst
	}
}
