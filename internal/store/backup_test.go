package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// kinds are all kinds of database.
func kinds() []storetest.Kind {
	return append([]storetest.Kind{storetest.SQLite}, storetest.Servers()...)
}

// stock puts something into every table: what databases like to take for something else, and
// gaps in the counted keys.
func stock(t *testing.T, st *store.Store) {
	t.Helper()
	update(t, st, func(ctx context.Context, tx *store.Tx) error {
		for i, name := range alike() {
			d := store.Device{Name: name, Type: "box", Secret: store.Secret{Kind: 2, Sum: sha256.Sum256([]byte(name))}, Disabled: i%2 == 0, Pending: i%4 == 0, CreatedAt: made}
			id, err := tx.InsertDevice(ctx, d)
			if err != nil {
				return err
			}
			state := &store.DeviceState{
				Device: id, Position: signalbox.Position(i) << 50, ReceivedMicros: math.MaxInt64, TimeMicros: math.MinInt64, Boot: math.MaxUint64, Seq: 1 << 63,
				Body: []byte(fmt.Sprintf("{\"t\":\x00%d}", i)), Online: i%3 == 0, SinceMicros: -1, Address: name,
			}
			if i%4 == 1 {
				state.Body = nil
			}
			if i%4 == 2 {
				state.Body = []byte{}
			}
			if err := tx.PutDeviceState(ctx, state); err != nil {
				return err
			}
			if i%5 == 0 {
				if err := tx.DeleteDevice(ctx, id); err != nil {
					return err
				}
			}
			if _, err := tx.InsertPerson(ctx, signalbox.User{Name: name, CreatedAt: made}, "hash of "+name); err != nil {
				return err
			}
			if _, err := tx.InsertToken(ctx, signalbox.Token{Name: name, Scope: signalbox.ScopeRead, CreatedBy: name, CreatedAt: made}, sha256.Sum256([]byte(name))); err != nil {
				return err
			}
			if err := tx.SetMeta(ctx, "x"+name, strings.Repeat(name, 1000)); err != nil {
				return err
			}
			hash := sha256.Sum256([]byte(name))
			var key any
			if i%2 == 0 {
				key = "key " + name
			}
			for _, row := range []struct {
				query string
				args  []any
			}{
				{`INSERT INTO login (hash, person, created_ms, expires_ms) VALUES (?,?,?,?)`, []any{hash[:], i, 1, 2}},
				{`INSERT INTO command (id, device, active, idempotency_key, created_ms, body) VALUES (?,?,?,?,?,?)`, []any{"c" + name, i, i % 2, key, 3, patterned(i * 100)}},
				{`INSERT INTO shape (id, body) VALUES (?,?)`, []any{i, []byte(name)}},
				{`INSERT INTO chunk (id, device, late, t0, t1, p0, p1, n, base, body) VALUES (?,?,?,?,?,?,?,?,?,?)`, []any{i, i, i % 2, -5, 5, 1, 2, 3, 4, noise(2100)}},
			} {
				if _, err := tx.Exec(ctx, row.query, row.args...); err != nil {
					return err
				}
			}
		}
		return nil
	})
	for i, body := range [][]byte{{}, {0}, patterned(1 << 20), noise(3<<20 + 1), []byte("last")} {
		update(t, st, func(ctx context.Context, tx *store.Tx) error { return insertRow(ctx, tx, i+1, body) })
	}
	update(t, st, func(ctx context.Context, tx *store.Tx) error { // the last number was used, too
		id, err := tx.InsertDevice(ctx, store.Device{Name: "gone", Type: "box"})
		if err != nil {
			return err
		}
		return tx.DeleteDevice(ctx, id)
	})
}

func backUp(t *testing.T, st *store.Store, o store.BackupOptions) []byte {
	t.Helper()
	var file bytes.Buffer
	report, err := st.Backup(t.Context(), &file, o)
	if err != nil {
		t.Fatal(err)
	}
	again, err := store.VerifyBackup(t.Context(), bytes.NewReader(file.Bytes()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if report.Bytes != int64(file.Len()) || !slices.Equal(again.Tables, report.Tables) || again.Bytes != report.Bytes || again.Rows != report.Rows || again.Position != report.Position {
		t.Errorf("made was\n%+v\nread was\n%+v", report, again)
	}
	return file.Bytes()
}

func restore(t *testing.T, db *storetest.Database, file []byte) {
	t.Helper()
	if _, err := store.Restore(t.Context(), db.Config(), bytes.NewReader(file), store.RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
}

func wantSame(t *testing.T, a, b []byte) {
	t.Helper()
	where, err := store.SameBackup(t.Context(), bytes.NewReader(a), bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if where != "" {
		t.Errorf("the contents differ in %s", where)
	}
}

// TestBackupBetweenDatabases restores a backup of each kind of database into each kind, and
// finds all contents again byte by byte.
func TestBackupBetweenDatabases(t *testing.T) {
	for _, from := range kinds() {
		st := storetest.New(t, from).Open(t)
		stock(t, st.Store)
		file := backUp(t, st.Store, store.BackupOptions{MadeBy: "test"})
		for _, to := range kinds() {
			t.Run(string(from)+" to "+string(to), func(t *testing.T) {
				db := storetest.New(t, to)
				restore(t, db, file)
				copied := db.Open(t)
				if err := copied.CheckRestored(t.Context()); err != nil {
					t.Error(err)
				}
				wantSame(t, file, backUp(t, copied.Store, store.BackupOptions{}))
				update(t, copied.Store, func(ctx context.Context, tx *store.Tx) error {
					id, err := tx.InsertDevice(ctx, store.Device{Name: "next", Type: "box"})
					if want := signalbox.DeviceID(len(alike()) + 2); id != want {
						t.Errorf("the next device has the ID %d, want %d: numbers are not used twice", id, want)
					}
					return err
				})
			})
		}
	}
}

// TestContentsAreListed compares the list of what a backup has with the tables that the
// migrations make.
func TestContentsAreListed(t *testing.T) { storetest.Each(t, testContentsAreListed) }

func testContentsAreListed(t *testing.T, db *storetest.Database) {
	t.Helper()
	db.Open(t)
	query, database := `SELECT m.name, c.name, LOWER(c.type) FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'`, "DATABASE()"
	if db.Kind == storetest.PostgreSQL {
		database = "current_schema()"
	}
	if db.Server != nil {
		query = `SELECT table_name, column_name, LOWER(data_type) FROM information_schema.columns WHERE table_schema = ` + database
	}
	rows, err := db.SQL(t).QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	is := map[string]string{}
	for rows.Next() {
		var name, column, kind string
		if err := rows.Scan(&name, &column, &kind); err != nil {
			t.Fatal(err)
		}
		if name == store.VersionsTable {
			continue
		}
		switch kind {
		case "integer", "bigint":
			kind = "int"
		case "text", "varchar", "mediumtext":
			kind = "text"
		case "blob", "varbinary", "longblob", "bytea":
			kind = "bytes"
		}
		is[name+"."+column] = kind
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for name, kind := range store.Contents() {
		listed[name], _, _ = strings.Cut(kind, " ")
	}
	if !maps.Equal(is, listed) {
		for name, kind := range is {
			if listed[name] != kind {
				t.Errorf("the database has %s of %s; the list in tables.go says %q: add it there, or it is in no backup", name, kind, listed[name])
			}
		}
		for name := range listed {
			if is[name] == "" {
				t.Errorf("the list in tables.go has %s, the database has not", name)
			}
		}
	}
}

// TestBackupWhileWritten takes backups while rows come and go in pairs of tables: each backup
// has both or neither.
func TestBackupWhileWritten(t *testing.T) { storetest.Each(t, testBackupWhileWritten) }

func testBackupWhileWritten(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t)
	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	begun := make(chan struct{})
	written := 0
	writer.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			err := st.Update(t.Context(), func(tx *store.Tx) error {
				name := fmt.Sprint("n", i)
				if err := insertRow(t.Context(), tx, i, noise(2000)); err != nil {
					return err
				}
				if err := tx.SetMeta(t.Context(), name, name); err != nil {
					return err
				}
				return tx.SetMeta(t.Context(), "newest", name)
			})
			if err != nil {
				t.Error(err)
				return
			}
			written = i
			if i == 50 {
				close(begun)
			}
		}
	})
	<-begun
	var files [][]byte
	for range 5 {
		files = append(files, backUp(t, st.Store, store.BackupOptions{}))
	}
	stop()
	writer.Wait()
	var last signalbox.Position
	for _, file := range files {
		report, err := store.VerifyBackup(t.Context(), bytes.NewReader(file), nil)
		if err != nil {
			t.Fatal(err)
		}
		rows := map[string]int64{}
		for _, table := range report.Tables {
			rows[table.Name] = table.Rows
		}
		if rows["intake"] != int64(report.Position) || rows["meta"] != rows["intake"]+1 || report.Position < last {
			t.Errorf("a backup has the position %d, %v; the one before had %d", report.Position, rows, last)
		}
		last = report.Position
	}
	if last > signalbox.Position(written) || last < 50 {
		t.Errorf("the last backup has %d of %d rows", last, written)
	}
	target := storetest.New(t, storetest.SQLite)
	restore(t, target, files[4])
	wantMeta(t, target.Open(t).Store, "newest", fmt.Sprint("n", last))
}

// slowWriter takes a little at a time and then breaks.
type slowWriter struct{ left int }

func (w *slowWriter) Write(b []byte) (int, error) {
	if len(b) > w.left {
		return 0, errors.New("the line is cut")
	}
	w.left -= len(b)
	return len(b), nil
}

func TestBackupBreaksOff(t *testing.T) { storetest.Each(t, testBackupBreaksOff) }

func testBackupBreaksOff(t *testing.T, db *storetest.Database) {
	t.Helper()
	t.Parallel()
	st := db.Open(t)
	stock(t, st.Store)
	for _, room := range []int{0, 100, 10_000, 2 << 20} {
		if _, err := st.Backup(t.Context(), &slowWriter{room}, store.BackupOptions{}); err == nil || !strings.Contains(err.Error(), "the line is cut") {
			t.Errorf("with room for %d bytes: %v", room, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := st.Backup(ctx, writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil }), store.BackupOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a backup that was called off: %v", err)
	}
	backUp(t, st.Store, store.BackupOptions{})
	addPerson(t, st.Store, "after")
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// small is a backup of a little.
func small(t testing.TB) []byte {
	t.Helper()
	st := storetest.New(t, storetest.SQLite).Open(t)
	err := st.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.InsertDevice(t.Context(), store.Device{Name: "esp01", Type: "box"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if _, err := st.Backup(t.Context(), &file, store.BackupOptions{Key: []byte("key")}); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// TestBackupFaults: what is not a whole, undamaged backup of this or an older version is
// refused in words, and nothing is changed.
func TestBackupFaults(t *testing.T) {
	good := small(t)
	st := storetest.New(t, storetest.SQLite).Open(t)
	var newer bytes.Buffer
	if err := store.NewerBackup(t.Context(), st.Store, &newer); err != nil {
		t.Fatal(err)
	}
	format := bytes.Clone(good)
	binary.BigEndian.PutUint32(format[8:], 2)
	tests := []struct {
		name, code, says string
		file             []byte
	}{
		{"empty", "not_a_backup", "is empty", nil},
		{"something else", "not_a_backup", "does not begin like one", []byte("SQLite format 3\x00")},
		{"short and something else", "not_a_backup", "does not begin like one", []byte("{}")},
		{"a bit of the beginning", "backup_cut", "broken off after 5 bytes", good[:5]},
		{"without its end", "backup_cut", "broken off", good[:len(good)-1]},
		{"half", "backup_cut", "broken off", good[:len(good)/2]},
		{"with more", "backup_damaged", "behind its end", append(bytes.Clone(good), 0)},
		{"twice", "backup_damaged", "behind its end", append(bytes.Clone(good), good...)},
		{"newer format", "backup_newer", "its format is of version 2", format},
		{"newer tables", "backup_newer", "by a newer Signalbox (v99)", newer.Bytes()},
	}
	db := storetest.New(t, storetest.SQLite)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := store.VerifyBackup(t.Context(), bytes.NewReader(tt.file), nil)
			_, again := store.Restore(t.Context(), db.Config(), bytes.NewReader(tt.file), store.RestoreOptions{})
			for _, err := range []error{err, again} {
				if signalbox.CodeOf(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.says) {
					t.Errorf("it gives %v", err)
				}
			}
		})
	}
	restore(t, db, good) // nothing stands in the way
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if _, err := store.VerifyBackup(t.Context(), bytes.NewReader(bad), nil); signalbox.KindOf(err) == signalbox.KindInternal || err == nil {
			t.Fatalf("with a bit of byte %d turned it gives %v", i, err)
		}
	}
	for n := 0; n < len(good); n += 5 {
		if _, err := store.VerifyBackup(t.Context(), bytes.NewReader(good[:n]), nil); err == nil {
			t.Fatalf("%d of %d bytes pass for a backup", n, len(good))
		}
	}
}

func TestBackupKey(t *testing.T) {
	file := small(t)
	keys, err := store.BackupKeys(t.Context(), bytes.NewReader(file))
	if err != nil || len(keys) != 1 || string(keys[0]) != "key" {
		t.Errorf("the keys are %q, %v", keys, err)
	}
	db := storetest.New(t, storetest.SQLite)
	stop := errors.New("another key is there")
	_, err = store.Restore(t.Context(), db.Config(), bytes.NewReader(file), store.RestoreOptions{Key: func([]byte) error { return stop }})
	if !errors.Is(err, stop) {
		t.Errorf("it gives %v", err)
	}
	var got []byte
	if _, err := store.Restore(t.Context(), db.Config(), bytes.NewReader(file), store.RestoreOptions{Key: func(k []byte) error { got = k; return nil }}); err != nil || string(got) != "key" {
		t.Errorf("key %q, %v", got, err)
	}
}

func FuzzVerifyBackup(f *testing.F) {
	good := small(f)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, file []byte) {
		report, err := store.VerifyBackup(t.Context(), bytes.NewReader(file), nil)
		if err == nil && report.Bytes != int64(len(file)) {
			t.Errorf("%d bytes pass for a backup of %d", len(file), report.Bytes)
		}
		if err != nil && signalbox.KindOf(err) == signalbox.KindInternal {
			t.Errorf("no words for it: %v", err)
		}
	})
}

// TestBackupHoldsNobodyUp stops a backup in its middle, as by a slow line: changes go on, and
// are not in it.
func TestBackupHoldsNobodyUp(t *testing.T) { storetest.Each(t, testBackupHoldsNobodyUp) }

func testBackupHoldsNobodyUp(t *testing.T, db *storetest.Database) {
	t.Helper()
	t.Parallel()
	st := db.Open(t)
	update(t, st.Store, func(ctx context.Context, tx *store.Tx) error { return insertRow(ctx, tx, 1, noise(1<<20)) })
	var file bytes.Buffer
	stopped, on := make(chan struct{}), make(chan struct{})
	var once sync.Once
	ended := make(chan error, 1)
	go func() {
		_, err := st.Backup(t.Context(), writerFunc(func(b []byte) (int, error) {
			once.Do(func() { close(stopped); <-on })
			return file.Write(b)
		}), store.BackupOptions{})
		ended <- err
	}()
	<-stopped
	addPerson(t, st.Store, "ann")
	update(t, st.Store, func(ctx context.Context, tx *store.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM intake WHERE id = ?`, 1)
		return err
	})
	if err := st.Shrink(t.Context()); err != nil {
		t.Error(err)
	}
	close(on)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	report, err := store.VerifyBackup(t.Context(), &file, nil)
	if err != nil || report.Position != 1 || report.Rows != 1 {
		t.Errorf("the backup has %+v, %v", report, err)
	}
}
