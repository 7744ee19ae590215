package command

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestIDsGrow(t *testing.T) {
	var g ids
	last := ""
	ms := uint64(1_700_000_000_000)
	for range 100_000 {
		switch rand.IntN(100) {
		case 0:
			ms += rand.Uint64N(10)
		case 1:
			ms -= rand.Uint64N(10) // the clock is set back
		}
		id := g.next(ms)
		if len(id) != idLen || id <= last || strings.Trim(id, crockford) != "" {
			t.Fatalf("%q after %q", id, last)
		}
		last = id
	}
	var later ids
	later.startAfter(last)
	if id := later.next(ms - 1000); id <= last {
		t.Errorf("%q after a restart, after %q", id, last)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("01jd7x0000000000000000000z")
	f.Add("~")
	f.Fuzz(func(t *testing.T, id string) {
		high, low, ok := parseID(id)
		if ok && formatID(high, low) != id {
			t.Fatalf("%q is read as %x %x, which is %q", id, high, low, formatID(high, low))
		}
	})
}
