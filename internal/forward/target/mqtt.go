package target

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/forward"
	"signalbox/internal/wire/packet"
)

const (
	// maxUnderWay is how many messages of QoS 1 and 2 are published and not yet acknowledged; a
	// broker's Receive Maximum (5.0, 3.2.2.3.3) may make it fewer.
	maxUnderWay = 256
	// mqttKeepAlive is the Keep Alive of CONNECT (3.1.2.10), after which the library pings.
	mqttKeepAlive = 30 * time.Second
	// refusalWait is how long the answers to what was published behind a refused message are waited
	// for.
	refusalWait = time.Second
	// goodbye is how long a DISCONNECT may take.
	goodbye = 250 * time.Millisecond
)

// mqttTarget publishes to a broker on a connection of its own, with a clean start: what was not
// acknowledged is sent again by whoever sends, never by a library, and the broker keeps no session.
//
// Settled: QoS 1 when its PUBACK came and those of all before it, QoS 2 likewise its PUBCOMP. QoS 0
// when the connection's system took the bytes: what is on the way when a connection breaks is lost,
// as QoS 0 has it.
//
// A broker that refuses a publish (5.0: PUBACK or PUBREC with a reason of 0x80 or more) ends the
// sink with a *forward.Refused when everything before that message is settled, and what was under way
// behind it is answered, or a second has passed. What followed and was acknowledged is remembered and not published again. A 3.1.1 broker cannot refuse: it
// acknowledges, or closes.
type mqttTarget struct {
	spec     forward.Spec
	guard    *guard
	address  string
	tls      *tls.Config // nil: plain TCP
	version  packet.Version
	clientID string
	timeout  time.Duration // of what is published; the guard has that of joining
	logger   *slog.Logger
	beyond   beyond
}

// newMQTT makes the target of an mqtt or mqtts URL.
func newMQTT(spec *forward.Spec, g *guard, logger *slog.Logger) (forward.Target, error) {
	address, err := hostPort(spec)
	if err != nil {
		return nil, err
	}
	t := &mqttTarget{
		spec: *spec, guard: g, address: address, version: packet.V5, clientID: spec.ClientID,
		timeout: timeoutOf(spec), logger: logger,
	}
	switch spec.Version {
	case "", "5.0":
	case "3.1.1":
		t.version = packet.V311
		if spec.Secrets.Password != "" && spec.Username == "" {
			return nil, badTarget("MQTT 3.1.1 knows no password without a user name; set username") // 3.1.2.9
		}
	default:
		return nil, badTarget("the MQTT version is %q; 5.0 and 3.1.1 are possible", spec.Version)
	}
	if spec.QoS > 2 {
		return nil, badTarget("the QoS is %d; 0, 1 and 2 are possible", spec.QoS)
	}
	if t.clientID == "" {
		// Random, so that two hubs with one name do not take the connection from each other; the
		// same for each connection, so that a connection that hangs is taken over.
		t.clientID = "signalbox-" + spec.Name + "-" + strings.ToLower(rand.Text()[:8])
	}
	if strings.HasPrefix(spec.To, "mqtts:") {
		to, err := url.Parse(spec.To)
		if err != nil {
			return nil, badTarget("the address of the target cannot be read; write mqtts://host:port")
		}
		if t.tls, err = g.tlsConfig(spec, to.Hostname()); err != nil {
			return nil, err
		}
	} else if spec.Secrets.Password != "" {
		logger.Warn("the password goes to the MQTT broker unencrypted; mqtts:// would protect it", "to", forward.ShownURL(spec.To))
	}
	return t, nil
}

// Open implements forward.Target: it returns when the broker has accepted.
func (t *mqttTarget) Open(ctx context.Context, settled func(signalbox.Position)) (forward.Sink, error) {
	within, cancel := context.WithTimeout(ctx, t.guard.timeout)
	defer cancel()
	network, err := t.guard.DialContext(within, "tcp", t.address)
	if err == nil && t.tls != nil {
		secure := tls.Client(network, t.tls)
		if err = secure.HandshakeContext(within); err != nil {
			_ = network.Close() // the handshake failed
		}
		network = secure
	}
	if err != nil {
		return nil, t.failed(ctx, err)
	}
	s := newMQTTSink(t, network, settled)
	if t.version == packet.V5 {
		err = s.join5(within)
	} else {
		err = s.join3(within)
	}
	if err != nil {
		s.conn.fail(err)
		s.window.close()
		// What the connection saw first says more than what the library made of it.
		return nil, t.failed(ctx, s.conn.reason())
	}
	s.watching.Go(s.watch)
	return s, nil
}

func (t *mqttTarget) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return t.words(err)
}

// words says of an error what a person can use, the same for the same fault.
func (t *mqttTarget) words(err error) error {
	op, network := errors.AsType[*net.OpError](err)
	_, told := errors.AsType[*timeoutError](err)
	switch {
	case told:
		return err
	case errors.Is(err, net.ErrClosed):
		return errors.New("the connection to the broker was lost")
	case isTimeout(err):
		return &timeoutError{fmt.Sprintf("the broker did not answer within %s", t.timeout)}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the broker closed the connection")
	case network && op.Op != "dial":
		return fmt.Errorf("the connection to the broker broke: %s: %w", op.Op, op.Err) // without ports, which change
	default:
		return err
	}
}

// Close implements forward.Target. Nothing is kept between sinks.
func (t *mqttTarget) Close() error { return nil }

// publisher is a library's connection.
type publisher interface {
	// publish hands a message to the connection; n is its number in the window (QoS 1 and 2).
	// Memory of m is not used when it has returned.
	publish(ctx context.Context, m *forward.Message, n uint64) error
	// flush returns when all that was handed over is written.
	flush(ctx context.Context) error
	// close says goodbye, and waits for what the library runs.
	close()
}

// mqttSink is a connection to a broker. Send, Flush and Close are called by one goroutine; the
// library's goroutines tell what is acknowledged and that the connection is over.
type mqttSink struct {
	*mqttTarget
	conn    *mqttConn
	out     publisher
	window  *window
	settled func(signalbox.Position)
	// What the broker offers: the highest QoS is used if Spec wants more; the largest packet in
	// bytes, 0: no limit (5.0, 3.2.2.3).
	qos       uint8
	maxPacket uint32
	watching  sync.WaitGroup
}

func newMQTTSink(t *mqttTarget, network net.Conn, settled func(signalbox.Position)) *mqttSink {
	s := &mqttSink{mqttTarget: t, settled: settled, qos: t.spec.QoS}
	s.conn = newMQTTConn(network, t.version, t.timeout)
	s.window = newWindow(maxUnderWay, settled)
	return s
}

// Send implements forward.Sink. It returns when all is written; QoS 1 and 2 wait for
// acknowledgements in between when too many are missing.
func (s *mqttSink) Send(ctx context.Context, batch []forward.Message) error {
	stop := context.AfterFunc(ctx, func() { s.conn.fail(context.Cause(ctx)) }) // a write that hangs ends
	defer stop()
	s.conn.cork()
	for i := range batch {
		if err := s.Err(); err != nil {
			return unsent(batch, i, s.end(ctx, err))
		}
		if err := s.publish(ctx, &batch[i]); err != nil {
			return unsent(batch, i+1, s.end(ctx, err))
		}
	}
	if err := s.flush(ctx); err != nil {
		return s.end(ctx, err)
	}
	if s.qos == 0 && len(batch) > 0 {
		s.settled(batch[len(batch)-1].Position)
	}
	return nil
}

// end prefers the end of ctx to what it did to the connection.
func (s *mqttSink) end(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (s *mqttSink) publish(ctx context.Context, m *forward.Message) error {
	if refused := s.unfit(m); refused != nil {
		// Everything before it has to be settled.
		if err := s.flush(ctx); err != nil {
			return err
		}
		if err := s.Flush(ctx); err != nil {
			return err
		}
		return refused
	}
	var n uint64
	if s.qos > 0 {
		has := s.beyond.has(m)
		number, free := s.window.add(m, has)
		for !free {
			if err := s.flush(ctx); err != nil { // else nothing would be acknowledged
				return err
			}
			if err := s.wait(ctx); err != nil {
				return err
			}
			s.conn.cork()
			number, free = s.window.add(m, has)
		}
		if has {
			return nil
		}
		n = number
	}
	if err := s.out.publish(ctx, m, n); err != nil {
		s.conn.fail(err)
		return s.Err()
	}
	return nil
}

// unfit says that a message cannot be published, whoever the broker is.
func (s *mqttSink) unfit(m *forward.Message) error {
	if err := packet.CheckTopic(m.Topic); err != nil {
		return &forward.Refused{
			Position: m.Position, Permanent: true, Usable: true, Status: int(packet.TopicNameInvalid),
			Reason: fmt.Sprintf("nothing can be published to the topic %q: %v", clipped(m.Topic), err),
		}
	}
	if m.Topic[0] == '$' { // a placeholder made it so: the texts of devices are not to reach the broker's own topics
		return &forward.Refused{
			Position: m.Position, Permanent: true, Usable: true, Status: int(packet.TopicNameInvalid),
			Reason: fmt.Sprintf("nothing is published to the topic %q: topics that begin with «$» are the broker's own", clipped(m.Topic)),
		}
	}
	if s.maxPacket == 0 {
		return nil
	}
	if size := s.size(m); size > int(s.maxPacket) {
		return &forward.Refused{
			Position: m.Position, Permanent: true, Usable: true, Status: int(packet.PacketTooLarge),
			Reason: fmt.Sprintf("the message is a packet of %d bytes; the broker takes at most %d", size, s.maxPacket),
		}
	}
	return nil
}

func (s *mqttSink) size(m *forward.Message) int {
	p := packet.Packet{QoS: s.qos, Topic: []byte(m.Topic), Payload: m.Body, ID: 1}
	for name, value := range properties(m) {
		p.Properties.AddUser(name, value)
	}
	return packet.PublishSize(s.version, &p)
}

// properties are the user properties of a message (5.0, 3.3.2.3.7).
func properties(m *forward.Message) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		if m.Cursor != "" && !yield("cursor", m.Cursor) {
			return
		}
		if m.Redelivered && !yield("redelivered", "true") {
			return
		}
		if m.Replay != "" {
			yield("replay", m.Replay)
		}
	}
}

func (s *mqttSink) flush(ctx context.Context) error {
	s.conn.uncork()
	if err := s.out.flush(ctx); err != nil {
		s.conn.fail(err)
	}
	return s.Err()
}

// wait waits until something is acknowledged.
func (s *mqttSink) wait(ctx context.Context) error {
	select {
	case <-s.window.moved:
		return nil
	case <-s.conn.over:
		return s.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Flush implements forward.Sink.
func (s *mqttSink) Flush(ctx context.Context) error {
	for !s.window.empty() {
		if err := s.wait(ctx); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return err
	}
	return ctx.Err()
}

// watch ends the connection when an acknowledgement is overdue, or a refusal has waited long enough.
func (s *mqttSink) watch() {
	ticker := time.NewTicker(min(max(s.timeout/8, time.Millisecond), refusalWait))
	defer ticker.Stop()
	for {
		select {
		case <-s.conn.over:
			return
		case now := <-ticker.C:
			if refused := s.window.waited(now.Add(-min(refusalWait, s.timeout/2))); refused != nil {
				s.conn.fail(refused)
			}
			if s.window.overdue(now.Add(-s.timeout)) {
				s.conn.fail(&timeoutError{fmt.Sprintf("the broker did not acknowledge a message within %s", s.timeout)})
			}
		}
	}
}

// acknowledged notes the answer to the n-th message: reason Success, or below 0x80, is a yes.
func (s *mqttSink) acknowledged(n uint64, reason packet.Reason, text string) {
	var refused *forward.Refused
	if reason >= packet.UnspecifiedError {
		words := fmt.Sprintf("the broker did not take the message: %s", reason)
		if text != "" {
			words += fmt.Sprintf(": %q", forward.Scrub(printable([]byte(text)), &s.spec))
		}
		refused = &forward.Refused{Reason: words, Status: int(reason), Permanent: lasting(reason)}
	}
	if oldest := s.window.done(n, refused); oldest != nil {
		s.conn.fail(oldest)
	}
}

// lasting reports whether a broker that gave this reason would give it again (3.4.2.1): the others
// are faults or limits of the moment.
func lasting(r packet.Reason) bool {
	switch r {
	case packet.NotAuthorized, packet.TopicNameInvalid, packet.PayloadFormatInvalid:
		return true
	default:
		return false
	}
}

// Broken implements forward.Sink.
func (s *mqttSink) Broken() <-chan struct{} { return s.conn.over }

// Err implements forward.Sink. It may be a *forward.Refused, before which everything is settled.
func (s *mqttSink) Err() error {
	err := s.conn.reason()
	if err == nil {
		return nil
	}
	return s.words(err)
}

// Close implements forward.Sink. What the broker has beyond the settled stays known to the target.
func (s *mqttSink) Close() error {
	timer := time.AfterFunc(goodbye, func() { s.conn.fail(net.ErrClosed) }) // a broker that reads nothing
	s.out.close()
	timer.Stop()
	s.conn.fail(net.ErrClosed)
	s.watching.Wait()
	last, has := s.window.close()
	if last != nil {
		s.beyond.forget(*last)
	}
	s.beyond.add(has)
	return nil
}
