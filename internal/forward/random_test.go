package forward

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// receiver is a target that fails in all ways, and the model of what a forwarder may do to it.
type receiver struct {
	mu     sync.Mutex
	rng    *rand.Rand
	epoch  int     // lives of the hub; sinks of older ones are cut off
	faults float64 // how often something goes wrong
	killed bool    // at least once: marks may be too many
	// poison are refused for good, shy positions the first times that often.
	poison map[signalbox.Position]bool
	shy    map[signalbox.Position]int

	handed    signalbox.Position // the highest that any Send was given
	end       signalbox.Position // the log's end at the last start
	settled   signalbox.Position // the highest that was reported in this life
	got       map[signalbox.Position]int
	unmarked  map[signalbox.Position]int
	bodies    map[signalbox.Position]string
	faultText []string
}

func newReceiver(seed uint64) *receiver {
	return &receiver{
		rng: rand.New(rand.NewPCG(seed, 7)), poison: map[signalbox.Position]bool{}, shy: map[signalbox.Position]int{},
		got: map[signalbox.Position]int{}, unmarked: map[signalbox.Position]int{}, bodies: map[signalbox.Position]string{},
	}
}

func (r *receiver) wrong(format string, args ...any) {
	if len(r.faultText) < 10 {
		r.faultText = append(r.faultText, fmt.Sprintf(format, args...))
	}
}

func (r *receiver) chance(p float64) bool { return r.rng.Float64() < p*r.faults }

var errFake = errors.New("something went wrong")

// fakeTarget is the receiver as one life of the hub sees it.
type fakeTarget struct {
	r     *receiver
	epoch int
}

func (t *fakeTarget) Close() error { return nil }

func (t *fakeTarget) Open(_ context.Context, settled func(signalbox.Position)) (Sink, error) {
	r := t.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epoch != t.epoch || r.chance(0.3) {
		return nil, errFake
	}
	s := &fakeSink{r: r, epoch: t.epoch, tell: settled, broken: make(chan struct{}), before: r.handed}
	return s, nil
}

// fakeSink settles late: at Flush, at a later Send, or by itself.
type fakeSink struct {
	r      *receiver
	epoch  int
	tell   func(signalbox.Position)
	broken chan struct{}
	err    error
	before signalbox.Position // handed by sinks before this one
	last   signalbox.Position // sent through this one
	work   sync.WaitGroup
	dead   bool
}

func (s *fakeSink) settle(p signalbox.Position) {
	s.r.settled = max(s.r.settled, p)
	tell := s.tell
	s.work.Go(func() { tell(p) })
}

// refused notes what a refusal does to a sink that goes on: all of the batch has been handed over, and
// comes again from the refused message on.
func (s *fakeSink) refused(batch []Message, i int, usable bool) {
	if usable {
		s.before, s.last = max(s.before, batch[len(batch)-1].Position), max(s.last, batch[i].Position-1)
	}
}

func (s *fakeSink) fail() error {
	s.dead = true
	return errFake
}

func (s *fakeSink) Send(_ context.Context, batch []Message) error {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epoch != s.epoch {
		return errFake
	}
	if s.dead {
		r.handed = max(r.handed, batch[len(batch)-1].Position) // how should the hub know
		return errFake
	}
	first := s.last == 0
	if r.chance(0.05) { // it breaks, and knows what cannot have left
		n := r.rng.IntN(len(batch))
		for i := range n {
			r.check(s, &batch[i], first && i == 0)
		}
		return &Unsent{From: batch[n].Position, Err: s.fail()}
	}
	for i := range batch {
		r.check(s, &batch[i], first && i == 0)
	}
	for i := range batch {
		m := &batch[i]
		if r.chance(0.002) {
			return s.fail() // the rest was sent, and never arrived
		}
		if r.poison[m.Position] {
			r.settled = max(r.settled, m.Position-1)
			usable := r.rng.IntN(2) == 0
			s.dead = !usable
			s.refused(batch, i, usable)
			return &Refused{Position: m.Position, Reason: "I never take this", Status: 400, Permanent: true, Usable: usable}
		}
		if r.shy[m.Position] > 0 {
			r.shy[m.Position]--
			r.settled = max(r.settled, m.Position-1)
			usable := r.rng.IntN(2) == 0
			s.dead = !usable
			s.refused(batch, i, usable)
			return &Refused{Position: m.Position, Reason: "not now", Status: 503, Usable: usable}
		}
		r.got[m.Position]++
		if !m.Redelivered {
			r.unmarked[m.Position]++
		}
		if have := r.bodies[m.Position]; have != "" && have != m.Name {
			r.wrong("position %d was of %s and is of %s", m.Position, have, m.Name)
		}
		r.bodies[m.Position] = m.Name
		s.last = m.Position
		if r.rng.IntN(10) == 0 {
			s.settle(m.Position)
		}
	}
	if r.faults == 0 || r.rng.IntN(3) == 0 {
		s.settle(s.last)
	}
	if r.chance(0.05) {
		s.dead, s.err = true, errFake
		close(s.broken)
	}
	return nil
}

// check holds a message that is handed over against the model. The caller holds mu.
func (r *receiver) check(s *fakeSink, m *Message, first bool) {
	if m.Position <= s.last {
		r.wrong("position %d comes behind %d", m.Position, s.last)
	}
	if !r.killed && first && m.Position <= r.settled {
		r.wrong("position %d is sent again although %d is settled", m.Position, r.settled)
	}
	switch {
	case m.Position <= s.before && !m.Redelivered:
		r.wrong("position %d was sent before (up to %d) and carries no mark", m.Position, s.before)
	case m.Position > s.before && m.Redelivered && (!r.killed || m.Position > r.end):
		r.wrong("position %d was never sent (up to %d, at the start %d) and carries the mark", m.Position, s.before, r.end)
	}
	r.handed = max(r.handed, m.Position)
}

func (s *fakeSink) Flush(context.Context) error {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if s.dead || s.r.epoch != s.epoch || s.r.chance(0.1) {
		return s.fail()
	}
	s.settle(s.last)
	return nil
}

func (s *fakeSink) Broken() <-chan struct{} { return s.broken }
func (s *fakeSink) Err() error              { return errFake }

func (s *fakeSink) Close() error {
	s.work.Wait()
	return nil
}

// TestNothingIsLost forwards to a receiver that fails in all ways, from a hub that is killed and
// restarted: everything arrives, in order, and what comes twice says so.
func TestNothingIsLost(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { nothingIsLost(t, seed) })
	}
}

func nothingIsLost(t *testing.T, seed uint64) {
	t.Helper()
	kills := seed%2 == 1
	r := newReceiver(seed)
	names := []string{"box1", "box2", "sensor1", "sensor2"}
	spec := Spec{
		Name: "to", To: "http://192.0.2.1/", Types: []string{"box"}, Attempts: 3,
		Backoff: Backoff{Min: 10 * time.Millisecond, Max: 20 * time.Millisecond}, Timeout: time.Second,
	}
	cfg := Config{File: []Spec{spec}, Max: smallLimits}
	life := func(dir string) *world {
		r.mu.Lock()
		r.epoch++
		target := &fakeTarget{r, r.epoch}
		r.settled = 0
		r.mu.Unlock()
		w := begin(t, dir, cfg, names, only(target))
		r.mu.Lock()
		r.end = w.start
		r.mu.Unlock()
		return w
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	want := map[signalbox.Position]bool{}
	w := life(t.TempDir())
	for round := range 12 {
		r.mu.Lock()
		r.faults = float64(round%3) / 2
		r.mu.Unlock()
		last := fill(t, w, r, rng, want)
		switch {
		case round%4 == 1 && kills:
			w.wait(t, last)
			w = kill(t, w, r, life)
		case round%4 == 3:
			w.wait(t, last)
			w.end() // in good order
			w = life(w.dir)
			r.mu.Lock()
			if !kills {
				r.settled = 0 // what a sink says while it is closed may be in time or not
			}
			r.mu.Unlock()
		}
	}
	r.mu.Lock()
	r.faults = 0
	r.mu.Unlock()
	w.settled(t, "to", slices.Max(slices.Collect(maps.Keys(want))))
	judge(t, w, r, want)
}

// fill appends messages, some of which the receiver will not take.
func fill(t *testing.T, w *world, r *receiver, rng *rand.Rand, want map[signalbox.Position]bool) (last signalbox.Position) {
	t.Helper()
	for range 100 + rng.IntN(200) {
		device := rng.IntN(4)
		e := signalbox.Entry{Device: w.ids[device], Kind: signalbox.EntryTelemetry, Body: fmt.Appendf(nil, `{"n":%d}`, rng.IntN(1000))}
		if rng.IntN(20) == 0 {
			e.Kind = signalbox.EntryAlert
		}
		// The receiver must know before it gets the message.
		r.mu.Lock()
		if err := w.log.Append(&e, history.Acked); err != nil {
			r.mu.Unlock()
			t.Fatal(err)
		}
		if device < 2 && e.Kind == signalbox.EntryTelemetry {
			want[e.Position] = true
			switch rng.IntN(60) {
			case 0:
				r.poison[e.Position] = true
			case 1:
				r.shy[e.Position] = 1 + rng.IntN(2)
			case 2:
				r.shy[e.Position] = 1000 // it becomes a dead letter
			}
		}
		r.mu.Unlock()
		last = e.Position
		if rng.IntN(10) == 0 {
			w.wait(t, last)
		}
	}
	return last
}

// kill ends a life of the hub as a kill would, and gives the next.
func kill(t *testing.T, w *world, r *receiver, life func(dir string) *world) *world {
	t.Helper()
	r.mu.Lock()
	r.epoch++ // from here on nothing arrives
	r.killed = true
	dir := w.copied(t)
	r.mu.Unlock()
	w.end()
	return life(dir)
}

// judge holds what arrived against what was sent.
func judge(t *testing.T, w *world, r *receiver, want map[signalbox.Position]bool) {
	t.Helper()
	dead := map[signalbox.Position]int{}
	for before := int64(0); ; {
		letters, err := w.m.DeadLetters(t.Context(), "to", 100, before)
		if err != nil {
			t.Fatal(err)
		}
		if len(letters) == 0 {
			break
		}
		for _, l := range letters {
			dead[l.Position]++
			if l.Attempts != 1 && l.Attempts != 3 && !r.killed || l.Device == "" || len(l.Body) == 0 || l.Reason == "" {
				t.Errorf("a dead letter is %+v", l)
			}
		}
		before = letters[len(letters)-1].ID
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, fault := range r.faultText {
		t.Error(fault)
	}
	again := 0
	for p := range want {
		gone := r.poison[p] || r.shy[p] > 10
		switch {
		case r.got[p] == 0 && !gone, gone && r.got[p] > 0:
			t.Errorf("position %d arrived %d times; refused for good: %v", p, r.got[p], gone)
		case gone && dead[p] != 1, !gone && dead[p] != 0:
			t.Errorf("position %d is %d dead letters; refused for good: %v", p, dead[p], gone)
		case r.unmarked[p] > 1:
			t.Errorf("position %d arrived %d times without a mark", p, r.unmarked[p])
		}
		if r.got[p] > 1 {
			again++
		}
	}
	for p := range r.got {
		if !want[p] {
			t.Errorf("position %d arrived, which nobody wanted", p)
		}
	}
	s, err := w.m.Get("to")
	if err != nil || s.Dead != int64(len(dead)) {
		t.Errorf("the status says %d dead letters of %d, %v", s.Dead, len(dead), err)
	}
	t.Logf("%d messages, %d of them more than once, %d dead letters, killed: %v; %d sent, %d settled", len(want), again, len(dead), r.killed, s.Sent, s.Settled)
}
