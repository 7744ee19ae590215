package transfer

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the zones, also where the system has none
)

// Shift is a change of the clocks that made times of a file doubtful.
type Shift struct {
	Kind string `json:"kind" enum:"gap,overlap" doc:"gap: clocks were put forward, these times never were, and are taken as if they had not been; overlap: clocks were put back, these times were twice, and are taken for the first."`
	From string `json:"from" doc:"The doubtful times begin here, by the local clock."`
	To   string `json:"to" doc:"And end before this."`
	Rows int64  `json:"rows" doc:"How many rows have such a time."`
}

// clock reads times of files; those that name no zone are of its zone.
type clock struct {
	zone *time.Location
	// used is set when a time without a zone was read.
	used   bool
	shifts map[shiftKey]*Shift
	// Local times, in seconds, from safeFrom to before safeTo are offset seconds ahead of UTC.
	safeFrom, safeTo, offset int64
}

type shiftKey struct {
	kind string
	at   int64
}

func newClock(zone *time.Location) *clock {
	if zone == nil {
		zone = LocalZone()
	}
	return &clock{zone: zone, shifts: map[shiftKey]*Shift{}}
}

// unixSeconds is below which a whole number is not taken for Unix ms: it would lie before 1973.
const unixSeconds = 100_000_000_000

// parse reads a time: RFC 3339, Unix ms, or a date and time of day without a zone.
func (c *clock) parse(text string) (micros int64, err error) {
	text = strings.TrimSpace(text)
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
		if ms < unixSeconds || ms > 253402300799999 {
			return 0, fmt.Errorf("the time %s is out of range; a number must be Unix milliseconds, from %d", text, int64(unixSeconds))
		}
		return ms * 1000, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t.UnixMicro(), nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			return c.local(t), nil
		}
	}
	return 0, fmt.Errorf("%.100q is no time; allowed are RFC 3339 (2024-05-01T12:00:00Z), a date and time (2024-05-01 12:00:00) and Unix milliseconds", text)
}

// local gives the instant at which the local clock showed wall, which is written as if it
// were UTC.
func (c *clock) local(wall time.Time) int64 {
	c.used = true
	at := wall.Unix()
	if at < c.safeFrom || at >= c.safeTo {
		if instant, doubtful := c.look(at); doubtful {
			return instant*1e6 + int64(wall.Nanosecond())/1000
		}
	}
	return (at-c.offset)*1e6 + int64(wall.Nanosecond())/1000
}

// look finds the zone's offset for a local time and sets the range in which it is sure. For a
// doubtful time it gives the instant instead.
func (c *clock) look(at int64) (instant int64, doubtful bool) {
	offsetAt := func(instant int64) int64 {
		_, o := time.Unix(instant, 0).In(c.zone).Zone()
		return int64(o)
	}
	guess := time.Unix(at-offsetAt(at), 0).In(c.zone)
	start, end := guess.ZoneBounds()
	offset := offsetAt(guess.Unix())
	const ever = 1 << 60
	c.safeFrom, c.safeTo, c.offset = -ever, ever, offset
	for _, change := range []time.Time{start, end} {
		if change.IsZero() {
			continue
		}
		tr := change.Unix()
		before, after := offsetAt(tr-1), offsetAt(tr)
		low, high := tr+min(before, after), tr+max(before, after)
		if at >= low && at < high {
			kind := "gap"
			if before > after {
				kind = "overlap"
			}
			c.note(kind, tr, low, high)
			c.safeFrom, c.safeTo = 0, 0 // ask again
			return at - before, true
		}
		if at >= high {
			c.safeFrom, c.offset = max(c.safeFrom, high), after
		} else {
			c.safeTo, c.offset = min(c.safeTo, low), before
		}
	}
	return 0, false
}

func (c *clock) note(kind string, tr, low, high int64) {
	key := shiftKey{kind, tr}
	s := c.shifts[key]
	if s == nil {
		text := func(at int64) string { return time.Unix(at, 0).UTC().Format("2006-01-02 15:04:05") }
		s = &Shift{Kind: kind, From: text(low), To: text(high)}
		c.shifts[key] = s
	}
	s.Rows++
}

// doubtful gives the changes of the clocks that mattered, in order.
func (c *clock) doubtful() []Shift {
	out := make([]Shift, 0, len(c.shifts))
	for _, s := range c.shifts {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Shift) int { return cmp.Compare(a.From, b.From) })
	return out
}

// LoadZone finds a zone by its name, such as Europe/Moscow; Local is the machine's.
func LoadZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "" {
		return nil, fmt.Errorf("there is no time zone %.100q; names are those of the IANA database, such as Europe/Moscow, Asia/Shanghai or UTC", name)
	}
	return zone, nil
}

// LocalZone is the machine's zone, under its name if that can be found; otherwise it is called
// Local.
func LocalZone() *time.Location {
	local := time.Local //nolint:gosmopolitan // that is what it is for
	if local.String() != "Local" {
		return local
	}
	target, err := os.Readlink("/etc/localtime")
	if err != nil {
		return local
	}
	if _, name, ok := strings.Cut(target, "zoneinfo/"); ok {
		if zone, err := time.LoadLocation(name); err == nil {
			return zone
		}
	}
	return local
}
