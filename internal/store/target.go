package store

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"signalbox"
)

// A target is a database on a server, as its URL names it.
type target struct {
	url      *url.URL
	user     string
	password string
	network  string // tcp or unix
	address  string // host:port, or the socket's path (PostgreSQL: its directory and port)
	host     string
	port     string
	socket   string
	database string
	options  map[string]string
}

// scheme tells what a kind of URL may hold.
type scheme struct {
	name    string // of the database system
	port    string
	socket  string              // the option that names a Unix socket
	options map[string][]string // name to the values allowed, nil for a path
}

func schemes() map[string]scheme {
	maria := scheme{"MariaDB", "3306", "socket", map[string][]string{
		"socket": nil, "tls": {"false", "preferred", "skip-verify", "true"}, "ca": nil,
	}}
	postgres := scheme{"PostgreSQL", "5432", "host", map[string][]string{
		"host": nil, "sslmode": {"disable", "prefer", "require", "verify-ca", "verify-full"}, "sslrootcert": nil, "sslcert": nil, "sslkey": nil,
	}}
	return map[string]scheme{"mysql": maria, "mariadb": maria, "postgres": postgres, "postgresql": postgres}
}

// CheckURL tells whether text is the URL of a database as Config.URL may hold it:
//
//	mysql://USER:PASSWORD@HOST:3306/DATABASE     tls=false|preferred|skip-verify|true, ca=FILE, socket=FILE
//	postgres://USER:PASSWORD@HOST:5432/DATABASE  sslmode=…, sslrootcert=FILE, sslcert=FILE, sslkey=FILE, host=DIRECTORY
//
// The path of socket or host takes the place of HOST. Where nothing is said of TLS it is
// used if the server offers it, but not on this machine; with a file of who signs the server's
// certificate it is asked for and verified. The error is of KindInvalid and holds nothing of
// the password.
func CheckURL(text string) error {
	_, err := parseTarget(text)
	return err
}

// Redact gives the URL without its password, for people and logs. What is no good URL is
// not shown at all.
func Redact(text string) string {
	if text == "" {
		return ""
	}
	t, err := parseTarget(text)
	if err != nil {
		return "(not a usable URL)"
	}
	u := *t.url
	_, secret := u.User.Password()
	u.User = url.User(t.user)
	if !secret {
		return u.String()
	}
	return strings.Replace(u.String(), "@", ":***@", 1)
}

func badURL(format string, args ...any) error {
	return signalbox.Errorf(signalbox.KindInvalid, "store_url", format, args...)
}

func parseTarget(text string) (target, error) {
	const form = "mysql://USER:PASSWORD@HOST:PORT/DATABASE or postgres://USER:PASSWORD@HOST:PORT/DATABASE"
	u, err := url.Parse(text)
	if err != nil { // the error would hold the text
		return target{}, badURL("the store's address is not a URL like %s; special characters of the password must be percent-encoded", form)
	}
	s, ok := schemes()[u.Scheme]
	if !ok {
		return target{}, badURL("the store's address begins with %q; it must be a URL like %s, or empty for SQLite", u.Scheme, form)
	}
	t := target{url: u, host: u.Hostname(), port: u.Port(), network: "tcp", database: strings.TrimPrefix(u.Path, "/"), options: map[string]string{}}
	if u.User != nil {
		t.user = u.User.Username()
		t.password, _ = u.User.Password()
	}
	if t.user == "" {
		return target{}, badURL("the store's address names no user; it must be a URL like %s", form)
	}
	if t.database == "" || strings.ContainsAny(t.database, "/\x00") {
		return target{}, badURL("the store's address names the database %q; a URL like %s names one that exists", t.database, form)
	}
	if u.Fragment != "" {
		return target{}, badURL("the store's address has a part after «#»; if it belongs to the password, write %%23")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return target{}, badURL("what follows «?» in the store's address is not a list like a=b&c=d")
	}
	if err := t.readOptions(s, query); err != nil {
		return target{}, err
	}
	if err := t.check(); err != nil {
		return target{}, err
	}
	if t.port == "" {
		t.port = s.port
	}
	if t.socket = t.options[s.socket]; t.socket != "" {
		if t.host != "" || !filepath.IsAbs(t.socket) {
			return target{}, badURL("the store's address says %s=%s; that must be an absolute path, and stands instead of a host", s.socket, t.socket)
		}
		t.network, t.address = "unix", t.socket
		return t, nil
	}
	if t.host == "" {
		return target{}, badURL("the store's address names neither a host nor, with %s=PATH, a Unix socket", s.socket)
	}
	t.address = net.JoinHostPort(t.host, t.port)
	return t, nil
}

func (t *target) readOptions(s scheme, query url.Values) error {
	for name, values := range query {
		allowed, known := s.options[name]
		if !known {
			return badURL("the store's address has the option %q; %s knows %s", name, s.name, strings.Join(slices.Sorted(maps.Keys(s.options)), ", "))
		}
		value := values[len(values)-1]
		if allowed != nil && !slices.Contains(allowed, value) {
			return badURL("the store's address says %s=%s; allowed is %s", name, value, strings.Join(allowed, ", "))
		}
		t.options[name] = value
	}
	return nil
}

// check looks for options that contradict each other.
func (t *target) check() error {
	if mode := t.options["tls"]; t.options["ca"] != "" && mode != "" && mode != "true" {
		return badURL("the store's address says tls=%s, which verifies no certificate, and ca=FILE; with a file it is tls=true", mode)
	}
	mode := t.options["sslmode"]
	if t.options["sslrootcert"] != "" && mode != "" && !strings.HasPrefix(mode, "verify-") {
		return badURL("the store's address says sslmode=%s, which verifies no certificate, and sslrootcert=FILE; with a file it is verify-full or verify-ca", mode)
	}
	return nil
}

// authorities reads who signs servers' certificates.
func authorities(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file) //nolint:gosec // the store's address names it
	if err != nil {
		return nil, signalbox.Wrap(signalbox.KindInvalid, "store_url", err, "the file %s of the store's address cannot be read (%s)", file, cause(err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, badURL("the file %s of the store's address holds no certificate in PEM", file)
	}
	return pool, nil
}

// distrust says what is wrong with a server's certificate, if that is what err is about.
func distrust(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "an unknown authority has signed it"
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return e.Error()
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return e.Err.Error()
	}
	return ""
}

func noTLS(err error, to target) error {
	return signalbox.Wrap(signalbox.KindUnavailable, "store_no_tls", err, "the database server at %s offers no TLS, which the store's address asks for", to.address)
}

// near says whether the server is on this machine, as far as the address tells.
func (t *target) near() bool {
	a, err := netip.ParseAddr(t.host)
	return t.network == "unix" || t.host == "localhost" || err == nil && a.IsLoopback()
}

func (t *target) postgres() bool { return strings.HasPrefix(t.url.Scheme, "postgres") }

// String names the database for people.
func (t *target) String() string {
	return fmt.Sprintf("%s at %s", t.database, t.address)
}
