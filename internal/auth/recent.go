package auth

import "time"

// recent remembers a bounded number of places; the one not used for longest goes first.
// Entries lie in one slice and are chained by index, so that neither using nor replacing
// one allocates.
type recent struct {
	size    int
	index   map[place]int32
	entries []entry // [0] is the ring's anchor: its next is the latest used, its prev the oldest
	free    []int32
}

type entry struct {
	place      place
	next, prev int32
	// What Backoff knows of a failing place. Times are since its start.
	count       int
	last, until time.Duration
	guesses     guesses // DeviceLogins only
}

func newRecent(size int) recent {
	return recent{size: size, index: map[place]int32{}, entries: make([]entry, 1)}
}

// find gives the entry of p without counting as use, nil without one. It is good until
// the next call.
func (r *recent) find(p place) *entry {
	if i, ok := r.index[p]; ok {
		return &r.entries[i]
	}
	return nil
}

// use gives the entry of p, an empty new one if there was none, and makes it the latest.
func (r *recent) use(p place) *entry {
	i, ok := r.index[p]
	if ok {
		r.unlink(i)
	} else {
		i = r.room()
		r.entries[i] = entry{place: p}
		r.index[p] = i
	}
	first := r.entries[0].next
	e := &r.entries[i]
	e.next, e.prev = first, 0
	r.entries[first].prev = i
	r.entries[0].next = i
	return e
}

// room gives a free slot, the oldest entry's when all are taken.
func (r *recent) room() int32 {
	if n := len(r.free); n > 0 {
		i := r.free[n-1]
		r.free = r.free[:n-1]
		return i
	}
	if len(r.entries) <= r.size {
		r.entries = append(r.entries, entry{})
		return int32(len(r.entries) - 1) //nolint:gosec // at most size
	}
	oldest := r.entries[0].prev
	r.unlink(oldest)
	delete(r.index, r.entries[oldest].place)
	return oldest
}

func (r *recent) forget(p place) {
	if i, ok := r.index[p]; ok {
		r.unlink(i)
		delete(r.index, p)
		r.free = append(r.free, i)
	}
}

func (r *recent) unlink(i int32) {
	e := &r.entries[i]
	r.entries[e.next].prev = e.prev
	r.entries[e.prev].next = e.next
}
