package ws

import (
	"encoding/binary"
	"fmt"
	"time"
	"unicode/utf8"

	gobwas "github.com/gobwas/ws"
)

// Parts of a frame's header (RFC 6455 section 5.2).
const (
	finBit     = 0x80
	rsvBits    = 0x70
	opBits     = 0x0f
	controlBit = 0x08
	maskBit    = 0x80

	opContinuation = byte(gobwas.OpContinuation)
	opText         = byte(gobwas.OpText)
	opBinary       = byte(gobwas.OpBinary)
	opClose        = byte(gobwas.OpClose)
	opPing         = byte(gobwas.OpPing)
	opPong         = byte(gobwas.OpPong)

	length16   = 126 // a 16-bit length follows
	length64   = 127 // a 64-bit length follows
	maxControl = gobwas.MaxControlFramePayloadSize
	maxHeader  = gobwas.MaxHeaderSize
)

// joined is a fragmented message being received.
type joined struct {
	binary bool
	b      []byte
	valid  int // bytes of b known to be UTF-8
}

// frame is a received frame's header and where its payload lies.
type frame struct {
	fin    bool
	op     byte
	header int // bytes, mask included
	size   int // bytes of payload
}

// receive handles the complete frames in b and returns how many bytes were used up; with wait > 0 the endpoint did not
// take the message at b[n:].
func (c *Conn) receive(b []byte) (n int, wait time.Duration) {
	for !c.ended.Load() {
		f, whole, violation := c.parse(b[n:])
		if violation != nil {
			c.fail(violation)
			break
		}
		if !whole {
			break
		}
		end := n + f.header + f.size
		payload := unmask(b[n+f.header-4 : end])
		if f.op&controlBit != 0 {
			c.control(f.op, payload)
		} else if wait = c.data(f, payload); wait > 0 {
			break
		}
		n = end
	}
	return n, wait
}

// parse reads the header at the front of b and checks what it says. whole reports whether all of the frame is there.
func (c *Conn) parse(b []byte) (f frame, whole bool, v *Violation) {
	if len(b) < 2 {
		return f, false, nil
	}
	f = frame{fin: b[0]&finBit != 0, op: b[0] & opBits, header: 6, size: int(b[1] &^ maskBit)}
	switch {
	case b[0]&rsvBits != 0:
		return f, false, protocol("reserved bits must be zero")
	case f.op > opBinary && f.op < opClose || f.op > opPong:
		return f, false, protocol("the opcode is reserved")
	case b[1]&maskBit == 0:
		return f, false, protocol("frames to a server must be masked")
	case f.op&controlBit != 0 && !f.fin:
		return f, false, protocol("a control frame must not be fragmented")
	case f.op&controlBit != 0 && f.size > maxControl:
		return f, false, protocol("a control frame must not exceed 125 bytes")
	case f.op == opContinuation && c.joined == nil:
		return f, false, protocol("there is no message to continue")
	case (f.op == opText || f.op == opBinary) && c.joined != nil:
		return f, false, protocol("a message began before the previous one ended")
	}
	size := uint64(f.size)
	switch f.size {
	case length16:
		if f.header = 8; len(b) < 4 {
			return f, false, nil
		}
		if size = uint64(binary.BigEndian.Uint16(b[2:])); size < length16 {
			return f, false, protocol("the length is not in its shortest form")
		}
	case length64:
		if f.header = 14; len(b) < 10 {
			return f, false, nil
		}
		size = binary.BigEndian.Uint64(b[2:])
		switch {
		case size>>63 != 0:
			return f, false, protocol("the length is negative")
		case size <= 0xffff:
			return f, false, protocol("the length is not in its shortest form")
		}
	}
	if f.op&controlBit == 0 {
		have := 0
		if c.joined != nil {
			have = len(c.joined.b)
		}
		if limit := int(c.limit); have > limit || size > uint64(limit-have) {
			return f, false, &Violation{
				Code: CodeTooBig, Reason: fmt.Sprintf("a message must not exceed %d bytes", c.limit),
			}
		}
	}
	f.size = int(size) // not above c.limit
	return f, len(b) >= f.header+f.size, nil
}

// unmask takes the mask and the payload after it, and returns the payload in clear. The mask is made zero, so that the
// same bytes may be presented again.
func unmask(b []byte) []byte {
	mask, payload := [4]byte(b), b[4:]
	if mask != [4]byte{} {
		gobwas.Cipher(payload, mask, 0)
		clear(b[:4])
	}
	return payload
}

// data handles a text, binary or continuation frame.
func (c *Conn) data(f frame, payload []byte) (wait time.Duration) {
	switch {
	case f.op == opContinuation:
		return c.join(f.fin, payload)
	case !f.fin:
		c.joined = &joined{binary: f.op == opBinary}
		return c.join(false, payload)
	case f.op == opText && !utf8.Valid(payload):
		c.fail(notUTF8())
		return 0
	}
	return c.message(f.op == opBinary, payload)
}

// join handles a fragment.
func (c *Conn) join(last bool, payload []byte) (wait time.Duration) {
	j := c.joined
	before, b := len(j.b), j.b
	b = append(b, payload...)
	valid := j.valid
	if !j.binary {
		valid += utf8Prefix(b[valid:])
		if rest := b[valid:]; len(rest) > 0 && (last || utf8.FullRune(rest)) {
			c.fail(notUTF8())
			return 0
		}
	}
	if last {
		if wait = c.message(j.binary, b); wait > 0 {
			j.b = b[:before] // the room is kept, the fragment comes again
			return wait
		}
		c.joined = nil
		return 0
	}
	j.b, j.valid = b, valid
	return 0
}

// message gives a message to the endpoint.
func (c *Conn) message(isBinary bool, payload []byte) (wait time.Duration) {
	if wait = c.endpoint.Receive(c, isBinary, payload); wait <= 0 {
		c.server.stats.Messages.Add(1)
	}
	return wait
}

// control handles a close, ping or pong frame.
func (c *Conn) control(op byte, payload []byte) {
	switch op {
	case opPing:
		c.pong(payload)
	case opClose:
		code, reason := CodeNoStatus, payload
		if len(payload) >= 2 {
			code, reason = binary.BigEndian.Uint16(payload), payload[2:]
		}
		switch {
		case len(payload) == 1:
			c.fail(protocol("a close frame must not carry one byte"))
		case len(payload) >= 2 && !validCode(code):
			c.fail(protocol("the close code is not allowed"))
		case !utf8.Valid(reason) && len(payload) > 0:
			c.fail(&Violation{Code: CodeInvalidData, Reason: "the close reason is not UTF-8"})
		default:
			c.close(code, "", &PeerClose{Code: code, Reason: string(reason)})
		}
	}
}

// utf8Prefix returns how many bytes at the front of b are whole valid characters; up to three bytes of a character that
// more bytes may complete can be left. If more are left, or they cannot be completed, b is invalid there.
func utf8Prefix(b []byte) int {
	n := len(b)
	for back := 1; back <= min(3, n); back++ {
		if utf8.RuneStart(b[n-back]) {
			if !utf8.FullRune(b[n-back:]) {
				n -= back
			}
			break
		}
	}
	if utf8.Valid(b[:n]) {
		return n
	}
	return 0 // b[0:] then starts with a whole character or an error: see join
}

func protocol(reason string) *Violation { return &Violation{Code: CodeProtocol, Reason: reason} }

func notUTF8() *Violation {
	return &Violation{Code: CodeInvalidData, Reason: "a text message must be UTF-8"}
}
