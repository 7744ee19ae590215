package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"signalbox"
	"signalbox/internal/transfer"
)

// Archive is the log as exports and imports of telemetry use it; package history's Log is it.
type Archive interface {
	transfer.Archive
	transfer.Past
}

type exportInput struct {
	Device []string `query:"device,explode" doc:"Only these devices; several may be given."`
	Type   []string `query:"type,explode" doc:"Only devices of this type; several may be given."`
	From   string   `query:"from" doc:"Only messages at or after this time (RFC 3339, or Unix milliseconds)."`
	To     string   `query:"to" doc:"Only messages before this time."`
	Format string   `query:"format" default:"ndjson" enum:"csv,ndjson,parquet"`
	Fields []string `query:"fields" doc:"The columns of csv (all fields there are without it, 1,000 at most), or further columns of parquet (200 at most), by name or dotted path, separated by commas."`
}

// exports are the exports and imports of telemetry.
type exports struct {
	*server
	importing chan struct{}
}

func (s *server) registerTransfer() {
	t := &exports{server: s, importing: make(chan struct{}, 1)}
	op := operation(http.MethodGet, "/export", "export-telemetry", "telemetry", "Write telemetry to a file",
		"What was stored when it began, oldest first; of equal times, in the order of the hub's log. ndjson and parquet have the objects exactly as the devices sent them, "+
			"csv has a column a field. The answer is sent as it is read; one that could not be finished is broken off, so that it cannot be taken for whole. "+
			"Exports and answers over many devices share the hub's history.read_memory: CSV and Parquet count for 128 MiB of it, the others for 64 (429 beyond).")
	content := map[string]*huma.MediaType{}
	for _, f := range []transfer.Format{transfer.CSV, transfer.NDJSON, transfer.Parquet} {
		content[f.ContentType()] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	}
	op.Responses = map[string]*huma.Response{"200": {Description: "The file.", Content: content}}
	register(s, signalbox.ScopeRead, op, t.export)
	t.registerImport()
}

func (t *exports) export(_ context.Context, in *exportInput) (*huma.StreamResponse, error) {
	q := transfer.ExportQuery{Format: transfer.Format(in.Format), Name: func(id signalbox.DeviceID) string {
		if d := t.Devices.Get(id); d != nil {
			return d.Name
		}
		return ""
	}}
	var err error
	if q.Devices, err = t.chooseDevices(in.Device, in.Type); err != nil {
		return nil, err
	}
	if q.From, q.To, err = parseRange(in.From, in.To); err != nil {
		return nil, err
	}
	if q.Fields, err = chosenFields(in.Fields); err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		memory := int64(scanMemory)
		if q.Format != transfer.NDJSON {
			memory = tableMemory
		}
		give, err := t.reading.take(memory, "too_many_exports")
		if err != nil {
			writeProblem(w, problemOf(r.Context(), t.Logger, err))
			return
		}
		defer give()
		t.serveExport(w, r, q)
	}}, nil
}

// serveExport answers, until all is sent, the client goes away, or the hub stops.
func (t *exports) serveExport(w http.ResponseWriter, r *http.Request, q transfer.ExportQuery) {
	ctx, done := t.until(r.Context())
	defer done()
	out := &patientWriter{w: w, control: http.NewResponseController(w)}
	mayTakeLong(out.control)
	_ = out.control.SetWriteDeadline(time.Time{}) // as there
	e, err := transfer.Prepare(ctx, t.Archive, q)
	if err == nil {
		w.Header().Set("Content-Type", q.Format.ContentType())
		w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="telemetry.%s"`, q.Format))
		err = e.Write(ctx, out)
	}
	switch {
	case err == nil:
	case out.started:
		if ctx.Err() == nil {
			_ = problemOf(r.Context(), t.Logger, err) // tells the log
		}
		panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's own way to break an answer off: it must not look whole
	case r.Context().Err() == nil:
		w.Header().Del("Content-Disposition")
		writeProblem(w, problemOf(r.Context(), t.Logger, err))
	}
}

// patientWriter gives each write its own time.
type patientWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	started bool
}

// Write implements io.Writer.
func (p *patientWriter) Write(b []byte) (int, error) {
	p.started = true
	_ = p.control.SetWriteDeadline(time.Now().Add(writePatience)) // as above
	return p.w.Write(b)
}
