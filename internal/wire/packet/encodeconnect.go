package packet

import "encoding/binary"

// AppendConnect appends a CONNECT (3.1) of version c.Version. p may be nil.
func AppendConnect(b []byte, c *Connect, p *Properties) []byte {
	v := c.Version
	block := blockSize(v, p, inConnect)
	if block < 0 || max(len(c.ClientID), len(c.WillTopic), len(c.WillPayload), len(c.User), len(c.Password)) > 65535 {
		return b
	}
	flags, n := byte(0), 10+block+2+len(c.ClientID)
	if c.Clean {
		flags |= flagClean
	}
	if c.HasWill {
		flags |= flagWill | c.WillQoS<<3
		if c.WillRetain {
			flags |= flagWillRetain
		}
		will := blockSize(v, &c.WillProperties, inWill)
		if will < 0 {
			return b
		}
		n += will + 4 + len(c.WillTopic) + len(c.WillPayload)
	}
	if c.HasUser {
		flags |= flagUser
		n += 2 + len(c.User)
	}
	if c.HasPassword {
		flags |= flagPassword
		n += 2 + len(c.Password)
	}
	b, ok := start(b, byte(CONNECT)<<4, n)
	if !ok {
		return b
	}
	b = append(appendText(b, "MQTT"), byte(v), flags)
	b = binary.BigEndian.AppendUint16(b, c.KeepAlive)
	b = appendBlock(b, v, p, inConnect)
	b = appendText(b, c.ClientID)
	if c.HasWill {
		b = appendBlock(b, v, &c.WillProperties, inWill)
		b = appendText(appendText(b, c.WillTopic), c.WillPayload)
	}
	if c.HasUser {
		b = appendText(b, c.User)
	}
	if c.HasPassword {
		b = appendText(b, c.Password)
	}
	return b
}

// AppendConnack appends a CONNACK (3.2). For 3.1.1 r is a return code (RefusedVersion...), or
// any reason of 5.0, which becomes the return code that comes nearest. p may be nil.
func AppendConnack(b []byte, v Version, present bool, r Reason, p *Properties) []byte {
	flags := byte(0)
	if present {
		flags = 1
	}
	if v != V5 {
		return append(b, byte(CONNACK)<<4, 2, flags, byte(returnCode(r)))
	}
	block := blockSize(v, p, inConnack)
	if block < 0 {
		return b
	}
	b, ok := start(b, byte(CONNACK)<<4, 2+block)
	if !ok {
		return b
	}
	return appendBlock(append(b, flags, byte(r)), v, p, inConnack)
}

// returnCode is the 3.1.1 return code for a reason (3.1.1: table 3.1).
func returnCode(r Reason) Reason {
	switch {
	case r < UnspecifiedError:
		return r
	case r == UnsupportedVersion:
		return RefusedVersion
	case r == ClientIDNotValid:
		return RefusedClientID
	case r == BadUserOrPassword || r == BadAuthMethod:
		return RefusedBadUser
	case r == NotAuthorized || r == Banned:
		return RefusedNotAuthorized
	default:
		return RefusedUnavailable
	}
}

// AppendSubscribe appends a SUBSCRIBE (3.8). p may be nil.
func AppendSubscribe(b []byte, v Version, id uint16, f []Filter, p *Properties) []byte {
	b, ok := startFilters(b, SUBSCRIBE, v, id, f, p)
	if !ok {
		return b
	}
	for i := range f {
		b = append(appendText(b, f[i].Text), f[i].encode(v))
	}
	return b
}

// AppendUnsubscribe appends an UNSUBSCRIBE (3.10); of the filters the texts count. p may be nil.
func AppendUnsubscribe(b []byte, v Version, id uint16, f []Filter, p *Properties) []byte {
	b, ok := startFilters(b, UNSUBSCRIBE, v, id, f, p)
	if !ok {
		return b
	}
	for i := range f {
		b = appendText(b, f[i].Text)
	}
	return b
}

// startFilters appends what comes before the filters.
func startFilters(b []byte, t Type, v Version, id uint16, f []Filter, p *Properties) ([]byte, bool) {
	mask, each := uint64(inUnsubscribe), 2
	if t == SUBSCRIBE {
		mask, each = inSubscribe, 3
	}
	block := blockSize(v, p, mask)
	if block < 0 {
		return b, false
	}
	n := 2 + block
	for i := range f {
		if len(f[i].Text) > 65535 {
			return b, false
		}
		n += each + len(f[i].Text)
	}
	b, ok := start(b, byte(t)<<4|0x02, n)
	if !ok {
		return b, false
	}
	return appendBlock(binary.BigEndian.AppendUint16(b, id), v, p, mask), true
}

// encode gives the options' byte.
func (f *Filter) encode(v Version) byte {
	o := f.QoS
	if v != V5 {
		return o
	}
	if f.NoLocal {
		o |= optionNoLocal
	}
	if f.RetainAsPublished {
		o |= optionRetainAsPublished
	}
	return o | byte(f.Handling)<<4
}

// AppendSuback appends a SUBACK (3.9) with a reason for each filter. For 3.1.1 every reason
// from 0x80 on becomes 0x80, the only failure that it knows. p may be nil.
func AppendSuback(b []byte, v Version, id uint16, reasons []byte, p *Properties) []byte {
	b, ok := startReasons(b, SUBACK, v, id, len(reasons), p)
	if !ok {
		return b
	}
	if v == V5 {
		return append(b, reasons...)
	}
	for _, r := range reasons {
		b = append(b, min(r, byte(UnspecifiedError)))
	}
	return b
}

// AppendUnsuback appends an UNSUBACK (3.11) with a reason for each filter, which 3.1.1 does not
// have. p may be nil.
func AppendUnsuback(b []byte, v Version, id uint16, reasons []byte, p *Properties) []byte {
	if v != V5 {
		reasons = nil
	}
	b, ok := startReasons(b, UNSUBACK, v, id, len(reasons), p)
	if !ok {
		return b
	}
	return append(b, reasons...)
}

// startReasons appends what comes before the reasons.
func startReasons(b []byte, t Type, v Version, id uint16, reasons int, p *Properties) ([]byte, bool) {
	block := blockSize(v, p, inAck)
	if block < 0 {
		return b, false
	}
	b, ok := start(b, byte(t)<<4, 2+block+reasons)
	if !ok {
		return b, false
	}
	return appendBlock(binary.BigEndian.AppendUint16(b, id), v, p, inAck), true
}
