package mapped_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/ingest"
	"signalbox/internal/mapped"
	"signalbox/internal/registry"
	"signalbox/internal/session"
)

// TestTogether: with messages, silence, connections, commands and people at once nothing is
// lost, and at the end the device's state and the table of sessions agree.
func TestTogether(t *testing.T) {
	h := open(t, t.TempDir(), mapped.Config{Mappings: []mapped.Mapping{
		{Filter: "s/+/+", Device: "{1}", Command: &mapped.Template{Topic: "c/{2}/{command}"}},
		{Filter: "p/+", Device: "{1}", Format: mapped.FormatPresence},
	}})
	h.run(t)
	const rounds = 100
	devices := []*registry.Device{h.add(t, "a"), h.add(t, "b")}
	var work sync.WaitGroup
	for i, d := range devices {
		for range 2 {
			work.Go(func() {
				for j := range rounds {
					h.take(fmt.Sprint("s/", d.Name, "/", j%3), `{"a":1}`)
					h.take("p/"+d.Name, []string{"online", "offline"}[j%2])
				}
			})
		}
		work.Go(func() {
			for range rounds {
				h.m.Sweep(time.Now().Add(time.Hour))
				if s := h.sessions.Get(d.ID); s != nil {
					_ = s.Listening()
					_ = s.Conn.Deliver(&signalbox.Command{Name: "x"}) // it may not listen yet
					s.Conn.End("secret_changed")
				}
				h.m.Hears(d.Name, "c/1/x")
			}
		})
		work.Go(func() {
			for range rounds {
				s := &session.Session{ID: h.sessions.NextID(), Device: d.ID, Protocol: signalbox.ProtocolV2, Conn: nobody{}}
				if replaced, v := h.road.Connect(d, s, netip.Addr{}); v == ingest.Stored && replaced != nil {
					replaced.Conn.End("replaced")
				}
				h.road.Disconnect(d, s, "closed")
			}
		})
		if i == 0 {
			work.Go(func() {
				for j := range 10 {
					off := j%2 == 0
					if err := h.devices.Update(t.Context(), d, registry.Edit{Disabled: &off}, func() {
						if s := h.sessions.Get(d.ID); off && s != nil {
							s.Conn.End("disabled")
						}
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	work.Wait()
	for _, d := range devices {
		if s := h.sessions.Get(d.ID); (s != nil) != (d.View().Presence == signalbox.Online) {
			t.Errorf("the session of %s is %+v, the device %s", d.Name, s, d.View().Presence)
		}
		h.want(t, "s/"+d.Name+"/x", `{"last":true}`, mapped.Taken)
		h.wantState(t, d.Name, signalbox.Online, `{"last":true}`)
	}
	s := h.m.Stats()
	all := s.Taken.Load() + s.Idle.Load() + s.Disabled.Load() + s.Later.Load()
	if want := int64(2*2*2*rounds + 2); all != want || s.Later.Load() != 0 {
		t.Errorf("%d messages are accounted for, %d of them turned away; want %d", all, s.Later.Load(), want)
	}
}

// BenchmarkTake is a message of the first sensor, and one that wildcards name the device of.
func BenchmarkTake(b *testing.B) {
	var list []mapped.Mapping
	for i := range 1000 {
		list = append(list, mapped.Mapping{Filter: fmt.Sprintf("site%d/+/+", i), Device: "{1}"}, mapped.Mapping{Filter: fmt.Sprintf("fixed/%d", i), Device: "env01"})
	}
	list = append(list, mapped.Mapping{Filter: "Environ/Temperature", Device: "env01", Field: "temp", Format: mapped.FormatNumber})
	h := open(b, b.TempDir(), mapped.Config{Mappings: list})
	h.add(b, "s1")
	for _, m := range []struct{ name, topic, payload string }{{"number", "Environ/Temperature", "25.8 °C"}, {"wildcard", "site999/s1/climate", `{"t":20.5,"h":40}`}} {
		b.Run(m.name, func(b *testing.B) {
			taking := mapped.Taking{Topic: m.topic, Payload: []byte(m.payload), Link: h.link}
			b.ReportAllocs()
			for b.Loop() {
				for h.m.Take(&taking) == mapped.Later {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
}
