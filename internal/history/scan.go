package history

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"signalbox"
)

// Scan calls yield for every entry from position from on that is still kept, in log order,
// up to what was committed when it began. The entry and its body are lent for the call. Those
// of the broker are given as long as the log has them: keep them by a Hold. Telemetry from a
// chunk has the kind EntryTelemetry, imported or not.
//
// What retention has dropped is given as long as the log has it: Scan is for those who follow
// the log and must miss nothing. Questions and ScanRange do not see it.
func (l *Log) Scan(ctx context.Context, from signalbox.Position, yield func(*signalbox.Entry) error) error {
	end := l.Committed()
	for at := max(from, 1); at <= end; {
		first, err := l.firstRow(ctx)
		if err != nil {
			return err
		}
		if at < first {
			until := min(first-1, end)
			if err := l.sweepLog(ctx, at, until, yield); err != nil {
				return err
			}
			at = until + 1
			continue
		}
		gone := false // rows that were there a moment ago are in chunks now
		err = l.scan(ctx, at, end, func(row signalbox.Position, e *signalbox.Entry) error {
			if e.Position != at {
				gone = true
				return errGone
			}
			at++
			return yield(e)
		})
		if err != nil && !gone {
			return err
		}
		if !gone {
			return nil
		}
	}
	return nil
}

// errGone ends a scan of rows that are no longer there.
var errGone = errors.New("the row is no longer in the log")

// firstRow is where the log begins.
func (l *Log) firstRow(ctx context.Context) (first signalbox.Position, err error) {
	if first, err = l.oldestRow(ctx); err == nil && first == 0 {
		return l.Committed() + 1, nil
	}
	return first, err
}

// oldestRow is the first position of the oldest row in the database, 0 without one.
func (l *Log) oldestRow(ctx context.Context) (signalbox.Position, error) {
	var id int64
	if err := l.st.Reader().QueryRowContext(ctx, `SELECT COALESCE(MIN(id), 0) FROM intake`).Scan(&id); err != nil {
		return 0, fmt.Errorf("read the intake log: %w", err)
	}
	return signalbox.Position(id), nil
}

// Restore is the start after a stop: it takes up what is in the log and in no chunk, and
// hands out the entries after checkpoint, in log order. Call it once, before Run.
func (l *Log) Restore(ctx context.Context, checkpoint signalbox.Position, yield func(*signalbox.Entry) error) error {
	sealed, err := l.sealedBefore(ctx)
	if err != nil {
		return err
	}
	s := &l.seal
	row := signalbox.Position(0)
	err = l.scan(ctx, 1, l.Committed(), func(at signalbox.Position, e *signalbox.Entry) error {
		if at != row {
			if row != 0 {
				s.rows++
				s.reached(ctx, e.Position-1)
			}
			row = at
			l.kept = append(l.kept, at)
		}
		device := e.Device
		if !e.Kind.IsTelemetry() {
			device = eventDevice
		}
		if e.Position > sealed[device] {
			if err := s.feed(ctx, e); err != nil {
				return err
			}
		}
		if e.Position <= checkpoint {
			return nil
		}
		return yield(e)
	})
	if err != nil {
		return err
	}
	s.rows++
	s.reached(ctx, l.Committed())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop = 0 // others may be about to ask for a Hold
	return nil
}

// Kept is how many entries the log has: those that are in no chunk yet, and what holds keep.
func (l *Log) Kept() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.kept) == 0 {
		return 0
	}
	return int(l.next - l.kept[0])
}

// sealedBefore gives, for devices of which the log may have messages that are in chunks as
// well, the last of these. A run is cut as a whole, so they are all up to it.
func (l *Log) sealedBefore(ctx context.Context) (map[signalbox.DeviceID]signalbox.Position, error) {
	text, err := l.st.Meta(ctx, markName)
	if err != nil {
		return nil, err
	}
	first := int64(0)
	if text != "" {
		if first, err = strconv.ParseInt(text, 10, 64); err != nil {
			return nil, fmt.Errorf("the stored %s %q is no number: %w", markName, text, err)
		}
	}
	// Chunks that are there may have anything of the log as it is now.
	l.marks = []mark{{l.Committed(), first}}
	rows, err := l.st.Reader().QueryContext(ctx, `SELECT device, MAX(p1) FROM chunk WHERE id >= ? GROUP BY device`, first)
	if err != nil {
		return nil, fmt.Errorf("read which messages are in chunks: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	sealed := map[signalbox.DeviceID]signalbox.Position{}
	for rows.Next() {
		var device, p1 int64
		if err := rows.Scan(&device, &p1); err != nil {
			return nil, fmt.Errorf("read which messages are in chunks: %w", err)
		}
		sealed[signalbox.DeviceID(device)] = signalbox.Position(p1)
	}
	return sealed, rows.Err()
}

// A scan reads this many rows at a time into memory and lets go of the database before it
// hands them out: a slow reader must not hold up the write-ahead file.
const (
	scanRows  = 64
	scanBytes = 4 << 20
)

// packedRow is a row of the intake log as stored.
type packedRow struct {
	id, n, received, last int64
	body                  []byte
}

func (l *Log) scan(ctx context.Context, from, end signalbox.Position, yield func(row signalbox.Position, e *signalbox.Entry) error) error {
	var (
		rows  []packedRow
		buf   []byte
		inner error
	)
	for at := max(from, 1); at <= end; {
		var err error
		if rows, err = l.rowsFrom(ctx, at, rows[:0]); err != nil {
			return err
		}
		for _, r := range rows {
			row := signalbox.Position(r.id)
			buf, err = l.unpackBody(row, r.received, r.body, buf, func(e *signalbox.Entry) bool {
				if e.Position >= from && e.Position <= end {
					inner = yield(row, e)
				}
				return inner == nil
			})
			if err != nil {
				return err
			}
			if inner != nil {
				return inner
			}
			at = signalbox.Position(r.id + r.n)
		}
		if len(rows) == 0 {
			return nil
		}
	}
	return nil
}

// rowsFrom reads some rows, from the one that holds position at; when that is no longer
// kept, from the next one.
func (l *Log) rowsFrom(ctx context.Context, at signalbox.Position, into []packedRow) ([]packedRow, error) {
	rows, err := l.st.Reader().QueryContext(ctx, `SELECT id, n, received_us, body FROM intake
		WHERE id >= COALESCE((SELECT id FROM intake WHERE id <= ? ORDER BY id DESC LIMIT 1), 0) AND id + n > ? ORDER BY id LIMIT ?`, int64(at), int64(at), scanRows)
	if err != nil {
		return nil, fmt.Errorf("read the intake log: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	for size := 0; size < scanBytes && rows.Next(); {
		var r packedRow
		if err := rows.Scan(&r.id, &r.n, &r.received, &r.body); err != nil {
			return nil, fmt.Errorf("read the intake log: %w", err)
		}
		into = append(into, r)
		size += len(r.body)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the intake log: %w", err)
	}
	return into, nil
}

// unpackBody decodes a row. buf is memory to use; what it returns may be handed in again.
func (l *Log) unpackBody(first signalbox.Position, received int64, packed, buf []byte, yield func(*signalbox.Entry) bool) ([]byte, error) {
	body, err := l.dec.DecodeAll(packed, buf[:0])
	if err != nil {
		return buf, fmt.Errorf("%w: row %d: %w", errBroken, first, err)
	}
	return body, decode(first, received, body, yield)
}
