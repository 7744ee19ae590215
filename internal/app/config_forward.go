package app

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"signalbox"
	"signalbox/internal/forward"
	"signalbox/internal/forward/target"
)

// ForwardConfig is what goes on to other computers.
type ForwardConfig struct {
	// Forwarders are those of the configuration; people add others through the API.
	Forwarders []ForwarderConfig
	// Allow are the networks, besides the public ones, that forwarders of the API may reach.
	Allow []netip.Prefix
	// Max bounds the forwarders, MaxDeadLetters the dead letters of each.
	Max            int
	MaxDeadLetters int
}

// ForwarderConfig is one forwarder. Each secret is in the spec or in a file that is named here, which
// is read when the hub is opened, without the white space at its end.
type ForwarderConfig struct {
	forward.Spec
	PasswordFile, BearerFile, SecretFile string
}

// The defaults of ForwardConfig.
const (
	defaultForwarders  = 64
	defaultDeadLetters = 10_000
	// maxSecretFile bounds a file with a secret, in bytes.
	maxSecretFile = 64 * kib
)

func defaultForward() ForwardConfig {
	return ForwardConfig{Max: defaultForwarders, MaxDeadLetters: defaultDeadLetters}
}

func forwardSettings() []setting {
	return []setting{
		forwarders("forward.forwarders", func(c *Config) *[]ForwarderConfig { return &c.Forward.Forwarders }).
			means("What is sent on to other computers as it comes: over TCP, UDP, WebSocket, webhooks or MQTT; docs/forward.md has all of it. Others are added through the API, and by «signalbox forwarder add». A secret belongs in a file (password_file, bearer_file, secret_file)."),
		networks("forward.allow", func(c *Config) *[]netip.Prefix { return &c.Forward.Allow }).
			means("The private, loopback and link-local networks that forwarders added through the API may send to. Public addresses are allowed anyway, and those of forward.forwarders are not concerned. Empty: none."),
		number("forward.max", func(c *Config) *int { return &c.Forward.Max }, 1, 10_000).
			means("How many forwarders there may be, those of the configuration included; one more is refused."),
		number("forward.max_dead_letters", func(c *Config) *int { return &c.Forward.MaxDeadLetters }, 1, 10_000_000).
			means("How many dead letters (messages that a webhook's receiver refused for good) are kept of one forwarder; when there are more the oldest go."),
	}
}

// forwarders is a setting of forwarders: a YAML list, or the same as one text.
func forwarders(key string, at func(*Config) *[]ForwarderConfig) setting {
	const example = "[{name: site, to: 'tcp://10.0.0.7:9000', types: [station]}, {name: hook, to: 'https://example.org/in', secret_file: /etc/signalbox/hook.key}]"
	s := newSetting(key, "a list of forwarders, such as "+example, at, parseForwarders, showForwarders)
	s.allowedText = "the same YAML as in a file, such as " + example
	s.spell = func(any) string { return "(a list)" } // there may be secrets in it
	return s
}

// showForwarders names the forwarders; much of the rest may be secret.
func showForwarders(all []ForwarderConfig) string {
	texts := make([]string, len(all))
	for i := range all {
		texts[i] = fmt.Sprintf("{name: %s, to: %q, …}", all[i].Name, forward.ShownURL(all[i].To))
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

func parseForwarders(value any) ([]ForwarderConfig, error) {
	items, err := itemsOf(value)
	if err != nil || len(items) == 0 {
		return nil, err
	}
	all := make([]ForwarderConfig, 0, len(items))
	names := make(map[string]bool)
	for i, item := range items {
		fields, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("forwarder %d is no section with name and to", i+1)
		}
		which := fmt.Sprintf("forwarder %d", i+1)
		if name, ok := fields["name"].(string); ok && name != "" {
			which = fmt.Sprintf("the forwarder %.64q", name)
		}
		f, err := parseForwarder(fields)
		if err != nil {
			return nil, wholeFault(which + ": " + forward.Scrub(err.Error(), &f.Spec))
		}
		if names[f.Name] {
			return nil, wholeFault(fmt.Sprintf("forwarder %d: there is one named %q already; names are unique", i+1, f.Name))
		}
		names[f.Name] = true
		all = append(all, f)
	}
	return all, nil
}

// parseForwarder reads one forwarder. With an error it gives what was read so far.
func parseForwarder(fields map[string]any) (f ForwarderConfig, err error) {
	if err := readMembers("", "a forwarder", fields, forwarderMembers(&f)); err != nil {
		return f, err
	}
	for _, s := range f.secretFiles() {
		if s.file != "" && *s.secret != "" {
			return f, fmt.Errorf("%s and %s_file exclude each other", s.name, s.name)
		}
	}
	err = f.check()
	return f, err
}

// check tells what is wrong with the spec; a secret that is in a file counts as set.
func (f *ForwarderConfig) check() error {
	spec := f.Spec
	stand := ForwarderConfig{Spec: spec, PasswordFile: f.PasswordFile, BearerFile: f.BearerFile, SecretFile: f.SecretFile}
	for _, s := range stand.secretFiles() {
		if s.file != "" {
			*s.secret = "a-secret-that-stands-in-a-file-of-its-own"
		}
	}
	return stand.Spec.Check()
}

// secretFile is a secret and the file it may stand in.
type secretFile struct {
	name, file string
	secret     *string
}

func (f *ForwarderConfig) secretFiles() []secretFile {
	return []secretFile{
		{"password", f.PasswordFile, &f.Secrets.Password}, {"bearer", f.BearerFile, &f.Secrets.Bearer}, {"secret", f.SecretFile, &f.Secrets.HMAC},
	}
}

// spec gives the forwarder with the secrets out of their files.
func (f *ForwarderConfig) spec() (forward.Spec, error) {
	whole := *f
	for _, s := range whole.secretFiles() {
		if s.file == "" {
			continue
		}
		info, err := os.Stat(s.file)
		if err == nil && info.Size() > maxSecretFile {
			return whole.Spec, fmt.Errorf("the file %s (%s_file of the forwarder %s) is longer than %s", s.file, s.name, f.Name, formatSize(maxSecretFile))
		}
		var data []byte
		if err == nil {
			data, err = os.ReadFile(s.file)
		}
		if err != nil {
			return whole.Spec, fmt.Errorf("the file %s (%s_file of the forwarder %s) cannot be read: %s", s.file, s.name, f.Name, Cause(err))
		}
		if *s.secret = strings.TrimRight(string(data), " \t\r\n"); *s.secret == "" {
			return whole.Spec, fmt.Errorf("the file %s (%s_file of the forwarder %s) is empty", s.file, s.name, f.Name)
		}
	}
	return whole.Spec, nil
}

// specs gives the forwarders with the secrets out of their files, or what is wrong with the first
// that cannot work.
func (c *ForwardConfig) specs() ([]forward.Spec, error) {
	all := make([]forward.Spec, 0, len(c.Forwarders))
	for i := range c.Forwarders {
		spec, err := c.Forwarders[i].spec()
		if err != nil {
			return nil, err
		}
		made, err := target.New(&spec, true, c.Allow, "/signalbox", slog.New(slog.DiscardHandler))
		if err == nil {
			err = made.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("the forwarder %q: %s", spec.Name, forward.Scrub(targetFault(err), &spec))
		}
		all = append(all, spec)
	}
	return all, nil
}

// targetFault words why a target cannot be made.
func targetFault(err error) string {
	e, ok := errors.AsType[*signalbox.Error](err)
	if !ok {
		return err.Error()
	}
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Message + ": " + file.Path + ": " + Cause(err)
	}
	return e.Message
}

// CheckForwarders tells whether the forwarders of the configuration can work on this machine: the
// files of their secrets are there, and their targets can be made. Nothing is connected.
func (l *LoadedConfig) CheckForwarders() error {
	if _, err := l.Config.Forward.specs(); err != nil {
		return signalbox.Errorf(signalbox.KindInvalid, "config", "%s: forward.forwarders: %s", l.From["forward.forwarders"], err)
	}
	return nil
}

// A wholeFault says which part of a value is wrong, and what is allowed there: nothing is added.
type wholeFault string

// Error gives the sentence.
func (f wholeFault) Error() string { return string(f) }

// memberReader reads the member of this name; its error is a whole sentence.
type memberReader func(name string, value any) error

// member reads what parse takes; allowed ends the sentence «allowed is …».
func member[T any](at *T, allowed string, parse func(any) (T, error)) memberReader {
	return func(name string, value any) error {
		read, err := parse(value)
		if err != nil {
			return fmt.Errorf("%s is %s: %w; allowed is %s", name, memberText(value), err, allowed)
		}
		*at = read
		return nil
	}
}

// memberText spells a member that is wrong.
func memberText(value any) string {
	switch v := value.(type) {
	case nil:
		return "(nothing)"
	case string:
		return fmt.Sprintf("%.100q", v)
	case []any:
		return "a list"
	default:
		return "a section"
	}
}

// readMembers reads the members of an item of a list, or of a section of it, whose name prefix begins with. what, as in
// «a forwarder», is whose members they are.
func readMembers(prefix, what string, fields map[string]any, readers map[string]memberReader) error {
	known := slices.Sorted(maps.Keys(readers))
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		read := readers[key]
		if read == nil {
			if near := Nearest(key, known); near != "" {
				return fmt.Errorf("there is no key %q; the nearest is %q", prefix+key, prefix+near)
			}
			return fmt.Errorf("there is no key %q; %s has %s", prefix+key, what, strings.Join(known, ", "))
		}
		if err := read(prefix+key, fields[key]); err != nil {
			return err
		}
	}
	return nil
}

// forwarderMembers gives what reads each key of a forwarder.
func forwarderMembers(f *ForwarderConfig) map[string]memberReader {
	spec := &f.Spec
	whole := func(at *int, low, high int) memberReader {
		return member(at, fmt.Sprintf("a whole number from %d to %s", low, grouped(high)), func(v any) (int, error) { return numberOf(v, low, high) })
	}
	readers := map[string]memberReader{
		"qos": member(&spec.QoS, "0, 1 or 2", func(v any) (uint8, error) {
			n, err := numberOf(v, 0, 2)
			return uint8(n), err //nolint:gosec // 0 to 2
		}),
		"parallel": whole(&spec.Parallel, 1, 64),
		"attempts": member(&spec.Attempts, "a whole number from 1 to 1,000,000, or -1 for tries without end", func(v any) (int, error) {
			n, err := numberOf(v, -1, 1_000_000)
			if err == nil && n == 0 {
				err = errors.New("that is no try at all")
			}
			return n, err
		}),
		"allow": member(&spec.Allow, "a list of addresses and networks, such as [127.0.0.1, 10.0.0.0/8]", func(v any) ([]netip.Prefix, error) {
			var scratch Config
			err := networks("allow", func(c *Config) *[]netip.Prefix { return &c.Forward.Allow }).set(&scratch, v)
			return scratch.Forward.Allow, err
		}),
		"queue": sectionOf(map[string]memberReader{
			"max_entries": whole(&spec.Queue.MaxEntries, 1, 2_000_000_000), "max_age": span(&spec.Queue.MaxAge, time.Second, 36500*day),
		}),
		"backoff": sectionOf(map[string]memberReader{
			"min": span(&spec.Backoff.Min, 10*time.Millisecond, time.Hour), "max": span(&spec.Backoff.Max, 10*time.Millisecond, day),
		}),
		"tls":     sectionOf(map[string]memberReader{"ca": textMember(&spec.TLS.CA), "cert": textMember(&spec.TLS.Cert), "key": textMember(&spec.TLS.Key)}),
		"timeout": span(&spec.Timeout, 100*time.Millisecond, 10*time.Minute),
	}
	for key, at := range map[string]*string{
		"name": &spec.Name, "to": &spec.To, "format": &spec.Format, "template": &spec.Template, "field": &spec.Field, "topic": &spec.Topic,
		"username": &spec.Username, "client_id": &spec.ClientID, "version": &spec.Version, "content_type": &spec.ContentType,
		"password": &spec.Secrets.Password, "bearer": &spec.Secrets.Bearer, "secret": &spec.Secrets.HMAC,
		"password_file": &f.PasswordFile, "bearer_file": &f.BearerFile, "secret_file": &f.SecretFile,
	} {
		readers[key] = textMember(at)
	}
	for key, at := range map[string]*[]string{"devices": &spec.Devices, "types": &spec.Types, "kinds": &spec.Kinds, "fields": &spec.Fields} {
		readers[key] = member(at, "a list, such as [a, b]", texts)
	}
	for key, at := range map[string]*bool{"ack": &spec.Ack, "retain": &spec.Retain, "sequence": &spec.Sequence, "paused": &spec.Paused} {
		readers[key] = member(at, "true or false", truthOf)
	}
	return readers
}

// textMember never spells what was given: only lists and sections are wrong, and nothing.
func textMember(at *string) memberReader { return member(at, "one text", scalar) }

func span(at *time.Duration, low, high time.Duration) memberReader {
	allowed := fmt.Sprintf("a duration from %s to %s, such as 500ms, 10s or 2d", FormatDuration(low), FormatDuration(high))
	return member(at, allowed, func(v any) (time.Duration, error) {
		d, err := durationOf(v)
		if err == nil {
			err = inRange(d, low, high)
		}
		return d, err
	})
}

// sectionOf reads a section of an item.
func sectionOf(readers map[string]memberReader) memberReader {
	return func(name string, value any) error {
		fields, ok := value.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is %s; allowed is a section with %s", name, memberText(value), strings.Join(slices.Sorted(maps.Keys(readers)), ", "))
		}
		return readMembers(name+".", name, fields, readers)
	}
}

// grouped writes a number with commas.
func grouped(n int) string {
	text := strconv.Itoa(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}
