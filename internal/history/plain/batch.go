package plain

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"signalbox"
	"signalbox/internal/store"
)

// day is a day of UTC, counted from 1970-01-01.
type day int64

const dayMicros = 24 * 60 * 60 * 1_000_000

func dayOf(micros int64) day {
	d := micros / dayMicros
	if micros%dayMicros < 0 {
		d--
	}
	return day(d)
}

func dayAt(t time.Time) day { return dayOf(t.UnixMicro()) }

// format spells the day.
func (d day) format(layout string) string {
	return time.UnixMicro(int64(d) * dayMicros).UTC().Format(layout)
}

const (
	// packed is how names of partitions spell a day.
	packed = "20060102"
	// stamp is how ts is written: all databases read it, and SQLite keeps it.
	stamp = "2006-01-02 15:04:05.000000"
)

// row is one of the table.
type row struct {
	device  signalbox.DeviceID
	seq     signalbox.Position
	day     day
	ts      string
	payload string
}

// batch is what one transaction writes.
type batch struct {
	rows    []row
	bytes   int
	days    map[day]bool
	through signalbox.Position // everything up to here is in it, or is no row
}

func (b *batch) add(e *signalbox.Entry) {
	r := row{
		device: e.Device, seq: e.Position, day: dayOf(e.TimeMicros), payload: string(e.Body),
		ts: time.UnixMicro(e.TimeMicros).UTC().Format(stamp),
	}
	b.rows = append(b.rows, r)
	b.bytes += len(r.payload)
	b.days[r.day] = true
}

func (b *batch) reset() {
	clear(b.rows)
	clear(b.days)
	b.rows, b.bytes = b.rows[:0], 0
}

// takeable says whether a database will take it. What comes through the doors is.
func takeable(body []byte) bool { return utf8.Valid(body) && json.Valid(body) }

// flush writes b and empties it.
func (t *Table) flush(ctx context.Context, b *batch) error {
	defer b.reset()
	err := t.write(ctx, b)
	if !refused(err) {
		return err
	}
	// One of them is not taken, though it should be. The others are.
	slices.SortFunc(b.rows, func(x, y row) int { return cmp.Compare(x.seq, y.seq) })
	for i := range b.rows {
		r := &b.rows[i]
		one := batch{rows: b.rows[i : i+1], days: map[day]bool{r.day: true}, through: r.seq}
		if err := t.write(ctx, &one); err != nil {
			if !refused(err) {
				return err
			}
			t.skip(r.device, r.seq, err)
		}
	}
	return t.write(ctx, &batch{through: b.through})
}

// refused says that the fault is a value's.
func refused(err error) bool {
	return signalbox.CodeOf(err) == "value_refused" || signalbox.KindOf(err) == signalbox.KindTooLarge
}

// write does a transaction.
func (t *Table) write(ctx context.Context, b *batch) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	// Those of a device that was removed since they were batched: Retain looks for no more of it.
	b.rows = slices.DeleteFunc(b.rows, func(r row) bool { return !t.cfg.Known(r.device) })
	if len(b.rows) > 0 {
		if err := t.layout.ready(ctx, b.days); err != nil {
			return err
		}
	}
	// In the order of the table, so that each page is looked for once.
	slices.SortFunc(b.rows, func(x, y row) int {
		return cmp.Or(cmp.Compare(x.device, y.device), strings.Compare(x.ts, y.ts), cmp.Compare(x.seq, y.seq))
	})
	err := t.side.Update(ctx, func(tx store.SideTx) error {
		if err := t.move(ctx, tx, b.through); err != nil {
			return err
		}
		return t.insert(ctx, tx, b.rows)
	})
	if err != nil {
		return err
	}
	t.stored = b.through
	t.through.Store(uint64(b.through))
	t.stats.Transactions.Add(1)
	t.stats.Rows.Add(int64(len(b.rows)))
	return nil
}

// errElsewhere says that somebody else has written the table.
var errElsewhere = errors.New("the plain table is not where this hub left it")

// insert is a statement for so many rows.
type insert struct {
	rows int
	text string
}

const (
	// insertBytes bounds the payload of a statement of many rows.
	insertBytes = 1 << 20
	columns     = 4
)

// newInserts gives statements for many rows and for few, the largest first. The text of each
// is the same for ever, so that databases know it again.
func newInserts() (all []insert) {
	for _, n := range []int{128, 16, 1} {
		all = append(all, insert{n, `INSERT INTO ` + store.PlainTable + ` (device, ts, seq, payload) VALUES ` + strings.Repeat("(?,?,?,?),", n-1) + "(?,?,?,?)"})
	}
	return all
}

func (t *Table) insert(ctx context.Context, tx store.SideTx, rows []row) error {
	args := make([]any, 0, columns*t.inserts[0].rows)
	for len(rows) > 0 {
		var next insert
		for _, next = range t.inserts {
			if next.rows == 1 || next.rows <= len(rows) && sizeOf(rows[:next.rows]) <= insertBytes {
				break
			}
		}
		args = args[:0]
		for i := range rows[:next.rows] {
			r := &rows[i]
			args = append(args, int64(r.device), t.layout.time(r.ts), int64(r.seq), r.payload)
		}
		if _, err := tx.Exec(ctx, next.text, args...); err != nil {
			return err
		}
		rows = rows[next.rows:]
	}
	return nil
}

func sizeOf(rows []row) (n int) {
	for i := range rows {
		n += len(rows[i].payload)
	}
	return n
}
