package mqtt

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"signalbox/internal/wire/packet"
)

// Defaults.
const (
	DefaultConnectBytes   = 8 << 10
	DefaultMaxPacket      = 68 << 10
	DefaultConnectTimeout = 10 * time.Second

	// LeastMaxPacket and MostMaxPacket bound Config.MaxPacket.
	LeastMaxPacket = 1 << 10
	MostMaxPacket  = 256 << 20
)

// Reasons for a connection's end, besides those of package loop and the types below.
var (
	// ErrKeepAlive says that no packet came for one and a half times the keep alive.
	ErrKeepAlive = errors.New("no packet came for one and a half times the keep alive")
	// ErrConnectTimeout says that no complete CONNECT came within Config.ConnectTimeout.
	ErrConnectTimeout = errors.New("no complete CONNECT came in time")
	// ErrNoConnect says that what came first was no CONNECT of a version that is known.
	ErrNoConnect = errors.New("the first packet was no CONNECT")
)

// PeerClose is the error of Endpoint.Closed after a DISCONNECT of the client.
type PeerClose struct{ Reason packet.Reason }

// Error implements error.
func (e *PeerClose) Error() string {
	return fmt.Sprintf("the client disconnected with reason 0x%02X", byte(e.Reason))
}

// Ended is the error of Endpoint.Closed after Conn.End: this side ended the connection.
type Ended struct {
	Reason packet.Reason
	Words  string
	// Violation says that the transport did, because of a packet that was wrong.
	Violation bool
}

// Error implements error.
func (e *Ended) Error() string {
	return fmt.Sprintf("this side disconnected with reason 0x%02X: %s", byte(e.Reason), e.Words)
}

// Config holds the settings of a Server. The zero value means the defaults.
type Config struct {
	// ConnectBytes bounds a packet, with its header, until the endpoint admits the connection
	// (DefaultConnectBytes); MaxPacket afterwards (DefaultMaxPacket).
	ConnectBytes, MaxPacket int
	// ConnectTimeout is the time from accepting to a complete CONNECT (DefaultConnectTimeout).
	ConnectTimeout time.Duration
	// Gate, if not nil, decides on connections before anything is read.
	Gate Gate
}

// Gate admits connections. Its methods are called concurrently and must not block.
type Gate interface {
	// Enter is called for each accepted connection; an error refuses it without a word.
	Enter(remote netip.AddrPort) error
	// Leave is called once for each connection that Enter admitted, when it has ended, after
	// Endpoint.Closed.
	Leave(remote netip.AddrPort)
}

// Handler makes endpoints.
type Handler interface {
	// Endpoint gives the endpoint of a connection whose CONNECT has come, which is handed to it
	// next. Whatever happens, its Closed is called in the end.
	Endpoint(c *Conn) Endpoint
}

// Endpoint receives the packets of one connection; see the package comment.
type Endpoint interface {
	// Receive hands over one packet: CONNECT, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP,
	// SUBSCRIBE, UNSUBSCRIBE, PINGREQ or DISCONNECT, after which the transport closes. wait > 0
	// means that it was not taken: reading pauses, and the same packet comes again after that
	// time.
	Receive(p *packet.Packet) (wait time.Duration)
	// Tick is called about every second, also while Receive has asked to wait.
	Tick(now time.Time)
	// Closed is the last call; err is never nil: a *PeerClose or *Ended, ErrKeepAlive, io.EOF when
	// the client vanished without a DISCONNECT, loop.ErrSlow, loop.ErrStopped or what the system
	// said.
	Closed(err error)
}

// Roomer is an Endpoint that is told when there is room for commands after there was none.
type Roomer interface {
	// CommandRoom must neither block nor call the broker.
	CommandRoom()
}

// Stats are counters of a Server since its start, and gauges.
type Stats struct {
	Connects          atomic.Int64 // CONNECT packets
	Packets           atomic.Int64 // packets taken by endpoints
	Malformed         atomic.Int64 // connections ended because of a malformed packet or a protocol error
	TooLarge          atomic.Int64 // connections ended because of a packet over the limit
	ConnectTimeouts   atomic.Int64 // connections cut because no CONNECT came in time
	NoConnect         atomic.Int64 // connections cut because they did not begin with a CONNECT
	KeepAliveTimeouts atomic.Int64 // connections ended because of their keep alive
	WebSockets        atomic.Int64 // upgrades to WebSocket

	Open atomic.Int64 // gauge: connections with an endpoint
}
