package history_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

func brokerEntry(body string) signalbox.Entry {
	return signalbox.Entry{Kind: signalbox.EntryBroker, Body: []byte(body)}
}

// TestBrokerEntries: records of the broker are in the log as long as somebody holds them, and
// nowhere else: not announced, not sealed, part of no answer; all else is as it is without them.
func TestBrokerEntries(t *testing.T) {
	const each = 700
	dir := t.TempDir()
	var announced atomic.Int64
	cfg := history.Config{RowBytes: 2 << 10, TailEntries: 100, Announce: func(e *signalbox.Entry) {
		announced.Add(1)
		if e.Kind == signalbox.EntryBroker {
			t.Errorf("position %d is announced", e.Position)
		}
	}}
	b := open(t, dir, cfg)
	hold := b.log.Hold()
	b.run(t, patience)
	for i := range each {
		one, two := telemetry(1, fmt.Sprintf(`{"i":%d}`, i)), brokerEntry(fmt.Sprintf("\x01record %d", i))
		if i%7 == 0 {
			one.Kind = signalbox.EntryPresence
		}
		if err := b.log.AppendBoth(&one, &two, history.Soon); err != nil {
			t.Fatal(err)
		}
		if two.Position != one.Position+1 || two.ReceivedMicros != one.ReceivedMicros {
			t.Fatalf("the second entry has position %d after %d", two.Position, one.Position)
		}
		if i%50 == 0 {
			b.wait(t, two.Position)
		}
	}
	b.wait(t, b.log.Head())
	if n := announced.Load(); n != each {
		t.Errorf("%d entries are announced, want %d", n, each)
	}
	telemetries := each - (each+6)/7
	check := func(b *bench) {
		t.Helper()
		records := 0
		for _, e := range b.all(t, 0) {
			if e.Kind == signalbox.EntryBroker {
				if want := fmt.Sprintf("\x01record %d", records); string(e.Body) != want {
					t.Fatalf("position %d is %q, want %q", e.Position, e.Body, want)
				}
				records++
			}
		}
		if records != each {
			t.Errorf("the log has %d records of the broker, want %d", records, each)
		}
		answers(t, b, telemetries)
	}
	check(b)
	b = func() *bench { // a start does not seal them either
		if err := errors.Join(b.stop(), b.st.Close()); err != nil {
			t.Fatal(err)
		}
		again := open(t, dir, cfg)
		hold = again.log.Hold()
		again.restore(t, 0)
		again.run(t, patience)
		return again
	}()
	check(b)
	// With nobody to hold them they go with their rows.
	until(t, "the log is short", func() bool {
		b.wait(t, b.append(t, telemetry(1, `{"i":0}`), history.Now).Position)
		telemetries++
		hold.Release(b.log.Head())
		return b.log.Kept() < each
	})
	for _, e := range scanned(t, b, 1) {
		if e.Kind == signalbox.EntryBroker && e.Position < b.log.Head()-signalbox.Position(b.log.Kept()) {
			t.Errorf("position %d is in a chunk", e.Position)
		}
	}
	answers(t, b, telemetries)
}

// answers checks that questions give n messages of device 1 and nothing else.
func answers(t *testing.T, b *bench, n int) {
	t.Helper()
	page, err := b.log.Page(t.Context(), history.Query{Device: 1, Limit: history.MaxPage})
	if err != nil || len(page) != n {
		t.Errorf("the page has %d messages (%v), want %d", len(page), err, n)
	}
	for what, scan := range map[string]func(func(*signalbox.Entry) error) error{
		"by time": func(yield func(*signalbox.Entry) error) error {
			return b.log.ScanTime(t.Context(), history.ScanQuery{}, yield)
		},
		"by range": func(yield func(*signalbox.Entry) error) error {
			return b.log.ScanRange(t.Context(), history.RangeQuery{}, yield)
		},
	} {
		got := 0
		err := scan(func(e *signalbox.Entry) error {
			if got++; !e.Kind.IsTelemetry() || e.Device != 1 {
				t.Errorf("%s: position %d is a %v of device %d", what, e.Position, e.Kind, e.Device)
			}
			return nil
		})
		if err != nil || got != n {
			t.Errorf("%s there are %d messages (%v), want %d", what, got, err, n)
		}
	}
}

// scanned gives what Scan does, which may have gaps.
func scanned(t *testing.T, b *bench, from signalbox.Position) (got []signalbox.Entry) {
	t.Helper()
	err := b.log.Scan(t.Context(), from, func(e *signalbox.Entry) error {
		kept := *e
		kept.Body = slices.Clone(e.Body)
		got = append(got, kept)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestBrokerAlone: a log of nothing but records of the broker does not grow when they are not
// needed, and goes on behind them after a start.
func TestBrokerAlone(t *testing.T) {
	dir := t.TempDir()
	b := start(t, dir, history.Config{})
	for range 200 {
		b.wait(t, b.append(t, brokerEntry("\x01one"), history.Now).Position)
	}
	until(t, "the log is short", func() bool {
		b.wait(t, b.append(t, brokerEntry("\x01one"), history.Now).Position)
		return b.log.Kept() < 100
	})
	head := b.log.Head()
	b = b.reopen(t, dir, history.Config{}, 0)
	if e := b.append(t, brokerEntry("\x01two"), history.Now); e.Position != head+1 {
		t.Errorf("the log goes on at %d, want %d", e.Position, head+1)
	}
	if n := b.log.Stats().Chunks.Load(); n != 0 {
		t.Errorf("%d chunks", n)
	}
}

func TestAppendBothFull(t *testing.T) {
	b := open(t, t.TempDir(), history.Config{MaxPending: 1000})
	for {
		one, two := telemetry(1, `{"a":1}`), brokerEntry(strings.Repeat("x", 100))
		err := b.log.AppendBoth(&one, &two, history.Soon)
		if err == nil {
			continue
		}
		if !errors.Is(err, history.ErrFull) || one.Position != 0 || two.Position != 0 {
			t.Errorf("refused with %v, positions %d and %d", err, one.Position, two.Position)
		}
		break
	}
	head := b.log.Head()
	if head%2 != 0 || head == 0 {
		t.Errorf("the log ends at %d, in the middle of a pair", head)
	}
	b.run(t, patience)
	b.wait(t, head)
	one := telemetry(1, `{"a":1}`)
	if err := b.log.AppendBoth(&one, nil, history.Now); err != nil || one.Position != head+1 {
		t.Errorf("one entry alone: %v at %d", err, one.Position)
	}
}

// whole checks that pairs are whole in what is there of the log, and gives how many there are.
func whole(t *testing.T, entries []signalbox.Entry) int {
	t.Helper()
	pairs := 0
	for i := 0; i < len(entries); i++ {
		var w, n, rest int
		if _, err := fmt.Sscanf(string(entries[i].Body), `{"w":%d,"n":%d}`, &w, &n); err != nil {
			t.Fatalf("position %d is %s", entries[i].Position, entries[i].Body)
		}
		if i++; i == len(entries) {
			t.Fatalf("the log ends at %d with half a pair", entries[i-1].Position)
		}
		if _, err := fmt.Sscanf(string(entries[i].Body), "\x01%d %d %d", &w, &n, &rest); err != nil || entries[i].Kind != signalbox.EntryBroker ||
			string(entries[i-1].Body) != fmt.Sprintf(`{"w":%d,"n":%d}`, w, n) {
			t.Fatalf("position %d is %q after %s", entries[i].Position, entries[i].Body, entries[i-1].Body)
		}
		pairs++
	}
	return pairs
}

// pairs appends n pairs of entries as large as rows, and gives the last position.
func pairs(t *testing.T, b *bench, w, n int) (last signalbox.Position) {
	t.Helper()
	for i := range n {
		one := telemetry(signalbox.DeviceID(w+1), fmt.Sprintf(`{"w":%d,"n":%d}`, w, i))
		two := brokerEntry(fmt.Sprintf("\x01%d %d 0", w, i) + strings.Repeat("x", i*37%300))
		err := b.log.AppendBoth(&one, &two, history.Urgency(i%3))
		for errors.Is(err, history.ErrFull) {
			b.wait(t, last)
			err = b.log.AppendBoth(&one, &two, history.Now)
		}
		if err != nil {
			t.Error(err)
			return last
		}
		last = two.Position
	}
	return last
}

// TestPairsSurviveWhole copies the database while pairs are written whose entries fill rows:
// both are there, or none.
func TestPairsSurviveWhole(t *testing.T) {
	if !onFile() {
		return
	}
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 2))
	dir := t.TempDir()
	st, err := store.Open(t.Context(), store.Config{Dir: dir, CheckpointBytes: 1 << 40}) // see TestKill
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	b := &bench{st: st}
	if b.log, err = history.Open(t.Context(), history.Config{RowBytes: 256, MaxPending: 32 << 10}, st); err != nil {
		t.Fatal(err)
	}
	b.log.Hold()
	b.run(t, patience)
	var group sync.WaitGroup
	for w := range 3 {
		group.Go(func() { pairs(t, b, w, 2000) })
	}
	for range 6 {
		b.wait(t, min(b.log.Committed()+signalbox.Position(rng.IntN(1500)+1), 12_000))
		acknowledged := b.log.Committed()
		again := open(t, copyDatabase(t, dir), history.Config{})
		if n := whole(t, again.all(t, 0)); signalbox.Position(2*n) < acknowledged {
			t.Errorf("%d pairs survived, %d entries were acknowledged", n, acknowledged)
		}
	}
	group.Wait()
	b.wait(t, b.log.Head())
	if n := whole(t, b.all(t, 0)); n != 6000 {
		t.Errorf("%d pairs, want 6000", n)
	}
}

// TestPairsInTheSpool cuts the file off at which pairs are kept while the server is away.
func TestPairsInTheSpool(t *testing.T) {
	if !onFile() {
		return
	}
	server := storetest.Start(t, storetest.MariaDB)
	db, dir := server.NewDatabase(t), t.TempDir()
	b, end := remote(t, db, dir, 0)
	server.Stop(t)
	for w := range 10 {
		b.wait(t, pairs(t, b, w, 50))
	}
	end()
	spool := filepath.Join(dir, history.SpoolName)
	info, err := os.Stat(spool)
	if err != nil || info.Size() == 0 {
		t.Fatalf("nothing was kept: %v", err)
	}
	if err := os.Truncate(spool, info.Size()*2/3); err != nil {
		t.Fatal(err)
	}
	server.Start(t)
	again, _ := remote(t, db, dir, 0)
	if n := whole(t, scanned(t, again, 1)); n == 0 || n >= 500 {
		t.Errorf("%d pairs are left of 500", n)
	}
}
