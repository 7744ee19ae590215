package wire_test

import (
	"testing"

	"github.com/tidwall/gjson"

	"signalbox/internal/wire"
)

func TestField(t *testing.T) {
	const object = `{"a":1,"b":{"c":2,"d":{"e":"x"}},"b.f":3,"b.c.g":4,"":5,"h":{"":6},"i":null,"j":[{"k":7}],"l.m":{"n":8},"o":9,"o":10,"p":{"q":11},"p.q":12,"r.s":13,"r":{"s":14},"\u0074":15,"*":16,"u?":17}`
	for _, tt := range []struct{ path, want string }{
		{"a", "1"},
		{"b", `{"c":2,"d":{"e":"x"}}`},
		{"b.c", "2"},
		{"b.d.e", `"x"`},
		{"b.d.e.f", ""},
		{"b.f", "3"},
		{"b.c.g", "4"},
		{"", "5"},
		{"h.", "6"},
		{"i", "null"},
		{"j.0.k", ""},
		{"j.#", ""},
		{"l.m.n", "8"},
		{"o", "10"},
		{"p.q", "12"},
		{"r.s", "14"},
		{"t", "15"},
		{"*", "16"},
		{"u?", "17"},
		{"a.", ""},
		{".a", ""},
		{"@this", ""},
		{"nothing", ""},
	} {
		got, ok := wire.Field(gjson.Parse(object), tt.path)
		if got.Raw != tt.want || ok != (tt.want != "") {
			t.Errorf("%q is %s, %v; want %s", tt.path, got.Raw, ok, tt.want)
		}
	}
	for _, other := range []string{`[1]`, `"a"`, `1`, ``} {
		if got, ok := wire.Field(gjson.Parse(other), "a"); ok {
			t.Errorf("%s has a field %s", other, got.Raw)
		}
	}
}

func TestFlatten(t *testing.T) {
	var got string
	wire.Flatten(gjson.Parse(`{"a":1,"b":{"c":{"d":null},"e":{}},"f":[{"g":1}],"a":2}`), func(name string, value gjson.Result) bool {
		got += name + "=" + value.Raw + " "
		return true
	})
	if want := `a=1 b.c.d=null f=[{"g":1}] a=2 `; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	n := 0
	if wire.Flatten(gjson.Parse(`{"a":{"b":1,"c":2},"d":3}`), func(string, gjson.Result) bool { n++; return false }) || n != 1 {
		t.Errorf("it went on to field %d although it was to stop", n)
	}
}

func TestSpelled(t *testing.T) {
	for in, want := range map[string]string{`15.0`: "15.0", `"a\u0062"`: "ab", `null`: "", `true`: "true", `[1, 2]`: "[1, 2]", `""`: ""} {
		if got := wire.Spelled(gjson.Parse(in)); got != want {
			t.Errorf("%s is spelled %q; want %q", in, got, want)
		}
	}
}

// FuzzField holds Field to Flatten: both find the same under a name, but that Field also
// finds objects.
func FuzzField(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":{"c":2},"b.c":3,"a":4}`), "b.c")
	f.Add([]byte(`{"":{"":{"":1}},".":2}`), "..")
	f.Add([]byte(`{"a":{"b":1},"a":{"c":2},"a.b":{}}`), "a.b")
	f.Fuzz(func(t *testing.T, object []byte, path string) {
		var frame wire.Frame
		if !wire.ValidText(object) || wire.Scan(object, wire.Limits{}, &frame) != nil {
			return
		}
		whole := gjson.ParseBytes(object)
		flat := map[string]gjson.Result{}
		wire.Flatten(whole, func(name string, value gjson.Result) bool {
			flat[name] = value
			return true
		})
		for name, want := range flat {
			if got, ok := wire.Field(whole, name); !ok || got.Raw != want.Raw && !got.IsObject() {
				t.Errorf("%q is %s, %v; flattened it is %s", name, got.Raw, ok, want.Raw)
			}
		}
		if got, ok := wire.Field(whole, path); ok && !got.IsObject() && got.Raw != flat[path].Raw {
			t.Errorf("%q is %s; flattened it is %q", path, got.Raw, flat[path].Raw)
		}
	})
}
