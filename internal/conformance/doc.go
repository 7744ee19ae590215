// Package conformance holds the MQTT broker to the standards, from outside: its tests start
// the whole hub, speak to it over real sockets, packet by packet, and know none of its parts.
// There is no code here but tests.
//
// A check (see check) is named by the numbers of the normative statements that it holds, of
// MQTT 3.1.1 (OASIS 2014) and 5.0 (OASIS 2019), and runs once for each version that it has
// numbers of. docs/mqtt-conformance.md lists every statement of both standards with the
// checks that hold it, or the reason why none can; a test compares the document, the checks
// and the lists of numbers in testdata.
//
// Beside the statements there are clients that were written elsewhere (mosquitto_pub and
// mosquitto_sub, Python's paho, Go's paho of both versions), the state of sessions across a
// kill, and what the hub must survive: mutated packets, clients that never read, half-open
// connections, abused topics, used-up packet identifiers.
package conformance
