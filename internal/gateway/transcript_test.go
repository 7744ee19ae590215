package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gobwas "github.com/gobwas/ws"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/command"
	"signalbox/internal/gateway"
	"signalbox/internal/gateway/loop"
	"signalbox/internal/gateway/ws"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/store"
)

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// hub is the device side of a hub: everything from the socket to the disk.
type hub struct {
	t        *testing.T
	devices  *registry.Registry
	sessions *session.Table
	log      *history.Log
	commands *command.Road
	gateway  *gateway.Gateway
	address  string
}

// names lets the registry serve the command road.
type names struct{ *registry.Registry }

func (n names) Find(name string) (signalbox.DeviceID, bool) {
	d := n.Registry.Find(name)
	if d == nil {
		return 0, false
	}
	return d.ID, true
}
func (n names) NameOf(id signalbox.DeviceID) string       { return n.Get(id).Name }
func (n names) Disabled(id signalbox.DeviceID) bool       { return n.Get(id).Disabled() }
func (n names) LatestObject(id signalbox.DeviceID) []byte { return n.Get(id).LatestObject() }

// startHub starts a hub with the devices esp01 (secret 1234) and esp02 (5678).
func startHub(t *testing.T, cfg gateway.Config, wsConfig ws.Config) *hub {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	logger := slog.New(slog.DiscardHandler)
	if cfg.Logger == nil {
		cfg.Logger = logger
	}
	dir := t.TempDir()
	st, err := store.Open(ctx, store.Config{Dir: dir, Logger: logger})
	must(t, err)
	keys, err := auth.OpenKeys(filepath.Join(dir, "secret.key"))
	must(t, err)
	h := &hub{t: t, devices: registry.New(st, logger), sessions: session.New()}
	h.log, err = history.Open(ctx, history.Config{Logger: logger}, st)
	must(t, err)
	for name, secret := range map[string]string{"esp01": "1234", "esp02": "5678"} {
		sum, err := keys.HashChosen(secret)
		must(t, err)
		_, err = h.devices.Add(ctx, registry.NewDevice{Name: name, Type: "box", Secret: store.Secret{Kind: auth.SecretChosen, Sum: sum}})
		must(t, err)
	}
	h.commands = command.New(command.Config{}, h.log, st, h.sessions, names{h.devices}, logger)
	road := ingest.New(ingest.Config{Logger: logger}, h.log, h.devices, h.sessions, h.commands)
	h.gateway = gateway.New(cfg, gateway.Parts{
		Devices: h.devices, Sessions: h.sessions, Ingest: road, Commands: h.commands, Log: h.log,
		Logins: auth.NewDeviceLogins(keys, auth.DeviceLoginsConfig{}),
	})
	wsConfig.Gate = h.gateway
	group, err := loop.New(loop.Config{Loops: 2, Logger: logger})
	must(t, err)
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	must(t, err)
	h.address = l.Addr().String()
	var work sync.WaitGroup
	work.Go(func() { check(t, h.log.Run(ctx, patience)) })
	work.Go(func() { check(t, h.commands.Run(ctx)) })
	work.Go(func() { check(t, h.gateway.Run(ctx)) })
	work.Go(func() {
		// In a test that ends at once the group may be closed before this has begun.
		if err := group.Serve(ctx, l, ws.NewServer(wsConfig, h.gateway)); !errors.Is(err, loop.ErrStopped) {
			check(t, err)
		}
	})
	t.Cleanup(func() {
		stop, stopped := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer stopped()
		check(t, group.Close(stop))
		cancel()
		work.Wait()
		check(t, st.Close())
	})
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// board is a client that sends what it is told and keeps no rules of its own.
type board struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// connect upgrades as the ESP32 libraries do; header adds lines or, with an empty value,
// drops one.
func (h *hub) connect(header map[string]string) *board {
	h.t.Helper()
	b, status := h.upgrade(header)
	if status != http.StatusSwitchingProtocols {
		h.t.Fatalf("the upgrade was answered with %d", status)
	}
	return b
}

func (h *hub) upgrade(header map[string]string) (*board, int) {
	h.t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(h.t.Context(), "tcp", h.address)
	must(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	must(h.t, conn.SetDeadline(time.Now().Add(patience)))
	fields := map[string]string{
		"Host": h.address, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "arduino", "Origin": "file://",
		"Sec-WebSocket-Extensions": "permessage-deflate",
	}
	maps.Copy(fields, header)
	request := "GET /any/path HTTP/1.1\r\n"
	for k, v := range fields {
		if v != "" {
			request += k + ": " + v + "\r\n"
		}
	}
	_, err = io.WriteString(conn, request+"\r\n")
	must(h.t, err)
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, nil)
	must(h.t, err)
	if answer.StatusCode == http.StatusSwitchingProtocols {
		if p := answer.Header.Get("Sec-WebSocket-Protocol"); p == "arduino" {
			h.t.Error("the subprotocol was echoed")
		}
		if e := answer.Header.Get("Sec-WebSocket-Extensions"); e != "" {
			h.t.Errorf("the extension %q was accepted", e)
		}
	}
	return &board{t: h.t, conn: conn, in: in}, answer.StatusCode
}

func (b *board) send(op gobwas.OpCode, payload string) {
	b.t.Helper()
	must(b.t, gobwas.WriteFrame(b.conn, gobwas.MaskFrameInPlace(gobwas.NewFrame(op, true, []byte(payload)))))
}

// sendAll sends texts in one piece.
func (b *board) sendAll(texts ...string) {
	b.t.Helper()
	var out bytes.Buffer
	for _, text := range texts {
		must(b.t, gobwas.WriteFrame(&out, gobwas.MaskFrameInPlace(gobwas.NewTextFrame([]byte(text)))))
	}
	_, err := b.conn.Write(out.Bytes())
	must(b.t, err)
}

// next gives the next data frame, or the code of the close frame; pings are answered.
func (b *board) next() (payload string, code int) {
	b.t.Helper()
	for {
		h, err := gobwas.ReadHeader(b.in)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return "", -1
		}
		must(b.t, err)
		frame := make([]byte, min(h.Length, 1<<20))
		_, err = io.ReadFull(b.in, frame)
		must(b.t, err)
		switch h.OpCode {
		case gobwas.OpClose:
			if len(frame) < 2 {
				return "", 1005
			}
			status, _ := gobwas.ParseCloseFrameData(frame)
			return "", int(status)
		case gobwas.OpPing:
			b.send(gobwas.OpPong, string(frame))
		case gobwas.OpText:
			return string(frame), 0
		default:
			b.t.Fatalf("an unexpected frame came: %v", h)
		}
	}
}

// TestTranscripts plays the conversations in testdata. A line is
//
//	name> text     the connection name (made when first named) sends a text frame
//	name>> hex     … a binary frame, as hex
//	name< text     the hub sends exactly this; «<time>» and «<id>» stand for what varies
//	name! 1000     the hub closes with this code
//	name% lost     the connection is cut by the board
//	name? Header: value    upgrade with this header first
//	send DEVICE COMMAND [VALUE]   an operator sends a command; a VALUE of "" is empty
//	is DEVICE status       the device shows this status, within patience
//	# a remark
func TestTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*/*.txt")
	must(t, err)
	if len(files) < 5 {
		t.Fatalf("only %d transcripts were found", len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(file, "testdata/"), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			must(t, err)
			play(t, startHub(t, gateway.Config{}, ws.Config{}), string(text))
		})
	}
}

var lineForm = regexp.MustCompile(`^(\w+)(>>|>|<|!|%|\?) ?(.*)$`)

func play(t *testing.T, h *hub, text string) {
	t.Helper()
	boards := map[string]*board{}
	headers := map[string]map[string]string{}
	ids := map[string]string{}
	for i, line := range strings.Split(text, "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("line %d, %s: "+format, append([]any{i + 1, line}, args...)...)
		}
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "send":
			fields := strings.SplitN(rest, " ", 3)
			req := signalbox.CommandRequest{Device: fields[0], Name: fields[1]}
			if len(fields) == 3 {
				v := strings.Trim(fields[2], `"`)
				req.Value = &v
			}
			if _, err := h.commands.Submit(t.Context(), req); err != nil {
				at("%v", err)
			}
			continue
		case "is":
			device, want, _ := strings.Cut(rest, " ")
			if got := h.awaitStatus(device, want); got != want {
				at("the status is %q", got)
			}
			continue
		}
		m := lineForm.FindStringSubmatch(line)
		if m == nil {
			at("this line is none of the language")
		}
		name, op, payload := m[1], m[2], m[3]
		if op == "?" {
			key, value, _ := strings.Cut(payload, ": ")
			if key == "Basic" {
				key, value = "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(value))
			}
			headers[name] = map[string]string{key: value}
			continue
		}
		b := boards[name]
		if b == nil {
			b = h.connect(headers[name])
			boards[name] = b
		}
		for k, v := range ids {
			payload = strings.ReplaceAll(payload, "$"+k, v)
		}
		switch op {
		case ">":
			b.send(gobwas.OpText, payload)
		case ">>":
			b.send(gobwas.OpBinary, unhex(t, payload))
		case "<":
			got, code := b.next()
			if code != 0 {
				at("the hub closed with %d", code)
			}
			if !matches(payload, got, ids) {
				at("the hub sent %s", got)
			}
		case "!":
			want, err := strconv.Atoi(payload)
			must(t, err)
			if got, code := b.next(); code != want {
				at("the hub sent %q, code %d", got, code)
			}
		case "%":
			must(t, b.conn.Close())
		}
	}
}

// matches compares a frame with what a transcript wants; «<id>» is remembered as $id.
func matches(want, got string, ids map[string]string) bool {
	form := regexp.QuoteMeta(want)
	form = strings.ReplaceAll(form, "<time>", `\d{13}`)
	form = strings.ReplaceAll(form, "<id>", `([0-9a-z]{26})`)
	m := regexp.MustCompile("^" + form + "$").FindStringSubmatch(got)
	if len(m) > 1 {
		ids["id"] = m[1]
	}
	return m != nil
}

func unhex(t *testing.T, s string) string {
	t.Helper()
	var out bytes.Buffer
	for i := 0; i+1 < len(s); i += 2 {
		b, err := strconv.ParseUint(s[i:i+2], 16, 8)
		must(t, err)
		out.WriteByte(byte(b))
	}
	return out.String()
}

// awaitStatus waits until device shows want, and gives what it shows in the end.
func (h *hub) awaitStatus(device, want string) string {
	h.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		got := h.devices.Find(device).View().Status
		if got == want {
			return got
		}
		select {
		case <-deadline.C:
			return got
		case <-tick.C:
		}
	}
}
