package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/registry"
	"signalbox/internal/store"
)

// What is done to a device's live connection, in the words of signalbox.PresenceChange.
const (
	reasonDisabled = "disabled"
	reasonRemoved  = "removed"
	reasonSecret   = "secret_changed"
)

// DefaultType is the type of a device that was added without one.
const DefaultType = "device"

// MaxDevicePage bounds a page of devices or commands.
const MaxDevicePage = 1000

type listDevicesInput struct {
	Limit    int      `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"How many at most."`
	Cursor   string   `query:"cursor" doc:"The member next of the page before."`
	Type     []string `query:"type,explode" doc:"Only devices of this type; several may be given."`
	Presence string   `query:"presence" enum:"online,offline" doc:"Only devices that are online, or offline."`
	Pending  string   `query:"pending" enum:"true,false" doc:"Only devices that wait for approval, or only those that do not."`
	Prefix   string   `query:"prefix" doc:"Only devices whose name begins so."`
}

type devicesBody struct {
	Items []deviceView `json:"items" nullable:"false"`
	Next  string       `json:"next,omitempty" doc:"Cursor of the next page; absent on the last."`
	Total int          `json:"total" doc:"How many devices the hub knows, whatever the filters."`
}

// DevicePath is the part of an address that names a device; exported because huma fills
// exported fields only.
type DevicePath struct {
	Name string `path:"name" doc:"The device's name."`
}

type deviceOutput struct{ Body deviceView }

type createDeviceInput struct {
	Body struct {
		Name   string `json:"name" doc:"1 to 64 characters: letters of any script, digits, «.», «_», «-»."`
		Type   string `json:"type,omitempty" doc:"A free word such as box, station, sensor or actuator; without it, device."`
		Secret string `json:"secret,omitempty" doc:"The device's secret; without it one is generated."`
	}
}

// secretView is a device with its new secret.
type secretView struct {
	Device deviceView `json:"device"`
	Secret string     `json:"secret,omitempty" doc:"The generated secret, shown this once; absent when the caller chose it."`
}

type createDeviceOutput struct {
	Location string `header:"Location"`
	Body     secretView
}

type patchDeviceInput struct {
	DevicePath
	Body struct {
		Type     *string `json:"type,omitempty"`
		Disabled *bool   `json:"disabled,omitempty" doc:"True ends its live connection and refuses logins."`
	}
}

type approveInput struct {
	DevicePath
	Body *struct {
		Type string `json:"type,omitempty" doc:"The device's type; without it, the one that its mapping gave it."`
	}
}

type rotateInput struct {
	DevicePath
	Body *struct {
		Secret string `json:"secret,omitempty" doc:"The new secret; without it one is generated."`
	}
}

type secretOutput struct{ Body secretView }

func (s *server) registerDevices() {
	const tag = "devices"
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/devices", "list-devices", tag, "List devices", "In order of their names, a page at a time."), s.listDevices)
	create := operation(http.MethodPost, "/devices", "create-device", tag, "Add a device", "The generated secret is in the answer, and nowhere else.")
	create.DefaultStatus = http.StatusCreated
	register(s, signalbox.ScopeAdmin, create, s.createDevice)
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/devices/{name}", "get-device", tag, "Show a device", ""), s.getDevice)
	register(s, signalbox.ScopeAdmin, operation(http.MethodPatch, "/devices/{name}", "change-device", tag, "Change a device", "Members that are absent stay as they are."), s.patchDevice)
	remove := operation(http.MethodDelete, "/devices/{name}", "delete-device", tag, "Remove a device", "Its connection ends, its commands are canceled, its history is out of reach.")
	remove.DefaultStatus = http.StatusNoContent
	register(s, signalbox.ScopeAdmin, remove, s.deleteDevice)
	register(s, signalbox.ScopeAdmin, operation(http.MethodPost, "/devices/{name}/approve", "approve-device", tag, "Approve a pending device",
		"A pending device was seen without being known; its messages are kept from now on. Removing it instead forgets it, until it is seen again."), s.approveDevice)
	register(s, signalbox.ScopeAdmin, operation(http.MethodPost, "/devices/{name}/secret", "rotate-secret", tag, "Give a device a new secret", "The old one is worth nothing from then on; a live connection ends."), s.rotate)
	register(s, signalbox.ScopeRead, operation(http.MethodGet, "/devices/{name}/state", "get-state", tag, "Show a device's latest telemetry and presence", ""), s.getState)
}

func (s *server) listDevices(_ context.Context, in *listDevicesInput) (*struct{ Body devicesBody }, error) {
	after, err := decodeText(cursorDevice, in.Cursor)
	if err != nil {
		return nil, err
	}
	all := s.Devices.All()
	out := &struct{ Body devicesBody }{devicesBody{Items: []deviceView{}, Total: len(all)}}
	start, _ := slices.BinarySearchFunc(all, max(after, in.Prefix), func(d *registry.Device, name string) int { return strings.Compare(d.Name, name) })
	for _, d := range all[start:] {
		if after != "" && d.Name <= after {
			continue
		}
		if !strings.HasPrefix(d.Name, in.Prefix) {
			break
		}
		v := d.View()
		switch {
		case in.Presence != "" && string(v.Presence) != in.Presence,
			len(in.Type) > 0 && !slices.Contains(in.Type, v.Type),
			in.Pending != "" && strconv.FormatBool(v.Pending) != in.Pending:
			continue
		}
		if len(out.Body.Items) == in.Limit {
			out.Body.Next = encodeCursor(cursorDevice, []byte(out.Body.Items[in.Limit-1].Name))
			break
		}
		out.Body.Items = append(out.Body.Items, s.view(d))
	}
	return out, nil
}

// secret gives what to keep of a chosen secret, or of a new one when chosen is empty.
func (s *server) secret(chosen string) (kept store.Secret, made string, err error) {
	if chosen == "" {
		made = auth.NewSecret()
		return store.Secret{Kind: auth.SecretGenerated, Sum: auth.HashGenerated(made)}, made, nil
	}
	sum, err := s.Keys.HashChosen(chosen)
	return store.Secret{Kind: auth.SecretChosen, Sum: sum}, "", err
}

func (s *server) createDevice(ctx context.Context, in *createDeviceInput) (*createDeviceOutput, error) {
	kind := in.Body.Type
	if kind == "" {
		kind = DefaultType
	}
	if err := registry.CheckNew(in.Body.Name, kind); err != nil {
		return nil, err
	}
	kept, made, err := s.secret(in.Body.Secret)
	if err != nil {
		return nil, err
	}
	d, err := s.Devices.Add(ctx, registry.NewDevice{Name: in.Body.Name, Type: kind, Secret: kept})
	if err != nil {
		return nil, err
	}
	return &createDeviceOutput{
		Location: deviceAddress(d.Name),
		Body:     secretView{Device: s.view(d), Secret: made},
	}, nil
}

// deviceAddress is the API's path of a device.
func deviceAddress(name string) string { return "/api/v1/devices/" + url.PathEscape(name) }

func (s *server) getDevice(_ context.Context, in *DevicePath) (*deviceOutput, error) {
	d, err := s.device(in.Name)
	if err != nil {
		return nil, err
	}
	return &deviceOutput{s.view(d)}, nil
}

func (s *server) getState(_ context.Context, in *DevicePath) (*struct{ Body stateView }, error) {
	d, err := s.device(in.Name)
	if err != nil {
		return nil, err
	}
	return &struct{ Body stateView }{viewState(d.StateView())}, nil
}

func (s *server) patchDevice(ctx context.Context, in *patchDeviceInput) (*deviceOutput, error) {
	d, err := s.device(in.Name)
	if err != nil {
		return nil, err
	}
	err = s.Devices.Update(ctx, d, registry.Edit{Type: in.Body.Type, Disabled: in.Body.Disabled}, func() {
		if d.Disabled() {
			s.endSession(d, reasonDisabled)
		}
	})
	if err != nil {
		return nil, err
	}
	return &deviceOutput{s.view(d)}, nil
}

func (s *server) approveDevice(ctx context.Context, in *approveInput) (*deviceOutput, error) {
	d, err := s.device(in.Name)
	if err != nil {
		return nil, err
	}
	kind := ""
	if in.Body != nil {
		kind = in.Body.Type
	}
	if err := s.Devices.Approve(ctx, d, kind); err != nil {
		return nil, err
	}
	return &deviceOutput{s.view(d)}, nil
}

// view is d as the API writes it, with what was seen of it if it is pending.
func (s *server) view(d *registry.Device) deviceView {
	v := d.View()
	if seen, ok := s.Devices.Seen(d.ID); ok && v.Pending {
		v.LastSeen, v.Dropped, v.Topic = seen.At, seen.Messages, seen.Topic
	}
	return viewDevice(v)
}

func (s *server) deleteDevice(ctx context.Context, in *DevicePath) (*struct{}, error) {
	d, err := s.device(in.Name)
	if err != nil {
		return nil, err
	}
	err = s.Devices.Remove(ctx, d, func() {
		s.Commands.Forget(d.ID)
		s.endSession(d, reasonRemoved)
	})
	if err != nil {
		return nil, err
	}
	return nil, nil //nolint:nilnil // huma answers 204
}

func (s *server) rotate(ctx context.Context, in *rotateInput) (*secretOutput, error) {
	d, err := s.device(in.Name)
	if err != nil {
		return nil, err
	}
	chosen := ""
	if in.Body != nil {
		chosen = in.Body.Secret
	}
	kept, made, err := s.secret(chosen)
	if err != nil {
		return nil, err
	}
	if err := s.Devices.Update(ctx, d, registry.Edit{Secret: &kept}, func() { s.endSession(d, reasonSecret) }); err != nil {
		return nil, err
	}
	return &secretOutput{secretView{Device: s.view(d), Secret: made}}, nil
}
