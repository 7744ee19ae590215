package main_test

import (
	"bufio"
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFewOpenFiles runs a hub that may open few files. It serves as many devices as fit,
// refuses more, and goes on working.
func TestFewOpenFiles(t *testing.T) {
	t.Parallel()
	path, err := program()
	must(t, err)
	dir := dataDir(t, "devices:\n  handshake_timeout: 10m\n") // no connection ends by itself
	limited := []string{"-c", `ulimit -Sn 100 && ulimit -Hn 300 && exec "$0" "$@"`, path}
	h := startAs(t, dir, child(t, "/bin/sh", append(limited, serveArgs(dir)...)...))
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", h.cmd.Process.Pid))
	must(t, err)
	if !regexp.MustCompile(`(?m)^Max open files +(299|300) +300 `).Match(limits) {
		t.Errorf("the soft limit was not raised to the hard one:\n%s", limits)
	}
	h.saysLike(regexp.MustCompile(`(?m)^.*open_files=(?:299|300) device_connections=\d+.*$`), 1)
	h.add("esp01")
	b, _ := h.login2("esp01", "")
	refused := 0
	for range 600 {
		d := net.Dialer{Timeout: patience}
		conn, err := d.DialContext(t.Context(), "tcp", h.addresses.Devices)
		must(t, err)
		defer conn.Close()
		_, _ = conn.Write([]byte(upgradeRequest)) // it may have been refused already
		must(t, conn.SetDeadline(time.Now().Add(patience)))
		answer := make([]byte, len("HTTP/1.1 101"))
		if _, err := conn.Read(answer); err != nil || string(answer) != "HTTP/1.1 101" {
			refused++
		}
	}
	if refused < 400 || refused > 500 {
		t.Errorf("of 600 connections %d were refused, want those for which there are no files", refused)
	}
	h.alive(b)
	_, metrics := h.open("/metrics")
	if !strings.Contains(metrics, "signalbox_accept_errors_total 0\n") {
		t.Error("the hub ran out of files")
	}
	h.send("esp01", "go", "", nil)
	if f := b.frame(); f.Command != "go" {
		t.Errorf("instead of the command came %s", f.raw)
	}
}

// TestHTTPConnectionsOfAnAddress opens more than allowed to the port of people.
func TestHTTPConnectionsOfAnAddress(t *testing.T) {
	t.Parallel()
	h := startHub(t, dataDir(t, "http:\n  connections_per_address: 3\n"))
	var held []net.Conn
	for range 3 {
		conn := h.dialHTTP()
		_, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n")
		must(t, err)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		must(t, err)
		must(t, answer.Body.Close())
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("a connection that is allowed was answered with %d", answer.StatusCode)
		}
		held = append(held, conn)
	}
	if status, answer := h.open("/healthz"); status != http.StatusTooManyRequests || !strings.Contains(answer, "too_many_connections") {
		t.Errorf("a further one was answered with %d: %s", status, answer)
	}
	for _, conn := range held {
		must(t, conn.Close())
	}
	await(t, patience, "there is room again", func() bool {
		status, metrics := h.open("/metrics")
		if status == http.StatusOK && !regexp.MustCompile(`signalbox_http_refused_address_limit_total [1-9]`).MatchString(metrics) {
			t.Fatal("the refused connections were not counted")
		}
		return status == http.StatusOK
	})
}

// TestClockWasAhead begins with a log whose last entry was received a day ahead.
func TestClockWasAhead(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "")
	h := startHub(t, dir)
	h.add("esp01")
	b, _ := h.login2("esp01", "")
	h.alive(b)
	h.stop()
	db, err := sql.Open("sqlite", filepath.Join(dir, "signalbox.db"))
	must(t, err)
	_, err = db.ExecContext(t.Context(), "UPDATE intake SET received_last_us = received_last_us + 86400000000")
	must(t, err)
	must(t, db.Close())
	h = startHub(t, dir)
	if status, body := h.open("/readyz"); status != http.StatusOK || !strings.Contains(body, "degraded") || !regexp.MustCompile(`is 2[34]h\d+m\d+s ahead`).MatchString(body) {
		t.Errorf("/readyz is answered with %d: %s", status, body)
	}
	h.says("level=ERROR", 1) // about the clock
	b, _ = h.login2("esp01", "")
	h.alive(b)
}

// TestDataOfAnotherUser starts a hub on a directory that its user may not enter.
func TestDataOfAnotherUser(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "log:\n  level: debug\n")
	other := func(args ...string) (stderr string, code int) {
		p := command(t, args...)
		p.quiet = true
		if os.Getuid() == 0 { // who may enter every directory
			p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		p.start()
		code = p.wait(patience)
		return p.stderr.String(), code
	}
	parents := []string{filepath.Dir(dir), filepath.Dir(filepath.Dir(dir))}
	for _, parent := range parents {
		must(t, os.Chmod(parent, 0o755))
	}
	mode := func(path string, mode os.FileMode) {
		t.Helper()
		must(t, os.Chmod(path, mode))
	}
	if os.Getuid() != 0 {
		mode(dir, 0)
		defer mode(dir, 0o700)
	}
	stderr, code := other(serveArgs(dir)...)
	if code != 1 || !strings.Contains(stderr, "the data directory "+dir) || strings.Contains(stderr, "signalbox.yaml") {
		t.Errorf("the exit code is %d, want 1; standard error is %q", code, stderr)
	}
	file := filepath.Join(dir, "signalbox.yaml")
	mode(dir, 0o755)
	mode(file, 0)
	stderr, code = other(serveArgs(dir)...)
	if code != 2 || !strings.Contains(stderr, file) {
		t.Errorf("with a configuration that cannot be read the exit code is %d, want 2; standard error is %q", code, stderr)
	}
}
