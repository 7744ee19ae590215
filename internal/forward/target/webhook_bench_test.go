package target

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/forward"
	"signalbox/internal/remote/mosquittotest"
)

// BenchmarkWebhook posts to a receiver in this process that answers at once; ns/op is a message.
func BenchmarkWebhook(b *testing.B) {
	for _, parallel := range []int{1, 8, 64} {
		b.Run(fmt.Sprint("parallel ", parallel), func(b *testing.B) {
			s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
			defer s.Close()
			spec := &forward.Spec{Name: "f", To: s.URL, Timeout: patience, Parallel: parallel, Secrets: forward.Secrets{HMAC: "secret"}}
			target, err := newWebhook(spec, newGuard(spec, true, nil), "/signalbox/test", quiet())
			if err != nil {
				b.Fatal(err)
			}
			benchmarkBatches(b, target, 512)
		})
	}
}

// BenchmarkMQTT publishes to Mosquitto without subscribers.
func BenchmarkMQTT(b *testing.B) {
	broker := mosquittotest.Start(b, mosquittotest.Options{Lines: []string{"log_type none"}})
	for _, version := range []string{"5.0", "3.1.1"} {
		for qos := range uint8(3) {
			b.Run(fmt.Sprint(version, " QoS ", qos), func(b *testing.B) {
				spec := &forward.Spec{Name: "f", To: "mqtt://" + broker.Address, Timeout: patience, QoS: qos, Version: version}
				target, err := newMQTT(spec, newGuard(spec, true, nil), quiet())
				if err != nil {
					b.Fatal(err)
				}
				benchmarkBatches(b, target, 512)
			})
		}
	}
}

func benchmarkBatches(b *testing.B, target forward.Target, size int) {
	b.Helper()
	sink, err := target.Open(b.Context(), func(signalbox.Position) {})
	if err != nil {
		b.Fatal(err)
	}
	batch := telemetry(1, manyDevices(size, 200)...)
	began, sent := time.Now(), 0
	for b.Loop() {
		if sent++; sent%size != 0 {
			continue
		}
		if err := sink.Send(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	if err := sink.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(sent)/time.Since(began).Seconds(), "messages/s")
	if err := sink.Close(); err != nil {
		b.Fatal(err)
	}
	_ = target.Close()
}
