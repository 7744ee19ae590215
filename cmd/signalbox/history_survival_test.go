package main_test

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	_ "modernc.org/sqlite" // looks into the database of a stopped hub
)

// TestKillHistory kills the history engine while it seals, merges, drops what is old and takes an import, and while it
// migrates a database of the first release: three rounds each of what «bench survive» does. Everything is compared there.
func TestKillHistory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := command(t, "bench", "survive", "--variants", "history", "--rounds", "3", "--duration", "700ms", "--dir", dir, "--json")
	p.start()
	if code := p.wait(muchPatience); code != 0 {
		t.Fatalf("the measurement ended with code %d", code)
	}
	var report struct {
		Rows []struct {
			Name   string
			Values []struct {
				Name  string
				Value float64
			}
		}
		Goals []struct{ Met bool }
	}
	must(t, json.Unmarshal([]byte(p.stdout.String()), &report))
	if len(report.Rows) != 2 || len(report.Goals) != 1 || !report.Goals[0].Met {
		t.Fatalf("the report is %s", p.stdout.String())
	}
	for _, v := range report.Rows[0].Values {
		if (v.Name == "chunks" || v.Name == "acknowledged" || v.Name == "kept") && v.Value == 0 || v.Name == "rounds" && v.Value != 3 {
			t.Errorf("%s is %v", v.Name, v.Value)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%d directories are left behind, %v", len(left), err)
	}
}

// TestKillSealing kills a hub that makes chunks, three times, and finds all that was acknowledged, once.
func TestKillSealing(t *testing.T) {
	t.Parallel()
	const devices, rounds = 3, 3
	dir := dataDir(t, "devices:\n  messages_per_second: 100000\nhistory:\n  tail: 1MiB\n  row_bytes: 4KiB\n")
	h := startHub(t, dir)
	senders := newSenders(h, devices)
	sealed := int64(0)
	some := regexp.MustCompile(`signalbox_history_chunk_messages_total [1-9]`)
	for round := range rounds {
		runFor(t, h, senders, devices*2048, func() { // each seals once or twice
			await(t, muchPatience, "a chunk of this round is on disk", func() bool {
				_, metrics := h.open("/metrics")
				return some.MatchString(metrics)
			})
			h.kill()
		})
		if now := chunks(t, dir); now > sealed {
			sealed = now
		} else {
			t.Errorf("round %d: %d messages are in chunks, as before", round, now)
		}
		h = startHub(t, dir)
		checkAll(t, h, senders)
	}
}

// openDatabase opens the database of a hub, which may be running.
func openDatabase(t *testing.T, dir string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "signalbox.db"))
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// chunks is how many messages are in chunks.
func chunks(t *testing.T, dir string) (n int64) {
	t.Helper()
	must(t, openDatabase(t, dir).QueryRowContext(t.Context(), `SELECT COALESCE(SUM(n), 0) FROM chunk WHERE device > 0`).Scan(&n))
	return n
}

// TestBrokenChunkOnDisk flips a byte of a chunk in the file: the hub starts, names the chunk in its log, and serves the
// rest.
func TestBrokenChunkOnDisk(t *testing.T) {
	t.Parallel()
	const last = 3500
	dir := dataDir(t, "devices:\n  messages_per_second: 100000\nhistory:\n  tail: 1MiB\n")
	h := startHub(t, dir)
	senders := []*sender{{name: "esp01"}, {name: "esp02"}}
	h.add("esp01", "esp02")
	runAll(t, h, senders, last, func(uint64) {}, func() {})
	h.history("esp01") // waits for the sealer
	h.stop()

	db := openDatabase(t, dir)
	var id, device, n, base int64
	var body []byte
	must(t, db.QueryRowContext(t.Context(), `SELECT id, device, n, base, body FROM chunk WHERE device > 0 AND base > 0 ORDER BY id LIMIT 1`).Scan(&id, &device, &n, &base, &body))
	var name string
	must(t, db.QueryRowContext(t.Context(), `SELECT name FROM device WHERE id = ?`, device).Scan(&name))
	must(t, db.Close())
	flip(t, filepath.Join(dir, "signalbox.db"), body)

	h = startHub(t, dir)
	for _, s := range senders {
		objects := h.history(s.name)
		missing := 0
		if s.name == name {
			missing = int(n)
		}
		if len(objects) != last-missing {
			t.Errorf("%s has %d messages, want %d", s.name, len(objects), last-missing)
		}
		seq := uint64(0)
		for _, object := range objects {
			if seq++; s.name == name && seq == uint64(base)+1 {
				seq += uint64(n)
			}
			if want := reading(s.name, seq); object != want {
				t.Fatalf("%s has\n%s\nand should have\n%s", s.name, object, want)
			}
		}
	}
	await(t, patience, fmt.Sprintf("the log names chunk %d", id), func() bool {
		text := h.stderr.String()
		return strings.Contains(text, "chunk of history is broken") && strings.Contains(text, fmt.Sprintf("chunk=%d ", id))
	})
	if status, body := h.open("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d %s", status, body)
	}
}

// flip changes one bit of a blob in a file.
func flip(t *testing.T, path string, blob []byte) {
	t.Helper()
	const sample = 48 // a blob may be in pieces: one of its parts is whole
	file, err := os.ReadFile(path)
	must(t, err)
	for from := len(blob) / 2; from+sample <= len(blob); from += sample {
		at := bytes.Index(file, blob[from:from+sample])
		if at < 0 {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte{file[at] ^ 0x20}, int64(at))
		must(t, err)
		must(t, f.Close())
		return
	}
	t.Fatal("the chunk is not found in the file")
}

// TestFullDiskSealing lets history itself fill the disk, while chunks are made: the hub refuses loudly, acknowledges
// nothing that it cannot keep, and goes on when there is room.
func TestFullDiskSealing(t *testing.T) {
	t.Parallel()
	disk, dir := smallDisk(t, "  tail: 1MiB\n")
	if disk == "" {
		return // it ran in a namespace of its own
	}
	h := startHub(t, dir)
	h.add("esp01")
	s := &fullDiskSender{name: "esp01"}
	b, _ := h.login2(s.name, "first")
	running := s.begin(b)
	h.awaitReady("the disk is full", http.StatusServiceUnavailable, "full")
	await(t, muchPatience, "the device is told", s.told.Load)
	if s.saved.Load() == 0 {
		t.Error("nothing was acknowledged before the disk was full")
	}
	s.enough.Store(true)
	must(t, syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", 16*diskSize)))
	must(t, <-running)
	h.awaitReady("all is well again", http.StatusOK, "")
	for range 2 {
		s.check(h)
		h.kill()
		if chunks(t, dir) == 0 {
			t.Error("nothing was sealed")
		}
		h = startHub(t, dir)
	}
}

// TestSecondHub starts a hub on a data directory that has one: it ends with a sentence, and the first goes on.
func TestSecondHub(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "")
	h := startHub(t, dir)
	h.add("esp01")
	witness, _ := h.login2("esp01", "")
	_, stderr, code := run(t, "", serveArgs(dir)...)
	if code == 0 || !strings.Contains(stderr, dir) || !strings.Contains(stderr, "another") || strings.Count(strings.TrimSpace(stderr), "\n") > 1 {
		t.Errorf("a second hub ended with code %d and said: %s", code, stderr)
	}
	h.alive(witness)
}
