package client_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/client"
	"signalbox/internal/app"
)

// newHub serves a whole hub's API with full authority and gives a client of it.
func newHub(t *testing.T) (*client.Hub, http.Handler) {
	t.Helper()
	cfg := app.DefaultConfig()
	cfg.Data = filepath.Join(t.TempDir(), "data")
	hub, err := app.Open(t.Context(), app.Options{Config: cfg, Logger: slog.New(slog.DiscardHandler), Version: "test"})
	must(t, err)
	srv := httptest.NewServer(hub.LocalAPI())
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		must(t, hub.Close())
	})
	h, err := client.New(srv.URL, client.WithHTTPClient(srv.Client()))
	must(t, err)
	return h, hub.LocalAPI()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, kind signalbox.Kind, code string) {
	t.Helper()
	if err == nil || signalbox.KindOf(err) != kind || signalbox.CodeOf(err) != code {
		t.Errorf("got %v (kind %d, code %s), want kind %d, code %s", err, signalbox.KindOf(err), signalbox.CodeOf(err), kind, code)
	}
}

func TestDevices(t *testing.T) {
	h, _ := newHub(t)
	ctx := t.Context()
	made, err := h.AddDevice(ctx, client.NewDevice{Name: "датчик.1", Type: "sensor"})
	must(t, err)
	if made.Secret == "" || made.Device.Name != "датчик.1" || made.Device.CreatedAt.IsZero() {
		t.Errorf("made %+v", made)
	}
	_, err = h.AddDevice(ctx, client.NewDevice{Name: "датчик.1"})
	wantCode(t, err, signalbox.KindConflict, "name_taken")
	_, err = h.Device(ctx, "nobody")
	wantCode(t, err, signalbox.KindNotFound, "device_not_found")

	report, err := h.ImportDevices(ctx, client.CSV, strings.NewReader("a1,box,1234\na2,box,\nb b,box,\na1,box,1\n"))
	must(t, err)
	if report.Created != 2 || report.Kept != 1 || report.Refused != 1 || report.Entries[1].Secret == "" || report.Entries[2].Code != "invalid_name" {
		t.Errorf("report %+v", report)
	}
	report, err = h.ImportData(ctx, strings.NewReader(`{"users":[],"devices":[{"name":"esp01","type":"box","password":"1234"}]}`))
	must(t, err)
	if report.Created != 1 {
		t.Errorf("report %+v", report)
	}
	var names []string
	for d, err := range h.AllDevices(ctx, client.DeviceQuery{Types: []string{"box"}, Presence: signalbox.Offline, Limit: 1}) {
		must(t, err)
		names = append(names, d.Name)
	}
	if got := strings.Join(names, " "); got != "a1 a2 esp01" {
		t.Errorf("devices: %s", got)
	}
	off, kind := true, "station"
	d, err := h.ChangeDevice(ctx, "a1", client.DeviceChange{Type: &kind, Disabled: &off})
	must(t, err)
	if !d.Disabled || d.Type != "station" {
		t.Errorf("changed to %+v", d)
	}
	_, err = h.ApproveDevice(ctx, "a1", "lamp")
	wantCode(t, err, signalbox.KindConflict, "not_pending")
	pending := true
	for d, err := range h.AllDevices(ctx, client.DeviceQuery{Pending: &pending}) {
		t.Errorf("%s is pending, %v", d.Name, err)
	}
	again, err := h.RotateSecret(ctx, "датчик.1", "")
	must(t, err)
	if again.Secret == "" || again.Secret == made.Secret {
		t.Error("the secret is not new")
	}
	state, err := h.State(ctx, "a2")
	must(t, err)
	if state.Device != "a2" || state.Presence != signalbox.Offline || state.Telemetry != nil {
		t.Errorf("state %+v", state)
	}
	page, err := h.Telemetry(ctx, "a2", client.TelemetryQuery{From: time.Unix(0, 0), To: time.Now(), OldestFirst: true, Fields: []string{"a", "b"}})
	must(t, err)
	if len(page.Items) != 0 || page.Next != "" {
		t.Errorf("page %+v", page)
	}
	if b, next, err := h.TelemetryCSV(ctx, "a2", client.TelemetryQuery{}); err != nil || string(b) != "time,received,position\n" || next != "" {
		t.Errorf("CSV %q, next %q, %v", b, next, err)
	}
	_, _, err = h.TelemetryCSV(ctx, "a2", client.TelemetryQuery{Limit: 10_001})
	wantCode(t, err, signalbox.KindInvalid, "invalid_request")
	must(t, h.RemoveDevice(ctx, "a2"))
	for _, err := range h.AllTelemetry(ctx, "a2", client.TelemetryQuery{}) {
		wantCode(t, err, signalbox.KindNotFound, "device_not_found")
	}
}

func TestCommandsAndStream(t *testing.T) {
	h, _ := newHub(t)
	ctx := t.Context()
	_, err := h.AddDevice(ctx, client.NewDevice{Name: "esp01", Type: "box", Secret: "1234"})
	must(t, err)
	events, err := h.Stream(ctx, client.Watch{Devices: []string{"esp01"}, Kinds: []string{"command"}})
	must(t, err)

	_, err = h.Send(ctx, "esp01", client.Send{Name: "servo1", Value: new("90")})
	wantCode(t, err, signalbox.KindConflict, "device_offline")
	c, err := h.Send(ctx, "esp01", client.Send{Name: "servo1", Value: new("90"), TTL: time.Hour, Timeout: 10 * time.Second, IdempotencyKey: "k", Wait: 20 * time.Millisecond})
	must(t, err)
	if c.State != signalbox.CommandQueued || *c.Value != "90" || c.CreatedBy != "local" {
		t.Errorf("command %+v", c)
	}
	for e, err := range events {
		must(t, err)
		if e.Kind == "ready" && e.Cursor != "" {
			continue
		}
		if e.Kind != "command" || e.Cursor == "" || e.Device != "esp01" || e.Position == 0 || e.Command == nil || e.Command.ID != c.ID {
			t.Errorf("event %+v", e)
		}
		break
	}
	sent, err := h.SendAll(ctx, []string{"esp01", "nobody"}, client.Send{Name: "x", TTL: time.Minute})
	must(t, err)
	if len(sent) != 2 || sent[0].Command == nil || sent[1].Command != nil || sent[1].Code != "device_not_found" {
		t.Errorf("sent %+v", sent)
	}
	if sent, err := h.SendType(ctx, "box", client.Send{Name: "x"}); err != nil || len(sent) != 1 || sent[0].Code != "device_offline" {
		t.Errorf("sent %+v, %v", sent, err)
	}
	if got, err := h.Command(ctx, c.ID, time.Millisecond); err != nil || got.ID != c.ID {
		t.Errorf("command %+v, %v", got, err)
	}
	page, err := h.Commands(ctx, "esp01", 1, "")
	must(t, err)
	rest, err := h.Commands(ctx, "", 10, page.Next)
	must(t, err)
	if len(page.Items) != 1 || page.Next == "" || len(rest.Items) != 1 || rest.Items[0].ID != c.ID {
		t.Errorf("pages %+v and %+v", page, rest)
	}
	got, err := h.Cancel(ctx, c.ID)
	must(t, err)
	if got.State != signalbox.CommandCanceled {
		t.Errorf("canceled: %+v", got)
	}
	_, err = h.Cancel(ctx, c.ID)
	wantCode(t, err, signalbox.KindConflict, "already_ended")
}

func TestPeople(t *testing.T) {
	h, _ := newHub(t)
	ctx := t.Context()
	me, err := h.Me(ctx)
	must(t, err)
	if me.Kind != "local" || me.Scope != signalbox.ScopeAdmin {
		t.Errorf("me %+v", me)
	}
	_, err = h.AddUser(ctx, "ann", "long enough")
	must(t, err)
	must(t, h.SetPassword(ctx, "ann", "another one"))
	must(t, h.Login(ctx, "ann", "another one"))
	wantCode(t, h.Login(ctx, "ann", "wrong"), signalbox.KindUnauthorized, "unauthorized")
	must(t, h.Logout(ctx))
	if users, err := h.Users(ctx); err != nil || len(users) != 1 || users[0].Name != "ann" {
		t.Errorf("users %+v, %v", users, err)
	}
	wantCode(t, h.RemoveUser(ctx, "ann"), signalbox.KindConflict, "last_user")
	secret, token, err := h.MakeToken(ctx, "controller", signalbox.ScopeCommand, 24*time.Hour)
	must(t, err)
	if !strings.HasPrefix(secret, "sbx_") || token.ExpiresAt.IsZero() {
		t.Errorf("token %+v", token)
	}
	if tokens, err := h.Tokens(ctx); err != nil || len(tokens) != 1 {
		t.Errorf("tokens %+v, %v", tokens, err)
	}
	must(t, h.RevokeToken(ctx, "controller"))
}

func TestUnixSocket(t *testing.T) {
	_, handler := newHub(t)
	path := filepath.Join(t.TempDir(), "s")
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", path)
	must(t, err)
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 30 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		must(t, srv.Close())
		<-done
	})
	h, err := client.New("http://signalbox", client.WithUnixSocket(path))
	must(t, err)
	me, err := h.Me(t.Context())
	must(t, err)
	if me.Name != "local" {
		t.Errorf("me %+v", me)
	}
}

// answer is a transport that gives one answer.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
	token  string
}

func (a *answer) RoundTrip(r *http.Request) (*http.Response, error) {
	a.token = r.Header.Get("Authorization")
	if a.err != nil {
		return nil, a.err
	}
	w := httptest.NewRecorder()
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	w.WriteString(a.body)
	return w.Result(), nil
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name   string
		answer answer
		kind   signalbox.Kind
		code   string
		text   string
	}{
		{"problem", answer{status: 403, body: `{"title":"Forbidden","status":403,"detail":"no","code":"forbidden"}`}, signalbox.KindForbidden, "forbidden", "no"},
		{"fault", answer{status: 500, body: `{"detail":"oh","code":"internal","request_id":"abc"}`}, signalbox.KindInternal, "internal", "oh (request abc)"},
		{"too large", answer{status: 413, body: `{"detail":"big","code":"too_large"}`}, signalbox.KindTooLarge, "too_large", "big"},
		{"somebody else", answer{status: 502, body: `<html>`}, signalbox.KindUnavailable, "not_signalbox", "502 Bad Gateway"},
		{"a redirect", answer{status: 302, header: http.Header{"Location": {"https://evil.example/"}}}, signalbox.KindInternal, "not_signalbox", "302"},
		{"no hub", answer{err: errors.New("connection refused")}, signalbox.KindUnavailable, "unreachable", "connection refused"},
		{"nonsense", answer{status: 200, body: `<html>`}, signalbox.KindInternal, "not_signalbox", "not what a Signalbox"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := client.New("http://hub.example/", client.WithToken("sbx_x"), client.WithTransport(&tt.answer))
			must(t, err)
			_, err = h.Me(t.Context())
			wantCode(t, err, tt.kind, tt.code)
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%q does not say %q", err, tt.text)
			}
			if tt.answer.token != "Bearer sbx_x" {
				t.Errorf("the token was sent as %q", tt.answer.token)
			}
		})
	}
	h, err := client.New("http://hub.example", client.WithTransport(&answer{status: 429, header: http.Header{"Retry-After": {"7"}}, body: `{"code":"too_many_attempts","detail":"wait"}`}))
	must(t, err)
	_, err = h.Me(t.Context())
	if wait, ok := errors.AsType[*client.RetryAfter](err); !ok || wait.Wait != 7*time.Second {
		t.Errorf("the wait is lost: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h, err = client.New("http://hub.example", client.WithTransport(&answer{err: context.Canceled}))
	must(t, err)
	if _, err := h.Me(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the end of the context gave %v", err)
	}
	for _, bad := range []string{"", "hub.example", "ftp://x", "http://", "http://a b"} {
		if _, err := client.New(bad); signalbox.KindOf(err) != signalbox.KindInvalid || err == nil {
			t.Errorf("%q gave %v", bad, err)
		}
	}
}

func TestStreamEnds(t *testing.T) {
	h, err := client.New("http://hub.example", client.WithTransport(&answer{status: 200, body: "retry: 2000\n\n: still here\nid: x-6\n\nid: x-7\nevent: telemetry\ndata: {\"device\":\"a\",\"position\":7,\ndata: \"object\":{\"t\": 15.0}}\n\nevent: lagged\ndata: {\"missed\":3,\"until\":\"x-10\",\"reason\":\"slow\"}\n\n"}))
	must(t, err)
	events, err := h.Stream(t.Context(), client.Watch{})
	must(t, err)
	var got []string
	for e, err := range events {
		if err != nil {
			wantCode(t, err, signalbox.KindUnavailable, "unreachable")
			got = append(got, "end")
			continue
		}
		got = append(got, e.Kind+e.Device+string(e.Object))
		if e.Kind == "telemetry" && (e.Position != 7 || e.Cursor != "x-7") || e.Kind == "lagged" && (e.Missed != 3 || e.Until != "x-10" || e.Reason != "slow") {
			t.Errorf("event %+v", e)
		}
	}
	if want := `telemetrya{"t": 15.0} lagged end`; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzStream(f *testing.F) {
	f.Add("id: 7\nevent: telemetry\ndata: {\"device\":\"a\"}\n\n")
	f.Add("data: [\n\n")
	f.Add("event\n:\ndata:1\n\n\n")
	f.Add(": still here\nid: x-6\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := client.New("http://hub.example", client.WithTransport(&answer{status: 200, body: text}))
		must(t, err)
		events, err := h.Stream(t.Context(), client.Watch{})
		must(t, err)
		ended := false
		for _, err := range events {
			if ended {
				t.Fatal("an event after the error")
			}
			ended = err != nil
		}
		if !ended {
			t.Fatal("the stream ended without an error")
		}
	})
}
