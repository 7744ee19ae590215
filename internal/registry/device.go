package registry

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/store"
)

// Device is one device in memory. ID and Name never change.
type Device struct {
	// There may be a million: the order of the fields keeps gaps out.
	Name string

	mu        sync.Mutex
	kind      *string // its type, shared by all devices of it
	secret    store.Secret
	disabled  bool
	pending   bool
	removed   bool
	dirty     bool // its state changed since it was last stored
	ID        signalbox.DeviceID
	version   uint32 // of the secret
	createdMs int64

	state State
}

// State is what changes while a device lives. It may be touched only between Device.Lock
// and Device.Unlock.
type State struct {
	// Session is the fencing number of the present connection, 0 when offline.
	Session uint64
	// SinceMicros is when the present presence began; 0: never connected.
	SinceMicros int64
	// Address is that of the latest successful login.
	Address netip.Addr

	// Protocol is that of the present connection; Reported says that telemetry came since
	// it began.
	Protocol signalbox.Protocol
	Reported bool

	// spent and refilled are the device's budget of messages, see Take.
	spent    uint16
	refilled uint32

	// Position, ReceivedMicros, TimeMicros and Body are those of the latest telemetry.
	// SetBody changes Body.
	Position       signalbox.Position
	ReceivedMicros int64
	TimeMicros     int64
	Body           []byte

	// Boot and Seq are the power-up mark and the highest sequence number accepted from it;
	// SeqPosition is the position that must be on disk for Seq to be settled.
	Boot, Seq   uint64
	SeqPosition signalbox.Position
}

// bodySlack is how much longer than its text the memory of a body may be: a large message
// should not hold its room for ever.
const bodySlack = 64

// SetBody makes Body a copy of body.
func (s *State) SetBody(body []byte) {
	if have := cap(s.Body); have < len(body) || have > 2*len(body)+bodySlack {
		s.Body = append([]byte(nil), body...)
		return
	}
	s.Body = append(s.Body[:0], body...)
}

// Lock gives the state to the caller until Unlock. Hold it briefly and call nothing that
// waits: a device's read path stands behind it.
func (d *Device) Lock() *State {
	d.mu.Lock()
	return &d.state
}

// Admitted reports whether the device may have a connection: it is neither removed nor
// disabled. The caller holds the lock.
func (d *Device) Admitted() bool { return !d.removed && !d.disabled }

// Unlock ends what Lock began.
func (d *Device) Unlock() { d.mu.Unlock() }

// MaxBurst is the largest burst that Take knows.
const MaxBurst = 1<<16 - 1

// Take takes one message out of the device's budget of rate messages a second and at most
// burst (up to MaxBurst) at once, or reports false. The budget is the device's, whatever
// connection it comes by. now is the time since some fixed moment, never going back.
func (d *Device) Take(rate, burst int, now time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &d.state
	burst = min(burst, MaxBurst)
	if int(s.spent) < burst {
		s.spent++
		return true
	}
	at := uint32(now.Milliseconds()) //nolint:gosec // meant to wrap: only differences count
	fresh := min(int64(at-s.refilled)*int64(rate)/1000, int64(s.spent))
	if fresh == 0 {
		return false
	}
	s.spent -= uint16(fresh) - 1 //nolint:gosec // at most spent, and this message takes one
	s.refilled = at
	return true
}

// SecretVersion counts the changes of the secret in this process. Who reads it before
// checking a secret can tell afterwards whether the secret is still that one.
func (d *Device) SecretVersion() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.version
}

// Secret gives the hashed secret and whether the device may log in.
func (d *Device) Secret() (secret store.Secret, allowed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.secret, d.Admitted()
}

// Type is the device's type.
func (d *Device) Type() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return *d.kind
}

// Pending reports whether the device waits for a person to approve it. It is disabled as well.
func (d *Device) Pending() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pending
}

// Disabled reports whether the device may not log in.
func (d *Device) Disabled() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.disabled
}

// LastAddress is the address of the latest successful login, the zero Addr before one.
func (d *Device) LastAddress() netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state.Address
}

// LatestObject is a copy of the latest telemetry object, nil before the first.
func (d *Device) LatestObject() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.state.Body)
}

// View is what people and programs see of the device.
func (d *Device) View() signalbox.Device {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := signalbox.Device{
		ID: d.ID, Name: d.Name, Type: *d.kind, Status: d.status(), Presence: signalbox.Offline, Since: fromMicros(d.state.SinceMicros),
		Disabled: d.disabled, Pending: d.pending, LastSeen: fromMicros(d.state.ReceivedMicros), CreatedAt: time.UnixMilli(d.createdMs).UTC(),
	}
	if d.state.Session != 0 {
		v.Presence, v.Protocol = signalbox.Online, d.state.Protocol
	}
	if d.state.Address.IsValid() {
		v.Address = d.state.Address.String()
	}
	return v
}

// StateView is the device's latest telemetry and presence, with a copy of the object.
func (d *Device) StateView() signalbox.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := signalbox.State{
		Device: d.Name, Status: d.status(), Presence: signalbox.Offline, Since: fromMicros(d.state.SinceMicros),
		Received: fromMicros(d.state.ReceivedMicros), Time: fromMicros(d.state.TimeMicros), Telemetry: slices.Clone(d.state.Body),
	}
	if d.state.Session != 0 {
		v.Presence = signalbox.Online
	}
	return v
}

// status is what the original server showed: offline; online until the first telemetry
// of a connection; then the field status of the latest one, unknown without it.
func (d *Device) status() string {
	switch {
	case d.state.Session == 0:
		return string(signalbox.Offline)
	case !d.state.Reported:
		return string(signalbox.Online)
	}
	// The last of duplicate keys counts.
	status := "unknown"
	gjson.ParseBytes(d.state.Body).ForEach(func(key, value gjson.Result) bool {
		if key.Str == "status" {
			switch value.Type {
			case gjson.String:
				status = value.Str
			case gjson.Null:
				status = "unknown"
			default:
				status = value.Raw // a number as the device spelled it
			}
		}
		return true
	})
	return status
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
