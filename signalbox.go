// Package signalbox holds the nouns of a device hub: devices, telemetry,
// presence, commands, people and programs, the kinds of error and the limits
// that every other package agrees on. It imports the standard library only and
// is imported by all, so that there is one vocabulary and no import circle.
//
// Times that cross a package border are time.Time in UTC; on the hot roads, where
// a message must not allocate, they are Unix microseconds and say so in their name
// (…Micros).
package signalbox

import (
	"encoding/json"
	"time"
)

// DeviceID is the number under which the hub keeps a device. Numbers start at 1, are
// dense, are never used twice, and stay inside the hub: people and programs use names.
type DeviceID uint32

// Position is a place in the hub's one durable log, counted from 1 without gaps.
// It orders telemetry, presence, command states and alerts of all devices, and
// survives restarts. 0 means «none».
type Position uint64

// Protocol is the device protocol that a connection speaks.
type Protocol uint8

// The device protocols. ProtocolV1 is the original remote-control server's
// (commands at most once, never answered); ProtocolV2 is Signalbox's own
// (acknowledged, resumable); ProtocolMQTT is MQTT with the native topics, answered as
// version 2; ProtocolMapped is MQTT with topics of the device's own, which the configuration
// maps (commands at most once, never answered).
const (
	ProtocolNone   Protocol = 0
	ProtocolV1     Protocol = 1
	ProtocolV2     Protocol = 2
	ProtocolMQTT   Protocol = 3
	ProtocolMapped Protocol = 4
)

// Answers says whether a device of this protocol can acknowledge a command and
// report its result.
func (p Protocol) Answers() bool { return p == ProtocolV2 || p == ProtocolMQTT }

// Presence is whether a device has a live connection.
type Presence string

// The two presences.
const (
	Online  Presence = "online"
	Offline Presence = "offline"
)

// Device is what people and programs see of a device. Its secret is never part of it.
type Device struct {
	ID   DeviceID `json:"-"`
	Name string   `json:"name"`
	// Type is a free word such as box, station, sensor or actuator.
	Type string `json:"type"`
	// Status is what the device last reported under the key status, «online» when it
	// is connected and has reported nothing yet, «offline» when it is away.
	Status string `json:"status"`
	// Presence is online or offline; Since is when that began (zero: never connected).
	Presence Presence  `json:"presence"`
	Since    time.Time `json:"since,omitzero"`
	// Disabled devices keep their history but cannot log in.
	Disabled bool `json:"disabled"`
	// Pending devices were seen without being known: disabled until a person approves them.
	Pending bool `json:"pending,omitempty"`
	// Dropped and Topic tell of a pending device how many of its messages were dropped since
	// the start of the hub, and the topic of the latest; LastSeen is its time.
	Dropped int64  `json:"dropped,omitempty"`
	Topic   string `json:"topic,omitempty"`
	// LastSeen is when the last telemetry was received (zero: never).
	LastSeen time.Time `json:"last_seen,omitzero"`
	// Address is the network address of the latest successful login.
	Address string `json:"address,omitempty"`
	// Protocol is the device protocol version of the live connection, 0 when offline.
	Protocol  Protocol  `json:"protocol,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// State is a device's latest telemetry and presence.
type State struct {
	Device   string    `json:"device"`
	Status   string    `json:"status"`
	Presence Presence  `json:"presence"`
	Since    time.Time `json:"since,omitzero"`
	// Received and Time are those of the latest telemetry (zero: none yet).
	Received time.Time `json:"received,omitzero"`
	Time     time.Time `json:"time,omitzero"`
	// Telemetry is the latest object exactly as the device sent it; nil before the first.
	Telemetry json.RawMessage `json:"telemetry,omitempty"`
}

// Telemetry is one stored message of readings.
type Telemetry struct {
	Position Position `json:"position"`
	// Time is the device's own time stamp where it gave a plausible one (protocol 2),
	// otherwise the time of receipt. History is ordered by it.
	Time     time.Time `json:"time"`
	Received time.Time `json:"received"`
	// Object is what the device sent: same keys, order, nesting and spelling of numbers.
	Object json.RawMessage `json:"object"`
}

// EntryKind says what an Entry of the log records.
type EntryKind uint8

// The kinds of log entry. The numbers are written to disk: never renumber.
const (
	EntryTelemetry EntryKind = 1
	EntryPresence  EntryKind = 2
	EntryCommand   EntryKind = 3
	EntryAlert     EntryKind = 4
	// EntryImported is telemetry that came by an import: part of history like any other, but
	// nothing that has just happened. It changes no state and is not announced.
	EntryImported EntryKind = 5
	// EntryBroker is a record of the MQTT broker's session state. It is no part of history:
	// it is in the log until the broker's tables have what it says, and is not announced.
	EntryBroker EntryKind = 6
)

// IsTelemetry reports whether the entry is a device's readings.
func (k EntryKind) IsTelemetry() bool { return k == EntryTelemetry || k == EntryImported }

// String gives the word used by the stream API: telemetry, presence, command, alert.
func (k EntryKind) String() string {
	switch k {
	case EntryTelemetry, EntryImported:
		return "telemetry"
	case EntryPresence:
		return "presence"
	case EntryCommand:
		return "command"
	case EntryAlert:
		return "alert"
	default:
		return "unknown"
	}
}

// Entry is one line of the durable log. Body is a JSON object: for telemetry the
// object as the device sent it, for presence a PresenceChange, for a command the
// Command as it is after the change.
type Entry struct {
	Position Position
	Device   DeviceID
	Kind     EntryKind
	// ReceivedMicros is the hub's clock at receipt, Unix µs, never decreasing along the log.
	ReceivedMicros int64
	// TimeMicros is the history time, Unix µs; equal to ReceivedMicros unless the device
	// gave a plausible time of its own. Never later than ReceivedMicros.
	TimeMicros int64
	// Boot and Seq are the device's own power-up mark (hashed) and sequence number;
	// both 0 when it gave none.
	Boot, Seq uint64
	Body      []byte
}

// PresenceChange is the body of an EntryPresence.
type PresenceChange struct {
	Presence Presence `json:"presence"`
	// Session is the fencing number of the connection that came or went; of two
	// connections of one device the larger number is the newer.
	Session uint64 `json:"session"`
	// Address is the peer's network address, without port.
	Address  string   `json:"address,omitempty"`
	Protocol Protocol `json:"protocol,omitempty"`
	// Reason says in a word why a device went offline: closed, lost, replaced,
	// ping_timeout, keep_alive, protocol_error, slow_reader, disabled, removed, secret_changed,
	// shutdown, restart; of a device of mapped topics silent and reported (by itself).
	Reason string `json:"reason,omitempty"`
}

// User is a person who may use the page and the API.
type User struct {
	ID        int64     `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
}

// Token is a program's credential. The secret itself is shown once, when it is made.
type Token struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
	// Scope is read (look at everything), command (read, and send commands) or admin (all).
	Scope     Scope     `json:"scope"`
	CreatedBy string    `json:"created_by"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	LastUsed  time.Time `json:"last_used,omitzero"`
}

// Scope is what a credential may do; each includes the ones before it.
type Scope string

// The scopes, from least to most.
const (
	ScopeRead    Scope = "read"
	ScopeCommand Scope = "command"
	ScopeAdmin   Scope = "admin"
)

// Allows reports whether a credential of scope s may do what needs scope need.
func (s Scope) Allows(need Scope) bool { return s.rank() >= need.rank() && s.rank() > 0 }

// Valid reports whether s is one of the known scopes.
func (s Scope) Valid() bool { return s.rank() > 0 }

func (s Scope) rank() int {
	switch s {
	case ScopeRead:
		return 1
	case ScopeCommand:
		return 2
	case ScopeAdmin:
		return 3
	default:
		return 0
	}
}
