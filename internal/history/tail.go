package history

import (
	"math"
	"slices"
	"sync"

	"signalbox"
	"signalbox/internal/history/chunk"
)

// tails are the messages that are committed and in no chunk on disk yet, by device. The
// sealer alone changes them; readers take snapshots.
type tails struct {
	mu    sync.RWMutex
	pages []*tailPage // by device number
}

const tailsPerPage = 256

// tailPage has the tails of neighbouring devices. A device that has nothing in memory may have
// no tail; what must outlive it is the page's.
type tailPage struct {
	mu    sync.Mutex // the sealer's changes, and snapshots
	tails [tailsPerPage]*tail
	busy  signalbox.DeviceID   // whose chunks are being merged, see ended
	ended chan struct{}        // closed when that merge has ended; nil: none is under way
	moved [tailsPerPage]uint16 // merges of the device that began, ever; it wraps
	small [tailsPerPage]uint8  // small chunks of the device in a row; the sealer's own
}

// tail is one device's; there may be a million. Only units and run are read by others than
// the sealer.
type tail struct {
	run   chunk.Run
	units *[]*unit // cut, and not known to be on disk, oldest first; nil: none
	main  mainEnd
}

func newTail() *tail { return &tail{main: mainEnd{count: -1}} }

// started is when the first message of a run came.
type started struct {
	device signalbox.DeviceID
	first  signalbox.Position
	row    uint64 // which row of the log since the start
}

// mainEnd is where a device's main sequence of chunks ends; it is read from the database
// when the device's first chunk is cut.
type mainEnd struct {
	high  int64 // the history time of its last message
	count int64 // its messages, those included that retention has dropped; -1: not known yet
}

// unit is what was cut from one run: it goes to disk as a whole.
type unit struct {
	device signalbox.DeviceID
	cold   bool // the device was silent when its run was cut
	first  signalbox.Position
	last   signalbox.Position
	run    chunk.Run // what it was cut from
	chunks []newChunk
	bytes  int
}

// newChunk is a row of the table chunk that is yet to be written.
type newChunk struct {
	id   int64
	late bool
	base int64
	head chunk.Head
	blob []byte
}

// page gives the device's page, nil when it has none and none is to be made.
func (t *tails) page(device signalbox.DeviceID, needed bool) *tailPage {
	i := int(device / tailsPerPage)
	t.mu.RLock()
	if i < len(t.pages) && t.pages[i] != nil {
		p := t.pages[i]
		t.mu.RUnlock()
		return p
	}
	t.mu.RUnlock()
	if !needed {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i >= len(t.pages) {
		t.pages = append(t.pages, slices.Repeat([]*tailPage{nil}, i+1-len(t.pages))...)
	}
	if t.pages[i] == nil {
		t.pages[i] = new(tailPage)
	}
	return t.pages[i]
}

// memory is what a device had in memory at one moment.
type memory struct {
	run   chunk.Run
	units []*unit
	moved uint16
	// merging is closed when the merge has ended that was under way; nil: none was.
	merging <-chan struct{}
	// first is the oldest position among them: what the database has from there on is the same
	// and is passed over.
	first signalbox.Position
}

// snapshot takes what a device has in memory.
func (t *tails) snapshot(device signalbox.DeviceID) memory {
	m := memory{first: math.MaxUint64}
	p := t.page(device, false)
	if p == nil {
		return m
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m.moved = p.moved[device%tailsPerPage]
	if p.busy == device {
		m.merging = p.ended
	}
	d := p.tails[device%tailsPerPage]
	if d == nil {
		return m
	}
	m.run = d.run.View()
	if d.units != nil {
		m.units = slices.Clone(*d.units)
	}
	switch {
	case len(m.units) > 0:
		m.first = m.units[0].first
	case m.run.Len() > 0:
		m.first = m.run.First()
	}
	return m
}

// each calls visit with what the devices have in memory, all if devices is nil; those with
// nothing are left out.
func (t *tails) each(devices []signalbox.DeviceID, visit func(device signalbox.DeviceID, m memory)) {
	one := func(device signalbox.DeviceID) {
		if m := t.snapshot(device); m.first != math.MaxUint64 {
			visit(device, m)
		}
	}
	for _, d := range devices {
		one(d)
	}
	if devices != nil {
		return
	}
	t.mu.RLock()
	pages := slices.Clone(t.pages)
	t.mu.RUnlock()
	for i, p := range pages {
		for k := range tailsPerPage {
			if device := signalbox.DeviceID(i*tailsPerPage + k); p != nil && device != eventDevice {
				one(device)
			}
		}
	}
}

// spans gives what is in memory with messages from low to high, for a sweep in time order.
func (m *memory) spans(device signalbox.DeviceID, low, high int64) (found []span) {
	add := func(run *chunk.Run) {
		if run.Len() == 0 {
			return
		}
		if k0, k1 := run.Times(); k0 <= high && k1 >= low {
			found = append(found, span{run: run, device: device, k0: k0, k1: k1})
		}
	}
	for _, u := range m.units {
		add(&u.run)
	}
	add(&m.run)
	return found
}
