package packet

// MaxRemaining is the largest Remaining Length (2.1.4) in bytes.
const MaxRemaining = 268_435_455

// Size tells the length in bytes of the packet that b begins with, fixed header included.
// ok is false while the fixed header is incomplete; b may hold less or more than the packet.
// It refuses a type that does not exist, flags that the type cannot have, and a Remaining
// Length of more than four bytes, each as soon as the bytes show it. Whether the length was
// written with the fewest bytes is for Decode, which knows the version.
func Size(b []byte) (total int, ok bool, err error) {
	if len(b) == 0 {
		return 0, false, nil
	}
	if !validHeader(b[0]) {
		return 0, false, headerError(b[0])
	}
	if len(b) > 1 && b[1] < 0x80 { // nearly all
		return 2 + int(b[1]), true, nil
	}
	n, shift := 0, 0
	for i := 1; i < len(b); i++ {
		n |= int(b[i]&0x7F) << shift
		if b[i] < 0x80 {
			return 1 + i + n, true, nil
		}
		if i == 4 {
			return 0, false, lengthError()
		}
		shift += 7
	}
	return 0, false, nil
}

// header reads the fixed header of a whole packet and gives what comes after it. minimal is
// false where the Remaining Length is longer than it has to be.
func header(b []byte) (body []byte, minimal bool, err error) {
	if len(b) < 2 {
		return nil, false, short("its fixed header")
	}
	if !validHeader(b[0]) {
		return nil, false, headerError(b[0])
	}
	if b[1] < 0x80 {
		if len(b)-2 == int(b[1]) {
			return b[2:], true, nil
		}
		return nil, false, remainingError(int(b[1]), len(b)-2)
	}
	n, k, minimal := varint(b[1:])
	switch {
	case k < 0:
		return nil, false, lengthError()
	case k == 0:
		return nil, false, short("its fixed header")
	}
	body = b[1+k:]
	if len(body) != n {
		return nil, false, remainingError(n, len(body))
	}
	return body, minimal, nil
}

// validHeader checks the first byte of a packet: its type, and the flags the type must have
// (2.1.3, [MQTT-2.1.3-1]; 3.1.1: [MQTT-2.2.2-1]).
func validHeader(h byte) bool {
	switch Type(h >> 4) {
	case PUBLISH:
		return h&0x06 != 0x06 && h&0x0E != 0x08
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		return h&0x0F == 0x02
	case 0:
		return false
	default:
		return h&0x0F == 0
	}
}

func headerError(h byte) error {
	t, flags := Type(h>>4), h&0x0F
	switch t {
	case 0:
		return malformed("2.1.2", "the packet type 0 is reserved")
	case PUBLISH:
		if flags&0x06 == 0x06 {
			return malformed("MQTT-3.3.1-4", "a PUBLISH has both QoS bits set; the quality of service is 0, 1 or 2")
		}
		return malformed("MQTT-3.3.1-2", "a PUBLISH with QoS 0 has the DUP flag set")
	case PUBREL:
		return malformed("MQTT-3.6.1-1", "a PUBREL has the flags %#x; they must be 0x2", flags)
	case SUBSCRIBE:
		return malformed("MQTT-3.8.1-1", "a SUBSCRIBE has the flags %#x; they must be 0x2", flags)
	case UNSUBSCRIBE:
		return malformed("MQTT-3.10.1-1", "an UNSUBSCRIBE has the flags %#x; they must be 0x2", flags)
	case DISCONNECT:
		return malformed("MQTT-3.14.1-1", "a DISCONNECT has the flags %#x; they must be 0", flags)
	case AUTH:
		return malformed("MQTT-3.15.1-1", "an AUTH has the flags %#x; they must be 0", flags)
	default:
		return malformed("MQTT-2.1.3-1", "a %s has the flags %#x; they must be 0", t, flags)
	}
}

func lengthError() error {
	return malformed("2.1.4", "the Remaining Length is longer than four bytes")
}

func remainingError(says, is int) error {
	return malformed("2.1.4", "the Remaining Length says %d bytes, the packet has %d", says, is)
}

// varint reads a Variable Byte Integer (1.5.5): its value, how many bytes it took (0: there
// are too few, -1: it is longer than four bytes) and whether it is as short as it can be.
func varint(b []byte) (value, size int, minimal bool) {
	if len(b) > 0 && b[0] < 0x80 {
		return int(b[0]), 1, true
	}
	shift := 0
	for i := 0; i < len(b) && i < 4; i++ {
		value |= int(b[i]&0x7F) << shift
		if b[i] < 0x80 {
			return value, i + 1, b[i] != 0 || i == 0
		}
		shift += 7
	}
	if len(b) < 4 {
		return 0, 0, false
	}
	return 0, -1, false
}

// varintSize is how many bytes a Variable Byte Integer takes.
func varintSize(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	default:
		return 4
	}
}

func appendVarint(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}
