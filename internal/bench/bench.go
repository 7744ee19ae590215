package bench

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Options say what to measure with. The zero value starts a hub of its own and takes each mode's defaults.
type Options struct {
	// URL, Token and DevicesAddr name a running hub: its HTTP address, an admin token, host:port of its device listener.
	// Without URL a hub is started.
	URL, Token, DevicesAddr string
	// PID is the process of a running hub on this machine, for CPU and memory; 0 leaves them out.
	PID int
	// Executable is the program to start as hub and sink; default this program itself.
	Executable string
	// Dir is where a started hub keeps its data, a temporary directory under it for each run; default the system's.
	Dir string

	Connections int           // default by mode
	Duration    time.Duration // of one load; default 10 s
	Runs        int           // of each variant; medians are reported; default 3, history 1
	Rate        float64       // commands per second (commands: default 1,000), messages per second (survive: default 20,000; mqtt, subscriber: default as fast as it goes)
	Background  float64       // telemetry messages per second beside commands; default 5,000; negative none
	Rounds      int           // of survive, also that of mqtt; default 20
	Workers     int           // goroutines of the load generator; default 1, for connections (also those of mqtt) and reconnect one a processor
	Variants    []string      // of a mode, default all; see Modes
	Store       string        // history: URL of an empty database on a server; default SQLite
	Messages    int           // history: messages asked about; default 10 million
	Quick       bool          // history: all of it small, in about half a minute
	Logger      *slog.Logger  // progress at info
}

// Mode is one kind of measurement.
type Mode struct {
	Name     string
	Summary  string
	Variants []string
	run      func(ctx context.Context, b *bencher) error
}

// Modes lists the measurements in the order in which they are best read.
func Modes() []Mode {
	return []Mode{
		{"connections", "connections accepted and logged in per second, bytes of memory of an idle one", []string{"v2", "v1", "sink"}, runConnections},
		{"telemetry", "durable telemetry, one message per wake-up and bunched, against a sink", []string{"one", "bunched", "one-saved", "bunched-saved"}, runTelemetry},
		{"commands", "latency of a command over the API to the device and its result back", nil, runCommands},
		{"reconnect", "all devices drop and return at once", []string{"reset", "close"}, runReconnect},
		{"survive", "kill -9 in the middle of telemetry: is all that was acknowledged there?", []string{"telemetry", "history"}, runSurvive},
		{"mqtt", "MQTT beside Mosquitto: connections, publishing, one subscriber, kill -9", []string{"connections", "qos0", "qos1", "subscriber", "survive"}, runMQTT},
		{"live", "viewers, the latency of what they see, and forwarding, beside a plain loop of writes", []string{"fanout", "latency", "forward"}, runLive},
		{"history", "intake, disk, questions and export of the history engine by itself, beside a row a message", []string{"intake", "rows", "questions"}, runHistory},
		{"sessions", "a million sessions in process: bytes each, pauses of the garbage collector", nil, runSessions},
	}
}

// Run measures mode and reports. The report is given with what was measured so far also when an error ends it.
func Run(ctx context.Context, mode string, o Options) (*Report, error) {
	names := make([]string, 0, len(Modes()))
	for _, m := range Modes() {
		if m.Name != mode {
			names = append(names, m.Name)
			continue
		}
		b, err := newBencher(m, o)
		if err != nil {
			return nil, err
		}
		err = m.run(ctx, b)
		return b.report, err
	}
	return nil, fmt.Errorf("there is no measurement named %q; allowed are %s", mode, strings.Join(names, ", "))
}

// bencher is one measurement under way.
type bencher struct {
	Options
	report *Report
	sizes  *historySizes // of history; nil: by Options
}

func newBencher(m Mode, o Options) (*bencher, error) {
	if runtime.GOOS != "linux" {
		return nil, fmt.Errorf("measuring needs Linux (epoll and /proc); this is %s", runtime.GOOS)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Runs <= 0 {
		o.Runs = 3
		if m.Name == "history" {
			o.Runs = 1 // long ones
		}
	}
	if o.Duration <= 0 {
		o.Duration = 10 * time.Second
	}
	if o.Workers <= 0 && m.Name != "mqtt" { // there, by part
		o.Workers = 1
		if m.Name == "connections" || m.Name == "reconnect" {
			o.Workers = runtime.GOMAXPROCS(0)
		}
	}
	if len(o.Variants) == 0 {
		o.Variants = m.Variants
	}
	for _, v := range o.Variants {
		if !slices.Contains(m.Variants, v) {
			return nil, fmt.Errorf("%s has no variant %q; allowed are %s", m.Name, v, strings.Join(m.Variants, ", "))
		}
	}
	return &bencher{Options: o, report: &Report{Mode: m.Name, Summary: m.Summary, Started: time.Now().UTC(), Machine: machine(), Runs: o.Runs}}, nil
}
