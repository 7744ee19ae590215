package mapped

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/registry"
)

// maxUnseen bounds the unseen devices that wait to be written down.
const maxUnseen = 256

// registerTimeout bounds the writing of one.
const registerTimeout = 10 * time.Second

// unseen is the queue of devices to be made pending. Each is in it once.
type unseen struct {
	mu    sync.Mutex
	names map[string]struct{}
	queue chan newcomer
}

// newcomer is a device that nobody knows.
type newcomer struct{ name, kind, topic string }

func (u *unseen) init() {
	u.names = make(map[string]struct{})
	u.queue = make(chan newcomer, maxUnseen)
}

// stranger counts a message of a device that does not exist, and has it made pending where the
// mapping says so.
func (m *Map) stranger(r *rule, name []byte, topic string) {
	if !r.Register {
		m.stats.Unknown.Add(1)
		m.tellUnknown(name, topic, time.Now())
		return
	}
	u := &m.unseen
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, waits := u.names[string(name)]; waits {
		m.stats.Pending.Add(1)
		return
	}
	if len(u.names) >= maxUnseen || m.parts.Devices.Pending() >= m.cfg.MaxPending {
		m.stats.Surplus.Add(1)
		return
	}
	n := newcomer{name: string(name), kind: r.Type, topic: topic}
	if signalbox.CheckName("device name", n.name) != nil {
		m.stats.Unknown.Add(1)
		return
	}
	n.topic = strings.Clone(topic)
	u.names[n.name] = struct{}{}
	u.queue <- n // there is room: each name in it is in names
	m.stats.Pending.Add(1)
}

// unknownEvery is the time between two lines of the log about devices that nobody knows.
const unknownEvery = time.Minute

// untold is what the log was not told yet about devices that nobody knows.
type untold struct {
	mu       sync.Mutex
	at       time.Time // of the latest line
	messages int64
}

// tellUnknown tells the log of a dropped message, with how many there were since the last line.
func (m *Map) tellUnknown(name []byte, topic string, now time.Time) {
	dropped := m.untold.note(now)
	if dropped == 0 {
		return
	}
	m.logger.Warn("a message of a device that does not exist was dropped: add the device, or let the mapping make unseen devices pending (register: true)",
		"device", string(name), "topic", topic, "dropped_since_last_line", dropped)
}

// note counts a message, and gives how many to tell of when it is time to.
func (u *untold) note(now time.Time) (dropped int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.messages++
	if !u.at.IsZero() && now.Sub(u.at) < unknownEvery {
		return 0
	}
	dropped, u.at, u.messages = u.messages, now, 0
	return dropped
}

// runUnseen makes devices of the queue pending, one after the other.
func (m *Map) runUnseen(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-m.unseen.queue:
			m.register(ctx, n)
		}
	}
}

// register makes one device pending. What fails is forgotten: its next message asks again.
func (m *Map) register(ctx context.Context, n newcomer) {
	defer func() {
		m.unseen.mu.Lock()
		defer m.unseen.mu.Unlock()
		delete(m.unseen.names, n.name)
	}()
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	d, err := m.parts.Devices.AddPending(ctx, registry.NewDevice{Name: n.name, Type: n.kind, Secret: unknownSecret()}, m.cfg.MaxPending)
	switch {
	case err == nil:
	case signalbox.CodeOf(err) == "name_taken", errors.Is(err, context.Canceled):
		return
	case signalbox.CodeOf(err) == "too_many_pending":
		m.stats.Surplus.Add(1)
		return
	default:
		m.logger.Warn("an unseen device could not be made pending", "device", n.name, "topic", n.topic, "err", err)
		return
	}
	m.stats.Registered.Add(1)
	m.parts.Devices.NotePending(d, n.topic)
	m.logger.Info("an unseen device waits for approval", "device", n.name, "topic", n.topic)
	if err := m.parts.Road.Alert(d, "device_pending", "The device was not known before. It waits for approval, and its messages are dropped until then."); err != nil {
		m.logger.Warn("the alert of an unseen device was not recorded", "device", n.name, "err", err)
	}
}
