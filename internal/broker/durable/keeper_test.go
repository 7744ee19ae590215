package durable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// until waits for something that happens in the background.
func until(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	end := time.After(patience)
	for !done() {
		select {
		case <-look.C:
		case <-end:
			tb.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// sessions begins n sessions and gives their numbers.
func (h *hub) sessions(tb testing.TB, n int) (ids []SessionID) {
	tb.Helper()
	for i := range n {
		id := h.k.NewID()
		h.put(tb, h.k.Begin(&Session{ID: id, Owner: fmt.Sprintf("d%d", i), ClientID: "c", Expiry: time.Hour, Subscriptions: []Subscription{{Filter: "a/#", QoS: 1}}}))
		ids = append(ids, id)
	}
	return ids
}

// TestManyTargets: a message for many queues is one record and in memory once; each queue has it.
func TestManyTargets(t *testing.T) {
	const n, size = 300, 10_000
	dir := t.TempDir()
	h := life(t, dir, Config{Delay: time.Hour})
	ids := h.sessions(t, n)
	h.flush(t)
	targets := make([]Target, n)
	for i, id := range ids {
		targets[i] = Target{Session: id, N: 1, QoS: 1}
	}
	m := Message{Topic: "a/b", QoS: 1, Payload: bytes.Repeat([]byte("0123456789"), size/10)}
	r := h.k.Publish(&m, targets, false, 0, 0)
	if len(r.Entry.Body) > size+n*16 {
		t.Errorf("the record has %d bytes", len(r.Entry.Body))
	}
	h.put(t, r)
	if p := h.k.Stats().Pending.Load(); p < size || p > size+n*(itemCost+workCost)+1000 {
		t.Errorf("%d bytes are pending", p)
	}
	check := func(what string) {
		t.Helper()
		for _, id := range ids {
			if got := h.read(t, id, 0, 10, 1<<20); len(got) != 1 || got[0].N != 1 || !bytes.Equal(got[0].Payload, m.Payload) {
				t.Fatalf("%s: session %d has %d messages", what, id, len(got))
			}
		}
	}
	check("in memory")
	h.flush(t)
	if s := h.k.Stats(); s.Pending.Load() != 0 || s.QueueRows.Load() != n || h.count(t, `SELECT COUNT(*) FROM broker_queue`) != n {
		t.Errorf("%d bytes are pending, %d rows were written", s.Pending.Load(), s.QueueRows.Load())
	}
	check("in the table")
	h.end()
	h = life(t, dir, Config{Delay: time.Hour})
	if len(h.img.Sessions) != n || h.img.Sessions[0].Messages != 1 || h.img.Sessions[0].Bytes < size || len(h.img.Sessions[0].Subscriptions) != 1 {
		t.Errorf("found %d sessions, the first is %+v", len(h.img.Sessions), h.img.Sessions[0])
	}
	check("after a start")
	for _, id := range ids {
		h.put(t, h.k.Acked(id, 2, 2, nil, nil))
	}
	h.flush(t)
	if left := h.count(t, `SELECT COUNT(*) FROM broker_queue`); left != 0 {
		t.Errorf("%d rows are left of what is acknowledged", left)
	}
}

// TestAckedInTime: what is acknowledged before it is written is never written.
func TestAckedInTime(t *testing.T) {
	h := life(t, t.TempDir(), Config{Delay: time.Hour})
	id := h.sessions(t, 1)[0]
	for n := range uint64(1000) {
		h.put(t, h.k.Publish(&Message{Topic: "a/b", Payload: []byte("x")}, []Target{{Session: id, N: n + 1, QoS: 1}}, false, 0, 0))
		if n%3 == 2 {
			h.put(t, h.k.Acked(id, n, n, []uint64{n + 1}, nil))
		}
	}
	h.put(t, h.k.Acked(id, 1001, 1001, nil, nil))
	h.flush(t)
	if s := h.k.Stats(); s.QueueRows.Load() != 0 || s.Pending.Load() != 0 {
		t.Errorf("%d rows of the queue were written, %d bytes are pending", s.QueueRows.Load(), s.Pending.Load())
	}
}

// TestNeverAhead: what is written is in the committed log.
func TestNeverAhead(t *testing.T) {
	h := life(t, t.TempDir(), Config{Delay: time.Hour})
	for range 20 {
		r := h.k.Begin(&Session{ID: h.k.NewID(), Owner: "d1"})
		if err := h.k.Append(r, history.Soon); err != nil {
			t.Fatal(err)
		}
		p := h.k.Done(r)
		h.flush(t)
		if c := h.log.Committed(); c < p {
			t.Fatalf("the row of position %d is written, the log is committed up to %d", p, c)
		}
	}
}

// TestUnderWay: a record that is on disk and not taken up yet is not passed over, neither by what
// is written nor by what rides along.
func TestUnderWay(t *testing.T) {
	dir := t.TempDir()
	h := life(t, dir, Config{Delay: time.Hour})
	h.sessions(t, 1)
	r := h.k.Begin(&Session{ID: h.k.NewID(), Owner: "d2"})
	if err := h.k.Append(r, history.Now); err != nil {
		t.Fatal(err)
	}
	p := r.Entry.Position
	h.wait(t, p)
	for range 3 {
		h.flush(t)
		e := signalbox.Entry{Device: 1, Kind: signalbox.EntryTelemetry, Body: []byte(`{"a":1}`)}
		if err := h.log.Append(&e, history.Now); err != nil {
			t.Fatal(err)
		}
		h.wait(t, e.Position)
		h.k.turn.Lock()
		h.k.moved = time.Time{} // the next commit may take the checkpoint along
		h.k.turn.Unlock()
		if at := h.k.Checkpoint(); at >= p {
			t.Fatalf("the checkpoint is %d, the record at %d is not taken up", at, p)
		}
	}
	h.end()
	if h = life(t, dir, Config{}); len(h.img.Sessions) != 2 {
		t.Errorf("%d sessions", len(h.img.Sessions))
	}
}

// TestFull: beyond the bound nothing more is taken but what takes something away, until the
// writer has caught up.
func TestFull(t *testing.T) {
	h := life(t, t.TempDir(), Config{Delay: time.Hour, Pending: 20_000})
	id := h.sessions(t, 1)[0]
	n := uint64(1)
	publish := func() error {
		r := h.k.Publish(&Message{Topic: "a/b", Payload: make([]byte, 1000)}, []Target{{Session: id, N: n, QoS: 1}}, false, 0, 0)
		if err := h.k.Append(r, history.Soon); err != nil {
			h.k.Drop(r)
			return err
		}
		h.k.Done(r)
		n++
		return nil
	}
	for publish() == nil {
		if n > 100 {
			t.Fatal("it is never full")
		}
	}
	if err := publish(); !errors.Is(err, history.ErrFull) || !h.k.Full() || h.k.Stats().Refused.Load() != 2 {
		t.Errorf("refused with %v, full %t, %d counted", err, h.k.Full(), h.k.Stats().Refused.Load())
	}
	h.put(t, h.k.Acked(id, 2, 2, nil, nil))
	stop := h.runs(t)
	until(t, "there is room again", func() bool { return publish() == nil })
	stop()
	if got := h.read(t, id, 0, 7, 1<<20); len(got) != int(n-2) {
		t.Errorf("%d messages, want %d", len(got), n-2)
	}
}

// TestUnplaced: a record that was never appended is refused.
func TestUnplaced(t *testing.T) {
	said := new(words)
	h := life(t, t.TempDir(), Config{Delay: time.Hour, Logger: slog.New(slog.NewTextHandler(said, nil))})
	id := h.sessions(t, 1)[0]
	h.k.Done(h.k.Publish(&Message{Topic: "a/b", Payload: []byte("x")}, []Target{{Session: id, N: 1, QoS: 1}}, true, 0, 0))
	if got := h.read(t, id, 0, 10, 1<<20); len(got) != 0 || h.k.Stats().Broken.Load() != 1 || said.count("level=ERROR") != 1 {
		t.Errorf("%d messages, %d counted, %d errors", len(got), h.k.Stats().Broken.Load(), said.count("level=ERROR"))
	}
}

// TestNextIsBeyondWhatIsDone: no number is used again that a client has acknowledged.
func TestNextIsBeyondWhatIsDone(t *testing.T) {
	for _, written := range []bool{false, true} {
		dir := t.TempDir()
		h := life(t, dir, Config{Delay: time.Hour})
		ids := h.sessions(t, 2)
		h.put(t, h.k.Acked(ids[0], 1, 1, []uint64{4, 5, 6, 9}, nil))
		h.put(t, h.k.Acked(ids[1], 1, 1, nil, []uint64{3}))
		if written {
			h.flush(t)
		}
		h.end()
		h = life(t, dir, Config{Delay: time.Hour})
		if a, b := h.img.Sessions[0], h.img.Sessions[1]; a.Next != 10 || b.Next != 4 || len(a.Done) != 4 || len(b.Released) != 1 {
			t.Errorf("written %t: %+v, %+v", written, a, b)
		}
	}
}

// TestRunsAreShort: what is done behind one message that is not takes a few bytes.
func TestRunsAreShort(t *testing.T) {
	h := life(t, t.TempDir(), Config{Delay: time.Hour})
	id := h.sessions(t, 1)[0]
	done := make([]uint64, 10_000)
	for i := range done {
		done[i] = uint64(i + 2)
	}
	r := h.k.Acked(id, 1, 1, done, nil)
	if n := len(r.Entry.Body); n > 20 {
		t.Errorf("the record has %d bytes", n)
	}
	h.put(t, r)
}

// TestNumbersOfSessions: that of a session of which nothing is left is not used again.
func TestNumbersOfSessions(t *testing.T) {
	dir := t.TempDir()
	h := life(t, dir, Config{})
	ids := h.sessions(t, 5)
	h.flush(t)
	for _, id := range ids {
		h.put(t, h.k.End(id))
	}
	h.flush(t)
	if n := h.count(t, `SELECT COUNT(*) FROM broker_session`); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	for range 2 {
		h.end()
		h = life(t, dir, Config{})
		if id := h.k.NewID(); id <= ids[4] {
			t.Errorf("a new session has the number %d, %d was used", id, ids[4])
		}
	}
}

// TestCheckpointRides: the checkpoint goes along with what others have committed, so that the
// log is not kept for a broker that has nothing to say.
func TestCheckpointRides(t *testing.T) {
	dir := t.TempDir()
	h := life(t, dir, Config{})
	h.sessions(t, 1)
	stop := h.runs(t)
	for done := false; !done; { // however long a commit takes
		was := h.k.Checkpoint()
		until(t, "the checkpoint moves", func() bool {
			e := signalbox.Entry{Device: 1, Kind: signalbox.EntryTelemetry, Body: []byte(`{"a":1}`)}
			if err := h.log.Append(&e, history.Now); err != nil {
				t.Fatal(err)
			}
			h.wait(t, e.Position)
			done = h.k.Checkpoint() > 300 && h.log.Kept() < 700
			return done || h.k.Checkpoint() > was
		})
	}
	stop()
	h.end()
	if h = life(t, dir, Config{}); len(h.img.Sessions) != 1 || h.k.Stats().Records.Load() != 0 || time.Since(h.img.At) > time.Minute {
		t.Errorf("found %d sessions as of %v", len(h.img.Sessions), h.img.At)
	}
}

// words is a log of what was said.
type words struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func (w *words) count(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.buf.String(), what)
}

// queued gives a session n messages.
func (h *hub) queued(tb testing.TB, id SessionID, n int) {
	tb.Helper()
	for i := range n {
		m := Message{Topic: "a/b", Payload: fmt.Append(nil, "message ", i)}
		h.put(tb, h.k.Publish(&m, []Target{{Session: id, N: uint64(i + 1), QoS: 1}}, false, 0, 0))
	}
}

// TestBroken: rows that cannot be read are named and passed over.
func TestBroken(t *testing.T) {
	said := new(words)
	cfg := Config{Delay: time.Hour, Logger: slog.New(slog.NewTextHandler(said, nil))}
	dir := t.TempDir()
	h := life(t, dir, cfg)
	ids := h.sessions(t, 3)
	h.queued(t, ids[0], 3*256)
	for i := range 3 {
		h.put(t, h.k.Publish(&Message{Topic: fmt.Sprint("r", i), Payload: []byte("x")}, nil, true, 0, 0))
	}
	h.flush(t)
	err := h.st.Update(t.Context(), func(tx *store.Tx) error {
		for _, text := range []string{
			`UPDATE broker_queue SET body = ? WHERE n0 = 257`, `UPDATE broker_session SET head = ? WHERE id = 2`,
		} {
			if _, err := tx.Exec(t.Context(), text, []byte{99, 1, 2}); err != nil {
				return err
			}
		}
		return tx.PutBrokerRetained(t.Context(), [32]byte{1}, []byte{bodyPlain, 0xff})
	})
	if err != nil {
		t.Fatal(err)
	}
	h.end()
	h = life(t, dir, cfg)
	if len(h.img.Sessions) != 2 || len(h.img.Retained) != 3 {
		t.Errorf("%d sessions and %d retained messages", len(h.img.Sessions), len(h.img.Retained))
	}
	if got := h.read(t, ids[0], 0, 50, 1<<20); len(got) != 2*256 || got[256].N != 2*256+1 {
		t.Errorf("%d messages are read", len(got))
	}
	if n := h.k.Stats().Broken.Load(); n < 3 || said.count("level=ERROR") != int(n) {
		t.Errorf("%d broken rows are counted, %d named", n, said.count("level=ERROR"))
	}
}

// TestRefused: a row that the database refuses does not hold up the others.
func TestRefused(t *testing.T) {
	if storetest.Running() != storetest.SQLite {
		return
	}
	said := new(words)
	h := life(t, t.TempDir(), Config{Delay: time.Hour, Logger: slog.New(slog.NewTextHandler(said, nil))})
	err := h.st.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `CREATE TRIGGER bad BEFORE INSERT ON broker_session WHEN NEW.id = 3 BEGIN SELECT RAISE(ABORT, 'no'); END`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h.sessions(t, 5)
	h.flush(t)
	if n := h.count(t, `SELECT COUNT(*) FROM broker_session`); n != 4 || said.count("mqtt_session=3") != 1 || h.k.Checkpoint() != h.log.Committed() {
		t.Errorf("%d sessions are stored, the checkpoint is %d of %d", n, h.k.Checkpoint(), h.log.Committed())
	}
}

// TestForeignLog: tables that are ahead of the log do not belong to it.
func TestForeignLog(t *testing.T) {
	dir := t.TempDir()
	h := life(t, dir, Config{})
	h.sessions(t, 1)
	err := h.st.Update(t.Context(), func(tx *store.Tx) error { return tx.SetMeta(t.Context(), checkpointName, "1000") })
	if err != nil {
		t.Fatal(err)
	}
	h.end()
	st, err := store.Open(t.Context(), storetest.Config(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	log, err := history.Open(t.Context(), history.Config{}, st)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(t.Context(), Config{}, log, st); err == nil || !strings.Contains(err.Error(), "belong together") {
		t.Errorf("opened with %v", err)
	}
}

// TestOutage: records go on while the server is away, as far as there is room, reading what is in
// the table ends in time, and afterwards all is in the tables.
func TestOutage(t *testing.T) {
	if storetest.Running() != storetest.SQLite {
		return // once is enough
	}
	for _, kind := range storetest.Servers() {
		t.Run(string(kind), func(t *testing.T) {
			server := storetest.Start(t, kind, storetest.Durable(kind)...)
			db, dir := server.NewDatabase(t), t.TempDir()
			scfg := db.Config()
			scfg.ConnectTimeout, scfg.Timeout = 10*time.Second, 10*time.Second
			h, end := spooled(t, scfg, dir)
			id := h.sessions(t, 1)[0]
			h.queued(t, id, 300)
			h.flush(t)
			stop := h.runs(t)
			server.Stop(t)
			for i := range 200 {
				m := Message{Topic: "a/b", Payload: fmt.Append(nil, "message ", 300+i)}
				h.wait(t, h.put(t, h.k.Publish(&m, []Target{{Session: id, N: uint64(301 + i), QoS: 1}}, i%50 == 0, 0, 0)))
			}
			limited, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			began := time.Now()
			if _, err := h.k.Read(limited, id, 1, 10, 1000); err == nil || time.Since(began) > 3*time.Second+patience/2 {
				t.Errorf("read from a server that is away: %v after %v", err, time.Since(began))
			}
			cancel()
			if got, err := h.k.Read(t.Context(), id, 301, 10, 10_000); err != nil || len(got) != 10 {
				t.Errorf("what is in memory: %d messages, %v", len(got), err)
			}
			server.Start(t)
			until(t, "all is in the tables", func() bool { return h.k.Stats().Pending.Load() == 0 })
			stop()
			end()
			h, _ = spooled(t, scfg, dir)
			got := h.read(t, id, 0, 100, 1<<20)
			if len(got) != 500 || len(h.img.Retained) != 1 {
				t.Fatalf("%d messages, %d retained", len(got), len(h.img.Retained))
			}
			for i := range got {
				if want := fmt.Sprint("message ", i); string(got[i].Payload) != want || got[i].N != uint64(i+1) {
					t.Fatalf("message %d is %q", got[i].N, got[i].Payload)
				}
			}
		})
	}
}

// spooled is life with a spool in dir.
func spooled(t *testing.T, scfg store.Config, dir string) (h *hub, end func()) {
	t.Helper()
	st, err := store.Open(t.Context(), scfg)
	if err != nil {
		t.Fatal(err)
	}
	h = &hub{st: st}
	if h.log, err = history.Open(t.Context(), history.Config{Spool: dir}, st); err != nil {
		t.Fatal(err)
	}
	if err := h.log.Restore(t.Context(), h.log.Committed(), func(*signalbox.Entry) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if h.k, h.img, err = Open(t.Context(), Config{Delay: 10 * time.Millisecond}, h.log, st); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.log.Run(ctx, patience) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the log ended with %v", err)
		}
		_ = st.Close()
	})
	t.Cleanup(end)
	return h, end
}

// TestManySessions: a start with many sessions is quick, and those at rest take little memory.
func TestManySessions(t *testing.T) {
	const n = 20_000
	dir := t.TempDir()
	h := life(t, dir, Config{Delay: time.Hour})
	h.sessions(t, n)
	h.flush(t)
	h.end()
	began := time.Now()
	h = life(t, dir, Config{Delay: time.Hour})
	took := time.Since(began)
	if len(h.img.Sessions) != n || took > patience {
		t.Errorf("%d sessions after %v", len(h.img.Sessions), took)
	}
	h.img = nil
	before := heap()
	h.k.mu.Lock()
	h.k.sessions = nil
	h.k.mu.Unlock()
	each := (before - heap()) / n
	t.Logf("a start with %d sessions: %v; %d bytes each", n, took, each)
	if each > 160 {
		t.Errorf("a session at rest takes %d bytes", each)
	}
	runtime.KeepAlive(h.k)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
