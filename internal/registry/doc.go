// Package registry knows every device: its name, type and secret, its latest telemetry and
// its presence. All of it is in memory; the store keeps it across restarts.
//
// Contract. Finding a device never waits for the disk. Changes to the list of devices (Add,
// Update, Remove) are on disk when they return nil, and visible to Find only then; they run
// one after another. One of which the store does not know yet whether it is stored is seen as
// soon as it does; no other is made meanwhile. A device's State is guarded by the device's own lock and written by ingest
// alone, which appends to the log under that lock, so that log order and state agree.
//
// A pending device is one that was seen without being known: it is in the list, disabled, and
// what it says is dropped and counted (NotePending), until Approve makes it one like any other
// or Remove forgets it.
//
// State is not written on each message: Checkpoint stores what changed since the last one,
// in small transactions and never ahead of the log, and Load with Replay rebuild the rest
// from the log after a stop of any kind.
package registry
