package app

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/homeassistant"
	"signalbox/internal/mapped"
	"signalbox/internal/remote"
	"signalbox/internal/remote/mosquittotest"
)

// patience bounds every wait of these tests.
const patience = time.Minute

// servedHub is a hub whose doors are open.
type servedHub struct {
	*App
	t         *testing.T
	addresses map[string]string
	log       *written
}

// serveApp runs a hub until the test ends; from tells which settings somebody made.
func serveApp(t *testing.T, c Config, from map[string]string) *servedHub {
	t.Helper()
	h := &servedHub{t: t, log: &written{}}
	var err error
	h.App, err = Open(t.Context(), Options{Config: c, From: from, Logger: slog.New(slog.NewTextHandler(h.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, ended := make(chan map[string]string, 1), make(chan error, 1)
	go func() { ended <- h.Serve(ctx, func(a map[string]string) { ready <- a }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		closeApp(t, h.App)
	})
	select {
	case h.addresses = <-ready:
	case <-time.After(patience):
		t.Fatalf("the hub does not serve: %s", h.log)
	}
	return h
}

// add adds a device and gives its secret.
func (h *servedHub) add(name string) (secret string) {
	h.t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/api/v1/devices", strings.NewReader(`{"name":"`+name+`","type":"box"}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.LocalAPI().ServeHTTP(w, r)
	var made struct{ Secret string }
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || made.Secret == "" {
		h.t.Fatalf("adding %s gave %d %s", name, w.Code, w.Body)
	}
	return made.Secret
}

func (h *servedHub) token(name string, scope signalbox.Scope, expires time.Time) (secret string) {
	h.t.Helper()
	secret, _, err := h.people.CreateToken(h.t.Context(), name, scope, expires, "test")
	if err != nil {
		h.t.Fatal(err)
	}
	return secret
}

func (h *servedHub) metrics() string {
	w := httptest.NewRecorder()
	h.LocalAPI().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// ready gives what /readyz says of a part.
func (h *servedHub) ready(part string) string {
	for _, c := range h.Ready(h.t.Context()) {
		if c.Name == part {
			return c.Message
		}
	}
	return ""
}

// mosquitto runs mosquitto_pub or mosquitto_sub against an address.
func mosquitto(t *testing.T, program, address string, args ...string) (*exec.Cmd, *written) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "mosquitto_"+program, append([]string{"-h", host, "-p", port}, args...)...)
	out := &written{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// publish runs mosquitto_pub, which must work.
func publish(t *testing.T, address string, args ...string) {
	t.Helper()
	cmd, out := mosquitto(t, "pub", address, args...)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("mosquitto_pub %q: %v: %s", args, err, out)
	}
}

// hear runs mosquitto_sub until the test ends, and gives what it hears.
func hear(t *testing.T, address string, args ...string) *written {
	t.Helper()
	cmd, out := mosquitto(t, "sub", address, args...)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	return out
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it did not come true that %s", what)
		}
	}
}

// TestHomeAssistant: what Home Assistant reads appears for a token, and what it publishes there is
// a command.
func TestHomeAssistant(t *testing.T) {
	c := testConfig(t.TempDir())
	c.MQTT.HomeAssistant = HomeAssistantConfig{Enabled: true, Prefix: "ha", MaxFields: 2, Entities: map[string]homeassistant.Entity{
		"temp": {Name: "Air", Class: "temperature", Unit: "°C"}, "relay": {Component: "switch"},
	}}
	h := serveApp(t, c, nil)
	at, secret := h.addresses["mqtt"], h.add("esp01")
	token := h.token("ha", signalbox.ScopeCommand, time.Time{})
	heard := hear(t, at, "-u", "ha", "-P", token, "-v", "-t", "ha/#", "-t", "signalbox/+/presence")
	publish(t, at, "-u", "esp01", "-P", secret, "-q", "1", "-t", "signalbox/esp01/telemetry", "-m", `{"temp":21.5,"relay":true,"third":3}`)
	// Presence is the hub's to tell.
	publish(t, at, "-V", "5", "-u", "esp01", "-P", secret, "-q", "0", "-r", "-t", "signalbox/esp01/presence", "-m", "forged")

	device := hear(t, at, "-u", "esp01", "-P", secret, "-q", "1", "-t", "signalbox/esp01/command")
	eventually(t, "the device listens and Home Assistant knows it", func() bool {
		s := h.sessions.Get(h.devices.Find("esp01").ID)
		text := heard.String()
		return s != nil && s.Listening() && strings.HasSuffix(strings.TrimSpace(lastLine(text, "signalbox/esp01/presence ")), "online") &&
			strings.Contains(text, "ha/sensor/signalbox_1/temp/config ") && strings.Contains(text, "ha/switch/signalbox_1/relay/config ")
	})
	if text := heard.String(); strings.Contains(text, "third") || strings.Contains(text, "forged") {
		t.Errorf("it heard %s", text)
	}
	var sensor, relay struct {
		Class      string `json:"device_class"`
		Unit       string `json:"unit_of_measurement"`
		Available  string `json:"availability_topic"`
		Command    string `json:"command_topic"`
		PayloadOff string `json:"payload_off"`
	}
	for topic, into := range map[string]any{"ha/sensor/signalbox_1/temp/config ": &sensor, "ha/switch/signalbox_1/relay/config ": &relay} {
		if err := json.Unmarshal([]byte(lastLine(heard.String(), topic)), into); err != nil {
			t.Fatal(topic, err)
		}
	}
	if sensor.Class != "temperature" || sensor.Unit != "°C" || sensor.Available != "signalbox/esp01/presence" {
		t.Errorf("the sensor is %+v", sensor)
	}
	publish(t, at, "-V", "5", "-u", "ha", "-P", token, "-q", "1", "-t", relay.Command, "-m", relay.PayloadOff)
	eventually(t, "the device heard the command", func() bool { return strings.Contains(device.String(), `"command":"relay","value":"false"`) })
	if list, err := h.commands.List(t.Context(), 0, "", 10); err != nil || len(list) != 1 || list[0].CreatedBy != "ha" {
		t.Errorf("the commands are %+v, %v", list, err)
	}
}

// lastLine gives what follows prefix in the last line that begins with it.
func lastLine(text, prefix string) string {
	for _, line := range slices.Backward(strings.Split(text, "\n")) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return rest
		}
	}
	return ""
}

// TestExpiredTokenLosesItsSession: what the broker keeps for a program goes with its token.
func TestExpiredTokenLosesItsSession(t *testing.T) {
	h := serveApp(t, testConfig(t.TempDir()), nil)
	token := h.token("program", signalbox.ScopeRead, time.Now().Add(time.Hour))
	cmd, out := mosquitto(t, "sub", h.addresses["mqtt"], "-V", "5", "-c", "-i", "kept", "-x", "3600", "-u", "any", "-P", token, "-q", "1", "-t", "signalbox/#", "-E")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("mosquitto_sub: %v: %s", err, out)
	}
	sessions := h.mqtt.broker.Stats().Offline.Load
	eventually(t, "there is a session", func() bool { return sessions() == 1 })
	h.forgetExpired(time.Time{}, time.Now())
	if n := sessions(); n != 1 {
		t.Errorf("before the expiry there are %d sessions", n)
	}
	h.forgetExpired(time.Now(), time.Now().Add(2*time.Hour))
	if n := sessions(); n != 0 {
		t.Errorf("after the expiry there are %d sessions", n)
	}
}

// TestMQTTOverTLS: the port of mqtt.tls, and what addresses.json says of it.
func TestMQTTOverTLS(t *testing.T) {
	c := testConfig(t.TempDir())
	ca, cert, key := mosquittotest.Certificates(t, t.TempDir())
	c.MQTT.TLS = MQTTTLSConfig{Listen: "127.0.0.1:0", Cert: cert, Key: key}
	h := serveApp(t, c, nil)
	secret := h.add("esp01")
	args := []string{"-u", "esp01", "-P", secret, "-q", "1", "-t", "signalbox/esp01/telemetry", "-m", "21.5"}
	publish(t, h.addresses["mqtt_tls"], append(args, "--cafile", ca)...)
	if got := string(h.devices.Find("esp01").LatestObject()); got != `{"value":21.5}` {
		t.Errorf("the telemetry is %s", got)
	}
	cmd, out := mosquitto(t, "pub", h.addresses["mqtt_tls"], args...)
	if cmd.Wait() == nil {
		t.Errorf("it took what is no TLS: %s", out)
	}
	var file map[string]string
	body, err := os.ReadFile(filepath.Join(c.Data, "addresses.json"))
	if err != nil || json.Unmarshal(body, &file) != nil {
		t.Fatalf("addresses.json has %s, %v", body, err)
	}
	if got := slices.Sorted(maps.Keys(file)); !slices.Equal(got, []string{"devices", "http", "mqtt", "mqtt_tls"}) || !maps.Equal(file, h.addresses) {
		t.Errorf("addresses.json has %s", bytes.TrimSpace(body))
	}
}

// TestMQTTPort: a default port that is taken is done without, one that was asked for is an error.
func TestMQTTPort(t *testing.T) {
	var config net.ListenConfig
	taken, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := testConfig(t.TempDir())
	c.MQTT.Listen = taken.Addr().String()
	h := serveApp(t, c, nil)
	if _, there := h.addresses["mqtt"]; there || !strings.Contains(h.log.String(), "goes on without a port for MQTT") || !strings.HasPrefix(h.ready("mqtt"), "degraded: there is no port for MQTT") {
		t.Errorf("the addresses are %v, /readyz says %q, the log %s", h.addresses, h.ready("mqtt"), h.log)
	}

	c.Data = t.TempDir()
	a, err := Open(t.Context(), Options{Config: c, From: map[string]string{"mqtt.listen": "--mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeApp(t, a)
	if err := a.Listen(t.Context()); signalbox.CodeOf(err) != "port_taken" || !strings.Contains(err.Error(), "mqtt.listen") {
		t.Errorf("the port that was asked for gave %v", err)
	}
}

// TestJoinedBroker: another broker's messages are telemetry, a command goes out there, and its end
// can be seen while the hub goes on.
func TestJoinedBroker(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	c := testConfig(t.TempDir())
	c.MQTT.Brokers = []remote.Config{{Name: "site", URL: "mqtt://" + b.Address, QoS: 1, Topics: []mapped.Mapping{
		{Filter: "Environ/Temperature", Device: "env01", Field: "temp", Format: mapped.FormatNumber},
		{Filter: "stat/plug/RESULT", Device: "plug", Command: &mapped.Template{Topic: "cmnd/{device}/{command}", Payload: "{value}", QoS: 1}},
	}}}
	h := serveApp(t, c, nil)
	eventually(t, "the broker is joined", func() bool { m := h.ready("mqtt broker site"); return m != "" && !strings.HasPrefix(m, "degraded") })
	heard := hear(t, b.Address, "-q", "1", "-v", "-t", "cmnd/#", "-t", "ready")
	eventually(t, "somebody listens there", func() bool {
		publish(t, b.Address, "-t", "ready", "-m", "1")
		return strings.Contains(heard.String(), "ready 1")
	})
	publish(t, b.Address, "-q", "1", "-t", "Environ/Temperature", "-m", "25.8 °C")
	eventually(t, "the reading is there", func() bool { return string(h.devices.Find("env01").LatestObject()) == `{"temp":25.8}` })
	publish(t, b.Address, "-q", "1", "-t", "stat/plug/RESULT", "-m", `{"POWER":"OFF"}`)
	eventually(t, "the plug is online", func() bool { return h.sessions.Get(h.devices.Find("plug").ID) != nil })
	value := "ON"
	if _, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "plug", Name: "POWER", Value: &value}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command went out", func() bool { return strings.Contains(heard.String(), "cmnd/plug/POWER ON\n") })
	for _, line := range []string{
		"signalbox_mqtt_remote_brokers 1", "signalbox_mqtt_remote_connected 1", "signalbox_mqtt_remote_stored_total 2", "signalbox_mqtt_remote_published_total 1",
		"signalbox_mapped_taken_total 2", "signalbox_mapped_commands_total 1", "signalbox_devices_pending 0",
	} {
		eventually(t, "the metrics say "+line, func() bool { return strings.Contains(h.metrics(), "\n"+line+"\n") })
	}
	b.Kill()
	eventually(t, "/readyz says that it is away", func() bool { return strings.HasPrefix(h.ready("mqtt broker site"), "degraded: ") })
	for _, check := range h.Ready(t.Context()) {
		if !check.OK {
			t.Errorf("%s is not ready: %s", check.Name, check.Message)
		}
	}
	if !strings.Contains(h.metrics(), "\nsignalbox_mqtt_remote_connected 0\n") {
		t.Error("the metrics say that it is connected")
	}
}
