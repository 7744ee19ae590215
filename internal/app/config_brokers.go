package app

import (
	"errors"
	"fmt"
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
		which := fmt.Sprintf("broker %d", i+1)
		if name, ok := fields["name"].(string); ok && name != "" {
			which = fmt.Sprintf("the broker %.64q", name)
		}
		c, err := parseBroker(fields)
		if err != nil {
			return nil, wholeFault(which + ": " + strings.TrimPrefix(targetFault(err), fmt.Sprintf("MQTT broker %q: ", c.Name)))
		}
		if names[c.Name] {
			return nil, wholeFault(fmt.Sprintf("broker %d: there is one named %q already; names are unique", i+1, c.Name))
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

// parseBroker reads one broker. With an error it gives what was read so far.
func parseBroker(fields map[string]any) (c remote.Config, err error) {
	c.QoS = 1
	if err := readMembers("", "a broker", fields, brokerMembers(&c)); err != nil {
		return c, err
	}
	return c, c.Check()
}

// brokerMembers gives what reads each key of a broker. The bounds of its durations and sizes are the broker's own:
// remote.Config.Check tells of them.
func brokerMembers(c *remote.Config) map[string]memberReader {
	readers := map[string]memberReader{
		"qos": member(&c.QoS, "0 or 1", func(v any) (uint8, error) {
			n, err := numberOf(v, 0, 1)
			return uint8(n), err //nolint:gosec // 0 or 1
		}),
		"receive_maximum": member(&c.ReceiveMaximum, "a whole number from 1 to 16,384", func(v any) (int, error) { return numberOf(v, 1, 16_384) }),
		"max_packet":      member(&c.MaxPacket, "a size such as 64KiB or 1MiB", sizeOf),
		"tls":             sectionOf(map[string]memberReader{"ca": textMember(&c.TLS.CA), "cert": textMember(&c.TLS.Cert), "key": textMember(&c.TLS.Key)}),
		"native":          nativeMember(&c.Native),
		"topics": func(name string, value any) (err error) {
			if c.Topics, err = parseMappings(value); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		},
	}
	for key, at := range map[string]*string{
		"name": &c.Name, "url": &c.URL, "version": (*string)(&c.Version), "client_id": &c.ClientID, "username": &c.Username,
		"password": &c.Password, "password_file": &c.PasswordFile, "shared": &c.Shared,
	} {
		readers[key] = textMember(at)
	}
	for key, at := range map[string]*time.Duration{
		"keep_alive": &c.KeepAlive, "session_expiry": &c.SessionExpiry, "connect_timeout": &c.ConnectTimeout,
		"backoff_min": &c.BackoffMin, "backoff_max": &c.BackoffMax,
	} {
		readers[key] = member(at, "a duration such as 500ms, 10s or 2d", durationOf)
	}
	return readers
}

// nativeMember reads whether the native topics of a broker are taken: true, false, or a section that says more.
func nativeMember(at **mapped.Native) memberReader {
	return func(name string, value any) error {
		n := &mapped.Native{}
		readers := map[string]memberReader{
			"register": member(&n.Register, "true or false", truthOf), "type": textMember(&n.Type),
			"silence": member(&n.Silence, "a duration from 1s, such as 30s or 5m, or never", silenceOf),
		}
		fields, ok := value.(map[string]any)
		if !ok {
			var on bool
			if err := member(&on, "true, false, or a section with register, silence and type", truthOf)(name, value); err != nil || !on {
				return err
			}
		}
		if err := readMembers(name+".", name, fields, readers); err != nil {
			return err
		}
		if err := n.Check(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		*at = n
		return nil
	}
}

// silenceOf reads a duration, or never.
func silenceOf(value any) (time.Duration, error) {
	if value == "never" {
		return mapped.Never, nil
	}
	d, err := durationOf(value)
	if err == nil && d == 0 {
		return 0, errors.New("that is no time at all")
	}
	return d, err
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
