package replay

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// Pace says by which times a replay is paced.
type Pace string

// The paces. PaceReceived is how a listener saw it at the time; PaceTime is how the devices
// measured it, and what imported telemetry wants, which was received all at once.
const (
	PaceReceived Pace = "received"
	PaceTime     Pace = "time"
)

// Times says which times the events of a replay carry.
type Times string

// Original times are those of history; shifted ones are moved by one span, so that the first
// event of the replay is of the moment at which it is played.
const (
	Original Times = "original"
	Shifted  Times = "shifted"
)

// The limits of a speed other than 0.
const (
	MinSpeed = 0.001
	MaxSpeed = 1e6
)

const (
	// DefaultMax is how many replays there are at once when nothing is said.
	DefaultMax = 8
	// Linger is how long a replay waits for a sink, at first and when one went away.
	Linger = time.Minute
	// maxEnded is how many ended replays are remembered.
	maxEnded = 64
	// openScans is how many replays read history at the same time.
	openScans = 2
)

// Options choose what is played, and how.
type Options struct {
	// Devices are those whose telemetry is played; nil: all.
	Devices []signalbox.DeviceID
	// From ≤ history time < To. A zero From is the beginning of history, a zero To its end.
	From, To time.Time
	// Speed is how often as fast as it happened, MinSpeed to MaxSpeed; 0: as fast as possible.
	Speed float64
	Times Times // "" is Original
	Pace  Pace  // "" is PaceReceived
	// Paused replays begin when they are told to.
	Paused bool
	// Unmarked allows sinks that cannot carry the mark.
	Unmarked bool
	// Into is what the manager plays into by itself (StartInto), in words for people; empty:
	// whoever calls Play listens.
	Into string
	// Names, Types and CreatedBy are for people: what was asked for, by whom.
	Names, Types []string
	CreatedBy    string
}

func (o *Options) check() error {
	if o.Times == "" {
		o.Times = Original
	}
	if o.Pace == "" {
		o.Pace = PaceReceived
	}
	switch {
	case !o.From.IsZero() && !o.To.IsZero() && !o.From.Before(o.To):
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_range", "from %s is not before to %s", o.From.UTC().Format(time.RFC3339Nano), o.To.UTC().Format(time.RFC3339Nano))
	case o.Times != Original && o.Times != Shifted:
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_times", "times is %q; allowed are %s and %s", o.Times, Original, Shifted)
	case o.Pace != PaceReceived && o.Pace != PaceTime:
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_pace", "pace is %q; allowed are %s and %s", o.Pace, PaceReceived, PaceTime)
	}
	return checkSpeed(o.Speed)
}

func checkSpeed(speed float64) error {
	if speed == 0 || speed >= MinSpeed && speed <= MaxSpeed {
		return nil
	}
	return signalbox.Errorf(signalbox.KindInvalid, "invalid_speed", "speed is %s; allowed are 0 (as fast as possible) and 0.001 to 1,000,000", strconv.FormatFloat(speed, 'f', -1, 64))
}

// State says what a replay does.
type State string

// The states: waiting for the first sink, playing, paused, away (its sink has gone and may
// come back), ended.
const (
	Waiting State = "waiting"
	Playing State = "playing"
	Paused  State = "paused"
	Away    State = "away"
	Ended   State = "ended"
)

// Why a replay has ended.
const (
	ReasonDone     = "done"
	ReasonStopped  = "stopped"
	ReasonNoViewer = "no_viewer"
	ReasonFailed   = "failed"
)

// Status is a replay as it stands.
type Status struct {
	Mark
	Options
	State  State
	Reason string // of Ended
	Fault  string // what went wrong, when the manager played it by itself and ReasonFailed is why it ended
	Sent   int64  // events that sinks have taken
	Seeks  uint64 // how often it was moved
	// At is where the replay's clock stands: the moment of the last event sent. Zero: none.
	At                        time.Time
	CreatedAt, Started, EndAt time.Time
}

// History is the past as a replay reads it; history.Log is it.
type History interface {
	Committed() signalbox.Position
	ScanRange(ctx context.Context, q history.RangeQuery, yield func(*signalbox.Entry) error) error
}

// Config says what a Manager works with.
type Config struct {
	History History
	// NameOf gives a device's name, "" when it was removed: then it is not played.
	NameOf func(signalbox.DeviceID) string
	// Hub is the hub's instance, for marks.
	Hub string
	// Max bounds the replays that have not ended (default DefaultMax).
	Max    int
	Logger *slog.Logger
}

// Stats counts what replays do.
type Stats struct {
	Started atomic.Int64 // replays made
	Refused atomic.Int64 // replays refused because there were too many
	Events  atomic.Int64 // taken by sinks
	Bytes   atomic.Int64 // of their objects
}

// Manager keeps the replays of a hub.
type Manager struct {
	cfg     Config
	stats   Stats
	slots   chan struct{} // taken by who reads history
	waiting atomic.Int32  // for a slot

	own     sync.Mutex      // of ownCtx, and of adding to ownWork
	ownCtx  context.Context // of Run; nil: it does not run
	ownWork sync.WaitGroup  // replays that the manager plays by itself

	mu      sync.Mutex
	replays []*replay // in the order of their making
}

// replay is one; its fields are under the manager's lock, but for what is set once.
type replay struct {
	mark    Mark
	options Options
	until   signalbox.Position
	created time.Time

	changed chan struct{} // closed and made anew at each change
	paused  bool
	speed   float64
	reason  string // not "": it has ended
	fault   string
	viewer  uint64 // number of the present sink
	viewers uint64 // that came so far
	patient time.Time
	base    place // where it began, or was moved to
	place   place // where it goes on
	seeks   uint64
	sent    int64
	at      int64 // of the last event sent
	shift   int64
	shifted bool
	started time.Time
	ended   time.Time
	cut     context.CancelFunc // of a delivery under way to the present sink; nil: there is none
}

// place is where in the log a replay goes on.
type place struct {
	after signalbox.Position
	clock int64 // not less than this
	seek  int64 // what has an earlier moment is passed over
	skip  signalbox.Position
}

func beginning() place { return place{clock: math.MinInt64, seek: math.MinInt64} }

// New makes a manager.
func New(cfg Config) *Manager {
	if cfg.Max <= 0 {
		cfg.Max = DefaultMax
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Manager{cfg: cfg, slots: make(chan struct{}, openScans)}
}

// Start makes a replay of what is in the log now; it begins when Play is called. KindInvalid
// for options that cannot be, KindLimited when there are too many replays.
func (m *Manager) Start(o Options) (Status, error) {
	if err := o.check(); err != nil {
		return Status{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.tidy(now)
	active := m.active(func(*replay) bool { return true })
	if active >= m.cfg.Max {
		m.stats.Refused.Add(1)
		return Status{}, signalbox.Errorf(signalbox.KindLimited, "too_many_replays", "there are %d replays already, and no more at once are allowed; stop one, or try again later", active)
	}
	r := &replay{
		mark: Mark{ID: random(idBytes), Hub: m.cfg.Hub}, options: o, until: m.cfg.History.Committed(), created: now,
		changed: make(chan struct{}), paused: o.Paused, speed: o.Speed, patient: now.Add(Linger), base: beginning(), place: beginning(),
	}
	m.replays = append(m.replays, r)
	m.stats.Started.Add(1)
	return r.status(), nil
}

// active counts the replays that have not ended and of which is says so; the manager is locked.
func (m *Manager) active(is func(*replay) bool) int {
	n := 0
	for _, r := range m.replays {
		if r.reason == "" && is(r) {
			n++
		}
	}
	return n
}

// Stats are what the replays did, since the manager was made.
func (m *Manager) Stats() *Stats { return &m.stats }

// Running tells how many replays have not ended, and how many of them play at present.
func (m *Manager) Running() (open, playing int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tidy(time.Now())
	return m.active(func(*replay) bool { return true }), m.active(func(r *replay) bool { return r.state() == Playing })
}

// tidy ends the replays that nobody came for, and forgets the oldest ended ones.
func (m *Manager) tidy(now time.Time) {
	ended := 0
	for _, r := range m.replays {
		if r.reason == "" && r.viewer == 0 && now.After(r.patient) {
			r.end(ReasonNoViewer, r.patient)
		}
		if r.reason != "" {
			ended++
		}
	}
	m.replays = slices.DeleteFunc(m.replays, func(r *replay) bool {
		if r.reason == "" || ended <= maxEnded {
			return false
		}
		ended--
		return true
	})
}

// find gives a replay; the manager is locked.
func (m *Manager) find(id string) (*replay, error) {
	m.tidy(time.Now())
	for _, r := range m.replays {
		if r.mark.ID == id {
			return r, nil
		}
	}
	return nil, signalbox.Errorf(signalbox.KindNotFound, "replay_not_found", "there is no replay %.100q", id)
}

// Get tells how a replay stands.
func (m *Manager) Get(id string) (Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.find(id)
	if err != nil {
		return Status{}, err
	}
	return r.status(), nil
}

// List tells of all replays, in the order in which they were made.
func (m *Manager) List() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tidy(time.Now())
	list := make([]Status, len(m.replays))
	for i, r := range m.replays {
		list[i] = r.status()
	}
	return list
}

// Change is what a replay is told; what is nil stays.
type Change struct {
	Paused *bool
	Speed  *float64
	// Seek moves to the first message whose moment is not before it.
	Seek *time.Time
}

// Change tells a replay. KindConflict when it has ended.
func (m *Manager) Change(id string, c Change) (Status, error) {
	if c.Speed != nil {
		if err := checkSpeed(*c.Speed); err != nil {
			return Status{}, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.find(id)
	if err != nil {
		return Status{}, err
	}
	if r.reason != "" {
		return Status{}, errEnded(r)
	}
	if c.Paused != nil {
		r.paused = *c.Paused
	}
	if c.Speed != nil {
		r.speed = *c.Speed
	}
	if c.Seek != nil {
		r.seek(c.Seek.UnixMicro())
	}
	r.tell()
	return r.status(), nil
}

// seek moves to a moment. What lies before the present one has been passed already.
func (r *replay) seek(at int64) {
	to := beginning()
	if at > r.place.clock {
		to.after, to.clock = r.place.after, r.place.clock
	}
	to.seek = at
	r.base, r.place = to, to
	r.seeks++
}

func errEnded(r *replay) error {
	return signalbox.Errorf(signalbox.KindConflict, "replay_ended", "the replay %s has ended (%s)", r.mark.ID, r.reason)
}

// Stop ends a replay; one that has ended is forgotten.
func (m *Manager) Stop(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.find(id)
	if err != nil {
		return err
	}
	if r.reason != "" {
		m.replays = slices.DeleteFunc(m.replays, func(other *replay) bool { return other == r })
		return nil
	}
	r.end(ReasonStopped, time.Now())
	return nil
}

// tell wakes the one who plays it.
func (r *replay) tell() {
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *replay) end(reason string, at time.Time) {
	r.reason, r.ended = reason, at
	if r.cut != nil {
		r.cut() // it may be a long wait
	}
	r.tell()
}

func (r *replay) state() State {
	switch {
	case r.reason != "":
		return Ended
	case r.viewers == 0:
		return Waiting
	case r.viewer == 0:
		return Away
	case r.paused:
		return Paused
	default:
		return Playing
	}
}

func (r *replay) status() Status {
	s := Status{
		Mark: r.mark, Options: r.options, State: r.state(), Reason: r.reason, Fault: r.fault, Sent: r.sent, Seeks: r.seeks,
		CreatedAt: r.created, Started: r.started, EndAt: r.ended,
	}
	s.Options.Speed, s.Options.Paused = r.speed, r.paused
	if r.sent > 0 {
		s.At = time.UnixMicro(r.at).UTC()
	}
	return s
}
