package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	gobwas "github.com/gobwas/ws"

	"signalbox"
	"signalbox/internal/live"
)

const (
	// socketMessage is the largest message a viewer may send, in bytes. What it says is ignored.
	socketMessage = 4 << 10
	// socketBuffer is how much of what it says is read at a time, in bytes.
	socketBuffer = 512
	// framesPerSecond is how many frames a viewer may send for long, frameBurst how many at once.
	framesPerSecond = 20
	frameBurst      = 100
	// pongMisses is for how many heartbeats a viewer may be silent.
	pongMisses = 3
)

// wantsSocket reports whether r asks for an upgrade to WebSocket.
func wantsSocket(r *http.Request) bool { return hasToken(r.Header, "Upgrade", "websocket") }

// hasToken reports whether the header, a list of tokens, has this one.
func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// checkUpgrade holds a request for an upgrade to RFC 6455, section 4.2.1.
func checkUpgrade(w http.ResponseWriter, r *http.Request) error {
	bad := func(words string) error {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_upgrade", "this is no upgrade to WebSocket: %s", words)
	}
	key := r.Header.Values("Sec-WebSocket-Key")
	switch version := r.Header.Get("Sec-WebSocket-Version"); {
	case r.ProtoMajor != 1 || r.ProtoMinor != 1:
		return bad("it needs HTTP/1.1")
	case !hasToken(r.Header, "Connection", "upgrade"):
		return bad("the header Connection does not say Upgrade; a proxy between may have taken it away")
	case version == "":
		return bad("the header Sec-WebSocket-Version is missing; 13 is known")
	case version != "13":
		w.Header().Set("Sec-Websocket-Version", "13")
		w.Header().Set("Upgrade", "websocket")
		return newProblem(http.StatusUpgradeRequired, "upgrade_required", "WebSocket is known in the version 13 only")
	case len(key) != 1:
		return bad("there must be one header Sec-WebSocket-Key")
	}
	if nonce, err := base64.StdEncoding.DecodeString(key[0]); err != nil || len(nonce) != 16 {
		return bad("the header Sec-WebSocket-Key is not base64 of 16 bytes")
	}
	// Proxies may spread these over several lines, which the upgrade does not look at.
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	return nil
}

// closing is a close frame that ends a stream (RFC 6455, section 7.4).
type closing struct {
	code   gobwas.StatusCode
	reason string
	theirs bool // the viewer sent its own first
}

// Error gives the reason.
func (c *closing) Error() string { return c.reason }

// socket is the pipe over WebSocket. One goroutine reads what the viewer sends; it ends before
// close returns.
type socket struct {
	s      *server
	w      http.ResponseWriter
	r      *http.Request
	ctx    context.Context //nolint:containedctx // ends with the stream
	cancel context.CancelCauseFunc
	done   context.CancelFunc
	conn   net.Conn
	in     *bufio.Reader
	reader sync.WaitGroup
	calm   func() // ends what shortens writes under way when ctx ends
	pinged time.Time

	mu       sync.Mutex // for writing, and what follows
	deadline time.Time
	broken   bool

	timeMu sync.Mutex // for the deadlines of an end
	hasty  bool
}

func (s *server) newSocket(w http.ResponseWriter, r *http.Request) *socket {
	k := &socket{s: s, w: w, r: r}
	ctx, done := s.until(r.Context())
	k.ctx, k.cancel = context.WithCancelCause(ctx)
	k.done = done
	return k
}

func (*socket) format() live.Format        { return live.Frames }
func (k *socket) context() context.Context { return k.ctx }

func (k *socket) begin() error {
	k.s.Sockets.Add(1) // before the server forgets the connection
	conn, rw, _, err := gobwas.HTTPUpgrader{Timeout: k.s.stuck}.Upgrade(k.r, k.w)
	if conn == nil {
		k.s.Sockets.Done()
		return errGone
	}
	k.conn = conn
	k.calm = afterwards(k.ctx, k.hurry)
	if err != nil {
		return errGone
	}
	k.s.Streams.WebSockets.Add(1)
	// The server's reader is larger than what viewers say, and ends the request's context when it
	// fails. What it has read ahead comes first.
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	k.in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(early), conn), socketBuffer)
	k.pinged = k.s.now()
	k.reader.Go(func() { k.cancel(k.read()) })
	return nil
}

// send writes whole frames, and a ping when it is time for one.
func (k *socket) send(block []byte) error {
	if k.s.now().Sub(k.pinged) >= k.s.heartbeat {
		if err := k.ping(); err != nil {
			return err
		}
	}
	return k.write(block)
}

func (k *socket) beat(cursor string) error {
	if err := k.ping(); err != nil || cursor == "" {
		return err
	}
	text, err := line(Event{Kind: "cursor", Cursor: cursor})
	if err != nil {
		return err
	}
	var b bytes.Buffer
	appendEvent(&b, live.Frames, "", "", text)
	return k.write(b.Bytes())
}

func (k *socket) ping() error {
	k.pinged = k.s.now()
	return k.write(gobwas.CompiledPing)
}

// write is for the stream and its reader.
func (k *socket) write(frames []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken {
		return errGone
	}
	now := k.s.now()
	if k.deadline.Sub(now) < k.s.stuck-deadlineStep {
		k.deadline = now.Add(k.s.stuck)
		k.setDeadline(k.conn.SetWriteDeadline, k.deadline)
	}
	if _, err := k.conn.Write(frames); err != nil {
		k.broken = true // a frame may have gone in part
		if k.ctx.Err() == nil && errors.Is(err, os.ErrDeadlineExceeded) {
			k.s.Streams.Stuck.Add(1)
		}
		return errGone
	}
	return nil
}

// setDeadline sets one of the connection's deadlines, unless the stream has ended.
func (k *socket) setDeadline(set func(time.Time) error, to time.Time) {
	k.timeMu.Lock()
	defer k.timeMu.Unlock()
	if !k.hasty {
		_ = set(to) // what fails then, fails when it is used
	}
}

// hurry gives reads and writes that are under way little time.
func (k *socket) hurry() {
	k.timeMu.Lock()
	defer k.timeMu.Unlock()
	k.hasty = true
	_ = k.conn.SetDeadline(time.Now().Add(k.s.haste))
}

func (k *socket) end(why error) {
	last, known := errors.AsType[*closing](why)
	switch {
	case known:
	case why == nil:
		last = &closing{code: gobwas.StatusNormalClosure, reason: "that was all"}
	case errors.Is(why, errStopping):
		last = &closing{code: gobwas.StatusGoingAway, reason: why.Error()}
	case errors.Is(why, errNotAllowed):
		k.s.Streams.Dismissed.Add(1)
		last = &closing{code: gobwas.StatusPolicyViolation, reason: why.Error()}
	case errors.Is(why, errGone), errors.Is(why, context.Canceled):
		k.cancel(errGone)
		return
	default:
		k.s.Logger.Error("a stream broke down", "request_id", requestID(k.r.Context()), "err", why)
		last = &closing{code: gobwas.StatusInternalServerError, reason: "something went wrong inside the hub"}
	}
	k.cancel(why)
	k.hurry() // at once
	frame, err := gobwas.CompileFrame(gobwas.NewCloseFrame(gobwas.NewCloseFrameBody(last.code, last.reason)))
	if err != nil || k.write(frame) != nil || last.theirs {
		return
	}
	// The viewer answers with its own close frame. A connection that is closed while there is
	// something unread would take ours away with it.
	if half, ok := k.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // it is closed altogether soon
	}
	k.reader.Wait()
	_, _ = io.Copy(io.Discard, k.in) // until haste is over
}

func (k *socket) close() {
	k.cancel(errGone)
	k.done()
	if k.conn != nil {
		_ = k.conn.Close() // ends the reader, too
		k.reader.Wait()
		k.calm()
		k.s.Sockets.Done()
	}
}

// read takes what the viewer sends, and gives the end of it.
func (k *socket) read() error {
	err := k.frames()
	if last, ok := errors.AsType[*closing](err); ok && !last.theirs {
		if last.code == gobwas.StatusPolicyViolation {
			k.s.Streams.Flooded.Add(1)
		} else {
			k.s.Streams.Violations.Add(1)
		}
	}
	return err
}

// frames reads frames until one of them ends the connection.
func (k *socket) frames() error {
	state := gobwas.StateServerSide
	budget := frameBudget{left: frameBurst, at: k.s.now()}
	var message, control bytes.Buffer
	var text bool
	for {
		k.setDeadline(k.conn.SetReadDeadline, k.s.now().Add(k.s.silence))
		h, err := gobwas.ReadHeader(k.in)
		switch {
		case errors.Is(err, gobwas.ErrHeaderLengthMSB), errors.Is(err, gobwas.ErrHeaderLengthUnexpected):
			return &closing{code: gobwas.StatusProtocolError, reason: "the length of a frame cannot be"}
		case err != nil:
			return k.gone(err)
		}
		if !budget.take(k.s.now()) {
			return &closing{code: gobwas.StatusPolicyViolation, reason: "a viewer may send 20 frames a second"}
		}
		if err := gobwas.CheckHeader(h, state); err != nil {
			return &closing{code: gobwas.StatusProtocolError, reason: err.Error()}
		}
		into := &control
		if !h.OpCode.IsControl() {
			into = &message
			if h.OpCode != gobwas.OpContinuation {
				text = h.OpCode == gobwas.OpText
			}
		}
		if int64(into.Len())+h.Length > socketMessage {
			return &closing{code: gobwas.StatusMessageTooBig, reason: "a viewer's message may have 4 KiB"}
		}
		if err := k.payload(into, h); err != nil {
			return k.gone(err)
		}
		switch {
		case h.OpCode.IsControl():
			if err := k.control(h.OpCode, control.Bytes()); err != nil {
				return err
			}
			control.Reset()
		case !h.Fin:
			state = state.Set(gobwas.StateFragmented)
		default:
			if text && !utf8.Valid(message.Bytes()) {
				return &closing{code: gobwas.StatusInvalidFramePayloadData, reason: "a text is no UTF-8"}
			}
			state = state.Clear(gobwas.StateFragmented)
			message.Reset() // whatever it says
		}
	}
}

// payload reads the payload of a frame and unmasks it.
func (k *socket) payload(into *bytes.Buffer, h gobwas.Header) error {
	start := into.Len()
	if _, err := io.CopyN(into, k.in, h.Length); err != nil {
		return err
	}
	gobwas.Cipher(into.Bytes()[start:], h.Mask, 0)
	return nil
}

// control obeys a control frame (RFC 6455, section 5.5); an error ends the connection.
func (k *socket) control(op gobwas.OpCode, payload []byte) error {
	switch op {
	case gobwas.OpPing:
		frame, err := gobwas.CompileFrame(gobwas.NewPongFrame(payload))
		if err != nil {
			return err
		}
		return k.write(frame)
	case gobwas.OpClose:
		if len(payload) == 0 {
			return &closing{code: gobwas.StatusNormalClosure, theirs: true}
		}
		code, reason := gobwas.ParseCloseFrameData(payload)
		if len(payload) < 2 {
			return &closing{code: gobwas.StatusProtocolError, reason: "a close frame has half a code"}
		}
		if err := gobwas.CheckCloseFrameData(code, reason); err != nil {
			return &closing{code: gobwas.StatusProtocolError, reason: err.Error()}
		}
		return &closing{code: code, theirs: true}
	default: // a pong: that it came is all
		return nil
	}
}

// gone is the end of a connection that gave err.
func (k *socket) gone(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && k.ctx.Err() == nil {
		k.s.Streams.Silent.Add(1)
	}
	return errGone
}

// frameBudget is how many frames may come: framesPerSecond, and frameBurst at once.
type frameBudget struct {
	left float64
	at   time.Time
}

func (b *frameBudget) take(now time.Time) bool {
	b.left = min(frameBurst, b.left+now.Sub(b.at).Seconds()*framesPerSecond) - 1
	b.at = now
	return b.left >= 0
}
