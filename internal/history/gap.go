package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"signalbox"
	"signalbox/internal/history/chunk"
	"signalbox/internal/store"
)

// droppedName is where the marks of retention are kept: «telemetry,events».
const droppedName = "history_dropped"

// Gap says that history no longer has all that came behind a position, because retention has
// dropped some of it. How much is not known, and some of it may have been of other devices.
type Gap struct {
	// After is the position behind which something is missing.
	After signalbox.Position
	// Telemetry and Events (what is no telemetry) are the positions up to which; 0: nothing of
	// that kind is missing, or SinceQuery.Events did not ask for it.
	Telemetry, Events signalbox.Position
}

// droppedUpTo are the marks of retention: the highest positions of what it has dropped ever.
type droppedUpTo struct{ telemetry, events signalbox.Position }

// raise notes that something was dropped whose last position is p.
func (m *droppedUpTo) raise(device signalbox.DeviceID, p signalbox.Position) {
	if device == eventDevice {
		m.events = max(m.events, p)
	} else {
		m.telemetry = max(m.telemetry, p)
	}
}

func (m droppedUpTo) format() string {
	return strconv.FormatUint(uint64(m.telemetry), 10) + "," + strconv.FormatUint(uint64(m.events), 10)
}

// parseDropped reads what format gives. Nothing, as in a database that retention has not touched
// since there are marks, is the zero value.
func parseDropped(text string) (m droppedUpTo, err error) {
	if text == "" {
		return m, nil
	}
	telemetry, events, _ := strings.Cut(text, ",")
	for _, part := range []struct {
		to   *signalbox.Position
		text string
	}{{&m.telemetry, telemetry}, {&m.events, events}} {
		v, err := strconv.ParseUint(part.text, 10, 63)
		if err != nil {
			return droppedUpTo{}, fmt.Errorf("the stored %s %q is not two positions: %w", droppedName, text, err)
		}
		*part.to = signalbox.Position(v)
	}
	return m, nil
}

// Unmissed registers f, which tells the devices of which nobody is shown anything any more (they
// were removed): what retention drops of them leaves no gap. Register before retention begins.
func (l *Log) Unmissed(f func(signalbox.DeviceID) bool) { l.unmissed = f }

// dropped reads the marks. A reading that misses chunks which were dropped meanwhile is told so
// by marks that are read after it: they were committed together.
func (l *Log) dropped(ctx context.Context) (droppedUpTo, error) {
	text, err := l.st.Meta(ctx, droppedName)
	if err != nil {
		return droppedUpTo{}, err
	}
	return parseDropped(text)
}

// noteDropped raises the marks in the transaction that drops chunks.
func (l *Log) noteDropped(ctx context.Context, tx *store.Tx, by droppedUpTo) error {
	var text string
	err := tx.QueryRow(ctx, `SELECT value FROM meta WHERE name = ?`, []any{droppedName}, &text)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	have, err := parseDropped(text)
	if err != nil {
		return err
	}
	next := droppedUpTo{max(have.telemetry, by.telemetry), max(have.events, by.events)}
	if next == have {
		return nil
	}
	return tx.SetMeta(ctx, droppedName, next.format())
}

// lastNews gives the last position of a chunk that those who follow the log were to see, 0 if it
// has nothing but what was imported. p1 is its last position, begin how its body begins.
func (l *Log) lastNews(ctx context.Context, tx *store.Tx, id int64, p1 signalbox.Position, begin []byte) (signalbox.Position, error) {
	if !chunk.TellsImported(begin) {
		return p1, nil
	}
	var body []byte
	if err := tx.QueryRow(ctx, `SELECT body FROM chunk WHERE id = ?`, []any{id}, &body); err != nil {
		return 0, err
	}
	if last, ok := l.lastKnown(body); ok {
		return last, nil
	}
	return p1, nil // it is broken: nobody knows
}

// lastKnown gives the last position of a chunk that was not imported, 0 without one.
func (l *Log) lastKnown(body []byte) (last signalbox.Position, ok bool) {
	var r chunk.Reader
	if r.Load(l.shapes, body) != nil {
		return 0, false
	}
	for i := range r.Len() {
		if !r.Imported(i) {
			last = max(last, r.Position(i))
		}
	}
	return last, r.Err() == nil
}

// gaps tells whoever follows the log of what is missing, each time more of it is.
type gaps struct {
	l    *Log
	q    *SinceQuery
	told droppedUpTo
}

// tell tells of what is missing from position at to most.
func (g *gaps) tell(ctx context.Context, at, most signalbox.Position) error {
	if g.q.Gap == nil {
		return nil
	}
	have, err := g.l.dropped(ctx)
	if err != nil {
		return err
	}
	var now droppedUpTo
	if have.telemetry >= at {
		now.telemetry = min(have.telemetry, most)
	}
	if g.q.Events && have.events >= at {
		now.events = min(have.events, most)
	}
	if now.telemetry <= g.told.telemetry && now.events <= g.told.events {
		return nil
	}
	g.told = droppedUpTo{max(g.told.telemetry, now.telemetry), max(g.told.events, now.events)}
	return g.q.Gap(Gap{After: at - 1, Telemetry: now.telemetry, Events: now.events})
}
