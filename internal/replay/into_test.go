package replay

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
)

// closing is a sink that is closed at the end.
type closing struct {
	*sink
	closed int
}

func (c *closing) Close() error {
	c.closed++
	return nil
}

// TestStartInto: the manager plays by itself, and all ends when Run does.
func TestStartInto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(every(10, time.Second))
		into := func(o Options) (*closing, Status, error) {
			s := &closing{sink: newSink()}
			status, err := m.StartInto(o, s)
			return s, status, err
		}
		early, _, err := into(Options{})
		if signalbox.CodeOf(err) != "no_hub" || early.closed != 1 {
			t.Errorf("before Run: %v, closed %d times", err, early.closed)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		synctest.Wait()

		fast, made, err := into(Options{Into: "forwarder site"})
		if err != nil || made.Into != "forwarder site" {
			t.Fatalf("%+v, %v", made, err)
		}
		synctest.Wait()
		if s, err := m.Get(made.ID); err != nil || s.State != Ended || s.Reason != ReasonDone || s.Sent != 10 || len(fast.events) != 10 || fast.closed != 1 {
			t.Errorf("it stands as %+v, %v, with %d events, closed %d times", s, err, len(fast.events), fast.closed)
		}

		unmarked := &closing{sink: newSink()}
		unmarked.unmarked = true
		if _, err := m.StartInto(Options{}, unmarked); signalbox.CodeOf(err) != "replay_unmarked" {
			t.Errorf("without room for the mark: %v", err)
		}
		if _, err := m.StartInto(Options{Unmarked: true}, unmarked); err != nil {
			t.Errorf("unmarked: %v", err)
		}

		broken := &closing{sink: newSink()}
		broken.hook = func(*sink) error { return errors.New("the target is away") }
		made, err = m.StartInto(Options{}, broken)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s, err := m.Get(made.ID); err != nil || s.Reason != ReasonFailed || s.Fault != "the target is away" || broken.closed != 1 {
			t.Errorf("a broken sink leaves %+v, %v", s, err)
		}

		slow, made, err := into(Options{Speed: 1})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := m.Play(t.Context(), made.ID, newSink(), Resume{}, idle); signalbox.CodeOf(err) != "replay_taken" {
			t.Errorf("somebody else listens: %v", err)
		}
		paused := true
		if s, err := m.Change(made.ID, Change{Paused: &paused}); err != nil || s.State != Paused {
			t.Errorf("paused: %+v, %v", s, err)
		}
		stopped, second, err := into(Options{Speed: 1})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := m.Stop(second.ID); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if stopped.closed != 1 {
			t.Errorf("a stopped replay closed its sink %d times", stopped.closed)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if s, err := m.Get(made.ID); err != nil || s.State != Ended || s.Reason != ReasonStopped || slow.closed != 1 {
			t.Errorf("after Run: %+v, %v, closed %d times", s, err, slow.closed)
		}
	})
}

// stuck is a sink that takes nothing.
type stuck struct{ *closing }

// Deliver waits for the end of ctx.
func (stuck) Deliver(ctx context.Context, _ *Status, _ []Event) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestStopStuck holds that a replay that is stopped does not wait for a sink that takes nothing.
func TestStopStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(every(10, time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		synctest.Wait()
		s := stuck{&closing{sink: newSink()}}
		made, err := m.StartInto(Options{Into: "forwarder site"}, s)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := m.Stop(made.ID); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if s.closed != 1 {
			t.Errorf("the sink was closed %d times", s.closed)
		}
		if status, err := m.Get(made.ID); err != nil || status.Reason != ReasonStopped || status.Fault != "" || status.Sent != 0 {
			t.Errorf("it stands as %+v, %v", status, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
