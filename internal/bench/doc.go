// Package bench measures a hub from outside, as «signalbox bench» does: connections, telemetry, commands, the storm
// when all devices return, and what a kill leaves. It needs Linux.
//
// # Contract
//
//   - The hub under test is a child process, or a running one that the caller names. Children are ended by their
//     process id, whatever happens; a measurement leaves no process and no temporary directory behind.
//   - A hub it starts has the default configuration, whatever the environment says; only for telemetry and MQTT the limit
//     of messages per second and device is lifted.
//   - CPU seconds and memory are those of the hub's process, from /proc: they need a hub on this machine.
//   - Bytes per connection are (resident memory after a garbage collection − the same before) / connections.
//   - What discards everything is measured beside the hub: a sink on the same transport, in a child process of its own,
//     under the same load, in turn with the hub; the medians of all runs are compared.
//   - MQTT is measured beside Debian's Mosquitto, in a child process with a configuration of its own, in turn with the hub:
//     the same clients send the same bytes to both. Where Mosquitto is not installed, the report says so.
//   - Latencies are counted from when a request was due, not from when it could be sent.
//   - Nothing is reported as stored that was not found: counts come from the hub's metrics after everything is on
//     disk, and messages of sampled devices are read back and compared one by one.
//   - History is measured without a hub: its engine runs in a child of its own, which makes the load and takes the time,
//     and says what it used. A database on a server must be empty; its tables are emptied afterwards.
//
// Only one measurement may run at a time on a machine.
package bench
