package app

import (
	"strings"
	"testing"
	"time"

	"signalbox/internal/mapped"
)

func TestMQTTSettings(t *testing.T) {
	loaded, err := LoadConfig(ConfigSources{File: writeConfig(t, `
mqtt:
  listen: off
  anonymous: ["Environ/#", outTopic]
  topics:
    - {filter: Environ/Temperature, device: env01, field: temp, format: number, silence: 1d}
    - filter: sensors/+/state
      device: "{1}"
      register: true
      silence: never
      command: {topic: "cmnd/{device}/{command}", payload: "{value}", qos: 1}
    - {preset: tasmota}
  homeassistant:
    enabled: true
    entities:
      - {field: temp, name: Air, class: temperature, unit: °C}
      - {field: servo1, component: number, min: 0, max: 180}
  brokers:
    - {name: site, url: "mqtts://broker.example", username: hub, password: secret, keep_alive: 1m, topics: [{filter: a, device: b}]}
`)})
	if err != nil {
		t.Fatal(err)
	}
	c := loaded.Config.MQTT
	if c.Listen != "" || len(c.Anonymous) != 2 || len(c.Topics) != 3 || len(c.Brokers) != 1 {
		t.Fatalf("read as %+v", c)
	}
	if m := c.Topics[0]; m.Filter != "Environ/Temperature" || m.Format != mapped.FormatNumber || m.Silence != day {
		t.Errorf("the first mapping is %+v", m)
	}
	if m := c.Topics[1]; !m.Register || m.Silence != mapped.Never || m.Command == nil || m.Command.QoS != 1 {
		t.Errorf("the second mapping is %+v", m)
	}
	if b := c.Brokers[0]; b.QoS != 1 || b.KeepAlive != time.Minute || b.Password != "secret" || len(b.Topics) != 1 {
		t.Errorf("the broker is %+v", b)
	}
	if h := c.HomeAssistant; !h.Enabled || h.Prefix != "homeassistant" || h.Entities["temp"].Unit != "°C" || *h.Entities["servo1"].Max != 180 {
		t.Errorf("Home Assistant is %+v", h)
	}
	changed := strings.Join(loaded.Config.Changed(), "\n")
	if strings.Contains(changed, "secret") || !strings.Contains(changed, "silence: 1d") || !strings.Contains(changed, "silence: never") ||
		!strings.Contains(changed, "[{field: servo1, component: number, min: 0, max: 180}, {field: temp, name: Air, class: temperature, unit: °C}]") {
		t.Errorf("it is shown as %s", changed)
	}
}

func TestMQTTFaults(t *testing.T) {
	for yaml, want := range map[string]string{
		"topics: x":                                               "it is no list",
		"topics: [{filter: a}]":                                   "device",
		"topics: [{filtr: a, device: b}]":                         `no key "filtr"`,
		"topics: [{filter: a, device: b, silence: 5}]":            "unit is missing",
		"topics: [{filter: 'a/#/b', device: b}]":                  "#",
		"anonymous: ['signalbox/#']":                              "hub's own topics",
		"anonymous: ['']":                                         "empty",
		"topics: [{preset: homie}, {preset: homie}]":              "already",
		"limits: {max_packet: 4KiB, connect_bytes: 8KiB}":         "before the login",
		"anonymous: ['a#']":                                       "#",
		"brokers: [{nam: x}]":                                     `no key "nam"`,
		"brokers: [{name: x, qos: 2}]":                            "qos",
		"homeassistant: true":                                     "is a section",
		"homeassistant: {prefix: 'a/+'}":                          "discovery prefix",
		"homeassistant: {entities: [{name: x}]}":                  "field is missing",
		"homeassistant: {entities: [{field: x, unti: y}]}":        `no key "unti"`,
		"homeassistant: {entities: [{field: x}, {field: x}]}":     "already",
		"homeassistant: {entities: [{field: x, min: a}]}":         "no number",
		"homeassistant: {entities: [{field: x, component: fan}]}": "allowed are sensor",
		"listen: nowhere":                                         "host:port",
		"tls: {cert: a.pem}":                                      "belong together",
		"limits: {outbox: 16KiB}":                                 "smaller than a packet",
	} {
		_, err := LoadConfig(ConfigSources{File: writeConfig(t, "mqtt: {"+yaml+"}\n")})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gave %v, which should say %q", yaml, err, want)
		}
	}
}
