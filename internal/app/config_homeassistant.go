package app

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"signalbox"
	"signalbox/internal/homeassistant"
)

// HomeAssistantConfig shows the devices in Home Assistant.
type HomeAssistantConfig struct {
	Enabled bool
	// Prefix is Home Assistant's discovery prefix.
	Prefix string
	// MaxFields bounds the fields of one device that are shown.
	MaxFields int
	// Entities say more of fields, by their names; nil for nothing.
	Entities map[string]homeassistant.Entity
}

func homeAssistantSettings() []setting {
	return []setting{
		truth("mqtt.homeassistant.enabled", func(c *Config) *bool { return &c.MQTT.HomeAssistant.Enabled }).
			means("Publishes MQTT discovery, so that Home Assistant, joined to this broker with a token, shows the devices."),
		text("mqtt.homeassistant.prefix", "the beginning of a topic", func(c *Config) *string { return &c.MQTT.HomeAssistant.Prefix }, func(s string) error {
			return (&homeassistant.Config{Prefix: s}).Check()
		}).
			means("Home Assistant's discovery prefix."),
		number("mqtt.homeassistant.max_fields", func(c *Config) *int { return &c.MQTT.HomeAssistant.MaxFields }, 1, 4096).
			means("How many fields of one device are shown."),
		entities("mqtt.homeassistant.entities", func(c *Config) *map[string]homeassistant.Entity { return &c.MQTT.HomeAssistant.Entities }).
			means("How fields are shown, by their names, whatever device they are of: component (sensor, binary_sensor, switch, number, text, button, hidden), name, class, unit, state_class, icon; on and off of a switch; min, max and step of a number. Without an entry a field is a sensor, or a binary_sensor if it is true or false."),
	}
}

// A fieldEntity is an entity as the list of the configuration has it.
type fieldEntity struct {
	Field                string `yaml:"field"`
	homeassistant.Entity `yaml:",inline"`
}

// entities is a setting of how fields are shown: a YAML list, or the same as one text.
func entities(key string, at func(*Config) *map[string]homeassistant.Entity) setting {
	const example = "[{field: temp, class: temperature, unit: °C}, {field: relay, component: switch}]"
	s := newSetting(key, "a list of fields, such as "+example, at, parseEntities, showEntities)
	s.allowedText = "the same YAML as in a file, such as " + example
	s.spell = func(value any) string {
		if text, ok := value.(string); ok {
			return fmt.Sprintf("%q", text)
		}
		return "(a list)"
	}
	return s
}

func parseEntities(value any) (map[string]homeassistant.Entity, error) {
	items, err := itemsOf(value)
	if err != nil || len(items) == 0 {
		return nil, err
	}
	all := make(map[string]homeassistant.Entity, len(items))
	for i, item := range items {
		fields, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("entity %d is no section with field and component", i+1)
		}
		e, err := parseEntity(fields)
		if err != nil {
			return nil, fmt.Errorf("entity %d: %w", i+1, err)
		}
		if _, twice := all[e.Field]; twice {
			return nil, fmt.Errorf("entity %d: there is one of the field %q already", i+1, e.Field)
		}
		all[e.Field] = e.Entity
	}
	return all, (&homeassistant.Config{Entities: all}).Check()
}

func parseEntity(fields map[string]any) (e fieldEntity, err error) {
	texts := map[string]*string{
		"field": &e.Field, "component": &e.Component, "name": &e.Name, "class": &e.Class, "unit": &e.Unit, "state_class": &e.StateClass,
		"icon": &e.Icon, "on": &e.On, "off": &e.Off,
	}
	numbers := map[string]**float64{"min": &e.Min, "max": &e.Max, "step": &e.Step}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		s, err := scalar(fields[key])
		switch {
		case texts[key] == nil && numbers[key] == nil:
			known := append(slices.Sorted(maps.Keys(texts)), slices.Sorted(maps.Keys(numbers))...)
			return e, fmt.Errorf("there is no key %q; an entity has %s", key, strings.Join(known, ", "))
		case err != nil:
			return e, fmt.Errorf("%s is wrong: %w", key, err)
		case texts[key] != nil:
			*texts[key] = s
		default:
			n, err := strconv.ParseFloat(s, 64)
			if err != nil || n-n != 0 { // infinite, or none
				return e, fmt.Errorf("%s = %q is wrong: it is no number", key, s)
			}
			*numbers[key] = &n
		}
	}
	if e.Field == "" {
		return e, errors.New("field is missing: the name of a field of telemetry, with dots for nesting")
	}
	return e, signalbox.CheckField("field", e.Field)
}

// showEntities writes entities as one line of YAML, sorted by field.
func showEntities(all map[string]homeassistant.Entity) string {
	if len(all) == 0 {
		return "[]"
	}
	list := make([]fieldEntity, 0, len(all))
	for _, field := range slices.Sorted(maps.Keys(all)) {
		list = append(list, fieldEntity{field, all[field]})
	}
	var node yaml.Node
	if err := node.Encode(list); err != nil {
		return "[]" // a list of plain values can always be written
	}
	flow(&node)
	text, err := yaml.Marshal(&node)
	if err != nil {
		return "[]"
	}
	return strings.Join(strings.Fields(string(text)), " ")
}
