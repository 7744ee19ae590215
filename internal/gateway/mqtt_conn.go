package gateway

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/broker"
	"signalbox/internal/gateway/loop"
	"signalbox/internal/gateway/mqtt"
	"signalbox/internal/mapped"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/wire/packet"
)

// mqttConn is one MQTT connection: an mqtt.Endpoint towards the transport and, of a device, a
// session.Conn towards the command road. Its fields belong to the event loop, but for flags.
// There may be very many: what few need is in guest and extra.
type mqttConn struct {
	door    *MQTT
	t       *mqtt.Conn
	device  *registry.Device // nil for guests, and before login
	broker  *broker.Session  // nil until the broker has one
	guest   *mqttGuest       // a program or an anonymous client; nil for devices
	extra   *mqttExtra       // nil as long as nothing unusual happens
	session session.Session
	version uint32 // of the secret it logged in with
	flags   atomic.Uint32
}

// mqttGuest is a client that is no device.
type mqttGuest struct {
	owner, name, secret string
	scope               signalbox.Scope // empty for anonymous clients
	job                 *submission     // the command being submitted, nil for none
	spent               allowance
}

// mqttExtra is what few connections need.
type mqttExtra struct {
	refusal []byte              // the error body to publish when the broker is done with a message
	expiry  *uint32             // of DISCONNECT
	talk    mapped.Conversation // the device's, of the dialect; nil until it listens in it
	taken   int                 // messages of a payload of the dialect that are kept, while it comes again
	paid    int                 // and those that were taken out of the budget, but for the first
}

// What is true of a connection, in mqttConn.flags.
const (
	mqttAdmitted  uint32 = 1 << iota // who it is is known
	mqttAttached                     // it is its device's session
	mqttSlowed                       // by rivals, once
	mqttPaid                         // the message that comes again was taken out of the budget
	mqttListening                    // a device that has subscribed to its commands
	mqttByMapping                    // on mapped topics, and not on the native one
	mqttByDialect                    // hears its commands in the dialect
	mqttGraceful                     // a DISCONNECT that takes the will away
	mqttMortal                       // the session was to end with the connection
	mqttCharged                      // and out of that of another device that a mapping gives it to
	mqttBusy                         // a command found no room
	mqttPublishes                    // its own telemetry topic, at this moment
)

func (c *mqttConn) is(flag uint32) bool { return c.flags.Load()&flag != 0 }
func (c *mqttConn) set(flag uint32)     { c.flags.Or(flag) }
func (c *mqttConn) clear(flag uint32)   { c.flags.And(^flag) }

func (c *mqttConn) address() netip.Addr { return c.t.RemoteAddr().Addr() }

func (c *mqttConn) more() *mqttExtra {
	if c.extra == nil {
		c.extra = &mqttExtra{}
	}
	return c.extra
}

// Receive implements mqtt.Endpoint.
func (c *mqttConn) Receive(p *packet.Packet) (wait time.Duration) {
	if p.Type == packet.CONNECT {
		return c.connect(p)
	}
	if c.broker == nil { // it was refused
		return 0
	}
	switch p.Type {
	case packet.PUBLISH:
		return c.publish(p)
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		return c.obey(c.broker.Ack(p))
	case packet.SUBSCRIBE:
		wait = c.obey(c.broker.Subscribe(p, c.grant))
		c.listen()
	case packet.UNSUBSCRIBE:
		wait = c.obey(c.broker.Unsubscribe(p))
		c.listen()
	case packet.PINGREQ:
		c.broker.Ping()
	case packet.DISCONNECT:
		c.disconnect(p)
	default: // the transport lets nothing else through
	}
	return wait
}

// obey does what the broker wants of the connection.
func (c *mqttConn) obey(o broker.Outcome) (wait time.Duration) {
	if o.Close {
		c.t.End(o.Reason, o.Words)
		return 0
	}
	return o.Wait
}

// disconnect notes how the client left (3.14).
func (c *mqttConn) disconnect(p *packet.Packet) {
	if p.Properties.Has(packet.SessionExpiry) {
		expiry := p.Properties.SessionExpiry
		if expiry > 0 && c.is(mqttMortal) { // 3.14.2.2.2
			c.t.End(packet.ProtocolError, "a session that was to end with the connection cannot be given an expiry by DISCONNECT")
			return
		}
		c.more().expiry = &expiry
	}
	if p.Reason == packet.Success { // 3.1.2-8 and 3.14.4-3: any other reason publishes the will
		c.set(mqttGraceful)
	}
}

// publish takes one message of the client.
func (c *mqttConn) publish(p *packet.Packet) (wait time.Duration) {
	if o := c.broker.Resolve(p); o.Close || o.Wait > 0 {
		return c.obey(o)
	}
	if !c.mayPublish(p.Topic) {
		return c.refuse(p)
	}
	if !c.is(mqttPaid) {
		if !c.pays() {
			return max(time.Second/time.Duration(c.door.g.cfg.MessagesPerSecond), rateWait)
		}
	}
	var o broker.Outcome
	if c.consumed(p.Topic) {
		p.Retain = false
		o = c.broker.Consume(p)
	} else {
		o = c.broker.Publish(p)
	}
	if o.Wait > 0 {
		c.set(mqttPaid)
		return o.Wait
	}
	if c.is(mqttPaid | mqttCharged) {
		c.clear(mqttPaid | mqttCharged)
	}
	if c.extra != nil && c.extra.refusal != nil {
		c.tell()
	}
	if o.Close {
		return c.obey(o)
	}
	return 0
}

// consumed reports whether messages on the topic are for the hub alone: commands that programs
// publish, and answers to commands. No subscriber gets them, now or later.
func (c *mqttConn) consumed(topic []byte) bool {
	if c.device == nil {
		return native(topic)
	}
	if rest, ok := own(topic, c.device.Name); ok {
		return string(rest) == topicAck || string(rest) == topicResult
	}
	return c.door.foreign(topic)
}

// refuse answers a publish to a topic that is not the client's: 5.0 has a reason for it
// (3.4.2.1), 3.1.1 closes (3.3.5-2), and with quality of service 0 it is dropped.
func (c *mqttConn) refuse(p *packet.Packet) (wait time.Duration) {
	c.door.stats.PublishesRefused.Add(1)
	c.note(refusedTopic, "not_authorized", p.Topic)
	if c.t.Version() == packet.V311 && p.QoS > 0 {
		c.t.End(packet.NotAuthorized, "the topic is none that this client may publish to")
		return 0
	}
	return c.obey(c.broker.Refuse(p, packet.NotAuthorized, "this client may not publish to the topic"))
}

// note tells the log of something that was refused, seldom enough.
func (c *mqttConn) note(kind refusalKind, reason string, topic []byte) {
	c.door.said.note(refusal{kind, c.name(), c.address()}, reason, clipped(topic), time.Now())
}

// name is whose connection it is, for the log.
func (c *mqttConn) name() string {
	switch {
	case c.device != nil:
		return c.device.Name
	case c.guest != nil && c.guest.name != "":
		return c.guest.name
	default:
		return "anonymous"
	}
}

// clipped is a text of a client for the log: not too long.
func clipped(b []byte) string { return string(b[:min(len(b), 128)]) }

// tell publishes what was wrong with a message to the device that sent it, if it listens.
func (c *mqttConn) tell() {
	body := c.extra.refusal
	c.extra.refusal = nil
	if c.device == nil {
		return
	}
	topic := nativePrefix + c.device.Name + "/" + topicError
	if _, ok := c.broker.Granted(topic); ok {
		_ = c.broker.Command(topic, body, 0) // who does not get it was not told, as with any message of QoS 0
	}
}

// listen finds out whether the device has subscribed to its commands, and tells the command
// road when it begins to.
func (c *mqttConn) listen() {
	if c.device == nil || c.broker == nil {
		return
	}
	_, ok := c.broker.Granted(nativePrefix + c.device.Name + "/" + topicCommand)
	if mapped := !ok && c.hearsMapped(); mapped {
		c.set(mqttByMapping)
		ok = true
	} else {
		c.clear(mqttByMapping)
	}
	if !ok && c.hearsDialect() {
		c.set(mqttByDialect)
		ok = true
	} else {
		c.clear(mqttByDialect)
	}
	switch {
	case !ok:
		c.clear(mqttListening)
	case !c.is(mqttListening):
		c.set(mqttListening)
		c.door.g.Commands.Online(&c.session)
	}
}

// Listening implements session.Listener.
func (c *mqttConn) Listening() bool { return c.is(mqttListening) }

// Deliver implements session.Conn. An acknowledgement of the packet is none of the command.
func (c *mqttConn) Deliver(cmd *signalbox.Command) error {
	err := session.ErrNotListening
	if c.is(mqttListening) {
		err = c.deliver(cmd)
	}
	if errors.Is(err, broker.ErrBusy) {
		c.set(mqttBusy)
		return session.ErrBusy // CommandRoom follows
	}
	if err != nil {
		c.door.g.stats.CommandsUnwritten.Add(1)
		return err
	}
	c.door.g.stats.CommandsWritten.Add(1)
	return nil
}

// CommandRoom implements mqtt.Roomer.
func (c *mqttConn) CommandRoom() {
	if c.is(mqttAttached) {
		c.clear(mqttBusy)
		c.door.g.Commands.Online(&c.session)
	}
}

func (c *mqttConn) deliver(cmd *signalbox.Command) error {
	if c.is(mqttByMapping) {
		return c.deliverMapped(cmd)
	}
	if c.is(mqttByDialect) {
		return c.deliverDialect(cmd)
	}
	topic := nativePrefix + c.device.Name + "/" + topicCommand
	qos, ok := c.broker.Granted(topic)
	if !ok {
		return session.ErrNotListening
	}
	body, err := appendCommand(make([]byte, 0, 128), cmd, signalbox.ProtocolMQTT)
	if err != nil {
		return err
	}
	return c.broker.Command(topic, body, min(qos, 1))
}

// End implements session.Conn.
func (c *mqttConn) End(reason string) {
	switch reason {
	case "replaced":
		c.t.End(packet.SessionTakenOver, reason)
	case "shutdown":
		c.t.End(packet.ServerShuttingDown, reason)
	default:
		c.t.End(packet.AdministrativeAction, reason)
	}
}

// Tick implements mqtt.Endpoint.
func (c *mqttConn) Tick(now time.Time) {
	if c.broker == nil {
		return
	}
	c.broker.Tick(now)
	if c.is(mqttBusy) { // should the room have come before the busy
		c.CommandRoom()
	}
	if c.guest != nil && c.guest.secret != "" {
		who, err := c.door.parts.Tokens.AuthenticateToken(c.guest.secret)
		switch {
		case err != nil:
			c.t.End(packet.AdministrativeAction, "the token has expired or was revoked")
		case who.Scope != c.guest.scope:
			c.t.End(packet.AdministrativeAction, "the token's scope was changed")
		}
	}
}

// Closed implements mqtt.Endpoint.
func (c *mqttConn) Closed(err error) {
	c.clear(mqttListening)
	switch {
	case c.device != nil:
		c.door.stats.Devices.Add(-1)
	case c.guest != nil && c.guest.scope != "":
		c.door.stats.Programs.Add(-1)
	case c.guest != nil:
		c.door.stats.Anonymous.Add(-1)
	}
	if c.is(mqttAttached) {
		c.door.g.Ingest.Disconnect(c.device, &c.session, c.reasonOf(err))
	}
	if c.broker == nil {
		return
	}
	var expiry *uint32
	if c.extra != nil {
		expiry = c.extra.expiry
	}
	// After Disconnect: what the will says of the device comes behind its going offline.
	c.broker.Closed(c.is(mqttGraceful), expiry, time.Now())
}

// reasonOf puts a transport's error into a word of signalbox.PresenceChange.
func (c *mqttConn) reasonOf(err error) string {
	var ended *mqtt.Ended
	var peer *mqtt.PeerClose
	switch {
	case errors.As(err, &peer):
		return "closed"
	case errors.Is(err, mqtt.ErrKeepAlive):
		return "keep_alive"
	case errors.Is(err, loop.ErrStopped):
		return "shutdown"
	case errors.Is(err, loop.ErrSlow):
		return "slow_reader"
	case !errors.As(err, &ended):
		return "lost"
	case ended.Violation:
		return "protocol_error"
	case ended.Reason == packet.SessionTakenOver:
		return "replaced"
	case ended.Reason == packet.ServerShuttingDown:
		return "shutdown"
	case ended.Reason == packet.AdministrativeAction && (ended.Words == "disabled" || ended.Words == "secret_changed"):
		return ended.Words // End's
	case c.door.g.Devices.Get(c.device.ID) != c.device:
		return "removed" // by End, or by the broker, which was told to forget the device
	default:
		return "protocol_error"
	}
}
