package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"signalbox"
)

// Send is a command to be sent.
type Send struct {
	Name string
	// Value is what the device gets, as a string; nil: no value.
	Value *string
	// TTL is how long it may wait for an offline device; 0: only if it is online.
	TTL time.Duration
	// Timeout is how long after sending an answer is awaited; 0 takes the hub's default.
	Timeout time.Duration
	// IdempotencyKey makes it safe to send the same command again.
	IdempotencyKey string
	// Replace cancels older commands of the same name that still wait.
	Replace bool
	// Wait is how long to wait, up to 60 s, for the command to settle; look at
	// signalbox.Command.Settled. SendAll does not wait.
	Wait time.Duration
}

type sendBody struct {
	Devices        []string `json:"devices,omitempty"`
	Type           string   `json:"type,omitempty"`
	Command        string   `json:"command"`
	Value          *string  `json:"value,omitempty"`
	TTL            string   `json:"ttl,omitempty"`
	Timeout        string   `json:"timeout,omitempty"`
	IdempotencyKey string   `json:"idempotency_key,omitempty"`
	Replace        bool     `json:"replace,omitempty"`
}

func (s *Send) body() sendBody {
	return sendBody{
		Command: s.Name, Value: s.Value, TTL: span(s.TTL), Timeout: span(s.Timeout), IdempotencyKey: s.IdempotencyKey, Replace: s.Replace,
	}
}

// Send sends a command to a device. Errors: KindNotFound (device_not_found), KindConflict
// (device_offline, device_disabled, idempotency_mismatch), KindLimited and the general
// ones. A command that the device failed is no error: look at its State.
func (h *Hub) Send(ctx context.Context, device string, s Send) (signalbox.Command, error) {
	query := url.Values{}
	set(query, "wait", span(s.Wait))
	var c signalbox.Command
	_, err := h.do(ctx, http.MethodPost, at("devices", device, "commands"), query, s.body(), &c)
	return c, err
}

// Sent is what became of one device's command of SendAll.
type Sent struct {
	Device string `json:"device"`
	// Command is nil if there is none; then Code and Message say why.
	Command *signalbox.Command `json:"command"`
	Code    string             `json:"code"`
	Message string             `json:"message"`
}

// SendAll sends a command to many devices in one request; each has its own outcome.
func (h *Hub) SendAll(ctx context.Context, devices []string, s Send) ([]Sent, error) {
	body := s.body()
	body.Devices = devices
	return h.sendAll(ctx, body)
}

// SendType sends a command to all enabled devices of a type.
func (h *Hub) SendType(ctx context.Context, deviceType string, s Send) ([]Sent, error) {
	body := s.body()
	body.Type = deviceType
	return h.sendAll(ctx, body)
}

func (h *Hub) sendAll(ctx context.Context, body sendBody) ([]Sent, error) {
	var out struct {
		Entries []Sent `json:"entries"`
	}
	_, err := h.do(ctx, http.MethodPost, "/commands", nil, body, &out)
	return out.Entries, err
}

// Command gives a command as it is, or, with wait, when it has settled or the wait is over.
func (h *Hub) Command(ctx context.Context, id string, wait time.Duration) (signalbox.Command, error) {
	query := url.Values{}
	set(query, "wait", span(wait))
	var c signalbox.Command
	_, err := h.do(ctx, http.MethodGet, at("commands", id), query, nil, &c)
	return c, err
}

// Cancel takes a queued command back; KindConflict (already_sent, already_ended) when it
// is too late.
func (h *Hub) Cancel(ctx context.Context, id string) (signalbox.Command, error) {
	var c signalbox.Command
	_, err := h.do(ctx, http.MethodDelete, at("commands", id), nil, nil, &c)
	return c, err
}

// Commands gives a page of commands, newest first: of one device, or of all when device
// is empty. limit is 1 to 1,000; 0 takes the hub's default.
func (h *Hub) Commands(ctx context.Context, device string, limit int, cursor string) (Page[signalbox.Command], error) {
	path := "/commands"
	if device != "" {
		path = at("devices", device, "commands")
	}
	query := url.Values{}
	set(query, "cursor", cursor)
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	var page Page[signalbox.Command]
	_, err := h.do(ctx, http.MethodGet, path, query, nil, &page)
	return page, err
}
