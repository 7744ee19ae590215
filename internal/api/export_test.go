package api

import "time"

// SetHeartbeat lets a test hear a stream's heartbeat soon.
func SetHeartbeat(c *Config, every time.Duration) { c.heartbeat = every }

// SetBodyPatience lets a test see soon what happens when a body's time is over.
func SetBodyPatience(c *Config, d time.Duration) { c.patience = d }
