package cli

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"signalbox"
	"signalbox/client"
	"signalbox/internal/app"
)

type historyFlags struct {
	last            int
	from, to, order string
	fields          []string
	csv             bool
}

const (
	historyLast = 20
	// maxLast bounds --last, whose messages are held in memory to turn their order round.
	maxLast = 100_000
	// historyPage is how many messages one request asks for.
	historyPage = 1000
)

func (c *command) historyCommand() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "history DEVICE",
		Short: "Print a device's stored telemetry",
		Long: `Prints what a device reported, oldest first: the last messages (20, or --last), or with --from and
--to all messages of that time. Times are RFC 3339, a local date and time, Unix milliseconds, or an age
such as 2h or 7d. --csv has a column a field; --json has one message a line.`,
		Example: `  signalbox history esp01
  signalbox history esp01 --last 100 --fields temperature,servo1
  signalbox history esp01 --from 7d --csv > esp01.csv
  signalbox history esp01 --from 2026-03-01 --to '2026-03-02 12:00' --order desc --json`,
		Args:              between(1, 1),
		ValidArgsFunction: firstOnly(c.completeDevices),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := c.newHistory(args[0], f, time.Now())
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			return c.withHub(ctx, func(r *reach) error { return h.print(ctx, r) })
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.last, "last", 0, "the newest N messages (default 20 without --from and --to)")
	flags.StringVar(&f.from, "from", "", "messages at or after this time")
	flags.StringVar(&f.to, "to", "", "messages before this time")
	flags.StringVar(&f.order, "order", "asc", "asc: oldest first; desc: newest first")
	flags.StringSliceVar(&f.fields, "fields", nil, "only these fields, by name or dotted path")
	flags.BoolVar(&f.csv, "csv", false, "print CSV, a column a field")
	completeFlag(cmd, "order", fixed(orders()))
	completeFlag(cmd, "fields", inList(c.fieldsOfDevice))
	return cmd
}

// history prints one device's messages.
type history struct {
	*command
	device string
	query  client.TelemetryQuery // of a walk through all messages
	last   int                   // 0: all
	flags  historyFlags
}

func (c *command) newHistory(device string, f historyFlags, now time.Time) (*history, error) {
	if err := oneOf("order", f.order, orders()); err != nil {
		return nil, err
	}
	h := &history{command: c, device: device, last: f.last, flags: f}
	switch {
	case f.last < 0 || f.last > maxLast:
		return nil, usagef("--last %d: allowed is 1 to %d; use --from for more", f.last, maxLast)
	case f.csv && c.flags.json:
		return nil, usagef("--csv and --json exclude each other")
	case f.last == 0 && f.from == "" && f.to == "":
		h.last = historyLast
	}
	h.query = client.TelemetryQuery{Fields: f.fields, Limit: historyPage, OldestFirst: f.order == "asc"}
	var err error
	if h.query.From, err = f.moment("from", f.from, now); err != nil {
		return nil, err
	}
	if h.query.To, err = f.moment("to", f.to, now); err != nil {
		return nil, err
	}
	if !h.query.From.IsZero() && !h.query.To.IsZero() && !h.query.From.Before(h.query.To) {
		return nil, usagef("--from %s is not before --to %s", f.from, f.to)
	}
	if h.last > 0 {
		h.query.OldestFirst = false
		h.query.Limit = min(h.last, historyPage)
	} else if f.to == "" {
		// What comes in meanwhile is not part of it: the walk has an end, and a second one sees the same.
		h.query.To = now.Add(time.Minute)
	}
	return h, nil
}

func orders() []string { return []string{"asc", "desc"} }

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

// messages gives all messages, in the order asked for.
func (h *history) messages(ctx context.Context, r *reach) iter.Seq2[signalbox.Telemetry, error] {
	all := some(r.AllTelemetry(ctx, h.device, h.query), h.last)
	if h.last == 0 || h.flags.order == "desc" {
		return all
	}
	var newestFirst []signalbox.Telemetry
	for m, err := range all {
		if err != nil {
			return whole[signalbox.Telemetry](nil, err)
		}
		newestFirst = append(newestFirst, m)
	}
	slices.Reverse(newestFirst)
	return whole(newestFirst, nil)
}

func (h *history) print(ctx context.Context, r *reach) error {
	out := bufio.NewWriter(h.Stdout)
	if h.flags.csv {
		if err := h.printCSV(ctx, r, csv.NewWriter(out)); err != nil {
			return err
		}
		return out.Flush()
	}
	p, n := h.paint(), 0
	protocol := signalbox.ProtocolNone
	if !h.command.flags.json {
		device, err := r.Device(ctx, h.device)
		if err != nil {
			return err
		}
		protocol = device.Protocol
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for m, err := range h.messages(ctx, r) {
		if err != nil {
			return errors.Join(out.Flush(), err)
		}
		n++
		if h.command.flags.json {
			err = encoder.Encode(m)
		} else {
			e := envelopeOf(protocol, m.Object, m.Time)
			if len(h.flags.fields) > 0 {
				e = envelope{} // what was asked for by name is shown
			}
			_, err = fmt.Fprintf(out, "%s  %s\n", p.dim(m.Time.Local().Format("2006-01-02 15:04:05.000")), p.fieldsText(m.Object, e))
		}
		if err != nil {
			return err
		}
	}
	if n == 0 && !h.command.flags.json {
		h.notef("There is no telemetry of that device and time.\n")
	}
	return out.Flush()
}

// printCSV walks twice where the columns are not given: once to know them, once to print.
func (h *history) printCSV(ctx context.Context, r *reach, w *csv.Writer) error {
	columns := h.flags.fields
	if len(columns) == 0 {
		seen := make(map[string]bool)
		for m, err := range h.messages(ctx, r) {
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
	for m, err := range h.messages(ctx, r) {
		if err != nil {
			return err
		}
		values := make(map[string]string)
		for _, f := range fieldsOf(m.Object) {
			values[f.name] = f.value
		}
		row := []string{m.Time.UTC().Format(time.RFC3339Nano), m.Received.UTC().Format(time.RFC3339Nano)}
		for _, column := range columns {
			row = append(row, values[column])
		}
		if err := w.Write(row); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}
