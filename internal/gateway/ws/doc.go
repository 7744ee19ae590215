// Package ws is the server side of WebSocket (RFC 6455) on top of package loop. It knows frames and messages and no
// device.
//
// # Use
//
//	server := ws.NewServer(ws.Config{}, handler) // a loop.Handler
//	go group.Serve(ctx, listener, server)
//
// When the head of an upgrade request is complete, Handler.Upgrade decides: it returns an [Endpoint], which then
// receives the connection's messages, or a [Refusal], which is answered. No extension is ever accepted (compression is
// declined) and no subprotocol is echoed unless the handler chooses one of those offered.
//
// # Order and concurrency
//
// The methods of one Endpoint are called one at a time, in this order: Opened, then Receive and Tick in any order,
// then Closed, exactly once and last. Handler.Upgrade and the methods of different endpoints run concurrently. None of
// them may block (see package loop). [Conn.HandOver] puts another endpoint in the place of the first. All methods of [Conn] may be called from any goroutine and never block; messages
// leave in the order of the Send calls.
//
// # What is checked
//
// All of RFC 6455 that a server has to check, before a byte of the payload is kept: masking, reserved bits, opcodes,
// size and fragmentation of control frames, order of fragments, declared lengths including negative and non-minimal ones
// (close code 1002), the size of messages (1009), the validity of close frames (1002), and UTF-8 of text messages and
// close reasons (1007). Within the message limit fragments are joined.
//
// # Loss and limits
//
// A message the endpoint cannot take at present is presented again (Receive's wait) while the socket is not read.
// Sending is bounded by the loop's outbox: loop.ErrSlow cuts the connection. Answers to pings are held back while 4 KiB
// wait to be sent: a peer that pings without reading gets fewer pongs (RFC 6455 section 5.5.3 allows to answer only the
// latest ping) and cannot make memory grow.
//
// # Life
//
// A connection from which nothing was received for Config.PingInterval is pinged, and aborted with ErrPingTimeout when
// Config.PingMisses pings in a row brought nothing: with the defaults after 60 s. Any received byte is a sign of life.
// Time during which Receive asked to wait does not count.
package ws
