package history_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// past appends rounds of entries of a few devices, some of them imported, and lets each round be
// made into chunks before the next one comes. It gives what anyone who follows the log should see,
// and how much telemetry there is of each device.
func past(t *testing.T, b *bench, rounds, each int, imports func(rng *rand.Rand, round int) (imported bool, back time.Duration)) (live []signalbox.Entry, all map[signalbox.DeviceID]int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(9, 9))
	all = map[signalbox.DeviceID]int{}
	n := 0
	for round := range rounds {
		for range each {
			n++
			e := telemetry(signalbox.DeviceID(rng.IntN(2)+1), fmt.Sprintf(`{"n":%d,"round":%d}`, n, round))
			imported, back := imports(rng, round)
			if imported {
				e.Kind = signalbox.EntryImported
			}
			if back > 0 {
				e.TimeMicros = time.Now().Add(-back).UnixMicro()
			}
			if rng.IntN(50) == 0 {
				e.Kind = signalbox.EntryPresence
			}
			e = b.append(t, e, history.Soon)
			if e.Kind.IsTelemetry() {
				all[e.Device]++
			}
			if e.Kind != signalbox.EntryImported {
				live = append(live, e)
			}
		}
		b.wait(t, b.log.Head())
		until(t, "the round is in chunks", func() bool { return b.log.Stats().ChunkMessages.Load() >= int64(b.log.Committed()) })
	}
	return live, all
}

// wantPast asks in several ways for what past has appended.
func wantPast(t *testing.T, b *bench, end signalbox.Position, live []signalbox.Entry, all map[signalbox.DeviceID]int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(9, 10))
	for i := range 12 {
		q := history.SinceQuery{Until: end, Events: i%2 == 0}
		if i > 1 {
			q.Devices = someDevices(rng, 3)
			q.After = signalbox.Position(rng.IntN(int(end)))
			q.Until = min(end, q.After+signalbox.Position(rng.IntN(int(end))))
		}
		want := slices.Clone(live)
		want = slices.DeleteFunc(want, func(e signalbox.Entry) bool {
			return e.Position <= q.After || e.Position > q.Until || !q.Events && e.Kind != signalbox.EntryTelemetry || q.Devices != nil && !slices.Contains(q.Devices, e.Device)
		})
		got, err := since(t.Context(), b, q, -1)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		wantSame(t, q, got, want)
	}
	// For everybody else imported telemetry is like any other.
	for device, n := range all {
		inTime := 0
		err := b.log.ScanTime(t.Context(), history.ScanQuery{Devices: []signalbox.DeviceID{device}}, func(*signalbox.Entry) error { inTime++; return nil })
		if err != nil {
			t.Fatal(err)
		}
		page, err := b.log.Page(t.Context(), history.Query{Device: device, Limit: history.MaxPage})
		if err != nil || inTime != n || len(page) != n {
			t.Errorf("device %d has %d messages in a scan and %d on a page, want %d (%v)", device, inTime, len(page), n, err)
		}
	}
}

func some(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }

// TestSinceImported: who follows the log is never given what was imported, when it is in chunks
// alone no more than before, among other messages of the device and beside them, after chunks were
// merged and after starts.
func TestSinceImported(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, tt := range []struct {
		name         string
		rounds, each int
		merged       bool
		imports      func(rng *rand.Rand, round int) (bool, time.Duration)
	}{
		{"a year alone", 2, 2500, false, func(rng *rand.Rand, _ int) (bool, time.Duration) { return true, some(rng, year) }},
		{"a year before the first message", 3, 1500, false, func(rng *rand.Rand, round int) (bool, time.Duration) {
			return round == 0, time.Duration(1-min(round, 1)) * some(rng, year)
		}},
		{"a year behind what there is", 3, 1500, false, func(rng *rand.Rand, round int) (bool, time.Duration) {
			return round > 0, time.Duration(min(round, 1)) * some(rng, year)
		}},
		{"among live messages, and older", 3, 1500, false, func(rng *rand.Rand, _ int) (bool, time.Duration) {
			if rng.IntN(3) == 0 {
				return true, some(rng, year)
			}
			return false, some(rng, time.Second)
		}},
		{"in chunks that are merged", 12, 40, true, func(rng *rand.Rand, round int) (bool, time.Duration) { return rng.IntN(4) == 0 || round == 5, 0 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, cfg := t.TempDir(), history.Config{RowBytes: 2 << 10, TailEntries: 1200, Cold: 50 * time.Millisecond}
			b := start(t, dir, cfg)
			live, all := past(t, b, tt.rounds, tt.each, tt.imports)
			end := b.log.Committed()
			until(t, "the log has none of it", func() bool {
				if b.log.Stats().ChunkMessages.Load() < int64(b.log.Committed()) {
					return false
				}
				if b.log.Committed()-signalbox.Position(b.log.Kept()) >= end {
					return true
				}
				// Rows leave the log with a commit, but the last one.
				b.append(t, telemetry(9, `{"later":1}`), history.Now)
				b.wait(t, b.log.Head())
				return false
			})
			if tt.merged {
				until(t, "chunks were merged", func() bool { return b.log.Stats().Merges.Load() > 0 })
			}
			wantPast(t, b, end, live, all)
			b = b.reopen(t, dir, cfg, b.log.Committed())
			wantPast(t, b, end, live, all)
			b.log.LimitSweeps(1<<20, 100, 0, 0)
			wantPast(t, b, end, live, all)
		})
	}
}
