package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	"signalbox"
	"signalbox/internal/history/chunk"
	"signalbox/internal/store"
)

const (
	// mergeAt is how many small chunks of a device in a row are worth a merge, and mergeMost
	// how many it takes at once.
	mergeAt   = 8
	mergeMost = 32
	// mergeQueue bounds the devices that wait to be looked at; one that finds no place asks
	// again with its next chunk.
	mergeQueue = 1024
	// mergePause lies between two merges, so that the log's commits come first.
	mergePause = 2 * time.Millisecond
)

// errMoved says that chunks of the device were merged while they were read; the question is
// asked again.
var errMoved = errors.New("chunks were merged meanwhile")

// tidier merges small chunks in the background.
type tidier struct {
	l     *Log
	queue chan signalbox.DeviceID
	table chunk.Table
}

func (t *tidier) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case device := <-t.queue:
			if err := t.merge(ctx, device); err != nil && ctx.Err() == nil {
				t.l.cfg.Logger.Warn("small chunks of history could not be merged, or it is not known whether they are", "device_id", device, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(mergePause):
		}
	}
}

// merge makes one chunk of the small ones at the end of a device's main sequence.
func (t *tidier) merge(ctx context.Context, device signalbox.DeviceID) error {
	v, err := t.l.view(ctx, device)
	if err != nil {
		return err
	}
	defer v.close()
	found, err := v.fetch(ctx, t.l.newest, int64(device), mergeMost)
	if err != nil {
		return err
	}
	n, rows := 0, int64(0)
	for n < len(found) && found[n].n < smallRows && rows+found[n].n <= chunkRows {
		rows += found[n].n
		n++
	}
	if n < 2 {
		return nil
	}
	t.table.Reset()
	for i := n - 1; i >= 0; i-- {
		if err := t.table.AddChunk(t.l.shapes, found[i].blob); err != nil {
			return fmt.Errorf("chunk %d: %w", found[i].id, err)
		}
	}
	t.table.Sort()
	blob, err := t.table.Encode(nil, 0, t.table.Len())
	if err != nil {
		return err
	}
	c := newChunk{id: t.l.seal.next.Add(1), base: found[n-1].base, blob: blob}
	if c.head, err = chunk.Open(blob); err != nil {
		return err
	}
	// Who reads them is told before they are gone.
	ended := t.l.seal.tails.merging(device)
	err = t.l.st.Update(ctx, func(tx *store.Tx) error {
		for _, old := range found[:n] {
			res, err := tx.Exec(ctx, `DELETE FROM chunk WHERE id = ?`, old.id)
			if err != nil {
				return err
			}
			if gone, err := res.RowsAffected(); err != nil || gone != 1 {
				return errors.Join(errMoved, err) // retention was faster
			}
		}
		tx.Then(func() { t.l.stats.Merges.Add(1) })
		return errors.Join(c.insert(ctx, tx, device), t.l.reach(ctx, tx, int64(c.head.P1-c.head.P0)))
	})
	ended()
	if errors.Is(err, errMoved) {
		return nil
	}
	return err
}

// reach notes in the database how long chunks are, when there is a longer one.
func (l *Log) reach(ctx context.Context, tx *store.Tx, span int64) error {
	l.mu.Lock()
	l.span = max(l.span, span)
	span, noted := l.span, l.noted
	l.mu.Unlock()
	if span == noted {
		return nil
	}
	tx.Then(func() { // not before: the transaction may fail
		l.mu.Lock()
		defer l.mu.Unlock()
		l.noted = span
	})
	return tx.SetMeta(ctx, spanName, fmt.Sprint(span))
}

// merging says that chunks of the device are about to be merged; ended, that they were. A
// question that reads in several steps must not see some of them before and some after it.
func (t *tails) merging(device signalbox.DeviceID) (ended func()) {
	p := t.page(device, true)
	c := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moved[device%tailsPerPage]++
	p.busy, p.ended = device, c
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.busy, p.ended = 0, nil
		close(c)
	}
}

// moves counts the merges of the device that began.
func (t *tails) moves(device signalbox.DeviceID) uint16 {
	p := t.page(device, false)
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moved[device%tailsPerPage]
}
