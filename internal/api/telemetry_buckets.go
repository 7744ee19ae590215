package api

import (
	"context"
	"math"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/registry"
)

const (
	// MaxBucketValues bounds the buckets of an answer: their number times that of the fields.
	MaxBucketValues = 200_000
	// maxBucketWidth bounds how long a bucket is.
	maxBucketWidth = 100 * 366 * 24 * time.Hour
)

// bucketView is a bucket as the API writes it.
type bucketView struct {
	Start Time    `json:"start" doc:"The beginning of the bucket; it ends width_ms later, or at to."`
	Count int     `json:"count" doc:"How many numbers there were, 1 at least."`
	Min   float64 `json:"min" nullable:"true" doc:"null is a number beyond the range of float64."`
	Max   float64 `json:"max" nullable:"true"`
	Avg   float64 `json:"avg" nullable:"true"`
	Last  float64 `json:"last" nullable:"true" doc:"The latest."`
}

type seriesView struct {
	Field   string       `json:"field"`
	Buckets []bucketView `json:"buckets" nullable:"false" doc:"By time, without those in which the field had no number."`
}

type bucketsBody struct {
	From    Time         `json:"from,omitzero" doc:"The beginning of the first bucket; absent if the device has no messages."`
	To      Time         `json:"to,omitzero" doc:"The end of the last."`
	WidthMs int64        `json:"width_ms" doc:"The length of a bucket in milliseconds; the last may be shorter."`
	Series  []seriesView `json:"series" nullable:"false" doc:"For each field, in the order asked for."`
}

// bucketsQuery is a question for buckets; zero times are the defaults.
type bucketsQuery struct {
	from, to time.Time
	fields   []string
	n        int
	format   string
}

func (s *server) getBuckets(ctx context.Context, d *registry.Device, q bucketsQuery) (*huma.StreamResponse, error) {
	if len(q.fields) == 0 {
		return nil, badQuery("fields_needed", "query.fields", "buckets needs fields: the names or dotted paths of the numbers to sum up, separated by commas")
	}
	if q.n*len(q.fields) > MaxBucketValues {
		return nil, badQuery("too_many_buckets", "query.buckets", strconv.Itoa(q.n)+" buckets of "+strconv.Itoa(len(q.fields))+
			" fields are asked for; the product of both may be "+strconv.Itoa(MaxBucketValues)+" at most")
	}
	r := &bucketResult{fields: q.fields, buckets: make([][]history.Bucket, len(q.fields))}
	some, err := s.bucketRange(ctx, d, &q)
	if err != nil {
		return nil, err
	}
	if some {
		if err := s.readBuckets(ctx, d, q, r); err != nil {
			return nil, err
		}
	}
	body, kind := r.encode(q.format)
	return answer(body, kind, nil), nil
}

// bucketRange puts the device's first message and now where the caller named no time. some is
// false when there is nothing between them.
func (s *server) bucketRange(ctx context.Context, d *registry.Device, q *bucketsQuery) (some bool, err error) {
	if q.from.IsZero() {
		first, err := s.History.Page(ctx, history.Query{Device: d.ID, Order: history.OldestFirst, Limit: 1})
		if err != nil || len(first) == 0 {
			return false, err
		}
		q.from = first[0].Time.Truncate(time.Millisecond)
		if !q.to.IsZero() && !q.from.Before(q.to) {
			return false, nil
		}
	}
	if q.to.IsZero() {
		// A clock that was set back may have left messages behind now.
		last, err := s.History.Page(ctx, history.Query{Device: d.ID, Limit: 1})
		if err != nil {
			return false, err
		}
		q.to = s.now()
		if len(last) > 0 && !last[0].Time.Before(q.to) {
			q.to = last[0].Time
		}
		q.to = q.to.Truncate(time.Millisecond).Add(time.Millisecond).UTC()
	}
	if !q.from.Before(q.to) {
		return false, badRange(q.from, q.to)
	}
	if span := q.to.UnixMilli() - q.from.UnixMilli(); span/int64(q.n) > maxBucketWidth.Milliseconds() {
		return false, signalbox.Errorf(signalbox.KindInvalid, "invalid_range", "from is %s and to is %s; a bucket may be 100 years long at most",
			q.from.Format(time.RFC3339Nano), q.to.Format(time.RFC3339Nano))
	}
	return true, nil
}

// readBuckets asks for buckets of whole milliseconds, and for what is left behind the last
// whole one: it may be shorter.
func (s *server) readBuckets(ctx context.Context, d *registry.Device, q bucketsQuery, r *bucketResult) error {
	span := q.to.UnixMicro() - q.from.UnixMicro()
	width := (span + int64(q.n) - 1) / int64(q.n)
	width = max((width+999)/1000, 1) * 1000
	r.from, r.to, r.width = q.from, q.to, time.Duration(width)*time.Microsecond
	whole := span / width
	edge := time.UnixMicro(q.from.UnixMicro() + whole*width).UTC()
	for _, part := range []history.BucketQuery{{From: q.from, To: edge, N: int(whole)}, {From: edge, To: q.to, N: 1}} {
		if !part.From.Before(part.To) {
			continue
		}
		part.Device, part.Fields = d.ID, q.fields
		found, err := s.History.Buckets(ctx, part)
		if err != nil {
			return err
		}
		for i := range found {
			r.buckets[i] = append(r.buckets[i], found[i]...)
		}
	}
	var empty []string
	for i, f := range q.fields {
		if !hasNumbers(r.buckets[i]) {
			empty = append(empty, f)
		}
	}
	return s.checkFields(ctx, d, empty, nil)
}

func hasNumbers(buckets []history.Bucket) bool {
	for i := range buckets {
		if buckets[i].Count > 0 {
			return true
		}
	}
	return false
}

// bucketResult is an answer in buckets.
type bucketResult struct {
	from, to time.Time
	width    time.Duration
	fields   []string
	buckets  [][]history.Bucket // by field
}

// start is where bucket i begins.
func (r *bucketResult) start(i int) time.Time {
	return time.UnixMicro(r.from.UnixMicro() + int64(i)*r.width.Microseconds())
}

// encode writes the answer: the form of bucketsBody, or a line for each bucket and field.
func (r *bucketResult) encode(format string) (body []byte, kind string) {
	switch format {
	case formatCSV:
		body = append(body, "start,field,count,min,max,avg,last\n"...)
		r.each(func(i, field int, b *history.Bucket) {
			body = append(appendTime(body, r.start(i)), ',')
			body = append(appendCell(body, r.fields[field]), ',')
			body = strconv.AppendInt(body, int64(b.Count), 10)
			for _, v := range numbers(b) {
				if body = append(body, ','); !math.IsInf(v, 0) && !math.IsNaN(v) {
					body = appendNumber(body, v)
				}
			}
			body = append(body, '\n')
		})
		return body, typeCSV
	case formatNDJSON:
		names := make([][]byte, len(r.fields))
		for i, f := range r.fields {
			names[i] = appendString(nil, f)
		}
		r.each(func(i, field int, b *history.Bucket) {
			body = append(append(body, `{"field":`...), names[field]...)
			body = append(r.appendBucket(append(body, ','), i, b), "}\n"...)
		})
		return body, typeNDJSON
	}
	body = append(body, '{')
	if !r.to.IsZero() {
		body = append(appendTime(append(body, `"from":"`...), r.from), `",`...)
		body = append(appendTime(append(body, `"to":"`...), r.to), `",`...)
	}
	body = strconv.AppendInt(append(body, `"width_ms":`...), r.width.Milliseconds(), 10)
	body = append(body, `,"series":[`...)
	for k, f := range r.fields {
		if k > 0 {
			body = append(body, ',')
		}
		body = append(appendString(append(body, `{"field":`...), f), `,"buckets":[`...)
		first := true
		for i := range r.buckets[k] {
			if b := &r.buckets[k][i]; b.Count > 0 {
				if !first {
					body = append(body, ',')
				}
				first = false
				body = append(r.appendBucket(append(body, '{'), i, b), '}')
			}
		}
		body = append(body, "]}"...)
	}
	return append(body, "]}\n"...), typeJSON
}

// each visits what is not empty, by time and then by field.
func (r *bucketResult) each(visit func(i, field int, b *history.Bucket)) {
	for i := range r.buckets[0] {
		for k := range r.fields {
			if b := &r.buckets[k][i]; b.Count > 0 {
				visit(i, k, b)
			}
		}
	}
}

// appendBucket appends the members of a bucketView.
func (r *bucketResult) appendBucket(dst []byte, i int, b *history.Bucket) []byte {
	dst = append(appendTime(append(dst, `"start":"`...), r.start(i)), `","count":`...)
	dst = strconv.AppendInt(dst, int64(b.Count), 10)
	for k, v := range numbers(b) {
		dst = append(append(append(dst, `,"`...), [...]string{"min", "max", "avg", "last"}[k]...), `":`...)
		dst = appendNumber(dst, v)
	}
	return dst
}

// numbers are min, max, avg and last. The mean lies between the others, whatever a sum of
// floats loses.
func numbers(b *history.Bucket) [4]float64 {
	return [...]float64{b.Min, b.Max, min(max(b.Avg(), b.Min), b.Max), b.Last}
}

func appendTime(dst []byte, t time.Time) []byte { return t.UTC().AppendFormat(dst, timeLayout) }

// appendNumber appends a number as encoding/json does; null for one that JSON has no way to
// write.
func appendNumber(dst []byte, v float64) []byte {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return append(dst, "null"...)
	}
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, v, format, -1, 64)
}
