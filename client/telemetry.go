package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"signalbox"
)

// TelemetryAt gives a device's latest message at a time, to the millisecond; ok is false if
// there was none yet. Of fields, if there are any, the object has only those.
func (h *Hub) TelemetryAt(ctx context.Context, name string, moment time.Time, fields ...string) (m signalbox.Telemetry, ok bool, err error) {
	query := url.Values{"at": {moment.UTC().Format(time.RFC3339Nano)}}
	set(query, "fields", strings.Join(fields, ","))
	var page Page[signalbox.Telemetry]
	if _, err := h.do(ctx, http.MethodGet, at("devices", name, "telemetry"), query, nil, &page); err != nil || len(page.Items) == 0 {
		return m, false, err
	}
	return page.Items[0], true, nil
}

// TelemetryFromRow gives up to limit messages of a device from a row on, oldest first: the
// device's first message in order of time is row 0. limit is 1 to 10,000; 0 takes the hub's
// default. Behind the last row there are none. Next goes on with Telemetry and OldestFirst.
// Rows move when messages come late or old ones are dropped.
func (h *Hub) TelemetryFromRow(ctx context.Context, name string, row int64, limit int, fields ...string) (Page[signalbox.Telemetry], error) {
	query := url.Values{"row": {strconv.FormatInt(row, 10)}}
	set(query, "fields", strings.Join(fields, ","))
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	var page Page[signalbox.Telemetry]
	_, err := h.do(ctx, http.MethodGet, at("devices", name, "telemetry"), query, nil, &page)
	return page, err
}

// BucketQuery asks for a device's numbers, summed up by spans of time.
type BucketQuery struct {
	// Fields are names or dotted paths, one at least.
	Fields []string
	// N is how many buckets at most, 1 to 10,000; with the number of fields 200,000 at most.
	N int
	// From ≤ time < To. Zero: the device's first message, and now.
	From, To time.Time
}

// Buckets is an answer in buckets of equal length.
type Buckets struct {
	// From is where the first begins and To where the last ends; both are zero if the device
	// has no messages.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	// WidthMs is the length of a bucket in milliseconds; the last may be shorter.
	WidthMs int64 `json:"width_ms"`
	// Series has one for each field, in the order asked for.
	Series []Series `json:"series"`
}

// Width is the length of a bucket.
func (b *Buckets) Width() time.Duration { return time.Duration(b.WidthMs) * time.Millisecond }

// Series is what became of one field.
type Series struct {
	Field string `json:"field"`
	// Buckets are by time, without those in which the field had no number.
	Buckets []Bucket `json:"buckets"`
}

// Bucket sums up the numbers of one span of time. A number beyond the range of float64, which
// JSON can have, counts, but makes nil of what follows from it.
type Bucket struct {
	Start time.Time `json:"start"`
	Count int64     `json:"count"`
	Min   *float64  `json:"min"`
	Max   *float64  `json:"max"`
	Avg   *float64  `json:"avg"`
	Last  *float64  `json:"last"`
}

// Buckets sums up numbers of a device by spans of time.
func (h *Hub) Buckets(ctx context.Context, name string, q BucketQuery) (Buckets, error) {
	query := url.Values{"buckets": {strconv.Itoa(q.N)}}
	set(query, "fields", strings.Join(q.Fields, ","))
	set(query, "from", timeText(q.From))
	set(query, "to", timeText(q.To))
	var b Buckets
	_, err := h.do(ctx, http.MethodGet, at("devices", name, "telemetry"), query, nil, &b)
	return b, err
}

// ScanQuery chooses messages of many devices; the zero value chooses all.
type ScanQuery struct {
	// Devices and Types narrow the devices down; both together, to those that fit both.
	Devices, Types []string
	// From ≤ time < To; zero: unbounded.
	From, To time.Time
	// Fields are the only fields wanted, by name or dotted path; messages that have none of
	// them are left out. None: the whole object.
	Fields []string
	// Limit is how many messages at most; 0: all.
	Limit int64
}

func (q *ScanQuery) values() url.Values {
	query := url.Values{"device": q.Devices, "type": q.Types}
	set(query, "from", timeText(q.From))
	set(query, "to", timeText(q.To))
	set(query, "fields", strings.Join(q.Fields, ","))
	if q.Limit != 0 {
		query.Set("limit", strconv.FormatInt(q.Limit, 10))
	}
	return query
}

// DeviceTelemetry is a message and its device's name.
type DeviceTelemetry struct {
	Device string `json:"device"`
	signalbox.Telemetry
}

// ScanTelemetry gives the messages of many devices in order of time, as they come from the
// hub; memory does not grow with their number. It ends with the first error; an answer that
// the hub broke off is one (KindUnavailable). Whoever does not walk to the end stops the
// hub's work too.
func (h *Hub) ScanTelemetry(ctx context.Context, q ScanQuery) iter.Seq2[DeviceTelemetry, error] {
	return func(yield func(DeviceTelemetry, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		resp, err := h.open(ctx, http.MethodGet, "/telemetry", q.values(), "", nil)
		if err != nil {
			yield(DeviceTelemetry{}, err)
			return
		}
		defer func() { _ = resp.Body.Close() }() // what mattered was read
		err = decodeLines(resp.Body, func(m DeviceTelemetry) bool { return yield(m, nil) })
		if _, known := errors.AsType[*signalbox.Error](err); err != nil && !known {
			err = unreachable(ctx, err)
		}
		if err != nil {
			yield(DeviceTelemetry{}, err)
		}
	}
}

// CopyTelemetry writes what ScanTelemetry would give to w as the hub sends it; format is
// NDJSON or CSV. CSV has the columns time, received, device, position and those of the
// fields; without fields, the object as JSON in the column object. After an error w has a
// part.
func (h *Hub) CopyTelemetry(ctx context.Context, q ScanQuery, format string, w io.Writer) error {
	query := q.values()
	switch format {
	case CSV:
		query.Set("format", "csv")
	case NDJSON:
	default:
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_format", "the format %q is not offered; allowed are %s and %s", format, NDJSON, CSV)
	}
	resp, err := h.open(ctx, http.MethodGet, "/telemetry", query, "", nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // what mattered was read
	out := &noted{w: w}
	if _, err := io.Copy(out, resp.Body); err != nil && out.err == nil {
		return unreachable(ctx, err)
	}
	return out.err
}

// noted remembers that it was the writer that failed.
type noted struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (n *noted) Write(b []byte) (int, error) {
	written, err := n.w.Write(b)
	n.err = err
	return written, err
}

// decodeLines reads messages, one a line, and calls yield for each until it says no.
func decodeLines(r io.Reader, yield func(DeviceTelemetry) bool) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	var long []byte // a line that is longer than the reader's buffer
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			if long = append(long, line...); len(long) > maxEvent {
				return signalbox.Errorf(signalbox.KindTooLarge, "answer_too_large", "a line of the hub's answer is longer than %d MiB", maxEvent>>20)
			}
			continue
		}
		if len(long) > 0 {
			line = append(long, line...)
			long = line[:0]
		}
		if err == nil && len(bytes.TrimSpace(line)) > 0 {
			var m DeviceTelemetry
			if err := json.Unmarshal(line, &m); err != nil {
				return signalbox.Wrap(signalbox.KindInternal, "not_signalbox", err, "a line of the answer cannot be read")
			}
			if !yield(m) {
				return nil
			}
		}
		switch {
		case err == io.EOF && len(line) > 0:
			return io.ErrUnexpectedEOF
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// timeText writes a time as the API reads it, "" for the zero time.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
