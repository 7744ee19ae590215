package forward

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

const (
	// stopPatience is how long a sink may take to settle what was sent when its forwarder is
	// stopped, paused or changed.
	stopPatience = 2 * time.Second
	// maxAfter bounds the wait that a receiver may ask for.
	maxAfter = time.Hour
	// maxTried bounds the messages whose attempts are counted; it is the most requests that a
	// webhook has under way, several times over.
	maxTried = 4096
)

// life is a forwarder with one spec, until that changes.
type life struct {
	f      *forwarder
	spec   Spec // with its defaults
	enc    *encoder
	want   wanted
	target Target
	logger *slog.Logger

	// failed counts faults in a row; it paces the tries.
	failed int
	// tried counts the attempts for messages that the receiver refused, but may take later. A
	// restart begins anew.
	tried map[signalbox.Position]int
	// doomed are messages that are to become dead letters when they are read again.
	doomed map[signalbox.Position]*Refused
	// opened says that there was a connection, broke that something was wrong since.
	opened, broke bool
	// faults are those of which the log has not been told, away says that its last word is that the
	// target does not take messages.
	faults often
	away   bool
	// jobs is the encoder for what is sent besides the log.
	jobs *encoder
}

// run is the forwarder's engine: it lives with one spec after another until ctx ends.
func (f *forwarder) run(ctx context.Context) {
	defer close(f.ended)
	for ctx.Err() == nil {
		lived, cancel, spec := f.begin(ctx)
		f.live(lived, &spec)
		cancel()
	}
}

// live lives with one spec until ctx ends.
func (f *forwarder) live(ctx context.Context, spec *Spec) {
	if spec.Paused || f.broken != "" {
		f.enters(StatePaused)
		<-ctx.Done()
		return
	}
	l := &life{
		f: f, spec: spec.Defaulted(), want: newWanted(spec), tried: map[signalbox.Position]int{}, doomed: map[signalbox.Position]*Refused{},
		logger: f.m.cfg.Logger.With("forwarder", f.name),
	}
	f.enters(StateConnecting)
	defer l.end()
	for ctx.Err() == nil {
		began := time.Now()
		again, err := l.once(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			l.failed = 0
			continue
		case time.Since(began) > l.spec.Backoff.Max:
			l.failed = 0
		}
		if errors.Is(err, errLeft) {
			f.well()
			l.away = false
			f.enters(StateListening)
		} else {
			l.tell(err)
		}
		l.wait(ctx, again)
	}
}

// end lets go of the target.
func (l *life) end() {
	l.tellOften(true)
	if l.target == nil {
		return
	}
	if err := l.target.Close(); err != nil {
		l.logger.Debug("a target was not closed well", "err", Scrub(err.Error(), &l.spec))
	}
	l.f.setTarget(nil)
}

// tell notes a fault. A target that comes and goes is told to the log once a minute.
func (l *life) tell(err error) {
	text := Scrub(err.Error(), &l.spec)
	if e, ok := errors.AsType[*signalbox.Error](err); ok && e.Err == nil {
		text = Scrub(e.Message, &l.spec)
	}
	l.f.fails(StateWaiting, text)
	if l.away {
		return
	}
	l.faults.n++
	if n := l.faults.due(false); n > 0 {
		l.away = true
		l.logger.Warn("a forwarder's target does not take messages; they wait", "fault", text, "times", n)
	}
}

// wait is the pause after a fault.
func (l *life) wait(ctx context.Context, least time.Duration) {
	pause := l.spec.Backoff.Max
	if l.failed < 32 {
		pause = min(l.spec.Backoff.Min<<l.failed, pause)
		if pause <= 0 {
			pause = l.spec.Backoff.Max
		}
	}
	l.failed++
	pause = pause/2 + rand.N(pause/2+1) //nolint:gosec // nobody gains by guessing it
	timer := time.NewTimer(max(pause, min(least, maxAfter)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// once makes a target if there is none, connects and sends until something goes wrong. again is
// how long the receiver wants to be left alone. Without an error it is to be called at once.
func (l *life) once(ctx context.Context) (again time.Duration, err error) {
	f := l.f
	if l.enc == nil {
		if l.enc, err = f.m.encoder(&l.spec); err != nil {
			return 0, err
		}
		if l.jobs, err = f.m.encoder(&l.spec); err != nil {
			return 0, err
		}
		l.jobs.run += playedRun
	}
	if l.target == nil {
		if l.target, err = f.m.parts.Targets(&l.spec, f.fromFile, f.m.cfg.Allow); err != nil {
			return 0, err
		}
		f.setTarget(l.target)
	}
	s := &session{l: l, f: f, moved: make(chan struct{}, 1)}
	s.scanned = f.place.cursor()
	s.handed = s.scanned
	if err := s.open(ctx); err != nil {
		return 0, err
	}
	err = s.run(ctx)
	s.close(ctx)
	refused, ok := errors.AsType[*Refused](err)
	done, was := errors.AsType[*judged](err)
	if !schemeOf(l.spec.To).is("http", "https") || !ok && !was && !errors.Is(err, errAnew) {
		l.broke = true
	}
	switch {
	case errors.Is(err, errAnew):
		return 0, nil
	case was:
		return done.again, done.err
	case schemeOf(l.spec.To).is("tcp-listen") && ctx.Err() == nil && sameFault(err, s.sink.Err()):
		return 0, errLeft
	case !ok || ctx.Err() != nil:
		return 0, err
	case s.playing.Load():
		return l.jobRefused(refused)
	default:
		return l.refused(refused)
	}
}

// errLeft ends a session of tcp-listen whose last receiver has left: that is no fault.
var errLeft = errors.New("the last receiver has left")

// sameFault says whether err, not nil, is or wraps what a sink says of itself.
func sameFault(err, of error) bool { return of != nil && errors.Is(err, of) }

// refused judges a message that the receiver did not take.
func (l *life) refused(r *Refused) (again time.Duration, err error) {
	at := l.f.place.cursor()
	if r.Position <= at || r.Position > l.f.mark {
		return r.After, r // no message that is waited for
	}
	for p := range l.tried {
		if p <= at || len(l.tried) >= maxTried {
			delete(l.tried, p)
		}
	}
	for p := range l.doomed {
		if p <= at {
			delete(l.doomed, p) // it was given up, or its device was removed
		}
	}
	l.tried[r.Position]++
	if !r.Permanent && (l.spec.Attempts < 0 || l.tried[r.Position] < max(l.spec.Attempts, 1)) {
		return r.After, r
	}
	l.doomed[r.Position] = r
	return 0, nil
}

// bury makes a message of a batch, before which everything is settled, a dead letter.
func (l *life) bury(ctx context.Context, m *Message, r *Refused) error {
	dropped, err := l.f.bury(ctx, &store.DeadLetter{
		Forwarder: l.f.name, Position: m.Position, Kind: kindOf(m.Kind), Device: m.Device, DeviceName: m.Name, ReceivedMicros: m.ReceivedMicros,
		TimeMicros: m.TimeMicros, Attempts: max(l.tried[m.Position], 1), Status: r.Status, Reason: Scrub(r.Reason, &l.spec), Body: m.Body,
	})
	if err != nil {
		return err
	}
	t := &l.f.tellings
	t.letter.position, t.letter.device, t.letter.status = int64(m.Position), m.Name, r.Status //nolint:gosec // a place in the log
	t.buried.n, t.dropped.n = t.buried.n+1, t.dropped.n+dropped
	l.tellOften(false)
	delete(l.tried, m.Position)
	delete(l.doomed, m.Position)
	return nil
}
