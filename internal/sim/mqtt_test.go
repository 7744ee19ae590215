package sim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/wire/packet"
)

func startMQTTDevice(t *testing.T, b *fakeBroker, change func(*DeviceConfig)) *Device {
	t.Helper()
	cfg := DeviceConfig{
		Name: "esp01", Secret: "good", Protocol: signalbox.ProtocolMQTT, Addr: b.addr(), Interval: 5 * time.Millisecond,
		Reconnect: 10 * time.Millisecond, Counters: new(Counters),
	}
	change(&cfg)
	d, err := NewDevice(cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(t, d.Run)
	return d
}

// TestMQTTDevice holds a box to PROTOCOLS D, over both versions and both qualities of service.
func TestMQTTDevice(t *testing.T) {
	for _, five := range []bool{false, true} {
		for _, qos := range []uint8{0, 1} {
			t.Run(fmt.Sprintf("5.0 %t, QoS %d", five, qos), func(t *testing.T) {
				b := newFakeBroker(t)
				d := startMQTTDevice(t, b, func(c *DeviceConfig) { c.MQTT5, c.QoS = five, qos })
				e := b.next(isPacket(packet.CONNECT))
				if e.client != "esp01" || e.user != "esp01" || !e.clean || e.alive != 15 || e.will != "signalbox/esp01/status offline" {
					t.Errorf("CONNECT is %+v", e)
				}
				if e := b.next(isPacket(packet.SUBSCRIBE)); e.topic != "signalbox/esp01/command" {
					t.Errorf("it subscribed to %q", e.topic)
				}
				if e := b.next(isOn("/status")); e.payload != "online" || !e.retain {
					t.Errorf("status is %+v", e)
				}
				e = b.next(isOn("/telemetry"))
				var body map[string]any
				if err := json.Unmarshal([]byte(e.payload), &body); err != nil || e.qos != qos {
					t.Fatalf("QoS %d, %s: %v", e.qos, e.payload, err)
				}
				if body["servo1"] != 90.0 || body["ts"] == nil || (body["seq"] != nil) != (qos == 1) || (body["boot"] != nil) != (qos == 1) {
					t.Errorf("telemetry is %s", e.payload)
				}
				if size := len(e.topic) + len(e.payload) + 7; size > 256 {
					t.Errorf("a reading takes a packet of %d bytes", size)
				}
				b.tell("esp01", `{"type":"command","id":"A1","command":"servo1","value":"15"}`)
				b.next(isPacket(packet.PUBACK))
				if e := b.next(isOn("/ack")); e.payload != `{"type":"ack","id":"A1"}` || e.qos != qos {
					t.Errorf("ack is %+v", e)
				}
				if e := b.next(isOn("/result")); e.payload != `{"type":"result","id":"A1","ok":true,"value":15}` {
					t.Errorf("result is %s", e.payload)
				}
				b.next(func(e mqttEvent) bool { return strings.Contains(e.payload, `"servo1":15`) })
				b.cut("esp01")
				b.next(isPacket(packet.CONNECT))
				if n := d.cfg.Counters.Commands.Load(); n != 1 {
					t.Errorf("%d commands were counted", n)
				}
			})
		}
	}
}

// TestMQTTResend cuts a connection while nothing is acknowledged: what was under way comes again, with the same seq, in
// order; no more than the window is under way.
func TestMQTTResend(t *testing.T) {
	b := newFakeBroker(t)
	b.setMute(true)
	d := startMQTTDevice(t, b, func(c *DeviceConfig) { c.QoS = 1 })
	type numbered struct {
		Seq  uint64
		Boot string
	}
	seqOf := func(e mqttEvent) (body numbered) {
		if err := json.Unmarshal([]byte(e.payload), &body); err != nil {
			t.Fatal(err)
		}
		return body
	}
	for n := range mqttWindow {
		if got := seqOf(b.next(isOn("/telemetry"))); got.Seq != uint64(n+1) {
			t.Fatalf("reading %d has seq %d", n+1, got.Seq)
		}
	}
	if n := d.cfg.Counters.Telemetry.Load(); n > mqttWindow {
		t.Errorf("%d readings are under way", n)
	}
	b.setMute(false)
	b.cut("esp01")
	b.next(isPacket(packet.CONNECT))
	for n := range 3 * mqttWindow {
		if got := seqOf(b.next(isOn("/telemetry"))); got.Seq != uint64(n+1) || got.Boot == "" {
			t.Fatalf("after the cut, reading %d has seq %d of boot %q", n+1, got.Seq, got.Boot)
		}
	}
	await(t, "saving", func() bool { return d.cfg.Counters.Saved.Load() >= 2*mqttWindow })
}

func TestMQTTFaults(t *testing.T) {
	tests := []struct {
		fault Fault
		check func(t *testing.T, b *fakeBroker, d *Device)
	}{
		{HalfOpen, func(_ *testing.T, b *fakeBroker, _ *Device) {
			b.next(isOn("/telemetry"))
			b.next(isPacket(packet.CONNECT)) // the first one has passed; this is after the hold
		}},
		{Duplicate, func(t *testing.T, b *fakeBroker, _ *Device) {
			t.Helper()
			if one, two := b.next(isPacket(packet.CONNECT)), b.next(isPacket(packet.CONNECT)); one.client != two.client {
				t.Errorf("%q and %q are not two boards under one name", one.client, two.client)
			}
		}},
		{SlowReader, func(_ *testing.T, b *fakeBroker, _ *Device) { b.next(isPacket(packet.CONNECT)) }},
		{Malformed, func(t *testing.T, b *fakeBroker, d *Device) {
			t.Helper()
			b.next(isPacket(0))
			await(t, "all of them", func() bool { return d.cfg.Counters.Faults.Load() > int64(len(MQTTMalformations())) })
		}},
		{Storm, func(t *testing.T, _ *fakeBroker, d *Device) {
			t.Helper()
			await(t, "a storm", func() bool { return d.cfg.Counters.Logins.Load() > 5 })
		}},
		{WrongPassword, func(t *testing.T, _ *fakeBroker, d *Device) {
			t.Helper()
			await(t, "a second try", func() bool { return d.cfg.Counters.Refusals.Load() > 1 })
		}},
	}
	for _, tt := range tests {
		t.Run(string(tt.fault), func(t *testing.T) {
			b := newFakeBroker(t)
			d := startMQTTDevice(t, b, func(c *DeviceConfig) { c.Fault, c.Hold = tt.fault, 50*time.Millisecond })
			tt.check(t, b, d)
		})
	}
}

// TestMQTTMalformations holds each to be wrong: one that is not tolerated is no packet that a client may send.
func TestMQTTMalformations(t *testing.T) {
	for _, m := range MQTTMalformations() {
		var p packet.Packet
		n, whole, err := packet.Size(m.Raw)
		if err == nil && whole && n == len(m.Raw) {
			if err = p.Decode(m.Raw, packet.V311); err == nil && p.Type == packet.PUBLISH {
				err = packet.CheckTopic(p.Topic)
			}
		}
		fromServer := err == nil && (p.Type == packet.SUBACK || p.Type == packet.CONNECT)
		incomplete := !whole || n != len(m.Raw)
		tooLong := len(m.Raw) > 1<<20
		if wrong := err != nil || fromServer || incomplete || tooLong; wrong == m.Tolerated {
			t.Errorf("%s: error %v, tolerated %t", m.Name, err, m.Tolerated)
		}
	}
}

// boardWire is the other end of one connection of an original sensor, byte by byte.
type boardWire struct {
	t  *testing.T
	nc net.Conn
}

func (w boardWire) want(what, bytes string) {
	w.t.Helper()
	got := make([]byte, len(bytes))
	if err := w.nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	if n, err := io.ReadFull(w.nc, got); err != nil {
		w.t.Fatalf("%s: %q: %v", what, got[:n], err)
	}
	if string(got) != bytes {
		w.t.Fatalf("%s is %q, want %q", what, got, bytes)
	}
}

// connect reads CONNECT, whose identifier it gives, and answers with code.
func (w boardWire) connect(code byte) string {
	w.t.Helper()
	var head [14]byte
	if err := w.nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.ReadFull(w.nc, head[:]); err != nil {
		w.t.Fatal(err)
	}
	id := make([]byte, int(head[12])<<8|int(head[13]))
	if _, err := io.ReadFull(w.nc, id); err != nil {
		w.t.Fatal(err)
	}
	if want := "\x10" + string(rune(12+len(id))) + "\x00\x04MQTT\x04\x02\x00\x0f\x00" + string(rune(len(id))); string(head[:]) != want {
		w.t.Errorf("CONNECT begins with %q, want %q", head, want)
	}
	if !strings.HasPrefix(string(id), "ESP32Client-") || len(id) > 16 || strings.ToLower(string(id[12:])) != string(id[12:]) {
		w.t.Errorf("the client identifier is %q", id)
	}
	if _, err := w.nc.Write([]byte{0x20, 2, 0, code}); err != nil {
		w.t.Fatal(err)
	}
	return string(id)
}

func startSensor(t *testing.T, variant Variant) (*Sensor, func() boardWire) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	s, err := NewSensor(SensorConfig{Addr: ln.Addr().String(), Variant: variant, Interval: time.Millisecond, Reconnect: time.Millisecond, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	return s, func() boardWire {
		t.Helper()
		if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		nc, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		return boardWire{t, nc}
	}
}

// TestSensor holds the plain sensor to PROTOCOLS B1, byte for byte.
func TestSensor(t *testing.T) {
	s, accept := startSensor(t, Plain)
	refused := accept()
	first := refused.connect(5)
	w := accept()
	if second := w.connect(0); second == first {
		t.Errorf("the identifier %q came twice", second)
	}
	w.want("the greeting", "\x30\x15\x00\x08outTopichello world")
	for range 20 {
		w.want("a reading's head", "\x30\x1d\x00\x13Environ/Temperature")
		text := make([]byte, 8)
		if _, err := io.ReadFull(w.nc, text); err != nil {
			t.Fatal(err)
		}
		if text[0] != '2' || text[2] != '.' || string(text[4:]) != " °C"[:4] {
			t.Fatalf("a reading is %q", text)
		}
	}
	if n := s.cfg.Counters.Refusals.Load(); n != 1 {
		t.Errorf("%d refusals were counted", n)
	}
}

// packet reads one PUBLISH of a board.
func (w boardWire) packet() (topic, text string) {
	w.t.Helper()
	link := mqttConn{nc: w.nc, br: bufio.NewReaderSize(io.LimitReader(w.nc, 2), 16), v: packet.V311}
	head, err := link.br.Peek(2)
	if err != nil || head[0] != 0x30 || head[1] >= 0x80 {
		w.t.Fatalf("a packet begins with %q: %v", head, err)
	}
	b := make([]byte, head[1])
	if _, err := io.ReadFull(w.nc, b); err != nil {
		w.t.Fatal(err)
	}
	n := 2 + int(b[1])
	return string(b[2:n]), string(b[n:])
}

// TestSensorRepeats holds the other variant: five times each reading, messages to an empty topic, back after a strict
// server has closed.
func TestSensorRepeats(t *testing.T) {
	s, accept := startSensor(t, Repeating)
	ids := map[string]bool{}
	last, same := "", 0
	for range sensorStrays + 1 {
		w := accept()
		ids[w.connect(0)] = true
		w.want("the greeting", "\x30\x15\x00\x08outTopichello world")
		w.want("the subscription", "\x82\x0c\x00\x02\x00\x07inTopic\x00")
		// A board never reads: what is sent to it must not matter.
		if _, err := w.nc.Write([]byte{0x90, 3, 0, 2, 0}); err != nil {
			t.Fatal(err)
		}
		for range 4 * sensorRepeats { // beyond the last stray there are readings alone
			topic, text := w.packet()
			if topic == "" && text == last {
				break
			}
			if same++; text != last {
				last, same = text, 1
			}
			if topic != sensorTopic || !strings.HasSuffix(text, "°C") || len(text) != 5 || same > 3*sensorRepeats {
				t.Fatalf("%q is published to %q after %d like it", text, topic, same)
			}
		}
		w.nc.Close()
	}
	if n := s.cfg.Counters.Faults.Load(); n != sensorStrays || len(ids) < 2 {
		t.Errorf("%d messages to an empty topic, %d identifiers", n, len(ids))
	}
}

// TestSensorReadings holds the readings of the repeating variant to five of each.
func TestSensorReadings(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	go io.Copy(io.Discard, here)
	s, err := NewSensor(SensorConfig{Addr: "a:1", Variant: Repeating, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	var temperatures []int
	for range 4 * sensorRepeats {
		temperatures = append(temperatures, s.tenths)
		if err := s.report(there); err != nil {
			t.Fatal(err)
		}
	}
	for i, v := range temperatures {
		if want := temperatures[i-i%sensorRepeats]; v != want {
			t.Errorf("reading %d is %d, want %d", i, v, want)
		}
	}
	if s.strays != sensorStrays || temperatures[0] == temperatures[sensorRepeats] {
		t.Errorf("%d strays, readings %v", s.strays, temperatures)
	}
}

func TestNewSensorRefuses(t *testing.T) {
	for want, cfg := range map[string]SensorConfig{"needs the address": {}, "variant 3": {Addr: "a:1", Variant: 3}} {
		if _, err := NewSensor(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func TestMQTTFleet(t *testing.T) {
	b := newFakeBroker(t)
	f, err := NewFleet(Config{
		MQTTAddr: b.addr(), Boxes: 3, Stations: 1, Adder: &fakeAdder{}, Protocol: signalbox.ProtocolMQTT, QoS: 1,
		Sensors: 2, SensorVariant: Repeating, Interval: 20 * time.Millisecond, Sources: 3, Reconnect: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, f.Run)
	await(t, "six devices connected", func() bool { s := f.Stats(); return s.Connected == 6 && s.Saved > 20 && f.Len() == 6 })
	b.next(isOn("Environ/Temperature"))
}
