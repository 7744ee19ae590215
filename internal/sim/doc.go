// Package sim plays the other end of the wire: simulated boxes and stations, the faults real boards have, and a load
// generator. It speaks public protocols alone (version 1 and 2 over WebSocket, RFC 6455) and knows nothing of a hub's
// inside, so that what passes against it passes against boards.
//
// # Two tools
//
// A [Device] is one board as it is: it reconnects every 500 ms without back-off, reports telemetry, moves its servos
// when told to, and can have one [Fault]. A [Fleet] is many of them, of two goroutines each; it is what
// «signalbox sim» runs.
//
// A [Swarm] is for measuring: thousands of connections on few goroutines, each with an epoll of its own, that send
// frames made beforehand. It needs Linux.
//
// # Contract
//
//   - Concurrency. Run may be called once; it returns when its context ends, after all goroutines it started.
//     Stats may be called from any goroutine at any time. The methods of Swarm may be called one at a time.
//   - Order. The readings of one device leave in the order they were made, and after a reconnect from the first that
//     the hub did not call saved.
//   - Loss. A version 1 device loses what it cannot send. A version 2 device keeps at most DeviceConfig.Buffer
//     readings that are not saved, drops the oldest beyond that, and counts them in Stats.Dropped.
//   - Sameness. The same seed gives the same readings, button presses and faults.
package sim
