package gateway

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/gateway/ws"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/wire"
)

// Subprotocol asks for version 2 in the upgrade request.
const Subprotocol = "signalbox.v2"

// Config is the gateway's limits. Zero values take the defaults.
type Config struct {
	// Limits bound a telemetry object.
	Limits wire.Limits
	// MaxFrame bounds a message after login, in bytes (default 64 KiB); before it 4 KiB.
	MaxFrame int
	// MessagesPerSecond and Burst bound one device's telemetry (defaults 1,000 and twice that).
	MessagesPerSecond, Burst int
	// AuthTimeout is how long a connection may take to log in (default 10 s).
	AuthTimeout time.Duration
	// PerAddress and MaxConnections bound open connections (defaults 20,000 and 1,000,000).
	PerAddress, MaxConnections int
	// Origins are the http(s) origins whose pages may connect; a device has none.
	Origins []string
	// Heartbeat is told to version 2 devices: how often the hub looks whether they live.
	Heartbeat time.Duration
	Logger    *slog.Logger
}

func (c *Config) defaults() {
	def := func(v *int, to int) {
		if *v <= 0 {
			*v = to
		}
	}
	def(&c.Limits.Depth, wire.DefaultDepth)
	def(&c.Limits.Keys, wire.DefaultKeys)
	def(&c.MaxFrame, 64<<10)
	def(&c.MessagesPerSecond, 1000)
	def(&c.Burst, 2*c.MessagesPerSecond)
	def(&c.PerAddress, 20_000)
	def(&c.MaxConnections, 1_000_000)
	if c.AuthTimeout <= 0 {
		c.AuthTimeout = 10 * time.Second
	}
	if c.Heartbeat <= 0 {
		c.Heartbeat = 20 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Commands is what the gateway needs of the command road.
type Commands interface {
	// Online is told of a session that can be delivered to; Ack and Result of the answers of
	// version 2 devices. None of them blocks.
	Online(s *session.Session)
	Ack(s *session.Session, id string)
	Result(s *session.Session, id string, ok bool, value json.RawMessage, errText string)
}

// Commits is what the gateway needs of the log.
type Commits interface {
	Committed() signalbox.Position
	OnCommit(f func(signalbox.Position))
	Err() error
}

// Viewers takes connections on that turn out to be no devices but original viewers. None of its
// methods blocks.
type Viewers interface {
	// Asks tells whether the text that comes first on a connection is a viewer's.
	Asks(text []byte) bool
	// AdmitsNull tells whether a page of the Origin null may connect from an address; it may only
	// be a viewer then.
	AdmitsNull(address netip.Addr) bool
	// Live gives the endpoint that takes a viewer's connection on, or refuses it.
	Live() ws.Endpoint
}

// Parts are what the gateway joins.
type Parts struct {
	Devices  *registry.Registry
	Sessions *session.Table
	Ingest   *ingest.Road
	Commands Commands
	Log      Commits
	Logins   *auth.DeviceLogins
	Viewers  Viewers // nil: there are none, and their words are those of no device
}

// Stats counts since the start.
type Stats struct {
	Logins, LoginFailures, LoginsDelayed, AuthRequired, AuthTimeouts atomic.Int64
	Replaced, Rivals, RateLimited, Pushback, Invalid, TooComplex     atomic.Int64
	Replayed                                                         atomic.Int64
	AddressLimit, ConnectionLimit, OriginRefused, BadFrames          atomic.Int64
	CommandsWritten, CommandsUnwritten, Saved                        atomic.Int64
}

// Gateway is the handler of upgrades and the owner of device connections.
type Gateway struct {
	Parts
	cfg   Config
	stats Stats
	acks  acks
	rival rivals
	said  refusals

	mu        sync.Mutex
	addresses map[netip.Addr]int
	open      int

	began time.Time
}

// now is the time since the gateway began, by a clock that cannot be set.
func (g *Gateway) now() time.Duration { return time.Since(g.began) }

// New makes a gateway. Call it before the log runs.
func New(cfg Config, parts Parts) *Gateway {
	cfg.defaults()
	g := &Gateway{Parts: parts, cfg: cfg, addresses: make(map[netip.Addr]int), began: time.Now()}
	g.acks.init()
	g.rival.init()
	g.said.init(cfg.Logger)
	parts.Log.OnCommit(g.acks.committed)
	return g
}

// Stats gives the live counters.
func (g *Gateway) Stats() *Stats { return &g.stats }

// Run tells version 2 devices what is saved, and the log what it has not said yet of refused
// logins, until ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { g.said.run(ctx) })
	return g.runAcks(ctx)
}

// slack is how many connections beyond a limit are still told why they are refused.
func slack(limit int) int { return min(max(limit/16, 16), maxSlack) }

const maxSlack = 256

// Reach is how many connections may be open at a time when limit of them are served: the
// rest is being told that there are too many.
func Reach(limit int) int { return limit + slack(limit) }

// Enter implements ws.Gate: it counts connections by address. Those over the limit are
// refused with words by Upgrade; those far over it without.
func (g *Gateway) Enter(remote netip.AddrPort) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	address := remote.Addr()
	if n := g.addresses[address]; n >= Reach(g.cfg.PerAddress) {
		g.stats.AddressLimit.Add(1)
		return signalbox.Errorf(signalbox.KindLimited, "too_many_connections", "%s has %d connections", address, n)
	}
	if g.open >= Reach(g.cfg.MaxConnections) {
		g.stats.ConnectionLimit.Add(1)
		return signalbox.Errorf(signalbox.KindLimited, "too_many_connections", "there are %d connections", g.open)
	}
	g.addresses[address]++
	g.open++
	return nil
}

// Leave implements ws.Gate.
func (g *Gateway) Leave(remote netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	if g.addresses[remote.Addr()]--; g.addresses[remote.Addr()] <= 0 {
		delete(g.addresses, remote.Addr())
	}
}

// Crowded tells that there are too many connections, of the address or in all, and how an upgrade of
// one more is answered; nil: there is room. It is for upgrades on other ports that have the gateway
// for their ws.Gate.
func (g *Gateway) Crowded(address netip.Addr) *ws.Refusal { return g.crowded(address) }

func (g *Gateway) crowded(address netip.Addr) *ws.Refusal {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.addresses[address] > g.cfg.PerAddress {
		g.stats.AddressLimit.Add(1)
		return &ws.Refusal{Status: 429, Text: "Too many connections from your address."}
	}
	if g.open > g.cfg.MaxConnections {
		g.stats.ConnectionLimit.Add(1)
		return &ws.Refusal{Status: 503, Text: "The hub has as many connections as it is allowed to."}
	}
	return nil
}

// Upgrade implements ws.Handler.
func (g *Gateway) Upgrade(r *ws.Request) (ws.Endpoint, *ws.Refusal) {
	address := r.RemoteAddr().Addr()
	if refusal := g.crowded(address); refusal != nil {
		return nil, refusal
	}
	c := &conn{g: g, opened: g.now()}
	if origin := r.Header("Origin"); !g.admits(origin) {
		if origin != "null" || g.Viewers == nil || !g.Viewers.AdmitsNull(address) {
			g.stats.OriginRefused.Add(1)
			return nil, &ws.Refusal{Status: 403, Text: "Pages of this origin may not connect to the device port; the setting devices.origins admits them."}
		}
		c.viewer = true
		return c, nil
	}
	if r.Choose(Subprotocol) {
		c.asked = signalbox.ProtocolV2
	}
	if name, secret, ok := r.BasicAuth(); ok {
		d, version, err := g.check(credentials{name: []byte(name), secret: []byte(secret)}, address)
		if err != nil {
			return nil, &ws.Refusal{Status: 401, Text: err.Message}
		}
		c.asked, c.admitted, c.version = signalbox.ProtocolV2, d, version
	}
	return c, nil
}

// Admits tells whether a page of that Origin header may connect, on any port of devices;
// RefuseOrigin counts one that was refused.
func (g *Gateway) Admits(origin string) bool { return g.admits(origin) }

// RefuseOrigin counts an upgrade that was refused because of its Origin header.
func (g *Gateway) RefuseOrigin(string) { g.stats.OriginRefused.Add(1) }

// admits tells whether a connection with this Origin header may come in: boards send none,
// or file://; pages only from configured origins.
func (g *Gateway) admits(origin string) bool {
	return origin == "" || origin == "file://" || slices.Contains(g.cfg.Origins, origin)
}
