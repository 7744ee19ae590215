package wire

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestScan(t *testing.T) {
	cases := []struct {
		name, in string
		want     error
		typ      string
	}{
		{"telemetry", `{"type":"telemetry","status":"работает","servo1":90}`, nil, `"telemetry"`},
		{"white space", " {\t\"type\" : \"auth\" }\r\n", nil, `"auth"`},
		{"the last of duplicates wins", `{"type":"a","type":"b"}`, nil, `"b"`},
		{"escaped key", `{"ty\u0070e":"auth"}`, nil, `"auth"`},
		{"inner keys are not ours", `{"x":{"type":"auth"}}`, nil, ""},
		{"huge number", `{"type":1e999999999}`, nil, `1e999999999`},
		{"empty object", `{}`, nil, ""},
		{"array", `[]`, ErrNotObject, ""},
		{"nothing", ``, ErrNotObject, ""},
		{"two objects", `{}{}`, ErrNotObject, ""},
		{"cut off", `{"type":"auth"`, ErrNotObject, ""},
		{"trailing comma", `{"a":1,}`, ErrNotObject, ""},
		{"leading zero", `{"a":01}`, ErrNotObject, ""},
		{"NaN", `{"a":NaN}`, ErrNotObject, ""},
		{"control character", "{\"a\":\"\x01\"}", ErrNotObject, ""},
		{"bad escape", `{"a":"\x"}`, ErrNotObject, ""},
		{"as deep as allowed", `{"a":` + strings.Repeat("[", 15) + strings.Repeat("]", 15) + `}`, nil, ""},
		{"too deep", `{"a":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`, ErrTooDeep, ""},
		{"far too deep", strings.Repeat(`{"a":`, 20000), ErrTooDeep, ""},
		{"too many keys", `{"a":1` + strings.Repeat(`,"b":1`, 256) + `}`, ErrTooManyKeys, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var f Frame
			if err := Scan([]byte(c.in), Limits{}, &f); !errors.Is(err, c.want) {
				t.Fatalf("got error %v, want %v", err, c.want)
			}
			if c.want == nil && string(f.Type) != c.typ {
				t.Errorf("type is %s, want %s", f.Type, c.typ)
			}
		})
	}
}

func FuzzScan(f *testing.F) {
	for _, s := range []string{`{"type":"telemetry","a":[1,{"b":null}],"c":-0.5e+7}`, `{"a":"\ud83d\ude00\n"}`, `{"":""}`, `[`, `{"a":tru}`, "{\"a\":1}\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !utf8.Valid(b) {
			return
		}
		var frame Frame
		err := Scan(b, Limits{Depth: maxDepth, Keys: 1 << 20}, &frame)
		var object map[string]json.RawMessage
		valid := json.Unmarshal(b, &object) == nil && object != nil
		if errors.Is(err, ErrTooDeep) {
			return
		}
		if valid != (err == nil) {
			t.Fatalf("Scan says %v, encoding/json says valid=%v", err, valid)
		}
		if err == nil && string(frame.Type) != string(object["type"]) {
			t.Fatalf("type is %s, encoding/json says %s", frame.Type, object["type"])
		}
	})
}

func TestTime(t *testing.T) {
	cases := []struct {
		in   string
		want int64
		ok   bool
	}{
		{`1732190000000`, 1732190000000000, true},
		{`1732190000000.5`, 1732190000000500, true},
		{`"2024-11-21T11:53:20Z"`, 1732190000000000, true},
		{`"2024-11-21T14:53:20.25+03:00"`, 1732190000250000, true},
		{`"yesterday"`, 0, false},
		{`-5`, 0, false},
		{`1e99`, 0, false},
		{`true`, 0, false},
		{``, 0, false},
	}
	for _, c := range cases {
		got, ok := Time([]byte(c.in))
		if ok != c.ok || ok && got != c.want {
			t.Errorf("Time(%s) = %d, %v; want %d, %v", c.in, got, ok, c.want, c.ok)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	msg := []byte(`{"type":"telemetry","status":"работает","servo1":90,"servo2":90,"button1":"released","button2":"pressed"}`)
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		var f Frame
		if err := Scan(msg, Limits{}, &f); err != nil {
			b.Fatal(err)
		}
	}
}
