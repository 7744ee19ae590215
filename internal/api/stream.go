package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/live"
)

const (
	// heartbeatEvery is how often a viewer hears something, and is asked again who it is.
	heartbeatEvery = 15 * time.Second
	// writePatience is how long one write to a viewer may take.
	writePatience = 30 * time.Second
	// minEvery and maxEvery bound the time between two messages of a device.
	minEvery = 100 * time.Millisecond
	maxEvery = time.Hour
)

// StreamStats count what becomes of the viewers of streams, those of replays included.
type StreamStats struct {
	// EventStreams and WebSockets are those begun.
	EventStreams, WebSockets atomic.Int64
	// Stuck were cut because they took nothing for 30 s; Silent (WebSocket) because they
	// answered no ping for three of them.
	Stuck, Silent atomic.Int64
	// Flooded sent more than a viewer has to say; Violations did not keep to RFC 6455.
	Flooded, Violations atomic.Int64
	// Origins are upgrades refused because a page of another origin asked with a person's cookie.
	Origins atomic.Int64
	// Dismissed lost their credential meanwhile.
	Dismissed atomic.Int64
}

type streamInput struct {
	Device      []string `query:"device,explode" doc:"Only these devices; up to 1,000 may be given."`
	Type        []string `query:"type,explode" doc:"Only devices of this type; up to 100 may be given."`
	Kind        []string `query:"kind,explode" enum:"telemetry,presence,command,alert" doc:"Only these kinds; several may be given."`
	Fields      []string `query:"fields" doc:"Only these fields of telemetry, by name or dotted path, separated by commas; at most 1,000. Messages with none of them are left out."`
	Every       string   `query:"every" doc:"At most one message of each device in this time, the newest: for people's screens. 100ms to 1h; absent: each message." example:"1s"`
	Cursor      string   `query:"cursor" doc:"The cursor of the last event that was taken: what was missed comes first. Absent: what happens from now on."`
	LastEventID string   `header:"Last-Event-ID" doc:"The same as cursor, and counts before it: browsers send it when they connect again."`
	Snapshot    bool     `query:"snapshot" default:"true" doc:"First the state of each device. With a cursor: only if what was missed cannot be given."`
}

// Event is the data of one event of a stream, as it is described and as replays write it.
type Event struct {
	Kind     string             `json:"kind" enum:"telemetry,presence,command,alert,state,ready,lagged,cursor,replay" doc:"What it is. Of kind cursor, over WebSocket: nothing happened for a while, and everything up to the cursor was shown. In the stream of a replay: telemetry or replay."`
	Cursor   string             `json:"cursor,omitempty" doc:"Names the place behind this event: whoever comes back with it gets what came after."`
	Position signalbox.Position `json:"position,omitempty" doc:"The place in the hub's log."`
	Device   string             `json:"device,omitempty"`
	Received Time               `json:"received,omitzero"`
	Time     Time               `json:"time,omitzero" doc:"The history time of telemetry."`

	Object   json.RawMessage           `json:"object,omitempty" doc:"Telemetry as the device sent it, or the chosen fields; the content of an alert."`
	Presence *signalbox.PresenceChange `json:"presence,omitempty"`
	Command  *commandView              `json:"command,omitempty"`
}

// streamEvent describes all that an event of the stream may have.
type streamEvent struct {
	Event
	State   *stateView `json:"state,omitempty" doc:"Of kind state: a device of the snapshot."`
	Devices int        `json:"devices,omitempty" doc:"Of kind ready: how many devices the snapshot had."`
	Missed  int64      `json:"missed,omitempty" doc:"Of kind lagged: how many events are missing here; absent or 0: nobody knows."`
	After   string     `json:"after,omitempty" doc:"Of kind lagged: the cursor before what is missing."`
	Until   string     `json:"until,omitempty" doc:"Of kind lagged: the cursor behind what is missing."`
	Reason  string     `json:"reason,omitempty" enum:"slow,too_far,lost,unknown_cursor,dropped" doc:"Of kind lagged: slow: this viewer did not keep up; too_far: more was missed than is read for it; lost: the hub was killed before these were on disk, or restored from an older backup; unknown_cursor: another hub's, or too old; dropped: retention has dropped something of it, the rest follows behind this event, so come back with the cursor before it and not with until."`
}

func (s *server) registerStream() {
	op := operation(http.MethodGet, "/stream", "stream", "stream", "Listen to what happens",
		"Server-Sent Events; with the header «Upgrade: websocket» the same over WebSocket, a text frame an event. Each event is one JSON object. "+
			"First comes the state of each device (kind state), then ready, then what happens: telemetry, presence, command, alert. "+
			"Each event has a cursor. Whoever comes back with it, in the parameter cursor or the header Last-Event-ID, gets what came after, without a gap and without a repetition, then ready. "+
			"Where something is missing comes lagged, with its reason and how much it is. "+
			"As Server-Sent Events the name of an event is its kind and its id the cursor; a comment comes after 15 s of silence, with an id. Over WebSocket the hub pings every 15 s, and after 15 s of silence tells the cursor. "+
			"A viewer that takes nothing for 30 s is cut. WebSocket takes a browser's cookie from pages of the hub's own origin only; no credential is taken from an address.")
	op.Responses = streamResponses(s.schemas.Schema(reflect.TypeFor[streamEvent](), true, ""))
	op.Middlewares = append(op.Middlewares, noSecrets, noEmptyChoice)
	register(s, signalbox.ScopeRead, op, s.stream)
}

// streamResponses describes both transports.
func streamResponses(schema *huma.Schema) map[string]*huma.Response {
	return map[string]*huma.Response{
		"200": {
			Description: "Server-Sent Events without end. The data of each is a JSON object as in the answer 101.",
			Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}},
		},
		"101": {
			Description: "WebSocket (RFC 6455): each text frame is one event. The hub closes with 1001 when it stops, 1008 when the credential has ended or the viewer sends more than 20 frames a second, 1009 for messages above 4 KiB, 1002 and 1007 for what RFC 6455 forbids.",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: schema}},
		},
		"426": {Description: "The upgrade asks for another version of WebSocket than 13."},
	}
}

// noSecrets refuses addresses that carry a credential, before anybody looks at it: addresses
// are written into logs.
func noSecrets(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	for name := range r.URL.Query() {
		switch strings.ToLower(name) {
		case "token", "access_token", "authorization", "auth", "api_key", "apikey", "key", "password", "secret":
			writeProblem(w, badQuery("token_in_address", "query."+name,
				"a credential does not belong in an address, which others write into their logs: send the header «Authorization: Bearer», or from a page of the hub the cookie of a login; and make a new token, this one was seen"))
			return
		}
	}
	next(ctx)
}

// noEmptyChoice refuses choices without a value, as of an unset variable: they would choose
// everything.
func noEmptyChoice(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	given := r.URL.Query()
	for _, name := range []string{"device", "every", "fields", "type"} {
		if slices.Contains(given[name], "") {
			writeProblem(w, badQuery("invalid_request", "query."+name, name+" is empty; give it a value, or leave it out for no choice"))
			return
		}
	}
	next(ctx)
}

func (s *server) stream(ctx context.Context, in *streamInput) (*huma.StreamResponse, error) {
	o, err := s.viewerOptions(caller(ctx), in)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		s.watch(w, r, o)
	}}, nil
}

// viewerName names who watches, for the limits of one user or token; empty is without such limits:
// the hub's own machine, whose people may do everything.
func viewerName(who auth.Identity) string {
	switch {
	case who.User:
		return fmt.Sprintf("the user %q", who.Name)
	case who.ID != 0:
		return fmt.Sprintf("the token %q", who.Name)
	default:
		return ""
	}
}

// viewerOptions gives what is asked for.
func (s *server) viewerOptions(who auth.Identity, in *streamInput) (o live.Options, err error) {
	if n := len(in.Device); n > live.MaxDevices {
		return o, badParam("device", strconv.Itoa(n)+" names", fmt.Sprintf("at most %d are allowed: leave device out to see all, or listen to several streams", live.MaxDevices))
	}
	for _, name := range in.Device {
		d, err := s.device(name)
		if err != nil {
			return o, err
		}
		o.Devices = append(o.Devices, d.ID)
	}
	for _, name := range in.Type {
		if err := signalbox.CheckName("device type", name); err != nil {
			return o, err
		}
	}
	if len(in.Type) > 0 { // none is another choice than no choice
		o.Types = in.Type
	}
	for kind := signalbox.EntryTelemetry; kind <= signalbox.EntryAlert; kind++ {
		if slices.Contains(in.Kind, kind.String()) {
			o.Kinds = append(o.Kinds, kind)
		}
	}
	if o.Fields, err = chosenFields(in.Fields); err != nil {
		return o, err
	}
	if in.Every != "" {
		every, ok := parseDuration(in.Every)
		if !ok || every < minEvery || every > maxEvery {
			return o, badParam("every", in.Every, "allowed are durations from 100ms to 1h, such as 1s")
		}
		o.Every = every
	}
	o.Snapshot = in.Snapshot
	o.After = in.Cursor
	if in.LastEventID != "" {
		o.After = in.LastEventID
	}
	o.By = viewerName(who)
	return o, nil
}

// watch serves one viewer until it goes away, is no longer allowed, or the hub stops.
func (s *server) watch(w http.ResponseWriter, r *http.Request, o live.Options) {
	p, err := s.newPipe(w, r)
	if err != nil {
		writeProblem(w, problemOf(r.Context(), s.Logger, err))
		return
	}
	defer p.close()
	o.Format = p.format()
	viewer, err := s.Live.Join(p.context(), o)
	if err != nil {
		writeProblem(w, problemOf(r.Context(), s.Logger, err))
		return
	}
	defer viewer.Close()
	if p.begin() == nil {
		p.end(s.carry(r, p, viewer))
	}
}

// carry takes blocks from the viewer to the pipe, and says why it has ended.
func (s *server) carry(r *http.Request, p pipe, viewer *live.Viewer) error {
	ctx := p.context()
	for last := s.now(); ; {
		due := last.Add(s.heartbeat)
		quiet, cancel := context.WithDeadline(ctx, due)
		err := s.carryUntil(quiet, due, p, viewer, &last)
		cancel()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case signalbox.KindOf(err) == signalbox.KindUnavailable:
			return errStopping
		case err != nil:
			return err
		}
		if err := s.stillAllowed(r); err != nil {
			return err
		}
		if now := s.now(); now.Sub(last) >= s.heartbeat {
			cursor, _ := viewer.Cursor()
			if err := p.beat(cursor); err != nil {
				return err
			}
			last = now
		}
	}
}

// carryUntil carries until due, when ctx ends, too; *last is when something was written.
func (s *server) carryUntil(ctx context.Context, due time.Time, p pipe, viewer *live.Viewer, last *time.Time) error {
	for {
		block, err := viewer.Next(ctx)
		if ctx.Err() != nil && len(block) == 0 {
			return nil
		}
		if err == nil {
			err = p.send(block)
		}
		if err != nil {
			return err
		}
		if *last = s.now(); !last.Before(due) {
			return nil
		}
	}
}

// stillAllowed asks again who the viewer is: it may be logged out, revoked or expired meanwhile.
func (s *server) stillAllowed(r *http.Request) error {
	if _, err := s.allow(&headOnly{header: http.Header{}}, r, signalbox.ScopeRead); err != nil {
		return errNotAllowed
	}
	return nil
}

// CommandEvent gives the JSON object of a command as the API shows it, out of the body of an
// entry, and the device's name; for live.Parts.
func CommandEvent(body []byte) (device string, object []byte, err error) {
	var c signalbox.Command
	if err := json.Unmarshal(body, &c); err != nil {
		return "", nil, err
	}
	object, err = line(viewCommand(&c))
	return c.Device, object, err
}
