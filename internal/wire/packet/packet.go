package packet

// Version is the protocol level of a connection (3.1.2.2 of both standards).
type Version uint8

// The versions.
const (
	V311 Version = 4
	V5   Version = 5
)

// Type is the control packet type (2.1.2).
type Type uint8

// The control packet types; AUTH exists in 5.0 alone.
const (
	CONNECT     Type = 1
	CONNACK     Type = 2
	PUBLISH     Type = 3
	PUBACK      Type = 4
	PUBREC      Type = 5
	PUBREL      Type = 6
	PUBCOMP     Type = 7
	SUBSCRIBE   Type = 8
	SUBACK      Type = 9
	UNSUBSCRIBE Type = 10
	UNSUBACK    Type = 11
	PINGREQ     Type = 12
	PINGRESP    Type = 13
	DISCONNECT  Type = 14
	AUTH        Type = 15
)

// Packet is one control packet. Which members mean something depends on Type; the others
// may hold what an earlier packet left there. Byte slices lie in the decoded input; Filters and
// Properties.MoreSubscriptionIDs are written over when the Packet decodes the next one.
type Packet struct {
	Type Type
	// ID is the packet identifier (2.2.1) of PUBLISH with QoS 1 and 2, of the four
	// acknowledgements, SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK.
	ID uint16
	// Reason is that of CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, DISCONNECT and AUTH. For
	// 3.1.1 CONNACK it holds the return code.
	Reason Reason
	// Dup, QoS and Retain are the flags of PUBLISH; Topic may be empty when a topic alias
	// stands for it (5.0).
	Dup, Retain    bool
	QoS            uint8
	Topic, Payload []byte
	// SessionPresent is CONNACK's.
	SessionPresent bool
	// Connect is what CONNECT says.
	Connect Connect
	// Filters are those of SUBSCRIBE and UNSUBSCRIBE, in order, one at least.
	Filters []Filter
	// Reasons are those of SUBACK and UNSUBACK (none in a 3.1.1 UNSUBACK), a byte each.
	Reasons []byte
	// Properties are the packet's own; none for 3.1.1.
	Properties Properties
}

// Connect is the content of CONNECT (3.1).
type Connect struct {
	Version Version
	// Clean is Clean Session (3.1.1) or Clean Start (5.0).
	Clean bool
	// KeepAlive is in seconds, 0 for none.
	KeepAlive uint16
	// ClientID is UTF-8, possibly empty.
	ClientID []byte
	// HasUser and HasPassword tell a member that is there and empty from a missing one.
	HasUser, HasPassword bool
	User, Password       []byte
	// HasWill says that the four that follow mean something.
	HasWill        bool
	WillRetain     bool
	WillQoS        uint8
	WillTopic      []byte
	WillPayload    []byte
	WillProperties Properties
}

// Filter is one topic filter of SUBSCRIBE with its options, or of UNSUBSCRIBE without
// (3.8.3.1).
type Filter struct {
	Text []byte
	QoS  uint8
	// NoLocal, RetainAsPublished and Handling are 5.0's; zero for 3.1.1.
	NoLocal, RetainAsPublished bool
	Handling                   RetainHandling
}

// RetainHandling says when retained messages are sent for a subscription (3.8.3.1).
type RetainHandling uint8

// The ways to handle retained messages.
const (
	RetainSend      RetainHandling = 0 // at each subscribe
	RetainSendIfNew RetainHandling = 1 // only if the subscription did not exist
	RetainNever     RetainHandling = 2
)
