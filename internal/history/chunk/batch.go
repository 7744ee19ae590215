package chunk

import "signalbox"

// BatchRow is a row in a Batch.
type BatchRow struct {
	Position signalbox.Position
	// Received and Time are Unix µs.
	Received, Time int64
	// Body begins at From in Batch.Bodies and is Len bytes long; rows may share it.
	From       int
	Len, Owner uint32
}

// Batch gathers the rows of cursors. The zero value is empty and ready.
type Batch struct {
	Rows   []BatchRow
	Bodies []byte

	keys, lags, others, marks []int64

	which   []int64
	cells   []cell
	changed []bool
	parts   []batchPart
	scratch cellScratch
}

// batchPart is the rows of a part among those that are added.
type batchPart struct {
	cols    []columnReader
	cells   []cell // column by column
	changed []bool // against the row before
	n, next int
	dirty   bool // it differs from the body that was made last
	from    int  // that body
	len     uint32
}

// Reset empties the batch.
func (b *Batch) Reset() { b.Rows, b.Bodies = b.Rows[:0], b.Bodies[:0] }

// Add adds a row of any origin.
func (b *Batch) Add(row *Row, owner uint32) {
	from := len(b.Bodies)
	b.Bodies = append(b.Bodies, row.Body...)
	b.Rows = append(b.Rows, BatchRow{row.Position, row.Received, row.Time, from, uint32(len(row.Body)), owner})
}

// Want says which rows are taken.
type Want struct {
	// UpTo is the last key: time or position, as the cursor goes.
	UpTo int64
	// Before is the position from which on rows are passed over; From and To are the first and
	// the last time of those that are not.
	Before   signalbox.Position
	From, To int64
	// Live is for rows that were not imported; the others are passed over.
	Live bool
	// Bytes ends the reading early when the batch has so many bytes of bodies.
	Bytes int
}

// Takes says whether a row is not passed over.
func (w *Want) Takes(p signalbox.Position, t int64, imported bool) bool {
	return p < w.Before && t >= w.From && t <= w.To && (!imported || !w.Live)
}

// append appends the body of row j.
func (p *batchPart) append(dst []byte, sh *shape, payload []byte, j int) []byte {
	for slot := range p.cols {
		x := p.cols[slot].one
		if p.cols[slot].kind != colConst {
			x = p.cells[slot*p.n+j]
		}
		dst = appendCell(append(dst, sh.segs[slot]...), payload, x)
	}
	return append(dst, sh.segs[len(p.cols)]...)
}
