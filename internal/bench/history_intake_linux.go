package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

// generatorSample is how many messages are made at most to learn what making them costs.
const generatorSample = 500_000

// intake feeds telemetry with receipt times of this machine's clock, as fast as the engine takes it, from one goroutine,
// all devices in turn.
func (e *engine) intake(ctx context.Context) (err error) {
	if _, err := e.open(ctx, history.Config{}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop()) }()
	load := newBoxes(e.Devices, e.Seed)
	making, err := generatorCost(load, e.Messages)
	if err != nil {
		return err
	}
	before, err := used()
	if err != nil {
		return err
	}
	began := time.Now()
	entry := signalbox.Entry{Kind: signalbox.EntryTelemetry}
	n := 0
	for ; n < e.Messages && (n%4096 != 0 || time.Since(began) < e.Limit); n++ {
		entry.Device, entry.Body, entry.TimeMicros = signalbox.DeviceID(n%e.Devices+1), load.next(n%e.Devices), 0
		if err := e.put(ctx, &entry); err != nil {
			return err
		}
		if n%(1<<20) == 0 {
			e.progress("%d of %d messages", n, e.Messages)
		}
	}
	if err := e.log.Wait(ctx, entry.Position); err != nil {
		return err
	}
	committed := time.Since(began)
	sealed, err := e.settled(ctx)
	if err != nil {
		return err
	}
	after, err := used()
	if err != nil {
		return err
	}
	peak, err := peakMiB()
	if err != nil {
		return err
	}
	d, err := e.diskUse(ctx)
	if err != nil {
		return err
	}
	if n < e.Messages {
		e.note("%s, %d devices: ended by the limit of %v.", e.kind(), e.Devices, e.Limit)
	}
	if f := e.log.Stats().Faults.Load(); f > 0 {
		return fmt.Errorf("the engine had %d faults", f)
	}
	count := float64(n)
	perSealed := 0.0
	if d.messages > 0 {
		perSealed = d.chunks / d.messages
	}
	cpu := float64(after.cpu-before.cpu)/float64(time.Microsecond)/count - making
	e.add(fmt.Sprintf("%s, %s devices", e.kind(), format(float64(e.Devices))),
		Value{"messages", "", count},
		Value{"committed", "msg/s", count / committed.Seconds()},
		Value{"sealed", "msg/s", count / sealed.Sub(began).Seconds()},
		Value{"CPU", "µs/msg", cpu},
		Value{"written", "B/msg", (after.written - before.written) / count},
		Value{"in chunks", "%", 100 * d.messages / count},
		Value{"in chunks", "B/msg", perSealed},
		Value{"disk", "B/msg", d.all / count},
		Value{"peak memory", "MiB", peak})
	return nil
}

// generatorCost is the CPU time of making one message of so many, in µs.
func generatorCost(load *boxes, messages int) (float64, error) {
	sample := min(generatorSample, messages)
	before, err := used()
	if err != nil {
		return 0, err
	}
	for i := range sample {
		load.next(i % len(load.all))
	}
	after, err := used()
	return float64(after.cpu-before.cpu) / float64(time.Microsecond) / float64(sample), err
}

const (
	// naiveBatch is how many messages the naive table takes in one transaction, and naiveRows in one statement.
	naiveBatch = 1000
	naiveRows  = 50
)

// naive does the same with a row a message, and asks for a page by an offset, as the original did. Device 1 has half of
// the messages.
func (e *engine) naive(ctx context.Context) (err error) {
	if e.st, err = store.Open(ctx, store.Config{Dir: e.Dir, URL: e.Store}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.st.Close()) }()
	integer, options := "BIGINT", ""
	switch e.kind() {
	case "SQLite":
		integer = "INTEGER"
	case "MariaDB":
		options = " DEFAULT CHARSET = utf8mb4"
	}
	err = e.st.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, fmt.Sprintf(`CREATE TABLE bench_row (id %[1]s PRIMARY KEY, device %[1]s NOT NULL, ts %[1]s NOT NULL, payload TEXT NOT NULL)%[2]s`, integer, options))
		if err == nil {
			_, err = tx.Exec(ctx, `CREATE INDEX bench_row_time ON bench_row (device, ts)`)
		}
		return err
	})
	if err != nil {
		return err
	}
	empty, err := e.naiveBytes(ctx)
	if err != nil {
		return err
	}
	load := newBoxes(e.Devices, e.Seed)
	making, err := generatorCost(load, e.Messages)
	if err != nil {
		return err
	}
	before, err := used()
	if err != nil {
		return err
	}
	began := time.Now()
	n := 0
	for n < e.Messages && time.Since(began) < e.Limit {
		if err := e.insertRows(ctx, load, n); err != nil {
			return err
		}
		n += naiveBatch
		e.progress("%d of %d rows", n, e.Messages)
	}
	took := time.Since(began)
	after, err := used()
	if err != nil {
		return err
	}
	peak, err := peakMiB()
	if err != nil {
		return err
	}
	size, err := e.naiveBytes(ctx)
	if err != nil {
		return err
	}
	count := float64(n)
	e.add(fmt.Sprintf("%s, row a message, %s devices", e.kind(), format(float64(e.Devices))),
		Value{"messages", "", count}, Value{"committed", "msg/s", count / took.Seconds()},
		Value{"CPU", "µs/msg", float64(after.cpu-before.cpu)/float64(time.Microsecond)/count - making},
		Value{"written", "B/msg", (after.written - before.written) / count},
		Value{"disk", "B/msg", (size - empty) / count}, Value{"peak memory", "MiB", peak})
	return e.naivePages(ctx, n/2)
}

// insertRows inserts a batch of messages; every other one is device 1's.
func (e *engine) insertRows(ctx context.Context, load *boxes, n int) error {
	const insert = `INSERT INTO bench_row (id, device, ts, payload) VALUES (?,?,?,?)`
	query := insert + strings.Repeat(`,(?,?,?,?)`, naiveRows-1)
	args := make([]any, 0, 4*naiveRows)
	return e.st.Update(ctx, func(tx *store.Tx) error {
		for i := n; i < n+naiveBatch; i += naiveRows {
			args = args[:0]
			for k := i; k < i+naiveRows; k++ {
				device := 0
				if k%2 == 1 {
					device = k / 2 % e.Devices
				}
				args = append(args, k+1, device+1, time.Now().UnixMicro(), string(load.next(device)))
			}
			if _, err := tx.Exec(ctx, query, args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// naiveBytes is what the database takes.
func (e *engine) naiveBytes(ctx context.Context) (size float64, err error) {
	query := `SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size) + 0.0`
	switch e.kind() {
	case "PostgreSQL":
		query = `SELECT pg_total_relation_size('bench_row')::float8`
	case "MariaDB":
		query = `SELECT COALESCE(SUM(data_length + index_length), 0) + 0.0 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'bench_row'`
	}
	if err := e.refresh(ctx, `ANALYZE TABLE bench_row`); err != nil {
		return 0, err
	}
	err = e.st.Reader().QueryRowContext(ctx, query).Scan(&size)
	return size, err
}

// naivePages asks for the last page of device 1, and for one deep in it.
func (e *engine) naivePages(ctx context.Context, rows int) error {
	page := func(offset int) func(context.Context, int) (int, error) {
		return func(ctx context.Context, _ int) (n int, err error) {
			var rows interface {
				Next() bool
				Scan(dest ...any) error
				Close() error
				Err() error
			}
			order := "DESC"
			if offset > 0 {
				order = "ASC"
			}
			query := fmt.Sprintf(`SELECT ts, payload FROM bench_row WHERE device = 1 ORDER BY ts %s LIMIT 20 OFFSET %d`, order, offset)
			if rows, err = e.st.Reader().QueryContext(ctx, query); err != nil {
				return 0, err
			}
			for rows.Next() {
				var ts int64
				var payload string
				if err = rows.Scan(&ts, &payload); err != nil {
					break
				}
				n++
			}
			return n, errors.Join(err, rows.Err(), rows.Close())
		}
	}
	deep := max(0, min(rows-20, 5_000_000))
	if err := e.question(ctx, fmt.Sprintf("%s, row a message: last 20", e.kind()), page(0)); err != nil {
		return err
	}
	return e.question(ctx, fmt.Sprintf("%s, row a message: LIMIT %s,20", e.kind(), format(float64(deep))), page(deep))
}
