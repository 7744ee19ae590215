package transfer

import (
	"context"
	"encoding/csv"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/wire"
)

// The columns that are no fields.
const (
	columnTime     = "time"
	columnReceived = "received"
	columnDevice   = "device"
	columnObject   = "object"
	// fieldMark stands before a field that is called like one of them.
	fieldMark = "fields."
)

// columnOf names the column of a field.
func columnOf(field string) string {
	switch strings.TrimPrefix(field, fieldMark) {
	case columnTime, columnReceived, columnDevice, columnObject:
		return fieldMark + field
	default:
		return field
	}
}

// fieldOf undoes columnOf.
func fieldOf(column string) string {
	if field, ok := strings.CutPrefix(column, fieldMark); ok && columnOf(field) == column {
		return field
	}
	return column
}

// csvWriter writes a column a field.
type csvWriter struct {
	w      *csv.Writer
	fields []string
	places map[string]int // of fields, when all there are were found; nil: look for each
	row    []string
	buf    []byte
}

func newCSVWriter(w io.Writer, fields []string, chosen bool) (*csvWriter, error) {
	c := &csvWriter{w: csv.NewWriter(w), fields: fields}
	if !chosen {
		c.places = make(map[string]int, len(fields))
		for i, f := range fields {
			c.places[f] = i
		}
	}
	c.row = append(c.row, columnTime, columnReceived, columnDevice)
	for _, f := range fields {
		c.row = append(c.row, columnOf(f))
	}
	return c, c.w.Write(c.row)
}

func (c *csvWriter) write(device string, e *signalbox.Entry) error {
	c.buf = appendTime(c.buf[:0], e.TimeMicros)
	c.row[0] = string(c.buf)
	c.buf = appendTime(c.buf[:0], e.ReceivedMicros)
	c.row[1], c.row[2] = string(c.buf), device
	cells := c.row[3:]
	clear(cells)
	whole := gjson.ParseBytes(e.Body)
	if c.places != nil {
		wire.Flatten(whole, func(name string, v gjson.Result) bool {
			if i, ok := c.places[name]; ok {
				cells[i] = wire.Spelled(v)
			}
			return true
		})
		return c.w.Write(c.row)
	}
	for i, f := range c.fields {
		if v, ok := wire.Field(whole, f); ok {
			cells[i] = wire.Spelled(v)
		}
	}
	return c.w.Write(c.row)
}

func (c *csvWriter) close() error {
	c.w.Flush()
	return c.w.Error()
}

// findColumns is the first pass over an export: the names of all fields, in order.
func findColumns(ctx context.Context, scan func(context.Context, func(string, *signalbox.Entry) error) error) ([]string, error) {
	seen := map[string]bool{}
	err := scan(ctx, func(_ string, e *signalbox.Entry) error {
		if !wire.Flatten(gjson.ParseBytes(e.Body), func(name string, _ gjson.Result) bool {
			if !seen[name] {
				seen[strings.Clone(name)] = true
			}
			return len(seen) <= MaxColumns
		}) {
			return signalbox.Errorf(signalbox.KindInvalid, "too_many_columns",
				"this telemetry has more than %d different fields, and each would be a column; name at most %d of them with fields, or take the format ndjson", MaxColumns, MaxColumns)
		}
		return nil
	})
	return slices.Sorted(maps.Keys(seen)), err
}

// csvReader reads a table by the names of its columns.
type csvReader struct {
	r        *csv.Reader
	meter    *meter
	clock    *clock
	device   string // of rows that name none
	timeAt   int
	deviceAt int      // -1: no column
	line     int64    // of the last record
	fields   []string // by column, "" for none
}

// meter counts what a record took, so that a missing quote does not read a whole file into
// memory.
type meter struct {
	r    io.Reader
	read int
}

var errLongRecord = errors.New("the record is too long")

func (m *meter) Read(p []byte) (int, error) {
	if m.read > maxRecord {
		return 0, errLongRecord
	}
	n, err := m.r.Read(p)
	m.read += n
	return n, err
}

// separators that a table may have.
const separators = ",;\t"

// separatorOf guesses what separates the columns of the first line.
func separatorOf(line, timeColumn string) rune {
	for _, sep := range separators {
		for cell := range strings.SplitSeq(strings.TrimRight(line, "\r\n"), string(sep)) {
			if sameColumn(strings.Trim(cell, `" `), timeColumn) {
				return sep
			}
		}
	}
	return ','
}

func sameColumn(a, b string) bool { return strings.EqualFold(strings.TrimSpace(a), b) }

// newCSVReader reads the first line; head is how the text begins.
func newCSVReader(in io.Reader, head []byte, c *clock, device, timeColumn string) (*csvReader, error) {
	if timeColumn == "" {
		timeColumn = columnTime
	}
	line, _, _ := strings.Cut(string(head), "\n")
	m := &meter{r: in}
	r := csv.NewReader(m)
	r.Comma = separatorOf(line, timeColumn)
	r.FieldsPerRecord = -1
	r.ReuseRecord = true
	out := &csvReader{r: r, meter: m, clock: c, device: device, timeAt: -1, deviceAt: -1}
	names, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, fault(1, "there is not even a line with the names of the columns")
	}
	if err != nil {
		return nil, out.broken(err)
	}
	seen := map[string]bool{}
	for i, name := range names {
		name = strings.Clone(strings.TrimSpace(name))
		field := ""
		switch {
		case sameColumn(name, timeColumn):
			out.timeAt = i
		case sameColumn(name, columnDevice):
			out.deviceAt = i
		case sameColumn(name, columnReceived), name == "position", name == "":
		default:
			if !utf8.ValidString(name) {
				return nil, fault(1, "the names of the columns are not valid UTF-8; save the file as UTF-8")
			}
			if field = fieldOf(name); seen[field] {
				return nil, fault(1, "the column %q is there twice", cutShort(name))
			}
			seen[field] = true
		}
		out.fields = append(out.fields, field)
	}
	switch {
	case out.timeAt < 0:
		return nil, fault(1, "there is no column %q; name the column of the times (time_column)", timeColumn)
	case out.deviceAt < 0 && device == "":
		return nil, fault(1, "there is no column %q; name the device of all rows (device)", columnDevice)
	case len(seen) == 0:
		return nil, fault(1, "there are no columns of fields")
	}
	return out, nil
}

// broken is the error for text that is no CSV.
func (c *csvReader) broken(err error) error {
	if e, ok := errors.AsType[*csv.ParseError](err); ok {
		if errors.Is(e.Err, errLongRecord) {
			return fault(int64(e.StartLine), "the record that begins here has more than %d bytes; is a quote missing?", maxRecord)
		}
		return fault(int64(e.Line), "this is not CSV: %s", e.Err)
	}
	if errors.Is(err, errLongRecord) {
		return fault(c.line+1, "the record behind the one that begins in line %d has more than %d bytes; is a quote missing?", c.line, maxRecord)
	}
	return err
}

func (c *csvReader) Next(row *Row) error {
	c.meter.read = 0
	cells, err := c.r.Read()
	if errors.Is(err, io.EOF) {
		return err
	}
	if err != nil {
		return c.broken(err)
	}
	at, _ := c.r.FieldPos(0)
	line := int64(at)
	c.line = line
	*row = Row{Line: line, Device: c.device}
	if c.deviceAt >= 0 && c.deviceAt < len(cells) && cells[c.deviceAt] != "" {
		row.Device = cells[c.deviceAt]
	}
	switch {
	case len(cells) > len(c.fields):
		return refuse(line, row.Device, "the row has %d cells, but there are %d columns", len(cells), len(c.fields))
	case row.Device == "":
		return refuse(line, "", "no device is named")
	case c.timeAt >= len(cells):
		return refuse(line, row.Device, "there is no time")
	}
	if row.Time, err = c.clock.parse(cells[c.timeAt]); err != nil {
		return refuse(line, row.Device, "%s", err)
	}
	b := []byte{'{'}
	for i, cell := range cells {
		if cell == "" || c.fields[i] == "" {
			continue
		}
		if !utf8.ValidString(cell) {
			return refuse(line, row.Device, "the column %s is not valid UTF-8; save the file as UTF-8", c.fields[i])
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(wire.AppendString(b, c.fields[i]), ':')
		b = appendCell(b, cell)
	}
	if len(b) == 1 {
		return refuse(line, row.Device, "the row has no values")
	}
	b = append(b, '}')
	row.Object = b
	if why := checkObject(row.Object); why != "" {
		return refuse(line, row.Device, "%s", why)
	}
	return nil
}

// likeCSV says whether the beginning of a text is telemetry as CSV: a column of times, and
// devices, but no names of devices to add.
func likeCSV(head []byte, o *ReadOptions) bool {
	line, _, _ := strings.Cut(string(head), "\n")
	at := o.TimeColumn
	if at == "" {
		at = columnTime
	}
	time, device, name := false, o.Device != "", false
	for cell := range strings.SplitSeq(strings.TrimRight(line, "\r"), string(separatorOf(line, at))) {
		cell = strings.Trim(cell, `" `)
		time = time || sameColumn(cell, at)
		device = device || sameColumn(cell, columnDevice)
		name = name || sameColumn(cell, "name")
	}
	return time && device && (!name || o.Device != "")
}
