package history_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// All tests run on each kind of database.
func TestMain(m *testing.M) { os.Exit(storetest.MainEach(m)) }

// onFile says whether the database is a file, which these tests fill, copy or break.
func onFile() bool { return storetest.Running() == storetest.SQLite }

// bench is a log over a real database.
type bench struct {
	st   *store.Store
	log  *history.Log
	stop func() error // ends Run and gives its error
}

// patience is how long a test waits for what should happen at once.
const patience = 30 * time.Second

func openStore(tb testing.TB, dir string) *store.Store {
	tb.Helper()
	st, err := store.Open(context.Background(), storetest.Config(tb, dir))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = st.Close() })
	return st
}

// open opens the log without running it.
func open(tb testing.TB, dir string, cfg history.Config) *bench {
	tb.Helper()
	b := &bench{st: openStore(tb, dir)}
	var err error
	if b.log, err = history.Open(tb.Context(), cfg, b.st); err != nil {
		tb.Fatal(err)
	}
	return b
}

func (b *bench) run(tb testing.TB, grace time.Duration) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.log.Run(ctx, grace) }()
	b.stop = sync.OnceValue(func() error { cancel(); return <-done })
	tb.Cleanup(func() { _ = b.stop() })
}

func start(tb testing.TB, dir string, cfg history.Config) *bench {
	tb.Helper()
	b := open(tb, dir, cfg)
	b.run(tb, patience)
	return b
}

// reopen stops everything and starts again from the directory, with a checkpoint.
func (b *bench) reopen(tb testing.TB, dir string, cfg history.Config, checkpoint signalbox.Position) *bench {
	tb.Helper()
	if err := b.stop(); err != nil {
		tb.Fatal(err)
	}
	if err := b.st.Close(); err != nil {
		tb.Fatal(err)
	}
	again := open(tb, dir, cfg)
	again.restore(tb, checkpoint)
	again.run(tb, patience)
	return again
}

func (b *bench) restore(tb testing.TB, checkpoint signalbox.Position) {
	tb.Helper()
	err := b.log.Restore(tb.Context(), checkpoint, func(e *signalbox.Entry) error {
		if e.Position <= checkpoint {
			tb.Errorf("Restore from checkpoint %d gave position %d", checkpoint, e.Position)
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
}

func (b *bench) append(tb testing.TB, e signalbox.Entry, u history.Urgency) signalbox.Entry {
	tb.Helper()
	if err := b.log.Append(&e, u); err != nil {
		tb.Fatal(err)
	}
	return e
}

func (b *bench) wait(tb testing.TB, p signalbox.Position) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	if err := b.log.Wait(ctx, p); err != nil {
		tb.Fatalf("waiting for position %d (committed %d, %v): %v", p, b.log.Committed(), b.log.Err(), err)
	}
}

// all reads the whole log back and checks that it is dense and in order.
func (b *bench) all(tb testing.TB, from signalbox.Position) []signalbox.Entry {
	tb.Helper()
	var got []signalbox.Entry
	err := b.log.Scan(tb.Context(), from, func(e *signalbox.Entry) error {
		kept := *e
		kept.Body = slices.Clone(e.Body)
		got = append(got, kept)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	for i, e := range got {
		if want := max(from, 1) + signalbox.Position(i); e.Position != want {
			tb.Fatalf("entry %d has position %d, want %d", i, e.Position, want)
		}
		if i > 0 && e.ReceivedMicros < got[i-1].ReceivedMicros {
			tb.Fatalf("position %d was received %d, before its elder's %d", e.Position, e.ReceivedMicros, got[i-1].ReceivedMicros)
		}
	}
	return got
}

func telemetry(d signalbox.DeviceID, body string) signalbox.Entry {
	return signalbox.Entry{Device: d, Kind: signalbox.EntryTelemetry, Body: []byte(body)}
}

func sameEntry(a, b *signalbox.Entry) bool {
	return a.Position == b.Position && a.Device == b.Device && a.Kind == b.Kind && a.ReceivedMicros == b.ReceivedMicros &&
		a.TimeMicros == b.TimeMicros && a.Seq == b.Seq && (a.Seq == 0 || a.Boot == b.Boot) && string(a.Body) == string(b.Body)
}

func TestConcurrentAppendKeepsOneOrder(t *testing.T) {
	var (
		mu        sync.Mutex
		announced []signalbox.Entry
		commits   []signalbox.Position
	)
	b := open(t, t.TempDir(), history.Config{RowBytes: 4 << 10, Announce: func(e *signalbox.Entry) {
		kept := *e
		kept.Body = slices.Clone(e.Body)
		announced = append(announced, kept) // the log's lock guards it
	}})
	b.log.OnCommit(func(p signalbox.Position) {
		mu.Lock()
		defer mu.Unlock()
		if p != b.log.Committed() {
			t.Errorf("OnCommit says %d, Committed %d", p, b.log.Committed())
		}
		commits = append(commits, p)
	})
	b.log.Hold() // chunks do not keep boot and seq
	b.run(t, patience)
	const writers, each = 8, 500
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			var last signalbox.Position
			for i := range each {
				e := telemetry(signalbox.DeviceID(w+1), fmt.Sprintf(`{"n":%d}`, i))
				e.Boot, e.Seq = rng.Uint64(), uint64(i+1)
				if i%3 == 0 {
					e.Kind, e.TimeMicros = signalbox.EntryAlert, time.Now().UnixMicro()-rng.Int64N(1e12)
				}
				if err := b.log.Append(&e, history.Urgency(i%3)); err != nil {
					t.Error(err)
					return
				}
				if e.Position <= last {
					t.Errorf("position %d after %d", e.Position, last)
				}
				last = e.Position
				if i%100 == 0 {
					b.wait(t, e.Position)
				}
			}
		})
	}
	group.Wait()
	b.wait(t, b.log.Head())
	got := b.all(t, 0)
	if len(got) != writers*each || b.log.Head() != writers*each {
		t.Fatalf("the log holds %d entries and ends at %d, want %d", len(got), b.log.Head(), writers*each)
	}
	for i := range got {
		if !sameEntry(&got[i], &announced[i]) {
			t.Fatalf("stored %+v, announced %+v", got[i], announced[i])
		}
	}
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	if !slices.IsSorted(commits) || len(commits) == 0 || commits[len(commits)-1] != writers*each {
		t.Errorf("OnCommit gave %v", commits)
	}
	if s := b.log.Stats(); s.Entries.Load() != writers*each || s.Telemetry.Load() != int64(writers*(each-167)) || s.Rows.Load() < 10 || b.log.Pending() != 0 {
		t.Errorf("entries %d, telemetry %d, rows %d, pending %d", s.Entries.Load(), s.Telemetry.Load(), s.Rows.Load(), b.log.Pending())
	}
	for _, from := range []signalbox.Position{1, 2, 1999, 4000, 4001} {
		if n := len(b.all(t, from)); n != writers*each+1-int(from) {
			t.Errorf("Scan from %d gave %d entries", from, n)
		}
	}
}

func TestUrgency(t *testing.T) {
	tests := []struct {
		name        string
		urgency     history.Urgency
		least, most time.Duration
	}{
		{"now", history.Now, 0, patience},
		{"acked", history.Acked, 9 * time.Millisecond, patience},
		{"soon", history.Soon, 49 * time.Millisecond, patience},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := start(t, t.TempDir(), history.Config{AckWait: 9 * time.Millisecond, MaxWait: 49 * time.Millisecond})
			began := time.Now()
			b.wait(t, b.append(t, telemetry(1, `{}`), tt.urgency).Position)
			if took := time.Since(began); took < tt.least || took > tt.most {
				t.Errorf("on disk after %s, want %s to %s", took, tt.least, tt.most)
			}
		})
	}
	t.Run("the most urgent decides", func(t *testing.T) {
		b := start(t, t.TempDir(), history.Config{})
		soon := b.append(t, telemetry(1, `{}`), history.Soon)
		b.append(t, telemetry(1, `{}`), history.Now)
		b.wait(t, soon.Position)
		if n := b.log.Stats().Commits.Load(); n > 2 {
			t.Errorf("%d commits", n)
		}
	})
}

func TestRowsAreSplit(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, history.Config{RowBytes: 1000})
	for i := range 100 { // 100 bytes each, before anything commits
		b.append(t, telemetry(signalbox.DeviceID(i%3+1), fmt.Sprintf(`{"n":%90d}`, i)), history.Soon)
	}
	b.run(t, patience)
	b.wait(t, 100)
	rows, err := b.st.Reader().QueryContext(t.Context(), `SELECT id, n, received_us <= received_last_us FROM intake ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	next, count := 1, 0
	for rows.Next() {
		var id, n int
		var ordered bool
		if err := rows.Scan(&id, &n, &ordered); err != nil {
			t.Fatal(err)
		}
		if id != next || n > 11 || !ordered {
			t.Errorf("row %d with %d entries, want row %d with at most 11", id, n, next)
		}
		next, count = id+n, count+1
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if next != 101 || count < 10 {
		t.Errorf("%d rows end before position %d", count, next)
	}
	if commits := b.log.Stats().Commits.Load(); commits != 1 {
		t.Errorf("%d commits, want all rows in one", commits)
	}
	b.all(t, 0)
}

func TestFullAndRecovery(t *testing.T) {
	b := open(t, t.TempDir(), history.Config{MaxPending: 2000})
	n := 0
	for ; ; n++ {
		e := telemetry(1, fmt.Sprintf(`{"n":%90d}`, n))
		err := b.log.Append(&e, history.Soon)
		if err == nil {
			continue
		}
		if !errors.Is(err, history.ErrFull) || e.Position != 0 {
			t.Fatalf("got %v and position %d", err, e.Position)
		}
		break
	}
	if n < 15 || n > 20 || b.log.Pending() > 2000 || b.log.Stats().Refused.Load() != 1 {
		t.Errorf("%d entries taken, %d bytes pending, %d refused", n, b.log.Pending(), b.log.Stats().Refused.Load())
	}
	b.run(t, patience)
	b.wait(t, signalbox.Position(n))
	b.wait(t, b.append(t, telemetry(1, `{}`), history.Now).Position)
	if got := b.all(t, 0); len(got) != n+1 {
		t.Errorf("%d entries, want %d: a refused one must leave no gap and no trace", len(got), n+1)
	}
}

// TestLargeEntry holds that an entry larger than all that may wait is taken when nothing
// else does: pushing it back would be for ever.
func TestLargeEntry(t *testing.T) {
	b := start(t, t.TempDir(), history.Config{MaxPending: 1000, RowBytes: 500})
	large := `{"a":"` + string(make([]byte, 1<<20)) + `"}`
	b.wait(t, b.append(t, telemetry(1, large), history.Now).Position)
	if got := b.all(t, 0); len(got) != 1 || string(got[0].Body) != large {
		t.Error("the entry came back changed")
	}
}

// fill makes the database refuse to grow, as a full disk does; the returned func gives it
// room again.
func fill(tb testing.TB, st *store.Store) (empty func()) {
	tb.Helper()
	set := func(pages int) {
		err := st.Update(context.Background(), func(tx *store.Tx) error {
			var n int
			query := "PRAGMA max_page_count = 1" // never below what the file has
			if pages > 0 {
				query = "PRAGMA max_page_count = 1000000000"
			}
			return tx.QueryRow(context.Background(), query, nil, &n)
		})
		if err != nil {
			tb.Error(err)
		}
	}
	set(0)
	return func() { set(1) }
}

func TestFullDiskIsToldAndSurvived(t *testing.T) {
	if !onFile() {
		return
	}
	b := open(t, t.TempDir(), history.Config{RowBytes: 64 << 10})
	empty := fill(t, b.st)
	b.run(t, patience)
	noise := make([]byte, 32<<10)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	e := b.append(t, telemetry(1, string(noise)), history.Now)
	deadline := time.Now().Add(patience)
	for b.log.Err() == nil {
		if time.Now().After(deadline) {
			t.Fatal("a full disk is not told")
		}
	}
	if err := b.log.Err(); signalbox.CodeOf(err) != "disk_full" || signalbox.KindOf(err) != signalbox.KindUnavailable {
		t.Errorf("the fault is %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := b.log.Wait(ctx, e.Position); !errors.Is(err, context.DeadlineExceeded) || b.log.Committed() != 0 {
		t.Errorf("Wait gave %v, committed is %d", err, b.log.Committed())
	}
	b.append(t, telemetry(2, `{}`), history.Now) // goes on being taken
	empty()
	b.wait(t, 2)
	if b.log.Err() != nil || b.log.Stats().Faults.Load() == 0 {
		t.Errorf("after recovery: %v, %d faults", b.log.Err(), b.log.Stats().Faults.Load())
	}
	if got := b.all(t, 0); len(got) != 2 || string(got[0].Body) != string(noise) {
		t.Errorf("%d entries", len(got))
	}
}

func TestDrain(t *testing.T) {
	t.Run("writes the rest", func(t *testing.T) {
		dir := t.TempDir()
		b := start(t, dir, history.Config{RowBytes: 100})
		for range 1000 { // some 300 rows: several commits
			b.append(t, telemetry(1, `{"a":"0123456789012345678901234567890123456789"}`), history.Soon)
		}
		if err := b.stop(); err != nil || b.log.Committed() != 1000 {
			t.Fatalf("stopped with %v at %d", err, b.log.Committed())
		}
		e := telemetry(1, `{}`)
		if err := b.log.Append(&e, history.Now); signalbox.CodeOf(err) != "stopping" {
			t.Errorf("Append after the end gave %v", err)
		}
		b.wait(t, 1000)
		if err := b.log.Wait(t.Context(), 1001); signalbox.CodeOf(err) != "stopping" {
			t.Errorf("waiting for what will never come gave %v", err)
		}
	})
	t.Run("gives up after grace", func(t *testing.T) {
		if !onFile() {
			return
		}
		b := open(t, t.TempDir(), history.Config{})
		empty := fill(t, b.st)
		defer empty()
		b.run(t, 200*time.Millisecond)
		noise := make([]byte, 64<<10)
		rng := rand.New(rand.NewPCG(5, 6))
		for i := range noise {
			noise[i] = byte(rng.Uint32())
		}
		b.append(t, telemetry(1, string(noise)), history.Now)
		began := time.Now()
		err := b.stop()
		if signalbox.CodeOf(err) != "store_unavailable" || time.Since(began) > patience {
			t.Errorf("stopped with %v after %s", err, time.Since(began))
		}
	})
}

// TestKill copies the files of the database while entries are written, as kill -9 and a
// restart would find them, and opens the copy.
func TestKill(t *testing.T) {
	if !onFile() {
		return
	}
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	dir := t.TempDir()
	// Without checkpoints the database file stays as it is and the write-ahead file only
	// grows, so that copying one after the other is like copying both in one moment.
	st, err := store.Open(t.Context(), store.Config{Dir: dir, CheckpointBytes: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	b := &bench{st: st}
	if b.log, err = history.Open(t.Context(), history.Config{RowBytes: 8 << 10}, st); err != nil {
		t.Fatal(err)
	}
	b.run(t, patience)
	var stop atomic.Bool
	var group sync.WaitGroup
	for w := range 3 {
		group.Go(func() {
			for i := 0; !stop.Load(); i++ {
				e := telemetry(signalbox.DeviceID(w+1), fmt.Sprintf(`{"i":%d}`, i))
				e.Boot, e.Seq = 1, uint64(i+1)
				if err := b.log.Append(&e, history.Acked); errors.Is(err, history.ErrFull) {
					i--
				} else if err != nil {
					t.Error(err)
					return
				}
				if i%64 == 0 {
					b.wait(t, e.Position)
				}
			}
		})
	}
	for round := range 4 {
		b.wait(t, b.log.Committed()+signalbox.Position(rng.IntN(3000)+1))
		acknowledged := b.log.Committed()
		copied := copyDatabase(t, dir)
		again := open(t, copied, history.Config{})
		got := again.all(t, 0)
		if signalbox.Position(len(got)) < acknowledged {
			t.Fatalf("round %d: %d entries survived, %d were acknowledged", round, len(got), acknowledged)
		}
		counts := map[signalbox.DeviceID]int{}
		for _, e := range got {
			if want := fmt.Sprintf(`{"i":%d}`, counts[e.Device]); string(e.Body) != want {
				t.Fatalf("round %d: device %d has %s at position %d, want %s", round, e.Device, e.Body, e.Position, want)
			}
			counts[e.Device]++
		}
		// The copy is a log like any other: chains go on in it.
		again.restore(t, 0)
		again.run(t, patience)
		again.wait(t, again.append(t, telemetry(1, `{"last":1}`), history.Now).Position)
		page, err := again.log.Page(t.Context(), history.Query{Device: 1, Limit: history.MaxPage})
		if err != nil || len(page) != min(counts[1]+1, history.MaxPage) || string(page[0].Object) != `{"last":1}` {
			t.Fatalf("round %d: page of %d messages, want %d: %v", round, len(page), counts[1]+1, err)
		}
	}
	stop.Store(true)
	group.Wait()
}

// copyDatabase copies the files as they are at the moment, a half-written transaction
// included.
func copyDatabase(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	for _, name := range []string{"signalbox.db", "signalbox.db-wal"} {
		data, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+"/"+name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// TestRide: what rides along is in the commit it was asked for; when it fails, the entries
// go without it.
func TestRide(t *testing.T) {
	b := open(t, t.TempDir(), history.Config{})
	asked := 0
	var outcomes []error
	b.log.Ride(func() (history.Change, func(error)) {
		if asked++; asked == 3 {
			return nil, nil
		}
		fail := asked == 2
		write := func(ctx context.Context, tx *store.Tx) error {
			if err := tx.SetMeta(ctx, "rider", fmt.Sprint(asked)); err != nil || !fail {
				return err
			}
			return errors.New("refused")
		}
		return write, func(err error) { outcomes = append(outcomes, err) }
	})
	b.run(t, patience)
	for i, want := range []string{"1", "1", "1", "4"} {
		b.wait(t, b.append(t, telemetry(1, `{}`), history.Now).Position)
		if got, err := b.st.Meta(t.Context(), "rider"); err != nil || got != want {
			t.Errorf("after commit %d: %q, %v; want %q", i+1, got, err, want)
		}
	}
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if len(outcomes) != 3 || outcomes[0] != nil || outcomes[1] == nil || outcomes[2] != nil {
		t.Errorf("the riders were told %v", outcomes)
	}
	if b.log.Err() != nil || b.log.Stats().Faults.Load() != 0 {
		t.Errorf("a rider's fault counts as the log's: %v", b.log.Err())
	}
}
