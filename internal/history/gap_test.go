package history_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// gapBench is a log of whose first entries nothing is in rows any more.
type gapBench struct {
	*bench
	cfg   history.Config
	dir   string
	given []signalbox.Entry // all but what was imported
}

// fill appends n entries of kind, of each device in turn.
func (b *gapBench) fill(t *testing.T, n int, kind signalbox.EntryKind, devices ...signalbox.DeviceID) {
	t.Helper()
	var last signalbox.Position
	for i := range n {
		e := telemetry(devices[i%len(devices)], fmt.Sprintf(`{"n":%d}`, i))
		e.Kind = kind
		if kind == signalbox.EntryImported {
			e.TimeMicros = 1_000_000
		}
		e = b.append(t, e, history.Soon)
		if last = e.Position; kind != signalbox.EntryImported {
			b.given = append(b.given, e)
		}
	}
	b.wait(t, last)
}

// settle writes until what came before is in chunks alone, and gives the last position of that.
func (b *gapBench) settle(t *testing.T) signalbox.Position {
	t.Helper()
	end := b.log.Head()
	until(t, "what came before is in chunks alone", func() bool {
		b.fill(t, 200, signalbox.EntryTelemetry, 9)
		return b.log.FirstKept() > end
	})
	return end
}

// drop drops the chunks of devices, but for those that a start needs.
func (b *gapBench) drop(t *testing.T, devices ...signalbox.DeviceID) int64 {
	t.Helper()
	sum, err := b.log.DropBefore(t.Context(), func(d signalbox.DeviceID) time.Time {
		if slices.Contains(devices, d) {
			return time.Now().Add(time.Hour)
		}
		return time.Time{}
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sum.Messages
}

// ask reads what came behind a position, and what is said to be missing of it; it fails when
// something is missing that is not said.
func (b *gapBench) ask(t *testing.T, after signalbox.Position, events bool, each func(*signalbox.Entry)) (missing int, said []history.Gap) {
	t.Helper()
	got := map[signalbox.Position]bool{}
	end := b.log.Committed()
	q := history.SinceQuery{After: after, Until: end, Events: events, Gap: func(g history.Gap) error {
		said = append(said, g)
		return nil
	}}
	if err := b.log.Since(t.Context(), q, func(e *signalbox.Entry) error {
		if each != nil {
			each(e)
		}
		got[e.Position] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i := range b.given {
		e := &b.given[i]
		if e.Position <= after || e.Position > end || !events && !e.Kind.IsTelemetry() || got[e.Position] {
			continue
		}
		missing++
		if !slices.ContainsFunc(said, func(g history.Gap) bool {
			upTo := g.Telemetry
			if !e.Kind.IsTelemetry() {
				upTo = g.Events
			}
			return g.After < e.Position && e.Position <= upTo
		}) {
			t.Fatalf("position %d is missing; said is %+v", e.Position, said)
		}
	}
	return missing, said
}

func startGaps(t *testing.T) *gapBench {
	t.Helper()
	b := &gapBench{cfg: history.Config{TailEntries: 64, RowBytes: 512}, dir: t.TempDir()}
	b.bench = start(t, b.dir, b.cfg)
	return b
}

// TestGap: whoever reads behind a position is told when retention has dropped something of it, and
// only then; also after a start.
func TestGap(t *testing.T) {
	b := startGaps(t)
	b.log.Unmissed(func(d signalbox.DeviceID) bool { return d == 4 })
	b.fill(t, 400, signalbox.EntryTelemetry, 1, 2, 4)
	b.fill(t, 200, signalbox.EntryImported, 3)
	b.fill(t, 100, signalbox.EntryPresence, 1)
	end := b.settle(t)

	quiet := func(what string, after signalbox.Position, events bool) {
		t.Helper()
		if _, said := b.ask(t, after, events, nil); len(said) > 0 {
			t.Errorf("%s, behind %d: said is %+v", what, after, said)
		}
	}
	quiet("before anything was dropped", 0, true)
	if n := b.drop(t, 3); n == 0 {
		t.Fatal("nothing was dropped of what was imported")
	}
	quiet("nobody misses what was imported", 0, true)
	if n := b.drop(t, 4); n == 0 {
		t.Fatal("nothing was dropped of a device that was removed")
	}
	b.given = slices.DeleteFunc(b.given, func(e signalbox.Entry) bool { return e.Device == 4 })
	quiet("nobody misses a device that was removed", 0, true)

	if n := b.drop(t, 1); n == 0 {
		t.Fatal("nothing was dropped")
	}
	check := func(what string) {
		t.Helper()
		missing, said := b.ask(t, 0, true, nil)
		if missing == 0 || len(said) != 1 || said[0].After != 0 || said[0].Telemetry == 0 || said[0].Telemetry > end || said[0].Events != 0 {
			t.Fatalf("%s: %d are missing, said is %+v", what, missing, said)
		}
		at := said[0].Telemetry
		if missing, said := b.ask(t, at-1, false, nil); missing != 1 || len(said) != 1 || said[0] != (history.Gap{After: at - 1, Telemetry: at}) {
			t.Errorf("%s: just before its end %d are missing, said is %+v", what, missing, said)
		}
		quiet(what+", at its end", at, true)
	}
	check("dropped")
	b.bench = b.reopen(t, b.dir, b.cfg, b.log.Committed())
	check("after a start")

	if n := b.drop(t, 0); n == 0 {
		t.Fatal("no events were dropped")
	}
	_, said := b.ask(t, 0, true, nil)
	if len(said) != 1 || said[0].Events == 0 || said[0].Telemetry == 0 || said[0].Events > end {
		t.Errorf("with events said is %+v", said)
	}
	if _, said := b.ask(t, 0, false, nil); len(said) != 1 || said[0].Events != 0 {
		t.Errorf("without events said is %+v", said)
	}
}

// TestGapMeanwhile: what is dropped while somebody reads is told as well.
func TestGapMeanwhile(t *testing.T) {
	b := startGaps(t)
	b.fill(t, 3000, signalbox.EntryTelemetry, 1, 2)
	b.settle(t)
	b.log.LimitSweeps(1<<20, 100, 0, 0) // slices are narrow, and nothing is kept between them
	n := 0
	missing, said := b.ask(t, 0, false, func(*signalbox.Entry) {
		if n++; n == 10 && b.drop(t, 1) == 0 {
			t.Error("nothing was dropped")
		}
	})
	if missing == 0 || len(said) == 0 {
		t.Errorf("%d are missing, said is %+v", missing, said)
	}
	if missing, said := b.ask(t, 0, false, nil); missing == 0 || len(said) != 1 {
		t.Errorf("afterwards %d are missing, said is %+v", missing, said)
	}
}
