package cli

import (
	"context"
	"slices"
	"time"

	"signalbox/client"
)

const (
	// endAsked is how many devices are asked for their newest message; of more, what the list of
	// devices tells must do, of which endPages are read.
	endAsked = 16
	endPages = 10
	endPage  = 1000
)

// replayEnd gives the moment of a replay's last message on the replay's clock, as well as can be
// told at little cost; zero when it cannot. It takes stagePatience at most.
func (r *reach) replayEnd(ctx context.Context, made *client.Replay) (end time.Time) {
	ctx, done := context.WithTimeout(ctx, stagePatience)
	defer done()
	names, seen, err := r.played(ctx, made)
	if err != nil {
		return time.Time{}
	}
	if len(names) > endAsked {
		if !made.To.IsZero() && seen.After(made.To) {
			return made.To
		}
		return seen
	}
	for _, name := range names {
		page, err := r.Telemetry(ctx, name, client.TelemetryQuery{From: made.From, To: made.To, Limit: 1})
		if err != nil {
			return time.Time{}
		}
		for _, m := range page.Items {
			if at := momentOf(made.Pace, m.Time, m.Received, made.To); at.After(end) {
				end = at
			}
		}
	}
	return end
}

// played gives the devices of a replay, and when the last of them was heard of where it lists them.
func (r *reach) played(ctx context.Context, made *client.Replay) (names []string, seen time.Time, err error) {
	if len(made.Devices) > 0 && len(made.Devices) <= endAsked && len(made.Types) == 0 {
		return made.Devices, seen, nil
	}
	q := client.DeviceQuery{Types: made.Types, Limit: endPage}
	for range endPages {
		page, err := r.Devices(ctx, q)
		if err != nil {
			return nil, seen, err
		}
		for _, d := range page.Items {
			if len(made.Devices) > 0 && !slices.Contains(made.Devices, d.Name) {
				continue
			}
			names = append(names, d.Name)
			if d.LastSeen.After(seen) {
				seen = d.LastSeen
			}
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return names, seen, nil
		}
	}
	return names, time.Time{}, nil
}

// momentOf is the moment of a message on the clock of a replay of this pace, which ends at to.
func momentOf(pace string, at, received, to time.Time) time.Time {
	if pace == "received" && (to.IsZero() || received.Before(to)) {
		return received
	}
	return at
}
