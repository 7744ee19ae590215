package api

import (
	"context"
	"time"

	"signalbox"
)

// SetHeartbeat lets a test hear a stream's heartbeat soon.
func SetHeartbeat(c *Config, every time.Duration) { c.heartbeat = every }

// SetSilence lets a test see soon what becomes of a viewer that answers nothing, and others be
// slow to answer.
func SetSilence(c *Config, d time.Duration) { c.silence = d }

// SetHaste lets a test be slow to take the end of a stream.
func SetHaste(c *Config, d time.Duration) { c.haste = d }

// SetWritePatience lets a test see soon what becomes of a viewer that takes nothing.
func SetWritePatience(c *Config, d time.Duration) { c.stuck = d }

// SetBodyPatience lets a test see soon what happens when a body's time is over.
func SetBodyPatience(c *Config, d time.Duration) { c.patience = d }

// EncodePage lets a test write a page for a caller that has gone.
func EncodePage(ctx context.Context, items []signalbox.Telemetry, format string, fields []string, next string) ([]byte, string, error) {
	return encodePage(ctx, items, format, fields, next)
}
