// Package store keeps what must survive: devices and their state, people, tokens,
// commands, and the rows of history, in one database: SQLite in a file of the data
// directory, or MariaDB or PostgreSQL by a URL.
//
// Contract. Update is the only way to write, but for tables that are a Side's. Transactions
// run one at a time in the order they were asked for; a returned nil means the change is on
// disk. Reads run beside writes, each on a snapshot. Text of SQL stays in this package and in history; everyone else calls
// methods. Times are kept as Unix milliseconds (…_ms) or microseconds (…_us), 0 for none.
// A database belongs to one hub at a time; a second is refused.
//
// # The common SQL
//
// There is one text of each statement, for all databases: what SQLite and PostgreSQL share,
// with ? for values. It is translated once, for PostgreSQL (? to $1) and MariaDB (INSERT …
// ON CONFLICT (key) DO UPDATE SET a = excluded.a, or DO NOTHING). RETURNING works with INSERT;
// a subquery in FROM has a name; IN takes no subquery with LIMIT; values are numbers of 64 bits with a sign,
// text in UTF-8 without NUL, bytes and nil, a truth is 1 or 0. Text compares byte by byte.
// No bytes may be read as nil. Migrations are templates, see words. After a statement has
// failed its transaction cannot be committed.
//
// # SQLite
//
// Write-ahead file, synchronous=FULL. The write-ahead file is moved into the database by a
// goroutine of this package, never by a writer, so that a commit costs one fsync and no more.
//
// # Servers
//
// The writer has one session, which holds a lock on the database (GET_LOCK,
// pg_advisory_lock). When it is lost, the next Update makes another, and ends what the old
// one left at the server. A server that is away gives KindUnavailable: connecting takes at
// most Config.ConnectTimeout, and beyond that as long for the lock; a server may be silent
// for Config.Timeout in the middle of a statement. It needs sessions of its own, so no pooler
// that shares them.
//
// When the connection breaks during COMMIT, Update finds out by itself whether the change is
// stored: it asks the server for a second. Only if that cannot be asked is the error an
// UnknownOutcome. The next Update, Outcome, Settle or the background finds out then, before
// anything else is changed, and calls what the transaction gave to Tx.Then: so memory that is
// kept beside a table is never behind it, and changes that rest on it are refused meanwhile.
//
// A commit is on disk there when the server does what it says: PostgreSQL is told so for
// each session (synchronous_commit), with MariaDB innodb_flush_log_at_trx_commit must be 1.
// Open warns when a server's settings could lose acknowledged changes.
package store
