//go:build linux

package bench_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox/internal/bench"
	"signalbox/internal/cli"
	"signalbox/internal/store/storetest"
)

// TestMain lets this program be the hub and the sink that it measures.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "serve" || os.Args[1] == "bench") {
		os.Exit(cli.Main("test"))
	}
	os.Exit(storetest.Main(m))
}

// mqttRows are the rows of the measurement mqtt; without Mosquitto on this machine, those of the hub.
func mqttRows() []string {
	rows := []string{
		"connections hub", "connections mosquitto", "connections hub, subscribed", "connections mosquitto, subscribed",
		"qos0 hub", "qos0 mosquitto", "qos1 hub", "qos1 mosquitto",
		"subscriber mosquitto", "subscriber mosquitto, raised", "subscriber hub", "subscriber hub, raised", "subscriber hub, paced", "survive hub", "survive mosquitto",
	}
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto"} {
		if _, err := exec.LookPath(name); err == nil {
			return rows
		}
	}
	return slices.DeleteFunc(rows, func(row string) bool { return strings.Contains(row, "mosquitto") })
}

// TestModes runs every measurement that needs a hub, small, against a real one: it holds what is counted and compared,
// not how fast it is.
func TestModes(t *testing.T) {
	tests := []struct {
		mode string
		o    bench.Options
		rows []string
	}{
		{"connections", bench.Options{Connections: 60}, []string{"v2", "v1", "sink"}},
		{"telemetry", bench.Options{Connections: 40, Variants: []string{"one", "bunched-saved"}}, []string{"one", "one sink", "bunched-saved"}},
		{"commands", bench.Options{Connections: 30, Rate: 50, Background: 200}, []string{"commands"}},
		{"reconnect", bench.Options{Connections: 60}, []string{"reset", "close"}},
		{"mqtt", bench.Options{Connections: 40, Rounds: 3, Duration: 100 * time.Millisecond}, mqttRows()},
		{"live", bench.Options{Connections: 20, Rate: 500, Duration: 700 * time.Millisecond}, []string{
			"fanout hub", "fanout hub, more offered", "fanout plain, a write a message", "fanout plain, in writes as large as the hub's",
			"latency", "latency, stalled viewers beside", "forward over TCP", "forward over UDP", "forward, receiver away",
		}},
		{"survive", bench.Options{Connections: 20, Rounds: 2, Rate: 2000, Duration: 600 * time.Millisecond, Variants: []string{"telemetry"}}, []string{"kill -9"}},
	}
	for _, tt := range tests {
		t.Run(tt.mode, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			tt.o.Dir, tt.o.Runs = t.TempDir(), 1
			if tt.o.Duration == 0 {
				tt.o.Duration = 200 * time.Millisecond
			}
			r, err := bench.Run(ctx, tt.mode, tt.o)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, row := range r.Rows {
				names = append(names, row.Name)
				if row.Values[0].Value <= 0 {
					t.Errorf("%s: %s is %v", row.Name, row.Values[0].Name, row.Values[0].Value)
				}
				for _, v := range row.Values {
					if row.Name == "survive hub" && v.Name == "lost" && v.Value != 0 {
						t.Errorf("%v acknowledged messages did not survive kill -9", v.Value)
					}
					faults := []string{"lost", "out of order", "unmarked"}
					if row.Name == "forward, receiver away" && slices.Contains(faults, v.Name) && v.Value != 0 {
						t.Errorf("%s: %s is %v", row.Name, v.Name, v.Value)
					}
				}
			}
			if strings.Join(names, ",") != strings.Join(tt.rows, ",") {
				t.Errorf("rows are %v, want %v", names, tt.rows)
			}
			if left, _ := os.ReadDir(tt.o.Dir); len(left) > 0 {
				t.Errorf("%d directories are left behind", len(left))
			}
			var text bytes.Buffer
			if err := r.WriteText(&text); err != nil {
				t.Fatal(err)
			}
		})
	}
}
