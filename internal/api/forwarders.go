package api

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"net/url"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"signalbox"
	"signalbox/internal/forward"
	"signalbox/internal/replay"
)

// Forwarders push what comes in to other computers; package forward's Manager is it.
type Forwarders interface {
	List() []forward.Status
	Get(name string) (forward.Status, error)
	Add(ctx context.Context, spec forward.Spec, by string) (forward.Status, error)
	Change(ctx context.Context, name string, change func(*forward.Spec) error) (forward.Status, error)
	Remove(ctx context.Context, name string) error
	Pause(ctx context.Context, name string, paused bool) error
	// Sink lets a replay play into a forwarder.
	Sink(name string) (replay.Sink, error)
	ForwarderLetters
}

// ForwarderLetters are the dead letters of forwarders.
type ForwarderLetters interface {
	// DeadLetters gives the newest first, those before an id (0: from the newest on).
	DeadLetters(ctx context.Context, name string, limit int, before int64) ([]forward.DeadLetter, error)
	// Resend and DropDead without ids are about all; they give how many there were.
	Resend(ctx context.Context, name string, ids []int64) (int, error)
	DropDead(ctx context.Context, name string, ids []int64) (int, error)
}

// maxDeadIDs bounds the dead letters that one request names.
const maxDeadIDs = 10_000

// ForwarderPath is the part of an address that names a forwarder.
type ForwarderPath struct {
	Name string `path:"name" maxLength:"256" doc:"The forwarder's name."`
}

type forwarderOutput struct{ Body *forwarderView }

type madeForwarderOutput struct {
	Location string `header:"Location"`
	Body     *forwarderView
}

type forwardersOutput struct {
	Body struct {
		Items []*forwarderView `json:"items" nullable:"false"`
	}
}

type addForwarderInput struct {
	Body struct {
		Name string `json:"name" maxLength:"256" doc:"1 to 64 characters: letters of any script, digits, «.», «_», «-»."`
		ForwarderMembers
	}
}

type changeForwarderInput struct {
	ForwarderPath
	Body struct {
		Name Member[string] `json:"name,omitzero" doc:"A forwarder cannot be renamed: another name than its own is refused."`
		ForwarderMembers
	}
}

type deadLettersInput struct {
	ForwarderPath
	Limit  int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"How many at most."`
	Cursor string `query:"cursor" doc:"The member next of the page before."`
}

// deadLetterView is a message that a receiver did not take.
type deadLetterView struct {
	ID         int64              `json:"id"`
	Position   signalbox.Position `json:"position" doc:"In the hub's log."`
	Device     string             `json:"device"`
	ReceivedAt Time               `json:"received_at" doc:"When the hub got it."`
	DiedAt     Time               `json:"died_at" doc:"When it was given up."`
	Attempts   int                `json:"attempts"`
	Status     int                `json:"status,omitempty" doc:"The receiver's last answer."`
	Reason     string             `json:"reason" doc:"The same in words."`
	Body       string             `json:"body,omitempty" doc:"What was to be sent, when it is text."`
	BodyBase64 []byte             `json:"body_base64,omitempty" doc:"What was to be sent, when it is not."`
}

type deadLettersOutput struct {
	Body struct {
		Items []deadLetterView `json:"items" nullable:"false"`
		Next  string           `json:"next,omitempty" doc:"Cursor of the next page; absent on the last."`
	}
}

type chooseDeadInput struct {
	ForwarderPath
	Body *struct {
		IDs []int64 `json:"ids,omitempty" maxItems:"10000" doc:"Only these; absent: all."`
	}
}

type countOutput struct {
	Body struct {
		Count int `json:"count" doc:"How many dead letters were sent, or dropped."`
	}
}

func (s *server) registerForwarders() {
	const tag = "forwarders"
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/forwarders", "list-forwarders", tag, "List forwarders", "In order of their names, with how they are."), s.listForwarders)
	add := operation(http.MethodPost, "/forwarders", "add-forwarder", tag, "Add a forwarder", "It begins with what comes from now on. Durations are texts such as 500ms, 30s and 7d.")
	add.DefaultStatus = http.StatusCreated
	register(s, signalbox.ScopeAdmin, add, s.addForwarder)
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/forwarders/{name}", "get-forwarder", tag, "Show a forwarder", ""), s.getForwarder)
	register(s, signalbox.ScopeAdmin, operation(http.MethodPatch, "/forwarders/{name}", "change-forwarder", tag, "Change a forwarder",
		"Members that are absent stay as they are, null takes one back to its default (RFC 7396). It goes on where it was. One that the configuration file set is changed there."), s.changeForwarder)
	remove := operation(http.MethodDelete, "/forwarders/{name}", "remove-forwarder", tag, "Remove a forwarder", "With its place in the log and its dead letters.")
	remove.DefaultStatus = http.StatusNoContent
	register(s, signalbox.ScopeAdmin, remove, func(ctx context.Context, in *ForwarderPath) (*struct{}, error) {
		return nil, s.plainTarget(in.Name, s.Forwarders.Remove(ctx, in.Name))
	})
	register(s, signalbox.ScopeAdmin, operation(http.MethodPost, "/forwarders/{name}/pause", "pause-forwarder", tag, "Pause a forwarder", "What comes meanwhile waits, up to the limits of its queue."),
		func(ctx context.Context, in *ForwarderPath) (*forwarderOutput, error) {
			return s.pauseForwarder(ctx, in.Name, true)
		})
	register(s, signalbox.ScopeAdmin, operation(http.MethodPost, "/forwarders/{name}/resume", "resume-forwarder", tag, "Let a forwarder go on", ""),
		func(ctx context.Context, in *ForwarderPath) (*forwarderOutput, error) {
			return s.pauseForwarder(ctx, in.Name, false)
		})
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/forwarders/{name}/dead-letters", "list-dead-letters", tag, "List what the receiver did not take", "Newest first, a page at a time."), s.listDeadLetters)
	register(s, signalbox.ScopeAdmin, operation(http.MethodPost, "/forwarders/{name}/dead-letters/resend", "resend-dead-letters", tag, "Send dead letters again", "The oldest first, marked as redelivered, beside what comes. Those that the receiver takes are dropped and counted, the others stay. 503 when the target is away, 409 when the forwarder is paused or the receiver refuses them all."),
		func(ctx context.Context, in *chooseDeadInput) (*countOutput, error) {
			return s.chooseDead(ctx, in, s.Forwarders.Resend)
		})
	register(s, signalbox.ScopeAdmin, operation(http.MethodDelete, "/forwarders/{name}/dead-letters", "drop-dead-letters", tag, "Drop dead letters", ""),
		func(ctx context.Context, in *chooseDeadInput) (*countOutput, error) {
			return s.chooseDead(ctx, in, s.Forwarders.DropDead)
		})
}

// plainTarget words an error about a forwarder for people, without its secrets.
func (s *server) plainTarget(name string, err error) error {
	if err == nil {
		return nil
	}
	spec := forward.Spec{}
	if status, missing := s.Forwarders.Get(name); missing == nil {
		spec = status.Spec
	}
	return targetFault(&spec, err)
}

// targetFault takes the secrets of spec out of an error, and makes what is wrong with the target
// one that may be shown.
func targetFault(spec *forward.Spec, err error) error {
	e, known := errors.AsType[*signalbox.Error](err)
	switch {
	case known:
		plain := *e
		plain.Message = forward.Scrub(e.Message, spec)
		if plain.Err != nil && plain.Kind != signalbox.KindInternal {
			plain.Err = nil // it would go to the log
		}
		return &plain
	case errors.Is(err, forward.ErrTarget):
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_target", "%s", forward.Scrub(err.Error(), spec))
	default:
		return err
	}
}

func (s *server) listForwarders(context.Context, *struct{}) (*forwardersOutput, error) {
	out := &forwardersOutput{}
	out.Body.Items = []*forwarderView{}
	list := s.Forwarders.List()
	for i := range list {
		out.Body.Items = append(out.Body.Items, viewForwarder(&list[i]))
	}
	return out, nil
}

func (s *server) getForwarder(_ context.Context, in *ForwarderPath) (*forwarderOutput, error) {
	status, err := s.Forwarders.Get(in.Name)
	if err != nil {
		return nil, err
	}
	return &forwarderOutput{viewForwarder(&status)}, nil
}

func (s *server) addForwarder(ctx context.Context, in *addForwarderInput) (*madeForwarderOutput, error) {
	spec := forward.Spec{Name: in.Body.Name}
	if err := in.Body.apply(&spec); err != nil {
		return nil, err
	}
	status, err := s.Forwarders.Add(ctx, spec, caller(ctx).Name)
	if err != nil {
		return nil, targetFault(&spec, err)
	}
	return &madeForwarderOutput{Location: "/api/v1/forwarders/" + url.PathEscape(status.Spec.Name), Body: viewForwarder(&status)}, nil
}

func (s *server) changeForwarder(ctx context.Context, in *changeForwarderInput) (*forwarderOutput, error) {
	if name := &in.Body.Name; name.set && name.value != in.Name {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "no_renaming", "a forwarder cannot be renamed; leave name out, or add one of the other name and remove this one")
	}
	var wanted forward.Spec
	status, err := s.Forwarders.Change(ctx, in.Name, func(spec *forward.Spec) error {
		err := in.Body.apply(spec)
		wanted = *spec
		return err
	})
	if err != nil {
		return nil, targetFault(&wanted, err)
	}
	return &forwarderOutput{viewForwarder(&status)}, nil
}

func (s *server) pauseForwarder(ctx context.Context, name string, paused bool) (*forwarderOutput, error) {
	if err := s.Forwarders.Pause(ctx, name, paused); err != nil {
		return nil, s.plainTarget(name, err)
	}
	return s.getForwarder(ctx, &ForwarderPath{Name: name})
}

func (s *server) listDeadLetters(ctx context.Context, in *deadLettersInput) (*deadLettersOutput, error) {
	before := int64(0)
	if in.Cursor != "" {
		place, err := decodeCursor(cursorDead, in.Cursor)
		if err != nil || len(place) != 8 {
			return nil, badCursor(in.Cursor)
		}
		before = int64(binary.BigEndian.Uint64(place)) //nolint:gosec // the same 64 bits
		if before <= 0 {
			return nil, badCursor(in.Cursor)
		}
	}
	letters, err := s.Forwarders.DeadLetters(ctx, in.Name, in.Limit+1, before)
	if err != nil {
		return nil, s.plainTarget(in.Name, err)
	}
	spec := forward.Spec{}
	if status, missing := s.Forwarders.Get(in.Name); missing == nil {
		spec = status.Spec
	}
	out := &deadLettersOutput{}
	out.Body.Items = []deadLetterView{}
	size := 0
	for i := range letters {
		l := &letters[i]
		if len(out.Body.Items) == in.Limit || size > PageBytes {
			last := out.Body.Items[len(out.Body.Items)-1].ID
			out.Body.Next = encodeCursor(cursorDead, binary.BigEndian.AppendUint64(nil, uint64(last))) //nolint:gosec // positive
			break
		}
		size += len(l.Body)
		v := deadLetterView{
			ID: l.ID, Position: l.Position, Device: l.Device, ReceivedAt: Time{l.Received}, DiedAt: Time{l.At}, Attempts: l.Attempts,
			Status: l.Status, Reason: forward.Scrub(l.Reason, &spec),
		}
		if utf8.Valid(l.Body) {
			v.Body = string(l.Body)
		} else {
			v.BodyBase64 = l.Body
		}
		out.Body.Items = append(out.Body.Items, v)
	}
	return out, nil
}

// chooseDead does something with the dead letters that a request names, or with all.
func (s *server) chooseDead(ctx context.Context, in *chooseDeadInput, do func(ctx context.Context, name string, ids []int64) (int, error)) (*countOutput, error) {
	var ids []int64
	if in.Body != nil && in.Body.IDs != nil {
		if ids = in.Body.IDs; len(ids) == 0 {
			return nil, signalbox.Errorf(signalbox.KindInvalid, "no_ids", "ids is empty; name some (at most %d), or leave it out for all", maxDeadIDs)
		}
	}
	n, err := do(ctx, in.Name, ids)
	if err != nil {
		return nil, s.plainTarget(in.Name, err)
	}
	out := &countOutput{}
	out.Body.Count = n
	return out, nil
}

var _ huma.SchemaProvider = Member[int]{}
