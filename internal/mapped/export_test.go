package mapped

import "time"

// AppendNumber is appendNumber.
func AppendNumber(b, payload []byte) ([]byte, error) { return appendNumber(b, payload) }

// Sweep looks for devices that are silent at a time.
func (m *Map) Sweep(at time.Time) { m.sweep(nil, at.UnixMicro()) }

// Find gives the number, from 1, of the mapping that has the topic, and what its wildcards stand
// for; 0 without one.
func (m *Map) Find(topic string) (number int, wildcards []string) {
	var c captures
	r := m.index.find(topic, &c)
	if r == nil {
		return 0, nil
	}
	for n := range c.n {
		wildcards = append(wildcards, c.of(topic, n+1))
	}
	return r.order + 1, wildcards
}

// Fill fills a template.
func Fill(t Template, device, command string, value *string, wildcards ...string) (topic, payload string, err error) {
	c, err := newTemplate(&t, len(wildcards))
	if err != nil {
		return "", "", err
	}
	topic, b, err := c.fill(&filling{device: device, command: command, id: "0123", value: value, wildcards: append([]string{""}, wildcards...)})
	return topic, string(b), err
}
