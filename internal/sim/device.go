package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"signalbox"
)

// Kind is what a simulated device is.
type Kind string

// The kinds of device; they are also the types under which a Fleet adds them.
const (
	Box     Kind = "box"
	Station Kind = "station"
)

// Defaults of a DeviceConfig.
const (
	DefaultInterval  = 2 * time.Second
	DefaultReconnect = 500 * time.Millisecond
	DefaultBuffer    = 1000
	DefaultHold      = 90 * time.Second
)

// stormPause is between the connections of a reconnect storm.
const stormPause = 20 * time.Millisecond

// seenCommands is how many command ids a device remembers in order to drop repetitions.
const seenCommands = 64

// dialTimeout bounds connecting and the upgrade; writeTimeout bounds one frame.
const (
	dialTimeout  = 10 * time.Second
	writeTimeout = 10 * time.Second
)

// DeviceConfig says what one simulated device is. Name, Secret and Addr are needed; the zero value of the rest means
// the defaults.
type DeviceConfig struct {
	Name, Secret string
	Kind         Kind               // default Box
	Protocol     signalbox.Protocol // ProtocolV1, ProtocolMQTT or, the default, ProtocolV2
	MQTT5        bool               // MQTT 5.0 instead of 3.1.1
	QoS          uint8              // of readings over MQTT, 0 or 1: those of 1 are kept until they are acknowledged
	Addr         string             // host:port of the hub's device listener, or of its MQTT listener
	Path         string             // default /
	Source       netip.Addr         // address to connect from; the zero Addr leaves it to the system
	Interval     time.Duration      // between readings
	Reconnect    time.Duration      // between attempts to connect, fixed as on the boards
	Buffer       int                // readings kept until they are saved, version 2 and QoS 1 only
	Fault        Fault
	Skew         time.Duration // how far the clock is off with ClockSkew; default one hour ahead
	Hold         time.Duration // how long a HalfOpen device stays silent before it connects anew
	Seed         uint64
	Counters     *Counters // shared by a fleet; nil gives the device its own
	Logger       *slog.Logger
	// malformations are what a Malformed device sends. They are some megabytes and cost time to
	// make, so a fleet makes them once; nil has the device make its own.
	malformations []Malformation
}

// Device is one simulated board.
type Device struct {
	cfg   DeviceConfig
	board board
	rng   *rand.Rand
	boot  string

	seq    uint64    // of the latest reading
	buffer []reading // not saved yet, in order of seq
	sent   uint64    // highest seq sent on the present connection
	seen   []string  // ids of commands, the latest last
	acts   int       // how often the fault has acted
	window int       // MQTT: how many readings may be under way
}

// keeps says whether the device hears that a reading is saved, and keeps it until then.
func (d *Device) keeps() bool {
	return d.cfg.Protocol == signalbox.ProtocolV2 || d.cfg.Protocol == signalbox.ProtocolMQTT && d.cfg.QoS > 0
}

// reading is one telemetry message that waits to be saved.
type reading struct {
	seq  uint64
	body []byte
}

// errHangUp is why a device ends a connection by itself.
var errHangUp = errors.New("the device hangs up")

// NewDevice checks cfg and makes a device that is not connected yet.
func NewDevice(cfg DeviceConfig) (*Device, error) {
	if cfg.Name == "" || cfg.Addr == "" {
		return nil, errors.New("a simulated device needs a name and the address of the hub's device listener")
	}
	if cfg.Kind == "" {
		cfg.Kind = Box
	}
	if cfg.Kind != Box && cfg.Kind != Station {
		return nil, fmt.Errorf("a device cannot be of kind %q; allowed are %s and %s", cfg.Kind, Box, Station)
	}
	if cfg.Protocol == signalbox.ProtocolNone {
		cfg.Protocol = signalbox.ProtocolV2
	}
	if cfg.Protocol > signalbox.ProtocolMQTT {
		return nil, fmt.Errorf("a device cannot speak protocol %d; allowed are version 1 and 2 over WebSocket, and MQTT (%d)", cfg.Protocol, signalbox.ProtocolMQTT)
	}
	if cfg.QoS > 1 {
		return nil, fmt.Errorf("readings cannot have quality of service %d; allowed are 0 and 1", cfg.QoS)
	}
	if err := cfg.Fault.check(); err != nil {
		return nil, err
	}
	if cfg.Fault == Malformed && cfg.malformations == nil {
		cfg.malformations = malformationsOf(cfg.Protocol)
	}
	cfg.Interval = orDefault(cfg.Interval, DefaultInterval)
	cfg.Reconnect = orDefault(cfg.Reconnect, DefaultReconnect)
	cfg.Hold = orDefault(cfg.Hold, DefaultHold)
	if cfg.Skew == 0 {
		cfg.Skew = time.Hour
	}
	cfg.Buffer = orDefault(cfg.Buffer, DefaultBuffer)
	if cfg.Counters == nil {
		cfg.Counters = new(Counters)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Device{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, hashName(cfg.Name)))}
	d.board = newBoard(cfg.Kind, d.rng)
	d.boot = strconv.FormatUint(d.rng.Uint64(), 36)
	return d, nil
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// Run lives the device's life until ctx ends, and returns nil then.
func (d *Device) Run(ctx context.Context) error {
	var twin sync.WaitGroup
	if d.cfg.Fault == Duplicate {
		cfg := d.cfg
		cfg.Fault, cfg.Seed = NoFault, cfg.Seed+1
		other, err := NewDevice(cfg)
		if err != nil {
			return err
		}
		twin.Go(func() { other.live(ctx) })
	}
	d.live(ctx)
	twin.Wait()
	return nil
}

func (d *Device) live(ctx context.Context) {
	tick := time.NewTicker(d.cfg.Interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		d.cfg.Counters.Dials.Add(1)
		err := d.connection(ctx, tick.C)
		if ctx.Err() != nil {
			return
		}
		d.cfg.Counters.Lost.Add(1)
		d.cfg.Logger.Debug("connection ended", "device", d.cfg.Name, "err", err)
		pause := d.cfg.Reconnect
		if d.cfg.Fault == Storm {
			pause = stormPause
		}
		d.away(ctx, tick.C, pause)
	}
}

// away waits until it is time to connect again. A board that keeps its readings goes on measuring.
func (d *Device) away(ctx context.Context, tick <-chan time.Time, pause time.Duration) {
	again := time.NewTimer(pause)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			return
		case now := <-tick:
			if d.keeps() {
				d.measure(now)
			}
		}
	}
}

// connection lives through one connection, from dialing to its end.
func (d *Device) connection(ctx context.Context, tick <-chan time.Time) error {
	if d.cfg.Protocol == signalbox.ProtocolMQTT {
		return d.mqttConnection(ctx, tick)
	}
	c, err := dial(ctx, link{addr: d.cfg.Addr, path: d.cfg.Path, source: d.cfg.Source, smallBuffer: d.cfg.Fault == SlowReader})
	if err != nil {
		d.cfg.Counters.DialErrors.Add(1)
		return err
	}
	d.cfg.Counters.Connected.Add(1)
	defer d.cfg.Counters.Connected.Add(-1)

	frames := make(chan frame, 16)
	var reader sync.WaitGroup
	stop := make(chan struct{})
	reader.Go(func() { d.read(c, frames, stop) })
	err = d.converse(ctx, c, frames, tick)
	close(stop)
	c.close(ctx.Err() != nil)
	reader.Wait()
	return err
}

// read hands over what the hub sends until the connection or the conversation ends; it closes frames.
func (d *Device) read(c *conn, frames chan<- frame, stop <-chan struct{}) {
	defer close(frames)
	for {
		if d.cfg.Fault == SlowReader && !slowly(stop) {
			return
		}
		f, err := c.readFrame()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				d.cfg.Logger.Debug("reading failed", "device", d.cfg.Name, "err", err)
			}
			return
		}
		select {
		case frames <- f:
		case <-stop:
			return
		}
	}
}

func (d *Device) converse(ctx context.Context, c *conn, frames <-chan frame, tick <-chan time.Time) error {
	d.sent = 0
	if err := c.writeText(d.auth()); err != nil {
		return err
	}
	online := d.cfg.Protocol == signalbox.ProtocolV1 // which hears nothing on success
	for {
		if online && d.cfg.Fault == Storm {
			d.cfg.Counters.Faults.Add(1)
			return errHangUp
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f, open := <-frames:
			if !open {
				return io.EOF
			}
			ok, err := d.handle(c, f)
			if err != nil {
				return err
			}
			online = online || ok
		case now := <-tick:
			if online && d.cfg.Fault != NoFault {
				if err := d.misbehave(ctx, c); err != nil {
					return err
				}
			}
			d.measure(now)
			if online {
				if err := d.flush(c); err != nil {
					return err
				}
			}
		}
	}
}

func (d *Device) auth() []byte {
	secret := d.cfg.Secret
	if d.cfg.Fault == WrongPassword {
		secret = "wrong"
		d.cfg.Counters.Faults.Add(1)
	}
	b := append([]byte(`{"type":"auth","name":`), quote(d.cfg.Name)...)
	b = append(append(b, `,"password":`...), quote(secret)...)
	if d.cfg.Protocol == signalbox.ProtocolV2 {
		b = append(append(b, `,"v":2,"boot":`...), quote(d.boot)...)
	}
	return append(b, '}')
}

// measure makes one reading and buffers it.
func (d *Device) measure(now time.Time) {
	d.seq++
	var b []byte
	if d.cfg.Protocol != signalbox.ProtocolV1 && d.cfg.Fault == ClockSkew {
		now = now.Add(d.cfg.Skew)
		d.cfg.Counters.Faults.Add(1)
	}
	switch d.cfg.Protocol {
	case signalbox.ProtocolMQTT:
		b = d.appendMQTTHead(b, now.UnixMilli())
	case signalbox.ProtocolV1:
		b = append(b, `{"type":"telemetry"`...)
	default:
		b = strconv.AppendUint(append(b, `{"type":"telemetry","seq":`...), d.seq, 10)
		b = strconv.AppendInt(append(b, `,"ts":`...), now.UnixMilli(), 10)
	}
	b = append(d.board.appendReading(b), '}')
	limit := d.cfg.Buffer
	if !d.keeps() {
		limit = 1
	}
	if len(d.buffer) >= limit {
		d.buffer = append(d.buffer[:0], d.buffer[1:]...)
		if d.keeps() {
			d.cfg.Counters.Dropped.Add(1)
		}
	}
	d.buffer = append(d.buffer, reading{seq: d.seq, body: b})
}

// flush sends the buffered readings that this connection has not carried yet.
func (d *Device) flush(c *conn) error {
	for _, r := range d.buffer {
		if r.seq <= d.sent {
			continue
		}
		if err := c.writeText(r.body); err != nil {
			return err
		}
		d.cfg.Counters.Telemetry.Add(1)
		if r.seq < d.seq {
			d.cfg.Counters.Resent.Add(1)
		}
		d.sent = r.seq
	}
	if d.cfg.Protocol == signalbox.ProtocolV1 {
		d.buffer = d.buffer[:0]
	}
	return nil
}

// settle forgets the readings up to seq: the hub has them on disk, or refused them.
func (d *Device) settle(seq uint64) {
	n := 0
	for n < len(d.buffer) && d.buffer[n].seq <= seq {
		n++
	}
	d.buffer = append(d.buffer[:0], d.buffer[n:]...)
	d.cfg.Counters.Saved.Add(int64(n))
}

// message is what a hub may say; a field is nil or zero where it does not belong to the type.
type message struct {
	Type    string          `json:"type"`
	ID      json.RawMessage `json:"id"`
	Command *string         `json:"command"`
	Value   *string         `json:"value"`
	Seq     uint64          `json:"seq"`
	Saved   uint64          `json:"saved"`
	Error   string          `json:"error"`
}

// handle takes one frame from the hub; online reports that it was auth_ok.
func (d *Device) handle(c *conn, f frame) (online bool, err error) {
	switch f.op {
	case opPing:
		return false, c.write(opPong, f.payload)
	case opClose:
		return false, io.EOF
	case opText:
	default:
		return false, nil
	}
	var m message
	if err := json.Unmarshal(f.payload, &m); err != nil {
		d.cfg.Counters.Strange.Add(1)
		return false, nil //nolint:nilerr // a board ignores what it cannot read; it is counted
	}
	switch {
	case m.Error != "":
		d.cfg.Counters.Refusals.Add(1)
		d.cfg.Logger.Debug("the hub answered with an error", "device", d.cfg.Name, "code", m.Error)
	case m.Type == "auth_ok":
		d.cfg.Counters.Logins.Add(1)
		d.settle(m.Saved)
		return true, d.flush(c)
	case m.Type == "saved":
		d.settle(m.Seq)
	case m.Command != nil:
		return false, d.obey(c, &m)
	}
	return false, nil
}

// line is a connection as faults and answers need it.
type line interface {
	writeRaw(b []byte) error
	// reply sends the answer to a command; kind is its type.
	reply(kind string, body []byte) error
}

// obey carries out a command. Version 2 and MQTT: ack, then result; an id seen before is acknowledged and not done again.
func (d *Device) obey(c line, m *message) error {
	d.cfg.Counters.Commands.Add(1)
	if d.cfg.Protocol == signalbox.ProtocolV1 {
		if _, err := d.board.do(*m.Command, m.Value); err != nil {
			d.cfg.Logger.Debug("a command could not be done", "device", d.cfg.Name, "err", err)
		}
		return nil
	}
	id := string(m.ID)
	if err := c.reply("ack", fmt.Appendf(nil, `{"type":"ack","id":%s}`, id)); err != nil {
		return err
	}
	if slices.Contains(d.seen, id) {
		d.cfg.Counters.Repeated.Add(1)
		return nil
	}
	if len(d.seen) == seenCommands {
		d.seen = append(d.seen[:0], d.seen[1:]...)
	}
	d.seen = append(d.seen, id)
	value, err := d.board.do(*m.Command, m.Value)
	if err != nil {
		return c.reply("result", fmt.Appendf(nil, `{"type":"result","id":%s,"ok":false,"error":%s}`, id, quote(err.Error())))
	}
	return c.reply("result", fmt.Appendf(nil, `{"type":"result","id":%s,"ok":true,"value":%s}`, id, value))
}

// quote gives s as a JSON string.
func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil { // cannot happen: a string always has a JSON form
		return []byte(`""`)
	}
	return b
}
