package cli

import (
	"strings"

	"github.com/tidwall/gjson"
)

// field is one value of a telemetry object, nested ones under a dotted name.
type field struct{ name, value string }

// marksFrame says whether f only tells telemetry from other frames, which is nothing new
// to people.
func (f field) marksFrame() bool { return f == field{"type", "telemetry"} }

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

// fieldsText writes an object on one line: servo1=90 status=работает.
func (p paint) fieldsText(object []byte) string {
	var b strings.Builder
	for _, f := range fieldsOf(object) {
		if f.marksFrame() {
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
