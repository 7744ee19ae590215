package history

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"signalbox"
	"signalbox/internal/history/chunk"
)

// SinceQuery chooses entries that came behind a position.
type SinceQuery struct {
	// After < position ≤ Until. Until 0, and beyond what is committed: what is committed when it
	// begins.
	After, Until signalbox.Position
	// Devices are the only ones, in ascending order; nil: all.
	Devices []signalbox.DeviceID
	// Events asks for what is no telemetry, too.
	Events bool
	// Gap, if not nil, is called when history has not all of it any more: before the entries behind
	// the gap, and again when retention drops more while these are read; then some of the entries up
	// to the gap's end were given already. Its error ends Since.
	Gap func(Gap) error
}

const (
	// sinceStep is how many positions of chunks are looked up at a time.
	sinceStep = 1 << 22
	// chosenInSQL is the most devices that the database is told to look for by position.
	chosenInSQL = 16
)

// Since calls yield for the entries that q chooses, in log order, each once. When it returns
// nil all of them were given up to q.Until; those who do not say Until ask for Committed before.
// After an error, yield's own included, one can go on behind the last entry that was given. The
// entry and its body are lent for the call. yield may take its time: nothing waits for it.
//
// Entries are read from the log's rows, and what is no longer there from the chunks of these
// devices alone. Telemetry that was imported and records of the broker are left out wherever they
// are. What retention has dropped is given as long as the log has it; then q.Gap is told.
//
// While the database server is away it gives what is there and ends with KindUnavailable.
//
// A call with few entries behind the end costs one short query: it may be made after each commit.
// What is in chunks is read in larger pieces: there, few calls for much are better than many.
// Call it after Restore.
func (l *Log) Since(ctx context.Context, q SinceQuery, yield func(*signalbox.Entry) error) error {
	end := l.Committed()
	if q.Until != 0 {
		end = min(end, q.Until)
	}
	if l.gone.Load() && q.After < end {
		return l.away(nil)
	}
	first := l.firstKept()
	gaps := gaps{l: l, q: &q}
	for at := q.After + 1; at <= end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if at < first {
			until := min(first-1, end, at+sinceStep-1)
			if err := gaps.tell(ctx, at, min(first-1, end)); err != nil {
				return err
			}
			if err := l.sinceChunks(ctx, &q, at, until, yield); err != nil {
				return err
			}
			if err := gaps.tell(ctx, at, min(first-1, end)); err != nil { // of what was dropped meanwhile
				return err
			}
			at = until + 1
			continue
		}
		next, err := l.sinceRows(ctx, &q, at, end, yield)
		if at = next; err == nil {
			continue
		}
		if !errors.Is(err, errGone) && !errors.Is(err, errAbsent) {
			return err
		}
		// Rows that were there a moment ago are in chunks now, or others are not there yet.
		oldest, again := l.oldestRow(ctx)
		switch {
		case again != nil:
			return again
		case at < oldest:
			first = oldest
		case errors.Is(err, errAbsent):
			return l.away(nil)
		default:
			return fmt.Errorf("%w: there is none with position %d", errBroken, at)
		}
	}
	return nil
}

// errAbsent says that there is no row from a position on.
var errAbsent = errors.New("the row is not in the log")

// firstKept is where the log's rows begin, as far as known without asking the database. They
// may begin later: a transaction that deletes some may have been committed a moment ago.
func (l *Log) firstKept() signalbox.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.kept) == 0 {
		return 1
	}
	return l.kept[0]
}

// rowWith gives the first position of the row that has position p, as far as known.
func (l *Log) rowWith(p signalbox.Position) signalbox.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, there := slices.BinarySearch(l.kept, p)
	if there {
		return p
	}
	if i == 0 {
		return 0
	}
	return l.kept[i-1]
}

// chooses tells whether q wants an entry.
func (q *SinceQuery) chooses(e *signalbox.Entry) bool {
	switch e.Kind {
	case signalbox.EntryImported, signalbox.EntryBroker:
		return false
	case signalbox.EntryTelemetry:
	default:
		if !q.Events {
			return false
		}
	}
	if q.Devices == nil {
		return true
	}
	_, there := slices.BinarySearch(q.Devices, e.Device)
	return there
}

// sinceBuf is memory that calls of Since use one after the other.
type sinceBuf struct {
	rows   []packedRow // bodies are parts of packed
	packed []byte
	plain  []byte
}

// sinceRows gives what some rows of the log have from position at on, and says where to go on.
// errGone: the row with that position is not there, and the next one is; errAbsent: there is none.
func (l *Log) sinceRows(ctx context.Context, q *SinceQuery, at, end signalbox.Position, yield func(*signalbox.Entry) error) (signalbox.Position, error) {
	buf, ok := l.sinces.Get().(*sinceBuf)
	if !ok {
		buf = new(sinceBuf)
	}
	defer l.sinces.Put(buf)
	if err := l.readSince(ctx, buf, l.rowWith(at), end); err != nil {
		return at, err
	}
	before := at
	for i := range buf.rows {
		r := &buf.rows[i]
		row := signalbox.Position(r.id)
		if row > at {
			return at, errGone
		}
		next := signalbox.Position(r.id + r.n)
		if next <= at {
			continue
		}
		var stopped error
		var err error
		buf.plain, err = l.unpackBody(row, r.received, r.body, buf.plain, func(e *signalbox.Entry) bool {
			if e.Position >= at && q.chooses(e) {
				stopped = yield(e)
			}
			return stopped == nil && e.Position < end
		})
		if err := cmp.Or(err, stopped); err != nil {
			return at, err
		}
		at = next
	}
	if at == before {
		return at, errAbsent
	}
	return at, nil
}

// readSince reads some rows into buf, from the one that begins at from on.
func (l *Log) readSince(ctx context.Context, buf *sinceBuf, from, end signalbox.Position) error {
	buf.rows, buf.packed = buf.rows[:0], buf.packed[:0]
	rows, err := l.rowsUp.QueryContext(ctx, int64(from), int64(end), scanRows)
	if err != nil {
		return fmt.Errorf("read the intake log: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	for len(buf.packed) < scanBytes && rows.Next() {
		var r packedRow
		var body sql.RawBytes
		if err := rows.Scan(&r.id, &r.n, &r.received, &body); err != nil {
			return fmt.Errorf("read the intake log: %w", err)
		}
		buf.packed = append(buf.packed, body...)
		r.last = int64(len(buf.packed))
		buf.rows = append(buf.rows, r)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the intake log: %w", err)
	}
	start := int64(0)
	for i := range buf.rows {
		r := &buf.rows[i]
		r.body, start = buf.packed[start:r.last], r.last
	}
	return nil
}

// sinceChunks gives what chunks have from lo to hi.
func (l *Log) sinceChunks(ctx context.Context, q *SinceQuery, lo, hi signalbox.Position, yield func(*signalbox.Entry) error) error {
	s := l.newSweep(chunk.ByPosition, func(e *signalbox.Entry) error {
		if !q.chooses(e) {
			return nil
		}
		return yield(e)
	})
	s.want.Live = true
	s.heads = func(ctx context.Context, from int64) ([]span, error) {
		l.mu.Lock()
		reach := l.span
		l.mu.Unlock()
		args := []any{max(from-reach, 0), int64(hi), from}
		least := 0
		if !q.Events {
			least = 1
		}
		args = append(args, least)
		if q.Devices == nil || len(q.Devices) > chosenInSQL {
			found, err := s.spans(ctx, l.byPositionAll, args...)
			if err != nil || q.Devices == nil {
				return found, err
			}
			return slices.DeleteFunc(found, func(c span) bool {
				_, there := slices.BinarySearch(q.Devices, c.device)
				return !there && c.device != eventDevice
			}), nil
		}
		one := eventDevice
		if !q.Events && len(q.Devices) > 0 {
			one = q.Devices[0]
		}
		args = append(args, int64(one))
		for i := range chosenInSQL {
			d := one
			if i < len(q.Devices) {
				d = q.Devices[i]
			}
			args = append(args, int64(d))
		}
		return s.spans(ctx, l.byPositionSome, args...)
	}
	return s.run(ctx, int64(lo), int64(hi))
}

const (
	byPositionAllText = `SELECT id, device, p0, p1, p0 FROM chunk WHERE p0 >= ? AND p0 <= ? AND p1 >= ? AND device >= ?`
)

// byPositionSomeText is byPositionAllText for chosenInSQL devices and one more. The sum keeps
// databases from reading all of these devices' chunks, for which there is an index, too.
func byPositionSomeText() string {
	return byPositionAllText + ` AND device + 0 IN (?` + strings.Repeat(`, ?`, chosenInSQL) + `)`
}
