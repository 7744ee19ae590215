package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"signalbox"
)

// ExportQuery chooses telemetry and says how it is written.
type ExportQuery struct {
	// Format is csv, ndjson or parquet; empty takes ndjson.
	Format string
	// Devices and Types choose devices; none: all.
	Devices, Types []string
	// From ≤ time < To; zero: unbounded.
	From, To time.Time
	// Fields are the columns of csv, and further ones of parquet.
	Fields []string
}

// Export gives telemetry as a file, oldest first. Read it to io.EOF: any other error says that
// it is not whole. The caller closes it.
func (h *Hub) Export(ctx context.Context, q ExportQuery) (io.ReadCloser, error) {
	query := url.Values{}
	set(query, "format", q.Format)
	for _, d := range q.Devices {
		query.Add("device", d)
	}
	for _, t := range q.Types {
		query.Add("type", t)
	}
	if !q.From.IsZero() {
		query.Set("from", q.From.UTC().Format(time.RFC3339Nano))
	}
	if !q.To.IsZero() {
		query.Set("to", q.To.UTC().Format(time.RFC3339Nano))
	}
	set(query, "fields", strings.Join(q.Fields, ","))
	resp, err := h.open(ctx, http.MethodGet, "/export", query, "", nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// TelemetryImport says how a file of telemetry is to be read; the zero value has the hub find
// out.
type TelemetryImport struct {
	// Format is csv, ndjson, parquet or dump (of mysqldump).
	Format string
	// Device is whose the rows are that name no device.
	Device string
	// TimeColumn is the column of the times.
	TimeColumn string
	// Zone is where times without a zone are from.
	Zone string
	// Table and Field are the table of a dump and its column of readings.
	Table, Field string
	// Create makes devices that do not exist, of the type Type.
	Create bool
	Type   string
}

// RowRefusal is a row that an import did not take.
type RowRefusal struct {
	Line   int64  `json:"line"`
	Device string `json:"device,omitempty"`
	Reason string `json:"reason"`
}

// ClockShift is a change of the clocks that made local times doubtful: a gap had none of them,
// an overlap had them twice.
type ClockShift struct {
	Kind string `json:"kind"`
	From string `json:"from"`
	To   string `json:"to"`
	Rows int64  `json:"rows"`
}

// TelemetryReport is what became of an import of telemetry: each row that was read was added,
// there already, or refused.
type TelemetryReport struct {
	Format  string `json:"format"`
	Read    int64  `json:"read"`
	Added   int64  `json:"added"`
	Already int64  `json:"already"`
	Refused int64  `json:"refused"`
	// Refusals are the first 1,000.
	Refusals []RowRefusal `json:"refusals"`
	// Created are devices that were made.
	Created []string `json:"created,omitempty"`
	// Zone is where times without a zone were taken from; empty when there were none.
	Zone   string       `json:"zone,omitempty"`
	Shifts []ClockShift `json:"shifts,omitempty"`
}

// ImportTelemetry imports a file of telemetry, plain or compressed by gzip, of any length.
// Doing it again changes nothing. progress, if not nil, hears now and then how many of the
// rows were compared with history, once all are read. KindConflict (import_running) while
// another import is under way.
func (h *Hub) ImportTelemetry(ctx context.Context, o TelemetryImport, body io.Reader, progress func(read, compared int64)) (TelemetryReport, error) {
	query := url.Values{}
	for name, value := range map[string]string{
		"format": o.Format, "device": o.Device, "time_column": o.TimeColumn, "zone": o.Zone, "table": o.Table, "field": o.Field, "type": o.Type,
	} {
		set(query, name, value)
	}
	if o.Create {
		query.Set("create", "true")
	}
	header := http.Header{}
	header.Set("Accept", NDJSON)
	resp, err := h.openWith(ctx, http.MethodPost, "/import/telemetry", query, header, "application/octet-stream", body)
	if err != nil {
		return TelemetryReport{}, err
	}
	defer func() { _ = resp.Body.Close() }() // what mattered was read
	r := bufio.NewReader(resp.Body)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil && (!errors.Is(err, io.EOF) || len(bytes.TrimSpace(line)) == 0) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return TelemetryReport{}, unreachable(ctx, err)
		}
		var l struct {
			Progress *struct{ Read, Compared int64 }
			Report   *TelemetryReport
			Problem  *struct {
				Status       int
				Code, Detail string
			}
		}
		if err := json.Unmarshal(line, &l); err != nil {
			return TelemetryReport{}, signalbox.Wrap(signalbox.KindInternal, "not_signalbox", err, "the answer is not what a Signalbox answers")
		}
		switch {
		case l.Report != nil:
			return *l.Report, nil
		case l.Problem != nil:
			return TelemetryReport{}, &signalbox.Error{Kind: kindOf(l.Problem.Status), Code: l.Problem.Code, Message: l.Problem.Detail}
		case l.Progress != nil && progress != nil:
			progress(l.Progress.Read, l.Progress.Compared)
		}
	}
}
