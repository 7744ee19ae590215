package store_test

import (
	"context"
	"errors"
	"testing"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

func TestSide(t *testing.T) { storetest.Each(t, testSide) }

func testSide(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t)
	if got := string(st.Dialect()); got != string(db.Kind) {
		t.Errorf("the dialect of %s is %s", db.Kind, got)
	}
	side, err := st.Side()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := side.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := side.Define(t.Context(), `CREATE TABLE extra (n INTEGER NOT NULL PRIMARY KEY, what VARCHAR(20) NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	add := func(tx store.SideTx, n int) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO extra (n, what) VALUES (?,?)`, n, "x")
		return err
	}
	count := func() (n int) {
		if err := st.Reader().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM extra`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	err = side.Update(t.Context(), func(tx store.SideTx) error {
		var what string
		return errors.Join(add(tx, 1), add(tx, 2), tx.QueryRow(t.Context(), `SELECT what FROM extra WHERE n = ?`, []any{2}, &what))
	})
	if err != nil || count() != 2 {
		t.Errorf("a transaction gives %v and %d rows", err, count())
	}
	// Of one that fails nothing stays, and the next one works.
	why := errors.New("no")
	if err := side.Update(t.Context(), func(tx store.SideTx) error { return errors.Join(add(tx, 3), why) }); !errors.Is(err, why) || count() != 2 {
		t.Errorf("one that fails gives %v and leaves %d rows", err, count())
	}
	if err := side.Update(t.Context(), func(tx store.SideTx) error { return add(tx, 2) }); signalbox.CodeOf(err) != "duplicate" {
		t.Errorf("a row that is there gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := side.Update(ctx, func(tx store.SideTx) error { return add(tx, 4) }); !errors.Is(err, context.Canceled) {
		t.Errorf("called off it gives %v", err)
	}
	if db.Kind == storetest.SQLite {
		return
	}
	// The writer does not wait for it, which would be until it gives up: this transaction ends after.
	err = side.Update(t.Context(), func(tx store.SideTx) error {
		if err := add(tx, 5); err != nil {
			return err
		}
		return st.Update(t.Context(), func(tx *store.Tx) error { return tx.SetMeta(t.Context(), "a", "b") })
	})
	if err != nil || count() != 3 {
		t.Errorf("beside the writer: %v, %d rows", err, count())
	}
}
