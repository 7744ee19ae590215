package forward

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/store"
)

const (
	// DefaultMax is Config.Max, and DefaultMaxDeadLetters Config.MaxDeadLetters, when they do not
	// say.
	DefaultMax = 64
	// DefaultMaxDeadLetters see DefaultMax.
	DefaultMaxDeadLetters = 10_000

	// sealPurpose is that of forwarders' secrets.
	sealPurpose = "forwarder"
	// shadowed is added to the name of a forwarder of the API whose name the file uses.
	shadowed = " (api)"
)

// Config tunes the Manager.
type Config struct {
	// File are the forwarders of the configuration. Their targets may be anywhere.
	File []Spec
	// Allow are the networks, beside public addresses, where targets that were set through the API
	// may be.
	Allow []netip.Prefix
	// Max is how many forwarders there may be, those of the file included (default 64).
	Max int
	// MaxDeadLetters is how many are kept of each forwarder; older ones are dropped (default
	// 10,000).
	MaxDeadLetters int
	Logger         *slog.Logger
}

// Log is what forwarders need of the log; history.Log is it.
type Log interface {
	// AppendCursor appends «<epoch>-<position>» to dst.
	AppendCursor(dst []byte, p signalbox.Position) []byte
	Since(ctx context.Context, q history.SinceQuery, yield func(*signalbox.Entry) error) error
	Committed() signalbox.Position
	OnCommit(f func(signalbox.Position))
	Ride(f func() (history.Change, func(error)))
}

// Parts are what the Manager works with.
type Parts struct {
	Log     Log
	Devices *registry.Registry
	Store   *store.Store
	// Seal and Unseal keep secrets; auth.Keys has them.
	Seal, Unseal func(purpose string, text []byte) ([]byte, error)
	// Targets makes the target that a checked spec names; it does not connect. trusted says that
	// the configuration file set it. Errors wrap ErrTarget.
	Targets func(spec *Spec, trusted bool, allow []netip.Prefix) (Target, error)
	// Command shows a command, out of the body of its entry, as the API does; nil: as the log has
	// it.
	Command func(body []byte) (device string, object []byte, err error)
}

// Manager has the forwarders. Its methods may be called from any goroutine.
type Manager struct {
	cfg   Config
	parts Parts
	run   string // names this run of the hub, for Spec.Sequence

	changing sync.Mutex // one change of the list at a time

	mu    sync.Mutex
	all   map[string]*forwarder // by the name that is shown
	ctx   context.Context       // of Run; nil: it does not run
	ended bool
	work  sync.WaitGroup

	running atomic.Pointer[[]*forwarder] // all but the shadowed ones, for those who must not wait
	writing chan struct{}                // the turn to write places
	dirtied chan struct{}
	turns   chan struct{} // to read what is far behind
	waiting atomic.Int64  // for a turn

	// orphans are names of which something is stored, and which nobody has any more. Run drops that:
	// who opens the hub without serving may not know the configuration that the hub serves with.
	orphans []string

	limits limits
}

// limits are what tests have smaller.
type limits struct {
	batch, window int
	far, ahead    signalbox.Position
}

// New makes the forwarders of the configuration and of the store. It is called when the log is
// restored and before it runs; nothing is sent before Run. What a file says wrong gives
// KindInvalid. The place of a forwarder that is new in the file is stored at once: from here on it
// misses nothing.
func New(ctx context.Context, cfg Config, parts Parts) (*Manager, error) {
	if cfg.Max <= 0 {
		cfg.Max = DefaultMax
	}
	if cfg.MaxDeadLetters <= 0 {
		cfg.MaxDeadLetters = DefaultMaxDeadLetters
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	mark := make([]byte, 4)
	_, _ = rand.Read(mark) // never fails
	m := &Manager{
		cfg: cfg, parts: parts, run: hex.EncodeToString(mark), all: map[string]*forwarder{},
		writing: make(chan struct{}, 1), dirtied: make(chan struct{}, 1), turns: make(chan struct{}, openReads),
		limits: limits{MaxBatch, windowEntries, farBehind, aheadOf},
	}
	for i := range cfg.File {
		spec := cfg.File[i]
		if err := spec.Check(); err != nil {
			return nil, fmt.Errorf("the forwarder %q: %w", spec.Name, err)
		}
		if m.all[spec.Name] != nil {
			return nil, bad("there are two forwarders named %q; names are unique", spec.Name)
		}
		m.all[spec.Name] = newForwarder(m, spec, true)
	}
	if len(m.all) > cfg.Max {
		return nil, bad("there are %d forwarders; at most %d are allowed", len(m.all), cfg.Max)
	}
	if err := m.load(ctx); err != nil {
		return nil, err
	}
	parts.Log.Ride(m.ride)
	parts.Log.OnCommit(m.committed)
	return m, nil
}

// load reads what is stored.
func (m *Manager) load(ctx context.Context) error {
	err := m.parts.Store.Forwarders(ctx, func(row store.Forwarder) error {
		f := newForwarder(m, Spec{Name: row.Name}, false)
		f.createdBy, f.createdAt = row.CreatedBy, row.CreatedAt
		f.read(&row)
		name := row.Name
		if m.all[name] != nil {
			name += shadowed
			f.spec.Name = name
			f.place.now.cursor = m.parts.Log.Committed()
			f.broken = "the configuration file has a forwarder of this name, which is the one that runs; remove this one, or rename that"
		}
		if f.broken != "" {
			m.cfg.Logger.Error("a forwarder cannot run", "forwarder", name, "fault", f.broken)
		}
		m.all[name] = f
		return nil
	})
	if err != nil {
		return err
	}
	m.publish()
	return m.loadPlaces(ctx)
}

// read takes up what is stored of a forwarder. What is wrong with it keeps that one from running.
func (f *forwarder) read(row *store.Forwarder) {
	err := json.Unmarshal(row.Spec, &f.spec)
	f.spec.Name, f.spec.Paused = row.Name, row.Paused
	if err != nil {
		f.broken = "what is stored of it cannot be read; remove it and make it again: " + err.Error()
		return
	}
	if len(row.Secrets) > 0 {
		plain, err := f.m.parts.Unseal(sealPurpose, row.Secrets)
		var secret sealed
		if err == nil {
			err = json.Unmarshal(plain, &secret)
		}
		if err != nil {
			f.broken = "its secrets cannot be read: " + err.Error()
			return
		}
		f.spec.Secrets = secret.Secrets
		if secret.To != "" {
			f.spec.To = secret.To
		}
	}
	if err := f.spec.Check(); err != nil {
		f.broken = "it is no longer possible: " + err.Error()
	}
}

// loadPlaces finds out where everyone goes on.
func (m *Manager) loadPlaces(ctx context.Context) error {
	end := m.parts.Log.Committed()
	for _, f := range *m.running.Load() {
		f.place.now = place{cursor: end, sent: end} // a new one begins at the end
		f.place.dirty = time.Now()
	}
	err := m.parts.Store.ForwarderPlaces(ctx, func(row store.ForwarderPlace) error {
		f := m.all[row.Name]
		if f == nil {
			m.orphans = append(m.orphans, row.Name)
			return nil
		}
		f.resume(&row, end)
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range *m.running.Load() {
		f.mark = f.place.now.sent
		if f.place.now.flowing { // it was killed while it sent
			f.mark = end
			f.place.now.sent, f.place.now.flowing, f.place.dirty = end, false, time.Now()
		}
	}
	dead, err := m.parts.Store.CountDeadLetters(ctx)
	if err != nil {
		return err
	}
	for name, n := range dead {
		if f := m.all[name]; f != nil {
			f.stats.Dead.Store(n)
		} else if !slices.Contains(m.orphans, name) {
			m.orphans = append(m.orphans, name)
		}
	}
	return m.storeNew(ctx)
}

// storeNew stores the places of forwarders that have none yet, or one that the log has not. When
// that is not possible now they are stored later, as others are.
func (m *Manager) storeNew(ctx context.Context) error {
	var rows []store.ForwarderPlace
	var news []*forwarder
	for _, f := range *m.running.Load() {
		if p := &f.place; !p.known || p.stored.cursor > p.now.cursor {
			news, rows = append(news, f), append(rows, f.row(p.now))
		}
	}
	if len(rows) == 0 {
		return nil
	}
	err := m.parts.Store.Update(ctx, func(tx *store.Tx) error {
		for _, f := range news {
			now := f.place.now
			turn := f.place.hedge(now)
			tx.Then(func() { f.place.wrote(now, turn) })
		}
		return tx.PutForwarderPlaces(ctx, rows)
	})
	if err != nil && ctx.Err() == nil {
		m.cfg.Logger.Warn("where new forwarders begin could not be stored; it is stored as soon as possible", "err", err)
		return nil
	}
	return err
}

// dropOrphans drops what is stored of forwarders that neither the file nor the API has any more.
func (m *Manager) dropOrphans(ctx context.Context) {
	m.changing.Lock()
	defer m.changing.Unlock()
	m.mu.Lock()
	m.orphans = slices.DeleteFunc(m.orphans, func(name string) bool { return m.all[name] != nil }) // made anew meanwhile
	m.mu.Unlock()
	if len(m.orphans) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := m.parts.Store.Update(bounded, func(tx *store.Tx) error {
		for _, name := range m.orphans {
			if err := tx.DeleteForwarder(bounded, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		m.cfg.Logger.Warn("what is stored of forwarders that are no longer configured could not be dropped; the next start does", "forwarders", m.orphans, "err", err)
		return
	}
	m.cfg.Logger.Warn("forwarders are no longer configured; their places in the log and their dead letters were dropped", "forwarders", m.orphans)
	m.orphans = nil
}

// resume takes up a stored place. The log may be shorter than it was, when an older backup was
// restored: then there is nothing to send until it has grown.
func (f *forwarder) resume(row *store.ForwarderPlace, end signalbox.Position) {
	at := place{cursor: row.Settled, sent: row.Sent, flowing: row.Flowing}
	f.place.stored, f.place.known, f.place.dirty = at, true, time.Time{}
	if at.cursor > end || at.sent > end {
		at.cursor, at.sent = min(at.cursor, end), min(at.sent, end)
		f.place.dirty = time.Now()
	}
	f.place.now = at
	if len(row.Counters) == 0 {
		return
	}
	var c counters
	if err := json.Unmarshal(row.Counters, &c); err != nil {
		f.m.cfg.Logger.Warn("the counters of a forwarder cannot be read; they begin anew", "forwarder", f.name, "err", err)
		return
	}
	f.stats.set(&c)
}

// publish shows the list to those who must not wait. The caller holds mu, or is alone.
func (m *Manager) publish() {
	list := make([]*forwarder, 0, len(m.all))
	for name, f := range m.all {
		if name == f.name {
			list = append(list, f)
		}
	}
	slices.SortFunc(list, func(a, b *forwarder) int { return cmp.Compare(a.name, b.name) })
	m.running.Store(&list)
}

// committed wakes the forwarders.
func (m *Manager) committed(signalbox.Position) {
	for _, f := range *m.running.Load() {
		nudge(f.wake)
	}
}

// Run forwards until ctx ends; then receivers have a moment to confirm what they have, and the
// places are stored. The log must run longer. It runs once.
func (m *Manager) Run(ctx context.Context) error {
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var keeper sync.WaitGroup
	m.dropOrphans(ctx)
	keeper.Go(func() { m.keepPlaces(keeping) })
	nudge(m.dirtied)
	m.mu.Lock()
	m.ctx = ctx
	for _, f := range *m.running.Load() {
		m.start(f)
	}
	m.mu.Unlock()
	<-ctx.Done()
	m.mu.Lock()
	m.ended = true
	m.mu.Unlock()
	m.work.Wait()
	stop()
	keeper.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := m.flush(last, 0); err != nil {
		return fmt.Errorf("the places of forwarders could not be stored; receivers get a part again: %w", err)
	}
	return nil
}

// start begins a forwarder's engine. The caller holds mu.
func (m *Manager) start(f *forwarder) {
	ctx, cancel := context.WithCancel(m.ctx)
	f.stop = cancel
	m.work.Go(func() {
		defer cancel()
		f.run(ctx)
	})
}

// encoder makes an encoder for a spec.
func (m *Manager) encoder(spec *Spec) (*encoder, error) {
	e, err := newEncoder(spec, m.parts.Log.AppendCursor, m.run)
	if err == nil {
		e.command = m.parts.Command
	}
	return e, err
}

func notFound(name string) error {
	return signalbox.Errorf(signalbox.KindNotFound, "forwarder_not_found", "there is no forwarder %q", name)
}

// find gives the forwarder that is shown under a name.
func (m *Manager) find(name string) (*forwarder, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.all[name]; f != nil {
		return f, nil
	}
	return nil, notFound(name)
}

// List shows all forwarders by name. One of the API whose name the file uses has « (api)» behind
// it and does not run.
func (m *Manager) List() []Status {
	m.mu.Lock()
	all := make([]*forwarder, 0, len(m.all))
	for _, f := range m.all {
		all = append(all, f)
	}
	m.mu.Unlock()
	list := make([]Status, len(all))
	for i, f := range all {
		list[i] = f.status()
	}
	slices.SortFunc(list, func(a, b Status) int { return cmp.Compare(a.Spec.Name, b.Spec.Name) })
	return list
}

// Get shows one forwarder, or gives KindNotFound.
func (m *Manager) Get(name string) (Status, error) {
	f, err := m.find(name)
	if err != nil {
		return Status{}, err
	}
	return f.status(), nil
}

// Stats gives the live counters of a forwarder, or KindNotFound.
func (m *Manager) Stats(name string) (*Stats, error) {
	f, err := m.find(name)
	if err != nil {
		return nil, err
	}
	return &f.stats, nil
}

// Waiting names the forwarders whose targets are away, with what is wrong, by name: for people
// who ask whether the hub is well.
func (m *Manager) Waiting() []string {
	var away []string
	for _, s := range m.List() {
		if s.State == StateWaiting {
			away = append(away, s.Spec.Name+": "+s.Fault)
		}
	}
	return away
}
