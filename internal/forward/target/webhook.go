package target

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"signalbox"
	"signalbox/internal/forward"
)

const (
	// maxAnswer is how much of an answer's body is read, in bytes; what says more loses its
	// connection.
	maxAnswer = 64 << 10
	// maxQuote is how much of an answer's body a reason quotes, in bytes; of maxLook bytes the secrets
	// are taken out before, so that no part of one is left at the end of the quotation.
	maxQuote, maxLook = 200, 40 << 10
	// drainWait is how long the body of an answer may take after its header.
	drainWait = time.Second
	// maxRetryAfter bounds what a receiver may ask for.
	maxRetryAfter = time.Hour
	// maxParallel bounds Spec.Parallel.
	maxParallel = 64
)

// webhook posts each message in a request of its own: a CloudEvent in structured mode, or what the
// template made in binary mode.
type webhook struct {
	spec      forward.Spec
	source    string
	timeout   time.Duration
	parallel  int
	signer    signer
	headers   http.Header // what all requests have
	client    *http.Client
	transport *http.Transport
	beyond    beyond
	drain     time.Duration // drainWait
}

// newWebhook makes the target of an http or https URL; source is that of its CloudEvents.
func newWebhook(spec *forward.Spec, g *guard, source string, logger *slog.Logger) (forward.Target, error) {
	to, err := url.Parse(spec.To)
	if err != nil {
		return nil, badTarget("the address of the target cannot be read; write https://host/path")
	}
	if to.User != nil {
		return nil, badTarget("the target holds a user name; set it as username, and the password as a secret")
	}
	w := &webhook{spec: *spec, source: source, timeout: timeoutOf(spec), drain: drainWait, parallel: min(max(spec.Parallel, 1), maxParallel), headers: http.Header{}}
	if w.signer, err = newSigner(spec.Secrets.HMAC); err != nil {
		return nil, err
	}
	var config *tls.Config
	if to.Scheme == "https" {
		if config, err = g.tlsConfig(spec, to.Hostname()); err != nil {
			return nil, err
		}
	}
	w.transport = g.transport(config)
	w.transport.ForceAttemptHTTP2 = true // with a dial function of its own it would not be
	w.transport.DisableCompression = true
	w.transport.MaxConnsPerHost, w.transport.MaxIdleConnsPerHost = w.parallel, w.parallel
	w.client = &http.Client{Transport: w.transport, CheckRedirect: refuseRedirect}
	w.headers.Set("User-Agent", "signalbox")
	w.headers.Set("Content-Type", w.contentType())
	switch s := spec.Secrets; {
	case s.Bearer != "":
		w.headers.Set("Authorization", "Bearer "+s.Bearer)
	case spec.Username != "" || s.Password != "":
		w.headers.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(spec.Username+":"+s.Password)))
	}
	if to.Scheme == "http" && w.headers.Get("Authorization") != "" {
		logger.Warn("the credential of a webhook goes out unencrypted; https:// would protect it", "to", forward.ShownURL(spec.To))
	}
	return w, nil
}

func (w *webhook) contentType() string {
	switch {
	case w.spec.Format != "template":
		return eventType
	case w.spec.ContentType != "":
		return w.spec.ContentType
	default:
		return "text/plain; charset=utf-8"
	}
}

// Open implements forward.Target. There is nothing to connect: each request finds its connection.
func (w *webhook) Open(ctx context.Context, settled func(signalbox.Position)) (forward.Sink, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &webhookSink{webhook: w, settled: settled}, nil
}

// Close implements forward.Target.
func (w *webhook) Close() error {
	w.transport.CloseIdleConnections()
	return nil
}

// post sends one message and waits for the answer. nil: the receiver has it. *forward.Refused: it
// answered that it does not take it. Any other error: nobody knows. begun says that it had a
// connection: else nothing of it left.
func (w *webhook) post(ctx context.Context, m *forward.Message) (begun bool, err error) {
	had, err := w.once(ctx, m, m.Redelivered)
	if had.crossed && ctx.Err() == nil {
		// A receiver may close a connection that was idle at the moment in which a request goes
		// out on it. That is no fault; but the request may have been read.
		_, err = w.once(ctx, m, true)
	}
	return had.begun, err
}

// attempt is what a request came to: begun says that it had a connection, crossed that it failed on
// one that had served before.
type attempt struct{ begun, crossed bool }

// once is one request.
func (w *webhook) once(ctx context.Context, m *forward.Message, redelivered bool) (had attempt, err error) {
	within, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	reused := false
	traced := httptrace.WithClientTrace(within, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { had.begun, reused = true, info.Reused },
	})
	request, err := w.request(traced, m, redelivered)
	if err != nil {
		return had, err
	}
	answer, err := w.client.Do(request)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return had, ctx.Err()
	case answer != nil: // a redirect; its body is closed
		return had, fmt.Errorf("%w: %w", forward.ErrTarget, w.fault(err))
	default:
		had.crossed = reused && !isTimeout(err)
		return had, w.fault(err)
	}
	timer := time.AfterFunc(w.drain, cancel) // ends the reading
	defer timer.Stop()
	var quote []byte
	if answer.StatusCode < 200 || answer.StatusCode >= 300 {
		quote, _ = io.ReadAll(io.LimitReader(answer.Body, maxLook)) // whatever comes: the status is the answer
	}
	_, _ = io.CopyN(io.Discard, answer.Body, maxAnswer-int64(len(quote))) // likewise
	_ = answer.Body.Close()
	return had, w.judge(m, answer, quote)
}

// request makes the request of a message. Nothing of it is the message's memory, since a transport
// may look at a body for a moment longer than the request takes.
func (w *webhook) request(ctx context.Context, m *forward.Message, redelivered bool) (*http.Request, error) {
	header := w.headers.Clone()
	e := newEvent(m, w.source, redelivered)
	var body []byte
	if w.spec.Format == "template" {
		e.binary(header.Set)
		body = bytes.Clone(m.Body)
	} else {
		data := m.Data
		if len(data) == 0 || w.spec.Format == "viewer" {
			data = m.Body
		}
		body = e.structured(make([]byte, 0, len(data)+512), data)
	}
	w.signer.headers(header.Set, e.id, time.Now(), body)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.spec.To, bytes.NewReader(body))
	if err != nil {
		return nil, badTarget("the address of the target cannot be read; write https://host/path")
	}
	request.Header = header
	return request, nil
}

// judge says what an answer means. What passes (408, 425, 429, 5xx) is tried again; any other 4xx
// says that this message is not wanted.
func (w *webhook) judge(m *forward.Message, answer *http.Response, quote []byte) error {
	status := answer.StatusCode
	if status >= 200 && status < 300 {
		return nil
	}
	words := fmt.Sprintf("the receiver answered %d", status)
	if text := http.StatusText(status); text != "" {
		words += " " + text
	}
	if said := printable(quote); said != "" {
		words += fmt.Sprintf(": %q", cut(forward.Scrub(said, &w.spec), maxQuote))
	}
	if status < 400 {
		// Not a message's fault but the setting's: none is taken there, and none is given up.
		return fmt.Errorf("%w: %s; a receiver of webhooks answers with 2xx", forward.ErrTarget, words)
	}
	refused := &forward.Refused{Position: m.Position, Reason: words, Status: status, Usable: true}
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		refused.After = retryAfter(answer.Header, time.Now())
	default:
		if refused.Permanent = status < 500; !refused.Permanent {
			refused.After = retryAfter(answer.Header, time.Now())
		}
	}
	return refused
}

// retryAfter reads Retry-After (RFC 9110, 10.2.3): seconds or a date; 0 when there is none, it
// cannot be read or is past; never more than an hour.
func retryAfter(header http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(header.Get("Retry-After"))
	if text == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(text, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second //nolint:gosec // bounded
	} else if errors.Is(err, strconv.ErrRange) {
		return maxRetryAfter
	}
	date, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), maxRetryAfter)
}

// fault says in words why there was no answer: the same for the same fault, and without the URL.
func (w *webhook) fault(err error) error {
	if around, is := errors.AsType[*url.Error](err); is {
		err = around.Err
	}
	op, network := errors.AsType[*net.OpError](err)
	switch {
	case isTimeout(err):
		return &timeoutError{fmt.Sprintf("the receiver did not answer within %s", w.timeout)}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the receiver closed the connection without an answer")
	case network && op.Op != "dial":
		return fmt.Errorf("the connection to the receiver broke: %s: %w", op.Op, op.Err) // without ports, which change
	default:
		return w.bounded(err)
	}
}

// bounded bounds an error that repeats what a receiver wrote: a line that is no HTTP, where it
// redirects to.
func (w *webhook) bounded(err error) error { return boundedFault(err, &w.spec) }

// timeoutError is a wait that was too long.
type timeoutError struct{ words string }

func (e *timeoutError) Error() string { return e.words }

// Timeout tells it as package net does.
func (e *timeoutError) Timeout() bool { return true }

func isTimeout(err error) bool {
	var waited interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &waited) && waited.Timeout()
}

// printable makes a line of what a receiver wrote.
func printable(text []byte) string {
	line := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, string(text))
	return strings.Join(strings.Fields(line), " ")
}
