package target

import (
	"sync"

	"signalbox"
	"signalbox/internal/forward"
)

// maxBeyond bounds what is remembered; beyond it all is forgotten, which costs duplicates.
const maxBeyond = 1 << 14

// beyond remembers the messages that a receiver has although an older one is not settled: of a
// webhook with several requests under way, of a broker that acknowledged what followed a message it
// refused. Whoever sends begins again behind what is settled; without this memory the receiver
// would get all of them a second time at each try. It lives as long as the target, since each fault
// ends the sink, and not on disk: after a restart they come again, with the mark.
type beyond struct {
	mu   sync.Mutex
	done map[moment]struct{}
}

// A moment tells messages apart: a replay may play an entry that is just being sent too.
type moment struct {
	replay   string
	position signalbox.Position
}

func momentOf(m *forward.Message) moment { return moment{m.Replay, m.Position} }

// has reports whether the receiver has m.
func (b *beyond) has(m *forward.Message) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, has := b.done[momentOf(m)]
	return has
}

// forget drops what is settled: m and all before it.
func (b *beyond) forget(m moment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for d := range b.done {
		if d.replay == m.replay && d.position <= m.position {
			delete(b.done, d)
		}
	}
}

// add remembers messages that the receiver has.
func (b *beyond) add(done []moment) {
	if len(done) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.done == nil || len(b.done)+len(done) > maxBeyond {
		b.done = make(map[moment]struct{}, len(done))
	}
	for _, d := range done {
		b.done[d] = struct{}{}
	}
}
