package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// TestDeadline: when a caller's time is over, the server is not said to be away.
func TestDeadline(t *testing.T) { eachServer(t, testDeadline) }

func testDeadline(t *testing.T, kind storetest.Kind) {
	t.Helper()
	st := storetest.New(t, kind).Open(t).Store
	want := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, context.DeadlineExceeded) || signalbox.KindOf(err) != signalbox.KindUnavailable || strings.Contains(err.Error(), "reached") {
			t.Errorf("%s gives %v", what, err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	query := map[storetest.Kind]string{storetest.MariaDB: `SELECT SLEEP(5)`, storetest.PostgreSQL: `SELECT 1 FROM pg_sleep(5)`}[kind]
	if err := st.Reader().QueryRowContext(short, query).Scan(new(int)); !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "reached") {
		t.Errorf("a question gives %v", err) // database/sql may be the first to see it
	}
	<-short.Done()
	want("a statement", st.Update(t.Context(), func(tx *store.Tx) error { return insertRow(short, tx, 1, nil1()) }))
	want("a change", st.Update(short, func(tx *store.Tx) error { return nil }))
	want("a caller's own fault", st.Update(short, func(tx *store.Tx) error { return short.Err() }))
	if present(t, st, 1) {
		t.Error("the row is there")
	}
}
