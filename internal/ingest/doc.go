// Package ingest is the telemetry road, the way in: what a device says is checked, stamped,
// kept in the log, put into the device's state and announced.
//
// Contract. Callers are the transports' event loops: nothing here waits. For one device,
// order is kept, and log, state and announcement agree, because all of it happens under the
// device's lock. A message from a connection that is no longer the device's newest is
// dropped (Stale): the fencing number decides, not the time of arrival. When the log is full
// the answer is Full and the transport stops reading that socket until it has room;
// nothing is dropped.
//
// Presence goes the same road: Connect and Disconnect make log entries, so that history
// tells when a device was there.
package ingest
