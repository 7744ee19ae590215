package history

import (
	"container/heap"
	"context"
	"math"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/history/chunk"
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

// Page implements Reader. It reads, beside what is in memory, the chunks that reach into the
// page, and those that hold late messages of its time.
func (l *Log) Page(ctx context.Context, q Query) ([]signalbox.Telemetry, error) {
	if q.Limit < 1 || q.Limit > MaxPage {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_limit", "limit is %d; 1 to %d are allowed", q.Limit, MaxPage)
	}
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		return nil, badRange(q.From, q.To)
	}
	var w *window
	err := l.ask(ctx, q.Device, func(v *view) error {
		w = newWindow(q)
		return w.read(ctx, v)
	})
	if err != nil {
		return nil, err
	}
	return w.result(), nil
}

// read offers what the view has.
func (w *window) read(ctx context.Context, v *view) error {
	if err := v.memory(w.offerRows); err != nil {
		return err
	}
	if err := v.late(ctx, w.low, w.high, w.offerRows); err != nil {
		return err
	}
	v.enough = func(c *stored) bool {
		edge := c.t1
		if w.order == OldestFirst {
			edge = c.t0
		}
		return w.full() && w.beyond(edge)
	}
	return v.main(ctx, w.order, w.low, w.high, func(r *chunk.Reader) (bool, error) {
		err := w.offerRows(r)
		times := r.Times()
		edge := times[0]
		if w.order == OldestFirst {
			edge = times[len(times)-1]
		}
		// The next chunk begins where this one ends: is there room for any of it?
		return !w.full() || !w.beyond(edge), err
	})
}

// window collects the best Limit messages of a query; a heap keeps the worst on top.
type window struct {
	device    signalbox.DeviceID
	order     Order
	after     Cursor
	low, high int64 // history time: low ≤ t ≤ high
	limit     int
	kept      []found
}

type found struct {
	Cursor
	received int64
	object   []byte
}

func newWindow(q Query) *window {
	w := &window{device: q.Device, order: q.Order, after: q.After, low: math.MinInt64, high: math.MaxInt64, limit: q.Limit}
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

// offerRows offers the messages of a chunk, from the end at which the page begins.
func (w *window) offerRows(r *chunk.Reader) error {
	times := r.Times()
	lo, _ := slices.BinarySearch(times, w.low)
	hi := len(times)
	if w.high < math.MaxInt64 {
		hi, _ = slices.BinarySearch(times, w.high+1)
	}
	for k := range hi - lo {
		i := lo + k
		if w.order == NewestFirst {
			i = hi - 1 - k
		}
		c := Cursor{TimeMicros: times[i], Position: r.Position(i)}
		if w.after != (Cursor{}) && !w.before(w.after, c) {
			continue
		}
		if w.full() {
			if !w.before(c, w.worst().Cursor) {
				return nil // nor are those behind it
			}
			heap.Pop(w)
		}
		heap.Push(w, found{Cursor: c, received: r.Received(i), object: r.AppendBody(nil, i)})
	}
	return nil
}

// beyond says that no message at or behind t can be part of the full page.
func (w *window) beyond(t int64) bool {
	worst := w.worst().TimeMicros
	return w.order == NewestFirst && t < worst || w.order == OldestFirst && t > worst
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
