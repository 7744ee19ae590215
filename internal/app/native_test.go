package app

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/mapped"
	"signalbox/internal/remote/mosquittotest"
	"signalbox/internal/sim"
)

// TestNativeSetting: native of a broker is a word, or a section that says more.
func TestNativeSetting(t *testing.T) {
	for native, want := range map[string]*mapped.Native{
		"true":                                {},
		"{}":                                  {},
		"{register: true, type: board}":       {Register: true, Type: "board"},
		"{register: 'yes', silence: never}":   {Register: true, Silence: mapped.Never},
		"{register: false, silence: '10m'}":   {Silence: 10 * time.Minute},
		"{type: board, silence: 1d}":          {Type: "board", Silence: day},
		"'on'":                                {},
		"true, topics: [{preset: tasmota}]":   {},
		"false, topics: [{preset: tasmota}] ": nil,
	} {
		loaded, err := LoadConfig(ConfigSources{File: writeConfig(t, "mqtt: {brokers: [{name: x, url: 'mqtt://broker.example', native: "+native+"}]}\n")})
		if err != nil {
			t.Errorf("%s gave %v", native, err)
			continue
		}
		if got := loaded.Config.MQTT.Brokers[0].Native; !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %+v, want %+v", native, got, want)
		}
	}
	for native, want := range map[string]string{
		"false":                  "no topics",
		"maybe":                  `the broker "x": native is "maybe": it is neither true nor false; allowed is true, false, or a section with register, silence and type`,
		"[true]":                 "native is a list",
		"{typ: board}":           `no key "native.typ"; the nearest is "native.type"`,
		"{type: 'a b'}":          "device type",
		"{register: perhaps}":    `native.register is "perhaps": it is neither true nor false; allowed is true or false`,
		"{silence: 1ms}":         "at least 1s",
		"{silence: 5}":           `native.silence is "5": the unit is missing; allowed is a duration from 1s`,
		"{silence: 0s}":          "no time at all",
		"{register: {on: true}}": "native.register is a section",
	} {
		_, err := LoadConfig(ConfigSources{File: writeConfig(t, "mqtt: {brokers: [{name: x, url: 'mqtt://broker.example', native: "+native+"}]}\n")})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gave %v, which should say %q", native, err, want)
		}
	}
}

// TestNativeOnJoinedBroker: a simulated board that is connected to a site's own broker is a device
// of the hub with all it has, and who subscribes at the hub's own broker sees it too.
func TestNativeOnJoinedBroker(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	loaded, err := LoadConfig(ConfigSources{File: writeConfig(t, "mqtt: {brokers: [{name: site, url: 'mqtt://"+b.Address+"', native: true}]}\n")})
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig(t.TempDir())
	c.MQTT.Brokers = loaded.Config.MQTT.Brokers
	h := serveApp(t, c, nil)
	h.add("esp01")
	reader := h.token("reader", signalbox.ScopeRead, time.Time{})
	heard := hear(t, h.addresses["mqtt"], "-u", "token", "-P", reader, "-q", "1", "-v", "-t", "signalbox/esp01/#")
	eventually(t, "the broker is joined", func() bool { return strings.HasPrefix(h.ready("mqtt broker site"), "connected") })

	board, err := sim.NewDevice(sim.DeviceConfig{
		Name: "esp01", Secret: "none of the hub's", Protocol: signalbox.ProtocolMQTT, QoS: 1, Addr: b.Address, Interval: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- board.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	d := h.devices.Find("esp01")
	eventually(t, "the board is online and has a reading", func() bool {
		v := d.View()
		return v.Presence == signalbox.Online && v.Protocol == signalbox.ProtocolMQTT && strings.Contains(string(d.LatestObject()), `"servo1"`)
	})
	value := "45"
	sent, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "servo1", Value: &value})
	if err != nil {
		t.Fatal(err)
	}
	wait, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if sent, err = h.commands.Wait(wait, sent.ID); err != nil || sent.State != signalbox.CommandSucceeded {
		t.Errorf("the command is %+v, %v", sent, err)
	}
	eventually(t, "subscribers of the hub's own broker see it", func() bool {
		text := heard.String()
		return strings.Contains(text, "signalbox/esp01/status online\n") && strings.Contains(text, `signalbox/esp01/telemetry {`)
	})
}
