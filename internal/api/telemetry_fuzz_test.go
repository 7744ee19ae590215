package api

import (
	"errors"
	"math"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/wire"
)

// FuzzTelemetryQuery takes any query of an address: it is refused in words, or asks one
// question that history can be asked.
func FuzzTelemetryQuery(f *testing.F) {
	for _, seed := range []string{
		"from=2024-05-01T12:00:00Z&to=2024-05-02T00:00:00%2B02:00&fields=a,b.c", "buckets=10&fields=temp", "buckets=1&at=5", "row=-1&limit=3",
		"at=NaN", "from=9223372036854775807", "cursor=dAAABhdngIt3gAAAAAAAAAAB", "row=5&order=asc", "from=2&to=1", "fields=,", "from=0001-01-01T00:00:00Z",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		given, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		in := telemetryInput{given: given, Order: given.Get("order"), Cursor: given.Get("cursor")}
		asked, err := in.question()
		said(t, err)
		if err == nil && asked != "" {
			for _, other := range []string{askBuckets, askAt, askRow, "cursor", "order"} {
				if other != asked && in.has(other) {
					t.Errorf("%q asks for %s with %s", query, asked, other)
				}
			}
		}
		from, to, err := parseRange(given.Get("from"), given.Get("to"))
		said(t, err)
		if err == nil && !from.IsZero() && !to.IsZero() && !from.Before(to) {
			t.Errorf("%q gave %v to %v", query, from, to)
		}
		at, err := parseTime("at", given.Get("at"))
		said(t, err)
		if err == nil && wholeMillisecond(at).Truncate(time.Millisecond) != at.Truncate(time.Millisecond) {
			t.Errorf("%v became %v", at, wholeMillisecond(at))
		}
		fields, err := chosenFields(strings.Split(given.Get("fields"), ","))
		said(t, err)
		if err == nil && len(fields) > MaxColumns {
			t.Errorf("%d fields", len(fields))
		}
		_, err = decodeHistory(history.OldestFirst, in.Cursor)
		said(t, err)
	})
}

// said holds an error to be one of the caller's, in words.
func said(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	p, isProblem := errors.AsType[*Problem](err)
	e, isError := errors.AsType[*signalbox.Error](err)
	if isProblem && (p.Status != 400 || p.Detail == "") || isError && (e.Kind != signalbox.KindInvalid || e.Message == "") || !isProblem && !isError {
		t.Errorf("%#v", err)
	}
}

// FuzzSought holds the quick search for fields to the thorough one.
func FuzzSought(f *testing.F) {
	f.Add(`{"a":1,"b":{"c":null}}`, "a,b.c,d")
	f.Add(`{"\u0061":1,"x.y":{"z":2}}`, "a,x.y.z,y")
	f.Fuzz(func(t *testing.T, object, names string) {
		if !gjson.Valid(object) || !utf8.ValidString(object) {
			return
		}
		fields, err := chosenFields(strings.Split(names, ","))
		if err != nil {
			return
		}
		left := newSought(fields)
		done := left.look([]byte(object))
		missing := 0
		for _, name := range fields {
			if _, ok := wire.Field(gjson.Parse(object), name); !ok {
				if missing >= len(left.fields) || left.fields[missing] != name {
					t.Errorf("%q is not in %s, and %q are missed", name, object, left.fields)
					return
				}
				missing++
			}
		}
		if missing != len(left.fields) || done != (missing == 0) {
			t.Errorf("%q are missed in %s, not %d", left.fields, object, missing)
		}
	})
}

func TestAppendNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 25.8: "25.8", -1e6: "-1000000", 1e21: "1e+21", 1e-7: "1e-07", math.MaxFloat64: "1.7976931348623157e+308", math.Inf(1): "null", math.Inf(-1): "null",
	} {
		have := string(appendNumber(nil, v))
		if back, err := strconv.ParseFloat(have, 64); have != want || want != "null" && (err != nil || back != v) {
			t.Errorf("%v became %s", v, have)
		}
	}
	if got := string(appendNumber(nil, math.NaN())); got != "null" {
		t.Errorf("NaN became %s", got)
	}
}

func TestAppendCell(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "a": "a", "a b": "a b", " a": `" a"`, "a,b": `"a,b"`, `a"b`: `"a""b"`, "a\nb": "\"a\nb\"", `\.`: `"\."`, "станция": "станция",
	} {
		if have := string(appendCell(nil, text)); have != want {
			t.Errorf("%q became %s, not %s", text, have, want)
		}
	}
}
