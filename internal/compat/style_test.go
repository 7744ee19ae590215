package compat_test

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
)

// TestPolicyAdmitsWhatIsThere: the pages' policy admits exactly the style and the script
// that are in them, and no page asks for anything from elsewhere.
func TestPolicyAdmitsWhatIsThere(t *testing.T) {
	s := newSite(t)
	b := s.browser(t)
	check := func(page string, parts ...string) {
		t.Helper()
		w := b.do("GET", page, "")
		body, policy := w.Body.String(), w.Header().Get("Content-Security-Policy")
		for _, part := range parts {
			_, rest, _ := strings.Cut(body, "<"+part+">")
			text, _, ok := strings.Cut(rest, "</"+part+">")
			sum := sha256.Sum256([]byte(text))
			want := part + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
			if !ok || !strings.Contains(policy, want) {
				t.Errorf("%s: the policy %q does not say %s", page, policy, want)
			}
		}
		if n := strings.Count(body, "<script"); n != len(parts)-1 {
			t.Errorf("%s holds %d scripts", page, n)
		}
		for _, foreign := range []string{"http://", "https://", "<link", "url("} {
			if strings.Contains(body, foreign) {
				t.Errorf("%s holds %s", page, foreign)
			}
		}
	}
	check("/login", "style")
	b.login()
	check("/", "style", "script")
	check("/docs", "style")
}
