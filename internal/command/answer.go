package command

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/session"
	"signalbox/internal/store"
)

// Ack takes in that the device has received the command id. An ID that is unknown, that is
// another device's, or that was never sent is ignored and counted.
func (r *Road) Ack(s *session.Session, id string) {
	e := r.index.get(id)
	if e == nil || e.c.To != s.Device {
		r.stats.ignored.Add(1)
		return
	}
	sh := r.shard(s.Device)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e.gone || !e.written || !e.c.Protocol.Answers() || e.c.State != signalbox.CommandSent {
		r.stats.ignored.Add(1)
		return
	}
	e.c.State = signalbox.CommandDelivered
	e.c.DeliveredAt = notBefore(now(), e.c.SentAt)
	r.stats.state(signalbox.CommandDelivered)
	r.save(e, history.Soon)
}

// Result takes in what the device reports at the end of the command id: value is any JSON
// value or nothing, errText says what went wrong. Both are copied; a value that is no JSON
// is left out, a text over 1,024 bytes is cut. Ignored as for Ack, and so is a second
// result.
func (r *Road) Result(s *session.Session, id string, ok bool, value json.RawMessage, errText string) {
	res := lateResult{id: id, device: s.Device, ok: ok, text: clip(errText)}
	if len(value) > 0 && json.Valid(value) {
		res.value = slices.Clone(value)
	}
	if e := r.index.get(id); e != nil {
		if e.c.To != s.Device {
			r.stats.ignored.Add(1)
			return
		}
		sh := r.shard(s.Device)
		sh.mu.Lock()
		gone := e.gone
		if !gone {
			r.conclude(sh, e, &res)
		}
		sh.mu.Unlock()
		if !gone {
			return
		}
	}
	if _, _, valid := parseID(id); !valid {
		r.stats.ignored.Add(1)
		return
	}
	select {
	case r.late <- res:
	default:
		r.stats.ignored.Add(1)
	}
}

// conclude ends e with what the device reported. The caller holds sh.
func (r *Road) conclude(sh *shard, e *entry, res *lateResult) {
	if !e.written || !takesResult(&e.c) {
		r.stats.ignored.Add(1)
		return
	}
	if e.c.State.Ended() {
		r.stats.late.Add(1)
	}
	e.c.Result, e.c.Error = res.value, res.text
	state := signalbox.CommandFailed
	if res.ok {
		state = signalbox.CommandSucceeded
	}
	// Now, although nobody may be waiting yet: a device can be quicker than its commander.
	r.end(sh.lane(e.c.To), e, state, history.Now)
	sh.tidy(e.c.To)
}

// takesResult reports whether a result would change c: it was given to a device that
// answers, which has not answered yet.
func takesResult(c *signalbox.Command) bool {
	if !c.Protocol.Answers() || c.SentAt.IsZero() {
		return false
	}
	switch c.State {
	case signalbox.CommandSent, signalbox.CommandDelivered, signalbox.CommandTimedOut, signalbox.CommandExpired:
		return true
	default:
		return false
	}
}

// A lateResult is a result for a command that may be in the store only.
type lateResult struct {
	id     string
	device signalbox.DeviceID
	ok     bool
	value  json.RawMessage
	text   string
}

// recall takes a late result's command back into memory and concludes it.
func (r *Road) recall(ctx context.Context, res *lateResult) {
	c, err := r.store.Command(ctx, res.id)
	if err != nil || c.To != res.device || !takesResult(c) {
		if err != nil && signalbox.KindOf(err) != signalbox.KindNotFound {
			r.logger.Warn("a late result was lost: its command could not be read", "command_id", res.id, "err", err)
		}
		r.stats.ignored.Add(1)
		return
	}
	sh := r.shard(res.device)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := r.index.get(res.id)
	if e == nil {
		e = &entry{c: *c, written: true}
		r.admit(sh, e)
	}
	r.conclude(sh, e, res)
}

// Forget cancels what waits and what is unanswered for a device that is being removed.
// Call it before its rows are deleted; rows that are still to be written after that are
// dropped, for the store takes none of a device that is gone. A disabled device keeps its
// commands: they wait until they expire.
func (r *Road) Forget(id signalbox.DeviceID) {
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	l := sh.lanes[id]
	if l == nil {
		return
	}
	for _, e := range slices.Concat(l.waiting, l.open) {
		r.end(l, e, signalbox.CommandCanceled, history.Soon)
	}
	for len(l.watch) > 0 {
		e := l.watch[0]
		r.unwatch(l, e)
		r.arm(e)
	}
	sh.tidy(id)
}

// runJanitor does what needs the store: late results and pruning.
func (r *Road) runJanitor(ctx context.Context) {
	prune := time.NewTicker(r.cfg.PruneEvery)
	defer prune.Stop()
	for {
		select {
		case <-ctx.Done():
			r.recallRest(ctx)
			return
		case res := <-r.late:
			r.recall(ctx, &res)
		case <-prune.C:
			r.prune(ctx)
		}
	}
}

// recallRest takes in the late results that a stopping road still holds.
func (r *Road) recallRest(ctx context.Context) {
	calm, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	for {
		select {
		case res := <-r.late:
			r.recall(calm, &res)
		default:
			return
		}
	}
}

// prune deletes commands that have been kept long enough, a few at a time.
func (r *Road) prune(ctx context.Context) {
	const batch = 500
	pause := time.NewTicker(10 * time.Millisecond)
	defer pause.Stop()
	for before := firstID(now().Add(-r.cfg.Keep)); ; {
		var n int64
		err := r.store.Update(ctx, func(tx *store.Tx) (err error) {
			n, err = tx.PruneCommands(ctx, before, batch)
			return err
		})
		if err != nil {
			if ctx.Err() == nil {
				r.logger.Warn("old commands could not be deleted", "err", err)
			}
			return
		}
		r.stats.pruned.Add(uint64(n)) //nolint:gosec // a number of rows
		if n < batch {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// clip makes text valid UTF-8 of at most maxErrorLen bytes.
func clip(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxErrorLen {
		return text
	}
	cut := maxErrorLen
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut]
}
