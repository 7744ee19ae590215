package mapped

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// PresetOptions change the mappings of a preset; zero values leave them as they are.
type PresetOptions struct {
	// Root stands in front of the topics, as some installations have it: «garden» makes
	// garden/tele/+/SENSOR of tele/+/SENSOR. For homie it takes the place of the word homie.
	Root string
	// Type is that of devices, Register makes unseen ones pending.
	Type     string
	Register bool
	// Silence replaces the preset's.
	Silence time.Duration
}

// PresetThingsBoard is the preset that is a Dialect: it has no mappings.
const PresetThingsBoard = "thingsboard"

// tasmotaSilence is three times the 300 s after which such devices report (TelePeriod): their
// will tells sooner when they go.
const tasmotaSilence = 15 * time.Minute

// Presets gives the names of the presets.
func Presets() []string { return []string{"homie", "tasmota", PresetThingsBoard} }

// Preset gives the mappings of the preset of that name, none for the one that is a Dialect.
func Preset(name string, o PresetOptions) ([]Mapping, error) {
	var list []Mapping
	switch name {
	case "tasmota":
		list = tasmota(o.Root)
	case "homie":
		list = homie(o.Root)
	case PresetThingsBoard:
		if o.Root != "" {
			return nil, invalid("the preset %s has fixed topics; root has no meaning with it", name)
		}
		return nil, nil
	default:
		return nil, invalid("there is no preset %q; allowed are %s", name, strings.Join(Presets(), ", "))
	}
	for i := range list {
		m := &list[i]
		m.Register = o.Register
		if o.Type != "" {
			m.Type = o.Type
		}
		if o.Silence != 0 {
			m.Silence = o.Silence
		}
	}
	if err := Check(list); err != nil {
		return nil, err
	}
	return slices.Clip(list), nil
}

// expand gives the mappings that m stands for: itself, or those of its preset.
func (m *Mapping) expand() ([]Mapping, error) {
	if m.Preset == "" {
		if m.Root != "" {
			return nil, invalid("the root %q has a meaning with a preset alone", m.Root)
		}
		return []Mapping{*m}, nil
	}
	plain := Mapping{Preset: m.Preset, Root: m.Root, Type: m.Type, Register: m.Register, Silence: m.Silence}
	if !reflect.DeepEqual(*m, plain) {
		return nil, invalid("beside the preset %s only root, type, register and silence are allowed", m.Preset)
	}
	return Preset(m.Preset, PresetOptions{Root: m.Root, Type: m.Type, Register: m.Register, Silence: m.Silence})
}

// tasmota is https://tasmota.github.io/docs/MQTT/ with the default topics, %prefix%/%topic%/.
func tasmota(root string) []Mapping {
	if root != "" {
		root += "/"
	}
	command := &Template{Topic: root + "cmnd/{device}/{command}", Payload: "{value}"}
	list := []Mapping{
		{Filter: root + "tele/+/SENSOR"},
		{Filter: root + "tele/+/STATE"},
		{Filter: root + "stat/+/RESULT"},
		{Filter: root + "tele/+/LWT", Format: FormatPresence, Online: []string{"Online"}, Offline: []string{"Offline"}},
		// What else it says is in these too, or of no interest.
		{Filter: root + "tele/+/#", Format: FormatNone},
		{Filter: root + "stat/+/#", Format: FormatNone},
	}
	for i := range list {
		list[i].Device, list[i].Silence, list[i].Command = "{1}", tasmotaSilence, command
	}
	return list
}

// homie is the Homie convention 3 and 4 (https://homieiot.github.io): homie/device/node/property.
// Its attributes, which begin with $, are not kept, but for the state.
func homie(root string) []Mapping {
	if root == "" {
		root = "homie"
	}
	list := []Mapping{{
		Filter: root + "/+/$state", Format: FormatPresence,
		Online: []string{"ready", "sleeping", "alert"}, Offline: []string{"disconnected", "lost", "init"},
	}}
	for _, attribute := range []string{"$fw/+", "$implementation/+", "$stats/+", "+/$name", "+/$type", "+/$properties", "+/$array"} {
		list = append(list, Mapping{Filter: root + "/+/" + attribute, Format: FormatNone})
	}
	list = append(list,
		Mapping{Filter: root + "/+/+/+", Field: "{2}.{3}", Format: FormatValue},
		Mapping{Filter: root + "/+/#", Format: FormatNone})
	command := &Template{Topic: root + "/{device}/{command.1}/{command.2}/set", Payload: "{value}", QoS: 1}
	for i := range list {
		list[i].Device, list[i].Silence, list[i].Command = "{1}", Never, command
	}
	return list
}
