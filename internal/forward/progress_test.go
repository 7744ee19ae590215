package forward

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/replay"
)

// sluggish is a target that takes its time for each message, and says of each that it has it.
type sluggish struct {
	discard
	takes time.Duration
}

func (s *sluggish) Open(_ context.Context, settled func(signalbox.Position)) (Sink, error) {
	s.settled = settled
	return s, nil
}

func (s *sluggish) Send(ctx context.Context, batch []Message) error {
	for i := range batch {
		select {
		case <-time.After(s.takes):
			s.settled(batch[i].Position)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// TestProgress has a receiver that takes a second for each message of a large batch: figures and place
// move meanwhile, on disk too, and after a kill that alone comes again which was not taken.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{File: []Spec{simple("{field.n}")}}
		w := begin(t, t.TempDir(), cfg, []string{"box1"}, only(&sluggish{takes: time.Second}))
		begun := w.log.Committed()
		const messages = 200
		for range messages {
			w.put(t, 0, `{"n":1}`)
		}
		w.wait(t, w.log.Head())
		last := signalbox.Position(0)
		for n := range 10 {
			time.Sleep(5 * time.Second)
			synctest.Wait() // the forwarder looks at the same moment
			s, err := w.m.Get("to")
			if err != nil || s.Cursor < last+4 || s.Sent < int64(5*n+3) || s.Settled != s.Sent || s.Redelivered != 0 || s.Fault != "" {
				t.Errorf("behind %d the status is %+v, %v", last, s, err)
			}
			if want := StateCatchingUp; n > 2 && s.State != want {
				t.Errorf("with messages that are old the state is %s, want %s", s.State, want)
			}
			last = s.Cursor
		}
		if last > begun+60 {
			t.Errorf("in 50 s it came from %d to %d", begun, last)
		}
		dir := w.copied(t)
		w.end()

		r := &recorder{}
		w = begin(t, dir, cfg, []string{"box1"}, only(r))
		w.settled(t, "to", begun+messages)
		if got := r.messages(); got[0].Position+2 < last || got[0].Position > last+1 || !got[0].Redelivered {
			t.Errorf("the place was %d; it goes on at %d", last, got[0].Position)
		}
		w.until(t, "to", "flowing", func(s *Status) bool { return s.State == StateFlowing })
		w.end()
	})
}

// TestMarksAfterKill kills the hub while a receiver has one batch of many in hand: no more than that
// carries the mark.
func TestMarksAfterKill(t *testing.T) {
	r := &recorder{hold: make(chan struct{})}
	cfg := Config{File: []Spec{simple("{field.n}")}, Max: smallLimits}
	w := begin(t, t.TempDir(), cfg, []string{"box1"}, only(r))
	w.put(t, 0, `{"n":1}`)
	w.until(t, "to", "sending", func(*Status) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.held > 0
	})
	const messages = 300
	for range messages - 1 {
		w.put(t, 0, `{"n":1}`)
	}
	w.wait(t, w.log.Head())
	f := w.m.all["to"]
	w.until(t, "to", "bound on disk", func(*Status) bool {
		f.place.mu.Lock()
		defer f.place.mu.Unlock()
		return f.place.known && !f.place.stored.flowing && f.place.dirty.IsZero()
	})
	dir := w.copied(t)
	w.end()

	r.set(func() { r.hold, r.got = nil, nil })
	w = begin(t, dir, cfg, []string{"box1"}, only(r))
	r.bodies(t, messages)
	marked := 0
	for i, m := range r.messages() {
		if m.Redelivered {
			marked++
		}
		if i == 0 && !m.Redelivered {
			t.Error("what was in hand comes again without the mark")
		}
	}
	if marked > w.m.limits.batch {
		t.Errorf("%d messages carry the mark; %d at most were handed over", marked, w.m.limits.batch)
	}
}

// committedAt is a log that ends at a position.
type committedAt struct {
	Log
	end signalbox.Position
}

func (c *committedAt) Committed() signalbox.Position { return c.end }

// TestBound asks how far messages may be sent until that is written anew.
func TestBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &committedAt{end: 1_000_000}
		f := newForwarder(&Manager{parts: Parts{Log: log}, limits: limits{ahead: 100}}, Spec{}, false)
		for _, step := range []struct {
			name     string
			after    time.Duration
			at, want signalbox.Position
		}{
			{"the first time", 0, 1000, 1000},
			{"at once", 0, 2000, 12_000},
			{"ten thousand in a tenth of a second", 100 * time.Millisecond, 12_000, 112_000},
			{"one in a second", time.Second, 12_001, 12_002},
			{"one in an hour", time.Hour, 12_002, 12_002},
			{"back", time.Second, 5000, 5000},
			{"at the end", time.Second, 999_900, 0},
			{"near the end", time.Second, 999_899, 999_899},
		} {
			time.Sleep(step.after)
			if got := f.bound(step.at); got != step.want {
				t.Errorf("%s: behind %d the bound is %d, want %d", step.name, step.at, got, step.want)
			}
		}
	})
}

// TestTellsNowAndThen has a receiver that refuses everything, and one that comes and goes: the log is
// told once a minute, and at the end of what was not told yet.
func TestTellsNowAndThen(t *testing.T) {
	for _, c := range []struct {
		name   string
		refuse func(m *Message, tries map[signalbox.Position]int) error
		want   map[string]int // lines that hold a text
		end    func(s *Status) bool
	}{
		{
			"refuses for good",
			func(m *Message, _ map[signalbox.Position]int) error {
				return &Refused{Position: m.Position, Reason: "who are you", Status: 401, Permanent: true, Usable: true}
			},
			map[string]int{
				"refused messages for good": 3, "messages=1 ": 2, "messages=298 ": 1, "the oldest were dropped": 3, "dropped=288": 1,
				"does not take": 0, "takes messages again": 0,
			},
			func(s *Status) bool { return s.Dead == 10 && s.DeadDropped == 290 },
		},
		{
			"comes and goes",
			func(m *Message, tries map[signalbox.Position]int) error {
				if tries[m.Position]++; tries[m.Position] == 1 {
					return &Refused{Position: m.Position, Reason: "not now", Status: 500, Usable: true}
				}
				return nil
			},
			map[string]int{"does not take": 2, "times=1\n": 2, "takes messages again": 2, "at times": 1, "times=298\n": 1, "for good": 0},
			func(s *Status) bool { return s.Settled == 300 && s.Dead == 0 },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				told, tries := &shared{}, map[signalbox.Position]int{}
				r := &recorder{send: func(m *Message) error { return c.refuse(m, tries) }}
				w := begin(t, t.TempDir(), Config{
					File: []Spec{simple("{field.n}")}, MaxDeadLetters: 10,
					Logger: slog.New(slog.NewTextHandler(told, nil)),
				}, []string{"box1"}, only(r))
				for n := range 300 {
					w.settled(t, "to", w.put(t, 0, `{"n":1}`))
					if n == 298 {
						time.Sleep(2 * tellEvery)
					}
				}
				time.Sleep(2 * tellEvery)
				w.end()
				s, err := w.m.Get("to")
				if err != nil || !c.end(&s) {
					t.Errorf("the status is %+v, %v", s, err)
				}
				for text, want := range c.want {
					if n := strings.Count(told.String(), text); n != want {
						t.Errorf("«%s» is told %d times, want %d", text, n, want)
					}
				}
				if t.Failed() {
					t.Logf("the log tells:\n%s", told.String())
				}
			})
		})
	}
}

// TestSequence numbers what is sent over UDP: over a pause the numbers go on, and what replays play
// has a run and numbers of its own.
func TestSequence(t *testing.T) {
	r := &recorder{}
	spec := simple("")
	spec.Format, spec.Template, spec.To, spec.Attempts, spec.Sequence = FormatJSON, "", "udp://192.0.2.1:1", 0, true
	w := begin(t, t.TempDir(), Config{}, []string{"box1"}, only(r))
	if _, err := w.m.Add(t.Context(), spec, ""); err != nil {
		t.Fatal(err)
	}
	sink, err := w.m.Sink("to")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"r1", "r1", "r2"} {
		w.settled(t, "to", w.put(t, 0, `{"n":1}`))
		events := []replay.Event{{Position: 1, Device: "box1", Object: []byte(`{}`)}, {Position: 2, Device: "box1", Object: []byte(`{}`)}}
		if err := sink.Deliver(t.Context(), &replay.Status{Mark: replay.Mark{ID: id, Hub: "h1"}}, events); err != nil {
			t.Fatal(err)
		}
		for _, paused := range []bool{true, false} {
			if err := w.m.Pause(t.Context(), "to", paused); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.settled(t, "to", w.put(t, 0, `{"n":1}`))
	last, count := map[string]uint64{}, 0
	for _, m := range r.messages() {
		var body struct {
			Seq uint64 `json:"seq"`
			Run string `json:"run"`
		}
		if err := json.Unmarshal(m.Body, &body); err != nil {
			t.Fatal(err)
		}
		if body.Seq != last[body.Run]+1 || strings.HasSuffix(body.Run, playedRun) != (m.Replay != "") {
			t.Errorf("behind %d of its run comes %s", last[body.Run], m.Body)
		}
		last[body.Run] = body.Seq
		count++
	}
	if count != 10 || len(last) != 2 {
		t.Errorf("%d messages came, of the runs %v", count, last)
	}
}
