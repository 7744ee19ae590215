package sim

import (
	"math/bits"
	"sync"
	"time"
)

// subBits is how finely each power of two is divided: 2^subBits steps, so that a value is known to 1.6 %.
const subBits = 6

// Histogram counts durations from 1 µs to over an hour, log-linear. The zero value is ready; any goroutine may use it.
type Histogram struct {
	mu     sync.Mutex
	counts [(64 - subBits) << subBits]uint32
	total  uint64
	sum    time.Duration
	max    time.Duration
}

// Record counts d; what is below 0 counts as 0.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	h.mu.Lock()
	h.counts[bucket(uint64(d/time.Microsecond))]++
	h.total++
	h.sum += d
	h.max = max(h.max, d)
	h.mu.Unlock()
}

// Reset forgets all.
func (h *Histogram) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts, h.total, h.sum, h.max = [len(h.counts)]uint32{}, 0, 0, 0
}

func bucket(us uint64) int {
	if us < 1<<subBits {
		return int(us)
	}
	shift := bits.Len64(us) - subBits - 1
	return (shift+1)<<subBits + int(us>>shift) - 1<<subBits
}

// top is the largest value of a bucket, in µs.
func top(b int) uint64 {
	if b < 1<<subBits {
		return uint64(b)
	}
	shift := b>>subBits - 1
	return (uint64(b&(1<<subBits-1))+1<<subBits+1)<<shift - 1
}

// Quantile gives the duration below or at which the share q of all lie, 0 to 1; 0 when nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	want := uint64(q*float64(h.total) + 0.5)
	want = max(want, 1)
	var seen uint64
	for b, n := range h.counts {
		if seen += uint64(n); seen >= want {
			return min(time.Duration(top(b))*time.Microsecond, h.max)
		}
	}
	return h.max
}

// Count is how many were recorded.
func (h *Histogram) Count() uint64 { h.mu.Lock(); defer h.mu.Unlock(); return h.total }

// Max is the largest duration recorded.
func (h *Histogram) Max() time.Duration { h.mu.Lock(); defer h.mu.Unlock(); return h.max }

// Mean is the mean of what was recorded, 0 of nothing.
func (h *Histogram) Mean() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.total == 0 {
		return 0
	}
	return h.sum / time.Duration(h.total)
}
