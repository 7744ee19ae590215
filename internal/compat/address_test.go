package compat

import (
	"net/url"
	"strings"
	"testing"
)

// TestLoginAddress holds what werkzeug's request.url and Flask-Login make of addresses.
func TestLoginAddress(t *testing.T) {
	tests := []struct{ path, query, want string }{
		{"/", "", "/login?next=%2F"},
		{"/get_telemetry", "device=esp01", "/login?next=%2Fget_telemetry%3Fdevice%3Desp01"},
		{"/x", "device=%D1%8F%20b+c&q=%2F%26", "/login?next=%2Fx%3Fdevice%3D%D1%8F%2520b%2Bc%26q%3D%2F%2526"},
		{"/x", "a=%7E%41~", "/login?next=%2Fx%3Fa%3D~A~"},
		{"/x", "a=%FF%zz%", "/login?next=%2Fx%3Fa%3D%25FF%25zz%25"},
		{"/x", "a=%23%3D%25%2B", "/login?next=%2Fx%3Fa%3D%2523%253D%2525%252B"},
	}
	for _, tt := range tests {
		if got := loginAddress(tt.path, tt.query); got != tt.want {
			t.Errorf("%s?%s\n got %s\nwant %s", tt.path, tt.query, got, tt.want)
		}
	}
}

// FuzzLoginAddress: whatever is asked for, the answer leads to the login page of this
// server, and next says what was asked for.
func FuzzLoginAddress(f *testing.F) {
	f.Add("/get_telemetry", "device=esp01")
	f.Add("//evil.example", "a=%D1%8F%FF%zz%&b=\r\nc")
	f.Fuzz(func(t *testing.T, path, query string) {
		to := loginAddress(path, query)
		u, err := url.Parse(to)
		if err != nil || u.Scheme != "" || u.Host != "" || u.Path != "/login" || strings.ContainsAny(to, "\r\n\\ ") {
			t.Fatalf("%q and %q lead to %q, %v", path, query, to, err)
		}
		next, err := url.ParseQuery(u.RawQuery)
		if err != nil || len(next) != 1 || !strings.HasPrefix(next.Get("next"), path) {
			t.Fatalf("%q and %q lead to %q, %v", path, query, to, err)
		}
	})
}

func TestWordsFor(t *testing.T) {
	tests := []struct{ accept, lang, offline string }{
		{"", "ru", "Устройство offline"},
		{"ru-RU,ru;q=0.9,en;q=0.8", "ru", "Устройство offline"},
		{"zh-TW", "zh", "设备离线"},
		{"de, fr;q=0.5", "en", "The device is offline"},
		{"en;q=0.2, zh;q=0.9, ru;q=bad", "zh", "设备离线"},
		{"*", "en", "The device is offline"},
	}
	for _, tt := range tests {
		if w := wordsFor(tt.accept); w.Lang != tt.lang || w.Offline != tt.offline {
			t.Errorf("%q gave %s, %q", tt.accept, w.Lang, w.Offline)
		}
	}
}
