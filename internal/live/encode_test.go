package live

import (
	"context"
	"strconv"
	"testing"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/wire"
)

// names is a log that only names positions.
type names struct{}

func (names) AppendCursor(dst []byte, p signalbox.Position) []byte {
	return strconv.AppendUint(append(dst, "k3f9q2ab-"...), uint64(p), 10)
}
func (names) Place(string) (history.Place, error)            { return history.Place{}, nil }
func (names) Wait(context.Context, signalbox.Position) error { return nil }
func (names) Head() signalbox.Position                       { return 0 }

func (names) Since(context.Context, history.SinceQuery, func(*signalbox.Entry) error) error {
	return nil
}

func encodings() (e *signalbox.Entry, writers []*encoder) {
	e = &signalbox.Entry{
		Position: 123_456_789, Device: 7, Kind: signalbox.EntryTelemetry, ReceivedMicros: 1_763_812_800_123_456, TimeMicros: 1_763_812_800_123_456,
		Body: []byte(`{"type":"telemetry","status":"ok","temp":21.5,"servo1":90,"servo2":90,"button1":"released","button2":"pressed","uptime":123456,"rssi":-61}`),
	}
	h := &Hub{log: names{}}
	return e, []*encoder{h.newEncoder(SSE), h.newEncoder(Frames)}
}

func TestEncodingDoesNotAllocate(t *testing.T) {
	e, writers := encodings()
	for _, w := range writers {
		run := func() {
			w.begin()
			w.event(e, "esp01", nil)
			w.event(e, "esp01", nil)
			w.reset()
		}
		run() // it gets its memory
		if n := testing.AllocsPerRun(100, run); n != 0 {
			t.Errorf("format %d: %v allocations an event", w.format, n)
		}
		if n := w.stats.Encoded.Load(); n != 102 {
			t.Errorf("102 events were encoded %d times", n)
		}
		w.stats.Encoded.Store(0)
	}
}

// TestFieldsLoseWhiteSpace holds that chosen fields are one line, too.
func TestFieldsLoseWhiteSpace(t *testing.T) {
	e, writers := encodings()
	e.Body = []byte("{\"a\": [1,\n 2], \"b\": \"x y\"}")
	c := wire.NewChoice([]string{"b", "a"})
	c.Look(e.Body)
	s, ok := writers[SSE].event(e, "ü", c)
	want := "event: telemetry\nid: k3f9q2ab-123456789\ndata: " +
		`{"kind":"telemetry","cursor":"k3f9q2ab-123456789","position":123456789,"device":"ü","received":"2025-11-22T12:00:00.123Z","time":"2025-11-22T12:00:00.123Z","object":{"b":"x y","a":[1,2]}}` + "\n\n"
	if got := string((*s.of)[s.lo:s.hi]); !ok || got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func BenchmarkEncode(b *testing.B) {
	e, writers := encodings()
	for i, name := range []string{"sse", "frames"} {
		b.Run(name, func(b *testing.B) {
			w := writers[i]
			b.ReportAllocs()
			for b.Loop() {
				w.begin()
				w.event(e, "esp01", nil)
				if w.pending() > blockBytes {
					w.reset()
				}
			}
		})
	}
	b.Run("spaces", func(b *testing.B) {
		w := writers[SSE]
		e.Body = []byte(`{"type": "telemetry", "status": "ok", "temp": 21.5, "servo1": 90, "servo2": 90, "button1": "released", "button2": "pressed"}`)
		for b.Loop() {
			w.begin()
			w.event(e, "esp01", nil)
			if w.pending() > blockBytes {
				w.reset()
			}
		}
	})
}
