package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// fill makes the past: telemetry with times of the devices, in the order of time. Beside them each message has its time
// of receipt, which is now.
func (e *engine) fill(ctx context.Context) (err error) {
	if _, err := e.open(ctx, history.Config{}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop()) }()
	load := newBoxes(e.Past.Devices, e.Seed)
	began := time.Now()
	entry := signalbox.Entry{Kind: signalbox.EntryTelemetry}
	n := 0
	e.Past.each(func(device int, micros int64) bool {
		entry.Device, entry.Body, entry.TimeMicros = signalbox.DeviceID(device+1), load.next(device), micros
		err = e.put(ctx, &entry)
		n++
		if n%(1<<18) == 0 {
			e.progress("%d of %d messages", n, e.Past.Messages)
			if time.Since(began) > e.Limit {
				err = fmt.Errorf("filling took more than %v for %d of %d messages", e.Limit, n, e.Past.Messages)
			}
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	if n != e.Past.Messages {
		return fmt.Errorf("the past has %d messages instead of %d", n, e.Past.Messages)
	}
	if err := e.log.Wait(ctx, entry.Position); err != nil {
		return err
	}
	sealed, err := e.settled(ctx)
	if err != nil {
		return err
	}
	d, err := e.diskUse(ctx)
	if err != nil {
		return err
	}
	e.add(fmt.Sprintf("%s, a month", e.kind()),
		Value{"messages", "", float64(n)},
		Value{"sealed", "msg/s", float64(n) / sealed.Sub(began).Seconds()},
		Value{"in chunks", "%", 100 * d.messages / float64(n)},
		Value{"in chunks", "B/msg", d.chunks / max(1, d.messages)},
		Value{"disk", "B/msg", d.all / float64(n)})
	return nil
}

const (
	warmMost, coldMost = 200, 30 // times that a question is asked
	leastAsked         = 3
)

// question asks the same kind of question again and again, number i of n times, warm and then cold: after dropping what
// database and system have of the files in memory. It notes how long it took.
func (e *engine) question(ctx context.Context, name string, ask func(ctx context.Context, i int) (rows int, err error)) error {
	e.progress("%s", name)
	rows := 0
	times := func(most int, before func() error) (all []float64, err error) {
		for i, began := 0, time.Now(); i < most && (i < leastAsked || time.Since(began) < e.Limit); i++ {
			if before != nil {
				if err := before(); err != nil {
					return nil, err
				}
			}
			asked := time.Now()
			n, err := ask(ctx, i)
			all = append(all, ms(time.Since(asked)))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			rows = max(rows, n)
		}
		slices.Sort(all)
		return all, nil
	}
	if _, err := ask(ctx, 0); err != nil { // statements are prepared
		return fmt.Errorf("%s: %w", name, err)
	}
	warm, err := times(warmMost, nil)
	if err != nil {
		return err
	}
	cold := []float64{0}
	if path := e.st.Path(); path != "" {
		cold, err = times(coldMost, func() error { return errors.Join(e.st.Shrink(ctx), evict(path)) })
		if err != nil {
			return err
		}
	}
	if rows == 0 {
		return fmt.Errorf("%s: there was nothing to find", name)
	}
	e.add(name,
		Value{"rows", "", float64(rows)},
		Value{"warm p50", "ms", quantile(warm, 0.5)}, Value{"warm p99", "ms", quantile(warm, 0.99)},
		Value{"cold p50", "ms", quantile(cold, 0.5)}, Value{"cold p99", "ms", quantile(cold, 0.99)},
		Value{"rate", "rows/s", float64(rows) * 1000 / quantile(warm, 0.5)})
	return nil
}

// quantile of sorted values.
func quantile(sorted []float64, q float64) float64 {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// ask starts the engine on what fill has left and asks everything; at the end it exports all and drops a tenth.
func (e *engine) ask(ctx context.Context) (err error) {
	took, err := e.open(ctx, history.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop()) }()
	e.note("%s: a start with this history takes %.2f s; %.1f million messages are in no chunk yet and are read again from the log.",
		e.kind(), took.Seconds(), float64(e.log.Kept())/1e6)
	if err := e.askAll(ctx); err != nil {
		return err
	}
	if err := e.export(ctx); err != nil {
		return err
	}
	return e.retain(ctx)
}

// named gives a question's name with that of the database.
func (e *engine) named(format string, args ...any) string {
	return e.kind() + ", " + fmt.Sprintf(format, args...)
}

func (e *engine) askAll(ctx context.Context) error {
	p, rng := &e.Past, rand.New(rand.NewPCG(5, 6)) //nolint:gosec // a measurement's choice
	device := func() signalbox.DeviceID { return signalbox.DeviceID(1 + rng.IntN(p.Devices)) }
	deep := min(5_000_000, p.Deep-100)
	type question struct {
		name string
		ask  func(ctx context.Context, i int) (int, error)
	}
	buckets := func(days, n int, device func(i int) signalbox.DeviceID) func(context.Context, int) (int, error) {
		return func(ctx context.Context, i int) (int, error) {
			span := time.Duration(days) * 24 * time.Hour
			from := p.begin().Add(time.Duration(rng.Int64N(int64(month-span) + 1)))
			return countBuckets(e.log.Buckets(ctx, history.BucketQuery{Device: device(i), Fields: []string{"servo1"}, From: from, To: from.Add(span), N: n}))
		}
	}
	first := func(int) signalbox.DeviceID { return 1 }
	list := []question{
		{"last 20", func(ctx context.Context, _ int) (int, error) {
			found, err := e.log.Page(ctx, history.Query{Device: device(), Limit: 20})
			return len(found), err
		}},
		{fmt.Sprintf("20 at row %s of a device", format(float64(deep))), func(ctx context.Context, i int) (int, error) {
			found, err := e.log.PageAt(ctx, 1, int64(deep-i), 20)
			return len(found), err
		}},
		{"20 in the middle, by time", func(ctx context.Context, _ int) (int, error) {
			to := p.begin().Add(month/2 + time.Duration(rng.Int64N(int64(month/4))))
			found, err := e.log.Page(ctx, history.Query{Device: p.month(rng.IntN(p.Months)), To: to, Limit: 20})
			return len(found), err
		}},
		{"as of a time", func(ctx context.Context, _ int) (int, error) {
			_, ok, err := e.log.AsOf(ctx, p.month(rng.IntN(p.Months)), p.begin().Add(time.Hour+time.Duration(rng.Int64N(int64(month-time.Hour)))))
			if ok {
				return 1, err
			}
			return 0, err
		}},
		{"a day in 1,000 buckets", buckets(1, 1000, p.month)},
		{"a week in 1,000 buckets", buckets(7, 1000, p.month)},
		{"a month in 1,000 buckets", buckets(30, 1000, p.month)},
		{"a month in 10 buckets", buckets(30, 10, p.month)},
		{"a month of device 1 in 1,000 buckets", buckets(30, 1000, first)},
	}
	scan := func(from, to time.Time) func(context.Context, int) (int, error) {
		return func(ctx context.Context, _ int) (n int, err error) {
			last := int64(0)
			err = e.log.ScanTime(ctx, history.ScanQuery{From: from, To: to}, func(entry *signalbox.Entry) error {
				if n++; entry.TimeMicros < last {
					return fmt.Errorf("message %d is out of order", entry.Position)
				}
				last = entry.TimeMicros
				return nil
			})
			return n, err
		}
	}
	if p.Dense > 0 {
		list = append(list, question{fmt.Sprintf("all devices in order of time, %v at 1 msg/s", time.Duration(p.Dense)*time.Second), scan(p.dense(), p.End)})
	}
	from, to := p.sparse()
	list = append(list, question{fmt.Sprintf("all devices in order of time, %v at 1 msg/min", to.Sub(from)), scan(from, to)})
	for _, q := range list {
		if err := e.question(ctx, e.named("%s", q.name), q.ask); err != nil {
			return err
		}
	}
	return nil
}

// countBuckets is how many messages went into buckets.
func countBuckets(fields [][]history.Bucket, err error) (n int, _ error) {
	for _, buckets := range fields {
		for i := range buckets {
			n += buckets[i].Count
		}
	}
	return n, err
}

// export writes everything as NDJSON to nowhere.
func (e *engine) export(ctx context.Context) error {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	before, err := forgetPeak()
	if err != nil {
		return errors.Join(err, null.Close())
	}
	w := bufio.NewWriterSize(null, 256<<10)
	began, n, size := time.Now(), 0, 0
	var line []byte
	err = e.log.ScanTime(ctx, history.ScanQuery{}, func(entry *signalbox.Entry) error {
		line = append(line[:0], `{"device":`...)
		line = strconv.AppendUint(line, uint64(entry.Device), 10)
		line = append(line, `,"time":`...)
		line = strconv.AppendInt(line, entry.TimeMicros, 10)
		line = append(line, `,"received":`...)
		line = strconv.AppendInt(line, entry.ReceivedMicros, 10)
		line = append(line, `,"object":`...)
		line = append(append(line, entry.Body...), "}\n"...)
		size += len(line)
		if n++; n%(1<<18) == 0 {
			e.progress("exported %d of %d messages", n, e.Past.Messages)
		}
		_, err := w.Write(line)
		return err
	})
	took := time.Since(began)
	if err := errors.Join(err, w.Flush(), null.Close()); err != nil {
		return err
	}
	if n != e.Past.Messages {
		return fmt.Errorf("the export has %d messages of %d", n, e.Past.Messages)
	}
	peak, err := peakMiB()
	if err != nil {
		return err
	}
	e.add(e.named("export of all"), Value{"messages", "", float64(n)}, Value{"rate", "msg/s", float64(n) / took.Seconds()},
		Value{"size", "MiB", float64(size) / mib}, Value{"memory before", "MiB", before}, Value{"memory above", "MiB", peak - before})
	return nil
}

// retain drops the oldest tenth.
func (e *engine) retain(ctx context.Context) error {
	cut := e.Past.tenth()
	began := time.Now()
	dropped, err := e.log.DropBefore(ctx, func(signalbox.DeviceID) time.Time { return cut }, nil)
	if err != nil {
		return err
	}
	took := time.Since(began)
	e.add(e.named("retention of the oldest tenth"), Value{"messages", "", float64(dropped.Messages)}, Value{"chunks", "", float64(dropped.Chunks)},
		Value{"took", "ms", ms(took)})
	return nil
}
