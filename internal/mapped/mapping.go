package mapped

import (
	"time"
)

// Format says how a payload is read.
type Format string

// The formats. FormatJSON is taken where none is said.
const (
	FormatJSON     Format = "json"
	FormatNumber   Format = "number"
	FormatText     Format = "text"
	FormatValue    Format = "value"
	FormatPresence Format = "presence"
	// FormatNone keeps nothing: the topics are the device's, so that it may publish to them.
	FormatNone Format = "none"
)

// Limits of a configuration.
const (
	// DefaultSilence is how long a device is silent until it is offline.
	DefaultSilence = 5 * time.Minute
	// MinSilence is the shortest silence that ends a device's presence.
	MinSilence = time.Second
	// Never, or any other negative Silence, keeps a device online however long it is silent.
	Never = -1 * time.Second
	// MaxMappings bounds a configuration.
	MaxMappings = 10_000
)

// Mapping says what the messages of some topics mean. The zero values of all but Filter and
// Device, or Preset, are good.
type Mapping struct {
	// Preset stands for all mappings of that name (Presets); beside it only Root, Type, Register
	// and Silence have a meaning. A filter of it that an earlier mapping has is left out.
	Preset string `koanf:"preset" yaml:"preset,omitempty"`
	// Root stands in front of the topics of a preset, see PresetOptions.
	Root string `koanf:"root" yaml:"root,omitempty"`
	// Filter is an MQTT topic filter (5.0, 4.7) without $share. Of the mappings that match a
	// topic the first in the list takes its messages.
	Filter string `koanf:"filter" yaml:"filter,omitempty"`
	// Device is the device's name; {1} is what the filter's first wildcard stands for, and so on.
	Device string `koanf:"device" yaml:"device,omitempty"`
	// Type is that of the devices it makes; empty: sensor.
	Type string `koanf:"type" yaml:"type,omitempty"`
	// Field is the key under which the value is kept, dots included as they are; it may hold
	// {1}… It may be empty with the format json alone, where the payload is the telemetry.
	Field string `koanf:"field" yaml:"field,omitempty"`
	// Format says how the payload is read; empty: json.
	Format Format `koanf:"format" yaml:"format,omitempty"`
	// Online and Offline are the words of the format presence; empty: online and offline.
	Online  []string `koanf:"online" yaml:"online,omitempty"`
	Offline []string `koanf:"offline" yaml:"offline,omitempty"`
	// Silence is how long after a message of these topics the device is offline, if no other
	// message comes: 0 takes the default of Config, Never (any negative one) keeps it online until
	// a presence message says otherwise, else it is at least MinSilence. Of several mappings by
	// which one device came the one counts that lets it be silent longest.
	Silence time.Duration `koanf:"silence" yaml:"silence,omitempty"`
	// Register makes an unseen device pending; without it, unseen devices are unknown.
	Register bool `koanf:"register" yaml:"register,omitempty"`
	// Command says how commands go out; nil: the device hears none.
	Command *Template `koanf:"command" yaml:"command,omitempty"`
}

// Template says how a command is published. Placeholders: {device}, {command}, {value}, {id};
// {1}… what the wildcards of the filter stand for; {command.1}… the parts of a command's name
// between its dots, of which there must be as many as the template has; and in the payload
// {value.json}, the value as it is if it is JSON, else as a JSON string, null without one.
// Braces with anything but small letters, digits and dots between them are no placeholders.
type Template struct {
	Topic string `koanf:"topic" yaml:"topic"`
	// Payload may be empty.
	Payload string `koanf:"payload" yaml:"payload,omitempty"`
	QoS     uint8  `koanf:"qos" yaml:"qos,omitempty"` // 0 to 2
	Retain  bool   `koanf:"retain" yaml:"retain,omitempty"`
}
