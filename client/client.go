package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"signalbox"
)

// Hub is a hub's API. Make one with New.
type Hub struct {
	base  string
	token string
	http  *http.Client
}

// Option is a choice of New.
type Option func(*Hub)

// WithToken sends a program's token with each request.
func WithToken(token string) Option { return func(h *Hub) { h.token = token } }

// WithHTTPClient uses c for all requests. Its Timeout also ends streams.
func WithHTTPClient(c *http.Client) Option { return func(h *Hub) { h.http = c } }

// WithTransport sends all requests through t, which may call a handler in this process.
func WithTransport(t http.RoundTripper) Option {
	return func(h *Hub) { h.http = &http.Client{Transport: t, CheckRedirect: stay} }
}

// WithUnixSocket connects to the Unix socket at path, whatever the address says. Whoever
// may open a hub's own socket is its admin and needs no token.
func WithUnixSocket(path string) Option {
	return WithDialer(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	})
}

// WithDialer makes connections by dial, whatever the address says.
func WithDialer(dial func(ctx context.Context) (net.Conn, error)) Option {
	return WithTransport(&http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
	})
}

// stay makes a redirect an answer: a token is not carried elsewhere.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// New makes a client of the hub at baseURL, such as http://hub.local:8080. It connects to
// nothing yet. KindInvalid for what is no http or https address.
func New(baseURL string, options ...Option) (*Hub, error) {
	u, err := url.Parse(baseURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "invalid_url", "the hub's address %q is no http or https address, such as http://hub.local:8080", baseURL)
	}
	h := &Hub{base: strings.TrimRight(baseURL, "/") + "/api/v1"}
	for _, o := range options {
		o(h)
	}
	if h.http == nil {
		h.http = &http.Client{CheckRedirect: stay, Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
			TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
		}}
	}
	return h, nil
}

// maxAnswer bounds an answer that is read whole, in bytes.
const maxAnswer = 512 << 20

// do asks the API. in is sent as JSON, out filled from the answer; both may be nil.
func (h *Hub) do(ctx context.Context, method, path string, query url.Values, in, out any) (status int, err error) {
	var body io.Reader
	kind := ""
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, fmt.Errorf("write the request: %w", err)
		}
		body, kind = bytes.NewReader(b), "application/json"
	}
	return h.send(ctx, method, path, query, kind, body, out)
}

// send is do with a body that is sent as it is.
func (h *Hub) send(ctx context.Context, method, path string, query url.Values, kind string, body io.Reader, out any) (status int, err error) {
	resp, err := h.open(ctx, method, path, query, kind, body)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // what mattered was read
	if out == nil || resp.StatusCode == http.StatusNoContent {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // so that the connection can serve again
		return resp.StatusCode, nil
	}
	b, err := readAnswer(ctx, resp)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return 0, signalbox.Wrap(signalbox.KindInternal, "not_signalbox", err, "the answer is not what a Signalbox answers")
	}
	return resp.StatusCode, nil
}

// readAnswer reads the body of an answer as far as it is allowed to be long.
func readAnswer(ctx context.Context, resp *http.Response) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if len(b) > maxAnswer {
		return nil, signalbox.Errorf(signalbox.KindTooLarge, "answer_too_large", "the hub's answer is longer than %d MiB", maxAnswer>>20)
	}
	return b, nil
}

// open sends a request and gives a good answer, whose body the caller closes.
func (h *Hub) open(ctx context.Context, method, path string, query url.Values, kind string, body io.Reader) (*http.Response, error) {
	return h.openWith(ctx, method, path, query, http.Header{}, kind, body)
}

// openWith is open with further headers.
func (h *Hub) openWith(ctx context.Context, method, path string, query url.Values, header http.Header, kind string, body io.Reader) (*http.Response, error) {
	address := h.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header = header
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if h.token != "" {
		req.Header.Set("Authorization", "Bearer "+h.token)
	}
	resp, err := h.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // what mattered was read
	return nil, problemOf(resp)
}

// unreachable is the error for a hub that does not answer.
func unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return signalbox.Wrap(signalbox.KindUnavailable, "unreachable", err, "the hub does not answer")
}

// RetryAfter is in the chain of errors whose answer said how long to wait.
type RetryAfter struct{ Wait time.Duration }

// Error says how long to wait.
func (e *RetryAfter) Error() string { return fmt.Sprintf("try again after %s", e.Wait) }

// problemOf turns an answer that is no success into an error.
func problemOf(resp *http.Response) error {
	var p struct {
		Title     string `json:"title"`
		Detail    string `json:"detail"`
		Code      string `json:"code"`
		RequestID string `json:"request_id"`
	}
	e := &signalbox.Error{Kind: kindOf(resp.StatusCode), Code: "not_signalbox"}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil || p.Code == "" {
		e.Message = fmt.Sprintf("the answer is %s, and not as a Signalbox would say it", resp.Status)
		return e
	}
	e.Code, e.Message = p.Code, p.Detail
	if e.Message == "" {
		e.Message = p.Title
	}
	if p.RequestID != "" {
		e.Message += " (request " + p.RequestID + ")"
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.Err = &RetryAfter{Wait: time.Duration(s) * time.Second}
	}
	return e
}

// kindOf is the hub's mapping from kinds to statuses, the other way round.
func kindOf(status int) signalbox.Kind {
	switch status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return signalbox.KindInvalid
	case http.StatusUnauthorized:
		return signalbox.KindUnauthorized
	case http.StatusForbidden:
		return signalbox.KindForbidden
	case http.StatusNotFound:
		return signalbox.KindNotFound
	case http.StatusConflict:
		return signalbox.KindConflict
	case http.StatusRequestEntityTooLarge:
		return signalbox.KindTooLarge
	case http.StatusTooManyRequests:
		return signalbox.KindLimited
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return signalbox.KindUnavailable
	default:
		return signalbox.KindInternal
	}
}

// at joins the parts of a path, each escaped.
func at(parts ...string) string {
	var b strings.Builder
	for _, part := range parts {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(part))
	}
	return b.String()
}

// set adds a query parameter that is not empty.
func set(query url.Values, name, value string) {
	if value != "" {
		query.Set(name, value)
	}
}

// span writes a duration as the API reads it.
func span(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}
