package target

import (
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/forward"
)

// window are the messages under way on one connection: published and not acknowledged, in order.
// Acknowledgements may come in another order; settled is told up to the oldest that is missing.
// Its methods may be called by any goroutine.
type window struct {
	// moved gets a value whenever something was acknowledged.
	moved chan struct{}

	mu      sync.Mutex
	settled func(signalbox.Position)
	slots   []slot // a ring: number n is in slots[n%len]
	first   uint64 // the oldest that is not settled
	end     uint64 // the next to come
	last    *moment
	closed  bool
	// refusal is when the first was refused: from then on nothing is taken in, and what is under way
	// is waited for a moment, so that it need not be sent again.
	refusal time.Time
}

type slot struct {
	moment  moment
	since   time.Time
	done    bool
	refused *forward.Refused
}

func newWindow(size int, settled func(signalbox.Position)) *window {
	return &window{moved: make(chan struct{}, 1), settled: settled, slots: make([]slot, size)}
}

// shrink bounds the messages under way before the first of them.
func (w *window) shrink(size int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slots = w.slots[:min(len(w.slots), max(size, 1))]
}

// add takes a message in and gives its number, or says that there is no room. done: the receiver
// has it already.
func (w *window) add(m *forward.Message, done bool) (n uint64, free bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end-w.first == uint64(len(w.slots)) || !w.refusal.IsZero() {
		return 0, false
	}
	n = w.end
	w.end++
	*w.at(n) = slot{moment: momentOf(m), since: time.Now(), done: done}
	if done {
		w.advance()
	}
	return n, true
}

func (w *window) at(n uint64) *slot { return &w.slots[n%uint64(len(w.slots))] }

// done notes that the n-th message is acknowledged, or refused. When one was refused, everything
// before it is settled and everything behind it answered, it is given back, with its position.
func (w *window) done(n uint64, refused *forward.Refused) *forward.Refused {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || n < w.first || n >= w.end {
		return nil // nothing that is under way
	}
	s := w.at(n)
	if refused != nil {
		refused.Position = s.moment.position
		s.refused = refused
		if w.refusal.IsZero() {
			w.refusal = time.Now()
		}
	} else {
		s.done = true
	}
	w.advance()
	return w.refused(time.Time{})
}

// refused gives the oldest message if it was refused and the others under way are answered, or the
// refusal is older than limit.
func (w *window) refused(limit time.Time) *forward.Refused {
	if w.refusal.IsZero() || w.first == w.end {
		return nil
	}
	oldest := w.at(w.first).refused
	if oldest == nil || w.refusal.Before(limit) {
		return oldest
	}
	for n := w.first; n < w.end; n++ {
		if s := w.at(n); !s.done && s.refused == nil {
			return nil
		}
	}
	return oldest
}

func (w *window) advance() {
	before := w.first
	for w.first < w.end && w.at(w.first).done {
		w.first++
	}
	if w.first == before {
		return
	}
	last := w.at(w.first - 1).moment
	w.last = &last
	if !w.closed {
		w.settled(last.position)
	}
	select {
	case w.moved <- struct{}{}:
	default:
	}
}

// number finds the message of a packet identifier: the low part of its number, see identifier.
func (w *window) number(id uint16) (n uint64, under bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id == 0 {
		return 0, false
	}
	n = w.first + (uint64(id)-1+identifiers-w.first%identifiers)%identifiers
	return n, n < w.end
}

// identifiers is how many packet identifiers there are (2.2.1): all 16-bit numbers but 0.
const identifiers = 65_535

// identifier is the packet identifier of the n-th message.
func identifier(n uint64) uint16 { return uint16(n%identifiers) + 1 } //nolint:gosec // below 65,535

func (w *window) empty() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.first == w.end
}

// waited gives what done would have given, had it not waited since before limit for the others.
func (w *window) waited(limit time.Time) *forward.Refused {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refused(limit)
}

// overdue reports whether the oldest message is under way since before limit.
func (w *window) overdue(limit time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.first < w.end && w.at(w.first).since.Before(limit)
}

// close ends the telling. It gives the newest message that is settled, and those behind it that the
// receiver has.
func (w *window) close() (last *moment, has []moment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for n := w.first; n < w.end; n++ {
		if s := w.at(n); s.done {
			has = append(has, s.moment)
		}
	}
	return w.last, has
}
