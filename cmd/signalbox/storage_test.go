package main_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// diskSize is the size of the disk that gets full, in bytes.
const diskSize = 24 << 20

// TestFullDisk lets the disk get full under telemetry. The hub refuses loudly, loses
// nothing it has acknowledged, and goes on by itself when there is room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk, dir := smallDisk(t, "")
	if disk == "" {
		return // it ran in a namespace of its own
	}
	h := startHub(t, dir)
	h.add("esp01", "live")
	live, _ := h.login2("live", "")
	h.alive(live)
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)

	s := &fullDiskSender{name: "esp01"}
	board, _ := h.login2(s.name, "first")
	running := s.begin(board)
	h.awaitReady("the disk is full", http.StatusServiceUnavailable, "full")
	if status, body := h.open("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d %s", status, body)
	}
	for path, body := range map[string]any{
		"/devices":               map[string]any{"name": "esp02"},
		"/devices/live/commands": map[string]any{"command": "go", "ttl": "1h"},
		"/tokens":                map[string]any{"name": "program", "scope": "read"},
	} {
		status, answer, err := h.try(http.MethodPost, path, body)
		must(t, err)
		if status != http.StatusServiceUnavailable || !strings.Contains(string(answer), `"code":`) {
			t.Errorf("with a full disk POST %s is answered with %d: %s", path, status, answer)
		}
	}
	if status, answer, err := h.try(http.MethodGet, "/devices/esp01/telemetry?limit=10", nil); err != nil || status != http.StatusOK {
		t.Errorf("with a full disk the history is answered with %d %s, %v", status, answer, err)
	}
	await(t, muchPatience, "the device is told", s.told.Load)
	// What had been acknowledged before may be under way still; then there is nothing any more.
	quiet, saved := 0, s.saved.Load()
	await(t, patience, "with a full disk nothing is acknowledged", func() bool {
		if now := s.saved.Load(); now != saved {
			quiet, saved = 0, now
		}
		quiet++
		return quiet > 100
	})

	must(t, os.Remove(ballast))
	h.awaitReady("all is well again", http.StatusOK, "")
	s.enough.Store(true)
	must(t, <-running)
	h.alive(live)
	h.add("esp02")
	h.send("live", "after", "", nil)
	for f := live.frame(); f.Command != "after"; f = live.frame() {
		if f.Type == "command" {
			t.Errorf("the device got a command that had been refused: %s", f.raw)
		}
	}
	s.check(h)
	h.kill()
	h = startHub(t, dir)
	s.check(h)
}

// check says that all that was sent is there, once.
func (s *fullDiskSender) check(h *hub) {
	h.t.Helper()
	objects := h.history(s.name)
	for i, object := range objects {
		if want := bulky(uint64(i) + 1); object != want {
			h.t.Fatalf("message %d of %d is %.100s and should be %.100s", i+1, len(objects), object, want)
		}
	}
	if n := uint64(len(objects)); n != s.sent.Load() {
		h.t.Fatalf("%d messages are stored; %d were sent and acknowledged", n, s.sent.Load())
	}
}

// bulky is the n-th message of TestFullDisk: it does not compress well.
func bulky(seq uint64) string {
	var words strings.Builder
	x := seq
	for range 60 {
		x = x*6364136223846793005 + 1442695040888963407
		fmt.Fprintf(&words, "%016x", x^x>>33)
	}
	return fmt.Sprintf(`{"type":"telemetry","seq":%d,"words":"%s"}`, seq, words.String())
}

// fullDiskSender sends bulky messages until enough, and notes what the hub says.
type fullDiskSender struct {
	name         string
	saved, sent  atomic.Uint64
	told, enough atomic.Bool
}

// begin sends until enough; the channel tells when all is acknowledged, or what failed.
func (s *fullDiskSender) begin(b *board) <-chan error {
	done := make(chan error, 1)
	finished := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		defer close(finished)
		for seq := uint64(1); !s.enough.Load(); seq++ {
			if b.write(1, []byte(bulky(seq))) != nil {
				return
			}
			s.sent.Store(seq)
		}
	})
	go func() {
		err := s.listen(b, finished)
		_ = b.conn.Close()
		writing.Wait()
		done <- err
	}()
	return done
}

func (s *fullDiskSender) listen(b *board, finished <-chan struct{}) error {
	for {
		select {
		case <-finished:
			if s.saved.Load() == s.sent.Load() {
				return nil
			}
		default:
		}
		payload, closed, err := b.read()
		if err != nil || closed != "" {
			return fmt.Errorf("the connection ended with %q after %d of %d messages: %w", closed, s.saved.Load(), s.sent.Load(), errors.Join(err, errors.New("that was too early")))
		}
		var seq uint64
		if _, err := fmt.Sscanf(payload, `{"type":"saved","seq":%d}`, &seq); err == nil {
			s.saved.Store(seq)
		} else if strings.Contains(payload, `"storage_unavailable"`) {
			s.told.Store(true)
		} else if !strings.Contains(payload, `"rate_limited"`) {
			return fmt.Errorf("the hub sent %s", payload)
		}
	}
}

// smallDisk makes a data directory on a tinyDisk, with more of history's configuration.
func smallDisk(t *testing.T, history string) (disk, dir string) {
	t.Helper()
	if disk = tinyDisk(t); disk == "" {
		return "", ""
	}
	dir = filepath.Join(disk, "data")
	must(t, os.Mkdir(dir, 0o700))
	writeConfig(t, dir, "devices:\n  messages_per_second: 100000\n  burst: 50000\nhistory:\n  max_pending: 1MiB\n"+history)
	return disk, dir
}

// tinyDisk mounts a small disk for this test. Who may not mount gets a namespace in which
// the test runs once more; then disk is empty and the result has been taken over.
func tinyDisk(t *testing.T) (disk string) {
	t.Helper()
	disk = t.TempDir()
	err := syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", diskSize))
	if err == nil {
		t.Cleanup(func() {
			if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", disk, err)
			}
		})
		return disk
	}
	const again = "SIGNALBOX_TEST_NAMESPACE"
	if os.Getenv(again) != "" {
		t.Fatalf("a full disk needs a tmpfs, which may not be mounted even in a namespace of its own (%v); run the tests as root", err)
	}
	path, buildErr := program()
	must(t, buildErr)
	cmd := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--mount", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), again+"=1", binaryVariable+"="+path)
	out, runErr := cmd.CombinedOutput()
	if runErr != nil {
		t.Fatalf("a full disk needs a tmpfs, which may not be mounted (%v); in a namespace of its own the test ended with %v:\n%s", err, runErr, out)
	}
	t.Logf("ran in a namespace of its own:\n%s", out)
	return ""
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	block := make([]byte, 64<<10)
	_, _ = rand.Read(block) // never fails
	for {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
