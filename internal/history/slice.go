package history

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"signalbox"
	"signalbox/internal/history/chunk"
)

// slice is a part of a sweep: what lies from lo to hi of its order.
type slice struct {
	limits     sweepLimits
	lo, hi     int64
	batches    []chunk.Batch // of the workers
	starts     []int         // where their rows begin when counted through
	keys, swap []uint64
	size       atomic.Int64 // bytes of bodies
	count      atomic.Int64 // entries
}

// slice gives one with a batch for each worker, and perhaps with memory.
func (l *Log) slice(workers int, limits sweepLimits) *slice {
	s, ok := l.slices.Get().(*slice)
	if !ok || len(s.batches) != workers {
		s = &slice{batches: make([]chunk.Batch, workers)}
	}
	s.limits = limits
	return s
}

// keep takes slices back whose memory is not too much for that.
func (l *Log) keep(list ...*slice) {
	for _, s := range list {
		large := func(b chunk.Batch) bool {
			return int64(cap(b.Bodies)) > 2*s.limits.bytes || int64(cap(b.Rows)) > 2*s.limits.entries
		}
		if !slices.ContainsFunc(s.batches, large) && int64(cap(s.keys)) <= 2*s.limits.entries {
			l.slices.Put(s)
		}
	}
}

// begin empties the slice.
func (s *slice) begin() {
	s.size.Store(0)
	s.count.Store(0)
	for i := range s.batches {
		s.batches[i].Reset()
	}
}

// fits says whether the slice is not too large, or cannot be narrower.
func (s *slice) fits() bool {
	return s.lo == s.hi || s.count.Load() < s.limits.entries && s.size.Load() < s.limits.bytes
}

// firstWidth guesses how wide a slice may be, from the chunks, which are in order.
func firstWidth(ahead []span, lo, hi int64) int64 {
	const narrowest = 1 << 16
	if len(ahead) == 0 {
		return narrowest
	}
	lo = max(lo, ahead[0].k0)
	last, entries := lo, 0.0
	for _, s := range ahead {
		last = max(last, s.k1)
		if within := float64(min(s.k1, hi)) - float64(max(s.k0, lo)) + 1; within > 0 {
			entries += chunkRows * within / (float64(s.k1) - float64(s.k0) + 1)
		}
	}
	parts := int64(entries)/(sliceEntries/4) + 1
	return min(max((min(last, hi)-lo)/parts+1, narrowest), widest)
}

// widthAfter gives how wide the next slice may be when this one is width wide and reaches so
// many chunks: each costs something in every slice.
func (s *slice) widthAfter(width int64, open int) int64 {
	aim := float64(min(max(slicePerOpen*int64(open), sliceLeast), s.limits.entries/2))
	have := max(float64(s.count.Load()), 2*float64(s.size.Load())/float64(s.limits.bytes)*aim, 1)
	return int64(min(max(float64(width)*min(max(aim/have, 0.25), 4), 1), widest))
}

// sort puts the entries in order.
func (s *slice) sort(by chunk.By) {
	s.keys, s.starts = s.keys[:0], s.starts[:0]
	n, most := 0, uint64(0)
	for i := range s.batches {
		s.starts = append(s.starts, n)
		rows := s.batches[i].Rows
		for k := range rows {
			key := uint64(rows[k].Time - s.lo)
			if by == chunk.ByPosition {
				key = uint64(int64(rows[k].Position) - s.lo)
			}
			most = max(most, key)
			s.keys = append(s.keys, key<<s.bits()|uint64(n+k))
		}
		n += len(rows)
	}
	if s.lo < s.hi {
		s.byDigits(most)
	}
	// Messages of one time are in the order of their positions.
	for i := 0; i < len(s.keys); {
		j := i + 1
		for j < len(s.keys) && s.keys[j]>>s.bits() == s.keys[i]>>s.bits() {
			j++
		}
		if j-i > 1 {
			slices.SortFunc(s.keys[i:j], func(a, b uint64) int {
				_, x := s.at(a)
				_, y := s.at(b)
				return cmp.Compare(x.Position, y.Position)
			})
		}
		i = j
	}
}

// bits is how many low bits of a key say where its entry is.
func (s *slice) bits() int {
	if s.lo == s.hi {
		return 63 // all keys are 0, and there may be any number of them
	}
	return indexBits
}

const digitBits = 11

// byDigits sorts the keys by what stands above indexBits, of which most is the largest: by
// digits, the lowest first. That takes a few nanoseconds a key, where comparing takes sixty.
func (s *slice) byDigits(most uint64) {
	s.swap = slices.Grow(s.swap[:0], len(s.keys))[:len(s.keys)]
	for shift := indexBits; most>>(shift-indexBits) > 0; shift += digitBits {
		var starts [1 << digitBits]int
		for _, k := range s.keys {
			starts[k>>shift&(1<<digitBits-1)]++
		}
		sum := 0
		for i, n := range starts {
			starts[i] = sum
			sum += n
		}
		for _, k := range s.keys {
			d := k >> shift & (1<<digitBits - 1)
			s.swap[starts[d]] = k
			starts[d]++
		}
		s.keys, s.swap = s.swap, s.keys
	}
}

// at gives the entry of a key.
func (s *slice) at(key uint64) (*chunk.Batch, *chunk.BatchRow) {
	n, i := int(key&(1<<s.bits()-1)), len(s.starts)-1
	for n < s.starts[i] {
		i--
	}
	return &s.batches[i], &s.batches[i].Rows[n-s.starts[i]]
}

// handOut gives the entries to yield.
func (s *slice) handOut(ctx context.Context, yield func(*signalbox.Entry) error) error {
	var e signalbox.Entry
	for i, key := range s.keys {
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		b, row := s.at(key)
		end := row.From + int(row.Len)
		e = signalbox.Entry{
			Position: row.Position, Device: signalbox.DeviceID(row.Owner), Kind: signalbox.EntryTelemetry,
			ReceivedMicros: row.Received, TimeMicros: row.Time, Body: b.Bodies[row.From:end:end],
		}
		if e.Device == eventDevice {
			var err error
			if e.Kind, e.Device, e.Body, err = event(e.Body); err != nil {
				return err
			}
		}
		if err := yield(&e); err != nil {
			return err
		}
	}
	return nil
}
