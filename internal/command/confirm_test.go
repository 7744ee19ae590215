package command

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"signalbox"
)

func TestShows(t *testing.T) {
	tests := []struct {
		object, name, value string
		want                bool
	}{
		{`{"servo1":90}`, "servo1", "90", true},
		{`{"servo1":"90"}`, "servo1", "90", true},
		{`{"servo1":90.0}`, "servo1", "90", true},
		{`{"servo1":"90"}`, "servo1", "90.0", true},
		{`{"servo1":9e1}`, "servo1", "90", true},
		{`{"servo1":90}`, "servo1", "90.00", true},
		{`{"servo1":-0.0}`, "servo1", "0", true},
		{`{"servo1":91}`, "servo1", "90", false},
		{`{"servo1":-90}`, "servo1", "90", false},
		{`{"servo1":9007199254740993}`, "servo1", "9007199254740992", false},
		{`{"pin":"007"}`, "pin", "7", false},
		{`{"pin":"007"}`, "pin", "007", true},
		{`{"x":1e999999999}`, "x", "1e999999999", true},
		{`{"x":1e999999999}`, "x", "10e999999998", false},
		{`{"led":true}`, "led", "true", true},
		{`{"led":false}`, "led", "false", true},
		{`{"led":true}`, "led", "1", false},
		{`{"led":"true"}`, "led", "true", true},
		{`{"mode":"Авто"}`, "mode", "Авто", true},
		{`{"mode":"\u0410вто"}`, "mode", "Авто", true},
		{`{"mode":"auto"}`, "mode", "Auto", false},
		{`{"mode":""}`, "mode", "", true},
		{`{"mode":null}`, "mode", "null", false},
		{`{"mode":[1]}`, "mode", "[1]", false},
		{`{"arm":{"angle":5}}`, "arm.angle", "5", true},
		{`{"arm.angle":5,"arm":{"angle":6}}`, "arm.angle", "6", true},
		{`{"arm":{"angle":6},"arm.angle":5}`, "arm.angle", "5", true},
		{`{"arm":{"x.y":6}}`, "arm.x.y", "6", true},
		{`{"a":{"b":{"c":"x"}}}`, "a.b.c", "x", true},
		{`{"a":{"b":1}}`, "a.b.c", "1", false},
		{`{"a":1}`, "a.", "1", false},
		{`{"a":1}`, "b", "1", false},
		{`{"x":1,"x":2}`, "x", "2", true},
		{`{"x":1,"x":2}`, "x", "1", false},
		{`{"a*":1}`, "a*", "1", true},
		{`{"ab":1}`, "a*", "1", false},
		{`{"#":1}`, "#", "1", true},
		{`[1]`, "0", "1", false},
		{``, "x", "", false},
	}
	for _, tt := range tests {
		if got := shows([]byte(tt.object), tt.name, tt.value); got != tt.want {
			t.Errorf("%s shows %s=%s: %v; want %v", tt.object, tt.name, tt.value, got, tt.want)
		}
	}
}

// FuzzSameNumber holds the comparison to exact arithmetic.
func FuzzSameNumber(f *testing.F) {
	for _, s := range []string{"90", "90.0", "9e1", "-0", "0.10", "1e-7", "x", "", "01", "1.", "+1", "1e5000"} {
		f.Add(s, "90")
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		got := sameNumber(a, b)
		if got != sameNumber(b, a) {
			t.Fatalf("%q and %q: not symmetric", a, b)
		}
		x, ok1 := exact(a)
		y, ok2 := exact(b)
		if !ok1 || !ok2 {
			return
		}
		if want := x.Cmp(y) == 0; got != want {
			t.Fatalf("%q and %q: same %v; want %v", a, b, got, want)
		}
	})
}

// exact reads a JSON number of moderate size.
func exact(s string) (*big.Rat, bool) {
	var n json.Number
	if strings.TrimSpace(s) != s || json.Unmarshal([]byte(s), &n) != nil || n.String() != s {
		return nil, false
	}
	if _, e, ok := strings.Cut(strings.ToLower(s), "e"); ok && len(strings.TrimLeft(e, "+-")) > 3 {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

func FuzzShows(f *testing.F) {
	f.Add([]byte(`{"a":{"b":1},"c":"x"}`), "a.b", "1")
	f.Add([]byte(`{"a\u0000":1e5}`), "a\x00", "100000")
	f.Fuzz(func(t *testing.T, object []byte, name, value string) {
		got := shows(object, name, value)
		if !json.Valid(object) || strings.Contains(name, ".") {
			return
		}
		var m map[string]any
		if json.Unmarshal(object, &m) != nil {
			return
		}
		if s, ok := m[name].(string); ok && s == value && !strings.ContainsRune(string(object), '\ufffd') && !got {
			t.Fatalf("%s does not show %q=%q", object, name, value)
		}
		if got && len(m) == 0 {
			t.Fatalf("%s shows %q=%q", object, name, value)
		}
	})
}

func TestConfirmation(t *testing.T) {
	for _, protocol := range []signalbox.Protocol{signalbox.ProtocolV1, signalbox.ProtocolV2} {
		t.Run(fmt.Sprint("v", protocol), func(t *testing.T) {
			g := newRig(t, Config{})
			s, conn := g.connect("esp01", protocol)
			if g.road.Watching(1) {
				t.Error("watching before there is a command")
			}
			c := g.submit(signalbox.CommandRequest{Name: "servo1", Value: new("90")})
			conn.next(t)
			if !g.road.Watching(1) || g.road.Watching(2) {
				t.Error("watching the wrong device")
			}
			if protocol.Answers() {
				g.road.Result(s, c.ID, true, nil, "")
			}
			g.telemetry("esp01", `{"servo1":45}`)
			g.telemetry("esp02", `{"servo1":90}`)
			if got := g.get(c.ID); !got.ConfirmedAt.IsZero() {
				t.Error("confirmed by the wrong telemetry")
			}
			g.telemetry("esp01", `{"servo1":"90"}`)
			got := g.get(c.ID)
			if got.ConfirmedAt.IsZero() || got.ConfirmedAt.Before(got.SentAt) || got.Already {
				t.Errorf("%+v", got)
			}
			if g.road.Watching(1) {
				t.Error("still watching")
			}
			g.durable()
			if stored, err := g.store.Command(t.Context(), c.ID); err != nil || stored.ConfirmedAt.IsZero() {
				t.Errorf("stored %+v, %v", stored, err)
			}
			if rows := g.activeRows(); len(rows) != 0 {
				t.Errorf("still active: %v", rows)
			}
		})
	}
}

func TestAlready(t *testing.T) {
	g := newRig(t, Config{})
	g.devices.latest[1] = []byte(`{"servo1":90.0}`)
	queued := g.submit(signalbox.CommandRequest{Name: "servo1", Value: new("90"), TTL: 1e12})
	_, conn := g.connect("esp01", signalbox.ProtocolV1)
	conn.next(t)
	other := g.submit(signalbox.CommandRequest{Name: "servo1", Value: new("91")})
	again := g.submit(signalbox.CommandRequest{Name: "servo1", Value: new("90")})
	conn.next(t)
	conn.next(t)
	g.telemetry("esp01", `{"servo1":90}`)
	for _, tt := range []struct {
		id                 string
		already, confirmed bool
	}{{queued.ID, true, false}, {other.ID, false, false}, {again.ID, true, true}} {
		if c := g.get(tt.id); c.Already != tt.already || c.ConfirmedAt.IsZero() == tt.confirmed {
			t.Errorf("%+v; want already %v, confirmed %v", c, tt.already, tt.confirmed)
		}
	}
	g.durable()
	if rows := g.activeRows(); len(rows) != 0 {
		t.Errorf("rows of commands that a newer one ended are active: %v", rows)
	}
}

func TestNeverWrittenIsNotConfirmed(t *testing.T) {
	g := newRig(t, Config{})
	_, conn := g.connect("esp01", signalbox.ProtocolV1)
	conn.fail = true
	c := g.submit(signalbox.CommandRequest{Name: "servo1", Value: new("90")})
	for g.road.Stats().Missed == 0 {
		g.get(c.ID)
	}
	g.telemetry("esp01", `{"servo1":90}`)
	if got := g.get(c.ID); !got.ConfirmedAt.IsZero() {
		t.Error("confirmed although it never left the hub")
	}
}

func TestWatchedAreBounded(t *testing.T) {
	g := newRig(t, Config{})
	g.connect("esp01", signalbox.ProtocolV1)
	for i := range 2 * maxWatchedPerDevice {
		g.submit(signalbox.CommandRequest{Name: fmt.Sprint("c", i), Value: new("1")})
	}
	if n := g.road.Stats().Watching; n != maxWatchedPerDevice {
		t.Errorf("%d watched; want %d", n, maxWatchedPerDevice)
	}
}

func BenchmarkShows(b *testing.B) {
	object := []byte(`{"type":"telemetry","status":"работает","servo1":90,"servo2":90,"button1":"released","button2":"pressed"}`)
	b.ReportAllocs()
	for b.Loop() {
		if !shows(object, "servo2", "90.0") {
			b.Fatal("not seen")
		}
	}
}
