package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"signalbox"
)

// DeviceQuery chooses devices; the zero value chooses all.
type DeviceQuery struct {
	Types    []string
	Presence signalbox.Presence
	Prefix   string
	// Pending chooses devices that wait for approval, or those that do not; nil: both.
	Pending *bool
	// Limit bounds a page, 1 to 1,000; 0 takes the hub's default.
	Limit  int
	Cursor string
}

// Page is a page of a list; Next is empty on the last.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next"`
}

// Devices gives a page of devices, in order of their names.
func (h *Hub) Devices(ctx context.Context, q DeviceQuery) (Page[signalbox.Device], error) {
	query := url.Values{}
	for _, t := range q.Types {
		query.Add("type", t)
	}
	set(query, "presence", string(q.Presence))
	set(query, "prefix", q.Prefix)
	if q.Pending != nil {
		query.Set("pending", strconv.FormatBool(*q.Pending))
	}
	set(query, "cursor", q.Cursor)
	if q.Limit > 0 {
		query.Set("limit", strconv.Itoa(q.Limit))
	}
	var page Page[signalbox.Device]
	_, err := h.do(ctx, http.MethodGet, "/devices", query, nil, &page)
	return page, err
}

// AllDevices gives every device that q chooses, asking for page after page. It ends with
// the first error.
func (h *Hub) AllDevices(ctx context.Context, q DeviceQuery) iter.Seq2[signalbox.Device, error] {
	return func(yield func(signalbox.Device, error) bool) {
		for {
			page, err := h.Devices(ctx, q)
			if err != nil {
				yield(signalbox.Device{}, err)
				return
			}
			for _, d := range page.Items {
				if !yield(d, nil) {
					return
				}
			}
			if q.Cursor = page.Next; page.Next == "" {
				return
			}
		}
	}
}

// NewDevice is a device to be added.
type NewDevice struct {
	Name string `json:"name"`
	// Type is a free word; empty takes «device».
	Type string `json:"type,omitempty"`
	// Secret is what the device logs in with; empty has the hub make one.
	Secret string `json:"secret,omitempty"`
}

// Made is a device with its new secret.
type Made struct {
	Device signalbox.Device `json:"device"`
	// Secret is the one the hub made; empty when the caller chose it. It is not shown again.
	Secret string `json:"secret"`
}

// AddDevice adds a device; KindConflict (name_taken) if the name is taken.
func (h *Hub) AddDevice(ctx context.Context, d NewDevice) (Made, error) {
	var made Made
	_, err := h.do(ctx, http.MethodPost, "/devices", nil, d, &made)
	return made, err
}

// Device gives one device; KindNotFound (device_not_found) without it.
func (h *Hub) Device(ctx context.Context, name string) (signalbox.Device, error) {
	var d signalbox.Device
	_, err := h.do(ctx, http.MethodGet, at("devices", name), nil, nil, &d)
	return d, err
}

// DeviceChange is a change of a device; nil fields stay as they are.
type DeviceChange struct {
	Type     *string `json:"type,omitempty"`
	Disabled *bool   `json:"disabled,omitempty"`
}

// ChangeDevice changes a device. Disabling ends its connection.
func (h *Hub) ChangeDevice(ctx context.Context, name string, change DeviceChange) (signalbox.Device, error) {
	var d signalbox.Device
	_, err := h.do(ctx, http.MethodPatch, at("devices", name), nil, change, &d)
	return d, err
}

// ApproveDevice lets a pending device in, as one of the type kind unless that is empty.
// KindConflict (not_pending) if it does not wait for that.
func (h *Hub) ApproveDevice(ctx context.Context, name, kind string) (signalbox.Device, error) {
	var d signalbox.Device
	body := map[string]string{}
	if kind != "" {
		body["type"] = kind
	}
	_, err := h.do(ctx, http.MethodPost, at("devices", name, "approve"), nil, body, &d)
	return d, err
}

// RemoveDevice removes a device.
func (h *Hub) RemoveDevice(ctx context.Context, name string) error {
	_, err := h.do(ctx, http.MethodDelete, at("devices", name), nil, nil, nil)
	return err
}

// RotateSecret gives a device a new secret, made by the hub if secret is empty, and ends
// its connection.
func (h *Hub) RotateSecret(ctx context.Context, name, secret string) (Made, error) {
	var made Made
	_, err := h.do(ctx, http.MethodPost, at("devices", name, "secret"), nil, map[string]string{"secret": secret}, &made)
	return made, err
}

// State gives a device's latest telemetry and presence.
func (h *Hub) State(ctx context.Context, name string) (signalbox.State, error) {
	var s signalbox.State
	_, err := h.do(ctx, http.MethodGet, at("devices", name, "state"), nil, nil, &s)
	return s, err
}

// The formats of an import.
const (
	JSON   = "application/json"
	NDJSON = "application/x-ndjson"
	CSV    = "text/csv"
)

// ImportEntry is what became of one entry of an import.
type ImportEntry struct {
	// Kind is user or device, Index the entry's place in its list from 0.
	Kind  string `json:"kind"`
	Index int    `json:"index"`
	Name  string `json:"name"`
	// Outcome is created, kept (there was one of that name) or refused.
	Outcome string `json:"outcome"`
	// Code and Message say why it was kept or refused.
	Code    string `json:"code"`
	Message string `json:"message"`
	// Secret is the one the hub made for a device that came without.
	Secret string `json:"secret"`
}

// ImportReport is what became of an import.
type ImportReport struct {
	Created int           `json:"created"`
	Kept    int           `json:"kept"`
	Refused int           `json:"refused"`
	Entries []ImportEntry `json:"entries"`
}

// ImportDevices adds up to 200,000 devices from a JSON array, JSON objects one after
// another, or CSV (name, type, password), whole or not at all. body is sent as it is read.
func (h *Hub) ImportDevices(ctx context.Context, format string, body io.Reader) (ImportReport, error) {
	var report ImportReport
	_, err := h.send(ctx, http.MethodPost, "/devices/import", nil, format, body, &report)
	return report, err
}

// ImportData imports the original server's data.json, whole or not at all. Doing it again
// changes nothing.
func (h *Hub) ImportData(ctx context.Context, body io.Reader) (ImportReport, error) {
	var report ImportReport
	_, err := h.send(ctx, http.MethodPost, "/import", nil, JSON, body, &report)
	return report, err
}

// TelemetryQuery chooses messages of a device's history.
type TelemetryQuery struct {
	// From ≤ time < To; zero: unbounded.
	From, To time.Time
	// Fields are the only fields wanted, by name or dotted path; none: the whole object.
	Fields []string
	// OldestFirst turns the order round.
	OldestFirst bool
	// Limit bounds a page, 1 to 10,000; 0 takes the hub's default. A page of long messages
	// ends before that, at 16 MiB.
	Limit  int
	Cursor string
}

func (q *TelemetryQuery) values() url.Values {
	query := url.Values{}
	if !q.From.IsZero() {
		query.Set("from", q.From.UTC().Format(time.RFC3339Nano))
	}
	if !q.To.IsZero() {
		query.Set("to", q.To.UTC().Format(time.RFC3339Nano))
	}
	set(query, "fields", strings.Join(q.Fields, ","))
	if q.OldestFirst {
		query.Set("order", "asc")
	}
	if q.Limit > 0 {
		query.Set("limit", strconv.Itoa(q.Limit))
	}
	set(query, "cursor", q.Cursor)
	return query
}

// Telemetry gives a page of a device's history, newest first unless asked otherwise.
func (h *Hub) Telemetry(ctx context.Context, name string, q TelemetryQuery) (Page[signalbox.Telemetry], error) {
	var page Page[signalbox.Telemetry]
	_, err := h.do(ctx, http.MethodGet, at("devices", name, "telemetry"), q.values(), nil, &page)
	return page, err
}

// AllTelemetry gives every message that q chooses, asking for page after page. It ends
// with the first error.
func (h *Hub) AllTelemetry(ctx context.Context, name string, q TelemetryQuery) iter.Seq2[signalbox.Telemetry, error] {
	return func(yield func(signalbox.Telemetry, error) bool) {
		for {
			page, err := h.Telemetry(ctx, name, q)
			if err != nil {
				yield(signalbox.Telemetry{}, err)
				return
			}
			for _, m := range page.Items {
				if !yield(m, nil) {
					return
				}
			}
			if q.Cursor = page.Next; page.Next == "" {
				return
			}
		}
	}
}

// TelemetryCSV gives a page of a device's history as CSV, and the cursor of the next page,
// which is empty on the last. Without Fields a page may have 1,000 columns at most:
// KindInvalid too_many_columns beyond that.
func (h *Hub) TelemetryCSV(ctx context.Context, name string, q TelemetryQuery) (page []byte, next string, err error) {
	query := q.values()
	query.Set("format", "csv")
	resp, err := h.open(ctx, http.MethodGet, at("devices", name, "telemetry"), query, "", nil)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }() // what mattered was read
	page, err = readAnswer(ctx, resp)
	return page, resp.Header.Get("Signalbox-Next"), err
}
