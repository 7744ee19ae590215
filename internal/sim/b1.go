package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// Variant is which of the two firmwares of the original MQTT sensor runs.
type Variant uint8

// The variants.
const (
	// Plain publishes «25.8 °C», each reading once.
	Plain Variant = 1
	// Repeating publishes «25°C», each reading five times, subscribes to inTopic without ever reading what comes, and
	// after each of its first four readings publishes to an empty topic: a strict broker closes the connection.
	Repeating Variant = 2
)

const (
	sensorTopic   = "Environ/Temperature"
	sensorPause   = 5 * time.Second // before it connects again
	sensorPacket  = 256             // bytes, PubSubClient's MQTT_MAX_PACKET_SIZE: a longer packet is not sent
	sensorConnack = 15 * time.Second
	sensorRepeats = 5 // of a reading, by the variant Repeating
	sensorStrays  = 4 // messages to an empty topic after a power-up
)

// SensorConfig says what one original sensor is. Addr is needed; the zero value of the rest means the defaults.
type SensorConfig struct {
	Addr      string        // host:port of an MQTT listener
	Variant   Variant       // default Plain
	Interval  time.Duration // between messages; default 2 s, the boards also run with 10 s
	Reconnect time.Duration // default 5 s
	Source    netip.Addr    // address to connect from; the zero Addr leaves it to the system
	Seed      uint64
	Counters  *Counters // shared by a fleet; nil gives the sensor its own
	Logger    *slog.Logger
}

// Sensor is the original temperature sensor with its library PubSubClient, byte for byte: MQTT 3.1.1, no user name, no
// password, a clean session, Keep Alive 15 s, a random client identifier ESP32Client-<hex> for each connection, QoS 0. It
// never calls its client's loop: it sends no PINGREQ, and after CONNACK it reads nothing at all.
type Sensor struct {
	cfg    SensorConfig
	rng    *rand.Rand
	tenths int // the temperature in tenths of °C
	count  int // messages to sensorTopic since the power-up
	strays int // messages to the empty topic since the power-up
}

// NewSensor checks cfg and makes a sensor that is not connected yet.
func NewSensor(cfg SensorConfig) (*Sensor, error) {
	if cfg.Addr == "" {
		return nil, errors.New("a simulated sensor needs the address of an MQTT listener")
	}
	if cfg.Variant == 0 {
		cfg.Variant = Plain
	}
	if cfg.Variant > Repeating {
		return nil, fmt.Errorf("there is no variant %d of the original sensor; allowed are %d and %d", cfg.Variant, Plain, Repeating)
	}
	cfg.Interval = orDefault(cfg.Interval, DefaultInterval)
	cfg.Reconnect = orDefault(cfg.Reconnect, sensorPause)
	if cfg.Counters == nil {
		cfg.Counters = new(Counters)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Sensor{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0xb1))}
	s.measure()
	return s, nil
}

// Run lives the sensor's life until ctx ends, and returns nil then.
func (s *Sensor) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		s.live(ctx)
	}
	return nil
}

// live has one connection, and the pause after it.
func (s *Sensor) live(ctx context.Context) {
	s.cfg.Counters.Dials.Add(1)
	err := s.connection(ctx)
	if ctx.Err() != nil {
		return
	}
	s.cfg.Counters.Lost.Add(1)
	s.cfg.Logger.Debug("connection ended", "err", err)
	rest(ctx, s.cfg.Reconnect)
}

// rest waits, or until ctx ends.
func rest(ctx context.Context, pause time.Duration) {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// connection lives through one connection.
func (s *Sensor) connection(ctx context.Context) error {
	nc, err := dialTCP(ctx, s.cfg.Addr, s.cfg.Source, false)
	if err != nil {
		s.cfg.Counters.DialErrors.Add(1)
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() }) // its error says no more than ctx's
	defer stop()
	defer func() { _ = nc.Close() }() // the board has no farewell: it just goes
	s.cfg.Counters.Connected.Add(1)
	defer s.cfg.Counters.Connected.Add(-1)
	id := "ESP32Client-" + strconv.FormatUint(s.rng.Uint64N(0xffff), 16)
	if err := s.write(nc, appendSensorConnect(nil, id)); err != nil {
		return err
	}
	if err := s.connack(nc); err != nil {
		return err
	}
	if err := s.write(nc, appendSensorPublish(nil, "outTopic", "hello world")); err != nil {
		return err
	}
	if s.cfg.Variant == Repeating {
		if err := s.write(nc, appendSensorSubscribe(nil, "inTopic")); err != nil {
			return err
		}
	}
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		// As WiFiClient.connected does, which looks without taking anything.
		if closed(nc) {
			return io.EOF
		}
		if err := s.report(nc); err != nil {
			return err
		}
	}
}

// connack reads the four bytes of CONNACK, as the library's connect does; they are the last that are read.
func (s *Sensor) connack(nc net.Conn) error {
	if err := nc.SetReadDeadline(time.Now().Add(sensorConnack)); err != nil {
		return err
	}
	var b [4]byte
	if _, err := io.ReadFull(nc, b[:]); err != nil {
		return fmt.Errorf("read CONNACK: %w", err)
	}
	if b[0] != 0x20 || b[1] != 2 {
		return errNoConnack
	}
	if b[3] != 0 {
		s.cfg.Counters.Refusals.Add(1)
		return fmt.Errorf("the server refused the connection with code %d", b[3])
	}
	s.cfg.Counters.Logins.Add(1)
	return nil
}

// report publishes the present reading, and what goes with it in the variant Repeating.
func (s *Sensor) report(nc net.Conn) error {
	text := s.text()
	if err := s.write(nc, appendSensorPublish(nil, sensorTopic, text)); err != nil {
		return err
	}
	s.cfg.Counters.Telemetry.Add(1)
	s.count++
	if s.cfg.Variant == Plain {
		s.measure()
		return nil
	}
	if s.count%sensorRepeats != 0 {
		return nil
	}
	s.measure()
	if s.strays == sensorStrays {
		return nil
	}
	s.strays++
	s.cfg.Counters.Faults.Add(1)
	return s.write(nc, appendSensorPublish(nil, "", text))
}

// measure makes the next reading.
func (s *Sensor) measure() { s.tenths = 200 + s.rng.IntN(100) }

// text is the present reading as the firmware spells it.
func (s *Sensor) text() string {
	if s.cfg.Variant == Repeating {
		return strconv.Itoa(s.tenths/10) + "°C"
	}
	return strconv.FormatFloat(float64(s.tenths)/10, 'f', 1, 64) + " °C"
}

func (s *Sensor) write(nc net.Conn, b []byte) error {
	if len(b) > sensorPacket {
		return fmt.Errorf("a packet of %d bytes does not fit into the board's %d", len(b), sensorPacket)
	}
	if err := nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := nc.Write(b)
	return err
}

// appendSensorConnect appends the CONNECT of PubSubClient (3.1.1, 3.1): clean session, Keep Alive 15 s, nothing else.
func appendSensorConnect(b []byte, id string) []byte {
	b = appendRemaining(append(b, 0x10), 10+2+len(id))
	b = append(b, 0, 4, 'M', 'Q', 'T', 'T', 4, 0x02, 0, 15)
	return appendString(b, id)
}

// appendSensorPublish appends a PUBLISH with QoS 0 (3.1.1, 3.3); the topic may be empty, which the standard forbids.
func appendSensorPublish(b []byte, topic, text string) []byte {
	b = appendRemaining(append(b, 0x30), 2+len(topic)+len(text))
	return append(appendString(b, topic), text...)
}

// appendSensorSubscribe appends a SUBSCRIBE with QoS 0 (3.1.1, 3.8). The library counts identifiers from 1 and takes the
// next one first.
func appendSensorSubscribe(b []byte, topic string) []byte {
	b = appendRemaining(append(b, 0x82), 2+2+len(topic)+1)
	return append(appendString(append(b, 0, 2), topic), 0)
}

func appendString(b []byte, s string) []byte {
	return append(append(b, byte(len(s)>>8), byte(len(s))), s...)
}
