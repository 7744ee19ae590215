package ws

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// Close codes (RFC 6455 section 7.4.1).
const (
	CodeNormal      uint16 = 1000
	CodeGoingAway   uint16 = 1001
	CodeProtocol    uint16 = 1002
	CodeUnsupported uint16 = 1003
	CodeNoStatus    uint16 = 1005 // never sent: reported for a close frame without a code
	CodeInvalidData uint16 = 1007
	CodePolicy      uint16 = 1008
	CodeTooBig      uint16 = 1009
	CodeInternal    uint16 = 1011
	CodeTryLater    uint16 = 1013
)

// Defaults.
const (
	DefaultHeadBytes        = 8 << 10
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultMessageBytes     = 1 << 20
	DefaultPingInterval     = 20 * time.Second
	DefaultPingMisses       = 2

	// MaxMessageBytes is the largest Config.MessageBytes.
	MaxMessageBytes = 1 << 30
)

// Reasons for a connection's end, besides those of package loop and the types below.
var (
	// ErrPingTimeout says that the peer did not answer Config.PingMisses pings in a row.
	ErrPingTimeout = errors.New("the peer answers no pings")
	// ErrHandshakeTimeout says that no complete upgrade request came within Config.HandshakeTimeout.
	ErrHandshakeTimeout = errors.New("no complete upgrade request came in time")
	// ErrReason says that a close code may not be sent (RFC 6455 section 7.4), or that its reason is too long or not
	// UTF-8 (section 5.5.1).
	ErrReason = errors.New("a close code must be 1000 to 1003, 1007 to 1014 or 3000 to 4999, its reason UTF-8 of at most 123 bytes")
)

// PeerClose is the error of Endpoint.Closed when the peer closed with a close frame.
type PeerClose struct {
	Code   uint16 // CodeNoStatus if the frame carried none
	Reason string // UTF-8, at most 123 bytes
}

// Error implements error.
func (e *PeerClose) Error() string {
	return fmt.Sprintf("the peer closed with code %d %q", e.Code, e.Reason)
}

// Violation is the error of Endpoint.Closed when the peer broke the protocol or a limit. The peer was told Code and
// Reason in a close frame.
type Violation struct {
	Code   uint16 // CodeProtocol, CodeInvalidData or CodeTooBig
	Reason string // what was wrong
}

// Error implements error.
func (e *Violation) Error() string {
	return fmt.Sprintf("the peer was closed with code %d: %s", e.Code, e.Reason)
}

// Closing is the error of Endpoint.Closed after Conn.SendClose: this side closed.
type Closing struct {
	Code   uint16
	Reason string
}

// Error implements error.
func (e *Closing) Error() string {
	return fmt.Sprintf("this side closed with code %d %q", e.Code, e.Reason)
}

// Config holds the settings of a Server. The zero value means the defaults.
type Config struct {
	// HeadBytes bounds the head of an upgrade request; 0 means DefaultHeadBytes. A larger one is answered with 431.
	HeadBytes int
	// HandshakeTimeout is the time from accepting to a complete request head; 0 means DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration
	// MessageBytes bounds a received message, whether in one frame or in fragments; 0 means DefaultMessageBytes, and
	// MaxMessageBytes is the most.
	// Conn.SetMessageLimit changes it for one connection.
	MessageBytes int
	// PingInterval is the silence after which a peer is pinged; 0 means DefaultPingInterval, negative never.
	PingInterval time.Duration
	// PingMisses is how many pings in a row may bring nothing; 0 means DefaultPingMisses.
	PingMisses int
	// Gate, if not nil, decides on connections before anything is read, for example by address.
	Gate Gate
}

// Gate admits connections. Its methods are called concurrently and must not block.
type Gate interface {
	// Enter is called for each accepted connection; an error refuses it without a word.
	Enter(remote netip.AddrPort) error
	// Leave is called once for each connection that Enter admitted, when it has ended, after Endpoint.Closed.
	Leave(remote netip.AddrPort)
}

// Handler decides on upgrades.
type Handler interface {
	// Upgrade returns the endpoint of a new connection, or why there is none; exactly one of the two is not nil. The
	// request is valid only during the call. If an endpoint is returned, its Opened is called next and, whatever
	// happens, its Closed in the end.
	Upgrade(r *Request) (Endpoint, *Refusal)
}

// Refusal is the answer to a request that is not upgraded.
type Refusal struct {
	Status int    // HTTP status, 400 to 599
	Text   string // sent as the text/plain body
}

// Endpoint receives what happens on one WebSocket connection; see the package comment for order and concurrency.
type Endpoint interface {
	// Opened is called first, when the upgrade has been answered; messages may be sent from now on.
	Opened(c *Conn)
	// Receive hands over one message. payload is valid only during the call and may be changed. If binary is false,
	// payload is valid UTF-8. wait > 0 means that the message was not taken: reading pauses, and the same message,
	// which must not have been changed then, is presented again after that time.
	Receive(c *Conn, binary bool, payload []byte) (wait time.Duration)
	// Tick is called about every second, also while Receive has asked to wait.
	Tick(c *Conn, now time.Time)
	// Closed is the last call; err is never nil: a *PeerClose, *Violation or *Closing, ErrPingTimeout, what
	// Conn.Abort was given, io.EOF when the peer vanished without a close frame, loop.ErrSlow or what the system said.
	Closed(c *Conn, err error)
}

// Stats are counters of a Server since its start, and gauges.
type Stats struct {
	Upgraded         atomic.Int64 // requests upgraded
	Refused          atomic.Int64 // requests answered with an HTTP error
	HandshakeTimeout atomic.Int64 // connections cut because their request did not come in time
	Violations       atomic.Int64 // connections closed with 1002 or 1007
	TooBig           atomic.Int64 // connections closed with 1009
	PingTimeouts     atomic.Int64 // connections aborted because pings stayed unanswered
	PongsHeldBack    atomic.Int64 // pings not answered because the peer does not read
	Messages         atomic.Int64 // messages taken by endpoints

	Open atomic.Int64 // gauge: connections with an endpoint
}
