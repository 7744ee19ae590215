package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// inside is an http.RoundTripper that calls a handler in this process. Bodies are piped
// in both directions, so streams work; what the handler writes waits until it is read.
type inside struct {
	handler http.Handler
	calls   sync.WaitGroup
}

func newInside(h http.Handler) *inside { return &inside{handler: h} }

// RoundTrip implements http.RoundTripper. The handler runs until it returns, the
// response's body is closed or the request's context ends.
func (t *inside) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	in := r.Clone(ctx)
	in.RequestURI = r.URL.RequestURI()
	in.Host = r.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	reader, writer := io.Pipe()
	w := &insideWriter{header: make(http.Header), body: writer, ready: make(chan struct{})}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = writer.CloseWithError(context.Cause(ctx)) }) // a pipe's close cannot fail
	t.calls.Go(func() {
		defer close(ended)
		defer cancel()
		err := t.serve(w, in)
		stop()
		if err == nil {
			err = r.Context().Err() // an answer that was given up is not whole
		}
		w.WriteHeader(http.StatusOK)
		_ = writer.CloseWithError(err)
		_ = in.Body.Close() // the sender sees it as a failed write, if it still sends
	})
	select {
	case <-w.ready:
	case <-r.Context().Done():
		cancel()
		<-ended
		return nil, r.Context().Err()
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: w.sent, ContentLength: -1, Request: r,
		Body: &insideBody{PipeReader: reader, cancel: cancel, ended: ended},
	}, nil
}

// serve runs the handler; a panic in it breaks off the answer, as a server would.
func (t *inside) serve(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("the request broke off: %v", fault)
		}
	}()
	t.handler.ServeHTTP(w, r)
	return nil
}

// wait waits for all handlers.
func (t *inside) wait() { t.calls.Wait() }

// insideBody is a response's body; closing it ends the handler and waits for it.
type insideBody struct {
	*io.PipeReader
	cancel context.CancelFunc
	ended  chan struct{}
}

// Close implements io.Closer.
func (b *insideBody) Close() error {
	b.cancel()
	err := b.PipeReader.Close()
	<-b.ended
	return err
}

// insideWriter is the handler's side.
type insideWriter struct {
	header http.Header
	body   *io.PipeWriter
	once   sync.Once
	ready  chan struct{} // closed when status and sent are there
	status int
	sent   http.Header
}

// Header implements http.ResponseWriter.
func (w *insideWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter; the first call counts. Codes below 200
// announce only and are passed over.
func (w *insideWriter) WriteHeader(status int) {
	if status < http.StatusOK {
		return
	}
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.ready)
	})
}

// Write implements http.ResponseWriter.
func (w *insideWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	n, err := w.body.Write(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = errors.New("the reader has gone away")
	}
	return n, err
}

// Flush implements http.Flusher: nothing is held back, but the header goes.
func (w *insideWriter) Flush() { w.WriteHeader(http.StatusOK) }
