package homeassistant

import (
	"context"
	"errors"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/bus"
	"signalbox/internal/registry"
)

const (
	queueSize  = 4096        // entries that may wait
	sweepEvery = time.Minute // how often it is looked for removed devices
	retryEvery = time.Second // after a publish that did not work
)

// Publisher is the broker: Publish never blocks; an error means that nothing went out.
type Publisher interface {
	Publish(topic string, payload []byte, qos uint8, retain bool) error
}

// Discoverer publishes discovery. Make it with New; Run is its life.
type Discoverer struct {
	cfg     Config
	bus     *bus.Bus
	devices *registry.Registry
	broker  Publisher
	known   map[signalbox.DeviceID]*known
	failing bool
}

// known is what was published of a device.
type known struct {
	name     string
	presence signalbox.Presence
	topics   map[string]string // by field name
}

// New makes a Discoverer; the configuration has been checked.
func New(cfg Config, b *bus.Bus, devices *registry.Registry, broker Publisher) *Discoverer {
	cfg.defaults()
	return &Discoverer{cfg: cfg, bus: b, devices: devices, broker: broker, known: make(map[signalbox.DeviceID]*known)}
}

// Run publishes until ctx ends.
func (d *Discoverer) Run(ctx context.Context) error {
	sub := d.bus.Subscribe(bus.Options{Entries: queueSize, Want: func(e *signalbox.Entry) bool {
		return e.Kind == signalbox.EntryTelemetry || e.Kind == signalbox.EntryPresence
	}})
	defer sub.Close()
	d.survey()
	var entries []signalbox.Entry
	swept := time.Now()
	for {
		wait := sweepEvery
		if d.failing {
			wait = retryEvery
		}
		next, cancel := context.WithTimeout(ctx, wait)
		list, missed, err := sub.Next(next, entries[:0])
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return nil // an ordered end
		}
		failed := d.failing
		d.failing = false
		for i := range list {
			d.hear(&list[i])
		}
		clear(list)
		entries = list
		if missed > 0 || failed || time.Since(swept) >= sweepEvery {
			swept = time.Now()
			d.survey()
			d.sweep()
		}
	}
}

// survey publishes what is not yet published of all devices.
func (d *Discoverer) survey() {
	d.devices.Each(func(dev *registry.Device) {
		state := dev.StateView()
		d.presence(dev, state.Presence)
		d.telemetry(dev, state.Telemetry)
	})
}

func (d *Discoverer) hear(e *signalbox.Entry) {
	dev := d.devices.Get(e.Device)
	if dev == nil {
		return
	}
	if e.Kind == signalbox.EntryTelemetry {
		d.telemetry(dev, e.Body)
		return
	}
	d.presence(dev, signalbox.Presence(gjson.GetBytes(e.Body, "presence").Str))
}

// of gives what is known of a device.
func (d *Discoverer) of(dev *registry.Device) *known {
	k := d.known[dev.ID]
	if k == nil {
		k = &known{name: dev.Name, topics: make(map[string]string)}
		d.known[dev.ID] = k
	}
	return k
}

func (d *Discoverer) presence(dev *registry.Device, p signalbox.Presence) {
	k := d.of(dev)
	if p != "" && p != k.presence && d.publish(presenceTopic(dev.Name), []byte(p)) {
		k.presence = p
	}
}

func (d *Discoverer) telemetry(dev *registry.Device, body []byte) {
	if len(body) == 0 {
		return
	}
	k := d.of(dev)
	fields(gjson.ParseBytes(body), nil, func(f field) bool {
		if _, seen := k.topics[f.name]; seen {
			return true
		}
		if len(k.topics) >= d.cfg.MaxFields {
			return false
		}
		if f.component(d.cfg.Entities[f.name]) == "hidden" {
			return true
		}
		topic, text, err := d.cfg.describe(dev.ID, dev.Name, dev.Type(), &f)
		if err != nil {
			d.cfg.Logger.Warn("a field cannot be shown in Home Assistant", "device", dev.Name, "field", f.name, "err", err)
		} else if !d.publish(topic, text) {
			return false
		}
		k.topics[f.name] = topic
		return true
	})
}

// sweep withdraws what was published of devices that are gone.
func (d *Discoverer) sweep() {
	for id, k := range d.known {
		if d.devices.Get(id) != nil {
			continue
		}
		gone := k.presence == "" || d.publish(presenceTopic(k.name), nil)
		for name, topic := range k.topics {
			if gone = gone && d.publish(topic, nil); !gone {
				break
			}
			delete(k.topics, name)
		}
		if gone {
			delete(d.known, id)
		}
	}
}

// publish reports whether it went out.
func (d *Discoverer) publish(topic string, payload []byte) bool {
	if err := d.broker.Publish(topic, payload, 1, true); err != nil {
		if !d.failing {
			d.cfg.Logger.Debug("discovery could not be published, it is tried again", "topic", topic, "err", err)
		}
		d.failing = true
		return false
	}
	return true
}
