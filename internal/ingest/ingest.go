package ingest

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/session"
)

// Config says what is plausible. Zero values take the defaults.
type Config struct {
	// Past and Future bound a device's own time stamp, seen from the hub's clock (defaults
	// 30 days and 1 minute). Outside of them the time of receipt is taken; inside the future
	// ones too, since nothing can have been measured after it was received.
	Past, Future time.Duration
	Logger       *slog.Logger
}

// Observer hears telemetry that a command may be confirmed by. Package command is it.
type Observer interface {
	// Watching reports, cheaply, whether Telemetry is to be called for the device.
	Watching(device signalbox.DeviceID) bool
	// Telemetry is called under the device's lock with an entry that has its position; the
	// entry is lent for the call.
	Telemetry(e *signalbox.Entry)
}

// Verdict is what became of a message.
type Verdict uint8

// The verdicts.
const (
	// Stored: the message has its place in the log.
	Stored Verdict = iota
	// Duplicate: the device had sent this sequence number before; acknowledge, store nothing.
	Duplicate
	// Stale: a newer connection has taken over, or the device may have none; close this one.
	Stale
	// Full: the log takes nothing now; present the message again later.
	Full
	// Stopping: the hub takes nothing any more.
	Stopping
)

// Message is one telemetry message of a connection.
type Message struct {
	// Body is the object as it came; it is copied.
	Body []byte
	// TimeMicros is the device's own time, Unix µs, 0 for none.
	TimeMicros int64
	// Boot and Seq order the messages of one power-up; Seq 0 for none.
	Boot, Seq uint64
	// Also is an entry to append behind the message's own in the same commit, nil for none. It
	// is appended with Stored alone, and its position is what settles.
	Also *signalbox.Entry
	// Awaited says that somebody waits for the commit; it goes without saying with a Seq.
	Awaited bool
}

// Stats counts since the start.
type Stats struct {
	// Late counts stored messages with a time of their own, before that of receipt.
	Stored, Duplicates, Stale, Pushback, Implausible, Late atomic.Int64
}

// Road is the telemetry road. Methods may be called from any goroutine.
type Road struct {
	cfg      Config
	log      history.Appender
	devices  *registry.Registry
	sessions *session.Table
	commands Observer
	stats    Stats
	entries  sync.Pool // of *signalbox.Entry, so that a message does not allocate
}

// New joins the parts of the road.
func New(cfg Config, log history.Appender, devices *registry.Registry, sessions *session.Table, commands Observer) *Road {
	if cfg.Past <= 0 {
		cfg.Past = 30 * 24 * time.Hour
	}
	if cfg.Future <= 0 {
		cfg.Future = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Road{
		cfg: cfg, log: log, devices: devices, sessions: sessions, commands: commands,
		entries: sync.Pool{New: func() any { return new(signalbox.Entry) }},
	}
}

// Stats gives the live counters.
func (r *Road) Stats() *Stats { return &r.stats }

// Telemetry takes one message of the session with the given fencing number. settles is the
// position that must be on disk before the message may be acknowledged.
func (r *Road) Telemetry(d *registry.Device, sessionID uint64, m *Message) (settles signalbox.Position, v Verdict) {
	s := d.Lock()
	defer d.Unlock()
	if s.Session != sessionID {
		r.stats.Stale.Add(1)
		return 0, Stale
	}
	if m.Seq != 0 {
		if s.Boot == m.Boot && m.Seq <= s.Seq {
			r.stats.Duplicates.Add(1)
			return s.SeqPosition, Duplicate
		}
	}
	return r.keep(d, s, m)
}

// keep takes a message that is to be stored into log and state. The caller holds d's lock.
func (r *Road) keep(d *registry.Device, s *registry.State, m *Message) (settles signalbox.Position, v Verdict) {
	r.devices.Touch(d)
	e, _ := r.entries.Get().(*signalbox.Entry)
	*e = signalbox.Entry{Device: d.ID, Kind: signalbox.EntryTelemetry, TimeMicros: r.plausible(m.TimeMicros), Boot: m.Boot, Seq: m.Seq, Body: m.Body}
	defer r.entries.Put(e)
	if err := r.append(e, m.Also, m.urgency()); err != nil {
		return 0, r.refused(err)
	}
	s.Position, s.ReceivedMicros, s.TimeMicros, s.Reported = e.Position, e.ReceivedMicros, e.TimeMicros, true
	s.SetBody(m.Body)
	if m.Seq != 0 {
		s.Boot, s.Seq, s.SeqPosition = m.Boot, m.Seq, e.Position
	}
	r.stats.Stored.Add(1)
	if e.TimeMicros != e.ReceivedMicros {
		r.stats.Late.Add(1)
	}
	if r.commands.Watching(d.ID) {
		r.commands.Telemetry(e)
	}
	return last(e, m.Also), Stored
}

// append puts e into the log, and also behind it in the same commit unless that is nil.
func (r *Road) append(e, also *signalbox.Entry, u history.Urgency) error {
	if also == nil {
		return r.log.Append(e, u)
	}
	return r.log.AppendBoth(e, also, u)
}

// Settle notes that a message was refused for good: its sequence number counts as done.
func (r *Road) Settle(d *registry.Device, sessionID, boot, seq uint64) {
	s := d.Lock()
	defer d.Unlock()
	if s.Session == sessionID && (s.Boot != boot || seq > s.Seq) {
		if s.Boot != boot {
			s.SeqPosition = 0
		}
		s.Boot, s.Seq = boot, seq
	}
}

// Settled gives the highest sequence number of a power-up that is known to be on disk or
// refused.
func (r *Road) Settled(d *registry.Device, boot uint64) uint64 {
	s := d.Lock()
	defer d.Unlock()
	if s.Boot == boot && s.SeqPosition <= r.log.Committed() {
		return s.Seq
	}
	return 0
}

func (r *Road) refused(err error) Verdict {
	if errors.Is(err, history.ErrFull) {
		r.stats.Pushback.Add(1)
		return Full
	}
	return Stopping
}

// plausible gives the device's time when it can be true, else 0.
func (r *Road) plausible(micros int64) int64 {
	if micros == 0 {
		return 0
	}
	// Compared in microseconds: what a device sends may be too far off for a time.Duration.
	now := time.Now().UnixMicro()
	if micros < now-r.cfg.Past.Microseconds() || micros > now+r.cfg.Future.Microseconds() {
		r.stats.Implausible.Add(1)
		return 0
	}
	return micros
}

// Connect makes s the device's session and notes its presence. replaced is the session
// that had to go, nil without one. Stale says that an even newer one is there, or that the
// device was disabled or removed since its credential was checked; Full and Stopping that
// presence cannot be recorded now, and nothing was changed.
func (r *Road) Connect(d *registry.Device, s *session.Session, address netip.Addr) (replaced *session.Session, v Verdict) {
	state := d.Lock()
	defer d.Unlock()
	if state.Session > s.ID || !d.Admitted() {
		r.stats.Stale.Add(1)
		return nil, Stale
	}
	from := ""
	if address.IsValid() {
		from = address.String()
	}
	r.devices.Touch(d)
	e, err := r.presence(d.ID, signalbox.PresenceChange{Presence: signalbox.Online, Session: s.ID, Address: from, Protocol: s.Protocol}, nil)
	if err != nil {
		return nil, r.refused(err)
	}
	replaced, _ = r.sessions.Attach(s)
	state.Session, state.Protocol, state.Address, state.SinceMicros, state.Reported = s.ID, s.Protocol, address, e.ReceivedMicros, false
	return replaced, Stored
}

// Disconnect ends s; when it was the device's newest, the device is offline from now on.
// reason is one of those of signalbox.PresenceChange. It reports whether the device went
// offline.
func (r *Road) Disconnect(d *registry.Device, s *session.Session, reason string) bool {
	state := d.Lock()
	defer d.Unlock()
	r.sessions.Detach(s)
	if state.Session != s.ID {
		return false
	}
	if err := r.offline(d, state, reason); err != nil {
		r.cfg.Logger.Warn("a device went offline unrecorded", "device", d.Name, "reason", reason, "err", err)
	}
	return true
}

// offline notes that the device is away. When the log refuses (the error) the state says so
// all the same: after a restart the device would be found offline too.
func (r *Road) offline(d *registry.Device, state *registry.State, reason string) error {
	r.devices.Touch(d)
	e, err := r.presence(d.ID, signalbox.PresenceChange{Presence: signalbox.Offline, Session: state.Session, Reason: reason}, nil)
	state.SinceMicros = e.ReceivedMicros
	if err != nil {
		state.SinceMicros = time.Now().UnixMicro()
	}
	state.Session, state.Protocol = 0, signalbox.ProtocolNone
	return err
}

// Begin makes presence true after a start: devices whose connections ended with the former
// process are offline. It runs once, before anything connects.
func (r *Road) Begin() {
	unrecorded := 0
	var last error
	r.devices.Each(func(d *registry.Device) {
		state := d.Lock()
		defer d.Unlock()
		if state.Session != 0 {
			if err := r.offline(d, state, "restart"); err != nil {
				unrecorded, last = unrecorded+1, err
			}
		}
	})
	if unrecorded > 0 {
		r.cfg.Logger.Warn("devices went offline unrecorded", "devices", unrecorded, "reason", "restart", "err", last)
	}
}

func (r *Road) presence(id signalbox.DeviceID, p signalbox.PresenceChange, also *signalbox.Entry) (signalbox.Entry, error) {
	e := signalbox.Entry{Device: id, Kind: signalbox.EntryPresence}
	var err error
	if e.Body, err = json.Marshal(p); err != nil {
		return e, fmt.Errorf("encode presence: %w", err)
	}
	err = r.append(&e, also, history.Soon)
	return e, err
}

// Alert keeps and announces something people should hear of a device.
func (r *Road) Alert(d *registry.Device, alert, text string) error {
	body, err := json.Marshal(map[string]string{"alert": alert, "message": text})
	if err != nil {
		return fmt.Errorf("encode alert: %w", err)
	}
	return r.log.Append(&signalbox.Entry{Device: d.ID, Kind: signalbox.EntryAlert, Body: body}, history.Soon)
}
