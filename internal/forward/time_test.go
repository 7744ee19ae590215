package forward

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// TestBackoff counts the tries while a target is away.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Duration
		began := time.Now()
		r := &recorder{}
		spec := simple("{field.n}")
		spec.Backoff = Backoff{Min: time.Second, Max: time.Minute}
		w := begin(t, t.TempDir(), Config{File: []Spec{spec}}, []string{"box1"}, func(*Spec, bool) (Target, error) {
			tries = append(tries, time.Since(began))
			return nil, errFake
		})
		time.Sleep(time.Hour)
		w.end()
		// At most all waits are half as long as they could be, at least as long.
		if n := len(tries); n < 60 || n > 2*60+8 {
			t.Errorf("there were %d tries in an hour: %v", n, tries)
		}
		for i := 1; i < min(len(tries), 6); i++ {
			most := time.Second << (i - 1)
			if d := tries[i] - tries[i-1]; d < most/2 || d > most {
				t.Errorf("wait %d took %v, want %v to %v", i, d, most/2, most)
			}
		}
		if r.opens != 0 {
			t.Error("it was opened")
		}
	})
}

// TestAfter leaves a receiver alone for as long as it asks for.
func TestAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		var at []time.Time
		r.send = func(m *Message) error {
			if at = append(at, time.Now()); len(at) == 1 {
				return &Refused{Position: m.Position, Reason: "busy", Status: 429, After: 10 * time.Minute}
			}
			return nil
		}
		spec := simple("{field.n}")
		w := begin(t, t.TempDir(), Config{File: []Spec{spec}}, []string{"box1"}, only(r))
		w.wait(t, w.put(t, 0, `{"n":1}`))
		time.Sleep(time.Hour)
		w.end()
		if len(at) != 2 || at[1].Sub(at[0]) < 10*time.Minute || at[1].Sub(at[0]) > 11*time.Minute || len(r.got) != 1 || !r.got[0].Redelivered {
			t.Errorf("it was tried at %v", at)
		}
	})
}

func TestMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		spec := simple("{field.n}")
		spec.Paused, spec.Queue.MaxAge = true, time.Hour
		w := begin(t, t.TempDir(), Config{}, []string{"box1"}, only(r))
		if _, err := w.m.Add(t.Context(), spec, ""); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			w.wait(t, w.put(t, 0, `{"n":"old"}`))
		}
		time.Sleep(59 * time.Minute)
		w.wait(t, w.put(t, 0, `{"n":"new"}`))
		time.Sleep(2 * time.Minute)
		if err := w.m.Pause(t.Context(), "to", false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		s, err := w.m.Get("to")
		if err != nil || len(r.got) != 1 || string(r.got[0].Body) != "new" || s.Skipped != 5 || s.Behind != 0 {
			t.Errorf("got %v, %+v, %v", r.got, s, err)
		}
		w.end()
	})
}

// TestNoneWaitsForAnother has two targets that take nothing, whose forwarders have all turns to read,
// and one that does.
func TestNoneWaitsForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var specs []Spec
		targets := map[string]*recorder{}
		hold := make(chan struct{})
		for _, name := range []string{"stuck1", "stuck2", "well"} {
			spec := simple("{field.n}")
			spec.Name, spec.Paused = name, true
			specs = append(specs, spec)
			targets[name] = &recorder{}
		}
		targets["stuck1"].hold, targets["stuck2"].hold = hold, hold
		w := begin(t, t.TempDir(), Config{Max: smallLimits}, []string{"box1"}, func(spec *Spec, _ bool) (Target, error) { return targets[spec.Name], nil })
		for _, spec := range specs {
			if _, err := w.m.Add(t.Context(), spec, ""); err != nil {
				t.Fatal(err)
			}
		}
		const messages = 500
		for range messages {
			w.put(t, 0, `{"n":1}`)
		}
		w.wait(t, w.log.Head())
		for _, spec := range specs {
			if err := w.m.Pause(t.Context(), spec.Name, false); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		if n := len(targets["well"].messages()); n != messages {
			t.Errorf("%d of %d messages arrived", n, messages)
		}
		close(hold)
		time.Sleep(time.Minute)
		for name, r := range targets {
			got := r.messages()
			for i := 1; i < len(got); i++ {
				if got[i].Position != got[i-1].Position+1 {
					t.Errorf("%s: position %d comes behind %d", name, got[i].Position, got[i-1].Position)
				}
			}
			if len(got) != messages {
				t.Errorf("%s: %d of %d messages arrived", name, len(got), messages)
			}
		}
		w.end()
	})
}

// countingLog counts how often the log is read.
type countingLog struct {
	Log
	reads atomic.Int64
}

func (l *countingLog) Since(ctx context.Context, q history.SinceQuery, yield func(*signalbox.Entry) error) error {
	l.reads.Add(1)
	return l.Log.Since(ctx, q, yield)
}

// slow is a target that takes its time for each batch.
type slow struct{ discard }

func (s *slow) Open(_ context.Context, settled func(signalbox.Position)) (Sink, error) {
	s.settled = settled
	return s, nil
}

func (s *slow) Send(ctx context.Context, batch []Message) error {
	time.Sleep(2 * parkAfter)
	return s.discard.Send(ctx, batch)
}

// TestSlowReceiver has a receiver that is slower than the log can be read: each beginning to read
// costs something, and has to be worth that.
func TestSlowReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &slow{}
		w := begin(t, t.TempDir(), Config{Max: smallLimits}, []string{"box1"}, only(target))
		log := &countingLog{Log: w.log}
		w.m.parts.Log = log
		spec := simple("{field.n}")
		spec.Paused = true
		if _, err := w.m.Add(t.Context(), spec, ""); err != nil {
			t.Fatal(err)
		}
		const messages = 700 // a hundred batches
		for range messages {
			w.put(t, 0, `{"n":1}`)
		}
		w.wait(t, w.log.Head())
		if err := w.m.Pause(t.Context(), "to", false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		w.end()
		if n := log.reads.Load(); target.n != messages || n > 100/queueBatches+5 {
			t.Errorf("%d of %d messages arrived; the log was read %d times", target.n, messages, n)
		}
	})
}
