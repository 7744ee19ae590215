package packet

import "strconv"

// String gives the name that the standard uses: "PUBLISH".
func (t Type) String() string {
	switch t {
	case CONNECT:
		return "CONNECT"
	case CONNACK:
		return "CONNACK"
	case PUBLISH:
		return "PUBLISH"
	case PUBACK:
		return "PUBACK"
	case PUBREC:
		return "PUBREC"
	case PUBREL:
		return "PUBREL"
	case PUBCOMP:
		return "PUBCOMP"
	case SUBSCRIBE:
		return "SUBSCRIBE"
	case SUBACK:
		return "SUBACK"
	case UNSUBSCRIBE:
		return "UNSUBSCRIBE"
	case UNSUBACK:
		return "UNSUBACK"
	case PINGREQ:
		return "PINGREQ"
	case PINGRESP:
		return "PINGRESP"
	case DISCONNECT:
		return "DISCONNECT"
	case AUTH:
		return "AUTH"
	default:
		return "packet type " + strconv.Itoa(int(t))
	}
}

// String gives "3.1.1", "5.0", or the protocol level's number.
func (v Version) String() string {
	switch v {
	case V311:
		return "3.1.1"
	case V5:
		return "5.0"
	default:
		return "protocol level " + strconv.Itoa(int(v))
	}
}

// String gives the name in words: "topic alias".
func (p Property) String() string {
	switch p {
	case PayloadFormat:
		return "payload format indicator"
	case MessageExpiry:
		return "message expiry interval"
	case ContentType:
		return "content type"
	case ResponseTopic:
		return "response topic"
	case CorrelationData:
		return "correlation data"
	case SubscriptionID:
		return "subscription identifier"
	case SessionExpiry:
		return "session expiry interval"
	case AssignedClientID:
		return "assigned client identifier"
	case ServerKeepAlive:
		return "server keep alive"
	case AuthMethod:
		return "authentication method"
	case AuthData:
		return "authentication data"
	case RequestProblem:
		return "request problem information"
	case WillDelay:
		return "will delay interval"
	case RequestResponse:
		return "request response information"
	case ResponseInformation:
		return "response information"
	case ServerReference:
		return "server reference"
	case ReasonString:
		return "reason string"
	case ReceiveMaximum:
		return "receive maximum"
	case TopicAliasMaximum:
		return "topic alias maximum"
	case TopicAlias:
		return "topic alias"
	case MaximumQoS:
		return "maximum QoS"
	case RetainAvailable:
		return "retain available"
	case UserProperty:
		return "user property"
	case MaximumPacketSize:
		return "maximum packet size"
	case WildcardAvailable:
		return "wildcard subscription available"
	case SubscriptionIDsAllowed:
		return "subscription identifiers available"
	case SharedAvailable:
		return "shared subscription available"
	default:
		return "property " + strconv.Itoa(int(p))
	}
}

// section is where 5.0 says what values the property has.
func (p Property) section() string {
	switch p {
	case PayloadFormat:
		return "3.3.2.3.2"
	case RequestResponse:
		return "3.1.2.11.6"
	case RequestProblem:
		return "3.1.2.11.7"
	case ReceiveMaximum:
		return "3.1.2.11.3"
	case MaximumPacketSize:
		return "3.1.2.11.4"
	case MaximumQoS:
		return "3.2.2.3.4"
	case RetainAvailable:
		return "3.2.2.3.5"
	case WildcardAvailable:
		return "3.2.2.3.11"
	case SubscriptionIDsAllowed:
		return "3.2.2.3.12"
	case SharedAvailable:
		return "3.2.2.3.13"
	case TopicAlias:
		return "MQTT-3.3.2-8"
	default:
		return "2.2.2.2"
	}
}

// String gives the name that 5.0 has for the code (2.4), in lower case but for names.
func (r Reason) String() string {
	if r < 0x80 {
		return r.good()
	}
	names := [...]string{
		"unspecified error", "malformed packet", "protocol error", "implementation specific error",
		"unsupported protocol version", "client identifier not valid", "bad user name or password",
		"not authorized", "server unavailable", "server busy", "banned", "server shutting down",
		"bad authentication method", "keep alive timeout", "session taken over", "topic filter invalid",
		"topic name invalid", "packet identifier in use", "packet identifier not found",
		"receive maximum exceeded", "topic alias invalid", "packet too large", "message rate too high",
		"quota exceeded", "administrative action", "payload format invalid", "retain not supported",
		"QoS not supported", "use another server", "server moved", "shared subscriptions not supported",
		"connection rate exceeded", "maximum connect time", "subscription identifiers not supported",
		"wildcard subscriptions not supported",
	}
	if i := int(r) - 0x80; i < len(names) {
		return names[i]
	}
	return "reason code " + strconv.Itoa(int(r))
}

func (r Reason) good() string {
	switch r {
	case Success:
		return "success"
	case GrantedQoS1:
		return "granted QoS 1"
	case GrantedQoS2:
		return "granted QoS 2"
	case DisconnectWithWill:
		return "disconnect with will message"
	case NoMatchingSubscribers:
		return "no matching subscribers"
	case NoSubscriptionExisted:
		return "no subscription existed"
	case ContinueAuthentication:
		return "continue authentication"
	case ReAuthenticate:
		return "re-authenticate"
	default:
		return "reason code " + strconv.Itoa(int(r))
	}
}
