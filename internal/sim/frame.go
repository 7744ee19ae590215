package sim

import (
	"encoding/binary"
	"errors"
)

// The opcodes of RFC 6455 section 5.2.
const (
	opText   byte = 1
	opBinary byte = 2
	opClose  byte = 8
	opPing   byte = 9
	opPong   byte = 10
)

// final is the FIN bit; masked is the MASK bit.
const (
	final  byte = 0x80
	masked byte = 0x80
)

// maxFrame bounds a frame from the hub, which sends far smaller ones.
const maxFrame = 1 << 20

var (
	errFrame    = errors.New("the hub sent a frame that is fragmented, masked, over 1 MiB or has reserved bits")
	errNotReady = errors.New("the frame is not complete")
)

// frame is one frame from the hub.
type frame struct {
	op      byte
	payload []byte
}

// appendHeader appends the header of a masked client frame (RFC 6455 section 5.2).
func appendHeader(dst []byte, op byte, length int, mask [4]byte) []byte {
	dst = append(dst, final|op)
	switch {
	case length < 126:
		dst = append(dst, masked|byte(length))
	case length <= 0xffff:
		dst = binary.BigEndian.AppendUint16(append(dst, masked|126), uint16(length))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, masked|127), uint64(length))
	}
	return append(dst, mask[:]...)
}

// appendFrame appends a masked client frame.
func appendFrame(dst []byte, op byte, payload []byte, mask [4]byte) []byte {
	dst = appendHeader(dst, op, len(payload), mask)
	for i, b := range payload {
		dst = append(dst, b^mask[i&3])
	}
	return dst
}

// parseFrame takes the first frame off b and says how long it is; errNotReady when b holds only a part of it, with the
// length if b holds the whole header, else with 0. The payload is a part of b.
func parseFrame(b []byte) (f frame, n int, err error) {
	if len(b) < 2 {
		return frame{}, 0, errNotReady
	}
	if b[0]&0xf0 != final || b[1]&masked != 0 {
		return frame{}, 0, errFrame
	}
	head, length := 2, uint64(b[1])
	switch length {
	case 126:
		if len(b) < 4 {
			return frame{}, 0, errNotReady
		}
		head, length = 4, uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if len(b) < 10 {
			return frame{}, 0, errNotReady
		}
		head, length = 10, binary.BigEndian.Uint64(b[2:])
	}
	if length > maxFrame {
		return frame{}, 0, errFrame
	}
	n = head + int(length)
	if len(b) < n {
		return frame{}, n, errNotReady
	}
	return frame{op: b[0] & 0x0f, payload: b[head:n]}, n, nil
}
