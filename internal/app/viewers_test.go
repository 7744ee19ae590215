package app

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"signalbox"
	"signalbox/internal/mapped"
	"signalbox/internal/remote/mosquittotest"
)

// python is the interpreter for which Debian has websockets.
const python = "/usr/bin/python3"

// viewersOn is the configuration of the M2M chain: a sensor of its own topic, and viewers.
func viewersOn(c *Config) {
	c.MQTT.Anonymous = []string{"Environ/Temperature"}
	c.MQTT.Topics = []mapped.Mapping{{Filter: "Environ/Temperature", Device: "env01", Field: "temp", Format: "number"}}
	v := &c.Compat.Viewers
	v.Device, v.Field, v.History, v.Allow = "env01", "temp", "127.0.0.1:0", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	v.TimeZone = "Asia/Shanghai"
}

// viewer runs viewer.py.
func viewer(t *testing.T, args ...string) (ended <-chan error, out *written) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	cmd := exec.CommandContext(ctx, python, append([]string{filepath.Join("testdata", "viewer.py")}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"}
	out = &written{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- cmd.Wait()
	}()
	return done, out
}

const (
	viewerGreeting = `{"state": "OK", "type": "hello", "response": "Hello, client!"}
{"state": "OK", "type": "hello", "response": "connect successfully!"}
{"state": "OK", "type": "sending", "response": "sending temperature data from esp32..."}
`
	viewerClosing = `{"state": "OK", "type": "close", "response": ""}
`
)

// timesIn puts a mark in the place of the times of frames, and gives the first.
func timesIn(text string) (marked string, first time.Time) {
	form := regexp.MustCompile(`"time": "(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)"`)
	if m := form.FindStringSubmatch(text); m != nil {
		zone := time.FixedZone("CST", 8*3600)
		first, _ = time.ParseInLocation("2006-01-02 15:04:05", m[1], zone) // none is the zero time
	}
	return form.ReplaceAllString(text, `"time": "T"`), first
}

// TestOriginalChain is the M2M original from sensor to viewers: mosquitto_pub in the place of the
// board, Debian's python3-websockets in that of the viewers, over TCP and over TLS.
func TestOriginalChain(t *testing.T) {
	c := testConfig(t.TempDir())
	viewersOn(&c)
	_, cert, key := mosquittotest.Certificates(t, t.TempDir())
	c.Devices.TLS.Listen, c.Devices.TLS.Cert, c.Devices.TLS.Key = "127.0.0.1:0", cert, key
	h := serveApp(t, c, nil)

	var file map[string]string
	body, err := os.ReadFile(filepath.Join(c.Data, "addresses.json"))
	if err != nil || json.Unmarshal(body, &file) != nil || file["history_viewers"] == "" {
		t.Fatalf("addresses.json has %s, %v", body, err)
	}
	plain, plainOut := viewer(t, "live", "ws://"+file["devices"], "3")
	secure, secureOut := viewer(t, "live", "wss://"+file["devices_tls"], "3")
	watching := func(n int64) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d viewers watch: %s%s", n, plainOut, secureOut), func() bool { return h.viewers.Stats().Watching.Load() == n })
	}
	watching(2)
	began := time.Now().Truncate(time.Second)
	for _, text := range []string{"25.8 °C", "15.0 °C", "25°C"} {
		publish(t, file["mqtt"], "-t", "Environ/Temperature", "-m", text)
	}
	want := viewerGreeting
	for _, temp := range []string{"25.8", "15.0", "25"} {
		want += `{"state": "OK", "type": "new_data", "response": {"time": "T", "temp": "` + temp + "\"}}\n"
	}
	for _, v := range []struct {
		ended <-chan error
		out   *written
	}{{plain, plainOut}, {secure, secureOut}} {
		if err := <-v.ended; err != nil {
			t.Fatalf("%v: %s", err, v.out)
		}
		got, first := timesIn(v.out.String())
		if got != want || first.Before(began) || first.After(time.Now()) {
			t.Errorf("the viewer saw\n%swant\n%s", v.out, want)
		}
	}
	watching(0)

	ended, out := viewer(t, "history", "ws://"+file["history_viewers"])
	if err := <-ended; err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want = viewerGreeting
	for _, temp := range []string{"25.8", "15.0", "25.0"} {
		want += `{"state": "OK", "type": "old_data", "response": {"time": "T", "temp": ` + temp + "}}\n"
	}
	want += viewerClosing + viewerGreeting + "{\"state\": \"OK\", \"type\": \"empty\", \"response\": \"\"}\n" + viewerClosing
	if got, _ := timesIn(out.String()); got != want {
		t.Errorf("the viewer of history saw\n%swant\n%s", out, want)
	}
	for _, line := range []string{"signalbox_viewers_readings_total 3", "signalbox_viewers_delivered_total 6", "signalbox_viewers_rows_total 3", "signalbox_viewers 0", "signalbox_viewers_history_upgrades_total 2", "signalbox_viewers_history_connections 0"} {
		eventually(t, "the metrics have "+line, func() bool { return strings.Contains(h.metrics(), "\n"+line+"\n") })
	}
}

// TestStopTellsViewers: a hub that stops says so.
func TestStopTellsViewers(t *testing.T) {
	c := testConfig(t.TempDir())
	viewersOn(&c)
	a := open(t, c, &written{})
	defer closeApp(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, ended := make(chan map[string]string, 1), make(chan error, 1)
	go func() { ended <- a.Serve(ctx, func(m map[string]string) { ready <- m }) }()
	addresses := <-ready
	left, out := viewer(t, "live", "ws://"+addresses["devices"], "1")
	eventually(t, "the viewer watches", func() bool { return a.viewers.Stats().Watching.Load() == 1 })
	cancel()
	if err := <-left; err != nil || out.String() != viewerGreeting+"closed 1001\n" {
		t.Errorf("the viewer saw %s, %v", out, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestViewersSettings(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string // in the fault; empty: there is none
	}{
		{"all of them", viewersOn, ""},
		{"no field", func(c *Config) { c.Compat.Viewers.Device = "env01" }, "belong together"},
		{"history alone", func(c *Config) { c.Compat.Viewers.History = ":8768" }, "compat.viewers.history"},
		{"an outbox that is too large", func(c *Config) { viewersOn(c); c.Compat.Viewers.Outbox = c.Devices.Outbox }, "devices.outbox"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			tt.change(&c)
			err := c.Check()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
	file := writeConfig(t, "compat: {viewers: {device: env01, field: temp, history: \":8768\", allow: [\"127.0.0.0/8\"]}}\n")
	loaded, err := LoadConfig(ConfigSources{File: file})
	if v := &loaded.Config.Compat.Viewers; err != nil || v.Device != "env01" || v.Field != "temp" || v.History != ":8768" || len(v.Allow) != 1 || !v.NullOrigin {
		t.Errorf("the file gave %+v, %v", v, err)
	}
	for _, bad := range []string{"device: a/b", "device: a, field: a..b", "time_zone: Mars/Base", "allow: [here]", "max: 0", "history: nowhere"} {
		if _, err := LoadConfig(ConfigSources{File: writeConfig(t, "compat: {viewers: {"+bad+"}}\n")}); err == nil {
			t.Errorf("%s is allowed", bad)
		}
	}
}

// TestConnectionsOfViewers: the limit of an address holds for its viewers of history, too.
func TestConnectionsOfViewers(t *testing.T) {
	c := testConfig(t.TempDir())
	viewersOn(&c)
	c.Devices.ConnectionsPerAddress = 2
	h := serveApp(t, c, nil)
	for i, port := range []string{"devices", "history_viewers", "history_viewers", "devices"} {
		conn, answer, err := websocket.Dial(t.Context(), "ws://"+h.Addresses()[port], nil)
		if conn != nil {
			defer conn.CloseNow()
		}
		if want := i < 2; answer == nil || (err == nil) != want || !want && answer.StatusCode != http.StatusTooManyRequests {
			t.Errorf("connection %d, to %s: %v", i+1, port, err)
		}
	}
	eventually(t, "the metrics tell it", func() bool {
		return strings.Contains(h.metrics(), "\nsignalbox_refused_address_limit_total 2\n") && strings.Contains(h.metrics(), "\nsignalbox_viewers_history_upgrades_refused_total 1\n")
	})
}

// TestViewersDoors: the port is not there when it is off, and one that is taken is an error.
func TestViewersDoors(t *testing.T) {
	var config net.ListenConfig
	taken, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name   string
		change func(*Config)
		there  bool
		code   string
	}{
		{"off", func(*Config) {}, false, ""},
		{"live alone", func(c *Config) { c.Compat.Viewers.History = "" }, false, ""},
		{"on", func(*Config) {}, true, ""},
		{"taken", func(c *Config) { c.Compat.Viewers.History = taken.Addr().String() }, false, "port_taken"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig(t.TempDir())
			if tt.name != "off" {
				viewersOn(&c)
			}
			tt.change(&c)
			a, err := Open(t.Context(), Options{Config: c, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer closeApp(t, a)
			err = a.Listen(t.Context())
			if _, there := a.Addresses()["history_viewers"]; there != tt.there || (err != nil) != (tt.code != "") || err != nil && signalbox.CodeOf(err) != tt.code {
				t.Errorf("the addresses are %v, %v", a.Addresses(), err)
			}
		})
	}
}
