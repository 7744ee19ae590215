package target

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"signalbox/internal/wire/packet"
)

const (
	// maxFromBroker bounds a packet from a broker, in bytes: all that a publisher is sent is small.
	maxFromBroker = 64 << 10
	// corkSize is from how many bytes on gathered packets are written.
	corkSize = 32 << 10
)

// mqttConn is the connection under a library. It lets through only what a broker may send to a
// client that publishes: each packet is read whole and decoded first, since the libraries make room
// for any length they are told, and a broker that a user of the API names may send anything. It
// gathers what is written between cork and uncork, and tells when and why the connection ended.
type mqttConn struct {
	net.Conn
	version packet.Version
	timeout time.Duration
	paced   *pacedReader
	r       *bufio.Reader // of paced
	buf     []byte
	unread  []byte // of the packet that is being given out
	seen    packet.Packet

	// The 5.0 library writes a packet in pieces and takes this lock around them; the other writes
	// each packet at once, and takes none.
	writing sync.Mutex
	out     []byte
	corked  bool

	once   sync.Once
	over   chan struct{}
	mu     sync.Mutex
	why    error
	closed bool
}

func newMQTTConn(c net.Conn, v packet.Version, timeout time.Duration) *mqttConn {
	paced := &pacedReader{from: c}
	return &mqttConn{Conn: c, version: v, timeout: timeout, paced: paced, r: bufio.NewReaderSize(paced, 4<<10), over: make(chan struct{})}
}

// locked is the connection as the 5.0 library wants it.
type locked struct{ *mqttConn }

// Lock begins a packet.
func (c locked) Lock() { c.writing.Lock() }

// Unlock ends it.
func (c locked) Unlock() {
	if !c.corked || len(c.out) >= corkSize {
		c.send()
	}
	c.writing.Unlock()
}

// Write takes a piece of a packet. It never fails: a fault of the network ends the connection.
func (c locked) Write(p []byte) (int, error) {
	c.out = append(c.out, p...)
	return len(p), nil
}

// Write implements net.Conn for whole packets.
func (c *mqttConn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.out = append(c.out, p...)
	if !c.corked || len(c.out) >= corkSize {
		c.send()
	}
	return len(p), c.reason()
}

// send writes what is gathered; writing is locked.
func (c *mqttConn) send() {
	if len(c.out) == 0 {
		return
	}
	err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout))
	if err == nil {
		_, err = c.Conn.Write(c.out)
	}
	c.out = c.out[:0]
	if err != nil {
		c.fail(err)
	}
}

// SetWriteDeadline implements net.Conn: the connection's own count.
func (c *mqttConn) SetWriteDeadline(time.Time) error { return nil }

// cork makes packets wait for each other.
func (c *mqttConn) cork() {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.corked = true
}

// uncork writes what waits.
func (c *mqttConn) uncork() {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.corked = false
	c.send()
}

// Read implements net.Conn.
func (c *mqttConn) Read(p []byte) (int, error) {
	if len(c.unread) == 0 {
		if err := c.next(); err != nil {
			c.fail(err)
			return 0, err
		}
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

// next reads a packet and looks at it.
func (c *mqttConn) next() error {
	c.buf = c.buf[:0]
	c.paced.took()
	for {
		b, err := c.r.ReadByte()
		if err != nil {
			return err
		}
		c.buf = append(c.buf, b)
		total, known, err := packet.Size(c.buf)
		if err != nil {
			return unfitting(err)
		}
		if !known {
			continue
		}
		if total > maxFromBroker {
			return fmt.Errorf("the broker sent a packet of %d bytes; a publisher takes at most %d", total, maxFromBroker)
		}
		have := len(c.buf)
		c.buf = append(c.buf, make([]byte, total-have)...)
		if _, err := io.ReadFull(c.r, c.buf[have:]); err != nil {
			return err
		}
		break
	}
	if string(c.buf) == "\x20\x02\x00\x01" && c.version == packet.V5 { // 3.1.1, 3.2.2.3
		return errors.New("the broker does not speak MQTT 5.0; set version to 3.1.1")
	}
	if err := c.seen.Decode(c.buf, c.version); err != nil {
		return unfitting(err)
	}
	if err := c.seen.FromServer(c.version); err != nil {
		return unfitting(err)
	}
	switch c.seen.Type {
	case packet.CONNACK:
		if c.seen.Properties.Has(packet.AuthMethod) { // 4.12: only what the client began may go on
			return errors.New("the broker wants an authentication that nobody asked for")
		}
	case packet.PUBACK, packet.PUBREC, packet.PUBCOMP, packet.PINGRESP, packet.DISCONNECT:
	default:
		return fmt.Errorf("the broker sent %s to a client that only publishes", c.seen.Type)
	}
	c.unread = c.buf
	return nil
}

func unfitting(err error) error {
	return fmt.Errorf("the broker sent something that is no MQTT: %w", err)
}

// fail ends the connection; the first reason counts, and that it is closed is none.
func (c *mqttConn) fail(why error) {
	c.mu.Lock()
	if c.why == nil && !errors.Is(why, net.ErrClosed) {
		c.why = why
	}
	c.mu.Unlock()
	_ = c.Close() // it is broken, or about to be
}

// reason is why it ended: net.ErrClosed when nobody said, nil while it has not.
func (c *mqttConn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why == nil && c.closed {
		return net.ErrClosed
	}
	return c.why
}

// Close implements net.Conn; the libraries call it too.
func (c *mqttConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.once.Do(func() { close(c.over) })
	return c.Conn.Close()
}
