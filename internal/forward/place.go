package forward

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

const (
	// placeEvery is the least time between two writings of a forwarder's place. It rides along
	// with commits of the log; when there is none for as long again, it has a transaction of its
	// own.
	placeEvery = 200 * time.Millisecond
	// ridePlaces are the places that one transaction takes.
	ridePlaces = 64
	// aheadOf is how far the log's end lies ahead of what is sent when it is on disk how far that may
	// go, and boundFor how often at most that is written.
	aheadOf  = MaxBatch
	boundFor = time.Second
	// storeTimeout bounds a transaction for which a forwarder waits.
	storeTimeout = 30 * time.Second
)

// place is how far a forwarder is: everything up to cursor is settled; up to sent, or when it is
// flowing up to the log's end, messages may have been sent.
type place struct {
	cursor, sent signalbox.Position
	flowing      bool
}

// placing is a place and what the database has of it.
type placing struct {
	mu sync.Mutex
	// now is how it is. stored is what the database has; while that is not known for sure, its
	// flowing is false and its sent the lowest of what it can be.
	now, stored place
	known       bool
	dirty       time.Time // since when the two differ; zero: they do not
	gone        bool      // the forwarder was removed: nothing is written any more
	// turn counts writings. The end of one that was known late says nothing when another began.
	turn uint64
}

// cursor is the position up to which everything is settled.
func (p *placing) cursor() signalbox.Position {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now.cursor
}

// get gives the place as it is.
func (p *placing) get() place {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// change changes the place, which is written soon. The caller does not hold mu.
func (p *placing) change(f func(now *place)) (first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.now)
	if p.known && p.now == p.stored || p.gone || !p.dirty.IsZero() {
		return false
	}
	p.dirty = time.Now()
	return true
}

// take gives the place as it is to be written, if it is due. What is about to be written counts
// as stored where that is the careful choice.
func (p *placing) take(least time.Duration) (now place, turn uint64, due bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone || p.dirty.IsZero() || time.Since(p.dirty) < least {
		return place{}, 0, false
	}
	return p.now, p.hedge(p.now), true
}

// hedge says that next may replace what is stored, and gives the turn of its writing. The caller
// holds mu.
func (p *placing) hedge(next place) (turn uint64) {
	p.turn++
	p.known = false
	p.stored.flowing = p.stored.flowing && next.flowing
	p.stored.sent = min(p.stored.sent, next.sent)
	return p.turn
}

// wrote says that what take gave is stored.
func (p *placing) wrote(w place, turn uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if turn != p.turn {
		return
	}
	p.stored, p.known, p.dirty = w, true, time.Time{}
	if p.now != w {
		p.dirty = time.Now()
	}
}

// covers says whether a kill after messages up to at were sent would be known to have come after
// them, whatever happens.
func (p *placing) covers(at signalbox.Position) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return at <= min(p.stored.sent, p.now.sent)
}

// flows says whether a kill after messages up to at were sent would be known to have come after
// them. Unless that is so whatever happens, the place is flowing from here on, or up to bound if
// that is not 0 and so not before at: a writing of it that begins later must not take back what is
// stored.
func (p *placing) flows(at, bound signalbox.Position) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at <= min(p.stored.sent, p.now.sent) {
		return true
	}
	p.now.flowing = bound == 0
	p.now.sent = max(p.now.sent, bound)
	return p.stored.flowing
}

// row is a place as the database has it.
func (f *forwarder) row(p place) store.ForwarderPlace {
	counters, err := json.Marshal(f.stats.counters())
	if err != nil {
		counters = nil // it has numbers alone
	}
	return store.ForwarderPlace{Name: f.name, Settled: p.cursor, Sent: p.sent, Flowing: p.flowing, Counters: counters}
}

// moved says that the place changed.
func (f *forwarder) moved(change func(now *place)) {
	if f.place.change(change) {
		nudge(f.m.dirtied)
	}
}

// taken are places that are being written.
type taken struct {
	of     []*forwarder
	places []place
	turns  []uint64
	rows   []store.ForwarderPlace
}

// gather takes the places that are due. The caller has the turn to write.
func (m *Manager) gather(least time.Duration) (t taken) {
	for _, f := range *m.running.Load() {
		if p, turn, ok := f.place.take(least); ok {
			t.of, t.places, t.turns, t.rows = append(t.of, f), append(t.places, p), append(t.turns, turn), append(t.rows, f.row(p))
		}
		if len(t.of) == ridePlaces {
			break
		}
	}
	return t
}

func (t *taken) wrote(err error) {
	if err != nil {
		return
	}
	for i, f := range t.of {
		f.place.wrote(t.places[i], t.turns[i])
	}
}

// ride gives the log places to be written along with a commit.
func (m *Manager) ride() (history.Change, func(error)) {
	select {
	case m.writing <- struct{}{}:
	default:
		return nil, nil
	}
	t := m.gather(placeEvery)
	if len(t.of) == 0 {
		<-m.writing
		return nil, nil
	}
	write := func(ctx context.Context, tx *store.Tx) error { return tx.PutForwarderPlaces(ctx, t.rows) }
	return write, func(err error) {
		t.wrote(err)
		<-m.writing
	}
}

// lock waits for the turn to write places, unlock ends it.
func (m *Manager) lock(ctx context.Context) error {
	select {
	case m.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Manager) unlock() { <-m.writing }

// flush writes the places that are due by themselves.
func (m *Manager) flush(ctx context.Context, least time.Duration) error {
	for {
		if err := m.lock(ctx); err != nil {
			return err
		}
		t := m.gather(least)
		if len(t.of) == 0 {
			m.unlock()
			return nil
		}
		err := m.parts.Store.Update(ctx, func(tx *store.Tx) error { return tx.PutForwarderPlaces(ctx, t.rows) })
		t.wrote(err)
		m.unlock()
		if err != nil {
			return err
		}
	}
}

// keepPlaces writes places that found no commit to ride along with, until ctx ends.
func (m *Manager) keepPlaces(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.dirtied:
		}
		for wait := true; wait; {
			timer.Reset(2 * placeEvery)
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			bounded, cancel := context.WithTimeout(ctx, storeTimeout)
			if err := m.flush(bounded, 2*placeEvery); err != nil && ctx.Err() == nil {
				m.cfg.Logger.Debug("places of forwarders could not be written; they wait", "err", err)
			}
			cancel()
			wait = m.anyDirty()
		}
	}
}

func (m *Manager) anyDirty() bool {
	for _, f := range *m.running.Load() {
		f.place.mu.Lock()
		dirty := !f.place.dirty.IsZero() && !f.place.gone
		f.place.mu.Unlock()
		if dirty {
			return true
		}
	}
	return false
}

// enter sees to it that a kill from now on is known to have come when messages up to at, and
// those that follow, may have been sent.
func (f *forwarder) enter(ctx context.Context, at signalbox.Position) error {
	if f.place.covers(at) {
		return nil
	}
	bound := f.bound(at)
	if !f.place.flows(at, bound) {
		return f.write(ctx, nil)
	}
	if bound > 0 {
		f.moved(func(*place) {})
	}
	return nil
}

// bound is how far messages may be sent, those up to at in any case, until that is to be on disk
// anew: as far as is sent in boundFor at the present pace. 0: without end. A forwarder at the log's
// end is not bound: after a kill hardly more counts as sent than was. One that is far behind is, or
// all that waited would carry the mark.
func (f *forwarder) bound(at signalbox.Position) signalbox.Position {
	last, now := f.pace, time.Now()
	f.pace.at, f.pace.when = at, now
	switch {
	case f.m.parts.Log.Committed() <= at+f.m.limits.ahead:
		return 0
	case last.at == 0 || last.at > at:
		return at
	default:
		took := max(now.Sub(last.when), boundFor/10)
		return at + (at-last.at)*signalbox.Position(boundFor/time.Millisecond)/signalbox.Position(took/time.Millisecond) //nolint:gosec // positive
	}
}

// holdBack bounds what may be sent to last, which is under way, if the log has gone on far beyond.
func (f *forwarder) holdBack(last signalbox.Position) {
	if f.m.parts.Log.Committed() <= last+f.m.limits.ahead {
		return
	}
	f.moved(func(now *place) {
		if now.flowing {
			now.flowing, now.sent = false, max(now.sent, last)
		}
	})
}

// errThere says that what was to be stored is stored already.
var errThere = errors.New("it is stored already")

// write stores the place now, and what also adds.
func (f *forwarder) write(ctx context.Context, also func(ctx context.Context, tx *store.Tx, p *place) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := f.m.lock(ctx); err != nil {
		return err
	}
	defer f.m.unlock()
	return f.m.parts.Store.Update(ctx, func(tx *store.Tx) error {
		f.place.mu.Lock()
		p, gone := f.place.now, f.place.gone
		f.place.mu.Unlock()
		if gone {
			return notFound(f.name)
		}
		if also != nil {
			if err := also(ctx, tx, &p); err != nil {
				return err
			}
		}
		f.place.mu.Lock()
		turn := f.place.hedge(p)
		f.place.mu.Unlock()
		tx.Then(func() { f.place.wrote(p, turn) })
		return tx.PutForwarderPlaces(ctx, []store.ForwarderPlace{f.row(p)})
	})
}

// bury stores a message as a dead letter, and moves behind it: both or nothing. Everything before
// it is settled. It gives how many others were dropped for it.
func (f *forwarder) bury(ctx context.Context, letter *store.DeadLetter) (dropped int64, err error) {
	letter.AtMicros = time.Now().UnixMicro()
	most := f.m.cfg.MaxDeadLetters
	err = f.write(ctx, func(ctx context.Context, tx *store.Tx, p *place) error {
		if p.cursor >= letter.Position {
			return errThere // of an attempt whose end was not known
		}
		id, err := tx.InsertDeadLetter(ctx, letter)
		if err != nil {
			return err
		}
		if dropped, err = tx.TrimDeadLetters(ctx, f.name, most); err != nil {
			return err
		}
		letter.ID, p.cursor, p.sent = id, letter.Position, max(p.sent, letter.Position)
		to, gone := *p, dropped
		tx.Then(func() {
			f.stats.Dead.Add(1 - gone)
			f.stats.DeadDropped.Add(gone)
			f.stats.Buried.Add(1)
			f.moved(func(now *place) { now.cursor, now.sent = max(now.cursor, to.cursor), max(now.sent, to.sent) })
		})
		return nil
	})
	if errors.Is(err, errThere) {
		return 0, nil
	}
	return dropped, err
}

// nudge wakes whoever waits on c, now or next.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
