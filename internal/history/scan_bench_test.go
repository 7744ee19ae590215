package history_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// BenchmarkScan reads the telemetry of 1,000 devices in order: of time, half an hour in which
// all sent each second, and the hour before in which they sent each minute; and of the log, all
// of it. Half of what was sent each second is in chunks.
func BenchmarkScan(b *testing.B) {
	const devices, sparse, dense = 1000, 600, 1500
	for _, load := range []struct {
		name string
		body func(rng *rand.Rand, n int) []byte
	}{
		{"box", func(rng *rand.Rand, n int) []byte {
			return fmt.Appendf(nil, `{"type":"telemetry","status":"ok","servo1":%d,"servo2":90,"button1":"released","button2":"pressed"}`, n/50%180)
		}},
		{"sensor", func(rng *rand.Rand, n int) []byte {
			return fmt.Appendf(nil, `{"temp":%.2f,"hum":%.1f,"pressure":%.2f,"rssi":-%d,"uptime":%d}`, 20+rng.NormFloat64(), 50+rng.NormFloat64(), 1013+rng.NormFloat64(), 60+rng.IntN(9), n)
		}},
	} {
		l := start(b, b.TempDir(), history.Config{})
		rng := rand.New(rand.NewPCG(1, 2))
		begin := time.Now().Add(-24 * time.Hour).Truncate(time.Hour)
		at, bodies := begin, make([][]byte, devices)
		for i := range sparse + dense {
			step := time.Minute
			if i >= sparse {
				step = time.Second
			}
			for d := range devices {
				if d%8 == i%8 {
					bodies[d] = load.body(rng, i)
				}
				e := telemetry(signalbox.DeviceID(d+1), string(bodies[d]))
				e.TimeMicros = at.UnixMicro() + int64(d)*900 + rng.Int64N(20_000)
				for errors.Is(l.log.Append(&e, history.Soon), history.ErrFull) {
					runtime.Gosched()
				}
			}
			at = at.Add(step)
		}
		l.wait(b, l.log.Head())
		if _, err := l.log.Page(b.Context(), history.Query{Device: 1, Limit: 1}); err != nil { // all is sealed
			b.Fatal(err)
		}
		middle := begin.Add(sparse * time.Minute)
		scan := func(b *testing.B, n int, ask func(yield func(*signalbox.Entry) error) error) {
			b.Helper()
			b.ReportAllocs()
			before := cpu()
			for b.Loop() {
				got := 0
				err := ask(func(e *signalbox.Entry) error {
					got++
					return nil
				})
				if err != nil || got != n {
					b.Fatal(got, err)
				}
			}
			rows := float64(b.N) * float64(n)
			b.ReportMetric(rows/b.Elapsed().Seconds()/1e6, "Mrows/s")
			b.ReportMetric(float64(cpu()-before)/rows, "cpu-ns/row")
		}
		times := func(from, to time.Time) func(yield func(*signalbox.Entry) error) error {
			return func(yield func(*signalbox.Entry) error) error {
				return l.log.ScanTime(b.Context(), history.ScanQuery{From: from, To: to}, yield)
			}
		}
		b.Run(load.name+"/dense", func(b *testing.B) { scan(b, devices*dense, times(middle, at)) })
		b.Run(load.name+"/sparse", func(b *testing.B) { scan(b, devices*60, times(middle.Add(-time.Hour), middle)) })
		b.Run(load.name+"/log", func(b *testing.B) {
			scan(b, devices*(sparse+dense), func(yield func(*signalbox.Entry) error) error {
				return l.log.ScanRange(b.Context(), history.RangeQuery{}, yield)
			})
		})
		if err := l.stop(); err != nil {
			b.Fatal(err)
		}
	}
}
