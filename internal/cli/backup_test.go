package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBackupAndRestore goes the whole way: a running hub, a backup over its socket, from
// afar and to standard output, a check, a restore, and a hub on what was restored.
func TestBackupAndRestore(t *testing.T) {
	s := newStation(t)
	address, _ := s.serve()
	s.run("device", "add", "esp01", "--type", "box").want(t, ExitOK)
	dir := t.TempDir()
	file := filepath.Join(dir, "a.backup")
	s.run("backup", file).want(t, ExitOK, "rows", "up to position", "without secret.key")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the file: %v, %v", info, err)
	}
	s.run("backup", file).want(t, ExitUsage, "is there already", "--force")
	done := decode[map[string]any](t, s.run("backup", file, "--force", "--json").want(t, ExitOK))
	for _, key := range []string{"file", "made", "tables", "rows", "bytes", "position", "duration_ms", "with_key"} {
		if _, ok := done[key]; !ok {
			t.Errorf("the report has no %s: %v", key, done)
		}
	}
	if info, err := os.Stat(file); err != nil || done["bytes"] != float64(info.Size()) {
		t.Errorf("the report says %v bytes, the file is %v, %v", done["bytes"], info, err)
	}

	token := strings.TrimSpace(s.run("token", "create", "vault", "--scope", "admin").want(t, ExitOK).out)
	remote := []string{"SIGNALBOX_URL=" + address, "SIGNALBOX_TOKEN=" + token}
	far := filepath.Join(dir, "far.backup")
	runAs(t.Context(), "", remote, "backup", far).want(t, ExitOK)
	runAs(t.Context(), "", remote, "backup", filepath.Join(dir, "key.backup"), "--with-key").want(t, ExitRefused, "on the hub's own machine only")
	reader := strings.TrimSpace(s.run("token", "create", "reader", "--scope", "read").want(t, ExitOK).out)
	runAs(t.Context(), "", []string{remote[0], "SIGNALBOX_TOKEN=" + reader}, "backup", filepath.Join(dir, "no.backup")).want(t, ExitRefused)

	piped := s.run("backup", "-", "--with-key", "--json").want(t, ExitOK)
	var report map[string]any
	if err := json.Unmarshal([]byte(piped.err), &report); err != nil || report["with_key"] != true {
		t.Errorf("the report is %s, %v", piped.err, err)
	}
	keyed := filepath.Join(dir, "keyed.backup")
	if err := os.WriteFile(keyed, []byte(piped.out), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, far, keyed} {
		s.run("backup", "verify", name).want(t, ExitOK, "is whole", "SQLite", "TABLE", "device")
	}
	s.run("backup", "verify", keyed, "--json").want(t, ExitOK, `"ok":true`)
	names, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "no.backup")); err == nil {
		t.Error("a refused backup left a file")
	}
	s.run("restore", file).want(t, ExitFailure, "another Signalbox uses")

	bare := newStation(t)
	bare.run("restore", file).want(t, ExitOK, "Restored", "is missing", "secret.key")
	bare.run("restore", file).want(t, ExitFailure, "holds data already")
	whole := newStation(t)
	told := decode[map[string]any](t, whole.run("restore", keyed, "--json").want(t, ExitOK))
	if told["key_missing"] != false || told["data"] != whole.dir {
		t.Errorf("the report is %v", told)
	}
	whole.run("device", "list").want(t, ExitOK, "esp01")
	whole.serve()
	whole.run("device", "show", "esp01").want(t, ExitOK, "box")
}

func TestBackupFaults(t *testing.T) {
	s := newStation(t)
	dir := t.TempDir()
	s.run("backup", filepath.Join(dir, "a")).want(t, ExitUnavailable, "there are no data of a hub")
	s.run("device", "add", "esp01", "--type", "box").want(t, ExitOK)
	good := filepath.Join(dir, "good")
	s.run("backup", good).want(t, ExitOK) // no hub runs
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, content []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	flipped := bytes.Clone(text)
	flipped[len(flipped)/2] ^= 4
	tests := []struct {
		args []string
		code int
		says string
	}{
		{[]string{"backup"}, ExitUsage, "something is missing"},
		{[]string{"backup", dir}, ExitUsage, "is a directory"},
		{[]string{"backup", filepath.Join(dir, "nowhere", "b")}, ExitUsage, "cannot be written"},
		{[]string{"backup", os.DevNull, "--force"}, ExitUsage, "no ordinary file"},
		{[]string{"backup", "verify", filepath.Join(dir, "none")}, ExitUsage, "cannot be read"},
		{[]string{"backup", "verify", write("empty", nil)}, ExitFailure, "is empty"},
		{[]string{"backup", "verify", write("cut", text[:len(text)-9])}, ExitFailure, "broken off"},
		{[]string{"backup", "verify", write("flipped", flipped)}, ExitFailure, "is damaged"},
		{[]string{"restore", write("other", []byte("{}"))}, ExitFailure, "no backup of a Signalbox"},
		{[]string{"restore", good, "--url", "http://127.0.0.1:1"}, ExitUsage, "is restored here"},
		{[]string{"restore", good, "--store", "sqlite:x"}, ExitUsage, "store"},
		{[]string{"restore", dir}, ExitUsage, "no ordinary file"},
		{[]string{"restore", good}, ExitFailure, "holds data already"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.args[0], " ", tt.says), func(t *testing.T) {
			r := s.run(tt.args...).want(t, tt.code, tt.says)
			if r.out != "" {
				t.Errorf("on standard output: %s", r.out)
			}
		})
	}
}
