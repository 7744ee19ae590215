package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/command"
	"signalbox/internal/live"
	"signalbox/internal/registry"
	"signalbox/internal/replay"
	"signalbox/internal/session"
)

// Commands is the command road as this door uses it; package command's Road is it.
type Commands interface {
	Submit(ctx context.Context, req signalbox.CommandRequest) (signalbox.Command, error)
	SubmitBulk(ctx context.Context, reqs []signalbox.CommandRequest) []command.Outcome
	Get(ctx context.Context, id string) (signalbox.Command, error)
	List(ctx context.Context, device signalbox.DeviceID, before string, limit int) ([]signalbox.Command, error)
	Wait(ctx context.Context, id string) (signalbox.Command, error)
	Cancel(ctx context.Context, id string) (signalbox.Command, error)
	Forget(id signalbox.DeviceID)
}

// Check is the state of one part of the hub, in words.
type Check struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Message string `json:"message"`
	// Detail goes on behind Message for callers on the hub's own machine and those with a credential:
	// what tells of addresses, names and the insides of others.
	Detail string `json:"-"`
}

// The defaults of Config.
const (
	DefaultMaxBody   = 1 << 20
	DefaultMaxImport = 256 << 20
)

// Config says what the API works with. Everything without a default is needed.
type Config struct {
	Gate     *Gate
	People   *auth.People
	Keys     *auth.Keys
	Devices  *registry.Registry
	Sessions *session.Table
	History  History
	Commands Commands
	// Live gives viewers what happens.
	Live *live.Hub

	// Archive is where exports and imports of telemetry read and write; nil: the API has none.
	Archive Archive
	// Spool is where the temporary files of imports go; empty: the system's place for them.
	Spool string
	// Replays play history again; nil: the API has none.
	Replays *replay.Manager
	// Forwarders push what comes in to other computers; nil: the API has none.
	Forwarders Forwarders
	// ReplayToViewers gives the sink through which the hub plays a replay to the original viewers;
	// nil: there are none.
	ReplayToViewers func() (replay.Sink, error)
	// Retention drops old history; nil: the API has none.
	Retention Retention
	// Backup writes a backup of everything to w, with the key file or without, and gives its
	// size in bytes; nil: the API has none.
	Backup func(ctx context.Context, w io.Writer, key bool) (int64, error)
	// Ready tells for /readyz how the parts are; nil: always ready.
	Ready func(ctx context.Context) []Check
	// Gatherer gives what /metrics shows; nil: nothing.
	Gatherer prometheus.Gatherer
	// Version is the hub's, for the documents.
	Version string
	// MaxBody bounds a request's body and MaxImport that of an import, in bytes. That of a bulk may
	// have 16 MiB, if MaxImport has.
	MaxBody, MaxImport int64
	// ReadMemory bounds what answers over many devices (scans and exports) take together, in
	// bytes; those that find no room are refused. At least MinReadMemory.
	ReadMemory int64
	// ReadsRefused counts those; nil: nobody does.
	ReadsRefused *atomic.Int64
	// PublicDocs and PublicMetrics open the documents and /metrics to callers without a
	// credential.
	PublicDocs, PublicMetrics bool
	// Mount adds routes of other doors, which are served under the same rules for bodies,
	// headers and origins; nil: none. Their handlers authenticate by themselves.
	Mount func(mux *http.ServeMux)
	// Stopping is closed when the hub begins to stop: streams and waits end.
	Stopping <-chan struct{}
	// Sockets counts the viewers over WebSocket, of which http.Server.Shutdown knows nothing:
	// whoever stops the server waits for it then. nil: nobody does.
	Sockets *sync.WaitGroup
	// Streams counts what becomes of viewers; nil: nobody does.
	Streams *StreamStats
	Logger  *slog.Logger

	// heartbeatEvery, bodyPatience, writePatience, hasteMost and pongMisses heartbeats, unless a
	// test is in a hurry, or has time.
	heartbeat, patience, stuck, haste, silence time.Duration
}

// server is one API.
type server struct {
	Config
	api     huma.API
	schemas huma.Registry
	reading *budget
	now     func() time.Time
}

// New makes the handler for the HTTP port. It starts nothing and needs no closing.
func New(cfg Config) http.Handler {
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = DefaultMaxBody
	}
	if cfg.MaxImport <= 0 {
		cfg.MaxImport = DefaultMaxImport
	}
	if cfg.ReadMemory <= 0 {
		cfg.ReadMemory = DefaultReadMemory
	}
	if cfg.heartbeat == 0 {
		cfg.heartbeat = heartbeatEvery
	}
	if cfg.patience == 0 {
		cfg.patience = bodyPatience
	}
	if cfg.stuck == 0 {
		cfg.stuck = writePatience
	}
	if cfg.haste == 0 {
		cfg.haste = hasteMost
	}
	if cfg.silence == 0 {
		cfg.silence = pongMisses * cfg.heartbeat
	}
	if cfg.Sockets == nil {
		cfg.Sockets = new(sync.WaitGroup)
	}
	if cfg.Streams == nil {
		cfg.Streams = new(StreamStats)
	}
	if cfg.Gatherer == nil {
		cfg.Gatherer = prometheus.NewRegistry()
	}
	mux := http.NewServeMux()
	s := &server{Config: cfg, reading: newBudget(max(cfg.ReadMemory, MinReadMemory), cfg.ReadsRefused), now: time.Now}
	s.schemas = huma.NewMapRegistry("#/components/schemas/", nameSchema)
	s.api = humago.New(mux, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Signalbox", Version: cfg.Version,
				Description: "The API of a Signalbox device hub. Errors are RFC 9457 problem documents; times are RFC 3339 in UTC with milliseconds. A parameter that an operation does not know is an error.",
			},
			Components: &huma.Components{
				Schemas: s.schemas,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"token":  {Type: "http", Scheme: "bearer", Description: "A program's token."},
					"cookie": {Type: "apiKey", In: "cookie", Name: CookieName, Description: "A person's browser login."},
				},
			},
		},
		Formats:       maps.Clone(huma.DefaultFormats),
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{s.humaProblem},
	})
	s.api.UseMiddleware(func(ctx huma.Context, next func(huma.Context)) { next(plainContext{ctx}) })
	s.registerDevices()
	s.registerTelemetry()
	s.registerImports()
	s.registerCommands()
	s.registerPeople()
	s.registerStream()
	if cfg.Archive != nil {
		s.registerTransfer()
	}
	if cfg.Replays != nil {
		s.registerReplays()
	}
	if cfg.Forwarders != nil {
		s.registerForwarders()
	}
	if cfg.Retention != nil {
		s.registerRetention()
	}
	if cfg.Backup != nil {
		s.registerBackup()
	}
	// huma describes its own errors, which nobody gets to see.
	delete(s.schemas.Map(), "ErrorModel")
	delete(s.schemas.Map(), "ErrorDetail")
	s.mountDocs(mux)
	s.mountHealth(mux)
	if cfg.Mount != nil {
		cfg.Mount(mux)
	}
	return s.outside(mux)
}

// nameSchema names a schema after its Go type, without what only Go needs.
func nameSchema(t reflect.Type, hint string) string {
	return strings.TrimSuffix(huma.DefaultSchemaNamer(t, hint), "View")
}

type identityKey struct{}

// caller is who sends the request of ctx.
func caller(ctx context.Context) auth.Identity {
	who, _ := ctx.Value(identityKey{}).(auth.Identity)
	return who
}

// operation is what all operations have in common.
func operation(method, path, id, tag, summary, description string) huma.Operation {
	return huma.Operation{Method: method, Path: "/api/v1" + path, OperationID: id, Tags: []string{tag}, Summary: summary, Description: description}
}

// register adds an operation that needs scope; "" is open to all.
func register[I, O any](s *server, scope signalbox.Scope, op huma.Operation, handle func(ctx context.Context, in *I) (*O, error)) {
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = s.MaxBody
	}
	op.BodyReadTimeout = s.patience
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	op.Responses["default"] = &huma.Response{
		Description: "A problem document (RFC 9457).",
		Content: map[string]*huma.MediaType{
			problemType: {Schema: s.schemas.Schema(reflect.TypeFor[Problem](), true, "")},
		},
	}
	if scope != "" {
		op.Security = []map[string][]string{{"token": {}}, {"cookie": {}}}
		op.Description = strings.TrimSpace(op.Description + " Needs the scope " + string(scope) + ".")
		op.Middlewares = append(op.Middlewares, s.require(scope))
	}
	op.Middlewares = append(op.Middlewares, s.checkQuery)
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, problemOf(ctx, s.Logger, err)
		}
		return out, nil
	})
}

// require lets those pass who may do what needs scope.
func (s *server) require(scope signalbox.Scope) func(ctx huma.Context, next func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		who, err := s.allow(w, r, scope)
		if err != nil {
			writeProblem(w, problemOf(r.Context(), s.Logger, err))
			return
		}
		next(huma.WithValue(ctx, identityKey{}, who))
	}
}

// allow tells who sends r, if they may do what needs scope.
func (s *server) allow(w http.ResponseWriter, r *http.Request, scope signalbox.Scope) (auth.Identity, error) {
	who, err := s.Gate.Identify(w, r)
	if err != nil {
		return who, err
	}
	if !who.Scope.Allows(scope) {
		return who, signalbox.Errorf(signalbox.KindForbidden, "forbidden", "the credential %q has the scope %s; this needs %s", who.Name, who.Scope, scope)
	}
	return who, nil
}

// device finds a device by its name in a path.
func (s *server) device(name string) (*registry.Device, error) {
	if d := s.Devices.Find(name); d != nil {
		return d, nil
	}
	return nil, registry.NotFound(name)
}

// endSession closes the device's live connection, if there is one.
func (s *server) endSession(d *registry.Device, reason string) {
	if live := s.Sessions.Get(d.ID); live != nil {
		live.Conn.End(reason)
	}
}

// streamed is an input whose body the handler reads by itself, as it comes.
type streamed struct {
	contentType string
	body        io.Reader
}

// mayTakeLong takes the time limit for reading a request away, which would end it with its answer
// under way: the server goes on reading, to hear that the client has gone. Inside the process and
// in tests there are no deadlines; then none is needed.
func mayTakeLong(control *http.ResponseController) { _ = control.SetReadDeadline(time.Time{}) }

// bodyPatience and importPatience are how long a body may take to arrive.
const (
	bodyPatience   = 30 * time.Second
	importPatience = 15 * time.Minute
)

// Resolve implements huma.Resolver.
func (in *streamed) Resolve(ctx huma.Context) []error {
	in.contentType, in.body = ctx.Header("Content-Type"), ctx.BodyReader()
	if err := ctx.SetReadDeadline(time.Now().Add(importPatience)); err != nil {
		return nil // a transport without deadlines: inside the process, or a test
	}
	return nil
}

// until gives a context that also ends when the hub stops: then its cause is errStopping.
func (s *server) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := func() { cancel(nil) }
	if s.Stopping == nil {
		return ctx, done
	}
	go func() {
		select {
		case <-s.Stopping:
			cancel(errStopping)
		case <-ctx.Done():
		}
	}()
	return ctx, done
}

// badParam is the error for a query parameter.
func badParam(name, value, allowed string) error {
	return signalbox.Errorf(signalbox.KindInvalid, "invalid_"+name, "%s is %s; %s", name, fmt.Sprintf("%.100q", value), allowed)
}
