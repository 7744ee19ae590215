package main_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// importReport is what «signalbox import --json» tells.
type importReport struct{ Read, Added, Already, Refused int }

// exported gives all telemetry, a message a line, without its time of receipt and in order of
// the text.
func exported(t *testing.T, dir string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "all.ndjson")
	done(t, "", "export", file, "--data", dir)
	text, err := os.ReadFile(file)
	must(t, err)
	var lines []string
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, `"received":"`)
		_, after, _ = strings.Cut(after, `",`)
		lines = append(lines, before+after)
	}
	slices.Sort(lines)
	return lines
}

// TestKilledImport: an import that is killed at any moment is completed by doing it again, and
// nothing is there twice that was not twice in the file.
func TestKilledImport(t *testing.T) {
	const devices, each = 12, 4000
	dir := dataDir(t, "")
	h := startHub(t, dir)
	var lines []string
	for i := range each {
		for d := range devices {
			n := i
			if i%10 == 9 {
				n-- // the same message as the one before, which counts twice
			}
			lines = append(lines, fmt.Sprintf(`{"device":"d%02d","time":"2024-05-01T%02d:%02d:%02d.000000Z","object":{"n":%d,"text":"работает"}}`+"\n", d, n/3600, n/60%60, n%60, n))
		}
	}
	file := filepath.Join(t.TempDir(), "all.ndjson")
	must(t, os.WriteFile(file, []byte(strings.Join(lines, "")), 0o600))
	slices.Sort(lines)
	args := []string{"import", file, "--create", "--type", "box", "--json", "--data", dir}

	for round, kill := range []string{"hub", "hub", "command", "hub"} {
		p := command(t, args...)
		p.quiet = true
		p.start()
		marker := fmt.Sprintf("/devices/d%02d/telemetry?limit=1", 3*round)
		await(t, muchPatience, "the import has come to "+marker, func() bool {
			status, answer, err := h.try(http.MethodGet, marker, nil)
			return err == nil && status == http.StatusOK && strings.Contains(string(answer), "position")
		})
		if kill == "command" {
			if err := p.cmd.Process.Kill(); !errors.Is(err, os.ErrProcessDone) { // it may have come to its end
				must(t, err)
			}
			p.wait(muchPatience)
			await(t, muchPatience, "the hub has given the import up", func() bool {
				status, _, err := h.try(http.MethodPost, "/import/telemetry", "\n")
				return err == nil && status != http.StatusConflict
			})
		} else {
			h.kill()
			p.wait(muchPatience)
			h = startHub(t, dir)
		}
		t.Logf("round %d: the %s was killed, the command ended with %d; %d of %d messages are there", round, kill, p.cmd.ProcessState.ExitCode(), checkSubset(t, exported(t, dir), lines), len(lines))
	}
	var report importReport
	decode(t, done(t, "", args...), &report)
	if report.Read != len(lines) || report.Added+report.Already != len(lines) || report.Already == 0 {
		t.Errorf("the last report: %+v", report)
	}
	h.kill()
	h = startHub(t, dir)
	if got := exported(t, dir); !slices.Equal(got, lines) {
		t.Errorf("there are %d messages, want %d", len(got), len(lines))
	}
	h.stop()
	// Without a hub the command does it by itself.
	decode(t, done(t, "", args...), &report)
	if report.Added != 0 || report.Already != len(lines) {
		t.Errorf("again: %+v", report)
	}
}

// checkSubset says that each message that is there is in the file, as often at least; both are
// sorted.
func checkSubset(t *testing.T, got, want []string) int {
	t.Helper()
	at := 0
	for _, line := range got {
		for at < len(want) && want[at] < line {
			at++
		}
		if at == len(want) || want[at] != line {
			t.Fatalf("%s is there, but not so often in the file", line)
		}
		at++
	}
	return len(got)
}

// TestKilledExport leaves no file that looks whole.
func TestKilledExport(t *testing.T) {
	dir := dataDir(t, "")
	h := startHub(t, dir)
	h.add("esp01")
	var lines strings.Builder
	for i := range 60_000 {
		fmt.Fprintf(&lines, `{"device":"esp01","time":%d,"object":{"n":%d,"text":%q}}`+"\n", 1_700_000_000_000+i, i, strings.Repeat("x", 200))
	}
	done(t, lines.String(), "import", "-", "--data", dir)
	out := filepath.Join(t.TempDir(), "all.ndjson")
	p := command(t, "export", out, "--data", dir)
	p.quiet = true
	p.start()
	await(t, muchPatience, "the export has begun", func() bool { // and may have ended
		files, err := os.ReadDir(filepath.Dir(out))
		return err == nil && len(files) > 0
	})
	h.kill()
	code := p.wait(muchPatience)
	text, err := os.ReadFile(out)
	switch {
	case code == 0 && (err != nil || strings.Count(string(text), "\n") != 60_000):
		t.Errorf("the export ended well, but has %d lines (%v)", strings.Count(string(text), "\n"), err)
	case code != 0 && !errors.Is(err, os.ErrNotExist):
		t.Errorf("the export failed with %d, but there is a file (%v)", code, err)
	}
	if left, err := os.ReadDir(filepath.Dir(out)); err != nil || code != 0 && len(left) > 0 {
		t.Errorf("files that are left: %v, %v", left, err)
	}
	h = startHub(t, dir)
	var devices struct{ Total int }
	h.call(http.MethodGet, "/devices", nil, &devices)
	if devices.Total != 1 {
		t.Errorf("%d devices", devices.Total)
	}
	h.stop()
}
