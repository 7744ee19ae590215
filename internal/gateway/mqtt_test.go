package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	gobwas "github.com/gobwas/ws"

	"signalbox"
	"signalbox/internal/gateway"
	"signalbox/internal/mapped"
	"signalbox/internal/registry"
	"signalbox/internal/wire/packet"
)

func TestMQTTLogins(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{})
	clean := func(c *packet.Connect, _ *packet.Properties) { c.Clean, c.ClientID = false, nil }
	method := func(_ *packet.Connect, p *packet.Properties) {
		p.AuthMethod = []byte("SCRAM")
		p.Set(packet.AuthMethod)
	}
	long := func(c *packet.Connect, _ *packet.Properties) { c.ClientID = []byte(strings.Repeat("x", 300)) }
	will := func(topic string) func(*packet.Connect, *packet.Properties) {
		return func(c *packet.Connect, _ *packet.Properties) { c.HasWill, c.WillTopic = true, []byte(topic) }
	}
	for name, c := range map[string]struct {
		v              packet.Version
		user, password string
		change         func(*packet.Connect, *packet.Properties)
		want           packet.Reason
	}{
		"device 3.1.1":                  {packet.V311, "esp01", "1234", nil, packet.Success},
		"device 5.0":                    {packet.V5, "esp01", "1234", nil, packet.Success},
		"name in another script":        {packet.V5, "датчик", "1111", nil, packet.Success},
		"wrong secret 3.1.1":            {packet.V311, "esp02", "no", nil, packet.RefusedBadUser},
		"wrong secret 5.0":              {packet.V5, "esp02", "no", nil, packet.BadUserOrPassword},
		"unknown device":                {packet.V5, "esp99", "no", nil, packet.BadUserOrPassword},
		"no password":                   {packet.V5, "esp01", "", nil, packet.BadUserOrPassword},
		"anonymous 3.1.1":               {packet.V311, "", "", nil, packet.RefusedNotAuthorized},
		"anonymous 5.0":                 {packet.V5, "", "", nil, packet.NotAuthorized},
		"token":                         {packet.V311, "anybody", "token", nil, packet.Success},
		"token without user name":       {packet.V5, "", "token", nil, packet.Success},
		"unknown token":                 {packet.V5, "x", "sbx_nothing", nil, packet.BadUserOrPassword},
		"enhanced authentication":       {packet.V5, "esp01", "1234", method, packet.BadAuthMethod},
		"no id without clean session":   {packet.V311, "esp01", "1234", clean, packet.RefusedClientID},
		"no id in 5.0":                  {packet.V5, "esp01", "1234", clean, packet.Success},
		"long client id":                {packet.V5, "esp01", "1234", long, packet.ClientIDNotValid},
		"will on its own topic":         {packet.V5, "esp01", "1234", will("signalbox/esp01/status"), packet.Success},
		"will on another's topic":       {packet.V5, "esp01", "1234", will("signalbox/esp02/status"), packet.NotAuthorized},
		"will on the command topic":     {packet.V5, "esp01", "1234", will("signalbox/esp01/command"), packet.NotAuthorized},
		"will of a program":             {packet.V5, "x", "token", will("a/b"), packet.Success},
		"will of a program, as command": {packet.V5, "x", "token", will("signalbox/esp01/command"), packet.NotAuthorized},
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			password := c.password
			if password == "token" {
				password = h.tokens["command"]
			}
			client := h.dialMQTT(c.v)
			p := client.login(c.user, password, c.change)
			if p.Reason != c.want {
				t.Errorf("the answer is 0x%02X, want 0x%02X", byte(p.Reason), byte(c.want))
			}
			if size := packetSize(p, c.v); size >= 256 {
				t.Errorf("the CONNACK has %d bytes", size)
			}
			_ = client.conn.Close()
			if h.devices.Find(c.user) != nil { // boards that take a device from each other are slowed
				h.awaitPresence(c.user, signalbox.Offline)
			}
		})
	}
}

// packetSize is about the size of a CONNACK.
func packetSize(p *packet.Packet, v packet.Version) int {
	return len(packet.AppendConnack(nil, v, p.SessionPresent, p.Reason, &p.Properties))
}

// TestMQTTTelemetry covers what is telemetry, and what is answered when it is none.
func TestMQTTTelemetry(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{})
	c := h.client(packet.V5, "esp01", "1234")
	h.awaitPresence("esp01", signalbox.Online)
	if got := c.subscribe("signalbox/esp01/error"); got[0] != 1 {
		t.Fatalf("subscribing gave 0x%02X", got[0])
	}
	const topic = "signalbox/esp01/telemetry"
	for payload, want := range map[string]string{
		`{"temp":25.80,"status":"ok"}`: `{"temp":25.80,"status":"ok"}`,
		` 25.8 `:                       `{"value":25.8}`,
		`-1e3`:                         `{"value":-1e3}`,
	} {
		if ack := c.publish(topic, payload, 1); ack.Reason > packet.NoMatchingSubscribers {
			t.Errorf("%s gave 0x%02X", payload, byte(ack.Reason))
		}
		if got := h.latest("esp01"); got != want {
			t.Errorf("%s became %s", payload, got)
		}
	}
	before := h.latest("esp01")
	for payload, code := range map[string]string{
		"hello": "not_an_object", "[1]": "not_an_object", "": "not_an_object", "01": "not_an_object", `{"seq":0}`: "invalid_seq",
		`{"ts":"soon"}`: "invalid_ts", "{\"a\":\"\xff\"}": "invalid_utf8", `{"replay":{"hub":"x"}}`: "replayed",
		strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20): "too_deep",
	} {
		p := packet.Packet{Type: packet.PUBLISH, Topic: []byte(topic), Payload: []byte(payload), QoS: 1, ID: 77}
		c.send(packet.AppendPublish(nil, c.v, &p))
		// The acknowledgement and the error, whichever comes first.
		var reason packet.Reason
		var body string
		for range 2 {
			switch p := c.read(); p.Type {
			case packet.PUBACK:
				reason = p.Reason
			case packet.PUBLISH:
				body = string(p.Payload)
			default:
				t.Fatalf("%s gave a %s", payload, p.Type)
			}
		}
		if reason != packet.PayloadFormatInvalid || !strings.Contains(body, `"error":"`+code+`"`) {
			t.Errorf("%s gave 0x%02X and %s", payload, byte(reason), body)
		}
	}
	if got := h.latest("esp01"); got != before {
		t.Errorf("what was refused became %s", got)
	}
	c.publish(topic, `{"last":1}`, 0)
	h.awaitLatest("esp01", `{"last":1}`)
}

// TestMQTTSeq: a device's own numbers recognise what it sends again, over connections, too.
func TestMQTTSeq(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{})
	const topic = "signalbox/esp01/telemetry"
	c := h.client(packet.V5, "esp01", "1234")
	c.publish(topic, `{"seq":1,"boot":"a","n":1}`, 1)
	c.publish(topic, `{"seq":2,"boot":"a","n":2}`, 1)
	head := h.log.Head()
	_ = c.conn.Close()
	h.awaitPresence("esp01", signalbox.Offline)
	c = h.client(packet.V5, "esp01", "1234")
	c.publish(topic, `{"seq":2,"boot":"a","n":2}`, 1)
	if got := h.latest("esp01"); got != `{"seq":2,"boot":"a","n":2}` || h.log.Head() != head+2 { // two presences
		t.Errorf("the latest is %s, %d entries came", got, h.log.Head()-head)
	}
}

func TestMQTTRights(t *testing.T) {
	topics := []mapped.Mapping{
		{Filter: "sensors/+/climate", Device: "{1}", Command: &mapped.Template{Topic: "cmnd/{device}/{command}", Payload: "{value}"}},
	}
	h := startMQTT(t, gateway.MQTTConfig{Anonymous: []string{"Environ/#", "#"}}, topics...)
	const yes, no = packet.Success, packet.NotAuthorized
	clients := make(map[string]*mqttClient)
	as := func(who string) *mqttClient {
		if clients[who] == nil {
			clients[who] = h.as(packet.V5, who)
			clients[who].deaf = true
		}
		return clients[who]
	}
	t.Run("publish", func(t *testing.T) {
		h.t = t
		for _, c := range []struct {
			who, topic string
			want       packet.Reason
		}{
			{"esp01", "signalbox/esp01/telemetry", packet.PayloadFormatInvalid},
			{"esp01", "signalbox/esp01/status", yes},
			{"esp01", "signalbox/esp01/anything/deep", yes},
			{"esp01", "signalbox/esp01/command", no},
			{"esp01", "signalbox/esp01/error", no},
			{"esp01", "signalbox/esp01/presence", no},
			{"esp01", "signalbox/esp01", no},
			{"esp01", "signalbox/esp01/", no},
			{"esp01", "signalbox/esp02/telemetry", no},
			{"esp01", "signalbox/esp01x/telemetry", no},
			{"esp01", "SIGNALBOX/esp01/telemetry", no},
			{"esp01", "/signalbox/esp01/telemetry", no},
			{"esp01", "sensors/esp01/climate", yes},
			{"esp01", "sensors/esp02/climate", no},
			{"esp01", "a", no},
			{"esp01", "$SYS/broker", no},
			{"датчик", "signalbox/датчик/status", yes},
			{"read", "a/b", no},
			{"read", "signalbox/esp01/command", no},
			{"command", "a/b", yes},
			{"command", "signalbox/esp01/telemetry", no},
			{"command", "signalbox/esp01/status", no},
			{"command", "signalbox/esp01/presence", no},
			{"command", "signalbox", no},
			{"command", "$SYS/a", no},
			{"admin", "signalbox/esp01/telemetry", no},
			{"admin", "x", yes},
			{"", "Environ/Temperature", yes},
			{"", "anything", yes},
			{"", "signalbox/esp01/telemetry", no},
			{"", "signalbox/esp01/command", no},
			{"", "$SYS/a", no},
		} {
			if got := as(c.who).publish(c.topic, "x", 1).Reason; got != c.want && (c.want != yes || got != packet.NoMatchingSubscribers) {
				t.Errorf("%q publishes to %s: 0x%02X, want 0x%02X", c.who, c.topic, byte(got), byte(c.want))
			}
		}
	})
	t.Run("subscribe", func(t *testing.T) {
		h.t = t
		clear(clients) // they ended with the test above
		for _, c := range []struct {
			who, filter string
			want        packet.Reason
		}{
			{"esp01", "signalbox/esp01/command", 1},
			{"esp01", "signalbox/esp01/#", 1},
			{"esp01", "signalbox/esp01/+", 1},
			{"esp01", "$share/g/signalbox/esp01/command", 1},
			{"esp01", "signalbox/+/command", no},
			{"esp01", "signalbox/#", no},
			{"esp01", "+/esp01/command", no},
			{"esp01", "signalbox/esp01", no},
			{"esp01", "signalbox/esp02/#", no},
			{"esp01", "$share/g/signalbox/esp02/command", no},
			{"esp01", "#", no},
			{"esp01", "$SYS/#", no},
			{"esp01", "cmnd/esp01/#", 1},
			{"esp01", "cmnd/esp02/#", no},
			{"esp01", "cmnd/+/power", no},
			{"read", "#", 1},
			{"read", "signalbox/#", 1},
			{"read", "signalbox/+/presence", 1},
			{"command", "signalbox/+/telemetry", 1},
			{"", "Environ/#", no},
		} {
			if got := packet.Reason(as(c.who).subscribe(c.filter)[0]); got != c.want {
				t.Errorf("%q subscribes to %s: 0x%02X, want 0x%02X", c.who, c.filter, byte(got), byte(c.want))
			}
		}
		if got := h.as(packet.V311, "esp01").subscribe("signalbox/esp02/#", "signalbox/esp01/command"); got[0] != 0x80 || got[1] != 1 {
			t.Errorf("3.1.1 got % x", got)
		}
	})
	t.Run("refused in 3.1.1", func(t *testing.T) {
		h.t = t
		c := h.as(packet.V311, "esp01")
		c.publish("signalbox/esp02/telemetry", "1", 0) // dropped
		c.publish("signalbox/esp01/status", "x", 1)
		c.send(packet.AppendPublish(nil, c.v, &packet.Packet{Type: packet.PUBLISH, Topic: []byte("signalbox/esp02/telemetry"), QoS: 1, ID: 9}))
		c.ended()
	})
}

// as logs in as the device, the token's scope or, for "", nobody.
func (h *mqttHub) as(v packet.Version, who string) *mqttClient {
	h.t.Helper()
	switch who {
	case "":
		return h.client(v, "", "")
	case "esp01":
		return h.client(v, who, "1234")
	case "датчик":
		return h.client(v, who, "1111")
	default:
		return h.token(v, who)
	}
}

// TestMQTTCommands carries a command out and its answers back.
func TestMQTTCommands(t *testing.T) {
	for name, v := range map[string]packet.Version{"3.1.1": packet.V311, "5.0": packet.V5} {
		t.Run(name, func(t *testing.T) {
			h := startMQTT(t, gateway.MQTTConfig{})
			c := h.client(v, "esp01", "1234")
			_, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "servo1"})
			if signalbox.CodeOf(err) != "device_not_listening" {
				t.Errorf("before it listens: %v", err)
			}
			waiting, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "first", TTL: patience})
			must(t, err)
			if waiting.State != signalbox.CommandQueued {
				t.Errorf("it is %s", waiting.State)
			}
			c.subscribe("signalbox/esp01/command")
			got := c.command()
			if got.ID != waiting.ID || got.Command != "first" {
				t.Errorf("the command is %+v", got)
			}
			value := "90"
			sent, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "servo1", Value: &value})
			must(t, err)
			got = c.command()
			if got.Type != "command" || got.ID != sent.ID || got.Command != "servo1" || got.Value == nil || *got.Value != "90" {
				t.Errorf("the command is %+v", got)
			}
			if now, err := h.commands.Get(t.Context(), sent.ID); err != nil || now.State != signalbox.CommandSent {
				t.Errorf("after the PUBACK it is %s, %v", now.State, err) // a PUBACK is no ack
			}
			c.publish("signalbox/esp01/ack", `{"id":"`+sent.ID+`"}`, 1)
			h.awaitState(sent.ID, signalbox.CommandDelivered)
			c.publish("signalbox/esp01/result", `{"id":"`+sent.ID+`","ok":true,"value":90}`, 1)
			h.awaitState(sent.ID, signalbox.CommandSucceeded)
			c.publish("signalbox/esp01/result", `{"id":"`+waiting.ID+`","error":"jammed"}`, 0)
			h.awaitState(waiting.ID, signalbox.CommandFailed)
			if v == packet.V5 {
				if ack := c.publish("signalbox/esp01/ack", `{}`, 1); ack.Reason != packet.PayloadFormatInvalid {
					t.Errorf("an ack without id gave 0x%02X", byte(ack.Reason))
				}
			}
		})
	}
}

// awaitState waits until the command is in the state.
func (h *mqttHub) awaitState(id string, want signalbox.CommandState) {
	h.t.Helper()
	awaitMQTT(h.t, "the command is "+string(want), func() bool {
		c, err := h.commands.Get(h.t.Context(), id)
		return err == nil && c.State == want
	})
}

type commandBody struct {
	Type, ID, Command string
	Value             *string
}

// command reads a command and acknowledges its packet.
func (c *mqttClient) command() (got commandBody) {
	c.t.Helper()
	topic, payload := c.message()
	if topic != "signalbox/esp01/command" {
		c.t.Fatalf("%s came on %s", payload, topic)
	}
	must(c.t, json.Unmarshal([]byte(payload), &got))
	return got
}

// TestMQTTCommandsOfPrograms: a program's publish on a command topic is a command, and the
// device gets it from the command road alone.
func TestMQTTCommandsOfPrograms(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{})
	program := h.token(packet.V5, "command")
	for payload, want := range map[string]packet.Reason{
		`{"command":"servo1","value":90}`:       packet.ImplementationError, // offline
		`{"command":"servo1","value":"x","a":}`: packet.PayloadFormatInvalid,
		`{"command":5}`:                         packet.PayloadFormatInvalid,
		`{"command":""}`:                        packet.PayloadFormatInvalid,
		`{"command":"a","expires":1}`:           packet.PayloadFormatInvalid,
	} {
		if got := program.publish("signalbox/esp01/command", payload, 1).Reason; got != want {
			t.Errorf("%s: 0x%02X, want 0x%02X", payload, byte(got), byte(want))
		}
	}
	if got := program.publish("signalbox/nobody/command", `{"command":"a"}`, 1).Reason; got != packet.TopicNameInvalid {
		t.Errorf("for an unknown device: 0x%02X", byte(got))
	}
	device := h.tellsStatus(packet.V311, "esp01", "1234", "here")
	device.subscribe("signalbox/esp01/#")
	watcher := h.token(packet.V5, "read")
	watcher.subscribe("signalbox/#")
	for who, c := range map[string]*mqttClient{"device": device, "watcher": watcher} {
		if topic, payload := c.message(); topic != "signalbox/esp01/status" || payload != "here" {
			t.Errorf("the %s got %s on %s", who, payload, topic)
		}
	}
	if got := program.publish("signalbox/esp01/command", `{"command":"servo1","value":90,"id":"k1"}`, 1).Reason; got > packet.NoMatchingSubscribers {
		t.Errorf("the command was refused with 0x%02X", byte(got))
	}
	got := device.command()
	if got.ID == "" || got.ID == "k1" || got.Command != "servo1" || *got.Value != "90" {
		t.Errorf("the device got %+v", got)
	}
	if got := program.publish("signalbox/esp01/command", `{"command":"servo1","value":90,"id":"k1"}`, 1).Reason; got > packet.NoMatchingSubscribers {
		t.Errorf("the command, sent again, was refused with 0x%02X", byte(got))
	}
	device.publish("signalbox/esp01/status", "ready", 0)
	if topic, payload := device.message(); topic != "signalbox/esp01/status" || payload != "ready" { // no second command came before
		t.Errorf("the device got %s on %s", payload, topic)
	}
	if topic, payload := watcher.message(); topic != "signalbox/esp01/status" || payload != "ready" { // what was published as a command is not routed
		t.Errorf("the watcher got %s on %s", payload, topic)
	}
}

// TestMQTTReplaces: of one device's connections, whatever they speak, the newest wins.
func TestMQTTReplaces(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{})
	first := h.client(packet.V5, "esp01", "1234")
	second := h.dialMQTT(packet.V5)
	second.login("esp01", "1234", func(c *packet.Connect, _ *packet.Properties) { c.ClientID = []byte("another") })
	if got := first.ended(); got != packet.SessionTakenOver {
		t.Errorf("the first was told 0x%02X", byte(got))
	}
	b := h.connect(nil)
	b.send(gobwas.OpText, `{"type":"auth","v":2,"name":"esp01","password":"1234"}`)
	if got := second.ended(); got != packet.SessionTakenOver {
		t.Errorf("the second was told 0x%02X", byte(got))
	}
	awaitMQTT(t, "the WebSocket is the session", func() bool {
		v := h.devices.Find("esp01").View()
		return v.Protocol == signalbox.ProtocolV2
	})
	h.client(packet.V311, "esp01", "1234")
	awaitMQTT(t, "MQTT is the session again", func() bool {
		v := h.devices.Find("esp01").View()
		return v.Protocol == signalbox.ProtocolMQTT
	})
	if h.door.Stats().Devices.Load() < 1 {
		t.Error("no device is counted")
	}
}

// TestMQTTPresence: how a connection ends is said, and its will with it.
func TestMQTTPresence(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{})
	_ = h.tellsStatus(packet.V5, "esp01", "1234", "before").conn.Close()
	h.awaitPresence("esp01", signalbox.Offline)
	watcher := h.token(packet.V311, "read")
	watcher.subscribe("signalbox/esp01/status")
	if _, payload := watcher.message(); payload != "before" {
		t.Errorf("the status is %s", payload)
	}
	will := func(c *packet.Connect, _ *packet.Properties) {
		c.HasWill, c.WillTopic, c.WillPayload, c.WillRetain, c.WillQoS = true, []byte("signalbox/esp01/status"), []byte("offline"), true, 1
	}
	c := h.dialMQTT(packet.V5)
	c.login("esp01", "1234", will)
	h.awaitPresence("esp01", signalbox.Online)
	c.publish("signalbox/esp01/status", "ready", 1)
	if _, payload := watcher.message(); payload != "ready" {
		t.Errorf("the status is %s", payload)
	}
	_ = c.conn.Close()
	if _, payload := watcher.message(); payload != "offline" {
		t.Errorf("the will is %s", payload)
	}
	h.awaitPresence("esp01", signalbox.Offline)
	c = h.dialMQTT(packet.V5)
	c.login("esp01", "1234", will)
	c.send(packet.AppendDisconnect(nil, c.v, packet.Success, nil))
	c.ended()
	h.awaitPresence("esp01", signalbox.Offline)
	c = h.client(packet.V5, "esp01", "1234")
	c.publish("signalbox/esp01/status", "again", 1)
	if _, payload := watcher.message(); payload != "again" { // no will in between
		t.Errorf("the status is %s", payload)
	}
}

// TestMQTTEnds: what ends a WebSocket device's session ends an MQTT one's.
func TestMQTTEnds(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{})
	d := h.devices.Find("esp01")
	off, on := true, false
	c := h.client(packet.V5, "esp01", "1234")
	must(t, h.devices.Update(t.Context(), d, registry.Edit{Disabled: &off}, func() { h.sessions.Get(d.ID).Conn.End("disabled") }))
	if got := c.ended(); got != packet.AdministrativeAction {
		t.Errorf("a disabled device was told 0x%02X", byte(got))
	}
	if p := h.dialMQTT(packet.V5).login("esp01", "1234", nil); p.Reason != packet.BadUserOrPassword {
		t.Errorf("its login gave 0x%02X", byte(p.Reason))
	}
	must(t, h.devices.Update(t.Context(), d, registry.Edit{Disabled: &on}, nil))
	durable := func(c *packet.Connect, p *packet.Properties) {
		c.Clean, p.SessionExpiry = false, 1000
		p.Set(packet.SessionExpiry)
	}
	c = h.dialMQTT(packet.V5)
	c.login("esp01", "1234", durable)
	c.subscribe("signalbox/esp01/command")
	must(t, h.devices.Remove(t.Context(), d, func() {
		if s := h.sessions.Get(d.ID); s != nil { // the broker was quicker
			s.Conn.End("removed")
		}
	}))
	c.ended()
	awaitMQTT(t, "nothing is left of its session", func() bool { return h.broker.Stats().Durable.Load() == 0 })

	program := h.dialMQTT(packet.V5)
	program.login("x", h.tokens["read"], durable)
	program.subscribe("#")
	must(t, h.people.RevokeToken(t.Context(), "read"))
	program.ended()
	awaitMQTT(t, "nothing is left of its session", func() bool { return h.broker.Stats().Durable.Load() == 0 })
}

// TestMQTTResumes: a session that was kept listens again without a SUBSCRIBE.
func TestMQTTResumes(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{})
	keep := func(c *packet.Connect, _ *packet.Properties) { c.Clean = false }
	c := h.dialMQTT(packet.V311)
	c.login("esp01", "1234", keep)
	c.subscribe("signalbox/esp01/command")
	_ = c.conn.Close()
	h.awaitPresence("esp01", signalbox.Offline)
	waiting, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "first", TTL: patience})
	must(t, err)
	c = h.dialMQTT(packet.V311)
	if p := c.login("esp01", "1234", keep); !p.SessionPresent {
		t.Error("the session is gone")
	}
	if got := c.command(); got.ID != waiting.ID {
		t.Errorf("the command is %+v", got)
	}
}

// TestMQTTMirror: what WebSocket devices report is heard by MQTT subscribers.
func TestMQTTMirror(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{})
	watcher := h.token(packet.V5, "read")
	watcher.subscribe("signalbox/+/telemetry", "signalbox/+/status")
	b := h.connect(nil)
	b.send(gobwas.OpText, `{"type":"auth","v":2,"name":"esp02","password":"5678"}`)
	if topic, payload := watcher.message(); topic != "signalbox/esp02/status" || payload != "online" {
		t.Errorf("%s came on %s", payload, topic)
	}
	b.send(gobwas.OpText, `{"type":"telemetry","n":1}`)
	if topic, payload := watcher.message(); topic != "signalbox/esp02/telemetry" || payload != `{"type":"telemetry","n":1}` {
		t.Errorf("%s came on %s", payload, topic)
	}
	began := time.Now()
	device := h.tellsStatus(packet.V5, "esp01", "1234", "here") // or the hub would, a second later
	topic, payload := watcher.message()
	if payload == "online" && time.Since(began) > time.Second {
		topic, payload = watcher.message() // it was too slow for the hub
	}
	if topic != "signalbox/esp01/status" || payload != "here" {
		t.Errorf("%s came on %s", payload, topic)
	}
	for _, payload := range []string{`{"n":1}`, `{"n":2}`} { // once each
		device.publish("signalbox/esp01/telemetry", payload, 1)
		if topic, got := watcher.message(); topic != "signalbox/esp01/telemetry" || got != payload {
			t.Errorf("%s came on %s", got, topic)
		}
	}
	_ = b.conn.Close()
	if topic, payload := watcher.message(); topic != "signalbox/esp02/status" || payload != "offline" {
		t.Errorf("%s came on %s", payload, topic)
	}
}

// TestMQTTMapped: the sensor of B1, which has no credentials.
func TestMQTTMapped(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{Anonymous: []string{"Environ/#", "outTopic"}},
		mapped.Mapping{Filter: "Environ/Temperature", Device: "env01", Field: "temp", Format: mapped.FormatNumber})
	c := h.client(packet.V311, "", "")
	c.publish("outTopic", "hello world", 0)
	c.publish("Environ/Temperature", "25.8 °C", 0)
	h.awaitLatest("env01", `{"temp":25.8}`)
	h.awaitPresence("env01", signalbox.Online)
	c.publish("Environ/Temperature", "25°C", 0)
	h.awaitLatest("env01", `{"temp":25}`)
	if got := c.subscribe("inTopic"); got[0] != 0x80 {
		t.Errorf("subscribing gave 0x%02X", got[0])
	}
	c.send([]byte{0x30, 2, 0, 0}) // an empty topic: the connection ends, and the board comes again
	c.ended()
	h.client(packet.V311, "", "").publish("Environ/Temperature", "26 °C", 0)
	h.awaitLatest("env01", `{"temp":26}`)
}

// TestMQTTDialect: a device that was made for ThingsBoard.
func TestMQTTDialect(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{Dialect: mapped.ThingsBoard{}})
	watcher := h.token(packet.V5, "read")
	watcher.subscribe("v1/#")
	c := h.client(packet.V5, "esp01", "1234")
	c.subscribe("v1/devices/me/rpc/request/+")
	c.publish("v1/devices/me/telemetry", `[{"n":1},{"ts":1451649600512,"values":{"n":2}}]`, 1)
	if got := h.latest("esp01"); got != `{"n":2}` {
		t.Errorf("the latest is %s", got)
	}
	if ack := c.publish("v1/devices/me/telemetry", `x`, 1); ack.Reason != packet.PayloadFormatInvalid {
		t.Errorf("what is no JSON gave 0x%02X", byte(ack.Reason))
	}
	value := `{"pin":7}`
	sent, err := h.commands.Submit(t.Context(), signalbox.CommandRequest{Device: "esp01", Name: "setGpio", Value: &value})
	must(t, err)
	topic, payload := c.message()
	number, ok := strings.CutPrefix(topic, "v1/devices/me/rpc/request/")
	if !ok || payload != `{"method":"setGpio","params":{"pin":7}}` {
		t.Errorf("%s came on %s", payload, topic)
	}
	c.publish("v1/devices/me/rpc/response/"+number, `{"done":true}`, 1)
	h.awaitState(sent.ID, signalbox.CommandSucceeded)
	h.token(packet.V5, "command").publish("v1/end", "x", 1)
	if topic, _ := watcher.message(); topic != "v1/end" { // what devices say there is for the hub alone
		t.Errorf("a message came on %s", topic)
	}
}
