package conformance_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox/internal/wire/packet"
)

// alive says that the hub serves others as if nothing were.
func alive(t testing.TB) {
	t.Helper()
	topic := unique()
	begin := time.Now()
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		c := login(t, v)
		c.subscribe(topic, 2)
		for qos := range uint8(3) {
			c.publish(topic, "alive", qos)
			c.take(topic, "alive", qos)
		}
		c.leave()
	}
	if d := time.Since(begin); d > patience {
		t.Errorf("two clients needed %v", d)
	}
}

// conversation is a session that is right, packet by packet.
func conversation(v packet.Version, topic string) [][]byte {
	c := client{v: v}
	var p packet.Properties
	fill(&p)
	one, two := message(topic, "one", 1), message(topic, "two", 2)
	one.ID, two.ID = 1, 2
	one.Properties = p
	var id packet.Properties
	id.Set(packet.SubscriptionID)
	id.SubscriptionID = 300
	return [][]byte{
		packet.AppendSubscribe(nil, v, 9, []packet.Filter{{Text: []byte(topic + "/#"), QoS: 2}, {Text: []byte("$share/g/+/a"), QoS: 1}}, &id),
		packet.AppendPublish(nil, v, message(topic, "zero", 0)), packet.AppendPublish(nil, v, one), packet.AppendPublish(nil, v, two),
		packet.AppendAck(nil, v, packet.PUBREL, 2, packet.Success, nil),
		packet.AppendAck(nil, c.v, packet.PUBACK, 1, packet.Success, nil), packet.AppendAck(nil, v, packet.PUBREC, 2, packet.Success, nil),
		packet.AppendUnsubscribe(nil, v, 10, []packet.Filter{{Text: []byte(topic)}}, nil),
		packet.AppendPing(nil, packet.PINGREQ), packet.AppendDisconnect(nil, v, packet.Success, nil),
	}
}

// mutate changes a few bytes, cuts, doubles or swaps packets.
func mutate(r *rand.Rand, packets [][]byte) []byte {
	switch r.IntN(4) {
	case 0:
		i, j := r.IntN(len(packets)), r.IntN(len(packets))
		packets[i], packets[j] = packets[j], packets[i]
	case 1:
		packets = append(packets, packets[r.IntN(len(packets))])
	}
	b := bytes.Join(packets, nil)
	for range 1 + r.IntN(4) {
		if len(b) == 0 {
			break
		}
		at := r.IntN(len(b))
		switch r.IntN(6) {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b[at] = byte(r.Uint32())
		case 2:
			b = append(b[:at], b[min(len(b), at+1+r.IntN(8)):]...)
		case 3:
			b = append(b[:at], append([]byte{0xFF, 0x80, 0x00}[:1+r.IntN(3)], b[at:]...)...)
		case 4:
			b = b[:at+1]
		case 5:
			b[at] = []byte{0, 0x7F, 0x80, 0xFF, 0xF0, 0x82}[r.IntN(6)]
		}
	}
	return b
}

// TestMutations sends sessions with random faults. The hub answers or closes, and goes on.
func TestMutations(t *testing.T) {
	const workers, rounds = 8, 100
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for round := range rounds {
				v := []packet.Version{packet.V311, packet.V5}[round%2]
				c := dial(t, v)
				hello := c.connect(will("mutated/will", "gone", 1, false), expiring(0), clean)
				packets := conversation(v, "mutated/"+unique())
				var b []byte
				if r.IntN(3) == 0 {
					b = mutate(r, append([][]byte{hello}, packets...)) // CONNECT, too
				} else {
					b = append(hello, mutate(r, packets)...)
				}
				if err := spill(c.conn, b); err != nil {
					t.Errorf("worker %d, round %d: %v", w, round, err)
				}
			}
		})
	}
	all.Wait()
	alive(t)
}

// spill writes all, says that there is no more, and reads until the server has closed.
func spill(conn net.Conn, b []byte) error {
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return nil // closed before it had read all
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
		return fmt.Errorf("the server holds a connection that has ended, after % x", b)
	}
	return nil
}

// TestNeverReads has subscribers that read nothing, while more is published than fits
// anywhere. The publisher and those who read get all.
func TestNeverReads(t *testing.T) {
	const n, size = 600, 16 << 10
	topic := unique()
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		for qos := range uint8(3) {
			deaf := login(t, v)
			deaf.subscribe(topic, qos)
		}
	}
	c, from := login(t, packet.V5), login(t, packet.V5)
	c.subscribe(topic, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range n {
			p, err := c.try(patience)
			if err != nil {
				t.Errorf("who reads: %v", err)
				return
			}
			err = c.conn.SetWriteDeadline(time.Now().Add(patience))
			if err == nil {
				_, err = c.conn.Write(packet.AppendAck(nil, c.v, packet.PUBACK, p.ID, packet.Success, nil))
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	payload := strings.Repeat("x", size)
	begin := time.Now()
	for range n {
		from.publish(topic, payload, 1)
	}
	<-done
	t.Logf("%d messages of %d bytes in %v", n, size, time.Since(begin))
	alive(t)
}

// TestHalfOpen holds 2,000 connections on which nothing, or half a CONNECT, is said. Others
// get in at once; those that say nothing are closed after a while.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	const n = 2000
	half := login(t, packet.V5).connect()
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for i := range n {
		conn, err := net.DialTimeout("tcp", theHub(t).tcp, patience)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		conns = append(conns, conn)
		if _, err := conn.Write(half[:i%len(half)]); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if i%500 == 499 {
			alive(t)
		}
	}
	begin := time.Now()
	for i, conn := range conns {
		if err := conn.SetReadDeadline(begin.Add(4 * patience)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 64)); n > 0 || isTimeout(err) {
			t.Fatalf("connection %d is still there after %v (%d bytes, %v)", i, time.Since(begin), n, err)
		}
	}
	alive(t)
}

// TestTopicAbuse publishes and subscribes to what nobody should. Each is refused with words
// of the protocol, or taken; the hub lives.
func TestTopicAbuse(t *testing.T) {
	root := unique()
	topics := map[string]string{
		"hash": "#", "system": "$SYS/broker/uptime", "share": "$share/g/" + root, "200 levels": root + strings.Repeat("/x", 200),
		"30,000 levels": root + strings.Repeat("/x", 30000), "empty levels": root + strings.Repeat("/", 200), "only slashes": strings.Repeat("/", 65535),
		"wrong UTF-8": root + "/\xff\xfe", "65,535 bytes": root + strings.Repeat("x", 65535-len(root)), "plus everywhere": root + strings.Repeat("/+", 200),
		"plus 30,000 times": root + strings.Repeat("/+", 30000), "controls": root + "/\x01\x7f\u0080", "noncharacter": root + "/\uffff",
		"native": "signalbox/x/telemetry", "native root": "signalbox", "native of nobody": "signalbox//telemetry", "native wildcard": "signalbox/+/command",
	}
	for _, v := range versions {
		for name, topic := range topics {
			t.Run(v.name+"/"+name, func(t *testing.T) {
				c := login(t, v.version)
				c.send(packet.AppendSubscribe(nil, v.version, 1, []packet.Filter{{Text: []byte(topic), QoS: 1}}, nil))
				abused(c, packet.SUBACK)
				c = login(t, v.version)
				p := message(topic, "abuse", 1)
				p.ID = 2
				c.send(packet.AppendPublish(nil, v.version, p))
				abused(c, packet.PUBACK)
				c = dial(t, v.version)
				c.send(c.connect(will(topic, "gone", 1, false)))
				abused(c, packet.CONNACK)
			})
		}
	}
	t.Run("many retained under one filter", func(t *testing.T) {
		c := login(t, packet.V5)
		for i := range 50 {
			c.publish(fmt.Sprint(root, "/deep", strings.Repeat("/y", i)), "x", 0, retained)
		}
		c.subscribe(root+"/deep/#", 0)
		for range 50 {
			c.want(packet.PUBLISH)
		}
	})
	alive(t)
}

// abused expects the answer, a DISCONNECT or the end.
func abused(c *client, answer packet.Type) {
	c.t.Helper()
	for {
		p, err := c.try(patience)
		switch {
		case isTimeout(err):
			c.t.Errorf("no packet of type %d and no end came", answer)
			return
		case p == nil, p.Type == answer:
			return
		case p.Type != packet.PUBLISH && p.Type != packet.DISCONNECT:
			c.t.Errorf("a packet of type %d came, want type %d", p.Type, answer)
			return
		}
	}
}

// TestIdentifiersExhausted uses up all packet identifiers in both directions.
func TestIdentifiersExhausted(t *testing.T) {
	for _, v := range versions {
		t.Run(v.name+"/of the client", func(t *testing.T) {
			c := login(t, v.version)
			done := make(chan struct{})
			go func() {
				defer close(done)
				var b []byte
				for id := 1; id <= 65535; id++ {
					p := message("exhausted/"+v.name, "x", 2)
					p.ID = uint16(id)
					if b = packet.AppendPublish(b, v.version, p); len(b) > 32<<10 || id == 65535 {
						if _, err := c.conn.Write(b); err != nil {
							return
						}
						b = b[:0]
					}
				}
			}()
			came := 0
			for came < 65535 {
				p, err := c.try(patience)
				if err != nil || p.Type != packet.PUBREC {
					break // it is not read any more, or has been disconnected
				}
				came++
			}
			t.Logf("%d messages were taken", came)
			_ = c.conn.Close()
			<-done
			if came < 65535 && v.version == packet.V311 { // 3.1.1 knows no receive maximum; a 5.0 server may disconnect
				t.Error("the client was not served to the end")
			}
		})
		t.Run(v.name+"/of the server", func(t *testing.T) {
			const n = 66000
			topic := unique()
			silent, from := login(t, v.version, receiveMaximum(65535)), login(t, v.version)
			silent.subscribe(topic, 1)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = io.Copy(io.Discard, silent.conn) // reads and never acknowledges
			}()
			const window = 50
			sent, acked := 0, 0
			for acked < n {
				var b []byte
				for sent < n && sent-acked < window {
					p := message(topic, "x", 1)
					sent++
					p.ID = uint16(sent%60000 + 1)
					b = packet.AppendPublish(b, v.version, p)
				}
				from.send(b)
				for range max(1, window/2) {
					if acked < sent {
						from.want(packet.PUBACK)
						acked++
					}
				}
			}
			alive(t)
			_ = silent.conn.Close()
			<-done
		})
	}
	alive(t)
}
