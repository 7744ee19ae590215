package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/broker"
	"signalbox/internal/broker/durable"
	"signalbox/internal/bus"
	"signalbox/internal/gateway/mqtt"
	"signalbox/internal/history"
	"signalbox/internal/mapped"
)

// MQTTConfig is what the MQTT door adds to the gateway's Config.
type MQTTConfig struct {
	// Anonymous are the topic filters that clients without a user name may publish to; without
	// one there are no such clients. They never reach signalbox/… nor $… topics, nor
	// those of Dialect.
	Anonymous []string
	// MaxKeepAlive is the longest keep alive, in whole seconds up to 65,535; a 5.0 client that
	// asks for more, or none, is told this one (3.1.2.10). 0: whatever the client wants.
	MaxKeepAlive time.Duration
	// Dialect is what devices may speak besides the native topics; nil: nothing.
	Dialect mapped.Dialect
}

// Mapped is what the door needs of package mapped. Its methods never block.
type Mapped interface {
	Take(t *mapped.Taking) mapped.Verdict
	// Allowed reports whether a mapping takes the topic's messages for the device.
	Allowed(device, topic string) bool
	// Hears reports whether the topic filter stands within the topics on which a mapping
	// publishes commands for the device.
	Hears(device, filter string) bool
	// CommandTopics gives those topics as filters; Command a command as a mapping publishes it,
	// for a device that has subscribed to one.
	CommandTopics(device string) []string
	Command(device string, c *signalbox.Command) (topic string, payload []byte, qos uint8, retain bool, err error)
}

// Tokens is what the door needs of auth.People. AuthenticateToken reads memory only.
type Tokens interface {
	AuthenticateToken(secret string) (auth.Identity, error)
}

// Submitter is the command road as people's clients use it; Submit may wait for a disk.
type Submitter interface {
	Submit(ctx context.Context, req signalbox.CommandRequest) (signalbox.Command, error)
}

// MQTTLog is what the door needs of the log besides Commits.
type MQTTLog interface {
	Append(e *signalbox.Entry, u history.Urgency) error
	Head() signalbox.Position
}

// MQTTParts are what the door joins besides the gateway's Parts.
type MQTTParts struct {
	Tokens   Tokens
	Commands Submitter
	Log      MQTTLog
	// Bus tells what other devices report; nil: MQTT clients do not hear of it.
	Bus *bus.Bus
	// Mapped may be nil: there are no mapped topics.
	Mapped Mapped
}

// MQTTStats counts since the start.
type MQTTStats struct {
	// Clients by what they showed, gauges.
	Devices, Programs, Anonymous atomic.Int64

	LoginsRefused, SubscriptionsRefused, WillsRefused atomic.Int64
	PublishesRefused, PayloadsRefused                 atomic.Int64
	CommandsSubmitted, CommandsRefused                atomic.Int64
	Mirrored, MirrorMissed                            atomic.Int64
}

// MQTT is the door of MQTT clients: it decides who may come in and who may do what, gives
// what is telemetry to the roads (as the broker's Taker), and carries commands out. Make it
// with NewMQTT, then the broker with it as its Taker, then Join, then Run.
type MQTT struct {
	g      *Gateway
	cfg    MQTTConfig
	parts  MQTTParts
	broker *broker.Broker
	stats  MQTTStats

	bodies  sync.Pool // of *[]byte: objects made of bare numbers
	submits chan *submission
	mirror  mirror
	said    refusals
	talks   sync.Map // mapped.Conversation by device
}

// NewMQTT makes the door; g is the gateway whose devices, logins and limits it shares.
func NewMQTT(g *Gateway, cfg MQTTConfig, parts MQTTParts) *MQTT {
	m := &MQTT{
		g: g, cfg: cfg, parts: parts, bodies: sync.Pool{New: func() any { return new([]byte) }},
		submits: make(chan *submission, maxSubmissions),
	}
	m.said.init(g.cfg.Logger)
	m.mirror.wake = make(chan struct{}, 1)
	return m
}

// Join gives the door its broker, before the first connection.
func (m *MQTT) Join(b *broker.Broker) { m.broker = b }

// Stats gives the live counters.
func (m *MQTT) Stats() *MQTTStats { return &m.stats }

// Endpoint implements mqtt.Handler.
func (m *MQTT) Endpoint(c *mqtt.Conn) mqtt.Endpoint { return &mqttConn{door: m, t: c} }

// Run submits the commands that clients publish, publishes what other devices report, and tells the
// log of what was refused, until ctx ends.
func (m *MQTT) Run(ctx context.Context) error {
	var work sync.WaitGroup
	work.Go(func() { m.said.run(ctx) })
	if m.cfg.Dialect != nil {
		m.broker.ClearRetained(dialectRoot + "/") // of a time before the dialect; nobody is told
	}
	for range submitters {
		work.Go(func() { m.runSubmits(ctx) })
	}
	if m.parts.Bus != nil {
		work.Go(func() { m.runMirror(ctx) })
	}
	work.Wait()
	return nil
}

// Publish implements mapped.Link: commands to devices of mapped topics.
func (m *MQTT) Publish(topic string, payload []byte, qos uint8, retain bool) error {
	return m.publish(topic, payload, qos, retain, time.Time{})
}

// PublishUntil implements mapped.Expirer.
func (m *MQTT) PublishUntil(topic string, payload []byte, qos uint8, retain bool, until time.Time) error {
	return m.publish(topic, payload, qos, retain, until)
}

func (m *MQTT) publish(topic string, payload []byte, qos uint8, retain bool, until time.Time) error {
	return m.broker.Publish(&durable.Message{Topic: topic, Payload: payload, QoS: qos, Retain: retain, ExpiresAt: until, From: hubOwner})
}

// hubOwner is the publisher of the hub's own messages; no client has this owner.
const hubOwner = "hub"
