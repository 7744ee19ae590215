package cli

import (
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox/client"
)

func TestKeyReader(t *testing.T) {
	tests := []struct {
		name, sent string
		want       []key
	}{
		{"plain", " +=-_qQ", []key{keyPause, keyFaster, keyFaster, keySlower, keySlower, keyQuit, keyQuit}},
		{"arrows", "\x1b[C\x1b[D", []key{keyForward, keyBack}},
		{"arrows of applications", "\x1bOC\x1bOD", []key{keyForward, keyBack}},
		{"arrows with control", "\x1b[1;5C", []key{keyForward}},
		{"other sequences", "\x1b[A\x1b[3~\x1b[15~\x1bOP ", []key{keyPause}},
		{"escape twice", "\x1b\x1b[C", []key{keyForward}},
		{"with alt", "\x1bq", nil},
		{"letters of a sequence", "CD[O", nil},
		{"Ctrl-C", "\x03", []key{keyQuit}},
		{"not ASCII", "é←\x00\xff", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var r keyReader
			var got []key
			for _, b := range []byte(tt.sent) {
				if k := r.read(b); k != 0 {
					got = append(got, k)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%q gives %v, want %v", tt.sent, got, tt.want)
			}
		})
	}
}

func TestNextSpeed(t *testing.T) {
	tests := []struct{ speed, faster, slower float64 }{
		{1, 2, 0.5}, {10, 20, 5}, {3, 5, 2}, {1000, 0, 500}, {0, 0, 1000}, {0.1, 0.2, 0.1}, {0.001, 0.1, 0.001}, {1e6, 0, 1000},
	}
	for _, tt := range tests {
		if f, s := nextSpeed(tt.speed, true), nextSpeed(tt.speed, false); f != tt.faster || s != tt.slower {
			t.Errorf("from %g on: %g and %g, want %g and %g", tt.speed, f, s, tt.faster, tt.slower)
		}
	}
}

// TestPlace: between two answers of the hub the place goes on by the speed, to the end at most.
func TestPlace(t *testing.T) {
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := time.Now()
	s := &stage{from: from, to: from.Add(time.Hour), at: from.Add(time.Minute), seen: now, status: client.Replay{State: "playing", Speed: 10}}
	if got := s.place(now.Add(6 * time.Second)); !got.Equal(from.Add(2 * time.Minute)) {
		t.Errorf("it is at %s", got)
	}
	if got := s.place(now.Add(time.Hour)); !got.Equal(s.to) {
		t.Errorf("in the end it is at %s", got)
	}
	s.status.State = "paused"
	if got := s.place(now.Add(time.Hour)); !got.Equal(s.at) {
		t.Errorf("paused it is at %s", got)
	}
	if got := s.within(from.Add(-time.Hour)); !got.Equal(from) {
		t.Errorf("before the beginning is %s", got)
	}
	if got := s.step(); got != 100*time.Second {
		t.Errorf("a step is %s", got)
	}
}

// TestEndOfReplay: what is played ends with the last message, not with the range asked for.
func TestEndOfReplay(t *testing.T) {
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := time.Now()
	s := &stage{from: from, to: from.AddDate(1, 0, 0), end: from.Add(time.Hour), at: from.Add(30 * time.Minute), seen: now, status: client.Replay{State: "playing", Speed: 10}}
	if got := s.text(now, 79); !strings.Contains(got, "  50 %") {
		t.Errorf("in the middle the status is %q", got)
	}
	if got := s.within(from.Add(2 * time.Hour)); !got.Equal(s.end) {
		t.Errorf("behind the end is %s", got)
	}
	if got := s.place(now.Add(time.Hour)); !got.Equal(s.end) {
		t.Errorf("in the end it is at %s", got)
	}
	s.be(from.Add(2*time.Hour), now)
	if got := s.text(now, 79); !strings.Contains(got, "  100 %") {
		t.Errorf("behind what was taken for the end the status is %q", got)
	}
	s.end = time.Time{}
	if got := s.text(now, 79); strings.Contains(got, "%  ") {
		t.Errorf("when the end is not known the status is %q", got)
	}
}

func TestStatusFits(t *testing.T) {
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := time.Now()
	for _, state := range []string{"playing", "waiting", "paused", "away", "ended"} {
		for _, speed := range []float64{0, 1, 0.001, 1000, 1e6} {
			s := &stage{from: from, to: from.AddDate(1, 0, 0), end: from.Add(time.Hour), at: from.Add(time.Hour), seen: now, status: client.Replay{State: state, Speed: speed, Sent: 1 << 40}}
			if got := s.text(now, 79); width(got) > 79 || !strings.Contains(got, "space: pause") || !strings.Contains(got, "q: end") {
				t.Errorf("the status of %d columns is %q", width(got), got)
			}
			if got := s.text(now, 199); !strings.Contains(got, "1099511627776 messages   space: pause, ←→: ") {
				t.Errorf("with much room the status is %q", got)
			}
		}
	}
	s := &stage{status: client.Replay{State: "paused"}, note: "not now", noted: now}
	if got := s.text(now.Add(time.Second), 79); got != "not now" {
		t.Errorf("with a fault the status is %q", got)
	}
	if got := s.text(now.Add(stageNote), 79); !strings.HasPrefix(got, "paused") {
		t.Errorf("some time after a fault the status is %q", got)
	}
}

func TestCutTo(t *testing.T) {
	for _, tt := range []struct {
		text string
		n    int
		want string
	}{{"abc", 5, "abc"}, {"abc", 2, "ab"}, {"温度", 3, "温"}, {"←→", 1, "←"}, {"", 1, ""}, {"a", 0, ""}, {"a", -1, ""}} {
		if got := cutTo(tt.text, tt.n); got != tt.want {
			t.Errorf("%q cut to %d is %q, want %q", tt.text, tt.n, got, tt.want)
		}
	}
}
