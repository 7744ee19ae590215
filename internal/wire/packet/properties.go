package packet

// Property is a property identifier (5.0, 2.2.2.2).
type Property uint8

// The properties.
const (
	PayloadFormat          Property = 0x01
	MessageExpiry          Property = 0x02
	ContentType            Property = 0x03
	ResponseTopic          Property = 0x08
	CorrelationData        Property = 0x09
	SubscriptionID         Property = 0x0B
	SessionExpiry          Property = 0x11
	AssignedClientID       Property = 0x12
	ServerKeepAlive        Property = 0x13
	AuthMethod             Property = 0x15
	AuthData               Property = 0x16
	RequestProblem         Property = 0x17
	WillDelay              Property = 0x18
	RequestResponse        Property = 0x19
	ResponseInformation    Property = 0x1A
	ServerReference        Property = 0x1C
	ReasonString           Property = 0x1F
	ReceiveMaximum         Property = 0x21
	TopicAliasMaximum      Property = 0x22
	TopicAlias             Property = 0x23
	MaximumQoS             Property = 0x24
	RetainAvailable        Property = 0x25
	UserProperty           Property = 0x26
	MaximumPacketSize      Property = 0x27
	WildcardAvailable      Property = 0x28
	SubscriptionIDsAllowed Property = 0x29
	SharedAvailable        Property = 0x2A
)

// Properties are the properties of one packet, or of a will. Has tells which are there; a
// member that is not there is zero or meaningless. The zero value has none.
type Properties struct {
	present uint64

	PayloadFormat     uint8  // 1: the payload is UTF-8
	RequestProblem    uint8  // 0 or 1
	RequestResponse   uint8  // 0 or 1
	MaximumQoS        uint8  // 0 or 1
	RetainAvailable   uint8  // 0 or 1
	WildcardAvailable uint8  // 0 or 1
	SubscriptionIDsOK uint8  // 0 or 1
	SharedAvailable   uint8  // 0 or 1
	ServerKeepAlive   uint16 // seconds
	ReceiveMaximum    uint16 // 1 to 65,535
	TopicAliasMaximum uint16
	TopicAlias        uint16 // 1 to 65,535
	MessageExpiry     uint32 // seconds
	SessionExpiry     uint32 // seconds; 0xFFFFFFFF: never
	WillDelay         uint32 // seconds
	MaximumPacketSize uint32 // bytes, 1 at least
	// SubscriptionID is the first of them, 1 to 268,435,455. A PUBLISH may carry several:
	// MoreSubscriptionIDs are the others; decoding into the same Properties again writes over
	// them.
	SubscriptionID      uint32
	MoreSubscriptionIDs []uint32

	ContentType         []byte
	ResponseTopic       []byte
	CorrelationData     []byte
	AssignedClientID    []byte
	AuthMethod          []byte
	AuthData            []byte
	ResponseInformation []byte
	ServerReference     []byte
	ReasonString        []byte
	// User are the user properties as they stand on the wire, one after another, each with
	// its identifier; EachUser reads them. They need not be next to each other in a decoded
	// packet: then User is a copy.
	User []byte
}

// Has reports whether the property is there.
func (p *Properties) Has(id Property) bool { return p.present&(1<<id) != 0 }

// Set says that the property is there; the caller sets the member.
func (p *Properties) Set(id Property) { p.present |= 1 << id }

// Unset says that the property is not there.
func (p *Properties) Unset(id Property) { p.present &^= 1 << id }

// None reports whether there is no property at all.
func (p *Properties) None() bool { return p.present == 0 }
