package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"signalbox"
)

const (
	// streamQueue is how many entries wait for one listener.
	streamQueue = 4096
	// heartbeatEvery is how often a listener hears something, and is asked again who it is.
	heartbeatEvery = 15 * time.Second
	// writePatience is how long one write to a listener may take.
	writePatience = 30 * time.Second
)

type streamInput struct {
	Device []string `query:"device,explode" doc:"Only these devices; several may be given."`
	Type   []string `query:"type,explode" doc:"Only devices of this type; several may be given."`
	Kind   []string `query:"kind,explode" enum:"telemetry,presence,command,alert" doc:"Only these kinds; several may be given."`
}

// event is the data of one event of the stream.
type event struct {
	Device   string             `json:"device"`
	Position signalbox.Position `json:"position"`
	Received Time               `json:"received"`
	Time     Time               `json:"time,omitzero"`

	Object   json.RawMessage           `json:"object,omitempty"`
	Presence *signalbox.PresenceChange `json:"presence,omitempty"`
	Command  *commandView              `json:"command,omitempty"`
}

func (s *server) registerStream() {
	op := operation(http.MethodGet, "/stream", "stream", "stream", "Listen to what happens",
		"Server-Sent Events. The name of an event is its kind (telemetry, presence, command), its id the position in the hub's log. "+
			"An event lagged says how many were missed because the listener was too slow. A comment comes every 15 s.")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "Events without end.",
		Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}},
	}}
	register(s, signalbox.ScopeRead, op, s.stream)
}

func (s *server) stream(_ context.Context, in *streamInput) (*huma.StreamResponse, error) {
	f, err := s.newFilter(in)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		s.listen(w, r, f)
	}}, nil
}

// filter is what a listener wants to hear.
type filter struct {
	ids   map[signalbox.DeviceID]bool // nil: all
	kinds map[signalbox.EntryKind]bool
	types []string // none: all
}

func (s *server) newFilter(in *streamInput) (*filter, error) {
	f := &filter{types: in.Type}
	for _, name := range in.Device {
		d, err := s.device(name)
		if err != nil {
			return nil, err
		}
		if f.ids == nil {
			f.ids = map[signalbox.DeviceID]bool{}
		}
		f.ids[d.ID] = true
	}
	for kind := signalbox.EntryTelemetry; kind <= signalbox.EntryAlert; kind++ {
		if len(in.Kind) > 0 && !slices.Contains(in.Kind, kind.String()) {
			continue
		}
		if f.kinds == nil {
			f.kinds = map[signalbox.EntryKind]bool{}
		}
		f.kinds[kind] = true
	}
	return f, nil
}

// wants is called by the publisher: it looks at the entry alone and takes no lock.
func (f *filter) wants(e *signalbox.Entry) bool {
	return f.kinds[e.Kind] && (f.ids == nil || f.ids[e.Device])
}

// listen serves one listener until it goes away, is no longer allowed, or the hub stops.
func (s *server) listen(w http.ResponseWriter, r *http.Request, f *filter) {
	ctx, done := s.until(r.Context())
	defer done()
	sub := s.Bus.Subscribe(streamQueue, f.wants)
	defer sub.Close()
	out := &listener{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // proxies are to pass events on at once
	w.WriteHeader(http.StatusOK)
	out.buf.WriteString("retry: 2000\n\n")
	if out.flush() != nil {
		return
	}
	var batch []signalbox.Entry
	lastCheck := s.now()
	for {
		next, cancel := context.WithTimeout(ctx, s.heartbeat)
		entries, missed, err := sub.Next(next, batch[:0])
		cancel()
		if ctx.Err() != nil {
			return
		}
		if s.now().Sub(lastCheck) >= s.heartbeat {
			lastCheck = s.now()
			if _, err := s.allow(&headOnly{header: http.Header{}}, r, signalbox.ScopeRead); err != nil {
				return // logged out, revoked or expired meanwhile
			}
		}
		if errors.Is(err, context.DeadlineExceeded) {
			out.buf.WriteString(": still here\n\n")
		}
		for i := range entries {
			s.writeEvent(out, f, &entries[i])
		}
		if missed > 0 {
			fmt.Fprintf(&out.buf, "event: lagged\ndata: {\"missed\":%d}\n\n", missed)
		}
		batch = entries
		clear(batch) // let go of the bodies
		if out.flush() != nil {
			return
		}
	}
}

// listener is the far end of a stream.
type listener struct {
	w       http.ResponseWriter
	control *http.ResponseController
	buf     bytes.Buffer
}

// flush sends what was written to buf.
func (l *listener) flush() error {
	if l.buf.Len() == 0 {
		return nil
	}
	// Inside the process and in tests there are no deadlines; then none is needed.
	_ = l.control.SetWriteDeadline(time.Now().Add(writePatience))
	_, err := l.w.Write(l.buf.Bytes())
	l.buf.Reset()
	if err != nil {
		return err
	}
	return l.control.Flush()
}

// writeEvent adds one entry, if the listener's filter by type wants it.
func (s *server) writeEvent(out *listener, f *filter, e *signalbox.Entry) {
	ev := event{Position: e.Position, Received: Time{time.UnixMicro(e.ReceivedMicros)}}
	if d := s.Devices.Get(e.Device); d != nil {
		ev.Device = d.Name
		if len(f.types) > 0 && !slices.Contains(f.types, d.Type()) {
			return
		}
	} else if len(f.types) > 0 {
		return
	}
	var err error
	switch e.Kind {
	case signalbox.EntryTelemetry:
		ev.Object, ev.Time = e.Body, Time{time.UnixMicro(e.TimeMicros)}
	case signalbox.EntryPresence:
		err = json.Unmarshal(e.Body, &ev.Presence)
	case signalbox.EntryCommand:
		var c signalbox.Command
		if err = json.Unmarshal(e.Body, &c); err == nil {
			view := viewCommand(&c)
			ev.Device, ev.Command = c.Device, &view
		}
	default:
		ev.Object = e.Body
	}
	start := out.buf.Len()
	out.buf.WriteString("id: " + strconv.FormatUint(uint64(e.Position), 10) + "\nevent: " + e.Kind.String() + "\ndata: ")
	if err == nil {
		enc := json.NewEncoder(&out.buf)
		enc.SetEscapeHTML(false)
		err = enc.Encode(ev) // one line: the encoder takes line breaks out of raw objects
	}
	if err != nil {
		out.buf.Truncate(start)
		s.Logger.Error("an entry of the log cannot be shown to listeners", "position", e.Position, "kind", e.Kind.String(), "err", err)
		return
	}
	out.buf.WriteByte('\n')
}
