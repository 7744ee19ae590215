package target

import (
	"time"

	"signalbox"
)

// A trail remembers how far was sent at which time, for transports whose receivers answer nothing.
// What is sent within trailGrain shares a mark, so that a trail is short however fast one sends:
// with maxMarks full, later marks grow instead of more being made.
type trail struct{ marks []mark }

type mark struct {
	position  signalbox.Position
	end       int64 // bytes sent up to here
	begun, at time.Time
}

const (
	trailGrain = 50 * time.Millisecond
	maxMarks   = 1024
)

// add notes that all up to position and end was sent by now.
func (t *trail) add(position signalbox.Position, end int64, now time.Time) {
	if n := len(t.marks); n > 0 {
		last := &t.marks[n-1]
		if now.Sub(last.begun) < trailGrain || n == maxMarks {
			last.position, last.end, last.at = position, end, now
			return
		}
	}
	t.marks = append(t.marks, mark{position: position, end: end, begun: now, at: now})
}

// passed takes off what was sent no later than before, and within the first end bytes, and gives the
// last position of that; false: there is none.
func (t *trail) passed(end int64, before time.Time) (signalbox.Position, bool) {
	n := 0
	for n < len(t.marks) && t.marks[n].end <= end && !t.marks[n].at.After(before) {
		n++
	}
	if n == 0 {
		return 0, false
	}
	position := t.marks[n-1].position
	t.marks = append(t.marks[:0], t.marks[n:]...)
	return position, true
}
