package forward

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
)

// TestUnsent has a receiver to which there is no connection for a while: what never left is not
// counted, carries no mark, and the forwarder is not said to flow.
func TestUnsent(t *testing.T) {
	r := &recorder{away: errFake}
	spec := simple("{field.n}")
	dir := t.TempDir()
	cfg := Config{File: []Spec{spec}}
	w := begin(t, dir, cfg, []string{"box1"}, only(r))
	for n := range 3 {
		w.put(t, 0, fmt.Sprintf(`{"n":%d}`, n))
	}
	w.wait(t, w.log.Head())
	tries, flowed := 0, 0
	r.set(func() {
		r.away = nil
		r.send = func(m *Message) error {
			if tries++; tries > 1 && w.m.all["to"].stateNow() != StateWaiting {
				flowed++
			}
			return &Unsent{From: m.Position, Err: errFake}
		}
	})
	s := w.until(t, "to", "tried", func(*Status) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return tries > 5
	})
	if s.Sent != 0 || s.Redelivered != 0 || s.Reconnects != 0 || flowed > 0 {
		t.Errorf("it flowed %d times: %+v", flowed, s)
	}
	w.end()
	r.set(func() {
		r.send = func(m *Message) error { // the second is begun, the third is not
			if string(m.Body) == "1" {
				r.send = nil
				return &Unsent{From: m.Position + 1, Err: errFake}
			}
			return nil
		}
	})
	w = begin(t, dir, cfg, []string{"box1"}, only(r))
	r.bodies(t, 3)
	for i, m := range r.messages() {
		if m.Redelivered != (i == 1) {
			t.Errorf("message %d carries the mark: %v", i, m.Redelivered)
		}
	}
	for range 2 {
		w.settled(t, "to", w.put(t, 0, `{"n":4}`))
	}
	if s = w.until(t, "to", "flowing", func(s *Status) bool { return s.State == StateFlowing }); s.Sent != 6 || s.Redelivered != 1 || s.Settled != 5 || s.Reconnects != 1 {
		t.Errorf("the status is %+v", s)
	}
}

// TestRefusedAll has a receiver that refuses everything, and is of use all the same: each message is a
// dead letter, and the log is read once.
func TestRefusedAll(t *testing.T) {
	r := &recorder{}
	refuse := true
	r.send = func(m *Message) error {
		if refuse && m.Position%10 != 0 {
			return &Refused{Position: m.Position, Reason: "who are you", Status: 401, Permanent: true, Usable: true}
		}
		return nil
	}
	spec := simple("")
	spec.Format, spec.Template, spec.Paused = FormatJSON, "", true
	w := begin(t, t.TempDir(), Config{}, []string{"box1"}, only(r))
	log := &countingLog{Log: w.log}
	w.m.parts.Log = log
	if _, err := w.m.Add(t.Context(), spec, ""); err != nil {
		t.Fatal(err)
	}
	begun := w.log.Committed()
	const messages = 50
	for range messages {
		w.put(t, 0, `{"n":1}`)
	}
	w.wait(t, w.log.Head())
	if err := w.m.Pause(t.Context(), "to", false); err != nil {
		t.Fatal(err)
	}
	s := w.settled(t, "to", begun+messages)
	if s.Dead != messages*9/10 || r.opens != 1 || log.reads.Load() > 2 {
		t.Errorf("there are %d dead letters of %d; it was opened %d times, the log read %d times", s.Dead, messages, r.opens, log.reads.Load())
	}
	got := r.messages()
	for i := range got {
		if m := &got[i]; !m.Redelivered || !strings.Contains(string(m.Body), `"redelivered":true`) || m.Position != begun-begun%10+signalbox.Position(10*(i+1)) {
			t.Errorf("position %d came as %d: %s", m.Position, i, m.Body)
		}
	}

	// The dead letters are refused again, and then taken.
	_, err := w.m.Resend(t.Context(), "to", nil)
	wantKind(t, err, signalbox.KindConflict, "refused_again")
	r.set(func() { refuse = false })
	if n, err := w.m.Resend(t.Context(), "to", nil); err != nil || n != messages*9/10 || r.opens != 1 {
		t.Errorf("%d were sent again, %v; it was opened %d times", n, err, r.opens)
	}
}

// TestResendNeedsAnswers has a forwarder with dead letters changed to a transport that cannot say what
// arrives: they stay.
func TestResendNeedsAnswers(t *testing.T) {
	r := &recorder{}
	r.send = func(m *Message) error {
		return &Refused{Position: m.Position, Reason: "never", Permanent: true}
	}
	w := begin(t, t.TempDir(), Config{}, []string{"box1"}, only(r))
	if _, err := w.m.Add(t.Context(), simple("{field.n}"), ""); err != nil {
		t.Fatal(err)
	}
	w.settled(t, "to", w.put(t, 0, `{"n":1}`))
	r.set(func() { r.send = nil })
	for _, to := range []string{"tcp://192.0.2.1:1", "tcp-listen://127.0.0.1:1", "udp://192.0.2.1:1", "ws://192.0.2.1/"} {
		_, err := w.m.Change(t.Context(), "to", func(s *Spec) error {
			s.To, s.Attempts = to, 0
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.m.Resend(t.Context(), "to", nil)
		wantKind(t, err, signalbox.KindConflict, "resend_not_possible")
	}
	if s, err := w.m.Get("to"); err != nil || s.Dead != 1 || len(r.messages()) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// silent is a target that takes everything and says nothing of it until it is told to, or leaves.
type silent struct {
	mu      sync.Mutex
	settled func(signalbox.Position)
	last    signalbox.Position
	opens   int
	broken  chan struct{}
	wait    chan struct{} // Open returns when it can be received from
}

func (d *silent) Open(ctx context.Context, settled func(signalbox.Position)) (Sink, error) {
	select {
	case <-d.wait:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settled, d.broken = settled, make(chan struct{})
	d.opens++
	return d, nil
}

func (d *silent) Send(_ context.Context, batch []Message) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = batch[len(batch)-1].Position
	return nil
}

func (d *silent) Flush(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (d *silent) Broken() <-chan struct{} { return d.broken }

func (d *silent) Err() error {
	select {
	case <-d.broken:
		return errFake
	default:
		return nil
	}
}

func (d *silent) Close() error { return nil }

// TestSilence has a receiver that never acknowledges: the status says so, until it does.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := make(chan struct{})
		close(wait)
		d := &silent{wait: wait}
		spec := simple("{cursor}")
		spec.To, spec.Ack, spec.Attempts = "tcp://192.0.2.1:1", true, 0
		w := begin(t, t.TempDir(), Config{File: []Spec{spec}}, []string{"box1"}, only(d))
		status := func() Status {
			s, err := w.m.Get("to")
			if err != nil {
				t.Error(err)
			}
			return s
		}
		time.Sleep(time.Hour)
		w.put(t, 0, `{"n":1}`)
		for range 25 {
			time.Sleep(time.Second)
			w.put(t, 0, `{"n":1}`)
			if s := status(); s.State != StateFlowing || s.Fault != "" {
				t.Errorf("the status is %+v", s)
			}
		}
		time.Sleep(10 * time.Second)
		if s := status(); s.State != StateWaiting || s.Fault != "the receiver has not acknowledged anything for 30s" {
			t.Errorf("the status is %s, %q", s.State, s.Fault)
		}
		w.put(t, 0, `{"n":1}`) // does not change it
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := status(); s.State != StateWaiting || s.Fault == "" || d.opens != 1 {
			t.Errorf("the status is %s, %q", s.State, s.Fault)
		}
		synctest.Wait()
		d.settled(d.last)
		time.Sleep(time.Second)
		if s := status(); s.State != StateFlowing || s.Fault != "" || s.Behind != 0 {
			t.Errorf("the status is %+v", s)
		}
		w.end()
	})
}

// TestLastReceiverLeaves has a listening forwarder whose receiver leaves: that is no fault.
func TestLastReceiverLeaves(t *testing.T) {
	d := &silent{wait: make(chan struct{}, 1)}
	d.wait <- struct{}{}
	spec := simple("{field.n}")
	spec.To, spec.Attempts, spec.Backoff = "tcp-listen://127.0.0.1:1", 0, Backoff{Min: time.Minute, Max: time.Minute}
	w := begin(t, t.TempDir(), Config{File: []Spec{spec}}, []string{"box1"}, only(d))
	w.until(t, "to", "flowing", func(s *Status) bool { return s.State == StateFlowing })
	close(d.broken)
	s := w.until(t, "to", "at its end", func(s *Status) bool { return s.State != StateFlowing })
	if s.State != StateListening || s.Fault != "" {
		t.Errorf("the status is %s, %q", s.State, s.Fault)
	}
}

// TestUnsentIs holds what an Unsent is: the error that it holds.
func TestUnsentIs(t *testing.T) {
	msgs := []Message{{Position: 3}, {Position: 5}, {Position: 9}}
	for from, want := range map[signalbox.Position]int{1: 0, 3: 0, 4: 1, 9: 2, 10: 3} {
		err := error(&Unsent{From: from, Err: &Refused{Position: 3, Reason: "no"}})
		if _, ok := errors.AsType[*Refused](err); !ok || err.Error() != "no" || begunOf(msgs, err) != want {
			t.Errorf("from %d: %v, %d were begun; want %d", from, err, begunOf(msgs, err), want)
		}
	}
	if n := begunOf(msgs, errFake); n != len(msgs) || !slices.IsSortedFunc(msgs, func(a, b Message) int { return byPosition(a, b.Position) }) {
		t.Errorf("%d were begun", n)
	}
}
