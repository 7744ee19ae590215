package history

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"signalbox"
	"signalbox/internal/store"
)

// An epoch is what one process made of the log. Positions alone do not name an entry for good:
// what was announced and not yet on disk when the hub was killed, and what came behind a backup
// that was restored, is gone, and its positions are given again. So a position goes out as a
// cursor, with the epoch before it.

// Fate says what became of the place that a cursor names.
type Fate uint8

const (
	// Known is a cursor of this log, which has all up to it.
	Known Fate = iota
	// Lost is one of this log that leads to nothing: what it names, and perhaps more before it,
	// was never on disk (the hub was killed), or is no longer (it was restored from an older
	// backup). Position is the last that is.
	Lost
	// Foreign is another hub's, or older than what is remembered.
	Foreign
)

// Place is where a cursor leads.
type Place struct {
	Position signalbox.Position
	Fate     Fate
}

const (
	// epochsName is where the epochs are kept, the oldest first: name:first,name:first…
	epochsName = "log_epochs"
	// epochsKept is how many are remembered, and epochsEmpty how many of which nothing came on
	// disk: a log that is opened again and again for a moment must not push out the others.
	epochsKept, epochsEmpty = 256, 8
	// epochLen is the length of a name; epochLeast to epochMost are taken.
	epochLen, epochLeast, epochMost = 8, 6, 10
	// cursorShown is how much of a wrong cursor is given back.
	cursorShown = 64
)

// epoch begins at its first position, and ends before the next one's.
type epoch struct {
	name  string
	first signalbox.Position
}

// Cursor names position p so that another run of the hub, or another hub, cannot mistake it:
// «epoch-position». Position 0 is before everything. It takes no lock.
func (l *Log) Cursor(p signalbox.Position) string {
	return string(l.AppendCursor(make([]byte, 0, epochMost+1+20), p))
}

// AppendCursor appends what Cursor gives to dst.
func (l *Log) AppendCursor(dst []byte, p signalbox.Position) []byte {
	dst = append(append(dst, l.epochOf(p).name...), '-')
	return strconv.AppendUint(dst, uint64(p), 10)
}

// epochOf gives the epoch that p is of; the oldest one for what is older. The list does not
// change after Open.
func (l *Log) epochOf(p signalbox.Position) *epoch {
	newest := len(l.epochs) - 1
	if l.epochs[newest].first <= p { // what is asked for all the time
		return &l.epochs[newest]
	}
	i, _ := slices.BinarySearchFunc(l.epochs, p, func(e epoch, p signalbox.Position) int {
		if e.first <= p {
			return -1
		}
		return 1
	})
	return &l.epochs[max(i-1, 0)]
}

// Place finds the position that a cursor names. A text that can be no cursor is refused with
// KindInvalid, code invalid_cursor.
func (l *Log) Place(cursor string) (Place, error) {
	name, position, ok := parseCursor(cursor)
	if !ok {
		shown := cursor
		if len(shown) > cursorShown {
			shown = shown[:cursorShown] + "…"
		}
		return Place{}, signalbox.Errorf(signalbox.KindInvalid, "invalid_cursor",
			"%q is no cursor; a cursor is given with each event: %d to %d of the characters a to z and 0 to 9, a hyphen, and a position from 0 to %d (k3f9q2ab-17)",
			strings.ToValidUTF8(shown, "\uFFFD"), epochLeast, epochMost, int64(math.MaxInt64))
	}
	for i, e := range slices.Backward(l.epochs) {
		if e.name != name {
			continue
		}
		last := l.Head()
		if i+1 < len(l.epochs) {
			last = l.epochs[i+1].first - 1
		}
		if position > last {
			return Place{Position: last, Fate: Lost}, nil
		}
		return Place{Position: position}, nil
	}
	return Place{Fate: Foreign}, nil
}

// parseCursor takes a cursor apart.
func parseCursor(cursor string) (name string, p signalbox.Position, ok bool) {
	name, number, _ := strings.Cut(cursor, "-")
	if !isEpoch(name) {
		return "", 0, false
	}
	v, err := strconv.ParseUint(number, 10, 63)
	if err != nil || len(number) > 1 && number[0] == '0' {
		return "", 0, false // one position has one cursor
	}
	return name, signalbox.Position(v), true
}

func isEpoch(name string) bool {
	if len(name) < epochLeast || len(name) > epochMost {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// openEpoch begins an epoch behind what is on disk, and stores that. When it cannot be stored
// now (a full disk) it is with the first commit: until then nothing of the epoch is on disk, and
// a start after that knows it for foreign, which it is told.
func (l *Log) openEpoch(ctx context.Context) error {
	text, err := l.st.Meta(ctx, epochsName)
	if err != nil {
		return err
	}
	known, err := parseEpochs(text)
	if err != nil {
		return err
	}
	l.epochs = nextEpoch(known, l.next, newEpochName())
	l.unwritten = formatEpochs(l.epochs)
	write := func(tx *store.Tx) error { return l.writeEpochs(ctx, tx) }
	err = l.st.Update(ctx, write)
	if unknown, ok := errors.AsType[*store.UnknownOutcome](err); ok {
		var committed bool
		if committed, err = l.st.Outcome(ctx, unknown); err == nil && !committed {
			err = l.st.Update(ctx, write)
		}
	}
	switch {
	case err == nil:
		l.unwritten = ""
	case ctx.Err() != nil:
		return err
	default:
		l.cfg.Logger.Warn("the beginning of a new epoch of the log could not be stored; it is with the first entry", "err", err)
	}
	return nil
}

// writeEpochs stores what is not stored yet.
func (l *Log) writeEpochs(ctx context.Context, tx *store.Tx) error {
	if l.unwritten == "" {
		return nil
	}
	return tx.SetMeta(ctx, epochsName, l.unwritten)
}

// nextEpoch adds the epoch that begins at position first.
func nextEpoch(known []epoch, first signalbox.Position, name string) []epoch {
	for i := range known {
		known[i].first = min(known[i].first, first) // what was behind is gone
	}
	empty := 0
	for empty < len(known) && known[len(known)-1-empty].first == first {
		empty++
	}
	if n := len(known) - empty; empty >= epochsEmpty {
		known = slices.Delete(known, n, n+empty-epochsEmpty+1)
	}
	known = append(known, epoch{name, first})
	return known[max(len(known)-epochsKept, 0):]
}

// newEpochName makes a name of 40 random bits.
func newEpochName() string { return strings.ToLower(rand.Text()[:epochLen]) }

func formatEpochs(list []epoch) string {
	var text []byte
	for i, e := range list {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(append(text, e.name...), ':')
		text = strconv.AppendUint(text, uint64(e.first), 10)
	}
	return string(text)
}

func parseEpochs(text string) (list []epoch, err error) {
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		name, number, _ := strings.Cut(part, ":")
		first, err := strconv.ParseUint(number, 10, 63)
		if err != nil || !isEpoch(name) || len(list) > 0 && signalbox.Position(first) < list[len(list)-1].first {
			return nil, fmt.Errorf("the stored %s has the part %q, which is no epoch", epochsName, part)
		}
		list = append(list, epoch{name, signalbox.Position(first)})
	}
	return list, nil
}
