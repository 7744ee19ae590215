package history

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"

	"signalbox"
	"signalbox/internal/history/chunk"
)

// stretch is a chunk, or a run, that a sweep has reached and not left.
type stretch struct {
	span
	row, next int // rows that were taken, and those that the slice under way has passed
	cur       *chunk.Cursor
	size      int    // of cur, as it is counted
	blob      []byte // nil: to be read from the database
	mixed     bool   // the rows stand in another order; they are searched for each slice
	broken    bool
}

// cursors counts what the cursors of a sweep take.
type cursors struct {
	spare *sync.Pool   // of *chunk.Cursor
	held  atomic.Int64 // bytes of those in use
	blobs atomic.Int64 // bytes of the chunks that are kept
}

func (c *cursors) get() *chunk.Cursor {
	if cur, ok := c.spare.Get().(*chunk.Cursor); ok {
		return cur
	}
	return new(chunk.Cursor)
}

// close gives the cursor of a stretch back.
func (c *cursors) close(st *stretch) {
	if st.cur == nil {
		return
	}
	c.held.Add(-int64(st.size))
	st.cur.Close()
	c.spare.Put(st.cur)
	st.cur, st.size = nil, 0
}

func (c *cursors) keep(st *stretch, blob []byte) {
	c.blobs.Add(int64(len(blob) - len(st.blob)))
	st.blob = blob
}

// worker reads a part of a slice.
type worker struct {
	r     chunk.Reader
	batch *chunk.Batch
	err   error
}

// fill reads what the open chunks have of a slice, or some of it when that is too much.
func (s *sweep) fill(ctx context.Context, next *slice) (err error) {
	next.begin()
	var group sync.WaitGroup
	var taken atomic.Int64
	for i := range min(len(s.workers), (len(s.open)+bodiesAtOnce-1)/bodiesAtOnce) {
		w := &s.workers[i]
		w.batch, w.err = &next.batches[i], nil
		group.Go(func() {
			for w.err == nil && next.fits() {
				from := int(taken.Add(bodiesAtOnce)) - bodiesAtOnce
				if from >= len(s.open) {
					return
				}
				w.err = s.readSome(ctx, w, s.open[from:min(from+bodiesAtOnce, len(s.open))], next)
			}
		})
	}
	group.Wait()
	for i := range s.workers {
		if err == nil {
			err = s.workers[i].err
		}
		s.workers[i].err = nil
	}
	return err
}

// readSome reads what bodiesAtOnce chunks, at most, have of a slice.
func (s *sweep) readSome(ctx context.Context, w *worker, some []*stretch, next *slice) error {
	if err := s.bodies(ctx, some); err != nil {
		return err
	}
	b := w.batch
	size, count := len(b.Bodies), len(b.Rows)
	want := s.want
	want.UpTo, want.Bytes = next.hi, len(b.Bodies)+int(s.limits.bytes)
	if next.lo == next.hi {
		want.Bytes = math.MaxInt
	}
	for _, st := range some {
		if want.Before = s.want.Before; st.until != 0 {
			want.Before = min(want.Before, st.until)
		}
		switch {
		case st.broken || !s.ready(w, st, next.lo):
		case st.mixed:
			s.search(w, st, next.lo, &want)
		default:
			st.cur.Read(b, uint32(st.device), &want)
			st.next = st.cur.Row()
			s.check(st, st.cur.Err())
		}
		if next.hi == s.last || st.k1 <= next.hi || s.cursors.held.Load() > s.limits.cursors {
			s.cursors.close(st)
		}
	}
	next.size.Add(int64(len(b.Bodies) - size))
	next.count.Add(int64(len(b.Rows) - count))
	return nil
}

// check reports a chunk of which something is wrong, and gives it up.
func (s *sweep) check(st *stretch, err error) {
	if err != nil && !st.broken {
		st.broken = true
		s.l.broken(st.id, st.device, err)
	}
}

// ready makes the cursor of a stretch stand where the slice begins, if it has any.
func (s *sweep) ready(w *worker, st *stretch, lo int64) bool {
	if st.cur != nil || st.mixed {
		return true
	}
	if st.run != nil && s.by == chunk.ByTime && !st.run.InOrder() {
		st.mixed = true
		return true
	}
	cur := s.cursors.get()
	if st.run != nil {
		cur.LoadRun(s.l.shapes, st.run, s.by)
	} else if err := cur.Load(s.l.shapes, st.blob, s.by); err != nil {
		s.check(st, err)
		s.cursors.spare.Put(cur)
		return false
	}
	st.cur, st.size = cur, cur.Size()
	s.cursors.held.Add(int64(st.size))
	if st.mixed = !cur.InOrder(); st.mixed {
		s.cursors.close(st)
		return true
	}
	if st.row > 0 {
		cur.Pass(w.batch, st.row)
	} else if st.k0 < lo {
		cur.PassBelow(w.batch, lo)
	}
	if s.cursors.blobs.Load() > s.limits.chunks {
		s.cursors.keep(st, nil)
	}
	s.check(st, cur.Err())
	return true
}

// search reads what a mixed stretch has from lo on.
func (s *sweep) search(w *worker, st *stretch, lo int64, want *chunk.Want) {
	b := w.batch
	takes := func(p signalbox.Position, t int64, imported bool) bool {
		key := t
		if s.by == chunk.ByPosition {
			key = int64(p)
		}
		return key >= lo && key <= want.UpTo && want.Takes(p, t, imported)
	}
	if st.run != nil {
		st.run.EachOf(s.l.shapes, takes, func(_ int, row *chunk.Row) bool {
			b.Add(row, uint32(st.device))
			return len(b.Bodies) < want.Bytes
		})
		return
	}
	if err := w.r.Load(s.l.shapes, st.blob); err != nil {
		s.check(st, err)
		return
	}
	var row chunk.Row
	for i, t := range w.r.Times() {
		if p := w.r.Position(i); takes(p, t, w.r.Imported(i)) && len(b.Bodies) < want.Bytes {
			row.Position, row.Received, row.Time = p, w.r.Received(i), t
			row.Body = w.r.AppendBody(row.Body[:0], i)
			b.Add(&row, uint32(st.device))
		}
	}
	s.check(st, w.r.Err())
	if s.cursors.blobs.Load() > s.limits.chunks {
		s.cursors.keep(st, nil) // it is read again for the next slice
	}
}

// takeBack makes the stretches stand where the slice under way began.
func (s *sweep) takeBack() {
	for _, st := range s.open {
		if st.next != st.row {
			st.next = st.row
			s.cursors.close(st)
		}
	}
}

// taken ends a slice; what has nothing at lo or behind is left.
func (s *sweep) taken(lo int64) {
	kept := s.open[:0]
	for _, st := range s.open {
		st.row = st.next
		if st.k1 >= lo && !st.broken {
			kept = append(kept, st)
			continue
		}
		s.cursors.close(st)
		s.cursors.keep(st, nil)
	}
	clear(s.open[len(kept):])
	s.open = kept
}

// reopen takes the spans, of which all that reach to lo or behind are wanted, for those that
// are open, which stay so if they are among them. It gives the others.
func (s *sweep) reopen(found []span) (ahead []span) {
	if len(s.open) == 0 {
		return found
	}
	type name struct {
		id  int64
		run *chunk.Run
	}
	have := make(map[name]*stretch, len(s.open))
	for _, st := range s.open {
		have[name{st.id, st.run}] = st
	}
	s.open = s.open[:0]
	for _, c := range found {
		key := name{c.id, c.run}
		if st := have[key]; st != nil {
			s.open = append(s.open, st)
			delete(have, key)
			continue
		}
		ahead = append(ahead, c)
	}
	for _, st := range have {
		s.cursors.close(st)
		s.cursors.keep(st, nil)
	}
	return ahead
}

// bodiesAtOnce is how many chunks are read in one statement.
const bodiesAtOnce = 16

// bodies reads the chunks that are needed; one that is gone is errMoved.
func (s *sweep) bodies(ctx context.Context, some []*stretch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var wanted [bodiesAtOnce]*stretch
	var args [bodiesAtOnce]any
	n := 0
	for _, st := range some {
		if st.run == nil && st.blob == nil && st.cur == nil && !st.broken {
			wanted[n] = st
			n++
		}
	}
	if n == 0 {
		return nil
	}
	stmt := s.l.bodies
	for i := range args {
		args[i] = wanted[min(i, n-1)].id
	}
	list := args[:]
	if n == 1 {
		stmt, list = s.l.body, args[:1]
	}
	rows, err := stmt.QueryContext(ctx, list...)
	if err != nil {
		return fmt.Errorf("read history: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	there := 0
	for rows.Next() {
		var id int64
		var blob []byte
		if err := rows.Scan(&id, &blob); err != nil {
			return fmt.Errorf("read history: %w", err)
		}
		for _, st := range wanted[:n] {
			if st.id == id {
				s.cursors.keep(st, blob)
				there++
			}
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read history: %w", err)
	}
	if there < n {
		return errMoved
	}
	return nil
}

// bodiesText is the statement for bodiesAtOnce chunks.
func bodiesText() string {
	return `SELECT id, body FROM chunk WHERE id IN (?` + strings.Repeat(`, ?`, bodiesAtOnce-1) + `)`
}
