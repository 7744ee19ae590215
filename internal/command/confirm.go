package command

import (
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/wire"
)

// worthWatching reports whether telemetry can confirm c, and there is room to wait for it.
func (r *Road) worthWatching(c *signalbox.Command) bool {
	return c.Value != nil && c.ConfirmedAt.IsZero() && r.watching.Load() < int64(r.cfg.MaxActive/2)
}

// watched gives the lane's watched command of that name, nil without one.
func (l *lane) watched(name string) *entry {
	for _, e := range l.watch {
		if e.c.Name == name {
			return e
		}
	}
	return nil
}

// watch lets telemetry confirm e. The caller holds the shard and arms e.
func (r *Road) watch(l *lane, e *entry) {
	if len(l.watch) >= maxWatchedPerDevice {
		oldest := l.watch[0]
		r.unwatch(l, oldest)
		r.arm(oldest)
	}
	l.watch = append(l.watch, e)
	e.watched = true
	r.watching.Add(1)
}

// unwatch ends the watching of e, if it is watched. The caller holds the shard and arms e.
func (r *Road) unwatch(l *lane, e *entry) {
	if !e.watched {
		return
	}
	e.watched = false
	l.watch = without(l.watch, e)
	r.watching.Add(-1)
}

// Watching reports whether telemetry of the device should be shown to Telemetry. It costs
// one atomic load while no command of any device awaits confirmation.
func (r *Road) Watching(id signalbox.DeviceID) bool {
	if r.watching.Load() == 0 {
		return false
	}
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	l := sh.lanes[id]
	return l != nil && len(l.watch) > 0
}

// Telemetry compares a message that has its place in the log with the commands that await
// confirmation. It keeps nothing of t. Call it in log order for each device.
func (r *Road) Telemetry(t *signalbox.Entry) {
	sh := r.shard(t.Device)
	sh.mu.Lock()
	var candidates []*entry
	if l := sh.lanes[t.Device]; l != nil {
		candidates = slices.Clone(l.watch)
	}
	sh.mu.Unlock()
	// Name and value of a command never change, so they can be read without the lock.
	candidates = slices.DeleteFunc(candidates, func(e *entry) bool { return !shows(t.Body, e.c.Name, *e.c.Value) })
	if len(candidates) == 0 {
		return
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, e := range candidates {
		if !e.watched || !e.written || t.Position <= e.sentPos && t.Position != 0 || t.ReceivedMicros < e.c.SentAt.UnixMicro() {
			continue
		}
		e.c.ConfirmedAt = notBefore(time.UnixMicro(t.ReceivedMicros).UTC().Truncate(time.Millisecond), e.c.SentAt)
		r.unwatch(sh.lane(t.Device), e)
		r.stats.confirmed.Add(1)
		r.save(e, history.Soon)
	}
	sh.tidy(t.Device)
}

// shows reports whether the telemetry object has the commanded value in the field that the
// command names (wire.Field).
func shows(object []byte, name, value string) bool {
	field, _ := wire.Field(gjson.ParseBytes(object), name)
	switch field.Type {
	case gjson.String:
		return field.Str == value || sameNumber(field.Str, value)
	case gjson.Number:
		return field.Raw == value || sameNumber(field.Raw, value)
	case gjson.True, gjson.False:
		return field.Raw == value
	default:
		return false
	}
}

// sameNumber reports whether a and b are JSON numbers of one value. It is exact: no
// rounding to a float makes different numbers equal.
func sameNumber(a, b string) bool {
	x, ok := parseDecimal(a)
	if !ok {
		return false
	}
	y, ok := parseDecimal(b)
	return ok && x == y
}

// A decimal is a number as sign, digits without zeros at either end, and the power of ten
// of the last digit. Zero has no digits, no sign and no power.
type decimal struct {
	negative bool
	digits   string
	exponent int
}

// parseDecimal reads a number as JSON spells it (RFC 8259, section 6).
func parseDecimal(s string) (d decimal, ok bool) {
	rest, negative := strings.CutPrefix(s, "-")
	whole, rest := cutDigits(rest)
	if whole == "" || len(whole) > 1 && whole[0] == '0' {
		return d, false
	}
	var fraction string
	if after, point := strings.CutPrefix(rest, "."); point {
		if fraction, rest = cutDigits(after); fraction == "" {
			return d, false
		}
	}
	exponent := 0
	if rest != "" {
		if rest[0] != 'e' && rest[0] != 'E' {
			return d, false
		}
		if exponent, ok = parseExponent(rest[1:]); !ok {
			return d, false
		}
	}
	digits := whole
	if fraction != "" {
		digits += fraction
		exponent -= len(fraction)
	}
	short := strings.TrimRight(digits, "0")
	exponent += len(digits) - len(short)
	if short = strings.TrimLeft(short, "0"); short == "" {
		return decimal{}, true
	}
	return decimal{negative, short, exponent}, true
}

// parseExponent reads what follows the e of a number. Beyond a million nobody measures:
// such numbers are equal only when spelled alike.
func parseExponent(s string) (n int, ok bool) {
	negative := strings.HasPrefix(s, "-")
	if negative || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	digits, rest := cutDigits(s)
	if digits == "" || rest != "" {
		return 0, false
	}
	for _, c := range digits {
		if n = n*10 + int(c-'0'); n > 1_000_000 {
			return 0, false
		}
	}
	if negative {
		n = -n
	}
	return n, true
}

func cutDigits(s string) (digits, rest string) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}
