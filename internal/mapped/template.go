package mapped

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"signalbox/internal/wire"

	"signalbox"
)

// What a placeholder of a template stands for.
type holder uint8

const (
	literal      holder = iota
	theDevice           // {device}
	theCommand          // {command}
	theValue            // {value}
	theValueJSON        // {value.json}
	theID               // {id}
	theWildcard         // {1}…
	thePart             // {command.1}…
)

// maxParts bounds the parts of a command's name.
const maxParts = 8

// template is a Template that was found good.
type template struct {
	topic, payload []piece
	qos            uint8
	retain         bool
	parts          int   // that a command's name must have, 0: any
	needs          []int // the numbers of the wildcards that are named
}

// piece is some text, or a placeholder.
type piece struct {
	what holder
	text string
	n    int
}

func newTemplate(t *Template, wildcards int) (*template, error) {
	c := &template{qos: t.QoS, retain: t.Retain}
	if t.QoS > 2 {
		return nil, invalid("the command's qos is %d; allowed are 0, 1 and 2", t.QoS)
	}
	first, _, _ := strings.Cut(t.Topic, "/")
	switch {
	case t.Topic == "":
		return nil, invalid("the command's topic is missing; allowed is one such as cmnd/{device}/{command}")
	case !utf8.ValidString(t.Topic) || strings.ContainsAny(t.Topic, "+#\x00") || len(t.Topic) > maxTopic:
		return nil, invalid("the command's topic %.40q has a wildcard or a NUL, is not valid UTF-8 or has more than %d bytes", t.Topic, maxTopic)
	case t.Topic[0] == '$' || first == nativeRoot:
		return nil, invalid("the command's topic %q begins with $ or is one of the hub's own", t.Topic)
	case !utf8.ValidString(t.Payload):
		return nil, invalid("the command's payload is not valid UTF-8")
	}
	var err error
	if c.topic, err = c.parse("topic", t.Topic, wildcards); err != nil {
		return nil, err
	}
	for _, p := range c.topic {
		if p.what == theValueJSON {
			return nil, invalid("the command's topic %q holds {value.json}, which is for payloads", t.Topic)
		}
	}
	c.payload, err = c.parse("payload", t.Payload, wildcards)
	return c, err
}

// parse takes a text apart. Braces around something else than a placeholder's name, as JSON has
// them, are text.
func (c *template) parse(what, text string, wildcards int) ([]piece, error) {
	var pieces []piece
	from := 0
	for at := 0; at < len(text); at++ {
		if text[at] != '{' {
			continue
		}
		end := strings.IndexFunc(text[at+1:], func(r rune) bool { return r != '.' && (r < 'a' || r > 'z') && (r < '0' || r > '9') })
		if end < 1 || text[at+1+end] != '}' {
			continue
		}
		p, ok := c.piece(text[at+1:at+1+end], wildcards)
		if !ok {
			return nil, invalid("the command's %s %q holds {%s}; allowed are {device}, {command}, {command.1} to {command.%d}, {value}, {value.json}, {id} and %s",
				what, text, text[at+1:at+1+end], maxParts, wildcardsAllowed(wildcards))
		}
		if at > from {
			pieces = append(pieces, piece{text: text[from:at]})
		}
		pieces = append(pieces, p)
		from = at + end + 2
		at = from - 1
	}
	if from < len(text) {
		pieces = append(pieces, piece{text: text[from:]})
	}
	return pieces, nil
}

// wildcardsAllowed names the placeholders of that many wildcards.
func wildcardsAllowed(n int) string {
	switch n {
	case 0:
		return "no number, because the filter has no wildcards"
	case 1:
		return "{1} for the filter's wildcard"
	default:
		return "{1} to {" + strconv.Itoa(n) + "} for the filter's wildcards"
	}
}

// within reports whether the filter matches every topic of the template.
func (c *template) within(filter string) bool {
	var b strings.Builder
	for _, p := range c.topic {
		if p.what == literal {
			b.WriteString(p.text)
		} else {
			b.WriteString(markUnknown)
		}
	}
	return covers(filter, b.String())
}

// piece gives the placeholder of that name.
func (c *template) piece(name string, wildcards int) (piece, bool) {
	switch name {
	case "device":
		return piece{what: theDevice}, true
	case "command":
		return piece{what: theCommand}, true
	case "value":
		return piece{what: theValue}, true
	case "value.json":
		return piece{what: theValueJSON}, true
	case "id":
		return piece{what: theID}, true
	}
	if part, ok := strings.CutPrefix(name, "command."); ok {
		n, err := strconv.Atoi(part)
		c.parts = max(c.parts, n)
		return piece{what: thePart, n: n}, err == nil && n >= 1 && n <= maxParts
	}
	n, err := strconv.Atoi(name)
	if !slices.Contains(c.needs, n) {
		c.needs = append(c.needs, n)
	}
	return piece{what: theWildcard, n: n}, err == nil && n >= 1 && n <= wildcards
}

// filling is what the placeholders of a template stand for.
type filling struct {
	device, command, id string
	value               *string
	wildcards           []string // by number, from 1
}

// fill gives topic and payload of a command. The error, of KindInvalid, tells what part of the
// command cannot be said in this way.
func (c *template) fill(f *filling) (topic string, payload []byte, err error) {
	var parts []string
	if c.parts > 0 {
		parts = strings.Split(f.command, ".")
		if len(parts) != c.parts {
			return "", nil, unsuitable(f, "its name has %d parts between dots; %d are needed", len(parts), c.parts)
		}
	}
	var room [128]byte
	b := room[:0]
	for _, p := range c.topic {
		text := f.text(p, parts)
		if p.what != literal {
			if at := strings.IndexAny(text, "/+#\x00"); at >= 0 {
				return "", nil, unsuitable(f, "%q would become part of a topic, where it may not hold %q", text, text[at])
			}
			if text == "" || !utf8.ValidString(text) {
				return "", nil, unsuitable(f, "%s %q would become part of a topic, which needs UTF-8 text that is not empty", p, text)
			}
		}
		b = append(b, text...)
	}
	topic = string(b)
	first, _, _ := strings.Cut(topic, "/")
	if len(topic) > maxTopic || topic[0] == '$' || first == nativeRoot {
		return "", nil, unsuitable(f, "the topic %.40q would begin with $, be one of the hub's own or have more than %d bytes", topic, maxTopic)
	}
	for _, p := range c.payload {
		if p.what == theValueJSON {
			payload = appendJSON(payload, f.value)
			continue
		}
		payload = append(payload, f.text(p, parts)...)
	}
	return topic, payload, nil
}

// text gives what stands for p.
func (f *filling) text(p piece, parts []string) string {
	switch p.what {
	case theDevice:
		return f.device
	case theCommand:
		return f.command
	case theValue:
		if f.value != nil {
			return *f.value
		}
		return ""
	case theID:
		return f.id
	case theWildcard:
		return f.wildcards[p.n]
	case thePart:
		return parts[p.n-1]
	default:
		return p.text
	}
}

// String gives the placeholder as it is written.
func (p piece) String() string {
	switch p.what {
	case theDevice:
		return "{device}"
	case theCommand:
		return "{command}"
	case theValue:
		return "{value}"
	case theValueJSON:
		return "{value.json}"
	case theID:
		return "{id}"
	case theWildcard:
		return "{" + strconv.Itoa(p.n) + "}"
	case thePart:
		return "{command." + strconv.Itoa(p.n) + "}"
	default:
		return p.text
	}
}

// appendJSON appends a command's value as JSON: as it is if it is JSON already, else as a string.
func appendJSON(b []byte, value *string) []byte {
	switch {
	case value == nil:
		return append(b, "null"...)
	case json.Valid([]byte(*value)) && utf8.ValidString(*value):
		return append(b, *value...)
	default:
		return wire.AppendString(b, strings.ToValidUTF8(*value, "\uFFFD"))
	}
}

// unsuitable says why a command cannot be said to a device.
func unsuitable(f *filling, format string, args ...any) error {
	why := signalbox.Errorf(signalbox.KindInvalid, "", format, args...).Message
	return signalbox.Errorf(signalbox.KindInvalid, "command_unsuitable", "the command %q cannot be sent to the device %q: %s", f.command, f.device, why)
}
