package sim

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// upgradeKey is the Sec-WebSocket-Key of all simulated devices: a hub must not mind repetitions.
const upgradeKey = "c2lnbmFsYm94LXNpbSAxIQ=="

// upgradeRequest is what the WebSocket library of the ESP32 sends (RFC 6455 section 4.1), its Origin included.
func upgradeRequest(host, path string) []byte {
	if path == "" {
		path = "/"
	}
	return []byte("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + upgradeKey + "\r\nSec-WebSocket-Protocol: arduino\r\n" +
		"Origin: file://\r\nUser-Agent: arduino-WebSocket-Client\r\n\r\n")
}

// upgradeAccept is the Sec-WebSocket-Accept that belongs to upgradeKey (RFC 6455 section 4.2.2).
func upgradeAccept() string {
	sum := sha1.Sum([]byte(upgradeKey + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// link says how to reach a hub.
type link struct {
	addr, path  string
	source      netip.Addr
	smallBuffer bool // so that a reader who does not read is soon felt
}

// conn is the client side of one WebSocket connection. One goroutine may read and one may write.
type conn struct {
	nc  net.Conn
	br  *bufio.Reader
	out []byte
}

// dial connects and upgrades; ctx bounds both.
func dial(ctx context.Context, l link) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := dialTCP(ctx, l.addr, l.source, l.smallBuffer)
	if err != nil {
		return nil, err
	}
	c := &conn{nc: nc, br: bufio.NewReaderSize(nc, 1<<10)}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() }) // its error says no more than ctx's
	err = c.upgrade(l)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, joinClose(err, nc)
	}
	return c, nil
}

// joinClose closes c after err; what Close says adds nothing to why the connection failed.
func joinClose(err error, c io.Closer) error {
	_ = c.Close()
	return err
}

func (c *conn) upgrade(l link) error {
	if _, err := c.nc.Write(upgradeRequest(l.addr, l.path)); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		return fmt.Errorf("read the answer to the upgrade: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // a 101 has no body, others are not read
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("the hub answered the upgrade with %s", resp.Status)
	}
	if got := resp.Header.Get("Sec-WebSocket-Accept"); got != upgradeAccept() {
		return fmt.Errorf("the hub answered the upgrade with Sec-WebSocket-Accept %q, which is not that of the key", got)
	}
	return nil
}

// readFrame reads the next frame; its payload is the caller's.
func (c *conn) readFrame() (frame, error) {
	head := 2
	for {
		b, err := c.br.Peek(head)
		if err != nil {
			return frame{}, err
		}
		f, n, err := parseFrame(b)
		switch {
		case err == nil: // it has no payload
			_, err = c.br.Discard(n)
			return f, err
		case !errors.Is(err, errNotReady):
			return frame{}, err
		case n > 0:
			return c.takeFrame(n)
		}
		head = map[byte]int{126: 4, 127: 10}[b[1]]
	}
}

func (c *conn) takeFrame(n int) (frame, error) {
	whole := make([]byte, n)
	if _, err := io.ReadFull(c.br, whole); err != nil {
		return frame{}, err
	}
	f, _, err := parseFrame(whole)
	return f, err
}

// write sends one frame of the opcode op.
func (c *conn) write(op byte, payload []byte) error {
	var mask [4]byte
	m := rand.Uint32() // not secret: a device has no hostile page inside (RFC 6455 section 10.3)
	mask[0], mask[1], mask[2], mask[3] = byte(m), byte(m>>8), byte(m>>16), byte(m>>24)
	c.out = appendFrame(c.out[:0], op, payload, mask)
	return c.writeRaw(c.out)
}

func (c *conn) writeText(payload []byte) error { return c.write(opText, payload) }

// reply sends the answer to a command.
func (c *conn) reply(_ string, body []byte) error { return c.writeText(body) }

// writeRaw sends bytes as they are.
func (c *conn) writeRaw(b []byte) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := c.nc.Write(b)
	return err
}

// close ends the connection, politely with a close frame when the device is switched off in order.
func (c *conn) close(polite bool) {
	if polite {
		_ = c.write(opClose, []byte{0x03, 0xe8}) // 1000; if it does not get through, closing says as much
	}
	_ = c.nc.Close() // nothing is left to do when it fails
}
