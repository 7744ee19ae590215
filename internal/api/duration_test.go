package api

import (
	"testing"
	"time"

	"signalbox/internal/history"
)

func TestParseDuration(t *testing.T) {
	tests := []struct {
		in   string
		want time.Duration
		ok   bool
	}{
		{"30s", 30 * time.Second, true},
		{"1h30m", 90 * time.Minute, true},
		{"500ms", 500 * time.Millisecond, true},
		{"7d", 7 * day, true},
		{"1w2d3h", 9*day + 3*time.Hour, true},
		{"0", 0, true},
		{"0s", 0, true},
		{"PT30S", 30 * time.Second, true},
		{"PT1.5S", 1500 * time.Millisecond, true},
		{"P1DT2H", 26 * time.Hour, true},
		{"P2W", 14 * day, true},
		{"", 0, false},
		{"30", 0, false},
		{"-1s", 0, false},
		{"+1s", 0, false},
		{"1d-1s", 0, false},
		{"P", 0, false},
		{"PT", 0, false},
		{"P1Y", 0, false},
		{"999999d", 0, false},
		{"9999999h", 0, false},
		{"soon", 0, false},
	}
	for _, tt := range tests {
		if got, ok := parseDuration(tt.in); ok != tt.ok || ok && got != tt.want {
			t.Errorf("%q gave %v, %v", tt.in, got, ok)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, seed := range []string{"30s", "7d", "1w2d3h", "PT1.5S", "P1DT2H"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if d, ok := parseDuration(text); ok && (d < 0 || d > 3*maxDuration) {
			t.Errorf("%q gave %v", text, d)
		}
	})
}

func FuzzCursors(f *testing.F) {
	f.Add(encodeHistory(history.NewestFirst, history.Cursor{TimeMicros: 5, Position: 6}))
	f.Add(encodeCursor(cursorDevice, []byte("esp01")))
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := decodeHistory(history.OldestFirst, text); err == nil && text != "" {
			if back, err := decodeHistory(history.OldestFirst, encodeHistory(history.OldestFirst, c)); err != nil || back != c {
				t.Errorf("%q gave %v and then %v, %v", text, c, back, err)
			}
		}
		_, _ = decodeText(cursorDevice, text)
	})
}
