// Package gateway speaks the device protocols, versions 1 and 2, over WebSocket: it turns
// frames into nouns for ingest and command, and commands into frames. It is push style: a
// transport calls Receive, and Send never waits.
//
// Contract. One connection's frames are handled one at a time, in order, on its event loop;
// nothing here waits for a disk or a network. A login that fails touches nothing of the
// device. A login that succeeds takes the device over from an older connection, which is
// closed at once; from then on the older one's frames count for nothing (fencing number).
// When the log is full or a device sends faster than allowed, the answer to the transport is
// «later»: the socket is not read until then, and no frame is dropped.
//
// «saved» is sent by one goroutine (Run) after the commit that it tells of; of several
// sequence numbers settled by one commit only the highest is told.
//
// # Viewers
//
// The port is that of the original viewers, too (package compat): the first frame decides. A text
// that is one of their words hands the connection over for good, whether they are admitted or not;
// until then it falls under the limits and the timeout of a device that has not logged in. A page
// of the Origin null may connect where viewers may, and be nothing else.
//
// # The protocols
//
// Version 1 is byte for byte the original remote-control server's: nothing is sent on
// success, errors are {"error": "…"} as Python's json.dumps writes them, then code 1000.
// Version 2 is asked for by "v":2 in the auth frame, the subprotocol signalbox.v2, or HTTP
// Basic credentials in the upgrade.
//
//	device → hub  auth, telemetry (seq, ts), ack, result, ping
//	hub → device  auth_ok, command, saved, pong, {"error":code,"message":words}
//
// Reserved keys of version 2: type, seq, ts, v, boot. A frame of another type, or with a
// field of no allowed value, is answered with an error and otherwise ignored; the connection
// stays. Version 1 ignores frames of another type without a word.
//
// # Refused logins
//
// auth.DeviceLogins decides how often a secret is checked. The log tells of the first
// refused login of a name at an address, and then at most once a minute of how many more
// there were; it keeps at most 256 of those in mind and puts the rest into one line. What MQTT
// clients are refused (topics, payloads, commands) is told in the same way. A token or a
// secret that was sent as a name never stands in a line: of a name that no device has it tells only
// when a secret came with it, and when it does not look like one itself.
//
// # Budgets
//
// A device's messages cost its budget, whoever publishes them; a client that is no device has one
// for its connection, too. Nothing is dropped: who cannot pay is not read for a while.
package gateway
