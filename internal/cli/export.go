package cli

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/tidwall/gjson"

	"signalbox/client"
	"signalbox/internal/app"
)

type exportFlags struct {
	format         string
	devices, types []string
	from, to       string
	fields         []string
	gzip, force    bool
}

func exportFormats() []string { return []string{"csv", "ndjson", "parquet"} }

func (c *command) exportCommand() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write stored telemetry to a file",
		Long: `Writes what devices reported to a CSV, NDJSON or Parquet file, oldest first; «-» is standard output.
NDJSON and Parquet keep each message exactly as it was sent; CSV has a column a field.

The format follows from the file's name (.csv, .ndjson, .jsonl, .parquet), or --format; a name that
ends in .gz is compressed. The file appears when it is whole: until then it has another name, and
nothing is left of an export that fails. «signalbox import FILE» takes it back.`,
		Example: `  signalbox export history.parquet
  signalbox export march.csv --device esp01 --from 2026-03-01 --to 2026-04-01 --fields temperature,servo1
  signalbox export boxes.ndjson.gz --type box --from 30d
  signalbox export - --format csv --device env01 | less`,
		Args: between(1, 1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.export(cmd.Context(), args[0], f, time.Now())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.format, "format", "", "csv, ndjson or parquet (default: what the name says)")
	flags.StringSliceVar(&f.devices, "device", nil, "only these devices")
	flags.StringSliceVar(&f.types, "type", nil, "only devices of these types")
	flags.StringVar(&f.from, "from", "", "messages at or after this time")
	flags.StringVar(&f.to, "to", "", "messages before this time")
	flags.StringSliceVar(&f.fields, "fields", nil, "the columns of CSV, or further columns of Parquet, by name or dotted path")
	flags.BoolVar(&f.gzip, "gzip", false, "compress the file")
	flags.BoolVar(&f.force, "force", false, "replace an existing file")
	completeFlag(cmd, "format", fixed(exportFormats()))
	completeFlag(cmd, "device", c.completeDevices)
	completeFlag(cmd, "type", c.completeType)
	return cmd
}

// formatByName gives the format that a file's name says, empty for none.
func formatByName(name string) (format string, zipped bool) {
	name, zipped = strings.CutSuffix(strings.ToLower(name), ".gz")
	switch filepath.Ext(name) {
	case ".csv":
		return "csv", zipped
	case ".ndjson", ".jsonl":
		return "ndjson", zipped
	case ".parquet":
		return "parquet", zipped
	default:
		return "", zipped
	}
}

func (c *command) export(ctx context.Context, name string, f exportFlags, now time.Time) error {
	byName, zipped := formatByName(name)
	if f.format == "" {
		f.format = byName
	}
	switch {
	case f.format == "":
		return usagef("what format should %s have? Give --format csv, ndjson or parquet", name)
	case c.flags.json:
		return usagef("--json has no meaning here; --format ndjson writes a JSON object a line")
	}
	if err := oneOf("format", f.format, exportFormats()); err != nil {
		return err
	}
	q := client.ExportQuery{Format: f.format, Devices: f.devices, Types: f.types, Fields: f.fields}
	var err error
	if q.From, err = (historyFlags{}).moment("from", f.from, now); err != nil {
		return err
	}
	if q.To, err = (historyFlags{}).moment("to", f.to, now); err != nil {
		return err
	}
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		return usagef("--from %s is not before --to %s", f.from, f.to)
	}
	if name != "-" {
		if err := checkPlace(name, f.force); err != nil {
			return err
		}
	}
	return c.withHub(ctx, func(r *reach) error {
		body, err := r.Export(ctx, q)
		if err != nil {
			return err
		}
		defer func() { _ = body.Close() }() // what mattered was read
		bar := &exportBar{format: f.format, end: q.To, begun: now, now: time.Now}
		if bar.end.IsZero() || bar.end.After(now) {
			bar.end = now
		}
		if _, ok := terminal(c.Stderr); ok && name != "-" {
			bar.w = c.Stderr
		}
		defer bar.wipe()
		in := io.TeeReader(body, bar)
		if name == "-" {
			return writeExport(c.Stdout, in, f.gzip)
		}
		if err := writeWhole(name, f.force, func(w io.Writer) error { return writeExport(w, in, f.gzip || zipped) }); err != nil {
			return err
		}
		bar.wipe()
		info, err := os.Stat(name)
		if err != nil {
			return failureError{fmt.Errorf("%s was written, but is gone: %s", name, app.Cause(err))}
		}
		c.notef("%s: %.1f MiB\n", clean(name), float64(info.Size())/(1<<20))
		return nil
	})
}

// writeExport copies an export, compressed where that is wanted.
func writeExport(w io.Writer, in io.Reader, zipped bool) error {
	if !zipped {
		_, err := io.Copy(w, in)
		return err
	}
	z := gzip.NewWriter(w)
	if _, err := io.Copy(z, in); err != nil {
		return err
	}
	return z.Close()
}

// checkPlace refuses to write where something is.
func checkPlace(name string, force bool) error {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return usagef("%s cannot be written: %s", name, app.Cause(err))
	case !info.Mode().IsRegular():
		return usagef("%s is no file; «-» is standard output", name)
	case !force:
		return usagef("%s exists already; --force replaces it", name)
	default:
		return nil
	}
}

// writeWhole makes a file that is there as a whole or not at all.
func writeWhole(name string, force bool, write func(w io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".part-*")
	if err != nil {
		return usagef("%s cannot be written: %s", name, app.Cause(err))
	}
	done := false
	defer func() {
		if !done {
			_ = f.Close() // it is given up
			_ = os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 256<<10)
	if err := write(w); err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), f.Sync()); err != nil {
		return failureError{fmt.Errorf("%s cannot be written: %s", name, app.Cause(err))}
	}
	if err := f.Close(); err != nil {
		return failureError{fmt.Errorf("%s cannot be written: %s", name, app.Cause(err))}
	}
	if err := checkPlace(name, force); err != nil { // somebody may have been faster
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return failureError{fmt.Errorf("%s cannot be written: %s", name, app.Cause(err))}
	}
	done = true
	return nil
}

// exportBar shows on a terminal how far an export is: in history, where the format tells, and
// in bytes.
type exportBar struct {
	w      io.Writer // nil: not on a terminal
	format string
	first  time.Time // time of the first message
	end    time.Time
	begun  time.Time
	drawn  time.Time
	bytes  int64
	now    func() time.Time
}

// Write looks at what passes by.
func (b *exportBar) Write(p []byte) (int, error) {
	b.bytes += int64(len(p))
	now := b.now()
	if b.w == nil || !b.first.IsZero() && now.Sub(b.drawn) < time.Second/10 {
		return len(p), nil
	}
	at := b.timeIn(p)
	if b.first.IsZero() {
		b.first = at
	}
	if now.Sub(b.begun) < time.Second/2 {
		return len(p), nil
	}
	b.drawn = now
	text := fmt.Sprintf("%.1f MiB", float64(b.bytes)/(1<<20))
	if span := b.end.Sub(b.first); !at.IsZero() && span > 0 {
		const columns = 30
		filled := min(max(int(columns*(at.Sub(b.first).Seconds()/span.Seconds())), 0), columns)
		text = fmt.Sprintf("[%s%s] up to %s, %s", strings.Repeat("=", filled), strings.Repeat(" ", columns-filled), timeText(at), text)
	}
	_, _ = fmt.Fprintf(b.w, "\r%s\x1b[K", text)
	return len(p), nil
}

// timeIn gives the time of the last whole line, or the first one, zero where there is none.
func (b *exportBar) timeIn(p []byte) time.Time {
	if b.format == "parquet" {
		return time.Time{}
	}
	lines := bytes.Split(p, []byte("\n"))
	if !b.first.IsZero() {
		slices.Reverse(lines)
	}
	for _, line := range lines {
		text := ""
		if b.format == "csv" {
			cell, _, _ := bytes.Cut(line, []byte(","))
			text = string(cell)
		} else if gjson.ValidBytes(line) {
			text = gjson.GetBytes(line, "time").Str
		}
		if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return t
		}
	}
	return time.Time{}
}

// wipe takes the bar away.
func (b *exportBar) wipe() {
	if b.w != nil && !b.drawn.IsZero() {
		_, _ = fmt.Fprint(b.w, "\r\x1b[K")
		b.drawn = time.Time{}
	}
}
