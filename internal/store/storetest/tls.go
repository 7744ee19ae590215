package storetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An Authority signs certificates of servers, for one test.
type Authority struct {
	// File holds its certificate, PEM.
	File string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority.
func NewAuthority(tb testing.TB) *Authority {
	tb.Helper()
	a := &Authority{File: filepath.Join(tb.TempDir(), "ca.pem")}
	certificate, key := a.make(tb, "authority of a test")
	write(tb, a.File, "CERTIFICATE", certificate)
	a.key = key
	var err error
	if a.cert, err = x509.ParseCertificate(certificate); err != nil {
		tb.Fatal(err)
	}
	return a
}

// make makes a key and a certificate for host: an authority's own as long as there is none.
func (a *Authority) make(tb testing.TB, host string) (certificate []byte, key *ecdsa.PrivateKey) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		tb.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = form, key
		form.IsCA, form.KeyUsage = true, x509.KeyUsageCertSign
	} else if ip := net.ParseIP(host); ip != nil {
		form.IPAddresses = []net.IP{ip}
	} else {
		form.DNSNames = []string{host}
	}
	if certificate, err = x509.CreateCertificate(rand.Reader, form, parent, &key.PublicKey, signer); err != nil {
		tb.Fatal(err)
	}
	return certificate, key
}

// Options are those with which a server offers TLS, with a certificate for host.
func (a *Authority) Options(tb testing.TB, kind Kind, host string) []string {
	tb.Helper()
	certificate, key := a.make(tb, host)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sbtls") //nolint:usetesting // a test's directory is closed to the servers' user
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(tb, certFile, "CERTIFICATE", certificate)
	write(tb, keyFile, "PRIVATE KEY", secret)
	for _, path := range []string{dir, certFile, keyFile} {
		if err := own(path); err != nil {
			tb.Fatal(err)
		}
	}
	if kind == PostgreSQL {
		return []string{"-c", "ssl=on", "-c", "ssl_cert_file=" + certFile, "-c", "ssl_key_file=" + keyFile}
	}
	return []string{"--ssl-cert=" + certFile, "--ssl-key=" + keyFile}
}

func write(tb testing.TB, file, kind string, body []byte) {
	tb.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: body}), 0o600); err != nil {
		tb.Fatal(err)
	}
}
