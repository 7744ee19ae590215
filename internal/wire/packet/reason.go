package packet

// Reason is a reason code of 5.0 (2.4), or a return code of a 3.1.1 CONNACK or SUBACK.
type Reason uint8

// The reason codes.
const (
	Success                  Reason = 0x00 // also NormalDisconnection and GrantedQoS0
	GrantedQoS1              Reason = 0x01
	GrantedQoS2              Reason = 0x02
	DisconnectWithWill       Reason = 0x04
	NoMatchingSubscribers    Reason = 0x10
	NoSubscriptionExisted    Reason = 0x11
	ContinueAuthentication   Reason = 0x18
	ReAuthenticate           Reason = 0x19
	UnspecifiedError         Reason = 0x80 // also the failure of a 3.1.1 SUBACK
	MalformedPacket          Reason = 0x81
	ProtocolError            Reason = 0x82
	ImplementationError      Reason = 0x83
	UnsupportedVersion       Reason = 0x84
	ClientIDNotValid         Reason = 0x85
	BadUserOrPassword        Reason = 0x86
	NotAuthorized            Reason = 0x87
	ServerUnavailable        Reason = 0x88
	ServerBusy               Reason = 0x89
	Banned                   Reason = 0x8A
	ServerShuttingDown       Reason = 0x8B
	BadAuthMethod            Reason = 0x8C
	KeepAliveTimeout         Reason = 0x8D
	SessionTakenOver         Reason = 0x8E
	TopicFilterInvalid       Reason = 0x8F
	TopicNameInvalid         Reason = 0x90
	PacketIDInUse            Reason = 0x91
	PacketIDNotFound         Reason = 0x92
	ReceiveMaximumExceeded   Reason = 0x93
	TopicAliasInvalid        Reason = 0x94
	PacketTooLarge           Reason = 0x95
	MessageRateTooHigh       Reason = 0x96
	QuotaExceeded            Reason = 0x97
	AdministrativeAction     Reason = 0x98
	PayloadFormatInvalid     Reason = 0x99
	RetainNotSupported       Reason = 0x9A
	QoSNotSupported          Reason = 0x9B
	UseAnotherServer         Reason = 0x9C
	ServerMoved              Reason = 0x9D
	SharedNotSupported       Reason = 0x9E
	ConnectionRateExceeded   Reason = 0x9F
	MaximumConnectTime       Reason = 0xA0
	SubscriptionIDsForbidden Reason = 0xA1
	WildcardsForbidden       Reason = 0xA2
)

// The return codes of a 3.1.1 CONNACK (3.2.2.3).
const (
	RefusedVersion       Reason = 1
	RefusedClientID      Reason = 2
	RefusedUnavailable   Reason = 3
	RefusedBadUser       Reason = 4
	RefusedNotAuthorized Reason = 5
)
