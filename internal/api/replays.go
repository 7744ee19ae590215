package api

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"reflect"
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
	Fault     string       `json:"fault,omitempty" doc:"Of one that the hub played by itself and that failed: what went wrong."`
	Into      string       `json:"into,omitempty" doc:"What the hub plays it into by itself: viewers, or forwarder and a name. Absent: whoever listens to its stream."`
	Unmarked  bool         `json:"unmarked,omitempty" doc:"It may go where nothing says that it is a replay."`
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
		ID: s.ID, Hub: s.Hub, State: s.State, Reason: s.Reason, Fault: s.Fault, Into: s.Into, Unmarked: s.Unmarked, Devices: s.Names, Types: s.Types, From: Time{s.From}, To: Time{s.To},
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
		Into    *ReplayInto  `json:"into,omitempty" doc:"The hub plays it by itself into a forwarder, or to the original viewers; that needs the scope admin. Absent: to whoever listens to its stream."`
		// Unmarked goes with Into.
		Unmarked bool `json:"unmarked,omitempty" doc:"With into: allow a format that cannot say that the telemetry is of a replay, such as the viewers'. Whoever gets it takes it for new."`
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
	Cursor      string `query:"cursor" doc:"The cursor of the last event that was taken; it goes on behind it. Absent: behind the last one sent."`
	LastEventID string `header:"Last-Event-ID" doc:"The same as cursor, and counts before it."`
}

func (s *server) registerReplays() {
	const tag = "replays"
	start := operation(http.MethodPost, "/replays", "start-replay", tag, "Play history again",
		"Makes a replay of the telemetry of a range of time, in the order of the hub's log. It begins when somebody listens to its stream, and ends after a minute in which nobody does; with into it begins at once, and ends by itself. "+
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
		"Server-Sent Events or WebSocket, as the stream of what happens has them: an event telemetry is a message; its member replay, with the replay's id and the hub's, marks it as played from the past. "+
			"An event replay tells that it plays, was moved, is paused or has ended; behind «ended» comes nothing. A replay has one listener: a newer one takes over, and the older is told «replaced». A slow listener slows its replay; nothing is left out. A comment comes after 15 s of silence; over WebSocket the hub pings every 15 s.")
	stream.Responses = streamResponses(s.schemas.Schema(reflect.TypeFor[replayStreamEvent](), true, ""))
	stream.Middlewares = append(stream.Middlewares, noSecrets)
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
	status, err := s.beginReplay(caller(ctx), o, b.Into, b.Unmarked)
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
	from := in.Cursor
	if in.LastEventID != "" {
		from = in.LastEventID
	}
	resume, err := parseEventID(from)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		s.playReplay(w, r, in.ID, resume)
	}}, nil
}

// playReplay plays to one viewer until the replay ends, or what else ends streams happens.
func (s *server) playReplay(w http.ResponseWriter, r *http.Request, id string, resume replay.Resume) {
	p, err := s.newPipe(w, r)
	if err != nil {
		writeProblem(w, problemOf(r.Context(), s.Logger, err))
		return
	}
	defer p.close()
	ctx := p.context()
	v := &replayViewer{s: s, r: r, checked: s.now(), pipe: p}
	err = s.Replays.Play(ctx, id, v, resume, s.heartbeat)
	if !v.begun {
		if err != nil {
			writeProblem(w, problemOf(r.Context(), s.Logger, err))
		}
		return
	}
	switch {
	case errors.Is(err, replay.ErrReplaced):
		v.replaced(id)
		err = nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	p.end(err)
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
		return replay.Resume{}, signalbox.Errorf(signalbox.KindInvalid, "invalid_last_event_id", "the cursor of a replay is %q; take it from the member cursor, or the id, of the last event of its stream", short(text))
	}
	return replay.Resume{Known: true, Seeks: seeks, Position: signalbox.Position(position)}, nil
}

// ReplayEvent is the data of an event of a replay: that of the live stream, and the mark.
type ReplayEvent struct {
	Event
	Replay replay.Mark `json:"replay"`
}

// replayNews is the data of an event that tells of the replay itself.
type replayNews struct {
	Kind   string       `json:"kind"`
	State  replay.State `json:"state"`
	Seeks  uint64       `json:"seeks,omitempty"`
	Reason string       `json:"reason,omitempty"`
	Sent   int64        `json:"sent,omitempty"`
	Replay replay.Mark  `json:"replay"`
}

// replayStreamEvent describes all that an event of a replay's stream may have.
type replayStreamEvent struct {
	ReplayEvent
	State  replay.State `json:"state,omitempty" enum:"playing,paused,ended,replaced" doc:"Of kind replay: how it stands."`
	Seeks  uint64       `json:"seeks,omitempty" doc:"Of kind replay: how often it was moved."`
	Reason string       `json:"reason,omitempty" enum:"done,stopped,no_viewer,failed" doc:"Of kind replay: why it has ended."`
	Sent   int64        `json:"sent,omitempty" doc:"Of kind replay: how many messages its viewers have taken."`
}

// replayViewer is the viewer of a replay: a replay.Sink.
type replayViewer struct {
	s       *server
	r       *http.Request
	pipe    pipe
	out     bytes.Buffer
	begun   bool
	checked time.Time
}

// CarriesMark implements replay.Sink.
func (*replayViewer) CarriesMark() bool { return true }

// Deliver implements replay.Sink.
func (v *replayViewer) Deliver(_ context.Context, status *replay.Status, events []replay.Event) error {
	for i := range events {
		e := &events[i]
		id := replayID(status.Seeks, e.Position)
		if err := v.write(id, signalbox.EntryTelemetry.String(), ReplayEvent{
			Event: Event{
				Kind: signalbox.EntryTelemetry.String(), Cursor: id, Device: e.Device, Position: e.Position,
				Received: Time{time.UnixMicro(e.ReceivedMicros)}, Time: Time{time.UnixMicro(e.TimeMicros)}, Object: e.Object,
			},
			Replay: status.Mark,
		}); err != nil {
			v.s.Logger.Error("a message of history cannot be shown to viewers", "position", e.Position, "err", err)
			continue
		}
		if v.out.Len() >= replayFlush {
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
		if err := v.pipe.begin(); err != nil {
			return err
		}
	}
	news := replayNews{Kind: wire.ReplayMember, State: status.State, Seeks: status.Seeks, Reason: status.Reason, Replay: status.Mark}
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
	if err := v.stillAllowed(); err != nil {
		return err
	}
	return v.pipe.beat("")
}

// replaced tells the viewer why nothing more comes, so that it does not take the replay back.
func (v *replayViewer) replaced(id string) {
	status, err := v.s.Replays.Get(id)
	if err == nil {
		err = v.write("", wire.ReplayMember, replayNews{Kind: wire.ReplayMember, State: "replaced", Replay: status.Mark})
	}
	if err == nil {
		_ = v.flush() // a viewer that has gone need not know
	}
}

// write adds an event, or nothing.
func (v *replayViewer) write(id, name string, data any) error {
	text, err := line(data)
	if err == nil {
		appendEvent(&v.out, v.pipe.format(), id, name, text)
	}
	return err
}

// flush sends what was written.
func (v *replayViewer) flush() error {
	if err := v.stillAllowed(); err != nil {
		return err
	}
	if v.out.Len() == 0 {
		return nil
	}
	defer v.out.Reset()
	return v.pipe.send(v.out.Bytes())
}

// stillAllowed asks from time to time who the viewer is.
func (v *replayViewer) stillAllowed() error {
	now := v.s.now()
	if now.Sub(v.checked) < v.s.heartbeat {
		return nil
	}
	v.checked = now
	return v.s.stillAllowed(v.r)
}
