package live_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/live"
	"signalbox/internal/registry"
	"signalbox/internal/wire"
)

// TestExplainable holds that every viewer's sequence can be explained by the log: many viewers
// with random filters, slow and quick, that come, leave and come back, over a hub that falls
// behind and a log whose commits stop now and then.
func TestExplainable(t *testing.T) {
	devices := fleet(t, 6)
	for seed := range uint64(25) {
		synctest.Test(t, func(t *testing.T) { explain(t, devices, seed) })
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

func explain(t *testing.T, devices *registry.Registry, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 7))
	devices.Each(func(d *registry.Device) {
		s := d.Lock()
		s.Position = 0
		s.SetBody(nil)
		d.Unlock()
	})
	rig := newRig(t, devices, live.Config{
		Queue: []int{1, 700, 3000, 50_000}[r.IntN(4)], Intake: []int{1000, 10_000, 1 << 20}[r.IntN(3)], Resumes: 1 + r.IntN(3),
	})
	rig.run(t)
	ctx, published := context.WithCancel(t.Context())
	var watchers sync.WaitGroup
	for i := range 12 {
		w := watcher{t: t, rig: rig, r: rand.New(rand.NewPCG(seed, 100+uint64(i)))}
		watchers.Go(func() { w.live(ctx) })
	}
	for range 400 {
		switch n := r.IntN(20); n {
		case 0:
			rig.log.add(presence, signalbox.DeviceID(1+r.IntN(6)), `{"presence":"online","session":1}`)
		case 1:
			rig.log.add(cmd, signalbox.DeviceID(1+r.IntN(6)), `{"id":"1"}`)
		case 2:
			rig.log.add(alert, signalbox.DeviceID(r.IntN(7)), `{"alert":"a"}`)
		case 3:
			rig.log.add(signalbox.EntryBroker, 0, `x`)
		case 4:
			rig.log.hold(r.IntN(2) == 0)
		default:
			body := fmt.Sprintf(`{"a": %d}`, n)
			if n%3 == 0 {
				body = fmt.Sprintf(`{"b":"%s"}`, strings.Repeat("x", r.IntN(300)))
			}
			rig.report(signalbox.DeviceID(1+r.IntN(6)), body)
		}
		if r.IntN(3) == 0 {
			time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
		}
	}
	rig.log.hold(false)
	published()
	watchers.Wait()
	if s := rig.hub.Stats(); s.Viewers.Load() != 0 || s.Groups.Load() != 0 {
		t.Errorf("%d viewers, %d groups are left", s.Viewers.Load(), s.Groups.Load())
	}
	rig.end()
}

// watcher is somebody who comes and goes.
type watcher struct {
	t   *testing.T
	rig *rig
	r   *rand.Rand
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func (w *watcher) live(ctx context.Context) {
	r := w.r
	o := live.Options{Format: pick(r, live.SSE, live.Frames), Filter: live.Filter{
		Devices: pick(r, nil, nil, nil, []signalbox.DeviceID{3}, []signalbox.DeviceID{1, 2, 5, 6}),
		Types:   pick(r, nil, nil, nil, []string{"station"}, []string{"box", "station"}),
		Kinds:   pick(r, nil, nil, nil, []signalbox.EntryKind{telemetry}, []signalbox.EntryKind{presence, cmd, alert}),
		Fields:  pick(r, nil, nil, nil, []string{"a"}),
		Every:   pick(r, 0, 0, 0, 300*time.Millisecond, time.Second),
	}}
	pace := time.Duration(pick(r, 0, 0, 10, 300, 2500)) * time.Millisecond
	for ended := false; !ended; {
		ended = ctx.Err() != nil // one session more
		o.Snapshot = r.IntN(2) == 0
		v := w.rig.join(w.t, o)
		for n := r.IntN(30); n > 0 || ended; n-- {
			if !v.more(3*time.Second) && ended {
				break
			}
			if !ended {
				time.Sleep(pace)
			}
		}
		if at, ok := v.Cursor(); ended && (!ok || position(w.t, at) < w.rig.log.announced()) {
			w.t.Errorf("at the end a viewer stands at %q, %v; it got %s", at, ok, v.brief())
		}
		v.Close()
		w.check(o, v, ended)
		for i := range v.events {
			if c := v.events[i].Cursor; c != "" {
				o.After = c
			}
		}
		if r.IntN(4) == 0 {
			o.After = ""
		}
		time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
	}
}

// check explains what v got; whole says that it stayed to the end.
func (w *watcher) check(o live.Options, v *viewer, whole bool) {
	entries := w.rig.log.all()
	c := wire.NewChoice(o.Fields)
	wants := func(e *signalbox.Entry) bool {
		d := w.rig.devices.Get(e.Device)
		switch {
		case e.Kind > alert,
			o.Devices != nil && !slices.Contains(o.Devices, e.Device),
			o.Types != nil && (d == nil || !slices.Contains(o.Types, d.Type())),
			o.Kinds != nil && !slices.Contains(o.Kinds, e.Kind),
			o.Fields != nil && e.Kind == telemetry && !c.Look(e.Body):
			return false
		}
		return true
	}
	fail := func(i int, format string, args ...any) {
		w.t.Errorf("%+v, event %d: %s; it got %s", o, i, fmt.Sprintf(format, args...), v.brief())
	}
	open := map[signalbox.DeviceID]signalbox.Position{} // thinned, to be followed by newer ones
	var prev signalbox.Position
	// skipped explains what was wanted behind prev, up to p.
	skipped := func(p signalbox.Position) (n int) {
		for q := prev + 1; q <= p; q++ {
			switch e := &entries[q-1]; {
			case !wants(e):
			case o.Every > 0 && e.Kind == telemetry:
				open[e.Device] = q
			default:
				n++
			}
		}
		return n
	}
	begun := o.After != ""
	if begun {
		prev = position(w.t, o.After)
	}
	states := map[signalbox.DeviceID]signalbox.Position{}
	for i, e := range v.events {
		switch e.Kind {
		case "state":
			states[w.rig.devices.Find(e.State.Device).ID] = e.Position
		case "ready":
			p := e.place(w.t)
			if begun && (p < prev || skipped(p) > 0) {
				fail(i, "something is missing before ready, or it goes back")
			}
			for d, at := range states {
				for q := at + 1; q <= p; q++ {
					if entries[q-1].Device == d && entries[q-1].Kind == telemetry {
						fail(i, "the state of device %d has not %d", d, q)
					}
				}
			}
			begun, prev = true, p
		case "lagged":
			after, until := position(w.t, e.After), position(w.t, e.Until)
			if e.Reason != "slow" || after < prev || until <= after || skipped(after) > 0 {
				fail(i, "this is not in its place")
				return
			}
			prev = after
			n, before := int64(skipped(until)), open
			if o.Every == 0 && n != e.Missed || e.Missed <= 0 || e.Missed < n {
				fail(i, "%d are missing", n)
			}
			for d, q := range before {
				if q <= until {
					delete(open, d) // it may be one of those that are missing
				}
			}
			prev = until
		default:
			p := e.Position
			if !begun || p <= prev || e.place(w.t) != p || skipped(p-1) > 0 {
				fail(i, "out of place: %d after %d, %d skipped", p, prev, skipped(p-1))
				return
			}
			said := &entries[p-1]
			want := said.Body
			if o.Fields != nil && said.Kind == telemetry {
				want = c.Of(want)
			}
			if !wants(said) || e.Kind != said.Kind.String() || e.Kind == "telemetry" && string(e.Object) != string(wire.AppendCompact(nil, want)) {
				fail(i, "this is not what the log says")
			}
			if said.Kind == telemetry {
				delete(open, said.Device)
			}
			prev = p
		}
	}
	if head := signalbox.Position(len(entries)); whole && (skipped(head) > 0 || len(open) > 0) {
		fail(len(v.events), "the end is missing: %d, and of devices %v", skipped(head), open)
	}
}
