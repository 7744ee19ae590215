package loop

import (
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"
)

// Defaults and fixed sizes.
const (
	DefaultReadBuffer       = 64 << 10         // bytes
	DefaultOutboxBytes      = 64 << 10         // bytes
	DefaultCloseTimeout     = 5 * time.Second  // flushing and waiting for the peer's end
	DefaultHandshakeTimeout = 10 * time.Second // TLS handshake, with the wait for its turn
	DefaultHandshakes       = 256              // TLS handshakes at a time
	TickInterval            = time.Second      // about how often each Stream.Tick is called

	// smallRead bounds one read, in bytes, of a connection that had to be paused, and of every connection of a loop
	// with many paused ones: kept bytes cost memory.
	smallRead = 4 << 10
	// manyPaused is the number of paused connections of a loop from which all its reads are small.
	manyPaused = 256
	// lingerBytes is how much is discarded from a peer that goes on sending after Conn.Close.
	lingerBytes = 1 << 20
	// stopLinger is how long a group that stops waits for the end of a peer that has got all.
	stopLinger = time.Second
)

// Reasons for a connection's end, as Stream.Closed and Conn.Write report them.
var (
	// ErrClosed says that this side closed the connection by Conn.Close.
	ErrClosed = errors.New("the connection was closed by this side")
	// ErrSlow says that the peer read too slowly and its outbox was full (policy slow_reader).
	ErrSlow = errors.New("the connection was cut because the peer reads too slowly: its outbox is full")
	// ErrPending says that the stream left more bytes unconsumed than Handler.PendingLimit allows.
	ErrPending = errors.New("the connection was cut because it holds more unconsumed bytes than allowed")
	// ErrBusy says that too many TLS handshakes were under way for this one to get its turn.
	ErrBusy = errors.New("the connection was cut because too many TLS handshakes are under way")
	// ErrStopped says that the group was closed.
	ErrStopped = errors.New("the connection was cut because the server stops")
)

// Config holds the settings of a Group. The zero value means the defaults.
type Config struct {
	// Loops is the number of epoll loops; 0 means GOMAXPROCS, but not more than there are processors. Systems without
	// epoll ignore it.
	Loops int
	// ReadBuffer is the most, in bytes, that is read from a connection per turn; 0 means DefaultReadBuffer.
	ReadBuffer int
	// OutboxBytes bounds what waits to be sent to one connection; 0 means DefaultOutboxBytes.
	OutboxBytes int
	// CloseTimeout bounds what follows Conn.Close; 0 means DefaultCloseTimeout.
	CloseTimeout time.Duration
	// HandshakeTimeout bounds a TLS handshake with the wait for its turn; 0 means DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration
	// Handshakes is how many TLS handshakes are done at a time, a quarter of them with one address; 16 times as many
	// wait for their turn, the next ones are refused. 0 means DefaultHandshakes.
	Handshakes int
	// MaxSockets bounds about the sockets open at a time, those included that wait for the peer's end after Conn.Close:
	// what is accepted beyond it is closed at once, so that the process has files left for other things. 0: no bound.
	MaxSockets int
	// Logger gets faults of accepting; nil means none.
	Logger *slog.Logger
}

// Handler makes streams. Its methods are called concurrently.
type Handler interface {
	// Open is called once for each accepted connection, before anything is read and before a TLS handshake. It must not
	// block, nor write. An error refuses the connection: it is closed at once, without a word, and Closed is not called.
	Open(c *Conn, remote netip.AddrPort) (Stream, error)
	// PendingLimit is the most bytes a stream of this handler may leave unconsumed to wait for more, for example the
	// largest frame with its header. It is asked once for each listener.
	PendingLimit() int
}

// Stream receives what happens on one connection; see the package comment for order and concurrency.
type Stream interface {
	// Data hands over received bytes: those left unconsumed by the previous call, in front, and new ones. It returns
	// how many were consumed. The rest is kept and presented again when more has arrived, or, with wait > 0, after
	// that time, until when the socket is not read. With n == len(b), wait > 0 only delays reading.
	// b is valid only during the call; the stream may change it, and kept bytes stay as changed.
	Data(b []byte) (n int, wait time.Duration)
	// Tick is called about every TickInterval, spread over time, also while reading is paused.
	Tick(now time.Time)
	// Stop is called when the group closes: the stream should end its connection soon, usually by Conn.Close.
	Stop()
	// Closed is the last call: the connection has ended because of err, which is never nil.
	Closed(err error)
}

// Stats are counters of a Group since its start, and gauges. All sizes are bytes.
type Stats struct {
	Accepted     atomic.Int64 // connections accepted
	AcceptErrors atomic.Int64 // failed accepts, such as too many open files; accepting goes on after a short wait
	Refused      atomic.Int64 // connections refused by Handler.Open, or because of Config.MaxSockets
	TLSErrors    atomic.Int64 // TLS handshakes that failed or took too long
	TLSBusy      atomic.Int64 // connections cut because their TLS handshake did not get its turn
	SlowReader   atomic.Int64 // connections cut because their outbox was full
	PendingFull  atomic.Int64 // connections cut because of Handler.PendingLimit
	Pauses       atomic.Int64 // times that Data asked to wait
	BytesIn      atomic.Int64 // bytes received
	BytesOut     atomic.Int64 // bytes sent

	Open       atomic.Int64 // gauge: connections with a stream
	Lingering  atomic.Int64 // gauge: connections closed by this side that wait for the peer
	Paused     atomic.Int64 // gauge: connections not read at present because Data asked to wait
	Handshakes atomic.Int64 // gauge: TLS handshakes being done
}
