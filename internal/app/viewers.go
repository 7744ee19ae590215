package app

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"signalbox/internal/compat"
	"signalbox/internal/gateway/ws"
)

// openViewers makes the side of the original viewers, which may be off.
func (a *App) openViewers() error {
	v := &a.cfg.Compat.Viewers
	zone, err := zoneOf(v.TimeZone)
	if err != nil {
		return err
	}
	a.viewers = compat.NewViewers(compat.ViewersConfig{
		Device: v.Device, Field: v.Field, Allow: v.Allow, Crowded: func(from netip.Addr) *ws.Refusal { return a.gateway.Crowded(from) }, Origins: a.cfg.Devices.Origins, NullOrigin: v.NullOrigin, Zone: zone,
		Max: v.Max, Outbox: v.Outbox, Silence: a.cfg.Devices.AuthTimeout, Logger: a.logger,
	}, compat.ViewersParts{Log: a.log, Bus: &a.bus, Devices: a.devices})
	if a.viewers.On() && len(v.Allow) == 0 {
		a.logger.Warn("viewers of no network are admitted: compat.viewers.allow is empty", "device", v.Device)
	}
	return nil
}

// openViewersDoor opens the port of history. Its connections are moved by the loops of the
// devices' and count with theirs.
func (a *App) openViewersDoor(ctx context.Context) ([]door, error) {
	v, d := &a.cfg.Compat.Viewers, &a.cfg.Devices
	if !a.viewers.On() || v.History == "" {
		return nil, nil
	}
	l, err := listen(ctx, "compat.viewers.history", v.History)
	if err != nil {
		return nil, err
	}
	sockets := ws.NewServer(ws.Config{
		HandshakeTimeout: d.HandshakeTimeout, MessageBytes: kib, PingInterval: d.PingInterval, PingMisses: d.PingMisses, Gate: a.gateway,
	}, a.viewers.History())
	if err := a.register(historyMetrics(sockets.Stats())); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	a.setAddress("history_viewers", l.Addr())
	return []door{{key: "history_viewers", listen: l, serve: func(ctx context.Context, l net.Listener) error {
		return a.group.Serve(ctx, l, sockets)
	}}}, nil
}

// historyMetrics are those of the sockets of the history port; they exist once it is open. Its bytes
// and connections are in the numbers of the device port.
func historyMetrics(w *ws.Stats) []metric {
	return []metric{
		gauge("viewers_history_connections", "Open WebSocket connections of the port of history.", func() float64 { return float64(w.Open.Load()) }),
		counter("viewers_history_upgrades", "WebSocket upgrades on the port of history.", &w.Upgraded),
		counter("viewers_history_upgrades_refused", "Upgrade requests there that were answered with an HTTP error.", &w.Refused),
		counter("viewers_history_handshake_timeouts", "Connections there cut because their upgrade request did not come in time.", &w.HandshakeTimeout),
		counter("viewers_history_protocol_violations", "Connections there closed because of RFC 6455 or UTF-8.", &w.Violations),
		counter("viewers_history_frames_too_big", "Connections there closed because a message was over the limit.", &w.TooBig),
		counter("viewers_history_ping_timeouts", "Connections there cut because pings stayed unanswered.", &w.PingTimeouts),
		counter("viewers_history_messages", "Messages received there.", &w.Messages),
	}
}

func (a *App) viewerMetrics() []metric {
	v := a.viewers.Stats()
	return []metric{
		gauge("viewers", "Original viewers connected.", func() float64 { return float64(v.Open.Load()) }),
		gauge("viewers_watching", "Original viewers that see readings as they come.", func() float64 { return float64(v.Watching.Load()) }),
		counter("viewers_refused", "Original viewers refused because their network is not admitted.", &v.Refused),
		counter("viewers_refused_origin", "Upgrades on the port of history refused because of their Origin.", &v.OriginRefused),
		counter("viewers_refused_limit", "Original viewers refused because there were too many.", &v.Crowded),
		counter("viewers_readings", "Readings made into frames for original viewers.", &v.Readings),
		counter("viewers_delivered", "Such frames handed to viewers.", &v.Delivered),
		counter("viewers_slow", "Original viewers closed because they read too slowly.", &v.Slow),
		counter("viewers_overflows", "Times readings came faster than they could be handed to original viewers.", &v.Overflows),
		counter("viewers_missed", "Readings that were missed then.", &v.Missed),
		counter("viewers_lost", "Original viewers closed because of that.", &v.Lost),
		counter("viewers_ignored", "Messages of original viewers that mean nothing.", &v.Ignored),
		counter("viewers_limited", "Times an original viewer sent too much and was not read for a while.", &v.Limited),
		counter("viewers_flooded", "Original viewers closed because they went on with that.", &v.Flooded),
		counter("viewers_questions", "Questions of original viewers to history.", &v.Asked),
		counter("viewers_rows", "Rows sent in answer.", &v.Rows),
		counter("viewers_faults", "Questions answered with an error.", &v.Faults),
	}
}
