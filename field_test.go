package signalbox_test

import (
	"strings"
	"testing"

	"signalbox"
)

func TestCheckField(t *testing.T) {
	for _, test := range []struct{ path, words string }{
		{"temp", ""},
		{"bme.temp", ""},
		{"a.b.c", ""},
		{"k'é 1", ""},
		{"", "the field is empty"},
		{".", "empty part"},
		{"a..b", `the field "a..b" has an empty part; allowed are names and dotted paths`},
		{".a", "empty part"},
		{"a.", "empty part"},
		{"a\xff", "not valid UTF-8"},
		{strings.Repeat("x", 1000) + ".", "empty part"},
	} {
		err := signalbox.CheckField("field", test.path)
		switch {
		case test.words == "" && err != nil:
			t.Errorf("%q: %v", test.path, err)
		case test.words != "" && (err == nil || !strings.Contains(err.Error(), test.words) || signalbox.KindOf(err) != signalbox.KindInvalid || len(err.Error()) > 300):
			t.Errorf("%.50q: %v, want %q", test.path, err, test.words)
		}
	}
}
