package sim

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"signalbox"
)

func startDevice(t *testing.T, h *fakeHub, change func(*DeviceConfig)) *Device {
	t.Helper()
	cfg := DeviceConfig{Name: "esp01", Secret: "good", Addr: h.addr(), Interval: 5 * time.Millisecond, Reconnect: 10 * time.Millisecond, Counters: new(Counters)}
	change(&cfg)
	d, err := NewDevice(cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(t, d.Run)
	return d
}

// TestVersion1 holds a box to what PROTOCOLS A1 says of boards.
func TestVersion1(t *testing.T) {
	h := newFakeHub(t)
	d := startDevice(t, h, func(c *DeviceConfig) {
		c.Protocol, c.Source = signalbox.ProtocolV1, netip.MustParseAddr("127.9.8.7")
	})
	up := h.next(is("upgrade"))
	if o, p := up.header.Get("Origin"), up.header.Get("Sec-WebSocket-Protocol"); o != "file://" || p != "arduino" {
		t.Errorf("Origin %q and subprotocol %q are not those of a board", o, p)
	}
	if !strings.HasPrefix(up.remote, "127.9.8.7:") {
		t.Errorf("the connection comes from %s", up.remote)
	}
	want := map[string]any{"type": "auth", "name": "esp01", "password": "good"}
	if e := h.next(is("auth")); !reflect.DeepEqual(e.body, want) {
		t.Errorf("auth is %v", e.body)
	}
	e := h.next(is("telemetry"))
	for _, key := range []string{"status", "servo1", "servo2", "button1", "button2"} {
		if e.body[key] == nil {
			t.Errorf("telemetry %v lacks %s", e.body, key)
		}
	}
	if e.body["status"] != "работает" || e.body["seq"] != nil {
		t.Errorf("telemetry is %v", e.body)
	}
	h.tell("esp01", `{"command": "servo1", "value": "15"}`)
	h.next(func(e event) bool { return e.what == "telemetry" && e.body["servo1"] == 15.0 })
	h.tell("esp01", `{"command": "restart"}`)
	h.next(func(e event) bool { return e.what == "telemetry" && e.body["servo1"] == 90.0 })
	h.cut("esp01")
	h.next(is("auth"))
	if n := d.cfg.Counters.Commands.Load(); n != 2 {
		t.Errorf("%d commands were counted", n)
	}
}

func TestVersion2Commands(t *testing.T) {
	h := newFakeHub(t)
	d := startDevice(t, h, func(c *DeviceConfig) { c.Kind = Station })
	h.next(is("telemetry"))
	h.tell("esp01", `{"type":"command","id":"A1","command":"relay","value":"on"}`)
	if e := h.next(is("ack")); e.body["id"] != "A1" {
		t.Errorf("ack is %v", e.body)
	}
	if e := h.next(is("result")); e.body["id"] != "A1" || e.body["ok"] != true || e.body["value"] != true {
		t.Errorf("result is %v", e.body)
	}
	h.next(func(e event) bool { return e.what == "telemetry" && e.body["relay"] == true })
	h.tell("esp01", `{"type":"command","id":"A1","command":"relay","value":"on"}`)
	h.next(is("ack"))
	h.tell("esp01", `{"type":"command","id":"A2","command":"dance"}`)
	if e := h.next(is("result")); e.body["id"] != "A2" || e.body["ok"] != false || !strings.Contains(e.body["error"].(string), "dance") {
		t.Errorf("after a repeated id, result is %v", e.body)
	}
	if n := d.cfg.Counters.Repeated.Load(); n != 1 {
		t.Errorf("%d repetitions were counted", n)
	}
}

// TestResend cuts a connection while nothing is saved: all readings arrive in the end, in order, once.
func TestResend(t *testing.T) {
	h := newFakeHub(t)
	h.mute, h.strict = true, true // what an old connection still brings is not to be stored before what it lost
	d := startDevice(t, h, func(*DeviceConfig) {})
	for range 5 {
		h.next(is("telemetry"))
	}
	h.mu.Lock()
	h.mute = false
	h.mu.Unlock()
	h.cut("esp01")
	h.next(is("auth"))
	await(t, "saving", func() bool { return d.cfg.Counters.Saved.Load() >= 20 })
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, seq := range h.stored["esp01"] {
		if seq != uint64(i+1) {
			t.Fatalf("reading %d has seq %d", i+1, seq)
		}
	}
	if d.cfg.Counters.Resent.Load() < 5 {
		t.Errorf("only %d readings were resent", d.cfg.Counters.Resent.Load())
	}
}

func TestBufferIsBounded(t *testing.T) {
	h := newFakeHub(t)
	h.mute = true
	d := startDevice(t, h, func(c *DeviceConfig) { c.Buffer = 3 })
	await(t, "dropping", func() bool { return d.cfg.Counters.Dropped.Load() > 2 })
}

func TestFaults(t *testing.T) {
	tests := []struct {
		fault Fault
		check func(t *testing.T, h *fakeHub, d *Device)
	}{
		{HalfOpen, func(t *testing.T, h *fakeHub, d *Device) {
			t.Helper()
			h.next(is("telemetry"))
			await(t, "silence", func() bool { return d.cfg.Counters.Faults.Load() >= 1 })
			// Each reading is followed by a silence; the device may be past the first by now.
			if sent, silent := d.cfg.Counters.Telemetry.Load(), d.cfg.Counters.Faults.Load(); sent > silent+1 {
				t.Errorf("%d readings were sent around %d silences", sent, silent)
			}
			h.next(is("auth")) // after the hold
		}},
		{Duplicate, func(_ *testing.T, h *fakeHub, _ *Device) {
			one := h.next(is("auth"))
			two := h.next(is("auth"))
			if one.device != two.device || one.body["boot"] == two.body["boot"] {
				h.t.Errorf("logins %v and %v are not of two boards", one.body, two.body)
			}
		}},
		{SlowReader, func(_ *testing.T, h *fakeHub, _ *Device) { h.next(is("auth")) }},
		{ClockSkew, func(t *testing.T, h *fakeHub, _ *Device) {
			t.Helper()
			e := h.next(is("telemetry"))
			if ts := time.UnixMilli(int64(e.body["ts"].(float64))); time.Until(ts) < 50*time.Minute {
				t.Errorf("ts is %v", ts)
			}
		}},
		{Malformed, func(_ *testing.T, h *fakeHub, d *Device) {
			h.next(is("bad"))
			await(h.t, "all of them", func() bool { return d.cfg.Counters.Faults.Load() > int64(len(Malformations())) })
		}},
		{Storm, func(t *testing.T, _ *fakeHub, d *Device) {
			t.Helper()
			await(t, "a storm", func() bool { return d.cfg.Counters.Dials.Load() > 5 })
		}},
		{WrongPassword, func(t *testing.T, h *fakeHub, d *Device) {
			t.Helper()
			h.next(is("refused"))
			await(t, "a second try", func() bool { return d.cfg.Counters.Refusals.Load() > 1 })
		}},
	}
	for _, tt := range tests {
		t.Run(string(tt.fault), func(t *testing.T) {
			h := newFakeHub(t)
			d := startDevice(t, h, func(c *DeviceConfig) { c.Fault, c.Hold = tt.fault, 50*time.Millisecond })
			tt.check(t, h, d)
		})
	}
}

func TestNewDeviceRefuses(t *testing.T) {
	for want, cfg := range map[string]DeviceConfig{
		"needs a name":  {},
		"of kind":       {Name: "a", Addr: "b", Kind: "boat"},
		"protocol 4":    {Name: "a", Addr: "b", Protocol: 4},
		"service 2":     {Name: "a", Addr: "b", QoS: 2},
		"fault named":   {Name: "a", Addr: "b", Fault: "sleepy"},
		"wrong-passwor": {Name: "a", Addr: "b", Fault: "sleepy"},
	} {
		if _, err := NewDevice(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

// TestSameSeed holds that readings depend on the seed alone.
func TestSameSeed(t *testing.T) {
	readings := func(seed uint64) string {
		d, err := NewDevice(DeviceConfig{Name: "a", Addr: "b", Seed: seed, Buffer: 100})
		if err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for i := range 50 {
			d.measure(time.UnixMilli(int64(i)))
		}
		for _, r := range d.buffer {
			if !json.Valid(r.body) {
				t.Fatalf("%s is no JSON", r.body)
			}
			all.Write(r.body)
		}
		return all.String()
	}
	if first, again := readings(1), readings(1); first != again {
		t.Error("the same seed gives different readings")
	}
	if readings(1) == readings(2) {
		t.Error("different seeds give the same readings")
	}
}

type fakeAdder struct{ asked NewDevices }

func (a *fakeAdder) AddDevices(_ context.Context, list NewDevices) ([]Credential, error) {
	a.asked = list
	out := make([]Credential, 0, len(list))
	for _, d := range list {
		out = append(out, Credential{Name: d.Name, Secret: "good"})
	}
	return out, nil
}

func TestFleet(t *testing.T) {
	h := newFakeHub(t)
	a := &fakeAdder{}
	f, err := NewFleet(Config{
		Addr: h.addr(), Boxes: 8, Stations: 2, Adder: a, V1Share: 0.5, Interval: 20 * time.Millisecond, Sources: 3,
		Misbehave: map[Fault]float64{WrongPassword: 0.1}, Seed: 7,
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, f.Run)
	await(t, "nine devices connected", func() bool { s := f.Stats(); return s.Connected >= 9 && s.Telemetry > 20 && s.Refusals > 0 })
	if len(a.asked) != 10 || a.asked[0] != (NewDeviceSpec{"sim-box-1", "box"}) || a.asked[9] != (NewDeviceSpec{"sim-station-2", "station"}) {
		t.Errorf("asked for %v", a.asked)
	}
}

func TestFleetRefuses(t *testing.T) {
	good := []Credential{{"a", "b"}}
	for want, cfg := range map[string]Config{
		"one device":     {},
		"negative":       {Boxes: -1, Stations: 2},
		"-1 addresses":   {Boxes: 1, Credentials: good, Sources: -1},
		"0 (the system":  {Boxes: 1, Credentials: good, Sources: MaxSources + 1},
		"2 devices":      {Boxes: 2, Credentials: good},
		"credentials of": {Boxes: 1},
		"fault named":    {Boxes: 1, Credentials: good, Misbehave: map[Fault]float64{"x": 1}},
		"together":       {Boxes: 1, Credentials: good, Misbehave: map[Fault]float64{Storm: 1, HalfOpen: 1}},
		"version 1":      {Boxes: 1, Credentials: good, V1Share: 2},
	} {
		if _, err := NewFleet(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

// TestFrames holds the parser to what appendFrame writes, unmasked as a server does, for lengths around the borders.
func TestFrames(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 70000} {
		want := strings.Repeat("x", n)
		b := serverFrame(opText, want)
		f, used, err := parseFrame(append(b, "rest"...))
		if err != nil || used != len(b) || f.op != opText || string(f.payload) != want {
			t.Errorf("a frame of %d bytes: op %d, %d bytes used of %d, error %v", n, f.op, used, len(b), err)
		}
		for cut := range min(len(b), 12) {
			if _, _, err := parseFrame(b[:cut]); !errors.Is(err, errNotReady) {
				t.Errorf("the first %d bytes of a frame of %d: %v", cut, n, err)
			}
		}
	}
}

// serverFrame is a frame as a server sends it, made from a client's by taking the mask off.
func serverFrame(op byte, payload string) []byte {
	b := appendHeader(nil, op, len(payload), [4]byte{})
	b = b[:len(b)-4]
	b[1] &^= masked
	return append(b, payload...)
}

func FuzzParseFrame(f *testing.F) {
	f.Add(serverFrame(opText, "hello"))
	f.Add(serverFrame(opPing, ""))
	f.Add([]byte{0x81, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, n, err := parseFrame(b)
		if err == nil && (n > len(b) || len(frame.payload) > n) {
			t.Errorf("a frame of %d bytes with %d of payload in %d bytes", n, len(frame.payload), len(b))
		}
	})
}

func TestHistogram(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 || h.Mean() != 0 {
		t.Error("an empty histogram has values")
	}
	for i := 1; i <= 100_000; i++ {
		h.Record(time.Duration(i) * time.Microsecond)
	}
	for q, want := range map[float64]time.Duration{0: 0, 0.5: 50 * time.Millisecond, 0.99: 99 * time.Millisecond, 0.999: 99900 * time.Microsecond, 1: 100 * time.Millisecond} {
		if got := h.Quantile(q); got < want-want/50 || got > want+want/50+time.Microsecond {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
	if h.Count() != 100_000 || h.Max() != 100*time.Millisecond || h.Mean() != 50*time.Millisecond+500*time.Nanosecond {
		t.Errorf("count %d, max %v, mean %v", h.Count(), h.Max(), h.Mean())
	}
	h.Record(-1)
	h.Record(1 << 62)
	if h.Max() != 1<<62 {
		t.Errorf("max %v", h.Max())
	}
}
