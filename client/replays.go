package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"

	"signalbox"
)

// ReplayQuery chooses what a replay plays, and how. The zero value plays all history of all
// devices as fast as possible.
type ReplayQuery struct {
	// Devices and Types choose devices that have one of the names and one of the types; an empty
	// list chooses all.
	Devices, Types []string
	// From ≤ time < To. Zero: from the beginning, until now.
	From, To time.Time
	// Speed is how often as fast as it happened, 0.001 to 1,000,000; 0: as fast as possible.
	Speed float64
	// Shifted moves all times by one span, so that the first event bears the time at which it is
	// played.
	Shifted bool
	// Pace is received (default), as the hub got the messages, or time, by their own times.
	Pace string
	// Paused begins when told to.
	Paused bool
	// IntoForwarder names a forwarder, and IntoViewers says the original viewers, that the hub plays
	// it into by itself, at once; that needs the scope admin. Neither: it waits for PlayReplay.
	IntoForwarder string
	IntoViewers   bool
	// Unmarked allows for these a format that cannot say that the telemetry is of a replay.
	Unmarked bool
}

// Replay is a replay as it stands.
type Replay struct {
	ID  string `json:"id"`
	Hub string `json:"hub"`
	// State is waiting, playing, paused, away or ended; Reason why it has ended: done, stopped,
	// no_viewer or failed.
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	// Into is what the hub plays it into by itself, in words; Fault is what went wrong with that.
	Into      string    `json:"into,omitempty"`
	Fault     string    `json:"fault,omitempty"`
	Unmarked  bool      `json:"unmarked,omitempty"`
	Devices   []string  `json:"devices,omitempty"`
	Types     []string  `json:"types,omitempty"`
	From      time.Time `json:"from,omitzero"`
	To        time.Time `json:"to,omitzero"`
	Speed     float64   `json:"speed"`
	Times     string    `json:"times"`
	Pace      string    `json:"pace"`
	Paused    bool      `json:"paused"`
	Sent      int64     `json:"sent"`
	Seeks     uint64    `json:"seeks"`
	At        time.Time `json:"at,omitzero"`
	CreatedBy string    `json:"created_by"`
	CreatedAt time.Time `json:"created_at"`
	StartedAt time.Time `json:"started_at,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
}

// ReplayChange is what a replay is told; what is nil or zero stays as it is.
type ReplayChange struct {
	Paused *bool
	Speed  *float64
	// Seek goes on with the first message whose moment is not before it.
	Seek time.Time
}

// ReplayMark says which replay of which hub plays a message.
type ReplayMark struct {
	ID  string `json:"id"`
	Hub string `json:"hub"`
}

// ReplayEvent is an event of a replay's stream. Its Kind is telemetry; or replay, which tells
// of the replay itself: then State, Seeks, Reason and Sent say how it stands.
type ReplayEvent struct {
	Event
	Replay ReplayMark `json:"replay"`
	State  string     `json:"state"`
	Seeks  uint64     `json:"seeks"`
	Reason string     `json:"reason"`
	Sent   int64      `json:"sent"`
}

// moment writes a time as the API reads it.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// StartReplay makes a replay; it begins with PlayReplay, or at once when the hub plays it into
// something by itself. Errors: KindNotFound (device_not_found, no_devices, forwarder_not_found),
// KindInvalid (replay_unmarked: what it is to be played into has no room for the mark), KindLimited (too_many_replays) and the general ones.
func (h *Hub) StartReplay(ctx context.Context, q ReplayQuery) (Replay, error) {
	type into struct {
		Forwarder string `json:"forwarder,omitempty"`
		Viewers   bool   `json:"viewers,omitempty"`
	}
	body := struct {
		Devices  []string `json:"devices,omitempty"`
		Types    []string `json:"types,omitempty"`
		From     string   `json:"from,omitempty"`
		To       string   `json:"to,omitempty"`
		Speed    float64  `json:"speed"`
		Times    string   `json:"times,omitempty"`
		Pace     string   `json:"pace,omitempty"`
		Paused   bool     `json:"paused,omitempty"`
		Into     *into    `json:"into,omitempty"`
		Unmarked bool     `json:"unmarked,omitempty"`
	}{Devices: q.Devices, Types: q.Types, From: moment(q.From), To: moment(q.To), Speed: q.Speed, Pace: q.Pace, Paused: q.Paused, Unmarked: q.Unmarked}
	if q.IntoForwarder != "" || q.IntoViewers {
		body.Into = &into{q.IntoForwarder, q.IntoViewers}
	}
	if q.Shifted {
		body.Times = "shifted"
	}
	var r Replay
	_, err := h.do(ctx, http.MethodPost, "/replays", nil, body, &r)
	return r, err
}

// Replays lists the replays under way and the latest that have ended, oldest first.
func (h *Hub) Replays(ctx context.Context) ([]Replay, error) {
	var list struct {
		Items []Replay `json:"items"`
	}
	_, err := h.do(ctx, http.MethodGet, "/replays", nil, nil, &list)
	return list.Items, err
}

// Replay tells how a replay stands; KindNotFound when there is none of that ID.
func (h *Hub) Replay(ctx context.Context, id string) (Replay, error) {
	var r Replay
	_, err := h.do(ctx, http.MethodGet, at("replays", id), nil, nil, &r)
	return r, err
}

// ChangeReplay pauses, moves or paces a replay. KindConflict (replay_ended) when it has ended.
func (h *Hub) ChangeReplay(ctx context.Context, id string, c ReplayChange) (Replay, error) {
	body := struct {
		Paused *bool    `json:"paused,omitempty"`
		Speed  *float64 `json:"speed,omitempty"`
		Seek   string   `json:"seek,omitempty"`
	}{c.Paused, c.Speed, moment(c.Seek)}
	var r Replay
	_, err := h.do(ctx, http.MethodPatch, at("replays", id), nil, body, &r)
	return r, err
}

// StopReplay ends a replay, or takes one that has ended off the list.
func (h *Hub) StopReplay(ctx context.Context, id string) error {
	_, err := h.do(ctx, http.MethodDelete, at("replays", id), nil, nil, nil)
	return err
}

const (
	// replayRetries is how often in a row a lost connection is made again, after replayRetry at
	// first and twice as long each time.
	replayRetries = 5
	replayRetry   = 500 * time.Millisecond
)

// PlayReplay begins to listen to a replay, which plays from then on, and gives its events, in
// order and each once, until it has ended (the last event has the State ended), ctx ends or
// the caller stops. A lost connection is made again and goes on where it was; when that
// fails, or somebody else took the replay over (replay_taken), the last event carries the
// error. Whoever does not take the events has to end ctx.
func (h *Hub) PlayReplay(ctx context.Context, id string) (iter.Seq2[ReplayEvent, error], error) {
	ctx, cancel := context.WithCancel(ctx)
	resp, err := h.openReplay(ctx, id, "") //nolint:bodyclose // closed by the iterator, or with ctx
	if err != nil {
		cancel()
		return nil, err
	}
	return func(yield func(ReplayEvent, error) bool) {
		defer cancel()
		last, wait, left := "", replayRetry, replayRetries
		for {
			before := last
			over, err := readReplay(resp.Body, &last, func(e ReplayEvent) bool { return yield(e, nil) })
			_ = resp.Body.Close() // all that came was read
			if over {
				return
			}
			if last != before {
				wait, left = replayRetry, replayRetries
			}
			for lost(ctx, err) && left > 0 {
				left--
				if err = sleep(ctx, wait); err == nil {
					wait *= 2
					resp, err = h.openReplay(ctx, id, last) //nolint:bodyclose // closed above
				}
			}
			if err != nil {
				if _, known := errors.AsType[*signalbox.Error](err); !known {
					err = unreachable(ctx, err)
				}
				yield(ReplayEvent{}, err)
				return
			}
		}
	}, nil
}

func (h *Hub) openReplay(ctx context.Context, id, last string) (*http.Response, error) {
	header := http.Header{}
	if last != "" {
		header.Set("Last-Event-ID", last)
	}
	return h.openWith(ctx, http.MethodGet, at("replays", id, "stream"), url.Values{}, header, "", nil)
}

// lost says whether err is a connection that was lost, and may be made again.
func lost(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() != nil {
		return false
	}
	e, known := errors.AsType[*signalbox.Error](err)
	return !known || e.Kind == signalbox.KindUnavailable
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// readReplay reads a stream; over says that nothing is to come any more, or is wanted.
func readReplay(r io.Reader, last *string, yield func(ReplayEvent) bool) (over bool, err error) {
	err = readEvents(r, func(id, kind string, data []byte) (bool, error) {
		e := ReplayEvent{}
		if len(data) == 0 {
			return true, nil
		}
		if err := decodeEvent(data, &e); err != nil {
			return false, err
		}
		e.Kind = kind
		if id != "" {
			*last = id
		}
		if e.State == "replaced" {
			return false, signalbox.Errorf(signalbox.KindConflict, "replay_taken", "another listener has taken the replay %s over", e.Replay.ID)
		}
		over = !yield(e) || e.State == "ended"
		return !over, nil
	})
	return over, err
}
