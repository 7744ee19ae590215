package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/replay"
)

// recorder is a target that notes what it gets, and does with it what a test says.
type recorder struct {
	mu    sync.Mutex
	got   []Message
	opens int
	away  error                  // of Open
	send  func(m *Message) error // nil: takes it
	hold  chan struct{}          // if set, Send waits until it is closed
	past  signalbox.Position     // up to here it does not
	held  int                    // how often it did
}

func (r *recorder) Open(_ context.Context, settled func(signalbox.Position)) (Sink, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away != nil {
		return nil, r.away
	}
	r.opens++
	return &recorderSink{r: r, settled: settled, broken: make(chan struct{})}, nil
}

func (r *recorder) Close() error { return nil }

func (r *recorder) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *recorder) messages() []Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// bodies waits for n messages and gives their bodies.
func (r *recorder) bodies(tb testing.TB, n int) []string {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		got := r.messages()
		if len(got) >= n || time.Now().After(end) {
			var list []string
			for i := range got {
				list = append(list, string(got[i].Body))
			}
			if len(got) != n {
				tb.Fatalf("got %d messages, want %d: %s", len(got), n, strings.Join(list, "\n"))
			}
			return list
		}
	}
}

type recorderSink struct {
	r       *recorder
	settled func(signalbox.Position)
	broken  chan struct{}
}

func (s *recorderSink) Send(ctx context.Context, batch []Message) error {
	s.r.mu.Lock()
	hold := s.r.hold
	if batch[len(batch)-1].Position <= s.r.past {
		hold = nil
	}
	if hold != nil {
		s.r.held++
	}
	s.r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	for i := range batch {
		m := batch[i]
		m.Body, m.Data = bytes.Clone(m.Body), bytes.Clone(m.Data)
		if s.r.send != nil {
			if err := s.r.send(&m); err != nil {
				return err
			}
		}
		s.r.got = append(s.r.got, m)
		s.settled(m.Position)
	}
	return nil
}

func (s *recorderSink) Flush(context.Context) error { return nil }
func (s *recorderSink) Broken() <-chan struct{}     { return s.broken }
func (s *recorderSink) Err() error                  { return errFake }
func (s *recorderSink) Close() error                { return nil }

func simple(body string) Spec {
	return Spec{
		Name: "to", To: "http://192.0.2.1/", Format: FormatTemplate, Template: body, Attempts: 2,
		Backoff: Backoff{Min: 10 * time.Millisecond, Max: 20 * time.Millisecond}, Timeout: time.Second,
	}
}

func wantKind(tb testing.TB, err error, kind signalbox.Kind, code string) {
	tb.Helper()
	if err == nil || signalbox.KindOf(err) != kind || signalbox.CodeOf(err) != code {
		tb.Errorf("got %v (kind %d, code %s), want kind %d, code %s", err, signalbox.KindOf(err), signalbox.CodeOf(err), kind, code)
	}
}

func TestAddChangeRemove(t *testing.T) {
	r := &recorder{}
	dir := t.TempDir()
	w := begin(t, dir, Config{Max: 2}, []string{"box1"}, only(r))
	w.wait(t, w.put(t, 0, `{"n":"old"}`))
	spec := simple("{field.n}")
	spec.Secrets = Secrets{HMAC: "very secret key"}
	s, err := w.m.Add(t.Context(), spec, "anna")
	if err != nil {
		t.Fatal(err)
	}
	if s.CreatedBy != "anna" || s.FromFile || s.Spec.Secrets != (Secrets{}) || !slices.Equal(s.HasSecrets, []string{"secret"}) ||
		s.Spec.Queue.MaxAge != DefaultMaxAge || s.Spec.Parallel != 1 || s.Behind != 0 {
		t.Errorf("the status is %+v", s)
	}
	w.put(t, 0, `{"n":"one"}`)
	if got := r.bodies(t, 1); got[0] != "one" {
		t.Errorf("got %q; nothing old is sent", got)
	}
	_, err = w.m.Add(t.Context(), spec, "")
	wantKind(t, err, signalbox.KindConflict, "name_taken")
	bad := spec
	bad.Name, bad.To = "bad", "ftp://x"
	_, err = w.m.Add(t.Context(), bad, "")
	wantKind(t, err, signalbox.KindInvalid, "invalid_target")
	files := spec
	files.Name, files.To, files.TLS.CA = "files", "https://x/", "/etc/passwd"
	_, err = w.m.Add(t.Context(), files, "")
	wantKind(t, err, signalbox.KindForbidden, "file_not_allowed")
	second := spec
	second.Name = "second"
	if _, err := w.m.Add(t.Context(), second, ""); err != nil {
		t.Fatal(err)
	}
	third := spec
	third.Name = "third"
	_, err = w.m.Add(t.Context(), third, "")
	wantKind(t, err, signalbox.KindLimited, "too_many_forwarders")
	if err := w.m.Remove(t.Context(), "second"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, w.m.Remove(t.Context(), "second"), signalbox.KindNotFound, "forwarder_not_found")

	// A pause, and a change in it, lose nothing.
	if err := w.m.Pause(t.Context(), "to", true); err != nil {
		t.Fatal(err)
	}
	if s, err := w.m.Get("to"); err != nil || s.State != StatePaused {
		t.Errorf("right after a pause the status is %+v, %v", s, err)
	}
	f := w.m.all["to"]
	w.until(t, "to", "at rest", func(*Status) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.state == StatePaused
	})
	w.put(t, 0, `{"n":"two"}`)
	if _, err := w.m.Change(t.Context(), "to", func(s *Spec) error { s.Name = "else"; return nil }); err == nil {
		t.Error("the name was changed")
	}
	if _, err := w.m.Change(t.Context(), "to", func(*Spec) error { return errFake }); !errors.Is(err, errFake) {
		t.Errorf("the error of a change is %v", err)
	}
	s, err = w.m.Change(t.Context(), "to", func(s *Spec) error {
		if s.Secrets.HMAC != "very secret key" {
			t.Errorf("a change sees the secret %q", s.Secrets.HMAC)
		}
		s.Template, s.Paused = "changed {field.n}", false
		return nil
	})
	if err != nil || s.State == StatePaused || s.Spec.Paused {
		t.Fatalf("%+v, %v", s, err)
	}
	if got := r.bodies(t, 2); got[1] != "changed two" {
		t.Errorf("got %q", got)
	}

	// A restart goes on where it was.
	w.settled(t, "to", w.log.Committed())
	w.end()
	if db, err := os.ReadFile(dir + "/signalbox.db"); err != nil || bytes.Contains(db, []byte("very secret")) {
		t.Errorf("the database holds the secret, or %v", err)
	}
	w = begin(t, dir, Config{Max: 2}, []string{"box1"}, only(r))
	s, err = w.m.Get("to")
	if err != nil || s.CreatedBy != "anna" || !slices.Equal(s.HasSecrets, []string{"secret"}) || s.Sent != 2 {
		t.Errorf("after a restart: %+v, %v", s, err)
	}
	w.put(t, 0, `{"n":"three"}`)
	if got := r.bodies(t, 3); got[2] != "changed three" || r.messages()[2].Redelivered {
		t.Errorf("got %q", got)
	}
}

func TestFileAndClash(t *testing.T) {
	r := &recorder{}
	dir := t.TempDir()
	w := begin(t, dir, Config{}, []string{"box1"}, only(r))
	if _, err := w.m.Add(t.Context(), simple("api {field.n}"), "anna"); err != nil {
		t.Fatal(err)
	}
	w.end()
	file := simple("file {field.n}")
	other := file
	other.Name = "other"
	cfg := Config{File: []Spec{file, other}}
	trusted := false
	w = begin(t, dir, cfg, []string{"box1"}, func(_ *Spec, ok bool) (Target, error) {
		r.set(func() { trusted = ok })
		return r, nil
	})
	list := w.m.List()
	if len(list) != 3 || list[0].Spec.Name != "other" || list[1].Spec.Name != "to" || !list[1].FromFile || list[2].Spec.Name != "to (api)" ||
		list[2].FromFile || list[2].State != StatePaused || !strings.Contains(list[2].Fault, "configuration file") {
		t.Errorf("the list is %+v", list)
	}
	w.put(t, 0, `{"n":1}`)
	r.bodies(t, 2)
	r.set(func() {
		if !trusted {
			t.Error("the file's target is not trusted")
		}
	})
	wantKind(t, w.m.Pause(t.Context(), "to", true), signalbox.KindForbidden, "forwarder_from_file")
	wantKind(t, w.m.Remove(t.Context(), "to"), signalbox.KindForbidden, "forwarder_from_file")
	wantKind(t, w.m.Pause(t.Context(), "to (api)", true), signalbox.KindConflict, "name_taken")
	if err := w.m.Remove(t.Context(), "to (api)"); err != nil {
		t.Fatal(err)
	}
	if len(w.m.List()) != 2 {
		t.Errorf("the list is %+v", w.m.List())
	}
	w.settled(t, "to", w.log.Committed())
	w.end()

	// One that leaves the file loses its place: it begins at the end when it comes back.
	w = begin(t, dir, Config{File: []Spec{other}}, []string{"box1"}, only(r))
	w.wait(t, w.put(t, 0, `{"n":2}`))
	w.settled(t, "other", w.log.Committed())
	w.end()
	w = begin(t, dir, cfg, []string{"box1"}, only(r))
	w.put(t, 0, `{"n":3}`)
	w.settled(t, "to", w.log.Head())
	w.settled(t, "other", w.log.Head())
	if got := r.bodies(t, 5); slices.Contains(got[3:], "file 2") {
		t.Errorf("got %q", got)
	}
	if _, err := New(t.Context(), Config{File: []Spec{other, other}}, w.m.parts); err == nil || !strings.Contains(err.Error(), "unique") {
		t.Errorf("two of one name give %v", err)
	}
}

func TestKindsAndChoice(t *testing.T) {
	r := &recorder{}
	spec := simple("{device} {kind} {field.n}")
	spec.Devices, spec.Kinds = []string{"box1", "sensor1", "unborn"}, []string{"telemetry", "presence"}
	spec.Types = []string{"sensor"}
	w := begin(t, t.TempDir(), Config{File: []Spec{spec}}, []string{"box1", "sensor1", "sensor2"}, only(r))
	for i := range 3 {
		w.put(t, i, fmt.Sprintf(`{"n":%d}`, i))
		for _, kind := range []signalbox.EntryKind{signalbox.EntryPresence, signalbox.EntryAlert, signalbox.EntryImported, signalbox.EntryBroker} {
			w.append(t, &signalbox.Entry{Device: w.ids[i], Kind: kind, Body: []byte(`{"n":9}`)})
		}
	}
	s := w.settled(t, "to", w.log.Head())
	if got := r.bodies(t, 2); got[0] != "sensor1 telemetry 1" || got[1] != "sensor1 presence 9" {
		t.Errorf("got %q", got)
	}
	if s.Sent != 2 || s.Settled != 2 || s.Behind != 0 || s.State != StateFlowing {
		t.Errorf("the status is %+v", s)
	}
}

func TestTargetAway(t *testing.T) {
	r := &recorder{away: errors.New("no such host as secretpass123")}
	spec := simple("{field.n}")
	spec.Username, spec.Secrets.Password = "me", "secretpass123"
	w := begin(t, t.TempDir(), Config{File: []Spec{spec}}, []string{"box1"}, only(r))
	last := w.put(t, 0, `{"n":1}`)
	s := w.until(t, "to", "waiting", func(s *Status) bool { return s.State == StateWaiting && s.Behind > 0 })
	if s.Fault != "no such host as ***" || s.FaultAt.IsZero() {
		t.Errorf("the fault is %q at %v", s.Fault, s.FaultAt)
	}
	if got := w.m.Waiting(); len(got) != 1 || got[0] != "to: no such host as ***" {
		t.Errorf("waiting are %q", got)
	}
	_, err := w.m.Resend(t.Context(), "to", nil)
	if err != nil {
		t.Errorf("to resend nothing gives %v", err)
	}
	r.set(func() { r.away = nil })
	w.settled(t, "to", last)
	s = w.until(t, "to", "well", func(s *Status) bool { return s.Fault == "" })
	if r.messages()[0].Redelivered || s.State != StateFlowing || len(w.m.Waiting()) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestQueueLimits(t *testing.T) {
	r := &recorder{}
	spec := simple("{field.n}")
	spec.Queue.MaxEntries, spec.Paused = 10, true
	w := begin(t, t.TempDir(), Config{}, []string{"box1"}, only(r))
	if _, err := w.m.Add(t.Context(), spec, ""); err != nil {
		t.Fatal(err)
	}
	first := w.log.Committed()
	var last signalbox.Position
	for i := range 100 {
		last = w.put(t, 0, fmt.Sprintf(`{"n":%d}`, i))
	}
	w.wait(t, last)
	if err := w.m.Pause(t.Context(), "to", false); err != nil {
		t.Fatal(err)
	}
	s := w.settled(t, "to", last)
	if got := r.bodies(t, 10); got[0] != "90" || s.Skipped != int64(last-first)-10 {
		t.Errorf("got %q, %d were skipped", got, s.Skipped)
	}
}

func TestDeadLetters(t *testing.T) {
	r := &recorder{}
	refuse := true
	r.send = func(m *Message) error {
		switch n := string(m.Body); {
		case refuse && strings.HasPrefix(n, "bad"):
			return &Refused{Position: m.Position, Reason: "never " + n, Status: 400, Permanent: true}
		case refuse && strings.HasPrefix(n, "slow"):
			return &Refused{Position: m.Position, Reason: "later", Status: 503}
		}
		return nil
	}
	w := begin(t, t.TempDir(), Config{File: []Spec{simple("{field.n}")}, MaxDeadLetters: 4}, []string{"box1"}, only(r))
	var last signalbox.Position
	for _, n := range []string{"one", "bad1", "two", "slow1", "three", "bad2", "four", "bad3", "bad4"} {
		last = w.put(t, 0, `{"n":"`+n+`"}`)
	}
	s := w.settled(t, "to", last)
	if got := r.bodies(t, 4); !slices.Equal(got, []string{"one", "two", "three", "four"}) || s.Dead != 4 {
		t.Errorf("got %q, %d dead", got, s.Dead)
	}
	letters, err := w.m.DeadLetters(t.Context(), "to", 0, 0)
	if err != nil || len(letters) != 4 {
		t.Fatalf("%d dead letters, %v", len(letters), err)
	}
	if l := letters[3]; string(l.Body) != "slow1" || l.Attempts != 2 || l.Status != 503 || l.Reason != "later" || l.Device != "box1" {
		t.Errorf("a dead letter is %+v", l)
	}
	older, err := w.m.DeadLetters(t.Context(), "to", 1, letters[2].ID)
	if err != nil || len(older) != 1 || older[0].ID != letters[3].ID {
		t.Errorf("older are %+v, %v", older, err)
	}
	_, err = w.m.Resend(t.Context(), "to", []int64{letters[0].ID})
	wantKind(t, err, signalbox.KindConflict, "refused_again")
	_, err = w.m.Resend(t.Context(), "to", []int64{1 << 40})
	wantKind(t, err, signalbox.KindNotFound, "dead_letter_not_found")
	r.set(func() { refuse = false })
	w.until(t, "to", "flowing", func(s *Status) bool { return s.State == StateFlowing })
	if n, err := w.m.Resend(t.Context(), "to", []int64{letters[0].ID, letters[3].ID, letters[0].ID}); n != 2 || err != nil {
		t.Errorf("%d were sent again, %v", n, err)
	}
	got := r.bodies(t, 6)
	if !slices.Equal(got[4:], []string{"slow1", "bad4"}) || !r.messages()[4].Redelivered || r.messages()[4].Kind != "telemetry" {
		t.Errorf("got %q", got)
	}
	if n, err := w.m.DropDead(t.Context(), "to", []int64{letters[1].ID}); n != 1 || err != nil {
		t.Errorf("%d were dropped, %v", n, err)
	}
	if n, err := w.m.Resend(t.Context(), "to", nil); n != 1 || err != nil {
		t.Errorf("%d were sent again, %v", n, err)
	}
	if n, err := w.m.DropDead(t.Context(), "to", nil); n != 0 || err != nil {
		t.Errorf("%d were dropped, %v", n, err)
	}
	if s, err := w.m.Get("to"); err != nil || s.Dead != 0 || s.Cursor != last {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestPlay plays a replay into forwarders of both sorts, in between.
func TestPlay(t *testing.T) {
	for _, to := range []string{"tcp://192.0.2.1:1", "http://192.0.2.1/"} {
		t.Run(to, func(t *testing.T) {
			r := &recorder{}
			spec := simple("")
			spec.Format, spec.Template, spec.To, spec.Attempts = FormatJSON, "", to, 0
			w := begin(t, t.TempDir(), Config{File: []Spec{spec}}, []string{"box1"}, only(r))
			last := w.put(t, 0, `{"n":1}`)
			w.settled(t, "to", last)
			sink, err := w.m.Sink("to")
			if err != nil {
				t.Fatal(err)
			}
			if !sink.CarriesMark() {
				t.Error("JSON carries the mark")
			}
			failed := false
			r.set(func() {
				r.send = func(m *Message) error {
					switch n := string(m.Body); {
					case strings.Contains(n, `"n":"bad"`) && to[0] == 'h':
						return &Refused{Position: m.Position, Reason: "no", Permanent: true}
					case strings.Contains(n, `"n":"p3"`) && !failed:
						failed = true
						return errFake
					}
					return nil
				}
			})
			status := &replay.Status{Mark: replay.Mark{ID: "r1", Hub: "h1"}}
			var events []replay.Event
			for i, n := range []string{"p1", "bad", "p2", "p3", "p4"} {
				// Positions beyond what was sent: they must not be taken for the log's.
				events = append(events, replay.Event{Position: last + 100 + signalbox.Position(i), Device: "box1", Object: []byte(`{"n":"` + n + `"}`)})
			}
			if err := sink.Deliver(t.Context(), status, events); err != nil {
				t.Fatal(err)
			}
			if s, err := w.m.Get("to"); err != nil || s.Cursor != last {
				t.Errorf("the replay moved the cursor: %+v, %v", s, err)
			}
			w.settled(t, "to", w.put(t, 0, `{"n":2}`))
			order, again := []string{}, 0
			for _, m := range r.messages() {
				body := string(m.Body)
				n := body[strings.Index(body, `"n":`)+4:]
				n = n[:strings.IndexAny(n, "}")]
				if m.Redelivered {
					again++
				} else {
					order = append(order, n)
				}
				if (m.Replay == "r1") != strings.Contains(body, `"replay":{"id":"r1","hub":"h1"}`) {
					t.Errorf("the mark is wrong in %s", body)
				}
			}
			if order[0] != "1" || order[1] != `"p1"` || order[len(order)-1] != "2" || again == 0 {
				t.Errorf("first deliveries are %q, %d were marked", order, again)
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			r.set(func() { r.hold = make(chan struct{}) })
			if err := sink.Deliver(ended, status, events); !errors.Is(err, context.Canceled) {
				t.Errorf("a canceled delivery gives %v", err)
			}
			r.set(func() { close(r.hold); r.hold = nil })
			if err := sink.Tell(t.Context(), status); err != nil {
				t.Error(err)
			}
			if err := sink.Idle(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSinkRefuses(t *testing.T) {
	specs := []Spec{
		{Name: "paused", To: "tcp://192.0.2.1:1", Paused: true},
		{Name: "presence", To: "tcp://192.0.2.1:1", Kinds: []string{"presence"}},
		{Name: "unmarked", To: "tcp://192.0.2.1:1", Format: FormatViewer, Field: "temp"},
		{Name: "marked", To: "tcp://192.0.2.1:1", Format: FormatTemplate, Template: "{replay}"},
	}
	w := begin(t, t.TempDir(), Config{File: specs}, []string{"box1"}, only(&recorder{}))
	for _, test := range []struct{ name, code string }{
		{"paused", "forwarder_paused"}, {"presence", "no_telemetry"},
	} {
		_, err := w.m.Sink(test.name)
		wantKind(t, err, signalbox.KindConflict, test.code)
	}
	_, err := w.m.Sink("none")
	wantKind(t, err, signalbox.KindNotFound, "forwarder_not_found")
	for name, want := range map[string]bool{"unmarked": false, "marked": true} {
		if s, err := w.m.Sink(name); err != nil || s.CarriesMark() != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKillInAnOutage looks at what is marked after a kill while the target was away.
func TestKillInAnOutage(t *testing.T) {
	r := &recorder{}
	dir := t.TempDir()
	cfg := Config{File: []Spec{simple("{field.n}")}}
	w := begin(t, dir, cfg, []string{"box1"}, only(r))
	sent := w.put(t, 0, `{"n":1}`)
	w.settled(t, "to", sent)
	r.set(func() {
		r.away = errFake
		r.send = func(*Message) error { return errFake }
	})
	doubtful := w.put(t, 0, `{"n":2}`)
	w.until(t, "to", "waiting", func(s *Status) bool { return s.State == StateWaiting })
	w.wait(t, w.put(t, 0, `{"n":3}`))
	f := w.m.all["to"]
	w.until(t, "to", "stored", func(*Status) bool {
		f.place.mu.Lock()
		defer f.place.mu.Unlock()
		return f.place.known && f.place.stored == place{cursor: sent, sent: doubtful}
	})
	dir = w.copied(t)
	w.end()
	r.set(func() { r.away, r.send, r.got = nil, nil, nil })
	w = begin(t, dir, cfg, []string{"box1"}, only(r))
	w.settled(t, "to", w.log.Committed())
	got := r.messages()
	if len(got) != 2 || got[0].Position != doubtful || !got[0].Redelivered || got[1].Redelivered {
		t.Errorf("got %+v", got)
	}
}

func TestTargetsFault(t *testing.T) {
	r := &recorder{}
	var mu sync.Mutex
	var refuse error
	w := begin(t, t.TempDir(), Config{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, []string{"box1"}, func(*Spec, bool) (Target, error) {
		mu.Lock()
		defer mu.Unlock()
		if refuse != nil {
			return nil, refuse
		}
		return r, nil
	})
	refuse = signalbox.Wrap(signalbox.KindForbidden, "target_not_allowed", ErrTarget, "127.0.0.1 is loopback")
	_, err := w.m.Add(t.Context(), simple("x"), "")
	wantKind(t, err, signalbox.KindForbidden, "target_not_allowed")
	if len(w.m.List()) != 0 {
		t.Error("it is there")
	}
}
