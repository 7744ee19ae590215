package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox"
)

func TestPrepareArgs(t *testing.T) {
	tests := []struct{ name, args, want string }{
		{"wait alone", "send a b --wait", "send a b --wait"},
		{"wait with time", "send a b --wait 5s", "send a b --wait=5s"},
		{"wait before a value", "send a b --wait up", "send a b --wait up"},
		{"negative value", "send a b -5", "send a b \x00-5"},
		{"negative fraction", "send a b -.5 --wait", "send a b \x00-.5 --wait"},
		{"flag's value", "send a b --ttl -5", "send a b --ttl -5"},
		{"short flag", "send a b -h", "send a b -h"},
		{"wait with a number", "send a b --wait 90", "send a b --wait=90"},
		{"wait with a negative number", "send a b --wait -5", "send a b --wait=-5"},
		{"negative value behind a switch", "send a b --replace -5", "send a b --replace \x00-5"},
		{"negative value behind a flag with its value", "send a b --ttl=1h -5", "send a b --ttl=1h \x00-5"},
		{"other command", "watch --count -5", "watch --count -5"},
		{"after the end of flags", "send -- a b --wait 5s", "send -- a b --wait 5s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := prepareArgs(strings.Fields(tt.args)); !slices.Equal(got, strings.Fields(tt.want)) {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want int
	}{
		{"none", nil, 0},
		{"any", errors.New("x"), 1},
		{"internal", signalbox.Errorf(signalbox.KindInternal, "x", "x"), 1},
		{"usage", usagef("x"), 2},
		{"invalid", signalbox.Errorf(signalbox.KindInvalid, "x", "x"), 2},
		{"not found", fmt.Errorf("x: %w", signalbox.Errorf(signalbox.KindNotFound, "x", "x")), 3},
		{"unauthorized", signalbox.Errorf(signalbox.KindUnauthorized, "x", "x"), 4},
		{"forbidden", signalbox.Errorf(signalbox.KindForbidden, "x", "x"), 4},
		{"limited", signalbox.Errorf(signalbox.KindLimited, "x", "x"), 5},
		{"offline", signalbox.Errorf(signalbox.KindConflict, "device_offline", "x"), 5},
		{"conflict", signalbox.Errorf(signalbox.KindConflict, "name_taken", "x"), 1},
		{"deadline", context.DeadlineExceeded, 5},
		{"device", deviceError{"x"}, 6},
		{"the hub itself", failureError{signalbox.Errorf(signalbox.KindUnavailable, "x", "x")}, 1},
		{"interrupted", context.Canceled, 130},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := exitCode(tt.err); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}

func TestCommandErrors(t *testing.T) {
	tests := []struct {
		state  signalbox.CommandState
		proto  signalbox.Protocol
		waited bool
		want   int
	}{
		{signalbox.CommandSucceeded, 2, true, ExitOK},
		{signalbox.CommandFailed, 2, true, ExitDevice},
		{signalbox.CommandTimedOut, 2, true, ExitUnavailable},
		{signalbox.CommandExpired, 0, false, ExitUnavailable},
		{signalbox.CommandSent, 1, true, ExitOK},
		{signalbox.CommandSent, 2, true, ExitUnavailable},
		{signalbox.CommandSent, 2, false, ExitOK},
		{signalbox.CommandQueued, 0, false, ExitOK},
	}
	for _, tt := range tests {
		c := &signalbox.Command{State: tt.state, Protocol: tt.proto}
		if got := exitCode(commandError(c, tt.waited)); got != tt.want {
			t.Errorf("%s of protocol %d, waited %v: %d, want %d", tt.state, tt.proto, tt.waited, got, tt.want)
		}
	}
}

func TestTable(t *testing.T) {
	table := newTable("NAME", "X")
	table.add(nil, "станция", "1")
	table.add(nil, "温度计", "2")
	table.add(map[int]cellStyle{0: paint{true}.red}, "e\u0301\x1b[2J\n", "")
	var b strings.Builder
	if err := table.write(&b, paint{}); err != nil {
		t.Fatal(err)
	}
	want := "NAME     X\nстанция  1\n温度计   2\n\x1b[31me\u0301\ufffd[2J \x1b[0m   -\n"
	if b.String() != want {
		t.Errorf("have %q\nwant %q", b.String(), want)
	}
}

func TestFieldsText(t *testing.T) {
	got := paint{}.fieldsText([]byte(`{"type":"telemetry","a":15.0,"b":{"c":"x y","d":[1, 2]},"e":null,"f":""}`), envelope{})
	if want := `a=15.0 b.c="x y" b.d="[1, 2]" e=null f=""`; got != want {
		t.Errorf("%s", got)
	}
}

func TestEnvelope(t *testing.T) {
	at := time.UnixMilli(1732190000000)
	tests := []struct {
		name, object string
		protocol     signalbox.Protocol
		want         string
	}{
		{"version 2", `{"type":"telemetry","seq":1,"ts":5,"a":1}`, signalbox.ProtocolV2, "a=1"},
		{"version 1", `{"type":"telemetry","seq":1,"ts":5,"a":1}`, signalbox.ProtocolV1, "seq=1 ts=5 a=1"},
		{"away, its own time", `{"type":"telemetry","seq":1,"ts":1732190000000,"a":1}`, signalbox.ProtocolNone, "a=1"},
		{"away, its own time in words", `{"type":"telemetry","seq":1,"ts":"2024-11-21T11:53:20Z","a":1}`, signalbox.ProtocolNone, "a=1"},
		{"away, no time", `{"type":"telemetry","seq":1,"a":1}`, signalbox.ProtocolNone, "seq=1 a=1"},
		{"nested", `{"type":"valve","x":{"seq":1,"type":"telemetry"}}`, signalbox.ProtocolV2, "type=valve x.seq=1 x.type=telemetry"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := (paint{}).fieldsText([]byte(tt.object), envelopeOf(tt.protocol, []byte(tt.object), at)); got != tt.want {
				t.Errorf("%s", got)
			}
		})
	}
}

func TestParseMoment(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.Local)
	tests := []struct {
		text string
		want time.Time
	}{
		{"2h", now.Add(-2 * time.Hour)},
		{"7d", now.Add(-7 * 24 * time.Hour)},
		{"2026-03-01", time.Date(2026, 3, 1, 0, 0, 0, 0, time.Local)},
		{"2026-03-01 10:30", time.Date(2026, 3, 1, 10, 30, 0, 0, time.Local)},
		{"2026-03-01T10:30:00Z", time.Date(2026, 3, 1, 10, 30, 0, 0, time.UTC)},
		{"1772359200000", time.UnixMilli(1772359200000)},
	}
	for _, tt := range tests {
		if got, err := parseMoment(tt.text, now); err != nil || !got.Equal(tt.want) {
			t.Errorf("%s: %v, %v", tt.text, got, err)
		}
	}
	if _, err := parseMoment("soon", now); err == nil {
		t.Error("«soon» was taken for a time")
	}
}

func TestShellQuote(t *testing.T) {
	for text, want := range map[string]string{"": "''", "data": "data", "./a-b_c": "./a-b_c", "a b": "'a b'", "it's": `'it'\''s'`} {
		if got := shellQuote(text); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
}

// TestInside calls a handler in this process as if over a network.
func TestInside(t *testing.T) {
	gone := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-From", r.Host)
		w.WriteHeader(http.StatusCreated)
		_, _ = io.Copy(w, r.Body)
	})
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		_, _ = io.WriteString(w, "first\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("GET /empty", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("fault") })
	transport := newInside(mux)
	client := &http.Client{Transport: transport}

	resp, err := client.Post("http://localhost/echo", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hello" || resp.StatusCode != http.StatusCreated || resp.Header.Get("X-From") != "localhost" {
		t.Errorf("echo: %s, %v, %v", body, err, resp)
	}
	_ = resp.Body.Close()

	resp, err = client.Get("http://localhost/empty")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("empty: %v, %v", resp, err)
	}
	_ = resp.Body.Close()

	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err = client.Do(req); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 6)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first\n" {
		t.Errorf("stream: %q, %v", first, err)
	}
	cancel()
	<-gone
	if _, err := resp.Body.Read(first); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of the context: %v", err)
	}
	_ = resp.Body.Close()

	if resp, err = client.Get("http://localhost/panic"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil || !strings.Contains(err.Error(), "broke off") {
		t.Errorf("a broken handler gave %v", err)
	}
	_ = resp.Body.Close()
	transport.wait()
}
