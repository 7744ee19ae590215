package ingest

import (
	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/session"
)

// Report takes a message that came by no connection of the device's own: it is stored under
// the device's session whichever that is, without fencing. A device without a session gets s,
// whose number the caller has just taken from the table, and is online from then on; attached
// says so, with any verdict. A nil s says that the message is of the past: it changes no
// presence, and is a Duplicate unless the device has no telemetry yet. A message with a nil Body
// is presence alone, and a Duplicate if the device is online already.
//
// The message's own mark and number (Boot, Seq) are compared as Telemetry does. A Duplicate then
// makes nobody online, and settles is the position of the first one.
func (r *Road) Report(d *registry.Device, s *session.Session, m *Message) (settles signalbox.Position, attached bool, v Verdict) {
	state := d.Lock()
	defer d.Unlock()
	if !d.Admitted() {
		r.stats.Stale.Add(1)
		return 0, false, Stale
	}
	switch {
	case s == nil && (state.Body != nil || m.Body == nil), m.Body == nil && state.Session != 0:
		r.stats.Duplicates.Add(1)
		return 0, false, Duplicate
	case m.Seq != 0 && state.Boot == m.Boot && m.Seq <= state.Seq:
		r.stats.Duplicates.Add(1)
		return state.SeqPosition, false, Duplicate
	case s != nil && state.Session == 0:
		var also *signalbox.Entry
		if m.Body == nil {
			also = m.Also
		}
		r.devices.Touch(d)
		e, err := r.presence(d.ID, signalbox.PresenceChange{Presence: signalbox.Online, Session: s.ID, Protocol: s.Protocol}, also)
		if err != nil {
			return 0, false, r.refused(err)
		}
		r.sessions.Attach(s)
		state.Session, state.Protocol, state.SinceMicros, state.Reported = s.ID, s.Protocol, e.ReceivedMicros, false
		attached = true
		if m.Body == nil {
			return last(&e, also), true, Stored
		}
	}
	settles, v = r.keep(d, state, m)
	return settles, attached, v
}

// Leave ends s as Disconnect does, for a device that said itself that it goes. Unlike there,
// nothing has changed with the verdicts Full and Stopping. Stale says that s is not the
// device's session any more; also was not appended then.
func (r *Road) Leave(d *registry.Device, s *session.Session, reason string, also *signalbox.Entry) (settles signalbox.Position, v Verdict) {
	state := d.Lock()
	defer d.Unlock()
	if state.Session != s.ID {
		return 0, Stale
	}
	r.devices.Touch(d)
	e, err := r.presence(d.ID, signalbox.PresenceChange{Presence: signalbox.Offline, Session: s.ID, Reason: reason}, also)
	if err != nil {
		return 0, r.refused(err)
	}
	r.sessions.Detach(s)
	state.Session, state.Protocol, state.SinceMicros = 0, signalbox.ProtocolNone, e.ReceivedMicros
	return last(&e, also), Stored
}

// last is the position of the later one.
func last(e, also *signalbox.Entry) signalbox.Position {
	if also != nil {
		return also.Position
	}
	return e.Position
}

// urgency says how soon the commit of m should start.
func (m *Message) urgency() history.Urgency {
	if m.Seq != 0 || m.Awaited {
		return history.Acked
	}
	return history.Soon
}
