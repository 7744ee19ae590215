package target

import (
	"io"
	"net"
	"sync/atomic"
	"time"
)

const (
	// pacedBytes is how much a receiver may send within pacedSpan; what is more waits, in its own
	// memory in the end. That is some 8 MiB/s.
	pacedBytes = 512 << 10
	pacedSpan  = 62500 * time.Microsecond
	// pacedEach is what each line of acknowledgement, packet and frame counts beside its bytes: small
	// ones cost more time than bytes. Some 250,000 a second are left.
	pacedEach = 32
)

// pacedReader reads from a receiver no faster than pacedBytes within pacedSpan, so that one that sends
// without end costs a part of a core and not all of it.
type pacedReader struct {
	from  io.Reader
	since time.Time
	bytes atomic.Int64
}

// took counts a line, a packet or a frame. Anyone may call it.
func (r *pacedReader) took() { r.bytes.Add(pacedEach) }

// Read implements io.Reader. It returns up to pacedSpan late.
func (r *pacedReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if r.bytes.Add(int64(n)) < pacedBytes || err != nil {
		return n, err
	}
	if early := pacedSpan - time.Since(r.since); early > 0 {
		pause := time.NewTimer(early)
		<-pause.C
	}
	r.since = time.Now()
	r.bytes.Store(0)
	return n, nil
}

// pacedConn is a connection that is read by a pacedReader.
type pacedConn struct {
	net.Conn

	paced pacedReader
}

func newPacedConn(c net.Conn) *pacedConn {
	p := &pacedConn{Conn: c}
	p.paced.from = c
	return p
}

// Read implements net.Conn.
func (c *pacedConn) Read(p []byte) (int, error) { return c.paced.Read(p) }
