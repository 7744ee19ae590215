package store_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// TestForwarders: what is stored of forwarders comes back as it was.
func TestForwarders(t *testing.T) { storetest.Each(t, testForwarders) }

func testForwarders(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t).Store
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	at := time.Date(2026, 11, 22, 12, 0, 0, 5e6, time.UTC)
	want := []store.Forwarder{
		{Name: "one", Spec: []byte(`{"to":"tcp://192.0.2.1:9"}`), Secrets: all, CreatedBy: "admin", CreatedAt: at},
		{Name: "One", Spec: all, Secrets: []byte{}, Paused: true},
		{Name: "a b/ü ", Spec: []byte{}, Secrets: []byte{}, CreatedAt: at},
	}
	update(t, st, func(ctx context.Context, tx *store.Tx) (err error) {
		for i := range want {
			if want[i].ID, err = tx.InsertForwarder(ctx, &want[i]); err != nil {
				return err
			}
		}
		return nil
	})
	err := st.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.InsertForwarder(t.Context(), &want[0])
		return err
	})
	if signalbox.KindOf(err) != signalbox.KindConflict || signalbox.CodeOf(err) != "name_taken" {
		t.Errorf("a taken name gives %v", err)
	}
	wantForwarders(t, st, want)

	want[0].Spec, want[0].Paused = []byte("{}"), true
	want[1].Secrets, want[1].Paused = nil, false
	update(t, st, func(ctx context.Context, tx *store.Tx) error {
		for _, f := range append(want[:2:2], store.Forwarder{Name: "nobody"}) {
			f.ID, f.CreatedBy = 99, "not looked at"
			if err := tx.UpdateForwarder(ctx, &f); err != nil {
				return err
			}
		}
		return nil
	})
	want[1].Secrets = []byte{}
	wantForwarders(t, st, want)

	places := []store.ForwarderPlace{
		{Name: "a b/ü ", Counters: []byte{}},
		{Name: "in the file", Settled: 7, Sent: 9, Flowing: true, Counters: all},
		{Name: "one", Settled: math.MaxInt64, Sent: math.MaxInt64, Counters: []byte("c")},
	}
	for range 2 {
		update(t, st, func(ctx context.Context, tx *store.Tx) error { return tx.PutForwarderPlaces(ctx, places) })
		wantPlaces(t, st, places)
		places[0].Settled, places[0].Sent, places[0].Flowing, places[1].Flowing, places[1].Counters = 5, 6, true, false, []byte("now")
	}
	update(t, st, func(ctx context.Context, tx *store.Tx) error {
		return tx.PutForwarderPlaces(ctx, nil)
	})
	update(t, st, func(ctx context.Context, tx *store.Tx) error { return tx.SuspectForwarders(ctx) })
	for i := range places {
		places[i].Flowing = true
	}
	wantPlaces(t, st, places)

	update(t, st, func(ctx context.Context, tx *store.Tx) error {
		for _, name := range []string{"one", "in the file", "nobody"} {
			if _, err := tx.InsertDeadLetter(ctx, &store.DeadLetter{Forwarder: name}); err != nil {
				return err
			}
			if err := tx.DeleteForwarder(ctx, name); err != nil {
				return err
			}
		}
		return nil
	})
	wantForwarders(t, st, want[1:])
	places[0].Settled, places[0].Sent, places[0].Flowing = 5, 6, true
	update(t, st, func(ctx context.Context, tx *store.Tx) error { return tx.PutForwarderPlaces(ctx, places[:1]) })
	wantPlaces(t, st, places[:1])
	if counts, err := st.CountDeadLetters(t.Context()); err != nil || len(counts) != 0 {
		t.Errorf("%v are left, %v", counts, err)
	}

	// A number is not used twice.
	var id int64
	update(t, st, func(ctx context.Context, tx *store.Tx) (err error) {
		if err := tx.DeleteForwarder(ctx, "a b/ü "); err != nil {
			return err
		}
		id, err = tx.InsertForwarder(ctx, &want[0])
		return err
	})
	if id <= want[2].ID {
		t.Errorf("the number %d after %d", id, want[2].ID)
	}
}

// notNil: SQLite gives nil for no bytes, the others do not.
func notNil(b []byte) []byte { return append([]byte{}, b...) }

func wantForwarders(t *testing.T, st *store.Store, want []store.Forwarder) {
	t.Helper()
	var got []store.Forwarder
	err := st.Forwarders(t.Context(), func(f store.Forwarder) error {
		f.Spec, f.Secrets = notNil(f.Spec), notNil(f.Secrets)
		got = append(got, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the forwarders are\n%+v, want\n%+v", got, want)
	}
}

func wantPlaces(t *testing.T, st *store.Store, want []store.ForwarderPlace) {
	t.Helper()
	var got []store.ForwarderPlace
	err := st.ForwarderPlaces(t.Context(), func(p store.ForwarderPlace) error {
		p.Counters = notNil(p.Counters)
		got = append(got, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the places are\n%+v, want\n%+v", got, want)
	}
}

// TestDeadLetters: they are paged, counted, dropped by number and beyond a limit.
func TestDeadLetters(t *testing.T) { storetest.Each(t, testDeadLetters) }

func testDeadLetters(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t).Store
	var mine []store.DeadLetter // oldest first
	update(t, st, func(ctx context.Context, tx *store.Tx) error {
		for i := range int64(10) {
			d := store.DeadLetter{
				Forwarder: "mine", Position: signalbox.Position(i + 1), Kind: signalbox.EntryAlert, Device: math.MaxUint32, DeviceName: "дом 1",
				ReceivedMicros: 1e15 + i, TimeMicros: -i, AtMicros: 2e15, Attempts: 20, Status: 500 + int(i), Reason: fmt.Sprint("no ", i), Body: fmt.Append(nil, "\x00\xff", i),
			}
			var err error
			if d.ID, err = tx.InsertDeadLetter(ctx, &d); err != nil {
				return err
			}
			mine = append(mine, d)
			if _, err = tx.InsertDeadLetter(ctx, &store.DeadLetter{Forwarder: "Mine", Reason: "cut \xff\x00off"}); err != nil {
				return err
			}
		}
		return nil
	})
	check := func(what string, got []store.DeadLetter, err error, want ...store.DeadLetter) {
		t.Helper()
		if err != nil || len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", what, got, err, want)
		}
	}
	got, err := st.DeadLetters(t.Context(), "mine", 0, 3)
	check("the newest", got, err, mine[9], mine[8], mine[7])
	got, err = st.DeadLetters(t.Context(), "mine", mine[7].ID, 3)
	check("older ones", got, err, mine[6], mine[5], mine[4])
	got, err = st.DeadLetters(t.Context(), "mine", mine[0].ID, 3)
	check("none older", got, err)
	got, err = st.DeadLettersAfter(t.Context(), "mine", 0, 2)
	check("the oldest", got, err, mine[0], mine[1])
	got, err = st.DeadLettersAfter(t.Context(), "mine", mine[7].ID, 100)
	check("newer ones", got, err, mine[8], mine[9])
	got, err = st.DeadLetters(t.Context(), "nobody", 0, 3)
	check("of nobody", got, err)
	one, err := st.DeadLetter(t.Context(), "mine", mine[4].ID)
	check("one", []store.DeadLetter{one}, err, mine[4])
	for name, id := range map[string]int64{"Mine": mine[4].ID, "mine": math.MaxInt64} {
		if _, err := st.DeadLetter(t.Context(), name, id); signalbox.KindOf(err) != signalbox.KindNotFound {
			t.Errorf("%d of %s: %v", id, name, err)
		}
	}
	if got, err = st.DeadLetters(t.Context(), "Mine", 0, 1); err != nil || len(got) != 1 || got[0].Reason != "cut \uFFFD\uFFFDoff" || len(got[0].Body) != 0 {
		t.Errorf("a reason that is no text: %+v, %v", got, err)
	}
	wantCounts := func(want map[string]int64) {
		t.Helper()
		if counts, err := st.CountDeadLetters(t.Context()); err != nil || !maps.Equal(counts, want) {
			t.Errorf("counted %v, %v; want %v", counts, err, want)
		}
	}
	wantCounts(map[string]int64{"mine": 10, "Mine": 10})
	dropped := func(what string, want int64, drop func(ctx context.Context, tx *store.Tx) (int64, error)) {
		t.Helper()
		update(t, st, func(ctx context.Context, tx *store.Tx) error {
			n, err := drop(ctx, tx)
			if n != want {
				t.Errorf("%s: %d are dropped, want %d", what, n, want)
			}
			return err
		})
	}
	for _, tc := range []struct {
		what string
		ids  []int64
		want int64
	}{
		{"two and one that is not there", []int64{mine[0].ID, mine[9].ID, math.MaxInt64}, 2},
		{"again", []int64{mine[0].ID, mine[9].ID}, 0},
		{"another's", []int64{mine[1].ID + 1}, 0},
		{"none", nil, 0},
	} {
		dropped(tc.what, tc.want, func(ctx context.Context, tx *store.Tx) (int64, error) {
			return tx.DeleteDeadLetters(ctx, "mine", tc.ids)
		})
	}
	for _, tc := range []struct {
		keep int
		want int64
	}{{100, 0}, {8, 0}, {3, 5}, {3, 0}} {
		dropped(fmt.Sprint("keep ", tc.keep), tc.want, func(ctx context.Context, tx *store.Tx) (int64, error) {
			return tx.TrimDeadLetters(ctx, "mine", tc.keep)
		})
	}
	got, err = st.DeadLetters(t.Context(), "mine", 0, 100)
	check("what is left", got, err, mine[8], mine[7], mine[6])
	wantCounts(map[string]int64{"mine": 3, "Mine": 10})
	dropped("all", 3, func(ctx context.Context, tx *store.Tx) (int64, error) { return tx.TrimDeadLetters(ctx, "mine", 0) })
	wantCounts(map[string]int64{"Mine": 10})
}

// TestForwardersInABackup: they are in it, numbers included.
func TestForwardersInABackup(t *testing.T) {
	source := storetest.New(t, storetest.SQLite).Open(t)
	f := store.Forwarder{Name: "one", Spec: []byte("{}"), Secrets: []byte{0, 1}, CreatedBy: "admin"}
	place := store.ForwarderPlace{Name: "one", Settled: 3, Sent: 4, Flowing: true, Counters: []byte("{}")}
	letter := store.DeadLetter{Forwarder: "one", Position: 3, DeviceName: "env01", Reason: "no", Body: []byte{0, 255}}
	update(t, source.Store, func(ctx context.Context, tx *store.Tx) (err error) {
		if f.ID, err = tx.InsertForwarder(ctx, &f); err != nil {
			return err
		}
		if letter.ID, err = tx.InsertDeadLetter(ctx, &letter); err != nil {
			return err
		}
		return tx.PutForwarderPlaces(ctx, []store.ForwarderPlace{place})
	})
	var backup strings.Builder
	if _, err := source.Backup(t.Context(), &backup, store.BackupOptions{}); err != nil {
		t.Fatal(err)
	}
	storetest.Each(t, func(t *testing.T, db *storetest.Database) {
		t.Helper()
		if _, err := store.Restore(t.Context(), db.Config(), strings.NewReader(backup.String()), store.RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		st := db.Open(t).Store
		wantForwarders(t, st, []store.Forwarder{f})
		wantPlaces(t, st, []store.ForwarderPlace{place})
		if got, err := st.DeadLetter(t.Context(), "one", letter.ID); err != nil || !reflect.DeepEqual(got, letter) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}
