package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/replay"
	"signalbox/internal/wire"
)

// replayFlush is how much of a replay is written to its viewer at once, in bytes.
const replayFlush = 32 << 10

// replayView is a replay as the API shows it.
type replayView struct {
	ID        string       `json:"id"`
	Hub       string       `json:"hub" doc:"The instance of the hub that plays it."`
	State     replay.State `json:"state" enum:"waiting,playing,paused,away,ended"`
	Reason    string       `json:"reason,omitempty" enum:"done,stopped,no_viewer,failed" doc:"Why it has ended."`
	Devices   []string     `json:"devices,omitempty"`
	Types     []string     `json:"types,omitempty"`
	From      Time         `json:"from,omitzero" doc:"Absent: the beginning of history."`
	To        Time         `json:"to,omitzero"`
	Speed     float64      `json:"speed" doc:"0: as fast as possible."`
	Times     replay.Times `json:"times" enum:"original,shifted"`
	Pace      replay.Pace  `json:"pace" enum:"received,time"`
	Paused    bool         `json:"paused"`
	Sent      int64        `json:"sent" doc:"Events that the viewer has taken."`
	Seeks     uint64       `json:"seeks" doc:"How often it was moved."`
	At        Time         `json:"at,omitzero" doc:"Where its clock stands: the moment of the last event sent."`
	CreatedBy string       `json:"created_by"`
	CreatedAt Time         `json:"created_at"`
	StartedAt Time         `json:"started_at,omitzero"`
	EndedAt   Time         `json:"ended_at,omitzero"`
}

func viewReplay(s *replay.Status) replayView {
	return replayView{
		ID: s.ID, Hub: s.Hub, State: s.State, Reason: s.Reason, Devices: s.Names, Types: s.Types, From: Time{s.From}, To: Time{s.To},
		Speed: s.Speed, Times: s.Times, Pace: s.Pace, Paused: s.Paused, Sent: s.Sent, Seeks: s.Seeks, At: Time{s.At},
		CreatedBy: s.CreatedBy, CreatedAt: Time{s.CreatedAt}, StartedAt: Time{s.Started}, EndedAt: Time{s.EndAt},
	}
}

type startReplayInput struct {
	Body struct {
		Devices []string     `json:"devices,omitempty" maxItems:"100000" doc:"Only these devices; absent: all."`
		Types   []string     `json:"types,omitempty" maxItems:"1000" doc:"Only devices of these types; absent: all."`
		From    string       `json:"from,omitempty" doc:"Only messages at or after this time (RFC 3339, or Unix milliseconds); absent: from the beginning of history."`
		To      string       `json:"to,omitempty" doc:"Only messages before this time; absent: now."`
		Speed   *float64     `json:"speed,omitempty" doc:"How often as fast as it happened, 0.001 to 1,000,000; 0: as fast as possible; absent: 1."`
		Times   replay.Times `json:"times,omitempty" enum:"original,shifted" doc:"shifted: all times are moved by one span, so that the first event bears the time at which it is played. Absent: original."`
		Pace    replay.Pace  `json:"pace,omitempty" enum:"received,time" doc:"received: paced as messages were received; time: by their own times, which imported history wants. Absent: received."`
		Paused  bool         `json:"paused,omitempty" doc:"Begin when it is told to."`
	}
}

type replayOutput struct{ Body replayView }

type startReplayOutput struct {
	Location string `header:"Location"`
	Body     replayView
}

type replaysOutput struct {
	Body struct {
		Items []replayView `json:"items" nullable:"false"`
	}
}

// ReplayPath is the part of an address that names a replay.
type ReplayPath struct {
	ID string `path:"id" doc:"The replay's ID."`
}

type changeReplayInput struct {
	ReplayPath
	Body struct {
		Paused *bool    `json:"paused,omitempty" doc:"Pause, or go on."`
		Speed  *float64 `json:"speed,omitempty" doc:"From now on so often as fast as it happened; 0: as fast as possible."`
		Seek   string   `json:"seek,omitempty" doc:"Go on with the first message whose moment on the replay's clock is not before this time (RFC 3339, or Unix milliseconds)."`
	}
}

type streamReplayInput struct {
	ReplayPath
	LastEventID string `header:"Last-Event-ID" doc:"The id of the last event that was taken; it goes on behind it. Absent: behind the last one sent."`
}

func (s *server) registerReplays() {
	const tag = "replays"
	start := operation(http.MethodPost, "/replays", "start-replay", tag, "Play history again",
		"Makes a replay of the telemetry of a range of time, in the order of the hub's log. It begins when somebody listens to its stream, and ends after a minute in which nobody does. "+
			"What is in the log when it is made is played; the same choice gives the same events each time.")
	start.DefaultStatus = http.StatusCreated
	register(s, signalbox.ScopeRead, start, s.startReplay)
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/replays", "list-replays", tag, "List replays", "Those under way, and the latest that have ended; oldest first."), s.listReplays)
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/replays/{id}", "get-replay", tag, "Show a replay", ""), s.getReplay)
	register(s, signalbox.ScopeRead, operation(http.MethodPatch, "/replays/{id}", "change-replay", tag, "Pause, move or pace a replay", "Who made it may, and who may do everything."), s.changeReplay)
	stop := operation(http.MethodDelete, "/replays/{id}", "stop-replay", tag, "Stop a replay", "One that has ended is taken off the list.")
	stop.DefaultStatus = http.StatusNoContent
	register(s, signalbox.ScopeRead, stop, s.stopReplay)
	stream := operation(http.MethodGet, "/replays/{id}/stream", "stream-replay", tag, "Listen to a replay",
		"Server-Sent Events, as the stream of what happens has them: an event telemetry is a message; its member replay, with the replay's id and the hub's, marks it as played from the past. "+
			"An event replay tells that it plays, was moved, is paused or has ended; behind «ended» comes nothing. A replay has one listener: a newer one takes over, and the older is told «replaced». A slow listener slows its replay; nothing is left out. A comment comes after 15 s of silence.")
	stream.Responses = map[string]*huma.Response{"200": {
		Description: "Events until the replay ends.",
		Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}},
	}}
	register(s, signalbox.ScopeRead, stream, s.streamReplay)
}

func (s *server) startReplay(ctx context.Context, in *startReplayInput) (*startReplayOutput, error) {
	b := &in.Body
	o := replay.Options{Speed: 1, Times: b.Times, Pace: b.Pace, Paused: b.Paused, Names: b.Devices, Types: b.Types, CreatedBy: caller(ctx).Name}
	if b.Speed != nil {
		o.Speed = *b.Speed
	}
	var err error
	if o.From, err = parseTime("from", b.From); err != nil {
		return nil, err
	}
	if o.To, err = parseTime("to", b.To); err != nil {
		return nil, err
	}
	if o.To.IsZero() {
		// What was received now is part of it; whatever else the log gets is not.
		o.To = s.now().Add(time.Millisecond).UTC()
	}
	if o.Devices, err = s.chooseDevices(b.Devices, b.Types); err != nil {
		return nil, err
	}
	status, err := s.Replays.Start(o)
	if err != nil {
		return nil, err
	}
	return &startReplayOutput{Location: "/api/v1/replays/" + status.ID, Body: viewReplay(&status)}, nil
}

// chooseDevices gives the devices that have one of the names and one of the types; nil: all.
func (s *server) chooseDevices(names, types []string) ([]signalbox.DeviceID, error) {
	if len(names) == 0 && len(types) == 0 {
		return nil, nil
	}
	candidates := s.Devices.All()
	if len(names) > 0 {
		candidates = candidates[:0:0]
		for _, name := range names {
			d, err := s.device(name)
			if err != nil {
				return nil, err
			}
			candidates = append(candidates, d)
		}
	}
	var ids []signalbox.DeviceID
	for _, d := range candidates {
		if len(types) == 0 || slices.Contains(types, d.Type()) {
			ids = append(ids, d.ID)
		}
	}
	if len(ids) == 0 {
		return nil, signalbox.Errorf(signalbox.KindNotFound, "no_devices", "none of the devices asked for is of type %s", short(strings.Join(types, ", ")))
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func (s *server) listReplays(context.Context, *struct{}) (*replaysOutput, error) {
	out := &replaysOutput{}
	out.Body.Items = []replayView{}
	for _, status := range s.Replays.List() {
		out.Body.Items = append(out.Body.Items, viewReplay(&status))
	}
	return out, nil
}

func (s *server) getReplay(_ context.Context, in *ReplayPath) (*replayOutput, error) {
	status, err := s.Replays.Get(in.ID)
	if err != nil {
		return nil, err
	}
	return &replayOutput{viewReplay(&status)}, nil
}

// mine refuses those who have not made a replay and may not do everything.
func (s *server) mine(who auth.Identity, id string) error {
	status, err := s.Replays.Get(id)
	if err != nil {
		return err
	}
	if status.CreatedBy != who.Name && !who.Scope.Allows(signalbox.ScopeAdmin) {
		return signalbox.Errorf(signalbox.KindForbidden, "forbidden", "the replay %s is of %q; others need the scope %s for it", id, status.CreatedBy, signalbox.ScopeAdmin)
	}
	return nil
}

func (s *server) changeReplay(ctx context.Context, in *changeReplayInput) (*replayOutput, error) {
	if err := s.mine(caller(ctx), in.ID); err != nil {
		return nil, err
	}
	change := replay.Change{Paused: in.Body.Paused, Speed: in.Body.Speed}
	seek, err := parseTime("seek", in.Body.Seek)
	if err != nil {
		return nil, err
	}
	if in.Body.Seek != "" {
		change.Seek = &seek
	}
	status, err := s.Replays.Change(in.ID, change)
	if err != nil {
		return nil, err
	}
	return &replayOutput{viewReplay(&status)}, nil
}

func (s *server) stopReplay(ctx context.Context, in *ReplayPath) (*struct{}, error) {
	if err := s.mine(caller(ctx), in.ID); err != nil {
		return nil, err
	}
	return nil, s.Replays.Stop(in.ID)
}

func (s *server) streamReplay(ctx context.Context, in *streamReplayInput) (*huma.StreamResponse, error) {
	if err := s.mine(caller(ctx), in.ID); err != nil {
		return nil, err
	}
	resume, err := parseEventID(in.LastEventID)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		ctx, done := s.until(r.Context())
		defer done()
		v := &replayViewer{s: s, r: r, checked: s.now(), out: listener{w: w, control: http.NewResponseController(w)}}
		err := s.Replays.Play(ctx, in.ID, v, resume, s.heartbeat)
		switch {
		case err != nil && !v.begun:
			writeProblem(w, problemOf(r.Context(), s.Logger, err))
		case errors.Is(err, replay.ErrReplaced):
			v.replaced(in.ID)
		}
	}}, nil
}

// replayID is the id of an event: how often the replay was moved before it, and its position.
func replayID(seeks uint64, p signalbox.Position) string {
	return strconv.FormatUint(seeks, 10) + "-" + strconv.FormatUint(uint64(p), 10)
}

func parseEventID(text string) (replay.Resume, error) {
	if text == "" {
		return replay.Resume{}, nil
	}
	before, behind, _ := strings.Cut(text, "-")
	seeks, err := strconv.ParseUint(before, 10, 64)
	position, err2 := strconv.ParseUint(behind, 10, 64)
	if err != nil || err2 != nil {
		return replay.Resume{}, signalbox.Errorf(signalbox.KindInvalid, "invalid_last_event_id", "Last-Event-ID is %q; take it from the id of the last event of the replay's stream", short(text))
	}
	return replay.Resume{Known: true, Seeks: seeks, Position: signalbox.Position(position)}, nil
}

// replayEvent is the data of an event of a replay: that of the live stream, and the mark.
type replayEvent struct {
	event
	Replay replay.Mark `json:"replay"`
}

// replayNews is the data of an event that tells of the replay itself.
type replayNews struct {
	State  replay.State `json:"state"`
	Seeks  uint64       `json:"seeks,omitempty"`
	Reason string       `json:"reason,omitempty"`
	Sent   int64        `json:"sent,omitempty"`
	Replay replay.Mark  `json:"replay"`
}

// replayViewer is the listener of a replay: a replay.Sink.
type replayViewer struct {
	s       *server
	r       *http.Request
	out     listener
	begun   bool
	checked time.Time
}

// errNotAllowed ends a stream whose listener was logged out meanwhile.
var errNotAllowed = errors.New("the listener is no longer allowed")

// CarriesMark implements replay.Sink.
func (*replayViewer) CarriesMark() bool { return true }

// Deliver implements replay.Sink.
func (v *replayViewer) Deliver(_ context.Context, status *replay.Status, events []replay.Event) error {
	for i := range events {
		e := &events[i]
		if err := v.write(replayID(status.Seeks, e.Position), signalbox.EntryTelemetry.String(), replayEvent{
			event: event{
				Device: e.Device, Position: e.Position, Received: Time{time.UnixMicro(e.ReceivedMicros)}, Time: Time{time.UnixMicro(e.TimeMicros)}, Object: e.Object,
			},
			Replay: status.Mark,
		}); err != nil {
			v.s.Logger.Error("a message of history cannot be shown to listeners", "position", e.Position, "err", err)
			continue
		}
		if v.out.buf.Len() >= replayFlush {
			if err := v.flush(); err != nil {
				return err
			}
		}
	}
	return v.flush()
}

// Tell implements replay.Sink.
func (v *replayViewer) Tell(_ context.Context, status *replay.Status) error {
	if !v.begun {
		v.begun = true
		h := v.out.w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("X-Accel-Buffering", "no") // proxies are to pass events on at once
		v.out.w.WriteHeader(http.StatusOK)
		v.out.buf.WriteString("retry: 2000\n\n")
	}
	news := replayNews{State: status.State, Seeks: status.Seeks, Reason: status.Reason, Replay: status.Mark}
	if status.State == replay.Ended {
		news.Sent = status.Sent
	}
	if err := v.write("", wire.ReplayMember, news); err != nil {
		return err
	}
	return v.flush()
}

// Idle implements replay.Sink.
func (v *replayViewer) Idle(context.Context) error {
	v.out.buf.WriteString(": still here\n\n")
	return v.flush()
}

// replaced tells the listener why nothing more comes, so that it does not take the replay back.
func (v *replayViewer) replaced(id string) {
	status, err := v.s.Replays.Get(id)
	if err == nil {
		err = v.write("", wire.ReplayMember, replayNews{State: "replaced", Replay: status.Mark})
	}
	if err == nil {
		_ = v.flush() // a listener that has gone need not know
	}
}

// write adds an event, or nothing.
func (v *replayViewer) write(id, name string, data any) error {
	start := v.out.buf.Len()
	if id != "" {
		v.out.buf.WriteString("id: " + id + "\n")
	}
	v.out.buf.WriteString("event: " + name + "\ndata: ")
	enc := json.NewEncoder(&v.out.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(data); err != nil { // one line: the encoder takes line breaks out of raw objects
		v.out.buf.Truncate(start)
		return err
	}
	v.out.buf.WriteByte('\n')
	return nil
}

// flush sends what was written, and asks from time to time who listens.
func (v *replayViewer) flush() error {
	if now := v.s.now(); now.Sub(v.checked) >= v.s.heartbeat {
		v.checked = now
		if _, err := v.s.allow(&headOnly{header: http.Header{}}, v.r, signalbox.ScopeRead); err != nil {
			return errNotAllowed
		}
	}
	return v.out.flush()
}
