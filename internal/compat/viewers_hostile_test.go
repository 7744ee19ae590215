package compat_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/bus"
	"signalbox/internal/compat"
	"signalbox/internal/registry"
)

const upgrade = "GET / HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

func closeFrame(code uint16) string {
	return frame(0x88, string(binary.BigEndian.AppendUint16(nil, code)))
}

// hostile connects, sends the upgrade and what follows in one piece, and gives what comes back up to
// the end: texts, «pong …», and «close …» with the code.
func (h *chain) hostile(address, follows string, thenShut bool) (heard []string) {
	h.t.Helper()
	d := net.Dialer{Timeout: viewersPatience}
	conn, err := d.DialContext(h.t.Context(), "tcp", address)
	must(h.t, err)
	defer func() { _ = conn.Close() }()
	must(h.t, conn.SetDeadline(time.Now().Add(viewersPatience)))
	_, err = io.WriteString(conn, upgrade+follows)
	must(h.t, err)
	if tcp, ok := conn.(*net.TCPConn); ok && thenShut {
		must(h.t, tcp.CloseWrite())
	}
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, nil)
	must(h.t, err)
	if answer.StatusCode != http.StatusSwitchingProtocols {
		h.t.Fatalf("the upgrade was answered with %d", answer.StatusCode)
	}
	for {
		var head [2]byte
		if _, err := io.ReadFull(in, head[:]); errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return heard
		} else if err != nil {
			h.t.Fatal(err)
		}
		size := int(head[1])
		if size == 126 {
			var more [2]byte
			_, err = io.ReadFull(in, more[:])
			must(h.t, err)
			size = int(binary.BigEndian.Uint16(more[:]))
		}
		payload := make([]byte, size)
		_, err = io.ReadFull(in, payload)
		must(h.t, err)
		switch {
		case head[0] == 0x81:
			heard = append(heard, string(payload))
		case head[0] == 0x8a:
			heard = append(heard, "pong "+string(payload))
		case head[0] == 0x88 && size >= 2:
			heard = append(heard, fmt.Sprint("close ", binary.BigEndian.Uint16(payload)))
		default:
			h.t.Fatalf("an unexpected frame came: %x and %d bytes", head[0], size)
		}
	}
}

// TestHostileViewers send what they like, all of it at once and behind the upgrade; each is answered
// as far as it was right, and leaves nothing behind.
func TestHostileViewers(t *testing.T) {
	t.Parallel()
	hello, realtime := frame(0x81, "hello"), frame(0x81, "realtime")
	network := `{"state": "Error", "type": "error", "response": "Viewers of your network are not admitted; the setting compat.viewers.allow of the hub lists those that are."}`
	tests := []struct {
		name, sends string
		shuts       bool
		refused     bool
		want        []string
		live        []string // on the port of devices, where that is something else
	}{
		{name: "all words at once", sends: hello + realtime + realtime + hello + closeFrame(1000), want: slices.Concat(greeting, greeting, []string{"close 1000"})},
		{
			name: "pings and fragments", sends: frame(0x89, "a") + frame(0x01, "hel") + frame(0x89, "b") + frame(0x00, "") + frame(0x80, "lo") + closeFrame(1001),
			want: slices.Concat([]string{"pong a", "pong b"}, greeting, []string{"close 1001"}),
		},
		{name: "a fragment of a word", sends: frame(0x01, "hello") + closeFrame(1000), want: []string{"close 1000"}},
		{name: "unmasked", sends: hello + "\x81\x05hello", want: append(slices.Clone(greeting), "close 1002")},
		{name: "a frame too long", sends: hello + frame(0x81, strings.Repeat("x", 1025)) + hello, want: append(slices.Clone(greeting), "close 1009")},
		{name: "fragments too long", sends: hello + frame(0x01, strings.Repeat("x", 1000)) + frame(0x80, strings.Repeat("x", 25)), want: append(slices.Clone(greeting), "close 1009")},
		{name: "a length beyond memory", sends: hello + "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff", want: append(slices.Clone(greeting), "close 1009")},
		{name: "no UTF-8", sends: hello + frame(0x81, "hell\xff"), want: append(slices.Clone(greeting), "close 1007")},
		{name: "close with a code of its own", sends: hello + closeFrame(4999) + hello, want: append(slices.Clone(greeting), "close 4999")},
		{name: "close with a code that nobody sends", sends: hello + closeFrame(1005), want: append(slices.Clone(greeting), "close 1002")},
		{name: "close with half a code", sends: hello + frame(0x88, "\x03"), want: append(slices.Clone(greeting), "close 1002")},
		{name: "half closed", sends: hello + realtime, shuts: true, want: greeting},
		{name: "a word in a binary frame", sends: frame(0x82, "hello") + hello + closeFrame(1000), want: append(slices.Clone(greeting), "close 1000"), live: []string{"close 1003"}},
		{name: "refused, and goes on", sends: hello + realtime + hello + closeFrame(1000), refused: true, want: []string{network, "close 1008"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := viewersConfig(t)
			if tt.refused {
				cfg.Allow = nil
			}
			h := startChain(t, cfg)
			for _, address := range []string{h.live, h.past} {
				want := tt.want
				if address == h.live && tt.live != nil {
					want = tt.live
				}
				if heard := h.hostile(address, tt.sends, tt.shuts); !slices.Equal(heard, want) {
					t.Errorf("it heard\n%q, want\n%q", heard, want)
				}
			}
			s := h.viewers.Stats()
			h.eventually("nothing is left of them", func() bool { return s.Open.Load() == 0 && s.Watching.Load() == 0 })
			if n := s.Flooded.Load() + s.Slow.Load() + s.Lost.Load(); n != 0 {
				t.Errorf("%d were closed for another reason", n)
			}
		})
	}
}

// TestViewersThatLeaveWhileHistoryIsRead are gone at once, and others get their answers.
func TestViewersThatLeaveWhileHistoryIsRead(t *testing.T) {
	t.Parallel()
	cfg := viewersConfig(t)
	cfg.AskTimeout = 2 * viewersPatience
	h := startChain(t, cfg)
	began, free := make(chan struct{}, 10), make(chan struct{})
	h.answerWith(func(ctx context.Context, _ signalbox.DeviceID, _ int64, _ int) ([]signalbox.Telemetry, error) {
		began <- struct{}{}
		select {
		case <-free:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return []signalbox.Telemetry{{Time: time.Date(2023, 7, 10, 12, 0, 0, 0, time.UTC), Object: []byte(`{"temp":25.8}`)}}, nil
	})
	for range 5 { // more than are answered at a time
		p := h.open(h.past)
		p.say("database:0")
		h.eventually("it is there", func() bool { return h.viewers.Stats().Open.Load() == 1 })
		must(t, p.conn.CloseNow())
		h.eventually("it has gone", func() bool { return h.viewers.Stats().Open.Load() == 0 })
	}
	<-began
	<-began
	p := h.open(h.past)
	p.say("database:0")
	close(free)
	p.hears(`{"state": "OK", "type": "old_data", "response": {"time": "2023-07-10 20:00:00", "temp": 25.8}}`, closing)
	if n := len(began); n != 1 {
		t.Errorf("history was asked for %d more, want the last one alone", n)
	}
	s := h.viewers.Stats()
	h.eventually("all questions are counted", func() bool { return s.Asked.Load() == 6 })
	if n := s.Faults.Load(); n != 0 {
		t.Errorf("%d faults", n)
	}
}

// TestWhoIsAdmitted: networks and addresses are those of IPv4 or of IPv6, however IPv4 is written.
func TestWhoIsAdmitted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		allow, address string
		want           bool
	}{
		{"127.0.0.0/8", "127.0.0.1", true},
		{"127.0.0.0/8", "::ffff:127.0.0.1", true},
		{"127.0.0.0/8", "::ffff:128.0.0.1", false},
		{"127.0.0.0/8", "::1", false},
		{"127.0.0.0/8", "::127.0.0.1", false},
		{"::ffff:10.0.0.0/104", "10.1.2.3", true},
		{"::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true},
		{"::ffff:10.0.0.0/104", "11.1.2.3", false},
		{"::ffff:0.0.0.0/96", "192.0.2.1", true},
		{"0.0.0.0/0", "::ffff:192.0.2.1", true},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"::/0", "2001:db8::1", true},
		{"::/0", "192.0.2.1", false},
		{"fe80::/10", "fe80::1%eth0", true},
		{"192.0.2.7/24", "192.0.2.200", true},
		{"192.0.2.7/32", "192.0.2.8", false},
	} {
		v := compat.NewViewers(compat.ViewersConfig{
			Device: "env01", Field: "temp", NullOrigin: true, Allow: []netip.Prefix{netip.MustParsePrefix(tt.allow)},
		}, compat.ViewersParts{Bus: new(bus.Bus), Devices: registry.New(nil, nil)})
		if got := v.AdmitsNull(netip.MustParseAddr(tt.address)); got != tt.want {
			t.Errorf("%s admits %s: %t, want %t", tt.allow, tt.address, got, tt.want)
		}
	}
	v := compat.NewViewers(compat.ViewersConfig{Device: "env01", Field: "temp", NullOrigin: true}, compat.ViewersParts{Bus: new(bus.Bus), Devices: registry.New(nil, nil)})
	if v.AdmitsNull(netip.MustParseAddr("127.0.0.1")) || v.AdmitsNull(netip.Addr{}) {
		t.Error("somebody is admitted though no network is")
	}
}
