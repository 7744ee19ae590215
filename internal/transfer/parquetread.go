package transfer

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"signalbox/internal/wire"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"signalbox"
)

// maxParquet bounds a Parquet file, which has to lie on disk while it is read, in bytes.
const maxParquet = 64 << 30

// parquetReader reads a file of flat columns.
type parquetReader struct {
	close  func() error
	clock  *clock
	device string

	columns []parquetColumn
	timeAt  int
	device1 int // column of the device, -1: none
	object  int // column of the object, -1: fields instead

	groups []parquet.RowGroup
	rows   parquet.Rows
	buf    [64]parquet.Row
	have   []parquet.Row
	line   int64
}

// parquetColumn is a leaf of the file.
type parquetColumn struct {
	name string
	node parquet.Node
	kind parquet.Kind
	// micros and per turn a timestamp into µs: times micros, by per.
	micros, per int64
}

// openParquet reads the footer of a file, which is put on disk first.
func openParquet(in io.Reader, c *clock, o *ReadOptions) (p *parquetReader, err error) {
	f, remove, err := tempFile(o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	size, err := io.Copy(diskWriter{f}, io.LimitReader(in, maxParquet+1))
	if err != nil {
		return nil, err
	}
	if size > maxParquet {
		return nil, signalbox.Errorf(signalbox.KindTooLarge, "file_too_large", "the Parquet file is larger than %d GiB; import it in parts", maxParquet>>30)
	}
	p = &parquetReader{close: remove, clock: c, device: o.Device, timeAt: -1, device1: -1, object: -1}
	if err := guarded(func() error { return p.open(f, size, o) }); err != nil {
		return nil, err
	}
	return p, nil
}

// diskWriter words what goes wrong with a disk.
type diskWriter struct{ w io.Writer }

func (d diskWriter) Write(b []byte) (int, error) {
	n, err := d.w.Write(b)
	if err != nil {
		err = noSpace(err)
	}
	return n, err
}

// guarded makes what a library does with a broken file an error: it may break down.
func guarded(do func() error) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = brokenParquet(fmt.Errorf("%v", fault))
		}
	}()
	return do()
}

func brokenParquet(err error) error {
	return signalbox.Wrap(signalbox.KindInvalid, "invalid_file", err, "the Parquet file is broken (%s); nothing was imported", cutShort(err.Error()))
}

func (p *parquetReader) open(f io.ReaderAt, size int64, o *ReadOptions) error {
	file, err := parquet.OpenFile(f, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return brokenParquet(err)
	}
	timeColumn := columnTime
	if o.TimeColumn != "" {
		timeColumn = o.TimeColumn
	}
	for i, path := range file.Schema().Columns() {
		leaf, ok := file.Schema().Lookup(path...)
		if !ok {
			return brokenParquet(errors.New("a column is missing"))
		}
		name := strings.Join(path, ".")
		column := parquetColumn{name: name, node: leaf.Node, kind: leaf.Node.Type().Kind()}
		if leaf.MaxRepetitionLevel > 0 {
			column.name = "" // lists are no fields
		}
		switch {
		case sameColumn(name, timeColumn):
			p.timeAt = i
			if column.micros, column.per, err = unitOf(leaf.Node.Type()); err != nil {
				return err
			}
		case sameColumn(name, columnDevice):
			p.device1 = i
		case sameColumn(name, columnObject):
			p.object = i
		case sameColumn(name, columnReceived), sameColumn(name, "position"):
			column.name = ""
		default:
			column.name = fieldOf(column.name)
		}
		p.columns = append(p.columns, column)
	}
	switch {
	case p.timeAt < 0:
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_file", "the Parquet file has no column %s; name the column of the times (time_column); nothing was imported", timeColumn)
	case p.device1 < 0 && p.device == "":
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_file", "the Parquet file has no column %s; name the device of all rows (device); nothing was imported", columnDevice)
	}
	p.groups = file.RowGroups()
	return nil
}

// unitOf says how to turn a column's values into µs; 0 for text.
func unitOf(t parquet.Type) (micros, per int64, err error) {
	if l := t.LogicalType(); l != nil {
		if ts, ok := l.Value.(*format.TimestampType); ok {
			switch ts.Unit.Value.(type) {
			case *format.MilliSeconds:
				return 1000, 1, nil
			case *format.MicroSeconds:
				return 1, 1, nil
			case *format.NanoSeconds:
				return 1, 1000, nil
			}
		}
	}
	switch {
	case t.Kind() == parquet.ByteArray:
		return 0, 0, nil
	case t.Kind() == parquet.Int64:
		return 1000, 1, nil // as elsewhere: Unix ms
	default:
		return 0, 0, signalbox.Errorf(signalbox.KindInvalid, "invalid_file", "the column of times is %s; allowed are timestamps, Unix milliseconds and text; nothing was imported", t)
	}
}

func (p *parquetReader) Next(row *Row) error {
	return guarded(func() error { return p.next(row) })
}

func (p *parquetReader) next(row *Row) error {
	for len(p.have) == 0 {
		if p.rows == nil {
			if len(p.groups) == 0 {
				return io.EOF
			}
			p.rows, p.groups = p.groups[0].Rows(), p.groups[1:]
		}
		n, err := p.rows.ReadRows(p.buf[:])
		p.have = p.buf[:n]
		if errors.Is(err, io.EOF) {
			err = p.rows.Close()
			p.rows = nil
		}
		if err != nil {
			return brokenParquet(err)
		}
	}
	values := p.have[0]
	p.have = p.have[1:]
	p.line++
	return p.take(values, row)
}

func (p *parquetReader) take(values parquet.Row, row *Row) error {
	*row = Row{Line: p.line, Device: p.device}
	b := []byte{'{'}
	timed := false
	for _, v := range values {
		i := v.Column()
		if i < 0 || i >= len(p.columns) {
			return brokenParquet(errors.New("a value belongs to no column"))
		}
		if v.IsNull() {
			continue
		}
		switch c := &p.columns[i]; i {
		case p.timeAt:
			micros, err := p.micros(c, v)
			if err != nil {
				return refuse(p.line, row.Device, "%s", err)
			}
			row.Time, timed = micros, true
		case p.device1:
			row.Device = string(v.ByteArray())
		case p.object:
			row.Object = append([]byte(nil), v.ByteArray()...)
		default:
			if p.object >= 0 || c.name == "" {
				continue
			}
			var why string
			if b, why = c.append(b, v); why != "" {
				return refuse(p.line, row.Device, "%s", why)
			}
		}
	}
	if p.object < 0 && len(b) > 1 {
		b = append(b, '}')
		row.Object = b
	}
	switch {
	case row.Device == "":
		return refuse(p.line, "", "no device is named")
	case !timed:
		return refuse(p.line, row.Device, "there is no time")
	case row.Object == nil:
		return refuse(p.line, row.Device, "the row has no values")
	}
	if why := checkObject(row.Object); why != "" {
		return refuse(p.line, row.Device, "%s", why)
	}
	return nil
}

func (p *parquetReader) micros(c *parquetColumn, v parquet.Value) (int64, error) {
	if c.per == 0 {
		return p.clock.parse(string(v.ByteArray()))
	}
	const most = 253402300800_000_000
	t := v.Int64() / c.per
	if t > most/c.micros || t < 0 {
		return 0, fmt.Errorf("the time %d is out of range", v.Int64())
	}
	return t * c.micros, nil
}

// append adds a field to an object.
func (c *parquetColumn) append(dst []byte, v parquet.Value) (out []byte, why string) {
	begin := len(dst)
	if begin > 1 {
		dst = append(dst, ',')
	}
	dst = append(wire.AppendString(dst, c.name), ':')
	ok := true
	switch v.Kind() {
	case parquet.Boolean:
		dst = strconv.AppendBool(dst, v.Boolean())
	case parquet.Int32:
		dst = strconv.AppendInt(dst, int64(v.Int32()), 10)
	case parquet.Int64:
		dst = strconv.AppendInt(dst, v.Int64(), 10)
	case parquet.Float:
		dst, ok = appendFloat(dst, float64(v.Float()), 32)
	case parquet.Double:
		dst, ok = appendFloat(dst, v.Double(), 64)
	case parquet.ByteArray, parquet.FixedLenByteArray:
		if !utf8.Valid(v.ByteArray()) {
			return dst, fmt.Sprintf("the column %s is no text", c.name)
		}
		dst = wire.AppendString(dst, string(v.ByteArray()))
	default:
		return dst, fmt.Sprintf("the column %s is of the type %s, which is no JSON", c.name, v.Kind())
	}
	if !ok {
		return dst[:begin], "" // JSON has no such number; the field is left out
	}
	return dst, ""
}
