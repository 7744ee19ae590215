package history

import "signalbox"

// SinceQuery chooses entries that came behind a position.
type SinceQuery struct {
	// After < position ≤ Until. Until 0: what is committed when it begins.
	After, Until signalbox.Position
	// Devices are the only ones, in ascending order; nil: all.
	Devices []signalbox.DeviceID
	// Events asks for what is no telemetry, too.
	Events bool
}
