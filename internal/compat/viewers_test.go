package compat_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/bus"
	"signalbox/internal/command"
	"signalbox/internal/compat"
	"signalbox/internal/gateway"
	"signalbox/internal/gateway/loop"
	"signalbox/internal/gateway/ws"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/store"
)

// viewersPatience bounds every wait of these tests.
const viewersPatience = 30 * time.Second

// chain is a hub with the ports of devices and of history, and the device env01.
type chain struct {
	t       *testing.T
	viewers *compat.Viewers
	gateway *gateway.Gateway
	devices *registry.Registry
	log     *history.Log
	group   *loop.Group
	live    string // addresses
	past    string

	mu    sync.Mutex
	pages func(ctx context.Context, device signalbox.DeviceID, n int64, limit int) ([]signalbox.Telemetry, error) // instead of the log's
}

// Head implements compat.ViewersLog.
func (h *chain) Head() signalbox.Position { return h.log.Head() }

// PageAt implements compat.ViewersLog.
func (h *chain) PageAt(ctx context.Context, device signalbox.DeviceID, n int64, limit int) ([]signalbox.Telemetry, error) {
	h.mu.Lock()
	pages := h.pages
	h.mu.Unlock()
	if pages == nil {
		pages = h.log.PageAt
	}
	return pages(ctx, device, n, limit)
}

// answerWith has history answer otherwise.
func (h *chain) answerWith(pages func(ctx context.Context, device signalbox.DeviceID, n int64, limit int) ([]signalbox.Telemetry, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pages = pages
}

// Find, NameOf, Disabled and LatestObject implement command.Devices.
func (h *chain) Find(name string) (signalbox.DeviceID, bool) {
	d := h.devices.Find(name)
	if d == nil {
		return 0, false
	}
	return d.ID, true
}
func (h *chain) NameOf(id signalbox.DeviceID) string       { return h.devices.Get(id).Name }
func (h *chain) Disabled(id signalbox.DeviceID) bool       { return h.devices.Get(id).Disabled() }
func (h *chain) LatestObject(id signalbox.DeviceID) []byte { return h.devices.Get(id).LatestObject() }

// loopback admits this machine.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// viewersConfig is what env01's viewers see, on the clock of Asia/Shanghai.
func viewersConfig(t *testing.T) compat.ViewersConfig {
	t.Helper()
	zone, err := time.LoadLocation("Asia/Shanghai")
	must(t, err)
	return compat.ViewersConfig{Device: "env01", Field: "temp", Allow: loopback, NullOrigin: true, Zone: zone}
}

// startChain starts a hub with the devices other, esp01 (secret 1234) and, unless it is to come
// later, env01.
func startChain(t *testing.T, cfg compat.ViewersConfig, devices ...string) *chain {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	logger := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	st, err := store.Open(ctx, store.Config{Dir: dir, Logger: logger})
	must(t, err)
	keys, err := auth.OpenKeys(filepath.Join(dir, "secret.key"))
	must(t, err)
	h := &chain{t: t, devices: registry.New(st, logger)}
	announce := new(bus.Bus)
	h.log, err = history.Open(ctx, history.Config{Announce: announce.Publish, Logger: logger}, st)
	must(t, err)
	must(t, h.devices.Load(ctx, h.log))
	if devices == nil {
		devices = []string{"other", "esp01", "env01"}
	}
	for _, name := range devices {
		sum, err := keys.HashChosen("1234")
		must(t, err)
		_, err = h.devices.Add(ctx, registry.NewDevice{Name: name, Type: "box", Secret: store.Secret{Kind: auth.SecretChosen, Sum: sum}})
		must(t, err)
	}
	h.viewers = compat.NewViewers(cfg, compat.ViewersParts{Log: h, Bus: announce, Devices: h.devices})
	sessions := session.New()
	commands := command.New(command.Config{}, h.log, st, sessions, h, logger)
	h.gateway = gateway.New(gateway.Config{Origins: cfg.Origins}, gateway.Parts{
		Devices: h.devices, Sessions: sessions, Ingest: ingest.New(ingest.Config{Logger: logger}, h.log, h.devices, sessions, commands),
		Commands: commands, Log: h.log, Logins: auth.NewDeviceLogins(keys, auth.DeviceLoginsConfig{}), Viewers: h.viewers,
	})
	h.group, err = loop.New(loop.Config{Loops: 2, CloseTimeout: viewersPatience, Logger: logger}) // for viewers that read late
	must(t, err)
	var work sync.WaitGroup
	work.Go(func() { holds(t, h.log.Run(ctx, viewersPatience)) })
	work.Go(func() { holds(t, commands.Run(ctx)) })
	work.Go(func() { holds(t, h.gateway.Run(ctx)) })
	work.Go(func() { holds(t, h.viewers.Run(ctx)) })
	serve := func(handler ws.Handler) string {
		l, err := smallListener().Listen(ctx, "tcp", "127.0.0.1:0")
		must(t, err)
		work.Go(func() {
			if err := h.group.Serve(ctx, l, ws.NewServer(ws.Config{Gate: h.gateway}, handler)); !errors.Is(err, loop.ErrStopped) { // a test may end first
				holds(t, err)
			}
		})
		return l.Addr().String()
	}
	h.live, h.past = serve(h.gateway), serve(h.viewers.History())
	t.Cleanup(func() {
		h.stop()
		cancel()
		work.Wait()
		holds(t, st.Close())
	})
	return h
}

// smallListener gives connections little room in the system, so that who does not read is noticed
// soon.
func smallListener() *net.ListenConfig {
	return &net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var fault error
		err := c.Control(func(fd uintptr) { fault = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4096) })
		return errors.Join(err, fault)
	}}
}

func (h *chain) stop() {
	stop, stopped := context.WithTimeout(context.Background(), viewersPatience)
	defer stopped()
	holds(h.t, h.group.Close(stop))
}

func holds(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// feed appends a message of a device as if it had been received, and waits until it is on disk.
func (h *chain) feed(kind signalbox.EntryKind, device, at, object string) {
	h.t.Helper()
	moment, err := time.Parse(time.RFC3339, at)
	must(h.t, err)
	e := signalbox.Entry{Device: h.devices.Find(device).ID, Kind: kind, TimeMicros: moment.UnixMicro(), Body: []byte(object)}
	must(h.t, h.log.Append(&e, history.Now))
	ctx, cancel := context.WithTimeout(h.t.Context(), viewersPatience)
	defer cancel()
	must(h.t, h.log.Wait(ctx, e.Position))
}

// eventually waits until ok.
func (h *chain) eventually(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(viewersPatience)
	defer deadline.Stop()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			h.t.Fatalf("it never came to be that %s", what)
		case <-look.C:
		}
	}
}

func (h *chain) watching(n int64) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("%d viewers watch", n), func() bool { return h.viewers.Stats().Watching.Load() == n })
}

// page is a viewer's connection.
type page struct {
	t    *testing.T
	conn *websocket.Conn
	raw  net.Conn // below conn
}

// visit connects; the answer's status is 101 if that worked.
func (h *chain) visit(address, origin string) (*page, int) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), viewersPatience)
	defer cancel()
	dialer := &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}
	var raw net.Conn
	o := &websocket.DialOptions{HTTPHeader: http.Header{}, HTTPClient: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			c, err = dialer.DialContext(ctx, network, address)
			raw = c
			return c, err
		},
	}}}
	if origin != "" {
		o.HTTPHeader.Set("Origin", origin)
	}
	conn, answer, err := websocket.Dial(ctx, "ws://"+address+"/", o)
	if err != nil {
		if answer == nil {
			h.t.Fatal(err)
		}
		return nil, answer.StatusCode
	}
	h.t.Cleanup(func() { _ = conn.CloseNow() })
	return &page{h.t, conn, raw}, answer.StatusCode
}

func (h *chain) open(address string) *page {
	h.t.Helper()
	p, status := h.visit(address, "")
	if p == nil {
		h.t.Fatalf("the upgrade was answered with %d", status)
	}
	return p
}

func (p *page) send(kind websocket.MessageType, text string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), viewersPatience)
	defer cancel()
	must(p.t, p.conn.Write(ctx, kind, []byte(text)))
}

func (p *page) say(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		p.send(websocket.MessageText, text)
	}
}

// burst says a text many times in one piece, so that it is more than may come on any machine.
func (p *page) burst(text string, times int) {
	p.t.Helper()
	p.sendRaw(strings.Repeat(frame(0x81, text), times))
}

// sendRaw sends bytes, frames that frame made; what conn sends must be behind it already.
func (p *page) sendRaw(frames string) {
	p.t.Helper()
	must(p.t, p.raw.SetWriteDeadline(time.Now().Add(viewersPatience)))
	_, err := p.raw.Write([]byte(frames))
	must(p.t, err)
}

// frame is a frame of a client (RFC 6455 section 5.2) of less than 64 KiB, masked with zeros.
func frame(first byte, payload string) string {
	head := []byte{first, 0x80}
	if n := len(payload); n < 126 {
		head[1] |= byte(n)
	} else {
		head = binary.BigEndian.AppendUint16([]byte{first, 0x80 | 126}, uint16(n))
	}
	return string(head) + "\x00\x00\x00\x00" + payload
}

// next gives the next text, or the code of the close frame.
func (p *page) next() (text string, code websocket.StatusCode) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), viewersPatience)
	defer cancel()
	kind, body, err := p.conn.Read(ctx)
	if err != nil {
		if code := websocket.CloseStatus(err); code != -1 {
			return "", code
		}
		p.t.Fatal(err)
	}
	if kind != websocket.MessageText {
		p.t.Errorf("a binary frame came: %q", body)
	}
	return string(body), 0
}

// hears wants these texts next.
func (p *page) hears(texts ...string) {
	p.t.Helper()
	for _, want := range texts {
		if got, code := p.next(); got != want || code != 0 {
			p.t.Fatalf("heard %s (close %d)\nwant  %s", got, code, want)
		}
	}
}

// closes wants the hub to close with this code next.
func (p *page) closes(want websocket.StatusCode) {
	p.t.Helper()
	if got, code := p.next(); code != want {
		p.t.Fatalf("heard %q, code %d; want %d", got, code, want)
	}
}

// greeting is what hello is answered with.
var greeting = []string{
	`{"state": "OK", "type": "hello", "response": "Hello, client!"}`,
	`{"state": "OK", "type": "hello", "response": "connect successfully!"}`,
	`{"state": "OK", "type": "sending", "response": "sending temperature data from esp32..."}`,
}

const closing = `{"state": "OK", "type": "close", "response": ""}`

// TestViewerTranscripts plays the conversations in testdata/viewers. A line is
//
//	name> text     the connection name (made when first named, live… or past…) sends a text
//	name>> hex     … a binary frame, as hex
//	name* 1025     … a text of so many bytes
//	name< text     the hub sends exactly this next
//	name! 1000     the hub closes with this code
//	feed TIME OBJECT    env01 reports this; other is another device, import an import
//	watching 2     waits until so many viewers watch
//	is DEVICE status    waits until the device shows it
//	# a remark
func TestViewerTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/viewers/*.txt")
	must(t, err)
	if len(files) != 2 {
		t.Fatalf("%d transcripts were found", len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			must(t, err)
			h := startChain(t, viewersConfig(t))
			pages := map[string]*page{}
			for i, line := range strings.Split(string(text), "\n") {
				if line != "" && line[0] != '#' && !h.play(pages, line) {
					t.Fatalf("line %d is none of the language: %s", i+1, line)
				}
				if t.Failed() {
					t.Fatalf("in line %d: %s", i+1, line)
				}
			}
		})
	}
}

func (h *chain) play(pages map[string]*page, line string) bool {
	h.t.Helper()
	word, rest, _ := strings.Cut(line, " ")
	first, second, _ := strings.Cut(rest, " ")
	switch word {
	case "feed":
		h.feed(signalbox.EntryTelemetry, "env01", first, second)
		return true
	case "other":
		h.feed(signalbox.EntryTelemetry, "other", first, second)
		return true
	case "import":
		h.feed(signalbox.EntryImported, "env01", first, second)
		return true
	case "watching":
		n, err := strconv.ParseInt(rest, 10, 64)
		must(h.t, err)
		h.watching(n)
		return true
	case "is":
		h.eventually(line, func() bool { return h.devices.Find(first).View().Status == second })
		return true
	}
	name := strings.TrimRight(word, "<>*!")
	p := pages[name]
	switch {
	case p != nil:
	case strings.HasPrefix(name, "live"):
		p = h.open(h.live)
	case strings.HasPrefix(name, "past"):
		p = h.open(h.past)
	default:
		return false
	}
	pages[name] = p
	switch word[len(name):] {
	case ">":
		p.say(rest)
	case ">>":
		body, err := hex.DecodeString(rest)
		must(h.t, err)
		p.send(websocket.MessageBinary, string(body))
	case "*":
		n, err := strconv.Atoi(rest)
		must(h.t, err)
		p.say(strings.Repeat("x", n))
	case "<":
		p.hears(rest)
	case "!":
		code, err := strconv.Atoi(rest)
		must(h.t, err)
		p.closes(websocket.StatusCode(code))
	default:
		return false
	}
	return true
}
