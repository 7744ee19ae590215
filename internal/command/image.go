package command

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

const (
	// rowDelay is how long a row may be behind the log before it is written: long enough for
	// the states of most commands to become one write.
	rowDelay = 500 * time.Millisecond
	// rideRows is how many rows that are due go along with a commit of the log, and rideWait
	// how long they wait for one before they get a transaction of their own.
	rideRows = 4
	rideWait = 100 * time.Millisecond
	// rowPause is the least time between two transactions that write rows. Each takes the
	// rows that are due: as many as one in writeShare of those that wait, but leastRows to
	// mostRows, so that the log's commits, for which people wait, are held up little.
	rowPause   = 10 * time.Millisecond
	writeShare = 16
	leastRows  = 16
	mostRows   = 100
	// rushAt is how many rows may wait. As long as there are more they are written without a
	// pause, due or not.
	rushAt = 10_000
	// checkpointEvery is how often the checkpoint moves while there are no rows to write.
	checkpointEvery = time.Minute
	// checkpointName is the checkpoint's name in the table meta.
	checkpointName = "command_checkpoint"
)

// An image is the table of commands as a late copy of the log: it knows whose rows are
// behind, and the position up to which none is.
type image struct {
	mu      sync.Mutex
	queue   []debt // in log order
	head    int
	writing []debt             // taken from the queue, not on disk yet
	last    signalbox.Position // of the newest change
	wake    chan struct{}

	turn         sync.Mutex // held for the length of one write, around mu
	checkpoint   signalbox.Position
	checkpointed time.Time
}

// A debt is a row that is behind the log.
type debt struct {
	e     *entry
	since signalbox.Position // the first change that the row may not show, or an earlier one
	due   time.Time
}

// append gives the entry its place in the log and queues the rows it changes. Both happen
// under one lock: the queue is in log order, and no change is on disk before its debt is
// known.
func (m *image) append(log history.Appender, entry *signalbox.Entry, u history.Urgency, changed *entry, also []*entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := log.Append(entry, u); err != nil {
		return err
	}
	m.last = entry.Position
	m.owe(changed)
	for _, e := range also {
		m.owe(e)
	}
	return nil
}

// touch queues a row that is to change although the log has nothing new to tell.
func (m *image) touch(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.owe(e)
}

// owe queues e's row. The caller holds mu.
func (m *image) owe(e *entry) {
	if e.queued {
		return // the write to come shows this change too
	}
	if m.head > 1024 && m.head > len(m.queue)/2 {
		n := copy(m.queue, m.queue[m.head:])
		clear(m.queue[n:])
		m.queue, m.head = m.queue[:n], 0
	}
	e.queued = true
	e.owed++
	m.queue = append(m.queue, debt{e, m.last, time.Now().Add(rowDelay)})
	if n := len(m.queue) - m.head; n == 1 || n == rushAt {
		signal(m.wake)
	}
}

// oweFirst queues rows that may be behind since the checkpoint, before all others.
func (m *image) oweFirst(behind []*entry) {
	debts := make([]debt, len(behind))
	m.mu.Lock()
	for i, e := range behind {
		e.owed++
		debts[i] = debt{e, m.checkpoint + 1, time.Now()}
	}
	m.mu.Unlock()
	m.giveBack(debts)
}

// owes reports whether e's row is behind.
func (m *image) owes(e *entry) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return e.owed > 0
}

// take moves debts to writing: those that are due, or all.
func (m *image) take(limit int, all bool) []debt {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := time.Now()
	for len(m.writing) < limit && m.head < len(m.queue) && (all || !m.queue[m.head].due.After(t)) {
		d := m.queue[m.head]
		m.queue[m.head] = debt{}
		m.head++
		d.e.queued = false // a change from now on needs another write
		m.writing = append(m.writing, d)
	}
	if m.head == len(m.queue) {
		m.queue, m.head = m.queue[:0], 0
		if cap(m.queue) > 4096 {
			m.queue = nil // a rush is over
		}
	}
	return slices.Clone(m.writing)
}

// giveBack puts debts of writing back to the front of the queue.
func (m *image) giveBack(debts []debt) {
	if len(debts) == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	back := make(map[*entry]bool, len(debts))
	for _, d := range debts {
		back[d.e] = true
		if d.e.queued {
			d.e.owed-- // it was queued again meanwhile; the older debt stands for both
		}
	}
	rest := slices.DeleteFunc(m.queue[m.head:], func(d debt) bool { return back[d.e] })
	for _, d := range debts {
		d.e.queued = true
	}
	m.queue, m.head = slices.Concat(debts, rest), 0
	m.writing = slices.DeleteFunc(m.writing, func(d debt) bool { return back[d.e] })
}

// paid forgets what is being written: it is on disk.
func (m *image) paid() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.writing {
		d.e.owed--
	}
	clear(m.writing)
	m.writing = m.writing[:0]
}

// reach is the position up to which no row is behind once what is being written is on
// disk. committed must have been read after the rows were.
func (m *image) reach(committed signalbox.Position) signalbox.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.head < len(m.queue) && m.queue[m.head].since <= committed {
		return max(m.queue[m.head].since, 1) - 1
	}
	return committed
}

// plan says how many rows wait, and when the first is due.
func (m *image) plan() (waiting int, due time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.head < len(m.queue) {
		due = m.queue[m.head].due
	}
	return len(m.queue) - m.head, due
}

// waiting is how many rows are behind.
func (m *image) waiting() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.queue) - m.head + len(m.writing)
}

// newest gives up to limit commands whose rows are behind, newest first; device and before
// as for List.
func (m *image) newest(device signalbox.DeviceID, before string, limit int) []*entry {
	m.mu.Lock()
	var found []*entry
	for _, debts := range [][]debt{m.writing, m.queue[m.head:]} {
		for _, d := range debts {
			// What a command is never changes and may be read without its shard.
			if c := &d.e.c; (device == 0 || c.To == device) && (before == "" || c.ID < before) {
				found = append(found, d.e)
			}
		}
	}
	m.mu.Unlock()
	slices.SortFunc(found, func(a, b *entry) int { return cmp.Compare(b.c.ID, a.c.ID) })
	found = slices.Compact(found)
	return found[:min(limit, len(found))]
}

// runImage writes rows that are behind, a few at a time, until ctx ends.
func (r *Road) runImage(ctx context.Context) {
	timer := time.NewTimer(checkpointEvery)
	defer timer.Stop()
	for {
		wait := checkpointEvery
		waiting, due := r.image.plan()
		if waiting > 0 {
			wait = max(time.Until(due)+rideWait, rowPause)
		}
		rush := waiting >= rushAt
		if rush {
			wait = 0
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-r.image.wake:
			continue // there is something to plan for
		case <-timer.C:
		}
		if rush {
			r.stats.rushed.Add(1)
		}
		n, err := r.writeRows(ctx, min(max(waiting/writeShare, leastRows), mostRows), rush)
		if err != nil && ctx.Err() == nil {
			r.logger.Debug("rows of commands could not be written; they wait", "err", err)
		}
		if n > 0 || waiting == 0 {
			continue
		}
		timer.Reset(rowDelay) // the log or the store does not take anything now
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
}

// flushRows writes all rows that are behind and may be written, and the checkpoint.
func (r *Road) flushRows(ctx context.Context) error {
	for {
		if n, err := r.writeRows(ctx, mostRows, true); err != nil || n == 0 {
			return err
		}
	}
}

// A row is a command as it is to be stored.
type row struct {
	debt
	c      signalbox.Command
	active bool
}

// writeRows brings up to limit rows up to date in one transaction, those that are due or
// all, and moves the checkpoint. It says how many it wrote. Rows never show a change that
// is not in the committed log: those whose newest change is not wait.
func (r *Road) writeRows(ctx context.Context, limit int, all bool) (int, error) {
	r.image.turn.Lock()
	defer r.image.turn.Unlock()
	w := r.gather(limit, all)
	if len(w.rows) == 0 && !w.move {
		return 0, nil
	}
	err := r.putRows(ctx, w)
	r.wrote(w, err)
	if err != nil {
		return 0, err
	}
	return len(w.rows), nil
}

// ride gives the log a few rows that are due, to be written along with a commit.
func (r *Road) ride() (history.Change, func(error)) {
	if !r.image.turn.TryLock() {
		return nil, nil // rows are being written
	}
	w := r.gather(rideRows, false)
	if len(w.rows) == 0 && !w.move {
		r.image.turn.Unlock()
		return nil, nil
	}
	bad := -1
	write := func(ctx context.Context, tx *store.Tx) error { return w.put(ctx, tx, nil, &bad) }
	return write, func(err error) {
		r.wrote(w, err)
		r.image.turn.Unlock()
	}
}

// rows are some that one transaction brings up to date.
type rows struct {
	rows    []row
	reached signalbox.Position // the checkpoint after it
	move    bool               // store the checkpoint
}

// gather takes up to limit rows that may be written now. The caller holds turn until it has
// called wrote.
func (r *Road) gather(limit int, all bool) rows {
	m := &r.image
	var w rows
	var early []debt
	committed := r.log.Committed()
	for _, d := range m.take(limit, all) {
		sh := r.shard(d.e.c.To)
		sh.mu.Lock()
		if d.e.unsaved || d.e.pos > committed {
			early = append(early, d)
		} else {
			w.rows = append(w.rows, row{d, d.e.c, keepsActive(&d.e.c, d.e.watched)})
		}
		sh.mu.Unlock()
	}
	m.giveBack(early)
	w.reached = m.reach(r.log.Committed())
	w.move = w.reached > m.checkpoint && (all || time.Since(m.checkpointed) >= rowDelay)
	return w
}

// wrote ends what gather began.
func (r *Road) wrote(w rows, err error) {
	m := &r.image
	if err != nil {
		var debts []debt
		for i := range w.rows {
			debts = append(debts, w.rows[i].debt)
		}
		m.giveBack(debts)
		return
	}
	if w.move {
		m.checkpoint, m.checkpointed = w.reached, time.Now()
		r.hold.Release(w.reached)
	}
	for i := range w.rows {
		sh := r.shard(w.rows[i].c.To)
		sh.mu.Lock()
		w.rows[i].e.stored = w.rows[i].active
		sh.mu.Unlock()
	}
	m.paid()
	r.stats.rows.Add(uint64(len(w.rows)))
}

// put writes the rows, but for those of refused, and the checkpoint. bad becomes the row that
// the database refuses.
func (w *rows) put(ctx context.Context, tx *store.Tx, refused []int, bad *int) error {
	for i := range w.rows {
		if slices.Contains(refused, i) {
			continue
		}
		if err := tx.PutCommand(ctx, &w.rows[i].c, w.rows[i].active); err != nil {
			*bad = i
			return err
		}
	}
	if !w.move {
		return nil
	}
	return tx.SetMeta(ctx, checkpointName, formatPosition(w.reached))
}

// putRows stores w in one transaction. A row that the database refuses for its content is left
// out, for it would hold up all others.
func (r *Road) putRows(ctx context.Context, w rows) error {
	var refused []int
	for {
		bad := -1
		err := r.store.Update(ctx, func(tx *store.Tx) error { return w.put(ctx, tx, refused, &bad) })
		if err == nil || bad < 0 || ctx.Err() != nil || signalbox.KindOf(err) == signalbox.KindUnavailable {
			return err
		}
		r.logger.Error("a command's row was refused by the database and left out", "command_id", w.rows[bad].c.ID, "err", err)
		refused = append(refused, bad)
	}
}

func formatPosition(p signalbox.Position) string { return strconv.FormatUint(uint64(p), 10) }

// readCheckpoint gives the position up to which the table shows the log, and whether there
// was one: a database without was written by a version that stored rows with their entries.
func (r *Road) readCheckpoint(ctx context.Context) (at signalbox.Position, known bool, err error) {
	text, err := r.store.Meta(ctx, checkpointName)
	if err != nil || text == "" {
		return 0, false, err
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, false, fmt.Errorf("the table meta says %q of %s; it must be a position of the log: %w", text, checkpointName, err)
	}
	return signalbox.Position(n), true, nil
}
