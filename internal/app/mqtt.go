package app

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/broker"
	"signalbox/internal/broker/durable"
	"signalbox/internal/gateway"
	"signalbox/internal/gateway/loop"
	"signalbox/internal/gateway/mqtt"
	"signalbox/internal/homeassistant"
	"signalbox/internal/mapped"
	"signalbox/internal/remote"
	"signalbox/internal/wire"
)

// MQTTPath is where the HTTP port serves MQTT over WebSocket.
const MQTTPath = "/mqtt"

// mqttParts are the broker and what stands around it.
type mqttParts struct {
	keeper *durable.Keeper
	broker *broker.Broker
	mapped *mapped.Map
	door   *gateway.MQTT
	links  []*remote.Link            // to other brokers
	linked []*mapped.Map             // what their topics mean
	home   *homeassistant.Discoverer // nil when it is off

	// Of the open doors:
	group   *loop.Group
	server  *mqtt.Server
	sockets *mqtt.WebSocket // nil when it is off
	absent  string          // why there is no port though there should be one; empty: there is
}

// openMQTT makes the broker and its door. It runs when the roads are there and the log does not
// run yet.
func (a *App) openMQTT(ctx context.Context) (err error) {
	c, l := &a.cfg.MQTT, &a.cfg.MQTT.Limits
	m := &a.mqtt
	var image *durable.Image
	if m.keeper, image, err = durable.Open(ctx, durable.Config{Logger: a.logger}, a.log, a.store); err != nil {
		return err
	}
	limits := wire.Limits{Depth: a.cfg.Telemetry.MaxDepth, Keys: a.cfg.Telemetry.MaxKeys}
	m.mapped, err = mapped.New(mapped.Config{
		Mappings: c.Topics, Silence: c.Silence, MaxPending: c.MaxPending, MaxBody: a.cfg.Devices.MaxFrame, Limits: limits,
	}, mapped.Parts{Devices: a.devices, Sessions: a.sessions, Road: a.ingest, Commands: a.commands, Logger: a.logger})
	if err != nil {
		return err
	}
	if err := m.mapped.Prepare(ctx); err != nil {
		return err
	}
	door := gateway.MQTTConfig{Anonymous: c.Anonymous, MaxKeepAlive: l.MaxKeepAlive}
	if slices.ContainsFunc(c.Topics, func(t mapped.Mapping) bool { return t.Preset == mapped.PresetThingsBoard }) {
		door.Dialect = mapped.ThingsBoard{Limits: limits, MaxBody: a.cfg.Devices.MaxFrame}
	}
	m.door = gateway.NewMQTT(a.gateway, door, gateway.MQTTParts{
		Tokens: a.people, Commands: a.commands, Log: a.log, Bus: &a.bus, Mapped: m.mapped,
	})
	aliases := l.TopicAliases
	if aliases == 0 {
		aliases = -1 // the broker's way to say none
	}
	m.broker, err = broker.New(broker.Config{
		ReceiveMaximum: uint16(l.Inflight), Inflight: l.Inflight, MaxPacket: uint32(l.MaxPacket), TopicAliases: aliases, //nolint:gosec // within the limits of the settings
		MaxExpiry: l.SessionExpiryMax, MaxSessions: l.Sessions, OwnerSessions: l.SessionsPerOwner,
		MaxSubscriptions: l.Subscriptions, FilterBytes: l.FilterBytes,
		QueueMessages: l.QueueMessages, QueueBytes: int64(l.QueueBytes), TotalBytes: int64(l.QueuesBytes), MemoryBytes: int64(l.QueuesMemory), MaxRetained: l.Retained, RetainedBytes: int64(l.RetainedBytes),
		OutboxBytes: l.Outbox, Name: a.mqttOwner, Logger: a.logger,
	}, broker.Parts{Keeper: m.keeper, Image: image, Log: a.log, Taker: m.door})
	if err != nil {
		return err
	}
	m.door.Join(m.broker)
	a.devices.OnRemove(m.door.ForgetDevice)
	if h := c.HomeAssistant; h.Enabled {
		m.home = homeassistant.New(homeassistant.Config{
			Prefix: h.Prefix, Entities: h.Entities, MaxFields: h.MaxFields, Version: a.version, Logger: a.logger,
		}, &a.bus, a.devices, m.door)
	}
	return a.openLinks(ctx, limits)
}

// openLinks makes the links to other brokers. Each has mappings of its own.
func (a *App) openLinks(ctx context.Context, limits wire.Limits) error {
	c, m := &a.cfg.MQTT, &a.mqtt
	if len(c.Brokers) == 0 {
		return nil
	}
	identity, err := remote.Identity(a.cfg.Data)
	if err != nil {
		return err
	}
	for i := range c.Brokers {
		topics, err := mapped.New(mapped.Config{
			Mappings: c.Brokers[i].Topics, Silence: c.Silence, MaxPending: c.MaxPending, MaxBody: a.cfg.Devices.MaxFrame, Limits: limits,
			Native: c.Brokers[i].Native,
		}, mapped.Parts{Devices: a.devices, Sessions: a.sessions, Road: a.ingest, Commands: a.commands, Log: a.log, Logger: a.logger})
		if err != nil {
			return err
		}
		if err := topics.Prepare(ctx); err != nil {
			return err
		}
		link, err := remote.New(c.Brokers[i], remote.Parts{Taker: topics, Log: a.log, Identity: identity, Logger: a.logger})
		if err != nil {
			return err
		}
		m.links, m.linked = append(m.links, link), append(m.linked, topics)
	}
	return nil
}

// forgetToken is told of revoked tokens.
func (a *App) forgetToken(id int64) {
	if a.mqtt.door != nil {
		a.mqtt.door.ForgetToken(id)
	}
}

// tokenLook is how often it is looked for tokens that have expired.
const tokenLook = 20 * time.Second

// runTokenExpiry has the broker forget the sessions of tokens that have expired, those included
// that expired while there was no hub. Their connections end by themselves within a second.
func (a *App) runTokenExpiry(ctx context.Context) error {
	tick := time.NewTicker(tokenLook)
	defer tick.Stop()
	for since := (time.Time{}); ; {
		now := time.Now()
		a.forgetExpired(since, now)
		since = now.Add(-2 * tokenLook) // twice: a client may have come in at the last moment
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// forgetExpired forgets the tokens that expired after since, up to now.
func (a *App) forgetExpired(since, now time.Time) {
	for _, t := range a.people.ListTokens() {
		if !t.ExpiresAt.IsZero() && t.ExpiresAt.After(since) && !t.ExpiresAt.After(now) {
			a.forgetToken(t.ID)
		}
	}
}

// mqttWork is what runs while the hub is open.
func (a *App) mqttWork() map[string]func(context.Context) error {
	m := &a.mqtt
	work := map[string]func(context.Context) error{
		"mqtt sessions": m.keeper.Run, "mqtt broker": m.broker.Run, "mqtt topics": m.mapped.Run, "mqtt clients": m.door.Run,
		"mqtt tokens": a.runTokenExpiry,
	}
	for i, l := range m.links {
		work["mqtt broker "+l.Name()], work["mqtt topics of "+l.Name()] = l.Run, m.linked[i].Run
	}
	if m.home != nil {
		work["home assistant"] = m.home.Run
	}
	return work
}

// linkChecks tell how the links to other brokers are. A broker that is away is no reason for
// the hub not to be ready: it does the rest of its work.
func (a *App) linkChecks() []api.Check {
	var checks []api.Check
	for _, l := range a.mqtt.links {
		status := l.Status()
		message, why, _ := strings.Cut(status.Message, ": ") // why tells where the broker is
		if !status.OK {
			message = "degraded: " + message
		}
		checks = append(checks, api.Check{Name: "mqtt broker " + status.Name, OK: true, Message: message, Detail: why})
	}
	return checks
}

// openMQTTDoors opens the ports of MQTT clients; asked says which settings somebody made.
func (a *App) openMQTTDoors(ctx context.Context, asked map[string]string) (doors []door, err error) {
	c, m := &a.cfg.MQTT, &a.mqtt
	m.group, err = loop.New(loop.Config{
		OutboxBytes: c.Limits.Outbox, HandshakeTimeout: a.cfg.Devices.HandshakeTimeout, Handshakes: a.cfg.Devices.TLS.Handshakes,
		MaxSockets: a.files.sockets, Logger: a.logger,
	})
	if err != nil {
		return nil, err
	}
	m.server = mqtt.NewServer(mqtt.Config{
		ConnectBytes: c.Limits.ConnectBytes, MaxPacket: c.Limits.MaxPacket, ConnectTimeout: c.Limits.ConnectTimeout, Gate: a.gateway,
	}, m.door)
	if err := a.register(a.mqttMetrics()); err != nil {
		return nil, err
	}
	open := func(key, setting, address string, serve func(context.Context, net.Listener) error) {
		if err != nil || address == "" {
			return
		}
		l, fault := listen(ctx, setting, address)
		switch {
		case fault == nil:
			doors = append(doors, door{key: key, listen: l, serve: serve})
			a.setAddress(key, l.Addr())
		case asked[setting] == "" && signalbox.CodeOf(fault) == "port_taken":
			m.absent = fault.Error()
			a.logger.Warn("the hub goes on without a port for MQTT: the default one is taken, by another broker perhaps; set another, or off", "setting", setting, "address", address)
		default:
			err = fault
		}
	}
	open("mqtt", "mqtt.listen", c.Listen, func(ctx context.Context, l net.Listener) error { return m.group.Serve(ctx, l, m.server) })
	if c.TLS.Cert == "" && c.TLS.Listen != "" && asked["mqtt.tls.listen"] != "" && err == nil {
		err = signalbox.Errorf(signalbox.KindInvalid, "config", "mqtt.tls.listen = %s (%s) needs mqtt.tls.cert and mqtt.tls.key", c.TLS.Listen, asked["mqtt.tls.listen"])
	}
	if c.TLS.Cert != "" && err == nil {
		var conf *tls.Config
		conf, err = certificate(c.TLS.Cert, c.TLS.Key)
		open("mqtt_tls", "mqtt.tls.listen", c.TLS.Listen, func(ctx context.Context, l net.Listener) error {
			return m.group.ServeTLS(ctx, l, conf, m.server)
		})
	}
	if c.WebSocket && err == nil {
		gate := api.NewGate(a.people, a.cfg.HTTP.TrustedProxies)
		m.sockets = mqtt.NewWebSocket(m.server, mqtt.WebSocketConfig{
			Admits: a.gateway.Admits, Refused: a.gateway.RefuseOrigin, Address: func(r *http.Request) netip.Addr { return gate.Address(r) },
		})
		doors = append(doors, door{key: "mqtt_websocket", listen: m.sockets, serve: func(ctx context.Context, l net.Listener) error {
			return m.group.ServePlain(ctx, l, m.server)
		}}, door{key: "mqtt_websocket_guests", listen: m.sockets.Guests(), serve: func(ctx context.Context, l net.Listener) error {
			return m.group.ServePlain(ctx, l, m.server.Guests())
		}})
	}
	return doors, err
}

// withMQTT serves MQTT over WebSocket beside next.
func (a *App) withMQTT(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == MQTTPath && a.mqtt.sockets != nil {
			a.mqtt.sockets.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// mqttCheck is for /readyz. Another broker on the port is no reason not to be ready.
func (a *App) mqttCheck() api.Check {
	check := api.Check{Name: "mqtt", OK: true, Message: "MQTT clients may connect"}
	switch {
	case a.mqtt.absent != "":
		check.Message = "degraded: there is no port for MQTT: " + a.mqtt.absent
	case a.cfg.MQTT.Listen == "" && a.cfg.MQTT.TLS.Cert == "":
		check.Message = "there is no port for MQTT: mqtt.listen is off"
	}
	return check
}
