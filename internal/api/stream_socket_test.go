package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	gobwas "github.com/gobwas/ws"

	"signalbox"
	"signalbox/internal/api"
)

// socket is the far end of a stream over WebSocket.
type socket struct {
	t    *testing.T
	conn net.Conn
	in   io.Reader
	mute bool // answers no ping
}

// upgradeHeader is what asks for WebSocket.
func upgradeHeader() map[string]string {
	return map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
}

func dialSocket(ctx context.Context, server *httptest.Server, path string, header http.Header) (net.Conn, *bufio.Reader, error) {
	conn, in, _, err := gobwas.Dialer{Header: gobwas.HandshakeHeaderHTTP(header), Timeout: patience}.Dial(ctx, "ws"+strings.TrimPrefix(server.URL, "http")+path)
	return conn, in, err
}

// socket opens a stream over WebSocket; without a header as who may read.
func (h *hub) socket(t *testing.T, server *httptest.Server, path string, header http.Header) *socket {
	t.Helper()
	if header == nil {
		header = http.Header{"Authorization": {"Bearer " + h.tokens["read"]}}
	}
	conn, in, err := dialSocket(t.Context(), server, path, header)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(2*patience)))
	k := &socket{t: t, conn: conn, in: conn}
	if in != nil {
		k.in = in
	}
	return k
}

// read gives the next frame that is no ping.
func (k *socket) read() (gobwas.OpCode, []byte, error) {
	for {
		h, err := gobwas.ReadHeader(k.in)
		if err != nil {
			return 0, nil, err
		}
		if h.Masked || !h.Fin || h.Rsv != 0 || h.Length > 1<<20 {
			return 0, nil, fmt.Errorf("the hub sent a frame with the header %+v", h)
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(k.in, payload); err != nil {
			return 0, nil, err
		}
		if h.OpCode != gobwas.OpPing {
			return h.OpCode, payload, nil
		}
		if k.mute {
			continue
		}
		if err := k.write(gobwas.NewPongFrame(payload)); err != nil {
			return 0, nil, err
		}
	}
}

func (k *socket) write(f gobwas.Frame) error { return gobwas.WriteFrame(k.conn, gobwas.MaskFrame(f)) }

// text gives the next event.
func (k *socket) text() string {
	k.t.Helper()
	op, payload, err := k.read()
	must(k.t, err)
	if op != gobwas.OpText || !json.Valid(payload) {
		k.t.Fatalf("an event is a frame %d with %q", op, payload)
	}
	return string(payload)
}

// closed reads up to the close frame, answers it, and wants the connection to end then.
func (k *socket) closed() (code gobwas.StatusCode, reason string) {
	k.t.Helper()
	for {
		op, payload, err := k.read()
		must(k.t, err)
		if op != gobwas.OpClose {
			continue
		}
		code, reason = gobwas.ParseCloseFrameData(payload)
		_ = k.write(gobwas.NewCloseFrame(payload)) // the hub may be gone already
		if _, err := k.in.Read(make([]byte, 1)); err == nil {
			k.t.Error("the hub sent something after its close frame")
		}
		_ = k.conn.Close() // the hub waits for it
		return code, reason
	}
}

// comeAndGo watches n times, for an event each, and leaves: politely over WebSocket or, at every
// third time, without a word.
func (h *hub) comeAndGo(ctx context.Context, server *httptest.Server, upgraded bool, n int) error {
	header := http.Header{"Authorization": {"Bearer " + h.tokens["read"]}}
	for i := range n {
		if !upgraded {
			within, cancel := context.WithCancel(ctx)
			req, err := http.NewRequestWithContext(within, http.MethodGet, server.URL+v1+"/stream", nil)
			if err != nil {
				cancel()
				return err
			}
			req.Header = header.Clone()
			resp, err := server.Client().Do(req)
			if err == nil {
				_, err = bufio.NewReader(resp.Body).ReadString('{')
				_ = resp.Body.Close()
			}
			cancel()
			if err != nil {
				return err
			}
			continue
		}
		conn, in, err := dialSocket(ctx, server, v1+"/stream", header)
		if err != nil {
			return err
		}
		k := &socket{conn: conn, in: conn}
		if in != nil {
			k.in = in
		}
		_, _, err = k.read()
		if err == nil && i%3 > 0 {
			err = k.write(gobwas.NewCloseFrame(gobwas.NewCloseFrameBody(gobwas.StatusNormalClosure, "")))
		}
		_ = conn.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func TestSocketUpgrades(t *testing.T) {
	h := newHub(t, nil)
	cookie := "cookie:" + h.login(t)
	with := func(more ...string) map[string]string {
		header := upgradeHeader()
		for i := 0; i < len(more); i += 2 {
			header[more[i]] = more[i+1]
		}
		return header
	}
	url := "http://hub.example" + v1 + "/stream"
	const reached = 500 // the test's recorder has no connection to upgrade: everything before was well
	for _, tt := range []struct {
		name, as string
		header   map[string]string
		status   int
		code     string
	}{
		{"a program", "read", with(), reached, ""},
		{"a program of another origin", "read", with("Origin", "http://evil.example"), reached, ""},
		{"nobody", "", with(), 401, "unauthorized"},
		{"own page", cookie, with("Origin", "http://hub.example"), reached, ""},
		{"own page, default port", cookie, with("Origin", "http://hub.example:80"), reached, ""},
		{"own page behind TLS of a proxy", cookie, with("Origin", "https://hub.example"), reached, ""},
		{"no origin", cookie, with(), 403, "cross_origin"},
		{"other host", cookie, with("Origin", "http://evil.example"), 403, "cross_origin"},
		{"other port", cookie, with("Origin", "http://hub.example:8081"), 403, "cross_origin"},
		{"null", cookie, with("Origin", "null"), 403, "cross_origin"},
		{"file", cookie, with("Origin", "file://hub.example"), 403, "cross_origin"},
		{"prefix", cookie, with("Origin", "http://hub.example.evil.example"), 403, "cross_origin"},
		{"not the proxy's word", cookie, with("Origin", "http://outside.example", "X-Forwarded-Host", "outside.example", "RemoteAddr", "10.8.0.1:1"), 403, "cross_origin"},
		{"the proxy's word", cookie, with("Origin", "http://outside.example", "X-Forwarded-Host", "outside.example", "RemoteAddr", "10.9.0.1:1"), reached, ""},
		{"without TLS to a proxy with", cookie, with("Origin", "http://hub.example", "X-Forwarded-Proto", "https", "RemoteAddr", "10.9.0.1:1"), 403, "cross_origin"},
		{"other version", "read", with("Sec-WebSocket-Version", "8"), 426, "upgrade_required"},
		{"no version", "read", with("Sec-WebSocket-Version", ""), 400, "invalid_upgrade"},
		{"short key", "read", with("Sec-WebSocket-Key", "c2hvcnQ="), 400, "invalid_upgrade"},
		{"no key", "read", with("Sec-WebSocket-Key", "no base64 of sixteen"), 400, "invalid_upgrade"},
		{"a proxy's Connection", "read", with("Connection", "close"), 400, "invalid_upgrade"},
		{"broken cursor", "read", with("Last-Event-ID", "7"), 400, "invalid_cursor"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := h.ask("GET", url, "", tt.as, tt.header)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.code) {
				t.Errorf("%d %s, want %d %s", w.Code, w.Body, tt.status, tt.code)
			}
			if tt.status == 426 && w.Header().Get("Sec-WebSocket-Version") != "13" {
				t.Error("it does not say which version is known")
			}
		})
	}
	if n := h.streams.Origins.Load(); n != 8 {
		t.Errorf("%d refused origins are counted", n)
	}
}

// login gives the cookie of a person's login.
func (h *hub) login(t *testing.T) string {
	t.Helper()
	w := httptest.NewRecorder()
	must(t, h.gate.Login(w, httptest.NewRequest(http.MethodPost, "/login", nil), "admin", adminPassword))
	for _, c := range w.Result().Cookies() {
		if c.Name == api.CookieName {
			return c.Value
		}
	}
	t.Fatal("the login gave no cookie")
	return ""
}

func TestSocketFrames(t *testing.T) {
	h := newHub(t, nil)
	server := h.serve(t)
	masked := func(f gobwas.Frame) []byte { return gobwas.MustCompileFrame(gobwas.MaskFrame(f)) }
	part := func(op gobwas.OpCode, fin bool, n int) []byte {
		return masked(gobwas.NewFrame(op, fin, bytes.Repeat([]byte("x"), n)))
	}
	rsv := gobwas.NewTextFrame([]byte("x"))
	rsv.Header.Rsv = gobwas.Rsv(true, false, false)
	for _, tt := range []struct {
		name string
		send []byte
		code gobwas.StatusCode
	}{
		{"not masked", gobwas.CompiledPing, 1002},
		{"reserved bit", masked(rsv), 1002},
		{"reserved frame", part(3, true, 1), 1002},
		{"long ping", part(gobwas.OpPing, true, 126), 1002},
		{"ping in parts", part(gobwas.OpPing, false, 1), 1002},
		{"continuation of nothing", part(gobwas.OpContinuation, true, 1), 1002},
		{"text within a text", append(part(gobwas.OpText, false, 1), part(gobwas.OpText, true, 1)...), 1002},
		{"negative length", []byte{0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}, 1002},
		{"half a close code", part(gobwas.OpClose, true, 1), 1002},
		{"close code that is none", masked(gobwas.NewCloseFrame(gobwas.NewCloseFrameBody(1005, ""))), 1002},
		{"too long", part(gobwas.OpBinary, true, 4<<10+1), 1009},
		{"said to be huge", []byte{0x81, 0xff, 0, 0, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 0}, 1009},
		{"too long in parts", append(part(gobwas.OpText, false, 4<<10), part(gobwas.OpContinuation, true, 1)...), 1009},
		{"no UTF-8", masked(gobwas.NewTextFrame([]byte{0xff})), 1007},
		{"a flood", bytes.Repeat(part(gobwas.OpPong, true, 0), 4000), 1008},
		{"a polite end", masked(gobwas.NewCloseFrame(gobwas.NewCloseFrameBody(3000, "bye"))), 3000},
		{"an end without a word", masked(gobwas.NewCloseFrame(nil)), 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := h.socket(t, server, v1+"/stream?snapshot=false", nil)
			_, err := k.conn.Write(tt.send)
			must(t, err)
			if code, reason := k.closed(); code != tt.code {
				t.Errorf("closed with %d %q, want %d", code, reason, tt.code)
			}
		})
	}
	if flooded, violations := h.streams.Flooded.Load(), h.streams.Violations.Load(); flooded != 1 || violations != 14 {
		t.Errorf("counted are %d floods and %d violations", flooded, violations)
	}

	// What a viewer says is ignored, its pings are answered.
	k := h.socket(t, server, v1+"/stream?snapshot=false", nil)
	for _, b := range [][]byte{part(gobwas.OpText, true, 4<<10), part(gobwas.OpBinary, false, 10), masked(gobwas.NewPingFrame([]byte("?"))), part(gobwas.OpContinuation, true, 10)} {
		_, err := k.conn.Write(b)
		must(t, err)
	}
	if got := k.text(); !strings.HasPrefix(got, `{"kind":"ready","cursor":"`) {
		t.Errorf("the first event is %s", got)
	}
	if op, payload, err := k.read(); err != nil || op != gobwas.OpPong || string(payload) != "?" {
		t.Errorf("the ping was answered with %d %q, %v", op, payload, err)
	}
	h.connect(t, h.add(t, "esp01", "box"), signalbox.ProtocolV1)
	if got := k.text(); !strings.Contains(got, `"presence":"online"`) {
		t.Errorf("then came %s", got)
	}
	close(h.stopping)
	if code, reason := k.closed(); code != 1001 || reason != "the hub stops" {
		t.Errorf("closed with %d %q", code, reason)
	}
	h.sockets.Wait()
}

// TestSocketSilent: a viewer that answers no ping is cut.
func TestSocketSilent(t *testing.T) {
	h := newHub(t, func(c *api.Config) {
		api.SetHeartbeat(c, 50*time.Millisecond)
		api.SetSilence(c, 500*time.Millisecond)
	})
	server := h.serve(t)
	k := h.socket(t, server, v1+"/stream?snapshot=false", nil)
	k.mute = true
	for wanted := `{"kind":"ready","cursor":"`; ; wanted = `{"kind":"cursor","cursor":"` {
		op, payload, err := k.read()
		if err != nil {
			break
		}
		if op != gobwas.OpText || !strings.HasPrefix(string(payload), wanted) {
			t.Errorf("it was sent a frame %d %q", op, payload)
		}
	}
	if n := h.streams.Silent.Load(); n != 1 {
		t.Errorf("%d silent viewers are counted", n)
	}
}

// TestReplayOverWebSocket: the same as Server-Sent Events, the upgrade refused with words.
func TestReplayOverWebSocket(t *testing.T) {
	h := newReplayHub(t, 3)
	server := h.serve(t)
	id := h.startReplay(t, `{"speed":0}`)
	k := h.socket(t, server, v1+"/replays/"+id+"/stream", nil)
	var kinds []string
	for {
		var e struct {
			Kind, State, Cursor string
			Object              json.RawMessage
			Replay              struct{ ID string }
		}
		must(t, json.Unmarshal([]byte(k.text()), &e))
		if e.Replay.ID != id || (e.Kind == "telemetry") != (e.Cursor != "" && e.Object != nil) {
			t.Errorf("an event %+v", e)
		}
		kinds = append(kinds, e.Kind+e.State)
		if e.State == "ended" {
			break
		}
	}
	if len(kinds) < 3 || kinds[0] != "replayplaying" {
		t.Errorf("events %q", kinds)
	}
	if code, _ := k.closed(); code != 1000 {
		t.Errorf("closed with %d", code)
	}
	if w := h.ask("GET", v1+"/replays/nothing/stream", "", "read", upgradeHeader()); w.Code != http.StatusNotFound {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := h.ask("GET", v1+"/replays/"+id+"/stream", "", "read", upgradeHeader()); w.Code != http.StatusConflict {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
