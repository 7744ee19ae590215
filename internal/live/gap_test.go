package live_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/live"
)

// TestDropped holds that a viewer that comes back is told when retention has dropped something of
// what it missed, in a place before the rest, and nobody else is.
func TestDropped(t *testing.T) {
	devices := fleet(t, 3)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, devices, live.Config{}).run(t)
		for i := range 10 {
			r.log.add(telemetry, signalbox.DeviceID(i%3+1), `{"a":1}`)
		}
		r.log.add(alert, 1, `{}`)
		r.log.add(alert, 1, `{}`)
		r.log.drop(1, 4, 11)
		for _, test := range []struct {
			name string
			o    live.Options
			want string
		}{
			{"all", live.Options{After: cursor(0), Snapshot: true}, "dropped(0,11]:0 t2 t3 t5 t6 t7 t8 t9 t10 a12 ready@12"},
			{"frames", live.Options{After: cursor(3), Format: live.Frames}, "dropped(3,11]:0 t5 t6 t7 t8 t9 t10 a12 ready@12"},
			{"before the last that was dropped", live.Options{After: cursor(10)}, "dropped(10,11]:0 a12 ready@12"},
			{"behind it", live.Options{After: cursor(11)}, "a12 ready@12"},
			{"telemetry alone", live.Options{After: cursor(3), Filter: live.Filter{Kinds: []signalbox.EntryKind{telemetry}}}, "dropped(3,4]:0 t5 t6 t7 t8 t9 t10 ready@12"},
			{"telemetry alone, behind it", live.Options{After: cursor(4), Filter: live.Filter{Kinds: []signalbox.EntryKind{telemetry}}}, "t5 t6 t7 t8 t9 t10 ready@12"},
			{"alerts alone", live.Options{After: cursor(0), Filter: live.Filter{Kinds: []signalbox.EntryKind{alert}}}, "dropped(0,11]:0 a12 ready@12"},
			{"thinned", live.Options{After: cursor(2), Filter: live.Filter{Every: time.Second}}, "dropped(2,11]:0 t8 t9 t10 a12 ready@12"},
			{"lost", live.Options{After: "lost", Snapshot: true, Filter: live.Filter{Devices: []signalbox.DeviceID{2}}}, "lost(lost,1]:0 state:dev002@0 dropped(1,11]:0 t2 t5 t8 ready@12"},
			{"without a cursor", live.Options{}, "ready@12"},
		} {
			v := r.join(t, test.o)
			v.until("ready", func() bool { return len(v.events) > 0 && v.events[len(v.events)-1].Kind == "ready" })
			if got := v.brief(); got != test.want {
				t.Errorf("%s\ngot  %s\nwant %s", test.name, got, test.want)
			}
			v.Close()
		}
		r.end()
	})
}

// TestDroppedMeanwhile holds that a viewer is told of each gap once, however many turns it needs to
// read, and also of what is dropped while it reads.
func TestDroppedMeanwhile(t *testing.T) {
	devices := fleet(t, 1)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, devices, live.Config{Resumes: 1}).run(t)
		body := `{"text":"` + strings.Repeat("x", 10_000) + `"}`
		for range 60 {
			r.log.add(telemetry, 1, body)
		}
		r.log.drop(5, 20)
		v := r.join(t, live.Options{After: cursor(0)})
		v.more(time.Second)
		synctest.Wait() // its next piece waits to be taken
		other := r.join(t, live.Options{After: cursor(0), Filter: live.Filter{Kinds: []signalbox.EntryKind{alert}}})
		other.count(1) // the first has lost its turn
		r.log.drop(50)
		v.until("ready", func() bool { return v.events[len(v.events)-1].Kind == "ready" })
		var told []string
		seen := 0
		for _, e := range v.events {
			switch e.Kind {
			case "lagged":
				told = append(told, e.Until)
				if e.Reason != "dropped" {
					t.Errorf("the reason is %s", e.Reason)
				}
			case "telemetry":
				seen++
			}
		}
		if len(told) != 2 || told[0] != cursor(20) || told[1] != cursor(50) || seen != 57 {
			t.Errorf("%d events, told up to %v: %s", seen, told, v.brief())
		}
		v.Close()
		other.Close()
		r.end()
	})
}
