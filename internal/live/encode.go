package live

import (
	"log/slog"
	"math"
	"strconv"

	"signalbox"
	"signalbox/internal/wire"
)

// encoder writes events in one format and keeps them until reset, so that an event is written
// once for all groups. It is for one goroutine.
type encoder struct {
	format  Format
	log     Log
	command func(body []byte) (device string, object []byte, err error)
	logger  *slog.Logger
	stats   *Stats

	whole, parts []byte // events with whole objects, and with chosen fields
	now          span   // the present event in whole
	has, failed  bool   // it is there; it cannot be written
}

func (h *Hub) newEncoder(f Format) *encoder {
	return &encoder{format: f, log: h.log, command: h.command, logger: h.cfg.Logger, stats: &h.stats}
}

// begin says that the next event is another one.
func (w *encoder) begin() { w.has, w.failed = false, false }

// pending is how many bytes of events it keeps.
func (w *encoder) pending() int { return len(w.whole) + len(w.parts) }

// reset forgets what it keeps.
func (w *encoder) reset() {
	for _, b := range []*[]byte{&w.whole, &w.parts} {
		if cap(*b) > 16*blockBytes {
			*b = nil // an uncommonly large event
		}
		*b = (*b)[:0]
	}
}

// event gives the event of e, which it writes unless it was written already; of telemetry what
// c found in it, the whole object if c is nil. ok is false when it cannot be written.
func (w *encoder) event(e *signalbox.Entry, name string, c *wire.Choice) (s span, ok bool) {
	if c != nil && e.Kind == signalbox.EntryTelemetry {
		lo := len(w.parts)
		w.parts, ok = w.append(w.parts, e, name, c)
		return span{of: &w.parts, lo: lo, hi: len(w.parts)}, ok
	}
	if !w.has {
		lo := len(w.whole)
		w.whole, ok = w.append(w.whole, e, name, nil)
		w.now, w.has, w.failed = span{of: &w.whole, lo: lo, hi: len(w.whole)}, true, !ok
	}
	return w.now, !w.failed
}

// append appends the event of e.
func (w *encoder) append(b []byte, e *signalbox.Entry, name string, c *wire.Choice) ([]byte, bool) {
	var command []byte
	if e.Kind == signalbox.EntryCommand {
		var err error
		if _, command, err = w.command(e.Body); err != nil {
			w.logger.Error("an entry of the log cannot be shown to viewers", "position", e.Position, "kind", e.Kind.String(), "err", err)
			return b, false
		}
	}
	kind := e.Kind.String()
	b, start := w.open(b, kind, e.Position)
	b = append(append(append(b, `{"kind":"`...), kind...), `","cursor":"`...)
	b = w.log.AppendCursor(b, e.Position)
	b = strconv.AppendUint(append(b, `","position":`...), uint64(e.Position), 10)
	b = wire.AppendString(append(b, `,"device":`...), name)
	b = append(b, `,"received":"`...)
	at := len(b)
	b = append(wire.AppendTime(b, e.ReceivedMicros), '"')
	switch e.Kind {
	case signalbox.EntryTelemetry:
		b = append(b, `,"time":"`...)
		if e.TimeMicros == e.ReceivedMicros {
			b = append(b, b[at:len(b)-len(`,"time":"`)]...)
		} else {
			b = append(wire.AppendTime(b, e.TimeMicros), '"')
		}
		b = append(b, `,"object":`...)
		if c != nil {
			lo := len(b)
			b = c.AppendTo(b)
			b = compactTail(b, lo)
		} else {
			b = wire.AppendCompact(b, e.Body)
		}
	case signalbox.EntryPresence:
		b = wire.AppendCompact(append(b, `,"presence":`...), e.Body)
	case signalbox.EntryCommand:
		b = wire.AppendCompact(append(b, `,"command":`...), command)
	default:
		b = wire.AppendCompact(append(b, `,"object":`...), e.Body)
	}
	w.stats.Encoded.Add(1)
	return w.close(append(b, '}'), start), true
}

// compactTail takes the white space out of the document that begins at lo.
func compactTail(b []byte, lo int) []byte {
	// It only moves bytes to the left.
	return wire.AppendCompact(b[:lo], b[lo:])
}

const (
	// frameHead is room for the head of a frame of 126 to 65,535 bytes.
	frameHead = 4
	// finText is the first byte of a frame: FIN, opcode 1 (RFC 6455, section 5.2).
	finText = 0x81
)

// nowhere is the place of what is no place to come back to.
const nowhere = signalbox.Position(math.MaxUint64)

// open begins an event of the given name and place. start is for close.
func (w *encoder) open(b []byte, name string, p signalbox.Position) (_ []byte, start int) {
	if w.format == Frames {
		return append(b, finText, 126, 0, 0), len(b)
	}
	b = append(append(append(b, "event: "...), name...), '\n')
	if p != nowhere {
		b = append(w.log.AppendCursor(append(b, "id: "...), p), '\n')
	}
	return append(b, "data: "...), len(b)
}

// close ends an event.
func (w *encoder) close(b []byte, start int) []byte {
	if w.format == SSE {
		return append(b, '\n', '\n')
	}
	n := len(b) - start - frameHead
	switch {
	case n < 126:
		b[start+1] = byte(n)
		copy(b[start+2:], b[start+frameHead:])
		return b[:len(b)-2]
	case n > 1<<16-1:
		b = append(b, 0, 0, 0, 0, 0, 0)
		copy(b[start+10:], b[start+frameHead:start+frameHead+n])
		b[start+1] = 127
		for i := range 8 {
			b[start+2+i] = byte(uint64(n) >> (56 - 8*i))
		}
		return b
	default:
		b[start+2], b[start+3] = byte(n>>8), byte(n)
		return b
	}
}

// reason says why something is missing.
type reason string

const (
	reasonSlow    reason = "slow"
	reasonTooFar  reason = "too_far"
	reasonLost    reason = "lost"
	reasonUnknown reason = "unknown_cursor"
	reasonDropped reason = "dropped"
)

// lag is a statement of what is missing.
type lag struct {
	missed int64 // 0: it is not known
	after  string
	until  signalbox.Position
	reason reason
}

// lagged appends the statement.
func (w *encoder) lagged(b []byte, l *lag) []byte {
	b, start := w.open(b, "lagged", nowhere)
	b = append(b, `{"kind":"lagged"`...)
	if l.missed > 0 {
		b = strconv.AppendInt(append(b, `,"missed":`...), l.missed, 10)
	}
	b = wire.AppendString(append(b, `,"after":`...), l.after)
	b = w.log.AppendCursor(append(b, `,"until":"`...), l.until)
	b = append(append(append(b, `","reason":"`...), l.reason...), `"}`...)
	return w.close(b, start)
}

// ready appends the statement that what follows has just happened; devices are those of the
// snapshot, negative without one.
func (w *encoder) ready(b []byte, p signalbox.Position, devices int) []byte {
	b, start := w.open(b, "ready", p)
	b = w.log.AppendCursor(append(b, `{"kind":"ready","cursor":"`...), p)
	b = append(b, '"')
	if devices >= 0 {
		b = strconv.AppendInt(append(b, `,"devices":`...), int64(devices), 10)
	}
	return w.close(append(b, '}'), start)
}

// state appends the state of a device; its telemetry is left out when there is none.
func (w *encoder) state(b []byte, s *signalbox.State, p signalbox.Position) []byte {
	b, start := w.open(b, "state", nowhere)
	b = strconv.AppendUint(append(b, `{"kind":"state","position":`...), uint64(p), 10)
	b = wire.AppendString(append(b, `,"state":{"device":`...), s.Device)
	b = wire.AppendString(append(b, `,"status":`...), s.Status)
	b = append(append(append(b, `,"presence":"`...), s.Presence...), '"')
	if !s.Since.IsZero() {
		b = append(wire.AppendTime(append(b, `,"since":"`...), s.Since.UnixMicro()), '"')
	}
	if !s.Received.IsZero() {
		b = append(wire.AppendTime(append(b, `,"received":"`...), s.Received.UnixMicro()), '"')
		b = append(wire.AppendTime(append(b, `,"time":"`...), s.Time.UnixMicro()), '"')
	}
	if len(s.Telemetry) > 0 {
		b = wire.AppendCompact(append(b, `,"telemetry":`...), s.Telemetry)
	}
	return w.close(append(b, "}}"...), start)
}
