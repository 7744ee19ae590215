// Package durable keeps what MQTT calls session state (5.0, 4.1) and retained messages over
// a restart: sessions with their subscriptions and wills, queues of messages, identifiers of
// messages received with quality of service 2.
//
// # How
//
// As with commands, the log is the truth and the tables are a late image of it. Each change
// is a record: the body of one log entry of kind signalbox.EntryBroker, durable with the
// log's commit; such entries are not part of history: they leave the log when no table needs
// them any more (history.Hold). Some seconds later what they changed goes into the tables,
// in batches: a session's row when it changed, the messages that are still unacknowledged
// then as rows of many messages, retained messages as rows of their own. A message that was
// acknowledged before that is never written twice. The value broker_checkpoint in the table meta
// is the log position up to which the tables are whole; a start reads the tables and the
// log's records after it. Records say what is, not what to add, so that reading one twice
// does no harm: rows may be ahead of the checkpoint, but never of the committed log.
//
// A message for many queues is one record, with its text once, and is in memory once; in the
// table each queue has its own. Rows of queues whose messages are all acknowledged, or whose
// session is gone, are left over for a while, and deleted a few at a time: a start finds them by
// the numbers. The value broker_last_session in meta keeps the numbers of sessions from being
// used again when nothing else tells of them.
//
// # Contract
//
// Open comes after the log's Restore and before the log runs. Run ends before the log does, so
// that the tables are whole after an orderly stop; if it cannot write within some seconds then,
// the next start reads more of the log.
//
// Make a record, append it (or have it appended along with other entries: Record.Entry), then
// say Done, all under one lock of the caller, so that records have the order of the log; a record that
// was not appended is given back by Drop. Between the making of a record and its end the
// checkpoint stands still, so nothing is waited for there. A record is
// durable when the log is committed up to its position. What is not yet in a table is in
// memory, at most about Config.Pending bytes: beyond that Append gives history.ErrFull until the
// writer has caught up, but for records that take something away. Who has records appended by
// others asks Full before. Records about a session that is not there, or has ended, change nothing.
//
// Read gives messages of a queue, from memory or table, in order, and
// may wait for a disk; all other methods but Run and Flush do not. All methods may be called from any goroutine.
//
// While a database server is away, the log goes on (history's spool) and so do records, up to
// Config.Pending. Read then fails for what is in the table.
//
// # Faults
//
// A row that cannot be read is named in the log, counted (Stats.Broken) and passed over; so is one that
// the database refuses for its content. A record in the log that cannot be read keeps the hub from
// starting, as does a checkpoint that lies beyond the log's end.
//
// # Limits
//
// Bounds on messages and bytes of a queue and on sessions are the broker's: it decides what
// is enqueued. A message, and a session's subscriptions, have to fit a value of the database
// (store.Config.MaxValue). A session takes some 80 bytes here while nothing of it waits.
package durable
