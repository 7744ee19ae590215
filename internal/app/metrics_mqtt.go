package app

import (
	"slices"

	"signalbox/internal/broker"
	"signalbox/internal/mapped"
	"signalbox/internal/remote"
)

// mqttMetrics are those of the broker; they exist once its ports are open.
func (a *App) mqttMetrics() []metric {
	read := func(n atomicNumber) func() float64 { return func() float64 { return float64(n.Load()) } }
	m := &a.mqtt
	t, d, b, l, k := m.server.Stats(), m.door.Stats(), m.broker.Stats(), m.group.Stats(), m.keeper
	return append([]metric{
		counter("mqtt_connections_accepted", "MQTT connections accepted.", &l.Accepted),
		counter("mqtt_connections_refused", "MQTT connections refused before anything was read.", &l.Refused),
		counter("mqtt_slow_readers_cut", "MQTT connections cut because their outbox was full.", &l.SlowReader),
		counter("mqtt_received_bytes", "Bytes received from MQTT clients.", &l.BytesIn),
		counter("mqtt_sent_bytes", "Bytes sent to MQTT clients.", &l.BytesOut),
		counter("mqtt_read_pauses", "Times an MQTT connection was not read for a while.", &l.Pauses),
		gauge("mqtt_connections", "Open MQTT connections, those included that have not logged in.", read(&l.Open)),
		gauge("mqtt_connections_paused", "MQTT connections that are not read at present.", read(&l.Paused)),
		counter("mqtt_tls_errors", "TLS handshakes of MQTT clients that failed.", &l.TLSErrors),
		counter("mqtt_connects", "CONNECT packets.", &t.Connects),
		counter("mqtt_packets", "Packets received from MQTT clients.", &t.Packets),
		counter("mqtt_malformed", "MQTT connections ended because of a malformed packet or a protocol error.", &t.Malformed),
		counter("mqtt_packets_too_large", "MQTT connections ended because of a packet over mqtt.limits.max_packet or connect_bytes.", &t.TooLarge),
		counter("mqtt_connect_timeouts", "MQTT connections cut because no CONNECT came in time.", &t.ConnectTimeouts),
		counter("mqtt_no_connect", "MQTT connections cut because what came first was no CONNECT.", &t.NoConnect),
		counter("mqtt_keep_alive_timeouts", "MQTT connections ended because nothing came for one and a half times the keep alive.", &t.KeepAliveTimeouts),
		counter("mqtt_websockets", "Upgrades to MQTT over WebSocket.", &t.WebSockets),
		gauge("mqtt_devices", "MQTT connections of devices.", read(&d.Devices)),
		gauge("mqtt_programs", "MQTT connections with a token.", read(&d.Programs)),
		gauge("mqtt_anonymous", "MQTT connections without credentials.", read(&d.Anonymous)),
		counter("mqtt_logins_refused", "MQTT clients that were not let in.", &d.LoginsRefused),
		counter("mqtt_wills_refused", "Wills on topics that are not their client's.", &d.WillsRefused),
		counter("mqtt_publishes_refused", "Messages refused because their topic is not their client's.", &d.PublishesRefused),
		counter("mqtt_payloads_refused", "Messages refused because of what is in them.", &d.PayloadsRefused),
		counter("mqtt_filters_refused", "Subscriptions refused because their filter is not their client's.", &d.SubscriptionsRefused),
		counter("mqtt_commands_submitted", "Commands that MQTT clients published.", &d.CommandsSubmitted),
		counter("mqtt_commands_refused", "Commands of MQTT clients that were refused.", &d.CommandsRefused),
		counter("mqtt_mirrored", "Messages and presences of devices without MQTT published for MQTT subscribers.", &d.Mirrored),
		counter("mqtt_mirror_missed", "Those that were not, because too much waited.", &d.MirrorMissed),
		{name: "mqtt_records", help: "Records of MQTT session state in the log.", read: func() float64 { return float64(k.Stats().Records.Load()) }},
		{name: "mqtt_table_faults", help: "Writes of MQTT session state into the tables that failed and were tried again.", read: func() float64 { return float64(k.Stats().Faults.Load()) }},
		gauge("mqtt_pending_bytes", "Bytes of MQTT session state that are not in the tables yet.", func() float64 { return float64(k.Stats().Pending.Load()) }),
	}, slices.Concat(brokerMetrics(b), a.mappedMetrics(), a.linkMetrics())...)
}

// sums gives a counter of the sum of what of picks.
func sums[S any](parts []S, name, help string, of func(S) atomicNumber) metric {
	return metric{name: name, help: help, read: func() float64 {
		total := int64(0)
		for _, p := range parts {
			total += of(p).Load()
		}
		return float64(total)
	}}
}

// mappedMetrics are those of all mapped topics together: of the hub's own broker and of others.
func (a *App) mappedMetrics() []metric {
	all := []*mapped.Stats{a.mqtt.mapped.Stats()}
	for _, m := range a.mqtt.linked {
		all = append(all, m.Stats())
	}
	return []metric{
		gauge("devices_pending", "Devices that were seen on mapped topics and wait for approval.", func() float64 { return float64(a.devices.Pending()) }),
		sums(all, "mapped_taken", "Messages of mapped topics that were kept.", func(s *mapped.Stats) atomicNumber { return &s.Taken }),
		sums(all, "mapped_later", "Times a message of mapped topics was turned away for the moment.", func(s *mapped.Stats) atomicNumber { return &s.Later }),
		sums(all, "mapped_wrong", "Those whose payload is not what the mapping says.", func(s *mapped.Stats) atomicNumber { return &s.Wrong }),
		sums(all, "mapped_unknown", "Those of devices that do not exist.", func(s *mapped.Stats) atomicNumber { return &s.Unknown }),
		sums(all, "mapped_pending", "Those of devices that wait for approval.", func(s *mapped.Stats) atomicNumber { return &s.Pending }),
		sums(all, "mapped_surplus", "Those of devices that would wait for approval if mqtt.max_pending did not wait already.", func(s *mapped.Stats) atomicNumber { return &s.Surplus }),
		sums(all, "mapped_disabled", "Those of devices that are disabled.", func(s *mapped.Stats) atomicNumber { return &s.Disabled }),
		sums(all, "mapped_idle", "Those that told nothing new: retained ones of the past, and words of presence.", func(s *mapped.Stats) atomicNumber { return &s.Idle }),
		sums(all, "mapped_registered", "Devices of mapped topics that were entered to wait for approval.", func(s *mapped.Stats) atomicNumber { return &s.Registered }),
		sums(all, "mapped_silent", "Times a device of mapped topics went offline for want of messages.", func(s *mapped.Stats) atomicNumber { return &s.Silent }),
		sums(all, "mapped_commands", "Commands published by a mapping.", func(s *mapped.Stats) atomicNumber { return &s.Commands }),
		sums(all, "mapped_commands_undelivered", "Those that could not be.", func(s *mapped.Stats) atomicNumber { return &s.Undelivered }),
		sums(all, "mapped_answers", "Acks and results of devices that speak the native protocol on another broker.", func(s *mapped.Stats) atomicNumber { return &s.Answers }),
	}
}

// linkMetrics are those of all other brokers together.
func (a *App) linkMetrics() []metric {
	all := make([]*remote.Stats, len(a.mqtt.links))
	for i, l := range a.mqtt.links {
		all[i] = l.Stats()
	}
	connected := sums(all, "mqtt_remote_connected", "Those it is connected to.", func(s *remote.Stats) atomicNumber { return &s.Connected })
	connected.gauge = true
	return []metric{
		gauge("mqtt_remote_brokers", "Other brokers that the hub joins.", func() float64 { return float64(len(all)) }),
		connected,
		sums(all, "mqtt_remote_connects", "Connections to other brokers that came about.", func(s *remote.Stats) atomicNumber { return &s.Connects }),
		sums(all, "mqtt_remote_failures", "Attempts to connect to other brokers that failed.", func(s *remote.Stats) atomicNumber { return &s.Failures }),
		sums(all, "mqtt_remote_received", "Messages received from other brokers.", func(s *remote.Stats) atomicNumber { return &s.Received }),
		sums(all, "mqtt_remote_stored", "Those that were stored.", func(s *remote.Stats) atomicNumber { return &s.Stored }),
		sums(all, "mqtt_remote_dropped", "Those that a mapping has and that are nothing to keep.", func(s *remote.Stats) atomicNumber { return &s.Dropped }),
		sums(all, "mqtt_remote_unmapped", "Those that no mapping has.", func(s *remote.Stats) atomicNumber { return &s.Unmapped }),
		sums(all, "mqtt_remote_duplicates", "Those recognised as received before.", func(s *remote.Stats) atomicNumber { return &s.Duplicates }),
		sums(all, "mqtt_remote_echoes", "Those taken for what the hub itself had published.", func(s *remote.Stats) atomicNumber { return &s.Echoes }),
		sums(all, "mqtt_remote_echoes_strange", "Those of them on topics that the hub had sent no command to in the last minute.", func(s *remote.Stats) atomicNumber { return &s.Strange }),
		sums(all, "mqtt_remote_lost", "Those that could not be taken.", func(s *remote.Stats) atomicNumber { return &s.Lost }),
		sums(all, "mqtt_remote_acked", "Acknowledgements sent to other brokers.", func(s *remote.Stats) atomicNumber { return &s.Acked }),
		sums(all, "mqtt_remote_pushback", "Times the full log made another broker wait.", func(s *remote.Stats) atomicNumber { return &s.Pushback }),
		sums(all, "mqtt_remote_stalled", "Times a connection to another broker was given up because of that.", func(s *remote.Stats) atomicNumber { return &s.Stalled }),
		sums(all, "mqtt_remote_published", "Commands published to other brokers.", func(s *remote.Stats) atomicNumber { return &s.Published }),
		sums(all, "mqtt_remote_publish_errors", "Those that could not be.", func(s *remote.Stats) atomicNumber { return &s.PublishErrors }),
	}
}

func brokerMetrics(b *broker.Stats) []metric {
	read := func(n atomicNumber) func() float64 { return func() float64 { return float64(n.Load()) } }
	return []metric{
		counter("mqtt_messages_received", "Application messages published by MQTT clients.", &b.Received),
		counter("mqtt_messages_delivered", "Application messages sent to MQTT subscribers.", &b.Delivered),
		counter("mqtt_messages_resent", "Those that were sent again.", &b.Resent),
		counter("mqtt_messages_duplicate", "Messages recognised as received before.", &b.Duplicates),
		counter("mqtt_dropped_slow_reader", "Messages with QoS 0 dropped for a subscriber that reads too slowly.", &b.SlowReader),
		counter("mqtt_dropped_queue_full", "Messages dropped for a subscriber whose queue was full.", &b.QueueFull),
		counter("mqtt_dropped_too_large", "Messages dropped for a subscriber because of its maximum packet size.", &b.TooLarge),
		counter("mqtt_dropped_expired", "Messages that expired before they were delivered.", &b.Expired),
		counter("mqtt_dropped_withdrawn", "Queued messages that their subscriber may not get any more.", &b.Withdrawn),
		counter("mqtt_dropped_lost", "Queued messages that could not be read from the disk.", &b.Lost),
		counter("mqtt_over_receive_maximum", "Clients that ignored the receive maximum.", &b.OverReceiveMaximum),
		counter("mqtt_publishers_waited", "Times a publisher was not read for a while.", &b.Waited),
		counter("mqtt_sessions_refused", "Clients refused because of mqtt.limits.sessions or sessions_per_owner.", &b.SessionsRefused),
		counter("mqtt_sessions_resumed", "Clients that found their session.", &b.Resumed),
		counter("mqtt_sessions_taken_over", "Connections ended because their session was taken over.", &b.TakenOver),
		counter("mqtt_sessions_expired", "Sessions ended by their expiry.", &b.SessionsExpired),
		counter("mqtt_retained_refused", "Messages not retained because of mqtt.limits.retained or retained_bytes, or because they came without a login.", &b.RetainedRefused),
		counter("mqtt_wills", "Wills published.", &b.Wills),
		gauge("mqtt_sessions_connected", "MQTT sessions with a connection.", read(&b.Connected)),
		gauge("mqtt_sessions_offline", "MQTT sessions that wait for their client.", read(&b.Offline)),
		gauge("mqtt_subscriptions", "Subscriptions.", read(&b.Subscriptions)),
		gauge("mqtt_retained", "Retained messages.", read(&b.Retained)),
		gauge("mqtt_retained_bytes", "Their bytes.", read(&b.RetainedBytes)),
		gauge("mqtt_queued_messages", "Messages that wait in sessions.", read(&b.QueuedMessages)),
		gauge("mqtt_queued_bytes", "Their bytes.", read(&b.QueuedBytes)),
		gauge("mqtt_acks_waiting", "Acknowledgements that wait for a commit.", read(&b.WaitingAcks)),
	}
}
