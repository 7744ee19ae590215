// Package target is where forwarders send to: TCP (connecting or listening), UDP, WebSocket, HTTP
// webhooks and MQTT. Each transport is a forward.Target; New makes the one that a Spec names.
//
// # Contract
//
//   - Who may call. A Target's and a Sink's methods are called by one goroutine at a time, except Broken, Err,
//     Receivers and Failed, which anyone may. settled is called from goroutines of the sink, never
//     after its Close has returned. Send borrows messages for the call.
//   - Order. What one Send hands over is sent in its order, and after what earlier ones handed over.
//   - Settled. A position is settled when the receiver has everything up to it:
//     TCP with Ack: it answered so. TCP without: its system has acknowledged the bytes, and
//     settleAfter has passed since they were written. WebSocket: it answered a ping sent behind the
//     frames. UDP: the datagrams left this computer, and nobody reported within a second that no one
//     is there. HTTP: 2xx. MQTT: PUBACK at QoS 1, PUBCOMP at QoS 2, written at QoS 0.
//   - Loss and duplicates. After a broken connection whoever sends starts again behind what was
//     settled: messages may come twice, none is left out. What a transport cannot promise is said
//     where it is written (see docs/forward-transports.md).
//   - Unsent. When Send fails it says from which message on nothing can have left: for which there was
//     no connection (HTTP), of which no byte was taken by the system (TCP), or that were not begun.
//     What a library or a receiver's buffer was given counts as begun.
//   - Waiting. Connecting, and each write or answer, has spec.Timeout. A receiver that takes nothing
//     for that long is given up. Close waits for a receiver's last word, at most closeWait for each
//     step of it, and returns whatever the receiver does.
//   - Concurrency. Every goroutine belongs to a sink or a target, whose Close waits for it.
//   - Safety. A guard checks each address when its socket is about to connect (guard.go). Redirects
//     are refused, proxies of the environment are not used, and what receivers send is bounded:
//     lines of acknowledgement, frames and answers are small, or the connection ends; and what
//     they send without end is read no faster than some 8 MiB/s.
package target
