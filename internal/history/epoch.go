package history

import "signalbox"

// Fate says what became of the place that a cursor names.
type Fate uint8

const (
	// Known: the log is the one that gave the cursor, and has all up to it.
	Known Fate = iota
	// Lost: what the cursor names, and perhaps more before it, was never on disk (the hub was
	// killed, or restored from an older backup). Position is the last that was.
	Lost
	// Foreign: another hub gave it, or it is older than what is remembered.
	Foreign
)

// Place is where a cursor leads.
type Place struct {
	Position signalbox.Position
	Fate     Fate
}
