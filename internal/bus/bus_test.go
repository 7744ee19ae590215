package bus_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/bus"
)

func publish(b *bus.Bus, p signalbox.Position) {
	body := []byte{byte(p)}
	b.Publish(&signalbox.Entry{Position: p, Device: signalbox.DeviceID(p % 2), Body: body})
	body[0] = 0xff // whoever published uses the memory again
}

func positions(entries []signalbox.Entry) []signalbox.Position {
	var out []signalbox.Position
	for _, e := range entries {
		out = append(out, e.Position)
	}
	return out
}

func TestLaggedIsCounted(t *testing.T) {
	var b bus.Bus
	s := b.Subscribe(bus.Options{Entries: 3})
	defer s.Close()
	for p := range signalbox.Position(10) {
		publish(&b, p+1)
	}
	entries, missed, err := s.Next(t.Context(), nil)
	if got := positions(entries); err != nil || len(got) != 3 || got[0] != 1 || got[2] != 3 || missed != 7 {
		t.Fatalf("got %v, missed %d, %v", got, missed, err)
	}
	for _, e := range entries {
		if e.Body[0] != byte(e.Position) {
			t.Errorf("the body of %d is %v: it was not copied", e.Position, e.Body)
		}
	}
	publish(&b, 11)
	entries, missed, err = s.Next(t.Context(), entries[:0])
	if got := positions(entries); err != nil || len(got) != 1 || got[0] != 11 || missed != 0 {
		t.Errorf("then %v, missed %d, %v", got, missed, err)
	}
}

func TestFilterAndOthers(t *testing.T) {
	var b bus.Bus
	odd := b.Subscribe(bus.Options{Entries: 100, Want: func(e *signalbox.Entry) bool { return e.Device == 1 }})
	defer odd.Close()
	slow := b.Subscribe(bus.Options{Bytes: 1}) // at least one
	defer slow.Close()
	for p := range signalbox.Position(10) {
		publish(&b, p+1)
	}
	entries, missed, err := odd.Next(t.Context(), nil)
	if got := positions(entries); err != nil || len(got) != 5 || got[0] != 1 || got[4] != 9 || missed != 0 {
		t.Errorf("the filter let %v through, missed %d, %v", got, missed, err)
	}
	entries, missed, err = slow.Next(t.Context(), nil)
	if len(entries) != 1 || missed != 9 || err != nil {
		t.Errorf("the slow one got %d, missed %d, %v", len(entries), missed, err)
	}
}

func TestNextEndsWithContext(t *testing.T) {
	var b bus.Bus
	s := b.Subscribe(bus.Options{Entries: 1})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if entries, _, err := s.Next(ctx, nil); !errors.Is(err, context.DeadlineExceeded) || len(entries) != 0 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	s.Close()
	s.Close()
	publish(&b, 1)
	if entries, _, err := s.Next(ctx, nil); err == nil || len(entries) != 0 {
		t.Errorf("after Close %d entries, %v", len(entries), err)
	}
}

// TestBytes holds that what waits is bounded in bytes, that a gap lies behind all that was
// queued, and that one entry may wait however large it is.
func TestBytes(t *testing.T) {
	entry := func(p signalbox.Position, size int) *signalbox.Entry {
		return &signalbox.Entry{Position: p, Body: make([]byte, size)}
	}
	for _, tc := range []struct {
		name   string
		opts   bus.Options
		sizes  []int
		heard  []signalbox.Position
		missed int64
	}{
		{"all fit", bus.Options{Bytes: 3 * (100 + bus.EntryBytes)}, []int{100, 100, 100}, []signalbox.Position{1, 2, 3}, 0},
		{"one too many", bus.Options{Bytes: 3*(100+bus.EntryBytes) - 1}, []int{100, 100, 100}, []signalbox.Position{1, 2}, 1},
		{"small ones behind a gap", bus.Options{Bytes: 1000}, []int{100, 2000, 1, 1}, []signalbox.Position{1}, 3},
		{"a huge one", bus.Options{Bytes: 1000}, []int{5000, 1}, []signalbox.Position{1}, 1},
		{"entries first", bus.Options{Entries: 2, Bytes: 1 << 20}, []int{1, 1, 1}, []signalbox.Position{1, 2}, 1},
		{"the default", bus.Options{}, []int{1 << 20, 1 << 20, 1 << 20, 1 << 20}, []signalbox.Position{1, 2, 3}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b bus.Bus
			s := b.Subscribe(tc.opts)
			defer s.Close()
			var buf []signalbox.Entry
			for range 3 { // what was told frees the room
				for i, size := range tc.sizes {
					b.Publish(entry(signalbox.Position(i+1), size))
				}
				entries, missed, err := s.Next(t.Context(), buf[:0])
				if err != nil || !slices.Equal(positions(entries), tc.heard) || missed != tc.missed {
					t.Fatalf("heard %v, missed %d, %v; want %v and %d", positions(entries), missed, err, tc.heard, tc.missed)
				}
				buf = entries
			}
		})
	}
}

// TestNextAppends holds that what is in the buffer stays.
func TestNextAppends(t *testing.T) {
	var b bus.Bus
	s := b.Subscribe(bus.Options{})
	defer s.Close()
	var all []signalbox.Entry
	for p := range signalbox.Position(5) {
		publish(&b, p+1)
		var err error
		if all, _, err = s.Next(t.Context(), all); err != nil {
			t.Fatal(err)
		}
	}
	if got := positions(all); !slices.Equal(got, []signalbox.Position{1, 2, 3, 4, 5}) {
		t.Errorf("got %v", got)
	}
	for _, e := range all {
		if !bytes.Equal(e.Body, []byte{byte(e.Position)}) {
			t.Errorf("the body of %d is %v", e.Position, e.Body)
		}
	}
}

// TestBurst holds that a large queue, and what follows it, is heard whole.
func TestBurst(t *testing.T) {
	var b bus.Bus
	s := b.Subscribe(bus.Options{})
	defer s.Close()
	var buf []signalbox.Entry
	last := signalbox.Position(0)
	for _, n := range []int{1, 20_000, 10, 10, 20_000, 1, 1} {
		for range n {
			last++
			publish(&b, last)
		}
		entries, missed, err := s.Next(t.Context(), buf[:0])
		if err != nil || missed != 0 || len(entries) != n {
			t.Fatalf("of %d heard %d, missed %d, %v", n, len(entries), missed, err)
		}
		for i, e := range entries {
			if want := last - signalbox.Position(n-i-1); e.Position != want || e.Body[0] != byte(want) {
				t.Fatalf("entry %d is %d with %v, want %d", i, e.Position, e.Body, want)
			}
		}
		buf = entries
	}
}

// TestLaggingCostsNoMemory holds that nothing is copied for those who have no room, or do not
// want it.
func TestLaggingCostsNoMemory(t *testing.T) {
	var b bus.Bus
	for _, o := range []bus.Options{{Entries: 1}, {Bytes: 1}, {Want: func(*signalbox.Entry) bool { return false }}} {
		defer b.Subscribe(o).Close()
	}
	e := signalbox.Entry{Position: 1, Body: make([]byte, 150)}
	b.Publish(&e)
	if n := testing.AllocsPerRun(100, func() { b.Publish(&e) }); n != 0 {
		t.Errorf("Publish allocates %v times", n)
	}
}

// TestManySubscribers holds that everyone who is quick enough hears all in order, and that
// what each heard and missed adds up, while others come and go.
func TestManySubscribers(t *testing.T) {
	const n = 20_000
	var b bus.Bus
	var listeners, passers sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i := range 6 {
		s := b.Subscribe(bus.Options{Entries: []int{1, 16, n}[i%3]})
		listeners.Go(func() {
			defer s.Close()
			var (
				buf         []signalbox.Entry
				last        signalbox.Position
				heard, lost int64
			)
			for heard+lost < n {
				var missed int64
				var err error
				if buf, missed, err = s.Next(ctx, buf[:0]); err != nil {
					t.Errorf("after %d heard and %d lost: %v", heard, lost, err)
					return
				}
				for _, e := range buf {
					if e.Position <= last || e.Body[0] != byte(e.Position) {
						t.Errorf("%d after %d with %v", e.Position, last, e.Body)
						return
					}
					if skipped := int64(e.Position - last - 1); skipped > lost {
						t.Errorf("%d skipped before they were told", skipped)
						return
					}
					last = e.Position
				}
				heard, lost = heard+int64(len(buf)), lost+missed
			}
			if i%3 == 2 && lost != 0 {
				t.Errorf("a subscriber with room for all lost %d", lost)
			}
		})
	}
	stop := make(chan struct{})
	for range 2 {
		passers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					b.Subscribe(bus.Options{Entries: 4}).Close()
				}
			}
		})
	}
	for p := range signalbox.Position(n) {
		publish(&b, p+1)
	}
	listeners.Wait()
	close(stop)
	passers.Wait()
}

func BenchmarkPublish(b *testing.B) {
	none := func(*signalbox.Entry) bool { return false }
	for _, bench := range []struct {
		name string
		subs int
		opts bus.Options
	}{
		{"nobody", 0, bus.Options{}},
		{"one lagging", 1, bus.Options{Entries: 1}},
		{"100 lagging", 100, bus.Options{Entries: 1}},
		{"100 that do not want it", 100, bus.Options{Want: none}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var hub bus.Bus
			for range bench.subs {
				defer hub.Subscribe(bench.opts).Close()
			}
			e := signalbox.Entry{Position: 1, Body: make([]byte, 150)}
			b.ReportAllocs()
			for b.Loop() {
				hub.Publish(&e)
			}
		})
	}
}
