package homeassistant

import (
	"log/slog"
	"slices"
	"strings"

	"signalbox"
)

// Defaults.
const (
	DefaultPrefix    = "homeassistant"
	DefaultMaxFields = 64
)

// Config says how devices are shown. Zero values take the defaults.
type Config struct {
	// Prefix is Home Assistant's discovery prefix (default homeassistant).
	Prefix string
	// Entities say more of fields, by the field's name with dots for nesting.
	Entities map[string]Entity
	// MaxFields bounds the fields of one device that are shown (default 64).
	MaxFields int
	// Version is the hub's.
	Version string
	Logger  *slog.Logger
}

// Entity says how a field is shown. The zero value: as a sensor or binary_sensor.
type Entity struct {
	// Component is one of sensor, binary_sensor, switch, number, text, button, or hidden.
	Component string `yaml:"component,omitempty"`
	// Name is what people read (default: the field's name).
	Name string `yaml:"name,omitempty"`
	// Class, Unit and StateClass are device_class, unit_of_measurement and state_class of Home
	// Assistant, which knows what is allowed.
	Class      string `yaml:"class,omitempty"`
	Unit       string `yaml:"unit,omitempty"`
	StateClass string `yaml:"state_class,omitempty"`
	// Icon is one of Material Design, such as mdi:fan.
	Icon string `yaml:"icon,omitempty"`
	// On and Off are the values of a switch (default true and false).
	On  string `yaml:"on,omitempty"`
	Off string `yaml:"off,omitempty"`
	// Min, Max and Step bound a number; Home Assistant has 1, 100 and 1 without.
	Min  *float64 `yaml:"min,omitempty"`
	Max  *float64 `yaml:"max,omitempty"`
	Step *float64 `yaml:"step,omitempty"`
}

func components() []string {
	return []string{"sensor", "binary_sensor", "switch", "number", "text", "button", "hidden"}
}

// Check tells what is wrong with the configuration.
func (c *Config) Check() error {
	if strings.ContainsAny(c.Prefix, "+#\x00") || strings.HasPrefix(c.Prefix, "$") || strings.HasPrefix(c.Prefix, "signalbox/") || strings.HasSuffix(c.Prefix, "/") {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_prefix",
			"the discovery prefix %q cannot begin topics: it must hold neither + nor # and not begin with $ or signalbox/, nor end with /", c.Prefix)
	}
	for field, e := range c.Entities {
		if e.Component != "" && !slices.Contains(components(), e.Component) {
			return signalbox.Errorf(signalbox.KindInvalid, "invalid_component", "the field %s has the component %q; allowed are %s", field, e.Component, strings.Join(components(), ", "))
		}
		if e.Min != nil && e.Max != nil && *e.Min >= *e.Max {
			return signalbox.Errorf(signalbox.KindInvalid, "invalid_range", "the field %s has min %g, which is not below max %g", field, *e.Min, *e.Max)
		}
		if e.Step != nil && *e.Step <= 0 {
			return signalbox.Errorf(signalbox.KindInvalid, "invalid_step", "the field %s has step %g; it must be greater than 0", field, *e.Step)
		}
	}
	return nil
}

func (c *Config) defaults() {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.MaxFields <= 0 {
		c.MaxFields = DefaultMaxFields
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}
