package command

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

// Load takes up what an earlier life of the hub left unfinished: it reads the active rows,
// brings the table up to date with the log, and goes on from there. Call it once, before
// devices connect and before Run.
func (r *Road) Load(ctx context.Context) error {
	newest := ""
	if err := r.store.Commands(ctx, 0, "", 1, func(c *signalbox.Command) error { newest = c.ID; return nil }); err != nil {
		return err
	}
	r.ids.startAfter(newest)
	known := map[string]*entry{}
	err := r.store.ActiveCommands(ctx, func(c *signalbox.Command) error {
		known[c.ID] = &entry{c: *c, stored: true, written: !c.SentAt.IsZero()}
		return nil
	})
	if err != nil {
		return err
	}
	late, err := r.replay(ctx, known)
	if err != nil {
		return err
	}
	found := make([]*entry, 0, len(known))
	for _, e := range known {
		found = append(found, e)
	}
	slices.SortFunc(found, func(a, b *entry) int { return strings.Compare(a.c.ID, b.c.ID) })
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
	return r.catchUp(ctx, late, found)
}

// replay brings known up to date with what the log tells after the checkpoint, and gives
// the commands that changed by it.
func (r *Road) replay(ctx context.Context, known map[string]*entry) (changed map[*entry]bool, err error) {
	checkpoint, ok, err := r.readCheckpoint(ctx)
	if err != nil {
		return nil, err
	}
	end := r.log.Committed()
	r.image.last = end
	if !ok {
		// Rows and entries were written together until now, and this says so.
		r.image.checkpoint = end
		r.hold.Release(end)
		return nil, r.store.Update(ctx, func(tx *store.Tx) error { return tx.SetMeta(ctx, checkpointName, formatPosition(end)) })
	}
	if checkpoint > end {
		return nil, fmt.Errorf("the command table is as of position %d, but the intake log ends at %d: they do not belong together", checkpoint, end)
	}
	r.image.checkpoint = checkpoint
	r.hold.Release(checkpoint)
	changed = map[*entry]bool{}
	err = r.log.Scan(ctx, checkpoint+1, func(logged *signalbox.Entry) error {
		if logged.Kind != signalbox.EntryCommand {
			return nil
		}
		var rec record
		if err := json.Unmarshal(logged.Body, &rec); err != nil {
			return fmt.Errorf("the command in the intake log at position %d cannot be read: %w", logged.Position, err)
		}
		rec.To = logged.Device
		r.ids.startAfter(rec.ID)
		e := known[rec.ID]
		if e == nil {
			if r.devices.NameOf(rec.To) == "" {
				return nil // its device was removed, and its rows with it
			}
			e = &entry{}
			known[rec.ID] = e
		}
		e.c, e.written = rec.Command, !rec.SentAt.IsZero()
		changed[e] = true
		for _, id := range rec.Replaces {
			if old := known[id]; old != nil && old.c.State == signalbox.CommandQueued {
				old.c.State, old.c.EndedAt = signalbox.CommandCanceled, rec.CreatedAt
				changed[old] = true
			}
		}
		return nil
	})
	return changed, err
}

// catchUp writes the rows of what was replayed, and those of commands that are no longer
// active because of it, and moves the checkpoint to the end of the log.
func (r *Road) catchUp(ctx context.Context, late map[*entry]bool, found []*entry) error {
	var behind []*entry
	for _, e := range found {
		sh := r.shard(e.c.To)
		sh.mu.Lock()
		if late[e] || e.stored && !keepsActive(&e.c, e.watched) {
			behind = append(behind, e)
		}
		sh.mu.Unlock()
	}
	r.image.oweFirst(behind)
	return r.flushRows(ctx)
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

// adoptWatch lets telemetry confirm a stored command if there is time left; that of an
// older one of its name ends.
func (r *Road) adoptWatch(sh *shard, e *entry) {
	if e.written {
		l := sh.lane(e.c.To)
		if older := l.watched(e.c.Name); older != nil {
			r.unwatch(l, older)
			r.arm(older)
		}
		if !e.c.State.Ended() && e.c.SentAt.Add(r.cfg.ConfirmWindow).After(time.Now()) && r.worthWatching(&e.c) {
			r.watch(l, e)
		}
		sh.tidy(e.c.To)
	}
	r.arm(e)
}
