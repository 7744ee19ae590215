package replay

import (
	"math"
	"time"
)

// maxLag is how late a sink may be and still be caught up with: beyond it the clock is put
// back, so that a sink which was slow for a while is not flooded.
const maxLag = time.Second

// clock is where a replay stands in the past. Its zero value has no place yet.
type clock struct {
	set     bool
	running bool
	at      int64     // µs, when it began to run or where it stands still
	wall    time.Time // when it began to run
	speed   float64
}

// now is where the clock stands, µs. With speed 0 it moves only with what is sent.
func (c *clock) now(wall time.Time) int64 {
	if !c.running || c.speed == 0 {
		return c.at
	}
	past := float64(wall.Sub(c.wall).Nanoseconds()) / 1e3 * c.speed
	if past >= float64(math.MaxInt64/2) {
		return math.MaxInt64
	}
	return c.at + int64(past)
}

// stop makes it stand still.
func (c *clock) stop(wall time.Time) {
	c.at, c.running = c.now(wall), false
}

// run makes it go on at a speed, beginning with the moment of the next event when it has no
// place yet, and never beyond that.
func (c *clock) run(next int64, speed float64, wall time.Time) {
	if c.set && c.running && c.speed == speed {
		return
	}
	at := next
	if c.set {
		at = min(c.now(wall), next)
	}
	*c = clock{set: true, running: true, at: at, wall: wall, speed: speed}
}

// until is how long it takes to a moment; 0 when that is past.
func (c *clock) until(moment int64, wall time.Time) time.Duration {
	if c.speed == 0 || moment <= c.at {
		return 0
	}
	ns := math.Ceil(float64(moment-c.at) * 1e3 / c.speed)
	if ns >= float64(math.MaxInt64/2) {
		return math.MaxInt64 / 2
	}
	return max(time.Duration(ns)-wall.Sub(c.wall), 0)
}

// late puts the clock back to a moment when it is too far ahead of it.
func (c *clock) late(moment int64, wall time.Time) {
	if c.speed == 0 {
		return
	}
	if behind := float64(c.now(wall)-moment) * 1e3 / c.speed; behind > float64(maxLag) {
		c.at, c.wall = moment, wall
	}
}

// sent moves a clock that does not run by itself.
func (c *clock) sent(moment int64) {
	if c.speed == 0 {
		c.at = moment
	}
}
