package gateway_test

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	gobwas "github.com/gobwas/ws"

	"signalbox"
	"signalbox/internal/gateway"
	"signalbox/internal/mapped"
	"signalbox/internal/wire/packet"
)

// logged keeps what a logger writes.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestMQTTTokenAsUserName: some clients send a token as their user name. It lets them in if they
// send no password, and never stands in the log.
func TestMQTTTokenAsUserName(t *testing.T) {
	var log logged
	h := startMQTTWith(t, gateway.Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, gateway.MQTTConfig{})
	token := h.tokens["command"]
	for name, c := range map[string]struct {
		user   string
		change func(*packet.Connect, *packet.Properties)
		want   packet.Reason
	}{
		"no password":      {token, nil, packet.Success},
		"empty password":   {token, func(c *packet.Connect, _ *packet.Properties) { c.HasPassword = true }, packet.Success},
		"another password": {token, func(c *packet.Connect, _ *packet.Properties) { c.HasPassword, c.Password = true, []byte("x") }, packet.BadUserOrPassword},
		"unknown":          {"sbx_unknownsecret", nil, packet.BadUserOrPassword},
	} {
		if p := h.dialMQTT(packet.V5).login(c.user, "", c.change); p.Reason != c.want {
			t.Errorf("%s: 0x%02X", name, byte(p.Reason))
		}
	}
	h.dialMQTT(packet.V5).login(token, "sbx_unknownsecret", nil)
	b := h.connect(nil)
	b.send(gobwas.OpText, `{"type":"auth","v":2,"name":"`+token+`","password":"x"}`)
	b.next()
	if text := log.String(); strings.Contains(text, token) || strings.Contains(text, "unknownsecret") || !strings.Contains(text, "sbx_…") {
		t.Errorf("the log has:\n%s", text)
	}
}

// publishAll publishes n messages in one piece, and waits for their acknowledgements: so they come
// faster than allowed on any machine.
func (c *mqttClient) publishAll(topic string, n int) {
	c.t.Helper()
	var all []byte
	for i := range n {
		all = packet.AppendPublish(all, c.v, &packet.Packet{Type: packet.PUBLISH, Topic: []byte(topic), Payload: []byte("1"), QoS: 1, ID: uint16(i + 1)})
	}
	if _, err := c.conn.Write(all); err != nil {
		c.t.Error(err)
		return
	}
	for i := range n {
		p, err := c.tryRead()
		if err != nil {
			c.t.Error(err)
			return
		}
		if p.Type != packet.PUBACK || int(p.ID) != i+1 {
			c.t.Errorf("in place of PUBACK %d came a %s %d", i+1, p.Type, p.ID)
			return
		}
	}
}

// TestMQTTBudget: messages are paid for by the device that they are of, and by the connection.
func TestMQTTBudget(t *testing.T) {
	t.Parallel()
	const rate, burst, messages = 25, 10, 60
	least := (messages - 2*burst - 1) * time.Second / rate // the first burst may be had twice
	mapping := mapped.Mapping{Filter: "home/+/n", Device: "{1}", Field: "n", Format: mapped.FormatNumber}
	start := func(t *testing.T) *mqttHub {
		t.Helper()
		return startMQTTWith(t, gateway.Config{MessagesPerSecond: rate, Burst: burst},
			gateway.MQTTConfig{Anonymous: []string{"home/#", "x"}, Dialect: mapped.ThingsBoard{}}, mapping)
	}
	for name, publish := range map[string]func(h *mqttHub){
		"a batch of a dialect": func(h *mqttHub) {
			h.client(packet.V5, "esp01", "1234").publish("v1/devices/me/telemetry", "["+strings.Repeat(`{"n":1},`, messages-1)+`{"n":1}]`, 1)
		},
		"an anonymous client": func(h *mqttHub) {
			h.client(packet.V5, "", "").publishAll("x", messages)
		},
		"a program for one device": func(h *mqttHub) {
			h.token(packet.V5, "command").publishAll("home/esp01/n", messages)
		},
		"several connections for one device": func(h *mqttHub) {
			var work sync.WaitGroup
			for i := range messages / 6 {
				c := h.dialMQTT(packet.V5)
				c.login("", "", func(p *packet.Connect, _ *packet.Properties) { p.ClientID = fmt.Append(nil, i) })
				work.Go(func() { c.publishAll("home/esp01/n", 6) })
			}
			work.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t)
			began := time.Now()
			publish(h)
			if took := time.Since(began); took < least {
				t.Errorf("%d messages took %s, less than %s", messages, took, least)
			}
			if n := h.gateway.Stats().RateLimited.Load(); n == 0 {
				t.Error("nothing was counted")
			}
		})
	}
}

// TestMQTTRefusalsAreToldSeldom: what a client does wrong is told once, whatever connections it
// makes for it.
func TestMQTTRefusalsAreToldSeldom(t *testing.T) {
	var log logged
	h := startMQTTWith(t, gateway.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, gateway.MQTTConfig{})
	for range 4 {
		c := h.token(packet.V5, "command")
		c.publish("signalbox/esp01/telemetry", "1", 1)
		c.publish("signalbox/esp01/command", "no object", 1)
		c.publish("signalbox/nodevice/command", `{"command":"x"}`, 1)
		_ = c.conn.Close()
	}
	for _, line := range []string{"published to a topic that is not its own", "a client's message was refused", "a command that a client published was refused"} {
		if n := strings.Count(log.String(), line); n != 1 {
			t.Errorf("%q is there %d times", line, n)
		}
	}
}

// TestMQTTRemovedDevice: nothing of a removed device is there for the next one of its name.
func TestMQTTRemovedDevice(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{})
	retain := func(c *mqttClient, topic string) {
		c.next++
		c.send(packet.AppendPublish(nil, c.v, &packet.Packet{Type: packet.PUBLISH, Topic: []byte(topic), Payload: []byte("x"), QoS: 1, ID: c.next, Retain: true}))
		c.expect(packet.PUBACK)
	}
	retain(h.client(packet.V5, "esp01", "1234"), "signalbox/esp01/private")
	retain(h.client(packet.V5, "esp02", "5678"), "signalbox/esp02/private")
	must(t, h.devices.Remove(t.Context(), h.devices.Find("esp01"), func() {}))
	watcher := h.token(packet.V5, "read")
	awaitMQTT(t, "it is gone", func() bool { _, ok := h.broker.RetainedBy("signalbox/esp01/private"); return !ok })
	watcher.subscribe("signalbox/+/private")
	if topic, _ := watcher.message(); topic != "signalbox/esp02/private" {
		t.Errorf("%s came", topic)
	}
}

// TestMQTTHubsWordIsTrue: what the hub retained of a device's status stays true when the device
// speaks MQTT itself, whether somebody subscribes or not; what the device retained stays.
func TestMQTTHubsWordIsTrue(t *testing.T) {
	h := startMQTT(t, gateway.MQTTConfig{})
	watcher := h.token(packet.V5, "read")
	watcher.subscribe("signalbox/esp01/status")
	status := func(want string) {
		t.Helper()
		if _, payload := watcher.message(); payload != want {
			t.Errorf("the status is %s, want %s", payload, want)
		}
	}
	b := h.connect(nil)
	b.send(gobwas.OpText, `{"type":"auth","v":2,"name":"esp01","password":"1234"}`)
	b.next()
	status("online")
	d := h.client(packet.V5, "esp01", "1234")
	h.awaitPresence("esp01", signalbox.Online)
	_ = d.conn.Close()
	h.awaitPresence("esp01", signalbox.Offline)
	status("offline")
	d = h.client(packet.V5, "esp01", "1234")
	status("online") // it does not tell itself
	_ = watcher.conn.Close()
	_ = d.conn.Close()
	h.awaitPresence("esp01", signalbox.Offline)
	// From now on nobody subscribes.
	payload := func() string {
		c := h.token(packet.V5, "read")
		defer func() { _ = c.conn.Close() }()
		c.subscribe("signalbox/esp01/status")
		_, payload := c.message()
		return payload
	}
	awaitMQTT(t, "the retained word is true", func() bool { return payload() == "offline" })
	d = h.client(packet.V5, "esp01", "1234")
	d.next++
	d.send(packet.AppendPublish(nil, d.v, &packet.Packet{Type: packet.PUBLISH, Topic: []byte("signalbox/esp01/status"), Payload: []byte("sleeping"), QoS: 1, ID: d.next, Retain: true}))
	d.expect(packet.PUBACK)
	_ = d.conn.Close()
	h.awaitPresence("esp01", signalbox.Offline)
	watcher = h.token(packet.V5, "read")
	watcher.subscribe("signalbox/+/status")
	status("sleeping")
	h.client(packet.V5, "esp02", "5678")
	if topic, payload := watcher.message(); topic != "signalbox/esp02/status" || payload != "online" {
		t.Errorf("%s came on %s", payload, topic)
	}
	if owner, _ := h.broker.RetainedBy("signalbox/esp01/status"); owner != fmt.Sprint("d", h.devices.Find("esp01").ID) {
		t.Errorf("the status is retained by %s", owner)
	}
}
