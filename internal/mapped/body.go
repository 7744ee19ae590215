package mapped

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"signalbox/internal/wire"
)

var (
	errPresence = errors.New("the payload is none of the words that the mapping has for online and offline")
	errEmpty    = errors.New("the payload is empty")
	errJSON     = errors.New("the payload is no JSON value (RFC 8259)")
	errField    = errors.New("the field's name is empty, longer than 128 bytes or not valid UTF-8")
)

// maxField is the longest name of a field that wildcards make, in bytes.
const maxField = 128

// body gives the telemetry that a payload is: the payload itself, or what it appends to b.
func (m *Map) body(b []byte, r *rule, topic string, c *captures, payload []byte) ([]byte, error) {
	if len(payload) == 0 {
		return b, errEmpty
	}
	if r.field == nil {
		return payload, m.scan(payload)
	}
	start := len(b)
	b, err := r.field.appendKey(b, topic, c)
	if err != nil {
		return b, err
	}
	switch r.Format {
	case FormatNumber:
		b, err = appendNumber(b, payload)
	case FormatText:
		b, err = appendText(b, payload)
	case FormatValue:
		b, err = appendValue(b, payload)
	default:
		b = append(b, payload...)
	}
	if err != nil {
		return b, err
	}
	b = append(b, '}')
	if r.Format == FormatNumber {
		return b, nil
	}
	if len(b)-start > m.cfg.MaxBody {
		return b, fmt.Errorf("the telemetry would have %d bytes; at most %d are allowed", len(b)-start, m.cfg.MaxBody)
	}
	if r.Format == FormatJSON {
		if err := m.scan(b[start:]); err != nil {
			return b, err
		}
		// Only together a value: 1,"other":2 would have passed.
		if !gjson.ValidBytes(payload) {
			return b, errJSON
		}
	}
	return b, nil
}

// scan tells whether an object may be telemetry.
func (m *Map) scan(object []byte) error {
	switch {
	case len(object) > m.cfg.MaxBody:
		return fmt.Errorf("the telemetry has %d bytes; at most %d are allowed", len(object), m.cfg.MaxBody)
	case !utf8.Valid(object):
		return errInvalidBytes
	}
	var f wire.Frame
	return wire.Scan(object, m.cfg.Limits, &f)
}

func appendText(b, payload []byte) ([]byte, error) {
	if !utf8.Valid(payload) {
		return b, errInvalidBytes
	}
	return wire.AppendString(b, payload), nil
}

// appendValue appends a number that is spelled as in JSON, true and false as what they are, and
// all else as text.
func appendValue(b, payload []byte) ([]byte, error) {
	if isNumber(payload) || string(payload) == "true" || string(payload) == "false" {
		return append(b, payload...), nil
	}
	return appendText(b, payload)
}
