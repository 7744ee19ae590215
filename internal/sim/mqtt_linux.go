package sim

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/wire/packet"
)

// isMQTT says whether the swarm speaks MQTT.
func (s *Swarm) isMQTT() bool { return s.cfg.Protocol == signalbox.ProtocolMQTT }

// swarmKeepAlive is so long that nothing has to be sent to keep an idle connection.
const swarmKeepAlive = 10 * time.Minute

// connectPacket appends the CONNECT of p.
func (w *worker) connectPacket(b []byte, p *peer) []byte {
	return packet.AppendConnect(b, connectAs(w.s.cfg.Credentials[p.index], w.version, swarmKeepAlive), nil)
}

// packets takes whole packets off b and gives the rest.
func (w *worker) packets(p *peer, b []byte) []byte {
	for p.fd >= 0 && len(b) > 0 {
		n, ok, err := packet.Size(b)
		if err == nil && (!ok || n > len(b)) {
			return b
		}
		if err == nil {
			err = w.packet.Decode(b[:n], w.version)
		}
		if err == nil {
			err = w.heard(p, &w.packet)
		}
		if err != nil {
			w.lose(p, err)
			return nil
		}
		b = b[n:]
	}
	if p.fd < 0 {
		return nil
	}
	return b
}

// heard takes one packet of the server's; an error ends the connection.
func (w *worker) heard(p *peer, m *packet.Packet) error {
	switch m.Type {
	case packet.CONNACK:
		return w.heardConnack(p, m)
	case packet.SUBACK:
		if p.state != loggingIn || len(m.Reasons) != 1 || m.Reasons[0] != 1 {
			w.s.refusals.Add(1)
			return fmt.Errorf("the server answered the subscription with %v", m.Reasons)
		}
		w.isReady(p)
	case packet.PUBACK:
		return w.heardPuback(p, m)
	case packet.PINGRESP:
		if len(p.tokens) == 0 {
			return errors.New("the server sent a PINGRESP that answers nothing")
		}
		token := p.tokens[0]
		p.tokens = p.tokens[1:]
		if w.order != nil {
			w.order.job.pong(w, p, token)
		}
	case packet.PUBLISH:
		w.heardCommand(p, m)
	case packet.DISCONNECT:
		w.s.refusals.Add(1)
		return fmt.Errorf("the server disconnected with reason 0x%02x", uint8(m.Reason))
	default:
		return fmt.Errorf("the server sent a packet of type %d", m.Type)
	}
	return nil
}

func (w *worker) heardConnack(p *peer, m *packet.Packet) error {
	if p.state != loggingIn {
		return errors.New("the server sent a second CONNACK")
	}
	if m.Reason != packet.Success {
		w.s.refusals.Add(1)
		return refusedConnect(m.Reason)
	}
	p.n = max(p.saved, p.n)
	if w.s.cfg.QoS > 0 {
		p.n = p.saved // what was not acknowledged is sent again
	}
	if !w.s.cfg.Subscribe {
		w.isReady(p)
		return nil
	}
	filter := []packet.Filter{{Text: []byte(nativeTopic(w.s.cfg.Credentials[p.index].Name, topicCommand)), QoS: 1}}
	w.out = packet.AppendSubscribe(w.out[:0], w.version, 1, filter, nil)
	w.write(p, w.out)
	return nil
}

// heardPuback: they come in the order of the messages (4.6.0 [MQTT-4.6.0-2]).
func (w *worker) heardPuback(p *peer, m *packet.Packet) error {
	if p.saved >= p.n || m.ID != messageID(p.saved+1) {
		return fmt.Errorf("the server acknowledged message %d when that of message %d was due, of %d", m.ID, messageID(p.saved+1), p.n)
	}
	if m.Reason >= packet.UnspecifiedError {
		w.s.refusals.Add(1)
		return fmt.Errorf("the server refused a message with reason 0x%02x", uint8(m.Reason))
	}
	w.heardSaved(p, base+p.saved+1)
	if p.owes && p.saved == p.n && w.order != nil {
		w.order.job.pong(w, p, barrierToken)
	}
	return nil
}

// messageID is the packet identifier of a device's n-th message.
func messageID(n uint64) uint16 { return uint16((n-1)%65_535) + 1 }

// heardCommand acknowledges a command and says that it was done.
func (w *worker) heardCommand(p *peer, m *packet.Packet) {
	w.s.commands.Add(1)
	w.out = w.out[:0]
	if m.QoS == 1 {
		w.out = packet.AppendAck(w.out, w.version, packet.PUBACK, m.ID, packet.Success, nil)
	}
	if id := gjson.GetBytes(m.Payload, "id"); id.Exists() {
		name := w.s.cfg.Credentials[p.index].Name
		for kind, more := range map[string]string{"ack": "", "result": `,"ok":true`} {
			answer := packet.Packet{Type: packet.PUBLISH, Topic: []byte(nativeTopic(name, kind)), Payload: []byte(`{"id":` + id.Raw + more + `}`)}
			w.out = packet.AppendPublish(w.out, w.version, &answer)
		}
	}
	if len(w.out) > 0 {
		w.write(p, w.out)
	}
}

// appendMessage appends p's next message, whatever the protocol.
func (w *worker) appendMessage(b []byte, p *peer) []byte {
	p.n++
	if !w.s.isMQTT() {
		return w.maker.append(b, p.hash, p.n)
	}
	return w.publisher.append(b, w.s.cfg.Credentials[p.index].Name, p.hash, p.n)
}

// publisher makes PUBLISH packets of telemetry from a template: only digits change.
type publisher struct {
	v       packet.Version
	message packet.Packet
	topic   []byte
	payload []byte
	digits  []byte
}

func newPublisher(v packet.Version, qos uint8) publisher {
	return publisher{v: v, message: packet.Packet{Type: packet.PUBLISH, QoS: qos}, payload: []byte(mqttPayload)}
}

// append appends the packet of the device's n-th message.
func (m *publisher) append(dst []byte, name string, device, n uint64) []byte {
	m.topic = append(append(append(m.topic[:0], nativeRoot...), name...), "/"+topicTelemetry...)
	m.digits = strconv.AppendUint(m.digits[:0], base+n, 10)
	copy(m.payload[payloadN:], m.digits)
	m.digits = strconv.AppendUint(m.digits[:0], 100+n%80, 10)
	copy(m.payload[payloadServo:], m.digits)
	m.digits = appendSum(m.digits[:0], device, n)
	copy(m.payload[payloadSum:], m.digits)
	m.message.Topic, m.message.Payload = m.topic, m.payload
	if m.message.QoS > 0 {
		m.message.ID = messageID(n)
	}
	return packet.AppendPublish(dst, m.v, &m.message)
}
