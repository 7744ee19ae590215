package live_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/live"
)

func TestResume(t *testing.T) {
	devices := fleet(t, 6)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, devices, live.Config{Resume: 20}).run(t)
		for i := range 10 {
			r.log.add(telemetry, signalbox.DeviceID(i%3+1), fmt.Sprintf(`{"a":%d, "b":2}`, i))
		}
		r.log.add(imported, 1, `{}`)
		r.log.add(alert, 1, `{}`)
		for _, test := range []struct {
			name string
			o    live.Options
			want string
		}{
			{"all", live.Options{After: cursor(0), Snapshot: true}, "t1 t2 t3 t4 t5 t6 t7 t8 t9 t10 a12 ready@12"},
			{"the last", live.Options{After: cursor(10)}, "a12 ready@12"},
			{"nothing missed", live.Options{After: cursor(12)}, "ready@12"},
			{"nothing of it wanted", live.Options{After: cursor(1), Filter: live.Filter{Kinds: []signalbox.EntryKind{presence}}}, "ready@12"},
			{"a device", live.Options{After: cursor(3), Filter: live.Filter{Devices: []signalbox.DeviceID{2}}}, "t5 t8 ready@12"},
			{"a type", live.Options{After: cursor(3), Filter: live.Filter{Types: []string{"station"}}}, "t6 t9 ready@12"},
			{"frames", live.Options{After: cursor(8), Format: live.Frames, Filter: live.Filter{Fields: []string{"a"}}}, "t9 t10 a12 ready@12"},
			{"thinned", live.Options{After: cursor(2), Filter: live.Filter{Every: time.Second}}, "t8 t9 t10 a12 ready@12"},
			{"lost", live.Options{After: "lost", Snapshot: true, Filter: live.Filter{Devices: []signalbox.DeviceID{5}}}, "lost(lost,1]:0 state:dev005@0 ready@12"},
			{"lost, and what came since", live.Options{After: "lost", Filter: live.Filter{Devices: []signalbox.DeviceID{2}}}, "lost(lost,1]:0 t2 t5 t8 ready@12"},
			{"foreign", live.Options{After: "foreign", Snapshot: true, Filter: live.Filter{Kinds: []signalbox.EntryKind{cmd}}}, "unknown_cursor(foreign,12]:0 ready@12"},
			{"ahead of the log", live.Options{After: cursor(99)}, "unknown_cursor(99,12]:0 ready@12"},
		} {
			v := r.join(t, test.o)
			v.until("ready", func() bool { return len(v.events) > 0 && v.events[len(v.events)-1].Kind == "ready" })
			if got := v.brief(); got != test.want {
				t.Errorf("%s\ngot  %s\nwant %s", test.name, got, test.want)
			}
			v.Close()
		}
		for range 10 {
			r.log.add(telemetry, 1, `{}`)
		}
		v := r.join(t, live.Options{After: cursor(1), Snapshot: true, Filter: live.Filter{Types: []string{"station"}}})
		v.count(4)
		v.got("too_far(1,22]:21 state:dev003@0 state:dev006@0 ready@22")
		if s := r.hub.Stats(); s.Resumed.Load() != 8 || s.Unresumable.Load() != 5 {
			t.Errorf("%d came back, %d could not", s.Resumed.Load(), s.Unresumable.Load())
		}
		v.Close()
		r.end()
	})
}

// TestResumeWaitsForTheDisk holds that what was not on disk yet comes, once, and then the rest.
func TestResumeWaitsForTheDisk(t *testing.T) {
	devices := fleet(t, 1)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, devices, live.Config{}).run(t)
		other := r.join(t, live.Options{}) // so that the hub hears all
		r.log.add(telemetry, 1, `{}`)
		r.log.hold(true)
		for range 5 {
			r.log.add(telemetry, 1, `{}`)
		}
		synctest.Wait()
		v := r.join(t, live.Options{After: cursor(1)})
		if v.more(time.Minute) {
			t.Error("before it is on disk came", v.brief())
		}
		r.log.add(telemetry, 1, `{}`)
		synctest.Wait()
		r.log.hold(false)
		v.count(7)
		v.got("t2 t3 t4 t5 t6 ready@6 t7")
		v.Close()
		other.Close()
		r.end()
	})
}

// TestTurns holds that those who do not read give others their turn, and go on afterwards.
func TestTurns(t *testing.T) {
	devices := fleet(t, 1)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, devices, live.Config{Resumes: 1}).run(t)
		body := `{"text":"` + strings.Repeat("x", 10_000) + `"}`
		for range 60 {
			r.log.add(telemetry, 1, body)
		}
		stalled := r.join(t, live.Options{After: cursor(0)})
		stalled.more(time.Second)
		synctest.Wait() // its next piece waits to be taken, and nobody else for a turn yet
		v := r.join(t, live.Options{After: cursor(0)})
		if v.more(time.Second) {
			t.Error("two read at the same time")
		}
		v.count(61)
		stalled.count(61)
		for _, v := range []*viewer{v, stalled} {
			for i, e := range v.events[:60] {
				if e.Position != signalbox.Position(i+1) {
					t.Fatal(v.brief())
				}
			}
		}
		v.Close()
		stalled.Close()

		r.log.fail = errors.New("the disk is broken")
		v = r.join(t, live.Options{After: cursor(59)})
		if _, err := v.Next(t.Context()); !errors.Is(err, r.log.fail) {
			t.Errorf("got %v", err)
		}
		r.log.fail = nil
		v.count(2)
		v.got("t60 ready@60")
		v.Close()
		// One who leaves in the middle, and one who never began.
		v = r.join(t, live.Options{After: cursor(0)})
		v.more(time.Second)
		w := r.join(t, live.Options{After: cursor(0)})
		w.more(time.Millisecond)
		w.Close()
		v.Close()
		r.end()
	})
}

// TestSlowBeginning holds that what comes during a snapshot is not lost to a small queue.
func TestSlowBeginning(t *testing.T) {
	devices := fleet(t, 2)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, devices, live.Config{Queue: 1000}).run(t)
		v := r.join(t, live.Options{Snapshot: true})
		v.more(time.Second)
		for range 100 {
			r.log.add(telemetry, 1, `{}`)
			synctest.Wait()
		}
		v.count(103)
		for i, e := range v.events[3:] {
			if e.Position != signalbox.Position(i+1) {
				t.Fatal(v.brief())
			}
		}
		for range 3 {
			r.log.add(telemetry, 1, `{}`)
		}
		v.count(106)
		if r.log.reads == 0 {
			t.Error("nothing came from history")
		}
		v.Close()
		r.end()
	})
}

// TestBehind holds that viewers get out of history what the hub had no room for.
func TestBehind(t *testing.T) {
	devices := fleet(t, 2)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, devices, live.Config{Intake: 2000})
		v := r.join(t, live.Options{})
		thin := r.join(t, live.Options{Filter: live.Filter{Every: time.Second}})
		idle := r.join(t, live.Options{Filter: live.Filter{Devices: []signalbox.DeviceID{2}}})
		v.count(1)
		for range 100 { // nobody hears it
			r.log.add(telemetry, 1, `{}`)
		}
		r.run(t)
		v.count(101)
		r.log.add(telemetry, 2, `{}`)
		v.count(102)
		for i, e := range v.events[1:] {
			if e.Position != signalbox.Position(i+1) {
				t.Fatal(v.brief())
			}
		}
		for thin.more(2 * time.Second) {
		}
		thin.got("ready@0 t100 t101")
		idle.count(2)
		idle.got("ready@0 t101")
		if n := r.hub.Stats().Behind.Load(); n == 0 || r.hub.Stats().Lagged.Load() != 0 {
			t.Errorf("%d were counted", n)
		}
		for _, v := range []*viewer{v, thin, idle} {
			v.Close()
		}
		r.end()
	})
}
