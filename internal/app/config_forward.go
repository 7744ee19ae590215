package app

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"signalbox/internal/forward"
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
		f, err := parseForwarder(fields)
		if err != nil {
			return nil, fmt.Errorf("forwarder %d: %s", i+1, forward.Scrub(err.Error(), &f.Spec))
		}
		if names[f.Name] {
			return nil, fmt.Errorf("forwarder %d: there is one named %q already", i+1, f.Name)
		}
		names[f.Name] = true
		all = append(all, f)
	}
	return all, nil
}

// parseForwarder reads one forwarder. With an error it gives what was read so far.
func parseForwarder(fields map[string]any) (f ForwarderConfig, err error) {
	setters := forwarderSetters(&f)
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		set := setters[key]
		if set == nil {
			known := slices.Sorted(maps.Keys(setters))
			if near := Nearest(key, known); near != "" {
				return f, fmt.Errorf("there is no key %q; the nearest is %q", key, near)
			}
			return f, fmt.Errorf("there is no key %q; a forwarder has %s", key, strings.Join(known, ", "))
		}
		if err := set(fields[key]); err != nil {
			return f, fmt.Errorf("%s is wrong: %w", key, err)
		}
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

// forwarderSetters gives what reads each key of a forwarder.
func forwarderSetters(f *ForwarderConfig) map[string]func(any) error {
	spec := &f.Spec
	whole := func(at *int, low, high int) func(any) error {
		return func(v any) (err error) { *at, err = numberOf(v, low, high); return err }
	}
	setters := map[string]func(any) error{
		"qos": func(v any) error {
			n, err := numberOf(v, 0, 2)
			spec.QoS = uint8(n) //nolint:gosec // 0 to 2
			return err
		},
		"parallel": whole(&spec.Parallel, 1, 64), "attempts": whole(&spec.Attempts, -1, 1_000_000),
		"allow": func(v any) error {
			var scratch Config
			err := networks("allow", func(c *Config) *[]netip.Prefix { return &c.Forward.Allow }).set(&scratch, v)
			spec.Allow = scratch.Forward.Allow
			return err
		},
		"queue": sectionOf("queue", map[string]func(any) error{
			"max_entries": whole(&spec.Queue.MaxEntries, 1, 2_000_000_000), "max_age": durationAt(&spec.Queue.MaxAge),
		}),
		"backoff": sectionOf("backoff", map[string]func(any) error{"min": durationAt(&spec.Backoff.Min), "max": durationAt(&spec.Backoff.Max)}),
		"tls":     sectionOf("tls", map[string]func(any) error{"ca": textAt(&spec.TLS.CA), "cert": textAt(&spec.TLS.Cert), "key": textAt(&spec.TLS.Key)}),
		"timeout": durationAt(&spec.Timeout),
	}
	for key, at := range map[string]*string{
		"name": &spec.Name, "to": &spec.To, "format": &spec.Format, "template": &spec.Template, "field": &spec.Field, "topic": &spec.Topic,
		"username": &spec.Username, "client_id": &spec.ClientID, "version": &spec.Version, "content_type": &spec.ContentType,
		"password": &spec.Secrets.Password, "bearer": &spec.Secrets.Bearer, "secret": &spec.Secrets.HMAC,
		"password_file": &f.PasswordFile, "bearer_file": &f.BearerFile, "secret_file": &f.SecretFile,
	} {
		setters[key] = textAt(at)
	}
	for key, at := range map[string]*[]string{"devices": &spec.Devices, "types": &spec.Types, "kinds": &spec.Kinds, "fields": &spec.Fields} {
		setters[key] = func(v any) (err error) { *at, err = texts(v); return err }
	}
	for key, at := range map[string]*bool{"ack": &spec.Ack, "retain": &spec.Retain, "sequence": &spec.Sequence, "paused": &spec.Paused} {
		setters[key] = func(v any) (err error) { *at, err = truthOf(v); return err }
	}
	return setters
}

func textAt(at *string) func(any) error {
	return func(v any) (err error) { *at, err = scalar(v); return err }
}

func durationAt(at *time.Duration) func(any) error {
	return func(v any) (err error) { *at, err = durationOf(v); return err }
}

// sectionOf reads a section of a forwarder.
func sectionOf(name string, setters map[string]func(any) error) func(any) error {
	known := strings.Join(slices.Sorted(maps.Keys(setters)), ", ")
	return func(value any) error {
		fields, ok := value.(map[string]any)
		if !ok {
			return errors.New("it is no section with " + known)
		}
		for _, key := range slices.Sorted(maps.Keys(fields)) {
			set := setters[key]
			if set == nil {
				return fmt.Errorf("there is no key %q; %s has %s", key, name, known)
			}
			if err := set(fields[key]); err != nil {
				return fmt.Errorf("%s is wrong: %w", key, err)
			}
		}
		return nil
	}
}
