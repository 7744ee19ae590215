// Package auth decides who may come in: devices by their secret, people by their
// password or browser login, programs by their token.
//
// Devices. A generated secret has 130 random bits and is kept as its SHA-256; a chosen
// or imported one may be «1234» and is kept as an HMAC-SHA-256 under a key file that
// lies outside the database and its backup. DeviceLogins.Check takes about half a
// microsecond, allocates nothing and waits for nothing but a short lock, so an event loop
// may call it.
//
// People. Passwords are kept as bcrypt. One is computed at a time, a bounded number waits
// for its turn, and whoever comes after that gets KindLimited at once. An unknown name
// costs as much as a known one. All people are admins.
//
// Programs. Tokens begin with «sbx_» and have 160 random bits; browser logins have 256.
// Both are kept as SHA-256, so who reads the database cannot log in with what is there.
//
// What the hub must be able to read again (the passwords of forwarders) is sealed by Keys.Seal
// under the same key file, so that a leaked database or backup does not give it away either.
//
// Failed logins. They are counted per name-and-address and per address (IPv6: per /64
// network), never per name alone, so nobody can lock somebody else out of their name.
// Attempts refused meanwhile cost one map lookup and do not make the wait longer. For
// people that is Backoff. For devices it is DeviceLogins: there a right generated secret is
// never delayed where a device has logged in, and a right chosen one not where its own
// device has, as long as at most 50 different wrong secrets a day are tried for that device
// from that very address. Beyond that a chosen secret, right or wrong, is checked there
// about every half hour: a secret of four digits, which would be guessed in a minute
// otherwise, holds out for months. DeviceLogins states exactly what holds, and what it costs.
//
// Concurrency. All types may be used from any goroutine. Authenticate methods read
// memory only. Every change of people, tokens and logins is in the store before the
// method returns; when a token or a login was last used is written later, by People.Run,
// and up to a minute of it may be lost in a crash. A change of which the store does not know
// yet whether it is stored has not happened here until it does; no other is made meanwhile. One process may hold a People on a
// store, because what it answers is what it loaded.
package auth
