package remote

import (
	"context"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/mapped"
	"signalbox/internal/wire"
)

// Taker takes messages; package mapped's Map is it. Its methods never block.
type Taker interface {
	Take(t *mapped.Taking) mapped.Verdict
	// Afresh says, before any message of a connection, that the broker had kept nothing of the
	// link's session: what it said of devices before may not be so any more.
	Afresh()
	// Returned says that commands can go out by the link again; kept that the broker had kept its
	// session.
	Returned(link mapped.Link, kept bool)
}

// Log tells what is on disk; history.Log is it.
type Log interface {
	Committed() signalbox.Position
	OnCommit(f func(signalbox.Position))
}

// Parts are what a link is joined to.
type Parts struct {
	Taker Taker
	Log   Log
	// Identity is that of the hub's data directory, from which client identifiers are made.
	Identity string
	Logger   *slog.Logger
}

// Stats counts since the start.
type Stats struct {
	// Connected is 1 or 0.
	Connected atomic.Int64
	// Received are messages that came; each is one of Stored, Dropped (a mapping has its topic,
	// but it is nothing to keep), Unmapped, Duplicates, Echoes and Lost, or comes again.
	Received, Stored, Dropped, Unmapped, Duplicates, Echoes, Lost atomic.Int64
	// Acked are acknowledgements handed to the connection; Pushback is how often the log took
	// nothing, Stalled how often a connection was given up because of it.
	Acked, Pushback, Stalled atomic.Int64
	// Strange are those of Echoes on topics that the link sent no command to in the last minute.
	Strange atomic.Int64
	// Connects are connections that came about, Failures attempts that did not.
	Connects, Failures atomic.Int64
	// Published are commands that went out; PublishErrors those that did not: no connection, its
	// end, or a refusal of the broker.
	Published, PublishErrors atomic.Int64
}

// Status is how a link is at present.
type Status struct {
	Name string
	// URL is the broker's, without credentials.
	URL       string
	Connected bool
	// OK says that all is well: connected, subscribed to everything, and no mapping's messages are
	// all taken for the hub's own.
	OK bool
	// Version is the one spoken, while connected.
	Version Version
	// Since is when this state began.
	Since time.Time
	// Message says in words how it is; without secrets.
	Message string
}

// Link is one external broker. Make it with New before the log runs, then run Run once.
type Link struct {
	cfg     Config
	taker   Taker
	log     Log
	logger  *slog.Logger
	address *address
	secret  string
	filters []filter // to subscribe to
	own     []string // filters of what commands are published to
	seed    maphash.Seed
	stats   Stats
	commits chan struct{}

	// taken has the messages that are taken and not acknowledged, by packet identifier. The
	// goroutine of the current life owns it.
	taken map[uint16]entry

	// swallowed are filters of mappings all whose messages are echoes where a topic tells those.
	swallowed []string
	commanded recent // hashes of the topics of commands

	mu      sync.Mutex
	life    *life
	stopped bool // no new connections
	status  Status
	version Version // to try next
	knows5  bool    // with Auto: 5.0 has worked with this broker
	old     bool    // with Auto: the broker has said that it does not know 5.0
	soon    bool    // the next attempt is with another version, and waits for nothing
	fails   int     // attempts in a row without a lasting connection
	warned  bool    // of what is swallowed
	foreign strangers
}

// New checks cfg and makes a link, which does nothing until Run. An error says what is wrong
// with the configuration.
func New(cfg Config, parts Parts) (*Link, error) {
	if err := cfg.settle(parts.Identity); err != nil {
		return nil, err
	}
	secret, err := cfg.password()
	if err != nil {
		return nil, err
	}
	cfg.Password = ""
	where, err := cfg.address()
	if err != nil {
		return nil, err
	}
	l := &Link{
		cfg: cfg, taker: parts.Taker, log: parts.Log, logger: parts.Logger, address: where, secret: secret,
		seed: maphash.MakeSeed(), commits: make(chan struct{}, 1), taken: make(map[uint16]entry), version: cfg.Version,
	}
	if l.logger == nil {
		l.logger = slog.New(slog.DiscardHandler)
	}
	l.logger = l.logger.With("broker", cfg.Name)
	if l.version == Auto {
		l.version = V5
	}
	if err := l.subscriptions(); err != nil {
		return nil, err
	}
	if l.own, l.swallowed, err = cfg.echoes(); err != nil {
		return nil, err
	}
	l.status = Status{Name: cfg.Name, URL: where.String(), Since: time.Now(), Message: "not connected yet"}
	parts.Log.OnCommit(func(signalbox.Position) { nudge(l.commits) })
	return l, nil
}

// filter is a subscription.
type filter struct {
	text string // with $share
	// again: what is retained comes at each connection, not just when the subscription is new
	again bool
}

// subscriptions fills the list of filters. Within a group each hub hears all of what devices say
// of their presence and of commands: whose command an answer is to, the broker cannot know.
func (l *Link) subscriptions() error {
	filters, err := mapped.Subscriptions(l.cfg.Topics)
	if err != nil {
		return invalid(l.cfg.Name, "%s", err)
	}
	share := ""
	if l.cfg.Shared != "" {
		share = "$share/" + l.cfg.Shared + "/"
	}
	if l.cfg.Native != nil {
		l.filters = append(l.filters, filter{text: nativeTopic(wire.NativeStatus), again: true})
		for _, level := range []string{wire.NativeAck, wire.NativeResult} {
			if topic := nativeTopic(level); share != "" || !mapped.Covered(filters, topic) {
				l.filters = append(l.filters, filter{text: topic})
			}
		}
		if topic := nativeTopic(wire.NativeTelemetry); !mapped.Covered(filters, topic) {
			l.filters = append(l.filters, filter{text: share + topic})
		}
	}
	for _, text := range filters {
		l.filters = append(l.filters, filter{text: share + text})
	}
	return nil
}

// texts gives the filters as they are subscribed to.
func (l *Link) texts() []string {
	texts := make([]string, len(l.filters))
	for i := range l.filters {
		texts[i] = l.filters[i].text
	}
	return texts
}

// nativeTopic gives the filter of all devices' native topics that end so.
func nativeTopic(level string) string { return wire.NativePrefix + "+/" + level }

func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Stats gives the live counters.
func (l *Link) Stats() *Stats { return &l.stats }

// Status says how the link is.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// Name is the broker's name.
func (l *Link) Name() string { return l.cfg.Name }

// Run joins the broker and stays joined until ctx ends. It then waits, for half a second at
// most, for the commit of what was taken, acknowledges it, disconnects, and returns when all
// its goroutines have ended; the log should run until then.
func (l *Link) Run(ctx context.Context) error {
	if strings.HasPrefix(l.cfg.URL, "mqtt:") || strings.HasPrefix(l.cfg.URL, "ws:") {
		if l.secret != "" {
			l.logger.Warn("the password goes to the MQTT broker unencrypted; mqtts:// or wss:// would protect it", "url", l.address.String())
		}
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for work.Err() == nil {
			if l.next() == V311 {
				l.run3(work)
			} else {
				l.run5(work)
			}
		}
	}()
	<-ctx.Done()
	l.mu.Lock()
	l.stopped = true
	current, up := l.life, l.status.Connected
	l.mu.Unlock()
	if current != nil && up {
		current.quiesce()
	}
	cancel()
	<-done
	return nil
}

func (l *Link) next() Version {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.version
}

// Publish implements mapped.Link: it hands a command to the connection. The error says that
// nothing went out: KindUnavailable without a connection, KindLimited if too much waits to be
// sent.
func (l *Link) Publish(topic string, payload []byte, qos uint8, retain bool) error {
	return l.post(&outgoing{topic: topic, payload: slices.Clone(payload), qos: qos, retain: retain})
}

// PublishUntil implements mapped.Expirer: a 5.0 broker is told to forget the message when its time
// is over (Message Expiry Interval, 3.3.2.3.3), in whole seconds. With 3.1.1 it is Publish.
func (l *Link) PublishUntil(topic string, payload []byte, qos uint8, retain bool, until time.Time) error {
	return l.post(&outgoing{topic: topic, payload: slices.Clone(payload), qos: qos, retain: retain, expires: until})
}

// Up implements mapped.Absent: whether commands can go out.
func (l *Link) Up() bool { return l.stats.Connected.Load() != 0 }

func (l *Link) post(o *outgoing) error {
	o.until = time.Now().Add(askWait)
	l.mu.Lock()
	current := l.life
	up := l.status.Connected
	l.mu.Unlock()
	if current == nil || !up {
		l.stats.PublishErrors.Add(1)
		return signalbox.Errorf(signalbox.KindUnavailable, "broker_away", "the MQTT broker %q is away; nothing was sent", l.cfg.Name)
	}
	select {
	case current.outbox <- o:
		return nil
	default:
		l.stats.PublishErrors.Add(1)
		return signalbox.Errorf(signalbox.KindLimited, "broker_slow", "%d commands wait for the MQTT broker %q already; nothing was sent", cap(current.outbox), l.cfg.Name)
	}
}

// begin opens a network connection: the start of a life.
func (l *Link) begin(ctx context.Context) (*life, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.ConnectTimeout)
	defer cancel()
	network, err := l.address.dial(ctx)
	if err != nil {
		return nil, err
	}
	limit := maxPacketBound
	if l.next() == V5 {
		limit = l.cfg.MaxPacket
	}
	c := newLife(l, newConn(network, limit))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		_ = network.Close() // nothing was said on it
		return nil, context.Canceled
	}
	l.life = c
	return c, nil
}

// up notes that the broker has accepted, and starts to work. present: it had kept the session.
func (l *Link) up(c *life, s speaker, v Version, present bool) {
	c.speaker = s
	if !present {
		clear(l.taken)
		l.taker.Afresh()
	}
	if v == V311 || l.cfg.Shared != "" {
		c.own = l.own
	}
	l.stats.Connects.Add(1)
	l.mu.Lock()
	l.status.Connected, l.status.OK, l.status.Version, l.status.Since = true, true, v, time.Now()
	l.status.Message = "connected with MQTT " + string(v)
	if v == V5 {
		l.knows5 = true
	} else {
		if !l.old && l.cfg.Version == Auto {
			l.version = V5 // this connection was an attempt; the next one begins with 5.0
		}
		l.swallows()
	}
	l.mu.Unlock()
	l.stats.Connected.Store(1) // last: Up promises that Publish works
	l.logger.Info("joined an MQTT broker", "url", l.address.String(), "version", string(v), "session_present", present)
	c.conn.ready()
	c.start()
	l.taker.Returned(l, present)
}

// current is the life that the libraries work on, nil between two.
func (l *Link) current() *life {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.life
}

// down ends the current life, if there is one, and waits for its goroutines.
func (l *Link) down() {
	l.mu.Lock()
	c := l.life
	l.mu.Unlock()
	if c == nil {
		return
	}
	_ = c.conn.Close() // it may be closed already
	c.finish()
	l.stats.Connected.Store(0)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.life = nil
	if !l.status.Connected {
		return
	}
	if time.Since(l.status.Since) > l.cfg.BackoffMax {
		l.fails = 0
	}
	l.fails++
	why := c.conn.reason()
	if l.stopped {
		l.away("the hub is stopping", slog.LevelInfo)
		return
	}
	l.away(l.words(why), slog.LevelWarn)
}

// refused notes an attempt that failed. It reports whether another version of MQTT is to be
// tried.
func (l *Link) refused(err error) (other bool) {
	l.stats.Failures.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.life
	l.life = nil
	if c != nil {
		_ = c.conn.Close()
	}
	if l.stopped {
		return false
	}
	if other = l.choose(c); other && l.soon {
		return true // its outcome is what there is to tell
	}
	l.fails++
	if c != nil && c.conn.reason() != nil && isDeadline(err) {
		err = c.conn.reason()
	}
	l.away(l.words(err), slog.LevelWarn)
	return other
}

// choose says which version is tried next after an attempt that failed; c is nil if there was no
// connection. It reports whether that is another one. l.mu is held.
//
// That the broker closed without a word does not tell its version: so does a proxy before a broker
// that is away. 3.1.1 is tried then, at once, if 5.0 has never worked, and 5.0 again after that.
func (l *Link) choose(c *life) (other bool) {
	if l.cfg.Version != Auto {
		return false
	}
	if l.version == V311 {
		if !l.old {
			l.version = V5
		}
		return !l.old
	}
	if c == nil {
		return false
	}
	old, silent := c.conn.oldBroker()
	switch {
	case old:
		l.old = true
		l.logger.Info("the MQTT broker does not know MQTT 5.0; it is joined with 3.1.1", "url", l.address.String())
	case !silent || l.knows5:
		return false
	}
	l.version, l.soon = V311, true
	return true
}

// away sets the status, and tells if it is another one. l.mu is held.
func (l *Link) away(words string, level slog.Level) {
	message := "away: " + words
	changed := l.status.Connected || l.status.Message != message
	if l.status.Connected {
		l.status.Since = time.Now()
	}
	l.status.Connected, l.status.OK, l.status.Version, l.status.Message = false, false, "", message
	if changed {
		l.logger.Log(context.Background(), level, "an MQTT broker is away", "url", l.address.String(), "reason", words)
	}
}

// partly notes that the broker refused subscriptions.
func (l *Link) partly(c *life, words []string) {
	text := l.redact(strings.Join(words, "; "))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.life != c || !l.status.Connected {
		return
	}
	but := ", but "
	if !l.status.OK {
		but = "; and "
	}
	l.status.OK = false
	l.status.Message += but + "not to all topics: " + text
	l.logger.Warn("an MQTT broker refused subscriptions", "url", l.address.String(), "reason", text)
}

// delay is how long to wait before the next attempt: twice as long each time, between half of
// that and the whole, so that many hubs do not come at once.
func (l *Link) delay() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.soon {
		l.soon = false
		return 0
	}
	return backoff(l.fails, l.cfg.BackoffMin, l.cfg.BackoffMax, rand.Int64N)
}

func backoff(fails int, lo, hi time.Duration, random func(int64) int64) time.Duration {
	if fails <= 0 {
		return 0
	}
	d := hi
	if fails < 32 && lo<<(fails-1)>>(fails-1) == lo {
		d = min(hi, lo<<(fails-1))
	}
	return d/2 + time.Duration(random(int64(d/2)+1))
}
