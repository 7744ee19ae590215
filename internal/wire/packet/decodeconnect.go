package packet

import "encoding/binary"

// The Connect Flags (3.1.2.3).
const (
	flagReserved   = 0x01
	flagClean      = 0x02
	flagWill       = 0x04
	flagWillRetain = 0x20
	flagPassword   = 0x40
	flagUser       = 0x80
)

// decodeConnect: 3.1.
func (p *Packet) decodeConnect(b []byte) error {
	c := &p.Connect
	c.Version = 0
	b, err := c.level(b)
	if err != nil {
		return err
	}
	if len(b) < 3 {
		return short("the connect flags and the keep alive")
	}
	flags := b[0]
	if err := c.flags(flags); err != nil {
		return err
	}
	c.KeepAlive = binary.BigEndian.Uint16(b[1:])
	b = b[3:]
	if c.Version == V5 {
		if b, err = p.Properties.take(b, inConnect, CONNECT); err != nil {
			return err
		}
		if p.Properties.Has(AuthData) && !p.Properties.Has(AuthMethod) { // 3.1.2.11.10
			return violation("3.1.2.11.10", "a CONNECT has authentication data and no authentication method")
		}
	} else {
		p.Properties.reset()
	}
	if b, err = c.payload(b, flags); err != nil {
		return err
	}
	if len(b) != 0 {
		return trailing(CONNECT, b)
	}
	if c.Version != V5 && len(c.ClientID) == 0 && !c.Clean { // 3.1.1: [MQTT-3.1.3-7], [MQTT-3.1.3-8]
		return fault(ClientIDNotValid, "MQTT-3.1.3-7",
			"the client identifier is empty and Clean Session is 0; 3.1.1 wants one of them otherwise")
	}
	return nil
}

// level takes protocol name and level (3.1.2.1, 3.1.2.2). A name that MQTT never had is an
// error to close with and say nothing [MQTT-3.1.2-1]; a level that is not served is
// UnsupportedVersion, for a CONNACK with 0x84 or in 3.1.1 0x01 [MQTT-3.1.2-2].
func (c *Connect) level(b []byte) ([]byte, error) {
	name, b, ok := cut(b)
	if !ok {
		return nil, short("the protocol name")
	}
	old := string(name) == "MQIsdp" // MQTT 3.1, level 3
	if string(name) != "MQTT" && !old {
		return nil, violation("MQTT-3.1.2-1", "the protocol name is %q; it must be %q", clip(name), "MQTT")
	}
	if len(b) == 0 {
		return nil, short("the protocol level")
	}
	c.Version = Version(b[0])
	if old || (c.Version != V311 && c.Version != V5) {
		return nil, fault(UnsupportedVersion, "MQTT-3.1.2-2",
			"the protocol is %s level %d; MQTT levels 4 (3.1.1) and 5 (5.0) are served", name, b[0])
	}
	return b[1:], nil
}

// flags reads the Connect Flags (3.1.2.3 to 3.1.2.9).
func (c *Connect) flags(f byte) error {
	c.Clean = f&flagClean != 0
	c.HasWill = f&flagWill != 0
	c.WillQoS = f >> 3 & 3
	c.WillRetain = f&flagWillRetain != 0
	c.HasUser, c.HasPassword = f&flagUser != 0, f&flagPassword != 0
	switch {
	case f&flagReserved != 0:
		return malformed("MQTT-3.1.2-3", "the reserved connect flag is set")
	case c.WillQoS == 3: // 3.1.1: [MQTT-3.1.2-14]
		return malformed("MQTT-3.1.2-12", "the will QoS is 3; 0, 1 and 2 are allowed")
	case !c.HasWill && c.WillQoS != 0: // 3.1.1: [MQTT-3.1.2-13]
		return malformed("MQTT-3.1.2-11", "the will QoS is %d and there is no will", c.WillQoS)
	case !c.HasWill && c.WillRetain: // 3.1.1: [MQTT-3.1.2-15]
		return malformed("MQTT-3.1.2-13", "the will retain flag is set and there is no will")
	case c.Version != V5 && c.HasPassword && !c.HasUser: // 3.1.1 only: [MQTT-3.1.2-22]
		return malformed("MQTT-3.1.2-22", "there is a password without a user name, which 3.1.1 does not allow")
	}
	return nil
}

// payload reads client identifier, will, user name and password, in this order
// [MQTT-3.1.3-1]; those whose flags are not set are not there (3.1.3).
func (c *Connect) payload(b []byte, flags byte) (rest []byte, err error) {
	var ok bool
	c.WillTopic, c.WillPayload, c.User, c.Password = nil, nil, nil, nil
	c.WillProperties.reset()
	if c.ClientID, b, ok = cut(b); !ok { // [MQTT-3.1.3-3]
		return nil, short("the client identifier")
	}
	if !ValidText(c.ClientID) { // [MQTT-3.1.3-4]
		return nil, textError("client identifier")
	}
	if c.HasWill {
		if b, err = c.will(b); err != nil {
			return nil, err
		}
	}
	if flags&flagUser != 0 {
		if c.User, b, ok = cut(b); !ok {
			return nil, short("the user name")
		}
		if !ValidText(c.User) { // [MQTT-3.1.3-12]; 3.1.1: [MQTT-3.1.3-11]
			return nil, textError("user name")
		}
	}
	if flags&flagPassword != 0 {
		if c.Password, b, ok = cut(b); !ok {
			return nil, short("the password")
		}
	}
	return b, nil
}

// will reads the will's properties, topic and payload (3.1.3.2 to 3.1.3.4).
func (c *Connect) will(b []byte) (rest []byte, err error) {
	if c.Version == V5 {
		if b, err = c.WillProperties.take(b, inWill, CONNECT); err != nil {
			return nil, err
		}
	}
	var ok bool
	if c.WillTopic, b, ok = cut(b); !ok {
		return nil, short("the will topic")
	}
	if err := checkTopic(c.WillTopic, "will topic"); err != nil { // [MQTT-3.1.3-11], 4.7
		return nil, err
	}
	if c.WillPayload, b, ok = cut(b); !ok {
		return nil, short("the will payload")
	}
	return b, nil
}
