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
	"time"

	"signalbox"
)

// Watch chooses what a stream tells; the zero value chooses all.
type Watch struct {
	Devices []string
	Types   []string
	// Kinds are telemetry, presence, command or alert.
	Kinds []string
}

// Event is one event of a stream.
type Event struct {
	// Kind is telemetry, presence, command, alert, or lagged: then Missed tells how many
	// events this listener was too slow for, and the rest is empty.
	Kind     string             `json:"-"`
	Missed   int64              `json:"missed"`
	Position signalbox.Position `json:"position"`
	Device   string             `json:"device"`
	Received time.Time          `json:"received"`
	// Time is the history time of telemetry.
	Time time.Time `json:"time"`
	// Object is the telemetry as the device sent it.
	Object   json.RawMessage           `json:"object"`
	Presence *signalbox.PresenceChange `json:"presence"`
	Command  *signalbox.Command        `json:"command"`
}

// maxEvent bounds one line of a stream, in bytes.
const maxEvent = 16 << 20

// Stream begins to listen and gives what happens from now on, in the order of the hub's
// log, until ctx ends, the caller stops, or the connection is lost; the last event then
// carries the error. When Stream returns, the hub listens: nothing that happens after is
// passed over. Whoever does not take the events has to end ctx.
func (h *Hub) Stream(ctx context.Context, w Watch) (iter.Seq2[Event, error], error) {
	query := url.Values{"device": w.Devices, "type": w.Types, "kind": w.Kinds}
	ctx, cancel := context.WithCancel(ctx)
	resp, err := h.open(ctx, http.MethodGet, "/stream", query, "", nil) //nolint:bodyclose // closed by the iterator, or with ctx
	if err != nil {
		cancel()
		return nil, err
	}
	return func(yield func(Event, error) bool) {
		defer cancel()
		defer func() { _ = resp.Body.Close() }() // the caller has had enough
		err := decodeEvents(resp.Body, func(e Event) bool { return yield(e, nil) })
		if _, known := errors.AsType[*signalbox.Error](err); err != nil && !known {
			err = unreachable(ctx, err)
		}
		if err != nil {
			yield(Event{}, err)
		}
	}, nil
}

// decodeEvents reads the events of a stream and calls yield for each until it says no;
// then, and only then, it returns nil.
func decodeEvents(r io.Reader, yield func(Event) bool) error {
	return readEvents(r, func(id, kind string, data []byte) (more bool, err error) {
		e := Event{}
		if err := decodeEvent(data, &e); err != nil {
			return false, err
		}
		e.Kind = kind
		if p, err := strconv.ParseUint(id, 10, 64); err == nil {
			e.Position = signalbox.Position(p)
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
// gives an error. The end of the stream is io.ErrUnexpectedEOF.
func readEvents(r io.Reader, yield func(id, kind string, data []byte) (more bool, err error)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxEvent)
	var kind, id string
	var data []byte
	for lines.Scan() {
		line := lines.Bytes()
		if len(line) == 0 {
			if len(data) > 0 {
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
