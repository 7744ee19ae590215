package forward

import (
	"context"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

// maxLetters bounds one answer of DeadLetters.
const maxLetters = 1000

// DeadLetters shows up to limit (1 to 1,000; 0: 100) dead letters of a forwarder, the newest
// first; only those with an ID below before, unless that is 0.
func (m *Manager) DeadLetters(ctx context.Context, name string, limit int, before int64) ([]DeadLetter, error) {
	f, err := m.find(name)
	if err != nil {
		return nil, err
	}
	if limit == 0 {
		limit = 100
	}
	if limit < 0 || limit > maxLetters || before < 0 {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_limit", "limit is %d; allowed are 1 to %d", limit, maxLetters)
	}
	rows, err := m.parts.Store.DeadLetters(ctx, f.name, before, limit)
	if err != nil {
		return nil, err
	}
	list := make([]DeadLetter, len(rows))
	for i := range rows {
		r := &rows[i]
		list[i] = DeadLetter{
			ID: r.ID, Position: r.Position, Device: r.DeviceName, Received: time.UnixMicro(r.ReceivedMicros).UTC(), At: time.UnixMicro(r.AtMicros).UTC(),
			Attempts: r.Attempts, Status: r.Status, Reason: r.Reason, Body: r.Body,
		}
	}
	return list, nil
}

// Resend sends dead letters again, all without ids, the oldest first and marked as redelivered,
// and drops those that the receiver takes. It gives how many these were, also with an error. What
// is in the letter is sent as it was. KindUnavailable when the target is away, KindConflict when
// the forwarder is paused, the receiver refuses all, or the transport cannot say which it takes: TCP,
// UDP or WebSocket, to which a forwarder may have been changed.
func (m *Manager) Resend(ctx context.Context, name string, ids []int64) (n int, err error) {
	f, err := m.find(name)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, resendPatience)
	defer cancel()
	all, denied := len(ids) == 0, ""
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	for after := int64(0); ; {
		var letters []store.DeadLetter
		letters, after, err = f.letters(ctx, after, all, &ids)
		if err != nil || len(letters) == 0 {
			if err == nil && n == 0 && denied != "" {
				err = signalbox.Errorf(signalbox.KindConflict, "refused_again", "the receiver refuses them again: %s", denied)
			}
			return n, err
		}
		if err := f.ready(); err != nil {
			return n, err
		}
		j := &job{letters: letters}
		if err := f.submit(ctx, j); err != nil {
			return n, err
		}
		if j.denied != "" {
			denied = j.denied
		}
		dropped, err := f.dropLetters(ctx, j.taken)
		n += dropped
		if err != nil {
			return n, err
		}
	}
}

// ready says why the forwarder can send nothing now.
func (f *forwarder) ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !schemeOf(f.spec.To).exact() {
		return signalbox.Errorf(signalbox.KindConflict, "resend_not_possible",
			"the forwarder %q sends over a transport that does not tell which dead letters arrive; they can be sent again over http, https, mqtt and mqtts, or dropped", f.name)
	}
	switch f.shown() {
	case StatePaused:
		return signalbox.Errorf(signalbox.KindConflict, "forwarder_paused", "the forwarder %q is paused; let it go on first", f.name)
	case StateWaiting, StateConnecting:
		return signalbox.Errorf(signalbox.KindUnavailable, "target_away", "the target of the forwarder %q is away (%s); try again when it is back", f.name, f.fault)
	default:
		return nil
	}
}

// letters gives some dead letters in the order in which they are sent, and after which to go on.
// Unless all are wanted, ids are the only ones; those that are read are taken off.
func (f *forwarder) letters(ctx context.Context, after int64, all bool, ids *[]int64) (found []store.DeadLetter, next int64, err error) {
	if all {
		found, err = f.m.parts.Store.DeadLettersAfter(ctx, f.name, after, resendPage)
		if n := len(found); n > 0 {
			next = found[n-1].ID
		}
		return found, next, err
	}
	n := min(len(*ids), resendPage)
	for _, id := range (*ids)[:n] {
		letter, err := f.m.parts.Store.DeadLetter(ctx, f.name, id)
		if err != nil {
			return nil, 0, err
		}
		found, next = append(found, letter), id
	}
	*ids = (*ids)[n:]
	return found, next, nil
}

// dropLetters deletes dead letters, and says how many there were.
func (f *forwarder) dropLetters(ctx context.Context, ids []int64) (int, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	var dropped int64
	err := f.m.parts.Store.Update(ctx, func(tx *store.Tx) (err error) {
		dropped, err = tx.DeleteDeadLetters(ctx, f.name, ids)
		n := dropped
		tx.Then(func() { f.stats.Dead.Add(-n) })
		return err
	})
	if err != nil {
		return 0, err
	}
	return int(dropped), nil
}

// DropDead drops dead letters, all without ids, and gives how many there were.
func (m *Manager) DropDead(ctx context.Context, name string, ids []int64) (n int, err error) {
	f, err := m.find(name)
	if err != nil {
		return 0, err
	}
	if len(ids) > 0 {
		return f.dropLetters(ctx, ids)
	}
	var dropped int64
	err = m.parts.Store.Update(ctx, func(tx *store.Tx) (err error) {
		dropped, err = tx.TrimDeadLetters(ctx, f.name, 0)
		n := dropped
		tx.Then(func() { f.stats.Dead.Add(-n) })
		return err
	})
	return int(dropped), err
}
