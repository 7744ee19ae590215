package app

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
)

// written is what a hub's logger wrote.
type written struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// testConfig is that of a hub on free ports.
func testConfig(dir string) Config {
	c := DefaultConfig()
	c.Data, c.HTTP.Listen, c.Devices.Listen, c.MQTT.Listen = dir, "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	return c
}

func open(t *testing.T, c Config, log *written) *App {
	t.Helper()
	a, err := Open(t.Context(), Options{Config: c, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func closeApp(t *testing.T, a *App) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// TestFailedFirstStart says that a first start which cannot work makes no user.
func TestFailedFirstStart(t *testing.T) {
	var config net.ListenConfig
	taken, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name     string
		change   func(*Config)
		password string
		code     string
	}{
		{"the device port is taken", func(c *Config) { c.Devices.Listen = taken.Addr().String() }, "", "port_taken"},
		{"the HTTP port is taken", func(c *Config) { c.HTTP.Listen = taken.Addr().String() }, "", "port_taken"},
		{"the certificate is missing", func(c *Config) { c.HTTP.TLS = TLSConfig{Cert: "missing.pem", Key: "missing.key"} }, "", "bad_certificate"},
		{"the password is too short", func(*Config) {}, "short", "invalid_password"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log written
			dir := filepath.Join(t.TempDir(), "data")
			c := testConfig(dir)
			tt.change(&c)
			a := open(t, c, &log)
			name, password, made, err := a.FirstAdmin(t.Context(), tt.password)
			if signalbox.CodeOf(err) != tt.code || made || name != "" || password != "" {
				t.Errorf("FirstAdmin gave %q, %q, %t, %v; want code %s", name, password, made, err, tt.code)
			}
			closeApp(t, a)
			if _, err := os.Stat(filepath.Join(dir, SocketName)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the socket is left behind: %v", err)
			}

			a = open(t, testConfig(dir), &log)
			defer closeApp(t, a)
			if name, password, made, err := a.FirstAdmin(t.Context(), ""); name != "admin" || password == "" || !made || err != nil {
				t.Errorf("the second start gave %q, %q, %t, %v; want a new admin", name, password, made, err)
			}
		})
	}
}

// TestStopIsLogged ends a hub for a reason and reads its log.
func TestStopIsLogged(t *testing.T) {
	var log written
	a := open(t, testConfig(t.TempDir()), &log)
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := a.Serve(ctx, func(map[string]string) { cancel(errors.New("the signal terminated")) }); err != nil {
		t.Error(err)
	}
	if got := log.String(); !strings.Contains(got, `msg=stopping reason="the signal terminated"`) || strings.Contains(got, "msg=stopped") {
		t.Errorf("while it stops the log is %s", got)
	}
	closeApp(t, a)
	if got := log.String(); strings.Count(got, "msg=stopped clean=true") != 1 {
		t.Errorf("after the stop the log is %s", got)
	}
}

// TestClockBehindTheLog begins with a log whose end was received in the future.
func TestClockBehindTheLog(t *testing.T) {
	var log written
	a := open(t, testConfig(t.TempDir()), &log)
	defer closeApp(t, a)
	if err := a.log.Append(&signalbox.Entry{Kind: signalbox.EntryPresence, Device: 1, Body: []byte("{}")}, 0); err != nil {
		t.Fatal(err)
	}
	message := func() string { return a.clockCheck().Message }
	before := time.Now()
	a.lookAtClock(before)
	if got := message(); strings.Contains(got, "degraded") || log.String() != "" {
		t.Fatalf("with a right clock /readyz says %q, the log %q", got, log.String())
	}
	for range 3 {
		a.lookAtClock(before.Add(-24 * time.Hour)) // the clock was set back by a day
	}
	if got := message(); !strings.Contains(got, "degraded") || !strings.Contains(got, "24h0m0s ahead") {
		t.Errorf("/readyz says %q", got)
	}
	if got := log.String(); strings.Count(got, "level=ERROR") != 1 || !strings.Contains(got, "ahead=24h0m0s") {
		t.Errorf("the log says %q, want one error", got)
	}
	a.lookAtClock(before.Add(time.Second))
	if got := message(); strings.Contains(got, "degraded") || strings.Count(log.String(), "level=INFO") != 1 {
		t.Errorf("afterwards /readyz says %q, the log %q", got, log.String())
	}
}
