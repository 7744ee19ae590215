package app

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"signalbox/internal/gateway/mqtt"
	"signalbox/internal/homeassistant"
	"signalbox/internal/mapped"
	"signalbox/internal/remote"
	"signalbox/internal/wire/packet"
)

// MQTTConfig is the broker and its ports.
type MQTTConfig struct {
	// Listen is host:port, empty for no such port.
	Listen string
	// Anonymous are the topic filters that clients without credentials may publish to.
	Anonymous []string
	// Topics says what messages of other topics than the native ones mean.
	Topics []mapped.Mapping
	// Silence is how long a device of mapped topics is silent until it is offline.
	Silence time.Duration
	// MaxPending bounds the devices that were seen on mapped topics and wait for approval.
	MaxPending int
	// Brokers are others that the hub joins as a client.
	Brokers       []remote.Config
	HomeAssistant HomeAssistantConfig
	// WebSocket serves MQTT at /mqtt of the HTTP port.
	WebSocket bool
	TLS       MQTTTLSConfig
	Limits    MQTTLimits
}

// MQTTTLSConfig is a second port, which speaks TLS; it is open when Cert and Key are set.
type MQTTTLSConfig struct {
	Listen string
	Cert   string
	Key    string
}

// MQTTLimits bound clients and the broker; sizes are in bytes.
type MQTTLimits struct {
	// MaxPacket bounds a packet with its header, ConnectBytes one before the login.
	MaxPacket, ConnectBytes int
	ConnectTimeout          time.Duration
	// MaxKeepAlive is the longest keep alive of a 5.0 client; 0: whatever it wants.
	MaxKeepAlive time.Duration
	// Inflight bounds unacknowledged messages, each way.
	Inflight int
	// TopicAliases is how many a client may use, Subscriptions how many a session may have.
	TopicAliases, Subscriptions int
	// FilterBytes bounds a topic filter.
	FilterBytes int
	// Outbox bounds what waits to be sent to one client.
	Outbox int
	// QueueMessages and QueueBytes bound what waits for one session.
	QueueMessages, QueueBytes int
	// QueuesBytes bounds what waits on disk for all of them, QueuesMemory what waits in memory for
	// those that end with their connection.
	QueuesBytes  int
	QueuesMemory int
	// Retained and RetainedBytes bound the retained messages.
	Retained, RetainedBytes int
	// Sessions bounds those that outlive their connection, SessionsPerOwner those of one token,
	// SessionExpiryMax how long they do.
	Sessions, SessionsPerOwner int
	SessionExpiryMax           time.Duration
}

// DefaultMQTT and defaultMQTTTLS are the ports that nobody has to ask for.
const (
	DefaultMQTT    = ":1883"
	defaultMQTTTLS = ":8883"
)

func defaultMQTT() MQTTConfig {
	return MQTTConfig{
		Listen: DefaultMQTT, Silence: mapped.DefaultSilence, MaxPending: mapped.DefaultMaxPending, WebSocket: true, TLS: MQTTTLSConfig{Listen: defaultMQTTTLS},
		HomeAssistant: HomeAssistantConfig{Prefix: homeassistant.DefaultPrefix, MaxFields: homeassistant.DefaultMaxFields},
		Limits: MQTTLimits{
			MaxPacket: mqtt.DefaultMaxPacket, ConnectBytes: mqtt.DefaultConnectBytes, ConnectTimeout: mqtt.DefaultConnectTimeout, MaxKeepAlive: time.Hour,
			Inflight: 1000, TopicAliases: 16, Subscriptions: 1024, FilterBytes: kib, Outbox: 256 * kib,
			QueueMessages: 100_000, QueueBytes: 64 * mib, QueuesBytes: 4 * gib, QueuesMemory: gib, Retained: 100_000, RetainedBytes: 64 * mib,
			Sessions: 100_000, SessionsPerOwner: 1000, SessionExpiryMax: 30 * day,
		},
	}
}

func mqttSettings() []setting {
	return []setting{
		listenOrOff("mqtt.listen", func(c *Config) *string { return &c.MQTT.Listen }).
			means("The address MQTT clients connect to. When the default port is taken, by another broker as a rule, the hub says so and goes on without; one that is set here and is taken is an error."),
		list("mqtt.anonymous", "a list of topic filters", []string{"Environ/#", "outTopic"}, func(c *Config) *[]string { return &c.MQTT.Anonymous }, parseFilter, func(s string) string { return s }).
			means("What clients without user name and password may publish to; they may subscribe to nothing, and never reach the hub's own topics (signalbox/…, $…) nor those of the preset thingsboard. List the boards' own topics: with # anybody in your network reports for every device of mapped topics, and commands those that hear their commands there. Empty: such clients are refused."),
		mappings("mqtt.topics", func(c *Config) *[]mapped.Mapping { return &c.MQTT.Topics }).
			means("What messages of other topics than the hub's own mean: a topic filter, the device ({1} is what its first wildcard stands for), the field, the format (json, number, text, value, presence, none), and how commands go out. docs/mqtt-topics.md has all of it, presets of widely used firmware included. A fixed device that is missing is made."),
		duration("mqtt.silence", func(c *Config) *time.Duration { return &c.MQTT.Silence }, mapped.MinSilence, 365*day).
			means("How long a device of mapped topics is silent until it is offline, where its mapping does not say."),
		number("mqtt.max_pending", func(c *Config) *int { return &c.MQTT.MaxPending }, 1, 1_000_000).
			means("How many unseen devices of mapped topics may wait for approval."),
		brokers("mqtt.brokers", func(c *Config) *[]remote.Config { return &c.MQTT.Brokers }).
			means("Other MQTT brokers that the hub joins as a client: what their topics mean, and with native: true devices that are connected there and speak the hub's own protocol; docs/mqtt-brokers.md has all of it. A password belongs in a file (password_file)."),
		truth("mqtt.websocket", func(c *Config) *bool { return &c.MQTT.WebSocket }).
			means("Serves MQTT over WebSocket at /mqtt of the HTTP port."),
		listenOrOff("mqtt.tls.listen", func(c *Config) *string { return &c.MQTT.TLS.Listen }).
			means("The address MQTT clients connect to with TLS; it is open when both files below are set."),
		path("mqtt.tls.cert", func(c *Config) *string { return &c.MQTT.TLS.Cert }).
			means("The certificate chain, PEM."),
		path("mqtt.tls.key", func(c *Config) *string { return &c.MQTT.TLS.Key }).
			means("The certificate's private key, PEM."),
	}
}

func mqttLimitSettings() []setting {
	of := func(at func(*MQTTLimits) *int) func(*Config) *int {
		return func(c *Config) *int { return at(&c.MQTT.Limits) }
	}
	return []setting{
		size("mqtt.limits.max_packet", of(func(l *MQTTLimits) *int { return &l.MaxPacket }), mqtt.LeastMaxPacket, 16*mib).
			means("The largest packet, with its header, that a client may send; 5.0 clients are told."),
		size("mqtt.limits.connect_bytes", of(func(l *MQTTLimits) *int { return &l.ConnectBytes }), 512, mib).
			means("The same before the login: the CONNECT with its will."),
		duration("mqtt.limits.connect_timeout", func(c *Config) *time.Duration { return &c.MQTT.Limits.ConnectTimeout }, 100*time.Millisecond, 10*time.Minute).
			means("How long the CONNECT may take."),
		duration("mqtt.limits.max_keep_alive", func(c *Config) *time.Duration { return &c.MQTT.Limits.MaxKeepAlive }, 0, 65_535*time.Second).
			means("The longest keep alive of a 5.0 client; one that asks for more, or none, is told this. 3.1.1 clients cannot be told. 0: whatever it wants."),
		number("mqtt.limits.inflight", of(func(l *MQTTLimits) *int { return &l.Inflight }), 1, 4096).
			means("How many messages with QoS 1 and 2 may be unacknowledged in each direction (receive maximum)."),
		number("mqtt.limits.topic_aliases", of(func(l *MQTTLimits) *int { return &l.TopicAliases }), 0, 65_535).
			means("How many topic aliases a 5.0 client may use."),
		number("mqtt.limits.subscriptions", of(func(l *MQTTLimits) *int { return &l.Subscriptions }), 1, 1_000_000).
			means("How many subscriptions a session may have; one more is refused. Their filters may have 64 bytes on average, and 64 KiB in any case."),
		size("mqtt.limits.filter_bytes", of(func(l *MQTTLimits) *int { return &l.FilterBytes }), 64, 64*kib).
			means("The longest topic filter of a subscription; a longer one is refused."),
		size("mqtt.limits.outbox", of(func(l *MQTTLimits) *int { return &l.Outbox }), 16*kib, 64*mib).
			means("How much may wait to be sent to one client. Messages with QoS 0 are dropped for a client that reads too slowly, others wait in its session."),
		number("mqtt.limits.queue_messages", of(func(l *MQTTLimits) *int { return &l.QueueMessages }), 1, 100_000_000).
			means("How many messages may wait for one session; further ones are dropped for it and counted."),
		size("mqtt.limits.queue_bytes", of(func(l *MQTTLimits) *int { return &l.QueueBytes }), 64*kib, 64*gib).
			means("The same in bytes."),
		size("mqtt.limits.queues_bytes", of(func(l *MQTTLimits) *int { return &l.QueuesBytes }), mib, 1024*gib).
			means("How much may wait on disk for all sessions together; one owner's (a device, a token) may have a quarter of it. 64 KiB may wait for each session in any case. When it is reached the log and /readyz tell whose it is."),
		size("mqtt.limits.queues_memory", of(func(l *MQTTLimits) *int { return &l.QueuesMemory }), mib, 1024*gib).
			means("How much may wait in memory for all sessions that end with their connection; one owner's may have a quarter of it."),
		number("mqtt.limits.retained", of(func(l *MQTTLimits) *int { return &l.Retained }), 1, 100_000_000).
			means("How many retained messages are kept; further topics are not retained. One owner may have a quarter, and an eighth is for the hub's own."),
		size("mqtt.limits.retained_bytes", of(func(l *MQTTLimits) *int { return &l.RetainedBytes }), 64*kib, 64*gib).
			means("The same in bytes, of topic, payload and properties. They are in memory, too."),
		number("mqtt.limits.sessions", of(func(l *MQTTLimits) *int { return &l.Sessions }), 1, 100_000_000).
			means("How many sessions may outlive their connection; a client that wants one more is refused."),
		number("mqtt.limits.sessions_per_owner", of(func(l *MQTTLimits) *int { return &l.SessionsPerOwner }), 1, 1_000_000).
			means("How many of them one token may have, and never more than a quarter; a device has one."),
		duration("mqtt.limits.session_expiry_max", func(c *Config) *time.Duration { return &c.MQTT.Limits.SessionExpiryMax }, time.Second, 3650*day).
			means("How long they do at most; also how long a 3.1.1 session with Clean Session 0 does."),
	}
}

// listenOrOff is an address, or the word off for none.
func listenOrOff(key string, at func(*Config) *string) setting {
	plain := address(key, "", at, true)
	s := newSetting(key, "host:port, where an empty host means every address and port 0 any free port, or off", at, func(value any) (string, error) {
		text, err := scalar(value)
		if err != nil || text == "off" || text == "false" {
			return "", err
		}
		var scratch Config
		return text, plain.set(&scratch, text)
	}, func(s string) string {
		if s == "" {
			s = "off"
		}
		return fmt.Sprintf("%q", s)
	})
	return s
}

// parseFilter checks a topic filter of mqtt.anonymous.
func parseFilter(s string) (string, error) {
	first, _, _ := strings.Cut(s, "/")
	switch err := packet.CheckFilter(s); {
	case err != nil:
		return "", err
	case first == "$share":
		return "", fmt.Errorf("%q is the filter of a shared subscription, and nobody subscribes here", s)
	case first == "signalbox" || strings.HasPrefix(s, "$"):
		return "", fmt.Errorf("%q is in the hub's own topics, which need a login", s)
	}
	return s, nil
}

// mappings is a setting of mapped topics: a YAML list of mappings, or the same as one text.
func mappings(key string, at func(*Config) *[]mapped.Mapping) setting {
	const example = "[{filter: Environ/Temperature, device: env01, field: temp, format: number}]"
	s := newSetting(key, "a list of mappings, such as "+example, at, parseMappings, showMappings)
	s.allowedText = "the same YAML as in a file, such as " + example
	s.spell = func(value any) string {
		if text, ok := value.(string); ok {
			return fmt.Sprintf("%q", text)
		}
		return "(a list)"
	}
	return s
}

func parseMappings(value any) ([]mapped.Mapping, error) {
	items, err := itemsOf(value)
	if err != nil {
		return nil, err
	}
	all := make([]mapped.Mapping, 0, len(items))
	for i, item := range items {
		m, err := parseMapping(item)
		if err != nil {
			return nil, fmt.Errorf("mapping %d: %w", i+1, err)
		}
		all = append(all, m)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, mapped.Check(all)
}

func parseMapping(item any) (m mapped.Mapping, err error) {
	fields, ok := item.(map[string]any)
	if !ok {
		return m, errors.New("it is no section with filter and device")
	}
	// A duration is written as everywhere in this configuration, with days and the word never.
	silence, has := fields["silence"].(string)
	if has {
		fields = cloneWithout(fields, "silence")
		if silence == "never" {
			m.Silence = mapped.Never
		} else if m.Silence, err = ParseDuration(silence); err != nil {
			return m, fmt.Errorf("silence = %q is wrong: %w; allowed is a duration such as 30s or 5m, or never", silence, err)
		}
	}
	text, err := yaml.Marshal(unquoted(fields))
	if err != nil {
		return m, fmt.Errorf("it cannot be read: %w", err)
	}
	kept := m.Silence
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&m); err != nil {
		return m, errors.New(mappingFault(err))
	}
	m.Silence = kept
	return m, nil
}

func cloneWithout(fields map[string]any, key string) map[string]any {
	rest := make(map[string]any, len(fields))
	for k, v := range fields {
		if k != key {
			rest[k] = v
		}
	}
	return rest
}

// unquoted makes nodes of texts, so that true and 1 are what they look like again.
func unquoted(v any) any {
	switch v := v.(type) {
	case map[string]any:
		fields := make(map[string]any, len(v))
		for key, value := range v {
			fields[key] = unquoted(value)
			if text, ok := value.(string); ok && slices.Contains([]string{"register", "qos", "retain"}, key) {
				fields[key] = &yaml.Node{Kind: yaml.ScalarNode, Value: text}
			}
		}
		return fields
	case []any:
		items := make([]any, len(v))
		for i, item := range v {
			items[i] = unquoted(item)
		}
		return items
	default:
		return v
	}
}

// mappingFault puts what the YAML reader says into plain words.
func mappingFault(err error) string {
	var faults *yaml.TypeError
	if !errors.As(err, &faults) {
		return strings.TrimPrefix(err.Error(), "yaml: ")
	}
	var words []string
	for _, text := range faults.Errors {
		if _, after, ok := strings.Cut(text, ": "); ok { // the line is of no use here
			text = after
		}
		if name, _, ok := strings.Cut(strings.TrimPrefix(text, "field "), " not found"); ok {
			text = fmt.Sprintf("there is no key %q; a mapping has filter, device, type, field, format, online, offline, silence, register and command, or preset with root, type, silence and register", name)
		}
		words = append(words, text)
	}
	return strings.Join(words, "; ")
}

// showMappings writes mappings as one line of YAML.
func showMappings(all []mapped.Mapping) string {
	if len(all) == 0 {
		return "[]"
	}
	var node yaml.Node
	if err := node.Encode(all); err != nil {
		return "[]" // a list of plain values can always be written
	}
	flow(&node)
	for i := range all {
		for at := 0; at+1 < len(node.Content[i].Content); at += 2 {
			if node.Content[i].Content[at].Value == "silence" {
				text := FormatDuration(max(all[i].Silence, 0))
				if all[i].Silence < 0 {
					text = "never"
				}
				node.Content[i].Content[at+1].Value = text
			}
		}
	}
	text, err := yaml.Marshal(&node)
	if err != nil {
		return "[]"
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

// flow makes a node one line.
func flow(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode {
		n.Style |= yaml.FlowStyle
	}
	for _, inner := range n.Content {
		flow(inner)
	}
}

// checkMQTT tells whether the settings of MQTT fit together.
func (c *Config) checkMQTT(faults *faults, pair func(key string, t TLSConfig)) {
	m := &c.MQTT
	pair("mqtt.tls", TLSConfig{Cert: m.TLS.Cert, Key: m.TLS.Key})
	if m.TLS.Listen == "" && m.TLS.Cert != "" {
		faults.add("mqtt.tls.cert is set but mqtt.tls.listen is off, so that no port would use it")
	}
	if m.Limits.Outbox < m.Limits.MaxPacket {
		faults.add("mqtt.limits.outbox = %s is smaller than a packet may be (mqtt.limits.max_packet = %s)", formatSize(m.Limits.Outbox), formatSize(m.Limits.MaxPacket))
	}
	if m.Limits.MaxPacket < m.Limits.ConnectBytes {
		faults.add("mqtt.limits.max_packet = %s is smaller than the packet before the login may be (mqtt.limits.connect_bytes = %s)", formatSize(m.Limits.MaxPacket), formatSize(m.Limits.ConnectBytes))
	}
}
