// Package transfer writes telemetry to files that other programs read, and takes files of
// telemetry into history: CSV, NDJSON, Parquet, and dumps of a table of the M2M original.
//
// # Contract
//
//   - Order. An export is ordered by time and, within equal times, by position in the log. An
//     import appends the messages of one device after another, each by time and, within equal
//     times, as they stand in the file.
//   - Loss. NDJSON and Parquet carry each object byte for byte; CSV carries fields, so nesting
//     and the difference between 90 and "90" are lost. The time of receipt is exported but not
//     imported: a message of an import is received when it is imported.
//   - Twice is once. A message is identified by device, time and the bytes of its object, and
//     counted: the second of two equal ones in a file is compared with the second that history
//     has. So importing twice changes nothing, whatever the order of the file, and an import
//     that was killed is completed by doing it again.
//   - Faults. A file that cannot be read to its end changes nothing: it is read and sorted as a
//     whole first. A single row that cannot be taken is refused with its line and the reason,
//     and the others are imported.
//   - Replays. A message with the mark of a replay (wire.Replayed), in its object, beside it on
//     its line of NDJSON, or in a column replay.hub, is refused like that: the past is not
//     stored as if devices had reported it now.
//   - Limits. An object has at most MaxObject bytes. An import keeps about 100 MB in memory and
//     the rest of the file in temporary files; an export a slice of history (see history.ScanTime)
//     and one row group.
//   - Concurrency. Each value belongs to one goroutine. Two imports that run at once could both
//     add a message that both have: the caller runs one at a time.
//
// # CSV
//
// RFC 4180 with \n. The columns are time, received, device, and one a field, named by its
// dotted path; a field that is called like one of the first three has «fields.» in front. A
// reader finds columns by the names of the first line, in any order, separated by commas,
// semicolons or tabs. A cell that is a JSON number, true or false becomes that, spelled as it
// was; an empty one is no field; all else is a string.
//
// # NDJSON
//
// One object a line: device, time, received, and object. Where an object holds line breaks
// between its members, raw has it as a string instead of object, so that no byte is lost.
//
// # Parquet
//
// Columns time and received (timestamps in µs, UTC), device (dictionary), object (JSON), and a
// column for each chosen field. Row groups have at most 65,536 rows or about 16 MiB.
//
// # Dumps
//
// What mysqldump and mariadb-dump write. Only INSERT and REPLACE statements of one table are
// taken, and CREATE TABLE for the order of its columns.
package transfer
