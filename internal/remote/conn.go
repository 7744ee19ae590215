package remote

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"signalbox/internal/wire/packet"
)

// dial opens the network connection: TCP, TLS or WebSocket. ctx bounds the attempt.
func (a *address) dial(ctx context.Context) (net.Conn, error) {
	switch a.scheme {
	case "mqtt":
		var d net.Dialer
		return d.DialContext(ctx, "tcp", a.host)
	case "mqtts":
		d := tls.Dialer{Config: a.tls}
		return d.DialContext(ctx, "tcp", a.host)
	default:
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: a.tls}}
		// 5.0, 6.0: the subprotocol is mqtt, the frames are binary.
		ws, answer, err := websocket.Dial(ctx, a.url, &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"mqtt"}})
		if err != nil {
			return nil, err
		}
		if answer.Body != nil {
			_ = answer.Body.Close() // it is the socket's, which is taken over
		}
		if ws.Subprotocol() != "mqtt" {
			_ = ws.CloseNow()
			return nil, errors.New("the server does not speak MQTT over WebSocket: it chose no subprotocol mqtt")
		}
		// The context of the attempt ends before the connection does.
		return &webConn{Conn: websocket.NetConn(context.WithoutCancel(ctx), ws, websocket.MessageBinary), ws: ws}, nil
	}
}

// webConn closes at once: the closing handshake would wait for a broker that may be gone.
type webConn struct {
	net.Conn
	ws *websocket.Conn
}

func (c *webConn) Close() error { return c.ws.CloseNow() }

// writeWait bounds how long a broker may take to read what is sent to it.
const writeWait = 10 * time.Second

// conn is a network connection as both libraries get it. It bounds writes and the size of
// packets, sends each packet in one piece, and tells when the connection ends.
//
// What comes behind the CONNACK is given out when the library has begun to work, see ready: the 5.0
// library starts its goroutines one after another, and one that ends before the last has started, since
// the broker closed at once, breaks the count which it keeps of them.
type conn struct {
	net.Conn
	r        *bufio.Reader
	limit    int
	left     int  // of the packet being read
	answered bool // the CONNACK was given out, or begun
	began    chan struct{}
	starting sync.Once

	writing sync.Mutex // taken by the library for each packet
	out     []byte
	within  bool // between Lock and Unlock

	acks atomic.Int64  // PUBACKs that were written
	ack  chan struct{} // holds a token when one was

	once sync.Once
	over chan struct{}

	mu   sync.Mutex
	why  error
	head []byte // the first bytes of the answer to CONNECT
}

// headSize is as much of an answer as tells whether the broker knows 5.0.
const headSize = 4

func newConn(c net.Conn, limit int) *conn {
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 16<<10), limit: limit, began: make(chan struct{}), ack: make(chan struct{}, 1), over: make(chan struct{})}
}

// ready says that the library works on the connection.
func (c *conn) ready() { c.starting.Do(func() { close(c.began) }) }

// awaitReady waits for ready.
func (c *conn) awaitReady() error {
	select {
	case <-c.began:
		return nil
	default:
	}
	timer := time.NewTimer(askWait)
	defer timer.Stop()
	select {
	case <-c.began:
		return nil
	case <-c.over:
		return net.ErrClosed
	case <-timer.C:
		return context.DeadlineExceeded
	}
}

// Lock and Unlock stand around the pieces of one packet (autopaho's library asks for them).
func (c *conn) Lock() {
	c.writing.Lock()
	c.within = true
}

// Unlock sends the pieces.
func (c *conn) Unlock() {
	c.within = false
	if len(c.out) > 0 {
		if _, err := c.send(c.out); err != nil {
			c.fail(err)
		}
		c.out = c.out[:0]
	}
	c.writing.Unlock()
}

// Write implements net.Conn. Within Lock and Unlock it never fails; what the network says then
// ends the connection.
func (c *conn) Write(p []byte) (int, error) {
	if c.within {
		c.out = append(c.out, p...)
		return len(p), nil
	}
	return c.send(p)
}

func (c *conn) send(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if err == nil && len(p) > 0 && packet.Type(p[0]>>4) == packet.PUBACK {
		c.acks.Add(1)
		nudge(c.ack)
	}
	return n, err
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if c.left == 0 {
		if err := c.begin(); err != nil {
			c.fail(err)
			return 0, err
		}
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	if n > 0 {
		c.note(p[:n])
	}
	if err != nil {
		c.fail(err)
	}
	return n, err
}

// note keeps the first bytes.
func (c *conn) note(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if room := headSize - len(c.head); room > 0 {
		c.head = append(c.head, p[:min(room, len(p))]...)
	}
}

// begin looks at the fixed header of the next packet (5.0, 2.1.1): the libraries make room
// for whatever length it tells.
func (c *conn) begin() error {
	if c.answered {
		if err := c.awaitReady(); err != nil {
			return err
		}
	}
	length, shift := 0, 0
	for i := 2; ; i++ {
		b, err := c.r.Peek(i)
		if err != nil {
			if errors.Is(err, io.EOF) && len(b) > 0 {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		length |= int(b[i-1]&0x7f) << shift
		if b[i-1]&0x80 == 0 {
			c.left = i + length
			c.answered = c.answered || packet.Type(b[0]>>4) == packet.CONNACK
			break
		}
		if shift += 7; shift > 21 {
			return errors.New("the broker sent a packet whose length is malformed")
		}
	}
	if c.left > c.limit {
		return fmt.Errorf("the broker sent a packet of %d bytes; at most %d are taken", c.left, c.limit)
	}
	return nil
}

// fail ends the connection; the first reason counts, and that it is closed is none.
func (c *conn) fail(why error) {
	c.mu.Lock()
	if c.why == nil && why != nil && !errors.Is(why, net.ErrClosed) {
		c.why = why
	}
	c.mu.Unlock()
	_ = c.Close() // it is broken, or about to be
}

// reason is why it ended, nil when nobody said.
func (c *conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.over) })
	return c.Conn.Close()
}

// oldBroker says whether the broker's answer was that it does not know MQTT 5.0: the CONNACK
// of 3.1.1 with return code 1, or that of 5.0 with reason 0x84 [MQTT-3.1.2-2]. silent: it
// closed without any answer.
func (c *conn) oldBroker() (old, silent bool) {
	why := c.reason()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.head) == 0 {
		return false, errors.Is(why, io.EOF)
	}
	return len(c.head) == headSize && c.head[0] == 0x20 && (c.head[1] == 2 && c.head[3] == 1 || c.head[3] == 0x84), false
}
