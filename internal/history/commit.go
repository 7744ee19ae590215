package history

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

const (
	// rowsPerCommit bounds one transaction.
	rowsPerCommit = 64
	// retryFirst and retryMost pace the attempts while commits fail.
	retryFirst = 50 * time.Millisecond
	retryMost  = 2 * time.Second
	// keepPrepared is how many bytes are kept for encoding a row.
	keepPrepared = 1 << 20
)

// Run commits what is appended until ctx ends; then it commits the rest, refuses further
// entries and returns. When the rest cannot be committed within grace it returns why. It
// runs once.
func (l *Log) Run(ctx context.Context, grace time.Duration) error {
	defer close(l.ended)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		l.mu.Lock()
		due := l.due
		l.mu.Unlock()
		if wait := time.Until(due); due.IsZero() || wait > 0 {
			if due.IsZero() {
				wait = time.Hour
			}
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return l.drain(ctx, grace)
			case <-l.wake:
				continue
			case <-timer.C:
				continue
			}
		}
		l.commitOrRetry(ctx)
		if ctx.Err() != nil {
			return l.drain(ctx, grace)
		}
	}
}

// drain is the orderly end: no more entries, and all there are on disk.
func (l *Log) drain(ctx context.Context, grace time.Duration) error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	for tried := false; ; tried = true {
		l.mu.Lock()
		left := len(l.rows)
		l.mu.Unlock()
		if left == 0 {
			return nil
		}
		if tried && last.Err() != nil {
			return errors.Join(signalbox.Errorf(signalbox.KindUnavailable, "store_unavailable", "the last entries could not be written before the hub stopped"), l.Err())
		}
		l.commitOrRetry(last)
	}
}

// commitOrRetry commits the rows there are and tries until it succeeds or ctx ends.
func (l *Log) commitOrRetry(ctx context.Context) {
	l.mu.Lock()
	rows := l.rows[:min(len(l.rows), rowsPerCommit)]
	for _, b := range rows {
		b.committing = true
	}
	l.due = time.Time{}
	if len(rows) < len(l.rows) {
		l.due = time.Now()
	}
	l.mu.Unlock()
	if len(rows) == 0 {
		return
	}
	for i, b := range rows {
		l.prepare(i, b)
	}
	riders := l.board()
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		// A commit under way is not interrupted: stopping waits for it.
		err := l.commit(context.WithoutCancel(ctx), rows, riders)
		for _, r := range riders {
			r.done(err)
		}
		if err == nil {
			l.recovered()
			break
		}
		if len(riders) > 0 {
			riders = nil // whatever was wrong, they can wait; the entries cannot
			continue
		}
		if bad, ok := errors.AsType[*badChange](err); ok {
			l.cfg.Logger.Error("a change was refused by the database and left out", "err", bad.err)
			continue
		}
		l.failed(err)
		select {
		case <-ctx.Done():
			l.mu.Lock()
			for _, b := range rows {
				b.committing = false // so that drain finds them as they were; nothing was written
			}
			l.mu.Unlock()
			return
		case <-time.After(pause):
		}
	}
	l.settle(rows)
}

// prepared is a row ready to be written. Its memory is used again for later rows.
type prepared struct{ devices, body []byte }

// prepare encodes b as the i-th row of the commit. Only the committing goroutine calls it;
// b is read beside headOf, so it is not changed.
func (l *Log) prepare(i int, b *batch) {
	for len(l.ready) <= i {
		l.ready = append(l.ready, prepared{})
	}
	if l.ready[i].devices == nil {
		l.ready[i].devices = []byte{} // the database takes nil for NULL
	}
	l.links = append(l.links[:0], b.devices...)
	slices.SortFunc(l.links, func(a, b link) int { return cmp.Compare(a.device, b.device) })
	p := &l.ready[i]
	p.devices = encodeDevices(p.devices[:0], b.first, l.links)
	p.body = l.enc.EncodeAll(b.buf, p.body[:0])
}

// badChange is a rider that the database refused for its content.
type badChange struct{ err error }

func (e *badChange) Error() string { return e.err.Error() }

// rider is what Ride gave for one commit.
type rider struct {
	write Change
	done  func(error)
}

// board asks who wants to ride.
func (l *Log) board() (riders []rider) {
	for _, ride := range l.rides {
		if write, done := ride(); write != nil {
			riders = append(riders, rider{write, done})
		}
	}
	return riders
}

func (l *Log) commit(ctx context.Context, rows []*batch, riders []rider) error {
	return l.st.Update(ctx, func(tx *store.Tx) error {
		for i, b := range rows {
			_, err := tx.Exec(ctx, `INSERT INTO intake (id, n, received_us, received_last_us, time_min_us, devices, body) VALUES (?,?,?,?,?,?,?)`,
				int64(b.first), b.n, b.received, b.prev, b.timeMin, l.ready[i].devices, l.ready[i].body)
			if err != nil {
				return err
			}
			for j, change := range b.changes {
				if change == nil {
					continue
				}
				if err := change(ctx, tx); err != nil {
					if signalbox.KindOf(err) == signalbox.KindUnavailable {
						return err
					}
					b.changes[j] = nil
					return &badChange{err: err}
				}
			}
		}
		for _, r := range riders {
			if err := r.write(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
}

// settle tells everyone that rows are on disk.
func (l *Log) settle(rows []*batch) {
	var end signalbox.Position
	for i, b := range rows {
		end = b.first + signalbox.Position(b.n) - 1
		l.stats.Entries.Add(int64(b.n))
		l.stats.Telemetry.Add(int64(b.telemetry))
		l.stats.RawBytes.Add(int64(len(b.buf)))
		l.stats.StoredBytes.Add(int64(len(l.ready[i].devices) + len(l.ready[i].body)))
		if cap(l.ready[i].body) > keepPrepared {
			l.ready[i] = prepared{}
		}
	}
	l.stats.Commits.Add(1)
	l.stats.Rows.Add(int64(len(rows)))
	l.mu.Lock()
	l.committed.Store(uint64(end))
	for _, b := range rows {
		l.pending -= len(b.buf)
		clear(b.changes)
		*b = batch{buf: b.buf[:0], devices: b.devices[:0], changes: b.changes[:0]}
		l.free.Put(b)
	}
	left := copy(l.rows, l.rows[len(rows):])
	clear(l.rows[left:])
	l.rows = l.rows[:left]
	kept := l.waiters[:0]
	for _, w := range l.waiters {
		if w.pos <= end {
			close(w.done)
		} else {
			kept = append(kept, w)
		}
	}
	clear(l.waiters[len(kept):])
	l.waiters = kept
	l.mu.Unlock()
	for _, f := range l.onCommit {
		f(end)
	}
}

func (l *Log) failed(err error) {
	l.stats.Faults.Add(1)
	if l.failure.Swap(&err) == nil {
		l.cfg.Logger.Error("history cannot be written; it is kept in memory and tried again", "err", err)
	}
}

func (l *Log) recovered() {
	if l.failure.Swap(nil) != nil {
		l.cfg.Logger.Info("history is written again")
	}
}
