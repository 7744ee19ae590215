package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"signalbox/internal/wire/packet"
)

// heard is one packet from the server, with bytes of its own.
type heard struct {
	kind    packet.Type
	id      uint16
	qos     uint8
	window  int // of CONNACK: Receive Maximum, 0 if it says none
	reason  packet.Reason
	refused bool // SUBACK: a filter was refused
	payload []byte
}

// mqttConnection lives through one MQTT connection, from dialing to its end.
func (d *Device) mqttConnection(ctx context.Context, tick <-chan time.Time) error {
	nc, err := dialTCP(ctx, d.cfg.Addr, d.cfg.Source, d.cfg.Fault == SlowReader)
	if err != nil {
		d.cfg.Counters.DialErrors.Add(1)
		return err
	}
	d.cfg.Counters.Connected.Add(1)
	defer d.cfg.Counters.Connected.Add(-1)
	c := &mqttConn{nc: nc, br: bufio.NewReaderSize(nc, 1<<10), v: mqttVersion(d.cfg.MQTT5), device: d.cfg.Name, qos: d.cfg.QoS, id: lastReadingID + 1}
	packets := make(chan heard, 16)
	var reader sync.WaitGroup
	stop := make(chan struct{})
	reader.Go(func() { d.readPackets(c, packets, stop) })
	err = d.mqttConverse(ctx, c, packets, tick)
	close(stop)
	c.close(ctx.Err() != nil)
	reader.Wait()
	return err
}

// readPackets hands over what the server sends until the connection or the conversation ends; it closes packets.
func (d *Device) readPackets(c *mqttConn, packets chan<- heard, stop <-chan struct{}) {
	defer close(packets)
	var p packet.Packet
	for {
		if d.cfg.Fault == SlowReader && !slowly(stop) {
			return
		}
		if err := c.readPacket(&p); err != nil {
			d.cfg.Logger.Debug("reading ended", "device", d.cfg.Name, "err", err)
			return
		}
		h := heard{kind: p.Type, id: p.ID, reason: p.Reason}
		switch p.Type {
		case packet.CONNACK:
			if p.Properties.Has(packet.ReceiveMaximum) {
				h.window = int(p.Properties.ReceiveMaximum)
			}
		case packet.PUBLISH:
			h.qos, h.payload = p.QoS, append([]byte(nil), p.Payload...)
		case packet.SUBACK:
			for _, r := range p.Reasons {
				h.refused = h.refused || r >= byte(packet.UnspecifiedError)
			}
		default:
		}
		select {
		case packets <- h:
		case <-stop:
			return
		}
	}
}

// slowly waits as a slow reader does before each message; false: the conversation is over.
func slowly(stop <-chan struct{}) bool {
	pause := time.NewTimer(5 * time.Second)
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-stop:
		return false
	}
}

func (d *Device) mqttConverse(ctx context.Context, c *mqttConn, packets <-chan heard, tick <-chan time.Time) error {
	d.sent, d.window = 0, mqttWindow
	if err := c.writeRaw(d.mqttConnect(c.v)); err != nil {
		return err
	}
	alive := time.NewTicker(keepAlive / 2)
	defer alive.Stop()
	online := false
	for {
		if online && d.cfg.Fault == Storm {
			d.cfg.Counters.Faults.Add(1)
			return errHangUp
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case h, open := <-packets:
			if !open {
				return io.EOF
			}
			if !online {
				if err := d.mqttOnline(c, h); err != nil {
					return err
				}
				online = true
				continue
			}
			if err := d.mqttHandle(c, h); err != nil {
				return err
			}
		case <-alive.C: // 3.1.2.10: something has to be sent within Keep Alive
			if err := c.writeRaw(packet.AppendPing(nil, packet.PINGREQ)); err != nil {
				return err
			}
		case now := <-tick:
			if online && d.cfg.Fault != NoFault {
				if err := d.misbehave(ctx, c); err != nil {
					return err
				}
			}
			d.measure(now)
			if online {
				if err := d.mqttFlush(c); err != nil {
					return err
				}
			}
		}
	}
}

// mqttConnect is the CONNECT of the device: its name is user name and client identifier, its will says that it is
// offline.
func (d *Device) mqttConnect(v packet.Version) []byte {
	secret := d.cfg.Secret
	if d.cfg.Fault == WrongPassword {
		secret = "wrong"
		d.cfg.Counters.Faults.Add(1)
	}
	connect := connectAs(Credential{Name: d.cfg.Name, Secret: secret}, v, keepAlive)
	connect.HasWill, connect.WillRetain, connect.WillQoS = true, true, d.cfg.QoS
	connect.WillTopic, connect.WillPayload = []byte(nativeTopic(d.cfg.Name, topicStatus)), []byte("offline")
	return packet.AppendConnect(nil, connect, nil)
}

// connectAs is the CONNECT of a device without a will: a clean session.
func connectAs(c Credential, v packet.Version, alive time.Duration) *packet.Connect {
	return &packet.Connect{
		Version: v, Clean: true, KeepAlive: uint16(alive / time.Second), ClientID: []byte(c.Name),
		HasUser: true, User: []byte(c.Name), HasPassword: true, Password: []byte(c.Secret),
	}
}

// mqttOnline takes the first packet, which has to be CONNACK (3.2): the device subscribes to its commands, says that
// it is online and sends what it has.
func (d *Device) mqttOnline(c *mqttConn, h heard) error {
	if h.kind != packet.CONNACK {
		return errNoConnack
	}
	if h.reason != packet.Success {
		d.cfg.Counters.Refusals.Add(1)
		return refusedConnect(h.reason)
	}
	d.cfg.Counters.Logins.Add(1)
	if h.window > 0 {
		d.window = min(d.window, h.window)
	}
	filter := []packet.Filter{{Text: []byte(nativeTopic(d.cfg.Name, topicCommand)), QoS: 1}}
	if err := c.writeRaw(packet.AppendSubscribe(nil, c.v, lastReadingID+1, filter, nil)); err != nil {
		return err
	}
	status := packet.Packet{Type: packet.PUBLISH, Retain: true, Topic: []byte(nativeTopic(d.cfg.Name, topicStatus)), Payload: []byte("online")}
	if err := c.publish(&status); err != nil {
		return err
	}
	return d.mqttFlush(c)
}

// mqttHandle takes one packet from the server after CONNACK.
func (d *Device) mqttHandle(c *mqttConn, h heard) error {
	switch h.kind {
	case packet.PUBACK:
		if h.reason >= packet.UnspecifiedError { // 5.0: refused, and not to be sent again (4.3.2)
			d.cfg.Counters.Refusals.Add(1)
		}
		if h.id == 0 || h.id > lastReadingID {
			return nil // of an answer
		}
		for _, r := range d.buffer {
			if readingID(r.seq) == h.id {
				d.settle(r.seq)
				break
			}
		}
		return d.mqttFlush(c)
	case packet.SUBACK:
		if h.refused {
			d.cfg.Counters.Refusals.Add(1)
		}
	case packet.DISCONNECT: // 5.0, 3.14: the server says why it ends the connection
		d.cfg.Counters.Refusals.Add(1)
		return fmt.Errorf("the server disconnected with reason 0x%02x", uint8(h.reason))
	case packet.PUBLISH:
		if h.qos == 1 { // 4.3.2
			if err := c.writeRaw(packet.AppendAck(nil, c.v, packet.PUBACK, h.id, packet.Success, nil)); err != nil {
				return err
			}
		}
		var m message
		if err := json.Unmarshal(h.payload, &m); err != nil || m.Command == nil {
			d.cfg.Counters.Strange.Add(1)
			return nil //nolint:nilerr // a board ignores what it cannot read; it is counted
		}
		return d.obey(c, &m)
	default:
	}
	return nil
}

// readingID is the packet identifier of a reading.
func readingID(seq uint64) uint16 { return uint16((seq-1)%lastReadingID) + 1 }

// mqttFlush publishes the buffered readings that this connection has not carried yet, as many as may be under way.
func (d *Device) mqttFlush(c *mqttConn) error {
	underWay := 0
	for _, r := range d.buffer {
		if r.seq <= d.sent {
			underWay++
			continue
		}
		if d.cfg.QoS > 0 && underWay >= d.window {
			return nil
		}
		p := packet.Packet{Type: packet.PUBLISH, QoS: d.cfg.QoS, Topic: []byte(nativeTopic(d.cfg.Name, topicTelemetry)), Payload: r.body}
		if d.cfg.QoS > 0 {
			p.ID = readingID(r.seq)
			underWay++
		}
		if err := c.publish(&p); err != nil {
			return err
		}
		d.cfg.Counters.Telemetry.Add(1)
		if r.seq < d.seq {
			d.cfg.Counters.Resent.Add(1)
		}
		d.sent = r.seq
	}
	if d.cfg.QoS == 0 {
		d.buffer = d.buffer[:0]
	}
	return nil
}

// appendMQTTHead appends the beginning of a reading's object: boot and seq, by which a hub knows one that is sent
// again, are there if it may be.
func (d *Device) appendMQTTHead(b []byte, ts int64) []byte {
	b = append(b, '{')
	if d.cfg.QoS > 0 {
		b = append(append(b, `"boot":`...), quote(d.boot)...)
		b = strconv.AppendUint(append(b, `,"seq":`...), d.seq, 10)
		b = append(b, ',')
	}
	return strconv.AppendInt(append(b, `"ts":`...), ts, 10)
}
