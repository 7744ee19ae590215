package replay

import (
	"context"
	"errors"
	"io"
	"time"

	"signalbox"
)

// ownIdle is the longest silence towards a sink that the manager plays to by itself.
const ownIdle = 15 * time.Second

// Run lets the manager play replays by itself (StartInto), until ctx ends; then it ends those
// under way and waits for them. It is called at most once.
func (m *Manager) Run(ctx context.Context) error {
	m.own.Lock()
	m.ownCtx = ctx // the life of the goroutines that StartInto begins
	m.own.Unlock()
	<-ctx.Done()
	m.own.Lock()
	m.ownCtx = nil
	m.own.Unlock()
	m.ownWork.Wait()
	return nil
}

// StartInto makes a replay and plays it to a sink at once, in a goroutine of the manager's that
// ends with the replay, or with Run. A sink that is an io.Closer is closed then, and with an error
// at once. The replay cannot be listened to by others; otherwise it is as any: it can be paused, moved and stopped. A
// fault of the sink ends it (ReasonFailed, Status.Fault). Errors are those of Start; KindInvalid
// when the sink cannot carry the mark and o does not allow that; KindUnavailable unless Run runs.
func (m *Manager) StartInto(o Options, sink Sink) (Status, error) {
	s, err := m.startInto(o, sink)
	if err != nil {
		err = errors.Join(err, closeSink(sink))
	}
	return s, err
}

func (m *Manager) startInto(o Options, sink Sink) (Status, error) {
	if o.Into == "" {
		o.Into = "a sink"
	}
	if !sink.CarriesMark() && !o.Unmarked {
		return Status{}, errUnmarked()
	}
	m.own.Lock()
	defer m.own.Unlock()
	ctx := m.ownCtx
	if ctx == nil || ctx.Err() != nil {
		return Status{}, signalbox.Errorf(signalbox.KindUnavailable, "no_hub", "the hub does not run, or is stopping; it plays replays only while it runs")
	}
	s, err := m.Start(o)
	if err != nil {
		return s, err
	}
	m.ownWork.Go(func() { m.playOwn(ctx, s.ID, sink) })
	return s, nil
}

// playOwn plays to a sink and sees to it that the replay has ended afterwards.
func (m *Manager) playOwn(ctx context.Context, id string, sink Sink) {
	err := m.play(ctx, id, sink, Resume{}, ownIdle)
	if fault := closeSink(sink); fault != nil {
		m.cfg.Logger.Warn("what a replay played into could not be closed", "replay", id, "err", fault)
	}
	if err == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, missing := m.find(id)
	if missing != nil || r.reason != "" {
		return
	}
	if ctx.Err() != nil {
		r.end(ReasonStopped, time.Now())
		return
	}
	r.fault = faultWords(err)
	r.end(ReasonFailed, time.Now())
	m.cfg.Logger.Warn("a replay ended early", "replay", id, "into", r.options.Into, "err", err)
}

func closeSink(sink Sink) error {
	if c, ok := sink.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// faultWords is what people are told of a sink's fault.
func faultWords(err error) string {
	if e, ok := errors.AsType[*signalbox.Error](err); ok {
		return e.Message
	}
	return err.Error()
}

// errUnmarked refuses a sink whose format has no room for the mark.
func errUnmarked() error {
	return signalbox.Errorf(signalbox.KindInvalid, "replay_unmarked", "the format cannot say that the telemetry is of a replay; whoever gets it could take it for new. Allow it expressly with unmarked")
}
