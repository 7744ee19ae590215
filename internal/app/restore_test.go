package app

import (
	"bytes"
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"signalbox"
	"signalbox/client"
	"signalbox/internal/auth"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/store"
)

// pour appends telemetry of devices to a hub's log, from several goroutines at once, until
// ctx ends; begun is closed when there is a good amount of it.
func pour(ctx context.Context, t *testing.T, a *App, devices []*registry.Device, begun chan<- struct{}) (wait func()) {
	t.Helper()
	var all sync.WaitGroup
	var once sync.Once
	for k := range 3 {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				for n, d := range devices {
					e := &signalbox.Entry{
						Kind: signalbox.EntryTelemetry, Device: d.ID,
						Body: fmt.Appendf(nil, `{"type":"telemetry","seq":%d,"t":%d.%d,"from":%d,"text":"ä%x"}`, i, i%40, n, k, i*i),
					}
					if err := a.log.Append(e, history.Now); err != nil {
						t.Error(err)
						return
					}
					if i%20 == 0 {
						if err := a.log.Wait(ctx, e.Position); err != nil {
							return // the test ends
						}
					}
				}
				if i == 1500 {
					once.Do(func() { close(begun) })
				}
			}
		})
	}
	return all.Wait
}

// pages reads the whole history of a device, up to a position, page by page.
func pages(t *testing.T, a *App, d signalbox.DeviceID, to signalbox.Position) (all []signalbox.Telemetry) {
	t.Helper()
	q := history.Query{Device: d, Order: history.OldestFirst, Limit: 777}
	for {
		page, err := a.log.Page(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for i := range page {
			if page[i].Position <= to {
				all = append(all, page[i])
			}
		}
		if len(page) < q.Limit {
			return all
		}
		q.After = history.CursorOf(&page[len(page)-1])
	}
}

// TestBackupWhileTelemetryComes backs a hub up over its API while three writers append, and
// finds in what was restored every message up to the backup's position and none behind it.
func TestBackupWhileTelemetryComes(t *testing.T) {
	cfg := testConfig(filepath.Join(t.TempDir(), "source"))
	cfg.History.Tail = 1 << 20 // so that much is in chunks
	a := open(t, cfg, &written{})
	defer closeApp(t, a)
	var devices []*registry.Device
	for i := range 5 {
		sum, err := a.keys.HashChosen("1234")
		if err != nil {
			t.Fatal(err)
		}
		d, err := a.devices.Add(t.Context(), registry.NewDevice{Name: fmt.Sprint("esp", i), Type: "box", Secret: store.Secret{Kind: auth.SecretChosen, Sum: sum}})
		if err != nil {
			t.Fatal(err)
		}
		devices = append(devices, d)
	}
	server := httptest.NewServer(a.LocalAPI())
	defer server.Close()
	hub, err := client.New(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	begun := make(chan struct{})
	wait := pour(ctx, t, a, devices, begun)
	<-begun
	var files [2]bytes.Buffer
	var reports [2]client.BackupReport
	for i := range files {
		reports[i], err = hub.Backup(t.Context(), &files[i], client.BackupOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wait()
	if err := a.log.Wait(t.Context(), a.log.Head()); err != nil {
		t.Fatal(err)
	}
	if reports[1].Position <= reports[0].Position || a.log.Head() <= reports[1].Position {
		t.Errorf("nothing was appended meanwhile: positions %d and %d of %d", reports[0].Position, reports[1].Position, a.log.Head())
	}
	for i := range files {
		wantRestored(t, a, devices, files[i].Bytes(), reports[i])
	}
}

func wantRestored(t *testing.T, a *App, devices []*registry.Device, file []byte, report client.BackupReport) {
	t.Helper()
	checked, err := VerifyBackup(t.Context(), bytes.NewReader(file), nil)
	if err != nil {
		t.Fatal(err)
	}
	chunks := int64(0)
	for i, table := range checked.Tables {
		if client.BackupTable(table) != report.Tables[i] {
			t.Errorf("the client counted %+v, the file says %+v", report.Tables[i], table)
		}
		if table.Name == "chunk" {
			chunks = table.Rows
		}
	}
	if chunks == 0 {
		t.Error("there were no chunks yet")
	}
	cfg := testConfig(filepath.Join(t.TempDir(), "copy"))
	restored, err := Restore(t.Context(), Options{Config: cfg}, bytes.NewReader(file), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !restored.KeyMissing || restored.Position != report.Position || !strings.Contains(restored.Store, "SQLite") {
		t.Errorf("the report is %+v", restored)
	}
	b := open(t, cfg, &written{})
	defer closeApp(t, b)
	if b.log.Committed() != report.Position {
		t.Errorf("the restored log ends at %d, the backup at %d", b.log.Committed(), report.Position)
	}
	messages := 0
	for _, d := range devices {
		copied := b.devices.Find(d.Name)
		if copied == nil || copied.ID != d.ID {
			t.Fatalf("device %s is %v", d.Name, copied)
		}
		want, got := pages(t, a, d.ID, report.Position), pages(t, b, d.ID, signalbox.Position(1)<<60)
		if !reflect.DeepEqual(want, got) {
			t.Errorf("device %s has %d messages, want %d, and not all are the same", d.Name, len(got), len(want))
		}
		messages += len(got)
	}
	if signalbox.Position(messages) != report.Position {
		t.Errorf("there are %d messages up to position %d", messages, report.Position)
	}
}

// TestRestoreKey: the key file travels only when asked to, and never replaces another.
func TestRestoreKey(t *testing.T) {
	a := open(t, testConfig(t.TempDir()), &written{})
	defer closeApp(t, a)
	key, err := os.ReadFile(a.keyFile())
	if err != nil {
		t.Fatal(err)
	}
	var with, without bytes.Buffer
	if _, err := a.backup(t.Context(), &with, true); err != nil {
		t.Fatal(err)
	}
	if _, err := a.backup(t.Context(), &without, false); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(without.Bytes(), key) || !bytes.Contains(with.Bytes(), key) {
		t.Error("the key is where it was not asked for, or is missing where it was")
	}
	tests := []struct {
		name    string
		present []byte // key file that is there before
		file    []byte
		code    string
		missing bool
	}{
		{"with the key", nil, with.Bytes(), "", false},
		{"with the key that is there", key, with.Bytes(), "", false},
		{"with another than is there", bytes.Repeat([]byte{1}, 32), with.Bytes(), "key_differs", false},
		{"without, and none is there", nil, without.Bytes(), "", true},
		{"without, and another is there", bytes.Repeat([]byte{1}, 32), without.Bytes(), "", true},
		{"without, and it is there", key, without.Bytes(), "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "secret.key")
			if tt.present != nil {
				if err := os.WriteFile(path, tt.present, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			report, err := Restore(t.Context(), Options{Config: testConfig(dir)}, bytes.NewReader(tt.file), nil)
			if codeOf(err) != tt.code || report.KeyMissing != tt.missing {
				t.Errorf("it gives %+v, %v", report, err)
			}
			info, err := os.Stat(path)
			if tt.missing && tt.present == nil {
				if err == nil {
					t.Error("a key file was made")
				}
				return
			}
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the key file: %v, %v", info, err)
			}
		})
	}
}

// TestRestoreRefuses: not over data, not beside a hub, not onto what waits for a database;
// and a hub does not open what a restore left half-done.
func TestRestoreRefuses(t *testing.T) {
	a := open(t, testConfig(t.TempDir()), &written{})
	var file bytes.Buffer
	if _, err := a.people.AddUser(t.Context(), "ann", "correct horse"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.backup(t.Context(), &file, false); err != nil {
		t.Fatal(err)
	}
	try := func(dir, code, says string) {
		t.Helper()
		_, err := Restore(t.Context(), Options{Config: testConfig(dir)}, bytes.NewReader(file.Bytes()), nil)
		if signalbox.CodeOf(err) != code || !strings.Contains(fmt.Sprint(err), says) {
			t.Errorf("it gives %v", err)
		}
	}
	try(a.cfg.Data, "data_locked", "another Signalbox uses")
	closeApp(t, a)
	try(a.cfg.Data, "not_empty", "holds data already (table person)")

	waiting := t.TempDir()
	if err := os.WriteFile(filepath.Join(waiting, history.SpoolName), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	try(waiting, "not_empty", "has not stored in its database yet")

	half := testConfig(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Restore(ctx, Options{Config: half}, bytes.NewReader(file.Bytes()), func(restoring bool, done, _ int64) {
		if restoring && done > 0 {
			cancel()
		}
	})
	if err == nil {
		t.Fatal("the restore was not cut off")
	}
	if _, err := Open(t.Context(), Options{Config: half}); signalbox.CodeOf(err) != "restore_unfinished" {
		t.Errorf("a hub opens it: %v", err)
	}
	if _, err := Restore(t.Context(), Options{Config: half}, bytes.NewReader(file.Bytes()), nil); err != nil {
		t.Fatal(err)
	}
	b := open(t, half, &written{})
	defer closeApp(t, b)
	if users := b.people.ListUsers(); len(users) != 1 || users[0].Name != "ann" {
		t.Errorf("the users are %v", users)
	}
}

// codeOf is signalbox.CodeOf, and "" for no error.
func codeOf(err error) string {
	if err == nil {
		return ""
	}
	return signalbox.CodeOf(err)
}
