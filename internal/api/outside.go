package api

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"signalbox"
)

type requestKey struct{}

// requestID names a request in the log.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

// PolicyNothing is the Content-Security-Policy of answers that are no page.
const PolicyNothing = "default-src 'none'; frame-ancestors 'none'"

// outside is what every request passes first: headers, limits, origins, the log.
func (s *server) outside(mux *http.ServeMux) http.Handler {
	cross := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id := fmt.Sprintf("%016x", rand.Uint64()) //nolint:gosec // a name for the log, no secret
		r = r.WithContext(context.WithValue(r.Context(), requestKey{}, id))
		answer := &recorder{ResponseWriter: w}
		defer s.after(answer, r, start)

		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Content-Security-Policy", PolicyNothing)
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Request-Id", id)

		if _, ok := bearer(r); !ok {
			if err := cross.Check(r); err != nil {
				writeProblem(answer, newProblem(http.StatusForbidden, "cross_origin", "a page of another origin may not do this in the name of who is logged in"))
				return
			}
		}
		limit := s.limitOf(r)
		if r.ContentLength > limit {
			h.Set("Connection", "close")
			writeProblem(answer, problemOf(r.Context(), s.Logger, &http.MaxBytesError{Limit: limit}))
			return
		}
		r.Body = http.MaxBytesReader(answer, r.Body, limit)
		if handler, pattern := mux.Handler(r); pattern == "" {
			s.noRoute(answer, r, handler)
			return
		}
		defer func() {
			if r.MultipartForm != nil { // net/http removes the files of its own copy of the request only
				_ = r.MultipartForm.RemoveAll()
			}
		}()
		mux.ServeHTTP(answer, r)
	})
}

// takesMuch reports whether r is one of the requests with a large body.
func takesMuch(r *http.Request) bool {
	if r.Method != http.MethodPost {
		return false
	}
	switch r.URL.Path {
	case "/api/v1/import", "/api/v1/devices/import":
		return true
	}
	return false
}

// noRoute answers where the mux has no route: 404, or 405 with what is allowed.
func (s *server) noRoute(w http.ResponseWriter, r *http.Request, handler http.Handler) {
	probe := &headOnly{header: http.Header{}}
	handler.ServeHTTP(probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		allow := probe.header.Get("Allow")
		w.Header().Set("Allow", allow)
		writeProblem(w, newProblem(probe.status, "method_not_allowed", fmt.Sprintf("%s is not allowed here; allowed are %s", r.Method, allow)))
		return
	}
	writeProblem(w, newProblem(http.StatusNotFound, "no_such_address", fmt.Sprintf("there is nothing at %.200q", r.URL.Path)))
}

// headOnly keeps what a handler says about its answer, not the answer.
type headOnly struct {
	header http.Header
	status int
}

// Header, Write and WriteHeader implement http.ResponseWriter.
func (h *headOnly) Header() http.Header         { return h.header }
func (h *headOnly) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader keeps the status.
func (h *headOnly) WriteHeader(status int) { h.status = status }

// after writes the log line of a request, and answers where a handler broke down.
func (s *server) after(answer *recorder, r *http.Request, start time.Time) {
	if fault := recover(); fault != nil {
		if err, ok := fault.(error); ok && err == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
			panic(fault) //nolint:forbidigo // net/http's own way to give a connection up
		}
		if r.Context().Err() != nil {
			return // the client is gone, which huma takes for a fault
		}
		s.Logger.Error("a request broke down", "request_id", requestID(r.Context()), "method", r.Method, "path", r.URL.Path, "fault", fault, "stack", string(debug.Stack()))
		if answer.status == 0 {
			p := newProblem(http.StatusInternalServerError, "internal", "something went wrong inside the hub; its log says more under the request ID")
			p.RequestID = requestID(r.Context())
			writeProblem(answer, p)
		}
	}
	if s.Logger.Enabled(r.Context(), slog.LevelDebug) {
		s.Logger.Debug("request", "request_id", requestID(r.Context()), "method", r.Method, "path", r.URL.Path, "status", answer.status,
			"bytes", answer.bytes, "duration_us", time.Since(start).Microseconds(), "address", s.Gate.Address(r).String())
	}
}

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// WriteHeader notes the status.
func (rec *recorder) WriteHeader(status int) {
	if rec.status == 0 {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

// Write counts.
func (rec *recorder) Write(b []byte) (int, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	n, err := rec.ResponseWriter.Write(b)
	rec.bytes += int64(n)
	return n, err
}

// Hijack notes that the connection goes on as another protocol.
func (rec *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(rec.ResponseWriter).Hijack()
	if err == nil {
		rec.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// Unwrap serves http.ResponseController.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

// open lets callers pass who need no credential here, or have one that may read.
func (s *server) open(public bool, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !public && !s.Gate.sameMachine(r) {
			if _, err := s.allow(w, r, signalbox.ScopeRead); err != nil {
				if signalbox.KindOf(err) == signalbox.KindUnauthorized && strings.Contains(r.Header.Get("Accept"), "text/html") {
					w.Header().Set("Location", "/login?next="+strings.ReplaceAll(r.URL.EscapedPath(), "/", "%2F"))
					w.WriteHeader(http.StatusFound)
					return
				}
				writeProblem(w, problemOf(r.Context(), s.Logger, err))
				return
			}
		}
		next(w, r)
	}
}
