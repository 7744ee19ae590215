package history_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// inRange is what ScanRange has to give, by looking at every entry.
func (m model) inRange(q history.RangeQuery) []signalbox.Entry {
	var hits []signalbox.Entry
	for _, e := range m { // in log order
		if e.Kind.IsTelemetry() && (q.From.IsZero() || e.TimeMicros >= q.From.UnixMicro()) && (q.To.IsZero() || e.TimeMicros < q.To.UnixMicro()) &&
			(q.Devices == nil || slices.Contains(q.Devices, e.Device)) && e.Position > q.After && (q.Until == 0 || e.Position <= q.Until) {
			hits = append(hits, e)
		}
	}
	return hits
}

func randomRange(rng *rand.Rand, devices int, m model) history.RangeQuery {
	r := randomQuery(rng, devices, m)
	q := history.RangeQuery{ScanQuery: history.ScanQuery{From: r.From, To: r.To}}
	switch rng.IntN(3) {
	case 0:
		q.Devices = []signalbox.DeviceID{}
		for d := range devices {
			if rng.IntN(2) == 0 {
				q.Devices = append(q.Devices, signalbox.DeviceID(d+1))
			}
		}
	case 1:
		for d := range 300 { // more than are looked for one by one
			q.Devices = append(q.Devices, signalbox.DeviceID(d+2))
		}
	}
	if rng.IntN(2) == 0 {
		q.After = signalbox.Position(rng.IntN(len(m) + 1))
	}
	if rng.IntN(2) == 0 {
		q.Until = signalbox.Position(rng.IntN(len(m)+5) + 1)
	}
	return q
}

func checkRanges(t *testing.T, b *bench, rng *rand.Rand, devices int, m model) {
	t.Helper()
	for range 40 {
		q := randomRange(rng, devices, m)
		var got []signalbox.Entry
		err := b.log.ScanRange(t.Context(), q, func(e *signalbox.Entry) error {
			kept := *e
			kept.Body = slices.Clone(e.Body)
			got = append(got, kept)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := m.inRange(q)
		if !slices.EqualFunc(got, want, func(x, y signalbox.Entry) bool {
			return x.Position == y.Position && x.Device == y.Device && x.TimeMicros == y.TimeMicros && x.ReceivedMicros == y.ReceivedMicros && string(x.Body) == string(y.Body)
		}) {
			t.Fatalf("%+v gives %d entries, want %d", q, len(got), len(want))
		}
	}
}

func TestScanRangeAgreesWithModel(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			devices := 1 + rng.IntN(6)
			dir := t.TempDir()
			cfg := history.Config{RowBytes: 200 + rng.IntN(4000), TailEntries: 1 + rng.IntN(100)}
			b := start(t, dir, cfg)
			m := randomHistory(t, b, rng, devices, 300, nil)
			checkRanges(t, b, rng, devices, m)
			for _, checkpoint := range []signalbox.Position{0, signalbox.Position(len(m))} {
				b = b.reopen(t, dir, cfg, checkpoint)
				checkRanges(t, b, rng, devices, m)
				m = randomHistory(t, b, rng, devices, 50, m)
				checkRanges(t, b, rng, devices, m)
			}
		})
	}
}

func TestScanRangeEnds(t *testing.T) {
	b := start(t, t.TempDir(), history.Config{TailEntries: 10})
	m := randomHistory(t, b, rand.New(rand.NewPCG(1, 1)), 2, 100, nil)
	now := time.UnixMicro(m[0].TimeMicros)
	err := b.log.ScanRange(t.Context(), history.RangeQuery{ScanQuery: history.ScanQuery{From: now, To: now}}, nil)
	if signalbox.KindOf(err) != signalbox.KindInvalid {
		t.Errorf("an empty range gives %v", err)
	}
	enough := errors.New("enough")
	seen := 0
	err = b.log.ScanRange(t.Context(), history.RangeQuery{}, func(*signalbox.Entry) error {
		seen++
		return enough
	})
	if !errors.Is(err, enough) || seen != 1 {
		t.Errorf("a scan that was ended gives %v after %d entries", err, seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err = b.log.ScanRange(ctx, history.RangeQuery{}, func(*signalbox.Entry) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a scan whose context has ended gives %v", err)
	}
}
