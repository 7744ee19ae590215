package live

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/bus"
	"signalbox/internal/registry"
)

const (
	// blockBytes is about how large a block becomes; an event more may be in it.
	blockBytes = 64 << 10
	// entriesAtOnce is how many entries are taken, and drainAtOnce how many thinned ones given,
	// while viewers that come and go wait.
	entriesAtOnce, drainAtOnce = 256, 1024
	// Run pauses after it has woken viewers, so that their writes do not become many and small:
	// wakeCost for each, pauseMost in all, and not at all below pauseLeast.
	wakeCost, pauseLeast, pauseMost = 20 * time.Microsecond, 200 * time.Microsecond, 5 * time.Millisecond
)

// Hub shows events to viewers. Its methods may be called from any goroutine.
type Hub struct {
	cfg     Config
	log     Log
	devices *registry.Registry
	command func(body []byte) (device string, object []byte, err error)
	sub     *bus.Subscription
	stats   Stats

	watched atomic.Bool   // somebody watches; read by the publisher
	turns   chan struct{} // those who read history
	queued  atomic.Int32  // those who wait for that
	buffers sync.Pool     // of *[]byte
	ended   chan struct{}

	mu      sync.Mutex
	at      signalbox.Position // up to here all was handed out, or waits in a thinned group
	index   index
	writers [2]*encoder      // by format
	kept    *signalbox.Entry // the entry that is routed, as thinned groups share it; nil before the first
	touched []*group         // those that have something to hand out
	woken   int              // viewers that slept, since the last pause
	strays  int              // groups that share nothing, ever
	viewers int
	of      map[string]int // viewers of each Options.By
}

// New makes a hub of viewers and begins to listen to the bus. Nothing is shown until Run.
func New(cfg Config, parts Parts) *Hub {
	for _, d := range []struct {
		value *int
		to    int
	}{{&cfg.Viewers, 1000}, {&cfg.Choices, 32}, {&cfg.Queue, 4 << 20}, {&cfg.Intake, 32 << 20}, {&cfg.Resume, 5_000_000}, {&cfg.Resumes, 4}} {
		if *d.value <= 0 {
			*d.value = d.to
		}
	}
	if cfg.PerUser <= 0 {
		cfg.PerUser = max(1, cfg.Viewers/2)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Hub{
		cfg: cfg, log: parts.Log, devices: parts.Devices, command: parts.Command,
		turns: make(chan struct{}, cfg.Resumes), ended: make(chan struct{}), index: newIndex(), of: make(map[string]int),
		buffers: sync.Pool{New: func() any { return new(make([]byte, 0, blockBytes)) }},
	}
	h.writers = [2]*encoder{h.newEncoder(SSE), h.newEncoder(Frames)}
	h.sub = parts.Bus.Subscribe(bus.Options{Bytes: cfg.Intake, Want: h.wants})
	return h
}

// wants is the bus's filter: with nobody watching the bus has nothing to keep.
func (h *Hub) wants(*signalbox.Entry) bool { return h.watched.Load() }

// Stats gives the live counters.
func (h *Hub) Stats() *Stats { return &h.stats }

// Run hears the bus and hands out what it hears until ctx ends. Viewers that are there then
// get KindUnavailable.
func (h *Hub) Run(ctx context.Context) error {
	defer close(h.ended)
	defer h.sub.Close()
	passed, cancel := context.WithCancel(ctx)
	cancel()
	var batch []signalbox.Entry
	for ctx.Err() == nil {
		due, busy := h.due()
		wait, cancel := passed, context.CancelFunc(func() {})
		switch {
		case busy: // it only looks whether there is something
		case due.IsZero():
			wait = ctx
		default:
			wait, cancel = context.WithDeadline(ctx, due)
		}
		var missed int64
		batch, missed, _ = h.sub.Next(wait, batch[:0]) // an error is wait's end
		cancel()
		for part := range slices.Chunk(batch, entriesAtOnce) {
			h.take(part)
		}
		if missed > 0 {
			h.fellBehind(missed)
		}
		h.tick(time.Now())
		h.pause(ctx)
	}
	return nil
}

// take hands out entries, in log order.
func (h *Hub) take(entries []signalbox.Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for i := range entries {
		e := &entries[i]
		if e.Position <= h.at {
			continue // nobody who is here now was here then, or has it from history
		}
		h.route(e, now)
		h.at = e.Position
		if h.writers[SSE].pending()+h.writers[Frames].pending() >= blockBytes {
			h.handOut()
		}
	}
	h.handOut()
}

// route gives e to the groups that want it.
func (h *Hub) route(e *signalbox.Entry, now time.Time) {
	if int(e.Kind) >= len(h.index.kinds) {
		return
	}
	h.writers[SSE].begin()
	h.writers[Frames].begin()
	h.kept = nil
	name := ""
	d := h.devices.Get(e.Device)
	switch {
	case d != nil:
		name = d.Name
	case e.Device != 0:
		return // it was removed meanwhile
	}
	for _, g := range h.index.kinds[e.Kind].all {
		h.give(g, e, name, now)
	}
	if d == nil {
		return
	}
	if typed := h.index.kinds[e.Kind].byType; len(typed) > 0 {
		for _, g := range typed[d.Type()] {
			h.give(g, e, name, now)
		}
	}
	for _, g := range h.index.byDevice[e.Device] {
		if g.kinds&(1<<e.Kind) != 0 && (g.filter.Types == nil || contains(g.filter.Types, d.Type())) {
			h.give(g, e, name, now)
		}
	}
}

// give adds e to what g's viewers get.
func (h *Hub) give(g *group, e *signalbox.Entry, name string, now time.Time) {
	if g.choice != nil && e.Kind == signalbox.EntryTelemetry && !g.choice.Look(e.Body) {
		return
	}
	if g.thin != nil {
		if h.kept == nil {
			own := *e // e is lent
			h.kept = &own
		}
		g.thin.add(h.kept, now)
		return
	}
	h.write(g, e, name)
}

// write encodes e where nobody has, and adds it to what is handed out to g next. g's choice has
// looked at e.
func (h *Hub) write(g *group, e *signalbox.Entry, name string) {
	s, ok := h.writers[g.format].event(e, name, g.choice)
	if !ok {
		return
	}
	if len(g.spans) == 0 {
		h.touched = append(h.touched, g)
	}
	g.add(s, e.Position)
}

// handOut makes a block of what each group has, and puts it into the queues of its viewers.
func (h *Hub) handOut() {
	for _, g := range h.touched {
		b := g.block()
		h.stats.Blocks.Add(1)
		for _, v := range g.viewers {
			if v.offer(b) {
				h.woken++
			}
		}
	}
	clear(h.touched)
	h.touched = h.touched[:0]
	for _, w := range h.writers {
		w.reset()
	}
}

// fellBehind sends viewers to history for what the bus had no room for: nothing of it is in
// the queues.
func (h *Hub) fellBehind(missed int64) {
	h.stats.Behind.Add(missed)
	h.mu.Lock()
	defer h.mu.Unlock()
	// What was missed came before this, and what did not comes behind it or is in history, too.
	head := h.log.Head()
	for _, g := range h.index.groups {
		from := h.handed(g)
		for _, v := range g.viewers {
			v.divert(from)
		}
		if g.thin != nil {
			g.thin.clear()
		}
	}
	h.at = max(h.at, head)
	h.cfg.Logger.Warn("viewers are shown out of history what there was no room for", "missed", missed, "viewers", h.viewers)
}

// handed is the position up to which g's viewers were offered all.
func (h *Hub) handed(g *group) signalbox.Position {
	if g.thin != nil {
		if first := g.thin.first(); first > 0 {
			return first - 1
		}
	}
	return h.at
}

// due is when the next thinned group has to be looked at, zero if none has; busy: at once.
func (h *Hub) due() (due time.Time, busy bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range h.index.thinned {
		at, now := g.thin.next()
		if now {
			return at, true
		}
		if !at.IsZero() && (due.IsZero() || at.Before(due)) {
			due = at
		}
	}
	return due, false
}

// tick gives what is due of the thinned groups, or a part of it.
func (h *Hub) tick(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := drainAtOnce
	for _, g := range h.index.thinned {
		for e := range g.thin.due(now, &left) {
			d := h.devices.Get(e.Device)
			if d == nil && e.Device != 0 {
				continue
			}
			name := ""
			if d != nil {
				name = d.Name
			}
			if g.choice != nil && e.Kind == signalbox.EntryTelemetry {
				g.choice.Look(e.Body)
			}
			h.writers[g.format].begin()
			h.write(g, e, name)
			if h.writers[g.format].pending() >= blockBytes {
				h.handOut()
			}
		}
	}
	h.handOut()
}

// pause lets messages gather when many viewers were woken.
func (h *Hub) pause(ctx context.Context) {
	h.mu.Lock()
	wait := min(time.Duration(h.woken)*wakeCost, pauseMost)
	h.woken = 0
	h.mu.Unlock()
	if wait < pauseLeast {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
