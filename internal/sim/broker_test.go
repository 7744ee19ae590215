package sim

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox/internal/wire/packet"
)

// fakeBroker is just enough of an MQTT server to talk to: it knows one secret, acknowledges what comes when it is not
// mute, forwards to whoever has subscribed, and closes on what is no MQTT.
type fakeBroker struct {
	t      *testing.T
	ln     net.Listener
	events chan mqttEvent // what happened, in order; read by next

	mu    sync.Mutex
	mute  bool // send no PUBACK
	conns map[string]*fakeClient
	done  sync.WaitGroup
}

// fakeClient is one connection of a fakeBroker.
type fakeClient struct {
	mu     sync.Mutex
	nc     net.Conn
	v      packet.Version
	wants  []string // filters
	nextID uint16
}

// mqttEvent is one packet of a client's.
type mqttEvent struct {
	kind    packet.Type // 0: something that is no packet
	client  string
	user    string
	clean   bool
	alive   uint16
	will    string // topic and payload
	topic   string // of SUBSCRIBE the filter
	payload string
	qos     uint8
	retain  bool
	id      uint16
}

func newFakeBroker(t *testing.T) *fakeBroker {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &fakeBroker{t: t, ln: ln, events: make(chan mqttEvent, 100_000), conns: map[string]*fakeClient{}}
	b.done.Go(b.accept)
	t.Cleanup(func() {
		ln.Close()
		b.mu.Lock()
		for _, c := range b.conns {
			c.nc.Close()
		}
		b.mu.Unlock()
		b.done.Wait()
	})
	return b
}

func (b *fakeBroker) addr() string { return b.ln.Addr().String() }

func (b *fakeBroker) accept() {
	for {
		nc, err := b.ln.Accept()
		if err != nil {
			return
		}
		b.done.Go(func() {
			defer nc.Close()
			b.serve(nc)
		})
	}
}

func (b *fakeBroker) serve(nc net.Conn) {
	c := &fakeClient{nc: nc, v: packet.V311}
	link := &mqttConn{nc: nc, br: bufio.NewReader(nc), v: packet.V311}
	var p packet.Packet
	id := ""
	for {
		if err := nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return
		}
		if err := link.readPacket(&p); err != nil {
			var wrong *packet.Error
			if errors.As(err, &wrong) || !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrUnexpectedEOF) {
				b.events <- mqttEvent{client: id}
			}
			return
		}
		if (p.Type == packet.CONNECT) != (id == "") {
			b.events <- mqttEvent{client: id}
			return
		}
		if p.Type == packet.CONNECT {
			id = string(p.Connect.ClientID)
			link.v, c.v = p.Connect.Version, p.Connect.Version
		}
		if !b.handle(c, id, &p) {
			return
		}
	}
}

// handle answers a packet; false ends the connection.
func (b *fakeBroker) handle(c *fakeClient, id string, p *packet.Packet) bool {
	e := mqttEvent{kind: p.Type, client: id, topic: string(p.Topic), payload: string(p.Payload), qos: p.QoS, retain: p.Retain, id: p.ID}
	b.mu.Lock()
	mute := b.mute
	b.mu.Unlock()
	var answer []byte
	good := true
	switch p.Type {
	case packet.CONNECT:
		m := &p.Connect
		e.user, e.clean, e.alive = string(m.User), m.Clean, m.KeepAlive
		if m.HasWill {
			e.will = string(m.WillTopic) + " " + string(m.WillPayload)
		}
		if good = !m.HasUser || string(m.Password) == "good"; good {
			b.mu.Lock()
			b.conns[id] = c
			b.mu.Unlock()
			answer = packet.AppendConnack(nil, c.v, false, packet.Success, nil)
		} else {
			answer = packet.AppendConnack(nil, c.v, false, packet.RefusedNotAuthorized, nil)
		}
	case packet.SUBSCRIBE:
		e.topic = string(p.Filters[0].Text)
		c.mu.Lock()
		c.wants = append(c.wants, e.topic)
		c.mu.Unlock()
		answer = packet.AppendSuback(nil, c.v, p.ID, []byte{p.Filters[0].QoS}, nil)
	case packet.PUBLISH:
		if p.QoS == 1 && !mute {
			answer = packet.AppendAck(nil, c.v, packet.PUBACK, p.ID, packet.Success, nil)
		}
		b.forward(p)
	case packet.PINGREQ:
		answer = packet.AppendPing(nil, packet.PINGRESP)
	case packet.DISCONNECT:
		good = false
	default:
	}
	b.events <- e
	c.write(answer)
	return good
}

func (c *fakeClient) write(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) > 0 {
		c.nc.Write(p) // a client that is gone hears nothing
	}
}

// forward gives a message to whoever wants it.
func (b *fakeBroker) forward(p *packet.Packet) {
	b.mu.Lock()
	clients := make([]*fakeClient, 0, len(b.conns))
	for _, c := range b.conns {
		clients = append(clients, c)
	}
	b.mu.Unlock()
	for _, c := range clients {
		c.mu.Lock()
		wanted := false
		for _, f := range c.wants {
			wanted = wanted || packet.Match(f, p.Topic)
		}
		c.nextID = c.nextID%60_000 + 1
		m := packet.Packet{Type: packet.PUBLISH, QoS: p.QoS, ID: c.nextID, Topic: p.Topic, Payload: p.Payload}
		c.mu.Unlock()
		if wanted {
			c.write(packet.AppendPublish(nil, c.v, &m))
		}
	}
}

// tell publishes a command to a device with QoS 1.
func (b *fakeBroker) tell(device, text string) {
	b.t.Helper()
	b.forward(&packet.Packet{QoS: 1, Topic: []byte("signalbox/" + device + "/command"), Payload: []byte(text)})
}

// cut ends a client's connection without a word.
func (b *fakeBroker) cut(client string) {
	b.mu.Lock()
	c := b.conns[client]
	b.mu.Unlock()
	c.nc.Close()
}

func (b *fakeBroker) setMute(mute bool) {
	b.mu.Lock()
	b.mute = mute
	b.mu.Unlock()
}

// next waits for the next event for which want is true.
func (b *fakeBroker) next(want func(mqttEvent) bool) mqttEvent {
	b.t.Helper()
	late := time.After(patience)
	for {
		select {
		case e := <-b.events:
			if want(e) {
				return e
			}
		case <-late:
			b.t.Fatal("what was waited for did not happen")
		}
	}
}

func isPacket(kind packet.Type) func(mqttEvent) bool {
	return func(e mqttEvent) bool { return e.kind == kind }
}

// isOn waits for a message to a topic that ends so.
func isOn(suffix string) func(mqttEvent) bool {
	return func(e mqttEvent) bool { return e.kind == packet.PUBLISH && strings.HasSuffix(e.topic, suffix) }
}
