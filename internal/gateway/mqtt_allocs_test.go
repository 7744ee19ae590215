package gateway_test

import (
	"bytes"
	"runtime"
	"testing"

	"signalbox"
	"signalbox/internal/gateway"
	"signalbox/internal/wire/packet"
)

// TestMQTTHotRoad: a device's reading with quality of service 0 costs no memory of its own,
// from the socket to the log.
func TestMQTTHotRoad(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{})
	c := h.client(packet.V311, "esp01", "1234")
	h.awaitPresence("esp01", signalbox.Online)
	many := bytes.Repeat(packet.AppendPublish(nil, packet.V311, &packet.Packet{
		Type: packet.PUBLISH, Topic: []byte("signalbox/esp01/telemetry"), Payload: []byte(`{"temp":21.50,"rh":40,"status":"ready","up":123456}`),
	}), 100)
	stored := &h.gateway.Ingest.Stats().Stored
	send := func(times int64) {
		want := stored.Load() + 100*times
		for range times {
			c.send(many)
		}
		for stored.Load() < want {
			runtime.Gosched()
		}
	}
	send(6) // pools and tables have their sizes then
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	send(10) // within the device's burst
	runtime.ReadMemStats(&after)
	if n := float64(after.Mallocs-before.Mallocs) / 1000; n >= 1 { // commits allocate now and then, and so do pools under the race detector
		t.Errorf("a message costs %.2f allocations", n)
	}
}
