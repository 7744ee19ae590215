package compat_test

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
)

// TestStyleIsAdmitted: the pages' policy admits exactly the style that is in them, and no
// page asks for anything from elsewhere.
func TestStyleIsAdmitted(t *testing.T) {
	s := newSite(t)
	b := s.browser(t)
	check := func(page string) {
		t.Helper()
		w := b.do("GET", page, "")
		body := w.Body.String()
		_, rest, _ := strings.Cut(body, "<style>")
		style, _, ok := strings.Cut(rest, "</style>")
		sum := sha256.Sum256([]byte(style))
		want := "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
		if policy := w.Header().Get("Content-Security-Policy"); !ok || !strings.Contains(policy, want) {
			t.Errorf("%s: the policy %q does not admit %s", page, policy, want)
		}
		for _, foreign := range []string{"<script", "http://", "https://", "<link", "url("} {
			if strings.Contains(body, foreign) {
				t.Errorf("%s holds %s", page, foreign)
			}
		}
	}
	check("/login")
	b.login()
	check("/")
	check("/docs")
}
