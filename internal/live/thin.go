package live

import (
	"iter"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/bus"
)

// extraBytes is how much that is no telemetry waits for a tick; more brings it forward.
const extraBytes = 256 << 10

// thinner keeps the newest telemetry of each device, and everything else, until the next tick.
type thinner struct {
	every time.Duration

	// Entries are shared by all groups that hold them: so one device more costs a group some 35
	// bytes, and all groups together an entry and its body.
	waiting []*signalbox.Entry           // in log order; nil: it was overtaken
	latest  map[signalbox.DeviceID]int32 // which of waiting
	extra   int                          // bytes of what is no telemetry
	dead    int
	ticked  time.Time
	at      time.Time // of the next tick, if something waits

	draining []*signalbox.Entry // of the last tick
}

func newThinner(every time.Duration) *thinner {
	return &thinner{every: every, latest: make(map[signalbox.DeviceID]int32)}
}

// add keeps e and its body, which must not change any more.
func (t *thinner) add(e *signalbox.Entry, now time.Time) {
	if len(t.waiting) == 0 {
		if t.at = t.ticked.Add(t.every); t.at.Before(now) {
			t.at = now
		}
	}
	if e.Kind.IsTelemetry() {
		if i, ok := t.latest[e.Device]; ok {
			t.waiting[i] = nil
			t.dead++
		}
		t.latest[e.Device] = int32(len(t.waiting)) //nolint:gosec // at most twice as many as devices, and extraBytes
	} else if t.extra += len(e.Body) + bus.EntryBytes; t.extra > extraBytes {
		t.at = now
	}
	t.waiting = append(t.waiting, e)
	if t.dead > len(t.waiting)/2+16 {
		t.bury()
	}
}

// bury takes out what was overtaken.
func (t *thinner) bury() {
	t.waiting = slices.DeleteFunc(t.waiting, func(e *signalbox.Entry) bool { return e == nil })
	t.dead = 0
	for i, e := range t.waiting {
		if e.Kind.IsTelemetry() {
			t.latest[e.Device] = int32(i) //nolint:gosec // as above
		}
	}
}

// take gives what waits, in log order, and begins anew.
func (t *thinner) take(now time.Time) []*signalbox.Entry {
	t.bury()
	taken := t.waiting
	t.waiting, t.extra, t.ticked = nil, 0, now
	clear(t.latest)
	return taken
}

// clear forgets what waits.
func (t *thinner) clear() { t.take(t.ticked); t.draining = nil }

// first is the position of the first entry that is yet to be given, 0 if there is none.
func (t *thinner) first() signalbox.Position {
	if len(t.draining) > 0 {
		return t.draining[0].Position
	}
	for _, e := range t.waiting {
		if e != nil {
			return e.Position
		}
	}
	return 0
}

// next is when due has something to give, zero if nothing waits; now: at once.
func (t *thinner) next() (at time.Time, now bool) {
	if len(t.draining) > 0 {
		return at, true
	}
	if len(t.waiting) > 0 {
		at = t.at
	}
	return at, false
}

// due gives what has to be given at now, at most left of it; the rest comes with later calls.
func (t *thinner) due(now time.Time, left *int) iter.Seq[*signalbox.Entry] {
	if len(t.draining) == 0 && len(t.waiting) > 0 && !now.Before(t.at) {
		t.draining = t.take(now)
	}
	return func(yield func(*signalbox.Entry) bool) {
		for len(t.draining) > 0 && *left > 0 {
			*left--
			e := t.draining[0]
			t.draining[0] = nil // it is not held until the others are given
			t.draining = t.draining[1:]
			if !yield(e) {
				return
			}
		}
		if len(t.draining) == 0 {
			t.draining = nil
		}
	}
}
