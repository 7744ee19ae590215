// Package mqtt is the server side of the MQTT transport (3.1.1 and 5.0) on top of package
// loop: it cuts bytes into control packets and keeps the rules that need no session. It knows
// no topic, no session and no device.
//
// # Use
//
//	server := mqtt.NewServer(mqtt.Config{}, handler) // a loop.Handler
//	go group.Serve(ctx, listener, server)            // TCP; ServeTLS for TLS
//	sockets := mqtt.NewWebSocket(server, …)          // an http.Handler and a net.Listener
//	go group.ServePlain(ctx, sockets, server)        // over WebSocket (6.0.0)
//	go group.ServePlain(ctx, sockets.Guests(), server.Guests()) // pages without a listed origin
//
// # What is checked here
//
// The first packet is CONNECT (3.1.0-1) and comes within Config.ConnectTimeout; it is the only
// one of its kind (3.1.0-2). Until the endpoint admits the connection a packet has at most
// Config.ConnectBytes, afterwards Config.MaxPacket, each with its header: the length that a
// packet declares is looked at before its bytes are waited for. A packet that the codec
// refuses, or that only a server may send, ends the connection: with the reason in a
// DISCONNECT where the client is a 5.0 one that has had its CONNACK (4.13.2), else without.
//
// A client from which no whole packet came for one and a half times its keep alive is gone
// (3.1.2-22); any packet counts, and so does time during which it was not read. It is noticed
// up to two seconds late.
//
// # Order and concurrency
//
// The methods of one Endpoint are called one at a time: Receive with CONNECT first, then
// Receive and Tick in any order, then Closed, once and last. None of them may block (see package
// loop). The packet and the bytes in it are valid during the call. All methods of [Conn] but
// Admit may be called from any goroutine and never block; packets leave in the order of the
// Write calls.
//
// # Loss and limits
//
// A packet that the endpoint cannot take at present (Receive's wait) is presented again while
// the socket is not read. Writing is bounded by the loop's outbox; a client that does not read
// is cut (loop.ErrSlow). An idle connection costs its Conn, its loop.Conn and its endpoint: no
// buffer, no goroutine, no timer. A client over WebSocket costs three goroutines and some
// buffers.
package mqtt
