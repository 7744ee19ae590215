package compat_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/auth"
	"signalbox/internal/compat"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/store"
)

// site is the pages as they are served, over real parts; commands are only recorded.
type site struct {
	handler http.Handler
	people  *auth.People
	devices *registry.Registry

	mu       sync.Mutex
	commands []signalbox.CommandRequest
	refusal  error
}

const password = "correct horse"

func newSite(t *testing.T) *site {
	t.Helper()
	ctx := context.Background()
	logger := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	st, err := store.Open(ctx, store.Config{Dir: dir, Logger: logger})
	must(t, err)
	t.Cleanup(func() { must(t, st.Close()) })
	log, err := history.Open(ctx, history.Config{Logger: logger}, st)
	must(t, err)
	keys, err := auth.OpenKeys(filepath.Join(dir, "secret.key"))
	must(t, err)
	s := &site{devices: registry.New(st, logger)}
	must(t, s.devices.Load(ctx, log))
	s.people, err = auth.NewPeople(ctx, auth.PeopleConfig{
		Store: st, Passwords: auth.NewPasswords(4, 0), Logger: logger,
		Backoff: auth.NewBackoff(auth.BackoffConfig{Base: time.Hour, Max: time.Hour}), // no test is too slow for it
	})
	must(t, err)
	_, err = s.people.AddUser(ctx, "admin", password)
	must(t, err)
	gate := api.NewGate(s.people, nil)
	pages := compat.New(compat.Config{Gate: gate, Devices: s.devices, Commands: s, Logger: logger})
	s.handler = api.New(api.Config{
		Gate: gate, People: s.people, Keys: keys, Devices: s.devices, Sessions: session.New(), History: log,
		Mount: pages.Mount, Logger: logger,
	})
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Submit implements compat.Commands.
func (s *site) Submit(_ context.Context, req signalbox.CommandRequest) (signalbox.Command, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands = append(s.commands, req)
	if s.refusal != nil {
		return signalbox.Command{}, s.refusal
	}
	if s.devices.Find(req.Device) == nil {
		return signalbox.Command{}, registry.NotFound(req.Device)
	}
	return signalbox.Command{}, nil
}

// add adds a device whose latest telemetry is object.
func (s *site) add(t *testing.T, name, object string) {
	t.Helper()
	d, err := s.devices.Add(context.Background(), registry.NewDevice{Name: name, Type: "box"})
	must(t, err)
	state := d.Lock()
	defer d.Unlock()
	if object != "" {
		state.Body = []byte(object)
	}
}

// browser keeps cookies and follows nothing, as curl with a cookie jar.
type browser struct {
	t       *testing.T
	site    *site
	header  map[string]string
	cookies map[string]string
}

func (s *site) browser(t *testing.T) *browser {
	t.Helper()
	return &browser{t: t, site: s, cookies: map[string]string{}, header: map[string]string{}}
}

func (b *browser) do(method, target, form string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(form))
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for k, v := range b.header {
		r.Header.Set(k, v)
	}
	for k, v := range b.cookies {
		r.AddCookie(&http.Cookie{Name: k, Value: v})
	}
	w := httptest.NewRecorder()
	b.site.handler.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		if c.MaxAge < 0 {
			delete(b.cookies, c.Name)
			continue
		}
		if !c.HttpOnly {
			b.t.Errorf("the cookie %s is open to scripts", c.Name)
		}
		b.cookies[c.Name] = c.Value
	}
	return w
}

func (b *browser) login() {
	b.t.Helper()
	if w := b.do("POST", "/login", "username=admin&password=correct+horse"); w.Code != 302 || w.Header().Get("Location") != "/" {
		b.t.Fatalf("login: %d to %q", w.Code, w.Header().Get("Location"))
	}
}

// transcript writes an answer as far as the original's is held byte for byte.
func transcript(w *httptest.ResponseRecorder) string {
	out := fmt.Sprint(w.Code)
	if at := w.Header().Get("Location"); at != "" {
		return out + " " + at
	}
	if w.Header().Get("Content-Type") == "application/json" {
		return out + " application/json " + w.Body.String()
	}
	return out
}

// TestGoldenTranscript is a session with the original server, request by request.
func TestGoldenTranscript(t *testing.T) {
	s := newSite(t)
	s.add(t, "esp01", `{"type":"telemetry","status":"работает","servo1":90,"servo2":90.0,"button1":"released","button2":"pressed","big":1e22}`)
	s.add(t, "esp02", "")
	b := s.browser(t)
	for _, step := range []struct{ method, target, form, want string }{
		{"GET", "/", "", "302 /login?next=%2F"},
		{"HEAD", "/", "", "302 /login?next=%2F"},
		{"GET", "/logout", "", "302 /login?next=%2Flogout"},
		{"POST", "/send_command", "device_name=esp01&command=servo1", "302 /login?next=%2Fsend_command"},
		{"GET", "/get_telemetry?device=esp01", "", "302 /login?next=%2Fget_telemetry%3Fdevice%3Desp01"},
		{"GET", "/login", "", "200"},
		{"POST", "/login", "username=admin&password=wrong", "302 /login"},
		{"POST", "/login", "", "302 /login"},
		{"POST", "/login", "username=admin&password=correct+horse", "302 /"},
		{"GET", "/", "", "200"},
		{"POST", "/send_command", "device_name=esp01&command=servo1&value=90", "302 /"},
		{"POST", "/send_command", "device_name=nobody&command=servo1", "302 /"},
		{"POST", "/send_command", "device_name=&command=servo1", "302 /"},
		{"POST", "/send_command", "", "302 /"},
		{"GET", "/get_telemetry?device=esp01", "", `200 application/json {"big":1e+22,"button1":"released","button2":"pressed","servo1":90,"servo2":90.0,"status":"\u0440\u0430\u0431\u043e\u0442\u0430\u0435\u0442","type":"telemetry"}` + "\n"},
		{"GET", "/get_telemetry?device=esp02", "", `200 application/json {"error":"no data"}` + "\n"},
		{"GET", "/get_telemetry?device=nobody", "", `200 application/json {"error":"no data"}` + "\n"},
		{"GET", "/get_telemetry", "", `200 application/json {"error":"no data"}` + "\n"},
		{"GET", "/send_command", "", "405"},
		{"GET", "/logout", "", "302 /login"},
		{"GET", "/", "", "302 /login?next=%2F"},
	} {
		if got := transcript(b.do(step.method, step.target, step.form)); got != step.want {
			t.Errorf("%s %s %s\n got %s\nwant %s", step.method, step.target, step.form, got, step.want)
		}
	}
}

func TestMessagesAreShownOnce(t *testing.T) {
	s := newSite(t)
	s.add(t, "esp01", `{"a":"<script>alert(1)</script>"}`)
	shows := func(b *browser, page string, want ...string) {
		t.Helper()
		first, second := b.do("GET", page, "").Body.String(), b.do("GET", page, "").Body.String()
		for _, text := range want {
			if !strings.Contains(first, text) {
				t.Errorf("the page misses %q:\n%s", text, first)
			}
			if strings.Contains(second, text) {
				t.Errorf("%q is shown twice", text)
			}
		}
		if strings.Contains(first, "<script>alert") {
			t.Error("telemetry becomes a script")
		}
	}
	b := s.browser(t)
	b.do("POST", "/login", "username=admin&password=wrong")
	shows(b, "/login", "Неверный логин или пароль")
	b.login()
	b.do("POST", "/send_command", "device_name=esp01&command=servo1&value=90")
	b.do("POST", "/send_command", "device_name=nobody&command=servo1")
	b.do("POST", "/send_command", "device_name=esp01")
	shows(b, "/", "Команда servo1 отправлена", "Устройство offline", "Заполните обязательные поля")
	b.header["Accept-Language"] = "zh-CN,zh;q=0.9,en;q=0.8"
	b.do("POST", "/send_command", "device_name=esp01&command=%3Cb%3E")
	shows(b, "/", "命令 &lt;b&gt; 已发送")
	b.header["Accept-Language"] = "de,en;q=0.5"
	b.do("POST", "/send_command", "device_name=nobody&command=x")
	shows(b, "/", "The device is offline")
	s.refusal = signalbox.Errorf(signalbox.KindUnavailable, "log_failing", "the disk is full")
	b.do("POST", "/send_command", "device_name=esp01&command=x")
	shows(b, "/", "Error: the disk is full")
	b.cookies["signalbox_flash"] = "nonsense!"
	if w := b.do("GET", "/", ""); w.Code != 200 {
		t.Errorf("a broken cookie gave %d", w.Code)
	}
}

func TestCommandValues(t *testing.T) {
	s := newSite(t)
	s.add(t, "esp01", "")
	b := s.browser(t)
	b.login()
	text := func(v string) *string { return &v }
	for _, tt := range []struct {
		form string
		want *string
	}{
		{"device_name=esp01&command=restart", nil},
		{"device_name=esp01&command=x&value=", text("")},
		{"device_name=esp01&command=x&value=90", text("90")},
		{"device_name=esp01&command=x&value=90&value=91", text("90")},
		{"device_name=esp01&command=x&value=%D1%8F+%26", text("я &")},
		{"device_name=esp01&command=x&value=%FF", text("\ufffd")},
	} {
		b.do("POST", "/send_command", tt.form)
		got := s.commands[len(s.commands)-1]
		if got.CreatedBy != "admin" || (got.Value == nil) != (tt.want == nil) || got.Value != nil && *got.Value != *tt.want {
			t.Errorf("%s gave %+v", tt.form, got)
		}
	}
	b.header["Content-Type"] = "multipart/form-data; boundary=b"
	b.do("POST", "/send_command", "--b\r\nContent-Disposition: form-data; name=\"device_name\"\r\n\r\nesp01\r\n--b\r\nContent-Disposition: form-data; name=\"command\"\r\n\r\nmulti\r\n--b--\r\n")
	if got := s.commands[len(s.commands)-1]; got.Name != "multi" || got.Value != nil {
		t.Errorf("a multipart form gave %+v", got)
	}
}

// TestNext: a login leads to the main page, whatever page was wanted.
func TestNext(t *testing.T) {
	s := newSite(t)
	for _, next := range []string{"/get_telemetry?device=esp01", "/", "", "//evil.example", "https://evil.example/"} {
		in := "?next=" + url.QueryEscape(next)
		b := s.browser(t)
		if page := b.do("GET", "/login"+in, "").Body.String(); !strings.Contains(page, `action="/login"`) {
			t.Errorf("the page for next %q sends its form elsewhere:\n%s", next, page)
		}
		for _, form := range []string{"", "&next=" + url.QueryEscape(next)} {
			if got := transcript(b.do("POST", "/login"+in, "username=admin&password=correct+horse"+form)); got != "302 /" {
				t.Errorf("next %q led to %s", next, got)
			}
		}
	}
}

// TestOrigins: scripts of the original log in by a form without saying where they come
// from; a page of another origin may not act for who is logged in.
func TestOrigins(t *testing.T) {
	s := newSite(t)
	s.add(t, "esp01", "")
	b := s.browser(t)
	b.login()
	b.header["Origin"] = "https://evil.example"
	if w := b.do("POST", "/send_command", "device_name=esp01&command=x"); w.Code != http.StatusForbidden || len(s.commands) != 0 {
		t.Errorf("another origin got %d, and %d commands were sent", w.Code, len(s.commands))
	}
	b.header["Origin"] = "http://example.com"
	if w := b.do("POST", "/send_command", "device_name=esp01&command=x"); w.Code != http.StatusFound || len(s.commands) != 1 {
		t.Errorf("the own origin got %d, and %d commands were sent", w.Code, len(s.commands))
	}
}

func TestLoginBackoff(t *testing.T) {
	s := newSite(t)
	b := s.browser(t)
	for range 5 {
		b.do("POST", "/login", "username=admin&password=wrong")
	}
	if got := transcript(b.do("POST", "/login", "username=admin&password=correct+horse")); got != "302 /login" {
		t.Errorf("after five failures: %s", got)
	}
	page := b.do("GET", "/login", "").Body.String()
	if !strings.Contains(page, "повторите через ") || strings.Contains(page, "{}") {
		t.Errorf("nobody says how long to wait:\n%s", page)
	}
}

// TestLoginFault: a login that fails by a fault of the hub leads to the login page too, and
// the fault is in the log, not on the page.
func TestLoginFault(t *testing.T) {
	var logged bytes.Buffer
	pages := compat.New(compat.Config{Gate: brokenGate{}, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	mux := http.NewServeMux()
	pages.Mount(mux)
	b := (&site{handler: mux}).browser(t)
	if got := transcript(b.do("POST", "/login", "username=admin&password=x")); got != "302 /login" {
		t.Error(got)
	}
	page := b.do("GET", "/login", "").Body.String()
	if !strings.Contains(page, "Ошибка: ") || strings.Contains(page, "disk of glass") || !strings.Contains(logged.String(), "disk of glass") {
		t.Errorf("the page:\n%s\nthe log: %s", page, logged.String())
	}
}

// brokenGate lets nobody in, for a reason of its own.
type brokenGate struct{ compat.Gate }

func (brokenGate) Login(http.ResponseWriter, *http.Request, string, string) error {
	return errors.New("disk of glass")
}

func (brokenGate) Secure(*http.Request) bool { return false }

// TestTokens: a program with a token needs no login; one that may only look sends nothing.
func TestTokens(t *testing.T) {
	s := newSite(t)
	s.add(t, "esp01", `{"a":1}`)
	secret, _, err := s.people.CreateToken(context.Background(), "reader", signalbox.ScopeRead, time.Time{}, "admin")
	must(t, err)
	b := s.browser(t)
	b.header["Authorization"] = "Bearer " + secret
	if got := transcript(b.do("GET", "/get_telemetry?device=esp01", "")); got != "200 application/json {\"a\":1}\n" {
		t.Error(got)
	}
	if b.do("POST", "/send_command", "device_name=esp01&command=x"); len(s.commands) != 0 {
		t.Error("a token that may only look has sent a command")
	}
	if page := b.do("GET", "/", "").Body.String(); !strings.Contains(page, "не позволяют отправлять команды") {
		t.Errorf("nobody says why:\n%s", page)
	}
}

func TestManyDevices(t *testing.T) {
	s := newSite(t)
	list := make([]registry.NewDevice, 300)
	for i := range list {
		list[i] = registry.NewDevice{Name: fmt.Sprintf("dev%03d", i), Type: "box"}
	}
	_, err := s.devices.AddAll(context.Background(), list, nil)
	must(t, err)
	b := s.browser(t)
	b.login()
	all, found := b.do("GET", "/", "").Body.String(), b.do("GET", "/?q=dev299", "").Body.String()
	if strings.Contains(all, "dev200") || !strings.Contains(all, "показаны не все") || !strings.Contains(found, "dev299") {
		t.Error("a large fleet is not cut, or cannot be searched")
	}
}

// TestReadings: the page shows readings as a table, each field once, and its script gets
// the list alone, without the messages that the next whole page is to show.
func TestReadings(t *testing.T) {
	s := newSite(t)
	s.add(t, "esp01", `{"type":"telemetry","status":"ok","servo1":90.0,"pos":{"x":"<b>"},"servo1":15.0,"l":[1, 2],"none":null,"long":"`+strings.Repeat("я", 500)+`"}`)
	var many strings.Builder
	for i := range 100 {
		fmt.Fprintf(&many, `,"f%d":%d`, i, i)
	}
	s.add(t, "many", "{"+many.String()[1:]+"}")
	b := s.browser(t)
	if got := transcript(b.do("GET", "/?part=devices", "")); got != "302 /login?next=%2F%3Fpart%3Ddevices" {
		t.Errorf("without a login: %s", got)
	}
	b.login()
	b.do("POST", "/send_command", "device_name=nobody&command=x")
	part := b.do("GET", "/?part=devices&q=", "").Body.String()
	page := b.do("GET", "/", "").Body.String()
	if !strings.Contains(page, part) || strings.Contains(part, "<html") || strings.Contains(part, "Устройство offline") || !strings.Contains(page, "Устройство offline") {
		t.Errorf("the part is no part of the page, or took its message:\n%s", part)
	}
	cell := func(name, value string) string {
		return `<tr><th scope="row">` + name + "</th><td>" + value + "</td></tr>"
	}
	for _, want := range []string{cell("servo1", "15.0"), cell("pos.x", "&lt;b&gt;"), cell("l", "[1, 2]"), cell("none", ""), cell("long", strings.Repeat("я", 100)+"…"), cell("f39", "39"), "<p>…</p>"} {
		if !strings.Contains(part, want) {
			t.Errorf("the page misses %s:\n%s", want, part)
		}
	}
	for _, not := range []string{cell("type", "telemetry"), cell("status", "ok"), cell("servo1", "90.0"), "f40"} {
		if strings.Contains(part, not) {
			t.Errorf("the page shows %s", not)
		}
	}
	if found := b.do("GET", "/?part=devices&q=esp", "").Body.String(); strings.Contains(found, "many") {
		t.Error("the part shows what was not looked for")
	}
}
