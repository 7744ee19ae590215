package gateway

import (
	"errors"
	"hash/fnv"
	"net/netip"
	"time"

	"signalbox"
	"signalbox/internal/gateway/loop"
	"signalbox/internal/gateway/ws"
	"signalbox/internal/ingest"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/wire"
)

// Pauses of a socket that is not read for a while.
const (
	fullWait = 10 * time.Millisecond // the log is full
	rateWait = 20 * time.Millisecond // at least, when a device sends too fast
	// authBytes bounds a message before login.
	authBytes = 4 << 10
)

// conn is one device connection: a ws.Endpoint towards the transport and a session.Conn
// towards the command road. Its fields belong to the event loop, but for saved, which is
// runAcks's.
type conn struct {
	g        *Gateway
	ws       *ws.Conn
	device   *registry.Device // nil until login
	admitted *registry.Device // by HTTP Basic, before the socket was open
	session  session.Session
	boot     uint64
	saved    uint64
	opened   time.Duration      // on the gateway's clock
	version  uint32             // of the secret it logged in with
	asked    signalbox.Protocol // by the upgrade request
	toldRate bool               // that it is too fast, since the last tick
	told     bool               // of the full log
	checked  bool               // its credential was good; the login may wait for the log
	slowed   bool               // by rivals, once
	warned   bool               // the log was told that its messages are too complex
	viewer   bool               // its page may be nothing else: see Viewers.AdmitsNull
	ended    bool
}

// address is the peer's, without port.
func (c *conn) address() netip.Addr { return c.ws.RemoteAddr().Addr() }

// Opened implements ws.Endpoint.
func (c *conn) Opened(w *ws.Conn) {
	c.ws = w
	w.SetMessageLimit(authBytes)
	if c.admitted != nil {
		c.login(c.admitted, signalbox.ProtocolV2, nil)
	}
}

// Receive implements ws.Endpoint.
func (c *conn) Receive(_ *ws.Conn, binary bool, payload []byte) time.Duration {
	if c.ended {
		return 0
	}
	if c.device == nil && c.admitted != nil {
		// Basic credentials were good, but the log was full at the time.
		if wait := c.login(c.admitted, signalbox.ProtocolV2, nil); wait > 0 || c.ended {
			return wait
		}
	}
	if c.device != nil {
		if wait := c.tooFast(); wait > 0 {
			return wait
		}
	}
	if c.device == nil && c.g.Viewers != nil && !binary && c.g.Viewers.Asks(payload) {
		viewer := c.g.Viewers.Live()
		c.ws.HandOver(viewer) // for good: nothing of c is used from here on
		return viewer.Receive(c.ws, false, payload)
	}
	if c.viewer {
		c.g.stats.OriginRefused.Add(1)
		c.close(ws.CodePolicy, "a page of the origin null may only be a viewer")
		return 0
	}
	if binary && !wire.ValidText(payload) {
		c.refuseFrame(ws.CodeInvalidData, "the frame is not UTF-8")
		return 0
	}
	var f wire.Frame
	if err := wire.Scan(payload, c.g.cfg.Limits, &f); err != nil && (c.device == nil || errors.Is(err, wire.ErrNotObject)) {
		c.refuseFrame(ws.CodeUnsupported, err.Error())
		return 0
	} else if err != nil {
		return c.tooComplex(&f, err)
	}
	if c.device == nil {
		return c.first(&f)
	}
	if wire.Is(f.Type, "telemetry") {
		return c.telemetry(&f, payload)
	}
	if c.session.Protocol.Answers() {
		c.answer(&f)
	}
	return 0
}

// tooFast takes a frame out of the device's budget, or says how long to wait.
func (c *conn) tooFast() time.Duration {
	if c.device.Take(c.g.cfg.MessagesPerSecond, c.g.cfg.Burst, c.g.now()) {
		return 0
	}
	c.g.stats.RateLimited.Add(1)
	if c.session.Protocol.Answers() && !c.toldRate {
		c.toldRate = true
		c.send(errorFrame("rate_limited", "More messages than allowed; the hub reads on when there is room.", 0))
	}
	return max(time.Second/time.Duration(c.g.cfg.MessagesPerSecond), rateWait)
}

// refuseFrame ends the connection for what is no JSON object.
func (c *conn) refuseFrame(code uint16, reason string) {
	c.g.stats.BadFrames.Add(1)
	c.close(code, reason)
}

// tooComplex answers an object over the limits: it is refused, the connection stays.
func (c *conn) tooComplex(f *wire.Frame, err error) time.Duration {
	c.g.stats.TooComplex.Add(1)
	code, limit := "too_many_keys", c.g.cfg.Limits.Keys
	if errors.Is(err, wire.ErrTooDeep) {
		code, limit = "too_deep", c.g.cfg.Limits.Depth
	}
	if !c.session.Protocol.Answers() {
		if !c.warned { // nobody else is told: version 1 has no answer for it
			c.warned = true
			c.g.cfg.Logger.Warn("a device's message is over a limit and was not stored; further ones of this connection are counted only",
				"device", c.device.Name, "address", c.address(), "code", code, "limit", limit)
		}
		return 0
	}
	seq, _ := wire.Uint(f.Seq)
	c.refuseMessage(code, err.Error(), seq)
	return 0
}

// refuseMessage tells a version 2 device that a message is refused for good.
func (c *conn) refuseMessage(code, message string, seq uint64) {
	if seq != 0 {
		c.g.Ingest.Settle(c.device, c.session.ID, c.boot, seq)
	}
	c.send(errorFrame(code, message, seq))
}

// first handles the frames before login: only auth is allowed.
func (c *conn) first(f *wire.Frame) time.Duration {
	protocol := c.asked
	if f.Version != nil {
		switch v, ok := wire.Uint(f.Version); {
		case ok && v == 1:
			protocol = signalbox.ProtocolV1
		case ok && v == 2:
			protocol = signalbox.ProtocolV2
		default:
			c.send(errorFrame("unsupported_version", "This hub speaks versions 1 and 2 of the device protocol.", 0))
			c.close(ws.CodeNormal, "")
			return 0
		}
	}
	if !wire.Is(f.Type, "auth") {
		c.g.stats.AuthRequired.Add(1)
		c.fail(protocol, frameAuthRequired, "auth_required", "The first frame must be {\"type\":\"auth\",\"name\":…,\"password\":…}.")
		return 0
	}
	name, okName := wire.Text(f.Name)
	secret, okSecret := wire.Text(f.Password)
	if !okName || !okSecret {
		name, secret = nil, nil
	}
	d, version, err := c.g.check(credentials{name: name, secret: secret}, c.address())
	if err != nil {
		c.fail(protocol, frameUnauthorized, err.Code, err.Message)
		return 0
	}
	c.version, c.checked = version, true
	return c.login(d, max(protocol, signalbox.ProtocolV1), f.Boot)
}

// fail tells why there is no login, in the words of the protocol, and closes.
func (c *conn) fail(p signalbox.Protocol, v1, code, message string) {
	if p.Answers() {
		c.send(errorFrame(code, message, 0))
	} else {
		c.send([]byte(v1))
	}
	c.close(ws.CodeNormal, "")
}

// login makes the connection the device's; wait > 0 asks to be called again then.
func (c *conn) login(d *registry.Device, p signalbox.Protocol, boot []byte) (wait time.Duration) {
	now := time.Now()
	live := c.g.Sessions.Get(d.ID) != nil
	if live && !c.slowed && c.g.rival.slow(d.ID, now) {
		c.slowed = true
		c.g.stats.Rivals.Add(1)
		return rivalWait
	}
	c.session = session.Session{ID: c.g.Sessions.NextID(), Device: d.ID, Protocol: p, Conn: c}
	c.boot = c.session.ID // without a mark, sequence numbers mean something within the connection only
	if text, ok := wire.Text(boot); ok && len(text) > 0 {
		h := fnv.New64a()
		_, _ = h.Write(text) // never fails
		c.boot = h.Sum64() | 1<<63
	}
	// What the protocol says first has to be on its way before a command can follow.
	if p.Answers() && !c.told {
		c.send(authOK(d.Name, c.g.cfg.Heartbeat, c.g.Ingest.Settled(d, c.boot)))
	}
	replaced, verdict := c.g.Ingest.Connect(d, &c.session, c.address())
	switch verdict {
	case ingest.Full:
		c.told = true // auth_ok went out already; what follows waits in the socket
		return fullWait
	case ingest.Stored:
	default:
		c.close(ws.CodeTryLater, "the hub is stopping, or a newer connection is there")
		return 0
	}
	c.device, c.admitted, c.told = d, nil, false
	c.g.stats.Logins.Add(1)
	c.ws.SetMessageLimit(c.g.cfg.MaxFrame)
	if replaced != nil {
		c.g.replaced(d, replaced, c.address(), now)
	}
	if d.SecretVersion() != c.version {
		// The secret was changed after it had been checked; whoever changed it may have looked
		// for a session to end before there was this one.
		c.End("secret_changed")
		return 0
	}
	c.g.Commands.Online(&c.session)
	return 0
}

// replaced ends the connection that a newer one took the device from.
func (g *Gateway) replaced(d *registry.Device, old *session.Session, by netip.Addr, now time.Time) {
	g.stats.Replaced.Add(1)
	old.Conn.End("replaced")
	if g.rival.replaced(d.ID, now) {
		g.cfg.Logger.Warn("two connections keep taking one device from each other: two boards may share its name",
			"device", d.Name, "address", by)
		if err := g.Ingest.Alert(d, "rivals", "Two boards seem to share this device's name."); err != nil {
			g.cfg.Logger.Warn("an alert could not be kept", "device", d.Name, "err", err)
		}
	}
}

// telemetry takes one message of readings.
func (c *conn) telemetry(f *wire.Frame, payload []byte) time.Duration {
	m := ingest.Message{Body: payload}
	answers := c.session.Protocol.Answers()
	if answers {
		if f.Seq != nil {
			seq, ok := wire.Uint(f.Seq)
			if !ok || seq == 0 {
				c.g.stats.Invalid.Add(1)
				c.send(errorFrame("invalid_seq", "seq must be a whole number from 1 to 2^63-1.", 0))
				return 0
			}
			m.Seq, m.Boot = seq, c.boot
		}
		if f.TS != nil && string(f.TS) != "null" { // a board whose clock is not set yet
			micros, ok := wire.Time(f.TS)
			if !ok {
				c.g.stats.Invalid.Add(1)
				c.refuseMessage("invalid_ts", "ts must be Unix milliseconds, as a number, or a time in RFC 3339, as a string; the message was not stored.", m.Seq)
				return 0
			}
			m.TimeMicros = micros
		}
		if wire.Replayed(payload) {
			c.g.stats.Replayed.Add(1)
			c.refuseMessage("replayed", "The message is played from the past, as its member replay says; a hub does not store such messages.", m.Seq)
			return 0
		}
	}
	settles, verdict := c.g.Ingest.Telemetry(c.device, c.session.ID, &m)
	switch verdict {
	case ingest.Duplicate:
		if settles > c.g.Log.Committed() {
			return fullWait // it comes again when its first copy is on disk
		}
		c.g.acks.add(c, settles, m.Seq)
	case ingest.Stored:
		if m.Seq != 0 {
			c.g.acks.add(c, settles, m.Seq)
		}
	case ingest.Stale:
		c.End("replaced")
	case ingest.Full:
		return c.full()
	case ingest.Stopping:
		c.End("shutdown")
	}
	return 0
}

// full pushes back, and tells a version 2 device why when it is for longer.
func (c *conn) full() time.Duration {
	c.g.stats.Pushback.Add(1)
	if c.session.Protocol.Answers() && !c.told && c.g.Log.Err() != nil {
		c.told = true
		c.send(errorFrame("storage_unavailable", "The hub cannot store telemetry now; keep your readings, it reads on when it can.", 0))
	}
	return fullWait
}

// answer handles the other frames of version 2.
func (c *conn) answer(f *wire.Frame) {
	kind, _ := wire.Text(f.Type)
	switch string(kind) {
	case "ping":
		c.send(pong())
	case "ack", "result":
		id, ok := wire.Text(f.ID)
		if !ok {
			c.g.stats.Invalid.Add(1)
			c.send(errorFrame("invalid_id", "An ack and a result need the id of the command, as a string.", 0))
			return
		}
		if string(kind) == "ack" {
			c.g.Commands.Ack(&c.session, string(id))
			return
		}
		c.g.result(&c.session, string(id), f)
	case "auth":
		c.g.stats.Invalid.Add(1)
		c.send(errorFrame("already_authenticated", "This connection has logged in already; another login needs another connection.", 0))
	default:
		c.g.stats.Invalid.Add(1)
		seq, _ := wire.Uint(f.Seq)
		c.refuseMessage("unknown_type", "type must be \"telemetry\", \"ack\", \"result\" or \"ping\".", seq)
	}
}

// result hands the result of a command to its road.
func (g *Gateway) result(s *session.Session, id string, f *wire.Frame) {
	ok, value, text := f.Outcome()
	g.Commands.Result(s, id, ok, value, text)
}

// Tick implements ws.Endpoint.
func (c *conn) Tick(*ws.Conn, time.Time) {
	c.toldRate = false
	if c.device == nil && c.admitted != nil && !c.ended {
		c.login(c.admitted, signalbox.ProtocolV2, nil) // had to wait, and the device may say nothing by itself
	}
	if c.device == nil && c.admitted == nil && !c.checked && !c.ended && c.g.now()-c.opened > c.g.cfg.AuthTimeout {
		c.g.stats.AuthTimeouts.Add(1)
		if c.viewer {
			c.close(ws.CodePolicy, "nothing was said in time")
			return
		}
		c.fail(c.asked, frameAuthRequired, "auth_timeout", "No login came in time.")
	}
	if c.told && c.g.Log.Err() == nil {
		c.told = c.device == nil
	}
}

// Closed implements ws.Endpoint.
func (c *conn) Closed(_ *ws.Conn, err error) {
	c.ended = true
	if c.device == nil {
		return
	}
	c.g.Ingest.Disconnect(c.device, &c.session, reasonOf(err))
}

// reasonOf puts a transport's error into a word of signalbox.PresenceChange.
func reasonOf(err error) string {
	var (
		closing   *ws.Closing
		violation *ws.Violation
		peer      *ws.PeerClose
	)
	switch {
	case errors.As(err, &closing) && closing.Code == ws.CodeGoingAway, errors.Is(err, loop.ErrStopped):
		return "shutdown"
	case errors.As(err, &closing) && closing.Code == ws.CodePolicy:
		return closing.Reason // End's
	case errors.As(err, &closing):
		return "protocol_error"
	case errors.As(err, &violation):
		return "protocol_error"
	case errors.As(err, &peer):
		return "closed"
	case errors.Is(err, ws.ErrPingTimeout):
		return "ping_timeout"
	case errors.Is(err, loop.ErrSlow):
		return "slow_reader"
	default:
		return "lost"
	}
}

// Deliver implements session.Conn.
func (c *conn) Deliver(cmd *signalbox.Command) error {
	frame, err := appendCommand(make([]byte, 0, 128), cmd, c.session.Protocol)
	if err == nil {
		err = c.ws.Send(frame)
	}
	if err != nil {
		c.g.stats.CommandsUnwritten.Add(1)
		return err
	}
	c.g.stats.CommandsWritten.Add(1)
	return nil
}

// End implements session.Conn.
func (c *conn) End(reason string) {
	code := ws.CodePolicy
	if reason == "shutdown" {
		code = ws.CodeGoingAway
	}
	_ = c.ws.SendClose(code, reason) // the reasons are short words
}

// close ends the connection from within the event loop and takes no further frames.
func (c *conn) close(code uint16, words string) {
	c.ended = true
	_ = c.ws.SendClose(code, words) // all words of this package are short
}

func (c *conn) send(frame []byte) {
	_ = c.ws.Send(frame) // what cannot be sent ends the connection, and Closed tells
}
