package api_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"signalbox"
	"signalbox/internal/api"
)

// scenario is one request and what has to come of it.
type scenario struct {
	name   string
	method string
	url    string
	body   string
	as     string // scope of the token, "local", or "" for nobody
	header map[string]string
	status int
	want   []string // parts of the answer's body
	not    []string // what must not be in it
	heads  map[string]string
}

func run(t *testing.T, h *hub, list []scenario) {
	t.Helper()
	for _, s := range list {
		t.Run(s.name, func(t *testing.T) {
			w := h.ask(s.method, s.url, s.body, s.as, s.header)
			body := w.Body.String()
			if w.Code != s.status {
				t.Errorf("%s %s gave %d, want %d: %s", s.method, s.url, w.Code, s.status, body)
			}
			for _, part := range s.want {
				if !strings.Contains(body, part) {
					t.Errorf("the answer misses %s:\n%s", part, body)
				}
			}
			for _, part := range s.not {
				if strings.Contains(body, part) {
					t.Errorf("the answer holds %s:\n%s", part, body)
				}
			}
			for k, v := range s.heads {
				if got := w.Header().Get(k); got != v {
					t.Errorf("header %s is %q, want %q", k, got, v)
				}
			}
			if w.Code >= 400 {
				if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
					t.Errorf("an error of type %q: %s", ct, body)
				}
				for _, part := range []string{`"type":"about:blank"`, `"title":`, `"status":`, `"detail":`, `"code":`} {
					if !strings.Contains(body, part) {
						t.Errorf("the problem misses %s: %s", part, body)
					}
				}
			}
		})
	}
}

const v1 = "/api/v1"

func TestDevices(t *testing.T) {
	h := newHub(t, nil)
	h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV1)
	h.add(t, "esp02", "station")
	h.add(t, "датчик", "sensor")
	run(t, h, []scenario{
		{name: "list", method: "GET", url: v1 + "/devices", as: "read", status: 200, want: []string{`"name":"esp01"`, `"name":"esp02"`, `"name":"датчик"`, `"total":3`, `"presence":"online"`}, not: []string{`"next"`, "secret", "$schema"}},
		{name: "list by type", method: "GET", url: v1 + "/devices?type=box&type=sensor", as: "read", status: 200, want: []string{"esp01", "датчик"}, not: []string{"esp02"}},
		{name: "list by presence", method: "GET", url: v1 + "/devices?presence=offline", as: "read", status: 200, want: []string{"esp02"}, not: []string{"esp01"}},
		{name: "list by prefix", method: "GET", url: v1 + "/devices?prefix=esp", as: "read", status: 200, want: []string{"esp01", "esp02"}, not: []string{"датчик"}},
		{name: "first page", method: "GET", url: v1 + "/devices?limit=1", as: "read", status: 200, want: []string{"esp01", `"next":"ZGVzcDAx"`}, not: []string{"esp02"}},
		{name: "second page", method: "GET", url: v1 + "/devices?limit=1&cursor=ZGVzcDAx", as: "read", status: 200, want: []string{"esp02", `"next"`}, not: []string{"esp01"}},
		{name: "broken cursor", method: "GET", url: v1 + "/devices?cursor=%3F%3F", as: "read", status: 400, want: []string{"invalid_cursor"}},
		{name: "another list's cursor", method: "GET", url: v1 + "/devices?cursor=Y2FiYw", as: "read", status: 400, want: []string{"invalid_cursor"}},
		{name: "bad limit", method: "GET", url: v1 + "/devices?limit=0", as: "read", status: 400, want: []string{`"code":"invalid_request"`, "query.limit"}},
		{name: "bad presence", method: "GET", url: v1 + "/devices?presence=away", as: "read", status: 400, want: []string{"query.presence"}},
		{name: "show", method: "GET", url: v1 + "/devices/%D0%B4%D0%B0%D1%82%D1%87%D0%B8%D0%BA", as: "read", status: 200, want: []string{`"status":"offline"`, `"disabled":false`}},
		{name: "show unknown", method: "GET", url: v1 + "/devices/nobody", as: "read", status: 404, want: []string{"device_not_found", "nobody"}},
		{name: "add", method: "POST", url: v1 + "/devices", body: `{"name":"esp03","type":"box"}`, as: "admin", status: 201, want: []string{`"secret":"`, `"name":"esp03"`}, heads: map[string]string{"Location": "/api/v1/devices/esp03"}},
		{name: "add with a secret", method: "POST", url: v1 + "/devices", body: `{"name":"esp04","secret":"1234"}`, as: "local", status: 201, want: []string{`"type":"device"`}, not: []string{"1234"}},
		{name: "add again", method: "POST", url: v1 + "/devices", body: `{"name":"esp03","type":"box"}`, as: "admin", status: 409, want: []string{"name_taken"}},
		{name: "add a bad name", method: "POST", url: v1 + "/devices", body: `{"name":"a b"}`, as: "admin", status: 400, want: []string{"invalid_name"}},
		{name: "add an unknown key", method: "POST", url: v1 + "/devices", body: `{"name":"x","passwort":"geheim"}`, as: "admin", status: 400, want: []string{"passwort"}, not: []string{"geheim"}},
		{name: "add without a name", method: "POST", url: v1 + "/devices", body: `{}`, as: "admin", status: 400, want: []string{"name"}},
		{name: "add broken JSON", method: "POST", url: v1 + "/devices", body: `{"name":`, as: "admin", status: 400},
		{name: "add nothing", method: "POST", url: v1 + "/devices", as: "admin", status: 400},
		{name: "add XML", method: "POST", url: v1 + "/devices", body: `<x/>`, header: map[string]string{"Content-Type": "text/xml"}, as: "admin", status: 415},
		{name: "add too much", method: "POST", url: v1 + "/devices", body: `{"name":"` + strings.Repeat("a", 2<<20) + `"}`, as: "admin", status: 413, want: []string{"too_large"}},
		{name: "change the type", method: "PATCH", url: v1 + "/devices/esp02", body: `{"type":"box"}`, as: "admin", status: 200, want: []string{`"type":"box"`}},
		{name: "change to a bad type", method: "PATCH", url: v1 + "/devices/esp02", body: `{"type":""}`, as: "admin", status: 400, want: []string{"invalid_name"}},
		{name: "rotate", method: "POST", url: v1 + "/devices/esp02/secret", as: "admin", status: 200, want: []string{`"secret":"`}},
		{name: "rotate to a given one", method: "POST", url: v1 + "/devices/esp02/secret", body: `{"secret":"9876"}`, as: "admin", status: 200, not: []string{"9876", `"secret"`}},
		{name: "rotate to too long a one", method: "POST", url: v1 + "/devices/esp02/secret", body: `{"secret":"` + strings.Repeat("x", 129) + `"}`, as: "admin", status: 400, want: []string{"invalid_secret"}},
		{name: "state", method: "GET", url: v1 + "/devices/esp01/state", as: "read", status: 200, want: []string{`"device":"esp01"`, `"presence":"online"`}, not: []string{`"telemetry"`, `"received"`}},
		{name: "remove", method: "DELETE", url: v1 + "/devices/esp03", as: "admin", status: 204},
		{name: "remove again", method: "DELETE", url: v1 + "/devices/esp03", as: "admin", status: 404},
	})
	kept, _ := h.devices.Find("esp02").Secret()
	if !h.keys.Verify(kept.Kind, &kept.Sum, []byte("9876")) {
		t.Error("the given secret is not the device's")
	}
}

func TestSessionsEnd(t *testing.T) {
	h := newHub(t, nil)
	b := h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV2)
	for _, step := range []struct{ method, path, body, reason string }{
		{"PATCH", "", `{"disabled":true}`, "disabled"},
		{"POST", "/secret", "", "secret_changed"},
		{"DELETE", "", "", "removed"},
	} {
		if w := h.ask(step.method, v1+"/devices/esp01"+step.path, step.body, "admin", nil); w.Code >= 300 {
			t.Fatalf("%s %s: %d %s", step.method, step.path, w.Code, w.Body)
		}
		if got := receive(t, b.ended); got != step.reason {
			t.Errorf("%s %s ended the session with %q, want %q", step.method, step.path, got, step.reason)
		}
	}
}

func TestScopes(t *testing.T) {
	h := newHub(t, nil)
	h.add(t, "esp01", "box")
	needs := []struct {
		method, url, body string
		scope             signalbox.Scope
	}{
		{"GET", "/devices", "", signalbox.ScopeRead},
		{"GET", "/devices/esp01", "", signalbox.ScopeRead},
		{"GET", "/devices/esp01/state", "", signalbox.ScopeRead},
		{"GET", "/devices/esp01/telemetry", "", signalbox.ScopeRead},
		{"GET", "/devices/esp01/commands", "", signalbox.ScopeRead},
		{"GET", "/commands", "", signalbox.ScopeRead},
		{"GET", "/me", "", signalbox.ScopeRead},
		{"POST", "/devices/esp01/commands", `{"command":"x"}`, signalbox.ScopeCommand},
		{"POST", "/commands", `{"command":"x","devices":["esp01"]}`, signalbox.ScopeCommand},
		{"DELETE", "/commands/00000000000000000000000000", "", signalbox.ScopeCommand},
		{"POST", "/devices", `{"name":"new"}`, signalbox.ScopeAdmin},
		{"PATCH", "/devices/esp01", `{}`, signalbox.ScopeAdmin},
		{"POST", "/devices/esp01/secret", "", signalbox.ScopeAdmin},
		{"POST", "/devices/import", `[]`, signalbox.ScopeAdmin},
		{"POST", "/import", `{}`, signalbox.ScopeAdmin},
		{"GET", "/users", "", signalbox.ScopeAdmin},
		{"POST", "/users", `{"name":"u","password":"long enough"}`, signalbox.ScopeAdmin},
		{"PUT", "/users/nobody/password", `{"password":"long enough"}`, signalbox.ScopeAdmin},
		{"DELETE", "/users/nobody", "", signalbox.ScopeAdmin},
		{"GET", "/tokens", "", signalbox.ScopeAdmin},
		{"POST", "/tokens", `{"name":"t","scope":"read"}`, signalbox.ScopeAdmin},
		{"DELETE", "/tokens/nobody", "", signalbox.ScopeAdmin},
	}
	for _, n := range needs {
		t.Run(n.method+" "+n.url, func(t *testing.T) {
			if w := h.ask(n.method, v1+n.url, n.body, "", nil); w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("nobody got %d, WWW-Authenticate %q", w.Code, w.Header().Get("WWW-Authenticate"))
			}
			for scope := range h.tokens {
				w := h.ask(n.method, v1+n.url, n.body, string(scope), nil)
				if denied := w.Code == http.StatusForbidden; denied == scope.Allows(n.scope) {
					t.Errorf("scope %s got %d: %s", scope, w.Code, w.Body)
				}
			}
		})
	}
}

func TestOutside(t *testing.T) {
	h := newHub(t, func(c *api.Config) {
		c.Ready = func(context.Context) []api.Check {
			return []api.Check{{Name: "storage", OK: false, Message: "the disk is full"}, {Name: "broker", OK: true, Message: "degraded: away", Detail: "dial tcp 10.0.0.5:1883"}}
		}
	})
	w := h.ask("POST", v1+"/login", `{"name":"admin","password":"`+adminPassword+`"}`, "", nil)
	if w.Code != http.StatusNoContent {
		t.Fatalf("login: %d %s", w.Code, w.Body)
	}
	cookie := w.Result().Cookies()[0]
	if cookie.Name != "signalbox_session" || !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" || cookie.Secure {
		t.Errorf("the cookie is %+v", cookie)
	}
	me := "cookie:" + cookie.Value
	far := map[string]string{"RemoteAddr": "192.0.2.7:1000"}
	near := map[string]string{"RemoteAddr": "127.0.0.1:1000", "Host": "127.0.0.1:8080"}
	run(t, h, []scenario{
		{name: "no route", method: "GET", url: "/nothing", status: 404, want: []string{"no_such_address"}},
		{name: "no route below the API", method: "GET", url: v1 + "/nothing", as: "admin", status: 404},
		{name: "method", method: "PUT", url: v1 + "/devices", as: "admin", status: 405, want: []string{"method_not_allowed"}, heads: map[string]string{"Allow": "GET, HEAD, POST"}},
		{name: "me by cookie", method: "GET", url: v1 + "/me", as: me, status: 200, want: []string{`"name":"admin"`, `"kind":"user"`, `"scope":"admin"`}},
		{name: "me by token", method: "GET", url: v1 + "/me", as: "read", status: 200, want: []string{`"kind":"token"`, `"scope":"read"`}},
		{name: "me local", method: "GET", url: v1 + "/me", as: "local", status: 200, want: []string{`"name":"local"`, `"kind":"local"`, `"scope":"admin"`}},
		{name: "wrong token does not fall back to the cookie", method: "GET", url: v1 + "/me", as: me, header: map[string]string{"Authorization": "Bearer sbx_wrong"}, status: 401},
		{name: "no token in the address", method: "GET", url: v1 + "/me?token=" + h.tokens["admin"], status: 401},
		{name: "same origin", method: "POST", url: v1 + "/devices", body: `{"name":"a"}`, as: me, header: map[string]string{"Sec-Fetch-Site": "same-origin"}, status: 201},
		{name: "cross origin", method: "POST", url: v1 + "/devices", body: `{"name":"b"}`, as: me, header: map[string]string{"Sec-Fetch-Site": "cross-site"}, status: 403, want: []string{"cross_origin"}},
		{name: "old browser, cross origin", method: "POST", url: v1 + "/devices", body: `{"name":"b"}`, as: me, header: map[string]string{"Origin": "https://evil.example"}, status: 403},
		{name: "a script with a cookie", method: "POST", url: v1 + "/devices", body: `{"name":"b"}`, as: me, status: 201},
		{name: "cross origin with a token", method: "POST", url: v1 + "/devices", body: `{"name":"c"}`, as: "admin", header: map[string]string{"Origin": "https://dashboard.example"}, status: 201},
		{name: "health", method: "GET", url: "/healthz", header: far, status: 200, want: []string{`"status":"ok"`}},
		{name: "metrics from afar", method: "GET", url: "/metrics", header: far, status: 401},
		{name: "metrics with a token", method: "GET", url: "/metrics", as: "read", header: far, status: 200},
		{name: "metrics from here", method: "GET", url: "/metrics", header: near, status: 200},
		{name: "metrics from here by another name", method: "GET", url: "/metrics", header: map[string]string{"RemoteAddr": "127.0.0.1:1000", "Host": "evil.example"}, status: 401},
		{name: "metrics passed on by a proxy here", method: "GET", url: "/metrics", header: map[string]string{"RemoteAddr": "127.0.0.1:1000", "Host": "localhost", "X-Forwarded-For": "192.0.2.1"}, status: 401},
		{name: "docs from afar", method: "GET", url: "/docs", header: far, status: 401},
		{name: "docs from afar in a browser", method: "GET", url: "/docs", header: map[string]string{"RemoteAddr": "192.0.2.7:1000", "Accept": "text/html"}, status: 302, heads: map[string]string{"Location": "/login?next=%2Fdocs"}},
		{name: "docs", method: "GET", url: "/docs", as: "read", header: far, status: 200, want: []string{"/api/v1/devices/{name}/telemetry", "send-command"}, not: []string{"<script", "http://", "https://"}},
		{name: "openapi", method: "GET", url: "/openapi.json", header: near, status: 200, want: []string{`"openapi":"3.1.0"`, "application/problem+json", `"bearer"`, `"Device"`}, not: []string{`"422"`, "ErrorModel"}},
		{name: "openapi as YAML", method: "GET", url: "/openapi.yaml", header: near, status: 200, want: []string{"openapi: 3.1.0"}},
	})
	// Where others are is for those who may read.
	for _, tt := range []struct {
		name, as string
		header   map[string]string
		detail   bool
	}{
		{"from afar", "", far, false},
		{"from afar with a wrong token", "", map[string]string{"RemoteAddr": "192.0.2.7:1000", "Authorization": "Bearer sbx_wrong"}, false},
		{"from afar with a token", "read", far, true},
		{"from here", "", near, true},
		{"passed on by a proxy here", "", map[string]string{"RemoteAddr": "127.0.0.1:1000", "Host": "localhost", "X-Forwarded-For": "192.0.2.1"}, false},
	} {
		w := h.ask("GET", "/readyz", "", tt.as, tt.header)
		if body := w.Body.String(); w.Code != 503 || !strings.Contains(body, "the disk is full") || !strings.Contains(body, "degraded: away") || strings.Contains(body, "degraded: away: dial tcp 10.0.0.5:1883") != tt.detail || strings.Contains(body, "10.0.0.5") != tt.detail {
			t.Errorf("%s: readyz gave %d %s", tt.name, w.Code, body)
		}
	}
	w = h.ask("GET", v1+"/me", "", me, nil)
	for k, v := range map[string]string{"X-Content-Type-Options": "nosniff", "Content-Security-Policy": api.PolicyNothing, "Referrer-Policy": "same-origin", "Cache-Control": "no-store"} {
		if got := w.Header().Get(k); got != v {
			t.Errorf("header %s is %q, want %q", k, got, v)
		}
	}
	if w := h.ask("POST", v1+"/logout", "", me, nil); w.Code != 204 {
		t.Errorf("logout: %d %s", w.Code, w.Body)
	}
	if w := h.ask("GET", v1+"/me", "", me, nil); w.Code != 401 {
		t.Errorf("after the logout: %d", w.Code)
	}
}

func TestLoginBackoff(t *testing.T) {
	h := newHub(t, nil)
	from := func(peer, forwarded string) map[string]string {
		return map[string]string{"RemoteAddr": peer + ":999", "X-Forwarded-For": forwarded, "X-Forwarded-Proto": "https"}
	}
	wrong := `{"name":"admin","password":"wrong wrong"}`
	right := `{"name":"admin","password":"` + adminPassword + `"}`
	for range 5 {
		if w := h.ask("POST", v1+"/login", wrong, "", from("10.9.1.1", "192.0.2.66, 10.9.2.2")); w.Code != http.StatusUnauthorized {
			t.Fatalf("a wrong password gave %d %s", w.Code, w.Body)
		}
	}
	w := h.ask("POST", v1+"/login", right, "", from("10.9.1.1", "192.0.2.66"))
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "too_many_attempts") {
		t.Errorf("after five failures: %d, Retry-After %q, %s", w.Code, w.Header().Get("Retry-After"), w.Body)
	}
	w = h.ask("POST", v1+"/login", right, "", from("10.9.1.1", "192.0.2.66, 192.0.2.99"))
	if w.Code != http.StatusNoContent || !w.Result().Cookies()[0].Secure {
		t.Errorf("another client of the proxy: %d %s", w.Code, w.Body)
	}
	w = h.ask("POST", v1+"/login", right, "", from("198.51.100.1", "192.0.2.66"))
	if w.Code != http.StatusNoContent || w.Result().Cookies()[0].Secure {
		t.Errorf("a peer that is no proxy: %d %s", w.Code, w.Body)
	}
}

func TestPeople(t *testing.T) {
	h := newHub(t, nil)
	run(t, h, []scenario{
		{name: "add", method: "POST", url: v1 + "/users", body: `{"name":"ann@example.org","password":"long enough"}`, as: "admin", status: 201, want: []string{`"name":"ann@example.org"`}, not: []string{"long enough"}},
		{name: "add again", method: "POST", url: v1 + "/users", body: `{"name":"ann@example.org","password":"long enough"}`, as: "admin", status: 409},
		{name: "short password", method: "POST", url: v1 + "/users", body: `{"name":"bob","password":"short"}`, as: "admin", status: 400, want: []string{"invalid_password"}},
		{name: "list", method: "GET", url: v1 + "/users", as: "admin", status: 200, want: []string{"admin", "ann@example.org", `"created_at":"`}, not: []string{"hash", "$2"}},
		{name: "password", method: "PUT", url: v1 + "/users/ann@example.org/password", body: `{"password":"another one"}`, as: "admin", status: 204},
		{name: "login", method: "POST", url: v1 + "/login", body: `{"name":"ann@example.org","password":"another one"}`, status: 204},
		{name: "login with the old one", method: "POST", url: v1 + "/login", body: `{"name":"ann@example.org","password":"long enough"}`, status: 401},
		{name: "remove", method: "DELETE", url: v1 + "/users/ann@example.org", as: "admin", status: 204},
		{name: "remove the last", method: "DELETE", url: v1 + "/users/admin", as: "admin", status: 409, want: []string{"last_user"}},
		{name: "token", method: "POST", url: v1 + "/tokens", body: `{"name":"controller","scope":"command","expires_in":"30d"}`, as: "admin", status: 201, want: []string{`"secret":"sbx_`, `"scope":"command"`, `"expires_at":"`, `"created_by":"test-admin"`}},
		{name: "token again", method: "POST", url: v1 + "/tokens", body: `{"name":"controller","scope":"read"}`, as: "admin", status: 409},
		{name: "token of no scope", method: "POST", url: v1 + "/tokens", body: `{"name":"x","scope":"all"}`, as: "admin", status: 400},
		{name: "token for a bad time", method: "POST", url: v1 + "/tokens", body: `{"name":"x","scope":"read","expires_in":"soon"}`, as: "admin", status: 400, want: []string{"soon"}},
		{name: "tokens", method: "GET", url: v1 + "/tokens", as: "admin", status: 200, want: []string{"controller"}, not: []string{"sbx_"}},
		{name: "revoke", method: "DELETE", url: v1 + "/tokens/controller", as: "admin", status: 204},
		{name: "revoke again", method: "DELETE", url: v1 + "/tokens/controller", as: "admin", status: 404},
	})
}
