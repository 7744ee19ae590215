package app

import (
	"context"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/history/plain"
	"signalbox/internal/store"
)

// The modes of history.mode.
const (
	historyChunks = "chunks"
	historyPlain  = "plain"
)

// openPlain prepares the plain table, if it is wanted. The log does not run yet.
func (a *App) openPlain() (err error) {
	if a.cfg.History.Mode != historyPlain {
		return nil
	}
	a.plain, err = plain.Open(plain.Config{
		Known: func(id signalbox.DeviceID) bool { return a.devices.Get(id) != nil }, Devices: a.deviceIDs, Logger: a.logger,
	}, a.store, a.log)
	a.retention.plain = a.plain
	return err
}

// deviceIDs gives those of all devices.
func (a *App) deviceIDs() []signalbox.DeviceID {
	all := a.devices.All()
	ids := make([]signalbox.DeviceID, len(all))
	for i, d := range all {
		ids[i] = d.ID
	}
	return ids
}

// runPlain keeps the plain table up to date.
func (a *App) runPlain(ctx context.Context) error {
	if a.plain == nil {
		return nil
	}
	return a.plain.Run(ctx)
}

// tellPlain says that there is a plain table which nobody keeps up to date.
func (a *App) tellPlain(ctx context.Context) {
	if a.plain != nil {
		return
	}
	if left, err := plain.Left(ctx, a.store); err == nil && left {
		a.logger.Warn("history.mode is chunks, but the database has the table of the plain mode: it gets nothing new, and history.keep does not concern it; drop it, or switch the plain mode on again",
			"table", store.PlainTable, "view", store.PlainView)
	}
}

// plainMetrics are there in the plain mode.
func (a *App) plainMetrics() []metric {
	if a.plain == nil {
		return nil
	}
	s := a.plain.Stats()
	return []metric{
		gauge("plain_behind_entries", "Entries of the log that are not in the plain table yet.", func() float64 { return float64(a.plain.Behind()) }),
		counter("plain_rows", "Rows written to the plain table.", &s.Rows),
		counter("plain_transactions", "Transactions in which they were written.", &s.Transactions),
		counter("plain_skipped_messages", "Messages left out of the plain table because the database does not take them.", &s.Skipped),
		counter("plain_faults", "Times the plain table could not be written and was tried again.", &s.Faults),
		counter("plain_dropped_days", "Partitions of the plain table that retention dropped.", &s.Days),
		counter("plain_deleted_rows", "Rows of the plain table that retention deleted one by one.", &s.Deleted),
	}
}

// retainPlain takes out of the plain table what is not kept in history.
func (r *retainer) retainPlain(ctx context.Context, now time.Time) (sum plain.Dropped, err error) {
	if r.plain == nil {
		return sum, nil
	}
	// Sizes are those of chunks: what is older than the oldest of them was dropped.
	var oldest map[signalbox.DeviceID]time.Time
	if slices.ContainsFunc(r.rules, func(k Keep) bool { return k.Bytes > 0 }) {
		oldest, err = r.log.Oldest(ctx, func(id signalbox.DeviceID) bool {
			k, _ := r.ruleOf(id)
			return k.Bytes > 0
		})
		if err != nil {
			return sum, err
		}
	}
	return r.plain.Retain(ctx, func(id signalbox.DeviceID) (before time.Time) {
		k, removed := r.ruleOf(id)
		if removed {
			return now
		}
		if k.Age > 0 {
			before = now.Add(-k.Age)
		}
		if first, ok := oldest[id]; ok && k.Bytes > 0 && first.After(before) {
			before = first
		}
		return before
	})
}
