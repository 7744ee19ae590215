package durable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// All tests run on each kind of database.
func TestMain(m *testing.M) { os.Exit(storetest.MainEach(m)) }

// patience is how long a test waits for what should happen at once.
const patience = 30 * time.Second

// hub is a life of the hub: the store, the log and a keeper.
type hub struct {
	st  *store.Store
	log *history.Log
	k   *Keeper
	img *Image
	// end stops the log, which commits what was appended; the keeper writes nothing more.
	end func()
}

// life starts a hub over the database that belongs to dir.
func life(tb testing.TB, dir string, cfg Config) *hub {
	tb.Helper()
	scfg := storetest.Config(tb, dir)
	if scfg.URL == "" {
		scfg.CheckpointBytes = 1 << 40 // so that the files can be copied one after the other
	}
	return lifeAt(tb, scfg, cfg)
}

func lifeAt(tb testing.TB, scfg store.Config, cfg Config) *hub {
	tb.Helper()
	h := &hub{}
	var err error
	if h.st, err = store.Open(context.Background(), scfg); err != nil {
		tb.Fatal(err)
	}
	closeStore := sync.OnceFunc(func() { _ = h.st.Close() })
	tb.Cleanup(closeStore)
	if h.log, err = history.Open(tb.Context(), history.Config{RowBytes: 8 << 10, TailEntries: 500}, h.st); err != nil {
		tb.Fatal(err)
	}
	if err := h.log.Restore(tb.Context(), h.log.Committed(), func(*signalbox.Entry) error { return nil }); err != nil {
		tb.Fatal(err)
	}
	if h.k, h.img, err = Open(tb.Context(), cfg, h.log, h.st); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.log.Run(ctx, patience) }()
	h.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("the log ended with %v", err)
		}
		closeStore()
	})
	tb.Cleanup(h.end)
	return h
}

// runs has the keeper run until the func that it gives is called.
func (h *hub) runs(tb testing.TB) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.k.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("the keeper ended with %v", err)
		}
	})
	tb.Cleanup(stop)
	return stop
}

// copied gives the configuration of a copy of the database's files as they are at the moment.
func copied(tb testing.TB, dir string) store.Config {
	tb.Helper()
	to := tb.TempDir()
	for _, name := range []string{"signalbox.db", "signalbox.db-wal"} {
		data, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(to+"/"+name, data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return store.Config{Dir: to, CheckpointBytes: 1 << 40}
}

// put appends a record and says that it is done.
func (h *hub) put(tb testing.TB, r *Record) signalbox.Position {
	tb.Helper()
	for end := time.Now().Add(patience); ; {
		err := h.k.Append(r, history.Acked)
		if err == nil {
			return h.k.Done(r)
		}
		if !errors.Is(err, history.ErrFull) || time.Now().After(end) {
			tb.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Millisecond)
		_ = h.log.Wait(ctx, h.log.Head()+1) // a moment later there may be room
		cancel()
	}
}

func (h *hub) wait(tb testing.TB, p signalbox.Position) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	if err := h.log.Wait(ctx, p); err != nil {
		tb.Fatal(err)
	}
}

func (h *hub) flush(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	if err := h.k.Flush(ctx); err != nil {
		tb.Fatal(err)
	}
}

// count asks the database for a number.
func (h *hub) count(tb testing.TB, query string) (n int64) {
	tb.Helper()
	if err := h.st.Reader().QueryRowContext(tb.Context(), query).Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}

// read gives the queue of a session, page by page.
func (h *hub) read(tb testing.TB, id SessionID, from uint64, messages, bytes int) (all []Item) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	for {
		items, err := h.k.Read(ctx, id, from, messages, bytes)
		if err != nil {
			tb.Fatal(err)
		}
		if len(items) == 0 {
			return all
		}
		if len(items) > messages {
			tb.Fatalf("a page of %d messages, %d were asked for", len(items), messages)
		}
		all = append(all, items...)
		from = items[len(items)-1].N + 1
	}
}

// model is what a hub has to know: the simplest thing that can be told of records.
type model struct {
	sessions map[SessionID]*modelSession
	retained map[string]Message
}

type modelSession struct {
	Session
	queue map[uint64]Item
}

func newModel() *model {
	return &model{sessions: map[SessionID]*modelSession{}, retained: map[string]Message{}}
}

// waiting gives the queue of a session from a number on.
func (s *modelSession) waiting(from uint64) (items []Item) {
	for n := max(from, s.Acked); n < s.Next; n++ {
		if !slices.Contains(s.Done, n) {
			items = append(items, s.queue[n])
		}
	}
	return items
}

// plain makes what is equal look equal.
func plain(s Session) Session {
	s.Bytes = 0
	slices.Sort(s.Received)
	slices.Sort(s.Done)
	slices.Sort(s.Released)
	slices.Sort(s.Given)
	s.Given = slices.Compact(s.Given)
	slices.SortFunc(s.Subscriptions, func(a, b Subscription) int {
		if a.Filter < b.Filter {
			return -1
		}
		return 1
	})
	for _, p := range []*[]uint64{&s.Done, &s.Released, &s.Given} {
		if len(*p) == 0 {
			*p = nil
		}
	}
	if len(s.Received) == 0 {
		s.Received = nil
	}
	if len(s.Subscriptions) == 0 {
		s.Subscriptions = nil
	}
	if s.Will != nil {
		w := *s.Will
		w.Message = plainMessage(w.Message)
		s.Will = &w
	}
	return s
}

func plainMessage(m Message) Message {
	if len(m.Payload) == 0 {
		m.Payload = nil
	}
	if len(m.Properties) == 0 {
		m.Properties = nil
	}
	return m
}

func sameItem(a, b Item) bool {
	if len(a.IDs) == 0 {
		a.IDs = nil
	}
	if len(b.IDs) == 0 {
		b.IDs = nil
	}
	return reflect.DeepEqual(a.Target, b.Target) && reflect.DeepEqual(plainMessage(*a.Message), plainMessage(*b.Message))
}

// check compares a hub that has just started with the model.
func (m *model) check(tb testing.TB, h *hub, what string) {
	tb.Helper()
	if len(h.img.Sessions) != len(m.sessions) {
		tb.Fatalf("%s: %d sessions, want %d", what, len(h.img.Sessions), len(m.sessions))
	}
	for _, got := range h.img.Sessions {
		want := m.sessions[got.ID]
		if want == nil {
			tb.Fatalf("%s: there is a session %d", what, got.ID)
		}
		want.Messages = int64(len(want.waiting(0)))
		if a, b := plain(got), plain(want.Session); !reflect.DeepEqual(a, b) {
			tb.Fatalf("%s: session\n%+v, want\n%+v", what, a, b)
		}
		if (got.Bytes > 0) != (got.Messages > 0) {
			tb.Errorf("%s: session %d has %d messages of %d bytes", what, got.ID, got.Messages, got.Bytes)
		}
	}
	got := map[string]Message{}
	for _, r := range h.img.Retained {
		got[r.Topic] = plainMessage(*r)
	}
	if !reflect.DeepEqual(got, m.retained) {
		tb.Fatalf("%s: %d retained messages %v, want %d: %v", what, len(got), got, len(m.retained), m.retained)
	}
	m.checkQueues(tb, h, what)
}

// checkQueues compares what Read gives with the model.
func (m *model) checkQueues(tb testing.TB, h *hub, what string) {
	tb.Helper()
	for id, s := range m.sessions {
		s.checkQueue(tb, h, what, id, 0, 100)
	}
}

func (s *modelSession) checkQueue(tb testing.TB, h *hub, what string, id SessionID, from uint64, messages int) {
	tb.Helper()
	got, want := h.read(tb, id, from, messages, 20_000), s.waiting(from)
	if !slices.EqualFunc(got, want, sameItem) {
		numbers := func(items []Item) (all []string) {
			for _, it := range items {
				all = append(all, fmt.Sprint(it.N, ":", len(it.Payload)))
			}
			return all
		}
		tb.Fatalf("%s: session %d (%+v) has from %d on\n%v, want\n%v", what, id, s.Session, from, numbers(got), numbers(want))
	}
}
