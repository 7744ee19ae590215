package target

import (
	"encoding/base64"
	"os/exec"
	"strings"
	"testing"

	"signalbox"
	"signalbox/internal/forward"
)

// TestSign holds the signature to the example of Standard Webhooks, and to another language's own
// library.
func TestSign(t *testing.T) {
	const script = `
import base64, hashlib, hmac, sys
key, told, at, body = (bytes.fromhex(a) for a in sys.argv[1:])
print("v1," + base64.b64encode(hmac.new(key, told + b"." + at + b"." + body, hashlib.sha256).digest()).decode())`
	raw, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, secret string
		key          []byte
		want         string
	}{
		{"base64", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", raw, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
		{"as given", "тайна, 秘密", []byte("тайна, 秘密"), ""},
		{"base64 without its filling", "whsec_" + base64.RawStdEncoding.EncodeToString([]byte("a key of 17 bytes")), []byte("a key of 17 bytes"), ""},
	}
	const told, at, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := newSigner(test.secret)
			if err != nil {
				t.Fatal(err)
			}
			got := s.sign(told, 1614265330, []byte(body))
			if test.want != "" && got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			out, err := exec.CommandContext(t.Context(), "python3", "-c", script, hexOf(test.key), hexOf([]byte(told)), hexOf([]byte(at)), hexOf([]byte(body))).CombinedOutput()
			if err != nil {
				t.Fatalf("python3: %v: %s", err, out)
			}
			if python := strings.TrimSpace(string(out)); got != python {
				t.Errorf("got %s, Python says %s", got, python)
			}
		})
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

func TestSignWithoutSecret(t *testing.T) {
	s, err := newSigner("")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.sign("a", 1, nil); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
}

func TestBadSecret(t *testing.T) {
	for _, secret := range []string{"whsec_", "whsec_???", "whsec_a"} {
		_, err := newWebhook(&forward.Spec{To: "http://127.0.0.1:1/", Secrets: forward.Secrets{HMAC: secret}}, &guard{trusted: true}, "/signalbox/x", quiet())
		if signalbox.KindOf(err) != signalbox.KindInvalid {
			t.Errorf("%s: got %v", secret, err)
		} else if rest := strings.TrimPrefix(secret, "whsec_"); rest != "" && strings.Contains(err.Error(), "_"+rest) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}
