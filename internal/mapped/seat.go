package mapped

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/session"
)

// sweepEvery is how often silence is looked for.
const sweepEvery = time.Second

// never is a deadline that does not come.
const never = math.MaxInt64

// place is what is known of a device that mapped messages came from.
//
// Locks: mu is held around calls of the telemetry road, which take the device's lock. What
// commands need, the way, is behind no lock, because the command road asks for it while it
// holds its own.
type place struct {
	device *registry.Device
	way    atomic.Pointer[way]

	until atomic.Int64 // when the device is silent, Unix µs; changed under mu

	mu   sync.Mutex
	seat *seat // the latest session that stands for it, nil before the first
	held bool  // its native status says online: silence means nothing
	owed bool  // its broker was away: what waits goes out with its next message
}

// seat is a session without a connection: it is attached once, and never again after its end.
type seat struct {
	session session.Session
	m       *Map
	place   *place
	used    bool // it was attached; guarded by place.mu
}

// way is how commands go to a device: in the native protocol if rule is the Map's native one,
// else by rule's template.
type way struct {
	rule      *rule
	native    bool
	link      Link
	wildcards []string // by number, from 1; those that the template needs
}

// seats finds places by device, in parts that have a lock each.
type seats struct{ shards [seatShards]seatShard }

const seatShards = 64

type seatShard struct {
	mu     sync.RWMutex
	places map[signalbox.DeviceID]*place
}

func (s *seats) init() {
	for i := range s.shards {
		s.shards[i].places = make(map[signalbox.DeviceID]*place)
	}
}

// of gives the place of a device.
func (s *seats) of(d *registry.Device) *place {
	if p := s.find(d); p != nil {
		return p
	}
	shard := &s.shards[d.ID%seatShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	p := shard.places[d.ID]
	if p == nil {
		p = &place{device: d}
		shard.places[d.ID] = p
	}
	return p
}

// find gives the place of a device, nil without one.
func (s *seats) find(d *registry.Device) *place {
	shard := &s.shards[d.ID%seatShards]
	shard.mu.RLock()
	defer shard.mu.RUnlock()
	return shard.places[d.ID]
}

// report has telemetry stored, and the device online where it is not.
func (m *Map) report(d *registry.Device, r *rule, t *Taking, c *captures, msg *ingest.Message) ingest.Verdict {
	if t.Retained {
		settles, _, v := m.parts.Road.Report(d, nil, msg)
		t.Position = settles
		return v
	}
	p := m.seats.of(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	return m.arrive(p, r, t, c, msg)
}

// present takes a word of presence.
func (m *Map) present(d *registry.Device, r *rule, t *Taking, c *captures, presence signalbox.Presence) ingest.Verdict {
	p := m.seats.of(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	if presence == signalbox.Online {
		v := m.arrive(p, r, t, c, &ingest.Message{Also: t.Also, Awaited: t.Awaited})
		if r == m.native && m.attached(p) {
			p.held = true
			p.until.Store(never)
		}
		return v
	}
	if !m.attached(p) {
		if !admitted(d) {
			return ingest.Stale
		}
		return ingest.Duplicate // it is offline, or has a connection that knows better
	}
	settles, v := m.parts.Road.Leave(d, &p.seat.session, reasonReported, t.Also)
	t.Position = settles
	if v == ingest.Stale {
		v = ingest.Duplicate // it ended at this moment
	}
	return v
}

// Reasons of signalbox.PresenceChange.
const (
	reasonReported = "reported"
	reasonSilent   = "silent"
)

func admitted(d *registry.Device) bool {
	d.Lock()
	defer d.Unlock()
	return d.Admitted()
}

// arrive gives a message to the telemetry road. The caller holds p.mu.
func (m *Map) arrive(p *place, r *rule, t *Taking, c *captures, msg *ingest.Message) ingest.Verdict {
	deaf := p.way.Load() == nil
	m.learn(p, r, t, c) // before the session can be found
	if !m.attached(p) {
		m.vacate(p, r)
	}
	settles, attached, v := m.parts.Road.Report(p.device, &p.seat.session, msg)
	t.Position = settles
	if attached {
		p.seat.used = true
		p.until.Store(0)
	}
	if attached || v == ingest.Stored || v == ingest.Duplicate {
		p.until.Store(max(p.until.Load(), r.deadline(time.Now().UnixMicro())))
	}
	if attached || (deaf || p.owed) && p.way.Load() != nil && m.attached(p) {
		p.owed = false
		m.parts.Commands.Online(&p.seat.session)
	}
	return v
}

// attached reports whether the device's session is p's. The caller holds p.mu.
func (m *Map) attached(p *place) bool {
	return p.seat != nil && p.seat.used && m.parts.Sessions.Get(p.device.ID) == &p.seat.session
}

// vacate gives p a session that was never attached and is newer than any, for a message of r. The
// caller holds p.mu.
func (m *Map) vacate(p *place, r *rule) {
	if p.seat == nil || p.seat.used {
		p.seat = &seat{m: m, place: p}
		p.seat.session = session.Session{Device: p.device.ID, Conn: p.seat}
	}
	p.held = false
	p.seat.session.ID, p.seat.session.Protocol = m.parts.Sessions.NextID(), m.protocol(r)
}

// protocol is that of a device which came by r.
func (m *Map) protocol(r *rule) signalbox.Protocol {
	if r == m.native {
		return signalbox.ProtocolMQTT
	}
	return signalbox.ProtocolMapped
}

// deadline is when the device is silent after a message at now.
func (r *rule) deadline(now int64) int64 {
	if r.Silence < 0 {
		return never
	}
	return now + r.Silence.Microseconds()
}

// learn keeps by which way commands go to the device from now on. The caller holds p.mu.
func (m *Map) learn(p *place, r *rule, t *Taking, c *captures) {
	old := p.way.Load()
	switch {
	case t.Link == nil:
		return
	case r == m.native || old != nil && old.native: // a device that can answer is asked in the way in which it can
		if old == nil || !old.native || old.link != t.Link {
			p.way.Store(&way{rule: m.native, native: true, link: t.Link})
		}
	case r.command != nil:
		if old == nil || old.link != t.Link || old.rule != r || !old.same(t.Topic, c) {
			p.way.Store(newWay(r, t, c))
		}
	case old != nil:
		if old.link != t.Link {
			p.way.Store(&way{rule: old.rule, link: t.Link, wildcards: old.wildcards})
		}
	default:
		if r := m.certain(p.device.Name); r != nil {
			p.way.Store(&way{rule: r, link: t.Link})
		}
	}
}

// certain gives the first rule of a fixed device whose template needs no message to be filled,
// nil without one.
func (m *Map) certain(device string) *rule {
	for _, r := range m.commanded[device] {
		if len(r.command.needs) == 0 {
			return r
		}
	}
	return nil
}

func newWay(r *rule, t *Taking, c *captures) *way {
	w := &way{rule: r, link: t.Link}
	for _, n := range r.command.needs {
		if w.wildcards == nil {
			w.wildcards = make([]string, r.wildcards+1)
		}
		w.wildcards[n] = strings.Clone(c.of(t.Topic, n)) // the topic may be lent
	}
	return w
}

// same reports whether the wildcards of a message of w's rule stand for what they did before.
func (w *way) same(topic string, c *captures) bool {
	for _, n := range w.rule.command.needs {
		if w.wildcards[n] != c.of(topic, n) {
			return false
		}
	}
	return true
}

// Listening implements session.Listener: commands can go to the device if it has come by a
// mapping with a template, from a broker that is there.
func (s *seat) Listening() bool {
	w := s.place.way.Load()
	return w != nil && up(w.link)
}

// Returned says that a link is there again: what waits for the devices behind it goes out. If
// the broker had kept nothing, it may have been away itself, and the devices come back when they
// do: then each is given what waits with its next message.
func (m *Map) Returned(link Link, kept bool) {
	for i := range m.seats.shards {
		s := &m.seats.shards[i]
		s.mu.RLock()
		places := slices.Collect(maps.Values(s.places))
		s.mu.RUnlock()
		for _, p := range places {
			if w := p.way.Load(); w == nil || w.link != link {
				continue
			}
			p.mu.Lock()
			if p.owed = !kept; kept && m.attached(p) {
				m.parts.Commands.Online(&p.seat.session)
			}
			p.mu.Unlock()
		}
	}
}

// Fits implements session.Chooser: whether the command can be said by the device's template.
func (s *seat) Fits(c *signalbox.Command) error {
	_, _, _, err := s.fill(c)
	return err
}

// Speaks implements session.Speaker: native devices answer commands.
func (s *seat) Speaks() signalbox.Protocol {
	if w := s.place.way.Load(); w != nil && w.native {
		return signalbox.ProtocolMQTT
	}
	return signalbox.ProtocolMapped
}

func (s *seat) fill(c *signalbox.Command) (w *way, topic string, payload []byte, err error) {
	w = s.place.way.Load()
	topic, payload, err = w.fill(s.place.device.Name, c)
	return w, topic, payload, err
}

// fill says a command in the words of w's template; w may be nil.
func (w *way) fill(device string, c *signalbox.Command) (topic string, payload []byte, err error) {
	if w == nil {
		return "", nil, signalbox.Errorf(signalbox.KindConflict, "device_not_listening",
			"the device %q takes no commands: none of the mappings that it came by has a command template", device)
	}
	if w.native {
		return fillNative(device, c)
	}
	return w.rule.command.fill(&filling{device: device, command: c.Name, id: cmp.Or(c.ID, "0"), value: c.Value, wildcards: w.wildcards})
}

// quality is with which quality of service commands go out, and whether retained.
func (w *way) quality() (qos uint8, retain bool) {
	if w.native {
		return nativeQoS, false
	}
	return w.rule.command.qos, w.rule.command.retain
}

// Command gives what a command is in the words of the device's template, for a device with a
// connection of its own that listens on such a topic (Hears); the errors are those of Deliver
// and Fits. A command without an ID may be asked about. It may be called with locks held: it
// takes only such as nobody holds while calling others.
func (m *Map) Command(device string, c *signalbox.Command) (topic string, payload []byte, qos uint8, retain bool, err error) {
	w := m.wayOf(device)
	topic, payload, err = w.fill(device, c)
	if err != nil {
		return "", nil, 0, false, err
	}
	qos, retain = w.quality()
	return topic, payload, qos, retain, nil
}

// wayOf gives the way to the device of that name: the one by which it came, or before that the
// first in the list that is certain; nil without one.
func (m *Map) wayOf(device string) *way {
	if d := m.parts.Devices.Find(device); d != nil {
		if p := m.seats.find(d); p != nil && p.way.Load() != nil {
			return p.way.Load()
		}
	}
	if r := m.certain(device); r != nil {
		return &way{rule: r}
	}
	for _, r := range m.templated {
		n, capture, ok := r.device.invert(device)
		if !ok || slices.ContainsFunc(r.command.needs, func(need int) bool { return need != n }) {
			continue
		}
		w := &way{rule: r, wildcards: make([]string, r.wildcards+1)}
		w.wildcards[n] = capture
		return w
	}
	return nil
}

// Deliver implements session.Conn: it publishes the command by the template.
func (s *seat) Deliver(c *signalbox.Command) error {
	w, topic, payload, err := s.fill(c)
	if err == nil {
		err = w.publish(topic, payload, c)
	}
	if err != nil {
		s.m.stats.Undelivered.Add(1)
		if w != nil && !up(w.link) { // it went away a moment ago
			return session.ErrNotListening
		}
		return err
	}
	s.m.stats.Commands.Add(1)
	return nil
}

// defaultTimeout is that of a command which has none.
const defaultTimeout = 30 * time.Second

// publish hands a command to the link. A broker that can is told how long it is worth anything:
// as long as the command may wait, or if it may not, as long as an answer would be awaited. A
// retained one that may not wait stays, which is what it is retained for.
func (w *way) publish(topic string, payload []byte, c *signalbox.Command) error {
	qos, retain := w.quality()
	l, ok := w.link.(Expirer)
	if !ok {
		return w.link.Publish(topic, payload, qos, retain)
	}
	until := c.ExpiresAt
	if until.IsZero() && !retain {
		sent := c.SentAt
		if sent.IsZero() {
			sent = time.Now()
		}
		until = sent.Add(cmp.Or(time.Duration(c.TimeoutMs)*time.Millisecond, defaultTimeout))
	}
	return l.PublishUntil(topic, payload, qos, retain, until)
}

// End implements session.Conn: the device is offline until its next message.
func (s *seat) End(reason string) { s.m.parts.Road.Disconnect(s.place.device, &s.session, reason) }

// runSweep ends the presence of devices that are silent.
func (m *Map) runSweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var due []*place
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due = m.sweep(due, time.Now().UnixMicro())
		if n%purgeEvery == 0 {
			m.purge()
		}
	}
}

// sweep takes the devices offline that are silent at now. room is for the list of them.
func (m *Map) sweep(room []*place, now int64) []*place {
	for i := range m.seats.shards {
		room = m.seats.shards[i].due(room[:0], now)
		for _, p := range room {
			m.silence(p, now)
		}
	}
	clear(room[:cap(room)])
	return room
}

// purgeEvery is after how many sweeps the places of removed devices are given back.
const purgeEvery = 60

// due appends the places whose devices are silent.
func (s *seatShard) due(list []*place, now int64) []*place {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, p := range s.places {
		if p.until.Load() <= now {
			list = append(list, p)
		}
	}
	return list
}

// silence takes p's device offline, unless a message came meanwhile.
func (m *Map) silence(p *place, now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until.Load() > now {
		return
	}
	if m.attached(p) {
		_, v := m.parts.Road.Leave(p.device, &p.seat.session, reasonSilent, nil)
		if v == ingest.Full {
			return // the next sweep tries again
		}
		if v == ingest.Stored {
			m.stats.Silent.Add(1)
		}
	}
	p.until.Store(never)
}

// purge gives back the places of devices that were removed.
func (m *Map) purge() {
	for i := range m.seats.shards {
		s := &m.seats.shards[i]
		s.mu.Lock()
		maps.DeleteFunc(s.places, func(id signalbox.DeviceID, p *place) bool { return m.parts.Devices.Get(id) != p.device })
		s.mu.Unlock()
	}
}
