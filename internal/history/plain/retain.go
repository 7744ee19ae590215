package plain

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
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
	// mostOthers is how many numbers, of devices that nobody has told of, one Retain looks at.
	mostOthers = 1000
)

// Retain takes away the rows before the time that before gives for their device; the zero
// time keeps all. Of devices that are gone, and of numbers that are no device's, all go. With
// partitions, what may go for all devices goes by whole days of UTC, so that up to a day's rows
// before the time may stay. Before Run has found the table, or when somebody has dropped it,
// there is nothing to do. before must not call the table. One call at a time.
func (t *Table) Retain(ctx context.Context, before func(signalbox.DeviceID) time.Time) (sum Dropped, err error) {
	defer func() {
		t.stats.Days.Add(sum.Days)
		t.stats.Deleted.Add(sum.Rows)
	}()
	err = t.retain(ctx, before, &sum)
	if err == nil || ctx.Err() != nil {
		return sum, err
	}
	if there, lookErr := t.there(ctx); lookErr == nil && !there {
		t.missing.Store(true)
		t.look()
		return sum, nil
	}
	return sum, err
}

func (t *Table) retain(ctx context.Context, before func(signalbox.DeviceID) time.Time, sum *Dropped) error {
	cuts, prepared, err := t.begin(ctx, before, sum)
	if err != nil {
		return err
	}
	for len(cuts) > 0 {
		n, done, err := t.delete(ctx, cuts)
		if sum.Rows += n; err != nil {
			return err
		}
		t.finish(prepared, cuts[:done])
		cuts = cuts[done:]
	}
	return nil
}

// begin drops the days that may go, and says what goes row by row. No row comes meanwhile: it
// might be one, of a day that goes, of a device that keeps it.
func (t *Table) begin(ctx context.Context, before func(signalbox.DeviceID) time.Time, sum *Dropped) (cuts []cut, prepared int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.opened {
		return nil, 0, nil
	}
	numbers, complete, err := t.numbers(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("look at the plain table: %w", err)
	}
	limits := make([]time.Time, len(numbers))
	removed := make([]bool, len(numbers))
	var all time.Time // before then everything may go
	first := true
	for i, n := range numbers {
		if removed[i] = !t.known(n); removed[i] {
			continue
		}
		limit := before(signalbox.DeviceID(n)) //nolint:gosec // known has looked
		if first || limit.Before(all) {
			all, first = limit, false
		}
		limits[i] = limit
	}
	split := t.layout.split() && complete && !all.IsZero()
	if split {
		if sum.Days, err = t.dropDays(ctx, dayAt(all)); err != nil {
			return nil, 0, fmt.Errorf("drop days of the plain table: %w", err)
		}
		split = dayAt(all) >= t.floor // else some of it has no partitions of its own
	}
	for i, n := range numbers {
		limit := limits[i]
		switch {
		case removed[i]:
			cuts = append(cuts, cut{device: n, removed: true})
		case limit.IsZero(), split && limit.Equal(all), t.tidy(n, limit): // all is kept, it went by days, or it was looked at
		default:
			cuts = append(cuts, cut{device: n, limit: limit, end: t.layout.time(limit.UTC().Format(stamp))})
		}
	}
	return cuts, t.prepared, nil
}

// known says whether a number is that of a device which is there.
func (t *Table) known(n int64) bool {
	return n > 0 && n <= math.MaxUint32 && t.cfg.Known(signalbox.DeviceID(n))
}

// numbers gives those of all devices that may have rows: of those that are there, of those that
// were removed between them, and what others the table has. complete is false when these are
// too many for one time.
func (t *Table) numbers(ctx context.Context) (list []int64, complete bool, err error) {
	devices := slices.Sorted(slices.Values(t.cfg.Devices()))
	top := int64(0)
	for _, d := range devices {
		for n := top + 1; n < int64(d); n++ {
			if !t.gone[signalbox.DeviceID(n)] { //nolint:gosec // it is less than d
				list = append(list, n)
			}
		}
		top = int64(d)
		list = append(list, top)
	}
	others := 0
	for after := int64(math.MinInt64); ; {
		var n sql.NullInt64
		err := t.st.Reader().QueryRowContext(ctx, `SELECT MIN(device) FROM `+store.PlainTable+` WHERE device > ? AND device <= ?`, after, int64(math.MaxInt64)).Scan(&n)
		switch {
		case err != nil:
			return nil, false, err
		case !n.Valid:
			return list, true, nil
		case others == mostOthers:
			return list, false, nil
		}
		if after = n.Int64; after > 0 && after <= top {
			after = top
			continue
		}
		list = append(list, after)
		others++
	}
}

// finish notes that cuts were done, if the table is still what it was when they were made.
func (t *Table) finish(prepared int, cuts []cut) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if prepared != t.prepared {
		return
	}
	for _, c := range cuts {
		device := signalbox.DeviceID(c.device) //nolint:gosec // looked at next
		switch {
		case int64(device) != c.device:
		case c.removed:
			t.gone[device] = true
			delete(t.tidied, device)
		default:
			t.tidied[device] = c.limit
		}
	}
}

// tidy says that a device's rows were looked at not long ago.
func (t *Table) tidy(device int64, limit time.Time) bool {
	last, ok := t.tidied[signalbox.DeviceID(device)] //nolint:gosec // it is a device's
	return ok && limit.Sub(last) < min(time.Since(limit)/tidyPart, tidyMost)
}

// dropDays drops the partitions before a day: of those that are there now, since others may
// have dropped some, or detached them to keep them.
func (t *Table) dropDays(ctx context.Context, before day) (int64, error) {
	if err := t.layout.load(ctx); err != nil {
		return 0, err
	}
	n, err := t.layout.drop(ctx, before)
	return int64(n), err
}

// some says whether a table, or a part of one, has rows.
func (t *Table) some(ctx context.Context, name string) (bool, error) {
	var n int
	err := t.st.Reader().QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT 1 AS one FROM `+name+` LIMIT 1) AS sample`).Scan(&n)
	return n > 0, err
}

// cut is what of a device goes: what is before the limit, end in the words of the database, or
// all if it was removed.
type cut struct {
	device  int64
	removed bool
	limit   time.Time
	end     string
}

// rows gives a condition, and its arguments.
func (c *cut) rows() (where string, args []any) {
	if c.removed {
		return ` FROM ` + store.PlainTable + ` WHERE device = ? `, []any{c.device}
	}
	return ` FROM ` + store.PlainTable + ` WHERE device = ? AND ts < ? `, []any{c.device, c.end}
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
	p = piece{cut: c, all: true}
	where, args := c.rows()
	r := t.st.Reader()
	if err := r.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT 1 AS one`+where+`LIMIT ?) AS sample`, append(args, deleteRows)...).Scan(&rows); err != nil || rows < deleteRows {
		return p, rows, err
	}
	p.all = false
	err = r.QueryRowContext(ctx, `SELECT ts, seq`+where+`ORDER BY device, ts, seq LIMIT 1 OFFSET ?`, append(args, deleteRows-1)...).Scan(&p.ts, &p.seq)
	return p, rows, err
}

func (p *piece) delete(ctx context.Context, tx store.SideTx) (sql.Result, error) {
	if p.all {
		where, args := p.rows()
		return tx.Exec(ctx, `DELETE`+where, args...)
	}
	return tx.Exec(ctx, `DELETE FROM `+store.PlainTable+` WHERE device = ? AND ts <= ? AND (ts < ? OR seq <= ?)`, p.device, p.ts, p.ts, p.seq)
}
