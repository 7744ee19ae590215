package forward

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
)

// Stats count what a forwarder did since it was made. Of what a kill interrupted a part is
// counted twice or not at all.
type Stats struct {
	// Sent, Settled, Redelivered, Failed, Skipped, Gaps and Reconnects are those of Status; Dead is how
	// many dead letters there are, Buried how many there ever were, DeadDropped how many of them had to
	// go for newer ones.
	Sent, Settled, Redelivered, Failed, Skipped, Gaps, Reconnects, Dead, Buried, DeadDropped atomic.Int64
	// Bytes are those of the messages sent; Replayed messages are those that replays played, and
	// Resent dead letters that were sent again. Neither is in Sent.
	Bytes, Replayed, Resent atomic.Int64
}

// counters are what of Stats survives a restart.
type counters struct {
	Sent        int64 `json:"sent,omitempty"`
	Settled     int64 `json:"settled,omitempty"`
	Redelivered int64 `json:"redelivered,omitempty"`
	Failed      int64 `json:"failed,omitempty"`
	Skipped     int64 `json:"skipped,omitempty"`
	Gaps        int64 `json:"gaps,omitempty"`
	Reconnects  int64 `json:"reconnects,omitempty"`
	Buried      int64 `json:"buried,omitempty"`
	DeadDropped int64 `json:"dead_dropped,omitempty"`
	Bytes       int64 `json:"bytes,omitempty"`
	Replayed    int64 `json:"replayed,omitempty"`
	Resent      int64 `json:"resent,omitempty"`
}

func (s *Stats) counters() counters {
	return counters{
		Sent: s.Sent.Load(), Settled: s.Settled.Load(), Redelivered: s.Redelivered.Load(), Failed: s.Failed.Load(), Skipped: s.Skipped.Load(),
		Gaps: s.Gaps.Load(), Reconnects: s.Reconnects.Load(), Buried: s.Buried.Load(), DeadDropped: s.DeadDropped.Load(), Bytes: s.Bytes.Load(), Replayed: s.Replayed.Load(), Resent: s.Resent.Load(),
	}
}

func (s *Stats) set(c *counters) {
	for _, v := range []struct {
		to   *atomic.Int64
		from int64
	}{
		{&s.Sent, c.Sent},
		{&s.Settled, c.Settled},
		{&s.Redelivered, c.Redelivered},
		{&s.Failed, c.Failed},
		{&s.Skipped, c.Skipped},
		{&s.Gaps, c.Gaps},
		{&s.Reconnects, c.Reconnects},
		{&s.Buried, c.Buried},
		{&s.DeadDropped, c.DeadDropped},
		{&s.Bytes, c.Bytes},
		{&s.Replayed, c.Replayed},
		{&s.Resent, c.Resent},
	} {
		v.to.Store(v.from)
	}
}

// forwarder is one of the Manager's. What is guarded by mu says so; the rest never changes, or is
// of its engine's goroutine.
type forwarder struct {
	m         *Manager
	name      string
	fromFile  bool
	createdBy string
	createdAt time.Time

	place    placing
	stats    Stats
	wake     chan struct{} // nudged by commits
	jobs     chan *job
	ended    chan struct{} // closed when the engine has ended for good
	tellings tellings
	stop     context.CancelFunc // ends the engine; nil: it was not started. Guarded by Manager.mu

	// mark is the position up to which messages may have been sent; the engine's own.
	mark signalbox.Position
	// pace is where and when it was last asked how far messages may be sent; the engine's own.
	pace struct {
		at   signalbox.Position
		when time.Time
	}
	// seq and playSeq are the last numbers that messages of the log, and those of replays, were sent
	// with, for Spec.Sequence; the engine's own.
	seq, playSeq uint64

	// job is what the engine has begun to send besides the log, gaveUp the latest range of
	// positions that were given up, holes the position up to which it was told that retention dropped
	// something; all are the engine's own.
	job    *job
	gaveUp skip
	holes  signalbox.Position

	mu      sync.Mutex
	spec    Spec               // with secrets, as it was given
	broken  string             // why it does not run, whatever its spec says
	again   context.CancelFunc // ends the life with the present spec; nil: none
	state   State
	fault   string
	faultAt time.Time
	target  Target // nil: none
	lost    int64  // Failed of the target that are counted already
}

func newForwarder(m *Manager, spec Spec, fromFile bool) *forwarder {
	return &forwarder{
		m: m, name: spec.Name, fromFile: fromFile, spec: spec, state: StateConnecting,
		wake: make(chan struct{}, 1), jobs: make(chan *job), ended: make(chan struct{}),
	}
}

// set replaces the spec; the engine begins anew with it.
func (f *forwarder) set(spec Spec) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spec = spec
	f.fault, f.faultAt = "", time.Time{}
	if f.again != nil {
		f.again()
	}
}

// begin gives the spec to live with, and the context that ends with it.
func (f *forwarder) begin(ctx context.Context) (context.Context, context.CancelFunc, Spec) {
	f.mu.Lock()
	defer f.mu.Unlock()
	lived, again := context.WithCancel(ctx)
	f.again = again
	return lived, again, f.spec
}

func (f *forwarder) enters(state State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = state
}

// goesOn enters a state, unless something is wrong.
func (f *forwarder) goesOn(state State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault == "" {
		f.state = state
	}
}

// stateNow is the state as it is shown.
func (f *forwarder) stateNow() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shown()
}

// shown is the engine's state, but that of the present spec before the engine lives with it. The
// caller holds mu.
func (f *forwarder) shown() State {
	switch {
	case f.spec.Paused || f.broken != "":
		return StatePaused
	case f.state == StatePaused:
		return StateConnecting
	default:
		return f.state
	}
}

// fails notes what went wrong; text is shown as it is.
func (f *forwarder) fails(state State, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.fault, f.faultAt = state, text, time.Now()
}

// well notes that all is well. It says whether it was not before.
func (f *forwarder) well() (news bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	news = f.fault != ""
	f.fault, f.faultAt = "", time.Time{}
	return news
}

// A Target may know who is connected to it (tcp-listen), and what it could not send (udp). Both
// may be asked from any goroutine.
type (
	receiving interface{ Receivers() []string }
	failing   interface{ Failed() int64 }
)

func (f *forwarder) setTarget(t Target) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.countLost()
	f.target, f.lost = t, 0
}

// countLost takes over what the target could not send. The caller holds mu.
func (f *forwarder) countLost() {
	if t, ok := f.target.(failing); ok {
		n := t.Failed()
		f.stats.Failed.Add(n - f.lost)
		f.lost = n
	}
}

// status is how the forwarder is.
func (f *forwarder) status() Status {
	at := f.place.get()
	end := f.m.parts.Log.Committed()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.countLost()
	s := Status{
		Spec: f.spec.Defaulted(), State: f.shown(), FromFile: f.fromFile, HasSecrets: secretNames(&f.spec.Secrets), Fault: f.fault, FaultAt: f.faultAt,
		Cursor: at.cursor, Behind: int64(max(end, at.cursor) - at.cursor), CreatedBy: f.createdBy, CreatedAt: f.createdAt,
		Sent: f.stats.Sent.Load(), Settled: f.stats.Settled.Load(), Redelivered: f.stats.Redelivered.Load(), Failed: f.stats.Failed.Load(),
		Skipped: f.stats.Skipped.Load(), Gaps: f.stats.Gaps.Load(), Dead: f.stats.Dead.Load(), DeadDropped: f.stats.DeadDropped.Load(), Reconnects: f.stats.Reconnects.Load(),
	}
	s.Spec.Secrets = Secrets{}
	s.Spec.Devices, s.Spec.Types, s.Spec.Fields = slices.Clone(s.Spec.Devices), slices.Clone(s.Spec.Types), slices.Clone(s.Spec.Fields)
	s.Spec.Kinds, s.Spec.Allow = slices.Clone(s.Spec.Kinds), slices.Clone(s.Spec.Allow)
	if t, ok := f.target.(receiving); ok {
		s.Receivers = t.Receivers()
		if len(s.Receivers) == 0 && (s.State == StateFlowing || s.State == StateCatchingUp) {
			s.State = StateListening
		}
	}
	if f.broken != "" {
		s.Fault = f.broken
	}
	return s
}

// secretNames says which secrets there are.
func secretNames(s *Secrets) (names []string) {
	for _, o := range []struct{ name, value string }{{"secret", s.HMAC}, {"bearer", s.Bearer}, {"password", s.Password}} {
		if o.value != "" {
			names = append(names, o.name)
		}
	}
	return names
}
