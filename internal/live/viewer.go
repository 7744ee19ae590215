package live

import (
	"context"
	"strconv"
	"sync"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/wire"
)

// phase is what a viewer is given.
type phase uint8

const (
	telling   phase = iota // that its cursor is of no use
	showing                // the states of its devices
	greeting               // ready
	catching               // what it has missed, out of history
	following              // its queue
)

// Viewer is one who watches. Next, Cursor and Close are for one goroutine.
type Viewer struct {
	hub   *Hub
	group *group
	place int // in group.viewers; the hub's lock guards it
	ready chan struct{}

	mu     sync.Mutex
	queue  []*block
	head   int   // of queue: what is before it was taken
	bytes  int   // of queue, and of what the last Next gave
	missed int64 // events that found no room, and are not told yet: behind after, up to until
	after  signalbox.Position
	until  signalbox.Position
	last   signalbox.Position // of the last event that was queued, or where the queue begins
	away   bool               // nothing is queued: it is to come from history, all behind from
	from   signalbox.Position
	tender bool // beginning: what finds no room comes from history

	// Next's own
	phase   phase
	opts    Options
	writer  *encoder
	devices []signalbox.DeviceID // chosen for the snapshot
	all     []*registry.Device   // or everyone
	next    int
	shown   int // devices of the snapshot; -1: there is none
	greeted bool
	choice  *wire.Choice
	told    lag
	read    signalbox.Position // what it has of what it missed
	holes   signalbox.Position // up to which it was told that history has not everything any more
	hand    int                // bytes that the last Next gave
	lent    *[]byte
	taken   []*block
	reader  *reader
	closed  bool
}

// Join begins to watch. The viewer must be closed. KindLimited (too_many_viewers) when there are
// Config.Viewers already, or Config.PerUser of the same Options.By (too_many_own_viewers,
// too_many_choices: more than Config.Choices), KindInvalid for a cursor that is none, or a filter
// that names too many devices or types.
func (h *Hub) Join(ctx context.Context, o Options) (*Viewer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if o.Every != 0 && (o.Every < minEvery || o.Every > maxEvery) {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_every", "%s between two messages of a device is not possible; allowed are %s to %s", o.Every, minEvery, maxEvery)
	}
	if len(o.Devices) > MaxDevices {
		return nil, tooMany("devices", len(o.Devices), MaxDevices)
	}
	if len(o.Types) > MaxTypes {
		return nil, tooMany("types", len(o.Types), MaxTypes)
	}
	o.Filter = o.tidy()
	kinds, err := o.kindBits()
	if err != nil {
		return nil, err
	}
	v := &Viewer{hub: h, ready: make(chan struct{}, 1), opts: o, writer: h.newEncoder(o.Format), shown: -1, tender: true, phase: greeting}
	if o.After != "" {
		if err := v.returns(); err != nil {
			return nil, err
		}
	} else if o.Snapshot {
		v.phase = showing
	}
	if err := h.join(v, kinds); err != nil {
		return nil, err
	}
	if v.phase == telling {
		h.stats.Unresumable.Add(1)
	}
	return v, nil
}

func tooMany(what string, n, most int) error {
	return signalbox.Errorf(signalbox.KindInvalid, "too_many_"+what, "%d %s are named; a viewer may name %d at most: leave %s out to see all, or watch in several streams", n, what, most, what)
}

// returns finds out what to do with a viewer's cursor.
func (v *Viewer) returns() error {
	h := v.hub
	at, err := h.log.Place(v.opts.After)
	if err != nil {
		return err
	}
	head := h.log.Head()
	v.told = lag{after: v.opts.After}
	switch {
	case at.Fate == history.Lost && !h.tooFar(at.Position, head):
		// What has its place there now did not take the place of what was lost: it is given, too.
		v.told.reason, v.told.until = reasonLost, at.Position
		v.from, v.away = at.Position, true
	case at.Fate == history.Lost:
		v.told.reason = reasonLost
	case at.Fate == history.Foreign, at.Position > head:
		v.told.reason = reasonUnknown
	case h.tooFar(at.Position, head):
		v.told.reason, v.told.missed = reasonTooFar, int64(head-at.Position) //nolint:gosec // at most the log's length
	default:
		v.phase, v.from, v.away = catching, at.Position, true
		return nil
	}
	v.phase = telling
	return nil
}

func (h *Hub) tooFar(from, head signalbox.Position) bool {
	return head > from && head-from > signalbox.Position(h.cfg.Resume) //nolint:gosec // positive
}

// join puts v into its group.
func (h *Hub) join(v *Viewer, kinds uint8) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.ended:
		return stopping()
	default:
	}
	if h.viewers >= h.cfg.Viewers {
		h.stats.Refused.Add(1)
		return signalbox.Errorf(signalbox.KindLimited, "too_many_viewers", "%d viewers watch already; no more are allowed at a time (live.viewers)", h.viewers)
	}
	if n := h.of[v.opts.By]; v.opts.By != "" && n >= h.cfg.PerUser {
		h.stats.RefusedPerUser.Add(1)
		return signalbox.Errorf(signalbox.KindLimited, "too_many_own_viewers", "%s watches %d times already; so often one user or token may at a time (live.viewers_per_user)", v.opts.By, n)
	}
	if h.viewers == 0 {
		h.watched.Store(true) // before the log is asked: what comes behind head is on the bus
		h.at = max(h.at, h.log.Head())
	}
	key := v.opts.key(v.opts.Format, kinds)
	g := h.index.groups[key]
	if g != nil && v.away && v.from > h.handed(g) {
		// It has seen more than its group was given yet.
		h.strays++
		key += "/" + strconv.Itoa(h.strays)
		g = nil
	}
	if g == nil {
		g = &group{key: key, filter: v.opts.Filter, format: v.opts.Format, kinds: kinds}
		if g.filter.Fields != nil {
			g.choice = wire.NewChoice(g.filter.Fields)
		}
		if g.filter.Every > 0 {
			g.thin = newThinner(g.filter.Every)
		}
		if err := h.crowded(g, v.opts.By); err != nil {
			h.watched.Store(h.viewers > 0)
			return err
		}
		h.index.put(g)
		h.stats.Groups.Store(int64(len(h.index.groups)))
	}
	h.viewers++
	if v.opts.By != "" {
		h.of[v.opts.By]++
	}
	h.stats.Viewers.Store(int64(h.viewers))
	v.group, v.place = g, len(g.viewers)
	g.viewers = append(g.viewers, v)
	at := h.handed(g)
	switch {
	case v.away && v.from < at:
		return nil
	case v.away && v.phase == telling: // it has lost something, and missed nothing
		v.away = false
	case v.away: // it has missed nothing
		v.away = false
		v.phase = greeting
		h.stats.Resumed.Add(1)
	}
	v.last, v.from = at, at
	v.told.until = at
	return nil
}

// crowded refuses a new group of by's that would be one too many.
func (h *Hub) crowded(g *group, by string) error {
	all, own := h.index.crowded(g, by, h.cfg.Choices)
	switch {
	case all:
		h.stats.Refused.Add(1)
		return signalbox.Errorf(signalbox.KindLimited, "too_many_choices", "with this one, more than %d different choices of fields or every (live.choices) would hear the same devices, each %d fields counting for one, which is too much work: choose what another viewer has chosen, no fields and no every, or other devices", h.cfg.Choices, fieldsAChoice)
	case own:
		h.stats.RefusedPerUser.Add(1)
		return signalbox.Errorf(signalbox.KindLimited, "too_many_choices", "with this one, %s would have more than half of the %d different choices of fields or every (live.choices) that may hear the same devices, each %d fields counting for one: choose what is chosen already, no fields and no every, or other devices", by, h.cfg.Choices, fieldsAChoice)
	default:
		return nil
	}
}

// Close ends watching. It waits for what the viewer has under way.
func (v *Viewer) Close() {
	if v.closed {
		return
	}
	v.closed = true
	if v.reader != nil {
		v.reader.stop()
		v.reader = nil
	}
	v.giveBack()
	h, g := v.hub, v.group
	h.mu.Lock()
	defer h.mu.Unlock()
	end := len(g.viewers) - 1
	g.viewers[v.place] = g.viewers[end]
	g.viewers[v.place].place = v.place
	g.viewers[end] = nil
	g.viewers = g.viewers[:end]
	if end == 0 {
		h.index.drop(g)
		h.stats.Groups.Store(int64(len(h.index.groups)))
	}
	h.viewers--
	if by := v.opts.By; h.of[by] > 1 {
		h.of[by]--
	} else {
		delete(h.of, by)
	}
	h.stats.Viewers.Store(int64(h.viewers))
	if h.viewers == 0 {
		h.watched.Store(false)
	}
}

// offer queues b, or notes that there was no room. woke says that the viewer slept.
func (v *Viewer) offer(b *block) (woke bool) {
	size := len(b.data) + blockHead
	v.mu.Lock()
	limit := v.hub.cfg.Queue
	if v.missed > 0 {
		limit /= 2 // so that it is not told after each block
	}
	switch {
	case v.away:
		v.mu.Unlock()
		return false
	case v.bytes+size <= limit || v.bytes == 0:
		v.state()
		v.queue = append(v.queue, b)
		v.bytes += size
		v.last = b.last
	case v.tender:
		v.away = true
		v.empty()
	default:
		if v.missed == 0 {
			v.after = v.last
		}
		v.missed += int64(b.events)
		v.until = b.last
		v.hub.stats.Lagged.Add(int64(b.events))
	}
	v.mu.Unlock()
	select {
	case v.ready <- struct{}{}:
		return true
	default:
		return false
	}
}

// state queues the statement of what was missed, if something was. The caller holds the lock.
func (v *Viewer) state() {
	if v.missed == 0 {
		return
	}
	l := &lag{missed: v.missed, until: v.until, reason: reasonSlow, after: string(v.hub.log.AppendCursor(nil, v.after))}
	v.queue = append(v.queue, &block{lag: l})
	v.last, v.missed = v.until, 0
}

// empty drops what is queued. The caller holds the lock.
func (v *Viewer) empty() {
	v.queue, v.head, v.bytes = nil, 0, v.hand
}

// divert makes all behind p come from history, behind what is queued. The hub calls it.
func (v *Viewer) divert(p signalbox.Position) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.away {
		return
	}
	v.away = true
	if v.tender {
		v.empty() // from is before it
	} else {
		v.from = p
	}
	select {
	case v.ready <- struct{}{}:
	default:
	}
}
