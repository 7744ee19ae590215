package ingest_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/session"
)

func (h *hub) fleet(tb testing.TB, n int) []*registry.Device {
	tb.Helper()
	list := make([]registry.NewDevice, n)
	for i := range list {
		list[i] = registry.NewDevice{Name: "device-" + strconv.Itoa(i), Type: "box"}
	}
	out, err := h.devices.AddAll(tb.Context(), list, nil)
	if err != nil {
		tb.Fatal(err)
	}
	devices := make([]*registry.Device, n)
	for i, o := range out {
		if o.Err != nil {
			tb.Fatal(o.Err)
		}
		devices[i] = o.Device
	}
	return devices
}

// BenchmarkTelemetry measures the whole road without a transport: device, state, log,
// compression and commit, of 2,000 devices from all cores, counted when on disk.
func BenchmarkTelemetry(b *testing.B) {
	h := newHub(b, b.TempDir(), history.Config{}).run(b)
	devices := h.fleet(b, 2000)
	ids := make([]uint64, len(devices))
	for i, d := range devices {
		ids[i] = h.sessions.NextID()
		s := &session.Session{ID: ids[i], Device: d.ID, Protocol: signalbox.ProtocolV2}
		if _, v := h.road.Connect(d, s, netip.Addr{}); v != ingest.Stored {
			b.Fatal(v)
		}
	}
	bodies := make([][]byte, 4096)
	for i := range bodies {
		bodies[i] = fmt.Appendf(nil, `{"type":"telemetry","status":"ok","temp":%d.%d,"servo1":%d,"servo2":90,"button1":"released","button2":"pressed","uptime":%d,"rssi":-%d,"name":"esp"}`,
			i%40, i%10, i%180, i*7919, 40+i%50)
	}
	h.flush(b)
	before := h.log.Stats().StoredBytes.Load()
	var n atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(n.Add(1))
			m := ingest.Message{Body: bodies[i%4096], Boot: 1, Seq: uint64(i)}
			for {
				_, v := h.road.Telemetry(devices[i%2000], ids[i%2000], &m)
				if v == ingest.Stored || v == ingest.Duplicate {
					break
				}
				if v != ingest.Full {
					b.Error(v)
					return
				}
				runtime.Gosched()
			}
		}
	})
	h.flush(b)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(h.log.Stats().StoredBytes.Load()-before)/float64(b.N), "B/message")
}
