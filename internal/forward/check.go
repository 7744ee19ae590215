package forward

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"signalbox"
	"signalbox/internal/wire"
)

// The formats, and the versions of MQTT.
const (
	FormatJSON     = "json"
	FormatTemplate = "template"
	FormatViewer   = "viewer"

	mqtt5   = "5.0"
	mqtt311 = "3.1.1"
)

// What a Spec takes when it does not say.
const (
	DefaultMaxEntries  = 100_000_000
	DefaultMaxAge      = 7 * 24 * time.Hour
	DefaultBackoffMin  = 500 * time.Millisecond
	DefaultBackoffMax  = 30 * time.Second
	DefaultTimeout     = 10 * time.Second
	DefaultAttempts    = 20
	DefaultContentType = "text/plain; charset=utf-8"
)

const (
	maxURL      = 2048
	maxDevices  = 10_000
	maxTypes    = 1000
	maxFields   = 1000
	maxPath     = 256 // of a field, in bytes
	maxAllow    = 256
	maxParallel = 64
	maxAttempts = 1_000_000
	maxClientID = 256
	maxUsername = 1024
	maxPassword = 4096
	maxBearer   = 16 << 10
	maxType     = 256 // of ContentType
	maxCount    = 2_000_000_000
)

// scheme is the sort of target that a URL names.
type scheme string

func (s scheme) is(names ...scheme) bool { return slices.Contains(names, s) }

// lines says whether a line break ends a message.
func (s scheme) lines() bool { return s.is("tcp", "tcp-listen") }

func (s scheme) known() bool {
	return s.is("tcp", "tcp-listen", "udp", "ws", "wss", "http", "https", "mqtt", "mqtts")
}

// schemeOf gives the scheme of a target's URL.
func schemeOf(to string) scheme {
	name, _, _ := strings.Cut(to, "://")
	return scheme(strings.ToLower(name))
}

// Defaulted gives s with the defaults of what it does not say, as Status shows it.
func (s *Spec) Defaulted() Spec {
	d := *s
	kind := schemeOf(d.To)
	or(&d.Format, FormatJSON)
	or(&d.Queue.MaxEntries, DefaultMaxEntries)
	or(&d.Queue.MaxAge, DefaultMaxAge)
	or(&d.Backoff.Min, DefaultBackoffMin)
	or(&d.Backoff.Max, max(DefaultBackoffMax, d.Backoff.Min))
	or(&d.Timeout, DefaultTimeout)
	if len(d.Kinds) == 0 {
		d.Kinds = []string{signalbox.EntryTelemetry.String()}
	}
	if kind.is("mqtt", "mqtts") {
		or(&d.Version, mqtt5)
	}
	if kind.is("http", "https") {
		or(&d.Parallel, 1)
		or(&d.Attempts, DefaultAttempts)
		if d.Format == FormatTemplate {
			or(&d.ContentType, DefaultContentType)
		}
	}
	return d
}

// or gives what has no value the other one.
func or[T comparable](value *T, other T) {
	var none T
	if *value == none {
		*value = other
	}
}

func bad(format string, args ...any) error {
	return signalbox.Errorf(signalbox.KindInvalid, "invalid_forwarder", format, args...)
}

// Check says what is wrong with s, and what is allowed. Errors are of KindInvalid. What it lets
// pass can be made, but its target's address is not looked at.
func (s *Spec) Check() error {
	if err := signalbox.CheckName("forwarder name", s.Name); err != nil {
		return err
	}
	if err := s.checkTo(); err != nil {
		return err
	}
	d := s.Defaulted()
	for _, check := range []func() error{d.checkOwners, d.checkChoice, d.checkFormat, d.checkBounds, d.checkMQTT, d.checkSecrets} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func badTo(format string, args ...any) error {
	return signalbox.Errorf(signalbox.KindInvalid, "invalid_target", format, args...)
}

const allowedTo = "tcp://host:port, tcp-listen://host:port, udp://host:port, ws://…, wss://…, http://…, https://…, mqtt://host, mqtts://host"

// checkTo looks at the target's URL. What is wrong with it is told without it: it may hold a secret.
func (s *Spec) checkTo() error {
	switch {
	case s.To == "":
		return badTo("there is no target (to); allowed are %s", allowedTo)
	case len(s.To) > maxURL:
		return badTo("the target's URL has %d bytes; at most %d are allowed", len(s.To), maxURL)
	case !utf8.ValidString(s.To) || strings.ContainsFunc(s.To, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return badTo("the target's URL holds blanks or signs that no URL has; write them as %%20 and the like")
	}
	u, err := url.Parse(s.To)
	if err != nil {
		return badTo("the target's URL cannot be read; allowed are %s", allowedTo)
	}
	kind := scheme(u.Scheme)
	switch {
	case !kind.known() || u.Opaque != "":
		return badTo("the target has the scheme %q; allowed are %s", u.Scheme, allowedTo)
	case u.User != nil:
		return badTo("the target's URL holds a user or a password; give username and password of their own instead")
	case u.Fragment != "" || strings.Contains(s.To, "#"):
		return badTo("the target's URL has a fragment («#…»), which is sent to nobody; leave it out")
	case u.Hostname() == "" && kind != "tcp-listen":
		return badTo("the target's URL names no host; allowed are %s", allowedTo)
	case !kind.is("ws", "wss", "http", "https") && (u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery):
		return badTo("the target's URL says more than host and port; write %s://host:port", kind)
	}
	port := u.Port()
	if port == "" {
		if strings.HasSuffix(u.Host, ":") || kind.is("tcp", "tcp-listen", "udp") {
			return badTo("the target's URL names no port; write %s://host:port", kind)
		}
		return nil
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return badTo("the target's port is %s; allowed are 1 to 65535", port)
	}
	return nil
}

// checkOwners refuses options that the scheme knows nothing of.
func (s *Spec) checkOwners() error {
	kind := schemeOf(s.To)
	for _, o := range []struct {
		name string
		set  bool
		of   []scheme
	}{
		{"ack", s.Ack, []scheme{"tcp", "tcp-listen"}},
		{"allow", len(s.Allow) > 0, []scheme{"tcp-listen"}},
		{"sequence", s.Sequence, []scheme{"udp"}},
		{"topic", s.Topic != "", []scheme{"mqtt", "mqtts"}},
		{"qos", s.QoS != 0, []scheme{"mqtt", "mqtts"}},
		{"retain", s.Retain, []scheme{"mqtt", "mqtts"}},
		{"client_id", s.ClientID != "", []scheme{"mqtt", "mqtts"}},
		{"version", s.Version != "", []scheme{"mqtt", "mqtts"}},
		{"username", s.Username != "", []scheme{"mqtt", "mqtts", "ws", "wss", "http", "https"}},
		{"password", s.Secrets.Password != "", []scheme{"mqtt", "mqtts", "ws", "wss", "http", "https"}},
		{"parallel", s.Parallel != 0, []scheme{"http", "https"}},
		{"attempts", s.Attempts != 0, []scheme{"http", "https"}},
		{"content_type", s.ContentType != "", []scheme{"http", "https"}},
		{"the key that signs (secret)", s.Secrets.HMAC != "", []scheme{"http", "https"}},
		{"bearer", s.Secrets.Bearer != "", []scheme{"ws", "wss", "http", "https"}},
		{"tls", s.TLS != TLS{}, []scheme{"wss", "https", "mqtts"}},
	} {
		if o.set && !kind.is(o.of...) {
			names := make([]string, len(o.of))
			for i, of := range o.of {
				names[i] = string(of)
			}
			return bad("%s is an option of %s; the target is %s", o.name, strings.Join(names, ", "), kind)
		}
	}
	if s.Sequence && s.Format != FormatJSON {
		return bad("sequence needs the format json; the format is %s", s.Format)
	}
	if s.ContentType != "" && s.Format != FormatTemplate {
		return bad("content_type is that of a template's text; the format is %s", s.Format)
	}
	return nil
}

// checkChoice looks at devices, types, kinds and fields.
func (s *Spec) checkChoice() error {
	for _, list := range []struct {
		name  string
		list  []string
		most  int
		check func(string) error
	}{
		{"devices", s.Devices, maxDevices, func(v string) error { return signalbox.CheckName("device name", v) }},
		{"types", s.Types, maxTypes, func(v string) error { return signalbox.CheckName("device type", v) }},
		{"kinds", s.Kinds, 4, checkKind},
		{"fields", s.Fields, maxFields, checkPath},
	} {
		if len(list.list) > list.most {
			return bad("%s lists %d; at most %d are allowed", list.name, len(list.list), list.most)
		}
		seen := make(map[string]bool, len(list.list))
		for _, v := range list.list {
			if err := list.check(v); err != nil {
				return err
			}
			if seen[v] {
				return bad("%s lists %q twice", list.name, v)
			}
			seen[v] = true
		}
	}
	return nil
}

func checkKind(word string) error {
	if kindOf(word) == 0 {
		return bad("kinds lists %q; allowed are telemetry, presence, command, alert", word)
	}
	return nil
}

// kindOf gives the kind of a word, 0 for none.
func kindOf(word string) signalbox.EntryKind {
	for _, kind := range []signalbox.EntryKind{signalbox.EntryTelemetry, signalbox.EntryPresence, signalbox.EntryCommand, signalbox.EntryAlert} {
		if kind.String() == word {
			return kind
		}
	}
	return 0
}

func checkPath(path string) error {
	if len(path) > maxPath {
		return bad("the field %.100q has %d bytes; at most %d are allowed", path, len(path), maxPath)
	}
	if err := signalbox.CheckField("field", path); err != nil {
		return bad("%s", err)
	}
	return nil
}

// checkFormat looks at the format and what belongs to it.
func (s *Spec) checkFormat() error {
	switch s.Format {
	case FormatJSON, FormatTemplate, FormatViewer:
	default:
		return bad("the format is %q; allowed are json, template, viewer", s.Format)
	}
	if s.Template != "" && s.Format != FormatTemplate {
		return bad("a template is given, but the format is %s; it needs the format template", s.Format)
	}
	if s.Field != "" && s.Format != FormatViewer {
		return bad("field is an option of the format viewer; the format is %s (fields chooses several)", s.Format)
	}
	onlyTelemetry := len(s.Kinds) == 1 && s.Kinds[0] == signalbox.EntryTelemetry.String()
	switch s.Format {
	case FormatViewer:
		if err := checkPath(s.Field); err != nil {
			return bad("the format viewer shows one field (field): %s", err)
		}
		if !onlyTelemetry || len(s.Fields) > 0 {
			return bad("the format viewer shows one field of telemetry (field); kinds and fields are of no use with it")
		}
	case FormatTemplate:
		if s.Template == "" {
			return bad("the format template needs a template, such as {device} {field.temp}")
		}
		t, err := CompileTemplate(s.Template)
		if err != nil {
			return err
		}
		if schemeOf(s.To).lines() && t.holdsBreak() {
			return badTemplate("the template has line breaks, but a line break ends a message over %s; leave them out", schemeOf(s.To))
		}
		if s.Ack && !t.has(pieceCursor) && !t.has(piecePosition) {
			return badTemplate("with ack the receiver answers with a message's cursor or position; the template needs {cursor} or {position}")
		}
	}
	if s.Ack && s.Format == FormatViewer {
		return bad("with ack the receiver answers with a message's cursor, which the format viewer does not have; use json, or a template with {cursor}")
	}
	return nil
}

// checkBounds looks at times and numbers.
func (s *Spec) checkBounds() error {
	for _, d := range []struct {
		name       string
		value      time.Duration
		low, high  time.Duration
		lowT, hiTx string
	}{
		{"queue.max_age", s.Queue.MaxAge, time.Second, 100 * 365 * 24 * time.Hour, "1s", "100 years"},
		{"backoff.min", s.Backoff.Min, 10 * time.Millisecond, time.Hour, "10ms", "1h"},
		{"backoff.max", s.Backoff.Max, s.Backoff.Min, 24 * time.Hour, "backoff.min", "24h"},
		{"timeout", s.Timeout, 100 * time.Millisecond, 10 * time.Minute, "100ms", "10m"},
	} {
		if d.value < d.low || d.value > d.high {
			return bad("%s is %v; allowed are %s to %s", d.name, d.value, d.lowT, d.hiTx)
		}
	}
	switch {
	case s.Queue.MaxEntries < 1 || s.Queue.MaxEntries > maxCount:
		return bad("queue.max_entries is %d; allowed are 1 to %d", s.Queue.MaxEntries, maxCount)
	case s.Parallel < 0 || s.Parallel > maxParallel:
		return bad("parallel is %d; allowed are 1 to %d", s.Parallel, maxParallel)
	case s.Attempts < -1 || s.Attempts > maxAttempts:
		return bad("attempts is %d; allowed are 1 to %d, and -1 for no end", s.Attempts, maxAttempts)
	case len(s.Allow) > maxAllow:
		return bad("allow lists %d networks; at most %d are allowed", len(s.Allow), maxAllow)
	}
	for _, p := range s.Allow {
		if !p.IsValid() {
			return bad("allow lists something that is no network; write 10.0.0.0/8 or fd00::/8")
		}
	}
	return nil
}

func (s *Spec) checkMQTT() error {
	if !schemeOf(s.To).is("mqtt", "mqtts") {
		return nil
	}
	if s.Topic == "" {
		return bad("mqtt needs a topic, such as hub/{device}")
	}
	if _, err := CompileTopic(s.Topic); err != nil {
		return err
	}
	switch {
	case s.QoS > 2:
		return bad("qos is %d; allowed are 0, 1, 2", s.QoS)
	case s.Version != mqtt5 && s.Version != mqtt311:
		return bad("version is %q; allowed are %s and %s", s.Version, mqtt5, mqtt311)
	case len(s.ClientID) > maxClientID || !fitsMQTT(s.ClientID):
		return bad("client_id has %d bytes; up to %d of UTF-8 without NUL are allowed", len(s.ClientID), maxClientID)
	case !fitsMQTT(s.Username):
		return bad("username is not UTF-8 without NUL")
	case s.Secrets.Password != "" && s.Username == "" && s.Version == mqtt311:
		return bad("a password without a username is not possible in MQTT 3.1.1; give both")
	}
	return nil
}

func fitsMQTT(text string) bool {
	return wire.ValidText([]byte(text)) && !strings.Contains(text, "\x00")
}

// checkSecrets looks at what goes into headers and credentials.
func (s *Spec) checkSecrets() error {
	for _, o := range []struct {
		name, value string
		most        int
	}{
		{"username", s.Username, maxUsername},
		{"password", s.Secrets.Password, maxPassword},
		{"bearer", s.Secrets.Bearer, maxBearer},
		{"the key that signs (secret)", s.Secrets.HMAC, maxPassword},
		{"content_type", s.ContentType, maxType},
	} {
		if len(o.value) > o.most {
			return bad("%s has %d bytes; at most %d are allowed", o.name, len(o.value), o.most)
		}
	}
	for _, o := range []struct{ name, value string }{{"bearer", s.Secrets.Bearer}, {"content_type", s.ContentType}} {
		if strings.ContainsFunc(o.value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return bad("%s holds signs that no header has; allowed is printable ASCII", o.name)
		}
	}
	if schemeOf(s.To).is("ws", "wss", "http", "https") {
		switch {
		case strings.Contains(s.Username, ":"):
			return bad("username holds «:», which HTTP Basic cannot carry")
		case s.Secrets.Password != "" && s.Username == "":
			return bad("a password is given without a username; HTTP Basic needs both")
		case s.Secrets.Bearer != "" && s.Username != "":
			return bad("both bearer and username are given; only one Authorization can be sent")
		}
	}
	if (s.TLS.Cert == "") != (s.TLS.Key == "") {
		return bad("of tls.cert and tls.key only one is given; they belong together")
	}
	return nil
}
