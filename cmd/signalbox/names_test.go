package main_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

const refused = `{"error": "unauthorized"}`

// TestWrongPassword logs in 200 times with a wrong password under the name of a device
// that is online, from its own address and from another. The device notices nothing, the
// hub spends next to nothing, and the right password works at once.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	h := startHub(t, dataDir(t, ""))
	h.add("esp01")
	live, _ := h.login2("esp01", "")
	live.report()
	live.awaitSaved()

	try := func(frame, want string) (spent time.Duration) {
		t.Helper()
		before := h.cpu()
		for i := range 200 {
			b := h.connect([]string{"127.0.0.1", "127.0.0.2"}[i%2])
			b.text(frame)
			if got, _, err := b.read(); err != nil || got != want {
				t.Fatalf("try %d was answered with %q, %v", i, got, err)
			}
			if closed := b.closing(); closed != "1000" {
				t.Fatalf("try %d was closed with %q", i, closed)
			}
		}
		return h.cpu() - before
	}
	unasked := try(`{"type":"telemetry"}`, `{"error": "auth_required"}`)
	spent := try(`{"type":"auth","name":"esp01","password":"wrong"}`, refused)
	t.Logf("200 tries cost %v of the hub's processor time, as many connections without one %v", spent, unasked)
	if spent > 5*unasked+500*time.Millisecond {
		t.Errorf("200 tries cost the hub %v of processor time, as many connections without one %v", spent, unasked)
	}

	live.report()
	live.awaitSaved()
	h.send("esp01", "servo1", "90", nil)
	if f := live.frame(); f.Command != "servo1" {
		t.Errorf("the device got %s instead of its command", f.raw)
	}
	if d := h.device("esp01"); d.Presence != "online" {
		t.Errorf("the device is %s", d.Presence)
	}

	// The board restarts: its address is known, so it is not refused as one that has to wait.
	again, _ := h.login2("esp01", "")
	again.report()
	again.awaitSaved()
}

// cpu is the processor time of the hub so far (proc(5), fields 14 and 15 of stat).
func (h *hub) cpu() time.Duration {
	h.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.cmd.Process.Pid))
	must(h.t, err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		must(h.t, err)
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

// TestNewestWins connects a device a second time: the older connection ends at once and
// commands go to the newer one.
func TestNewestWins(t *testing.T) {
	t.Parallel()
	h := startHub(t, dataDir(t, ""))
	h.add("esp01", "esp02")

	old := h.login1("esp01")
	fresh := h.connect("127.0.0.2")
	fresh.text(`{"type":"auth","name":"esp01","password":"` + secretOf("esp01") + `"}`)
	if closed := old.closing(); closed != "1008 replaced" {
		t.Errorf("version 1: the older connection was closed with %q", closed)
	}
	h.send("esp01", "servo1", "90", nil)
	if got := fresh.frame().raw; got != `{"command": "servo1", "value": "90"}` {
		t.Errorf("version 1: the newer connection got %s", got)
	}
	if d := h.device("esp01"); d.Presence != "online" || d.Address != "127.0.0.2" {
		t.Errorf("version 1: the device is now %+v", d)
	}

	old, _ = h.login2("esp02", "")
	fresh, _ = h.login2("esp02", "")
	if closed := old.closing(); closed != "1008 replaced" {
		t.Errorf("version 2: the older connection was closed with %q", closed)
	}
	c := h.send("esp02", "servo1", "90", nil)
	if f := fresh.frame(); f.ID != c.ID {
		t.Errorf("version 2: the newer connection got %s", f.raw)
	}
	fresh.report()
	fresh.awaitSaved()
}

// TestHalfOpen has a device that is there but never reads or answers a ping, as one whose
// power was cut. It is found within the ping budget; one that answers stays.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	const interval, misses = 2 * time.Second, 5 // time enough for the one that answers
	dir := dataDir(t, fmt.Sprintf("devices:\n  ping_misses: %d\n", misses))
	h := startAs(t, dir, command(t, serveArgs(dir)...).with(pingInterval, interval.String()))
	h.add("dead", "idle")
	events := h.stream("kind=presence&device=dead")
	idle, _ := h.login2("idle", "")
	answering := make(chan struct{})
	go func() {
		defer close(answering)
		_, _, _ = idle.read() // which answers pings until the test ends
	}()
	defer func() {
		_ = idle.conn.Close()
		<-answering
	}()

	began := time.Now()
	h.login1("dead")
	awaitEvent(t, events, "the dead device is offline", func(data string) bool {
		if !strings.Contains(data, `"presence":"offline"`) {
			return false
		}
		if !strings.Contains(data, `"reason":"ping_timeout"`) {
			t.Errorf("the event is %s", data)
		}
		return true
	})
	const budget, margin = (misses + 1) * interval, patience
	took := time.Since(began)
	t.Logf("found after %v", took)
	if took > budget+margin || took < misses*interval {
		t.Errorf("the dead device was found after %v; the budget is %v", took, budget)
	}
	if d := h.device("dead"); d.Presence != "offline" || d.Status != "offline" {
		t.Errorf("the dead device is %+v", d)
	}
	if d := h.device("idle"); d.Presence != "online" {
		t.Errorf("a device that answers pings is %s", d.Presence)
	}
}
