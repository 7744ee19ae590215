package sim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"signalbox/internal/wire/packet"
)

// nativeRoot is what the topics of devices begin with: signalbox/<device>/telemetry and so on.
const nativeRoot = "signalbox/"

// The last level of the native topics.
const (
	topicTelemetry = "telemetry"
	topicStatus    = "status"
	topicCommand   = "command"
)

// keepAlive is the Keep Alive of simulated clients, PubSubClient's default.
const keepAlive = 15 * time.Second

// mqttWindow is how many QoS 1 messages a device has under way, if the server does not allow fewer (5.0, 4.9).
const mqttWindow = 16

// maxMQTTPacket bounds a packet from the server, which sends far smaller ones.
const maxMQTTPacket = 1 << 20

// lastReadingID is the highest packet identifier of a reading; answers to commands take those above it.
const lastReadingID = 60_000

func nativeTopic(device, level string) string { return nativeRoot + device + "/" + level }

func mqttVersion(five bool) packet.Version {
	if five {
		return packet.V5
	}
	return packet.V311
}

// dialTCP connects; ctx bounds it.
func dialTCP(ctx context.Context, addr string, source netip.Addr, smallBuffer bool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if tcp, ok := nc.(*net.TCPConn); ok && smallBuffer {
		if err := tcp.SetReadBuffer(4 << 10); err != nil {
			return nil, fmt.Errorf("set the receive buffer: %w", joinClose(err, nc))
		}
	}
	return nc, nil
}

// mqttConn is the client side of one MQTT connection. One goroutine may read and one may write.
type mqttConn struct {
	nc     net.Conn
	br     *bufio.Reader
	v      packet.Version
	device string // whose topics reply publishes to
	qos    uint8  // of answers
	id     uint16 // of the latest answer
	in     []byte
	out    []byte
}

// readPacket reads the next packet. What p says is valid until the next call.
func (c *mqttConn) readPacket(p *packet.Packet) error {
	var total int
	for head := 2; ; head++ {
		b, err := c.br.Peek(head)
		if err != nil {
			return err
		}
		n, whole, err := packet.Size(b)
		if err != nil {
			return err
		}
		if whole {
			total = n
			break
		}
	}
	if total > maxMQTTPacket {
		return fmt.Errorf("the server sent a packet of %d bytes; at most %d are taken", total, maxMQTTPacket)
	}
	if cap(c.in) < total {
		c.in = make([]byte, total)
	}
	c.in = c.in[:total]
	if _, err := io.ReadFull(c.br, c.in); err != nil {
		return err
	}
	return p.Decode(c.in, c.v)
}

// writeRaw sends bytes as they are.
func (c *mqttConn) writeRaw(b []byte) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := c.nc.Write(b)
	return err
}

// publish sends one PUBLISH.
func (c *mqttConn) publish(p *packet.Packet) error {
	c.out = packet.AppendPublish(c.out[:0], c.v, p)
	return c.writeRaw(c.out)
}

// reply publishes the answer to a command on the device's topic for it.
func (c *mqttConn) reply(kind string, body []byte) error {
	p := packet.Packet{Type: packet.PUBLISH, QoS: c.qos, Topic: []byte(nativeTopic(c.device, kind)), Payload: body}
	if c.qos > 0 {
		if c.id++; c.id <= lastReadingID { // after 65,535
			c.id = lastReadingID + 1
		}
		p.ID = c.id
	}
	return c.publish(&p)
}

// close ends the connection, politely with a DISCONNECT, after which no will is published (3.14.4).
func (c *mqttConn) close(polite bool) {
	if polite {
		_ = c.writeRaw(packet.AppendDisconnect(nil, c.v, packet.Success, nil)) // if it does not get through, closing says as much
	}
	_ = c.nc.Close() // nothing is left to do when it fails
}

// refusedConnect is the error of a CONNACK that refuses.
func refusedConnect(r packet.Reason) error {
	return fmt.Errorf("the server refused the connection with code 0x%02x", uint8(r))
}

// errNoConnack is of a server that sends something else before it.
var errNoConnack = errors.New("the server sent another packet before CONNACK")
