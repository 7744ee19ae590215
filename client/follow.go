package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"time"

	"signalbox"
)

const (
	// followRetry is how long Follow waits before it connects again, at first; each time twice as
	// long, up to followRetryMax, and a random part less.
	followRetry    = 250 * time.Millisecond
	followRetryMax = 10 * time.Second
	// followSilence is how long a connection may be silent: the hub says something every 15 s.
	followSilence = 50 * time.Second
)

// Follow is Stream for as long as ctx lasts: a connection that is lost is made again, and goes on
// behind the last event, over restarts of the hub, too. No event comes twice, and where one is
// missing there is an event lagged. Snapshots and ready come again with a new connection where
// they have to. It ends when ctx does, the caller stops, or the hub refuses for good, as without
// a credential; the last event then carries the error. That there is no hub in the beginning is
// an error of Follow itself. Whoever does not take the events has to end ctx.
func (h *Hub) Follow(ctx context.Context, w Watch) (iter.Seq2[Event, error], error) {
	f := &follower{hub: h, watch: w, wait: followRetry}
	if err := f.connect(ctx); err != nil {
		return nil, err
	}
	return func(yield func(Event, error) bool) {
		more := true
		take := func(e Event) bool {
			f.wait = followRetry
			if next := e.next(); next != "" {
				f.watch.After = next
			}
			if e.Kind != "" {
				more = yield(e, nil)
			}
			return more
		}
		for {
			err := f.read(ctx, take)
			if more {
				err = f.again(ctx, err)
			}
			switch {
			case !more:
				return
			case err != nil:
				yield(Event{}, err)
				return
			}
		}
	}, nil
}

// follower is one Follow.
type follower struct {
	hub    *Hub
	watch  Watch
	wait   time.Duration
	cancel context.CancelFunc // of the connection
	resp   *http.Response
	quiet  *time.Timer // ends the connection
}

// connect makes a connection, that goes on behind the last event.
func (f *follower) connect(ctx context.Context) error {
	within, cancel := context.WithCancel(ctx)
	quiet := time.AfterFunc(followSilence, cancel)
	resp, err := f.hub.open(within, http.MethodGet, "/stream", f.watch.query(), "", nil) //nolint:bodyclose // closed by read, or with ctx
	if err != nil {
		quiet.Stop()
		cancel()
		if ctx.Err() == nil && errors.Is(err, context.Canceled) {
			err = unreachable(ctx, err) // it did not answer
		}
		return err
	}
	f.resp, f.cancel, f.quiet = resp, cancel, quiet
	return nil
}

// read gives the events of the connection, and why it has ended; nil: take wants no more.
func (f *follower) read(ctx context.Context, take func(Event) bool) error {
	defer f.cancel()
	defer f.quiet.Stop()
	defer func() { _ = f.resp.Body.Close() }() // all that came was read
	err := decodeEvents(&heard{f.resp.Body, f.quiet}, take)
	if _, known := errors.AsType[*signalbox.Error](err); err != nil && !known {
		err = unreachable(ctx, err)
	}
	return err
}

// again connects until there is a connection, or none can be expected.
func (f *follower) again(ctx context.Context, err error) error {
	if !lost(ctx, err) {
		return err
	}
	f.tell(err)
	for {
		wait := f.wait - rand.N(f.wait/2) //nolint:gosec // so that viewers do not come all at once
		f.wait = min(2*f.wait, followRetryMax)
		if after, ok := errors.AsType[*RetryAfter](err); ok {
			wait = max(wait, min(after.Wait, followRetryMax))
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		switch err = f.connect(ctx); {
		case err == nil:
			f.tell(nil)
			return nil
		case !lost(ctx, err) && (signalbox.KindOf(err) != signalbox.KindLimited || ctx.Err() != nil):
			return err
		}
	}
}

func (f *follower) tell(err error) {
	if f.watch.Connection != nil {
		f.watch.Connection(err)
	}
}

// heard ends a connection that is silent for too long while somebody listens to it.
type heard struct {
	io.Reader
	quiet *time.Timer
}

// Read implements io.Reader.
func (h *heard) Read(b []byte) (int, error) {
	h.quiet.Reset(followSilence)
	defer h.quiet.Stop() // however long the caller takes
	return h.Reader.Read(b)
}
