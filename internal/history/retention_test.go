package history_test

import (
	"log/slog"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

// TestDroppedButInTheLog drops chunks whose messages the log still has: no question sees them,
// and no start brings them back; Scan gives them until the log lets go of them.
func TestDroppedButInTheLog(t *testing.T) {
	dir, cfg := t.TempDir(), history.Config{TailEntries: 64, RowBytes: 512}
	b := open(t, dir, cfg)
	b.log.Hold() // keeps all
	b.restore(t, 0)
	b.run(t, patience)
	const messages = 300
	fill := func(b *bench, device signalbox.DeviceID) {
		var last signalbox.Position
		for range messages {
			last = b.append(t, telemetry(device, `{"a":1}`), history.Soon).Position
		}
		b.wait(t, last)
	}
	count := func(b *bench) int {
		page, err := b.log.Page(t.Context(), history.Query{Device: 1, Limit: history.MaxPage})
		if err != nil {
			t.Fatal(err)
		}
		return len(page)
	}
	drop := func(b *bench) int64 {
		// What was cut last is on disk with the next commit.
		b.wait(t, b.append(t, telemetry(2, `{"a":1}`), history.Now).Position)
		count(b)
		b.wait(t, b.append(t, telemetry(2, `{"a":1}`), history.Now).Position)
		sum, err := b.log.DropBefore(t.Context(), func(device signalbox.DeviceID) time.Time {
			if device == 1 {
				return time.Now().Add(time.Hour)
			}
			return time.Time{}
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return sum.Messages
	}
	fill(b, 1)
	fill(b, 2) // device 1 is in chunks as a whole
	dropped := drop(b)
	left := count(b)
	if dropped == 0 || left == 0 || int(dropped)+left != messages {
		t.Fatalf("%d messages were dropped and %d are left; some of %d have to stay", dropped, left, messages)
	}
	if got := b.all(t, 1); len(got) < 2*messages {
		t.Errorf("the log gives %d entries, want %d at least", len(got), 2*messages)
	}
	n := 0
	err := b.log.ScanRange(t.Context(), history.RangeQuery{ScanQuery: history.ScanQuery{Devices: []signalbox.DeviceID{1}}}, func(*signalbox.Entry) error { n++; return nil })
	if err != nil || n != left {
		t.Errorf("ScanRange gives %d messages (%v), want %d", n, err, left)
	}

	b = b.reopen(t, dir, cfg, 0)
	if got := count(b); got != left {
		t.Errorf("after a start %d messages are there, want %d", got, left)
	}

	for round := 0; count(b) > 0; round++ { // nothing holds the log any more
		if round == 50 {
			t.Fatalf("%d messages are never dropped", count(b))
		}
		fill(b, 2)
		drop(b)
	}
}

// TestOldest: where a device's history begins is told by broken chunks as well, and by what is in memory.
func TestOldest(t *testing.T) {
	b := start(t, t.TempDir(), smallTails(slog.New(slog.DiscardHandler)))
	numbered(t, b, 2, 3000)
	want := func(what string, device signalbox.DeviceID, wanted time.Time) {
		t.Helper()
		got, err := b.log.Oldest(t.Context(), func(d signalbox.DeviceID) bool { return d != 2 })
		if err != nil || !got[device].Equal(wanted) || !got[2].IsZero() {
			t.Errorf("%s: device %d begins at %v, %v; want %v", what, device, got[device], err, wanted)
		}
	}
	page, err := b.log.Page(t.Context(), history.Query{Device: 1, Order: history.OldestFirst, Limit: 1})
	if err != nil || len(page) != 1 {
		t.Fatal(page, err)
	}
	want("at first", 1, page[0].Time)
	err = b.st.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE chunk SET body = ? WHERE device = 1`, []byte{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want("broken", 1, page[0].Time)
	e := signalbox.Entry{Device: 7, Kind: signalbox.EntryImported, TimeMicros: 5_000_000, Body: []byte(`{"a":1}`)}
	if err := b.log.Append(&e, history.Now); err != nil {
		t.Fatal(err)
	}
	b.wait(t, e.Position)
	want("in memory", 7, time.Unix(5, 0))
	want("unknown", 9, time.Time{})
}
