package app

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestForwardSettings(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "hook.key")
	if err := os.WriteFile(key, []byte("hmac-s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadConfig(ConfigSources{File: writeConfig(t, `
forward:
  allow: [10.0.0.0/8, "fd00::1"]
  max: 7
  forwarders:
    - {name: site, to: "tcp://127.0.0.1:9000", devices: [a, b], types: station, kinds: [telemetry, presence], fields: [temp], ack: true, queue: {max_entries: 1000, max_age: 2d}, backoff: {min: 1s, max: 1m}, timeout: 5s}
    - name: hook
      to: "https://example.org/in?key=query-s3cret"
      bearer: bearer-s3cret
      secret_file: `+key+`
      parallel: 4
      attempts: -1
      format: template
      template: "{object}"
      content_type: application/json
      paused: true
      tls: {ca: ca.pem}
    - {name: door, to: "tcp-listen://:9001", allow: [192.168.0.0/16, 10.1.2.3]}
    - {name: broker, to: "mqtts://broker.example", topic: "hub/{device}", qos: 1, retain: true, username: hub, password: pass-s3cret, client_id: hub, version: "3.1.1"}
    - {name: log, to: "udp://127.0.0.1:9", sequence: true}
`)})
	if err != nil {
		t.Fatal(err)
	}
	c := loaded.Config.Forward
	if len(c.Forwarders) != 5 || len(c.Allow) != 2 || c.Max != 7 || c.MaxDeadLetters != 10_000 {
		t.Fatalf("read as %+v", c)
	}
	if f := c.Forwarders[0]; !slices.Equal(f.Devices, []string{"a", "b"}) || !slices.Equal(f.Types, []string{"station"}) || len(f.Kinds) != 2 || len(f.Fields) != 1 ||
		!f.Ack || f.Queue.MaxEntries != 1000 || f.Queue.MaxAge != 2*day || f.Backoff.Min != time.Second || f.Backoff.Max != time.Minute || f.Timeout != 5*time.Second {
		t.Errorf("the first is %+v", f)
	}
	if f := c.Forwarders[1]; f.Secrets.Bearer != "bearer-s3cret" || f.SecretFile != key || f.Parallel != 4 || f.Attempts != -1 || f.Template != "{object}" || !f.Paused || f.TLS.CA != "ca.pem" {
		t.Errorf("the second is %+v", f)
	}
	if f := c.Forwarders[2]; len(f.Allow) != 2 || f.Allow[1].String() != "10.1.2.3/32" {
		t.Errorf("the third is %+v", f)
	}
	if f := c.Forwarders[3]; f.QoS != 1 || !f.Retain || f.Username != "hub" || f.Secrets.Password != "pass-s3cret" || f.Version != "3.1.1" {
		t.Errorf("the fourth is %+v", f)
	}
	spec, err := c.Forwarders[1].spec()
	if err != nil || spec.Secrets.HMAC != "hmac-s3cret" {
		t.Errorf("the secret of the file is %q, %v", spec.Secrets.HMAC, err)
	}
	changed := strings.Join(loaded.Config.Changed(), "\n")
	if strings.Contains(changed, "s3cret") || !strings.Contains(changed, "https://example.org/in?key=***") || !strings.Contains(changed, "name: door") {
		t.Errorf("it is shown as %s", changed)
	}
	// The same as one text, as a variable or a flag has it.
	loaded, err = LoadConfig(ConfigSources{Flags: map[string]string{"forward.forwarders": "[{name: site, to: 'tcp://127.0.0.1:9000'}]"}})
	if err != nil || len(loaded.Config.Forward.Forwarders) != 1 {
		t.Errorf("as one text it is %+v, %v", loaded.Config.Forward, err)
	}
}

func TestForwardFaults(t *testing.T) {
	for yaml, want := range map[string]string{
		"forwarders: x":                           "it is no list",
		"forwarders: [site]":                      "no section with name and to",
		"forwarders: [{nam: x, to: 'tcp://h:1'}]": `nearest is "name"`,
		"forwarders: [{name: x, to: 'tcp://h:1', zzzzzzzzzzzz: 1}]":                                "a forwarder has ack",
		"forwarders: [{to: 'tcp://h:1'}]":                                                          "forwarder name",
		"forwarders: [{name: x}]":                                                                  "no target",
		"forwarders: [{name: x, to: [a]}]":                                                         `the forwarder "x": to is a list`,
		"forwarders: [{name: x, to: 'ftp://h/?key=s3cret'}]":                                       "scheme",
		"forwarders: [{name: x, to: 'tcp://h:1'}, {name: x, to: 'tcp://h:2'}]":                     "already",
		"forwarders: [{name: x, to: 'tcp://h:1', queue: 5}]":                                       "max_entries",
		"forwarders: [{name: x, to: 'tcp://h:1', queue: {max: 5}}]":                                `no key "queue.max"`,
		"forwarders: [{name: x, to: 'tcp://h:1', queue: {max_age: 5}}]":                            "unit is missing",
		"forwarders: [{name: x, to: 'tcp://h:1', ack: maybe}]":                                     "neither true nor false",
		"forwarders: [{name: x, to: 'tcp://h:1', allow: [nowhere]}]":                               "neither an address",
		"forwarders: [{name: x, to: 'mqtt://h', topic: t, qos: 3}]":                                `forward.forwarders: the forwarder "x": qos is "3": it is too large; allowed is 0, 1 or 2`,
		"forwarders: [{name: x, to: 'http://h', parallel: 65}]":                                    `parallel is "65": it is too large; allowed is a whole number from 1 to 64`,
		"forwarders: [{name: x, to: 'http://h', attempts: 0}]":                                     "-1 for tries without end",
		"forwarders: [{name: x, to: 'tcp://h:1', queue: {max_entries: 0}}]":                        `queue.max_entries is "0": it is too small; allowed is a whole number from 1 to`,
		"forwarders: [{name: x, to: 'tcp://h:1', queue: {max_age: 5x}}]":                           `queue.max_age is "5x": it is not a duration; allowed is a duration from 1s`,
		"forwarders: [{name: x, to: 'tcp://h:1', timeout: 10}]":                                    `timeout is "10": the unit is missing; allowed is a duration from 100ms to 10m`,
		"forwarders: [{name: x, to: 'http://h', secret: s3cret, secret_file: f}]":                  "exclude each other",
		"forwarders: [{name: x, to: 'tcp://h:1', secret: s3cret}]":                                 "secret",
		"forwarders: [{name: x, to: 'http://h', bearer: s3cret, username: u}]":                     "only one Authorization",
		"forwarders: [{name: x, to: 'http://h?key=s3cret', format: template, template: '{nope}'}]": "no placeholder",
		"forwarders: [{name: x, to: 'http://u:s3cret@h'}]":                                         "user or a password",
		"forwarders: [{name: x, to: 'wss://h', tls: {ca: [1]}}]":                                   "tls.ca is a list",
		"forwarders: [{name: x, to: 'wss://h', tls: {cert: a.pem}}]":                               "belong together",
		"forwarders: [{name: x, to: 'tcp://h:1', devices: [a, a]}]":                                "twice",
		"max: 0":           "too small",
		"allow: [nowhere]": "neither an address",
		"forwarder: []":    `nearest is "forward.forwarders"`,
	} {
		_, err := LoadConfig(ConfigSources{File: writeConfig(t, "forward: {"+yaml+"}\n")})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gave %v, which should say %q", yaml, err, want)
		}
		if err != nil && strings.Count(err.Error(), "allowed") > 1 {
			t.Errorf("%s says twice what is allowed: %v", yaml, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s shows the secret: %v", yaml, err)
		}
	}
}

func TestForwardSecretFiles(t *testing.T) {
	dir := t.TempDir()
	empty, large := filepath.Join(dir, "empty"), filepath.Join(dir, "large")
	for name, size := range map[string]int{empty: 0, large: maxSecretFile + 1} {
		if err := os.WriteFile(name, []byte(strings.Repeat("x", size)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]string{filepath.Join(dir, "missing"): "cannot be read", empty: "is empty", large: "longer"} {
		f := ForwarderConfig{BearerFile: file}
		f.Name = "hook"
		if _, err := f.spec(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "bearer_file of the forwarder hook") {
			t.Errorf("%s gave %v, which should say %q", file, err, want)
		}
	}
}

// TestForwardersThatCannotWork: what the API refuses at once is refused of the file, too.
func TestForwardersThatCannotWork(t *testing.T) {
	for _, tt := range []struct{ name, forwarder, want string }{
		{"open to the network", `{name: taps, to: "tcp-listen://0.0.0.0:9100"}`, "list in allow the networks"},
		{"open to some", `{name: taps, to: "tcp-listen://0.0.0.0:9100", allow: [10.0.0.0/8]}`, ""},
		{"a missing key", `{name: hook, to: "https://h/", secret_file: /nowhere/key}`, "secret_file of the forwarder hook"},
		{"a missing password", `{name: b, to: "mqtt://h", topic: t, username: u, password_file: /nowhere/key}`, "password_file of the forwarder b"},
		{"a missing CA", `{name: hook, to: "https://h/", tls: {ca: /nowhere/ca.pem}}`, "tls.ca"},
		{"a private address", `{name: site, to: "tcp://10.0.0.7:9000"}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			loaded, err := LoadConfig(ConfigSources{File: writeConfig(t, "forward: {forwarders: ["+tt.forwarder+"]}\n")})
			if err != nil {
				t.Fatal(err)
			}
			err = loaded.CheckForwarders()
			switch {
			case err == nil && tt.want == "":
			case err == nil, tt.want == "", !strings.Contains(err.Error(), tt.want), !strings.Contains(err.Error(), ":1: forward.forwarders: "), strings.Contains(err.Error(), "cannot be used"):
				t.Errorf("it says %v, which should say %q", err, tt.want)
			}
		})
	}
}
