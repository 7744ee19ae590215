package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/history"
)

// Problem is an RFC 9457 problem document.
type Problem struct {
	Type   string `json:"type" doc:"Always about:blank: the code says more." example:"about:blank"`
	Title  string `json:"title" doc:"The status in words." example:"Not Found"`
	Status int    `json:"status" doc:"The HTTP status." example:"404"`
	Detail string `json:"detail" doc:"What was wrong, with which value, and what is allowed."`
	Code   string `json:"code" doc:"A short stable word for programs." example:"device_not_found"`
	// RequestID finds the cause of a fault in the hub's log.
	RequestID string        `json:"request_id,omitempty" doc:"Finds the cause of a fault in the hub's log."`
	Errors    []ProblemItem `json:"errors,omitempty" doc:"What is wrong with which part of the input."`

	retryAfter time.Duration
}

// ProblemItem is one of several things wrong with the input.
type ProblemItem struct {
	Location string `json:"location,omitempty" doc:"Where, such as body.name or query.limit."`
	Message  string `json:"message"`
}

// Error gives the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (*Problem) ContentType(string) string { return problemType }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="signalbox"`)
	}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((p.retryAfter+time.Second-1)/time.Second), 10))
	}
	return h
}

const problemType = "application/problem+json"

// statusOf is the one place where kinds of error become HTTP statuses.
func statusOf(kind signalbox.Kind) int {
	switch kind {
	case signalbox.KindInvalid:
		return http.StatusBadRequest
	case signalbox.KindUnauthorized:
		return http.StatusUnauthorized
	case signalbox.KindForbidden:
		return http.StatusForbidden
	case signalbox.KindNotFound:
		return http.StatusNotFound
	case signalbox.KindConflict:
		return http.StatusConflict
	case signalbox.KindTooLarge:
		return http.StatusRequestEntityTooLarge
	case signalbox.KindLimited:
		return http.StatusTooManyRequests
	case signalbox.KindUnavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

func newProblem(status int, code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Code: code}
}

// problemOf turns err into what the caller gets to see. A fault of the hub is logged here
// and shown in general words.
func problemOf(ctx context.Context, logger *slog.Logger, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return newProblem(http.StatusRequestEntityTooLarge, "too_large", "the body is longer than the "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes that are allowed here")
	}
	if errors.Is(err, history.ErrFull) {
		err = signalbox.Wrap(signalbox.KindUnavailable, "log_full", err, "the disk does not keep up; try again in a moment")
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		err = signalbox.Wrap(signalbox.KindUnavailable, "timeout", err, "the request was given up before it was done")
	}
	e, ok := errors.AsType[*signalbox.Error](err)
	if !ok || e.Kind == signalbox.KindInternal {
		id := requestID(ctx)
		logger.Error("a request failed", "request_id", id, "err", err)
		p := newProblem(http.StatusInternalServerError, "internal", "something went wrong inside the hub; its log says more under the request ID")
		p.RequestID = id
		return p
	}
	p := newProblem(statusOf(e.Kind), e.Code, e.Message)
	if e.Kind == signalbox.KindUnavailable {
		p.retryAfter = time.Second
		logger.Warn("a request could not be served", "request_id", requestID(ctx), "err", err)
	}
	if e.Kind == signalbox.KindLimited {
		p.retryAfter = time.Second
		if wait, ok := errors.AsType[*auth.WaitError](err); ok {
			p.retryAfter = wait.After
		}
	}
	return p
}

// writeProblem answers with p outside of huma.
func writeProblem(w http.ResponseWriter, p *Problem) {
	maps.Copy(w.Header(), p.GetHeaders())
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	// A client that is gone needs no answer.
	_ = json.NewEncoder(w).Encode(p)
}

// humaProblem is the transformer that turns huma's own errors into problems.
func (s *server) humaProblem(ctx huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	status := humaStatus(m.Status)
	p := newProblem(status, "invalid_request", m.Detail)
	if status == http.StatusRequestEntityTooLarge {
		p.Code = "too_large"
	}
	var words []string
	for _, e := range m.Errors {
		if e == nil {
			continue
		}
		message := s.worded(ctx.Operation(), e)
		p.Errors = append(p.Errors, ProblemItem{Location: e.Location, Message: message})
		words = append(words, message)
	}
	switch all := strings.Join(words, "; "); {
	case all == "":
	case m.Detail == "validation failed":
		p.Detail = all
	default:
		p.Detail += ": " + all
	}
	return p, nil
}

// humaStatus makes one code of the two that huma has for wrong input.
func humaStatus(status int) int {
	if status == http.StatusUnprocessableEntity {
		return http.StatusBadRequest
	}
	return status
}

// plainContext lets humaStatus decide what is sent.
type plainContext struct{ innerContext }

type innerContext huma.Context

// SetStatus sends humaStatus of code.
func (c plainContext) SetStatus(code int) { c.innerContext.SetStatus(humaStatus(code)) }

// Unwrap gives the context of the adapter.
func (c plainContext) Unwrap() huma.Context { return c.innerContext }
