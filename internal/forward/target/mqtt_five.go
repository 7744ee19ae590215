package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	paholog "github.com/eclipse/paho.golang/paho/log"
	pahosession "github.com/eclipse/paho.golang/paho/session"

	"signalbox/internal/forward"
	"signalbox/internal/wire/packet"
)

// five is a 5.0 connection. It is the library's session manager as well: the library's own would
// keep messages and send them again, and tells an acknowledgement only to a goroutine that waits
// for it, one a message.
type five struct {
	sink   *mqttSink
	client *paho.Client
	// number is that of the message which the library is being given.
	number uint64
}

// join5 sends CONNECT and takes what the broker answers.
func (s *mqttSink) join5(ctx context.Context) error {
	f := &five{sink: s}
	f.client = paho.NewClient(paho.ClientConfig{
		Conn: locked{s.conn}, Session: f, PacketTimeout: s.guard.timeout, PingHandler: &pinger{paho.NewDefaultPinger(), s.conn},
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(paho.PublishReceived) (bool, error) { return true, nil }},
		OnClientError:     func(err error) { s.conn.fail(err) },
	})
	receive, expiry := uint16(1), uint32(0)
	hello := &paho.Connect{
		ClientID: s.clientID, CleanStart: true, KeepAlive: uint16(mqttKeepAlive / time.Second),
		Properties: &paho.ConnectProperties{ReceiveMaximum: &receive, SessionExpiryInterval: &expiry, RequestProblemInfo: true},
	}
	if s.spec.Username != "" {
		hello.Username, hello.UsernameFlag = s.spec.Username, true
	}
	if s.spec.Secrets.Password != "" {
		hello.Password, hello.PasswordFlag = []byte(s.spec.Secrets.Password), true
	}
	answer, err := f.client.Connect(ctx, hello)
	if err != nil {
		if answer != nil && answer.ReasonCode >= 0x80 {
			text := ""
			if answer.Properties != nil {
				text = answer.Properties.ReasonString
			}
			return s.brokerSays("the broker refused the connection", packet.Reason(answer.ReasonCode), text)
		}
		return err
	}
	s.out = f
	p := answer.Properties
	if p == nil {
		return nil
	}
	if p.MaximumQoS != nil && *p.MaximumQoS < s.qos {
		s.qos = *p.MaximumQoS
		s.logger.Warn("the MQTT broker offers a lower quality of service than was set", "set", s.spec.QoS, "offered", s.qos)
	}
	if p.ReceiveMaximum != nil {
		s.window.shrink(int(*p.ReceiveMaximum))
	}
	if p.MaximumPacketSize != nil {
		s.maxPacket = *p.MaximumPacketSize
	}
	if s.spec.Retain && !p.RetainAvailable {
		f.close()
		return errors.New("the broker keeps no retained messages; set retain to false")
	}
	return nil
}

// brokerSays makes a sentence of a broker's reason and its own words, which are 5.0's alone.
func (s *mqttSink) brokerSays(what string, reason packet.Reason, text string) error {
	if text = printable([]byte(text)); text != "" {
		return fmt.Errorf("%s: %s: %q", what, reason, forward.Scrub(text, &s.spec))
	}
	return fmt.Errorf("%s: %s", what, reason)
}

// pinger tells why it ended the connection, which the library says only afterwards.
type pinger struct {
	*paho.DefaultPinger
	conn *mqttConn
}

// Run implements paho.Pinger.
func (p *pinger) Run(ctx context.Context, c net.Conn, keepAlive uint16) error {
	err := p.DefaultPinger.Run(ctx, c, keepAlive)
	if err != nil {
		p.conn.fail(errors.New("the broker does not answer pings"))
	}
	return err
}

func (f *five) publish(ctx context.Context, m *forward.Message, n uint64) error {
	p := &paho.Publish{QoS: f.sink.qos, Retain: f.sink.spec.Retain, Topic: m.Topic, Payload: m.Body, Properties: &paho.PublishProperties{}}
	for name, value := range properties(m) {
		p.Properties.User.Add(name, value)
	}
	f.number = n
	_, err := f.client.PublishWithOptions(ctx, p, paho.PublishOptions{Method: paho.PublishMethod_AsyncSend})
	return err
}

// flush has nothing to do: the library writes within publish.
func (f *five) flush(context.Context) error { return nil }

func (f *five) close() {
	f.sink.conn.uncork()
	_ = f.client.Disconnect(&paho.Disconnect{ReasonCode: 0}) // whether it arrives or not
}

// ConAckReceived implements session.SessionManager.
func (f *five) ConAckReceived(io.Writer, *packets.Connect, *packets.Connack) error { return nil }

// ConnectionLost implements session.SessionManager; it hears why the broker ends a connection.
func (f *five) ConnectionLost(p *packets.Disconnect) error {
	if p == nil {
		return nil
	}
	text := ""
	if p.Properties != nil {
		text = p.Properties.ReasonString
	}
	f.sink.conn.fail(f.sink.brokerSays("the broker ended the connection", packet.Reason(p.ReasonCode), text))
	return nil
}

// AddToSession implements session.SessionManager: the window has the message already.
func (f *five) AddToSession(_ context.Context, p pahosession.Packet, _ chan<- packets.ControlPacket) error {
	p.SetIdentifier(identifier(f.number))
	return nil
}

// PacketReceived implements session.SessionManager.
func (f *five) PacketReceived(p *packets.ControlPacket, _ chan<- *packets.Publish) error {
	s := f.sink
	switch a := p.Content.(type) {
	case *packets.Puback:
		if n, under := s.window.number(a.PacketID); under {
			s.acknowledged(n, packet.Reason(a.ReasonCode), reasonText(a.Properties))
		}
	case *packets.Pubrec:
		n, under := s.window.number(a.PacketID)
		if a.ReasonCode >= 0x80 { // 4.3.3: the exchange is over
			if under {
				s.acknowledged(n, packet.Reason(a.ReasonCode), reasonText(a.Properties))
			}
			return nil
		}
		release := &packets.Pubrel{PacketID: a.PacketID}
		if !under {
			release.ReasonCode = byte(packet.PacketIDNotFound)
		}
		_, err := release.WriteTo(locked{s.conn})
		return err
	case *packets.Pubcomp:
		if n, under := s.window.number(a.PacketID); under {
			s.acknowledged(n, packet.Success, "") // 3.7.2.1: 0x92 says that it was complete before
		}
	}
	return nil
}

func reasonText(p *packets.Properties) string {
	if p == nil {
		return ""
	}
	return p.ReasonString
}

// Ack implements session.SessionManager; nothing is received that would be acknowledged.
func (f *five) Ack(*packets.Publish) error { return nil }

// Close implements session.SessionManager.
func (f *five) Close() error { return nil }

// SetErrorLogger implements session.SessionManager.
func (f *five) SetErrorLogger(paholog.Logger) {}

// SetDebugLogger implements session.SessionManager.
func (f *five) SetDebugLogger(paholog.Logger) {}
