package live_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/live"
)

const (
	telemetry = signalbox.EntryTelemetry
	presence  = signalbox.EntryPresence
	cmd       = signalbox.EntryCommand
	alert     = signalbox.EntryAlert
	imported  = signalbox.EntryImported
)

// report puts telemetry into the log and into the device's state.
func (r *rig) report(device signalbox.DeviceID, body string) signalbox.Position {
	d := r.devices.Get(device)
	s := d.Lock()
	defer d.Unlock()
	s.Session, s.Reported = 1, true
	s.Position = r.log.add(telemetry, device, body)
	s.ReceivedMicros, s.TimeMicros = 1_763_812_800_123_456, 1_763_812_799_000_000
	s.SetBody([]byte(body))
	return s.Position
}

func TestStates(t *testing.T) {
	r := newRig(t, fleet(t, 6), live.Config{}).run(t)
	r.report(2, "{\"status\":\"tür \\\"auf\\\"\",\n \"temp\": 21.50, \"hum\":40}")
	r.report(3, `{"temp":1}`)
	for _, test := range []struct {
		name   string
		filter live.Filter
		none   bool
		want   string
		raw    string // of the first
	}{
		{name: "all", want: "state:dev001@0 state:dev002@1 state:dev003@2 state:dev004@0 state:dev005@0 state:dev006@0 ready@2", raw: `{"kind":"state","position":0,"state":{"device":"dev001","status":"offline","presence":"offline"}}`},
		{
			name: "chosen", filter: live.Filter{Devices: []signalbox.DeviceID{3, 2, 3, 99}}, want: "state:dev002@1 state:dev003@2 ready@2",
			raw: `{"kind":"state","position":1,"state":{"device":"dev002","status":"tür \"auf\"","presence":"online","received":"2025-11-22T12:00:00.123Z","time":"2025-11-22T11:59:59.000Z","telemetry":{"status":"tür \"auf\"","temp":21.50,"hum":40}}}`,
		},
		{name: "type", filter: live.Filter{Types: []string{"station", "ufo"}}, want: "state:dev003@2 state:dev006@0 ready@2"},
		{
			name: "fields", filter: live.Filter{Devices: []signalbox.DeviceID{2}, Fields: []string{"hum", "temp"}}, want: "state:dev002@1 ready@2",
			raw: `{"kind":"state","position":1,"state":{"device":"dev002","status":"tür \"auf\"","presence":"online","received":"2025-11-22T12:00:00.123Z","time":"2025-11-22T11:59:59.000Z","telemetry":{"hum":40,"temp":21.50}}}`,
		},
		{
			name: "fields that are not there", filter: live.Filter{Devices: []signalbox.DeviceID{3}, Fields: []string{"hum"}}, want: "state:dev003@2 ready@2",
			raw: `{"kind":"state","position":2,"state":{"device":"dev003","status":"unknown","presence":"online","received":"2025-11-22T12:00:00.123Z","time":"2025-11-22T11:59:59.000Z"}}`,
		},
		{
			name: "presence alone", filter: live.Filter{Devices: []signalbox.DeviceID{3}, Kinds: []signalbox.EntryKind{presence}}, want: "state:dev003@2 ready@2",
			raw: `{"kind":"state","position":2,"state":{"device":"dev003","status":"unknown","presence":"online","received":"2025-11-22T12:00:00.123Z","time":"2025-11-22T11:59:59.000Z"}}`,
		},
		{name: "commands alone", filter: live.Filter{Kinds: []signalbox.EntryKind{cmd}}, want: "ready@2", raw: `{"kind":"ready","cursor":"k3f9q2-2"}`},
		{name: "no device at all", filter: live.Filter{Devices: []signalbox.DeviceID{}}, want: "ready@2", raw: `{"kind":"ready","cursor":"k3f9q2-2","devices":0}`},
		{name: "not wanted", none: true, want: "ready@2", raw: `{"kind":"ready","cursor":"k3f9q2-2"}`},
	} {
		for _, format := range []live.Format{live.SSE, live.Frames} {
			t.Run(test.name, func(t *testing.T) {
				v := r.join(t, live.Options{Filter: test.filter, Format: format, Snapshot: !test.none})
				v.until("ready", func() bool { return len(v.events) > 0 && v.events[len(v.events)-1].Kind == "ready" })
				v.got(test.want)
				if test.raw != "" && v.events[0].Raw != test.raw {
					t.Errorf("the first is %s\nwant %s", v.events[0].Raw, test.raw)
				}
			})
		}
	}
}

// TestManyStates holds that a snapshot comes in pieces.
func TestManyStates(t *testing.T) {
	r := newRig(t, fleet(t, 400), live.Config{}).run(t)
	for id := range signalbox.DeviceID(400) {
		r.report(id+1, `{"text":"`+strings.Repeat("x", 1000)+`"}`)
	}
	v := r.join(t, live.Options{Snapshot: true})
	v.count(401)
	if last := v.events[400]; v.blocks < 7 || last.Kind != "ready" || last.Devices == nil || *last.Devices != 400 {
		t.Errorf("%d blocks; the last event is %s", v.blocks, last.Raw)
	}
}

func TestWhoGetsWhat(t *testing.T) {
	devices := fleet(t, 6)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, devices, live.Config{})
		r.log.now = func() time.Time { return time.UnixMicro(1_763_812_800_123_456) }
		r.run(t)
		filters := []struct {
			filter live.Filter
			want   string
		}{
			{live.Filter{}, "ready@0 t1 t2 p3 c4 a5 t7 t8 a9"},
			{live.Filter{Devices: []signalbox.DeviceID{2}}, "ready@0 t1 t7"},
			{live.Filter{Devices: []signalbox.DeviceID{3, 2}}, "ready@0 t1 t2 p3 t7"},
			{live.Filter{Devices: []signalbox.DeviceID{2, 3, 4}, Types: []string{"station"}}, "ready@0 t2 p3"},
			{live.Filter{Types: []string{"box"}}, "ready@0 t1 c4 a5 t7 t8"},
			{live.Filter{Types: []string{"station", "box"}, Kinds: []signalbox.EntryKind{telemetry, presence}}, "ready@0 t1 t2 p3 t7 t8"},
			{live.Filter{Kinds: []signalbox.EntryKind{alert, cmd}}, "ready@0 c4 a5 a9"},
			{live.Filter{Fields: []string{"a"}}, "ready@0 t1 p3 c4 a5 t8 a9"},
			{live.Filter{Fields: []string{"c.d"}, Kinds: []signalbox.EntryKind{telemetry}}, "ready@0 t7"},
			{live.Filter{Devices: []signalbox.DeviceID{}}, "ready@0"},
			{live.Filter{Types: []string{}}, "ready@0"},
			{live.Filter{Kinds: []signalbox.EntryKind{}}, "ready@0"},
		}
		var viewers []*viewer
		for _, f := range filters {
			for _, format := range []live.Format{live.SSE, live.Frames} {
				viewers = append(viewers, r.join(t, live.Options{Filter: f.filter, Format: format}))
			}
		}
		all := r.join(t, live.Options{})
		if g := r.hub.Stats().Groups.Load(); g != int64(2*len(filters)) {
			t.Errorf("%d groups", g)
		}
		r.log.add(telemetry, 2, `{ "a" : 1, "b":"x  y" }`)
		r.log.add(telemetry, 3, "{\"b\":\n[1,\r\n2]}")
		r.log.add(presence, 3, `{"presence":"online","session":7}`)
		r.log.add(cmd, 4, `{"id":"x","command":"go"}`)
		r.log.add(alert, 1, `{"alert":"hot"}`)
		r.log.add(imported, 1, `{"a":1}`)
		r.log.add(telemetry, 2, `{"c":{"d":5}}`)
		r.log.add(telemetry, 5, `{"a":"ä"}`)
		r.log.add(alert, 0, `{"alert":"of the hub"}`)
		r.log.add(telemetry, 77, `{"a":1}`) // there is none
		r.log.add(cmd, 4, `broken`)
		synctest.Wait()
		for i, v := range viewers {
			for v.more(time.Millisecond) {
			}
			if got, want := v.brief(), filters[i/2].want; got != want {
				t.Errorf("%+v\ngot  %s\nwant %s", filters[i/2].filter, got, want)
			}
		}
		all.count(9)
		for i, want := range []string{
			`{"kind":"ready","cursor":"k3f9q2-0"}`,
			`{"kind":"telemetry","cursor":"k3f9q2-1","position":1,"device":"dev002","received":"2025-11-22T12:00:00.123Z","time":"2025-11-22T12:00:00.123Z","object":{"a":1,"b":"x  y"}}`,
			`{"kind":"telemetry","cursor":"k3f9q2-2","position":2,"device":"dev003","received":"2025-11-22T12:00:00.123Z","time":"2025-11-22T12:00:00.123Z","object":{"b":[1,2]}}`,
			`{"kind":"presence","cursor":"k3f9q2-3","position":3,"device":"dev003","received":"2025-11-22T12:00:00.123Z","presence":{"presence":"online","session":7}}`,
			`{"kind":"command","cursor":"k3f9q2-4","position":4,"device":"dev004","received":"2025-11-22T12:00:00.123Z","command":{"id":"x","command":"go"}}`,
			`{"kind":"alert","cursor":"k3f9q2-5","position":5,"device":"dev001","received":"2025-11-22T12:00:00.123Z","object":{"alert":"hot"}}`,
		} {
			if all.events[i].Raw != want {
				t.Errorf("got  %s\nwant %s", all.events[i].Raw, want)
			}
		}
		if at, ok := all.Cursor(); !ok || at != cursor(11) {
			t.Errorf("it stands at %q, %v", at, ok)
		}
		// Each of the 9 once a format, and 4 more as 2 viewers of fields want them.
		if n := r.hub.Stats().Encoded.Load(); n != 2*8+2*3 {
			t.Errorf("encoded %d events", n)
		}
		r.end()
	})
}

func TestLagged(t *testing.T) {
	devices := fleet(t, 1)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, devices, live.Config{Queue: 1000}).run(t)
		slow, quick := r.join(t, live.Options{}), r.join(t, live.Options{})
		slow.count(1)
		body := `{"text":"` + strings.Repeat("x", 100) + `"}` // about 310 bytes an event and block
		say := func(n int) {
			for range n {
				r.log.add(telemetry, 1, body)
				synctest.Wait()
				for quick.more(time.Millisecond) {
				}
			}
		}
		say(10) // two find room
		slow.more(time.Second)
		say(5)
		slow.more(time.Second)
		slow.got("ready@0 t1 t2 slow(2,15]:13")
		say(1)
		slow.more(time.Second)
		slow.got("ready@0 t1 t2 slow(2,15]:13 t16")
		say(4)
		for slow.more(time.Millisecond) {
		}
		// The last statement comes though nothing follows.
		slow.got("ready@0 t1 t2 slow(2,15]:13 t16 t17 slow(17,20]:3")
		if len(quick.events) != 21 {
			t.Errorf("the other one has %s", quick.brief())
		}
		if n := r.hub.Stats().Lagged.Load(); n != 16 {
			t.Errorf("%d events were counted as missed", n)
		}
		r.end()
	})
}

func TestEvery(t *testing.T) {
	devices := fleet(t, 3)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, devices, live.Config{}).run(t)
		v := r.join(t, live.Options{Filter: live.Filter{Every: time.Second}})
		fields := r.join(t, live.Options{Format: live.Frames, Filter: live.Filter{Every: time.Second, Fields: []string{"a"}}})
		r.log.add(telemetry, 1, `{"a":1}`)
		v.count(2) // at once
		for range 5 {
			time.Sleep(100 * time.Millisecond)
			r.log.add(telemetry, 1, `{"a":2}`)
			r.log.add(telemetry, 2, `{"b":2}`)
			r.log.add(presence, 3, `{}`)
		}
		if v.more(400 * time.Millisecond) {
			t.Error("before its time came", v.brief())
		}
		late := r.join(t, live.Options{Filter: live.Filter{Every: time.Second}, After: cursor(2)})
		late.count(2)
		v.more(time.Second)
		v.got("ready@0 t1 p4 p7 p10 p13 t14 t15 p16")
		for fields.more(10 * time.Millisecond) {
		}
		fields.got("ready@0 t1 p4 p7 p10 p13 t14 p16")
		for late.more(10 * time.Millisecond) {
		}
		// The group was given all up to 3 when it came, so that one comes from history.
		late.got("t3 ready@3 p4 p7 p10 p13 t14 t15 p16")
		time.Sleep(5 * time.Second)
		r.log.add(telemetry, 2, `{"a":3}`)
		synctest.Wait()
		if !v.more(time.Millisecond) {
			t.Error("after a silence it does not come at once")
		}
		// Many events that are no telemetry bring a tick forward.
		for range 3000 {
			r.log.add(presence, 3, `{"address":"`+strings.Repeat("x", 50)+`"}`)
		}
		synctest.Wait()
		if !v.more(time.Millisecond) {
			t.Error("nothing brought the tick forward")
		}
		r.end()
	})
}

func TestRefusals(t *testing.T) {
	r := newRig(t, fleet(t, 1), live.Config{Viewers: 2}).run(t)
	a, b := r.join(t, live.Options{}), r.join(t, live.Options{})
	for _, test := range []struct {
		name string
		o    live.Options
		kind signalbox.Kind
		code string
	}{
		{"one too many", live.Options{}, signalbox.KindLimited, "too_many_viewers"},
		{"no cursor", live.Options{After: "?"}, signalbox.KindInvalid, "invalid_cursor"},
		{"too often", live.Options{Filter: live.Filter{Every: time.Millisecond}}, signalbox.KindInvalid, "invalid_every"},
		{"no kind", live.Options{Filter: live.Filter{Kinds: []signalbox.EntryKind{signalbox.EntryBroker}}}, signalbox.KindInvalid, "invalid_kind"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := r.hub.Join(t.Context(), test.o); signalbox.KindOf(err) != test.kind || signalbox.CodeOf(err) != test.code {
				t.Errorf("got %v", err)
			}
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.hub.Join(ended, live.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	a.Close()
	a.Close()
	c := r.join(t, live.Options{})
	if s := r.hub.Stats(); s.Viewers.Load() != 2 || s.Refused.Load() != 1 {
		t.Errorf("%d viewers, %d refused", s.Viewers.Load(), s.Refused.Load())
	}
	b.count(1)
	r.end()
	if _, err := b.Next(t.Context()); signalbox.KindOf(err) != signalbox.KindUnavailable {
		t.Errorf("when the hub has ended: %v", err)
	}
	c.Close()
	b.Close()
	if s := r.hub.Stats(); s.Viewers.Load() != 0 || s.Groups.Load() != 0 {
		t.Errorf("%d viewers, %d groups are left", s.Viewers.Load(), s.Groups.Load())
	}
	if _, err := r.hub.Join(t.Context(), live.Options{}); signalbox.KindOf(err) != signalbox.KindUnavailable {
		t.Errorf("joining then: %v", err)
	}
}

// TestLargeEvents holds the frames' lengths and that a large event is a block of its own.
func TestLargeEvents(t *testing.T) {
	r := newRig(t, fleet(t, 1), live.Config{Queue: 1}).run(t)
	for _, format := range []live.Format{live.SSE, live.Frames} {
		v := r.join(t, live.Options{Format: format})
		v.count(1)
		empty := 0
		for _, n := range []int{0, 1, 60, 65_000, 70_000, 300_000} {
			r.log.add(telemetry, 1, `{"a":"`+strings.Repeat("x", n)+`"}`)
			v.more(testPatience)
			v.more(time.Millisecond) // what it had in hand is no longer counted
			e := v.events[len(v.events)-1]
			if empty == 0 {
				empty = len(e.Object)
			}
			if len(e.Object) != empty+n {
				t.Errorf("an object of %d bytes has %d", empty+n, len(e.Object))
			}
		}
		seen := map[int]bool{}
		for n := 1<<16 - 180; n < 1<<16-150 && format == live.Frames; n++ { // about the limit of two bytes of length
			r.log.add(telemetry, 1, `{"a":"`+strings.Repeat("x", n)+`"}`)
			v.more(testPatience)
			v.more(time.Millisecond)
			seen[len(v.events[len(v.events)-1].Raw)] = true
		}
		if format == live.Frames && (!seen[1<<16-1] || !seen[1<<16]) {
			t.Error("the limit was not met")
		}
	}
	short := r.join(t, live.Options{Format: live.Frames})
	short.count(1)
	if e := short.events[0]; e.Kind != "ready" || len(e.Raw) > 125 {
		t.Error(e.Raw)
	}
}
