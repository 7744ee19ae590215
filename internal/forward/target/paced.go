package target

import (
	"io"
	"net"
	"time"
)

const (
	// pacedBytes is how much a receiver may send within pacedSpan; what is more waits, in its own
	// memory in the end. That is some 8 MiB/s.
	pacedBytes = 512 << 10
	pacedSpan  = 62500 * time.Microsecond
	// pacedEach is what each line of acknowledgement and each packet counts beside its bytes: small
	// ones cost more time than bytes. Some 250,000 a second are left.
	pacedEach = 32
)

// pacedReader reads from a receiver no faster than pacedBytes within pacedSpan, so that one that sends
// without end costs a part of a core and not all of it.
type pacedReader struct {
	from  io.Reader
	since time.Time
	bytes int
}

// took counts a line or a packet. It is for the goroutine that reads.
func (r *pacedReader) took() { r.bytes += pacedEach }

// Read implements io.Reader. It returns up to pacedSpan late.
func (r *pacedReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.bytes += n
	if r.bytes < pacedBytes || err != nil {
		return n, err
	}
	if early := pacedSpan - time.Since(r.since); early > 0 {
		pause := time.NewTimer(early)
		<-pause.C
	}
	r.since, r.bytes = time.Now(), 0
	return n, nil
}

// pacedConn is a connection that is read by a pacedReader.
type pacedConn struct {
	net.Conn

	paced pacedReader
}

func newPacedConn(c net.Conn) *pacedConn { return &pacedConn{Conn: c, paced: pacedReader{from: c}} }

// Read implements net.Conn.
func (c *pacedConn) Read(p []byte) (int, error) { return c.paced.Read(p) }
