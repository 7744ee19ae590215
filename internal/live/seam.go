package live

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/bus"
	"signalbox/internal/history"
	"signalbox/internal/registry"
)

// Format is how a viewer's events are framed.
type Format uint8

// The formats: Server-Sent Events (HTML Standard, section 9.2), and unmasked WebSocket text
// frames (RFC 6455, section 5.2), a frame an event.
const (
	SSE Format = iota
	Frames
)

// The most that a Filter may name.
const (
	MaxDevices = 1000
	MaxTypes   = 100
)

// Filter chooses events. The zero value chooses all.
type Filter struct {
	// Devices are the only ones, at most MaxDevices; nil: all. Types the same by type, at most
	// MaxTypes.
	Devices []signalbox.DeviceID
	Types   []string
	// Kinds are the only ones: telemetry, presence, command, alert; nil: all.
	Kinds []signalbox.EntryKind
	// Fields are the only fields of telemetry (dotted paths, as questions to history name them);
	// messages with none of them are left out. nil: the whole object.
	Fields []string
	// Every is the time between two messages of a device, of which the newest is shown; 0: all
	// are. 100 ms to 1 h.
	Every time.Duration
}

// Options are what a viewer asks for.
type Options struct {
	Filter
	Format Format
	// After is the cursor of the last event that the viewer has; empty: none.
	After string
	// Snapshot asks for the state of the devices first, if Kinds include telemetry or presence.
	// With After it is sent only if what was missed cannot be given.
	Snapshot bool
	// By names who watches, such as «the token "panel"»: Config.PerUser bounds the viewers of one
	// name, and half of Config.Choices its choices. Empty: only what bounds all does.
	By string
}

// Log is what live needs of the log.
type Log interface {
	// AppendCursor appends the name of a position by which another run of the hub, or another
	// hub, cannot mistake it.
	AppendCursor(dst []byte, p signalbox.Position) []byte
	// Place finds the position that a cursor names; see history.Place.
	Place(cursor string) (history.Place, error)
	// Since gives the entries behind a position that are on disk, in log order; see history.
	Since(ctx context.Context, q history.SinceQuery, yield func(*signalbox.Entry) error) error
	Wait(ctx context.Context, p signalbox.Position) error
	Head() signalbox.Position
}

// Config tunes the hub of viewers. Zero values take the defaults.
type Config struct {
	// Viewers is how many may watch at a time (default 1,000).
	Viewers int
	// PerUser is how many of them may be of one Options.By (default half of Viewers).
	PerUser int
	// Choices bounds the different choices of fields or every that hear one device: so many with
	// all devices, so many with its type, and so many with itself (default 32); each 32 fields count as
	// one. Each costs Run some microseconds a message, and one with every memory for each device.
	// One Options.By may have half of them.
	Choices int
	// Queue bounds what waits for one viewer, in bytes (default 4 MiB). Blocks are shared: a
	// thousand viewers of the same do not take a thousand times as much.
	Queue int
	// Intake bounds what waits for Run, in bytes (default 32 MiB).
	Intake int
	// Resume is how many positions behind the end of the log a cursor may lie (default 5,000,000).
	Resume int
	// Resumes is how many viewers read history at the same time (default 4).
	Resumes int
	Logger  *slog.Logger
}

// Parts are what live works with.
type Parts struct {
	Log     Log
	Bus     *bus.Bus
	Devices *registry.Registry
	// Command gives the JSON object of a command as the API shows it, out of the body of an entry,
	// and the device's name.
	Command func(body []byte) (device string, object []byte, err error)
}

// Stats counts since the start; Viewers and Groups are how many there are.
type Stats struct {
	Viewers, Groups atomic.Int64
	// Encoded are events that were encoded: once for each format, and for each choice of fields
	// or devices that asks for another form. Blocks are the pieces they were handed out in.
	Encoded, Blocks atomic.Int64
	// Delivered are events that viewers took, Lagged those that did not fit into their queues.
	Delivered, Lagged atomic.Int64
	// Refused are viewers, or choices, that were one too many; RefusedPerUser those that were too
	// many of one Options.By.
	Refused, RefusedPerUser atomic.Int64
	// Resumed are viewers that came with a cursor and got what they had missed, Unresumable
	// those that could not.
	Resumed, Unresumable atomic.Int64
	// Behind are entries that the hub was too slow for itself, so that its viewers got them out
	// of history.
	Behind atomic.Int64
}
