package history_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// TestSweepLimits asks for everything in order with so little memory that slices are narrow,
// and what was begun has to be let go and read again.
func TestSweepLimits(t *testing.T) {
	dir := t.TempDir()
	cfg := history.Config{RowBytes: 2000, TailEntries: 300}
	const devices = 4
	rng := rand.New(rand.NewPCG(4, 4))
	b := start(t, dir, cfg)
	m := randomHistory(t, b, rng, devices, 600, nil)
	for _, limit := range []struct {
		name                            string
		bytes, entries, cursors, chunks int64
	}{
		{"narrow slices", 1 << 20, 8, 1 << 20, 1 << 20},
		{"few bytes", 300, 1000, 1 << 20, 1 << 20},
		{"no cursors", 1 << 20, 16, 0, 1 << 20},
		{"no chunks", 1 << 20, 16, 1 << 20, 0},
		{"nothing", 300, 8, 0, 0},
	} {
		t.Run(limit.name, func(t *testing.T) {
			b.log.LimitSweeps(limit.bytes, limit.entries, limit.cursors, limit.chunks)
			checkTimes(t, b, rng, devices, m)
			checkRanges(t, b, rng, devices, m)
			if got := b.all(t, 0); len(got) != len(m) {
				t.Errorf("the log has %d entries, want %d", len(got), len(m))
			}
		})
	}
}

// TestScanOfNoMicrosecond: between two times of the same microsecond there is nothing.
func TestScanOfNoMicrosecond(t *testing.T) {
	b := start(t, t.TempDir(), history.Config{})
	base := time.Now().Add(-time.Hour).Truncate(time.Second)
	for i := range 500 {
		e := telemetry(1, fmt.Sprintf(`{"n":%d}`, i))
		e.TimeMicros = base.UnixMicro() + int64(i)*1000
		b.append(t, e, history.Soon)
	}
	b.wait(t, b.log.Head())
	at := base.Add(100*time.Millisecond + 200)
	err := b.log.ScanTime(t.Context(), history.ScanQuery{From: at, To: at.Add(500)}, func(e *signalbox.Entry) error {
		return fmt.Errorf("position %d of %v", e.Position, time.UnixMicro(e.TimeMicros))
	})
	if err != nil {
		t.Error(err)
	}
}

// TestScanWhileMerging holds that a scan in order of time gives what was committed when it
// began, all of it and once, while chunks are written and merged under it.
func TestScanWhileMerging(t *testing.T) {
	b := start(t, t.TempDir(), history.Config{RowBytes: 2 << 10, TailEntries: 200})
	b.log.LimitSweeps(1<<20, 1000, 0, 0) // all chunks are read again and again
	const n = 20_000
	done := make(chan error, 1)
	go func() {
		for i := range n {
			e := telemetry(signalbox.DeviceID(i%20+1), fmt.Sprintf(`{"n":%d}`, i/20))
			u := history.Soon
			if i%100 == 0 {
				u = history.Now
			}
			if err := b.log.Append(&e, u); err != nil {
				done <- err
				return
			}
			if i%1000 == 0 {
				if err := b.log.Wait(t.Context(), e.Position); err != nil {
					done <- err
					return
				}
			}
		}
		done <- nil
	}()
	deadline := time.Now().Add(patience)
	for writing := true; writing || b.log.Stats().Merges.Load() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nothing is merged")
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			writing = false
		default:
		}
		before := b.log.Committed()
		var last signalbox.Position // times do not decrease from position to position
		err := b.log.ScanTime(t.Context(), history.ScanQuery{}, func(e *signalbox.Entry) error {
			if e.Position != last+1 {
				return fmt.Errorf("position %d follows %d", e.Position, last)
			}
			last = e.Position
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if last < before || last > b.log.Committed() {
			t.Fatalf("a scan that began at position %d ended at %d; %d are committed", before, last, b.log.Committed())
		}
	}
}
