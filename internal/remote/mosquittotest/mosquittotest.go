// Package mosquittotest runs Debian's Mosquitto for tests: a broker that no one here wrote. It
// listens on 127.0.0.1 alone, has its files in the test's directory, and ends with the test.
package mosquittotest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// startWait bounds how long the broker may take to accept connections.
const startWait = time.Minute

// firstPort to lastPort are tried for listeners. They are below those that systems give to whoever
// connects, which nobody can keep free from the look at them to the broker's start, or while it is
// killed.
const firstPort, lastPort = 15_000, 32_000

// Options are what a broker is started with. The zero value admits everybody, with MQTT 3.1,
// 3.1.1 and 5.0 over TCP, and keeps nothing over a restart.
type Options struct {
	// Users are names and passwords; with any, nobody else is admitted.
	Users map[string]string
	// Persist keeps sessions and messages over a kill: written to disk at each change.
	Persist bool
	// Cert and Key name PEM files that make the listener TLS.
	Cert, Key string
	// Lines are further lines of the configuration, of the listener first.
	Lines []string
}

// Broker is a running Mosquitto.
type Broker struct {
	// Address is host:port of the listener.
	Address string
	// Dir has its files: conf, log, users, and what it keeps.
	Dir string

	tb   testing.TB
	path string
	cmd  *exec.Cmd
	done chan struct{}
}

// Start runs a broker on a free port. It needs Debian's packages mosquitto and
// mosquitto-clients (for its mosquitto_passwd).
func Start(tb testing.TB, o Options) *Broker {
	tb.Helper()
	path, err := find("mosquitto")
	if err != nil {
		tb.Fatal(err)
	}
	b := &Broker{Address: FreeAddress(tb), Dir: tb.TempDir(), tb: tb, path: path}
	_, port, err := net.SplitHostPort(b.Address)
	if err != nil {
		tb.Fatal(err)
	}
	var conf strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&conf, format+"\n", args...) }
	if os.Getuid() == 0 {
		say("user root") // it would become another user, who may not write here
	}
	say("per_listener_settings false")
	say("log_dest file %s", filepath.Join(b.Dir, "log"))
	say("log_type all")
	say("persistence %t", o.Persist)
	if o.Persist {
		say("persistence_location %s/", b.Dir)
		say("autosave_on_changes true")
		say("autosave_interval 1")
	}
	say("allow_anonymous %t", len(o.Users) == 0)
	if len(o.Users) > 0 {
		say("password_file %s", b.users(o.Users))
	}
	say("listener %s 127.0.0.1", port)
	if o.Cert != "" {
		say("certfile %s", o.Cert)
		say("keyfile %s", o.Key)
	}
	for _, line := range o.Lines {
		say("%s", line)
	}
	b.write("conf", conf.String())
	tb.Cleanup(b.Kill)
	b.Restart()
	return b
}

// find looks for a program where Debian has those of a server too.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	path, err := exec.LookPath("/usr/sbin/" + name)
	if err != nil {
		return "", fmt.Errorf("%s is missing; the Debian packages mosquitto and mosquitto-clients have it: %w", name, err)
	}
	return path, nil
}

func (b *Broker) write(name, text string) string {
	b.tb.Helper()
	path := filepath.Join(b.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.tb.Fatal(err)
	}
	return path
}

func (b *Broker) users(users map[string]string) string {
	b.tb.Helper()
	tool, err := find("mosquitto_passwd")
	if err != nil {
		b.tb.Fatal(err)
	}
	path := b.write("users", "")
	for name, password := range users {
		if out, err := exec.CommandContext(b.tb.Context(), tool, "-b", path, name, password).CombinedOutput(); err != nil {
			b.tb.Fatalf("mosquitto_passwd: %v: %s", err, out)
		}
	}
	return path
}

// Restart runs the broker again after Kill, on the same address with the same files, and
// returns when it accepts connections.
func (b *Broker) Restart() {
	b.tb.Helper()
	cmd := exec.Command(b.path, "-c", filepath.Join(b.Dir, "conf")) //nolint:noctx // it ends by Kill, which waits for it
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		b.tb.Fatalf("start Mosquitto: %v", err)
	}
	done := make(chan struct{})
	b.cmd, b.done = cmd, done
	go func() {
		defer close(done)
		_ = cmd.Wait() // it is killed: never nil
	}()
	deadline := time.NewTimer(startWait)
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		dialer := net.Dialer{Timeout: startWait}
		if c, err := dialer.DialContext(b.tb.Context(), "tcp", b.Address); err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-poll.C:
		case <-done:
			b.tb.Fatalf("Mosquitto ended at once; its log says:\n%s", b.Log())
		case <-deadline.C:
			b.tb.Fatalf("Mosquitto does not accept connections after %s; its log says:\n%s", startWait, b.Log())
		}
	}
}

// Kill ends the broker as kill -9 does, and waits for its end. It may be called twice.
func (b *Broker) Kill() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Kill() // it may have ended already
	<-b.done
	b.cmd = nil
}

// Log gives what the broker logged.
func (b *Broker) Log() string {
	text, err := os.ReadFile(filepath.Join(b.Dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// FreeAddress gives an address of 127.0.0.1 on which nothing listened a moment ago, and which nobody
// is given by chance.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	var config net.ListenConfig
	for range 1000 {
		port := firstPort + mathrand.IntN(lastPort-firstPort)
		l, err := config.Listen(tb.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = l.Close()
			return l.Addr().String()
		}
	}
	tb.Fatalf("no port from %d to %d is free", firstPort, lastPort)
	return ""
}

// Port gives the port of an address.
func Port(tb testing.TB, address string) int {
	tb.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		tb.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		tb.Fatal(err)
	}
	return port
}

// Certificates makes an authority, and a certificate of it for 127.0.0.1, that are good for an
// hour: three PEM files in dir.
func Certificates(tb testing.TB, dir string) (ca, cert, key string) {
	tb.Helper()
	pair := func(subject string, serial int64, authority bool) (*x509.Certificate, *ecdsa.PrivateKey) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			tb.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: subject},
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
			IsCA: authority, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		if authority {
			c.KeyUsage |= x509.KeyUsageCertSign
			c.IPAddresses, c.ExtKeyUsage = nil, nil
		}
		return c, k
	}
	file := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			tb.Fatal(err)
		}
		return path
	}
	root, rootKey := pair("test authority", 1, true)
	leaf, leafKey := pair("127.0.0.1", 2, false)
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		tb.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
	if err != nil {
		tb.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		tb.Fatal(err)
	}
	return file("ca.pem", "CERTIFICATE", rootDER), file("cert.pem", "CERTIFICATE", leafDER), file("key.pem", "PRIVATE KEY", keyDER)
}
