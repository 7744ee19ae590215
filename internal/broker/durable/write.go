package durable

import (
	"context"
	"slices"
	"strconv"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

const (
	// checkpointName and lastIDName are where the table meta has the position up to which the
	// tables are whole, and the largest number of a session up to there.
	checkpointName = "broker_checkpoint"
	lastIDName     = "broker_last_session"

	// lookEvery is how often there is a look at what is due, and at how far the log is ahead.
	lookEvery = 250 * time.Millisecond
	// writePause is the least time between two transactions, and retryPause that after one that
	// failed: the log's commits, for which people wait, come first.
	writePause = 10 * time.Millisecond
	retryPause = 500 * time.Millisecond
	// writeShare: one in that many of the sessions and topics that wait are written at once.
	writeShare = 16
	// packFrom is the size from which a body is compressed.
	packFrom = 512
	// dropSessions are the sessions whose rows are deleted in one transaction, dropRows each.
	dropSessions = 128
	dropRows     = 16
	// ridePause is the least time between two checkpoints that ride along with commits.
	ridePause = time.Second
	// stopPatience bounds the last writing.
	stopPatience = 5 * time.Second
)

// bounds are those of what is written.
type bounds struct {
	// least to most sessions and topics are in a transaction, and bytes of messages.
	least, most, bytes int
	// rowMessages and rowBytes bound a row of a queue; it is closed after the message with which
	// it reaches one of them.
	rowMessages, rowBytes int
}

func usualBounds() bounds {
	return bounds{least: 64, most: 512, bytes: 1 << 20, rowMessages: 256, rowBytes: 128 << 10}
}

// op is a row as it is to be written.
type op struct {
	s *session
	r *retained

	row   store.BrokerSession
	fresh bool // there is no row yet
	ended bool
	begun bool // head and will changed
	will  bool // the will did
	subs  []change
	wrote bool // subscriptions are to be written
	size  int64

	items []item // messages of s
	m     *stored
	queue []store.BrokerRow
	key   [32]byte // of r
	body  []byte
}

// batch is what one transaction writes.
type batch struct {
	ops     []*op
	drops   map[SessionID]uint64
	dropped map[SessionID]bool // those of which nothing is left
	rows    int64              // deleted
	needs   signalbox.Position // what must be committed before
	reached signalbox.Position // the checkpoint after it
	move    bool
	maxID   uint64
	more    bool // there is more to be written now
	refused []*op
	bad     *op
}

func (b *batch) empty() bool { return len(b.ops) == 0 && len(b.drops) == 0 && !b.move }

// Run writes into the tables until ctx ends, and then the rest, for which it takes some
// seconds at most; the log must run meanwhile. What is not written the next start reads from
// the log.
func (k *Keeper) Run(ctx context.Context) error {
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			k.writeRest(ctx)
			return nil
		case <-k.wake:
		case <-timer.C:
		}
		wait := lookEvery
		switch more, err := k.write(ctx, k.rush()); {
		case err != nil:
			wait = retryPause
		case more:
			wait = writePause
		}
		timer.Reset(wait)
	}
}

// writeRest is the last writing.
func (k *Keeper) writeRest(ctx context.Context) {
	calm, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	if err := k.Flush(calm); err != nil {
		k.cfg.Logger.Warn("some sessions of the MQTT broker were not written into the tables; the next start takes them from the log", "err", err)
	}
}

// rush says that what is behind is to be written without delay.
func (k *Keeper) rush() bool {
	behind := k.log.Committed() - min(k.log.Committed(), k.Checkpoint())
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pending >= k.cfg.Pending/2 || behind > signalbox.Position(k.cfg.Behind) && len(k.queue) > k.head
}

// Flush writes all that is behind, and the checkpoint.
func (k *Keeper) Flush(ctx context.Context) error {
	for {
		if more, err := k.write(ctx, true); err != nil || !more {
			return err
		}
	}
}

// write brings rows up to date in one transaction, those that are due or of all, and moves the
// checkpoint. It tries until that is done or ctx ends; then the same is written next time.
func (k *Keeper) write(ctx context.Context, all bool) (more bool, err error) {
	k.turn.Lock()
	defer k.turn.Unlock()
	b := k.unfinished
	if b == nil {
		if b = k.gather(all); b.empty() {
			return false, nil
		}
		k.unfinished = b
	}
	// Rows never show a change that is not in the committed log.
	if err := k.log.Wait(ctx, b.needs); err != nil {
		return false, err
	}
	for {
		if err = k.put(ctx, b); err == nil {
			k.paid(b)
			k.unfinished = nil
			return b.more, nil
		}
		k.stats.Faults.Add(1)
		if ctx.Err() != nil {
			return false, err
		}
		if b.bad != nil && signalbox.KindOf(err) != signalbox.KindUnavailable {
			k.refuse(b, err)
			continue
		}
		k.cfg.Logger.Debug("sessions of the MQTT broker could not be written; they wait", "err", err)
		select {
		case <-ctx.Done():
			return false, err
		case <-time.After(retryPause):
		}
	}
}

// refuse leaves a row out that the database refuses for its content, for it would hold up all
// others.
func (k *Keeper) refuse(b *batch, err error) {
	k.stats.Broken.Add(1)
	id := SessionID(0)
	if b.bad.s != nil {
		id = b.bad.s.id
	}
	k.cfg.Logger.Error("a row of the MQTT broker was refused by the database and left out", "mqtt_session", uint64(id), "err", err)
	b.refused = append(b.refused, b.bad)
	b.bad = nil
}

// gather chooses what is written next. The caller holds turn.
func (k *Keeper) gather(all bool) *batch {
	b := &batch{drops: map[SessionID]uint64{}, dropped: map[SessionID]bool{}}
	committed := k.log.Committed() // before open is looked at
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	waiting := len(k.queue) - k.head
	limit := min(max(waiting/writeShare, k.bounds.least), k.bounds.most)
	if all {
		limit = k.bounds.most
	}
	size := 0
	for len(b.ops) < limit && size < k.bounds.bytes && k.head < len(k.queue) {
		d := k.queue[k.head]
		if !all && d.due.After(now) {
			break
		}
		o, whole := k.take(d, k.bounds.bytes-size, &size)
		if o != nil {
			b.ops = append(b.ops, o)
		}
		if !whole {
			break // the rest comes with the next transaction
		}
		k.queue[k.head] = debt{}
		k.head++
	}
	if k.head == len(k.queue) {
		if k.queue, k.head = k.queue[:0], 0; cap(k.queue) > 4096 {
			k.queue = nil
		}
	}
	for id, below := range k.drops {
		if len(b.drops) == dropSessions {
			break
		}
		b.drops[id] = below
	}
	b.needs, b.maxID = k.last, k.maxID
	switch {
	case k.head < len(k.queue):
		b.reached = max(k.queue[k.head].since, 1) - 1
		b.more = all || !k.queue[k.head].due.After(now)
	case k.open.Load() == 0:
		b.reached = max(k.last, committed)
	default:
		b.reached = k.last
	}
	b.more = b.more || len(k.drops) > 0
	b.move = b.reached > k.Checkpoint() && (len(b.ops) > 0 || all)
	return b
}

// take makes an op of a debt. whole says that nothing of it is left. The caller holds mu.
func (k *Keeper) take(d debt, room int, size *int) (o *op, whole bool) {
	if d.r != nil {
		d.r.queued = false
		o = &op{r: d.r, m: d.r.m}
		if o.m != nil {
			*size += len(o.m.body)
		}
		return o, true
	}
	s, w := d.s, d.s.w
	if w.ended {
		w.queued = false
		k.pending -= workCost
		if w.fresh {
			return nil, true // there is no row
		}
		return &op{s: s, ended: true}, true
	}
	o = &op{s: s, fresh: w.fresh, begun: w.begun, will: w.willed, subs: w.subs, size: w.size}
	o.row = store.BrokerSession{ID: uint64(s.id), Head: w.head, Will: w.will}
	k.changeTaken(w)
	whole = true
	first, _ := slices.BinarySearchFunc(w.items, w.taken+1, item.compare)
	for i, it := range w.items[first:] {
		if room <= 0 {
			o.items, whole = w.items[first:first+i], false
			break
		}
		room -= len(it.m.body) + itemCost
		*size += len(it.m.body) + itemCost
		w.taken = it.n
		o.items = w.items[first : first+i+1]
	}
	o.items = slices.Clone(o.items)
	o.row.State = appendState(nil, s)
	w.state = false
	if s.acked > 1 && w.stored > 0 {
		k.drops[s.id] = max(k.drops[s.id], s.acked)
		if s.acked > w.stored {
			w.stored = 0
		}
	}
	if whole {
		w.queued = false
		k.pending -= workCost
	}
	return o, whole
}

// changeTaken says that what a session has besides its queue is being written.
func (k *Keeper) changeTaken(w *work) {
	w.fresh, w.begun, w.willed, w.head, w.will, w.subs, w.size = false, false, false, nil, nil, nil, 0
}

// put writes a batch.
func (k *Keeper) put(ctx context.Context, b *batch) error {
	if err := k.prepare(ctx, b); err != nil {
		return err
	}
	return k.store.Update(ctx, func(tx *store.Tx) error {
		b.rows, b.bad = 0, nil
		clear(b.dropped)
		for _, o := range b.ops {
			if slices.Contains(b.refused, o) {
				continue
			}
			if err := o.put(ctx, tx); err != nil {
				b.bad = o
				return err
			}
		}
		for id, below := range b.drops {
			n, err := tx.PruneBrokerQueue(ctx, uint64(id), int64(min(below, maxNumber)), dropRows)
			if err != nil {
				return err
			}
			b.rows += n
			b.dropped[id] = n < dropRows
		}
		if b.maxID > k.storedID {
			if err := tx.SetMeta(ctx, lastIDName, strconv.FormatUint(b.maxID, 10)); err != nil {
				return err
			}
		}
		if !b.move {
			return nil
		}
		return tx.SetMeta(ctx, checkpointName, formatPosition(b.reached))
	})
}

func formatPosition(p signalbox.Position) string { return strconv.FormatUint(uint64(p), 10) }

// Checkpoint is the position up to which the tables are whole.
func (k *Keeper) Checkpoint() signalbox.Position { return signalbox.Position(k.checkpoint.Load()) }

// reached says that the tables are whole up to p, on disk.
func (k *Keeper) reached(p signalbox.Position) {
	k.checkpoint.Store(uint64(p))
	k.moved = time.Now()
	k.hold.Release(p)
}

// ride gives the log the checkpoint to write along with a commit, while there is nothing else to
// write: the log need not be kept for what is no business of the broker.
func (k *Keeper) ride() (history.Change, func(error)) {
	if !k.turn.TryLock() {
		return nil, nil
	}
	committed := k.log.Committed() // before open is looked at
	k.mu.Lock()
	idle := len(k.queue) == k.head && k.open.Load() == 0
	k.mu.Unlock()
	if !idle || k.unfinished != nil || committed <= k.Checkpoint() || time.Since(k.moved) < ridePause {
		k.turn.Unlock()
		return nil, nil
	}
	write := func(ctx context.Context, tx *store.Tx) error {
		return tx.SetMeta(ctx, checkpointName, formatPosition(committed))
	}
	return write, func(err error) {
		if err == nil {
			k.reached(committed)
		}
		k.turn.Unlock()
	}
}

func (o *op) put(ctx context.Context, tx *store.Tx) (err error) {
	switch {
	case o.r != nil && o.m == nil:
		return tx.DeleteBrokerRetained(ctx, o.key)
	case o.r != nil:
		return tx.PutBrokerRetained(ctx, o.key, o.body)
	case o.ended:
		return tx.DeleteBrokerSession(ctx, uint64(o.s.id))
	case o.fresh:
		err = tx.PutBrokerSession(ctx, &o.row)
	case o.begun:
		err = tx.UpdateBrokerSession(ctx, &o.row)
	case o.will:
		err = tx.UpdateBrokerWill(ctx, &o.row)
	default:
		err = tx.UpdateBrokerState(ctx, &o.row)
	}
	if err == nil && o.wrote && !o.fresh {
		err = tx.UpdateBrokerSubs(ctx, o.row.ID, o.row.Subs)
	}
	for i := 0; i < len(o.queue) && err == nil; i++ {
		err = tx.PutBrokerRow(ctx, &o.queue[i])
	}
	return err
}

// paid ends what gather began: the batch is on disk.
func (k *Keeper) paid(b *batch) {
	k.stats.Batches.Add(1)
	if k.storedID = max(k.storedID, b.maxID); b.move {
		k.reached(b.reached)
	}
	k.stats.DeletedRows.Add(b.rows)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, o := range b.ops {
		k.paidOp(o)
	}
	for id, all := range b.dropped {
		if all && k.drops[id] == b.drops[id] {
			delete(k.drops, id)
		}
	}
}

func (k *Keeper) paidOp(o *op) {
	if o.r != nil {
		k.stats.RetainedRows.Add(1)
		if !o.r.queued && k.retained[o.r.topic] == o.r {
			k.release(o.r.m)
			k.pending -= int64(len(o.r.topic)) + workCost
			delete(k.retained, o.r.topic)
		}
		return
	}
	k.stats.SessionRows.Add(1)
	k.stats.QueueRows.Add(int64(len(o.queue)))
	k.stats.QueueMessages.Add(int64(len(o.items)))
	k.pending -= o.size
	s, w := o.s, o.s.w
	if o.ended || w.ended {
		k.drops[s.id] = maxNumber
		return
	}
	if n := len(o.items); n > 0 {
		last := o.items[n-1].n
		w.stored = last
		i, _ := slices.BinarySearchFunc(w.items, last+1, item.compare)
		w.items = k.letGo(w.items, i, func(*item) bool { return true })
	}
	if w.atRest() {
		s.w = nil
	}
}

// atRest says that there is nothing to be kept in memory.
func (w *work) atRest() bool {
	return !w.queued && w.stored == 0 && len(w.items)+len(w.done)+len(w.released)+len(w.received)+len(w.given) == 0
}
