package cli

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// streamSilence is how long a stream of events may be silent; the hub speaks every 15 s.
const streamSilence = 45 * time.Second

// pulse is an http.RoundTripper that breaks off streams of events which have gone silent:
// a hub that lost its power says no goodbye.
type pulse struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (p pulse) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.next.RoundTrip(r)
	if err == nil && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		body := resp.Body
		resp.Body = &pulseBody{ReadCloser: body, timer: time.AfterFunc(streamSilence, func() { _ = body.Close() })} // the reader sees it
	}
	return resp, err
}

type pulseBody struct {
	io.ReadCloser
	timer *time.Timer
}

// Read implements io.Reader.
func (b *pulseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.timer.Reset(streamSilence)
	return n, err
}

// Close implements io.Closer.
func (b *pulseBody) Close() error {
	b.timer.Stop()
	return b.ReadCloser.Close()
}
