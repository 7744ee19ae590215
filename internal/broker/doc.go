// Package broker is the core of the MQTT broker (3.1.1 and 5.0): sessions, subscriptions,
// routing, flow control, retained messages, wills. It knows packets and connections, no
// sockets and no devices: the gateway decides who may do what and gives what is telemetry to
// the roads, as the broker's Taker.
//
// # Sessions
//
// A session belongs to an owner (a device, a token, an anonymous address) and is found by
// owner and client identifier, so that nobody can take over another one's session by its
// client identifier. An owner with Hello.Single has one session whatever identifier it
// sends. A session that outlives its connection (5.0 Session Expiry Interval above 0, 3.1.1
// Clean Session 0) is durable: its state is kept by package durable. One that does not is in
// memory alone; the standards let it end with the connection.
//
// # Order
//
// Messages of one publisher with one quality of service reach each subscriber in the order
// in which they came (4.6.0). Packet identifiers of messages to a client follow from their
// number in the session's queue (n mod idQueue + 1), so that they are the same after a
// restart, without being written anywhere. Commands, which are in no queue, have identifiers
// of their own above these.
//
// A session gets a message once, however many of its subscriptions match: with the highest of
// their qualities of service and all their identifiers (5.0, 3.3.4). Shared subscriptions count
// each for itself: one member of the group gets the message, in turn one that is connected and
// has room, else one that is connected, else one with a queue on disk. What a member has not
// acknowledged when it goes stays its own.
//
// # What an acknowledgement means
//
// PUBACK and PUBREC are sent after the commit of all that the message brought: the roads'
// entry, its place in durable queues, the retained message, and for quality of service 2 its
// packet identifier. CONNACK and SUBACK of a durable session are sent after the commit of
// what they tell. PUBREL to a subscriber is sent after its PUBREC is on disk, PUBCOMP to a
// publisher after the identifier is forgotten on disk. Acknowledgements of a connection
// leave in the order of what they acknowledge. A subscriber's PUBACK is written down within a
// tenth of a second, and when its connection ends: a kill in between sends a message again.
//
// A message with quality of service 2 is sent to a durable session after the commit of its place in
// the queue, and what stands behind it with it: a kill would give its identifier to another message.
// One with 1 may be sent before. A CONNACK with Clean Start waits for the end of the old session.
//
// Messages that are sent again are marked as duplicates, and no others (3.3.1.1). After a kill it
// is not known what a durable session was sent last: what is marked then goes up to a window
// beyond what was, at most Config.Inflight messages, for the sender stays behind a mark on disk.
//
// # Retained messages
//
// A new subscription gets what was retained when it was made, but for what is replaced or
// removed before it is sent; of that, as of what is retained later, the session hears as of any
// message. So it gets each message once, and none after the one that replaced it with the same
// quality of service.
//
// The giving goes on with the next connection where it was when the one before ended. After a kill
// it begins again for subscriptions that had not got all: messages with quality of service 1 may come
// again then, those with 2 do not, those with 0 may.
//
// Expiry and will delay of a session that was connected until a kill count from the next start.
//
// Duplicates are recognised within a session: quality of service 2 by the identifier, on
// disk; 1 by the identifier of a publish whose PUBACK has not left yet. Beyond that 1 is at
// least once.
//
// Answers that say that something failed have a reason string of at most 160 bytes for 5.0 clients
// that want it and take a packet of that size (3.1.2.11.7); not while very many answers wait.
//
// # Loss
//
// Messages with quality of service 0 are handed to a connection at once. While a quarter of its
// outbox waits for the socket they wait too, up to half an outbox (1 MiB in a burst to a connection
// that took all before); what is beyond is dropped for it (slow_reader, counted), and so is what is larger than the client or the outbox takes (too_large)
// or has expired. Others wait in the session's queue, which is bounded in messages and bytes; a message for a full queue is
// dropped for that session (queue_full, counted), so that what a subscriber gets is without a
// gap up to there. What all share is bounded as well, for one owner to a part of it (see Config), but
// a little may always wait for each session; Crowded tells when that counts. Of a durable session the queue is on disk, and only a window of it in
// memory. Nothing that a subscriber does or does not do slows a publisher.
//
// When the log is full, or the publisher has more unacknowledged messages than its receive
// maximum lets it have, it is not read from for a while; nothing is dropped.
//
// # Concurrency
//
// The methods of a Session are called by its connection's event loop, one at a time, and never
// block. Messages are written to connections by a few goroutines of the broker (senders),
// which collect what waits for a session into one write. Peer's methods may be called with
// the broker's locks held: they must not block, nor call the broker.
package broker
