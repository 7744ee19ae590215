package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

// TestSettingsInForce asks the database itself, because a misspelt PRAGMA is ignored.
func TestSettingsInForce(t *testing.T) {
	s := open(t, store.Config{})
	setMeta(t, s, "colour", "red")
	tests := []struct {
		pragma      string
		write, read string
	}{
		{"journal_mode", "wal", "wal"},
		{"synchronous", "2", "2"}, // FULL
		{"auto_vacuum", "2", "2"}, // INCREMENTAL
		{"page_size", "4096", "4096"},
		{"wal_autocheckpoint", "0", "0"},
		{"foreign_keys", "1", "1"},
		{"busy_timeout", "10000", "10000"},
		{"cache_size", "-65536", "-4096"},
		{"query_only", "0", "1"},
	}
	for _, tt := range tests {
		t.Run(tt.pragma, func(t *testing.T) {
			var write, read string
			err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.QueryRow(t.Context(), "PRAGMA "+tt.pragma, nil, &write) })
			if err != nil || write != tt.write {
				t.Errorf("the writer has %s, want %s (%v)", write, tt.write, err)
			}
			if err := s.Reader().QueryRowContext(t.Context(), "PRAGMA "+tt.pragma).Scan(&read); err != nil || read != tt.read {
				t.Errorf("readers have %s, want %s (%v)", read, tt.read, err)
			}
		})
	}
}

// TestSQLiteVersion: before 3.51.3 a checkpoint beside a commit could lose pages of a
// write-ahead file that was begun anew in the meantime.
func TestSQLiteVersion(t *testing.T) {
	s := open(t, store.Config{})
	var version string
	if err := s.Reader().QueryRowContext(t.Context(), `SELECT sqlite_version()`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	n := 0
	for part := range strings.SplitSeq(version, ".") {
		v, err := strconv.Atoi(part)
		if err != nil {
			t.Fatal(err)
		}
		n = n*1000 + v
	}
	if n < 3_051_003 {
		t.Errorf("SQLite is %s, 3.51.3 is needed", version)
	}
	t.Log("SQLite", version)
}

func noise(n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func insertRow(ctx context.Context, tx *store.Tx, id int, body []byte) error {
	_, err := tx.Exec(ctx, `INSERT INTO intake (id, n, received_us, received_last_us, body) VALUES (?,1,0,0,?)`, id, body)
	return err
}

// TestWriteAheadFileStaysSmall writes much without a pause, with readers coming and going.
func TestWriteAheadFileStaysSmall(t *testing.T) {
	const (
		checkpoint = 1 << 20
		total      = 96 << 20
		each       = 128 << 10
	)
	s := open(t, store.Config{CheckpointBytes: checkpoint})
	body := noise(each)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				var n int
				if err := s.Reader().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM intake`).Scan(&n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var largest int64
	began := time.Now()
	for i := range total / each {
		if err := s.Update(t.Context(), func(tx *store.Tx) error { return insertRow(t.Context(), tx, i+1, body) }); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(s.Path() + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, info.Size())
	}
	t.Logf("%d MiB in %s; the write-ahead file had at most %.1f MiB", total>>20, time.Since(began), float64(largest)/(1<<20))
	stop()
	readers.Wait()
	if largest > total/2 {
		t.Errorf("the write-ahead file grew to %d MiB of %d MiB written", largest>>20, total>>20)
	}
}

// TestLongReaderHoldsNobodyUp reads a table row by row while it is written, for longer than
// the write-ahead file is left alone.
func TestLongReaderHoldsNobodyUp(t *testing.T) {
	s := open(t, store.Config{CheckpointBytes: 64 << 10})
	for i := range 10 {
		setMeta(t, s, fmt.Sprint("before", i), "x")
	}
	rows, err := s.Reader().QueryContext(t.Context(), `SELECT name FROM meta`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	seen := 0
	until := time.Now().Add(time.Second)
	for rows.Next() {
		seen++
		for i := 0; i < 5 || seen == 1 && time.Now().Before(until); i++ {
			// The reader does not go on before this has ended: a writer that waited for it would give up.
			setMeta(t, s, fmt.Sprint("during", seen, "-", i), strings.Repeat("x", 20<<10))
		}
	}
	if err := rows.Err(); err != nil || seen != 10 {
		t.Errorf("the reader saw %d rows, want the 10 of its snapshot (%v)", seen, err)
	}
}

// TestFullDisk runs on a tiny disk of its own where that is allowed, and otherwise makes the
// database refuse to grow.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	grow, tiny := tinyDisk(t, dir)
	s := open(t, store.Config{Dir: dir, CheckpointBytes: 1 << 20})
	setMeta(t, s, "colour", "red")
	if !tiny {
		limit(t, s, "PRAGMA max_page_count = 1000")
	}
	body := noise(256 << 10)
	var full error
	n := 0
	for ; n < 100 && full == nil; n++ {
		full = s.Update(t.Context(), func(tx *store.Tx) error { return insertRow(t.Context(), tx, n+1, body) })
	}
	n-- // the last was refused
	if signalbox.KindOf(full) != signalbox.KindUnavailable || signalbox.CodeOf(full) != "disk_full" || !strings.Contains(full.Error(), dir) {
		t.Fatalf("after %d rows: %v", n, full)
	}
	count := func() (rows int) {
		t.Helper()
		if err := s.Reader().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM intake`).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		return rows
	}
	if got := count(); got != n {
		t.Errorf("%d rows are there, %d were acknowledged", got, n)
	}
	// Room again: by a larger disk, as an operator would.
	if tiny {
		grow()
	} else {
		limit(t, s, "PRAGMA max_page_count = 1000000000")
	}
	var done atomic.Int64
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			for i := range 10 {
				if err := s.Update(t.Context(), func(tx *store.Tx) error { return insertRow(t.Context(), tx, 1000*(w+1)+i, body) }); err != nil {
					t.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	writers.Wait()
	if got := count(); got != n+int(done.Load()) || done.Load() != 20 {
		t.Errorf("%d rows after recovery, want %d", got, n+20)
	}
	var ok string
	if err := s.Reader().QueryRowContext(t.Context(), `PRAGMA integrity_check`).Scan(&ok); err != nil || ok != "ok" {
		t.Errorf("integrity check: %s, %v", ok, err)
	}
	wantMeta(t, s, "colour", "red")
}

func limit(t *testing.T, s *store.Store, pragma string) {
	t.Helper()
	var n int
	if err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.QueryRow(t.Context(), pragma, nil, &n) }); err != nil {
		t.Fatal(err)
	}
}

// TestReclaim: what was deleted is given back to the system.
func TestReclaim(t *testing.T) {
	st := open(t, store.Config{})
	for round := range 8 {
		err := st.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `INSERT INTO intake (id, n, received_us, received_last_us, body) VALUES (?, 1, 0, 0, ?)`, round+1, make([]byte, 1<<20))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Update(t.Context(), func(tx *store.Tx) error { _, err := tx.Exec(t.Context(), `DELETE FROM intake`); return err }); err != nil {
		t.Fatal(err)
	}
	freed, err := st.Reclaim(t.Context())
	if err != nil || freed < 7<<20 || freed > 9<<20 {
		t.Errorf("%d bytes were given back, %v; want about 8 MiB", freed, err)
	}
	if again, err := st.Reclaim(t.Context()); err != nil || again != 0 {
		t.Errorf("the second time %d bytes, %v", again, err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(st.Path())
	if err != nil || info.Size() > 2<<20 {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
}
