package transfer

import (
	"bufio"
	"context"
	"io"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// Past is history as an export uses it; history.Log is it.
type Past interface {
	ScanTime(ctx context.Context, q history.ScanQuery, yield func(*signalbox.Entry) error) error
	Committed() signalbox.Position
}

// ExportQuery chooses telemetry and says how it is written.
type ExportQuery struct {
	Format Format
	// Devices are those that are wanted; nil: all.
	Devices []signalbox.DeviceID
	// From ≤ time < To; zero: unbounded.
	From, To time.Time
	// Fields are the columns of CSV, and further ones of Parquet, by dotted path; none: all
	// fields there are, in CSV.
	Fields []string
	// Name gives a device's name; messages of devices without one are left out.
	Name func(signalbox.DeviceID) string
}

// Export is telemetry that is about to be written. It is what was in history when Prepare was
// called.
type Export struct {
	past  Past
	q     ExportQuery
	end   signalbox.Position
	types []fieldType
	all   bool // the columns are all fields
	// of many devices it is quicker to look at all
	wanted map[signalbox.DeviceID]bool
}

// manyDevices is from how many devices on all telemetry is looked at for theirs.
const manyDevices = 1000

// Prepare makes an export, and finds out what has to be known before the first byte: the
// columns. KindInvalid for a format that cannot be written, and for too many columns.
func Prepare(ctx context.Context, past Past, q ExportQuery) (*Export, error) {
	e := &Export{past: past, q: q, end: past.Committed()}
	if len(q.Devices) > manyDevices {
		e.wanted = make(map[signalbox.DeviceID]bool, len(q.Devices))
		for _, id := range q.Devices {
			e.wanted[id] = true
		}
		e.q.Devices = nil
	}
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_range", "from %s is not before to %s", q.From.Format(time.RFC3339), q.To.Format(time.RFC3339))
	}
	for i, f := range q.Fields {
		if err := signalbox.CheckField("field", f); err != nil {
			return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_fields", "%s", err)
		}
		if slices.Contains(q.Fields[:i], f) {
			return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_fields", "the field %q is named twice", cutShort(f))
		}
	}
	var err error
	switch most := map[Format]int{CSV: MaxColumns, Parquet: MaxTyped}[q.Format]; {
	case len(q.Fields) > 0 && q.Format == NDJSON:
		err = signalbox.Errorf(signalbox.KindInvalid, "invalid_fields", "fields are columns, and the format ndjson has none; it carries whole objects")
	case q.Format != NDJSON && len(q.Fields) > most:
		err = signalbox.Errorf(signalbox.KindInvalid, "invalid_fields", "fields names %d fields; at most %d are allowed", len(q.Fields), most)
	case q.Format == CSV && len(q.Fields) == 0:
		e.all = true
		e.q.Fields, err = findColumns(ctx, e.scan)
	case q.Format == Parquet && len(q.Fields) > 0:
		e.types, err = findTypes(ctx, q.Fields, e.scan)
	case q.Format != CSV && q.Format != NDJSON && q.Format != Parquet:
		err = signalbox.Errorf(signalbox.KindInvalid, "invalid_format", "the format is %.100q; allowed are csv, ndjson and parquet", string(q.Format))
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// scan gives the messages of the export in order, with the names of their devices.
func (e *Export) scan(ctx context.Context, yield func(device string, m *signalbox.Entry) error) error {
	return e.past.ScanTime(ctx, history.ScanQuery{Devices: e.q.Devices, From: e.q.From, To: e.q.To}, func(m *signalbox.Entry) error {
		if m.Position > e.end || e.wanted != nil && !e.wanted[m.Device] {
			return nil
		}
		name := e.q.Name(m.Device)
		if name == "" {
			return nil
		}
		return yield(name, m)
	})
}

// writer is a format.
type writer interface {
	write(device string, m *signalbox.Entry) error
	close() error
}

// Write writes the export. After an error what was written is no whole file.
func (e *Export) Write(ctx context.Context, w io.Writer) error {
	b := bufio.NewWriterSize(w, 64<<10)
	var out writer
	switch e.q.Format {
	case CSV:
		c, err := newCSVWriter(b, e.q.Fields, !e.all)
		if err != nil {
			return err
		}
		out = c
	case Parquet:
		out = newParquetWriter(b, e.q.Fields, e.types)
	default:
		out = &ndjsonWriter{w: b}
	}
	if err := e.scan(ctx, out.write); err != nil {
		return err
	}
	if err := out.close(); err != nil {
		return err
	}
	return b.Flush()
}

// ContentType is the media type of a format.
func (f Format) ContentType() string {
	switch f {
	case CSV:
		return "text/csv; charset=utf-8"
	case NDJSON:
		return "application/x-ndjson"
	case Parquet:
		return "application/vnd.apache.parquet"
	default:
		return "application/octet-stream"
	}
}
