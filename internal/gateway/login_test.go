package gateway_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	gobwas "github.com/gobwas/ws"

	"signalbox/internal/gateway"
	"signalbox/internal/gateway/ws"
)

// written is what a hub's logger wrote.
type written struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

func (w *written) count(part string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.buf.String(), part)
}

func (w *written) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// TestGuessingWhereADeviceLivesIsBounded guesses the four digits of a device from its own
// address, on many connections at once.
func TestGuessingWhereADeviceLivesIsBounded(t *testing.T) {
	t.Parallel()
	var log written
	h := startHub(t, gateway.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, ws.Config{})
	login := func(secret string) string {
		b := h.connect(nil)
		b.send(gobwas.OpText, fmt.Sprintf(`{"type":"auth","v":2,"name":"esp01","password":%q}`, secret))
		answer, _ := b.next()
		_ = b.conn.Close() // answered
		return answer
	}
	if got := login("1234"); !strings.Contains(got, "auth_ok") {
		t.Fatalf("the board was answered %s", got)
	}
	for range 200 { // a board with a wrong secret takes no guesses away
		login("9999")
	}
	if got := login("1234"); !strings.Contains(got, "auth_ok") {
		t.Fatalf("beside a wrong board the right one was answered %s", got)
	}
	var work sync.WaitGroup
	for i := range 8 {
		work.Go(func() {
			for j := range 50 {
				if got := login(fmt.Sprintf("%04d", 2000+i*50+j)); !strings.Contains(got, `"unauthorized"`) {
					t.Errorf("a guess was answered %s", got)
				}
			}
		})
	}
	work.Wait()
	if n := h.gateway.Stats().LoginFailures.Load() - 200; n != 49 {
		t.Errorf("%d guesses were checked, want 49 and the wrong board's", n)
	}
	if got := login("1234"); !strings.Contains(got, `"unauthorized"`) {
		t.Errorf("the guesser's next attempt, which was right, was answered %s", got)
	}
	if n := log.count("somebody may be guessing"); n != 1 {
		t.Errorf("the log tells of it %d times, want once", n)
	}
	if n := log.count("login was refused"); n != 1 {
		t.Errorf("the log tells of refused logins %d times, want once", n)
	}
}

// TestTooComplexIsLogged sends what version 1 has no answer for.
func TestTooComplexIsLogged(t *testing.T) {
	t.Parallel()
	var log written
	h := startHub(t, gateway.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, ws.Config{})
	b := h.connect(nil)
	b.send(gobwas.OpText, loginESP01)
	for range 3 {
		b.send(gobwas.OpText, `{"type":"telemetry"`+strings.Repeat(`,"k":1`, 300)+`}`)
	}
	b.send(gobwas.OpText, `{"type":"telemetry","status":"alive"}`)
	h.awaitStatus("esp01", "alive")
	if n := log.count("code=too_many_keys limit=256"); n != 1 || log.count("device=esp01") != 1 {
		t.Errorf("the log tells of it %d times, want once: %s", n, log.buf.String())
	}
}
