package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"signalbox"
)

// Watch chooses what a stream tells; the zero value chooses all that happens from now on.
type Watch struct {
	Devices []string
	Types   []string
	// Kinds are telemetry, presence, command or alert.
	Kinds []string
	// Fields are the only fields of telemetry, by name or dotted path; messages with none of them
	// are left out.
	Fields []string
	// Every is the time in which at most one message of each device comes, the newest: 100 ms to
	// 1 h. 0: each message.
	Every time.Duration
	// After is the Cursor of the last event that was taken: what was missed comes first.
	After string
	// Snapshot asks for the state of each device first; with After only if what was missed cannot
	// be given.
	Snapshot bool
	// Connection, if not nil, is told by Follow that the connection was lost (by which error), and
	// that there is a new one (nil). It is called by the goroutine that takes the events.
	Connection func(lost error)
}

// query gives w as the API reads it.
func (w *Watch) query() url.Values {
	query := url.Values{"device": w.Devices, "type": w.Types, "kind": w.Kinds}
	set(query, "fields", strings.Join(w.Fields, ","))
	set(query, "every", span(w.Every))
	set(query, "cursor", w.After)
	query.Set("snapshot", strconv.FormatBool(w.Snapshot))
	return query
}

// Event is one event of a stream.
type Event struct {
	// Kind is telemetry, presence, command, alert; state for a device of the snapshot; ready when
	// the snapshot, or what was missed, is complete; or lagged when something is missing in this
	// place.
	Kind string `json:"kind"`
	// Cursor names the place behind the event, for Watch.After. That of a state is none.
	Cursor   string             `json:"cursor"`
	Position signalbox.Position `json:"position"`
	Device   string             `json:"device"`
	Received time.Time          `json:"received"`
	// Time is the history time of telemetry.
	Time time.Time `json:"time"`
	// Object is the telemetry as the device sent it, or the chosen fields of it.
	Object   json.RawMessage           `json:"object"`
	Presence *signalbox.PresenceChange `json:"presence"`
	Command  *signalbox.Command        `json:"command"`
	// State is a device of the snapshot.
	State *signalbox.State `json:"state"`

	// Missed is how many events are missing, if that is known, between the cursors After and
	// Until. Reason is why: slow (these events were not taken fast enough), too_far (more was
	// missed than the hub reads for it), lost (the hub was killed before they were on disk, or
	// restored from an older backup), unknown_cursor (another hub's, or too old) or dropped (retention
	// dropped some of what was missed; the rest of it follows).
	Missed int64  `json:"missed"`
	After  string `json:"after"`
	Until  string `json:"until"`
	Reason string `json:"reason"`
}

// next is the cursor to come back with after the event; empty: that of before.
func (e *Event) next() string {
	switch e.Kind {
	case "state":
		return "" // states do not come in the order of the log
	case "lagged":
		if e.Reason == "dropped" {
			return "" // what is still there lies before Until, and comes behind this event
		}
		return e.Until
	default:
		return e.Cursor
	}
}

// maxEvent bounds one line of a stream, in bytes.
const maxEvent = 16 << 20

// Stream begins to listen and gives what w chooses, in the order of the hub's log, until ctx
// ends, the caller stops, or the connection is lost; the last event then carries the error.
// When Stream returns, the hub listens: nothing that happens after is passed over. Whoever does
// not take the events has to end ctx. Errors: KindLimited (too_many_viewers, too_many_own_viewers,
// too_many_choices), KindInvalid (invalid_cursor) and the general ones. Follow is Stream over lost
// connections.
func (h *Hub) Stream(ctx context.Context, w Watch) (iter.Seq2[Event, error], error) {
	ctx, cancel := context.WithCancel(ctx)
	resp, err := h.open(ctx, http.MethodGet, "/stream", w.query(), "", nil) //nolint:bodyclose // closed by the iterator, or with ctx
	if err != nil {
		cancel()
		return nil, err
	}
	return func(yield func(Event, error) bool) {
		defer cancel()
		defer func() { _ = resp.Body.Close() }() // the caller has had enough
		err := decodeEvents(resp.Body, func(e Event) bool { return e.Kind == "" || yield(e, nil) })
		if _, known := errors.AsType[*signalbox.Error](err); err != nil && !known {
			err = unreachable(ctx, err)
		}
		if err != nil {
			yield(Event{}, err)
		}
	}, nil
}

// decodeEvents reads the events of a stream and calls yield for each until it says no;
// then, and only then, it returns nil. An Event without a Kind is none: it tells a new Cursor.
func decodeEvents(r io.Reader, yield func(Event) bool) error {
	return readEvents(r, func(id, kind string, data []byte) (more bool, err error) {
		e := Event{}
		if len(data) == 0 {
			return yield(Event{Cursor: id}), nil
		}
		if err := decodeEvent(data, &e); err != nil {
			return false, err
		}
		e.Kind = kind
		if e.Cursor == "" {
			e.Cursor = id
		}
		return yield(e), nil
	})
}

func decodeEvent(data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return signalbox.Wrap(signalbox.KindInternal, "not_signalbox", err, "an event of the stream cannot be read")
	}
	return nil
}

// readEvents reads Server-Sent Events (HTML Standard, section 9.2) as the hub writes
// them and calls yield for each, whose data are lent for the call, until it wants no more or
// gives an error. An id that comes without data is yielded, too. The end of the stream is io.ErrUnexpectedEOF.
func readEvents(r io.Reader, yield func(id, kind string, data []byte) (more bool, err error)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxEvent)
	var kind, id string
	var data []byte
	for lines.Scan() {
		line := lines.Bytes()
		if len(line) == 0 {
			if len(data) > 0 || id != "" {
				if more, err := yield(id, kind, data); err != nil || !more {
					return err
				}
			}
			kind, id, data = "", "", data[:0]
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			kind = string(value)
		case "id":
			id = string(value)
		case "data":
			if len(data) > 0 {
				data = append(data, '\n')
			}
			data = append(data, value...)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}
