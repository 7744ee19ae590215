package main_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// watched is a line of «watch --json».
type watched struct {
	Kind, Cursor, Device, After, Until, Reason string
	Position                                   uint64
	Missed                                     int64
	Object                                     json.RawMessage
}

// lines reads what a process has written, line by line; the last, which may be a part, is left out.
func (p *process) lines(t *testing.T) (list []watched) {
	t.Helper()
	text := p.stdout.String()
	for line := range strings.Lines(text[:strings.LastIndexByte(text, '\n')+1]) {
		var w watched
		must(t, json.Unmarshal([]byte(line), &w))
		list = append(list, w)
	}
	return list
}

// stored gives what the hub's history has of the devices, by place in the log.
func (h *hub) stored(devices []*sender) map[uint64]string {
	h.t.Helper()
	all := map[uint64]string{}
	for _, s := range devices {
		for cursor := ""; ; {
			var page struct {
				Items []struct {
					Position uint64
					Object   json.RawMessage
				}
				Next string
			}
			h.call(http.MethodGet, "/devices/"+s.name+"/telemetry?order=asc&limit=5000&cursor="+cursor, nil, &page)
			for _, i := range page.Items {
				all[i.Position] = s.name + string(i.Object)
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
	}
	return all
}

// TestWatchOverKills has devices that send as fast as they may, a watch, and hubs that are killed
// in the middle and started again: the watch shows each message that is in history exactly once, in
// order; what it has shown besides, it said was lost.
func TestWatchOverKills(t *testing.T) {
	t.Parallel()
	const devices, rounds = 3, 3
	dir := dataDir(t, "devices:\n  messages_per_second: 100000\nlive:\n  queue: 256MiB\n")
	h := startHub(t, dir)
	senders := newSenders(h, devices)
	watch := command(t, "watch", "--data", dir, "--json", "--kind", "telemetry", "--state")
	watch.start()
	await(t, muchPatience, "the watch has begun", func() bool { return strings.Contains(watch.stdout.String(), `"kind":"ready"`) })
	for round := range rounds {
		runFor(t, h, senders, 300+rand.Int64N(1500), h.kill)
		h = startHub(t, dir)
		checkAll(t, h, senders)
		await(t, muchPatience, "the watch goes on", func() bool { return strings.Count(watch.stderr.String(), "The hub is back; going on.\n") == round+1 })
	}
	last := uint64(0)
	for _, s := range senders {
		last = max(last, s.sent.Load()) + 10
	}
	runAll(t, h, senders, last, func(uint64) {}, func() {})

	stored := h.stored(senders)
	end := slices.Max(keysOf(stored))
	await(t, muchPatience, "the watch has shown all", func() bool {
		list := watch.lines(t)
		return len(list) > 0 && slices.IndexFunc(list, func(w watched) bool { return w.Position == end && w.Device+string(w.Object) == stored[end] }) >= 0
	})
	shown, at, lost := map[uint64]string{}, uint64(0), 0
	for _, w := range watch.lines(t) {
		switch w.Kind {
		case "telemetry":
			if w.Position <= at {
				t.Fatalf("position %d came behind %d", w.Position, at)
			}
			at = w.Position
			if !strings.HasSuffix(w.Cursor, fmt.Sprint("-", at)) {
				t.Fatalf("the cursor of position %d is %s", at, w.Cursor)
			}
			shown[at] = w.Device + string(w.Object)
		case "lagged":
			if w.Reason != "lost" {
				t.Fatalf("something is missing: %+v", w)
			}
			_, err := fmt.Sscanf(w.Until[strings.IndexByte(w.Until, '-'):], "-%d", &at)
			must(t, err)
			for p := range shown {
				if p > at {
					delete(shown, p)
					lost++
				}
			}
		}
	}
	t.Logf("%d messages are stored, %d were shown and lost", len(stored), lost)
	for p, want := range stored {
		if shown[p] != want {
			t.Fatalf("at position %d the watch showed %q, stored is %q", p, shown[p], want)
		}
	}
	if len(shown) != len(stored) {
		t.Errorf("%d messages were shown, %d are stored", len(shown), len(stored))
	}
	watch.says("The hub went away; waiting for it.\n", rounds)
	watch.says("The hub is back; going on.\n", rounds)
}

func keysOf(m map[uint64]string) (keys []uint64) {
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// TestWatchTellsOfLost puts an older copy of the database in the place of a killed hub's: the watch
// says in words that what it had shown is lost, and goes on with what is there.
func TestWatchTellsOfLost(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "")
	h := startHub(t, dir)
	h.add("esp01")
	watch := command(t, "watch", "--data", dir, "--kind", "telemetry", "--fields", "n")
	b, _ := h.login2("esp01", "first")
	b.report()
	b.awaitSaved()
	copied := filepath.Join(t.TempDir(), "copied.db")
	db := openDatabase(t, dir)
	_, err := db.ExecContext(t.Context(), "VACUUM INTO ?", copied) // whole, whatever the hub does meanwhile
	must(t, err)
	must(t, db.Close())
	watch.start()
	shows := func(what string) {
		t.Helper()
		await(t, patience, "the watch shows "+what, func() bool { return strings.Contains(watch.stdout.String(), what) })
	}
	await(t, muchPatience, "the watch shows something", func() bool { // it may have begun after the first
		b.report()
		b.awaitSaved()
		return strings.Contains(watch.stdout.String(), "n=")
	})
	b.report()
	b.awaitSaved()
	shows(fmt.Sprintf("n=%d\n", b.seq))
	h.kill()
	must(t, os.RemoveAll(filepath.Join(dir, "signalbox.db-shm")))
	must(t, os.RemoveAll(filepath.Join(dir, "signalbox.db-wal")))
	body, err := os.ReadFile(copied)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "signalbox.db"), body, 0o600))
	h = startHub(t, dir)
	b, _ = h.login2("esp01", "second")
	b.text(`{"type":"telemetry","seq":1,"n":"after"}`)
	shows("n=after\n")
	for _, want := range []string{"The hub went away; waiting for it.\n", "The hub is back; going on.\n", "Events are lost that may have been shown: "} {
		watch.says(want, 1)
	}
}

// TestWatchFrom goes on behind a cursor, with chosen fields, and refuses one that is none.
func TestWatchFrom(t *testing.T) {
	t.Parallel()
	h := startHub(t, dataDir(t, ""))
	h.add("esp01")
	b, _ := h.login2("esp01", "first")
	for range 5 {
		b.report()
	}
	b.awaitSaved()
	watch := func(args ...string) (list []watched, stderr string, code int) {
		t.Helper()
		p := command(t, append([]string{"watch", "--data", h.dir, "--json"}, args...)...)
		p.quiet = true
		p.start()
		code = p.wait(muchPatience)
		return p.lines(t), p.stderr.String(), code
	}
	past := command(t, "watch", "--data", h.dir, "--state", "--json")
	past.start()
	await(t, patience, "the state is shown", func() bool { return len(past.lines(t)) == 2 })
	if list := past.lines(t); list[0].Kind != "state" || list[1].Kind != "ready" {
		t.Errorf("the state is %+v", list)
	}
	now := past.lines(t)[1].Cursor
	before := now[:strings.IndexByte(now, '-')] + "-0"
	list, _, code := watch("--after", before, "--kind", "telemetry", "--fields", "n", "--count", "5")
	if code != 0 || len(list) != 5 || string(list[4].Object) != `{"n":5}` {
		t.Errorf("behind the cursor came %+v, code %d", list, code)
	}
	list, _, code = watch("--after", list[2].Cursor, "--kind", "telemetry", "--count", "2")
	if code != 0 || len(list) != 2 || !strings.Contains(string(list[0].Object), `"n":4`) {
		t.Errorf("behind the third came %+v, code %d", list, code)
	}
	if _, said, code := watch("--after", "nonsense"); code != 2 || !strings.Contains(said, "nonsense") {
		t.Errorf("code %d: %s", code, said)
	}
	if _, said, code := watch("--every", "1ms"); code != 2 || !strings.Contains(said, "100ms to 1h") {
		t.Errorf("code %d: %s", code, said)
	}
	h.kill()
}

// TestStreamPython has viewers written with Debian's python3-websockets: one takes what it is sent,
// is revoked, or told that the hub stops; another reads nothing, and a third sends too much.
func TestStreamPython(t *testing.T) {
	t.Parallel()
	h := startHub(t, dataDir(t, ""))
	h.add("esp01")
	var token struct{ Secret string }
	h.call(http.MethodPost, "/tokens", map[string]any{"name": "viewer", "scope": "read"}, &token)
	b, _ := h.login2("esp01", "first")
	viewer := child(t, python, "testdata/stream_viewer.py", "ws://"+h.addresses.HTTP+"/api/v1/stream?kind=telemetry&kind=command", token.Secret)
	viewer.start()
	await(t, patience, "the viewer is ready", func() bool { return strings.Contains(viewer.stdout.String(), "ready") })
	flood := child(t, python, "testdata/stream_viewer.py", "ws://"+h.addresses.HTTP+"/api/v1/stream", token.Secret, "flood")
	flood.start()
	if code := flood.wait(patience); code != 0 || !strings.Contains(flood.stdout.String(), "closed 1008 a viewer may send 20 frames a second") {
		t.Errorf("the flood ended with code %d: %s", code, flood.stdout.String())
	}
	for range 3 {
		b.report()
	}
	b.awaitSaved()
	h.send("esp01", "servo1", "90", nil)
	await(t, patience, "the viewer has seen it", func() bool { return strings.Count(viewer.stdout.String(), "command") == 1 })
	h.stop()
	if code := viewer.wait(patience); code != 0 {
		t.Errorf("the viewer ended with code %d", code)
	}
	golden(t, "testdata/stream_viewer.golden", viewer.stdout.String())
}

// dialHTTP connects to the HTTP port.
func (h *hub) dialHTTP() net.Conn {
	h.t.Helper()
	d := net.Dialer{Timeout: patience}
	conn, err := d.DialContext(h.t.Context(), "tcp", h.addresses.HTTP)
	must(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestStreamStops: a hub with viewers that take nothing, on both transports, stops in time.
func TestStreamStops(t *testing.T) {
	t.Parallel()
	h := startHub(t, dataDir(t, ""))
	var token struct{ Secret string }
	h.call(http.MethodPost, "/tokens", map[string]any{"name": "viewer", "scope": "read"}, &token)
	h.add("esp01")
	b, _ := h.login2("esp01", "first")
	for _, upgrade := range []string{"", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"} {
		conn := h.dialHTTP()
		_, err := fmt.Fprintf(conn, "GET /api/v1/stream HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer %s\r\n%s\r\n", token.Secret, upgrade)
		must(t, err)
	}
	await(t, patience, "both watch", func() bool {
		_, metrics := h.open("/metrics")
		return strings.Contains(metrics, "\nsignalbox_live_viewers 2\n")
	})
	long := strings.Repeat("x", 60<<10)
	for range 200 { // more than the system takes for them
		b.seq++
		b.text(fmt.Sprintf(`{"type":"telemetry","seq":%d,"text":%q}`, b.seq, long))
	}
	b.awaitSaved()
	began := time.Now()
	h.stop()
	t.Logf("it stopped within %v", time.Since(began))
	if text := h.stderr.String(); strings.Contains(text, "had to be cut") {
		t.Errorf("it did not stop in order: %s", tail(text))
	}
}
