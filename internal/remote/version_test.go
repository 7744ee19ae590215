package remote

import (
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox/internal/mapped"
	"signalbox/internal/wire/packet"
)

// turn is what a broker does with one connection: nothing, which is as a proxy before a broker that
// is away, or an answer to CONNECT, behind which the connection stays open, or is cut.
type turn struct {
	answers map[byte]string // by the protocol level (3.1.2.2)
	cut     bool
}

const (
	level3, level5 = 4, 5
	welcome3       = "\x20\x02\x00\x00"
	welcome5       = "\x20\x03\x00\x00\x00"
	unacceptable   = "\x20\x02\x00\x01"
)

// subscribed waits for the SUBSCRIBE to one filter, and answers it.
func subscribed(c net.Conn, level byte) bool {
	for {
		kind, body := hears(c)
		switch {
		case kind == byte(packet.PINGREQ):
			continue
		case kind != byte(packet.SUBSCRIBE) || len(body) < 2:
			return false
		}
		suback := "\x90\x03" + string(body[:2]) + "\x00"
		if level == level5 {
			suback = "\x90\x04" + string(body[:2]) + "\x00\x00"
		}
		_, _ = io.WriteString(c, suback)
		return true
	}
}

// TestAutoThroughSilence: a broker that is away behind a proxy, which accepts and closes at once, is
// joined with 5.0 when it is back; one that does not know 5.0 is joined with 3.1.1.
func TestAutoThroughSilence(t *testing.T) {
	knows5 := map[byte]string{level5: welcome5, level3: welcome3}
	silent3 := map[byte]string{level3: welcome3} // closes a 5.0 connection without a word
	refuses5 := map[byte]string{level5: unacceptable, level3: welcome3}
	away := turn{cut: true}
	tests := []struct {
		name  string
		turns []turn // the last one stays
		tried string // levels of the connections, in order
		want  Version
	}{
		{"restarts", []turn{{knows5, true}, away, away, away, away, {knows5, false}}, "555555", V5},
		{"restarts twice", []turn{{knows5, true}, away, {knows5, true}, away, away, away, {knows5, false}}, "5555555", V5},
		{"is away at the start", []turn{away, away, away, away, {knows5, false}}, "54545", V5},
		{"comes back between the two attempts", []turn{away, {knows5, true}, {knows5, true}, away, {knows5, false}}, "54555", V5},
		{"does not know 5.0 and is silent", []turn{{silent3, true}, {silent3, true}, away, away, {silent3, true}, {silent3, false}}, "545454", V311},
		{"does not know 5.0 and says so", []turn{{refuses5, true}, {refuses5, true}, away, away, away, {refuses5, false}}, "544444", V311},
		{"is replaced by an older one", []turn{{knows5, true}, away, {refuses5, true}, away, {refuses5, false}}, "55544", V311},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			over := make(chan struct{})
			var mu sync.Mutex
			var tried []byte
			addr := script(t, func(c net.Conn) {
				_, body := hears(c)
				if len(body) < 7 {
					return
				}
				mu.Lock()
				now := tt.turns[min(len(tried), len(tt.turns)-1)]
				tried = append(tried, '0'+body[6])
				mu.Unlock()
				answer := now.answers[body[6]]
				if answer == "" {
					return
				}
				_, _ = c.Write([]byte(answer))
				if answer == unacceptable {
					return
				}
				if subscribed(c, body[6]) && !now.cut {
					<-over
				}
			})
			h := newHub(t, Config{
				Name: "auto", URL: "mqtt://" + addr, BackoffMin: time.Millisecond, BackoffMax: 2 * time.Millisecond,
				Topics: []mapped.Mapping{{Filter: "a", Device: "a"}},
			}).join()
			defer close(over)
			var got string
			var version Version
			eventually(t, "joined for good", func() bool {
				mu.Lock()
				defer mu.Unlock()
				s := h.link.Status()
				got, version = string(tried), s.Version
				return len(tried) >= len(tt.turns) && s.Connected
			})
			if got != tt.tried || version != tt.want {
				t.Errorf("tried %s and joined with %s; want %s and %s", got, version, tt.tried, tt.want)
			}
		})
	}
}

// TestSilenceWaits: attempts with both versions are one as to the waits between them.
func TestSilenceWaits(t *testing.T) {
	addr := script(t, func(c net.Conn) { hears(c) })
	h := newHub(t, Config{
		Name: "auto", URL: "mqtt://" + addr, BackoffMin: time.Millisecond, BackoffMax: time.Hour, Topics: []mapped.Mapping{{Filter: "a", Device: "a"}},
	}).join()
	eventually(t, "tried several times", func() bool { return h.link.stats.Failures.Load() >= 8 })
	if h.leave(); !strings.Contains(h.link.Status().Message, "closed the connection") && !strings.Contains(h.link.Status().Message, "stopping") {
		t.Errorf("status %+v", h.link.Status())
	}
	h.link.mu.Lock()
	defer h.link.mu.Unlock()
	if n := h.link.stats.Failures.Load(); int64(h.link.fails) > n/2+1 {
		t.Errorf("%d waits for %d attempts", h.link.fails, n)
	}
	if lines := slices.DeleteFunc(strings.Split(h.logged.String(), "\n"), func(l string) bool { return !strings.Contains(l, "is away") }); len(lines) > 1 {
		t.Errorf("it is told %d times: %q", len(lines), lines)
	}
}
