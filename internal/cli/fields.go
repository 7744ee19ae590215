package cli

import (
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/wire"
)

// field is one value of a telemetry object, nested ones under a dotted name.
type field struct{ name, value string }

// An envelope tells the keys of a message that belong to the protocol from its readings.
// The zero envelope is that of protocol version 1: there only the type says nothing new.
type envelope struct{ v2 bool }

// holds says whether f belongs to the protocol.
func (e envelope) holds(f field) bool {
	switch f.name {
	case "type":
		return f.value == "telemetry"
	case "seq", "ts", "v", "boot":
		return e.v2
	default:
		return false
	}
}

// envelopeOf finds out how a message was sent: protocol is that of its device's present
// connection, if there is one. A message that was given the time of its own ts is of
// version 2; version 1 has no such key.
func envelopeOf(protocol signalbox.Protocol, object []byte, at time.Time) envelope {
	if protocol.Answers() {
		return envelope{v2: true}
	}
	ts := gjson.GetBytes(object, "ts")
	micros, ok := wire.Time([]byte(ts.Raw))
	return envelope{v2: ok && !at.IsZero() && at.UnixMilli() == micros/1000}
}

// fieldsOf gives the fields of an object in their order; numbers as they were spelt,
// lists as JSON.
func fieldsOf(object []byte) []field {
	var all []field
	var walk func(prefix string, o gjson.Result)
	walk = func(prefix string, o gjson.Result) {
		o.ForEach(func(key, value gjson.Result) bool {
			switch {
			case value.IsObject():
				walk(prefix+key.Str+".", value)
			case value.Type == gjson.String:
				all = append(all, field{prefix + key.Str, value.Str})
			default:
				all = append(all, field{prefix + key.Str, value.Raw})
			}
			return true
		})
	}
	if o := gjson.ParseBytes(object); o.IsObject() {
		walk("", o)
	}
	return all
}

// fieldsText writes an object on one line, without its envelope: servo1=90 status=работает.
func (p paint) fieldsText(object []byte, e envelope) string {
	var b strings.Builder
	for _, f := range fieldsOf(object) {
		if e.holds(f) {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		value := strings.ReplaceAll(clean(f.value), "\n", " ")
		if strings.Contains(value, " ") || value == "" {
			value = `"` + value + `"`
		}
		b.WriteString(p.dim(strings.ReplaceAll(clean(f.name), "\n", " ") + "="))
		b.WriteString(value)
	}
	return b.String()
}
