package forward

import (
	"fmt"
	"testing"

	"signalbox"
	"signalbox/internal/history"
)

// BenchmarkEngine is what a message costs from the log to a target that drops it: reading,
// encoding and handing over.
func BenchmarkEngine(b *testing.B) {
	names := make([]string, 100)
	for i := range names {
		names[i] = fmt.Sprintf("box%03d", i)
	}
	w := begin(b, b.TempDir(), Config{}, names, only(&discard{}))
	if _, err := w.m.Add(b.Context(), Spec{Name: "to", To: "tcp://192.0.2.1:1", Paused: true}, "test"); err != nil {
		b.Fatal(err)
	}
	var e signalbox.Entry
	for i := range b.N {
		e = signalbox.Entry{
			Device: w.ids[i%len(names)], Kind: signalbox.EntryTelemetry,
			Body: fmt.Appendf(nil, `{"type":"telemetry","status":"ok","servo1":%d,"servo2":90,"temperature":%d.5}`, i%180, i%40),
		}
		for w.log.Append(&e, history.Soon) != nil {
			w.wait(b, w.log.Head())
		}
	}
	w.wait(b, e.Position)
	b.ResetTimer()
	if err := w.m.Pause(b.Context(), "to", false); err != nil {
		b.Fatal(err)
	}
	w.settled(b, "to", e.Position)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

// BenchmarkEncode is what making a message costs.
func BenchmarkEncode(b *testing.B) {
	body := []byte(`{"type":"telemetry","status":"ok","servo1":90,"servo2":90,"temperature":25.5}`)
	for _, spec := range []Spec{
		{Name: "json", To: "tcp://h:1"},
		{Name: "fields", To: "tcp://h:1", Fields: []string{"temperature", "servo1"}},
		{Name: "viewer", To: "tcp://h:1", Format: FormatViewer, Field: "temperature"},
		{Name: "template", To: "tcp://h:1", Format: FormatTemplate, Template: "{device} {field.temperature} {time}"},
	} {
		b.Run(spec.Name, func(b *testing.B) {
			enc, err := newEncoder(&spec, testCursor, "00")
			if err != nil {
				b.Fatal(err)
			}
			var batch batch
			b.ReportAllocs()
			for i := range b.N {
				if len(batch.msgs) == MaxBatch {
					batch.seal()
					batch.reset()
				}
				m := Message{Position: signalbox.Position(i + 1), Device: 1, Name: "box001", Kind: "telemetry", ReceivedMicros: 1_700_000_000_000_000 + int64(i), TimeMicros: 1_700_000_000_000_000 + int64(i)}
				enc.add(&batch, m, signalbox.EntryTelemetry, "box", body)
			}
		})
	}
}
