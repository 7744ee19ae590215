package gateway_test

import (
	"log/slog"
	"strings"
	"testing"

	"signalbox/internal/auth"
	"signalbox/internal/gateway"
	"signalbox/internal/mapped"
	"signalbox/internal/wire/packet"
)

// TestMQTTSecretsStayOutOfTheLog refuses clients that send secrets where names belong.
func TestMQTTSecretsStayOutOfTheLog(t *testing.T) {
	t.Parallel()
	generated := auth.NewSecret()
	for name, c := range map[string]struct{ user, password, says, hides string }{
		"a token of another server":          {"A1_TEST_TOKEN", "", "reason=no_password", "A1_TEST"},
		"a secret alone":                     {generated, "", "reason=no_password", generated},
		"a secret as name and secret":        {generated, generated, "reason=unknown_device", generated},
		"name and secret swapped":            {"1234", "esp01", "reason=unknown_device", "device="},
		"an unknown device, both in one":     {"esp99:hidden", "", "reason=unknown_device", "esp99"},
		"a token that holds a colon":         {"half:other", "", "reason=unknown_device", "half"},
		"an unknown device":                  {"esp99", "wrong", "reason=unknown_device device=esp99", "wrong\""},
		"both in one beside a password":      {"esp01:hidden", "wrong", "reason=unknown_device", "hidden"},
		"a known device without its secret":  {"esp01", "", "reason=no_password device=esp01", "hidden"},
		"a known device, both in one, wrong": {"esp01:hidden", "", "reason=wrong_secret device=esp01", "hidden"},
		"a secret beside a wrong token":      {generated, "sbx_wrong", "reason=wrong_token", generated},
		"both in one beside a wrong token":   {"esp01:hidden", "sbx_wrong", "reason=wrong_token", "hidden"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log written
			h := startMQTTWith(t, gateway.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, gateway.MQTTConfig{})
			if p := h.dialMQTT(packet.V311).login(c.user, c.password, nil); p.Reason == packet.Success {
				t.Fatal("it was let in")
			}
			awaitMQTT(t, "the log tells of it", func() bool { return log.count("login was refused") == 1 })
			said := log.text()
			if !strings.Contains(said, c.says) || strings.Contains(said, c.hides) {
				t.Errorf("the log is to say %q and to hide %q: %s", c.says, c.hides, said)
			}
			if alone := strings.Contains(c.says, "no_password"); alone != strings.Contains(said, "NAME:SECRET") {
				t.Errorf("the log says what to send to those alone that sent no password: %s", said)
			}
		})
	}
}

// TestMQTTNameAndSecretInOne: firmware for ThingsBoard can send nothing but a user name.
func TestMQTTNameAndSecretInOne(t *testing.T) {
	t.Parallel()
	var log written
	h := startMQTTWith(t, gateway.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, gateway.MQTTConfig{Dialect: mapped.ThingsBoard{}})
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		board := h.client(v, "esp01:1234", "")
		if p := board.publish("v1/devices/me/telemetry", `{"by":"`+v.String()+`"}`, 1); p.Reason >= packet.UnspecifiedError {
			t.Errorf("its telemetry was refused with %v", p.Reason)
		}
		h.awaitLatest("esp01", `{"by":"`+v.String()+`"}`)
	}
	h.client(packet.V311, "датчик:1111", "")
	empty := h.dialMQTT(packet.V5) // a password of no bytes is none
	if p := empty.login("esp02:5678", "", func(c *packet.Connect, _ *packet.Properties) { c.HasPassword = true }); p.Reason != packet.Success {
		t.Errorf("with an empty password it was refused with %v", p.Reason)
	}
	for _, user := range []string{"esp01:", ":1234", "esp01:12345", "esp01:1234:", "esp01: 1234", "esp02:1234"} {
		for _, v := range []packet.Version{packet.V311, packet.V5} {
			want := packet.BadUserOrPassword
			if v == packet.V311 {
				want = packet.RefusedBadUser
			}
			if p := h.dialMQTT(v).login(user, "", nil); p.Reason != want {
				t.Errorf("%q was answered with %v, not %v", user, p.Reason, want)
			}
		}
	}
	if n := h.gateway.Stats().LoginFailures.Load() + h.gateway.Stats().LoginsDelayed.Load(); n != 12 {
		t.Errorf("%d failed logins were counted, want 12", n)
	}
	if said := log.text(); strings.Contains(said, "1234") || strings.Contains(said, "5678") {
		t.Errorf("the log has a secret: %s", said)
	}
}

// TestMQTTGuessesInOne: the back-off counts what comes in the user name alone like other logins.
func TestMQTTGuessesInOne(t *testing.T) {
	t.Parallel()
	h := startMQTT(t, gateway.MQTTConfig{})
	delayed := &h.gateway.Stats().LoginsDelayed
	for range 40 { // the wait doubles: one of them falls into it
		if h.dialMQTT(packet.V5).login("esp01:9999", "", nil); delayed.Load() > 0 {
			return
		}
	}
	t.Error("of 40 failures none was put off")
}

// TestMQTTWordsOfRefusals: a 5.0 client is told why a message or a subscription was refused.
func TestMQTTWordsOfRefusals(t *testing.T) {
	t.Parallel()
	h := startMQTT(t, gateway.MQTTConfig{})
	device, program, reader := h.client(packet.V5, "esp01", "1234"), h.token(packet.V5, "command"), h.token(packet.V5, "read")
	program.deaf = true
	for _, c := range []struct {
		name           string
		by             *mqttClient
		topic, payload string
		words          string
	}{
		{"another's topic", device, "signalbox/esp02/telemetry", "{}", "may not publish"},
		{"no telemetry", device, "signalbox/esp01/telemetry", "[1]", "JSON object"},
		{"telemetry by a program", program, "signalbox/esp01/telemetry", "{}", "may not publish"},
		{"no such device", program, "signalbox/esp77/command", `{"command":"x"}`, "esp77"},
		{"device offline", program, "signalbox/esp02/command", `{"command":"x"}`, "esp02"},
		{"no command", program, "signalbox/esp01/command", `{}`, "needs its name"},
		{"without the scope", reader, "signalbox/esp01/command", `{"command":"x"}`, "may not publish"},
	} {
		ack := c.by.publish(c.topic, c.payload, 1)
		if words := string(ack.Properties.ReasonString); ack.Reason < packet.UnspecifiedError || !strings.Contains(words, c.words) {
			t.Errorf("%s: PUBACK has the reason %v and says %q, which should hold %q", c.name, ack.Reason, words, c.words)
		}
	}
	device.next++
	device.send(packet.AppendSubscribe(nil, packet.V5, device.next, []packet.Filter{{Text: []byte("signalbox/esp01/x")}, {Text: []byte("#")}}, nil))
	if got, want := string(device.expect(packet.SUBACK).Properties.ReasonString), "filter 2: this client may not subscribe to the topic filter"; got != want {
		t.Errorf("SUBACK says %q, want %q", got, want)
	}
}
