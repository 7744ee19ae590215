package gateway_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/gateway"
	"signalbox/internal/wire/packet"
)

// TestMQTTListensAgain: a device that drops and takes up its subscription again and again gets
// each command of that time once, on the same connection.
func TestMQTTListensAgain(t *testing.T) {
	const commands, topic = 60, "signalbox/esp01/command"
	h := startMQTT(t, gateway.MQTTConfig{})
	c := h.client(packet.V5, "esp01", "1234")
	submitted := make(chan error, 1)
	go func() {
		for i := range commands {
			_, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: fmt.Sprint(i), TTL: patience})
			if err != nil {
				submitted <- err
				return
			}
		}
		submitted <- nil
	}()
	got := make(map[string]int)
	// until reads up to a packet of the type, and counts the commands before it.
	until := func(want packet.Type) {
		t.Helper()
		for {
			p := c.read()
			if p.Type == packet.PUBLISH {
				var body commandBody
				must(t, json.Unmarshal(p.Payload, &body))
				got[body.Command]++
				c.send(packet.AppendAck(nil, c.v, packet.PUBACK, p.ID, packet.Success, nil))
			}
			if p.Type == want {
				return
			}
		}
	}
	for done := false; !done; {
		select {
		case err := <-submitted:
			must(t, err)
			done = true
		default:
		}
		c.next++
		c.send(packet.AppendSubscribe(nil, c.v, c.next, []packet.Filter{{Text: []byte(topic), QoS: 1}}, nil))
		until(packet.SUBACK)
		if !done {
			c.next++
			c.send(packet.AppendUnsubscribe(nil, c.v, c.next, []packet.Filter{{Text: []byte(topic)}}, nil))
			until(packet.UNSUBACK)
		}
	}
	for len(got) < commands {
		until(packet.PUBLISH)
	}
	c.send(packet.AppendPing(nil, packet.PINGREQ))
	until(packet.PINGRESP)
	for name, times := range got {
		if times != 1 {
			t.Errorf("command %s came %d times", name, times)
		}
	}
}

// TestMQTTTokenExpires: the connection of a token that expires ends, and it cannot come back.
func TestMQTTTokenExpires(t *testing.T) {
	t.Parallel()
	h := startMQTT(t, gateway.MQTTConfig{})
	secret, _, err := h.people.CreateToken(t.Context(), "short", signalbox.ScopeRead, time.Now().Add(6*time.Second), "test") // it has to log in before
	must(t, err)
	c := h.client(packet.V5, "any", secret)
	c.subscribe("signalbox/#")
	if reason := c.ended(); reason != packet.AdministrativeAction {
		t.Errorf("it was told 0x%02X", byte(reason))
	}
	if p := h.dialMQTT(packet.V5).login("any", secret, nil); p.Reason != packet.BadUserOrPassword {
		t.Errorf("afterwards it got 0x%02X", byte(p.Reason))
	}
}

// TestMQTTPages: what needs no credentials is not for pages that may be anybody's.
func TestMQTTPages(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{Anonymous: []string{"Environ/#"}})
	for _, tt := range []struct {
		address, user, password string
		want                    packet.Reason
	}{
		{h.mqtt, "", "", packet.Success},
		{h.guests, "", "", packet.NotAuthorized},
		{h.guests, "esp01", "1234", packet.Success},
		{h.guests, "esp01", "wrong", packet.BadUserOrPassword},
		{h.guests, "any", h.tokens["read"], packet.Success},
	} {
		if p := h.dialAt(tt.address, packet.V5).login(tt.user, tt.password, nil); p.Reason != tt.want {
			t.Errorf("%q at %s got 0x%02X, want 0x%02X", tt.user, tt.address, byte(p.Reason), byte(tt.want))
		}
	}
}
