package gateway_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/gateway"
	"signalbox/internal/mapped"
	"signalbox/internal/wire/packet"
)

// lampMapping has commands go out on home/<device>/<command>/set.
func lampMapping() mapped.Mapping {
	return mapped.Mapping{
		Filter: "home/+/state", Device: "{1}", Field: "pos", Format: mapped.FormatValue,
		Command: &mapped.Template{Topic: "home/{device}/{command}/set", Payload: "{value}", QoS: 1},
	}
}

// TestMQTTManyWaitingCommands: all that waited for a device comes to it on its next connection, in
// order and once, however few it takes at a time.
func TestMQTTManyWaitingCommands(t *testing.T) {
	const waiting = 250
	for name, c := range map[string]struct {
		filter string
		window uint16
	}{
		"native": {"signalbox/esp01/command", 100}, "native, two at a time": {"signalbox/esp01/command", 2},
		"mapped": {"home/esp01/#", 100}, "mapped, two at a time": {"home/esp01/#", 2},
	} {
		t.Run(name, func(t *testing.T) {
			h := startMQTT(t, gateway.MQTTConfig{}, lampMapping())
			for i := range waiting {
				_, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: fmt.Sprint("c", i), Value: new("1"), TTL: time.Hour})
				must(t, err)
			}
			d := h.dialMQTT(packet.V5)
			d.login("esp01", "1234", func(_ *packet.Connect, p *packet.Properties) {
				p.ReceiveMaximum = c.window
				p.Set(packet.ReceiveMaximum)
			})
			d.subscribe(c.filter)
			for i := range waiting {
				topic, payload := d.message()
				var body struct{ Command string }
				want := fmt.Sprint("c", i)
				if topic == "home/esp01/"+want+"/set" {
					continue
				}
				if json.Unmarshal([]byte(payload), &body) != nil || body.Command != want {
					t.Fatalf("in place of %s there came %s on %s", want, payload, topic)
				}
			}
			last, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "last", Value: new("1")})
			must(t, err)
			if topic, payload := d.message(); topic != "home/esp01/last/set" && !json.Valid([]byte(payload)) {
				t.Errorf("in place of %s there came %s on %s", last.ID, payload, topic)
			}
		})
	}
}

// TestMQTTMappedCommandsDoNotWait: a mapped command that a durable session has not taken is not
// delivered to it later.
func TestMQTTMappedCommandsDoNotWait(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{}, lampMapping())
	durable := func(c *packet.Connect, p *packet.Properties) {
		c.Clean = false
		p.SessionExpiry, p.ReceiveMaximum = 3600, 1
		p.Set(packet.SessionExpiry)
		p.Set(packet.ReceiveMaximum)
	}
	d := h.dialMQTT(packet.V5)
	d.login("esp01", "1234", durable)
	d.subscribe("home/esp01/#")
	for _, value := range []string{"open", "close"} {
		_, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "door", Value: &value, TTL: time.Hour})
		must(t, err)
	}
	if p := d.expect(packet.PUBLISH); string(p.Payload) != "open" { // not acknowledged
		t.Fatalf("%s came", p.Payload)
	}
	_ = d.conn.Close()
	h.awaitPresence("esp01", signalbox.Offline)
	d = h.dialMQTT(packet.V5)
	if p := d.login("esp01", "1234", durable); !p.SessionPresent {
		t.Fatal("the session is gone")
	}
	_, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "door", Value: new("new")})
	must(t, err)
	if _, payload := d.message(); payload != "new" {
		t.Errorf("%s came", payload)
	}
}

// TestMQTTMappedCommandsExpire: what goes through the broker for a board without a login is
// forgotten with its command.
func TestMQTTMappedCommandsExpire(t *testing.T) {
	mapping := lampMapping()
	h := startMQTT(t, gateway.MQTTConfig{Anonymous: []string{"home/#"}}, mapping)
	watcher := h.token(packet.V5, "read")
	watcher.subscribe("home/+/+/set")
	h.client(packet.V311, "", "").publish("home/esp01/state", "1", 1)
	for _, c := range []struct {
		ttl  time.Duration
		most uint32
	}{{time.Hour, 3600}, {0, 30}} {
		_, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "door", Value: new("open"), TTL: c.ttl})
		must(t, err)
		p := watcher.expect(packet.PUBLISH)
		watcher.send(packet.AppendAck(nil, packet.V5, packet.PUBACK, p.ID, packet.Success, nil))
		if !p.Properties.Has(packet.MessageExpiry) || p.Properties.MessageExpiry > c.most || p.Properties.MessageExpiry < c.most-20 {
			t.Errorf("with a ttl of %s it expires after %d s", c.ttl, p.Properties.MessageExpiry)
		}
	}
}

// TestMQTTDialectIsClosed: the topics of the dialect are nobody's but those of devices on
// connections of their own.
func TestMQTTDialectIsClosed(t *testing.T) {
	const request = "v1/devices/me/rpc/request/9"
	h := startMQTT(t, gateway.MQTTConfig{Dialect: mapped.ThingsBoard{}, Anonymous: []string{"#", "+/devices/me/#"}},
		mapped.Mapping{Filter: "v1/+/+/other", Device: "esp01"})
	d := h.client(packet.V5, "esp01", "1234")
	d.subscribe("v1/devices/me/#")
	watcher := h.token(packet.V5, "read")
	if got := watcher.subscribe("v1/devices/me/#", "v1/#"); got[0] != byte(packet.NotAuthorized) || got[1] != 1 {
		t.Errorf("a program's subscriptions gave %x", got)
	}
	for name, c := range map[string]*mqttClient{
		"anonymous": h.client(packet.V5, "", ""), "command": h.token(packet.V5, "command"), "admin": h.token(packet.V5, "admin"),
	} {
		for _, topic := range []string{request, "v1/devices/me", "v1/devices/me/telemetry", "v1/devices/me/x"} {
			if ack := c.publish(topic, `{"method":"evil"}`, 1); ack.Reason != packet.NotAuthorized {
				t.Errorf("%s publishing to %s gave 0x%02X", name, topic, byte(ack.Reason))
			}
		}
	}
	if ack := d.publish("v1/devices/me/other", `{"n":1}`, 1); ack.Reason != packet.NotAuthorized {
		t.Errorf("a device's mapping there gave 0x%02X", byte(ack.Reason))
	}
	for user, password := range map[string]string{"": "", "x": h.tokens["admin"], "esp02": "5678"} {
		p := h.dialMQTT(packet.V5).login(user, password, func(c *packet.Connect, _ *packet.Properties) {
			c.HasWill, c.WillTopic = true, []byte(request)
		})
		if p.Reason != packet.NotAuthorized {
			t.Errorf("a will there of %q gave 0x%02X", user, byte(p.Reason))
		}
	}
	d.publish("v1/devices/me/telemetry", `{"n":1}`, 1)
	h.token(packet.V5, "command").publish("v1/end", "x", 1)
	if topic, _ := watcher.message(); topic != "v1/end" {
		t.Errorf("a message came on %s", topic)
	}
}

// TestMQTTDialectOnce: a command in the dialect goes out once; the answer counts on the next
// connection, too.
func TestMQTTDialectOnce(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{Dialect: mapped.ThingsBoard{}})
	login := func() *mqttClient {
		c := h.client(packet.V5, "esp01", "1234")
		c.subscribe("v1/devices/me/rpc/request/+")
		return c
	}
	c := login()
	submit := func() signalbox.Command {
		sent, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "toggle", TTL: time.Hour})
		must(t, err)
		return sent
	}
	first := submit()
	asked, _ := c.message()
	_ = c.conn.Close()
	h.awaitPresence("esp01", signalbox.Offline)
	c = login()
	second := submit()
	again, _ := c.message()
	if again == asked {
		t.Fatalf("two commands have one number: %s", again)
	}
	answer := func(request string) {
		c.publish("v1/devices/me/rpc/response/"+request[len("v1/devices/me/rpc/request/"):], "{}", 1)
	}
	answer(again)
	h.awaitState(second.ID, signalbox.CommandSucceeded)
	if got, err := h.commands.Get(t.Context(), first.ID); err != nil || got.State != signalbox.CommandSent {
		t.Errorf("the first is %+v, %v", got, err)
	}
	answer(asked)
	h.awaitState(first.ID, signalbox.CommandSucceeded)
}
