package conformance_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"signalbox/internal/wire/packet"
)

// patience bounds each wait; what it waits for takes milliseconds as a rule.
const patience = 30 * time.Second

// client is one connection to the broker, with no mind of its own: it sends what a check
// says, and reads packet by packet. What it reads it checks for what holds of all packets of
// a server.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	v    packet.Version
	// id is its client identifier, connack the broker's answer, raw the packet read last.
	id      string
	connack *packet.Packet
	raw     []byte
	// most is the Maximum Packet Size it asked for, 0 for none.
	most int
	// next is its last packet identifier.
	next uint16
	// left says that it has sent DISCONNECT.
	left bool
	// stash has messages that came while something else was awaited.
	stash []*packet.Packet
}

var lastName atomic.Uint64

// unique gives a name that no other check uses: a client identifier, or the root of topics.
func unique() string { return "c" + strconv.FormatUint(lastName.Add(1), 36) }

// dial opens a connection and sends nothing.
func dial(t testing.TB, v packet.Version) *client {
	t.Helper()
	d := net.Dialer{Timeout: patience}
	conn, err := d.DialContext(t.Context(), "tcp", theHub(t).tcp)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, v, conn)
}

func newClient(t testing.TB, v packet.Version, conn net.Conn) *client {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() })
	return &client{t: t, conn: conn, r: bufio.NewReaderSize(conn, 64<<10), v: v}
}

// login connects with a token, a clean session and an identifier of its own, unless options
// say otherwise, and expects success.
func login(t testing.TB, v packet.Version, options ...option) *client {
	t.Helper()
	return loginOn(dial(t, v), options...)
}

func loginOn(c *client, options ...option) *client {
	c.t.Helper()
	if ack := c.hello(options...); ack.Reason != packet.Success {
		c.t.Fatalf("CONNECT was answered with reason %v", ack.Reason)
	}
	return c
}

// hello sends the CONNECT and gives the CONNACK, whatever it says.
func (c *client) hello(options ...option) *packet.Packet {
	c.t.Helper()
	c.send(c.connect(options...))
	c.connack = c.read()
	if c.connack.Type != packet.CONNACK {
		c.t.Fatalf("the first packet of the server is of type %d (% x), want CONNACK", c.connack.Type, c.raw)
	}
	if id := c.connack.Properties.AssignedClientID; len(id) > 0 {
		c.id = string(id)
	}
	return c.connack
}

// connect encodes the CONNECT of login.
func (c *client) connect(options ...option) []byte {
	hub := theHub(c.t)
	connect := packet.Connect{
		Version: c.v, Clean: true, ClientID: []byte(unique()),
		HasUser: true, User: []byte(hub.user), HasPassword: true, Password: []byte(hub.password),
	}
	var p packet.Properties
	for _, change := range options {
		change(&connect, &p)
	}
	c.id = string(connect.ClientID)
	if c.v == packet.V5 && p.Has(packet.MaximumPacketSize) {
		c.most = int(p.MaximumPacketSize)
	}
	return packet.AppendConnect(nil, &connect, &p)
}

func (c *client) send(parts ...[]byte) {
	c.t.Helper()
	if err := c.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.conn.Write(bytes.Join(parts, nil)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// try reads the next packet, or the error with which the connection ended.
func (c *client) try(within time.Duration) (*packet.Packet, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return nil, err
	}
	first, err := c.r.ReadByte()
	if err != nil {
		return nil, err
	}
	c.raw = []byte{first}
	length := 0
	for i := 0; ; i++ {
		b, err := c.r.ReadByte()
		if err != nil {
			return nil, fmt.Errorf("in a fixed header: %w", err)
		}
		c.raw = append(c.raw, b)
		length |= int(b&0x7F) << (7 * i)
		if b < 0x80 {
			if b == 0 && i > 0 {
				return nil, errLong
			}
			break
		}
		if i == 3 {
			return nil, errLong
		}
	}
	head := len(c.raw)
	c.raw = append(c.raw, make([]byte, length)...)
	if _, err := io.ReadFull(c.r, c.raw[head:]); err != nil {
		return nil, fmt.Errorf("in a packet: %w", err)
	}
	p := &packet.Packet{}
	if err := p.Decode(c.raw, c.v); err != nil {
		return nil, fmt.Errorf("% x: %w", c.raw, err)
	}
	return p, c.lawful(p)
}

var errLong = errors.New("the server wrote a Remaining Length that is too long or not as short as it could be")

// lawful checks what holds of every packet that a server sends.
func (c *client) lawful(p *packet.Packet) error {
	switch {
	case c.most > 0 && len(c.raw) > c.most:
		return fmt.Errorf("the server sent a packet of %d bytes, the client's maximum is %d", len(c.raw), c.most)
	case p.Type == packet.PUBLISH && p.QoS == 0 && p.Dup:
		return errors.New("the server sent QoS 0 with DUP")
	case p.Type == packet.PUBLISH && p.QoS > 0 && p.ID == 0:
		return errors.New("the server sent QoS 1 or 2 with packet identifier 0")
	case p.Type == packet.PUBLISH && bytes.ContainsAny(p.Topic, "+#"):
		return fmt.Errorf("the server sent a topic name with a wildcard: %q", p.Topic)
	case p.Type == packet.DISCONNECT && c.v == packet.V311:
		return errors.New("the server sent DISCONNECT to a 3.1.1 client")
	case p.Type == packet.DISCONNECT && p.Properties.Has(packet.SessionExpiry):
		return errors.New("the server sent a Session Expiry Interval with DISCONNECT")
	case p.Type == packet.AUTH:
		return errors.New("the server sent AUTH to a client without an authentication method")
	case !slices.Contains(reasonsOf(p.Type, c.v), p.Reason):
		return fmt.Errorf("reason %v does not belong to packets of type %d", p.Reason, p.Type)
	}
	return nil
}

// reasonsOf are the reason codes that a server may use (the tables of 3.2, 3.4 to 3.7 and
// 3.14; return codes of 3.1.1).
func reasonsOf(t packet.Type, v packet.Version) []packet.Reason {
	if v == packet.V311 {
		if t == packet.CONNACK {
			return []packet.Reason{0, 1, 2, 3, 4, 5}
		}
		return []packet.Reason{0}
	}
	switch t {
	case packet.CONNACK:
		return []packet.Reason{0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F}
	case packet.PUBACK, packet.PUBREC:
		return []packet.Reason{0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}
	case packet.PUBREL, packet.PUBCOMP:
		return []packet.Reason{0, 0x92}
	case packet.DISCONNECT:
		return []packet.Reason{
			0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98,
			0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
		}
	default:
		return []packet.Reason{0}
	}
}

// read gives the next packet from the wire.
func (c *client) read() *packet.Packet {
	c.t.Helper()
	p, err := c.try(patience)
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return p
}

// want reads on to the next packet of a type; only messages may come before it, and are kept.
func (c *client) want(typ packet.Type) *packet.Packet {
	c.t.Helper()
	if typ == packet.PUBLISH && len(c.stash) > 0 {
		p := c.stash[0]
		c.stash = c.stash[1:]
		return p
	}
	for {
		p := c.read()
		switch p.Type {
		case typ:
			return p
		case packet.PUBLISH:
			c.stash = append(c.stash, p)
		default:
			c.t.Fatalf("the server sent a packet of type %d, reason %v (% x), want type %d", p.Type, p.Reason, c.raw, typ)
		}
	}
}

// acked is want with a packet identifier and success.
func (c *client) acked(typ packet.Type, id uint16) *packet.Packet {
	c.t.Helper()
	p := c.want(typ)
	if p.ID != id || p.Reason >= 0x80 {
		c.t.Fatalf("packet of type %d has identifier %d and reason %v, want identifier %d and success", typ, p.ID, p.Reason, id)
	}
	return p
}

// message reads the next message, which must be this one, and does not acknowledge it.
func (c *client) message(topic, payload string, qos uint8) *packet.Packet {
	c.t.Helper()
	p := c.want(packet.PUBLISH)
	if string(p.Topic) != topic || string(p.Payload) != payload || p.QoS != qos {
		c.t.Fatalf("got message %.80q on %.80q with QoS %d, RETAIN %t, DUP %t, identifier %d, want %.80q on %.80q with QoS %d", p.Payload, p.Topic, p.QoS, p.Retain, p.Dup, p.ID, payload, topic, qos)
	}
	return p
}

// take is message, acknowledged to its end.
func (c *client) take(topic, payload string, qos uint8) *packet.Packet {
	c.t.Helper()
	p := c.message(topic, payload, qos)
	c.settle(p)
	return p
}

// settle acknowledges a message to its end.
func (c *client) settle(p *packet.Packet) {
	c.t.Helper()
	switch p.QoS {
	case 1:
		c.ack(packet.PUBACK, p.ID)
	case 2:
		c.ack(packet.PUBREC, p.ID)
		c.acked(packet.PUBREL, p.ID)
		c.ack(packet.PUBCOMP, p.ID)
	}
}

func (c *client) ack(typ packet.Type, id uint16) {
	c.t.Helper()
	c.send(packet.AppendAck(nil, c.v, typ, id, packet.Success, nil))
}

// ended expects that the server closes the connection: a 5.0 one after a DISCONNECT with one
// of the reasons, any failure if there are none. Messages may come before.
func (c *client) ended(reasons ...packet.Reason) {
	c.t.Helper()
	for told := false; ; {
		p, err := c.try(patience)
		var wait net.Error
		switch {
		case errors.As(err, &wait) && wait.Timeout():
			c.t.Fatal("the server left the connection open")
		case p == nil:
			if !told && c.v == packet.V5 {
				c.t.Fatalf("the server closed the connection without a DISCONNECT: %v", err)
			}
			return
		case err != nil:
			c.t.Fatal(err)
		case told:
			c.t.Fatalf("the server sent a packet of type %d after its DISCONNECT", p.Type)
		case p.Type == packet.DISCONNECT:
			told = true
			if p.Reason < 0x80 || len(reasons) > 0 && !slices.Contains(reasons, p.Reason) {
				c.t.Fatalf("the server disconnected with reason %v, want one of %v", p.Reason, reasons)
			}
		case p.Type != packet.PUBLISH:
			c.t.Fatalf("the server sent a packet of type %d, want the end", p.Type)
		}
	}
}

// closed expects that the server closes the connection without another packet.
func (c *client) closed() {
	c.t.Helper()
	p, err := c.try(patience)
	var wait net.Error
	switch {
	case p != nil:
		c.t.Fatalf("the server sent a packet of type %d, reason %v, want the end", p.Type, p.Reason)
	case errors.As(err, &wait) && wait.Timeout():
		c.t.Fatal("the server left the connection open")
	}
}

// refused sends a CONNECT that is wrong in itself. A 3.1.1 one is not answered (3.1.4-1), a
// 5.0 one may be, with one of the reasons; both connections are closed.
func (c *client) refused(connect []byte, reasons ...packet.Reason) {
	c.t.Helper()
	c.send(connect)
	p, err := c.try(patience)
	var wait net.Error
	switch {
	case errors.As(err, &wait) && wait.Timeout():
		c.t.Fatalf("the server neither answered nor closed: % x", connect)
	case p == nil:
		return
	case err != nil:
		c.t.Fatal(err)
	case c.v == packet.V311 || p.Type != packet.CONNACK || p.SessionPresent || !slices.Contains(reasons, p.Reason):
		c.t.Fatalf("% x was answered with a packet of type %d, reason %v", connect, p.Type, p.Reason)
	}
	c.closed()
}

// leave disconnects in order and waits until the server has closed.
func (c *client) leave() {
	c.t.Helper()
	c.leaveWith(packet.Success, nil)
}

func (c *client) leaveWith(r packet.Reason, p *packet.Properties) {
	c.t.Helper()
	c.send(packet.AppendDisconnect(nil, c.v, r, p))
	c.left = true
	for {
		p, err := c.try(patience)
		var wait net.Error
		switch {
		case errors.As(err, &wait) && wait.Timeout():
			c.t.Fatal("the server did not close after DISCONNECT")
		case p == nil:
			return
		case p.Type != packet.PUBLISH && p.Type != packet.PUBREL:
			c.t.Fatalf("the server sent a packet of type %d after DISCONNECT", p.Type)
		}
	}
}

// drop cuts the connection without a word.
func (c *client) drop() {
	c.t.Helper()
	if err := c.conn.Close(); err != nil {
		c.t.Fatal(err)
	}
}

// id16 gives the next packet identifier.
func (c *client) id16() uint16 {
	if c.next++; c.next == 0 {
		c.next = 1
	}
	return c.next
}

// publish sends a message and completes its flow.
func (c *client) publish(topic, payload string, qos uint8, changes ...func(*packet.Packet)) {
	c.t.Helper()
	p := message(topic, payload, qos, changes...)
	if qos > 0 {
		p.ID = c.id16()
	}
	c.send(packet.AppendPublish(nil, c.v, p))
	switch qos {
	case 1:
		c.acked(packet.PUBACK, p.ID)
	case 2:
		c.acked(packet.PUBREC, p.ID)
		c.ack(packet.PUBREL, p.ID)
		c.acked(packet.PUBCOMP, p.ID)
	}
}

func message(topic, payload string, qos uint8, changes ...func(*packet.Packet)) *packet.Packet {
	p := &packet.Packet{Type: packet.PUBLISH, Topic: []byte(topic), Payload: []byte(payload), QoS: qos}
	for _, change := range changes {
		change(p)
	}
	return p
}

func retained(p *packet.Packet) { p.Retain = true }

// subscribe subscribes to one filter and expects it to be granted.
func (c *client) subscribe(filter string, qos uint8, changes ...func(*packet.Filter, *packet.Properties)) {
	c.t.Helper()
	f, p := packet.Filter{Text: []byte(filter), QoS: qos}, packet.Properties{}
	for _, change := range changes {
		change(&f, &p)
	}
	if got := c.subscribeAll([]packet.Filter{f}, &p); got[0] != qos {
		c.t.Fatalf("the subscription to %.80q was answered with %#02x, want QoS %d", filter, got[0], qos)
	}
}

// subscribeAll gives the reason codes of the SUBACK.
func (c *client) subscribeAll(filters []packet.Filter, p *packet.Properties) []byte {
	c.t.Helper()
	id := c.id16()
	c.send(packet.AppendSubscribe(nil, c.v, id, filters, p))
	ack := c.acked(packet.SUBACK, id)
	if len(ack.Reasons) != len(filters) {
		c.t.Fatalf("SUBACK has %d reason codes for %d filters", len(ack.Reasons), len(filters))
	}
	return ack.Reasons
}

func subscriptionID(n uint32) func(*packet.Filter, *packet.Properties) {
	return func(_ *packet.Filter, p *packet.Properties) {
		p.Set(packet.SubscriptionID)
		p.SubscriptionID = n
	}
}

func (c *client) unsubscribe(filters ...string) []byte {
	c.t.Helper()
	list := make([]packet.Filter, len(filters))
	for i, f := range filters {
		list[i].Text = []byte(f)
	}
	id := c.id16()
	c.send(packet.AppendUnsubscribe(nil, c.v, id, list, nil))
	return c.acked(packet.UNSUBACK, id).Reasons
}

// ping is a round trip: what the server has handled before is done.
func (c *client) ping() {
	c.t.Helper()
	c.send(packet.AppendPing(nil, packet.PINGREQ))
	c.want(packet.PINGRESP)
}

// nothing says that no message waits for c: one that from publishes now, with this quality
// of service, is the next that it gets.
func (c *client) nothing(from *client, qos uint8) {
	c.t.Helper()
	topic := unique() + "/end"
	c.subscribe(topic, qos)
	from.publish(topic, "end", qos)
	c.take(topic, "end", qos)
}

// frame builds a packet from its first byte and its body, whatever it is.
func frame(first byte, body ...[]byte) []byte {
	all := bytes.Join(body, nil)
	return slices.Concat([]byte{first}, varint(len(all)), all)
}

func varint(n int) []byte {
	var b []byte
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func str(s string) []byte { return append(num(uint16(len(s))), s...) }

func num(n uint16) []byte { return []byte{byte(n >> 8), byte(n)} }

// none is the empty list of properties, where the version has one.
func (c *client) none() []byte {
	if c.v == packet.V5 {
		return []byte{0}
	}
	return nil
}

// user encodes user properties as they stand on the wire.
func user(pairs ...string) []byte {
	var b []byte
	for i := 0; i+1 < len(pairs); i += 2 {
		b = slices.Concat(b, []byte{byte(packet.UserProperty)}, str(pairs[i]), str(pairs[i+1]))
	}
	return b
}
