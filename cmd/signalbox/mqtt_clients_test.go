package main_test

import (
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestMQTTClients runs clients that no one here wrote against the whole hub: Mosquitto's
// programs and Eclipse's Python client, over TCP and WebSocket.
func TestMQTTClients(t *testing.T) {
	t.Parallel()
	h := startHub(t, dataDir(t, "mqtt: {anonymous: ['Environ/#'], topics: [{preset: thingsboard}, {filter: Environ/Temperature, device: env01, field: temp, format: number}]}\n"))
	h.add("esp01")
	var token struct{ Secret string }
	h.call(http.MethodPost, "/tokens", map[string]string{"name": "watcher", "scope": "read"}, &token)
	host, port, err := net.SplitHostPort(h.addresses.MQTT)
	must(t, err)
	_, webPort, err := net.SplitHostPort(h.addresses.HTTP)
	must(t, err)

	at := []string{"-h", host, "-p", port}
	sub := child(t, "/usr/bin/mosquitto_sub", append(at, "-V", "5", "-u", "x", "-P", token.Secret, "-t", "signalbox/+/telemetry", "-q", "1", "-F", "%t %p", "-C", "3")...)
	sub.quiet = true
	sub.start()
	await(t, patience, "the watcher has subscribed", func() bool {
		_, metrics := h.open("/metrics")
		return strings.Contains(metrics, "\nsignalbox_mqtt_subscriptions 1\n")
	})
	pub := func(want int, args ...string) {
		t.Helper()
		p := child(t, "/usr/bin/mosquitto_pub", append(at, args...)...)
		p.quiet = true
		p.start()
		if code := p.wait(patience); code != want {
			t.Errorf("mosquitto_pub %q ended with code %d, not %d: %s", args, code, want, p.stderr.String())
		}
	}
	pub(0, "-t", "Environ/Temperature", "-m", "25.8 °C")
	pub(0, "-V", "5", "-u", "esp01", "-P", secretOf("esp01"), "-t", "signalbox/esp01/telemetry", "-m", `{"temp":19.0}`, "-q", "2")
	pub(0, "-V", "311", "-u", "esp01:"+secretOf("esp01"), "-t", "v1/devices/me/telemetry", "-m", `{"temp":20.5}`, "-q", "1") // made for ThingsBoard
	pub(4, "-V", "311", "-t", "elsewhere", "-u", "esp01", "-P", "wrong", "-m", "x")
	pub(4, "-V", "311", "-t", "v1/devices/me/telemetry", "-u", secretOf("esp01"), "-m", "{}") // its secret alone
	if code := sub.wait(muchPatience); code != 0 {
		t.Errorf("mosquitto_sub ended with code %d: %s", code, sub.stderr.String())
	}
	for _, line := range []string{`signalbox/env01/telemetry {"temp":25.8}`, `signalbox/esp01/telemetry {"temp":19.0}`, `signalbox/esp01/telemetry {"temp":20.5}`} {
		if !strings.Contains(sub.stdout.String(), line+"\n") {
			t.Errorf("the watcher did not hear %s:\n%s", line, sub.stdout.String())
		}
	}

	for transport, port := range map[string]string{"tcp": port, "websockets": webPort} {
		dev := child(t, python, "testdata/mqtt_device.py", transport, port, "esp01", secretOf("esp01"))
		in, err := dev.cmd.StdinPipe()
		must(t, err)
		dev.start()
		await(t, patience, "the device over "+transport+" has reported", func() bool {
			return strings.Count(dev.stdout.String(), "published") == 2
		})
		var made struct{ State, ID string }
		h.call(http.MethodPost, "/devices/esp01/commands", map[string]string{"command": "servo1", "value": "90"}, &made)
		await(t, patience, "the command to the device over "+transport+" has succeeded", func() bool {
			var now struct{ State string }
			h.call(http.MethodGet, "/commands/"+made.ID, nil, &now)
			return now.State == "succeeded"
		})
		must(t, in.Close())
		if code := dev.wait(patience); code != 0 || !strings.Contains(dev.stdout.String(), "command servo1 90") {
			t.Errorf("the device over %s ended with code %d:\n%s", transport, code, dev.stdout.String())
		}
		h.awaitPresence("esp01", "offline")
	}
}

// TestMQTTPortTaken: the default port may be another broker's; one that was asked for may not.
func TestMQTTPortTaken(t *testing.T) {
	t.Parallel()
	var listen net.ListenConfig
	l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	_, stderr, code := run(t, "", "serve", "--data", dataDir(t, ""), "--http", "127.0.0.1:0", "--devices", "127.0.0.1:0", "--mqtt", l.Addr().String())
	if code == 0 || !strings.Contains(stderr, "choose another address with mqtt.listen") {
		t.Errorf("it ended with code %d: %s", code, stderr)
	}
	dir := dataDir(t, "")
	h := startAs(t, dir, command(t, "serve", "--data", dir, "--http", "127.0.0.1:0", "--devices", "127.0.0.1:0", "--mqtt", "off"))
	if h.addresses.MQTT != "" {
		t.Errorf("there is a port at %s", h.addresses.MQTT)
	}
	h.awaitReady("there is none", http.StatusOK, "mqtt.listen is off")
	h.stop()
}
