package replay

import (
	"context"
	"errors"
	"time"

	"signalbox"
)

// Event is a message of the past on its way to a sink.
type Event struct {
	Position signalbox.Position
	Device   string
	// TimeMicros and ReceivedMicros are those of history, or shifted.
	TimeMicros, ReceivedMicros int64
	// Object is the telemetry as the device sent it.
	Object []byte

	moment int64 // on the replay's clock
}

// Sink is where a replay goes: a viewer's stream, a forwarder. Its methods are called by Play
// alone, one at a time; an error of one ends Play, and is its error.
type Sink interface {
	// CarriesMark reports whether the sink's format has room for a Mark and the sink puts it
	// there. One that has not is served only by replays made with Options.Unmarked.
	CarriesMark() bool
	// Deliver gives the sink events, in order; they are lent for the call. It blocks as long as
	// the sink takes, and the replay waits for it; ctx ends when the replay does.
	Deliver(ctx context.Context, s *Status, events []Event) error
	// Tell says that the replay plays, was moved, is paused or has ended.
	Tell(ctx context.Context, s *Status) error
	// Idle is called when nothing was delivered for the time that Play was given.
	Idle(ctx context.Context) error
}

// Resume says what a sink that comes back has taken; the zero value says nothing, and the
// replay goes on behind the last event that it has sent.
type Resume struct {
	Known bool
	// Seeks is Status.Seeks when the event was sent, Position the event's.
	Seeks    uint64
	Position signalbox.Position
}

// ErrReplaced ends Play when a newer sink has come.
var ErrReplaced = errors.New("a newer listener has taken the replay over")

// Play plays a replay to a sink and returns when it has ended (nil), ctx has, a newer sink has
// come, or the sink gave an error; but for the first, the replay then waits for another sink.
// KindNotFound without such a replay, KindConflict when it has ended already, KindInvalid
// when the sink cannot carry the mark and must. idle is the longest silence towards the sink.
// A replay of StartInto is KindConflict: the manager plays it.
func (m *Manager) Play(ctx context.Context, id string, sink Sink, resume Resume, idle time.Duration) error {
	s, err := m.Get(id)
	if err != nil {
		return err
	}
	if s.Into != "" && s.State != Ended {
		return signalbox.Errorf(signalbox.KindConflict, "replay_taken", "the hub plays the replay %s into %s by itself; nobody can listen to it here", id, s.Into)
	}
	return m.play(ctx, id, sink, resume, idle)
}

// play is Play for whoever it is.
func (m *Manager) play(ctx context.Context, id string, sink Sink, resume Resume, idle time.Duration) error {
	v, err := m.enter(id, sink, resume, idle)
	if err != nil {
		return err
	}
	defer v.leave()
	err = v.run(ctx)
	if err != nil && v.failed {
		m.cfg.Logger.Error("a replay failed", "replay", id, "err", err)
		m.mu.Lock()
		if v.r.reason == "" {
			v.r.end(ReasonFailed, time.Now())
		}
		m.mu.Unlock()
		s := m.statusOf(v.r)
		return errors.Join(err, sink.Tell(ctx, &s))
	}
	return err
}

// view is one sink's time with a replay.
type view struct {
	m      *Manager
	r      *replay
	sink   Sink
	number uint64
	idle   time.Duration

	feed   *feed
	batch  *batch
	rest   []Event // of batch
	clock  clock
	seeks  uint64
	told   string    // what the sink knows
	spoke  time.Time // when the sink last heard something
	failed bool      // the fault is not the sink's
}

func (m *Manager) enter(id string, sink Sink, resume Resume, idle time.Duration) (*view, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.find(id)
	switch {
	case err != nil:
		return nil, err
	case r.reason != "":
		return nil, errEnded(r)
	case !sink.CarriesMark() && !r.options.Unmarked:
		return nil, errUnmarked()
	}
	now := time.Now()
	r.viewers++
	r.viewer = r.viewers
	if r.started.IsZero() {
		r.started = now
	}
	if resume.Known {
		r.resume(resume)
	}
	r.tell() // an older sink is to go
	return &view{m: m, r: r, sink: sink, number: r.viewer, idle: idle, seeks: r.seeks, spoke: now}, nil
}

// resume goes on behind what the sink has taken, which may be more than is known of here; when
// it has taken nothing since the replay was moved last, where that was to.
func (r *replay) resume(at Resume) {
	if at.Seeks == r.seeks && at.Position == r.place.after {
		return
	}
	r.place = r.base
	if at.Seeks == r.seeks {
		r.place.skip = at.Position
	}
}

// leave ends the view; the replay waits for another sink.
func (v *view) leave() {
	if v.feed != nil {
		v.feed.close()
	}
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	if v.r.viewer == v.number {
		v.r.viewer, v.r.patient = 0, time.Now().Add(Linger)
	}
}

// orders are what a replay is to do now.
type orders struct {
	replaced bool
	status   Status
	place    place
	changed  <-chan struct{}
}

func (v *view) orders() orders {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	return orders{replaced: v.r.viewer != v.number, status: v.r.status(), place: v.r.place, changed: v.r.changed}
}

func (m *Manager) statusOf(r *replay) Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return r.status()
}

func (v *view) run(ctx context.Context) error {
	for {
		o := v.orders()
		if o.replaced {
			return ErrReplaced
		}
		if err := v.tell(ctx, &o.status); err != nil || o.status.State == Ended {
			return err
		}
		if v.feed == nil || v.seeks != o.status.Seeks {
			v.reopen(ctx, &o)
		}
		var err error
		switch {
		case o.status.State == Paused:
			v.clock.stop(time.Now())
			_, err = v.wait(ctx, &o, nil, -1)
		case len(v.rest) == 0:
			err = v.next(ctx, &o)
		default:
			err = v.play(ctx, &o)
		}
		if err != nil {
			return err
		}
	}
}

// tell lets the sink know of what it does not know yet.
func (v *view) tell(ctx context.Context, s *Status) error {
	news := string(s.State)
	if s.Seeks != v.seeks {
		news += " moved"
	}
	if news == v.told {
		return nil
	}
	v.told = string(s.State)
	v.spoke = time.Now()
	return v.sink.Tell(ctx, s)
}

// reopen reads from where the replay is to go on.
func (v *view) reopen(ctx context.Context, o *orders) {
	if v.feed != nil {
		v.feed.close()
	}
	v.feed = v.m.open(ctx, v.r, o.place)
	v.batch, v.rest, v.clock, v.seeks = nil, nil, clock{}, o.status.Seeks
}

// next takes a batch, or ends the replay when there is none left.
func (v *view) next(ctx context.Context, o *orders) error {
	if v.batch != nil {
		v.feed.used(v.batch)
		v.batch = nil
	}
	b, err := v.wait(ctx, o, v.feed.out, -1)
	if err != nil || b == nil {
		return err
	}
	v.batch, v.rest = b, b.events
	return nil
}

// wait lets time pass: until the orders change, a batch comes, or d is over (below 0: never).
// The sink hears of it when it was silent for long.
func (v *view) wait(ctx context.Context, o *orders, batches <-chan *batch, d time.Duration) (*batch, error) {
	silence := max(v.idle-time.Since(v.spoke), 0)
	long := d < 0 || silence < d
	if long {
		d = silence
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-o.changed:
	case b, more := <-batches:
		if !more {
			return nil, v.over(ctx)
		}
		select {
		case v.feed.taken <- struct{}{}:
		default:
		}
		return b, nil
	case <-timer.C:
		if long {
			v.spoke = time.Now()
			return nil, v.sink.Idle(ctx)
		}
	}
	return nil, nil //nolint:nilnil // there is neither a batch nor a fault
}

// over ends the replay, for there is nothing left to read.
func (v *view) over(ctx context.Context) error {
	if err := v.feed.err; err != nil {
		v.failed = ctx.Err() == nil
		return err
	}
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	// Whoever moved it back in this moment wants it to go on.
	if v.r.reason == "" && v.r.viewer == v.number && v.r.seeks == v.seeks {
		v.r.end(ReasonDone, time.Now())
	}
	return nil
}

// play sends what is due, or waits for it.
func (v *view) play(ctx context.Context, o *orders) error {
	now := time.Now()
	first := v.rest[0].moment
	v.clock.run(first, o.status.Speed, now)
	if d := v.clock.until(first, now); d > 0 {
		_, err := v.wait(ctx, o, nil, d)
		return err
	}
	v.clock.late(first, now)
	n := len(v.rest)
	if o.status.Speed > 0 {
		n = max(due(v.rest, v.clock.now(now)), 1)
	}
	events := v.rest[:n]
	if !v.stamp(events, now) {
		return nil
	}
	if ended, err := v.deliver(ctx, &o.status, events); err != nil || ended {
		return err
	}
	v.spoke = time.Now()
	v.clock.sent(events[n-1].moment)
	v.rest = v.rest[n:]
	v.sent(events)
	return nil
}

// deliver gives events to the sink. A replay that ends meanwhile does not wait for a sink that
// does not take them: ended says so.
func (v *view) deliver(ctx context.Context, s *Status, events []Event) (ended bool, err error) {
	within, cut := context.WithCancel(ctx)
	defer cut()
	v.m.mu.Lock()
	over := v.r.reason != ""
	if !over && v.r.viewer == v.number {
		v.r.cut = cut
	}
	v.m.mu.Unlock()
	if over {
		return true, nil
	}
	err = v.sink.Deliver(within, s, events)
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	if v.r.viewer == v.number {
		v.r.cut = nil
	}
	ended = err != nil && v.r.reason != "" && ctx.Err() == nil
	if ended {
		err = nil
	}
	return ended, err
}

// stamp shifts times where that is wanted. It reports false when the view is out of date.
func (v *view) stamp(events []Event, now time.Time) bool {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	r := v.r
	if r.viewer != v.number || r.seeks != v.seeks || r.reason != "" {
		return false
	}
	if r.options.Times != Shifted {
		return true
	}
	if !r.shifted {
		// Whole milliseconds: what is shown of a time is not rounded another way.
		r.shift, r.shifted = (now.UnixMilli()-time.UnixMicro(events[0].moment).UnixMilli())*1000, true
	}
	for i := range events {
		events[i].TimeMicros += r.shift
		events[i].ReceivedMicros += r.shift
	}
	return true
}

// sent notes that the sink has taken events.
func (v *view) sent(events []Event) {
	bytes := 0
	for i := range events {
		bytes += len(events[i].Object)
	}
	v.m.stats.Events.Add(int64(len(events)))
	v.m.stats.Bytes.Add(int64(bytes))
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	r := v.r
	if r.viewer != v.number || r.seeks != v.seeks {
		return // the sink has them, but that is not where it goes on
	}
	last := &events[len(events)-1]
	r.place = place{after: last.Position, clock: last.moment, seek: r.base.seek}
	r.at, r.sent = last.moment, r.sent+int64(len(events))
}
