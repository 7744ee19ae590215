package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"signalbox/client"
	"signalbox/internal/app"
)

// maxImportFile bounds a file to import, in bytes: some million devices.
const maxImportFile = 256 << 20

func (c *command) importCommand() *cobra.Command {
	var f telemetryFlags
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import data.json of the original remote-control server, a file of devices, or telemetry",
		Long: `Imports users and devices from data.json of the original remote-control server: the same passwords
log in. A file of devices alone may be CSV with a line of column names (name, type, password), a JSON
list, or a JSON object a line; «-» is standard input.

An import happens whole or not at all, and may be repeated: who exists already is kept as they are and
reported. Entries that must be refused are named, and make the exit code 1; all others are imported.

Telemetry is taken from CSV, NDJSON and Parquet, as «signalbox export» writes them or from elsewhere,
and from dumps and the database of the M2M original (--b4). What a file is shows at its beginning;
--telemetry and the flags of telemetry say so. Importing telemetry again changes nothing: a message is
known by device, time and content, and two equal ones of one time stay two.`,
		Example: `  signalbox import data.json
  signalbox import devices.csv --json > report.json
  signalbox import history.parquet
  signalbox import station.csv --device st01 --time-column date --zone Europe/Moscow
  signalbox import mtom.sql --device env01 --field temp
  signalbox import --b4 mysql://user@127.0.0.1/mtom --device env01 --create --type sensor`,
		Args: between(0, 1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"json", "ndjson", "jsonl", "csv", "parquet", "sql", "gz"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.importAny(cmd.Context(), args, f) },
	}
	f.register(cmd, c)
	return cmd
}

// importFrom sends a file to the hub and reports what became of each entry.
func (c *command) importFrom(ctx context.Context, name string, devicesOnly bool) error {
	data, err := c.readFile(name)
	if err != nil {
		return err
	}
	file, err := inspect(name, data)
	if err != nil {
		return err
	}
	if file.wholeHub && devicesOnly {
		return usagef("%s is a data.json with users and devices; «signalbox import %s» takes it", name, shellQuote(name))
	}
	return c.withPlace(ctx, func(r *reach) error {
		bar := c.progress("KiB", len(data)>>10)
		defer bar.end()
		body := &barReader{r: bytes.NewReader(data), bar: bar}
		var report client.ImportReport
		var err error
		if file.wholeHub {
			report, err = r.ImportData(ctx, body)
		} else {
			report, err = r.ImportDevices(ctx, file.format, body)
		}
		if err != nil {
			return err
		}
		bar.end()
		return c.printImport(file, &report)
	})
}

func (c *command) readFile(name string) ([]byte, error) {
	in := c.Stdin
	if name == "-" {
		name = "standard input"
	} else {
		file, err := os.Open(name)
		if err != nil {
			return nil, usagef("%s cannot be read: %s", name, app.Cause(err))
		}
		defer func() { _ = file.Close() }() // it was only read
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, maxImportFile+1))
	switch {
	case err != nil:
		return nil, usagef("%s cannot be read: %s", name, app.Cause(err))
	case len(data) > maxImportFile:
		return nil, usagef("%s is larger than the %d MiB that are allowed; import it in parts", name, maxImportFile>>20)
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, usagef("%s is empty", name)
	}
	return data, nil
}

// barReader moves a progress bar as a body is read.
type barReader struct {
	r    io.Reader
	bar  *progress
	read int
}

// Read implements io.Reader.
func (b *barReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.read += n
	b.bar.at(b.read >> 10)
	return n, err
}

// longReport is from how many entries on only those are listed that hold news.
const longReport = 200

// twiceShown is how many names that are in a file twice are told.
const twiceShown = 20

func (c *command) printImport(file *importFile, report *client.ImportReport) error {
	for i, text := range file.twice {
		if i == twiceShown {
			c.notef("and %d more names that are there twice\n", len(file.twice)-twiceShown)
			break
		}
		c.notef("%s\n", clean(text))
	}
	summary := fmt.Sprintf("created %d, kept %d, refused %d", report.Created, report.Kept, report.Refused)
	var failed error
	if report.Refused > 0 {
		failed = failureError{errors.New("entries were refused: " + summary)}
	}
	if c.flags.json {
		return errors.Join(c.printJSON(report), failed)
	}
	p := c.paint()
	t := newTable("OUTCOME", "KIND", "LINE", "NAME", "SECRET OR REASON")
	for _, e := range report.Entries {
		if len(report.Entries) > longReport && e.Secret == "" && e.Outcome != "refused" {
			continue
		}
		style := p.green
		switch e.Outcome {
		case "kept":
			style = p.yellow
		case "refused":
			style = p.red
		}
		t.add(map[int]cellStyle{0: style}, e.Outcome, e.Kind, strconv.Itoa(file.line(e.Kind, e.Index)), e.Name, e.Secret+e.Message)
	}
	if len(t.rows) > 0 {
		if err := t.write(c.Stdout, p); err != nil {
			return err
		}
	}
	if failed != nil {
		return failed
	}
	c.notef("%s\n", summary)
	return nil
}
