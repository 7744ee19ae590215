package cli

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestSimRefuses(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"unknown protocol", []string{"--protocol", "mqtt4"}, "allowed are v2, v1, mqtt and mqtt5"},
		{"two protocols", []string{"--protocol", "mqtt", "--v1"}, "--v1 and --protocol mqtt contradict each other"},
		{"quality of service", []string{"--qos", "2"}, "--qos 2: allowed are 0 and 1"},
		{"variant", []string{"--b1", "1", "--b1-variant", "3"}, "--b1-variant 3: allowed are 1 and 2"},
		{"negative sensors", []string{"--boxes", "0", "--stations", "0", "--b1", "-1", "--mqtt", address(t)}, "none may be negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			newStation(t).run(append([]string{"sim"}, tt.args...)...).want(t, ExitUsage, tt.want)
		})
	}
	newStation(t).run("sim", "--boxes", "0", "--stations", "0", "--b1", "1", "--mqtt", "127.0.0.1:1").
		want(t, ExitUnavailable, "nothing answers on the MQTT port 127.0.0.1:1")
}

// address is that of a listener that says nothing.
func address(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

// TestSimSensors lets original sensors talk to a listener: they need no hub.
func TestSimSensors(t *testing.T) {
	r := newStation(t).run("sim", "--boxes", "0", "--stations", "0", "--b1", "2", "--mqtt", address(t), "--duration", "300ms")
	r.want(t, ExitOK, "of 2 has ended: logins 0, readings 0")
}

// TestSimMQTT has a hub, boxes that speak MQTT, and the commands that look at them and move them.
func TestSimMQTT(t *testing.T) {
	s := newStation(t)
	s.serve("--mqtt", "127.0.0.1:0")
	for _, protocol := range []string{"mqtt", "mqtt5"} {
		t.Run(protocol, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			boxes := make(chan result, 1)
			go func() {
				boxes <- runAs(ctx, "", []string{"SIGNALBOX_DATA=" + s.dir}, "sim", "--protocol", protocol, "--qos", "1",
					"--boxes", "2", "--stations", "0", "--interval", "50ms", "--prefix", protocol, "--rm")
			}()
			name := protocol + "-box-1"
			s.run("watch", "--count", "1", "--kind", "telemetry", "--type", "box", "--json").want(t, ExitOK, protocol+"-box-")
			for _, box := range []string{name, protocol + "-box-2"} {
				s.run("watch", "--count", "1", "--kind", "telemetry", box).want(t, ExitOK, box)
			}
			s.run("device", "list", "--online").want(t, ExitOK, name, "online")
			s.run("send", name, "servo1", "45", "--wait", "2m").want(t, ExitOK, "servo1 45 succeeded")
			s.run("send", name, "fly", "--wait", "2m").want(t, ExitDevice, "fly failed")
			s.run("watch", "--count", "1", "--kind", "telemetry", name).want(t, ExitOK, "servo1=45")
			stop()
			r := <-boxes
			r.want(t, ExitOK, "logins 2", "Devices removed: 2")
		})
	}
}

// TestSimOriginalSensor has a hub whose configuration maps the topic of the original sensor, and both of its firmwares.
func TestSimOriginalSensor(t *testing.T) {
	s := newStation(t)
	path := filepath.Join(t.TempDir(), "signalbox.yaml")
	text := "mqtt:\n  anonymous: [\"Environ/#\", outTopic]\n  topics:\n" +
		"    - {filter: Environ/Temperature, device: env01, field: temp, format: number}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.serve("--mqtt", "127.0.0.1:0", "--config", path)
	for _, variant := range []string{"1", "2"} {
		t.Run("variant "+variant, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			sensor := make(chan result, 1)
			go func() {
				sensor <- runAs(ctx, "", []string{"SIGNALBOX_DATA=" + s.dir}, "sim", "--boxes", "0", "--stations", "0",
					"--b1", "1", "--b1-variant", variant, "--interval", "20ms")
			}()
			s.run("watch", "--count", "4", "env01").want(t, ExitOK, "temp=2")
			s.run("device", "show", "env01").want(t, ExitOK, "temp = 2")
			stop()
			r := <-sensor
			r.want(t, ExitOK, "logins 1")
		})
	}
}

// TestSimFlags: what is wrong with a command line is said before anything is done.
func TestSimFlags(t *testing.T) {
	s := newStation(t)
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"a QoS without MQTT", "goes with --protocol mqtt", []string{"--qos", "1"}},
		{"no port", "--devices nohost: allowed is host:port", []string{"--devices", "nohost"}},
		{"no MQTT port", "--mqtt nohost: allowed is host:port", []string{"--mqtt", "nohost"}},
	} {
		t.Run(tt.name, func(t *testing.T) { s.run(append([]string{"sim"}, tt.args...)...).want(t, ExitUsage, tt.want) })
	}
}
