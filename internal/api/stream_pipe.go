package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	gobwas "github.com/gobwas/ws"

	"signalbox"
	"signalbox/internal/live"
)

// The reasons for which a stream ends, besides those of the viewer.
var (
	// errStopping ends streams and waits of a hub that stops.
	errStopping = errors.New("the hub stops")
	// errNotAllowed ends a stream whose viewer was logged out meanwhile.
	errNotAllowed = errors.New("the credential has ended")
	// errGone ends a stream whose viewer has gone.
	errGone = errors.New("the viewer has gone")
)

const (
	// hasteMost is how long a write under way may still take once the stream has ended, and how
	// long a viewer is waited for that was told so.
	hasteMost = time.Second
	// deadlineStep is how old a deadline may be that is taken for the next write, too.
	deadlineStep = time.Second
)

// pipe carries events to one viewer: as Server-Sent Events or over WebSocket. Its methods are
// for one goroutine; after an error of one of them nothing more is sent.
type pipe interface {
	// format is that of the blocks it sends.
	format() live.Format
	// context ends when the stream has to: its cause says why.
	context() context.Context
	// begin answers the request. Before it, errors are told as problem documents.
	begin() error
	// send writes a block of whole events.
	send(block []byte) error
	// beat shows a silent viewer that the hub is there, and how far it has everything: cursor, if
	// that is known.
	beat(cursor string) error
	// end tells the viewer why nothing more comes, as far as it can be told. nil: all was said.
	end(why error)
	// close gives back what the pipe holds, and waits for what belongs to it. It is called once,
	// whether the stream had begun or not.
	close()
}

// newPipe gives the pipe that r asks for, or why it cannot have it.
func (s *server) newPipe(w http.ResponseWriter, r *http.Request) (pipe, error) {
	if r.Method == http.MethodHead {
		// It would get nothing, and hold its place for as long as its connection is kept.
		w.Header().Set("Allow", http.MethodGet)
		return nil, newProblem(http.StatusMethodNotAllowed, "method_not_allowed", "a stream has no end, and so no HEAD; allowed is GET")
	}
	if !wantsSocket(r) {
		return s.newEventStream(w, r), nil
	}
	if err := checkUpgrade(w, r); err != nil {
		return nil, err
	}
	if _, ok := bearer(r); !ok && !isLocal(r) && !s.Gate.OwnOrigin(r) {
		s.Streams.Origins.Add(1)
		return nil, signalbox.Errorf(signalbox.KindForbidden, "cross_origin",
			"over WebSocket a login counts for pages of the hub's own origin only, not for %.200q; programs send the header «Authorization: Bearer»", r.Header.Get("Origin"))
	}
	return s.newSocket(w, r), nil
}

// appendEvent adds one event to b as a block of the format has it; data is one line of JSON.
func appendEvent(b *bytes.Buffer, f live.Format, id, name string, data []byte) {
	if f == live.Frames {
		// A bytes.Buffer takes all.
		_ = gobwas.WriteHeader(b, gobwas.Header{Fin: true, OpCode: gobwas.OpText, Length: int64(len(data))})
		b.Write(data)
		return
	}
	if id != "" {
		b.WriteString("id: " + id + "\n")
	}
	b.WriteString("event: " + name + "\ndata: ")
	b.Write(data)
	b.WriteString("\n\n")
}

// line writes v as one line of JSON.
func line(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil { // the encoder takes line breaks out of raw objects
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// afterwards calls f in a goroutine of its own once ctx has ended. calm makes that not happen, or
// waits for its end.
func afterwards(ctx context.Context, f func()) (calm func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		f()
	})
	return sync.OnceFunc(func() {
		if !stop() {
			<-done
		}
	})
}

// eventStream is the pipe of Server-Sent Events (HTML Standard, section 9.2), over HTTP/1.1 and
// HTTP/2.
type eventStream struct {
	s        *server
	w        http.ResponseWriter
	control  *http.ResponseController
	ctx      context.Context //nolint:containedctx // the request's, with the hub's end
	done     context.CancelFunc
	calm     func() // ends what shortens a write under way when ctx ends; nil before begin
	deadline time.Time
}

func (s *server) newEventStream(w http.ResponseWriter, r *http.Request) *eventStream {
	e := &eventStream{s: s, w: w, control: http.NewResponseController(w)}
	e.ctx, e.done = s.until(r.Context())
	return e
}

func (*eventStream) format() live.Format        { return live.SSE }
func (e *eventStream) context() context.Context { return e.ctx }

func (e *eventStream) begin() error {
	e.s.Streams.EventStreams.Add(1)
	h := e.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // proxies are to pass events on at once
	h.Set("Cache-Control", "no-store")
	mayTakeLong(e.control)
	e.w.WriteHeader(http.StatusOK)
	e.calm = afterwards(e.ctx, func() { _ = e.control.SetWriteDeadline(time.Now().Add(e.s.haste)) })
	return e.send([]byte("retry: 2000\n\n"))
}

func (e *eventStream) send(block []byte) error {
	now := e.s.now()
	if e.deadline.Sub(now) < e.s.stuck-deadlineStep {
		e.deadline = now.Add(e.s.stuck)
		_ = e.control.SetWriteDeadline(e.deadline)
	}
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx) // its deadline is that of hurry
	}
	_, err := e.w.Write(block)
	if err == nil {
		err = e.control.Flush()
	}
	if err != nil {
		// The server ends the request's context when a write fails.
		if !errors.Is(context.Cause(e.ctx), errStopping) && !e.s.now().Before(e.deadline) {
			e.s.Streams.Stuck.Add(1)
		}
		return errGone
	}
	return nil
}

// beat writes a comment. An id without data is no event, but the place to come back to.
func (e *eventStream) beat(cursor string) error {
	if cursor != "" {
		cursor = "id: " + cursor + "\n"
	}
	return e.send([]byte(": still here\n" + cursor + "\n"))
}

func (e *eventStream) end(why error) {
	switch {
	case why == nil, errors.Is(why, errStopping), errors.Is(why, errGone), errors.Is(why, context.Canceled):
	case errors.Is(why, errNotAllowed):
		e.s.Streams.Dismissed.Add(1)
	default:
		e.s.Logger.Error("a stream broke down", "request_id", requestID(e.ctx), "err", why)
	}
}

func (e *eventStream) close() {
	if e.calm != nil {
		e.calm() // the response is the server's again when the handler returns
	}
	e.done()
}
