package signalbox

import (
	"encoding/json"
	"time"
)

// CommandState is how far a command has come. No state is claimed that the device
// did not report: delivered needs its ack, succeeded and failed its result.
type CommandState string

// The states: queued → sent → delivered → succeeded | failed, and the three ways to
// end without an answer.
const (
	CommandQueued    CommandState = "queued"
	CommandSent      CommandState = "sent"
	CommandDelivered CommandState = "delivered"
	CommandSucceeded CommandState = "succeeded"
	CommandFailed    CommandState = "failed"
	CommandExpired   CommandState = "expired"
	CommandTimedOut  CommandState = "timed_out"
	CommandCanceled  CommandState = "canceled"
)

// Ended reports whether s is one of the five states that end a command. A version 1
// device cannot answer, so its commands rest at sent: see Command.Settled.
func (s CommandState) Ended() bool {
	switch s {
	case CommandSucceeded, CommandFailed, CommandExpired, CommandTimedOut, CommandCanceled:
		return true
	default:
		return false
	}
}

// Command is a name and an optional value carried to one device, with an honest
// account of what became of it.
type Command struct {
	// ID is 26 characters, unique, and sorts by creation time.
	ID     string   `json:"id"`
	Device string   `json:"device"`
	To     DeviceID `json:"-"`
	Name   string   `json:"command"`
	// Value is always a string on the wire; nil sends the command without a value.
	Value *string      `json:"value,omitempty"`
	State CommandState `json:"state"`
	// Protocol is the device protocol the command was sent by; 0 before it was sent.
	Protocol Protocol `json:"protocol,omitempty"`
	// CreatedBy names the user or token that asked.
	CreatedBy      string `json:"created_by,omitempty"`
	IdempotencyKey string `json:"idempotency_key,omitempty"`

	CreatedAt   time.Time `json:"created_at"`
	SentAt      time.Time `json:"sent_at,omitzero"`
	DeliveredAt time.Time `json:"delivered_at,omitzero"`
	EndedAt     time.Time `json:"ended_at,omitzero"`
	// ConfirmedAt is when telemetry received after SentAt showed the field named by the
	// command at the commanded value; Already says the value was there before.
	ConfirmedAt time.Time `json:"confirmed_at,omitzero"`
	Already     bool      `json:"already,omitempty"`
	// ExpiresAt ends the wait in the queue (creation plus ttl; zero: ttl 0, only if online).
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// TimeoutMs is how long after SentAt an answer is awaited, in ms.
	TimeoutMs int64 `json:"timeout_ms,omitempty"`

	// Result and Error are what the device reported with its result.
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Settled reports whether waiting for c any longer is pointless: it has ended, or it
// went to a device that cannot answer and has been sent or confirmed.
func (c *Command) Settled() bool {
	if c.State.Ended() {
		return true
	}
	return c.State == CommandSent && !c.Protocol.Answers()
}

// CommandRequest asks for a command. The zero options mean: only if the device is
// online, default timeout, no idempotency key, keep older queued commands.
type CommandRequest struct {
	Device string
	Name   string
	Value  *string
	// TTL is how long the command may wait for an offline device, 0 to MaxCommandTTL;
	// 0 answers device_offline at once when the device is away.
	TTL time.Duration
	// Timeout is how long after sending an answer is awaited; 0 takes the default.
	Timeout time.Duration
	// IdempotencyKey makes a repeated request return the first one's command. It is
	// remembered per device for as long as the command is kept.
	IdempotencyKey string
	// Replace cancels older commands of the same name that still wait in the queue.
	Replace   bool
	CreatedBy string
}
