package app

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"signalbox/internal/api"
)

const (
	// clockEvery is how often the clock is compared with the log.
	clockEvery = 10 * time.Second
	// clockTolerance is how far back a clock may be set without anybody being told.
	clockTolerance = 10 * time.Second
)

// aheadOfTime is by how much the log's times are ahead of the machine's clock. They never
// go back, so they stand still after the clock was set back, until it has caught up.
type aheadOfTime struct{ by atomic.Int64 } // time.Duration; 0 within clockTolerance

func (a *App) runClock(ctx context.Context) error {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			a.lookAtClock(time.Now())
		}
	}
}

// lookAtClock tells the log of this process once when the times begin and end to differ.
func (a *App) lookAtClock(now time.Time) {
	newest := a.log.Newest()
	// Times without a monotonic reading: it is the clock as it was set that matters.
	ahead := newest.Sub(now.Round(0))
	if ahead <= clockTolerance {
		ahead = 0
	}
	switch was := a.ahead.by.Swap(int64(ahead)); {
	case ahead > 0 && was == 0:
		a.logger.Error("the machine's clock is behind the newest entry of the log: it was ahead once, or is wrong now; what is received gets the time of that entry until the clock has caught up",
			"ahead", ahead.Round(time.Second), "newest_entry", newest.UTC().Format(time.RFC3339))
	case ahead == 0 && was != 0:
		a.logger.Info("the machine's clock has caught up with the log")
	}
}

// clockCheck is for /readyz. A wrong time is told, but no reason not to be ready: the hub
// does its work, and neither a restart nor another hub on the same data would mend it.
func (a *App) clockCheck() api.Check {
	check := api.Check{Name: "clock", OK: true, Message: "what is received gets the time of this machine's clock"}
	if ahead := time.Duration(a.ahead.by.Load()); ahead > 0 {
		check.Message = fmt.Sprintf("degraded: the newest entry of the log is %s ahead of this machine's clock; what is received gets the time of that entry until the clock has caught up",
			ahead.Round(time.Second))
	}
	return check
}
