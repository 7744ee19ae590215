package main_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	gobwas "github.com/gobwas/ws"
)

// board is a device connection that a test drives frame by frame.
type board struct {
	t    *testing.T
	name string
	conn net.Conn
	in   *bufio.Reader
	seq  uint64 // of the latest report
}

// upgradeRequest is what the ESP32 libraries send.
const upgradeRequest = "GET / HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: arduino\r\nOrigin: file://\r\n\r\n"

// dial opens a connection from an address of this machine, such as 127.0.0.2.
func (h *hub) dial(from string) net.Conn {
	h.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	conn, err := d.DialContext(h.t.Context(), "tcp", h.addresses.Devices)
	must(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	return patient{conn}
}

// patient bounds each read and each write of a connection by itself: a test has many of them.
type patient struct{ net.Conn }

// Read implements io.Reader.
func (p patient) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(muchPatience)); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}

// Write implements io.Writer.
func (p patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(muchPatience)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

// connect opens a WebSocket that nobody has logged in on.
func (h *hub) connect(from string) *board {
	h.t.Helper()
	conn := h.dial(from)
	_, err := io.WriteString(conn, upgradeRequest)
	must(h.t, err)
	return upgraded(h.t, conn)
}

// upgraded reads the answer to the upgrade.
func upgraded(t *testing.T, conn net.Conn) *board {
	t.Helper()
	b := &board{t: t, conn: conn, in: bufio.NewReader(conn)}
	answer, err := http.ReadResponse(b.in, nil)
	must(t, err)
	if answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the upgrade was answered with %d", answer.StatusCode)
	}
	return b
}

// login1 gives a board of version 1 that is online.
func (h *hub) login1(name string) *board {
	h.t.Helper()
	b := h.connect("127.0.0.1")
	b.name = name
	b.text(fmt.Sprintf(`{"type":"auth","name":%q,"password":%q}`, name, secretOf(name)))
	h.awaitPresence(name, "online")
	return b
}

// login2 gives a board of version 2 that is online, and what is saved of its power-up.
func (h *hub) login2(name, boot string) (b *board, saved uint64) {
	h.t.Helper()
	b = h.connect("127.0.0.1")
	b.name = name
	b.text(fmt.Sprintf(`{"type":"auth","v":2,"name":%q,"password":%q,"boot":%q}`, name, secretOf(name), boot))
	f := b.frame()
	if f.Type != "auth_ok" {
		h.t.Fatalf("the login of %s was answered with %+v", name, f)
	}
	b.seq = f.Saved
	return b, f.Saved
}

// maxAnswer is the longest frame that a test expects of the hub, in bytes.
const maxAnswer = 64 << 10

// write sends a masked frame.
func (b *board) write(op gobwas.OpCode, payload []byte) error {
	return gobwas.WriteFrame(b.conn, gobwas.MaskFrameInPlace(gobwas.NewFrame(op, true, payload)))
}

func (b *board) text(payload string) {
	b.t.Helper()
	must(b.t, b.write(gobwas.OpText, []byte(payload)))
}

// report sends telemetry with the next sequence number.
func (b *board) report() {
	b.t.Helper()
	b.seq++
	b.text(fmt.Sprintf(`{"type":"telemetry","seq":%d,"n":%d}`, b.seq, b.seq))
}

// awaitSaved reads until the latest report is saved.
func (b *board) awaitSaved() {
	b.t.Helper()
	for {
		if f := b.frame(); f.Type == "saved" && f.Seq >= b.seq {
			return
		}
	}
}

// frame is any frame of the hub, taken apart.
type frame struct {
	Type, ID, Command, Error, Name string
	Value                          *string
	Seq, Saved                     uint64
	raw                            string
}

func (f *frame) value() string {
	if f.Value == nil {
		return ""
	}
	return *f.Value
}

// frame gives the next data frame.
func (b *board) frame() (f frame) {
	b.t.Helper()
	raw, closed, err := b.read()
	must(b.t, err)
	if closed != "" {
		b.t.Fatalf("the hub closed the connection of %q with %q", b.name, closed)
	}
	f.raw = raw
	must(b.t, json.Unmarshal([]byte(raw), &f))
	return f
}

// read gives the next data frame, or code and reason of the hub's close frame; it answers
// pings.
func (b *board) read() (payload, closed string, err error) {
	for {
		head, err := gobwas.ReadHeader(b.in)
		if err != nil {
			return "", "", err
		}
		if head.Length > maxAnswer || head.Masked || !head.Fin {
			return "", "", fmt.Errorf("the hub sent a frame with the header %+v", head)
		}
		body := make([]byte, head.Length)
		if _, err := io.ReadFull(b.in, body); err != nil {
			return "", "", err
		}
		switch head.OpCode {
		case gobwas.OpClose:
			code, reason := gobwas.ParseCloseFrameData(body)
			return "", strings.TrimSpace(fmt.Sprintf("%d %s", code, reason)), nil
		case gobwas.OpPing:
			if err := b.write(gobwas.OpPong, body); err != nil {
				return "", "", err
			}
		case gobwas.OpPong:
		case gobwas.OpText:
			return string(body), "", nil
		default:
			return "", "", fmt.Errorf("the hub sent a frame with the header %+v", head)
		}
	}
}

// closing gives code and reason of the close frame that must come next, «cut» for an end
// without one, and checks that the hub then ends the connection.
func (b *board) closing() string {
	b.t.Helper()
	payload, closed, err := b.read()
	switch {
	case errors.Is(err, io.EOF):
		return "cut"
	case err != nil:
		b.t.Fatalf("no close frame came: %v", err)
	case closed == "":
		b.t.Fatalf("instead of a close frame came %s", payload)
	}
	_ = b.write(gobwas.OpClose, gobwas.NewCloseFrameBody(gobwas.StatusNormalClosure, "")) // the hub may be gone already
	if _, err := b.in.ReadByte(); err == nil {
		b.t.Error("the hub sent something after its close frame")
	}
	return closed
}

// stream listens to the hub's events of a kind; the channel gives their data.
func (h *hub) stream(query string) <-chan string {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, "http://hub/api/v1/stream?snapshot=false&"+query, nil)
	must(h.t, err)
	client := http.Client{Transport: h.local.Transport} // without a time limit
	resp, err := client.Do(req)
	must(h.t, err)
	if resp.StatusCode != http.StatusOK {
		h.t.Fatalf("the stream was answered with %d", resp.StatusCode)
	}
	events := make(chan string, 256)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(events)
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				select {
				case events <- data:
				case <-h.t.Context().Done():
					return
				}
			}
		}
	}()
	h.t.Cleanup(func() {
		_ = resp.Body.Close()
		<-done
	})
	return events
}

// awaitEvent reads events until one is as wanted.
func awaitEvent(t *testing.T, events <-chan string, what string, ok func(data string) bool) {
	t.Helper()
	limit := time.NewTimer(muchPatience)
	defer limit.Stop()
	for {
		select {
		case data, open := <-events:
			if !open {
				t.Fatalf("the stream ended before %s", what)
			}
			if ok(data) {
				return
			}
		case <-limit.C:
			t.Fatalf("no event told that %s", what)
		}
	}
}
