package main_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// python is Debian's, which has Debian's python3-websockets.
const python = "/usr/bin/python3"

// TestOriginal moves from the original server: its data file is imported as the very first
// command, then a device and an operator's script that know nothing of Signalbox talk to
// the hub. What they see is compared byte by byte.
func TestOriginal(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	file := writeDataFile(t)
	for _, want := range []string{"created 3, kept 0, refused 0", "created 0, kept 3, refused 0"} {
		stdout, stderr, code := run(t, "", "import", file, "--data", dir)
		if code != 0 || !strings.Contains(stdout+stderr, want) {
			t.Fatalf("the import ended with code %d and should say %q:\n%s%s", code, want, stdout, stderr)
		}
	}
	h := startHub(t, dir)

	dev := child(t, python, "testdata/device.py", "ws://"+h.addresses.Devices+"/")
	dev.start()
	await(t, patience, "the device has reported", func() bool {
		select {
		case <-dev.ended:
			t.Fatal("the device ended early")
		default:
		}
		return h.device("esp01").Status == "работает"
	})
	if d := h.device("esp02"); d.Presence != "offline" {
		t.Errorf("a second auth on one connection was not ignored: %+v", d)
	}
	operator := child(t, python, "testdata/operator_script.py", "http://"+h.addresses.HTTP)
	operator.start()
	if code := operator.wait(muchPatience); code != 0 {
		t.Errorf("the operator's script ended with code %d", code)
	}
	if code := dev.wait(muchPatience); code != 0 {
		t.Errorf("the device ended with code %d", code)
	}
	h.awaitPresence("esp01", "offline")
	golden(t, "testdata/operator_script.golden", operator.stdout.String())
	golden(t, "testdata/device.golden", dev.stdout.String())
}

// golden compares text with a file, byte by byte.
func golden(t *testing.T, file, got string) {
	t.Helper()
	want, err := os.ReadFile(file)
	must(t, err)
	if got == string(want) {
		return
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		line := func(lines []string) string {
			if i < len(lines) {
				return lines[i]
			}
			return "(nothing)"
		}
		if line(gotLines) != line(wantLines) {
			t.Errorf("%s, line %d:\ngot  %s\nwant %s", file, i+1, line(gotLines), line(wantLines))
		}
	}
}

// writeDataFile makes a data.json as the original wrote it.
func writeDataFile(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("the old one"), bcrypt.DefaultCost)
	must(t, err)
	data, err := json.MarshalIndent(map[string]any{
		// The original's library marks its hashes 2b; the algorithm is the same.
		"users": []map[string]any{{"id": 1, "username": "admin", "password_hash": strings.Replace(string(hash), "$2a$", "$2b$", 1)}},
		"devices": []map[string]any{
			{"name": "esp01", "type": "box", "password": "1234", "status": "работает"},
			{"name": "esp02", "type": "station", "password": "5678", "status": "offline"},
		},
	}, "", "  ")
	must(t, err)
	file := filepath.Join(t.TempDir(), "data.json")
	must(t, os.WriteFile(file, data, 0o600))
	return file
}

// TestBrokenImport gives a data file that is cut off: nothing of it is taken.
func TestBrokenImport(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(writeDataFile(t))
	must(t, err)
	file := filepath.Join(t.TempDir(), "cut.json")
	must(t, os.WriteFile(file, data[:len(data)-10], 0o600))
	h := startHub(t, dataDir(t, ""))
	if _, stderr, code := run(t, "", "import", file, "--data", h.dir); code != 2 || !strings.Contains(stderr, "signalbox: ") {
		t.Errorf("the import of half a file ended with code %d: %s", code, stderr)
	}
	var list struct{ Total int }
	h.call(http.MethodGet, "/devices", nil, &list)
	if list.Total != 0 {
		t.Errorf("%d devices were imported from half a file", list.Total)
	}
}
