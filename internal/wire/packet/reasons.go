package packet

// Which reason codes a packet may have: the tables of 3.2.2.2, 3.4.2.1, 3.5.2.1, 3.6.2.1,
// 3.7.2.1, 3.9.3, 3.11.3, 3.14.2.1 and 3.15.2.1.

func strangeReason(t Type, r Reason) error {
	return malformed("2.4", "a %s may not have the reason code %#02x (%s)", t, uint8(r), r)
}

func ackReason(t Type, r Reason) bool {
	if t == PUBREL || t == PUBCOMP {
		return r == Success || r == PacketIDNotFound
	}
	switch r {
	case Success, NoMatchingSubscribers, UnspecifiedError, ImplementationError, NotAuthorized, TopicNameInvalid,
		PacketIDInUse, QuotaExceeded, PayloadFormatInvalid:
		return true
	default:
		return false
	}
}

func connackReason(v Version, r Reason) bool {
	if v != V5 {
		return r <= RefusedNotAuthorized // 3.1.1: table 3.1
	}
	switch r {
	case Success, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationError, UnsupportedVersion,
		ClientIDNotValid, BadUserOrPassword, NotAuthorized, ServerUnavailable, ServerBusy, Banned, BadAuthMethod,
		TopicNameInvalid, PacketTooLarge, QuotaExceeded, PayloadFormatInvalid, RetainNotSupported, QoSNotSupported,
		UseAnotherServer, ServerMoved, ConnectionRateExceeded:
		return true
	default:
		return false
	}
}

func subackReason(t Type, v Version, r Reason) bool {
	if t == UNSUBACK {
		switch r {
		case Success, NoSubscriptionExisted, UnspecifiedError, ImplementationError, NotAuthorized, TopicFilterInvalid,
			PacketIDInUse:
			return true
		default:
			return false
		}
	}
	switch r {
	case Success, GrantedQoS1, GrantedQoS2, UnspecifiedError:
		return true
	case ImplementationError, NotAuthorized, TopicFilterInvalid, PacketIDInUse, QuotaExceeded, SharedNotSupported,
		SubscriptionIDsForbidden, WildcardsForbidden:
		return v == V5
	default:
		return false
	}
}

// disconnectReason: either side.
func disconnectReason(r Reason) bool { return clientDisconnect(r) || serverDisconnect(r) }

func clientDisconnect(r Reason) bool {
	switch r {
	case Success, DisconnectWithWill, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationError,
		BadAuthMethod, TopicNameInvalid, ReceiveMaximumExceeded, TopicAliasInvalid, PacketTooLarge,
		MessageRateTooHigh, QuotaExceeded, AdministrativeAction, PayloadFormatInvalid:
		return true
	default:
		return false
	}
}

func serverDisconnect(r Reason) bool {
	switch r {
	case Success, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationError, NotAuthorized, ServerBusy,
		ServerShuttingDown, BadAuthMethod, KeepAliveTimeout, SessionTakenOver, TopicFilterInvalid, TopicNameInvalid,
		ReceiveMaximumExceeded, TopicAliasInvalid, PacketTooLarge, MessageRateTooHigh, QuotaExceeded,
		AdministrativeAction, PayloadFormatInvalid, RetainNotSupported, QoSNotSupported, UseAnotherServer,
		ServerMoved, SharedNotSupported, ConnectionRateExceeded, MaximumConnectTime, SubscriptionIDsForbidden,
		WildcardsForbidden:
		return true
	default:
		return false
	}
}
