package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"

	"signalbox"
	"signalbox/internal/history/chunk"
)

// view is one device's history at one moment: what is in memory, and the chunks before it.
// It is for one goroutine.
type view struct {
	l      *Log
	device signalbox.DeviceID
	mem    memory
	r      *chunk.Reader
	found  []stored
	// enough may say of a chunk of the main sequence that neither it nor those behind it are
	// wanted; nil: all are.
	enough func(c *stored) bool
	// unopened may take a chunk without its being unpacked; nil: none.
	unopened func(c *stored) (done bool)
}

// view sees what was committed before the call.
func (l *Log) view(ctx context.Context, device signalbox.DeviceID) (*view, error) {
	if l.gone.Load() {
		return nil, l.away(nil)
	}
	if err := l.sealed.wait(ctx, l.Committed()); err != nil {
		return nil, err
	}
	mem := l.seal.tails.snapshot(device)
	for mem.merging != nil {
		select {
		case <-mem.merging:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		mem = l.seal.tails.snapshot(device)
	}
	r, ok := l.readers.Get().(*chunk.Reader)
	if !ok {
		r = new(chunk.Reader)
	}
	return &view{l: l, device: device, mem: mem, r: r}, nil
}

func (v *view) close() { v.l.readers.Put(v.r) }

// ask answers a question with a view, again when chunks are merged meanwhile.
func (l *Log) ask(ctx context.Context, device signalbox.DeviceID, answer func(v *view) error) error {
	for {
		v, err := l.view(ctx, device)
		if err != nil {
			return err
		}
		err = answer(v)
		v.close()
		if !errors.Is(err, errMoved) {
			return err
		}
	}
}

// memory calls visit for what is in memory, as if it were chunks.
func (v *view) memory(visit func(r *chunk.Reader) error) error {
	for _, u := range v.mem.units {
		for i := range u.chunks {
			if err := v.r.Load(v.l.shapes, u.chunks[i].blob); err != nil {
				return fmt.Errorf("device %d: %w", v.device, err)
			}
			if err := visit(v.r); err != nil {
				return err
			}
		}
	}
	if v.mem.run.Len() == 0 {
		return nil
	}
	if err := v.r.LoadRun(v.l.shapes, &v.mem.run); err != nil {
		return fmt.Errorf("device %d: %w", v.device, err)
	}
	return visit(v.r)
}

// stored is a chunk as the database has it.
type stored struct {
	id, t0, t1, p0, p1, n, base, size int64
	blob                              []byte
}

const (
	firstChunks = 1 // that are read at once at first; each time twice as many
	mostChunks  = 16
)

// late calls visit for the chunks of late messages that reach into low ≤ t ≤ high, in no
// particular order.
func (v *view) late(ctx context.Context, low, high int64, visit func(r *chunk.Reader) error) error {
	for after := int64(0); ; {
		found, err := v.fetch(ctx, v.l.late, int64(v.device), high, low, after, mostChunks)
		if err != nil || len(found) == 0 {
			return err
		}
		for i := range found {
			after = found[i].id
			if v.load(&found[i]) {
				if err := visit(v.r); err != nil {
					return err
				}
			}
		}
	}
}

// main calls visit for the chunks of the main sequence that reach into low ≤ t ≤ high, in
// order, until it says that there is no more to see.
func (v *view) main(ctx context.Context, order Order, low, high int64, visit func(r *chunk.Reader) (more bool, err error)) error {
	stmt, t, p := v.l.mainDown, high, int64(math.MaxInt64)
	if order == OldestFirst {
		stmt, t, p = v.l.mainUp, low, -1
		// The chunk in which low lies began before it.
		below := max(low, math.MinInt64+1) - 1
		first, err := v.fetch(ctx, v.l.mainDown, int64(v.device), below, below, int64(math.MaxInt64), 1)
		if err != nil {
			return err
		}
		if len(first) > 0 {
			t, p = first[0].t0, first[0].p0-1
		}
	}
	for n := firstChunks; ; n = min(2*n, mostChunks) {
		found, err := v.fetch(ctx, stmt, int64(v.device), t, t, p, n)
		if err != nil || len(found) == 0 {
			return err
		}
		for i := range found {
			c := &found[i]
			t, p = c.t0, c.p0
			if order == NewestFirst && c.t1 < low || order == OldestFirst && c.t0 > high {
				return nil
			}
			if v.enough != nil && v.enough(c) {
				return nil
			}
			if c.t1 < low || c.t0 > high || !v.load(c) {
				continue
			}
			if more, err := visit(v.r); err != nil || !more {
				return err
			}
		}
		if len(found) < n {
			return nil
		}
	}
}

// fetch reads chunks into memory, so that a slow reader does not hold up the database.
func (v *view) fetch(ctx context.Context, stmt *sql.Stmt, args ...any) ([]stored, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	v.found = v.found[:0]
	for rows.Next() {
		var c stored
		if err := rows.Scan(&c.id, &c.t0, &c.t1, &c.p0, &c.p1, &c.n, &c.base, &c.size, &c.blob); err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		v.found = append(v.found, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	if v.l.seal.tails.moves(v.device) != v.mem.moved {
		return nil, errMoved
	}
	return v.found, nil
}

// load makes c the chunk that v.r reads, unless it is in memory as well, or broken: then it
// is named and passed over, for the rest is good.
func (v *view) load(c *stored) bool {
	if signalbox.Position(c.p1) >= v.mem.first {
		return false
	}
	if v.unopened != nil && v.unopened(c) {
		return false
	}
	if err := v.r.Load(v.l.shapes, c.blob); err != nil {
		v.l.broken(c.id, v.device, err)
		return false
	}
	return true
}

// broken reports a chunk that cannot be read.
func (l *Log) broken(id int64, device signalbox.DeviceID, err error) {
	l.stats.Broken.Add(1)
	l.cfg.Logger.Error("a chunk of history is broken and passed over", "chunk", id, "device_id", device, "err", err)
}
