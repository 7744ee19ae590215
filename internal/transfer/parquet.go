package transfer

import (
	"context"
	"io"
	"math"
	"strconv"

	"github.com/parquet-go/parquet-go"
	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/wire"
)

// The limits of a row group: its rows wait in memory until it is written.
const (
	groupRows  = 64 << 10
	groupBytes = 16 << 20
)

// fieldType is the type that a field's column has in Parquet.
type fieldType uint8

const (
	typeUnknown fieldType = iota
	typeInt
	typeDouble
	typeBool
	typeText
)

// with gives the type that holds both.
func (t fieldType) with(v gjson.Result) fieldType {
	o := typeText
	switch v.Type {
	case gjson.Null:
		return t
	case gjson.True, gjson.False:
		o = typeBool
	case gjson.Number:
		o = typeDouble
		if _, err := strconv.ParseInt(v.Raw, 10, 64); err == nil {
			o = typeInt
		}
	default:
	}
	switch {
	case t == typeUnknown || t == o:
		return o
	case t == typeInt && o == typeDouble || t == typeDouble && o == typeInt:
		return typeDouble
	default:
		return typeText
	}
}

// findTypes is the first pass over an export with chosen fields: what they hold.
func findTypes(ctx context.Context, fields []string, scan func(context.Context, func(string, *signalbox.Entry) error) error) ([]fieldType, error) {
	types := make([]fieldType, len(fields))
	err := scan(ctx, func(_ string, e *signalbox.Entry) error {
		whole := gjson.ParseBytes(e.Body)
		for i, f := range fields {
			if v, ok := wire.Field(whole, f); ok {
				types[i] = types[i].with(v)
			}
		}
		return nil
	})
	return types, err
}

// ordered is a group of columns in an order of their own; Parquet's own would be by name.
type ordered struct {
	parquet.Group
	fields []parquet.Field
}

// Fields gives the columns in order.
func (o ordered) Fields() []parquet.Field { return o.fields }

// parquetWriter writes a column for the device, both times, the object, and each field.
type parquetWriter struct {
	w      *parquet.GenericWriter[any]
	fields []string
	types  []fieldType
	row    parquet.Row
	rows   int
	bytes  int
}

func newParquetWriter(w io.Writer, fields []string, types []fieldType) *parquetWriter {
	names := []string{columnTime, columnReceived, columnDevice, columnObject}
	group := parquet.Group{
		columnTime:     parquet.Encoded(parquet.Timestamp(parquet.Microsecond), &parquet.DeltaBinaryPacked),
		columnReceived: parquet.Encoded(parquet.Timestamp(parquet.Microsecond), &parquet.DeltaBinaryPacked),
		columnDevice:   parquet.Encoded(parquet.String(), &parquet.RLEDictionary),
		columnObject:   parquet.Encoded(parquet.JSON(), &parquet.Plain),
	}
	for i, f := range fields {
		node := parquet.String()
		switch types[i] {
		case typeInt:
			node = parquet.Int(64)
		case typeDouble:
			node = parquet.Leaf(parquet.DoubleType)
		case typeBool:
			node = parquet.Leaf(parquet.BooleanType)
		default:
		}
		name := columnOf(f)
		group[name] = parquet.Optional(node)
		names = append(names, name)
	}
	o := ordered{Group: group}
	byName := map[string]parquet.Field{}
	for _, f := range group.Fields() {
		byName[f.Name()] = f
	}
	for _, name := range names {
		o.fields = append(o.fields, byName[name])
	}
	out := &parquetWriter{fields: fields, types: types}
	out.w = parquet.NewGenericWriter[any](w, parquet.NewSchema("telemetry", o), parquet.Compression(&parquet.Zstd), parquet.MaxRowsPerRowGroup(groupRows),
		parquet.SkipPageBounds(columnObject), parquet.CreatedBy("signalbox", "", ""))
	return out
}

func (p *parquetWriter) write(device string, e *signalbox.Entry) error {
	p.row = append(p.row[:0],
		parquet.Int64Value(e.TimeMicros).Level(0, 0, 0), parquet.Int64Value(e.ReceivedMicros).Level(0, 0, 1),
		parquet.ByteArrayValue([]byte(device)).Level(0, 0, 2), parquet.ByteArrayValue(e.Body).Level(0, 0, 3))
	if len(p.fields) > 0 {
		whole := gjson.ParseBytes(e.Body)
		for i, f := range p.fields {
			v, ok := wire.Field(whole, f)
			p.row = append(p.row, p.value(i, v, ok))
		}
	}
	if _, err := p.w.WriteRows([]parquet.Row{p.row}); err != nil {
		return err
	}
	p.rows++
	p.bytes += len(e.Body)
	if p.rows < groupRows && p.bytes < groupBytes {
		return nil
	}
	p.rows, p.bytes = 0, 0
	return p.w.Flush()
}

// value gives a field's value of the type that its column has.
func (p *parquetWriter) value(i int, v gjson.Result, ok bool) parquet.Value {
	column := 4 + i
	if !ok || v.Type == gjson.Null {
		return parquet.NullValue().Level(0, 0, column)
	}
	var out parquet.Value
	switch p.types[i] {
	case typeInt:
		n, err := strconv.ParseInt(v.Raw, 10, 64)
		if err != nil { // of a message that came after the first pass
			return parquet.NullValue().Level(0, 0, column)
		}
		out = parquet.Int64Value(n)
	case typeDouble:
		out = parquet.DoubleValue(v.Num)
	case typeBool:
		out = parquet.BooleanValue(v.Bool())
	default:
		out = parquet.ByteArrayValue([]byte(wire.Spelled(v)))
	}
	return out.Level(0, 1, column)
}

func (p *parquetWriter) close() error { return p.w.Close() }

// appendFloat writes a number as JSON; ok is false for those that JSON has not.
func appendFloat(dst []byte, f float64, bits int) (out []byte, ok bool) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return dst, false
	}
	return strconv.AppendFloat(dst, f, 'g', -1, bits), true
}
