package history

import (
	"context"
	"fmt"
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

// DropBefore drops the chunks that end before the time that before gives for their device;
// the zero time keeps all. Chunks are dropped as a whole, so that some messages before the
// time may stay, as do those that are in no chunk yet. Device 0 has what is no telemetry. It
// reads an index alone, so it costs little when there is nothing to drop.
func (l *Log) DropBefore(ctx context.Context, before func(signalbox.DeviceID) time.Time) (sum Dropped, err error) {
	limits := map[signalbox.DeviceID]int64{}
	var ids []int64
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
			ids = append(ids, id)
		}
	}
	if err := rows.Err(); err != nil {
		return sum, fmt.Errorf("read history: %w", err)
	}
	return l.dropChunks(ctx, ids)
}

// DropOver drops the device's oldest chunks until the others take at most limit bytes.
func (l *Log) DropOver(ctx context.Context, device signalbox.DeviceID, limit int64) (sum Dropped, err error) {
	rows, err := l.sizes.QueryContext(ctx, int64(device))
	if err != nil {
		return sum, fmt.Errorf("read history: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	var ids []int64
	for size := int64(0); rows.Next(); { // newest first
		var id, bytes int64
		if err := rows.Scan(&id, &bytes); err != nil {
			return sum, fmt.Errorf("read history: %w", err)
		}
		if size += bytes; size > limit {
			ids = append(ids, id)
		}
	}
	if err := rows.Err(); err != nil {
		return sum, fmt.Errorf("read history: %w", err)
	}
	return l.dropChunks(ctx, ids)
}

// dropChunks deletes chunks, a few in each transaction: what was dropped before an error or a
// kill stays so. One that is gone already, because it was merged, is passed over.
func (l *Log) dropChunks(ctx context.Context, ids []int64) (sum Dropped, err error) {
	for len(ids) > 0 {
		n := min(len(ids), dropAtOnce)
		var part Dropped
		err := l.st.Update(ctx, func(tx *store.Tx) error {
			part = Dropped{}
			for _, id := range ids[:n] {
				one := Dropped{Chunks: 1}
				err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(n), 0), COALESCE(MAX(LENGTH(body)), 0) FROM chunk WHERE id = ?`, []any{id}, &one.Messages, &one.Bytes)
				if err != nil || one.Messages == 0 {
					if err != nil {
						return err
					}
					continue
				}
				if _, err := tx.Exec(ctx, `DELETE FROM chunk WHERE id = ?`, id); err != nil {
					return err
				}
				part.add(one)
			}
			return nil
		})
		if err != nil {
			return sum, err
		}
		sum.add(part)
		l.stats.Dropped.Add(part.Messages)
		ids = ids[n:]
	}
	return sum, nil
}
