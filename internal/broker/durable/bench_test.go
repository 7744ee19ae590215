package durable

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// BenchmarkPublish is what a message of 200 bytes costs the one who records it, with a
// subscriber that acknowledges in tens.
func BenchmarkPublish(b *testing.B) {
	for _, targets := range []int{1, 10} {
		b.Run(fmt.Sprint(targets, " queues"), func(b *testing.B) {
			h := life(b, b.TempDir(), Config{})
			ids := h.sessions(b, targets)
			stop := h.runs(b)
			m := Message{Topic: "site/1/room/2/temperature", Payload: make([]byte, 200), QoS: 1}
			to := make([]Target, targets)
			next := uint64(1)
			b.ReportAllocs()
			for b.Loop() {
				for i, id := range ids {
					to[i] = Target{Session: id, N: next, QoS: 1}
				}
				next++
				h.put(b, h.k.Publish(&m, to, false, 0, 0))
				if next%10 == 0 {
					for _, id := range ids {
						h.put(b, h.k.Acked(id, next, next, nil, nil))
					}
				}
			}
			stop()
		})
	}
}

// BenchmarkOffline is the same for a subscriber that is away, until all is in the table.
func BenchmarkOffline(b *testing.B) {
	h := life(b, b.TempDir(), Config{})
	id := h.sessions(b, 1)[0]
	stop := h.runs(b)
	payload := make([]byte, 200)
	rng := rand.New(rand.NewPCG(1, 2))
	n := uint64(1)
	for b.Loop() {
		for i := range payload {
			payload[i] = "0123456789abcdef"[rng.IntN(16)]
		}
		h.put(b, h.k.Publish(&Message{Topic: "a/b", Payload: payload, QoS: 1}, []Target{{Session: id, N: n, QoS: 1}}, false, 0, 0))
		n++
	}
	h.wait(b, h.log.Head())
	h.flush(b)
	stop()
}

// BenchmarkStart opens a database with 100,000 sessions; s/written is what it took until they were
// in the table.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	h := life(b, dir, Config{Delay: time.Hour, Pending: 1 << 30})
	h.sessions(b, 100_000)
	began := time.Now()
	h.flush(b)
	written := time.Since(began)
	h.end()
	for b.Loop() {
		h = life(b, dir, Config{})
		if len(h.img.Sessions) != 100_000 {
			b.Fatal(len(h.img.Sessions))
		}
		b.StopTimer()
		h.end()
		b.StartTimer()
	}
	b.ReportMetric(written.Seconds(), "s/written")
}
