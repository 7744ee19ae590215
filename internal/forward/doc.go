// Package forward pushes telemetry and other entries of the log to other computers: over TCP
// (connecting, or listening), UDP, WebSocket, HTTP webhooks and MQTT.
//
// # The queue
//
// The hub's one durable log is every forwarder's queue on disk: a forwarder is a cursor in it. It
// reads committed entries from there, so that a receiver that is away costs neither memory nor a
// second copy, and nothing acknowledged to a device is lost to the receiver. Limits:
// Queue.MaxEntries and Queue.MaxAge say how far a forwarder may be behind; what is older is
// skipped, counted and told in the hub's log. What retention drops meanwhile is not forwarded.
// Telemetry that was imported is not forwarded as long as the log knows it as such (until sealed).
//
// # Contract
//
//   - Order. Messages of one device are sent in the order of the log. A webhook that sends in
//     parallel keeps that order for each device.
//   - Loss. At least once where the transport can know what arrived: settled entries are those
//     that the receiver has (2xx, PUBACK, pong behind a frame, a line of acknowledgement) or, where
//     it cannot say, those that were written long enough ago (see the transport). The cursor is
//     the oldest entry that is not settled; after a broken connection, a restart or a kill -9 it
//     goes on there. UDP loses what the network loses; what could not be sent is counted.
//   - Duplicates. What may have been sent before carries a mark («redelivered»): in JSON lines,
//     WebSocket frames and CloudEvents a member, in templates {redelivered}. The B2 frame has no
//     room for it.
//   - Faults. A target that is away, slow, resets or answers with an error is tried again after a
//     wait that doubles from Backoff.Min to Backoff.Max, with jitter. What a webhook refuses for
//     good becomes a dead letter, to be looked at, sent again, or dropped.
//   - Concurrency. Each forwarder has a goroutine of its own and none waits for another. Nothing
//     here is on a device's road: entries are read when they are on disk.
//   - Safety. A target that was set through the API may not be on a private, loopback or link-local
//     address unless Config.Allow lists it; the address is checked when it is dialled, after names
//     were resolved. Redirects are not followed, proxies of the environment are not used.
//     Secrets are kept encrypted under the key file and never shown again.
//   - Limits. MaxForwarders, MaxDeadLetters of each, MaxBatch messages at a time.
package forward
