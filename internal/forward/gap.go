package forward

import (
	"signalbox"
	"signalbox/internal/history"
)

// gap notes that history has not everything any more.
func (d *feed) gap(g history.Gap) error {
	to := signalbox.Position(0)
	if d.want.kinds[signalbox.EntryTelemetry] {
		to = g.Telemetry
	}
	if d.want.events {
		to = max(to, g.Events)
	}
	if had := &d.b.gap; had.to == 0 {
		*had = skip{from: g.After, to: to}
	} else {
		had.to = max(had.to, to)
	}
	return nil
}

// tellGap counts and tells that retention dropped what was to be forwarded: once, until it drops more
// of what is still to be read.
func (l *life) tellGap(g *skip) {
	if g.to <= l.f.holes {
		return
	}
	l.f.holes = g.to
	l.f.stats.Gaps.Add(1)
	l.logger.Warn("retention has dropped entries before a forwarder had read them; how many is not known", "after", uint64(g.from), "until", uint64(g.to))
}
