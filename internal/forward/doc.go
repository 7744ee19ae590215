// Package forward pushes telemetry and other entries of the log to other computers: over TCP
// (connecting, or listening), UDP, WebSocket, HTTP webhooks and MQTT.
//
// # The queue
//
// The hub's one durable log is every forwarder's queue on disk: a forwarder is a cursor in it. It
// reads committed entries from there, so that a receiver that is away costs neither memory nor a
// second copy, and nothing acknowledged to a device is lost to the receiver. Limits:
// Queue.MaxEntries and Queue.MaxAge say how far a forwarder may be behind; what is older is
// skipped, counted (positions, whatever they hold) and told in the hub's log, when the forwarder
// reads on. What retention drops meanwhile cannot be forwarded: that is told in the hub's log and
// counted (Status.Gaps), once until more is dropped of what is still to be read; how many entries, and
// whether they were of the chosen devices, nobody knows. What was of a device that has been removed is
// not forwarded; types are those that devices have now.
// Telemetry that was imported is no news and is not forwarded.
//
// # Contract
//
//   - Order. Messages of one device are sent in the order of the log. A webhook that sends in
//     parallel keeps that order for each device.
//   - Loss. At least once where the transport can know what arrived: settled entries are those
//     that the receiver has (2xx, PUBACK, pong behind a frame, a line of acknowledgement) or, where
//     it cannot say, those that were written long enough ago (see the transport). The cursor is
//     the position up to which everything is settled; after a broken connection, a restart or a
//     kill -9 it goes on there. It is on disk up to half a second late, never early. UDP loses what
//     the network loses; what could not be sent is counted.
//   - Duplicates. What may have been sent before carries a mark («redelivered»): in JSON lines,
//     WebSocket frames and CloudEvents a member, in templates {redelivered}. The B2 frame has no
//     room for it. Nothing comes twice without the mark. Nothing carries it, or counts as sent,
//     of which the transport says that it cannot have left; nothing that was not handed to it does, but
//     after a kill: before anything is sent it is on disk how far that may go. One that is far behind
//     the log's end may go to the end of the batch in hand, or as far as it gets in about a second;
//     one that has caught up is flowing, and then what was committed before the kill may have been
//     sent. While its target is away, a forwarder is not flowing.
//   - Faults. A target that is away, slow, resets or answers with an error is tried again after a
//     wait that doubles from Backoff.Min to Backoff.Max, with jitter. What a receiver refuses for
//     good becomes a dead letter, to be looked at, sent again, or dropped; so does what it refused
//     Spec.Attempts times (counted in memory: a restart begins anew), and what has no usable topic.
//     A dead letter and the place behind it are on disk together: a kill neither loses nor doubles
//     it. Beyond MaxDeadLetters the oldest are dropped, and counted. When the store cannot be written,
//     a connection that is flowing goes on; none begins, and one that is behind stops where it may go
//     no further. Behind a refusal for good a sink that can be used goes on with what was read. Place
//     and figures move while a sink has a batch in hand. A forwarder is said to flow when something
//     was settled since the last fault, or nothing waits; a fault is as well that nothing of what is
//     on its way was settled for 30 s (twice Spec.Timeout if that is longer). That a listening one has
//     no receiver any more is none. Of what happens often the hub's log is told the first time, and
//     then once a minute.
//   - Places. A new forwarder begins at the log's end; that place is on disk before anything else
//     comes. One of the configuration file keeps its place by its name over restarts; when a hub
//     begins to serve (Run) and does not find it in the file any more, its place and its dead
//     letters are dropped, and the hub's log says so. After a backup was restored, all that is in
//     it may have been sent. A change, of the target too, keeps the place. Of two of one name the
//     file's runs; the other is shown with a fault.
//   - Replays play into forwarders in between, see Manager.Sink.
//   - Concurrency. Each forwarder has goroutines of its own: one that reads ahead, one that sends, and
//     one for a call to its sink that may take long. None waits for another forwarder's, but two at a
//     time (in turns) read what is far behind the log's end. Nothing here is on a device's road: entries are read when they are on disk.
//   - Safety. A target that was set through the API may not be on a private, loopback or link-local
//     address unless Config.Allow lists it; the address is checked when it is dialled, after names
//     were resolved. Redirects are not followed, proxies of the environment are not used.
//     Secrets are kept encrypted under the key file and never shown again.
//   - Limits. Config.Max forwarders, Config.MaxDeadLetters of each; MaxBatch messages at a time; some
//     4 million messages and 1 GiB of them on their way to a receiver, of which 4 bytes each are in
//     memory. A forwarder that sends takes up to 4 MiB, one that is away next to nothing.
package forward
