package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	paholog "github.com/eclipse/paho.golang/paho/log"
	pahosession "github.com/eclipse/paho.golang/paho/session"
	"github.com/eclipse/paho.golang/paho/session/state"

	"signalbox/internal/wire/packet"
)

// ackInterval is how often the library sends what was acknowledged since; its own 50 ms would
// let ReceiveMaximum messages pass in that time and no more.
const ackInterval = 10 * time.Millisecond

var errOverdue = errors.New("its time was over")

var errNoPing = errors.New("the broker does not answer pings")

// run5 keeps the link joined with MQTT 5.0 until ctx ends or another version is to be tried.
func (l *Link) run5(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var expiry uint32
	if l.cfg.Shared == "" {
		expiry = uint32(l.cfg.SessionExpiry / time.Second)
	}
	clean := l.cfg.Shared != ""
	cfg := autopaho.ClientConfig{
		ServerUrls:      []*url.URL{{Scheme: "mqtt", Host: l.address.host}},
		KeepAlive:       uint16(l.cfg.KeepAlive / time.Second),
		ConnectTimeout:  l.cfg.ConnectTimeout,
		ConnectUsername: l.cfg.Username,
		ConnectPassword: []byte(l.secret),
		ReconnectBackoff: func(int) time.Duration {
			if ctx.Err() != nil {
				return l.cfg.BackoffMax // nothing is tried any more; the library looks at both
			}
			return l.delay()
		},
		AttemptConnection: func(ctx context.Context, _ autopaho.ClientConfig, _ *url.URL) (net.Conn, error) {
			c, err := l.begin(ctx)
			if err != nil {
				return nil, err
			}
			return c.conn, nil
		},
		ConnectPacketBuilder: func(p *paho.Connect, _ *url.URL) (*paho.Connect, error) {
			receive, size := uint16(l.cfg.ReceiveMaximum), uint32(l.cfg.MaxPacket)
			p.CleanStart = clean
			p.Properties = &paho.ConnectProperties{SessionExpiryInterval: &expiry, ReceiveMaximum: &receive, MaximumPacketSize: &size, RequestProblemInfo: true}
			return p, nil
		},
		OnConnectionUp: func(m *autopaho.ConnectionManager, answer *paho.Connack) {
			s := &speaker5{link: l, manager: m, qos: 2}
			if p := answer.Properties; p != nil && p.MaximumQoS != nil {
				s.qos = *p.MaximumQoS
			}
			l.up(l.current(), s, V5, answer.SessionPresent)
		},
		OnConnectionDown: func() bool {
			l.down()
			return true
		},
		OnConnectError: func(err error) {
			if l.refused(connackError(err)) {
				cancel()
			}
		},
		ClientConfig: paho.ClientConfig{
			ClientID:                   l.cfg.ClientID,
			Session:                    &forgetful{link: l},
			PingHandler:                &pinger{DefaultPinger: paho.NewDefaultPinger(), link: l},
			AuthHandler:                unasked{},
			PacketTimeout:              max(askWait, l.cfg.ConnectTimeout),
			EnableManualAcknowledgment: true,
			SendAcksInterval:           ackInterval,
			OnPublishReceived:          []func(paho.PublishReceived) (bool, error){l.received5},
		},
	}
	manager, err := autopaho.NewConnection(ctx, cfg)
	if err != nil {
		l.refused(err)
		return
	}
	<-manager.Done()
	l.down() // the manager does not say so when its context ends
}

// connackError gives the reason of a CONNACK in our words.
func connackError(err error) error {
	if no, ok := errors.AsType[*autopaho.ConnackError](err); ok {
		return &refusal{what: "the broker refused the connection", reason: packet.Reason(no.ReasonCode), text: no.Reason}
	}
	return err
}

func (l *Link) received5(p paho.PublishReceived) (bool, error) {
	c := l.current()
	if c == nil {
		return true, nil
	}
	m := &message{topic: p.Packet.Topic, payload: p.Packet.Payload, retained: p.Packet.Retain, ack: func() {
		_ = p.Client.Ack(p.Packet) // it fails when the connection has ended: then the broker asks again
	}}
	if p.Packet.QoS > 0 {
		m.id = p.Packet.PacketID
	}
	c.deliver(m)
	return true, nil
}

// speaker5 is a 5.0 connection.
type speaker5 struct {
	link    *Link
	manager *autopaho.ConnectionManager
	qos     byte // the broker's maximum
}

func (s *speaker5) subscribe(ctx context.Context) (refused []string, err error) {
	l := s.link
	p := &paho.Subscribe{}
	for _, filter := range l.filters {
		o := paho.SubscribeOptions{
			Topic: filter.text, QoS: min(l.cfg.QoS, s.qos),
			NoLocal:        l.cfg.Shared == "", // it is a protocol error with shared ones [MQTT-3.8.3-4]
			RetainHandling: 1,                  // 3.8.3.1: retained messages only if the subscription is new
		}
		if filter.again {
			o.RetainHandling = 0
		}
		p.Subscriptions = append(p.Subscriptions, o)
	}
	answer, err := s.manager.Subscribe(ctx, p)
	if answer == nil {
		return nil, err
	}
	// The library's error says that one was refused; the reasons say which.
	for i, reason := range answer.Reasons {
		if reason >= 0x80 && i < len(l.filters) {
			refused = append(refused, fmt.Sprintf("%s: %s", l.filters[i].text, packet.Reason(reason)))
		}
	}
	return refused, nil
}

func (s *speaker5) unsubscribe(ctx context.Context) error {
	_, err := s.manager.Unsubscribe(ctx, &paho.Unsubscribe{Topics: s.link.texts()})
	return err
}

func (s *speaker5) publish(ctx context.Context, o *outgoing) error {
	// A QoS the broker does not offer would be refused by the library (3.2.2.3.4).
	p := &paho.Publish{Topic: o.topic, Payload: o.payload, QoS: min(o.qos, s.qos), Retain: o.retain}
	if !o.expires.IsZero() {
		left := time.Until(o.expires)
		if left <= 0 {
			return errOverdue
		}
		seconds := uint32(min(left/time.Second+1, math.MaxUint32)) //nolint:gosec // bounded
		p.Properties = &paho.PublishProperties{MessageExpiry: &seconds}
	}
	answer, err := s.manager.Publish(ctx, p)
	if answer != nil && answer.ReasonCode >= 0x80 {
		return &refusal{what: "the broker did not take it", reason: packet.Reason(answer.ReasonCode)}
	}
	return err
}

// unasked is what the library calls when a broker speaks of an authentication that it was not asked
// for; without one it calls nil.
type unasked struct{}

// Authenticate gives the broker back what it said, without data.
func (unasked) Authenticate(a *paho.Auth) *paho.Auth {
	return &paho.Auth{ReasonCode: a.ReasonCode, Properties: &paho.AuthProperties{AuthMethod: a.Properties.AuthMethod}}
}

// Authenticated is nothing that was waited for.
func (unasked) Authenticated() {}

// pinger tells why it ended the connection.
type pinger struct {
	*paho.DefaultPinger
	link *Link
}

// Run implements paho.Pinger.
func (p *pinger) Run(ctx context.Context, c net.Conn, keepAlive uint16) error {
	err := p.DefaultPinger.Run(ctx, c, keepAlive)
	if current := p.link.current(); err != nil && current != nil {
		current.conn.fail(errNoPing)
	}
	return err
}

// forgetful is the library's speaker state, made anew for each connection: what the library
// could not deliver on one it would send on the next, and a command must not outlive the
// connection that took it. All that is received is of quality of service 0 or 1, for which a
// client keeps no state (4.1.0). It also hears why the broker ends a
// connection.
type forgetful struct {
	link *Link
	mu   sync.Mutex
	now  *state.State
}

func (f *forgetful) get() *state.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now == nil {
		f.now = state.NewInMemory()
	}
	return f.now
}

// ConAckReceived implements speaker.SessionManager.
func (f *forgetful) ConAckReceived(w io.Writer, sent *packets.Connect, answer *packets.Connack) error {
	f.mu.Lock()
	former := f.now
	f.now = state.NewInMemory()
	f.mu.Unlock()
	if former != nil {
		_ = former.Close() // it says to those who wait that nothing will come
	}
	return f.get().ConAckReceived(w, sent, answer)
}

// ConnectionLost implements speaker.SessionManager.
func (f *forgetful) ConnectionLost(p *packets.Disconnect) error {
	if current := f.link.current(); p != nil && current != nil {
		no := &refusal{what: "the broker ended the connection", reason: packet.Reason(p.ReasonCode)}
		if p.Properties != nil {
			no.text = p.Properties.ReasonString
		}
		current.conn.fail(no)
	}
	return f.get().ConnectionLost(p)
}

// AddToSession implements speaker.SessionManager.
func (f *forgetful) AddToSession(ctx context.Context, p pahosession.Packet, answer chan<- packets.ControlPacket) error {
	return f.get().AddToSession(ctx, p, answer)
}

// PacketReceived implements speaker.SessionManager.
func (f *forgetful) PacketReceived(p *packets.ControlPacket, publishes chan<- *packets.Publish) error {
	return f.get().PacketReceived(p, publishes)
}

// Ack implements speaker.SessionManager.
func (f *forgetful) Ack(p *packets.Publish) error { return f.get().Ack(p) }

// Close implements speaker.SessionManager.
func (f *forgetful) Close() error { return f.get().Close() }

// SetErrorLogger implements speaker.SessionManager.
func (f *forgetful) SetErrorLogger(paholog.Logger) {}

// SetDebugLogger implements speaker.SessionManager.
func (f *forgetful) SetDebugLogger(paholog.Logger) {}
