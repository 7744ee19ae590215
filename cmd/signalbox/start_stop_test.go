package main_test

import (
	"database/sql"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite" // to make a database of a newer version
)

// TestCannotStart says that what keeps a hub from starting is told in one sentence.
func TestCannotStart(t *testing.T) {
	h := startHub(t, dataDir(t, ""))
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	newer := dataDir(t, "")
	makeNewer(t, newer)
	broken := dataDir(t, "")
	must(t, os.WriteFile(filepath.Join(broken, "signalbox.db"), []byte(strings.Repeat("this is no database\n", 1000)), 0o600))
	tests := []struct {
		name string
		args []string
		want string // part of the sentence
	}{
		{"the HTTP port is taken", []string{"--data", dataDir(t, ""), "--http", h.addresses.HTTP, "--devices", "127.0.0.1:0"}, h.addresses.HTTP},
		{"the device port is taken", []string{"--data", dataDir(t, ""), "--http", "127.0.0.1:0", "--devices", h.addresses.Devices}, h.addresses.Devices},
		{"the directory is taken", []string{"--data", h.dir, "--http", "127.0.0.1:0", "--devices", "127.0.0.1:0"}, h.dir},
		{"the directory is below a file", []string{"--data", filepath.Join(file, "data")}, file},
		{"the directory is a file", []string{"--data", file}, file},
		{"the directory is in /proc", []string{"--data", "/proc/signalbox"}, "/proc/signalbox"},
		{"the directory cannot be written", []string{"--data", "/proc/self"}, "/proc/self"},
		{"the database is newer", []string{"--data", newer, "--http", "127.0.0.1:0", "--devices", "127.0.0.1:0"}, "newer"},
		{"the database is none", []string{"--data", broken, "--http", "127.0.0.1:0", "--devices", "127.0.0.1:0"}, "database"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			stdout, stderr, code := run(t, "", append([]string{"serve", "--mqtt", "off"}, test.args...)...)
			t.Log(stderr)
			if code != 1 {
				t.Errorf("the exit code is %d", code)
			}
			if stdout != "" {
				t.Errorf("standard output is %q", stdout)
			}
			if !strings.HasPrefix(stderr, "signalbox: ") || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, test.want) {
				t.Errorf("standard error is %q; it should be one sentence with %q", stderr, test.want)
			}
		})
	}
	if status, _ := h.open("/healthz"); status != http.StatusOK {
		t.Error("the hub that runs has suffered")
	}
}

// TestSecondSignal stops a hub that waits for a request under way; the second signal ends
// it at once.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "")
	h := startAs(t, dir, command(t, serveArgs(dir)...).with(shutdownTimeout, "10m"))
	h.add("esp01")
	b, _ := h.login2("esp01", "")
	h.alive(b)
	conn := h.half("POST /api/v1/devices HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	defer conn.Close()
	h.signal(syscall.SIGTERM)
	if closed := b.closing(); !strings.HasPrefix(closed, "1001") {
		t.Errorf("the device was told %q", closed)
	}
	select {
	case <-h.ended:
		t.Fatal("the hub did not wait for the request under way")
	default:
	}
	// A signal in the very moment in which the first one is taken in may be lost.
	await(t, 2*patience, "the hub has ended after another signal", func() bool {
		_ = h.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-h.ended:
			return true
		default:
			return false
		}
	})
	h = startHub(t, dir)
	if got := h.history("esp01"); len(got) != 1 {
		t.Errorf("%d messages are kept instead of 1", len(got))
	}
}

// TestSlowRequest stops a hub while a request never ends: the request is cut when its time is
// over, and the stop is in order all the same.
func TestSlowRequest(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "")
	h := startAs(t, dir, command(t, serveArgs(dir)...).with(shutdownTimeout, "4s"))
	conn := h.half("POST /api/v1/devices HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	defer conn.Close()
	h.signal(syscall.SIGTERM)
	if code := h.wait(4 * patience); code != 0 { // the server's own limit for a request is 5 minutes
		t.Errorf("the hub ended with code %d", code)
	}
	h.says("some requests had to be cut", 1)
	h.says("msg=stopped clean=true", 1)
}

// half begins a request that is never finished, and returns when the hub has begun to
// serve it.
func (h *hub) half(request string) net.Conn {
	h.t.Helper()
	conn, err := dialSocket(h.t.Context(), h.dir)
	must(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	must(h.t, conn.SetDeadline(time.Now().Add(patience)))
	// "Expect" has the hub say that it reads the body.
	_, err = io.WriteString(conn, strings.Replace(request, "\r\n", "\r\nExpect: 100-continue\r\n", 1))
	must(h.t, err)
	answer := make([]byte, len("HTTP/1.1 100 Continue"))
	_, err = io.ReadFull(conn, answer)
	must(h.t, err)
	if string(answer) != "HTTP/1.1 100 Continue" {
		h.t.Fatalf("a request begun was answered with %s", answer)
	}
	return conn
}

// makeNewer lets a hub make its database and then marks it as one of a later version.
func makeNewer(t *testing.T, dir string) {
	t.Helper()
	if _, stderr, code := run(t, "", "device", "add", "esp01", "--data", dir); code != 0 {
		t.Fatalf("the device could not be added: %s", stderr)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "signalbox.db"))
	must(t, err)
	_, err = db.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9000, 1)")
	must(t, err)
	must(t, db.Close())
}
