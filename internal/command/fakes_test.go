package command

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/session"
	"signalbox/internal/store"
)

// patience is how long a test waits for what has to come.
const patience = 30 * time.Second

// testLog is a history.Appender that commits through the store. It can be held, filled
// and broken.
type testLog struct {
	store *store.Store

	mu       sync.Mutex
	next     signalbox.Position
	pending  []signalbox.Position
	past     []signalbox.Entry // committed in earlier lives
	entries  []signalbox.Entry // all that was appended in this one
	wake     chan struct{}
	changed  chan struct{} // closed and renewed at each commit
	held     bool
	full     bool
	fault    error
	rides    []func() (history.Change, func(error))
	riding   atomic.Bool // rows may go along with commits
	onCommit []func(signalbox.Position)

	committed atomic.Uint64
	stop      context.CancelFunc
	done      sync.WaitGroup
}

// newTestLog makes a log that goes on where another, which may be nil, was committed to.
func newTestLog(t testing.TB, st *store.Store, before *testLog) *testLog {
	t.Helper()
	l := &testLog{store: st, wake: make(chan struct{}, 1), changed: make(chan struct{})}
	if before != nil {
		l.past = before.kept()
		l.next = before.Committed()
		l.committed.Store(uint64(l.next))
	}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.done.Go(func() { l.run(ctx, t) })
	return l
}

func (l *testLog) close() {
	l.stop()
	l.done.Wait()
}

func (l *testLog) run(ctx context.Context, t testing.TB) {
	t.Helper()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		l.mu.Lock()
		batch := l.pending
		if l.held {
			batch = nil
		} else {
			l.pending = nil
		}
		l.mu.Unlock()
		if len(batch) == 0 {
			continue
		}
		err := l.commit(context.WithoutCancel(ctx))
		if err != nil {
			t.Errorf("commit: %v", err)
			return
		}
		last := batch[len(batch)-1]
		l.committed.Store(uint64(last))
		l.mu.Lock()
		close(l.changed)
		l.changed = make(chan struct{})
		l.mu.Unlock()
		for _, f := range l.onCommit {
			f(last)
		}
	}
}

// commit writes what rides along, if the test wants that.
func (l *testLog) commit(ctx context.Context) error {
	var (
		writes []history.Change
		dones  []func(error)
	)
	if l.riding.Load() {
		for _, ride := range l.rides {
			if write, done := ride(); write != nil {
				writes, dones = append(writes, write), append(dones, done)
			}
		}
	}
	err := l.store.Update(ctx, func(tx *store.Tx) error {
		for _, write := range writes {
			if err := write(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	for _, done := range dones {
		done(err)
	}
	return err
}

func (l *testLog) AppendBoth(a, b *signalbox.Entry, u history.Urgency) error {
	if err := l.Append(a, u); err != nil || b == nil {
		return err
	}
	return l.Append(b, u)
}

func (l *testLog) Append(e *signalbox.Entry, _ history.Urgency) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full {
		return history.ErrFull
	}
	l.next++
	e.Position = l.next
	e.ReceivedMicros = time.Now().UnixMicro()
	kept := *e
	kept.Body = append([]byte(nil), e.Body...)
	l.entries = append(l.entries, kept)
	l.pending = append(l.pending, e.Position)
	signal(l.wake)
	return nil
}

func (l *testLog) Wait(ctx context.Context, p signalbox.Position) error {
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if l.Committed() >= p {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// kept is what is committed.
func (l *testLog) kept() []signalbox.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := slices.Concat(l.past, l.entries)
	return slices.DeleteFunc(kept, func(e signalbox.Entry) bool { return e.Position > l.Committed() })
}

func (l *testLog) Scan(_ context.Context, from signalbox.Position, yield func(*signalbox.Entry) error) error {
	for _, e := range l.kept() {
		if e.Position < from {
			continue
		}
		if err := yield(&e); err != nil {
			return err
		}
	}
	return nil
}

func (l *testLog) Committed() signalbox.Position { return signalbox.Position(l.committed.Load()) }

func (l *testLog) OnCommit(f func(signalbox.Position)) { l.onCommit = append(l.onCommit, f) }

func (l *testLog) Ride(f func() (history.Change, func(error))) { l.rides = append(l.rides, f) }

func (l *testLog) Hold() *history.Hold { return new(history.Hold) }

func (l *testLog) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault
}

func (l *testLog) hold(held bool) {
	l.mu.Lock()
	l.held = held
	l.mu.Unlock()
	signal(l.wake)
}

// entry appends something that is none of the road's and waits for its commit.
func (l *testLog) entry(tb testing.TB) {
	tb.Helper()
	e := signalbox.Entry{Kind: signalbox.EntryAlert, Body: []byte("{}")}
	if err := l.Append(&e, history.Now); err != nil {
		tb.Fatal(err)
	}
	if err := l.Wait(tb.Context(), e.Position); err != nil {
		tb.Fatal(err)
	}
}

func (l *testLog) fill(full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = full
}

func (l *testLog) breakDown(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = err
}

// testDevices is a registry of a few devices.
type testDevices struct {
	mu       sync.Mutex
	ids      map[string]signalbox.DeviceID
	disabled map[signalbox.DeviceID]bool
	latest   map[signalbox.DeviceID][]byte
}

func newTestDevices(names ...string) *testDevices {
	d := &testDevices{ids: map[string]signalbox.DeviceID{}, disabled: map[signalbox.DeviceID]bool{}, latest: map[signalbox.DeviceID][]byte{}}
	for i, name := range names {
		d.ids[name] = signalbox.DeviceID(i + 1)
	}
	return d
}

// enroll stores the devices that st does not have yet, under their numbers.
func enroll(tb testing.TB, st *store.Store, d *testDevices) {
	tb.Helper()
	for i := range len(d.ids) {
		row := store.Device{Name: d.NameOf(signalbox.DeviceID(i + 1)), Type: "box"}
		err := st.Update(context.Background(), func(tx *store.Tx) error {
			_, err := tx.InsertDevice(context.Background(), row)
			return err
		})
		if err != nil && signalbox.KindOf(err) != signalbox.KindConflict {
			tb.Fatal(err)
		}
	}
}

func (d *testDevices) Find(name string) (signalbox.DeviceID, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id, ok := d.ids[name]
	return id, ok
}

func (d *testDevices) NameOf(id signalbox.DeviceID) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, have := range d.ids {
		if have == id {
			return name
		}
	}
	return ""
}

func (d *testDevices) Disabled(id signalbox.DeviceID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.disabled[id]
}

func (d *testDevices) LatestObject(id signalbox.DeviceID) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]byte(nil), d.latest[id]...)
}

// testConn collects what is delivered.
type testConn struct {
	mu   sync.Mutex
	got  []signalbox.Command
	fail bool
	came chan signalbox.Command
}

func newConn() *testConn { return &testConn{came: make(chan signalbox.Command, 10_000)} }

var errNoRoom = errors.New("no room")

func (c *testConn) Deliver(cmd *signalbox.Command) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail {
		return errNoRoom
	}
	c.got = append(c.got, *cmd)
	c.came <- *cmd
	return nil
}

func (c *testConn) End(string) {}

func (c *testConn) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]string, len(c.got))
	for i := range c.got {
		names[i] = c.got[i].Name
	}
	return names
}

// next is the next delivery.
func (c *testConn) next(t *testing.T) signalbox.Command {
	t.Helper()
	select {
	case cmd := <-c.came:
		return cmd
	case <-time.After(patience):
		t.Fatalf("nothing was delivered in %s", patience)
		return signalbox.Command{}
	}
}

// testStore is the real one; its writes by the road can be broken.
type testStore struct {
	*store.Store

	updates atomic.Int64 // transactions of the road's own

	mu     sync.Mutex
	fault  error
	stored bool // what fails with fault is stored all the same
	failed int
}

func (s *testStore) Update(ctx context.Context, fn func(tx *store.Tx) error) error {
	s.mu.Lock()
	fault, stored := s.fault, s.stored
	if fault != nil {
		s.failed++
	}
	s.mu.Unlock()
	if fault != nil {
		if stored {
			fault = errors.Join(fault, s.Store.Update(ctx, fn))
		}
		return fault
	}
	s.updates.Add(1)
	return s.Store.Update(ctx, fn)
}

// breakDown lets writes fail, until it gets nil. It says how many have failed so far.
func (s *testStore) breakDown(fault error) (failed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.stored = fault, false
	return s.failed
}

// breakAfter lets writes fail after they were stored, until breakDown is called.
func (s *testStore) breakAfter(fault error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.stored = fault, true
}

// rig is a road with all around it.
type rig struct {
	t        *testing.T
	cfg      Config
	dir      string
	store    *testStore
	log      *testLog
	sessions *session.Table
	devices  *testDevices
	road     *Road
	stop     func()
	halt     func() error // ends Run and gives what it returned
}

func newRig(t *testing.T, cfg Config, names ...string) *rig {
	t.Helper()
	if len(names) == 0 {
		names = []string{"esp01", "esp02"}
	}
	g := &rig{t: t, cfg: cfg, dir: t.TempDir(), devices: newTestDevices(names...)}
	g.start()
	t.Cleanup(func() { g.end() })
	return g
}

func (g *rig) start() {
	g.t.Helper()
	st, err := store.Open(context.Background(), store.Config{Dir: g.dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		g.t.Fatal(err)
	}
	enroll(g.t, st, g.devices)
	g.store, g.log, g.sessions = &testStore{Store: st}, newTestLog(g.t, st, g.log), session.New()
	g.road = New(g.cfg, g.log, g.store, g.sessions, g.devices, slog.New(slog.DiscardHandler))
	if err := g.road.Load(context.Background()); err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.road.Run(ctx) }()
	g.halt = func() error {
		cancel()
		return <-ended
	}
	g.stop = func() {
		if err := g.halt(); err != nil {
			g.t.Errorf("Run: %v", err)
		}
	}
}

// crash ends a life without committing what was appended.
func (g *rig) crash() {
	g.t.Helper()
	g.log.close()
	if err := g.halt(); err == nil {
		g.t.Error("Run returned as if all were on disk")
	}
	if err := g.store.Close(); err != nil {
		g.t.Fatal(err)
	}
}

func (g *rig) end() {
	g.t.Helper()
	g.stop()
	g.log.close()
	if err := g.store.Close(); err != nil {
		g.t.Errorf("close the store: %v", err)
	}
}

// restart is a clean stop and a new life over the same data.
func (g *rig) restart() {
	g.t.Helper()
	g.end()
	g.start()
}

// connect attaches a session of the named device.
func (g *rig) connect(name string, p signalbox.Protocol) (*session.Session, *testConn) {
	g.t.Helper()
	id, ok := g.devices.Find(name)
	if !ok {
		g.t.Fatalf("no device %q", name)
	}
	conn := newConn()
	s := &session.Session{ID: g.sessions.NextID(), Device: id, Protocol: p, Conn: conn}
	if _, ok := g.sessions.Attach(s); !ok {
		g.t.Fatal("the session was not taken")
	}
	g.road.Online(s)
	return s, conn
}

func (g *rig) submit(req signalbox.CommandRequest) signalbox.Command {
	g.t.Helper()
	if req.Device == "" {
		req.Device = "esp01"
	}
	c, err := g.road.Submit(g.t.Context(), req)
	if err != nil {
		g.t.Fatalf("Submit %s: %v", req.Name, err)
	}
	return c
}

// giveUp submits a command while the log is held, and waits no longer once it is taken on.
func (g *rig) giveUp(req signalbox.CommandRequest) error {
	g.t.Helper()
	ctx, cancel := context.WithCancel(g.t.Context())
	defer cancel()
	before := g.road.Stats().Submitted
	outcome := make(chan error, 1)
	go func() {
		_, err := g.road.Submit(ctx, req)
		outcome <- err
	}()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for g.road.Stats().Submitted == before {
		select {
		case <-tick.C:
		case err := <-outcome:
			return err
		case <-deadline:
			g.t.Fatal("the command was not taken on")
		}
	}
	cancel()
	return <-outcome
}

func (g *rig) get(id string) signalbox.Command {
	g.t.Helper()
	c, err := g.road.Get(context.Background(), id)
	if err != nil {
		g.t.Fatalf("Get: %v", err)
	}
	return c
}

// await polls the command's state until it is what is wanted.
func (g *rig) await(id string, want signalbox.CommandState) signalbox.Command {
	g.t.Helper()
	return g.until(id, string(want), func(c *signalbox.Command) bool { return c.State == want })
}

func (g *rig) until(id, what string, ok func(*signalbox.Command) bool) signalbox.Command {
	g.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		c := g.get(id)
		if ok(&c) {
			return c
		}
		select {
		case <-tick.C:
		case <-deadline:
			g.t.Fatalf("the command is %+v after %s; want %s", c, patience, what)
		}
	}
}

// durable waits until all that was appended is on disk, and in the table.
func (g *rig) durable() {
	g.t.Helper()
	g.road.image.mu.Lock()
	last := g.road.image.last
	g.road.image.mu.Unlock()
	if err := g.log.Wait(context.Background(), last); err != nil {
		g.t.Fatal(err)
	}
	if err := g.road.flushRows(context.Background()); err != nil {
		g.t.Fatal(err)
	}
}

func (g *rig) telemetry(name, object string) {
	g.t.Helper()
	id, _ := g.devices.Find(name)
	e := &signalbox.Entry{Device: id, Kind: signalbox.EntryTelemetry, Body: []byte(object)}
	if err := g.log.Append(e, history.Soon); err != nil {
		return // the log is full, and a device waits
	}
	if g.road.Watching(id) {
		g.road.Telemetry(e)
	}
}

func wantCode(t *testing.T, err error, kind signalbox.Kind, code string) {
	t.Helper()
	if err == nil || signalbox.KindOf(err) != kind || signalbox.CodeOf(err) != code {
		t.Fatalf("error %v (%s); want code %s", err, signalbox.CodeOf(err), code)
	}
}
