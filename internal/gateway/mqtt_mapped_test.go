package gateway_test

import (
	"testing"

	"signalbox"
	"signalbox/internal/gateway"
	"signalbox/internal/mapped"
	"signalbox/internal/wire/packet"
)

// TestMQTTMappedCommands: a board with a login of its own that hears its commands on a mapped
// topic gets them there, at most once; on the native topic once it subscribes to that.
func TestMQTTMappedCommands(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{}, mapped.Mapping{
		Filter: "tele/+/STATE", Device: "{1}", Command: &mapped.Template{Topic: "cmnd/{device}/{command}", Payload: "{value}", QoS: 1},
	})
	c := h.client(packet.V311, "esp01", "1234")
	submit := func(name string) (signalbox.Command, error) {
		return h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: name, Value: new("ON")})
	}
	if _, err := submit("Power"); signalbox.CodeOf(err) != "device_not_listening" {
		t.Errorf("before a subscription: %v", err)
	}
	if got := c.subscribe("cmnd/esp01/#"); got[0] != 1 {
		t.Fatalf("subscribing gave 0x%02X", got[0])
	}
	sent, err := submit("Power")
	if err != nil || sent.Protocol != signalbox.ProtocolMapped || !sent.Settled() {
		t.Fatalf("submitted %+v, %v", sent, err)
	}
	if topic, payload := c.message(); topic != "cmnd/esp01/Power" || payload != "ON" {
		t.Errorf("%q came on %s", payload, topic)
	}
	if _, err := submit("a/b"); signalbox.CodeOf(err) != "command_unsuitable" {
		t.Errorf("a command with a slash: %v", err)
	}
	c.publish("tele/esp01/STATE", `{"Power":"ON"}`, 0)
	h.awaitLatest("esp01", `{"Power":"ON"}`)
	if d := h.devices.Find("esp01").View(); d.Protocol != signalbox.ProtocolMQTT {
		t.Errorf("it speaks protocol %d", d.Protocol)
	}
	c.subscribe("signalbox/esp01/command")
	if native, err := submit("a/b"); err != nil || native.Protocol != signalbox.ProtocolMQTT {
		t.Errorf("with a native subscription: %+v, %v", native, err)
	}
	if topic, _ := c.message(); topic != "signalbox/esp01/command" {
		t.Errorf("it came on %s", topic)
	}
}
