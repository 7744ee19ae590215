package live_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/live"
)

// TestChoices holds that one who may only read cannot give the hub work without bound.
func TestChoices(t *testing.T) {
	many := make([]string, 65) // three choices' worth
	for i := range many {
		many[i] = fmt.Sprint("f", i)
	}
	fields := func(f string) live.Filter { return live.Filter{Fields: []string{f}} }
	for _, test := range []struct {
		name   string
		before []live.Filter
		then   live.Filter
		full   bool
	}{
		{name: "another choice", before: []live.Filter{fields("a"), fields("b"), fields("c")}, then: fields("d"), full: true},
		{name: "the same choice", before: []live.Filter{fields("a"), fields("b"), fields("c")}, then: fields("c")},
		{name: "no choice", before: []live.Filter{fields("a"), fields("b"), fields("c")}, then: live.Filter{}},
		{name: "types", before: []live.Filter{fields("a"), fields("b"), fields("c")}, then: live.Filter{Types: []string{"box"}}},
		{name: "fields of a type", before: []live.Filter{fields("a"), fields("b"), fields("c")}, then: live.Filter{Types: []string{"box"}, Fields: []string{"d"}}},
		{name: "every", before: []live.Filter{fields("a"), fields("b"), {Every: time.Second}}, then: live.Filter{Every: 2 * time.Second}, full: true},
		{name: "many fields", then: live.Filter{Fields: many}},
		{name: "many fields beside others", before: []live.Filter{fields("a")}, then: live.Filter{Fields: many}, full: true},
		{
			name: "another type", before: []live.Filter{{Types: []string{"box"}, Fields: many}},
			then: live.Filter{Types: []string{"station"}, Fields: many},
		},
		{
			name: "one type of two", before: []live.Filter{{Types: []string{"box"}, Fields: many}},
			then: live.Filter{Types: []string{"box", "station"}, Every: time.Second}, full: true,
		},
		{
			name: "another device", before: []live.Filter{{Devices: []signalbox.DeviceID{1}, Fields: many}},
			then: live.Filter{Devices: []signalbox.DeviceID{2}, Fields: many},
		},
		{
			name: "one device of two", before: []live.Filter{{Devices: []signalbox.DeviceID{1}, Fields: many}},
			then: live.Filter{Devices: []signalbox.DeviceID{1, 2}, Every: time.Second}, full: true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, fleet(t, 3), live.Config{Choices: 3}).run(t)
			var viewers []*viewer
			for _, f := range test.before {
				viewers = append(viewers, r.join(t, live.Options{Filter: f}))
			}
			v, err := r.hub.Join(t.Context(), live.Options{Filter: test.then})
			if err == nil {
				v.Close()
			}
			e, refused := errors.AsType[*signalbox.Error](err)
			if test.full != (err != nil) || test.full && (!refused || e.Kind != signalbox.KindLimited || e.Code != "too_many_choices") {
				t.Errorf("got %v", err)
			}
			if n := r.hub.Stats().Viewers.Load(); n != int64(len(viewers)) {
				t.Errorf("%d viewers are counted", n)
			}
			for _, v := range viewers {
				v.Close()
			}
			if v, err = r.hub.Join(t.Context(), live.Options{Filter: test.then}); err != nil {
				t.Fatalf("afterwards: %v", err)
			}
			v.Close()
		})
	}
}

// TestOneOfMany holds that one who watches cannot take what is there for all.
func TestOneOfMany(t *testing.T) {
	r := newRig(t, fleet(t, 3), live.Config{Viewers: 8, PerUser: 2, Choices: 4}).run(t) // two viewers and two choices of one
	by := func(name string, f live.Filter) live.Options { return live.Options{By: name, Filter: f} }
	fields := func(f ...string) live.Filter { return live.Filter{Fields: f} }
	refused := func(what string, o live.Options, code, words string) {
		t.Helper()
		_, err := r.hub.Join(t.Context(), o)
		if err == nil || signalbox.KindOf(err) != signalbox.KindLimited || signalbox.CodeOf(err) != code || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", what, err)
		}
	}
	first := r.join(t, by("ann", live.Filter{}))
	second := r.join(t, by("ann", fields("a")))
	refused("a third", by("ann", live.Filter{}), "too_many_own_viewers", "ann watches 2 times already; so often one user or token may at a time (live.viewers_per_user)")
	first.Close()
	wide := make([]string, 33) // two choices' worth
	for i := range wide {
		wide[i] = fmt.Sprint("f", i)
	}
	refused("two choices more", by("ann", fields(wide...)), "too_many_choices", "ann would have more than half of the 4 different choices")
	other := r.join(t, by("bob", fields("a"))) // now it is not hers alone
	r.join(t, by("ann", fields(wide...))).Close()
	other.Close()
	third := r.join(t, by("ann", fields("b")))
	for range 6 { // who is nobody in particular has the rest
		r.join(t, live.Options{})
	}
	refused("the ninth", by("bob", live.Filter{}), "too_many_viewers", "live.viewers")
	if s := r.hub.Stats(); s.RefusedPerUser.Load() != 2 || s.Refused.Load() != 1 {
		t.Errorf("%d and %d refusals are counted", s.RefusedPerUser.Load(), s.Refused.Load())
	}
	second.Close()
	third.Close()
	for range 2 { // places are given back
		r.join(t, by("ann", live.Filter{}))
	}

	// Without a limit of one's own it is half of all.
	half := newRig(t, r.devices, live.Config{Viewers: 4}).run(t)
	for range 2 {
		half.join(t, by("ann", live.Filter{}))
	}
	if _, err := half.hub.Join(t.Context(), by("ann", live.Filter{})); signalbox.CodeOf(err) != "too_many_own_viewers" {
		t.Errorf("a third of four gives %v", err)
	}
	half.join(t, by("bob", live.Filter{}))
}

// TestMuchIsNamed holds how much a viewer may name.
func TestMuchIsNamed(t *testing.T) {
	r := newRig(t, fleet(t, 3), live.Config{}).run(t)
	names := make([]string, live.MaxTypes+1)
	for i := range names {
		names[i] = fmt.Sprint("t", i)
	}
	ids := make([]signalbox.DeviceID, live.MaxDevices+1)
	for i := range ids {
		ids[i] = signalbox.DeviceID(i + 1)
	}
	r.join(t, live.Options{Filter: live.Filter{Types: names[1:], Devices: ids[1:]}})
	for code, f := range map[string]live.Filter{"too_many_types": {Types: names}, "too_many_devices": {Devices: ids}} {
		if _, err := r.hub.Join(t.Context(), live.Options{Filter: f}); signalbox.KindOf(err) != signalbox.KindInvalid || signalbox.CodeOf(err) != code {
			t.Errorf("want %s, got %v", code, err)
		}
	}
}

// TestHurried holds that those who come back and do not read cost the others little.
func TestHurried(t *testing.T) {
	devices := fleet(t, 1)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, devices, live.Config{Resumes: 1}).run(t)
		body := `{"text":"` + strings.Repeat("x", 10_000) + `"}`
		for range 60 {
			r.log.add(telemetry, 1, body)
		}
		for range 50 {
			r.join(t, live.Options{After: cursor(0)}).more(time.Millisecond)
		}
		began := time.Now()
		r.join(t, live.Options{After: cursor(0)}).count(61)
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// slowLog takes its time for each entry.
type slowLog struct {
	*fakeLog
	each  time.Duration
	given atomic.Int64
}

// Since gives the entries slowly.
func (l *slowLog) Since(ctx context.Context, q history.SinceQuery, yield func(*signalbox.Entry) error) error {
	return l.fakeLog.Since(ctx, q, func(e *signalbox.Entry) error {
		l.given.Add(1)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(l.each):
			return yield(e)
		}
	})
}

// TestTurnOfOneWhoFindsNothing holds that a reader gives others their turn even if nothing of
// what it reads is for it, and goes on where it was.
func TestTurnOfOneWhoFindsNothing(t *testing.T) {
	const entries = 6000
	for _, every := range []time.Duration{0, time.Hour} {
		devices := fleet(t, 1)
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, devices, live.Config{})
			log := &slowLog{fakeLog: r.log, each: 10 * time.Millisecond}
			r.hub = live.New(live.Config{Resumes: 1}, live.Parts{Log: log, Bus: &r.bus, Devices: devices, Command: command})
			r.run(t)
			for range entries {
				r.log.add(telemetry, 1, `{"temp":1}`)
			}
			fields := []string{"hum"}
			if every > 0 {
				fields = nil // it finds much, and keeps the newest back
			}
			idle := r.join(t, live.Options{After: cursor(0), Filter: live.Filter{Fields: fields, Every: every}})
			idle.more(time.Millisecond)
			v := r.join(t, live.Options{After: cursor(entries - 10)})
			began := time.Now()
			v.count(11)
			if took := time.Since(began); took > 25*time.Second {
				t.Errorf("it took %s", took)
			}
			for idle.more(5 * time.Minute) {
			}
			if last := idle.events[len(idle.events)-1]; last.Kind != "ready" {
				t.Error(idle.brief())
			}
			if n := log.given.Load(); n > entries+1000 {
				t.Errorf("%d entries were read", n)
			}
		})
	}
}

// TestDatabaseAway holds that a viewer that comes back while the database server is away stays,
// and gets what it missed when the server is back.
func TestDatabaseAway(t *testing.T) {
	devices := fleet(t, 1)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, devices, live.Config{Resumes: 1}).run(t)
		for range 3 {
			r.log.add(telemetry, 1, `{}`)
		}
		away := func(err error) {
			r.log.mu.Lock()
			defer r.log.mu.Unlock()
			r.log.fail = err
		}
		away(signalbox.Errorf(signalbox.KindUnavailable, "database_away", "the database server is away"))
		v := r.join(t, live.Options{After: cursor(1)})
		if v.more(time.Minute) {
			t.Errorf("it got %s", v.brief())
		}
		r.log.add(telemetry, 1, `{}`)
		synctest.Wait()
		away(nil)
		v.count(4)
		v.got("t2 t3 t4 ready@4")
		// One that leaves meanwhile, and a hub that stops.
		away(signalbox.Errorf(signalbox.KindUnavailable, "database_away", "the database server is away"))
		w := r.join(t, live.Options{After: cursor(1)})
		w.more(time.Millisecond)
		w.Close()
		w = r.join(t, live.Options{After: cursor(1)})
		w.more(time.Millisecond)
		r.end()
		if _, err := w.Next(t.Context()); signalbox.KindOf(err) != signalbox.KindUnavailable {
			t.Errorf("the hub has ended: %v", err)
		}
		v.Close()
		w.Close()
	})
}
