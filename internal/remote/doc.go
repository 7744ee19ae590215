// Package remote joins external MQTT brokers as a client: what their devices publish goes
// the roads by way of package mapped, and commands go back through them.
//
// A Link is one such broker. It connects in the background, with 5.0 or 3.1.1, tries again
// with growing, jittered waits for as long as it runs, and never holds up the hub: a broker
// that is away makes /readyz say «degraded», nothing more.
//
// # What an acknowledgement means
//
// A message that came with quality of service 1 is acknowledged (PUBACK) after the commit of
// what it became, and in the order of receipt (5.0, 4.6.0). What is nothing to keep (no
// mapping has its topic, its payload is not what the mapping says, it is the hub's own
// command come back) is acknowledged in its turn without waiting for a commit, and counted. A
// hub that dies loses nothing that it acknowledged; the broker delivers the rest again.
//
// # Duplicates
//
// At least once. A message that is delivered again is recognised while the hub has not
// acknowledged it and the broker has kept the session (Session Present): it has the packet
// identifier of one that is taken already, so it is not stored twice, and acknowledged with
// that one's commit. A PUBACK that was lost on its way, and a hub that died between commit and
// PUBACK, make a message come a second time and be stored a second time.
//
// A native device that marks its power-up (boot) and numbers its messages (seq) has none of that
// stored twice, unless the subscription is shared: there order is not kept, and numbers say nothing.
//
// # The native tree
//
// With Config.Native devices that are connected to the broker speak the native protocol through
// it; what it means is in package mapped. Statuses are asked for at every connection (Retain
// Handling 0), so that a will of the meantime is heard of. In a group telemetry alone is shared:
// each hub hears every status, ack and result, and so knows who is online and what became of its
// own commands.
//
// # Sessions
//
// A link of its own keeps its session on the broker (clean start off, Config.SessionExpiry):
// messages with quality of service 1 that come while the hub is away are delivered later. With
// Config.Shared it has a shared subscription (5.0, 4.8.2), clean start, and a session that
// ends with its connection, so that the share of a hub that died goes to the others; what is
// published while no hub of the group is there is lost. The client identifier is the same at
// every start of one data directory, and differs between them: Identity.
//
// # Bounds
//
// At most Config.ReceiveMaximum messages wait to be taken or to be acknowledged. With 5.0 the
// broker is told so (Receive Maximum) and sends no more of quality of service 1; what it sends
// beyond that with 0, and all that 3.1.1 sends, waits in the socket: the link stops reading.
// When the log takes nothing for half of the keep alive, so that reading stops for as long,
// the link gives the connection up (stalled, counted) rather than let it die of missed pings,
// and joins again after a wait: messages with quality of service 1 are delivered again then;
// those with 0, which nobody can ask for again, are lost. In short pauses nothing is.
// A packet of more than Config.MaxPacket bytes is not sent by a 5.0 broker, which drops that
// message; with 3.1.1, where it cannot be told, 64 MiB are the limit that ends a connection.
//
// # Commands
//
// Publish and PublishUntil never wait. Without a connection it is an error and nothing goes out: commands
// that wait, wait in the command road's queue alone. Neither library may keep or send again
// what it could not deliver: each connection begins with an empty session on this side. What
// was handed over when a connection ended, and had not gone out, is lost and counted. A 5.0 broker
// is told how long a command is worth anything (Message Expiry Interval), so that it does not
// outlive that in the session of a device that is away; a 3.1.1 broker cannot be.
//
// # Echoes
//
// What the link publishes must not come back as telemetry if a filter covers it. With 5.0 the
// subscription says no local (3.8.3.1). Where that is not possible (3.1.1, and shared
// subscriptions, for which 5.0 forbids it) messages on topics that a command template of the
// link can make are taken for the hub's own and dropped, whoever published them: the hub may have
// sent them before it was started, or another one of the group has. Stats.Strange counts those on
// topics that this link sent nothing to in the last minute, and the log tells of them once an hour
// at most. A mapping whose filter matches nothing but such topics is refused by Check and New
// where Config.Version is 3.1.1 or Config.Shared is set; with Auto, where the broker decides, the
// log tells of it when it is joined with 3.1.1, and the status is not OK while it is.
//
// # Versions
//
// With Auto a broker that answers that it does not know 5.0 is spoken to with 3.1.1 until the hub
// ends. One that closes without an answer may be away behind a proxy: if 5.0 has worked with it
// since the start it is tried with that alone. If not, an attempt with 3.1.1 follows at once each
// one with 5.0; a connection that comes of it is not for good: the next begins with 5.0 again.
//
// # Concurrency
//
// Publish, PublishUntil, Status and Stats may be called from any goroutine. Run owns all goroutines of a
// link and waits for them. Taker is called by one goroutine of a link at a time, in the order
// in which the broker sent; of a connection that ended, what was read is taken before anything
// of the next one.
package remote
