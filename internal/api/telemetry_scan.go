package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/wire"
)

const (
	// scanFlush is how much of an answer is gathered before it is sent, in bytes.
	scanFlush = 64 << 10
	// scanLinger is how long less than that may wait.
	scanLinger = time.Second
	// manyDevices is up to how many devices are looked up one by one; beyond it all are read,
	// and what is not wanted is passed over.
	manyDevices = 1000
)

type scanInput struct {
	Type   []string `query:"type,explode" doc:"Only devices of this type; several may be given."`
	Device []string `query:"device,explode" doc:"Only these devices; several may be given."`
	From   string   `query:"from" doc:"Only messages at or after this time (RFC 3339, or Unix milliseconds)."`
	To     string   `query:"to" doc:"Only messages before this time."`
	Fields []string `query:"fields" doc:"Only these fields of the objects, by name or dotted path, separated by commas; at most 1,000. Messages that have none of them are left out."`
	Limit  int64    `query:"limit" minimum:"1" doc:"How many at most; without it, all."`
	Format string   `query:"format" default:"ndjson" enum:"ndjson,csv" doc:"csv has the columns time, received, device, position and those of fields; without fields, the object as JSON in the column object."`
}

// deviceTelemetryView is a line of the answer.
type deviceTelemetryView struct {
	Device   string             `json:"device"`
	Position signalbox.Position `json:"position" doc:"The message's place in the hub's log."`
	Time     Time               `json:"time" doc:"The device's own time if it gave a plausible one, else that of receipt."`
	Received Time               `json:"received"`
	Object   json.RawMessage    `json:"object" doc:"What the device sent, or the chosen fields."`
}

func (s *server) registerScan() {
	op := operation(http.MethodGet, "/telemetry", "scan-telemetry", "telemetry", "Read the history of many devices in order of time",
		"All messages of the chosen devices, oldest first; of equal times, in the order of the hub's log. It sees what was stored when it began. "+
			"The answer is sent as it is read, however long it is; one that could not be finished is broken off without the end of its last chunk, so that it cannot be taken for whole. "+
			"Such answers and exports share the hub's history.read_memory, at 64 MiB each (429 beyond).")
	line := s.schemas.Schema(reflect.TypeFor[deviceTelemetryView](), true, "")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "A message a line; as ndjson, each of the form DeviceTelemetry.",
		Content: map[string]*huma.MediaType{
			typeNDJSON: {Schema: line},
			"text/csv": {Schema: &huma.Schema{Type: huma.TypeString}},
		},
	}}
	register(s, signalbox.ScopeRead, op, s.scanTelemetry)
}

func (s *server) scanTelemetry(_ context.Context, in *scanInput) (*huma.StreamResponse, error) {
	sc := &scan{server: s, limit: in.Limit, csv: in.Format == formatCSV}
	fields, err := chosenFields(in.Fields)
	if err != nil {
		return nil, err
	}
	sc.choice = wire.NewChoice(fields)
	if sc.query.From, sc.query.To, err = parseRange(in.From, in.To); err != nil {
		return nil, err
	}
	if err := sc.chooseDevices(in.Device, in.Type); err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		give, err := s.reading.take(scanMemory, "too_many_scans")
		if err != nil {
			writeProblem(w, problemOf(r.Context(), s.Logger, err))
			return
		}
		defer give()
		sc.serve(w, r)
	}}, nil
}

// scan is one answer.
type scan struct {
	*server
	query  history.ScanQuery
	choice *wire.Choice
	limit  int64
	csv    bool
	// names are those of the devices, as the format writes them. With only, no others are
	// wanted; else they are added as they come, nil for devices that are no more.
	names map[signalbox.DeviceID][]byte
	only  bool

	r       *http.Request
	w       http.ResponseWriter
	control *http.ResponseController
	buf     []byte
	chosen  []byte
	compact bytes.Buffer
	started bool  // something was sent
	looked  int64 // at entries
	seen    int64 // of them wanted
	sent    int64
	flushed time.Time
	checked time.Time
}

// chooseDevices finds the devices that are wanted; no names and types are all.
func (sc *scan) chooseDevices(names, types []string) error {
	sc.names = map[signalbox.DeviceID][]byte{}
	if len(names) == 0 && len(types) == 0 {
		return nil
	}
	sc.only = true
	of := func(kind string) bool { return len(types) == 0 || slices.Contains(types, kind) }
	ids := []signalbox.DeviceID{}
	found := map[string]bool{}
	add := func(id signalbox.DeviceID, name string) {
		if sc.names[id] == nil {
			sc.names[id] = sc.name(name)
			ids = append(ids, id)
		}
	}
	if len(names) == 0 {
		for _, d := range sc.Devices.All() {
			if kind := d.Type(); of(kind) {
				found[kind] = true
				add(d.ID, d.Name)
			}
		}
		for _, kind := range types {
			if !found[kind] {
				return signalbox.Errorf(signalbox.KindNotFound, "type_not_found", "there is no device of the type %.100q", kind)
			}
		}
	}
	for _, name := range names {
		d, err := sc.device(name)
		if err != nil {
			return err
		}
		if of(d.Type()) {
			add(d.ID, d.Name)
		}
	}
	if len(ids) == 0 {
		return signalbox.Errorf(signalbox.KindInvalid, "nothing_chosen", "none of the devices named is of the type %.100q; device and type both have to fit", strings.Join(types, ", "))
	}
	if len(ids) <= manyDevices {
		sc.query.Devices = ids
	}
	return nil
}

// name writes a device's name.
func (sc *scan) name(name string) []byte {
	if sc.csv {
		return appendCell(nil, name)
	}
	return appendString(nil, name)
}

var errEnough = errors.New("as many messages as were asked for")

// serve answers, until all is sent, the client goes away, is no longer allowed, or the hub
// stops.
func (sc *scan) serve(w http.ResponseWriter, r *http.Request) {
	ctx, done := sc.until(r.Context())
	defer done()
	sc.r, sc.w, sc.control = r, w, http.NewResponseController(w)
	mayTakeLong(sc.control)
	sc.flushed, sc.checked = sc.now(), sc.now()
	sc.head()
	err := sc.History.ScanTime(ctx, sc.query, sc.entry)
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err == nil && sc.sent == 0 && sc.seen > 0 {
		err = sc.checkAll(ctx, sc.query.Devices, newSought(sc.choice.Fields()), nil)
	}
	if err == nil {
		err = sc.flush()
	}
	switch {
	case err == nil:
	case sc.started:
		if ctx.Err() == nil {
			_ = problemOf(r.Context(), sc.Logger, err) // tells the log
		}
		panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's own way to break an answer off: it must not look whole
	case r.Context().Err() == nil:
		writeProblem(w, problemOf(r.Context(), sc.Logger, err))
	}
}

// head begins the answer.
func (sc *scan) head() {
	if !sc.csv {
		return
	}
	sc.buf = append(sc.buf, "time,received,device,position"...)
	if len(sc.choice.Fields()) == 0 {
		sc.buf = append(sc.buf, ",object"...)
	}
	for _, f := range sc.choice.Fields() {
		sc.buf = appendCell(append(sc.buf, ','), f)
	}
	sc.buf = append(sc.buf, '\n')
}

// entry adds a message and sends what is due.
func (sc *scan) entry(e *signalbox.Entry) error {
	name, known := sc.names[e.Device]
	if !known && !sc.only {
		if d := sc.Devices.Get(e.Device); d != nil {
			name = sc.name(d.Name)
		}
		sc.names[e.Device] = name
	}
	if name == nil || !e.Kind.IsTelemetry() {
		return sc.due()
	}
	sc.seen++
	if len(sc.choice.Fields()) > 0 && !sc.choice.Look(e.Body) {
		return sc.due()
	}
	if sc.csv {
		sc.appendRow(e, name)
	} else {
		sc.appendLine(e, name)
	}
	if sc.sent++; sc.sent == sc.limit {
		return errEnough
	}
	return sc.due()
}

// appendLine appends a line of JSON.
func (sc *scan) appendLine(e *signalbox.Entry, name []byte) {
	b := append(append(sc.buf, `{"device":`...), name...)
	b = strconv.AppendUint(append(b, `,"position":`...), uint64(e.Position), 10)
	b = appendTime(append(b, `,"time":"`...), time.UnixMicro(e.TimeMicros))
	b = appendTime(append(b, `","received":"`...), time.UnixMicro(e.ReceivedMicros))
	b = append(b, `","object":`...)
	object := e.Body
	if len(sc.choice.Fields()) > 0 {
		sc.chosen = sc.choice.AppendTo(sc.chosen[:0])
		object = sc.chosen
	}
	b = append(b, sc.oneLine(object)...)
	b = append(b, "}\n"...)
	sc.buf = b
}

// appendRow appends a row of CSV.
func (sc *scan) appendRow(e *signalbox.Entry, name []byte) {
	b := append(appendTime(sc.buf, time.UnixMicro(e.TimeMicros)), ',')
	b = append(appendTime(b, time.UnixMicro(e.ReceivedMicros)), ',')
	b = append(append(b, name...), ',')
	b = strconv.AppendUint(b, uint64(e.Position), 10)
	if len(sc.choice.Fields()) == 0 {
		b = appendCell(append(b, ','), string(sc.oneLine(e.Body)))
	}
	for _, v := range sc.choice.Values() {
		if b = append(b, ','); v.Exists() {
			b = appendCell(b, wire.Spelled(v))
		}
	}
	b = append(b, '\n')
	sc.buf = b
}

// oneLine gives an object without the white space between its parts, as all of this API does.
func (sc *scan) oneLine(object []byte) []byte {
	if bytes.IndexByte(object, ' ') < 0 && bytes.IndexByte(object, '\n') < 0 && bytes.IndexByte(object, '\t') < 0 && bytes.IndexByte(object, '\r') < 0 {
		return object
	}
	sc.compact.Reset()
	if err := json.Compact(&sc.compact, object); err != nil {
		return appendString(nil, string(object)) // it is no JSON: as text it harms nobody
	}
	return sc.compact.Bytes()
}

// due sends what was gathered, if it is much or has waited long.
func (sc *scan) due() error {
	if len(sc.buf) >= scanFlush {
		return sc.flush()
	}
	if sc.looked++; sc.looked%256 == 0 && len(sc.buf) > 0 && sc.now().Sub(sc.flushed) >= scanLinger {
		return sc.flush()
	}
	return nil
}

// flush sends what was gathered. Now and then it asks again who is listening.
func (sc *scan) flush() error {
	sc.flushed = sc.now()
	if sc.flushed.Sub(sc.checked) >= sc.heartbeat {
		sc.checked = sc.flushed
		if _, err := sc.allow(&headOnly{header: http.Header{}}, sc.r, signalbox.ScopeRead); err != nil {
			return err
		}
	}
	if !sc.started {
		sc.started = true
		sc.w.Header().Set("Content-Type", typeNDJSON)
		if sc.csv {
			sc.w.Header().Set("Content-Type", typeCSV)
		}
		sc.w.Header().Set("X-Accel-Buffering", "no") // proxies are to pass it on at once
		sc.w.WriteHeader(http.StatusOK)
	}
	// Inside the process and in tests there are no deadlines; then none is needed.
	_ = sc.control.SetWriteDeadline(sc.flushed.Add(writePatience))
	if _, err := sc.w.Write(sc.buf); err != nil {
		return err
	}
	sc.buf = sc.buf[:0]
	return sc.control.Flush()
}

// appendCell appends a cell of CSV (RFC 4180), quoted as encoding/csv does.
func appendCell(dst []byte, text string) []byte {
	if text == "" || text != `\.` && !strings.ContainsAny(text, ",\"\r\n") && text[0] != ' ' && text[0] != '\t' {
		return append(dst, text...)
	}
	dst = append(dst, '"')
	dst = append(dst, strings.ReplaceAll(text, `"`, `""`)...)
	return append(dst, '"')
}
