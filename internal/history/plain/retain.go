package plain

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

// Dropped says what Retain took away: Days as whole partitions, Rows one by one.
type Dropped struct{ Days, Rows int64 }

const (
	// deleteRows is about how many rows go in one transaction; twice as many at most.
	deleteRows = 2000
	// tidyPart is the part of its age by which a limit must have moved before a device's rows are
	// looked at again, and tidyMost the most that it need move.
	tidyPart = 16
	tidyMost = time.Hour
)

// Retain takes away the rows before the time that before gives for their device; the zero
// time keeps all. Of devices that are gone all go. With partitions, what may go for all devices
// goes by whole days of UTC, so that up to a day's rows before the time may stay. Before Run
// has found the table there is nothing to do. One call at a time.
func (t *Table) Retain(ctx context.Context, before func(signalbox.DeviceID) time.Time) (sum Dropped, err error) {
	t.mu.Lock()
	opened, floor := t.opened, t.floor
	t.mu.Unlock()
	if !opened {
		return sum, nil
	}
	defer func() {
		t.stats.Days.Add(sum.Days)
		t.stats.Deleted.Add(sum.Rows)
	}()
	var newest int64
	if err := t.st.Reader().QueryRowContext(ctx, `SELECT COALESCE(MAX(device), 0) FROM `+store.PlainTable).Scan(&newest); err != nil {
		return sum, fmt.Errorf("look at the plain table: %w", err)
	}
	limits := make([]time.Time, newest+1)
	var all time.Time // before then everything may go
	first := true
	for id := range limits {
		device := signalbox.DeviceID(id)
		if id == 0 || t.gone[device] {
			continue
		}
		limits[id] = before(device)
		if t.cfg.Known(device) && (first || limits[id].Before(all)) {
			all, first = limits[id], false
		}
	}
	split := t.layout.split() && !all.IsZero()
	if split {
		if sum.Days, err = t.dropDays(ctx, dayAt(all)); err != nil {
			return sum, err
		}
		split = dayAt(all) >= floor // else some of it has no partitions of its own
	}
	var cuts []cut
	for id, limit := range limits {
		device := signalbox.DeviceID(id)
		whole := split && limit.Equal(all) // it went by days
		if !limit.IsZero() && (!t.cfg.Known(device) || !whole && !t.tidy(device, limit)) {
			cuts = append(cuts, cut{device: device, limit: limit, end: t.layout.time(limit.UTC().Format(stamp))})
		}
	}
	for len(cuts) > 0 {
		n, done, err := t.delete(ctx, cuts)
		if sum.Rows += n; err != nil {
			return sum, err
		}
		for _, c := range cuts[:done] {
			if t.cfg.Known(c.device) {
				t.tidied[c.device] = c.limit
			} else {
				t.gone[c.device] = true
			}
		}
		cuts = cuts[done:]
	}
	return sum, nil
}

// tidy says that a device's rows were looked at not long ago.
func (t *Table) tidy(device signalbox.DeviceID, limit time.Time) bool {
	last, ok := t.tidied[device]
	return ok && limit.Sub(last) < min(time.Since(limit)/tidyPart, tidyMost)
}

// dropDays drops the partitions before a day.
func (t *Table) dropDays(ctx context.Context, before day) (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.layout.drop(ctx, before)
	if err != nil {
		err = fmt.Errorf("drop days of the plain table: %w", err)
	}
	return int64(n), err
}

// some says whether a table, or a part of one, has rows.
func (t *Table) some(ctx context.Context, name string) (bool, error) {
	var n int
	err := t.st.Reader().QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT 1 AS one FROM `+name+` LIMIT 1) AS sample`).Scan(&n)
	return n > 0, err
}

// cut is what of a device goes: what is before the limit, end in the words of the database.
type cut struct {
	device signalbox.DeviceID
	limit  time.Time
	end    string
}

// piece is what of a cut goes in one transaction: all, or what is up to a row.
type piece struct {
	cut
	all bool
	ts  string
	seq int64
}

// delete does a transaction, and says how many rows it took and how many of the cuts are done.
func (t *Table) delete(ctx context.Context, cuts []cut) (rows int64, done int, err error) {
	var pieces []piece
	for n := 0; n < deleteRows && done < len(cuts); {
		p, size, err := t.piece(ctx, cuts[done])
		if err != nil {
			return 0, 0, fmt.Errorf("look at the plain table: %w", err)
		}
		if n += size; size > 0 {
			pieces = append(pieces, p)
		}
		if p.all {
			done++
		}
	}
	if len(pieces) == 0 {
		return 0, done, nil
	}
	err = t.side.Update(ctx, func(tx store.SideTx) error {
		rows = 0
		for _, p := range pieces {
			res, err := p.delete(ctx, tx)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			rows += n
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return rows, done, nil
}

// piece finds what of a cut fits into a transaction, and how many rows that is.
func (t *Table) piece(ctx context.Context, c cut) (p piece, rows int, err error) {
	const before = ` FROM ` + store.PlainTable + ` WHERE device = ? AND ts < ? `
	p = piece{cut: c, all: true}
	r := t.st.Reader()
	if err := r.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT 1 AS one`+before+`LIMIT ?) AS sample`, int64(c.device), c.end, deleteRows).Scan(&rows); err != nil || rows < deleteRows {
		return p, rows, err
	}
	p.all = false
	err = r.QueryRowContext(ctx, `SELECT ts, seq`+before+`ORDER BY device, ts, seq LIMIT 1 OFFSET ?`, int64(c.device), c.end, deleteRows-1).Scan(&p.ts, &p.seq)
	return p, rows, err
}

func (p *piece) delete(ctx context.Context, tx store.SideTx) (sql.Result, error) {
	if p.all {
		return tx.Exec(ctx, `DELETE FROM `+store.PlainTable+` WHERE device = ? AND ts < ?`, int64(p.device), p.end)
	}
	return tx.Exec(ctx, `DELETE FROM `+store.PlainTable+` WHERE device = ? AND ts <= ? AND (ts < ? OR seq <= ?)`, int64(p.device), p.ts, p.ts, p.seq)
}
