package app

import (
	"testing"
	"time"
)

func TestParseKeep(t *testing.T) {
	tests := []struct {
		text string
		want Keep
	}{
		{"90d", Keep{Age: 90 * 24 * time.Hour}},
		{"64MiB", Keep{Bytes: 64 << 20}},
		{"type:station 30d", Keep{Scope: "type", Name: "station", Age: 30 * 24 * time.Hour}},
		{"device:esp01 1GiB 365d", Keep{Scope: "device", Name: "esp01", Age: 365 * 24 * time.Hour, Bytes: 1 << 30}},
	}
	for _, tt := range tests {
		got, err := parseKeep(tt.text)
		if err != nil || got != tt.want {
			t.Errorf("%q gives %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
		if again, err := parseKeep(got.String()); err != nil || again != got {
			t.Errorf("%q is spelled %q, which gives %+v, %v", tt.text, got, again, err)
		}
	}
	for _, text := range []string{"", "type:station", "30d 40d", "room:a 1d", "type:a type:b 1d", "1s", "0d", "-5d", "0MiB", "device: 1d", "soon"} {
		if k, err := parseKeep(text); err == nil {
			t.Errorf("%q is taken as %+v", text, k)
		}
	}
}

func TestKeepFor(t *testing.T) {
	all, station, esp := Keep{Age: time.Hour}, Keep{Scope: "type", Name: "station", Bytes: 5}, Keep{Scope: "device", Name: "esp01", Age: time.Minute}
	rules := []Keep{esp, station, all}
	for _, tt := range []struct {
		name, kind string
		want       Keep
	}{{"esp01", "station", esp}, {"esp02", "station", station}, {"esp02", "box", all}, {"", "", all}} {
		if got := keepFor(rules, tt.name, tt.kind); got != tt.want {
			t.Errorf("%s of type %s gets %v, want %v", tt.name, tt.kind, got, tt.want)
		}
	}
	if got := keepFor(rules[:2], "x", "y"); got != (Keep{}) {
		t.Errorf("no rule fits, but it gets %v", got)
	}
}
