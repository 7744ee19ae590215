package remote

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"signalbox"
	"signalbox/internal/mapped"
	"signalbox/internal/remote/mosquittotest"
)

func TestConfig(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ca, cert, key := mosquittotest.Certificates(t, t.TempDir())
	_, _, otherKey := mosquittotest.Certificates(t, t.TempDir())
	good := Config{Name: "site", URL: "mqtt://broker.example", Topics: []mapped.Mapping{{Filter: "a", Device: "a"}}, QoS: 1}
	tests := []struct {
		name string
		edit func(c *Config)
		want string // part of the error, empty for none
	}{
		{"good", func(*Config) {}, ""},
		{"no name", func(c *Config) { c.Name = "" }, "empty"},
		{"scheme", func(c *Config) { c.URL = "http://x" }, "mqtt, mqtts, ws and wss"},
		{"no host", func(c *Config) { c.URL = "mqtt://" }, "no host"},
		{"credentials in the url", func(c *Config) { c.URL = "mqtt://u:hidden@x" }, "username"},
		{"url that is none", func(c *Config) { c.URL = "mqtt://u:hidden@x:port" }, "cannot be read"},
		{"path", func(c *Config) { c.URL = "mqtt://x/y" }, "path"},
		{"query", func(c *Config) { c.URL = "ws://x/y?z" }, "query"},
		{"version", func(c *Config) { c.Version = "4" }, "5.0, 3.1.1 and auto"},
		{"qos", func(c *Config) { c.QoS = 2 }, "0 and 1"},
		{"group", func(c *Config) { c.Shared = "a/b" }, "group"},
		{"no topics", func(c *Config) { c.Topics = nil }, "mapping"},
		{"two passwords", func(c *Config) { c.Username, c.Password, c.PasswordFile = "u", "hidden", "f" }, "one is enough"},
		{"password alone", func(c *Config) { c.Password = "hidden" }, "without a username"},
		{"no password file", func(c *Config) { c.Username, c.PasswordFile = "u", empty+"x" }, "cannot be read"},
		{"empty password file", func(c *Config) { c.Username, c.PasswordFile = "u", empty }, "is empty"},
		{"keep alive", func(c *Config) { c.KeepAlive = 1 }, "keep_alive"},
		{"back-off", func(c *Config) { c.BackoffMin, c.BackoffMax = 3e9, 2e9 }, "backoff_max"},
		{"receive maximum", func(c *Config) { c.ReceiveMaximum = -1 }, "receive_maximum"},
		{"tls unused", func(c *Config) { c.TLS.CA = "x" }, "mqtts and wss"},
		{"no authority", func(c *Config) { c.URL, c.TLS.CA = "mqtts://x", empty+"x" }, "cannot be read"},
		{"empty authority", func(c *Config) { c.URL, c.TLS.CA = "mqtts://x", empty }, "PEM"},
		{"good files", func(c *Config) { c.URL, c.TLS = "mqtts://x", TLS{CA: ca, Cert: cert, Key: key} }, ""},
		{"no certificate", func(c *Config) { c.URL, c.TLS = "mqtts://x", TLS{Cert: empty + "x", Key: key} }, empty + "x"},
		{"no key", func(c *Config) { c.URL, c.TLS = "wss://x", TLS{Cert: cert, Key: empty + "x"} }, "open " + empty + "x"},
		{"certificate that is none", func(c *Config) { c.URL, c.TLS = "mqtts://x", TLS{Cert: empty, Key: key} }, "PEM"},
		{"key that is none", func(c *Config) { c.URL, c.TLS = "mqtts://x", TLS{Cert: cert, Key: empty} }, "PEM"},
		{"key of another certificate", func(c *Config) { c.URL, c.TLS = "mqtts://x", TLS{Cert: cert, Key: otherKey} }, otherKey + " cannot be used: tls: private key does not match"},
		{"half a pair", func(c *Config) { c.URL, c.TLS.Cert = "mqtts://x", empty }, "both or none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.edit(&c)
			_, err := New(c, Parts{Taker: &hub{}, Log: &noLog{}, Identity: "x"})
			if same := c.Check(); fmt.Sprint(same) != fmt.Sprint(err) {
				t.Errorf("Check says %v, New %v", same, err)
			}
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want %q", err, tt.want)
			case tt.want != "" && signalbox.KindOf(err) != signalbox.KindInvalid:
				t.Errorf("kind %d", signalbox.KindOf(err))
			}
			if err != nil && strings.Contains(err.Error(), "hidden") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"mqtt://broker.example":      "mqtt://broker.example:1883",
		"mqtts://broker.example":     "mqtts://broker.example:8883",
		"mqtts://[::1]:99":           "mqtts://[::1]:99",
		"ws://broker.example":        "ws://broker.example:80/mqtt",
		"wss://broker.example/x%20y": "wss://broker.example:443/x%20y",
	} {
		c := Config{URL: text}
		a, err := c.address()
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if a.String() != want {
			t.Errorf("%s: %s, want %s", text, a, want)
		}
	}
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	one, err := Identity(dir)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Identity(dir)
	if err != nil || one != two || one == "" {
		t.Errorf("%q, then %q: %v", one, two, err)
	}
	other, err := Identity(t.TempDir())
	if err != nil || other == one {
		t.Errorf("two directories have %q: %v", other, err)
	}
	id := clientID(one, strings.Repeat("ж", 64))
	if !regexp.MustCompile(`^[0-9a-zA-Z]{1,23}$`).MatchString(id) {
		t.Errorf("%q is not what every broker takes [MQTT-3.1.3-5]", id)
	}
	if id == clientID(one, "other") || id == clientID(other, strings.Repeat("ж", 64)) {
		t.Error("client identifiers are not different")
	}
}
