package command

import (
	"context"
	"slices"
	"strings"

	"signalbox"
	"signalbox/internal/history"
)

// maxList bounds one page of List.
const maxList = 1000

// Get gives the command as it is now, which may be one commit ahead of the disk. KindNotFound
// command_not_found without it.
func (r *Road) Get(ctx context.Context, id string) (signalbox.Command, error) {
	if c, ok := r.present(id); ok {
		return c, nil
	}
	if _, _, ok := parseID(id); !ok {
		return signalbox.Command{}, signalbox.Errorf(signalbox.KindNotFound, "command_not_found", "there is no command %.40q; an ID has %d characters", id, idLen)
	}
	c, err := r.store.Command(ctx, id)
	if err != nil {
		return signalbox.Command{}, err
	}
	return *c, nil
}

// present gives a command in memory as it is now.
func (r *Road) present(id string) (signalbox.Command, bool) {
	e := r.index.get(id)
	if e == nil {
		return signalbox.Command{}, false
	}
	sh := r.shard(e.c.To)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return e.c, true
}

// List gives up to limit commands (1 to 1,000), newest first: of one device, or of all when
// device is 0; only those older than the command before, unless that is "".
func (r *Road) List(ctx context.Context, device signalbox.DeviceID, before string, limit int) ([]signalbox.Command, error) {
	if limit < 1 || limit > maxList {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_limit", "the limit is %d; allowed are 1 to %d", limit, maxList)
	}
	if _, _, ok := parseID(before); !ok && before != "" {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_cursor", "%.40q is not the ID of a command, which has %d characters", before, idLen)
	}
	// In this order: what leaves the first by then is in the second.
	late := r.image.newest(device, before, limit)
	list := make([]signalbox.Command, 0, min(limit, 100)+len(late))
	err := r.store.Commands(ctx, device, before, limit, func(c *signalbox.Command) error {
		list = append(list, *c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range list {
		if c, ok := r.present(list[i].ID); ok {
			list[i] = c
		}
	}
	return r.mergeLate(list, late, limit), nil
}

// mergeLate puts commands whose rows are behind into a list of commands from the store,
// newest first. Those of a removed device are left out.
func (r *Road) mergeLate(list []signalbox.Command, late []*entry, limit int) []signalbox.Command {
	newestFirst := func(a, b signalbox.Command) int { return strings.Compare(b.ID, a.ID) }
	stored := len(list)
	for _, e := range late {
		if r.devices.NameOf(e.c.To) == "" {
			continue
		}
		sh := r.shard(e.c.To)
		sh.mu.Lock()
		c := e.c
		sh.mu.Unlock()
		if at, found := slices.BinarySearchFunc(list[:stored], c, newestFirst); found {
			list[at] = c
			continue
		}
		list = append(list, c)
	}
	slices.SortFunc(list, newestFirst)
	return list[:min(limit, len(list))]
}

// Wait returns when the command has settled (signalbox.Command.Settled) and that is on
// disk, or when ctx ends: then with the command as it is, and no error. KindNotFound
// command_not_found without it.
func (r *Road) Wait(ctx context.Context, id string) (signalbox.Command, error) {
	e := r.index.get(id)
	if e == nil {
		return r.Get(context.WithoutCancel(ctx), id) // what only the store knows has settled
	}
	sh := r.shard(e.c.To)
	sh.mu.Lock()
	if !e.c.Settled() || e.unsaved {
		if e.done == nil {
			e.done = make(chan struct{})
		}
		done := e.done
		sh.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
		}
		sh.mu.Lock()
	}
	pos, settled := e.pos, e.c.Settled() && !e.unsaved
	sh.mu.Unlock()
	if settled {
		_ = r.log.Wait(ctx, pos) // ctx has ended: as it is
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return e.c, nil
}

// Cancel takes a queued command back, and returns when that is on disk. KindNotFound
// command_not_found; KindConflict already_sent when it has left the queue, already_ended
// when it has ended; KindUnavailable not_committed when ctx ends or CommitPatience is over
// before the commit: the command is canceled nevertheless.
func (r *Road) Cancel(ctx context.Context, id string) (signalbox.Command, error) {
	ctx, cancel := context.WithTimeout(ctx, CommitPatience)
	defer cancel()
	e := r.index.get(id)
	if e == nil {
		c, err := r.Get(ctx, id)
		if err == nil {
			err = notCancelable(&c)
		}
		return c, err
	}
	sh := r.shard(e.c.To)
	sh.mu.Lock()
	if e.c.State != signalbox.CommandQueued {
		defer sh.mu.Unlock()
		return e.c, notCancelable(&e.c)
	}
	r.end(sh.lane(e.c.To), e, signalbox.CommandCanceled, history.Now)
	sh.tidy(e.c.To)
	waits := e.unsaved
	sh.mu.Unlock()
	if waits {
		// The log takes nothing now. Wait ends when it has taken this, or with ctx.
		if c, err := r.Wait(ctx, id); err != nil {
			return c, err
		}
	}
	sh.mu.Lock()
	c, pos, unsaved := e.c, e.pos, e.unsaved
	sh.mu.Unlock()
	err := ctx.Err()
	if !unsaved {
		err = r.log.Wait(ctx, pos)
	}
	if err != nil {
		return c, signalbox.Wrap(signalbox.KindUnavailable, "not_committed", err, "the command %s is canceled and will not be sent, but that is not on disk yet", id)
	}
	return c, nil
}

func notCancelable(c *signalbox.Command) error {
	if c.State.Ended() {
		return signalbox.Errorf(signalbox.KindConflict, "already_ended", "the command %s has ended already (%s); only queued commands can be canceled", c.ID, c.State)
	}
	return signalbox.Errorf(signalbox.KindConflict, "already_sent", "the command %s has been sent to the device already (%s) and cannot be taken back; only queued commands can be canceled", c.ID, c.State)
}
