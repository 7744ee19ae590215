// Package packet is the wire format of MQTT 3.1.1 (OASIS 2014, protocol level 4) and 5.0
// (OASIS 2019, protocol level 5): every control packet, every property, topic names and
// topic filters. Both sides of the wire use it: the broker, simulated devices, tests.
//
// Contract. Decoding takes one whole packet (Size tells where it ends) and neither keeps nor
// changes nor copies its bytes: what a [Packet] says are slices of the input, valid as long as
// that is. It refuses whatever the standards call malformed or a protocol error that one packet
// alone shows: an [Error] with the reason code that 5.0 wants, the statement or section, and
// plain words. What depends on who sent the packet is [Packet.FromClient] and
// [Packet.FromServer]; whether a payload is the UTF-8 it says it is, [CheckPayload]. Decoding
// does not allocate for PUBLISH (unless its user properties stand apart) and its
// acknowledgements, PINGREQ and DISCONNECT; a Packet may be used again for the next packet,
// and keeps its memory of filters. Encoding appends to a slice and checks nothing but lengths:
// callers give valid values, and get nothing appended for what does not fit the format.
//
// Statements are named as the standards name them, [MQTT-3.3.1-4], of 5.0 unless 3.1.1 is
// named; a number alone is a section of 5.0.
//
// Nothing here knows a connection, a session or a device. All functions are pure and may be
// called from any goroutine.
package packet
