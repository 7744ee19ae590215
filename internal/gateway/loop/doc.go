// Package loop carries byte-stream connections: it accepts them, hands received bytes to a Stream and sends what
// the application writes. It knows no protocol and no device.
//
// # Use
//
//	group, err := loop.New(loop.Config{})
//	go group.Serve(ctx, listener, handler)            // TCP: epoll on Linux
//	go group.ServeTLS(ctx, listener, tlsConf, handler) // TLS: a goroutine per connection
//	...
//	err = group.Close(ctx) // asks each stream to end, waits, then cuts
//
// A [Handler] makes a [Stream] for each accepted connection; the stream writes through its [Conn]. On Linux plain TCP
// connections are served by a few epoll loops ([Config].Loops), each one goroutine; an idle connection then costs its
// Conn and nothing else: no goroutine, no buffer, no timer. TLS connections, connections that are not TCP, and systems
// without epoll get a goroutine per connection behind the same contract.
//
// A TLS handshake begins when the handler has taken the connection, so that its limits hold for those connections too,
// and when it is its turn: [Config].Handshakes are done at a time, a quarter of them with one address, so that peers which
// stall theirs do not keep others out.
//
// # Order and concurrency
//
// The methods of one Stream (Data, Tick, Stop, Closed) are called one at a time, never concurrently; those of different
// streams run concurrently. A stream's methods must not block: on a loop they would hold up every other connection of
// that loop. Handler.Open runs where the stream's methods run.
//
// All methods of Conn may be called from any goroutine, also from within the stream's methods, and never block. Bytes
// leave in the order of the Write calls. What is written within Data, Tick or Open is collected and sent in one piece
// when the method returns.
//
// Lock order: a Conn's methods take only the Conn's own lock and never call the stream, so that a caller may hold its
// own locks.
//
// # Loss and limits
//
// Writing never waits: what the socket does not take goes to an outbox of at most [Config].OutboxBytes. If that
// overflows, Write returns [ErrSlow] and the connection is cut (policy slow_reader, [Stats].SlowReader): bytes already
// queued are lost, nothing is lost silently. Received bytes are never dropped: a stream that cannot take them says so
// (Data's wait), the loop stops reading that socket and TCP pushes back on the sender. Bytes a stream leaves unconsumed
// are kept up to Handler.PendingLimit plus one read; beyond it the connection is cut with [ErrPending].
//
// # End
//
// Stream.Closed is called exactly once for each stream that Open returned without an error, and is the last call. Its
// error is io.EOF when the peer closed, the reason given to Conn.Close or Conn.Abort ([ErrClosed] if none), [ErrSlow],
// [ErrPending], [ErrBusy], [ErrStopped], or what the system or the TLS handshake said.
//
// Conn.Close ends the stream at once but lets the bytes go out: the socket is flushed, its sending side shut, and what
// the peer still sends is read and discarded until it closes too or [Config].CloseTimeout is over, so that the last
// bytes are not destroyed by a reset; when the group is closed, for a second at most after the last byte went out. A peer that only shuts its sending side counts as gone.
package loop
