package mqtt_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"signalbox/internal/gateway/loop"
	"signalbox/internal/gateway/mqtt"
	"signalbox/internal/wire/packet"
)

// serveWeb starts a server of MQTT over WebSocket and gives its URL.
func serveWeb(t *testing.T, h *handler) string {
	t.Helper()
	group, err := loop.New(loop.Config{Loops: 1, CloseTimeout: patience})
	must(t, err)
	server := mqtt.NewServer(mqtt.Config{}, h)
	sockets := mqtt.NewWebSocket(server, mqtt.WebSocketConfig{Admits: func(origin string) bool { return origin == "" || origin == "https://good.example" }})
	web := httptest.NewServer(sockets)
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { _ = group.ServePlain(ctx, sockets, server) })
	work.Go(func() { _ = group.ServePlain(ctx, sockets.Guests(), server.Guests()) })
	t.Cleanup(func() {
		stop, stopped := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer stopped()
		_ = group.Close(stop)
		cancel()
		work.Wait()
		web.Close()
	})
	return web.URL
}

func dialWeb(t *testing.T, url string, protocols []string, header http.Header) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, answer, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: protocols, HTTPHeader: header})
	if err == nil {
		t.Cleanup(func() { _ = ws.CloseNow() })
	}
	return ws, answer, err
}

// Packets lie in frames as they like (6.0.0-2).
func TestWebSocket(t *testing.T) {
	h := newHandler()
	ws, _, err := dialWeb(t, serveWeb(t, h), []string{"mqtt"}, nil)
	must(t, err)
	if ws.Subprotocol() != "mqtt" {
		t.Errorf("the subprotocol is %q", ws.Subprotocol())
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	all := append(connectPacket(packet.V5, 0), publishPacket(packet.V5, "a", "1")...)
	all = append(all, publishPacket(packet.V5, "b", "2")...)
	for _, part := range [][]byte{all[:3], all[3 : len(all)-2], all[len(all)-2:]} {
		must(t, ws.Write(ctx, websocket.MessageBinary, part))
	}
	h.expect(t, "CONNECT x")
	h.expect(t, "PUBLISH a 1")
	h.expect(t, "PUBLISH b 2")
	kind, b, err := ws.Read(ctx)
	must(t, err)
	if want := packet.AppendConnack(nil, packet.V5, false, packet.Success, nil); kind != websocket.MessageBinary || !bytes.Equal(b, want) {
		t.Errorf("the client read %v % x", kind, b)
	}
	if remote := (<-h.conns).RemoteAddr().Addr(); !remote.IsLoopback() {
		t.Errorf("the client's address is %v", remote)
	}
	must(t, ws.Write(ctx, websocket.MessageBinary, connectPacket(packet.V5, 0)))
	_, b, err = ws.Read(ctx)
	must(t, err)
	if got := reason(t, b); got != packet.ProtocolError {
		t.Errorf("the client was told 0x%02X", byte(got))
	}
	if _, _, err = ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("it was closed with %v", err)
	}
	_ = h.ended(t)
}

func TestWebSocketRefusals(t *testing.T) {
	url := serveWeb(t, newHandler())
	if _, answer, err := dialWeb(t, url, []string{"mqtt"}, http.Header{"Origin": {"https://bad.example"}}); err == nil || answer.StatusCode != http.StatusForbidden {
		t.Errorf("a page from elsewhere got %v", err)
	}
	if _, _, err := dialWeb(t, url, []string{"mqtt"}, http.Header{"Origin": {url}}); err != nil {
		t.Errorf("the port's own origin got %v", err)
	}
	ws, _, err := dialWeb(t, url, []string{"mqtt"}, http.Header{"Origin": {"https://good.example"}})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, ws.Write(ctx, websocket.MessageText, connectPacket(packet.V5, 0)))
	if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusUnsupportedData {
		t.Errorf("a text frame got %v", err)
	}
	ws, _, err = dialWeb(t, url, nil, nil)
	must(t, err)
	if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusProtocolError {
		t.Errorf("a client without the subprotocol got %v", err)
	}
	answer, err := http.Get(url)
	must(t, err)
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("a plain request got %d", answer.StatusCode)
	}
}

// Only the whole origin counts, and what a request says of itself; whoever has no better reason to
// be here than that is a guest.
func TestWebSocketOrigins(t *testing.T) {
	h := newHandler()
	url := serveWeb(t, h)
	host := url[len("http://"):]
	_, port, err := net.SplitHostPort(host)
	must(t, err)
	tests := []struct {
		name, origin string
		host         string // in the Host header; empty: as it is
		forwarded    string // X-Forwarded-Host
		status       int
		guest        bool
	}{
		{"none", "", "", "", http.StatusSwitchingProtocols, false},
		{"listed", "https://good.example", "", "", http.StatusSwitchingProtocols, false},
		{"own", url, "", "", http.StatusSwitchingProtocols, true},
		{"rebinding", "http://evil.example:" + port, "evil.example:" + port, "", http.StatusSwitchingProtocols, true},
		{"default port", "http://evil.example", "evil.example:80", "", http.StatusSwitchingProtocols, true},
		{"capitals", "http://Evil.example", "evil.EXAMPLE", "", http.StatusSwitchingProtocols, true},
		{"behind TLS", "https://hub.example", "hub.example", "", http.StatusSwitchingProtocols, true},
		{"a client that says https", "https://" + host, "", "", http.StatusSwitchingProtocols, true},
		{"other scheme", "ftp://" + host, "", "", http.StatusForbidden, false},
		{"port of the other scheme", "http://hub.example:443", "hub.example", "", http.StatusForbidden, false},
		{"other port", "http://127.0.0.1", "", "", http.StatusForbidden, false},
		{"other name", "http://localhost:" + port, "", "", http.StatusForbidden, false},
		{"forwarded", "http://evil.example", "", "evil.example", http.StatusForbidden, false},
		{"with a user", "http://" + host + "@" + host, "", "", http.StatusForbidden, false},
		{"with a path", url + "/x", "", "", http.StatusForbidden, false},
		{"null", "null", "", "", http.StatusForbidden, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			header := http.Header{}
			if tt.origin != "" {
				header.Set("Origin", tt.origin)
			}
			if tt.forwarded != "" {
				header.Set("X-Forwarded-Host", tt.forwarded)
			}
			ws, answer, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: []string{"mqtt"}, HTTPHeader: header, Host: tt.host})
			if answer == nil || answer.StatusCode != tt.status {
				t.Fatalf("got %v, want %d", err, tt.status)
			}
			if err != nil {
				return
			}
			defer func() { _ = ws.CloseNow() }()
			must(t, ws.Write(ctx, websocket.MessageBinary, connectPacket(packet.V5, 0)))
			h.expect(t, "CONNECT x")
			if c := <-h.conns; c.Guest() != tt.guest {
				t.Errorf("it is a guest: %t", c.Guest())
			}
			must(t, ws.CloseNow())
			_ = h.ended(t)
		})
	}
}

// Stopping tells clients over WebSocket, too.
func TestWebSocketStops(t *testing.T) {
	h := newHandler()
	group, err := loop.New(loop.Config{Loops: 1, CloseTimeout: patience})
	must(t, err)
	server := mqtt.NewServer(mqtt.Config{}, h)
	sockets := mqtt.NewWebSocket(server, mqtt.WebSocketConfig{})
	web := httptest.NewServer(sockets)
	defer web.Close()
	var work sync.WaitGroup
	work.Go(func() { _ = group.ServePlain(t.Context(), sockets, server) })
	ws, _, err := dialWeb(t, web.URL, []string{"mqtt"}, nil)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, ws.Write(ctx, websocket.MessageBinary, connectPacket(packet.V5, 0)))
	h.expect(t, "CONNECT x")
	work.Go(func() { _ = group.Close(ctx) })
	stream := websocket.NetConn(ctx, ws, websocket.MessageBinary)
	if got := reason(t, rest(t, stream)); got != packet.ServerShuttingDown {
		t.Errorf("the client was told 0x%02X", byte(got))
	}
	work.Wait()
	if _, answer, err := dialWeb(t, web.URL, []string{"mqtt"}, nil); err == nil || answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after the stop a client got %v", err)
	}
}

var _ net.Listener = (*mqtt.WebSocket)(nil)
