package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// alike gives names that databases like to take for one another.
func alike() []string {
	return []string{
		"a", "A", "a ", "a  ", " a", "a\t", "ä", "Ä", "a\u0308", "á", "å", "ß", "ss", "SS", "ẞ", "й", "Й", "и\u0306", "и", "ё", "е",
		"1", "１", "①", "ﬁ", "fi", "ı", "i", "I", "İ", "中", "😀", "😁", "名前", "\u200b", "a\u200b", "%", "_", "\\", "'", `"`, "?", "--", "$1",
	}
}

func update(t *testing.T, st *store.Store, fn func(ctx context.Context, tx *store.Tx) error) {
	t.Helper()
	if err := st.Update(t.Context(), func(tx *store.Tx) error { return fn(t.Context(), tx) }); err != nil {
		t.Fatal(err)
	}
}

// TestNamesAreBytes: two names are one only if all their bytes are.
func TestNamesAreBytes(t *testing.T) { storetest.Each(t, testNamesAreBytes) }

func testNamesAreBytes(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t).Store
	names := alike()
	add := func(name string, i int) error {
		return st.Update(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.InsertDevice(t.Context(), store.Device{Name: name, Type: name, CreatedAt: made}); err != nil {
				return err
			}
			if _, err := tx.InsertPerson(t.Context(), signalbox.User{Name: name, CreatedAt: made}, name); err != nil {
				return err
			}
			if _, err := tx.InsertToken(t.Context(), signalbox.Token{Name: name, CreatedBy: name, CreatedAt: made}, [32]byte{byte(i)}); err != nil {
				return err
			}
			return tx.SetMeta(t.Context(), name, "of "+name)
		})
	}
	for i, name := range names {
		if err := add(name, i); err != nil {
			t.Errorf("%q was not taken: %v", name, err)
		}
	}
	for i, name := range names {
		if err := add(name, i); signalbox.CodeOf(err) != "name_taken" {
			t.Errorf("a second %q gives %v", name, err)
		}
		wantMeta(t, st, name, "of "+name)
	}
	var devices, persons, tokens []string
	err := st.Devices(t.Context(), func(d store.Device, _ *store.DeviceState) error {
		devices = append(devices, d.Name)
		if d.Type != d.Name {
			t.Errorf("device %q has the type %q", d.Name, d.Type)
		}
		return nil
	})
	err = errors.Join(err, st.People(t.Context(), func(u signalbox.User, _ string) error { persons = append(persons, u.Name); return nil }))
	err = errors.Join(err, st.Tokens(t.Context(), func(k signalbox.Token, _ [32]byte) error { tokens = append(tokens, k.Name); return nil }))
	if err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string][]string{"devices": devices, "people": persons, "tokens": tokens} {
		if !slices.Equal(got, names) {
			t.Errorf("%s are %q, want %q", what, got, names)
		}
	}
}

func patterned(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

func TestBlobs(t *testing.T) { storetest.Each(t, testBlobs) }

func testBlobs(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t).Store
	bodies := [][]byte{{}, {0}, []byte("\x00\x00a\x00'\"\\\x1a\x00"), patterned(256), {0xff, 0xfe, 0xc0, 0x80}, patterned(1 << 20), noise(1<<20 + 1), noise(14 << 20)}
	for i, body := range bodies {
		update(t, st, func(ctx context.Context, tx *store.Tx) error { return insertRow(ctx, tx, i+1, body) })
	}
	for i, want := range bodies {
		var got []byte
		if err := st.Reader().QueryRowContext(t.Context(), `SELECT body FROM intake WHERE id = ?`, i+1).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back as %d others", len(want), len(got))
		}
		var inside []byte
		update(t, st, func(ctx context.Context, tx *store.Tx) error {
			return tx.QueryRow(ctx, `SELECT body FROM intake WHERE id = ?`, []any{i + 1}, &inside)
		})
		if !bytes.Equal(inside, want) {
			t.Errorf("%d bytes came back inside a transaction as %d others", len(want), len(inside))
		}
	}
}

func TestDevices(t *testing.T) { storetest.Each(t, testDevices) }

func testDevices(t *testing.T, db *storetest.Database) {
	t.Helper()
	first := db.Open(t)
	st := first.Store
	devices := []store.Device{
		{Name: "esp01", Type: "box", Secret: store.Secret{Kind: 2, Sum: [32]byte{0, 1, 2, 255}}, Pending: true, CreatedAt: made},
		{Name: "esp02", Type: "station", Disabled: true, Pending: true, CreatedAt: made},
		{Name: "esp03", Type: "box"},
	}
	states := []*store.DeviceState{
		{
			Position: 1<<62 + 1, ReceivedMicros: math.MaxInt64, TimeMicros: math.MinInt64, Boot: math.MaxUint64, Seq: 1 << 63, Body: []byte("{\"t\":\x00}"),
			Online: true, SinceMicros: 7, Address: "fe80::1%eth0",
		},
		nil,
		{Address: "x "},
	}
	update(t, st, func(ctx context.Context, tx *store.Tx) (err error) {
		for i := range devices {
			if devices[i].ID, err = tx.InsertDevice(ctx, devices[i]); err != nil {
				return err
			}
			if states[i] != nil {
				states[i].Device = devices[i].ID
				old := store.DeviceState{Device: devices[i].ID, Position: 1, Body: []byte("old"), Address: "x"}
				if err := errors.Join(tx.PutDeviceState(ctx, &old), tx.PutDeviceState(ctx, states[i])); err != nil {
					return err
				}
			}
		}
		return tx.PutDeviceState(ctx, &store.DeviceState{Device: 4_000_000_000, Address: "of nobody"})
	})
	check := func(st *store.Store) {
		t.Helper()
		var gotDevices []store.Device
		var gotStates []*store.DeviceState
		if err := st.Devices(t.Context(), func(d store.Device, s *store.DeviceState) error {
			gotDevices, gotStates = append(gotDevices, d), append(gotStates, s)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(gotDevices, devices) {
			t.Errorf("devices are\n%+v, want\n%+v", gotDevices, devices)
		}
		for i := range states {
			if s := gotStates[i]; s != nil && len(s.Body) == 0 {
				s.Body = nil // no bytes and none at all are one
			}
			if !reflect.DeepEqual(gotStates[i], states[i]) {
				t.Errorf("state %d is %+v, want %+v", i, gotStates[i], states[i])
			}
		}
	}
	check(st)
	devices[0].Type, devices[0].Disabled, devices[0].Pending, devices[0].Secret.Sum[5] = "crate", true, false, 9
	update(t, st, func(ctx context.Context, tx *store.Tx) error { return tx.UpdateDevice(ctx, devices[0]) })
	check(st)
	last := devices[2].ID
	update(t, st, func(ctx context.Context, tx *store.Tx) error { return tx.DeleteDevice(ctx, last) })
	devices, states = devices[:2], states[:2]
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	st = db.Open(t).Store
	check(st)
	update(t, st, func(ctx context.Context, tx *store.Tx) error {
		id, err := tx.InsertDevice(ctx, store.Device{Name: "esp03", Type: "box"})
		if err == nil && id <= last {
			t.Errorf("the ID %d was used again after %d", id, last)
		}
		return err
	})
}

func TestCommands(t *testing.T) { storetest.Each(t, testCommands) }

func testCommands(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t).Store
	var to, other signalbox.DeviceID
	commands := []*signalbox.Command{}
	put := func(c *signalbox.Command, active bool) error {
		return st.Update(t.Context(), func(tx *store.Tx) error { return tx.PutCommand(t.Context(), c, active) })
	}
	update(t, st, func(ctx context.Context, tx *store.Tx) (err error) {
		if to, err = tx.InsertDevice(ctx, store.Device{Name: "esp01", Type: "box"}); err != nil {
			return err
		}
		other, err = tx.InsertDevice(ctx, store.Device{Name: "esp02", Type: "box"})
		return err
	})
	// In the order of bytes, which is not that of a dictionary.
	for i, id := range []string{"01A", "01B", "01a", "01b"} {
		c := &signalbox.Command{ID: id, To: to, Name: "led", Value: new("\x00é"), State: signalbox.CommandQueued, CreatedAt: made, IdempotencyKey: "Key" + strings.Repeat(" ", i)}
		if i == 1 {
			c.To, c.IdempotencyKey = other, ""
		}
		commands = append(commands, c)
		if err := put(c, true); err != nil {
			t.Fatal(err)
		}
	}
	ids := func(device signalbox.DeviceID, before string, limit int) (all string) {
		t.Helper()
		if err := st.Commands(t.Context(), device, before, limit, func(c *signalbox.Command) error { all += " " + c.ID; return nil }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	active := func() (all string) {
		t.Helper()
		if err := st.ActiveCommands(t.Context(), func(c *signalbox.Command) error { all += " " + c.ID; return nil }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	for _, tt := range []struct{ what, got, want string }{
		{"all", ids(0, "", 10), " 01b 01a 01B 01A"},
		{"two", ids(0, "", 2), " 01b 01a"},
		{"older", ids(0, "01a", 10), " 01B 01A"},
		{"of one device", ids(to, "", 10), " 01b 01a 01A"},
		{"older of one", ids(to, "01b", 1), " 01a"},
		{"active", active(), " 01A 01B 01a 01b"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, tt.got, tt.want)
		}
	}
	for _, c := range commands {
		got, err := st.Command(t.Context(), c.ID)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("command %s is %+v, want %+v (%v)", c.ID, got, c, err)
		}
		if c.IdempotencyKey == "" {
			continue
		}
		if got, err = st.CommandByKey(t.Context(), c.To, c.IdempotencyKey); err != nil || got.ID != c.ID {
			t.Errorf("the key %q gives %v, want %s (%v)", c.IdempotencyKey, got, c.ID, err)
		}
	}
	for what, err := range map[string]error{
		"another ID":   func() error { _, err := st.Command(t.Context(), "01c"); return err }(),
		"another key":  func() error { _, err := st.CommandByKey(t.Context(), to, "key"); return err }(),
		"other device": func() error { _, err := st.CommandByKey(t.Context(), other, "Key"); return err }(),
	} {
		if signalbox.KindOf(err) != signalbox.KindNotFound {
			t.Errorf("%s gives %v", what, err)
		}
	}
	twice := *commands[0]
	twice.ID = "01z"
	if err := put(&twice, true); signalbox.KindOf(err) != signalbox.KindConflict || signalbox.CodeOf(err) != "duplicate" {
		t.Errorf("a second command under one key gives %v", err)
	}
	commands[0].State = signalbox.CommandSucceeded
	if err := put(commands[0], false); err != nil {
		t.Fatal(err)
	}
	if err := put(commands[2], false); err != nil {
		t.Fatal(err)
	}
	if got := active(); got != " 01B 01b" {
		t.Errorf("active are %q", got)
	}
	update(t, st, func(ctx context.Context, tx *store.Tx) error {
		for _, want := range []int64{1, 1, 0} {
			if n, err := tx.PruneCommands(ctx, "01b", 1); err != nil || n != want {
				t.Errorf("%d commands were pruned, want %d (%v)", n, want, err)
			}
		}
		return tx.DeleteDevice(ctx, other)
	})
	if got := ids(0, "", 10); got != " 01b" {
		t.Errorf("left are %q", got)
	}
	if err := put(commands[1], true); err != nil { // a change that was on its way
		t.Fatal(err)
	}
	if got := ids(0, "", 10); got != " 01b" {
		t.Errorf("the command of a removed device came back: %q", got)
	}
}

func TestMeta(t *testing.T) { storetest.Each(t, testMeta) }

func testMeta(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t).Store
	wantMeta(t, st, "colour", "")
	for _, value := range []string{"red", "red", "", "é😀 ", strings.Repeat("ж", 200<<10)} {
		setMeta(t, st, "colour", value)
		wantMeta(t, st, "colour", value)
	}
}

// TestStatements holds the parts of SQL that history and the rest may use.
func TestStatements(t *testing.T) { storetest.Each(t, testStatements) }

func testStatements(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t).Store
	for i := range 5 {
		update(t, st, func(ctx context.Context, tx *store.Tx) error { return insertRow(ctx, tx, i+1, []byte{byte(i)}) })
	}
	dup := st.Update(t.Context(), func(tx *store.Tx) error { return insertRow(t.Context(), tx, 3, []byte{}) })
	if signalbox.KindOf(dup) != signalbox.KindConflict || signalbox.CodeOf(dup) != "duplicate" {
		t.Errorf("a row that is there gives %v", dup)
	}
	null := st.Update(t.Context(), func(tx *store.Tx) error { return insertRow(t.Context(), tx, 9, nil) })
	if null == nil || signalbox.KindOf(null) != signalbox.KindInternal {
		t.Errorf("NULL where none may be gives %v", null)
	}
	update(t, st, func(ctx context.Context, tx *store.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, `SELECT n FROM intake WHERE id = ?`, []any{77}, &n); !errors.Is(err, sql.ErrNoRows) {
			t.Errorf("no row gives %v", err)
		}
		res, err := tx.Exec(ctx, `DELETE FROM intake WHERE id < ?`, 3)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); n != 2 || err != nil {
			t.Errorf("%d rows were deleted, %v", n, err)
		}
		// An upsert of each kind, and a change that changes nothing.
		for range 2 {
			if _, err := tx.Exec(ctx, `INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING`, "kept", fmt.Sprint(n)); err != nil {
				return err
			}
			n++
			if _, err := tx.Exec(ctx, `INSERT INTO meta (name, value) VALUES (?, 'a''?') ON CONFLICT (name) DO UPDATE SET value = excluded.value || meta.value -- what?`, "joined"); err != nil {
				return err
			}
		}
		return nil
	})
	wantMeta(t, st, "kept", "0")
	update(t, st, func(ctx context.Context, tx *store.Tx) error {
		for range 2 {
			res, err := tx.Exec(ctx, `UPDATE meta SET value = ? WHERE name = ?`, "same", "kept")
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); n != 1 || err != nil {
				t.Errorf("%d rows were changed, want 1 (%v)", n, err)
			}
		}
		return nil
	})
	wantMeta(t, st, "joined", "a'?a'?")
	var count, first, last, sum int64
	err := st.Reader().QueryRowContext(t.Context(), `SELECT COUNT(*), MIN(id), COALESCE(MAX(id + n), 0), SUM(id) FROM (SELECT id, n FROM intake WHERE id >= ? ORDER BY id DESC LIMIT ?) AS x`, 4, 10).
		Scan(&count, &first, &last, &sum)
	if err != nil || count != 2 || first != 4 || last != 6 || sum != 9 {
		t.Errorf("got %d rows from %d to %d, %d in all (%v)", count, first, last, sum, err)
	}
	stmt, err := st.Reader().PrepareContext(t.Context(), `SELECT id, body FROM intake WHERE id > ? ORDER BY id LIMIT ?`)
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	for range 3 {
		if got := readStatement(t, stmt); got != "4 [3] 5 [4] " {
			t.Errorf("got %q", got)
		}
	}
	big := st.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `DELETE FROM intake WHERE id = ?`, uint64(math.MaxUint64))
		return err
	})
	if big == nil {
		t.Error("a number over 63 bits was taken")
	}
}

func readStatement(t *testing.T, stmt *sql.Stmt) (got string) {
	t.Helper()
	rows, err := stmt.QueryContext(t.Context(), uint64(3), 10)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id uint64
		var body sql.RawBytes
		if err := rows.Scan(&id, &body); err != nil {
			t.Fatal(err)
		}
		got += fmt.Sprintf("%d %v ", id, []byte(body))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestReadersSeeWhole lets readers look while a writer changes two rows at a time.
func TestReadersSeeWhole(t *testing.T) { storetest.Each(t, testReadersSeeWhole) }

func testReadersSeeWhole(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t, func(c *store.Config) { c.Readers = 2 }).Store
	setMeta(t, st, "a", "")
	setMeta(t, st, "b", "")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				var a, b string
				err := st.Reader().QueryRowContext(t.Context(), `SELECT x.value, y.value FROM meta x, meta y WHERE x.name = 'a' AND y.name = 'b'`).Scan(&a, &b)
				if err != nil || a != b {
					t.Errorf("read %q and %q, %v", a, b, err)
					return
				}
			}
		})
	}
	for i := range 100 {
		value := fmt.Sprint(i)
		update(t, st, func(ctx context.Context, tx *store.Tx) error {
			return errors.Join(tx.SetMeta(ctx, "a", value), tx.SetMeta(ctx, "b", value))
		})
		wantMeta(t, st, "a", value) // what is committed is seen
	}
	stop()
	readers.Wait()
}

// TestReaderLeft: a reader that leaves early, or is called off, leaves the pool in order.
func TestReaderLeft(t *testing.T) { storetest.Each(t, testReaderLeft) }

func testReaderLeft(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t, func(c *store.Config) { c.Readers = 1 }).Store
	for i := range 20 {
		setMeta(t, st, fmt.Sprint(i), strings.Repeat("x", 20<<10))
	}
	errEnough := errors.New("enough")
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		leave(t, ctx, st, cancel)
		if err := st.Logins(ctx, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("a read that was called off gives %v", err)
		}
		addPerson(t, st, fmt.Sprint(time.Now().UnixNano()))
		if err := st.People(t.Context(), func(signalbox.User, string) error { return errEnough }); !errors.Is(err, errEnough) {
			t.Errorf("a reader that has enough gives %v", err)
		}
	}
}

// leave begins to read and calls it off.
func leave(t *testing.T, ctx context.Context, st *store.Store, cancel func()) {
	t.Helper()
	rows, err := st.Reader().QueryContext(ctx, `SELECT name FROM meta`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	if !rows.Next() {
		t.Error("there is nothing to read", rows.Err())
	}
	cancel()
}

func TestOpenAgain(t *testing.T) { storetest.Each(t, testOpenAgain) }

func testOpenAgain(t *testing.T, db *storetest.Database) {
	t.Helper()
	for i := range 3 {
		st := db.Open(t)
		want := ""
		if i > 0 {
			want = fmt.Sprint(i - 1)
		}
		wantMeta(t, st.Store, "colour", want)
		setMeta(t, st.Store, "colour", fmt.Sprint(i))
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.SQL(t).ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9000, true)`); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), db.Config())
	if err == nil {
		t.Fatal("a newer database was opened", st.Close())
	}
	if signalbox.KindOf(err) != signalbox.KindConflict || signalbox.CodeOf(err) != "database_newer" || !strings.Contains(err.Error(), "version 9000") {
		t.Errorf("a newer database gives %v", err)
	}
}
