package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	mqttpackets "github.com/eclipse/paho.mqtt.golang/packets"

	"signalbox/internal/wire/packet"
)

// goodbye is how long the 3.1.1 library may take to disconnect.
const goodbye = 250 * time.Millisecond

// run3 keeps the link joined with MQTT 3.1.1 until ctx ends or another version is to be tried.
// The library's own reconnecting knows no jitter, and sends again what it could not deliver:
// each connection has a client of its own.
func (l *Link) run3(ctx context.Context) {
	for {
		timer := time.NewTimer(l.delay())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		err := l.once3(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.refused(err)
		}
		if l.next() != V311 {
			return
		}
	}
}

// once3 is one connection, from the dialing to its end; err is that of an attempt that came
// to nothing.
func (l *Link) once3(ctx context.Context) error {
	c, err := l.begin(ctx)
	if err != nil {
		return err
	}
	lost := make(chan error, 1)
	client := mqtt.NewClient(l.options3(c, lost))
	token := client.Connect()
	timer := time.NewTimer(l.cfg.ConnectTimeout)
	defer timer.Stop()
	select {
	case <-token.Done():
		err = token.Error()
	case <-timer.C:
		err = context.DeadlineExceeded
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		// The library closes the connection with its own words; nothing of it may go on.
		c.conn.fail(nil)
		client.Disconnect(0)
		return connackError3(token, err)
	}
	present := false
	if t, ok := token.(*mqtt.ConnectToken); ok {
		present = t.SessionPresent()
	}
	l.up(c, &speaker3{link: l, client: client}, V311, present)
	select {
	case <-c.conn.over:
		// The library tells a little later why.
		late := time.NewTimer(goodbye)
		defer late.Stop()
		select {
		case why := <-lost:
			c.conn.fail(why)
		case <-late.C:
		}
	case why := <-lost:
		c.conn.fail(why)
	case <-ctx.Done():
	}
	client.Disconnect(uint(goodbye / time.Millisecond))
	l.down()
	return nil
}

func (l *Link) options3(c *life, lost chan<- error) *mqtt.ClientOptions {
	o := mqtt.NewClientOptions()
	o.AddBroker("mqtt://" + l.address.host)
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return c.conn, nil })
	o.SetProtocolVersion(4)
	o.SetClientID(l.cfg.ClientID)
	o.SetUsername(l.cfg.Username)
	o.SetPassword(l.secret)
	o.SetCleanSession(l.cfg.Shared != "")
	o.SetKeepAlive(l.cfg.KeepAlive)
	o.SetPingTimeout(l.cfg.KeepAlive)
	o.SetConnectTimeout(l.cfg.ConnectTimeout)
	o.SetWriteTimeout(writeWait)
	o.SetAutoReconnect(false)
	o.SetConnectRetry(false)
	o.SetOrderMatters(true)
	o.SetAutoAckDisabled(true)
	o.SetStore(mqtt.NewMemoryStore())
	o.SetConnectionLostHandler(func(_ mqtt.Client, err error) {
		select {
		case lost <- err:
		default:
		}
	})
	o.SetDefaultPublishHandler(func(_ mqtt.Client, p mqtt.Message) {
		m := &message{topic: p.Topic(), payload: p.Payload(), retained: p.Retained(), ack: p.Ack}
		if p.Qos() > 0 {
			m.id = p.MessageID()
		}
		c.deliver(m)
	})
	return o
}

// connackError3 gives the return code of a CONNACK (3.1.1, 3.2.2.3) in our words.
func connackError3(token mqtt.Token, err error) error {
	t, ok := token.(*mqtt.ConnectToken)
	if !ok || isDeadline(err) || errors.Is(err, context.Canceled) {
		return err
	}
	code, known := map[byte]packet.Reason{
		mqttpackets.ErrRefusedBadProtocolVersion:    packet.UnsupportedVersion,
		mqttpackets.ErrRefusedIDRejected:            packet.ClientIDNotValid,
		mqttpackets.ErrRefusedServerUnavailable:     packet.ServerUnavailable,
		mqttpackets.ErrRefusedBadUsernameOrPassword: packet.BadUserOrPassword,
		mqttpackets.ErrRefusedNotAuthorised:         packet.NotAuthorized,
	}[t.ReturnCode()]
	if !known {
		return err
	}
	return &refusal{what: "the broker refused the connection", reason: code}
}

// speaker3 is a 3.1.1 connection.
type speaker3 struct {
	link   *Link
	client mqtt.Client
}

func (s *speaker3) subscribe(ctx context.Context) (refused []string, err error) {
	l := s.link
	wanted := make(map[string]byte, len(l.filters))
	for _, filter := range l.filters {
		wanted[filter.text] = l.cfg.QoS
	}
	token := s.client.SubscribeMultiple(wanted, nil)
	if err := wait3(ctx, token); err != nil {
		return nil, err
	}
	t, ok := token.(*mqtt.SubscribeToken)
	if !ok {
		return nil, nil
	}
	answer := t.Result()
	for _, filter := range l.filters {
		if answer[filter.text] >= 0x80 {
			refused = append(refused, fmt.Sprintf("%s: %s", filter.text, packet.UnspecifiedError))
		}
	}
	return refused, nil
}

func (s *speaker3) unsubscribe(ctx context.Context) error {
	return wait3(ctx, s.client.Unsubscribe(s.link.texts()...))
}

func (s *speaker3) publish(ctx context.Context, o *outgoing) error {
	if !s.client.IsConnectionOpen() {
		return mqtt.ErrNotConnected
	}
	token := s.client.Publish(o.topic, o.qos, o.retain, o.payload)
	if o.qos == 0 {
		return wait3(ctx, token)
	}
	// Its PUBACK says nothing but that it came; there is no use in waiting for it.
	select {
	case <-token.Done():
		return token.Error()
	default:
		return nil
	}
}

func wait3(ctx context.Context, token mqtt.Token) error {
	select {
	case <-token.Done():
		return token.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}
