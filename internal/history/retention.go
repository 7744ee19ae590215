package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

// dropAtOnce is how many chunks retention takes in one transaction.
const dropAtOnce = 256

// Dropped says what retention took away.
type Dropped struct{ Chunks, Messages, Bytes int64 }

func (d *Dropped) add(o Dropped) {
	d.Chunks, d.Messages, d.Bytes = d.Chunks+o.Chunks, d.Messages+o.Messages, d.Bytes+o.Bytes
}

// EachDropped hears of what was dropped, once it is, a device's chunks one by one; device 0 is
// what is no telemetry. It must not call the log.
type EachDropped func(device signalbox.DeviceID, d Dropped)

// doomed is a chunk that is to be dropped.
type doomed struct {
	id     int64
	device signalbox.DeviceID
}

// DropBefore drops the chunks that end before the time that before gives for their device;
// the zero time keeps all. Chunks are dropped as a whole, so that some messages before the
// time may stay, as do those that are in no chunk yet, and the last chunk of a device until
// the log has nothing of it any more. Device 0 has what is no telemetry. It
// reads an index alone, so it costs little when there is nothing to drop. each may be nil.
func (l *Log) DropBefore(ctx context.Context, before func(signalbox.DeviceID) time.Time, each EachDropped) (sum Dropped, err error) {
	limits := map[signalbox.DeviceID]int64{}
	var old []doomed
	rows, err := l.heads.QueryContext(ctx)
	if err != nil {
		return sum, fmt.Errorf("read history: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	for rows.Next() {
		var id, device, t1 int64
		if err := rows.Scan(&id, &device, &t1); err != nil {
			return sum, fmt.Errorf("read history: %w", err)
		}
		limit, known := limits[signalbox.DeviceID(device)]
		if !known {
			limit = -1 << 62
			if t := before(signalbox.DeviceID(device)); !t.IsZero() {
				limit = t.UnixMicro()
			}
			limits[signalbox.DeviceID(device)] = limit
		}
		if t1 < limit {
			old = append(old, doomed{id, signalbox.DeviceID(device)})
		}
	}
	if err := rows.Err(); err != nil {
		return sum, fmt.Errorf("read history: %w", err)
	}
	return l.dropChunks(ctx, old, each)
}

// DropOver drops the device's oldest chunks until the others take at most limit bytes; the
// last may stay as with DropBefore. each may be nil.
func (l *Log) DropOver(ctx context.Context, device signalbox.DeviceID, limit int64, each EachDropped) (sum Dropped, err error) {
	rows, err := l.sizes.QueryContext(ctx, int64(device))
	if err != nil {
		return sum, fmt.Errorf("read history: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	var old []doomed
	for size := int64(0); rows.Next(); { // newest first
		var id, bytes int64
		if err := rows.Scan(&id, &bytes); err != nil {
			return sum, fmt.Errorf("read history: %w", err)
		}
		if size += bytes; size > limit {
			old = append(old, doomed{id, device})
		}
	}
	if err := rows.Err(); err != nil {
		return sum, fmt.Errorf("read history: %w", err)
	}
	return l.dropChunks(ctx, old, each)
}

// Oldest gives the history time of the oldest message of each wanted device that has one: by
// the heads of its chunks, also of those that are broken, and by what is in memory.
func (l *Log) Oldest(ctx context.Context, wanted func(signalbox.DeviceID) bool) (map[signalbox.DeviceID]time.Time, error) {
	if l.gone.Load() {
		return nil, l.away(nil)
	}
	if err := l.sealed.wait(ctx, l.Committed()); err != nil {
		return nil, err
	}
	oldest := map[signalbox.DeviceID]time.Time{}
	add := func(device signalbox.DeviceID, micros int64) {
		at := time.UnixMicro(micros).UTC()
		if was, ok := oldest[device]; !ok || at.Before(was) {
			oldest[device] = at
		}
	}
	// Memory first: what goes from there to the database meanwhile is found there as well.
	l.seal.tails.each(nil, func(device signalbox.DeviceID, m memory) {
		if !wanted(device) {
			return
		}
		for _, s := range m.spans(device, math.MinInt64, math.MaxInt64) {
			add(device, s.k0)
		}
	})
	rows, err := l.oldest.QueryContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	for rows.Next() {
		var device, t0 int64
		if err := rows.Scan(&device, &t0); err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		if d := signalbox.DeviceID(device); d != eventDevice && wanted(d) {
			add(d, t0)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return oldest, nil
}

// needed says whether a chunk that ends at position p1 is what tells a start up to where the
// device's messages in the log are in chunks: the last of them. Without it they would be taken
// for new and sealed once more.
func (c *doomed) needed(ctx context.Context, tx *store.Tx, p1 int64) (bool, error) {
	var begin, later int64
	if err := tx.QueryRow(ctx, `SELECT COALESCE(MIN(id), 0) FROM intake`, nil, &begin); err != nil || begin == 0 || p1 < begin {
		return false, err
	}
	err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM chunk WHERE device = ? AND p1 > ?`, []any{int64(c.device), p1}, &later)
	return later == 0, err
}

// dropChunk deletes a chunk in a transaction, and raises the marks for it. Nothing was dropped if
// it is gone already, or still needed.
func (l *Log) dropChunk(ctx context.Context, tx *store.Tx, c doomed, marks *droppedUpTo) (one Dropped, err error) {
	var p1 int64
	var begin []byte
	err = tx.QueryRow(ctx, `SELECT n, LENGTH(body), p1, SUBSTR(body, 1, 1) FROM chunk WHERE id = ?`, []any{c.id}, &one.Messages, &one.Bytes, &p1, &begin)
	if errors.Is(err, sql.ErrNoRows) {
		return Dropped{}, nil
	}
	if err != nil {
		return Dropped{}, err
	}
	if needed, err := c.needed(ctx, tx, p1); err != nil || needed {
		return Dropped{}, err
	}
	if l.unmissed == nil || !l.unmissed(c.device) {
		last, err := l.lastNews(ctx, tx, c.id, signalbox.Position(p1), begin)
		if err != nil {
			return Dropped{}, err
		}
		marks.raise(c.device, last)
	}
	if _, err := tx.Exec(ctx, `DELETE FROM chunk WHERE id = ?`, c.id); err != nil {
		return Dropped{}, err
	}
	one.Chunks = 1
	return one, nil
}

// dropChunks deletes chunks, a few in each transaction: what was dropped before an error or a
// kill stays so. One that is gone already, because it was merged, is passed over. Those who follow
// the log are told of the gap by marks that are written in the same transaction.
func (l *Log) dropChunks(ctx context.Context, old []doomed, each EachDropped) (sum Dropped, err error) {
	l.dropping.Lock()
	defer l.dropping.Unlock()
	parts := make([]Dropped, dropAtOnce)
	for len(old) > 0 {
		n := min(len(old), dropAtOnce)
		err := l.st.Update(ctx, func(tx *store.Tx) error {
			clear(parts)
			var marks droppedUpTo
			for i, c := range old[:n] {
				var err error
				if parts[i], err = l.dropChunk(ctx, tx, c, &marks); err != nil {
					return err
				}
			}
			return l.noteDropped(ctx, tx, marks)
		})
		if err != nil {
			return sum, err
		}
		for i, c := range old[:n] {
			sum.add(parts[i])
			l.stats.Dropped.Add(parts[i].Messages)
			if each != nil && parts[i].Chunks > 0 {
				each(c.device, parts[i])
			}
		}
		old = old[n:]
	}
	return sum, nil
}
