package mapped

import (
	"errors"
	"fmt"
	"time"

	"signalbox"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/wire"
)

// nativeQoS is that of commands in the native tree.
const nativeQoS = 1

// Native says how the native tree of a broker that is not the hub's own is taken. The zero value
// is good.
type Native struct {
	// Register makes an unseen device pending when it sends telemetry or its status; without it,
	// unseen devices are unknown.
	Register bool
	// Type is that of the devices it makes; empty: sensor.
	Type string
	// Silence is as in a Mapping. It means nothing while a device's status says online.
	Silence time.Duration
}

// Check tells what is wrong with n, as New does.
func (n *Native) Check() error {
	_, err := newNativeRule(n, DefaultSilence)
	return err
}

// newNativeRule makes the rule that stands for the native tree.
func newNativeRule(n *Native, silence time.Duration) (*rule, error) {
	r, err := newRule(&Mapping{
		Filter: "+/" + wire.NativeTelemetry, Device: "{1}", Type: n.Type, Register: n.Register, Silence: n.Silence,
	}, -1, silence)
	if err != nil {
		return nil, fmt.Errorf("the native topics: %w", err)
	}
	r.Filter = wire.NativePrefix + "+/…"
	return r, nil
}

var errNativeStatus = errors.New("the status is neither online nor offline")

// takeNative takes a message of the native tree.
func (m *Map) takeNative(t *Taking) Verdict {
	name, what, _ := wire.SplitNative(t.Topic)
	switch what {
	case wire.NativeTelemetry, wire.NativeStatus, wire.NativeAck, wire.NativeResult:
	default:
		return None
	}
	if len(t.Payload) == 0 { // a retained message is cleared (5.0, 3.3.1.3)
		m.stats.Idle.Add(1)
		return Dropped
	}
	answer := what == wire.NativeAck || what == wire.NativeResult
	d := m.parts.Devices.Find(name)
	switch {
	case d == nil && answer:
		m.stats.Unknown.Add(1)
		return Dropped
	case d == nil:
		m.stranger(m.native, []byte(name), t.Topic)
		return Dropped
	case answer:
		return m.answer(d, t, what == wire.NativeResult)
	case what == wire.NativeStatus:
		return m.status(d, t)
	default:
		return m.nativeTelemetry(d, t)
	}
}

// nativeTelemetry takes an object with the reserved keys of protocol version 2, or a bare number.
func (m *Map) nativeTelemetry(d *registry.Device, t *Taking) Verdict {
	msg := ingest.Message{Body: t.Payload, Also: t.Also, Awaited: t.Awaited}
	if number, ok := wire.BareNumber(t.Payload); ok {
		buffer, _ := m.bodies.Get().(*[]byte)
		defer m.bodies.Put(buffer)
		*buffer = wire.AppendNumber((*buffer)[:0], number)
		msg.Body = *buffer
	} else {
		says, fault := wire.ReadTelemetry(t.Payload, m.cfg.Limits)
		if fault != nil {
			m.wrong(m.native, d.Name, fault)
			return Dropped
		}
		msg.TimeMicros = says.TimeMicros
		// Without a mark of the power-up nobody can tell a number that comes again from one of
		// the next power-up, for there is no connection that would end between them.
		if says.Boot != 0 && !t.Unordered {
			msg.Boot, msg.Seq = says.Boot, says.Seq
		}
	}
	if len(msg.Body) > m.cfg.MaxBody {
		m.wrong(m.native, d.Name, fmt.Errorf("the telemetry has %d bytes; at most %d are allowed", len(msg.Body), m.cfg.MaxBody))
		return Dropped
	}
	var c captures
	return m.verdict(d, t, m.report(d, m.native, t, &c, &msg))
}

// status takes the word that a device, or its will, has left on its status topic.
func (m *Map) status(d *registry.Device, t *Taking) Verdict {
	presence := signalbox.Presence(trim(t.Payload))
	if presence != signalbox.Online && presence != signalbox.Offline {
		m.wrong(m.native, d.Name, errNativeStatus)
		return Dropped
	}
	var c captures
	return m.verdict(d, t, m.present(d, m.native, t, &c, presence))
}

// answer takes the ack or the result of a command. It makes nobody online: it may be an old one.
func (m *Map) answer(d *registry.Device, t *Taking, result bool) Verdict {
	if t.Retained {
		m.stats.Idle.Add(1)
		return Dropped
	}
	var f wire.Frame
	id, fault := wire.ReadAnswer(t.Payload, m.cfg.Limits, &f)
	switch {
	case fault != nil:
		m.wrong(m.native, d.Name, fault)
		return Dropped
	case !admitted(d):
		return m.verdict(d, t, ingest.Stale)
	}
	m.heard(d)
	sender := &session.Session{Device: d.ID, Protocol: signalbox.ProtocolMQTT}
	if result {
		ok, value, text := f.Outcome()
		m.parts.Commands.Result(sender, id, ok, value, text)
	} else {
		m.parts.Commands.Ack(sender, id)
	}
	m.stats.Answers.Add(1)
	t.Position = m.parts.Log.Head() // the change of the command is at or before it
	return Taken
}

// heard puts off the silence of a device that is online.
func (m *Map) heard(d *registry.Device) {
	p := m.seats.find(d)
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.attached(p) {
		p.until.Store(max(p.until.Load(), m.native.deadline(time.Now().UnixMicro())))
	}
}

// Afresh says that the broker has forgotten what it knew of the hub, or that it may have: the
// native statuses that hold devices online hold them no longer than silence does, unless they
// come again.
func (m *Map) Afresh() {
	if m.native == nil {
		return
	}
	until := m.native.deadline(time.Now().UnixMicro())
	for i := range m.seats.shards {
		s := &m.seats.shards[i]
		var held []*place
		s.mu.RLock()
		for _, p := range s.places {
			held = append(held, p)
		}
		s.mu.RUnlock()
		for _, p := range held {
			p.mu.Lock()
			if p.held {
				p.held = false
				p.until.Store(until)
			}
			p.mu.Unlock()
		}
	}
}

// fillNative says a command in the native protocol.
func fillNative(device string, c *signalbox.Command) (topic string, payload []byte, err error) {
	payload, err = wire.AppendCommand(nil, c)
	return wire.NativePrefix + device + "/" + wire.NativeCommand, payload, err
}
