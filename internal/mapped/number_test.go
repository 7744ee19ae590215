package mapped_test

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"signalbox/internal/mapped"
)

func TestNumber(t *testing.T) {
	tests := []struct{ name, payload, want, err string }{
		{"the sensor's text", "25.8 °C", "25.8", ""},
		{"without a space", "25°C", "25", ""},
		{"spelling is kept", "15.0", "15.0", ""},
		{"no unit", "-3", "-3", ""},
		{"plus", "+5", "5", ""},
		{"no zero in front", ".5", "0.5", ""},
		{"minus and no zero", "-.5 V", "-0.5", ""},
		{"nothing behind the point", "5.", "5", ""},
		{"exponent", "1e3", "1e3", ""},
		{"exponent with sign", "1.5E-3 m", "1.5E-3", ""},
		{"an e that is a unit", "5e", "5", ""},
		{"surplus zeros", "007.50", "7.50", ""},
		{"minus zero", "-0", "-0", ""},
		{"percent", "55%", "55", ""},
		{"white space", " 21.5\t°F\r\n", "21.5", ""},
		{"a space that does not break", "25.8\u00a0°C", "25.8", ""},
		{"unit with digits", "12 µg/m3", "12", ""},
		{"unit of 16 bytes", "1 abcdefghijklmnop", "1", ""},
		{"unit of 17 bytes", "1 abcdefghijklmnopq", "", "no unit"},
		{"decimal comma", "-3,5", "", "comma"},
		{"thousands", "1,234.5", "", "comma"},
		{"time", "10:30", "", "no unit"},
		{"date", "2024-01-01", "", "no unit"},
		{"address", "192.168.1.1", "", "no unit"},
		{"two numbers", "1 000", "", "no unit"},
		{"two readings", "21 °C 45", "", "no unit"},
		{"hexadecimal", "0x1F", "", "hexadecimal"},
		{"nan", "NaN", "", "does not begin with a number"},
		{"infinite", "-inf", "", "does not begin with a number"},
		{"too large", "1e999", "", "too large"},
		{"nothing", "", "", "does not begin with a number"},
		{"sign alone", "-", "", "does not begin with a number"},
		{"point alone", ".", "", "does not begin with a number"},
		{"words", "hello world", "", "does not begin with a number"},
		{"too long", strings.Repeat("1", 65), "", "64 characters"},
		{"unit that is no UTF-8", "5 \xff", "", "UTF-8"},
		{"control character", "5 V\x01", "", "no unit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := mapped.AppendNumber([]byte("x"), []byte(tt.payload))
			switch {
			case tt.err == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("gave %q and the error %v, which should say %q", got, err, tt.err)
			case err == nil && string(got) != "x"+tt.want:
				t.Errorf("gave %q, want %q", got[1:], tt.want)
			case err != nil && string(got) != "x":
				t.Errorf("gave %q with an error", got)
			}
		})
	}
}

// FuzzNumber: what is taken for a number is a JSON number of the value that the payload begins
// with.
func FuzzNumber(f *testing.F) {
	for _, s := range []string{"25.8 °C", "25°C", "-3,5", "+5", ".5", "1e3", "5.", "00", "1e", "1e+", "-.e5", "0x1", "1 \u00a0m²"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := mapped.AppendNumber(nil, payload)
		if err != nil {
			if len(got) != 0 {
				t.Fatalf("%q gave %q with the error %v", payload, got, err)
			}
			return
		}
		var n json.Number
		if err := json.Unmarshal(got, &n); err != nil || !utf8.Valid(payload) {
			t.Fatalf("%q gave %q, which is no JSON number: %v", payload, got, err)
		}
		value, err := strconv.ParseFloat(string(got), 64)
		if err != nil || math.IsInf(value, 0) {
			t.Fatalf("%q gave %q: %v", payload, got, err)
		}
		// The longest beginning that strconv reads is the same value.
		text := strings.TrimLeft(string(payload), " \t\r\n\u00a0\u202f")
		for n := min(len(text), 64); n > 0; n-- {
			if v, err := strconv.ParseFloat(text[:n], 64); err == nil && !strings.ContainsAny(text[:n], "_xXpPnNiI") {
				if v != value {
					t.Fatalf("%q gave %q, but it begins with %q", payload, got, text[:n])
				}
				return
			}
		}
		t.Fatalf("%q gave %q, but begins with no number", payload, got)
	})
}
