package live

import (
	"context"
	"errors"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/wire"
)

const (
	// near is how many positions a viewer may be behind its group when it joins the queue.
	near = 10_000
	// patience is how long a viewer that reads history may take for a piece, hurried that when
	// others wait for their turn, and turnMost how long it reads then. After that it has to wait
	// for another turn.
	patience = 2 * time.Second
	hurried  = 50 * time.Millisecond
	turnMost = 10 * time.Second
	// retryAfter is when history is asked again that could not be read.
	retryAfter = time.Second
	// lookEvery is after how many entries a reader that finds nothing looks whether its turn is over.
	lookEvery = 1024
)

// errTurn ends a turn at reading history before its end.
var errTurn = errors.New("the turn is over")

// errTooFar says that history has more than Config.Resume entries for the viewer.
var errTooFar = errors.New("too much was missed")

// reader reads for a viewer what it has missed, in a goroutine of its own, so that Next can be
// left when its context ends. stop waits for it.
type reader struct {
	v      *Viewer
	w      *encoder
	choice *wire.Choice
	thin   *thinner
	window int64 // when the present tick began, µs
	began  time.Time

	buf    []byte
	events int
	last   signalbox.Position // of the last event in buf, or before
	seen   int                // entries since it was looked whether the turn is over
	holes  signalbox.Position // Viewer.holes, with what is told in buf

	pieces chan piece // closed at the end
	err    error      // why, then; nil: the viewer has joined its queue and has all before that
	cancel context.CancelFunc
}

// piece is a part of what a viewer has missed.
type piece struct {
	data   []byte
	events int
	last   signalbox.Position
	holes  signalbox.Position
}

// catchUp gives the next piece of what was missed; nothing when there is no more, or the viewer
// has to be told something else first.
func (v *Viewer) catchUp(ctx context.Context) ([]byte, error) {
	if v.reader == nil {
		v.mu.Lock()
		v.read = v.from
		v.mu.Unlock()
		v.reader = v.startReading(ctx)
	}
	r := v.reader
	select {
	case p, ok := <-r.pieces:
		if ok {
			v.read, v.holes = p.last, p.holes
			v.hub.stats.Delivered.Add(int64(p.events))
			return p.data, nil
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-v.hub.ended:
		return nil, stopping()
	}
	v.reader = nil
	r.cancel()
	return nil, v.caughtUp(r.err)
}

// caughtUp goes on where a reader has ended.
func (v *Viewer) caughtUp(err error) error {
	switch {
	case err == nil && !v.greeted:
		v.phase = greeting
		if v.told.reason != reasonLost {
			v.hub.stats.Resumed.Add(1)
		}
	case err == nil:
		v.settle()
	case errors.Is(err, errTooFar):
		l := lag{after: string(v.hub.log.AppendCursor(nil, v.read)), missed: int64(v.hub.log.Head() - v.read), reason: reasonTooFar} //nolint:gosec // at most the log's length
		l.until, _ = v.hub.reach(v, v.read, true)
		v.told, v.phase, v.shown, v.next = l, telling, -1, 0
		v.hub.stats.Unresumable.Add(1)
	default:
		v.mu.Lock()
		v.away, v.tender, v.from = true, true, v.read
		v.empty()
		v.mu.Unlock()
		if !errors.Is(err, errTurn) {
			return err
		}
	}
	return nil
}

// reach gives the position up to which v's group was handed all, and lets v join the queue there
// if it is near, or in any case.
func (h *Hub) reach(v *Viewer, after signalbox.Position, anyway bool) (to signalbox.Position, joined bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	to = h.handed(v.group)
	if to > after+near && !anyway {
		return to, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.away, v.tender, v.from, v.last = false, true, to, to
	v.empty()
	return to, true
}

func (v *Viewer) startReading(ctx context.Context) *reader {
	r := &reader{v: v, w: v.hub.newEncoder(v.opts.Format), last: v.read, holes: v.holes, pieces: make(chan piece, 1)}
	if v.opts.Fields != nil {
		r.choice = wire.NewChoice(v.opts.Fields)
	}
	if v.opts.Every > 0 {
		r.thin = newThinner(v.opts.Every)
	}
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx)) // it outlives this call of Next
	go r.run(ctx, v.read)
	return r
}

// stop ends the reader and waits for it.
func (r *reader) stop() {
	r.cancel()
	for range r.pieces { // until it is closed
	}
}

func (r *reader) run(ctx context.Context, after signalbox.Position) {
	defer close(r.pieces)
	h := r.v.hub
	h.queued.Add(1)
	select {
	case h.turns <- struct{}{}:
		h.queued.Add(-1)
	case <-ctx.Done():
		h.queued.Add(-1)
		r.err = ctx.Err()
		return
	}
	r.began = time.Now()
	r.err = r.read(ctx, after)
	<-h.turns
	if signalbox.KindOf(r.err) != signalbox.KindUnavailable {
		return
	}
	// The database server is away. The viewer stays, and gets what it missed when it is back.
	timer := time.NewTimer(retryAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
		r.err = errTurn
	case <-ctx.Done():
	case <-h.ended:
	}
}

// read reads until the viewer has joined its queue and has everything before that.
func (r *reader) read(ctx context.Context, after signalbox.Position) error {
	h := r.v.hub
	for {
		if h.tooFar(after, h.log.Head()) {
			return errTooFar
		}
		to, joined := h.reach(r.v, after, false)
		if to > after {
			if err := h.log.Wait(ctx, to); err != nil {
				return err
			}
			q := history.SinceQuery{After: after, Until: to, Devices: r.v.opts.Devices, Events: r.v.group.kinds&^telemetryBit != 0, Gap: r.gap}
			err := h.log.Since(ctx, q, func(e *signalbox.Entry) error { return r.entry(ctx, e) })
			if err == nil {
				err = r.flush(ctx)
			}
			if err != nil {
				return err
			}
		}
		if joined {
			return nil
		}
		after = to
	}
}

// entry adds e if the viewer wants it.
func (r *reader) entry(ctx context.Context, e *signalbox.Entry) error {
	if r.seen++; r.seen >= lookEvery {
		r.seen = 0
		if r.over() {
			return r.leave(ctx, e.Position-1)
		}
	}
	if e.Kind > signalbox.EntryAlert || r.v.group.kinds&(1<<e.Kind) == 0 {
		return nil
	}
	d := r.v.hub.devices.Get(e.Device)
	f := &r.v.opts.Filter
	switch {
	case d == nil && (e.Device != 0 || f.Devices != nil || f.Types != nil),
		f.Devices != nil && !contains(f.Devices, e.Device),
		f.Types != nil && !contains(f.Types, d.Type()):
		return nil
	}
	if r.choice != nil && e.Kind == signalbox.EntryTelemetry && !r.choice.Look(e.Body) {
		return nil
	}
	if r.thin == nil {
		return r.write(ctx, e)
	}
	if e.ReceivedMicros >= r.window+r.thin.every.Microseconds() {
		if err := r.release(ctx); err != nil {
			return err
		}
		r.window = e.ReceivedMicros
	}
	kept := *e
	kept.Body = slices.Clone(e.Body)
	r.thin.add(&kept, r.began)
	return nil
}

// gap writes that history has not everything any more, unless the viewer was told so. The statement
// goes the way of the events: one that was not taken is made again.
func (r *reader) gap(g history.Gap) error {
	until := signalbox.Position(0)
	if r.v.group.kinds&telemetryBit != 0 {
		until = g.Telemetry
	}
	if r.v.group.kinds&^telemetryBit != 0 {
		until = max(until, g.Events)
	}
	if until <= r.holes {
		return nil
	}
	r.holes = until
	r.buf = r.w.lagged(r.buf, &lag{after: string(r.v.hub.log.AppendCursor(nil, g.After)), until: until, reason: reasonDropped})
	return nil
}

// over tells whether the turn is over: others wait.
func (r *reader) over() bool {
	return r.v.hub.queued.Load() > 0 && time.Since(r.began) > turnMost
}

// leave ends a turn behind position p: so it goes on there even if nothing was found.
func (r *reader) leave(ctx context.Context, p signalbox.Position) error {
	if r.thin != nil {
		if err := r.release(ctx); err != nil {
			return err
		}
	}
	r.last = p
	if err := r.send(ctx); err != nil {
		return err
	}
	return errTurn
}

// release writes what was kept back.
func (r *reader) release(ctx context.Context) error {
	kept := r.thin.take(r.began)
	for _, e := range kept {
		if r.choice != nil && e.Kind == signalbox.EntryTelemetry {
			r.choice.Look(e.Body)
		}
		if err := r.write(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// write encodes e, and sends what there is when that is enough. r's choice has looked at e.
func (r *reader) write(ctx context.Context, e *signalbox.Entry) error {
	name := ""
	if d := r.v.hub.devices.Get(e.Device); d != nil {
		name = d.Name
	} else if e.Device != 0 {
		return nil
	}
	if r.buf == nil {
		r.buf = make([]byte, 0, blockBytes+blockBytes/8)
	}
	var ok bool
	if r.buf, ok = r.w.append(r.buf, e, name, r.choice); ok {
		r.events++
		r.last = e.Position
	}
	if len(r.buf) < blockBytes {
		return nil
	}
	return r.send(ctx)
}

// flush sends what is left.
func (r *reader) flush(ctx context.Context) error {
	if r.thin != nil {
		if err := r.release(ctx); err != nil {
			return err
		}
		r.window = 0
	}
	if len(r.buf) == 0 {
		return nil
	}
	return r.send(ctx)
}

func (r *reader) send(ctx context.Context) error {
	p := piece{data: r.buf, events: r.events, last: r.last, holes: r.holes}
	r.buf, r.events = nil, 0
	select {
	case r.pieces <- p:
	default:
		wait := patience
		if r.v.hub.queued.Load() > 0 {
			wait = hurried
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case r.pieces <- p:
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return errTurn
		}
	}
	if r.over() {
		return errTurn
	}
	return nil
}
