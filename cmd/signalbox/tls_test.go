package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secure makes a certificate for 127.0.0.1 in dir, and gives the configuration of a TLS
// port for devices and who trusts the certificate.
func secure(t *testing.T, dir string) (config string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	certificate, err := x509.ParseCertificate(der)
	must(t, err)
	roots = x509.NewCertPool()
	roots.AddCert(certificate)
	return fmt.Sprintf("devices:\n  handshake_timeout: %v\n  tls:\n    listen: 127.0.0.1:0\n    cert: %s\n    key: %s\n    handshakes: 16\n", handshakeTimeout, certFile, keyFile), roots
}

// handshakeTimeout is how long a handshake may take with secure; what tests do meanwhile takes
// far less.
const handshakeTimeout = 10 * time.Second

// connectTLS opens a WebSocket over TLS that nobody has logged in on.
func (h *hub) connectTLS(roots *x509.CertPool) *board {
	h.t.Helper()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: &tls.Config{RootCAs: roots}}
	conn, err := d.DialContext(h.t.Context(), "tcp", h.addresses.TLS)
	must(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, upgradeRequest)
	must(h.t, err)
	return upgraded(h.t, patient{conn})
}

// rawTLS connects to the TLS port without speaking TLS.
func (h *hub) rawTLS() net.Conn {
	h.t.Helper()
	d := net.Dialer{Timeout: patience}
	conn, err := d.DialContext(h.t.Context(), "tcp", h.addresses.TLS)
	must(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	return patient{conn}
}

// TestDevicesOverTLS serves devices of both versions on the TLS port, and bears what is no
// TLS there.
func TestDevicesOverTLS(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "")
	config, roots := secure(t, dir)
	writeConfig(t, dir, config)
	h := startHub(t, dir)
	h.add("esp01", "esp02")

	one := h.connectTLS(roots)
	one.text(fmt.Sprintf(`{"type":"auth","name":"esp01","password":%q}`, secretOf("esp01")))
	one.text(`{"type":"telemetry","status":"работает","servo1":90}`)
	await(t, patience, "the telemetry of version 1 has come", func() bool { return h.device("esp01").Status == "работает" })
	h.send("esp01", "servo1", "45", nil)
	if f := one.frame(); f.raw != `{"command": "servo1", "value": "45"}` {
		t.Errorf("the device of version 1 got %s", f.raw)
	}

	two := h.connectTLS(roots)
	two.text(fmt.Sprintf(`{"type":"auth","v":2,"name":"esp02","password":%q,"boot":"b"}`, secretOf("esp02")))
	if f := two.frame(); f.Type != "auth_ok" {
		t.Fatalf("the login of version 2 was answered with %s", f.raw)
	}
	two.report()
	two.awaitSaved()
	c := h.send("esp02", "servo1", "45", nil)
	f := two.frame()
	two.text(fmt.Sprintf(`{"type":"ack","id":%q}`, f.ID))
	two.text(fmt.Sprintf(`{"type":"result","id":%q,"ok":true}`, f.ID))
	await(t, patience, "the command has succeeded", func() bool { return h.command(c.ID).State == "succeeded" })

	plain := h.rawTLS()
	_, err := io.WriteString(plain, upgradeRequest)
	must(t, err)
	if answer, err := io.ReadAll(plain); len(answer) != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("plain bytes to the TLS port were answered with %q, %v", answer, err)
	}

	began := time.Now()
	silent, stalled := h.rawTLS(), h.rawTLS()
	_, err = stalled.Write([]byte{22, 3, 1, 2, 0, 1}) // the head of a handshake, and no more
	must(t, err)
	for name, conn := range map[string]net.Conn{"silent": silent, "stalled": stalled} {
		if answer, err := io.ReadAll(conn); len(answer) != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a %s handshake was answered with %q, %v", name, answer, err)
		}
	}
	if took := time.Since(began); took < handshakeTimeout {
		t.Errorf("the handshakes were cut after %v, want %v at least", took, handshakeTimeout)
	}
	if _, metrics := h.open("/metrics"); !strings.Contains(metrics, "signalbox_tls_errors_total 3\n") {
		t.Error("three failed handshakes were not counted")
	}
	h.alive(two)
	one.text(`{"type":"telemetry","status":"still there"}`)
	await(t, patience, "the first device is still there", func() bool { return h.device("esp01").Status == "still there" })
	h.signal(os.Interrupt)
	if closed := two.closing(); !strings.HasPrefix(closed, "1001") {
		t.Errorf("the device was told %q", closed)
	}
	if code := h.wait(muchPatience); code != 0 {
		t.Errorf("the hub ended with code %d", code)
	}
	for _, line := range []string{"msg=stopping", "msg=stopped"} {
		if !strings.Contains(h.stderr.String(), line) {
			t.Errorf("the log has no line with %q", line)
		}
	}
}

// TestStalledTLSHandshakes has an address stall as many handshakes as it can; others
// connect all the same.
func TestStalledTLSHandshakes(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "")
	config, roots := secure(t, dir)
	writeConfig(t, dir, strings.Replace(config, handshakeTimeout.String(), "10m", 1))
	h := startHub(t, dir)
	h.add("esp01")
	for range 100 {
		d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
		conn, err := d.DialContext(t.Context(), "tcp", h.addresses.TLS)
		must(t, err)
		defer conn.Close()
	}
	await(t, patience, "the address has the handshakes it may have", func() bool {
		_, metrics := h.open("/metrics")
		return strings.Contains(metrics, "signalbox_tls_handshakes 4\n") && strings.Contains(metrics, "signalbox_tls_refused_total 32\n")
	})
	b := h.connectTLS(roots)
	b.text(fmt.Sprintf(`{"type":"auth","v":2,"name":"esp01","password":%q}`, secretOf("esp01")))
	if f := b.frame(); f.Type != "auth_ok" {
		t.Fatalf("the login was answered with %s", f.raw)
	}
	h.alive(b)
}

// TestTLSGate says that the limit of connections holds before the handshake.
func TestTLSGate(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "")
	config, roots := secure(t, dir)
	writeConfig(t, dir, strings.Replace(config, "devices:\n", "devices:\n  connections_per_address: 1\n", 1))
	h := startHub(t, dir)
	for range 1 + 16 { // one, and some that are told why not
		h.rawTLS()
	}
	refused := h.rawTLS()
	if answer, err := io.ReadAll(refused); len(answer) != 0 || err != nil {
		t.Errorf("a connection beyond the limit was answered with %q, %v", answer, err)
	}
	_, metrics := h.open("/metrics")
	if !strings.Contains(metrics, "signalbox_refused_address_limit_total 1\n") || !strings.Contains(metrics, "signalbox_tls_errors_total 0\n") {
		t.Error("the connection was not refused before its handshake")
	}
	await(t, muchPatience, "the silent ones have made room", func() bool {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: &tls.Config{RootCAs: roots}}
		conn, err := d.DialContext(t.Context(), "tcp", h.addresses.TLS)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	if status, _ := h.open("/healthz"); status != http.StatusOK {
		t.Error("the hub has suffered")
	}
}
