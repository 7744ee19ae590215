package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"signalbox/internal/broker"
	"signalbox/internal/broker/durable"
	"signalbox/internal/wire/packet"
)

func owner(name string) wish { return func(h *broker.Hello) { h.Owner = name } }

func volatile(h *broker.Hello) { h.Volatile = true }

func granted(g broker.Grant) wish { return func(h *broker.Hello) { h.Grant = g } }

// wait lets messages wait for a session on disk, as many as an owner may have and more.
func (h *hub) wait(t *testing.T, p *client, topic string, messages, size int) {
	t.Helper()
	for range messages {
		p.publish(t, topic, strings.Repeat("x", size), 1, 9)
		p.want(t, packet.PUBACK)
	}
}

// TestOneOwnerCannotFillTheQueues lets one owner's sessions have as much waiting as they may:
// other owners' sessions still get theirs, offline and connected, and it is told.
func TestOneOwnerCannotFillTheQueues(t *testing.T) {
	var log safeBuffer
	const total = 4 << 20
	h := disk(t, t.TempDir(), broker.Config{TotalBytes: total, Logger: slog.New(slog.NewTextHandler(&log, nil)), Name: func(o string) string { return "token of " + o }}, nil)
	for i := range 4 {
		c := h.connect(t, fmt.Sprint("hog", i), owner("hog"), expiry(1000))
		c.subscribe(t, filter("hog/#", 1))
		c.Closed(true, nil, time.Now())
	}
	victim := h.connect(t, "victim", owner("victim"), expiry(1000))
	victim.subscribe(t, filter("alarm", 1))
	victim.Closed(true, nil, time.Now())
	p := h.connect(t, "p", owner("p"))
	if _, crowded := h.Crowded(); crowded {
		t.Error("it is crowded before anything waits")
	}
	h.wait(t, p, "hog/x", 80, 8000) // 4 * 80 * 8,000 bytes are 2.5 MiB
	if got := h.Stats().QueuedBytes.Load(); got > total/4+4*64<<10 {
		t.Errorf("%d bytes wait for one owner, of %d for all", got, total)
	}
	crowd, crowded := h.Crowded()
	if !crowded || crowd.All || crowd.Owner != "hog" || !crowd.Disk {
		t.Errorf("told is %+v, %v", crowd, crowded)
	}
	eventually(t, "the log names the owner", func() bool { return strings.Contains(log.String(), "token of hog") })
	if n := strings.Count(log.String(), "token of hog"); n != 1 {
		t.Errorf("it was logged %d times", n)
	}
	h.wait(t, p, "alarm", 1, 8000)
	victim = h.connect(t, "victim", owner("victim"), expiry(1000), resume)
	if g := victim.want(t, packet.PUBLISH); g.topic != "alarm" {
		t.Errorf("got %q", g.topic)
	}
}

// TestFullQueuesSpareReaders fills what may wait for all: a session for which little waits goes
// on getting messages.
func TestFullQueuesSpareReaders(t *testing.T) {
	const total = 1 << 20
	for _, tc := range []struct {
		name   string
		expiry uint32
	}{{"on disk", 1000}, {"in memory", 0}} {
		t.Run(tc.name, func(t *testing.T) {
			h := disk(t, t.TempDir(), broker.Config{TotalBytes: total, MemoryBytes: total}, nil)
			p := h.connect(t, "p", owner("p"))
			for i := range 6 {
				c := h.connect(t, "hog", owner(fmt.Sprint("hog", i)), expiry(tc.expiry), window(1))
				c.subscribe(t, filter("hog", 1))
			}
			h.wait(t, p, "hog", 70, 8000)
			if crowd, crowded := h.Crowded(); !crowded || !crowd.All || crowd.Disk != (tc.expiry > 0) {
				t.Errorf("told is %+v, %v", crowd, crowded)
			}
			if got := h.Stats().QueuedBytes.Load(); got > total+6*64<<10 {
				t.Errorf("%d bytes wait", got)
			}
			reader := h.connect(t, "reader", owner("reader"), expiry(tc.expiry))
			reader.subscribe(t, filter("alarm", 1))
			for _, size := range []int{10, 8000, 50_000, 60_000} {
				h.wait(t, p, "alarm", 1, size)
				g := reader.want(t, packet.PUBLISH)
				if len(g.payload) != size {
					t.Errorf("got %d bytes, want %d", len(g.payload), size)
				}
				reader.ack(packet.PUBACK, g.ID)
			}
		})
	}
}

// TestSharesGoAway uses everything that is counted for an owner and gives it back.
func TestSharesGoAway(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	p := h.connect(t, "p", owner("p"))
	c := h.connect(t, "c", owner("c"), expiry(1000))
	c.subscribe(t, filter("a", 1), filter("a", 1), filter("b/+", 1))
	c.Closed(true, nil, time.Now())
	p.publish(t, "a", "x", 1, 1, retain)
	p.publish(t, "a", "longer", 1, 2, retain)
	if h.Shares() == 0 {
		t.Error("nothing is counted")
	}
	p.publish(t, "a", "", 1, 3, retain)
	h.Forget("c")
	h.Forget("p")
	if n := h.Shares(); n != 0 {
		t.Errorf("%d owners have a share of nothing", n)
	}
	if s := h.Stats(); s.QueuedBytes.Load() != 0 || s.RetainedBytes.Load() != 0 {
		t.Errorf("%d bytes wait, %d are retained", s.QueuedBytes.Load(), s.RetainedBytes.Load())
	}
}

// TestOneOwnerCannotHaveAllSessions lets one owner have a part of the sessions alone.
func TestOneOwnerCannotHaveAllSessions(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  broker.Config
		want int
	}{{"a quarter", broker.Config{MaxSessions: 20}, 5}, {"a number", broker.Config{OwnerSessions: 3}, 3}} {
		t.Run(tc.name, func(t *testing.T) {
			h := memory(t, tc.cfg, nil)
			connect := func(who, id string, clean bool, seconds uint32) bool {
				hello := broker.Hello{Peer: newPeer(packet.V5), Owner: who, ClientID: id, Connect: &packet.Connect{Version: packet.V5, Clean: clean}, Properties: new(packet.Properties)}
				expiry(seconds)(&hello)
				_, outcome := h.Connect(&hello)
				return outcome == (broker.Outcome{})
			}
			for i := range tc.want {
				if !connect("hog", fmt.Sprint(i), true, 1000) {
					t.Fatalf("session %d was refused", i)
				}
			}
			if connect("hog", "more", true, 1000) {
				t.Error("one session more was admitted")
			}
			if !connect("hog", "none", true, 0) || !connect("hog", "0", false, 1000) || !connect("hog", "0", true, 1000) {
				t.Error("a session that does not stay, or was there, was refused")
			}
			if !connect("other", "x", true, 1000) {
				t.Error("another owner was refused")
			}
			h.Forget("hog")
			if !connect("hog", "again", true, 1000) {
				t.Error("refused after they had gone")
			}
		})
	}
}

// TestFilterBytes bounds filters by their length, in a session and for an owner.
func TestFilterBytes(t *testing.T) {
	long := func(n, of int) string { return fmt.Sprintf("%04d", n) + strings.Repeat("z", of-4) }
	t.Run("one", func(t *testing.T) {
		h := memory(t, broker.Config{}, nil)
		got := h.connect(t, "c").subscribe(t, filter(long(0, 1024), 1), filter(long(0, 1025), 1))
		if !bytes.Equal(got, []byte{1, byte(packet.TopicFilterInvalid)}) {
			t.Errorf("reasons %x", got)
		}
		got = h.connect(t, "old", v311).subscribe(t, filter(long(0, 1025), 1))
		if !bytes.Equal(got, []byte{0x80}) {
			t.Errorf("3.1.1: reasons %x", got)
		}
	})
	t.Run("of a session", func(t *testing.T) {
		h := memory(t, broker.Config{}, nil)
		c := h.connect(t, "c")
		for i := range 64 {
			if got := c.subscribe(t, filter(long(i, 1024), 1)); got[0] != 1 {
				t.Fatalf("filter %d: %x", i, got)
			}
		}
		if got := c.subscribe(t, filter("x", 1), filter(long(1, 1024), 0)); got[0] != byte(packet.QuotaExceeded) || got[1] != 0 {
			t.Errorf("reasons %x", got)
		}
		c.Unsubscribe(&packet.Packet{Type: packet.UNSUBSCRIBE, ID: 3, Filters: []packet.Filter{filter(long(1, 1024), 0)}})
		c.want(t, packet.UNSUBACK)
		if got := c.subscribe(t, filter("x", 1)); got[0] != 1 {
			t.Errorf("after one has gone: %x", got)
		}
	})
	t.Run("of an owner", func(t *testing.T) {
		h := memory(t, broker.Config{MaxSubscriptions: 10}, nil)
		full, refused := make([]packet.Filter, 0, 10), 0
		for i := range 10 {
			full = append(full, filter(long(i, 1000), 1))
		}
		for i := range 1700 { // 17 MB
			for _, r := range h.connect(t, fmt.Sprint(i), owner("hog")).subscribe(t, full...) {
				if r == byte(packet.QuotaExceeded) {
					refused++
				}
			}
		}
		if refused < 10 || refused > 1000 {
			t.Errorf("%d were refused", refused)
		}
		if got := h.connect(t, "c", owner("other")).subscribe(t, filter("x", 1)); got[0] != 1 {
			t.Errorf("another owner: %x", got)
		}
	})
}

// TestRetainedCountsAll bounds what is retained by all that is kept of it, also when a topic gets
// another message.
func TestRetainedCountsAll(t *testing.T) {
	h := memory(t, broker.Config{RetainedBytes: 40_000}, nil)
	c := h.connect(t, "c")
	put := func(topic, payload, user string) packet.Reason {
		c.publish(t, topic, payload, 1, 1, retain, func(p *packet.Packet) {
			if user != "" {
				if err := p.Properties.DecodeForwarded(packetUser(user)); err != nil {
					t.Fatal(err)
				}
			}
		})
		return c.want(t, packet.PUBACK).Reason
	}
	for i := range 10 {
		if r := put(fmt.Sprint("t", i), "x", ""); r != 0 {
			t.Fatalf("topic %d: %#x", i, r)
		}
	}
	for _, tc := range []struct {
		name, topic, payload, user string
		want                       packet.Reason
	}{
		{"properties of a new topic", "new", "x", strings.Repeat("v", 12_000), packet.QuotaExceeded},
		{"properties of a topic that is there", "t1", "x", strings.Repeat("v", 12_000), packet.QuotaExceeded},
		{"a long topic", strings.Repeat("t", 12_000), "x", "", packet.QuotaExceeded},
		{"a payload", "t2", strings.Repeat("v", 12_000), "", packet.QuotaExceeded},
		{"within the bound", "t2", strings.Repeat("v", 8000), "", 0},
		{"less again", "t2", "x", "", 0},
		{"taking away", "t2", "", strings.Repeat("v", 12_000), 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := put(tc.topic, tc.payload, tc.user); got != tc.want {
				t.Errorf("%#x, want %#x", got, tc.want)
			}
		})
	}
}

// packetUser is one user property, as it is forwarded.
func packetUser(value string) []byte {
	b := append([]byte{0x26, 0, 1, 'k'}, byte(len(value)>>8), byte(len(value)))
	return append(b, value...)
}

// TestRetainedShares bounds what one owner may have retained, keeps room for the hub, and keeps
// nothing of those who have no name.
func TestRetainedShares(t *testing.T) {
	h := memory(t, broker.Config{MaxRetained: 16}, nil)
	fill := func(who string, most int) (kept int) {
		c := h.connect(t, "c", owner(who))
		for i := range most {
			c.publish(t, fmt.Sprint(who, "/", i), "x", 1, 1, retain)
			if c.want(t, packet.PUBACK).Reason == 0 {
				kept++
			}
		}
		return kept
	}
	guest := h.connect(t, "guest", owner("a"), volatile, will("guest/will", "x", 1, 0), func(h *broker.Hello) { h.Connect.WillRetain = true })
	for i, want := range []int{4, 4, 4, 2, 0} { // an eighth is the hub's
		if got := fill(fmt.Sprint("o", i), 10); got != want {
			t.Errorf("owner %d has %d topics, want %d", i, got, want)
		}
	}
	guest.publish(t, "o1/0", "", 1, 1, retain)
	guest.publish(t, "o1/1", "guest", 1, 2, retain)
	for range 2 {
		if g := guest.want(t, packet.PUBACK); g.Reason != 0 {
			t.Errorf("a guest's: %#x", g.Reason)
		}
	}
	guest.Closed(false, nil, time.Now())
	for i := range 3 {
		if err := h.Publish(&durable.Message{Topic: fmt.Sprint("hub/", i), Payload: []byte("x"), Retain: true}); err != nil {
			t.Fatal(err)
		}
	}
	for topic, want := range map[string]string{"o1/0": "o1", "o1/1": "o1", "guest/will": "", "hub/0": broker.HubOwner, "hub/1": broker.HubOwner, "hub/2": ""} {
		if got, ok := h.RetainedBy(topic); got != want || ok != (want != "") {
			t.Errorf("%s is of %q, want %q", topic, got, want)
		}
	}
}

// TestClearRetained clears what begins with a prefix, on disk too.
func TestClearRetained(t *testing.T) {
	dir := t.TempDir()
	h := disk(t, dir, broker.Config{}, nil)
	c := h.connect(t, "c")
	put := func(topic string) {
		c.publish(t, topic, "x", 1, 1, retain)
		c.want(t, packet.PUBACK)
	}
	for i := range 700 {
		c.publish(t, fmt.Sprint("signalbox/a/", i), "x", 0, 0, retain)
	}
	for _, topic := range []string{"signalbox/a", "signalbox/ab/x", "signalbox/b/x", "x/y/z/1", "x/y/z/2", "x/y/zz"} {
		put(topic)
	}
	for _, prefix := range []string{"signalbox/a/", "x/y/z/", "none"} {
		h.ClearRetained(prefix)
	}
	check := func() {
		t.Helper()
		if n := h.Stats().Retained.Load(); n != 4 {
			t.Errorf("%d are left", n)
		}
		for _, topic := range []string{"signalbox/a", "signalbox/ab/x", "signalbox/b/x", "x/y/zz"} {
			if got, ok := h.RetainedBy(topic); !ok || got != "o" {
				t.Errorf("%s is of %q", topic, got)
			}
		}
	}
	check()
	put("flushed")
	c.publish(t, "flushed", "", 1, 1, retain)
	c.want(t, packet.PUBACK)
	h.kill()
	h = disk(t, dir, broker.Config{}, nil)
	check()
	h.ClearRetained("x")
	h.ClearRetained("signalbox")
	if n := h.Stats().Retained.Load(); n != 0 {
		t.Errorf("%d are left", n)
	}
}

// TestResumeAsksAgain takes a right away while a session is offline: its subscription ends, and
// what waits because of it is not delivered; also not after another start.
func TestResumeAsksAgain(t *testing.T) {
	deny := func(f *packet.Filter) packet.Reason {
		if strings.HasPrefix(string(f.Text), "home/k1") || strings.HasPrefix(string(f.Text), "$share") {
			return packet.NotAuthorized
		}
		return packet.Success
	}
	for _, tc := range []struct {
		name   string
		onDisk bool
	}{{"memory", false}, {"disk", true}} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			start := func() *hub {
				if tc.onDisk {
					return disk(t, dir, broker.Config{}, nil)
				}
				return memory(t, broker.Config{}, nil)
			}
			h := start()
			c := h.connect(t, "c", expiry(1000))
			c.subscribe(t, filter("home/k1/#", 1), filter("home/k1/mine", 1), filter("home/+/mine", 1), filter("$share/g/shared", 1), filter("last", 1))
			c.Closed(true, nil, time.Now())
			p := h.connect(t, "p", owner("p"))
			for _, topic := range []string{"home/k1/kitchen", "home/k1/mine", "shared", "last"} {
				h.wait(t, p, topic, 1, 1)
			}
			c = h.connect(t, "c", expiry(1000), resume, granted(deny))
			for _, want := range []string{"home/k1/mine", "last"} {
				g := c.want(t, packet.PUBLISH)
				if g.topic != want {
					t.Errorf("got %q, want %q", g.topic, want)
				}
				c.ack(packet.PUBACK, g.ID)
			}
			if n := h.Stats().Withdrawn.Load(); n != 2 {
				t.Errorf("%d were withdrawn", n)
			}
			c.Closed(true, nil, time.Now())
			h.wait(t, p, "home/k1/kitchen", 1, 1)
			h.wait(t, p, "last", 1, 1)
			if tc.onDisk {
				h.kill()
				h = start()
			}
			c = h.connect(t, "c", expiry(1000), resume)
			if g := c.want(t, packet.PUBLISH); g.topic != "last" {
				t.Errorf("later: got %q", g.topic)
			}
		})
	}
}

// roomy is a connection that is told of room for commands.
type roomy struct {
	*peer
	told chan struct{}
}

func (r roomy) CommandRoom() { r.told <- struct{}{} }

// TestCommandRoom fills what commands may wait, and hears of room once half of it is free.
func TestCommandRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := memory(t, broker.Config{}, nil)
		r := roomy{told: make(chan struct{}, 10)}
		c := h.connect(t, "c", window(1), func(h *broker.Hello) {
			r.peer = newPeer(packet.V5)
			h.Peer = r
		})
		sent := 0
		fill := func() {
			t.Helper()
			for {
				err := c.Command("cmd", []byte("x"), 1)
				if err == nil {
					sent++
					synctest.Wait()
					continue
				}
				if !errors.Is(err, broker.ErrBusy) {
					t.Fatal(err)
				}
				return
			}
		}
		fill()
		if sent != 65 { // one is sent, 64 wait
			t.Errorf("%d commands were taken", sent)
		}
		acked := 0
		for len(r.told) == 0 {
			c.ack(packet.PUBACK, c.want(t, packet.PUBLISH).ID)
			acked++
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		if acked != 32 || len(r.told) != 1 {
			t.Errorf("told %d times, after %d", len(r.told), acked)
		}
		for range sent - acked {
			c.ack(packet.PUBACK, c.want(t, packet.PUBLISH).ID)
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		if len(r.told) != 1 {
			t.Errorf("told %d times, nobody had asked again", len(r.told))
		}
		h.kill()
	})
}

// counted is a connection that never reads, and counts how often it was looked at.
type counted struct {
	*peer
	looks atomic.Int64
}

func (c *counted) Queued() int {
	if c.looks.Add(1) == 100_000 { // whoever looks without end is let go
		c.stall(0)
	}
	return c.peer.Queued()
}

// TestNeverReadsCostsNothing has connections that never read, alone and beside one that does:
// they are looked at now and then, however much goes on.
func TestNeverReadsCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := memory(t, broker.Config{Senders: 1}, nil)
		var silent []*counted
		for i := range 3 {
			c := &counted{peer: newPeer(packet.V5)}
			c.stall(1 << 20)
			silent = append(silent, c)
			h.connect(t, fmt.Sprint("silent", i), func(h *broker.Hello) { h.Peer = c }).subscribe(t, filter("a", 1))
		}
		reader := h.connect(t, "reader")
		reader.subscribe(t, filter("b", 0))
		publisher := h.connect(t, "publisher")
		publisher.publish(t, "a", "x", 0, 0)
		for _, busy := range []bool{false, true} {
			for _, c := range silent {
				c.looks.Store(0)
			}
			rounds := 0
			for began := time.Now(); time.Since(began) < time.Second; rounds++ {
				if busy {
					publisher.publish(t, "b", "x", 0, 0)
					synctest.Wait()
					reader.want(t, packet.PUBLISH)
				}
				time.Sleep(100 * time.Microsecond)
			}
			for i, c := range silent {
				if n := c.looks.Load(); n < 100 || n > 1100 {
					t.Errorf("busy %v: within a second and %d messages of another connection number %d was looked at %d times", busy, rounds, i, n)
				}
			}
		}
		h.kill()
	})
}

// safeBuffer is a log.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
