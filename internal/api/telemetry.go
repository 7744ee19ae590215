package api

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/history"
)

type telemetryInput struct {
	DevicePath
	From   string   `query:"from" doc:"Only messages at or after this time (RFC 3339, or Unix milliseconds)."`
	To     string   `query:"to" doc:"Only messages before this time."`
	Limit  int      `query:"limit" default:"100" minimum:"1" maximum:"10000" doc:"How many at most."`
	Cursor string   `query:"cursor" doc:"The member next of the page before, with the same order."`
	Order  string   `query:"order" default:"desc" enum:"asc,desc" doc:"desc: newest first; asc: oldest first."`
	Fields []string `query:"fields" doc:"Only these fields of the object, by name or dotted path, separated by commas."`
	Format string   `query:"format" default:"json" enum:"json,ndjson,csv" doc:"ndjson and csv give the next cursor in the header Signalbox-Next."`
}

type telemetryBody struct {
	Items []telemetryView `json:"items" nullable:"false"`
	Next  string          `json:"next,omitempty" doc:"Cursor of the next page; absent when there is none yet."`
}

// nextHeader carries the next cursor of formats that have no room for it.
const nextHeader = "Signalbox-Next"

func (s *server) registerTelemetry() {
	op := operation(http.MethodGet, "/devices/{name}/telemetry", "get-telemetry", "telemetry", "Read a device's history", "A page at a time, newest first unless asked otherwise.")
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
	items, err := s.History.Page(ctx, q)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(items) == in.Limit {
		next = encodeHistory(q.Order, history.CursorOf(&items[len(items)-1]))
	}
	page, kind, err := encodePage(items, in, next)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", kind)
		if in.Format != "json" && next != "" {
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

// encodePage writes a page in the format asked for.
func encodePage(items []signalbox.Telemetry, in *telemetryInput, next string) (page []byte, kind string, err error) {
	if in.Format == "csv" {
		page, err = encodeCSV(items, in.Fields)
		return page, "text/csv; charset=utf-8", err
	}
	body := telemetryBody{Items: make([]telemetryView, len(items)), Next: next}
	for i, m := range items {
		body.Items[i] = telemetryView{Position: m.Position, Time: Time{m.Time}, Received: Time{m.Received}, Object: choose(m.Object, in.Fields)}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if in.Format == "json" {
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
	for _, f := range fields {
		v, ok := field(gjson.ParseBytes(object), f)
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

// field finds a field by its name or, through nested objects, by its dotted path. Of
// duplicate keys the last counts.
func field(object gjson.Result, path string) (found gjson.Result, ok bool) {
	if !object.IsObject() {
		return found, false
	}
	object.ForEach(func(key, value gjson.Result) bool {
		switch rest, deeper := strings.CutPrefix(path, key.Str+"."); {
		case key.Str == path:
			found, ok = value, true
		case deeper:
			if v, has := field(value, rest); has {
				found, ok = v, true
			}
		}
		return true
	})
	return found, ok
}

// encodeCSV writes time, position and a column a field: those asked for, or all of the
// page in order of their names (RFC 4180, but with \n).
func encodeCSV(items []signalbox.Telemetry, fields []string) ([]byte, error) {
	rows := make([]map[string]string, len(items))
	seen := map[string]bool{}
	for i, m := range items {
		rows[i] = map[string]string{}
		if len(fields) == 0 {
			flatten(rows[i], "", gjson.ParseBytes(m.Object))
		}
		for _, f := range fields {
			if v, ok := field(gjson.ParseBytes(m.Object), f); ok {
				rows[i][f] = cellOf(v)
			}
		}
		for name := range rows[i] {
			seen[name] = true
		}
	}
	columns := fields
	if len(fields) == 0 {
		for name := range seen {
			columns = append(columns, name)
		}
		slices.Sort(columns)
	}
	var buf bytes.Buffer
	w := csv.NewWriter(&buf)
	row := append([]string{"time", "received", "position"}, columns...)
	if err := w.Write(row); err != nil {
		return nil, err
	}
	for i, m := range items {
		row = append(row[:0], Time{m.Time}.text(), Time{m.Received}.text(), strconv.FormatUint(uint64(m.Position), 10))
		for _, c := range columns {
			row = append(row, rows[i][c])
		}
		if err := w.Write(row); err != nil {
			return nil, err
		}
	}
	w.Flush()
	return buf.Bytes(), w.Error()
}

// flatten puts the fields of nested objects under dotted names.
func flatten(into map[string]string, prefix string, object gjson.Result) {
	object.ForEach(func(key, value gjson.Result) bool {
		if value.IsObject() {
			flatten(into, prefix+key.Str+".", value)
			return true
		}
		into[prefix+key.Str] = cellOf(value)
		return true
	})
}

// cellOf spells numbers as the device did, and gives nothing for null.
func cellOf(v gjson.Result) string {
	switch v.Type {
	case gjson.Null:
		return ""
	case gjson.String:
		return v.Str
	default:
		return v.Raw
	}
}
