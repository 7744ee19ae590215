package mqtt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox/internal/gateway/loop"
	"signalbox/internal/gateway/mqtt"
	"signalbox/internal/wire/packet"
)

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// client is the server's side of one connection, as a test sees it: what came, in words.
type client struct {
	h    *handler
	conn *mqtt.Conn
	wait int // how often the next PUBLISH is put off
}

// handler admits every client and tells what it sends.
type handler struct {
	events    chan string
	ends      chan error
	keepAlive uint16
	putOff    int
	refuse    packet.Reason
	conns     chan *mqtt.Conn
}

func newHandler() *handler {
	return &handler{events: make(chan string, 1024), ends: make(chan error, 64), conns: make(chan *mqtt.Conn, 64)}
}

func (h *handler) Endpoint(c *mqtt.Conn) mqtt.Endpoint { return &client{h: h, conn: c, wait: h.putOff} }

func (c *client) Receive(p *packet.Packet) time.Duration {
	switch p.Type {
	case packet.CONNECT:
		if c.h.refuse != 0 {
			c.conn.End(c.h.refuse, "no")
			return 0
		}
		_ = c.conn.Write(packet.AppendConnack(nil, p.Connect.Version, false, packet.Success, nil))
		c.conn.Admit(max(p.Connect.KeepAlive, c.h.keepAlive))
		c.h.conns <- c.conn
		c.h.events <- "CONNECT " + string(p.Connect.ClientID)
	case packet.PUBLISH:
		if c.wait > 0 {
			c.wait--
			return time.Millisecond
		}
		c.h.events <- "PUBLISH " + string(p.Topic) + " " + string(p.Payload)
	case packet.PINGREQ:
		_ = c.conn.Write(packet.AppendPing(nil, packet.PINGRESP))
	default:
		c.h.events <- p.Type.String()
	}
	return 0
}

func (c *client) Tick(time.Time) {}

func (c *client) Closed(err error) { c.h.ends <- err }

// serve starts a server and gives its address.
func serve(t *testing.T, cfg mqtt.Config, h *handler) string {
	t.Helper()
	group, err := loop.New(loop.Config{Loops: 1, CloseTimeout: patience})
	must(t, err)
	var listen net.ListenConfig
	l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { _ = group.Serve(ctx, l, mqtt.NewServer(cfg, h)) })
	t.Cleanup(func() {
		stop, stopped := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer stopped()
		_ = group.Close(stop)
		cancel()
		work.Wait()
	})
	return l.Addr().String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: patience}
	conn, err := d.DialContext(t.Context(), "tcp", address)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

func (h *handler) expect(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-h.events:
		if got != want {
			t.Fatalf("have %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("%q did not come", want)
	}
}

func (h *handler) ended(t *testing.T) error {
	t.Helper()
	select {
	case err := <-h.ends:
		return err
	case <-time.After(patience):
		t.Fatal("the connection did not end")
		return nil
	}
}

func connectPacket(v packet.Version, keepAlive uint16) []byte {
	return packet.AppendConnect(nil, &packet.Connect{Version: v, Clean: true, KeepAlive: keepAlive, ClientID: []byte("x")}, nil)
}

func publishPacket(v packet.Version, topic, payload string) []byte {
	return packet.AppendPublish(nil, v, &packet.Packet{Type: packet.PUBLISH, Topic: []byte(topic), Payload: []byte(payload)})
}

func send(t *testing.T, conn net.Conn, b ...[]byte) {
	t.Helper()
	_, err := conn.Write(bytes.Join(b, nil))
	must(t, err)
}

// rest reads to the end.
func rest(t *testing.T, conn net.Conn) []byte {
	t.Helper()
	b, err := io.ReadAll(conn)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	return b
}

func TestPacketsAreCut(t *testing.T) {
	for name, step := range map[string]int{"byte by byte": 1, "in threes": 3, "all at once": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			h := newHandler()
			conn := dial(t, serve(t, mqtt.Config{}, h))
			large := strings.Repeat("x", 300)
			all := bytes.Join([][]byte{
				connectPacket(packet.V5, 0), publishPacket(packet.V5, "a", "1"), publishPacket(packet.V5, "b", large),
				packet.AppendPing(nil, packet.PINGREQ), packet.AppendDisconnect(nil, packet.V5, packet.Success, nil),
			}, nil)
			for len(all) > 0 {
				n := min(step, len(all))
				send(t, conn, all[:n])
				all = all[n:]
			}
			h.expect(t, "CONNECT x")
			h.expect(t, "PUBLISH a 1")
			h.expect(t, "PUBLISH b "+large)
			h.expect(t, "DISCONNECT")
			var peer *mqtt.PeerClose
			if err := h.ended(t); !errors.As(err, &peer) || peer.Reason != packet.Success {
				t.Errorf("it ended with %v", err)
			}
			want := append(packet.AppendConnack(nil, packet.V5, false, packet.Success, nil), packet.AppendPing(nil, packet.PINGRESP)...)
			if got := rest(t, conn); !bytes.Equal(got, want) {
				t.Errorf("the client read % x, want % x", got, want)
			}
		})
	}
}

func TestPutOffPacketComesAgain(t *testing.T) {
	h := newHandler()
	h.putOff = 5
	conn := dial(t, serve(t, mqtt.Config{}, h))
	send(t, conn, connectPacket(packet.V311, 0), publishPacket(packet.V311, "a", "1"), publishPacket(packet.V311, "a", "2"))
	h.expect(t, "CONNECT x")
	h.expect(t, "PUBLISH a 1")
	h.expect(t, "PUBLISH a 2")
}

// reason finds the reason code in a DISCONNECT behind the CONNACK of 5.0.
func reason(t *testing.T, b []byte) packet.Reason {
	t.Helper()
	var p packet.Packet
	for len(b) > 0 {
		total, ok, err := packet.Size(b)
		if err != nil || !ok || total > len(b) {
			t.Fatalf("the server sent % x: %v", b, err)
		}
		must(t, p.Decode(b[:total], packet.V5))
		b = b[total:]
	}
	if p.Type != packet.DISCONNECT {
		t.Fatalf("the last packet is a %s", p.Type)
	}
	return p.Reason
}

func TestWrongPacketsEndTheConnection(t *testing.T) {
	subscribe := packet.AppendSubscribe(nil, packet.V5, 1, []packet.Filter{{Text: []byte("a")}}, nil)
	subscribe[0] &= 0xF0 // its reserved flags
	for name, c := range map[string]struct {
		b    []byte
		want packet.Reason
	}{
		"second CONNECT":       {connectPacket(packet.V5, 0), packet.ProtocolError},
		"CONNACK of a client":  {packet.AppendConnack(nil, packet.V5, false, packet.Success, nil), packet.ProtocolError},
		"PINGRESP of a client": {packet.AppendPing(nil, packet.PINGRESP), packet.ProtocolError},
		"AUTH without method":  {packet.AppendAuth(nil, packet.ReAuthenticate, nil), packet.ProtocolError},
		"reserved flags":       {subscribe, packet.MalformedPacket},
		"type 0":               {[]byte{0, 0}, packet.MalformedPacket},
		"QoS 3":                {[]byte{0x36, 0}, packet.MalformedPacket},
		"length of five bytes": {[]byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}, packet.MalformedPacket},
		"too large":            {[]byte{0x30, 0xFF, 0xFF, 0x7F}, packet.PacketTooLarge},
		"empty topic":          {[]byte{0x30, 3, 0, 0, 0}, packet.ProtocolError},
		"wildcard in a topic":  {publishPacket(packet.V5, "a/#", ""), packet.TopicNameInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHandler()
			conn := dial(t, serve(t, mqtt.Config{}, h))
			send(t, conn, connectPacket(packet.V5, 0), c.b)
			if got := reason(t, rest(t, conn)); got != c.want {
				t.Errorf("the client was told 0x%02X, want 0x%02X", byte(got), byte(c.want))
			}
			var ended *mqtt.Ended
			if err := h.ended(t); !errors.As(err, &ended) || !ended.Violation {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

// In 3.1.1 nothing is said.
func TestWrongPacketOf311(t *testing.T) {
	h := newHandler()
	conn := dial(t, serve(t, mqtt.Config{}, h))
	send(t, conn, connectPacket(packet.V311, 0), []byte{0x30, 2, 0, 0})
	if got, want := rest(t, conn), packet.AppendConnack(nil, packet.V311, false, packet.Success, nil); !bytes.Equal(got, want) {
		t.Errorf("the client read % x, want % x", got, want)
	}
}

func TestBeforeConnect(t *testing.T) {
	old := []byte("\x10\x10\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x02id")
	next := append([]byte{}, connectPacket(packet.V5, 0)...)
	next[8] = 6
	zero := append([]byte{}, connectPacket(packet.V311, 0)...)
	zero[8] = 0
	level := func(n byte) []byte {
		b := bytes.Clone(connectPacket(packet.V311, 0))
		b[8] = n
		return b
	}
	oldBridge := bytes.Clone(old)
	oldBridge[10] = 0x83
	for name, c := range map[string]struct{ b, want []byte }{
		"PUBLISH first":         {publishPacket(packet.V311, "a", ""), nil},
		"HTTP":                  {[]byte("GET / HTTP/1.1\r\n\r\n"), nil},
		"TLS":                   {[]byte{0x16, 3, 1, 2, 0}, nil},
		"large CONNECT":         {[]byte{0x10, 0xFF, 0xFF, 0x03, 0}, nil},
		"MQTT 3.1":              {old, packet.AppendConnack(nil, packet.V311, false, packet.RefusedVersion, nil)},
		"a version to come":     {next, packet.AppendConnack(nil, packet.V5, false, packet.UnsupportedVersion, nil)},
		"level 0":               {zero, packet.AppendConnack(nil, packet.V311, false, packet.RefusedVersion, nil)},
		"a bridge, 3.1.1":       {level(0x84), []byte{0x20, 2, 0, 1}},
		"a bridge, level 3":     {level(0x83), []byte{0x20, 2, 0, 1}},
		"a bridge, 3.1":         {oldBridge, []byte{0x20, 2, 0, 1}},
		"level 0x85":            {level(0x85), []byte{0x20, 3, 0, 0x84, 0}},
		"level 0x82":            {level(0x82), []byte{0x20, 3, 0, 0x84, 0}},
		"another protocol name": {[]byte("\x10\x0f\x00\x04MQXX\x04\x02\x00\x3c\x00\x03idx"), nil},
		"no clean session, no id": {
			packet.AppendConnect(nil, &packet.Connect{Version: packet.V311}, nil),
			packet.AppendConnack(nil, packet.V311, false, packet.RefusedClientID, nil),
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, serve(t, mqtt.Config{}, newHandler()))
			send(t, conn, c.b)
			if got := rest(t, conn); !bytes.Equal(got, c.want) {
				t.Errorf("the client read % x, want % x", got, c.want)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	words := func() *packet.Properties {
		p := packet.Properties{ReasonString: []byte("no")}
		p.Set(packet.ReasonString)
		return &p
	}
	for name, c := range map[string]struct {
		v      packet.Version
		reason packet.Reason
		want   []byte
	}{
		"3.1.1 bad user":       {packet.V311, packet.BadUserOrPassword, packet.AppendConnack(nil, packet.V311, false, packet.RefusedBadUser, nil)},
		"3.1.1 not authorized": {packet.V311, packet.NotAuthorized, packet.AppendConnack(nil, packet.V311, false, packet.RefusedNotAuthorized, nil)},
		"3.1.1 busy":           {packet.V311, packet.ServerBusy, packet.AppendConnack(nil, packet.V311, false, packet.RefusedUnavailable, nil)},
		"3.1.1 without a code": {packet.V311, packet.ProtocolError, nil},
		"5.0 bad user":         {packet.V5, packet.BadUserOrPassword, packet.AppendConnack(nil, packet.V5, false, packet.BadUserOrPassword, words())},
		"5.0 stopping":         {packet.V5, packet.ServerShuttingDown, packet.AppendConnack(nil, packet.V5, false, packet.ServerUnavailable, words())},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHandler()
			h.refuse = c.reason
			conn := dial(t, serve(t, mqtt.Config{}, h))
			send(t, conn, connectPacket(c.v, 0))
			if got := rest(t, conn); !bytes.Equal(got, c.want) {
				t.Errorf("the client read % x, want % x", got, c.want)
			}
		})
	}
}

func TestServerEnds(t *testing.T) {
	h := newHandler()
	conn := dial(t, serve(t, mqtt.Config{}, h))
	send(t, conn, connectPacket(packet.V5, 0))
	(<-h.conns).End(packet.SessionTakenOver, "replaced")
	if got := reason(t, rest(t, conn)); got != packet.SessionTakenOver {
		t.Errorf("the client was told 0x%02X", byte(got))
	}
	var ended *mqtt.Ended
	if err := h.ended(t); !errors.As(err, &ended) || ended.Violation || ended.Words != "replaced" {
		t.Errorf("it ended with %v", err)
	}
}

// A board that never sends PINGREQ lives by what it publishes, and is gone after one and a
// half times its keep alive.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	h := newHandler()
	conn := dial(t, serve(t, mqtt.Config{}, h))
	const keepAlive = 3 // seconds
	began := time.Now()
	send(t, conn, connectPacket(packet.V5, keepAlive))
	h.expect(t, "CONNECT x")
	tick := time.NewTicker(1300 * time.Millisecond)
	defer tick.Stop()
	var last time.Time
	for range 4 { // for longer than the server waits
		<-tick.C
		last = time.Now()
		send(t, conn, publishPacket(packet.V5, "a", ""))
		h.expect(t, "PUBLISH a ")
	}
	if got := reason(t, rest(t, conn)); got != packet.KeepAliveTimeout {
		t.Errorf("the client was told 0x%02X", byte(got))
	}
	if err := h.ended(t); !errors.Is(err, mqtt.ErrKeepAlive) {
		t.Errorf("it ended with %v", err)
	}
	if silent := time.Since(last); silent < keepAlive*3*time.Second/2 || silent > keepAlive*3*time.Second/2+patience/2 {
		t.Errorf("it ended after a silence of %v, %v in all", silent, time.Since(began))
	}
}

func TestConnectTimeout(t *testing.T) {
	conn := dial(t, serve(t, mqtt.Config{ConnectTimeout: 10 * time.Millisecond}, newHandler()))
	send(t, conn, connectPacket(packet.V5, 0)[:5])
	if got := rest(t, conn); len(got) != 0 {
		t.Errorf("the client read % x", got)
	}
}

// door counts who comes in and goes.
type door struct {
	mu         sync.Mutex
	open, seen int
	left       chan struct{}
}

func (d *door) Enter(netip.AddrPort) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open > 0 {
		return errors.New("full")
	}
	d.open++
	d.seen++
	return nil
}

func (d *door) Leave(netip.AddrPort) {
	d.mu.Lock()
	d.open--
	d.mu.Unlock()
	d.left <- struct{}{}
}

func TestGate(t *testing.T) {
	gate := &door{left: make(chan struct{}, 1)}
	h := newHandler()
	address := serve(t, mqtt.Config{Gate: gate}, h)
	first := dial(t, address)
	send(t, first, connectPacket(packet.V311, 0))
	h.expect(t, "CONNECT x")
	if got := rest(t, dial(t, address)); len(got) != 0 {
		t.Errorf("the second client read % x", got)
	}
	_, err := io.ReadFull(first, make([]byte, 4)) // its CONNACK: bytes that nobody reads would make it a reset
	must(t, err)
	must(t, first.Close())
	if err := h.ended(t); !errors.Is(err, io.EOF) {
		t.Errorf("the first ended with %v", err)
	}
	<-gate.left
	gate.mu.Lock()
	defer gate.mu.Unlock()
	if gate.open != 0 || gate.seen != 1 {
		t.Errorf("%d are open, %d were let in", gate.open, gate.seen)
	}
}
