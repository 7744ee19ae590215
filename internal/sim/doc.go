// Package sim plays the other end of the wire: simulated boxes, stations and sensors, the faults real boards have, and a
// load generator. It speaks public protocols alone (version 1 and 2 over WebSocket, RFC 6455; MQTT 3.1.1 and 5.0) and knows
// nothing of a hub's inside, so that what passes against it passes against boards.
//
// # Tools
//
// A [Device] is one board as it is: it reconnects every 500 ms without back-off, reports telemetry, moves its servos
// when told to, and can have one [Fault]. Over MQTT it uses the native topics signalbox/<name>/…: telemetry, command, ack,
// result, and status, which is its will. A [Sensor] is the original MQTT temperature sensor, byte for byte. A [Fleet] is
// many of them, of two goroutines each at most; it is what «signalbox sim» runs.
//
// A [Swarm] is for measuring: thousands of connections on few goroutines, each with an epoll of its own, that send
// frames or packets made beforehand. It needs Linux. A [Subscriber] is one MQTT client that counts what a swarm's messages
// become, by number and content.
//
// # Contract
//
//   - Concurrency. Run may be called once; it returns when its context ends, after all goroutines it started.
//     Stats may be called from any goroutine at any time. The methods of Swarm may be called one at a time.
//   - Order. The readings of one device leave in the order they were made, and after a reconnect from the first that
//     the hub did not call saved (QoS 1: did not acknowledge).
//   - Loss. A version 1 device loses what it cannot send, and so does an MQTT device with QoS 0. A version 2 device and one
//     with QoS 1 keep at most DeviceConfig.Buffer readings that are not saved, drop the oldest beyond that, and count them
//     in Stats.Dropped. Over MQTT they carry boot and seq, so that the hub knows those that come again.
//   - Sameness. The same seed gives the same readings, button presses and faults.
package sim
