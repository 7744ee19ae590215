package forward

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/store"
)

// TestFlows asks at each moment of a writing whether a kill would be known to have come after a
// message.
func TestFlows(t *testing.T) {
	fresh := func() *placing {
		p := &placing{now: place{cursor: 5, sent: 5, flowing: true}, dirty: time.Now()}
		now, turn, due := p.take(0)
		if !due {
			t.Fatal("the place is not due")
		}
		p.wrote(now, turn)
		return p
	}
	stops := func(p *placing) { p.change(func(now *place) { now.flowing = false }) }
	takes := func(p *placing, flowing bool) (place, uint64) {
		t.Helper()
		now, turn, due := p.take(0)
		if !due || now.flowing != flowing {
			t.Fatalf("what is written is %+v, due: %v; flowing should be %v", now, due, flowing)
		}
		return now, turn
	}
	asks := func(p *placing, at signalbox.Position, want bool) {
		t.Helper()
		if got := p.flows(at, 0); got != want {
			t.Errorf("flows(%d) is %v, want %v; the place is %+v, stored %+v", at, got, want, p.now, p.stored)
		}
	}
	t.Run("stored", func(*testing.T) { asks(fresh(), 10, true) })
	t.Run("sent before", func(t *testing.T) {
		p := fresh()
		stops(p)
		p.wrote(takes(p, false))
		asks(p, 5, true)
		if p.now.flowing {
			t.Error("what was sent before sets it flowing")
		}
		asks(p, 6, false)
	})
	t.Run("its end is being written", func(*testing.T) {
		p := fresh()
		stops(p)
		now, turn := takes(p, false)
		asks(p, 10, false) // it may be on disk already
		p.wrote(now, turn)
		asks(p, 10, false)
		p.wrote(takes(p, true))
		asks(p, 10, true)
	})
	t.Run("its end is not written yet", func(*testing.T) {
		p := fresh()
		stops(p)
		asks(p, 10, true)
		takes(p, true) // the end must not be written any more
	})
	t.Run("its end was perhaps written", func(*testing.T) {
		p := fresh()
		stops(p)
		takes(p, false) // and its outcome is never known
		asks(p, 10, false)
	})
	t.Run("an older outcome is known late", func(*testing.T) {
		p := fresh()
		p.change(func(now *place) { now.cursor = 6 })
		now, turn := takes(p, true)
		stops(p)
		takes(p, false)
		p.wrote(now, turn)
		asks(p, 10, false)
	})
}

// TestTwoKills kills the hub again, when a message was sent after the first kill.
func TestTwoKills(t *testing.T) {
	r := &recorder{}
	cfg := Config{File: []Spec{simple("{field.n}")}}
	w := begin(t, t.TempDir(), cfg, []string{"box1"}, only(r))
	first := w.put(t, 0, `{"n":1}`)
	w.settled(t, "to", first)
	dir := w.copied(t)
	w.end()

	hold := make(chan struct{})
	r.set(func() { r.hold, r.past = hold, first }) // the first may come again
	w = begin(t, dir, cfg, []string{"box1"}, only(r))
	second := w.put(t, 0, `{"n":2}`)
	w.until(t, "to", "sending", func(*Status) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.held > 0
	})
	f := w.m.all["to"]
	w.until(t, "to", "stored", func(*Status) bool {
		f.place.mu.Lock()
		defer f.place.mu.Unlock()
		return f.place.known && f.place.dirty.IsZero()
	})
	dir = w.copied(t)
	w.end()

	close(hold)
	r.set(func() { r.got = nil })
	w = begin(t, dir, cfg, []string{"box1"}, only(r))
	w.settled(t, "to", second)
	for _, m := range r.messages() {
		if m.Position == second && !m.Redelivered {
			t.Error("what was sent before the second kill comes again without the mark")
		}
	}
}

// TestCursors holds cursors against those of the log, over its epochs.
func TestCursors(t *testing.T) {
	r := &recorder{away: errFake}
	spec := simple("{cursor}")
	cfg := Config{File: []Spec{spec}}
	dir := t.TempDir()
	w := begin(t, dir, cfg, []string{"box1"}, only(r))
	first := w.put(t, 0, `{}`)
	w.wait(t, first)
	want := []string{w.log.Cursor(first)}
	w.end()
	r.set(func() { r.away = nil })
	w = begin(t, dir, cfg, []string{"box1"}, only(r))
	second := w.put(t, 0, `{}`)
	want = append(want, w.log.Cursor(second))
	got := r.bodies(t, 2)
	for i, p := range []signalbox.Position{first, second} {
		if got[i] != want[i] {
			t.Errorf("the cursor of position %d is %s, want %s", p, got[i], want[i])
		}
		if place, err := w.log.Place(got[i]); err != nil || place.Fate != history.Known || place.Position != p {
			t.Errorf("the cursor %s leads to %+v, %v", got[i], place, err)
		}
	}
	if a, b, _ := strings.Cut(want[0], "-"); a == "" || strings.HasPrefix(want[1], a+"-") {
		t.Errorf("the epochs of %s (%s) and %s are one", want[0], b, want[1])
	}
}

// TestNewPlaceIsStored kills the hub right after a forwarder came into the file.
func TestNewPlaceIsStored(t *testing.T) {
	r := &recorder{away: errFake}
	cfg := Config{File: []Spec{simple("{field.n}")}}
	w := begin(t, t.TempDir(), cfg, []string{"box1"}, only(r))
	w.wait(t, w.put(t, 0, `{"n":1}`))
	dir := w.copied(t)
	w.end()
	r.set(func() { r.away = nil })
	w = begin(t, dir, cfg, []string{"box1"}, only(r))
	w.put(t, 0, `{"n":2}`)
	if got := r.bodies(t, 2); got[0] != "1" {
		t.Errorf("got %q", got)
	}
}

// TestOpenedWithoutServing opens the hub for something else, without its configuration.
func TestOpenedWithoutServing(t *testing.T) {
	r := &recorder{}
	r.send = func(m *Message) error {
		if string(m.Body) == "bad" {
			return &Refused{Position: m.Position, Reason: "never", Permanent: true}
		}
		return nil
	}
	cfg := Config{File: []Spec{simple("{field.n}")}}
	dir := t.TempDir()
	w := begin(t, dir, cfg, []string{"box1"}, only(r))
	w.settled(t, "to", w.put(t, 0, `{"n":"bad"}`))
	r.set(func() { r.away, r.send = errFake, func(*Message) error { return errFake } })
	w.wait(t, w.put(t, 0, `{"n":1}`))
	w.end()

	openOnly(t, dir)

	r.set(func() { r.away, r.send, r.got = nil, nil, nil })
	w = begin(t, dir, cfg, []string{"box1"}, only(r))
	if got := r.bodies(t, 1); got[0] != "1" {
		t.Errorf("got %q", got)
	}
	if letters, err := w.m.DeadLetters(t.Context(), "to", 0, 0); err != nil || len(letters) != 1 {
		t.Errorf("the dead letters are %+v, %v", letters, err)
	}
	w.end()

	// A hub that serves without it drops what is stored.
	w = begin(t, dir, Config{}, []string{"box1"}, only(r))
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		counts, err := w.st.CountDeadLetters(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(counts) == 0 || time.Now().After(end) {
			break
		}
	}
	w.end()
	w = begin(t, dir, cfg, []string{"box1"}, only(r))
	if letters, err := w.m.DeadLetters(t.Context(), "to", 0, 0); err != nil || len(letters) != 0 {
		t.Errorf("the dead letters are %+v, %v", letters, err)
	}
}

// openOnly makes a Manager without forwarders of a file, and does not run it.
func openOnly(t *testing.T, dir string) {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	log, err := history.Open(t.Context(), history.Config{}, st)
	devices := registry.New(st, slog.New(slog.DiscardHandler))
	if err == nil {
		err = devices.Load(t.Context(), log)
	}
	if err != nil {
		t.Fatal(err)
	}
	keys, err := auth.OpenKeys(dir + "/signalbox.key")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), Config{}, Parts{Log: log, Devices: devices, Store: st, Seal: keys.Seal, Unseal: keys.Unseal}); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSkipsAreToldWhileItRuns gives up entries twice within a minute, and goes on: a minute later the
// log has told of all.
func TestSkipsAreToldWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &shared{}
		logger := slog.New(slog.NewTextHandler(told, &slog.HandlerOptions{Level: slog.LevelWarn}))
		r := &recorder{}
		spec := simple("{field.n}")
		spec.Queue.MaxEntries = 10
		w := begin(t, t.TempDir(), Config{Logger: logger, File: []Spec{spec}}, []string{"box1"}, only(r))
		for range 2 {
			r.set(func() { r.away, r.send = errFake, func(*Message) error { return errFake } })
			for range 50 {
				w.put(t, 0, `{"n":1}`)
			}
			w.wait(t, w.log.Head())
			time.Sleep(time.Second)
			r.set(func() { r.away, r.send = nil, nil })
			time.Sleep(time.Second)
		}
		if n := strings.Count(told.String(), "entries were given up"); n != 1 {
			t.Errorf("at once the log tells:\n%s", told.String())
		}
		time.Sleep(2 * tellEvery)
		if n := strings.Count(told.String(), "entries were given up"); n != 2 {
			t.Errorf("a minute later the log tells:\n%s", told.String())
		}
		w.end()
	})
}

// shared is a text that is written and read at the same time.
type shared struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// TestSkipsAreTold gives up entries twice within a minute: the log tells of all.
func TestSkipsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelWarn}))
		r := &recorder{}
		spec := simple("{field.n}")
		spec.Queue.MaxEntries = 10
		w := begin(t, t.TempDir(), Config{Logger: logger}, []string{"box1"}, only(r))
		spec.Paused = true
		if _, err := w.m.Add(t.Context(), spec, ""); err != nil {
			t.Fatal(err)
		}
		begun := w.log.Committed()
		for range 2 {
			for range 50 {
				w.put(t, 0, `{"n":1}`)
			}
			w.wait(t, w.log.Head())
			err := errors.Join(w.m.Pause(t.Context(), "to", false))
			time.Sleep(time.Second)
			if err = errors.Join(err, w.m.Pause(t.Context(), "to", true)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		s, err := w.m.Get("to")
		if want := int64(w.log.Committed()-begun) - 20; err != nil || s.Skipped != want || len(r.got) != 20 {
			t.Errorf("%d were skipped, want %d; %d arrived, %v", s.Skipped, want, len(r.got), err)
		}
		w.end()
		if n := strings.Count(told.String(), "entries were given up"); n != 2 || strings.Count(told.String(), "entries=40 ") != 2 {
			t.Errorf("the log tells:\n%s", told.String())
		}
	})
}
