package live_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/live"
)

const usualBody = `{"type":"telemetry","status":"ok","temp":21.5,"servo1":90,"servo2":90,"button1":"released","button2":"pressed","uptime":123456,"rssi":-61}`

// benchRig is a hub over a log that keeps nothing, and what puts messages on its bus.
func benchRig(b *testing.B, devices int, cfg live.Config) (r *rig, publish func()) {
	b.Helper()
	r = newRig(b, fleet(b, devices), cfg)
	e := signalbox.Entry{Kind: telemetry, Body: []byte(usualBody)}
	return r, func() {
		e.Position++
		e.Device = signalbox.DeviceID(int(e.Position)%devices + 1)
		e.ReceivedMicros += 100
		e.TimeMicros = e.ReceivedMicros
		r.bus.Publish(&e)
	}
}

// BenchmarkMessages has messages come as fast as they are handed out, and viewers that drop
// what they get: the cost of a message is that of bus, encoding and queues.
func BenchmarkMessages(b *testing.B) {
	for _, bench := range []struct {
		name             string
		devices, viewers int
		options          func(i int) live.Options
	}{
		{"one viewer", 100, 1, func(int) live.Options { return live.Options{} }},
		{"100 viewers of all", 100, 100, func(int) live.Options { return live.Options{} }},
		{"100 viewers of all in two formats", 100, 100, func(i int) live.Options { return live.Options{Format: live.Format(i % 2)} }},
		{"100 groups", 100, 100, func(i int) live.Options {
			return live.Options{Filter: live.Filter{Fields: []string{"temp", fmt.Sprint("f", i)}}}
		}},
		{"1000 viewers of a device each", 1000, 1000, func(i int) live.Options {
			return live.Options{Filter: live.Filter{Devices: []signalbox.DeviceID{signalbox.DeviceID(i + 1)}}}
		}},
		{"every", 1000, 1, func(int) live.Options { return live.Options{Filter: live.Filter{Every: time.Second}} }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			r, publish := benchRig(b, bench.devices, live.Config{Intake: 8 << 20, Queue: 64 << 20, Choices: bench.viewers})
			r.run(b)
			ctx, cancel := context.WithCancel(b.Context())
			var viewers sync.WaitGroup
			var bytes atomic.Int64
			for i := range bench.viewers {
				v, err := r.hub.Join(ctx, bench.options(i))
				if err != nil {
					b.Fatal(err)
				}
				viewers.Go(func() {
					defer v.Close()
					for {
						block, err := v.Next(ctx)
						if err != nil {
							return
						}
						bytes.Add(int64(len(block)))
					}
				})
			}
			b.ReportAllocs()
			b.ResetTimer()
			fan, deadline := int64(bench.viewers), time.Now().Add(10*time.Second)
			if bench.devices == bench.viewers && bench.devices > 100 {
				fan = 1
			}
			// A message that nobody has yet waits for at most so many others.
			wait := func(n int64) {
				for r.hub.Stats().Delivered.Load() < n*fan && bench.options(0).Every == 0 && time.Now().Before(deadline) {
					time.Sleep(50 * time.Microsecond)
				}
			}
			for i := range b.N {
				publish()
				if i%1000 == 0 {
					wait(int64(i) - 10_000)
				}
			}
			wait(int64(b.N))
			b.ReportMetric(float64(r.hub.Stats().Delivered.Load())/b.Elapsed().Seconds(), "deliveries/s")
			cancel()
			viewers.Wait()
		})
	}
}

// BenchmarkSockets has 10,000 devices say something once a second to 100 viewers over TCP, and
// besides writes the same bytes to the same sockets in a plain loop.
func BenchmarkSockets(b *testing.B) {
	const viewers = 100
	conns := make([]net.Conn, viewers)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	var drains sync.WaitGroup
	for i := range conns {
		if conns[i], err = net.Dial("tcp", ln.Addr().String()); err != nil {
			b.Fatal(err)
		}
		far, err := ln.Accept()
		if err != nil {
			b.Fatal(err)
		}
		drains.Go(func() {
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{far}, make([]byte, 256<<10))
		})
	}
	r, publish := benchRig(b, 10_000, live.Config{})
	r.run(b)
	var writers sync.WaitGroup
	var writes atomic.Int64
	ctx, cancel := context.WithCancel(b.Context())
	var published [1 << 20]atomic.Int64 // by position, ns
	late := make([][]int64, viewers)    // of the oldest event of each block, ns
	for i, c := range conns {
		v, err := r.hub.Join(ctx, live.Options{Format: live.Frames})
		if err != nil {
			b.Fatal(err)
		}
		writers.Go(func() {
			defer v.Close()
			for {
				block, err := v.Next(ctx)
				if err != nil {
					return
				}
				if _, err := c.Write(block); err != nil {
					return
				}
				writes.Add(1)
				var p int
				if _, rest, ok := strings.Cut(string(block[:min(len(block), 200)]), `"position":`); ok {
					_, _ = fmt.Sscanf(rest, "%d", &p) // 0 where there is none
					if at := published[p%len(published)].Load(); at > 0 {
						late[i] = append(late[i], time.Now().UnixNano()-at)
					}
				}
			}
		})
	}
	position, due := 0, time.Now()
	for b.Loop() { // b.N times 1 ms
		for range 10 {
			position++
			published[position%len(published)].Store(time.Now().UnixNano())
			publish()
		}
		due = due.Add(time.Millisecond)
		time.Sleep(time.Until(due))
	}
	s := r.hub.Stats()
	b.ReportMetric(float64(s.Delivered.Load())/b.Elapsed().Seconds(), "deliveries/s")
	b.ReportMetric(float64(s.Delivered.Load())/float64(max(writes.Load(), 1)), "events/write")
	b.ReportMetric(float64(s.Lagged.Load()), "lagged")
	cancel()
	writers.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(late...)))
	if n := len(all); n > 0 {
		b.ReportMetric(float64(all[n/2])/1e6, "p50-ms")
		b.ReportMetric(float64(all[n*99/100])/1e6, "p99-ms")
	}
	for _, c := range conns {
		_ = c.Close()
	}
	drains.Wait()
}

// BenchmarkIdleViewer measures the memory of a viewer that waits.
func BenchmarkIdleViewer(b *testing.B) {
	r := newRig(b, fleet(b, 1), live.Config{Viewers: 20_000})
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&before)
		viewers := make([]*live.Viewer, 10_000)
		for i := range viewers {
			var err error
			if viewers[i], err = r.hub.Join(b.Context(), live.Options{}); err != nil {
				b.Fatal(err)
			}
			if _, err := viewers[i].Next(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/float64(len(viewers)), "B/viewer")
		for _, v := range viewers {
			v.Close()
		}
	}
}
