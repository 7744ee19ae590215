package live_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/bus"
	"signalbox/internal/history"
	"signalbox/internal/live"
	"signalbox/internal/registry"
	"signalbox/internal/store"
)

// process is a hub of viewers over a log on disk.
type process struct {
	tb      testing.TB
	bus     bus.Bus
	st      *store.Store
	log     *history.Log
	devices *registry.Registry
	rig
	stop func()
}

func start(tb testing.TB, dir string) *process {
	tb.Helper()
	ctx := context.Background()
	p := &process{tb: tb}
	var err error
	if p.st, err = store.Open(ctx, store.Config{Dir: dir}); err != nil {
		tb.Fatal(err)
	}
	if p.log, err = history.Open(ctx, history.Config{Announce: p.bus.Publish, TailEntries: 2000, RowBytes: 8 << 10}, p.st); err != nil {
		tb.Fatal(err)
	}
	p.devices = registry.New(p.st, nil)
	if err := p.devices.Load(ctx, p.log); err != nil {
		tb.Fatal(err)
	}
	p.hub = live.New(live.Config{}, live.Parts{Log: p.log, Bus: &p.bus, Devices: p.devices, Command: command})
	run, cancel := context.WithCancel(ctx)
	ended := make(chan error, 2)
	go func() { ended <- p.log.Run(run, testPatience) }()
	go func() { ended <- p.hub.Run(run) }()
	p.stop = func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				tb.Error(err)
			}
		}
		if err := p.st.Close(); err != nil {
			tb.Error(err)
		}
	}
	return p
}

func (p *process) say(from, to int) {
	p.tb.Helper()
	for i := from; i < to; i++ {
		e := signalbox.Entry{Device: signalbox.DeviceID(i%3 + 1), Kind: telemetry, Body: fmt.Appendf(nil, `{"n":%d}`, i)}
		if i%10 == 9 {
			e.Kind, e.Body = alert, fmt.Appendf(nil, `{"n":%d,"alert":"a"}`, i)
		}
		if err := p.log.Append(&e, history.Soon); err != nil {
			p.tb.Fatal(err)
		}
	}
}

// TestRealLog holds that a viewer over a log on disk has everything once and in order: live,
// out of rows and chunks, and after a start of the hub.
func TestRealLog(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	for i := range 3 {
		if _, err := p.devices.Add(t.Context(), registry.NewDevice{Name: fmt.Sprint("d", i), Type: "box"}); err != nil {
			t.Fatal(err)
		}
	}
	v := p.join(t, live.Options{Format: live.Frames})
	first, last := 0, ""
	// check takes events up to message n, and holds that none is missing.
	check := func(v *viewer, n int) {
		t.Helper()
		for first < n {
			if v.events = v.events[:0]; !v.more(testPatience) {
				t.Fatalf("message %d did not come", first)
			}
			for _, e := range v.events {
				if e.Cursor != "" {
					last = e.Cursor
				}
				switch {
				case e.Kind == "ready":
				case !strings.HasPrefix(string(e.Object), `{"n":`+strconv.Itoa(first)) || e.Device != fmt.Sprint("d", first%3):
					t.Fatalf("%s, not message %d", e.Raw, first)
				default:
					first++
				}
			}
		}
	}
	p.say(0, 3000)
	check(v, 3000)
	v.Close()
	p.say(3000, 20_000)
	v = p.join(t, live.Options{After: last})
	said := make(chan struct{})
	go func() {
		defer close(said)
		p.say(20_000, 25_000)
	}()
	check(v, 25_000)
	<-said
	v.Close()
	p.stop()

	p = start(t, dir)
	v = p.join(t, live.Options{After: last, Snapshot: true})
	p.say(25_000, 26_000)
	check(v, 26_000)
	if s := p.hub.Stats(); s.Unresumable.Load() != 0 || s.Lagged.Load() != 0 || s.Behind.Load() != 0 {
		t.Errorf("%d could not resume, %d lagged, %d behind", s.Unresumable.Load(), s.Lagged.Load(), s.Behind.Load())
	}
	v.Close()
	p.stop()

	p = start(t, t.TempDir())
	defer p.stop()
	v = p.join(t, live.Options{After: last})
	v.count(2)
	if e := v.events[0]; e.Kind != "lagged" || e.Reason != "unknown_cursor" || e.After != last || e.Missed != 0 {
		t.Errorf("another hub says %s", e.Raw)
	}
	v.Close()
}

// TestComeAndGo has viewers come, read a little and leave, while devices talk.
func TestComeAndGo(t *testing.T) {
	r := newRig(t, fleet(t, 3), live.Config{Viewers: 100}).run(t)
	stop := make(chan struct{})
	talked := make(chan struct{})
	go func() {
		defer close(talked)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				r.log.add(telemetry, signalbox.DeviceID(i%3+1), `{"a":1}`)
			}
		}
	}()
	done := make(chan struct{})
	for i := range 8 {
		go func() {
			defer func() { done <- struct{}{} }()
			for n := range 150 {
				o := live.Options{Format: live.Format(n % 2), Snapshot: n%3 == 0, Filter: live.Filter{Devices: []signalbox.DeviceID{signalbox.DeviceID(i%4 + 1)}}}
				if n%5 == 0 {
					o.After = cursor(0)
				}
				v, err := r.hub.Join(t.Context(), o)
				if err != nil {
					t.Error(err)
					return
				}
				for range n % 4 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
					_, _ = v.Next(ctx) // or nothing came
					cancel()
				}
				v.Close()
			}
		}()
	}
	for range 8 {
		<-done
	}
	close(stop)
	<-talked
	if s := r.hub.Stats(); s.Viewers.Load() != 0 || s.Groups.Load() != 0 {
		t.Errorf("%d viewers, %d groups are left", s.Viewers.Load(), s.Groups.Load())
	}
}
