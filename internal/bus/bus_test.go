package bus_test

import (
	"context"
	"errors"
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
	s := b.Subscribe(3, nil)
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
	odd := b.Subscribe(100, func(e *signalbox.Entry) bool { return e.Device == 1 })
	defer odd.Close()
	slow := b.Subscribe(0, nil) // at least one
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
	s := b.Subscribe(1, nil)
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

// TestManySubscribers holds that everyone who is quick enough hears all in order, and that
// what each heard and missed adds up, while others come and go.
func TestManySubscribers(t *testing.T) {
	const n = 20_000
	var b bus.Bus
	var listeners, passers sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i := range 6 {
		s := b.Subscribe([]int{1, 16, n}[i%3], nil)
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
					b.Subscribe(4, nil).Close()
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
	for _, bench := range []struct {
		name string
		subs int
	}{{"nobody", 0}, {"one lagging", 1}} {
		b.Run(bench.name, func(b *testing.B) {
			var hub bus.Bus
			for range bench.subs {
				defer hub.Subscribe(1, nil).Close()
			}
			e := signalbox.Entry{Position: 1, Body: make([]byte, 150)}
			b.ReportAllocs()
			for b.Loop() {
				hub.Publish(&e)
			}
		})
	}
}
