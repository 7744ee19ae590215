package forward

import "time"

// tellEvery is the least time between two lines of the log about what happens often.
const tellEvery = time.Minute

// often counts what may happen often: the log tells of the first at once, and then once a minute how
// many it were meanwhile. It is of the engine's goroutine.
type often struct {
	last time.Time
	n    int64 // not told yet
}

// due gives how many there were since the last line of the log, which the caller writes now; 0: none,
// or it is too early for one. last: it is never too early.
func (o *often) due(last bool) int64 {
	if o.n == 0 || !last && !o.last.IsZero() && time.Since(o.last) < tellEvery {
		return 0
	}
	n := o.n
	o.last, o.n = time.Now(), 0
	return n
}

// tellings are what the log is told of a forwarder now and then.
type tellings struct {
	skipped often // entries that were given up, and why
	why     string

	buried often // dead letters; and the latest of them
	letter struct {
		position int64
		device   string
		status   int
	}
	dropped often // dead letters for which others had to go
}

// tellOften tells what has not been told yet, and was not told a moment ago; last: in any case.
func (l *life) tellOften(last bool) {
	t := &l.f.tellings
	if n := t.skipped.due(last); n > 0 {
		l.logger.Warn("a forwarder is too far behind; entries were given up", "entries", n, "limit", t.why)
	}
	if n := t.buried.due(last); n > 0 {
		l.logger.Warn("a forwarder's receiver refused messages for good; they are dead letters",
			"messages", n, "latest_position", t.letter.position, "latest_device", t.letter.device, "latest_status", t.letter.status)
	}
	if n := t.dropped.due(last); n > 0 {
		l.logger.Warn("a forwarder has as many dead letters as are kept; the oldest were dropped", "dropped", n, "limit", l.f.m.cfg.MaxDeadLetters)
	}
	if n := l.faults.due(last); n > 0 {
		l.logger.Warn("a forwarder's target did not take messages at times", "times", n)
	}
}
