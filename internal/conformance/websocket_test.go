package conformance_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/coder/websocket"

	"signalbox/internal/wire/packet"
)

// webSocketChecks are about MQTT in WebSocket frames (6).
func webSocketChecks() []check {
	return []check{
		{"MQTT over WebSocket", "6.0.0-1 6.0.0-4 7.1.1-1", "6.0.0-1 6.0.0-4 4.2-1", func(t trial, v packet.Version) {
			topic := unique()
			c, from := loginOn(newClient(t, v, dialWebSocket(t).net())), login(t, v)
			c.subscribe(topic, 2)
			for qos := range uint8(3) {
				from.publish(topic, "there", qos)
				c.take(topic, "there", qos)
				c.publish(topic, "and back", qos)
				c.take(topic, "and back", qos)
			}
			large := string(make([]byte, 60000))
			from.publish(topic, large, 1)
			c.take(topic, large, 1)
			c.leave()
		}},
		{"packets across frames", "6.0.0-2", "6.0.0-2", func(t trial, v packet.Version) {
			topic := unique()
			w := dialWebSocket(t)
			c := newClient(t, v, w.net())
			b := c.connect()
			b = packet.AppendSubscribe(b, v, 1, []packet.Filter{{Text: []byte(topic), QoS: 1}}, nil)
			p := message(topic, "x", 1)
			p.ID = 2
			b = packet.AppendPublish(b, v, p)
			for cut := range 7 {
				w.write(websocket.MessageBinary, b[cut*len(b)/7:(cut+1)*len(b)/7])
			}
			c.want(packet.CONNACK)
			c.acked(packet.SUBACK, 1)
			c.acked(packet.PUBACK, 2)
			c.take(topic, "x", 1)
			ping := packet.AppendPing(nil, packet.PINGREQ)
			w.write(websocket.MessageBinary, append(append(append([]byte{}, ping...), ping...), ping[0])) // two and a half
			c.want(packet.PINGRESP)
			c.want(packet.PINGRESP)
			w.write(websocket.MessageBinary, ping[1:])
			c.want(packet.PINGRESP)
		}},
		{"text frames", "6.0.0-1", "6.0.0-1", func(t trial, v packet.Version) {
			w := dialWebSocket(t)
			c := loginOn(newClient(t, v, w.net()))
			w.write(websocket.MessageText, packet.AppendPing(nil, packet.PINGREQ))
			for {
				p, err := c.try(patience)
				if isTimeout(err) {
					t.Fatal("the connection is open after a text frame")
				}
				if err != nil {
					return
				}
				if p.Type != packet.DISCONNECT {
					t.Fatalf("a text frame was answered with a packet of type %d", p.Type)
				}
			}
		}},
		{"subprotocol", "6.0.0-3 6.0.0-4", "6.0.0-3 6.0.0-4", func(t trial, v packet.Version) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			w, _, err := websocket.Dial(ctx, theHub(t).ws, &websocket.DialOptions{Subprotocols: []string{"mqttv3.1", "mqtt"}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = w.CloseNow() }()
			if w.Subprotocol() != "mqtt" {
				t.Errorf("the subprotocol is %q", w.Subprotocol())
			}
			// Without the subprotocol a server may refuse; it must not select another one.
			other, _, err := websocket.Dial(ctx, theHub(t).ws, &websocket.DialOptions{Subprotocols: []string{"chat"}})
			if err != nil {
				return
			}
			if s := other.Subprotocol(); s != "" && s != "mqtt" {
				t.Errorf("the subprotocol is %q", s)
			}
			_ = other.CloseNow()
		}},
	}
}

// webSocket is a WebSocket connection to the hub.
type webSocket struct {
	t testing.TB
	c *websocket.Conn
}

func dialWebSocket(t testing.TB) *webSocket {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, _, err := websocket.Dial(ctx, theHub(t).ws, &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(1 << 20)
	t.Cleanup(func() { _ = c.CloseNow() })
	return &webSocket{t, c}
}

// net is the connection as a stream; it takes binary frames alone.
func (w *webSocket) net() net.Conn {
	return websocket.NetConn(context.Background(), w.c, websocket.MessageBinary)
}

func (w *webSocket) write(kind websocket.MessageType, b []byte) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	if err := w.c.Write(ctx, kind, b); err != nil {
		w.t.Fatal(err)
	}
}
