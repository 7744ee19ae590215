package replay

import (
	"log/slog"
	"testing"

	"signalbox"
	"signalbox/internal/store"
)

func TestMarked(t *testing.T) {
	tests := []struct {
		body string
		want bool
	}{
		{`{"type":"telemetry","replay":{"id":"a","hub":"b"}}`, true},
		{`{"replay" : {"hub":"b"}, "n":1}`, true},
		{`{"n":1}`, false},
		{`{"replay":true}`, false},
		{`{"replay":"hub"}`, false},
		{`{"replay":{"id":"a"}}`, false},
		{`{"replay":{"hub":""}}`, false},
		{`{"replay":{"hub":7}}`, false},
		{`{"mode":"replay","hub":"b"}`, false},
		{`{"inner":{"replay":{"hub":"b"}}}`, false},
		{``, false},
	}
	for _, tt := range tests {
		if got := Marked([]byte(tt.body)); got != tt.want {
			t.Errorf("%s is marked: %t, want %t", tt.body, got, tt.want)
		}
		if err := Refuse([]byte(tt.body)); (err != nil) != tt.want || err != nil && signalbox.CodeOf(err) != "replayed" {
			t.Errorf("%s is refused with %v", tt.body, err)
		}
	}
}

func TestInstanceID(t *testing.T) {
	st, err := store.Open(t.Context(), store.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	first, err := InstanceID(t.Context(), st)
	if err != nil || len(first) != 2*instanceBytes {
		t.Fatalf("the instance is %q, %v", first, err)
	}
	if again, err := InstanceID(t.Context(), st); again != first || err != nil {
		t.Errorf("the instance became %q, %v", again, err)
	}
}
