package wire_test

import (
	"slices"
	"testing"

	"signalbox/internal/wire"
)

func TestChoice(t *testing.T) {
	for _, test := range []struct {
		name   string
		fields []string
		object string
		want   string // empty: none of the fields
	}{
		{"nothing chosen", nil, `{"a": 1}`, `{"a": 1}`},
		{"one of two", []string{"a"}, `{"a":1.50,"b":2}`, `{"a":1.50}`},
		{"in the order asked for", []string{"b", "a"}, `{"a":1,"b":"x"}`, `{"b":"x","a":1}`},
		{"absent ones", []string{"a", "c", "b"}, `{"b":null}`, `{"b":null}`},
		{"none", []string{"a", "c"}, `{"b":1}`, ""},
		{"the text is there, the field is not", []string{"a"}, `{"b":"a"}`, ""},
		{"dotted", []string{"a.b", "c.d"}, `{"a":{"b":[1,2]},"c.d":{"e":1}}`, `{"a.b":[1,2],"c.d":{"e":1}}`},
		{"the last of two", []string{"a"}, `{"a":1,"a":2}`, `{"a":2}`},
		{"spelt with an escape", []string{"a"}, `{"\u0061":1}`, `{"a":1}`},
		{"a name with quotes", []string{`a"`}, `{"a\"":1}`, `{"a\"":1}`},
		{"< and > stay", []string{"<a>"}, `{"<a>":1}`, `{"<a>":1}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := wire.NewChoice(test.fields)
			if !slices.Equal(c.Fields(), test.fields) || len(c.Values()) != len(test.fields) {
				t.Errorf("it has %q and %d values", c.Fields(), len(c.Values()))
			}
			for range 2 { // nothing is left from the object before
				some := c.Look([]byte(test.object))
				if some != (test.want != "" && len(test.fields) > 0) {
					t.Errorf("some: %v", some)
				}
				want := test.want
				if want == "" {
					want = "{}"
				}
				if got := string(c.Of([]byte(test.object))); got != want {
					t.Errorf("%s, want %s", got, want)
				}
				c.Look([]byte(`{"a":"another","b":7,"<a>":8}`))
			}
		})
	}
}

func BenchmarkChoice(b *testing.B) {
	c := wire.NewChoice([]string{"temp", "servo1"})
	object := []byte(`{"type":"telemetry","status":"ok","temp":21.5,"servo1":90,"servo2":90,"button1":"released"}`)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		if c.Look(object) {
			buf = c.AppendTo(buf[:0])
		}
	}
}
