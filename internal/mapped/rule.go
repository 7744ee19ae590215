package mapped

import (
	"cmp"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"signalbox"
)

// maxTopic is the longest topic and filter, in bytes (5.0, 4.7.3).
const maxTopic = 65535

// defaultType is the type of devices that mappings make.
const defaultType = "sensor"

// rule is a mapping that was found good.
type rule struct {
	Mapping
	given     Mapping // before anything was filled in
	order     int     // in the list
	wildcards int
	device    *pattern
	field     *fieldPattern // nil: the payload is the object
	command   *template     // nil: none

	complained atomic.Int64 // when a wrong payload was last told of, Unix s
}

// newRule checks a mapping; order is its place in the list.
func newRule(m *Mapping, order int, silence time.Duration) (*rule, error) {
	r := &rule{Mapping: *m, given: *m, order: order}
	var err error
	if r.wildcards, err = checkFilter(m.Filter); err != nil {
		return nil, err
	}
	if err := r.checkDevice(); err != nil {
		return nil, err
	}
	if err := r.checkFormat(); err != nil {
		return nil, err
	}
	if r.field, err = newFieldPattern(m.Field, r.wildcards); err != nil {
		return nil, err
	}
	if r.Silence == 0 {
		r.Silence = silence
	}
	if r.Silence > 0 && r.Silence < MinSilence {
		return nil, invalid("the silence %s is too short; allowed is at least %s, or never", r.Silence, MinSilence)
	}
	if m.Command != nil {
		if r.command, err = newTemplate(m.Command, r.wildcards); err != nil {
			return nil, err
		}
		// A # means to match much; the hub's own messages are not taken anyway.
		if r.Format != FormatNone && !strings.HasSuffix(r.Filter, "#") && r.command.within(r.Filter) {
			return nil, invalid("the command's topic %q is one that the mapping's own filter matches, so that a command would be taken for a message of the device; allowed is a topic beside the filter", m.Command.Topic)
		}
	}
	return r, nil
}

// checkFilter gives the number of a filter's wildcards (5.0, 4.7.1).
func checkFilter(filter string) (wildcards int, err error) {
	first, _, _ := strings.Cut(filter, "/")
	switch {
	case filter == "":
		return 0, invalid("a filter is missing: allowed is a topic, in which + stands for one level and # at the end for all that follow")
	case len(filter) > maxTopic || !utf8.ValidString(filter) || strings.ContainsRune(filter, 0):
		return 0, invalid("the filter %.40q has a NUL, is not valid UTF-8 or has more than %d bytes", filter, maxTopic)
	case first == "$share":
		return 0, invalid("the filter %q is that of a shared subscription; a mapping needs the topic's filter alone", filter)
	case first == nativeRoot:
		return 0, invalid("the filter %q is of the hub's own topics, which need no mapping", filter)
	}
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case level == "#" && more:
			return 0, invalid("the filter %q has # before its end; allowed is # as the last level", filter) // [MQTT-4.7.1-1]
		case level == "#" || level == "+":
			wildcards++
		case strings.ContainsAny(level, "#+"):
			return 0, invalid("the filter %q has a wildcard beside other characters; allowed are + and # as whole levels", filter) // [MQTT-4.7.1-2]
		}
	}
	if wildcards > maxWildcards {
		return 0, invalid("the filter %.40q has %d wildcards; at most %d are allowed", filter, wildcards, maxWildcards)
	}
	return wildcards, nil
}

func (r *rule) checkDevice() error {
	if r.Device == "" {
		return invalid("a device's name is missing; allowed is a name, in which {1} is what the filter's first wildcard stands for")
	}
	var err error
	if r.device, err = parsePattern("device name", r.Device, r.wildcards); err != nil {
		return err
	}
	if r.Type = cmp.Or(r.Type, defaultType); r.device.fixed() {
		if err := signalbox.CheckName("device name", r.Device); err != nil {
			return err
		}
		if r.Register {
			return invalid("the device %q has a name without wildcards, so it is made at the start; register is for devices that wildcards name", r.Device)
		}
	} else {
		for _, p := range r.device.parts {
			if p.text == "" {
				continue
			}
			if err := signalbox.CheckName("device name", p.text+"x"); err != nil {
				return err
			}
		}
		if strings.HasSuffix(r.Filter, "#") && r.device.names(r.wildcards) {
			return invalid("the device name %q has {%d}, which is the filter's #; that stands for several levels and can name no device", r.Device, r.wildcards)
		}
	}
	return signalbox.CheckName("device type", r.Type)
}

func (r *rule) checkFormat() error {
	r.Format = cmp.Or(r.Format, FormatJSON)
	switch r.Format {
	case FormatJSON:
	case FormatNone:
		if r.Field != "" {
			return invalid("the field %q has no meaning with the format none", r.Field)
		}
	case FormatNumber, FormatText, FormatValue:
		if r.Field == "" {
			return invalid("a field is missing: the format %s needs one to put the value under", r.Format)
		}
	case FormatPresence:
		if r.Field != "" {
			return invalid("the field %q has no meaning with the format presence", r.Field)
		}
		if len(r.Online) == 0 {
			r.Online = []string{string(signalbox.Online)}
		}
		if len(r.Offline) == 0 {
			r.Offline = []string{string(signalbox.Offline)}
		}
		for _, word := range r.Online {
			if slices.Contains(r.Offline, word) {
				return invalid("the word %q means both online and offline", word)
			}
		}
		return nil
	default:
		return invalid("the format %q is unknown; allowed are json, number, text, value, presence and none", r.Format)
	}
	if len(r.Online)+len(r.Offline) > 0 {
		return invalid("words for online and offline have a meaning with the format presence alone, not with %s", r.Format)
	}
	return nil
}

// presence gives what a payload of the format presence says.
func (r *rule) presence(payload []byte) (signalbox.Presence, bool) {
	word := string(trim(payload))
	switch {
	case slices.Contains(r.Online, word):
		return signalbox.Online, true
	case slices.Contains(r.Offline, word):
		return signalbox.Offline, true
	default:
		return "", false
	}
}
