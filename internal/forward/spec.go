package forward

import (
	"net/netip"
	"time"

	"signalbox"
)

// Spec is a forwarder as the configuration and the API say it. The zero value of what is
// optional takes the default.
type Spec struct {
	// Name is unique: 1 to 64 characters, as a device's.
	Name string
	// To is the target's URL:
	//
	//	tcp://host:port            connects, and sends lines
	//	tcp-listen://host:port     accepts connections, and sends lines to each (loopback unless Allow says more)
	//	udp://host:port            sends a datagram a message
	//	ws://, wss://…             connects, and sends a text frame a message
	//	http://, https://…         posts a CloudEvent, or what Template says, a message
	//	mqtt://, mqtts://host:port publishes to Topic
	To string

	// Devices, Types and Kinds are the only ones to forward; none: all devices, and of kinds
	// telemetry alone. Fields are the only fields of telemetry.
	Devices, Types, Fields []string
	Kinds                  []string

	// Format is json (a line of JSON a message, the default), template, or viewer (the B2 frame
	// of Field; telemetry of devices without that field is left out).
	Format, Template, Field string

	Queue   Queue
	Backoff Backoff
	// Timeout bounds connecting, and each answer or write that is waited for (default 10 s).
	Timeout time.Duration

	// Ack says that a TCP receiver answers with lines that hold the cursor of the last message it
	// has (tcp, tcp-listen).
	Ack bool
	// Allow are the networks whose computers may connect (tcp-listen); none: loopback.
	Allow []netip.Prefix

	// Sequence says that datagrams are numbered (udp), so that the receiver sees what is missing.
	Sequence bool

	// Topic, QoS, Retain, Username, ClientID and Version are of MQTT; Topic is a template.
	Topic    string
	QoS      uint8
	Retain   bool
	Username string
	ClientID string
	Version  string // 5.0 (the default), 3.1.1

	// Parallel is how many requests of a webhook are under way at a time (default 1, at most 64).
	Parallel int
	// Attempts is how often a webhook's message is tried when the receiver answers with an error
	// that may pass, until it is a dead letter (default 20; -1: without end). What cannot be
	// reached is tried without end.
	Attempts int
	// ContentType is that of a webhook's body made by a template (default text/plain; charset=utf-8).
	ContentType string

	// TLS is for wss, https, mqtts. Its files can be named by the configuration alone.
	TLS TLS

	// Secrets, of which the API shows only that they are there: HMAC signs webhooks, Bearer is sent
	// as Authorization (ws, http), Password is for MQTT and, with Username, HTTP Basic (ws, http).
	Secrets Secrets

	Paused bool
}

// Queue says how far a forwarder may be behind the log.
type Queue struct {
	MaxEntries int           // default 100,000,000
	MaxAge     time.Duration // default 7 days
}

// Backoff is the wait after a fault: doubling from Min (default 500 ms) to Max (default 30 s).
type Backoff struct{ Min, Max time.Duration }

// TLS says how a server is recognised, and how the hub shows itself.
type TLS struct{ CA, Cert, Key string }

// Secrets are what must not be shown.
type Secrets struct{ HMAC, Bearer, Password string }

// State is what a forwarder does at present.
type State string

// The states of a forwarder.
const (
	StateConnecting State = "connecting" // the first try
	// StateFlowing: connected (of webhooks, which connect for a message: nothing is wrong), something
	// was settled since the last fault, and what is sent is less than 10 s old and 10,000 entries
	// behind; StateCatchingUp: it is older, or further behind.
	StateFlowing    State = "flowing"
	StateCatchingUp State = "catching_up"
	StateWaiting    State = "waiting"   // the target is away, or settles nothing; Status.Fault says why
	StateListening  State = "listening" // for receivers: none is connected
	StatePaused     State = "paused"
)

// Status is how a forwarder is.
type Status struct {
	Spec  Spec // with its secrets taken out; HasSecrets says which there are
	State State
	// FromFile says that the configuration file set it; it cannot be changed through the API.
	FromFile   bool
	HasSecrets []string
	// Fault is what went wrong last, in words, and when; empty while all is well.
	Fault   string
	FaultAt time.Time
	// Cursor is the position up to which everything is settled, Behind how many positions the
	// log's end lies ahead of it.
	Cursor signalbox.Position
	Behind int64
	// Sent are messages that may have left through the transport, Settled those the receiver has, Redelivered those
	// sent again, Failed those that UDP could not send, Skipped those given up by the limits of the
	// queue, Gaps how often it was met that retention had dropped something that was still to be read,
	// Dead the dead letters, DeadDropped those that had to go for newer ones, Reconnects the
	// connections that were made anew.
	Sent, Settled, Redelivered, Failed, Skipped, Gaps, Dead int64
	DeadDropped, Reconnects                                 int64
	// Receivers are the computers connected at present (tcp-listen).
	Receivers []string
	CreatedBy string
	CreatedAt time.Time
}

// DeadLetter is a message that a receiver did not take.
type DeadLetter struct {
	ID       int64
	Position signalbox.Position
	Device   string
	Received time.Time
	At       time.Time // when it was given up
	Attempts int
	Status   int
	Reason   string
	Body     []byte
}
