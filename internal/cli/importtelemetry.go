package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"signalbox"
	"signalbox/client"
	"signalbox/internal/app"
	"signalbox/internal/transfer"
)

// telemetryFlags are those of an import of telemetry; any of them says that a file is one.
type telemetryFlags struct {
	telemetry  bool
	format     string
	device     string
	timeColumn string
	zone       string
	table      string
	field      string
	create     bool
	kind       string
	b4         string
}

func importFormats() []string { return []string{"csv", "ndjson", "parquet", "dump"} }

func (f *telemetryFlags) register(cmd *cobra.Command, c *command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.telemetry, "telemetry", false, "the file holds telemetry, whatever it looks like")
	flags.StringVar(&f.format, "format", "", "the format of telemetry: csv, ndjson, parquet or dump (default: what it looks like)")
	flags.StringVar(&f.device, "device", "", "whose the telemetry is that names no device")
	flags.StringVar(&f.timeColumn, "time-column", "", "the column of the times (default time)")
	flags.StringVar(&f.zone, "zone", "", "where times without a zone are from, such as Europe/Moscow (default: this machine's zone)")
	flags.BoolVar(&f.create, "create", false, "make devices that do not exist; needs --type")
	flags.StringVar(&f.kind, "type", "", "the type of devices that --create makes")
	flags.StringVar(&f.b4, "b4", "", "read the table of the M2M original from its database, mysql://USER:PASSWORD@HOST/DATABASE, instead of a file")
	flags.StringVar(&f.table, "table", "", "the table of --b4 or a dump (default temp)")
	flags.StringVar(&f.field, "field", "", "the table's column of readings, and the name of their field (default temp)")
	completeFlag(cmd, "format", fixed(importFormats()))
	completeFlag(cmd, "device", c.completeDevices)
	completeFlag(cmd, "type", c.completeType)
}

// given says whether any flag asks for telemetry.
func (f *telemetryFlags) given() bool { return *f != (telemetryFlags{}) }

func (f *telemetryFlags) check() error {
	switch {
	case f.create && f.kind == "":
		return usagef("--create needs --type, the type of the devices that are made")
	case f.kind != "" && !f.create:
		return usagef("--type is for devices that are made, and needs --create")
	case f.b4 == "" && f.format != "":
		return oneOf("format", f.format, importFormats())
	}
	if f.zone != "" {
		if _, err := transfer.LoadZone(f.zone); err != nil {
			return usagef("--zone: %s", err)
		}
	}
	return nil
}

// options gives what the hub is told. The zone is this machine's, where that has a name;
// otherwise the hub's, which its report names.
func (f *telemetryFlags) options() client.TelemetryImport {
	o := client.TelemetryImport{
		Format: f.format, Device: f.device, TimeColumn: f.timeColumn, Zone: f.zone, Table: f.table, Field: f.field, Create: f.create, Type: f.kind,
	}
	if o.Zone == "" {
		if name := transfer.LocalZone().String(); name != "Local" {
			o.Zone = name
		}
	}
	return o
}

// importAny imports a file, whatever it holds.
func (c *command) importAny(ctx context.Context, args []string, f telemetryFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.b4 != "" {
		if len(args) > 0 {
			return usagef("--b4 reads a database; leave %s out", args[0])
		}
		return c.importB4(ctx, f)
	}
	if len(args) == 0 {
		return usagef("which file? Name it, or a database by --b4")
	}
	name := args[0]
	in, size, closeFile, err := c.openImport(name)
	if err != nil {
		return err
	}
	defer closeFile()
	b := bufio.NewReaderSize(in, transfer.HeadSize)
	head, err := b.Peek(transfer.HeadSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return usagef("%s cannot be read: %s", name, app.Cause(err))
	}
	if f.given() || transfer.Telemetry(head, transfer.ReadOptions{}) {
		return c.importTelemetry(ctx, name, b, size, f.options())
	}
	if name == "-" {
		c.Stdin = b
	}
	return c.importFrom(ctx, name, false)
}

func (c *command) openImport(name string) (in io.Reader, size int64, closeFile func(), err error) {
	if name == "-" {
		return c.Stdin, 0, func() {}, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, 0, nil, usagef("%s cannot be read: %s", name, app.Cause(err))
	}
	if info, err := file.Stat(); err == nil {
		size = info.Size()
	}
	return file, size, func() { _ = file.Close() }, nil // it was only read
}

// importTelemetry sends a file of telemetry to the hub and reports what became of it.
func (c *command) importTelemetry(ctx context.Context, name string, in io.Reader, size int64, o client.TelemetryImport) error {
	if name == "-" {
		name = "standard input"
	}
	place := c.withHub
	if o.Create {
		place = c.withPlace
	}
	return place(ctx, func(r *reach) error {
		upload := c.progress("KiB", int(size>>10))
		defer upload.end()
		var compare *progress
		report, err := r.ImportTelemetry(ctx, o, &barReader{r: in, bar: upload}, func(read, compared int64) {
			if compare == nil {
				upload.end()
				compare = c.progress("rows", int(read))
			}
			compare.at(int(compared))
		})
		upload.end()
		if compare != nil {
			compare.end()
		}
		if e, ok := errors.AsType[*signalbox.Error](err); ok && (e.Kind == signalbox.KindInvalid || e.Kind == signalbox.KindTooLarge) {
			return &signalbox.Error{Kind: e.Kind, Code: e.Code, Message: name + ": " + e.Message}
		}
		if err != nil {
			return err
		}
		return c.printTelemetryReport(name, &report)
	})
}

const (
	// shownRefusals is how many reasons of refused rows are listed for people.
	shownRefusals = 100
	// shownLines is how many lines and devices are listed of one reason.
	shownLines = 3
)

// refusal is why rows were refused, and which.
type refusal struct {
	reason         string
	rows           int
	lines, devices []string // the first ones, and behind them an ellipsis
}

// byReason puts rows that were refused for the same reason together, in the order of their first.
func byReason(rows []client.RowRefusal) (list []*refusal) {
	known := make(map[string]*refusal)
	for _, row := range rows {
		r := known[row.Reason]
		if r == nil {
			r = &refusal{reason: row.Reason}
			known[row.Reason] = r
			list = append(list, r)
		}
		r.rows++
		r.lines = appendSome(r.lines, strconv.FormatInt(row.Line, 10))
		if row.Device != "" {
			r.devices = appendSome(r.devices, row.Device)
		}
	}
	return list
}

// appendSome appends what is not there yet, or an ellipsis when that is enough.
func appendSome(list []string, text string) []string {
	switch {
	case len(list) > shownLines || slices.Contains(list, text):
		return list
	case len(list) == shownLines:
		return append(list, "…")
	}
	return append(list, text)
}

func (c *command) printTelemetryReport(name string, r *client.TelemetryReport) error {
	summary := fmt.Sprintf("read %d, added %d, already there %d, refused %d", r.Read, r.Added, r.Already, r.Refused)
	var failed error
	if r.Refused > 0 {
		failed = failureError{fmt.Errorf("%s: rows were refused: %s", name, summary)}
	}
	if c.flags.json {
		return errors.Join(c.printJSON(r), failed)
	}
	t := newTable("LINE", "ROWS", "DEVICE", "REFUSED BECAUSE")
	more := r.Refused
	for i, why := range byReason(r.Refusals) {
		if i == shownRefusals {
			break
		}
		t.add(nil, strings.Join(why.lines, " "), strconv.Itoa(why.rows), strings.Join(why.devices, " "), why.reason)
		more -= int64(why.rows)
	}
	if len(t.rows) > 0 {
		if err := t.write(c.Stdout, c.paint()); err != nil {
			return err
		}
	}
	if more > 0 {
		c.notef("and %d more rows that were refused\n", more)
	}
	if len(r.Created) > 0 {
		c.notef("made %d devices; «signalbox device rotate NAME» gives one a secret to log in with\n", len(r.Created))
	}
	if r.Zone != "" {
		c.notef("times without a zone were taken for times of %s; --zone names another\n", clean(r.Zone))
	}
	for _, s := range r.Shifts {
		if s.Kind == "gap" {
			c.notef("the clocks were put forward: %d rows have times from %s to %s, which never were; taken as if the clocks had not been changed yet\n", s.Rows, s.From, s.To)
		} else {
			c.notef("the clocks were put back: %d rows have times from %s to %s, which were twice; taken for the first\n", s.Rows, s.From, s.To)
		}
	}
	if failed != nil {
		return failed
	}
	c.notef("%s\n", summary)
	return nil
}
