package api

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/wire"
)

// encodePage writes a page in the format asked for.
func encodePage(ctx context.Context, items []signalbox.Telemetry, format string, fields []string, next string) (page []byte, kind string, err error) {
	if format == formatCSV {
		page, err = encodeCSV(ctx, items, fields)
		return page, typeCSV, err
	}
	chosen := wire.NewChoice(fields)
	body := telemetryBody{Items: make([]telemetryView, len(items)), Next: next}
	for i, m := range items {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		body.Items[i] = telemetryView{Position: m.Position, Time: Time{m.Time}, Received: Time{m.Received}, Object: chosen.Of(m.Object)}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if format == formatJSON {
		err = enc.Encode(body)
		return buf.Bytes(), typeJSON, err
	}
	for _, item := range body.Items {
		if err := enc.Encode(item); err != nil {
			return nil, "", err
		}
	}
	return buf.Bytes(), typeNDJSON, nil
}

// appendString appends text as a JSON string.
func appendString(dst []byte, text string) []byte {
	quoted, err := json.Marshal(text)
	if err != nil {
		return append(dst, `""`...) // a string always can be written
	}
	return append(dst, quoted...)
}

// encodeCSV writes time, position and a column a field: those asked for, or all of the
// page in order of their names (RFC 4180, but with \n).
func encodeCSV(ctx context.Context, items []signalbox.Telemetry, fields []string) ([]byte, error) {
	columns := fields
	if len(fields) == 0 {
		var err error
		if columns, err = columnsOf(ctx, items); err != nil {
			return nil, err
		}
	}
	var buf bytes.Buffer
	w := csv.NewWriter(&buf)
	row := append([]string{"time", "received", "position"}, columns...)
	if err := w.Write(row); err != nil {
		return nil, err
	}
	cells := map[string]string{}
	for _, m := range items {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		clear(cells)
		whole := gjson.ParseBytes(m.Object)
		if len(fields) == 0 {
			wire.Flatten(whole, func(name string, v gjson.Result) bool {
				cells[name] = wire.Spelled(v)
				return true
			})
		}
		for _, f := range fields {
			if v, ok := wire.Field(whole, f); ok {
				cells[f] = wire.Spelled(v)
			}
		}
		row = append(row[:0], Time{m.Time}.text(), Time{m.Received}.text(), strconv.FormatUint(uint64(m.Position), 10))
		for _, c := range columns {
			row = append(row, cells[c])
		}
		if err := w.Write(row); err != nil {
			return nil, err
		}
	}
	w.Flush()
	return buf.Bytes(), w.Error()
}

// columnsOf gives the names of all fields of the messages, in order.
func columnsOf(ctx context.Context, items []signalbox.Telemetry) ([]string, error) {
	seen := map[string]bool{}
	for _, m := range items {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !wire.Flatten(gjson.ParseBytes(m.Object), func(name string, _ gjson.Result) bool {
			seen[name] = true
			return len(seen) <= MaxColumns
		}) {
			return nil, signalbox.Errorf(signalbox.KindInvalid, "too_many_columns",
				"these messages have more than %d different fields, and each would be a column; name at most %d of them with fields=, or ask for format=ndjson", MaxColumns, MaxColumns)
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}
