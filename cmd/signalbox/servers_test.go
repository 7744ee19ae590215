package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox/internal/store/storetest"
)

// eachServer runs test for each kind of database server.
func eachServer(t *testing.T, test func(t *testing.T, kind storetest.Kind)) {
	t.Helper()
	t.Parallel()
	for _, kind := range storetest.Servers() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			test(t, kind)
		})
	}
}

// onServer is the configuration of a hub whose database is at url.
func onServer(url string) string {
	return fmt.Sprintf("store: %q\ndevices:\n  messages_per_second: 100000\n", url)
}

// TestOnServer takes a hub through its life with a database on a server: telemetry, a command,
// questions, export and import, backup, restore into the embedded database and back.
func TestOnServer(t *testing.T) { eachServer(t, testOnServer) }

func testOnServer(t *testing.T, kind storetest.Kind) {
	t.Helper()
	const devices, each = 3, 2500
	db := storetest.New(t, kind)
	dir := dataDir(t, "devices:\n  messages_per_second: 100000\n")
	h := startAs(t, dir, command(t, append(serveArgs(dir), "--store", db.URL())...))
	senders := newSenders(h, devices)
	runAll(t, h, senders, each, func(uint64) {}, func() {})
	b, _ := h.login2("esp00", "second")
	c := h.send("esp00", "servo1", "90", nil)
	b.text(fmt.Sprintf(`{"type":"result","id":%q,"ok":true,"value":90}`, b.frame().ID))
	await(t, patience, "the command has succeeded", func() bool { return h.command(c.ID).State == "succeeded" })
	questions(t, h, each)
	h.stop()
	if text := h.stderr.String(); strings.Contains(text, "s3cret") {
		t.Error("the log tells the password")
	}
	if _, err := os.Stat(filepath.Join(dir, "signalbox.db")); err == nil {
		t.Error("there is an embedded database too")
	}

	writeConfig(t, dir, onServer(db.URL())) // from now on the commands find it too
	h = startHub(t, dir)
	all := exported(t, dir)
	if len(all) != devices*each {
		t.Fatalf("%d messages were exported, want %d", len(all), devices*each)
	}
	tmp := t.TempDir()
	file, first, second := filepath.Join(tmp, "all.parquet"), filepath.Join(tmp, "first.backup"), filepath.Join(tmp, "second.backup")
	done(t, "", "export", file, "--data", dir)
	var report importReport
	decode(t, done(t, "", "import", file, "--json", "--data", dir), &report)
	if report.Already != devices*each || report.Added+report.Refused != 0 {
		t.Errorf("imported again: %+v", report)
	}
	embedded := dataDir(t, "")
	decode(t, done(t, "", "import", file, "--create", "--type", "box", "--json", "--data", embedded), &report)
	if report.Added != devices*each || !slices.Equal(exported(t, embedded), all) {
		t.Errorf("imported into an embedded database: %+v", report)
	}

	restored, back := filepath.Join(t.TempDir(), "data"), dataDir(t, onServer(storetest.New(t, kind).URL()))
	done(t, "", "backup", first, "--with-key", "--data", dir)
	done(t, "", "restore", first, "--data", restored)
	if !slices.Equal(exported(t, restored), all) {
		t.Error("the embedded database does not have what was restored")
	}
	done(t, "", "backup", second, "--with-key", "--data", restored)
	done(t, "", "restore", second, "--data", back)
	h.stop()
	h = startHub(t, back)
	checkAll(t, h, senders)
	if state := h.command(c.ID).State; state != "succeeded" {
		t.Errorf("after backup and restore the command is %s", state)
	}
	b, _ = h.login2("esp01", "third") // its secret is known by the key file
	h.alive(b)
	h.stop()
}

// questions asks history in each way, after each device has sent n messages.
func questions(t *testing.T, h *hub, n int) {
	t.Helper()
	checkHistory(t, h, "esp01") // by pages
	type page struct {
		Items []struct {
			Time   string
			Object json.RawMessage
		}
		Series []struct {
			Buckets []struct {
				Count    int
				Min, Max float64
			}
		}
	}
	ask := func(query string) (p page) {
		t.Helper()
		h.call(http.MethodGet, "/devices/esp01/telemetry?"+query, nil, &p)
		return p
	}
	want := func(what string, p page, number int) {
		t.Helper()
		if len(p.Items) == 0 || string(p.Items[0].Object) != reading("esp01", uint64(number)) {
			t.Errorf("%s is %+v, want message %d", what, p, number)
		}
	}
	last := ask("limit=20")
	want("the latest", last, n)
	want("row 1000", ask("row=1000&limit=1"), 1001)
	asOf := ask("at=" + last.Items[0].Time)
	if len(asOf.Items) != 1 {
		t.Errorf("as of %s there is %+v", last.Items[0].Time, asOf)
	}
	count, buckets := 0, ask("buckets=7&fields=temp")
	for _, s := range buckets.Series {
		for _, b := range s.Buckets {
			count += b.Count
			if b.Min < 0 || b.Max > 40 {
				t.Errorf("a bucket is %+v", b)
			}
		}
	}
	if count != n {
		t.Errorf("the buckets have %d messages, want %d", count, n)
	}
	status, answer, err := h.try(http.MethodGet, "/telemetry?device=esp01&device=esp02", nil)
	if lines := strings.Count(string(answer), "\n"); err != nil || status != http.StatusOK || lines != 2*n {
		t.Errorf("two devices in order of time: %d, %d lines, %v", status, lines, err)
	}
	if status, answer, err := h.try(http.MethodGet, "/devices/esp01/telemetry?limit=1&fields=nothing", nil); err != nil || status != http.StatusBadRequest {
		t.Errorf("an unknown field: %d %s, %v", status, answer, err)
	}
}

// TestServerLost kills the database server under telemetry, then the hub, makes the server
// slow and lets it stand still: /readyz tells, and all that was acknowledged is there.
func TestServerLost(t *testing.T) { eachServer(t, testServerLost) }

func testServerLost(t *testing.T, kind storetest.Kind) {
	t.Helper()
	server := storetest.Start(t, kind)
	db := server.NewDatabase(t)
	p := storetest.NewProxy(t, db)
	dir := dataDir(t, onServer(db.URLAt(p)))
	h := startHub(t, dir)
	senders := newSenders(h, 2)
	more := func(what string, n uint64) {
		t.Helper()
		before := senders[0].saved.Load()
		await(t, muchPatience, "more is acknowledged "+what, func() bool { return senders[0].saved.Load() >= before+n })
	}
	runFor(t, h, senders, 500, func() {
		server.Kill(t)
		h.awaitReady("the server is away", http.StatusServiceUnavailable, "the database server is away")
		more("while the server is away", 200)
		if status, answer, err := h.try(http.MethodPost, "/devices", map[string]any{"name": "late"}); err != nil || status != http.StatusServiceUnavailable {
			t.Errorf("while the server is away POST /devices is answered with %d %s, %v", status, answer, err)
		}
		if status, body := h.open("/healthz"); status != http.StatusOK {
			t.Errorf("/healthz: %d %s", status, body)
		}
		server.Start(t)
		h.awaitReady("the server is back", http.StatusOK, "")
		more("when the server is back", 200)
		server.Kill(t) // and the hub, before it is back
		more("while the server is away again", 200)
		h.kill()
	})
	server.Start(t)
	h = startHub(t, dir)
	checkAll(t, h, senders)

	p.Delay(100 * time.Millisecond)
	runFor(t, h, senders, 500, func() {
		if status, body := h.open("/readyz"); status != http.StatusOK {
			t.Errorf("with a slow server /readyz is %d %s", status, body)
		}
		h.add("slow")
		p.Delay(0)
		server.Pause(t)
		h.awaitReady("the server is slow", http.StatusOK, "degraded: the database is slow")
		server.Continue(t)
		more("when the server goes on", 200)
		h.stop()
	})
	h = startHub(t, dir)
	h.awaitReady("all is well", http.StatusOK, "are being stored")
	checkAll(t, h, senders)
	if d := h.device("slow"); d.Type != "box" {
		t.Errorf("the device that was added is %+v", d)
	}
}

// TestChangeOfUnknownEnd loses the server at the very COMMIT of a new device: what is said of
// it is true, and it can be used as soon as the server is back.
func TestChangeOfUnknownEnd(t *testing.T) { eachServer(t, testChangeOfUnknownEnd) }

func testChangeOfUnknownEnd(t *testing.T, kind storetest.Kind) {
	t.Helper()
	db := storetest.New(t, kind)
	p := storetest.NewProxy(t, db)
	h := startHub(t, dataDir(t, onServer(db.URLAt(p))))
	for i, stored := range []bool{false, true} {
		name := fmt.Sprintf("esp%02d", i)
		body := map[string]any{"name": name, "type": "box", "secret": secretOf(name)}
		p.Order(storetest.Cut{Text: "COMMIT", After: stored, Refuse: true})
		status, answer, err := h.try(http.MethodPost, "/devices", body)
		if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(string(answer), "outcome_unknown") {
			t.Fatalf("the change is answered with %d %s, %v", status, answer, err)
		}
		p.Admit()
		want := http.StatusCreated
		if stored {
			want = http.StatusConflict
		}
		if status, answer, err = h.try(http.MethodPost, "/devices", body); err != nil || status != want {
			t.Errorf("done again it is answered with %d %s, %v; want %d", status, answer, err, want)
		}
		b, _ := h.login2(name, "")
		h.alive(b)
	}
}

// TestKillMigration kills a hub three times while it makes its tables on a server, each time
// later, and starts it.
func TestKillMigration(t *testing.T) { eachServer(t, testKillMigration) }

func testKillMigration(t *testing.T, kind storetest.Kind) {
	t.Helper()
	db := storetest.New(t, kind)
	p := storetest.NewProxy(t, db)
	dir := dataDir(t, onServer(db.URLAt(p)))
	p.Delay(50 * time.Millisecond) // there is time to kill it: it asks more than 200 times
	for round := range 3 {
		until := p.Answers() + 15*(round+1)
		hub := command(t, serveArgs(dir)...)
		hub.start()
		await(t, muchPatience, "the server has been asked enough", func() bool { return p.Answers() >= until })
		must(t, hub.cmd.Process.Kill())
		hub.wait(patience)
		if _, err := os.Stat(filepath.Join(dir, "addresses.json")); err == nil {
			t.Fatalf("round %d: the tables were ready", round)
		}
	}
	p.Delay(0)
	h := startHub(t, dir)
	t.Logf("the server answered %d times in all", p.Answers())
	senders := newSenders(h, 1)
	runAll(t, h, senders, 100, func(uint64) {}, func() {})
	checkAll(t, h, senders)
	h.stop()
}
