package forward

import (
	"strings"
	"testing"
)

func TestShownURL(t *testing.T) {
	for to, want := range map[string]string{
		"tcp://10.0.0.1:9000":                   "tcp://10.0.0.1:9000",
		"https://a.example/in?key=s3cret&b=1#x": "https://a.example/in?key=***&b=***",
		"https://a.example/in?s3cret":           "https://a.example/in?***",
		"mqtt://hub:s3cret@b.example":           "mqtt://hub:***@b.example",
		"https://a.example/%2Fs":                "https://a.example/%2Fs",
		"s3cret":                                "(not a usable URL)",
		"https://%zz?key=s3cret":                "(not a usable URL)",
		"udp://[::1]:9":                         "udp://[::1]:9",
	} {
		if got := ShownURL(to); got != want || strings.Contains(got, "s3cret") {
			t.Errorf("%s is shown as %s, want %s", to, got, want)
		}
	}
	for _, to := range []string{"https://a.example/in?***", "https://a.example/in?a=b&***"} {
		if !HidesSecret(to) {
			t.Errorf("%s is not told from a whole one", to)
		}
	}
	if !HidesSecret("https://a.example/?key=***") || !HidesSecret("mqtt://hub:***@b.example") || HidesSecret("https://a.example/?key=s3cret") {
		t.Error("a shown URL is not told from a whole one")
	}
}

func TestScrub(t *testing.T) {
	spec := &Spec{To: "https://u:pass-word@a.example/in?key=s3cr%20et&n=1", Secrets: Secrets{HMAC: "hmac-key", Bearer: "bearer-key", Password: "the-password"}}
	text := `Post "https://u:pass-word@a.example/in?key=s3cr%20et&n=1": pass-word, s3cr et, s3cr%20et, hmac-key, bearer-key, the-password, key=s3cr%20et&n=1 at 1`
	got := Scrub(text, spec)
	for _, secret := range []string{"pass-word", "s3cr", "hmac-key", "bearer-key", "the-password"} {
		if strings.Contains(got, secret) {
			t.Errorf("%q is left in %s", secret, got)
		}
	}
	if !strings.HasSuffix(got, " at 1") {
		t.Errorf("too much was taken out: %s", got)
	}
}

func TestScrubBasic(t *testing.T) {
	spec := &Spec{To: "https://a.example/", Username: "hub", Secrets: Secrets{Password: "open sesame"}}
	if got := Scrub("you sent Basic aHViOm9wZW4gc2VzYW1l", spec); got != "you sent Basic ***" {
		t.Errorf("got %s", got)
	}
}
