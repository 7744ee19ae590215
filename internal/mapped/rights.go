package mapped

import (
	"slices"
	"strings"
)

// CommandTopics gives the topics on which commands go to the device of that name, as filters: a
// level that differs from command to command is +. None: its mappings have no template.
func (m *Map) CommandTopics(device string) []string {
	var topics []string
	m.eachCommandTopic(device, func(levels []string, _ int) bool {
		topics = append(topics, strings.Join(levels, "/"))
		return true
	})
	return topics
}

// Hears reports whether the device of that name may subscribe to the filter (without $share):
// it is a topic of its commands, or in the part of the tree that such topics have for the device
// alone. With cmnd/{device}/{command} lamp1 may subscribe to cmnd/lamp1/#.
func (m *Map) Hears(device, filter string) bool {
	asked := strings.Split(filter, "/")
	found := false
	m.eachCommandTopic(device, func(levels []string, own int) bool {
		found = within(asked, levels, own)
		return !found
	})
	return found
}

// within reports whether all that the filter asked matches is the device's: own levels in front
// are the device's alone, 0 for none.
func within(asked, levels []string, own int) bool {
	for i, level := range levels {
		switch {
		case own > 0 && i == own:
			return true
		case i >= len(asked) || asked[i] == "#":
			return false
		case asked[i] != level && level != "+":
			return false
		}
	}
	return len(asked) == len(levels) || own == len(levels)
}

// What stands in a topic for text that is not known yet, and for text that is the device's.
const (
	markUnknown = "\x00"
	markOwn     = "\x01"
)

// eachCommandTopic calls yield with the levels of each topic of the device's commands, and how
// many of them in front are nobody else's: those up to one that names the device.
func (m *Map) eachCommandTopic(device string, yield func(levels []string, own int) bool) {
	for _, r := range m.commanded[device] {
		if levels, own := r.command.levels(device, make([]string, r.wildcards+1)); !yield(levels, own) {
			return
		}
	}
	for _, r := range m.templated {
		captured := make([]string, r.wildcards+1)
		if n, capture, ok := r.device.invert(device); ok {
			captured[n] = capture
		} else if !m.came(device, r, captured) {
			continue
		}
		if levels, own := r.command.levels(device, captured); !yield(levels, own) {
			return
		}
	}
}

// came fills captured with what the wildcards stood for when the device's latest message came by
// r; false when it did not.
func (m *Map) came(device string, r *rule, captured []string) bool {
	d := m.parts.Devices.Find(device)
	if d == nil {
		return false
	}
	p := m.seats.find(d)
	if p == nil {
		return false
	}
	w := p.way.Load()
	if w == nil || w.rule != r {
		return false
	}
	copy(captured, w.wildcards)
	return true
}

// levels gives the levels of the template's topic, those that are not certain as +.
func (c *template) levels(device string, captured []string) (levels []string, own int) {
	var b strings.Builder
	for _, p := range c.topic {
		switch {
		case p.what == literal:
			b.WriteString(p.text)
		case p.what == theDevice:
			b.WriteString(markOwn + device)
		case p.what == theWildcard && captured[p.n] != "":
			b.WriteString(markOwn + captured[p.n])
		default:
			b.WriteString(markUnknown)
		}
	}
	levels = strings.Split(b.String(), "/")
	certain := true
	for i, level := range levels {
		switch {
		case strings.Contains(level, markUnknown):
			levels[i] = "+"
			certain = false
		case strings.Contains(level, markOwn):
			levels[i] = strings.ReplaceAll(level, markOwn, "")
			if certain {
				own = i + 1
			}
		}
	}
	return levels, own
}

// Subscriptions gives the filters by which a client of another broker hears what the mappings
// keep, none of them within another: a broker may send a message once for each filter that
// matches it (5.0, 3.3.4).
func Subscriptions(list []Mapping) ([]string, error) {
	all, err := Expand(list)
	if err != nil {
		return nil, err
	}
	var filters []string
	for i := range all {
		if all[i].Format == FormatNone {
			continue
		}
		filter := all[i].Filter
		if Covered(filters, filter) {
			continue
		}
		filters = append(slices.DeleteFunc(filters, func(have string) bool { return covers(filter, have) }), filter)
	}
	return filters, nil
}

// Covered reports whether one of the filters matches every topic that filter does.
func Covered(filters []string, filter string) bool {
	return slices.ContainsFunc(filters, func(have string) bool { return covers(have, filter) })
}

// covers reports whether wide matches every topic that narrow does.
func covers(wide, narrow string) bool {
	if narrow[0] == '$' && (wide[0] == '+' || wide[0] == '#') {
		return false // [MQTT-4.7.2-1]
	}
	w, n := strings.Split(wide, "/"), strings.Split(narrow, "/")
	for i, level := range w {
		switch {
		case level == "#":
			return true
		case i >= len(n) || n[i] == "#":
			return false
		case level != "+" && level != n[i]:
			return false
		}
	}
	return len(w) == len(n)
}
