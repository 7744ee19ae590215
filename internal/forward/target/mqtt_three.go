package target

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"signalbox/internal/forward"
	"signalbox/internal/wire/packet"
)

// three is a 3.1.1 connection. Each has a client of the library of its own, which is told not to
// connect again: what it had not delivered it would send again by itself.
type three struct {
	sink   *mqttSink
	client mqtt.Client
	// last is the token of the message published last (QoS 0).
	last mqtt.Token
	// waiting are those of messages that are not acknowledged; never full: the window bounds them.
	waiting chan numbered
	all     sync.WaitGroup
}

type numbered struct {
	n     uint64
	token mqtt.Token
}

// maxUnderWay3 is how many messages of QoS 2 a 3.1.1 broker is given before it has completed them.
// It cannot say how many it takes, nor refuse: Mosquitto drops what is over its max_inflight_messages
// (20 by default) and completes the exchange as if all were well.
const maxUnderWay3 = 10

// join3 sends CONNECT and takes what the broker answers.
func (s *mqttSink) join3(ctx context.Context) error {
	o := mqtt.NewClientOptions()
	o.AddBroker("mqtt://" + s.address)
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return s.conn, nil })
	o.SetProtocolVersion(4)
	o.SetClientID(s.clientID)
	o.SetUsername(s.spec.Username)
	o.SetPassword(s.spec.Secrets.Password)
	o.SetCleanSession(true)
	o.SetKeepAlive(mqttKeepAlive)
	o.SetPingTimeout(s.timeout)
	o.SetConnectTimeout(s.guard.timeout)
	o.SetWriteTimeout(s.timeout)
	o.SetAutoReconnect(false)
	o.SetConnectRetry(false)
	o.SetStore(mqtt.NewMemoryStore())
	o.SetConnectionLostHandler(func(_ mqtt.Client, err error) { s.conn.fail(err) })
	t := &three{sink: s, client: mqtt.NewClient(o), waiting: make(chan numbered, maxUnderWay)}
	token := t.client.Connect()
	select {
	case <-token.Done():
	case <-ctx.Done():
		s.conn.fail(ctx.Err())
		<-token.Done()
	}
	if err := token.Error(); err != nil {
		if answer, is := token.(*mqtt.ConnectToken); is && answer.ReturnCode() >= 1 && answer.ReturnCode() <= 5 { // 3.1.1, 3.2.2.3
			err = fmt.Errorf("the broker refused the connection: %s", packet.Reason(answer.ReturnCode()))
		}
		return err
	}
	if s.qos == 2 {
		s.window.shrink(maxUnderWay3)
	}
	s.out = t
	t.all.Go(t.acknowledge)
	return nil
}

func (t *three) publish(_ context.Context, m *forward.Message, n uint64) error {
	s := t.sink
	// The library looks at the payload later.
	token := t.client.Publish(m.Topic, s.qos, s.spec.Retain, bytes.Clone(m.Body))
	if s.qos == 0 {
		t.last = token
		return nil
	}
	t.waiting <- numbered{n, token}
	return nil
}

// acknowledge tells the window what the broker has: acknowledgements come in the order of the
// messages [MQTT-4.6.0-2], [MQTT-4.6.0-3], so that waiting for one after another loses nothing.
func (t *three) acknowledge() {
	over := t.sink.conn.over
	for {
		select {
		case <-over:
			return
		case next := <-t.waiting:
			select {
			case <-next.token.Done():
			case <-over: // there are tokens that the library forgets when a connection ends
				return
			}
			if err := next.token.Error(); err != nil {
				t.sink.conn.fail(err)
				return
			}
			t.sink.acknowledged(next.n, packet.Success, "")
		}
	}
}

// flush waits until the library has written what it was given. It has a goroutine that writes, so
// that gathering packets would wait for itself: Send's cork is open by now.
func (t *three) flush(ctx context.Context) error {
	if t.last == nil {
		return nil
	}
	select {
	case <-t.last.Done():
		err := t.last.Error()
		t.last = nil
		return err
	case <-t.sink.conn.over:
		return t.sink.conn.reason()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *three) close() {
	t.sink.conn.uncork()
	t.client.Disconnect(uint(goodbye / time.Millisecond))
	t.sink.conn.fail(net.ErrClosed)
	t.all.Wait()
}
