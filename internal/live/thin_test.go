package live

import (
	"runtime"
	"testing"
	"time"

	"signalbox"
)

// BenchmarkEveryMemory measures what groups with Every hold while all devices talk: 32 groups over
// 100,000 devices, besides the bodies, which all of them share.
func BenchmarkEveryMemory(b *testing.B) {
	const devices, groups = 100_000, 32
	held := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	body := make([]byte, 150)
	for b.Loop() {
		before := held()
		now := time.Now()
		all := make([]*thinner, groups)
		for i := range all {
			all[i] = newThinner(time.Hour)
			all[i].ticked = now
		}
		for n := range 5 * devices / 2 { // so that some were overtaken
			e := &signalbox.Entry{Position: signalbox.Position(n + 1), Device: signalbox.DeviceID(n%devices + 1), Kind: signalbox.EntryTelemetry, Body: body}
			for _, t := range all {
				t.add(e, now)
			}
		}
		b.ReportMetric(float64(held()-before)/devices/groups, "B/device/group")
		runtime.KeepAlive(all)
	}
}
