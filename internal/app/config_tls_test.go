package app

import (
	"fmt"
	"strings"
	"testing"

	"signalbox/internal/remote/mosquittotest"
)

func TestCheckCertificates(t *testing.T) {
	ca, cert, key := mosquittotest.Certificates(t, t.TempDir())
	_, _, other := mosquittotest.Certificates(t, t.TempDir())
	for _, section := range []string{"http: {tls: {%s}}", "devices: {tls: {listen: ':8443', %s}}", "mqtt: {tls: {%s}}"} {
		for _, tt := range []struct{ name, cert, key, want string }{
			{"good", cert, key, ""},
			{"a missing certificate", "/nowhere/cert.pem", key, "open /nowhere/cert.pem"},
			{"a missing key", cert, "/nowhere/key.pem", "open /nowhere/key.pem"},
			{"no certificate", key, key, key + " cannot be used: tls: failed to find"},
			{"no key", cert, ca, ca + " cannot be used: tls: found a certificate rather than a key"},
			{"another key", cert, other, other + " cannot be used: tls: private key does not match"},
		} {
			t.Run(section[:4]+" "+tt.name, func(t *testing.T) {
				loaded, err := LoadConfig(ConfigSources{File: writeConfig(t, fmt.Sprintf(section, fmt.Sprintf("cert: %q, key: %q", tt.cert, tt.key))+"\n")})
				if err != nil {
					t.Fatal(err)
				}
				err = loaded.CheckCertificates()
				where := ":1: " + section[:strings.IndexByte(section, ':')] + ".tls: the certificate "
				if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), where)) {
					t.Errorf("it says %v, which should say %q", err, tt.want)
				}
			})
		}
	}
}
