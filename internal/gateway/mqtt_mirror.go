package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/broker"
	"signalbox/internal/broker/durable"
	"signalbox/internal/bus"
)

const (
	// mirrorQueue bounds what waits to be published, in entries.
	mirrorQueue = 8192
	// mirrorLook is how often it is looked whether anybody subscribes.
	mirrorLook = time.Second
)

// mirrorRest is how long the mirror goes on after somebody wanted to subscribe.
const mirrorRest = 5 * time.Second

// mirrorPatience is how long a device that speaks MQTT here is waited for to tell its status itself.
const mirrorPatience = time.Second

// mirror publishes on the native topics what devices report that do not publish there
// themselves: by WebSocket, and by mapped topics. It publishes nothing new while nobody subscribes to
// such topics. It listens before the SUBACK that it is for has left.
//
// What is retained as a device's status is the device's as long as it was the device that published
// it: it is never overwritten. Where it is the hub's word, it is kept true, whatever the device speaks
// and whether anybody subscribes or not. Where there is none, the hub tells, if anybody subscribes;
// a device that speaks MQTT itself has a moment to do so first.
type mirror struct {
	on     atomic.Bool
	wake   chan struct{}
	mu     sync.Mutex
	sub    *bus.Subscription // nil while it is off
	wanted time.Time         // when somebody wanted to subscribe last
	// The rest belongs to runMirror.
	native map[signalbox.DeviceID]bool               // devices that speak MQTT here
	told   map[signalbox.DeviceID]signalbox.Presence // the hub's words that are retained
	later  map[signalbox.DeviceID]time.Time          // devices whose own word is waited for, and until when
	looked time.Time                                 // when later was looked through
}

// wantMirror begins to listen, because somebody is about to subscribe to filter.
func (m *MQTT) wantMirror(filter string) {
	switch first, _, _ := strings.Cut(filter, "/"); first {
	case nativePrefix[:len(nativePrefix)-1], "+", "#":
	default:
		return
	}
	m.mirror.mu.Lock()
	defer m.mirror.mu.Unlock()
	m.mirror.wanted = time.Now()
	m.beginMirror()
}

// beginMirror needs the lock.
func (m *MQTT) beginMirror() {
	if m.mirror.sub != nil || m.parts.Bus == nil {
		return
	}
	m.mirror.sub = m.parts.Bus.Subscribe(bus.Options{Entries: mirrorQueue, Want: m.mirrors})
	m.mirror.on.Store(true)
	select {
	case m.mirror.wake <- struct{}{}:
	default:
	}
}

// endMirror stops listening unless somebody may want it, and tells whether it did.
func (m *MQTT) endMirror(always bool) bool {
	if !always && m.mirrorWanted() {
		return false
	}
	m.mirror.mu.Lock()
	defer m.mirror.mu.Unlock()
	if !always && time.Since(m.mirror.wanted) < mirrorRest {
		return false
	}
	if m.mirror.sub != nil {
		m.mirror.sub.Close()
		m.mirror.sub = nil
		m.mirror.on.Store(false)
	}
	return true
}

func (m *MQTT) mirrorWanted() bool {
	return m.broker.Interested(nativePrefix+"+/"+topicTelemetry) || m.broker.Interested(nativePrefix+"+/"+topicStatus)
}

// runMirror publishes until ctx ends.
func (m *MQTT) runMirror(ctx context.Context) {
	look := time.NewTicker(mirrorLook) // for sessions that were there before this process
	defer look.Stop()
	m.mirror.told = m.hubWords()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.mirror.wake:
		case <-look.C:
			m.keepTrue()
			if !m.mirrorWanted() {
				continue
			}
		}
		m.mirror.mu.Lock()
		m.beginMirror()
		sub := m.mirror.sub
		m.mirror.mu.Unlock()
		m.mirrorWhile(ctx, sub)
	}
}

// mirrorWhile publishes as long as somebody subscribes.
func (m *MQTT) mirrorWhile(ctx context.Context, sub *bus.Subscription) {
	m.mirror.native, m.mirror.later = make(map[signalbox.DeviceID]bool), make(map[signalbox.DeviceID]time.Time)
	all := false // presences have been published
	var entries []signalbox.Entry
	for {
		if !all && m.mirrorWanted() {
			all = m.mirrorPresences(ctx)
		}
		wait, cancel := context.WithTimeout(ctx, mirrorLook)
		var missed int64
		var err error
		entries, missed, err = sub.Next(wait, entries[:0])
		cancel()
		m.stats.MirrorMissed.Add(missed)
		for i := range entries {
			m.mirrorEntry(&entries[i])
		}
		clear(entries)
		m.mirrorLate(time.Now())
		if missed > 0 { // a presence may have been among it
			all = false
		}
		if ctx.Err() != nil || err != nil && m.endMirror(false) {
			break
		}
	}
	if ctx.Err() != nil {
		m.endMirror(true)
	}
}

// mirrors is the bus.Filter: telemetry that its device is not publishing at this moment, and
// presence. It is called where the entry is appended, under the device's lock.
func (m *MQTT) mirrors(e *signalbox.Entry) bool {
	switch e.Kind {
	case signalbox.EntryPresence:
		return true
	case signalbox.EntryTelemetry:
		s := m.g.Sessions.Get(e.Device)
		if s == nil {
			return true
		}
		c, ok := s.Conn.(*mqttConn)
		return !ok || !c.is(mqttPublishes)
	default:
		return false
	}
}

func (m *MQTT) mirrorEntry(e *signalbox.Entry) {
	d := m.g.Devices.Get(e.Device)
	if d == nil {
		return
	}
	if e.Kind == signalbox.EntryTelemetry {
		m.mirrorPublish(&durable.Message{Topic: nativePrefix + d.Name + "/" + topicTelemetry, Payload: e.Body, QoS: 1, From: hubOwner})
		return
	}
	var change signalbox.PresenceChange
	if json.Unmarshal(e.Body, &change) != nil {
		return
	}
	if change.Presence == signalbox.Online {
		m.mirror.native[e.Device] = tellsItself(change.Protocol, change.Address)
	}
	m.mirrorPresence(e.Device, d.Name, change.Presence, m.mirror.native[e.Device])
}

// tellsItself reports whether an online device publishes its status here: it speaks MQTT, and not
// by another broker, for which it would have no address.
func tellsItself(p signalbox.Protocol, address string) bool {
	return p == signalbox.ProtocolMQTT && address != ""
}

// mirrorPresences publishes how it stands with all devices that ever connected.
func (m *MQTT) mirrorPresences(ctx context.Context) bool {
	for _, d := range m.g.Devices.All() {
		if ctx.Err() != nil {
			return false
		}
		v := d.View()
		if v.Since.IsZero() {
			continue
		}
		if v.Presence == signalbox.Online {
			m.mirror.native[d.ID] = tellsItself(v.Protocol, v.Address)
		}
		m.mirrorPresence(d.ID, d.Name, v.Presence, m.mirror.native[d.ID])
	}
	return true
}

// mirrorPresence publishes a presence, retained, where the hub's word holds and is another one. With
// patience the device has a moment to tell itself.
func (m *MQTT) mirrorPresence(id signalbox.DeviceID, name string, p signalbox.Presence, patience bool) {
	topic := nativePrefix + name + "/" + topicStatus
	owner, kept := m.broker.RetainedBy(topic)
	switch {
	case kept && owner != hubOwner:
		delete(m.mirror.told, id)
	case kept && m.mirror.told[id] == p:
	case patience:
		if _, waits := m.mirror.later[id]; !waits {
			m.mirror.later[id] = time.Now().Add(mirrorPatience)
		}
	default:
		message := durable.Message{Topic: topic, Payload: []byte(p), QoS: 1, Retain: true, From: hubOwner}
		switch err := m.broker.PublishOwn(&message); {
		case err == nil:
			m.mirror.told[id] = p
			m.stats.Mirrored.Add(1)
		case errors.Is(err, broker.ErrOthers): // the device has told it itself since it was looked at
			delete(m.mirror.told, id)
		default: // what is retained is what was told before, if anything was
			m.stats.MirrorMissed.Add(1)
		}
	}
}

// mirrorLate publishes the presence of devices that had their moment.
func (m *MQTT) mirrorLate(now time.Time) {
	if now.Sub(m.mirror.looked) < mirrorPatience/10 { // there may be very many
		return
	}
	m.mirror.looked = now
	for id, until := range m.mirror.later {
		if now.Before(until) {
			continue
		}
		delete(m.mirror.later, id)
		if d := m.g.Devices.Get(id); d != nil {
			m.mirrorPresence(id, d.Name, d.View().Presence, false)
		}
	}
}

// hubWords gives the devices whose retained status is the hub's word of an earlier process: what it
// says is not known.
func (m *MQTT) hubWords() map[signalbox.DeviceID]signalbox.Presence {
	words := make(map[signalbox.DeviceID]signalbox.Presence)
	for _, d := range m.g.Devices.All() {
		if owner, ok := m.broker.RetainedBy(nativePrefix + d.Name + "/" + topicStatus); ok && owner == hubOwner {
			words[d.ID] = ""
		}
	}
	return words
}

// keepTrue corrects the hub's retained words while nobody subscribes.
func (m *MQTT) keepTrue() {
	for id, told := range m.mirror.told {
		d := m.g.Devices.Get(id)
		if d == nil {
			delete(m.mirror.told, id)
			continue
		}
		if owner, ok := m.broker.RetainedBy(nativePrefix + d.Name + "/" + topicStatus); !ok || owner != hubOwner {
			delete(m.mirror.told, id)
			continue
		}
		if p := d.View().Presence; p != told {
			m.mirrorPresence(id, d.Name, p, false)
		}
	}
}

func (m *MQTT) mirrorPublish(message *durable.Message) {
	if err := m.broker.Publish(message); err != nil {
		m.stats.MirrorMissed.Add(1)
		return
	}
	m.stats.Mirrored.Add(1)
}
