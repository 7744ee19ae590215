package main_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// reading is the n-th message of a device: whoever reads it back knows what it must be.
func reading(device string, seq uint64) string {
	return fmt.Sprintf(`{"type":"telemetry","seq":%d,"device":%q,"status":"работает","servo1":%d,"temp":%d.50,"button":"%x"}`,
		seq, device, seq%181, seq%40, seq*0x9e3779b97f4a7c15)
}

// checkHistory says that the history of a device is its messages from 1 on, each once, in
// order and as they were sent, and gives how many.
func checkHistory(t *testing.T, h *hub, device string) uint64 {
	t.Helper()
	objects := h.history(device)
	for i, object := range objects {
		if want := reading(device, uint64(i)+1); object != want {
			t.Fatalf("message %d of %d of %s is\n%s\nand should be\n%s", i+1, len(objects), device, object, want)
		}
	}
	return uint64(len(objects))
}

// window is how many messages a sender keeps until they are saved, as a board's memory does.
const window = 1000

// sender is a device that sends as fast as it may and keeps what is not saved yet.
type sender struct {
	name  string
	saved atomic.Uint64 // acknowledged: by a saved frame or at login
	sent  atomic.Uint64
}

// run logs in, sends what is not saved and goes on up to message last, until all is saved
// or the connection ends. heard is called with the amount of each acknowledgement. err is
// a fault of the hub; an end of the connection is none.
func (s *sender) run(b *board, last uint64, heard func(n uint64)) error {
	first := s.saved.Load() + 1
	kept, gone := make(chan struct{}, window), make(chan struct{})
	var writing sync.WaitGroup
	defer writing.Wait()
	defer func() {
		_ = b.conn.Close()
		close(gone)
	}()
	writing.Go(func() {
		for seq := first; seq <= last; seq++ {
			select {
			case kept <- struct{}{}:
			case <-gone:
				return
			}
			s.sent.Store(max(s.sent.Load(), seq)) // before it can be acknowledged
			if b.write(1, []byte(reading(s.name, seq))) != nil {
				return
			}
		}
	})
	for s.saved.Load() < last {
		payload, closed, err := b.read()
		if err != nil || closed != "" {
			return nil
		}
		var seq uint64
		switch _, err := fmt.Sscanf(payload, `{"type":"saved","seq":%d}`, &seq); {
		case err == nil && seq > s.saved.Load() && seq <= last:
			n := seq - s.saved.Swap(seq)
			for range n {
				<-kept
			}
			heard(n)
		case err == nil:
			return fmt.Errorf("%s: saved %d came after saved %d", s.name, seq, s.saved.Load())
		case !strings.Contains(payload, `"rate_limited"`) && !strings.Contains(payload, `"storage_unavailable"`):
			return fmt.Errorf("%s: the hub sent %s", s.name, payload)
		}
	}
	return nil
}

// login connects the sender and checks what the hub says is saved.
func (s *sender) login(h *hub) *board {
	h.t.Helper()
	b, saved := h.login2(s.name, "first")
	if saved < s.saved.Load() || saved > s.sent.Load() {
		h.t.Fatalf("%s: auth_ok says that %d is saved; %d was acknowledged before and %d sent", s.name, saved, s.saved.Load(), s.sent.Load())
	}
	s.saved.Store(saved)
	return b
}

// TestKillTelemetry kills the hub in the middle of telemetry, three times. Nothing that
// was acknowledged may be missing, nothing may be there twice.
func TestKillTelemetry(t *testing.T) {
	t.Parallel()
	const devices, rounds = 5, 3
	dir := dataDir(t, "devices:\n  messages_per_second: 100000\n")
	h := startHub(t, dir)
	senders := newSenders(h, devices)
	for round := range rounds {
		quota := 500 + rand.Int64N(5000)
		t.Logf("round %d: killed after %d acknowledged messages", round, quota)
		runFor(t, h, senders, quota, h.kill)
		h = startHub(t, dir)
		checkAll(t, h, senders)
	}
	last := uint64(0)
	for _, s := range senders {
		last = max(last, s.sent.Load()) + 100
	}
	runAll(t, h, senders, last, func(uint64) {}, func() {})
	for _, s := range senders {
		if stored := checkHistory(t, h, s.name); stored != last {
			t.Errorf("%s: %d messages are stored in the end instead of %d", s.name, stored, last)
		}
	}
}

// newSenders makes devices that send.
func newSenders(h *hub, n int) []*sender {
	h.t.Helper()
	senders := make([]*sender, n)
	for i := range senders {
		senders[i] = &sender{name: fmt.Sprintf("esp%02d", i)}
		h.add(senders[i].name)
	}
	return senders
}

// runFor lets all senders run and calls then when quota more messages are acknowledged; then
// is to end the connections.
func runFor(t *testing.T, h *hub, senders []*sender, quota int64, then func()) {
	t.Helper()
	var left atomic.Int64
	left.Store(quota)
	enough := make(chan struct{})
	runAll(t, h, senders, 1<<40, func(n uint64) {
		if now := left.Add(-int64(n)); now <= 0 && now+int64(n) > 0 {
			close(enough)
		}
	}, func() {
		select {
		case <-enough:
		case <-time.After(muchPatience):
			t.Error("too little was acknowledged")
		}
		then()
	})
}

// checkAll says that all that was acknowledged is there, once.
func checkAll(t *testing.T, h *hub, senders []*sender) {
	t.Helper()
	for _, s := range senders {
		stored := checkHistory(t, h, s.name)
		if acknowledged := s.saved.Load(); stored < acknowledged || stored > s.sent.Load() {
			t.Fatalf("%s: %d messages are stored; %d were acknowledged and %d sent", s.name, stored, acknowledged, s.sent.Load())
		}
	}
}

// runAll lets all senders run and returns when they have ended; meanwhile is called in
// between.
func runAll(t *testing.T, h *hub, senders []*sender, last uint64, heard func(uint64), meanwhile func()) {
	t.Helper()
	var all sync.WaitGroup
	for _, s := range senders {
		b := s.login(h)
		all.Go(func() {
			if err := s.run(b, last, heard); err != nil {
				t.Error(err)
			}
		})
	}
	meanwhile()
	all.Wait()
}

// TestKillQueuedCommands kills the hub right after it has taken commands for devices that
// are away, and again before they are acknowledged.
func TestKillQueuedCommands(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "")
	h := startHub(t, dir)
	h.add("old", "new")
	var old, fresh []sent
	for i := range 5 {
		value := fmt.Sprint(i)
		old = append(old, h.send("old", "servo1", value, map[string]any{"ttl": "1h"}))
		fresh = append(fresh, h.send("new", "servo1", value, map[string]any{"ttl": "1h", "timeout": "1h"}))
	}
	h.kill()

	h = startHub(t, dir)
	for _, c := range slices.Concat(old, fresh) {
		if got := h.command(c.ID); got.State != "queued" || *got.Value != *c.Value {
			t.Fatalf("after the kill the command is %+v", got)
		}
	}
	b1 := h.login1("old")
	for _, c := range old {
		if got, want := b1.frame().raw, fmt.Sprintf(`{"command": "servo1", "value": %q}`, *c.Value); got != want {
			t.Fatalf("version 1 got %s instead of %s", got, want)
		}
	}
	b2, _ := h.login2("new", "")
	for _, c := range fresh {
		if f := b2.frame(); f.ID != c.ID || f.value() != *c.Value {
			t.Fatalf("version 2 got %s instead of %+v", f.raw, c)
		}
	}
	b2.text(fmt.Sprintf(`{"type":"ack","id":%q}`, fresh[0].ID))
	b2.report() // the log is in order: when this is on disk, so is the ack
	b2.awaitSaved()
	if got := h.command(fresh[0].ID); got.State != "delivered" {
		t.Errorf("after its ack the command is %s", got.State)
	}
	h.kill()

	h = startHub(t, dir)
	b1 = h.login1("old")
	h.send("old", "last", "", nil)
	if f := b1.frame(); f.Command != "last" {
		t.Errorf("version 1 got a command again: %s", f.raw)
	}
	b2, _ = h.login2("new", "")
	for _, c := range fresh[1:] {
		f := b2.frame()
		if f.ID != c.ID || f.value() != *c.Value {
			t.Fatalf("version 2 got %s instead of %+v again", f.raw, c)
		}
		b2.text(fmt.Sprintf(`{"type":"ack","id":%q}`, f.ID))
	}
	for _, c := range fresh {
		b2.text(fmt.Sprintf(`{"type":"result","id":%q,"ok":true,"value":%s}`, c.ID, *c.Value))
	}
	for _, c := range fresh {
		await(t, patience, "the result is noted", func() bool { return h.command(c.ID).State == "succeeded" })
	}
	for _, c := range old {
		if got := h.command(c.ID); got.State != "sent" {
			t.Errorf("a command of version 1 is %s", got.State)
		}
	}
}

// TestKillCommands kills the hub while commands go out to devices that are online.
func TestKillCommands(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "commands:\n  max_active_per_device: 10000\n")
	h := startHub(t, dir)
	h.add("old", "new")
	got := map[string]map[string][]string{"old": {}, "new": {}} // value → ids ("" in version 1), by device
	accepted := map[string][]sent{}
	for round := range 3 {
		boards := []*board{h.login1("old")}
		b2, _ := h.login2("new", "")
		boards = append(boards, b2)
		quota := 20 + rand.IntN(100)
		t.Logf("round %d: killed after %d commands", round, quota)
		var reading sync.WaitGroup
		for _, b := range boards {
			seen := got[b.name]
			reading.Go(func() { collect(t, b, seen) })
		}
		for i := range quota {
			for _, device := range []string{"old", "new"} {
				c := h.send(device, "go", fmt.Sprintf("%d.%d", round, i), map[string]any{"ttl": "1h", "timeout": "1h"})
				accepted[device] = append(accepted[device], c)
			}
		}
		h.kill()
		reading.Wait()
		h = startHub(t, dir)
	}
	// What is left goes out in order; the last command tells that it was all.
	b1 := h.login1("old")
	b2, _ := h.login2("new", "")
	for _, b := range []*board{b1, b2} {
		accepted[b.name] = append(accepted[b.name], h.send(b.name, "go", "end", map[string]any{"ttl": "1h"}))
		collect(t, b, got[b.name])
	}
	for _, c := range accepted["old"] {
		if n := len(got["old"][*c.Value]); n > 1 {
			t.Errorf("version 1 got the command %s %d times", *c.Value, n)
		}
		if state := h.command(c.ID).State; state != "sent" {
			t.Errorf("the command %s of version 1 is %s", *c.Value, state)
		}
	}
	for _, c := range accepted["new"] {
		ids := got["new"][*c.Value]
		if len(ids) == 0 {
			t.Errorf("version 2 never got the command %s, which had been accepted", *c.Value)
		}
		for _, id := range ids {
			if id != c.ID {
				t.Errorf("version 2 got the command %s under the id %s instead of %s", *c.Value, id, c.ID)
			}
		}
	}
}

// collect notes commands, none acknowledged, until the connection ends or «end» comes.
func collect(t *testing.T, b *board, seen map[string][]string) {
	t.Helper()
	for {
		payload, closed, err := b.read()
		if err != nil || closed != "" {
			return
		}
		var f frame
		if err := json.Unmarshal([]byte(payload), &f); err != nil {
			t.Errorf("the hub sent %s", payload)
			return
		}
		seen[f.value()] = append(seen[f.value()], f.ID)
		if f.value() == "end" {
			return
		}
	}
}

// TestStopUnderLoad stops the hub in order while devices send; all that was acknowledged
// is there afterwards, and a version 2 device is told that the hub goes away.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "")
	h := startHub(t, dir)
	senders := newSenders(h, 3)
	h.add("idle")
	idle, _ := h.login2("idle", "")
	runFor(t, h, senders, 1000, h.stop)
	if text := h.stderr.String(); strings.Contains(text, "had to be cut") {
		t.Errorf("it did not stop in order: %s", tail(text))
	}
	if closed := idle.closing(); !strings.HasPrefix(closed, "1001") {
		t.Errorf("a device was told %q when the hub stopped", closed)
	}
	h = startHub(t, dir)
	checkAll(t, h, senders)
	if status, body := h.open("/readyz"); status != http.StatusOK {
		t.Errorf("/readyz: %d %s", status, body)
	}
}
