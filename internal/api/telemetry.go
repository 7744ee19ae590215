package api

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/registry"
)

// History is what the API asks about the past; package history's Log is it.
type History interface {
	history.Reader
	PageAt(ctx context.Context, device signalbox.DeviceID, row int64, limit int) ([]signalbox.Telemetry, error)
	AsOf(ctx context.Context, device signalbox.DeviceID, at time.Time) (t signalbox.Telemetry, ok bool, err error)
	Buckets(ctx context.Context, q history.BucketQuery) ([][]history.Bucket, error)
	ScanTime(ctx context.Context, q history.ScanQuery, yield func(*signalbox.Entry) error) error
}

type telemetryInput struct {
	DevicePath
	From    string   `query:"from" doc:"Only messages at or after this time (RFC 3339, or Unix milliseconds). With buckets, the beginning of the first; without it, the device's first message."`
	To      string   `query:"to" doc:"Only messages before this time. With buckets, the end of the last; without it, now."`
	Limit   int      `query:"limit" default:"100" minimum:"1" maximum:"10000" doc:"How many at most; fewer where they are long."`
	Cursor  string   `query:"cursor" doc:"The member next of the page before, with the same order."`
	Order   string   `query:"order" default:"desc" enum:"asc,desc" doc:"desc: newest first; asc: oldest first."`
	Fields  []string `query:"fields" doc:"Only these fields of the object, by name or dotted path, separated by commas; at most 1,000. In JSON they keep the names asked for; a message without any of them has an empty object."`
	Format  string   `query:"format" default:"json" enum:"json,ndjson,csv" doc:"ndjson and csv give the next cursor in the header Signalbox-Next."`
	Buckets int      `query:"buckets" minimum:"1" maximum:"10000" doc:"Sums the numbers of fields up in this many spans of equal length, of whole milliseconds; fewer if that is enough. Goes with fields (needed), from, to and format."`
	At      string   `query:"at" doc:"The device's latest message at this time, to the millisecond: one item, or none if there was none yet. Goes with fields and format."`
	Row     int64    `query:"row" minimum:"0" doc:"The messages from this row on: the device's first in order of time is row 0. None behind the last. Rows move when messages come late or old ones are dropped. Goes with limit, fields and format."`

	given url.Values
}

// Resolve implements huma.Resolver: it notes what the caller has said.
func (in *telemetryInput) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	in.given = u.Query()
	return nil
}

// has says whether the caller gave a parameter; an empty one counts as absent.
func (in *telemetryInput) has(name string) bool { return in.given.Get(name) != "" }

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
	formatJSON   = "json"
	formatNDJSON = "ndjson"
	formatCSV    = "csv"

	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
	typeCSV    = "text/csv; charset=utf-8"
)

// nextHeader carries the next cursor of formats that have no room for it.
const nextHeader = "Signalbox-Next"

func (s *server) registerTelemetry() {
	op := operation(http.MethodGet, "/devices/{name}/telemetry", "get-telemetry", "telemetry", "Ask a device's history", "Without buckets, at and row: a page at a time, newest first unless asked otherwise. "+
		"A page ends early, with next, when its objects would be longer than 16 MiB together. CSV has at most 1,000 columns: with more fields than that, choose with fields. "+
		"With row, a page of the same form whose next goes on oldest first: give it as cursor with order=asc, without row. With at, the same form with one item at most. "+
		"With buckets, the form BucketsBody; as ndjson and csv, a line for each bucket and field, by time. Buckets without a number are left out. "+
		"A field that no message of the device has is refused (unknown_field), as far as half a second suffices to find out; a page that was asked for with a cursor is not checked.")
	page := s.schemas.Schema(reflect.TypeFor[telemetryBody](), true, "")
	buckets := s.schemas.Schema(reflect.TypeFor[bucketsBody](), true, "")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "A page of messages, or buckets.",
		Headers:     map[string]*huma.Param{nextHeader: {Description: "Cursor of the next page, for ndjson and csv.", Schema: &huma.Schema{Type: huma.TypeString}}},
		Content: map[string]*huma.MediaType{
			typeJSON:   {Schema: &huma.Schema{OneOf: []*huma.Schema{page, buckets}}},
			typeNDJSON: {Schema: &huma.Schema{Type: huma.TypeString}},
			"text/csv": {Schema: &huma.Schema{Type: huma.TypeString}},
		},
	}}
	register(s, signalbox.ScopeRead, op, s.getTelemetry)
	s.registerScan()
}

// The questions that are no page by time.
const (
	askBuckets = "buckets"
	askAt      = "at"
	askRow     = "row"
)

// question tells which of them is asked, "" for none. A parameter that has no meaning for it
// is refused.
func (in *telemetryInput) question() (asked string, err error) {
	for _, name := range []string{askBuckets, askAt, askRow} {
		if !in.has(name) {
			continue
		}
		if asked != "" {
			return "", badQuery("exclusive_parameters", "query."+name, asked+" and "+name+" exclude each other: a request asks one question")
		}
		asked = name
	}
	allowed := map[string][]string{
		askBuckets: {"fields", "format", "from", "to"}, askAt: {"fields", "format"}, askRow: {"fields", "format", "limit"},
	}[asked]
	if asked == "" {
		return "", nil
	}
	for _, name := range []string{"cursor", "from", "limit", "order", "to"} {
		if in.has(name) && !slices.Contains(allowed, name) {
			return "", badQuery("exclusive_parameters", "query."+name, asked+" and "+name+" exclude each other; "+asked+" goes with "+list(allowed))
		}
	}
	return asked, nil
}

func (s *server) getTelemetry(ctx context.Context, in *telemetryInput) (*huma.StreamResponse, error) {
	d, err := s.device(in.Name)
	if err != nil {
		return nil, err
	}
	asked, err := in.question()
	if err != nil {
		return nil, err
	}
	fields, err := chosenFields(in.Fields)
	if err != nil {
		return nil, err
	}
	from, to, err := parseRange(in.From, in.To)
	if err != nil {
		return nil, err
	}
	if asked == askBuckets {
		return s.getBuckets(ctx, d, bucketsQuery{from: from, to: to, fields: fields, n: in.Buckets, format: in.Format})
	}
	items, next, err := s.messages(ctx, d, in, asked, from, to)
	if err != nil {
		return nil, err
	}
	if !in.has("cursor") {
		if err := s.checkFields(ctx, d, fields, items); err != nil {
			return nil, err
		}
	}
	page, kind, err := encodePage(ctx, items, in.Format, fields, next)
	if err != nil {
		return nil, err
	}
	return answer(page, kind, func(ctx huma.Context) {
		if in.Format != formatJSON && next != "" {
			ctx.SetHeader(nextHeader, next)
			ctx.SetHeader("Link", "<?"+nextQuery(ctx, next, asked == askRow)+`>; rel="next"`)
		}
	}), nil
}

// answer sends what was written already.
func answer(body []byte, kind string, head func(ctx huma.Context)) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", kind)
		if head != nil {
			head(ctx)
		}
		ctx.SetStatus(http.StatusOK)
		// A client that is gone needs no answer.
		_, _ = ctx.BodyWriter().Write(body)
	}}
}

// messages gives those that in asks for, and the cursor of those behind them.
func (s *server) messages(ctx context.Context, d *registry.Device, in *telemetryInput, asked string, from, to time.Time) (items []signalbox.Telemetry, next string, err error) {
	q := history.Query{Device: d.ID, Limit: in.Limit, Order: history.NewestFirst, From: from, To: to}
	if in.Order == "asc" {
		q.Order = history.OldestFirst
	}
	row := int64(-1)
	switch asked {
	case askAt:
		at, err := parseTime("at", in.At)
		if err != nil {
			return nil, "", err
		}
		m, ok, err := s.History.AsOf(ctx, d.ID, wholeMillisecond(at))
		if err != nil || !ok {
			return nil, "", err
		}
		return []signalbox.Telemetry{m}, "", nil
	case askRow:
		row, q.Order = in.Row, history.OldestFirst
	}
	if q.After, err = decodeHistory(q.Order, in.Cursor); err != nil {
		return nil, "", err
	}
	items, more, err := s.readPage(ctx, q, row)
	if err == nil && more {
		next = encodeHistory(q.Order, history.CursorOf(&items[len(items)-1]))
	}
	return items, next, err
}

// wholeMillisecond gives the last microsecond of the millisecond that t names: people and
// programs see times in milliseconds, and mean what they see.
func wholeMillisecond(t time.Time) time.Time {
	if t.Nanosecond()%int(time.Millisecond) == 0 {
		return t.Add(time.Millisecond - time.Microsecond)
	}
	return t
}

// nextQuery is the query of the next page.
func nextQuery(ctx huma.Context, next string, byRow bool) string {
	u := ctx.URL()
	values := u.Query()
	values.Set("cursor", next)
	if byRow {
		values.Del("row")
		values.Set("order", "asc")
	}
	return values.Encode()
}

// parseRange reads from and to; the zero time is none.
func parseRange(fromText, toText string) (from, to time.Time, err error) {
	if from, err = parseTime("from", fromText); err != nil {
		return from, to, err
	}
	if to, err = parseTime("to", toText); err != nil {
		return from, to, err
	}
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return from, to, badRange(from, to)
	}
	return from, to, nil
}

func badRange(from, to time.Time) error {
	return signalbox.Errorf(signalbox.KindInvalid, "invalid_range", "from is %s and to is %s; from must be before to",
		from.UTC().Format(time.RFC3339Nano), to.UTC().Format(time.RFC3339Nano))
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

// readPage reads the messages that q asks for, but ends before PageBytes of objects are
// exceeded, with one message at least; from row on, if that is not negative. more says that
// there may be others behind. It reads in parts, whose size follows from the longest object
// seen, so that the memory it takes is bounded by about as much.
func (s *server) readPage(ctx context.Context, q history.Query, row int64) (items []signalbox.Telemetry, more bool, err error) {
	part, limit := firstPart, q.Limit
	size, longest := 0, 1
	for len(items) < limit {
		q.Limit = min(part, limit-len(items))
		var found []signalbox.Telemetry
		if row >= 0 && len(items) == 0 {
			found, err = s.History.PageAt(ctx, q.Device, min(row, math.MaxInt64-1), q.Limit)
		} else {
			found, err = s.History.Page(ctx, q)
		}
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
