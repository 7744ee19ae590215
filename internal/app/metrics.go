package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metric is one number of the hub; read gives its present value.
type metric struct {
	name, help string
	gauge      bool
	read       func() float64
}

// atomicNumber is what the parts count with.
type atomicNumber interface{ Load() int64 }

func counter(name, help string, n atomicNumber) metric {
	return metric{name: name, help: help, read: func() float64 { return float64(n.Load()) }}
}

func gauge(name, help string, read func() float64) metric {
	return metric{name: name, help: help, gauge: true, read: read}
}

// newMetrics collects what the parts count. They count with plain atomics; here is the
// only place that knows Prometheus.
func (a *App) newMetrics() (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newForwardCollector(a.forward.manager)} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	all := a.roadMetrics()
	all = append(all, a.doorMetrics()...)
	all = append(all, a.commandMetrics()...)
	all = append(all, a.replayMetrics()...)
	all = append(all, a.liveMetrics()...)
	all = append(all, a.plainMetrics()...)
	all = append(all, a.viewerMetrics()...)
	for _, m := range all {
		if err := r.Register(m.collector()); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (m metric) collector() prometheus.Collector {
	if m.gauge {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "signalbox_" + m.name, Help: m.help}, m.read)
	}
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "signalbox_" + m.name + "_total", Help: m.help}, m.read)
}

func (a *App) roadMetrics() []metric {
	in, log := a.ingest.Stats(), a.log.Stats()
	return []metric{
		gauge("devices", "Devices in the registry.", func() float64 { return float64(a.devices.Len()) }),
		gauge("devices_online", "Devices with a live session.", func() float64 { return float64(a.sessions.Len()) }),
		gauge("up_seconds", "Seconds since the hub was opened.", func() float64 { return time.Since(a.began).Seconds() }),
		counter("telemetry_accepted", "Telemetry messages that got their place in the log.", &in.Stored),
		counter("telemetry_stored", "Telemetry messages that are on disk.", &log.Telemetry),
		counter("telemetry_duplicate", "Telemetry messages recognised as sent before, and not stored again.", &in.Duplicates),
		counter("telemetry_stale", "Frames of connections that a newer one had replaced.", &in.Stale),
		counter("telemetry_pushback", "Times the full log made a connection wait.", &in.Pushback),
		counter("telemetry_implausible_time", "Time stamps of devices that could not be true; the time of receipt was taken.", &in.Implausible),
		counter("log_entries", "Entries of the log that are on disk.", &log.Entries),
		counter("log_commits", "Commits of the log.", &log.Commits),
		counter("log_rows", "Rows written to the log.", &log.Rows),
		counter("log_faults", "Commits that failed and were tried again.", &log.Faults),
		counter("log_refused", "Entries refused because too much waited for a commit.", &log.Refused),
		counter("log_raw_bytes", "Bytes of entries before compression.", &log.RawBytes),
		counter("log_stored_bytes", "Bytes of entries after compression.", &log.StoredBytes),
		gauge("log_kept_entries", "Entries that the log keeps: those in no chunk yet, and what a restart would read.", func() float64 { return float64(a.log.Kept()) }),
		gauge("history_runs", "Devices with messages in memory that are in no chunk yet.", func() float64 { return float64(log.Runs.Load()) }),
		gauge("history_run_bytes", "Memory of these messages.", func() float64 { return float64(log.RunBytes.Load()) }),
		counter("history_chunks", "Chunks written.", &log.Chunks),
		counter("history_chunk_messages", "Messages, and other entries, in chunks written.", &log.ChunkMessages),
		counter("history_chunk_bytes", "Bytes of chunks written.", &log.ChunkBytes),
		counter("history_late_messages", "Messages that came after later ones of their device were in a chunk.", &log.LateMessages),
		gauge("history_spooled_bytes", "Bytes of the log on the local disk alone, because the database server is away.", func() float64 { return float64(log.Spooled.Load()) }),
		counter("history_unspooled_rows", "Rows that went from there into the database.", &log.Unspooled),
		counter("history_dropped_messages", "Messages that retention dropped.", &log.Dropped),
		counter("history_dropped_bytes", "Bytes of chunks that retention dropped.", &a.retention.bytes),
		counter("history_reclaimed_bytes", "Bytes of the database given back to the system after that.", &a.retention.reclaimed),
		counter("history_retention_runs", "Times history was looked through for what is too old or too much.", &a.retention.runs),
		counter("history_merges", "Times small chunks of a device became one.", &log.Merges),
		counter("history_broken_chunks", "Times a broken chunk was passed over.", &log.Broken),
		gauge("log_ahead_seconds", "How far the log's times are ahead of this machine's clock.", func() float64 { return time.Duration(a.ahead.by.Load()).Seconds() }),
		gauge("log_pending_bytes", "Bytes that wait for a commit.", func() float64 { return float64(a.log.Pending()) }),
	}
}

func (a *App) doorMetrics() []metric {
	g := a.gateway.Stats()
	return []metric{
		counter("logins", "Successful logins of devices.", &g.Logins),
		counter("login_failures", "Failed logins of devices.", &g.LoginFailures),
		counter("logins_delayed", "Logins of devices refused unchecked during a back-off.", &g.LoginsDelayed),
		{name: "login_failures_repeated", help: "Failed logins of devices with a secret that was wrong before.", read: func() float64 { return float64(a.logins.Repeated()) }},
		{name: "login_guesses_spent", help: "Times an address used up a day's guesses at a device's chosen secret: somebody may be guessing.", read: func() float64 { return float64(a.logins.Spent()) }},
		counter("auth_required", "Connections closed because their first frame was no login.", &g.AuthRequired),
		counter("auth_timeouts", "Connections closed because no login came in time.", &g.AuthTimeouts),
		counter("sessions_replaced", "Sessions that a newer connection of the device ended.", &g.Replaced),
		counter("rivals", "Logins slowed because two boards seem to share a name.", &g.Rivals),
		counter("rate_limited", "Times a device sent faster than allowed and was not read for a while.", &g.RateLimited),
		counter("frames_bad", "Connections closed because a frame was no JSON object.", &g.BadFrames),
		counter("frames_too_complex", "Messages refused because of depth or number of keys.", &g.TooComplex),
		counter("frames_invalid", "Frames refused because a field had no allowed value.", &g.Invalid),
		counter("frames_replayed", "Messages refused because they are marked as played from the past.", &g.Replayed),
		counter("refused_address_limit", "Connections refused because their address had too many.", &g.AddressLimit),
		counter("refused_connection_limit", "Connections refused because there were too many.", &g.ConnectionLimit),
		counter("refused_origin", "Upgrades refused because of their Origin.", &g.OriginRefused),
		counter("commands_written", "Commands handed to a connection.", &g.CommandsWritten),
		counter("commands_unwritten", "Commands that a connection did not take.", &g.CommandsUnwritten),
		counter("saved_frames", "Acknowledgements of stored telemetry sent to devices.", &g.Saved),
	}
}

func (a *App) replayMetrics() []metric {
	s := a.replays.Stats()
	return []metric{
		gauge("replays", "Replays that have not ended: playing, paused, or waiting for a viewer.", func() float64 { open, _ := a.replays.Running(); return float64(open) }),
		gauge("replays_playing", "Replays that play at present.", func() float64 { _, playing := a.replays.Running(); return float64(playing) }),
		counter("history_reads_refused", "Scans and exports refused because those under way took all of history.read_memory.", &a.readsRefused),
		counter("replays_started", "Replays made.", &s.Started),
		counter("replays_refused", "Replays refused because there were too many.", &s.Refused),
		counter("replay_messages", "Messages of the past that viewers of replays have taken.", &s.Events),
		counter("replay_bytes", "Bytes of these messages, as their devices sent them.", &s.Bytes),
	}
}

// transportMetrics are those of the device port; they exist once it is open.
func (a *App) transportMetrics() []metric {
	l, w := a.group.Stats(), a.sockets.Stats()
	read := func(n atomicNumber) func() float64 { return func() float64 { return float64(n.Load()) } }
	return []metric{
		counter("connections_accepted", "Device connections accepted.", &l.Accepted),
		counter("accept_errors", "Failed accepts, such as too many open files.", &l.AcceptErrors),
		counter("connections_refused", "Device connections refused before anything was read.", &l.Refused),
		counter("tls_errors", "TLS handshakes of devices that failed.", &l.TLSErrors),
		counter("tls_refused", "Device connections cut because their TLS handshake did not get its turn.", &l.TLSBusy),
		gauge("tls_handshakes", "TLS handshakes of devices under way.", read(&l.Handshakes)),
		counter("http_refused_address_limit", "Connections of people and programs refused because their address had too many.", &a.transports.public.refused),
		gauge("http_connections", "Open connections of people and programs.", func() float64 { return float64(len(a.transports.public.places)) }),
		counter("slow_readers", "Connections cut because their outbox was full.", &l.SlowReader),
		counter("read_pauses", "Times a connection was not read for a while.", &l.Pauses),
		counter("received_bytes", "Bytes received from devices.", &l.BytesIn),
		counter("sent_bytes", "Bytes sent to devices.", &l.BytesOut),
		counter("upgrades", "WebSocket upgrades.", &w.Upgraded),
		counter("upgrades_refused", "Upgrade requests answered with an HTTP error.", &w.Refused),
		counter("handshake_timeouts", "Connections cut because their upgrade request did not come in time.", &w.HandshakeTimeout),
		counter("protocol_violations", "Connections closed because of RFC 6455 or UTF-8.", &w.Violations),
		counter("frames_too_big", "Connections closed because a message was over the limit.", &w.TooBig),
		counter("ping_timeouts", "Connections cut because pings stayed unanswered.", &w.PingTimeouts),
		counter("messages", "Messages received from devices.", &w.Messages),
		gauge("connections", "Open device connections.", read(&l.Open)),
		gauge("connections_paused", "Device connections that are not read at present.", read(&l.Paused)),
	}
}

func (a *App) commandMetrics() []metric {
	of := func(pick func() float64, name, help string) metric { return metric{name: name, help: help, read: pick} }
	c := a.commands
	return []metric{
		of(func() float64 { return float64(c.Stats().Submitted) }, "commands_submitted", "Commands accepted."),
		of(func() float64 { return float64(c.Stats().Sent) }, "commands_sent", "Commands marked as sent."),
		of(func() float64 { return float64(c.Stats().Delivered) }, "commands_delivered", "Commands acknowledged by their device."),
		of(func() float64 { return float64(c.Stats().Succeeded) }, "commands_succeeded", "Commands that succeeded."),
		of(func() float64 { return float64(c.Stats().Failed) }, "commands_failed", "Commands that failed."),
		of(func() float64 { return float64(c.Stats().Expired) }, "commands_expired", "Commands that expired in the queue."),
		of(func() float64 { return float64(c.Stats().TimedOut) }, "commands_timed_out", "Commands without an answer in time."),
		of(func() float64 { return float64(c.Stats().Canceled) }, "commands_canceled", "Commands canceled."),
		of(func() float64 { return float64(c.Stats().Confirmed) }, "commands_confirmed", "Commands confirmed by telemetry."),
		of(func() float64 { return float64(c.Stats().Late) }, "commands_late", "Results that came after the time was over."),
		of(func() float64 { return float64(c.Stats().Ignored) }, "commands_answers_ignored", "Answers to unknown commands."),
		of(func() float64 { return float64(c.Stats().Missed) }, "commands_missed", "Commands marked as sent whose connection was gone when they were to be written."),
		of(func() float64 { return float64(c.Stats().Rows) }, "command_rows", "Rows written to the table of commands."),
		of(func() float64 { return float64(c.Stats().Rushed) }, "command_rows_rushed", "Writes of rows that did not wait for a row to be due, because too many were behind the log."),
		gauge("command_rows_behind", "Rows of the table of commands that are behind the log.", func() float64 { return float64(c.Stats().Behind) }),
		gauge("commands_held", "Commands in memory.", func() float64 { return float64(c.Stats().Held) }),
		gauge("commands_active", "Commands that have not ended.", func() float64 { return float64(c.Stats().Active) }),
		of(func() float64 { return float64(a.people.Backoff().Failures()) }, "people_login_failures", "Failed logins of people."),
		of(func() float64 { return float64(a.people.Backoff().Refused()) }, "people_logins_delayed", "Logins of people refused during a back-off."),
	}
}
