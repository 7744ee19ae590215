package conformance_test

import (
	"signalbox/internal/auth"
	"signalbox/internal/wire/packet"
)

// An option changes the CONNECT that login sends.
type option func(c *packet.Connect, p *packet.Properties)

func named(id string) option {
	return func(c *packet.Connect, _ *packet.Properties) { c.ClientID = []byte(id) }
}

// lasting asks for a session that outlives the connection, and resumes one that is there.
func lasting(c *packet.Connect, p *packet.Properties) { expiring(600)(c, p) }

// expiring is lasting with the seconds that 5.0 can say.
func expiring(seconds uint32) option {
	return func(c *packet.Connect, p *packet.Properties) {
		c.Clean = false
		p.Set(packet.SessionExpiry)
		p.SessionExpiry = seconds
	}
}

func dirty(c *packet.Connect, _ *packet.Properties) { c.Clean = false }

func clean(c *packet.Connect, _ *packet.Properties) { c.Clean = true }

func wrongPassword(c *packet.Connect, _ *packet.Properties) {
	c.Password = []byte(auth.TokenPrefix + "wrong")
}

func keepAlive(seconds uint16) option {
	return func(c *packet.Connect, _ *packet.Properties) { c.KeepAlive = seconds }
}

func receiveMaximum(n uint16) option {
	return func(_ *packet.Connect, p *packet.Properties) {
		p.Set(packet.ReceiveMaximum)
		p.ReceiveMaximum = n
	}
}

func maximumPacketSize(n uint32) option {
	return func(_ *packet.Connect, p *packet.Properties) {
		p.Set(packet.MaximumPacketSize)
		p.MaximumPacketSize = n
	}
}

func will(topic, payload string, qos uint8, retain bool) option {
	return func(c *packet.Connect, _ *packet.Properties) {
		c.HasWill, c.WillTopic, c.WillPayload, c.WillQoS, c.WillRetain = true, []byte(topic), []byte(payload), qos, retain
	}
}

func willDelay(seconds uint32) option {
	return func(c *packet.Connect, _ *packet.Properties) {
		c.WillProperties.Set(packet.WillDelay)
		c.WillProperties.WillDelay = seconds
	}
}
