package homeassistant

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"signalbox"
)

// field is one place in a device's telemetry object.
type field struct {
	name string   // with dots
	path []string // the keys
	kind gjson.Type
}

// reserved keys of the device protocol are no readings.
func reserved(path []string) bool {
	if len(path) > 1 {
		return false
	}
	switch path[0] {
	case "type", "seq", "ts", "v", "boot":
		return true
	default:
		return false
	}
}

// fields gives those of an object that can be shown: numbers, texts and truths, in the order
// of the text.
func fields(object gjson.Result, prefix []string, yield func(f field) bool) bool {
	more := true
	object.ForEach(func(key, value gjson.Result) bool {
		path := slices.Concat(prefix, []string{key.Str})
		switch {
		case value.IsObject():
			more = fields(value, path, yield)
		case value.Type == gjson.Null, value.IsArray(), reserved(path):
		default:
			more = yield(field{strings.Join(path, "."), path, value.Type})
		}
		return more
	})
	return more
}

// component is what the field is shown as.
func (f *field) component(e Entity) string {
	switch {
	case e.Component != "":
		return e.Component
	case f.kind == gjson.True || f.kind == gjson.False:
		return "binary_sensor"
	default:
		return "sensor"
	}
}

// template is the Jinja expression that finds the field in the telemetry; without it there,
// as a device need not report everything at once, it is what without says. JSON's spelling of a text is one
// that Jinja reads.
func (f *field) template(without string) string {
	at := "value_json"
	for i, key := range f.path {
		quoted, _ := json.Marshal(key) // a string always encodes
		if i > 0 {
			at = "(" + at + " | default({}))"
		}
		at += "[" + string(quoted) + "]"
	}
	if f.name == "value" { // an MQTT device may have sent a bare number
		at = "(" + at + " if value_json is mapping else value_json)"
	}
	return at + " | default(" + without + ")"
}

// Home Assistant passes over an empty state, but where the state is a text.
const (
	nothing = `""`
	asItWas = "this.state"
)

// object is an identifier for topics, which allow [a-zA-Z0-9_-] there: the text, if it is
// made of these, else what it has of them and a hash.
func object(text string) string {
	kept := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-':
			return r
		default:
			return -1
		}
	}, text)
	if kept == text && text != "" && len(text) <= 48 {
		return text
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(text)) // a hash takes everything
	return fmt.Sprintf("%.40s_%08x", kept, h.Sum32())
}

// Topics of a device.
func telemetryTopic(device string) string { return "signalbox/" + device + "/telemetry" }
func commandTopic(device string) string   { return "signalbox/" + device + "/command" }
func presenceTopic(device string) string  { return "signalbox/" + device + "/presence" }

// topic is where the field's discovery is published.
func (c *Config) topic(component string, id signalbox.DeviceID, fieldName string) string {
	return c.Prefix + "/" + component + "/signalbox_" + strconv.FormatUint(uint64(id), 10) + "/" + object(fieldName) + "/config"
}

// discovery is the body that Home Assistant reads.
type discovery struct {
	Name              string   `json:"name"`
	UniqueID          string   `json:"unique_id"`
	ObjectID          string   `json:"object_id"`
	StateTopic        string   `json:"state_topic,omitempty"`
	ValueTemplate     string   `json:"value_template,omitempty"`
	AvailabilityTopic string   `json:"availability_topic"`
	Class             string   `json:"device_class,omitempty"`
	Unit              string   `json:"unit_of_measurement,omitempty"`
	StateClass        string   `json:"state_class,omitempty"`
	Icon              string   `json:"icon,omitempty"`
	CommandTopic      string   `json:"command_topic,omitempty"`
	CommandTemplate   string   `json:"command_template,omitempty"`
	PayloadOn         string   `json:"payload_on,omitempty"`
	PayloadOff        string   `json:"payload_off,omitempty"`
	StateOn           string   `json:"state_on,omitempty"`
	StateOff          string   `json:"state_off,omitempty"`
	PayloadPress      string   `json:"payload_press,omitempty"`
	Min               *float64 `json:"min,omitempty"`
	Max               *float64 `json:"max,omitempty"`
	Step              *float64 `json:"step,omitempty"`
	QoS               int      `json:"qos"`
	Device            about    `json:"device"`
	Origin            origin   `json:"origin"`
}

type about struct {
	Identifiers []string `json:"identifiers"`
	Name        string   `json:"name"`
	Model       string   `json:"model,omitempty"`
}

type origin struct {
	Name    string `json:"name"`
	Version string `json:"sw_version,omitempty"`
}

// describe makes the discovery of a field of a device.
func (c *Config) describe(id signalbox.DeviceID, device, kind string, f *field) (topic string, body []byte, err error) {
	e := c.Entities[f.name]
	component := f.component(e)
	unique := "signalbox_" + strconv.FormatUint(uint64(id), 10) + "_" + object(f.name)
	d := discovery{
		Name: e.Name, UniqueID: unique, ObjectID: object(device) + "_" + object(f.name),
		StateTopic: telemetryTopic(device), ValueTemplate: "{{ " + f.template(nothing) + " }}", AvailabilityTopic: presenceTopic(device),
		Class: e.Class, Unit: e.Unit, StateClass: e.StateClass, Icon: e.Icon,
		QoS:    1,
		Device: about{[]string{"signalbox_" + strconv.FormatUint(uint64(id), 10)}, device, kind},
		Origin: origin{"Signalbox", c.Version},
	}
	if d.Name == "" {
		d.Name = f.name
	}
	word, truth := `{{ `+f.template(nothing)+` | string | lower }}`, f.kind == gjson.True || f.kind == gjson.False
	on, off := orElse(e.On, "true"), orElse(e.Off, "false")
	switch component {
	case "sensor":
		if d.StateClass == "" && f.kind == gjson.Number {
			d.StateClass = "measurement"
		}
		if d.StateClass == "" && d.Unit == "" {
			d.ValueTemplate = "{{ " + f.template(asItWas) + " }}"
		}
	case "binary_sensor":
		d.PayloadOn, d.PayloadOff = on, off
		if truth {
			d.ValueTemplate = word // Jinja spells truths True and False
		}
	case "switch":
		d.CommandTopic = commandTopic(device)
		d.PayloadOn, d.PayloadOff = command(f.name, &on), command(f.name, &off)
		d.StateOn, d.StateOff = on, off
		if truth {
			d.ValueTemplate = word
		}
	case "number":
		d.CommandTopic, d.CommandTemplate = commandTopic(device), commandTemplate(f.name)
		d.Min, d.Max, d.Step = e.Min, e.Max, e.Step
	case "text":
		d.ValueTemplate = "{{ " + f.template(asItWas) + " }}"
		d.CommandTopic, d.CommandTemplate = commandTopic(device), commandTemplate(f.name)
	case "button":
		d.StateTopic, d.ValueTemplate = "", ""
		d.CommandTopic, d.PayloadPress = commandTopic(device), command(f.name, nil)
	}
	body, err = json.Marshal(d)
	if err != nil {
		return "", nil, fmt.Errorf("encode the discovery of %s of %s: %w", f.name, device, err)
	}
	return c.topic(component, id, f.name), body, nil
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// command is the body that Home Assistant publishes to have a command sent; value nil for
// none.
func command(name string, value *string) string {
	b, _ := json.Marshal(struct { // texts always encode
		Command string  `json:"command"`
		Value   *string `json:"value,omitempty"`
	}{name, value})
	return string(b)
}

// commandTemplate is command with what a person chose for the value.
func commandTemplate(name string) string {
	quoted, _ := json.Marshal(name) // a string always encodes
	return `{"command":` + string(quoted) + `,"value":{{ value | string | tojson }}}`
}
