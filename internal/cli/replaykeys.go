package cli

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"signalbox"
	"signalbox/client"
)

const (
	// stageTick is how often the status line is drawn anew, stageAsk how often the hub is asked
	// where the replay is, and stagePatience how long it may take to answer.
	stageTick     = 250 * time.Millisecond
	stageAsk      = time.Second
	stagePatience = 5 * time.Second
	// stageStep is by how much an arrow moves, at up to the speed at which it happened; at a
	// higher one it is what is played in that time.
	stageStep = 10 * time.Second
	// stageNote is how long a fault is shown in place of the status.
	stageNote = 5 * time.Second
)

// stage is what a replay on a terminal has besides its lines: keys and a status line. It has a
// goroutine of its own, which close waits for.
type stage struct {
	hub      *reach
	keys     *keyboard
	line     *statusLine
	from, to time.Time // of the replay; from is zero until a message was played
	pace     string
	shifted  bool // the messages do not tell where it is
	cancel   context.CancelFunc
	done     sync.WaitGroup
	once     sync.Once
	err      error

	mu    sync.Mutex
	heard heard

	// of the goroutine
	status client.Replay
	at     time.Time // where the replay was
	seen   time.Time // when
	stale  time.Time // what the hub says until a message came behind a seek
	asked  time.Time
	end    time.Time // the moment of the last message, as far as it is known; zero: it is not
	note   string
	noted  time.Time
}

// heard is what the stream of a replay has said.
type heard struct {
	seeks    uint64
	messages int64
	at       time.Time // of the last message, on the replay's clock; zero: not known
	when     time.Time
}

// newStage begins when there is a terminal to take keys from and to show the status on, and
// gives nil otherwise. interrupt ends the replay, when that cannot be done in order.
func (c *command) newStage(ctx context.Context, r *reach, made *client.Replay, interrupt context.CancelFunc) *stage {
	in, reads := terminal(c.Stdin)
	out, shows := terminal(c.Stderr)
	if !reads || !shows || c.env("TERM") == "dumb" || piped(c.Stdout) {
		return nil
	}
	keys, err := openKeyboard(in)
	if err != nil {
		return nil // it plays all the same
	}
	s := &stage{hub: r, keys: keys, line: c.newStatusLine(out), from: made.From, to: made.To, pace: made.Pace, shifted: made.Times == "shifted", status: *made}
	ctx, s.cancel = context.WithCancel(ctx)
	end := make(chan time.Time, 1)
	s.done.Go(func() { end <- r.replayEnd(ctx, made) })
	s.done.Go(func() { s.run(ctx, end, interrupt) })
	return s
}

// piped says whether what is written goes to another program, which may want keys for itself.
func piped(stream any) bool {
	file, ok := stream.(*os.File)
	if !ok {
		return true
	}
	info, err := file.Stat()
	return err != nil || info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0
}

// close gives the terminal back. It may be called more than once, and of a stage that is nil.
func (s *stage) close() error {
	if s == nil {
		return nil
	}
	s.once.Do(func() {
		s.err = s.keys.close()
		s.cancel()
		s.done.Wait()
		s.line.end()
	})
	return s.err
}

func (s *stage) run(ctx context.Context, end <-chan time.Time, interrupt context.CancelFunc) {
	tick := time.NewTicker(stageTick)
	defer tick.Stop()
	keys := s.keys.keys
	for {
		if time.Since(s.asked) >= stageAsk {
			s.ask(ctx)
		}
		s.listen()
		s.line.set(s.text(time.Now(), s.line.room()))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case last := <-end:
			if s.end = last; !last.IsZero() && s.at.After(last) {
				s.end = s.at
			}
		case k, ok := <-keys:
			switch {
			case !ok:
				keys = nil
			case k == keyQuit:
				if s.stop(ctx) != nil {
					interrupt()
				}
			default:
				s.listen()
				s.press(ctx, k)
			}
		}
	}
}

// event takes up what the stream said. It may be called of a stage that is nil.
func (s *stage) event(e *client.ReplayEvent) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.Kind {
	case "replay":
		if e.Seeks != s.heard.seeks {
			s.heard.seeks, s.heard.at = e.Seeks, time.Time{}
		}
	case "telemetry":
		s.heard.messages++
		at := momentOf(s.pace, e.Time, e.Received, s.to)
		if !s.shifted && at.After(s.heard.at) { // the clock does not go back
			s.heard.at, s.heard.when = at, time.Now()
		}
	}
}

// listen takes up what was heard.
func (s *stage) listen() {
	s.mu.Lock()
	h := s.heard
	s.mu.Unlock()
	s.status.Sent = max(s.status.Sent, h.messages)
	if h.seeks != s.status.Seeks || h.at.IsZero() || h.when.Before(s.seen) {
		return
	}
	s.be(h.at, h.when)
}

// be notes where the replay was at a time.
func (s *stage) be(at, when time.Time) {
	s.at, s.seen, s.stale = at, when, time.Time{}
	if s.from.IsZero() || at.Before(s.from) {
		s.from = at
	}
	if !s.end.IsZero() && at.After(s.end) {
		s.end = at
	}
}

// ask asks the hub how the replay stands.
func (s *stage) ask(ctx context.Context) {
	ctx, done := context.WithTimeout(ctx, stagePatience)
	defer done()
	if status, err := s.hub.Replay(ctx, s.status.ID); err == nil {
		s.learn(&status)
	}
	s.asked = time.Now()
}

func (s *stage) stop(ctx context.Context) error {
	ctx, done := context.WithTimeout(ctx, stagePatience)
	defer done()
	return s.hub.StopReplay(ctx, s.status.ID)
}

// press does what a key is for.
func (s *stage) press(ctx context.Context, k key) {
	now := time.Now()
	var change client.ReplayChange
	switch k {
	case keyPause:
		paused := !s.status.Paused
		change.Paused = &paused
	case keyFaster, keySlower:
		speed := nextSpeed(s.status.Speed, k == keyFaster)
		change.Speed = &speed
	default:
		if s.at.IsZero() {
			return // nothing was played yet
		}
		step := s.step()
		if k == keyBack {
			step = -step
		}
		change.Seek = s.within(s.place(now).Add(step))
	}
	ctx, done := context.WithTimeout(ctx, stagePatience)
	defer done()
	status, err := s.hub.ChangeReplay(ctx, s.status.ID, change)
	if err != nil {
		if signalbox.CodeOf(err) != "replay_ended" && ctx.Err() == nil {
			s.note, s.noted = err.Error(), time.Now()
		}
		return
	}
	s.note = ""
	if change.Seek.IsZero() {
		s.at, s.seen = s.place(now), now // from here on at the new speed
	} else {
		s.stale, s.at, s.seen = status.At, change.Seek, now
	}
	s.learn(&status)
}

// learn takes up how the replay stands.
func (s *stage) learn(status *client.Replay) {
	moved := !status.At.IsZero() && !status.At.Equal(s.status.At) && !status.At.Equal(s.stale)
	s.status = *status
	if moved && s.shifted { // else the messages tell it sooner
		s.be(status.At, time.Now())
	}
}

// place is where the replay is, as far as can be told from here.
func (s *stage) place(now time.Time) time.Time {
	if s.status.State != "playing" || s.status.Speed == 0 || s.at.IsZero() {
		return s.at
	}
	ahead := float64(now.Sub(s.seen)) * s.status.Speed
	if left := float64(s.last().Sub(s.at)); ahead > left {
		ahead = max(left, 0)
	}
	return s.at.Add(time.Duration(ahead))
}

// last is the moment of the last message, or the end of the range where that is not known.
func (s *stage) last() time.Time {
	if s.end.IsZero() {
		return s.to
	}
	return s.end
}

// within keeps a time in the range of the replay.
func (s *stage) within(t time.Time) time.Time {
	if t.Before(s.from) {
		return s.from
	}
	if last := s.last(); t.After(last) {
		return last
	}
	return t
}

// step is by how much an arrow moves. As fast as possible it is a hundredth of all.
func (s *stage) step() time.Duration {
	if s.status.Speed == 0 {
		return max(s.last().Sub(s.from)/100, stageStep)
	}
	return max(time.Duration(float64(stageStep)*s.status.Speed), stageStep)
}

// nextSpeed is the speed before or behind one in the row 0.1, 0.2, 0.5, 1, …, 1000, as fast as
// possible.
func nextSpeed(speed float64, faster bool) float64 {
	row := []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}
	if faster {
		for _, next := range row {
			if next > speed && speed != 0 {
				return next
			}
		}
		return 0
	}
	slower := row[0]
	for _, next := range row {
		if next < speed || speed == 0 {
			slower = next
		}
	}
	if speed != 0 {
		slower = min(slower, speed)
	}
	return slower
}

func speedText(speed float64) string {
	if speed == 0 {
		return "max"
	}
	return fmt.Sprintf("%gx", speed)
}

// text is the status line, as much of it as fits so many columns; 79 are enough for the keys.
func (s *stage) text(now time.Time, columns int) string {
	if s.note != "" && now.Sub(s.noted) < stageNote {
		return clean(s.note)
	}
	where := "…"
	if place := s.place(now); !place.IsZero() {
		where = timeText(place)
		if span := s.end.Sub(s.from); !s.end.IsZero() && span > 0 {
			where += fmt.Sprintf("  %.0f %%", 100*place.Sub(s.from).Seconds()/span.Seconds())
		}
	}
	state := fmt.Sprintf("%s  %s  %s", s.status.State, where, speedText(s.status.Speed))
	count := fmt.Sprintf("  %d messages", s.status.Sent)
	const keys = "  space: pause ←→ +-: speed q: end"
	for _, text := range []string{
		fmt.Sprintf("%s%s   space: pause, ←→: %s, +-: speed, q: end", state, count, s.step().Round(time.Second)),
		state + count + keys,
		state + keys,
	} {
		if width(text) <= columns {
			return text
		}
	}
	return state + "  space ←→ +- q: end"
}
