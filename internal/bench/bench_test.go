//go:build linux

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox/internal/sim"
)

// limit is how long a measurement of these tests may take, which takes seconds.
const limit = 10 * time.Minute

func testBencher(t *testing.T, mode string) *bencher {
	t.Helper()
	for _, m := range Modes() {
		if m.Name == mode {
			b, err := newBencher(m, Options{Dir: t.TempDir(), Duration: 200 * time.Millisecond, Runs: 1})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("no mode %s", mode)
	return nil
}

// TestSink measures the sink alone: connections, both kinds of load, memory.
func TestSink(t *testing.T) {
	b := testBencher(t, "telemetry")
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	values, err := b.connections(ctx, "sink", 200)
	if err != nil {
		t.Fatal(err)
	}
	b.report.add("connections", values)
	for name, load := range map[string]sim.Load{
		"one":     {Duration: b.Duration},
		"bunched": {Duration: b.Duration, Bunch: 8},
		"counted": {Messages: 10},
		"paced":   {Messages: 2, Rate: 1000},
	} {
		values, err := b.sinkTelemetry(ctx, 100, load)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b.report.add(name, values)
	}
	if got := b.report.get("counted", "messages"); got != 1000 {
		t.Errorf("10 messages of 100 connections were %v", got)
	}
	if got, rate := b.report.get("paced", "messages"), b.report.get("paced", "rate"); got != 200 || rate > 1010 {
		t.Errorf("2 messages of 100 connections at 1000/s were %v, at %v/s", got, rate)
	}
	for _, name := range []string{"one", "bunched"} {
		if b.report.get(name, "rate") <= 0 {
			t.Errorf("%s has no rate", name)
		}
	}
	var text bytes.Buffer
	if err := b.report.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	t.Log(text.String())
}

// TestMosquitto measures the peer alone: that it takes what is sent, that a subscriber gets it, that it loses it on a kill.
func TestMosquitto(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if _, _, err := mosquittoProgram(ctx); errors.Is(err, errNoMosquitto) {
		t.Log("Mosquitto is not installed: nothing to hold the load against")
		return
	}
	m := &mqttRun{bencher: testBencher(t, "mqtt"), program: "mosquitto"}
	m.Connections, m.Rounds = 40, 1
	for _, part := range []string{mqttConnections, mqttQoS0, mqttQoS1, mqttSubscriber, mqttSurvive} {
		list, err := m.contenders(ctx, part)
		if err != nil {
			t.Fatal(err)
		}
		list = slices.DeleteFunc(list, func(c contender) bool { return !c.peer })
		if err := m.compare(ctx, part, list); err != nil {
			t.Fatal(err)
		}
	}
	r := m.report
	for row, value := range map[string]string{
		"connections mosquitto": "rate", "connections mosquitto, subscribed": "rate", "qos0 mosquitto": "rate",
		"qos1 mosquitto": "p99", "subscriber mosquitto, raised": "delivered", "survive mosquitto": "acknowledged",
	} {
		if r.get(row, value) <= 0 {
			t.Errorf("%s: %s is %v", row, value, r.get(row, value))
		}
	}
	if lost := r.get("subscriber mosquitto, raised", "lost"); lost != 0 {
		t.Errorf("%v messages are lost on the way to a subscriber", lost)
	}
	if left, _ := os.ReadDir(m.Dir); len(left) > 0 {
		t.Errorf("%d directories are left behind", len(left))
	}
}

func TestSessions(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	r, err := Run(ctx, "sessions", Options{Connections: 2000, Duration: 300 * time.Millisecond, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.get("memory", "sessions"); got != 2000 {
		t.Errorf("%v sessions instead of 2000", got)
	}
	if got := r.get("collection asked for", "collections"); got < 1 {
		t.Errorf("%v collections", got)
	}
}

func TestRunRefuses(t *testing.T) {
	tests := []struct {
		name, mode, want string
		o                Options
	}{
		{"unknown mode", "everything", "allowed are connections", Options{}},
		{"unknown variant", "telemetry", "allowed are one", Options{Variants: []string{"two"}}},
		{"running hub without a device address", "reconnect", "device listener", Options{URL: "http://127.0.0.1:1"}},
		{"mqtt of a running hub", "mqtt", "leave out the URL", Options{URL: "http://127.0.0.1:1"}},
		{"survive of a running hub", "survive", "leave out the URL", Options{URL: "http://127.0.0.1:1"}},
		{"no such program", "reconnect", "no-such-program", Options{Executable: "./no-such-program"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Dir = t.TempDir()
			_, err := Run(t.Context(), tt.mode, tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v does not say %q", err, tt.want)
			}
			if left, _ := os.ReadDir(tt.o.Dir); len(left) > 0 {
				t.Errorf("%d directories are left behind", len(left))
			}
		})
	}
}

func TestReport(t *testing.T) {
	r := &Report{Mode: "m", Summary: "s", Runs: 3}
	r.add("a", []Value{{"rate", "/s", 3}}, []Value{{"rate", "/s", 1}}, []Value{{"rate", "/s", 20_000}})
	r.add("nothing")
	r.goal("more", 3, 4, true, "/s")
	r.goal("less", 3, 4, false, "B")
	r.note("noted %d", 1)
	if got := r.get("a", "rate"); got != 3 {
		t.Errorf("the median is %v", got)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"rate /s", "MISSED  more: 3 /s (at least 4)", "kept    less: 3 B (at most 4)", "noted 1"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, text.String())
		}
	}
	j, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(j), `"met":true`) {
		t.Errorf("%v: %s", err, j)
	}
}

func TestFormat(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.126: "0.13", 3: "3", 12.34: "12.3", 999.9: "999.9", 1234.5: "1,234", 1234567: "1,234,567", -5: "-5"} {
		if got := format(v); got != want {
			t.Errorf("%v is written %q, want %q", v, got, want)
		}
	}
}

func TestSumMetric(t *testing.T) {
	text := "# HELP a_total x\n# TYPE a_total counter\na_total 3\na_total_more 9\nb{l=\"}\"} 1\nb{l=\"y\"} 2.5e1 123\n"
	for name, want := range map[string]float64{"a_total": 3, "b": 26, "c": 0} {
		if got, err := sumMetric([]byte(text), name); err != nil || got != want {
			t.Errorf("%s is %v (%v), want %v", name, got, err, want)
		}
	}
}

func TestProc(t *testing.T) {
	if cpu, err := cpuSeconds(os.Getpid()); err != nil || cpu < 0 {
		t.Errorf("CPU %v: %v", cpu, err)
	}
	if b, err := residentBytes(os.Getpid()); err != nil || b < 1<<20 {
		t.Errorf("resident %v: %v", b, err)
	}
	if _, err := readCalls(os.Getpid()); err != nil {
		t.Error(err)
	}
	if m := machine(); m.CPU == "" || m.Cores == 0 || m.Kernel == "" || m.MemoryMiB == 0 || m.OpenFiles == 0 {
		t.Errorf("machine %+v", m)
	}
}
