package gateway_test

import (
	"bytes"
	"math"
	"runtime"
	"testing"

	"signalbox"
	"signalbox/internal/gateway"
	"signalbox/internal/wire/packet"
)

// TestMQTTHotRoad: a device's reading with quality of service 0 costs no memory of its own,
// from the socket to the log.
func TestMQTTHotRoad(t *testing.T) {
	h := startMQTTWith(t, gateway.Config{MessagesPerSecond: 20_000}, gateway.MQTTConfig{})
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
	least := math.Inf(1)
	for range 10 { // commits allocate now and then, and so do pools under the race detector
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		send(20)
		runtime.ReadMemStats(&after)
		if least = min(least, float64(after.Mallocs-before.Mallocs)/2000); least < 1 {
			return
		}
	}
	t.Errorf("a message costs %.2f allocations", least)
}
