package history

import (
	"sync/atomic"

	"signalbox"
)

// Hold keeps entries in the log for someone who would read them again at a start. It begins
// by keeping all.
type Hold struct{ upTo atomic.Uint64 }

// Hold gives a new one. Call it before the log runs.
func (l *Log) Hold() *Hold {
	h := new(Hold)
	l.holds = append(l.holds, h)
	return h
}

// Release says that the entries up to p are no longer needed.
func (h *Hold) Release(p signalbox.Position) { h.upTo.Store(uint64(p)) }

// first is the oldest entry that is needed.
func (h *Hold) first() signalbox.Position { return signalbox.Position(h.upTo.Load()) + 1 }
