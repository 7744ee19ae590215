// Package store keeps what must survive: devices and their state, people, tokens,
// commands, and the rows of the intake log, in one SQLite file.
//
// Contract. Update is the only way to write. Transactions run one at a time in the order
// they were asked for; a returned nil means the change is on disk (write-ahead file,
// synchronous=FULL). Reads run beside writes, each on a snapshot. Text of SQL stays in
// this package and in history; everyone else calls methods. Times are kept as Unix
// milliseconds (…_ms) or microseconds (…_us), 0 for none.
//
// The write-ahead file is moved into the database by a goroutine of this package, never
// by a writer, so that a commit costs one fsync and no more.
package store
