package mapped

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/store"
	"signalbox/internal/wire"
)

// Config says what topics mean. Zero values take the defaults.
type Config struct {
	// Mappings in order: of those that match a topic the first takes its messages.
	Mappings []Mapping
	// Silence is that of the mappings which say none (default 5 min; negative: never).
	Silence time.Duration
	// MaxPending bounds the devices that wait for approval (default 1,000).
	MaxPending int
	// MaxBody bounds a telemetry message, in bytes (default 64 KiB); Limits what it may hold.
	MaxBody int
	Limits  wire.Limits
	// Native takes the messages of the native tree too; nil: they are nothing to the mappings.
	Native *Native
}

// Defaults of Config.
const (
	DefaultMaxPending = 1000
	DefaultMaxBody    = 64 << 10
)

// Commands is told of devices that can be commanded now, and of what native ones answer. Package
// command's Road is it. Its methods never block.
type Commands interface {
	Online(s *session.Session)
	Ack(s *session.Session, id string)
	Result(s *session.Session, id string, ok bool, value json.RawMessage, errText string)
}

// Log tells how far the log has come. Package history's Log is it.
type Log interface {
	// Head is the position of the latest entry.
	Head() signalbox.Position
}

// Parts are the parts of the hub that a Map joins.
type Parts struct {
	Devices  *registry.Registry
	Sessions *session.Table
	Road     *ingest.Road
	Commands Commands
	Log      Log          // needed with Config.Native
	Logger   *slog.Logger // nil: none
}

// Stats counts since the start.
type Stats struct {
	// Taken were kept, Later were turned away for the moment.
	Taken, Later atomic.Int64
	// Wrong had a payload that is not what the format says, Unknown were of devices that do not
	// exist, Pending of those that wait for approval, Surplus of those that would have to wait but
	// for the bound on them, Disabled of those that are disabled. Idle told nothing that was not
	// known: retained messages of the past, and words of presence.
	Wrong, Unknown, Pending, Surplus, Disabled, Idle atomic.Int64
	// Registered devices were made pending. Silent ones went offline for want of messages.
	Registered, Silent atomic.Int64
	// Commands went out, Undelivered did not. Answers came of native devices: acks and results.
	Commands, Undelivered, Answers atomic.Int64
}

// Map turns messages into telemetry. Make one with New, then Prepare, then Run.
type Map struct {
	cfg    Config
	parts  Parts
	logger *slog.Logger
	rules  []*rule
	index  index
	// commanded are the rules of fixed devices that have a template.
	commanded map[string][]*rule
	// templated are the rules with a template whose devices wildcards name.
	templated []*rule
	native    *rule // of the native tree; nil without
	dialect   Dialect
	bodies    sync.Pool // of *[]byte
	seats     seats
	unseen    unseen
	untold    untold
	stats     Stats
}

// New checks the mappings and joins the parts. The error, of KindInvalid, names the mapping by
// its number in the list, from 1.
func New(cfg Config, parts Parts) (*Map, error) {
	if cfg.Silence == 0 {
		cfg.Silence = DefaultSilence
	}
	if cfg.MaxPending <= 0 {
		cfg.MaxPending = DefaultMaxPending
	}
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = DefaultMaxBody
	}
	m := &Map{
		cfg: cfg, parts: parts, logger: parts.Logger, commanded: make(map[string][]*rule),
		bodies: sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }},
	}
	if m.logger == nil {
		m.logger = slog.New(slog.DiscardHandler)
	}
	m.seats.init()
	m.unseen.init()
	var err error
	m.rules, err = newRules(cfg.Mappings, cfg.Silence)
	if err != nil {
		return nil, err
	}
	if cfg.Native != nil {
		if m.native, err = newNativeRule(cfg.Native, cfg.Silence); err != nil {
			return nil, err
		}
	}
	for i := range cfg.Mappings {
		if cfg.Mappings[i].Preset == PresetThingsBoard {
			m.dialect = ThingsBoard{Limits: cfg.Limits, MaxBody: cfg.MaxBody}
		}
	}
	for _, r := range m.rules {
		m.index.add(r)
		switch {
		case r.command == nil:
		case r.device.fixed():
			m.commanded[r.Device] = append(m.commanded[r.Device], r)
		default:
			m.templated = append(m.templated, r)
		}
	}
	return m, nil
}

// Check tells what is wrong with a list of mappings, as New does.
func Check(list []Mapping) error {
	_, err := newRules(list, DefaultSilence)
	return err
}

// Expand gives the list with the mappings of presets in their places, as New takes them.
func Expand(list []Mapping) ([]Mapping, error) {
	rules, err := newRules(list, DefaultSilence)
	if err != nil {
		return nil, err
	}
	all := make([]Mapping, len(rules))
	for i, r := range rules {
		all[i] = r.given
	}
	return all, nil
}

func newRules(list []Mapping, silence time.Duration) ([]*rule, error) {
	if len(list) > MaxMappings {
		return nil, invalid("there are %d mappings; at most %d are allowed", len(list), MaxMappings)
	}
	rules := make([]*rule, 0, len(list))
	first := make(map[string]int, len(list))
	presets := make(map[[2]string]int)
	for i := range list {
		if p := list[i].Preset; p != "" {
			key := [2]string{p, list[i].Root}
			if p == "homie" && key[1] == "" {
				key[1] = p // which is where its topics begin then
			}
			if before, twice := presets[key]; twice {
				return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_mapping",
					"mapping %d (preset %q): mapping %d is that preset already; allowed is another one with another root", i+1, p, before+1)
			}
			presets[key] = i
		}
		items, err := list[i].expand()
		if err != nil {
			return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_mapping", "mapping %d: %s", i+1, err)
		}
		for k := range items {
			before, twice := first[items[k].Filter]
			if twice && list[i].Preset != "" && before != i {
				continue
			}
			r, err := newRule(&items[k], len(rules), silence)
			if err != nil {
				return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_mapping", "mapping %d (filter %q): %s", i+1, items[k].Filter, err)
			}
			if twice {
				return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_mapping",
					"mapping %d (filter %q): mapping %d has that filter already; a topic has one meaning", i+1, r.Filter, before+1)
			}
			first[r.Filter] = i
			rules = append(rules, r)
		}
	}
	if _, dialect := presets[[2]string{PresetThingsBoard, ""}]; dialect {
		for _, r := range rules {
			if inDialect(r.Filter) || r.Command != nil && inDialect(r.Command.Topic) {
				return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_mapping",
					"mapping %d (filter %q): the topics below %s are those of the preset %s, for devices on connections of their own; a mapping cannot have them", first[r.Filter]+1, r.Filter, tbRoot, PresetThingsBoard)
			}
		}
	}
	return rules, nil
}

// inDialect reports whether a topic, or a filter by its first levels, is one of ThingsBoard's.
func inDialect(topic string) bool { return topic+"/" == tbRoot || strings.HasPrefix(topic, tbRoot) }

// Prepare makes the devices that mappings name without wildcards and that are missing, with a
// secret that nobody knows. It runs once, before messages come.
func (m *Map) Prepare(ctx context.Context) error {
	var missing []registry.NewDevice
	listed := make(map[string]bool)
	for _, r := range m.rules {
		if !r.device.fixed() || listed[r.Device] || m.parts.Devices.Find(r.Device) != nil {
			continue
		}
		listed[r.Device] = true
		missing = append(missing, registry.NewDevice{Name: r.Device, Type: r.Type, Secret: unknownSecret()})
	}
	if len(missing) == 0 {
		return nil
	}
	outcomes, err := m.parts.Devices.AddAll(ctx, missing, nil)
	if err != nil {
		return fmt.Errorf("make the devices of mapped topics: %w", err)
	}
	for i, o := range outcomes {
		if o.Err != nil {
			return fmt.Errorf("make the device %q of a mapped topic: %w", missing[i].Name, o.Err)
		}
		m.logger.Info("made the device of a mapped topic", "device", o.Device.Name, "type", o.Device.Type())
	}
	return nil
}

// unknownSecret is one that nobody knows.
func unknownSecret() store.Secret {
	return store.Secret{Kind: auth.SecretGenerated, Sum: auth.HashGenerated(auth.NewSecret())}
}

// Stats gives the live counters.
func (m *Map) Stats() *Stats { return &m.stats }

// Dialect is that of a preset which is one, nil without: devices may speak it on connections of
// their own.
func (m *Map) Dialect() Dialect { return m.dialect }

// Matches reports whether a mapping has the topic, be it of the format none. It does not allocate.
func (m *Map) Matches(topic string) bool {
	var c captures
	return m.index.find(topic, &c) != nil
}

// Allowed reports whether the topic is mapped to the device of that name, so that the device
// may publish to it. It does not allocate.
func (m *Map) Allowed(device, topic string) bool {
	var c captures
	r := m.index.find(topic, &c)
	if r == nil {
		return false
	}
	var room [4 * signalbox.MaxNameLen]byte
	return string(r.device.append(room[:0], topic, &c)) == device
}

// Take takes a message, of a mapping or of the native tree. It never blocks.
func (m *Map) Take(t *Taking) Verdict {
	if m.native != nil && strings.HasPrefix(t.Topic, wire.NativePrefix) {
		return m.takeNative(t)
	}
	var c captures
	r := m.index.find(t.Topic, &c)
	if r == nil || r.Format == FormatNone {
		return None
	}
	var room [4 * signalbox.MaxNameLen]byte
	name := r.device.append(room[:0], t.Topic, &c)
	d := m.parts.Devices.FindBytes(name)
	if d == nil {
		m.stranger(r, name, t.Topic)
		return Dropped
	}
	if t.Budget != nil && !t.Budget.Pays(d) {
		m.stats.Later.Add(1)
		return Later
	}
	if r.Format == FormatPresence {
		p, ok := r.presence(t.Payload)
		if !ok {
			m.wrong(r, d.Name, errPresence)
			return Dropped
		}
		return m.verdict(d, t, m.present(d, r, t, &c, p))
	}
	buffer, _ := m.bodies.Get().(*[]byte)
	defer m.bodies.Put(buffer)
	body, err := m.body((*buffer)[:0], r, t.Topic, &c, t.Payload)
	if r.field != nil {
		*buffer = body // it may have grown
	}
	if err != nil {
		m.wrong(r, d.Name, err)
		return Dropped
	}
	return m.verdict(d, t, m.report(d, r, t, &c, &ingest.Message{Body: body, Also: t.Also, Awaited: t.Awaited}))
}

// verdict says what a verdict of the telemetry road means here, and counts it.
func (m *Map) verdict(d *registry.Device, t *Taking, v ingest.Verdict) Verdict {
	switch v {
	case ingest.Stored:
		m.stats.Taken.Add(1)
		return Taken
	case ingest.Duplicate:
		m.stats.Idle.Add(1)
		return Dropped
	case ingest.Stale:
		if m.parts.Devices.NotePending(d, t.Topic) {
			m.stats.Pending.Add(1)
		} else {
			m.stats.Disabled.Add(1)
		}
		return Dropped
	case ingest.Full:
		m.stats.Later.Add(1)
		return Later
	default:
		return Stopping
	}
}

// complainEvery bounds how often a mapping's wrong payloads are told of, in seconds.
const complainEvery = 60

// wrong counts a payload that is not what its mapping says, and tells of it now and then.
func (m *Map) wrong(r *rule, device string, err error) {
	m.stats.Wrong.Add(1)
	now := time.Now().Unix()
	before := r.complained.Load()
	if now-before < complainEvery || !r.complained.CompareAndSwap(before, now) {
		return
	}
	m.logger.Warn("a message on a mapped topic was dropped", "filter", r.Filter, "device", device, "format", string(r.Format), "err", err)
}

// Run watches for devices that have fallen silent and makes unseen ones pending, until ctx
// ends.
func (m *Map) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	parts.Go(func() { m.runUnseen(ctx) })
	parts.Go(func() { m.runSweep(ctx) })
	parts.Wait()
	return nil
}
