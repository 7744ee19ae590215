package app

import (
	"log/slog"
	"net/netip"
	"time"

	"signalbox/internal/api"
	"signalbox/internal/auth"
	"signalbox/internal/gateway/loop"
	"signalbox/internal/replay"
)

// Config is every setting of a hub. DefaultConfig gives the values a hub runs with when
// nothing is said, LoadConfig reads file, environment and flags over them. Sizes are in
// bytes. The names, limits and meanings that people see are in the table of config_keys.go.
type Config struct {
	// Data is the data directory: SQLite database, keys, socket and lock.
	Data string
	// Store is the URL of a database on a server, with or without the password; empty for
	// SQLite. It is shown by store.Redact alone. StorePasswordFile names a file with the password.
	Store             string
	StorePasswordFile string

	HTTP      HTTPConfig
	Devices   DevicesConfig
	MQTT      MQTTConfig
	Telemetry TelemetryConfig
	History   HistoryConfig
	Replay    ReplayConfig
	Compat    CompatConfig
	Live      LiveConfig
	Forward   ForwardConfig
	Commands  CommandsConfig
	Login     LoginConfig
	Log       LogConfig
	// ShutdownTimeout bounds an ordered stop.
	ShutdownTimeout time.Duration
}

// HTTPConfig is the port of people and programs.
type HTTPConfig struct {
	// Listen is host:port; an empty host means all addresses, port 0 any free port.
	Listen string
	// TrustedProxies are the networks whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// MaxBody bounds a request's body, MaxImport that of an import, in bytes, and up to 16 MiB that
	// of bulk commands.
	MaxBody   int
	MaxImport int
	// MaxConnections bounds open connections of the port; further ones wait to be accepted.
	// ConnectionsPerAddress bounds those of one address; further ones are refused.
	MaxConnections        int
	ConnectionsPerAddress int
	// PublicDocs and PublicMetrics open /docs and /metrics to callers without a credential.
	PublicDocs    bool
	PublicMetrics bool
	// TLS makes the port HTTPS when both files are named.
	TLS TLSConfig
}

// TLSConfig names a certificate chain and its key, both PEM; empty for none.
type TLSConfig struct {
	Cert string
	Key  string
}

// DevicesConfig is the port of devices and viewers.
type DevicesConfig struct {
	Listen string
	// Origins are the http(s) origins whose pages may connect; «null» admits that origin.
	Origins []string
	TLS     DevicesTLSConfig
	// MaxFrame bounds a message of a device, in bytes.
	MaxFrame int
	// MessagesPerSecond and Burst are one device's telemetry budget.
	MessagesPerSecond int
	Burst             int
	// ConnectionsPerAddress and MaxConnections bound open connections.
	ConnectionsPerAddress int
	MaxConnections        int
	// HandshakeTimeout is the time to a complete upgrade, AuthTimeout from there to a login.
	AuthTimeout      time.Duration
	HandshakeTimeout time.Duration
	// Outbox bounds what waits to be sent to one connection, in bytes.
	Outbox int
	// PingInterval is the silence after which a connection is pinged; PingMisses pings in
	// a row without an answer end it.
	PingInterval time.Duration
	PingMisses   int
	Backoff      BackoffConfig
}

// DevicesTLSConfig is a second device port that speaks TLS; Listen is empty for none.
type DevicesTLSConfig struct {
	Listen string
	Cert   string
	Key    string
	// Handshakes bounds the TLS handshakes that are done at a time.
	Handshakes int
}

// BackoffConfig slows failed logins of devices.
type BackoffConfig struct {
	// Failures in a row are free, the wait then doubles up to Max.
	Failures int
	Max      time.Duration
	// Remembered bounds how many names and addresses are kept in mind.
	Remembered int
	// DailyGuesses bounds the different wrong secrets checked of a device from one address.
	DailyGuesses int
}

// TelemetryConfig is what a device's message may hold.
type TelemetryConfig struct {
	MaxKeys  int
	MaxDepth int
	// Past and Future bound a device's own time stamp, from the time of receipt.
	Past   time.Duration
	Future time.Duration
}

// HistoryConfig is the durable log.
type HistoryConfig struct {
	// Mode is chunks, or plain for a table of telemetry beside them.
	Mode string
	// MaxWait bounds how long an entry waits for its commit to start, AckWait the same for
	// entries a device waits for.
	MaxWait time.Duration
	AckWait time.Duration
	// RowBytes is the size, before compression, at which a row of the log is closed.
	RowBytes int
	// MaxPending bounds what waits for a commit, Tail what is in no chunk yet, Cache is the
	// database's page cache, all in bytes.
	MaxPending int
	Tail       int
	Cache      int
	// Cold is how long a device is silent until it has nothing in Tail.
	Cold time.Duration
	// ReadMemory bounds what scans and exports take together, in bytes.
	ReadMemory int
	// Spool is how much the local disk takes while a database server is away, in bytes.
	Spool int
	// Keep says how much history is kept; without a rule all is.
	Keep []Keep
}

// ReplayConfig is history played again.
type ReplayConfig struct {
	// Max bounds the replays at the same time.
	Max int
}

// CommandsConfig is the command road.
type CommandsConfig struct {
	// Timeout is how long an answer is awaited when the command does not say.
	Timeout time.Duration
	// MaxActivePerDevice bounds the commands of one device that have not ended.
	MaxActivePerDevice int
	// MaxBulk bounds the devices of one bulk request.
	MaxBulk int
	// ConfirmWindow is how long after sending telemetry may confirm a command.
	ConfirmWindow time.Duration
	// Keep is how long ended commands are kept.
	Keep time.Duration
}

// LoginConfig is the login of people.
type LoginConfig struct {
	// BackoffMax is the longest wait after failed logins.
	BackoffMax time.Duration
	// Session is how long a browser stays logged in without use.
	Session time.Duration
}

// LogConfig is the hub's own log, on standard error.
type LogConfig struct {
	Level slog.Level
	// Format is text or json.
	Format string
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	day = 24 * time.Hour
)

// DefaultConfig gives the settings of a hub that was told nothing.
func DefaultConfig() Config {
	return Config{
		Data: "./data",
		HTTP: HTTPConfig{Listen: ":8080", MaxBody: mib, MaxImport: 256 * mib, MaxConnections: 4096, ConnectionsPerAddress: 1024},
		Devices: DevicesConfig{
			Listen:                ":8765",
			TLS:                   DevicesTLSConfig{Handshakes: loop.DefaultHandshakes},
			MaxFrame:              64 * kib,
			MessagesPerSecond:     1000,
			Burst:                 2000,
			ConnectionsPerAddress: 20_000,
			MaxConnections:        1_000_000,
			AuthTimeout:           10 * time.Second,
			HandshakeTimeout:      10 * time.Second,
			Outbox:                64 * kib,
			PingInterval:          20 * time.Second,
			PingMisses:            2,
			Backoff:               BackoffConfig{Failures: 5, Max: 30 * time.Second, Remembered: 65536, DailyGuesses: auth.DefaultDailyGuesses},
		},
		MQTT:      defaultMQTT(),
		Telemetry: TelemetryConfig{MaxKeys: 256, MaxDepth: 16, Past: 30 * day, Future: time.Minute},
		History: HistoryConfig{
			Mode: historyChunks, MaxWait: 50 * time.Millisecond, AckWait: 2 * time.Millisecond,
			RowBytes: 256 * kib, MaxPending: 16 * mib, Tail: 64 * mib, Cold: 10 * time.Minute, Spool: gib, Cache: 64 * mib, ReadMemory: api.DefaultReadMemory,
		},
		Replay:  ReplayConfig{Max: replay.DefaultMax},
		Compat:  defaultCompat(),
		Live:    defaultLive(),
		Forward: defaultForward(),
		Commands: CommandsConfig{
			Timeout: 30 * time.Second, MaxActivePerDevice: 256, MaxBulk: 100_000,
			ConfirmWindow: time.Minute, Keep: 30 * day,
		},
		Login:           LoginConfig{BackoffMax: time.Minute, Session: 30 * day},
		Log:             LogConfig{Level: slog.LevelInfo, Format: "text"},
		ShutdownTimeout: 10 * time.Second,
	}
}
