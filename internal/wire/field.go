package wire

import (
	"strings"

	"github.com/tidwall/gjson"
)

// Field finds the field of a JSON object that path names: a key, or the keys of nested
// objects joined with dots; a key may hold dots itself. So `a.b` is 1 in {"a.b":1} as in
// {"a":{"b":1}}. Of several fields of that name the last in the text counts, as with
// duplicate keys. ok is false when there is none, or object is no object. It agrees with
// Flatten, but also finds objects.
func Field(object gjson.Result, path string) (found gjson.Result, ok bool) {
	if !object.IsObject() {
		return found, false
	}
	object.ForEach(func(key, value gjson.Result) bool {
		rest, begins := strings.CutPrefix(path, key.Str)
		switch {
		case !begins:
		case rest == "":
			found, ok = value, true
		case rest[0] == '.':
			if v, has := Field(value, rest[1:]); has {
				found, ok = v, true
			}
		}
		return true
	})
	return found, ok
}

// Flatten calls yield for each field of a JSON object that is no object itself, in the
// order of the text, under the name by which Field finds it. A name comes more than once
// where the text says it so; the last counts. yield returns whether to go on; Flatten
// whether it came to the end.
func Flatten(object gjson.Result, yield func(name string, value gjson.Result) bool) bool {
	return flatten("", object, yield)
}

func flatten(prefix string, object gjson.Result, yield func(name string, value gjson.Result) bool) bool {
	more := true
	if !object.IsObject() {
		return more
	}
	object.ForEach(func(key, value gjson.Result) bool {
		if value.IsObject() {
			more = flatten(prefix+key.Str+".", value, yield)
		} else {
			more = yield(prefix+key.Str, value)
		}
		return more
	})
	return more
}

// Spelled gives a value as text: a string without its quotes, nothing for null, and
// anything else as it was written, so that 15.0 stays 15.0.
func Spelled(v gjson.Result) string {
	switch v.Type {
	case gjson.Null:
		return ""
	case gjson.String:
		return v.Str
	default:
		return v.Raw
	}
}
