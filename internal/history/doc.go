// Package history keeps the hub's one durable log, seals it into compressed chunks, and
// answers questions about the past.
//
// # The intake log
//
// Append gives an entry its place in the log at once and returns; a single goroutine
// commits what has gathered, one transaction and one fsync at a time. What needs an
// acknowledgement waits for its position: Wait, or OnCommit for those who must not block.
//
//   - Order. Positions are dense and grow by one; commits happen in that order, so
//     Committed() >= p means that everything up to p is on disk. Announce sees the entries
//     in the same order, before they are on disk.
//   - Waiting. A commit starts as soon as the previous one has ended and some entry's
//     Urgency asks for it. No entry waits longer than Config.MaxWait (50 ms) for its commit
//     to start.
//   - Loss. After a crash the log ends at the last commit; nothing acknowledged is lost,
//     because acknowledgements wait. Append refuses with ErrFull when Config.MaxPending
//     bytes wait for a commit or for the sealer; callers push back on whoever sends, and
//     nothing is dropped.
//   - Faults. When a commit fails (a full disk) it is tried again until it succeeds; Err
//     tells meanwhile. Entries keep their positions.
//   - Riders. What Ride gives goes along with a commit that happens anyway.
//   - Pairs. What AppendBoth takes is in one row: both entries are on disk, or none is.
//   - Cursors. A position is given out as a cursor (Log.Cursor), with the epoch that it is of: each
//     Open begins one. After a crash, or a restore from an older backup, positions are given
//     again; Log.Place tells that a cursor leads to what was lost, or is another hub's.
//   - Following. Log.Since gives what is on disk behind a position, once and in order, however it
//     moves meanwhile; but for what was imported (signalbox.EntryImported), which is no news. When
//     retention has dropped something of that, or does while it is read, SinceQuery.Gap is told: by
//     marks of how far that has gone, which are in the transactions that drop. They are one for all
//     devices, so who asks for some may be told of what was others'. What was imported, and what was
//     of devices that were removed (Unmissed), leaves no gap, nor does what the log still has. A
//     database that retention touched before there were marks has none of that.
//   - Records of the broker (signalbox.EntryBroker) are in the log alone: they are not
//     announced, not sealed, part of no answer, and leave with their row.
//
// # Sealing
//
// A second goroutine, the sealer, takes what is committed into runs, one a device, in memory
// (package chunk). A run is cut into a chunk when it has 1,024 messages or takes 64 KiB, or
// when it is the oldest and what is in no chunk yet has reached a limit: Config.TailBytes of
// memory, TailEntries of the log, TailRows of its rows; and when its device has been silent for
// Config.Cold, so that an idle device has nothing in memory. So memory is bounded whatever the
// number of devices, a slow device does not hold up the log for ever, and a start has a
// bounded part of the log to read again. Chunks are written with the commits of the log, in
// their transactions. Rows of the log whose entries are all in chunks on disk, and which no
// Hold needs, are deleted the same way. A third goroutine merges the small chunks that slow
// devices leave.
//
//   - Loss. A cut run is in the log until the transaction that writes its chunks. A start
//     reads the log and passes over what is in chunks: a run is cut as a whole, so that is all
//     up to the last position of the device's chunks. A kill at any moment leaves each message
//     in the log or in one chunk, or in both in a way that the start knows.
//   - Two sequences. The chunks of a device's main sequence follow each other in time as they
//     do in the log: t0 of each is at least t1 of the one before. Messages older than the end
//     of that, when their run is cut, go into chunks of their own, marked late. Within a run
//     order does not matter. A question reads the main sequence along an index, and late chunks
//     of its time beside it.
//   - Reading sees the log and the chunks as one, and what was committed before the question.
//     It waits for the sealer, which is behind by a part of a millisecond, or at most by the
//     rows of a commit. Chunks are read into memory a few at a time; no question holds up a
//     writer. When chunks are merged under a question it is asked again.
//   - Broken chunks are found by their checksum, named in the log and passed over.
//   - What is no telemetry (presence, commands, alerts) is sealed the same way, under device 0;
//     records of the broker are passed over.
//     Boot marks and sequence numbers of devices are kept as long as the log has the entry.
//     Chunks keep which messages were imported, also when they are merged. Those that were made
//     before the format had room for it (its version 2) do not know, and Since gives all they have.
//
// # Format on disk
//
// One row a commit in table intake. Its body is zstd of the entries one after another:
//
//	kind     byte       signalbox.EntryKind; bit 7: time follows, bit 6: boot and seq follow
//	device   uvarint
//	received uvarint    µs since the previous entry of the row (the row's received_us for the first)
//	[time    uvarint]   µs before received
//	[boot    8 bytes, little endian; seq uvarint]
//	length   uvarint, then that many bytes of body
//
// Rows of table chunk have a body in the format of package chunk, which has a version of its
// own; it refers to forms of messages in table shape. The body of an event is its kind (a
// byte), its device (uvarint), and what it was in the log. In table meta, history_mark is the
// number of the first chunk that may have messages that are in the log as well, and
// history_span the most positions between the ends of a chunk. history_dropped are the highest
// positions of telemetry, and of what is no telemetry, that retention has dropped ever:
// «18233,17000». log_epochs are the newest 256
// epochs and their first positions, the oldest first: «k3f9q2ab:1,m2x7aa0z:18233».
package history
