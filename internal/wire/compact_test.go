package wire_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"signalbox/internal/wire"
)

// FuzzAppendCompact holds it to encoding/json.
func FuzzAppendCompact(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"a":1}`, ` { "a" : [ 1 , "b c" ] } `, "{\r\n\t\"a\": \"x \\\" y\\\\\" ,\"b\":\"\\u0020\"\n}", `" "`, `"\\ \" "`, "1 ", "[ ]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		if !json.Valid(document) {
			return
		}
		var want bytes.Buffer
		if err := json.Compact(&want, document); err != nil {
			t.Fatal(err)
		}
		if got := wire.AppendCompact([]byte("x"), document); string(got) != "x"+want.String() {
			t.Errorf("%q became %q, want %q", document, got[1:], want.String())
		}
	})
}
