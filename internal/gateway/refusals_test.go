package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lines keeps what a logger writes.
type lines struct {
	mu  sync.Mutex
	all []string
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(b))
	return len(b), nil
}

func (l *lines) with(part string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return found
}

func TestRefusalsAreToldSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lines
		var r refusals
		r.init(slog.New(slog.NewTextHandler(&out, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		work.Go(func() { r.run(ctx) })
		here := netip.MustParseAddr("192.0.2.1")
		for i := range 600 { // ten minutes of a board that tries again every second
			r.refused([]byte("esp01"), here, "wrong_secret", time.Now())
			if i == 300 {
				r.refused([]byte("esp02"), here, "disabled", time.Now())
			}
			time.Sleep(time.Second)
		}
		time.Sleep(3 * time.Minute)
		got := out.with("device=esp01")
		if len(got) < 9 || len(got) > 11 {
			t.Errorf("%d lines in ten minutes, want about ten:\n%s", len(got), strings.Join(got, ""))
		}
		sum := 1
		for _, line := range got[1:] {
			var n int
			_, rest, _ := strings.Cut(line, "refused=")
			_, _ = fmt.Sscan(rest, &n) // 0 then, and the sum is wrong
			sum += n
		}
		if sum != 600 {
			t.Errorf("the lines tell of %d refused logins, want 600", sum)
		}
		if got := out.with("device=esp02"); len(got) != 1 || !strings.Contains(got[0], "reason=disabled") {
			t.Errorf("of esp02 was told %q", got)
		}
		cancel()
		work.Wait()
		if len(r.told) != 0 || len(r.here) != 0 {
			t.Errorf("%d and %d entries stay", len(r.told), len(r.here))
		}
	})
}

func TestRefusalsAreBounded(t *testing.T) {
	var out lines
	var r refusals
	r.init(slog.New(slog.NewTextHandler(&out, nil)))
	now := time.Now()
	for i := range 2000 {
		r.refused(fmt.Appendf(nil, "name%d%s", i, strings.Repeat("x", 4000)), netip.MustParseAddr("192.0.2.1"), "unknown_device", now)
	}
	if n := len(out.all); n != maxRefusalsHere+1 {
		t.Errorf("an address gets %d lines, want %d", n, maxRefusalsHere+1)
	}
	for i := range 2000 {
		r.refused([]byte("esp01"), netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), "unknown_device", now)
	}
	if n := len(out.all); n != maxRefusals+1 {
		t.Errorf("there are %d lines, want %d", n, maxRefusals+1)
	}
	out.all = nil
	r.due(now, true)
	if n := len(out.all); n != 2 {
		t.Errorf("%d lines tell of the rest, want 2: %q", n, out.all)
	}
	for _, line := range out.all {
		if len(line) > 1000 {
			t.Errorf("a line has %d bytes", len(line))
		}
	}
	r.due(now, true)
	if len(r.told) != 0 || len(r.here) != 0 {
		t.Errorf("%d and %d entries stay", len(r.told), len(r.here))
	}
}
