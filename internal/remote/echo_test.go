package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signalbox/internal/mapped"
	"signalbox/internal/remote/mosquittotest"
)

func TestSwallowed(t *testing.T) {
	beside := &mapped.Template{Topic: "n/{device}/set/{command}", Payload: "{value}"}
	above := &mapped.Template{Topic: "n/{device}/{command}", Payload: "{value}"}
	one := func(filter string, format mapped.Format, command *mapped.Template) []mapped.Mapping {
		return []mapped.Mapping{{Filter: filter, Device: "a", Format: format, Command: command}}
	}
	tests := []struct {
		name   string
		topics []mapped.Mapping
		want   bool
	}{
		{"its own command", one("n/+/v", "", above), true},
		{"a fixed topic", one("n/x/v", "", above), true},
		{"presence", one("n/+/state", mapped.FormatPresence, above), true},
		{"another mapping's command", append(one("m/+/v", "", above), one("n/+/v", "", nil)...), true},
		{"beside", one("n/+/v", "", beside), false},
		{"nothing is kept of it", one("n/+/v", mapped.FormatNone, above), false},
		{"a part of it", one("n/+/#", "", above), false},
		{"all", one("#", "", above), false},
		{"tasmota", []mapped.Mapping{{Preset: "tasmota"}}, false},
		{"homie", []mapped.Mapping{{Preset: "homie"}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, kind := range []struct {
				name    string
				version Version
				shared  string
				want    bool
			}{{"auto", Auto, "", false}, {"5.0", V5, "", false}, {"3.1.1", V311, "", tt.want}, {"shared", V5, "hubs", tt.want}, {"shared auto", "", "hubs", tt.want}} {
				c := Config{Name: "site", URL: "mqtt://broker.example", Version: kind.version, Shared: kind.shared, Topics: tt.topics}
				_, newErr := New(c, Parts{Taker: &hub{}, Log: &noLog{}})
				for what, err := range map[string]error{"Check": c.Check(), "New": newErr} {
					if told := err != nil && strings.Contains(err.Error(), "commands and dropped"); told != kind.want || !told && err != nil {
						t.Errorf("%s, %s: %v", kind.name, what, err)
					}
				}
			}
		})
	}
}

// TestSwallowedByAuto: with auto it shows when the broker turns out to speak 3.1.1 alone. It is
// logged once, stands on the status for as long, and what is dropped is counted and told of.
func TestSwallowedByAuto(t *testing.T) {
	addr := script(t, func(c net.Conn) {
		_, body := hears(c)
		if len(body) < 7 || body[6] != level3 {
			_, _ = io.WriteString(c, unacceptable)
			return
		}
		_, _ = io.WriteString(c, welcome3)
		subscribed(c, level3)
		for range 3 {
			_, _ = io.WriteString(c, "\x30\x08\x00\x05n/a/v1")
		}
		for kind := byte(1); kind != 0; {
			kind, _ = hears(c) // until the test has seen it
		}
	})
	cfg := Config{
		Name: "old", URL: "mqtt://" + addr, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond,
		Topics: []mapped.Mapping{{Filter: "n/+/v", Device: "{1}", Field: "v", Format: mapped.FormatNumber, Command: &mapped.Template{Topic: "n/{device}/{command}"}}},
	}
	h := newHub(t, cfg).join()
	for round := range 2 {
		eventually(t, "dropped", func() bool { return h.link.stats.Strange.Load() == int64(3*(round+1)) })
		if s := h.link.Status(); !s.Connected || s.OK || !strings.Contains(s.Message, "n/+/v") {
			t.Errorf("status %+v", s)
		}
		h.link.current().conn.fail(errors.New("cut"))
	}
	h.leave()
	logged := h.logged.String()
	for _, line := range []string{"speaks 3.1.1, where", "sent none to that topic lately"} {
		if n := strings.Count(logged, line); n != 1 {
			t.Errorf("%q is logged %d times, want once", line, n)
		}
	}
	if h.link.stats.Echoes.Load() != 6 || len(h.messages()) != 0 {
		t.Errorf("%d echoes, taken %q", h.link.stats.Echoes.Load(), h.messages())
	}
}

// TestEchoIsNoStranger: what the hub has just sent is dropped without a word, what others send to
// such a topic is told of.
func TestEchoIsNoStranger(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	cfg := config(b, V311)
	cfg.Topics = []mapped.Mapping{{Filter: "#", Device: "all", Command: &mapped.Template{Topic: "cmnd/{device}/{command}", Payload: "{value}"}}}
	h := newHub(t, cfg).run().join().joined(b, 1)
	must(t, h.link.Publish("cmnd/plug/POWER", []byte("ON"), 1, false))
	eventually(t, "it came back", func() bool { return h.link.stats.Echoes.Load() == 1 })
	if h.link.stats.Strange.Load() != 0 || strings.Contains(h.logged.String(), "lately") {
		t.Errorf("the hub's own command is told of as a stranger's:\n%s", h.logged)
	}
	newOutsider(t, b, "", "").publish("cmnd/lamp/POWER", "ON", 1)
	eventually(t, "a stranger's is told of", func() bool { return strings.Contains(h.logged.String(), "topic=cmnd/lamp/POWER messages=1") })
	if h.link.stats.Strange.Load() != 1 {
		t.Errorf("%d strangers", h.link.stats.Strange.Load())
	}
}

func TestRecent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recent
		if r.has(1) {
			t.Error("it knows what was never noted")
		}
		r.note(1)
		for _, step := range []struct {
			wait time.Duration
			want bool
		}{{0, true}, {lately, true}, {lately - 1, true}, {1, false}} {
			if time.Sleep(step.wait); r.has(1) != step.want {
				t.Errorf("%s later: %v, want %v", step.wait, !step.want, step.want)
			}
		}
		for i := range uint64(10 * latelyMost) {
			r.note(i)
		}
		if n := len(r.young) + len(r.old); n > 2*latelyMost {
			t.Errorf("it keeps %d", n)
		}
		if !r.has(10*latelyMost - 1) {
			t.Error("the latest is gone")
		}
	})
}

func TestStrangersAreToldOfNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&out, nil))
		var s strangers
		for range 3 {
			s.tell(logger, slog.LevelWarn, strings.Repeat("x", 1000))
		}
		time.Sleep(strangerGap)
		s.tell(logger, slog.LevelWarn, "y")
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "messages=1") || !strings.Contains(lines[1], "topic=y messages=3") || len(lines[0]) > 600 {
			t.Errorf("logged %q", lines)
		}
	})
}

// TestOneLine: what is logged, and shown on /readyz, is one line.
func TestOneLine(t *testing.T) {
	l := &Link{secret: "hid\nden"}
	for _, err := range []error{
		errors.Join(errors.New("one"), errors.New("two")),
		fmt.Errorf("one\r\ntwo"),
	} {
		if got := l.words(err); got != "one; two" {
			t.Errorf("%q", got)
		}
	}
	if got := l.words(errors.New("it is hid\nden")); got != "it is …" {
		t.Errorf("%q", got)
	}
}

// unsubscribed is a speaker that waits for an answer until its context ends, or gives one.
type unsubscribed struct {
	speaker
	err error
}

func (u *unsubscribed) subscribe(ctx context.Context) ([]string, error) {
	if u.err != nil {
		return nil, u.err
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestNotSubscribed: the connection's own end is the reason, not what became of asking because of it.
func TestNotSubscribed(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error // of asking
		ends error // of the connection
		want string
	}{
		"refused":             {errors.New("no"), nil, "the broker did not subscribe the hub: no"},
		"the connection ends": {nil, nil, "the connection was lost"},
		"it is cut":           {nil, io.EOF, "the broker closed the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := New(Config{Name: "x", URL: "mqtt://x", Topics: []mapped.Mapping{{Filter: "a", Device: "a"}}}, Parts{Taker: &hub{}, Log: &noLog{}})
			must(t, err)
			c := newLife(l, newConn(&tape{}, 100))
			c.speaker = &unsubscribed{err: tt.err}
			c.start()
			if tt.err == nil {
				c.conn.fail(tt.ends)
			}
			c.finish()
			if got := l.words(c.conn.reason()); got != tt.want {
				t.Errorf("reason %q, want %q", got, tt.want)
			}
		})
	}
}
