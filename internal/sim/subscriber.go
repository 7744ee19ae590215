package sim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"signalbox/internal/wire/packet"
)

// mqttPayload is the body of a Swarm's message over MQTT, 200 bytes; the digits at the three places change.
const mqttPayload = `{"status":"работает","servo1":100,"servo2":90,"button1":"released","button2":"pressed","n":` +
	counterDigits + `,"sum":"` + sumDigits + `","place":"hall 13, line 2, the second cabinet from the doorway","ok":true}`

const (
	payloadServo = len(`{"status":"работает","servo1":`)
	payloadN     = len(`{"status":"работает","servo1":100,"servo2":90,"button1":"released","button2":"pressed","n":`)
	payloadSum   = payloadN + len(counterDigits) + len(`,"sum":"`)
)

// SubscriberConfig says what a Subscriber is.
type SubscriberConfig struct {
	Addr     string     // host:port of an MQTT listener
	Login    Credential // user name and password; none if Name is empty
	ClientID string
	Filters  []string // subscribed to with QoS 1
	MQTT5    bool
	// Persistent asks for a session that outlives the connection: the filters need to be given once.
	Persistent bool
	// After is the number up to which messages count as having come before.
	After  uint64
	Source netip.Addr
}

// Tally is what a Subscriber has had of a Swarm's messages.
type Tally struct {
	Messages   int64 // PUBLISH packets
	Distinct   int64 // different messages among them
	Doubled    int64 // messages that had come before
	Disordered int64 // messages that came the first time after a later one of the same device
	Wrong      int64 // messages that are none of a Swarm, or not as they were sent
	First      time.Time
	Last       time.Time // when the latest one came
	Present    bool      // the server had the session (CONNACK)
}

// Subscriber is one MQTT client on a goroutine of its own that acknowledges and counts the messages of a Swarm. What has
// arrived at once is acknowledged in one write.
type Subscriber struct {
	cfg     SubscriberConfig
	c       *mqttConn
	ready   chan error // receives one value: subscribed, or why not
	done    chan struct{}
	err     error // of the end; read after done
	streams map[string]*stream

	messages, distinct, doubled, disordered, wrong, first, last atomic.Int64
	present                                                     atomic.Bool
}

// stream is what came of one topic.
type stream struct {
	hash uint64 // of the device's name
	seen []uint64
	max  uint64
}

// NewSubscriber connects and subscribes; ctx bounds that. Close ends it.
func NewSubscriber(ctx context.Context, cfg SubscriberConfig) (*Subscriber, error) {
	nc, err := dialTCP(ctx, cfg.Addr, cfg.Source, false)
	if err != nil {
		return nil, err
	}
	s := &Subscriber{cfg: cfg, ready: make(chan error, 1), done: make(chan struct{}), streams: make(map[string]*stream)}
	s.c = &mqttConn{nc: nc, br: bufio.NewReaderSize(nc, readSize), v: mqttVersion(cfg.MQTT5)}
	if err := s.c.writeRaw(s.connect()); err != nil {
		return nil, joinClose(err, nc)
	}
	go func() {
		defer close(s.done)
		s.err = s.read()
		select {
		case s.ready <- s.err:
		default: // it was ready before
		}
	}()
	select {
	case err = <-s.ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe at %s: %w", cfg.Addr, err), s.Close())
	}
	return s, nil
}

// readSize is how much is read at once.
const readSize = 64 << 10

func (s *Subscriber) connect() []byte {
	connect := &packet.Connect{Version: s.c.v, Clean: !s.cfg.Persistent, KeepAlive: 0, ClientID: []byte(s.cfg.ClientID)}
	if s.cfg.Login.Name != "" {
		connect.HasUser, connect.User = true, []byte(s.cfg.Login.Name)
		connect.HasPassword, connect.Password = true, []byte(s.cfg.Login.Secret)
	}
	var properties *packet.Properties
	if s.cfg.Persistent && s.cfg.MQTT5 {
		properties = new(packet.Properties)
		properties.Set(packet.SessionExpiry)
		properties.SessionExpiry = 3600
	}
	return packet.AppendConnect(nil, connect, properties)
}

// read takes what comes until the connection ends.
func (s *Subscriber) read() error {
	var p packet.Packet
	var acks []byte
	for {
		if len(acks) > 0 && s.c.br.Buffered() == 0 {
			if err := s.c.writeRaw(acks); err != nil {
				return err
			}
			acks = acks[:0]
		}
		if err := s.c.readPacket(&p); err != nil {
			return err
		}
		switch p.Type {
		case packet.CONNACK:
			if p.Reason != packet.Success {
				return refusedConnect(p.Reason)
			}
			s.present.Store(p.SessionPresent)
			if len(s.cfg.Filters) == 0 {
				s.ready <- nil
				continue
			}
			filters := make([]packet.Filter, 0, len(s.cfg.Filters))
			for _, f := range s.cfg.Filters {
				filters = append(filters, packet.Filter{Text: []byte(f), QoS: 1})
			}
			acks = packet.AppendSubscribe(acks, s.c.v, 1, filters, nil)
		case packet.SUBACK:
			for i, r := range p.Reasons {
				if r != 1 {
					return fmt.Errorf("the server answered the subscription to %s with 0x%02x", s.cfg.Filters[i], r)
				}
			}
			s.ready <- nil
		case packet.PUBLISH:
			if p.QoS == 1 {
				acks = packet.AppendAck(acks, s.c.v, packet.PUBACK, p.ID, packet.Success, nil)
			}
			s.count(&p)
		case packet.DISCONNECT:
			return fmt.Errorf("the server disconnected with reason 0x%02x", uint8(p.Reason))
		default:
			return fmt.Errorf("the server sent a packet of type %d", p.Type)
		}
	}
}

// count notes one message.
func (s *Subscriber) count(p *packet.Packet) {
	now := time.Now().UnixNano()
	s.last.Store(now)
	if s.messages.Add(1) == 1 {
		s.first.Store(now)
	}
	t := s.streams[string(p.Topic)]
	if t == nil {
		name := strings.TrimSuffix(strings.TrimPrefix(string(p.Topic), nativeRoot), "/"+topicTelemetry)
		t = &stream{hash: hashName(name)}
		s.streams[string(p.Topic)] = t
	}
	n, ok := messageNumber(p.Payload, t.hash)
	if !ok {
		s.wrong.Add(1)
		return
	}
	if n <= s.cfg.After {
		s.doubled.Add(1)
		return
	}
	word, bit := n/64, uint64(1)<<(n%64)
	for uint64(len(t.seen)) <= word {
		t.seen = append(t.seen, 0)
	}
	switch {
	case t.seen[word]&bit != 0:
		s.doubled.Add(1)
		return
	case n < t.max:
		s.disordered.Add(1)
	default:
		t.max = n
	}
	t.seen[word] |= bit
	s.distinct.Add(1)
}

// maxNumber bounds the memory that one stream may take.
const maxNumber = 1 << 30

// messageNumber gives the number of a Swarm's message; false: it is none, or not as it was sent.
func messageNumber(payload []byte, device uint64) (uint64, bool) {
	if len(payload) != len(mqttPayload) {
		return 0, false
	}
	var n uint64
	for _, c := range payload[payloadN : payloadN+len(counterDigits)] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	var b [len(sumDigits)]byte
	n = Counter(n)
	if n == 0 || n > maxNumber || string(appendSum(b[:0], device, n)) != string(payload[payloadSum:payloadSum+len(sumDigits)]) {
		return 0, false
	}
	return n, true
}

// Tally says what came so far.
func (s *Subscriber) Tally() Tally {
	t := Tally{
		Messages: s.messages.Load(), Distinct: s.distinct.Load(), Doubled: s.doubled.Load(), Disordered: s.disordered.Load(),
		Wrong: s.wrong.Load(), Present: s.present.Load(),
	}
	if t.Messages > 0 {
		t.First, t.Last = time.Unix(0, s.first.Load()), time.Unix(0, s.last.Load())
	}
	return t
}

// Ended is closed when the connection has ended.
func (s *Subscriber) Ended() <-chan struct{} { return s.done }

// Err says why the connection has ended; call it after Ended.
func (s *Subscriber) Err() error { return s.err }

// Close disconnects in order and waits for the goroutine. The server keeps a persistent session.
func (s *Subscriber) Close() error {
	s.c.close(true)
	<-s.done
	return nil
}

// SubscriberID makes a client identifier that no earlier Subscriber had.
func SubscriberID(at time.Time) string { return "bench-" + strconv.FormatInt(at.UnixNano(), 36) }
