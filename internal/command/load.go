package command

import (
	"context"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// Load takes up what an earlier life of the hub left unfinished. Call it once, before
// devices connect and before Run.
func (r *Road) Load(ctx context.Context) error {
	newest := ""
	if err := r.store.Commands(ctx, 0, "", 1, func(c *signalbox.Command) error { newest = c.ID; return nil }); err != nil {
		return err
	}
	r.ids.startAfter(newest)
	var found []*entry
	err := r.store.ActiveCommands(ctx, func(c *signalbox.Command) error {
		found = append(found, &entry{c: *c, stored: true, written: !c.SentAt.IsZero()})
		return nil
	})
	if err != nil {
		return err
	}
	// A later sending ends the watching of an earlier one, whatever the order of submission.
	bySending := slices.Clone(found)
	slices.SortStableFunc(bySending, func(a, b *entry) int { return a.c.SentAt.Compare(b.c.SentAt) })
	for _, e := range found {
		r.adopt(e)
	}
	for _, e := range bySending {
		sh := r.shard(e.c.To)
		sh.mu.Lock()
		r.adoptWatch(sh, e)
		sh.mu.Unlock()
	}
	return nil
}

// adopt puts a stored command back to where it was.
func (r *Road) adopt(e *entry) {
	exists := r.devices.NameOf(e.c.To) != ""
	sh := r.shard(e.c.To)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	l := sh.lane(e.c.To)
	r.admit(sh, e)
	switch {
	case e.c.Settled():
	case !exists:
		r.end(l, e, signalbox.CommandCanceled, history.Soon) // its device was removed
	case e.c.State == signalbox.CommandQueued:
		l.waiting = append(l.waiting, e)
	default:
		l.open = append(l.open, e)
	}
	sh.tidy(e.c.To)
}

// adoptWatch lets telemetry confirm a stored command if there is time left.
func (r *Road) adoptWatch(sh *shard, e *entry) {
	if e.written && !e.c.State.Ended() && e.c.SentAt.Add(r.cfg.ConfirmWindow).After(time.Now()) && r.worthWatching(&e.c) {
		l := sh.lane(e.c.To)
		if older := l.watched(e.c.Name); older != nil {
			r.unwatch(l, older)
			r.arm(older)
		}
		r.watch(l, e)
	}
	r.arm(e)
}
