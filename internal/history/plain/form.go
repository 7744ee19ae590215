package plain

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

// The row plain_form of table meta says how the table was made: the version of its form and
// the day before which it has one partition for all; or that it is being made.
const (
	form   = "1"
	making = "making"
)

const (
	// pastDays is how many days before the table is made may have partitions of their own.
	pastDays = 366
	// aheadDays is for how many days after today there are partitions.
	aheadDays = 2
	// onceDays is how many are made or dropped with one statement.
	onceDays = 64
)

// layout is what the databases do in their own ways. Table.mu is held around all calls but
// those of tables, split and time.
type layout interface {
	// tables gives the query that counts the tables and views of a name.
	tables() string
	// create makes the table, today being that day.
	create(ctx context.Context, today day) error
	// load finds out which partitions there are.
	load(ctx context.Context) error
	// ready makes partitions for rows of these days, where they can be made.
	ready(ctx context.Context, days map[day]bool) error
	// drop takes away what is before a day, as far as it is parts of their own, and says how many.
	drop(ctx context.Context, before day) (int, error)
	// split says whether there are partitions.
	split() bool
	// time gives ts as this database takes it.
	time(ts string) string
}

// newLayout gives that of the table's database.
func newLayout(t *Table) layout {
	switch t.st.Dialect() {
	case store.MariaDB:
		return &maria{t: t}
	case store.PostgreSQL:
		return &postgres{t: t}
	default:
		return &lite{t: t}
	}
}

// prepare makes the table if it is not there or is another, and finds out where it is.
func (t *Table) prepare(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opened = false
	t.prepared++
	clear(t.gone) // whatever happened to the table meanwhile
	clear(t.tidied)
	is, err := t.st.Meta(ctx, store.PlainForm)
	if err != nil {
		return err
	}
	there, err := t.there(ctx)
	if err != nil {
		return err
	}
	version, floor, _ := strings.Cut(is, " ")
	if !there || version != form {
		if err := t.create(ctx, is); err != nil {
			return err
		}
	} else {
		at, err := time.Parse(packed, floor)
		if err != nil {
			return fmt.Errorf("the stored %s %q is not known: %w", store.PlainForm, is, err)
		}
		t.floor = dayAt(at)
	}
	if err := t.layout.load(ctx); err != nil {
		return fmt.Errorf("look at the plain table: %w", err)
	}
	text, err := t.st.Meta(ctx, store.PlainThrough)
	if err != nil {
		return err
	}
	through, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return fmt.Errorf("the stored %s %q is no position: %w", store.PlainThrough, text, err)
	}
	t.stored = signalbox.Position(through)
	t.through.Store(through)
	t.opened = true
	return nil
}

// Left says whether there is a plain table of an earlier time, which nobody keeps up to date
// unless Run does.
func Left(ctx context.Context, st *store.Store) (bool, error) {
	is, err := st.Meta(ctx, store.PlainForm)
	if err != nil || is == "" {
		return false, err
	}
	t := &Table{st: st}
	t.layout = newLayout(t)
	return t.there(ctx)
}

// there says whether the table is.
func (t *Table) there(ctx context.Context) (bool, error) { return t.exists(ctx, store.PlainTable) }

// exists says whether there is a table or a view of that name.
func (t *Table) exists(ctx context.Context, name string) (bool, error) {
	var n int
	if err := t.st.Reader().QueryRowContext(ctx, t.layout.tables(), name).Scan(&n); err != nil {
		return false, fmt.Errorf("look for the table %s: %w", name, err)
	}
	return n > 0, nil
}

// create makes the table, in place of what there is. What was begun and cut off is begun
// again.
func (t *Table) create(ctx context.Context, is string) error {
	if is == "" {
		if err := t.refuseOther(ctx); err != nil {
			return err
		}
	}
	if err := t.note(ctx, making); err != nil {
		return err
	}
	for _, query := range []string{`DROP VIEW IF EXISTS ` + store.PlainView, `DROP TABLE IF EXISTS ` + store.PlainTable} {
		if err := t.side.Define(ctx, query); err != nil {
			return fmt.Errorf("make the plain table anew: %w", err)
		}
	}
	today := dayAt(time.Now())
	t.floor = today - pastDays
	if err := t.layout.create(ctx, today); err != nil {
		return fmt.Errorf("make the plain table: %w", err)
	}
	err := t.side.Define(ctx, `CREATE VIEW `+store.PlainView+` AS SELECT d.name AS device, d.type AS type, t.ts, t.seq, t.payload FROM `+
		store.PlainTable+` t JOIN device d ON d.id = t.device`)
	if err != nil {
		t.cfg.Logger.Warn("the view of the plain table with the names of devices could not be made; the table works without it", "view", store.PlainView, "err", err)
	}
	if err := t.note(ctx, form+" "+t.floor.format(packed)); err != nil {
		return err
	}
	t.cfg.Logger.Info("the plain table was made; it is filled from history", "table", store.PlainTable, "view", store.PlainView)
	return nil
}

// refuseOther refuses what others have made under these names, be it empty.
func (t *Table) refuseOther(ctx context.Context) error {
	for _, name := range []string{store.PlainTable, store.PlainView} {
		if taken, err := t.exists(ctx, name); err != nil {
			return err
		} else if taken {
			return signalbox.Errorf(signalbox.KindConflict, "table_taken",
				"the database has a table or view %s already that this program has not made; rename it, or do without the plain mode of history", name)
		}
	}
	return nil
}

// note stores the form, and that nothing is in the table.
func (t *Table) note(ctx context.Context, is string) error {
	const set = `INSERT INTO meta (name, value) VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`
	return t.side.Update(ctx, func(tx store.SideTx) error {
		if _, err := tx.Exec(ctx, set, store.PlainForm, is); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, set, store.PlainThrough, "0")
		return err
	})
}

// move makes p the position up to which the table is complete, if it is where it was left.
func (t *Table) move(ctx context.Context, tx store.SideTx, p signalbox.Position) error {
	res, err := tx.Exec(ctx, `UPDATE meta SET value = ? WHERE name = ? AND value = ?`, position(p), store.PlainThrough, position(t.stored))
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n != 1 {
		err = errElsewhere
	}
	return err
}

func position(p signalbox.Position) string { return strconv.FormatUint(uint64(p), 10) }

// ahead makes the partitions of the days to come. If that is not possible now, it is the next
// time.
func (t *Table) ahead(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if now.Before(t.aheadAgain) {
		return
	}
	if err := t.layout.ready(ctx, coming(now)); err != nil && ctx.Err() == nil {
		t.aheadAgain = now.Add(lookAgain)
		t.cfg.Logger.Warn("partitions of the plain table could not be made ahead; it is tried again", "err", err)
	}
}

// coming are today and the days for which there are partitions ahead.
func coming(now time.Time) map[day]bool {
	days := map[day]bool{}
	for i := range day(aheadDays + 1) {
		days[dayAt(now)+i] = true
	}
	return days
}
