package history

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/history/chunk"
)

// MaxBuckets bounds BucketQuery.N.
const MaxBuckets = 10_000

// Bucket sums up the numbers that a field had in a span of time. Count 0: none, and the rest
// means nothing.
//
// Sum is made of the sums that chunks have of themselves, where these lie in the bucket as a
// whole, and of the numbers of others. The former are exact for decimals of up to 13 digits,
// and rounded once; numbers are rounded to float64 first. So of the same numbers in other
// buckets or chunks Sum may differ by 2⁻⁵¹ of the sum of their magnitudes, and by no more; for
// whole numbers up to 2⁵³ in all it is exact.
type Bucket struct {
	Count         int
	Min, Max, Sum float64
	Last          float64
	sum           chunk.Sum
	lastTime      int64
	lastPosition  signalbox.Position
}

// Avg is the mean.
func (b *Bucket) Avg() float64 { return b.Sum / float64(b.Count) }

// BucketQuery asks for N spans of equal length between From and To.
type BucketQuery struct {
	Device signalbox.DeviceID
	// Fields are dotted paths, one at least.
	Fields []string
	// From ≤ time < To; both are needed.
	From, To time.Time
	// N is 1 to MaxBuckets.
	N int
}

// Width is the length of a bucket: whole microseconds, so the last one may reach past To.
// One of more than 292 years is said to be that long.
func (q *BucketQuery) Width() time.Duration {
	return time.Duration(min(q.micros(), math.MaxInt64/1000)) * time.Microsecond
}

// micros is the width in µs.
func (q *BucketQuery) micros() int64 {
	return max((q.To.UnixMicro()-q.From.UnixMicro()+int64(q.N)-1)/int64(q.N), 1)
}

// Buckets gives for each field the N buckets. A chunk that lies in one bucket as a whole is
// not unpacked: it knows its own sums.
func (l *Log) Buckets(ctx context.Context, q BucketQuery) ([][]Bucket, error) {
	switch {
	case q.N < 1 || q.N > MaxBuckets:
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_buckets", "buckets is %d; 1 to %d are allowed", q.N, MaxBuckets)
	case !q.From.Before(q.To):
		return nil, badRange(q.From, q.To)
	}
	var s *summing
	err := l.ask(ctx, q.Device, func(v *view) error {
		s = &summing{l: l, from: q.From.UnixMicro(), to: q.To.UnixMicro(), width: q.micros(), fields: q.Fields}
		for range q.Fields {
			s.buckets = append(s.buckets, make([]Bucket, q.N))
		}
		return s.read(ctx, v)
	})
	if err != nil {
		return nil, err
	}
	for _, list := range s.buckets {
		for i := range list {
			list[i].Sum = list[i].sum.Total()
		}
	}
	return s.buckets, nil
}

// read sums up what the view has.
func (s *summing) read(ctx context.Context, v *view) error {
	v.unopened = s.whole
	low, high := s.from, s.to-1
	if err := v.late(ctx, low, high, s.rows); err != nil {
		return err
	}
	if err := v.main(ctx, OldestFirst, low, high, func(r *chunk.Reader) (bool, error) { return true, s.rows(r) }); err != nil {
		return err
	}
	return v.memory(s.rows)
}

// summing collects buckets.
type summing struct {
	l               *Log
	from, to, width int64
	fields          []string
	buckets         [][]Bucket // by field
	values          []chunk.Value
}

// whole takes a chunk by its own sums, if it lies in one bucket and has them for all fields.
func (s *summing) whole(c *stored) (done bool) {
	if c.t0 < s.from || c.t1 >= s.to || (c.t0-s.from)/s.width != (c.t1-s.from)/s.width {
		return false
	}
	sums := make([]chunk.Summary, len(s.fields))
	for i, f := range s.fields {
		sum, ok, err := chunk.Summaries(c.blob, s.l.shapes, f)
		if err != nil || !ok {
			return false
		}
		sums[i] = sum
	}
	for i, sum := range sums {
		if sum.Count > 0 {
			s.buckets[i][(c.t0-s.from)/s.width].merge(&sum, signalbox.Position(c.p1))
		}
	}
	return true
}

func (s *summing) rows(r *chunk.Reader) error {
	times := r.Times()
	lo, _ := slices.BinarySearch(times, s.from)
	hi, _ := slices.BinarySearch(times, s.to)
	if lo == hi {
		return nil
	}
	for i, f := range s.fields {
		s.values = r.Field(f, s.values[:0])
		if err := r.Err(); err != nil {
			return err
		}
		var b *Bucket
		end := int64(math.MinInt64) // of b
		for k := lo; k < hi; k++ {
			v := &s.values[k]
			if v.Kind != chunk.Number {
				continue
			}
			t := times[k]
			if t >= end {
				n := (t - s.from) / s.width
				b, end = &s.buckets[i][n], s.from+(n+1)*s.width
			}
			b.add(v.Number, t, r, k)
		}
	}
	return nil
}

// add adds one number, of a row.
func (b *Bucket) add(v float64, t int64, r *chunk.Reader, row int) {
	if b.Count == 0 {
		b.Min, b.Max, b.lastTime = v, v, math.MinInt64
	}
	b.Count++
	b.Min, b.Max = min(b.Min, v), max(b.Max, v)
	b.sum.Add(v)
	if t > b.lastTime || t == b.lastTime && r.Position(row) > b.lastPosition {
		b.Last, b.lastTime, b.lastPosition = v, t, r.Position(row)
	}
}

// merge adds what a chunk, which ends at position p, says of itself.
func (b *Bucket) merge(o *chunk.Summary, p signalbox.Position) {
	if b.Count == 0 {
		b.Min, b.Max, b.lastTime = o.Min, o.Max, math.MinInt64
	}
	b.Count += o.Count
	b.Min, b.Max = min(b.Min, o.Min), max(b.Max, o.Max)
	b.sum.Add(o.Sum)
	if o.LastTime > b.lastTime || o.LastTime == b.lastTime && p > b.lastPosition {
		b.Last, b.lastTime, b.lastPosition = o.Last, o.LastTime, p
	}
}

// AsOf gives a device's latest telemetry at a time; ok is false if there was none yet.
func (l *Log) AsOf(ctx context.Context, device signalbox.DeviceID, at time.Time) (t signalbox.Telemetry, ok bool, err error) {
	found, err := l.Page(ctx, Query{Device: device, To: at.Add(time.Microsecond), Limit: 1})
	if err != nil || len(found) == 0 {
		return t, false, err
	}
	return found[0], true, nil
}

// PageAt gives up to limit messages from row n on: the first of the device's messages, in the
// order of their times, is row 0. Rows move when messages come late or retention drops old
// ones.
func (l *Log) PageAt(ctx context.Context, device signalbox.DeviceID, n int64, limit int) ([]signalbox.Telemetry, error) {
	if n < 0 {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_row", "row is %d; it must not be negative", n)
	}
	var at Cursor
	var there bool
	err := l.ask(ctx, device, func(v *view) (err error) {
		at, there, err = v.row(ctx, n)
		return err
	})
	if err != nil || !there {
		return nil, err
	}
	at.Position--
	return l.Page(ctx, Query{Device: device, Order: OldestFirst, After: at, Limit: limit})
}

// row finds the message that is number n in time order. What is late or in memory, usually
// little, is looked at as a whole; the chunks of the main sequence know their ranks.
func (v *view) row(ctx context.Context, n int64) (Cursor, bool, error) {
	var extra []Cursor
	collect := func(r *chunk.Reader) error {
		for i, t := range r.Times() {
			extra = append(extra, Cursor{t, r.Position(i)})
		}
		return nil
	}
	if err := v.late(ctx, math.MinInt64, math.MaxInt64, collect); err != nil {
		return Cursor{}, false, err
	}
	if err := v.memory(collect); err != nil {
		return Cursor{}, false, err
	}
	slices.SortFunc(extra, compareCursors)
	m, err := v.ranks(ctx)
	if err != nil {
		return Cursor{}, false, err
	}
	if n >= m.count+int64(len(extra)) {
		return Cursor{}, false, nil
	}
	// Nearly always all extra messages are newer than the chunks.
	if m.count > 0 && n < m.count {
		if c, err := m.at(ctx, n); err != nil || len(extra) == 0 || compareCursors(c, extra[0]) < 0 {
			return c, err == nil, err
		}
	}
	if n >= m.count && (m.count == 0 || m.last.t1 < extra[0].TimeMicros) {
		return extra[n-m.count], true, nil
	}
	// How many of the n messages before it are extra? The fewest for which the next of the
	// main sequence does not come before the last of them.
	lo, hi := max(0, n-m.count), min(n, int64(len(extra)))
	for lo < hi {
		j := (lo + hi) / 2
		c, err := m.at(ctx, n-j-1)
		if err != nil {
			return Cursor{}, false, err
		}
		if compareCursors(extra[j], c) < 0 {
			lo = j + 1
		} else {
			hi = j
		}
	}
	if n-lo >= m.count {
		return extra[lo], true, nil
	}
	c, err := m.at(ctx, n-lo)
	if err == nil && lo < int64(len(extra)) && compareCursors(extra[lo], c) < 0 {
		c = extra[lo]
	}
	return c, true, err
}

func compareCursors(a, b Cursor) int {
	return cmp.Or(cmp.Compare(a.TimeMicros, b.TimeMicros), cmp.Compare(a.Position, b.Position))
}

// ranks finds messages of the main sequence on disk by their number.
type ranks struct {
	v           *view
	count       int64 // of all
	base        int64 // number that the first has in the chunks: what retention dropped comes before
	first, last stored
	have        stored // the chunk that v.r has
}

func (v *view) ranks(ctx context.Context) (*ranks, error) {
	m := &ranks{v: v}
	found, err := v.fetch(ctx, v.l.rankFirst, int64(v.device))
	if err != nil || len(found) == 0 || signalbox.Position(found[0].p1) >= v.mem.first {
		return m, err
	}
	m.first = found[0]
	if found, err = v.fetch(ctx, v.l.rankLast, int64(v.device), int64(min(v.mem.first, math.MaxInt64))); err != nil || len(found) == 0 {
		return m, err
	}
	m.last, m.base = found[0], m.first.base
	m.count = m.last.base + m.last.n - m.base
	return m, nil
}

// at gives message i, 0 ≤ i < count.
func (m *ranks) at(ctx context.Context, i int64) (Cursor, error) {
	rank := m.base + i
	if c := &m.have; c.id == 0 || rank < c.base || rank >= c.base+c.n {
		c, err := m.search(ctx, rank)
		if err != nil {
			return Cursor{}, err
		}
		m.have = c
		if err := m.v.r.Load(m.v.l.shapes, c.blob); err != nil {
			m.v.l.broken(c.id, m.v.device, err)
			return Cursor{}, signalbox.Wrap(signalbox.KindUnavailable, "chunk_broken", err, "chunk %d of the device's history is broken", c.id)
		}
	}
	k := int(rank - m.have.base)
	return Cursor{m.v.r.Times()[k], m.v.r.Position(k)}, nil
}

// search finds the chunk with a rank. Messages come at about even times, so a guess from the
// times on both sides is close; every third step halves what is left.
func (m *ranks) search(ctx context.Context, rank int64) (stored, error) {
	lo, hi := m.first, m.last
	for step := 0; ; step++ {
		switch {
		case rank < lo.base+lo.n:
			return m.fetch(ctx, lo)
		case rank >= hi.base:
			return m.fetch(ctx, hi)
		}
		span := float64(hi.t0 - lo.t0)
		t := lo.t0 + int64(span*float64(rank-lo.base)/float64(hi.base-lo.base))
		if step%3 == 2 {
			t = lo.t0 + (hi.t0-lo.t0)/2
		}
		found, err := m.v.fetch(ctx, m.v.l.rankDown, int64(m.v.device), min(max(t, lo.t0+1), hi.t0-1))
		if err != nil {
			return stored{}, err
		}
		var c stored
		if len(found) > 0 {
			c = found[0]
		}
		if c.id == lo.id || len(found) == 0 { // nothing between lo and t: go on behind t
			if found, err = m.v.fetch(ctx, m.v.l.rankNext, int64(m.v.device), lo.t0, lo.t0, lo.p0); err != nil || len(found) == 0 {
				return stored{}, err
			}
			c = found[0]
		}
		if rank < c.base {
			hi = c
		} else {
			lo = c
		}
	}
}

// fetch reads a chunk of which only the head is known.
func (m *ranks) fetch(ctx context.Context, head stored) (stored, error) {
	found, err := m.v.fetch(ctx, m.v.l.mainUp, int64(m.v.device), head.t0, head.t0, head.p0-1, 1)
	if err != nil || len(found) == 0 || found[0].id != head.id {
		return stored{}, cmp.Or(err, error(signalbox.Errorf(signalbox.KindUnavailable, "history_moved", "the device's history changed meanwhile; ask again")))
	}
	return found[0], nil
}

func badRange(from, to time.Time) error {
	return signalbox.Errorf(signalbox.KindInvalid, "invalid_range", "from is %s and to is %s; from must be before to",
		from.Format(time.RFC3339Nano), to.Format(time.RFC3339Nano))
}
