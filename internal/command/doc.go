// Package command is the command road: it records a command, finds the device, has it
// delivered, awaits the answer, and keeps an honest account of what became of it.
//
// # States
//
//	queued ──► sent ──► delivered ──► succeeded | failed
//	   │         │          │
//	   │         ├──────────┴──► timed_out ──► succeeded | failed   (a late result counts)
//	   ├─────────┴──► expired
//	   └──► canceled
//
// A command for a device that is online is recorded as sent at once: it was queued for
// no time at all. Every change is one entry of the log; the command's row follows.
//
//   - Sent means «marked as sent», and the mark is on disk before a byte is written to the
//     device. Delivered needs the device's ack, succeeded and failed its result; a result
//     without an ack implies delivered at the same time.
//   - Version 1 devices cannot answer: at most once. If the connection goes away between
//     mark and write, or the hub restarts, the command stays at sent and is never written
//     again. It never times out.
//   - Version 2 devices: at least once under one ID. A sent command without ack is written
//     again on each new connection that speaks version 2, until it is acknowledged, expired
//     or timed out. The timeout counts from the first SentAt, the time the hub was down
//     included. A connection that stopped listening (session.ErrNotListening) between mark and
//     write gets it when it listens again, in time.
//   - A connection whose commands carry no ID that the device could recognise later
//     (session.Onceler) gets nothing that may have been written before, and nothing that it got is
//     written again. Its answers count all the same.
//   - A connection that has no room (session.ErrBusy) gets what was marked for it when it has, in
//     order and in time, whatever it speaks: it stands at sent and is not written yet. At most
//     MaxActivePerDevice commands wait so for a device that cannot answer; more are lost.
//   - Expiry. A queued command whose ExpiresAt passes is expired. A sent one without ack
//     (version 2) is not written again after ExpiresAt: if the device is away at that
//     moment, it is expired then; if it is connected, it has been given the command, and the
//     timeout decides.
//   - A result that comes after timed_out still counts, and so does one after expired if the
//     command had been sent: the device did report it. Such commands are found in the store
//     for as long as they are kept. A first result is final.
//   - A queued command that the device's connection turns out to have no words for
//     (session.Chooser) goes from queued to failed, with the hub's own error: nothing of it went
//     out. If the device is online, Submit refuses it.
//   - Canceled comes from queued. The one exception is a Submit whose caller stops waiting
//     before the commit: that command is withdrawn if it has not been written yet, whatever
//     its mark, so that an error answer never hides a later delivery. Its SentAt is zero. It
//     gives its idempotency key back: the same request may be made again.
//
// # Order and loss
//
// Commands of one device go out in the order of submission, which is the order of their
// IDs: first the unacknowledged (version 2), then the queued, then the new. Nothing is
// written twice under one ID within a connection. Nothing submitted is lost: Submit
// returns when the command is on disk.
//
// # Log and table
//
// The log is the truth, the table command a late image of it. A change is durable with the
// commit of its log entry, which holds the whole command as JSON; one that cancels queued
// commands names them, so that both happen or neither. Rows are written in the background,
// half a second after a command's first change that they do not show: most commands get
// one write. A row is never ahead of the committed log, and a command stays in memory until
// its row shows its last state, so that Get, List, late results and idempotency keys see
// what has no row yet.
//
// The value command_checkpoint in the table meta is a log position: every command entry up
// to it is in the table. It is written with rows, and never ahead of them. Load reads the
// active rows, replays the log's command entries after the checkpoint, the newest of each
// command counting, and writes their rows before anything else happens. So a crash at any
// moment loses nothing, and a clean stop leaves nothing to replay. A database without a
// checkpoint is one in which rows and entries were written together; Load gives it one.
//
// Rows of a removed device are dropped: the store takes none for a device that is gone.
//
// # Confirmation
//
// While Config.ConfirmWindow after SentAt runs, telemetry received after the command was
// written is compared with it: when the field that the command's name names, as a key or a
// dotted path (wire.Field), shows the commanded value, ConfirmedAt is set. Numbers
// compare by value (90, 90.0 and "90" are equal), booleans with the words true and false, all
// else exactly. Already says that the latest telemetry before sending showed the value
// before. A newer command of the same name, once sent, ends the watching of the older one; at
// most 32 commands of a device are watched, the oldest gives way. Of commands that ended
// before their window did, the watching ends with the process.
//
// # Concurrency
//
// All methods may be called from any goroutine. Online, Ack, Result, Watching, Telemetry
// and Forget never block and call nobody back, so the caller may hold a lock of its own;
// the methods with a context may block, and call Devices: there the caller must not. A
// session can be delivered to from the moment it is attached to the table: what a protocol
// says first (auth_ok) has to be handed to the connection before. Conn.Deliver is called
// from one goroutine, with no lock held.
//
// # Limits
//
// Config bounds commands per device, commands in memory, and requests per bulk. Results
// that come for commands no longer in memory wait in a queue of 1,024; more are dropped
// and counted (Stats.Ignored). Rows that wait to be written count as commands in memory;
// while 10,000 or more wait they are written without a pause (Stats.Rushed).
package command
