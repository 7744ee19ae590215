// Package history keeps the hub's one durable log and answers questions about the past.
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
//     bytes wait for a commit; callers push back on whoever sends, and nothing is dropped.
//   - Faults. When a commit fails (a full disk) it is tried again until it succeeds; Err
//     tells meanwhile. Entries keep their positions.
//   - Riders. A Change given with an entry is part of the same transaction, so a table and
//     the log cannot disagree.
//
// # Format on disk, version 1
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
// The column devices holds, for each device with telemetry in the row, ordered by number:
// uvarint number (difference to the one before), uvarint distance in rows' ids from this
// row back to the device's previous row with telemetry (0: none). So the last readings of
// a device are found by following its own chain, and a scan reads only that column to
// pass over rows that do not concern it.
package history
