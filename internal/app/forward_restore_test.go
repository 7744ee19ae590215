package app

import (
	"bytes"
	"testing"

	"signalbox/internal/forward"
	"signalbox/internal/store"
)

// TestForwardAfterRestore: what a backup has may have been sent after the backup was made.
func TestForwardAfterRestore(t *testing.T) {
	c := testConfig(t.TempDir())
	c.addForwarder(forward.Spec{Name: "site", To: "tcp://127.0.0.1:1"})
	a := open(t, c, &written{})
	var file bytes.Buffer
	_, err := a.store.Backup(t.Context(), &file, store.BackupOptions{})
	closeApp(t, a)
	if err != nil {
		t.Fatal(err)
	}
	flowing := func(a *App) (list []bool) {
		t.Helper()
		err := a.store.ForwarderPlaces(t.Context(), func(p store.ForwarderPlace) error {
			list = append(list, p.Flowing)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	a = open(t, c, &written{})
	if got := flowing(a); len(got) != 1 || got[0] {
		t.Errorf("before: %v", got)
	}
	closeApp(t, a)
	copied := testConfig(t.TempDir())
	if _, err := Restore(t.Context(), Options{Config: copied}, bytes.NewReader(file.Bytes()), nil); err != nil {
		t.Fatal(err)
	}
	b := open(t, copied, &written{})
	defer closeApp(t, b)
	if got := flowing(b); len(got) != 1 || !got[0] {
		t.Errorf("restored: %v", got)
	}
}
