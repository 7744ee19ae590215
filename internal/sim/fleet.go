package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"signalbox"
)

// NewDevices is how a Fleet has its devices added: name and type each.
type NewDevices []NewDeviceSpec

// NewDeviceSpec is one device to be added.
type NewDeviceSpec struct{ Name, Type string }

// Credential is what a device logs in with.
type Credential struct{ Name, Secret string }

// Adder adds devices through the hub's API and gives the secret of each, in the same order. A device that exists
// already gets a new secret.
type Adder interface {
	AddDevices(ctx context.Context, list NewDevices) ([]Credential, error)
}

// Config says what a Fleet is. At least one device is needed, and the address of what it speaks to; the zero value of the
// rest means the defaults.
type Config struct {
	Addr            string // host:port of the hub's device listener
	MQTTAddr        string // host:port of its MQTT listener, for devices that speak MQTT
	Path            string
	Boxes, Stations int
	Prefix          string             // of the names: PREFIX-box-1, PREFIX-station-1…; default sim
	Protocol        signalbox.Protocol // ProtocolV1, ProtocolMQTT or, the default, ProtocolV2
	MQTT5           bool               // MQTT 5.0 instead of 3.1.1
	QoS             uint8              // of readings over MQTT, 0 or 1
	V1Share         float64            // share of devices that speak version 1 all the same, 0 to 1
	Interval        time.Duration      // between the readings of a device
	Reconnect       time.Duration
	// Sensors is how many original MQTT sensors there are besides; they have no name and no secret.
	Sensors       int
	SensorVariant Variant
	// Misbehave is the share of devices with each fault, 0 to 1 each, together at most 1.
	Misbehave map[Fault]float64
	Skew      time.Duration
	Hold      time.Duration
	Seed      uint64
	// Sources is over how many loopback addresses (127.0.0.1, 127.0.0.2…) the connections are spread; 0 leaves the
	// address to the system.
	Sources int
	// Credentials are those of the boxes first, then of the stations. Without them Adder adds the devices.
	Credentials []Credential
	Adder       Adder
	Logger      *slog.Logger
}

// Fleet is many simulated devices.
type Fleet struct {
	cfg      Config
	counters Counters
}

// NewFleet checks cfg.
func NewFleet(cfg Config) (*Fleet, error) {
	named := cfg.Boxes + cfg.Stations
	if cfg.Boxes < 0 || cfg.Stations < 0 || cfg.Sensors < 0 || named+cfg.Sensors == 0 {
		return nil, fmt.Errorf("a fleet cannot have %d boxes, %d stations and %d original sensors; none may be negative, and one device is needed", cfg.Boxes, cfg.Stations, cfg.Sensors)
	}
	if cfg.Sources < 0 || cfg.Sources > MaxSources {
		return nil, fmt.Errorf("connections cannot come from %d addresses; allowed are 0 (the system chooses) to %d", cfg.Sources, MaxSources)
	}
	if n := len(cfg.Credentials); n != 0 && n != named {
		return nil, fmt.Errorf("there are %d credentials for %d devices", n, cfg.Boxes+cfg.Stations)
	}
	if named > 0 && len(cfg.Credentials) == 0 && cfg.Adder == nil {
		return nil, errors.New("a fleet needs the credentials of its devices, or a hub's API to add them")
	}
	if cfg.V1Share < 0 || cfg.V1Share > 1 {
		return nil, fmt.Errorf("a share of version 1 devices cannot be %g; allowed is 0 to 1", cfg.V1Share)
	}
	total := 0.0
	for f, share := range cfg.Misbehave {
		if err := f.check(); err != nil {
			return nil, err
		}
		if share < 0 || share > 1 {
			return nil, fmt.Errorf("the share of %s cannot be %g; allowed is 0 to 1", string(f), share)
		}
		total += share
	}
	if total > 1.000001 {
		return nil, fmt.Errorf("the shares of misbehaving devices are %g together; at most 1 is allowed", total)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "sim"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Interval = orDefault(cfg.Interval, DefaultInterval)
	return &Fleet{cfg: cfg}, nil
}

// Stats says what the fleet did so far.
func (f *Fleet) Stats() Stats { return f.counters.Stats() }

// Len is how many devices the fleet has.
func (f *Fleet) Len() int { return f.named() + f.cfg.Sensors }

// named is how many have a name and a secret.
func (f *Fleet) named() int { return f.cfg.Boxes + f.cfg.Stations }

// runner is a device of either kind.
type runner interface {
	Run(ctx context.Context) error
}

// Run adds the devices where that is asked for, then lets them live until ctx ends; it returns nil then.
func (f *Fleet) Run(ctx context.Context) error {
	credentials := f.cfg.Credentials
	if len(credentials) == 0 && f.named() > 0 {
		var err error
		if credentials, err = f.cfg.Adder.AddDevices(ctx, f.specs()); err != nil {
			return fmt.Errorf("add %d simulated devices: %w", f.named(), err)
		}
		if len(credentials) != f.named() {
			return fmt.Errorf("the hub added %d devices instead of %d", len(credentials), f.named())
		}
	}
	devices, err := f.devices(credentials)
	if err != nil {
		return err
	}
	if devices, err = f.sensors(devices); err != nil {
		return err
	}
	var running sync.WaitGroup
	for i, d := range devices {
		// Readings of a fleet are spread over the interval, as those of boards are.
		delay := f.cfg.Interval * time.Duration(i) / time.Duration(len(devices))
		running.Go(func() {
			start := time.NewTimer(delay)
			defer start.Stop()
			select {
			case <-ctx.Done():
				return
			case <-start.C:
			}
			if err := d.Run(ctx); err != nil {
				f.cfg.Logger.Error("a simulated device stopped", "number", i+1, "err", err)
			}
		})
	}
	running.Wait()
	return nil
}

func (f *Fleet) specs() NewDevices {
	list := make(NewDevices, 0, f.named())
	for i := range f.named() {
		kind, n := f.kind(i)
		list = append(list, NewDeviceSpec{Name: fmt.Sprintf("%s-%s-%d", f.cfg.Prefix, kind, n), Type: string(kind)})
	}
	return list
}

// kind says what the i-th device is and its number among its like, from 1.
func (f *Fleet) kind(i int) (Kind, int) {
	if i < f.cfg.Boxes {
		return Box, i + 1
	}
	return Station, i - f.cfg.Boxes + 1
}

func (f *Fleet) devices(credentials []Credential) ([]runner, error) {
	faults := f.faults()
	malformations := make(map[signalbox.Protocol][]Malformation)
	if f.cfg.Misbehave[Malformed] > 0 {
		for _, p := range []signalbox.Protocol{signalbox.ProtocolV1, f.cfg.Protocol} {
			malformations[p] = malformationsOf(p)
		}
	}
	oldOnes := int(f.cfg.V1Share*float64(f.named()) + 0.5)
	list := make([]runner, 0, f.Len())
	for i, c := range credentials {
		kind, _ := f.kind(i)
		cfg := DeviceConfig{
			Name: c.Name, Secret: c.Secret, Kind: kind, Protocol: f.cfg.Protocol, MQTT5: f.cfg.MQTT5, QoS: f.cfg.QoS,
			Addr: f.cfg.Addr, Path: f.cfg.Path,
			Interval: f.cfg.Interval, Reconnect: f.cfg.Reconnect, Fault: faults[i], Skew: f.cfg.Skew, Hold: f.cfg.Hold,
			Seed: f.cfg.Seed, Counters: &f.counters, Logger: f.cfg.Logger,
		}
		if f.cfg.Sources > 0 {
			cfg.Source = Source(i % f.cfg.Sources)
		}
		if i < oldOnes {
			cfg.Protocol = signalbox.ProtocolV1
		}
		if cfg.Protocol == signalbox.ProtocolMQTT {
			cfg.Addr = f.cfg.MQTTAddr
		}
		cfg.malformations = malformations[cfg.Protocol]
		d, err := NewDevice(cfg)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

// sensors appends the original sensors to list.
func (f *Fleet) sensors(list []runner) ([]runner, error) {
	for i := range f.cfg.Sensors {
		cfg := SensorConfig{
			Addr: f.cfg.MQTTAddr, Variant: f.cfg.SensorVariant, Interval: f.cfg.Interval, Reconnect: f.cfg.Reconnect,
			Seed: f.cfg.Seed + uint64(i), Counters: &f.counters, Logger: f.cfg.Logger,
		}
		if f.cfg.Sources > 0 {
			cfg.Source = Source(i % f.cfg.Sources)
		}
		s, err := NewSensor(cfg)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// faults deals the faults out: the asked share of each, at least one device when the share is above 0, in an order
// that the seed decides.
func (f *Fleet) faults() []Fault {
	dealt := make([]Fault, 0, f.named())
	for _, fault := range Faults() {
		share := f.cfg.Misbehave[fault]
		n := int(share*float64(f.named()) + 0.5)
		if share > 0 {
			n = max(n, 1)
		}
		for range min(n, f.named()-len(dealt)) {
			dealt = append(dealt, fault)
		}
	}
	for len(dealt) < f.named() {
		dealt = append(dealt, NoFault)
	}
	rng := rand.New(rand.NewPCG(f.cfg.Seed, 1))
	rng.Shuffle(len(dealt), func(i, j int) { dealt[i], dealt[j] = dealt[j], dealt[i] })
	return dealt
}

// MaxSources is how many addresses Source knows.
const MaxSources = 64_000

// Source gives the i-th loopback address to connect from: 127.0.0.1, 127.0.0.2… (all of 127.0.0.0/8 is the machine
// itself on Linux). i is from 0 to MaxSources-1.
func Source(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 0, byte(i / 250), byte(1 + i%250)})
}
