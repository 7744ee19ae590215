// Package plain keeps a table of telemetry for people who query with their own SQL: one row a
// message, beside the log and its chunks.
//
// # The table
//
// Table telemetry has (device, ts, seq, payload), with (device, ts, seq) as its key and order:
// the number of the device, the history time in UTC to the microsecond, the position in the
// log, and the object exactly as the log has it. The view telemetry_named has name and type of
// the device instead of its number. Entries of the kinds telemetry and imported become rows,
// nothing else does; those of devices that were removed do not.
//
//	           device   ts                                   seq      payload
//	SQLite     INTEGER  TEXT '2026-03-01 12:00:00.000000'    INTEGER  TEXT       WITHOUT ROWID
//	MariaDB    BIGINT   DATETIME(6)                          BIGINT   LONGTEXT   a partition a day
//	PostgreSQL BIGINT   TIMESTAMPTZ                          BIGINT   JSON       a partition a day
//
// # Contract
//
//   - A projection. The table is made from the log and answers no question of the hub: it may
//     be dropped at any time and is made anew within a minute, from all history that is kept. So it needs no
//     migrations (a table of another form is replaced) and is no part of a backup. A table or view of
//     these names that this program has not made is refused and left as it is.
//   - Order and loss. Run follows the log in transactions of bounded size. Each also moves the
//     row plain_through of table meta, from what it was, to the position up to which the table
//     is complete. So whatever dies at whatever moment, there is neither a gap nor a duplicate;
//     and a second writer, or a commit of which nobody knows whether it came through, is noticed.
//     A message that no database takes (it is checked before) is left out, counted and named.
//   - Delay. About half a second behind the log, more while it is being filled or while its
//     tables are locked by others. It never holds up the log: it reads what is committed, keeps
//     nothing in the log, and on servers has a session of its own. A database that is away makes
//     it wait. With SQLite, where there is one writer, its transactions take turns with those
//     of the log.
//   - Partitions. A day of UTC each, made two days ahead and when messages of other days come.
//     Of what was more than a year old when the table was made there is one partition for all.
//     Where MariaDB cannot make one, because others keep the table locked, rows go into what lies
//     between (p_gap, p_later), and move when it can.
//   - Retention. Retain drops the days that are over for all devices as whole partitions, and
//     what else may go row by row in bounded transactions. Whoever wants to keep a day longer
//     detaches its partition (PostgreSQL); one that somebody dropped is no fault.
//   - Concurrency. Run runs once. Retain, Behind and Stats may be called by others meanwhile.
//     Register with Open before the log runs; Close after Run and Retain have ended.
//   - Memory. One transaction's rows, and what the log's Scan takes.
package plain
