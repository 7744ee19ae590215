package gateway

import (
	"time"

	"signalbox/internal/registry"
)

// Messages are paid for before they are taken: by the device that they are of, whoever publishes
// them, and those of anonymous clients by the connection, too. A program publishes as fast as the hub
// takes it: somebody gave it a token. Nothing is dropped for it:
// the connection is not read until it can pay. One that several boards share waits for the busiest
// of them then; who does not want that gives each its own.

// allowance is the message budget of one connection. Its zero value is a full one.
type allowance struct {
	spent    int
	refilled int64 // milliseconds
}

// take is registry.Device.Take for a connection.
func (a *allowance) take(rate, burst int, now time.Duration) bool {
	if a.spent < burst {
		a.spent++
		return true
	}
	at := now.Milliseconds()
	fresh := min((at-a.refilled)*int64(rate)/1000, int64(a.spent))
	if fresh == 0 {
		return false
	}
	a.spent -= int(fresh) - 1
	a.refilled = at
	return true
}

// pays takes one message out of the budget of the device, or of an anonymous client's connection.
func (c *mqttConn) pays() bool {
	g := c.door.g
	ok := true
	switch {
	case c.device != nil:
		ok = c.device.Take(g.cfg.MessagesPerSecond, g.cfg.Burst, g.now())
	case c.guest.scope == "":
		ok = c.guest.spent.take(g.cfg.MessagesPerSecond, min(g.cfg.Burst, registry.MaxBurst), g.now())
	}
	if !ok {
		g.stats.RateLimited.Add(1)
	}
	return ok
}

// Pays implements mapped.Budget: the device that a mapping gives the message to pays for it, once,
// however often the message comes again.
func (c *mqttConn) Pays(d *registry.Device) bool {
	if d == c.device || c.is(mqttCharged) {
		return true
	}
	g := c.door.g
	if !d.Take(g.cfg.MessagesPerSecond, g.cfg.Burst, g.now()) {
		g.stats.RateLimited.Add(1)
		return false
	}
	c.set(mqttCharged)
	return true
}
