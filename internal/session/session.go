package session

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
)

// Conn is what a transport lends the hub of one device's connection. Its methods never
// block.
type Conn interface {
	// Deliver encodes c in the device's protocol and hands it to the connection. An error
	// means that nothing of it was handed over.
	Deliver(c *signalbox.Command) error
	// End closes the connection; reason is one of those of signalbox.PresenceChange.
	End(reason string)
}

// ErrNotListening is Deliver's error when the device has stopped listening (Listener) since the
// command was marked. It is tried again when the device listens again.
var ErrNotListening = errors.New("the device has not subscribed to its commands")

// ErrBusy is Deliver's error when the connection takes nothing more at present. The command, and
// all that come after it, are tried again when the connection has room: when Online is called.
var ErrBusy = errors.New("the device's connection takes no more commands at present")

// Onceler is a Conn whose commands carry no ID that a device could recognise later: what may
// have been written is never written again. Once may be called with locks held, and must not
// take any.
type Onceler interface {
	Once() bool
}

// Once reports whether commands go to s at most once, although it may answer them.
func (s *Session) Once() bool {
	o, ok := s.Conn.(Onceler)
	return ok && o.Once()
}

// Listener is a Conn that may be there without taking commands: an MQTT device that has not
// subscribed to them. Listening may be called with locks held, and must not take any.
type Listener interface {
	Listening() bool
}

// Listening reports whether commands can be delivered to s.
func (s *Session) Listening() bool {
	l, ok := s.Conn.(Listener)
	return !ok || l.Listening()
}

// Chooser is a Conn that cannot say every command. Fits may be called with locks held, and must
// not take any.
type Chooser interface {
	// Fits tells why the command's name and value cannot be delivered, whatever happens; nil
	// when they can.
	Fits(c *signalbox.Command) error
}

// Fits tells why c can never be delivered to s, nil when it can.
func (s *Session) Fits(c *signalbox.Command) error {
	if f, ok := s.Conn.(Chooser); ok {
		return f.Fits(c)
	}
	return nil
}

// Speaker is a Conn whose commands go out by another protocol than the session's: a device
// with an MQTT connection of its own that hears its commands on mapped topics. Speaks may be
// called with locks held, and must not take any.
type Speaker interface {
	Speaks() signalbox.Protocol
}

// Speaks is the protocol by which commands go to s.
func (s *Session) Speaks() signalbox.Protocol {
	if p, ok := s.Conn.(Speaker); ok {
		return p.Speaks()
	}
	return s.Protocol
}

// Session is one authenticated connection of a device. It does not change once attached.
type Session struct {
	// ID is the fencing number: of two sessions of a device the larger is the newer.
	ID       uint64
	Device   signalbox.DeviceID
	Protocol signalbox.Protocol
	Conn     Conn
}

// Device numbers are dense, so the table is an array in pages: finding a session is two
// loads and no lock, and a device costs 8 bytes.
const (
	pageBits = 10
	pageSize = 1 << pageBits
)

type page [pageSize]atomic.Pointer[Session]

// Table holds the live sessions.
type Table struct {
	next  atomic.Uint64
	count atomic.Int64
	pages atomic.Pointer[[]*page]
	grow  sync.Mutex
}

// New makes an empty table. Fencing numbers begin at the present Unix microsecond, so
// that they grow across restarts as long as fewer than a million devices a second log in.
func New() *Table {
	t := &Table{}
	t.next.Store(uint64(time.Now().UnixMicro())) //nolint:gosec // long after 1970
	t.pages.Store(&[]*page{})
	return t
}

// NextID gives a new fencing number.
func (t *Table) NextID() uint64 { return t.next.Add(1) }

// place is where the device's session is kept, nil when that page was never needed.
func (t *Table) place(d signalbox.DeviceID) *atomic.Pointer[Session] {
	pages := *t.pages.Load()
	if i := int(d >> pageBits); i < len(pages) {
		return &pages[i][d%pageSize]
	}
	return nil
}

// room is place, with the pages made that are missing.
func (t *Table) room(d signalbox.DeviceID) *atomic.Pointer[Session] {
	if p := t.place(d); p != nil {
		return p
	}
	t.grow.Lock()
	defer t.grow.Unlock()
	pages := slices.Clone(*t.pages.Load())
	for len(pages) <= int(d>>pageBits) {
		pages = append(pages, new(page))
	}
	t.pages.Store(&pages)
	return &pages[d>>pageBits][d%pageSize]
}

// Attach makes s the device's session and returns the one it replaces, nil without one.
// A session that is older than the present one is not taken: then ok is false.
func (t *Table) Attach(s *Session) (replaced *Session, ok bool) {
	p := t.room(s.Device)
	for {
		old := p.Load()
		if old != nil && old.ID > s.ID {
			return nil, false
		}
		if p.CompareAndSwap(old, s) {
			if old == nil {
				t.count.Add(1)
			}
			return old, true
		}
	}
}

// Detach removes s and reports whether it still was the device's session.
func (t *Table) Detach(s *Session) bool {
	p := t.place(s.Device)
	if p == nil || !p.CompareAndSwap(s, nil) {
		return false
	}
	t.count.Add(-1)
	return true
}

// Get finds the device's session, nil when it is offline.
func (t *Table) Get(d signalbox.DeviceID) *Session {
	if p := t.place(d); p != nil {
		return p.Load()
	}
	return nil
}

// Len is the number of live sessions.
func (t *Table) Len() int { return int(t.count.Load()) }

// All gives the sessions that are live at about now, in the order of the device numbers.
func (t *Table) All() []*Session {
	all := make([]*Session, 0, t.Len())
	for _, p := range *t.pages.Load() {
		for i := range p {
			if s := p[i].Load(); s != nil {
				all = append(all, s)
			}
		}
	}
	return all
}
