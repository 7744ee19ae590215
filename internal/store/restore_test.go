package store_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	process "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// TestRestoreRefuses: what holds data stays as it is.
func TestRestoreRefuses(t *testing.T) { storetest.Each(t, testRestoreRefuses) }

func testRestoreRefuses(t *testing.T, db *storetest.Database) {
	t.Helper()
	t.Parallel()
	file := small(t)
	st := db.Open(t, func(c *store.Config) { c.Logger = nil })
	addPerson(t, st.Store, "ann")
	try := func(code, says string, wait time.Duration) {
		t.Helper()
		cfg := db.Config()
		cfg.ConnectTimeout = wait
		_, err := store.Restore(t.Context(), cfg, bytes.NewReader(file), store.RestoreOptions{})
		if signalbox.KindOf(err) != signalbox.KindConflict || signalbox.CodeOf(err) != code || !strings.Contains(fmt.Sprint(err), says) {
			t.Errorf("it gives %v, want %s", err, code)
		}
	}
	if db.Server != nil {
		try("store_in_use", "in use by another Signalbox", giveUp)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	try("not_empty", "holds data already (table person)", patience)
	if err := db.Open(t).CheckRestored(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRestoreIntoUsedUp: a database that was opened and not used is as good as none.
func TestRestoreIntoUsedUp(t *testing.T) { storetest.Each(t, testRestoreIntoUsedUp) }

func testRestoreIntoUsedUp(t *testing.T, db *storetest.Database) {
	t.Helper()
	t.Parallel()
	file := small(t)
	st := db.Open(t)
	update(t, st.Store, func(ctx context.Context, tx *store.Tx) error { return tx.SetMeta(ctx, "key_id", "x") })
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	restore(t, db, file)
	copied := db.Open(t)
	wantSame(t, file, backUp(t, copied.Store, store.BackupOptions{}))
}

// TestRestoreOthersTables: tables of another program are not touched.
func TestRestoreOthersTables(t *testing.T) { storetest.Each(t, testRestoreOthersTables) }

func testRestoreOthersTables(t *testing.T, db *storetest.Database) {
	t.Helper()
	exec(t, db.SQL(t), `CREATE TABLE device (colour INTEGER)`)
	_, err := store.Restore(t.Context(), db.Config(), bytes.NewReader(small(t)), store.RestoreOptions{})
	if signalbox.CodeOf(err) != "not_empty" || !strings.Contains(fmt.Sprint(err), "tables named device, which are not of this program") {
		t.Errorf("it gives %v", err)
	}
	exec(t, db.SQL(t), `INSERT INTO device (colour) VALUES (1)`)
}

// failing is a file of which the second reading fails.
type failing struct {
	*bytes.Reader
	after int64 // bytes of the second reading
	again bool
}

func (f *failing) Seek(offset int64, whence int) (int64, error) {
	f.again = true
	return f.Reader.Seek(offset, whence)
}

func (f *failing) Read(b []byte) (int, error) {
	if f.again {
		if f.after <= 0 {
			return 0, errors.New("the disk is gone")
		}
		b = b[:min(int64(len(b)), f.after)]
		f.after -= int64(len(b))
	}
	return f.Reader.Read(b)
}

// TestRestoreCutOff ends restores at many places. No hub would start from what is left, and
// the next restore begins anew.
func TestRestoreCutOff(t *testing.T) { storetest.Each(t, testRestoreCutOff) }

func testRestoreCutOff(t *testing.T, db *storetest.Database) {
	t.Helper()
	t.Parallel()
	source := storetest.New(t, storetest.SQLite).Open(t)
	stock(t, source.Store)
	file := backUp(t, source.Store, store.BackupOptions{})
	last := errors.New("not yet")
	for _, cut := range []int64{0, int64(len(file)) / 2, int64(len(file)) - 1} {
		_, err := store.Restore(t.Context(), db.Config(), &failing{Reader: bytes.NewReader(file), after: cut}, store.RestoreOptions{})
		if err == nil || !strings.Contains(err.Error(), "the disk is gone") {
			t.Fatalf("cut after %d bytes: %v", cut, err)
		}
		wantUnfinished(t, db)
	}
	_, err := store.Restore(t.Context(), db.Config(), bytes.NewReader(file), store.RestoreOptions{Finish: func(context.Context, *store.Store) error { return last }})
	if !errors.Is(err, last) {
		t.Fatal(err)
	}
	wantUnfinished(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = store.Restore(ctx, db.Config(), bytes.NewReader(file), store.RestoreOptions{Progress: func(restoring bool, done, _ int64) {
		if restoring && done > 0 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	wantUnfinished(t, db)
	restore(t, db, file)
	copied := db.Open(t)
	wantSame(t, file, backUp(t, copied.Store, store.BackupOptions{}))
}

func wantUnfinished(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t)
	if err := st.CheckRestored(t.Context()); signalbox.CodeOf(err) != "restore_unfinished" || !strings.Contains(fmt.Sprint(err), "run «signalbox restore» again") {
		t.Errorf("what was left gives %v", err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
}

// TestRestoreOlder restores what the first version backed up, into each kind of database.
func TestRestoreOlder(t *testing.T) { storetest.Each(t, testRestoreOlder) }

func testRestoreOlder(t *testing.T, db *storetest.Database) {
	t.Helper()
	t.Parallel()
	text, err := os.ReadFile("testdata/released_00001_ground.sql")
	if err != nil {
		t.Fatal(err)
	}
	up, _, _ := strings.Cut(string(text), "-- +goose Down")
	old, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "signalbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	exec(t, old, up)
	exec(t, old, `INSERT INTO device VALUES (7, 'esp01', 'box', 1, x'`+strings.Repeat("ab", 32)+`', 0, 1000)`)
	exec(t, old, `INSERT INTO meta VALUES ('colour', 'red')`)
	exec(t, old, `INSERT INTO intake VALUES (1, 5, 10, 20, 3, x'00', x'0102')`)
	var file bytes.Buffer
	if err := store.OldBackup(t.Context(), old, &file); err != nil {
		t.Fatal(err)
	}
	restore(t, db, file.Bytes())
	st := db.Open(t)
	wantMeta(t, st.Store, "colour", "red")
	report, err := store.VerifyBackup(t.Context(), bytes.NewReader(backUp(t, st.Store, store.BackupOptions{})), nil)
	if err != nil || report.Schema < 2 || report.Position != 5 || report.Rows != 3 {
		t.Errorf("a backup of it is %+v, %v", report, err)
	}
	update(t, st.Store, func(ctx context.Context, tx *store.Tx) error {
		id, err := tx.InsertDevice(ctx, store.Device{Name: "esp02", Type: "box"})
		if id != 8 {
			t.Errorf("the next device has the ID %d", id)
		}
		return err
	})
}

// The environment by which a test asks its own binary to restore until it is killed.
const (
	childFile = "STORE_TEST_RESTORE_FILE"
	childDir  = "STORE_TEST_RESTORE_DIR"
	childURL  = "STORE_TEST_RESTORE_URL"
	childStop = "STORE_TEST_RESTORE_STOP"
)

// TestRestoreChild is what TestRestoreKilled runs in a process of its own: it restores so
// many rows, says so and waits for its end.
func TestRestoreChild(t *testing.T) {
	name := os.Getenv(childFile)
	if name == "" {
		return // not asked for
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var stop int64
	if _, err := fmt.Sscan(os.Getenv(childStop), &stop); err != nil {
		t.Fatal(err)
	}
	_, err = store.Restore(t.Context(), store.Config{Dir: os.Getenv(childDir), URL: os.Getenv(childURL)}, file, store.RestoreOptions{
		Progress: func(restoring bool, done, _ int64) {
			if restoring && done >= stop {
				fmt.Println("here")
				_, _ = io.Copy(io.Discard, os.Stdin) // until the parent ends it
			}
		},
	})
	t.Errorf("the restore ended: %v", err)
}

// TestRestoreKilled kills a restore, in three places.
func TestRestoreKilled(t *testing.T) { storetest.Each(t, testRestoreKilled) }

func testRestoreKilled(t *testing.T, db *storetest.Database) {
	t.Helper()
	t.Parallel()
	source := storetest.New(t, storetest.SQLite).Open(t)
	stock(t, source.Store)
	file := backUp(t, source.Store, store.BackupOptions{})
	name := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, stop := range []int{1, 200, 300} {
		cmd := process.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRestoreChild$")
		cfg := db.Config()
		cmd.Env = append(os.Environ(), childFile+"="+name, childDir+"="+cfg.Dir, childURL+"="+cfg.URL, fmt.Sprint(childStop, "=", stop))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if line != "here\n" {
			t.Errorf("the process said %q, %v", line, err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = in.Close()
		_ = cmd.Wait() // it was killed
		wantUnfinished(t, db)
	}
	restore(t, db, file)
	copied := db.Open(t)
	wantSame(t, file, backUp(t, copied.Store, store.BackupOptions{}))
}
