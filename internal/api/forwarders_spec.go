package api

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"signalbox"
	"signalbox/internal/forward"
)

// Member is a member of a JSON object that changes something: absent leaves what is as it is,
// null takes it back to its default (RFC 7396).
type Member[T any] struct {
	set, null bool
	value     T
}

// UnmarshalJSON notes that the member is there.
func (m *Member[T]) UnmarshalJSON(b []byte) error {
	m.set = true
	if string(b) == "null" {
		m.null = true
		return nil
	}
	return json.Unmarshal(b, &m.value)
}

// Schema implements huma.SchemaProvider.
func (Member[T]) Schema(r huma.Registry) *huma.Schema {
	s := *r.Schema(reflect.TypeFor[T](), false, "")
	s.Nullable = true
	return &s
}

// to sets *at when the member is there.
func (m *Member[T]) to(at *T) {
	if m.set {
		*at = m.value // the zero value for null
	}
}

// span is to for a duration.
func span(m *Member[Duration], at *time.Duration) {
	if m.set {
		*at = time.Duration(m.value)
	}
}

// ForwarderQueue are the members of queue.
type ForwarderQueue struct {
	MaxEntries Member[int]      `json:"max_entries,omitzero" minimum:"1" maximum:"2000000000" doc:"How many entries the forwarder may be behind the log, all kinds and devices counted; older ones are skipped and counted. Default 100,000,000."`
	MaxAge     Member[Duration] `json:"max_age,omitzero" doc:"How old an entry may be that still waits; older ones are skipped and counted. Default 7d."`
}

// ForwarderBackoff are the members of backoff.
type ForwarderBackoff struct {
	Min Member[Duration] `json:"min,omitzero" doc:"The first wait after a fault; it doubles from there. Default 500ms."`
	Max Member[Duration] `json:"max,omitzero" doc:"The longest wait. Default 30s."`
}

// UnmarshalJSON takes null for both members.
func (q *ForwarderQueue) UnmarshalJSON(b []byte) error {
	type plain ForwarderQueue
	if string(b) == "null" {
		b = []byte(`{"max_entries":null,"max_age":null}`)
	}
	return json.Unmarshal(b, (*plain)(q))
}

// UnmarshalJSON takes null for both members.
func (f *ForwarderBackoff) UnmarshalJSON(b []byte) error {
	type plain ForwarderBackoff
	if string(b) == "null" {
		b = []byte(`{"min":null,"max":null}`)
	}
	return json.Unmarshal(b, (*plain)(f))
}

// ForwarderMembers are what may be set of a forwarder; exported because huma fills exported fields
// only.
type ForwarderMembers struct {
	To          Member[string]   `json:"to,omitzero" maxLength:"2048" doc:"The target's URL: tcp://host:port connects and sends lines; tcp-listen://host:port accepts connections and sends lines to each; udp://host:port sends a datagram a message; ws:// and wss:// send a text frame a message; http:// and https:// post one a message; mqtt:// and mqtts:// publish to topic. A private, loopback or link-local address is refused unless the setting forward.allow lists it."`
	Devices     Member[[]string] `json:"devices,omitzero" maxItems:"10000" doc:"Only these devices; empty: all."`
	Types       Member[[]string] `json:"types,omitzero" maxItems:"1000" doc:"Only devices of these types; empty: all."`
	Kinds       Member[[]string] `json:"kinds,omitzero" maxItems:"8" doc:"Only these kinds: telemetry, presence, command, alert. Empty: telemetry."`
	Fields      Member[[]string] `json:"fields,omitzero" maxItems:"1000" doc:"Only these fields of telemetry; empty: all."`
	Format      Member[string]   `json:"format,omitzero" enum:"json,template,viewer" doc:"json: a line of JSON a message; template: what template gives; viewer: the frame of the original live viewers, of one field. Default json."`
	Template    Member[string]   `json:"template,omitzero" maxLength:"65536" doc:"Of the format template, such as {device} {field.temp} {time}."`
	Field       Member[string]   `json:"field,omitzero" maxLength:"256" doc:"Of the format viewer: the field that is shown."`
	Queue       ForwarderQueue   `json:"queue,omitzero" doc:"How far it may be behind."`
	Backoff     ForwarderBackoff `json:"backoff,omitzero" doc:"The wait after a fault, with jitter."`
	Timeout     Member[Duration] `json:"timeout,omitzero" doc:"Bounds connecting, and each answer or write that is waited for. Default 10s."`
	Ack         Member[bool]     `json:"ack,omitzero" doc:"tcp, tcp-listen: the receiver answers with lines that hold the cursor of the last message it has."`
	Allow       Member[[]string] `json:"allow,omitzero" maxItems:"256" doc:"tcp-listen: the addresses and networks whose computers may connect; empty: loopback."`
	Topic       Member[string]   `json:"topic,omitzero" maxLength:"1024" doc:"mqtt: the topic, a template."`
	QoS         Member[int]      `json:"qos,omitzero" minimum:"0" maximum:"2" doc:"mqtt: the quality of service. Default 0."`
	Retain      Member[bool]     `json:"retain,omitzero" doc:"mqtt: the broker keeps the last message of each topic."`
	Username    Member[string]   `json:"username,omitzero" maxLength:"1024" doc:"mqtt, and HTTP Basic."`
	ClientID    Member[string]   `json:"client_id,omitzero" maxLength:"256" doc:"mqtt. Default: signalbox-, the name and random letters, made anew at each start."`
	Version     Member[string]   `json:"version,omitzero" enum:"5.0,3.1.1" doc:"mqtt. Default 5.0."`
	Parallel    Member[int]      `json:"parallel,omitzero" minimum:"1" maximum:"64" doc:"http: how many requests are under way at a time. Default 1."`
	Attempts    Member[int]      `json:"attempts,omitzero" minimum:"-1" maximum:"1000000" doc:"http: how often a message is tried when the receiver answers with an error that may pass, until it is a dead letter; -1: without end. Default 20."`
	ContentType Member[string]   `json:"content_type,omitzero" maxLength:"256" doc:"http: the type of a body made by a template. Default text/plain; charset=utf-8."`
	Sequence    Member[bool]     `json:"sequence,omitzero" doc:"udp: each datagram is numbered, so that the receiver sees what the network lost."`
	Paused      Member[bool]     `json:"paused,omitzero" doc:"It sends nothing; the queue goes on."`
	Password    Member[string]   `json:"password,omitzero" maxLength:"4096" doc:"mqtt, and HTTP Basic. Never shown again; null clears it."`
	Bearer      Member[string]   `json:"bearer,omitzero" maxLength:"16384" doc:"ws, http: sent as Authorization: Bearer. Never shown again; null clears it."`
	Secret      Member[string]   `json:"secret,omitzero" maxLength:"4096" doc:"http: the key that signs webhooks (HMAC-SHA256). Never shown again; null clears it."`
	ForwarderFiles
}

// ForwarderFiles are what the configuration file alone may set.
type ForwarderFiles struct {
	TLS          Member[map[string]string] `json:"tls,omitzero" doc:"Refused here: files are named by the configuration alone."`
	PasswordFile Member[string]            `json:"password_file,omitzero" doc:"Refused here."`
	BearerFile   Member[string]            `json:"bearer_file,omitzero" doc:"Refused here."`
	SecretFile   Member[string]            `json:"secret_file,omitzero" doc:"Refused here."`
}

// refuse says which of them is set.
func (f *ForwarderFiles) refuse() error {
	var name string
	switch {
	case f.TLS.set:
		name = "tls"
	case f.PasswordFile.set:
		name = "password_file"
	case f.BearerFile.set:
		name = "bearer_file"
	case f.SecretFile.set:
		name = "secret_file"
	default:
		return nil
	}
	return signalbox.Errorf(signalbox.KindForbidden, "file_not_allowed",
		"%s names files of the hub's machine, which the configuration file alone may do (forward.forwarders); here password, bearer and secret are given as they are", name)
}

// apply changes a spec by the members that are there.
func (m *ForwarderMembers) apply(spec *forward.Spec) error {
	if err := m.refuse(); err != nil {
		return err
	}
	if m.To.set && forward.HidesSecret(m.To.value) {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_target", "to holds ***, which stands for what the hub does not show; give the whole URL, or leave to out to keep it")
	}
	if err := m.keepsSecrets(spec); err != nil {
		return err
	}
	if err := m.refuseZero(); err != nil {
		return err
	}
	if m.Allow.set {
		networks, err := networksOf(m.Allow.value)
		if err != nil {
			return err
		}
		spec.Allow = networks
	}
	if m.QoS.set {
		spec.QoS = uint8(m.QoS.value) //nolint:gosec // 0 to 2
	}
	m.To.to(&spec.To)
	for _, l := range []struct {
		member *Member[[]string]
		at     *[]string
	}{{&m.Devices, &spec.Devices}, {&m.Types, &spec.Types}, {&m.Kinds, &spec.Kinds}, {&m.Fields, &spec.Fields}} {
		l.member.to(l.at)
	}
	m.Format.to(&spec.Format)
	m.Template.to(&spec.Template)
	m.Field.to(&spec.Field)
	m.Queue.MaxEntries.to(&spec.Queue.MaxEntries)
	span(&m.Queue.MaxAge, &spec.Queue.MaxAge)
	span(&m.Backoff.Min, &spec.Backoff.Min)
	span(&m.Backoff.Max, &spec.Backoff.Max)
	span(&m.Timeout, &spec.Timeout)
	m.Ack.to(&spec.Ack)
	m.Topic.to(&spec.Topic)
	m.Retain.to(&spec.Retain)
	m.Username.to(&spec.Username)
	m.ClientID.to(&spec.ClientID)
	m.Version.to(&spec.Version)
	m.Parallel.to(&spec.Parallel)
	m.Attempts.to(&spec.Attempts)
	m.ContentType.to(&spec.ContentType)
	m.Sequence.to(&spec.Sequence)
	m.Paused.to(&spec.Paused)
	m.Password.to(&spec.Secrets.Password)
	m.Bearer.to(&spec.Secrets.Bearer)
	m.Secret.to(&spec.Secrets.HMAC)
	return nil
}

// refuseZero refuses nothing where it would be taken for the default without a word.
func (m *ForwarderMembers) refuseZero() error {
	if a := &m.Attempts; a.set && !a.null && a.value == 0 {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_forwarder", "attempts is 0; allowed are 1 to 1000000, -1 for tries without end, and null for the default")
	}
	for _, d := range []struct {
		name, low, high string
		member          *Member[Duration]
	}{
		{"queue.max_age", "1s", "100 years", &m.Queue.MaxAge},
		{"backoff.min", "10ms", "1h", &m.Backoff.Min},
		{"backoff.max", "backoff.min", "24h", &m.Backoff.Max},
		{"timeout", "100ms", "10m", &m.Timeout},
	} {
		if d.member.set && !d.member.null && d.member.value == 0 {
			return signalbox.Errorf(signalbox.KindInvalid, "invalid_forwarder", "%s is 0; allowed are %s to %s, and null for the default", d.name, d.low, d.high)
		}
	}
	return nil
}

// keepsSecrets refuses to take secrets along to another receiver: who may change where a forwarder
// sends to could have them sent to himself, though they are never shown.
func (m *ForwarderMembers) keepsSecrets(spec *forward.Spec) error {
	if !m.To.set || spec.To == "" || receiverOf(m.To.value) == receiverOf(spec.To) {
		return nil
	}
	var missing []string
	if spec.Secrets.Password != "" && !m.Password.set {
		missing = append(missing, "password")
	}
	if spec.Secrets.Bearer != "" && !m.Bearer.set {
		missing = append(missing, "bearer")
	}
	if len(missing) == 0 {
		return nil
	}
	return signalbox.Errorf(signalbox.KindInvalid, "secrets_needed",
		"to leads to another receiver, which does not get the secrets of the old one; give %s anew, or null", strings.Join(missing, " and "))
}

// receiverOf is what must stay the same of a URL for secrets to go there.
func receiverOf(to string) string {
	u, err := url.Parse(to)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Scheme + "://" + u.Host)
}

// spanText writes a duration as parseDuration reads it.
func spanText(d time.Duration) string {
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// networksOf reads addresses and networks.
func networksOf(texts []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			all = append(all, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_allow", "allow holds %q; allowed are addresses and networks such as 192.0.2.7 and 10.0.0.0/8", short(text))
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// forwarderView is a forwarder as the API shows it.
type forwarderView struct {
	Name string `json:"name"`
	To   string `json:"to" doc:"The target's URL; values of its query are shown as ***."`

	Devices     []string        `json:"devices,omitempty"`
	Types       []string        `json:"types,omitempty"`
	Kinds       []string        `json:"kinds,omitempty" doc:"Absent: telemetry."`
	Fields      []string        `json:"fields,omitempty"`
	Format      string          `json:"format" enum:"json,template,viewer"`
	Template    string          `json:"template,omitempty"`
	Field       string          `json:"field,omitempty"`
	Queue       forwarderLimits `json:"queue"`
	Backoff     forwarderWaits  `json:"backoff"`
	Timeout     string          `json:"timeout"`
	Ack         bool            `json:"ack,omitempty"`
	Allow       []string        `json:"allow,omitempty"`
	Topic       string          `json:"topic,omitempty"`
	QoS         int             `json:"qos,omitempty"`
	Retain      bool            `json:"retain,omitempty"`
	Username    string          `json:"username,omitempty"`
	ClientID    string          `json:"client_id,omitempty"`
	Version     string          `json:"version,omitempty"`
	Parallel    int             `json:"parallel,omitempty"`
	Attempts    int             `json:"attempts,omitempty"`
	ContentType string          `json:"content_type,omitempty"`
	Sequence    bool            `json:"sequence,omitempty"`
	Secrets     []string        `json:"secrets,omitempty" doc:"Which secrets are set: password, bearer, secret."`
	Paused      bool            `json:"paused"`
	Status      forwarderStatus `json:"status"`
	FromFile    bool            `json:"from_file" doc:"The configuration file set it: it cannot be changed or removed here."`
	CreatedBy   string          `json:"created_by,omitempty"`
	CreatedAt   Time            `json:"created_at,omitzero"`
}

type forwarderLimits struct {
	MaxEntries int    `json:"max_entries"`
	MaxAge     string `json:"max_age"`
}

type forwarderWaits struct {
	Min string `json:"min"`
	Max string `json:"max"`
}

// forwarderStatus is how a forwarder is.
type forwarderStatus struct {
	State       forward.State      `json:"state" enum:"connecting,flowing,catching_up,waiting,listening,paused" doc:"waiting: the target is away, fault says why; flowing: nothing is known to be wrong, and what is sent is less than 10 seconds old and 10,000 entries behind; catching_up: connected, and further behind the log."`
	Fault       string             `json:"fault,omitempty" doc:"What went wrong last; absent while all is well."`
	FaultAt     Time               `json:"fault_at,omitzero"`
	Position    signalbox.Position `json:"position" doc:"Up to here in the log the receiver has everything."`
	Behind      int64              `json:"behind" doc:"How many entries the log is ahead of that."`
	Sent        int64              `json:"sent" doc:"Messages handed to the transport."`
	Settled     int64              `json:"settled" doc:"Messages that the receiver has."`
	Redelivered int64              `json:"redelivered" doc:"Messages sent with the mark that they may have been sent before."`
	Failed      int64              `json:"failed" doc:"Datagrams that could not be sent."`
	Skipped     int64              `json:"skipped" doc:"Entries given up by the limits of the queue."`
	Gaps        int64              `json:"gaps" doc:"How often retention (history.keep) had dropped something before it was read; how many entries is not known."`
	Dead        int64              `json:"dead" doc:"Dead letters."`
	DeadDropped int64              `json:"dead_dropped,omitempty" doc:"Dead letters that had to go for newer ones (forward.max_dead_letters)."`
	Reconnects  int64              `json:"reconnects"`
	Receivers   []string           `json:"receivers,omitempty" doc:"tcp-listen: who is connected."`
}

func viewForwarder(s *forward.Status) *forwarderView {
	spec := &s.Spec
	v := &forwarderView{
		Name: spec.Name, To: forward.ShownURL(spec.To), Devices: spec.Devices, Types: spec.Types, Kinds: spec.Kinds, Fields: spec.Fields,
		Format: spec.Format, Template: spec.Template, Field: spec.Field, Queue: forwarderLimits{spec.Queue.MaxEntries, spanText(spec.Queue.MaxAge)},
		Backoff: forwarderWaits{spanText(spec.Backoff.Min), spanText(spec.Backoff.Max)}, Timeout: spanText(spec.Timeout), Ack: spec.Ack,
		Topic: spec.Topic, QoS: int(spec.QoS), Retain: spec.Retain, Username: spec.Username, ClientID: spec.ClientID, Version: spec.Version,
		Parallel: spec.Parallel, Attempts: spec.Attempts, ContentType: spec.ContentType, Sequence: spec.Sequence, Secrets: s.HasSecrets, Paused: spec.Paused,
		FromFile: s.FromFile, CreatedBy: s.CreatedBy, CreatedAt: Time{s.CreatedAt},
		Status: forwarderStatus{
			State: s.State, Fault: forward.Scrub(s.Fault, spec), FaultAt: Time{s.FaultAt}, Position: s.Cursor, Behind: s.Behind,
			Sent: s.Sent, Settled: s.Settled, Redelivered: s.Redelivered, Failed: s.Failed, Skipped: s.Skipped, Gaps: s.Gaps, Dead: s.Dead, DeadDropped: s.DeadDropped,
			Reconnects: s.Reconnects, Receivers: s.Receivers,
		},
	}
	if v.Format == "" {
		v.Format = "json"
	}
	for _, p := range spec.Allow {
		v.Allow = append(v.Allow, strings.TrimSuffix(p.String(), "/32"))
	}
	return v
}
