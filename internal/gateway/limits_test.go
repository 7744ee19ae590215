package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gobwas "github.com/gobwas/ws"

	"signalbox"
	"signalbox/internal/gateway"
	"signalbox/internal/gateway/ws"
	"signalbox/internal/history"
)

const loginESP01 = `{"type":"auth","name":"esp01","password":"1234"}`

func TestOrigins(t *testing.T) {
	t.Parallel()
	h := startHub(t, gateway.Config{Origins: []string{"https://panel.example"}}, ws.Config{})
	cases := []struct {
		origin string
		want   int
	}{
		{"", http.StatusSwitchingProtocols},
		{"file://", http.StatusSwitchingProtocols},
		{"https://panel.example", http.StatusSwitchingProtocols},
		{"https://evil.example", http.StatusForbidden},
		{"http://localhost", http.StatusForbidden},
		{"null", http.StatusForbidden},
	}
	for _, c := range cases {
		if _, got := h.upgrade(map[string]string{"Origin": c.origin}); got != c.want {
			t.Errorf("origin %q is answered with %d, want %d", c.origin, got, c.want)
		}
	}
	if _, got := h.upgrade(map[string]string{"Authorization": "Basic ZXNwMDE6bm8="}); got != http.StatusUnauthorized {
		t.Errorf("wrong Basic credentials are answered with %d, want 401", got)
	}
}

func TestConnectionsOfAnAddress(t *testing.T) {
	t.Parallel()
	h := startHub(t, gateway.Config{PerAddress: 2}, ws.Config{})
	first, _ := h.upgrade(nil)
	h.connect(nil)
	if _, got := h.upgrade(nil); got != http.StatusTooManyRequests {
		t.Fatalf("the third connection is answered with %d, want 429", got)
	}
	if n := h.gateway.Stats().AddressLimit.Load(); n != 1 {
		t.Errorf("the limit was counted %d times, want 1", n)
	}
	must(t, first.conn.Close())
	h.eventually("the place is free again", func() bool {
		_, got := h.upgrade(nil)
		return got == http.StatusSwitchingProtocols
	})
}

// eventually waits until ok, within patience.
func (h *hub) eventually(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			h.t.Fatalf("it never became true that %s", what)
		case <-tick.C:
		}
	}
}

func TestNoLoginInTime(t *testing.T) {
	t.Parallel()
	h := startHub(t, gateway.Config{AuthTimeout: time.Second}, ws.Config{})
	b := h.connect(nil)
	if got, code := b.next(); got != `{"error": "auth_required"}` {
		t.Fatalf("the hub sent %q, code %d", got, code)
	}
	if _, code := b.next(); code != 1000 {
		t.Errorf("the hub closed with %d, want 1000", code)
	}
}

func TestHalfOpenSocketIsFound(t *testing.T) {
	t.Parallel()
	h := startHub(t, gateway.Config{}, ws.Config{PingInterval: time.Second, PingMisses: 2})
	b := h.connect(nil)
	b.send(gobwas.OpText, loginESP01)
	h.awaitStatus("esp01", "online")
	began := time.Now()
	if got := h.awaitStatus("esp01", "offline"); got != "offline" { // the board never reads, so it never answers
		t.Fatalf("after %s the status is %s", time.Since(began), got)
	}
}

func TestTooFast(t *testing.T) {
	t.Parallel()
	const n, rate, burst = 60, 20, 10
	h := startHub(t, gateway.Config{MessagesPerSecond: rate, Burst: burst}, ws.Config{})
	b := h.connect(nil)
	b.send(gobwas.OpText, `{"type":"auth","v":2,"name":"esp01","password":"1234"}`)
	b.next()
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprintf(`{"type":"telemetry","seq":%d}`, i+1)
	}
	began := time.Now()
	b.sendAll(texts...) // all at once: no machine is too slow to be too fast
	told, saved := false, uint64(0)
	for saved < n {
		got, code := b.next()
		if code != 0 {
			t.Fatalf("the hub closed with %d", code)
		}
		var f struct {
			Error string `json:"error"`
			Seq   uint64 `json:"seq"`
		}
		must(t, json.Unmarshal([]byte(got), &f))
		told = told || f.Error == "rate_limited"
		saved = max(saved, f.Seq)
	}
	if !told {
		t.Error("the device was not told")
	}
	if took := time.Since(began); took < (n-burst)*time.Second/rate {
		t.Errorf("%d messages took %s, faster than allowed", n, took)
	}
	page, err := h.log.Page(t.Context(), history.Query{Device: 1, Limit: 100})
	must(t, err)
	if id := h.devices.Find("esp01").ID; id != 1 {
		page, err = h.log.Page(t.Context(), history.Query{Device: id, Limit: 100})
		must(t, err)
	}
	if len(page) != n {
		t.Errorf("%d messages were stored, want %d", len(page), n)
	}
}

func TestTwoBoardsUnderOneName(t *testing.T) {
	t.Parallel()
	h := startHub(t, gateway.Config{}, ws.Config{})
	for i := range 7 {
		b := h.connect(nil)
		b.sendAll(loginESP01, fmt.Sprintf(`{"type":"telemetry","status":"board %d"}`, i))
		if want := fmt.Sprint("board ", i); h.awaitStatus("esp01", want) != want { // the login is over then
			t.Fatalf("board %d did not take over", i)
		}
	}
	if n := h.gateway.Stats().Rivals.Load(); n != 0 {
		t.Errorf("%d were slowed down early", n)
	}
	h.connect(nil).send(gobwas.OpText, loginESP01)
	h.eventually("the rivalry slows them down", func() bool { return h.gateway.Stats().Rivals.Load() > 0 })
}

// TestTakeovers lets many connections fight for one device: in the end exactly the newest
// is there, and every message of the log came from a connection that was the newest at
// that moment.
func TestTakeovers(t *testing.T) {
	t.Parallel()
	h := startHub(t, gateway.Config{}, ws.Config{})
	var work sync.WaitGroup
	for i := range 6 {
		work.Go(func() {
			b := h.connect(nil)
			b.send(gobwas.OpText, loginESP01)
			for j := range 50 {
				frame := gobwas.MaskFrameInPlace(gobwas.NewTextFrame(fmt.Appendf(nil, `{"type":"telemetry","board":%d,"n":%d}`, i, j)))
				if gobwas.WriteFrame(b.conn, frame) != nil {
					return // taken over: that is the point
				}
			}
		})
	}
	work.Wait()
	must(t, h.log.Wait(t.Context(), h.log.Head()))
	d := h.devices.Find("esp01")
	h.eventually("at most one session is left", func() bool { return h.sessions.Len() <= 1 })
	var session uint64
	var online bool
	seen := map[int]int{}
	must(t, h.log.Scan(t.Context(), 1, func(e *signalbox.Entry) error {
		switch {
		case e.Device != d.ID:
		case e.Kind == signalbox.EntryPresence:
			var p signalbox.PresenceChange
			must(t, json.Unmarshal(e.Body, &p))
			if p.Presence == signalbox.Online {
				if p.Session <= session {
					t.Errorf("session %d came after %d", p.Session, session)
				}
				session = p.Session
			} else if p.Session != session {
				t.Errorf("session %d went offline while %d was the newest", p.Session, session)
			}
			online = p.Presence == signalbox.Online
		case e.Kind == signalbox.EntryTelemetry:
			var m struct{ Board, N int }
			must(t, json.Unmarshal(e.Body, &m))
			if last, ok := seen[m.Board]; ok && m.N != last+1 {
				t.Errorf("board %d jumps from %d to %d", m.Board, last, m.N)
			}
			seen[m.Board] = m.N
			if !online {
				t.Errorf("telemetry at %d while the device was offline", e.Position)
			}
		}
		return nil
	}))
}

// TestWhatBoardsGetWrong sends what must be refused and looks whether the hub lives.
func TestWhatBoardsGetWrong(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000)
	cases := []struct {
		name, payload string
		op            gobwas.OpCode
		unmasked      bool
		code          int // 0: the connection stays
	}{
		{name: "malformed JSON", payload: `{"type":"telemetry",}`, op: gobwas.OpText, code: 1003},
		{name: "bad UTF-8 in a text frame", payload: "{\"a\":\"\xff\"}", op: gobwas.OpText, code: 1007},
		{name: "bad UTF-8 in a binary frame", payload: "{\"a\":\"\xff\"}", op: gobwas.OpBinary, code: 1007},
		{name: "unmasked", payload: `{"type":"telemetry"}`, op: gobwas.OpText, unmasked: true, code: 1002},
		{name: "over-long", payload: `{"type":"telemetry","a":"` + strings.Repeat("x", 70_000) + `"}`, op: gobwas.OpText, code: 1009},
		{name: "deep nesting", payload: deep, op: gobwas.OpText},
		{name: "huge number", payload: `{"type":"telemetry","a":1e999999,"b":` + strings.Repeat("9", 5000) + `}`, op: gobwas.OpText},
		{name: "duplicate keys", payload: `{"type":"telemetry","status":"a","status":"b"}`, op: gobwas.OpText},
		{name: "too many keys", payload: `{"type":"telemetry"` + strings.Repeat(`,"k":1`, 300) + `}`, op: gobwas.OpText},
	}
	h := startHub(t, gateway.Config{}, ws.Config{MessageBytes: 64 << 10})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := h.connect(nil)
			b.send(gobwas.OpText, loginESP01)
			h.awaitStatus("esp01", "online")
			f := gobwas.NewFrame(c.op, true, []byte(c.payload))
			if !c.unmasked {
				f = gobwas.MaskFrameInPlace(f)
			}
			must(t, gobwas.WriteFrame(b.conn, f))
			if c.code != 0 {
				if got, code := b.next(); code != c.code {
					t.Errorf("the hub sent %q, code %d, want %d", got, code, c.code)
				}
			} else {
				b.send(gobwas.OpText, `{"type":"telemetry","status":"alive"}`)
				if got := h.awaitStatus("esp01", "alive"); got != "alive" {
					t.Errorf("the status is %q", got)
				}
				must(t, b.conn.Close())
			}
			h.awaitStatus("esp01", "offline")
		})
	}
}

func TestSlowReaderIsCut(t *testing.T) {
	t.Parallel()
	h := startHub(t, gateway.Config{}, ws.Config{})
	b := h.connect(nil)
	must(t, b.conn.(*net.TCPConn).SetReadBuffer(4096))
	b.send(gobwas.OpText, loginESP01)
	h.awaitStatus("esp01", "online")
	value := strings.Repeat("x", signalbox.MaxCommandValueLen)
	h.eventually("the board that reads nothing is cut", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var cut atomic.Bool
		var work sync.WaitGroup
		for range 20 { // the system keeps some megabytes for a connection
			work.Go(func() {
				_, err := h.commands.Submit(ctx, signalbox.CommandRequest{Device: "esp01", Name: "fill", Value: &value})
				if signalbox.CodeOf(err) == "device_offline" || h.devices.Find("esp01").View().Status == "offline" {
					cut.Store(true)
				}
			})
		}
		work.Wait()
		return cut.Load()
	})
}
