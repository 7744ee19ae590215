package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// past is a history in memory.
type past struct {
	entries []signalbox.Entry
	open    atomic.Int32 // scans under way
	most    atomic.Int32
	scans   atomic.Int32
	fault   error // at the end
}

func (p *past) Committed() signalbox.Position { return signalbox.Position(len(p.entries)) }

func (p *past) ScanRange(ctx context.Context, q history.RangeQuery, yield func(*signalbox.Entry) error) error {
	p.scans.Add(1)
	if n := p.open.Add(1); n > p.most.Load() {
		p.most.Store(n)
	}
	defer p.open.Add(-1)
	for _, e := range p.entries {
		if e.Position <= q.After || e.Position > q.Until || q.Devices != nil && !slices.Contains(q.Devices, e.Device) ||
			!q.From.IsZero() && e.TimeMicros < q.From.UnixMicro() || !q.To.IsZero() && e.TimeMicros >= q.To.UnixMicro() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := yield(&e); err != nil {
			return err
		}
	}
	return p.fault
}

// base is when the past of these tests begins.
var base = time.Date(2020, 1, 2, 3, 4, 5, 678_000_000, time.UTC)

// add appends a message of the device, received and measured so long after base.
func (p *past) add(device signalbox.DeviceID, received, measured time.Duration) {
	n := len(p.entries) + 1
	p.entries = append(p.entries, signalbox.Entry{
		Position: signalbox.Position(n), Device: device, Kind: signalbox.EntryTelemetry,
		ReceivedMicros: base.Add(received).UnixMicro(), TimeMicros: base.Add(measured).UnixMicro(), Body: fmt.Appendf(nil, `{"n":%d}`, n),
	})
}

// every gives a past of n messages, one each interval.
func every(n int, interval time.Duration) *past {
	p := &past{}
	for i := range n {
		at := time.Duration(i) * interval
		p.add(signalbox.DeviceID(i%3+1), at, at)
	}
	return p
}

// seen is an event, and when it came.
type seen struct {
	Event
	came time.Duration
}

// sink gathers events.
type sink struct {
	began    time.Time
	events   []seen
	told     []string
	idles    int
	unmarked bool
	slow     time.Duration       // each delivery takes so long
	hook     func(s *sink) error // after each delivery
	text     bytes.Buffer        // all that came
	heard    func(news string)   // of what it is told
	marks    map[Mark]struct{}
	batches  []int
}

func newSink() *sink { return &sink{began: time.Now(), marks: map[Mark]struct{}{}} }

func (s *sink) CarriesMark() bool { return !s.unmarked }

func (s *sink) Deliver(_ context.Context, status *Status, events []Event) error {
	s.marks[status.Mark] = struct{}{}
	s.batches = append(s.batches, len(events))
	for _, e := range events {
		e.Object = slices.Clone(e.Object)
		s.events = append(s.events, seen{e, time.Since(s.began)})
		fmt.Fprintf(&s.text, "%d %s %d %d %s\n", e.Position, e.Device, e.TimeMicros, e.ReceivedMicros, e.Object)
	}
	if s.slow > 0 {
		time.Sleep(s.slow)
	}
	if s.hook != nil {
		return s.hook(s)
	}
	return nil
}

func (s *sink) Tell(_ context.Context, status *Status) error {
	s.told = append(s.told, string(status.State))
	if s.heard != nil {
		s.heard(string(status.State))
	}
	return nil
}

func (s *sink) Idle(context.Context) error {
	s.idles++
	return nil
}

func manager(p History) *Manager {
	return New(Config{History: p, Hub: "hub", Max: 3, NameOf: func(id signalbox.DeviceID) string {
		if id == 9 {
			return "" // removed
		}
		return fmt.Sprintf("d%d", id)
	}})
}

func start(t *testing.T, m *Manager, o Options) Status {
	t.Helper()
	s, err := m.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const idle = 15 * time.Second

// play plays to the end.
func play(t *testing.T, m *Manager, o Options, s *sink) Status {
	t.Helper()
	made := start(t, m, o)
	if err := m.Play(t.Context(), made.ID, s, Resume{}, idle); err != nil {
		t.Fatal(err)
	}
	ended, err := m.Get(made.ID)
	if err != nil {
		t.Fatal(err)
	}
	return ended
}

func (s *sink) positions() []signalbox.Position {
	var all []signalbox.Position
	for _, e := range s.events {
		all = append(all, e.Position)
	}
	return all
}

func upTo(from, to int) []signalbox.Position {
	var all []signalbox.Position
	for p := from; p <= to; p++ {
		all = append(all, signalbox.Position(p))
	}
	return all
}

func TestPacing(t *testing.T) {
	tests := []struct {
		name    string
		speed   float64
		seconds []float64 // at which the messages come
	}{
		{"as it was", 1, []float64{0, 1, 2, 3, 4}},
		{"ten times", 10, []float64{0, 0.1, 0.2, 0.3, 0.4}},
		{"a thousand times", 1000, []float64{0, 0.001, 0.002, 0.003, 0.004}},
		{"half", 0.5, []float64{0, 2, 4, 6, 8}},
		{"as fast as possible", 0, []float64{0, 0, 0, 0, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSink()
				status := play(t, manager(every(5, time.Second)), Options{Speed: tt.speed}, s)
				if status.State != Ended || status.Reason != ReasonDone || status.Sent != 5 || !status.At.Equal(base.Add(4*time.Second)) {
					t.Errorf("it ended as %+v", status)
				}
				if len(s.events) != len(tt.seconds) {
					t.Fatalf("%d events, want %d", len(s.events), len(tt.seconds))
				}
				for i, want := range tt.seconds {
					if d := s.events[i].came - time.Duration(want*float64(time.Second)); d < 0 || d > 10*time.Microsecond {
						t.Errorf("event %d came after %s, want %gs", i, s.events[i].came, want)
					}
				}
				if want := []string{"playing", "ended"}; !slices.Equal(s.told, want) {
					t.Errorf("it was told %v, want %v", s.told, want)
				}
			})
		})
	}
}

// TestSleepsDoNotAddUp has a sink that takes a while for each message.
func TestSleepsDoNotAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSink()
		s.slow = 900 * time.Millisecond
		play(t, manager(every(100, time.Second)), Options{Speed: 1}, s)
		if last := s.events[99].came; last < 99*time.Second || last > 99*time.Second+time.Millisecond {
			t.Errorf("the last message came after %s", last)
		}
	})
}

// TestSlowSink has a sink that is slower than the past was: nothing is lost, and it is not
// flooded afterwards.
func TestSlowSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSink()
		s.hook = func(s *sink) error {
			if len(s.batches) == 1 {
				time.Sleep(time.Minute)
			}
			return nil
		}
		play(t, manager(every(300, time.Second)), Options{Speed: 1}, s)
		if !slices.Equal(s.positions(), upTo(1, 300)) {
			t.Fatalf("the sink got %v", s.positions())
		}
		if last, want := s.events[299].came, 60*time.Second+298*time.Second; last < want || last > want+time.Millisecond {
			t.Errorf("the last message came after %s, want %s", last, want)
		}
		if most := slices.Max(s.batches); most > 3 {
			t.Errorf("%d messages came at once", most)
		}
	})
}

func TestLogOrderAndLateData(t *testing.T) {
	p := &past{}
	p.add(1, 0, 0)
	p.add(2, 1*time.Second, 1*time.Second)
	p.add(1, 3*time.Second, 500*time.Millisecond)     // late, but received in the range
	p.add(9, 3*time.Second, 3*time.Second)            // of a device that was removed
	p.add(1, 50*time.Second, 2*time.Second)           // received after the range
	p.add(2, 51*time.Second, 51*time.Second)          // behind the range
	p.add(2, 3000*time.Second, 4*time.Second)         // received much later
	p.add(2, 3001*time.Second, 3500*time.Millisecond) // older than that
	tests := []struct {
		name    string
		options Options
		want    []signalbox.Position
		came    []time.Duration
	}{
		{"by receipt", Options{To: base.Add(10 * time.Second)}, []signalbox.Position{1, 2, 3, 5, 7, 8}, []time.Duration{0, 1, 3, 3, 4, 4}},
		{"by time", Options{To: base.Add(10 * time.Second), Pace: PaceTime}, []signalbox.Position{1, 2, 3, 5, 7, 8}, []time.Duration{0, 1, 1, 2, 4, 4}},
		{"one device", Options{To: base.Add(10 * time.Second), Devices: []signalbox.DeviceID{2}}, []signalbox.Position{2, 7, 8}, []time.Duration{0, 3, 3}},
		{"from", Options{From: base.Add(time.Second), To: base.Add(3500 * time.Millisecond)}, []signalbox.Position{2, 5}, []time.Duration{0, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSink()
				tt.options.Speed = 1
				play(t, manager(p), tt.options, s)
				if !slices.Equal(s.positions(), tt.want) {
					t.Fatalf("played %v, want %v", s.positions(), tt.want)
				}
				for i, e := range s.events {
					if d := e.came - tt.came[i]*time.Second; d < 0 || d > time.Millisecond {
						t.Errorf("message %d came after %s, want %ds", e.Position, e.came, tt.came[i])
					}
				}
			})
		})
	}
}

// TestSameEachTime plays the same at different speeds, to sinks of different kinds.
func TestSameEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := every(12_000, time.Millisecond)
		m := manager(p)
		var texts []string
		for i, speed := range []float64{0, 0, 1, 1000} {
			s := newSink()
			if i == 1 {
				s.slow = 300 * time.Millisecond // longer than anybody waits
			}
			status := play(t, m, Options{Speed: speed}, s)
			texts = append(texts, s.text.String())
			if _, ok := s.marks[Mark{ID: status.ID, Hub: "hub"}]; !ok || len(s.marks) != 1 {
				t.Errorf("the marks are %v", s.marks)
			}
		}
		for i, text := range texts {
			if text != texts[0] || text == "" {
				t.Errorf("replay %d differs", i)
			}
		}
	})
}

func TestShiftedTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSink()
		play(t, manager(every(10, time.Second)), Options{Speed: 1, Times: Shifted}, s)
		for i, e := range s.events {
			want := s.began.Add(e.came)
			if got := time.UnixMicro(e.TimeMicros); got.Sub(want).Abs() > time.Millisecond || e.ReceivedMicros != e.TimeMicros {
				t.Errorf("event %d has the time %s, want %s", i, got, want)
			}
		}
	})
}

func change(t *testing.T, m *Manager, id string, c Change) {
	t.Helper()
	if _, err := m.Change(id, c); err != nil {
		t.Error(err)
	}
}

func TestPauseSpeedSeek(t *testing.T) {
	type act struct {
		after  time.Duration
		change Change
	}
	at := func(d time.Duration) *time.Time { return new(base.Add(d)) }
	tests := []struct {
		name string
		o    Options
		acts []act
		want []signalbox.Position
		last time.Duration // when the last came
	}{
		{"pause", Options{Speed: 1}, []act{{2500 * time.Millisecond, Change{Paused: new(true)}}, {time.Minute, Change{Paused: new(false)}}}, upTo(1, 10), 69 * time.Second},
		{"paused at first", Options{Speed: 1, Paused: true}, []act{{time.Minute, Change{Paused: new(false)}}}, upTo(1, 10), 69 * time.Second},
		{"faster", Options{Speed: 1}, []act{{4500 * time.Millisecond, Change{Speed: new(10.0)}}}, upTo(1, 10), 4950 * time.Millisecond},
		{"slower", Options{Speed: 1}, []act{{8500 * time.Millisecond, Change{Speed: new(0.1)}}}, upTo(1, 10), 13500 * time.Millisecond},
		{"at once", Options{Speed: 1}, []act{{4500 * time.Millisecond, Change{Speed: new(0.0)}}}, upTo(1, 10), 4500 * time.Millisecond},
		{"forward", Options{Speed: 1}, []act{{1500 * time.Millisecond, Change{Seek: at(8 * time.Second)}}}, append(upTo(1, 2), 9, 10), 2500 * time.Millisecond},
		{"back", Options{Speed: 1}, []act{{8500 * time.Millisecond, Change{Seek: at(6500 * time.Millisecond)}}}, append(upTo(1, 9), 8, 9, 10), 10500 * time.Millisecond},
		{"to the beginning", Options{Speed: 1}, []act{{1500 * time.Millisecond, Change{Seek: at(-time.Hour)}}}, append(upTo(1, 2), upTo(1, 10)...), 10500 * time.Millisecond},
		{"behind the end", Options{Speed: 1}, []act{{1500 * time.Millisecond, Change{Seek: at(time.Hour)}}}, upTo(1, 2), time.Second},
		{"moved before it began", Options{Speed: 1, Paused: true}, []act{{time.Second, Change{Seek: at(7500 * time.Millisecond), Paused: new(false)}}}, upTo(9, 10), 2 * time.Second},
		{"forward and back", Options{Speed: 1}, []act{{500 * time.Millisecond, Change{Seek: at(8 * time.Second)}}, {500 * time.Millisecond, Change{Seek: at(7 * time.Second)}}}, append([]signalbox.Position{1, 9}, 8, 9, 10), 3 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, s := manager(every(10, time.Second)), newSink()
				made := start(t, m, tt.o)
				go func() {
					for _, a := range tt.acts {
						time.Sleep(a.after)
						change(t, m, made.ID, a.change)
					}
				}()
				if err := m.Play(t.Context(), made.ID, s, Resume{}, idle); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(s.positions(), tt.want) {
					t.Errorf("played %v, want %v", s.positions(), tt.want)
				}
				if last := s.events[len(s.events)-1].came; last < tt.last || last > tt.last+time.Millisecond {
					t.Errorf("the last came after %s, want %s", last, tt.last)
				}
			})
		})
	}
}

func TestIdleIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSink()
		play(t, manager(every(2, time.Minute)), Options{Speed: 1}, s)
		if s.idles != 3 && s.idles != 4 {
			t.Errorf("in a minute of silence the sink heard %d times", s.idles)
		}
	})
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, s := manager(every(10, time.Second)), newSink()
		made := start(t, m, Options{Speed: 1})
		time.AfterFunc(3500*time.Millisecond, func() {
			if err := m.Stop(made.ID); err != nil {
				t.Error(err)
			}
		})
		if err := m.Play(t.Context(), made.ID, s, Resume{}, idle); err != nil {
			t.Fatal(err)
		}
		if status, err := m.Get(made.ID); err != nil || status.Reason != ReasonStopped || status.Sent != 4 {
			t.Errorf("it ended as %+v, %v", status, err)
		}
		if _, err := m.Change(made.ID, Change{}); signalbox.CodeOf(err) != "replay_ended" {
			t.Errorf("changing an ended replay gives %v", err)
		}
		if err := m.Play(t.Context(), made.ID, s, Resume{}, idle); signalbox.CodeOf(err) != "replay_ended" {
			t.Errorf("playing an ended replay gives %v", err)
		}
		if err := m.Stop(made.ID); err != nil || len(m.List()) != 0 {
			t.Errorf("an ended replay is not taken off the list: %v", err)
		}
		if err := m.Stop(made.ID); signalbox.KindOf(err) != signalbox.KindNotFound {
			t.Errorf("stopping what is not there gives %v", err)
		}
	})
}

var errGone = errors.New("the viewer went away")

func TestSinkGoesAwayAndComesBack(t *testing.T) {
	tests := []struct {
		name   string
		away   time.Duration
		resume Resume
		want   []signalbox.Position // of the second sink
	}{
		{"where it was", 30 * time.Second, Resume{}, upTo(6, 10)},
		{"with all it was sent", 30 * time.Second, Resume{Known: true, Position: 5}, upTo(6, 10)},
		{"with less", 30 * time.Second, Resume{Known: true, Position: 3}, upTo(4, 10)},
		{"with more than is known", 30 * time.Second, Resume{Known: true, Position: 7}, upTo(8, 10)},
		{"before it was moved", 30 * time.Second, Resume{Known: true, Seeks: 4, Position: 3}, upTo(1, 10)},
		{"too late", 2 * Linger, Resume{}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, s := manager(every(10, time.Second)), newSink()
				made := start(t, m, Options{Speed: 1})
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(4500*time.Millisecond, cancel)
				if err := m.Play(ctx, made.ID, s, Resume{}, idle); !errors.Is(err, context.Canceled) {
					t.Fatalf("a sink that goes away ends with %v", err)
				}
				if status, err := m.Get(made.ID); err != nil || status.State != Away {
					t.Errorf("without a sink it is %v, %v", status.State, err)
				}
				time.Sleep(tt.away)
				again := newSink()
				err := m.Play(t.Context(), made.ID, again, tt.resume, idle)
				if tt.want == nil {
					if signalbox.CodeOf(err) != "replay_ended" {
						t.Errorf("coming back gives %v", err)
					}
					if status, err := m.Get(made.ID); err != nil || status.Reason != ReasonNoViewer {
						t.Errorf("it ended as %+v, %v", status, err)
					}
					return
				}
				if err != nil || !slices.Equal(again.positions(), tt.want) {
					t.Errorf("it goes on with %v, %v; want %v", again.positions(), err, tt.want)
				}
			})
		})
	}
}

// TestSinkFails has a sink whose delivery fails: what it did not take comes again.
func TestSinkFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, s := manager(every(10, time.Second)), newSink()
		made := start(t, m, Options{Speed: 1})
		s.hook = func(s *sink) error {
			if len(s.events) == 4 {
				return errGone
			}
			return nil
		}
		if err := m.Play(t.Context(), made.ID, s, Resume{}, idle); !errors.Is(err, errGone) {
			t.Fatalf("the sink's error became %v", err)
		}
		again := newSink()
		if err := m.Play(t.Context(), made.ID, again, Resume{}, idle); err != nil || !slices.Equal(again.positions(), upTo(4, 10)) {
			t.Errorf("it goes on with %v, %v", again.positions(), err)
		}
	})
}

func TestNewerSinkTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, older, newer := manager(every(10, time.Second)), newSink(), newSink()
		made := start(t, m, Options{Speed: 1})
		ended := make(chan error, 1)
		go func() { ended <- m.Play(t.Context(), made.ID, older, Resume{}, idle) }()
		time.Sleep(3500 * time.Millisecond)
		if err := m.Play(t.Context(), made.ID, newer, Resume{}, idle); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, ErrReplaced) {
			t.Errorf("the older sink ends with %v", err)
		}
		if !slices.Equal(older.positions(), upTo(1, 4)) || !slices.Equal(newer.positions(), upTo(5, 10)) {
			t.Errorf("the sinks got %v and %v", older.positions(), newer.positions())
		}
	})
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(every(1, time.Second))
		for range 3 {
			start(t, m, Options{})
		}
		if _, err := m.Start(Options{}); signalbox.KindOf(err) != signalbox.KindLimited {
			t.Errorf("one replay more gives %v", err)
		}
		if open, playing := m.Running(); open != 3 || playing != 0 || m.Stats().Refused.Load() != 1 || m.Stats().Started.Load() != 3 {
			t.Errorf("open %d, playing %d, refused %d, started %d", open, playing, m.Stats().Refused.Load(), m.Stats().Started.Load())
		}
		time.Sleep(Linger + time.Second) // nobody comes
		start(t, m, Options{})
		for range 2 * maxEnded {
			play(t, m, Options{}, newSink())
		}
		if s := m.Stats(); s.Events.Load() != 2*maxEnded || s.Bytes.Load() != 2*maxEnded*int64(len(`{"n":1}`)) {
			t.Errorf("events %d, bytes %d", s.Events.Load(), s.Bytes.Load())
		}
		if n := len(m.List()); n > maxEnded+2 {
			t.Errorf("%d replays are remembered", n)
		}
		bad := []Options{
			{Speed: -1}, {Speed: MaxSpeed * 2}, {Speed: MinSpeed / 2}, {Times: "other"}, {Pace: "other"}, {From: base, To: base}, {From: base.Add(1), To: base},
		}
		for _, o := range bad {
			if _, err := m.Start(o); signalbox.KindOf(err) != signalbox.KindInvalid {
				t.Errorf("%+v gives %v", o, err)
			}
		}
	})
}

func TestUnmarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, s := manager(every(2, time.Second)), newSink()
		s.unmarked = true
		made := start(t, m, Options{})
		if err := m.Play(t.Context(), made.ID, s, Resume{}, idle); signalbox.CodeOf(err) != "replay_unmarked" {
			t.Errorf("a sink without room for the mark gives %v", err)
		}
		if status := play(t, m, Options{Unmarked: true}, s); status.Sent != 2 {
			t.Errorf("with the flag it ended as %+v", status)
		}
	})
}

func TestHistoryFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := every(2, time.Second), newSink()
		p.fault = errors.New("the disk is gone")
		m := manager(p)
		made := start(t, m, Options{})
		if err := m.Play(t.Context(), made.ID, s, Resume{}, idle); !errors.Is(err, p.fault) {
			t.Errorf("a fault of history gives %v", err)
		}
		if status, err := m.Get(made.ID); err != nil || status.Reason != ReasonFailed {
			t.Errorf("it ended as %+v, %v", status, err)
		}
		if s.told[len(s.told)-1] != "ended" {
			t.Errorf("the sink was told %v", s.told)
		}
	})
}

// TestFewRead has more replays than may read history at once, all slow: each comes to its
// end, no more than allowed read at a time, and none holds history while its sink is busy.
func TestFewRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := every(15_000, 100*time.Millisecond)
		m := manager(p)
		m.cfg.Max = 6
		ended := make(chan *sink, 6)
		for range 6 {
			made := start(t, m, Options{Speed: 100})
			go func() {
				s := newSink()
				if err := m.Play(t.Context(), made.ID, s, Resume{}, idle); err != nil {
					t.Error(err)
				}
				ended <- s
			}()
		}
		time.Sleep(2 * time.Second)
		if n := p.open.Load(); n != 0 {
			t.Errorf("%d scans are open while all queues are full", n)
		}
		for range 6 {
			s := <-ended
			if len(s.events) != 15_000 || !slices.IsSorted(s.positions()) {
				t.Errorf("a sink got %d events", len(s.events))
			}
			if last := s.events[len(s.events)-1].came; last > 16*time.Second {
				t.Errorf("the last came after %s", last)
			}
		}
		if most := p.most.Load(); most > openScans {
			t.Errorf("%d scans at once", most)
		}
	})
}
