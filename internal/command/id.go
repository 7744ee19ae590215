package command

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"
)

// idLen is the length of a command ID: 26 digits of 5 bits hold its 128 bits.
const idLen = 26

// crockford is Douglas Crockford's base 32 alphabet in lower case: its digits sort like
// their values.
const crockford = "0123456789abcdefghjkmnpqrstvwxyz"

// ids makes command IDs: 48 bits of Unix milliseconds, 80 random bits. Each is larger
// than the one before, so sorting by ID is sorting by submission.
type ids struct {
	mu   sync.Mutex
	high uint64 // milliseconds << 16 | upper 16 random bits
	low  uint64
}

// next makes an ID for the given Unix millisecond, or for the one before it that was
// later: the clock may be set back, IDs may not.
func (g *ids) next(ms uint64) string {
	g.mu.Lock()
	if ms<<16 > g.high|0xffff {
		var b [10]byte
		_, _ = rand.Read(b[:]) // never fails, says its documentation
		g.high = ms<<16 | uint64(binary.BigEndian.Uint16(b[:2]))
		g.low = binary.BigEndian.Uint64(b[2:])
	} else {
		var b [4]byte
		_, _ = rand.Read(b[:])
		step := uint64(binary.BigEndian.Uint32(b[:])) + 1
		if g.low += step; g.low < step {
			g.high++ // may run into the next millisecond: still larger
		}
	}
	high, low := g.high, g.low
	g.mu.Unlock()
	return formatID(high, low)
}

// startAfter makes every further ID larger than id.
func (g *ids) startAfter(id string) {
	high, low, ok := parseID(id)
	if !ok {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if high > g.high || high == g.high && low > g.low {
		g.high, g.low = high, low
	}
}

// firstID sorts before every ID made at t or later, and after those made earlier.
func firstID(t time.Time) string { return formatID(uint64(t.UnixMilli())<<16, 0) } //nolint:gosec // long after 1970

func formatID(high, low uint64) string {
	var b [idLen]byte
	for i := idLen - 1; i >= 0; i-- {
		b[i] = crockford[low&31]
		low = low>>5 | high<<59
		high >>= 5
	}
	return string(b[:])
}

func parseID(id string) (high, low uint64, ok bool) {
	if len(id) != idLen || id[0] > '7' {
		return 0, 0, false
	}
	for i := range len(id) {
		v := digit(id[i])
		if v > 31 {
			return 0, 0, false
		}
		high = high<<5 | low>>59
		low = low<<5 | v
	}
	return high, low, true
}

// digit is the value of a base 32 digit, 32 when it is none.
func digit(c byte) uint64 {
	for v := range uint64(len(crockford)) {
		if crockford[v] == c {
			return v
		}
	}
	return 32
}
