package wire

import "testing"

func TestReplayed(t *testing.T) {
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
		if got := Replayed([]byte(tt.body)); got != tt.want {
			t.Errorf("%s is of a replay: %t, want %t", tt.body, got, tt.want)
		}
	}
}
