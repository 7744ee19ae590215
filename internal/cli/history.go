package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"signalbox/client"
	"signalbox/internal/app"
)

type historyFlags struct {
	last, limit         int
	row, buckets        int
	all, csv            bool
	at, from, to, order string
	fields, types       []string
	// given tells which flags were given.
	given func(name string) bool
}

const (
	historyLast = 20
	// maxLast bounds --last, whose messages are held in memory to turn their order round.
	maxLast = 100_000
	// maxBuckets is what the API allows.
	maxBuckets = 10_000
	// historyPage is how many messages one request asks for.
	historyPage = 1000
)

const historyLong = `Prints what devices reported, as it was stored.

Of one DEVICE: the last messages (20, or --last), oldest first; with --from and --to all messages of that
time, with --all all there are; with --limit at most so many from the beginning of the order. --at prints
the latest message at a time, --row those from a row on: the first message is row 0. --buckets sums the
numbers of --fields up in so many spans of equal length, from --from (else the first message) to --to
(else now).

Of several devices, or with --type of all that are of a type: their messages in order of time, as they come
from the hub; --all, --from, --to or --limit without a device is all devices.

Times are RFC 3339, a local date and time, Unix milliseconds, or an age such as 2h or 7d. With --fields
there is a column a field. --csv has one too; of several devices without --fields, the object in one column.
--json has one message a line, and for --buckets one object.`

func (c *command) historyCommand() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "history [DEVICE…]",
		Short: "Ask the stored telemetry of devices",
		Long:  historyLong,
		Example: `  signalbox history esp01
  signalbox history esp01 --last 100 --fields temperature,servo1
  signalbox history esp01 --at '2026-03-01 12:00'
  signalbox history esp01 --from 24h --buckets 24 --fields temperature,humidity
  signalbox history esp01 --row 5000000 --limit 20
  signalbox history esp01 --from 7d --csv > esp01.csv
  signalbox history esp01 --from 2026-03-01 --to '2026-03-02 12:00' --order desc --json
  signalbox history --type box --from 1h --fields servo1
  signalbox history --all --csv --fields temp > everything.csv`,
		ValidArgsFunction: c.completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.given = func(name string) bool { return cmd.Flags().Changed(name) }
			if err := between(0, -1)(cmd, args); err != nil {
				return err
			}
			ask, err := c.newHistory(cmd, args, f, time.Now())
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			return c.withHub(ctx, func(r *reach) error { return ask(ctx, r) })
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.last, "last", 0, "the newest N messages (default 20 without another choice)")
	flags.StringVar(&f.from, "from", "", "messages at or after this time")
	flags.StringVar(&f.to, "to", "", "messages before this time")
	flags.StringVar(&f.order, "order", "asc", "asc: oldest first; desc: newest first")
	flags.IntVar(&f.limit, "limit", 0, "at most N messages, from the beginning of the order")
	flags.BoolVar(&f.all, "all", false, "all messages there are")
	flags.StringVar(&f.at, "at", "", "the latest message at this time")
	flags.IntVar(&f.row, "row", 0, "the messages from this row on; the first is row 0 (20, or --limit)")
	flags.IntVar(&f.buckets, "buckets", 0, "count, min, avg, max and last of --fields in N spans of equal length")
	flags.StringSliceVar(&f.fields, "fields", nil, "only these fields, by name or dotted path")
	flags.StringSliceVar(&f.types, "type", nil, "the devices of this type")
	flags.BoolVar(&f.csv, "csv", false, "print CSV, a column a field")
	cmd.AddCommand(c.retentionCommand())
	completeFlag(cmd, "order", fixed(orders()))
	completeFlag(cmd, "fields", inList(c.fieldsOfDevice))
	completeFlag(cmd, "type", inList(c.types))
	return cmd
}

func orders() []string { return []string{"asc", "desc"} }

// history is a question, and how its answer is printed.
type history struct {
	*command
	devices  []string
	flags    historyFlags
	from, to time.Time
	at       time.Time
	last     int // newest messages; 0: no such bound
	limit    int // messages; 0: no bound
}

// newHistory reads the flags and gives what asks the question they are.
func (c *command) newHistory(cmd *cobra.Command, devices []string, f historyFlags, now time.Time) (ask func(context.Context, *reach) error, err error) {
	h := &history{command: c, devices: devices, flags: f, last: f.last, limit: f.limit}
	if err := h.check(cmd); err != nil {
		return nil, err
	}
	if err := h.times(now); err != nil {
		return nil, err
	}
	if len(devices) != 1 || len(f.types) > 0 {
		return h.many, nil
	}
	switch {
	case f.given("at"):
		return h.asOf, nil
	case f.given("row"):
		return h.fromRow, nil
	case f.given("buckets"):
		return h.inBuckets, nil
	}
	if h.last == 0 && h.limit == 0 && !f.all && f.from == "" && f.to == "" {
		h.last = historyLast
	}
	if h.last == 0 && f.to == "" {
		// What comes in meanwhile is not part of it: the walk has an end, and a second one sees the same.
		h.to = now.Add(time.Minute)
	}
	return h.print, nil
}

// exclusions are flags that have no meaning together.
func exclusions() [][2]string {
	list := [][2]string{{"csv", "json"}, {"last", "limit"}, {"last", "all"}}
	for _, other := range []string{"from", "to", "order", "last", "all", "limit"} {
		list = append(list, [2]string{"at", other})
		if other != "limit" {
			list = append(list, [2]string{"row", other})
		}
		if other != "from" && other != "to" {
			list = append(list, [2]string{"buckets", other})
		}
	}
	return append(list, [2]string{"at", "row"}, [2]string{"at", "buckets"}, [2]string{"row", "buckets"})
}

// check refuses flags that are out of range or do not go together.
func (h *history) check(cmd *cobra.Command) error {
	f := &h.flags
	if err := oneOf("order", f.order, orders()); err != nil {
		return err
	}
	for _, pair := range exclusions() {
		if f.given(pair[0]) && f.given(pair[1]) {
			return usagef("--%s and --%s exclude each other", pair[0], pair[1])
		}
	}
	many := len(h.devices) != 1 || len(f.types) > 0
	switch {
	case f.given("last") && (f.last < 1 || f.last > maxLast):
		return usagef("--last %d: allowed is 1 to %d; use --from for more", f.last, maxLast)
	case f.given("limit") && f.limit < 1:
		return usagef("--limit %d: allowed is 1 or more; leave it out for all", f.limit)
	case f.row < 0:
		return usagef("--row %d: allowed is 0 or more; the first message is row 0", f.row)
	case f.given("buckets") && (f.buckets < 1 || f.buckets > maxBuckets):
		return usagef("--buckets %d: allowed is 1 to %d", f.buckets, maxBuckets)
	case f.given("buckets") && len(f.fields) == 0:
		return usagef("--buckets needs --fields: the numbers to sum up")
	case f.given("row") && f.limit > maxLast:
		return usagef("--limit %d: allowed with --row is 1 to %d", f.limit, maxLast)
	case len(h.devices) == 0 && len(f.types) == 0 && !f.all && !f.given("from") && !f.given("to") && !f.given("limit"):
		return usagef("something is missing: %s; name a device or a --type, or give --all, --from, --to or --limit for all devices", cmd.UseLine())
	}
	for _, name := range []string{"at", "row", "buckets", "last"} {
		if many && f.given(name) {
			return usagef("--%s asks one device; name it", name)
		}
	}
	if many && f.order == "desc" {
		return usagef("--order desc asks one device; the messages of several come oldest first")
	}
	return nil
}

// times reads the flags that are times.
func (h *history) times(now time.Time) (err error) {
	f := &h.flags
	if h.from, err = f.moment("from", f.from, now); err != nil {
		return err
	}
	if h.to, err = f.moment("to", f.to, now); err != nil {
		return err
	}
	if h.at, err = f.moment("at", f.at, now); err != nil {
		return err
	}
	if !h.from.IsZero() && !h.to.IsZero() && !h.from.Before(h.to) {
		return usagef("--from %s is not before --to %s", f.from, f.to)
	}
	return nil
}

// moment reads the time of a flag, zero for none.
func (historyFlags) moment(name, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := parseMoment(text, now)
	if err != nil {
		return t, usagef("--%s %s is no time; allowed are RFC 3339 (2026-03-01T12:00:00Z), a local date and time ('2026-03-01 12:00'), Unix milliseconds, or an age (2h, 7d)", name, text)
	}
	return t, nil
}

// parseMoment reads a time as people write it; without a zone it is local.
func parseMoment(text string, now time.Time) (time.Time, error) {
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.UnixMilli(ms), nil
	}
	if age, err := app.ParseDuration(text); err == nil {
		return now.Add(-age), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil { //nolint:gosmopolitan // people mean their own clock
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time", text)
}

// many prints the messages of several devices, in order of time.
func (h *history) many(ctx context.Context, r *reach) error {
	q := client.ScanQuery{Devices: h.devices, Types: h.flags.types, From: h.from, To: h.to, Fields: h.flags.fields, Limit: int64(h.limit)}
	out := bufio.NewWriter(h.Stdout)
	if h.flags.csv {
		err := r.CopyTelemetry(ctx, q, client.CSV, out)
		return errors.Join(err, out.Flush())
	}
	if h.command.flags.json {
		err := r.CopyTelemetry(ctx, q, client.NDJSON, out)
		return errors.Join(err, out.Flush())
	}
	p := h.newPrinter(out, true)
	for m, err := range r.ScanTelemetry(ctx, q) {
		if err == nil {
			err = p.message(m.Device, m.Telemetry)
		}
		if err != nil {
			return errors.Join(err, p.end())
		}
	}
	return h.ended(p)
}
