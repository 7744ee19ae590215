// Package replay plays telemetry of the past to one listener each, as if it came now.
//
// A Manager keeps the replays; Play runs one in the goroutine of whoever has a Sink for it, such as
// a viewer's stream; StartInto makes one that the manager plays by itself, in a goroutine that Run
// waits for: into a forwarder, or to the original viewers. Nothing of a replay reaches the bus, the log or a
// device's state: it cannot be stored again by this hub. Every event carries a Mark, so that
// another Signalbox refuses it too (wire.Replayed), from a device of version 2 and in a file
// that is imported; a sink whose format has no room for the mark says so and is refused, unless
// the replay was made with Options.Unmarked.
//
//   - Order. Telemetry comes in the order of the hub's log, messages that came late included.
//     What is chosen is fixed when a replay is made: devices, times, and the log's end. The same
//     choice of the same log gives the same events each time; only the Mark's ID differs, and
//     with shifted times these.
//   - Pace. Each message has a moment on the replay's clock: by PaceReceived that of its receipt,
//     or its own time when it came after the range's end; by PaceTime its own time. The clock
//     never goes back along the log. It begins with the first message, runs Speed times as fast
//     as that of the wall (monotonic), and moments are counted from where it began, so that
//     sleeping too long does not add up. Speed 0: no waiting.
//   - Loss. None. A queue of queueBatches batches lies between history and the sink; a slow sink
//     slows its own replay and nothing else: when it is more than maxLag late, the clock is put
//     back.
//   - Viewers. A replay begins when its first sink comes. When the sink goes away, the clock
//     stands still; if none comes back within Linger, the replay ends. A newer sink takes the
//     place of an older one, which gets nothing more. Where it goes on is told by Resume.
//   - Limits. At most Config.Max replays that have not ended; maxEnded ended ones are remembered.
//     openScans replays read history at the same time, in turns, about 80 MiB each at most,
//     whatever the range; what else a replay takes is its queue.
//
// Methods of Manager may be called from any goroutine.
package replay
