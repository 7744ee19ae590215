package command

import (
	"maps"
	"sync"
	"sync/atomic"

	"signalbox"
)

// Stats are counters since the start, and gauges.
type Stats struct {
	Submitted, Sent, Delivered, Succeeded, Failed uint64
	Expired, TimedOut, Canceled, Confirmed        uint64
	// Late counts results that came after timed_out or expired, and counted.
	Late uint64
	// Missed counts commands marked as sent whose connection was gone, or would not take
	// them, when they were to be written.
	Missed uint64
	// Ignored counts acks and results for unknown commands, other devices' commands and
	// commands that had one already, and late results dropped because too many came at once.
	Ignored uint64
	Pruned  uint64
	// Rows counts rows written to the command table, Rushed the writes that did not wait for
	// a row to be due because too many were behind the log.
	Rows, Rushed uint64
	// Refused counts refused requests by the error's code.
	Refused map[string]uint64
	// Active is how many commands have not settled, Held how many are in memory, Watching
	// how many await confirmation. Behind is how many rows of the table are behind the log.
	Active, Held, Watching, Behind int64
}

type stats struct {
	submitted, sent, delivered, succeeded, failed atomic.Uint64
	expired, timedOut, canceled, confirmed        atomic.Uint64
	late, missed, ignored, pruned                 atomic.Uint64
	rows, rushed                                  atomic.Uint64

	mu     sync.Mutex
	reason map[string]uint64 // a handful of codes
}

// Stats gives the present counters.
func (r *Road) Stats() Stats {
	s := &r.stats
	s.mu.Lock()
	refused := maps.Clone(s.reason)
	s.mu.Unlock()
	return Stats{
		Submitted: s.submitted.Load(), Sent: s.sent.Load(), Delivered: s.delivered.Load(),
		Succeeded: s.succeeded.Load(), Failed: s.failed.Load(), Expired: s.expired.Load(),
		TimedOut: s.timedOut.Load(), Canceled: s.canceled.Load(), Confirmed: s.confirmed.Load(),
		Late: s.late.Load(), Missed: s.missed.Load(), Ignored: s.ignored.Load(), Pruned: s.pruned.Load(),
		Rows: s.rows.Load(), Rushed: s.rushed.Load(), Behind: int64(r.image.waiting()),
		Refused: refused, Active: r.active.Load(), Held: r.held.Load(), Watching: r.watching.Load(),
	}
}

// state counts a change to state.
func (s *stats) state(state signalbox.CommandState) {
	switch state {
	case signalbox.CommandSent:
		s.sent.Add(1)
	case signalbox.CommandDelivered:
		s.delivered.Add(1)
	case signalbox.CommandSucceeded:
		s.succeeded.Add(1)
	case signalbox.CommandFailed:
		s.failed.Add(1)
	case signalbox.CommandExpired:
		s.expired.Add(1)
	case signalbox.CommandTimedOut:
		s.timedOut.Add(1)
	case signalbox.CommandCanceled:
		s.canceled.Add(1)
	default:
	}
}

// refused counts err and gives it back.
func (r *Road) refused(err error) error {
	r.stats.refuse(signalbox.CodeOf(err))
	return err
}

func (s *stats) refuse(code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == nil {
		s.reason = make(map[string]uint64)
	}
	s.reason[code]++
}
