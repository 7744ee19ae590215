package sim

import (
	"fmt"
	"time"

	"signalbox"
)

// SwarmConfig says what connections a Swarm holds.
type SwarmConfig struct {
	// Addr is the IP address and port of the listener.
	Addr string
	// Credentials gives one connection each.
	Credentials []Credential
	// Protocol is the device protocol spoken. ProtocolNone logs in nowhere: the connections are ready when they are
	// upgraded, for a sink that discards everything.
	Protocol signalbox.Protocol
	// Sources is over how many loopback addresses the connections are spread; default one per 2,500.
	Sources int
	// Workers is how many goroutines with an epoll of their own share the connections; default 1.
	Workers int
	// InFlight bounds the connections of a worker that are being made at the same time; default 512.
	InFlight int
	// Seq gives each message a sequence number (version 2), so that the hub answers saved.
	Seq bool
	// Stamp gives each message over WebSocket the field sent_us: when it was made, Unix µs, 16 digits.
	Stamp bool
	// MQTT5 is MQTT 5.0 instead of 3.1.1, QoS that of messages over it: 0, or 1, which the server acknowledges. Subscribe
	// has each connection subscribe to its device's commands, QoS 1, before it is ready.
	MQTT5     bool
	QoS       uint8
	Subscribe bool
}

// Load is telemetry to be sent by the connections in turn.
type Load struct {
	// Duration is how long to send; Messages how many each connection sends. One of them is needed; both end it.
	Duration time.Duration
	Messages int
	// Rate is messages per second, all connections together, on a fixed schedule whatever the hub does (open loop).
	// 0 means as fast as the hub takes them.
	Rate float64
	// Bunch is how many messages go in one write; default 1.
	Bunch int
	// Window bounds, where Rate is 0, how many writes may be under way, as a share of the connections: pings among
	// the messages tell how far the hub has come. With Bunch 1 and Window 0.9 a hub finds one message per wake-up.
	// Default 0.9.
	Window float64
	// Unacked bounds, over MQTT with QoS 1, how many messages of a connection wait for their PUBACK; default 16. Where Rate
	// is 0, a connection sends again when half of them are free, as many as are free in one write, whatever Bunch says.
	Unacked int
	// Tolerate goes on when connections are lost; else that is an error.
	Tolerate bool
}

// Sent is what became of a Load.
type Sent struct {
	Messages int64         // written
	Bytes    int64         // of them, frames with headers
	Took     time.Duration // from the first write until the hub has answered a ping behind the last message, or (QoS 1) has acknowledged it
	Sending  time.Duration // of which was sending
}

// SwarmStats are counters of a Swarm since its start.
type SwarmStats struct {
	Ready    int64 `json:"ready"` // gauge: connections that are logged in
	Failures int64 `json:"failures"`
	Lost     int64 `json:"lost"`     // connections that ended without being dropped by this side
	Messages int64 `json:"messages"` // telemetry written
	Saved    int64 `json:"saved"`    // saved frames or PUBACKs heard
	Commands int64 `json:"commands"` // commands answered
	Refusals int64 `json:"refusals"` // error answers heard
}

// Progress is how far one connection's device has come.
type Progress struct {
	Name  string
	Sent  uint64 // the counter of its latest message, from 1
	Saved uint64 // the highest that the hub called saved (with SwarmConfig.Seq) or acknowledged (QoS 1)
}

func (c *SwarmConfig) check() error {
	if len(c.Credentials) == 0 {
		return fmt.Errorf("a swarm needs at least one connection")
	}
	if c.Protocol > signalbox.ProtocolMQTT {
		return fmt.Errorf("a swarm cannot speak protocol %d; allowed are 0 (none), 1, 2 and %d (MQTT)", c.Protocol, signalbox.ProtocolMQTT)
	}
	if c.QoS > 1 || c.Protocol != signalbox.ProtocolMQTT && (c.QoS > 0 || c.Subscribe || c.MQTT5) {
		return fmt.Errorf("quality of service %d and subscriptions are for MQTT alone, and 1 is the highest", c.QoS)
	}
	if c.Seq && c.Protocol != signalbox.ProtocolV2 {
		return fmt.Errorf("sequence numbers need protocol version 2, not %d", c.Protocol)
	}
	if c.Sources <= 0 {
		c.Sources = len(c.Credentials)/2500 + 1
	}
	c.Workers = orDefault(c.Workers, 1)
	c.InFlight = orDefault(c.InFlight, 512)
	return nil
}

// Checksum is the field «sum» of the n-th message of a Swarm's device: what is stored can be checked by content.
func Checksum(device string, n uint64) string { return string(appendSum(nil, hashName(device), n)) }

// What stands for the digits that change in a message's template.
const (
	counterDigits = "1000000000"
	sumDigits     = "00000000"
	stampDigits   = "1700000000000000"
)

const hexDigits = "0123456789abcdef"

func appendSum(b []byte, device, n uint64) []byte {
	x := sum(device, n)
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, hexDigits[x>>shift&15])
	}
	return b
}

// sum mixes its arguments (the finalizer of MurmurHash3, a public formula).
func sum(device, n uint64) uint32 {
	x := device ^ n*0x9e3779b97f4a7c15
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return uint32(x)
}

// base is added to counters on the wire, so that all have ten digits.
const base = 1_000_000_000

// Counter gives the number of a Swarm's message, from 1, by its fields «n» or «seq»; 0 stays 0.
func Counter(seq uint64) uint64 {
	if seq < base {
		return 0
	}
	return seq - base
}
