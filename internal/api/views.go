package api

import (
	"encoding/json"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"signalbox"
)

// Time is a time as the API writes it: RFC 3339, UTC, milliseconds.
type Time struct{ time.Time }

// timeLayout is RFC 3339 (section 5.6) with milliseconds.
const timeLayout = "2006-01-02T15:04:05.000Z"

// MarshalJSON writes the time as a JSON string.
func (t Time) MarshalJSON() ([]byte, error) { return []byte(`"` + t.text() + `"`), nil }

// MarshalText writes the time without quotes.
func (t Time) MarshalText() ([]byte, error) { return []byte(t.text()), nil }

func (t Time) text() string { return t.UTC().Format(timeLayout) }

// Schema implements huma.SchemaProvider.
func (Time) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Description: "RFC 3339, UTC, milliseconds"}
}

// deviceView is a signalbox.Device as the API writes it.
type deviceView struct {
	Name      string             `json:"name" doc:"1 to 64 characters: letters of any script, digits, «.», «_», «-»."`
	Type      string             `json:"type" doc:"A free word such as box, station, sensor or actuator."`
	Status    string             `json:"status" doc:"What the device last reported as its status; online before it has; offline when it is away."`
	Presence  signalbox.Presence `json:"presence" enum:"online,offline"`
	Since     Time               `json:"since,omitzero" doc:"When the presence began; absent if the device was never connected."`
	Disabled  bool               `json:"disabled" doc:"A disabled device keeps its history but cannot log in."`
	Pending   bool               `json:"pending,omitempty" doc:"True: the device was seen without being known, and is disabled until a person approves it."`
	Dropped   int64              `json:"dropped,omitempty" doc:"Of a pending device: how many of its messages were dropped since the start of the hub."`
	Topic     string             `json:"topic,omitempty" doc:"Of a pending device: the topic of its latest message."`
	LastSeen  Time               `json:"last_seen,omitzero" doc:"When its last telemetry was received; of a pending device, its last message."`
	Address   string             `json:"address,omitempty" doc:"The network address of its latest login."`
	Protocol  signalbox.Protocol `json:"protocol,omitempty" doc:"The device protocol of the live connection, 1 to 4: 1 and 2 are the versions of the WebSocket protocol, 3 is MQTT, 4 mapped MQTT topics without a connection of its own."`
	CreatedAt Time               `json:"created_at"`
}

func viewDevice(d signalbox.Device) deviceView {
	return deviceView{
		Name: d.Name, Type: d.Type, Status: d.Status, Presence: d.Presence, Since: Time{d.Since}, Disabled: d.Disabled, Pending: d.Pending, Dropped: d.Dropped, Topic: d.Topic,
		LastSeen: Time{d.LastSeen}, Address: d.Address, Protocol: d.Protocol, CreatedAt: Time{d.CreatedAt},
	}
}

// stateView is a signalbox.State as the API writes it.
type stateView struct {
	Device    string             `json:"device"`
	Status    string             `json:"status"`
	Presence  signalbox.Presence `json:"presence" enum:"online,offline"`
	Since     Time               `json:"since,omitzero"`
	Received  Time               `json:"received,omitzero" doc:"When the latest telemetry was received; absent before the first."`
	Time      Time               `json:"time,omitzero" doc:"The history time of the latest telemetry."`
	Telemetry json.RawMessage    `json:"telemetry,omitempty" doc:"The latest object exactly as the device sent it."`
}

func viewState(s signalbox.State) stateView {
	return stateView{
		Device: s.Device, Status: s.Status, Presence: s.Presence, Since: Time{s.Since},
		Received: Time{s.Received}, Time: Time{s.Time}, Telemetry: s.Telemetry,
	}
}

// telemetryView is a signalbox.Telemetry as the API writes it.
type telemetryView struct {
	Position signalbox.Position `json:"position" doc:"The message's place in the hub's log."`
	Time     Time               `json:"time" doc:"The device's own time if it gave a plausible one, else that of receipt."`
	Received Time               `json:"received"`
	Object   json.RawMessage    `json:"object" doc:"What the device sent, its type, seq and ts included: same keys, order and spelling of numbers; or the chosen fields."`
}

// commandView is a signalbox.Command as the API writes it.
type commandView struct {
	ID             string                 `json:"id"`
	Device         string                 `json:"device"`
	Command        string                 `json:"command"`
	Value          *string                `json:"value,omitempty"`
	State          signalbox.CommandState `json:"state" enum:"queued,sent,delivered,succeeded,failed,expired,timed_out,canceled"`
	Settled        bool                   `json:"settled" doc:"Waiting any longer is pointless: it has ended, or went to a device that cannot answer."`
	Protocol       signalbox.Protocol     `json:"protocol,omitempty" doc:"The device protocol by which it was sent, 1 to 4 as of devices."`
	CreatedBy      string                 `json:"created_by,omitempty"`
	IdempotencyKey string                 `json:"idempotency_key,omitempty"`
	CreatedAt      Time                   `json:"created_at"`
	SentAt         Time                   `json:"sent_at,omitzero"`
	DeliveredAt    Time                   `json:"delivered_at,omitzero"`
	EndedAt        Time                   `json:"ended_at,omitzero"`
	ConfirmedAt    Time                   `json:"confirmed_at,omitzero" doc:"When telemetry after sending showed the field at the commanded value."`
	Already        bool                   `json:"already,omitempty" doc:"The field had the value before the command was sent."`
	ExpiresAt      Time                   `json:"expires_at,omitzero"`
	TimeoutMs      int64                  `json:"timeout_ms,omitempty"`
	Result         json.RawMessage        `json:"result,omitempty" doc:"The value the device reported."`
	Error          string                 `json:"error,omitempty" doc:"The error the device reported."`
}

func viewCommand(c *signalbox.Command) commandView {
	return commandView{
		ID: c.ID, Device: c.Device, Command: c.Name, Value: c.Value, State: c.State, Settled: c.Settled(), Protocol: c.Protocol,
		CreatedBy: c.CreatedBy, IdempotencyKey: c.IdempotencyKey, CreatedAt: Time{c.CreatedAt}, SentAt: Time{c.SentAt},
		DeliveredAt: Time{c.DeliveredAt}, EndedAt: Time{c.EndedAt}, ConfirmedAt: Time{c.ConfirmedAt}, Already: c.Already,
		ExpiresAt: Time{c.ExpiresAt}, TimeoutMs: c.TimeoutMs, Result: c.Result, Error: c.Error,
	}
}

// userView is a signalbox.User as the API writes it.
type userView struct {
	ID        int64  `json:"id"`
	Name      string `json:"name"`
	CreatedAt Time   `json:"created_at"`
}

func viewUser(u signalbox.User) userView {
	return userView{ID: u.ID, Name: u.Name, CreatedAt: Time{u.CreatedAt}}
}

// tokenView is a signalbox.Token as the API writes it.
type tokenView struct {
	ID        int64           `json:"id"`
	Name      string          `json:"name"`
	Scope     signalbox.Scope `json:"scope" enum:"read,command,admin"`
	CreatedBy string          `json:"created_by"`
	CreatedAt Time            `json:"created_at"`
	ExpiresAt Time            `json:"expires_at,omitzero" doc:"Absent: never."`
	LastUsed  Time            `json:"last_used,omitzero" doc:"True to the minute."`
}

func viewToken(t signalbox.Token) tokenView {
	return tokenView{
		ID: t.ID, Name: t.Name, Scope: t.Scope, CreatedBy: t.CreatedBy,
		CreatedAt: Time{t.CreatedAt}, ExpiresAt: Time{t.ExpiresAt}, LastUsed: Time{t.LastUsed},
	}
}
