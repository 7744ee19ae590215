package cli

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strconv"
	"time"

	"signalbox"
	"signalbox/client"
)

// messages gives all messages of the one device, in the order asked for.
func (h *history) messages(ctx context.Context, r *reach) iter.Seq2[signalbox.Telemetry, error] {
	q := client.TelemetryQuery{From: h.from, To: h.to, Fields: h.flags.fields, Limit: historyPage, OldestFirst: h.flags.order == "asc"}
	bound := h.limit
	if h.last > 0 {
		q.OldestFirst, bound = false, h.last
	}
	if bound > 0 {
		q.Limit = min(bound, historyPage)
	}
	all := some(r.AllTelemetry(ctx, h.devices[0], q), bound)
	if h.last == 0 || h.flags.order == "desc" {
		return all
	}
	newestFirst, err := gathered(all)
	slices.Reverse(newestFirst)
	return whole(newestFirst, err)
}

// gathered walks to the end.
func gathered[T any](all iter.Seq2[T, error]) (items []T, err error) {
	for item, err := range all {
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

// print prints a walk through one device's messages.
func (h *history) print(ctx context.Context, r *reach) error {
	return h.printAll(ctx, r, func() iter.Seq2[signalbox.Telemetry, error] { return h.messages(ctx, r) })
}

// asOf prints the latest message at a time.
func (h *history) asOf(ctx context.Context, r *reach) error {
	m, ok, err := r.TelemetryAt(ctx, h.devices[0], h.at, h.flags.fields...)
	if err != nil {
		return err
	}
	var found []signalbox.Telemetry
	if ok {
		found = append(found, m)
	}
	return h.printAll(ctx, r, func() iter.Seq2[signalbox.Telemetry, error] { return whole(found, nil) })
}

// fromRow prints messages by their place.
func (h *history) fromRow(ctx context.Context, r *reach) error {
	limit := historyLast
	if h.limit > 0 {
		limit = h.limit
	}
	page, err := r.TelemetryFromRow(ctx, h.devices[0], int64(h.flags.row), min(limit, historyPage), h.flags.fields...)
	if err != nil {
		return err
	}
	found := page.Items
	if left := limit - len(found); left > 0 && page.Next != "" {
		q := client.TelemetryQuery{OldestFirst: true, Cursor: page.Next, Limit: min(left, historyPage), Fields: h.flags.fields}
		more, err := gathered(some(r.AllTelemetry(ctx, h.devices[0], q), left))
		if err != nil {
			return err
		}
		found = append(found, more...)
	}
	return h.printAll(ctx, r, func() iter.Seq2[signalbox.Telemetry, error] { return whole(found, nil) })
}

// printAll prints what messages gives, which may be asked more than once.
func (h *history) printAll(ctx context.Context, r *reach, messages func() iter.Seq2[signalbox.Telemetry, error]) error {
	out := bufio.NewWriter(h.Stdout)
	if h.flags.csv {
		return errors.Join(h.printCSV(messages, csv.NewWriter(out)), out.Flush())
	}
	p := h.newPrinter(out, false)
	if h.command.flags.json {
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		p.line = func(_ string, m signalbox.Telemetry) error { return encoder.Encode(m) }
	} else if len(h.flags.fields) == 0 {
		device, err := r.Device(ctx, h.devices[0])
		if err != nil {
			return err
		}
		p.protocol = device.Protocol
	}
	for m, err := range messages() {
		if err == nil {
			err = p.message("", m)
		}
		if err != nil {
			return errors.Join(err, p.end())
		}
	}
	return h.ended(p)
}

// ended ends what p printed, and says so if that was nothing.
func (h *history) ended(p *printer) error {
	if err := p.end(); err != nil {
		return err
	}
	if p.count == 0 && !h.command.flags.json {
		what := "of that time"
		if len(h.devices) == 1 {
			what = "of that device and time"
		}
		h.notef("There is no telemetry %s.\n", what)
	}
	return nil
}

// printCSV walks twice where the columns are not given: once to know them, once to print.
func (h *history) printCSV(messages func() iter.Seq2[signalbox.Telemetry, error], w *csv.Writer) error {
	columns := h.flags.fields
	if len(columns) == 0 {
		seen := make(map[string]bool)
		for m, err := range messages() {
			if err != nil {
				return err
			}
			for _, f := range fieldsOf(m.Object) {
				if !seen[f.name] {
					seen[f.name] = true
					columns = append(columns, f.name)
				}
			}
		}
	}
	if err := w.Write(append([]string{"time", "received"}, columns...)); err != nil {
		return err
	}
	for m, err := range messages() {
		if err != nil {
			return err
		}
		row := []string{m.Time.UTC().Format(time.RFC3339Nano), m.Received.UTC().Format(time.RFC3339Nano)}
		if err := w.Write(append(row, cellsOf(m.Object, columns, len(h.flags.fields) > 0)...)); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

// inBuckets prints sums by spans of time.
func (h *history) inBuckets(ctx context.Context, r *reach) error {
	b, err := r.Buckets(ctx, h.devices[0], client.BucketQuery{Fields: h.flags.fields, N: h.flags.buckets, From: h.from, To: h.to})
	switch {
	case err != nil:
		return err
	case h.command.flags.json:
		return h.printJSON(b)
	case h.flags.csv:
		return h.bucketsCSV(&b)
	}
	return h.bucketsTable(&b)
}

// bucketsCSV has the lines of the API's own CSV.
func (h *history) bucketsCSV(b *client.Buckets) error {
	w := csv.NewWriter(h.Stdout)
	rows := [][]string{{"start", "field", "count", "min", "max", "avg", "last"}}
	next := make([]int, len(b.Series))
	for {
		// By time, then by field.
		var start time.Time
		for i, s := range b.Series {
			if next[i] < len(s.Buckets) && (start.IsZero() || s.Buckets[next[i]].Start.Before(start)) {
				start = s.Buckets[next[i]].Start
			}
		}
		if start.IsZero() {
			break
		}
		for i, s := range b.Series {
			if next[i] == len(s.Buckets) || !s.Buckets[next[i]].Start.Equal(start) {
				continue
			}
			k := &s.Buckets[next[i]]
			next[i]++
			row := []string{k.Start.UTC().Format("2006-01-02T15:04:05.000Z"), s.Field, strconv.FormatInt(k.Count, 10)}
			for _, v := range []*float64{k.Min, k.Max, k.Avg, k.Last} {
				cell := ""
				if v != nil {
					cell = strconv.FormatFloat(*v, 'f', -1, 64)
				}
				row = append(row, cell)
			}
			rows = append(rows, row)
		}
	}
	return w.WriteAll(rows)
}
