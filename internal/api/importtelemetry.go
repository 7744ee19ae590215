package api

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"signalbox"
	"signalbox/internal/registry"
	"signalbox/internal/transfer"
)

// importTelemetryPath takes bodies of any length: they go to disk, a part at a time.
const importTelemetryPath = "/api/v1/import/telemetry"

const (
	// partPatience is how long an import of telemetry may wait for the next part of its body.
	partPatience = 2 * time.Minute
	// progressPause is the least time between two lines of progress.
	progressPause = 500 * time.Millisecond
)

type importTelemetryInput struct {
	Format     string `query:"format" enum:"csv,ndjson,parquet,dump" doc:"Without it, what the body looks like. dump is what mysqldump writes."`
	Device     string `query:"device" doc:"Whose the rows are that name no device."`
	TimeColumn string `query:"time_column" doc:"The column of the times; without it, time."`
	Zone       string `query:"zone" doc:"Where times without a zone are from, such as Europe/Moscow; without it, the hub's own zone."`
	Table      string `query:"table" doc:"The table of a dump, with or without its database in front; without it, temp."`
	Field      string `query:"field" doc:"The column of a dump's table that has the readings, and the name of their field; without it, temp."`
	Create     bool   `query:"create" doc:"Makes devices that do not exist; else their rows are refused."`
	Type       string `query:"type" doc:"The type of devices that are made."`
}

// importLine is a line of an answer as NDJSON.
type importLine struct {
	Progress *importProgress  `json:"progress,omitempty"`
	Report   *transfer.Report `json:"report,omitempty"`
	Problem  *Problem         `json:"problem,omitempty"`
}

type importProgress struct {
	Read     int64 `json:"read" doc:"How many rows the file has."`
	Compared int64 `json:"compared" doc:"How many of them were compared with history."`
}

func (t *exports) registerImport() {
	op := operation(http.MethodPost, "/import/telemetry", "import-telemetry", "import", "Import telemetry",
		"The body is CSV, NDJSON, Parquet or a dump of a table, plain or compressed by gzip, and may be of any length. A body that cannot be read to its end changes nothing; rows that cannot be taken are refused one by one. "+
			"A message is identified by device, time and the bytes of its object, and counted, so importing a file twice changes nothing. Imported telemetry is history: no state changes, and nobody who listens hears of it. "+
			"With «Accept: application/x-ndjson» the answer has lines of progress, and the report or the problem last. One import at a time (409 beyond).")
	schema := func(of reflect.Type) *huma.Schema { return t.schemas.Schema(of, true, "") }
	op.Responses = map[string]*huma.Response{"200": {
		Description: "What became of the rows; all that was added is on disk.",
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: schema(reflect.TypeFor[transfer.Report]())},
			typeNDJSON:         {Schema: schema(reflect.TypeFor[importLine]())},
		},
	}}
	register(t.server, signalbox.ScopeAdmin, op, t.importTelemetry)
	t.describeBody(importTelemetryPath, map[string]string{
		typeNDJSON: `{"device":"esp01","time":"2026-03-01T12:00:00.000000Z","object":{"temperature":21.5}}`,
		"text/csv": "time,device,temperature\n2026-03-01T12:00:00Z,esp01,21.5\n",
	})
}

func (t *exports) importTelemetry(_ context.Context, in *importTelemetryInput) (*huma.StreamResponse, error) {
	o := transfer.ReadOptions{
		Format: transfer.Format(in.Format), Device: in.Device, TimeColumn: in.TimeColumn, Table: in.Table, Field: in.Field, Dir: t.Spool,
	}
	if in.Zone != "" {
		var err error
		if o.Zone, err = transfer.LoadZone(in.Zone); err != nil {
			return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_zone", "%s", err)
		}
	}
	if in.Type == "" {
		in.Type = DefaultType
	} else if !in.Create {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_type", "type is that of devices that are made, and needs create=true")
	}
	if err := signalbox.CheckName("device type", in.Type); err != nil {
		return nil, err
	}
	if in.Device != "" && !in.Create {
		if _, err := t.device(in.Device); err != nil {
			return nil, err
		}
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		select {
		case t.importing <- struct{}{}:
			defer func() { <-t.importing }()
		default:
			writeProblem(w, problemOf(r.Context(), t.Logger, signalbox.Errorf(signalbox.KindConflict, "import_running",
				"another import of telemetry is under way; one is allowed at a time")))
			return
		}
		t.serveImport(w, r, o, in)
	}}, nil
}

func (t *exports) serveImport(w http.ResponseWriter, r *http.Request, o transfer.ReadOptions, in *importTelemetryInput) {
	ctx, done := t.until(r.Context())
	defer done()
	out := &importAnswer{patientWriter: patientWriter{w: w, control: http.NewResponseController(w)}, lines: strings.Contains(r.Header.Get("Accept"), typeNDJSON)}
	report, err := t.runImport(ctx, &patientBody{body: r.Body, control: out.control}, o, in, out)
	if err != nil {
		if r.Context().Err() == nil {
			out.problem(problemOf(r.Context(), t.Logger, err))
		}
		return
	}
	t.Logger.Info("telemetry was imported", "format", string(report.Format), "by", caller(r.Context()).Name,
		"read", report.Read, "added", report.Added, "already", report.Already, "refused", report.Refused, "created", len(report.Created))
	out.report(report)
}

func (t *exports) runImport(ctx context.Context, body io.Reader, o transfer.ReadOptions, in *importTelemetryInput, out *importAnswer) (*transfer.Report, error) {
	src, err := transfer.Open(body, o)
	if err != nil {
		return nil, err
	}
	to := transfer.Target{
		Archive: t.Archive, Dir: t.Spool, Progress: out.progress,
		Find: func(name string) (signalbox.DeviceID, bool) {
			if d := t.Devices.Find(name); d != nil {
				return d.ID, true
			}
			return 0, false
		},
	}
	if in.Create {
		to.Check = func(name string) error { return registry.CheckNew(name, in.Type) }
		to.Create = func(ctx context.Context, names []string) error { return t.makeDevices(ctx, names, in.Type) }
	}
	report, err := transfer.Import(ctx, src, to)
	if closed := src.Close(); err == nil && closed != nil {
		t.Logger.Warn("a temporary file of an import could not be removed", "err", closed)
	}
	return report, err
}

// makeDevices adds devices whose secrets nobody knows.
func (t *exports) makeDevices(ctx context.Context, names []string, kind string) error {
	list := make([]registry.NewDevice, len(names))
	for i, name := range names {
		secret, _, err := t.secret("")
		if err != nil {
			return err
		}
		list[i] = registry.NewDevice{Name: name, Type: kind, Secret: secret}
	}
	outcomes, err := t.Devices.AddAll(ctx, list, nil)
	if err != nil {
		return err
	}
	for _, o := range outcomes {
		if o.Err != nil && signalbox.KindOf(o.Err) != signalbox.KindConflict { // somebody was faster
			return o.Err
		}
	}
	return nil
}

// patientBody gives each part of a body its own time.
type patientBody struct {
	body    io.Reader
	control *http.ResponseController
}

// Read implements io.Reader.
func (p *patientBody) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(time.Now().Add(partPatience)) // where there are no deadlines, none is needed
	n, err := p.body.Read(b)
	if err != nil {
		mayTakeLong(p.control) // comparing and writing come behind it
	}
	return n, err
}

// importAnswer is the answer to an import: one report, or lines.
type importAnswer struct {
	patientWriter
	lines bool
	last  time.Time
}

// progress tells how far the comparing is. While the body is still read nothing is said:
// HTTP/1.1 answers behind it.
func (a *importAnswer) progress(read, compared int64) {
	if now := time.Now(); a.lines && compared > 0 && now.Sub(a.last) >= progressPause {
		a.last = now
		a.line(&importLine{Progress: &importProgress{read, compared}})
	}
}

// line sends a line; a client that is gone ends the request's context.
func (a *importAnswer) line(l *importLine) {
	if !a.started {
		a.w.Header().Set("Content-Type", typeNDJSON)
	}
	if json.NewEncoder(a).Encode(l) == nil {
		_ = a.control.Flush() // as above
	}
}

func (a *importAnswer) problem(p *Problem) {
	if a.started {
		a.line(&importLine{Problem: p})
		return
	}
	_ = a.control.SetWriteDeadline(time.Now().Add(writePatience))
	writeProblem(a.w, p)
}

func (a *importAnswer) report(r *transfer.Report) {
	if a.lines {
		a.line(&importLine{Report: r})
		return
	}
	a.w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(a).Encode(r) // a client that is gone needs no answer
}

// limitOf is how long the body of r may be, in bytes.
func (s *server) limitOf(r *http.Request) int64 {
	switch {
	case r.Method == http.MethodPost && r.URL.Path == importTelemetryPath:
		return math.MaxInt64
	case r.Method == http.MethodPost && r.URL.Path == "/api/v1/commands":
		return s.bulkBody()
	case takesMuch(r):
		return s.MaxImport
	default:
		return s.MaxBody
	}
}
