package api

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/wire"
)

type telemetryInput struct {
	DevicePath
	From   string   `query:"from" doc:"Only messages at or after this time (RFC 3339, or Unix milliseconds)."`
	To     string   `query:"to" doc:"Only messages before this time."`
	Limit  int      `query:"limit" default:"100" minimum:"1" maximum:"10000" doc:"How many at most; fewer where they are long."`
	Cursor string   `query:"cursor" doc:"The member next of the page before, with the same order."`
	Order  string   `query:"order" default:"desc" enum:"asc,desc" doc:"desc: newest first; asc: oldest first."`
	Fields []string `query:"fields" doc:"Only these fields of the object, by name or dotted path, separated by commas; at most 1,000."`
	Format string   `query:"format" default:"json" enum:"json,ndjson,csv" doc:"ndjson and csv give the next cursor in the header Signalbox-Next."`
}

type telemetryBody struct {
	Items []telemetryView `json:"items" nullable:"false"`
	Next  string          `json:"next,omitempty" doc:"Cursor of the next page; absent when there is none yet."`
}

const (
	// MaxColumns bounds the fields that are asked for, and the columns of CSV.
	MaxColumns = 1000
	// PageBytes bounds the objects of a page, in bytes; a longer one is a page by itself.
	PageBytes = 16 << 20
	// firstPart is how many messages of a page are read first; each further part is at most
	// partGrowth times as large as the one before.
	firstPart  = 256
	partGrowth = 4
)

const (
	formatJSON = "json"
	formatCSV  = "csv"
)

// nextHeader carries the next cursor of formats that have no room for it.
const nextHeader = "Signalbox-Next"

func (s *server) registerTelemetry() {
	op := operation(http.MethodGet, "/devices/{name}/telemetry", "get-telemetry", "telemetry", "Read a device's history", "A page at a time, newest first unless asked otherwise. A page ends early, with next, when its objects would be longer than 16 MiB together. "+
		"CSV has at most 1,000 columns: with more fields than that, choose with fields.")
	schema := s.schemas.Schema(reflect.TypeFor[telemetryBody](), true, "")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "A page of messages.",
		Headers:     map[string]*huma.Param{nextHeader: {Description: "Cursor of the next page, for ndjson and csv.", Schema: &huma.Schema{Type: huma.TypeString}}},
		Content: map[string]*huma.MediaType{
			"application/json":     {Schema: schema},
			"application/x-ndjson": {Schema: &huma.Schema{Type: huma.TypeString}},
			"text/csv":             {Schema: &huma.Schema{Type: huma.TypeString}},
		},
	}}
	register(s, signalbox.ScopeRead, op, s.getTelemetry)
}

func (s *server) getTelemetry(ctx context.Context, in *telemetryInput) (*huma.StreamResponse, error) {
	d, err := s.device(in.Name)
	if err != nil {
		return nil, err
	}
	q := history.Query{Device: d.ID, Limit: in.Limit, Order: history.NewestFirst}
	if in.Order == "asc" {
		q.Order = history.OldestFirst
	}
	if q.After, err = decodeHistory(q.Order, in.Cursor); err != nil {
		return nil, err
	}
	if q.From, err = parseTime("from", in.From); err != nil {
		return nil, err
	}
	if q.To, err = parseTime("to", in.To); err != nil {
		return nil, err
	}
	fields, err := chosenFields(in.Fields)
	if err != nil {
		return nil, err
	}
	items, more, err := s.readPage(ctx, q)
	if err != nil {
		return nil, err
	}
	next := ""
	if more {
		next = encodeHistory(q.Order, history.CursorOf(&items[len(items)-1]))
	}
	page, kind, err := encodePage(ctx, items, in.Format, fields, next)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", kind)
		if in.Format != formatJSON && next != "" {
			ctx.SetHeader(nextHeader, next)
			ctx.SetHeader("Link", "<?"+nextQuery(ctx, next)+`>; rel="next"`)
		}
		ctx.SetStatus(http.StatusOK)
		// A client that is gone needs no answer.
		_, _ = ctx.BodyWriter().Write(page)
	}}, nil
}

func nextQuery(ctx huma.Context, next string) string {
	u := ctx.URL()
	values := u.Query()
	values.Set("cursor", next)
	return values.Encode()
}

func parseTime(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil && -1e15 < ms && ms < 1e15 {
		return time.UnixMilli(ms).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() < 1 || t.Year() > 9999 {
		return t, badParam(name, text, "allowed are RFC 3339 times such as 2024-05-01T12:00:00Z (a «+» of the offset is written %2B in an address) and Unix milliseconds")
	}
	return t.UTC(), nil
}

// chosenFields gives the fields asked for, each once.
func chosenFields(asked []string) ([]string, error) {
	var fields []string
	seen := make(map[string]bool, len(asked))
	for _, f := range asked {
		if !seen[f] {
			seen[f] = true
			fields = append(fields, f)
		}
	}
	if len(fields) > MaxColumns {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "too_many_columns", "fields names %d fields; at most %d are allowed", len(fields), MaxColumns)
	}
	return fields, nil
}

// readPage reads the messages that q asks for, but ends before PageBytes of objects are
// exceeded, with one message at least. more says that there may be others behind. It reads
// in parts, whose size follows from the longest object seen, so that the memory it takes is
// bounded by about as much.
func (s *server) readPage(ctx context.Context, q history.Query) (items []signalbox.Telemetry, more bool, err error) {
	part, limit := firstPart, q.Limit
	size, longest := 0, 1
	for len(items) < limit {
		q.Limit = min(part, limit-len(items))
		found, err := s.History.Page(ctx, q)
		if err != nil {
			return nil, false, err
		}
		for i := range found {
			n := len(found[i].Object)
			if size+n > PageBytes && len(items) > 0 {
				return items, true, nil
			}
			size, longest = size+n, max(longest, n)
			items = append(items, found[i])
		}
		if len(found) < q.Limit {
			return items, false, nil
		}
		q.After = history.CursorOf(&found[len(found)-1])
		part = min(max((PageBytes-size)/longest, 1), partGrowth*part)
	}
	return items, true, nil
}

// encodePage writes a page in the format asked for.
func encodePage(ctx context.Context, items []signalbox.Telemetry, format string, fields []string, next string) (page []byte, kind string, err error) {
	if format == formatCSV {
		page, err = encodeCSV(ctx, items, fields)
		return page, "text/csv; charset=utf-8", err
	}
	body := telemetryBody{Items: make([]telemetryView, len(items)), Next: next}
	for i, m := range items {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		body.Items[i] = telemetryView{Position: m.Position, Time: Time{m.Time}, Received: Time{m.Received}, Object: choose(m.Object, fields)}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if format == formatJSON {
		err = enc.Encode(body)
		return buf.Bytes(), "application/json", err
	}
	for _, item := range body.Items {
		if err := enc.Encode(item); err != nil {
			return nil, "", err
		}
	}
	return buf.Bytes(), "application/x-ndjson", nil
}

// choose gives the object with only the fields asked for, under the names asked for;
// fields that it does not have are absent.
func choose(object json.RawMessage, fields []string) json.RawMessage {
	if len(fields) == 0 {
		return object
	}
	out := []byte{'{'}
	whole := gjson.ParseBytes(object)
	for _, f := range fields {
		v, ok := wire.Field(whole, f)
		if !ok {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		name, err := json.Marshal(f)
		if err != nil {
			continue // a string always can be
		}
		out = append(append(append(out, name...), ':'), v.Raw...)
	}
	return append(out, '}')
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
