package app

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signalbox"
)

// TestStorePasswordIsNotShown: neither by what prints the configuration nor by an error.
func TestStorePasswordIsNotShown(t *testing.T) {
	for _, src := range []ConfigSources{
		{Flags: map[string]string{"store": "mysql://hub:s3cret@db/hub"}},
		{Environ: []string{"SIGNALBOX_STORE=postgres://hub:s3cret@db/hub?sslmode=require"}},
		{File: writeConfig(t, "store: postgres://hub:s3cret@db/hub\n")},
		{Flags: map[string]string{"store": "mysql://hub:s3cret@db/hub?x=y"}},
		{Flags: map[string]string{"store": "mysql://hub:s3cret/@db/hub"}},
		{Environ: []string{"SIGNALBOX_STORE=hub:s3cret@db"}},
		{File: writeConfig(t, "store: [mysql://hub:s3cret@db/hub]\n")},
	} {
		loaded, err := LoadConfig(src)
		said := ""
		if err != nil {
			said = err.Error()
			if signalbox.KindOf(err) != signalbox.KindInvalid || !strings.Contains(said, "store = ") {
				t.Errorf("%+v gives %v", src, err)
			}
		} else if !strings.Contains(loaded.Config.Store, "s3cret") {
			t.Errorf("%+v gives the store %q", src, loaded.Config.Store)
		}
		var text bytes.Buffer
		text.WriteString(said)
		for _, line := range loaded.Config.Changed() {
			text.WriteString(line)
		}
		if strings.Contains(text.String(), "s3cret") {
			t.Errorf("the password is shown: %s", text.String())
		}
		if err == nil && !strings.Contains(text.String(), "hub:***@db/hub") {
			t.Errorf("the store is not shown: %s", text.String())
		}
	}
}

func TestStorePasswordFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(" s3cret \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := App{cfg: DefaultConfig()}
	a.cfg.Store, a.cfg.StorePasswordFile = "mysql://hub@db/hub", file
	if got, err := a.storeConfig(); err != nil || got.Password != " s3cret " || got.URL != a.cfg.Store {
		t.Errorf("got %+v, %v", got, err)
	}
	a.cfg.StorePasswordFile = file + ".missing"
	if _, err := a.storeConfig(); signalbox.KindOf(err) != signalbox.KindInvalid || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a missing file gives %v", err)
	}
	if _, err := LoadConfig(ConfigSources{Flags: map[string]string{"store_password_file": file}}); err == nil || !strings.Contains(err.Error(), "store is empty") {
		t.Errorf("a password for nothing gives %v", err)
	}
}

// TestStoreIsRemembered: where the data are on a server nobody begins an empty file beside.
func TestStoreIsRemembered(t *testing.T) {
	a := &App{cfg: DefaultConfig()}
	a.cfg.Data = t.TempDir()
	if err := a.checkStore(); err != nil {
		t.Fatal(err)
	}
	a.cfg.Store = "postgres://hub:secret@db.local/signalbox"
	if err := errors.Join(a.checkStore(), a.noteStore()); err != nil {
		t.Fatal(err)
	}
	a.cfg.Store = ""
	err := a.checkStore()
	if signalbox.CodeOf(err) != "store_elsewhere" || !strings.Contains(err.Error(), "db.local") || strings.Contains(err.Error(), "secret") {
		t.Errorf("without the address: %v", err)
	}
}
