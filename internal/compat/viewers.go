package compat

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/bus"
	"signalbox/internal/gateway/ws"
	"signalbox/internal/registry"
)

// Defaults and fixed limits of the original viewers.
const (
	DefaultViewers       = 1000
	DefaultViewerOutbox  = 32 << 10 // bytes
	DefaultViewerSilence = 10 * time.Second
	DefaultAskTimeout    = 10 * time.Second
	DefaultPatience      = 30 * time.Second
	DefaultAhead         = 1000
	askWorkers           = 2

	// viewerText bounds a text of a viewer, in bytes; a longer one closes the connection (1009).
	viewerText = 1 << 10
	// textBurst texts come at once, after that textRate a second; then a viewer is not read for
	// textWait.
	textBurst = 200
	textRate  = 100
	textWait  = 10 * time.Millisecond
	// backlogWait is how long a viewer is not read that does not read what it is sent.
	backlogWait = 5 * time.Millisecond
	// viewerQueue bounds the readings that wait for Run.
	viewerQueue = 1 << 14
)

// ViewersConfig tells who may watch what. Zero values take the defaults.
type ViewersConfig struct {
	// Device and Field name what viewers are shown; with one of them empty viewers are off. The
	// device need not exist yet. Field may be a dotted path.
	Device, Field string
	// Allow are the networks whose viewers are admitted; none: nobody is.
	Allow []netip.Prefix
	// Crowded, if not nil, tells of an address that has too many connections to the history port and
	// its kin, and how an upgrade of one more is answered; it must not block.
	Crowded func(netip.Addr) *ws.Refusal
	// Origins are the http(s) origins whose pages may connect to the history port; NullOrigin
	// lets pages in whose origin is null (a file in a browser), on both ports.
	Origins    []string
	NullOrigin bool
	// Zone is that of the times which viewers see (default the machine's).
	Zone *time.Location
	// Max is how many viewers there may be at a time, on both ports.
	Max int
	// Outbox bounds what waits to be sent to one viewer, in bytes. It has to be 1 KiB less than the
	// transport's own limit, at least, which cuts without a word.
	Outbox int
	// Silence is how long a connection of the history port may say nothing.
	Silence time.Duration
	// AskTimeout bounds a question to history, its wait for a worker included.
	AskTimeout time.Duration
	// Patience is how long a viewer may ask for more than it reads of what it is sent: it is not
	// read then, and closed after that.
	Patience time.Duration
	// Ahead is how many texts a viewer may send ahead of being read, about; it is closed then. What
	// a viewer has sent is read to the end when it has gone, and must not keep the hub busy for hours.
	Ahead  int
	Logger *slog.Logger
}

func (c *ViewersConfig) defaults() {
	if c.Max <= 0 {
		c.Max = DefaultViewers
	}
	if c.Outbox <= 0 {
		c.Outbox = DefaultViewerOutbox
	}
	if c.Silence <= 0 {
		c.Silence = DefaultViewerSilence
	}
	if c.AskTimeout <= 0 {
		c.AskTimeout = DefaultAskTimeout
	}
	if c.Patience <= 0 {
		c.Patience = DefaultPatience
	}
	if c.Ahead <= 0 {
		c.Ahead = DefaultAhead
	}
	if c.Zone == nil {
		c.Zone = time.Local //nolint:gosmopolitan // the original's times are the machine's
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	allow := make([]netip.Prefix, len(c.Allow))
	for i, p := range c.Allow {
		allow[i] = signalbox.Network(p)
	}
	c.Allow = allow
}

// ViewersLog is what viewers need of the log.
type ViewersLog interface {
	Head() signalbox.Position
	PageAt(ctx context.Context, device signalbox.DeviceID, n int64, limit int) ([]signalbox.Telemetry, error)
}

// ViewersParts are what viewers work with.
type ViewersParts struct {
	Log     ViewersLog
	Bus     *bus.Bus
	Devices *registry.Registry
}

// ViewersStats counts since the start.
type ViewersStats struct {
	Open, Watching atomic.Int64 // gauges: viewers, and those that said realtime

	Refused       atomic.Int64 // their network is not admitted, or viewers are off
	OriginRefused atomic.Int64 // upgrades of the history port
	Crowded       atomic.Int64 // refused because there were too many
	Readings      atomic.Int64 // frames made of readings
	Delivered     atomic.Int64 // frames handed to viewers
	Slow          atomic.Int64 // viewers closed because their outbox was full
	Overflows     atomic.Int64 // times that readings came faster than they could be handed out
	Missed        atomic.Int64 // readings missed in these
	Lost          atomic.Int64 // viewers closed because of that
	Ignored       atomic.Int64 // texts that mean nothing
	Flooded       atomic.Int64 // viewers closed because they went on with that
	Limited       atomic.Int64 // times a viewer sent too much and was not read for a while
	Asked         atomic.Int64 // questions to history
	Rows          atomic.Int64 // rows in the answers
	Faults        atomic.Int64 // questions answered with an error
}

// Viewers serves the original viewers of the M2M chain. The zero Viewers is not ready; see
// NewViewers.
type Viewers struct {
	cfg   ViewersConfig
	parts ViewersParts
	stats ViewersStats
	began time.Time
	sub   *bus.Subscription // nil when viewers are off
	asks  chan question

	// What the bus's filter knows of devices, and Run learns: the device's number, 0 while there
	// is none, and the highest number that was looked at. Numbers only grow and names stay, so
	// that a number above the highest is the only one that can be news.
	device, highest atomic.Uint64
	failing         atomic.Bool // history gave no answer the last time

	mu       sync.Mutex
	watching map[*liveViewer]struct{}
	list     []*liveViewer // of watching; nil when it has to be made again
}

// NewViewers makes the viewers' side. What is read from now on reaches those who watch once Run
// runs. It listens to the bus if viewers are not off.
func NewViewers(cfg ViewersConfig, parts ViewersParts) *Viewers {
	cfg.defaults()
	v := &Viewers{cfg: cfg, parts: parts, began: time.Now(), asks: make(chan question, cfg.Max), watching: make(map[*liveViewer]struct{})}
	if v.On() {
		v.learn(0)
		v.sub = parts.Bus.Subscribe(bus.Options{Entries: viewerQueue, Want: v.wants})
	}
	return v
}

// On tells whether there is something to show.
func (v *Viewers) On() bool { return v.cfg.Device != "" && v.cfg.Field != "" }

// Stats gives the live counters.
func (v *Viewers) Stats() *ViewersStats { return &v.stats }

// now is the time since the start, by a clock that cannot be set.
func (v *Viewers) now() time.Duration { return time.Since(v.began) }

// Run hands readings out and answers questions until ctx ends. It is called once.
func (v *Viewers) Run(ctx context.Context) error {
	if !v.On() {
		<-ctx.Done()
		return nil
	}
	defer v.sub.Close()
	var work sync.WaitGroup
	defer work.Wait()
	for range askWorkers {
		work.Go(func() { v.answerAll(ctx) })
	}
	var entries []signalbox.Entry
	for {
		var missed int64
		var err error
		if entries, missed, err = v.sub.Next(ctx, entries[:0]); err != nil {
			return nil // an ordered end
		}
		v.announce(entries)
		if missed > 0 {
			v.lost(missed)
		}
	}
}

// wants is the bus's filter; it runs on the road of every device.
func (v *Viewers) wants(e *signalbox.Entry) bool {
	d := uint64(e.Device)
	return e.Kind == signalbox.EntryTelemetry && (d == v.device.Load() || d > v.highest.Load())
}

// learn looks whether the device is there by now, as a number higher than any before was seen.
func (v *Viewers) learn(seen signalbox.DeviceID) {
	d := v.parts.Devices.Find(v.cfg.Device)
	if d != nil {
		v.device.Store(uint64(d.ID))
		seen = max(seen, d.ID)
	} else {
		v.device.Store(0)
	}
	v.highest.Store(max(v.highest.Load(), uint64(seen)))
}

// admits tells whether viewers of an address are admitted.
func (v *Viewers) admits(address netip.Addr) bool {
	address = address.Unmap().WithZone("")
	return v.On() && slices.ContainsFunc(v.cfg.Allow, func(p netip.Prefix) bool { return p.Contains(address) })
}

// AdmitsNull tells whether a page without an origin of its own, at this address, may connect: as
// a viewer alone.
func (v *Viewers) AdmitsNull(address netip.Addr) bool { return v.cfg.NullOrigin && v.admits(address) }

// Asks tells whether the text that comes first on a connection of the device port is a viewer's.
func (v *Viewers) Asks(text []byte) bool {
	return string(text) == wordHello || string(text) == wordRealtime
}

// Live gives the endpoint of a live viewer; its connection's first text is handed to it, too.
func (v *Viewers) Live() ws.Endpoint { return &liveViewer{seat: seat{v: v}} }

// History is the handler of the history port.
func (v *Viewers) History() ws.Handler { return historyDoor{v} }

// seat is one viewer's connection, on either port. Its fields belong to the connection's event
// loop but for ended.
type seat struct {
	v        *Viewers
	ws       *ws.Conn
	refilled time.Duration // the budget of texts, on the clock of Viewers.now
	spent    int
	ahead    int         // texts that came long before they could be read; falls again when others do not
	taken    bool        // it counts among the viewers
	ended    atomic.Bool // nothing more is sent or taken
}

func (s *seat) open(c *ws.Conn) {
	s.ws = c
	c.SetMessageLimit(viewerText)
}

// take admits the viewer, or refuses it with words.
func (s *seat) take() bool {
	v := s.v
	switch {
	case !v.On():
		v.stats.Refused.Add(1)
		s.refuse(ws.CodePolicy, "viewers are off", "This hub shows nothing to viewers; the section compat.viewers of its configuration turns them on.")
	case !v.admits(s.ws.RemoteAddr().Addr()):
		v.stats.Refused.Add(1)
		s.refuse(ws.CodePolicy, "your network is not admitted", "Viewers of your network are not admitted; the setting compat.viewers.allow of the hub lists those that are.")
	case v.stats.Open.Add(1) > int64(v.cfg.Max):
		v.stats.Open.Add(-1)
		v.stats.Crowded.Add(1)
		s.refuse(ws.CodeTryLater, "too many viewers", "The hub has as many viewers as are allowed at a time; try again later.")
	default:
		s.taken = true
	}
	return s.taken
}

// refuse says why and closes.
func (s *seat) refuse(code uint16, reason, words string) {
	_ = s.ws.Send(appendError(nil, words)) // the connection may have ended
	s.end(code, reason)
}

// end closes the connection, once, and tells whether it was this call that did.
func (s *seat) end(code uint16, reason string) bool {
	if !s.ended.CompareAndSwap(false, true) {
		return false
	}
	_ = s.ws.SendClose(code, reason) // all reasons here are short
	return true
}

// leave is what Closed has to do.
func (s *seat) leave() {
	s.ended.Store(true)
	if s.taken {
		s.taken = false
		s.v.stats.Open.Add(-1)
	}
}

// tooFast takes a text out of the viewer's budget, or says how long not to read.
func (s *seat) tooFast() time.Duration {
	const each = time.Second / textRate
	now := s.v.now()
	if fresh := (now - s.refilled) / each; fresh > 0 {
		s.spent = max(0, s.spent-int(min(fresh, textBurst)))
		s.refilled += fresh * each
	}
	if s.spent >= textBurst {
		s.v.stats.Limited.Add(1)
		return textWait
	}
	s.spent++
	return 0
}

// floods counts a text that is read now, and tells whether the viewer was closed because it has
// sent too many ahead; early says that this one had to wait.
func (s *seat) floods(early bool) bool {
	const forgive = 5 // a quick one may be early now and then
	if !early {
		s.ahead = max(0, s.ahead-forgive)
		return false
	}
	s.ahead++
	if s.ahead <= s.v.cfg.Ahead {
		return false
	}
	if s.end(ws.CodePolicy, "sends too much") {
		s.v.stats.Flooded.Add(1)
	}
	return true
}

// offer sends a frame, unless too much waits already: then the viewer is closed (policy
// slow_viewer). It reports whether the frame is on its way. Any goroutine may call it.
func (s *seat) offer(frame []byte) bool {
	if s.ended.Load() {
		return false
	}
	if s.ws.Queued()+len(frame) > s.v.cfg.Outbox {
		s.slow()
		return false
	}
	return s.ws.Send(frame) == nil
}

// backlog tells whether so much waits to be sent that an answer more might not fit.
func (s *seat) backlog() bool { return s.ws.Queued() > s.v.cfg.Outbox/2 }

// slow closes a viewer that does not read what it is sent.
func (s *seat) slow() {
	if s.end(ws.CodeTryLater, "reads too slowly") {
		s.v.stats.Slow.Add(1)
	}
}

// greet answers hello.
func (s *seat) greet() {
	for _, frame := range greetings {
		if !s.offer([]byte(frame)) {
			return
		}
	}
}

// ignore passes over what means nothing.
func (s *seat) ignore() { s.v.stats.Ignored.Add(1) }
