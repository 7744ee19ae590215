package history

import (
	"cmp"
	"container/heap"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"signalbox"
)

// Order is the direction in which a page of history is read.
type Order uint8

// Newest first is what people look at; oldest first is what programs copy.
const (
	NewestFirst Order = iota
	OldestFirst
)

// MaxPage bounds Query.Limit.
const MaxPage = 10_000

// Cursor is a place between two messages of one device's history: behind the message of
// this time and position, in the order of the query. The zero Cursor is the beginning.
type Cursor struct {
	TimeMicros int64
	Position   signalbox.Position
}

// Query asks for a page of one device's telemetry, ordered by time and, within equal
// times, by position.
type Query struct {
	Device signalbox.DeviceID
	// From and To bound the history time: From ≤ time < To. Zero: unbounded.
	From, To time.Time
	Order    Order
	After    Cursor
	// Limit is how many messages at most, 1 to MaxPage.
	Limit int
}

// Reader answers questions about the past. All its methods see what was committed before
// the call, and stop when ctx ends.
type Reader interface {
	// Page gives the messages that q asks for, in its order.
	Page(ctx context.Context, q Query) ([]signalbox.Telemetry, error)
}

// CursorOf gives the place behind m.
func CursorOf(m *signalbox.Telemetry) Cursor {
	return Cursor{TimeMicros: m.Time.UnixMicro(), Position: m.Position}
}

// Page implements Reader. It follows the device's own chain of rows from the newest
// backward, so it costs as many row heads as lie between the end of the log and the page,
// and unpacks only rows that can hold a part of it.
func (l *Log) Page(ctx context.Context, q Query) ([]signalbox.Telemetry, error) {
	if q.Limit < 1 || q.Limit > MaxPage {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_limit", "limit is %d; 1 to %d are allowed", q.Limit, MaxPage)
	}
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_range", "from is %s and to is %s; from must be before to",
			q.From.Format(time.RFC3339Nano), q.To.Format(time.RFC3339Nano))
	}
	w := newWindow(q)
	if q.Order == NewestFirst {
		err := l.chainRows(ctx, q.Device, func(r rowHead) (bool, error) {
			if r.receivedLast < w.low || w.full() && r.receivedLast <= w.worst().TimeMicros {
				return false, nil // nothing in this row or before it is newer than when this row ended
			}
			err := l.unpack(ctx, r, w)
			// What stands before this row was received before it began, at a smaller position.
			return r.received >= w.low && (!w.full() || r.received > w.worst().TimeMicros), err
		})
		if err != nil {
			return nil, err
		}
		return w.result(), nil
	}
	// Oldest first: learn the rows down to the lower bound, then unpack them from the row
	// with the smallest time upward until the page is full and no row can add to it.
	var rows []rowHead
	err := l.chainRows(ctx, q.Device, func(r rowHead) (bool, error) {
		if r.receivedLast < w.low {
			return false, nil
		}
		rows = append(rows, r)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(rows, func(a, b rowHead) int { return cmp.Compare(a.timeMin, b.timeMin) })
	for _, r := range rows {
		if w.full() && r.timeMin > w.worst().TimeMicros {
			break
		}
		if err := l.unpack(ctx, r, w); err != nil {
			return nil, err
		}
	}
	return w.result(), nil
}

// rowHead is a row of the intake log without its body.
type rowHead struct {
	id, n, received, receivedLast, timeMin int64
}

// chainRows calls visit for each committed row with telemetry of device, newest first,
// until visit says to stop.
func (l *Log) chainRows(ctx context.Context, device signalbox.DeviceID, visit func(rowHead) (more bool, err error)) error {
	for at := l.headOf(device); at > 0; {
		var (
			r       rowHead
			devices []byte
		)
		// at is a row or, after a restart, a position inside one.
		err := l.head.QueryRowContext(ctx, int64(at)).
			Scan(&r.id, &r.n, &r.received, &r.receivedLast, &r.timeMin, &devices)
		if errors.Is(err, sql.ErrNoRows) || err == nil && int64(at) >= r.id+r.n {
			return nil // what came before is no longer kept
		}
		if err != nil {
			return fmt.Errorf("read the intake log: %w", err)
		}
		row := signalbox.Position(r.id)
		prev, found, err := findDevice(row, devices, device)
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("%w: row %d should hold device %d", errBroken, row, device)
		}
		more, err := visit(r)
		if err != nil || !more {
			return err
		}
		if prev >= row {
			return fmt.Errorf("%w: row %d points forward", errBroken, row)
		}
		at = prev
	}
	return nil
}

// headOf is where the device's newest committed telemetry is, 0 for none.
func (l *Log) headOf(device signalbox.DeviceID) signalbox.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(device) >= len(l.last) {
		return 0
	}
	at := l.last[device]
	for i := len(l.rows) - 1; i >= 0 && at > l.Committed(); i-- {
		if b := l.rows[i]; b.first == at {
			for _, d := range b.devices {
				if d.device == device {
					at = d.prev
					break
				}
			}
		}
	}
	return at
}

// unpack offers the device's telemetry in row r to w.
func (l *Log) unpack(ctx context.Context, r rowHead, w *window) error {
	if r.timeMin > w.high {
		return nil
	}
	var packed sql.RawBytes
	rows, err := l.body.QueryContext(ctx, r.id)
	if err != nil {
		return fmt.Errorf("read the intake log: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	for rows.Next() {
		if err := rows.Scan(&packed); err != nil {
			return fmt.Errorf("read the intake log: %w", err)
		}
		if w.buf, err = l.unpackBody(signalbox.Position(r.id), r.received, packed, w.buf, func(e *signalbox.Entry) bool {
			if e.Kind == signalbox.EntryTelemetry && e.Device == w.device {
				w.offer(e)
			}
			return true
		}); err != nil {
			return err
		}
	}
	return rows.Err()
}

// unpackBody decodes a row. buf is memory to use; what it returns may be handed in again.
func (l *Log) unpackBody(first signalbox.Position, received int64, packed, buf []byte, yield func(*signalbox.Entry) bool) ([]byte, error) {
	body, err := l.dec.DecodeAll(packed, buf[:0])
	if err != nil {
		return buf, fmt.Errorf("%w: row %d: %w", errBroken, first, err)
	}
	return body, decode(first, received, body, yield)
}

// window collects the best Limit messages of a query; a heap keeps the worst on top.
type window struct {
	device    signalbox.DeviceID
	order     Order
	after     Cursor
	low, high int64 // history time: low ≤ t ≤ high
	limit     int
	kept      []found
	buf       []byte // for rows
}

type found struct {
	Cursor
	received int64
	object   []byte
}

func newWindow(q Query) *window {
	w := &window{device: q.Device, order: q.Order, after: q.After, low: -1 << 62, high: 1<<62 - 1, limit: q.Limit}
	if !q.From.IsZero() {
		w.low = q.From.UnixMicro()
	}
	if !q.To.IsZero() {
		w.high = q.To.UnixMicro() - 1
	}
	if q.After != (Cursor{}) {
		if q.Order == NewestFirst {
			w.high = min(w.high, q.After.TimeMicros)
		} else {
			w.low = max(w.low, q.After.TimeMicros)
		}
	}
	return w
}

// before reports whether a comes before b in the order of the query.
func (w *window) before(a, b Cursor) bool {
	if w.order == NewestFirst {
		a, b = b, a
	}
	return a.TimeMicros < b.TimeMicros || a.TimeMicros == b.TimeMicros && a.Position < b.Position
}

func (w *window) offer(e *signalbox.Entry) {
	c := Cursor{TimeMicros: e.TimeMicros, Position: e.Position}
	if e.TimeMicros < w.low || e.TimeMicros > w.high || w.after != (Cursor{}) && !w.before(w.after, c) {
		return
	}
	if w.full() {
		if !w.before(c, w.worst().Cursor) {
			return
		}
		heap.Pop(w)
	}
	heap.Push(w, found{Cursor: c, received: e.ReceivedMicros, object: slices.Clone(e.Body)})
}

func (w *window) full() bool    { return len(w.kept) == w.limit }
func (w *window) worst() *found { return &w.kept[0] }

func (w *window) result() []signalbox.Telemetry {
	slices.SortFunc(w.kept, func(a, b found) int {
		if w.before(a.Cursor, b.Cursor) {
			return -1
		}
		return 1
	})
	out := make([]signalbox.Telemetry, len(w.kept))
	for i, f := range w.kept {
		out[i] = signalbox.Telemetry{
			Position: f.Position, Time: time.UnixMicro(f.TimeMicros).UTC(), Received: time.UnixMicro(f.received).UTC(), Object: f.object,
		}
	}
	return out
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (w *window) Len() int           { return len(w.kept) }
func (w *window) Less(i, j int) bool { return w.before(w.kept[j].Cursor, w.kept[i].Cursor) }
func (w *window) Swap(i, j int)      { w.kept[i], w.kept[j] = w.kept[j], w.kept[i] }

// Push takes a found.
func (w *window) Push(x any) { w.kept = append(w.kept, x.(found)) } //nolint:forcetypeassert // only offer calls it

// Pop gives the last found.
func (w *window) Pop() any {
	last := w.kept[len(w.kept)-1]
	w.kept = w.kept[:len(w.kept)-1]
	return last
}

// Scan calls yield for every entry from position from on, in log order, up to what was
// committed when it began. The entry and its body are lent for the call.
func (l *Log) Scan(ctx context.Context, from signalbox.Position, yield func(*signalbox.Entry) error) error {
	return l.scan(ctx, from, func(_ signalbox.Position, e *signalbox.Entry) error { return yield(e) })
}

// Restore is the start after a stop: it tells the log where the telemetry of each device
// was at a checkpoint (known), then scans what came after it, so that chains go on.
func (l *Log) Restore(ctx context.Context, checkpoint signalbox.Position, known func(yield func(signalbox.DeviceID, signalbox.Position)), yield func(*signalbox.Entry) error) error {
	known(func(d signalbox.DeviceID, p signalbox.Position) {
		l.grow(d)
		l.last[d] = p
	})
	return l.scan(ctx, checkpoint+1, func(row signalbox.Position, e *signalbox.Entry) error {
		if e.Kind == signalbox.EntryTelemetry {
			l.grow(e.Device)
			l.last[e.Device] = max(l.last[e.Device], row)
		}
		return yield(e)
	})
}

// A scan reads this many rows at a time into memory and lets go of the database before it
// hands them out: a slow reader must not hold up the write-ahead file.
const (
	scanRows  = 64
	scanBytes = 4 << 20
)

// packedRow is a row of the intake log as stored.
type packedRow struct {
	id, n, received int64
	body            []byte
}

func (l *Log) scan(ctx context.Context, from signalbox.Position, yield func(row signalbox.Position, e *signalbox.Entry) error) error {
	var (
		rows  []packedRow
		buf   []byte
		inner error
	)
	end := l.Committed()
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
