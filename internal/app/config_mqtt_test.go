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

func TestBrokerFaults(t *testing.T) {
	const good = "name: x, url: 'mqtt://h', topics: [{filter: a, device: b}]"
	for yaml, want := range map[string]string{
		"x":                              "it is no list",
		"[site]":                         "broker 1 is no section with name and url",
		"[{nam: x}]":                     `mqtt.brokers: broker 1: there is no key "nam"; the nearest is "name"`,
		"[{" + good + ", zzzzzzzzz: 1}]": "a broker has backoff_max, backoff_min",
		"[{url: 'mqtt://h'}]":            "name of an MQTT broker",
		"[{name: [a]}]":                  "broker 1: name is a list",
		"[{name: x, url: 'mqtt://u:s3cret@h', topics: [{filter: a, device: b}]}]": `the broker "x": the url holds credentials`,
		"[{name: x, url: 'ftp://h', topics: [{filter: a, device: b}]}]":           `the broker "x": the url begins with "ftp"; allowed are mqtt`,
		"[{name: x, url: 'mqtt://h'}]":                                            `the broker "x": no topics`,
		"[{name: x, topics: y}]":                                                  `the broker "x": topics: it is no list`,
		"[{name: x, topics: [{filtr: y}]}]":                                       `the broker "x": topics: mapping 1: there is no key "filtr"`,
		"[{" + good + ", qos: 2}]":                                                `the broker "x": qos is "2": it is too large; allowed is 0 or 1`,
		"[{" + good + ", keep_alive: 5}]":                                         `keep_alive is "5": the unit is missing; allowed is a duration such as`,
		"[{" + good + ", keep_alive: 1s}]":                                        `the broker "x": keep_alive is 1s; allowed are 2s to`,
		"[{" + good + ", receive_maximum: 0}]":                                    `receive_maximum is "0": it is too small; allowed is a whole number from 1 to 16,384`,
		"[{" + good + ", max_packet: 4}]":                                         "allowed",
		"[{" + good + ", max_packet: many}]":                                      `max_packet is "many": `,
		"[{" + good + ", tls: true}]":                                             `tls is "true"; allowed is a section with ca, cert, key`,
		"[{" + good + ", tls: {crt: a}}]":                                         `no key "tls.crt"; the nearest is "tls.cert"`,
		"[{" + good + ", tls: {ca: [1]}}]":                                        "tls.ca is a list",
		"[{" + good + ", password: s3cret}]":                                      "a password without a username",
		"[{" + good + ", username: u, password_file: /nowhere/key}]":              "the password file cannot be read: /nowhere/key: ",
		"[{" + good + "}, {" + good + "}]":                                        `broker 2: there is one named "x" already; names are unique`,
	} {
		_, err := LoadConfig(ConfigSources{File: writeConfig(t, "mqtt: {brokers: "+yaml+"}\n")})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gave %v, which should say %q", yaml, err, want)
		}
		if err != nil && strings.Count(err.Error(), "allowed") > 1 {
			t.Errorf("%s says twice what is allowed: %v", yaml, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s shows the secret: %v", yaml, err)
		}
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
