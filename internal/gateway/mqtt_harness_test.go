package gateway_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/broker"
	"signalbox/internal/broker/durable"
	"signalbox/internal/bus"
	"signalbox/internal/command"
	"signalbox/internal/gateway"
	"signalbox/internal/gateway/loop"
	"signalbox/internal/gateway/mqtt"
	"signalbox/internal/gateway/ws"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/mapped"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/store"
	"signalbox/internal/wire/packet"
)

// mqttHub is a hub from both sockets to the disk, with the devices esp01 (secret 1234), esp02
// (5678) and датчик (1111), and the tokens read, command and admin.
type mqttHub struct {
	*hub
	door   *gateway.MQTT
	broker *broker.Broker
	people *auth.People
	mqtt   string            // address
	guests string            // address for those that might be any web page
	tokens map[string]string // by scope
}

func startMQTT(t *testing.T, cfg gateway.MQTTConfig, topics ...mapped.Mapping) *mqttHub {
	t.Helper()
	return startMQTTWith(t, gateway.Config{}, cfg, topics...)
}

// startMQTTWith is startMQTT with settings of the gateway; without a logger of its own it has none.
func startMQTTWith(t *testing.T, door gateway.Config, cfg gateway.MQTTConfig, topics ...mapped.Mapping) *mqttHub {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	logger := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	st, err := store.Open(ctx, store.Config{Dir: dir, Logger: logger})
	must(t, err)
	keys, err := auth.OpenKeys(filepath.Join(dir, "secret.key"))
	must(t, err)
	var events bus.Bus
	h := &mqttHub{hub: &hub{t: t, devices: registry.New(st, logger), sessions: session.New()}, tokens: make(map[string]string)}
	h.log, err = history.Open(ctx, history.Config{Logger: logger, Announce: events.Publish}, st)
	must(t, err)
	must(t, h.devices.Load(ctx, h.log))
	for name, secret := range map[string]string{"esp01": "1234", "esp02": "5678", "датчик": "1111"} {
		sum, err := keys.HashChosen(secret)
		must(t, err)
		_, err = h.devices.Add(ctx, registry.NewDevice{Name: name, Type: "box", Secret: store.Secret{Kind: auth.SecretChosen, Sum: sum}})
		must(t, err)
	}
	h.commands = command.New(command.Config{}, h.log, st, h.sessions, names{h.devices}, logger)
	road := ingest.New(ingest.Config{Logger: logger}, h.log, h.devices, h.sessions, h.commands)
	door.Logger = cmp.Or(door.Logger, logger)
	h.gateway = gateway.New(door, gateway.Parts{
		Devices: h.devices, Sessions: h.sessions, Ingest: road, Commands: h.commands, Log: h.log,
		Logins: auth.NewDeviceLogins(keys, auth.DeviceLoginsConfig{}),
	})
	h.people, err = auth.NewPeople(ctx, auth.PeopleConfig{Store: st, Revoked: func(id int64) { h.door.ForgetToken(id) }})
	must(t, err)
	for _, scope := range []signalbox.Scope{signalbox.ScopeRead, signalbox.ScopeCommand, signalbox.ScopeAdmin} {
		secret, _, err := h.people.CreateToken(ctx, string(scope), scope, time.Time{}, "test")
		must(t, err)
		h.tokens[string(scope)] = secret
	}
	keeper, image, err := durable.Open(ctx, durable.Config{Logger: logger}, h.log, st)
	must(t, err)
	mapping, err := mapped.New(mapped.Config{Mappings: topics}, mapped.Parts{Devices: h.devices, Sessions: h.sessions, Road: road, Commands: h.commands, Logger: logger})
	must(t, err)
	must(t, mapping.Prepare(ctx))
	h.door = gateway.NewMQTT(h.gateway, cfg, gateway.MQTTParts{Tokens: h.people, Commands: h.commands, Log: h.log, Bus: &events, Mapped: mapping})
	h.broker, err = broker.New(broker.Config{Logger: logger, MaxPacket: mqtt.DefaultMaxPacket}, broker.Parts{Keeper: keeper, Image: image, Log: h.log, Taker: h.door})
	must(t, err)
	h.door.Join(h.broker)
	h.devices.OnRemove(h.door.ForgetDevice)

	group, err := loop.New(loop.Config{Loops: 2, OutboxBytes: 256 << 10, Logger: logger})
	must(t, err)
	var work sync.WaitGroup
	serve := func(handler loop.Handler) string {
		var listen net.ListenConfig
		l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
		must(t, err)
		work.Go(func() {
			// In a test that ends at once the group may be closed before this has begun.
			if err := group.Serve(ctx, l, handler); !errors.Is(err, loop.ErrStopped) {
				check(t, err)
			}
		})
		return l.Addr().String()
	}
	server := mqtt.NewServer(mqtt.Config{Gate: h.gateway}, h.door)
	h.mqtt, h.guests = serve(server), serve(server.Guests())
	h.address = serve(ws.NewServer(ws.Config{Gate: h.gateway}, h.gateway))
	logCtx, endLog := context.WithCancel(context.WithoutCancel(ctx))
	var logDone sync.WaitGroup
	logDone.Go(func() { check(t, h.log.Run(logCtx, patience)) })
	for _, run := range []func(context.Context) error{h.commands.Run, h.gateway.Run, h.door.Run, h.broker.Run, keeper.Run, mapping.Run} {
		work.Go(func() { check(t, run(ctx)) })
	}
	t.Cleanup(func() {
		stop, stopped := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer stopped()
		check(t, group.Close(stop))
		cancel()
		work.Wait()
		endLog()
		logDone.Wait()
		check(t, st.Close())
	})
	return h
}

// mqttClient is a connection that a test drives packet by packet.
type mqttClient struct {
	t    *testing.T
	conn net.Conn
	v    packet.Version
	buf  []byte
	next uint16
	deaf bool // messages that come in between are passed over
}

func (h *mqttHub) dialMQTT(v packet.Version) *mqttClient {
	h.t.Helper()
	return h.dialAt(h.mqtt, v)
}

func (h *mqttHub) dialAt(address string, v packet.Version) *mqttClient {
	h.t.Helper()
	d := net.Dialer{Timeout: patience}
	conn, err := d.DialContext(h.t.Context(), "tcp", address)
	must(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	must(h.t, conn.SetDeadline(time.Now().Add(2*patience)))
	return &mqttClient{t: h.t, conn: conn, v: v}
}

func (c *mqttClient) send(b []byte) {
	c.t.Helper()
	_, err := c.conn.Write(b)
	must(c.t, err)
}

// read gives the next packet.
func (c *mqttClient) read() *packet.Packet {
	c.t.Helper()
	p, err := c.tryRead()
	if err != nil {
		c.t.Fatal("no packet came:", err)
	}
	return p
}

func (c *mqttClient) tryRead() (*packet.Packet, error) {
	for {
		total, ok, err := packet.Size(c.buf)
		if err != nil {
			return nil, err
		}
		if ok && total <= len(c.buf) {
			p := new(packet.Packet)
			b := bytes.Clone(c.buf[:total])
			c.buf = c.buf[total:]
			return p, p.Decode(b, c.v)
		}
		more := make([]byte, 4096)
		n, err := c.conn.Read(more)
		if err != nil {
			return nil, err
		}
		c.buf = append(c.buf, more[:n]...)
	}
}

// expect reads a packet of the type.
func (c *mqttClient) expect(want packet.Type) *packet.Packet {
	c.t.Helper()
	p := c.read()
	for c.deaf && p.Type == packet.PUBLISH && want != packet.PUBLISH {
		p = c.read()
	}
	if p.Type != want {
		c.t.Fatalf("a %s came with reason 0x%02X (%s %q), not a %s", p.Type, byte(p.Reason), p.Topic, p.Payload, want)
	}
	return p
}

// ended reads until the connection is closed and gives the reason of a DISCONNECT before that.
func (c *mqttClient) ended() packet.Reason {
	c.t.Helper()
	var reason packet.Reason
	for {
		p, err := c.tryRead()
		if err != nil {
			if errors.Is(err, io.EOF) || strings.Contains(err.Error(), "reset") {
				return reason
			}
			c.t.Fatal("the connection did not end:", err)
		}
		if p.Type == packet.DISCONNECT {
			reason = p.Reason
		}
	}
}

// login is a CONNECT; change may be nil.
func (c *mqttClient) login(user, password string, change func(*packet.Connect, *packet.Properties)) *packet.Packet {
	c.t.Helper()
	con := packet.Connect{Version: c.v, Clean: true, ClientID: []byte("test-" + user)}
	if user != "" {
		con.HasUser, con.User = true, []byte(user)
	}
	if password != "" {
		con.HasPassword, con.Password = true, []byte(password)
	}
	var props packet.Properties
	if change != nil {
		change(&con, &props)
	}
	c.send(packet.AppendConnect(nil, &con, &props))
	return c.expect(packet.CONNACK)
}

// client is one that is logged in.
func (h *mqttHub) client(v packet.Version, user, password string) *mqttClient {
	h.t.Helper()
	c := h.dialMQTT(v)
	if p := c.login(user, password, nil); p.Reason != packet.Success {
		h.t.Fatalf("the login of %q was refused with 0x%02X", user, byte(p.Reason))
	}
	return c
}

// token is a client with a token of the scope.
func (h *mqttHub) token(v packet.Version, scope string) *mqttClient {
	h.t.Helper()
	return h.client(v, scope+"-program", h.tokens[scope])
}

// publish sends a message; with QoS 1 it gives the PUBACK.
func (c *mqttClient) publish(topic, payload string, qos uint8) *packet.Packet {
	c.t.Helper()
	p := packet.Packet{Type: packet.PUBLISH, Topic: []byte(topic), Payload: []byte(payload), QoS: qos}
	if qos > 0 {
		c.next++
		p.ID = c.next
	}
	c.send(packet.AppendPublish(nil, c.v, &p))
	if qos == 0 {
		return nil
	}
	ack := c.expect(packet.PUBACK)
	if ack.ID != p.ID {
		c.t.Fatalf("PUBACK %d came for %d", ack.ID, p.ID)
	}
	return ack
}

// tellsStatus is a device that has published its status, retained; the hub does not tell it then.
func (h *mqttHub) tellsStatus(v packet.Version, name, secret, status string) *mqttClient {
	h.t.Helper()
	c := h.client(v, name, secret)
	c.next++
	c.send(packet.AppendPublish(nil, c.v, &packet.Packet{
		Type: packet.PUBLISH, Topic: []byte("signalbox/" + name + "/status"), Payload: []byte(status), QoS: 1, ID: c.next, Retain: true,
	}))
	c.expect(packet.PUBACK)
	return c
}

// subscribe gives the reason codes.
func (c *mqttClient) subscribe(filters ...string) []byte {
	c.t.Helper()
	list := make([]packet.Filter, len(filters))
	for i, f := range filters {
		list[i] = packet.Filter{Text: []byte(f), QoS: 1}
	}
	c.next++
	c.send(packet.AppendSubscribe(nil, c.v, c.next, list, nil))
	return bytes.Clone(c.expect(packet.SUBACK).Reasons)
}

// message reads a PUBLISH and acknowledges it.
func (c *mqttClient) message() (topic, payload string) {
	c.t.Helper()
	p := c.expect(packet.PUBLISH)
	if p.QoS == 1 {
		c.send(packet.AppendAck(nil, c.v, packet.PUBACK, p.ID, packet.Success, nil))
	}
	return string(p.Topic), string(p.Payload)
}

// awaitMQTT asks until ok.
func awaitMQTT(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("it did not come true that %s", what)
		case <-tick.C:
		}
	}
}

// latest is the device's last telemetry.
func (h *mqttHub) latest(name string) string { return string(h.devices.Find(name).LatestObject()) }

func (h *mqttHub) awaitLatest(name, want string) {
	h.t.Helper()
	awaitMQTT(h.t, "the telemetry of "+name+" is "+want, func() bool { return h.latest(name) == want })
}

func (h *mqttHub) awaitPresence(name string, want signalbox.Presence) {
	h.t.Helper()
	awaitMQTT(h.t, name+" is "+string(want), func() bool { return h.devices.Find(name).View().Presence == want })
}
