package history_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// BenchmarkAppend measures the log alone: messages of 150 bytes of 2,000 devices from all
// cores, counted when they are on disk.
func BenchmarkAppend(b *testing.B) {
	l := start(b, b.TempDir(), history.Config{})
	bodies := make([][]byte, 4096)
	for i := range bodies {
		bodies[i] = fmt.Appendf(nil, `{"type":"telemetry","status":"ok","temp":%d.%d,"servo1":%d,"servo2":90,"button1":"released","button2":"pressed","uptime":%d,"rssi":-%d,"name":"esp"}`,
			i%40, i%10, i%180, i*7919, 40+i%50)
	}
	var n atomic.Uint64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var e signalbox.Entry
		for pb.Next() {
			i := n.Add(1)
			e = signalbox.Entry{Kind: signalbox.EntryTelemetry, Device: signalbox.DeviceID(i%2000 + 1), Body: bodies[i%4096]}
			for errors.Is(l.log.Append(&e, history.Soon), history.ErrFull) {
				runtime.Gosched()
			}
		}
	})
	l.wait(b, l.log.Head())
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(l.log.Stats().StoredBytes.Load())/float64(b.N), "B/message")
}

// BenchmarkPage reads the last 20 messages of one of 1,000 devices, behind as many rows of
// others as depth says.
func BenchmarkPage(b *testing.B) {
	for _, depth := range []int{0, 100, 10_000} {
		b.Run(fmt.Sprintf("depth=%d", depth), func(b *testing.B) {
			l := start(b, b.TempDir(), history.Config{RowBytes: 4 << 10})
			put := func(device signalbox.DeviceID, n int) {
				for i := range n {
					e := telemetry(device, fmt.Sprintf(`{"n":%d,"status":"ok","temp":%d}`, i, i%40))
					for errors.Is(l.log.Append(&e, history.Soon), history.ErrFull) {
						runtime.Gosched()
					}
				}
			}
			for i := range 100 {
				put(1, 5)
				put(signalbox.DeviceID(i+2), 100)
			}
			l.wait(b, l.log.Head())
			to := time.UnixMicro(time.Now().UnixMicro())
			for range depth {
				put(1, 1)
				put(2, 120)
			}
			l.wait(b, l.log.Head())
			q := history.Query{Device: 1, Limit: 20}
			if depth > 0 {
				q.To = to // the page lies behind the rows that came since
			}
			b.ReportAllocs()
			for b.Loop() {
				page, err := l.log.Page(b.Context(), q)
				if err != nil || len(page) != 20 {
					b.Fatal(len(page), err)
				}
			}
		})
	}
}

// BenchmarkLast reads the last 20 messages of a device whose run holds as many as rows says.
func BenchmarkLast(b *testing.B) {
	for _, rows := range []int{30, 500, 1000} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			l := start(b, b.TempDir(), history.Config{})
			for i := range 1024 + rows {
				e := telemetry(1, fmt.Sprintf(`{"type":"telemetry","status":"ok","servo1":%d,"servo2":90,"temp":%d.%d}`, i/40%180, i%40, i%10))
				for errors.Is(l.log.Append(&e, history.Soon), history.ErrFull) {
					runtime.Gosched()
				}
			}
			l.wait(b, l.log.Head())
			b.ReportAllocs()
			for b.Loop() {
				page, err := l.log.Page(b.Context(), history.Query{Device: 1, Limit: 20})
				if err != nil || len(page) != 20 {
					b.Fatal(len(page), err)
				}
			}
		})
	}
}
