package remote

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/mapped"
	"signalbox/internal/wire/packet"
)

// message is a PUBLISH of the broker.
type message struct {
	topic    string
	payload  []byte
	id       uint16 // 0 with quality of service 0
	retained bool
	ack      func()
}

// outgoing is a command on its way to the broker.
type outgoing struct {
	topic   string
	payload []byte
	qos     uint8
	retain  bool
	until   time.Time // it is not sent after that
	expires time.Time // the broker is to forget it then; zero: never
}

// speaker is what a library does on one connection.
type speaker interface {
	// subscribe asks for the link's filters; refused says of each that the broker did not want,
	// why. An error ends the connection.
	subscribe(ctx context.Context) (refused []string, err error)
	// unsubscribe takes the subscriptions back: nothing is sent any more after it.
	unsubscribe(ctx context.Context) error
	// publish sends; the error says that it did not.
	publish(ctx context.Context, o *outgoing) error
}

// entry is a message that is taken and not acknowledged.
type entry struct {
	sum      uint64
	position signalbox.Position
	life     *life
}

// due is an acknowledgement that waits for its commit and for its turn.
type due struct {
	m        *message
	position signalbox.Position
}

const (
	outboxSize = 4096 // commands that wait to be sent
	linger     = 500 * time.Millisecond
	settling   = 20 * time.Millisecond
	askWait    = 10 * time.Second // for the answer to SUBSCRIBE, and to send a command
	retryMin   = 5 * time.Millisecond
	retryMax   = 100 * time.Millisecond
)

var errStalled = errors.New("the hub could not store messages for too long, and gave the connection up")

// life is one connection, from the socket's opening to its end.
type life struct {
	link   *Link
	conn   *conn
	inbox  chan *message
	outbox chan *outgoing
	quiet  chan struct{} // closed: take nothing more, acknowledge and rest
	rested chan struct{} // closed when that is done, or the life is over
	wg     sync.WaitGroup
	hush   sync.Once
	own    []string // filters of what is the hub's own come back; empty where no local serves

	speaker speaker // set when the CONNACK has come

	acks atomic.Int64 // given to the library

	// of the goroutine that takes
	pending  []due
	held     *message // the log did not take it yet
	closed   bool     // nothing is taken any more, because the link or the hub stops
	stopping bool     // the hub said so
}

func newLife(l *Link, c *conn) *life {
	return &life{
		link: l, conn: c, inbox: make(chan *message, l.cfg.ReceiveMaximum), outbox: make(chan *outgoing, outboxSize),
		quiet: make(chan struct{}), rested: make(chan struct{}),
	}
}

// start works on the connection, whose CONNACK has come.
func (c *life) start() {
	s := c.speaker
	ctx, cancel := context.WithCancel(context.Background())
	c.wg.Go(func() {
		<-c.conn.over
		cancel()
	})
	c.wg.Go(c.take)
	c.wg.Go(func() { c.send(ctx, s) })
	c.wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, askWait)
		defer cancel()
		refused, err := s.subscribe(ctx)
		switch {
		case errors.Is(err, context.Canceled), errors.Is(ctx.Err(), context.Canceled): // the connection ended before, for a reason of its own
		case err != nil:
			c.conn.fail(fmt.Errorf("the broker did not subscribe the hub: %w", err))
		case len(refused) > 0:
			c.link.partly(c, refused)
		}
	})
}

// quiesce ends taking, and waits a little for the commit of what was taken, and until its
// acknowledgements are written. A shared
// subscription is taken back before, and what came until then is taken: a broker need not
// give to the others of the group what it has sent to this hub (5.0, 4.8.2).
func (c *life) quiesce() {
	timer := time.NewTimer(linger)
	defer timer.Stop()
	if c.link.cfg.Shared != "" {
		ctx, cancel := context.WithTimeout(context.Background(), linger)
		defer cancel()
		if err := c.speaker.unsubscribe(ctx); err == nil {
			// The libraries hand over messages beside the answer that came behind them.
			settled := time.NewTimer(settling)
			defer settled.Stop()
			<-settled.C
		}
	}
	c.hush.Do(func() { close(c.quiet) })
	select {
	case <-c.rested:
	case <-c.conn.over:
	case <-timer.C:
		return
	}
	// The libraries write acknowledgements by themselves, and not when they disconnect.
	for c.conn.acks.Load() < c.acks.Load() {
		select {
		case <-c.conn.ack:
		case <-c.conn.over:
			return
		case <-timer.C:
			return
		}
	}
}

// finish waits for the goroutines of a life whose connection is closed, and takes what was
// read and will not come again.
func (c *life) finish() {
	c.wg.Wait()
	if c.held != nil {
		c.last(c.held)
	}
	for {
		select {
		case m := <-c.inbox:
			c.last(m)
		case o := <-c.outbox:
			c.unsent(o, errors.New("the connection ended"))
		default:
			return
		}
	}
}

// last takes a message of a connection that has ended. What the broker will deliver again is
// left to that.
func (c *life) last(m *message) {
	if m.id != 0 && c.link.cfg.Shared == "" {
		return
	}
	if c.stopping || !c.handle(m) {
		c.link.stats.Lost.Add(1)
	}
}

// deliver is called by the library for each message, in order. It waits while the inbox is
// full, which stops the library from reading; keep alive bounds how long that may last.
func (c *life) deliver(m *message) {
	c.link.stats.Received.Add(1)
	select {
	case c.inbox <- m:
		return
	default:
	}
	timer := time.NewTimer(c.link.cfg.KeepAlive / 2)
	defer timer.Stop()
	select {
	case c.inbox <- m:
		return
	case <-c.conn.over:
	case <-timer.C:
		c.link.stats.Stalled.Add(1)
		c.conn.fail(errStalled)
	}
	if m.id == 0 || c.link.cfg.Shared != "" {
		c.link.stats.Lost.Add(1)
	}
}

// take is the goroutine that gives messages to the taker and acknowledges them.
func (c *life) take() {
	var rested bool
	quiet, wait := c.quiet, retryMin
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		c.acknowledge()
		in := c.inbox
		if c.held != nil || c.closed {
			in = nil
		}
		if quiet == nil && !rested && len(c.pending) == 0 && (c.closed || c.held == nil && len(c.inbox) == 0) {
			rested = true
			close(c.rested)
		}
		select {
		case <-c.conn.over:
			return
		case <-quiet:
			quiet, c.closed = nil, c.closed || c.link.cfg.Shared == ""
		case <-c.link.commits:
		case m := <-in:
			if !c.handle(m) {
				c.held, wait = m, retryMin
				retry.Reset(wait)
			}
		case <-retry.C:
			if c.held == nil || c.closed {
				continue
			}
			if c.handle(c.held) {
				c.held = nil
				continue
			}
			wait = min(2*wait, retryMax)
			retry.Reset(wait)
		}
	}
}

// handle gives m to the taker. false: the log is full, or the hub takes nothing any more.
func (c *life) handle(m *message) bool {
	l := c.link
	for _, own := range c.own {
		if packet.Match(own, m.topic) {
			l.echo(m)
			c.settle(m, 0, 0)
			return true
		}
	}
	var sum uint64
	if m.id != 0 {
		sum = l.sum(m)
		if e, ok := l.taken[m.id]; ok && e.sum == sum {
			l.stats.Duplicates.Add(1)
			if e.life != c {
				c.settle(m, sum, e.position)
			}
			return true
		}
	}
	t := mapped.Taking{
		Topic: m.topic, Payload: m.payload, Link: l, Retained: m.retained, Unordered: l.cfg.Shared != "", Awaited: m.id != 0,
	}
	switch l.taker.Take(&t) {
	case mapped.Taken:
		l.stats.Stored.Add(1)
		c.settle(m, sum, t.Position)
	case mapped.Dropped:
		l.stats.Dropped.Add(1)
		c.settle(m, sum, t.Position)
	case mapped.None:
		l.stats.Unmapped.Add(1)
		c.settle(m, sum, 0)
	case mapped.Later:
		l.stats.Pushback.Add(1)
		return false
	case mapped.Stopping:
		c.closed, c.stopping = true, true // it stays unacknowledged: the broker delivers it again
		return false
	}
	return true
}

// settle makes m wait for the commit of position, and for its turn.
func (c *life) settle(m *message, sum uint64, position signalbox.Position) {
	if m.id == 0 {
		return
	}
	c.link.taken[m.id] = entry{sum: sum, position: position, life: c}
	c.pending = append(c.pending, due{m: m, position: position})
}

// acknowledge acknowledges what is on disk, in the order of receipt [MQTT-4.6.0-2].
func (c *life) acknowledge() {
	if len(c.pending) == 0 {
		return
	}
	committed := c.link.log.Committed()
	n := 0
	for n < len(c.pending) && c.pending[n].position <= committed {
		m := c.pending[n].m
		select {
		case <-c.conn.over:
			return // the broker delivers it again, and it is known
		default:
		}
		m.ack()
		c.acks.Add(1)
		delete(c.link.taken, m.id)
		c.link.stats.Acked.Add(1)
		n++
	}
	rest := copy(c.pending, c.pending[n:])
	clear(c.pending[rest:])
	c.pending = c.pending[:rest]
}

// send is the goroutine that publishes commands, in order.
func (c *life) send(ctx context.Context, s speaker) {
	for {
		select {
		case <-c.conn.over:
			return
		case o := <-c.outbox:
			if len(c.own) > 0 {
				c.link.commanded.note(maphash.String(c.link.seed, o.topic)) // before its echo can come
			}
			bounded, cancel := context.WithDeadline(ctx, o.until)
			err := s.publish(bounded, o)
			cancel()
			if err != nil {
				c.unsent(o, err)
				continue
			}
			c.link.stats.Published.Add(1)
		}
	}
}

func (c *life) unsent(o *outgoing, err error) {
	c.link.stats.PublishErrors.Add(1)
	c.link.logger.Warn("a command did not reach the MQTT broker", "topic", o.topic, "reason", c.link.words(err))
}
