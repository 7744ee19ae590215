package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"signalbox/client"
	"signalbox/internal/app"
)

// maxImportFile bounds a file to import, in bytes: some million devices.
const maxImportFile = 256 << 20

func (c *command) importCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Import data.json of the original remote-control server, or a file of devices",
		Long: `Imports users and devices from data.json of the original remote-control server: the same passwords
log in. A file of devices alone may be CSV with a line of column names (name, type, password), a JSON
list, or a JSON object a line; «-» is standard input.

An import happens whole or not at all, and may be repeated: who exists already is kept as they are and
reported. Entries that must be refused are named, and make the exit code 1; all others are imported.`,
		Example: `  signalbox import data.json
  signalbox import devices.csv --json > report.json`,
		Args: between(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.importFile(cmd.Context(), args[0], false) },
	}
}

// importFile sends a file to the hub and reports what became of each entry.
func (c *command) importFile(ctx context.Context, name string, devicesOnly bool) error {
	data, err := c.readFile(name)
	if err != nil {
		return err
	}
	whole := isDataFile(data)
	if whole && devicesOnly {
		return usagef("%s is a data.json with users and devices; «signalbox import %s» takes it", name, shellQuote(name))
	}
	format := client.JSON
	if first := bytes.TrimSpace(data)[0]; strings.EqualFold(filepath.Ext(name), ".csv") || (first != '[' && first != '{') {
		format = client.CSV
	} else if first == '{' {
		format = client.NDJSON
	}
	return c.withHub(ctx, func(r *reach) error {
		bar := c.progress("KiB", len(data)>>10)
		defer bar.end()
		body := &barReader{r: bytes.NewReader(data), bar: bar}
		var report client.ImportReport
		var err error
		if whole {
			report, err = r.ImportData(ctx, body)
		} else {
			report, err = r.ImportDevices(ctx, format, body)
		}
		if err != nil {
			return err
		}
		bar.end()
		return c.printImport(&report)
	})
}

func (c *command) readFile(name string) ([]byte, error) {
	in := c.Stdin
	if name != "-" {
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

// isDataFile says whether data is the original server's file: an object with users or
// devices, and no device by itself.
func isDataFile(data []byte) bool {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if t, err := decoder.Token(); err != nil || t != json.Delim('{') {
		return false
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return false
		}
		if key == "users" || key == "devices" {
			return true
		}
		var skipped json.RawMessage
		if decoder.Decode(&skipped) != nil {
			return false
		}
	}
	return false
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

func (c *command) printImport(report *client.ImportReport) error {
	summary := fmt.Sprintf("created %d, kept %d, refused %d", report.Created, report.Kept, report.Refused)
	var failed error
	if report.Refused > 0 {
		failed = failureError{errors.New("entries were refused: " + summary)}
	}
	if c.flags.json {
		return errors.Join(c.printJSON(report), failed)
	}
	p := c.paint()
	t := newTable("OUTCOME", "KIND", "ENTRY", "NAME", "SECRET OR REASON")
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
		t.add(map[int]cellStyle{0: style}, e.Outcome, e.Kind, fmt.Sprint(e.Index+1), e.Name, e.Secret+e.Message)
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
