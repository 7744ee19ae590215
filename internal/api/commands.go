package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"signalbox"
)

// MaxWait is the longest a request may wait for a command to settle.
const MaxWait = 60 * time.Second

// maxBulkBody bounds the body of a bulk, in bytes: 160 for each of the 100,000 devices that one may
// address by default. In memory it takes some ten times as much.
const maxBulkBody = 16 << 20

// value is the value of a command in a request: a string, a number (as it is spelt) or a
// boolean, each of which becomes a string; null or absent is no value.
type value struct{ text *string }

// UnmarshalJSON reads a value.
func (v *value) UnmarshalJSON(b []byte) error {
	switch b = bytes.TrimSpace(b); {
	case len(b) == 0, string(b) == "null":
		v.text = nil
	case b[0] == '"':
		return json.Unmarshal(b, &v.text)
	case b[0] == '{', b[0] == '[':
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_value", "the value of a command is an object or array; allowed are a string, a number, true, false and null")
	default:
		text := string(b)
		v.text = &text
	}
	return nil
}

// Schema implements huma.SchemaProvider.
func (value) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Description: "A string, a number or a boolean: the device gets it as a string. Absent or null: the command has no value.", Examples: []any{"90"}}
}

// CommandBody is what all requests for commands say.
type CommandBody struct {
	Command        string   `json:"command" doc:"The command's name." example:"servo1"`
	Value          value    `json:"value" required:"false"`
	TTL            Duration `json:"ttl,omitempty" doc:"How long it may wait for an offline device; 0, the default: only if the device is online."`
	Timeout        Duration `json:"timeout,omitempty" doc:"How long after sending an answer is awaited."`
	IdempotencyKey string   `json:"idempotency_key,omitempty" doc:"A repeated request with the same key gives the first one's command."`
	Replace        bool     `json:"replace,omitempty" doc:"Cancels older commands of the same name that still wait."`
}

func (b *CommandBody) request(device, key, by string) signalbox.CommandRequest {
	if key == "" {
		key = b.IdempotencyKey
	}
	return signalbox.CommandRequest{
		Device: device, Name: b.Command, Value: b.Value.text, TTL: time.Duration(b.TTL), Timeout: time.Duration(b.Timeout),
		IdempotencyKey: key, Replace: b.Replace, CreatedBy: by,
	}
}

type sendInput struct {
	DevicePath
	Wait string `query:"wait" doc:"Answer when the command has settled or this time (at most 60s) is over." example:"5s"`
	Key  string `header:"Idempotency-Key" doc:"Like the member idempotency_key."`
	Body CommandBody
}

type sendOutput struct {
	Status   int
	Location string `header:"Location"`
	Body     commandView
}

type commandOutput struct{ Body commandView }

// CommandPath is the part of an address that names a command.
type CommandPath struct {
	ID string `path:"id" doc:"The command's ID."`
}

// ListCommandsInput asks for a page of commands.
type ListCommandsInput struct {
	Limit  int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"How many at most."`
	Cursor string `query:"cursor" doc:"The member next of the page before."`
}

type listDeviceCommandsInput struct {
	DevicePath
	ListCommandsInput
}

type commandsBody struct {
	Items []commandView `json:"items" nullable:"false"`
	Next  string        `json:"next,omitempty" doc:"Cursor of the next page; absent on the last."`
}

type commandsOutput struct{ Body commandsBody }

type bulkInput struct {
	Key  string `header:"Idempotency-Key" doc:"Like the member idempotency_key; it is remembered per device."`
	Body struct {
		Devices []string `json:"devices,omitempty" maxItems:"1000000" doc:"The devices' names; at most commands.max_bulk."`
		Type    string   `json:"type,omitempty" doc:"Instead of devices: all enabled devices of this type."`
		CommandBody
	}
}

// bulkEntry is what became of one device's command.
type bulkEntry struct {
	Device  string       `json:"device"`
	Command *commandView `json:"command,omitempty" doc:"The command; absent when there is none."`
	Code    string       `json:"code,omitempty" doc:"Why there is none, in a word."`
	Message string       `json:"message,omitempty" doc:"Why there is none."`
}

type bulkBody struct {
	Accepted int         `json:"accepted"`
	Refused  int         `json:"refused"`
	Entries  []bulkEntry `json:"entries" nullable:"false"`
}

func (s *server) registerCommands() {
	const tag = "commands"
	view := s.schemas.Schema(reflect.TypeFor[commandView](), true, "")
	send := operation(http.MethodPost, "/devices/{name}/commands", "send-command", tag, "Send a command",
		"201: the command was made, and with wait has settled. 202: wait was given and is over, the command has not settled. "+
			"200: the idempotency key had been used, this is the command it made. Look at state: it says what the device reported, and no more.")
	send.DefaultStatus = http.StatusCreated
	send.Responses = map[string]*huma.Response{}
	for status, words := range map[string]string{"200": "The command that the idempotency key made before.", "201": "The command.", "202": "The command, which has not settled yet."} {
		send.Responses[status] = &huma.Response{Description: words, Content: map[string]*huma.MediaType{"application/json": {Schema: view}}}
	}
	register(s, signalbox.ScopeCommand, send, s.send)
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/devices/{name}/commands", "list-device-commands", tag, "List a device's commands", "Newest first."), s.listDeviceCommands)
	bulk := operation(http.MethodPost, "/commands", "send-commands", tag, "Send a command to many devices", "Each device has its own outcome; one that is refused does not touch the others.")
	bulk.MaxBodyBytes = s.bulkBody()
	register(s, signalbox.ScopeCommand, bulk, s.sendBulk)
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/commands", "list-commands", tag, "List commands", "Newest first."), s.listCommands)
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/commands/{id}", "get-command", tag, "Show a command", ""), s.getCommand)
	register(s, signalbox.ScopeCommand, operation(http.MethodDelete, "/commands/{id}", "cancel-command", tag, "Cancel a command", "Only a command that is still queued can be canceled."), s.cancelCommand)
}

func (s *server) send(ctx context.Context, in *sendInput) (*sendOutput, error) {
	wait, err := parseWait(in.Wait)
	if err != nil {
		return nil, err
	}
	if in.Key != "" && in.Body.IdempotencyKey != "" && in.Key != in.Body.IdempotencyKey {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_idempotency_key", "the header Idempotency-Key and the member idempotency_key differ; give one of them")
	}
	req := in.Body.request(in.Name, in.Key, caller(ctx).Name)
	start := s.now().Truncate(time.Millisecond)
	c, err := s.Commands.Submit(ctx, req)
	if err != nil {
		return nil, err
	}
	out := &sendOutput{Status: http.StatusCreated, Location: "/api/v1/commands/" + c.ID}
	if req.IdempotencyKey != "" && c.CreatedAt.Before(start) {
		out.Status = http.StatusOK
	}
	if wait > 0 && !c.Settled() {
		if c, err = s.await(ctx, c.ID, wait); err != nil {
			return nil, err
		}
		if !c.Settled() && out.Status == http.StatusCreated {
			out.Status = http.StatusAccepted
		}
	}
	out.Body = viewCommand(&c)
	return out, nil
}

func parseWait(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	wait, ok := parseDuration(text)
	if !ok || wait > MaxWait {
		return 0, badParam("wait", text, "allowed are durations from 0s to 60s, such as 5s")
	}
	return wait, nil
}

// await gives the command when it has settled, time is over or the hub stops.
func (s *server) await(ctx context.Context, id string, wait time.Duration) (signalbox.Command, error) {
	ctx, done := s.until(ctx)
	defer done()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return s.Commands.Wait(ctx, id)
}

// bulkBody is how long the body of a bulk may be, in bytes.
func (s *server) bulkBody() int64 { return max(s.MaxBody, min(s.MaxImport, maxBulkBody)) }

func (s *server) sendBulk(ctx context.Context, in *bulkInput) (*struct{ Body bulkBody }, error) {
	names := in.Body.Devices
	if (len(names) > 0) == (in.Body.Type != "") {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_devices", "exactly one of devices (a list of names) and type is needed")
	}
	if in.Body.Type != "" {
		for _, d := range s.Devices.All() {
			if d.Type() == in.Body.Type && !d.Disabled() {
				names = append(names, d.Name)
			}
		}
	}
	by := caller(ctx).Name
	reqs := make([]signalbox.CommandRequest, len(names))
	for i, name := range names {
		reqs[i] = in.Body.request(name, in.Key, by)
	}
	out := &struct{ Body bulkBody }{bulkBody{Entries: make([]bulkEntry, len(names))}}
	outcomes := s.Commands.SubmitBulk(ctx, reqs)
	if len(outcomes) > 0 && signalbox.KindOf(outcomes[0].Err) == signalbox.KindTooLarge {
		return nil, outcomes[0].Err // that of all: too many are addressed
	}
	for i, o := range outcomes {
		entry := bulkEntry{Device: names[i]}
		if o.Err != nil {
			p := problemOf(ctx, s.Logger, o.Err)
			entry.Code, entry.Message = p.Code, p.Detail
			out.Body.Refused++
		} else {
			view := viewCommand(&o.Command)
			entry.Command = &view
			out.Body.Accepted++
		}
		out.Body.Entries[i] = entry
	}
	return out, nil
}

func (s *server) listDeviceCommands(ctx context.Context, in *listDeviceCommandsInput) (*commandsOutput, error) {
	d, err := s.device(in.Name)
	if err != nil {
		return nil, err
	}
	return s.pageCommands(ctx, d.ID, &in.ListCommandsInput)
}

func (s *server) listCommands(ctx context.Context, in *ListCommandsInput) (*commandsOutput, error) {
	return s.pageCommands(ctx, 0, in)
}

func (s *server) pageCommands(ctx context.Context, device signalbox.DeviceID, in *ListCommandsInput) (*commandsOutput, error) {
	before, err := decodeText(cursorCommand, in.Cursor)
	if err != nil {
		return nil, err
	}
	list, err := s.Commands.List(ctx, device, before, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &commandsOutput{commandsBody{Items: make([]commandView, len(list))}}
	for i := range list {
		out.Body.Items[i] = viewCommand(&list[i])
	}
	if len(list) == in.Limit {
		out.Body.Next = encodeCursor(cursorCommand, []byte(list[len(list)-1].ID))
	}
	return out, nil
}

func (s *server) getCommand(ctx context.Context, in *struct {
	CommandPath
	Wait string `query:"wait" doc:"Answer when the command has settled or this time (at most 60s) is over." example:"5s"`
},
) (*commandOutput, error) {
	wait, err := parseWait(in.Wait)
	if err != nil {
		return nil, err
	}
	c, err := s.Commands.Get(ctx, in.ID)
	if err == nil && wait > 0 && !c.Settled() {
		c, err = s.await(ctx, in.ID, wait)
	}
	if err != nil {
		return nil, err
	}
	return &commandOutput{viewCommand(&c)}, nil
}

func (s *server) cancelCommand(ctx context.Context, in *CommandPath) (*commandOutput, error) {
	c, err := s.Commands.Cancel(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &commandOutput{viewCommand(&c)}, nil
}
