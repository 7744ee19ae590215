package packet

import (
	"encoding/binary"
	"slices"
)

// The Append functions append one packet to b and return it longer. Properties that the packet
// may not have are left out, and all of them in 3.1.1. Of a packet that does not fit the format
// (a string over 65,535 bytes, more than [MaxRemaining] bytes after the fixed header) nothing is
// appended. What else is wrong with a value is not looked at.

// start appends the fixed header of a packet with n bytes after it, and makes room for them.
func start(b []byte, first byte, n int) ([]byte, bool) {
	if n < 0 || n > MaxRemaining {
		return b, false
	}
	b = slices.Grow(b, 5+n)
	return appendVarint(append(b, first), n), true
}

// blockSize is how many bytes the property length and the properties take: none in 3.1.1; -1
// when they do not fit.
func blockSize(v Version, p *Properties, mask uint64) int {
	if v != V5 {
		return 0
	}
	n := p.size(mask)
	if n < 0 || n > MaxRemaining {
		return -1
	}
	return varintSize(n) + n
}

func appendBlock(b []byte, v Version, p *Properties, mask uint64) []byte {
	if v != V5 {
		return b
	}
	n := p.size(mask)
	b = appendVarint(b, n)
	if n == 0 {
		return b
	}
	return p.append(b, mask)
}

// publishRemaining is the Remaining Length of a PUBLISH, -1 when it does not fit.
func publishRemaining(v Version, p *Packet) int {
	if len(p.Topic) > 65535 {
		return -1
	}
	n := 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > 0 {
		n += 2
	}
	if v == V5 {
		if p.Properties.None() {
			n++
		} else {
			block := blockSize(v, &p.Properties, inPublish)
			if block < 0 {
				return -1
			}
			n += block
		}
	}
	if n > MaxRemaining {
		return -1
	}
	return n
}

// PublishSize is how many bytes [AppendPublish] appends.
func PublishSize(v Version, p *Packet) int {
	n := publishRemaining(v, p)
	if n < 0 {
		return 0
	}
	return 1 + varintSize(n) + n
}

// AppendPublish appends a PUBLISH (3.3) with Dup, QoS, Retain, Topic, ID (unless QoS is 0),
// Properties and Payload of p.
func AppendPublish(b []byte, v Version, p *Packet) []byte {
	h := byte(PUBLISH)<<4 | p.QoS<<1
	if p.Dup {
		h |= 0x08
	}
	if p.Retain {
		h |= 0x01
	}
	b, ok := start(b, h, publishRemaining(v, p))
	if !ok {
		return b
	}
	b = appendText(b, p.Topic)
	if p.QoS > 0 {
		b = binary.BigEndian.AppendUint16(b, p.ID)
	}
	if v == V5 {
		if p.Properties.None() {
			b = append(b, 0)
		} else {
			b = appendBlock(b, v, &p.Properties, inPublish)
		}
	}
	return append(b, p.Payload...)
}

// AppendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP (3.4 to 3.7), as short as can be: in
// 3.1.1, and with Success and no properties, four bytes. In 3.1.1 r is not sent. p may be nil.
func AppendAck(b []byte, v Version, t Type, id uint16, r Reason, p *Properties) []byte {
	first := byte(t) << 4
	if t == PUBREL {
		first |= 0x02
	}
	block := 0
	if v == V5 && p != nil && p.present&inAck != 0 {
		block = blockSize(v, p, inAck)
	}
	switch {
	case block < 0:
		return b
	case block > 0:
		b, ok := start(b, first, 3+block)
		if !ok {
			return b
		}
		b = append(b, byte(id>>8), byte(id), byte(r))
		return appendBlock(b, v, p, inAck)
	case v != V5 || r == Success:
		return append(b, first, 2, byte(id>>8), byte(id))
	default:
		return append(b, first, 3, byte(id>>8), byte(id), byte(r))
	}
}

// AppendPing appends a PINGREQ or a PINGRESP (3.12, 3.13).
func AppendPing(b []byte, t Type) []byte { return append(b, byte(t)<<4, 0) }

// AppendDisconnect appends a DISCONNECT (3.14), as short as can be. In 3.1.1 it has nothing.
// p may be nil.
func AppendDisconnect(b []byte, v Version, r Reason, p *Properties) []byte {
	if v != V5 {
		return append(b, byte(DISCONNECT)<<4, 0)
	}
	return appendReason(b, DISCONNECT, r, p, inDisconnect)
}

// AppendAuth appends an AUTH (3.15). p must have the authentication method, unless r is
// Success. p may be nil then.
func AppendAuth(b []byte, r Reason, p *Properties) []byte {
	return appendReason(b, AUTH, r, p, inAuth)
}

// appendReason appends DISCONNECT and AUTH, whose reason and properties can be left out.
func appendReason(b []byte, t Type, r Reason, p *Properties, mask uint64) []byte {
	none := p == nil || p.present&mask == 0
	switch {
	case none && r == Success:
		return append(b, byte(t)<<4, 0)
	case none && t == DISCONNECT:
		return append(b, byte(t)<<4, 1, byte(r))
	}
	block := blockSize(V5, p, mask)
	if block < 0 {
		return b
	}
	b, ok := start(b, byte(t)<<4, 1+block)
	if !ok {
		return b
	}
	return appendBlock(append(b, byte(r)), V5, p, mask)
}
