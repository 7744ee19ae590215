package registry

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"signalbox"
)

// TestNamesAgainstMap adds and removes at random and compares with a Go map.
func TestNamesAgainstMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	n := newNames()
	byID := []*Device{nil}
	want := map[string]*Device{}
	for step := range 20_000 {
		name := fmt.Sprint("d", rng.IntN(700))
		if d := want[name]; d != nil && rng.IntN(2) == 0 {
			n.remove(d, byID)
			byID[d.ID] = nil
			delete(want, name)
		} else if d == nil {
			d = &Device{Name: name, ID: signalbox.DeviceID(len(byID))} //nolint:gosec // small
			byID = append(byID, d)
			n.add(d, byID)
			want[name] = d
		}
		if got := n.find([]byte(name), byID); got != want[name] {
			t.Fatalf("step %d: %q gives %v, want %v", step, name, got, want[name])
		}
	}
	if n.used != len(want) {
		t.Errorf("%d are counted, there are %d", n.used, len(want))
	}
	for name, d := range want {
		if n.find([]byte(name), byID) != d {
			t.Errorf("%q is lost", name)
		}
	}
}
