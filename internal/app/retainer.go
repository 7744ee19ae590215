package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/history"
	"signalbox/internal/history/plain"
	"signalbox/internal/registry"
	"signalbox/internal/store"
)

const (
	// retainEvery is how often history is looked through for what is too old or too much, and
	// retainFirst when after the start.
	retainEvery = 10 * time.Minute
	retainFirst = time.Minute
	// maxRuns is how many runs are remembered, and maxParts of how many parts each account has.
	maxRuns  = 50
	maxParts = 100
	// totalsName is where the totals are kept, in table meta.
	totalsName = "retention_totals"
)

// retainer drops history by the rules, and that of removed devices, and tells what it did. It
// is an api.Retention; its methods may be called from any goroutine, run from one.
type retainer struct {
	log     *history.Log
	store   *store.Store
	devices *registry.Registry
	rules   []Keep
	plain   *plain.Table // nil: none
	logger  *slog.Logger

	runs, messages, bytes, reclaimed atomic.Int64 // since the start, for metrics
	asked                            chan struct{}

	mu      sync.Mutex
	totals  api.RetentionTotals
	next    time.Time
	stopped bool
	running *retaining
	last    *api.RetentionRun
	recent  []api.RetentionRun // oldest first
}

// retaining is a run that was begun, or is to begin at once.
type retaining struct {
	account api.RetentionRun
	places  map[part]int // in account.Dropped
	ended   chan struct{}
}

// part is what is summed up together.
type part struct {
	of   string
	rule Keep
	kind string
}

// newRetainer makes one with the totals that are stored.
func newRetainer(ctx context.Context, st *store.Store, log *history.Log, devices *registry.Registry, rules []Keep, logger *slog.Logger) (*retainer, error) {
	r := &retainer{log: log, store: st, devices: devices, rules: rules, logger: logger, asked: make(chan struct{}, 1)}
	log.Unmissed(func(id signalbox.DeviceID) bool { // nobody is shown anything of it
		_, removed := r.ruleOf(id)
		return removed
	})
	text, err := st.Meta(ctx, totalsName)
	if err != nil {
		return nil, err
	}
	if text == "" {
		return r, nil
	}
	if err := json.Unmarshal([]byte(text), &r.totals); err != nil {
		logger.Warn("the totals of retention cannot be read; they begin anew", "err", err)
		r.totals = api.RetentionTotals{}
	}
	return r, nil
}

// run does its work from time to time, and when asked to, until ctx ends.
func (r *retainer) run(ctx context.Context) error {
	timer := time.NewTimer(retainFirst)
	defer timer.Stop()
	defer r.stop()
	for wait := retainFirst; ; wait = retainEvery {
		r.await(time.Now().Add(wait))
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-r.asked:
		}
		run := r.begin()
		err := r.retain(ctx, run, time.Now())
		if err != nil && ctx.Err() == nil {
			r.logger.Warn("old history could not be dropped; it is tried again", "err", err)
		}
		if err := r.end(ctx, run, err); err != nil && ctx.Err() == nil {
			r.logger.Warn("the totals of retention could not be stored", "err", err)
		}
	}
}

// await notes when the next run is due.
func (r *retainer) await(next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next = next
}

// begin gives the run that was asked for, or else a new one.
func (r *retainer) begin() *retaining {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.asked: // together with the timer
	default:
	}
	if r.running == nil {
		r.running = r.newRun("")
	}
	return r.running
}

// newRun makes a run; the retainer is locked.
func (r *retainer) newRun(by string) *retaining {
	return &retaining{
		account: api.RetentionRun{ID: r.totals.Runs + 1, State: api.RetentionRunning, AskedBy: by, StartedAt: api.Time{Time: time.Now()}, Dropped: []api.RetentionPart{}},
		places:  map[part]int{}, ended: make(chan struct{}),
	}
}

// retain does what a run is for.
func (r *retainer) retain(ctx context.Context, run *retaining, now time.Time) error {
	began := time.Now()
	sum, err := r.log.DropBefore(ctx, func(id signalbox.DeviceID) time.Time {
		k, removed := r.ruleOf(id)
		switch {
		case removed:
			return now
		case k.Age == 0:
			return time.Time{}
		default:
			return now.Add(-k.Age)
		}
	}, func(id signalbox.DeviceID, d history.Dropped) { r.note(run, id, d) })
	for _, d := range r.devices.All() {
		if err != nil {
			break
		}
		if k := keepFor(r.rules, d.Name, d.Type()); k.Bytes > 0 {
			var more history.Dropped
			more, err = r.log.DropOver(ctx, d.ID, k.Bytes, func(id signalbox.DeviceID, d history.Dropped) { r.note(run, id, d) })
			sum = history.Dropped{Chunks: sum.Chunks + more.Chunks, Messages: sum.Messages + more.Messages, Bytes: sum.Bytes + more.Bytes}
		}
	}
	var rows plain.Dropped
	if err == nil {
		rows, err = r.retainPlain(ctx, now)
	}
	if rows != (plain.Dropped{}) {
		r.add(run, part{of: api.RetentionPlain}, api.RetentionAmount{PlainRows: rows.Rows, PlainDays: rows.Days})
	}
	r.runs.Add(1)
	r.messages.Add(sum.Messages)
	r.bytes.Add(sum.Bytes)
	if sum.Chunks == 0 && rows == (plain.Dropped{}) {
		return err
	}
	freed, reclaimErr := r.store.Reclaim(ctx)
	r.reclaimed.Add(freed)
	r.mu.Lock()
	run.account.ReclaimedBytes = freed
	r.mu.Unlock()
	r.logger.Info("history was dropped as history.keep says", "messages", sum.Messages, "chunks", sum.Chunks, "bytes", sum.Bytes,
		"plain_rows", rows.Rows, "plain_days", rows.Days, "given_back", freed, "took", time.Since(began).Round(time.Millisecond))
	return errors.Join(err, reclaimErr)
}

// ruleOf is the rule of a device, or of what is no telemetry (device 0); of a device that was
// removed all is dropped.
func (r *retainer) ruleOf(id signalbox.DeviceID) (k Keep, removed bool) {
	if id == 0 {
		return keepFor(r.rules, "", ""), false
	}
	d := r.devices.Get(id)
	if d == nil {
		return Keep{}, true
	}
	return keepFor(r.rules, d.Name, d.Type()), false
}

// note adds to a run's account what was dropped of a device.
func (r *retainer) note(run *retaining, id signalbox.DeviceID, d history.Dropped) {
	p := part{of: api.RetentionTelemetry}
	k, removed := r.ruleOf(id)
	switch {
	case removed:
		p.of = api.RetentionRemoved
	case id == 0:
		p.of, p.rule = api.RetentionEvents, k
	default:
		p.rule = k
		if device := r.devices.Get(id); device != nil {
			p.kind = device.Type()
		}
	}
	r.add(run, p, api.RetentionAmount{Chunks: d.Chunks, Messages: d.Messages, Bytes: d.Bytes})
}

// add adds to a part of a run's account.
func (r *retainer) add(run *retaining, p part, d api.RetentionAmount) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := &run.account
	at, known := run.places[p]
	if !known && len(a.Dropped) >= maxParts-1 {
		p = part{of: api.RetentionOthers}
		at, known = run.places[p]
	}
	if !known {
		at = len(a.Dropped)
		run.places[p] = at
		one := api.RetentionPart{Of: p.of, Type: p.kind}
		if p.rule != (Keep{}) {
			one.Rule = p.rule.String()
		}
		a.Dropped = append(a.Dropped, one)
	}
	addAmount(&a.Dropped[at].RetentionAmount, d)
	addAmount(&a.RetentionAmount, d)
}

func addAmount(to *api.RetentionAmount, d api.RetentionAmount) {
	to.Chunks, to.Messages, to.Bytes = to.Chunks+d.Chunks, to.Messages+d.Messages, to.Bytes+d.Bytes
	to.PlainRows, to.PlainDays = to.PlainRows+d.PlainRows, to.PlainDays+d.PlainDays
}

// end stores the totals, also when ctx has ended, and closes a run's account.
func (r *retainer) end(ctx context.Context, run *retaining, err error) error {
	defer r.close(run, err)
	text, encodeErr := json.Marshal(r.sum(run))
	if encodeErr != nil {
		return encodeErr
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logGrace)
	defer cancel()
	return r.store.Update(ctx, func(tx *store.Tx) error { return tx.SetMeta(ctx, totalsName, string(text)) })
}

// sum gives the totals with a run in them.
func (r *retainer) sum(run *retaining) api.RetentionTotals {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, a := r.totals, &run.account
	if t.Runs++; t.Since.IsZero() {
		t.Since = a.StartedAt
	}
	addAmount(&t.RetentionAmount, a.RetentionAmount)
	t.ReclaimedBytes += a.ReclaimedBytes
	return t
}

// close ends a run for those who wait for it.
func (r *retainer) close(run *retaining, err error) {
	totals := r.sum(run)
	r.mu.Lock()
	defer r.mu.Unlock()
	a := &run.account
	now := time.Now()
	a.State, a.EndedAt, a.TookMs = api.RetentionDone, api.Time{Time: now}, now.Sub(a.StartedAt.Time).Milliseconds()
	if err != nil {
		a.State, a.Error = api.RetentionFailed, "something went wrong inside the hub; its log says what"
		if known, ok := errors.AsType[*signalbox.Error](err); ok {
			a.Error = known.Message
		} else if errors.Is(err, context.Canceled) {
			a.Error = "the hub was stopped"
		}
	}
	r.totals = totals
	account := copied(a)
	r.last, r.running = &account, nil
	r.remember(account)
	close(run.ended)
}

// remember keeps the accounts of runs that dropped something or failed, and that of the newest
// which was asked for and did nothing; the retainer is locked.
func (r *retainer) remember(a api.RetentionRun) {
	idle := func(a api.RetentionRun) bool { return a.RetentionAmount == (api.RetentionAmount{}) && a.Error == "" }
	if idle(a) {
		if a.AskedBy == "" {
			return
		}
		r.recent = slices.DeleteFunc(r.recent, idle)
	}
	if len(r.recent) == maxRuns {
		r.recent = slices.Delete(r.recent, 0, 1)
	}
	r.recent = append(r.recent, a)
}

// stop ends the run that was asked for and will not begin any more.
func (r *retainer) stop() {
	r.mu.Lock()
	r.stopped = true
	run := r.running
	r.mu.Unlock()
	if run != nil {
		r.close(run, context.Canceled)
	}
}

// Start implements api.Retention.
func (r *retainer) Start(by string) api.RetentionRun {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running == nil {
		run := r.newRun(by)
		if r.stopped {
			run.account.State, run.account.Error = api.RetentionFailed, "the hub is stopping"
			return run.account
		}
		r.running = run
		r.asked <- struct{}{} // there is room: whoever takes a run takes this
	}
	return copied(&r.running.account)
}

// Run implements api.Retention.
func (r *retainer) Run(ctx context.Context, id int64) (api.RetentionRun, error) {
	r.mu.Lock()
	run := r.running
	r.mu.Unlock()
	if run != nil && run.account.ID == id {
		select {
		case <-run.ended:
		case <-ctx.Done():
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		return copied(&run.account), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last != nil && r.last.ID == id {
		return copied(r.last), nil
	}
	for i := range r.recent {
		if r.recent[i].ID == id {
			return copied(&r.recent[i]), nil
		}
	}
	return api.RetentionRun{}, signalbox.Errorf(signalbox.KindNotFound, "run_not_found", "there is no run %d of retention among those remembered", id)
}

// State implements api.Retention.
func (r *retainer) State() api.RetentionState {
	s := api.RetentionState{Rules: make([]api.RetentionRule, len(r.rules)), Runs: []api.RetentionRun{}}
	counts := map[Keep]int{}
	for _, d := range r.devices.All() {
		counts[keepFor(r.rules, d.Name, d.Type())]++
	}
	s.WithoutRule = counts[Keep{}]
	for i, k := range r.rules {
		s.Rules[i] = api.RetentionRule{Rule: k.String(), Scope: cmp.Or(k.Scope, "all"), Name: k.Name, MaxAgeMs: k.Age.Milliseconds(), MaxBytes: k.Bytes, Devices: counts[k]}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Totals, s.NextAt = r.totals, api.Time{Time: r.next}
	if r.running != nil {
		a := copied(&r.running.account)
		s.Running, s.NextAt = &a, api.Time{}
	}
	if r.last != nil {
		a := copied(r.last)
		s.Last = &a
	}
	for _, a := range slices.Backward(r.recent) {
		s.Runs = append(s.Runs, copied(&a))
	}
	return s
}

// copied gives an account that does not change any more.
func copied(a *api.RetentionRun) api.RetentionRun {
	c := *a
	c.Dropped = slices.Clone(a.Dropped)
	if c.State == api.RetentionRunning {
		c.TookMs = time.Since(c.StartedAt.Time).Milliseconds()
	}
	return c
}
