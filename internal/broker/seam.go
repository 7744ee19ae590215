package broker

import (
	"time"

	"signalbox"
	"signalbox/internal/wire/packet"
)

// Peer is a connection as the broker sees it. Its methods never block, never call the broker
// and may be called from any goroutine.
type Peer interface {
	// Write hands over encoded packets, whole ones; b is not kept. An error means that the
	// connection has ended or is about to.
	Write(b []byte) error
	// Queued is how many bytes the socket has not taken yet.
	Queued() int
	// End closes the connection: with a DISCONNECT that has the reason, if it is a 5.0 one
	// that has had its CONNACK.
	End(reason packet.Reason, words string)
}

// Roomy is a Peer that wants to know when commands find room again. CommandRoom is called once
// after a Session.Command of that connection said ErrBusy, when at most half of what may wait does;
// without locks of the broker, by one of its senders, so that it must not block. It may call
// Session.Command.
type Roomy interface{ CommandRoom() }

// Hello is a CONNECT that the gateway has admitted.
type Hello struct {
	Peer Peer
	// Owner says whose session it is, for example "d17" for device 17. Single says that the
	// owner has one session, whatever ClientID says. ClientID is never empty here: the
	// gateway assigns one where the client sent none, and sets Assigned.
	Owner, ClientID  string
	Single, Assigned bool
	// Volatile clients get no session that outlives their connection, whatever they ask for, and
	// nothing of what they publish is retained.
	Volatile bool
	// Grant says which subscriptions of a session that was there before are still allowed; the
	// others end before anything is delivered, and what waits for the session because of them
	// alone is dropped. Nil: all are. It is called with locks held and must not call the broker.
	Grant Grant
	// Connect and Properties are what the client asked for, valid during the call.
	Connect    *packet.Connect
	Properties *packet.Properties
	// KeepAlive is what the server wants in seconds, where it differs from the client's wish.
	KeepAlive    uint16
	HasKeepAlive bool
}

// Verdict is what the Taker makes of a message.
type Verdict uint8

// The verdicts.
const (
	// Taken: kept, its position is known. Pass: it is no business of the roads, route it.
	Taken Verdict = iota
	Pass
	// Duplicate: kept before; acknowledge it, and neither route nor retain it.
	Duplicate
	// Later: the log is full; present it again.
	Later
	// Refused: the message is wrong for good (a payload that is none, a device that is
	// disabled): not routed, acknowledged with the reason where the protocol can.
	Refused
	// Stop: the hub stops, or the connection is no longer its device's newest.
	Stop
)

// Taking is a message on its way to the roads.
type Taking struct {
	// Owner is the publisher's; Peer its connection, nil for the will of one that is gone.
	Owner string
	Peer  Peer
	// Message's Topic, Payload, QoS, Retain and Properties count. Valid during the call.
	Message *packet.Packet
	// Also is an entry that has to be appended in the same commit, after the Taker's own; nil
	// for none. With Taken it must have its position; with any other verdict, Duplicate among
	// them, it must not have been appended.
	Also *signalbox.Entry
	// Position is set by the Taker with Taken and Duplicate: what must be on disk before the
	// message may be acknowledged. Reason is set with Refused, and Words, which say why to a client
	// that wants to know; empty: nothing.
	Position signalbox.Position
	Reason   packet.Reason
	Words    string
	// Quiet is set by the Taker when subscribers are not to get the message. It is retained all
	// the same if its Retain says so; Session.Consume is for messages of which that is known before.
	Quiet bool
}

// Taker takes what clients publish, before it is routed. Its method never blocks; the broker
// holds a lock meanwhile, so it must not call the broker.
type Taker interface {
	Take(t *Taking) Verdict
}

// Grant says whether a subscription is allowed: Success, or why it is not.
type Grant func(filter *packet.Filter) packet.Reason

// Outcome is what a method of Session asks of its connection.
type Outcome struct {
	// Wait above 0: the packet was not taken; do not read, and present it again after that.
	Wait time.Duration
	// Close: end the connection with Reason and Words, as Peer.End does.
	Close  bool
	Reason packet.Reason
	Words  string
}
