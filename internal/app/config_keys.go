package app

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"signalbox/internal/api"
	"signalbox/internal/registry"
)

// settings is the one list of all keys, in the order in which they are documented. A
// test holds that it covers every field of Config.
func settings() []setting {
	var all []setting
	for _, section := range [][]setting{
		placeSettings(), httpSettings(), deviceSettings(), mqttSettings(), homeAssistantSettings(), mqttLimitSettings(), telemetrySettings(), historySettings(), replaySettings(), compatSettings(), liveSettings(), forwardSettings(), commandSettings(), peopleSettings(),
	} {
		all = append(all, section...)
	}
	return all
}

// sections says what each group of keys is about, by its first word.
func sections() map[string]string {
	return map[string]string{
		"http":               "The port of people and programs: the page, the HTTP API, metrics.",
		"http.tls":           "HTTPS: with both files the port speaks TLS.",
		"devices":            "The port of devices: WebSocket, on any path.",
		"devices.tls":        "A second port for devices, which speaks TLS.",
		"devices.backoff":    "Failed logins of devices, counted per name-and-address and per address, never per name alone.",
		"mqtt":               "The port of MQTT clients, 3.1.1 and 5.0. They are served over WebSocket, too: at /mqtt of the HTTP port.",
		"mqtt.tls":           "MQTT with TLS: with both files a second port is opened.",
		"mqtt.homeassistant": "Shows the devices in Home Assistant; docs/mqtt-homeassistant.md has all of it.",
		"mqtt.limits":        "What MQTT clients may use, and what the broker keeps for them.",
		"telemetry":          "What one message of a device may hold.",
		"history":            "The durable log.",
		"compat.viewers":     "The viewers of the original M2M chain; docs/viewers.md has all of it. Off unless device and field are set.",
		"replay":             "History played again, as if it came now.",
		"forward":            "What goes on to other computers; docs/forward.md has all of it.",
		"live":               "The stream of what happens: people's pages, controllers, signalbox watch.",
		"commands":           "Commands to devices.",
		"login":              "Logins of people.",
		"log":                "What the hub says about itself, on standard error.",
	}
}

const listenAllowed = "host:port; an empty host means every address, port 0 any free port"

func placeSettings() []setting {
	notEmpty := func(s string) error {
		if s == "" {
			return errors.New("it is empty")
		}
		return nil
	}
	return append([]setting{
		text("data", "a directory's path", func(c *Config) *string { return &c.Data }, notEmpty).
			means("The data directory: SQLite database, keys, socket and lock. It is made if it is missing, for its owner alone."),
		duration("shutdown_timeout", func(c *Config) *time.Duration { return &c.ShutdownTimeout }, time.Second, 10*time.Minute).
			means("How long an ordered stop may take before what is left is cut off. What was acknowledged is on disk already."),
	}, storeSettings()...)
}

func httpSettings() []setting {
	return []setting{
		address("http.listen", listenAllowed, func(c *Config) *string { return &c.HTTP.Listen }, false).
			means("The address people and programs connect to."),
		networks("http.trusted_proxies", func(c *Config) *[]netip.Prefix { return &c.HTTP.TrustedProxies }).
			means("The proxies whose X-Forwarded-For is believed, for log, back-off and limits. Empty: none is, and the peer's own address counts."),
		size("http.max_body", func(c *Config) *int { return &c.HTTP.MaxBody }, 64*kib, gib).
			means("The largest request body that is read; a larger one is answered with 413."),
		size("http.max_import", func(c *Config) *int { return &c.HTTP.MaxImport }, mib, 4*gib).
			means("The same for imports, and for commands to many devices at once, of which 16MiB are read at most."),
		number("http.max_connections", func(c *Config) *int { return &c.HTTP.MaxConnections }, 1, 1_000_000).
			means("The most connections of people and programs at the same time; further ones wait to be accepted, so that devices keep their share of the system's open files."),
		number("http.connections_per_address", func(c *Config) *int { return &c.HTTP.ConnectionsPerAddress }, 1, 1_000_000).
			means("How many of them one network address may hold open (IPv6: a /64 network); further ones are answered with 429, or cut. Trusted proxies are not concerned."),
		truth("http.public_docs", func(c *Config) *bool { return &c.HTTP.PublicDocs }).
			means("Opens /docs to callers without a credential. From this machine it is always open."),
		truth("http.public_metrics", func(c *Config) *bool { return &c.HTTP.PublicMetrics }).
			means("Opens /metrics to callers without a credential. From this machine it is always open."),
		path("http.tls.cert", func(c *Config) *string { return &c.HTTP.TLS.Cert }).
			means("The certificate chain, PEM. Needs http.tls.key."),
		path("http.tls.key", func(c *Config) *string { return &c.HTTP.TLS.Key }).
			means("The certificate's private key, PEM. Needs http.tls.cert."),
	}
}

func deviceSettings() []setting {
	return []setting{
		address("devices.listen", listenAllowed, func(c *Config) *string { return &c.Devices.Listen }, false).
			means("The address devices connect to."),
		origins("devices.origins", func(c *Config) *[]string { return &c.Devices.Origins }).
			means("The web pages that may connect to this port. Boards send no Origin or file:// and are not concerned."),
		address("devices.tls.listen", "host:port, or empty for no such port", func(c *Config) *string { return &c.Devices.TLS.Listen }, true).
			means("The address devices connect to with TLS. Needs both files below."),
		path("devices.tls.cert", func(c *Config) *string { return &c.Devices.TLS.Cert }).
			means("The certificate chain, PEM."),
		path("devices.tls.key", func(c *Config) *string { return &c.Devices.TLS.Key }).
			means("The certificate's private key, PEM."),
		number("devices.tls.handshakes", func(c *Config) *int { return &c.Devices.TLS.Handshakes }, 4, 65536).
			means("How many TLS handshakes are done at the same time, a quarter of them with one address. 16 times as many wait for their turn, further ones are cut."),
		size("devices.max_frame", func(c *Config) *int { return &c.Devices.MaxFrame }, kib, 16*mib).
			means("The largest message a device may send; a larger one closes the connection with code 1009."),
		number("devices.messages_per_second", func(c *Config) *int { return &c.Devices.MessagesPerSecond }, 1, 1_000_000).
			means("How many messages a second one device may send for long. Beyond it the hub reads that connection more slowly; nothing is dropped."),
		number("devices.burst", func(c *Config) *int { return &c.Devices.Burst }, 1, registry.MaxBurst).
			means("How many messages a device may send at once before the limit above holds."),
		number("devices.connections_per_address", func(c *Config) *int { return &c.Devices.ConnectionsPerAddress }, 1, 10_000_000).
			means("How many connections one network address may hold open. Many sites put a whole fleet behind one address."),
		number("devices.max_connections", func(c *Config) *int { return &c.Devices.MaxConnections }, 1, 10_000_000).
			means("How many connections the port holds open in all. Fewer if the system's limit on open files allows fewer."),
		duration("devices.auth_timeout", func(c *Config) *time.Duration { return &c.Devices.AuthTimeout }, 100*time.Millisecond, 10*time.Minute).
			means("How long a connection may stay without a successful login."),
		duration("devices.handshake_timeout", func(c *Config) *time.Duration { return &c.Devices.HandshakeTimeout }, 100*time.Millisecond, 10*time.Minute).
			means("How long the WebSocket upgrade, and the TLS handshake before it with the wait for its turn, may take."),
		size("devices.outbox", func(c *Config) *int { return &c.Devices.Outbox }, 8*kib, 64*mib).
			means("How much may wait to be sent to one device; one that reads slower is disconnected."),
		duration("devices.ping_interval", func(c *Config) *time.Duration { return &c.Devices.PingInterval }, 100*time.Millisecond, time.Hour).
			means("The silence after which a device is pinged."),
		number("devices.ping_misses", func(c *Config) *int { return &c.Devices.PingMisses }, 1, 100).
			means("How many pings in a row may stay unanswered; then the device is offline."),
		number("devices.backoff.failures", func(c *Config) *int { return &c.Devices.Backoff.Failures }, 1, 1000).
			means("How many failed logins are free; after them the wait doubles each time."),
		duration("devices.backoff.max", func(c *Config) *time.Duration { return &c.Devices.Backoff.Max }, time.Second, day).
			means("The longest wait between two attempts."),
		number("devices.backoff.remembered", func(c *Config) *int { return &c.Devices.Backoff.Remembered }, 1024, 10_000_000).
			means("How many names and addresses are kept in mind; the oldest are forgotten first."),
		number("devices.backoff.daily_guesses", func(c *Config) *int { return &c.Devices.Backoff.DailyGuesses }, 5, 1_000_000).
			means("How many different wrong secrets a day are checked of a device with a chosen secret from one address. When they are used up, a secret from there, right or wrong, is checked once in as large a part of a day: 50 make half an hour."),
	}
}

func telemetrySettings() []setting {
	return []setting{
		number("telemetry.max_keys", func(c *Config) *int { return &c.Telemetry.MaxKeys }, 1, 65536).
			means("How many keys a message may have, nested ones counted."),
		number("telemetry.max_depth", func(c *Config) *int { return &c.Telemetry.MaxDepth }, 1, 256).
			means("How deep objects and lists in a message may be nested."),
		duration("telemetry.past", func(c *Config) *time.Duration { return &c.Telemetry.Past }, 0, 36500*day).
			means("How old a device's own time stamp may be and still be believed; an older one is replaced by the time of receipt."),
		duration("telemetry.future", func(c *Config) *time.Duration { return &c.Telemetry.Future }, 0, 365*day).
			means("How far ahead of the hub's clock a device's time stamp may be; one further ahead is replaced by the time of receipt."),
	}
}

func historySettings() []setting {
	return []setting{
		word("history.mode", func(c *Config) *string { return &c.History.Mode }, historyChunks, historyPlain).
			means("How history is kept: in compressed chunks, or in these and beside them in the plain table telemetry with a row a message, for SQL of your own: 160 to 235 bytes a message more, see history.md."),
		duration("history.max_wait", func(c *Config) *time.Duration { return &c.History.MaxWait }, time.Millisecond, 50*time.Millisecond).
			means("The longest a message waits for its commit to start. A commit starts as soon as the one before has ended."),
		duration("history.ack_wait", func(c *Config) *time.Duration { return &c.History.AckWait }, 0, 50*time.Millisecond).
			means("The same for messages a device waits for. Longer gathers more in one commit, shorter answers sooner."),
		size("history.row_bytes", func(c *Config) *int { return &c.History.RowBytes }, 4*kib, 16*mib).
			means("The size, before compression, at which a row of the log is closed."),
		size("history.max_pending", func(c *Config) *int { return &c.History.MaxPending }, mib, 16*gib).
			means("How much may wait in memory for its commit. Beyond it devices are read more slowly and requests are refused; nothing is dropped."),
		size("history.tail", func(c *Config) *int { return &c.History.Tail }, mib, 64*gib).
			means("How much memory the messages may take that are not in a chunk yet. More makes better chunks where there are very many devices."),
		duration("history.cold", func(c *Config) *time.Duration { return &c.History.Cold }, time.Second, 365*day).
			means("How long a device is silent until its messages go into a chunk, even a small one, and it takes no memory for them. Small chunks are merged later."),
		size("history.spool", func(c *Config) *int { return &c.History.Spool }, mib, 1024*gib).
			means("How much telemetry the data directory takes while the database server (store) is away. It goes into the database when the server is back; beyond it devices are read no more until then."),
		list("history.keep", "a list of rules", []string{"90d", "type:station 30d", "device:esp01 1GiB 365d"}, func(c *Config) *[]Keep { return &c.History.Keep }, parseKeep, Keep.String).
			means("How much history is kept: an age, a size of one device, or both; for all devices, those of a type, or one. A device's own rule counts before its type's, and that before the one for all. What is older, or more, is dropped every ten minutes, by whole chunks of up to 1,024 messages. Empty: all is kept."),
		size("history.cache", func(c *Config) *int { return &c.History.Cache }, mib, 64*gib).
			means("The database's page cache."),
		size("history.read_memory", func(c *Config) *int { return &c.History.ReadMemory }, api.MinReadMemory, 64*gib).
			means("How much memory scans of many devices and exports may take together, counted as 64MiB each, an export to CSV or Parquet as 128MiB. One more than fits is answered with 429."),
	}
}

func replaySettings() []setting {
	return []setting{
		number("replay.max", func(c *Config) *int { return &c.Replay.Max }, 1, 10_000).
			means("How many replays there may be at the same time, paused ones and those that wait for their viewer included; one more is refused."),
	}
}

func commandSettings() []setting {
	return []setting{
		duration("commands.timeout", func(c *Config) *time.Duration { return &c.Commands.Timeout }, time.Millisecond, day).
			means("How long a device's answer is awaited when the command does not say."),
		number("commands.max_active_per_device", func(c *Config) *int { return &c.Commands.MaxActivePerDevice }, 1, 100_000).
			means("How many commands of one device may be waiting, for delivery or for an answer; one more is refused."),
		number("commands.max_bulk", func(c *Config) *int { return &c.Commands.MaxBulk }, 1, 1_000_000).
			means("How many devices one bulk request may address."),
		duration("commands.confirm_window", func(c *Config) *time.Duration { return &c.Commands.ConfirmWindow }, 0, day).
			means("How long after sending, telemetry that shows the commanded value confirms the command."),
		duration("commands.keep", func(c *Config) *time.Duration { return &c.Commands.Keep }, time.Minute, 36500*day).
			means("How long ended commands, and their idempotency keys, are kept."),
	}
}

func peopleSettings() []setting {
	return []setting{
		duration("login.backoff_max", func(c *Config) *time.Duration { return &c.Login.BackoffMax }, time.Second, day).
			means("The longest wait after failed logins of people."),
		duration("login.session", func(c *Config) *time.Duration { return &c.Login.Session }, time.Minute, 3650*day).
			means("How long a browser stays logged in without being used."),
		level("log.level", func(c *Config) *slog.Level { return &c.Log.Level }).
			means("The least important messages that are still written."),
		word("log.format", func(c *Config) *string { return &c.Log.Format }, "text", "json").
			means("How a message is written: for people or for programs."),
	}
}
