package history

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/history/chunk"
	"signalbox/internal/store"
)

const (
	// rowsPerCommit, unitsPerCommit and unitBytesPerCommit bound one transaction, which takes
	// dropsPerCommit rows off the log's beginning besides as many as it adds; with fewer it waits.
	rowsPerCommit      = 64
	unitsPerCommit     = 256
	unitBytesPerCommit = 4 << 20
	dropsPerCommit     = 16
	// retryFirst and retryMost pace the attempts while commits fail.
	retryFirst = 50 * time.Millisecond
	retryMost  = 2 * time.Second
	// keepPrepared is how many bytes are kept for encoding a row.
	keepPrepared = 1 << 20
)

// Run commits what is appended until ctx ends; then it commits the rest, refuses further
// entries and returns. When the rest cannot be committed within grace it returns why. It
// runs once, after Restore.
func (l *Log) Run(ctx context.Context, grace time.Duration) error {
	sealing, stop := context.WithCancel(context.WithoutCancel(ctx))
	var sealer sync.WaitGroup // and the tidier
	sealer.Go(func() { l.seal.run(sealing) })
	sealer.Go(func() { l.tidy.run(sealing) })
	if l.spool != nil {
		sealer.Go(func() { l.probe(sealing) })
	}
	defer func() {
		close(l.committed.ended)
		stop()
		sealer.Wait()
		close(l.sealed.ended)
	}()
	return l.run(ctx, grace)
}

func (l *Log) run(ctx context.Context, grace time.Duration) error {
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

// work is what one commit writes.
type work struct {
	rows   []*batch
	units  []*unit
	shapes []chunk.StoredShape
	riders []rider
	drop   int // how many of the log's rows, from its beginning
	mark   int64
	span   int64
}

// gather takes what there is to be committed next.
func (l *Log) gather() (w work) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.rows = l.rows[:min(len(l.rows), rowsPerCommit)]
	for _, b := range w.rows {
		b.committing = true
	}
	size := 0
	for _, u := range l.units[:min(len(l.units), unitsPerCommit)] {
		if size += u.bytes; size > unitBytesPerCommit && len(w.units) > 0 {
			break
		}
		w.units = append(w.units, u)
		w.span = max(w.span, int64(u.last-u.first))
	}
	// What waits longer is in the log alone.
	drop := l.drop
	for _, u := range l.units[len(w.units):] {
		drop = min(drop, u.first)
	}
	for w.drop+1 < len(l.kept) && l.kept[w.drop+1] <= drop && w.drop < dropsPerCommit+len(w.rows) {
		w.drop++
	}
	if w.drop < dropsPerCommit && len(w.rows) > 0 {
		w.drop = 0 // not in small bites
	}
	if w.drop > 0 {
		// The rows that stay decide, which may be more than those that are needed.
		i := 0
		for i+1 < len(l.marks) && l.marks[i+1].at < l.kept[w.drop] {
			i++
		}
		l.marks = l.marks[:copy(l.marks, l.marks[i:])]
		w.mark = l.marks[0].chunk
	}
	l.due = time.Time{}
	if len(w.rows) < len(l.rows) || len(w.units) < len(l.units) {
		l.due = time.Now()
	}
	return w
}

// commitOrRetry commits what there is and tries until it succeeds or ctx ends.
func (l *Log) commitOrRetry(ctx context.Context) {
	w := l.gather()
	if len(w.rows) == 0 && len(w.units) == 0 && w.drop == 0 && !l.spool.any() {
		return
	}
	if len(w.units) > 0 {
		w.shapes = l.shapes.Fresh() // what the units need has been made by now
	}
	for i, b := range w.rows {
		l.prepare(i, b)
	}
	if l.gone.Load() && l.toSpool(&w) {
		return
	}
	w.riders = l.board()
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		// A commit under way is not interrupted: stopping waits for it.
		began := time.Now()
		l.began.Store(&began)
		err := l.attempt(context.WithoutCancel(ctx), &w)
		l.began.Store(nil)
		for _, r := range w.riders {
			r.done(err)
		}
		if err == nil {
			l.gone.Store(false)
			l.recovered()
			break
		}
		if len(w.riders) > 0 {
			w.riders = nil // whatever was wrong, they can wait; the entries cannot
			continue
		}
		if l.spool != nil && signalbox.KindOf(err) == signalbox.KindUnavailable {
			l.gone.Store(true)
			l.failed(l.away(err))
			if l.toSpool(&w) {
				return
			}
		} else {
			l.failed(err)
		}
		select {
		case <-ctx.Done():
			l.shapes.Restore(w.shapes)
			l.mu.Lock()
			for _, b := range w.rows {
				b.committing = false // so that drain finds them as they were; nothing was written
			}
			l.mu.Unlock()
			return
		case <-time.After(pause):
		}
	}
	l.settle(&w)
}

// prepared is the body of a row, ready to be written. Its memory is used again for later rows.
type prepared []byte

// prepare encodes b as the i-th row of the commit. Only the committing goroutine calls it.
func (l *Log) prepare(i int, b *batch) {
	for len(l.ready) <= i {
		l.ready = append(l.ready, prepared{})
	}
	l.ready[i] = l.enc.EncodeAll(b.buf, l.ready[i][:0])
}

// attempt commits w, after what is still in the spool, and finds out what became of an earlier
// attempt whose end is not known.
func (l *Log) attempt(ctx context.Context, w *work) error {
	if d := l.doubt; d != nil {
		committed, err := l.st.Outcome(ctx, d.outcome)
		if err != nil {
			return err
		}
		l.doubt = nil
		if committed {
			l.settle(&work{units: d.units, drop: d.drop})
			w.units, w.drop = nil, 0 // they are those of d, or come with the next commit
		} else {
			l.shapes.Restore(d.shapes)
			if len(w.units) > 0 {
				w.shapes = append(w.shapes, l.shapes.Fresh()...)
			}
		}
	}
	if l.spool.any() {
		if err := l.unspool(ctx, l.taken); err != nil {
			return err
		}
		l.stats.Spooled.Store(0)
		l.cfg.Logger.Info("the database server is back; what was kept on the local disk is in the database")
	}
	err := l.commit(ctx, w)
	if err == nil {
		l.unwritten = ""
	}
	if unknown, ok := errors.AsType[*store.UnknownOutcome](err); ok {
		committed, again := l.st.Outcome(ctx, unknown)
		switch {
		case again != nil:
			l.doubt = &doubt{unknown, work{units: w.units, shapes: w.shapes, drop: w.drop}}
			w.shapes = nil
		case committed:
			return nil
		}
	}
	return err
}

// doubt is a commit of which nobody knows whether it came through.
type doubt struct {
	outcome *store.UnknownOutcome
	work
}

// toSpool keeps the rows of w on the local disk. The rest of w waits for the server.
func (l *Log) toSpool(w *work) bool {
	if err := l.spool.add(w.rows, l.ready); err != nil {
		l.failed(signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", err, "the database server is away, and telemetry cannot be kept on the local disk (%v)", err))
		return false
	}
	l.shapes.Restore(w.shapes)
	l.stats.Spooled.Store(l.spool.size - l.spool.read)
	end := l.Committed()
	l.mu.Lock()
	for i, b := range w.rows {
		end = b.first + signalbox.Position(b.n) - 1
		l.stats.Entries.Add(int64(b.n))
		l.stats.Telemetry.Add(int64(b.telemetry))
		l.stats.RawBytes.Add(int64(len(b.buf)))
		l.stats.StoredBytes.Add(int64(len(l.ready[i])))
		l.pending -= len(b.buf)
		*b = batch{buf: b.buf[:0]}
		l.free.Put(b)
	}
	left := copy(l.rows, l.rows[len(w.rows):])
	clear(l.rows[left:])
	l.rows = l.rows[:left]
	l.mu.Unlock()
	l.committed.reach(end)
	for _, f := range l.onCommit {
		f(end)
	}
	return true
}

// taken hands a row that came out of the spool to the sealer.
func (l *Log) taken(r packedRow) error {
	body, err := l.dec.DecodeAll(r.body, nil)
	if err != nil {
		return fmt.Errorf("%w: row %d of the spool: %w", errBroken, r.id, err)
	}
	l.mu.Lock()
	l.kept = append(l.kept, signalbox.Position(r.id))
	l.fed = append(l.fed, &batch{first: signalbox.Position(r.id), n: int(r.n), buf: body, received: r.received, prev: r.last})
	l.lag += len(body)
	l.mu.Unlock()
	nudge(l.sealing)
	return nil
}

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

const insertRow = `INSERT INTO intake (id, n, received_us, received_last_us, body) VALUES (?,?,?,?,?)`

func (l *Log) commit(ctx context.Context, w *work) error {
	return l.st.Update(ctx, func(tx *store.Tx) error {
		for i, b := range w.rows {
			_, err := tx.Exec(ctx, insertRow, int64(b.first), b.n, b.received, b.prev, []byte(l.ready[i]))
			if err != nil {
				return err
			}
		}
		for _, sh := range w.shapes {
			if _, err := tx.Exec(ctx, `INSERT INTO shape (id, body) VALUES (?,?)`, int64(sh.ID), sh.Text); err != nil {
				return err
			}
		}
		for _, u := range w.units {
			for i := range u.chunks {
				if err := u.chunks[i].insert(ctx, tx, u.device); err != nil {
					return err
				}
			}
		}
		if err := l.reach(ctx, tx, w.span); err != nil {
			return err
		}
		if err := l.writeEpochs(ctx, tx); err != nil {
			return err
		}
		for _, r := range w.riders {
			if err := r.write(ctx, tx); err != nil {
				return err
			}
		}
		if w.drop == 0 {
			return nil
		}
		if _, err := tx.Exec(ctx, `DELETE FROM intake WHERE id < ?`, int64(l.kept[w.drop])); err != nil {
			return err
		}
		return tx.SetMeta(ctx, markName, strconv.FormatInt(w.mark, 10))
	})
}

func (c *newChunk) insert(ctx context.Context, tx *store.Tx, device signalbox.DeviceID) error {
	late := 0
	if c.late {
		late = 1
	}
	_, err := tx.Exec(ctx, `INSERT INTO chunk (id, device, late, t0, t1, p0, p1, n, base, body) VALUES (?,?,?,?,?,?,?,?,?,?)`,
		c.id, int64(device), late, c.head.T0, c.head.T1, int64(c.head.P0), int64(c.head.P1), c.head.N, c.base, c.blob)
	return err
}

// settle tells everyone what is on disk.
func (l *Log) settle(w *work) {
	end := l.Committed()
	for i, b := range w.rows {
		end = b.first + signalbox.Position(b.n) - 1
		l.stats.Entries.Add(int64(b.n))
		l.stats.Telemetry.Add(int64(b.telemetry))
		l.stats.RawBytes.Add(int64(len(b.buf)))
		l.stats.StoredBytes.Add(int64(len(l.ready[i])))
		if cap(l.ready[i]) > keepPrepared {
			l.ready[i] = nil
		}
	}
	for _, u := range w.units {
		for i := range u.chunks {
			c := &u.chunks[i]
			l.stats.Chunks.Add(1)
			l.stats.ChunkMessages.Add(int64(c.head.N))
			l.stats.ChunkBytes.Add(int64(len(c.blob)))
			if c.late {
				l.stats.LateMessages.Add(int64(c.head.N))
			}
		}
	}
	l.seal.stored(w.units)
	l.stats.Commits.Add(1)
	l.stats.Rows.Add(int64(len(w.rows)))
	l.mu.Lock()
	if w.drop > 0 {
		l.kept = l.kept[:copy(l.kept, l.kept[w.drop:])]
	}
	for _, b := range w.rows {
		l.kept = append(l.kept, b.first)
		l.pending -= len(b.buf)
		l.lag += len(b.buf)
	}
	l.fed = append(l.fed, w.rows...)
	left := copy(l.rows, l.rows[len(w.rows):])
	clear(l.rows[left:])
	l.rows = l.rows[:left]
	for _, u := range w.units {
		l.waiting -= u.bytes
	}
	left = copy(l.units, l.units[len(w.units):])
	clear(l.units[left:])
	l.units = l.units[:left]
	l.mu.Unlock()
	l.committed.reach(end)
	nudge(l.sealing)
	nudge(l.drained)
	for _, f := range l.onCommit {
		f(end)
	}
}

// nudge wakes whoever waits on c, now or next.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
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
