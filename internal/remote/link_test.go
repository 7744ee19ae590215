package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/mapped"
	"signalbox/internal/remote/mosquittotest"
)

func TestDeliver(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{})
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			out := newOutsider(t, b, "", "")
			h := newHub(t, config(b, v)).run().join()
			eventually(t, "joined", func() bool { return h.link.Status().Connected })
			out.publishUntil(h, "Environ/Temperature", "first")
			n := len(h.messages())
			var want []string
			for i := range 50 {
				text := fmt.Sprintf("%d °C", i)
				out.publish("Environ/Temperature", text, 1)
				want = append(want, "Environ/Temperature "+text)
			}
			h.acked(51) // with the end before; order is kept within one quality of service alone (5.0, 4.6.0)
			out.publish("Environ/Temperature", "qos0", 0)
			want = append(want, "Environ/Temperature qos0")
			if got := h.has(n + 51)[n:]; !slices.Equal(got, want) {
				t.Errorf("taken %q, want %q", got, want)
			}
			if s := h.link.Status(); !s.OK || s.Version != v || !strings.Contains(s.Message, string(v)) {
				t.Errorf("status %+v", s)
			}
			s := h.link.Stats()
			eventually(t, "the last is counted", func() bool { return s.Stored.Load() >= int64(n+51) })
			if s.Stored.Load() != int64(n+51) || s.Received.Load() != int64(n+51) || s.Dropped.Load()+s.Lost.Load()+s.Duplicates.Load() != 0 || s.Connected.Load() != 1 {
				t.Errorf("stored %d of %d received, want %d", s.Stored.Load(), s.Received.Load(), n+51)
			}
			h.leave()
			if s.Connected.Load() != 0 || h.link.Status().Connected {
				t.Error("connected after Run")
			}
		})
	}
}

// publishUntil publishes until the hub has taken one: it is subscribed.
func (c *outsider) publishUntil(h *hub, topic, payload string) {
	c.t.Helper()
	eventually(c.t, "a first message is taken", func() bool {
		c.publish(topic, payload, 0)
		return len(h.messages()) > 0
	})
	c.publish(topic, "end", 1)
	eventually(c.t, "the first messages are taken", func() bool {
		got := h.messages()
		return got[len(got)-1] == topic+" end"
	})
	h.acked(1)
}

func TestRetained(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{})
			out := newOutsider(t, b, "", "")
			out.done(out.Publish("Environ/Temperature", 1, true, "old"))
			h := newHub(t, config(b, v)).run().join()
			h.has(1)
			out.publish("Environ/Temperature", "new", 1)
			h.has(2)
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.retained != 1 {
				t.Errorf("%d messages were said to be retained, want 1", h.retained)
			}
		})
	}
}

func TestReconnectAfterKill(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{Persist: true})
			h := newHub(t, config(b, v)).run().join().joined(b, 1)
			newOutsider(t, b, "", "").publish("Environ/Temperature", "before", 1)
			h.acked(1)
			for round := range 2 {
				b.Kill()
				eventually(t, "away", func() bool { return !h.link.Status().Connected })
				if s := h.link.Status(); s.OK || !strings.HasPrefix(s.Message, "away: ") {
					t.Errorf("status %+v", s)
				}
				eventually(t, "tried in vain", func() bool { return h.link.stats.Failures.Load() >= int64(3*(round+1)) })
				b.Restart()
				h.joined(b, round+2)
			}
			newOutsider(t, b, "", "").publish("Environ/Temperature", "after", 1)
			eventually(t, "the message after the restart", func() bool { return slices.Contains(h.messages(), "Environ/Temperature after") })
			if n := h.link.stats.Connects.Load(); n != 3 {
				t.Errorf("%d connections, want 3", n)
			}
			if n := strings.Count(h.logged.String(), "an MQTT broker is away"); n > 4 {
				t.Errorf("%d lines tell that the broker is away; one for each change is enough:\n%s", n, h.logged)
			}
		})
	}
}

func TestRefusedCredentials(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{Users: map[string]string{"hub": "open sesame", "other": "other"}})
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			cfg := config(b, v)
			cfg.Username, cfg.Password = "hub", "wrong-secret"
			h := newHub(t, cfg).run().join()
			eventually(t, "refused", func() bool { return strings.Contains(h.link.Status().Message, "refused") })
			h.leave()
			if strings.Contains(h.logged.String()+h.link.Status().Message, "wrong-secret") {
				t.Errorf("the password is told: %s", h.logged)
			}
			if h.link.stats.Connects.Load() != 0 {
				t.Error("connected with a wrong password")
			}
			cfg.Password = "open sesame"
			good := newHub(t, cfg).run().join()
			eventually(t, "joined", func() bool { return good.link.Status().Connected })
		})
	}
}

func TestBrokerThatNeverAnswers(t *testing.T) {
	var config Config
	var listen net.ListenConfig
	l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			config = Config{
				Name: "deaf", URL: "mqtt://" + l.Addr().String(), Version: v, ConnectTimeout: 50 * time.Millisecond,
				BackoffMin: time.Millisecond, BackoffMax: 2 * time.Millisecond, Topics: []mapped.Mapping{{Filter: "a", Device: "a"}},
			}
			h := newHub(t, config).run().join()
			eventually(t, "several attempts", func() bool { return h.link.stats.Failures.Load() >= 3 })
			if s := h.link.Status(); s.Connected || !strings.Contains(s.Message, "no answer") {
				t.Errorf("status %+v", s)
			}
		})
	}
}

func TestRedeliveredAfterDeathBeforeCommit(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{})
			dying := newHub(t, config(b, v)).join().joined(b, 1) // its log never commits
			out := newOutsider(t, b, "", "")
			for i := range 10 {
				out.publish("Environ/Temperature", fmt.Sprint(i), 1)
			}
			dying.has(10)
			if n := dying.link.stats.Acked.Load(); n != 0 {
				t.Fatalf("%d messages are acknowledged before the commit", n)
			}
			dying.link.current().conn.fail(errors.New("killed"))
			dying.leave()
			out.publish("Environ/Temperature", "10", 1) // while no hub is there

			h := newHub(t, config(b, v)).run().join()
			got := h.has(11)
			for i := range 11 {
				if got[i] != fmt.Sprintf("Environ/Temperature %d", i) {
					t.Fatalf("taken %q", got)
				}
			}
			h.acked(11)
			if p := h.log.Committed(); p < 11 {
				t.Errorf("acknowledged, but on disk is only what is up to %d", p)
			}
			eventually(t, "the broker heard so", func() bool { return strings.Count(b.Log(), "Received PUBACK from "+h.link.cfg.ClientID) >= 11 })
			h.leave()
			again := newHub(t, config(b, v)).run().join().joined(b, 3)
			out.publish("Environ/Temperature", "last", 1)
			if got := again.has(1); got[0] != "Environ/Temperature last" {
				t.Errorf("delivered again after the acknowledgement: %q", got)
			}
		})
	}
}

func TestDuplicatesWithinASession(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{})
			h := newHub(t, config(b, v)).join().joined(b, 1) // the log does not run yet
			out := newOutsider(t, b, "", "")
			for i := range 5 {
				out.publish("Environ/Temperature", fmt.Sprint(i), 1)
			}
			h.has(5)
			h.link.current().conn.fail(errors.New("cut"))
			eventually(t, "delivered again", func() bool { return h.link.stats.Duplicates.Load() == 5 })
			h.run()
			h.acked(5)
			out.publish("Environ/Temperature", "5", 1)
			h.acked(6) // which comes behind the count
			if got := h.has(6); len(got) != 6 || h.link.stats.Stored.Load() != 6 {
				t.Errorf("taken %q, want each once", got)
			}
		})
	}
}

func TestShared(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{})
			var hubs [2]*hub
			for i := range hubs {
				cfg := config(b, v)
				cfg.Shared, cfg.ClientID = "hubs", fmt.Sprintf("hub%d", i)
				hubs[i] = newHub(t, cfg).run().join().joined(b, 1)
			}
			out := newOutsider(t, b, "", "")
			for i := range 40 {
				out.publish("Environ/Temperature", fmt.Sprint(i), 1)
			}
			eventually(t, "all messages are taken", func() bool { return len(hubs[0].messages())+len(hubs[1].messages()) >= 40 })
			all := append(hubs[0].messages(), hubs[1].messages()...)
			slices.Sort(all)
			if n := len(slices.Compact(all)); n != 40 {
				t.Errorf("%d different messages, want 40", n)
			}
			for i, h := range hubs {
				if len(h.messages()) == 0 {
					t.Errorf("hub %d got nothing", i)
				}
			}
			hubs[0].leave()
			eventually(t, "the broker knows that it has left", func() bool { return strings.Contains(b.Log(), "Client hub0 disconnected") })
			before := len(hubs[1].messages())
			for i := range 10 {
				out.publish("Environ/Temperature", fmt.Sprint("later ", i), 1)
			}
			hubs[1].has(before + 10)
		})
	}
}

func TestNoEcho(t *testing.T) {
	for _, shared := range []string{"", "hubs"} {
		for _, v := range versions() {
			t.Run(string(v), func(t *testing.T) {
				b := mosquittotest.Start(t, mosquittotest.Options{})
				cfg := config(b, v)
				cfg.Shared = shared
				cfg.Topics = []mapped.Mapping{{Filter: "#", Device: "all", Command: &mapped.Template{Topic: "cmnd/{device}/{command}", Payload: "{value}", QoS: 1}}}
				h := newHub(t, cfg).run().join().joined(b, 1)
				out := newOutsider(t, b, "", "")
				heard := out.hear("cmnd/#")
				if err := h.link.Publish("cmnd/plug/POWER", []byte("ON"), 1, false); err != nil {
					t.Fatal(err)
				}
				if got := next(t, heard); got != "cmnd/plug/POWER ON" {
					t.Errorf("heard %q", got)
				}
				out.publish("stat/plug/POWER", "ON", 1)
				if got := h.has(1); len(got) != 1 || got[0] != "stat/plug/POWER ON" {
					t.Errorf("taken %q, want the device's message alone", got)
				}
				if n := h.link.stats.Echoes.Load(); (n > 0) != (v == V311 || shared != "") {
					t.Errorf("%d echoes", n)
				}
			})
		}
	}
}

func TestCommands(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{})
			h := newHub(t, config(b, v)).run()
			if err := h.link.Publish("cmnd/plug/POWER", []byte("ON"), 1, false); signalbox.CodeOf(err) != "broker_away" {
				t.Errorf("before the connection: %v", err)
			}
			h.join().joined(b, 1)
			heard := newOutsider(t, b, "", "").hear("cmnd/#")
			for i := range 20 {
				if err := h.link.Publish("cmnd/plug/POWER", fmt.Append(nil, i), byte(i%2), false); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 20 {
				if got := next(t, heard); got != fmt.Sprintf("cmnd/plug/POWER %d", i) {
					t.Fatalf("heard %q as number %d", got, i)
				}
			}
			eventually(t, "all counted", func() bool { return h.link.stats.Published.Load() == 20 })
			b.Kill()
			eventually(t, "away", func() bool { return !h.link.Status().Connected })
			err := h.link.Publish("cmnd/plug/POWER", []byte("late"), 1, false)
			if signalbox.KindOf(err) != signalbox.KindUnavailable {
				t.Errorf("without a connection: %v", err)
			}
			b.Restart()
			h.joined(b, 2)
			heard = newOutsider(t, b, "", "").hear("cmnd/#")
			if err := h.link.Publish("cmnd/plug/POWER", []byte("now"), 1, false); err != nil {
				t.Fatal(err)
			}
			if got := next(t, heard); got != "cmnd/plug/POWER now" {
				t.Errorf("heard %q: a command outlived its connection", got)
			}
		})
	}
}

// TestFullLog: while the taker says Later nothing is lost, and a connection that would die of
// it is given up and joined again.
func TestFullLog(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{Lines: []string{"max_inflight_messages 0"}})
			cfg := config(b, v)
			cfg.KeepAlive, cfg.ReceiveMaximum = 2*time.Second, 3
			h := newHub(t, cfg).run().join().joined(b, 1)
			h.answers(mapped.Later)
			out := newOutsider(t, b, "", "")
			var want []string
			for i := range 20 {
				out.publish("Environ/Temperature", fmt.Sprint(i), 1)
				want = append(want, fmt.Sprintf("Environ/Temperature %d", i))
			}
			if v == V5 {
				// The broker keeps to the receive maximum: QoS 1 alone never fills the inbox.
				eventually(t, "pushed back", func() bool { return h.link.stats.Pushback.Load() > 3 })
				for i := range 20 {
					out.publish("Environ/Temperature", fmt.Sprint("qos0 ", i), 0)
				}
			}
			eventually(t, "stalled", func() bool { return h.link.stats.Stalled.Load() > 0 })
			h.answers(mapped.Taken)
			eventually(t, "all of QoS 1 is taken", func() bool {
				got := h.messages()
				for _, m := range want {
					if !slices.Contains(got, m) {
						return false
					}
				}
				return true
			})
			h.acked(20)
			got := slices.DeleteFunc(h.messages(), func(m string) bool { return strings.Contains(m, "qos0") })
			if !slices.Equal(got, want) {
				t.Errorf("taken %q, want each once and in order", got)
			}
		})
	}
}

// TestTakenOver: a connection that is ended again and again is tried less and less often, and
// what a 5.0 broker says of it is told.
func TestTakenOver(t *testing.T) {
	addr := script(t, func(c net.Conn) {
		hears(c)
		_, _ = c.Write([]byte("\x20\x03\x00\x00\x00\xe0\x01\x8e"))
		for kind := byte(1); kind != 0; {
			kind, _ = hears(c)
		}
	})
	cfg := Config{Name: "twins", URL: "mqtt://" + addr, Version: V5, BackoffMin: time.Millisecond, BackoffMax: time.Hour, Topics: []mapped.Mapping{{Filter: "a", Device: "a"}}}
	h := newHub(t, cfg).run().join()
	eventually(t, "slowed", func() bool { return h.link.delay() >= 50*time.Millisecond })
	if !strings.Contains(strings.ToLower(h.logged.String()), "session taken over") {
		t.Error("the broker's reason is not told")
	}
}

func TestDroppedIsAcknowledged(t *testing.T) {
	for _, answer := range []mapped.Verdict{mapped.None, mapped.Dropped} {
		for _, v := range versions() {
			t.Run(string(v), func(t *testing.T) {
				b := mosquittotest.Start(t, mosquittotest.Options{})
				h := newHub(t, config(b, v)).join().joined(b, 1) // no commit is needed
				h.answers(answer)
				newOutsider(t, b, "", "").publish("Environ/Temperature", "?", 1)
				h.acked(1)
				if s := h.link.Stats(); s.Dropped.Load()+s.Unmapped.Load() != 1 || s.Stored.Load() != 0 {
					t.Errorf("dropped %d, unmapped %d", s.Dropped.Load(), s.Unmapped.Load())
				}
				h.leave() // what is acknowledged goes out before
				eventually(t, "the broker heard so", func() bool { return strings.Contains(b.Log(), "Received PUBACK from "+h.link.cfg.ClientID) })
			})
		}
	}
}

// TestStoppingIsNotAcknowledged: what the hub does not take any more comes again.
func TestStoppingIsNotAcknowledged(t *testing.T) {
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{})
			h := newHub(t, config(b, v)).run().join().joined(b, 1)
			h.answers(mapped.Stopping)
			newOutsider(t, b, "", "").publish("Environ/Temperature", "1", 1)
			eventually(t, "offered", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.asked > 0 })
			h.leave()
			next := newHub(t, config(b, v)).run().join()
			next.has(1)
		})
	}
}

func TestTLS(t *testing.T) {
	ca, cert, key := mosquittotest.Certificates(t, t.TempDir())
	otherCA, _, _ := mosquittotest.Certificates(t, t.TempDir())
	b := mosquittotest.Start(t, mosquittotest.Options{Cert: cert, Key: key})
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			cfg := config(b, v)
			cfg.URL = "mqtts://" + b.Address
			cfg.TLS.CA = otherCA
			bad := newHub(t, cfg).run().join()
			eventually(t, "refused the certificate", func() bool { return strings.Contains(bad.link.Status().Message, "certificate") })
			bad.leave()
			cfg.TLS.CA = ca
			h := newHub(t, cfg).run().join()
			eventually(t, "joined", func() bool { return h.link.Status().Connected })
			// what comes back through the broker: the hub's own is not taken, another link's is
			other := newHub(t, func() Config { c := cfg; c.ClientID = "other" + strings.ReplaceAll(string(v), ".", ""); return c }()).run().join()
			eventually(t, "joined", func() bool { return other.link.Status().Connected })
			eventually(t, "a message over TLS", func() bool {
				_ = other.link.Publish("Environ/Temperature", []byte("1"), 1, false)
				return len(h.messages()) > 0
			})
		})
	}
}

func TestWebSocket(t *testing.T) {
	web := mosquittotest.FreeAddress(t)
	b := mosquittotest.Start(t, mosquittotest.Options{Lines: []string{fmt.Sprintf("listener %d 127.0.0.1", mosquittotest.Port(t, web)), "protocol websockets"}})
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			cfg := config(b, v)
			cfg.URL = "ws://" + web
			h := newHub(t, cfg).run().join().joined(b, 1)
			out := newOutsider(t, b, "", "")
			long := strings.Repeat("x", 100_000)
			out.publish("Environ/Temperature", long, 1)
			if got := h.has(1); got[0] != "Environ/Temperature "+long {
				t.Errorf("got %d bytes", len(got[0]))
			}
			h.acked(1)
			heard := out.hear("cmnd/#")
			if err := h.link.Publish("cmnd/x", []byte("1"), 1, false); err != nil {
				t.Fatal(err)
			}
			next(t, heard)
		})
	}
}

// script is a broker that says what it is told, for each connection the same.
func script(t *testing.T, talk func(c net.Conn)) string {
	t.Helper()
	var listen net.ListenConfig
	l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(wait))
			talk(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// hears reads one packet and gives its type and its body.
func hears(c io.Reader) (kind byte, body []byte) {
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil || head[1] > 127 {
		return 0, nil
	}
	body = make([]byte, head[1])
	_, _ = io.ReadFull(c, body)
	return head[0] >> 4, body
}

func TestAuto(t *testing.T) {
	tests := []struct {
		name string
		to5  string // the answer to a CONNECT of 5.0
		want Version
	}{
		{"3.1.1 refuses the version", "\x20\x02\x00\x01", V311},
		{"5.0 refuses the version", "\x20\x03\x00\x84\x00", V311},
		{"closes without an answer", "", V311},
		{"speaks 5.0", "\x20\x03\x00\x00\x00", V5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			over := make(chan struct{})
			addr := script(t, func(c net.Conn) {
				_, body := hears(c)
				if len(body) < 7 {
					return
				}
				answer := tt.to5
				if body[6] == 4 { // 3.1.2.2: protocol level
					answer = "\x20\x02\x00\x00"
				}
				_, _ = c.Write([]byte(answer))
				if answer == "\x20\x02\x00\x00" || tt.want == V5 {
					<-over
				}
			})
			cfg := Config{Name: "auto", URL: "mqtt://" + addr, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond, Topics: []mapped.Mapping{{Filter: "a", Device: "a"}}}
			h := newHub(t, cfg).run().join()
			defer close(over)
			eventually(t, "joined", func() bool { return h.link.Status().Connected })
			if v := h.link.Status().Version; v != tt.want {
				t.Errorf("version %s, want %s", v, tt.want)
			}
		})
	}
}

func TestRefusedSubscription(t *testing.T) {
	tests := []struct {
		version           Version
		connack, suback   string
		filter, words     string
		identifier, level int
	}{
		{version: V5, connack: "\x20\x03\x00\x00\x00", suback: "\x90\x04%s\x00\x87", words: "secret/#: Not authorized"},
		{version: V311, connack: "\x20\x02\x00\x00", suback: "\x90\x03%s\x80", words: "secret/#"},
	}
	for _, tt := range tests {
		t.Run(string(tt.version), func(t *testing.T) {
			over := make(chan struct{})
			addr := script(t, func(c net.Conn) {
				hears(c)
				_, _ = c.Write([]byte(tt.connack))
				for {
					kind, body := hears(c)
					if kind == 8 {
						_, _ = fmt.Fprintf(c, tt.suback, body[:2])
						<-over
						return
					}
					if kind != 12 {
						return
					}
				}
			})
			cfg := Config{Name: "strict", URL: "mqtt://" + addr, Version: tt.version, QoS: 1, Topics: []mapped.Mapping{{Filter: "secret/#", Device: "a"}}}
			h := newHub(t, cfg).run().join()
			defer close(over)
			eventually(t, "told", func() bool {
				return strings.Contains(strings.ToLower(h.link.Status().Message), strings.ToLower(tt.words))
			})
			if s := h.link.Status(); s.OK || !s.Connected {
				t.Errorf("status %+v", s)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	most := func(n int64) int64 { return n - 1 }
	least := func(int64) int64 { return 0 }
	for i, want := range []time.Duration{0, 1, 2, 4, 8, 10, 10} {
		want *= time.Second
		if d := backoff(i, time.Second, 10*time.Second, most); d != want {
			t.Errorf("after %d failures at most %s, want %s", i, d, want)
		}
		if d := backoff(i, time.Second, 10*time.Second, least); d != want/2 {
			t.Errorf("after %d failures at least %s, want %s", i, d, want/2)
		}
	}
	if d := backoff(1000, time.Second, time.Minute, most); d != time.Minute {
		t.Errorf("after 1000 failures %s", d)
	}
}

func TestTemplateFilter(t *testing.T) {
	for template, want := range map[string]string{
		"cmnd/{device}/{command}": "cmnd/+/+",
		"a/b":                     "a/b",
		"x-{device}/set":          "+/set",
	} {
		if got := templateFilter(template); got != want {
			t.Errorf("%s: %s, want %s", template, got, want)
		}
	}
}

func TestRunWithoutBrokerEndsAtOnce(t *testing.T) {
	cfg := Config{Name: "none", URL: "mqtt://" + mosquittotest.FreeAddress(t), BackoffMin: time.Hour, BackoffMax: time.Hour, Topics: []mapped.Mapping{{Filter: "a", Device: "a"}}}
	for _, v := range versions() {
		t.Run(string(v), func(t *testing.T) {
			cfg.Version = v
			l, err := New(cfg, Parts{Taker: &hub{}, Log: &noLog{}, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- l.Run(ctx) }()
			eventually(t, "tried", func() bool { return l.stats.Failures.Load() > 0 })
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(wait):
				t.Error("Run does not end")
			}
		})
	}
}

type noLog struct{}

func (*noLog) Committed() signalbox.Position       { return 0 }
func (*noLog) OnCommit(func(p signalbox.Position)) {}

// TestBrokerSpeaksOfAuthentication: a broker that names an authentication method which nobody asked for must not end
// the process.
func TestBrokerSpeaksOfAuthentication(t *testing.T) {
	for name, answer := range map[string]string{
		"in its CONNACK":    "\x20\x07\x00\x00\x04\x15\x00\x01x",
		"in an AUTH before": "\xf0\x06\x18\x04\x15\x00\x01x\x20\x03\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			talked := make(chan string, 64)
			address := script(t, func(c net.Conn) {
				if kind, _ := hears(c); kind != 1 {
					return
				}
				_, _ = c.Write([]byte(answer))
				_, _ = hears(c) // SUBSCRIBE, or what comes back
				select {
				case talked <- "talked":
				default:
				}
			})
			newHub(t, Config{
				Name: "odd", URL: "mqtt://" + address, Version: V5, ConnectTimeout: time.Second, BackoffMin: time.Millisecond, BackoffMax: 2 * time.Millisecond,
				Topics: []mapped.Mapping{{Filter: "a", Device: "a"}},
			}).run().join()
			for range 2 {
				next(t, talked)
			}
		})
	}
}
