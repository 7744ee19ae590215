package ingest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/store"
)

const patience = 30 * time.Second

// hub is the telemetry road over a real database.
type hub struct {
	dir      string
	st       *store.Store
	log      *history.Log
	devices  *registry.Registry
	sessions *session.Table
	road     *ingest.Road
	watcher  *watcher
	stop     func() error
}

// watcher is an Observer that listens to everything.
type watcher struct {
	on   atomic.Bool
	mu   sync.Mutex
	seen []signalbox.Position
}

func (w *watcher) Watching(signalbox.DeviceID) bool { return w.on.Load() }

func (w *watcher) Telemetry(e *signalbox.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, e.Position)
}

func newHub(tb testing.TB, dir string, lc history.Config) *hub {
	tb.Helper()
	ctx := context.Background()
	h := &hub{dir: dir, sessions: session.New(), watcher: &watcher{}}
	var err error
	if h.st, err = store.Open(ctx, store.Config{Dir: dir}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = h.st.Close() })
	if h.log, err = history.Open(ctx, lc, h.st); err != nil {
		tb.Fatal(err)
	}
	h.devices = registry.New(h.st, nil)
	if err := h.devices.Load(ctx, h.log); err != nil {
		tb.Fatal(err)
	}
	h.road = ingest.New(ingest.Config{}, h.log, h.devices, h.sessions, h.watcher)
	return h
}

func (h *hub) run(tb testing.TB) *hub {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.log.Run(ctx, patience) }()
	h.stop = sync.OnceValue(func() error { cancel(); return <-done })
	tb.Cleanup(func() { _ = h.stop() })
	return h
}

// crash ends the hub without a checkpoint and starts it again.
func (h *hub) crash(tb testing.TB) *hub {
	tb.Helper()
	if err := h.stop(); err != nil {
		tb.Fatal(err)
	}
	if err := h.st.Close(); err != nil {
		tb.Fatal(err)
	}
	return newHub(tb, h.dir, history.Config{}).run(tb)
}

func (h *hub) add(tb testing.TB, name string) *registry.Device {
	tb.Helper()
	d, err := h.devices.Add(tb.Context(), registry.NewDevice{Name: name, Type: "box"})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func (h *hub) connect(tb testing.TB, d *registry.Device) *session.Session {
	tb.Helper()
	s := &session.Session{ID: h.sessions.NextID(), Device: d.ID, Protocol: signalbox.ProtocolV2}
	if _, v := h.road.Connect(d, s, netip.MustParseAddr("127.0.0.9")); v != ingest.Stored {
		tb.Fatalf("Connect gave verdict %d", v)
	}
	return s
}

func (h *hub) flush(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	if err := h.log.Wait(ctx, h.log.Head()); err != nil {
		tb.Fatal(err)
	}
}

// entries reads what is on disk.
func (h *hub) entries(tb testing.TB) []signalbox.Entry {
	tb.Helper()
	h.flush(tb)
	var all []signalbox.Entry
	err := h.log.Scan(tb.Context(), 0, func(e *signalbox.Entry) error {
		kept := *e
		kept.Body = slices.Clone(e.Body)
		all = append(all, kept)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

func TestTelemetryReachesLogAndState(t *testing.T) {
	h := newHub(t, t.TempDir(), history.Config{}).run(t)
	d := h.add(t, "esp01")
	s := h.connect(t, d)
	body := []byte(`{"type":"telemetry","status":"работает","a":15.0}`)
	h.watcher.on.Store(true)
	p, v := h.road.Telemetry(d, s.ID, &ingest.Message{Body: body})
	if v != ingest.Stored || p == 0 {
		t.Fatalf("verdict %d, position %d", v, p)
	}
	want := string(body)
	clear(body) // the transport uses its memory again
	if got := string(d.LatestObject()); got != want {
		t.Errorf("state has %s", got)
	}
	if v := d.View(); v.Status != "работает" || v.Presence != signalbox.Online || v.LastSeen.IsZero() || v.Address != "127.0.0.9" {
		t.Errorf("%+v", v)
	}
	all := h.entries(t)
	last := all[len(all)-1]
	if last.Position != p || string(last.Body) != want || last.Device != d.ID || last.Kind != signalbox.EntryTelemetry {
		t.Errorf("the log has %+v", last)
	}
	if !slices.Equal(h.watcher.seen, []signalbox.Position{p}) {
		t.Errorf("the observer saw %v", h.watcher.seen)
	}
}

func TestFencing(t *testing.T) {
	h := newHub(t, t.TempDir(), history.Config{}).run(t)
	d := h.add(t, "esp01")
	old := h.connect(t, d)
	fresh := &session.Session{ID: h.sessions.NextID(), Device: d.ID, Protocol: signalbox.ProtocolV1}
	replaced, v := h.road.Connect(d, fresh, netip.Addr{})
	if v != ingest.Stored || replaced != old {
		t.Fatalf("verdict %d, replaced %p, want %p", v, replaced, old)
	}
	if _, v := h.road.Telemetry(d, old.ID, &ingest.Message{Body: []byte(`{}`)}); v != ingest.Stale {
		t.Errorf("a message of the old connection: verdict %d", v)
	}
	if h.road.Disconnect(d, old, "closed") {
		t.Error("the end of the old connection took the device offline")
	}
	late := &session.Session{ID: old.ID - 1, Device: d.ID}
	if _, v := h.road.Connect(d, late, netip.Addr{}); v != ingest.Stale {
		t.Errorf("a login that is later but older: verdict %d", v)
	}
	if h.sessions.Get(d.ID) != fresh || d.View().Presence != signalbox.Online {
		t.Error("the newest connection is not the device's")
	}
	if !h.road.Disconnect(d, fresh, "lost") || h.road.Disconnect(d, fresh, "lost") {
		t.Error("the end of the newest connection must take the device offline, once")
	}
	if _, v := h.road.Telemetry(d, fresh.ID, &ingest.Message{Body: []byte(`{}`)}); v != ingest.Stale {
		t.Errorf("a message after the end: verdict %d", v)
	}
	if h.sessions.Len() != 0 || d.View().Presence != signalbox.Offline {
		t.Error("the device is not offline")
	}
	var got []signalbox.PresenceChange
	for _, e := range h.entries(t) {
		var p signalbox.PresenceChange
		if err := json.Unmarshal(e.Body, &p); err != nil || e.Kind != signalbox.EntryPresence {
			t.Fatalf("%+v: %v", e, err)
		}
		got = append(got, p)
	}
	want := []signalbox.PresenceChange{
		{Presence: signalbox.Online, Session: old.ID, Address: "127.0.0.9", Protocol: signalbox.ProtocolV2},
		{Presence: signalbox.Online, Session: fresh.ID, Protocol: signalbox.ProtocolV1},
		{Presence: signalbox.Offline, Session: fresh.ID, Reason: "lost"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("presence entries %+v", got)
	}
}

func TestNotAdmitted(t *testing.T) {
	h := newHub(t, t.TempDir(), history.Config{}).run(t)
	disabled, removed := h.add(t, "disabled"), h.add(t, "removed")
	yes := true
	if err := h.devices.Update(t.Context(), disabled, registry.Edit{Disabled: &yes}, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.devices.Remove(t.Context(), removed, nil); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*registry.Device{disabled, removed} {
		s := &session.Session{ID: h.sessions.NextID(), Device: d.ID}
		if _, v := h.road.Connect(d, s, netip.Addr{}); v != ingest.Stale {
			t.Errorf("the %s device: verdict %d", d.Name, v)
		}
	}
	if h.sessions.Len() != 0 || h.log.Head() != 0 {
		t.Errorf("%d sessions, log head %d", h.sessions.Len(), h.log.Head())
	}
}

func TestDuplicates(t *testing.T) {
	type step struct {
		boot, seq uint64
		want      ingest.Verdict
		settled   uint64 // afterwards, when all is on disk
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"repeated", []step{{1, 1, ingest.Stored, 1}, {1, 1, ingest.Duplicate, 1}, {1, 2, ingest.Stored, 2}, {1, 1, ingest.Duplicate, 2}}},
		{"gap", []step{{1, 5, ingest.Stored, 5}, {1, 4, ingest.Duplicate, 5}, {1, 9, ingest.Stored, 9}}},
		{"new boot begins anew", []step{{1, 9, ingest.Stored, 9}, {2, 1, ingest.Stored, 1}, {2, 1, ingest.Duplicate, 1}}},
		{"without a number", []step{{0, 0, ingest.Stored, 0}, {0, 0, ingest.Stored, 0}, {1, 1, ingest.Stored, 1}, {0, 0, ingest.Stored, 0}, {1, 1, ingest.Duplicate, 1}}},
		{"largest number", []step{{1<<64 - 1, 1<<63 - 1, ingest.Stored, 1<<63 - 1}, {1<<64 - 1, 1<<63 - 1, ingest.Duplicate, 1<<63 - 1}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHub(t, t.TempDir(), history.Config{}).run(t)
			d := h.add(t, "esp01")
			s := h.connect(t, d)
			want := 1 // the connection
			for i, st := range tt.steps {
				settles, v := h.road.Telemetry(d, s.ID, &ingest.Message{Body: []byte(`{}`), Boot: st.boot, Seq: st.seq})
				if v != st.want {
					t.Fatalf("step %d: verdict %d, want %d", i, v, st.want)
				}
				if v == ingest.Stored {
					want++
				}
				if settles == 0 || settles > h.log.Head() {
					t.Errorf("step %d: settled by position %d", i, settles)
				}
				h.flush(t)
				if st.seq != 0 && h.road.Settled(d, st.boot) != st.settled {
					t.Errorf("step %d: settled up to %d, want %d", i, h.road.Settled(d, st.boot), st.settled)
				}
			}
			if got := len(h.entries(t)); got != want {
				t.Errorf("the log has %d entries, want %d", got, want)
			}
			// It is known after a crash as well, to the next connection.
			last := tt.steps[len(tt.steps)-1]
			h = h.crash(t)
			h.road.Begin()
			d = h.devices.Find("esp01")
			s = h.connect(t, d)
			if h.road.Settled(d, last.boot) != last.settled {
				t.Errorf("after a crash settled up to %d, want %d", h.road.Settled(d, last.boot), last.settled)
			}
			if last.seq != 0 {
				if _, v := h.road.Telemetry(d, s.ID, &ingest.Message{Body: []byte(`{}`), Boot: last.boot, Seq: last.seq}); v != ingest.Duplicate {
					t.Errorf("after a crash: verdict %d", v)
				}
			}
		})
	}
}

func TestSettleWaitsForDisk(t *testing.T) {
	h := newHub(t, t.TempDir(), history.Config{}) // not running: nothing gets to disk
	d := h.add(t, "esp01")
	s := h.connect(t, d)
	if _, v := h.road.Telemetry(d, s.ID, &ingest.Message{Body: []byte(`{}`), Boot: 7, Seq: 1}); v != ingest.Stored {
		t.Fatal(v)
	}
	h.road.Settle(d, s.ID, 7, 2) // refused for good
	if got := h.road.Settled(d, 7); got != 0 {
		t.Errorf("settled up to %d before the first message is on disk", got)
	}
	h.run(t)
	h.flush(t)
	if got := h.road.Settled(d, 7); got != 2 {
		t.Errorf("settled up to %d, want 2", got)
	}
	h.road.Settle(d, s.ID, 8, 1)
	if a, b := h.road.Settled(d, 7), h.road.Settled(d, 8); a != 0 || b != 1 {
		t.Errorf("settled up to %d of the old boot and %d of the new, want 0 and 1", a, b)
	}
	h.road.Settle(d, s.ID-1, 9, 1)
	if got := h.road.Settled(d, 9); got != 0 {
		t.Errorf("an old connection settled %d", got)
	}
}

func TestTimes(t *testing.T) {
	now := time.Now()
	tests := []struct {
		name string
		at   int64
		own  bool // the device's own time is kept
		odd  bool // counted as implausible
	}{
		{"none", 0, false, false},
		{"a second ago", now.Add(-time.Second).UnixMicro(), true, false},
		{"29 days ago", now.Add(-29 * 24 * time.Hour).UnixMicro(), true, false},
		{"31 days ago", now.Add(-31 * 24 * time.Hour).UnixMicro(), false, true},
		{"in half a minute", now.Add(30 * time.Second).UnixMicro(), false, false},
		{"in two minutes", now.Add(2 * time.Minute).UnixMicro(), false, true},
		{"1970", 1, false, true},
		{"year 1", time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro(), false, true},
		{"year 9999", time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro(), false, true},
		{"as far as a number goes", 1<<63 - 1, false, true},
		{"as far back as a number goes", -1 << 63, false, true},
		// In nanoseconds these overflow to within a minute of now.
		{"once around, past", now.UnixMicro() - 18446744073709551, false, true},
		{"once around, future", now.UnixMicro() + 18446744073709551, false, true},
	}
	h := newHub(t, t.TempDir(), history.Config{}).run(t)
	d := h.add(t, "esp01")
	s := h.connect(t, d)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := h.road.Stats().Implausible.Load()
			if _, v := h.road.Telemetry(d, s.ID, &ingest.Message{Body: []byte(`{}`), TimeMicros: tt.at}); v != ingest.Stored {
				t.Fatal(v)
			}
			state := d.Lock()
			at, received := state.TimeMicros, state.ReceivedMicros
			d.Unlock()
			want := received
			if tt.own {
				want = tt.at
			}
			if at != want {
				t.Errorf("history time %d, want %d", at, want)
			}
			if odd := h.road.Stats().Implausible.Load() > before; odd != tt.odd {
				t.Errorf("implausible: %v, want %v", odd, tt.odd)
			}
		})
	}
}

func TestFullLeavesNoTrace(t *testing.T) {
	h := newHub(t, t.TempDir(), history.Config{MaxPending: 1000}) // not running: it fills up
	d, other := h.add(t, "esp01"), h.add(t, "esp02")
	s := h.connect(t, d)
	m := ingest.Message{Body: []byte(`{"a":"0123456789012345678901234567890123456789"}`), Boot: 3}
	for {
		m.Seq++
		if _, v := h.road.Telemetry(d, s.ID, &m); v == ingest.Full {
			break
		}
	}
	head, object, seq := h.log.Head(), string(d.LatestObject()), m.Seq
	m.Body = []byte(`{"b":"0123456789012345678901234567890123456789"}`)
	if _, v := h.road.Telemetry(d, s.ID, &m); v != ingest.Full {
		t.Fatal(v)
	}
	far := &session.Session{ID: h.sessions.NextID(), Device: other.ID, Protocol: signalbox.ProtocolV2}
	if _, v := h.road.Connect(other, far, netip.Addr{}); v != ingest.Full || h.sessions.Get(other.ID) != nil || other.View().Presence != signalbox.Offline {
		t.Errorf("Connect: verdict %d, session %v", v, h.sessions.Get(other.ID))
	}
	if h.log.Head() != head || string(d.LatestObject()) != object {
		t.Error("a message that was pushed back left a trace")
	}
	// A device that goes is gone, recorded or not.
	if !h.road.Disconnect(d, s, "lost") || d.View().Presence != signalbox.Offline || d.View().Since.IsZero() {
		t.Error("the device is not offline")
	}
	h.run(t)
	h.flush(t)
	s = h.connect(t, d)
	if _, v := h.road.Telemetry(d, s.ID, &m); v != ingest.Stored {
		t.Errorf("presented again: verdict %d", v)
	}
	h.flush(t)
	if got := h.road.Settled(d, 3); got != seq {
		t.Errorf("settled up to %d, want %d", got, seq)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	m.Seq++
	if _, v := h.road.Telemetry(d, s.ID, &m); v != ingest.Stopping {
		t.Errorf("after the end: verdict %d", v)
	}
}

func TestBeginTellsWhoIsOffline(t *testing.T) {
	h := newHub(t, t.TempDir(), history.Config{}).run(t)
	for i := range 3 {
		s := h.connect(t, h.add(t, fmt.Sprintf("esp%d", i)))
		if i == 0 {
			h.road.Disconnect(h.devices.Find("esp0"), s, "closed")
		}
		if i == 1 {
			h.flush(t)
			if _, err := h.devices.Checkpoint(t.Context(), h.log); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.flush(t)
	before := len(h.entries(t))
	h = h.crash(t)
	h.road.Begin()
	var reasons []string
	for _, e := range h.entries(t)[before:] {
		var p signalbox.PresenceChange
		if err := json.Unmarshal(e.Body, &p); err != nil {
			t.Fatal(err)
		}
		reasons = append(reasons, fmt.Sprintf("%d %s %s", e.Device, p.Presence, p.Reason))
	}
	if want := []string{"2 offline restart", "3 offline restart"}; !slices.Equal(reasons, want) {
		t.Errorf("got %q, want %q", reasons, want)
	}
	for _, d := range h.devices.All() {
		if d.View().Presence != signalbox.Offline {
			t.Errorf("%s is online", d.Name)
		}
	}
}

// view is what must be the same before and after a crash.
type view struct {
	received, at, since int64
	boot, seq           uint64
	body                string
	online              bool
	address             string
}

func (h *hub) views() map[string]view {
	out := map[string]view{}
	for _, d := range h.devices.All() {
		s := d.Lock()
		v := view{s.ReceivedMicros, s.TimeMicros, s.SinceMicros, s.Boot, s.Seq, string(s.Body), s.Session != 0, ""}
		if s.Address.IsValid() {
			v.address = s.Address.String()
		}
		d.Unlock()
		out[d.Name] = v
	}
	return out
}

// TestCrashKeepsStates lets devices come, go and report at random, while checkpoints are
// made and devices added and removed, and crashes the hub again and again.
func TestCrashKeepsStates(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, uint64(time.Now().UnixNano())))
	h := newHub(t, t.TempDir(), history.Config{RowBytes: 1 << 10}).run(t)
	for i := range 30 {
		h.add(t, fmt.Sprintf("esp%d", i))
	}
	for round := range 6 {
		checkpoints := make(chan struct{})
		var group sync.WaitGroup
		group.Go(func() {
			for range checkpoints {
				if _, err := h.devices.Checkpoint(t.Context(), h.log); err != nil {
					t.Error(err)
				}
			}
		})
		for w := range 4 {
			mine := rand.New(rand.NewPCG(rng.Uint64(), uint64(w)))
			group.Go(func() { h.bustle(t, mine, w, 400) })
		}
		for range rng.IntN(30) {
			checkpoints <- struct{}{}
		}
		close(checkpoints)
		gone := h.devices.Find(fmt.Sprintf("esp%d", rng.IntN(30)))
		if gone != nil {
			if err := h.devices.Remove(t.Context(), gone, nil); err != nil {
				t.Error(err)
			}
		}
		group.Wait()
		h.flush(t)
		want := h.views()
		h = h.crash(t)
		got := h.views()
		if len(got) != len(want) {
			t.Fatalf("round %d: %d devices, want %d", round, len(got), len(want))
		}
		for name, w := range want {
			if got[name] != w {
				t.Fatalf("round %d: after the crash %s is\n%+v, want\n%+v", round, name, got[name], w)
			}
		}
		h.road.Begin()
	}
}

// bustle plays the devices whose number is w modulo 4.
func (h *hub) bustle(t *testing.T, rng *rand.Rand, w, n int) {
	t.Helper()
	live := map[string]*session.Session{}
	seqs := map[string]uint64{}
	for range n {
		name := fmt.Sprintf("esp%d", rng.IntN(7)*4+w)
		d := h.devices.Find(name)
		if d == nil {
			continue
		}
		s := live[name]
		switch r := rng.IntN(20); {
		case s == nil || r == 0:
			s = &session.Session{ID: h.sessions.NextID(), Device: d.ID, Protocol: signalbox.ProtocolV2}
			address := netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + rng.IntN(250))})
			if _, v := h.road.Connect(d, s, address); v == ingest.Stored {
				live[name] = s
			}
		case r == 1:
			h.road.Disconnect(d, s, "closed")
			delete(live, name)
		default:
			m := ingest.Message{Body: fmt.Appendf(nil, `{"n":%d,"pad":"%0*d"}`, rng.IntN(1e6), 1+rng.IntN(200), 0)}
			if r < 12 {
				seqs[name]++
				m.Boot, m.Seq = s.ID, s.ID%1000+seqs[name]
			}
			if r%3 == 0 {
				m.TimeMicros = time.Now().UnixMicro() - rng.Int64N(1e9)
			}
			h.road.Telemetry(d, s.ID, &m)
		}
	}
}
