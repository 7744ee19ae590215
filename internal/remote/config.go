package remote

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"signalbox"
	"signalbox/internal/mapped"
)

// Version is the version of MQTT that a broker is spoken to with.
type Version string

// The versions. Auto begins with 5.0 and goes to 3.1.1 when the broker says that it does not
// know 5.0. When it closes without an answer, and 5.0 has never worked with it since the start,
// one attempt with 3.1.1 follows each with 5.0.
const (
	Auto Version = "auto"
	V5   Version = "5.0"
	V311 Version = "3.1.1"
)

// Defaults and bounds of a Config.
const (
	DefaultKeepAlive      = 30 * time.Second
	DefaultSessionExpiry  = time.Hour
	DefaultConnectTimeout = 10 * time.Second
	DefaultBackoffMin     = time.Second
	DefaultBackoffMax     = time.Minute
	DefaultReceiveMaximum = 1024
	DefaultMaxPacket      = 1 << 20

	minKeepAlive     = 2 * time.Second
	maxKeepAlive     = 65535 * time.Second
	maxSessionExpiry = 30 * 24 * time.Hour
	maxReceive       = 16384
	maxPacketBound   = 64 << 20
)

// Config is one broker. Zero values take the defaults, but for QoS.
type Config struct {
	// Name says in logs, status and metrics which broker it is; letters, digits, «.», «_», «-».
	Name string
	// URL is mqtt://, mqtts://, ws:// or wss:// host[:port]; the ports default to 1883, 8883,
	// 80 and 443. A path is for ws and wss alone (default /mqtt). It holds no credentials.
	URL string
	// Version is Auto if empty.
	Version Version
	// ClientID is made from Parts.Identity and Name if empty.
	ClientID string
	// Username and Password are what the broker wants; PasswordFile names a file that has the
	// password instead, without the white space at its end. It is read once, by New.
	Username, Password, PasswordFile string
	TLS                              TLS
	// Topics are what is subscribed to, and what it means: the mappings' filters.
	Topics []mapped.Mapping
	// Native subscribes to what devices publish in the native tree as well: they are connected to
	// that broker as others are to the hub's own. nil: it does not. The taker has the same.
	Native *mapped.Native
	// QoS is that of the subscriptions: 0 or 1.
	QoS uint8
	// Shared is the group of a shared subscription, empty for none.
	Shared string
	// KeepAlive (30 s; 2 s to 18 h) is after how long a silent broker is asked whether it is
	// there; no answer for as long again ends the connection.
	KeepAlive time.Duration
	// SessionExpiry (1 h; at most 30 days) is how long the broker keeps the session of a hub
	// that is away; 3.1.1 brokers decide that themselves. It has no meaning with Shared.
	SessionExpiry time.Duration
	// ConnectTimeout (10 s) bounds one attempt, from the first packet to the CONNACK.
	ConnectTimeout time.Duration
	// BackoffMin (1 s) and BackoffMax (1 min) bound the waits between attempts.
	BackoffMin, BackoffMax time.Duration
	// ReceiveMaximum (1024; at most 16384) bounds the messages that wait to be taken or
	// acknowledged.
	ReceiveMaximum int
	// MaxPacket (1 MiB; 1 KiB to 64 MiB) bounds a packet with 5.0, in bytes.
	MaxPacket int
}

// TLS is what mqtts and wss use. Certificates are always checked.
type TLS struct {
	// CA names a PEM file with the authorities to trust instead of the system's.
	CA string
	// Cert and Key name the client's own certificate, both or none.
	Cert, Key string
}

func invalid(name, format string, args ...any) error {
	return signalbox.Errorf(signalbox.KindInvalid, "invalid_broker", "MQTT broker %q: %s", name, fmt.Sprintf(format, args...))
}

// Check tells what New would find wrong with c. It reads the files that c names.
func (c Config) Check() error {
	if err := c.settle(""); err != nil {
		return err
	}
	if _, err := c.password(); err != nil {
		return err
	}
	if _, err := c.address(); err != nil {
		return err
	}
	if _, err := mapped.Subscriptions(c.Topics); err != nil {
		return invalid(c.Name, "%s", err)
	}
	_, _, err := c.echoes()
	return err
}

// settle checks c and puts the defaults in.
func (c *Config) settle(identity string) error {
	if err := signalbox.CheckName("name of an MQTT broker", c.Name); err != nil {
		return err
	}
	if c.Version == "" {
		c.Version = Auto
	}
	if c.Version != Auto && c.Version != V5 && c.Version != V311 {
		return invalid(c.Name, "the version is %q; allowed are 5.0, 3.1.1 and auto", c.Version)
	}
	if c.QoS > 1 {
		return invalid(c.Name, "qos is %d; allowed are 0 and 1", c.QoS)
	}
	if strings.ContainsAny(c.Shared, "/+#\x00") {
		return invalid(c.Name, "the group %q of the shared subscription holds one of / + # and NUL", c.Shared)
	}
	if len(c.Topics) == 0 && c.Native == nil {
		return invalid(c.Name, "no topics: at least one mapping is needed, or native")
	}
	for i := range c.Topics {
		if c.Topics[i].Preset == mapped.PresetThingsBoard {
			return invalid(c.Name, "the preset %s is for boards that log in at the hub itself; its topics do not say which board they are of", mapped.PresetThingsBoard)
		}
	}
	if c.Password != "" && c.PasswordFile != "" {
		return invalid(c.Name, "password and password_file are both set; one is enough")
	}
	if (c.Password != "" || c.PasswordFile != "") && c.Username == "" {
		return invalid(c.Name, "a password without a username, which MQTT 3.1.1 does not allow (3.1.2.9)")
	}
	for _, d := range []struct {
		name       string
		value      *time.Duration
		to, lo, hi time.Duration
	}{
		{"keep_alive", &c.KeepAlive, DefaultKeepAlive, minKeepAlive, maxKeepAlive},
		{"session_expiry", &c.SessionExpiry, DefaultSessionExpiry, time.Second, maxSessionExpiry},
		{"connect_timeout", &c.ConnectTimeout, DefaultConnectTimeout, 10 * time.Millisecond, 5 * time.Minute},
		{"backoff_min", &c.BackoffMin, DefaultBackoffMin, time.Millisecond, time.Hour},
		{"backoff_max", &c.BackoffMax, max(DefaultBackoffMax, c.BackoffMin), c.BackoffMin, 24 * time.Hour},
	} {
		if *d.value == 0 {
			*d.value = d.to
		}
		if *d.value < d.lo || *d.value > d.hi {
			return invalid(c.Name, "%s is %s; allowed are %s to %s", d.name, *d.value, d.lo, d.hi)
		}
	}
	for _, d := range []struct {
		name       string
		value      *int
		to, lo, hi int
	}{
		{"receive_maximum", &c.ReceiveMaximum, DefaultReceiveMaximum, 1, maxReceive},
		{"max_packet", &c.MaxPacket, DefaultMaxPacket, 1 << 10, maxPacketBound},
	} {
		if *d.value == 0 {
			*d.value = d.to
		}
		if *d.value < d.lo || *d.value > d.hi {
			return invalid(c.Name, "%s is %d; allowed are %d to %d", d.name, *d.value, d.lo, d.hi)
		}
	}
	if c.ClientID == "" {
		c.ClientID = clientID(identity, c.Name)
	}
	return nil
}

// clientID gives what every broker must accept: at most 23 letters and digits
// [MQTT-3.1.3-5], the same for the same hub and name.
func clientID(identity, name string) string {
	sum := sha256.Sum256([]byte(identity + "\x00" + name))
	return "signalbox" + hex.EncodeToString(sum[:7])
}

// password reads the secret.
func (c *Config) password() (string, error) {
	if c.PasswordFile == "" {
		return c.Password, nil
	}
	text, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", signalbox.Wrap(signalbox.KindInvalid, "invalid_broker", err, "MQTT broker %q: the password file cannot be read", c.Name)
	}
	secret := strings.TrimRight(string(text), " \t\r\n")
	if secret == "" {
		return "", invalid(c.Name, "the password file %s is empty", c.PasswordFile)
	}
	return secret, nil
}

// address is where a broker is.
type address struct {
	scheme string
	host   string // with port
	url    string // of the WebSocket
	tls    *tls.Config
}

func (a *address) String() string {
	if a.url != "" {
		return a.url
	}
	return a.scheme + "://" + a.host
}

// address reads URL and certificates.
func (c *Config) address() (*address, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		// The parser's words hold the whole text, and that may hold a password.
		return nil, invalid(c.Name, "the url cannot be read; it must be like mqtts://broker.example:8883")
	}
	if u.User != nil {
		return nil, invalid(c.Name, "the url holds credentials; they belong into username and password or password_file")
	}
	ports := map[string]string{"mqtt": "1883", "mqtts": "8883", "ws": "80", "wss": "443"}
	port, ok := ports[u.Scheme]
	if !ok {
		return nil, invalid(c.Name, "the url begins with %q; allowed are mqtt, mqtts, ws and wss", u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, invalid(c.Name, "the url names no host; it must be like mqtts://broker.example:8883")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	a := &address{scheme: u.Scheme, host: net.JoinHostPort(u.Hostname(), port)}
	web := u.Scheme == "ws" || u.Scheme == "wss"
	switch {
	case u.RawQuery != "" || u.Fragment != "":
		return nil, invalid(c.Name, "the url has a query or a fragment, which means nothing here")
	case web && (u.Path == "" || u.Path == "/"):
		a.url = u.Scheme + "://" + a.host + "/mqtt"
	case web:
		a.url = u.Scheme + "://" + a.host + u.EscapedPath()
	case u.Path != "" && u.Path != "/":
		return nil, invalid(c.Name, "the url has the path %q; only ws and wss have one", u.Path)
	}
	if u.Scheme == "mqtts" || u.Scheme == "wss" {
		a.tls, err = c.certificates(u.Hostname())
	} else if c.TLS != (TLS{}) {
		err = invalid(c.Name, "tls is configured, but the url begins with %s; mqtts and wss use it", u.Scheme)
	}
	return a, err
}

func (c *Config) certificates(host string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if c.TLS.CA != "" {
		text, err := os.ReadFile(c.TLS.CA)
		if err != nil {
			return nil, signalbox.Wrap(signalbox.KindInvalid, "invalid_broker", err, "MQTT broker %q: the file of authorities cannot be read", c.Name)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(text) {
			return nil, invalid(c.Name, "the file of authorities %s has no certificate in PEM", c.TLS.CA)
		}
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		return nil, invalid(c.Name, "tls has one of cert and key; it needs both or none")
	}
	if c.TLS.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
		if err != nil {
			return nil, invalid(c.Name, "the client's certificate %s with key %s cannot be used: %s", c.TLS.Cert, c.TLS.Key, err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// identityFile is where a data directory has its identity.
const identityFile = "mqtt-client-id"

// Identity gives a random text that a data directory keeps, made at the first call: what
// makes the client identifiers of two hubs different, and those of one the same at each start.
// It is no secret, and no part of a backup: a hub restored elsewhere is another client.
func Identity(dir string) (string, error) {
	path := filepath.Join(dir, identityFile)
	text, err := os.ReadFile(path)
	if err == nil {
		if id := strings.TrimSpace(string(text)); id != "" {
			return id, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the identity for MQTT brokers: %w", err)
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	id := hex.EncodeToString(b[:])
	if err := os.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the identity for MQTT brokers: %w", err)
	}
	return id, nil
}
