package app

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"signalbox/internal/mapped"
	"signalbox/internal/remote"
)

// brokers is a setting of other brokers that the hub joins: a YAML list, or the same as one text.
func brokers(key string, at func(*Config) *[]remote.Config) setting {
	const example = "[{name: site, url: 'mqtts://broker.example:8883', topics: [{filter: Environ/Temperature, device: env01, field: temp, format: number}]}]"
	s := newSetting(key, "a list of brokers, such as "+example, at, parseBrokers, showBrokers)
	s.allowedText = "the same YAML as in a file, such as " + example
	s.spell = func(any) string { return "(a list)" } // there may be a password in it
	return s
}

// showBrokers names the brokers; what they are joined with may be secret.
func showBrokers(all []remote.Config) string {
	texts := make([]string, len(all))
	for i := range all {
		texts[i] = fmt.Sprintf("{name: %s, url: %q, …}", all[i].Name, all[i].URL)
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

func parseBrokers(value any) ([]remote.Config, error) {
	items, err := itemsOf(value)
	if err != nil || len(items) == 0 {
		return nil, err
	}
	all := make([]remote.Config, 0, len(items))
	names := make(map[string]bool)
	for i, item := range items {
		fields, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("broker %d is no section with name and url", i+1)
		}
		c, err := parseBroker(fields)
		if err != nil {
			return nil, fmt.Errorf("broker %d: %w", i+1, err)
		}
		if names[c.Name] {
			return nil, fmt.Errorf("broker %d: there is one named %q already", i+1, c.Name)
		}
		names[c.Name] = true
		all = append(all, c)
	}
	return all, nil
}

// itemsOf gives the items of a YAML list, which may be written as one text.
func itemsOf(value any) ([]any, error) {
	text, ok := value.(string)
	if ok {
		if strings.TrimSpace(text) == "" {
			return nil, nil
		}
		var node yaml.Node
		if err := yaml.Unmarshal([]byte(text), &node); err != nil || len(node.Content) == 0 {
			return nil, errors.New("it is no YAML list")
		}
		value = spelled(node.Content[0])
	}
	if value == nil {
		return nil, nil
	}
	items, ok := value.([]any)
	if !ok {
		return nil, errors.New("it is no list")
	}
	return items, nil
}

// parseBroker reads one broker.
func parseBroker(fields map[string]any) (c remote.Config, err error) {
	c.QoS = 1
	texts := map[string]*string{
		"name": &c.Name, "url": &c.URL, "version": (*string)(&c.Version), "client_id": &c.ClientID, "username": &c.Username,
		"password": &c.Password, "password_file": &c.PasswordFile, "shared": &c.Shared,
	}
	durations := map[string]*time.Duration{
		"keep_alive": &c.KeepAlive, "session_expiry": &c.SessionExpiry, "connect_timeout": &c.ConnectTimeout,
		"backoff_min": &c.BackoffMin, "backoff_max": &c.BackoffMax,
	}
	known := slices.Sorted(maps.Keys(texts))
	known = append(append(known, slices.Sorted(maps.Keys(durations))...), "qos", "receive_maximum", "max_packet", "tls", "topics", "native")
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		value := fields[key]
		switch {
		case texts[key] != nil:
			*texts[key], err = scalar(value)
		case durations[key] != nil:
			*durations[key], err = durationOf(value)
		case key == "qos":
			var n int
			n, err = numberOf(value, 0, 1)
			c.QoS = uint8(n) //nolint:gosec // 0 or 1
		case key == "receive_maximum":
			c.ReceiveMaximum, err = numberOf(value, 1, 16_384)
		case key == "max_packet":
			c.MaxPacket, err = sizeOf(value)
		case key == "topics":
			c.Topics, err = parseMappings(value)
		case key == "native":
			c.Native, err = parseNative(value)
		case key == "tls":
			c.TLS, err = parseBrokerTLS(value)
		default:
			return c, fmt.Errorf("there is no key %q; a broker has %s", key, strings.Join(known, ", "))
		}
		if err != nil {
			return c, fmt.Errorf("%s is wrong: %w", key, err)
		}
	}
	return c, c.Check()
}

// parseNative reads whether the native topics of a broker are taken: true, false, or a section
// that says more.
func parseNative(value any) (*mapped.Native, error) {
	fields, ok := value.(map[string]any)
	if !ok {
		on, err := truthOf(value)
		if err != nil || !on {
			return nil, err
		}
		return &mapped.Native{}, nil
	}
	n := &mapped.Native{}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		value := fields[key]
		var err error
		switch key {
		case "register":
			n.Register, err = truthOf(value)
		case "type":
			n.Type, err = scalar(value)
		case "silence":
			n.Silence, err = silenceOf(value)
		default:
			return nil, fmt.Errorf("there is no key %q; native is true, false, or has register, type and silence", key)
		}
		if err != nil {
			return nil, fmt.Errorf("%s is wrong: %w", key, err)
		}
	}
	if err := n.Check(); err != nil {
		return nil, err
	}
	return n, nil
}

// silenceOf reads a duration, or never.
func silenceOf(value any) (time.Duration, error) {
	if value == "never" {
		return mapped.Never, nil
	}
	d, err := durationOf(value)
	if err == nil && d == 0 {
		return 0, errors.New("it is 0; allowed are at least 1s, and never")
	}
	return d, err
}

func parseBrokerTLS(value any) (t remote.TLS, err error) {
	fields, ok := value.(map[string]any)
	if !ok {
		return t, errors.New("it is no section with ca, cert and key")
	}
	for key, value := range fields {
		at := map[string]*string{"ca": &t.CA, "cert": &t.Cert, "key": &t.Key}[key]
		if at == nil {
			return t, fmt.Errorf("there is no key %q; tls has ca, cert and key", key)
		}
		if *at, err = scalar(value); err != nil {
			return t, err
		}
	}
	return t, nil
}

func durationOf(value any) (time.Duration, error) {
	s, err := scalar(value)
	if err != nil {
		return 0, err
	}
	return ParseDuration(s)
}

func numberOf(value any, low, high int) (int, error) {
	s, err := scalar(value)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, errors.New("it is not a whole number")
	}
	return n, inRange(n, low, high)
}

func sizeOf(value any) (int, error) {
	s, err := scalar(value)
	if err != nil {
		return 0, err
	}
	return ParseSize(s)
}
