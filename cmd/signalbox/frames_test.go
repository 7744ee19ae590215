package main_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// raw builds a frame by hand: the first two bytes, then length, mask and payload as given.
func raw(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch v := p.(type) {
		case int:
			b = append(b, byte(v))
		case uint16:
			b = binary.BigEndian.AppendUint16(b, v)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, v)
		case string:
			b = append(b, v...)
		}
	}
	return b
}

const (
	fin    = 0x80
	masked = 0x80
	text   = 0x1
	binar  = 0x2
	mask0  = "\x00\x00\x00\x00" // a mask that changes nothing
)

// masked1 is a whole frame with a payload of at most 125 bytes.
func masked1(op int, payload string) []byte {
	return raw(fin|op, masked|len(payload), mask0, payload)
}

// long is a masked text frame with a payload of 126 to 65,535 bytes.
func long(payload string) []byte {
	return raw(fin|text, masked|126, uint16(len(payload)), mask0, payload)
}

// TestWrongFrames sends what no device should send, before and after login. Each ends, if
// at all, only the connection it came on.
func TestWrongFrames(t *testing.T) {
	h := startHub(t, dataDir(t, ""))
	h.add("witness", "rude")
	witness, _ := h.login2("witness", "")
	tests := []struct {
		name   string
		bytes  []byte
		closed string // the close code; empty: the connection stays
		// stranger is the close code before login, where it is another.
		stranger string
	}{
		{name: "malformed JSON", bytes: masked1(text, `{"type":"telemetry",`), closed: "1003"},
		{name: "two objects", bytes: masked1(text, `{"type":"telemetry"}{}`), closed: "1003"},
		{name: "an array", bytes: masked1(text, `[1,2,3]`), closed: "1003"},
		{name: "a word", bytes: masked1(text, `telemetry`), closed: "1003"},
		{name: "an empty frame", bytes: masked1(text, ``), closed: "1003"},
		{name: "NaN", bytes: masked1(text, `{"type":"telemetry","t":NaN}`), closed: "1003"},
		{name: "random bytes, binary", bytes: masked1(binar, "\x00\x01\x7f\x10\x02"), closed: "1003"},
		{name: "invalid UTF-8, binary", bytes: masked1(binar, "{\"a\":\"\xff\xfe\"}"), closed: "1007"},
		{name: "invalid UTF-8, text", bytes: masked1(text, "{\"a\":\"\xc3\x28\"}"), closed: "1007"},
		{name: "a surrogate in UTF-8", bytes: masked1(text, "{\"a\":\"\xed\xa0\x80\"}"), closed: "1007"},
		{name: "unmasked", bytes: raw(fin|text, 2, "{}"), closed: "1002"},
		{name: "a reserved bit", bytes: raw(fin|0x40|text, masked|2, mask0, "{}"), closed: "1002"},
		{name: "a reserved opcode", bytes: masked1(0x3, "{}"), closed: "1002"},
		{name: "a fragmented ping", bytes: raw(0x9, masked|1, mask0, "x"), closed: "1002"},
		{name: "a ping of 126 bytes", bytes: raw(fin|0x9, masked|126, uint16(126), mask0), closed: "1002"},
		{name: "a continuation of nothing", bytes: masked1(0x0, "{}"), closed: "1002"},
		{name: "a message within a message", bytes: append(raw(text, masked|1, mask0, "{"), masked1(text, "{}")...), closed: "1002"},
		{name: "64 KiB and one byte declared", bytes: raw(fin|text, masked|127, uint64(64<<10+1), mask0), closed: "1009"},
		{name: "2^62 bytes declared", bytes: raw(fin|text, masked|127, uint64(1)<<62, mask0), closed: "1009"},
		{name: "2^63-1 bytes declared", bytes: raw(fin|binar, masked|127, uint64(1)<<63-1, mask0), closed: "1009"},
		{name: "a negative length", bytes: raw(fin|text, masked|127, uint64(1)<<63, mask0), closed: "1002"},
		{name: "a length of all ones", bytes: raw(fin|text, masked|127, ^uint64(0), mask0), closed: "1002"},
		{name: "a close code of 0", bytes: masked1(0x8, "\x00\x00"), closed: "1002"},
		{name: "a close frame of one byte", bytes: masked1(0x8, "\x03"), closed: "1002"},
		{name: "deep nesting", bytes: long(`{"type":"telemetry","deep":` + strings.Repeat(`[`, 2000) + strings.Repeat(`]`, 2000) + `}`), stranger: "1003"},
		{name: "deep objects, cut off", bytes: long(strings.Repeat(`{"a":`, 2000)), stranger: "1003"},
		{name: "many keys", bytes: long(`{"type":"telemetry"` + manyKeys(1000) + `}`), stranger: "1003"},
		{name: "huge numbers", bytes: long(`{"type":"telemetry","a":1e999999,"b":-1e-999999,"c":1` + strings.Repeat("0", 400) + `}`), stranger: "1000"},
		{name: "duplicate keys", bytes: masked1(text, `{"type":"telemetry","a":1,"a":2,"type":"telemetry"}`), stranger: "1000"},
		{name: "an unknown type", bytes: masked1(text, `{"type":"\u0000"}`), stranger: "1000"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, protocol := range []int{0, 1, 2} {
				b, want := h.connect("127.0.0.1"), test.closed
				switch protocol {
				case 0:
					if test.stranger != "" {
						want = test.stranger
					}
					if len(test.bytes) > 4<<10 && want == "1003" {
						want = "1009" // before login a message is short
					}
				case 1:
					_ = b.conn.Close()
					b = h.login1("rude")
				default:
					_ = b.conn.Close()
					b, _ = h.login2("rude", "")
				}
				_, err := b.conn.Write(test.bytes)
				must(t, err)
				got := stays
				if want != "" {
					got = closingAfterAnswer(b)
				} else {
					stillThere(t, h, b, protocol)
					want = stays
				}
				if got != want && !strings.HasPrefix(got, want+" ") {
					t.Errorf("version %d: the connection ended with %q instead of %q", protocol, got, want)
				}
				h.alive(witness)
				_ = b.conn.Close()
				h.awaitPresence("rude", "offline")
			}
		})
	}
}

const stays = "it stays"

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"key%d":%d`, i, i)
	}
	return b.String()
}

// closingAfterAnswer is closing for a connection that may be told why first.
func closingAfterAnswer(b *board) string {
	b.t.Helper()
	for {
		payload, closed, err := b.read()
		switch {
		case err != nil:
			return "cut: " + err.Error()
		case payload == "":
			return closed
		}
	}
}

// stillThere says that a board's connection goes on after what it has sent.
func stillThere(t *testing.T, h *hub, b *board, protocol int) {
	t.Helper()
	c := h.send("rude", "still", "there", nil)
	for {
		f := b.frame()
		if f.Command == "still" {
			break
		}
		if protocol == 1 {
			t.Fatalf("version 1 got %s", f.raw)
		}
	}
	if protocol == 2 {
		b.text(fmt.Sprintf(`{"type":"result","id":%q,"ok":true}`, c.ID))
		await(t, patience, "the result is noted", func() bool { return h.command(c.ID).State == "succeeded" })
	}
}

// TestTakenAsSent reads back what is unusual but allowed.
func TestTakenAsSent(t *testing.T) {
	t.Parallel()
	h := startHub(t, dataDir(t, ""))
	h.add("esp01")
	b := h.login1("esp01")
	messages := []string{
		`{"type":"telemetry","a":1e999999,"b":-0,"c":15.0,"d":123456789012345678901234567890}`,
		`{"type":"telemetry","nested":{"deep":[1,{"x":"90"}]},"z":1,"a":2}`,
		`{"type":"telemetry","status":"работает 🚦","\u0000":"\ud83d\ude00"}`,
	}
	for _, m := range messages {
		b.text(m)
	}
	await(t, patience, "all is in the history", func() bool { return len(h.history("esp01")) == len(messages) })
	for i, got := range h.history("esp01") {
		if got != messages[i] {
			t.Errorf("what was sent as\n%s\nis kept as\n%s", messages[i], got)
		}
	}
}

// TestByteByByte splits the upgrade and all frames into single bytes.
func TestByteByByte(t *testing.T) {
	t.Parallel()
	h := startHub(t, dataDir(t, ""))
	h.add("esp01")
	conn := h.dial("127.0.0.1")
	drip := func(data []byte) {
		for i := range data {
			_, err := conn.Write(data[i : i+1])
			must(t, err)
		}
	}
	drip([]byte(upgradeRequest))
	b := upgraded(t, conn)
	drip(masked1(text, `{"type":"auth","v":2,"name":"esp01","password":"`+secretOf("esp01")+`"}`))
	if f := b.frame(); f.Type != "auth_ok" {
		t.Fatalf("the login was answered with %s", f.raw)
	}
	drip(long(`{"type":"telemetry","seq":1,"words":"` + strings.Repeat("ж", 100) + `"}`))
	// In fragments, with a ping between them, and a character split across them.
	drip(raw(text, masked|33, mask0, `{"type":"telemetry","seq":2,"w":"`))
	drip(raw(0, masked|1, mask0, "\xd0"))
	drip(masked1(0x9, "between"))
	drip(masked1(0, "\xb6\"}"))
	b.seq = 2
	b.awaitSaved()
	if got := h.history("esp01"); len(got) != 2 || got[1] != `{"type":"telemetry","seq":2,"w":"ж"}` {
		t.Errorf("kept is %q", got)
	}
}

// TestSlowReader has a device that never reads while long commands are sent to it. It is
// disconnected in the end; all others go on as if nothing were.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	h := startHub(t, dataDir(t, "commands:\n  max_active_per_device: 100000\n"))
	h.add("slow", "witness")
	events := h.stream("kind=presence&device=slow")
	witness, _ := h.login2("witness", "")

	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return firstError(c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) }), &err)
	}}
	conn, err := d.DialContext(t.Context(), "tcp", h.addresses.Devices)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = conn.Write([]byte(upgradeRequest))
	must(t, err)
	slow := upgraded(t, patient{conn})
	slow.text(`{"type":"auth","name":"slow","password":"` + secretOf("slow") + `"}`)
	h.awaitPresence("slow", "online")

	value := strings.Repeat("x", 4096)
	gone := false
	for i := 0; i < 5000 && !gone; i++ {
		status, answer, err := h.try(http.MethodPost, "/devices/slow/commands", map[string]any{"command": "fill", "value": value})
		must(t, err)
		switch {
		case status == http.StatusConflict && strings.Contains(string(answer), "device_offline"):
			gone = true
		case status != http.StatusCreated:
			t.Fatalf("a command was answered with %d: %s", status, answer)
		}
		if i%100 == 0 {
			h.alive(witness)
		}
	}
	if !gone {
		t.Fatal("a device that does not read 20 MB of commands is still connected")
	}
	awaitEvent(t, events, "the slow device is offline", func(data string) bool {
		return strings.Contains(data, `"reason":"slow_reader"`)
	})
	h.alive(witness)
}

func firstError(err error, second *error) error {
	if err != nil {
		return err
	}
	return *second
}
