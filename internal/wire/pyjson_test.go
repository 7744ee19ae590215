package wire_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/wire"
)

// pythonCases are documents and what Python 3.11 prints for them by
// json.dumps(json.loads(document), sort_keys=True, separators=(",", ":")).
func pythonCases() []struct{ in, want string } {
	return []struct{ in, want string }{
		{
			`{"type":"telemetry","status":"работает","servo1":90,"servo2":90,"button1":"released","button2":"pressed"}`,
			`{"button1":"released","button2":"pressed","servo1":90,"servo2":90,"status":"\u0440\u0430\u0431\u043e\u0442\u0430\u0435\u0442","type":"telemetry"}`,
		},
		{`{}`, `{}`},
		{` [ ] `, `[]`},
		{"\t{\r\n} ", `{}`},
		{`{"b":1,"a":2,"b":3}`, `{"a":2,"b":3}`},
		{`{"a":{"z":1,"y":[{"d":1,"c":2},[]]},"A":null}`, `{"A":null,"a":{"y":[{"c":2,"d":1},[]],"z":1}}`},
		{`{"a":1,"\u0061":2}`, `{"a":2}`},
		{`[0,-0,-0.0,0.0,15.0,1e5,1E5,1e16,1e15,123456789012345680.0]`, `[0,0,-0.0,0.0,15.0,100000.0,100000.0,1e+16,1000000000000000.0,1.2345678901234568e+17]`},
		{`[1e-4,1e-5,0.00001234,1e22,1e23,5e-324,1.7976931348623157e308]`, `[0.0001,1e-05,1.234e-05,1e+22,1e+23,5e-324,1.7976931348623157e+308]`},
		{`[1E400,-1E400,1e-400,-1e-400]`, `[Infinity,-Infinity,0.0,-0.0]`},
		{`[123456789012345678901234567890,-99999999999999999999]`, `[123456789012345678901234567890,-99999999999999999999]`},
		{`[0.1,0.30000000000000004,25.8,3.14,2.5e0,9007199254740993.0]`, `[0.1,0.30000000000000004,25.8,3.14,2.5,9007199254740992.0]`},
		{`[true,false,null]`, `[true,false,null]`},
		{`"\b\f\n\r\t\"\\\/"`, `"\b\f\n\r\t\"\\/"`},
		{`"\u0000\u001f\u007f\u0080<>&'"`, `"\u0000\u001f\u007f\u0080<>&'"`},
		{"\"\x7f\"", `"\u007f"`},
		{`"é 温度 😀 \ud83d\ude00"`, `"\u00e9 \u6e29\u5ea6 \ud83d\ude00 \ud83d\ude00"`},
		{`"\ud800 \udc00 \ud800\ud800\udc00 \udfff"`, `"\ud800 \udc00 \ud800\ud800\udc00 \udfff"`},
		{`"\uD83D\uDE00\uABcd"`, `"\ud83d\ude00\uabcd"`},
		{`{"\uffff":1,"\ud800\udc00":2,"\ud800":3,"\ue000":4,"":5,"Z":6,"a":7}`, `{"":5,"Z":6,"a":7,"\ud800":3,"\ue000":4,"\uffff":1,"\ud800\udc00":2}`},
		{`{"я":1,"а":2,"é":3}`, `{"\u00e9":3,"\u0430":2,"\u044f":1}`},
		{`{"temp":"25.8","t":25.80,"n":1.0e0}`, `{"n":1.0,"t":25.8,"temp":"25.8"}`},
	}
}

func TestAppendPyJSON(t *testing.T) {
	for _, tt := range pythonCases() {
		t.Run(tt.in, func(t *testing.T) {
			got, err := wire.AppendPyJSON([]byte("x"), []byte(tt.in))
			if err != nil || string(got) != "x"+tt.want {
				t.Errorf("got %s, %v\nwant x%s", got, err, tt.want)
			}
		})
	}
}

func TestAppendPyJSONRefuses(t *testing.T) {
	for _, in := range []string{``, `{`, `{"a":}`, `[1,]`, `01`, `NaN`, `"\x"`, strings.Repeat("[", wire.MaxPyDepth+2) + strings.Repeat("]", wire.MaxPyDepth+2)} {
		got, err := wire.AppendPyJSON([]byte("x"), []byte(in))
		if signalbox.KindOf(err) != signalbox.KindInvalid || err == nil || string(got) != "x" {
			t.Errorf("%.40q gave %.40q, %v", in, got, err)
		}
	}
}

// TestAppendPyJSONIsPython asks a real Python, where there is one.
func TestAppendPyJSONIsPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Log("there is no python3 here; TestAppendPyJSON holds what it printed")
		return
	}
	docs := []string{strings.Repeat(`{"b":[`, 60) + "1" + strings.Repeat(`],"a":0}`, 60)}
	for _, tt := range pythonCases() {
		docs = append(docs, tt.in)
	}
	for _, number := range []string{"1e0", "1e1", "12e-7", "99999e-9", "0.0001", "0.00009999", "9999999999999998.0", "1e15", "1e16", "4.35", "2.675", "1e-7", "123e-20", "1.5e300", "0e5", "-0e-5"} {
		docs = append(docs, number, "-"+strings.TrimPrefix(number, "-"))
	}
	var in bytes.Buffer
	for _, d := range docs {
		b, err := json.Marshal([]byte(d))
		if err != nil {
			t.Fatal(err)
		}
		in.Write(append(b, '\n'))
	}
	const program = `
import base64, json, sys
for line in sys.stdin:
    print(json.dumps(json.loads(base64.b64decode(json.loads(line)).decode("utf-8")), sort_keys=True, separators=(",", ":")))
`
	cmd := exec.CommandContext(t.Context(), python, "-c", program)
	cmd.Stdin = &in
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(docs) {
		t.Fatalf("python printed %d lines for %d documents", len(lines), len(docs))
	}
	for i, d := range docs {
		if got, err := wire.AppendPyJSON(nil, []byte(d)); err != nil || string(got) != lines[i] {
			t.Errorf("%s\n   got %s, %v\npython %s", d, got, err, lines[i])
		}
	}
}

func TestAppendPyString(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", `""`},
		{"servo1", `"servo1"`},
		{"Привет", `"\u041f\u0440\u0438\u0432\u0435\u0442"`},
		{"😀", `"\ud83d\ude00"`},
		{"a\"b\\c/<>&'", `"a\"b\\c/<>&'"`},
		{"\x00\x1f\b\f\n\r\t\x7f", `"\u0000\u001f\b\f\n\r\t\u007f"`},
		{"\u2028\u00ff\uffff", `"\u2028\u00ff\uffff"`},
		{"\xff", `"\ufffd"`},
	}
	for _, tt := range tests {
		if got := wire.AppendPyString([]byte("x"), tt.in); string(got) != "x"+tt.want {
			t.Errorf("%q gave %s, want x%s", tt.in, got, tt.want)
		}
	}
}

func FuzzAppendPyJSON(f *testing.F) {
	for _, tt := range pythonCases() {
		f.Add([]byte(tt.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := wire.AppendPyJSON(nil, in)
		if err != nil {
			return
		}
		for _, c := range out {
			if c < ' ' || c >= utf8.RuneSelf {
				t.Fatalf("%q gave %q, which is not printable ASCII", in, out)
			}
		}
		if bytes.Contains(out, []byte("Infinity")) {
			return // as Python prints it, which is no JSON
		}
		if !gjson.ValidBytes(out) {
			t.Fatalf("%q gave %q, which is not JSON", in, out)
		}
		again, err := wire.AppendPyJSON(nil, out)
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%q gave %q, and that gave %q, %v", in, out, again, err)
		}
	})
}

func FuzzAppendPyString(f *testing.F) {
	f.Add("servo1")
	f.Add("温\x00😀\xff")
	f.Fuzz(func(t *testing.T, s string) {
		var back string
		if err := json.Unmarshal(wire.AppendPyString(nil, s), &back); err != nil {
			t.Fatal(err)
		}
		if want := string([]rune(s)); back != want {
			t.Fatalf("%q came back as %q", want, back)
		}
	})
}
