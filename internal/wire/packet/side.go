package packet

// FromClient says what is wrong with a decoded packet as one that a client has sent: a type,
// a reason code or a property that only servers send (table 2-1, 3.3.4, 3.14.2, 3.15.2.1).
// The error is an *[Error].
func (p *Packet) FromClient() error {
	switch p.Type {
	case CONNACK, SUBACK, UNSUBACK, PINGRESP:
		return violation("2.1.2", "a client sent a %s; only servers do", p.Type)
	case PUBLISH:
		if p.Properties.Has(SubscriptionID) {
			return violation("MQTT-3.3.4-6", "a client sent a PUBLISH with a subscription identifier; only servers do")
		}
	case DISCONNECT:
		if !clientDisconnect(p.Reason) {
			return violation("3.14.2.1", "a client sent a DISCONNECT with the reason code %#02x (%s); only servers do", uint8(p.Reason), p.Reason)
		}
		if p.Properties.Has(ServerReference) {
			return violation("3.14.2.2.5", "a client sent a DISCONNECT with a server reference; only servers do")
		}
	case AUTH:
		if p.Reason == Success {
			return violation("3.15.2.1", "a client sent an AUTH that says success; only servers do")
		}
	default:
	}
	return nil
}

// FromServer says what is wrong with a decoded packet as one that a server has sent on a
// connection with version v, see [Packet.FromClient].
func (p *Packet) FromServer(v Version) error {
	switch p.Type {
	case CONNECT, SUBSCRIBE, UNSUBSCRIBE, PINGREQ:
		return violation("2.1.2", "a server sent a %s; only clients do", p.Type)
	case DISCONNECT:
		if v != V5 { // 3.1.1: 3.14
			return violation("2.1.2", "a server sent a DISCONNECT; in 3.1.1 only clients do")
		}
		if !serverDisconnect(p.Reason) {
			return violation("3.14.2.1", "a server sent a DISCONNECT with the reason code %#02x (%s); only clients do", uint8(p.Reason), p.Reason)
		}
		if p.Properties.Has(SessionExpiry) {
			return violation("MQTT-3.14.2-2", "a server sent a DISCONNECT with a session expiry interval; only clients do")
		}
	case AUTH:
		if p.Reason == ReAuthenticate {
			return violation("3.15.2.1", "a server sent an AUTH that asks for re-authentication; only clients do")
		}
	default:
	}
	return nil
}
