package store_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

func open(t *testing.T, cfg store.Config) *store.Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func setMeta(t *testing.T, s *store.Store, name, value string) {
	t.Helper()
	if err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.SetMeta(t.Context(), name, value) }); err != nil {
		t.Fatal(err)
	}
}

func wantMeta(t *testing.T, s *store.Store, name, want string) {
	t.Helper()
	got, err := s.Meta(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("meta %q is %q, want %q", name, got, want)
	}
}

func TestOpenAgainKeepsEverything(t *testing.T) {
	// Characters that mean something in a connection string.
	dir := filepath.Join(t.TempDir(), "a b?c=1&d#e%20f;Ж")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "1"} {
		s, err := store.Open(t.Context(), store.Config{Dir: dir})
		if err != nil {
			t.Fatalf("open %d: %v", i, err)
		}
		wantMeta(t, s, "colour", want)
		setMeta(t, s, "colour", "1")
		if err := s.Close(); err != nil {
			t.Fatalf("close %d: %v", i, err)
		}
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != 1 || files[0].Name() != filepath.Base(s.Path()) {
			t.Errorf("after Close the directory holds %v; the write-ahead file should be gone", files)
		}
	}
}

func TestFilesArePrivate(t *testing.T) {
	s := open(t, store.Config{})
	setMeta(t, s, "colour", "red")
	seen := 0
	err := filepath.WalkDir(filepath.Dir(s.Path()), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		seen++
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %04o, want 0600", d.Name(), mode)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 2 {
		t.Errorf("saw %d files, want the database and its write-ahead file", seen)
	}
}

func TestOpenRefuses(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, dir string) string // gives the data directory
		kind    signalbox.Kind
		code    string
		says    string
	}{
		{
			"newer version",
			func(t *testing.T, dir string) string {
				t.Helper()
				open(t, store.Config{Dir: dir})
				db, err := sql.Open("sqlite", filepath.Join(dir, "signalbox.db"))
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				if _, err := db.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9000, 1)`); err != nil {
					t.Fatal(err)
				}
				return dir
			},
			signalbox.KindConflict, "database_newer", "version 9000",
		},
		{
			"missing directory",
			func(_ *testing.T, dir string) string { return filepath.Join(dir, "missing") },
			signalbox.KindUnavailable, "data_unusable", "no such file or directory",
		},
		{
			"directory is a file",
			func(t *testing.T, dir string) string {
				t.Helper()
				path := filepath.Join(dir, "file")
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			},
			signalbox.KindUnavailable, "data_unusable", "not a directory",
		},
		{
			"unwritable directory",
			func(t *testing.T, dir string) string {
				t.Helper()
				path := filepath.Join(dir, "locked")
				if err := os.Mkdir(path, 0o500); err != nil {
					t.Fatal(err)
				}
				if os.Getuid() == 0 {
					return "/proc/self" // nobody may make a file there, root neither
				}
				return path
			},
			signalbox.KindUnavailable, "data_unusable", "cannot be opened for writing",
		},
		{
			"not a database",
			func(t *testing.T, dir string) string {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, "signalbox.db"), []byte(strings.Repeat("this is no database. ", 500)), 0o600); err != nil {
					t.Fatal(err)
				}
				return dir
			},
			signalbox.KindUnavailable, "data_unusable", "not a database",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := store.Open(t.Context(), store.Config{Dir: tt.prepare(t, t.TempDir())})
			if err == nil {
				t.Fatal("opened", s.Close())
			}
			if signalbox.KindOf(err) != tt.kind || signalbox.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("kind %d, code %s: %v; want kind %d, code %s and %q", signalbox.KindOf(err), signalbox.CodeOf(err), err, tt.kind, tt.code, tt.says)
			}
		})
	}
}

func TestUpdateRollsBack(t *testing.T) { storetest.Each(t, testUpdateRollsBack) }

func testUpdateRollsBack(t *testing.T, db *storetest.Database) {
	t.Helper()
	s := db.Open(t).Store
	errStop := errors.New("stop")
	tests := []struct {
		name string
		fn   func(ctx context.Context, cancel func(), tx *store.Tx) error
		want error
	}{
		{"error", func(context.Context, func(), *store.Tx) error { return errStop }, errStop},
		{"canceled", func(_ context.Context, cancel func(), _ *store.Tx) error { cancel(); return nil }, context.Canceled},
		{"bad statement", func(ctx context.Context, _ func(), tx *store.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO nowhere VALUES (1)`)
			if err == nil {
				t.Error("a row went into a table that does not exist")
			}
			return errors.Join(errStop, err)
		}, errStop},
		{"bad statement passed over", func(ctx context.Context, _ func(), tx *store.Tx) error {
			_, _ = tx.Exec(ctx, `UPDATE meta SET value = NULL`)
			return nil
		}, nil},
		{"panic", func(context.Context, func(), *store.Tx) error { panic(errStop) }, errStop},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			setMeta(t, s, "colour", "red")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := func() (err error) {
				defer func() {
					if r, ok := recover().(error); ok {
						err = r
					}
				}()
				return s.Update(ctx, func(tx *store.Tx) error {
					if err := tx.SetMeta(ctx, "colour", "green"); err != nil {
						return err
					}
					var seen string
					if err := tx.QueryRow(ctx, `SELECT value FROM meta WHERE name = ?`, []any{"colour"}, &seen); err != nil || seen != "green" {
						t.Errorf("the transaction sees %q, %v", seen, err)
					}
					return tt.fn(ctx, cancel, tx)
				})
			}()
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			wantMeta(t, s, "colour", "red")
			setMeta(t, s, "colour", "blue") // the store goes on
			wantMeta(t, s, "colour", "blue")
		})
	}
}

func TestReaderCannotWrite(t *testing.T) { storetest.Each(t, testReaderCannotWrite) }

func testReaderCannotWrite(t *testing.T, db *storetest.Database) {
	t.Helper()
	s := db.Open(t).Store
	if _, err := s.Reader().ExecContext(t.Context(), `INSERT INTO meta (name, value) VALUES ('a', 'b')`); err == nil {
		t.Error("a row was written past Update")
	}
}

// TestReadersBesideWriter lets readers look for consistency while a writer fills the
// write-ahead file again and again: each sees whole transactions, and the file does not
// grow without bound.
func TestReadersBesideWriter(t *testing.T) {
	const checkpoint = 256 << 10
	s := open(t, store.Config{CheckpointBytes: checkpoint, Readers: 2})
	setMeta(t, s, "a", "0")
	setMeta(t, s, "b", "0")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var readers sync.WaitGroup
	var reads atomic.Int64
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				var a, b string
				err := s.Reader().QueryRowContext(t.Context(), `SELECT x.value, y.value FROM meta x, meta y WHERE x.name = 'a' AND y.name = 'b'`).Scan(&a, &b)
				if err != nil || a != b {
					t.Errorf("read %q and %q, %v", a, b, err)
					return
				}
				reads.Add(1)
			}
		})
	}
	// Some 40 KiB a transaction: a few of them exceed the checkpoint size.
	body := strings.Repeat("x", 16<<10)
	deadline := time.Now().Add(4 * patience)
	n := 0
	for shrunk := false; !shrunk || n < 200 || reads.Load() == 0; n++ {
		value := body + string(rune('a'+n%26))
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			if err := tx.SetMeta(t.Context(), "a", value); err != nil {
				return err
			}
			return tx.SetMeta(t.Context(), "b", value)
		})
		if err != nil {
			t.Fatal(err)
		}
		// Once the whole file was moved, SQLite begins it anew: the bytes written so far then
		// exceed its length.
		info, err := os.Stat(s.Path() + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		shrunk = info.Size() > checkpoint && int64(n)*32<<10 > 2*info.Size()
		if time.Now().After(deadline) {
			t.Fatalf("after %d transactions and %d reads the write-ahead file has %d bytes; begun anew: %v", n, reads.Load(), info.Size(), shrunk)
		}
	}
	stop()
	readers.Wait()
}

func TestWritersTakeTurns(t *testing.T) { storetest.Each(t, testWritersTakeTurns) }

func testWritersTakeTurns(t *testing.T, db *storetest.Database) {
	t.Helper()
	s := db.Open(t).Store
	setMeta(t, s, "n", "")
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for range 20 {
				err := s.Update(t.Context(), func(tx *store.Tx) error {
					var n string
					if err := tx.QueryRow(t.Context(), `SELECT value FROM meta WHERE name = ?`, []any{"n"}, &n); err != nil {
						return err
					}
					return tx.SetMeta(t.Context(), "n", n+"x")
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	wantMeta(t, s, "n", strings.Repeat("x", 160))
}
